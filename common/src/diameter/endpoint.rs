//! Peers, connections and pending requests behind one door (RFC 6733 §5.5.4, §6). `W` is the daemon's
//! enum of waits.
//!
//! A question goes to the first configured peer that is well, or to the one that is named. Its wait
//! comes back exactly once: with the answer, or with the reason why there is none. When a peer
//! dies or stays silent, the question moves to another one with the T flag, the same Session-Id
//! and End-to-End Identifier; what the first peer says afterwards is ignored. One peer that hangs
//! costs its own questions their time and nobody else anything.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use crate::diameter::base::{self, Application, Echoed, result_code};
use crate::diameter::connections::{Connection, Peer};
use crate::diameter::duplicates::{Duplicates, Key, Seen, Working};
use crate::diameter::message::{self, Builder, FLAG_RETRANSMITTED, Failure, Header, Message};
use crate::diameter::watchdog;
use crate::limits::Limits;
use crate::node::{ConnectionId, Input, Now, Output};
use crate::random::Random;
use crate::stats::Samples;
use crate::timers::Timers;

/// The `[diameter]` section of a daemon.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Origin-Host of this node, a fully qualified name.
    pub identity: String,
    /// Origin-Realm.
    pub realm: String,
    /// Address and port on which connections are accepted; absent: none are. TCP.
    #[serde(default)]
    pub listen: Option<std::net::SocketAddr>,
    /// Peers to connect to, in order of preference.
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
    /// Origin-Hosts that may connect to us; empty: any that belongs to our realm. Compared without case.
    #[serde(default)]
    pub allowed_peers: Vec<String>,
    /// Watchdog interval Tw in milliseconds (RFC 3539: 30 s, at least 6 s; shorter is accepted for labs).
    #[serde(default = "default_watchdog")]
    pub watchdog_milliseconds: u64,
    /// First delay before a lost connection is tried again; doubles up to `reconnect_max_milliseconds`.
    #[serde(default = "default_reconnect")]
    pub reconnect_milliseconds: u64,
    #[serde(default = "default_reconnect_max")]
    pub reconnect_max_milliseconds: u64,
    /// How long a request waits for its answer.
    #[serde(default = "default_request")]
    pub request_timeout_milliseconds: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Origin-Host the peer must present; absent: whatever it presents.
    #[serde(default)]
    pub identity: Option<String>,
    /// Name or address.
    pub host: String,
    #[serde(default = "default_port")]
    pub port: u16,
}

fn default_port() -> u16 {
    3868
}
fn default_watchdog() -> u64 {
    30_000
}
fn default_reconnect() -> u64 {
    500
}
fn default_reconnect_max() -> u64 {
    30_000
}
fn default_request() -> u64 {
    3_000
}

/// Why a question has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoAnswer {
    /// No peer was up, or every one that was went away.
    NoPeer,
    Timeout,
    /// Too many requests are pending.
    Overloaded,
    /// The answer could not be decoded as what was asked for.
    Malformed,
}

/// Where an answer to a received request goes.
#[derive(Clone, Debug)]
pub struct ReplyTo {
    pub connection: ConnectionId,
    pub hop_by_hop: u32,
    pub end_to_end: u32,
    pub session_id: String,
    pub command: u32,
}

/// Which peers may get a request, and whether it carries Destination-Host (RFC 6733 §6.1.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination<'a> {
    /// Any node of our realm.
    Realm,
    /// That node while it can be reached, else any of the realm: nodes that share their data.
    Preferred(&'a str),
    /// That node and no other; a relay may carry it there.
    Only(&'a str),
}

/// A request for the application, checked as far as the base protocol goes.
#[derive(Debug)]
pub struct Incoming {
    pub message: Message,
    pub origin_host: String,
    pub origin_realm: String,
    pub reply_to: ReplyTo,
}

#[derive(Debug)]
pub enum Event<W> {
    Request(Incoming),
    /// What became of a request. `took`: from the question to this.
    Answer {
        wait: W,
        command: u32,
        result: Result<Message, NoAnswer>,
        took: Duration,
    },
}

/// Diameter endpoint for one application.
#[derive(Debug)]
pub struct Endpoint<W> {
    pub(super) config: Config,
    pub(super) application: Application,
    pub(super) limits: Limits,
    pub(super) random: Random,
    /// Configured ones by their place in the configuration, then those that came by themselves.
    pub(super) peers: BTreeMap<u32, Peer>,
    pub(super) next_peer: u32,
    pub(super) connections: HashMap<ConnectionId, Connection>,
    pub(super) timers: Timers<Timer>,
    pub(super) is_draining: bool,
    /// Origin-State-Id, and the high part of Session-Ids: seconds at the first `now` seen.
    pub(super) started: Option<u32>,
    pub(super) stats: Stats,
    pending: HashMap<u32, Pending<W>>,
    duplicates: Duplicates,
    events: VecDeque<Event<W>>,
    session_high: u32,
    session_low: u32,
    next_end_to_end: u32,
    next_hop_by_hop: u32,
}

/// What happens later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Timer {
    /// The request with that Hop-by-Hop Identifier has waited long enough.
    Request(u32),
    Watchdog(u32),
    Reconnect(u32),
    /// The peer does not get on with connecting, greeting or parting.
    Handshake(u32),
    /// An accepted connection has not said CER.
    Greeting(ConnectionId),
}

