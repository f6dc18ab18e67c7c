//! Deregistration, expiry, termination and profile pushes at the S-CSCF (TS 24.229 §5.4.1.4,
//! §5.4.1.5, TS 29.228 §6.1.3, §6.2.2).

mod dialogue;

use std::time::Duration;

use bytes::Bytes;
use common::cx::rtr::ReasonCode;
use common::cx::sar::ServerAssignmentType::{
    AdministrativeDeregistration, AuthenticationTimeout, ReRegistration, Registration,
    TimeoutDeregistration, UserDeregistration,
};
use common::cx::{self, Answer, ChargingInformation, Outcome, Ppr, Rta, Rtr};
use common::sip::header::Name;
use dialogue::*;

const BOUND: &str = "Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip;expires=600000";

fn deregistration(cseq: u32, contacts: &str) -> String {
    let number = format!("CSeq: {cseq}");
    register(&[("CSeq: 25", &number), ("\"no\"", "\"yes\""), (BOUND, contacts)])
}

/// TS 24.229 §5.4.1.4: S-107, S-117, S-121: the last contact goes: SAR, then 200, then nothing is
/// left of it.
#[test]
fn the_user_deregisters() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.receives(&deregistration(27, "m: <sip:10.133.202.46:5064>\r\nExpires: 0"));
    assert_eq!(dialogue.registrations(), 1);
    let sar = dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(sar.user_name.as_deref(), Some(IMPI));
    assert_eq!(sar.public_identities.len(), 1);
    let response = dialogue.replies_with(200);
    assert!(contacts(&response).is_empty());
    assert!(!response.headers().has(Name::ServiceRoute));
    assert_eq!(dialogue.registrations(), 0);
    assert!(dialogue.store.is_empty());
    assert_eq!(dialogue.registers("deregistered"), 1);
    dialogue.rests();
}

/// RFC 3261 §10.2.2: S-122: `Contact: *` with Expires: 0 and nothing else.
#[test]
fn star() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    for wrong in [
        "Contact: *\r\nExpires: 600",
        "Contact: *",
        "Contact: *\r\nContact: <sip:10.133.202.46:5064>\r\nExpires: 0",
    ] {
        dialogue.receives(&deregistration(27, wrong));
        dialogue.replies_with(400);
    }
    dialogue.receives(&deregistration(28, "Contact: *\r\nExpires: 0"));
    dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    assert_eq!(dialogue.registrations(), 0);
}

/// TS 24.229 §5.4.1.4: S-115: a contact that is not bound: 481, whoever else is bound.
#[test]
fn an_unbound_contact() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.receives(&deregistration(27, "Contact: <sip:10.133.202.46:5060>;expires=0"));
    dialogue.replies_with(481);
    assert_eq!(dialogue.registrations(), 1);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.4: S-120: unprotected, with empty nonce and response: a challenge first, and
/// the binding stays until it is answered.
#[test]
fn an_unprotected_deregistration_is_challenged() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let zero = [(BOUND, "Contact: <sip:10.133.202.46:5064>;expires=0"), ("ababab", "bye")];
    let (challenge, vector) = dialogue.challenged(&register(&zero));
    assert_eq!(dialogue.registrations(), 1);
    dialogue.receives(&answered(&challenge, &vector, 26, &zero));
    dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    assert_eq!(dialogue.registrations(), 0);
}

/// TS 24.229 §5.4.1.4: challenged for nothing: the HSS hears that no assignment follows.
#[test]
fn a_challenge_that_ends_without_assignment() {
    let mut dialogue = Dialogue::new(config());
    let zero = [("expires=600000", "expires=0")];
    let (challenge, vector) = dialogue.challenged(&register(&zero));
    dialogue.receives(&answered(&challenge, &vector, 26, &zero));
    dialogue.replies_with(481);
    dialogue.asks_sar(AuthenticationTimeout, empty_saa(Outcome::SUCCESS));
    dialogue.rests();
}

