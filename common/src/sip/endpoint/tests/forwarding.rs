//! Sending and forwarding: client transactions, provisional responses, CANCEL, limits.

use super::*;

type Replied = (Branch<&'static str>, Result<Response, NoReply>);

fn reply(event: Option<Event<&'static str>>) -> Replied {
    match event {
        Some(Event::Reply(branch, result)) => (branch, result),
        other => panic!("{other:?}"),
    }
}

impl Bench {
    /// Answers what was sent and passes the final response upstream.
    fn answered(&mut self, millis: u64, sent: &str, status: u16) {
        let event = self.receive(millis, udp(US, DOWNSTREAM), &answer(sent, status, "d"));
        let (branch, result) = reply(event);
        self.endpoint.relay(at(millis), branch, result.unwrap(), &mut self.out);
    }

    /// The end that a timer brought, answered with 408.
    fn timed_out(&mut self, millis: u64, mut events: Vec<Event<&'static str>>) {
        assert_eq!(events.len(), 1, "{events:?}");
        let (branch, result) = reply(events.pop());
        assert_eq!(result.unwrap_err(), NoReply::Timeout);
        if let Some(incoming) = branch.incoming {
            self.respond(millis, incoming, 408);
        }
    }
}

/// RFC 3261 §16.6, §16.7; S-17, S-32, S-33, S-35, S-62, S-98, S-103: Max-Forwards 19, our Via on
/// top with a branch of its own, all else as it came; the response goes back without it.
#[test]
fn forwards_and_relays() {
    let mut bench = Bench::new();
    let text = request_text("REGISTER", "25", "X-Odd:   kept  as is\r\n");
    let incoming = bench.request(0, &text);
    bench.forward(0, incoming, target());
    let (flow, sent) = bench.one();
    assert_eq!(flow, target().flow);
    let (first, rest) =
        sent.split_once("\r\nVia: SIP/2.0/UDP us.example:5060;branch=z9hG4bK").unwrap();
    assert_eq!(first, "REGISTER sip:hims.net SIP/2.0");
    let rest = rest.split_once("\r\n").unwrap().1;
    let expected = text.split_once("\r\n").unwrap().1.replace("Forwards: 20", "Forwards: 19");
    assert_eq!(rest, expected);
    assert_eq!(bench.endpoint.owed(), 2);
    bench.answered(50, &sent, 401);
    let (flow, response) = bench.one();
    assert_eq!(flow, upstream());
    assert_eq!(status_of(&response), 401);
    assert!(!response.contains("us.example"));
    assert!(response.contains("Via: SIP/2.0/UDP 198.51.100.7:5070;branch=z9hG4bK25\r\n"));
    assert_eq!(bench.endpoint.owed(), 0);
    bench.until(60_000);
    assert_eq!(bench.count("tessera_sip_transactions_open", &[]), 0);
}

/// RFC 3261 §16.6 step 3; S-114: a request without Max-Forwards gets 70.
#[test]
fn adds_max_forwards() {
    let mut bench = Bench::new();
    let text = request_text("REGISTER", "25", "").replace("Max-Forwards: 20\r\n", "");
    let incoming = bench.request(0, &text);
    bench.forward(0, incoming, target());
    let (_, sent) = bench.one();
    assert!(sent.contains("\r\nMax-Forwards: 70\r\n"));
    bench.answered(1, &sent, 200);
}

/// RFC 3261 §16.6 step 8, §16.7 step 3; S-46, S-59: the Vias of all hops in order, there and back.
#[test]
fn three_vias_in_order() {
    let mut bench = Bench::new();
    let ue = "Via: SIP/2.0/UDP 10.1.2.3:5060;received=10.1.2.3;branch=0abab\r\n";
    let incoming = bench.request(0, &request_text("REGISTER", "25", ue));
    bench.forward(0, incoming, target());
    let sent = bench.one().1;
    let vias = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with("Via: "));
        lines.map(|line| line.split([' ', ';']).nth(2).unwrap().to_owned()).collect()
    };
    assert_eq!(vias(&sent), ["us.example:5060", "198.51.100.7:5070", "10.1.2.3:5060"]);
    bench.answered(1, &sent, 401);
    let response = bench.one().1;
    assert_eq!(vias(&response), ["198.51.100.7:5070", "10.1.2.3:5060"]);
    assert!(response.contains(ue), "untouched: {response}");
}

