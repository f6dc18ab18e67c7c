//! Dialogues with a P-CSCF alone about SUBSCRIBE and NOTIFY (TS 24.229 §5.2.3, §5.2.6), with bytes on
//! both sides.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::ipsec::sa::{SaSet, SetId};
use common::limits::Limits;
use common::node::{Flow, Input, Node, Now, Output, Transport};
use common::random::Random;
use common::reginfo::{self, Contact, Event, RegInfo, Registration, State};
use common::restoration;
use common::sip::header::Name;
use common::sip::message::{Message, Request, Response};
use common::stats::{Samples, Value};
use pcscf::Pcscf;
use pcscf::config::{Config, Policy, RouteMismatch};

const UE: &str = "10.45.0.2";
const PCSCF: &str = "10.46.0.1";
const HOME: &str = "192.0.2.20:5060";
const SCSCF: &str = "192.0.2.31:5060";
const OFFER: &str = "ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans;spi-c=7001;\
                     spi-s=7002;port-c=31000;port-s=31001";

/// A P-CSCF with nothing around it but this test.
struct Lone {
    core: Pcscf,
    now: Now,
    sent: Vec<(Flow, Message)>,
    removed: Vec<SetId>,
    set: Option<SaSet>,
}

fn config(subscribes: bool) -> Config {
    let text = format!(
        r#"{{ "name": "pcscf1.visited.example", "visited_network": "visited.example",
             "gm": {{ "addresses": ["{PCSCF}"] }},
             "mw": {{ "listen": ["192.0.2.10:5060"], "entry_point": "sip:{HOME}" }},
             "reg_event": {{ "subscribe": {subscribes} }} }}"#
    );
    serde_json::from_str(&text).expect("a configuration")
}

impl Lone {
    fn with(config: Config) -> Lone {
        let core = Pcscf::new(config, Random::from_seed([7; 32])).expect("a P-CSCF");
        let now = Now::from_millis(1_000_000);
        Lone { core, now, sent: Vec::new(), removed: Vec::new(), set: None }
    }

