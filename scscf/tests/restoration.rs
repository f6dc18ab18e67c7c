//! IMS restoration at the S-CSCF (TS 23.380 §4): what it leaves with the HSS, and how it takes over.

mod dialogue;

use common::cx::sar::ServerAssignmentType::{
    AuthenticationTimeout, NoAssignment, ReRegistration, Registration, TimeoutDeregistration,
    UserDeregistration,
};
use common::cx::{Outcome, RestorationInfo, Saa, ScscfRestorationInfo, SubscriptionInfo};
use common::reginfo::RegInfo;
use common::sip::header::Name;
use common::sip::message::{Request, Response};
use dialogue::*;
use scscf::config::Reauthenticate;

const NOW_SECONDS: u64 = 1_700_000_000;

/// The UE's dialog of `subscribe`, with the tag that an S-CSCF gave it.
fn ue_watches(tag: &str) -> SubscriptionInfo {
    SubscriptionInfo {
        call_id: "watch1".to_owned(),
        from: "<sip:name@hims.net>;tag=ue1".to_owned(),
        to: format!("<sip:name@hims.net>;tag={tag}"),
        record_route: Some("<sip:mo@pcscf1.vims.net;lr>".to_owned()),
        contact: "<sip:10.133.202.46:5064>".to_owned(),
    }
}

fn pcscf_watches(tag: &str) -> SubscriptionInfo {
    SubscriptionInfo {
        call_id: "watch2".to_owned(),
        from: "<sip:pcscf1.vims.net>;tag=p1".to_owned(),
        to: format!("<sip:name@hims.net>;tag={tag}"),
        record_route: None,
        contact: "<sip:pcscf1.vims.net>".to_owned(),
    }
}

/// A registration with its watchers.
fn watched() -> ScscfRestorationInfo {
    let mut left = own_contact();
    left.contacts[0].subscription = Some(ue_watches("s1"));
    left.contacts[0].pcscf_subscription = Some(pcscf_watches("s2"));
    left
}

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
    register(&[("CSeq: 25", &format!("CSeq: {cseq}")), ("\"no\"", "\"yes\"")])
}

/// A refresh that another S-CSCF would have had.
fn reselected(cseq: u32) -> String {
    let mark = ("sip:scscf1.hims.net SIP", "sip:scscf1.hims.net;scscf-reselection SIP");
    changed(&refresh(cseq), &[mark])
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
    dialogue.receives(&reselected(27));
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
    dialogue.receives(&reselected(27));
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
    dialogue.receives(&reselected(27));
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
        dialogue.receives(&reselected(27));
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
    dialogue.receives(&reselected(27));
    dialogue
        .asks_sar(NoAssignment, Saa { restoration: vec![own_contact()], ..saa(&profile(IMPI)) });
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::IDENTITY_ALREADY_REGISTERED));
    dialogue.replies_with(480);
    assert_eq!(dialogue.registrations(), 0);
    assert!(dialogue.store.is_empty(), "{:?}", dialogue.store);

    // Nor are watchers told anything, who belong to the other one.
    dialogue.receives(&reselected(28));
    dialogue.asks_sar(NoAssignment, Saa { restoration: vec![watched()], ..saa(&profile(IMPI)) });
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::IDENTITY_ALREADY_REGISTERED));
    dialogue.replies_with(480);
    dialogue.requests_nothing();
    assert!(dialogue.store.is_empty(), "{:?}", dialogue.store);
}

/// Nothing is here of the user, now or at the end of what another S-CSCF left, and nobody hears anything.
fn leaves_it_to_the_other_one(dialogue: &mut Dialogue) {
    assert_eq!(dialogue.registrations(), 0);
    assert!(dialogue.store.is_empty(), "{:?}", dialogue.store);
    dialogue.wait(std::time::Duration::from_secs(6_000));
    dialogue.requests_nothing();
    dialogue.rests();
}

