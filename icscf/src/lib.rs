//! Interrogating CSCF (TS 24.229 §5.3): finds the S-CSCF of a subscriber.
//!
//! | on | clause | function |
//! |---|---|---|
//! | REGISTER | TS 24.229 §5.3.1.2 | `Icscf::register` |
//! |   answer to the UAR | TS 24.229 §5.3.1.2 | `Icscf::register_authorised` |
//! |   address of the S-CSCF | RFC 3263 §4 | `Icscf::register_located` |
//! |   answer of the S-CSCF | TS 24.229 §5.3.1.2, §5.3.1.3 | `Icscf::register_answered` |
//! | other initial requests | TS 24.229 §5.3.2.1 | `Icscf::session` |
//! |   answer to the LIR | TS 24.229 §5.3.2.1 | `Icscf::session_told` |
//! |   address of the S-CSCF | RFC 3263 §4 | `Icscf::session_located` |
//! |   answer of the S-CSCF | TS 24.229 §5.3.2.1, §5.3.2.2 | `Icscf::session_answered` |
//! | OPTIONS to this node | RFC 3261 §11 | `Icscf::session` |
//!
//! Choice of an S-CSCF: [`selection`]. Nothing here is durable.
//!
//! NOT DONE: TS 24.229 §5.3.2.1: no ENUM or breakout for telephone numbers unknown to the HSS:
//! they are answered 404.

pub mod config;
#[cfg(feature = "daemon")]
mod daemon;
mod location;
mod register;
pub mod selection;
mod session;
mod stats;

use std::borrow::Cow;

use common::cx;
use common::identity::logged;
use common::node::{Flow, Input, Node, Now, Output};
use common::random::Random;
use common::sip::endpoint::{Branch, Endpoint, Event, Incoming, NoReply, Segment};
use common::sip::header::Name;
use common::sip::locator::{Located, Locator};
use common::sip::message::{Method, Response};
use common::sip::uri::{Host, HostPort, Uri};
use common::stats::Samples;

pub use config::Config;
use location::OnLocated;
use selection::Selection;
use stats::Stats;

/// How many requests may wait for the addresses of one S-CSCF.
const WAITING_FOR_ADDRESSES_LIMIT: usize = 10_000;
/// Seconds after which a refused client may come again.
const RETRY_AFTER_SECONDS: &str = "5";

/// The core.
#[derive(Debug)]
pub struct Icscf {
    config: Config,
    /// `config.sip.name`, read.
    own_host: Host,
    sip: Endpoint<OnReply>,
    cx: cx::Endpoint<OnAnswer>,
    locator: Locator<OnLocated>,
    selection: Selection,
    random: Random,
    stats: Stats,
    is_draining: bool,
    has_said_goodbye: bool,
}

/// What waits for the answer to a forwarded request. Variant `RegisterAnswered` is delivered to
/// `register_answered`.
#[derive(Debug)]
enum OnReply {
    RegisterAnswered(Box<register::Forwarded>),
    SessionAnswered(Box<session::Forwarded>),
}

/// What waits for an answer of the HSS.
#[derive(Debug)]
enum OnAnswer {
    RegisterAuthorised(Box<register::Authorising>),
    SessionTold(Box<session::Asking>),
}

impl Icscf {
    /// `seed` decides everything that is drawn.
    pub fn new(config: Config, seed: [u8; 32]) -> Result<Icscf, String> {
        if let Some(problem) = config.problems().into_iter().next() {
            return Err(problem);
        }
        let own = HostPort::parse(&config.sip.name);
        let own_host = own.map_err(|_| "sip.name cannot be read".to_owned())?.host;
        let mut random = Random::from_seed(seed);
        Ok(Icscf {
            sip: Endpoint::new(random.fork(), &config.limits),
            cx: cx::Endpoint::new(config.diameter.clone(), random.fork(), &config.limits),
            locator: Locator::new(
                location::preference(&config.sip.listen),
                random.fork(),
                WAITING_FOR_ADDRESSES_LIMIT,
            ),
            selection: Selection::new(&config.scscf),
            random,
            stats: Stats::default(),
            is_draining: false,
            has_said_goodbye: false,
            own_host,
            config,
        })
    }

    fn on_sip(&mut self, now: Now, event: Event<OnReply>, out: &mut Vec<Output>) {
        match event {
            Event::Request(incoming) if self.is_draining => {
                self.refuse_draining(now, incoming, out)
            }
            Event::Request(incoming) => match incoming.request().method() {
                Method::Register => self.register(now, incoming, out),
                _ => self.session(now, incoming, out),
            },
            // An ACK for a 2xx goes from end to end and is not ours: no Record-Route was added.
            Event::Ack { .. } => {}
            Event::Provisional(branch, response) => self.sip.relay(now, branch, response, out),
            Event::Reply(branch, result) => self.on_reply(now, branch, result, out),
        }
    }

    fn on_reply(
        &mut self,
        now: Now,
        branch: Branch<OnReply>,
        result: Result<Response, NoReply>,
        out: &mut Vec<Output>,
    ) {
        match &branch.wait {
            OnReply::RegisterAnswered(_) => self.register_answered(now, branch, result, out),
            OnReply::SessionAnswered(_) => self.session_answered(now, branch, result, out),
        }
    }