/// TS 24.229 §5.4.1.4: one contact of several goes: no SAR; the answer lists the others.
#[test]
fn one_of_several_contacts() {
    let mut dialogue = Dialogue::new(config());
    let two = [(BOUND, "Contact: <sip:a@10.0.0.1>, <sip:b@10.0.0.1>\r\nExpires: 7000")];
    let (challenge, vector) = dialogue.challenged(&register(&two));
    dialogue.receives(&answered(&challenge, &vector, 26, &two));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
    dialogue.receives(&deregistration(27, "Contact: <sip:a@10.0.0.1>;expires=0"));
    let response = dialogue.replies_with(200);
    assert_eq!(contacts(&response), ["<sip:b@10.0.0.1>;expires=7000"]);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.4: of two devices that share an identity one goes: the other stays.
#[test]
fn a_shared_identity() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.registered_second(&profile(SECOND), &[]);
    dialogue.receives(&deregistration(27, "Contact: *\r\nExpires: 0"));
    let sar = dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(sar.user_name.as_deref(), Some(IMPI));
    let left = contacts(&dialogue.replies_with(200));
    assert_eq!(left.len(), 1);
    assert!(left[0].starts_with("<sip:10.133.202.47:5064>"), "{left:?}");
    assert_eq!(dialogue.registrations(), 1);
}

/// TS 24.229 §5.4.8.2: S-12: an emergency registration is never too brief, is shortened to what the operator
/// allows, and a wholly barred user has one, too.
#[test]
fn an_emergency_registration_has_its_own_rules() {
    for (asked, granted) in [("600000", 1_800), ("30", 60), ("600", 600)] {
        let mut dialogue = Dialogue::new(config());
        let expires = format!("expires={asked}");
        let changes = [("46:5064>", "46:5064;sos>"), ("expires=600000", expires.as_str())];
        let (challenge, vector) = dialogue.challenged(&register(&changes));
        dialogue.receives(&answered(&challenge, &vector, 26, &changes));
        dialogue.asks_sar(Registration, saa(&set(IMPI, &[(IMPU, true)])));
        let response = dialogue.replies_with(200);
        let contacts = contacts(&response);
        assert!(contacts[0].contains(&format!("expires={granted}")), "{contacts:?}");
    }
}

/// TS 24.229 §5.4.8: an emergency registration stands beside the normal one, and is not
/// deregistered by the user.
#[test]
fn an_emergency_registration() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let sos = [(BOUND, "Contact: <sip:10.133.202.46:5064;sos>;expires=7000"), ("ababab", "sos")];
    let (challenge, vector) = dialogue.challenged(&register(&sos));
    dialogue.receives(&answered(&challenge, &vector, 26, &sos));
    let kind = common::cx::sar::ServerAssignmentType::ReRegistration;
    dialogue.asks_sar(kind, empty_saa(Outcome::SUCCESS));
    assert_eq!(contacts(&dialogue.replies_with(200)).len(), 2);
    dialogue.receives(&deregistration(40, "Contact: <sip:10.133.202.46:5064;sos>;expires=0"));
    dialogue.replies_with(501);

    dialogue.hss_asks(rtr(ReasonCode::PermanentTermination, &[]));
    let rta = told(&mut dialogue);
    assert_eq!(rta.outcome, Outcome::UNABLE_TO_COMPLY);
    // TS 29.228 §6.1.3: and says which.
    assert_eq!(rta.emergency_registrations[0].user_name, IMPI);
    assert_eq!(rta.emergency_registrations[0].public_identity, format!("sip:temporary.{IMPI}"));
    assert_eq!(dialogue.registrations(), 1);
    // TS 24.229 §5.4.8.4: nor does the operator end it.
    dialogue.command(&["deregister", IMPI]);
    assert_eq!(dialogue.replied_text(), "deregistered, but for an emergency registration\n");
    assert_eq!(dialogue.registrations(), 1);
    dialogue.asks_nothing();
    dialogue.hss_asks(rtr(ReasonCode::ServerChange, &[]));
    assert_eq!(told(&mut dialogue).outcome, Outcome::SUCCESS);
    assert_eq!(dialogue.registrations(), 0);
}

