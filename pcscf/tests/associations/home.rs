//! The home network as the P-CSCF meets it: several entry points, answers of every kind, and what must not come
//! from a UE (TS 24.229 §5.2.2).

use std::net::IpAddr;
use std::time::Duration;

use common::dns::{self, RecordData, RecordType};
use common::node::{Flow, Input, Node, Output, Transport};
use common::sip::header::Name;
use common::sip::message::{Message, Request, Response};
use pcscf::config::Policy;

use crate::lone::*;

const HOPS: [&str; 2] = ["192.0.2.21", "192.0.2.22"];
const CHALLENGE: &str = "Digest realm=\"home.example\",nonce=\"bm9uY2U=\",algorithm=AKAv1-MD5,\
                         ck=\"00112233445566778899aabbccddeeff\",ik=\"ffeeddccbbaa99887766554433221100\"";

impl Lone {
    /// Answers what is asked of the DNS: these addresses for each name. Gives the names.
    fn resolves(&mut self, addresses: &[&str]) -> Vec<String> {
        let mut names = Vec::new();
        while let Some((id, question)) = self.asked() {
            let answer = match question.record_type {
                RecordType::A => dns::Answer::Found {
                    records: addresses
                        .iter()
                        .map(|address| RecordData::Address(address.parse::<IpAddr>().unwrap()))
                        .collect(),
                    ttl: Duration::from_secs(60),
                },
                _ => dns::Answer::Nothing { ttl: Duration::from_secs(60) },
            };
            names.push(question.name.clone());
            self.feed(Input::Resolved { id, answer });
        }
        names.sort();
        names.dedup();
        names
    }

    /// The requests to the home network, repetitions left out, with their hops.
    fn tried(&mut self) -> Vec<(IpAddr, Request)> {
        let mut tried: Vec<(IpAddr, Request)> = Vec::new();
        for (flow, message) in self.take_sip() {
            let Message::Request(request) = message else { panic!("{message:?}") };
            if tried.last().is_none_or(|(hop, _)| *hop != flow.remote.ip()) {
                tried.push((flow.remote.ip(), request));
            }
        }
        tried
    }
}

fn by_name() -> Lone {
    let mut config = config();
    config.mw.entry_point = Some("sip:entry.home.example".into());
    Lone::with(config)
}

/// TS 24.229 §5.2.2.1, RFC 3263 §4.3: an entry point that is silent, unavailable, redirects, or has nobody behind it
/// is left for the next; the registration goes on there.
#[test]
fn another_entry_point() {
    for status in [None, Some(480), Some(503), Some(302)] {
        let mut lone = by_name();
        let phone = Phone::new("alice", "10.45.0.2");
        lone.in_clear(&phone, &Register::first(&phone));
        assert_eq!(
            lone.resolves(&HOPS),
            ["_sip._tcp.entry.home.example", "_sip._udp.entry.home.example", "entry.home.example"]
        );
        let (first, request) = lone.tried().remove(0);
        match status {
            None => lone.pass(32),
            Some(status) => lone.home_says(&request.response(status, "No")),
        }
        let mut tried = lone.tried();
        tried.retain(|(hop, _)| *hop != first);
        assert_eq!(tried.len(), 1, "{status:?}");
        let (_, request) = tried.remove(0);
        let mut response = request.response(401, "Unauthorized");
        response.headers_mut().append(Name::WwwAuthenticate, CHALLENGE);
        lone.home_says(&response);
        assert!(lone.installing().is_some(), "{status:?}");
    }
}

/// TS 24.229 §5.2.2.1, §5.2.2.4: where no other is left, silence and redirection are 504; what else the home network
/// says goes to the UE, with when to come again.
#[test]
fn no_other_entry_point() {
    for (status, relayed) in [(302, 504), (480, 480), (500, 500), (503, 503), (403, 403)] {
        let mut lone = Lone::new();
        let phone = Phone::new("alice", "10.45.0.2");
        lone.in_clear(&phone, &Register::first(&phone));
        let mut response = lone.forwarded().response(status, "No");
        response.headers_mut().append(Name::RetryAfter, "77");
        lone.home_says(&response);
        let (_, response) = lone.answered();
        assert_eq!(response.status(), relayed, "{status}");
        let retry_after = (relayed == status).then_some("77");
        assert_eq!(response.headers().get(Name::RetryAfter), retry_after, "{status}");
        assert_eq!(lone.core.owed(), 0);
    }
}

