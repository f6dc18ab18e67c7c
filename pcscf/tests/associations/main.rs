//! Dialogues with a P-CSCF alone: the life of sets of associations, ports and SPIs, and who may speak
//! (TS 33.203 §7, TS 24.229 §5.2.2; rows L, A, N and F of ipsec.md).

mod emergency;
mod home;
mod lone;
mod nat;

use common::ipsec::sa::{Encryption, Integrity};
use common::node::{Input, Node, Transport};
use common::sip::header::Name;
use common::sip::security::mechanisms;
use lone::{Lone, Phone, Register, config};
use pcscf::config::{Config, Policy, Prefer, SpiRange};

fn alice() -> Phone {
    Phone::new("alice", "10.45.0.2")
}

fn with_client_ports(value: &str) -> Result<Config, String> {
    let text = format!(
        r#"{{ "name": "p", "visited_network": "v", "mw": {{ "listen": ["192.0.2.10:5060"] }},
             "gm": {{ "addresses": ["10.46.0.1"], "protected_client_ports": {value} }} }}"#
    );
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

// ---- Life.

/// ipsec.md L-01, L-02, N-06: another challenge ends the temporary set of the one before; established
/// sets serve on, whoever asks for challenges in their name.
#[test]
fn a_challenge_replaces_the_temporary_set_and_nothing_else() {
    let mut lone = Lone::new();
    let old = lone.registered(&alice());
    // It has lost its associations, and comes back with other ports.
    let reborn = Phone { uc: 32_000, us: 32_001, spi_uc: 8_001, spi_us: 8_002, ..alice() };
    let (first, _) = lone.challenge(&reborn);
    assert_eq!(lone.removed(), []);
    let (second, list) = lone.challenge(&reborn.next());
    assert_eq!(lone.removed(), [first.id]);
    lone.refreshed(&alice(), &old);
    assert_eq!((lone.sets("in_use"), lone.sets("temporary")), (1, 1));
    // L-04: success ends all others at once.
    lone.answer(&reborn.next(), &second, &list);
    assert_eq!(lone.removed(), [old.id]);
    assert!(lone.is_deaf(&alice(), &old));
    lone.refreshed(&reborn.next(), &second);
    assert_eq!((lone.sets("in_use"), lone.sets("temporary")), (1, 0));
}

/// ipsec.md N-06, L-09: where the authentication of a phone that came in clear fails, the answer goes on
/// its temporary set, and the established one serves on.
#[test]
fn a_failed_initial_authentication_costs_nobody_his_set() {
    let mut lone = Lone::new();
    let old = lone.registered(&alice());
    let stranger = Phone { uc: 32_000, us: 32_001, spi_uc: 8_001, spi_us: 8_002, ..alice() };
    let (temporary, list) = lone.challenge(&stranger);
    lone.inside(&stranger, &temporary, &Register::answer(&stranger, &list));
    lone.home_refuses(403);
    let (flow, response) = lone.answered();
    assert_eq!(response.status(), 403);
    assert_eq!((flow.local.port(), flow.remote.port()), (temporary.ports.pc, temporary.ports.us));
    lone.refreshed(&alice(), &old);
    lone.pass(129);
    assert_eq!(lone.removed(), [temporary.id]);
    assert_eq!(lone.registrations(), 1);
}

/// ipsec.md L-09, registration.md P-21: the refusal of a re-authentication goes on the set that protected
/// the challenged REGISTER, which stays; the temporary one has 128 s at most. So does our own refusal, of a UE whose
/// answer is challenged once more: 500, with which it begins anew (TS 24.229 §5.1.1.2.1).
#[test]
fn a_failed_reauthentication_falls_back_to_the_older_set() {
    for (own, status) in [(false, 403), (true, 500)] {
        let mut lone = Lone::new();
        let phone = alice();
        let old = lone.registered(&phone);
        let next = phone.next();
        lone.inside(&next, &old, &Register::first(&next));
        let (temporary, list, flow) = lone.challenged();
        assert_eq!(flow.local.port(), old.ports.pc);
        lone.inside(&next, &temporary, &Register::answer(&next, &list));
        if own {
            assert_eq!(lone.home_challenges(), None, "there is no new offer");
        } else {
            lone.home_refuses(403);
        }
        let (flow, response) = lone.answered();
        assert_eq!(response.status(), status);
        assert_eq!((flow.local.port(), flow.remote.port()), (old.ports.pc, old.ports.us));
        lone.refreshed(&phone, &old);
        lone.pass(129);
        assert_eq!(lone.removed(), [temporary.id]);
        assert_eq!(lone.sets("in_use"), 1);
    }
}

/// ipsec.md L-05, L-06, F-09, A-06: side by side until the phone uses the new set; what still comes on
/// the old one is served and answered on the new one, and prolongs nothing.
#[test]
fn the_old_set_serves_until_it_ends() {
    let mut lone = Lone::new();
    let phone = alice();
    let old = lone.registered(&phone);
    let next = phone.next();
    let new = lone.authenticated_again(&next, &old);
    assert_eq!((lone.sets("new"), lone.sets("in_use")), (1, 1));
    assert_eq!(lone.refreshed(&phone, &old).local.port(), old.ports.pc);
    assert_eq!((lone.sets("new"), lone.sets("in_use")), (1, 1), "the phone has not moved");
    assert_eq!(lone.refreshed(&next, &new).local.port(), new.ports.pc);
    assert_eq!((lone.sets("old"), lone.sets("in_use")), (1, 1));
    lone.pass(100);
    let flow = lone.refreshed(&phone, &old);
    assert_eq!((flow.local.port(), flow.remote.port()), (new.ports.pc, new.ports.us));
    lone.pass(27);
    assert_eq!(lone.removed(), []);
    lone.pass(2);
    assert_eq!(lone.removed(), [old.id]);
    assert!(lone.is_deaf(&phone, &old));
    // The refresh over the old set has prolonged the registration on the new one.
    lone.pass(3_600 - 30);
    assert_eq!((lone.registrations(), lone.sets("in_use")), (1, 1));
}

