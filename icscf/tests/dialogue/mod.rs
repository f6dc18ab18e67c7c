//! A core alone between a test and an HSS that the test answers for: real bytes on every side.

#![allow(dead_code)] // each test file uses its own part

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::cx::{self, Answer, Event, Received};
use common::diameter::endpoint::{Config as DiameterConfig, PeerConfig};
use common::dns;
use common::limits::Limits;
use common::node::{ConnectionId, Flow, Input, Node, Now, Output, Transport};
use common::random::Random;
use common::sip::header::Name;
use common::sip::message::{Headers, Message, Request, Response};
use common::stats::{Samples, Value};
use icscf::Icscf;
use icscf::config::{Config, Listen, Scscf, Sip, TransportName};

pub const PCSCF: &str = "192.0.2.10:5060";
pub const ICSCF: &str = "192.0.2.20:5060";
pub const SCSCF1: &str = "192.0.2.31:5060";
pub const SCSCF2: &str = "192.0.2.32:5060";
pub const IMPI: &str = "name.private@hims.net";
pub const IMPU: &str = "sip:name@hims.net";

const CONNECTION: ConnectionId = ConnectionId(7);

pub fn diameter(identity: &str, peers: &[&str]) -> DiameterConfig {
    DiameterConfig {
        identity: identity.to_owned(),
        realm: "hims.net".to_owned(),
        listen: None,
        peers: peers
            .iter()
            .map(|host| PeerConfig {
                identity: None,
                host: (*host).to_owned(),
                port: 3868,
                by_name_only: false,
            })
            .collect(),
        allowed_peers: Vec::new(),
        watchdog_milliseconds: 600_000,
        reconnect_milliseconds: 500,
        reconnect_max_milliseconds: 30_000,
        request_timeout_milliseconds: 3_000,
    }
}

pub fn server(name: &str, address: Option<&str>, capabilities: &[u32], priority: u16) -> Scscf {
    Scscf {
        name: name.to_owned(),
        address: address.map(|address| address.parse().unwrap()),
        transport: TransportName::Udp,
        capabilities: capabilities.to_vec(),
        priority,
        weight: 1,
    }
}

/// Two S-CSCFs: the first can do 1, the second 1 and 2.
pub fn config() -> Config {
    let listen = Listen { udp: vec![ICSCF.parse().unwrap()], tcp: vec![ICSCF.parse().unwrap()] };
    let sip = Sip { name: "icscf1.hims.net".to_owned(), listen };
    let mut config = Config::new("hims.net", sip, diameter("icscf1.hims.net", &["192.0.2.40"]));
    config.scscf = vec![
        server("sip:scscf1.hims.net", Some(SCSCF1), &[1], 0),
        server("sip:scscf2.hims.net", Some(SCSCF2), &[1, 2], 1),
    ];
    config
}

/// The core, what it sent, and the HSS.
pub struct Dialogue {
    pub core: Icscf,
    hss: cx::Endpoint<()>,
    pub now: Now,
    pub sent: VecDeque<(Flow, Message)>,
    asked: VecDeque<Received>,
    pub outputs: Vec<Output>,
    is_hss_deaf: bool,
}

impl Dialogue {
    /// With the HSS connected.
    pub fn new(config: Config) -> Dialogue {
        let mut dialogue = Dialogue::without_hss(config);
        dialogue.connect();
        assert_eq!(dialogue.core.ready(), Ok(()));
        dialogue
    }

    pub fn without_hss(config: Config) -> Dialogue {
        let hss_config = diameter("hss1.hims.net", &[]);
        let mut dialogue = Dialogue {
            core: Icscf::new(config, [3; 32]).unwrap(),
            hss: cx::Endpoint::new(hss_config, Random::from_seed([9; 32]), &Limits::default()),
            now: Now::from_millis(1_700_000_000_000),
            sent: VecDeque::new(),
            asked: VecDeque::new(),
            outputs: Vec::new(),
            is_hss_deaf: false,
        };
        dialogue.input(Input::Start { records: Vec::new() });
        dialogue
    }