/// A request that was sent.
#[derive(Debug)]
struct Pending<W> {
    wait: W,
    command: u32,
    end_to_end: u32,
    bytes: Bytes,
    peer: u32,
    connection: ConnectionId,
    asked_at: Now,
    deadline: Now,
    /// Peers that had it before.
    tried: Vec<u32>,
    may_move: bool,
    preference: Preference,
}

/// What a Destination-Host that is only preferred means for a request that moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Preference {
    /// There is none, or it is no mere preference.
    None,
    /// It names the peer that the request was sent to: it goes when the request goes elsewhere.
    Peer,
    /// It names a node behind the peer: any relay may find it.
    Beyond,
}

/// Plain counters; labels are command codes.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub requests_sent: BTreeMap<u32, u64>,
    pub requests_received: BTreeMap<u32, u64>,
    pub answers_sent: BTreeMap<u32, u64>,
    pub answers_received: BTreeMap<u32, u64>,
    pub refusals: BTreeMap<u32, u64>,
    pub no_answers: BTreeMap<&'static str, u64>,
    pub failovers: u64,
    pub late_answers: u64,
    pub duplicates: u64,
    pub undecodable: u64,
    pub watchdogs_sent: u64,
    pub watchdogs_received: u64,
    pub suspects: u64,
    pub connects: u64,
    pub connections_refused: BTreeMap<&'static str, u64>,
}

impl<W> Endpoint<W> {
    pub fn new(
        config: Config,
        application: Application,
        mut random: Random,
        limits: &Limits,
    ) -> Self {
        let backoff = config.reconnect_milliseconds.max(1);
        let peers: BTreeMap<u32, Peer> = (0..)
            .zip(config.peers.iter().cloned().map(|peer| Peer::configured(peer, backoff)))
            .collect();
        Endpoint {
            next_peer: peers.len() as u32,
            peers,
            connections: HashMap::new(),
            timers: Timers::new(),
            is_draining: false,
            started: None,
            stats: Stats::default(),
            pending: HashMap::new(),
            duplicates: Duplicates::new(limits.diameter_pending),
            events: VecDeque::new(),
            session_high: 0,
            session_low: 0,
            next_end_to_end: random.u32() & 0xf_ffff,
            next_hop_by_hop: random.u32(),
            config,
            application,
            limits: limits.clone(),
            random,
        }
    }

    /// RFC 6733 §5.6: connects to the configured peers.
    pub fn start(&mut self, now: Now, out: &mut Vec<Output>) {
        self.note_start(now);
        self.connect_all(now, out);
    }

    /// RFC 6733 §6.1: sends a request of the application. `fill` writes the AVPs behind the common
    /// ones. `limit`: until the wait comes back at the latest, failover included.
    #[allow(clippy::too_many_arguments)]
    pub fn ask(
        &mut self,
        now: Now,
        command: u32,
        destination: Destination,
        fill: impl FnOnce(&mut Builder),
        wait: W,
        limit: Duration,
        out: &mut Vec<Output>,
    ) {
        self.note_start(now);
        if self.pending.len() >= self.limits.diameter_pending {
            return self.end(wait, command, Err(NoAnswer::Overloaded), Duration::ZERO);
        }
        let Some(peer) = self.choose(destination, &[]) else {
            return self.end(wait, command, Err(NoAnswer::NoPeer), Duration::ZERO);
        };
        let Some(connection) = self.peers[&peer].active_connection() else {
            return self.end(wait, command, Err(NoAnswer::NoPeer), Duration::ZERO);
        };
        let (mut builder, preference) = self.request(command, destination, peer);
        fill(&mut builder);
        let end_to_end = self.next_end_to_end;
        self.next_end_to_end = end_to_end.wrapping_add(1);
        count(&mut self.stats.requests_sent, command);
        let pending = Pending {
            wait,
            command,
            end_to_end,
            bytes: builder.finish(),
            peer,
            connection,
            asked_at: now,
            deadline: now + limit,
            tried: Vec::new(),
            may_move: !matches!(destination, Destination::Only(_)),
            preference,
        };
        self.send(now, pending, peer, 0, out);
    }

