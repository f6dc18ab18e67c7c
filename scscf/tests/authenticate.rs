//! Challenge, answer, resynchronisation at the S-CSCF (TS 24.229 §5.4.1.2.1 to §5.4.1.2.3).

mod dialogue;

use std::time::Duration;

use common::aka::digest::{AkaNonce, encode_auts};
use common::cx::Outcome;
use common::cx::sar::ServerAssignmentType::{
    AuthenticationFailure, AuthenticationTimeout, NoAssignment, ReRegistration, Registration,
};
use common::sip::header::Name;
use dialogue::*;
use scscf::config::Protection;

/// TS 29.228 §6.3.1: S-52: what the MAR asks for.
#[test]
fn asks_for_one_vector() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&register(&[]));
    let (mar, _) = dialogue.asks_mar();
    assert_eq!(mar.user_name, IMPI);
    assert_eq!(mar.public_identity, IMPU);
    assert_eq!(mar.server_name, "sip:scscf1.hims.net");
    assert_eq!(mar.sip_number_auth_items, 1);
    assert_eq!(mar.scheme, "Digest-AKAv1-MD5");
    assert_eq!(mar.sip_authorization, None);
}

/// TS 24.229 §5.4.1.2.1: S-54, S-55, S-56, S-57, S-58, S-59: the 401.
#[test]
fn challenges() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&register(&[]));
    let (_, vector) = dialogue.asks_mar();
    let response = dialogue.replies_with(401);
    let headers = response.headers();
    let text = headers.get(Name::WwwAuthenticate).unwrap();
    let challenge = challenge(&response);
    assert_eq!(challenge.get("realm"), Some("hims.net"));
    let nonce = AkaNonce::decode(challenge.get("nonce").unwrap()).unwrap();
    assert_eq!((nonce.rand, nonce.autn), (vector.rand, vector.autn));
    assert!(text.contains("algorithm=AKAv1-MD5"), "{text}");
    assert!(text.contains("qop=\"auth\""), "{text}");
    for (name, key) in [("ck", vector.ck.expose()), ("ik", vector.ik.expose())] {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(text.contains(&format!("{name}=\"{hex}\"")), "{text}");
    }
    assert!(headers.get(Name::To).unwrap().contains(";tag="));
    assert_eq!(headers.values(Name::Via).count(), 3);
    assert!(headers.get(Name::PChargingVector).unwrap().contains("term-ioi=\"Type 1hims.net\""));
    for absent in [Name::Path, Name::Contact, Name::ServiceRoute] {
        assert!(!headers.has(absent));
    }
    dialogue.rests();
}

/// RFC 3310 §3.3: the realm and qop of the operator; without qop the answer is of the old form.
#[test]
fn challenges_by_policy() {
    let mut config = config();
    config.registration.qop = String::new();
    config.registration.realm = Some("scscf.hims.net".to_owned());
    let mut dialogue = Dialogue::new(config);
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    assert_eq!(challenge.get("qop"), None);
    assert_eq!(challenge.get("realm"), Some("scscf.hims.net"));
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
}

/// RFC 7616 §3.4.1: S-84, S-85: qop was offered and the UE left it out: the old form is right too.
#[test]
fn takes_an_answer_without_qop() {
    let mut dialogue = Dialogue::new(config());
    let (mut challenge, vector) = dialogue.challenged(&register(&[]));
    challenge.remove("qop");
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
}

