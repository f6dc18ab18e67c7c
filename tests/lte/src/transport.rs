//! The whole transport as one value: UEs on their radio links in front of the three nodes. Programs
//! and simulators give it what arrives, and carry out what it asks for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::random::Random;

use crate::attach::{BearerId, ConfigurationOptions, IpVersion, Network, Refusal};
use crate::config::Config;
use crate::endpoint::Datagram;
use crate::enodeb::{self, Enodeb};
use crate::link::{Fate, Link, Profile};
use crate::pgw::{self, Pgw, Pool};
use crate::radio::{self, Direction, Message, Record};
use crate::sgw::Sgw;

/// A program on the radio socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(pub u64);

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A record for a program.
    Radio(Connection, Vec<u8>),
    /// From the address named in it.
    Gtpu(Datagram),
    /// A packet for the network behind the P-GW.
    Sgi(Vec<u8>),
    /// A packet that the eNodeB got from, or gave to, the radio.
    Captured(Direction, Vec<u8>),
}

#[derive(Debug)]
pub struct Transport {
    pub network: Network,
    ues: BTreeMap<BearerId, Ue>,
    references: BTreeMap<(Connection, u32), BearerId>,
    in_flight: BinaryHeap<Reverse<Flight>>,
    in_flight_limit: usize,
    flights: u64,
    uplink: Profile,
    downlink: Profile,
    random: Random,
    is_captured: bool,
    pub counters: Counters,
}

#[derive(Debug)]
struct Ue {
    connection: Connection,
    reference: u32,
    imsi: String,
    uplink: Link,
    downlink: Link,
}

/// A packet on a radio link. Ordered by arrival, then by departure.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    arrival: Duration,
    number: u64,
    bearer: BearerId,
    is_uplink: bool,
    packet: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub attached: u64,
    pub attach_refused: BTreeMap<Refusal, u64>,
    pub detached: u64,
    /// Records that are not of the protocol, or of a UE that is not attached.
    pub radio_malformed: u64,
    pub uplink: Crossings,
    pub downlink: Crossings,
}

/// What became of packets on the radio links, in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crossings {
    pub delivered: u64,
    pub lost: u64,
    pub too_long: u64,
    pub queue_full: u64,
    /// More packets were in flight than the limit allows.
    pub in_flight_full: u64,
}

impl Transport {
    pub fn new(config: &Config, mut random: Random) -> Transport {
        let limit = config.limits.bearers;
        let pool = Pool::new(config.pgw.pool_v4, config.pgw.pool_v6);
        let network = Network::new(
            Enodeb::new(config.enodeb.address, limit, random.fork()),
            Sgw::new(config.sgw.s1u_address, config.sgw.s5u_address, limit, random.fork()),
            Pgw::new(config.pgw.address, pool, limit, random.fork()),
            ConfigurationOptions {
                pcscf_v4: config.pgw.pcscf_v4.map(IpAddr::V4),
                pcscf_v6: config.pgw.pcscf_v6.map(IpAddr::V6),
                mtu: config.pgw.mtu,
            },
        );
        Transport {
            network,
            ues: BTreeMap::new(),
            references: BTreeMap::new(),
            in_flight: BinaryHeap::new(),
            in_flight_limit: config.limits.packets_in_flight,
            flights: 0,
            uplink: config.link.uplink.clone(),
            downlink: config.link.downlink.clone(),
            random,
            is_captured: config.radio.capture.is_some(),
            counters: Counters::default(),
        }
    }

    /// A record from a program.
    pub fn on_radio(
        &mut self,
        now: Duration,
        connection: Connection,
        record: &[u8],
        out: &mut Vec<Output>,
    ) {
        let Ok(Record { reference, message }) = radio::decode(record) else {
            self.counters.radio_malformed += 1;
            return;
        };
        if let Message::Attach { version, imsi } = message {
            return self.attach(now, connection, reference, version, imsi, out);
        }
        let Some(&bearer) = self.references.get(&(connection, reference)) else {
            self.counters.radio_malformed += 1;
            return;
        };
        match message {
            Message::Data(packet) => self.cross_uplink(now, bearer, packet, out),
            Message::Detach => self.detach(bearer),
            Message::SetLink { direction, profile } => self.set_link(bearer, direction, profile),
            Message::HandOver { gap_milliseconds } => {
                let gap = Duration::from_millis(u64::from(gap_milliseconds));
                if let Some(ue) = self.ues.get_mut(&bearer) {
                    ue.uplink.hand_over(now, gap);
                    ue.downlink.hand_over(now, gap);
                }
            }
            // These go the other way.
            Message::Attach { .. }
            | Message::Attached(_)
            | Message::Refused { .. }
            | Message::Detached { .. } => self.counters.radio_malformed += 1,
        }
    }