/// ipsec.md L-06: a repetition of the answer to the challenge says that the 200 was lost, not that the
/// phone uses the new set.
#[test]
fn a_repeated_register_does_not_put_the_new_set_into_use() {
    let mut lone = Lone::new();
    let phone = alice();
    let old = lone.registered(&phone);
    let next = phone.next();
    lone.inside(&next, &old, &Register::first(&next));
    let (new, list, _) = lone.challenged();
    let text = lone.write(&next, next.us, &Register::answer(&next, &list));
    lone.text(&next, new.ports.uc, new.ports.ps, &text);
    lone.home_accepts(3_600);
    assert_eq!(lone.status(), 200);
    lone.text(&next, new.ports.uc, new.ports.ps, &text);
    assert_eq!(lone.status(), 200, "the same answer again");
    assert_eq!((lone.sets("new"), lone.sets("in_use")), (1, 1));
}

/// ipsec.md L-07, registration.md P-14: with 64 × T1 left to the old set, the new one is used though the
/// phone has not used it.
#[test]
fn an_unused_new_set_takes_over_before_the_old_one_ends() {
    let mut lone = Lone::new();
    let phone = alice();
    let old = lone.registered(&phone);
    lone.pass(1_000);
    let new = lone.authenticated_again(&phone.next(), &old);
    // The old one ends 3,630 s after it was made.
    lone.pass(3_630 - 1_000 - 129);
    assert_eq!((lone.sets("new"), lone.sets("in_use")), (1, 1));
    lone.pass(2);
    assert_eq!((lone.sets("new"), lone.sets("in_use"), lone.sets("old")), (0, 1, 1));
    lone.pass(128);
    assert_eq!(lone.removed(), [old.id]);
    lone.refreshed(&phone.next(), &new);
    assert_eq!(lone.registrations(), 1);

    // What is left to it counts, not how it came to that: here by deregistration.
    let mut lone = Lone::new();
    let old = lone.registered(&phone);
    lone.inside(&phone, &old, &Register { expires: 0, ..Register::refresh() });
    lone.home_accepts(0);
    assert_eq!(lone.status(), 200);
    lone.pass(1);
    lone.authenticated_again(&phone.next(), &old);
    assert_eq!((lone.sets("new"), lone.sets("in_use"), lone.sets("old")), (0, 1, 1));
}

/// ipsec.md L-08, T-07: a refresh without a challenge keeps set, SPIs and ports, prolongs its life, and
/// holds nothing of what was offered.
#[test]
fn a_refresh_keeps_the_set_and_releases_the_offer() {
    let mut lone = Lone::new();
    let phone = alice();
    let set = lone.registered(&phone);
    for _ in 0..3 {
        lone.pass(3_000);
        // The same unused offer each time: it was given back.
        lone.inside(&phone, &set, &Register::first(&phone.next()));
        lone.home_accepts(3_600);
        assert_eq!(lone.status(), 200);
    }
    assert_eq!((lone.installing(), lone.removed()), (None, vec![]));
    lone.pass(3_629);
    assert_eq!(lone.removed(), []);
    lone.pass(2);
    assert_eq!(lone.removed(), [set.id]);
    assert_eq!(lone.registrations(), 0);
    // A shorter registration does not shorten the set's life.
    let set = lone.registered(&phone);
    lone.inside(&phone, &set, &Register::refresh());
    lone.home_accepts(60);
    assert_eq!(lone.status(), 200);
    lone.pass(3_000);
    assert_eq!(lone.removed(), []);
}

/// ipsec.md L-10: what the home network accepts when the temporary set has ended makes no registration.
#[test]
fn a_temporary_set_lives_240_seconds_whatever_is_under_way() {
    let mut lone = Lone::new();
    let (set, list) = lone.challenge(&alice());
    lone.pass(239);
    lone.inside(&alice(), &set, &Register::answer(&alice(), &list));
    let request = lone.forwarded();
    lone.pass(2);
    assert_eq!(lone.removed(), [set.id]);
    let mut response = request.response(200, "OK");
    let contact = request.headers().get(Name::Contact).unwrap();
    response.headers_mut().append(Name::Contact, &contact.replace("600000", "3600"));
    lone.home_says(&response);
    assert_eq!(lone.registrations(), 0);
    assert_eq!(lone.core.owed(), 0);
}

/// ipsec.md L-12: deregistration leaves all sets 128 s, the temporary one included; nobody is registered
/// over them.
#[test]
fn deregistration_ends_all_sets() {
    let mut lone = Lone::new();
    let phone = alice();
    let old = lone.registered(&phone);
    let new = lone.authenticated_again(&phone.next(), &old);
    let third = phone.next().next();
    lone.inside(&third, &new, &Register::first(&third));
    let (temporary, ..) = lone.challenged();
    lone.inside(&phone.next(), &new, &Register { expires: 0, ..Register::refresh() });
    lone.home_accepts(0);
    assert_eq!(lone.status(), 200);
    assert_eq!(lone.registrations(), 0);
    lone.pass(127);
    assert_eq!(lone.removed(), []);
    lone.pass(2);
    let mut removed = lone.removed();
    removed.sort();
    assert_eq!(removed, [old.id, new.id, temporary.id]);
}