/// TS 29.228 §6.3.1: what the MAA says when it says no, and what it must hold.
#[test]
fn maps_refusals_of_the_hss() {
    for (outcome, status) in [
        (Outcome::USER_UNKNOWN, 403),
        (Outcome::IDENTITIES_DONT_MATCH, 403),
        (Outcome::AUTH_SCHEME_NOT_SUPPORTED, 403),
        (Outcome::UNABLE_TO_COMPLY, 500),
        (Outcome::Experimental(5011), 500),
        (Outcome::Experimental(5012), 500),
        (Outcome::Base(3002), 500),
        (Outcome::Base(3004), 500),
        (Outcome::Base(4001), 500),
        // The same number in the other AVP means another thing.
        (Outcome::Base(5001), 500),
        // No vector at all.
        (Outcome::SUCCESS, 500),
    ] {
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(&register(&[]));
        dialogue.refuses_mar(outcome);
        dialogue.replies_with(status);
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.1.2.1: no answer of the HSS is 504.
#[test]
fn hung_hss_is_504() {
    let mut dialogue = Dialogue::new(config());
    dialogue.is_hss_deaf = true;
    dialogue.receives(&register(&[]));
    dialogue.wait(Duration::from_secs(5));
    dialogue.replies_with(504);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.1: a new initial REGISTER while a challenge runs restarts it.
#[test]
fn restarts_for_a_new_initial_register() {
    let mut dialogue = Dialogue::new(config());
    let (first, first_vector) = dialogue.challenged(&register(&[]));
    let (second, second_vector) =
        dialogue.challenged(&register(&[("ababab", "cdcdcd"), ("CSeq: 25", "CSeq: 1")]));
    assert_ne!(first.get("nonce"), second.get("nonce"));
    dialogue.receives(&answered(&second, &second_vector, 2, &[("ababab", "cdcdcd")]));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
    // The first challenge is dead.
    dialogue.receives(&answered(&first, &first_vector, 26, &[("\"yes\"", "\"no\"")]));
    dialogue.asks_mar();
    dialogue.replies_with(401);
}

/// TS 24.229 §5.4.1.2.2: an answer outside of security associations is none: a new challenge;
/// unless the operator says otherwise.
#[test]
fn an_unprotected_answer() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[("\"yes\"", "\"no\"")]));
    dialogue.asks_mar();
    dialogue.replies_with(401);

    let mut config = config();
    config.registration.protection = Protection::Optional;
    let mut dialogue = Dialogue::new(config);
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[(", integrity-protected=\"yes\"", "")]));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
    // And without a right response it is none even there.
    let (challenge, vector) = dialogue.challenged(&register(&[("ababab", "again")]));
    let mut wrong = credentials(IMPI, &challenge, &vector);
    wrong.set("response", "00000000000000000000000000000000");
    wrong.set("integrity-protected", "no");
    dialogue.receives(&with_credentials(&wrong, 26, &[("ababab", "again")]));
    dialogue.replies_with(403);
}

/// What each attack or mistake changes in the right credentials, the status it gets.
fn refused_with(change: impl Fn(&mut common::sip::auth::DigestParameters), name: &str) {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    let mut credentials = credentials(IMPI, &challenge, &vector);
    change(&mut credentials);
    dialogue.receives(&with_credentials(&credentials, 26, &[]));
    dialogue.replies_with(403);
    assert_eq!(dialogue.registers(name), 1, "{name}");
    let sar = dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
    assert_eq!(sar.public_identities, [IMPU]);
    assert_eq!(dialogue.registrations(), 0);
    assert!(dialogue.store.is_empty());
    dialogue.rests();

    // The right answer comes too late: the challenge is spent.
    dialogue.receives(&answered(&challenge, &vector, 27, &[]));
    dialogue.asks_sar(NoAssignment, empty_saa(Outcome::UNABLE_TO_COMPLY));
    dialogue.replies_with(500);
    assert_eq!(dialogue.registrations(), 0);
}

/// TS 24.229 §5.4.1.2.3: S-93: a wrong response is 403, the HSS is told, nothing changes.
#[test]
fn a_wrong_response() {
    refused_with(
        |credentials| credentials.set("response", "0123456789abcdef0123456789abcdef"),
        "wrong_response",
    );
}

/// TS 24.229 §5.4.1.2.2: an all-zero response is a wrong one.
#[test]
fn an_all_zero_response() {
    refused_with(
        |credentials| credentials.set("response", "00000000000000000000000000000000"),
        "wrong_response",
    );
}

/// TS 24.229 §5.4.1.2.2: a made-up nonce is refused, whatever the response.
#[test]
fn a_made_up_nonce() {
    refused_with(
        |credentials| credentials.set("nonce", &AkaNonce::encode(&[1; 16], &[2; 16])),
        "wrong_nonce",
    );
}

