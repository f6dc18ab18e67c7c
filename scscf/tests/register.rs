//! Registration at the S-CSCF (TS 24.229 §5.4.1.2): dialogues with the core alone.

mod dialogue;

use std::time::Duration;

use bytes::Bytes;
use common::cx::sar::ServerAssignmentType::{
    AdministrativeDeregistration, AuthenticationFailure, AuthenticationTimeout,
    DeregistrationTooMuchData, ReRegistration, Registration, TimeoutDeregistration,
};
use common::cx::{Answer, ChargingInformation, Outcome, Saa};
use common::node::{Input, Node};
use common::sip::header::Name;
use dialogue::*;
use scscf::config::Reauthenticate;

/// TS 24.229 §5.4.1.2.2: S-93, S-94, S-95, S-96, S-97: the second REGISTER of the mission: SAR with
/// REGISTRATION, then the 200 with everything that is in it.
#[test]
fn registers() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    assert!(dialogue.sent.is_empty(), "the 200 waits for the HSS");
    let sar = dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    assert_eq!(sar.user_name.as_deref(), Some(IMPI));
    assert_eq!(sar.public_identities, [IMPU]);
    assert!(!sar.user_data_already_available);

    let response = dialogue.replies_with(200);
    let headers = response.headers();
    assert_eq!(contacts(&response), ["<sip:10.133.202.46:5064>;+g.3gpp.smsip;expires=600000"]);
    assert_eq!(headers.get(Name::ServiceRoute), Some("<sip:orig@scscf1.hims.net;lr>"));
    assert_eq!(headers.get(Name::Path), Some("<sip:term@pcscf1.vims.net;lr>"));
    let listed: Vec<_> = headers.values(Name::PAssociatedUri).collect();
    assert_eq!(listed, ["<sip:name@hims.net>", "<tel:+11234567890>"]);
    let vector = headers.get(Name::PChargingVector).unwrap();
    assert_eq!(
        vector,
        "icid-value=\"icid1\";orig-ioi=\"Type 1vims.net\";term-ioi=\"Type 1hims.net\""
    );
    assert!(!headers.has(Name::PChargingFunctionAddresses));
    assert_eq!(headers.values(Name::Via).count(), 3);
    assert_eq!(dialogue.registrations(), 1);
    assert_eq!(dialogue.registers("registered"), 1);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.2: it is on disk before the 200 leaves.
#[test]
fn stores_before_it_answers() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    assert!(dialogue.store.is_empty());
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    assert_eq!(dialogue.trace, ["answer", "record", "answer"]);
    let keys: Vec<_> = dialogue.store.keys().cloned().collect();
    let key = format!("{IMPI} sip:temporary.{IMPI}");
    assert_eq!(keys, [("registration".to_owned(), key)]);
}

/// TS 24.229 §5.4.1.2.2: S-106: a refresh over the associations: no MAR, RE_REGISTRATION, profile at
/// hand. The old response is not looked at.
#[test]
fn refreshes_without_a_challenge() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.wait(Duration::from_secs(100));
    let old = |cseq: &str| {
        register(&[
            ("CSeq: 25", cseq),
            ("nonce=\"\"", "nonce=\"b2xkbm9uY2U=\""),
            ("response=\"\"", "response=\"0123\""),
            ("\"no\"", "\"yes\""),
            ("expires=600000", "expires=7000"),
        ])
    };
    dialogue.receives(&old("CSeq: 27"));
    let sar = dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    assert!(sar.user_data_already_available);
    let response = dialogue.replies_with(200);
    assert_eq!(contacts(&response), ["<sip:10.133.202.46:5064>;+g.3gpp.smsip;expires=7000"]);
    assert_eq!(response.headers().values(Name::PAssociatedUri).count(), 2);
    assert_eq!(dialogue.registers("refreshed"), 1);
}

/// TS 29.228 §6.1.2.1: later questions go to the HSS that answered.
#[test]
fn remembers_the_hss() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    assert!(dialogue.store.values().next().unwrap().contains("hss1.hims.net"));
}

/// TS 24.229 §5.4.1.2.2: policies of re-authentication.
#[test]
fn reauthenticates_by_policy() {
    let refresh =
        |cseq: u32| register(&[("CSeq: 25", &format!("CSeq: {cseq}")), ("\"no\"", "\"yes\"")]);
    let mut always = config();
    always.registration.reauthenticate = Reauthenticate::Always;
    let mut dialogue = Dialogue::new(always);
    dialogue.registered();
    let (challenge, vector) = dialogue.challenged(&refresh(27));
    dialogue.receives(&answered(&challenge, &vector, 28, &[]));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);

    let mut every = config();
    every.registration.reauthenticate = Reauthenticate::Every(2);
    let mut dialogue = Dialogue::new(every);
    dialogue.registered();
    for cseq in [27, 28] {
        dialogue.receives(&refresh(cseq));
        dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
        dialogue.replies_with(200);
    }
    dialogue.challenged(&refresh(29));
}

