//! Where messages go: received and rport, reply flows, the 1300-byte rule, connections.

use super::*;

fn register(via: &str) -> String {
    request_text("REGISTER", "1", "").replace("198.51.100.7:5070;branch", via)
}

/// RFC 3261 §18.2.1, §18.2.2, RFC 3581 §4; S-15, S-32: `received` where sent-by is not the source,
/// `rport` where it is asked for, and the way back.
#[test]
fn via_decides_the_way_back() {
    let cases = [
        // sent-by is the source: nothing is added, its port is the target
        ("198.51.100.7:5070;branch", "198.51.100.7:5070;branch", "198.51.100.7:5070"),
        ("198.51.100.7;branch", "198.51.100.7;branch", "198.51.100.7:5060"),
        ("198.51.100.7:6000;branch", "198.51.100.7:6000;branch", "198.51.100.7:6000"),
        // another address or a name
        (
            "10.0.0.1:5062;branch",
            "10.0.0.1:5062;branch=z9hG4bK1;received=198.51.100.7",
            "198.51.100.7:5062",
        ),
        (
            "ue.example;branch",
            "ue.example;branch=z9hG4bK1;received=198.51.100.7",
            "198.51.100.7:5060",
        ),
        // rport
        (
            "10.0.0.1:5062;rport;branch",
            "10.0.0.1:5062;rport=5070;branch=z9hG4bK1;received=198.51.100.7",
            "198.51.100.7:5070",
        ),
        (
            "198.51.100.7:5062;rport;branch",
            "198.51.100.7:5062;rport=5070;branch=z9hG4bK1;received=198.51.100.7",
            "198.51.100.7:5070",
        ),
        // a way that the sender makes up is not followed
        (
            "198.51.100.7:5070;maddr=192.0.2.200;branch",
            "198.51.100.7:5070;maddr=192.0.2.200;branch",
            "198.51.100.7:5070",
        ),
    ];
    for (via, marked, remote) in cases {
        let mut bench = Bench::new();
        let incoming = bench.request(0, &register(via));
        assert_eq!(incoming.flow(), upstream());
        assert_eq!(incoming.reply_flow(), udp(US, remote));
        bench.respond(1, incoming, 200);
        let (flow, response) = bench.one();
        assert_eq!(flow, udp(US, remote));
        assert!(top_via(&response).contains(marked), "{via}: {response}");
    }
}

/// RFC 3261 §18.2.1 with IPv6.
#[test]
fn received_with_ipv6() {
    let mut bench = Bench::new();
    let flow = udp("[2001:db8::1]:5060", "[2001:db8::9]:5070");
    let text = register("[2001:db8:0::9]:5062;branch");
    let Some(Event::Request(incoming)) = bench.receive(0, flow, &text) else { panic!() };
    assert_eq!(incoming.reply_flow().remote, address("[2001:db8::9]:5062"));
    bench.respond(0, incoming, 200);
    assert!(!bench.one().1.contains("received"));
    let text = register("ue.example;rport;branch").replace("ababab", "other");
    let text = text.replace("z9hG4bK1", "z9hG4bK2");
    let Some(Event::Request(incoming)) = bench.receive(0, flow, &text) else { panic!() };
    bench.respond(0, incoming, 200);
    assert!(bench.one().1.contains("received=2001:db8::9"));
}

/// X-02, pitfall 2: the P-CSCF answers from port_pc to port_us; the override rules repetitions and
/// `rport` as well.
#[test]
fn a_reply_flow_from_outside() {
    let mut bench = Bench::new();
    let text = register("198.51.100.7:5062;rport;branch");
    let mut incoming = bench.request(0, &text);
    let protected = udp("192.0.2.1:5064", "198.51.100.7:5062");
    incoming.set_reply_flow(protected);
    bench.respond(1, incoming, 401);
    let (flow, response) = bench.one();
    assert_eq!(flow, protected);
    assert!(top_via(&response).contains("rport=5062"));
    assert!(bench.receive(500, upstream(), &text).is_none());
    assert_eq!(bench.one(), (protected, response));
}

