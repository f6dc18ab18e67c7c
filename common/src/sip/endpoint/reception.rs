//! What becomes of a received message (RFC 3261 §16.3, §17.1.3, §17.2.3, §18.1.2, §18.2.1).

use std::sync::Arc;

use bytes::Bytes;

use super::incoming::Reception;
use super::{Endpoint, Event, Incoming, Segment, Server};
use crate::node::{Flow, Now, Output, Transport};
use crate::sip::client::{self, Times};
use crate::sip::header::Name;
use crate::sip::keep_alive::KeepAlive;
use crate::sip::message::{Message, Method, ParseError, Request, Response};
use crate::sip::proxy::{self, Refusal};
use crate::sip::server;
use crate::sip::via::Via;

/// RFC 3261 §20.33: when to come again after a refusal for overload, in seconds.
const RETRY_AFTER_SECONDS: &str = "5";

/// Where a request came from and where its responses go.
#[derive(Clone, Copy)]
struct Arrival {
    flow: Flow,
    reply_flow: Flow,
    second_reply_flow: Option<Flow>,
    segment: Segment,
}

impl<W> Endpoint<W> {
    pub(super) fn receive_message(
        &mut self,
        now: Now,
        flow: Flow,
        reply: Option<Flow>,
        bytes: Bytes,
        segment: Segment,
        out: &mut Vec<Output>,
    ) -> Option<Event<W>> {
        if flow.transport == Transport::Udp
            && let Some(keep_alive) = KeepAlive::read(&bytes, flow.remote)
        {
            self.counters.keep_alives += 1;
            if let KeepAlive::Answer(bytes) = keep_alive {
                out.push(Output::Sip { flow, bytes });
            }
            return None;
        }
        match Message::parse(bytes.clone(), &self.limits) {
            Ok(Message::Request(request)) => {
                self.receive_request(now, flow, reply, request, segment, out)
            }
            Ok(Message::Response(response)) => self.receive_response(now, &flow, response, out),
            Err(error) => {
                self.receive_unreadable(flow, reply, bytes, error, out);
                None
            }
        }
    }

    /// RFC 3261 §16.3 step 1, §21.4.1, §21.5.6: what is not a message is answered where it says
    /// whom to answer.
    fn receive_unreadable(
        &mut self,
        flow: Flow,
        reply: Option<Flow>,
        bytes: Bytes,
        error: ParseError,
        out: &mut Vec<Output>,
    ) {
        self.counters.malformed(error.expected);
        let salvaged = Request::salvage(bytes, &self.limits)
            .filter(|request| request.method() != Method::Ack)
            .and_then(|request| proxy::top_via(&request).ok().map(|via| (request, via)));
        let Some((mut request, mut via)) = salvaged else {
            self.counters.dropped("unreadable");
            return;
        };
        let arrival = self.arrive(flow, reply, &mut request, &mut via, Segment::Core);
        self.refuse(&request, &via, arrival, Refusal::Malformed(error), out);
    }

    fn receive_request(
        &mut self,
        now: Now,
        flow: Flow,
        reply: Option<Flow>,
        mut request: Request,
        segment: Segment,
        out: &mut Vec<Output>,
    ) -> Option<Event<W>> {
        let mut via = match proxy::top_via(&request) {
            Ok(via) => via,
            Err(error) => {
                self.counters.malformed(error.expected);
                self.counters.dropped("unreadable");
                return None;
            }
        };
        let mut key = std::mem::take(&mut self.scratch);
        let method = match request.method() {
            Method::Ack | Method::Cancel => "INVITE",
            _ => request.method_text(),
        };
        proxy::transaction_key(&request, &via, method, &mut key);
        let known = self.server_keys.get(key.as_str()).copied();
        let arrival = self.arrive(flow, reply, &mut request, &mut via, segment);
        let event = match (request.method(), known) {
            (Method::Ack, _) => self.receive_ack(now, known, request, &via, flow, out),
            (Method::Cancel, _) => {
                self.receive_cancel(now, known, &request, &via, arrival, out);
                None
            }
            (_, Some(known)) => {
                self.counters.requests_repeated_to_us += 1;
                self.on_server(now, known, server::Event::Request, None, out);
                None
            }
            (_, None) => self.receive_new(now, &key, request, &via, arrival, out),
        };
        self.scratch = key;
        event
    }