    fn on_cx(&mut self, now: Now, event: cx::Event<OnAnswer>, out: &mut Vec<Output>) {
        match event {
            cx::Event::Answer { wait: OnAnswer::RegisterAuthorised(wait), result } => {
                self.register_authorised(now, *wait, result, out);
            }
            cx::Event::Answer { wait: OnAnswer::SessionTold(wait), result } => {
                self.session_told(now, *wait, result, out);
            }
            cx::Event::Request(received) => {
                // The HSS asks S-CSCFs only (TS 29.228 §6.1.3, §6.2.2).
                let answer = match &received.request {
                    cx::Request::Rtr(_) => cx::Answer::Rta(cx::Rta {
                        outcome: cx::Outcome::UNABLE_TO_COMPLY,
                        associated_identities: Vec::new(),
                        emergency_registrations: Vec::new(),
                    }),
                    _ => cx::Answer::Ppa(cx::Ppa { outcome: cx::Outcome::UNABLE_TO_COMPLY }),
                };
                tracing::warn!(origin_host = %received.origin_host, "asked as an S-CSCF");
                self.cx.answer(now, received, answer, out);
            }
        }
    }

    fn on_located(&mut self, now: Now, wait: OnLocated, found: Located, out: &mut Vec<Output>) {
        match wait {
            OnLocated::Register(wait) => self.register_located(now, *wait, found, out),
            OnLocated::Session(wait) => self.session_located(now, *wait, found, out),
        }
    }

    fn drain_sip(&mut self, now: Now, out: &mut Vec<Output>) {
        while let Some(event) = self.sip.expire(now, out) {
            self.on_sip(now, event, out);
        }
    }

    fn drain_cx(&mut self, now: Now, out: &mut Vec<Output>) {
        while let Some(event) = self.cx.next_event() {
            self.on_cx(now, event, out);
        }
    }

    fn on_unreachable(&mut self, now: Now, flow: Flow, out: &mut Vec<Output>) {
        while let Some(event) = self.sip.unreachable(now, flow, out) {
            self.on_sip(now, event, out);
        }
    }

    fn refuse_draining(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let mut response = incoming.request().response(503, "Service Unavailable");
        response.headers_mut().append(Name::RetryAfter, RETRY_AFTER_SECONDS);
        self.stats.draining += 1;
        self.sip.respond(now, incoming, response, out);
    }

    fn admin(&self, now: Now, command: &[String]) -> String {
        match command.first().map(String::as_str) {
            Some("servers") => self.selection.describe(now),
            _ => "commands:\n  servers    the S-CSCFs, and which were silent lately\n".to_owned(),
        }
    }

    /// Whether a URI names this node itself.
    fn is_own(&self, uri: &Uri) -> bool {
        let Some(host_port) = &uri.host_port else { return false };
        if host_port.host == self.own_host {
            return true;
        }
        let Host::Address(address) = host_port.host else { return false };
        let listen = &self.config.sip.listen;
        let port = host_port.port.unwrap_or(5060);
        listen.udp.iter().chain(&listen.tcp).any(|own| own.ip() == address && own.port() == port)
    }

    /// Whether a URI is of the home domain.
    fn is_home(&self, uri: &Uri) -> bool {
        match uri.host_port.as_ref().map(|host_port| &host_port.host) {
            Some(Host::Name(name)) => name.eq_ignore_ascii_case(&self.config.home_domain),
            Some(Host::Address(address)) => address.to_string() == self.config.home_domain,
            None => false,
        }
    }

    /// An identity as it may stand in a log line.
    fn logged<'a>(&self, identity: &'a str) -> Cow<'a, str> {
        logged(identity, self.config.log_identities)
    }
}

impl Node for Icscf {
    fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Start { .. } => self.cx.start(now, out),
            Input::Sip { flow, bytes } => {
                if let Some(event) = self.sip.receive(now, flow, bytes, Segment::Core, out) {
                    self.on_sip(now, event, out);
                }
            }
            Input::Unreachable { flow } => self.on_unreachable(now, flow, out),
            Input::Ended { flow } => {
                self.sip.ended(flow);
                self.on_unreachable(now, flow, out);
            }
            Input::Diameter { .. }
            | Input::Opened { .. }
            | Input::ConnectFailed { .. }
            | Input::Closed { .. } => self.cx.input(now, input, out),
            Input::Resolved { id, answer } => self.resolved(now, id, answer, out),
            Input::SasInstalled { .. } | Input::SasAudited { .. } | Input::SasExpired { .. } => {}
            Input::Admin { id, command } => {
                let text = self.admin(now, &command);
                out.push(Output::Reply { id, text });
            }
            Input::Drain => self.is_draining = true,
            Input::Timeout => {
                self.drain_sip(now, out);
                self.cx.expire(now, out);
            }
        }
        self.drain_cx(now, out);
        if self.is_draining && !self.has_said_goodbye && self.owed() == 0 {
            self.has_said_goodbye = true;
            self.cx.drain(now, out);
        }
    }

    fn next_timeout(&self) -> Option<Now> {
        [self.sip.next_timeout(), self.cx.next_timeout()].into_iter().flatten().min()
    }

    fn samples(&self, samples: &mut Samples) {
        self.stats.samples(samples);
        self.sip.samples(samples);
        self.cx.samples(samples);
    }

    fn ready(&self) -> Result<(), String> {
        match (self.is_draining, self.cx.is_up()) {
            (true, _) => Err("draining".to_owned()),
            (_, false) => Err("no HSS is connected".to_owned()),
            _ => Ok(()),
        }
    }

    fn owed(&self) -> usize {
        self.sip.owed() + self.cx.owed() + self.locator.owed()
    }
}
