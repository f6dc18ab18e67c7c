//! How responses go out: what a server transaction decides is done (RFC 3261 §17.2, §18.2.2).

use bytes::Bytes;

use super::{Endpoint, Incoming, OnConnection, REMEMBERED_ON_CONNECTIONS, Timer};
use crate::node::{Flow, Now, Output, Transport};
use crate::sip::address::Address;
use crate::sip::header::Name;
use crate::sip::message::Response;
use crate::sip::server;

impl<W> Endpoint<W> {
    /// Sends the final response of a request, which is owed nothing any more.
    pub(super) fn finish(
        &mut self,
        now: Now,
        incoming: Incoming,
        response: Response,
        is_ours: bool,
        out: &mut Vec<Output>,
    ) {
        let is_success = response.is_success();
        let event = match is_success {
            true => server::Event::Success { is_ours },
            false => server::Event::Failure,
        };
        self.note_acknowledgement(&incoming, &response, is_success && is_ours);
        self.send_response(now, &incoming, &response, event, out);
        incoming.answered();
    }

    /// How the ACK of an INVITE will be recognised.
    fn note_acknowledgement(&mut self, incoming: &Incoming, response: &Response, is_2xx: bool) {
        let key = incoming.key();
        let Some(server) = self.servers.get_mut(&key) else { return };
        if !server.machine.is_invite() {
            return;
        }
        if is_2xx {
            let dialog = (incoming.request().call_id().to_owned(), incoming.request().cseq());
            self.acknowledgeable.insert(dialog.clone(), key);
            server.dialog = Some(dialog);
        }
        if server.key.starts_with("2543 ") {
            let to = response.headers().get(Name::To);
            let to = to.and_then(|to| Address::parse(to).ok());
            server.rfc2543_to_tag = to.and_then(|to| to.parameter("tag").map(str::to_owned));
        }
    }

    pub(super) fn send_response(
        &mut self,
        now: Now,
        incoming: &Incoming,
        response: &Response,
        event: server::Event,
        out: &mut Vec<Output>,
    ) {
        let key = incoming.key();
        // RFC 3261 §18.3: on a stream the length is mandatory; what came as a datagram may lack it.
        let bytes = if response.headers().has(Name::ContentLength) {
            response.to_bytes()
        } else {
            let mut response = response.clone();
            response.set_content_length();
            response.to_bytes()
        };
        if let Some(server) = self.servers.get_mut(&key) {
            server.reply_flow = incoming.reply_flow();
            server.second_reply_flow = incoming.second_reply_flow();
            server.machine.is_reliable = server.reply_flow.transport.is_reliable();
        }
        self.on_server(now, key, event, Some((response.status(), bytes)), out);
    }

    /// One event of a server transaction. `response` comes with the events that are responses.
    /// True when an ACK goes on to the core.
    pub(super) fn on_server(
        &mut self,
        now: Now,
        key: u64,
        event: server::Event,
        mut response: Option<(u16, Bytes)>,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(server) = self.servers.get_mut(&key) else { return false };
        let actions = server.machine.on(event);
        let after = server.machine.state;
        let is_final = matches!(event, server::Event::Success { .. } | server::Event::Failure);
        let mut ack_goes_on = false;
        for action in actions {
            match action {
                server::Action::SendTrying => self.send_trying(key, out),
                server::Action::SendResponse => {
                    if let Some((status, bytes)) = response.take() {
                        self.send_new_response(key, status, bytes, out);
                    }
                }
                server::Action::Retransmit => self.send_last_response(key, out),
                server::Action::DeliverAck => ack_goes_on = true,
                server::Action::TooLate => self.counters.dropped("late_response"),
                server::Action::NoAck => self.counters.without_ack += 1,
                server::Action::Start(timer, span) => {
                    self.timers.set(Timer::Server(key, timer), now + span);
                }
                server::Action::Stop(timer) => {
                    self.timers.stop(&Timer::Server(key, timer));
                }
            }
        }
        if is_final {
            self.mark_answered(key);
        }
        if after == server::State::Terminated {
            self.remove_server(key);
        }
        ack_goes_on
    }

    fn send_trying(&mut self, key: u64, out: &mut Vec<Output>) {
        let Some(server) = self.servers.get_mut(&key) else { return };
        if let Some(bytes) = server.trying.take() {
            self.send_new_response(key, 100, bytes, out);
        }
    }