/// TS 23.380 §4.2: a takeover that does not come to its SAR leaves nothing: contacts and watchers, of all
/// devices, are the other S-CSCF's, which serves them still.
#[test]
fn a_takeover_that_ends_early_leaves_nothing() {
    let mut tablet = watched();
    tablet.user_name = "tablet@hims.net".to_owned();
    tablet.contacts[0].contact = "<sip:10.133.202.99:5064>".to_owned();
    tablet.contacts[0].subscription.as_mut().unwrap().to = format!("<{IMPU}>;tag=s3");
    tablet.contacts[0].pcscf_subscription = None;
    let answer = Saa { restoration: vec![watched(), tablet], ..saa(&profile(IMPI)) };
    // Older than what was left.
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&reselected(25));
    dialogue.asks_sar(NoAssignment, answer.clone());
    dialogue.replies_with(500);
    leaves_it_to_the_other_one(&mut dialogue);

    // The own device is not among what was left.
    let others = Saa { restoration: answer.restoration[1..].to_vec(), ..answer.clone() };
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&reselected(27));
    dialogue.asks_sar(NoAssignment, others);
    dialogue.replies_with(500);
    leaves_it_to_the_other_one(&mut dialogue);

    let mut always = config();
    always.registration.reauthenticate = Reauthenticate::Always;
    // No vector.
    let mut dialogue = Dialogue::new(always.clone());
    dialogue.receives(&reselected(27));
    dialogue.asks_sar(NoAssignment, answer.clone());
    dialogue.refuses_mar(Outcome::UNABLE_TO_COMPLY);
    dialogue.replies_with(500);
    leaves_it_to_the_other_one(&mut dialogue);

    // No answer to the challenge.
    let mut dialogue = Dialogue::new(always);
    dialogue.receives(&reselected(27));
    dialogue.asks_sar(NoAssignment, answer.clone());
    dialogue.asks_mar();
    dialogue.replies_with(401);
    assert!(dialogue.store.is_empty(), "{:?}", dialogue.store);
    dialogue.wait(std::time::Duration::from_secs(240));
    dialogue.asks_sar(AuthenticationTimeout, empty_saa(Outcome::SUCCESS));
    leaves_it_to_the_other_one(&mut dialogue);

    // No assignment.
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&reselected(27));
    dialogue.asks_sar(NoAssignment, answer);
    assert!(dialogue.store.is_empty(), "{:?}", dialogue.store);
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::UNABLE_TO_COMPLY));
    dialogue.replies_with(500);
    leaves_it_to_the_other_one(&mut dialogue);
}

/// TS 23.380 §4.2, §4.4: a takeover that is challenged first takes contacts and watchers of all devices
/// once the answer is right and the HSS has assigned the user, and leaves them with the HSS again.
#[test]
fn a_challenged_takeover_takes_watchers_too() {
    let mut config = config();
    config.registration.reauthenticate = Reauthenticate::Always;
    let mut dialogue = Dialogue::new(config);
    dialogue.receives(&reselected(27));
    let tablet = left("tablet@hims.net", "<sip:10.133.202.99:5064>", 3);
    let answer = Saa { restoration: vec![watched(), tablet], ..saa(&profile(IMPI)) };
    dialogue.asks_sar(NoAssignment, answer);
    let (_, vector) = dialogue.asks_mar();
    let challenge = challenge(&dialogue.replies_with(401));
    dialogue.receives(&answered(&challenge, &vector, 28, &[]));
    dialogue.requests_nothing();
    let sar = dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    let left = sar.restoration.unwrap();
    assert_eq!(left.contacts[0].subscription, Some(ue_watches("s1")));
    assert_eq!(left.contacts[0].pcscf_subscription, Some(pcscf_watches("s2")));
    assert_eq!(contacts(&dialogue.replies_with(200)).len(), 2);
    for _ in 0..2 {
        let notify = dialogue.requests("NOTIFY", PCSCF);
        dialogue.answers_request(&notify, 200);
    }
    dialogue.restart();
    assert_eq!(dialogue.registrations(), 2);
}

/// The UE subscribes, and has its first document.
fn watches(dialogue: &mut Dialogue) {
    dialogue.receives(&subscribe(&[]));
    dialogue.replies_with(200);
    let notify = dialogue.requests("NOTIFY", PCSCF);
    dialogue.answers_request(&notify, 200);
}

fn tag_of(response: &Response) -> String {
    let to = response.headers().get(Name::To).unwrap();
    to.split("tag=").nth(1).unwrap().to_owned()
}

