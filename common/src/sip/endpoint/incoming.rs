//! The request that is owed an answer (RFC 3261 §8.2, §16.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::node::Flow;
use crate::sip::header::Name;
use crate::sip::message::{Request, Response};
use crate::sip::proxy::{self, Tag};

/// Shared by an endpoint and its requests: whether it still lives, and how many were forgotten.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    is_closed: AtomicBool,
    dropped: AtomicU64,
}

impl Ledger {
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A request we owe an answer to. Not `Clone`; consumed by answering; dropping it unanswered
/// panics in debug builds and is counted in release builds.
#[derive(Debug)]
pub struct Incoming {
    /// A request is large and travels far: through events, waits and branches.
    received: Box<Received>,
}

#[derive(Debug)]
struct Received {
    request: Request,
    reception: Reception,
    is_answered: bool,
    ledger: Arc<Ledger>,
}

/// What the endpoint found out about a request at its reception.
#[derive(Debug)]
pub(super) struct Reception {
    pub flow: Flow,
    pub reply_flow: Flow,
    pub second_reply_flow: Option<Flow>,
    /// Its server transaction.
    pub key: u64,
    pub fingerprint: u64,
    pub tag: Tag,
}

impl Incoming {
    pub(super) fn new(request: Request, reception: Reception, ledger: &Arc<Ledger>) -> Incoming {
        let ledger = Arc::clone(ledger);
        Incoming { received: Box::new(Received { request, reception, is_answered: false, ledger }) }
    }

    pub fn request(&self) -> &Request {
        &self.received.request
    }

    pub fn flow(&self) -> Flow {
        self.received.reception.flow
    }

    /// Where responses go: by default as RFC 3261 §18.2.2 and RFC 3581 say.
    pub fn reply_flow(&self) -> Flow {
        self.received.reception.reply_flow
    }

    /// Sends responses elsewhere: the P-CSCF answers UDP requests inside IPsec from port_pc to
    /// port_us. Must be set before the first response. An `rport` in the topmost Via follows.
    ///
    /// The endpoint's own 100 of an INVITE goes where it says from the time of `progress` or
    /// `forward` on; [`super::Endpoint::receive_answering_on`] says it from the start.
    pub fn set_reply_flow(&mut self, flow: Flow) {
        self.received.reception.reply_flow = flow;
        self.received.reception.second_reply_flow = None;
        let Ok(mut via) = proxy::top_via(&self.received.request) else { return };
        if via.parameter("rport").is_some() {
            via.set_parameter("rport", Some(&flow.remote.port().to_string()));
            self.received.request.headers_mut().set_first_value(Name::Via, &via.to_string());
        }
    }

    /// Where responses go when the TCP connection of the request is gone (RFC 3261 §18.2.2): by
    /// default a new connection from any local port to the sent-by port. `None`: nowhere.
    pub fn set_second_reply_flow(&mut self, flow: Option<Flow>) {
        self.received.reception.second_reply_flow = flow;
    }

    pub(super) fn second_reply_flow(&self) -> Option<Flow> {
        self.received.reception.second_reply_flow
    }

    pub(super) fn key(&self) -> u64 {
        self.received.reception.key
    }

    pub(super) fn fingerprint(&self) -> u64 {
        self.received.reception.fingerprint
    }

    /// RFC 3261 §8.2.6.2: gives a response the To tag that it will leave with, for whoever looks at it before.
    pub fn add_to_tag(&self, response: &mut Response) {
        proxy::add_to_tag(response, self.tag());
    }

    pub(super) fn tag(&self) -> Tag {
        self.received.reception.tag
    }

    pub(super) fn answered(mut self) {
        self.received.is_answered = true;
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.received.is_answered || self.received.ledger.is_closed.load(Ordering::Relaxed) {
            return;
        }
        self.received.ledger.dropped.fetch_add(1, Ordering::Relaxed);
        if cfg!(debug_assertions) && !std::thread::panicking() {
            let (method, call_id) =
                (self.received.request.method_text(), self.received.request.call_id());
            panic!("{method} with Call-ID {call_id} was dropped without an answer");
        }
    }
}