/// TS 24.229 §5.4.1.6, §5.4.8.4: to be challenged soon shortens no emergency registration, beside a normal one
/// or alone.
#[test]
fn reauthentication_spares_an_emergency_registration() {
    for is_alone in [false, true] {
        let mut dialogue = Dialogue::new(config());
        if !is_alone {
            dialogue.registered();
        }
        let changes = [("46:5064>", "46:5064;sos>"), ("=600000", "=1700"), ("ababab", "sos")];
        let (challenge, vector) = dialogue.challenged(&register(&changes));
        dialogue.receives(&answered(&challenge, &vector, 26, &changes));
        let kind = if is_alone { Registration } else { ReRegistration };
        dialogue.asks_sar(kind, saa(&profile(IMPI)));
        dialogue.replies_with(200);
        dialogue.command(&["reauthenticate", IMPI, "60"]);
        let text = dialogue.replied_text();
        assert_eq!(text == "not registered\n", is_alone, "{text}");
        dialogue.command(&["show", IMPU]);
        let text = dialogue.replied_text();
        assert!(text.contains(";sos>;+g.3gpp.smsip for 1700 s"), "{text}");
        assert_eq!(text.contains("for 60 s"), !is_alone, "{text}");
    }
}

/// TS 24.229 §5.4.1.5: expiry, also across a restart.
#[test]
fn expires() {
    for restarts in [false, true] {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered();
        dialogue.wait(Duration::from_secs(599_999));
        if restarts {
            dialogue.restart();
        }
        dialogue.asks_nothing();
        dialogue.wait(Duration::from_secs(2));
        dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
        assert_eq!(dialogue.registrations(), 0);
        assert!(dialogue.store.is_empty());
        assert_eq!(dialogue.counter("tessera_scscf_deregistrations_total", "expired"), 1);
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.1.5: what expired while the process was down goes at the start.
#[test]
fn expired_while_down() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.now = dialogue.now + Duration::from_secs(700_000);
    dialogue.restart();
    dialogue.wait(Duration::from_secs(61));
    dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(dialogue.registrations(), 0);
}

/// TS 24.229 §5.4.1.5: a refresh moves the expiry.
#[test]
fn a_refresh_moves_the_expiry() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.wait(Duration::from_secs(500_000));
    dialogue.receives(&register(&[("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\"")]));
    let kind = common::cx::sar::ServerAssignmentType::ReRegistration;
    dialogue.asks_sar(kind, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    dialogue.wait(Duration::from_secs(500_000));
    dialogue.asks_nothing();
    assert_eq!(dialogue.registrations(), 1);
}

/// TS 29.228 §6.1.2.1: a silent HSS: the user is gone for the world, and the HSS is told again
/// until it answers; the user may register meanwhile.
#[test]
fn a_deregistration_is_told_again() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.is_hss_deaf = true;
    dialogue.receives(&deregistration(27, "Contact: *\r\nExpires: 0"));
    dialogue.wait(Duration::from_secs(5));
    assert!(contacts(&dialogue.replies_with(200)).is_empty());
    assert_eq!(dialogue.registrations(), 1);
    dialogue.is_hss_deaf = false;
    dialogue.wait(Duration::from_secs(60));
    dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(dialogue.registrations(), 0);
    dialogue.registered();
}

