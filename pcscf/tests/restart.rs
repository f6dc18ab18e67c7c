//! Dialogues with a P-CSCF that ends and starts again: what it has stored is all that it knows
//! (ipsec.md L-16, TS 33.203 §7.4).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::ipsec::agree::{AlgorithmPair, security_client};
use common::ipsec::audit::{Audit, KnownSet, Traffic};
use common::ipsec::sa::{Encryption, Integrity, SetId};
use common::limits::Limits;
use common::node::{Flow, Input, Node, Now, Output, StoredRecord, Transport};
use common::questions::QuestionId;
use common::random::Random;
use common::sip::header::Name;
use common::sip::message::{Message, Method, Request, Response};
use common::sip::security::Mechanism;
use common::stats::{Samples, Value};
use pcscf::Pcscf;

const UE: &str = "10.45.0.2";
const PCSCF: &str = "10.46.0.1";
const ICSCF: &str = "192.0.2.20:5060";

/// A P-CSCF, its store, and nothing else around it.
struct Lone {
    core: Pcscf,
    now: Now,
    rows: BTreeMap<(String, String), String>,
    out: Vec<Output>,
}

impl Lone {
    fn new() -> Lone {
        let mut lone = Lone {
            core: core(),
            now: Now::from_millis(1_780_000_000_000),
            rows: BTreeMap::new(),
            out: Vec::new(),
        };
        lone.start();
        lone
    }

    fn start(&mut self) {
        let records = self
            .rows
            .iter()
            .map(|((kind, key), value)| StoredRecord {
                kind: kind.clone(),
                key: key.clone(),
                value: value.clone(),
            })
            .collect();
        self.feed(Input::Start { records });
    }

    /// The process is gone, and after `span` there is a new one.
    fn crash(&mut self, span: Duration) {
        self.core = core();
        self.out.clear();
        self.now = self.now + span;
        self.start();
    }

