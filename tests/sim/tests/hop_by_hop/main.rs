//! One registration, every message at every hop: what each function adds, takes off and leaves alone.

mod associations;
mod cx;
mod phone;
mod raw;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use common::aka::digest::AkaNonce;
use common::dns::{Answer, Question, RecordData, RecordType};
use common::limits::Limits;
use common::sip::address::Address;
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::message::{Headers, Message, Method, Request, Response};
use raw::answers;
use scenarios::{Phone as Kind, Standing, World as _};
use sim::ims::{HOME, Ims, Options};

/// Everything that was said in one registration, in order.
struct Recorded(VecDeque<(String, String, bool, Bytes)>);

impl Recorded {
    fn next(&mut self, from: &str, to: &str) -> (bool, Message) {
        let (who, whom, protected, bytes) = self.0.pop_front().expect("another message");
        assert_eq!((who.as_str(), whom.as_str()), (from, to));
        (protected, Message::parse(bytes, &Limits::default()).expect("a message"))
    }

    fn request(&mut self, from: &str, to: &str) -> (bool, Request) {
        match self.next(from, to) {
            (protected, Message::Request(request)) => (protected, request),
            (_, other) => panic!("a request was to come: {other:?}"),
        }
    }

    fn response(&mut self, from: &str, to: &str) -> (bool, Response) {
        match self.next(from, to) {
            (protected, Message::Response(response)) => (protected, response),
            (_, other) => panic!("a response was to come: {other:?}"),
        }
    }
}

fn registered() -> (Ims, Recorded) {
    registered_as(Options::default(), |_| {})
}

/// With a phone whose settings are changed.
fn registered_as(options: Options, change: impl FnOnce(&mut ue::Config)) -> (Ims, Recorded) {
    let mut ims = Ims::new(11, options);
    let ue = ims.add_changed(change);
    ims.world.is_recording = true;
    ims.register(ue);
    ims.until("registered", Duration::from_secs(10), &mut |world| {
        world.standing(ue) == Standing::Registered
    })
    .expect("a registration");
    let mut wire = std::mem::take(&mut ims.world.wire);
    // What follows a registration is not part of it.
    wire.retain(|(from, to, _, bytes)| {
        let is_register = bytes.windows(9).any(|part| part == b" REGISTER");
        is_register && from != "as" && to != "as"
    });
    (ims, Recorded(wire.into()))
}

fn all(headers: &Headers, name: Name) -> Vec<&str> {
    headers.values(name).collect()
}

fn same(a: &Headers, b: &Headers, names: &[Name]) {
    for name in names {
        assert_eq!(all(a, *name), all(b, *name), "{name:?} changed on its way");
    }
}

/// Headers that nobody on the way touches.
const UNTOUCHED: [Name; 6] =
    [Name::From, Name::To, Name::Contact, Name::CallId, Name::CSeq, Name::Supported];

/// The value of a header that stands in one line.
fn only(headers: &Headers, name: Name) -> &str {
    assert_eq!(headers.raw(name).count(), 1, "{name:?} once");
    headers.get(name).expect("text")
}

/// Name and value of each line as they are written.
fn lines(headers: &Headers) -> Vec<(String, String)> {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    headers.iter().map(|(_, name, value)| (text(name), text(value))).collect()
}