/// TS 29.228 §6.2.2.1: what a PPR could not bring is in the SAA of whatever SAR is next, also of one that only leaves
/// watchers; it holds, and the watchers hear of it.
#[test]
fn changes_come_with_what_is_left_of_watchers() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    watches(&mut dialogue);
    dialogue.wait(std::time::Duration::from_secs(1));
    let temporary = format!("sip:temporary.{IMPI}");
    let data = set(IMPI, &[(&temporary, true), (IMPU, false), ("sip:new@hims.net", false)]);
    dialogue.asks_sar(ReRegistration, saa(&data));
    let notify = dialogue.requests("NOTIFY", PCSCF);
    let info = RegInfo::parse(notify.body()).unwrap();
    assert!(info.registrations.iter().any(|one| one.aor == "sip:new@hims.net"), "{info:?}");
    dialogue.answers_request(&notify, 200);
    assert_eq!(dialogue.counter("tessera_scscf_restorations_total", "watchers_left"), 1);
    assert_eq!(dialogue.counter("tessera_scscf_profile_pushes_total", "taken"), 1);
}

/// TS 23.380 §4.4, TS 29.229 §6.3.49, §6.3.63: UE and P-CSCF that watch are left with the HSS, once for
/// both, and with every REGISTER from then on; one that has left is not.
#[test]
fn leaves_watchers_too() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let mut tags = Vec::new();
    for changes in [&[][..], &OF_PCSCF] {
        dialogue.receives(&subscribe(changes));
        tags.push(tag_of(&dialogue.replies_with(200)));
        let notify = dialogue.requests("NOTIFY", PCSCF);
        dialogue.answers_request(&notify, 200);
    }
    dialogue.asks_nothing();
    dialogue.wait(std::time::Duration::from_secs(1));
    let sar = dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    assert!(sar.user_data_already_available);
    let left = sar.restoration.unwrap();
    assert_eq!(left.contacts[0].subscription, Some(ue_watches(&tags[0])));
    assert_eq!(left.contacts[0].pcscf_subscription, Some(pcscf_watches(&tags[1])));
    assert_eq!(left.registration_time_out, Some(NOW_SECONDS + 600_000));
    assert_eq!(dialogue.counter("tessera_scscf_restorations_total", "watchers_left"), 1);
    dialogue.rests();

    let unsubscribe = [
        ("To: <sip:name@hims.net>", format!("To: <sip:name@hims.net>;tag={}", tags[1])),
        ("CSeq: 1", "CSeq: 2".to_owned()),
        ("Expires: 600000", "Expires: 0".to_owned()),
    ];
    let unsubscribe: Vec<(&str, &str)> =
        unsubscribe.iter().map(|(from, to)| (*from, to.as_str())).collect();
    dialogue.receives(&changed(&subscribe(&OF_PCSCF), &unsubscribe));
    dialogue.replies_with(200);
    let notify = dialogue.requests("NOTIFY", PCSCF);
    dialogue.answers_request(&notify, 200);
    dialogue.receives(&refresh(27));
    let sar = dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    let left = sar.restoration.unwrap();
    assert_eq!(left.contacts[0].cseq, Some(27));
    assert_eq!(left.contacts[0].subscription, Some(ue_watches(&tags[0])));
    assert_eq!(left.contacts[0].pcscf_subscription, None);
    dialogue.replies_with(200);
}

/// TS 23.380 §4.4: a deregistration that waits for the HSS goes first, and nothing is left behind it;
/// an HSS that does not take what is left is no harm.
#[test]
fn watchers_are_left_in_turn() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    watches(&mut dialogue);
    dialogue.wait(std::time::Duration::from_secs(1));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::UNABLE_TO_COMPLY));
    assert_eq!(dialogue.counter("tessera_scscf_restorations_total", "watchers_not_left"), 1);

    dialogue.receives(&subscribe(&[("watch1", "watch3"), ("tag=ue1", "tag=ue3")]));
    dialogue.replies_with(200);
    let notify = dialogue.requests("NOTIFY", PCSCF);
    dialogue.answers_request(&notify, 200);
    dialogue.receives(&register(&[
        ("CSeq: 25", "CSeq: 27"),
        ("\"no\"", "\"yes\""),
        ("expires=600000", "expires=0"),
    ]));
    let received = dialogue.asks();
    dialogue.wait(std::time::Duration::from_secs(1));
    dialogue.asks_nothing();
    dialogue.answers(received, common::cx::Answer::Saa(empty_saa(Outcome::SUCCESS)));
    dialogue.replies_with(200);
    assert_eq!(dialogue.registrations(), 0);
    dialogue.rests();
}

