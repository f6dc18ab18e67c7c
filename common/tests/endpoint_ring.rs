//! Three endpoints in virtual time over a network that loses, repeats, delays and reorders: a
//! caller, a proxy that sometimes thinks before it forwards, and a callee. A seed decides
//! everything. Whatever happens, each request ends once, is seen once, and all comes to rest
//! (RFC 3261 §16, §17; invariants I2, I3, I4).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::limits::Limits;
use common::node::{Flow, Now, Output, Transport};
use common::random::Random;
use common::sip::endpoint::{Endpoint, Event, Incoming, NoReply, Segment, Target};
use common::sip::header::Name;
use common::sip::message::{Method, Request, Response};
use common::sip::uri::HostPort;
use common::stats::{Samples, Value};

const CALLER: usize = 0;
const PROXY: usize = 1;
const CALLEE: usize = 2;
const REQUESTS: u64 = 12;

/// What the seed chose for a run.
#[derive(Clone, Copy, Debug)]
struct Weather {
    transport: Transport,
    segment: Segment,
    /// Percent of datagrams.
    loss: u64,
    duplication: u64,
    delay_millis: u64,
    /// Percent of messages over TCP that find no connection; of datagrams that meet no listener.
    refusal: u64,
}

impl Weather {
    fn of(random: &mut Random) -> Weather {
        let tcp = random.below(4) == 0;
        let stormy = random.below(5) > 0;
        Weather {
            transport: if tcp { Transport::Tcp } else { Transport::Udp },
            segment: if random.below(3) == 0 { Segment::Gm } else { Segment::Core },
            loss: if stormy { random.below(40) } else { 0 },
            duplication: if stormy { random.below(30) } else { 0 },
            delay_millis: if stormy { random.below(1_500) } else { 20 },
            refusal: if random.below(3) == 0 { random.below(30) } else { 0 },
        }
    }
}

/// What happens at a time, beside the timers of the endpoints.
#[derive(Debug)]
enum Happening {
    Arrival {
        node: usize,
        flow: Flow,
        bytes: Bytes,
    },
    Refused {
        node: usize,
        flow: Flow,
    },
    /// The caller sends its request of that number.
    Call(u64),
    /// The proxy has thought, the callee has made up its mind.
    Decide {
        node: usize,
    },
}

struct World {
    random: Random,
    weather: Weather,
    now: Now,
    nodes: Vec<Endpoint<u64>>,
    agenda: BTreeMap<(Now, u64), Happening>,
    next_number: u64,
    /// TCP keeps the order of each direction.
    last_arrival: BTreeMap<(usize, usize), Now>,
    held: BTreeMap<u64, (usize, Incoming)>,
    ends: BTreeMap<u64, Result<u16, NoReply>>,
    seen_by_callee: BTreeSet<String>,
    messages: u64,
    /// Everything that was delivered, in one number.
    trace: u64,
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8 + 1], 5060))
}

