//! Phones behind a NAT (TS 33.203 Annex M): which mode they get, who is kept apart from whom, and where
//! requests to them go.

use crate::lone::{Lone, PCSCF, Phone, Register, config};
use common::ipsec::sa::{Mode, SaSet};
use common::node::{Flow, Input};
use common::sip::header::Name;
use common::sip::message::Message;
use pcscf::config::Config;

const NAT: &str = "198.51.100.7";
const BOTH_MODES: [&str; 2] =
    ["alg=hmac-sha-1-96;ealg=aes-cbc;mod=UDP-enc-tun", "alg=hmac-sha-1-96;ealg=aes-cbc;mod=trans"];

fn with_nat() -> Config {
    let mut config = config();
    config.ipsec.nat = true;
    config
}

fn phone(user: &str, address: &str) -> Phone {
    Phone { algorithms: BOTH_MODES.map(str::to_owned).to_vec(), ..Phone::new(user, address) }
}

/// R1 in clear, as its NAT sends it.
fn through_nat(lone: &mut Lone, phone: &Phone, nat: &str, register: &Register) {
    let text = lone.write(phone, 5060, register);
    let outside = Phone { address: nat.parse().unwrap(), ..phone.clone() };
    lone.text(&outside, 23_456, 5060, &text);
}

fn challenged(lone: &mut Lone, phone: &Phone, nat: &str) -> (SaSet, String, Flow) {
    through_nat(lone, phone, nat, &Register::first(phone));
    lone.challenged()
}

fn registered(lone: &mut Lone, phone: &Phone, nat: &str) -> SaSet {
    let (set, list, _) = challenged(lone, phone, nat);
    lone.answer(phone, &set, &list);
    set
}

fn nat_of(set: &SaSet) -> Option<String> {
    match set.mode {
        Mode::Transport => None,
        Mode::UdpEncTun { nat } => Some(nat.to_string()),
    }
}

/// TS 33.203 Annex M: the packet's source is not what Via says; the answer in clear goes back to the NAT,
/// and inside the tunnel are the addresses that the phone knows.
#[test]
fn a_phone_behind_a_nat_gets_the_tunnel() {
    let mut lone = Lone::with(with_nat());
    let alice = phone("alice", "192.168.1.2");
    let (set, list, answered) = challenged(&mut lone, &alice, NAT);
    assert_eq!(answered.remote, format!("{NAT}:23456").parse().unwrap());
    assert_eq!(nat_of(&set).as_deref(), Some("198.51.100.7:4500"));
    assert_eq!((set.ue, set.pcscf), (alice.address, PCSCF.parse().unwrap()));
    assert!(list.contains("mod=UDP-enc-tun") && !list.contains("mod=trans"), "{list}");
    lone.answer(&alice, &set, &list);
    let answered = lone.refreshed(&alice, &set);
    assert_eq!(answered.remote, format!("{}:{}", alice.address, alice.us).parse().unwrap());
    let next = lone.authenticated_again(&alice.next(), &set);
    assert_eq!(nat_of(&next).as_deref(), Some("198.51.100.7:4500"));
    assert_eq!(lone.count("tessera_pcscf_security_association_sets_behind_nat", ""), 2);
    assert_eq!(lone.registrations(), 1);
}

/// Who is not behind a NAT, offers no tunnel, or meets a P-CSCF without one, gets transport mode.
#[test]
fn others_get_transport_mode() {
    let alice = phone("alice", "192.168.1.2");
    let mut lone = Lone::with(with_nat());
    let (set, list) = lone.challenge(&alice);
    assert_eq!((nat_of(&set), set.ue), (None, alice.address));
    assert!(list.contains("mod=trans"), "{list}");

    let plain = Phone::new("alice", "192.168.1.2");
    let (set, ..) = challenged(&mut lone, &plain, NAT);
    assert_eq!((nat_of(&set), set.ue), (None, NAT.parse().unwrap()));

    let mut lone = Lone::new();
    let (set, list, _) = challenged(&mut lone, &alice, NAT);
    assert_eq!((nat_of(&set), set.ue), (None, NAT.parse().unwrap()));
    assert!(list.contains("mod=trans"), "{list}");
}

