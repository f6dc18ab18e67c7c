//! The endpoint: transactions behind one door (RFC 3261 §16, §17). Procedures never see a
//! retransmission, a CANCEL or a Via.
//!
//! `W` is the daemon's own enum of waits: what it needs when an answer comes. The wait lives in the
//! transaction and comes back exactly once at its end.
//!
//! | file | what is in it |
//! |---|---|
//! | this one | the types, what a core calls, timers |
//! | `reception.rs` | what becomes of a received message |
//! | `sending.rs` | how requests go out: what the machines of [`super::client`] decide is done |
//! | `responding.rs` | how responses go out: the same for [`super::server`] |
//! | `incoming.rs` | the request that is owed an answer |
//! | `counters.rs` | what is counted |

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::limits::Limits;
use crate::node::{Flow, Now, Output, Transport};
use crate::random::Random;
use crate::sip::message::{Method, Request, Response};
use crate::sip::proxy;
use crate::sip::uri::HostPort;
use crate::sip::{client, server};
use crate::stats::Samples;
use crate::timers::Timers;

mod counters;
mod incoming;
mod reception;
mod responding;
mod sending;
#[cfg(test)]
mod tests;

pub use incoming::Incoming;

use counters::{Counters, Open};
use incoming::Ledger;

/// Which timer values apply (registration.md T-02, T-03): inside the core T1 0.5 s, T2 4 s, T4 5 s;
/// on Gm T1 2 s, T2 16 s, T4 17 s.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Segment {
    Core,
    Gm,
}

/// Where a request goes: an address (already looked up) and how the Via names us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// From which local address, over which transport, to where. UDP turns into TCP by itself when
    /// the message is longer than 1300 bytes (RFC 3261 §18.1.1), and back if TCP is refused.
    pub flow: Flow,
    /// Local port of a TCP connection opened for this: 0 for any, port_pc towards a UE over IPsec.
    pub tcp_local_port: u16,
    /// sent-by of our Via.
    pub sent_by: HostPort,
    pub segment: Segment,
}

/// The end, or a provisional response, of something we sent.
#[derive(Debug)]
pub struct Branch<W> {
    /// The request that was forwarded; `None` for our own.
    pub incoming: Option<Incoming>,
    pub wait: W,
    key: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoReply {
    Timeout,
    Unreachable,
}

#[derive(Debug)]
pub enum Event<W> {
    /// A new request, checked as RFC 3261 §16.3 says (well-formed, Max-Forwards above 0, no loop).
    Request(Incoming),
    /// An ACK for a 2xx, or stray; nothing answers it. [`Endpoint::forward_ack`] passes it on.
    Ack { request: Request, flow: Flow },
    /// A provisional response; hand the branch back with [`Endpoint::relay`] or [`Endpoint::keep`]
    /// within the same call.
    Provisional(Branch<W>, Response),
    /// The final end of a branch.
    Reply(Branch<W>, Result<Response, NoReply>),
}

/// What waits for the end of a client transaction.
#[derive(Debug)]
struct Pending<W> {
    incoming: Option<Incoming>,
    wait: W,
}

/// How far the cancelling of an INVITE has got (RFC 3261 §9.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cancelling {
    No,
    /// A CANCEL must not go before a provisional response came.
    Wanted,
    Sent,
}

#[derive(Debug)]
struct Client<W> {
    machine: client::Machine,
    method: Method,
    flow: Flow,
    segment: Segment,
    /// The port that our Via names.
    sent_by_port: u16,
    branch: String,
    /// The request, and behind an acknowledged INVITE its ACK: what is sent again.
    bytes: Bytes,
    /// An INVITE is kept, because ACK and CANCEL are made from it.
    invite: Option<Box<Request>>,
    /// The way back when the TCP taken for a request longer than 1300 bytes is refused.
    back_to_udp: Option<(Flow, Bytes)>,
    /// `None` once the end was handed out, and for a CANCEL.
    pending: Option<Pending<W>>,
    /// The server transaction whose request was forwarded.
    upstream: Option<u64>,
    cancelling: Cancelling,
    /// This is the CANCEL of that client transaction.
    cancel_of: Option<u64>,
    /// Place in `accepted` of an INVITE of our own.
    dialog: Option<DialogKey>,
}