    /// RFC 3261 §18.2.1, §18.2.2: marks the Via and finds the way back.
    fn arrive(
        &self,
        flow: Flow,
        reply: Option<Flow>,
        request: &mut Request,
        via: &mut Via,
        segment: Segment,
    ) -> Arrival {
        let is_tcp = flow.transport == Transport::Tcp;
        proxy::mark_received(request, via, flow, reply.filter(|_| !is_tcp));
        let (reply_flow, second_reply_flow) = match reply {
            Some(second) if is_tcp => (flow, Some(second)),
            Some(reply_flow) => (reply_flow, None),
            None => proxy::reply_flows(via, flow),
        };
        Arrival { flow, reply_flow, second_reply_flow, segment }
    }

    /// RFC 3261 §16.3: a request that belongs to no transaction. Overload comes first, because
    /// then every step counts.
    fn receive_new(
        &mut self,
        now: Now,
        key: &str,
        request: Request,
        via: &Via,
        arrival: Arrival,
        out: &mut Vec<Output>,
    ) -> Option<Event<W>> {
        self.counters.requests_received.count(request.method());
        let fingerprint = proxy::fingerprint(&request, self.salt);
        if let Err(refusal) = self.admit(&request, fingerprint) {
            if let Refusal::Malformed(error) = &refusal {
                self.counters.malformed(error.expected);
            }
            self.refuse(&request, via, arrival, refusal, out);
            return None;
        }
        let number = self.new_key();
        let is_invite = request.method() == Method::Invite;
        let has_tag = request.to_tag().is_some();
        let key: Arc<str> = Arc::from(key);
        let is_reliable = arrival.reply_flow.transport.is_reliable();
        let times = Times::with(arrival.segment, self.gm_t1);
        let server = Server {
            machine: server::Machine::new(is_invite, is_reliable, times),
            method: request.method(),
            key: Arc::clone(&key),
            reply_flow: arrival.reply_flow,
            second_reply_flow: arrival.second_reply_flow,
            last_response: None,
            trying: is_invite.then(|| request.response(100, "Trying").to_bytes()),
            fingerprint: (!has_tag).then_some(fingerprint),
            is_answered: false,
            is_cancelled: false,
            branch: None,
            rfc2543_to_tag: None,
            dialog: None,
        };
        self.servers.insert(number, server);
        self.server_keys.insert(key, number);
        self.unanswered += 1;
        if !has_tag {
            self.mergeable.insert(fingerprint, number);
        }
        self.on_server(now, number, server::Event::Begin, None, out);
        let reception = Reception {
            flow: arrival.flow,
            reply_flow: arrival.reply_flow,
            second_reply_flow: arrival.second_reply_flow,
            key: number,
            fingerprint,
            tag: proxy::tag_for(&request, via, self.salt),
        };
        Some(Event::Request(Incoming::new(request, reception, &self.ledger)))
    }

    /// RFC 3261 §16.3 steps 1, 3 and 4, and §8.2.2.2: why a request goes no further.
    fn admit(&self, request: &Request, fingerprint: u64) -> Result<(), Refusal> {
        if self.unanswered >= self.limits.sip_transactions {
            return Err(Refusal::Overload);
        }
        proxy::check(request)?;
        let mut passed_here =
            request.headers().values(Name::Via).filter_map(|via| self.fingerprint_in(via));
        if passed_here.any(|passed| passed == fingerprint) {
            return Err(Refusal::Loop);
        }
        if request.to_tag().is_none() && self.mergeable.contains_key(&fingerprint) {
            return Err(Refusal::Merged);
        }
        Ok(())
    }

    /// The fingerprint that a Via of ours carries in its branch.
    fn fingerprint_in(&self, via: &str) -> Option<u64> {
        let (_, ours) = via.split_once(self.branch_prefix.as_str())?;
        let (_, fingerprint) = ours.split_once('-')?;
        u64::from_str_radix(fingerprint.get(..16)?, 16).ok()
    }

    /// RFC 3261 §8.2.7: an answer without a transaction.
    fn refuse(
        &mut self,
        request: &Request,
        via: &Via,
        arrival: Arrival,
        refusal: Refusal,
        out: &mut Vec<Output>,
    ) {
        self.counters.refused(refusal.label());
        let mut response = request.response(refusal.status(), &refusal.reason());
        if refusal == Refusal::Overload {
            response.headers_mut().append(Name::RetryAfter, RETRY_AFTER_SECONDS);
        }
        self.respond_statelessly(request, via, arrival, response, out);
    }

    fn respond_statelessly(
        &mut self,
        request: &Request,
        via: &Via,
        arrival: Arrival,
        mut response: Response,
        out: &mut Vec<Output>,
    ) {
        proxy::add_to_tag(&mut response, proxy::tag_for(request, via, self.salt));
        self.counters.responses_sent.count(request.method(), response.status());
        let bytes = response.to_bytes();
        self.remember_on_connection(arrival.reply_flow, arrival.second_reply_flow, &bytes);
        out.push(Output::Sip { flow: arrival.reply_flow, bytes });
    }

