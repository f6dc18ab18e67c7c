//! IMS restoration at the S-CSCF (TS 23.380 §4): what it leaves with the HSS, and how it takes over.

mod dialogue;

use common::cx::sar::ServerAssignmentType::{
    NoAssignment, ReRegistration, Registration, UserDeregistration,
};
use common::cx::{Outcome, RestorationInfo, Saa, ScscfRestorationInfo};
use common::sip::header::Name;
use dialogue::*;
use scscf::config::Reauthenticate;

const NOW_SECONDS: u64 = 1_700_000_000;

fn left(user_name: &str, contact: &str, cseq: u32) -> ScscfRestorationInfo {
    ScscfRestorationInfo {
        user_name: user_name.to_owned(),
        contacts: vec![RestorationInfo {
            path: "<sip:term@pcscf1.vims.net;lr>".to_owned(),
            contact: contact.to_owned(),
            cseq: Some(cseq),
            call_id: Some("ababab".to_owned()),
            ..RestorationInfo::default()
        }],
        registration_time_out: Some(NOW_SECONDS + 5_000),
        scheme: None,
    }
}

fn own_contact() -> ScscfRestorationInfo {
    left(IMPI, "<sip:10.133.202.46:5064>;+g.3gpp.smsip", 26)
}

fn refresh(cseq: u32) -> String {
    register(&[
        ("CSeq: 25", &format!("CSeq: {cseq}")),
        ("\"no\"", "\"yes\""),
        ("sip:scscf1.hims.net SIP", "sip:scscf1.hims.net;scscf-reselection SIP"),
    ])
}

/// TS 29.228 §6.1.2.1: contacts with Path, Call-ID and CSeq go with the SAR of every REGISTER.
#[test]
fn leaves_what_another_one_needs() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    let sar = dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
    let expected = ScscfRestorationInfo {
        registration_time_out: Some(NOW_SECONDS + 600_000),
        ..own_contact()
    };
    assert_eq!(sar.restoration, Some(expected));
    dialogue.receives(&refresh(27));
    let sar = dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(sar.restoration.unwrap().contacts[0].cseq, Some(27));
    dialogue.replies_with(200);
}

/// TS 23.380 §4.2: S-92: a refresh that another S-CSCF would have had: profile and contacts come
/// from the HSS, and the UE notices nothing.
#[test]
fn takes_over_without_a_challenge() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&refresh(27));
    let tablet = left("tablet@hims.net", "<sip:10.133.202.99:5064>", 3);
    let answer = Saa { restoration: vec![own_contact(), tablet], ..saa(&profile(IMPI)) };
    let sar = dialogue.asks_sar(NoAssignment, answer);
    assert_eq!(sar.user_name.as_deref(), Some(IMPI));
    assert_eq!(sar.public_identities, [IMPU]);
    assert_eq!(sar.restoration, None, "nothing is left by who holds nothing");
    let sar = dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    assert!(sar.user_data_already_available);
    assert_eq!(sar.restoration.unwrap().contacts[0].cseq, Some(27));
    let response = dialogue.replies_with(200);
    let mut contacts = contacts(&response);
    contacts.sort();
    assert_eq!(contacts.len(), 2, "the other device is served as well: {contacts:?}");
    assert!(contacts[1].contains("10.133.202.99:5064") && contacts[1].contains("expires=5000"));
    assert!(response.headers().has(Name::PAssociatedUri));
    assert_eq!(dialogue.registrations(), 2);
    assert_eq!(dialogue.counter("tessera_scscf_restorations_total", "restored"), 1);
    dialogue.rests();
}

/// TS 23.380 §4.2: the operator's policy holds for restored users, too.
#[test]
fn challenges_a_restored_user_by_policy() {
    let mut config = config();
    config.registration.reauthenticate = Reauthenticate::Always;
    let mut dialogue = Dialogue::new(config);
    dialogue.receives(&refresh(27));
    dialogue
        .asks_sar(NoAssignment, Saa { restoration: vec![own_contact()], ..saa(&profile(IMPI)) });
    let (_, vector) = dialogue.asks_mar();
    let challenge = challenge(&dialogue.replies_with(401));
    dialogue.receives(&answered(&challenge, &vector, 28, &[]));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    assert_eq!(dialogue.registrations(), 1);
}