#[derive(Debug)]
struct Server {
    machine: server::Machine,
    method: Method,
    key: Arc<str>,
    reply_flow: Flow,
    second_reply_flow: Option<Flow>,
    last_response: Option<Bytes>,
    /// An INVITE's 100, until another response went out.
    trying: Option<Bytes>,
    /// [`proxy::fingerprint`] of a request that may be merged with another.
    fingerprint: Option<u64>,
    is_answered: bool,
    is_cancelled: bool,
    /// The client transaction to which the request was forwarded last.
    branch: Option<u64>,
    /// RFC 2543 transactions: the To tag that the ACK must have (RFC 3261 §17.2.3).
    rfc2543_to_tag: Option<String>,
    /// Place in `acknowledgeable` of an INVITE that we accepted ourselves.
    dialog: Option<DialogKey>,
}

/// Call-ID and CSeq number of an INVITE: with them its ACK is found, which has a branch of its own.
type DialogKey = (String, u32);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Timer {
    /// A timer of a client transaction.
    Client(u64, client::Timer),
    /// The sender's own limit of a branch, or of waiting for the end of a cancelled one.
    Limit(u64),
    /// A timer of a server transaction.
    Server(u64, server::Timer),
}

/// A response sent over the connection of its request, in case that is gone.
#[derive(Debug)]
struct OnConnection {
    flow: Flow,
    second_flow: Flow,
    bytes: Bytes,
}

/// How many responses over TCP are remembered for a second try. A connection that is gone shows
/// at once, so that only the latest ones matter.
const REMEMBERED_ON_CONNECTIONS: usize = 1_024;

/// Transactions of one daemon (RFC 3261 §17) and what a stateful proxy does with them (§16).
///
/// In the struct of a core it stands in front of whatever may hold an [`Incoming`]: dropping one
/// unanswered while its endpoint lives is a bug and panics in debug builds.
#[derive(Debug)]
pub struct Endpoint<W> {
    limits: Limits,
    gm_t1: Duration,
    counters: Counters,
    ledger: Arc<Ledger>,
    /// Behind the magic cookie in each of our branches: tells our Vias from those of others.
    branch_prefix: String,
    /// Makes tags and fingerprints unguessable.
    salt: u64,
    asks_for_port: bool,
    asks_to_keep_alive: bool,
    next_key: u64,
    clients: HashMap<u64, Client<W>>,
    servers: HashMap<u64, Server>,
    server_keys: HashMap<Arc<str>, u64>,
    /// Unanswered requests without To tag, by fingerprint.
    mergeable: HashMap<u64, u64>,
    /// Accepted INVITEs that wait for their ACK from our peer.
    acknowledgeable: HashMap<DialogKey, u64>,
    /// Our own accepted INVITEs, whose ACK is sent again for each repeated 2xx.
    accepted: HashMap<DialogKey, u64>,
    /// From an INVITE's client transaction to the one of its CANCEL.
    cancels: HashMap<u64, u64>,
    /// Client transactions without a final response, by where they went.
    waiting: BTreeSet<(Transport, SocketAddr, u64)>,
    /// Transactions that only absorb repetitions, oldest first.
    ///
    /// DEVIATES: RFC 3261 §17.2.2: beyond as many as may be open the oldest ones are forgotten before
    /// timers J and K, because 10,000 registrations/s over UDP would keep 2.5 million on Gm. The
    /// peers' own repetitions come within the first seconds.
    lingering_clients: BTreeSet<u64>,
    lingering_servers: BTreeSet<u64>,
    unanswered: usize,
    pending: usize,
    on_connections: VecDeque<OnConnection>,
    /// Events that came up while something else was done; [`Endpoint::expire`] hands them out.
    ready: VecDeque<Event<W>>,
    ready_since: Now,
    timers: Timers<Timer>,
    scratch: String,
}