/// TS 24.229 §5.2.2.1: S-06, S-31, S-32, S-33, S-35, S-36, S-38, S-39, S-40: the first REGISTER from the P-CSCF: what it
/// adds, takes off and leaves alone.
#[test]
fn the_first_register_leaves_the_pcscf() {
    let (_, mut wire) = registered();
    let (protected, before) = wire.request("ue0", "pcscf");
    assert!(!protected);
    let (_, after) = wire.request("pcscf", "icscf");
    assert_eq!(after.uri(), before.uri());
    let (before, after) = (before.headers(), after.headers());
    same(before, after, &UNTOUCHED);
    assert_eq!(only(after, Name::MaxForwards), "69");

    let vias = all(after, Name::Via);
    let [own, of_ue] = vias[..] else { panic!("{vias:?}") };
    assert!(own.contains(&format!(" pcscf.{HOME}")) && own.contains(";branch=z9hG4bK"), "{own}");
    assert!(of_ue.starts_with("SIP/2.0/UDP 10.45.0.2:5060;"), "{of_ue}");
    assert!(of_ue.contains("received=10.45.0.2") && of_ue.contains("rport=5060"), "{of_ue}");

    assert!(before.has(Name::SecurityClient));
    for name in [Name::SecurityClient, Name::SecurityVerify, Name::SecurityServer] {
        assert!(!after.has(name), "{name:?} is between UE and P-CSCF");
    }
    for name in [Name::Require, Name::ProxyRequire] {
        assert!(before.has_token(name, "sec-agree") && !after.has_token(name, "sec-agree"));
    }

    let path = Address::parse(only(after, Name::Path)).expect("an address");
    assert_eq!(path.uri.host_port.as_ref().map(ToString::to_string), Some(format!("pcscf.{HOME}")));
    assert!(path.uri.parameter("lr").is_some(), "{path:?}");
    assert!(after.has_token(Name::Require, "path"));
    assert_eq!(only(after, Name::PVisitedNetworkId), format!("\"{HOME}\""));
    let vector = only(after, Name::PChargingVector);
    let icid = vector.split("icid-value=").nth(1).unwrap_or_default();
    assert!(icid.trim_matches('"').len() > 8, "{vector}");
    assert!(vector.contains("orig-ioi=") && !vector.contains("term-ioi"), "{vector}");
}

/// TS 24.229 §5.3.1.2, §5.3.1.3: S-07, S-45, S-46, S-47, S-48, S-49, S-50, S-51: the first REGISTER from the I-CSCF, which
/// puts itself in Via and its choice into the Request-URI, and nothing else anywhere.
#[test]
fn the_first_register_leaves_the_icscf() {
    let (_, mut wire) = registered();
    let (_, of_ue) = wire.request("ue0", "pcscf");
    let (_, before) = wire.request("pcscf", "icscf");
    let (_, after) = wire.request("icscf", "scscf1");
    assert_eq!(after.uri(), format!("sip:scscf1.{HOME}"));
    let (before, after) = (before.headers(), after.headers());
    same(of_ue.headers(), after, &UNTOUCHED);
    assert_eq!(only(after, Name::MaxForwards), "68");
    let vias = all(after, Name::Via);
    assert_eq!(vias.len(), 3);
    assert!(vias[0].contains(&format!(" icscf.{HOME}")), "{vias:?}");
    assert!(vias[0].contains(";branch=z9hG4bK"), "{vias:?}");
    assert!(vias[1].starts_with(all(before, Name::Via)[0]), "{vias:?}");
    assert_eq!(vias[2], all(before, Name::Via)[1]);
    for name in [Name::Path, Name::PVisitedNetworkId, Name::PChargingVector, Name::Authorization] {
        assert_eq!(only(before, name), only(after, name), "{name:?}");
    }
    assert!(only(after, Name::Authorization).contains("integrity-protected=\"no\""));
    let mut names: Vec<_> = lines(before).into_iter().map(|(name, _)| name).collect();
    let mut now: Vec<_> = lines(after).into_iter().map(|(name, _)| name).collect();
    names.push("Via".to_owned());
    names.sort();
    now.sort();
    assert_eq!(now, names, "no Route, no Record-Route, nothing added and nothing lost");
}