/// TS 24.229 §5.4.1.2.3: a re-authentication that fails, or is not answered, leaves the binding; tries are limited,
/// each with a vector of its own, and the next refresh is challenged again.
#[test]
fn a_failed_reauthentication_leaves_the_binding() {
    let refresh =
        |cseq: u32| register(&[("CSeq: 25", &format!("CSeq: {cseq}")), ("\"no\"", "\"yes\"")]);
    for tries in [1, 2] {
        for policy in [Reauthenticate::Always, Reauthenticate::Every(1), Reauthenticate::Never] {
            let mut config = config();
            config.registration.reauthenticate = policy;
            config.registration.wrong_responses_max = tries;
            let mut dialogue = Dialogue::new(config);
            dialogue.registered();
            let mut cseq = 27;
            match policy {
                Reauthenticate::Always => {}
                Reauthenticate::Every(_) => {
                    dialogue.receives(&refresh(cseq));
                    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
                    dialogue.replies_with(200);
                }
                Reauthenticate::Never => {
                    dialogue.command(&["reauthenticate", IMPI]);
                    dialogue.replied_text();
                }
            }
            let before = dialogue.store.clone();
            cseq += 1;
            let (mut challenge, mut vector) = dialogue.challenged(&refresh(cseq));
            for left in (0..tries).rev() {
                let mut wrong = credentials(IMPI, &challenge, &vector);
                wrong.set("response", "0123456789abcdef0123456789abcdef");
                cseq += 1;
                let text = with_credentials(&wrong, cseq, &[]);
                if left > 0 {
                    let nonce = challenge.get("nonce").map(str::to_owned);
                    (challenge, vector) = dialogue.challenged(&text);
                    assert_ne!(challenge.get("nonce"), nonce.as_deref());
                } else {
                    dialogue.receives(&text);
                    dialogue.replies_with(403);
                }
            }
            dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
            assert_eq!(dialogue.registers("wrong_response"), 1);
            assert_eq!(dialogue.store, before, "{policy:?}");
            // Not answered at all.
            dialogue.challenged(&refresh(cseq + 1));
            dialogue.wait(Duration::from_secs(241));
            dialogue.asks_sar(AuthenticationTimeout, empty_saa(Outcome::SUCCESS));
            assert_eq!(dialogue.store, before);
            let (challenge, vector) = dialogue.challenged(&refresh(cseq + 2));
            dialogue.receives(&answered(&challenge, &vector, cseq + 3, &[]));
            dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
            dialogue.replies_with(200);
            dialogue.rests();
        }
    }
}

/// TS 24.229 §5.4.1.2.1: S-120: an unprotected REGISTER of a registered user is a new initial
/// registration; the binding stays until it succeeds.
#[test]
fn an_unprotected_register_leaves_the_binding() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let before = dialogue.store.clone();
    let again = register(&[("ababab", "other"), ("10.133.202.46:5064", "10.133.202.46:5070")]);
    let (challenge, vector) = dialogue.challenged(&again);
    assert_eq!(dialogue.store, before);
    let text = answered(
        &challenge,
        &vector,
        26,
        &[("ababab", "other"), ("10.133.202.46:5064", "10.133.202.46:5070")],
    );
    dialogue.receives(&text);
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    // Without reg-id the new contact replaces the old one.
    let response = dialogue.replies_with(200);
    assert_eq!(contacts(&response), ["<sip:10.133.202.46:5070>;+g.3gpp.smsip;expires=600000"]);
    assert_eq!(dialogue.registrations(), 1);
}

/// RFC 3261 §10.3: S-133: too brief an interval is refused before a vector or an assignment is
/// spent, and touches no binding. A longer one than the maximum is shortened; none is the default.
#[test]
fn intervals() {
    let mut config = config();
    config.registration.expires_max_seconds = 7_200;
    let mut dialogue = Dialogue::new(config);
    dialogue.receives(&register(&[("expires=600000", "expires=59")]));
    let response = dialogue.replies_with(423);
    assert_eq!(response.headers().get(Name::MinExpires), Some("60"));
    dialogue.asks_nothing();
    let response = dialogue.registered();
    assert!(contacts(&response)[0].ends_with(";expires=7200"));
    let before = dialogue.store.clone();
    dialogue.receives(&register(&[
        ("CSeq: 25", "CSeq: 30"),
        ("\"no\"", "\"yes\""),
        ("expires=600000", "expires=1"),
    ]));
    dialogue.replies_with(423);
    dialogue.asks_nothing();
    assert_eq!(dialogue.store, before);
    for (contact, header, granted) in [
        ("", "", "3600"),
        ("", "Expires: 900\r\n", "900"),
        (";expires=700", "Expires: 900\r\n", "700"),
    ] {
        let number = format!("CSeq: {}", 40 + granted.len() + contact.len());
        let text = register(&[
            ("CSeq: 25", &number),
            ("ababab", &format!("c{granted}")),
            ("\"no\"", "\"yes\""),
            (";expires=600000", contact),
            ("Content-Length", &format!("{header}Content-Length")),
        ]);
        dialogue.receives(&text);
        dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
        let response = dialogue.replies_with(200);
        assert!(contacts(&response)[0].ends_with(&format!(";expires={granted}")));
    }
}

