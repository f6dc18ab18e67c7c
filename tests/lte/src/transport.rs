//! The whole transport as one value: UEs on their radio links in front of the nodes. Programs and
//! simulators give it what arrives, and carry out what it asks for.
//!
//! What a UE does in time is in three files beside this one: `mobility` (handover), `paging` (idle
//! and back) and `radio_events` (outages, links, scripts and commands).

mod mobility;
mod paging;
mod radio_events;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::random::Random;
use common::stats::Histogram;

use crate::attach::{BearerId, ConfigurationOptions, IpVersion, Network, Refusal};
use crate::config::{Config, HandoverConfig, IdleConfig};
use crate::endpoint::Datagram;
use crate::enodeb::{self, Enodeb};
use crate::link::{Fate, Link, Profile};
use crate::pgw::{self, Pgw, Pool};
use crate::radio::{self, Direction, Message, Record};
use crate::script::{Imsi, What};
use crate::sgw::{self, Sgw};

pub use mobility::Kind;

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
    pub cells: Vec<Cell>,
    ues: BTreeMap<BearerId, Ue>,
    references: BTreeMap<(Connection, u32), BearerId>,
    /// The bearer that a UE got last.
    by_imsi: BTreeMap<Imsi, BearerId>,
    /// Which address belongs to which node.
    places: BTreeMap<IpAddr, Place>,
    /// The S-GW that each eNodeB wants, by number.
    sgw_of_enodeb: Vec<Option<usize>>,
    in_flight: BinaryHeap<Reverse<Flight>>,
    in_flight_limit: usize,
    flights: u64,
    timers: BTreeSet<(Duration, BearerId, Timer)>,
    scheduled: radio_events::Scheduled,
    /// No Echo Request is due before.
    next_echo: Duration,
    link: [Arc<Profile>; 2],
    handover: HandoverConfig,
    idle: IdleConfig,
    random: Random,
    is_captured: bool,
    pub counters: Counters,
}

#[derive(Debug)]
pub struct Cell {
    pub name: String,
    /// Number of its eNodeB.
    pub enodeb: usize,
    /// On the air.
    pub is_up: bool,
    /// UEs that are connected or camp here.
    pub ues: usize,
    /// Uplink and downlink; absent: those of all.
    links: [Option<Arc<Profile>>; 2],
    /// What the configuration says, to which `link` goes back.
    configured: [Option<Arc<Profile>>; 2],
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Enodeb(usize),
    S1u(usize),
    S5u(usize),
    Pgw,
}

#[derive(Debug)]
struct Ue {
    connection: Connection,
    reference: u32,
    imsi: Imsi,
    cell: usize,
    uplink: Link,
    downlink: Link,
    /// The link is the UE's own, in either direction: it keeps it in another cell.
    has_own_link: [bool; 2],
    /// Out of coverage.
    is_out: bool,
    phase: Phase,
    last_active: Duration,
    is_watched: bool,
    /// What it left behind in its last handover is removed at this time.
    settles_at: Duration,
    /// Uplink packets that wait for the bearer to be set up again.
    held: VecDeque<Vec<u8>>,
}

/// What a UE is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connected,
    /// On its way to another cell, where it is at this time.
    Moving {
        at: Duration,
        cell: usize,
        began: Duration,
    },
    Idle,
    /// The network pages it; the page is on the air at this time.
    Paged {
        at: Duration,
        attempt: u32,
        since: Duration,
    },
    /// The bearer is set up again at this time; it was paged since, or has something to send.
    Waking {
        at: Duration,
        paged_since: Option<Duration>,
    },
}