    /// A program is gone, and its UEs with it.
    pub fn on_closed(&mut self, connection: Connection) {
        let of_connection = (connection, 0)..=(connection, u32::MAX);
        let bearers: Vec<_> = self.references.range(of_connection).map(|(_, b)| *b).collect();
        for bearer in bearers {
            self.detach(bearer);
        }
    }

    /// A datagram on port 2152 of one of the nodes.
    pub fn on_gtpu(
        &mut self,
        now: Duration,
        local: IpAddr,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut Vec<Output>,
    ) {
        let network = &mut self.network;
        if local == network.pgw.s5u.address() {
            match network.pgw.receive(from, datagram) {
                pgw::Output::Sgi(packet) => out.push(Output::Sgi(packet.to_vec())),
                pgw::Output::Send(answer) => out.push(Output::Gtpu(answer)),
                pgw::Output::Nothing => {}
            }
        } else if local == network.sgw.s5u.address() {
            out.extend(network.sgw.receive_s5u(from, datagram).map(Output::Gtpu));
        } else if local == network.sgw.s1u.address() {
            out.extend(network.sgw.receive_s1u(from, datagram).map(Output::Gtpu));
        } else if local == network.enodeb.s1u.address() {
            match network.enodeb.receive(from, datagram) {
                enodeb::Output::Radio(bearer, packet) => {
                    self.cross_downlink(now, bearer, packet, out);
                }
                enodeb::Output::Send(answer) => out.push(Output::Gtpu(answer)),
                enodeb::Output::Released(bearer) => self.released(bearer, out),
                enodeb::Output::Nothing => {}
            }
        }
    }

    /// A packet from the network behind the P-GW.
    pub fn on_sgi(&mut self, packet: &[u8], out: &mut Vec<Output>) {
        out.extend(self.network.pgw.downlink(packet).map(Output::Gtpu));
    }

    /// The time of [`Transport::next_timeout`] has come.
    pub fn on_timeout(&mut self, now: Duration, out: &mut Vec<Output>) {
        while let Some(Reverse(flight)) = self.in_flight.peek() {
            if flight.arrival > now {
                break;
            }
            let Some(Reverse(flight)) = self.in_flight.pop() else { break };
            match flight.is_uplink {
                true => self.arrive_uplink(flight.bearer, flight.packet, out),
                false => self.arrive_downlink(flight.bearer, &flight.packet, out),
            }
        }
        let network = &mut self.network;
        let mut requests = network.enodeb.s1u.tick(now);
        requests.extend(network.sgw.s1u.tick(now));
        requests.extend(network.sgw.s5u.tick(now));
        requests.extend(network.pgw.s5u.tick(now));
        out.extend(requests.into_iter().map(Output::Gtpu));
    }

    /// UEs attached.
    pub fn ues(&self) -> usize {
        self.ues.len()
    }