    fn feed(&mut self, input: Input) {
        let mut out = Vec::new();
        self.core.handle(self.now, input, &mut out);
        for output in out {
            match output {
                Output::Sip { flow, bytes } => {
                    let message = Message::parse(bytes, &Limits::default());
                    self.sent.push((flow, message.expect("what we send can be read")));
                }
                Output::InstallSas { id, set } => {
                    self.set = Some(*set);
                    self.feed(Input::SasInstalled { id, result: Ok(()) });
                }
                Output::RemoveSas { set } => self.removed.push(set),
                // What is stored, and how long the data plane keeps it, is not looked at here.
                _ => {}
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(at) = self.core.next_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.feed(Input::Timeout);
        }
        self.now = until;
    }

    fn from_ue(&mut self, ue_port: u16, port: u16, text: &str) {
        let flow = Flow {
            transport: Transport::Udp,
            local: SocketAddr::new(PCSCF.parse().unwrap(), port),
            remote: SocketAddr::new(UE.parse().unwrap(), ue_port),
        };
        self.feed(Input::Sip { flow, bytes: Bytes::copy_from_slice(text.as_bytes()) });
    }

    /// Over the association from port_uc to port_ps.
    fn protected(&mut self, text: &str) {
        let ports = self.set.as_ref().expect("a set").ports;
        self.from_ue(ports.uc, ports.ps, text);
    }

    fn from_core(&mut self, bytes: Bytes) {
        let flow = Flow {
            transport: Transport::Udp,
            local: "192.0.2.10:5060".parse().unwrap(),
            remote: SCSCF.parse().unwrap(),
        };
        self.feed(Input::Sip { flow, bytes });
    }

    fn request(&mut self) -> (Flow, Request) {
        match self.sent.remove(0) {
            (flow, Message::Request(request)) => (flow, request),
            (_, other) => panic!("a request was to be sent: {other:?}"),
        }
    }

    fn response(&mut self, status: u16) -> (Flow, Response) {
        match self.sent.remove(0) {
            (flow, Message::Response(response)) => {
                assert_eq!(response.status(), status, "{}", response.reason());
                (flow, response)
            }
            (_, other) => panic!("a response was to be sent: {other:?}"),
        }
    }

    fn is_silent(&self) {
        assert!(self.sent.is_empty(), "{:?}", self.sent);
    }

    /// Registered for an hour.
    fn registered(config: Config) -> Lone {
        let mut lone = Lone::with(config);
        lone.registers(5060, 1, OFFER, "");
        lone
    }

    /// By a REGISTER in clear, or over the set that it has; with what it offers, and more in the URI of Contact.
    fn registers(&mut self, port: u16, cseq: u32, offer: &str, more: &str) {
        let lone = self;
        let written = |text: String| {
            text.replace(OFFER, offer).replace(">;expires", &format!("{more}>;expires"))
        };
        let first = written(register(port, cseq, ""));
        match port {
            5060 => lone.from_ue(5060, 5060, &first),
            _ => lone.protected(&first),
        }
        let (_, first) = lone.request();
        let mut challenge = first.response(401, "Unauthorized");
        challenge.headers_mut().append(
            Name::WwwAuthenticate,
            "Digest realm=\"home.example\",nonce=\"bm9uY2U=\",algorithm=AKAv1-MD5,qop=\"auth\",\
             ck=\"00112233445566778899aabbccddeeff\",ik=\"ffeeddccbbaa99887766554433221100\"",
        );
        lone.from_core(challenge.to_bytes());
        let (_, challenge) = lone.response(401);
        let list: Vec<_> = challenge.headers().lines(Name::SecurityServer).collect();
        let verify = format!("Security-Verify: {}\r\n", list.join(", "));
        lone.protected(&written(register(31_001, cseq + 1, &verify)));
        let (_, second) = lone.request();
        let mut response = accepted(&second);
        let contact = response.headers().get(Name::Contact).unwrap();
        let contact = contact.replace(">;expires", &format!("{more}>;expires"));
        response.headers_mut().set(Name::Contact, &contact);
        lone.from_core(response.to_bytes());
        let (_, response) = lone.response(200);
        assert!(response.headers().has(Name::ServiceRoute));
    }

    fn counter(&self, name: &str, label: &str) -> u64 {
        let mut samples = Samples::default();
        self.core.samples(&mut samples);
        let of = samples.0.iter().filter(|sample| {
            sample.name == name
                && (label.is_empty() || sample.labels.iter().any(|(_, value)| value == label))
        });
        of.map(|sample| match sample.value {
            Value::Counter(count) => count,
            Value::Gauge(value) => value as u64,
            _ => 0,
        })
        .sum()
    }

    /// The home network takes the P-CSCF's own SUBSCRIBE; gives it.
    fn watched(&mut self) -> Request {
        self.watched_for(600_000)
    }

    fn watched_for(&mut self, seconds: u32) -> Request {
        let (flow, subscribe) = self.request();
        assert_eq!(flow.remote, HOME.parse().unwrap());
        let mut response = subscribe.response(200, "OK");
        let headers = response.headers_mut();
        let to = format!("{};tag=home", subscribe.headers().get(Name::To).unwrap());
        headers.set(Name::To, &to);
        headers.append(Name::Contact, &format!("<sip:{SCSCF}>"));
        headers.append(Name::Expires, &seconds.to_string());
        self.from_core(response.to_bytes());
        subscribe
    }
}

fn register(port: u16, cseq: u32, more: &str) -> String {
    let digest = match more.is_empty() {
        true => "nonce=\"\", response=\"\"",
        false => "nonce=\"bm9uY2U=\", response=\"0123456789abcdef0123456789abcdef\"",
    };
    format!(
        "REGISTER sip:home.example SIP/2.0\r\n\
         Via: SIP/2.0/UDP {UE}:{port};branch=z9hG4bK{port}x{cseq};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:alice@home.example>;tag=a\r\n\
         To: <sip:alice@home.example>\r\nContact: <sip:{UE}:{port}>;expires=600000\r\n\
         Call-ID: call1\r\nCSeq: {cseq} REGISTER\r\nRequire: sec-agree\r\n\
         Proxy-Require: sec-agree\r\nSecurity-Client: {OFFER}\r\n{more}\
         Authorization: Digest username=\"alice@home.example\", realm=\"home.example\", \
         uri=\"sip:home.example\", {digest}\r\nContent-Length: 0\r\n\r\n"
    )
}

fn accepted(request: &Request) -> Response {
    let mut response = request.response(200, "OK");
    let headers = response.headers_mut();
    headers.append(Name::Path, "<sip:term@pcscf1.visited.example;lr>");
    headers.append(Name::ServiceRoute, &format!("<sip:orig@{SCSCF};lr>"));
    headers.append(Name::PAssociatedUri, "<sip:alice@home.example>, <tel:+12025550123>");
    headers.append(Name::Contact, &format!("<sip:{UE}:31001>;expires=3600"));
    response
}

/// The SUBSCRIBE of a phone behind its registration.
fn subscribe(changes: &[(&str, &str)]) -> String {
    let text = format!(
        "SUBSCRIBE sip:alice@home.example SIP/2.0\r\n\
         Via: SIP/2.0/UDP {UE}:31001;branch=z9hG4bKs1\r\nMax-Forwards: 70\r\n\
         Route: <sip:{PCSCF}:5064;lr>, <sip:orig@{SCSCF};lr>\r\n\
         From: <sip:alice@home.example>;tag=s\r\nTo: <sip:alice@home.example>\r\n\
         Call-ID: watch1\r\nCSeq: 1 SUBSCRIBE\r\nContact: <sip:{UE}:31001>\r\nEvent: reg\r\n\
         Expires: 600000\r\nAccept: application/reginfo+xml\r\nRequire: sec-agree\r\n\
         Proxy-Require: sec-agree\r\nSecurity-Verify: x;q=1\r\n\
         P-Preferred-Identity: <sip:alice@home.example>\r\nP-Asserted-Identity: <sip:forged@x>\r\n\
         P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=3114800001FFFFFFF\r\n\
         Content-Length: 0\r\n\r\n"
    );
    changes.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}

/// The S-CSCF takes it.
fn taken(subscribe: &Request) -> Response {
    let mut response = subscribe.response(200, "OK");
    let headers = response.headers_mut();
    if subscribe.to_tag().is_none() {
        let to = format!("{};tag=t", subscribe.headers().get(Name::To).unwrap());
        headers.set(Name::To, &to);
    }
    headers.copy_from(subscribe.headers(), Name::RecordRoute);
    headers.append(Name::Contact, &format!("<sip:{SCSCF}>"));
    headers.append(Name::Expires, "600000");
    headers.append(Name::PChargingVector, "icid-value=\"1\";orig-ioi=v;term-ioi=h");
    response
}

/// TS 24.229 §5.2.6.3.3, §5.2.6.3.4: the identity asserted, the route checked, what is between UE
/// and P-CSCF taken off; the answer shows the protected port and no charging.
#[test]
fn a_subscription_of_a_ue() {
    let mut lone = Lone::registered(config(false));
    lone.protected(&subscribe(&[]));
    let (flow, request) = lone.request();
    assert_eq!(flow.remote, SCSCF.parse().unwrap());
    let headers = request.headers();
    assert_eq!(headers.get(Name::Route), Some("<sip:orig@192.0.2.31:5060;lr>"));
    assert_eq!(
        headers.get(Name::RecordRoute),
        Some("<sip:mo.0a2d00027919@pcscf1.visited.example;lr>")
    );
    let asserted: Vec<_> = headers.values(Name::PAssertedIdentity).collect();
    assert_eq!(asserted, ["<sip:alice@home.example>"]);
    for name in [
        Name::PPreferredIdentity,
        Name::SecurityVerify,
        Name::Require,
        Name::ProxyRequire,
        Name::SecurityClient,
    ] {
        assert!(!headers.has(name), "{name:?}");
    }
    assert!(headers.get(Name::PChargingVector).unwrap().contains("Type 1visited.example"));
    assert!(headers.has(Name::PAccessNetworkInfo));
    assert_eq!(headers.get(Name::MaxForwards), Some("69"));
    lone.from_core(taken(&request).to_bytes());
    let set = lone.set.clone().unwrap();
    let (flow, response) = lone.response(200);
    assert_eq!((flow.local.port(), flow.remote.port()), (set.ports.pc, set.ports.us));
    let headers = response.headers();
    assert_eq!(headers.get(Name::RecordRoute), Some("<sip:mo@10.46.0.1:5064;lr>"));
    assert!(!headers.has(Name::PChargingVector));
    assert_eq!(headers.values(Name::Via).count(), 1);
    assert_eq!(lone.core.owed(), 0);

    // Within the dialog, by the recorded route; of no other dialog.
    let again = [
        ("SUBSCRIBE sip:alice@home.example", &format!("SUBSCRIBE sip:{SCSCF}")[..]),
        (", <sip:orig@192.0.2.31:5060;lr>", ""),
        ("To: <sip:alice@home.example>", "To: <sip:alice@home.example>;tag=t"),
        ("CSeq: 1", "CSeq: 2"),
        ("z9hG4bKs1", "z9hG4bKs2"),
    ];
    lone.protected(&subscribe(&again));
    let (flow, request) = lone.request();
    assert_eq!(flow.remote, SCSCF.parse().unwrap());
    assert!(!request.headers().has(Name::Route));
    lone.from_core(taken(&request).to_bytes());
    lone.response(200);
    for (number, change) in [("tag=t", "tag=x"), ("watch1", "watch9")].into_iter().enumerate() {
        let branch = format!("z9hG4bKo{number}");
        let text = subscribe(&again).replace(change.0, change.1).replace("z9hG4bKs2", &branch);
        lone.protected(&text);
        lone.response(481);
    }
}

/// RFC 3261 §12.2: the route of a dialog is that of its first answer; a later one that does not repeat it takes
/// nothing away.
#[test]
fn the_route_of_a_dialog_stays() {
    const RECORDED: &str = "<sip:192.0.2.77;lr>";
    let mut lone = Lone::registered(config(false));
    lone.protected(&subscribe(&[]));
    let (_, request) = lone.request();
    let mut response = taken(&request);
    response.headers_mut().push_front(Name::RecordRoute, RECORDED);
    lone.from_core(response.to_bytes());
    lone.response(200);
    for cseq in [2, 3] {
        lone.protected(&subscribe(&[
            ("SUBSCRIBE sip:alice@home.example", &format!("SUBSCRIBE sip:{SCSCF}")[..]),
            (", <sip:orig@192.0.2.31:5060;lr>", &format!(", {RECORDED}")),
            ("To: <sip:alice@home.example>", "To: <sip:alice@home.example>;tag=t"),
            ("CSeq: 1", &format!("CSeq: {cseq}")),
            ("z9hG4bKs1", &format!("z9hG4bKr{cseq}")),
        ]));
        let (flow, request) = lone.request();
        assert_eq!(flow.remote.ip().to_string(), "192.0.2.77", "{cseq}");
        assert_eq!(request.headers().get(Name::Route), Some(RECORDED));
        let mut response = taken(&request);
        response.headers_mut().remove(Name::RecordRoute);
        lone.from_core(response.to_bytes());
        lone.response(200);
    }
}

/// TS 24.229 §5.2.6.3.3: another identity than may be used is replaced by the default one; another
/// route than the Service-Route is replaced, or refused where the operator wants that.
#[test]
fn identity_and_route_are_the_networks() {
    let mut lone = Lone::registered(config(false));
    for (number, (preferred, asserted)) in [
        ("<tel:+1-202-555-0123>", "<tel:+1-202-555-0123>"),
        ("<sip:bob@home.example>", "<sip:alice@home.example>"),
    ]
    .into_iter()
    .enumerate()
    {
        let branch = format!("z9hG4bKi{number}");
        lone.protected(&subscribe(&[
            ("Identity: <sip:alice@home.example>", &format!("Identity: {preferred}")),
            ("z9hG4bKs1", &branch),
            ("watch1", &branch),
            ("<sip:orig@192.0.2.31:5060;lr>", "<sip:elsewhere.example;lr>"),
        ]));
        let (flow, request) = lone.request();
        assert_eq!(flow.remote, SCSCF.parse().unwrap());
        assert_eq!(request.headers().get(Name::PAssertedIdentity), Some(asserted));
        assert_eq!(request.headers().get(Name::Route), Some("<sip:orig@192.0.2.31:5060;lr>"));
        lone.from_core(request.response(403, "Forbidden").to_bytes());
        lone.response(403);
    }
    let mut strict = config(false);
    strict.gm.route_mismatch = RouteMismatch::Reject;
    let mut lone = Lone::registered(strict);
    lone.protected(&subscribe(&[("<sip:orig@192.0.2.31:5060;lr>", "<sip:elsewhere.example;lr>")]));
    lone.response(400);
    lone.protected(&subscribe(&[
        ("Proxy-Require: sec-agree", "Proxy-Require: wings"),
        ("s1", "s3"),
    ]));
    assert_eq!(lone.response(420).1.headers().get(Name::Unsupported), Some("wings"));
}

/// TS 24.229 §5.2.2.3; registration.md P-24: the Service-Route of a later 200 stands in the place of the one before.
#[test]
fn another_service_route_replaces_the_first() {
    const OTHER: &str = "<sip:orig@192.0.2.32:5060;lr>";
    let mut strict = config(false);
    strict.gm.route_mismatch = RouteMismatch::Reject;
    let mut lone = Lone::registered(strict);
    lone.protected(&register(31_001, 3, "X: y\r\n"));
    let (_, refresh) = lone.request();
    let mut response = accepted(&refresh);
    response.headers_mut().set(Name::ServiceRoute, OTHER);
    lone.from_core(response.to_bytes());
    lone.response(200);
    lone.protected(&subscribe(&[]));
    lone.response(400);
    lone.protected(&subscribe(&[
        ("<sip:orig@192.0.2.31:5060;lr>", OTHER),
        ("z9hG4bKs1", "z9hG4bKs2"),
    ]));
    let (flow, request) = lone.request();
    assert_eq!(flow.remote, "192.0.2.32:5060".parse().unwrap());
    let routes: Vec<_> = request.headers().values(Name::Route).collect();
    assert_eq!(routes, [OTHER]);
}

/// TS 24.229 §5.2.2.3, §5.2.6.3.3: identities that the home network has run together, without a comma, are two all
/// the same; a phone may watch, and prefer, a local number (RFC 3966 §5.1.5); what is no identity is none.
#[test]
fn identities_as_others_write_them() {
    let mut lone = Lone::registered(config(false));
    lone.protected(&register(31_001, 3, "X: y\r\n"));
    let (_, refresh) = lone.request();
    let mut response = accepted(&refresh);
    let joined = "<sip:alice@home.example>  <tel:0398765432100>, odd";
    response.headers_mut().set(Name::PAssociatedUri, joined);
    lone.from_core(response.to_bytes());
    lone.response(200);
    for (number, (preferred, asserted)) in [
        ("tel:0398765432100", "<tel:0398765432100>"),
        ("odd", "<sip:alice@home.example>"),
        ("tel:0398765432101", "<sip:alice@home.example>"),
    ]
    .into_iter()
    .enumerate()
    {
        let branch = format!("z9hG4bKl{number}");
        let uri = if number == 0 { preferred } else { "sip:alice@home.example" };
        lone.protected(&subscribe(&[
            ("SUBSCRIBE sip:alice@home.example", &format!("SUBSCRIBE {uri}")),
            (
                "P-Preferred-Identity: <sip:alice@home.example>",
                &format!("P-Preferred-Identity: <{preferred}>"),
            ),
            ("z9hG4bKs1", &branch),
            ("watch1", &branch),
        ]));
        let (_, request) = lone.request();
        assert_eq!(request.uri(), uri);
        assert_eq!(request.headers().get(Name::PAssertedIdentity), Some(asserted));
        lone.from_core(request.response(403, "Forbidden").to_bytes());
        lone.response(403);
    }
}

/// RFC 3261 §7.3.1: both Vias of an answer in one line, without a blank between them.
#[test]
fn an_answer_with_vias_in_one_line() {
    let mut lone = Lone::registered(config(false));
    lone.from_core(notify(&format!("sip:{UE}:31001")));
    let (_, request) = lone.request();
    let vias: Vec<_> = request.headers().values(Name::Via).map(str::to_owned).collect();
    assert_eq!(vias.len(), 2);
    let answer = format!(
        "SIP/2.0 200 OK\r\nVia: {}\r\nTo: <sip:alice@home.example>;tag=s\r\n\
         From: <sip:alice@home.example>;tag=t\r\nCSeq: 1 NOTIFY\r\nCall-ID: watch1\r\n\
         Content-Length: 0\r\nP-Access-Network-Info: 3GPP-E-UTRAN-FDD; utran-cell-id-3gpp=1\r\n\r\n",
        vias.join(",")
    );
    lone.protected(&answer);
    let (flow, response) = lone.response(200);
    assert_eq!(flow.remote, SCSCF.parse().unwrap());
    let left: Vec<_> = response.headers().values(Name::Via).collect();
    assert_eq!(left, [vias[1].as_str()]);
}

/// ipsec.md N-01; TS 24.229 §5.2.6.3.2: not in clear, not without registration; where the policy
/// allows phones without associations, in clear.
#[test]
fn who_may_send() {
    let mut lone = Lone::with(config(false));
    lone.from_ue(5060, 5060, &subscribe(&[]));
    lone.response(403);
    let mut lone = Lone::registered(config(false));
    lone.from_ue(5060, 5060, &subscribe(&[]));
    lone.response(403);
    lone.protected(&subscribe(&[]).replace("SUBSCRIBE", "MESSAGE"));
    lone.response(501);

    let mut open = config(false);
    open.ipsec.policy = Policy::Off;
    let mut lone = Lone::with(open);
    let plain = |text: String| text.replace("31001", "5060").replace(":5064;lr", ":5060;lr");
    lone.from_ue(5060, 5060, &plain(register(5060, 1, "")));
    let (_, request) = lone.request();
    let response = String::from_utf8(accepted(&request).to_bytes().to_vec()).unwrap();
    lone.from_core(plain(response).into());
    lone.response(200);
    lone.from_ue(5060, 5060, &plain(subscribe(&[])));
    let (_, request) = lone.request();
    lone.from_core(taken(&request).to_bytes());
    let (flow, response) = lone.response(200);
    assert_eq!(flow.local.port(), 5060);
    assert_eq!(response.headers().get(Name::RecordRoute), Some("<sip:mo@10.46.0.1:5060;lr>"));
    lone.from_core(notify(&format!("sip:{UE}:5060")));
    let (flow, _) = lone.request();
    assert_eq!((flow.local.port(), flow.remote.port()), (5060, 5060));
}

fn notify(uri: &str) -> Bytes {
    format!(
        "NOTIFY {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.31:5060;branch=z9hG4bKn1\r\n\
         Max-Forwards: 70\r\nRoute: <sip:mo@pcscf1.visited.example;lr>\r\n\
         From: <sip:alice@home.example>;tag=t\r\nTo: <sip:alice@home.example>;tag=s\r\n\
         Call-ID: watch1\r\nCSeq: 1 NOTIFY\r\nContact: <sip:{SCSCF}>\r\nEvent: reg\r\n\
         Subscription-State: active;expires=600000\r\n\
         P-Charging-Vector: icid-value=\"1\"\r\nContent-Length: 0\r\n\r\n"
    )
    .into()
}

/// TS 24.229 §5.2.6.4: on the set in use, with port_ps in Via (pitfall 17), without charging; the
/// answer goes back.
#[test]
fn a_notify_for_a_ue() {
    let mut lone = Lone::registered(config(false));
    lone.from_core(notify(&format!("sip:someone@{UE}:31001")));
    let set = lone.set.clone().unwrap();
    let (flow, request) = lone.request();
    assert_eq!((flow.local.port(), flow.remote.port()), (set.ports.pc, set.ports.us));
    let headers = request.headers();
    let via = headers.values(Name::Via).next().unwrap();
    assert!(via.starts_with("SIP/2.0/UDP 10.46.0.1:5064;branch="), "{via}");
    assert!(!headers.has(Name::Route) && !headers.has(Name::PChargingVector));
    let mut answer = request.response(200, "OK");
    answer.headers_mut().append(Name::PAssertedIdentity, "<sip:forged@x>");
    lone.protected(std::str::from_utf8(&answer.to_bytes()).unwrap());
    let (flow, response) = lone.response(200);
    assert_eq!(flow.remote, SCSCF.parse().unwrap());
    assert_eq!(response.headers().values(Name::Via).count(), 1);
    assert!(!response.headers().has(Name::PAssertedIdentity));
    assert_eq!(lone.core.owed(), 0);
}

/// TS 24.229 §5.2.6.4: nobody there: 480; a silent UE: 408; not by our Route: 403.
#[test]
fn a_notify_for_nobody() {
    let mut lone = Lone::registered(config(false));
    for uri in ["sip:10.45.0.3:31001", "sip:10.45.0.2:31002", "sip:alice@home.example", "tel:+1"] {
        let text = String::from_utf8(notify(uri).to_vec()).unwrap();
        lone.from_core(text.replace("z9hG4bKn1", &format!("z9hG4bK{}", uri.len())).into());
        lone.response(480);
    }
    let text = String::from_utf8(notify(&format!("sip:{UE}:31001")).to_vec()).unwrap();
    lone.from_core(text.replace("pcscf1.visited", "other").into());
    lone.response(403);
    lone.from_core(text.replace("z9hG4bKn1", "z9hG4bKlate").into());
    lone.pass(Duration::from_secs(129));
    assert!(lone.sent.iter().any(|(_, message)| {
        matches!(message, Message::Response(response) if response.status() == 408)
    }));
    assert_eq!(lone.core.owed(), 0);
}

/// TS 24.229 §5.2.6.4, RFC 3327 §5.1: Path says where the phone is, whatever its Contact does: a name, an address of
/// another interface, one that nobody has; by TCP, where that is what Contact asks for (RFC 3263 §4.1).
#[test]
fn a_request_by_path_whatever_the_contact_is() {
    for (number, (contact, transport)) in [
        ("sip:172.16.9.9:5060", Transport::Udp),
        ("sip:alice@10.45.0.2", Transport::Udp),
        ("sip:phone.invalid;transport=udp", Transport::Udp),
        ("sip:10.45.0.2:31001;transport=tcp", Transport::Tcp),
        ("sip:172.16.9.9:5060;transport=TCP", Transport::Tcp),
    ]
    .into_iter()
    .enumerate()
    {
        let mut lone = Lone::registered(config(false));
        let set = lone.set.clone().unwrap();
        let text = String::from_utf8(notify(contact).to_vec()).unwrap();
        let text = text.replace("sip:mo@", "sip:term.0a2d00027919@");
        lone.from_core(text.replace("z9hG4bKn1", &format!("z9hG4bKp{number}")).into());
        let (flow, request) = lone.request();
        assert_eq!(flow.transport, transport, "{contact}");
        assert_eq!((flow.local.port(), flow.remote.port()), (set.ports.pc, set.ports.us));
        assert_eq!(flow.remote.ip().to_string(), UE);
        assert_eq!(request.uri(), contact);
    }
}

/// RFC 5626 §5.3: by a flow to its UE, whoever is in the Request-URI; a flow that is gone is 430.
#[test]
fn a_request_by_a_flow() {
    let mut lone = Lone::registered(config(false));
    let by_flow = |user: &str, branch: &str| {
        let text = String::from_utf8(notify("sip:alice@home.example;gr=urn:x").to_vec()).unwrap();
        let text = text.replace("sip:mo@", &format!("sip:{user}@")).replace(";lr>", ";lr;ob>");
        Bytes::from(text.replace("z9hG4bKn1", branch))
    };
    lone.from_core(by_flow("term.0a2d00027919", "z9hG4bKf1"));
    let set = lone.set.clone().unwrap();
    assert_eq!((lone.set.as_ref().map(|set| set.ports.us), UE), (Some(31_001), "10.45.0.2"));
    let (flow, request) = lone.request();
    assert_eq!((flow.local.port(), flow.remote.port()), (set.ports.pc, set.ports.us));
    assert!(!request.headers().has(Name::Route));
    lone.protected(std::str::from_utf8(&request.response(200, "OK").to_bytes()).unwrap());
    lone.response(200);
    for (user, branch) in [("term.0a2d0002791b", "z9hG4bKf2"), ("term.0a2d00037919", "z9hG4bKf3")] {
        lone.from_core(by_flow(user, branch));
        lone.response(430);
    }
}

/// A NOTIFY to the P-CSCF about the UE's contact.
fn document(
    subscribe: &Request,
    cseq: u32,
    state: &str,
    contacts: &[(&str, Event, bool, u64)],
) -> Bytes {
    let registrations = contacts.iter().map(|(aor, event, is_active, expires)| Registration {
        aor: (*aor).to_owned(),
        id: (*aor).to_owned(),
        state: if *is_active { State::Active } else { State::Terminated },
        wildcarded_identity: None,
        contacts: vec![Contact {
            id: "c".to_owned(),
            is_active: *is_active,
            event: *event,
            expires_seconds: Some(*expires),
            uri: format!("sip:{UE}:31001"),
            ..Contact::default()
        }],
    });
    let info = RegInfo { version: cseq, is_full: true, registrations: registrations.collect() };
    notify_of(subscribe, cseq, state, &info)
}

/// A NOTIFY to the P-CSCF in the dialog of its SUBSCRIBE.
fn notify_of(subscribe: &Request, cseq: u32, state: &str, info: &RegInfo) -> Bytes {
    let mut request = Request::new("NOTIFY", "sip:pcscf1.visited.example");
    let headers = request.headers_mut();
    headers.append(Name::Via, &format!("SIP/2.0/UDP 192.0.2.31:5060;branch=z9hG4bKd{cseq}"));
    headers.append(Name::MaxForwards, "70");
    headers.append(Name::From, &format!("{};tag=home", subscribe.headers().get(Name::To).unwrap()));
    headers.append(Name::To, subscribe.headers().get(Name::From).unwrap());
    headers.append(Name::CallId, subscribe.call_id());
    headers.append(Name::CSeq, &format!("{cseq} NOTIFY"));
    headers.append(Name::Contact, &format!("<sip:{SCSCF}>"));
    headers.append(Name::Event, "reg");
    headers.append(Name::SubscriptionState, state);
    request.set_body(reginfo::CONTENT_TYPE, info.to_xml().into());
    request.to_bytes()
}

const ALICE: &str = "sip:alice@home.example";
const NUMBER: &str = "tel:+12025550123";

/// TS 24.229 §5.2.3; S-101: behind the 200, to the entry point, about the default identity, in the
/// P-CSCF's own name; once, and renewed in time within the dialog.
#[test]
fn the_pcscf_watches() {
    let mut lone = Lone::registered(config(true));
    let subscribe = lone.watched();
    assert_eq!(subscribe.uri(), ALICE);
    let headers = subscribe.headers();
    assert!(headers.get(Name::From).unwrap().starts_with("<sip:pcscf1.visited.example>;tag="));
    assert_eq!(headers.get(Name::To), Some("<sip:alice@home.example>"));
    assert_eq!(headers.get(Name::PAssertedIdentity), Some("<sip:pcscf1.visited.example>"));
    assert_eq!(headers.get(Name::Contact), Some("<sip:pcscf1.visited.example>"));
    assert_eq!(headers.get(Name::Event), Some("reg"));
    assert_eq!(headers.get(Name::Expires), Some("600000"));
    assert!(headers.has(Name::PChargingVector) && !headers.has(Name::Route));
    let active = [(ALICE, Event::Registered, true, 3_600), (NUMBER, Event::Created, true, 3_600)];
    lone.from_core(document(&subscribe, 1, "active;expires=600000", &active));
    lone.response(200);
    lone.is_silent();
    assert_eq!(lone.core.owed(), 0);
    assert_eq!(lone.counter("tessera_pcscf_watches", ""), 1);
    // Late, unreadable, of nobody.
    let late = document(&subscribe, 1, "active", &active);
    let late = String::from_utf8(late.to_vec()).unwrap().replace("z9hG4bKd1", "z9hG4bKlate");
    lone.from_core(late.clone().into());
    lone.response(500);
    let broken = late.replace("CSeq: 1", "CSeq: 9").replace("z9hG4bKlate", "z9hG4bKbroken");
    lone.from_core(broken.replace("<reginfo", "<reginfa").into());
    lone.response(400);
    lone.from_core(broken.replace("broken", "odd").replace("tag=home", "tag=odd").into());
    lone.response(481);
}

/// TS 24.229 §5.1.1.3, §5.2.3, RFC 6665 §4.1.2.2: renewed 600 s before the end of more than 1200 s, else after half
/// of what was granted, and never without a pause.
#[test]
fn a_watch_is_renewed_in_time() {
    for (granted, renewed) in
        [(0, 30), (1, 30), (100, 50), (600, 300), (1_200, 600), (1_201, 601), (3_000, 2_400)]
    {
        let mut lone = Lone::registered(config(true));
        let first = lone.watched_for(granted);
        lone.pass(Duration::from_secs(renewed - 1));
        lone.is_silent();
        lone.pass(Duration::from_millis(1_200));
        let (_, second) = lone.request();
        assert_eq!(second.call_id(), first.call_id(), "{granted}");
        assert!(second.to_tag().is_some(), "{granted}");
        // The home network knows that dialog no more: another one, later.
        lone.from_core(second.response(481, "Subscription Does Not Exist").to_bytes());
        lone.pass(Duration::from_secs(299));
        lone.is_silent();
        lone.pass(Duration::from_secs(2));
        let (_, third) = lone.request();
        assert_ne!(third.call_id(), first.call_id(), "{granted}");
    }
}

/// TS 24.229 §5.2.3: a phone that registers initially, having lost what it had, is watched anew, and what an earlier S-CSCF still
/// says ends nothing; a re-registration leaves subscription and dialogs as they are, and so does an emergency registration
/// (§5.1.6.2).
#[test]
fn an_initial_registration_is_watched_anew() {
    const NEXT: &str = "ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans;spi-c=7003;\
                        spi-s=7004;port-c=31002;port-s=31001";
    for (is_initial, more) in [(true, ""), (false, ""), (true, ";sos")] {
        let mut lone = Lone::registered(config(true));
        let first = lone.set.clone().unwrap().id;
        let earlier = lone.watched();
        lone.protected(&subscribe(&[]));
        let (_, request) = lone.request();
        lone.from_core(taken(&request).to_bytes());
        lone.response(200);
        lone.registers(if is_initial { 5060 } else { 31_001 }, 3, NEXT, more);
        if !more.is_empty() {
            lone.is_silent();
            assert_eq!(lone.counter("tessera_pcscf_emergency_registrations", ""), 1);
            assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), 1);
            // What the home network says of one contact ends nothing of the other.
            let ended = [(ALICE, Event::Rejected, false, 0), (NUMBER, Event::Rejected, false, 0)];
            let text = document(&earlier, 1, "active;expires=60", &ended).to_vec();
            let text = String::from_utf8(text).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let length = format!("Content-Length: {}", body.len());
            let body = body
                .replace(&format!("sip:{UE}:31001"), &format!("sip:{UE}:31001;sos"))
                .replace("state=\"terminated\">\n<contact", "state=\"active\">\n<contact");
            let head = head.replace(&length, &format!("Content-Length: {}", body.len()));
            lone.from_core(format!("{head}\r\n\r\n{body}").into());
            lone.response(200);
            assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 2);
            lone.from_core(document(&earlier, 2, "terminated;reason=rejected", &ended));
            lone.response(200);
            assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
            assert_eq!(lone.counter("tessera_pcscf_emergency_registrations", ""), 1);
            lone.pass(Duration::from_secs(129));
            assert_eq!(lone.removed, [first]);
            continue;
        }
        assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), u64::from(!is_initial));
        let current = if is_initial { lone.watched() } else { earlier.clone() };
        assert_eq!(current.call_id() == earlier.call_id(), !is_initial);
        lone.is_silent();
        let ended = [(ALICE, Event::Deactivated, false, 0), (NUMBER, Event::Deactivated, false, 0)];
        lone.from_core(document(&earlier, 1, "terminated;reason=deactivated", &ended));
        lone.response(if is_initial { 481 } else { 200 });
        let left = lone.counter("tessera_pcscf_registrations", "");
        assert_eq!(left, u64::from(is_initial));
        if is_initial {
            lone.from_core(document(&current, 2, "terminated;reason=deactivated", &ended));
            lone.response(200);
            assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
        }
    }
}