/// TS 24.229 §5.2.2.1: without a configured entry point the domain of the Request-URI says where to go, by its name
/// alone; an address says nothing.
#[test]
fn the_home_domain_by_its_name() {
    let mut config = config();
    config.mw.entry_point = None;
    let phone = Phone::new("alice", "10.45.0.2");
    for (uri, names) in [
        ("sip:home.example:5070;maddr=192.0.2.66;transport=tcp", true),
        ("sip:192.0.2.66", false),
        ("sip:[2001:db8::66]:5060", false),
    ] {
        let mut lone = Lone::with(config.clone());
        let text = lone.write(&phone, 5060, &Register::first(&phone));
        let text = text.replace("REGISTER sip:home.example", &format!("REGISTER {uri}"));
        lone.text(&phone, 5060, 5060, &text);
        let asked = lone.resolves(&HOPS);
        assert_eq!(asked.iter().any(|name| name == "home.example"), names, "{uri}: {asked:?}");
        match names {
            true => assert!(HOPS.contains(&lone.tried()[0].0.to_string().as_str()), "{uri}"),
            false => assert_eq!(lone.status(), 504, "{uri}"),
        }
    }
}

/// TS 24.229 §5.2.2.1, §4.5: what only the network may say does not come from a UE.
#[test]
fn headers_of_the_network_alone() {
    let mut lone = Lone::new();
    let phone = Phone::new("alice", "10.45.0.2");
    let forged = [
        (Name::Path, "<sip:forged.example;lr>"),
        (Name::ServiceRoute, "<sip:forged.example;lr>"),
        (Name::PAssociatedUri, "<sip:forged.example>"),
        (Name::PAssertedIdentity, "<sip:forged.example>"),
        (Name::PChargingFunctionAddresses, "ccf=forged.example"),
        (Name::PChargingVector, "icid-value=forged.example"),
        (Name::PVisitedNetworkId, "forged.example"),
        (Name::PAccessNetworkInfo, "3GPP-E-UTRAN-FDD;x=forged.example;network-provided"),
    ];
    let mut register = Register::first(&phone);
    for (name, value) in forged {
        register.more += &format!("{}: {value}\r\n", name.as_str());
    }
    lone.in_clear(&phone, &register);
    let request = lone.forwarded();
    let text = String::from_utf8(request.to_bytes().to_vec()).unwrap();
    assert!(!text.contains("forged"), "{text}");
    assert_eq!(request.headers().values(Name::Path).count(), 1);
}

fn challenged_with(policy: Policy, line: &str) -> (Response, String) {
    let mut config = config();
    config.ipsec.policy = policy;
    let mut lone = Lone::with(config);
    let phone = Phone::new("alice", "10.45.0.2");
    let mut register = Register::first(&phone);
    if policy != Policy::Required {
        register.more.clear();
    }
    let text = lone.write(&phone, 5060, &register);
    let text = match policy {
        Policy::Required => text,
        _ => text.replace("Require: sec-agree\r\nProxy-Require: sec-agree\r\n", ""),
    };
    lone.text(&phone, 5060, 5060, &text);
    let mut response = lone.forwarded().response(401, "Unauthorized");
    response.headers_mut().append(Name::WwwAuthenticate, line);
    lone.home_says(&response);
    assert_eq!(lone.installing(), None, "{line}");
    let (_, response) = lone.answered();
    let text = String::from_utf8(response.to_bytes().to_vec()).unwrap();
    (response, text)
}

/// TS 24.229 §5.2.2.2; S-66: the keys never reach a UE, also where there are no associations to make of them; what
/// cannot be read, and may have them, does not pass.
#[test]
fn keys_go_to_nobody() {
    let (response, text) = challenged_with(Policy::Preferred, CHALLENGE);
    assert_eq!(response.status(), 401);
    for secret in ["ck=", "ik=", "00112233445566778899aabbccddeeff", "ffeeddccbbaa"] {
        assert!(!text.contains(secret), "{text}");
    }
    for line in [
        "Digest realm=\"home.example\" nonce=\"bm9uY2U=\" CK=\"00112233445566778899aabbccddeeff",
        "Digest realm=\"home.example\",nonce=\"bm9uY2U=\",algorithm=AKAv1-MD5,ck=\"0011\",ik=\"ff\"",
        "Digest realm=\"home.example\",nonce=\"bm9uY2U=\",algorithm=AKAv1-MD5",
    ] {
        let (response, text) = challenged_with(Policy::Required, line);
        assert_eq!(response.status(), 500, "{line}");
        assert!(!text.to_lowercase().contains("ck="), "{text}");
    }
}