/// A Via that names the P-CSCF itself, or what no phone can have, is no private address.
#[test]
fn a_senseless_via_opens_no_tunnel() {
    for address in [PCSCF, "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        let mut lone = Lone::with(with_nat());
        let (set, ..) = challenged(&mut lone, &phone("mallory", address), NAT);
        assert_eq!((nat_of(&set), set.ue), (None, NAT.parse().unwrap()), "{address}");
    }
}

/// Two homes, one private address: with ports of their own both are served; with the same ports the
/// second is asked to come again, and the first loses nothing.
#[test]
fn the_same_private_address_behind_two_nats() {
    let mut lone = Lone::with(with_nat());
    let alice = phone("alice", "192.168.1.2");
    let of_alice = registered(&mut lone, &alice, NAT);
    let same_ports = phone("bob", "192.168.1.2");
    let same_server_port = Phone { uc: 32_000, ..same_ports.clone() };
    for bob in [&same_ports, &same_server_port] {
        through_nat(&mut lone, bob, "203.0.113.9", &Register::first(bob));
        assert!(lone.home_challenges().is_none());
        let (_, response) = lone.answered();
        assert_eq!(response.status(), 503);
        assert!(response.headers().get(Name::RetryAfter).is_some());
    }
    assert_eq!(lone.count("tessera_pcscf_set_requests_total", "clashed"), 2);
    let bob = Phone { uc: 32_000, us: 32_001, ..same_ports };
    let of_bob = registered(&mut lone, &bob, "203.0.113.9");
    assert_eq!(lone.registrations(), 2);
    assert!(lone.removed().is_empty());
    lone.refreshed(&alice, &of_alice);
    lone.refreshed(&bob, &of_bob);
}

/// Behind one NAT ports may be the same, for the private addresses differ; SPIs may not, for the kernel
/// knows its states by them and the NAT's address.
#[test]
fn two_phones_behind_one_nat() {
    let mut lone = Lone::with(with_nat());
    let alice = phone("alice", "192.168.1.2");
    let of_alice = registered(&mut lone, &alice, NAT);
    let bob = phone("bob", "192.168.1.3");
    through_nat(&mut lone, &bob, NAT, &Register::first(&bob));
    assert!(lone.home_challenges().is_none());
    assert_eq!(lone.status(), 503);
    let bob = Phone { spi_uc: 8_001, spi_us: 8_002, ..bob };
    let of_bob = registered(&mut lone, &bob, NAT);
    lone.refreshed(&alice, &of_alice);
    lone.refreshed(&bob, &of_bob);
    // And over its own association nobody takes the SPIs of the other.
    let greedy = Phone { spi_uc: alice.spi_uc, uc: 33_000, ..bob.clone() };
    lone.inside(&greedy, &of_bob, &Register::first(&greedy));
    assert_eq!(lone.status(), 494);
}

/// A REGISTER in clear whose Via names a registered phone's address costs that phone nothing, be it
/// behind a NAT or not, in its own name or another.
#[test]
fn a_forged_via_costs_nobody_anything() {
    for is_behind_nat in [false, true] {
        let mut lone = Lone::with(with_nat());
        let victim = phone("victim", "10.45.0.5");
        let set = match is_behind_nat {
            true => registered(&mut lone, &victim, NAT),
            false => lone.registered(&victim),
        };
        for user in ["victim", "mallory"] {
            for spi_uc in [victim.spi_uc, 9_001] {
                let forged = Phone { user: user.into(), spi_uc, ..victim.clone() };
                through_nat(&mut lone, &forged, "203.0.113.66", &Register::first(&forged));
                assert!(lone.home_challenges().is_none(), "{user} {spi_uc}");
                assert_eq!(lone.status(), 503);
            }
            let other_ports = Phone { user: user.into(), uc: 33_000, us: 33_001, ..victim.clone() };
            challenged(&mut lone, &other_ports, "203.0.113.66");
        }
        assert!(!lone.removed().contains(&set.id));
        lone.refreshed(&victim, &set);
        lone.pass(241);
        lone.refreshed(&victim, &set);
        assert_eq!((lone.registrations(), lone.sets("temporary")), (1, 0));
    }
}