/// TS 24.229 §5.2.5.2; S-123: what the home network has ended is ended here: the registration at
/// once, the associations when the NOTIFY to the UE has passed.
#[test]
fn the_home_network_deregisters() {
    for event in [Event::Deactivated, Event::Rejected, Event::Expired] {
        let mut lone = Lone::registered(config(true));
        let subscribe = lone.watched();
        let ended = [(ALICE, event, false, 0), (NUMBER, event, false, 0)];
        lone.from_core(document(&subscribe, 1, "terminated;reason=x", &ended));
        lone.response(200);
        lone.is_silent();
        assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0, "{event:?}");
        assert_eq!(lone.counter("tessera_pcscf_watches", ""), 0);
        lone.pass(Duration::from_secs(127));
        assert_eq!(lone.removed, []);
        lone.pass(Duration::from_secs(2));
        assert_eq!(lone.removed, [lone.set.clone().unwrap().id]);
        // Nobody speaks on it any more, and the copy of the UE is still passed on before.
    }
    let mut lone = Lone::registered(config(true));
    let subscribe = lone.watched();
    let ended = [(ALICE, Event::Deactivated, false, 0), (NUMBER, Event::Deactivated, false, 0)];
    lone.from_core(document(&subscribe, 1, "terminated;reason=deactivated", &ended));
    lone.response(200);
    lone.from_core(notify(&format!("sip:{UE}:31001")));
    let (flow, _) = lone.request();
    assert_eq!(flow.remote.port(), 31_001);
}