/// RFC 3310 §3.3: computed for another URI, realm or algorithm.
#[test]
fn computed_for_something_else() {
    refused_with(|credentials| credentials.set("uri", "sip:other.net"), "wrong_response");
    refused_with(|credentials| credentials.set("uri", ""), "wrong_response");
    refused_with(|credentials| credentials.set("algorithm", "AKAv2-MD5"), "wrong_response");
    refused_with(|credentials| credentials.set("algorithm", "MD5"), "wrong_response");
    refused_with(|credentials| credentials.set("realm", "other.net"), "wrong_response");
}

/// RFC 3310 §3.2, aka.md G-13: of an algorithm that nobody knows: no answer, so it is asked once more.
#[test]
fn an_unknown_algorithm() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    let mut odd = credentials(IMPI, &challenge, &vector);
    odd.set("algorithm", "AKAv9-MD5");
    dialogue.receives(&with_credentials(&odd, 26, &[]));
    let (_, vector) = dialogue.asks_mar();
    let response = dialogue.replies_with(401);
    let challenge = dialogue::challenge(&response);
    dialogue.receives(&answered(&challenge, &vector, 27, &[]));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
    dialogue.rests();
}

/// RFC 3310 §3.3: a password that is empty, or the hex digits of RES, is none.
#[test]
fn computed_with_another_password() {
    use common::aka::digest::response;
    for password in [&b""[..], b"a54211d5e3ba50bf"] {
        refused_with(
            |credentials| {
                let wrong = response(credentials, password, "REGISTER", b"").unwrap();
                credentials.set("response", &wrong);
            },
            "wrong_response",
        );
    }
}

/// TS 24.229 §5.4.1.2.2: the credentials of A with B in To: the challenge was for A's identity.
#[test]
fn a_s_credentials_with_b_in_to() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(
        &challenge,
        &vector,
        26,
        &[("To: <sip:name@hims.net>", "To: <sip:b@hims.net>")],
    ));
    dialogue.replies_with(403);
    assert_eq!(dialogue.registers("wrong_identity"), 1);
    let sar = dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
    assert_eq!(sar.public_identities, [IMPU]);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.2: the challenge of A answered as B: B was not challenged with it.
#[test]
fn a_s_challenge_answered_as_b() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    let b = credentials("b.private@hims.net", &challenge, &vector);
    let to_b = [("sip:name@hims.net", "sip:b@hims.net")];
    dialogue.receives(&with_credentials(&b, 26, &to_b));
    dialogue.asks_sar(NoAssignment, empty_saa(Outcome::UNABLE_TO_COMPLY));
    dialogue.replies_with(500);
    assert_eq!(dialogue.registrations(), 0);

    // B has a challenge of its own: the nonce is not that one.
    let changes =
        [(IMPI, "b.private@hims.net"), ("sip:name@hims.net", "sip:b@hims.net"), ("ababab", "b")];
    dialogue.challenged(&register(&changes));
    dialogue.receives(&with_credentials(&b, 26, &[to_b[0], ("ababab", "b")]));
    dialogue.replies_with(403);
    assert_eq!(dialogue.registers("wrong_nonce"), 1);
    assert_eq!(dialogue.registrations(), 0);
}

