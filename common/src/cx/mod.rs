//! The Cx application, typed (TS 29.229 §6): requests and answers as structs, and an endpoint that
//! asks and answers with them. Knows no SIP.
//!
//! | command | request | answer |
//! |---|---|---|
//! | User-Authorization 300 | [`Uar`] | [`Uaa`] |
//! | Server-Assignment 301 | [`Sar`] | [`Saa`] |
//! | Location-Info 302 | [`Lir`] | [`Lia`] |
//! | Multimedia-Auth 303 | [`Mar`] | [`Maa`] |
//! | Registration-Termination 304 | [`Rtr`] | [`Rta`] |
//! | Push-Profile 305 | [`Ppr`] | [`Ppa`] |

pub mod avp;
pub mod groups;
pub mod lir;
pub mod mar;
pub mod ppr;
pub mod restoration;
pub mod rtr;
pub mod sar;
mod stats;
pub mod uar;
pub mod user_data;
mod xml;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::diameter;
use crate::diameter::base::{self, Application, result_code};
use crate::diameter::endpoint::{Config, Destination, Incoming, NoAnswer, ReplyTo};
use crate::diameter::message::{Avp, Builder, Failure, Message};
use crate::limits::Limits;
use crate::node::{ConnectionId, Input, Now, Output};
use crate::random::Random;
use crate::stats::Samples;

use stats::{Direction, Stats, count};

pub use groups::{ChargingInformation, ServerCapabilities};
pub use lir::{Lia, Lir};
pub use mar::{AuthDataItem, Maa, Mar};
pub use ppr::{Ppa, Ppr};
pub use restoration::{RestorationInfo, ScscfRestorationInfo, SubscriptionInfo};
pub use rtr::{EmergencyRegistration, Rta, Rtr};
pub use sar::{Saa, Sar};
pub use uar::{Uaa, Uar};

/// Result of an answer: the two AVPs reuse the same numbers (pitfall 10), so the variant says
/// which of them carried it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
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

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    Uar(Uar),
    Mar(Mar),
    Sar(Sar),
    Lir(Lir),
    Rtr(Rtr),
    Ppr(Ppr),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Uaa(Uaa),
    Maa(Maa),
    Saa(Saa),
    Lia(Lia),
    Rta(Rta),
    Ppa(Ppa),
}

/// A request that came in and is owed an answer.
#[derive(Debug)]
pub struct Received {
    pub request: Request,
    /// Origin-Host and Origin-Realm of who asked.
    pub origin_host: String,
    pub origin_realm: String,
    /// Where the answer goes.
    pub reply_to: ReplyTo,
    /// Supported-Features were in it, so the answer tells ours (TS 29.229 §7.2.1).
    pub tells_features: bool,
}

/// An answer with who gave it: the S-CSCF puts `origin_host` into later requests as
/// Destination-Host.
#[derive(Debug)]
pub struct Answered {
    pub answer: Answer,
    pub origin_host: String,
    pub origin_realm: String,
}

#[derive(Debug)]
pub enum Event<W> {
    Request(Received),
    Answer { wait: W, result: Result<Answered, NoAnswer> },
}

/// Diameter endpoint that speaks Cx.
#[derive(Debug)]
pub struct Endpoint<W> {
    diameter: diameter::endpoint::Endpoint<W>,
    events: VecDeque<Event<W>>,
    stats: Stats,
}

/// Command codes (TS 29.229 §6.1).
pub mod command {
    pub const USER_AUTHORIZATION: u32 = 300;
    pub const SERVER_ASSIGNMENT: u32 = 301;
    pub const LOCATION_INFO: u32 = 302;
    pub const MULTIMEDIA_AUTH: u32 = 303;
    pub const REGISTRATION_TERMINATION: u32 = 304;
    pub const PUSH_PROFILE: u32 = 305;

    /// Name of the request as the specification abbreviates it; a metric's label.
    pub const fn name(code: u32) -> &'static str {
        match code {
            USER_AUTHORIZATION => "UAR",
            SERVER_ASSIGNMENT => "SAR",
            LOCATION_INFO => "LIR",
            MULTIMEDIA_AUTH => "MAR",
            REGISTRATION_TERMINATION => "RTR",
            PUSH_PROFILE => "PPR",
            _ => "other",
        }
    }
}