    fn connect(&mut self) {
        let at = self.outputs.iter().position(|output| matches!(output, Output::Connect { .. }));
        let Output::Connect { peer, .. } = self.outputs.remove(at.expect("a connection")) else {
            unreachable!()
        };
        let local: SocketAddr = "192.0.2.20:40000".parse().unwrap();
        let remote: SocketAddr = "192.0.2.40:3868".parse().unwrap();
        let opened =
            Input::Opened { connection: CONNECTION, peer: None, local: remote, remote: local };
        let mut out = Vec::new();
        self.hss.input(self.now, opened, &mut out);
        assert!(out.is_empty(), "the one who connects speaks first");
        self.input(Input::Opened { connection: CONNECTION, peer: Some(peer), local, remote });
    }

    /// The HSS gets requests and answers nothing.
    pub fn deafen_hss(&mut self) {
        self.is_hss_deaf = true;
    }

    pub fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.core.handle(self.now, input, &mut out);
        self.take(out);
    }

    fn take(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Sip { flow, bytes } => {
                    let message = Message::parse(bytes, &Limits::default()).expect("SIP");
                    self.sent.push_back((flow, message));
                }
                Output::Diameter { connection, bytes } => self.to_hss(connection, bytes),
                other => self.outputs.push(other),
            }
        }
    }

    fn to_hss(&mut self, connection: ConnectionId, bytes: Bytes) {
        let mut out = Vec::new();
        self.hss.input(self.now, Input::Diameter { connection, bytes }, &mut out);
        while let Some(event) = self.hss.next_event() {
            let Event::Request(received) = event else { panic!("{event:?}") };
            if !self.is_hss_deaf {
                self.asked.push_back(received);
            }
        }
        self.from_hss(out);
    }

    fn from_hss(&mut self, out: Vec<Output>) {
        for output in out {
            let Output::Diameter { connection, bytes } = output else { panic!("{output:?}") };
            self.input(Input::Diameter { connection, bytes });
        }
    }

    /// Time passes; timers fire at their times.
    pub fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(at) = self.core.next_timeout().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.input(Input::Timeout);
        }
        self.now = until;
    }

    pub fn receives(&mut self, from: &str, text: &str) {
        let flow = Flow {
            transport: Transport::Udp,
            local: ICSCF.parse().unwrap(),
            remote: from.parse().unwrap(),
        };
        self.input(Input::Sip { flow, bytes: Bytes::from(text.as_bytes().to_vec()) });
    }

    /// The next question to the HSS.
    pub fn asks(&mut self) -> Received {
        self.asked.pop_front().expect("a question to the HSS")
    }

    pub fn asks_nothing(&self) {
        assert!(self.asked.is_empty(), "{:?}", self.asked);
    }

    pub fn answers(&mut self, received: Received, answer: Answer) {
        let mut out = Vec::new();
        self.hss.answer(self.now, received, answer, &mut out);
        self.from_hss(out);
    }

    /// The next request that was sent, to where it must go.
    pub fn forwards_to(&mut self, address: &str) -> Request {
        let (flow, message) = self.sent.pop_front().expect("a request");
        assert_eq!(flow.remote, address.parse().unwrap());
        match message {
            Message::Request(request) => request,
            Message::Response(response) => panic!("{} {}", response.status(), response.reason()),
        }
    }

    /// The next response that was sent to the P-CSCF.
    pub fn replies(&mut self) -> Response {
        let (flow, message) = self.sent.pop_front().expect("a response");
        assert_eq!(flow.remote, PCSCF.parse().unwrap());
        match message {
            Message::Response(response) => response,
            Message::Request(request) => panic!("{} {}", request.method_text(), request.uri()),
        }
    }

    pub fn sends_nothing(&self) {
        assert!(self.sent.is_empty(), "{:?}", self.sent);
    }

    /// A response of an S-CSCF to what was forwarded to it.
    pub fn scscf_replies(&mut self, from: &str, request: &Request, status: u16, extra: &str) {
        let response = request.response(status, "Said");
        let text = String::from_utf8(response.to_bytes().to_vec()).unwrap();
        let text = text.replacen("\r\n\r\n", &format!("\r\n{extra}\r\n"), 1);
        self.receives(from, &text);
    }

    /// Answers the open DNS questions out of a table: `name type` to records.
    pub fn resolves(&mut self, zone: &[(&str, dns::RecordType, dns::RecordData)]) {
        loop {
            let at =
                self.outputs.iter().position(|output| matches!(output, Output::Resolve { .. }));
            let Some(at) = at else { return };
            let Output::Resolve { id, question } = self.outputs.remove(at) else { unreachable!() };
            let records: Vec<_> = zone
                .iter()
                .filter(|(name, kind, _)| *name == question.name && *kind == question.record_type)
                .map(|(_, _, data)| data.clone())
                .collect();
            let ttl = Duration::from_secs(60);
            let answer = match records.is_empty() {
                true => dns::Answer::Nothing { ttl },
                false => dns::Answer::Found { records, ttl },
            };
            self.input(Input::Resolved { id, answer });
        }
    }

    pub fn counter(&self, name: &str, label: &str) -> u64 {
        let mut samples = Samples::default();
        self.core.samples(&mut samples);
        let found = samples.0.iter().find(|sample| {
            sample.name == name && (label.is_empty() || sample.labels.iter().any(|l| l.1 == label))
        });
        match found.map(|sample| &sample.value) {
            Some(Value::Counter(count)) => *count,
            _ => 0,
        }
    }

    /// Nothing is owed once everything has ended.
    pub fn rests(&self) {
        assert_eq!(self.core.owed(), 0);
    }
}