/// known from the start, it also rules what the endpoint answers by itself.
#[test]
fn a_reply_flow_at_reception() {
    let mut bench = Bench::new();
    let protected = udp("192.0.2.1:5064", "198.51.100.7:5062");
    let mut receive = |millis, text: String| {
        let bytes = Bytes::from(text);
        let (endpoint, out) = (&mut bench.endpoint, &mut bench.out);
        endpoint.receive_answering_on(at(millis), upstream(), protected, bytes, Segment::Gm, out)
    };
    let none = receive(0, register("198.51.100.7:5062;branch").replace("wards: 20", "wards: 0"));
    assert!(none.is_none());
    let Some(Event::Request(incoming)) = receive(0, request_text("INVITE", "2", "")) else {
        panic!()
    };
    assert!(receive(1, request_text("CANCEL", "2", "")).is_none());
    bench.until(200);
    bench.respond(300, incoming, 487);
    let sent = bench.sent();
    assert!(sent.iter().all(|(flow, _)| *flow == protected));
    let statuses: Vec<u16> = sent.iter().map(|(_, text)| status_of(text)).collect();
    assert_eq!(statuses, [483, 200, 100, 487]);
}

/// over TCP it is where everything goes when the connection is gone, the endpoint's own refusals
/// among it.
#[test]
fn a_second_reply_flow_at_reception() {
    let mut bench = Bench::new();
    let flow = tcp("192.0.2.1:5064", "198.51.100.7:41000");
    let protected = tcp("192.0.2.1:5100", "198.51.100.7:5062");
    let refused = register("198.51.100.7:5062;branch").replace("wards: 20", "wards: 0");
    for (text, status) in [(refused.clone(), 483), (refused.replace("Call-ID", "Call"), 400)] {
        let bytes = Bytes::from(text.replace("/UDP", "/TCP"));
        let (endpoint, out) = (&mut bench.endpoint, &mut bench.out);
        let none = endpoint.receive_answering_on(at(0), flow, protected, bytes, Segment::Gm, out);
        assert!(none.is_none());
        let (used, response) = bench.one();
        assert_eq!((used, status_of(&response)), (flow, status));
        assert!(bench.endpoint.unreachable(at(1), flow, &mut bench.out).is_none());
        assert_eq!(bench.one(), (protected, response));
    }
}

/// RFC 3261 §18.2.2, X-03: over TCP the connection of the request, or a new one to the sent-by port.
#[test]
fn responses_over_tcp() {
    let mut bench = Bench::new();
    let flow = tcp(US, "198.51.100.7:41000");
    let text = register("ue.example:5070;branch").replace("/UDP", "/TCP");
    let Some(Event::Request(incoming)) = bench.receive(0, flow, &text) else { panic!() };
    bench.respond(1, incoming, 200);
    let (used, response) = bench.one();
    assert_eq!(used, flow);
    assert!(top_via(&response).contains("received=198.51.100.7"));
    assert_eq!(bench.count("tessera_sip_transactions_open", &[]), 0, "timer J is zero");
    assert!(bench.endpoint.unreachable(at(2), flow, &mut bench.out).is_none());
    assert_eq!(bench.one(), (tcp("192.0.2.1:0", "198.51.100.7:5070"), response));
    assert!(bench.endpoint.unreachable(at(3), flow, &mut bench.out).is_none());
    assert!(bench.sent().is_empty(), "once");

    let Some(Event::Request(mut incoming)) = bench.receive(4, flow, &text) else { panic!() };
    incoming.set_second_reply_flow(None);
    bench.respond(5, incoming, 200);
    bench.sent();
    assert!(bench.endpoint.unreachable(at(6), flow, &mut bench.out).is_none());
    assert!(bench.sent().is_empty());
}