/// TS 29.229 §5.6, §6.1: the application as it is announced in CER and CEA.
pub const APPLICATION: Application = Application {
    id: 16_777_216,
    vendor: avp::VENDOR_3GPP,
    supported_vendors: &[avp::VENDOR_3GPP, avp::VENDOR_ETSI],
    commands: &[300, 301, 302, 303, 304, 305],
    user: &[base::USER_NAME, avp::PUBLIC_IDENTITY],
};

/// DIAMETER_ERROR_FEATURE_UNSUPPORTED (TS 29.229 §6.2.2.11).
const FEATURE_UNSUPPORTED: Outcome = Outcome::Experimental(5011);

impl<W> Endpoint<W> {
    pub fn new(config: Config, random: Random, limits: &Limits) -> Self {
        Endpoint {
            diameter: diameter::endpoint::Endpoint::new(config, APPLICATION, random, limits),
            events: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Connects to the configured peers. Call at `Input::Start`.
    pub fn start(&mut self, now: Now, out: &mut Vec<Output>) {
        self.diameter.start(now, out);
    }

    /// TS 29.229 §6.1: sends a request to the best peer that is up, or to the one named. The wait
    /// comes back in [`Event::Answer`], never from inside this call. `limit`: overall, failover
    /// included.
    ///
    /// RTR and PPR go to their own Destination-Host and nowhere else; for the others
    /// `destination_host` is the HSS that answered before, and another one may take its place.
    pub fn ask(
        &mut self,
        now: Now,
        request: Request,
        destination_host: Option<&str>,
        wait: W,
        limit: Duration,
        out: &mut Vec<Output>,
    ) {
        let destination = match (&request, destination_host) {
            (Request::Rtr(rtr), _) => Destination::Only(&rtr.destination_host),
            (Request::Ppr(ppr), _) => Destination::Only(&ppr.destination_host),
            (_, Some(host)) => Destination::Preferred(host),
            (_, None) => Destination::Realm,
        };
        let fill = |builder: &mut Builder| request.encode(builder);
        self.diameter.ask(now, request.command(), destination, fill, wait, limit, out);
        self.pump(out);
    }

    /// TS 29.229 §6.1: answers. Results of 3xxx go out as protocol errors, with the E bit.
    pub fn answer(&mut self, _now: Now, received: Received, answer: Answer, out: &mut Vec<Output>) {
        let reply_to = &received.reply_to;
        let outcome = answer.outcome();
        self.stats.count(Direction::Sent, reply_to.command, outcome);
        match outcome {
            Outcome::Base(code) if result_code::is_protocol_error(code) => {
                self.diameter.refuse(reply_to, &Failure::new(code, ""), |_| {}, out);
            }
            _ => {
                let fill = |builder: &mut Builder| {
                    answer.encode(builder);
                    if received.tells_features {
                        write_supported_features(builder);
                    }
                };
                self.diameter.answer(reply_to, fill, out);
            }
        }
        self.pump(out);
    }

    /// RFC 6733 §6.1.8, TS 23.228 §5.8: an SLF answers with the HSSs that have the user, DiameterURIs in
    /// order of preference. `cache_seconds`: for how long it may be remembered for this user; 0:
    /// not at all.
    pub fn redirect(
        &mut self,
        received: Received,
        hosts: &[String],
        cache_seconds: u32,
        out: &mut Vec<Output>,
    ) {
        let outcome = Outcome::Base(result_code::REDIRECT_INDICATION);
        self.stats.count(Direction::Sent, received.reply_to.command, outcome);
        let failure = Failure::new(result_code::REDIRECT_INDICATION, "");
        let fill = |builder: &mut Builder| {
            for host in hosts {
                builder.text(base::REDIRECT_HOST, host);
            }
            if cache_seconds > 0 {
                builder.number(base::REDIRECT_HOST_USAGE, base::REDIRECT_ALL_USER);
                builder.number(base::REDIRECT_MAX_CACHE_TIME, cache_seconds);
            }
        };
        self.diameter.refuse(&received.reply_to, &failure, fill, out);
        self.pump(out);
    }

    /// Feeds `Diameter`, `Opened`, `ConnectFailed` and `Closed` inputs; others are ignored.
    /// Afterwards call [`Endpoint::next_event`] until `None`.
    pub fn input(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        self.diameter.input(now, input, out);
        self.pump(out);
    }

    /// Fires timers that are due; afterwards call [`Endpoint::next_event`] until `None`.
    pub fn expire(&mut self, now: Now, out: &mut Vec<Output>) {
        self.diameter.expire(now, out);
        self.pump(out);
    }

    pub fn next_event(&mut self) -> Option<Event<W>> {
        self.events.pop_front()
    }

    pub fn next_timeout(&self) -> Option<Now> {
        self.diameter.next_timeout()
    }

    /// Some peer is up.
    pub fn is_up(&self) -> bool {
        self.diameter.is_up()
    }

    /// Says DPR to every peer and takes no new requests.
    pub fn drain(&mut self, now: Now, out: &mut Vec<Output>) {
        self.diameter.drain(now, out);
        self.pump(out);
    }

    /// Requests sent and not ended.
    pub fn owed(&self) -> usize {
        self.diameter.owed()
    }

    pub fn samples(&self, samples: &mut Samples) {
        self.diameter.samples(samples);
        self.stats.samples(samples);
    }

    /// Turns messages into typed events, and answers those that are none.
    fn pump(&mut self, out: &mut Vec<Output>) {
        while let Some(event) = self.diameter.next_event() {
            match event {
                diameter::endpoint::Event::Request(incoming) => self.on_request(incoming, out),
                diameter::endpoint::Event::Answer { wait, command, result, took } => {
                    let result = result.and_then(|message| self.on_answer(command, &message, took));
                    self.events.push_back(Event::Answer { wait, result });
                }
            }
        }
    }

    /// TS 29.229 §6.1: a request; what is malformed is answered here.
    fn on_request(&mut self, incoming: Incoming, out: &mut Vec<Output>) {
        let Incoming { message, origin_host, origin_realm, reply_to } = incoming;
        count(&mut self.stats.requests, reply_to.command);
        let decoded = check_common(&message)
            .and_then(|common| Request::decode(&message).map(|request| (request, common)));
        let (request, common) = match decoded {
            Ok(decoded) => decoded,
            Err(failure) => {
                count(&mut self.stats.malformed_requests, reply_to.command);
                let outcome = Outcome::Base(failure.result_code);
                self.stats.count(Direction::Sent, reply_to.command, outcome);
                tracing::warn!(
                    command = command::name(reply_to.command),
                    %origin_host,
                    result_code = failure.result_code,
                    reason = %failure.message,
                    "cx request refused"
                );
                return self.diameter.refuse(&reply_to, &failure, |_| {}, out);
            }
        };
        if common.requires_unsupported_feature {
            self.stats.count(Direction::Sent, reply_to.command, FEATURE_UNSUPPORTED);
            let fill = |builder: &mut Builder| {
                FEATURE_UNSUPPORTED.encode(builder);
                write_supported_features(builder);
            };
            return self.diameter.answer(&reply_to, fill, out);
        }
        let tells_features = common.tells_features;
        let received = Received { request, origin_host, origin_realm, reply_to, tells_features };
        self.events.push_back(Event::Request(received));
    }

    fn on_answer(
        &mut self,
        command: u32,
        message: &Message,
        took: Duration,
    ) -> Result<Answered, NoAnswer> {
        self.stats.took.entry(command).or_default().observe(took);
        let text = |definition| {
            let found = message.find(definition).and_then(|avp| avp.text().ok());
            found.unwrap_or_default().to_owned()
        };
        match Answer::decode(message) {
            Ok(answer) => {
                self.stats.count(Direction::Received, command, answer.outcome());
                let origin_host = text(base::ORIGIN_HOST);
                let origin_realm = text(base::ORIGIN_REALM);
                Ok(Answered { answer, origin_host, origin_realm })
            }
            Err(failure) => {
                count(&mut self.stats.malformed_answers, command);
                tracing::warn!(
                    command = command::name(command),
                    origin_host = %text(base::ORIGIN_HOST),
                    reason = %failure.message,
                    "cx answer cannot be used"
                );
                Err(NoAnswer::Malformed)
            }
        }
    }
}

impl Request {
    pub fn command(&self) -> u32 {
        match self {
            Request::Uar(_) => command::USER_AUTHORIZATION,
            Request::Sar(_) => command::SERVER_ASSIGNMENT,
            Request::Lir(_) => command::LOCATION_INFO,
            Request::Mar(_) => command::MULTIMEDIA_AUTH,
            Request::Rtr(_) => command::REGISTRATION_TERMINATION,
            Request::Ppr(_) => command::PUSH_PROFILE,
        }
    }

    /// TS 29.229 §6.1: reads a request of the application.
    ///
    /// # Errors
    ///
    /// 3001 for another command; 5001, 5004, 5005, 5009, 5014 for AVPs.
    pub fn decode(message: &Message) -> Result<Request, Failure> {
        match message.header.command {
            command::USER_AUTHORIZATION => Uar::decode(message).map(Request::Uar),
            command::SERVER_ASSIGNMENT => Sar::decode(message).map(Request::Sar),
            command::LOCATION_INFO => Lir::decode(message).map(Request::Lir),
            command::MULTIMEDIA_AUTH => Mar::decode(message).map(Request::Mar),
            command::REGISTRATION_TERMINATION => Rtr::decode(message).map(Request::Rtr),
            command::PUSH_PROFILE => Ppr::decode(message).map(Request::Ppr),
            _ => Err(Failure::new(result_code::COMMAND_UNSUPPORTED, "not a command of Cx")),
        }
    }

    /// TS 29.229 §6.1: the AVPs behind the common ones.
    pub fn encode(&self, builder: &mut Builder) {
        match self {
            Request::Uar(uar) => uar.encode(builder),
            Request::Sar(sar) => sar.encode(builder),
            Request::Lir(lir) => lir.encode(builder),
            Request::Mar(mar) => mar.encode(builder),
            Request::Rtr(rtr) => rtr.encode(builder),
            Request::Ppr(ppr) => ppr.encode(builder),
        }
    }
}

impl Answer {
    pub fn outcome(&self) -> Outcome {
        match self {
            Answer::Uaa(uaa) => uaa.outcome,
            Answer::Maa(maa) => maa.outcome,
            Answer::Saa(saa) => saa.outcome,
            Answer::Lia(lia) => lia.outcome,
            Answer::Rta(rta) => rta.outcome,
            Answer::Ppa(ppa) => ppa.outcome,
        }
    }

    /// TS 29.229 §6.1: reads an answer of the application; one with the E bit and nothing but the
    /// base AVPs too.
    ///
    /// # Errors
    ///
    /// When there is no result or two of them, or when an AVP cannot be what it must be.
    pub fn decode(message: &Message) -> Result<Answer, Failure> {
        match message.header.command {
            command::USER_AUTHORIZATION => Uaa::decode(message).map(Answer::Uaa),
            command::SERVER_ASSIGNMENT => Saa::decode(message).map(Answer::Saa),
            command::LOCATION_INFO => Lia::decode(message).map(Answer::Lia),
            command::MULTIMEDIA_AUTH => Maa::decode(message).map(Answer::Maa),
            command::REGISTRATION_TERMINATION => Rta::decode(message).map(Answer::Rta),
            command::PUSH_PROFILE => Ppa::decode(message).map(Answer::Ppa),
            _ => Err(Failure::new(result_code::COMMAND_UNSUPPORTED, "not a command of Cx")),
        }
    }

    /// TS 29.229 §6.1: the AVPs behind the common ones, the result first.
    pub fn encode(&self, builder: &mut Builder) {
        match self {
            Answer::Uaa(uaa) => uaa.encode(builder),
            Answer::Maa(maa) => maa.encode(builder),
            Answer::Saa(saa) => saa.encode(builder),
            Answer::Lia(lia) => lia.encode(builder),
            Answer::Rta(rta) => rta.encode(builder),
            Answer::Ppa(ppa) => ppa.encode(builder),
        }
    }
}

impl Outcome {
    /// TS 29.229 §6.2: Result-Code or Experimental-Result, never both.
    pub fn encode(self, builder: &mut Builder) {
        match self {
            Outcome::Base(code) => builder.number(base::RESULT_CODE, code),
            Outcome::Experimental(code) => builder.group(base::EXPERIMENTAL_RESULT, |group| {
                group.number(base::VENDOR_ID, avp::VENDOR_3GPP);
                group.number(base::EXPERIMENTAL_RESULT_CODE, code);
            }),
        }
    }

    /// As a metric's label: `2001`, `experimental-2001`.
    fn label(self) -> String {
        match self {
            Outcome::Base(code) => code.to_string(),
            Outcome::Experimental(code) => format!("experimental-{code}"),
        }
    }
}

/// What an answer says until it says something else.
impl Default for Outcome {
    fn default() -> Outcome {
        Outcome::UNABLE_TO_COMPLY
    }
}

/// Collects the result of an answer while its AVPs are walked.
#[derive(Default)]
struct Results {
    base: Option<u32>,
    experimental: Option<u32>,
}

impl Results {
    /// Takes the AVP when it is a result. Others are passed over, unknown mandatory ones too: an
    /// answer cannot be refused, and what it says can be used without them.
    fn take(&mut self, avp: &Avp<'_>) -> Result<(), Failure> {
        if avp.is(base::RESULT_CODE) {
            self.base = Some(avp.number()?);
        } else if avp.is(base::EXPERIMENTAL_RESULT) {
            for inner in avp.group()? {
                if inner.is(base::EXPERIMENTAL_RESULT_CODE) {
                    self.experimental = Some(inner.number()?);
                } else if inner.is(base::VENDOR_ID) && inner.number()? != avp::VENDOR_3GPP {
                    let message = "Experimental-Result of another vendor";
                    return Err(Failure::new(result_code::INVALID_AVP_VALUE, message));
                }
            }
        }
        Ok(())
    }

    /// TS 29.229 §6.2: exactly one of the two.
    fn outcome(&self) -> Result<Outcome, Failure> {
        match (self.base, self.experimental) {
            (Some(code), None) => Ok(Outcome::Base(code)),
            (None, Some(code)) => Ok(Outcome::Experimental(code)),
            (None, None) => Err(Failure::missing(base::RESULT_CODE)),
            (Some(_), Some(_)) => Err(Failure::new(
                result_code::CONTRADICTING_AVPS,
                "both Result-Code and Experimental-Result",
            )),
        }
    }
}

/// What requests have in common.
struct Common {
    /// TS 29.229 §7.1: a feature that the sender cannot do without, and we do.
    requires_unsupported_feature: bool,
    tells_features: bool,
}

/// TS 29.229 §6.1, §7.1: Vendor-Specific-Application-Id and Auth-Session-State must be there.
fn check_common(message: &Message) -> Result<Common, Failure> {
    let (mut has_application, mut has_session_state) = (false, false);
    let (mut requires_unsupported_feature, mut tells_features) = (false, false);
    for avp in message.avps() {
        if avp.is(base::VENDOR_SPECIFIC_APPLICATION_ID) {
            has_application = true;
        } else if avp.is(base::AUTH_SESSION_STATE) {
            has_session_state = true;
        } else if avp.is(avp::SUPPORTED_FEATURES) {
            tells_features = true;
            requires_unsupported_feature |= avp.is_mandatory() && !is_supported(&avp)?;
        }
    }
    if !has_application {
        return Err(Failure::missing(base::VENDOR_SPECIFIC_APPLICATION_ID));
    }
    if !has_session_state {
        return Err(Failure::missing(base::AUTH_SESSION_STATE));
    }
    Ok(Common { requires_unsupported_feature, tells_features })
}

/// TS 29.229 §7.1.1: all features of the list are ours.
fn is_supported(features: &Avp<'_>) -> Result<bool, Failure> {
    let mut list = 0;
    for avp in features.group()? {
        if avp.is(avp::FEATURE_LIST) {
            list = avp.number()?;
        }
    }
    Ok(list & !avp::SUPPORTED_FEATURE_LIST == 0)
}

/// TS 29.229 §6.3.29: what we support, M clear.
fn write_supported_features(builder: &mut Builder) {
    builder.group(avp::SUPPORTED_FEATURES, |group| {
        group.number(base::VENDOR_ID, avp::VENDOR_3GPP);
        group.number(avp::FEATURE_LIST_ID, 1);
        group.number(avp::FEATURE_LIST, avp::SUPPORTED_FEATURE_LIST);
    });
}

/// Bytes of a message as the peer would see them, for tests of other crates.
pub type Raw = (ConnectionId, Bytes);