/// RFC 3261 §10.3: S-14, S-136: foreign domains, unknown extensions, unreadable headers.
#[test]
fn refuses_what_needs_no_hss() {
    let cases = [
        (("REGISTER sip:scscf1.hims.net", "REGISTER sip:other.net"), 404),
        (("To: <sip:name@hims.net>", "To: <sip:name@other.net>"), 404),
        (("Require: path", "Require: path, sec-agree, x-foo"), 420),
        (("Contact: <sip:10.133.202.46:5064>", "Contact: <sip:10.133"), 400),
        (("username=\"name.private@hims.net\"", "username=\"\""), 400),
        (("Authorization: Digest ", "Authorization: Digest username=\"x\","), 400),
    ];
    for (change, status) in cases {
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(&register(&[change]));
        let response = dialogue.replies_with(status);
        if status == 420 {
            let unsupported: Vec<_> = response.headers().values(Name::Unsupported).collect();
            assert_eq!(unsupported, ["sec-agree", "x-foo"]);
        }
        dialogue.rests();
    }
}

/// RFC 3261 §10.3: a REGISTER that is not newer than the one that made the binding changes nothing.
#[test]
fn refuses_an_older_register() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let before = dialogue.store.clone();
    dialogue.receives(&register(&[
        ("CSeq: 25", "CSeq: 26"),
        ("\"no\"", "\"yes\""),
        ("expires=600000", "expires=70"),
    ]));
    dialogue.replies_with(500);
    assert_eq!(dialogue.registers("out_of_order"), 1);
    assert_eq!(dialogue.store, before);
    dialogue.rests();
}

/// A P-CSCF that died has forgotten that its refresh was answered: the same one gets the answer again, for as
/// long as the UE may wait for it; nothing is stored, and the HSS is not asked.
#[test]
fn a_repeated_register_is_answered_again() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let refresh = [("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\"")];
    dialogue.receives(&register(&refresh));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    let before = dialogue.store.clone();
    let again = [refresh[0], refresh[1], ("z9hG4bK", "z9hG4bKagain")];
    dialogue.wait(Duration::from_secs(20));
    dialogue.receives(&register(&again));
    let response = dialogue.replies_with(200);
    assert_eq!(contacts(&response).len(), 1);
    assert_eq!(dialogue.registers("repeated"), 1);
    assert_eq!(dialogue.store, before);
    dialogue.asks_nothing();
    dialogue.wait(Duration::from_secs(120));
    dialogue.receives(&register(&[again[0], again[1], ("z9hG4bK", "z9hG4bKlate")]));
    dialogue.replies_with(500);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.2: S-134: protected, but unknown here: 500 makes the UE begin anew.
#[test]
fn protected_and_unknown_is_500() {
    let mut config = config();
    config.registration.restoration = false;
    let mut dialogue = Dialogue::new(config);
    dialogue.receives(&register(&[("\"no\"", "\"yes\"")]));
    dialogue.replies_with(500);
    assert_eq!(dialogue.registers("not_registered_here"), 1);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.2: protected and unchallenged, only a contact that is bound can be refreshed.
#[test]
fn an_unknown_contact_needs_a_challenge() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.receives(&register(&[
        ("CSeq: 25", "CSeq: 27"),
        ("\"no\"", "\"yes\""),
        ("46:5064", "46:5099"),
    ]));
    dialogue.replies_with(403);
    assert_eq!(dialogue.registers("contact_not_registered"), 1);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.2: a further public identity of a registered user is challenged.
#[test]
fn a_further_identity_is_challenged() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let other = [("sip:name@hims.net", "sip:work@hims.net"), ("ababab", "work")];
    let (challenge, vector) =
        dialogue.challenged(&register(&[other[0], other[1], ("\"no\"", "\"yes\"")]));
    dialogue.receives(&answered(&challenge, &vector, 26, &other));
    dialogue.asks_sar(Registration, saa(&set(IMPI, &[("sip:work@hims.net", false)])));
    dialogue.replies_with(200);
    assert_eq!(dialogue.registrations(), 2);
}