impl<W> Endpoint<W> {
    pub fn new(mut random: Random, limits: &Limits) -> Self {
        Endpoint {
            limits: limits.clone(),
            gm_t1: client::GM_T1,
            counters: Counters::default(),
            ledger: Arc::new(Ledger::default()),
            branch_prefix: format!("{}-{:08x}-", proxy::MAGIC_COOKIE, random.u32()),
            salt: random.u64(),
            asks_for_port: false,
            asks_to_keep_alive: false,
            next_key: 1,
            clients: HashMap::new(),
            servers: HashMap::new(),
            server_keys: HashMap::new(),
            mergeable: HashMap::new(),
            acknowledgeable: HashMap::new(),
            accepted: HashMap::new(),
            cancels: HashMap::new(),
            waiting: BTreeSet::new(),
            lingering_clients: BTreeSet::new(),
            lingering_servers: BTreeSet::new(),
            unanswered: 0,
            pending: 0,
            on_connections: VecDeque::new(),
            ready: VecDeque::new(),
            ready_since: Now::default(),
            timers: Timers::new(),
            scratch: String::new(),
        }
    }

    /// Another T1 on Gm than the 2 s of TS 24.229 table 7.7.1, for transactions to come.
    pub fn set_gm_t1(&mut self, t1: Duration) {
        self.gm_t1 = t1;
    }

    /// RFC 3581 §3: our Vias ask for `rport` from now on, so that responses come back to the port
    /// that the request left from. A UE does so where no security association says otherwise.
    pub fn ask_for_port(&mut self, asks: bool) {
        self.asks_for_port = asks;
    }

    /// RFC 6223 §4.2: our Vias ask with `keep` from now on how often the next hop wants keep-alives.
    pub fn ask_to_keep_alive(&mut self, asks: bool) {
        self.asks_to_keep_alive = asks;
    }

    /// One datagram or framed message. Malformed requests are answered 400 with a reason where that
    /// can be addressed, else dropped and counted; too many transactions are answered 503.
    /// `segment`: whose timers rule on that flow.
    pub fn receive(
        &mut self,
        now: Now,
        flow: Flow,
        bytes: Bytes,
        segment: Segment,
        out: &mut Vec<Output>,
    ) -> Option<Event<W>> {
        self.receive_message(now, flow, None, bytes, segment, out)
    }

    /// As [`Endpoint::receive`] where responses must take another way than RFC 3261 §18.2.2 says:
    /// the one of [`Incoming::set_reply_flow`], known before anything is answered; over TCP the one of
    /// [`Incoming::set_second_reply_flow`], for when the connection of the request is gone. It rules
    /// all that the endpoint itself sends (100, 400, 482, 483, 503, the 200 of a CANCEL) as well.
    pub fn receive_answering_on(
        &mut self,
        now: Now,
        flow: Flow,
        reply_flow: Flow,
        bytes: Bytes,
        segment: Segment,
        out: &mut Vec<Output>,
    ) -> Option<Event<W>> {
        self.receive_message(now, flow, Some(reply_flow), bytes, segment, out)
    }

    /// Sends a final (or provisional: see [`Endpoint::progress`]) response. To gets a tag when it
    /// has none.
    pub fn respond(
        &mut self,
        now: Now,
        incoming: Incoming,
        mut response: Response,
        out: &mut Vec<Output>,
    ) {
        debug_assert!(!response.is_provisional(), "a provisional response goes by `progress`");
        proxy::add_to_tag(&mut response, incoming.tag());
        self.finish(now, incoming, response, true, out);
    }

    /// Sends a provisional response; the request stays owed.
    pub fn progress(
        &mut self,
        now: Now,
        incoming: &Incoming,
        mut response: Response,
        out: &mut Vec<Output>,
    ) {
        if response.status() > 100 {
            proxy::add_to_tag(&mut response, incoming.tag());
        }
        self.send_response(now, incoming, &response, server::Event::Provisional, out);
    }

    /// RFC 3261 §9.2: true when a CANCEL came for this INVITE. A core that answers INVITEs itself
    /// asks this, and ends a cancelled one with 487; for one that is forwarded all is done here.
    pub fn is_cancelled(&self, incoming: &Incoming) -> bool {
        self.servers.get(&incoming.key()).is_some_and(|server| server.is_cancelled)
    }

