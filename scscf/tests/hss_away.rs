//! An HSS that is not there, or too many questions to it (TS 24.229 §5.4.1, TS 29.228 §6.1.2.1, RFC 3261 §21.5.4):
//! everybody gets an answer at once, whoever is registered stays so, and what the HSS misses it is told later.

mod dialogue;

use std::time::Duration;

use common::cx::Outcome;
use common::cx::sar::ServerAssignmentType::{ReRegistration, Registration, TimeoutDeregistration};
use common::sip::header::Name;
use dialogue::*;

const B: [(&str, &str); 3] =
    [(IMPI, "b@hims.net"), ("sip:name@hims.net", "sip:b@hims.net"), ("ababab", "b")];
const UNTOLD: &str = "tessera_scscf_untold_total";

fn refresh(cseq: u32) -> String {
    register(&[("CSeq: 25", &format!("CSeq: {cseq}")), ("\"no\"", "\"yes\"")])
}

fn deregistration(cseq: u32) -> String {
    changed(&refresh(cseq), &[("expires=600000", "expires=0")])
}

/// The HSS, back again, hears once that nobody is registered.
fn hears_of_the_end(dialogue: &mut Dialogue) {
    for _ in 0..120 {
        if dialogue.asked.is_empty() {
            dialogue.wait(Duration::from_secs(1));
        }
    }
    let sar = dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(sar.user_name.as_deref(), Some(IMPI));
    assert_eq!(dialogue.registrations(), 0);
    assert!(dialogue.store.is_empty(), "{:?}", dialogue.store);
    dialogue.wait(Duration::from_secs(3_600));
    dialogue.rests();
}

/// TS 24.229 §5.4.1.2.1, §5.4.1.2.2: no HSS is connected: REGISTERs are 504 without any wait, and leave the binding.
#[test]
fn registers_without_hss() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let before = dialogue.store.clone();
    dialogue.loses_hss();
    dialogue.receives(&register(&B));
    dialogue.replies_with(504);
    dialogue.receives(&refresh(27));
    dialogue.replies_with(504);
    // What a registered user's UE begins anew, too.
    dialogue.receives(&register(&[("ababab", "again")]));
    dialogue.replies_with(504);
    assert_eq!(dialogue.registers("hss_silent"), 3);
    assert_eq!(dialogue.store, before);
    dialogue.rests();
    dialogue.finds_hss();
    dialogue.receives(&refresh(28));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    dialogue.rests();
}

/// TS 29.228 §6.1.2.1: the HSS goes away under a first registration: 504, and it hears that nobody is registered, in
/// case it had the SAR.
#[test]
fn hss_goes_away_under_a_registration() {
    for is_in_flight in [false, true] {
        let mut dialogue = Dialogue::new(config());
        let (challenge, vector) = dialogue.challenged(&register(&[]));
        let answer = answered(&challenge, &vector, 26, &[]);
        if is_in_flight {
            dialogue.receives(&answer);
            dialogue.asks();
            dialogue.loses_hss();
        } else {
            dialogue.loses_hss();
            dialogue.receives(&answer);
        }
        dialogue.wait(Duration::from_secs(5));
        dialogue.replies_with(504);
        dialogue.finds_hss();
        hears_of_the_end(&mut dialogue);
    }
}

/// TS 24.229 §5.4.2.1.1: who may watch is known here: a SUBSCRIBE needs no HSS.
#[test]
fn watches_without_hss() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.loses_hss();
    dialogue.receives(&subscribe(&[]));
    dialogue.replies_with(200);
    dialogue.requests("NOTIFY", PCSCF);
    dialogue.receives(&subscribe(&[
        ("sip:name@hims.net", "sip:nobody@hims.net"),
        ("watch1", "watch9"),
    ]));
    dialogue.replies_with(504);
}

/// TS 24.229 §5.4.1.4, §5.4.1.5: an end without HSS is an end; the HSS hears of it when it is back, also when this
/// process was not there all the time.
#[test]
fn ends_without_hss() {
    for is_expiry in [false, true] {
        for restarts in [false, true] {
            let mut dialogue = Dialogue::new(config());
            dialogue.registered();
            dialogue.loses_hss();
            if is_expiry {
                dialogue.wait(Duration::from_secs(600_001));
            } else {
                dialogue.receives(&deregistration(27));
                assert!(contacts(&dialogue.replies_with(200)).is_empty());
            }
            dialogue.receives(&subscribe(&[]));
            dialogue.replies_with(504);
            assert!(dialogue.counter(UNTOLD, "") > 0);
            dialogue.wait(Duration::from_secs(600));
            assert_eq!(dialogue.registrations(), 1, "what is owed to the HSS");
            match restarts {
                true => dialogue.restart(),
                false => dialogue.finds_hss(),
            }
            hears_of_the_end(&mut dialogue);
        }
    }
}