    /// RFC 6733 §6.2: answers a request. `fill` writes the result and what follows it. An answer to
    /// a request that is owed none any more is dropped.
    pub fn answer(
        &mut self,
        reply_to: &ReplyTo,
        fill: impl FnOnce(&mut Builder),
        out: &mut Vec<Output>,
    ) {
        let place = (reply_to.connection, reply_to.hop_by_hop);
        let Some(working) = self.duplicates.finish(place) else { return };
        let mut builder = Builder::new(working.header.answer(false));
        builder.raw(&working.echoed.session_id);
        self.application.write(&mut builder);
        builder.number(base::AUTH_SESSION_STATE, base::NO_STATE_MAINTAINED);
        builder.text(base::ORIGIN_HOST, &self.config.identity);
        builder.text(base::ORIGIN_REALM, &self.config.realm);
        fill(&mut builder);
        builder.raw(&working.echoed.proxy_info);
        self.deliver(working, builder.finish(), out);
    }

    /// RFC 6733 §7: answers a request with a failure; 3xxx codes set the E bit. `fill` adds AVPs.
    pub fn refuse(
        &mut self,
        reply_to: &ReplyTo,
        failure: &Failure,
        fill: impl FnOnce(&mut Builder),
        out: &mut Vec<Output>,
    ) {
        let place = (reply_to.connection, reply_to.hop_by_hop);
        let Some(working) = self.duplicates.finish(place) else { return };
        count(&mut self.stats.refusals, failure.result_code);
        let application = self.application;
        let origin = (self.config.identity.as_str(), self.config.realm.as_str());
        let bytes =
            base::failure_answer(&working.header, &working.echoed, origin, failure, |builder| {
                if !result_code::is_protocol_error(failure.result_code) {
                    application.write(builder);
                    builder.number(base::AUTH_SESSION_STATE, base::NO_STATE_MAINTAINED);
                }
                fill(builder);
            });
        self.deliver(working, bytes, out);
    }

    /// Feeds `Diameter`, `Opened`, `ConnectFailed` and `Closed` inputs; others are ignored.
    pub fn input(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        self.note_start(now);
        match input {
            Input::Diameter { connection, bytes } => self.on_bytes(now, connection, bytes, out),
            Input::Opened { connection, peer, local, remote } => {
                self.on_opened(now, connection, peer, local, remote, out);
            }
            Input::ConnectFailed { peer } => self.on_connect_failed(now, peer, out),
            Input::Closed { connection } => self.on_closed(now, connection, out),
            _ => {}
        }
    }

    /// Fires timers that are due.
    pub fn expire(&mut self, now: Now, out: &mut Vec<Output>) {
        while let Some(timer) = self.timers.expired(now) {
            match timer {
                Timer::Request(hop_by_hop) => self.on_request_timeout(now, hop_by_hop, out),
                Timer::Watchdog(peer) => {
                    self.watchdog_event(now, peer, watchdog::Event::TimerExpires, out);
                }
                Timer::Reconnect(peer) => self.on_reconnect(now, peer, out),
                Timer::Handshake(peer) => self.on_handshake_timeout(now, peer, out),
                Timer::Greeting(connection) => self.on_greeting_timeout(connection, out),
            }
        }
    }

    pub fn next_event(&mut self) -> Option<Event<W>> {
        self.events.pop_front()
    }

    pub fn next_timeout(&self) -> Option<Now> {
        self.timers.next()
    }

    /// Some peer takes requests.
    pub fn is_up(&self) -> bool {
        self.peers.values().any(|peer| peer.rank().is_some())
    }

    /// RFC 6733 §5.4: says DPR to every peer, once the requests sent to it have ended, and takes no
    /// new requests.
    pub fn drain(&mut self, now: Now, out: &mut Vec<Output>) {
        self.is_draining = true;
        let peers: Vec<u32> = self.peers.keys().copied().collect();
        for peer in peers {
            self.part_when_idle(now, peer, out);
        }
    }

