//! Mutated messages through every view (nothing panics, what is written reads the same), and the
//! same messages through `rsip`, which must see what we see wherever it sees anything.

use bytes::Bytes;
use common::limits::Limits;
use common::sip::address::{Address, Contact};
use common::sip::auth::{DigestParameters, credentials_for};
use common::sip::framer::{Frame, Framer};
use common::sip::header::Name;
use common::sip::message::{Headers, Message, Request};
use common::sip::p_headers::{AccessNetworkInfo, ChargingVector, visited_network};
use common::sip::security::{Mechanism, is_same_list, mechanisms};
use common::sip::uri::{HostPort, Uri};
use common::sip::via::Via;
use proptest::prelude::*;
use proptest::sample::Index;
use rsip::prelude::*;

const REGISTER: &str = "REGISTER sip:ims.mnc001.mcc001.3gppnetwork.org SIP/2.0\r\n\
Via: SIP/2.0/UDP 192.0.2.7:5060;branch=z9hG4bK7a;rport;keep\r\n\
Max-Forwards: 70\r\n\
From: \"A, \\\"B\\\" <c>\" <sip:001010000000001@ims.mnc001.mcc001.3gppnetwork.org>;tag=8f1\r\n\
To: <sip:001010000000001@ims.mnc001.mcc001.3gppnetwork.org>\r\n\
Contact: <sip:001010000000001@192.0.2.7:5060;transport=udp>;expires=600000;\
+sip.instance=\"<urn:gsma:imei:00101000-000001-0>\";+g.3gpp.smsip;q=0.5\r\n\
Call-ID: 8f1a@192.0.2.7\r\n\
CSeq: 25 REGISTER\r\n\
Require: sec-agree\r\n\
Proxy-Require: sec-agree\r\n\
Supported: path, gruu,\r\n sec-agree\r\n\
Security-Client: ipsec-3gpp; alg=hmac-sha-1-96; ealg=aes-cbc; spi-c=98; spi-s=99; port-c=31100; \
port-s=31800, ipsec-3gpp;alg=hmac-md5-96;q=0.1;spi-c=98;spi-s=99;port-c=31100;port-s=31800\r\n\
Authorization: Digest username=\"001010000000001@ims.mnc001.mcc001.3gppnetwork.org\",\
realm=\"ims.mnc001.mcc001.3gppnetwork.org\",nonce=\"\",uri=\"sip:h\",response=\"\"\r\n\
P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=0010100010019B01\r\n\
P-Charging-Vector: icid-value=\"a+b=1\";orig-ioi=\"Type 1vims.net\"\r\n\
P-Visited-Network-ID: \"vims.net\"\r\n\
Route: <sip:[2001:db8::1]:4060;lr>, <sip:s.example;lr>\r\n\
X-Unknown: \tkept\r\n\
Content-Length: 0\r\n\r\n";

const RESPONSE: &str = "SIP/2.0 200 OK\r\n\
v: SIP/2.0/TCP [2001:db8::9]:6050;received=2001:db8::5;branch=z9hG4bK2, SIP/2.0/UDP h;branch=1\r\n\
f: sip:a@h;tag=1\r\n\
t: <tel:+1-555-0100;phone-context=x>;tag=2\r\n\
i: x\r\n\
CSeq: 1 INVITE\r\n\
m: *\r\n\
P-Associated-URI: <sip:a@h>, <tel:+15550100>\r\n\
WWW-Authenticate: Digest realm=\"h\", nonce=\"AAEC\", qop=\"auth,auth-int\", algorithm=AKAv1-MD5\r\n\
Security-Server: ipsec-3gpp;q=0.1;alg=hmac-sha-1-96;spi-c=1;spi-s=2;port-c=3;port-s=4\r\n\
c: application/sdp\r\n\
l: 4\r\n\r\nv=0\n";