/// TS 24.229 §5.2.5.2, §5.4.2.1.2: the P-CSCF hears of the end before the phone has subscribed: its SUBSCRIBE passes, and so does
/// the NOTIFY in that dialog; until nobody can be under way any more.
#[test]
fn the_end_is_told_to_a_phone_that_subscribes_behind_it() {
    let mut lone = Lone::registered(config(true));
    let watch = lone.watched();
    let ended = [(ALICE, Event::Rejected, false, 0), (NUMBER, Event::Rejected, false, 0)];
    lone.from_core(document(&watch, 1, "terminated;reason=rejected", &ended));
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    lone.protected(&subscribe(&[]));
    let (_, request) = lone.request();
    assert_eq!(request.headers().get(Name::PAssertedIdentity), Some("<sip:alice@home.example>"));
    lone.from_core(taken(&request).to_bytes());
    lone.response(200);
    lone.from_core(notify("sip:phone.invalid"));
    let (flow, _) = lone.request();
    assert_eq!(flow.remote.port(), 31_001);
    lone.pass(Duration::from_secs(100));
    assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), 1);
    lone.pass(Duration::from_secs(29));
    assert_eq!(lone.removed, [lone.set.clone().unwrap().id]);
    assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), 0);
}

/// TS 24.229 §5.2.3, §5.2.5.2; RFC 3680 §4.1: the P-CSCF's own SUBSCRIBE finds nobody registered any more; what the phone is told in the end
/// of its subscription ends the registration here, too.
#[test]
fn the_end_that_only_the_phone_is_told() {
    const END: &str = "terminated;reason=rejected";
    let of_another = ("SUBSCRIBE sip:alice@home.example", "SUBSCRIBE sip:bob@home.example");
    for (state, change, tag, left) in [
        (END, None, "t", 0),
        ("active;expires=60", None, "t", 1),
        // Not about its own registration, or not from whom it has subscribed with.
        (END, Some(("Event: reg", "Event: presence")), "t", 1),
        (END, Some(of_another), "t", 1),
        (END, None, "x", 1),
    ] {
        let mut lone = Lone::registered(config(true));
        let (_, watch) = lone.request();
        lone.from_core(watch.response(480, "Temporarily Unavailable").to_bytes());
        lone.protected(&subscribe(change.as_slice()));
        let (_, request) = lone.request();
        lone.from_core(taken(&request).to_bytes());
        lone.response(200);
        let ended = [(ALICE, Event::Rejected, false, 0), (NUMBER, Event::Rejected, false, 0)];
        let text = String::from_utf8(document(&watch, 1, state, &ended).to_vec()).unwrap();
        let text = text
            .replace("NOTIFY sip:pcscf1.visited.example ", &format!("NOTIFY sip:{UE}:31001 "))
            .replace("Max-Forwards", "Route: <sip:mo@pcscf1.visited.example;lr>\r\nMax-Forwards")
            .replace(watch.call_id(), "watch1")
            .replace(watch.headers().get(Name::From).unwrap(), "<sip:alice@home.example>;tag=s")
            .replace(";tag=home", &format!(";tag={tag}"));
        lone.from_core(text.into());
        let (flow, notify) = lone.request();
        assert_eq!(flow.remote.port(), 31_001);
        assert!(notify.body().starts_with(b"<?xml"));
        let case = format!("{state} {change:?} {tag}");
        assert_eq!(lone.counter("tessera_pcscf_registrations", ""), left, "{case}");
    }
}

