//! Serving CSCF (TS 24.229 §5.4): authenticates and registers subscribers.
//!
//! | on | clause | function |
//! |---|---|---|
//! | REGISTER | TS 24.229 §5.4.1.2 | `Scscf::register`, then `register_in_turn` |
//! |   to be challenged | TS 24.229 §5.4.1.2.1 | `Scscf::ask_for_vector` |
//! |   answer to the MAR | TS 24.229 §5.4.1.2.1 | `Scscf::vector_received` |
//! |   answer to the challenge | TS 24.229 §5.4.1.2.2 | `Scscf::verify` |
//! |   accepted | TS 24.229 §5.4.1.2.2 | `Scscf::ask_for_assignment` |
//! |   answer to the SAR | TS 24.229 §5.4.1.2.2 | `Scscf::assigned` |
//! | of a user registered elsewhere | TS 23.380 §4 | `Scscf::ask_for_restoration` |
//! |   answer to the SAR | TS 23.380 §4 | `Scscf::restored` |
//! | no answer to the challenge in time | TS 24.229 §5.4.1.2.3 | `Scscf::challenge_lapsed` |
//! | deregistration by the user | TS 24.229 §5.4.1.4 | `Scscf::deregister` |
//! | expiry | TS 24.229 §5.4.1.5 | `Scscf::expire` |
//! | RTR | TS 24.229 §5.4.1.5, TS 29.228 §6.1.3 | `Scscf::terminate` |
//! | PPR | TS 29.228 §6.2.2 | `Scscf::push_profile` |
//! | any other request | RFC 3261 §8.2.1, §11 | `Scscf::other` |
//!
//! REGISTERs, expiries and terminations of one private identity run one at a time
//! ([`Turns`]). What survives a restart is in [`state`]; challenges do not.
//!
//! NOT DONE: TS 24.229 §5.4.3: originating and terminating sessions are answered 480 or 404.
//! NOT DONE: TS 24.229 §5.4.2: subscriptions to the registration state are answered 489.
//! NOT DONE: TS 24.229 §5.4.1.7: no third-party registration with application servers.
//! NOT DONE: TS 24.229 §5.4.1.2.2A: SIP digest is out of scope.
//! NOT DONE: RFC 5627 §5: no GRUUs are handed out.

pub mod config;
#[cfg(feature = "daemon")]
mod daemon;

mod admin;
mod answer;
mod assign;
mod authenticate;
mod contacts;
mod deregister;
mod other;
mod profile;
mod register;
mod restore;
pub mod state;
mod stats;
mod terminate;

use std::borrow::Cow;
use std::collections::HashMap;

use common::cx;
use common::cx::sar::ServerAssignmentType;
use common::identity::{Impi, Impu, logged};
use common::node::{Flow, Input, Node, Now, Output, StoredRecord};
use common::random::Random;
use common::sip::endpoint::{Endpoint, Event, Incoming, Segment};
use common::sip::header::Name;
use common::sip::message::Method;
use common::sip::uri::{Host, HostPort, Uri};
use common::stats::Samples;
use common::timers::Timers;
use common::turns::{Turn, Turns};

pub use config::Config;
use state::Registrations;
use stats::Stats;

/// Seconds after which a refused client may come again.
const RETRY_AFTER_SECONDS: &str = "5";

/// The core.
#[derive(Debug)]
pub struct Scscf {
    config: Config,
    own: Own,
    sip: Endpoint<NoWait>,
    cx: cx::Endpoint<OnAnswer>,
    turns: Turns<Impi, Job>,
    registrations: Registrations,
    /// Running challenges. Not durable.
    challenges: HashMap<Impi, authenticate::Challenge>,
    timers: Timers<Timer>,
    stats: Stats,
    is_draining: bool,
    has_said_goodbye: bool,
}

/// What follows from the configuration.
#[derive(Debug)]
struct Own {
    /// Host of `sip.name`.
    host: Host,
    /// Server-Name on Cx.
    server_name: String,
    /// Host of the Server-Name.
    server_host: Host,
    /// As it stands in the 200.
    service_route: String,
}

/// Nothing is forwarded or sent yet, so nothing waits for a SIP answer.
#[derive(Debug)]
enum NoWait {}

/// What waits for an answer of the HSS.
#[derive(Debug)]
enum OnAnswer {
    VectorReceived(Box<authenticate::Challenging>),
    Assigned(Box<assign::Assigning>),
    Restored(Box<restore::Restoring>),
    Deregistered(Box<deregister::Deregistering>),
    /// The HSS was told how an authentication ended; its answer is for the log.
    Told {
        private_identity: Impi,
        assignment_type: ServerAssignmentType,
    },
}