/// TS 24.229 §5.4.1.2.1A, §5.2.2.2: S-57, S-58, S-59, S-62: the challenge on its way back. Of its headers the I-CSCF
/// takes its Via, and the P-CSCF its own.
#[test]
fn the_challenge_hop_by_hop() {
    let (_, mut wire) = registered();
    let (_, of_ue) = wire.request("ue0", "pcscf");
    wire.request("pcscf", "icscf");
    let (_, at_scscf) = wire.request("icscf", "scscf1");
    let vias = all(at_scscf.headers(), Name::Via);
    let (_, from_scscf) = wire.response("scscf1", "icscf");
    let headers = from_scscf.headers();
    assert_eq!(from_scscf.status(), 401);
    let returned = all(headers, Name::Via);
    // The S-CSCF writes `received` into the topmost (RFC 3261 §18.2.1).
    assert!(returned[0].starts_with(vias[0]) && returned[1..] == vias[1..], "{returned:?}");
    let to = only(headers, Name::To);
    let tag = to.strip_prefix(only(of_ue.headers(), Name::To)).expect("the To of the request");
    assert!(tag.strip_prefix(";tag=").is_some_and(|tag| !tag.is_empty()), "{to}");
    same(of_ue.headers(), headers, &[Name::From, Name::CallId, Name::CSeq]);
    let challenge = only(headers, Name::WwwAuthenticate);
    let parameters = DigestParameters::parse(challenge).expect("a Digest challenge");
    assert_eq!(parameters.get("realm"), Some(HOME));
    assert_eq!(parameters.get("algorithm"), Some("AKAv1-MD5"));
    let nonce = parameters.get("nonce").unwrap_or_default();
    assert!(AkaNonce::decode(nonce).is_some_and(|_| nonce.len() == 44), "32 octets: {nonce}");
    for name in ["ck", "ik"] {
        let key = parameters.get(name).unwrap_or_default();
        let is_hexadecimal = key.bytes().all(|one| one.is_ascii_hexdigit());
        assert!(key.len() == 32 && is_hexadecimal, "{name} in {challenge}");
    }
    let (_, from_icscf) = wire.response("icscf", "pcscf");
    assert_eq!(all(from_icscf.headers(), Name::Via), vias[1..]);
    let rest = |headers| {
        let mut lines = lines(headers);
        lines.retain(|(name, _)| name != "Via");
        lines
    };
    assert_eq!(rest(from_icscf.headers()), rest(headers), "with ck and ik, as they were");
    let (protected, from_pcscf) = wire.response("pcscf", "ue0");
    assert!(!protected, "no association yet on the UE's side");
    assert_eq!(all(from_pcscf.headers(), Name::Via), vias[2..]);
}

/// TS 24.229 §5.2.2.1, §5.4.1.2.2: S-11, S-82, S-86, S-87, S-88, S-89, S-92, S-126: the second REGISTER: what is new in it, and who
/// says so. Gm sees four messages and no more.
#[test]
fn the_second_register_hop_by_hop() {
    let (_, mut wire) = registered();
    let on_gm = wire.0.iter().filter(|(from, to, ..)| from == "ue0" || to == "ue0").count();
    assert_eq!(on_gm, 4, "REGISTER, 401, REGISTER, 200 and nothing else on Gm");
    let (_, first) = wire.request("ue0", "pcscf");
    for _ in 0..4 {
        wire.0.pop_front();
    }
    let (_, challenge) = wire.response("pcscf", "ue0");
    let (protected, second) = wire.request("ue0", "pcscf");
    assert!(protected);
    assert_eq!(second.call_id(), first.call_id());
    assert_eq!(second.cseq(), first.cseq() + 1);
    let (before, headers) = (first.headers(), second.headers());
    assert!(!headers.has(Name::Route));
    let [old, new] = [before, headers].map(|it| Address::parse(only(it, Name::Contact)).unwrap());
    assert_eq!(old.parameters, new.parameters, "the same device");
    assert_eq!(old.parameter("+sip.instance"), Some("<urn:gsma:imei:35209900-176148-0>"));
    assert_eq!(all(headers, Name::SecurityClient), all(before, Name::SecurityClient));
    let offered = all(challenge.headers(), Name::SecurityServer);
    assert!(!offered.is_empty());
    assert_eq!(all(headers, Name::SecurityVerify), offered, "a mirror");
    for name in [Name::Require, Name::ProxyRequire] {
        assert!(headers.has_token(name, "sec-agree"), "{name:?}");
    }

    let (_, at_icscf) = wire.request("pcscf", "icscf");
    let vias = all(at_icscf.headers(), Name::Via);
    let [own, of_ue] = vias[..] else { panic!("{vias:?}") };
    assert!(own.contains(&format!(" pcscf.{HOME}")), "{own}");
    let written = only(headers, Name::Via);
    assert!(of_ue.starts_with(written.split(';').next().expect("sent-by")), "{of_ue}");
    let parameters =
        |headers| DigestParameters::parse(only(headers, Name::Authorization)).expect("credentials");
    let (said, told) = (parameters(headers), parameters(at_icscf.headers()));
    assert_eq!(told.get("integrity-protected"), Some("yes"));
    let response = said.get("response").unwrap_or_default();
    assert_eq!(response.len(), 32, "{response}");
    assert_eq!(told.get("response"), Some(response), "as it is, and nothing beside it");
    for name in [Name::SecurityClient, Name::SecurityVerify] {
        assert!(!at_icscf.headers().has(name), "{name:?}");
    }
    let (_, at_scscf) = wire.request("icscf", "scscf1");
    assert_eq!(at_scscf.uri(), format!("sip:scscf1.{HOME}"), "the one that has challenged");
    same(headers, at_scscf.headers(), &UNTOUCHED);
}