const INVITE: &str = "INVITE tel:+15550100;phone-context=h SIP/2.0\n\
Via : SIP / 2.0 / UDP h ; branch = z9hG4bK1\n\
From: \"x\" <sips:a;b@h?c=d>;tag=1\n\
To: <urn:service:sos>\n\
Call-ID: y\n\
CSeq: 2147483647\n INVITE\n\
\n\0\x01body";

/// What mutations are made of.
const PIECES: [&str; 36] = [
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    ",",
    ";",
    ":",
    "=",
    "\"",
    "\\",
    "<",
    ">",
    "@",
    "/",
    "*",
    "?",
    "%",
    "%4",
    "%41",
    "[",
    "]",
    "::",
    "0",
    "65536",
    "4294967296",
    "-1",
    "\0",
    "\u{e9}",
    "Digest ",
    "\r\n ",
    "Via:",
    "l: 3\r\n",
    "sip:",
    "SIP/2.0",
    "\r\n\r\n",
];

#[derive(Clone, Debug)]
enum Mutation {
    Insert(Index, Index),
    Byte(Index, u8),
    Delete(Index, Index),
    Double(Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), at()).prop_map(|(place, piece)| Mutation::Insert(place, piece)),
        2 => (at(), any::<u8>()).prop_map(|(place, byte)| Mutation::Byte(place, byte)),
        2 => (at(), at()).prop_map(|(from, to)| Mutation::Delete(from, to)),
        1 => (at(), at()).prop_map(|(from, to)| Mutation::Double(from, to)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let span = |bytes: &[u8], from: &Index, length: &Index| {
        let start = from.index(bytes.len() + 1);
        start..(start + length.index(40)).min(bytes.len())
    };
    match mutation {
        Mutation::Insert(place, piece) => {
            let place = place.index(bytes.len() + 1);
            bytes.splice(place..place, PIECES[piece.index(PIECES.len())].bytes());
        }
        Mutation::Byte(place, byte) if !bytes.is_empty() => {
            let place = place.index(bytes.len());
            bytes[place] = *byte;
        }
        Mutation::Byte(..) => {}
        Mutation::Delete(from, length) => {
            let span = span(bytes, from, length);
            bytes.drain(span);
        }
        Mutation::Double(from, length) => {
            let copy = bytes[span(bytes, from, length)].to_vec();
            let place = from.index(bytes.len() + 1);
            bytes.splice(place..place, copy);
        }
    }
}

/// Shown as text.
#[derive(Clone)]
struct Text(Vec<u8>);

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

fn mutated() -> impl Strategy<Value = Text> {
    let seed = prop::sample::select(vec![REGISTER, RESPONSE, INVITE]);
    (seed, prop::collection::vec(mutation(), 0..8)).prop_map(|(seed, mutations)| {
        let mut bytes = seed.as_bytes().to_vec();
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation));
        Text(bytes)
    })
}

fn headers(message: &Message) -> &Headers {
    match message {
        Message::Request(request) => request.headers(),
        Message::Response(response) => response.headers(),
    }
}

fn parse(bytes: &[u8]) -> Option<Message> {
    Message::parse(Bytes::copy_from_slice(bytes), &Limits::default()).ok()
}