/// TS 29.228 §6.1.2.1, RFC 6733 §7.1: an HSS that cannot do it now is told again, whoever has ended the
/// registration; one that knows nobody of that name is not.
#[test]
fn a_deregistration_that_the_hss_could_not_do_is_told_again() {
    let too_busy = Outcome::Base(3004);
    for (outcome, left) in [
        (too_busy, 1),
        (Outcome::Base(4002), 1),
        (Outcome::UNABLE_TO_COMPLY, 1),
        (Outcome::USER_UNKNOWN, 0),
        (Outcome::IDENTITIES_DONT_MATCH, 0),
        (Outcome::IDENTITY_ALREADY_REGISTERED, 0),
    ] {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered();
        dialogue.receives(&deregistration(27, "Contact: *\r\nExpires: 0"));
        dialogue.asks_sar(UserDeregistration, empty_saa(outcome));
        assert!(contacts(&dialogue.replies_with(200)).is_empty());
        assert_eq!(dialogue.registrations(), left, "{outcome:?}");
        dialogue.wait(Duration::from_secs(60));
        if left == 1 {
            dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
        }
        assert_eq!(dialogue.registrations(), 0);
        assert!(dialogue.store.is_empty());
        dialogue.rests();
    }
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.wait(Duration::from_secs(600_001));
    dialogue.asks_sar(TimeoutDeregistration, empty_saa(too_busy));
    assert_eq!(dialogue.registrations(), 1);
    dialogue.wait(Duration::from_secs(60));
    dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(dialogue.registrations(), 0);
    dialogue.rests();
}

/// RFC 6733 §7.1.5: what fails for good is not asked again; an HSS that is unable to comply is, and not for ever.
#[test]
fn a_deregistration_that_the_hss_refuses_ends() {
    for outcome in [Outcome::Base(5005), Outcome::Base(5001), Outcome::IN_ASSIGNMENT_TYPE] {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered();
        dialogue.receives(&deregistration(27, "Contact: *\r\nExpires: 0"));
        dialogue.asks_sar(UserDeregistration, empty_saa(outcome));
        dialogue.replies_with(200);
        assert_eq!(dialogue.registrations(), 0, "{outcome:?}");
    }
    for (outcome, is_given_up) in [(Outcome::UNABLE_TO_COMPLY, true), (Outcome::Base(3004), false)]
    {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered();
        dialogue.receives(&deregistration(27, "Contact: *\r\nExpires: 0"));
        dialogue.asks_sar(UserDeregistration, empty_saa(outcome));
        dialogue.replies_with(200);
        for _ in 0..10 {
            dialogue.restart();
            assert_eq!(dialogue.registrations(), 1);
            dialogue.wait(Duration::from_secs(60));
            dialogue.asks_sar(TimeoutDeregistration, empty_saa(outcome));
        }
        assert_eq!(dialogue.registrations(), u64::from(!is_given_up));
        assert_eq!(dialogue.store.is_empty(), is_given_up, "{:?}", dialogue.store);
        let given_up = dialogue.counter("tessera_scscf_deregistrations_total", "given_up");
        assert_eq!(given_up, u64::from(is_given_up));
    }
}

/// TS 29.228 §6.1.3: RTRs of one user take turns, and no more wait than may: one that finds the line full is
/// refused at once.
#[test]
fn a_termination_that_finds_the_line_full() {
    let mut config = config();
    config.limits.waiting_per_identity = 1;
    let mut dialogue = Dialogue::new(config);
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    dialogue.hss_asks(rtr(ReasonCode::PermanentTermination, &[IMPU]));
    assert!(dialogue.told.is_empty());
    dialogue.hss_asks(rtr(ReasonCode::PermanentTermination, &[]));
    assert_eq!(told(&mut dialogue).outcome, Outcome::UNABLE_TO_COMPLY);
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    assert_eq!(told(&mut dialogue).outcome, Outcome::SUCCESS);
    assert_eq!(dialogue.registrations(), 0);
}