/// RFC 3261 §17.1.2.2: timers E and F in the core, and the longer ones on Gm.
#[test]
fn repeats_until_the_timeout() {
    for (segment, times, end) in [
        (Segment::Core, vec![0, 500, 1_500, 3_500, 7_500, 11_500, 15_500], 32_000),
        (Segment::Gm, vec![0, 2_000, 6_000, 14_000, 30_000, 46_000, 62_000], 128_000),
    ] {
        let mut bench = Bench::new();
        bench.send(0, "OPTIONS", Target { segment, ..target() }, LIMIT);
        for millis in times {
            bench.until(millis.max(1) - 1);
            assert!(millis == 0 || bench.sent().is_empty(), "nothing before {millis}");
            bench.until(millis);
            assert_eq!(bench.sent().len(), 1, "at {millis}");
        }
        assert!(bench.until(end - 1).is_empty());
        let events = bench.until(end);
        bench.timed_out(end, events);
        assert_eq!(bench.endpoint.owed(), 0);
        assert_eq!(bench.endpoint.next_timeout(), None);
        assert_eq!(bench.count("tessera_sip_timeouts_total", &[]), 1);
    }
}

/// The sender's own limit ends a branch early; the late answer is dropped.
#[test]
fn the_limit_ends_a_branch() {
    let mut bench = Bench::new();
    bench.send(0, "REGISTER", target(), Duration::from_secs(4));
    let sent = bench.one().1;
    assert!(bench.until(3_999).is_empty());
    let events = bench.until(4_000);
    bench.timed_out(4_000, events);
    assert!(bench.receive(5_000, udp(US, DOWNSTREAM), &answer(&sent, 200, "x")).is_none());
    assert_eq!(bench.count("tessera_sip_dropped_total", &["stray_response"]), 1);
    assert_eq!(bench.endpoint.next_timeout(), None);
}

/// RFC 3261 §16.7 steps 5 and 6: 100 ends here, others go on and the branch with its wait stays.
#[test]
fn provisional_responses() {
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("INVITE", "1", ""));
    bench.forward(0, incoming, target());
    let sent = bench.one().1;
    assert!(bench.receive(10, udp(US, DOWNSTREAM), &answer(&sent, 100, "")).is_none());
    let event = bench.receive(20, udp(US, DOWNSTREAM), &answer(&sent, 183, "d"));
    let Some(Event::Provisional(branch, response)) = event else { panic!("{event:?}") };
    assert_eq!(branch.wait, "wait");
    bench.endpoint.relay(at(20), branch, response, &mut bench.out);
    assert_eq!(bench.status(), 183);
    let event = bench.receive(30, udp(US, DOWNSTREAM), &answer(&sent, 180, "d"));
    let Some(Event::Provisional(branch, _)) = event else { panic!("{event:?}") };
    bench.endpoint.keep(branch);
    assert!(bench.sent().is_empty());
    assert_eq!(bench.endpoint.owed(), 2);
    bench.until(300_000);
    assert!(bench.sent().is_empty(), "no 100 of ours, and no repetition in Proceeding");
    bench.answered(300_000, &sent, 200);
    assert_eq!(bench.status(), 200);
}

/// RFC 3261 §17.1.1.3: a refused INVITE is acknowledged hop by hop, each time anew.
#[test]
fn refusals_of_invite_are_acknowledged() {
    let mut bench = Bench::new();
    let text = request_text("INVITE", "7", "Route: <sip:next.example;lr>\r\n");
    let incoming = bench.request(0, &text);
    bench.forward(0, incoming, target());
    let sent = bench.one().1;
    bench.answered(100, &sent, 486);
    let messages = bench.sent();
    assert_eq!(messages.len(), 2);
    let ack = request_of(&messages[0].1);
    assert_eq!((ack.method(), ack.uri()), (Method::Ack, "sip:hims.net"));
    assert_eq!(ack.headers().get(Name::CSeq), Some("7 ACK"));
    assert_eq!(ack.to_tag(), Some("d"));
    assert_eq!(ack.headers().get(Name::Route), Some("<sip:next.example;lr>"));
    assert_eq!(ack.headers().values(Name::Via).count(), 1);
    assert_eq!(top_via(&messages[0].1), top_via(&sent));
    assert_eq!(ack.check(), Ok(()));
    let again = bench.receive(600, udp(US, DOWNSTREAM), &answer(&sent, 486, "d"));
    assert!(again.is_none());
    assert_eq!(bench.one().1, messages[0].1);
    bench.until(120_000);
    assert_eq!(bench.count("tessera_sip_transactions_open", &[]), 0);
}