/// RFC 3261 §12: a dialog is named by Call-ID and both tags. Who repeats the Call-ID and the tag of another UE hears nothing of
/// what is for that one, and ends nothing but his own.
#[test]
fn dialogs_of_two_with_one_call_id() {
    let mut open = config(false);
    open.ipsec.policy = Policy::Off;
    let mut lone = Lone::with(open);
    const BOB: &str = "10.45.0.3";
    let written = |text: String, address: &str, branch: &str| {
        let text = text.replace("31001", "5060").replace(":5064;lr", ":5060;lr");
        let text = text.replace(UE, address).replace("branch=", &format!("branch={branch}"));
        if address == BOB { text.replace("alice", "bob") } else { text }
    };
    let says = |lone: &mut Lone, address: &str, text: String, tag: &str| {
        let flow = Flow {
            transport: Transport::Udp,
            local: SocketAddr::new(PCSCF.parse().unwrap(), 5060),
            remote: SocketAddr::new(address.parse().unwrap(), 5060),
        };
        lone.feed(Input::Sip { flow, bytes: text.into() });
        let (_, request) = lone.request();
        let response = match tag.is_empty() {
            true => accepted(&request),
            false => taken(&request),
        };
        let text = String::from_utf8(response.to_bytes().to_vec()).unwrap();
        let text = written(text, address, "").replace(";tag=t\r\n", &format!(";tag={tag}\r\n"));
        lone.from_core(text.into());
        let (flow, _) = lone.response(200);
        assert_eq!(flow.remote.ip().to_string(), address);
    };
    for (address, tag) in [(UE, "t"), (BOB, "u")] {
        let text = written(register(5060, 1, ""), address, &format!("z9hG4bKr{tag}"));
        says(&mut lone, address, text, "");
        let text = written(subscribe(&[]), address, &format!("z9hG4bK{tag}"));
        says(&mut lone, address, text, tag);
    }
    let told = |lone: &mut Lone, tag: &str, branch: &str| {
        let text = String::from_utf8(notify("sip:phone.invalid").to_vec()).unwrap();
        let text = text.replace("z9hG4bKn1", branch).replace(";tag=t\r\n", tag);
        lone.from_core(text.into());
        lone.sent.remove(0).0.remote.ip().to_string()
    };
    assert_eq!(told(&mut lone, ";tag=t\r\n", "z9hG4bKn1"), UE);
    assert_eq!(told(&mut lone, ";tag=u\r\n", "z9hG4bKn2"), BOB);
    // Nobody's.
    assert_eq!(told(&mut lone, ";tag=v\r\n", "z9hG4bKn3"), "192.0.2.31");
    let again = subscribe(&[
        ("SUBSCRIBE sip:alice@home.example", &format!("SUBSCRIBE sip:{SCSCF}")[..]),
        (", <sip:orig@192.0.2.31:5060;lr>", ""),
        ("To: <sip:alice@home.example>", "To: <sip:alice@home.example>;tag=u"),
        ("CSeq: 1", "CSeq: 2"),
    ]);
    let flow = Flow {
        transport: Transport::Udp,
        local: SocketAddr::new(PCSCF.parse().unwrap(), 5060),
        remote: SocketAddr::new(BOB.parse().unwrap(), 5060),
    };
    lone.feed(Input::Sip { flow, bytes: written(again, BOB, "z9hG4bKend").into() });
    let (_, request) = lone.request();
    lone.from_core(request.response(481, "Subscription Does Not Exist").to_bytes());
    lone.response(481);
    assert_eq!(told(&mut lone, ";tag=u\r\n", "z9hG4bKn4"), "192.0.2.31");
    assert_eq!(told(&mut lone, ";tag=t\r\n", "z9hG4bKn5"), UE);
}

/// RFC 3261 §18.2.2, RFC 3581 §4: a phone in clear behind a NAT is asked in its dialogs where it registered from, whatever
/// private address its Contact has; by its new port, once it has registered from there; also of its end.
#[test]
fn a_dialog_of_a_phone_behind_a_nat() {
    let mut open = config(true);
    open.ipsec.policy = Policy::Off;
    let mut lone = Lone::with(open);
    let private = |text: String| {
        [31_001, 5060]
            .iter()
            .fold(text, |text, port| text.replace(&format!("{UE}:{port}"), "192.168.1.2:5060"))
            .replace(":5064;lr", ":5060;lr")
    };
    let registers = |lone: &mut Lone, port: u16, cseq: u32| {
        lone.from_ue(port, 5060, &private(register(5060, cseq, "")));
        let (_, request) = lone.request();
        let response = String::from_utf8(accepted(&request).to_bytes().to_vec()).unwrap();
        lone.from_core(private(response).into());
        let (flow, _) = lone.response(200);
        assert_eq!(flow.remote.port(), port);
    };
    registers(&mut lone, 20_001, 1);
    let watch = lone.watched();
    lone.from_ue(20_001, 5060, &private(subscribe(&[])));
    let (_, request) = lone.request();
    lone.from_core(taken(&request).to_bytes());
    lone.response(200);
    let told_at = |lone: &mut Lone, number: u32| {
        let text = String::from_utf8(notify("sip:192.168.1.2:5060").to_vec()).unwrap();
        lone.from_core(text.replace("z9hG4bKn1", &format!("z9hG4bKn{number}")).into());
        lone.request().0.remote
    };
    let outside = |port: u16| SocketAddr::new(UE.parse().unwrap(), port);
    assert_eq!(told_at(&mut lone, 1), outside(20_001));
    registers(&mut lone, 20_008, 2);
    assert_eq!(told_at(&mut lone, 2), outside(20_008));
    let ended = [(ALICE, Event::Rejected, false, 0), (NUMBER, Event::Rejected, false, 0)];
    let text = document(&watch, 1, "terminated;reason=rejected", &ended).to_vec();
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let body = body.replace(&format!("{UE}:31001"), "192.168.1.2:5060");
    let head: Vec<&str> = head.lines().filter(|line| !line.starts_with("Content-Le")).collect();
    let length = body.len();
    lone.from_core(
        format!("{}\r\nContent-Length: {length}\r\n\r\n{body}", head.join("\r\n")).into(),
    );
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    assert_eq!(told_at(&mut lone, 3), outside(20_008));
}