/// TS 23.003 §13.4A, TS 29.228 §6.1.2.1, TS 24.229 §5.4.1.2.2F: a wildcard in front of the set is not told to the
/// UE, and stands for the set in no SAR; watchers have it as the HSS wrote it.
#[test]
fn a_wildcarded_identity_in_front() {
    const WILDCARD: &str = "tel:+1555![0-9]{4}!";
    let mut data = profile(IMPI);
    let wildcard = cx::user_data::PublicIdentity {
        identity: WILDCARD.to_owned(),
        identity_type: 4,
        wildcarded_identity: Some(WILDCARD.to_owned()),
        ..Default::default()
    };
    data.service_profiles[0].public_identities.insert(0, wildcard);
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    dialogue.asks_sar(Registration, saa(&data));
    let response = dialogue.replies_with(200);
    let associated = response.headers().get(Name::PAssociatedUri).unwrap();
    assert!(associated.starts_with("<sip:name@hims.net>") && !associated.contains('!'));
    assert!(dialogue.store.keys().any(|(_, key)| *key == format!("{IMPI} {WILDCARD}")));

    dialogue.receives(&subscribe(&[]));
    dialogue.replies_with(200);
    let notify = dialogue.requests("NOTIFY", PCSCF);
    dialogue.answers_request(&notify, 200);
    let document = common::reginfo::RegInfo::parse(notify.body()).unwrap();
    let told: Vec<_> = document
        .registrations
        .iter()
        .filter_map(|one| one.wildcarded_identity.as_deref())
        .collect();
    assert_eq!(told, [WILDCARD]);
    dialogue.wait(Duration::from_secs(1));
    let sar = dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(sar.public_identities, [IMPU]);

    // What the HSS pushes leaves the default identity alone.
    data.service_profiles[0].public_identities.remove(0);
    assert_eq!(pushes(&mut dialogue, IMPI, Some(data.to_xml().as_bytes())), Outcome::SUCCESS);
    dialogue.receives(&deregistration(27, "Contact: *\r\nExpires: 0"));
    let sar = dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(sar.public_identities, [IMPU]);
    dialogue.replies_with(200);
    assert_eq!(dialogue.registrations(), 0);
}

fn rtr(reason_code: ReasonCode, public_identities: &[&str]) -> cx::Request {
    cx::Request::Rtr(Rtr {
        destination_host: "scscf1.hims.net".to_owned(),
        user_name: IMPI.to_owned(),
        associated_identities: Vec::new(),
        public_identities: public_identities.iter().map(|text| (*text).to_owned()).collect(),
        reason_code,
        reason_info: None,
    })
}

fn told(dialogue: &mut Dialogue) -> Rta {
    match dialogue.told.pop_front() {
        Some(Answer::Rta(rta)) => rta,
        other => panic!("{other:?}"),
    }
}

/// TS 29.228 §6.1.3: the HSS ends registrations: no SAR follows, whatever the reason.
#[test]
fn the_hss_terminates() {
    for reason in [
        ReasonCode::PermanentTermination,
        ReasonCode::NewServerAssigned,
        ReasonCode::ServerChange,
        ReasonCode::RemoveScscf,
    ] {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered();
        dialogue.hss_asks(rtr(reason, &["tel:+11234567890"]));
        assert_eq!(told(&mut dialogue).outcome, Outcome::SUCCESS);
        assert_eq!(dialogue.registrations(), 0);
        assert!(dialogue.store.is_empty());
        dialogue.rests();
        dialogue.hss_asks(rtr(reason, &[]));
        assert_eq!(told(&mut dialogue).outcome, Outcome::USER_UNKNOWN);
    }
}

/// TS 29.228 §6.1.3: the listed identities only; Associated-Identities when none is listed.
#[test]
fn the_hss_terminates_some() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.hss_asks(rtr(ReasonCode::PermanentTermination, &["sip:work@hims.net"]));
    assert_eq!(told(&mut dialogue).outcome, Outcome::SUCCESS);
    assert_eq!(dialogue.registrations(), 1);

    dialogue.registered_second(&profile(SECOND), &[]);
    let cx::Request::Rtr(mut both) = rtr(ReasonCode::PermanentTermination, &[]) else {
        unreachable!()
    };
    both.associated_identities = vec![SECOND.to_owned(), "gone@hims.net".to_owned()];
    dialogue.hss_asks(cx::Request::Rtr(both));
    let rta = told(&mut dialogue);
    assert_eq!(rta.outcome, Outcome::SUCCESS);
    assert_eq!(rta.associated_identities, [IMPI, SECOND]);
    assert_eq!(dialogue.registrations(), 0);
}