    fn feed(&mut self, input: Input) {
        let first = self.out.len();
        self.core.handle(self.now, input, &mut self.out);
        let mut is_behind = false;
        for output in &self.out[first..] {
            match output {
                Output::Persist { record } => {
                    assert!(!is_behind, "stored behind something that others can see");
                    let key = (record.kind.to_owned(), record.key.clone());
                    match &record.value {
                        Some(value) => self.rows.insert(key, value.clone()),
                        None => self.rows.remove(&key),
                    };
                }
                _ => is_behind = true,
            }
        }
        self.out.retain(|output| !matches!(output, Output::Persist { .. }));
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

    fn from_core(&mut self, response: &Response) {
        let flow = Flow {
            transport: Transport::Udp,
            local: "192.0.2.10:5060".parse().unwrap(),
            remote: ICSCF.parse().unwrap(),
        };
        self.feed(Input::Sip { flow, bytes: response.to_bytes() });
    }

    fn take<T>(&mut self, what: impl Fn(&Output) -> Option<T>) -> T {
        let place = self.out.iter().position(|output| what(output).is_some());
        let place = place.unwrap_or_else(|| panic!("not in {:?}", self.out));
        what(&self.out.remove(place)).unwrap()
    }

    fn sent(&mut self) -> (Flow, Message) {
        self.take(|output| match output {
            Output::Sip { flow, bytes } => {
                Some((*flow, Message::parse(bytes.clone(), &Limits::default()).unwrap()))
            }
            _ => None,
        })
    }

    fn request(&mut self) -> Request {
        match self.sent() {
            (_, Message::Request(request)) => request,
            other => panic!("a request was to be sent: {other:?}"),
        }
    }

    fn response(&mut self) -> (Flow, Response) {
        match self.sent() {
            (flow, Message::Response(response)) => (flow, response),
            other => panic!("a response was to be sent: {other:?}"),
        }
    }

    fn audit(&mut self) -> (QuestionId, Vec<KnownSet>) {
        self.take(|output| match output {
            Output::AuditSas { id, known } => Some((*id, known.clone())),
            _ => None,
        })
    }

    /// Everything is where the core thinks it is.
    fn all_is_there(&mut self) -> Vec<KnownSet> {
        let (id, known) = self.audit();
        let held = known.iter().map(|set| (set.id, [Traffic::default(); 4])).collect();
        let objects = 4 * known.len() as u64;
        let audit = Audit { held, associations: objects, policies: objects, ..Audit::default() };
        self.feed(Input::SasAudited { id, result: Ok(audit) });
        known
    }

    fn removed(&mut self) -> Vec<SetId> {
        let removed = self.out.iter().filter_map(|output| match output {
            Output::RemoveSas { set } => Some(*set),
            _ => None,
        });
        removed.collect()
    }

    fn rows_of(&self, kind: &str) -> usize {
        self.rows.keys().filter(|(found, _)| found == kind).count()
    }

    fn metric(&self, name: &str) -> f64 {
        let mut samples = Samples::default();
        self.core.samples(&mut samples);
        let of_name = samples.0.iter().filter(|sample| sample.name == name);
        of_name
            .map(|sample| match &sample.value {
                Value::Counter(count) => *count as f64,
                Value::Gauge(value) => *value,
                Value::Histogram(histogram) => histogram.count() as f64,
            })
            .sum()
    }

    fn admin(&mut self, words: &[&str]) -> u64 {
        let command = words.iter().map(|word| (*word).to_owned()).collect();
        self.feed(Input::Admin { id: 5, command });
        5
    }

    /// R1, 401, R2, 200: the set that carries the registration.
    fn register(&mut self) -> KnownSet {
        self.from_ue(5060, 5060, &register(5060, 1, &offer()));
        let forwarded = self.request();
        self.from_core(&challenge(&forwarded));
        let (id, set) = self.take(|output| match output {
            Output::InstallSas { id, set } => Some((*id, KnownSet::from(&**set))),
            _ => None,
        });
        assert_eq!(self.rows_of("set"), 0, "a temporary set is never stored");
        self.feed(Input::SasInstalled { id, result: Ok(()) });
        let (_, response) = self.response();
        let list = response.headers().get(Name::SecurityServer).unwrap().to_owned();
        let more = format!("{}Security-Verify: {list}\r\n", offer());
        self.from_ue(set.ports.uc, set.ports.ps, &register(set.ports.us, 2, &more));
        self.answer_200(set, 3_600);
        set
    }

    fn answer_200(&mut self, set: KnownSet, seconds: u32) {
        let forwarded = self.request();
        self.from_core(&accepted(&forwarded, set.ports.us, seconds));
        let (flow, response) = self.response();
        assert_eq!(response.status(), 200);
        let text = String::from_utf8(response.to_bytes().to_vec()).unwrap();
        assert!(!text.contains("P-Charging") && !text.contains("192.0.2.90"), "{text}");
        assert_eq!((flow.local.port(), flow.remote.port()), (set.ports.pc, set.ports.us));
    }
}

fn core() -> Pcscf {
    let text = format!(
        r#"{{ "name": "pcscf1.visited.example", "visited_network": "visited.example",
             "gm": {{ "addresses": ["{PCSCF}"] }},
             "mw": {{ "listen": ["192.0.2.10:5060"], "entry_point": "sip:{ICSCF}" }} }}"#
    );
    let config = serde_json::from_str(&text).expect("a configuration");
    Pcscf::new(config, Random::from_seed([7; 32])).expect("a P-CSCF")
}

fn offer() -> String {
    let pair = AlgorithmPair { alg: Integrity::HmacSha1_96, ealg: Encryption::AesCbc };
    let list = security_client(&[pair], 7_001, 7_002, 31_000, 31_001);
    let list: Vec<String> = list.iter().map(Mechanism::to_string).collect();
    format!("Security-Client: {}\r\n", list.join(", "))
}

