//! Connections and the messages that arrive on them (RFC 6733 §5.3 to §5.5).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::diameter::base::{self, Capabilities, Echoed, result_code};
use crate::diameter::endpoint::{Endpoint, Timer};
use crate::diameter::message::{Failure, Header, Message};
use crate::diameter::peer::{self, Event};
use crate::diameter::peers::{Greeting, Peer};
use crate::diameter::stats::count;
use crate::diameter::watchdog;
use crate::node::{ConnectionId, Now, Output, PeerIndex};

/// How long greeting may take.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

/// One transport connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Known from the start when we opened it, else from the CER on.
    pub peer: Option<u32>,
    pub is_ours: bool,
}

impl<W> Endpoint<W> {
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
    pub(super) fn on_undecodable(
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
        let reason = &failure.message;
        tracing::warn!(remote = %at.remote, %reason, "undecodable diameter message");
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
    pub(super) fn on_first_message(
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

    /// A message on a connection whose peer is known.
    pub(super) fn on_peer_message(
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
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.is_heard(now);
        }
        self.watchdog_event(now, key, sign_of_life, out);
        match (is_base, header.is_request()) {
            (true, _) => self.on_base_message(now, connection, at, key, message, out),
            (false, true) => self.on_request(now, connection, message, out),
            (false, false) => self.on_answer(now, connection, message, out),
        }
    }

    /// RFC 6733 §5.4, §5.5: DPR, DPA, DWR, and a CER that is repeated.
    pub(super) fn on_base_message(
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
}