/// TS 24.229 §5.2.5.1, §5.2.2.3: of two public identities one is deregistered, and challenged for it: the other one
/// lives on the set that the challenge has made.
#[test]
fn a_challenged_deregistration_of_one_of_two() {
    let mut lone = Lone::new();
    let phone = Phone::new("alice", "10.45.0.2");
    let set = lone.registered(&phone);
    let work =
        |lone: &mut Lone, phone: &Phone, set: &common::ipsec::sa::SaSet, register: &Register| {
            let text = lone.write(phone, set.ports.us, register);
            let text = text.replace("To: <sip:alice@", "To: <sip:work@");
            lone.text(phone, set.ports.uc, set.ports.ps, &text);
        };
    work(&mut lone, &phone, &set, &Register::refresh());
    lone.home_accepts(3_600);
    assert_eq!(lone.status(), 200);
    assert_eq!(lone.registrations(), 1);
    let next = phone.next();
    work(&mut lone, &next, &set, &Register { expires: 0, ..Register::first(&next) });
    let (new, list, _) = lone.challenged();
    work(&mut lone, &next, &new, &Register { expires: 0, ..Register::answer(&next, &list) });
    lone.home_accepts(0);
    assert_eq!(lone.status(), 200);
    assert_eq!(lone.registrations(), 1);
    lone.removed();
    lone.refreshed(&next, &new);
    lone.pass(3_000);
    assert!(!lone.removed().contains(&new.id), "it lives as long as the registration");
    lone.pass(1_000);
    assert_eq!(lone.registrations(), 0);
}

/// RFC 6223 §4.3, RFC 5626 §4.4.2: a phone in clear behind a NAT that asks for it is told how often to say that it is there; RFC 5389
/// §7.3.1: and its Binding requests are answered.
#[test]
fn keep_alives() {
    let mut config = config();
    config.ipsec.policy = Policy::Off;
    for (sent_by, seconds, expected) in
        [("192.168.1.2", 29, Some("keep=29")), ("192.168.1.2", 0, None), ("10.45.0.2", 29, None)]
    {
        config.gm.keep_alive_seconds = seconds;
        let mut lone = Lone::with(config.clone());
        let phone = Phone::new("alice", "10.45.0.2");
        let text = lone.write(&phone, 5060, &Register::first(&phone));
        let via = format!("Via: SIP/2.0/UDP {sent_by}:5060;keep;branch");
        lone.text(
            &phone,
            4_444,
            5060,
            &text.replace("Via: SIP/2.0/UDP 10.45.0.2:5060;branch", &via),
        );
        lone.home_accepts(3_600);
        let (_, response) = lone.answered();
        let via = response.headers().get(Name::Via).unwrap();
        let keep = via.split(';').find(|part| part.starts_with("keep="));
        assert_eq!(keep, expected, "{via}");
    }
    // By TCP as well; inside IPsec there is no need.
    config.gm.keep_alive_seconds = 29;
    let mut lone = Lone::with(config.clone());
    let phone = Phone { transport: Transport::Tcp, ..Phone::new("alice", "10.45.0.2") };
    let text = lone.write(&phone, 5060, &Register::first(&phone));
    lone.text(&phone, 4_444, 5060, &text.replace(" 10.45.0.2:5060;", " 192.168.1.2:5060;keep;"));
    lone.home_accepts(3_600);
    assert!(lone.answered().1.headers().get(Name::Via).unwrap().contains(";keep=29"));
    let mut protected = config.clone();
    protected.ipsec.policy = Policy::Required;
    let mut lone = Lone::with(protected);
    let phone = Phone::new("alice", "10.45.0.2");
    let set = lone.registered(&phone);
    let text = lone.write(&phone, set.ports.us, &Register::refresh());
    let text = text.replace(" 10.45.0.2:31001;branch", " 10.45.0.2:31001;keep;branch");
    assert!(text.contains(";keep;"));
    lone.text(&phone, set.ports.uc, set.ports.ps, &text);
    lone.home_accepts(3_600);
    let (flow, response) = lone.answered();
    assert!(!response.headers().get(Name::Via).unwrap().contains("keep="));
    // Nor do received and rport turn the answer from its way (TS 33.203 §7.1).
    assert_eq!((flow.local.port(), flow.remote.port()), (set.ports.pc, set.ports.us));
    let mut lone = Lone::with(config);
    lone.text(&phone, 4_444, 5060, "\r\n\r\n");
    let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    request.extend([7; 12]);
    let flow = Flow {
        transport: phone.transport,
        local: format!("{PCSCF}:5060").parse().unwrap(),
        remote: "10.45.0.2:4444".parse().unwrap(),
    };
    lone.feed(Input::Sip { flow, bytes: request.into() });
    let answer = lone.raw();
    assert_eq!(answer.len(), 1);
    assert_eq!((answer[0].0, &answer[0].1[..2]), (flow, &[1, 1][..]));
    assert_eq!(lone.count("tessera_sip_keep_alives_total", ""), 2);
    assert_eq!(lone.count("tessera_sip_malformed_total", ""), 0);
}

impl Lone {
    /// What was sent, unread.
    fn raw(&mut self) -> Vec<(Flow, bytes::Bytes)> {
        self.outputs()
            .iter()
            .filter_map(|output| match output {
                Output::Sip { flow, bytes } => Some((*flow, bytes.clone())),
                _ => None,
            })
            .collect()
    }
}
