//! GRUUs (TS 24.229 §5.4.7A, RFC 5627, RFC 5628): dialogues with the core alone.

mod dialogue;

use std::time::Duration;

use common::cx::Outcome;
use common::cx::sar::ServerAssignmentType::{ReRegistration, Registration, TimeoutDeregistration};
use common::reginfo::RegInfo;
use common::sip::address::Address;
use common::sip::header::Name;
use common::sip::message::Response;
use dialogue::*;

const CONTACT: &str = "Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip";
const WITH_IMEI: &str = "Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip;+sip.instance=\"<urn:gsma:imei:35209900-176148-0>\"";
const SUPPORTED: (&str, &str) = ("Supported: path", "Supported: path, gruu");

fn asking() -> [(&'static str, &'static str); 2] {
    [(CONTACT, WITH_IMEI), SUPPORTED]
}

/// The two GRUUs of the only contact.
fn gruus(response: &Response) -> Option<(String, String)> {
    let contacts = contacts(response);
    assert_eq!(contacts.len(), 1);
    let contact = Address::parse(&contacts[0]).unwrap();
    let value = |name: &str| contact.parameter(name).map(|text| text.trim_matches('"').to_owned());
    Some((value("pub-gruu")?, value("temp-gruu")?))
}

fn registered(dialogue: &mut Dialogue) -> (String, String) {
    let (challenge, vector) = dialogue.challenged(&register(&asking()));
    dialogue.receives(&answered(&challenge, &vector, 26, &asking()));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    gruus(&dialogue.replies_with(200)).expect("GRUUs")
}

/// A refresh: with a CSeq, and a Call-ID.
fn refreshed(dialogue: &mut Dialogue, cseq: &str, call_id: &str) -> Response {
    let more = [("CSeq: 25", cseq), ("\"no\"", "\"yes\""), ("Call-ID: ababab", call_id)];
    let changes: Vec<_> = asking().into_iter().chain(more).collect();
    dialogue.receives(&register(&changes));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200)
}

fn status_for(dialogue: &mut Dialogue, uri: &str) -> u16 {
    let changes = [("REGISTER sip:scscf1.hims.net", format!("MESSAGE {uri}"))];
    let changes: Vec<_> = changes.iter().map(|(from, to)| (*from, to.as_str())).collect();
    let text = changed(&register(&changes), &[("CSeq: 25 REGISTER", "CSeq: 1 MESSAGE")]);
    dialogue.receives(&text);
    dialogue.replies().status()
}

/// TS 24.229 §5.4.7A, §5.4.7A.1, §5.4.7A.2, §5.4.7A.3, §5.4.7A.4; RFC 5627 §5, §5.2, §5.4, §A.2: S-126: both, in pairs;
/// the public one stays, the temporary one does not, and those of before stay good for as long as the
/// Call-ID does.
#[test]
fn hands_out_pairs() {
    let mut dialogue = Dialogue::new(config());
    let (public, first) = registered(&mut dialogue);
    assert!(public.starts_with("sip:name@hims.net;gr=urn:uuid:"), "{public}");
    assert!(first.starts_with("sip:tgruu.") && first.ends_with("@hims.net;gr"), "{first}");
    let (again, second) =
        gruus(&refreshed(&mut dialogue, "CSeq: 27", "Call-ID: ababab")).expect("GRUUs");
    assert_eq!(again, public);
    assert_ne!(second, first);
    for uri in [&public, &first, &second] {
        assert_eq!(status_for(&mut dialogue, uri), 480, "{uri}");
    }
    // RFC 5627 §5.1: another Call-ID: only what is new is good.
    let (public, third) =
        gruus(&refreshed(&mut dialogue, "CSeq: 28", "Call-ID: another")).expect("GRUUs");
    for (uri, status) in [(&public, 480), (&first, 404), (&second, 404), (&third, 480)] {
        assert_eq!(status_for(&mut dialogue, uri), status, "{uri}");
    }
    let forged = third.replace("tgruu.", "tgruu.A");
    assert_eq!(status_for(&mut dialogue, &forged), 404);
    // They are good behind a restart, and over when the contact is.
    dialogue.restart();
    assert_eq!(status_for(&mut dialogue, &third), 480);
    let (_, fourth) =
        gruus(&refreshed(&mut dialogue, "CSeq: 29", "Call-ID: another")).expect("GRUUs");
    assert_eq!(status_for(&mut dialogue, &third), 480);
    dialogue.wait(Duration::from_secs(600_001));
    dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(status_for(&mut dialogue, &fourth), 404);
    assert_eq!(status_for(&mut dialogue, &third), 404);
}