/// TS 24.229 §5.4.1.2.2: of contacts at different addresses the one with the highest q is bound;
/// contacts at one address all are.
#[test]
fn several_contacts() {
    let bound = |contacts_text: &str| {
        let mut dialogue = Dialogue::new(config());
        let change =
            ("Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip;expires=600000", contacts_text);
        let (challenge, vector) = dialogue.challenged(&register(&[change]));
        dialogue.receives(&answered(&challenge, &vector, 26, &[change]));
        dialogue.asks_sar(Registration, saa(&profile(IMPI)));
        contacts(&dialogue.replies_with(200))
    };
    assert_eq!(
        bound("Contact: <sip:a@10.0.0.1>;q=0.4;expires=600, <sip:a@10.0.0.2>;q=0.7;expires=600"),
        ["<sip:a@10.0.0.2>;q=0.7;expires=600"]
    );
    assert_eq!(
        bound("Contact: <sip:a@10.0.0.1>;expires=600\r\nm: <sip:b@10.0.0.1>;expires=700"),
        ["<sip:a@10.0.0.1>;expires=600", "<sip:b@10.0.0.1>;expires=700"]
    );
}

/// RFC 5626 §6: flows of one instance stand side by side, each replaced by its own number; more
/// than there may be are 403; without `ob` in the Path of the first hop: 439.
#[test]
fn flows() {
    let mut config = config();
    config.registration.flows_max = 2;
    config.registration.reauthenticate = Reauthenticate::Always;
    let mut dialogue = Dialogue::new(config);
    let flow = |port: u16, reg_id: u8| {
        format!(
            "<sip:10.133.202.46:{port}>;+sip.instance=\"<urn:gsma:imei:35209900-176148-0>\";reg-id={reg_id}"
        )
    };
    let path = ("<sip:term@pcscf1.vims.net;lr>", "<sip:term@pcscf1.vims.net;lr;ob>");
    let outbound = ("Supported: path", "Supported: path, outbound");
    let mut attempt = |port, reg_id, call_id: &str, kind| {
        let contact = flow(port, reg_id);
        let changes =
            [("<sip:10.133.202.46:5064>", contact.as_str()), path, outbound, ("ababab", call_id)];
        let (challenge, vector) = dialogue.challenged(&register(&changes));
        dialogue.receives(&answered(&challenge, &vector, 26, &changes));
        dialogue.asks_sar(kind, saa(&profile(IMPI)));
        let response = dialogue.replies_with(200);
        assert!(response.headers().has_token(Name::Require, "outbound"));
        contacts(&response).len()
    };
    assert_eq!(attempt(5064, 1, "one", Registration), 1);
    assert_eq!(attempt(5066, 2, "two", ReRegistration), 2);
    assert_eq!(attempt(5068, 1, "three", ReRegistration), 2);

    let contact = flow(5070, 3);
    let changes =
        [("<sip:10.133.202.46:5064>", contact.as_str()), path, outbound, ("ababab", "four")];
    dialogue.receives(&register(&changes));
    dialogue.replies_with(403);
    assert_eq!(dialogue.registers("too_many_flows"), 1);
    let changes = [("<sip:10.133.202.46:5064>", contact.as_str()), outbound];
    dialogue.receives(&register(&changes));
    dialogue.replies_with(439);
    dialogue.rests();
}

/// RFC 5626 §6: reg-id alone, from a UE that does not say `outbound`, is a parameter as any other: no flow, and the
/// next contact takes its place.
#[test]
fn reg_id_without_outbound() {
    let mut dialogue = Dialogue::new(config());
    for (port, kind) in [("5064", Registration), ("5066", ReRegistration)] {
        let contact =
            format!("10.133.202.46:{port}>;+sip.instance=\"<urn:x>\";reg-id={}", &port[3..]);
        let changes = [("10.133.202.46:5064>", contact.as_str()), ("ababab", port)];
        let (challenge, vector) = dialogue.challenged(&register(&changes));
        dialogue.receives(&answered(&challenge, &vector, 26, &changes));
        dialogue.asks_sar(kind, saa(&profile(IMPI)));
        let response = dialogue.replies_with(200);
        assert!(!response.headers().has_token(Name::Require, "outbound"));
        let contacts = contacts(&response);
        assert_eq!(contacts.len(), 1);
        assert!(contacts[0].contains(port) && contacts[0].contains("reg-id="), "{contacts:?}");
    }
}