/// Every typed view of one value; what reads as a value is written so that it reads the same.
fn views(value: &str) {
    if let Ok(via) = Via::parse(value) {
        assert_eq!(Via::parse(&via.to_string()), Ok(via.clone()), "{value}");
        let _ = (via.received(), via.rport());
    }
    if let Ok(Contact::Address(address)) = Contact::parse(value) {
        assert_eq!(Address::parse(&address.to_string()), Ok(address.clone()), "{value}");
        let _ = (address.expires_seconds(), address.q(), address.parameter("tag"));
    }
    if let Ok(uri) = Uri::parse(value) {
        let again = Uri::parse(&uri.to_string());
        assert_eq!(again.as_ref().map(Uri::to_string), Ok(uri.to_string()), "{value}");
        assert!(uri.is_equivalent(&uri), "{value}");
        let identity = uri.public_identity();
        let again = Uri::parse(identity.as_str()).map(|uri| uri.public_identity());
        assert!(again.is_err() || again == Ok(identity), "{value}");
    }
    if let Ok(host_port) = HostPort::parse(value) {
        assert_eq!(HostPort::parse(&host_port.to_string()), Ok(host_port), "{value}");
    }
    if let Ok(digest) = DigestParameters::parse(value) {
        for written in [digest.to_challenge(), digest.to_credentials()] {
            let again = DigestParameters::parse(&written).unwrap();
            assert_eq!(again.to_challenge(), digest.to_challenge(), "{value}");
        }
    }
    if let Ok(mechanism) = Mechanism::parse(value) {
        let again = Mechanism::parse(&mechanism.to_string()).unwrap();
        assert!(again.is_same(&mechanism), "{value}");
        let _ = (mechanism.q(), mechanism.number("spi-c"));
    }
    if let Some(vector) = ChargingVector::parse(value) {
        let again = ChargingVector::parse(&vector.to_string()).map(|vector| vector.to_string());
        assert_eq!(again, Some(vector.to_string()), "{value}");
    }
    let _ = visited_network(value);
    let _ = AccessNetworkInfo::parse(value).map(|info| info.eutran_cell());
}