    /// Forwards `request` (a changed copy of `incoming.request()`; Max-Forwards is decremented and
    /// our Via pushed here). `limit`: give up after that even if the transaction would go on.
    ///
    /// A request that was cancelled meanwhile is not sent: its branch ends with 487 at once
    /// (RFC 3261 §16.10), as [`Endpoint::expire`] tells.
    #[allow(clippy::too_many_arguments)]
    pub fn forward(
        &mut self,
        now: Now,
        incoming: Incoming,
        mut request: Request,
        target: Target,
        wait: W,
        limit: Duration,
        out: &mut Vec<Output>,
    ) {
        proxy::spend_hop(&mut request);
        let is_cancelled = match self.servers.get_mut(&incoming.key()) {
            Some(server) => {
                server.reply_flow = incoming.reply_flow();
                server.second_reply_flow = incoming.second_reply_flow();
                server.is_cancelled
            }
            None => false,
        };
        if is_cancelled {
            self.end_cancelled(now, incoming, request, &target, wait);
            return;
        }
        self.start(now, Some(incoming), request, target, wait, limit, out);
    }

    /// Sends a request of our own; Via is pushed here.
    pub fn send(
        &mut self,
        now: Now,
        mut request: Request,
        target: Target,
        wait: W,
        limit: Duration,
        out: &mut Vec<Output>,
    ) {
        proxy::give_hops(&mut request);
        self.start(now, None, request, target, wait, limit, out);
    }

    /// RFC 3261 §16.11: passes the ACK of a 2xx on. It belongs to no transaction.
    pub fn forward_ack(&mut self, mut request: Request, target: &Target, out: &mut Vec<Output>) {
        if !proxy::has_hops_left(&request) {
            self.counters.dropped("max_forwards");
            return;
        }
        proxy::spend_hop(&mut request);
        self.send_outside_transactions(request, target, out);
    }

    /// RFC 3261 §13.2.2.4: sends the ACK of a 2xx to an INVITE of our own, and again each time the
    /// 2xx is repeated.
    pub fn send_ack(&mut self, mut request: Request, target: &Target, out: &mut Vec<Output>) {
        proxy::give_hops(&mut request);
        let dialog = (request.call_id().to_owned(), request.cseq());
        let (flow, bytes) = self.send_outside_transactions(request, target, out);
        let invite = self.accepted.get(&dialog).and_then(|key| self.clients.get_mut(key));
        if let Some(invite) = invite {
            (invite.flow, invite.bytes) = (flow, bytes);
        }
    }

    /// Passes a response upstream: our Via is taken off. A provisional one puts the branch back.
    pub fn relay(
        &mut self,
        now: Now,
        mut branch: Branch<W>,
        mut response: Response,
        out: &mut Vec<Output>,
    ) {
        self.pop_our_via(&mut response);
        if response.is_provisional() {
            if let Some(incoming) = &branch.incoming {
                self.send_response(now, incoming, &response, server::Event::Provisional, out);
            }
            self.keep(branch);
            return;
        }
        match branch.incoming.take() {
            Some(incoming) => self.finish(now, incoming, response, false, out),
            None => debug_assert!(false, "a response to our own request has nowhere to go"),
        }
    }

    /// Puts a branch back after a provisional response that goes no further.
    pub fn keep(&mut self, branch: Branch<W>) {
        let Branch { incoming, wait, key } = branch;
        let pending = Pending { incoming, wait };
        match self.clients.get_mut(&key) {
            Some(client) if client.pending.is_none() => {
                client.pending = Some(pending);
                self.pending += 1;
            }
            // Only a branch kept beyond its call gets here; it must end all the same.
            Some(_) | None => self.make_ready(
                self.ready_since,
                Event::Reply(
                    Branch { incoming: pending.incoming, wait: pending.wait, key },
                    Err(NoReply::Timeout),
                ),
            ),
        }
    }

    /// One transaction that this flow's failure ends; call until `None`.
    pub fn unreachable(&mut self, now: Now, flow: Flow, out: &mut Vec<Output>) -> Option<Event<W>> {
        self.respond_on_second_flow(flow, out);
        let from = (flow.transport, flow.remote, 0);
        let to = (flow.transport, flow.remote, u64::MAX);
        loop {
            let mut waiting = self.waiting.range(from..=to).map(|(_, _, key)| *key);
            let key = waiting.find(|key| {
                self.clients.get(key).is_some_and(|client| is_same_flow(client.flow, flow))
            })?;
            if self.go_back_to_udp(now, key, out) {
                continue;
            }
            if let Some(event) = self.on_client(now, key, client::Event::TransportError, None, out)
            {
                return Some(event);
            }
            self.waiting.remove(&(flow.transport, flow.remote, key));
        }
    }

