//! Peers and their connections: carries out what the peer machine (RFC 6733 §5.3 to §5.6) and the
//! watchdog (RFC 3539 §3.4) decide.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::diameter::base::{self, Capabilities, Echoed, result_code};
use crate::diameter::endpoint::{Endpoint, PeerConfig, Timer, count};
use crate::diameter::message::{Builder, Failure, Header, Message};
use crate::diameter::peer::{self, Action, Event};
use crate::diameter::watchdog::{self, Watchdog};
use crate::node::{ConnectionId, Now, Output, PeerIndex};

/// How long connecting may take. A peer that calls us meanwhile waits as long for its CEA.
const CONNECT: Duration = Duration::from_secs(3);

/// How long greeting may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long the other side may take to close after DPR or DPA.
const PARTING: Duration = Duration::from_secs(5);

/// How long a peer that opens a second connection has to answer a DWR on the first one.
const PROOF: Duration = Duration::from_secs(1);

/// Shortest watchdog interval that is accepted.
const WATCHDOG_MINIMUM_MILLISECONDS: u64 = 100;

/// Product-Name of CER and CEA.
const PRODUCT_NAME: &str = "Tessera";

/// One transport connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    local: SocketAddr,
    remote: SocketAddr,
    /// Known from the start when we opened it, else from the CER on.
    peer: Option<u32>,
    is_ours: bool,
}

/// One peer, configured or come by itself.
#[derive(Debug)]
pub(super) struct Peer {
    config: Option<PeerConfig>,
    pub state: peer::State,
    pub watchdog: Watchdog,
    /// What it said of itself last.
    presented: Option<Capabilities>,
    initiator: Option<ConnectionId>,
    responder: Option<ConnectionId>,
    /// A CER whose connection is not accepted yet.
    arriving: Option<Greeting>,
    /// The CER of the accepted connection, until it is answered.
    accepted: Option<Greeting>,
    backoff_milliseconds: u64,
    /// It asked not to be called again.
    is_unwanted: bool,
    /// When it was asked for a sign of life on its connection because it opened a second one.
    probed_at: Option<Now>,
    /// Requests sent to it and not ended.
    pub outstanding: usize,
}

#[derive(Debug)]
struct Greeting {
    connection: ConnectionId,
    header: Header,
    echoed: Echoed,
    capabilities: Capabilities,
}

impl Peer {
    pub fn configured(config: PeerConfig, backoff_milliseconds: u64) -> Peer {
        Peer { config: Some(config), backoff_milliseconds, ..Peer::arrived() }
    }

