//! How requests go out: what a client transaction decides is done (RFC 3261 §17.1, §18.1).

use std::time::Duration;

use bytes::Bytes;

use super::{
    Branch, Cancelling, Client, Endpoint, Event, Incoming, NoReply, Pending, Target, Timer,
};
use crate::node::{Flow, Now, Output, Transport};
use crate::sip::client::{self, Times};
use crate::sip::header::Name;
use crate::sip::message::{Method, Request, Response};
use crate::sip::proxy;
use crate::sip::server;

/// A request as it goes out.
struct Outgoing {
    flow: Flow,
    bytes: Bytes,
    back_to_udp: Option<(Flow, Bytes)>,
}

impl<W> Endpoint<W> {
    /// RFC 3261 §16.6 steps 8 to 10, §17.1: a new client transaction.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn start(
        &mut self,
        now: Now,
        incoming: Option<Incoming>,
        mut request: Request,
        target: Target,
        wait: W,
        limit: Duration,
        out: &mut Vec<Output>,
    ) {
        let key = self.new_key();
        if self.waiting.len() >= self.limits.sip_transactions {
            self.counters.refused("client_limit");
            let branch = Branch { incoming, wait, key };
            self.make_ready(now, Event::Reply(branch, Err(NoReply::Unreachable)));
            return;
        }
        let fingerprint = incoming.as_ref().map_or(key ^ self.salt, Incoming::fingerprint);
        let branch = self.branch(key, fingerprint);
        let Outgoing { flow, bytes, back_to_udp } = self.address(&mut request, &target, &branch);
        let upstream = incoming.as_ref().map(Incoming::key);
        if let Some(server) = upstream.and_then(|key| self.servers.get_mut(&key)) {
            server.branch = Some(key);
        }
        let method = request.method();
        let is_invite = method == Method::Invite;
        let times = Times::with(target.segment, self.gm_t1);
        let client = Client {
            machine: client::Machine::new(is_invite, flow.transport.is_reliable(), times),
            method,
            flow,
            segment: target.segment,
            sent_by_port: target.sent_by.port.unwrap_or(proxy::DEFAULT_PORT),
            branch,
            bytes,
            invite: is_invite.then(|| Box::new(request)),
            back_to_udp,
            pending: Some(Pending { incoming, wait }),
            upstream,
            cancelling: Cancelling::No,
            cancel_of: None,
            dialog: None,
        };
        self.clients.insert(key, client);
        self.pending += 1;
        self.waiting.insert((flow.transport, flow.remote, key));
        if is_invite || limit < times.transaction() {
            self.timers.set(Timer::Limit(key), now + limit);
        }
        self.on_client(now, key, client::Event::Begin, None, out);
    }

    /// RFC 3261 §16.6 step 8: globally unique, and with it a loop is recognised.
    fn branch(&self, key: u64, fingerprint: u64) -> String {
        format!("{}{key:x}-{fingerprint:016x}", self.branch_prefix)
    }

    /// RFC 3261 §18.1.1: pushes our Via, and takes TCP for what is too long for UDP.
    fn address(&mut self, request: &mut Request, target: &Target, branch: &str) -> Outgoing {
        let rport = if self.asks_for_port { ";rport" } else { "" };
        let keep = if self.asks_to_keep_alive { ";keep" } else { "" };
        let via = |transport: Transport| {
            format!("SIP/2.0/{} {};branch={branch}{rport}{keep}", transport.name(), target.sent_by)
        };
        let flow = target.flow;
        request.headers_mut().push_front(Name::Via, &via(flow.transport));
        if flow.transport == Transport::Tcp {
            mark_length(request);
        }
        let bytes = request.to_bytes();
        if flow.transport == Transport::Tcp || bytes.len() <= proxy::UDP_REQUEST_LIMIT {
            return Outgoing { flow, bytes, back_to_udp: None };
        }
        self.counters.tcp_for_length += 1;
        request.headers_mut().set_first_value(Name::Via, &via(Transport::Tcp));
        mark_length(request);
        let mut over_tcp = Flow { transport: Transport::Tcp, ..flow };
        over_tcp.local.set_port(target.tcp_local_port);
        Outgoing { flow: over_tcp, bytes: request.to_bytes(), back_to_udp: Some((flow, bytes)) }
    }

    /// An ACK of a 2xx: no transaction, a branch of its own.
    pub(super) fn send_outside_transactions(
        &mut self,
        mut request: Request,
        target: &Target,
        out: &mut Vec<Output>,
    ) -> (Flow, Bytes) {
        let key = self.new_key();
        let branch = self.branch(key, key ^ self.salt);
        let Outgoing { flow, bytes, .. } = self.address(&mut request, target, &branch);
        self.counters.requests_sent.count(request.method());
        out.push(Output::Sip { flow, bytes: bytes.clone() });
        (flow, bytes)
    }

    /// RFC 3261 §16.10: the branch of a request that was cancelled before it went anywhere.
    pub(super) fn end_cancelled(
        &mut self,
        now: Now,
        incoming: Incoming,
        mut request: Request,
        target: &Target,
        wait: W,
    ) {
        let key = self.new_key();
        let branch = self.branch(key, incoming.fingerprint());
        self.address(&mut request, target, &branch);
        let mut response = request.response(487, "Request Terminated");
        proxy::add_to_tag(&mut response, incoming.tag());
        let branch = Branch { incoming: Some(incoming), wait, key };
        self.make_ready(now, Event::Reply(branch, Ok(response)));
    }

    /// RFC 3261 §18.1.1: a request that was too long for UDP goes by UDP all the same when TCP is
    /// refused. Same branch, so that whoever got it already recognises it.
    pub(super) fn go_back_to_udp(&mut self, now: Now, key: u64, out: &mut Vec<Output>) -> bool {
        let Some(client) = self.clients.get_mut(&key) else { return false };
        let Some((flow, bytes)) = client.back_to_udp.take() else { return false };
        self.counters.back_to_udp += 1;
        self.waiting.remove(&(client.flow.transport, client.flow.remote, key));
        self.waiting.insert((flow.transport, flow.remote, key));
        if let Some(invite) = &mut client.invite {
            let via = invite
                .headers()
                .values(Name::Via)
                .next()
                .map(|via| via.replacen(Transport::Tcp.name(), Transport::Udp.name(), 1));
            if let Some(via) = via {
                invite.headers_mut().set_first_value(Name::Via, &via);
            }
        }
        (client.flow, client.bytes) = (flow, bytes);
        let times = Times::with(client.segment, self.gm_t1);
        client.machine = client::Machine::new(client.method == Method::Invite, false, times);
        self.on_client(now, key, client::Event::Begin, None, out);
        true
    }

    /// One event of a client transaction. `response` comes with the events that are responses.
    pub(super) fn on_client(
        &mut self,
        now: Now,
        key: u64,
        event: client::Event,
        mut response: Option<Response>,
        out: &mut Vec<Output>,
    ) -> Option<Event<W>> {
        let client = self.clients.get_mut(&key)?;
        let before = client.machine.state;
        let actions = client.machine.on(event);
        let after = client.machine.state;
        self.count_response(key, &actions, response.as_ref());
        let mut result = None;
        for action in actions {
            match action {
                client::Action::SendRequest => self.send_client_bytes(key, true, out),
                client::Action::Retransmit => self.send_client_bytes(key, false, out),
                client::Action::SendAck => self.acknowledge(key, response.as_ref(), out),
                client::Action::Deliver => {
                    if let Some(response) = response.take() {
                        result = self.deliver(now, key, response, out);
                    }
                }
                client::Action::DeliverAgain => {
                    if let Some(response) = response.take() {
                        self.deliver_again(now, key, response, out);
                    }
                }
                client::Action::TimedOut => {
                    result = self.end_pending(key, Err(NoReply::Timeout));
                    self.counters.timeouts += u64::from(result.is_some());
                }
                client::Action::Unreachable => {
                    result = self.end_pending(key, Err(NoReply::Unreachable));
                    self.counters.unreachable += u64::from(result.is_some());
                }
                client::Action::Start(timer, span) => {
                    self.timers.set(Timer::Client(key, timer), now + span);
                }
                client::Action::Stop(timer) => {
                    self.timers.stop(&Timer::Client(key, timer));
                }
            }
        }
        match after {
            client::State::Terminated => self.remove_client(key),
            client::State::Completed | client::State::Accepted if before != after => {
                self.let_client_linger(key);
            }
            _ => (),
        }
        result
    }

    fn count_response(&mut self, key: u64, actions: &client::Actions, response: Option<&Response>) {
        let (Some(response), Some(client)) = (response, self.clients.get(&key)) else { return };
        match actions.contains(&client::Action::Deliver) {
            true => self.counters.responses_received.count(client.method, response.status()),
            false => self.counters.responses_repeated_to_us += 1,
        }
    }

    fn send_client_bytes(&mut self, key: u64, is_first: bool, out: &mut Vec<Output>) {
        let Some(client) = self.clients.get(&key) else { return };
        match is_first {
            true => self.counters.requests_sent.count(client.method),
            false => self.counters.requests_repeated_by_us += 1,
        }
        out.push(Output::Sip { flow: client.flow, bytes: client.bytes.clone() });
    }

    /// RFC 3261 §17.1.1.3: made once, and the same again for each repeated refusal.
    fn acknowledge(&mut self, key: u64, response: Option<&Response>, out: &mut Vec<Output>) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        if let (Some(invite), Some(response)) = (client.invite.take(), response) {
            client.bytes = proxy::ack_of(&invite, response).to_bytes();
            self.counters.requests_sent.count(Method::Ack);
        } else {
            self.counters.requests_repeated_by_us += 1;
        }
        out.push(Output::Sip { flow: client.flow, bytes: client.bytes.clone() });
    }

    /// RFC 3261 §16.7: a response for whoever sent the request. 100 ends here (step 5).
    fn deliver(
        &mut self,
        now: Now,
        key: u64,
        response: Response,
        out: &mut Vec<Output>,
    ) -> Option<Event<W>> {
        if !response.is_provisional() {
            let event = self.end_pending(key, Ok(response));
            let is_cancel = self.clients.get(&key).is_some_and(|client| client.cancel_of.is_some());
            if event.is_none() && !is_cancel {
                self.counters.dropped("late_response");
            }
            return event;
        }
        let client = self.clients.get_mut(&key)?;
        if client.cancelling == Cancelling::Wanted {
            self.cancel_client(now, key, out);
        }
        if response.status() == 100 {
            return None;
        }
        let branch = self.take_pending(key)?;
        Some(Event::Provisional(branch, response))
    }

    /// RFC 6026 §8.4, RFC 3261 §13.2.2.4, §16.7 step 5: a further 2xx of an INVITE goes the way of
    /// the first one; for an INVITE of our own the ACK goes out again.
    fn deliver_again(&mut self, now: Now, key: u64, mut response: Response, out: &mut Vec<Output>) {
        let Some(client) = self.clients.get(&key) else { return };
        match client.upstream {
            Some(upstream) => {
                self.pop_our_via(&mut response);
                let bytes = response.to_bytes();
                let event = server::Event::Success { is_ours: false };
                self.on_server(now, upstream, event, Some((response.status(), bytes)), out);
            }
            None if !client.bytes.is_empty() => self.send_client_bytes(key, false, out),
            None => (),
        }
    }

    fn take_pending(&mut self, key: u64) -> Option<Branch<W>> {
        let Pending { incoming, wait } = self.clients.get_mut(&key)?.pending.take()?;
        self.pending -= 1;
        Some(Branch { incoming, wait, key })
    }

    /// Gives the wait back, once.
    pub(super) fn end_pending(
        &mut self,
        key: u64,
        result: Result<Response, NoReply>,
    ) -> Option<Event<W>> {
        let branch = self.take_pending(key)?;
        Some(Event::Reply(branch, result))
    }

    /// RFC 3261 §9.1: sends the CANCEL of an INVITE, or leaves word to do so when its first
    /// provisional response has come.
    pub(super) fn cancel_client(&mut self, now: Now, key: u64, out: &mut Vec<Output>) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        let Some(invite) = client.invite.as_deref() else { return };
        match (client.machine.state, client.cancelling) {
            (client::State::Calling, Cancelling::No) => client.cancelling = Cancelling::Wanted,
            (client::State::Proceeding, Cancelling::No | Cancelling::Wanted) => {
                client.cancelling = Cancelling::Sent;
                let request = proxy::cancel_of(invite);
                let times = Times::with(client.segment, self.gm_t1);
                let cancel = Client {
                    machine: client::Machine::new(
                        false,
                        client.flow.transport.is_reliable(),
                        times,
                    ),
                    method: Method::Cancel,
                    flow: client.flow,
                    segment: client.segment,
                    sent_by_port: client.sent_by_port,
                    branch: client.branch.clone(),
                    bytes: request.to_bytes(),
                    invite: None,
                    back_to_udp: None,
                    pending: None,
                    upstream: None,
                    cancelling: Cancelling::No,
                    cancel_of: Some(key),
                    dialog: None,
                };
                let (flow, number) = (client.flow, self.new_key());
                self.clients.insert(number, cancel);
                self.waiting.insert((flow.transport, flow.remote, number));
                self.cancels.insert(key, number);
                self.timers.set(Timer::Limit(key), now + times.transaction());
                self.on_client(now, number, client::Event::Begin, None, out);
            }
            _ => (),
        }
    }

    /// A final response came: what is left is to absorb repetitions.
    fn let_client_linger(&mut self, key: u64) {
        self.timers.stop(&Timer::Limit(key));
        let Some(client) = self.clients.get_mut(&key) else { return };
        self.waiting.remove(&(client.flow.transport, client.flow.remote, key));
        client.back_to_udp = None;
        if client.machine.state == client::State::Accepted {
            let invite = client.invite.take();
            client.bytes = Bytes::new();
            if let (None, Some(invite)) = (client.upstream, invite) {
                let dialog = (invite.call_id().to_owned(), invite.cseq());
                client.dialog = Some(dialog.clone());
                self.accepted.insert(dialog, key);
            }
        } else if client.method != Method::Invite {
            client.bytes = Bytes::new();
        }
        self.lingering_clients.insert(key);
        if self.lingering_clients.len() > self.limits.sip_transactions
            && let Some(oldest) = self.lingering_clients.first().copied()
        {
            self.counters.evicted += 1;
            self.stop_client(oldest);
            self.remove_client(oldest);
        }
    }

    /// Stops a transaction that its machine has not ended.
    pub(super) fn stop_client(&mut self, key: u64) {
        for timer in [client::Timer::Retransmit, client::Timer::GiveUp, client::Timer::Linger] {
            self.timers.stop(&Timer::Client(key, timer));
        }
    }

    /// The wait, if any is left, is gone with it: callers have handed it out.
    pub(super) fn remove_client(&mut self, key: u64) {
        let Some(client) = self.clients.remove(&key) else { return };
        debug_assert!(client.pending.is_none(), "the wait was handed out before");
        self.waiting.remove(&(client.flow.transport, client.flow.remote, key));
        self.lingering_clients.remove(&key);
        self.timers.stop(&Timer::Limit(key));
        if let Some(invite) = client.cancel_of {
            self.cancels.remove(&invite);
        }
        if let Some(dialog) = client.dialog
            && self.accepted.get(&dialog) == Some(&key)
        {
            self.accepted.remove(&dialog);
        }
    }
}

/// RFC 3261 §18.3: on a stream the length is mandatory; what came as a datagram may lack it.
fn mark_length(request: &mut Request) {
    if !request.headers().has(Name::ContentLength) {
        request.set_content_length();
    }
}