/// What is due for a UE. One that its phase does not know any more is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Moved,
    Settled,
    Paged,
    Woken,
    Inactive,
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

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    pub attached: u64,
    pub attach_refused: BTreeMap<Refusal, u64>,
    pub detached: u64,
    /// Records that are not of the protocol, or of a UE that is not attached.
    pub radio_malformed: u64,
    pub uplink: Crossings,
    pub downlink: Crossings,
    pub handovers: BTreeMap<Kind, u64>,
    pub handovers_failed: BTreeMap<Kind, u64>,
    /// From leaving one cell to the path switched.
    pub handover_seconds: Histogram,
    /// The End Marker did not come in its time.
    pub end_markers_missed: u64,
    pub s1_released_inactive: u64,
    pub s1_released_radio_lost: u64,
    pub s1_released_command: u64,
    /// Pages on the air, repetitions included.
    pub pages: u64,
    pub pages_answered: u64,
    /// UEs that answered none of their pages.
    pub pages_unanswered: u64,
    /// From the Downlink Data Notification to the bearer set up again.
    pub paging_seconds: Histogram,
    pub service_requests: u64,
    pub service_requests_refused: u64,
    pub events: BTreeMap<What, u64>,
    pub events_refused: u64,
}

/// What became of packets on the radio links, in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crossings {
    pub delivered: u64,
    pub lost: u64,
    pub too_long: u64,
    pub queue_full: u64,
    /// The cell was off the air, or the UE out of coverage.
    pub outage: u64,
    /// More packets were in flight, or waited in an idle UE, than the limits allow.
    pub in_flight_full: u64,
}