/// RFC 3261 §10.2.2: all contacts are the own one, too; the REGISTER goes on as it is.
#[test]
fn deregistration_of_all_contacts() {
    let mut lone = Lone::new();
    let phone = alice();
    let set = lone.registered(&phone);
    let text = lone.write(&phone, set.ports.us, &Register { expires: 0, ..Register::refresh() });
    let all = text.replace("<sip:10.45.0.2:31001>;expires=0", "*\r\nExpires: 0");
    assert!(all.contains("Contact: *\r\n"));
    lone.text(&phone, set.ports.uc, set.ports.ps, &all);
    let request = lone.forwarded();
    assert_eq!(request.headers().get(Name::Contact), Some("*"));
    assert_eq!(request.headers().get(Name::Expires), Some("0"));
    lone.home_says(&request.response(200, "OK"));
    assert_eq!((lone.status(), lone.registrations()), (200, 0));
    lone.pass(129);
    assert_eq!(lone.removed(), [set.id]);
}

impl Lone {
    /// The home network accepts a REGISTER, and has these contacts then.
    fn home_lists(&mut self, contacts: &[&str]) {
        let request = self.forwarded();
        let mut response = request.response(200, "OK");
        let headers = response.headers_mut();
        for contact in contacts {
            headers.append(Name::Contact, &format!("<{contact}>;expires=3600"));
        }
        headers.append(Name::PAssociatedUri, request.headers().get(Name::To).unwrap());
        self.home_says(&response);
        assert_eq!(self.status(), 200);
    }
}

/// TS 24.229 §5.2.5.1, RFC 3261 §10.2.2: who deregisters the contact that the same private identity has at another address stays
/// registered; that one ends, when its UE can have been told. What the registrar no longer lists ends too.
#[test]
fn a_deregistration_of_another_contact() {
    const HERE: &str = "sip:10.45.0.77:31001";
    const THERE: &str = "sip:10.45.0.2:31001";
    for (named, listed, left) in [
        (THERE, &[HERE][..], [true, false]),
        (HERE, &[THERE][..], [false, true]),
        (THERE, &[][..], [false, false]),
        ("sip:10.45.0.99:31001", &[HERE, THERE][..], [true, true]),
    ] {
        let mut lone = Lone::new();
        let there = lone.registered(&alice());
        let phone = Phone { address: "10.45.0.77".parse().unwrap(), ..alice() };
        let (here, list) = lone.challenge(&phone);
        lone.inside(&phone, &here, &Register::answer(&phone, &list));
        lone.home_lists(&[HERE, THERE]);
        assert_eq!(lone.registrations(), 2);
        let register = Register { expires: 0, ..Register::refresh() };
        let text = lone.write(&phone, here.ports.us, &register);
        let text = text.replace(&format!("Contact: <{HERE}>"), &format!("Contact: <{named}>"));
        lone.text(&phone, here.ports.uc, here.ports.ps, &text);
        lone.home_lists(listed);
        let count = left.iter().filter(|stays| **stays).count() as u64;
        assert_eq!(lone.registrations(), count, "{named}");
        assert_eq!(lone.removed(), [], "{named}");
        lone.pass(130);
        let removed = lone.removed();
        for (set, stays) in [(&here, left[0]), (&there, left[1])] {
            assert_eq!(!removed.contains(&set.id), stays, "{named}");
        }
    }
}

/// ipsec.md L-13: a phone with a new address starts in clear; once the registrar lists its new contact
/// alone, what it had at the old address is dead. Another phone at the old address is not meant.
#[test]
fn a_new_address_ends_what_the_old_one_had() {
    let mut lone = Lone::new();
    let phone = alice();
    let old = lone.registered(&phone);
    let neighbour = Phone {
        uc: 33_000,
        us: 33_001,
        spi_uc: 9_001,
        spi_us: 9_002,
        ..Phone::new("bob", "10.45.0.2")
    };
    let of_neighbour = lone.registered(&neighbour);
    let moved = Phone { address: "10.45.0.77".parse().unwrap(), ..phone.clone() };
    let (new, list) = lone.challenge(&moved);
    lone.refreshed(&phone, &old);
    lone.answer(&moved, &new, &list);
    assert_eq!(lone.removed(), [old.id]);
    assert!(lone.is_deaf(&phone, &old));
    lone.refreshed(&moved, &new);
    lone.refreshed(&neighbour, &of_neighbour);
    assert_eq!(lone.registrations(), 2);
}

/// ipsec.md L-13, RFC 3261 §10.3: a phone in clear whose Contact is the same wherever it is has left its old address when it
/// registers at another; of flows there may be several (RFC 5626 §6), and an emergency registration stands beside
/// (TS 24.229 §5.4.8.2).
#[test]
fn a_new_address_with_the_same_contact() {
    for contact in ["sip:alice@192.168.1.2:5060", "sip:alice@phone.invalid"] {
        const FLOW: &str = ">;reg-id=1;+sip.instance=\"<urn:x>\"";
        for (first, second, left) in [(">", ">", 1), (FLOW, FLOW, 2), (">", ";sos>", 2)] {
            let mut config = config();
            config.ipsec.policy = Policy::Off;
            let mut lone = Lone::with(config);
            for (address, more) in [("10.45.0.2", first), ("10.45.0.77", second)] {
                let phone = Phone { address: address.parse().unwrap(), ..alice() };
                let text = lone.write(&phone, 5060, &Register::refresh());
                let text = text
                    .replace(
                        &format!("Contact: <sip:{address}:5060>"),
                        &format!("Contact: <{contact}{more}"),
                    )
                    .replace("Supported: path", "Supported: outbound, path")
                    .replace("Require: sec-agree\r\nProxy-Require: sec-agree\r\n", "");
                lone.text(&phone, 5060, 5060, &text);
                lone.home_accepts(3_600);
                assert_eq!(lone.status(), 200);
            }
            assert_eq!(lone.registrations(), left, "{contact} {second}");
        }
    }
}

