//! The simulated world: the daemons' cores and UEs in virtual time. A seed decides everything.
//!
//! Bytes travel on the simulated wire, so parsers and printers run in every run. Nothing here knows
//! what a registration is; that is for scenarios and checkers.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use common::dns::{Answer, Question};
use common::ipsec::esp::spi_of;
use common::node::{
    ConnectionId, Flow, Input, Node, Now, Output, PeerIndex, StoredRecord, Transport,
};
use common::random::Random;
use common::reginfo::Event as RegistrationEvent;
use common::stats::{Samples, Value};
use scenarios::{Line, Standing};

use crate::associations::Associations;
use crate::checkers::Checkers;
use crate::disk::Disk;
use crate::kernel::{Kernel, Work};
use crate::ladder::Ladder;
use crate::network::Network;

/// Where simulated time begins: an arbitrary moment of 2026.
pub const BEGIN: Now = Now::from_millis(1_780_000_000_000);

/// Events that one run may take before it counts as never coming to rest.
const EVENT_LIMIT: u64 = 5_000_000;
/// Lines of the ladder that are shown with what the model has found.
const BEFORE_A_FINDING: usize = 400;

/// Makes a core anew: at the start of the run and after each crash.
pub type Factory = Box<dyn Fn([u8; 32]) -> Box<dyn Node>>;

/// One network function with what belongs to its host.
pub struct Member {
    pub name: &'static str,
    factory: Factory,
    /// `None`: the process is down.
    pub core: Option<Box<dyn Node>>,
    /// Counts restarts; inputs addressed to an earlier life are lost.
    life: u32,
    pub addresses: Vec<IpAddr>,
    pub disk: Disk,
    pub kernel: Option<Kernel>,
    /// It takes everything and answers nothing.
    pub hangs: bool,
}

/// A UE on its bearer.
pub trait Phone {
    fn address(&self) -> IpAddr;
    /// A packet of the bearer; what goes back out is whole IP packets.
    fn packet(&mut self, now: Now, packet: &[u8], out: &mut Vec<Bytes>);
    fn timeout(&mut self, now: Now, out: &mut Vec<Bytes>);
    fn next_timeout(&self) -> Option<Now>;
    /// What it is told by the scenario: `register`, `deregister`, ...
    fn command(&mut self, now: Now, command: &str, out: &mut Vec<Bytes>);
    /// Lines for the ladder since the last call: what it sent and what happened to it.
    fn events(&mut self) -> Vec<String>;
    /// A command is on its way: it counts as busy until something has come of it.
    fn expect(&mut self);
    fn standing(&self) -> Standing;
    /// Procedures that ended well.
    fn completed(&self) -> u64;
    /// Documents of registration state that it has got.
    fn notified(&self) -> u64;
    /// The public and the temporary GRUU that it has got.
    fn gruus(&self) -> Option<(String, String)>;
    /// Of its card.
    fn private_identity(&self) -> String;
    /// SPIs of its inbound associations.
    fn inbound_spis(&self) -> Vec<u32>;
    /// Its identity and bearer; `None` where nobody is to take part in them.
    fn line(&self) -> Option<Line> {
        None
    }
    /// Waits that are open.
    fn owed(&self) -> usize;
    /// Host and port of the Contact that it has bound, while it is registered.
    fn contact(&self) -> Option<String> {
        None
    }
    /// A challenge was answered in the last procedure that registered it.
    fn was_challenged(&self) -> bool {
        false
    }
    /// P-Associated-URI of its registration.
    fn associated(&self) -> Vec<String> {
        Vec::new()
    }
    /// What documents of registration state have said of its own contact, oldest first.
    fn heard(&self) -> &[RegistrationEvent] {
        &[]
    }
}

/// REGISTERs that reach one function come to it once more, as transactions of their own: somebody in
/// front of it has sent the same request again with another branch.
pub struct Copies {
    pub to: &'static str,
    pub later: Duration,
    /// Copies made so far.
    pub made: u64,
}

