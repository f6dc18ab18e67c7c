//! Peers: carries out what the peer machine (RFC 6733 §5.6) and the watchdog (RFC 3539 §3.4)
//! decide.

use std::time::Duration;

use bytes::Bytes;

use crate::diameter::base::{self, Capabilities, Echoed, result_code};
use crate::diameter::connections::{Connection, HANDSHAKE};
use crate::diameter::endpoint::{Endpoint, PeerConfig, Timer};
use crate::diameter::message::{Builder, Header};
use crate::diameter::peer::{self, Action, Event};
use crate::diameter::stats::count;
use crate::diameter::watchdog::{self, Watchdog};
use crate::node::{ConnectionId, Now, Output, PeerIndex};

/// How long connecting may take. A peer that calls us meanwhile waits as long for its CEA.
const CONNECT: Duration = Duration::from_secs(3);

/// How long the other side may take to close after DPR or DPA.
const PARTING: Duration = Duration::from_secs(5);

/// How long a peer that opens a second connection has to answer a DWR on the first one.
const PROOF: Duration = Duration::from_secs(1);

/// Shortest watchdog interval that is accepted.
const WATCHDOG_MINIMUM_MILLISECONDS: u64 = 100;

/// One peer, configured or come by itself.
#[derive(Debug)]
pub(super) struct Peer {
    pub config: Option<PeerConfig>,
    pub state: peer::State,
    pub watchdog: Watchdog,
    /// What it said of itself last.
    pub presented: Option<Capabilities>,
    pub initiator: Option<ConnectionId>,
    pub responder: Option<ConnectionId>,
    /// A CER whose connection is not accepted yet.
    pub arriving: Option<Greeting>,
    /// The CER of the accepted connection, until it is answered.
    pub accepted: Option<Greeting>,
    pub backoff_milliseconds: u64,
    /// It asked not to be called again.
    pub is_unwanted: bool,
    /// When it was asked for a sign of life on its connection because it opened a second one.
    pub probed_at: Option<Now>,
    /// Requests sent to it and not ended.
    pub outstanding: usize,
    /// When anything came from it last.
    pub heard_at: Option<Now>,
    /// A request to it had no answer in its time, and nothing else came from it since it was sent.
    pub is_silent: bool,
}

#[derive(Debug)]
pub(super) struct Greeting {
    pub connection: ConnectionId,
    pub header: Header,
    pub echoed: Echoed,
    pub capabilities: Capabilities,
}

impl Peer {
    pub fn configured(config: PeerConfig, backoff_milliseconds: u64) -> Peer {
        Peer { config: Some(config), backoff_milliseconds, ..Peer::arrived() }
    }

    pub fn arrived() -> Peer {
        Peer {
            config: None,
            state: peer::State::Closed,
            watchdog: Watchdog::default(),
            presented: None,
            initiator: None,
            responder: None,
            arriving: None,
            accepted: None,
            backoff_milliseconds: 0,
            is_unwanted: false,
            probed_at: None,
            outstanding: 0,
            heard_at: None,
            is_silent: false,
        }
    }

    pub fn is_configured(&self) -> bool {
        self.config.is_some()
    }

    /// The connection that carries messages.
    pub fn active_connection(&self) -> Option<ConnectionId> {
        match self.state {
            peer::State::IOpen => self.initiator,
            peer::State::ROpen => self.responder,
            _ => None,
        }
    }

    /// RFC 3539 §3.4: requests go to peers in OKAY. The lower, the better.
    ///
    /// DEVIATES: a peer in REOPEN takes them when there is no other, because it has answered a
    /// CER at least, and the alternative is no service for two intervals. One that is silent comes
    /// behind the others before the watchdog knows: every request would wait its time for it.
    pub fn rank(&self) -> Option<u8> {
        let rank = match self.watchdog.state {
            watchdog::State::Okay if self.state.is_open() => 0,
            watchdog::State::Reopen if self.state.is_open() => 1,
            _ => return None,
        };
        Some(if self.is_silent { rank + 2 } else { rank })
    }