/// ipsec.md F-09: an authentication asked for over an old set keeps that one as it is.
#[test]
fn an_authentication_over_an_old_set() {
    let mut lone = Lone::new();
    let phone = alice();
    let first = lone.registered(&phone);
    let second = lone.authenticated_again(&phone.next(), &first);
    lone.refreshed(&phone.next(), &second);
    let third = phone.next().next();
    lone.inside(&third, &first, &Register::first(&third));
    let (new, list, flow) = lone.challenged();
    assert_eq!(flow.local.port(), second.ports.pc);
    lone.answer(&third, &new, &list);
    assert_eq!(lone.removed(), [second.id]);
    assert_eq!((lone.sets("in_use"), lone.sets("old")), (1, 1));
    lone.pass(129);
    assert_eq!(lone.removed(), [first.id]);
    lone.refreshed(&third, &new);
}

// ---- Ports and SPIs.

/// ipsec.md A-02, A-03, A-06, K-15: over many authentications port_ps stays, port_pc and SPIs are new each
/// time, no SPI is used twice while a set lives, and there are never more than three sets.
#[test]
fn every_set_has_ports_and_spis_of_its_own() {
    let mut lone = Lone::new();
    let mut phone = alice();
    let mut living = vec![lone.registered(&phone)];
    for round in 0..200 {
        let over = living.last().cloned().unwrap();
        phone = phone.next();
        lone.inside(&phone, &over, &Register::first(&phone));
        let (new, list, _) = lone.challenged();
        for other in &living {
            assert_eq!((new.ports.ps, new.ports.us), (other.ports.ps, other.ports.us));
            assert_ne!(new.ports.pc, other.ports.pc);
            for spi in [new.spis.pc, new.spis.ps] {
                assert!(![other.spis.pc, other.spis.ps].contains(&spi));
                assert!(![other.spis.uc, other.spis.us].contains(&spi));
            }
        }
        assert!(![new.spis.uc, new.spis.us, new.spis.ps].contains(&new.spis.pc));
        living.push(new.clone());
        assert!(living.len() <= 3, "round {round}");
        lone.answer(&phone, &new, &list);
        if round % 3 > 0 {
            lone.refreshed(&phone, &new);
        }
        lone.pass(round % 7 * 30);
        let removed = lone.removed();
        living.retain(|set| !removed.contains(&set.id));
    }
    assert_eq!(lone.registrations(), 1);
}

/// ipsec.md A-05: a phone that restarted comes in clear with what its own set has: that set makes room when
/// the temporary one is made, not before.
#[test]
fn a_phone_that_restarts_with_the_same_ports_makes_room_for_itself() {
    let mut lone = Lone::new();
    let phone = alice();
    for (uc, spi_uc) in [(phone.uc, 8_001), (40_000, phone.spi_uc), (40_000, phone.spi_us)] {
        let old = lone.registered(&phone);
        lone.removed();
        let reborn = Phone { uc, us: 41_000, spi_uc, spi_us: 8_002, ..phone.clone() };
        lone.in_clear(&reborn, &Register::first(&reborn));
        let request = lone.forwarded();
        assert_eq!(lone.removed(), [], "anybody can say so");
        lone.home_says(&request.response(403, "Forbidden"));
        assert_eq!(lone.status(), 403);
        lone.refreshed(&phone, &old);
        let (new, list) = lone.challenge(&reborn);
        assert_eq!(lone.removed(), [old.id]);
        lone.answer(&reborn, &new, &list);
        assert_eq!((lone.registrations(), lone.sets("in_use")), (1, 1));
    }
}

/// ipsec.md A-05, F-01: an offer over an association repeats nothing of the set in use, and keeps port_us;
/// a port of its own old set it may take again.
#[test]
fn an_offer_over_an_association_is_new() {
    let mut lone = Lone::new();
    let phone = alice();
    let set = lone.registered(&phone);
    let next = phone.next();
    for offer in [
        Phone { uc: phone.uc, ..next.clone() },
        Phone { spi_uc: phone.spi_uc, ..next.clone() },
        Phone { spi_us: phone.spi_uc, ..next.clone() },
        Phone { spi_uc: phone.spi_us, ..next.clone() },
        Phone { us: phone.us + 10, ..next.clone() },
    ] {
        lone.inside(&phone, &set, &Register::first(&offer));
        let (_, response) = lone.answered();
        assert_eq!(response.status(), 494, "{offer:?}");
        assert!(!mechanisms(response.headers(), Name::SecurityServer).unwrap().is_empty());
    }
    assert_eq!(lone.refused("offer_collides"), 5);
    let new = lone.authenticated_again(&next, &set);
    lone.refreshed(&next, &new);
    assert_eq!(lone.sets("old"), 1);
    let again = Phone { spi_uc: 9_001, spi_us: 9_002, ..phone.clone() };
    lone.inside(&again, &new, &Register::first(&again));
    lone.challenged();
    assert_eq!(lone.removed(), [set.id]);

    // Of another subscriber's set at the same address nothing can be taken over an association.
    let bob = Phone {
        uc: 35_000,
        us: 35_001,
        spi_uc: 5_001,
        spi_us: 5_002,
        ..Phone::new("bob", "10.45.0.2")
    };
    lone.registered(&bob);
    let taking = Phone { uc: bob.uc, ..next.next() };
    lone.inside(&taking, &new, &Register::first(&taking));
    assert_eq!(lone.status(), 494);
}

/// ipsec.md A-07: phones at different addresses may offer the same; both are served. At the same address
/// the later one takes the place of the earlier.
#[test]
fn two_phones_with_the_same_ports_and_spis() {
    let mut lone = Lone::new();
    let (alice, bob) = (alice(), Phone::new("bob", "10.45.0.3"));
    assert_eq!((alice.uc, alice.spi_uc), (bob.uc, bob.spi_uc));
    let (of_alice, of_bob) = (lone.registered(&alice), lone.registered(&bob));
    lone.refreshed(&alice, &of_alice);
    lone.refreshed(&bob, &of_bob);
    assert_eq!(lone.registrations(), 2);
    // A phone has not the other's set: username and address are held against it.
    lone.inside(&Phone { address: alice.address, ..bob }, &of_alice, &Register::refresh());
    assert_eq!(lone.status(), 403);
    let carol = Phone::new("carol", "10.45.0.2");
    lone.registered(&carol);
    assert_eq!(lone.removed(), [of_alice.id]);
}

