//! What a message costs: no allocation to index a REGISTER, two to change and write it. With
//! `--release -- --nocapture` also the time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use common::limits::Limits;
use common::sip::header::Name;
use common::sip::message::{Message, Request};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, and a count of what this thread asks of it.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATIONS.with(Cell::get);
    let result = work();
    (ALLOCATIONS.with(Cell::get) - before, result)
}

/// 23 header lines, 1.9 kB: what a phone sends when it answers a challenge.
fn register() -> Bytes {
    let domain = "ims.mnc001.mcc001.3gppnetwork.org";
    let offer = "ipsec-3gpp;alg=hmac-sha-1-96;prot=esp;mod=trans;ealg=aes-cbc;spi-c=26157848;\
                 spi-s=69326023;port-c=31100;port-s=31800";
    let lines = [
        format!("REGISTER sip:{domain} SIP/2.0"),
        "Via: SIP/2.0/UDP [2001:db8:1::7]:31800;branch=z9hG4bKX5fcb1DXaWVqLBkaaGUO;rport".to_owned(),
        "Max-Forwards: 70".to_owned(),
        "Route: <sip:[2001:db8:2::1]:9900;lr>".to_owned(),
        format!("From: <sip:001010123456789@{domain}>;tag=W4fcb1D"),
        format!("To: <sip:001010123456789@{domain}>"),
        "Call-ID: X1fcb1DXa@[2001:db8:1::7]".to_owned(),
        "CSeq: 2 REGISTER".to_owned(),
        "Contact: <sip:001010123456789@[2001:db8:1::7]:31800>;expires=600000;+sip.instance=\"<urn:gsma:imei:\
         00101000-000001-0>\";audio;+g.3gpp.smsip;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\""
            .to_owned(),
        "Expires: 600000".to_owned(),
        "P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=0010100010019B01".to_owned(),
        "Supported: path,sec-agree,gruu".to_owned(),
        "Allow: INVITE,ACK,OPTIONS,BYE,CANCEL,UPDATE,PRACK,NOTIFY,MESSAGE,REFER".to_owned(),
        "Require: sec-agree".to_owned(),
        "Proxy-Require: sec-agree".to_owned(),
        format!("Security-Client: {offer},{offer},{offer}"),
        format!("Security-Verify: {offer}"),
        format!(
            "Authorization: Digest username=\"001010123456789@{domain}\",realm=\"{domain}\",uri=\"sip:{domain}\",\
             nonce=\"nTD5NZXcGXhEIzR7Y5CL7l6EMyJYfRERnE3UeQOjxgs=\",algorithm=AKAv1-MD5,\
             response=\"01b656a14d1bc707e362cfb27a8accdb\",qop=auth,nc=00000001,cnonce=\"0a4f113b\""
        ),
        "P-Visited-Network-ID: \"vims.example\"".to_owned(),
        "P-Charging-Vector: icid-value=\"AyretyU0dm+6O2IrT5tAFrbHLso=023551024\"".to_owned(),
        "User-Agent: Example/1.0".to_owned(),
        "X-Unknown: something".to_owned(),
        "Date: Sat, 13 Nov 2010 23:29:00 GMT".to_owned(),
        "Content-Length: 0".to_owned(),
    ];
    let mut received = BytesMut::from((lines.join("\r\n") + "\r\n\r\n").as_bytes());
    received.split().freeze()
}

fn parse(bytes: Bytes) -> Request {
    match Message::parse(bytes, &Limits::default()) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// What a proxy does: a Route less, a Via more, one hop less.
fn forward(request: &mut Request) -> Bytes {
    let headers = request.headers_mut();
    headers.pop_value(Name::Route);
    headers.set(Name::MaxForwards, "69");
    headers.push_front(Name::Via, "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK0123456789abcdef");
    request.to_bytes()
}

#[test]
fn allocates_little() {
    let bytes = register();
    assert!((1800..2100).contains(&bytes.len()), "{}", bytes.len());
    let (count, mut request) = allocations(|| parse(bytes.clone()));
    assert_eq!(count, 0, "indexing");
    let (count, ()) = allocations(|| {
        request.check().unwrap();
        black_box((
            request.cseq(),
            request.call_id(),
            request.from_tag(),
            request.headers().branch(),
        ));
    });
    assert_eq!(count, 0, "checking");
    // The popped value, the side buffer, the written message (two, as it is shared).
    let (count, _) = allocations(|| forward(&mut request));
    assert!(count <= 4, "forwarding: {count}");
}

#[test]
fn takes_little_time() {
    let bytes = register();
    // Many short runs: the best of them had the processor for itself.
    let rounds = 500;
    let time = |name: &str, work: &mut dyn FnMut()| {
        let run = |_| {
            let start = Instant::now();
            (0..rounds).for_each(|_| work());
            start.elapsed().as_nanos() as u64 / rounds
        };
        let best = (0..200).map(run).min().unwrap();
        println!("{name}: {best} ns");
        best
    };
    let index = time("index", &mut || _ = black_box(parse(bytes.clone())));
    let request = parse(bytes.clone());
    let copy = time("clone", &mut || _ = black_box(request.clone()));
    let forward = time("clone and forward", &mut || _ = black_box(forward(&mut request.clone())));
    let check = time("check", &mut || request.check().unwrap());
    // Ten times the aims: machines differ, and debug builds are slower.
    let slack = if cfg!(debug_assertions) { 100 } else { 10 };
    assert!(index < 500 * slack && forward < 300 * slack, "{index} {copy} {forward} {check}");
}