    pub fn packets_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// When something is due next.
    pub fn next_timeout(&self) -> Option<Duration> {
        let network = &self.network;
        [
            self.in_flight.peek().map(|Reverse(flight)| flight.arrival),
            network.enodeb.s1u.next_tick(),
            network.sgw.s1u.next_tick(),
            network.sgw.s5u.next_tick(),
            network.pgw.s5u.next_tick(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn attach(
        &mut self,
        now: Duration,
        connection: Connection,
        reference: u32,
        version: IpVersion,
        imsi: &str,
        out: &mut Vec<Output>,
    ) {
        // A UE that attaches again has forgotten its bearer (TS 24.301 §5.5.1.2.7).
        if let Some(&old) = self.references.get(&(connection, reference)) {
            self.detach(old);
        }
        let message = match self.network.attach(now, version) {
            Ok((bearer, attached)) => {
                self.counters.attached += 1;
                tracing::info!(imsi, address = %attached.address, "UE attached");
                let ue = Ue {
                    connection,
                    reference,
                    imsi: imsi.to_owned(),
                    uplink: Link::new(self.uplink.clone(), self.random.fork()),
                    downlink: Link::new(self.downlink.clone(), self.random.fork()),
                };
                self.ues.insert(bearer, ue);
                self.references.insert((connection, reference), bearer);
                Message::Attached(attached)
            }
            Err(refusal) => {
                *self.counters.attach_refused.entry(refusal).or_default() += 1;
                tracing::warn!(imsi, %refusal, "attach refused");
                let reason = refusal.to_string();
                let record = Record { reference, message: Message::Refused { reason: &reason } };
                out.push(Output::Radio(connection, record.encode()));
                return;
            }
        };
        out.push(Output::Radio(connection, Record { reference, message }.encode()));
    }

    fn detach(&mut self, bearer: BearerId) {
        self.network.detach(bearer);
        if let Some(ue) = self.ues.remove(&bearer) {
            self.references.remove(&(ue.connection, ue.reference));
            self.counters.detached += 1;
            tracing::info!(imsi = ue.imsi, "UE detached");
        }
    }

    /// The network lost the bearer: the UE is told, so that it attaches again.
    fn released(&mut self, bearer: BearerId, out: &mut Vec<Output>) {
        if let Some(ue) = self.ues.get(&bearer) {
            let message = Message::Detached { reason: "bearer unknown to the S-GW" };
            let record = Record { reference: ue.reference, message };
            out.push(Output::Radio(ue.connection, record.encode()));
        }
        self.detach(bearer);
    }

    fn set_link(&mut self, bearer: BearerId, direction: Direction, profile: &str) {
        let profile = serde_json::from_str::<Profile>(profile)
            .map_err(|error| error.to_string())
            .and_then(|profile| profile.check().map(|()| profile));
        match (profile, self.ues.get_mut(&bearer)) {
            (Ok(profile), Some(ue)) => match direction {
                Direction::Uplink => ue.uplink.set_profile(profile),
                Direction::Downlink => ue.downlink.set_profile(profile),
            },
            (Err(error), _) => {
                self.counters.radio_malformed += 1;
                tracing::warn!(error, "link profile refused");
            }
            (Ok(_), None) => {}
        }
    }

    fn cross_uplink(
        &mut self,
        now: Duration,
        bearer: BearerId,
        packet: &[u8],
        out: &mut Vec<Output>,
    ) {
        let Some(ue) = self.ues.get_mut(&bearer) else { return };
        let fate = ue.uplink.offer(now, packet.len());
        if let Some(packet) = self.cross(now, bearer, true, fate, packet) {
            self.arrive_uplink(bearer, packet, out);
        }
    }

    fn cross_downlink(
        &mut self,
        now: Duration,
        bearer: BearerId,
        packet: &[u8],
        out: &mut Vec<Output>,
    ) {
        let Some(ue) = self.ues.get_mut(&bearer) else { return };
        if self.is_captured {
            out.push(Output::Captured(Direction::Downlink, packet.to_vec()));
        }
        let fate = ue.downlink.offer(now, packet.len());
        if let Some(packet) = self.cross(now, bearer, false, fate, packet) {
            self.arrive_downlink(bearer, &packet, out);
        }
    }

    /// The packet itself if it is across at once; else it is on its way, or gone and counted.
    fn cross(
        &mut self,
        now: Duration,
        bearer: BearerId,
        is_uplink: bool,
        fate: Fate,
        packet: &[u8],
    ) -> Option<Vec<u8>> {
        let crossings = match is_uplink {
            true => &mut self.counters.uplink,
            false => &mut self.counters.downlink,
        };
        match fate {
            Fate::Arrives(arrival) if arrival <= now => return Some(packet.to_vec()),
            Fate::Arrives(_) if self.in_flight.len() >= self.in_flight_limit => {
                crossings.in_flight_full += 1;
            }
            Fate::Arrives(arrival) => {
                self.flights += 1;
                self.in_flight.push(Reverse(Flight {
                    arrival,
                    number: self.flights,
                    bearer,
                    is_uplink,
                    packet: packet.to_vec(),
                }));
            }
            Fate::Lost => crossings.lost += 1,
            Fate::TooLong => crossings.too_long += 1,
            Fate::QueueFull => crossings.queue_full += 1,
        }
        None
    }

    fn arrive_uplink(&mut self, bearer: BearerId, packet: Vec<u8>, out: &mut Vec<Output>) {
        self.counters.uplink.delivered += 1;
        let datagram = self.network.enodeb.uplink(bearer, &packet);
        if self.is_captured {
            out.push(Output::Captured(Direction::Uplink, packet));
        }
        out.extend(datagram.map(Output::Gtpu));
    }

    fn arrive_downlink(&mut self, bearer: BearerId, packet: &[u8], out: &mut Vec<Output>) {
        if let Some(ue) = self.ues.get(&bearer) {
            self.counters.downlink.delivered += 1;
            let record = Record { reference: ue.reference, message: Message::Data(packet) };
            out.push(Output::Radio(ue.connection, record.encode()));
        }
    }
}