/// RFC 5627 §4.1, RFC 3327 §5.3: GRUUs that a UE writes into Contact are none of ours; every Path is kept, in order, and
/// comes back in the answer.
#[test]
fn what_is_kept_of_a_register() {
    const PATHS: &str = "<sip:ibcf.hims.net;lr>, <sip:term@pcscf1.vims.net;lr>";
    let mut dialogue = Dialogue::new(config());
    let forged = "46:5064>;pub-gruu=\"sip:x;gr\";temp-gruu=\"sip:y;gr\"";
    let changes = [("46:5064>", forged), ("<sip:term@pcscf1.vims.net;lr>", PATHS)];
    let (challenge, vector) = dialogue.challenged(&register(&changes));
    dialogue.receives(&answered(&challenge, &vector, 26, &changes));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    let response = dialogue.replies_with(200);
    assert!(!contacts(&response)[0].contains("gruu"));
    let paths: Vec<_> = response.headers().values(Name::Path).collect();
    assert_eq!(paths.join(", "), PATHS);
    let record = dialogue.store.values().next().unwrap();
    let first = record.find("ibcf.hims.net").expect("the first Path is stored");
    assert!(first < record.find("term@pcscf1").expect("and the second"), "{record}");
    assert!(!record.contains("gruu=\\\"sip:x"), "{record}");
}

/// Invariant I8: no more challenges than there may be registrations; who has one gets another.
#[test]
fn too_many_challenges() {
    let mut config = config();
    config.limits.registrations = 1;
    let mut dialogue = Dialogue::new(config);
    dialogue.challenged(&register(&[]));
    dialogue.receives(&register(&OF_SECOND));
    assert!(dialogue.replies_with(503).headers().has(Name::RetryAfter));
    dialogue.asks_nothing();
    dialogue.challenged(&register(&[("ababab", "again")]));
}

/// RFC 3261 §10.3: S-104: a REGISTER without Contact lists what is bound and changes nothing.
#[test]
fn fetches() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let before = dialogue.store.clone();
    let contact = "Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip;expires=600000\r\n";
    dialogue.receives(&register(&[("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\""), (contact, "")]));
    let response = dialogue.replies_with(200);
    assert_eq!(contacts(&response).len(), 1);
    assert_eq!(dialogue.store, before);
    dialogue.rests();
}

/// TS 29.228 §6.1.2.1: what the SAA says when it says no.
#[test]
fn maps_refusals_of_the_assignment() {
    for (outcome, status) in [
        (Outcome::USER_UNKNOWN, 403),
        (Outcome::IDENTITIES_DONT_MATCH, 403),
        (Outcome::IDENTITY_ALREADY_REGISTERED, 480),
        (Outcome::AUTHORIZATION_REJECTED, 403),
        (Outcome::IN_ASSIGNMENT_TYPE, 403),
        (Outcome::UNABLE_TO_COMPLY, 500),
        (Outcome::IDENTITY_NOT_REGISTERED, 500),
        (Outcome::ROAMING_NOT_ALLOWED, 500),
        (Outcome::TOO_MUCH_DATA, 500),
        (Outcome::NOT_SUPPORTED_USER_DATA, 500),
        (Outcome::Experimental(5011), 500),
        (Outcome::Experimental(5012), 500),
        (Outcome::Base(3002), 500),
        (Outcome::Base(3004), 500),
        (Outcome::Base(4001), 500),
        // The same number in the other AVP means another thing.
        (Outcome::Base(5005), 500),
    ] {
        let mut dialogue = Dialogue::new(config());
        let (challenge, vector) = dialogue.challenged(&register(&[]));
        dialogue.receives(&answered(&challenge, &vector, 26, &[]));
        dialogue.asks_sar(Registration, empty_saa(outcome));
        dialogue.replies_with(status);
        assert_eq!(dialogue.registrations(), 0);
        dialogue.rests();
    }
}

/// TS 29.228 §6.1.2.1: an assignment that cannot be used is given back.
#[test]
fn undoes_an_assignment() {
    let unreadable =
        Saa { user_data: Some(Bytes::from_static(b"<x")), ..empty_saa(Outcome::SUCCESS) };
    for (answer, status, undo) in [
        (empty_saa(Outcome::SUCCESS), 500, AdministrativeDeregistration),
        (unreadable, 480, DeregistrationTooMuchData),
        (saa(&set(IMPI, &[(IMPU, true)])), 403, AdministrativeDeregistration),
        (saa(&set(IMPI, &[("sip:other@hims.net", false)])), 403, AdministrativeDeregistration),
    ] {
        let mut dialogue = Dialogue::new(config());
        let (challenge, vector) = dialogue.challenged(&register(&[]));
        dialogue.receives(&answered(&challenge, &vector, 26, &[]));
        dialogue.asks_sar(Registration, answer);
        dialogue.replies_with(status);
        dialogue.asks_sar(undo, empty_saa(Outcome::SUCCESS));
        assert_eq!(dialogue.registrations(), 0);
        assert!(dialogue.store.is_empty());
        dialogue.rests();
    }
}

