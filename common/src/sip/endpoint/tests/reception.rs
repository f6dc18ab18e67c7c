//! Reception: retransmissions, refusals, matching of requests, ACK.

use super::*;

/// RFC 3261 §17.2.2: repetitions are absorbed, then get the same answer until timer J.
#[test]
fn repeated_requests_get_the_last_response() {
    let mut bench = Bench::new();
    let register = request_text("REGISTER", "25", "");
    let incoming = bench.request(0, &register);
    assert!(bench.receive(500, upstream(), &register).is_none());
    assert!(bench.sent().is_empty(), "nothing to repeat yet");
    assert_eq!(bench.endpoint.owed(), 1);
    bench.respond(600, incoming, 401);
    let (flow, first) = bench.one();
    assert_eq!((flow, status_of(&first)), (upstream(), 401));
    assert_eq!(bench.endpoint.owed(), 0);
    assert!(bench.receive(1_500, upstream(), &register).is_none());
    assert_eq!(bench.one(), (upstream(), first));
    assert_eq!(bench.count("tessera_sip_retransmissions_total", &["request", "received"]), 2);
    assert_eq!(bench.count("tessera_sip_retransmissions_total", &["response", "sent"]), 1);
    bench.until(600 + 32_000);
    assert_eq!(bench.count("tessera_sip_transactions_open", &[]), 0);
    assert_eq!(bench.endpoint.next_timeout(), None);
    let again = bench.request(40_000, &register);
    bench.respond(40_000, again, 200);
}

/// RFC 3261 §17.2.2: a provisional response is repeated while the request is worked on.
#[test]
fn progress_keeps_the_request_owed() {
    let mut bench = Bench::new();
    let text = request_text("SUBSCRIBE", "1", "");
    let incoming = bench.request(0, &text);
    let trying = incoming.request().response(100, "Trying");
    bench.endpoint.progress(at(1), &incoming, trying, &mut bench.out);
    let (_, first) = bench.one();
    assert!(bench.receive(500, upstream(), &text).is_none());
    assert_eq!(bench.one().1, first);
    assert_eq!(bench.endpoint.owed(), 1);
    bench.respond(600, incoming, 200);
    assert_eq!(bench.status(), 200);
}

/// RFC 3261 §8.2.6.2; S-19, S-57: To gets one tag, the same for all responses.
#[test]
fn responses_get_a_tag() {
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("INVITE", "1", ""));
    let ringing = incoming.request().response(180, "Ringing");
    bench.endpoint.progress(at(1), &incoming, ringing, &mut bench.out);
    let ringing = bench.one().1;
    bench.respond(2, incoming, 486);
    let busy = bench.one().1;
    let tag = |text: &str| match parsed(text) {
        Message::Response(response) => {
            response.headers().get(Name::To).unwrap().split_once(";tag=").unwrap().1.to_owned()
        }
        Message::Request(_) => panic!(),
    };
    assert_eq!(tag(&ringing), tag(&busy));
    let in_dialog = request_text("BYE", "2", "").replace("\r\nCall-ID", ";tag=ours\r\nCall-ID");
    let incoming = bench.request(3, &in_dialog);
    bench.respond(3, incoming, 200);
    assert_eq!(tag(&bench.one().1), "ours");
}

/// RFC 3261 §17.2.1: 100 after 200 ms without another response; none when there was one.
#[test]
fn an_invite_gets_100_after_200_milliseconds() {
    let mut bench = Bench::new();
    let invite = request_text("INVITE", "1", "Timestamp: 54\r\n");
    let incoming = bench.request(0, &invite);
    bench.until(199);
    assert!(bench.sent().is_empty());
    bench.until(200);
    let (_, trying) = bench.one();
    assert_eq!(status_of(&trying), 100);
    assert!(trying.contains("Timestamp: 54"));
    assert!(bench.receive(500, upstream(), &invite).is_none());
    assert_eq!(bench.one().1, trying);
    bench.respond(600, incoming, 480);
    bench.sent();

    let mut quick = Bench::new();
    let incoming = quick.request(0, &invite);
    quick.respond(100, incoming, 480);
    assert_eq!(quick.status(), 480);
    quick.until(400);
    assert!(quick.sent().is_empty());
}

