//! The phone: packets in and out, commands, times.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use common::aka::vector::Algorithm;
use common::ipsec::agree::AlgorithmPair;
use common::ipsec::esp::{OpenError, spi_of};
use common::ipsec::sa::{Ports, SetId, Spis};
use common::limits::Limits;
use common::node::{self, Flow, Now, Transport};
use common::random::Random;
use common::secret::Secret;
use common::sip::auth::DigestParameters;
use common::sip::endpoint::{Endpoint, Event as SipEvent, Incoming, Segment, Target};
use common::sip::header::Name;
use common::sip::message::{Message, Method, Request, Response};
use common::timers::Timers;

use crate::config::{Config, Faults};
use crate::event::Event;
use crate::keep_alive::Way;
use crate::nat::Nat;
use crate::packets::{self, Content, Reassembly};
use crate::register::{Attempt, Registration, Timer, Wait};
use crate::request::host_port;
use crate::sets::{Role, Sets};
use crate::tcp::{Happened, Stack};
use crate::watch::Watch;

/// Commands that may wait behind a procedure that is running.
const WAITING_COMMANDS: usize = 8;

/// What is told to a phone.
#[derive(Clone, Debug)]
pub enum Input {
    /// An IP packet from the bearer.
    Packet(Bytes),
    Command(Command),
    /// The time asked for by [`Phone::next_timeout`] has come.
    Timeout,
}

/// What its user, or its operating system, wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Registers the public identity of that number, or refreshes its registration.
    Register {
        identity: usize,
    },
    Deregister {
        identity: usize,
    },
    /// The battery was taken out: everything but the card is forgotten, and nobody is told.
    Forget,
    /// As `Forget`; and ports and SPIs are counted from the same numbers as after every boot.
    Reboot,
    /// The bearer has given another address.
    Move {
        address: IpAddr,
    },
    /// The NAT in front of it gives it other ports from now on, and nobody is told.
    Rebind,
    /// Its radio will sleep: it closes its connections, and keeps all else.
    CloseConnections,
    SetFaults(Faults),
}

/// What a phone gives.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// An IP packet for the bearer.
    Packet(Bytes),
    Event(Event),
    Trace(Trace),
}

/// What a ladder of messages shows, and what it leaves out silently.
#[derive(Clone, PartialEq, Debug)]
pub enum Trace {
    Sent { flow: Flow, is_protected: bool, bytes: Bytes },
    Received { flow: Flow, is_protected: bool, bytes: Bytes },
    SetInstalled { set: SetId, ports: Ports, spis: Spis, pair: AlgorithmPair },
    SetInUse { set: SetId, ends_at: Now },
    SetRemoved { set: SetId },
    Dropped(Dropped),
}

/// Why a packet went no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dropped {
    Esp(OpenError),
    /// In clear, and no answer to an unprotected REGISTER (TS 33.203 §7.1).
    Clear,
    /// From a protected port, but no association takes it.
    NoAssociation,
    /// No UDP and no TCP, not for this phone, or damaged.
    Unknown,
    /// The TCP stack takes no more.
    Full,
    /// The NAT in front of the phone does not let it pass.
    Nat,
}

/// A phone.
#[derive(Debug)]
pub struct Phone {
    pub(crate) config: Config,
    pub(crate) random: Random,
    pub(crate) sets: Sets,
    pub(crate) registrations: BTreeMap<usize, Registration>,
    /// Subscriptions to their state.
    pub(crate) watches: BTreeMap<usize, Watch>,
    /// The one procedure that is running (TS 24.229 §5.1.1.2.1).
    pub(crate) attempt: Option<Attempt>,
    /// Authorization of the last answered challenge: later REGISTERs repeat it.
    pub(crate) credentials: Option<DigestParameters>,
    pub(crate) timers: Timers<Timer>,
    /// Which P-CSCF of the list is used.
    pub(crate) pcscf: usize,
    /// Failed initial registrations in a row.
    pub(crate) failures: u32,
    pub(crate) next_serial: u64,
    endpoint: Endpoint<Wait>,
    stack: Stack,
    reassembly: Reassembly,
    /// Of what comes out of a tunnel.
    inner_reassembly: Reassembly,
    nat: Option<Nat>,
    /// Through the NAT, in clear.
    pub(crate) way: Option<Way>,
    /// Of the last packet, should it have to be cut.
    next_identification: u32,
    waiting: VecDeque<Command>,
}