/// TS 24.229 §5.2.6.3.3, §5.2.6.4: of several phones in clear behind one NAT each speaks for itself, and is asked for itself, by the
/// port that the NAT has for it; also when one is leaving. From another port speaks none of them.
#[test]
fn phones_in_clear_behind_one_nat() {
    let mut open = config(true);
    open.ipsec.policy = Policy::Off;
    let mut lone = Lone::with(open);
    let written = |text: String, user: &str| {
        let text = text.replace("alice", user).replace(":5064;lr", ":5060;lr");
        [31_001, 5060].iter().fold(text, |text, port| {
            text.replace(&format!("{UE}:{port}"), &format!("192.168.1.2:{port}"))
        })
    };
    let phones = [("alice", 20_001), ("bob", 20_002)];
    let mut watches = Vec::new();
    for (user, port) in phones {
        lone.from_ue(port, 5060, &written(register(5060, 1, ""), user).replace("5060x1", user));
        let (_, request) = lone.request();
        let text = String::from_utf8(accepted(&request).to_bytes().to_vec()).unwrap();
        let text = written(text, user).replace("192.168.1.2:31001", "192.168.1.2:5060");
        lone.from_core(text.into());
        assert_eq!(lone.response(200).0.remote.port(), port);
        watches.push(lone.watched());
    }
    let mut number = 0;
    let mut asserted = |lone: &mut Lone, user: &str, port: u16| {
        number += 1;
        let branch = format!("z9hG4bKnat{number}");
        let text = written(subscribe(&[("z9hG4bKs1", &branch), ("watch1", &branch)]), user);
        lone.from_ue(port, 5060, &text);
        let (_, message) = lone.sent.remove(0);
        let Message::Request(request) = message else { return None };
        lone.from_core(request.response(403, "Forbidden").to_bytes());
        lone.response(403);
        request.headers().get(Name::PAssertedIdentity).map(str::to_owned)
    };
    let identity = |user: &str| Some(format!("<sip:{user}@home.example>"));
    let told = |lone: &mut Lone, port: u16, branch: &str| {
        let text = String::from_utf8(notify("sip:phone.invalid").to_vec()).unwrap();
        let token = format!("sip:term.0a2d0002{port:04x}@");
        let text = text.replace("z9hG4bKn1", branch).replace("sip:mo@", &token);
        lone.from_core(text.into());
        match lone.sent.remove(0) {
            (flow, Message::Request(_)) => Some(flow.remote.port()),
            _ => None,
        }
    };
    for (user, port) in phones {
        assert_eq!(asserted(&mut lone, user, port), identity(user));
        assert_eq!(told(&mut lone, port, &format!("z9hG4bKto{user}")), Some(port));
    }
    assert_eq!(asserted(&mut lone, "alice", 20_003), None);
    assert_eq!(told(&mut lone, 20_003, "z9hG4bKtonobody"), None);
    // One is leaving: it may still ask why, and the other is not taken for it.
    let ended = [(ALICE, Event::Rejected, false, 0), (NUMBER, Event::Rejected, false, 0)];
    let text = document(&watches[0], 1, "terminated;reason=rejected", &ended).to_vec();
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let body = body.replace(&format!("{UE}:31001"), "192.168.1.2:5060");
    let head: Vec<&str> = head.lines().filter(|line| !line.starts_with("Content-Le")).collect();
    let text = format!("{}\r\nContent-Length: {}\r\n\r\n{body}", head.join("\r\n"), body.len());
    lone.from_core(text.into());
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
    for (user, port) in phones {
        assert_eq!(asserted(&mut lone, user, port), identity(user));
    }
    assert_eq!(told(&mut lone, 20_002, "z9hG4bKlast"), Some(20_002));
}

/// TS 24.229 §5.2.3: one identity of several goes, or comes; a shorter time; a subscription that ends
/// while the registration stays is made anew.
#[test]
fn the_home_network_changes_a_registration() {
    let mut lone = Lone::registered(config(true));
    let watch = lone.watched();
    let changed = [
        (ALICE, Event::Shortened, true, 60),
        (NUMBER, Event::Unregistered, false, 0),
        ("tel:+12025550199", Event::Created, true, 60),
    ];
    lone.from_core(document(&watch, 1, "active;expires=600000", &changed));
    lone.response(200);
    for (number, (preferred, asserted)) in
        [(NUMBER, ALICE), ("tel:+12025550199", "tel:+12025550199")].into_iter().enumerate()
    {
        let branch = format!("z9hG4bKp{number}");
        lone.protected(&subscribe(&[
            ("Identity: <sip:alice@home.example>", &format!("Identity: <{preferred}>")),
            ("z9hG4bKs1", &branch),
            ("watch1", &branch),
        ]));
        let (_, request) = lone.request();
        let expected = format!("<{asserted}>");
        assert_eq!(request.headers().get(Name::PAssertedIdentity), Some(&expected[..]));
        lone.from_core(request.response(403, "Forbidden").to_bytes());
        lone.response(403);
    }
    lone.from_core(document(&watch, 2, "terminated;reason=timeout", &changed[..1]));
    lone.response(200);
    let (_, again) = lone.request();
    assert_ne!(again.call_id(), watch.call_id());
    lone.from_core(again.response(404, "Not Found").to_bytes());
    lone.pass(Duration::from_secs(91));
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    assert_eq!(lone.removed, [lone.set.clone().unwrap().id]);
}