/// Issue 3, point 3: without a port or an SPI left there is 503 with Retry-After, and nobody's set is
/// touched for it, not even one that the new set would have displaced.
#[test]
fn exhaustion_is_a_refusal() {
    let mut few_spis = config();
    few_spis.ipsec.spi_range = SpiRange { first: 300, last: 306 };
    let mut few_ports = config();
    few_ports.gm.protected_client_ports = vec![6_000, 6_001, 6_002, 6_003];
    for (config, room) in [(few_spis, 3), (few_ports, 4)] {
        let mut lone = Lone::with(config);
        // All behind one address, with one server port: each needs another port_pc.
        let phones: Vec<Phone> = (0..room + 1)
            .map(|number| Phone {
                uc: 31_100 + number,
                spi_uc: 7_100 + 2 * u32::from(number),
                spi_us: 7_101 + 2 * u32::from(number),
                ..Phone::new(&format!("user{number}"), "10.45.0.9")
            })
            .collect();
        let sets: Vec<_> =
            phones[..usize::from(room)].iter().map(|phone| lone.registered(phone)).collect();
        // The last one has the client port of the first, too; it is taken over an association.
        let next = phones[0].next();
        let next = Phone { uc: 39_000, spi_uc: 6_000, spi_us: 6_001, ..next };
        lone.inside(&next, &sets[0], &Register::first(&next));
        assert_eq!(lone.home_challenges(), None);
        let (_, response) = lone.answered();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers().get(Name::RetryAfter), Some("30"));
        lone.in_clear(&phones[usize::from(room)], &Register::first(&phones[usize::from(room)]));
        assert_eq!(lone.home_challenges(), None);
        assert_eq!(lone.status(), 503);
        assert_eq!((lone.refused("exhausted"), lone.removed()), (2, vec![]));
        for (phone, set) in phones.iter().zip(&sets) {
            lone.refreshed(phone, set);
        }
        // What one gives back another gets.
        lone.inside(&phones[0], &sets[0], &Register { expires: 0, ..Register::refresh() });
        lone.home_accepts(0);
        assert_eq!(lone.status(), 200);
        lone.pass(129);
        lone.registered(&phones[usize::from(room)]);
    }
}