/// The REGISTER of the mission as a P-CSCF forwards it.
pub fn register(changes: &[(&str, &str)]) -> String {
    let text = "REGISTER sip:hims.net SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK0aab1\r\n\
        Via: SIP/2.0/UDP 10.133.202.46:5060;branch=z9hG4bK0abab;rport=5060;received=10.133.202.46\r\n\
        Max-Forwards: 19\r\n\
        From: <sip:name@hims.net>;tag=abbb\r\n\
        To: <sip:name@hims.net>\r\n\
        Contact: <sip:10.133.202.46:5060>;expires=600000\r\n\
        Call-ID: ababab\r\n\
        CSeq: 25 REGISTER\r\n\
        Require: path\r\n\
        Supported: path\r\n\
        Path: <sip:term@pcscf1.vims.net;lr>\r\n\
        P-Visited-Network-ID: \"vims.net\"\r\n\
        P-Charging-Vector: icid-value=\"icid1\";orig-ioi=\"Type 1vims.net\"\r\n\
        Authorization: Digest username=\"name.private@hims.net\",realm=\"hims.net\",uri=\"sip:hims.net\",nonce=\"\",response=\"\",integrity-protected=\"no\"\r\n\
        Content-Length: 0\r\n\r\n";
    changed(text, changes)
}

/// An INVITE from the network of the caller.
pub fn invite(changes: &[(&str, &str)]) -> String {
    let text = "INVITE sip:name@hims.net SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKcall1\r\n\
        Max-Forwards: 60\r\n\
        From: <sip:caller@other.net>;tag=c1\r\n\
        To: <sip:name@hims.net>\r\n\
        P-Asserted-Identity: <sip:caller@other.net>\r\n\
        Contact: <sip:10.9.9.9:5060>\r\n\
        Call-ID: call1\r\n\
        CSeq: 1 INVITE\r\n\
        Content-Length: 0\r\n\r\n";
    changed(text, changes)
}

fn changed(text: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not there to be changed");
        text.replace(from, to)
    })
}

pub fn vias(headers: &Headers) -> Vec<String> {
    headers.values(Name::Via).map(str::to_owned).collect()
}