/// TS 24.229 §5.4.1.2.2F, §5.2.2.1: S-97, S-98, S-99, S-103: the 200 hop by hop.
#[test]
fn the_200_hop_by_hop() {
    let (_, mut wire) = registered();
    for _ in 0..6 {
        wire.0.pop_front();
    }
    let (_, of_ue) = wire.request("ue0", "pcscf");
    wire.request("pcscf", "icscf");
    let (_, asked) = wire.request("icscf", "scscf1");
    let vias = all(asked.headers(), Name::Via);
    assert_eq!(vias.len(), 3);
    let (_, from_scscf) = wire.response("scscf1", "icscf");
    assert_eq!(from_scscf.status(), 200);
    let headers = from_scscf.headers();
    assert_eq!(all(headers, Name::Via)[1..], vias[1..]);
    assert_eq!(only(headers, Name::Path), only(asked.headers(), Name::Path));
    let route = Address::parse(only(headers, Name::ServiceRoute)).expect("an address");
    let host = route.uri.host_port.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(host.starts_with(&format!("scscf1.{HOME}")), "{host}");
    assert!(route.uri.parameter("lr").is_some());
    let associated = all(headers, Name::PAssociatedUri).join(",");
    assert!(associated.contains(&format!("sip:001010000000001@{HOME}")), "{associated}");
    let contact = Address::parse(only(headers, Name::Contact)).expect("an address");
    let bound = Address::parse(only(of_ue.headers(), Name::Contact)).expect("an address");
    assert_eq!(contact.uri, bound.uri);
    assert_eq!(contact.parameter("expires"), Some("3600"), "granted, where 600000 was asked");
    let vector = |headers| only(headers, Name::PChargingVector).to_owned();
    assert!(vector(headers).contains("term-ioi"));
    let icid = |headers| {
        let vector = vector(headers);
        let value = vector.split("icid-value=").nth(1).expect("an icid");
        value.split(';').next().map(str::to_owned)
    };
    assert_eq!(icid(headers), icid(asked.headers()));

    let (_, from_icscf) = wire.response("icscf", "pcscf");
    assert_eq!(all(from_icscf.headers(), Name::Via), vias[1..]);
    let kept = [
        Name::Path,
        Name::ServiceRoute,
        Name::PAssociatedUri,
        Name::Contact,
        Name::PChargingVector,
        Name::To,
    ];
    same(headers, from_icscf.headers(), &kept);
    let (protected, from_pcscf) = wire.response("pcscf", "ue0");
    assert!(protected);
    let last = from_pcscf.headers();
    assert_eq!(all(last, Name::Via), vias[2..]);
    same(headers, last, &[Name::ServiceRoute, Name::PAssociatedUri, Name::Contact]);
    for name in [Name::PChargingVector, Name::PChargingFunctionAddresses] {
        assert!(!last.has(name), "{name:?} is no matter of the UE");
    }
    assert!(wire.0.is_empty(), "nothing follows: {:?}", wire.0);
}

