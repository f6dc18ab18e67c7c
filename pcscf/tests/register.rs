//! Dialogues with a P-CSCF alone: registration (TS 24.229 §5.2.2), with bytes on both sides.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::ipsec::agree::{AlgorithmPair, security_client};
use common::ipsec::sa::{Encryption, Integrity, SaSet, SetId};
use common::limits::Limits;
use common::node::{Flow, Input, Node, Now, Output, Transport};
use common::questions::QuestionId;
use common::random::Random;
use common::sip::header::Name;
use common::sip::message::{Message, Request, Response};
use common::sip::security::{Mechanism, mechanisms};
use common::stats::{Samples, Value};
use pcscf::Pcscf;
use pcscf::config::{Config, Gm, Ipsec, Mw, Policy, SecurityAnswer};

const UE: &str = "10.45.0.2";
const PCSCF: &str = "10.46.0.1";
const ICSCF: &str = "192.0.2.20:5060";
const CK: &str = "00112233445566778899aabbccddeeff";
const IK: &str = "ffeeddccbbaa99887766554433221100";

/// A P-CSCF with nothing around it but this test.
struct Lone {
    core: Pcscf,
    now: Now,
    /// Outputs not looked at yet.
    out: Vec<Output>,
}

/// The offer of a phone: ports and SPIs.
#[derive(Clone, Copy)]
struct Offer {
    uc: u16,
    us: u16,
    spi_uc: u32,
    spi_us: u32,
}

const FIRST: Offer = Offer { uc: 31_000, us: 31_001, spi_uc: 7_001, spi_us: 7_002 };
const SECOND: Offer = Offer { uc: 31_002, us: 31_001, spi_uc: 7_003, spi_us: 7_004 };

fn config(policy: Policy) -> Config {
    let text = format!(
        r#"{{ "name": "pcscf1.visited.example", "visited_network": "visited.example",
             "gm": {{ "addresses": ["{PCSCF}"] }},
             "mw": {{ "listen": ["192.0.2.10:5060"], "entry_point": "sip:{ICSCF}" }},
             "reg_event": {{ "subscribe": false }} }}"#
    );
    let mut config: Config = serde_json::from_str(&text).expect("a configuration");
    config.ipsec.policy = policy;
    config
}

impl Lone {
    fn new(policy: Policy) -> Lone {
        Lone::with(config(policy))
    }

    fn with(config: Config) -> Lone {
        let core = Pcscf::new(config, Random::from_seed([7; 32])).expect("a P-CSCF");
        Lone { core, now: Now::from_millis(1_000_000), out: Vec::new() }
    }