/// TS 24.229 §5.4.1.2.2: S-87: an answer with another Call-ID is none; a new challenge is sent, not
/// more often than the UE answers.
#[test]
fn another_call_id() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[("ababab", "other")]));
    dialogue.asks_mar();
    dialogue.replies_with(401);
    dialogue.receives(&answered(&challenge, &vector, 26, &[("ababab", "third")]));
    dialogue.replies_with(403);
    assert_eq!(dialogue.registers("too_many_challenges"), 1);
    // Neither attempt is over by what came under another Call-ID: time ends them, and the HSS hears it once.
    dialogue.asks_nothing();
    dialogue.wait(Duration::from_secs(241));
    assert_eq!(dialogue.registers("challenge_lapsed"), 2);
    dialogue.asks_sar(AuthenticationTimeout, empty_saa(Outcome::SUCCESS));
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.2: a response is good once. Inside the associations that it made it can only be the
/// UE, or a proxy on its way, that repeats it: the answer comes again, and nothing is done.
#[test]
fn a_replayed_answer() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    let answer = answered(&challenge, &vector, 26, &[]);
    dialogue.receives(&answer);
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
    let before = dialogue.store.clone();
    dialogue.receives(&answer);
    let again = dialogue.replies_with(200);
    assert_eq!(contacts(&again).len(), 1);
    assert_eq!(dialogue.store, before);
    dialogue.asks_nothing();
    // Outside of the associations it is a new attempt, whatever it carries.
    let replay = answered(&challenge, &vector, 99, &[("\"yes\"", "\"no\""), ("ababab", "x")]);
    dialogue.receives(&replay);
    dialogue.asks_mar();
    dialogue.replies_with(401);
    assert_eq!(dialogue.store, before);
}

/// TS 24.229 §5.4.1.2.3: tries are limited, each with a vector of its own.
#[test]
fn wrong_responses_are_limited() {
    let mut config = config();
    config.registration.wrong_responses_max = 2;
    let mut dialogue = Dialogue::new(config);
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    let mut wrong = credentials(IMPI, &challenge, &vector);
    wrong.set("response", "0123456789abcdef0123456789abcdef");
    let (second, second_vector) = dialogue.challenged(&with_credentials(&wrong, 26, &[]));
    assert_ne!(challenge.get("nonce"), second.get("nonce"));
    let mut wrong = credentials(IMPI, &second, &second_vector);
    wrong.set("response", "0123456789abcdef0123456789abcdef");
    dialogue.receives(&with_credentials(&wrong, 27, &[]));
    dialogue.replies_with(403);
    dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.3: a user who is registered stays so when a new attempt fails.
#[test]
fn a_failed_attempt_leaves_the_registration() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let before = dialogue.store.clone();
    let again = [("ababab", "again")];
    let (challenge, vector) = dialogue.challenged(&register(&again));
    let mut wrong = credentials(IMPI, &challenge, &vector);
    wrong.set("response", "0123456789abcdef0123456789abcdef");
    dialogue.receives(&with_credentials(&wrong, 26, &again));
    dialogue.replies_with(403);
    dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
    assert_eq!(dialogue.store, before);
}

/// TS 24.229 §5.4.1.2.3: S-69: AUTS goes to the HSS with the RAND that was kept; a new challenge
/// comes back, and its answer registers.
#[test]
fn resynchronises() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    let auts = [0xa5; 14];
    let out_of_sync = |challenge: &common::sip::auth::DigestParameters, cseq| {
        let mut credentials = credentials(IMPI, challenge, &vector);
        credentials.set("auts", &encode_auts(&auts));
        credentials.set("integrity-protected", "no");
        with_credentials(&credentials, cseq, &[])
    };
    dialogue.receives(&out_of_sync(&challenge, 26));
    let (mar, new_vector) = dialogue.asks_mar();
    let mut expected = vector.rand.to_vec();
    expected.extend(auts);
    assert_eq!(mar.sip_authorization.as_deref(), Some(expected.as_slice()));
    let second = dialogue::challenge(&dialogue.replies_with(401));
    assert_ne!(second.get("nonce"), challenge.get("nonce"));
    dialogue.receives(&answered(&second, &new_vector, 27, &[]));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
    assert_eq!(dialogue.counter("tessera_scscf_resynchronisations_total", ""), 1);
}