/// TS 29.228 §6.1.3: emergency registrations of Associated-Identities are answered as well: some of all are kept,
/// or all.
#[test]
fn emergency_registrations_of_associated_identities() {
    let (some, all) = (Outcome::Base(2002), Outcome::UNABLE_TO_COMPLY);
    for (is_own_registered, reason, outcome) in [
        (true, ReasonCode::PermanentTermination, some),
        (false, ReasonCode::PermanentTermination, all),
        (true, ReasonCode::RemoveScscf, some),
        (false, ReasonCode::RemoveScscf, all),
    ] {
        let mut dialogue = Dialogue::new(config());
        if is_own_registered {
            dialogue.registered();
        } else {
            let sos = [("46:5064>", "46:5064;sos>"), ("ababab", "sos")];
            let (challenge, vector) = dialogue.challenged(&register(&sos));
            dialogue.receives(&answered(&challenge, &vector, 26, &sos));
            dialogue.asks_sar(Registration, saa(&profile(IMPI)));
            dialogue.replies_with(200);
        }
        dialogue.registered_second(&profile(SECOND), &[("47:5064>", "47:5064;sos>")]);
        let cx::Request::Rtr(mut both) = rtr(reason, &[]) else { unreachable!() };
        both.associated_identities = vec![SECOND.to_owned()];
        dialogue.hss_asks(cx::Request::Rtr(both));
        let rta = told(&mut dialogue);
        assert_eq!(rta.outcome, outcome);
        let kept: Vec<_> =
            rta.emergency_registrations.iter().map(|one| one.user_name.as_str()).collect();
        match is_own_registered {
            true => assert_eq!(kept, [SECOND]),
            false => assert_eq!(kept, [IMPI, SECOND]),
        }
    }
}

/// TS 29.228 §6.1.3: a termination waits for the REGISTER in progress, and undoes what it did.
#[test]
fn a_termination_takes_its_turn() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    dialogue.hss_asks(rtr(ReasonCode::PermanentTermination, &[]));
    assert!(dialogue.told.is_empty());
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
    assert_eq!(told(&mut dialogue).outcome, Outcome::SUCCESS);
    assert_eq!(dialogue.registrations(), 0);
    dialogue.rests();
}

fn pushes(dialogue: &mut Dialogue, user_name: &str, user_data: Option<&[u8]>) -> Outcome {
    dialogue.hss_asks(cx::Request::Ppr(Ppr {
        destination_host: "scscf1.hims.net".to_owned(),
        user_name: user_name.to_owned(),
        user_data: user_data.map(Bytes::copy_from_slice),
        charging_information: Some(ChargingInformation {
            primary_event_charging: Some("aaa://new.hims.net".to_owned()),
            ..ChargingInformation::default()
        }),
    }));
    match dialogue.told.pop_front() {
        Some(Answer::Ppa(ppa)) => ppa.outcome,
        other => panic!("{other:?}"),
    }
}

/// TS 29.228 §6.2.2.1: a pushed profile replaces the one at hand, and is stored.
#[test]
fn the_hss_pushes_a_profile() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let temporary = format!("sip:temporary.{IMPI}");
    let data = set(IMPI, &[(&temporary, true), (IMPU, false), ("tel:+19998887777", false)]);
    assert_eq!(pushes(&mut dialogue, IMPI, Some(data.to_xml().as_bytes())), Outcome::SUCCESS);
    dialogue.restart();
    dialogue.receives(&register(&[("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\"")]));
    let kind = common::cx::sar::ServerAssignmentType::ReRegistration;
    dialogue.asks_sar(kind, empty_saa(Outcome::SUCCESS));
    let response = dialogue.replies_with(200);
    let listed: Vec<_> = response.headers().values(Name::PAssociatedUri).collect();
    assert_eq!(listed, ["<sip:name@hims.net>", "<tel:+19998887777>"]);
    assert!(dialogue.store.values().next().unwrap().contains("aaa://new.hims.net"));
}