/// TS 24.229 §5.1.1.3, §5.2.7.2: S-07, S-100: behind the 200 the phone asks for the state of its registration along
/// Service-Route: P-CSCF to S-CSCF, and no I-CSCF between them; the NOTIFY comes back the same way.
#[test]
fn the_icscf_is_left_out_later() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(Kind::Good);
    ims.world.is_recording = true;
    ims.register(ue);
    ims.until("the document of its registration", Duration::from_secs(10), &mut |world| {
        world.notified(ue) == 1
    })
    .expect("a NOTIFY");
    let requests: Vec<_> = ims
        .world
        .wire
        .iter()
        .filter_map(|(from, to, protected, bytes)| {
            match Message::parse(bytes.clone(), &Limits::default()) {
                Ok(Message::Request(request)) => Some((from, to, *protected, request)),
                _ => None,
            }
        })
        .collect();
    let dialog = requests
        .iter()
        .find(|(from, _, _, request)| *from == "ue0" && request.method() == Method::Subscribe)
        .map(|(.., request)| request.call_id().to_owned())
        .expect("a SUBSCRIBE of the phone");
    let of_phone: Vec<_> = requests
        .iter()
        .filter(|(.., request)| request.call_id() == dialog)
        .map(|(from, to, protected, request)| {
            format!("{} {from} {to} {protected}", request.method_text())
        })
        .collect();
    assert_eq!(
        of_phone,
        [
            "SUBSCRIBE ue0 pcscf true",
            "SUBSCRIBE pcscf scscf1 false",
            "NOTIFY scscf1 pcscf false",
            "NOTIFY pcscf ue0 true",
        ]
    );
}

/// RFC 3261 §7.3.3: S-108, S-109, S-110, S-111, S-112, S-113, S-114, S-116, S-117, S-118, S-120: a deregistration in clear,
/// in compact form, with its credentials doubled and without an answer to a challenge: the home network gets it as it
/// was meant, and challenges it; the binding stays.
#[test]
fn a_compact_deregistration_in_clear_is_challenged_only() {
    let (mut ims, _) = registered();
    ims.world.wire.clear();
    let user = format!("001010000000001@{HOME}");
    let digest = format!(
        "Digest uri=\"sip:{HOME}\",username=\"{user}\",response=\"\",realm=\"{HOME}\",nonce=\"\""
    );
    let offer = "ipsec-3gpp; alg=hmac-sha-1-96; ealg=null; spi-c=90001; spi-s=90002; \
                 port-c=40001; port-s=40002";
    let text = format!(
        "REGISTER sip:{HOME} SIP/2.0\r\n\
         f: <sip:{user}>;tag=589636628\r\n\
         t: <sip:{user}>\r\n\
         CSeq: 589636509 REGISTER\r\n\
         i: 589636508_2363003488@10.45.9.9\r\n\
         v: SIP/2.0/UDP 10.45.9.9:5060;branch=z9hG4bK428556305\r\n\
         Max-Forwards: 70\r\n\
         m: <sip:{user}>\r\n\
         P-Access-Network-Info: 3GPP-E-UTRAN-FDD; utran-cell-id-3gpp=3114800001FFFFFFF\r\n\
         k: path\r\n\
         Require: sec-agree\r\n\
         Proxy-Require: sec-agree\r\n\
         Security-Client: {offer}\r\n\
         Expires: 0\r\n\
         Authorization: {digest}, {digest}\r\n\
         l: 0\r\n\r\n"
    );
    let got = answers(&mut ims, text);
    assert!(got.first().is_some_and(|text| text.starts_with("SIP/2.0 401 ")), "{got:?}");
    assert_eq!(ims.gauge("scscf1", "tessera_scscf_registrations", &[]), 1.0);
    assert_eq!(ims.registered_at_hss(), 1);
    let mut registers = ims.world.wire.iter().filter(|(.., bytes)| bytes.starts_with(b"REGISTER "));
    let at_scscf = registers.find(|(_, to, ..)| to == "scscf1").expect("a REGISTER");
    let Ok(Message::Request(request)) = Message::parse(at_scscf.3.clone(), &Limits::default())
    else {
        panic!("a request")
    };
    let headers = request.headers();
    for (name, value) in [
        (Name::From, format!("<sip:{user}>;tag=589636628")),
        (Name::To, format!("<sip:{user}>")),
        (Name::CallId, "589636508_2363003488@10.45.9.9".to_owned()),
        (Name::CSeq, "589636509 REGISTER".to_owned()),
        (Name::Contact, format!("<sip:{user}>")),
        (Name::MaxForwards, "68".to_owned()),
        (Name::Expires, "0".to_owned()),
        (Name::ContentLength, "0".to_owned()),
        (
            Name::PAccessNetworkInfo,
            "3GPP-E-UTRAN-FDD; utran-cell-id-3gpp=3114800001FFFFFFF".to_owned(),
        ),
    ] {
        assert_eq!(only(headers, name), value, "{name:?}");
    }
    let of_ue = all(headers, Name::Via)[2];
    assert!(of_ue.contains("10.45.9.9:5060;branch=z9hG4bK428556305"), "{of_ue}");
    let credentials = only(headers, Name::Authorization);
    assert_eq!(credentials.matches("Digest ").count(), 1, "{credentials}");
    assert!(credentials.contains("integrity-protected=\"no\""), "{credentials}");
}