/// RFC 3261 §17.2.1: timer G repeats a refusal, the ACK stops it, timer I ends all.
#[test]
fn a_refused_invite_is_repeated_until_its_ack() {
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("INVITE", "1", ""));
    bench.respond(0, incoming, 486);
    let (_, busy) = bench.one();
    bench.until(1_600);
    assert_eq!(bench.sent().len(), 2, "at 500 and 1500 ms");
    let ack = request_text("ACK", "1", "");
    assert!(bench.receive(1_700, upstream(), &ack).is_none(), "it goes no further");
    assert!(bench.receive(1_800, upstream(), &ack).is_none());
    bench.until(6_699);
    assert_eq!(bench.count("tessera_sip_transactions_open", &["lingering"]), 1);
    bench.until(6_700);
    assert!(bench.sent().is_empty());
    assert_eq!(bench.count("tessera_sip_transactions_open", &[]), 0);
    assert!(busy.contains("486"));
}

/// RFC 3261 §17.2.1: timer H: no ACK ever came.
#[test]
fn a_missing_ack_ends_the_repetition() {
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("INVITE", "1", ""));
    bench.respond(0, incoming, 486);
    bench.until(60_000);
    assert_eq!(bench.sent().len(), 11, "first, 0.5, 1.5, 3.5, then every 4 s up to 31.5 s");
    assert_eq!(bench.count("tessera_sip_missing_acks_total", &[]), 1);
    assert_eq!(bench.count("tessera_sip_transactions_open", &[]), 0);
}

/// RFC 3261 §13.3.1.4, RFC 6026 §8.5: our own 2xx is repeated until its ACK, which has a branch
/// of its own and goes on to the core.
#[test]
fn an_accepted_invite_is_repeated_until_its_ack() {
    let mut bench = Bench::new();
    let invite = request_text("INVITE", "1", "");
    let incoming = bench.request(0, &invite);
    bench.respond(0, incoming, 200);
    bench.until(500);
    assert_eq!(bench.sent().len(), 2);
    assert!(bench.receive(600, upstream(), &invite).is_none());
    assert!(bench.sent().is_empty(), "RFC 6026: a repeated INVITE is absorbed");
    let ack = request_with_via("ACK", "1", ";branch=z9hG4bKother", "");
    assert!(matches!(bench.receive(700, upstream(), &ack), Some(Event::Ack { .. })));
    bench.until(31_999);
    assert!(bench.sent().is_empty());
    bench.until(32_000);
    assert_eq!(bench.count("tessera_sip_transactions_open", &[]), 0);
}

/// X-09, S-15, RFC 3261 §17.2.3: a branch without the magic cookie, or none at all, is matched as
/// RFC 2543 did; ACK needs the To tag of the response.
#[test]
fn rfc_2543_matching() {
    for via in [";branch=0abab", ""] {
        let mut bench = Bench::new();
        let invite = request_with_via("INVITE", "1", via, "");
        let incoming = bench.request(0, &invite);
        assert!(bench.receive(100, upstream(), &invite).is_none());
        bench.respond(150, incoming, 486);
        let (_, busy) = bench.one();
        assert!(bench.receive(160, upstream(), &invite).is_none());
        assert_eq!(bench.one().1, busy);
        let other = request_with_via("INVITE", "2", via, "");
        let second = bench.request(170, &other);
        bench.respond(170, second, 480);
        bench.sent();
        let to = busy.lines().find(|line| line.starts_with("To:")).unwrap();
        let ack = request_with_via("ACK", "1", via, "");
        let stray = ack.replace("To: <sip:name@hims.net>", "To: <sip:name@hims.net>;tag=other");
        assert!(matches!(bench.receive(180, upstream(), &stray), Some(Event::Ack { .. })));
        let right = ack.replace("To: <sip:name@hims.net>", to);
        assert!(bench.receive(180, upstream(), &right).is_none());
        bench.until(649);
        assert!(bench.sent().is_empty(), "the repetition stopped");
    }
}

/// RFC 3261 §17.2.3: the same branch with another sent-by or method is another transaction.
#[test]
fn sent_by_and_method_belong_to_the_match() {
    let mut bench = Bench::new();
    let register = request_text("REGISTER", "1", "");
    let first = bench.request(0, &register);
    let other_host = register.replace("198.51.100.7:5070", "198.51.100.8:5070");
    let second = bench.request(0, &other_host.replace("ababab", "ababac"));
    let third = bench.request(0, &request_with_via("OPTIONS", "1", ";branch=z9hG4bK1", ""));
    for incoming in [first, second, third] {
        bench.respond(1, incoming, 200);
    }
    assert_eq!(bench.sent().len(), 3);
}