impl Transport {
    pub fn new(config: &Config, mut random: Random) -> Transport {
        let limits = &config.limits;
        let (bearers, waiting) = (limits.bearers, limits.packets_in_flight);
        let (enodeb_names, sgw_names) = (config.enodeb_names(), config.sgw_names());
        let enodebs = config.enodeb.iter().zip(&enodeb_names).map(|(node, name)| {
            Enodeb::new(name.clone(), node.address, bearers, waiting, random.fork())
        });
        let enodebs: Vec<_> = enodebs.collect();
        let room = sgw::Room { of_one_ue: config.idle.packets_waiting, of_all: waiting };
        let sgws = config.sgw.iter().zip(&sgw_names).map(|(node, name)| {
            let addresses = (node.s1u_address, node.s5u_address);
            Sgw::new(name.clone(), addresses, bearers, room, random.fork())
        });
        let sgws: Vec<_> = sgws.collect();
        let pool = Pool::new(config.pgw.pool_v4, config.pgw.pool_v6);
        let pgw = Pgw::new(config.pgw.address, pool, bearers, random.fork());
        let mut places = BTreeMap::from([(config.pgw.address, Place::Pgw)]);
        places.extend(config.enodeb.iter().map(|node| node.address).zip((0..).map(Place::Enodeb)));
        places.extend(config.sgw.iter().map(|node| node.s1u_address).zip((0..).map(Place::S1u)));
        places.extend(config.sgw.iter().map(|node| node.s5u_address).zip((0..).map(Place::S5u)));
        let number = |names: &[String], wanted: &str| names.iter().position(|name| name == wanted);
        let sgw_of_enodeb = config.enodeb.iter().map(|node| number(&sgw_names, node.sgw.as_ref()?));
        let sgw_of_enodeb = sgw_of_enodeb.collect();
        let cells = config.cells().into_iter().map(|cell| {
            let links = [cell.uplink.map(Arc::new), cell.downlink.map(Arc::new)];
            Cell {
                enodeb: number(&enodeb_names, &cell.enodeb).unwrap_or(0),
                name: cell.name,
                is_up: true,
                ues: 0,
                configured: links.clone(),
                links,
            }
        });
        let options = ConfigurationOptions {
            pcscf_v4: config.pgw.pcscf_v4.map(IpAddr::V4),
            pcscf_v6: config.pgw.pcscf_v6.map(IpAddr::V6),
            mtu: config.pgw.mtu,
        };
        Transport {
            network: Network::new(enodebs, sgws, pgw, options),
            cells: cells.collect(),
            ues: BTreeMap::new(),
            references: BTreeMap::new(),
            by_imsi: BTreeMap::new(),
            places,
            sgw_of_enodeb,
            in_flight: BinaryHeap::new(),
            in_flight_limit: limits.packets_in_flight,
            flights: 0,
            timers: BTreeSet::new(),
            scheduled: radio_events::Scheduled::new(limits.events),
            next_echo: Duration::MAX,
            link: [&config.link.uplink, &config.link.downlink].map(|link| Arc::new(link.clone())),
            handover: config.handover,
            idle: config.idle,
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
        self.catch_up(now, out);
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
        self.catch_up(now, out);
        let network = &mut self.network;
        match self.places.get(&local) {
            Some(Place::Pgw) => match network.pgw.receive(from, datagram) {
                pgw::Output::Sgi(packet) => out.push(Output::Sgi(packet.to_vec())),
                pgw::Output::Send(answer) => out.push(Output::Gtpu(answer)),
                pgw::Output::Nothing => {}
            },
            Some(Place::S5u(sgw)) => match network.sgws[*sgw].receive_s5u(from, datagram) {
                sgw::Output::Send(datagram) => out.push(Output::Gtpu(datagram)),
                sgw::Output::Notify(bearer) => self.notified(now, bearer),
                sgw::Output::Nothing => {}
            },
            Some(Place::S1u(sgw)) => {
                out.extend(network.sgws[*sgw].receive_s1u(from, datagram).map(Output::Gtpu));
            }
            Some(Place::Enodeb(enodeb)) => match network.enodebs[*enodeb].receive(from, datagram) {
                enodeb::Output::Radio(bearer, packet) => {
                    self.cross_downlink(now, bearer, packet, out);
                }
                enodeb::Output::Released(bearer, packets) => {
                    for packet in packets {
                        self.cross_downlink(now, bearer, &packet, out);
                    }
                }
                enodeb::Output::Send(datagram) => out.push(Output::Gtpu(datagram)),
                enodeb::Output::Lost(bearer) => {
                    self.released(bearer, "bearer unknown to the S-GW", out);
                }
                enodeb::Output::Nothing => {}
            },
            None => {}
        }
    }

    /// A packet from the network behind the P-GW.
    pub fn on_sgi(&mut self, packet: &[u8], out: &mut Vec<Output>) {
        out.extend(self.network.pgw.downlink(packet).map(Output::Gtpu));
    }

    /// The time of [`Transport::next_timeout`] has come.
    pub fn on_timeout(&mut self, now: Duration, out: &mut Vec<Output>) {
        self.catch_up(now, out);
        if self.next_echo <= now {
            self.supervise(now, out);
        }
    }

    /// What was due before now comes before what arrives now, however late the clock is looked at:
    /// else a packet overtakes those that a handover held back.
    fn catch_up(&mut self, now: Duration, out: &mut Vec<Output>) {
        self.run_scheduled(now, out);
        // A UE is in its new cell before the packets that were held back for it arrive there.
        while let Some(&(at, bearer, timer)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::Moved => self.moved(now, at, bearer, out),
                Timer::Settled => self.settled(now, at, bearer, out),
                Timer::Paged => self.paged(now, at, bearer),
                Timer::Woken => self.woken(now, at, bearer, out),
                Timer::Inactive => self.inactive(now, bearer),
            }
        }
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
    }

    /// TS 29.281 §7.2.1: Echo Requests of all nodes that are due.
    fn supervise(&mut self, now: Duration, out: &mut Vec<Output>) {
        let network = &mut self.network;
        let mut next = Duration::MAX;
        let mut tick = |requests: Vec<Datagram>, at: Option<Duration>| {
            out.extend(requests.into_iter().map(Output::Gtpu));
            next = next.min(at.unwrap_or(Duration::MAX));
        };
        for enodeb in &mut network.enodebs {
            tick(enodeb.s1u.tick(now), enodeb.s1u.next_tick());
        }
        for sgw in &mut network.sgws {
            tick(sgw.s1u.tick(now), sgw.s1u.next_tick());
            tick(sgw.s5u.tick(now), sgw.s5u.next_tick());
        }
        tick(network.pgw.s5u.tick(now), network.pgw.s5u.next_tick());
        self.next_echo = next;
    }