    /// Requests sent and not ended.
    pub fn owed(&self) -> usize {
        self.pending.len()
    }

    /// Requests received and not answered.
    pub fn owing(&self) -> usize {
        self.duplicates.working()
    }

    /// RFC 6733 §6.1.1: the AVPs that every request begins with.
    fn request(
        &mut self,
        command: u32,
        destination: Destination,
        peer: u32,
    ) -> (Builder, Preference) {
        let header = base::application_header(command, self.application.id, self.next_end_to_end);
        let mut builder = Builder::new(header);
        let session_id = self.next_session_id();
        builder.text(base::SESSION_ID, &session_id);
        self.application.write(&mut builder);
        builder.number(base::AUTH_SESSION_STATE, base::NO_STATE_MAINTAINED);
        builder.text(base::ORIGIN_HOST, &self.config.identity);
        builder.text(base::ORIGIN_REALM, &self.config.realm);
        let host = match destination {
            Destination::Realm => None,
            Destination::Preferred(host) | Destination::Only(host) => Some(host),
        };
        let named = host.and_then(|host| self.peer_named(host));
        let realm = named.and_then(|named| self.peers[&named].realm());
        builder.text(base::DESTINATION_REALM, realm.unwrap_or(&self.config.realm));
        // A node that we know to be away would only have the request refused by its neighbour.
        let preference = match (destination, named) {
            (Destination::Preferred(_), Some(named)) if named == peer => Preference::Peer,
            (Destination::Preferred(_), Some(_)) => return (builder, Preference::None),
            (Destination::Preferred(_), None) => Preference::Beyond,
            _ => Preference::None,
        };
        if let Some(host) = host {
            builder.text(base::DESTINATION_HOST, host);
        }
        (builder, preference)
    }

    /// Hop-by-Hop and End-to-End Identifier of a request of the base protocol.
    pub(super) fn next_identifiers(&mut self) -> (u32, u32) {
        let identifiers = (self.next_hop_by_hop, self.next_end_to_end);
        self.next_hop_by_hop = self.next_hop_by_hop.wrapping_add(1);
        self.next_end_to_end = self.next_end_to_end.wrapping_add(1);
        identifiers
    }

    /// RFC 6733 §8.8: `<identity>;<high>;<low>`, never the same twice, restarts included.
    fn next_session_id(&mut self) -> String {
        let low = self.session_low;
        let high = self.session_high;
        self.session_low = low.wrapping_add(1);
        if self.session_low == 0 {
            self.session_high = high.wrapping_add(1);
        }
        format!("{};{high};{low}", self.config.identity)
    }

    /// RFC 6733 §3: the high 12 bits of End-to-End Identifiers begin with the time.
    fn note_start(&mut self, now: Now) {
        if self.started.is_none() {
            let seconds = now.as_secs() as u32;
            self.started = Some(seconds);
            self.session_high = seconds;
            self.next_end_to_end |= seconds << 20;
        }
    }

