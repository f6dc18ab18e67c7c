//! Endpoints joined by a network of virtual time: greeting, questions, watchdog, failover,
//! reconnection, election, silence, limits (RFC 6733 §5, §6; RFC 3539).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::cx::{
    APPLICATION, Answer, Answered, Endpoint, Event, Outcome, Received, Request, Rta, Rtr, Saa, Sar,
    Uaa, Uar, avp, sar::ServerAssignmentType,
};
use common::diameter::base::{self, result_code};
use common::diameter::endpoint::{Config, NoAnswer, PeerConfig};
use common::diameter::message::{
    Builder, Definition, FLAG_ERROR, FLAG_PROXIABLE, FLAG_REQUEST, FLAG_RETRANSMITTED, Header,
    Message,
};
use common::limits::Limits;
use common::node::{ConnectionId, Input, Now, Output};
use common::random::Random;
use common::stats::{Samples, Value};

const LATENCY: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(10);
const IMPU: &str = "sip:name@hims.net";

struct Place {
    name: &'static str,
    endpoint: Endpoint<u32>,
    /// Takes nothing from the network and answers nothing; its connections stay.
    is_hung: bool,
    /// What waits for it in the meantime.
    unread: Vec<Input>,
    /// Answers to requests are held back.
    is_slow: bool,
    /// Connections to it fail.
    is_away: bool,
    received: Vec<Received>,
    requests: Vec<Request>,
    answers: Vec<(Now, u32, Result<Answered, NoAnswer>)>,
    /// It is an SLF that names these, DiameterURIs.
    redirects_to: Vec<String>,
}

enum Delivery {
    Input(usize, Input),
    Connect(usize, u32, String),
}

/// A message seen on the wire.
struct Wire {
    from: &'static str,
    to: &'static str,
    message: Message,
}

struct World {
    now: Now,
    places: Vec<Place>,
    queue: BTreeMap<(Now, u64), Delivery>,
    next: u64,
    /// Each end with its other one.
    links: BTreeMap<(usize, ConnectionId), (usize, ConnectionId)>,
    wire: Vec<Wire>,
}

fn config(name: &str, peers: &[&str]) -> Config {
    Config {
        identity: format!("{name}.hims.net"),
        realm: "hims.net".into(),
        listen: None,
        peers: peers
            .iter()
            .map(|peer| PeerConfig {
                identity: Some(format!("{peer}.hims.net")),
                host: format!("{peer}.hims.net"),
                port: 3868,
                by_name_only: false,
            })
            .collect(),
        allowed_peers: Vec::new(),
        watchdog_milliseconds: 30_000,
        reconnect_milliseconds: 500,
        reconnect_max_milliseconds: 30_000,
        request_timeout_milliseconds: 3_000,
    }
}

fn uar() -> Request {
    Request::Uar(Uar {
        user_name: "name.private@hims.net".into(),
        public_identity: IMPU.into(),
        visited_network_identifier: "vims.net".into(),
        ..Uar::default()
    })
}

fn answer_to(request: &Request, from: &str) -> Answer {
    match request {
        Request::Uar(_) => Answer::Uaa(Uaa {
            outcome: Outcome::SUBSEQUENT_REGISTRATION,
            server_name: Some(format!("sip:from.{from}")),
            server_capabilities: None,
        }),
        Request::Sar(_) => Answer::Saa(Saa {
            outcome: Outcome::SUCCESS,
            user_data: Some(Bytes::from_static(b"<x/>")),
            ..Saa::default()
        }),
        Request::Rtr(_) => Answer::Rta(Rta {
            outcome: Outcome::SUCCESS,
            associated_identities: Vec::new(),
            emergency_registrations: Vec::new(),
        }),
        other => panic!("{other:?}"),
    }
}