/// TS 29.228 §6.1.2.1: an HSS that does not hear that an assignment is given back hears it later, also across a
/// restart, or it would have the user registered here for good; one that answers for good is not asked again, and
/// nothing is given back of who has come again.
#[test]
fn an_assignment_that_is_not_taken_back() {
    let too_busy = Outcome::Base(3004);
    for (answer, restarts, is_owed) in [
        (None, false, true),
        (None, true, true),
        (Some(too_busy), false, true),
        (Some(Outcome::UNABLE_TO_COMPLY), false, true),
        (Some(Outcome::USER_UNKNOWN), false, false),
    ] {
        let mut dialogue = Dialogue::new(config());
        let (challenge, vector) = dialogue.challenged(&register(&[]));
        dialogue.receives(&answered(&challenge, &vector, 26, &[]));
        dialogue.is_hss_deaf = answer.is_none();
        dialogue.asks_sar(Registration, empty_saa(Outcome::SUCCESS));
        dialogue.replies_with(500);
        match answer {
            Some(outcome) => {
                dialogue.asks_sar(AdministrativeDeregistration, empty_saa(outcome));
            }
            None => dialogue.wait(Duration::from_secs(5)),
        }
        dialogue.is_hss_deaf = false;
        assert_eq!(dialogue.counter("tessera_scscf_untold_total", ""), 1);
        assert_eq!(dialogue.registrations(), u64::from(is_owed));
        if restarts {
            dialogue.restart();
        }
        dialogue.wait(Duration::from_secs(60));
        if is_owed {
            let sar = dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
            assert_eq!(sar.user_name.as_deref(), Some(IMPI));
            assert_eq!(sar.public_identities, [IMPU]);
        }
        assert!(dialogue.store.is_empty(), "{:?}", dialogue.store);
        dialogue.rests();
    }

    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    dialogue.asks_sar(Registration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(500);
    let undo = dialogue.asks();
    dialogue.registered();
    dialogue.answers(undo, Answer::Saa(empty_saa(too_busy)));
    dialogue.wait(Duration::from_secs(3_600));
    assert_eq!(dialogue.registrations(), 1);
    dialogue.rests();
}

/// TS 29.228 §6.1.2.1: what only waits for the HSS to hear of its end is no profile: a first registration needs one
/// of the HSS.
#[test]
fn an_end_that_is_owed_is_no_profile() {
    let mut dialogue = Dialogue::new(config());
    unanswered(&mut dialogue);
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    let sar = dialogue.asks_sar(Registration, empty_saa(Outcome::SUCCESS));
    assert!(!sar.user_data_already_available);
    dialogue.replies_with(500);
    dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
    dialogue.wait(Duration::from_secs(3_600));
    assert_eq!(dialogue.registrations(), 0);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.2: S-124: the temporary identity is barred: it registers its set and is not
/// among the associated identities.
#[test]
fn registers_through_a_barred_identity() {
    let mut dialogue = Dialogue::new(config());
    let temporary = [("sip:name@hims.net", "sip:001010123456789@hims.net")];
    let (challenge, vector) = dialogue.challenged(&register(&temporary));
    dialogue.receives(&answered(&challenge, &vector, 26, &temporary));
    let data = set(IMPI, &[("sip:001010123456789@hims.net", true), (IMPU, false)]);
    dialogue.asks_sar(Registration, saa(&data));
    let response = dialogue.replies_with(200);
    let listed: Vec<_> = response.headers().values(Name::PAssociatedUri).collect();
    assert_eq!(listed, ["<sip:name@hims.net>"]);
    assert_eq!(contacts(&response).len(), 1);
}

/// RFC 7315 §5.5: charging functions are told to a P-CSCF of the home network only.
#[test]
fn charging_functions_at_home() {
    let mut dialogue = Dialogue::new(config());
    let home = [("P-Visited-Network-ID: \"vims.net\"", "P-Visited-Network-ID: hims.net")];
    let (challenge, vector) = dialogue.challenged(&register(&home));
    dialogue.receives(&answered(&challenge, &vector, 26, &home));
    let charging = ChargingInformation {
        primary_charging_collection: Some("aaa://cdf1.hims.net".to_owned()),
        primary_event_charging: Some("aaa://ocf1.hims.net".to_owned()),
        ..ChargingInformation::default()
    };
    let answer = Saa { charging_information: Some(charging), ..saa(&profile(IMPI)) };
    dialogue.asks_sar(Registration, answer);
    let response = dialogue.replies_with(200);
    assert_eq!(
        response.headers().get(Name::PChargingFunctionAddresses),
        Some("ccf=\"aaa://cdf1.hims.net\";ecf=\"aaa://ocf1.hims.net\"")
    );
}

/// TS 24.229 §5.4.1.2.3: a hung HSS: 504 within what the I-CSCF waits, and the next user's REGISTER
/// is served when it is back.
#[test]
fn hung_hss_is_504() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.is_hss_deaf = true;
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    dialogue.wait(Duration::from_secs(9));
    dialogue.replies_with(504);
    dialogue.receives(&register(&[("ababab", "again")]));
    dialogue.wait(Duration::from_secs(9));
    dialogue.replies_with(504);
    dialogue.is_hss_deaf = false;
    dialogue.rests();
    dialogue.registered();
}

/// The REGISTER that answers a challenge, whose SAR gets no answer.
fn unanswered(dialogue: &mut Dialogue) {
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.is_hss_deaf = true;
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    dialogue.wait(Duration::from_secs(5));
    dialogue.replies_with(504);
    dialogue.is_hss_deaf = false;
}

/// TS 29.228 §6.1.2.1: an HSS that had the SAR of a first registration, and whose answer is lost, hears that
/// nobody is registered, also across a restart; of this private identity alone.
#[test]
fn an_assignment_without_answer_is_taken_back() {
    for restarts in [false, true] {
        let mut dialogue = Dialogue::new(config());
        unanswered(&mut dialogue);
        if restarts {
            dialogue.restart();
        }
        dialogue.wait(Duration::from_secs(60));
        let sar = dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
        assert_eq!(sar.user_name.as_deref(), Some(IMPI));
        assert_eq!(sar.public_identities, [IMPU]);
        assert_eq!(dialogue.registrations(), 0);
        assert!(dialogue.store.is_empty(), "{:?}", dialogue.store);
        dialogue.requests_nothing();
        dialogue.rests();
    }
    let mut dialogue = Dialogue::new(config());
    dialogue.registered_second(&profile(SECOND), &[]);
    unanswered(&mut dialogue);
    dialogue.wait(Duration::from_secs(60));
    let sar = dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(sar.user_name.as_deref(), Some(IMPI));
    assert_eq!(dialogue.registrations(), 1, "the second device");
}

/// TS 29.228 §6.1.2.1: nothing is taken back of who comes again before, of who was registered, or of who may
/// be registered with another S-CSCF.
#[test]
fn what_is_registered_is_not_taken_back() {
    let hour = Duration::from_secs(3_600);
    let mut dialogue = Dialogue::new(config());
    unanswered(&mut dialogue);
    dialogue.registered();
    dialogue.wait(hour);
    assert_eq!(dialogue.registrations(), 1);
    dialogue.requests_nothing();
    dialogue.rests();

    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.is_hss_deaf = true;
    dialogue.receives(&register(&[("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\"")]));
    dialogue.wait(Duration::from_secs(9));
    dialogue.replies_with(504);
    dialogue.is_hss_deaf = false;
    dialogue.wait(hour);
    assert_eq!(dialogue.registrations(), 1);
    dialogue.asks_nothing();

    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.is_hss_deaf = true;
    let text = answered(&challenge, &vector, 26, &[]);
    let line = text.lines().next().unwrap();
    let uri = line.split(' ').nth(1).unwrap();
    let reselected = line.replace(uri, "sip:scscf1.hims.net;scscf-reselection");
    dialogue.receives(&text.replacen(line, &reselected, 1));
    dialogue.wait(Duration::from_secs(9));
    dialogue.replies_with(504);
    dialogue.is_hss_deaf = false;
    dialogue.wait(hour);
    assert_eq!(dialogue.registrations(), 0);
    dialogue.asks_nothing();
}

/// RFC 3261 §21.5.1: REGISTERs of one user wait in a short line; beyond it 500 with Retry-After.
/// One that has waited too long is refused as well.
#[test]
fn one_at_a_time() {
    let mut dialogue = Dialogue::new(config());
    let nth = |n: u32| register(&[("ababab", &format!("call{n}"))]);
    for n in 0..6 {
        dialogue.receives(&nth(n));
    }
    let response = dialogue.replies_with(500);
    assert!(response.headers().has(Name::RetryAfter));
    assert!(dialogue.sent.is_empty());
    for _ in 0..5 {
        dialogue.asks_mar();
        dialogue.replies_with(401);
    }
    dialogue.rests();

    dialogue.is_hss_deaf = true;
    dialogue.receives(&nth(10));
    dialogue.receives(&nth(11));
    dialogue.wait(Duration::from_millis(4_500));
    dialogue.replies_with(504);
    dialogue.wait(Duration::from_secs(5));
    assert!(matches!(dialogue.replies().status(), 500 | 504));
    dialogue.rests();
}

/// As many registrations as there may be: 503 before a vector is spent; those who are registered
/// are served.
#[test]
fn full() {
    let mut config = config();
    config.limits.registrations = 1;
    let mut dialogue = Dialogue::new(config);
    dialogue.registered();
    dialogue.receives(&whose(&register(&[]), "b@hims.net", "sip:b@hims.net"));
    assert!(dialogue.replies_with(503).headers().has(Name::RetryAfter));
    dialogue.asks_nothing();
    dialogue.challenged(&register(&[("ababab", "more")]));
}

/// TS 23.228 §5.2: registrations come back after kill -9, with the time they had left; challenges
/// do not.
#[test]
fn survives_a_restart() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.wait(Duration::from_secs(1_000));
    dialogue.restart();
    assert_eq!(dialogue.registrations(), 1);
    let contact = "Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip;expires=600000\r\n";
    dialogue.receives(&register(&[("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\""), (contact, "")]));
    let response = dialogue.replies_with(200);
    assert_eq!(contacts(&response), ["<sip:10.133.202.46:5064>;+g.3gpp.smsip;expires=599000"]);
    assert_eq!(response.headers().values(Name::PAssociatedUri).count(), 2);
    dialogue.receives(&register(&[("CSeq: 25", "CSeq: 28"), ("\"no\"", "\"yes\"")]));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
}