/// TS 24.229 §5.4.1.2.3: the UE answers two challenges in a row; a third is not sent.
#[test]
fn no_third_challenge() {
    let mut dialogue = Dialogue::new(config());
    let (mut challenge, vector) = dialogue.challenged(&register(&[]));
    for (cseq, status) in [(26, 401), (27, 403)] {
        let mut credentials = credentials(IMPI, &challenge, &vector);
        credentials.set("auts", &encode_auts(&[1; 14]));
        credentials.set("integrity-protected", "no");
        dialogue.receives(&with_credentials(&credentials, cseq, &[]));
        if status == 401 {
            dialogue.asks_mar();
        }
        let response = dialogue.replies_with(status);
        if status == 401 {
            challenge = dialogue::challenge(&response);
        }
    }
    assert_eq!(dialogue.registers("too_many_challenges"), 1);
    dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.3: the HSS does not take the AUTS, or it cannot be read.
#[test]
fn a_wrong_auts() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    let mut credentials = credentials(IMPI, &challenge, &vector);
    credentials.set("integrity-protected", "no");
    credentials.set("auts", "not base64!");
    dialogue.receives(&with_credentials(&credentials, 26, &[]));
    dialogue.replies_with(400);
    dialogue.asks_nothing();
    credentials.set("auts", &encode_auts(&[1; 14]));
    dialogue.receives(&with_credentials(&credentials, 27, &[]));
    dialogue.refuses_mar(Outcome::UNABLE_TO_COMPLY);
    dialogue.replies_with(403);
    assert_eq!(dialogue.registers("resynchronisation_failed"), 1);
    dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.3: S-68, S-70: the UE says the network is not authentic: an empty response
/// and no AUTS.
#[test]
fn mac_failure() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    let mut credentials = credentials(IMPI, &challenge, &vector);
    credentials.set("response", "");
    credentials.set("integrity-protected", "no");
    dialogue.receives(&with_credentials(&credentials, 26, &[]));
    dialogue.replies_with(403);
    assert_eq!(dialogue.registers("network_not_authentic"), 1);
    dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.3, §7.8: S-104: reg-await-auth ends after 240 s: the HSS is told; a late answer is
/// challenged again, and a very late one is of a stranger.
#[test]
fn a_challenge_lapses() {
    let mut dialogue = Dialogue::new(config());
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.wait(Duration::from_secs(239));
    dialogue.asks_nothing();
    dialogue.wait(Duration::from_secs(2));
    dialogue.asks_sar(AuthenticationTimeout, empty_saa(Outcome::SUCCESS));
    assert_eq!(dialogue.registers("challenge_lapsed"), 1);

    let (second, second_vector) = dialogue.challenged(&answered(&challenge, &vector, 26, &[]));
    dialogue.receives(&answered(&second, &second_vector, 27, &[]));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);

    let b = [(IMPI, "b@hims.net"), ("sip:name@hims.net", "sip:b@hims.net"), ("ababab", "b")];
    let (challenge, vector) = dialogue.challenged(&register(&b));
    dialogue.wait(Duration::from_secs(500));
    dialogue.asks_sar(AuthenticationTimeout, empty_saa(Outcome::SUCCESS));
    let late = with_credentials(&credentials("b@hims.net", &challenge, &vector), 26, &b[1..]);
    dialogue.receives(&late);
    dialogue.asks_sar(NoAssignment, empty_saa(Outcome::UNABLE_TO_COMPLY));
    dialogue.replies_with(500);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.2: a registered user whose UE missed a challenge repeats its last
/// credentials and is challenged anew.
#[test]
fn a_missed_challenge_is_repeated() {
    let mut config = config();
    config.registration.reauthenticate = scscf::config::Reauthenticate::Always;
    let mut dialogue = Dialogue::new(config);
    dialogue.registered();
    let refresh = |cseq: u32| {
        let number = format!("CSeq: {cseq}");
        register(&[
            ("CSeq: 25", &number),
            ("\"no\"", "\"yes\""),
            ("nonce=\"\"", "nonce=\"b2xk\""),
            ("response=\"\"", "response=\"00\""),
        ])
    };
    dialogue.challenged(&refresh(27));
    let (challenge, vector) = dialogue.challenged(&refresh(28));
    dialogue.receives(&answered(&challenge, &vector, 29, &[]));
    let kind = common::cx::sar::ServerAssignmentType::ReRegistration;
    dialogue.asks_sar(kind, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
}

/// S-63: keys and expected responses do not print.
#[test]
fn secrets_do_not_print() {
    let mut dialogue = Dialogue::new(config());
    let (_, vector) = dialogue.challenged(&register(&[]));
    let printed = format!("{:?}", dialogue.core);
    for key in [vector.xres.expose().as_slice(), vector.ck.expose(), vector.ik.expose()] {
        let list = format!("{key:?}");
        assert!(!printed.contains(list.trim_matches(['[', ']'])));
    }
    let xres: String = vector.xres.expose().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!printed.contains(&xres));
    assert!(printed.contains("xres: <secret>"));
}

/// TS 24.229 §5.4.8, §5.4.1.2.1: attempts under several Call-IDs run side by side, whoever began them; the oldest of
/// more than four makes room.
#[test]
fn attempts_side_by_side() {
    let mut dialogue = Dialogue::new(config());
    let other = ("Call-ID: ababab", "Call-ID: other");
    let (first, first_vector) = dialogue.challenged(&register(&[]));
    let (second, second_vector) = dialogue.challenged(&register(&[other]));
    assert_ne!(first.get("nonce"), second.get("nonce"));
    dialogue.receives(&answered(&first, &first_vector, 26, &[]));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
    dialogue.receives(&answered(&second, &second_vector, 26, &[other]));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);

    // A stranger's attempt does not touch a refresh.
    dialogue.challenged(&register(&[("Call-ID: ababab", "Call-ID: stranger")]));
    let refresh = [other, ("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\"")];
    dialogue.receives(&register(&refresh));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);

    let mut dialogue = Dialogue::new(config());
    let (first, vector) = dialogue.challenged(&register(&[]));
    for number in 0..4 {
        let call_id = format!("Call-ID: more{number}");
        dialogue.challenged(&register(&[("Call-ID: ababab", &call_id)]));
    }
    assert_eq!(dialogue.registers("challenge_crowded_out"), 1);
    dialogue.receives(&answered(&first, &vector, 26, &[]));
    let (mar, _) = dialogue.asks_mar();
    assert_eq!(mar.user_name, IMPI);
    dialogue.replies_with(401);
}