    pub fn is_heard(&mut self, now: Now) {
        self.heard_at = Some(now);
        self.is_silent = false;
    }

    /// A request that was sent then has had no answer in its time.
    pub fn is_unanswered(&mut self, sent_at: Now) {
        self.is_silent |= self.heard_at.is_none_or(|heard_at| heard_at < sent_at);
    }

    pub fn is_by_name_only(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.by_name_only)
    }

    pub fn is_relay(&self) -> bool {
        self.presented.as_ref().is_some_and(Capabilities::is_relay)
    }

    pub fn realm(&self) -> Option<&str> {
        self.presented.as_ref().map(|presented| presented.origin_realm.as_str())
    }

    /// For logs and metrics.
    pub fn name(&self) -> &str {
        let configured = self.config.as_ref();
        configured
            .and_then(|config| config.identity.as_deref())
            .or(self.presented.as_ref().map(|presented| presented.origin_host.as_str()))
            .or(configured.map(|config| config.host.as_str()))
            .unwrap_or("unknown")
    }

    /// The Origin-Host is, or can be, this peer's.
    pub fn is_named(&self, origin_host: &str) -> bool {
        let presented = self.presented.as_ref().map(|presented| presented.origin_host.as_str());
        match &self.config {
            Some(PeerConfig { identity: Some(identity), .. }) => {
                identity.eq_ignore_ascii_case(origin_host)
            }
            Some(config) => presented.unwrap_or(&config.host).eq_ignore_ascii_case(origin_host),
            None => presented.is_some_and(|presented| presented.eq_ignore_ascii_case(origin_host)),
        }
    }
}

impl<W> Endpoint<W> {
    /// RFC 6733 §5.2: connects to every configured peer.
    pub(super) fn connect_all(&mut self, now: Now, out: &mut Vec<Output>) {
        let configured: Vec<u32> = (0..self.config.peers.len() as u32).collect();
        for key in configured {
            self.peer_event(now, key, Event::Start, out);
        }
    }

    /// The peer of that Origin-Host.
    pub(super) fn peer_named(&self, origin_host: &str) -> Option<u32> {
        self.peers.iter().find(|(_, peer)| peer.is_named(origin_host)).map(|(key, _)| *key)
    }

    pub(super) fn on_reconnect(&mut self, now: Now, key: u32, out: &mut Vec<Output>) {
        if self.is_draining {
            return;
        }
        let is_down = |peer: &Peer| peer.watchdog.state == watchdog::State::Down;
        if self.peers.get(&key).is_some_and(is_down) {
            self.watchdog_event(now, key, watchdog::Event::TimerExpires, out);
        } else {
            self.peer_event(now, key, Event::Start, out);
        }
    }

    pub(super) fn on_handshake_timeout(&mut self, now: Now, key: u32, out: &mut Vec<Output>) {
        self.peer_event(now, key, Event::Timeout, out);
    }

    /// RFC 6733 §5.6: one event of the peer machine, with all that follows.
    pub(super) fn peer_event(&mut self, now: Now, key: u32, event: Event, out: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let before = peer.state;
        let (after, actions) = peer::step(before, event);
        peer.state = after;
        for action in actions {
            self.act(now, key, *action, out);
        }
        if before == after {
            return;
        }
        // An election may have gone further meanwhile.
        if self.peers.get(&key).is_none_or(|peer| peer.state != after) {
            return;
        }
        let patience = match after {
            peer::State::Closed | peer::State::IOpen | peer::State::ROpen => None,
            peer::State::WaitConnAck | peer::State::WaitConnAckElect => Some(CONNECT),
            peer::State::WaitICea | peer::State::WaitReturns => Some(HANDSHAKE),
            peer::State::Closing => Some(PARTING),
        };
        match patience {
            Some(span) => self.timers.set(Timer::Handshake(key), now + span),
            None => {
                self.timers.stop(&Timer::Handshake(key));
            }
        }
        match (before.is_open(), after.is_open()) {
            (false, true) => self.on_up(now, key, out),
            (true, false) => self.on_down(now, key, out),
            _ => {}
        }
        if after == peer::State::Closed {
            self.on_peer_closed(now, key);
        }
    }

