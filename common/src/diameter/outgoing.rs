//! Requests that we send: which peer gets them, how they move to another one, what comes back
//! (RFC 6733 §5.5.4, §6.1, §6.2.1).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::diameter::base::{self, result_code};
use crate::diameter::endpoint::{Destination, Endpoint, Event, NoAnswer, Timer};
use crate::diameter::message::{self, Builder, FLAG_RETRANSMITTED, Header, Message};
use crate::diameter::peers::Peer;
use crate::diameter::stats::count;
use crate::node::{ConnectionId, Now, Output};

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Pending<W> {
    wait: W,
    command: u32,
    end_to_end: u32,
    pub(super) bytes: Bytes,
    peer: u32,
    connection: ConnectionId,
    asked_at: Now,
    /// To the peer that has it now.
    sent_at: Now,
    pub(super) deadline: Now,
    /// Peers that had it before.
    pub(super) tried: Vec<u32>,
    pub(super) may_move: bool,
    /// How often it was redirected.
    pub(super) redirects: u8,
    /// Nodes of the last redirect that have not had it yet.
    pub(super) hosts: VecDeque<String>,
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

impl<W> Endpoint<W> {
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
        let bytes = builder.finish();
        if self.is_too_long(&bytes, command) {
            return self.end(wait, command, Err(NoAnswer::Malformed), Duration::ZERO);
        }
        let end_to_end = self.next_end_to_end;
        self.next_end_to_end = end_to_end.wrapping_add(1);
        count(&mut self.stats.requests_sent, command);
        let pending = Pending {
            wait,
            command,
            end_to_end,
            bytes,
            peer,
            connection,
            asked_at: now,
            sent_at: now,
            deadline: now + limit,
            tried: Vec::new(),
            may_move: !matches!(destination, Destination::Only(_)),
            redirects: 0,
            hosts: VecDeque::new(),
            preference,
        };
        let pending = match destination {
            Destination::Realm => {
                let bytes = &pending.bytes;
                let hosts = self.redirects.find(now, &self.application, bytes, &self.limits);
                match self.send_to_first(now, pending, hosts, 0, out) {
                    None => return,
                    Some(pending) => pending,
                }
            }
            Destination::Preferred(_) | Destination::Only(_) => pending,
        };
        self.send(now, pending, peer, 0, out);
    }

    /// What a peer with our limit would close the connection for, whoever else's requests are on it:
    /// moved on to the next peer, one such message would cut off all of them.
    pub(super) fn is_too_long(&mut self, bytes: &Bytes, command: u32) -> bool {
        let (octets, limit) = (bytes.len(), self.limits.diameter_message_bytes);
        if octets <= limit {
            return false;
        }
        self.stats.too_long += 1;
        tracing::warn!(command, octets, limit, "diameter message too long, not sent");
        true
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

    /// Puts a request on the wire under a new Hop-by-Hop Identifier.
    pub(super) fn send(
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
        // Destination-Host may have come to it since it was asked.
        if self.is_too_long(&pending.bytes, pending.command) {
            let took = now.since(pending.asked_at);
            return self.end(pending.wait, pending.command, Err(NoAnswer::Malformed), took);
        }
        let hop_by_hop = self.next_hop_by_hop;
        self.next_hop_by_hop = hop_by_hop.wrapping_add(1);
        pending.bytes = message::with_hop_by_hop(pending.bytes, hop_by_hop, set_flags);
        pending.peer = peer;
        pending.connection = connection;
        pending.sent_at = now;
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
        let hosts = std::mem::take(&mut pending.hosts);
        let mut pending = match self.send_to_first(now, pending, hosts, set_flags, out) {
            None => {
                self.stats.failovers += 1;
                return None;
            }
            Some(pending) => pending,
        };
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

    /// RFC 6733 §6.1.8: the node that is to have the request, and no other.
    pub(super) fn name_destination(&self, pending: &mut Pending<W>, host: &str) {
        pending.preference = Preference::Peer;
        if let Ok(message) = Message::decode(pending.bytes.clone(), &self.limits) {
            pending.bytes = message.encode_with_text(base::DESTINATION_HOST, host);
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
    pub(super) fn on_request_timeout(&mut self, now: Now, hop_by_hop: u32, out: &mut Vec<Output>) {
        let Some(pending) = self.take(now, hop_by_hop, out) else { return };
        if let Some(peer) = self.peers.get_mut(&pending.peer) {
            peer.is_unanswered(pending.sent_at);
        }
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

    /// RFC 6733 §7.1.3: a peer that is too busy or cannot reach the destination leaves the request
    /// to another one. It was not carried out, so it is no retransmission. Gives the request back
    /// when the answer is what it gets.
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
            Some(result_code::REDIRECT_INDICATION) => self.redirected(now, pending, answer, out),
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

    pub(super) fn end_without_peer(&mut self, now: Now, pending: Pending<W>) {
        let took = now.since(pending.asked_at);
        self.end(pending.wait, pending.command, Err(NoAnswer::NoPeer), took);
    }

    /// The only way in which a wait comes back.
    fn end(&mut self, wait: W, command: u32, result: Result<Message, NoAnswer>, took: Duration) {
        if let Err(reason) = &result {
            count(&mut self.stats.no_answers, reason.name());
        }
        self.events.push_back(Event::Answer { wait, command, result, took });
    }

    /// RFC 6733 §6.1.4, §6.1.6: the peer that gets a request: the one named, else the first that is
    /// well, else the first that is silent or proving itself. One that is only preferred gives way
    /// to one that is better.
    fn choose(&self, destination: Destination, tried: &[u32]) -> Option<u32> {
        if self.is_draining {
            return None;
        }
        let is_usable = |key: &u32| self.peers.get(key).is_some_and(|peer| peer.rank().is_some());
        let named = match destination {
            Destination::Realm => None,
            Destination::Preferred(host) | Destination::Only(host) => self.peer_named(host),
        };
        let named = named.filter(is_usable);
        let must_relay = matches!(destination, Destination::Only(_));
        let rank_of = |key: u32| self.peers.get(&key).and_then(Peer::rank);
        if named.is_some_and(|named| must_relay || rank_of(named) == Some(0)) {
            return named;
        }
        let has_configured = !self.config.peers.is_empty();
        let best = self
            .peers
            .iter()
            .filter(|(key, _)| !tried.contains(key))
            .filter(|(_, peer)| peer.is_configured() || !has_configured || must_relay)
            .filter(|(_, peer)| must_relay || !peer.is_by_name_only())
            .filter(|(_, peer)| !must_relay || peer.is_relay())
            .filter_map(|(key, peer)| peer.rank().map(|rank| (rank, *key)))
            .min();
        match (named, best) {
            (Some(named), Some((rank, _))) if rank_of(named).is_some_and(|own| own <= rank) => {
                Some(named)
            }
            (named, None) => named,
            (_, Some((_, key))) => Some(key),
        }
    }
}
