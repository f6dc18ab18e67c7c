//! One registration, every message at every hop: what each function adds, takes off and leaves alone.

mod cx;
mod phone;
mod raw;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use common::limits::Limits;
use common::sip::header::Name;
use common::sip::message::{Headers, Message, Request, Response};
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

/// Headers that nobody on the way touches (S-35, S-48).
const UNTOUCHED: [Name; 6] =
    [Name::From, Name::To, Name::Contact, Name::CallId, Name::CSeq, Name::Supported];

/// S-06, S-07, S-31..S-40, S-45..S-51, S-57..S-59, S-62: the first REGISTER and its challenge.
#[test]
fn the_first_register_hop_by_hop() {
    let (_, mut wire) = registered();
    let (protected, at_pcscf) = wire.request("ue0", "pcscf");
    assert!(!protected);
    let (_, at_icscf) = wire.request("pcscf", "icscf");
    same(at_pcscf.headers(), at_icscf.headers(), &UNTOUCHED);
    assert_eq!(at_icscf.uri(), at_pcscf.uri());
    assert_eq!(all(at_icscf.headers(), Name::Via).len(), 2);
    assert_eq!(at_icscf.headers().get(Name::MaxForwards), Some("69"));

    let (_, at_scscf) = wire.request("icscf", "scscf1");
    assert_eq!(at_scscf.uri(), format!("sip:scscf1.{HOME}"));
    same(at_pcscf.headers(), at_scscf.headers(), &UNTOUCHED);
    // The I-CSCF adds its Via and nothing else: no Path, no Record-Route, no Route.
    same(
        at_icscf.headers(),
        at_scscf.headers(),
        &[Name::Path, Name::PVisitedNetworkId, Name::PChargingVector, Name::Authorization],
    );
    assert!(!at_scscf.headers().has(Name::RecordRoute) && !at_scscf.headers().has(Name::Route));
    assert_eq!(at_scscf.headers().get(Name::MaxForwards), Some("68"));
    let vias = all(at_scscf.headers(), Name::Via);
    assert_eq!(vias.len(), 3);
    assert!(vias[0].contains("icscf") && vias[1].contains("pcscf") && vias[2].contains("10.45."));
    let authorization = at_scscf.headers().get(Name::Authorization).unwrap();
    assert!(authorization.contains("integrity-protected=\"no\""));

    let (_, from_scscf) = wire.response("scscf1", "icscf");
    assert_eq!(from_scscf.status(), 401);
    let returned = all(from_scscf.headers(), Name::Via);
    // The S-CSCF writes `received` into the topmost (RFC 3261 §18.2.1).
    assert!(returned[0].starts_with(vias[0]) && returned[1..] == vias[1..], "{returned:?}");
    assert!(from_scscf.headers().get(Name::To).unwrap().contains("tag="));
    let challenge = from_scscf.headers().get(Name::WwwAuthenticate).unwrap();
    for part in ["ck=\"", "ik=\"", "algorithm=AKAv1-MD5", "nonce=\"", &format!("realm=\"{HOME}\"")]
    {
        assert!(challenge.contains(part), "{part} in {challenge}");
    }
    let (_, from_icscf) = wire.response("icscf", "pcscf");
    assert_eq!(all(from_icscf.headers(), Name::Via), vias[1..]);
    assert_eq!(from_icscf.headers().get(Name::WwwAuthenticate), Some(challenge));
    let (protected, from_pcscf) = wire.response("pcscf", "ue0");
    assert!(!protected, "no association yet on the UE's side");
    assert_eq!(all(from_pcscf.headers(), Name::Via), vias[2..]);
}

/// S-80..S-83, S-86..S-89, S-92, S-97..S-99, S-103: the second REGISTER and its 200; S-11: Gm sees four messages.
#[test]
fn the_second_register_hop_by_hop() {
    let (_, mut wire) = registered();
    let on_gm = wire.0.iter().filter(|(from, to, ..)| from == "ue0" || to == "ue0").count();
    assert_eq!(on_gm, 4, "REGISTER, 401, REGISTER, 200 and nothing else on Gm");
    let (_, first) = wire.request("ue0", "pcscf");
    for _ in 0..5 {
        wire.0.pop_front();
    }
    let (protected, second) = wire.request("ue0", "pcscf");
    assert!(protected);
    assert_eq!(second.call_id(), first.call_id());
    assert_eq!(second.cseq(), first.cseq() + 1);
    assert!(!second.headers().has(Name::Route));
    let (_, at_icscf) = wire.request("pcscf", "icscf");
    let authorization = at_icscf.headers().get(Name::Authorization).unwrap();
    assert!(authorization.contains("integrity-protected=\"yes\""));
    let (_, at_scscf) = wire.request("icscf", "scscf1");
    same(second.headers(), at_scscf.headers(), &UNTOUCHED);
    let (_, from_scscf) = wire.response("scscf1", "icscf");
    assert_eq!(from_scscf.status(), 200);
    let headers = from_scscf.headers();
    assert_eq!(all(headers, Name::Path), all(at_scscf.headers(), Name::Path));
    assert!(headers.get(Name::ServiceRoute).unwrap().contains("scscf1"));
    assert!(headers.get(Name::PAssociatedUri).is_some());
    assert!(headers.get(Name::PChargingVector).unwrap().contains("term-ioi"));
    let (_, from_icscf) = wire.response("icscf", "pcscf");
    let (protected, from_pcscf) = wire.response("pcscf", "ue0");
    assert!(protected);
    same(
        headers,
        from_icscf.headers(),
        &[Name::Path, Name::ServiceRoute, Name::PAssociatedUri, Name::Contact],
    );
    assert!(!from_pcscf.headers().has(Name::PChargingVector));
    assert_eq!(all(from_pcscf.headers(), Name::Via).len(), 1);
    assert!(wire.0.is_empty(), "nothing follows: {:?}", wire.0);
}

/// S-107..S-120: a deregistration in clear, in compact form, with its credentials doubled and without
/// an answer to a challenge, deregisters nobody: it is challenged, and the binding stays.
#[test]
fn a_compact_deregistration_in_clear_is_challenged_only() {
    let (mut ims, _) = registered();
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