/// RFC 3261 §16.3 step 1, §21.4.1; S-14: the reason names what was expected.
#[test]
fn malformed_requests_get_400_with_the_reason() {
    let good = request_text("REGISTER", "1", "");
    for (bad, status, reason) in [
        (good.replace("CSeq: 1 REGISTER", "CSeq: x REGISTER"), 400, "CSeq"),
        (good.replace("CSeq: 1 REGISTER", "CSeq: 1 INVITE"), 400, "CSeq with the method"),
        (good.replace("From: <sip:name@hims.net>;tag=abbb\r\n", ""), 400, "From"),
        (good.replace("Max-Forwards: 20", "Max-Forwards: 300"), 400, "Max-Forwards"),
        (good.replace("hims.net SIP/2.0", "hims.net SIP/2.0,"), 400, "SIP version"),
        (good.replace("Max-Forwards: 20", "no colon here"), 400, "header"),
        (good.replace("hims.net SIP/2.0", "hims.net SIP/3.0"), 505, "Version Not Supported"),
        (good.replace("Length: 0", "Length: 9"), 400, "body"),
    ] {
        let mut bench = Bench::new();
        assert!(bench.receive(0, upstream(), &bad).is_none(), "{bad}");
        let (flow, response) = bench.one();
        assert_eq!((flow, status_of(&response)), (upstream(), status), "{response}");
        let first_line = response.lines().next().unwrap();
        assert!(first_line.contains(reason), "{first_line}");
        assert_eq!(bench.count("tessera_sip_malformed_total", &[]), 1);
        assert_eq!(bench.endpoint.owed(), 0);
    }
}

/// What has no readable Via, or must not be answered, is dropped and counted.
#[test]
fn unreadable_messages_are_dropped() {
    let good = request_text("REGISTER", "1", "");
    let ack = request_text("ACK", "1", "").replace("CSeq: 1", "CSeq: x");
    let mut bench = Bench::new();
    for bad in [
        "?",
        "hello\r\n\r\n",
        "SIP/2.0 9999 What\r\n\r\n",
        &good.replace("Via: SIP/2.0/UDP", "Via: SIP/2.0"),
        &ack,
        &ack.replace(" SIP/2.0\r\nVia", " SIP/7.0\r\nVia"),
    ] {
        assert!(bench.receive(0, upstream(), bad).is_none(), "{bad}");
    }
    assert!(bench.sent().is_empty());
    assert_eq!(bench.count("tessera_sip_dropped_total", &["unreadable"]), 6);
}

/// RFC 5626 §4.4: keep-alives are passed over, and no fault of anybody.
#[test]
fn keep_alives_are_no_messages() {
    let mut bench = Bench::new();
    for keep_alive in ["", "\r\n\r\n", "\0"] {
        assert!(bench.receive(0, upstream(), keep_alive).is_none());
    }
    assert!(bench.sent().is_empty());
    assert_eq!(bench.count("tessera_sip_keep_alives_total", &[]), 3);
    assert_eq!(bench.count("tessera_sip_malformed_total", &[]), 0);
}

/// RFC 3261 §16.3 step 3; E-483: OPTIONS too.
#[test]
fn no_hops_left() {
    for method in ["REGISTER", "OPTIONS", "INVITE"] {
        let mut bench = Bench::new();
        let text = request_text(method, "1", "").replace("Forwards: 20", "Forwards: 0");
        assert!(bench.receive(0, upstream(), &text).is_none());
        let (_, response) = bench.one();
        assert_eq!(status_of(&response), 483);
        if method == "INVITE" {
            let to = response.lines().find(|line| line.starts_with("To:")).unwrap();
            let ack = request_text("ACK", "1", "").replace("To: <sip:name@hims.net>", to);
            assert!(bench.receive(1, upstream(), &ack).is_none(), "its ACK ends here");
        }
        assert_eq!(bench.count("tessera_sip_refused_total", &["max_forwards"]), 1);
    }
}

/// RFC 3261 §16.3 step 4: the same request again is a loop; to another place it is a spiral.
#[test]
fn loops_and_spirals() {
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("OPTIONS", "1", ""));
    bench.forward(0, incoming, target());
    let (_, sent) = bench.one();
    assert!(bench.receive(1, udp(US, DOWNSTREAM), &sent).is_none());
    assert_eq!(bench.status(), 482);
    let spiral = sent.replace("OPTIONS sip:hims.net", "OPTIONS sip:other@hims.net");
    let Some(Event::Request(incoming)) = bench.receive(2, udp(US, DOWNSTREAM), &spiral) else {
        panic!("a spiral is no loop")
    };
    bench.respond(2, incoming, 200);
    assert_eq!(bench.count("tessera_sip_refused_total", &["loop"]), 1);
    assert_eq!(bench.endpoint.owed(), 2, "the first one is still under way");
}