/// TS 23.380 §4.4: who watched the other S-CSCF is told by this one, in the same dialog, with a full
/// document first; also after a restart.
#[test]
fn watchers_go_on() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&reselected(27));
    dialogue.asks_sar(NoAssignment, Saa { restoration: vec![watched()], ..saa(&profile(IMPI)) });
    dialogue.requests_nothing();
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    let told = [dialogue.requests("NOTIFY", PCSCF), dialogue.requests("NOTIFY", PCSCF)];
    let of = |call_id: &str| told.iter().find(|notify| notify.call_id() == call_id).unwrap();
    let ue = of("watch1");
    assert_eq!(ue.uri(), "sip:10.133.202.46:5064");
    assert_eq!(ue.headers().get(Name::Route), Some("<sip:mo@pcscf1.vims.net;lr>"));
    assert_eq!(ue.headers().get(Name::From), Some("<sip:name@hims.net>;tag=s1"));
    assert_eq!(ue.headers().get(Name::To), Some("<sip:name@hims.net>;tag=ue1"));
    assert_eq!(ue.headers().get(Name::Contact), Some("<sip:scscf1.hims.net>"));
    assert!(u64::from(ue.cseq()) > NOW_SECONDS, "behind all that the dialog has seen");
    let document = |notify: &Request| RegInfo::parse(notify.body()).unwrap();
    let first = document(ue);
    assert!(first.is_full && u64::from(first.version) >= NOW_SECONDS, "{first:?}");
    assert_eq!(of("watch2").uri(), "sip:pcscf1.vims.net");
    assert!(!of("watch2").headers().has(Name::Route));
    told.iter().for_each(|notify| dialogue.answers_request(notify, 200));

    dialogue.restart();
    dialogue.receives(&refresh(28));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    let again = [dialogue.requests("NOTIFY", PCSCF), dialogue.requests("NOTIFY", PCSCF)];
    let ue = again.iter().find(|notify| notify.call_id() == "watch1").unwrap();
    assert_eq!(document(ue).version, first.version + 1);
}

/// TS 23.380 §4.2: an old REGISTER, or one whose registration has run out, restores nothing.
#[test]
fn old_news() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&reselected(26));
    dialogue
        .asks_sar(NoAssignment, Saa { restoration: vec![own_contact()], ..saa(&profile(IMPI)) });
    dialogue.replies_with(500);

    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&reselected(27));
    let expired =
        ScscfRestorationInfo { registration_time_out: Some(NOW_SECONDS), ..own_contact() };
    dialogue.asks_sar(NoAssignment, Saa { restoration: vec![expired], ..saa(&profile(IMPI)) });
    dialogue.replies_with(500);
    assert_eq!(dialogue.counter("tessera_scscf_restorations_total", "nothing_left"), 1);
}

/// TS 23.380 §4.2: the REGISTER on which the other S-CSCF failed, its SAR sent and its 200 not, is accepted
/// here: the UE has no other one to send.
#[test]
fn the_register_that_the_other_one_failed_on() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&reselected(26));
    let left = ScscfRestorationInfo {
        registration_time_out: Some(NOW_SECONDS + 599_998),
        ..own_contact()
    };
    dialogue.asks_sar(NoAssignment, Saa { restoration: vec![left], ..saa(&profile(IMPI)) });
    let sar = dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(sar.restoration.unwrap().contacts[0].cseq, Some(26));
    assert_eq!(contacts(&dialogue.replies_with(200)).len(), 1);
    assert_eq!(dialogue.registrations(), 1);
    dialogue.rests();
}

