//! An emergency registration beside the normal one of the same phone, by the same private identity at the same address:
//! neither ends or moves what belongs to the other (TS 24.229 §5.1.6.2, §5.2.10; registration.md EM-1).

use common::node::Input;
use common::sip::header::Name;
use common::sip::message::Request;
use pcscf::config::Policy;

use crate::lone::*;

fn normal() -> Phone {
    Phone::new("alice", "10.45.0.2")
}

/// The same phone, for emergency calls: with ports and SPIs of their own.
fn emergency() -> Phone {
    Phone { uc: 34_000, us: 34_001, spi_uc: 9_001, spi_us: 9_002, is_emergency: true, ..normal() }
}

impl Lone {
    fn emergency_registrations(&self) -> u64 {
        self.count("tessera_pcscf_emergency_registrations", "")
    }
}

/// TS 24.229 §5.1.6.2; ipsec.md L-01, L-04: the initial registration of one kind takes nothing of the other, whichever comes
/// first, nor does its challenge, nor a new initial one; both have their sets, which they refresh and authenticate anew.
#[test]
fn side_by_side() {
    for (first, second) in [(normal(), emergency()), (emergency(), normal())] {
        let mut lone = Lone::new();
        let of_first = lone.registered(&first);
        let (open, list) = lone.challenge(&first.next());
        let of_second = lone.registered(&second);
        assert_eq!((lone.removed(), lone.sets("in_use"), lone.sets("temporary")), (vec![], 2, 1));
        assert_eq!((lone.registrations(), lone.emergency_registrations()), (2, 1));
        lone.refreshed(&first, &of_first);
        lone.refreshed(&second, &of_second);
        // From the start again.
        lone.answer(&first.next(), &open, &list);
        assert_eq!(lone.removed(), [of_first.id]);
        let new = lone.authenticated_again(&second.next(), &of_second);
        lone.refreshed(&second.next(), &new);
        lone.pass(129);
        assert_eq!(lone.removed(), [of_second.id]);
        lone.refreshed(&first.next(), &open);
        assert_eq!((lone.registrations(), lone.emergency_registrations()), (2, 1));
    }
}

/// TS 24.229 §5.2.5.1; ipsec.md L-12: who deregisters one stays registered with the other, over its sets; by its contact, or by
/// `*`.
#[test]
fn a_deregistration_of_one() {
    for (left, stays, is_star) in [
        (normal(), emergency(), false),
        (normal(), emergency(), true),
        (emergency(), normal(), false),
    ] {
        let mut lone = Lone::new();
        let of_left = lone.registered(&left);
        let of_other = lone.registered(&stays);
        let register = Register { expires: 0, ..Register::refresh() };
        let text = lone.write(&left, left.us, &register);
        let text = match is_star {
            true => text.replace("<sip:10.45.0.2:31001>;expires=0", "*\r\nExpires: 0"),
            false => text,
        };
        lone.text(&left, left.uc, of_left.ports.ps, &text);
        lone.home_refuses(200);
        assert_eq!(lone.status(), 200);
        let emergencies = u64::from(stays.is_emergency);
        assert_eq!((lone.registrations(), lone.emergency_registrations()), (1, emergencies));
        lone.pass(130);
        assert_eq!(lone.removed(), [of_left.id]);
        lone.refreshed(&stays, &of_other);
    }
}

/// TS 24.229 §5.1.6.2: no UE ends an emergency registration by `*`.
#[test]
fn all_contacts_are_not_the_emergency_one() {
    let mut lone = Lone::new();
    let phone = emergency();
    let set = lone.registered(&phone);
    let text = lone.write(&phone, phone.us, &Register::refresh());
    let text = text.replace("<sip:10.45.0.2:34001;sos>;expires=600000", "*\r\nExpires: 0");
    lone.text(&phone, phone.uc, set.ports.ps, &text);
    let mut response = lone.forwarded().response(200, "OK");
    response.headers_mut().append(Name::Contact, "<sip:10.45.0.2:34001;sos>;expires=60");
    lone.home_says(&response);
    assert_eq!(lone.status(), 200);
    assert_eq!(lone.registrations(), 1);
    lone.refreshed(&phone, &set);
}

/// TS 33.203 §7.4: each ends by its own time.
#[test]
fn each_has_its_time() {
    for (ends, stays) in [(normal(), emergency()), (emergency(), normal())] {
        let mut lone = Lone::new();
        let of_ending = lone.registered(&ends);
        let of_other = lone.registered(&stays);
        lone.pass(3_000);
        lone.refreshed(&stays, &of_other);
        lone.pass(631);
        assert_eq!((lone.removed(), lone.registrations()), (vec![of_ending.id], 1));
        lone.refreshed(&stays, &of_other);
    }
}