/// The limit of open challenges is for the address that packets come from, whatever Via says.
#[test]
fn a_flood_with_many_private_addresses() {
    let mut lone = Lone::with(with_nat());
    let limit = crate::lone::config().ipsec.challenges_per_address;
    for number in 0..limit {
        let address = format!("192.168.{}.{}", number / 200, 1 + number % 200);
        let mut one = phone(&format!("user{number}"), &address);
        (one.spi_uc, one.spi_us) = (10_000 + 2 * number as u32, 10_001 + 2 * number as u32);
        challenged(&mut lone, &one, NAT);
    }
    let one_more = phone("onemore", "192.168.77.1");
    through_nat(&mut lone, &one_more, NAT, &Register::first(&one_more));
    assert_eq!(lone.status(), 503);
    let elsewhere = phone("elsewhere", "192.168.77.1");
    challenged(&mut lone, &elsewhere, "203.0.113.9");
}

/// TS 24.229 §5.2.6.4: the contact may name the phone's own address or, where the phone has learnt it
/// from `received`, the NAT's.
#[test]
fn requests_to_a_phone_behind_a_nat() {
    let mut lone = Lone::with(with_nat());
    let alice = phone("alice", "192.168.1.2");
    let set = registered(&mut lone, &alice, NAT);
    let bob = Phone { spi_uc: 8_001, spi_us: 8_002, us: 41_000, ..phone("bob", "192.168.1.3") };
    registered(&mut lone, &bob, NAT);
    let mut number = 0;
    let mut sent_to = |lone: &mut Lone, uri: &str| {
        number += 1;
        let text = format!(
            "NOTIFY sip:{uri} SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.0.2.30:5060;branch=z9hG4bKto{number}\r\n\
             Max-Forwards: 70\r\nRoute: <sip:term@pcscf1.visited.example;lr>\r\n\
             From: <sip:home.example>;tag=h\r\nTo: <sip:alice@home.example>;tag=u\r\n\
             Call-ID: to{number}\r\nCSeq: 1 NOTIFY\r\nEvent: reg\r\n\
             Subscription-State: active;expires=600\r\nContent-Length: 0\r\n\r\n"
        );
        let flow = Flow {
            transport: common::node::Transport::Udp,
            local: "192.0.2.10:5060".parse().unwrap(),
            remote: "192.0.2.30:5060".parse().unwrap(),
        };
        lone.feed(Input::Sip { flow, bytes: text.into_bytes().into() });
        let sent = lone.take_sip();
        let request = sent.into_iter().find(|(_, message)| matches!(message, Message::Request(_)));
        request.map(|(flow, _)| (flow.local.port(), flow.remote.to_string()))
    };
    let own = Some((set.ports.pc, format!("192.168.1.2:{}", alice.us)));
    assert_eq!(sent_to(&mut lone, &format!("192.168.1.2:{}", alice.us)), own);
    assert_eq!(sent_to(&mut lone, &format!("{NAT}:{}", alice.us)), own);
    assert_eq!(sent_to(&mut lone, &format!("{NAT}:9999")), None);
    // Two with that port behind the NAT: better nobody than the wrong one.
    let carol = Phone { spi_uc: 8_003, spi_us: 8_004, ..phone("carol", "192.168.1.4") };
    registered(&mut lone, &carol, NAT);
    assert_eq!(sent_to(&mut lone, &format!("{NAT}:{}", alice.us)), None);
    assert_eq!(sent_to(&mut lone, &format!("192.168.1.2:{}", alice.us)), own);
}