fn response(bytes: &Bytes) -> Option<Response> {
    match Message::parse(bytes.clone(), &Limits::default()) {
        Ok(Message::Response(response)) => Some(response),
        _ => None,
    }
}

/// The first REGISTER of a phone without stack.
fn first_register(user: &str) -> String {
    format!(
        "REGISTER sip:{HOME} SIP/2.0\r\nVia: SIP/2.0/UDP 10.45.9.9:5060;branch=z9hG4bKa;rport\r\n\
         From: <sip:{user}>;tag=1\r\nTo: <sip:{user}>\r\nCall-ID: a@10.45.9.9\r\nCSeq: 201 REGISTER\r\n\
         Max-Forwards: 70\r\nContact: <sip:10.45.9.9:40002>;expires=600000\r\nRequire: sec-agree\r\n\
         Proxy-Require: sec-agree\r\nSupported: path\r\n\
         Security-Client: ipsec-3gpp;alg=hmac-sha-1-96;ealg=null;spi-c=90001;spi-s=90002;port-c=40001;\
         port-s=40002\r\nAuthorization: Digest username=\"{user}\",realm=\"{HOME}\",uri=\"sip:{HOME}\",\
         nonce=\"\",response=\"\"\r\nContent-Length: 0\r\n\r\n"
    )
}

const CHALLENGED: &str = "SIP/2.0 401 ";

/// RFC 3261 §7.1, §10.3, TS 24.229 §5.3.1.2: S-14, S-47: a comma behind SIP/2.0 is malformed. Two headers in one line are one
/// header, and the hop is counted from 70. Of another domain the I-CSCF says that it is not here, and DNS, where that
/// knows nobody, that there is none.
#[test]
fn what_is_no_register_of_ours() {
    let user = format!("001010000000001@{HOME}");
    let good = first_register(&user);
    let first_line = format!("REGISTER sip:{HOME} SIP/2.0");
    let comma = good.replace(&first_line, &format!("{first_line},"));
    let joined = good.replace("Max-Forwards: 70", "Route: sip:scscf1.hims.net,Max-Forwards: 18");
    let foreign = good.replace(HOME, "ims.example.com");
    let nowhere = good.replace(HOME, "ims.example.org");
    let cases = [
        ("a comma", comma, "SIP/2.0 400 ", &[][..]),
        ("two headers in one line", joined, CHALLENGED, &["icscf", "scscf1"]),
        ("another domain", foreign, "SIP/2.0 404 ", &["icscf"]),
        ("a domain that is not there", nowhere, "SIP/2.0 504 ", &[]),
    ];
    for (what, text, wanted, reached) in cases {
        let mut ims = Ims::new(11, Options::default());
        ims.add(Kind::Good);
        let target = format!("icscf.{HOME}");
        let records = vec![RecordData::Srv { priority: 1, weight: 1, port: 5060, target }];
        for transport in ["udp", "tcp"] {
            let name = format!("_sip._{transport}.ims.example.com");
            let ttl = Duration::from_secs(300);
            ims.world.zone.insert(
                Question { name, record_type: RecordType::Srv },
                Answer::Found { records: records.clone(), ttl },
            );
        }
        ims.world.is_recording = true;
        let got = answers(&mut ims, text);
        // What cannot be read at all may be dropped.
        let is_told = got.first().is_some_and(|text| text.starts_with(wanted));
        assert!(is_told || (got.is_empty() && what == "a comma"), "{what}: {got:?}");
        let registers: Vec<_> = ims
            .world
            .wire
            .iter()
            .filter(|(_, to, _, bytes)| to != "pcscf" && bytes.starts_with(b"REGISTER "))
            .collect();
        let at: Vec<_> = registers.iter().map(|(_, to, ..)| to.as_str()).collect();
        assert_eq!(at, reached, "{what}");
        if what == "two headers in one line" {
            let text = String::from_utf8_lossy(&registers[0].3);
            assert!(text.contains("\r\nMax-Forwards: 70\r\n"), "{text}");
        }
    }
}