/// TS 24.229 §5.1.6.2: one is asked for over the associations of the other. It is no re-registration: what it came over does not
/// speak for it, so the home network hears that nothing protects it, and it has to be challenged. Then it has sets of its own.
#[test]
fn over_the_associations_of_the_other() {
    for (here, guest) in [(normal(), emergency()), (emergency(), normal())] {
        let mut lone = Lone::new();
        let own = lone.registered(&here);
        let guest = Phone { us: here.us, ..guest };
        let text = lone.write(&guest, here.us, &Register::first(&guest));
        lone.text(&guest, here.uc, own.ports.ps, &text);
        let (set, list, _) = {
            let is_no = |request: &Request| {
                let text = request.headers().get(Name::Authorization).unwrap();
                text.contains("integrity-protected=\"no\"")
            };
            let request = lone.forwarded();
            assert!(is_no(&request));
            lone.challenge_for(&request)
        };
        // Where it fails, the other has lost nothing.
        lone.refreshed(&here, &own);
        lone.answer(&guest, &set, &list);
        assert_eq!((lone.removed(), lone.registrations(), lone.sets("in_use")), (vec![], 2, 2));
        lone.refreshed(&here, &own);
        lone.refreshed(&guest, &set);
        assert_eq!(lone.emergency_registrations(), 1);
        lone.pass(600);
        assert_eq!(lone.removed(), []);
    }
    let mut lone = Lone::new();
    let own = lone.registered(&normal());
    let text = lone.write(&emergency(), 31_001, &Register::refresh());
    lone.text(&normal(), 31_000, own.ports.ps, &text);
    lone.home_accepts(3_600);
    assert_eq!(lone.status(), 500);
    assert_eq!((lone.refused("not_challenged"), lone.registrations()), (1, 1));
    lone.refreshed(&normal(), &own);
}

/// TS 24.229 §5.1.6.2: what was challenged as one is not answered as the other.
#[test]
fn an_answer_of_the_other_kind() {
    for (asks, answers) in [(normal(), true), (emergency(), false)] {
        let mut lone = Lone::new();
        let (set, list) = lone.challenge(&asks);
        let other = Phone { is_emergency: answers, ..asks.clone() };
        lone.inside(&other, &set, &Register::answer(&other, &list));
        assert_eq!(lone.status(), 403);
        assert_eq!(lone.refused("foreign_contact"), 1);
        lone.answer(&asks, &set, &list);
    }
}

/// TS 24.229 §5.2.10: without associations, too, one ends without the other; the phone speaks by its normal registration as long as it
/// has that one.
#[test]
fn both_in_clear() {
    let mut config = config();
    config.ipsec.policy = Policy::Off;
    for (left, stays) in [(normal(), emergency()), (emergency(), normal())] {
        let mut lone = Lone::with(config.clone());
        let plain =
            |text: String| text.replace("Require: sec-agree\r\nProxy-Require: sec-agree\r\n", "");
        for (phone, expires, registrations) in
            [(&left, 3_600, 1), (&stays, 3_600, 2), (&stays, 3_600, 2), (&left, 0, 1)]
        {
            let register = Register { expires, ..Register::refresh() };
            let text = plain(lone.write(phone, 5060, &register));
            lone.text(phone, 5060, 5060, &text);
            let request = lone.forwarded();
            let mut response = request.response(200, "OK");
            let headers = response.headers_mut();
            // As if both were of the other's making: in the order of the registrar, which lists all.
            for uri in ["sip:10.45.0.2:5060;sos", "sip:10.45.0.2:5060"] {
                let is_asked = uri.ends_with("sos") == phone.is_emergency;
                if expires > 0 || !is_asked {
                    headers.append(Name::Contact, &format!("<{uri}>;expires=3600"));
                }
            }
            let route = if phone.is_emergency { "emergency" } else { "normal" };
            headers.append(Name::ServiceRoute, &format!("<sip:{route}@192.0.2.31;lr>"));
            headers.append(Name::PAssociatedUri, "<sip:alice@home.example>");
            lone.home_says(&response);
            assert_eq!(lone.status(), 200);
            assert_eq!(lone.registrations(), registrations);
            let text = plain(lone.write(&normal(), 5060, &Register::refresh()));
            let text = text.replace("REGISTER", "SUBSCRIBE").replace("Authorization", "X");
            lone.text(&normal(), 5060, 5060, &text);
            let (_, message) = lone.take_sip().remove(0);
            let common::sip::message::Message::Request(request) = message else { panic!() };
            let route = request.headers().get(Name::Route).unwrap();
            let has_normal = match registrations {
                2 => true,
                _ if expires == 0 => !stays.is_emergency,
                _ => !left.is_emergency,
            };
            assert_eq!(route.starts_with("<sip:normal@"), has_normal, "{route}");
            lone.home_says(&request.response(403, "Forbidden"));
            lone.take_sip();
        }
        assert_eq!(lone.emergency_registrations(), u64::from(stays.is_emergency));
    }
}

/// What the operator is shown tells the one from the other.
#[test]
fn the_operator_sees_both() {
    let mut lone = Lone::new();
    lone.registered(&normal());
    lone.registered(&emergency());
    lone.feed(Input::Admin { id: 1, command: vec!["registrations".into()] });
    let text = lone.replied();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("alice@home.example at 10.45.0.2: sip:10.45.0.2:31001 for 3600 s"));
    assert!(text.contains("at 10.45.0.2 for emergencies: sip:10.45.0.2:34001;sos for"), "{text}");
}