/// TS 29.228 §6.2.2.1: what cannot be taken changes nothing.
#[test]
fn refuses_a_pushed_profile() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let before = dialogue.store.clone();
    assert_eq!(pushes(&mut dialogue, "x@hims.net", None), Outcome::USER_UNKNOWN);
    let not_supported = Outcome::NOT_SUPPORTED_USER_DATA;
    assert_eq!(pushes(&mut dialogue, IMPI, Some(b"<broken")), not_supported);
    // Another default identity, and nothing that may be used.
    for data in [
        set(IMPI, &[("tel:+11234567890", false), (IMPU, false)]),
        set(IMPI, &[(&format!("sip:temporary.{IMPI}"), true)]),
    ] {
        assert_eq!(pushes(&mut dialogue, IMPI, Some(data.to_xml().as_bytes())), not_supported);
    }
    assert_eq!(dialogue.store, before);
    assert_eq!(pushes(&mut dialogue, IMPI, None), Outcome::SUCCESS);
    assert_eq!(dialogue.counter("tessera_scscf_profile_pushes_total", "refused"), 4);
}

/// TS 29.228 §6.2.2.1: the default identity is the first that may be used; what is barred in front of it may
/// change, and the registration goes by its new name from then on.
#[test]
fn a_barred_identity_in_front_is_changed() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let data = set(IMPI, &[("sip:other@hims.net", true), (IMPU, false)]);
    assert_eq!(pushes(&mut dialogue, IMPI, Some(data.to_xml().as_bytes())), Outcome::SUCCESS);
    assert_eq!(dialogue.registrations(), 1);
    dialogue.restart();
    assert_eq!(dialogue.registrations(), 1);
    dialogue.receives(&deregistration(27, "Contact: *\r\nExpires: 0"));
    dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    assert_eq!(dialogue.registrations(), 0);
    assert!(dialogue.store.is_empty());
}

/// TS 29.228 §6.2.2.1: the set may get another name while the HSS is asked to deregister it, by user, time or
/// operator: what is gone at the HSS goes here, too.
#[test]
fn a_set_gets_another_name_while_it_ends() {
    let data = set(IMPI, &[("sip:other@hims.net", true), (IMPU, false)]);
    for ends in ["user", "time", "operator"] {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered();
        match ends {
            "user" => dialogue.receives(&deregistration(27, "Contact: *\r\nExpires: 0")),
            "time" => dialogue.wait(Duration::from_secs(600_001)),
            _ => dialogue.command(&["deregister", IMPI]),
        }
        let sar = dialogue.asks();
        assert_eq!(pushes(&mut dialogue, IMPI, Some(data.to_xml().as_bytes())), Outcome::SUCCESS);
        dialogue.answers(sar, Answer::Saa(empty_saa(Outcome::SUCCESS)));
        assert_eq!(dialogue.registrations(), 0, "{ends}");
        assert!(dialogue.store.is_empty(), "{:?}", dialogue.store);
        dialogue.wait(Duration::from_secs(600_001));
        dialogue.rests();
    }
}

/// An identity of another implicit set of the same private identity.
const WORK: &str = "sip:work@hims.net";

/// Registered with two sets.
fn with_two_sets() -> Dialogue {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let work = [("To: <sip:name@", "To: <sip:work@"), ("ababab", "work")];
    let (challenge, vector) = dialogue.challenged(&register(&work));
    dialogue.receives(&answered(&challenge, &vector, 26, &work));
    dialogue.asks_sar(Registration, saa(&set(IMPI, &[(WORK, false)])));
    dialogue.replies_with(200);
    assert_eq!(dialogue.registrations(), 2);
    dialogue
}

