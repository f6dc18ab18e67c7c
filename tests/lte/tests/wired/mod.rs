//! The transport with the wires between its nodes, for tests of it as a value.

// Each test binary uses its part of this.
#![allow(dead_code)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::random::Random;
use etherparse::PacketBuilder;
use lte::attach::{Attached, IpVersion};
use lte::config::Config;
use lte::endpoint::Datagram;
use lte::gtpu::{self, Teid};
use lte::radio::{self, Direction, Message, Record};
use lte::transport::{Connection, Output, Transport};

pub const CONFIG: &str = r#"
    [radio]
    socket = "unused"
    capture = "unused"
    [enodeb]
    address = "10.11.0.1"
    [sgw]
    s1u_address = "10.11.0.2"
    s5u_address = "10.12.0.1"
    [pgw]
    address = "10.12.0.2"
    pool_v4 = "10.45.0.0/29"
    pool_v6 = "fd00:45::/62"
    pcscf_v4 = "10.20.0.10"
    pcscf_v6 = "fd00:20::10"
"#;

pub const NOW: Duration = Duration::from_secs(1);
pub const CONNECTION: Connection = Connection(1);

/// The transport with the wires between its nodes: every GTP-U datagram is delivered at once.
pub struct Wired {
    pub transport: Transport,
    pub now: Duration,
    /// Datagrams stay on the wire until [`Wired::deliver`].
    pub is_held: bool,
    pub held: Vec<Datagram>,
    /// Each datagram that crossed a wire, in order.
    pub hops: Vec<Datagram>,
    pub to_ue: Vec<(u32, Vec<u8>)>,
    pub to_sgi: Vec<Vec<u8>>,
    pub detached: Vec<u32>,
    pub captured: Vec<(Direction, Vec<u8>)>,
}

impl Wired {
    pub fn new(config: &str) -> Wired {
        let config = Config::parse(config).unwrap();
        Wired {
            transport: Transport::new(&config, Random::from_seed([1; 32])),
            now: NOW,
            is_held: false,
            held: Vec::new(),
            hops: Vec::new(),
            to_ue: Vec::new(),
            to_sgi: Vec::new(),
            detached: Vec::new(),
            captured: Vec::new(),
        }
    }

    pub fn attach(&mut self, reference: u32, version: IpVersion) -> Result<Attached, String> {
        self.attach_as(reference, version, "001010000000001")
    }

    pub fn attach_as(
        &mut self,
        reference: u32,
        version: IpVersion,
        imsi: &str,
    ) -> Result<Attached, String> {
        let mut out = Vec::new();
        let record = Record { reference, message: Message::Attach { version, imsi } }.encode();
        self.transport.on_radio(self.now, CONNECTION, &record, &mut out);
        let [Output::Radio(CONNECTION, answer)] = &out[..] else { panic!("{out:?}") };
        match radio::decode(answer).unwrap() {
            Record { message: Message::Attached(attached), .. } => Ok(attached),
            Record { message: Message::Refused { reason }, .. } => Err(reason.to_owned()),
            other => panic!("{other:?}"),
        }
    }

    pub fn send(&mut self, reference: u32, message: Message<'_>) {
        let mut out = Vec::new();
        let record = Record { reference, message }.encode();
        self.transport.on_radio(self.now, CONNECTION, &record, &mut out);
        self.carry_out(out);
    }

    pub fn sgi(&mut self, packet: &[u8]) {
        let mut out = Vec::new();
        self.transport.on_sgi(packet, &mut out);
        self.carry_out(out);
    }

    pub fn gtpu(&mut self, datagram: Datagram) {
        let from = SocketAddr::new(datagram.from, gtpu::PORT);
        let mut out = Vec::new();
        self.transport.on_gtpu(self.now, datagram.to.ip(), from, &datagram.bytes, &mut out);
        self.carry_out(out);
    }

    /// Carries out what is due until then, each thing at its time.
    pub fn run_until(&mut self, end: Duration) {
        while let Some(at) = self.transport.next_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            let mut out = Vec::new();
            self.transport.on_timeout(self.now, &mut out);
            self.carry_out(out);
        }
        self.now = end;
    }

    pub fn run_for(&mut self, milliseconds: u64) {
        self.run_until(self.now + Duration::from_millis(milliseconds));
    }

    /// A command as the administrator types it; the answer.
    pub fn command(&mut self, text: &str) -> String {
        let words: Vec<_> = text.split(' ').map(str::to_owned).collect();
        let mut out = Vec::new();
        let answer = lte::admin::answer(&mut self.transport, self.now, &words, &mut out);
        self.carry_out(out);
        answer
    }

    /// Lets what is on the wire arrive, and all that follows from it.
    pub fn deliver(&mut self) {
        self.is_held = false;
        for datagram in std::mem::take(&mut self.held) {
            self.gtpu(datagram);
        }
    }

    pub fn carry_out(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Gtpu(datagram) => {
                    assert_eq!(datagram.to.port(), gtpu::PORT);
                    self.hops.push(datagram.clone());
                    if self.is_held {
                        self.held.push(datagram);
                    } else {
                        self.gtpu(datagram);
                    }
                }
                Output::Sgi(packet) => self.to_sgi.push(packet),
                Output::Radio(_, record) => match radio::decode(&record).unwrap() {
                    Record { reference, message: Message::Data(packet) } => {
                        self.to_ue.push((reference, packet.to_vec()));
                    }
                    Record { reference, message: Message::Detached { .. } } => {
                        self.detached.push(reference);
                    }
                    other => panic!("{other:?}"),
                },
                Output::Captured(direction, packet) => self.captured.push((direction, packet)),
            }
        }
    }
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn packet(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("one version"),
    };
    builder.udp(5060, 5060).write(&mut packet, payload).unwrap();
    packet
}

pub fn route(hops: &[Datagram]) -> Vec<(String, String)> {
    hops.iter().map(|hop| (hop.from.to_string(), hop.to.ip().to_string())).collect()
}

pub fn teid(hop: &Datagram) -> Teid {
    gtpu::decode(&hop.bytes).unwrap().teid
}