/// TS 24.229 §5.2.3; RFC 3680 §5.1, §5.2: what ended while nobody could say why: a full document with nobody in it ends the
/// registration as well; one about other contacts does not.
#[test]
fn a_document_without_contacts() {
    let of_all = |state| [(ALICE, state), (NUMBER, state)].to_vec();
    for (registrations, is_full, left) in [
        (of_all(State::Terminated), true, 0),
        (of_all(State::Init), true, 0),
        (of_all(State::Active), true, 1),
        // With the one that is watched goes the set, unless another one of it is there.
        (vec![(ALICE, State::Init)], true, 0),
        (vec![(ALICE, State::Terminated)], true, 0),
        (vec![(ALICE, State::Terminated)], false, 1),
        (vec![(ALICE, State::Terminated), (NUMBER, State::Active)], true, 1),
        (vec![("sip:bob@home.example", State::Terminated)], true, 1),
    ] {
        let case = format!("{registrations:?} {is_full}");
        let mut lone = Lone::registered(config(true));
        let watch = lone.watched();
        let active =
            [(ALICE, Event::Registered, true, 3_600), (NUMBER, Event::Created, true, 3_600)];
        let text = String::from_utf8(document(&watch, 1, "active", &active).to_vec()).unwrap();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        let registrations = registrations.into_iter().map(|(aor, state)| Registration {
            aor: aor.to_owned(),
            id: aor.to_owned(),
            state,
            wildcarded_identity: None,
            contacts: Vec::new(),
        });
        let info = RegInfo { version: 1, is_full, registrations: registrations.collect() };
        let body = info.to_xml();
        let head: Vec<&str> =
            head.lines().filter(|line| !line.starts_with("Content-Length")).collect();
        let head = head.join("\r\n");
        let length = body.len();
        lone.from_core(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").into());
        lone.response(200);
        assert_eq!(lone.counter("tessera_pcscf_registrations", ""), left, "{case}");
    }
}

/// What a document says of the watched identity: contacts that are bound, or no more.
fn about(version: u32, is_full: bool, contacts: &[(&str, bool)]) -> RegInfo {
    let contacts: Vec<_> = contacts
        .iter()
        .map(|(uri, is_active)| Contact {
            id: (*uri).to_owned(),
            is_active: *is_active,
            event: if *is_active { Event::Registered } else { Event::Deactivated },
            uri: (*uri).to_owned(),
            ..Contact::default()
        })
        .collect();
    let is_active = contacts.iter().any(|contact| contact.is_active);
    let state = if is_active { State::Active } else { State::Terminated };
    let of = |aor: &str| Registration {
        aor: aor.to_owned(),
        id: aor.to_owned(),
        state,
        wildcarded_identity: None,
        contacts: contacts.clone(),
    };
    RegInfo { version, is_full, registrations: [ALICE, NUMBER].map(of).to_vec() }
}

const OWN: &str = "sip:10.45.0.2:31001";
const OTHER: &str = "sip:10.45.0.9:31001";

impl Lone {
    /// Registered, watched, and told so by a first document.
    fn told() -> (Lone, Request) {
        let mut lone = Lone::registered(config(true));
        let watch = lone.watched();
        lone.hears(&watch, 1, "active;expires=600000", &about(0, true, &[(OWN, true)]));
        lone.is_silent();
        (lone, watch)
    }

    fn hears(&mut self, watch: &Request, cseq: u32, state: &str, info: &RegInfo) {
        self.from_core(notify_of(watch, cseq, state, info));
        self.response(200);
        self.pass(Duration::ZERO);
    }

    /// A SUBSCRIBE within the dialog, which is taken.
    fn refreshed(&mut self, watch: &Request) {
        let (_, again) = self.request();
        assert_eq!((again.call_id(), again.to_tag()), (watch.call_id(), Some("home")));
        let mut response = again.response(200, "OK");
        response.headers_mut().append(Name::Expires, "600000");
        self.from_core(response.to_bytes());
        self.pass(Duration::ZERO);
    }

    fn heard(&self, outcome: &str) -> u64 {
        self.counter("tessera_pcscf_watch_events_total", outcome)
    }
}

/// RFC 3680 §5.1, §5.2: a document that is older than what is known, or the same, is not looked at; one about changes that
/// comes behind a lost one holds, and everything is asked for, once; and that ends what the lost one has told the end of,
/// though others have the identity.
#[test]
fn documents_out_of_order() {
    let (mut lone, watch) = Lone::told();
    let active = "active;expires=600000";
    lone.hears(&watch, 2, active, &about(0, true, &[(OWN, false)]));
    assert_eq!((lone.heard("stale"), lone.heard("gap")), (1, 0));
    lone.is_silent();
    lone.hears(&watch, 3, active, &about(2, false, &[(OTHER, true)]));
    assert_eq!((lone.heard("stale"), lone.heard("gap")), (1, 1));
    assert_eq!(lone.sent.len(), 1);
    lone.hears_meanwhile(&watch, 4, &about(4, false, &[(OTHER, true)]));
    assert_eq!(lone.heard("gap"), 2);
    lone.refreshed(&watch);
    lone.is_silent();
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
    lone.hears(&watch, 5, active, &about(5, true, &[(OTHER, true)]));
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    lone.is_silent();
    // An end holds, whatever was lost before it.
    let (mut lone, watch) = Lone::told();
    lone.hears(&watch, 2, active, &about(7, false, &[(OWN, false)]));
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    lone.is_silent();
    // What comes in order is asked for by nobody.
    let (mut lone, watch) = Lone::told();
    lone.hears(&watch, 2, active, &about(1, false, &[(OTHER, true)]));
    lone.hears(&watch, 3, active, &about(9, true, &[(OWN, true), (OTHER, true)]));
    assert_eq!((lone.heard("stale"), lone.heard("gap")), (0, 0));
    lone.is_silent();
    // A contact that was never shown is not missed.
    let mut lone = Lone::registered(config(true));
    let watch = lone.watched();
    lone.hears(&watch, 1, active, &about(0, true, &[(OTHER, true)]));
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
}

impl Lone {
    /// A NOTIFY that comes before what has been sent is looked at.
    fn hears_meanwhile(&mut self, watch: &Request, cseq: u32, info: &RegInfo) {
        let before = std::mem::take(&mut self.sent);
        self.hears(watch, cseq, "active;expires=600000", info);
        self.is_silent();
        self.sent = before;
    }
}

/// RFC 3680 §5.2, RFC 6665 §4.2.1.2: a notifier that leaves something out whenever it says anything is asked with growing pauses.
#[test]
fn a_notifier_with_gaps_is_not_asked_without_end() {
    let (mut lone, watch) = Lone::told();
    let (mut number, mut asked) = (1, Vec::new());
    let began = lone.now;
    while lone.now.since(began) < Duration::from_secs(1_000) {
        number += 1;
        let info = about(number * 2, false, &[(OTHER, true)]);
        lone.hears(&watch, number, "active;expires=600000", &info);
        if !lone.sent.is_empty() {
            asked.push(lone.now.since(began).as_secs());
            lone.refreshed(&watch);
        }
        lone.is_silent();
        lone.now = lone.now + Duration::from_secs(1);
    }
    assert_eq!(asked, [0, 30, 90, 210, 450, 930]);
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
}

/// RFC 6665 §4.1.3, RFC 3680 §5.2: why a subscription is over stands in a document that is not looked at: another SUBSCRIBE
/// finds out. TS 29.229 §6.3.49: an S-CSCF that takes the dialog over may begin with version 0.
#[test]
fn an_end_in_an_old_document() {
    let (mut lone, watch) = Lone::told();
    lone.hears(&watch, 2, "terminated;reason=rejected", &about(0, true, &[(OWN, false)]));
    let (_, again) = lone.request();
    assert_ne!(again.call_id(), watch.call_id());
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
    for (other, left) in [(false, 1), (true, 0)] {
        let (mut lone, watch) = Lone::told();
        let info = about(0, true, &[(OWN, false)]);
        let text = notify_of(&watch, 2, "active;expires=60", &info).to_vec();
        let mut text = String::from_utf8(text).unwrap();
        if other {
            let contact = format!("Contact: <sip:{SCSCF}>");
            assert!(text.contains(&contact));
            text = text.replace(&contact, "Contact: <sip:192.0.2.32:5060>");
        }
        lone.from_core(text.into());
        lone.response(200);
        assert_eq!(lone.counter("tessera_pcscf_registrations", ""), left);
    }
}

/// RFC 6665 §4.1.3, §8.4: what a NOTIFY says of the time that is left counts.
#[test]
fn a_notify_shortens_a_subscription() {
    let (mut lone, watch) = Lone::told();
    lone.hears(&watch, 2, "active ; Expires = 100", &about(1, true, &[(OWN, true)]));
    lone.pass(Duration::from_secs(49));
    lone.is_silent();
    lone.pass(Duration::from_secs(1));
    lone.refreshed(&watch);
}

/// RFC 3261 §18.1.1, TS 33.203 §7.1: a document of many identities is too long for a datagram: it goes to the UE over TCP,
/// inside the same associations; and as a datagram when the UE takes no connection.
#[test]
fn a_long_document_for_a_ue() {
    for is_refused in [false, true] {
        let mut lone = Lone::registered(config(false));
        lone.protected(&subscribe(&[]));
        let (_, request) = lone.request();
        lone.from_core(taken(&request).to_bytes());
        lone.response(200);
        let one = about(0, true, &[(OWN, true), (OTHER, true)]).registrations.remove(0);
        let registrations = (0..100)
            .map(|number| Registration { aor: format!("tel:+1202555{number:04}"), ..one.clone() })
            .collect();
        let body = RegInfo { version: 0, is_full: true, registrations }.to_xml();
        assert!(body.len() > 20_000);
        let short = String::from_utf8(notify(&format!("sip:{UE}:31001")).to_vec()).unwrap();
        let (head, old) = short.split_once("\r\n\r\n").unwrap();
        let length = format!("Content-Length: {}", old.len());
        assert!(head.contains(&length), "{head}");
        let head = head.replace(&length, &format!("Content-Length: {}", body.len()));
        lone.from_core(format!("{head}\r\n\r\n{body}").into());
        let ports = lone.set.clone().unwrap().ports;
        let (mut flow, mut request) = lone.request();
        assert_eq!(flow.transport, Transport::Tcp);
        assert_eq!((flow.local.port(), flow.remote.port()), (ports.pc, ports.us));
        if is_refused {
            lone.feed(Input::Unreachable { flow });
            (flow, request) = lone.request();
            assert_eq!(flow.transport, Transport::Udp);
            assert_eq!((flow.local.port(), flow.remote.port()), (ports.pc, ports.us));
        }
        assert_eq!(request.body(), body.as_bytes());
        lone.feed(Input::Sip { flow, bytes: request.response(200, "OK").to_bytes() });
        lone.response(200);
        assert_eq!(lone.core.owed(), 0);
    }
}

/// TS 24.229 §5.2.5.2: a phone without associations is told of its end by its dialog, which ends after that.
#[test]
fn dialogs_end_with_the_registration() {
    let mut open = config(true);
    open.ipsec.policy = Policy::Off;
    let mut lone = Lone::with(open);
    let plain = |text: String| text.replace("31001", "5060").replace(":5064;lr", ":5060;lr");
    lone.from_ue(5060, 5060, &plain(register(5060, 1, "")));
    let (_, request) = lone.request();
    let response = String::from_utf8(accepted(&request).to_bytes().to_vec()).unwrap();
    lone.from_core(plain(response).into());
    lone.response(200);
    let watch = lone.watched();
    lone.from_ue(5060, 5060, &plain(subscribe(&[])));
    let (_, request) = lone.request();
    lone.from_core(taken(&request).to_bytes());
    lone.response(200);
    let ended = [(ALICE, Event::Deactivated, false, 0), (NUMBER, Event::Deactivated, false, 0)];
    let text = document(&watch, 1, "terminated;reason=deactivated", &ended).to_vec();
    let text = String::from_utf8(text).unwrap();
    let long = text.len() - text.split("\r\n\r\n").next().unwrap().len() - 4;
    let short = plain(text.clone());
    let body = short.len() - short.split("\r\n\r\n").next().unwrap().len() - 4;
    let short =
        short.replace(&format!("Content-Length: {long}"), &format!("Content-Length: {body}"));
    lone.from_core(short.into());
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    lone.from_core(notify(&format!("sip:{UE}:5060")));
    let (flow, _) = lone.request();
    assert_eq!(flow.remote.port(), 5060);
    assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), 1);
    lone.pass(Duration::from_secs(130));
    assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), 0);
}