/// RFC 3261 §18.2.2: a connection that was closed behind the response has carried it.
#[test]
fn a_response_is_not_repeated_behind_the_end_of_its_connection() {
    let mut bench = Bench::new();
    let flow = tcp(US, "198.51.100.7:41000");
    let text = register("ue.example:5070;branch").replace("/UDP", "/TCP");
    let Some(Event::Request(incoming)) = bench.receive(0, flow, &text) else { panic!() };
    bench.respond(1, incoming, 200);
    bench.sent();
    bench.endpoint.ended(flow);
    assert!(bench.endpoint.unreachable(at(2), flow, &mut bench.out).is_none());
    assert!(bench.sent().is_empty());
}

fn long(method: &str) -> String {
    request_text(method, "1", &format!("X-Long: {}\r\n", "x".repeat(1_200)))
}

impl Bench {
    fn forward_long(&mut self, method: &str) -> (Flow, String) {
        let incoming = self.request(0, &long(method));
        self.forward(0, incoming, Target { tcp_local_port: 5_066, ..target() });
        self.one()
    }
}

/// X-01, RFC 3261 §18.1.1: more than 1300 bytes go by TCP, and the Via says so.
#[test]
fn a_long_request_goes_by_tcp() {
    let mut bench = Bench::new();
    let (flow, sent) = bench.forward_long("REGISTER");
    assert!(sent.len() > 1_300);
    assert_eq!(flow, tcp("192.0.2.1:5066", DOWNSTREAM));
    assert!(top_via(&sent).starts_with("SIP/2.0/TCP us.example:5060;branch="));
    bench.until(10_000);
    assert!(bench.sent().is_empty(), "TCP repeats by itself");
    let event = bench.receive(10_000, flow, &answer(&sent, 200, "d"));
    let Some(Event::Reply(branch, Ok(response))) = event else { panic!("{event:?}") };
    bench.endpoint.relay(at(10_000), branch, response, &mut bench.out);
    assert_eq!(bench.one().0, upstream(), "responses follow their request, whatever their length");
}

/// exactly 1300 bytes still go by UDP.
#[test]
fn the_limit_is_1300_bytes() {
    for (more, transport) in [(0, Transport::Udp), (1, Transport::Tcp)] {
        let mut bench = Bench::new();
        let mut request = request_of(&request_text("OPTIONS", "1", "X-Long: \r\n"));
        request.headers_mut().remove(Name::Via);
        bench.endpoint.send(at(0), request.clone(), target(), "own", LIMIT, &mut bench.out);
        let length = bench.one().1.len();
        let filler = "x".repeat(1_300 - length + more);
        request.headers_mut().remove_other("X-Long");
        request.headers_mut().append_other("X-Long", &filler);
        bench.endpoint.send(at(0), request, target(), "own", LIMIT, &mut bench.out);
        let (flow, sent) = bench.one();
        assert_eq!(flow.transport, transport, "{}", sent.len());
        assert_eq!(sent.len(), 1_300 + more);
    }
}

/// RFC 3261 §18.1.1: TCP refused: once back to UDP, with the same branch; then it is over.
#[test]
fn a_refused_connection_goes_back_to_udp() {
    for method in ["REGISTER", "INVITE"] {
        let mut bench = Bench::new();
        let (flow, over_tcp) = bench.forward_long(method);
        assert!(bench.endpoint.unreachable(at(5), flow, &mut bench.out).is_none());
        let (back, over_udp) = bench.one();
        assert_eq!(back, target().flow);
        assert_eq!(over_udp, over_tcp.replacen("/TCP", "/UDP", 1));
        bench.until(505);
        assert_eq!(bench.sent().pop().unwrap().1, over_udp, "now it is repeated");
        let event = bench.endpoint.unreachable(at(600), target().flow, &mut bench.out);
        let Some(Event::Reply(branch, Err(NoReply::Unreachable))) = event else { panic!() };
        let incoming = branch.incoming.unwrap();
        bench.respond(600, incoming, 503);
        bench.sent();
        assert_eq!(bench.endpoint.owed(), 0);
    }
}