/// What takes its turn among others of the same private identity.
#[derive(Debug)]
enum Job {
    Register(Box<register::Registering>),
    Expire {
        set: Impu,
    },
    Terminate(Box<terminate::Terminating>),
    /// An operator's `deregister`; the number is that of the command.
    Administer {
        id: u64,
    },
}

/// Timers that do not belong to a registration.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Timer {
    /// When this fires, a challenge was not answered in time (reg-await-auth).
    Challenge(Impi),
    /// Until this fires, it is remembered that a challenge lapsed.
    Lapsed(Impi),
}

impl Scscf {
    /// `seed` decides everything that is drawn.
    pub fn new(config: Config, seed: [u8; 32]) -> Result<Scscf, String> {
        if let Some(problem) = config.problems().into_iter().next() {
            return Err(problem);
        }
        let mut random = Random::from_seed(seed);
        Ok(Scscf {
            own: Own::of(&config)?,
            sip: Endpoint::new(random.fork(), &config.limits),
            cx: cx::Endpoint::new(config.diameter.clone(), random.fork(), &config.limits),
            turns: Turns::new(config.limits.waiting_per_identity),
            registrations: Registrations::default(),
            challenges: HashMap::new(),
            timers: Timers::new(),
            stats: Stats::default(),
            is_draining: false,
            has_said_goodbye: false,
            config,
        })
    }

    fn start(&mut self, now: Now, records: &[StoredRecord], out: &mut Vec<Output>) {
        for record in records {
            if let Err(reason) = self.registrations.restore(record) {
                self.stats.unreadable_records += 1;
                tracing::warn!(key = record.key, reason, "a stored registration cannot be read");
            }
        }
        tracing::info!(registrations = self.registrations.len(), "registrations read back");
        self.cx.start(now, out);
        self.expire_due(now, out);
    }

    fn on_sip(&mut self, now: Now, event: Event<NoWait>, out: &mut Vec<Output>) {
        match event {
            Event::Request(incoming) if self.is_draining => {
                self.refuse_draining(now, incoming, out)
            }
            Event::Request(incoming) => match incoming.request().method() {
                Method::Register => self.register(now, incoming, out),
                _ => self.other(now, incoming, out),
            },
            Event::Ack { .. } => {}
            Event::Provisional(branch, _) | Event::Reply(branch, _) => match branch.wait {},
        }
    }

    fn on_cx(&mut self, now: Now, event: cx::Event<OnAnswer>, out: &mut Vec<Output>) {
        match event {
            cx::Event::Answer { wait, result } => match wait {
                OnAnswer::VectorReceived(wait) => self.vector_received(now, *wait, result, out),
                OnAnswer::Assigned(wait) => self.assigned(now, *wait, result, out),
                OnAnswer::Restored(wait) => self.restored(now, *wait, result, out),
                OnAnswer::Deregistered(wait) => self.deregistered(now, *wait, result, out),
                OnAnswer::Told { private_identity, assignment_type } => {
                    self.told(&private_identity, assignment_type, result);
                }
            },
            cx::Event::Request(received) => match received.request {
                cx::Request::Rtr(_) => self.terminate(now, received, out),
                cx::Request::Ppr(_) => self.push_profile(now, received, out),
                // The endpoint takes no other command from an HSS.
                _ => {
                    let answer =
                        cx::Answer::Ppa(cx::Ppa { outcome: cx::Outcome::UNABLE_TO_COMPLY });
                    self.cx.answer(now, received, answer, out);
                }
            },
        }
    }

    /// Runs a job now or later; gives it back when the line of its identity is full.
    fn begin(
        &mut self,
        now: Now,
        private_identity: &Impi,
        job: Job,
        out: &mut Vec<Output>,
    ) -> Option<Job> {
        match self.turns.take(private_identity, job) {
            Turn::Now(job) => {
                self.run(now, private_identity, job, out);
                None
            }
            Turn::Later => None,
            Turn::Refused(job) => Some(job),
        }
    }

    fn run(&mut self, now: Now, private_identity: &Impi, job: Job, out: &mut Vec<Output>) {
        match job {
            Job::Register(registering) => self.register_in_turn(now, *registering, out),
            Job::Expire { set } => self.expire(now, private_identity, &set, out),
            Job::Terminate(terminating) => {
                self.terminate_in_turn(now, private_identity, *terminating, out);
            }
            Job::Administer { id } => self.deregister_by_operator(now, private_identity, id, out),
        }
    }