/// TS 24.229 §5.2.5.1, §5.2.5.2: the home network's NOTIFY about a deregistration overtakes its 200: nothing stays, also not
/// of what is leaving.
#[test]
fn a_notify_before_the_200_of_a_deregistration() {
    let mut lone = Lone::registered(config(true));
    let watch = lone.watched();
    lone.protected(&register(31_001, 3, "X: y\r\n").replace("expires=600000", "expires=0"));
    let (_, request) = lone.request();
    let ended = [(ALICE, Event::Unregistered, false, 0), (NUMBER, Event::Unregistered, false, 0)];
    lone.from_core(document(&watch, 1, "terminated;reason=noresource", &ended));
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_leaving_registrations", ""), 1);
    lone.from_core(request.response(200, "OK").to_bytes());
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_leaving_registrations", ""), 0);
    lone.pass(Duration::from_secs(129));
    assert_eq!(lone.removed, [lone.set.clone().unwrap().id]);
}

/// TS 24.229 §5.2.6.3.1: a dialog that is made when its UE is registered no more is not kept.
#[test]
fn a_dialog_after_the_end() {
    let mut lone = Lone::registered(config(false));
    lone.protected(&subscribe(&[]));
    let (_, request) = lone.request();
    lone.feed(Input::Admin { id: 1, command: ["sa", "clear"].map(str::to_owned).to_vec() });
    lone.from_core(taken(&request).to_bytes());
    assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), 0);
}

/// What the operator clears has no watch and no dialog left, and is not leaving either.
#[test]
fn cleared_by_the_operator() {
    let mut lone = Lone::registered(config(true));
    lone.watched();
    lone.protected(&subscribe(&[]));
    let (_, request) = lone.request();
    lone.from_core(taken(&request).to_bytes());
    lone.response(200);
    let gauges = ["registrations", "watches", "dialogs"];
    let gauges = gauges.map(|name| format!("tessera_pcscf_{name}"));
    assert!(gauges.iter().all(|name| lone.counter(name, "") == 1));
    let command = ["sa", "clear"].map(str::to_owned).to_vec();
    lone.feed(Input::Admin { id: 1, command });
    assert!(gauges.iter().all(|name| lone.counter(name, "") == 0));
    assert_eq!(lone.removed, [lone.set.clone().unwrap().id]);

    let mut lone = Lone::registered(config(true));
    let watch = lone.watched();
    let ended = [(ALICE, Event::Rejected, false, 0), (NUMBER, Event::Rejected, false, 0)];
    lone.from_core(document(&watch, 1, "terminated;reason=rejected", &ended));
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_leaving_registrations", ""), 1);
    let command = ["sa", "clear"].map(str::to_owned).to_vec();
    lone.feed(Input::Admin { id: 1, command });
    assert_eq!(lone.counter("tessera_pcscf_leaving_registrations", ""), 0);
}

/// TS 24.229 §5.2.3; RFC 6665 §4.1.2: a home network that refuses or is silent costs the subscription only.
#[test]
fn a_subscription_that_fails() {
    let mut lone = Lone::registered(config(true));
    let (_, subscribe) = lone.request();
    lone.from_core(subscribe.response(489, "Bad Event").to_bytes());
    assert_eq!(lone.counter("tessera_pcscf_watch_events_total", "refused"), 1);
    let mut lone = Lone::registered(config(true));
    lone.pass(Duration::from_secs(120));
    assert_eq!(lone.counter("tessera_pcscf_watch_events_total", "silence"), 1);
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
    assert_eq!(lone.core.owed(), 0);
}

/// TS 24.229 §5.2.6.3.2A, TS 23.380 §4.4.3: the S-CSCF of a phone is silent: its next registration finds another, and by
/// the Path of its own 200 it knows that it may believe us. Within a dialog nothing is said of that.
#[test]
fn a_phone_whose_scscf_is_silent_is_sent_to_register() {
    let mut lone = Lone::registered(config(false));
    lone.protected(&subscribe(&[]));
    let (_, first) = lone.request();
    lone.pass(Duration::from_secs(120));
    lone.sent.retain(|(_, message)| matches!(message, Message::Response(_)));
    let (_, response) = lone.response(504);
    assert!(restoration::asks_to_register_anew(&response));
    let asserted = response.headers().get(Name::PAssertedIdentity).unwrap();
    // As its Path was: 10.45.0.2, port 31001.
    assert_eq!(asserted, "<sip:term.0a2d00027919@pcscf1.visited.example;lr>");
    assert!(first.to_tag().is_none());

    let mut lone = Lone::registered(config(false));
    lone.protected(&subscribe(&[]));
    let (_, first) = lone.request();
    lone.from_core(taken(&first).to_bytes());
    lone.response(200);
    let within = [
        ("SUBSCRIBE sip:alice@home.example", &format!("SUBSCRIBE sip:{SCSCF}")[..]),
        ("To: <sip:alice@home.example>", "To: <sip:alice@home.example>;tag=t"),
        ("CSeq: 1", "CSeq: 2"),
        ("z9hG4bKs1", "z9hG4bKs2"),
    ];
    lone.protected(&subscribe(&within));
    lone.request();
    lone.pass(Duration::from_secs(120));
    lone.sent.retain(|(_, message)| matches!(message, Message::Response(_)));
    let (_, response) = lone.response(504);
    assert!(!restoration::asks_to_register_anew(&response) && response.body().is_empty());
}

/// TS 24.229 §5.2.3: nobody notifies of what ended while we were away; a home network that took a SUBSCRIBE before
/// says by 404 that there is nobody. One that never took any says nothing by it.
#[test]
fn nobody_is_there_to_watch() {
    let mut lone = Lone::registered(config(true));
    lone.watched_for(1_200);
    lone.pass(Duration::from_secs(601));
    let (_, renewal) = lone.request();
    lone.from_core(renewal.response(404, "Not Found").to_bytes());
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    assert_eq!(lone.counter("tessera_pcscf_leaving_registrations", ""), 1);
    assert_eq!(lone.counter("tessera_pcscf_watch_events_total", "deregistered"), 1);

    let mut lone = Lone::registered(config(true));
    let (_, subscribe) = lone.request();
    lone.from_core(subscribe.response(404, "Not Found").to_bytes());
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
    assert_eq!(lone.counter("tessera_pcscf_watch_events_total", "refused"), 1);
}

impl Lone {
    /// Another identity is registered over the associations, for so long.
    fn registers_also(&mut self, user: &str, cseq: u32, seconds: u32) {
        let text = register(31_001, cseq, "X: y\r\n");
        let to = format!("To: <sip:{user}@home.example>");
        self.protected(&text.replace("To: <sip:alice@home.example>", &to));
        let (_, request) = self.request();
        let mut response = accepted(&request);
        let headers = response.headers_mut();
        headers.set(Name::PAssociatedUri, &format!("<sip:{user}@home.example>"));
        headers.set(Name::Contact, &format!("<sip:{UE}:31001>;expires={seconds}"));
        self.from_core(response.to_bytes());
        self.response(200);
    }

    /// What is asserted of a phone that prefers this identity.
    fn asserted_for(&mut self, user: &str, number: u32) -> Option<String> {
        let branch = format!("z9hG4bKas{number}");
        let preferred = format!("P-Preferred-Identity: <sip:{user}@home.example>");
        let changes = [
            ("z9hG4bKs1", branch.as_str()),
            ("watch1", branch.as_str()),
            ("P-Preferred-Identity: <sip:alice@home.example>", preferred.as_str()),
        ];
        self.protected(&subscribe(&changes));
        let (_, request) = self.request();
        self.from_core(request.response(403, "Forbidden").to_bytes());
        self.response(403);
        request.headers().get(Name::PAssertedIdentity).map(str::to_owned)
    }
}

/// TS 24.229 §5.2.2.3; registration.md T-07, D-09: each identity ends by the time of its own 200, or as a document
/// shortens it; associations and contact last as long as the last of them.
#[test]
fn each_identity_has_its_time() {
    let (alice, carol) = ("<sip:alice@home.example>", "<sip:carol@home.example>");
    for is_shortened in [false, true] {
        let mut lone = Lone::registered(config(is_shortened));
        let granted = if is_shortened { 7_200 } else { 600 };
        if is_shortened {
            let watch = lone.watched();
            lone.registers_also("carol", 3, granted);
            let shortened = [("sip:carol@home.example", Event::Shortened, true, 600)];
            lone.from_core(document(&watch, 1, "active;expires=600000", &shortened));
            lone.response(200);
        } else {
            lone.registers_also("carol", 3, granted);
        }
        assert_eq!(lone.asserted_for("carol", 1).as_deref(), Some(carol));
        lone.pass(Duration::from_secs(629));
        assert_eq!(lone.asserted_for("carol", 2).as_deref(), Some(carol));
        lone.pass(Duration::from_secs(2));
        assert_eq!(lone.asserted_for("carol", 3).as_deref(), Some(alice));
        lone.pass(Duration::from_secs(2_998));
        assert_eq!(lone.asserted_for("alice", 4).as_deref(), Some(alice));
        assert_eq!(lone.removed, []);
        lone.pass(Duration::from_secs(2));
        assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
        assert_eq!(lone.removed.len(), 1);
    }
    // The longer one may be the later one.
    let mut lone = Lone::registered(config(false));
    lone.registers_also("carol", 3, 7_200);
    lone.pass(Duration::from_secs(3_631));
    assert_eq!(lone.asserted_for("alice", 1).as_deref(), Some(carol));
    lone.pass(Duration::from_secs(3_600));
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    assert_eq!(lone.removed.len(), 1);
}