    /// Puts a request on the wire under a new Hop-by-Hop Identifier.
    fn send(
        &mut self,
        now: Now,
        mut pending: Pending<W>,
        peer: u32,
        set_flags: u8,
        out: &mut Vec<Output>,
    ) {
        let Some(connection) = self.peers.get(&peer).and_then(Peer::active_connection) else {
            let took = now.since(pending.asked_at);
            return self.end(pending.wait, pending.command, Err(NoAnswer::NoPeer), took);
        };
        let hop_by_hop = self.next_hop_by_hop;
        self.next_hop_by_hop = hop_by_hop.wrapping_add(1);
        pending.bytes = message::with_hop_by_hop(pending.bytes, hop_by_hop, set_flags);
        pending.peer = peer;
        pending.connection = connection;
        out.push(Output::Diameter { connection, bytes: pending.bytes.clone() });
        let patience = Duration::from_millis(self.config.request_timeout_milliseconds.max(1));
        self.timers.set(Timer::Request(hop_by_hop), pending.deadline.min(now + patience));
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.outstanding += 1;
        }
        self.pending.insert(hop_by_hop, pending);
    }

    /// RFC 6733 §5.5.4: sends a request that has no answer yet to another peer. Gives it back when
    /// there is none.
    fn move_on(
        &mut self,
        now: Now,
        mut pending: Pending<W>,
        set_flags: u8,
        out: &mut Vec<Output>,
    ) -> Option<Pending<W>> {
        if !pending.may_move || now >= pending.deadline {
            return Some(pending);
        }
        pending.tried.push(pending.peer);
        let Some(peer) = self.choose(Destination::Realm, &pending.tried) else {
            return Some(pending);
        };
        if pending.preference == Preference::Peer {
            self.drop_preference(&mut pending);
        }
        self.stats.failovers += 1;
        self.send(now, pending, peer, set_flags, out);
        None
    }

    /// Lets any node of the realm have the request.
    fn drop_preference(&self, pending: &mut Pending<W>) {
        pending.preference = Preference::None;
        if let Ok(message) = Message::decode(pending.bytes.clone(), &self.limits) {
            pending.bytes = message.encode_without(base::DESTINATION_HOST);
        }
    }

    /// RFC 3539 §3.4: what was sent to that peer goes to another one. `is_gone`: what cannot move
    /// ends here, else it goes on waiting.
    pub(super) fn fail_over(&mut self, now: Now, peer: u32, is_gone: bool, out: &mut Vec<Output>) {
        let mut hop_by_hops: Vec<u32> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.peer == peer)
            .map(|(hop_by_hop, _)| *hop_by_hop)
            .collect();
        hop_by_hops.sort_unstable();
        for hop_by_hop in hop_by_hops {
            if !is_gone && self.choose(Destination::Realm, &[peer]).is_none() {
                break;
            }
            let may_move = self.pending.get(&hop_by_hop).is_some_and(|pending| pending.may_move);
            if !is_gone && !may_move {
                continue;
            }
            let Some(pending) = self.take(now, hop_by_hop, out) else { continue };
            if let Some(stuck) = self.move_on(now, pending, FLAG_RETRANSMITTED, out) {
                let took = now.since(stuck.asked_at);
                self.end(stuck.wait, stuck.command, Err(NoAnswer::NoPeer), took);
            }
        }
    }

    /// RFC 6733 §5.5.4: one peer has had its time. Another one may have what is left.
    fn on_request_timeout(&mut self, now: Now, hop_by_hop: u32, out: &mut Vec<Output>) {
        let Some(pending) = self.take(now, hop_by_hop, out) else { return };
        if let Some(stuck) = self.move_on(now, pending, FLAG_RETRANSMITTED, out) {
            let took = now.since(stuck.asked_at);
            self.end(stuck.wait, stuck.command, Err(NoAnswer::Timeout), took);
        }
    }

    /// RFC 6733 §6.2.1: an answer of the application.
    pub(super) fn on_answer(
        &mut self,
        now: Now,
        connection: ConnectionId,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        let header = message.header;
        let is_expected = self.pending.get(&header.hop_by_hop).is_some_and(|pending| {
            pending.connection == connection && pending.end_to_end == header.end_to_end
        });
        if !is_expected {
            self.stats.late_answers += 1;
            return;
        }
        let Some(pending) = self.take(now, header.hop_by_hop, out) else { return };
        if header.command != pending.command || header.application != self.application.id {
            let took = now.since(pending.asked_at);
            return self.end(pending.wait, pending.command, Err(NoAnswer::Malformed), took);
        }
        count(&mut self.stats.answers_received, header.command);
        let pending = match self.serve_elsewhere(now, pending, &message, out) {
            None => return,
            Some(pending) => pending,
        };
        let took = now.since(pending.asked_at);
        self.end(pending.wait, pending.command, Ok(message), took);
    }

    /// RFC 6733 §7.1.3: a peer that is too busy or cannot reach the destination leaves the request to
    /// another one. It was not carried out, so it is no retransmission. Gives the request back when
    /// the answer is what it gets.
    fn serve_elsewhere(
        &mut self,
        now: Now,
        mut pending: Pending<W>,
        answer: &Message,
        out: &mut Vec<Output>,
    ) -> Option<Pending<W>> {
        let code = answer.find(base::RESULT_CODE).and_then(|avp| avp.number().ok());
        match code.filter(|_| answer.header.is_error()) {
            Some(result_code::UNABLE_TO_DELIVER) if pending.preference == Preference::Beyond => {
                self.drop_preference(&mut pending);
                let Some(peer) = self.choose(Destination::Realm, &[]) else { return Some(pending) };
                self.send(now, pending, peer, 0, out);
                None
            }
            Some(result_code::UNABLE_TO_DELIVER | result_code::TOO_BUSY) => {
                self.move_on(now, pending, 0, out)
            }
            _ => Some(pending),
        }
    }

    /// An answer came that cannot be decoded: the question ends.
    pub(super) fn on_undecodable_answer(
        &mut self,
        now: Now,
        connection: ConnectionId,
        header: &Header,
        out: &mut Vec<Output>,
    ) {
        let pending = self.pending.get(&header.hop_by_hop);
        if pending.is_some_and(|pending| pending.connection == connection)
            && let Some(pending) = self.take(now, header.hop_by_hop, out)
        {
            let took = now.since(pending.asked_at);
            self.end(pending.wait, pending.command, Err(NoAnswer::Malformed), took);
        }
    }

    /// RFC 6733 §6.1.4: a request of an application: is it for us, and can we serve it?
    pub(super) fn on_request(
        &mut self,
        now: Now,
        connection: ConnectionId,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        let header = message.header;
        let command = self.known_command(header.command);
        count(&mut self.stats.requests_received, command);
        let incoming = match self.admit(connection, message) {
            Ok(incoming) => incoming,
            Err((message, failure)) => {
                self.refuse_bytes(connection, message.bytes(), &failure, out);
                return;
            }
        };
        let key = Key {
            origin_host: incoming.origin_host.to_ascii_lowercase().into(),
            end_to_end: header.end_to_end,
            command: header.command,
        };
        let place = (connection, header.hop_by_hop);
        if header.is_retransmitted() {
            match self.duplicates.look_up(&key, place) {
                Seen::Never => {}
                Seen::Working => {
                    self.stats.duplicates += 1;
                    return;
                }
                Seen::Answered(bytes) => {
                    self.stats.duplicates += 1;
                    let bytes = message::with_hop_by_hop(bytes, header.hop_by_hop, 0);
                    out.push(Output::Diameter { connection, bytes });
                    return;
                }
            }
        }
        let echoed = Echoed::of(incoming.message.bytes());
        self.duplicates.begin(now, key, place, header, echoed);
        self.events.push_back(Event::Request(incoming));
    }

    /// RFC 6733 §6.1.3, §6.1.4: the checks that concern no application.
    fn admit(
        &self,
        connection: ConnectionId,
        message: Message,
    ) -> Result<Incoming, (Message, Failure)> {
        match self.routing(&message) {
            Err(failure) => Err((message, failure)),
            Ok((session_id, origin_host, origin_realm)) => Ok(Incoming {
                reply_to: ReplyTo {
                    connection,
                    hop_by_hop: message.header.hop_by_hop,
                    end_to_end: message.header.end_to_end,
                    session_id,
                    command: message.header.command,
                },
                message,
                origin_host,
                origin_realm,
            }),
        }
    }

    /// Session-Id, Origin-Host and Origin-Realm of a request that is for us.
    fn routing(&self, message: &Message) -> Result<(String, String, String), Failure> {
        let header = message.header;
        if header.application != self.application.id {
            let why = format!("application {} is not served", header.application);
            return Err(Failure::new(result_code::APPLICATION_UNSUPPORTED, why));
        }
        if !self.application.commands.contains(&header.command) {
            let why = format!("command {} is not of this application", header.command);
            return Err(Failure::new(result_code::COMMAND_UNSUPPORTED, why));
        }
        if self.is_draining || self.duplicates.is_full() {
            return Err(Failure::new(result_code::TOO_BUSY, "no new requests are taken"));
        }
        let mut session_id = None;
        let (mut origin_host, mut origin_realm) = (None, None);
        let (mut host, mut realm) = (None, None);
        for avp in message.avps() {
            if avp.is(base::SESSION_ID) {
                session_id.get_or_insert(avp.text()?);
            } else if avp.is(base::ORIGIN_HOST) {
                origin_host.get_or_insert(avp.text()?);
            } else if avp.is(base::ORIGIN_REALM) {
                origin_realm.get_or_insert(avp.text()?);
            } else if avp.is(base::DESTINATION_HOST) {
                host.get_or_insert(avp.text()?);
            } else if avp.is(base::DESTINATION_REALM) {
                realm.get_or_insert(avp.text()?);
            } else if avp.is(base::ROUTE_RECORD)
                && avp.text()?.eq_ignore_ascii_case(&self.config.identity)
            {
                let why = "Route-Record names this node";
                return Err(Failure::new(result_code::LOOP_DETECTED, why));
            }
        }
        let session_id = session_id.ok_or_else(|| Failure::missing(base::SESSION_ID))?;
        let origin_host = origin_host.ok_or_else(|| Failure::missing(base::ORIGIN_HOST))?;
        let origin_realm = origin_realm.ok_or_else(|| Failure::missing(base::ORIGIN_REALM))?;
        let realm = realm.ok_or_else(|| Failure::missing(base::DESTINATION_REALM))?;
        if !realm.eq_ignore_ascii_case(&self.config.realm) {
            let why = format!("realm {realm} is not served");
            return Err(Failure::new(result_code::REALM_NOT_SERVED, why));
        }
        if let Some(host) = host.filter(|host| !host.eq_ignore_ascii_case(&self.config.identity)) {
            let why = format!("{host} is another node, and this one does not relay");
            return Err(Failure::new(result_code::UNABLE_TO_DELIVER, why));
        }
        Ok((session_id.to_owned(), origin_host.to_owned(), origin_realm.to_owned()))
    }

    /// RFC 6733 §7.2: refuses what did not become an event.
    pub(super) fn refuse_bytes(
        &mut self,
        connection: ConnectionId,
        request: &Bytes,
        failure: &Failure,
        out: &mut Vec<Output>,
    ) {
        let Some(header) = Header::peek(request) else { return };
        count(&mut self.stats.refusals, failure.result_code);
        tracing::warn!(
            result_code = failure.result_code,
            command = header.command,
            reason = %failure.message,
            "diameter request refused"
        );
        let origin = (self.config.identity.as_str(), self.config.realm.as_str());
        let echoed = Echoed::of(request);
        let application = self.application;
        let bytes = base::failure_answer(&header, &echoed, origin, failure, |builder| {
            let is_ours = header.application == application.id;
            if is_ours && !result_code::is_protocol_error(failure.result_code) {
                application.write(builder);
                builder.number(base::AUTH_SESSION_STATE, base::NO_STATE_MAINTAINED);
            }
        });
        out.push(Output::Diameter { connection, bytes });
    }

    /// Sends an answer to where the request was seen last, and keeps it for repetitions.
    fn deliver(&mut self, working: Working, bytes: Bytes, out: &mut Vec<Output>) {
        let (connection, hop_by_hop) = working.deliver_to;
        count(&mut self.stats.answers_sent, working.header.command);
        let moved = hop_by_hop != working.header.hop_by_hop;
        let bytes = if moved { message::with_hop_by_hop(bytes, hop_by_hop, 0) } else { bytes };
        self.duplicates.answered(working, &bytes);
        if self.connections.contains_key(&connection) {
            out.push(Output::Diameter { connection, bytes });
        }
    }

    /// Takes a pending request out.
    fn take(&mut self, now: Now, hop_by_hop: u32, out: &mut Vec<Output>) -> Option<Pending<W>> {
        let pending = self.pending.remove(&hop_by_hop)?;
        self.timers.stop(&Timer::Request(hop_by_hop));
        if let Some(peer) = self.peers.get_mut(&pending.peer) {
            peer.outstanding = peer.outstanding.saturating_sub(1);
        }
        if self.is_draining {
            self.part_when_idle(now, pending.peer, out);
        }
        Some(pending)
    }

    /// The only way in which a wait comes back.
    fn end(&mut self, wait: W, command: u32, result: Result<Message, NoAnswer>, took: Duration) {
        if let Err(reason) = &result {
            count(&mut self.stats.no_answers, reason.name());
        }
        self.events.push_back(Event::Answer { wait, command, result, took });
    }

    /// RFC 6733 §6.1.4, §6.1.6: the peer that gets a request: the one named, else the first that is
    /// well, else the first that is proving itself.
    fn choose(&self, destination: Destination, tried: &[u32]) -> Option<u32> {
        if self.is_draining {
            return None;
        }
        let is_usable = |key: &u32| self.peers.get(key).is_some_and(|peer| peer.rank().is_some());
        let named = match destination {
            Destination::Realm => None,
            Destination::Preferred(host) | Destination::Only(host) => self.peer_named(host),
        };
        if let Some(named) = named.filter(is_usable) {
            return Some(named);
        }
        let must_relay = matches!(destination, Destination::Only(_));
        let has_configured = !self.config.peers.is_empty();
        self.peers
            .iter()
            .filter(|(key, _)| !tried.contains(key))
            .filter(|(_, peer)| peer.is_configured() || !has_configured || must_relay)
            .filter(|(_, peer)| !must_relay || peer.is_relay())
            .filter_map(|(key, peer)| peer.rank().map(|rank| (rank, *key)))
            .min()
            .map(|(_, key)| key)
    }

    /// A command as a label: other people's numbers must not make new ones.
    fn known_command(&self, command: u32) -> u32 {
        if self.application.commands.contains(&command) { command } else { 0 }
    }

    pub fn samples(&self, samples: &mut Samples) {
        self.stats.samples(samples);
        let pending = self.pending.len() as f64;
        let help = "Requests sent and not answered yet.";
        samples.gauge("tessera_diameter_pending", help, &[], pending);
        let help = "Transport connections, greeted or not.";
        samples.gauge("tessera_diameter_connections", help, &[], self.connections.len() as f64);
        for peer in self.peers.values() {
            let labels = [("peer", peer.name())];
            let is_up = f64::from(u8::from(peer.rank().is_some()));
            let help = "1 when the peer takes requests.";
            samples.gauge("tessera_diameter_peer_up", help, &labels, is_up);
            let labels = [
                ("peer", peer.name()),
                ("state", peer.state.name()),
                ("watchdog", peer.watchdog.state.name()),
            ];
            let help = "The state of the peer and of its watchdog.";
            samples.gauge("tessera_diameter_peer_state", help, &labels, 1.0);
        }
    }
}

