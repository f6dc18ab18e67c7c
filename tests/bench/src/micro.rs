//! Small things: one message, one vector. Time per call is the median of rounds; what else runs on the
//! machine moves it, so compare within one run only.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::aka::vector::{Algorithm, Sqn};
use common::cx::{Answer, AuthDataItem, Maa, Mar, Outcome, Request as CxRequest};
use common::diameter::message::{Builder, Header, Message as DiameterMessage};
use common::limits::Limits;
use common::secret::Secret;
use common::sip::header::Name;
use common::sip::message::{Message, Request};

const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(40);

/// Median time of one call.
pub fn time<T>(mut call: impl FnMut() -> T) -> Duration {
    let began = Instant::now();
    let mut calls = 0_u32;
    while began.elapsed() < ROUND {
        black_box(call());
        calls += 1;
    }
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..calls {
                black_box(call());
            }
            began.elapsed() / calls
        })
        .collect();
    rounds.sort();
    rounds[ROUNDS / 2]
}

fn line(what: &str, took: Duration) {
    println!("{what:<58} {:>9.3} us", took.as_secs_f64() * 1e6);
}

/// A protected REGISTER as a present-day phone sends it, of our own making.
pub fn phone_register() -> Bytes {
    let home = "ims.mnc001.mcc001.3gppnetwork.org";
    let offers: Vec<String> = ["aes-cbc", "null", "des-ede3-cbc"]
        .iter()
        .map(|ealg| {
            format!(
                "ipsec-3gpp;alg=hmac-sha-1-96;ealg={ealg};prot=esp;mod=trans;spi-c=3110567841;\
                 spi-s=3110567842;port-c=31400;port-s=31401"
            )
        })
        .collect();
    let offers = offers.join(",");
    Bytes::from(format!(
        "REGISTER sip:{home} SIP/2.0\r\n\
         Via: SIP/2.0/UDP 10.45.0.2:31401;branch=z9hG4bK-6e1f0c2a;rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:001010000000001@{home}>;tag=4fd21c\r\n\
         To: <sip:001010000000001@{home}>\r\n\
         Call-ID: 7c2f4d61-90aa@10.45.0.2\r\n\
         CSeq: 2 REGISTER\r\n\
         Contact: <sip:10.45.0.2:31401>;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\";\
         +g.3gpp.smsip;+sip.instance=\"<urn:gsma:imei:35209900-176148-0>\";expires=600000\r\n\
         Expires: 600000\r\n\
         Require: sec-agree\r\n\
         Proxy-Require: sec-agree\r\n\
         Supported: path, gruu, sec-agree\r\n\
         Allow: INVITE, ACK, OPTIONS, CANCEL, BYE, UPDATE, INFO, REFER, NOTIFY, MESSAGE, PRACK\r\n\
         Security-Client: {offers}\r\n\
         Security-Verify: {offers}\r\n\
         P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=0010100010019B01\r\n\
         User-Agent: Example Phone/1.0\r\n\
         Authorization: Digest username=\"001010000000001@{home}\",realm=\"{home}\",\
         nonce=\"I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M=\",uri=\"sip:{home}\",\
         response=\"418d1039b6be114ea40bc36db13f0781\",algorithm=AKAv1-MD5,qop=auth,\
         nc=00000001,cnonce=\"0a4f113b\"\r\n\
         Content-Length: 0\r\n\r\n"
    ))
}

fn forwarded(request: &Request) -> Bytes {
    let mut request = request.clone();
    let headers = request.headers_mut();
    headers.pop_value(Name::Route);
    headers.set(Name::MaxForwards, "69");
    headers.push_front(Name::Via, "SIP/2.0/UDP pcscf.example.org;branch=z9hG4bK-1-2-3");
    request.to_bytes()
}

