//! From a URI to addresses (RFC 3263 §4): a walk over answers; somebody else looks them up.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::dns::{Answer, Question};
use crate::node::{Now, Transport};
use crate::random::Random;
use crate::sip::uri::Uri;

/// One place to try.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Hop { pub transport: Transport, pub address: SocketAddr }

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressFamilies { V4, V6, Both }

/// What the next hop prefers and can.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preference {
    pub families: AddressFamilies,
    /// In order of preference where the DNS does not decide (no NAPTR).
    pub transports: Vec<Transport>,
}

/// A walk in progress. Answers may come in any order; the same question is asked once.
#[derive(Debug, Clone)]
pub struct Walk {}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Look these up and call [`Walk::answer`] for each.
    Ask(Vec<Question>),
    /// In the order to try them; never empty.
    Found(VecDeque<Hop>),
    /// Nothing there: the reason for the log.
    NotFound(String),
}

impl Walk {
    /// Numeric hosts, explicit ports and `transport=` skip steps as RFC 3263 §4.1, §4.2 say.
    pub fn begin(uri: &Uri, preference: &Preference) -> Walk { let _ = (uri, preference); todo!() }
    /// The next step; SRV weights are drawn from `random`.
    pub fn step(&mut self, random: &mut Random) -> Step { let _ = random; todo!() }
    pub fn answer(&mut self, question: &Question, answer: Answer) { let _ = (question, answer); todo!() }
    /// The smallest TTL seen.
    pub fn ttl(&self) -> Duration { todo!() }
}

/// Resolved hops by URI with their TTL, and which hops failed lately (they go last for a while).
#[derive(Debug, Default)]
pub struct HopCache {}

impl HopCache {
    pub fn new(limit: usize) -> HopCache { let _ = limit; todo!() }
    pub fn get(&mut self, now: Now, uri: &str) -> Option<VecDeque<Hop>> { let _ = (now, uri); todo!() }
    pub fn put(&mut self, now: Now, uri: &str, hops: &VecDeque<Hop>, ttl: Duration) { let _ = (now, uri, hops, ttl); todo!() }
    /// Marks a hop as failed for `span`: `get` puts it behind the others until then.
    pub fn failed(&mut self, now: Now, hop: Hop, span: Duration) { let _ = (now, hop, span); todo!() }
}