/// TS 24.229 §5.2.2.1: S-16, S-37: what a phone says of its own integrity is not what the home network hears, and a Route of
/// its own leads nowhere.
#[test]
fn a_phone_speaks_for_no_network() {
    let mut ims = Ims::new(11, Options::default());
    ims.add(Kind::Good);
    ims.world.is_recording = true;
    let text = first_register(&format!("001010000000001@{HOME}"))
        .replace("response=\"\"", "response=\"\",integrity-protected=\"yes\"")
        .replace("Max-Forwards: 70", "Max-Forwards: 70\r\nRoute: <sip:192.0.2.66;lr>");
    let got = answers(&mut ims, text);
    assert!(got.first().is_some_and(|text| text.starts_with(CHALLENGED)), "{got:?}");
    let mut on_mw = ims.world.wire.iter().filter(|(from, to, _, bytes)| {
        from != "ue1" && to != "ue1" && bytes.starts_with(b"REGISTER ")
    });
    for (to, bytes) in on_mw.by_ref().map(|(_, to, _, bytes)| (to, bytes)) {
        assert!(["icscf", "scscf1"].contains(&to.as_str()), "{to}");
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains("\"yes\"") && !text.contains("Route:"), "{text}");
        assert_eq!(text.matches("integrity-protected=\"no\"").count(), 1, "{text}");
    }
}