    /// RFC 6733 §5.6.3: one action of the peer machine.
    pub(super) fn act(&mut self, now: Now, key: u32, action: Action, out: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match action {
            Action::ISndConnReq => {
                let Some(config) = &peer.config else { return };
                let (host, port) = (config.host.clone(), config.port);
                self.stats.connects += 1;
                out.push(Output::Connect { peer: PeerIndex(key), host, port });
            }
            Action::ISndCer => self.send_cer(key, out),
            Action::RAccept => {
                if let Some(greeting) = peer.arriving.take() {
                    if let Some(connection) = self.connections.get_mut(&greeting.connection) {
                        connection.peer = Some(key);
                    }
                    peer.responder = Some(greeting.connection);
                    peer.accepted = Some(greeting);
                }
            }
            Action::RReject => {
                if let Some(greeting) = peer.arriving.take() {
                    let name = peer.name();
                    tracing::warn!(peer = name, "second connection of a diameter peer refused");
                    count(&mut self.stats.connections_refused, "second");
                    self.close(greeting.connection, out);
                    self.probe(now, key, out);
                }
            }
            Action::RSndCea => {
                if let Some(greeting) = peer.accepted.take() {
                    peer.presented = Some(greeting.capabilities);
                    let Greeting { connection, header, echoed, .. } = greeting;
                    self.send_cea(connection, &header, &echoed, None, out);
                }
            }
            Action::IDisc => {
                if let Some(connection) = peer.initiator.take() {
                    self.close(connection, out);
                }
            }
            Action::RDisc => {
                peer.accepted = None;
                if let Some(connection) = peer.responder.take() {
                    self.close(connection, out);
                }
            }
            Action::Error => {
                self.act(now, key, Action::IDisc, out);
                self.act(now, key, Action::RDisc, out);
            }
            Action::Elect => {
                let theirs =
                    peer.accepted.as_ref().map(|cer| cer.capabilities.origin_host.as_str());
                if peer::wins_election(&self.config.identity, theirs.unwrap_or_default()) {
                    self.peer_event(now, key, Event::WinElection, out);
                }
            }
            Action::ISndDpr => {
                let connection = peer.initiator;
                self.send_dpr(connection, out);
            }
            Action::RSndDpr => {
                let connection = peer.responder;
                self.send_dpr(connection, out);
            }
            // Sent where the DPR was received, whose identifiers it needs.
            Action::ISndDpa | Action::RSndDpa => {}
        }
    }