    fn arrived() -> Peer {
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

    /// RFC 3539 §3.4: requests go to peers in OKAY.
    ///
    /// DEVIATES: a peer in REOPEN takes them when there is no other, because it has answered a
    /// CER at least, and the alternative is no service for two intervals.
    pub fn rank(&self) -> Option<u8> {
        match self.watchdog.state {
            watchdog::State::Okay if self.state.is_open() => Some(0),
            watchdog::State::Reopen if self.state.is_open() => Some(1),
            _ => None,
        }
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
    fn is_named(&self, origin_host: &str) -> bool {
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

    pub(super) fn on_opened(
        &mut self,
        now: Now,
        connection: ConnectionId,
        peer: Option<PeerIndex>,
        local: SocketAddr,
        remote: SocketAddr,
        out: &mut Vec<Output>,
    ) {
        let key = peer.map(|peer| peer.0);
        let is_ours = key.is_some();
        if self.connections.len() >= self.limits.diameter_connections || self.is_draining {
            let reason = if self.is_draining { "draining" } else { "too-many" };
            count(&mut self.stats.connections_refused, reason);
            tracing::warn!(%remote, reason, "diameter connection refused");
            out.push(Output::Close { connection });
            if let Some(key) = key {
                self.peer_event(now, key, Event::IRcvConnNack, out);
            }
            return;
        }
        self.connections.insert(connection, Connection { local, remote, peer: key, is_ours });
        let Some(key) = key else {
            self.timers.set(Timer::Greeting(connection), now + HANDSHAKE);
            return;
        };
        let waits = |peer: &Peer| {
            matches!(peer.state, peer::State::WaitConnAck | peer::State::WaitConnAckElect)
        };
        match self.peers.get_mut(&key) {
            Some(peer) if waits(peer) => {
                peer.initiator = Some(connection);
                self.peer_event(now, key, Event::IRcvConnAck, out);
            }
            // It took so long that nobody waits for it any more.
            _ => self.close(connection, out),
        }
    }

    pub(super) fn on_connect_failed(&mut self, now: Now, peer: PeerIndex, out: &mut Vec<Output>) {
        self.peer_event(now, peer.0, Event::IRcvConnNack, out);
    }

    pub(super) fn on_closed(&mut self, now: Now, connection: ConnectionId, out: &mut Vec<Output>) {
        let Some(closed) = self.connections.remove(&connection) else { return };
        self.timers.stop(&Timer::Greeting(connection));
        self.disconnected(now, connection, closed, out);
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

    pub(super) fn on_greeting_timeout(&mut self, connection: ConnectionId, out: &mut Vec<Output>) {
        count(&mut self.stats.connections_refused, "silent");
        self.close(connection, out);
    }

    /// RFC 6733 §5.6, §6.1: one message of one connection.
    pub(super) fn on_bytes(
        &mut self,
        now: Now,
        connection: ConnectionId,
        bytes: Bytes,
        out: &mut Vec<Output>,
    ) {
        let Some(at) = self.connections.get(&connection).copied() else { return };
        match Message::decode(bytes.clone(), &self.limits) {
            Err(failure) => self.on_undecodable(now, connection, at, &bytes, &failure, out),
            Ok(message) => match at.peer {
                None => self.on_first_message(now, connection, at, message, out),
                Some(key) => self.on_peer_message(now, connection, at, key, message, out),
            },
        }
    }

    /// RFC 6733 §7.1.3, §7.1.5: a request is refused; where the stream cannot be followed any more
    /// (version, length) the connection ends.
    fn on_undecodable(
        &mut self,
        now: Now,
        connection: ConnectionId,
        at: Connection,
        bytes: &Bytes,
        failure: &Failure,
        out: &mut Vec<Output>,
    ) {
        self.stats.undecodable += 1;
        let header = Header::peek(bytes);
        tracing::warn!(remote = %at.remote, reason = %failure.message, "undecodable diameter message");
        match header {
            Some(header) if header.is_request() => {
                self.refuse_bytes(connection, bytes, failure, out);
            }
            Some(header) => self.on_undecodable_answer(now, connection, &header, out),
            None => {}
        }
        let is_lost = matches!(
            failure.result_code,
            result_code::UNSUPPORTED_VERSION | result_code::INVALID_MESSAGE_LENGTH
        );
        let is_greeted = at
            .peer
            .is_some_and(|key| self.peers.get(&key).is_some_and(|peer| peer.state.is_open()));
        if is_lost || !is_greeted {
            self.close(connection, out);
            self.disconnected(now, connection, at, out);
        }
    }

    /// RFC 6733 §5.3: the first message on a connection that somebody opened must be a CER.
    fn on_first_message(
        &mut self,
        now: Now,
        connection: ConnectionId,
        at: Connection,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        self.timers.stop(&Timer::Greeting(connection));
        let header = message.header;
        if header.command != base::COMMAND_CAPABILITIES_EXCHANGE || !header.is_request() {
            count(&mut self.stats.connections_refused, "no-cer");
            tracing::warn!(remote = %at.remote, "diameter connection does not begin with CER");
            return self.close(connection, out);
        }
        let echoed = Echoed::of(message.bytes());
        let admitted = Capabilities::decode(&message)
            .and_then(|capabilities| self.admit_peer(&capabilities).map(|key| (key, capabilities)));
        let (key, capabilities) = match admitted {
            Ok(admitted) => admitted,
            Err(failure) => {
                count(&mut self.stats.connections_refused, "cer");
                tracing::warn!(remote = %at.remote, reason = %failure.message, "CER refused");
                self.send_cea(connection, &header, &echoed, Some(&failure), out);
                return self.close(connection, out);
            }
        };
        self.drop_stale(now, key, &capabilities, out);
        // What dropped with its connection comes back as a new peer.
        let peer = self.peers.entry(key).or_insert_with(Peer::arrived);
        peer.arriving = Some(Greeting { connection, header, echoed, capabilities });
        self.peer_event(now, key, Event::RConnCer, out);
    }

    /// RFC 6733 §5.3, §5.6.3: Process-CER: is this somebody to talk to, and about what? Gives the
    /// peer's key, a new one for a peer that is not configured.
    fn admit_peer(&mut self, capabilities: &Capabilities) -> Result<u32, Failure> {
        let host = &capabilities.origin_host;
        let known = self.peer_named(host);
        let allowed = &self.config.allowed_peers;
        let is_allowed = match (known, allowed.is_empty()) {
            (Some(_), _) => true,
            (None, true) => capabilities.origin_realm.eq_ignore_ascii_case(&self.config.realm),
            (None, false) => allowed.iter().any(|name| name.eq_ignore_ascii_case(host)),
        };
        if !is_allowed || host.eq_ignore_ascii_case(&self.config.identity) {
            return Err(Failure::new(result_code::UNKNOWN_PEER, format!("{host} is no peer")));
        }
        if !capabilities.supports(self.application.id) {
            let why = format!("application {} is not among those offered", self.application.id);
            return Err(Failure::new(result_code::NO_COMMON_APPLICATION, why));
        }
        if capabilities.requires_inband_security {
            let why = "no in-band security is offered";
            return Err(Failure::new(result_code::NO_COMMON_SECURITY, why));
        }
        Ok(known.unwrap_or_else(|| {
            let key = self.next_peer;
            self.next_peer += 1;
            key
        }))
    }

    /// RFC 6733 §8.16: a larger Origin-State-Id says that the peer was restarted, so the connection that
    /// we believe to be open is dead. So is one on which a DWR got no answer since the peer last
    /// tried to open another.
    ///
    /// DEVIATES: RFC 6733 §5.6 refuses the new connection until the watchdog has found out.
    fn drop_stale(&mut self, now: Now, key: u32, arriving: &Capabilities, out: &mut Vec<Output>) {
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
    fn probe(&mut self, now: Now, key: u32, out: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(connection) = peer.active_connection() else { return };
        if peer.probed_at.is_none() {
            peer.probed_at = Some(now);
            self.stats.watchdogs_sent += 1;
            let bytes = self.base_request(base::COMMAND_DEVICE_WATCHDOG, |_| {});
            out.push(Output::Diameter { connection, bytes });
        }
    }

    /// A message on a connection whose peer is known.
    fn on_peer_message(
        &mut self,
        now: Now,
        connection: ConnectionId,
        at: Connection,
        key: u32,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.probed_at = None;
        let header = message.header;
        let is_base = header.application == base::APPLICATION_BASE;
        let is_cea = is_base
            && header.command == base::COMMAND_CAPABILITIES_EXCHANGE
            && !header.is_request();
        let is_greeting = at.is_ours
            && matches!(peer.state, peer::State::WaitICea | peer::State::WaitReturns)
            && peer.initiator == Some(connection);
        if is_greeting {
            let is_good = is_cea && self.accept_cea(key, &message);
            let event = if is_good { Event::IRcvCea } else { Event::IRcvNonCea };
            return self.peer_event(now, key, event, out);
        }
        if !peer.state.is_open() && peer.state != peer::State::Closing {
            // Our side of an election is not decided: nothing but waiting is allowed.
            return;
        }
        let is_dwa =
            is_base && header.command == base::COMMAND_DEVICE_WATCHDOG && !header.is_request();
        if is_dwa {
            self.stats.watchdogs_received += 1;
        }
        let sign_of_life = match is_dwa {
            true => watchdog::Event::ReceiveDwa,
            false => watchdog::Event::ReceiveNonDwa,
        };
        self.watchdog_event(now, key, sign_of_life, out);
        match (is_base, header.is_request()) {
            (true, _) => self.on_base_message(now, connection, at, key, message, out),
            (false, true) => self.on_request(now, connection, message, out),
            (false, false) => self.on_answer(now, connection, message, out),
        }
    }

    /// RFC 6733 §5.4, §5.5: DPR, DPA, DWR, and a CER that is repeated.
    fn on_base_message(
        &mut self,
        now: Now,
        connection: ConnectionId,
        at: Connection,
        key: u32,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        let header = message.header;
        match (header.command, header.is_request()) {
            (base::COMMAND_DEVICE_WATCHDOG, true) => {
                let bytes = self.base_answer(&header);
                out.push(Output::Diameter { connection, bytes });
            }
            (base::COMMAND_DISCONNECT_PEER, true) => {
                let cause = message.find(base::DISCONNECT_CAUSE).and_then(|avp| avp.number().ok());
                let bytes = self.base_answer(&header);
                out.push(Output::Diameter { connection, bytes });
                if let Some(peer) = self.peers.get_mut(&key) {
                    tracing::info!(peer = peer.name(), cause, "diameter peer says DPR");
                    peer.is_unwanted = cause == Some(base::DISCONNECT_DO_NOT_WANT_TO_TALK_TO_YOU);
                    peer.watchdog.part();
                }
                let event = if at.is_ours { Event::IRcvDpr } else { Event::RRcvDpr };
                self.peer_event(now, key, event, out);
            }
            (base::COMMAND_DISCONNECT_PEER, false) => {
                let event = if at.is_ours { Event::IRcvDpa } else { Event::RRcvDpa };
                self.peer_event(now, key, event, out);
            }
            (base::COMMAND_CAPABILITIES_EXCHANGE, true) => {
                let echoed = Echoed::of(message.bytes());
                self.send_cea(connection, &header, &echoed, None, out);
            }
            (_, true) => {
                let why = format!("command {} is not of the base protocol", header.command);
                let failure = Failure::new(result_code::COMMAND_UNSUPPORTED, why);
                self.refuse_bytes(connection, message.bytes(), &failure, out);
            }
            (_, false) => {}
        }
    }

    /// RFC 6733 §5.3.2, §5.6.3: Process-CEA: the peer takes us and is who it should be.
    fn accept_cea(&mut self, key: u32, message: &Message) -> bool {
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        let code = message.find(base::RESULT_CODE).and_then(|avp| avp.number().ok());
        let capabilities = match Capabilities::decode(message) {
            Ok(capabilities) => capabilities,
            Err(failure) => {
                let reason = failure.message;
                tracing::warn!(peer = peer.name(), code, reason, "diameter peer refuses us");
                return false;
            }
        };
        let expected = peer.config.as_ref().and_then(|config| config.identity.as_deref());
        let host = &capabilities.origin_host;
        let refusal = if code != Some(result_code::SUCCESS) {
            Some("it refuses us")
        } else if expected.is_some_and(|expected| !expected.eq_ignore_ascii_case(host)) {
            Some("its Origin-Host is not the configured one")
        } else if !capabilities.supports(self.application.id) {
            Some("it does not serve our application")
        } else {
            None
        };
        if let Some(reason) = refusal {
            tracing::warn!(peer = peer.name(), code, %host, reason, "no diameter peer");
            return false;
        }
        peer.presented = Some(capabilities);
        true
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
    fn act(&mut self, now: Now, key: u32, action: Action, out: &mut Vec<Output>) {
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
    fn on_up(&mut self, now: Now, key: u32, out: &mut Vec<Output>) {
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
    fn on_down(&mut self, now: Now, key: u32, out: &mut Vec<Output>) {
        if let Some(peer) = self.peers.get(&key) {
            tracing::info!(peer = peer.name(), "diameter peer is down");
        }
        self.timers.stop(&Timer::Watchdog(key));
        self.watchdog_event(now, key, watchdog::Event::ConnectionDown, out);
        self.fail_over(now, key, true, out);
    }

    /// RFC 6733 §5.2: a configured peer is called again after a while that doubles each time, with
    /// half of it random; one that came by itself is forgotten.
    fn on_peer_closed(&mut self, now: Now, key: u32) {
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

    fn watch(&mut self, now: Now, key: u32, action: watchdog::Action, out: &mut Vec<Output>) {
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
    fn disconnected(
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
    fn close(&mut self, connection: ConnectionId, out: &mut Vec<Output>) {
        self.timers.stop(&Timer::Greeting(connection));
        if self.connections.remove(&connection).is_some() {
            out.push(Output::Close { connection });
        }
    }

    /// RFC 6733 §5.3.1: CER.
    fn send_cer(&mut self, key: u32, out: &mut Vec<Output>) {
        let Some(connection) = self.peers.get(&key).and_then(|peer| peer.initiator) else { return };
        let Some(at) = self.connections.get(&connection).copied() else { return };
        let application = self.application;
        let capabilities = self.capabilities(at.local);
        let (hop_by_hop, end_to_end) = self.next_identifiers();
        let header =
            base::request_header(base::COMMAND_CAPABILITIES_EXCHANGE, hop_by_hop, end_to_end);
        let mut builder = Builder::new(header);
        capabilities.encode(&application, &mut builder);
        out.push(Output::Diameter { connection, bytes: builder.finish() });
    }

    /// RFC 6733 §5.3.2: CEA, with a success or with the reason why not.
    fn send_cea(
        &mut self,
        connection: ConnectionId,
        cer: &Header,
        echoed: &Echoed,
        failure: Option<&Failure>,
        out: &mut Vec<Output>,
    ) {
        let Some(at) = self.connections.get(&connection).copied() else { return };
        let code = failure.map_or(result_code::SUCCESS, |failure| failure.result_code);
        let mut builder = Builder::new(cer.answer(result_code::is_protocol_error(code)));
        builder.number(base::RESULT_CODE, code);
        self.capabilities(at.local).encode(&self.application, &mut builder);
        if let Some(failure) = failure {
            builder.text(base::ERROR_MESSAGE, &failure.message);
            if let Some(failed) = &failure.failed_avp {
                builder.group(base::FAILED_AVP, |group| group.raw(failed));
            }
        }
        builder.raw(&echoed.proxy_info);
        out.push(Output::Diameter { connection, bytes: builder.finish() });
    }

    /// RFC 6733 §5.4.1: DPR.
    fn send_dpr(&mut self, connection: Option<ConnectionId>, out: &mut Vec<Output>) {
        let Some(connection) = connection else { return };
        let bytes = self.base_request(base::COMMAND_DISCONNECT_PEER, |builder| {
            builder.number(base::DISCONNECT_CAUSE, base::DISCONNECT_REBOOTING);
        });
        out.push(Output::Diameter { connection, bytes });
    }

    fn capabilities(&self, local: SocketAddr) -> Capabilities {
        Capabilities {
            origin_host: self.config.identity.clone(),
            origin_realm: self.config.realm.clone(),
            host_ip_addresses: vec![local.ip()],
            product_name: PRODUCT_NAME.to_owned(),
            origin_state_id: self.started,
            ..Capabilities::default()
        }
    }

    /// DWR, DPR.
    fn base_request(&mut self, command: u32, fill: impl FnOnce(&mut Builder)) -> Bytes {
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
    fn base_answer(&self, request: &Header) -> Bytes {
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
