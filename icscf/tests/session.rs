//! Initial requests other than REGISTER at the I-CSCF (TS 24.229 §5.3.2).

mod dialogue;

use std::time::Duration;

use common::cx::{self, Answer, Lia, Lir, Outcome, Received, ServerCapabilities};
use common::node::Input;
use common::sip::header::Name;
use dialogue::*;

fn lia(outcome: Outcome, server: Option<&str>) -> Answer {
    Answer::Lia(Lia { outcome, server_name: server.map(str::to_owned), ..Lia::default() })
}

fn lir(received: &Received) -> &Lir {
    match &received.request {
        cx::Request::Lir(lir) => lir,
        other => panic!("{other:?}"),
    }
}

fn asked(dialogue: &mut Dialogue, text: &str) -> Received {
    dialogue.receives(PCSCF, text);
    dialogue.asks()
}

/// TS 24.229 §5.3.2.1: the S-CSCF becomes the topmost Route; the Request-URI is kept; no
/// Record-Route is added.
#[test]
fn adds_a_route_and_keeps_the_request_uri() {
    let mut dialogue = Dialogue::new(config());
    let received = asked(&mut dialogue, &invite(&[]));
    assert_eq!(
        *lir(&received),
        Lir { public_identity: IMPU.to_owned(), is_originating: false, wants_capabilities: false }
    );
    dialogue.answers(received, lia(Outcome::SUCCESS, Some("sip:scscf1.hims.net")));
    let request = dialogue.forwards_to(SCSCF1);
    assert_eq!(request.uri(), "sip:name@hims.net");
    assert_eq!(request.headers().get(Name::Route), Some("<sip:scscf1.hims.net;lr>"));
    assert!(!request.headers().has(Name::RecordRoute));
    assert_eq!(request.headers().get(Name::MaxForwards), Some("59"));

    dialogue.scscf_replies(SCSCF1, &request, 180, "");
    assert_eq!(dialogue.replies().status(), 180);
    dialogue.scscf_replies(SCSCF1, &request, 486, "");
    assert_eq!(dialogue.forwards_to(SCSCF1).method_text(), "ACK");
    assert_eq!(dialogue.replies().status(), 486);
}

/// TS 24.229 §5.3.2.1: unknown users are 404, unregistered ones 480, a failing HSS 480.
#[test]
fn maps_refusals_of_the_hss() {
    for (outcome, status) in [
        (Outcome::USER_UNKNOWN, 404),
        (Outcome::IDENTITY_NOT_REGISTERED, 480),
        (Outcome::UNABLE_TO_COMPLY, 480),
    ] {
        let mut dialogue = Dialogue::new(config());
        let received = asked(&mut dialogue, &invite(&[]));
        dialogue.answers(received, lia(outcome, None));
        assert_eq!(dialogue.replies().status(), status, "{outcome:?}");
    }
}

/// TS 29.228 §6.1.4: every other answer is that of an HSS that fails: 480, for a watcher as well; the same number in
/// the other AVP means another thing. An SLF that names no HSS knows no such user (TS 23.228 §5.15.2).
#[test]
fn maps_what_else_the_hss_says() {
    for (outcome, status, of_watcher) in [
        (Outcome::Base(3002), 480, 480),
        (Outcome::Base(3003), 480, 480),
        (Outcome::Base(3004), 480, 480),
        (Outcome::Base(3006), 404, 480),
        (Outcome::Base(4001), 480, 480),
        (Outcome::Base(4181), 480, 480),
        (Outcome::Base(5001), 480, 480),
        (Outcome::AUTHORIZATION_REJECTED, 480, 480),
        (Outcome::UNABLE_TO_COMPLY, 480, 480),
        (Outcome::USER_UNKNOWN, 404, 404),
        (Outcome::Experimental(5002), 480, 480),
        (Outcome::IDENTITY_NOT_REGISTERED, 480, 404),
        (Outcome::Experimental(5011), 480, 480),
        (Outcome::Experimental(5012), 480, 480),
    ] {
        for (changes, status) in [
            (&[][..], status),
            (&[("INVITE", "SUBSCRIBE"), ("Max-F", "Event: reg\r\nMax-F")], of_watcher),
        ] {
            let mut dialogue = Dialogue::new(config());
            let received = asked(&mut dialogue, &invite(changes));
            dialogue.answers(received, lia(outcome, None));
            assert_eq!(dialogue.replies().status(), status, "{outcome:?} {changes:?}");
            dialogue.sends_nothing();
            dialogue.rests();
        }
    }
}

