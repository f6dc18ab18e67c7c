//! A P-CSCF with nothing around it but a test, and what UEs and the home network say to it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::ipsec::sa::{SaSet, SetId};
use common::limits::Limits;
use common::node::{Flow, Input, Node, Now, Output, Transport};
use common::random::Random;
use common::reginfo::{self, Contact, Event, RegInfo, Registration, State};
use common::sip::header::Name;
use common::sip::message::{Message, Request, Response};
use common::stats::{Samples, Value};
use pcscf::Pcscf;
use pcscf::config::Config;

pub const UE: &str = "10.45.0.2";
pub const PCSCF: &str = "10.46.0.1";
pub const HOME: &str = "192.0.2.20:5060";
pub const SCSCF: &str = "192.0.2.31:5060";
pub const OFFER: &str = "ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans;spi-c=7001;\
                     spi-s=7002;port-c=31000;port-s=31001";

/// A P-CSCF with nothing around it but this test.
pub struct Lone {
    pub core: Pcscf,
    pub now: Now,
    pub sent: Vec<(Flow, Message)>,
    pub removed: Vec<SetId>,
    pub set: Option<SaSet>,
}

pub fn config(subscribes: bool) -> Config {
    let text = format!(
        r#"{{ "name": "pcscf1.visited.example", "visited_network": "visited.example",
             "gm": {{ "addresses": ["{PCSCF}"] }},
             "mw": {{ "listen": ["192.0.2.10:5060"], "entry_point": "sip:{HOME}" }},
             "reg_event": {{ "subscribe": {subscribes} }} }}"#
    );
    serde_json::from_str(&text).expect("a configuration")
}

impl Lone {
    pub fn with(config: Config) -> Lone {
        let core = Pcscf::new(config, Random::from_seed([7; 32])).expect("a P-CSCF");
        let now = Now::from_millis(1_000_000);
        Lone { core, now, sent: Vec::new(), removed: Vec::new(), set: None }
    }

    pub fn feed(&mut self, input: Input) {
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

    pub fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(at) = self.core.next_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.feed(Input::Timeout);
        }
        self.now = until;
    }

    pub fn from_ue(&mut self, ue_port: u16, port: u16, text: &str) {
        let flow = Flow {
            transport: Transport::Udp,
            local: SocketAddr::new(PCSCF.parse().unwrap(), port),
            remote: SocketAddr::new(UE.parse().unwrap(), ue_port),
        };
        self.feed(Input::Sip { flow, bytes: Bytes::copy_from_slice(text.as_bytes()) });
    }

    /// Over the association from port_uc to port_ps.
    pub fn protected(&mut self, text: &str) {
        let ports = self.set.as_ref().expect("a set").ports;
        self.from_ue(ports.uc, ports.ps, text);
    }

    pub fn from_core(&mut self, bytes: Bytes) {
        let flow = Flow {
            transport: Transport::Udp,
            local: "192.0.2.10:5060".parse().unwrap(),
            remote: SCSCF.parse().unwrap(),
        };
        self.feed(Input::Sip { flow, bytes });
    }

    pub fn request(&mut self) -> (Flow, Request) {
        match self.sent.remove(0) {
            (flow, Message::Request(request)) => (flow, request),
            (_, other) => panic!("a request was to be sent: {other:?}"),
        }
    }

    pub fn response(&mut self, status: u16) -> (Flow, Response) {
        match self.sent.remove(0) {
            (flow, Message::Response(response)) => {
                assert_eq!(response.status(), status, "{}", response.reason());
                (flow, response)
            }
            (_, other) => panic!("a response was to be sent: {other:?}"),
        }
    }

    pub fn is_silent(&self) {
        assert!(self.sent.is_empty(), "{:?}", self.sent);
    }

    /// Registered for an hour.
    pub fn registered(config: Config) -> Lone {
        let mut lone = Lone::with(config);
        lone.registers(5060, 1, OFFER, "");
        lone
    }

    /// By a REGISTER in clear, or over the set that it has; with what it offers, and more in the URI of Contact.
    pub fn registers(&mut self, port: u16, cseq: u32, offer: &str, more: &str) {
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

    pub fn counter(&self, name: &str, label: &str) -> u64 {
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
    pub fn watched(&mut self) -> Request {
        self.watched_for(600_000)
    }

    pub fn watched_for(&mut self, seconds: u32) -> Request {
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

pub fn register(port: u16, cseq: u32, more: &str) -> String {
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

pub fn accepted(request: &Request) -> Response {
    let mut response = request.response(200, "OK");
    let headers = response.headers_mut();
    headers.append(Name::Path, "<sip:term@pcscf1.visited.example;lr>");
    headers.append(Name::ServiceRoute, &format!("<sip:orig@{SCSCF};lr>"));
    headers.append(Name::PAssociatedUri, "<sip:alice@home.example>, <tel:+12025550123>");
    headers.append(Name::Contact, &format!("<sip:{UE}:31001>;expires=3600"));
    response
}

/// The SUBSCRIBE of a phone behind its registration.
pub fn subscribe(changes: &[(&str, &str)]) -> String {
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
pub fn taken(subscribe: &Request) -> Response {
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

pub fn notify(uri: &str) -> Bytes {
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

/// A NOTIFY to the P-CSCF about the UE's contact.
pub fn document(
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
pub fn notify_of(subscribe: &Request, cseq: u32, state: &str, info: &RegInfo) -> Bytes {
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

pub const ALICE: &str = "sip:alice@home.example";

pub const NUMBER: &str = "tel:+12025550123";

pub const OWN: &str = "sip:10.45.0.2:31001";
pub const OTHER: &str = "sip:10.45.0.9:31001";

/// What a document says of the watched identity: contacts that are bound, or no more.
pub fn about(version: u32, is_full: bool, contacts: &[(&str, bool)]) -> RegInfo {
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