    /// A path may have been added, which is due at once.
    fn paths_changed(&mut self, now: Duration) {
        if self.next_echo > now && self.network.has_new_path() {
            self.next_echo = now;
        }
    }

    /// UEs attached.
    pub fn ues(&self) -> usize {
        self.ues.len()
    }

    /// UEs attached that are idle.
    pub fn idle_ues(&self) -> usize {
        let is_idle = |ue: &&Ue| !matches!(ue.phase, Phase::Connected | Phase::Moving { .. });
        self.ues.values().filter(is_idle).count()
    }

    pub fn packets_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// When something is due next.
    pub fn next_timeout(&self) -> Option<Duration> {
        [
            self.in_flight.peek().map(|Reverse(flight)| flight.arrival),
            self.timers.first().map(|(at, ..)| *at),
            self.scheduled.next(),
            (self.next_echo != Duration::MAX).then_some(self.next_echo),
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
        let imsi = Imsi::parse(imsi);
        let (Some(imsi), Some(cell)) = (imsi, self.cell_to_attach(imsi)) else {
            return self.refuse(connection, reference, Refusal::NoCell, out);
        };
        let enodeb = self.cells[cell].enodeb;
        let sgw = self.sgw_of_enodeb[enodeb].unwrap_or(0);
        let (bearer, attached) = match self.network.attach(now, (enodeb, sgw), version) {
            Ok(attached) => attached,
            Err(refusal) => {
                tracing::debug!(%imsi, %refusal, "attach refused");
                return self.refuse(connection, reference, refusal, out);
            }
        };
        self.paths_changed(now);
        self.counters.attached += 1;
        tracing::debug!(%imsi, address = %attached.address, "UE attached");
        let ue = Ue {
            connection,
            reference,
            imsi,
            cell,
            uplink: Link::new(self.link_in(cell, Direction::Uplink), self.random.u64()),
            downlink: Link::new(self.link_in(cell, Direction::Downlink), self.random.u64()),
            has_own_link: [false; 2],
            is_out: false,
            phase: Phase::Connected,
            last_active: now,
            is_watched: false,
            settles_at: Duration::ZERO,
            held: VecDeque::new(),
        };
        self.cells[cell].ues += 1;
        self.ues.insert(bearer, ue);
        self.references.insert((connection, reference), bearer);
        self.by_imsi.insert(imsi, bearer);
        self.watch(now, bearer);
        let message = Message::Attached(attached);
        out.push(Output::Radio(connection, Record { reference, message }.encode()));
    }

    /// UEs spread over the cells that are on the air, each always to the same one.
    fn cell_to_attach(&self, imsi: Option<Imsi>) -> Option<usize> {
        let count = self.cells.len();
        let first = (imsi?.number() % count as u64) as usize;
        (first..first + count).map(|cell| cell % count).find(|cell| self.cells[*cell].is_up)
    }

    fn refuse(
        &mut self,
        connection: Connection,
        reference: u32,
        refusal: Refusal,
        out: &mut Vec<Output>,
    ) {
        *self.counters.attach_refused.entry(refusal).or_default() += 1;
        let reason = refusal.to_string();
        let record = Record { reference, message: Message::Refused { reason: &reason } };
        out.push(Output::Radio(connection, record.encode()));
    }

    fn detach(&mut self, bearer: BearerId) {
        self.network.detach(bearer);
        if let Some(ue) = self.ues.remove(&bearer) {
            self.references.remove(&(ue.connection, ue.reference));
            if self.by_imsi.get(&ue.imsi) == Some(&bearer) {
                self.by_imsi.remove(&ue.imsi);
            }
            self.cells[ue.cell].ues -= 1;
            self.counters.detached += 1;
            tracing::debug!(imsi = %ue.imsi, "UE detached");
        }
    }

    /// The network lost the bearer: the UE is told, so that it attaches again.
    fn released(&mut self, bearer: BearerId, reason: &str, out: &mut Vec<Output>) {
        if let Some(ue) = self.ues.get(&bearer) {
            let message = Message::Detached { reason };
            let record = Record { reference: ue.reference, message };
            out.push(Output::Radio(ue.connection, record.encode()));
        }
        self.detach(bearer);
    }

    fn set_link(&mut self, bearer: BearerId, direction: Direction, profile: &str) {
        let profile = serde_json::from_str::<Profile>(profile)
            .map_err(|error| error.to_string())
            .and_then(|profile| profile.check().map(|()| profile));
        match profile {
            Ok(profile) => self.own_link(bearer, direction, Some(Arc::new(profile))),
            Err(error) => {
                self.counters.radio_malformed += 1;
                tracing::warn!(error, "link profile refused");
            }
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
        if ue.is_out || !self.cells[ue.cell].is_up {
            self.counters.uplink.outage += 1;
            return;
        }
        ue.last_active = now;
        if !matches!(ue.phase, Phase::Connected | Phase::Moving { .. }) {
            return self.hold(now, bearer, packet);
        }
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
        ue.last_active = now;
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

    /// What is in the air when the cell or the UE goes is lost.
    fn is_covered(&self, bearer: BearerId) -> bool {
        self.ues.get(&bearer).is_some_and(|ue| !ue.is_out && self.cells[ue.cell].is_up)
    }

    fn arrive_uplink(&mut self, bearer: BearerId, packet: Vec<u8>, out: &mut Vec<Output>) {
        if !self.is_covered(bearer) {
            self.counters.uplink.outage += 1;
            return;
        }
        // It was sent while the bearer was there: what came of it since does not take it back.
        let Some(enodeb) = self.network.enodeb_of(bearer) else {
            self.counters.uplink.lost += 1;
            return;
        };
        self.counters.uplink.delivered += 1;
        let datagram = self.network.enodebs[enodeb].uplink(bearer, &packet);
        if self.is_captured {
            out.push(Output::Captured(Direction::Uplink, packet));
        }
        out.extend(datagram.map(Output::Gtpu));
    }

    fn arrive_downlink(&mut self, bearer: BearerId, packet: &[u8], out: &mut Vec<Output>) {
        if !self.is_covered(bearer) {
            self.counters.downlink.outage += 1;
            return;
        }
        if let Some(ue) = self.ues.get(&bearer) {
            self.counters.downlink.delivered += 1;
            let record = Record { reference: ue.reference, message: Message::Data(packet) };
            out.push(Output::Radio(ue.connection, record.encode()));
        }
    }

    /// The link of a UE in this cell that has none of its own.
    fn link_in(&self, cell: usize, direction: Direction) -> Arc<Profile> {
        let side = direction as usize;
        self.cells[cell].links[side].as_ref().unwrap_or(&self.link[side]).clone()
    }

    /// A link of the UE's own, or that of its cell again.
    fn own_link(&mut self, bearer: BearerId, direction: Direction, own: Option<Arc<Profile>>) {
        let Some(cell) = self.ues.get(&bearer).map(|ue| ue.cell) else { return };
        let of_cell = self.link_in(cell, direction);
        let Some(ue) = self.ues.get_mut(&bearer) else { return };
        ue.has_own_link[direction as usize] = own.is_some();
        let link = match direction {
            Direction::Uplink => &mut ue.uplink,
            Direction::Downlink => &mut ue.downlink,
        };
        link.set_profile(own.unwrap_or(of_cell));
    }
}