/// TS 24.229 §5.3.2.1, TS 29.228 §6.1.4.1: UNREGISTERED_SERVICE: whoever has what is wanted, any S-CSCF where nothing
/// is, the one that is named where one is; the same for who would watch. Wanted what nobody has: 600.
#[test]
fn unregistered_services() {
    let of = |mandatory: &[u32]| {
        Some(ServerCapabilities { mandatory: mandatory.to_vec(), ..ServerCapabilities::default() })
    };
    for (server_name, server_capabilities, goes_to) in [
        (None, None, Some(SCSCF1)),
        (None, of(&[]), Some(SCSCF1)),
        (None, of(&[2]), Some(SCSCF2)),
        (Some("sip:scscf2.hims.net"), None, Some(SCSCF2)),
        (None, of(&[3]), None),
    ] {
        for changes in [&[][..], &[("INVITE", "SUBSCRIBE"), ("Max-F", "Event: reg\r\nMax-F")]] {
            let mut dialogue = Dialogue::new(config());
            let received = asked(&mut dialogue, &invite(changes));
            let answer = Answer::Lia(Lia {
                outcome: Outcome::UNREGISTERED_SERVICE,
                server_name: server_name.map(str::to_owned),
                server_capabilities: server_capabilities.clone(),
                ..Lia::default()
            });
            dialogue.answers(received, answer);
            match goes_to {
                Some(address) => {
                    let request = dialogue.forwards_to(address);
                    assert_eq!(request.uri(), IMPU);
                }
                None => assert_eq!(dialogue.replies().status(), 600),
            }
        }
    }
}

/// TS 24.229 §5.3.2.2: an HSS that knows of no capabilities names the S-CSCF that was silent once more: another one
/// gets the request, and no question goes around.
#[test]
fn not_the_silent_one_again() {
    let mut dialogue = Dialogue::new(config());
    let received = asked(&mut dialogue, &invite(&[]));
    dialogue.answers(received, lia(Outcome::SUCCESS, Some("sip:scscf1.hims.net")));
    let (flow, _) = dialogue.sent.pop_front().unwrap();
    dialogue.input(Input::Unreachable { flow });
    let received = dialogue.asks();
    assert!(lir(&received).wants_capabilities);
    dialogue.answers(received, lia(Outcome::SUCCESS, Some("sip:scscf1.hims.net")));
    let (flow, _) = dialogue.sent.pop_front().unwrap();
    assert_eq!(flow.remote, SCSCF2.parse().unwrap());
    dialogue.input(Input::Unreachable { flow });
    assert_eq!(dialogue.replies().status(), 504);
    dialogue.asks_nothing();
    dialogue.rests();
}

/// TS 24.229 §5.3.2.1: who would watch a registration is told that there is none, and not that there is no telling.
#[test]
fn tells_watchers_that_nobody_is_registered() {
    for (event, outcome, status) in [
        ("reg", Outcome::IDENTITY_NOT_REGISTERED, 404),
        ("reg;id=7", Outcome::IDENTITY_NOT_REGISTERED, 404),
        ("reg", Outcome::UNABLE_TO_COMPLY, 480),
        ("presence", Outcome::IDENTITY_NOT_REGISTERED, 480),
    ] {
        let mut dialogue = Dialogue::new(config());
        let header = format!("Event: {event}\r\nMax-Forwards");
        let changes = [("INVITE", "SUBSCRIBE"), ("Max-Forwards", header.as_str())];
        let received = asked(&mut dialogue, &invite(&changes));
        dialogue.answers(received, lia(outcome, None));
        assert_eq!(dialogue.replies().status(), status, "{event} {outcome:?}");
    }
}

/// TS 24.229 §5.3.2.1: a SIP URI that stands for a number is asked for as `tel:`.
#[test]
fn asks_for_telephone_numbers() {
    for uri in ["sip:+11234567890@hims.net;user=phone", "tel:+1-123-456-7890"] {
        let mut dialogue = Dialogue::new(config());
        let line = format!("INVITE {uri} SIP");
        let received = asked(&mut dialogue, &invite(&[("INVITE sip:name@hims.net SIP", &line)]));
        assert_eq!(lir(&received).public_identity, "tel:+11234567890");
        dialogue.answers(received, lia(Outcome::SUCCESS, Some("sip:scscf1.hims.net")));
        assert_eq!(dialogue.forwards_to(SCSCF1).uri(), uri);
    }
}