/// Two devices share a public identity; each has its own binding, and both are listed.
#[test]
fn a_shared_identity() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    assert_eq!(contacts(&dialogue.registered_second(&profile(SECOND), &[])).len(), 2);
    assert_eq!(dialogue.registrations(), 2);
}

/// RFC 3261 §8.2.1, §11.2: other requests get a clear answer.
#[test]
fn other_requests() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let other = |method: &str, uri: &str, to: &str| {
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.20:5060;branch=z9hG4bK0aab2\r\nMax-Forwards: 9\r\nFrom: <sip:x@y.net>;tag=1\r\nTo: {to}\r\nCall-ID: {method}{uri}\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
        )
    };
    for (method, uri, to, status) in [
        ("OPTIONS", "sip:scscf1.hims.net", "<sip:scscf1.hims.net>", 200),
        ("SUBSCRIBE", IMPU, "<sip:name@hims.net>", 489),
        ("MESSAGE", IMPU, "<sip:name@hims.net>", 480),
        ("MESSAGE", "tel:+11234567890", "<tel:+11234567890>", 480),
        ("MESSAGE", "sip:nobody@hims.net", "<sip:nobody@hims.net>", 404),
        ("BYE", IMPU, "<sip:name@hims.net>;tag=z", 481),
        ("FOO", IMPU, "<sip:name@hims.net>", 405),
    ] {
        dialogue.receives(&other(method, uri, to));
        let response = dialogue.replies_with(status);
        assert_eq!(response.headers().has(Name::Allow), matches!(status, 200 | 405), "{method}");
    }
    dialogue.rests();
}