/// RFC 6026 §8.4, §8.5: a repeated 2xx goes the way of the first one.
#[test]
fn repeated_2xx_is_passed_on() {
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("INVITE", "1", ""));
    bench.forward(0, incoming, target());
    let sent = bench.one().1;
    bench.answered(100, &sent, 200);
    let first = bench.one();
    assert!(bench.receive(600, udp(US, DOWNSTREAM), &answer(&sent, 200, "d")).is_none());
    assert_eq!(bench.one(), first);
    bench.until(31_000);
    assert!(bench.sent().is_empty(), "whoever made the 2xx repeats it, not we");
    bench.until(40_000);
    assert_eq!(bench.count("tessera_sip_transactions_open", &[]), 0);
}

/// RFC 3261 §13.2.2.4: the ACK of our own INVITE goes out again with each repeated 2xx.
#[test]
fn our_own_ack_is_repeated() {
    let mut bench = Bench::new();
    bench.send(0, "INVITE", target(), LIMIT);
    let sent = bench.one().1;
    let (branch, _) = reply(bench.receive(10, udp(US, DOWNSTREAM), &answer(&sent, 200, "d")));
    assert!(branch.incoming.is_none());
    let mut ack = request_of(&request_text("ACK", "1", ""));
    ack.headers_mut().remove(Name::Via);
    bench.endpoint.send_ack(ack, &target(), &mut bench.out);
    let first = bench.one();
    assert!(bench.receive(500, udp(US, DOWNSTREAM), &answer(&sent, 200, "d")).is_none());
    assert_eq!(bench.one(), first);
    assert_ne!(top_via(&first.1), top_via(&sent), "a branch of its own");
}

/// RFC 3261 §16.11: an ACK that comes to the core is passed on without a transaction.
#[test]
fn forwards_an_ack() {
    let mut bench = Bench::new();
    for (hops, count) in [("20", 1), ("0", 0)] {
        let ack =
            request_text("ACK", "1", "").replace("Forwards: 20", &format!("Forwards: {hops}"));
        let Some(Event::Ack { request, .. }) = bench.receive(0, upstream(), &ack) else { panic!() };
        bench.endpoint.forward_ack(request, &target(), &mut bench.out);
        let sent = bench.sent();
        assert_eq!(sent.len(), count);
        assert!(sent.iter().all(|(_, text)| text.contains("Max-Forwards: 19")));
    }
    assert_eq!(bench.endpoint.owed(), 0);
}

/// RFC 3261 §9.2, §16.10: CANCEL is answered at once and goes after the INVITE; the 487 of the
/// other side comes to the core as any end does.
#[test]
fn cancel_of_a_forwarded_invite() {
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("INVITE", "1", ""));
    bench.forward(0, incoming, target());
    let sent = bench.one().1;
    let event = bench.receive(10, udp(US, DOWNSTREAM), &answer(&sent, 180, "d"));
    let Some(Event::Provisional(branch, _)) = event else { panic!("{event:?}") };
    bench.endpoint.keep(branch);
    let text = request_text("CANCEL", "1", "");
    assert!(bench.receive(20, upstream(), &text).is_none());
    let messages = bench.sent();
    assert_eq!(status_of(&messages[0].1), 200);
    let cancel = request_of(&messages[1].1);
    assert_eq!(cancel.method(), Method::Cancel);
    assert_eq!(cancel.headers().get(Name::CSeq), Some("1 CANCEL"));
    assert_eq!(top_via(&messages[1].1), top_via(&sent));
    assert_eq!(cancel.check(), Ok(()));
    assert!(bench.receive(25, upstream(), &text).is_none());
    assert_eq!(bench.status(), 200, "the repeated CANCEL is answered and not sent again");
    assert!(bench.receive(30, udp(US, DOWNSTREAM), &answer(&messages[1].1, 200, "d")).is_none());
    bench.answered(40, &sent, 487);
    let ends = bench.sent();
    assert_eq!(request_of(&ends[0].1).method(), Method::Ack);
    assert_eq!(status_of(&ends[1].1), 487);
    assert_eq!(bench.endpoint.owed(), 0);
    let ack = request_text("ACK", "1", "");
    assert!(bench.receive(50, upstream(), &ack).is_none());
    bench.until(200_000);
    assert_eq!(bench.count("tessera_sip_transactions_open", &[]), 0);
}

/// RFC 3261 §9.1: a CANCEL waits for the first provisional response.
#[test]
fn cancel_waits_for_a_provisional_response() {
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("INVITE", "1", ""));
    bench.forward(0, incoming, target());
    let sent = bench.one().1;
    assert!(bench.receive(20, upstream(), &request_text("CANCEL", "1", "")).is_none());
    assert_eq!(bench.status(), 200);
    assert!(bench.receive(30, udp(US, DOWNSTREAM), &answer(&sent, 100, "")).is_none());
    assert_eq!(request_of(&bench.one().1).method(), Method::Cancel);
    // Race: the call was accepted before the CANCEL came there.
    bench.answered(40, &sent, 200);
    assert_eq!(bench.status(), 200);
    assert_eq!(bench.endpoint.owed(), 0);
    bench.until(200_000);
    assert_eq!(bench.count("tessera_sip_transactions_open", &[]), 0);
}