fn multimedia_auth_answer() -> Answer {
    Answer::Maa(Maa {
        outcome: Outcome::SUCCESS,
        user_name: Some("001010000000001@ims.mnc001.mcc001.3gppnetwork.org".into()),
        public_identity: Some("sip:001010000000001@ims.mnc001.mcc001.3gppnetwork.org".into()),
        items: vec![AuthDataItem {
            sip_item_number: Some(1),
            scheme: "Digest-AKAv1-MD5".into(),
            sip_authenticate: Bytes::from_static(&[0xA5; 32]),
            sip_authorization: Secret::new(vec![0x5A; 8]),
            confidentiality_key: Some(Secret::new([1; 16])),
            integrity_key: Some(Secret::new([2; 16])),
            ..AuthDataItem::default()
        }],
    })
}

fn multimedia_auth_request() -> CxRequest {
    CxRequest::Mar(Mar {
        user_name: "001010000000001@ims.mnc001.mcc001.3gppnetwork.org".into(),
        public_identity: "sip:001010000000001@ims.mnc001.mcc001.3gppnetwork.org".into(),
        server_name: "sip:scscf1.ims.mnc001.mcc001.3gppnetwork.org".into(),
        sip_number_auth_items: 1,
        scheme: "Digest-AKAv1-MD5".into(),
        sip_authorization: None,
    })
}

fn encoded(flags: u8, command: u32, fill: impl Fn(&mut Builder)) -> Bytes {
    let header = Header { flags, command, application: 16_777_216, hop_by_hop: 7, end_to_end: 9 };
    let mut builder = Builder::new(header);
    fill(&mut builder);
    builder.finish()
}

/// Prints the table.
pub fn run() {
    println!("# Small things, median of {ROUNDS} rounds");
    let limits = Limits::default();
    let own = phone_register();
    sip("REGISTER of a phone", &own, &limits);
    let material = material();
    if material.is_empty() {
        println!("shared/material is not there: messages of real phones skipped");
    }
    for (name, bytes) in &material {
        sip(name, bytes, &limits);
    }
    let answer = multimedia_auth_answer();
    let encode = || encoded(0x40, 303, |builder| answer.encode(builder));
    let bytes = encode();
    line(&format!("MAA, {} octets: encode", bytes.len()), time(encode));
    line(
        "MAA: decode into its fields",
        time(|| {
            let message = DiameterMessage::decode(bytes.clone(), &limits).expect("a message");
            Answer::decode(&message).expect("an MAA")
        }),
    );
    let request = multimedia_auth_request();
    line("MAR: encode", time(|| encoded(0xC0, 303, |builder| request.encode(builder))));
    let milenage = Algorithm::Milenage { k: Secret::new([0x46; 16]), opc: Secret::new([0xCD; 16]) };
    let took = time(|| milenage.vector([0x23; 16], Sqn(32), [0, 0]));
    line("MILENAGE vector", took);
    println!("{:<58} {:>9.0} /s", "MILENAGE vectors on one core", 1.0 / took.as_secs_f64());
    let tuak = Algorithm::Tuak {
        k: Secret::new(vec![0xAB; 16]),
        topc: Secret::new([0x55; 32]),
        iterations: 1,
        res_octets: 8,
    };
    line("TUAK vector", time(|| tuak.vector([0x23; 16], Sqn(32), [0, 0])));
}

fn sip(name: &str, bytes: &Bytes, limits: &Limits) {
    let parse = time(|| Message::parse(bytes.clone(), limits));
    let Ok(message) = Message::parse(bytes.clone(), limits) else { return };
    line(&format!("{name}, {} octets: index", bytes.len()), parse);
    if let Message::Request(request) = message {
        line(
            &format!("{name}: forward (Via, Max-Forwards) and write"),
            time(|| forwarded(&request)),
        );
    }
}

/// A few messages of real phones, where they are at hand.
fn material() -> Vec<(String, Bytes)> {
    let mut root = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let folder = loop {
        let candidate = root.join("shared/material/real-messages");
        if candidate.is_dir() {
            break candidate;
        }
        if !root.pop() {
            return Vec::new();
        }
    };
    let mut found: Vec<(String, Bytes)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_wanted = name.contains("REGISTER-2") || name.contains("INVITE");
            let bytes = is_wanted.then(|| std::fs::read(entry.path()).ok())??;
            Some((name.trim_end_matches(".sip").to_owned(), bytes.into()))
        })
        .collect();
    found.sort();
    found
}