/// TS 23.380 §4.2, TS 29.229 §6.3.46: the same with contacts that end at different times, of which only the
/// last end was left: its own, or that of another REGISTER. Long ago is not accepted.
#[test]
fn contacts_that_end_at_different_times() {
    let two = "Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip;expires=600000, \
        <sip:b@10.133.202.46:5064>;expires=7000";
    let one = "Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip;expires=600000";
    for (end, status) in [(599_998, 200), (700_000, 200), (599_000, 500)] {
        let mut left = own_contact();
        let mut second = left.contacts[0].clone();
        second.contact = "<sip:b@10.133.202.46:5064>".to_owned();
        left.contacts.push(second);
        left.registration_time_out = Some(NOW_SECONDS + end);
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(&changed(&reselected(26), &[(one, two)]));
        dialogue.asks_sar(NoAssignment, Saa { restoration: vec![left], ..saa(&profile(IMPI)) });
        if status == 200 {
            dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
        }
        let response = dialogue.replies_with(status);
        assert_eq!(contacts(&response).len(), if status == 200 { 2 } else { 0 });
        dialogue.rests();
    }
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

/// TS 24.229 §5.3.1.3: an S-CSCF that was away while another one had the user does not believe what it has
/// stored: the UE has another contact, and its watchers have gone on.
#[test]
fn what_is_older_than_a_reselection_is_forgotten() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    watches(&mut dialogue);
    dialogue.wait(std::time::Duration::from_secs(1));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));

    let elsewhere = [("10.133.202.46:5064>", "10.133.202.46:5099>"), ("ababab", "another")];
    dialogue.receives(&changed(&reselected(12), &elsewhere));
    let mut now = left(IMPI, "<sip:10.133.202.46:5099>;+g.3gpp.smsip", 11);
    now.contacts[0].call_id = Some("another".to_owned());
    dialogue.asks_sar(NoAssignment, Saa { restoration: vec![now], ..saa(&profile(IMPI)) });
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    let response = dialogue.replies_with(200);
    assert_eq!(contacts(&response).len(), 1, "{response:?}");
    dialogue.requests_nothing();
    assert_eq!(dialogue.registrations(), 1);
    dialogue.rests();
}

/// TS 23.380 §4, TS 29.229 §6.2.2.5: and when nobody comes, time ends what is left here, of which nobody else is told;
/// but an HSS that is unable to comply has said nothing of another S-CSCF.
#[test]
fn a_user_who_moved_away_ends_in_silence() {
    for (outcome, is_elsewhere) in
        [(Outcome::IDENTITY_ALREADY_REGISTERED, true), (Outcome::UNABLE_TO_COMPLY, false)]
    {
        let mut config = config();
        config.registration.restoration = false;
        let mut dialogue = Dialogue::new(config);
        dialogue.registered();
        dialogue.wait(std::time::Duration::from_secs(10));
        watches(&mut dialogue);
        dialogue.wait(std::time::Duration::from_secs(599_989));
        dialogue.asks_nothing();
        dialogue.wait(std::time::Duration::from_secs(1));
        dialogue.asks_sar(TimeoutDeregistration, empty_saa(outcome));
        if !is_elsewhere {
            // A fault of the HSS: the registration has ended here, and is told again.
            let notify = dialogue.requests("NOTIFY", PCSCF);
            dialogue.answers_request(&notify, 200);
            dialogue.wait(std::time::Duration::from_secs(60));
            dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
        }
        dialogue.requests_nothing();
        assert_eq!(dialogue.registrations(), 0);
        assert!(dialogue.store.is_empty(), "{:?}", dialogue.store);
    }
}

/// TS 24.229 §5.4.8.2: an emergency registration beside the normal one does not come back with the time of that one.
#[test]
fn an_emergency_contact_keeps_its_limit() {
    let mut dialogue = Dialogue::new(config());
    let mut both = own_contact();
    both.contacts.extend(left(IMPI, "<sip:10.133.202.46:5070;sos>", 3).contacts);
    dialogue.receives(&reselected(27));
    dialogue.asks_sar(NoAssignment, Saa { restoration: vec![both], ..saa(&profile(IMPI)) });
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    dialogue.command(&["show", IMPU]);
    let text = dialogue.replied_text();
    assert!(text.contains("5070;sos> for 1800 s"), "{text}");
}