impl NoAnswer {
    /// Name as a metric's label and a log line show it.
    pub const fn name(self) -> &'static str {
        match self {
            NoAnswer::NoPeer => "no-peer",
            NoAnswer::Timeout => "timeout",
            NoAnswer::Overloaded => "overloaded",
            NoAnswer::Malformed => "malformed",
        }
    }
}

impl Stats {
    fn samples(&self, samples: &mut Samples) {
        let help = "Requests by direction and command.";
        for (direction, counts) in
            [("sent", &self.requests_sent), ("received", &self.requests_received)]
        {
            for (command, value) in counts {
                let labels = [("direction", direction), ("command", &command.to_string()[..])];
                samples.counter("tessera_diameter_requests_total", help, &labels, *value);
            }
        }
        let help = "Answers by direction and command.";
        for (direction, counts) in
            [("sent", &self.answers_sent), ("received", &self.answers_received)]
        {
            for (command, value) in counts {
                let labels = [("direction", direction), ("command", &command.to_string()[..])];
                samples.counter("tessera_diameter_answers_total", help, &labels, *value);
            }
        }
        let help = "Requests refused by the base protocol or as malformed, by Result-Code.";
        for (code, value) in &self.refusals {
            let labels = [("result", &code.to_string()[..])];
            samples.counter("tessera_diameter_refusals_total", help, &labels, *value);
        }
        let help = "Requests that ended without an answer, by reason.";
        for (reason, value) in &self.no_answers {
            let labels = [("reason", *reason)];
            samples.counter("tessera_diameter_no_answers_total", help, &labels, *value);
        }
        let help = "Connections refused, by reason.";
        for (reason, value) in &self.connections_refused {
            let labels = [("reason", *reason)];
            samples.counter("tessera_diameter_connections_refused_total", help, &labels, *value);
        }
        let timeouts = self.no_answers.get("timeout").copied().unwrap_or_default();
        for (name, help, value) in [
            ("tessera_diameter_timeouts_total", "Requests that timed out.", timeouts),
            ("tessera_diameter_failovers_total", "Requests moved to another peer.", self.failovers),
            (
                "tessera_diameter_late_answers_total",
                "Answers nobody waited for.",
                self.late_answers,
            ),
            ("tessera_diameter_duplicates_total", "Repeated requests found.", self.duplicates),
            ("tessera_diameter_undecodable_total", "Messages not decodable.", self.undecodable),
            ("tessera_diameter_watchdogs_sent_total", "DWRs sent.", self.watchdogs_sent),
            (
                "tessera_diameter_watchdogs_received_total",
                "DWAs received.",
                self.watchdogs_received,
            ),
            ("tessera_diameter_suspects_total", "Peers gone silent.", self.suspects),
            ("tessera_diameter_connects_total", "Connections asked for.", self.connects),
        ] {
            samples.counter(name, help, &[], value);
        }
    }
}

pub(super) fn count<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K) {
    *counts.entry(key).or_default() += 1;
}