    /// A job has ended: the next in line of its identity begins.
    fn finish(&mut self, now: Now, private_identity: &Impi, out: &mut Vec<Output>) {
        if let Some(job) = self.turns.done(private_identity) {
            self.run(now, private_identity, job, out);
        }
    }

    fn expire_due(&mut self, now: Now, out: &mut Vec<Output>) {
        while let Some((private_identity, set)) = self.registrations.expired(now) {
            let job = Job::Expire { set: set.clone() };
            if self.begin(now, &private_identity, job, out).is_some() {
                let later = now + self.config.timeouts.hss();
                self.registrations.look_again(private_identity, set, later);
            }
        }
        while let Some(timer) = self.timers.expired(now) {
            match timer {
                Timer::Challenge(private_identity) => {
                    self.challenge_lapsed(now, private_identity, out);
                }
                Timer::Lapsed(_) => {}
            }
        }
    }

    fn refuse_draining(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let mut response = incoming.request().response(503, "Service Unavailable");
        response.headers_mut().append(Name::RetryAfter, RETRY_AFTER_SECONDS);
        self.stats.draining += 1;
        self.sip.respond(now, incoming, response, out);
    }

    /// Whether a Request-URI is one that REGISTERs for this node carry.
    fn is_ours(&self, uri: &Uri) -> bool {
        let Some(host_port) = &uri.host_port else { return false };
        let host = &host_port.host;
        *host == self.own.host || *host == self.own.server_host || self.is_listened_on(host)
    }

    fn is_listened_on(&self, host: &Host) -> bool {
        let Host::Address(address) = host else { return false };
        let listen = &self.config.sip.listen;
        listen.udp.iter().chain(&listen.tcp).any(|own| own.ip() == *address)
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

impl Own {
    fn of(config: &Config) -> Result<Own, String> {
        let host = HostPort::parse(&config.sip.name);
        let host = host.map_err(|_| "sip.name cannot be read".to_owned())?.host;
        let server_name = config.server_name();
        let host_port = Uri::parse(&server_name).ok().and_then(|uri| uri.host_port);
        let host_port = host_port.ok_or("sip.server_name has no host")?;
        let service_route = format!("<sip:orig@{host_port};lr>");
        Ok(Own { host, server_name, server_host: host_port.host, service_route })
    }
}

impl Node for Scscf {
    fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Start { records } => self.start(now, &records, out),
            Input::Sip { flow, bytes } => {
                if let Some(event) = self.sip.receive(now, flow, bytes, Segment::Core, out) {
                    self.on_sip(now, event, out);
                }
            }
            Input::Unreachable { flow } => self.on_unreachable(now, flow, out),
            Input::Diameter { .. }
            | Input::Opened { .. }
            | Input::ConnectFailed { .. }
            | Input::Closed { .. } => self.cx.input(now, input, out),
            // Nothing is looked up or secured here.
            Input::Resolved { .. }
            | Input::SasInstalled { .. }
            | Input::SasAudited { .. }
            | Input::SasExpired { .. } => {}
            Input::Admin { id, command } => self.administer(now, id, &command, out),
            Input::Drain => self.is_draining = true,
            Input::Timeout => {
                while let Some(event) = self.sip.expire(now, out) {
                    self.on_sip(now, event, out);
                }
                self.cx.expire(now, out);
                self.expire_due(now, out);
            }
        }
        while let Some(event) = self.cx.next_event() {
            self.on_cx(now, event, out);
        }
        if self.is_draining && !self.has_said_goodbye && self.owed() == 0 {
            self.has_said_goodbye = true;
            self.cx.drain(now, out);
        }
    }

    fn next_timeout(&self) -> Option<Now> {
        let owners = [
            self.sip.next_timeout(),
            self.cx.next_timeout(),
            self.registrations.next_timeout(),
            self.timers.next(),
        ];
        owners.into_iter().flatten().min()
    }

    fn samples(&self, samples: &mut Samples) {
        self.stats.samples(samples);
        samples.gauge(
            "tessera_scscf_registrations",
            "Private identities registered, times implicit sets",
            &[],
            self.registrations.len() as f64,
        );
        samples.gauge(
            "tessera_scscf_challenges",
            "Challenges that wait for their answer",
            &[],
            self.challenges.len() as f64,
        );
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
        self.sip.owed() + self.cx.owed() + self.turns.len()
    }
}

impl Scscf {
    fn on_unreachable(&mut self, now: Now, flow: Flow, out: &mut Vec<Output>) {
        while let Some(event) = self.sip.unreachable(now, flow, out) {
            self.on_sip(now, event, out);
        }
    }
}