/// Ranges are configuration, and what cannot work is named.
#[test]
fn ranges_are_configurable() {
    let ports =
        |value: &str| with_client_ports(value).map(|config| config.gm.protected_client_ports);
    assert_eq!(ports(r#""6000-6003""#), Ok(vec![6_000, 6_001, 6_002, 6_003]));
    assert_eq!(ports(r#"[5100, "6000-6001", 7]"#), Ok(vec![5_100, 6_000, 6_001, 7]));
    for wrong in [r#""6003-6000""#, r#""many""#, r#""1-99999""#, "[-1]"] {
        assert!(ports(wrong).is_err(), "{wrong}");
    }
    let mut config = with_client_ports(r#""6000-6399""#).unwrap();
    config.gm.protected_client_ports.push(6_000);
    config.ipsec.spi_range = SpiRange { first: 10, last: 12 };
    config.ipsec.challenges_per_address = 0;
    let problems = config.problems();
    for part in
        ["stands there twice", "more than 256", "reserved", "at least six", "lets nobody in"]
    {
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part}: {problems:?}");
    }
    let mut config = lone::config();
    config.ipsec.spi_range = SpiRange { first: 4_000, last: 4_100 };
    let set = Lone::with(config).registered(&alice());
    assert!((4_000..=4_100).contains(&set.spis.pc) && (4_000..=4_100).contains(&set.spis.ps));
}

// ---- Offers.

/// S-23, TS 33.203 §7.2, ipsec.md section 1: what real phones offer, six pairs in one line, in any order of
/// parameters, without mod, prot or ealg, among things that nobody knows.
#[test]
fn offers_of_real_phones() {
    let sha1 = Integrity::HmacSha1_96;
    for (algorithms, expected) in [
        (
            vec!["alg=hmac-md5-96;ealg=des-ede3-cbc", "alg=hmac-sha-1-96;ealg=aes-cbc"],
            (sha1, Encryption::AesCbc),
        ),
        (
            vec![
                "alg=hmac-sha-1-96;prot=esp;mod=trans;ealg=null",
                "ealg=null;alg=hmac-md5-96;mod=trans",
            ],
            (sha1, Encryption::Null),
        ),
        (vec!["alg=hmac-sha-256;ealg=aes-cbc", "alg=hmac-sha-1-96"], (sha1, Encryption::Null)),
        (
            vec!["ealg=aes-gcm;prot=esp", "alg=hmac-sha-1-96;ealg=aes-cbc"],
            (Integrity::Null, Encryption::AesGcm),
        ),
        (
            vec!["alg=aes-gmac", "alg=hmac-sha-1-96;ealg=null"],
            (Integrity::AesGmac, Encryption::Null),
        ),
        (vec!["alg=hmac-md5-96;ealg=null"], (Integrity::HmacMd5_96, Encryption::Null)),
        (
            vec!["alg=hmac-md5-96;ealg=des-ede3-cbc"],
            (Integrity::HmacMd5_96, Encryption::DesEde3Cbc),
        ),
        (
            vec!["alg=hmac-sha-1-96;mod=tun", "alg=hmac-sha-1-96;prot=ah", "alg=hmac-md5-96"],
            (Integrity::HmacMd5_96, Encryption::Null),
        ),
    ] {
        let mut lone = Lone::new();
        let algorithms = algorithms.into_iter().map(str::to_owned).collect();
        let (set, _) = lone.challenge(&Phone { algorithms, ..alice() });
        assert_eq!((set.integrity, set.encryption), expected);
    }

    // As one network's phone writes it, and one with the parameters in the order of the alphabet.
    let listed = include_str!("../offers.txt");
    for line in listed.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let mut lone = Lone::new();
        let more = format!("Security-Client: {line}\r\n");
        lone.in_clear(&alice(), &Register { more, ..Register::first(&alice()) });
        let (set, ..) = lone.challenged();
        assert!(set.spis.uc > 255 && set.ports.uc > 0, "{line}");
    }
}

/// RFC 3329 §2.2: the operator's order decides, and the phone's q between equal offers; or the phone's q.
/// Security-Server leads with what was chosen.
#[test]
fn preference_is_configuration() {
    let algorithms = ["q=0.2;alg=hmac-sha-1-96;ealg=aes-cbc", "q=0.8;alg=hmac-md5-96;ealg=null"];
    let phone = Phone { algorithms: algorithms.map(str::to_owned).to_vec(), ..alice() };
    for (prefer, integrity) in
        [(Prefer::Operator, Integrity::HmacSha1_96), (Prefer::Phone, Integrity::HmacMd5_96)]
    {
        let mut config = config();
        config.ipsec.prefer = prefer;
        let all = config.ipsec.algorithms.len();
        let mut lone = Lone::with(config);
        let (set, list) = lone.challenge(&phone);
        assert_eq!(set.integrity, integrity);
        let entries: Vec<&str> = list.split(',').collect();
        assert_eq!(entries.len(), all);
        let known = |entry: &&&str| {
            ["alg=hmac-sha-1-96;ealg=aes-cbc", "alg=hmac-md5-96;ealg=null"]
                .iter()
                .any(|pair| entry.contains(pair))
        };
        assert!(entries.iter().find(known).unwrap().contains(integrity.name()), "{list}");
        lone.answer(&phone, &set, &list);
    }
}

/// RFC 3329 §2.3.1, registration.md P-04, E-421, E-494: who asks for an agreement gets 494, who does not 421;
/// both learn what we know, and never from an empty list.
#[test]
fn nothing_in_common() {
    let mut lone = Lone::new();
    let exotic = Phone { algorithms: vec!["alg=hmac-sha-256".into()], ..alice() };
    let offered = Register::first(&exotic);
    let nothing = Register { more: String::new(), ..Register::first(&exotic) };
    for register in [offered, nothing] {
        let asks = lone.write(&exotic, 5060, &register);
        let silent =
            asks.replace("Proxy-Require: sec-agree\r\n", "").replace("Require: sec-agree\r\n", "");
        let supports = silent.replace("Supported: path", "Supported: sec-agree, path");
        for (text, status) in [(asks, 494), (silent, 421), (supports, 494)] {
            let text = text.replace("z9hG4bK", &format!("z9hG4bKs{status}{}", text.len()));
            lone.text(&exotic, 5060, 5060, &text);
            let (_, response) = lone.answered();
            assert_eq!(response.status(), status, "{text}");
            assert!(response.headers().has_token(Name::Require, "sec-agree"));
            assert!(!mechanisms(response.headers(), Name::SecurityServer).unwrap().is_empty());
        }
    }
    // Over an association, too.
    let set = lone.registered(&alice());
    lone.inside(&alice(), &set, &Register::first(&Phone { uc: 40_000, ..exotic }));
    assert_eq!(lone.status(), 494);
}

/// TS 24.229 §7.2A.7: mechanisms for media stand in the same headers and are none of these.
#[test]
fn media_mechanisms_are_left_alone() {
    let mut lone = Lone::new();
    let phone = alice();
    let media = |register: Register| Register {
        more: register.more.replace(": ipsec-3gpp", ": sdes-srtp;mediasec, ipsec-3gpp"),
        ..register
    };
    lone.in_clear(&phone, &media(Register::first(&phone)));
    let (set, list, _) = lone.challenged();
    lone.inside(&phone, &set, &media(Register::answer(&phone, &list)));
    lone.home_accepts(3_600);
    assert_eq!(lone.status(), 200);
}

// ---- Who may speak.

fn integrity_protected(lone: &mut Lone) -> String {
    let request = lone.forwarded();
    let authorization = request.headers().get(Name::Authorization).unwrap().to_owned();
    let lower = authorization.to_ascii_lowercase();
    assert_eq!(lower.matches("integrity-protected").count(), 1, "{authorization}");
    lone.home_says(&request.response(403, "Forbidden"));
    lone.answered();
    let value = lower.split("integrity-protected=").nth(1).unwrap();
    value.trim_matches('"').split('"').next().unwrap().to_owned()
}

/// TS 24.229 §5.2.2.1, registration.md P-08, ipsec.md F-07: integrity-protected comes from facts: the set
/// and whether there is an answer on it; whatever the phone writes there, in whatever spelling.
#[test]
fn integrity_protected_comes_from_facts() {
    const FORGED: &str = "nonce=\"\", response=\"\", integrity-protected=\"yes\"";
    const SPELT: &str = "nonce=\"\", INTEGRITY-Protected = ip-assoc-yes, response=\"\"";
    const TWICE: &str =
        "nonce=\"\", integrity-protected=yes, response=\"\", Integrity-Protected=no";
    const ANSWER: &str = "nonce=\"bm9uY2U=\", response=\"00\", integrity-protected=\"no\"";
    let mut lone = Lone::new();
    let phone = alice();
    for digest in [FORGED, SPELT, ANSWER] {
        lone.in_clear(&phone, &Register { digest, ..Register::first(&phone) });
        assert_eq!(integrity_protected(&mut lone), "no", "{digest}");
    }
    lone.in_clear(&phone, &Register { digest: TWICE, ..Register::first(&phone) });
    assert_eq!(lone.status(), 400);
    for digest in [FORGED, SPELT] {
        let (set, list) = lone.challenge(&phone);
        lone.inside(&phone, &set, &Register { digest, ..Register::answer(&phone, &list) });
        assert_eq!(integrity_protected(&mut lone), "no", "over a temporary set without an answer");
    }
    let set = lone.registered(&phone);
    for digest in [FORGED, SPELT, ANSWER] {
        lone.inside(&phone, &set, &Register { digest, ..Register::refresh() });
        assert_eq!(integrity_protected(&mut lone), "yes", "{digest}");
    }
}

/// ipsec.md F-10, N-05, registration.md P-07: over a set speaks the identity it belongs to and no other,
/// whichever way the other is named; the set stays.
#[test]
fn foreign_identities_over_a_set() {
    let mut lone = Lone::new();
    let phone = alice();
    let set = lone.registered(&phone);
    let own = lone.write(&phone, phone.us, &Register::refresh());
    for (from, to) in [
        ("username=\"alice@", "username=\"bob@"),
        (
            "Authorization: Digest ",
            "Authorization: Digest username=\"bob@home.example\", realm=\"home.example\"\r\nX: ",
        ),
        ("UDP 10.45.0.2:", "UDP 10.45.0.3:"),
        ("Max-Forwards", "Via: SIP/2.0/UDP 10.45.0.9;branch=z9hG4bKother\r\nMax-Forwards"),
    ] {
        let text = own.replace(from, to).replace("z9hG4bK", &format!("z9hG4bK{}", to.len()));
        lone.text(&phone, set.ports.uc, set.ports.ps, &text);
        assert_eq!(lone.status(), 403, "{text}");
    }
    lone.refreshed(&phone, &set);
}

/// ipsec.md N-01, F-08: in clear and over a temporary set nothing but REGISTER, whoever is registered.
#[test]
fn other_requests_in_clear() {
    let mut lone = Lone::new();
    let phone = alice();
    lone.registered(&phone);
    let (temporary, _) = lone.challenge(&Phone::new("bob", "10.45.0.3"));
    for method in ["INVITE", "MESSAGE", "SUBSCRIBE", "OPTIONS", "PUBLISH"] {
        let text = lone.write(&phone, 5060, &Register::refresh()).replace("REGISTER", method);
        lone.text(&phone, 5060, 5060, &text);
        let statuses: Vec<u16> = lone.statuses();
        assert_eq!(statuses.last(), Some(&403), "{method}");
        let bob = Phone::new("bob", "10.45.0.3");
        let text = lone.write(&bob, bob.us, &Register::refresh()).replace("REGISTER", method);
        lone.text(&bob, temporary.ports.uc, temporary.ports.ps, &text);
        assert_eq!(lone.statuses().last(), Some(&403), "{method} over a temporary set");
    }
}

/// TS 24.229 §5.2.10, registration.md P-01: an emergency call in clear is no offence; it is not carried yet.
#[test]
fn emergency_in_clear() {
    let mut lone = Lone::new();
    let phone = alice();
    let invite = |uri: &str, lone: &mut Lone| {
        let text = lone.write(&phone, 5060, &Register::refresh());
        let text = text.replace("REGISTER sip:home.example", &format!("INVITE {uri}"));
        let text = text
            .replace(" REGISTER\r\n", " INVITE\r\n")
            .replace("Proxy-Require: sec-agree\r\n", "");
        lone.text(&phone, 5060, 5060, &text);
        *lone.statuses().last().unwrap()
    };
    assert_eq!(invite("urn:service:sos.fire", &mut lone), 501);
    assert_eq!(invite("URN:service:sos", &mut lone), 501);
    assert_eq!(invite("urn:service:sosotto", &mut lone), 403);
    assert_eq!(invite("sip:bob@home.example", &mut lone), 403);
}

/// Required means required: a home network that accepts without a challenge cannot let a phone in.
#[test]
fn nobody_is_registered_in_clear_where_ipsec_is_required() {
    for (policy, status, registered) in [(Policy::Required, 500, 0), (Policy::Preferred, 200, 1)] {
        let mut config = config();
        config.ipsec.policy = policy;
        let mut lone = Lone::with(config);
        let phone = alice();
        let register = Register::first(&phone);
        lone.in_clear(&phone, &register);
        lone.home_accepts(3_600);
        assert_eq!(lone.status(), status);
        assert_eq!(lone.registrations(), registered);
    }
}

// ---- TCP.

/// ipsec.md L-15, X-03, TS 33.203 §7.1: over TCP the answer takes its request's connection; where that has
/// gone, one from port_pc to port_us inside the same set, and never the clear port. A connection that ends
/// is not a phone that is gone.
#[test]
fn answers_over_tcp_stay_inside_the_set() {
    let mut lone = Lone::new();
    let phone = Phone { transport: Transport::Tcp, ..alice() };
    let set = lone.registered(&phone);
    let flow = lone.refreshed(&phone, &set);
    assert_eq!(
        (flow.transport, flow.local.port(), flow.remote.port()),
        (Transport::Tcp, set.ports.ps, set.ports.uc)
    );
    lone.inside(&phone, &set, &Register::refresh());
    let request = lone.forwarded();
    lone.home_says(&request.response(200, "OK"));
    let (flow, _) = lone.answered();
    lone.feed(Input::Unreachable { flow });
    // With it what went out on that connection a moment before and may be lost.
    let again = lone.take_sip();
    assert!(!again.is_empty());
    for (second, _) in &again {
        assert_eq!(second.transport, Transport::Tcp);
        assert_eq!((second.local.port(), second.remote.port()), (set.ports.pc, set.ports.us));
    }
    lone.feed(Input::Unreachable { flow: again[0].0 });
    assert!(lone.is_silent(), "there is no third way");
    assert_eq!((lone.registrations(), lone.sets("in_use")), (1, 1));
    lone.refreshed(&phone, &set);
}

/// RFC 3261 §18.1.1, X-01: long messages are carried both ways as they come.
#[test]
fn long_messages_pass() {
    let mut lone = Lone::new();
    let phone = alice();
    let set = lone.registered(&phone);
    let more = format!("X-Long: {}\r\n", "x".repeat(3_000));
    lone.inside(&phone, &set, &Register { more, ..Register::refresh() });
    let request = lone.forwarded();
    let mut response = request.response(200, "OK");
    for number in 0..100 {
        response
            .headers_mut()
            .append(Name::PAssociatedUri, &format!("<sip:number{number}@home.example>"));
    }
    lone.home_says(&response);
    let (flow, response) = lone.answered();
    assert!(response.to_bytes().len() > 1_300);
    assert_eq!((flow.transport, flow.local.port()), (Transport::Udp, set.ports.pc));
}

// ---- Attacks: see docs of the table in ARCHITECTURE.md.

/// A REGISTER in clear with somebody else's identity, from another address: his registration and his sets
/// do not notice, and the stranger gets no further than a challenge.
#[test]
fn a_clear_register_in_anothers_name() {
    let mut lone = Lone::new();
    let victim = alice();
    let set = lone.registered(&victim);
    let attacker = Phone { address: "10.45.0.66".parse().unwrap(), ..victim.clone() };
    let (temporary, list) = lone.challenge(&attacker);
    lone.refreshed(&victim, &set);
    // Without the key nothing gets through the temporary set; say somebody answers in clear.
    lone.in_clear(&attacker, &Register::answer(&attacker, &list));
    assert_eq!(integrity_protected(&mut lone), "no");
    // A deregistration in clear is an initial authentication like any other.
    lone.in_clear(&attacker, &Register { expires: 0, ..Register::first(&attacker) });
    lone.challenged();
    assert_eq!(lone.removed(), [temporary.id]);
    lone.refreshed(&victim, &set);
    lone.pass(241);
    lone.refreshed(&victim, &set);
    assert_eq!((lone.registrations(), lone.sets("in_use"), lone.sets("temporary")), (1, 1, 0));
}

/// A flood of REGISTERs in clear for one identity: from one address, and from many. Temporary sets stay few,
/// the victim's set serves, and so does everybody else's.
#[test]
fn a_flood_of_registers_for_one_identity() {
    let mut lone = Lone::new();
    let victim = alice();
    let set = lone.registered(&victim);
    let mut offer = Phone { address: "10.45.0.66".parse().unwrap(), ..victim.clone() };
    // Challenged each: one address has one temporary set.
    for _ in 0..100 {
        offer = offer.next();
        lone.challenge(&offer);
    }
    assert_eq!(lone.sets("temporary"), 1);
    // Not answered by the home network: 64 wait, the others are sent away at once.
    let mut waiting = Vec::new();
    for number in 0..200 {
        lone.in_clear(&offer, &Register::first(&offer));
        if number < 64 {
            waiting.push(lone.forwarded());
        } else {
            let (_, response) = lone.answered();
            assert_eq!(response.status(), 503);
            assert!(response.headers().has(Name::RetryAfter));
        }
    }
    assert_eq!(lone.refused("too_many_challenges"), 136);
    lone.refreshed(&victim, &set);
    let bob = Phone::new("bob", "10.45.0.3");
    lone.registered(&bob);
    for request in waiting {
        lone.home_says(&request.response(403, "Forbidden"));
        assert_eq!(lone.status(), 403);
    }
    lone.challenge(&offer);
    // From many addresses: four temporary sets, the oldest makes room, and the flood's end is the end of it.
    for number in 1..=100 {
        offer = Phone { address: format!("10.45.1.{number}").parse().unwrap(), ..offer };
        lone.challenge(&offer);
    }
    assert_eq!(lone.sets("temporary"), 4);
    assert!(lone.count("tessera_pcscf_set_requests_total", "crowded_out") > 90);
    lone.refreshed(&victim, &set);
    let again = lone.authenticated_again(&victim.next(), &set);
    lone.refreshed(&victim.next(), &again);
    lone.pass(241);
    assert_eq!(lone.sets("temporary"), 0);
    assert_eq!(lone.core.owed(), 0);
}

/// Many identities from one address: bounded, too.
#[test]
fn a_flood_of_identities_from_one_address() {
    let mut lone = Lone::new();
    let set = lone.registered(&alice());
    let stranger = |number: u16| Phone {
        uc: 10_000 + number,
        spi_uc: 10_000 + 2 * u32::from(number),
        spi_us: 10_001 + 2 * u32::from(number),
        us: 20_000 + number,
        ..Phone::new(&format!("user{number}"), "10.45.0.66")
    };
    for number in 0..64 {
        lone.challenge(&stranger(number));
    }
    lone.in_clear(&stranger(64), &Register::first(&stranger(64)));
    assert_eq!(lone.status(), 503);
    lone.refreshed(&alice(), &set);
    lone.registered(&Phone::new("bob", "10.45.0.3"));
    lone.pass(241);
    lone.challenge(&stranger(64));
}

/// ipsec.md N-03: a scan of the protected ports that reaches us all the same is not answered.
#[test]
fn a_scan_of_protected_ports_is_not_answered() {
    let mut lone = Lone::new();
    let set = lone.registered(&alice());
    let stranger = Phone::new("mallory", "10.45.0.66");
    let mut ports: Vec<u16> = config().gm.protected_client_ports;
    ports.push(set.ports.ps);
    for port in &ports {
        for from in [5060, set.ports.uc, set.ports.us] {
            let text = lone.write(&stranger, from, &Register::first(&stranger));
            lone.text(&stranger, from, *port, &text);
            lone.text(&stranger, from, *port, "OPTIONS sip:x SIP/2.0\r\n\r\n");
            lone.text(&stranger, from, *port, "nonsense");
            assert!(lone.is_silent(), "{port}");
        }
    }
    let dropped = lone.count("tessera_pcscf_dropped_without_association_total", "");
    assert_eq!(dropped as usize, ports.len() * 9);
}