/// RFC 5627 §5.1: for those who take them and have an instance; never when switched off.
#[test]
fn not_unasked() {
    let mut off = config();
    off.registration.gruu = false;
    for (config, changes) in [
        (config(), &[SUPPORTED][..]),
        (config(), &[(CONTACT, WITH_IMEI)][..]),
        (off, &asking()[..]),
    ] {
        let mut dialogue = Dialogue::new(config);
        let (challenge, vector) = dialogue.challenged(&register(changes));
        dialogue.receives(&answered(&challenge, &vector, 26, changes));
        dialogue.asks_sar(Registration, saa(&profile(IMPI)));
        assert_eq!(gruus(&dialogue.replies_with(200)), None);
        assert!(dialogue.store.keys().all(|(kind, _)| kind == "registration"));
    }
}

/// RFC 5627 §4.1: a UE may insist.
#[test]
fn may_be_required() {
    let mut dialogue = Dialogue::new(config());
    let changes = [(CONTACT, WITH_IMEI), ("Require: path", "Require: path, gruu")];
    let (challenge, vector) = dialogue.challenged(&register(&changes));
    dialogue.receives(&answered(&challenge, &vector, 26, &changes));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    assert!(gruus(&dialogue.replies_with(200)).is_some());
}

/// RFC 5627 §5.1: a contact that leads back to the registrar is 403.
#[test]
fn refuses_a_gruu_as_contact() {
    let mut dialogue = Dialogue::new(config());
    let contact = "<sip:name@hims.net;gr=urn:uuid:1>";
    dialogue.receives(&register(&[("<sip:10.133.202.46:5064>", contact)]));
    dialogue.replies_with(403);
    assert_eq!(dialogue.registers("contact_leads_back"), 1);
    dialogue.rests();
}

/// RFC 5628 §5: whoever watches reads them, without having asked for GRUUs; of the contact that has them, and in documents
/// about changes as well.
#[test]
fn gruus_stand_with_their_contact() {
    let mut config = config();
    config.reg_event.documents = scscf::config::Documents::Partial;
    let mut dialogue = Dialogue::new(config);
    let (public, temporary) = registered(&mut dialogue);
    dialogue.registered_second(&profile(SECOND), &[]);
    for text in [subscribe(&[]), subscribe(&OF_PCSCF)] {
        dialogue.receives(&text);
        dialogue.replies_with(200);
        let notify = dialogue.requests("NOTIFY", PCSCF);
        dialogue.answers_request(&notify, 200);
        let info = RegInfo::parse(notify.body()).expect("a document");
        let of = info.registrations.iter().find(|one| one.aor == IMPU).unwrap();
        assert_eq!(of.contacts.len(), 2);
        for contact in &of.contacts {
            let has = contact.uri == "sip:10.133.202.46:5064";
            assert_eq!(contact.public_gruu.as_ref(), has.then_some(&public), "{contact:?}");
            let expected = has.then(|| (temporary.clone(), 26));
            assert_eq!(contact.temporary_gruu, expected, "{contact:?}");
        }
    }
    refreshed(&mut dialogue, "CSeq: 27", "Call-ID: another");
    for _ in 0..2 {
        let notify = dialogue.requests("NOTIFY", PCSCF);
        let info = RegInfo::parse(notify.body()).expect("a document");
        assert!(!info.is_full);
        let all = info.registrations.iter().flat_map(|one| &one.contacts);
        let told: Vec<_> = all.filter_map(|contact| contact.temporary_gruu.clone()).collect();
        let [(told, 27)] = &told[..] else { panic!("{told:?}") };
        assert!(told.starts_with("sip:tgruu.") && *told != temporary, "{told}");
    }
}

/// RFC 5628 §5: watchers read both, and since when temporary ones are good.
#[test]
fn watchers_are_told() {
    let mut dialogue = Dialogue::new(config());
    let (public, _) = registered(&mut dialogue);
    let response = refreshed(&mut dialogue, "CSeq: 27", "Call-ID: ababab");
    let (_, temporary) = gruus(&response).expect("GRUUs");
    dialogue.receives(&subscribe(&[]));
    dialogue.replies_with(200);
    let notify = dialogue.requests("NOTIFY", PCSCF);
    assert!(notify.headers().has(Name::SubscriptionState));
    let info = RegInfo::parse(notify.body()).expect("a document");
    let of = |aor: &str| {
        let registration = info.registrations.iter().find(|one| one.aor == aor).unwrap();
        registration.contacts[0].clone()
    };
    let contact = of(IMPU);
    assert_eq!(contact.public_gruu.as_deref(), Some(public.as_str()));
    assert_eq!(contact.temporary_gruu, Some((temporary, 26)));
    assert_eq!(of("tel:+11234567890").public_gruu, None, "a number has none");
}