impl World {
    fn new(places: Vec<(&'static str, Config)>) -> World {
        let limits = Limits::default();
        World::with_limits(places, &limits)
    }

    fn with_limits(places: Vec<(&'static str, Config)>, limits: &Limits) -> World {
        let places = places
            .into_iter()
            .enumerate()
            .map(|(index, (name, config))| Place {
                name,
                endpoint: Endpoint::new(config, Random::from_seed([index as u8; 32]), limits),
                is_hung: false,
                unread: Vec::new(),
                is_slow: false,
                is_away: false,
                received: Vec::new(),
                requests: Vec::new(),
                answers: Vec::new(),
                redirects_to: Vec::new(),
            })
            .collect();
        World {
            now: Now::from_millis(1_700_000_000_000),
            places,
            queue: BTreeMap::new(),
            next: 1,
            links: BTreeMap::new(),
            wire: Vec::new(),
        }
    }

    fn started(places: Vec<(&'static str, Config)>) -> World {
        let mut world = World::new(places);
        world.start_all();
        world.run(1_000);
        world
    }

    fn start_all(&mut self) {
        for index in 0..self.places.len() {
            self.with(index, |endpoint, now, out| endpoint.start(now, out));
        }
    }

    fn with(&mut self, index: usize, act: impl FnOnce(&mut Endpoint<u32>, Now, &mut Vec<Output>)) {
        let mut out = Vec::new();
        act(&mut self.places[index].endpoint, self.now, &mut out);
        loop {
            let Some(event) = self.places[index].endpoint.next_event() else { break };
            let place = &mut self.places[index];
            match event {
                Event::Answer { wait, result } => place.answers.push((self.now, wait, result)),
                Event::Request(received) => {
                    place.requests.push(received.request.clone());
                    if !place.redirects_to.is_empty() {
                        let hosts = place.redirects_to.clone();
                        place.endpoint.redirect(received, &hosts, 600, &mut out);
                    } else if place.is_slow {
                        place.received.push(received);
                    } else {
                        let answer = answer_to(&received.request, place.name);
                        place.endpoint.answer(self.now, received, answer, &mut out);
                    }
                }
            }
        }
        for output in out {
            self.output(index, output);
        }
    }

    fn output(&mut self, index: usize, output: Output) {
        match output {
            Output::Connect { peer, host, .. } => {
                self.later(Delivery::Connect(index, peer.0, host));
            }
            Output::Diameter { connection, bytes } => {
                let Some(&(other, there)) = self.links.get(&(index, connection)) else { return };
                if let Ok(message) = Message::decode(bytes.clone(), &Limits::default()) {
                    let (from, to) = (self.places[index].name, self.places[other].name);
                    self.wire.push(Wire { from, to, message });
                }
                self.later(Delivery::Input(other, Input::Diameter { connection: there, bytes }));
            }
            Output::Close { connection } => {
                if let Some((other, there)) = self.links.remove(&(index, connection)) {
                    self.links.remove(&(other, there));
                    self.later(Delivery::Input(other, Input::Closed { connection: there }));
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn later(&mut self, delivery: Delivery) {
        self.queue.insert((self.now + LATENCY, self.next), delivery);
        self.next += 1;
    }

    fn connection(&mut self) -> ConnectionId {
        self.next += 1;
        ConnectionId(self.next)
    }

    fn opened(index: usize, connection: ConnectionId, peer: Option<u32>) -> Delivery {
        let address: SocketAddr = "192.0.2.1:3868".parse().unwrap();
        let peer = peer.map(common::node::PeerIndex);
        let input = Input::Opened { connection, peer, local: address, remote: address };
        Delivery::Input(index, input)
    }

    fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Input(index, input) => {
                if self.places[index].is_hung {
                    self.places[index].unread.push(input);
                } else {
                    self.with(index, |endpoint, now, out| endpoint.input(now, input, out));
                }
            }
            Delivery::Connect(index, peer, host) => {
                let other =
                    self.places.iter().position(|place| format!("{}.hims.net", place.name) == host);
                match other.filter(|other| !self.places[*other].is_away) {
                    None => {
                        let peer = common::node::PeerIndex(peer);
                        self.later(Delivery::Input(index, Input::ConnectFailed { peer }));
                    }
                    Some(other) => {
                        let (here, there) = (self.connection(), self.connection());
                        self.links.insert((index, here), (other, there));
                        self.links.insert((other, there), (index, here));
                        self.deliver(World::opened(other, there, None));
                        self.later(World::opened(index, here, Some(peer)));
                    }
                }
            }
        }
    }

    fn run(&mut self, milliseconds: u64) {
        let until = self.now + Duration::from_millis(milliseconds);
        let mut steps = 0;
        loop {
            let delivery = self.queue.keys().next().map(|key| key.0);
            let timers = self
                .places
                .iter()
                .filter(|place| !place.is_hung)
                .map(|p| p.endpoint.next_timeout());
            let next = timers.chain([delivery]).flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            steps += 1;
            assert!(steps < 1_000_000, "no end");
            self.now = self.now.max(next);
            if delivery.is_some_and(|delivery| delivery <= self.now) {
                let (_, delivery) = self.queue.pop_first().unwrap();
                self.deliver(delivery);
            } else {
                for index in 0..self.places.len() {
                    if !self.places[index].is_hung {
                        self.with(index, |endpoint, now, out| endpoint.expire(now, out));
                    }
                }
            }
        }
        self.now = until;
    }

    fn index(&self, name: &str) -> usize {
        self.places.iter().position(|place| place.name == name).unwrap()
    }

    fn at(&mut self, name: &str) -> &mut Place {
        let index = self.index(name);
        &mut self.places[index]
    }

    fn ask(&mut self, name: &str, request: Request, host: Option<&str>, wait: u32) {
        let index = self.index(name);
        self.with(index, |endpoint, now, out| {
            endpoint.ask(now, request, host, wait, LIMIT, out);
        });
    }

    /// Cuts every connection of a place, as when its process dies; who is at the other end sees it.
    fn kill(&mut self, name: &str) {
        let index = self.index(name);
        self.places[index].is_away = true;
        let ends: Vec<_> = self.links.keys().filter(|end| end.0 == index).copied().collect();
        for end in ends {
            if let Some((other, there)) = self.links.remove(&end) {
                self.links.remove(&(other, there));
                self.later(Delivery::Input(other, Input::Closed { connection: there }));
                self.later(Delivery::Input(end.0, Input::Closed { connection: end.1 }));
            }
        }
    }

    fn resume(&mut self, name: &str) {
        let index = self.index(name);
        self.places[index].is_hung = false;
        for input in std::mem::take(&mut self.places[index].unread) {
            self.with(index, |endpoint, now, out| endpoint.input(now, input, out));
        }
    }

    fn connections_between(&self, one: &str, other: &str) -> usize {
        let (one, other) = (self.index(one), self.index(other));
        self.links.iter().filter(|(from, to)| from.0 == one && to.0 == other).count()
    }

    /// The messages of that command that went from one to another.
    fn sent(&self, from: &str, to: &str, command: u32, is_request: bool) -> Vec<&Message> {
        self.wire
            .iter()
            .filter(|wire| (wire.from, wire.to) == (from, to))
            .map(|wire| &wire.message)
            .filter(|message| message.header.command == command)
            .filter(|message| message.header.is_request() == is_request)
            .collect()
    }

    fn outcome(&mut self, name: &str, wait: u32) -> Result<Outcome, NoAnswer> {
        let answers = &mut self.at(name).answers;
        let mut of_wait = answers.iter().filter(|answer| answer.1 == wait);
        let (_, _, result) = of_wait.next().expect("the wait has come back");
        assert!(of_wait.next().is_none(), "once");
        result.as_ref().map(|answered| answered.answer.outcome()).map_err(|reason| *reason)
    }

    fn counter(&mut self, name: &str, metric: &str) -> u64 {
        let mut samples = Samples::default();
        self.at(name).endpoint.samples(&mut samples);
        let of_metric = samples.0.iter().filter(|sample| sample.name == metric);
        of_metric
            .map(|sample| match sample.value {
                Value::Counter(value) => value,
                _ => 0,
            })
            .sum()
    }
}

fn pair() -> World {
    World::started(vec![("scscf1", config("scscf1", &["hss1"])), ("hss1", config("hss1", &[]))])
}

/// Two HSSs with the same data, in order of preference.
fn trio() -> World {
    World::started(vec![
        ("scscf1", config("scscf1", &["hss1", "hss2"])),
        ("hss1", config("hss1", &[])),
        ("hss2", config("hss2", &[])),
    ])
}

fn text(message: &Message, definition: Definition) -> &str {
    message.find(definition).expect("the AVP is there").text().unwrap()
}

/// RFC 6733 §5.3, TS 29.229 §5.6: CER and CEA announce the application and both vendors.
#[test]
fn greets() {
    let mut world = pair();
    assert!(world.at("scscf1").endpoint.is_up() && world.at("hss1").endpoint.is_up());
    let cer = world.sent("scscf1", "hss1", 257, true)[0];
    assert_eq!(cer.header.flags, FLAG_REQUEST);
    assert_eq!(cer.header.application, 0);
    assert_eq!(cer.find(base::SUPPORTED_VENDOR_ID).unwrap().number().unwrap(), 10415);
    assert!(cer.find(base::ACCT_APPLICATION_ID).is_none());
    let cea = world.sent("hss1", "scscf1", 257, false)[0];
    assert_eq!(cea.header.flags, 0);
    assert_eq!(cea.find(base::RESULT_CODE).unwrap().number().unwrap(), 2001);
    let group = cea.find(base::VENDOR_SPECIFIC_APPLICATION_ID).unwrap();
    let ids: Vec<u32> = group.group().unwrap().map(|avp| avp.number().unwrap()).collect();
    assert_eq!(ids, [10415, 16_777_216]);
}

/// TS 29.229 §6.1; S-41: question and answer, with all that a request and an answer must carry.
#[test]
fn asks_and_answers() {
    let mut world = pair();
    world.ask("scscf1", uar(), None, 1);
    assert_eq!(world.at("scscf1").endpoint.owed(), 1);
    world.run(100);
    assert_eq!(world.outcome("scscf1", 1), Ok(Outcome::SUBSEQUENT_REGISTRATION));
    assert_eq!(world.at("scscf1").endpoint.owed(), 0);
    let (_, _, answered) = &world.at("scscf1").answers[0];
    let answered = answered.as_ref().unwrap();
    assert_eq!(answered.origin_host, "hss1.hims.net");
    assert_eq!(answered.origin_realm, "hims.net");

    let request = world.sent("scscf1", "hss1", 300, true)[0];
    assert_eq!(request.header.flags, FLAG_REQUEST | FLAG_PROXIABLE);
    assert_eq!(request.header.application, 16_777_216);
    let first = request.avps().next().unwrap();
    assert!(first.is(base::SESSION_ID), "Session-Id comes first");
    assert_eq!(text(request, base::SESSION_ID), "scscf1.hims.net;1700000000;0");
    assert_eq!(request.find(base::AUTH_SESSION_STATE).unwrap().number().unwrap(), 1);
    assert_eq!(text(request, base::DESTINATION_REALM), "hims.net");
    assert!(request.find(base::DESTINATION_HOST).is_none());

    let answer = world.sent("hss1", "scscf1", 300, false)[0];
    assert_eq!(answer.header.flags, FLAG_PROXIABLE);
    assert_eq!(answer.header.hop_by_hop, request.header.hop_by_hop);
    assert_eq!(answer.header.end_to_end, request.header.end_to_end);
    assert!(answer.avps().next().unwrap().is(base::SESSION_ID));
    assert_eq!(text(answer, base::SESSION_ID), text(request, base::SESSION_ID));
    assert_eq!(text(answer, base::ORIGIN_HOST), "hss1.hims.net");
    assert_eq!(answer.find(base::AUTH_SESSION_STATE).unwrap().number().unwrap(), 1);
    assert!(answer.find(base::VENDOR_SPECIFIC_APPLICATION_ID).is_some());
    assert!(answer.find(base::DESTINATION_REALM).is_none());

    let mut samples = Samples::default();
    world.at("scscf1").endpoint.samples(&mut samples);
    let histogram = samples.0.iter().find(|sample| sample.name == "tessera_cx_answer_seconds");
    let Some(Value::Histogram(histogram)) = histogram.map(|sample| &sample.value) else {
        panic!("no histogram")
    };
    assert_eq!(histogram.count(), 1);
    let answers = samples.0.iter().find(|sample| sample.name == "tessera_cx_answers_total");
    let result = ("result", "experimental-2002".to_owned());
    assert!(answers.unwrap().labels.contains(&result));
}

/// RFC 6733 §8.8: Session-Ids are new for each request and after a restart.
#[test]
fn never_repeats_a_session_id() {
    let mut seen = BTreeSet::new();
    for restart in 0..3 {
        let mut world = World::new(vec![
            ("scscf1", config("scscf1", &["hss1"])),
            ("hss1", config("hss1", &[])),
        ]);
        world.now = Now::from_millis(1_700_000_000_000 + restart * 1_000);
        world.start_all();
        world.run(1_000);
        for wait in 0..5 {
            world.ask("scscf1", uar(), None, wait);
        }
        for message in world.sent("scscf1", "hss1", 300, true) {
            assert!(seen.insert(text(message, base::SESSION_ID).to_owned()));
        }
    }
    assert_eq!(seen.len(), 15);
}

/// TS 29.229 §6.1.9: RTR goes to the S-CSCF that it names, over the connection that the S-CSCF
/// opened, and nowhere else.
#[test]
fn sends_rtr_where_it_belongs() {
    let mut world = World::started(vec![
        ("scscf1", config("scscf1", &["hss1"])),
        ("scscf2", config("scscf2", &["hss1"])),
        ("hss1", config("hss1", &[])),
    ]);
    let rtr = |host: &str| {
        Request::Rtr(Rtr {
            destination_host: host.into(),
            user_name: "name.private@hims.net".into(),
            public_identities: vec![IMPU.into()],
            ..Rtr::default()
        })
    };
    world.ask("hss1", rtr("scscf2.hims.net"), None, 1);
    world.ask("hss1", rtr("scscf9.hims.net"), None, 2);
    world.run(100);
    assert_eq!(world.outcome("hss1", 1), Ok(Outcome::SUCCESS));
    assert_eq!(world.outcome("hss1", 2), Err(NoAnswer::NoPeer));
    assert_eq!(world.at("scscf2").requests, [rtr("scscf2.hims.net")]);
    assert!(world.at("scscf1").requests.is_empty());
    // Gone while it was asked: nobody else may have it.
    world.at("scscf2").is_slow = true;
    world.ask("hss1", rtr("scscf2.hims.net"), None, 3);
    world.run(50);
    world.kill("scscf2");
    world.run(100);
    assert_eq!(world.outcome("hss1", 3), Err(NoAnswer::NoPeer));
    assert!(world.at("scscf1").requests.is_empty());
}

/// RFC 6733 §5.5.4: the peer dies while it is asked; the other one gets the request with T, the
/// same End-to-End Identifier and Session-Id, and a new Hop-by-Hop Identifier.
#[test]
fn fails_over_when_the_peer_dies() {
    let mut world = trio();
    world.at("hss1").is_slow = true;
    world.ask("scscf1", uar(), Some("hss1.hims.net"), 1);
    world.run(50);
    world.kill("hss1");
    world.run(100);
    assert_eq!(world.outcome("scscf1", 1), Ok(Outcome::SUBSEQUENT_REGISTRATION));
    let first = world.sent("scscf1", "hss1", 300, true)[0];
    let second = world.sent("scscf1", "hss2", 300, true)[0];
    assert!(!first.header.is_retransmitted());
    assert_eq!(second.header.flags, FLAG_REQUEST | FLAG_PROXIABLE | FLAG_RETRANSMITTED);
    assert_eq!(first.header.end_to_end, second.header.end_to_end);
    assert_ne!(first.header.hop_by_hop, second.header.hop_by_hop);
    assert_eq!(text(first, base::SESSION_ID), text(second, base::SESSION_ID));
    assert_eq!(text(first, base::DESTINATION_HOST), "hss1.hims.net");
    assert!(second.find(base::DESTINATION_HOST).is_none(), "hss2 would refuse it");
    assert_eq!(world.counter("scscf1", "tessera_diameter_failovers_total"), 1);
}

/// RFC 6733 §5.5.4: what the first peer answers after the request has moved is ignored.
#[test]
fn ignores_the_late_answer() {
    let mut world = trio();
    world.at("hss1").is_slow = true;
    world.ask("scscf1", uar(), None, 1);
    world.run(3_500);
    let (_, _, answered) = &world.at("scscf1").answers[0];
    assert_eq!(answered.as_ref().unwrap().origin_host, "hss2.hims.net");
    let held = world.at("hss1").received.pop().unwrap();
    let index = world.index("hss1");
    let answer = answer_to(&held.request, "hss1");
    world.with(index, |endpoint, now, out| endpoint.answer(now, held, answer, out));
    world.run(100);
    assert_eq!(world.at("scscf1").answers.len(), 1);
    assert_eq!(world.counter("scscf1", "tessera_diameter_late_answers_total"), 1);
}

/// No peer, or none any more: the wait comes back at once, and from outside the call.
#[test]
fn says_that_there_is_no_peer() {
    let mut world = World::new(vec![("scscf1", config("scscf1", &["hss1"]))]);
    world.ask("scscf1", uar(), None, 1);
    assert_eq!(world.outcome("scscf1", 1), Err(NoAnswer::NoPeer));
    let mut world = pair();
    world.at("hss1").is_slow = true;
    world.ask("scscf1", uar(), None, 2);
    world.run(20);
    world.kill("hss1");
    world.run(10);
    assert_eq!(world.outcome("scscf1", 2), Err(NoAnswer::NoPeer));
    assert!(!world.at("scscf1").endpoint.is_up());
}

/// RFC 6733 §2.1: a lost connection is tried again after a delay that doubles, with jitter, to a
/// limit; and the service returns with the peer.
#[test]
fn reconnects() {
    let mut world = pair();
    world.kill("hss1");
    world.run(120_000);
    let tries = world.counter("scscf1", "tessera_diameter_connects_total");
    assert!((8..=14).contains(&tries), "{tries} in two minutes");
    world.at("hss1").is_away = false;
    world.run(31_000);
    assert!(world.at("scscf1").endpoint.is_up());
    world.ask("scscf1", uar(), None, 1);
    world.run(100);
    assert!(world.outcome("scscf1", 1).is_ok());
}

/// RFC 3539 §3.4: DWR when nothing was heard for Tw; RFC 6733 §5.5: answered, and nothing else
/// happens.
#[test]
fn watches() {
    let mut world = pair();
    world.run(100_000);
    let asked = world.sent("scscf1", "hss1", 280, true).len();
    let answered = world.sent("hss1", "scscf1", 280, false).len();
    // Either side's DWR keeps the other's timer from expiring.
    let asked_back = world.sent("hss1", "scscf1", 280, true).len();
    assert!((3..=7).contains(&(asked + asked_back)), "{asked} + {asked_back}");
    assert_eq!(asked, answered);
    assert_eq!(world.counter("scscf1", "tessera_diameter_connects_total"), 1);
    assert!(world.at("scscf1").endpoint.is_up());
}

/// Pitfall 23; RFC 3539 §3.4: an HSS that hangs with its connection up. Requests time out in their
/// time, the watchdog finds out, requests then fail at once, and service returns with the HSS:
/// REOPEN serves when there is no other, and three DWAs end it.
#[test]
fn survives_a_hung_peer() {
    let mut world = pair();
    world.at("hss1").is_hung = true;
    let begin = world.now;
    world.ask("scscf1", uar(), None, 1);
    world.run(5_000);
    assert_eq!(world.outcome("scscf1", 1), Err(NoAnswer::Timeout));
    assert_eq!(world.at("scscf1").answers[0].0.since(begin), Duration::from_secs(3));
    world.run(65_000);
    assert_eq!(world.counter("scscf1", "tessera_diameter_suspects_total"), 1);
    assert!(!world.at("scscf1").endpoint.is_up());
    world.ask("scscf1", uar(), None, 2);
    assert_eq!(world.outcome("scscf1", 2), Err(NoAnswer::NoPeer), "at once");
    world.run(40_000);
    assert_eq!(world.connections_between("scscf1", "hss1"), 0, "closed by the watchdog");

    world.resume("hss1");
    world.run(45_000);
    assert!(world.at("scscf1").endpoint.is_up());
    world.ask("scscf1", uar(), None, 3);
    world.run(100);
    assert!(world.outcome("scscf1", 3).is_ok());
    let before = world.sent("hss1", "scscf1", 280, false).len();
    world.run(100_000);
    assert!(world.sent("hss1", "scscf1", 280, false).len() >= before + 2);
    let mut samples = Samples::default();
    world.at("scscf1").endpoint.samples(&mut samples);
    let state = samples.0.iter().find(|sample| sample.name == "tessera_diameter_peer_state");
    assert!(state.unwrap().labels.contains(&("watchdog", "okay".to_owned())), "{state:?}");
}

/// RFC 6733 §5.5.4: one of two HSSs hangs: the first question takes the other one when its peer's
/// time is up, and those behind it go there directly, before and after the watchdog has noticed, also
/// those that would rather have had that peer. When it is back, it serves again.
#[test]
fn leaves_a_hung_peer_for_another() {
    let mut world = trio();
    world.at("hss1").is_hung = true;
    world.ask("scscf1", uar(), None, 1);
    world.run(4_000);
    assert!(world.outcome("scscf1", 1).is_ok());
    for (wait, preferred) in [(2, None), (3, Some("hss1.hims.net")), (4, None)] {
        let before = world.now;
        world.ask("scscf1", uar(), preferred, wait);
        world.run(100);
        assert!(world.outcome("scscf1", wait).is_ok());
        let (at, _, answered) = world.at("scscf1").answers.last().unwrap();
        assert_eq!(at.since(before), 2 * LATENCY);
        assert_eq!(answered.as_ref().unwrap().origin_host, "hss2.hims.net");
        assert_eq!(world.sent("scscf1", "hss1", 300, true).len(), 1);
        world.run(if wait == 3 { 62_000 } else { 0 });
    }
    world.resume("hss1");
    world.run(200_000);
    world.ask("scscf1", uar(), None, 5);
    world.run(100);
    assert_eq!(world.answered_by("scscf1", 5), "hss1.hims.net");
}

/// A peer that leaves one question alone and answers others is not silent.
#[test]
fn one_question_without_an_answer_is_no_silence() {
    let mut world = trio();
    world.at("hss1").is_slow = true;
    world.ask("scscf1", uar(), None, 1);
    world.run(1_000);
    world.at("hss1").is_slow = false;
    world.ask("scscf1", uar(), None, 2);
    world.run(3_000);
    assert_eq!(world.answered_by("scscf1", 1), "hss2.hims.net");
    world.ask("scscf1", uar(), None, 3);
    world.run(100);
    assert_eq!(world.answered_by("scscf1", 3), "hss1.hims.net");
}

/// RFC 6733 §5.6.4: both open at once; the connection that the smaller Origin-Host opened survives,
/// on both sides, and it works in both directions.
#[test]
fn elects() {
    let mut world = World::started(vec![
        ("scscf1", config("scscf1", &["hss1"])),
        ("hss1", config("hss1", &["scscf1"])),
    ]);
    world.run(2_000);
    assert_eq!(world.connections_between("scscf1", "hss1"), 1);
    assert!(world.at("scscf1").endpoint.is_up() && world.at("hss1").endpoint.is_up());
    let cea = world.sent("scscf1", "hss1", 257, false);
    assert_eq!(cea.len(), 1, "the larger Origin-Host answers");
    assert!(world.sent("hss1", "scscf1", 257, false).is_empty());
    world.ask("scscf1", uar(), None, 1);
    let rtr = Request::Rtr(Rtr {
        destination_host: "scscf1.hims.net".into(),
        user_name: "x".into(),
        ..Rtr::default()
    });
    world.ask("hss1", rtr, None, 1);
    world.run(100);
    assert!(world.outcome("scscf1", 1).is_ok() && world.outcome("hss1", 1).is_ok());
    world.run(200_000);
    assert_eq!(world.connections_between("scscf1", "hss1"), 1, "and it stays so");
}

/// RFC 6733 §5.4: drain says DPR, is answered with DPA, closes, and does not come back; requests in
/// flight end first.
#[test]
fn drains() {
    let mut world = pair();
    world.at("hss1").is_slow = true;
    world.ask("scscf1", uar(), None, 1);
    world.run(20);
    let index = world.index("scscf1");
    world.with(index, |endpoint, now, out| endpoint.drain(now, out));
    assert!(world.sent("scscf1", "hss1", 282, true).is_empty(), "an answer is still to come");
    world.ask("scscf1", uar(), None, 2);
    assert_eq!(world.outcome("scscf1", 2), Err(NoAnswer::NoPeer));
    let held = world.at("hss1").received.pop().unwrap();
    let hss = world.index("hss1");
    let answer = answer_to(&held.request, "hss1");
    world.with(hss, |endpoint, now, out| endpoint.answer(now, held, answer, out));
    world.run(100);
    assert!(world.outcome("scscf1", 1).is_ok());
    let dpr = world.sent("scscf1", "hss1", 282, true)[0];
    assert_eq!(dpr.find(base::DISCONNECT_CAUSE).unwrap().number().unwrap(), 0);
    assert_eq!(world.sent("hss1", "scscf1", 282, false).len(), 1);
    assert_eq!(world.connections_between("scscf1", "hss1"), 0);
    world.run(120_000);
    assert_eq!(world.counter("scscf1", "tessera_diameter_connects_total"), 1);
}

/// RFC 6733 §3: the limit of pending requests is a refusal, and those before it are not harmed.
#[test]
fn refuses_beyond_the_limit() {
    let limits = Limits { diameter_pending: 3, ..Limits::default() };
    let mut world = World::with_limits(
        vec![("scscf1", config("scscf1", &["hss1"])), ("hss1", config("hss1", &[]))],
        &limits,
    );
    world.start_all();
    world.run(1_000);
    for wait in 0..5 {
        world.ask("scscf1", uar(), None, wait);
    }
    world.run(100);
    for wait in 0..3 {
        assert!(world.outcome("scscf1", wait).is_ok());
    }
    for wait in 3..5 {
        assert_eq!(world.outcome("scscf1", wait), Err(NoAnswer::Overloaded));
    }
}

/// RFC 6733 §5.5.4, §6.1: a request that is longer than a message may be goes to no peer, neither the first nor the
/// next: each would close the connection, on which everybody else waits.
#[test]
fn sends_no_request_that_is_too_long() {
    let mut world = trio();
    world.ask("scscf1", uar(), None, 1);
    let long = "a".repeat(33_000);
    let Request::Uar(uar_of_all) = uar() else { unreachable!() };
    let too_long = Request::Uar(Uar {
        user_name: long.clone(),
        public_identity: format!("sip:{long}"),
        ..uar_of_all
    });
    world.ask("scscf1", too_long, None, 2);
    assert_eq!(world.outcome("scscf1", 2), Err(NoAnswer::Malformed));
    world.run(100);
    assert_eq!(world.outcome("scscf1", 1), Ok(Outcome::SUBSEQUENT_REGISTRATION));
    assert_eq!(world.at("scscf1").endpoint.owed(), 0);
    let seen = world.at("hss1").requests.len() + world.at("hss2").requests.len();
    assert_eq!(seen, 1);
    assert_eq!(world.counter("scscf1", "tessera_diameter_too_long_total"), 1);
    assert_eq!(world.counter("scscf1", "tessera_diameter_failovers_total"), 0);
}

/// RFC 6733 §7.1.5: in the place of an answer that is too long goes one that says so, and the question ends.
#[test]
fn sends_no_answer_that_is_too_long() {
    let mut world = pair();
    world.at("hss1").is_slow = true;
    let sar = Request::Sar(Sar {
        user_name: Some("name.private@hims.net".into()),
        public_identities: vec![IMPU.into()],
        server_name: "sip:scscf1.hims.net".into(),
        server_assignment_type: ServerAssignmentType::Registration,
        ..Sar::default()
    });
    world.ask("scscf1", sar, None, 1);
    world.run(100);
    let received = world.at("hss1").received.pop().unwrap();
    let user_data = Some(Bytes::from(vec![b'x'; 70_000]));
    let saa = Answer::Saa(Saa { outcome: Outcome::SUCCESS, user_data, ..Saa::default() });
    let hss = world.index("hss1");
    world.with(hss, |endpoint, now, out| endpoint.answer(now, received, saa, out));
    world.run(100);
    assert_eq!(world.outcome("scscf1", 1), Ok(Outcome::UNABLE_TO_COMPLY));
    assert!(world.sent("hss1", "scscf1", 301, false)[0].bytes().len() < 1_000);
    assert_eq!(world.counter("hss1", "tessera_diameter_too_long_total"), 1);
    assert_eq!(world.connections_between("scscf1", "hss1"), 1);
}

/// A connection to `hss1` whose other end is the test itself.
struct Stranger {
    world: World,
    connection: ConnectionId,
}

impl Stranger {
    fn new(config: Config) -> Stranger {
        let mut world = World::new(vec![("hss1", config)]);
        let connection = ConnectionId(1_000_000);
        world.deliver(World::opened(0, connection, None));
        Stranger { world, connection }
    }

    fn greeted() -> Stranger {
        let mut stranger = Stranger::new(config("hss1", &[]));
        let answers = stranger.say(stranger.cer("scscf1.hims.net", "hims.net", APPLICATION.id));
        assert_eq!(code(&answers[0]), 2001);
        stranger
    }

    fn cer(&self, host: &str, realm: &str, application: u32) -> Bytes {
        let header = base::request_header(base::COMMAND_CAPABILITIES_EXCHANGE, 1, 2);
        let mut builder = Builder::new(header);
        builder.text(base::ORIGIN_HOST, host);
        builder.text(base::ORIGIN_REALM, realm);
        builder.octets(base::HOST_IP_ADDRESS, &[0, 1, 192, 0, 2, 9]);
        builder.number(base::VENDOR_ID, 0);
        builder.text(base::PRODUCT_NAME, "test");
        builder.group(base::VENDOR_SPECIFIC_APPLICATION_ID, |group| {
            group.number(base::VENDOR_ID, 10415);
            group.number(base::AUTH_APPLICATION_ID, application);
        });
        builder.finish()
    }

    /// Delivers a message and gives what comes back on the connection; a close is the last element.
    fn say(&mut self, bytes: Bytes) -> Vec<Option<Message>> {
        let mut out = Vec::new();
        let input = Input::Diameter { connection: self.connection, bytes };
        let now = self.world.now;
        let place = &mut self.world.places[0];
        place.endpoint.input(now, input, &mut out);
        while let Some(event) = place.endpoint.next_event() {
            if let Event::Request(received) = event {
                place.requests.push(received.request.clone());
                if place.is_slow {
                    place.received.push(received);
                } else {
                    let answer = answer_to(&received.request, "hss1");
                    place.endpoint.answer(now, received, answer, &mut out);
                }
            }
        }
        out.into_iter()
            .map(|output| match output {
                Output::Diameter { connection, bytes } => {
                    assert_eq!(connection, self.connection);
                    Some(Message::decode(bytes, &Limits::default()).unwrap())
                }
                Output::Close { .. } => None,
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

fn code(message: &Option<Message>) -> u32 {
    let message = message.as_ref().expect("a message");
    message.find(base::RESULT_CODE).expect("a Result-Code").number().unwrap()
}

/// A request of an S-CSCF, with the header given.
fn request(header: Header, fill: impl FnOnce(&mut Builder)) -> Bytes {
    let mut builder = Builder::new(header);
    builder.text(base::SESSION_ID, "scscf1.hims.net;1;2");
    APPLICATION.write(&mut builder);
    builder.number(base::AUTH_SESSION_STATE, 1);
    builder.text(base::ORIGIN_HOST, "scscf1.hims.net");
    builder.text(base::ORIGIN_REALM, "hims.net");
    fill(&mut builder);
    builder.finish()
}

fn uar_header() -> Header {
    Header { hop_by_hop: 77, ..base::application_header(300, APPLICATION.id, 78) }
}

fn to_realm(realm: &str) -> impl Fn(&mut Builder) {
    move |builder| {
        builder.text(base::DESTINATION_REALM, realm);
        uar().encode(builder);
    }
}

/// RFC 6733 §5.3, §5.6: who is not known gets 3010 with E, who has nothing in common 5010, and the
/// connection ends; who says something else than CER is cut off.
#[test]
fn refuses_strangers() {
    let answers = |config: Config, host: &str, realm: &str, application: u32| {
        let mut stranger = Stranger::new(config);
        let cer = stranger.cer(host, realm, application);
        let answers = stranger.say(cer);
        let is_closed = answers.last().is_some_and(Option::is_none);
        (code(&answers[0]), answers[0].as_ref().unwrap().header.flags, is_closed)
    };
    let any = || config("hss1", &[]);
    let only = || Config { allowed_peers: vec!["SCSCF1.hims.net".into()], ..any() };
    let cx = APPLICATION.id;
    assert_eq!(answers(any(), "scscf1.hims.net", "hims.net", cx), (2001, 0, false));
    assert_eq!(answers(any(), "x.evil.net", "evil.net", cx), (3010, FLAG_ERROR, true));
    assert_eq!(answers(any(), "hss1.hims.net", "hims.net", cx), (3010, FLAG_ERROR, true));
    assert_eq!(answers(only(), "scscf1.hims.net", "hims.net", cx), (2001, 0, false));
    assert_eq!(answers(only(), "scscf2.hims.net", "hims.net", cx), (3010, FLAG_ERROR, true));
    assert_eq!(answers(any(), "scscf1.hims.net", "hims.net", 4), (5010, 0, true));
    assert_eq!(answers(any(), "dra.hims.net", "hims.net", 0xffff_ffff), (2001, 0, false));

    let mut stranger = Stranger::new(any());
    let answers = stranger.say(request(uar_header(), to_realm("hims.net")));
    assert!(matches!(answers[..], [None]), "{answers:?}");
    assert!(stranger.world.places[0].requests.is_empty());
    // One that says nothing at all is cut off in the end.
    let mut stranger = Stranger::new(any());
    assert!(stranger.world.places[0].endpoint.next_timeout().is_some());
    stranger.world.run(11_000);
    let answers = stranger.say(stranger.cer("scscf1.hims.net", "hims.net", cx));
    assert!(answers.is_empty(), "{answers:?}");
}

/// RFC 6733 §6.1.3, §6.1.4, §7.1.3: requests that are not for this node, each with its code and E.
#[test]
fn refuses_what_is_not_for_us() {
    let mut stranger = Stranger::greeted();
    let mut expect = |bytes: Bytes, result: u32| {
        let answers = stranger.say(bytes);
        assert_eq!(code(&answers[0]), result);
        let answer = answers[0].as_ref().unwrap();
        assert_eq!(answer.header.flags, FLAG_PROXIABLE | FLAG_ERROR);
        assert_eq!((answer.header.hop_by_hop, answer.header.end_to_end), (77, 78));
        assert_eq!(text(answer, base::SESSION_ID), "scscf1.hims.net;1;2");
        assert_eq!(text(answer, base::ORIGIN_HOST), "hss1.hims.net");
        assert_eq!(answers.len(), 1, "the connection stays");
    };
    let other_application = Header { application: 4, ..uar_header() };
    expect(request(other_application, to_realm("hims.net")), result_code::APPLICATION_UNSUPPORTED);
    let other_command = Header { command: 317, ..uar_header() };
    expect(request(other_command, to_realm("hims.net")), result_code::COMMAND_UNSUPPORTED);
    expect(request(uar_header(), to_realm("vims.net")), result_code::REALM_NOT_SERVED);
    let to_other_host = |builder: &mut Builder| {
        builder.text(base::DESTINATION_HOST, "hss2.hims.net");
        to_realm("hims.net")(builder);
    };
    expect(request(uar_header(), to_other_host), result_code::UNABLE_TO_DELIVER);
    let looped = |builder: &mut Builder| {
        to_realm("hims.net")(builder);
        builder.text(base::ROUTE_RECORD, "HSS1.hims.net");
    };
    expect(request(uar_header(), looped), result_code::LOOP_DETECTED);
    let mut with_error = request(uar_header(), to_realm("hims.net")).to_vec();
    with_error[4] |= FLAG_ERROR;
    expect(Bytes::from(with_error), result_code::INVALID_HDR_BITS);
    let mut with_reserved = request(uar_header(), to_realm("hims.net")).to_vec();
    let at = with_reserved.len() - 12;
    assert_eq!(with_reserved[at], 0xc0, "the flags of the last AVP");
    with_reserved[at] |= 0x02;
    expect(Bytes::from(with_reserved), result_code::INVALID_AVP_BITS);
}

/// RFC 6733 §7.1.5, TS 29.229 §6.1: malformed requests are answered by the endpoint and counted;
/// the core never sees them.
#[test]
fn answers_malformed_requests_itself() {
    let mut stranger = Stranger::greeted();
    let missing = |builder: &mut Builder| {
        builder.text(base::DESTINATION_REALM, "hims.net");
        builder.text(base::USER_NAME, "name.private@hims.net");
        builder.text(avp::VISITED_NETWORK_IDENTIFIER, "vims.net");
    };
    let answers = stranger.say(request(uar_header(), missing));
    assert_eq!(code(&answers[0]), result_code::MISSING_AVP);
    let answer = answers[0].as_ref().unwrap();
    assert_eq!(answer.header.flags, FLAG_PROXIABLE, "no protocol error, no E");
    assert_eq!(answer.find(base::AUTH_SESSION_STATE).unwrap().number().unwrap(), 1);
    let failed = answer.find(base::FAILED_AVP).unwrap().group().unwrap().next().unwrap();
    assert!(failed.is(avp::PUBLIC_IDENTITY) && failed.data.is_empty());

    let unknown = |builder: &mut Builder| {
        to_realm("hims.net")(builder);
        builder.octets(Definition::octets(1, 4242, true), b"?");
    };
    let answers = stranger.say(request(uar_header(), unknown));
    assert_eq!(code(&answers[0]), result_code::AVP_UNSUPPORTED);
    let answer = answers[0].as_ref().unwrap();
    let failed = answer.find(base::FAILED_AVP).unwrap().group().unwrap().next().unwrap();
    assert_eq!((failed.code, failed.vendor, failed.data), (1, 4242, &b"?"[..]));

    let bare = Builder::new(uar_header()).finish();
    let answers = stranger.say(bare);
    assert_eq!(code(&answers[0]), result_code::MISSING_AVP);
    assert!(stranger.world.places[0].requests.is_empty());
    assert_eq!(stranger.world.counter("hss1", "tessera_cx_malformed_total"), 2);
    assert_eq!(stranger.world.counter("hss1", "tessera_diameter_refusals_total"), 3);
    let answers = stranger.say(request(uar_header(), to_realm("hims.net")));
    assert_eq!(answers.len(), 1);
    assert_eq!(stranger.world.places[0].requests.len(), 1, "a good one is served");
}

/// RFC 6733 §7.1.5: after a wrong length or version the stream cannot be followed: the answer, then
/// the end of the connection.
#[test]
fn gives_up_a_stream_it_cannot_follow() {
    for (at, to, result) in
        [(0, 2, result_code::UNSUPPORTED_VERSION), (3, 20, result_code::INVALID_MESSAGE_LENGTH)]
    {
        let mut stranger = Stranger::greeted();
        let mut bytes = request(uar_header(), to_realm("hims.net")).to_vec();
        bytes[at] = to;
        let answers = stranger.say(Bytes::from(bytes));
        assert_eq!(code(&answers[0]), result);
        assert!(answers[1].is_none(), "closed");
        assert!(!stranger.world.places[0].endpoint.is_up());
    }
}

/// TS 29.229 §7.1, §7.1.1, §7.2.1, §6.2.2.11, §6.3.29: a required feature that is not supported: 5011 as
/// experimental result, with our list.
#[test]
fn refuses_required_features() {
    let mut stranger = Stranger::greeted();
    let with = |is_mandatory: bool| {
        request(uar_header(), move |builder| {
            to_realm("hims.net")(builder);
            builder.group(Definition { is_mandatory, ..avp::SUPPORTED_FEATURES }, |group| {
                group.number(base::VENDOR_ID, 10415);
                group.number(avp::FEATURE_LIST_ID, 1);
                group.number(avp::FEATURE_LIST, 1 << 3);
            });
        })
    };
    let answers = stranger.say(with(true));
    let answer = answers[0].as_ref().unwrap();
    assert!(answer.find(base::RESULT_CODE).is_none());
    assert_eq!(Answer::decode(answer).unwrap().outcome(), Outcome::Experimental(5011));
    assert!(!answer.find(avp::SUPPORTED_FEATURES).unwrap().is_mandatory());
    let answers = stranger.say(with(false));
    let answer = Answer::decode(answers[0].as_ref().unwrap()).unwrap();
    assert_eq!(answer.outcome(), Outcome::SUBSEQUENT_REGISTRATION);
}

/// RFC 6733 §3, §6.2: a SAR that comes again with T is carried out once and answered twice, with
/// the new Hop-by-Hop Identifier; without T it is another request. Proxy-Info comes back as it was.
#[test]
fn detects_duplicates() {
    let mut stranger = Stranger::greeted();
    let sar = Request::Sar(Sar {
        user_name: Some("name.private@hims.net".into()),
        public_identities: vec![IMPU.into()],
        server_name: "sip:scscf1.hims.net".into(),
        server_assignment_type: ServerAssignmentType::Registration,
        ..Sar::default()
    });
    let with = |flags: u8, hop_by_hop: u32| {
        let header = base::application_header(301, APPLICATION.id, 78);
        request(Header { flags: header.flags | flags, hop_by_hop, ..header }, |builder| {
            builder.text(base::DESTINATION_REALM, "hims.net");
            sar.encode(builder);
            builder.group(base::PROXY_INFO, |group| {
                group.text(base::PROXY_HOST, "dra.hims.net");
                group.octets(base::PROXY_STATE, &[1, 2, 3]);
            });
        })
    };
    let first = stranger.say(with(0, 1));
    let again = stranger.say(with(FLAG_RETRANSMITTED, 2));
    assert_eq!(stranger.world.places[0].requests.len(), 1);
    let (first, again) = (first[0].as_ref().unwrap(), again[0].as_ref().unwrap());
    assert_eq!(again.header.hop_by_hop, 2);
    assert!(!again.header.is_retransmitted());
    assert_eq!(first.bytes()[20..], again.bytes()[20..]);
    let state = first.find(base::PROXY_INFO).unwrap().group().unwrap().nth(1).unwrap();
    assert_eq!(state.data, [1, 2, 3]);
    assert_eq!(stranger.world.counter("hss1", "tessera_diameter_duplicates_total"), 1);
    stranger.say(with(0, 3));
    assert_eq!(stranger.world.places[0].requests.len(), 2);

    // Still in work when it comes again: one answer, to the newer place.
    stranger.world.places[0].is_slow = true;
    stranger.say(with(0, 4));
    assert!(stranger.say(with(FLAG_RETRANSMITTED, 5)).is_empty());
    let held = stranger.world.places[0].received.pop().unwrap();
    let mut out = Vec::new();
    let answer = answer_to(&held.request, "hss1");
    let now = stranger.world.now;
    stranger.world.places[0].endpoint.answer(now, held, answer, &mut out);
    let [Output::Diameter { bytes, .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(Header::peek(bytes).unwrap().hop_by_hop, 5);
}

/// RFC 6733 §5.6: a second connection of a peer that is up is refused, unless its Origin-State-Id
/// says that the peer was restarted.
#[test]
fn takes_a_restarted_peer() {
    let mut world = pair();
    // The process dies with its machine: nobody tells the HSS.
    let index = world.index("scscf1");
    let limits = Limits::default();
    let config = config("scscf1", &["hss1"]);
    world.links.clear();
    world.now = world.now + Duration::from_secs(5);
    world.places[index].endpoint = Endpoint::new(config, Random::from_seed([9; 32]), &limits);
    world.with(index, |endpoint, now, out| endpoint.start(now, out));
    world.run(100);
    assert!(world.at("scscf1").endpoint.is_up());
    world.ask("scscf1", uar(), None, 1);
    world.run(100);
    assert!(world.outcome("scscf1", 1).is_ok());
}

/// RFC 6733 §5.6: the network lost the connection, and only one side noticed. The other side
/// refuses the second connection, asks on the first one, and takes the next when it got no answer.
/// A peer that is well keeps its connection.
#[test]
fn takes_a_peer_back_that_lost_its_connection() {
    let mut world = pair();
    let index = world.index("scscf1");
    let (connection, other) = {
        let (from, to) = world.links.iter().find(|(from, _)| from.0 == index).unwrap();
        (from.1, to.1)
    };
    world.links.clear();
    world.with(index, |endpoint, now, out| {
        endpoint.input(now, Input::Closed { connection }, out);
    });
    world.run(5_000);
    assert!(world.at("scscf1").endpoint.is_up());
    assert!(world.counter("hss1", "tessera_diameter_connections_refused_total") >= 1);
    world.ask("scscf1", uar(), None, 1);
    world.run(100);
    assert!(world.outcome("scscf1", 1).is_ok());
    let hss = world.index("hss1");
    world.with(hss, |endpoint, now, out| {
        endpoint.input(now, Input::Closed { connection: other }, out);
    });
    assert!(world.at("hss1").endpoint.is_up(), "the old connection's end is no news");

    let mut stranger = Stranger::greeted();
    let second = ConnectionId(2_000_000);
    let first = std::mem::replace(&mut stranger.connection, second);
    for _ in 0..3 {
        stranger.world.deliver(World::opened(0, second, None));
        let bytes = stranger.cer("scscf1.hims.net", "hims.net", APPLICATION.id);
        let mut out = Vec::new();
        let (now, endpoint) = (stranger.world.now, &mut stranger.world.places[0].endpoint);
        endpoint.input(now, Input::Diameter { connection: second, bytes }, &mut out);
        let Output::Close { connection } = out[0] else { panic!("{out:?}") };
        assert_eq!(connection, second);
        // The first connection answers the question.
        let Output::Diameter { connection, bytes } = &out[1] else { panic!("{out:?}") };
        assert_eq!(*connection, first);
        let dwa = Builder::new(Header::peek(bytes).unwrap().answer(false)).finish();
        endpoint.input(now, Input::Diameter { connection: first, bytes: dwa }, &mut out);
        stranger.world.now = now + Duration::from_secs(5);
    }
    assert!(stranger.world.places[0].endpoint.is_up());
}

/// RFC 6733 §5.3: a peer whose Origin-Host is not the configured one is not talked to.
#[test]
fn insists_on_the_configured_identity() {
    let mut other = config("scscf1", &["hss1"]);
    other.peers[0].identity = Some("hss7.hims.net".into());
    let mut world = World::started(vec![("scscf1", other), ("hss1", config("hss1", &[]))]);
    world.run(10_000);
    assert!(!world.at("scscf1").endpoint.is_up());
    let mut open = config("scscf1", &["hss1"]);
    open.peers[0].identity = None;
    let mut world = World::started(vec![("scscf1", open), ("hss1", config("HSS1", &[]))]);
    assert!(world.at("scscf1").endpoint.is_up());
}

/// RFC 6733 §6.1: the preferred HSS is asked while it is up; while it is away the other one is,
/// without a Destination-Host that it would refuse.
#[test]
fn prefers_the_host_named() {
    let mut world = trio();
    world.ask("scscf1", uar(), Some("hss2.hims.net"), 1);
    world.run(100);
    assert_eq!(world.sent("scscf1", "hss2", 300, true).len(), 1);
    world.kill("hss2");
    world.run(100);
    world.ask("scscf1", uar(), Some("hss2.hims.net"), 2);
    world.run(100);
    assert!(world.outcome("scscf1", 2).is_ok());
    let request = world.sent("scscf1", "hss1", 300, true)[0];
    assert!(request.find(base::DESTINATION_HOST).is_none());
    // A host that nobody knows: the HSS refuses it, and is asked again without.
    world.ask("scscf1", uar(), Some("hss9.hims.net"), 3);
    world.run(100);
    assert!(world.outcome("scscf1", 3).is_ok());
    let requests = world.sent("scscf1", "hss1", 300, true);
    assert_eq!(text(requests[1], base::DESTINATION_HOST), "hss9.hims.net");
    assert!(requests[2].find(base::DESTINATION_HOST).is_none());
    assert!(!requests[2].header.is_retransmitted(), "it was not carried out");
}

/// Answers that are none: a wrong command, no result, another connection's number. The wait comes
/// back once, and nothing else is harmed.
#[test]
fn survives_bad_answers() {
    let mut world = pair();
    world.at("hss1").is_slow = true;
    let index = world.index("scscf1");
    let connection = world.links.keys().find(|end| end.0 == index).unwrap().1;
    for (wait, command, fill_result) in [(1, 303, true), (2, 300, false)] {
        world.ask("scscf1", uar(), None, wait);
        let request = world.sent("scscf1", "hss1", 300, true).last().unwrap().header;
        let header = Header { flags: FLAG_PROXIABLE, command, ..request };
        let mut builder = Builder::new(header);
        if fill_result {
            builder.number(base::RESULT_CODE, 2001);
        }
        let bytes = builder.finish();
        let foreign = Input::Diameter { connection: ConnectionId(4), bytes: bytes.clone() };
        world.with(index, |endpoint, now, out| endpoint.input(now, foreign, out));
        assert_eq!(world.at("scscf1").endpoint.owed(), 1);
        let input = Input::Diameter { connection, bytes };
        world.with(index, |endpoint, now, out| endpoint.input(now, input, out));
        assert_eq!(world.outcome("scscf1", wait), Err(NoAnswer::Malformed));
    }
    world.at("hss1").is_slow = false;
    world.ask("scscf1", uar(), None, 3);
    world.run(100);
    assert!(world.outcome("scscf1", 3).is_ok());
}

/// More connections than allowed are closed as they come.
#[test]
fn limits_connections() {
    let limits = Limits { diameter_connections: 2, ..Limits::default() };
    let mut endpoint: Endpoint<u32> =
        Endpoint::new(config("hss1", &[]), Random::from_seed([1; 32]), &limits);
    let address: SocketAddr = "192.0.2.1:3868".parse().unwrap();
    let mut out = Vec::new();
    for number in 0..4 {
        let connection = ConnectionId(number);
        let input = Input::Opened { connection, peer: None, local: address, remote: address };
        endpoint.input(Now::from_millis(1), input, &mut out);
    }
    let closed: Vec<_> = out
        .iter()
        .map(|output| match output {
            Output::Close { connection } => connection.0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(closed, [2, 3]);
}

/// Whatever dies, hangs, loses its connections or comes back: every wait comes back once and in
/// time, and in the end everybody is connected again, once, and is served.
#[test]
fn comes_to_rest_after_any_trouble() {
    for seed in 0..60u8 {
        let mut random = Random::from_seed([seed; 32]);
        let mut world = World::started(vec![
            ("scscf1", config("scscf1", &["hss1", "hss2"])),
            ("hss1", config("hss1", &["scscf1"])),
            ("hss2", config("hss2", &[])),
        ]);
        let mut asked: BTreeMap<u32, Now> = BTreeMap::new();
        for wait in 0..120u32 {
            let name = ["hss1", "hss2", "scscf1"][random.below(3) as usize];
            match random.below(12) {
                0 => world.kill(name),
                1 => world.at(name).is_hung = name != "scscf1",
                2 => {
                    // The network forgets all connections and tells nobody.
                    world.links.clear();
                }
                3 | 4 => world.at(name).is_away = false,
                5 => world.resume(name),
                6 => world.at(name).is_slow = true,
                7 => world.at(name).is_slow = false,
                _ => {}
            }
            world.ask("scscf1", uar(), Some("hss1.hims.net").filter(|_| wait % 2 == 0), wait);
            asked.insert(wait, world.now);
            let pause = [1, 20, 900, 4_000, 40_000][random.below(5) as usize];
            world.run(pause);
        }
        for name in ["scscf1", "hss1", "hss2"] {
            world.at(name).is_away = false;
            world.at(name).is_slow = false;
            world.resume(name);
        }
        world.run(200_000);
        for (wait, at) in &asked {
            let answers = &world.at("scscf1").answers;
            let of_wait: Vec<_> = answers.iter().filter(|answer| answer.1 == *wait).collect();
            assert_eq!(of_wait.len(), 1, "seed {seed}, wait {wait}");
            assert!(of_wait[0].0.since(*at) <= LIMIT, "seed {seed}, wait {wait}");
        }
        for name in ["scscf1", "hss1", "hss2"] {
            assert!(world.at(name).endpoint.is_up(), "seed {seed}, {name}");
            assert_eq!(world.at(name).endpoint.owed(), 0, "seed {seed}, {name}");
        }
        assert_eq!(world.connections_between("scscf1", "hss1"), 1, "seed {seed}");
        assert_eq!(world.connections_between("scscf1", "hss2"), 1, "seed {seed}");
        world.ask("scscf1", uar(), None, 1_000);
        world.run(100);
        assert!(world.outcome("scscf1", 1_000).is_ok(), "seed {seed}");
    }
}

/// An I-CSCF that knows an SLF and two HSSs which only take what is sent to them by name.
fn with_slf() -> World {
    let mut icscf = config("icscf1", &["slf", "hss1", "hss2"]);
    for hss in &mut icscf.peers[1..] {
        hss.by_name_only = true;
    }
    let mut world = World::started(vec![
        ("icscf1", icscf),
        ("slf", config("slf", &[])),
        ("hss1", config("hss1", &[])),
        ("hss2", config("hss2", &[])),
    ]);
    let hosts = ["aaa://hss2.hims.net:3868;transport=tcp", "aaa://hss1.hims.net"];
    world.at("slf").redirects_to = hosts.map(str::to_owned).to_vec();
    world
}

fn uar_of(user_name: &str) -> Request {
    match uar() {
        Request::Uar(uar) => Request::Uar(Uar { user_name: user_name.to_owned(), ..uar }),
        other => other,
    }
}

/// RFC 6733 §6.1.8, TS 23.228 §5.8: the SLF names an HSS; the same request goes there, addressed to it.
/// It is remembered for this user and no other, and not for longer than allowed.
#[test]
fn follows_a_redirect() {
    let mut world = with_slf();
    world.ask("icscf1", uar(), None, 1);
    world.run(1_000);
    assert_eq!(world.answered_by("icscf1", 1), "hss2.hims.net");
    let uar_code = 300;
    let first = world.sent("icscf1", "slf", uar_code, true)[0].clone();
    let second = world.sent("icscf1", "hss2", uar_code, true)[0].clone();
    assert_eq!(text(&first, base::SESSION_ID), text(&second, base::SESSION_ID));
    assert_eq!(first.header.end_to_end, second.header.end_to_end);
    assert_ne!(first.header.hop_by_hop, second.header.hop_by_hop);
    assert!(first.find(base::DESTINATION_HOST).is_none());
    assert_eq!(text(&second, base::DESTINATION_HOST), "hss2.hims.net");
    let refusal = world.sent("slf", "icscf1", uar_code, false)[0];
    assert!(refusal.header.is_error());

    world.ask("icscf1", uar(), None, 2);
    world.run(1_000);
    assert_eq!(world.answered_by("icscf1", 2), "hss2.hims.net");
    assert_eq!(world.sent("icscf1", "slf", uar_code, true).len(), 1, "it was remembered");
    world.ask("icscf1", uar_of("other@hims.net"), None, 3);
    world.run(1_000);
    assert_eq!(world.sent("icscf1", "slf", uar_code, true).len(), 2);
    world.run(600_000);
    world.ask("icscf1", uar(), None, 4);
    world.run(1_000);
    assert_eq!(world.sent("icscf1", "slf", uar_code, true).len(), 3, "no longer than allowed");
    assert!(world.sent("icscf1", "hss1", uar_code, true).is_empty(), "by name only");
}

/// A redirect agent alone serves nobody: requests can be asked once a node that it may name is there.
#[test]
fn an_agent_alone_is_not_enough() {
    let mut world = with_slf();
    assert!(world.at("icscf1").endpoint.is_up());
    world.kill("hss1");
    world.run(100);
    assert!(world.at("icscf1").endpoint.is_up());
    world.kill("hss2");
    world.run(100);
    assert!(!world.at("icscf1").endpoint.is_up());
    world.at("hss1").is_away = false;
    world.run(31_000);
    assert!(world.at("icscf1").endpoint.is_up());
    world.kill("slf");
    world.run(100);
    assert!(!world.at("icscf1").endpoint.is_up());
}

/// RFC 6733 §6.1.8: of several nodes the next one when the first is down, or does not answer.
#[test]
fn redirected_to_the_next_one() {
    let mut world = with_slf();
    world.kill("hss2");
    world.run(1_000);
    world.ask("icscf1", uar(), None, 1);
    world.run(1_000);
    assert_eq!(world.answered_by("icscf1", 1), "hss1.hims.net");

    let mut world = with_slf();
    world.at("hss2").is_hung = true;
    world.ask("icscf1", uar(), None, 1);
    world.run(4_500);
    assert_eq!(world.answered_by("icscf1", 1), "hss1.hims.net");
    let moved = world.sent("icscf1", "hss1", 300, true)[0];
    assert_eq!(text(moved, base::DESTINATION_HOST), "hss1.hims.net");
    assert!(moved.header.flags & FLAG_RETRANSMITTED != 0);
    world.ask("icscf1", uar(), None, 2);
    world.run(100);
    assert_eq!(world.answered_by("icscf1", 2), "hss1.hims.net", "at once");
}

/// RFC 6733 §6.1.8: redirects that go around, or to nobody we know, end the question.
#[test]
fn redirects_end() {
    for hosts in [["aaa://slf.hims.net"], ["aaa://hss9.hims.net"], ["nonsense"]] {
        let mut world = with_slf();
        world.at("slf").redirects_to = hosts.map(str::to_owned).to_vec();
        world.ask("icscf1", uar(), None, 1);
        world.run(5_000);
        let answers = &world.at("icscf1").answers;
        let [(_, 1, result)] = answers.as_slice() else { panic!("{answers:?}") };
        match (hosts, result) {
            // It names nobody.
            (["nonsense"], Ok(answered)) => {
                let outcome = answered.answer.outcome();
                assert_eq!(outcome, Outcome::Base(result_code::REDIRECT_INDICATION));
            }
            (["nonsense"], _) => panic!("{answers:?}"),
            _ => assert!(matches!(result, Err(NoAnswer::NoPeer)), "{answers:?}"),
        }
        assert!(world.sent("icscf1", "slf", 300, true).len() <= 4);
    }
}

impl World {
    fn answered_by(&mut self, name: &str, wait: u32) -> String {
        let answers = &self.at(name).answers;
        let found = answers.iter().find(|(_, answered, _)| *answered == wait);
        match found {
            Some((_, _, Ok(answered))) => answered.origin_host.clone(),
            other => panic!("{other:?}"),
        }
    }
}
