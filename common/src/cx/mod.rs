//! The Cx application, typed (TS 29.229 §6): requests and answers as structs, and an endpoint that
//! asks and answers with them. Knows no SIP.

pub mod avp;
pub mod lir;
pub mod mar;
pub mod ppr;
pub mod rtr;
pub mod sar;
pub mod uar;
pub mod user_data;

use std::time::Duration;

use bytes::Bytes;

use crate::diameter::endpoint::{Config, NoAnswer, ReplyTo};
use crate::limits::Limits;
use crate::node::{ConnectionId, Input, Now, Output};
use crate::random::Random;
use crate::stats::Samples;

pub use lir::{Lia, Lir};
pub use mar::{AuthDataItem, Maa, Mar};
pub use ppr::{Ppa, Ppr};
pub use rtr::{Rta, Rtr};
pub use sar::{Saa, Sar};
pub use uar::{Uaa, Uar};

/// Result of an answer: the two AVPs reuse the same numbers (pitfall 10), so the variant says
/// which of them carried it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Result-Code (RFC 6733 §7.1).
    Base(u32),
    /// Experimental-Result-Code of vendor 10415 (TS 29.229 §6.2).
    Experimental(u32),
}

impl Outcome {
    pub const SUCCESS: Outcome = Outcome::Base(2001);
    pub const UNABLE_TO_COMPLY: Outcome = Outcome::Base(5012);
    pub const AUTHORIZATION_REJECTED: Outcome = Outcome::Base(5003);
    pub const FIRST_REGISTRATION: Outcome = Outcome::Experimental(2001);
    pub const SUBSEQUENT_REGISTRATION: Outcome = Outcome::Experimental(2002);
    pub const UNREGISTERED_SERVICE: Outcome = Outcome::Experimental(2003);
    pub const SUCCESS_SERVER_NAME_NOT_STORED: Outcome = Outcome::Experimental(2004);
    pub const USER_UNKNOWN: Outcome = Outcome::Experimental(5001);
    pub const IDENTITIES_DONT_MATCH: Outcome = Outcome::Experimental(5002);
    pub const IDENTITY_NOT_REGISTERED: Outcome = Outcome::Experimental(5003);
    pub const ROAMING_NOT_ALLOWED: Outcome = Outcome::Experimental(5004);
    pub const IDENTITY_ALREADY_REGISTERED: Outcome = Outcome::Experimental(5005);
    pub const AUTH_SCHEME_NOT_SUPPORTED: Outcome = Outcome::Experimental(5006);
    pub const IN_ASSIGNMENT_TYPE: Outcome = Outcome::Experimental(5007);
    pub const TOO_MUCH_DATA: Outcome = Outcome::Experimental(5008);
    pub const NOT_SUPPORTED_USER_DATA: Outcome = Outcome::Experimental(5009);

    /// 2xxx of either kind.
    pub fn is_success(self) -> bool {
        let (Outcome::Base(code) | Outcome::Experimental(code)) = self;
        (2000..3000).contains(&code)
    }
}

/// Server-Capabilities (TS 29.229 §6.3.4). All empty: any S-CSCF will do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerCapabilities {
    pub mandatory: Vec<u32>,
    pub optional: Vec<u32>,
    pub server_names: Vec<String>,
}

/// Charging-Information (TS 29.229 §6.3.19): DiameterURIs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChargingInformation {
    pub primary_event_charging: Option<String>,
    pub secondary_event_charging: Option<String>,
    pub primary_charging_collection: Option<String>,
    pub secondary_charging_collection: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request { Uar(Uar), Mar(Mar), Sar(Sar), Lir(Lir), Rtr(Rtr), Ppr(Ppr) }

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer { Uaa(Uaa), Maa(Maa), Saa(Saa), Lia(Lia), Rta(Rta), Ppa(Ppa) }

/// A request that came in and is owed an answer.
#[derive(Debug)]
pub struct Received {
    pub request: Request,
    /// Origin-Host and Origin-Realm of who asked.
    pub origin_host: String,
    pub origin_realm: String,
    /// Where the answer goes.
    pub reply_to: ReplyTo,
}

/// An answer with who gave it: the S-CSCF puts `origin_host` into later requests as Destination-Host.
#[derive(Debug)]
pub struct Answered { pub answer: Answer, pub origin_host: String, pub origin_realm: String }

#[derive(Debug)]
pub enum Event<W> {
    Request(Received),
    Answer { wait: W, result: Result<Answered, NoAnswer> },
}

/// Diameter endpoint that speaks Cx.
#[derive(Debug)]
pub struct Endpoint<W> { _waits: std::marker::PhantomData<W> }

impl<W> Endpoint<W> {
    pub fn new(config: Config, random: Random, limits: &Limits) -> Self { let _ = (config, random, limits); todo!() }

    /// Connects to the configured peers. Call at `Input::Start`.
    pub fn start(&mut self, now: Now, out: &mut Vec<Output>) { let _ = (now, out); todo!() }

    /// Sends a request to the best peer that is up, or to the one named. The wait comes back in
    /// [`Event::Answer`], never from inside this call. `limit`: overall, failover included.
    pub fn ask(&mut self, now: Now, request: Request, destination_host: Option<&str>, wait: W, limit: Duration, out: &mut Vec<Output>) { let _ = (now, request, destination_host, wait, limit, out); todo!() }

    pub fn answer(&mut self, now: Now, received: Received, answer: Answer, out: &mut Vec<Output>) { let _ = (now, received, answer, out); todo!() }

    /// Feeds `Diameter`, `Opened`, `ConnectFailed` and `Closed` inputs; others are ignored. Afterwards call
    /// [`Endpoint::next_event`] until `None`.
    pub fn input(&mut self, now: Now, input: Input, out: &mut Vec<Output>) { let _ = (now, input, out); todo!() }

    /// Fires timers that are due; afterwards call [`Endpoint::next_event`] until `None`.
    pub fn expire(&mut self, now: Now, out: &mut Vec<Output>) { let _ = (now, out); todo!() }

    pub fn next_event(&mut self) -> Option<Event<W>> { todo!() }

    pub fn next_timeout(&self) -> Option<Now> { todo!() }

    /// Some peer is up.
    pub fn is_up(&self) -> bool { todo!() }

    /// Says DPR to every peer and takes no new requests.
    pub fn drain(&mut self, now: Now, out: &mut Vec<Output>) { let _ = (now, out); todo!() }

    /// Requests sent and not ended.
    pub fn owed(&self) -> usize { todo!() }

    pub fn samples(&self, samples: &mut Samples) { let _ = samples; todo!() }
}

/// Bytes of a message as the peer would see them, for tests of other crates.
pub type Raw = (ConnectionId, Bytes);