    fn feed(&mut self, input: Input) {
        self.core.handle(self.now, input, &mut self.out);
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

    /// The one SIP message that was sent since the last look, with where it went.
    fn sent(&mut self) -> (Flow, Message) {
        let mut sent: Vec<(Flow, Message)> = Vec::new();
        self.out.retain(|output| match output {
            Output::Sip { flow, bytes } => {
                let message = Message::parse(bytes.clone(), &Limits::default());
                sent.push((*flow, message.expect("what we send can be read")));
                false
            }
            _ => true,
        });
        assert_eq!(sent.len(), 1, "one message was to be sent: {sent:?}");
        sent.pop().unwrap()
    }

    fn sent_request(&mut self) -> Request {
        let (flow, message) = self.sent();
        assert_eq!(flow.remote, ICSCF.parse().unwrap());
        let Message::Request(request) = message else { panic!("a request was to be forwarded") };
        request
    }

    fn sent_response(&mut self) -> (Flow, Response) {
        let (flow, message) = self.sent();
        let Message::Response(response) = message else { panic!("a response was to be sent") };
        (flow, response)
    }

    fn is_silent(&self) -> bool {
        !self.out.iter().any(|output| matches!(output, Output::Sip { .. }))
    }

    fn installing(&mut self) -> (QuestionId, SaSet) {
        let at = self.out.iter().position(|output| matches!(output, Output::InstallSas { .. }));
        match self.out.remove(at.expect("a set was to be installed")) {
            Output::InstallSas { id, set } => (id, *set),
            _ => unreachable!(),
        }
    }

    fn removed(&mut self) -> Vec<SetId> {
        let mut removed = Vec::new();
        self.out.retain(|output| match output {
            Output::RemoveSas { set } => {
                removed.push(*set);
                false
            }
            _ => true,
        });
        removed
    }

    /// R1 in clear, 401 from home, set installed, 401 sent: gives the set and Security-Server.
    fn challenge(&mut self, offer: Offer, cseq: u32) -> (SaSet, String) {
        self.from_ue(5060, 5060, &register(offer, cseq, ""));
        let forwarded = self.sent_request();
        self.from_core(&challenge(&forwarded));
        let (id, set) = self.installing();
        assert!(self.is_silent(), "the 401 must wait for the kernel");
        self.feed(Input::SasInstalled { id, result: Ok(()) });
        let (_, response) = self.sent_response();
        assert_eq!(response.status(), 401);
        let list = response.headers().get(Name::SecurityServer).unwrap().to_owned();
        (set, list)
    }

    /// Challenge and answer: registered for an hour.
    fn register(&mut self, offer: Offer) -> SaSet {
        let (set, list) = self.challenge(offer, 1);
        self.from_ue(set.ports.uc, set.ports.ps, &answer(offer, 2, &list));
        let forwarded = self.sent_request();
        self.from_core(&accepted(&forwarded, offer.us, 3_600));
        let (_, response) = self.sent_response();
        assert_eq!(response.status(), 200);
        set
    }

    fn refused(&self, cause: &str) -> u64 {
        let mut samples = Samples::default();
        self.core.samples(&mut samples);
        samples
            .0
            .iter()
            .filter(|sample| sample.name == "tessera_pcscf_register_refusals_total")
            .filter(|sample| sample.labels.iter().any(|(_, value)| value == cause))
            .map(|sample| match sample.value {
                Value::Counter(count) => count,
                _ => 0,
            })
            .sum()
    }
}

fn offer_text(offer: Offer) -> String {
    let pairs = [
        AlgorithmPair { alg: Integrity::HmacSha1_96, ealg: Encryption::AesCbc },
        AlgorithmPair { alg: Integrity::HmacMd5_96, ealg: Encryption::Null },
    ];
    let list = security_client(&pairs, offer.spi_uc, offer.spi_us, offer.uc, offer.us);
    list.iter().map(Mechanism::to_string).collect::<Vec<_>>().join(", ")
}

fn register(offer: Offer, cseq: u32, more: &str) -> String {
    let security_client = offer_text(offer);
    text(
        5060,
        cseq,
        600_000,
        "nonce=\"\", response=\"\"",
        &format!("Security-Client: {security_client}\r\n{more}"),
    )
}

fn answer(offer: Offer, cseq: u32, security_server: &str) -> String {
    let security_client = offer_text(offer);
    text(
        offer.us,
        cseq,
        600_000,
        "nonce=\"bm9uY2U=\", response=\"0123456789abcdef0123456789abcdef\"",
        &format!("Security-Client: {security_client}\r\nSecurity-Verify: {security_server}\r\n"),
    )
}

fn text(port: u16, cseq: u32, expires: u32, digest: &str, more: &str) -> String {
    format!(
        "REGISTER sip:home.example SIP/2.0\r\n\
         Via: SIP/2.0/UDP {UE}:{port};branch=z9hG4bK{port}x{cseq};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:alice@home.example>;tag=a\r\n\
         To: <sip:alice@home.example>\r\n\
         Contact: <sip:{UE}:{port}>;+sip.instance=\"<urn:gsma:imei:90420156-025763-0>\";expires={expires}\r\n\
         Call-ID: call1\r\n\
         CSeq: {cseq} REGISTER\r\n\
         Supported: path, gruu\r\n\
         Require: sec-agree\r\n\
         Proxy-Require: sec-agree\r\n\
         {more}\
         Authorization: Digest username=\"alice@home.example\", realm=\"home.example\", uri=\"sip:home.example\", {digest}\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

fn challenge(request: &Request) -> Response {
    let mut response = request.response(401, "Unauthorized");
    response.headers_mut().append(
        Name::WwwAuthenticate,
        &format!(
            "Digest realm=\"home.example\",nonce=\"bm9uY2U=\",algorithm=AKAv1-MD5,qop=\"auth\",ck=\"{CK}\",ik=\"{IK}\""
        ),
    );
    response.headers_mut().append(Name::PChargingVector, "icid-value=\"1\";orig-ioi=v;term-ioi=h");
    response
}

fn accepted(request: &Request, port_us: u16, seconds: u32) -> Response {
    let mut response = request.response(200, "OK");
    let headers = response.headers_mut();
    headers.append(Name::Path, "<sip:term.0a2d00027919@pcscf1.visited.example;lr>");
    headers.append(Name::ServiceRoute, "<sip:orig@scscf1.home.example;lr>");
    headers.append(Name::PAssociatedUri, "<sip:alice@home.example>, <tel:+12025550123>");
    headers.append(Name::Contact, &format!("<sip:{UE}:{port_us}>;expires={seconds}"));
    headers.append(Name::PChargingVector, "icid-value=\"1\";orig-ioi=v;term-ioi=h");
    response
}

/// TS 24.229 §5.2.2.1, §5.2.2.4; S-31..S-40, S-16: what the home network gets, and what stays outside; its
/// refusal goes back as it is.
#[test]
fn forwards_the_first_register_with_what_home_needs() {
    let mut lone = Lone::new(Policy::Required);
    let more = "Route: <sip:10.46.0.1;lr>\r\nP-Charging-Vector: icid-value=forged\r\n\
                P-Visited-Network-ID: forged\r\n";
    lone.from_ue(5060, 5060, &register(FIRST, 1, more));
    let request = lone.sent_request();
    let headers = request.headers();
    assert_eq!(request.uri(), "sip:home.example");
    assert_eq!(headers.get(Name::MaxForwards), Some("69"));
    assert!(headers.values(Name::Via).next().unwrap().contains("pcscf1.visited.example"));
    let ue_via = headers.values(Name::Via).nth(1).unwrap();
    assert!(ue_via.contains("received=10.45.0.2") && ue_via.contains("rport=5060"), "{ue_via}");
    assert!(!headers.has(Name::Route) && !headers.has(Name::SecurityClient));
    assert!(!headers.has(Name::ProxyRequire));
    assert!(!headers.has_token(Name::Require, "sec-agree"));
    assert!(headers.has_token(Name::Require, "path"));
    assert_eq!(headers.get(Name::Path), Some("<sip:term.0a2d00027919@pcscf1.visited.example;lr>"));
    assert_eq!(headers.get(Name::PVisitedNetworkId), Some("\"visited.example\""));
    let vector = headers.get(Name::PChargingVector).unwrap();
    assert!(vector.contains("orig-ioi=") && !vector.contains("forged"), "{vector}");
    let authorization = headers.get(Name::Authorization).unwrap();
    assert!(authorization.contains("integrity-protected=\"no\""), "{authorization}");
    assert_eq!(headers.get(Name::From), Some("<sip:alice@home.example>;tag=a"));
    assert_eq!(headers.get(Name::CSeq), Some("1 REGISTER"));
    lone.from_core(&request.response(403, "Forbidden"));
    assert_eq!(lone.sent_response().1.status(), 403);
    assert_eq!(lone.core.owed(), 0);
}

/// TS 24.229 §5.2.2.2; S-62..S-67, S-75: the set is installed before the 401 leaves, in clear, without
/// ck and ik.
#[test]
fn takes_the_keys_and_installs_four_associations_before_the_401_leaves() {
    let mut lone = Lone::new(Policy::Required);
    lone.from_ue(5060, 5060, &register(FIRST, 1, ""));
    let forwarded = lone.sent_request();
    lone.from_core(&challenge(&forwarded));
    let (id, set) = lone.installing();
    assert!(lone.is_silent());
    assert_eq!(hex::encode(set.keys.ck.expose()), CK);
    assert_eq!(hex::encode(set.keys.ik.expose()), IK);
    assert_eq!((set.ports.uc, set.ports.us, set.ports.ps), (31_000, 31_001, 5064));
    assert_eq!((set.spis.uc, set.spis.us), (7_001, 7_002));
    assert_ne!(set.spis.pc, set.spis.ps);
    assert!(set.spis.pc >= 1_000_000_000 && set.spis.ps >= 1_000_000_000);
    assert_eq!((set.integrity, set.encryption), (Integrity::HmacSha1_96, Encryption::AesCbc));
    assert_eq!(set.associations().len(), 4);
    lone.feed(Input::SasInstalled { id, result: Ok(()) });
    let (flow, response) = lone.sent_response();
    assert_eq!(flow.local.port(), 5060);
    assert_eq!(flow.remote, SocketAddr::new(UE.parse().unwrap(), 5060));
    let text = String::from_utf8(response.to_bytes().to_vec()).unwrap();
    for secret in [CK, IK, "ck=", "ik=", "P-Charging-Vector"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let list = mechanisms(response.headers(), Name::SecurityServer).unwrap();
    assert!(list.len() > 1 && list[0].q() > list[1].q());
    for mechanism in &list {
        assert_eq!(mechanism.number("spi-s"), Some(set.spis.ps));
        assert_eq!(mechanism.number("port-c"), Some(u32::from(set.ports.pc)));
    }
}

/// TS 24.229 §5.2.2.1, TS 33.203 §7.1; S-72, S-86, S-88, S-89, S-98, S-99: the answer comes in on the
/// temporary set, and the 200 goes from port_pc to port_us.
#[test]
fn accepts_the_protected_register_and_establishes_the_set() {
    let mut lone = Lone::new(Policy::Required);
    let (set, list) = lone.challenge(FIRST, 1);
    lone.from_ue(set.ports.uc, set.ports.ps, &answer(FIRST, 2, &list));
    let forwarded = lone.sent_request();
    let headers = forwarded.headers();
    assert!(!headers.has(Name::SecurityVerify) && !headers.has(Name::SecurityClient));
    let authorization = headers.get(Name::Authorization).unwrap();
    assert!(authorization.contains("integrity-protected=\"yes\""));
    assert!(authorization.contains("response=\"0123456789abcdef0123456789abcdef\""));
    lone.from_core(&accepted(&forwarded, FIRST.us, 3_600));
    let (flow, response) = lone.sent_response();
    assert_eq!(response.status(), 200);
    assert_eq!((flow.local.port(), flow.remote.port()), (set.ports.pc, set.ports.us));
    assert!(!response.headers().has(Name::PChargingVector));
    assert!(response.headers().has(Name::ServiceRoute));
    assert_eq!(lone.core.owed(), 0);
}

/// TS 33.203 §7.4, S-77: a temporary set lives 240 s, an established one until 30 s after the
/// registration; nothing is left then.
#[test]
fn sets_end_when_their_life_is_over() {
    let mut lone = Lone::new(Policy::Required);
    let (set, _) = lone.challenge(FIRST, 1);
    lone.pass(Duration::from_secs(239));
    assert_eq!(lone.removed(), []);
    lone.pass(Duration::from_secs(2));
    assert_eq!(lone.removed(), [set.id]);

    let set = lone.register(SECOND);
    lone.pass(Duration::from_secs(3_629));
    assert_eq!(lone.removed(), []);
    lone.pass(Duration::from_secs(2));
    assert_eq!(lone.removed(), [set.id]);
    lone.pass(Duration::from_secs(200));
    assert_eq!(lone.core.next_timeout(), None);
}

/// RFC 3329 §2.3.1; S-86: Security-Verify missing or changed, Security-Client changed: 494 with the
/// list, and nothing is forwarded.
#[test]
fn finds_out_who_bids_down() {
    let mut lone = Lone::new(Policy::Required);
    let (set, list) = lone.challenge(FIRST, 1);
    let altered = list.replace("hmac-sha-1-96", "hmac-md5-96");
    let missing = answer(FIRST, 3, &list).replace("Security-Verify", "X-Security");
    for (cause, text) in [
        ("security_verify_mismatch", answer(FIRST, 2, &altered)),
        ("security_verify_mismatch", missing),
        ("security_client_changed", answer(Offer { spi_uc: 8_888, ..FIRST }, 4, &list)),
    ] {
        let before = lone.refused(cause);
        lone.from_ue(set.ports.uc, set.ports.ps, &text);
        let (_, response) = lone.sent_response();
        assert_eq!(response.status(), 494, "{cause}");
        assert_eq!(response.headers().get(Name::SecurityServer), Some(list.as_str()));
        assert!(response.headers().has_token(Name::Require, "sec-agree"));
        assert_eq!(lone.refused(cause), before + 1);
    }
}

/// RFC 3329 §2.3, §2.3.1; S-23: no sec-agree where it is demanded gets 421, no common algorithm 494; both carry
/// the list.
#[test]
fn demands_a_security_agreement() {
    let mut lone = Lone::new(Policy::Required);
    let plain = register(FIRST, 1, "")
        .replace("Require: sec-agree\r\n", "")
        .replace("Proxy-Require: sec-agree\r\n", "");
    let start = plain.find("Security-Client").unwrap();
    let end = start + plain[start..].find("\r\n").unwrap() + 2;
    let plain = format!("{}{}", &plain[..start], &plain[end..]).replace("Proxy-", "");
    lone.from_ue(5060, 5060, &plain);
    let (_, response) = lone.sent_response();
    assert_eq!(response.status(), 421);
    assert!(!mechanisms(response.headers(), Name::SecurityServer).unwrap().is_empty());

    let exotic = register(FIRST, 2, "")
        .replace("hmac-sha-1-96", "hmac-sha-512")
        .replace("hmac-md5-96", "hmac-sha-512");
    lone.from_ue(5060, 5060, &exotic);
    assert_eq!(lone.sent_response().1.status(), 494);
    assert_eq!(lone.refused("no_common_algorithm"), 1);

    let mut lone = Lone::new(Policy::Preferred);
    lone.from_ue(5060, 5060, &plain);
    lone.sent_request();
}

/// TS 24.229 §5.2.2.1: over an association speaks only the private identity that it belongs to, from the
/// address it belongs to (ipsec.md F-10).
#[test]
fn nobody_speaks_over_anothers_association() {
    let mut lone = Lone::new(Policy::Required);
    let (set, list) = lone.challenge(FIRST, 1);
    let other = answer(FIRST, 2, &list).replace("username=\"alice@", "username=\"mallory@");
    lone.from_ue(set.ports.uc, set.ports.ps, &other);
    assert_eq!(lone.sent_response().1.status(), 403);
    assert_eq!(lone.refused("foreign_identity"), 1);
    let other = answer(FIRST, 3, &list).replace("UDP 10.45.0.2", "UDP 10.45.0.99");
    lone.from_ue(set.ports.uc, set.ports.ps, &other);
    assert_eq!(lone.sent_response().1.status(), 403);
    // A port that no set has: nothing at all, whatever the header says.
    lone.from_ue(set.ports.uc + 1, set.ports.ps, &answer(FIRST, 4, &list));
    assert!(lone.is_silent());
}

/// TS 24.229 §5.2.2.2: integrity-protected comes from facts; what the UE writes there is replaced
/// (ipsec.md F-07).
#[test]
fn a_forged_integrity_protected_is_replaced() {
    let mut lone = Lone::new(Policy::Required);
    let forged = register(FIRST, 1, "")
        .replace("response=\"\"", "response=\"\", integrity-protected=\"yes\"");
    lone.from_ue(5060, 5060, &forged);
    let request = lone.sent_request();
    let authorization = request.headers().get(Name::Authorization).unwrap();
    assert_eq!(authorization.matches("integrity-protected").count(), 1);
    assert!(authorization.contains("integrity-protected=\"no\""));
}

/// TS 24.229 §5.2.2.1, pitfall 20: nor by credentials that are not for the home network of the Request-URI: an I-CSCF or
/// S-CSCF named there would take the line for its own realm out of several. Whatever is not ours goes no further.
#[test]
fn forged_credentials_beside_others_go_no_further() {
    let victim = "Digest username=\"bob@home.example\", realm=\"home.example\", uri=\"sip:home.example\", \
                  nonce=\"\", response=\"\", integrity-protected=\"yes\"";
    for beside in
        ["Digest username=\"x\", realm=\"x\"", "Bearer x", "Digest realm=\"y\", username=\"y\""]
    {
        for to in ["sip:icscf1.home.example", "sip:192.0.2.20", "sip:home.example"] {
            for lines in [[victim, beside], [beside, victim]] {
                let mut lone = Lone::new(Policy::Required);
                let text: String = register(FIRST, 1, "")
                    .replacen("sip:home.example SIP/2.0", &format!("{to} SIP/2.0"), 1)
                    .split_inclusive("\r\n")
                    .filter(|line| !line.starts_with("Authorization"))
                    .map(|line| match line.starts_with("Content-Length") {
                        true => format!(
                            "Authorization: {}\r\nAuthorization: {}\r\n{line}",
                            lines[0], lines[1]
                        ),
                        false => line.to_owned(),
                    })
                    .collect();
                lone.from_ue(5060, 5060, &text);
                let (_, message) = lone.sent();
                let Message::Request(request) = message else { continue };
                let text = String::from_utf8(request.to_bytes().to_vec()).unwrap();
                assert!(request.headers().count(Name::Authorization) <= 1, "{text}");
                assert!(!text.contains("integrity-protected=\"yes\""), "{text}");
            }
        }
    }
}

/// ipsec.md F-12, P-10: a kernel that refuses, and a challenge without keys, end in 500; no set stays.
#[test]
fn nothing_stays_of_a_set_that_cannot_be() {
    let mut lone = Lone::new(Policy::Required);
    lone.from_ue(5060, 5060, &register(FIRST, 1, ""));
    let forwarded = lone.sent_request();
    lone.from_core(&challenge(&forwarded));
    let (id, set) = lone.installing();
    lone.feed(Input::SasInstalled { id, result: Err("no".into()) });
    assert_eq!(lone.sent_response().1.status(), 500);
    assert_eq!(lone.removed(), [set.id]);

    lone.from_ue(5060, 5060, &register(FIRST, 2, ""));
    let forwarded = lone.sent_request();
    let mut bare = challenge(&forwarded);
    bare.headers_mut().set(
        Name::WwwAuthenticate,
        "Digest realm=\"home.example\",nonce=\"bm9uY2U=\",algorithm=AKAv1-MD5",
    );
    lone.from_core(&bare);
    assert_eq!(lone.sent_response().1.status(), 500);
    assert_eq!(lone.refused("no_keys"), 1);
}

/// TS 24.229 §5.2.2.3, S-79: after a re-authentication the old set stays in use until the UE speaks on the
/// new one, then it has 128 s.
#[test]
fn old_and_new_set_live_side_by_side() {
    let mut lone = Lone::new(Policy::Required);
    let old = lone.register(FIRST);
    lone.from_ue(
        old.ports.uc,
        old.ports.ps,
        &text(
            FIRST.us,
            3,
            600_000,
            "nonce=\"bm9uY2U=\", response=\"00\"",
            &format!("Security-Client: {}\r\n", offer_text(SECOND)),
        ),
    );
    let forwarded = lone.sent_request();
    lone.from_core(&challenge(&forwarded));
    let (id, new) = lone.installing();
    assert_eq!(new.ports.us, old.ports.us);
    assert_ne!(new.ports.pc, old.ports.pc);
    lone.feed(Input::SasInstalled { id, result: Ok(()) });
    let (flow, challenge) = lone.sent_response();
    assert_eq!((flow.local.port(), flow.remote.port()), (old.ports.pc, old.ports.us));
    let list = challenge.headers().get(Name::SecurityServer).unwrap().to_owned();
    lone.from_ue(new.ports.uc, new.ports.ps, &answer(SECOND, 4, &list));
    let forwarded = lone.sent_request();
    lone.from_core(&accepted(&forwarded, SECOND.us, 3_600));
    assert_eq!(lone.sent_response().1.status(), 200);
    lone.pass(Duration::from_secs(200));
    assert_eq!(lone.removed(), [], "the UE has not used the new set");
    lone.from_ue(
        new.ports.uc,
        new.ports.ps,
        &text(SECOND.us, 5, 600_000, "nonce=\"bm9uY2U=\", response=\"00\"", ""),
    );
    let forwarded = lone.sent_request();
    lone.from_core(&accepted(&forwarded, SECOND.us, 3_600));
    let (flow, _) = lone.sent_response();
    assert_eq!(flow.local.port(), new.ports.pc);
    lone.pass(Duration::from_secs(129));
    assert_eq!(lone.removed(), [old.id]);
}

/// TS 24.229 §5.2.2.1; A-05: an offer over an association must not repeat its ports or SPIs. All of them at
/// once are no new offer: a UE sends its REGISTER again whose answer was lost with a connection. It may
/// refresh with that, and cannot be challenged.
#[test]
fn an_offer_that_repeats_ports_is_refused() {
    let mut lone = Lone::new(Policy::Required);
    let set = lone.register(FIRST);
    lone.from_ue(
        set.ports.uc,
        set.ports.ps,
        &text(
            FIRST.us,
            3,
            600_000,
            "nonce=\"bm9uY2U=\", response=\"00\"",
            &format!("Security-Client: {}\r\n", offer_text(Offer { spi_uc: 99_001, ..FIRST })),
        ),
    );
    assert_eq!(lone.sent_response().1.status(), 494);
    assert_eq!(lone.refused("offer_collides"), 1);
    let same = |cseq| {
        let offer = format!("Security-Client: {}\r\n", offer_text(FIRST));
        text(FIRST.us, cseq, 600_000, "nonce=\"bm9uY2U=\", response=\"00\"", &offer)
    };
    lone.from_ue(set.ports.uc, set.ports.ps, &same(4));
    let forwarded = lone.sent_request();
    lone.from_core(&accepted(&forwarded, FIRST.us, 3_600));
    assert_eq!(lone.sent_response().1.status(), 200);
    lone.from_ue(set.ports.uc, set.ports.ps, &same(5));
    let forwarded = lone.sent_request();
    lone.from_core(&challenge(&forwarded));
    assert_eq!(lone.sent_response().1.status(), 500, "it has to register anew");
    assert_eq!(lone.refused("nothing_to_secure"), 1);
}

/// ipsec.md A-05, L-04: a phone that restarted registers in clear with the same ports; the old set makes room.
#[test]
fn a_phone_that_restarted_displaces_its_old_set() {
    let mut lone = Lone::new(Policy::Required);
    let old = lone.register(FIRST);
    let (new, list) = lone.challenge(FIRST, 10);
    assert_eq!(lone.removed(), [old.id]);
    lone.from_ue(new.ports.uc, new.ports.ps, &answer(FIRST, 11, &list));
    let forwarded = lone.sent_request();
    lone.from_core(&accepted(&forwarded, FIRST.us, 3_600));
    assert_eq!(lone.sent_response().1.status(), 200);
}

/// TS 24.229 §5.2.5.1; S-121: deregistration answers on the set, which then has 128 s.
#[test]
fn deregistration_ends_the_sets_after_the_answer_has_passed() {
    let mut lone = Lone::new(Policy::Required);
    let set = lone.register(FIRST);
    lone.from_ue(
        set.ports.uc,
        set.ports.ps,
        &text(FIRST.us, 3, 0, "nonce=\"bm9uY2U=\", response=\"00\"", ""),
    );
    let forwarded = lone.sent_request();
    lone.from_core(&forwarded.response(200, "OK"));
    let (flow, _) = lone.sent_response();
    assert_eq!(flow.local.port(), set.ports.pc);
    lone.pass(Duration::from_secs(127));
    assert_eq!(lone.removed(), []);
    lone.pass(Duration::from_secs(2));
    assert_eq!(lone.removed(), [set.id]);
}

/// registration.md P-20; S-135: a silent entry point ends in 504 before the phone gives up.
#[test]
fn a_silent_home_network_is_answered_for() {
    let mut lone = Lone::new(Policy::Required);
    lone.from_ue(5060, 5060, &register(FIRST, 1, ""));
    lone.sent_request();
    let mut waited = 0;
    let status = loop {
        lone.pass(Duration::from_secs(1));
        waited += 1;
        let answers = lone.out.iter().filter_map(|output| match output {
            Output::Sip { flow, bytes } if flow.remote.ip().to_string() == UE => {
                Some(bytes.clone())
            }
            _ => None,
        });
        if let Some(bytes) = answers.last() {
            let Ok(Message::Response(response)) = Message::parse(bytes, &Limits::default()) else {
                panic!("a response")
            };
            break response.status();
        }
        assert!(waited < 128, "the phone has given up");
    };
    assert_eq!(status, 504);
    assert_eq!(lone.core.owed(), 0);
}

/// ipsec.md N-01, F-08: in clear only REGISTER; over a temporary set nothing else.
#[test]
fn other_requests_need_a_registration() {
    let mut lone = Lone::new(Policy::Required);
    let options = register(FIRST, 1, "").replace("REGISTER", "OPTIONS");
    lone.from_ue(5060, 5060, &options);
    assert_eq!(lone.sent_response().1.status(), 403);
    let (set, _) = lone.challenge(FIRST, 2);
    lone.from_ue(
        set.ports.uc,
        set.ports.ps,
        &options.replace("CSeq: 1", "CSeq: 3").replace("x1;", "x3;"),
    );
    assert_eq!(lone.sent_response().1.status(), 403);
}

/// RFC 5626 §5, §5.1, TS 24.229 §5.2.2.1: who registers a flow finds it in Path, with `ob`; who does not say all that
/// is needed does not.
#[test]
fn a_flow_is_named_in_path() {
    const INSTANCE: &str = "+sip.instance=\"<urn:gsma:imei:90420156-025763-0>\"";
    let with_number = format!("{INSTANCE};reg-id=1");
    for (instance, supported, is_flow) in [
        (with_number.as_str(), "path, outbound", true),
        (with_number.as_str(), "path", false),
        ("reg-id=1", "path, outbound", false),
        (INSTANCE, "path, outbound", false),
    ] {
        let mut lone = Lone::new(Policy::Required);
        let text = register(FIRST, 1, "").replace(INSTANCE, instance);
        lone.from_ue(5060, 5060, &text.replace("path, gruu", supported));
        let request = lone.sent_request();
        let expected = match is_flow {
            true => "<sip:term.0a2d00027919@pcscf1.visited.example;lr;ob>",
            false => "<sip:term.0a2d00027919@pcscf1.visited.example;lr>",
        };
        assert_eq!(request.headers().get(Name::Path), Some(expected), "{instance} {supported}");
    }
}

/// RFC 3261 §16.3: Proxy-Require with a tag that is not sec-agree.
#[test]
fn unknown_extensions_are_named() {
    let mut lone = Lone::new(Policy::Required);
    let text = register(FIRST, 1, "")
        .replace("Proxy-Require: sec-agree", "Proxy-Require: sec-agree, wings");
    lone.from_ue(5060, 5060, &text);
    let (_, response) = lone.sent_response();
    assert_eq!(response.status(), 420);
    assert_eq!(response.headers().get(Name::Unsupported), Some("wings"));
}

/// A configuration that cannot work is refused with what is wrong.
#[test]
fn contradictions_in_the_configuration_are_named() {
    let mut wildcard = config(Policy::Required);
    wildcard.gm = Gm {
        addresses: vec!["0.0.0.0".parse().unwrap()],
        port: 5060,
        t1_milliseconds: 2_000,
        protected_server_port: 5060,
        protected_client_ports: vec![5100],
        keep_alive_seconds: 0,
        route_mismatch: pcscf::config::RouteMismatch::Replace,
    };
    wildcard.mw =
        Mw { listen: Vec::new(), entry_point: None, attempt_seconds: 32, register_seconds: 200 };
    wildcard.ipsec = Ipsec {
        answer: SecurityAnswer::Chosen,
        algorithms: vec![AlgorithmPair { alg: Integrity::Null, ealg: Encryption::Null }],
        ..Ipsec::default()
    };
    let problems = wildcard.problems();
    for part in
        ["wildcard", "mw.listen", "5060 cannot", "at least four", "alg null", "register_seconds"]
    {
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part}: {problems:?}");
    }
}