/// Edits like those of a proxy; the result must still be a message with the same body.
fn edit(request: &mut Request) {
    let body = request.body().to_vec();
    let headers = request.headers_mut();
    headers.push_front(Name::Via, "SIP/2.0/UDP p.example;branch=z9hG4bKp");
    headers.set(Name::MaxForwards, "69");
    headers.pop_value(Name::Route);
    headers.remove_token(Name::Require, "sec-agree");
    headers.remove(Name::SecurityClient);
    headers.append(Name::Path, "<sip:term@p.example;lr>");
    headers.set_first_value(Name::Contact, "<sip:x@y>");
    request.set_uri("sip:s.example");
    request.set_content_length();
    let lines = request.headers().len();
    let bytes = request.to_bytes();
    let Some(Message::Request(again)) = parse(&bytes) else { panic!("{bytes:?}") };
    assert_eq!((again.body(), again.headers().len()), (&body[..], lines), "{bytes:?}");
    assert_eq!(again.headers().branch(), Some("z9hG4bKp"));
    assert_eq!(again.to_bytes(), bytes);
    assert_eq!(
        again.response(404, "Not Found").headers().get(Name::To),
        again.headers().get(Name::To)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    /// RFC 3261 §7: nothing panics, and what was accepted is written as it came.
    #[test]
    fn mutated_messages(Text(bytes) in mutated()) {
        if let Some(mut message) = parse(&bytes) {
            let written = match &message {
                Message::Request(request) => request.to_bytes(),
                Message::Response(response) => response.to_bytes(),
            };
            let skipped = bytes.iter().take_while(|byte| b"\r\n".contains(byte)).count();
            prop_assert!(bytes[skipped..].starts_with(&written));
            for name in Name::ALL {
                headers(&message).lines(*name).for_each(views);
                headers(&message).values(*name).for_each(views);
            }
            let list = mechanisms(headers(&message), Name::SecurityClient).unwrap_or_default();
            prop_assert!(is_same_list(&list, &list));
            let _ = credentials_for(headers(&message), "ims.mnc001.mcc001.3gppnetwork.org");
            match &mut message {
                Message::Request(request) => {
                    let _ = request.check();
                    views(request.uri());
                    edit(request);
                }
                Message::Response(response) => {
                    let _ = (response.check(), response.cseq_method(), response.call_id());
                }
            }
        }
        if let Some(request) = Request::salvage(Bytes::from(bytes), &Limits::default()) {
            prop_assert!(parse(&request.response(400, "Bad Request").to_bytes()).is_some());
        }
    }

    /// The views alone, with text of what decides in them.
    #[test]
    fn mutated_values(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..24),
                      words in prop::collection::vec("[a-zA-Z0-9.]{0,6}", 24)) {
        let text: String = pieces.iter().zip(&words).flat_map(|(a, b)| [*a, b.as_str()]).collect();
        for prefix in ["", "sip:", "Digest a=", "SIP/2.0/UDP ", "<sip:a@b>;", "x;", "icid-value=\"1\";", "\""] {
            views(&format!("{prefix}{text}"));
        }
        let _ = common::sip::parameter::list(&text).count();
    }

    /// RFC 3261 §18.3: a stream in pieces is cut like the stream at once.
    #[test]
    fn streams(Text(bytes) in mutated(), Text(more) in mutated(), size in 1usize..400) {
        let stream = [bytes, more, REGISTER.as_bytes().to_vec()].concat();
        let cut = |size: usize| {
            let (mut framer, mut found) = (Framer::default(), Vec::<Frame>::new());
            for piece in stream.chunks(size) {
                framer.push(piece);
                loop {
                    match framer.next(&Limits::default()) {
                        Ok(Some(frame)) => found.push(frame),
                        Ok(None) => break,
                        Err(broken) => return (found, Some(broken.reason)),
                    }
                }
            }
            (found, None)
        };
        prop_assert_eq!(cut(size), cut(stream.len()));
    }

    /// What rsip accepts as a message, it reads as we do.
    #[test]
    fn same_message_as_rsip(Text(bytes) in mutated()) {
        // Bare line feeds end lines here, but not there.
        let text = String::from_utf8_lossy(&bytes).replace("\r\n", "");
        let Some(message) = parse(&bytes).filter(|_| !text.contains('\n')) else { return Ok(()) };
        // Without header lines it takes a part of the body for some.
        prop_assume!(!headers(&message).is_empty());
        let Ok(theirs) = rsip::SipMessage::try_from(bytes.as_slice()) else { return Ok(()) };
        match (&message, &theirs) {
            (Message::Request(ours), rsip::SipMessage::Request(theirs)) => {
                prop_assert_eq!(ours.method_text(), theirs.method.to_string());
                prop_assert!(theirs.body.starts_with(ours.body()));
            }
            (Message::Response(ours), rsip::SipMessage::Response(theirs)) => {
                prop_assert_eq!(ours.status(), theirs.status_code.code());
                prop_assert!(theirs.body.starts_with(ours.body()));
            }
            _ => prop_assert!(false, "request and response"),
        }
        let ours: Vec<(String, String)> = headers(&message)
            .iter()
            .map(|(_, name, value)| (lower(name), String::from_utf8_lossy(value).into_owned()))
            .collect();
        let theirs: Vec<(String, String)> = theirs
            .headers()
            .iter()
            .map(|header| {
                let text = header.to_string();
                let (name, value) = text.split_once(':').unwrap();
                (lower(name.as_bytes()), value.trim_matches([' ', '\t']).to_owned())
            })
            .collect();
        prop_assert_eq!(ours, theirs);
    }
}