    /// The connection carries messages from now on.
    pub(super) fn on_up(&mut self, now: Now, key: u32, out: &mut Vec<Output>) {
        let backoff = self.config.reconnect_milliseconds.max(1);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.backoff_milliseconds = backoff;
            peer.is_unwanted = false;
            peer.probed_at = None;
            tracing::info!(peer = peer.name(), state = peer.state.name(), "diameter peer is up");
        }
        self.timers.stop(&Timer::Reconnect(key));
        self.watchdog_event(now, key, watchdog::Event::ConnectionUp, out);
    }

    /// The connection carries no requests any more.
    pub(super) fn on_down(&mut self, now: Now, key: u32, out: &mut Vec<Output>) {
        if let Some(peer) = self.peers.get(&key) {
            tracing::info!(peer = peer.name(), "diameter peer is down");
        }
        self.timers.stop(&Timer::Watchdog(key));
        self.watchdog_event(now, key, watchdog::Event::ConnectionDown, out);
        self.fail_over(now, key, true, out);
    }

    /// RFC 6733 §5.2: a configured peer is called again after a while that doubles each time, with
    /// half of it random; one that came by itself is forgotten.
    pub(super) fn on_peer_closed(&mut self, now: Now, key: u32) {
        let maximum = self.config.reconnect_max_milliseconds.max(1);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if !peer.is_configured() {
            self.peers.remove(&key);
            self.timers.stop(&Timer::Watchdog(key));
            return;
        }
        if self.is_draining || peer.is_unwanted {
            return;
        }
        let whole = peer.backoff_milliseconds.min(maximum);
        peer.backoff_milliseconds = whole.saturating_mul(2).min(maximum);
        let delay = whole / 2 + self.random.below(whole / 2 + 1);
        self.timers.set(Timer::Reconnect(key), now + Duration::from_millis(delay.max(1)));
    }

    /// RFC 3539 App. A: one event of the watchdog, with all that follows.
    pub(super) fn watchdog_event(
        &mut self,
        now: Now,
        key: u32,
        event: watchdog::Event,
        out: &mut Vec<Output>,
    ) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        for action in peer.watchdog.step(event) {
            self.watch(now, key, *action, out);
        }
    }

    pub(super) fn watch(
        &mut self,
        now: Now,
        key: u32,
        action: watchdog::Action,
        out: &mut Vec<Output>,
    ) {
        let Some(peer) = self.peers.get(&key) else { return };
        match action {
            watchdog::Action::SetWatchdog => {
                // In DOWN the timer is the one of the next attempt, see `on_peer_closed`.
                if peer.watchdog.state != watchdog::State::Down {
                    let tw = self.config.watchdog_milliseconds.max(WATCHDOG_MINIMUM_MILLISECONDS);
                    let interval = watchdog::interval(tw, &mut self.random);
                    self.timers.set(Timer::Watchdog(key), now + interval);
                }
            }
            watchdog::Action::SendWatchdog => {
                if let Some(connection) = peer.active_connection() {
                    self.stats.watchdogs_sent += 1;
                    let bytes = self.base_request(base::COMMAND_DEVICE_WATCHDOG, |_| {});
                    out.push(Output::Diameter { connection, bytes });
                }
            }
            watchdog::Action::CloseConnection => {
                let event = match peer.state {
                    peer::State::IOpen => Event::IPeerDisc,
                    peer::State::ROpen => Event::RPeerDisc,
                    _ => return,
                };
                tracing::warn!(peer = peer.name(), "diameter peer does not answer watchdogs");
                self.peer_event(now, key, event, out);
            }
            watchdog::Action::AttemptOpen => self.peer_event(now, key, Event::Start, out),
            watchdog::Action::FailOver => {
                if peer.watchdog.state == watchdog::State::Suspect {
                    self.stats.suspects += 1;
                    tracing::warn!(peer = peer.name(), "diameter peer is silent");
                    self.fail_over(now, key, false, out);
                }
            }
            watchdog::Action::FailBack => {
                tracing::info!(peer = peer.name(), "diameter peer is well again");
            }
        }
    }

    /// RFC 6733 §5.4: DPR, or the end of connecting, once nothing is owed to us.
    pub(super) fn part_when_idle(&mut self, now: Now, key: u32, out: &mut Vec<Output>) {
        self.timers.stop(&Timer::Reconnect(key));
        let is_idle = self.peers.get(&key).is_some_and(|peer| peer.outstanding == 0);
        if is_idle {
            self.peer_event(now, key, Event::Stop, out);
        }
    }

    /// A connection is gone: tells the machine of its peer.
    pub(super) fn disconnected(
        &mut self,
        now: Now,
        connection: ConnectionId,
        at: Connection,
        out: &mut Vec<Output>,
    ) {
        let Some(key) = at.peer else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let event = if peer.initiator == Some(connection) {
            peer.initiator = None;
            Event::IPeerDisc
        } else if peer.responder == Some(connection) {
            peer.responder = None;
            Event::RPeerDisc
        } else {
            return;
        };
        self.peer_event(now, key, event, out);
    }

    /// Closes a connection of which nothing more is wanted.
    pub(super) fn close(&mut self, connection: ConnectionId, out: &mut Vec<Output>) {
        self.timers.stop(&Timer::Greeting(connection));
        if self.connections.remove(&connection).is_some() {
            out.push(Output::Close { connection });
        }
    }

    /// RFC 6733 §8.16: a larger Origin-State-Id says that the peer was restarted, so the connection
    /// that we believe to be open is dead. So is one on which a DWR got no answer since the peer
    /// last tried to open another.
    ///
    /// DEVIATES: RFC 6733 §5.6 refuses the new connection until the watchdog has found out.
    pub(super) fn drop_stale(
        &mut self,
        now: Now,
        key: u32,
        arriving: &Capabilities,
        out: &mut Vec<Output>,
    ) {
        let Some(peer) = self.peers.get(&key) else { return };
        let Some(connection) = peer.active_connection() else { return };
        let before = peer.presented.as_ref().and_then(|presented| presented.origin_state_id);
        let is_restarted = before.is_some() && arriving.origin_state_id > before;
        let is_silent = peer.probed_at.is_some_and(|at| now.since(at) >= PROOF);
        if is_restarted || is_silent {
            tracing::info!(peer = peer.name(), is_restarted, "stale diameter connection dropped");
            if let Some(at) = self.connections.get(&connection).copied() {
                self.close(connection, out);
                self.disconnected(now, connection, at, out);
            }
        }
    }

    /// Asks a peer that opened a second connection for a sign of life on the first one.
    pub(super) fn probe(&mut self, now: Now, key: u32, out: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(connection) = peer.active_connection() else { return };
        if peer.probed_at.is_none() {
            peer.probed_at = Some(now);
            self.stats.watchdogs_sent += 1;
            let bytes = self.base_request(base::COMMAND_DEVICE_WATCHDOG, |_| {});
            out.push(Output::Diameter { connection, bytes });
        }
    }

    /// RFC 6733 §5.4.1: DPR.
    pub(super) fn send_dpr(&mut self, connection: Option<ConnectionId>, out: &mut Vec<Output>) {
        let Some(connection) = connection else { return };
        let bytes = self.base_request(base::COMMAND_DISCONNECT_PEER, |builder| {
            builder.number(base::DISCONNECT_CAUSE, base::DISCONNECT_REBOOTING);
        });
        out.push(Output::Diameter { connection, bytes });
    }

    /// DWR, DPR.
    pub(super) fn base_request(&mut self, command: u32, fill: impl FnOnce(&mut Builder)) -> Bytes {
        let (hop_by_hop, end_to_end) = self.next_identifiers();
        let mut builder = Builder::new(base::request_header(command, hop_by_hop, end_to_end));
        builder.text(base::ORIGIN_HOST, &self.config.identity);
        builder.text(base::ORIGIN_REALM, &self.config.realm);
        fill(&mut builder);
        if command == base::COMMAND_DEVICE_WATCHDOG
            && let Some(started) = self.started
        {
            builder.number(base::ORIGIN_STATE_ID, started);
        }
        builder.finish()
    }

    /// DWA, DPA.
    pub(super) fn base_answer(&self, request: &Header) -> Bytes {
        let mut builder = Builder::new(request.answer(false));
        builder.number(base::RESULT_CODE, result_code::SUCCESS);
        builder.text(base::ORIGIN_HOST, &self.config.identity);
        builder.text(base::ORIGIN_REALM, &self.config.realm);
        if request.command == base::COMMAND_DEVICE_WATCHDOG
            && let Some(started) = self.started
        {
            builder.number(base::ORIGIN_STATE_ID, started);
        }
        builder.finish()
    }
}