/// Another user's question takes the only place there is.
fn crowded() -> Dialogue {
    let mut config = config();
    config.limits.diameter_pending = 1;
    Dialogue::new(config)
}

fn takes_the_place(dialogue: &mut Dialogue) {
    dialogue.is_hss_deaf = true;
    dialogue.receives(&register(&B));
    assert!(dialogue.sent.is_empty());
}

fn gives_up_the_place(dialogue: &mut Dialogue) {
    dialogue.wait(Duration::from_secs(5));
    dialogue.replies_with(504);
    dialogue.is_hss_deaf = false;
}

/// RFC 3261 §21.5.4: a REGISTER that may not ask the HSS is 503 with Retry-After; nothing of it stays, and the next one
/// is served.
#[test]
fn too_many_questions() {
    let mut dialogue = crowded();
    dialogue.registered();
    let before = dialogue.store.clone();
    takes_the_place(&mut dialogue);
    for text in [refresh(27), register(&[("ababab", "again")])] {
        dialogue.receives(&text);
        assert!(dialogue.replies_with(503).headers().has(Name::RetryAfter));
    }
    assert_eq!(dialogue.registers("overloaded"), 2);
    assert_eq!(dialogue.store, before);
    gives_up_the_place(&mut dialogue);
    dialogue.rests();
    dialogue.receives(&refresh(28));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);

    // The answer to a challenge: the HSS was not asked, so nothing is to be taken back.
    let mut dialogue = crowded();
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    takes_the_place(&mut dialogue);
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    assert!(dialogue.replies_with(503).headers().has(Name::RetryAfter));
    gives_up_the_place(&mut dialogue);
    assert_eq!(dialogue.registrations(), 0);
    assert_eq!(dialogue.counter("tessera_scscf_challenges", ""), 0);
    dialogue.wait(Duration::from_secs(3_600));
    dialogue.rests();
    dialogue.receives(&register(&[("ababab", "again")]));
    let (_, vector) = dialogue.asks_mar();
    let challenge = challenge_of(&mut dialogue);
    dialogue.receives(&answered(&challenge, &vector, 26, &[("ababab", "again")]));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
}

fn challenge_of(dialogue: &mut Dialogue) -> common::sip::auth::DigestParameters {
    challenge(&dialogue.replies_with(401))
}

/// TS 29.228 §6.1.2.1: a deregistration and an expiry that may not be told are told later.
#[test]
fn ends_among_too_many_questions() {
    for is_expiry in [false, true] {
        let mut dialogue = crowded();
        dialogue.registered();
        if is_expiry {
            dialogue.wait(Duration::from_secs(599_999));
        }
        takes_the_place(&mut dialogue);
        if is_expiry {
            dialogue.wait(Duration::from_secs(2));
        } else {
            dialogue.receives(&deregistration(27));
            assert!(contacts(&dialogue.replies_with(200)).is_empty());
        }
        assert_eq!(dialogue.counter(UNTOLD, ""), 1);
        gives_up_the_place(&mut dialogue);
        hears_of_the_end(&mut dialogue);
    }
}

/// TS 24.229 §7.8: a challenge that lapses meanwhile leaves nothing here, and one count that the HSS was not told.
#[test]
fn a_challenge_lapses_without_hss() {
    let mut dialogue = Dialogue::new(config());
    dialogue.challenged(&register(&[]));
    dialogue.loses_hss();
    dialogue.wait(Duration::from_secs(241));
    assert_eq!(dialogue.registers("challenge_lapsed"), 1);
    assert_eq!(dialogue.counter(UNTOLD, ""), 1);
    assert_eq!(dialogue.counter("tessera_scscf_challenges", ""), 0);
    dialogue.rests();
}

/// RFC 3261 §21.5.4: more requests than may be open are 503 with Retry-After; those that are open are answered.
#[test]
fn too_many_transactions() {
    let mut config = config();
    config.limits.sip_transactions = 1;
    let mut dialogue = Dialogue::new(config);
    dialogue.receives(&register(&[]));
    dialogue.receives(&register(&B));
    assert!(dialogue.replies_with(503).headers().has(Name::RetryAfter));
    dialogue.asks_mar();
    dialogue.replies_with(401);
    dialogue.rests();
}