/// S-15, S-16, S-26, S-105, S-122: habits of phones that do not make a REGISTER wrong, each after a message of a
/// real one: all are challenged. The others get the answer that names what is missing.
#[test]
fn habits_of_phones() {
    let user = format!("001010000000001@{HOME}");
    let agree = "Require: sec-agree\r\nProxy-Require: sec-agree\r\n";
    let offer = "Security-Client: ipsec-3gpp;alg=hmac-sha-1-96;ealg=null;spi-c=90001;spi-s=90002;\
                 port-c=40001;port-s=40002\r\n";
    let digest = format!(
        "Authorization: Digest username=\"{user}\",realm=\"{HOME}\",uri=\"sip:{HOME}\",\
         nonce=\"\",response=\"\"\r\n"
    );
    let plain = "Via: SIP/2.0/UDP 10.45.9.9:5060;branch=z9hG4bKa\r\n";
    let contact = "Contact: <sip:10.45.9.9:40002>;expires=600000\r\n";
    let secure = format!("{agree}{offer}{digest}");
    let cases = [
        ("nothing out of the ordinary", format!("{plain}{contact}{secure}"), CHALLENGED),
        (
            "an agreement is required, and nothing offered",
            format!("{plain}{contact}{agree}{digest}"),
            "SIP/2.0 494 ",
        ),
        (
            "no agreement at all, behind a WLAN; the interval in both places; a branch without cookie",
            format!(
                "Via: SIP/2.0/UDP 10.45.9.9:5060;branch=4y479aZgQ6b15d63F;rport\r\n{contact}\
                 Expires: 0\r\nP-Access-Network-Info: IEEE-802.11;i-wlan-node-id=34a84edc9615\r\n\
                 {digest}"
            ),
            "SIP/2.0 421 ",
        ),
        (
            "the same with an offer, and a Route to the P-CSCF itself",
            format!(
                "Via: SIP/2.0/UDP 10.45.9.9:5060;branch=4y479aZgQ6b15d63F;rport\r\n\
                 Route: <sip:10.46.0.1:5060;lr>\r\n{contact}Expires: 600000\r\n{secure}"
            ),
            CHALLENGED,
        ),
        (
            "for another compression and with parameters that nobody knows",
            format!(
                "v: SIP/2.0/UDP [::]:5060;test=1;comp=sigcomp;rport=254;ttl=457;branch=z9hG4bK12\r\n\
                 m: <sip:001@[::]:5060;comp=sigcomp;transport=udp>;expires=600000;mobility=\"fixed\";\
                 +g.3gpp.app%5fref=\"urn%3Ax\";\r\nTest-Header: 0\r\nu: talk, hold\r\n\
                 k: path\r\nk: gruu, outbound, timer\r\nAllow: INVITE\r\nAllow: REFER\r\n\
                 Expires12: 1983\r\n{secure}"
            ),
            CHALLENGED,
        ),
        (
            "extensions that no registrar has, required",
            format!("{plain}{contact}Require: pref, 100rel\r\n{secure}"),
            "SIP/2.0 420 ",
        ),
        (
            "six offers, the cell told in clear, q and audio",
            format!(
                "{plain}Contact: <sip:001@10.45.9.9:40002>;+g.3gpp.accesstype=\"cellular2\";audio;q=1.0\r\n\
                 Expires: 600000\r\nP-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=00101\r\n\
                 {agree}{offer}Security-Client: ipsec-3gpp;alg=hmac-md5-96;ealg=des-ede3-cbc;prot=esp;\
                 mod=trans;spi-c=90001;spi-s=90002;port-c=40001;port-s=40002\r\n{digest}"
            ),
            CHALLENGED,
        ),
        (
            "a URI of another domain in the credentials that answer nothing yet",
            format!("{plain}{contact}{secure}").replace(
                &format!("uri=\"sip:{HOME}\""),
                "uri=\"sip:ims.mnc021.mcc658.3gppnetwork.org\"",
            ),
            CHALLENGED,
        ),
        (
            "the credentials of test equipment: no algorithm, another order",
            format!(
                "{plain}{contact}{agree}{offer}Authorization: Digest uri=\"sip:{HOME}\",\
                 username=\"{user}\",response=\"\",realm=\"{HOME}\",nonce=\"\"\r\n"
            ),
            CHALLENGED,
        ),
        (
            "lines folded, names in any case, several Contacts in one line",
            format!(
                "vIA: SIP/2.0/UDP\r\n  10.45.9.9:5060;branch=z9hG4bKa\r\n\
                 CONTACT: <sip:10.45.9.9:40002>;expires=600000,\r\n\t<sip:b@10.45.9.9:40002>\r\n{secure}"
            ),
            CHALLENGED,
        ),
        (
            "all contacts go, of a user who has none",
            format!("{plain}Contact: *\r\nExpires: 0\r\n{secure}"),
            "SIP/2.0 403 ",
        ),
        (
            "all contacts for an hour, which means nothing",
            format!("{plain}Contact: *\r\nExpires: 3600\r\n{secure}"),
            "SIP/2.0 400 ",
        ),
        (
            "no Contact parameters, no Supported, 3600 s in a header of its own",
            format!("{plain}Contact: <sip:10.45.9.9:40002>\r\nExpires: 3600\r\n{secure}"),
            CHALLENGED,
        ),
    ];
    for (habit, middle, wanted) in cases {
        let mut ims = Ims::new(11, Options::default());
        ims.add(Kind::Good);
        let text = format!(
            "REGISTER sip:{HOME} SIP/2.0\r\nFrom: \"A\" <sip:{user}>;tag=1\r\nTo:   <sip:{user}>\r\n\
             Call-ID: a@10.45.9.9\r\nCSeq: 201 REGISTER\r\nMax-Forwards: 70\r\n{middle}\
             Content-Length: 0\r\n\r\n"
        );
        let got = answers(&mut ims, text);
        assert!(got.first().is_some_and(|text| text.starts_with(wanted)), "{habit}: {got:?}");
        assert_eq!(ims.gauge("scscf1", "tessera_scscf_registrations", &[]), 0.0, "{habit}");
    }
}