/// TS 24.229 §5.3.2.1: `orig` in our own Route: the user is the one who asks.
#[test]
fn originating_case() {
    let mut dialogue = Dialogue::new(config());
    let route = "Route: <sip:icscf1.hims.net;lr;orig>\r\nP-Served-User: <sip:served@hims.net>;sescase=orig\r\nMax-Forwards";
    let received = asked(&mut dialogue, &invite(&[("Max-Forwards", route)]));
    assert!(lir(&received).is_originating);
    assert_eq!(lir(&received).public_identity, "sip:served@hims.net");
    dialogue.answers(received, lia(Outcome::SUCCESS, Some("sip:scscf1.hims.net")));
    let request = dialogue.forwards_to(SCSCF1);
    let routes: Vec<_> = request.headers().values(Name::Route).collect();
    assert_eq!(routes, ["<sip:scscf1.hims.net;lr;orig>"]);
}

/// TS 24.229 §5.3.2.1: UNREGISTERED_SERVICE comes with capabilities: an S-CSCF is chosen.
#[test]
fn chooses_an_s_cscf_for_unregistered_services() {
    let mut dialogue = Dialogue::new(config());
    let received = asked(&mut dialogue, &invite(&[]));
    let wanted = ServerCapabilities { mandatory: vec![2], ..ServerCapabilities::default() };
    let answer = Answer::Lia(Lia {
        outcome: Outcome::UNREGISTERED_SERVICE,
        server_capabilities: Some(wanted),
        ..Lia::default()
    });
    dialogue.answers(received, answer);
    dialogue.forwards_to(SCSCF2);
}

/// TS 24.229 §5.3.2.2: a silent S-CSCF: capabilities are asked for; none left is 504.
#[test]
fn another_s_cscf_after_silence() {
    let mut dialogue = Dialogue::new(config());
    let received = asked(&mut dialogue, &invite(&[]));
    dialogue.answers(received, lia(Outcome::SUCCESS, Some("sip:scscf1.hims.net")));
    let (flow, _) = dialogue.sent.pop_front().unwrap();
    dialogue.input(Input::Unreachable { flow });
    let received = dialogue.asks();
    assert!(lir(&received).wants_capabilities);
    dialogue.answers(received, lia(Outcome::SUCCESS, None));
    let (flow, _) = dialogue.sent.pop_front().unwrap();
    assert_eq!(flow.remote, SCSCF2.parse().unwrap());
    dialogue.input(Input::Unreachable { flow });
    assert_eq!(dialogue.replies().status(), 504);
    dialogue.rests();
}

/// TS 24.229 §5.3.2.1: a request with a further Route is routed by it, without a question.
#[test]
fn follows_a_further_route() {
    let mut dialogue = Dialogue::new(config());
    let route = "Route: <sip:icscf1.hims.net;lr>, <sip:192.0.2.77:5070;lr>\r\nMax-Forwards";
    dialogue.receives(PCSCF, &invite(&[("Max-Forwards", route)]));
    dialogue.asks_nothing();
    let request = dialogue.forwards_to("192.0.2.77:5070");
    let routes: Vec<_> = request.headers().values(Name::Route).collect();
    assert_eq!(routes, ["<sip:192.0.2.77:5070;lr>"]);
}

/// RFC 3261 §12.2.2, §21.4.5: no dialog is ours, and no foreign domain.
#[test]
fn refuses_what_is_not_ours() {
    let mut dialogue = Dialogue::new(config());
    let bye =
        invite(&[("INVITE", "BYE"), ("To: <sip:name@hims.net>", "To: <sip:name@hims.net>;tag=z")]);
    dialogue.receives(PCSCF, &bye);
    assert_eq!(dialogue.replies().status(), 481);
    let foreign = invite(&[
        ("INVITE sip:name@hims.net SIP", "MESSAGE sip:name@other.net SIP"),
        ("1 INVITE", "1 MESSAGE"),
    ]);
    dialogue.receives(PCSCF, &foreign);
    assert_eq!(dialogue.replies().status(), 404);
    dialogue.asks_nothing();
}

/// TS 24.229 §5.3.2.2: a hung HSS is 480 in time.
#[test]
fn hung_hss() {
    let mut dialogue = Dialogue::new(config());
    dialogue.deafen_hss();
    dialogue.receives(PCSCF, &invite(&[]));
    dialogue.wait(Duration::from_secs(6));
    assert_eq!(dialogue.replies().status(), 100);
    assert_eq!(dialogue.replies().status(), 480);
}
