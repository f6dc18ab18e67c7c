//! Peers, connections and pending requests behind one door (RFC 6733 §5.5.4, §6). `W` is the
//! daemon's enum of waits.
//!
//! A question goes to the first configured peer that is well, or to the one that is named. Its wait
//! comes back exactly once: with the answer, or with the reason why there is none. When a peer
//! dies or stays silent, the question moves to another one with the T flag, the same Session-Id
//! and End-to-End Identifier; what the first peer says afterwards is ignored. One peer that hangs
//! costs its own questions their time and nobody else anything.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use serde::Deserialize;

use crate::diameter::base::Application;
use crate::diameter::connections::Connection;
use crate::diameter::duplicates::Duplicates;
use crate::diameter::message::Message;
use crate::diameter::outgoing::Pending;
use crate::diameter::peers::Peer;
use crate::diameter::redirect::Redirects;
use crate::diameter::stats::Stats;
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
    /// Origin-Hosts that may connect to us; empty: any that belongs to our realm. Compared without
    /// case.
    #[serde(default)]
    pub allowed_peers: Vec<String>,
    /// Watchdog interval Tw in milliseconds (RFC 3539: 30 s, at least 6 s; shorter is accepted for
    /// labs).
    #[serde(default = "default_watchdog")]
    pub watchdog_milliseconds: u64,
    /// First delay before a lost connection is tried again; doubles up to
    /// `reconnect_max_milliseconds`.
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
    /// Gets only requests that name it: an HSS that an SLF redirects to, or that answered before.
    #[serde(default)]
    pub by_name_only: bool,
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
    /// The answer could not be decoded as what was asked for, or the request is longer than a message may be.
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
    pub(super) pending: HashMap<u32, Pending<W>>,
    pub(super) duplicates: Duplicates,
    pub(super) redirects: Redirects,
    pub(super) events: VecDeque<Event<W>>,
    pub(super) session_high: u32,
    pub(super) session_low: u32,
    pub(super) next_end_to_end: u32,
    pub(super) next_hop_by_hop: u32,
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
            redirects: Redirects::default(),
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

    /// Some peer takes requests; where a redirect agent names the ones that serve them, one of those, too.
    pub fn is_up(&self) -> bool {
        let is_up = |of: fn(&Peer) -> bool| {
            self.peers.values().any(|peer| of(peer) && peer.rank().is_some())
        };
        let has_named = self.peers.values().any(Peer::is_by_name_only);
        is_up(|peer| !peer.is_by_name_only()) && (!has_named || is_up(Peer::is_by_name_only))
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

    /// RFC 6733 §3: the high 12 bits of End-to-End Identifiers begin with the time.
    pub(super) fn note_start(&mut self, now: Now) {
        if self.started.is_none() {
            let seconds = now.as_secs() as u32;
            self.started = Some(seconds);
            self.session_high = seconds;
            self.next_end_to_end |= seconds << 20;
        }
    }

    pub fn samples(&self, samples: &mut Samples) {
        self.stats.samples(samples);
        let pending = self.pending.len() as f64;
        let help = "Requests sent and not answered yet.";
        samples.gauge("tessera_diameter_pending", help, &[], pending);
        let help = "Users whose node a redirect agent has named, remembered.";
        samples.gauge(
            "tessera_diameter_redirects_remembered",
            help,
            &[],
            self.redirects.len() as f64,
        );
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