    fn send_new_response(&mut self, key: u64, status: u16, bytes: Bytes, out: &mut Vec<Output>) {
        let Some(server) = self.servers.get_mut(&key) else { return };
        self.counters.responses_sent.count(server.method, status);
        server.trying = None;
        server.last_response = Some(bytes.clone());
        let (flow, second_flow) = (server.reply_flow, server.second_reply_flow);
        if status >= 200 {
            self.remember_on_connection(flow, second_flow, &bytes);
        }
        out.push(Output::Sip { flow, bytes });
    }

    fn send_last_response(&mut self, key: u64, out: &mut Vec<Output>) {
        let Some(server) = self.servers.get(&key) else { return };
        if let Some(bytes) = server.last_response.clone() {
            self.counters.responses_repeated_by_us += 1;
            out.push(Output::Sip { flow: server.reply_flow, bytes });
        }
    }

    fn mark_answered(&mut self, key: u64) {
        let Some(server) = self.servers.get_mut(&key) else { return };
        if std::mem::replace(&mut server.is_answered, true) {
            return;
        }
        self.unanswered -= 1;
        if let Some(fingerprint) = server.fingerprint
            && self.mergeable.get(&fingerprint) == Some(&key)
        {
            self.mergeable.remove(&fingerprint);
        }
        self.lingering_servers.insert(key);
        if self.lingering_servers.len() > self.limits.sip_transactions
            && let Some(oldest) = self.lingering_servers.first().copied()
        {
            self.counters.evicted += 1;
            self.stop_server(oldest);
            self.remove_server(oldest);
        }
    }

    fn remove_server(&mut self, key: u64) {
        let Some(server) = self.servers.remove(&key) else { return };
        debug_assert!(server.is_answered, "a server transaction ends behind its final response");
        self.server_keys.remove(&server.key);
        self.lingering_servers.remove(&key);
        if let Some(dialog) = server.dialog
            && self.acknowledgeable.get(&dialog) == Some(&key)
        {
            self.acknowledgeable.remove(&dialog);
        }
    }

    /// Stops a transaction that its machine has not ended.
    fn stop_server(&mut self, key: u64) {
        use server::Timer::{GiveUp, Linger, Retransmit};
        for timer in [Retransmit, GiveUp, Linger] {
            self.timers.stop(&Timer::Server(key, timer));
        }
    }

    /// Takes the topmost Via off when it is ours.
    pub(super) fn pop_our_via(&self, response: &mut Response) {
        let top = response.headers().values(Name::Via).next();
        if top.is_some_and(|via| via.contains(self.branch_prefix.as_str())) {
            response.headers_mut().pop_value(Name::Via);
        }
    }

    /// RFC 3261 §18.2.2: keeps a response sent on a connection that may turn out to be gone.
    pub(super) fn remember_on_connection(
        &mut self,
        flow: Flow,
        second_flow: Option<Flow>,
        bytes: &Bytes,
    ) {
        let Some(second_flow) = second_flow.filter(|_| flow.transport == Transport::Tcp) else {
            return;
        };
        if self.on_connections.len() >= REMEMBERED_ON_CONNECTIONS {
            self.on_connections.pop_front();
        }
        self.on_connections.push_back(OnConnection { flow, second_flow, bytes: bytes.clone() });
    }

    /// A connection was closed behind what it carried: its responses have arrived, and nobody wants them
    /// once more. Its requests are ended by [`Endpoint::unreachable`].
    pub fn ended(&mut self, flow: Flow) {
        self.on_connections.retain(|sent| sent.flow != flow);
    }

    /// RFC 3261 §18.2.2: the connection of a request is gone, so its response goes by a new one.
    pub(super) fn respond_on_second_flow(&mut self, failed: Flow, out: &mut Vec<Output>) {
        if failed.transport != Transport::Tcp || self.on_connections.is_empty() {
            return;
        }
        let second_connections = &mut self.counters.second_connections;
        self.on_connections.retain(|sent| {
            if sent.flow != failed {
                return true;
            }
            *second_connections += 1;
            out.push(Output::Sip { flow: sent.second_flow, bytes: sent.bytes.clone() });
            false
        });
    }
}