/// RFC 3261 §8.2.2.2: the same request on two ways, while the first is worked on.
#[test]
fn merged_requests() {
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("OPTIONS", "1", ""));
    let other_way = request_with_via("OPTIONS", "1", ";branch=z9hG4bKother", "");
    assert!(bench.receive(1, upstream(), &other_way).is_none());
    assert_eq!(bench.status(), 482);
    bench.respond(2, incoming, 200);
    bench.sent();
    let later = bench.request(3, &other_way);
    bench.respond(3, later, 200);
}

/// Beyond the limit requests get 503 with Retry-After and leave no trace; what runs goes on.
#[test]
fn overload() {
    let limits = Limits { sip_transactions: 2, ..Limits::default() };
    let mut bench = Bench::with(&limits);
    let first = bench.request(0, &request_text("REGISTER", "1", ""));
    let second = bench.request(0, &request_text("REGISTER", "2", ""));
    let third = request_text("REGISTER", "3", "");
    assert!(bench.receive(0, upstream(), &third).is_none());
    let (_, refused) = bench.one();
    assert_eq!(status_of(&refused), 503);
    assert!(refused.contains("Retry-After: "));
    assert_eq!(bench.endpoint.owed(), 2);
    assert!(bench.receive(1, upstream(), &request_text("REGISTER", "1", "")).is_none());
    assert!(bench.sent().is_empty(), "a repetition is no new request");
    bench.respond(2, first, 200);
    let third = bench.request(3, &third);
    bench.respond(3, second, 200);
    bench.respond(3, third, 200);
    assert_eq!(bench.count("tessera_sip_refused_total", &["overload"]), 1);
    assert_eq!(bench.count("tessera_sip_transactions_open", &["lingering"]), 2);
    assert_eq!(bench.count("tessera_sip_evicted_total", &[]), 1, "memory has a limit");
}

/// RFC 3261 §9.2: a CANCEL of nothing, and one that comes after the end.
#[test]
fn cancel_without_effect() {
    let mut bench = Bench::new();
    let cancel = request_text("CANCEL", "1", "");
    assert!(bench.receive(0, upstream(), &cancel).is_none());
    assert_eq!(bench.status(), 481);
    let incoming = bench.request(1, &request_text("INVITE", "1", ""));
    bench.respond(1, incoming, 486);
    let busy = bench.one().1;
    assert!(bench.receive(2, upstream(), &cancel).is_none());
    let (_, ok) = bench.one();
    assert_eq!(status_of(&ok), 200);
    let to = |text: &str| text.lines().find(|line| line.starts_with("To:")).unwrap().to_owned();
    assert_eq!(to(&ok), to(&busy), "RFC 3261 §9.2: the same tag");
}

/// I3: dropping a request unanswered is a bug that shows at once, unless all ends.
#[test]
fn a_forgotten_request_panics() {
    let forgotten = std::panic::catch_unwind(|| {
        let mut bench = Bench::new();
        drop(bench.request(0, &request_text("REGISTER", "1", "")));
    });
    assert_eq!(forgotten.is_err(), cfg!(debug_assertions));
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("REGISTER", "1", ""));
    drop(bench);
    drop(incoming);
}

/// Responses that belong to nothing of ours are dropped and counted.
#[test]
fn stray_responses_are_dropped() {
    let mut bench = Bench::new();
    bench.send(0, "OPTIONS", target(), LIMIT);
    let (flow, sent) = bench.one();
    let right = answer(&sent, 200, "x");
    for stray in [
        right.replace("z9hG4bK", "z9hG4bX"),
        right.replace("CSeq: 1 OPTIONS", "CSeq: 1 INVITE"),
        answer(&request_text("OPTIONS", "1", ""), 200, "x"),
    ] {
        assert!(bench.receive(1, flow, &stray).is_none());
    }
    assert_eq!(bench.count("tessera_sip_dropped_total", &["stray_response"]), 3);
    assert!(matches!(bench.receive(2, flow, &right), Some(Event::Reply(_, Ok(_)))));
    assert!(bench.receive(3, flow, &right).is_none(), "repeated");
    assert_eq!(bench.count("tessera_sip_retransmissions_total", &["response", "received"]), 1);
}