enum Event {
    Input { member: usize, life: u32, input: Input },
    Uplink { ue: usize, packet: Bytes },
    Downlink { ue: usize, packet: Bytes },
    Restart { member: usize },
    Command { ue: usize, command: String },
}

/// One end of a Diameter connection: who has it, and the other end's number.
#[derive(Clone, Copy)]
struct End {
    member: usize,
    other: ConnectionId,
}

pub struct World {
    pub now: Now,
    pub seed: u64,
    pub members: Vec<Member>,
    pub phones: Vec<Box<dyn Phone>>,
    pub network: Network,
    pub ladder: Ladder,
    pub checkers: Checkers,
    /// The rules of associations, kept beside the P-CSCF.
    pub associations: Associations,
    /// The model knows neither lost state of the kernel nor its limits: off where these are played with.
    pub has_model: bool,
    pub random: Random,
    /// Answers of the DNS by question.
    pub zone: BTreeMap<Question, Answer>,
    pub dns_is_dead: bool,
    pub copies: Option<Copies>,
    queue: BTreeMap<(Now, u64), Event>,
    next_event: u64,
    connections: HashMap<ConnectionId, End>,
    next_connection: u64,
    ephemeral_ports: BTreeMap<(usize, IpAddr, SocketAddr), u16>,
    by_address: BTreeMap<IpAddr, usize>,
    phone_by_address: BTreeMap<IpAddr, usize>,
    pub events: u64,
    pub messages: u64,
    /// Every SIP message in order: who, to whom, inside ESP, bytes. Kept while `is_recording`.
    pub wire: Vec<(String, String, bool, Bytes)>,
    /// Every ESP packet on a bearer in order: of which phone, whether it goes up, its SPI. Kept while
    /// `is_recording`.
    pub esp: Vec<(usize, bool, u32)>,
    /// Every Diameter message in order: who, to whom, bytes. Kept while `is_recording`.
    pub diameter: Vec<(String, String, Bytes)>,
    pub is_recording: bool,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let mut random = Random::from_seed(bytes);
        World {
            now: BEGIN,
            seed,
            members: Vec::new(),
            phones: Vec::new(),
            network: Network::new(random.fork()),
            ladder: Ladder::new(BEGIN),
            checkers: Checkers::default(),
            associations: Associations::default(),
            has_model: true,
            random,
            zone: BTreeMap::new(),
            dns_is_dead: false,
            copies: None,
            queue: BTreeMap::new(),
            next_event: 0,
            connections: HashMap::new(),
            next_connection: 1,
            ephemeral_ports: BTreeMap::new(),
            by_address: BTreeMap::new(),
            phone_by_address: BTreeMap::new(),
            events: 0,
            messages: 0,
            wire: Vec::new(),
            esp: Vec::new(),
            diameter: Vec::new(),
            is_recording: false,
        }
    }

    /// Adds a network function and starts it.
    pub fn add(
        &mut self,
        name: &'static str,
        addresses: Vec<IpAddr>,
        kernel: Option<Kernel>,
        factory: Factory,
    ) -> usize {
        let member = self.members.len();
        for address in &addresses {
            self.by_address.insert(*address, member);
        }
        let disk = Disk::default();
        self.members.push(Member {
            name,
            factory,
            core: None,
            life: 0,
            addresses,
            disk,
            kernel,
            hangs: false,
        });
        self.start(member);
        member
    }

    pub fn add_phone(&mut self, phone: Box<dyn Phone>) -> usize {
        let ue = self.phones.len();
        self.phone_by_address.insert(phone.address(), ue);
        self.phones.push(phone);
        ue
    }

    pub fn member(&self, name: &str) -> usize {
        self.members.iter().position(|member| member.name == name).expect("a member of that name")
    }

    /// Tells a UE something at a time from now.
    pub fn command_after(&mut self, ue: usize, command: &str, after: Duration) {
        let at = self.now + after;
        self.push(at, Event::Command { ue, command: command.to_owned() });
    }

    /// An IP packet on a phone's bearer that the phone did not send.
    pub fn inject(&mut self, ue: usize, packet: Bytes) {
        self.phone_said(ue, vec![packet]);
    }

    /// The process is gone at once: unsent and unread things with it. The kernel and the disk stay.
    pub fn kill(&mut self, member: usize) {
        self.members[member].core = None;
        self.members[member].life += 1;
        if let Some(kernel) = &mut self.members[member].kernel {
            kernel.process_ended();
        }
        self.checkers.forget_answers();
        let name = self.members[member].name;
        self.ladder.note(self.now, name, "killed");
        let mine: Vec<ConnectionId> = self.sorted_connections(member);
        for connection in mine {
            self.close(connection);
        }
    }

    /// Tells the process to end; it is there until it is killed.
    pub fn drain(&mut self, member: usize) {
        self.ladder.note(self.now, self.members[member].name, "is to end");
        self.feed(member, Input::Drain);
    }

    pub fn restart_after(&mut self, member: usize, after: Duration) {
        let at = self.now + after;
        self.push(at, Event::Restart { member });
    }

    fn start(&mut self, member: usize) {
        if self.members[member].core.is_some() {
            return;
        }
        let seed = self.random.bytes();
        let host = &mut self.members[member];
        host.core = Some((host.factory)(seed));
        let records: Vec<StoredRecord> = host.disk.records();
        if host.life > 0 {
            self.ladder.note(self.now, host.name, "started again");
        }
        self.feed(member, Input::Start { records });
        if let Some(kernel) = &self.members[member].kernel {
            self.associations.restarted(self.now, kernel.set_ids());
        }
    }

    /// Runs until nothing happens before `until`, or `done` says so.
    pub fn run(&mut self, until: Now, mut done: impl FnMut(&World) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            let Some(at) = self.next_time().filter(|at| *at <= until) else {
                self.now = self.now.max(until);
                return done(self);
            };
            self.now = self.now.max(at);
            self.step();
            self.events += 1;
            assert!(self.events < EVENT_LIMIT, "seed {} never comes to rest", self.seed);
        }
    }

    fn next_time(&self) -> Option<Now> {
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        let cores = self
            .members
            .iter()
            .filter(|member| !member.hangs)
            .filter_map(|member| member.core.as_ref().and_then(|core| core.next_timeout()));
        let kernels =
            self.members.iter().filter_map(|member| member.kernel.as_ref()?.next_timeout());
        let phones = self.phones.iter().filter_map(|phone| phone.next_timeout());
        queued.into_iter().chain(cores).chain(kernels).chain(phones).min()
    }

    /// Everything that is due at `now`: queued events in order, then timers in the order of members.
    fn step(&mut self) {
        if let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= self.now
        {
            let event = entry.remove();
            self.handle(event);
            return;
        }
        for member in 0..self.members.len() {
            let host = &self.members[member];
            if host.hangs && host.kernel.is_some() {
                self.associations.sleeps();
            }
            let due = host.core.as_ref().and_then(|core| core.next_timeout());
            if !host.hangs && due.is_some_and(|at| at <= self.now) {
                self.feed(member, Input::Timeout);
            }
            if let Some(kernel) = &mut self.members[member].kernel
                && kernel.next_timeout().is_some_and(|at| at <= self.now)
            {
                let expired = kernel.expired(self.now);
                let work = kernel.poll(self.now);
                for set in expired {
                    let name = self.members[member].name;
                    self.ladder.note(self.now, name, &format!("kernel ends set {}", set.0));
                    let after = self.network.kernel_takes();
                    self.push_input(member, after, Input::SasExpired { set });
                }
                self.kernel_did(member, 0, work);
            }
        }
        for ue in 0..self.phones.len() {
            if self.phones[ue].next_timeout().is_some_and(|at| at <= self.now) {
                let mut out = Vec::new();
                self.phones[ue].timeout(self.now, &mut out);
                self.phone_said(ue, out);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Input { member, life, input } => {
                let host = &self.members[member];
                if host.life != life {
                    return;
                }
                let is_of_its_host = matches!(
                    input,
                    Input::SasInstalled { .. }
                        | Input::SasAudited { .. }
                        | Input::SasExpired { .. }
                );
                match host.hangs {
                    false => self.feed(member, input),
                    // Answers of its own kernel wait until it is awake again.
                    true if is_of_its_host => {
                        let later = self.now + Duration::from_secs(1);
                        self.push(later, Event::Input { member, life, input });
                    }
                    true => {}
                }
            }
            Event::Restart { member } => self.start(member),
            Event::Command { ue, command } => {
                let mut out = Vec::new();
                self.phones[ue].command(self.now, &command, &mut out);
                // Its bearer may have given it another address; what is under way to the old one
                // reaches it, and is not for it.
                self.phone_by_address.insert(self.phones[ue].address(), ue);
                self.phone_said(ue, out);
            }
            Event::Downlink { ue, packet } => {
                let mut out = Vec::new();
                self.phones[ue].packet(self.now, &packet, &mut out);
                self.phone_said(ue, out);
            }
            Event::Uplink { ue, packet } => self.uplink(ue, packet),
        }
    }

    /// One input for one core, and what it leads to. One input is one turn here.
    fn feed(&mut self, member: usize, input: Input) {
        let mut out = Vec::new();
        let now = self.now;
        let has_kernel = self.members[member].kernel.is_some();
        let name = self.members[member].name;
        let Some(core) = self.members[member].core.as_mut() else { return };
        let heard = match &input {
            Input::Sip { flow, bytes } if has_kernel => Some((*flow, bytes.clone())),
            _ => None,
        };
        let is_timeout = matches!(input, Input::Timeout);
        let is_watched = heard.is_some() && self.has_model;
        let dropped = if is_watched { dropped(core.as_ref()) } else { 0 };
        if let Input::Diameter { bytes, .. } = &input
            && name == "hss"
        {
            self.checkers.reached_hss(bytes);
        }
        core.handle(now, input, &mut out);
        core.commit().expect("the simulated store commits");
        self.checkers.after_turn(self.seed, name, &out);
        if has_kernel && self.has_model {
            let core = core.as_ref();
            let drops = heard.is_some() && out.is_empty() && self::dropped(core) > dropped;
            let heard = heard.as_ref().map(|(flow, bytes)| (flow, bytes));
            if let Err(error) = self.associations.turn(now, heard, &out, drops) {
                panic!("seed {}: {error}\n{}", self.seed, self.ladder.tail(BEFORE_A_FINDING));
            }
            if is_timeout && core.next_timeout().is_none_or(|at| at > now) {
                self.associations.is_awake();
            }
        }
        // Records are on disk before anything else of the turn is visible.
        for output in &out {
            if let Output::Persist { record } = output {
                self.members[member].disk.apply(record);
            }
        }
        for output in out {
            self.execute(member, output);
        }
    }

    fn execute(&mut self, member: usize, output: Output) {
        match output {
            Output::Sip { flow, bytes } => self.send_sip(member, flow, bytes),
            Output::Diameter { connection, bytes } => {
                let Some(end) = self.connections.get(&connection).copied() else { return };
                self.messages += 1;
                let (from, to) = (self.members[member].name, self.members[end.member].name);
                self.ladder.diameter(self.now, from, to, &bytes);
                if self.is_recording {
                    self.diameter.push((from.to_owned(), to.to_owned(), bytes.clone()));
                }
                let (life, after) = (self.members[end.member].life, self.network.reliable());
                let input = Input::Diameter { connection: end.other, bytes };
                self.push(self.now + after, Event::Input { member: end.member, life, input });
            }
            Output::Connect { peer, host, port } => self.connect(member, peer, &host, port),
            Output::Close { connection } => self.close(connection),
            Output::Resolve { id, question } => {
                let (answer, after) = self.look_up(&question);
                self.ladder.dns(self.now, self.members[member].name, &question, &answer);
                self.push_input(member, after, Input::Resolved { id, answer });
            }
            Output::InstallSas { id, set } => {
                let name = self.members[member].name;
                let refuses = self.network.kernel_refuses();
                let kernel = self.members[member].kernel.as_mut().expect("a kernel with ESP");
                let result = kernel.install(self.now, &set, refuses, &mut self.random);
                let what = if result.is_ok() { "installs" } else { "refuses" };
                if result.is_err() {
                    self.associations.refused(self.now, set.id);
                }
                self.ladder.note(self.now, name, &format!("{what} {}", describe(&set)));
                let after = self.network.kernel_takes();
                self.push_input(member, after, Input::SasInstalled { id, result });
            }
            Output::KeepSas { set, until } => {
                let kernel = self.members[member].kernel.as_mut().expect("a kernel with ESP");
                kernel.keep(set, until);
            }
            Output::AuditSas { id, known } => {
                let name = self.members[member].name;
                let kernel = self.members[member].kernel.as_mut().expect("a kernel with ESP");
                let audit = kernel.audit(&known);
                if !audit.missing.is_empty() || audit.stray_associations > 0 {
                    let (missing, strays) = (audit.missing.len(), audit.stray_associations / 4);
                    let what = format!("audit: {missing} sets missing, {strays} strays removed");
                    self.ladder.note(self.now, name, &what);
                }
                let after = self.network.kernel_takes();
                self.push_input(member, after, Input::SasAudited { id, result: Ok(audit) });
            }
            Output::RemoveSas { set } => {
                let name = self.members[member].name;
                let kernel = self.members[member].kernel.as_mut().expect("a kernel with ESP");
                if kernel.remove(set) {
                    self.ladder.note(self.now, name, &format!("removes set {}", set.0));
                }
            }
            Output::Persist { record } => {
                let what = format!("persists {}", record.kind);
                self.ladder.note(self.now, self.members[member].name, &what);
            }
            Output::Reply { text, .. } => self.checkers.replied(text),
        }
    }

    fn record(&mut self, from: &str, to: &str, protected: bool, bytes: &Bytes) {
        if self.is_recording {
            self.wire.push((from.to_owned(), to.to_owned(), protected, bytes.clone()));
        }
    }

    fn record_esp(&mut self, ue: usize, goes_up: bool, packet: &[u8]) {
        if let Some(spi) = spi_of(packet).filter(|_| self.is_recording) {
            self.esp.push((ue, goes_up, spi));
        }
    }

    fn send_sip(&mut self, member: usize, flow: Flow, bytes: Bytes) {
        self.messages += 1;
        let from = self.members[member].name;
        let kernel = self.members[member].kernel.as_ref();
        let bearer = kernel.map_or(flow.remote.ip(), |kernel| kernel.bearer(&flow));
        if let Some(ue) = self.phone_by_address.get(&bearer).copied() {
            let Some(kernel) = self.members[member].kernel.as_ref() else { return };
            let protected = kernel.is_protected(&flow);
            self.checkers.towards_ue(self.seed, &bytes);
            self.record(from, &format!("ue{ue}"), protected, &bytes);
            self.ladder.sip(self.now, from, &format!("ue{ue}"), protected, &bytes);
            let Some(kernel) = self.members[member].kernel.as_mut() else { return };
            let work = kernel.downlink(self.now, &flow, &bytes);
            self.kernel_did(member, ue, work);
            return;
        }
        let to = self.by_address.get(&flow.remote.ip()).copied();
        let to_name = to.map_or("nowhere", |to| self.members[to].name);
        self.record(from, to_name, false, &bytes);
        self.ladder.sip(self.now, from, to_name, false, &bytes);
        let is_up = to.is_some_and(|to| self.members[to].core.is_some());
        match (flow.transport, to) {
            (Transport::Udp, Some(to)) if is_up => {
                let arriving = Flow { local: flow.remote, remote: flow.local, ..flow };
                for after in self.network.datagram() {
                    self.arrives(to, after, arriving, &bytes);
                }
            }
            (Transport::Udp, _) => {
                // A host whose process is down says so, sometimes.
                if let Some(after) = self.network.port_unreachable() {
                    self.push_input(member, after, Input::Unreachable { flow });
                }
            }
            (Transport::Tcp, Some(to)) if is_up => {
                let local = self.local_end(member, &flow);
                let arriving =
                    Flow { transport: Transport::Tcp, local: flow.remote, remote: local };
                let after = self.network.reliable();
                self.arrives(to, after, arriving, &bytes);
            }
            (Transport::Tcp, _) => {
                let after = self.network.reliable();
                self.push_input(member, after, Input::Unreachable { flow });
            }
        }
    }

    /// A message is there after that long, and a copy of it where copies are made.
    fn arrives(&mut self, member: usize, after: Duration, flow: Flow, bytes: &Bytes) {
        self.push_input(member, after, Input::Sip { flow, bytes: bytes.clone() });
        let name = self.members[member].name;
        let Some(copies) = self.copies.as_mut().filter(|copies| copies.to == name) else { return };
        let Some(copy) = with_another_branch(bytes) else { return };
        copies.made += 1;
        let after = after + copies.later;
        self.push_input(member, after, Input::Sip { flow, bytes: copy });
    }

    /// The local end of a TCP connection: ephemeral, but always the same for the same two hosts.
    fn local_end(&mut self, member: usize, flow: &Flow) -> SocketAddr {
        if flow.local.port() != 0 {
            return flow.local;
        }
        let next = 40_000 + (self.ephemeral_ports.len() % 20_000) as u16;
        let key = (member, flow.local.ip(), flow.remote);
        let port = *self.ephemeral_ports.entry(key).or_insert(next);
        SocketAddr::new(flow.local.ip(), port)
    }

    fn uplink(&mut self, ue: usize, packet: Bytes) {
        self.record_esp(ue, true, &packet);
        let Some(destination) = crate::kernel::destination(&packet) else { return };
        let Some(member) = self.by_address.get(&destination).copied() else { return };
        let host = &mut self.members[member];
        let Some(kernel) = host.kernel.as_mut() else { return };
        let work = kernel.uplink(self.now, packet);
        self.kernel_did(member, ue, work);
    }

    /// What the kernel of a P-CSCF hands on, up and down.
    fn kernel_did(&mut self, member: usize, ue: usize, work: Work) {
        if let Some(reason) = work.dropped {
            self.ladder.note(self.now, "kernel", reason);
        }
        for (address, packet) in work.packets {
            if let Some(ue) = self.phone_by_address.get(&address).copied() {
                self.radio_down(ue, packet);
            }
        }
        let failed = work.failed.into_iter().map(|flow| Input::Unreachable { flow });
        for input in failed.chain(work.ended.into_iter().map(|flow| Input::Ended { flow })) {
            let after = self.network.kernel_takes();
            self.push_input(member, after, input);
        }
        for (flow, bytes, protected) in work.messages {
            let to = self.members[member].name;
            self.checkers.reached_pcscf(self.seed, protected, &bytes);
            self.record(&format!("ue{ue}"), to, protected, &bytes);
            self.ladder.sip(self.now, &format!("ue{ue}"), to, protected, &bytes);
            self.messages += 1;
            let after = self.network.kernel_takes();
            self.arrives(member, after, flow, &bytes);
        }
    }

    fn phone_said(&mut self, ue: usize, packets: Vec<Bytes>) {
        for line in self.phones[ue].events() {
            self.ladder.note(self.now, &format!("ue{ue}"), &line);
        }
        for packet in packets {
            for after in self.network.radio() {
                let packet = packet.clone();
                self.push(self.now + after, Event::Uplink { ue, packet });
            }
        }
    }

    fn radio_down(&mut self, ue: usize, packet: Bytes) {
        self.record_esp(ue, false, &packet);
        for after in self.network.radio() {
            let packet = packet.clone();
            self.push(self.now + after, Event::Downlink { ue, packet });
        }
    }

    fn connect(&mut self, member: usize, peer: PeerIndex, host: &str, _port: u16) {
        let after = self.network.reliable();
        let to = host.parse().ok().and_then(|address| self.by_address.get(&address).copied());
        let Some(to) = to.filter(|to| self.members[*to].core.is_some()) else {
            return self.push_input(member, after, Input::ConnectFailed { peer });
        };
        let mine = ConnectionId(self.next_connection);
        let theirs = ConnectionId(self.next_connection + 1);
        self.next_connection += 2;
        self.connections.insert(mine, End { member: to, other: theirs });
        self.connections.insert(theirs, End { member, other: mine });
        let local = SocketAddr::new(self.members[member].addresses[0], 40_000);
        let remote = SocketAddr::new(self.members[to].addresses[0], 3_868);
        let opened =
            |connection, peer, local, remote| Input::Opened { connection, peer, local, remote };
        self.push_input(to, after, opened(theirs, None, remote, local));
        self.push_input(member, after, opened(mine, Some(peer), local, remote));
    }

    fn close(&mut self, connection: ConnectionId) {
        let Some(end) = self.connections.remove(&connection) else { return };
        self.connections.remove(&end.other);
        let after = self.network.reliable();
        self.push_input(end.member, after, Input::Closed { connection: end.other });
    }

    fn sorted_connections(&self, member: usize) -> Vec<ConnectionId> {
        let mine = |connection: &ConnectionId| {
            let other = self.connections[connection].other;
            self.connections.get(&other).is_some_and(|end| end.member == member)
        };
        let mut found: Vec<_> = self.connections.keys().copied().filter(mine).collect();
        found.sort();
        found
    }

    fn look_up(&mut self, question: &Question) -> (Answer, Duration) {
        if self.dns_is_dead {
            let answer = Answer::Failed { reason: "no server answers".into() };
            return (answer, Duration::from_secs(2));
        }
        let nothing = Answer::Nothing { ttl: Duration::from_secs(60) };
        let answer = self.zone.get(question).cloned().unwrap_or(nothing);
        (answer, self.network.reliable())
    }

    fn push_input(&mut self, member: usize, after: Duration, input: Input) {
        let life = self.members[member].life;
        self.push(self.now + after, Event::Input { member, life, input });
    }

    fn push(&mut self, at: Now, event: Event) {
        self.queue.insert((at, self.next_event), event);
        self.next_event += 1;
    }

    /// What each core still owes somebody.
    pub fn owed(&self) -> Vec<(&'static str, usize)> {
        let owed = |member: &Member| member.core.as_ref().map_or(0, |core| core.owed());
        self.members.iter().map(|member| (member.name, owed(member))).collect()
    }

    /// Asks a core as an operator would; the answer is immediate.
    pub fn admin(&mut self, member: usize, command: &[&str]) -> String {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        self.feed(member, Input::Admin { id: 0, command });
        self.checkers.take_reply()
    }

    pub fn samples(&self, member: usize) -> Samples {
        let mut samples = Samples::default();
        if let Some(core) = &self.members[member].core {
            core.samples(&mut samples);
        }
        samples
    }
}

/// The same REGISTER with another branch in the topmost Via.
fn with_another_branch(bytes: &Bytes) -> Option<Bytes> {
    const COOKIE: &[u8] = b"branch=z9hG4bK";
    if !bytes.starts_with(b"REGISTER ") {
        return None;
    }
    let place = bytes.windows(COOKIE.len()).position(|window| window == COOKIE)? + COOKIE.len();
    Some([&bytes[..place], b"again", &bytes[place..]].concat().into())
}

/// What a P-CSCF says it has thrown away for want of an association.
fn dropped(core: &dyn Node) -> u64 {
    let mut samples = Samples::default();
    core.samples(&mut samples);
    let name = "tessera_pcscf_dropped_without_association_total";
    let found = samples.0.iter().find(|sample| sample.name == name);
    found.map_or(0, |sample| match sample.value {
        Value::Counter(count) => count,
        _ => 0,
    })
}

fn describe(set: &common::ipsec::sa::SaSet) -> String {
    format!(
        "set {}: uc {} us {} pc {} ps {}, {} {}",
        set.id.0,
        set.ports.uc,
        set.ports.us,
        set.ports.pc,
        set.ports.ps,
        set.integrity.name(),
        set.encryption.name()
    )
}