    /// RFC 3261 §17.2.1, §13.3.1.4: an ACK ends the repetition of a final response. The one of a
    /// 2xx goes on to the core.
    fn receive_ack(
        &mut self,
        now: Now,
        known: Option<u64>,
        request: Request,
        via: &Via,
        flow: Flow,
        out: &mut Vec<Output>,
    ) -> Option<Event<W>> {
        self.counters.requests_received.count(Method::Ack);
        if let Err(error) = request.check() {
            self.counters.malformed(error.expected);
            self.counters.dropped("unreadable");
            return None;
        }
        let known = known.filter(|key| {
            let server = self.servers.get(key);
            let expected = server.and_then(|server| server.rfc2543_to_tag.as_deref());
            expected.is_none() || expected == request.to_tag()
        });
        if let Some(known) = known {
            let goes_on = self.on_server(now, known, server::Event::Ack, None, out);
            return goes_on.then_some(Event::Ack { request, flow });
        }
        if request.to_tag() == Some(proxy::tag_for(&request, via, self.salt).text().as_str()) {
            // RFC 3261 §8.2.7: it acknowledges what was refused without a transaction.
            return None;
        }
        let dialog = (request.call_id().to_owned(), request.cseq());
        if let Some(accepted) = self.acknowledgeable.get(&dialog).copied() {
            self.on_server(now, accepted, server::Event::Ack, None, out);
        }
        Some(Event::Ack { request, flow })
    }

    /// RFC 3261 §9.2, §16.10: a CANCEL is answered here; the INVITE that it names ends with 487
    /// from where it was forwarded to, or when it is about to be forwarded.
    fn receive_cancel(
        &mut self,
        now: Now,
        known: Option<u64>,
        request: &Request,
        via: &Via,
        arrival: Arrival,
        out: &mut Vec<Output>,
    ) {
        self.counters.requests_received.count(Method::Cancel);
        if let Err(error) = request.check() {
            self.counters.malformed(error.expected);
            self.refuse(request, via, arrival, Refusal::Malformed(error), out);
            return;
        }
        let Some(server) = known.and_then(|key| self.servers.get_mut(&key)) else {
            self.refuse(request, via, arrival, Refusal::NothingToCancel, out);
            return;
        };
        let branch = if server.is_answered {
            None
        } else {
            server.is_cancelled = true;
            server.branch
        };
        self.respond_statelessly(request, via, arrival, request.response(200, "OK"), out);
        if let Some(branch) = branch {
            self.cancel_client(now, branch, out);
        }
    }

    /// RFC 3261 §17.1.3, §18.1.2: a response belongs to the transaction that its topmost Via and
    /// the method of its CSeq name. Others are dropped.
    fn receive_response(
        &mut self,
        now: Now,
        flow: &Flow,
        response: Response,
        out: &mut Vec<Output>,
    ) -> Option<Event<W>> {
        let Some(key) = self.client_of(&response) else {
            self.counters.dropped("stray_response");
            return None;
        };
        let client = self.clients.get(&key)?;
        if !client.may_be_answered_on(flow) {
            self.counters.dropped("response_on_another_way");
            return None;
        }
        let is_forwarded = client.upstream.is_some();
        let vias = response.headers().values(Name::Via).take(2).count();
        if is_forwarded != (vias == 2) || !(100..700).contains(&response.status()) {
            self.counters.malformed(if is_forwarded { "Via below ours" } else { "one Via" });
            self.counters.dropped("malformed_response");
            return None;
        }
        let event = match response.status() {
            100..200 => client::Event::Provisional,
            200..300 => client::Event::Success,
            _ => client::Event::Failure,
        };
        self.on_client(now, key, event, Some(response), out)
    }

    fn client_of(&self, response: &Response) -> Option<u64> {
        let via = Via::parse(response.headers().values(Name::Via).next()?).ok()?;
        let branch = via.branch()?;
        let (key, _) = branch.strip_prefix(self.branch_prefix.as_str())?.split_once('-')?;
        let key = u64::from_str_radix(key, 16).ok()?;
        let method = response.cseq_method();
        let key = match method {
            Method::Cancel => self.cancels.get(&key).copied().unwrap_or(key),
            _ => key,
        };
        let client = self.clients.get(&key)?;
        (client.branch == branch && client.method == method).then_some(key)
    }
}