fn node_of(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(address) => usize::from(address.ip().octets()[3]) - 1,
        SocketAddr::V6(_) => panic!("IPv4 only here"),
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let mut random = Random::from_seed(bytes);
        let weather = Weather::of(&mut random);
        let limits = Limits::default();
        let nodes = (0..3).map(|_| Endpoint::new(random.fork(), &limits)).collect();
        World {
            random,
            weather,
            now: Now::from_millis(1_000),
            nodes,
            agenda: BTreeMap::new(),
            next_number: 0,
            last_arrival: BTreeMap::new(),
            held: BTreeMap::new(),
            ends: BTreeMap::new(),
            seen_by_callee: BTreeSet::new(),
            messages: 0,
            trace: 0,
        }
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn plan(&mut self, after_millis: u64, happening: Happening) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let at = self.now + Duration::from_millis(after_millis);
        self.agenda.insert((at, number), happening);
        number
    }

    fn target(&self, from: usize, to: usize) -> Target {
        Target {
            flow: Flow {
                transport: self.weather.transport,
                local: address(from),
                remote: address(to),
            },
            tcp_local_port: 0,
            sent_by: HostPort::parse(&address(from).to_string()).unwrap(),
            segment: self.weather.segment,
        }
    }

    /// Puts what a node sent on the network.
    fn transmit(&mut self, node: usize, out: Vec<Output>) {
        for output in out {
            let Output::Sip { flow, bytes } = output else { panic!("{output:?}") };
            self.messages += 1;
            let to = node_of(flow.remote);
            let mut local = flow.local;
            if local.port() == 0 {
                local.set_port(40_000);
            }
            let seen = Flow { transport: flow.transport, local: flow.remote, remote: local };
            if self.percent(self.weather.refusal) {
                self.plan(5, Happening::Refused { node, flow });
                continue;
            }
            let arrival = |bytes| Happening::Arrival { node: to, flow: seen, bytes };
            if flow.transport == Transport::Tcp {
                let delay = self.random.below(self.weather.delay_millis + 1);
                let last = self.last_arrival.get(&(node, to)).copied().unwrap_or_default();
                let at = (self.now + Duration::from_millis(delay)).max(last);
                self.last_arrival.insert((node, to), at);
                self.plan(at.since(self.now).as_millis() as u64, arrival(bytes));
                continue;
            }
            let copies = if self.percent(self.weather.duplication) { 2 } else { 1 };
            for _ in 0..copies {
                if !self.percent(self.weather.loss) {
                    let delay = self.random.below(self.weather.delay_millis + 1);
                    self.plan(delay, arrival(bytes.clone()));
                }
            }
        }
    }

    fn run(&mut self) {
        for number in 0..REQUESTS {
            let at = self.random.below(20_000);
            self.plan(at, Happening::Call(number));
        }
        for _ in 0..200_000 {
            let timeout = (0..3).filter_map(|node| {
                self.nodes[node].next_timeout().map(|at| (at.max(self.now), node))
            });
            let timeout = timeout.min();
            let next = self.agenda.first_key_value().map(|((at, _), _)| *at);
            match (timeout, next) {
                (None, None) => return,
                (Some((at, node)), next) if next.is_none_or(|next| at < next) => {
                    self.now = at;
                    self.expire(node);
                }
                (_, _) => {
                    let ((at, number), happening) = self.agenda.pop_first().unwrap();
                    self.now = at;
                    self.happen(number, happening);
                }
            }
        }
        panic!("no rest");
    }

    fn expire(&mut self, node: usize) {
        loop {
            let mut out = Vec::new();
            let event = self.nodes[node].expire(self.now, &mut out);
            self.transmit(node, out);
            match event {
                Some(event) => self.on_event(node, event),
                None => return,
            }
        }
    }

    fn happen(&mut self, number: u64, happening: Happening) {
        match happening {
            Happening::Arrival { node, flow, bytes } => {
                for byte in &bytes {
                    self.trace = self.trace.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte);
                }
                let mut out = Vec::new();
                let segment = self.weather.segment;
                let event = self.nodes[node].receive(self.now, flow, bytes, segment, &mut out);
                self.transmit(node, out);
                if let Some(event) = event {
                    self.on_event(node, event);
                }
            }
            Happening::Refused { node, flow } => loop {
                let mut out = Vec::new();
                let event = self.nodes[node].unreachable(self.now, flow, &mut out);
                self.transmit(node, out);
                match event {
                    Some(event) => self.on_event(node, event),
                    None => return,
                }
            },
            Happening::Call(call) => self.call(call),
            Happening::Decide { node } => {
                let (_, incoming) = self.held.remove(&number).expect("held until now");
                match node {
                    PROXY => self.forward(incoming),
                    _ => self.answer(incoming),
                }
            }
        }
    }

    fn call(&mut self, call: u64) {
        let method = ["REGISTER", "MESSAGE", "INVITE", "INVITE"][self.random.below(4) as usize];
        let mut request = Request::new(method, "sip:b@callee.example");
        let headers = request.headers_mut();
        headers.append(Name::From, "<sip:a@caller.example>;tag=a");
        headers.append(Name::To, "<sip:b@callee.example>");
        headers.append(Name::CallId, &format!("call-{call}"));
        headers.append(Name::CSeq, &format!("{} {method}", call + 1));
        if self.percent(20) {
            headers.append_other("X-Long", &"x".repeat(1_400));
        }
        let limit = Duration::from_millis(2_000 + self.random.below(200_000));
        let target = self.target(CALLER, PROXY);
        let mut out = Vec::new();
        self.nodes[CALLER].send(self.now, request, target, call, limit, &mut out);
        self.transmit(CALLER, out);
    }

    fn on_event(&mut self, node: usize, event: Event<u64>) {
        match (node, event) {
            (CALLER, Event::Reply(branch, result)) => {
                assert!(branch.incoming.is_none());
                let end = result.as_ref().map(Response::status).map_err(|error| *error);
                let before = self.ends.insert(branch.wait, end);
                assert_eq!(before, None, "request {} ended twice", branch.wait);
                if let Ok(response) = result {
                    self.acknowledge(&response);
                }
            }
            (CALLER, Event::Provisional(branch, _)) => self.nodes[CALLER].keep(branch),
            (PROXY, Event::Request(incoming)) => {
                if self.percent(50) {
                    let after = self.random.below(4_000);
                    self.hold(PROXY, after, incoming);
                } else {
                    self.forward(incoming);
                }
            }
            (PROXY, Event::Provisional(branch, response)) => {
                let mut out = Vec::new();
                if self.percent(80) {
                    self.nodes[PROXY].relay(self.now, branch, response, &mut out);
                } else {
                    self.nodes[PROXY].keep(branch);
                }
                self.transmit(PROXY, out);
            }
            (PROXY, Event::Reply(branch, Ok(response))) => {
                let mut out = Vec::new();
                self.nodes[PROXY].relay(self.now, branch, response, &mut out);
                self.transmit(PROXY, out);
            }
            (PROXY, Event::Reply(branch, Err(reason))) => {
                let incoming = branch.incoming.expect("the proxy sends nothing of its own");
                if reason == NoReply::Unreachable && self.percent(50) {
                    self.forward(incoming);
                } else {
                    self.respond(PROXY, incoming, 504);
                }
            }
            (PROXY, Event::Ack { request, .. }) => {
                let target = self.target(PROXY, CALLEE);
                let mut out = Vec::new();
                self.nodes[PROXY].forward_ack(request, &target, &mut out);
                self.transmit(PROXY, out);
            }
            (CALLEE, Event::Request(incoming)) => {
                let retried = self.weather.refusal > 0;
                let is_new = self.seen_by_callee.insert(incoming.request().call_id().to_owned());
                assert!(is_new || retried, "a repetition came through");
                let after = self.random.below(6_000);
                if incoming.request().method() == Method::Invite && self.percent(70) {
                    let ringing = incoming.request().response(180, "Ringing");
                    let mut out = Vec::new();
                    self.nodes[CALLEE].progress(self.now, &incoming, ringing, &mut out);
                    self.transmit(CALLEE, out);
                }
                self.hold(CALLEE, after, incoming);
            }
            (CALLEE, Event::Ack { request, .. }) => assert_eq!(request.method(), Method::Ack),
            (node, event) => panic!("node {node}: {event:?}"),
        }
    }

    fn hold(&mut self, node: usize, after_millis: u64, incoming: Incoming) {
        let number = self.plan(after_millis, Happening::Decide { node });
        self.held.insert(number, (node, incoming));
    }

    fn forward(&mut self, incoming: Incoming) {
        let request = incoming.request().clone();
        let wait = u64::from(request.cseq());
        let target = self.target(PROXY, CALLEE);
        let limit = Duration::from_millis(3_000 + self.random.below(200_000));
        let mut out = Vec::new();
        self.nodes[PROXY].forward(self.now, incoming, request, target, wait, limit, &mut out);
        self.transmit(PROXY, out);
    }

    fn answer(&mut self, incoming: Incoming) {
        let status = match self.nodes[CALLEE].is_cancelled(&incoming) {
            true => 487,
            false => [200, 200, 404, 486][self.random.below(4) as usize],
        };
        self.respond(CALLEE, incoming, status);
    }

    fn respond(&mut self, node: usize, incoming: Incoming, status: u16) {
        let response = incoming.request().response(status, "Reason");
        let mut out = Vec::new();
        self.nodes[node].respond(self.now, incoming, response, &mut out);
        self.transmit(node, out);
    }

    fn acknowledge(&mut self, response: &Response) {
        if response.cseq_method() != Method::Invite || !response.is_success() {
            return;
        }
        let mut ack = Request::new("ACK", "sip:b@callee.example");
        for name in [Name::From, Name::To, Name::CallId] {
            ack.headers_mut().copy_from(response.headers(), name);
        }
        ack.headers_mut().append(Name::CSeq, &format!("{} ACK", response.cseq()));
        let target = self.target(CALLER, PROXY);
        let mut out = Vec::new();
        self.nodes[CALLER].send_ack(ack, &target, &mut out);
        self.transmit(CALLER, out);
    }

    fn check_rest(&self, seed: u64) {
        let weather = self.weather;
        assert!(self.held.is_empty());
        assert_eq!(self.ends.len() as u64, REQUESTS, "seed {seed}, {weather:?}: {:?}", self.ends);
        for (name, node) in ["caller", "proxy", "callee"].iter().zip(&self.nodes) {
            assert_eq!(node.owed(), 0, "seed {seed}, {weather:?}: {name} owes");
            assert_eq!(node.next_timeout(), None);
            let mut samples = Samples::default();
            node.samples(&mut samples);
            for sample in samples.0 {
                if sample.name == "tessera_sip_transactions_open" {
                    assert_eq!(sample.value, Value::Gauge(0.0), "seed {seed}: {name}, {sample:?}");
                }
            }
        }
        if weather.loss == 0 && weather.refusal == 0 {
            let unanswered = self.ends.values().filter(|end| end.is_err()).count();
            let short_limits = self.ends.len() / 2;
            assert!(unanswered <= short_limits, "seed {seed}, {weather:?}: {:?}", self.ends);
        }
    }
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    world.run();
    world.check_rest(seed);
    world
}

/// RFC 3261 §17.1, §17.2, RFC 6026 §8; I3, I4: each of many seeds comes to rest with nothing owed.
/// `RING_SEED=n` runs one of them, `RING_SEEDS=n` that many.
#[test]
fn every_seed_comes_to_rest() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("RING_SEED") {
        run(seed);
        return;
    }
    let (mut answered, mut given_up, mut messages) = (0, 0, 0);
    for seed in 0..number("RING_SEEDS").unwrap_or(600) {
        let world = run(seed);
        answered += world.ends.values().filter(|end| end.is_ok()).count();
        given_up += world.ends.values().filter(|end| end.is_err()).count();
        messages += world.messages;
    }
    println!("{answered} answered, {given_up} given up, {messages} messages");
    assert!(answered > 4 * given_up, "{answered} answered, {given_up} given up");
    assert!(given_up > 0, "the network was too kind to test anything");
}

/// I2: the same seed gives the same messages, byte for byte.
#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 14, 159, 265] {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.trace, second.trace);
        assert_eq!(first.ends, second.ends);
        assert_eq!(first.messages, second.messages);
    }
}