/// TS 24.229 §5.3.1.3: a process that is about to end takes nothing new; a REGISTER is for another S-CSCF.
#[test]
fn draining() {
    let mut dialogue = Dialogue::new(config());
    dialogue.input(Input::Drain);
    assert!(dialogue.core.ready().is_err());
    dialogue.receives(&register(&[]));
    assert!(dialogue.replies_with(480).headers().has(Name::RetryAfter));
    dialogue.receives(&register(&[("REGISTER sip", "MESSAGE sip"), ("25 REGISTER", "25 MESSAGE")]));
    assert!(dialogue.replies_with(503).headers().has(Name::RetryAfter));
}

/// TS 24.229 §5.3.1.3: a deregistration is for no other S-CSCF, and ends the registration; a refresh is.
#[test]
fn draining_ends_registrations() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.input(Input::Drain);
    dialogue.receives(&register(&[("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\"")]));
    dialogue.replies_with(480);
    let end = [("CSeq: 25", "CSeq: 28"), ("\"no\"", "\"yes\""), ("=600000", "=0")];
    dialogue.receives(&register(&end));
    assert!(contacts(&dialogue.replies_with(200)).is_empty());
}

/// An unknown key is named, and a whole file is read.
#[test]
fn reads_its_configuration() {
    let text = "home_domain = \"hims.net\"\nstate = \"/var/lib/x.db\"\n[sip]\nname = \"scscf1.hims.net\"\nserver_name = \"sip:scscf1.hims.net:6060\"\n[sip.listen]\nudp = [\"192.0.2.30:6060\"]\n[diameter]\nidentity = \"scscf1.hims.net\"\nrealm = \"hims.net\"\npeers = [{ host = \"192.0.2.40\" }]\n[registration]\nreauthenticate = \"every 5\"\nprotection = \"optional\"\n";
    let config: scscf::Config = toml::from_str(text).unwrap();
    assert_eq!(config.problems(), Vec::<String>::new());
    assert_eq!(config.registration.reauthenticate, Reauthenticate::Every(5));
    assert_eq!(config.server_name(), "sip:scscf1.hims.net:6060");
    let error = toml::from_str::<scscf::Config>(&text.replace("every 5", "sometimes"));
    assert!(error.unwrap_err().to_string().contains("sometimes"));
    let error = toml::from_str::<scscf::Config>(&text.replace("protection", "protected"));
    assert!(error.unwrap_err().to_string().contains("protected"));
}
