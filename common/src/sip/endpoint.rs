//! The endpoint: transactions behind one door (RFC 3261 §16, §17). Procedures never see a
//! retransmission, a CANCEL or a Via.
//!
//! `W` is the daemon's own enum of waits: what it needs when an answer comes. The wait lives in the
//! transaction and comes back exactly once at its end.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::limits::Limits;
use crate::node::{Flow, Now, Output};
use crate::random::Random;
use crate::sip::message::{Request, Response};
use crate::sip::uri::HostPort;
use crate::stats::Samples;

/// Which timer values apply (registration.md T-02, T-03): inside the core T1 0.5 s, T2 4 s, T4 5 s;
/// on Gm T1 2 s, T2 16 s, T4 17 s.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Segment { Core, Gm }

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

/// A request we owe an answer to. Not `Clone`; consumed by answering; dropping it unanswered
/// panics in debug builds and is counted in release builds.
#[derive(Debug)]
pub struct Incoming {}

impl Incoming {
    pub fn request(&self) -> &Request { todo!() }
    pub fn flow(&self) -> Flow { todo!() }
    /// Where responses go: by default as RFC 3261 §18.2.2 and RFC 3581 say.
    pub fn reply_flow(&self) -> Flow { todo!() }
    /// Sends responses elsewhere: the P-CSCF answers UDP requests inside IPsec from port_pc to
    /// port_us. Must be set before the first response.
    pub fn set_reply_flow(&mut self, flow: Flow) { let _ = flow; todo!() }
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
pub enum NoReply { Timeout, Unreachable }

#[derive(Debug)]
pub enum Event<W> {
    /// A new request, checked as RFC 3261 §16.3 says (well-formed, Max-Forwards above 0, no loop).
    Request(Incoming),
    /// An ACK for a 2xx, or stray; nothing answers it.
    Ack { request: Request, flow: Flow },
    /// A provisional response; hand the branch back with [`Endpoint::relay`] or [`Endpoint::keep`]
    /// within the same call.
    Provisional(Branch<W>, Response),
    /// The final end of a branch.
    Reply(Branch<W>, Result<Response, NoReply>),
}

#[derive(Debug)]
pub struct Endpoint<W> { _waits: std::marker::PhantomData<W> }

impl<W> Endpoint<W> {
    pub fn new(random: Random, limits: &Limits) -> Self { let _ = (random, limits); todo!() }

    /// One datagram or framed message. Malformed requests are answered 400 with a reason where that
    /// can be addressed, else dropped and counted; too many transactions are answered 503.
    /// `segment`: whose timers rule on that flow.
    pub fn receive(&mut self, now: Now, flow: Flow, bytes: Bytes, segment: Segment, out: &mut Vec<Output>) -> Option<Event<W>> { let _ = (now, flow, bytes, segment, out); todo!() }

    /// Sends a final (or provisional: see [`Endpoint::progress`]) response. To gets a tag when it has none.
    pub fn respond(&mut self, now: Now, incoming: Incoming, response: Response, out: &mut Vec<Output>) { let _ = (now, incoming, response, out); todo!() }

    /// Sends a provisional response; the request stays owed.
    pub fn progress(&mut self, now: Now, incoming: &Incoming, response: Response, out: &mut Vec<Output>) { let _ = (now, incoming, response, out); todo!() }

    /// Forwards `request` (a changed copy of `incoming.request()`; Max-Forwards is decremented and
    /// our Via pushed here). `limit`: give up after that even if the transaction would go on.
    #[allow(clippy::too_many_arguments)]
    pub fn forward(&mut self, now: Now, incoming: Incoming, request: Request, target: Target, wait: W, limit: Duration, out: &mut Vec<Output>) { let _ = (now, incoming, request, target, wait, limit, out); todo!() }

    /// Sends a request of our own; Via is pushed here.
    pub fn send(&mut self, now: Now, request: Request, target: Target, wait: W, limit: Duration, out: &mut Vec<Output>) { let _ = (now, request, target, wait, limit, out); todo!() }

    /// Passes a response upstream: our Via is taken off. A provisional one puts the branch back.
    pub fn relay(&mut self, now: Now, branch: Branch<W>, response: Response, out: &mut Vec<Output>) { let _ = (now, branch, response, out); todo!() }

    /// Puts a branch back after a provisional response that goes no further.
    pub fn keep(&mut self, branch: Branch<W>) { let _ = branch; todo!() }

    /// One transaction that this flow's failure ends; call until `None`.
    pub fn unreachable(&mut self, now: Now, flow: Flow, out: &mut Vec<Output>) -> Option<Event<W>> { let _ = (now, flow, out); todo!() }

    /// One event of a timer; call until `None`.
    pub fn expire(&mut self, now: Now, out: &mut Vec<Output>) -> Option<Event<W>> { let _ = (now, out); todo!() }

    pub fn next_timeout(&self) -> Option<Now> { todo!() }

    /// Requests owed an answer plus branches not ended (transactions that only linger to absorb
    /// retransmissions do not count).
    pub fn owed(&self) -> usize { todo!() }

    pub fn samples(&self, samples: &mut Samples) { let _ = samples; todo!() }
}

/// For tests of flows: IPv4 or IPv6 any-port address beside `remote`.
pub fn local_any(local: SocketAddr) -> SocketAddr { SocketAddr::new(local.ip(), 0) }