fn register(port: u16, cseq: u32, more: &str) -> String {
    format!(
        "REGISTER sip:home.example SIP/2.0\r\n\
         Via: SIP/2.0/UDP {UE}:{port};branch=z9hG4bK{port}x{cseq}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:alice@home.example>;tag=a\r\n\
         To: <sip:alice@home.example>\r\n\
         Contact: <sip:{UE}:31001>;expires=3600\r\n\
         Call-ID: call1\r\n\
         CSeq: {cseq} REGISTER\r\n\
         Require: sec-agree\r\n\
         Proxy-Require: sec-agree\r\n\
         {more}\
         Authorization: Digest username=\"alice@home.example\", realm=\"home.example\", \
         uri=\"sip:home.example\", nonce=\"bm9uY2U=\", response=\"00\"\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

fn challenge(request: &Request) -> Response {
    let mut response = request.response(401, "Unauthorized");
    let keys = "00112233445566778899aabbccddeeff";
    let digest =
        format!("Digest realm=\"home.example\",nonce=\"bm9uY2U=\",ck=\"{keys}\",ik=\"{keys}\"");
    response.headers_mut().append(Name::WwwAuthenticate, &digest);
    response
}

fn accepted(request: &Request, port_us: u16, seconds: u32) -> Response {
    let mut response = request.response(200, "OK");
    let headers = response.headers_mut();
    headers.append(Name::ServiceRoute, "<sip:orig@192.0.2.31;lr>");
    headers.append(Name::PAssociatedUri, "<sip:alice@home.example>, <tel:+12025550123>");
    headers.append(Name::Contact, &format!("<sip:{UE}:{port_us}>;expires={seconds}"));
    headers.append(Name::PChargingVector, "icid-value=1;orig-ioi=v;term-ioi=home.example");
    headers.append(Name::PChargingFunctionAddresses, "ccf=192.0.2.90;ecf=192.0.2.91");
    response
}

/// L-16: registration and set are as before, the data plane is asked for the same set, and a refresh
/// goes over it without a new challenge.
#[test]
fn a_crash_costs_no_registration() {
    let mut lone = Lone::new();
    assert!(lone.all_is_there().is_empty());
    let set = lone.register();
    assert_eq!((lone.rows_of("registration"), lone.rows_of("set")), (1, 1));
    for value in lone.rows.values() {
        assert!(!value.contains("0011223344"), "a key is stored: {value}");
    }
    lone.crash(Duration::from_millis(700));
    assert_eq!(lone.all_is_there(), [set]);
    assert_eq!(lone.removed(), []);
    assert_eq!(lone.metric("tessera_pcscf_registrations"), 1.0);

    lone.from_ue(set.ports.uc, set.ports.ps, &register(set.ports.us, 3, ""));
    lone.answer_200(set, 3_600);
    // The life of the set has grown with the registration, and the data plane hears of it.
    let until = lone.take(|output| match output {
        Output::KeepSas { set, until } => Some((*set, *until)),
        _ => None,
    });
    assert_eq!(until, (set.id, lone.now + Duration::from_secs(3_630)));

    // A second crash finds the longer life: the set lives past its first one, and no longer.
    lone.crash(Duration::from_secs(3_600));
    lone.all_is_there();
    assert_eq!(lone.metric("tessera_pcscf_registrations"), 1.0);
    lone.pass(Duration::from_secs(31));
    assert_eq!(lone.removed(), [set.id]);
    assert_eq!(lone.metric("tessera_pcscf_registrations"), 0.0);
    assert_eq!((lone.rows_of("registration"), lone.rows_of("set")), (0, 0));
}

/// TS 24.229 §5.1.6.2; ipsec.md L-16: the normal registration of a phone and its emergency one come back both, with a set each;
/// and from the store of an earlier version, which had one place for both, the one that stood there.
#[test]
fn a_crash_costs_neither_of_two_kinds() {
    let mut lone = Lone::new();
    lone.all_is_there();
    let normal = lone.register();
    let of_emergency = |text: String| {
        text.replace(":31001>", ":34001;sos>")
            .replace("31000", "34000")
            .replace("31001", "34001")
            .replace("spi-c=7001;spi-s=7002", "spi-c=9001;spi-s=9002")
            .replace("call1", "call2")
            .replace("z9hG4bK", "z9hG4bKsos")
    };
    lone.request();
    lone.from_ue(5060, 5060, &of_emergency(register(5060, 1, &offer())));
    let forwarded = lone.request();
    lone.from_core(&challenge(&forwarded));
    let (id, emergency) = lone.take(|output| match output {
        Output::InstallSas { id, set } => Some((*id, KnownSet::from(&**set))),
        _ => None,
    });
    lone.feed(Input::SasInstalled { id, result: Ok(()) });
    let (_, response) = lone.response();
    let list = response.headers().get(Name::SecurityServer).unwrap().to_owned();
    let text = of_emergency(register(31_001, 2, &offer()))
        .replace("Authorization", &format!("Security-Verify: {list}\r\nAuthorization"));
    lone.from_ue(34_000, emergency.ports.ps, &text);
    let forwarded = lone.request();
    let mut response = accepted(&forwarded, 34_001, 3_600);
    response.headers_mut().set(Name::Contact, &format!("<sip:{UE}:34001;sos>;expires=3600"));
    lone.from_core(&response);
    assert_eq!(lone.response().1.status(), 200);
    assert_eq!((lone.rows_of("registration"), lone.rows_of("set")), (2, 2));
    for _ in 0..2 {
        lone.crash(Duration::from_secs(1));
        assert_eq!(lone.all_is_there(), [normal, emergency]);
        assert_eq!(lone.metric("tessera_pcscf_registrations"), 2.0);
        assert_eq!(lone.metric("tessera_pcscf_emergency_registrations"), 1.0);
    }
    // Each over its own set: the end of one set is the end of one registration.
    lone.feed(Input::SasExpired { set: normal.id });
    assert_eq!(lone.metric("tessera_pcscf_registrations"), 1.0);
    assert_eq!(lone.metric("tessera_pcscf_emergency_registrations"), 1.0);

    let row = |key: &str| ("registration".to_owned(), key.to_owned());
    let value = lone.rows.remove(&row("alice@home.example 10.45.0.2 sos")).unwrap();
    lone.rows.insert(row("alice@home.example 10.45.0.2"), value);
    lone.crash(Duration::from_secs(1));
    assert_eq!(lone.metric("tessera_pcscf_emergency_registrations"), 1.0);
    assert_eq!(lone.rows_of("registration"), 1);
    lone.pass(Duration::from_secs(3_700));
    assert_eq!((lone.rows_of("registration"), lone.rows_of("set")), (0, 0));
}

/// TS 24.229 §5.2.2.3; registration.md P-02, P-11: the term-ioi of the home network and its charging functions are for us, also
/// when we come back, and not for the UE; the operator is shown them.
#[test]
fn charging_is_kept_and_not_shown_to_the_ue() {
    let mut lone = Lone::new();
    lone.all_is_there();
    lone.register();
    for span in [None, Some(Duration::from_secs(1))] {
        if let Some(span) = span {
            lone.crash(span);
            lone.all_is_there();
        }
        lone.admin(&["registrations"]);
        let text = lone.take(|output| match output {
            Output::Reply { text, .. } => Some(text.clone()),
            _ => None,
        });
        assert!(text.contains("term-ioi home.example,"), "{span:?}: {text}");
        assert!(text.contains("charging ccf=192.0.2.90;ecf=192.0.2.91"), "{span:?}: {text}");
    }
}

/// What is over when the P-CSCF comes back ends at once.
#[test]
fn what_was_over_meanwhile_ends_at_the_start() {
    let mut lone = Lone::new();
    let set = lone.register();
    lone.crash(Duration::from_secs(4_000));
    lone.pass(Duration::ZERO);
    assert_eq!(lone.removed(), [set.id]);
    assert_eq!(lone.metric("tessera_pcscf_registrations"), 0.0);
    assert_eq!((lone.rows_of("registration"), lone.rows_of("set")), (0, 0));
}

/// No number names two sets, in whichever run: the data plane may still hold a temporary one.
#[test]
fn numbers_of_sets_go_on() {
    let mut lone = Lone::new();
    let first = lone.register();
    lone.from_ue(5060, 5060, &register(5060, 9, &offer()));
    lone.crash(Duration::from_secs(1));
    let second = {
        lone.rows.retain(|(kind, _), _| kind == "set_numbers");
        lone.crash(Duration::from_secs(1));
        lone.register()
    };
    assert!(second.id.0 > first.id.0 + 100, "{second:?}");
}

/// TS 33.203 §7.4: a set that the data plane lost ends, and with the last one the registration.
#[test]
fn what_the_data_plane_lost_ends() {
    let mut lone = Lone::new();
    lone.all_is_there();
    let set = lone.register();
    lone.pass(Duration::from_secs(60));
    let (id, known) = lone.audit();
    assert_eq!(known, [set]);
    let audit = Audit { missing: vec![set.id], stray_policies: 1, ..Audit::default() };
    lone.feed(Input::SasAudited { id, result: Ok(audit) });
    assert_eq!(lone.removed(), [set.id]);
    assert_eq!(lone.metric("tessera_pcscf_registrations"), 0.0);
    assert_eq!(lone.metric("tessera_pcscf_sets_lost_total"), 1.0);
    assert_eq!(lone.metric("tessera_pcscf_strays_removed_total"), 1.0);
    assert_eq!((lone.rows_of("registration"), lone.rows_of("set")), (0, 0));
    assert_eq!(lone.core.owed(), 0);
}

/// TS 33.203 §7.4: the kernel's own limit, should it ever be the first.
#[test]
fn an_expiry_in_the_data_plane_deregisters_here() {
    let mut lone = Lone::new();
    let set = lone.register();
    lone.feed(Input::SasExpired { set: SetId(999) });
    assert_eq!(lone.metric("tessera_pcscf_registrations"), 1.0);
    lone.feed(Input::SasExpired { set: set.id });
    assert_eq!(lone.removed(), [set.id]);
    assert_eq!(lone.metric("tessera_pcscf_registrations"), 0.0);
    assert_eq!(lone.rows_of("set"), 0);
}

/// One bad record costs itself and nothing else, and is not there the next time.
#[test]
fn bad_records_are_dropped() {
    let mut lone = Lone::new();
    let set = lone.register();
    let good = lone.rows[&("set".to_owned(), set.id.0.to_string())].clone();
    for (kind, key, value) in [
        ("set", "77", "{".to_owned()),
        ("set", "78", good.replace("in_use", "temporary").replace("\"id\":1", "\"id\":78")),
        ("set", "79", good.replace("\"id\":1", "\"id\":79")),
        ("registration", "bob 10.45.0.9", "{\"private_identity\":\"bob\"}".to_owned()),
        ("set_numbers", "reserved", "many".to_owned()),
    ] {
        lone.rows.insert((kind.into(), key.into()), value);
    }
    lone.crash(Duration::from_secs(1));
    assert_eq!(lone.all_is_there(), [set]);
    assert_eq!(lone.metric("tessera_pcscf_unreadable_records_total"), 5.0);
    assert_eq!((lone.rows_of("registration"), lone.rows_of("set")), (1, 1));
}

/// An audit that fails, or is never answered, harms nobody, and the next one comes.
#[test]
fn a_failed_audit_is_no_loss() {
    let mut lone = Lone::new();
    let (first, _) = lone.audit();
    let set = lone.register();
    lone.pass(Duration::from_secs(60));
    let (second, _) = lone.audit();
    let late = Audit { missing: vec![set.id], ..Audit::default() };
    lone.feed(Input::SasAudited { id: first, result: Ok(late) });
    lone.feed(Input::SasAudited { id: second, result: Err("no socket".into()) });
    assert_eq!(lone.metric("tessera_pcscf_registrations"), 1.0);
    lone.pass(Duration::from_secs(60));
    assert_eq!(lone.all_is_there(), [set]);
}

/// `sa list`: names, lives and counters, asked from the data plane, and no keys; `sa clear`: all is gone.
#[test]
fn the_operator_sees_and_clears() {
    let mut lone = Lone::new();
    lone.all_is_there();
    let set = lone.register();
    lone.now = lone.now + Duration::from_secs(7);
    let asked = lone.admin(&["sa", "list"]);
    let (id, _) = lone.audit();
    let used = Traffic {
        packets: 3,
        octets: 1_234,
        last_used: Some(Now::from_millis(lone.now.as_millis() - 5_000)),
        replayed: 2,
        bad_icv: 1,
    };
    let traffic = [used, Traffic::default(), used, Traffic::default()];
    let audit = Audit { held: vec![(set.id, traffic)], ..Audit::default() };
    lone.feed(Input::SasAudited { id, result: Ok(audit) });
    let reply = |lone: &mut Lone| {
        lone.take(|output| match output {
            Output::Reply { id, text } => Some((*id, text.clone())),
            _ => None,
        })
    };
    let (answered, text) = reply(&mut lone);
    assert_eq!(answered, asked);
    for part in [
        "alice@home.example at 10.45.0.2: registered for 3593 s",
        &format!("set {} in_use, 7 s old, 3623 s left, hmac-sha-1-96 aes-cbc", set.id.0),
        "10.45.0.2:31000 > 10.46.0.1:5064 spi",
        "3 packets, 1234 octets, used 5 s ago, 2 replayed, 1 bad ICV",
        "0 packets, 0 octets, never used",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains("0011223344"));
    lone.admin(&["sa", "clear"]);
    assert!(reply(&mut lone).1.contains("1 sets removed"));
    assert_eq!(lone.removed(), [set.id]);
    assert_eq!(lone.metric("tessera_pcscf_registrations"), 0.0);
    assert_eq!((lone.rows_of("registration"), lone.rows_of("set")), (0, 0));
}

/// TS 24.229 §5.2.3: subscriptions do not outlive the process, and are made anew by themselves: what the
/// home network has ended meanwhile is heard of without a word of the phone.
#[test]
fn a_crash_costs_no_watch() {
    let mut lone = Lone::new();
    lone.all_is_there();
    lone.register();
    let first = lone.request();
    assert_eq!(first.method(), Method::Subscribe);
    lone.crash(Duration::from_millis(700));
    lone.all_is_there();
    assert_eq!(lone.metric("tessera_pcscf_watches"), 0.0);
    lone.pass(Duration::from_millis(1_100));
    let again = lone.request();
    assert_eq!((again.method(), again.uri()), (Method::Subscribe, first.uri()));
    assert_ne!(again.call_id(), first.call_id());
    assert_eq!(lone.metric("tessera_pcscf_watches"), 1.0);
}

/// A subscription that could not be had for now is tried again without a word of the phone; one that was
/// refused for good is not.
#[test]
fn a_watch_is_tried_again() {
    for (status, is_again) in [(480, true), (403, false)] {
        let mut lone = Lone::new();
        lone.all_is_there();
        lone.register();
        let first = lone.request();
        lone.from_core(&first.response(status, "No"));
        assert_eq!(lone.metric("tessera_pcscf_watches"), 0.0, "{status}");
        lone.pass(Duration::from_secs(301));
        let watches = lone.metric("tessera_pcscf_watches");
        assert_eq!(watches, f64::from(u8::from(is_again)), "{status}");
        if is_again {
            let again = lone.request();
            assert_eq!((again.method(), again.uri()), (Method::Subscribe, first.uri()));
            assert_ne!(again.call_id(), first.call_id());
        }
    }
}

/// TS 24.229 §5.2.6.4: what the home network says in a dialog of before the start finds its UE by Record-Route, though
/// the phone's Contact leads nowhere; over its associations as ever.
#[test]
fn a_dialog_of_before_the_start() {
    let mut lone = Lone::new();
    let set = lone.register();
    let subscribe = format!(
        "SUBSCRIBE sip:alice@home.example SIP/2.0\r\n\
         Via: SIP/2.0/UDP {UE}:31001;branch=z9hG4bKs1\r\nMax-Forwards: 70\r\n\
         Route: <sip:{PCSCF}:5064;lr>, <sip:orig@192.0.2.31;lr>\r\n\
         From: <sip:alice@home.example>;tag=s\r\nTo: <sip:alice@home.example>\r\n\
         Call-ID: watch1\r\nCSeq: 1 SUBSCRIBE\r\nContact: <sip:phone.invalid>\r\nEvent: reg\r\n\
         Expires: 600000\r\nContent-Length: 0\r\n\r\n"
    );
    lone.from_ue(set.ports.uc, set.ports.ps, &subscribe);
    let forwarded = loop {
        let request = lone.request();
        if request.call_id() == "watch1" {
            break request;
        }
    };
    let recorded = forwarded.headers().get(Name::RecordRoute).unwrap();
    assert_eq!(recorded, "<sip:mo.0a2d00027919@pcscf1.visited.example;lr>");
    lone.crash(Duration::from_secs(60));
    let notify = format!(
        "NOTIFY sip:phone.invalid SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.31:5060;branch=z9hG4bKn1\r\n\
         Max-Forwards: 70\r\nRoute: {recorded}\r\nFrom: <sip:alice@home.example>;tag=t\r\n\
         To: <sip:alice@home.example>;tag=s\r\nCall-ID: watch1\r\nCSeq: 1 NOTIFY\r\n\
         Contact: <sip:192.0.2.31>\r\nEvent: reg\r\n\
         Subscription-State: active;expires=600000\r\nContent-Length: 0\r\n\r\n"
    );
    let flow = Flow {
        transport: Transport::Udp,
        local: "192.0.2.10:5060".parse().unwrap(),
        remote: "192.0.2.31:5060".parse().unwrap(),
    };
    lone.feed(Input::Sip { flow, bytes: notify.into() });
    let (flow, _) = lone.sent();
    assert_eq!((flow.local.port(), flow.remote.port()), (set.ports.pc, set.ports.us));
}

/// Versions before this one stored one end for all identities of a contact.
#[test]
fn a_registration_that_an_earlier_version_stored() {
    let mut lone = Lone::new();
    lone.register();
    let key = lone.rows.keys().find(|(kind, _)| kind == "registration").unwrap().clone();
    let mut stored: serde_json::Value = serde_json::from_str(&lone.rows[&key]).unwrap();
    let ends = stored["identities"][0].as_object_mut().unwrap().remove("expires_at").unwrap();
    stored["expires_at"] = ends;
    lone.rows.insert(key, stored.to_string());
    lone.crash(Duration::from_secs(3_600));
    assert_eq!(lone.metric("tessera_pcscf_registrations"), 1.0);
    lone.pass(Duration::from_secs(31));
    assert_eq!(lone.metric("tessera_pcscf_registrations"), 0.0);
}