/// TS 29.228 §6.1.2.1, TS 24.229 §5.4.1.2.3: while one attempt runs, the end of another does not make the HSS
/// take the S-CSCF away under it; the end of the last one does.
#[test]
fn one_attempt_ends_under_another() {
    // A network that is not authentic ends the second attempt, the right answer the first one.
    let mut dialogue = Dialogue::new(config());
    let other = [("ababab", "other")];
    let (first, vector) = dialogue.challenged(&register(&[]));
    let (second, _) = dialogue.challenged(&register(&other));
    dialogue.receives(&with_credentials(&failing(&second), 26, &other));
    dialogue.replies_with(403);
    dialogue.asks_nothing();
    dialogue.receives(&answered(&first, &vector, 26, &[]));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
    dialogue.rests();

    // Both lapse: the HSS hears of it once, with the last.
    let mut dialogue = Dialogue::new(config());
    dialogue.challenged(&register(&[]));
    dialogue.wait(Duration::from_secs(1));
    dialogue.challenged(&register(&other));
    let lapses = u64::from(config().registration.reg_await_auth_seconds);
    dialogue.wait(Duration::from_secs(lapses - 1));
    dialogue.asks_nothing();
    assert_eq!(dialogue.registers("challenge_lapsed"), 1);
    dialogue.wait(Duration::from_secs(1));
    dialogue.asks_sar(AuthenticationTimeout, empty_saa(Outcome::SUCCESS));
    assert_eq!(dialogue.registers("challenge_lapsed"), 2);
    dialogue.rests();
}

/// The answer of a card to which the network is not authentic (TS 24.229 §5.1.1.5.3).
fn failing(challenge: &common::sip::auth::DigestParameters) -> common::sip::auth::DigestParameters {
    let mut credentials = common::sip::auth::DigestParameters::default();
    credentials.set("username", IMPI);
    credentials.set("realm", "hims.net");
    credentials.set("uri", "sip:hims.net");
    credentials.set("nonce", challenge.get("nonce").unwrap());
    credentials.set("response", "");
    credentials.set("integrity-protected", "yes");
    credentials
}