fn lower(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_ascii_lowercase()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// URIs, addresses and Vias that rsip can express.
    #[test]
    fn same_values_as_rsip(
        user in "[a-z][a-z0-9]{0,12}", host in "[a-z][a-z0-9]{0,8}\\.example", port in prop::option::of(1u16..),
        tag in "[a-z0-9]{1,8}", branch in "z9hG4bK[a-z0-9]{1,8}", transport in "UDP|TCP|TLS",
        number in 0u32..1 << 31, expires in any::<u32>(),
    ) {
        let host_port = port.map_or(host.clone(), |port| format!("{host}:{port}"));
        let uri = format!("sip:{user}@{host_port};transport={transport}");
        let (ours, theirs) = (Uri::parse(&uri).unwrap(), rsip::Uri::try_from(uri.as_str()).unwrap());
        prop_assert_eq!(ours.user.as_deref(), theirs.user());
        let host = ours.host_port.as_ref().unwrap();
        prop_assert_eq!(host.host.to_string(), theirs.host().to_string());
        prop_assert_eq!(host.port.map(|port| port.to_string()), theirs.port().map(|port| port.to_string()));
        let transport_of = theirs.params.iter().find_map(|parameter| match parameter {
            rsip::Param::Transport(transport) => Some(transport.to_string()),
            _ => None,
        });
        prop_assert_eq!(ours.parameter("transport").map(str::to_owned), transport_of);

        let from = format!("\"N\" <{uri}>;tag={tag}");
        let ours = Address::parse(&from).unwrap();
        let theirs = rsip::headers::From::new(from.as_str()).typed().unwrap();
        prop_assert_eq!(ours.parameter("tag").map(str::to_owned), theirs.tag().map(|tag| tag.to_string()));
        prop_assert_eq!(ours.uri.to_string(), theirs.uri.to_string());

        let via = format!("SIP/2.0/{transport} {host_port};branch={branch};received=192.0.2.1");
        let ours = Via::parse(&via).unwrap();
        let theirs = rsip::headers::Via::new(via.as_str()).typed().unwrap();
        prop_assert_eq!(ours.branch().map(str::to_owned), theirs.branch().map(|branch| branch.to_string()));
        prop_assert_eq!(&ours.transport, &theirs.transport.to_string());
        prop_assert_eq!(ours.sent_by.to_string(), theirs.uri.host_with_port.to_string());
        prop_assert_eq!(ours.received(), theirs.received().unwrap());

        let mut request = Request::new("REGISTER", &format!("sip:{host_port}"));
        request.headers_mut().append(Name::CSeq, &format!("{number} REGISTER"));
        request.headers_mut().append(Name::Expires, &expires.to_string());
        let theirs = rsip::Request::try_from(&request).unwrap();
        let typed = theirs.cseq_header().unwrap().typed().unwrap();
        prop_assert_eq!((request.cseq(), "REGISTER".to_owned()), (typed.seq, typed.method.to_string()));
        let theirs = theirs.expires_header().unwrap().seconds().unwrap();
        prop_assert_eq!(expires, theirs);
    }
}

/// The conversion hands over what rsip can express, names long and values unfolded, and fails on
/// the rest.
#[test]
fn conversion() {
    let Some(Message::Request(register)) = parse(REGISTER.as_bytes()) else { panic!() };
    let theirs = rsip::SipMessage::try_from(&register).unwrap();
    assert!(
        matches!(&theirs, rsip::SipMessage::Request(request) if request.method == rsip::Method::Register)
    );
    assert_eq!(theirs.headers().iter().count(), register.headers().len());
    let supported = theirs.headers().iter().find_map(|header| match header {
        rsip::Header::Supported(supported) => Some(supported.value().to_owned()),
        _ => None,
    });
    assert_eq!(supported.as_deref(), Some("path, gruu, sec-agree"));
    let Some(response @ Message::Response(_)) = parse(RESPONSE.as_bytes()) else { panic!() };
    let rsip::SipMessage::Response(theirs) = rsip::SipMessage::try_from(&response).unwrap() else {
        panic!()
    };
    assert_eq!((theirs.status_code.code(), &theirs.body[..]), (200, &b"v=0\n"[..]));
    let via = theirs.via_header().unwrap();
    assert!(via.value().starts_with("SIP/2.0/TCP"));
    for text in [
        INVITE.to_owned(),
        REGISTER.replace("REGISTER", "UNHEARD"),
        REGISTER.replace("sip:ims", "urn:ims"),
    ] {
        let Some(Message::Request(request)) = parse(text.as_bytes()) else { panic!() };
        assert!(rsip::Request::try_from(&request).is_err(), "{text}");
    }
    let mut bytes = REGISTER.as_bytes().to_vec();
    let place = REGISTER.find("kept").unwrap();
    bytes[place] = 0xE9;
    let Some(Message::Request(request)) = parse(&bytes) else { panic!() };
    assert!(rsip::Request::try_from(&request).is_err());
}