impl Phone {
    pub fn new(mut config: Config, mut random: Random) -> Phone {
        if config.faults.wrong_k {
            spoil_key(&mut config.isim.card.algorithm);
        }
        if config.faults.stale_sqn {
            config.isim.card.seq_ms = [1_000_000; 32];
        }
        let sets = Sets::new(config.first_protected_port, config.gm_t1 * 64, &mut random);
        let stack = Stack::new(config.own_address(), tcp_mtu(&config), &mut random);
        let nat = match (config.behind_nat, config.address) {
            (Some(private), IpAddr::V4(public)) => Some(Nat::new(private, public, &mut random)),
            _ => None,
        };
        Phone {
            sets,
            registrations: BTreeMap::new(),
            watches: BTreeMap::new(),
            attempt: None,
            credentials: None,
            timers: Timers::new(),
            pcscf: 0,
            failures: 0,
            next_serial: 0,
            endpoint: endpoint(config.gm_t1, &mut random),
            stack,
            reassembly: Reassembly::default(),
            inner_reassembly: Reassembly::default(),
            nat,
            way: None,
            next_identification: 0,
            waiting: VecDeque::new(),
            config,
            random,
        }
    }

    /// Changes the phone, and appends what comes of it.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Packet(packet) => self.on_packet(now, packet, out),
            Input::Command(command) => self.on_command(now, command, out),
            Input::Timeout => {}
        }
        self.on_time(now, out);
        self.settle(now, out);
    }

    pub fn next_timeout(&self) -> Option<Now> {
        [
            self.endpoint.next_timeout(),
            self.stack.next_timeout(),
            self.timers.next(),
            self.sets.next_end(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn sets(&self) -> &Sets {
        &self.sets
    }

    /// The registration of a public identity, while there is one.
    pub fn registration(&self, identity: usize) -> Option<&Registration> {
        self.registrations.get(&identity)
    }

    /// A registration procedure is running.
    pub fn is_busy(&self) -> bool {
        self.attempt.is_some()
    }

    /// Transactions that have not ended: zero at rest.
    pub fn owed(&self) -> usize {
        self.endpoint.owed()
    }

    fn on_command(&mut self, now: Now, command: Command, out: &mut Vec<Output>) {
        match command {
            Command::Register { .. } | Command::Deregister { .. } if self.attempt.is_some() => {
                if self.waiting.len() < WAITING_COMMANDS && !self.waiting.contains(&command) {
                    self.waiting.push_back(command);
                }
            }
            Command::Register { identity } => self.register(now, identity, out),
            Command::Deregister { identity } => self.deregister(now, identity, out),
            Command::Forget => self.forget(out),
            Command::Reboot => {
                self.forget(out);
                self.sets.count_again();
            }
            Command::Move { address } => {
                let identities: Vec<usize> = self.registrations.keys().copied().collect();
                self.config.address = address;
                if let (Some(nat), IpAddr::V4(public)) = (&mut self.nat, address) {
                    nat.set_public(public);
                }
                self.forget(out);
                for identity in identities {
                    self.on_command(now, Command::Register { identity }, out);
                }
            }
            Command::Rebind => {
                if let Some(nat) = &mut self.nat {
                    nat.forget();
                }
            }
            Command::CloseConnections => self.stack.close(now),
            Command::SetFaults(faults) => self.config.faults = faults,
        }
    }

    /// The next command that has waited for the end of a procedure.
    pub(crate) fn next_command(&mut self, now: Now, out: &mut Vec<Output>) {
        while self.attempt.is_none()
            && let Some(command) = self.waiting.pop_front()
        {
            self.on_command(now, command, out);
        }
    }

    fn forget(&mut self, out: &mut Vec<Output>) {
        for set in self.sets.forget() {
            self.remove_set(set, out);
        }
        self.registrations.clear();
        self.watches.clear();
        self.attempt = None;
        self.credentials = None;
        self.way = None;
        self.timers = Timers::new();
        self.failures = 0;
        self.waiting.clear();
        self.endpoint = endpoint(self.config.gm_t1, &mut self.random);
        self.stack = Stack::new(self.config.own_address(), tcp_mtu(&self.config), &mut self.random);
        self.reassembly = Reassembly::default();
        self.inner_reassembly = Reassembly::default();
    }

    fn on_time(&mut self, now: Now, out: &mut Vec<Output>) {
        loop {
            let mut sip = Vec::new();
            let event = self.endpoint.expire(now, &mut sip);
            self.release(now, sip, out);
            let Some(event) = event else { break };
            self.on_sip_event(now, event, out);
        }
        while let Some(timer) = self.timers.expired(now) {
            self.on_timer(now, timer, out);
        }
        while let Some(set) = self.sets.expired(now) {
            let was_in_use = self.sets.get(set).is_some_and(|set| set.role == Role::InUse);
            self.remove_set(set, out);
            if was_in_use {
                self.lose_registrations(now, out);
            }
        }
    }

    /// Runs TCP until it has nothing more to say.
    fn settle(&mut self, now: Now, out: &mut Vec<Output>) {
        loop {
            let (mut packets, mut happened) = (Vec::new(), Vec::new());
            self.stack.poll(now, &mut packets, &mut happened);
            for packet in packets {
                self.emit(packet, out);
            }
            if happened.is_empty() {
                break;
            }
            for what in happened {
                match what {
                    Happened::Message { flow, bytes } => self.on_message(now, flow, bytes, out),
                    Happened::Failed { flow } => self.on_unreachable(now, flow, out),
                    Happened::Ended { flow } => {
                        self.endpoint.ended(flow);
                        self.on_unreachable(now, flow, out);
                    }
                }
            }
        }
    }

    // ---- Up: from the bearer.

    fn on_packet(&mut self, now: Now, packet: Bytes, out: &mut Vec<Output>) {
        let Some(mut packet) = self.reassembly.take(now, packet) else { return };
        if let Some(nat) = &self.nat {
            match nat.back(packet.into()) {
                Some(inside) => packet = inside.into(),
                None => return dropped(Dropped::Nat, out),
            }
        }
        if spi_of(&packet).is_none() {
            return self.on_clear_packet(now, &packet, false, out);
        }
        match self.sets.open(&packet) {
            Ok(clear) => {
                let whole = self.inner_reassembly.take(now, clear.into());
                if let Some(whole) = whole {
                    self.on_clear_packet(now, &whole, true, out);
                }
            }
            Err(error) => dropped(Dropped::Esp(error), out),
        }
    }

    fn on_clear_packet(
        &mut self,
        now: Now,
        packet: &[u8],
        is_protected: bool,
        out: &mut Vec<Output>,
    ) {
        let address = self.config.own_address();
        match packets::content(packet) {
            Some(Content::Udp { source, destination, payload }) if destination.ip() == address => {
                if !is_protected && destination.port() != self.config.unprotected_port {
                    return dropped(Dropped::Clear, out);
                }
                let flow = Flow { transport: Transport::Udp, local: destination, remote: source };
                if !self.on_keep_alive(now, flow, &payload, out) {
                    self.on_message(now, flow, payload, out);
                }
            }
            Some(Content::Tcp { source, destination }) if destination.ip() == address => {
                if !is_protected
                    && (self.sets.is_protected(destination.port())
                        || !self.stack.knows(destination, source))
                {
                    return dropped(Dropped::Clear, out);
                }
                self.stack.receive(now, packet);
            }
            _ => dropped(Dropped::Unknown, out),
        }
    }

    /// One SIP message. What came in clear to a protected port never gets here.
    fn on_message(&mut self, now: Now, flow: Flow, bytes: Bytes, out: &mut Vec<Output>) {
        let is_protected = self.sets.is_protected(flow.local.port());
        if !is_protected && self.is_protecting() && !self.is_awaited_in_clear(flow, &bytes) {
            return dropped(Dropped::Clear, out);
        }
        let received = Trace::Received { flow, is_protected, bytes: bytes.clone() };
        out.push(Output::Trace(received));
        let set = self.sets.of_flow(flow).and_then(|id| self.sets.get(id));
        if set.is_some_and(|set| set.role == Role::InUse) {
            self.sets.retire_old(now);
        }
        let mut sip = Vec::new();
        let event = self.endpoint.receive(now, flow, bytes, Segment::Gm, &mut sip);
        self.release(now, sip, out);
        if let Some(event) = event {
            self.on_sip_event(now, event, out);
        }
    }

    /// TS 33.203 §7.1: without protection a UE takes only answers to its unprotected REGISTERs.
    fn is_awaited_in_clear(&self, flow: Flow, bytes: &Bytes) -> bool {
        let Some(attempt) = &self.attempt else { return false };
        if attempt.path().is_some() || flow.remote.ip() != self.pcscf_address().ip() {
            return false;
        }
        match Message::parse(bytes.clone(), &Limits::default()) {
            Ok(Message::Response(response)) => {
                response.call_id() == attempt.call_id && response.cseq_method() == Method::Register
            }
            _ => false,
        }
    }

    pub(crate) fn on_unreachable(&mut self, now: Now, flow: Flow, out: &mut Vec<Output>) {
        loop {
            let mut sip = Vec::new();
            let event = self.endpoint.unreachable(now, flow, &mut sip);
            self.release(now, sip, out);
            let Some(event) = event else { break };
            self.on_sip_event(now, event, out);
        }
    }

    fn on_sip_event(&mut self, now: Now, event: SipEvent<Wait>, out: &mut Vec<Output>) {
        match event {
            SipEvent::Request(incoming) => self.answer(now, incoming, out),
            SipEvent::Ack { .. } => {}
            SipEvent::Provisional(branch, _) => self.endpoint.keep(branch),
            SipEvent::Reply(branch, reply) => self.on_reply(now, branch.wait, reply, out),
        }
    }

    /// RFC 3261 §8.2: a phone without sessions answers OPTIONS, and NOTIFYs of what it watches.
    ///
    /// Over UDP the answer leaves from port_uc to port_ps, the only association for it
    /// (TS 33.203 §7.1); over TCP it goes there when its connection is gone, never in clear.
    fn answer(&mut self, now: Now, mut incoming: Incoming, out: &mut Vec<Output>) {
        let flow = incoming.flow();
        let set = self.sets.of_flow(flow).and_then(|id| self.sets.get(id));
        if let Some(set) = set {
            let set = set.esp.set();
            let to_server = Flow {
                transport: flow.transport,
                local: SocketAddr::new(set.ue, set.ports.uc),
                remote: SocketAddr::new(set.pcscf, set.ports.ps),
            };
            match flow.transport {
                Transport::Udp => incoming.set_reply_flow(to_server),
                Transport::Tcp => incoming.set_second_reply_flow(Some(to_server)),
            }
        }
        let (response, told) = match unsupported(incoming.request()) {
            Some(refusal) => (refusal, None),
            None if incoming.request().method() == Method::Notify => {
                self.on_notify(now, incoming.request())
            }
            None => (answer_of(incoming.request()), None),
        };
        let mut sip = Vec::new();
        self.endpoint.respond(now, incoming, response, &mut sip);
        self.release(now, sip, out);
        if let Some(told) = told {
            self.on_document(now, &told, out);
        }
    }

    // ---- Down: to the bearer.

    pub(crate) fn has_nat(&self) -> bool {
        self.nat.is_some()
    }

    /// It knows how to go through a NAT.
    pub(crate) fn offers_udp_enc_tun(&self) -> bool {
        self.nat.is_some() || self.config.offers_udp_enc_tun
    }

    pub(crate) fn pcscf_address(&self) -> SocketAddr {
        let pcscfs = &self.config.pcscfs;
        pcscfs.get(self.pcscf % pcscfs.len().max(1)).copied().unwrap_or_else(|| {
            // Nothing configured: packets to nowhere, and a registration that times out.
            SocketAddr::new(self.config.own_address(), 0)
        })
    }

    /// Sends a request of the phone's own, in clear or by a set.
    pub(crate) fn send(
        &mut self,
        now: Now,
        request: Request,
        path: Option<SetId>,
        wait: Wait,
        out: &mut Vec<Output>,
    ) {
        let ue = self.config.own_address();
        let set = path.and_then(|id| self.sets.get(id)).map(|set| set.esp.set());
        let (local, remote, tcp_local_port, via) = match set {
            Some(set) => (
                SocketAddr::new(ue, set.ports.uc),
                SocketAddr::new(set.pcscf, set.ports.ps),
                set.ports.uc,
                SocketAddr::new(ue, set.ports.us),
            ),
            None => {
                let local = SocketAddr::new(ue, self.config.unprotected_port);
                (local, self.pcscf_address(), 0, local)
            }
        };
        let profile = self.config.profile.as_deref().filter(|_| set.is_some());
        let protected = profile.and_then(|profile| profile.protected_transport);
        let transport = protected.unwrap_or(self.config.transport);
        // A connection in clear gets a port of its own.
        let local = match (transport, path) {
            (Transport::Tcp, None) => SocketAddr::new(ue, 0),
            _ => local,
        };
        let target = Target {
            flow: Flow { transport, local, remote },
            tcp_local_port,
            sent_by: host_port(via),
            segment: Segment::Gm,
        };
        self.endpoint.ask_for_port(path.is_none());
        let is_register = request.method() == Method::Register;
        self.endpoint.ask_to_keep_alive(is_register && self.asks_to_keep_alive());
        let mut sip = Vec::new();
        self.endpoint.send(now, request, target, wait, LIMIT, &mut sip);
        self.release(now, sip, out);
    }

    /// What the endpoint wants sent.
    fn release(&mut self, now: Now, sip: Vec<node::Output>, out: &mut Vec<Output>) {
        for output in sip {
            let node::Output::Sip { flow, bytes } = output else { continue };
            let is_protected = self.sets.is_protected(flow.local.port());
            let bytes = match &self.config.profile {
                Some(profile) if bytes.starts_with(b"REGISTER ") => profile.dress(&bytes),
                _ => bytes,
            };
            let sent = Trace::Sent { flow, is_protected, bytes: bytes.clone() };
            out.push(Output::Trace(sent));
            match flow.transport {
                Transport::Udp => match packets::datagram(flow.local, flow.remote, &bytes) {
                    Some(packet) => self.emit(packet, out),
                    None => dropped(Dropped::Unknown, out),
                },
                Transport::Tcp => {
                    if !self.stack.send(now, flow, &bytes) {
                        dropped(Dropped::Full, out);
                    }
                }
            }
        }
    }

    /// TS 33.203 §7.1: what an association takes leaves as ESP; from a protected port nothing else
    /// leaves.
    pub(crate) fn emit(&mut self, packet: Vec<u8>, out: &mut Vec<Output>) {
        let packet = match self.sets.seal(&packet) {
            Some(sealed) if sealed.is_empty() => return dropped(Dropped::NoAssociation, out),
            Some(sealed) => sealed,
            None => {
                let source = match packets::content(&packet) {
                    Some(Content::Udp { source, .. } | Content::Tcp { source, .. }) => source,
                    None => return dropped(Dropped::Unknown, out),
                };
                if self.sets.is_protected(source.port()) {
                    return dropped(Dropped::NoAssociation, out);
                }
                packet
            }
        };
        let packet = match &mut self.nat {
            Some(nat) => match nat.out(packet) {
                Some(outside) => outside,
                None => return dropped(Dropped::Nat, out),
            },
            None => packet,
        };
        self.next_identification = self.next_identification.wrapping_add(1);
        let fragments = packets::fragments(packet, self.config.mtu, self.next_identification);
        out.extend(fragments.into_iter().map(|packet| Output::Packet(packet.into())));
    }

    /// Takes connections at the protected server port of a new set.
    pub(crate) fn use_set(&mut self, id: SetId, out: &mut Vec<Output>) {
        let Some(set) = self.sets.get(id) else { return };
        let set = set.esp.set();
        let pair = AlgorithmPair { alg: set.integrity, ealg: set.encryption };
        self.stack.listen(set.ports.us);
        let trace = Trace::SetInstalled { set: id, ports: set.ports, spis: set.spis, pair };
        out.push(Output::Trace(trace));
    }

    /// Removes a set and the connections in it.
    pub(crate) fn remove_set(&mut self, id: SetId, out: &mut Vec<Output>) {
        let Some(set) = self.sets.remove(id) else { return };
        if let Some(attempt) = &mut self.attempt {
            attempt.forget_set(id);
        }
        let Ports { uc, us, pc, ps } = set.esp.set().ports;
        self.stack.abort(uc, ps);
        self.stack.abort(us, pc);
        if self.sets.iter().all(|(_, other)| other.esp.set().ports.us != us) {
            self.stack.stop_listening(us);
        }
        out.push(Output::Trace(Trace::SetRemoved { set: id }));
    }
}

fn endpoint(gm_t1: Duration, random: &mut Random) -> Endpoint<Wait> {
    let mut endpoint = Endpoint::new(random.fork(), &Limits::default());
    endpoint.set_gm_t1(gm_t1);
    endpoint
}

/// 64·T1 on Gm (TS 24.229 §7.7).
const LIMIT: Duration = Duration::from_secs(128);

/// What ESP and its longest trailer leave to TCP; behind a NAT a second IP header and UDP, too.
fn tcp_mtu(config: &Config) -> usize {
    if let Some(mtu) = config.tcp_mtu {
        return mtu;
    }
    let in_tunnel = config.behind_nat.is_some() || config.offers_udp_enc_tun;
    let around = if in_tunnel { 48 } else { 0 };
    config.mtu.saturating_sub(80 + around).max(576)
}

fn dropped(why: Dropped, out: &mut Vec<Output>) {
    out.push(Output::Trace(Trace::Dropped(why)));
}

/// RFC 3261 §8.2.2.3
fn unsupported(request: &Request) -> Option<Response> {
    let mut unsupported = request
        .headers()
        .values(Name::Require)
        .filter(|tag| !["path", "sec-agree"].iter().any(|known| tag.eq_ignore_ascii_case(known)))
        .peekable();
    if unsupported.peek().is_some() {
        let mut response = request.response(420, "Bad Extension");
        for tag in unsupported {
            response.headers_mut().append(Name::Unsupported, tag);
        }
        return Some(response);
    }
    None
}

/// RFC 3261 §11.2, §8.2.1
fn answer_of(request: &Request) -> Response {
    const ALLOW: &str = "OPTIONS, NOTIFY";
    match request.method() {
        Method::Options => {
            let mut response = request.response(200, "OK");
            response.headers_mut().append(Name::Allow, ALLOW);
            response
        }
        Method::Bye | Method::Update | Method::Prack | Method::Info | Method::Cancel => {
            request.response(481, "Call/Transaction Does Not Exist")
        }
        _ => {
            let mut response = request.response(405, "Method Not Allowed");
            response.headers_mut().append(Name::Allow, ALLOW);
            response
        }
    }
}

/// Another key than the HSS has.
pub(crate) fn spoil_key(algorithm: &mut Algorithm) {
    let spoilt = |k: &Secret<[u8; 16]>| Secret::new(k.expose().map(|octet| octet ^ 0x5A));
    match algorithm {
        Algorithm::Milenage { k, .. } | Algorithm::Test { k } => *k = spoilt(k),
        Algorithm::Tuak { k, .. } => {
            *k = Secret::new(k.expose().iter().map(|octet| octet ^ 0x5A).collect());
        }
    }
}