/// RFC 3261 §18.1.1, §17.1.1.3: behind the way back to UDP the ACK names UDP too.
#[test]
fn acknowledges_over_udp_after_the_way_back() {
    let mut bench = Bench::new();
    let (flow, _) = bench.forward_long("INVITE");
    assert!(bench.endpoint.unreachable(at(5), flow, &mut bench.out).is_none());
    let (_, over_udp) = bench.one();
    let event = bench.receive(10, target().flow, &answer(&over_udp, 486, "d"));
    let Some(Event::Reply(branch, Ok(response))) = event else { panic!("{event:?}") };
    bench.endpoint.relay(at(10), branch, response, &mut bench.out);
    let (ack_flow, ack) = bench.sent().remove(0);
    assert_eq!(ack_flow, target().flow);
    assert_eq!(top_via(&ack), top_via(&over_udp));
}

/// RFC 3581 §3; S-15: a UE's Via asks for rport.
#[test]
fn asks_for_rport() {
    let mut bench = Bench::new();
    bench.endpoint.ask_for_port(true);
    bench.send(0, "REGISTER", target(), LIMIT);
    let sent = bench.one().1;
    assert!(top_via(&sent).ends_with(";rport"));
    let filled = sent.replacen(";rport", ";rport=5060;received=192.0.2.1", 1);
    let event = bench.receive(1, udp(US, DOWNSTREAM), &answer(&filled, 200, "d"));
    assert!(matches!(event, Some(Event::Reply(_, Ok(_)))));
}

/// TS 33.203 §7.1: what went to a UE inside its associations is answered by it, at the port that Via names or on
/// the way that it took; in clear, or by somebody else, nobody answers it. In the core a response may come any way.
#[test]
fn responses_on_the_way_of_their_request() {
    let (ue, to_ue) = ("198.51.100.7:5062", udp("192.0.2.1:5101", "198.51.100.7:5062"));
    let sent_by = HostPort::parse("192.0.2.1:5064").unwrap();
    for (local, remote, is_taken) in [
        ("192.0.2.1:5064", "198.51.100.7:5061", true),
        ("192.0.2.1:5101", ue, true),
        ("192.0.2.1:5060", ue, false),
        ("192.0.2.1:5060", "198.51.100.7:5060", false),
        ("192.0.2.1:5064", "198.51.100.8:5061", false),
    ] {
        for segment in [Segment::Gm, Segment::Core] {
            let mut bench = Bench::new();
            let sent_by = sent_by.clone();
            let target = Target { flow: to_ue, tcp_local_port: 5101, sent_by, segment };
            bench.send(0, "NOTIFY", target, LIMIT);
            let sent = bench.one().1;
            let bytes = Bytes::from(answer(&sent, 200, "d"));
            let (endpoint, out) = (&mut bench.endpoint, &mut bench.out);
            let event = endpoint.receive(at(1), udp(local, remote), bytes, segment, out);
            let is_due = is_taken || segment == Segment::Core;
            assert_eq!(event.is_some(), is_due, "{segment:?} {local} {remote}");
            let dropped = bench.count("tessera_sip_dropped_total", &["response_on_another_way"]);
            assert_eq!(dropped, u64::from(!is_due));
            bench.until(300_000);
        }
    }
}

/// A connection that we opened from any port has no port to compare; its other end says whose it is.
#[test]
fn responses_over_a_connection_of_ours() {
    for (remote, is_taken) in [("198.51.100.7:5062", true), ("198.51.100.7:5063", false)] {
        let mut bench = Bench::new();
        let target = Target {
            flow: tcp("192.0.2.1:0", "198.51.100.7:5062"),
            segment: Segment::Gm,
            ..target()
        };
        bench.send(0, "NOTIFY", target, LIMIT);
        let sent = bench.one().1;
        let event = bench.receive(1, tcp("192.0.2.1:40123", remote), &answer(&sent, 200, "d"));
        assert_eq!(event.is_some(), is_taken, "{remote}");
        bench.until(300_000);
    }
}