/// TS 29.228 §6.1.3.1, registration.md D-11: a change of the server is for all that the user has, whatever is listed;
/// any other reason for what is listed.
#[test]
fn a_change_of_the_server_is_for_all() {
    for (reason, left) in [(ReasonCode::ServerChange, 0), (ReasonCode::PermanentTermination, 1)] {
        let mut dialogue = with_two_sets();
        dialogue.hss_asks(rtr(reason, &[WORK]));
        assert_eq!(told(&mut dialogue).outcome, Outcome::SUCCESS);
        assert_eq!(dialogue.registrations(), left, "{reason:?}");
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.1.5: the operator ends all sets, one SAR each, and hears once.
#[test]
fn the_operator_ends_all_sets() {
    let mut dialogue = with_two_sets();
    dialogue.command(&["deregister", IMPI]);
    let mut ended = Vec::new();
    for _ in 0..2 {
        let sar = dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
        ended.extend(sar.public_identities);
    }
    ended.sort();
    assert_eq!(ended, [IMPU, WORK]);
    assert!(dialogue.replied_text().starts_with("deregistered; the HSS says"));
    assert_eq!(dialogue.registrations(), 0);
    dialogue.rests();
}

/// TS 24.229 §5.4.8.2, registration.md EM-3: `*` of a user ends the normal contact, not that of the emergency
/// registration.
#[test]
fn star_spares_an_emergency_registration() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let sos = [(BOUND, "Contact: <sip:10.133.202.46:5064;sos>;expires=7000"), ("ababab", "sos")];
    let (challenge, vector) = dialogue.challenged(&register(&sos));
    dialogue.receives(&answered(&challenge, &vector, 26, &sos));
    let kind = common::cx::sar::ServerAssignmentType::ReRegistration;
    dialogue.asks_sar(kind, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    dialogue.receives(&deregistration(27, "Contact: *\r\nExpires: 0"));
    let left = contacts(&dialogue.replies_with(200));
    assert_eq!(left.len(), 1);
    assert!(left[0].contains(";sos>"), "{left:?}");
    assert_eq!(dialogue.registrations(), 1);
    dialogue.rests();
}

/// TS 29.228 §6.2.2.1: a pushed profile is for all private identities that share the set.
#[test]
fn a_pushed_profile_is_for_all_sharers() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.registered_second(&profile(IMPI), &[]);
    let temporary = format!("sip:temporary.{IMPI}");
    let data = set(IMPI, &[(&temporary, true), (IMPU, false), ("tel:+19998887777", false)]);
    assert_eq!(pushes(&mut dialogue, IMPI, Some(data.to_xml().as_bytes())), Outcome::SUCCESS);
    let records: Vec<_> =
        dialogue.store.iter().filter(|((kind, _), _)| kind == "registration").collect();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|(_, value)| value.contains("tel:+19998887777")), "{records:?}");
}

/// TS 29.228 §6.2.2.1: so are pushed charging addresses alone.
#[test]
fn pushed_charging_addresses_are_for_all_sharers() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.registered_second(&profile(IMPI), &[]);
    assert_eq!(pushes(&mut dialogue, IMPI, None), Outcome::SUCCESS);
    let records: Vec<_> =
        dialogue.store.iter().filter(|((kind, _), _)| kind == "registration").collect();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|(_, value)| value.contains("aaa://new.hims.net")), "{records:?}");
}

/// TS 24.229 §5.4.1.5: the operator lists, shows and deregisters.
#[test]
fn the_operator() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.command(&["registrations"]);
    assert!(dialogue.replied_text().starts_with("1 registrations\nname.private@hims.net "));
    dialogue.command(&["show", "tel:+1-123-456-7890"]);
    let text = dialogue.replied_text();
    assert!(text.contains("contact <sip:10.133.202.46:5064>"), "{text}");
    assert!(text.contains("(barred)"), "{text}");
    dialogue.command(&["show", "sip:nobody@hims.net"]);
    assert_eq!(dialogue.replied_text(), "not registered\n");
    dialogue.command(&["deregister", IMPI]);
    dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
    assert!(dialogue.replied_text().starts_with("deregistered"));
    assert_eq!(dialogue.registrations(), 0);
    dialogue.command(&["deregister", IMPI]);
    assert_eq!(dialogue.replied_text(), "not registered\n");
    dialogue.command(&["help"]);
    assert!(dialogue.replied_text().starts_with("commands:"));
    dialogue.rests();
}