/// TS 23.380 §4.2: the UE has another contact by now: one more round trip.
#[test]
fn challenges_for_another_contact() {
    let elsewhere = left(IMPI, "<sip:10.133.202.46:5099>", 26);
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&refresh(27));
    dialogue.asks_sar(NoAssignment, Saa { restoration: vec![elsewhere], ..saa(&profile(IMPI)) });
    let (_, vector) = dialogue.asks_mar();
    let challenge = challenge(&dialogue.replies_with(401));
    dialogue.receives(&answered(&challenge, &vector, 28, &[]));
    let received = dialogue.asks();
    let common::cx::Request::Sar(_) = &received.request else { panic!("{received:?}") };
    dialogue.answers(received, common::cx::Answer::Saa(saa(&profile(IMPI))));
    let response = dialogue.replies_with(200);
    assert_eq!(contacts(&response).len(), 1);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.2: S-92, S-134: registered nowhere, or elsewhere: 500, the UE begins anew.
/// Unknown: 403. A silent HSS: 504.
#[test]
fn refuses_who_cannot_be_restored() {
    for (outcome, status) in [
        (Outcome::IDENTITY_ALREADY_REGISTERED, 500),
        (Outcome::UNABLE_TO_COMPLY, 500),
        (Outcome::USER_UNKNOWN, 403),
        (Outcome::IDENTITIES_DONT_MATCH, 403),
    ] {
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(&refresh(27));
        dialogue.asks_sar(NoAssignment, empty_saa(outcome));
        dialogue.replies_with(status);
        assert_eq!(dialogue.registrations(), 0);
        dialogue.rests();
    }
    let mut dialogue = Dialogue::new(config());
    dialogue.is_hss_deaf = true;
    dialogue.receives(&refresh(27));
    dialogue.wait(std::time::Duration::from_secs(5));
    dialogue.replies_with(504);
    dialogue.rests();
}

/// TS 23.380 §4.2: what was taken over goes again when the HSS does not assign it.
#[test]
fn a_refused_assignment_restores_nothing() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&refresh(27));
    dialogue
        .asks_sar(NoAssignment, Saa { restoration: vec![own_contact()], ..saa(&profile(IMPI)) });
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::IDENTITY_ALREADY_REGISTERED));
    dialogue.replies_with(480);
    assert_eq!(dialogue.registrations(), 0);
    assert!(dialogue.store.is_empty(), "{:?}", dialogue.store);
}

/// TS 23.380 §4.2: an old REGISTER, or one whose registration has run out, restores nothing.
#[test]
fn old_news() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&refresh(26));
    dialogue
        .asks_sar(NoAssignment, Saa { restoration: vec![own_contact()], ..saa(&profile(IMPI)) });
    dialogue.replies_with(500);

    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&refresh(27));
    let expired =
        ScscfRestorationInfo { registration_time_out: Some(NOW_SECONDS), ..own_contact() };
    dialogue.asks_sar(NoAssignment, Saa { restoration: vec![expired], ..saa(&profile(IMPI)) });
    dialogue.replies_with(500);
    assert_eq!(dialogue.counter("tessera_scscf_restorations_total", "nothing_left"), 1);
}

/// TS 23.380 §4.2, TS 24.229 §5.4.1.4: a deregistration that comes here restores first.
#[test]
fn deregisters_a_restored_user() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&register(&[
        ("CSeq: 25", "CSeq: 27"),
        ("\"no\"", "\"yes\""),
        ("expires=600000", "expires=0"),
    ]));
    dialogue
        .asks_sar(NoAssignment, Saa { restoration: vec![own_contact()], ..saa(&profile(IMPI)) });
    dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    assert_eq!(dialogue.registrations(), 0);
    dialogue.rests();
}