/// RFC 3261 §9.1: without a final response within 64*T1 of the CANCEL the INVITE counts as ended.
#[test]
fn a_cancelled_invite_ends_without_an_answer() {
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("INVITE", "1", ""));
    bench.forward(0, incoming, target());
    let sent = bench.one().1;
    bench.receive(10, udp(US, DOWNSTREAM), &answer(&sent, 100, ""));
    bench.receive(20, upstream(), &request_text("CANCEL", "1", ""));
    assert!(bench.until(32_019).is_empty());
    let events = bench.until(32_020);
    bench.timed_out(32_020, events);
    bench.until(200_000);
    assert_eq!(bench.count("tessera_sip_transactions_open", &[]), 0);
}

/// RFC 3261 §16.10: an INVITE that waits elsewhere when its CANCEL comes is not forwarded; the
/// procedure sees 487, and its wait comes back.
#[test]
fn cancel_of_an_invite_not_yet_forwarded() {
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("INVITE", "1", ""));
    assert!(bench.receive(20, upstream(), &request_text("CANCEL", "1", "")).is_none());
    assert_eq!(bench.status(), 200);
    bench.forward(30, incoming, target());
    assert!(bench.sent().is_empty());
    assert_eq!(bench.endpoint.owed(), 2);
    assert_eq!(bench.endpoint.next_timeout(), Some(at(30)));
    let mut events = bench.until(30);
    let (branch, result) = reply(events.pop());
    assert_eq!(branch.wait, "wait");
    bench.endpoint.relay(at(30), branch, result.unwrap(), &mut bench.out);
    let (flow, response) = bench.one();
    assert_eq!((flow, status_of(&response)), (upstream(), 487));
    assert!(!response.contains("us.example"));
    assert_eq!(bench.endpoint.owed(), 0);
}

/// RFC 3261 §16.8: the limit of a ringing INVITE ends the wait and cancels what was sent.
#[test]
fn the_limit_cancels_a_ringing_invite() {
    let mut bench = Bench::new();
    bench.send(0, "INVITE", target(), Duration::from_secs(180));
    let sent = bench.one().1;
    bench.receive(10, udp(US, DOWNSTREAM), &answer(&sent, 100, ""));
    let events = bench.until(180_000);
    bench.timed_out(180_000, events);
    assert_eq!(request_of(&bench.one().1).method(), Method::Cancel);
    assert_eq!(bench.endpoint.owed(), 0);
    assert!(bench.receive(180_100, udp(US, DOWNSTREAM), &answer(&sent, 487, "d")).is_none());
    assert_eq!(request_of(&bench.one().1).method(), Method::Ack);
    bench.until(400_000);
    assert_eq!(bench.count("tessera_sip_transactions_open", &[]), 0);
}

/// RFC 3261 §17.1.4: a flow that fails ends all that went there, one by one.
#[test]
fn unreachable_targets() {
    let mut bench = Bench::new();
    let incoming = bench.request(0, &request_text("REGISTER", "1", ""));
    bench.forward(0, incoming, target());
    bench.send(0, "OPTIONS", target(), LIMIT);
    let elsewhere = Target { flow: udp(US, "203.0.113.10:5060"), ..target() };
    bench.send(0, "OPTIONS", elsewhere, LIMIT);
    let mut ended = 0;
    while let Some(event) = bench.endpoint.unreachable(at(5), target().flow, &mut bench.out) {
        let (branch, result) = reply(Some(event));
        assert_eq!(result.unwrap_err(), NoReply::Unreachable);
        if let Some(incoming) = branch.incoming {
            bench.respond(5, incoming, 503);
        }
        ended += 1;
    }
    assert_eq!(ended, 2);
    assert_eq!(bench.endpoint.owed(), 1);
    assert_eq!(bench.count("tessera_sip_unreachable_total", &[]), 2);
}

/// Beyond the limit nothing more is sent, and the wait comes back all the same.
#[test]
fn too_many_client_transactions() {
    let limits = Limits { sip_transactions: 1, ..Limits::default() };
    let mut bench = Bench::with(&limits);
    bench.send(0, "OPTIONS", target(), LIMIT);
    bench.send(0, "OPTIONS", target(), LIMIT);
    assert_eq!(bench.sent().len(), 1);
    let events = bench.until(0);
    assert!(matches!(events[..], [Event::Reply(_, Err(NoReply::Unreachable))]), "{events:?}");
}