    /// One event of a timer; call until `None`.
    pub fn expire(&mut self, now: Now, out: &mut Vec<Output>) -> Option<Event<W>> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        while let Some(timer) = self.timers.expired(now) {
            let event = match timer {
                Timer::Client(key, timer) => {
                    self.on_client(now, key, client::Event::Fired(timer), None, out)
                }
                Timer::Server(key, timer) => {
                    self.on_server(now, key, server::Event::Fired(timer), None, out);
                    None
                }
                Timer::Limit(key) => self.on_limit(now, key, out),
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    pub fn next_timeout(&self) -> Option<Now> {
        match self.ready.is_empty() {
            false => Some(self.ready_since),
            true => self.timers.next(),
        }
    }

    /// Requests owed an answer plus branches not ended (transactions that only linger to absorb
    /// retransmissions do not count).
    pub fn owed(&self) -> usize {
        self.unanswered + self.pending + self.ready.len()
    }

    pub fn samples(&self, samples: &mut Samples) {
        let open = Open {
            servers: self.unanswered,
            clients: self.waiting.len(),
            lingering: self.lingering_clients.len() + self.lingering_servers.len(),
            dropped_unanswered: self.ledger.dropped(),
        };
        self.counters.samples(open, samples);
    }

    /// The sender's patience ends: RFC 3261 §16.8 for an INVITE, which is cancelled; any other
    /// request is just given up.
    fn on_limit(&mut self, now: Now, key: u64, out: &mut Vec<Output>) -> Option<Event<W>> {
        let client = self.clients.get(&key)?;
        let is_over = client.method != Method::Invite || client.cancelling == Cancelling::Sent;
        let event = self.end_pending(key, Err(NoReply::Timeout));
        if event.is_some() {
            self.counters.timeouts += 1;
        }
        if is_over {
            self.stop_client(key);
            self.remove_client(key);
        } else {
            self.timers.stop(&Timer::Client(key, client::Timer::Retransmit));
            self.cancel_client(now, key, out);
        }
        event
    }

    fn make_ready(&mut self, now: Now, event: Event<W>) {
        if self.ready.is_empty() {
            self.ready_since = now;
        }
        self.ready.push_back(event);
    }

    fn new_key(&mut self) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        key
    }
}

/// The end of an endpoint is the end of its requests: no `Incoming` complains any more.
impl<W> Drop for Endpoint<W> {
    fn drop(&mut self) {
        self.ledger.close();
    }
}

impl<W> Client<W> {
    /// What went out on Gm is answered by whom it went to, and at the port that our Via names, or on the way that it
    /// took: so nobody outside a UE's security associations answers what went inside (TS 33.203 §7.1). In the core
    /// RFC 3261 §17.1.3 is enough.
    fn may_be_answered_on(&self, flow: &Flow) -> bool {
        let (to, from) = (flow.local.port(), self.flow.local.port());
        let is_way_back = to == from || (from == 0 && flow.remote == self.flow.remote);
        self.segment == Segment::Core
            || (flow.remote.ip() == self.flow.remote.ip()
                && (to == self.sent_by_port || is_way_back))
    }
}

/// Same transport and addresses, where a local port of 0 means any.
fn is_same_flow(ours: Flow, failed: Flow) -> bool {
    let is_any = ours.local.port() == 0 || failed.local.port() == 0;
    let is_same_local = match is_any {
        true => ours.local.ip() == failed.local.ip() || ours.local.ip().is_unspecified(),
        false => ours.local == failed.local,
    };
    ours.transport == failed.transport && ours.remote == failed.remote && is_same_local
}

/// For tests of flows: IPv4 or IPv6 any-port address beside `remote`.
pub fn local_any(local: SocketAddr) -> SocketAddr {
    SocketAddr::new(local.ip(), 0)
}
