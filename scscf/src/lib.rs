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
//! |   by SIP Digest or the address of the bearer | TS 24.229 §5.4.1.2.1A, §5.4.1.2.1E | `Scscf::schemes_for` |
//! | of a user registered elsewhere | TS 23.380 §4 | `Scscf::ask_for_restoration` |
//! |   answer to the SAR | TS 23.380 §4 | `Scscf::restored` |
//! | no answer to the challenge in time | TS 24.229 §5.4.1.2.3 | `Scscf::challenge_lapsed` |
//! | deregistration by the user | TS 24.229 §5.4.1.4 | `Scscf::deregister` |
//! | expiry | TS 24.229 §5.4.1.5 | `Scscf::expire` |
//! | RTR | TS 24.229 §5.4.1.5, TS 29.228 §6.1.3 | `Scscf::terminate` |
//! | PPR | TS 29.228 §6.2.2 | `Scscf::push_profile` |
//! | SUBSCRIBE | TS 24.229 §5.4.2.1.1 | `Scscf::subscribe` |
//! |   whose registration has just ended | TS 24.229 §5.4.1.5, §5.4.2.1.2 | `Scscf::ends_of` |
//! | a registration has changed | TS 24.229 §5.4.2.1.2 | `Scscf::store`, `Scscf::remove`, then `notify_due` |
//! |   place of a watcher, its answer | TS 24.229 §5.4.2.1.2 | `Scscf::notify_located`, `Scscf::notified` |
//! | registered, or no more | TS 24.229 §5.4.1.7 | `Scscf::notices_of`, then `tell_server` |
//! |   answer of an application server | TS 24.229 §5.4.1.7 | `Scscf::server_answered` |
//! | GRUUs | TS 24.229 §5.4.7A, RFC 5627 §5 | `Scscf::assign_gruus`, `Scscf::find_gruu` |
//! | any other request | RFC 3261 §8.2.1, §11 | `Scscf::other` |
//!
//! REGISTERs, expiries and terminations of one private identity run one at a time
//! ([`Turns`]). What survives a restart is in [`state`]; challenges do not.
//!
//! NOT DONE: TS 24.229 §5.4.3: originating and terminating sessions are answered 480 or 404.

mod challenges;
pub mod config;
#[cfg(feature = "daemon")]
mod daemon;

mod admin;
mod answer;
mod assign;
mod authenticate;
mod contacts;
mod deregister;
mod ends;
mod filter_criteria;
mod gruu;
mod notify;
mod other;
mod other_schemes;
mod places;
mod profile;
mod register;
mod restore;
pub mod state;
mod stats;
mod subscribe;
mod subscriptions;
mod terminate;
mod third_party;
mod watch;

use std::borrow::Cow;
use std::collections::HashMap;

use common::cx;
use common::cx::sar::ServerAssignmentType;
use common::identity::{Impi, Impu, logged};
use common::node::{Flow, Input, Node, Now, Output, StoredRecord};
use common::random::Random;
use common::sip::endpoint::{Endpoint, Event, Incoming, Segment};
use common::sip::header::Name;
use common::sip::locator::{Located, Locator};
use common::sip::message::Method;
use common::sip::uri::{Host, HostPort, Uri};
use common::stats::Samples;
use common::timers::Timers;
use common::turns::{Turn, Turns};

pub use config::Config;
use filter_criteria::SharedSets;
use state::Registrations;
use stats::Stats;
use subscriptions::Subscriptions;

/// Seconds after which a refused client may come again.
const RETRY_AFTER_SECONDS: &str = "5";

/// The core.
#[derive(Debug)]
pub struct Scscf {
    config: Config,
    own: Own,
    sip: Endpoint<OnReply>,
    locator: Locator<OnPlace>,
    cx: cx::Endpoint<OnAnswer>,
    turns: Turns<Impi, Job>,
    /// Third-party REGISTERs under way, by identity and server.
    telling: Turns<(Impu, String), third_party::Notice>,
    /// The newest notice of each line that is full; there are no more than lines.
    crowded: HashMap<(Impu, String), third_party::Notice>,
    registrations: Registrations,
    subscriptions: Subscriptions,
    /// What watchers that come too late are told. Not durable.
    ends: ends::Ends,
    gruu_keys: gruu::Keys,
    random: Random,
    /// Running challenges. Not durable.
    challenges: challenges::Challenges,
    /// Nonces of SIP Digest that may be used again. Not durable.
    nonces: HashMap<Impi, other_schemes::Nonce>,
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
    /// Filter criteria that profiles name by number.
    shared_criteria: SharedSets,
}

/// What waits for the answer to a request of our own.
#[derive(Debug)]
enum OnReply {
    Notified(Box<notify::Notifying>),
    ServerAnswered(Box<third_party::Notice>),
}

/// What waits for the place that a request of our own goes to.
#[derive(Debug)]
enum OnPlace {
    NotifyLocated(Box<notify::Notifying>),
    ServerLocated(Box<third_party::Notice>),
}

/// What waits for an answer of the HSS.
#[derive(Debug)]
enum OnAnswer {
    VectorReceived(Box<authenticate::Challenging>),
    Assigned(Box<assign::Assigning>),
    Restored(Box<restore::Restoring>),
    /// An assignment that could not be used; what is owed to the HSS when it has not heard that.
    GivenBack(Box<state::Registration>),
    Deregistered(Box<deregister::Deregistering>),
    BackedUp {
        private_identity: Impi,
    },
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
    /// Leaves watchers with the HSS (TS 23.380 §4.4).
    BackUp {
        set: Impu,
    },
    /// An operator's `deregister`; the number is that of the command, and watchers are told the cause.
    Administer {
        id: u64,
        told: watch::Cause,
    },
    /// An application server without which there is no registration has failed.
    ServerFailed {
        made_by: third_party::Occurrence,
    },
    /// An operator's `reauthenticate`.
    Reauthenticate {
        id: u64,
        within_seconds: Option<u32>,
    },
}

/// Timers that do not belong to a registration.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Timer {
    /// When this fires, a challenge was not answered in time (reg-await-auth).
    Challenge(Impi, String),
    /// When this fires, a nonce of SIP Digest is good no more.
    Nonce(Impi),
    /// Until this fires, it is remembered that a challenge lapsed.
    Lapsed(Impi),
    /// When this fires, watchers of a set are left with the HSS.
    BackUp(Impi, Impu),
    /// Until this fires, it is remembered that the network has ended a registration.
    End(u64),
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
            locator: Locator::new(
                places::preference(&config.sip.listen),
                random.fork(),
                config.limits.sip_transactions,
            ),
            cx: cx::Endpoint::new(config.diameter.clone(), random.fork(), &config.limits),
            turns: Turns::new(config.limits.waiting_per_identity),
            telling: Turns::new(config.limits.waiting_per_identity),
            crowded: HashMap::new(),
            registrations: Registrations::default(),
            subscriptions: Subscriptions::default(),
            ends: ends::Ends::default(),
            gruu_keys: gruu::Keys::draw(
                &mut random.fork(),
                config.registration.gruu_namespace.as_deref(),
                &config.home_domain,
            ),
            challenges: challenges::Challenges::default(),
            nonces: HashMap::new(),
            timers: Timers::new(),
            stats: Stats::default(),
            is_draining: false,
            has_said_goodbye: false,
            random,
            config,
        })
    }

    fn start(&mut self, now: Now, records: &[StoredRecord], out: &mut Vec<Output>) {
        for record in records {
            let restored = match record.kind.as_str() {
                subscriptions::KIND => self.subscriptions.restore(record),
                gruu::KIND => self.gruu_keys.restore(record),
                _ => self.registrations.restore(record),
            };
            if let Err(reason) = restored {
                self.stats.unreadable_records += 1;
                tracing::warn!(kind = record.kind, key = record.key, reason, "cannot be read back");
            }
        }
        tracing::info!(
            registrations = self.registrations.len(),
            subscriptions = self.subscriptions.len(),
            "read back"
        );
        self.cx.start(now, out);
        self.expire_due(now, out);
    }

    fn on_sip(&mut self, now: Now, event: Event<OnReply>, out: &mut Vec<Output>) {
        match event {
            Event::Request(incoming) => match incoming.request().method() {
                Method::Register => self.register(now, incoming, out),
                _ if self.is_draining => self.refuse_draining(now, incoming, out),
                Method::Subscribe => self.subscribe(now, incoming, out),
                _ => self.other(now, incoming, out),
            },
            Event::Ack { .. } => {}
            Event::Provisional(branch, _) => self.sip.keep(branch),
            Event::Reply(branch, result) => match branch.wait {
                OnReply::Notified(wait) => self.notified(now, *wait, result, out),
                OnReply::ServerAnswered(notice) => {
                    self.server_answered(now, *notice, result, out);
                }
            },
        }
    }

    fn on_place(&mut self, now: Now, wait: OnPlace, place: Located, out: &mut Vec<Output>) {
        match wait {
            OnPlace::NotifyLocated(wait) => self.notify_located(now, *wait, place, out),
            OnPlace::ServerLocated(notice) => self.server_located(now, *notice, place, out),
        }
    }

    fn on_cx(&mut self, now: Now, event: cx::Event<OnAnswer>, out: &mut Vec<Output>) {
        match event {
            cx::Event::Answer { wait, result } => match wait {
                OnAnswer::VectorReceived(wait) => self.vector_received(now, *wait, result, out),
                OnAnswer::Assigned(wait) => self.assigned(now, *wait, result, out),
                OnAnswer::Restored(wait) => self.restored(now, *wait, result, out),
                OnAnswer::GivenBack(gone) => self.given_back(now, *gone, result, out),
                OnAnswer::Deregistered(wait) => self.deregistered(now, *wait, result, out),
                OnAnswer::BackedUp { private_identity } => {
                    self.backed_up(now, &private_identity, result, out);
                }
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
            Job::BackUp { set } => self.back_up(now, private_identity, &set, out),
            Job::ServerFailed { made_by } => {
                self.deregister_for_server(now, private_identity, &made_by, out);
            }
            Job::Reauthenticate { id, within_seconds } => {
                self.reauthenticate(now, private_identity, id, within_seconds, out);
            }
            Job::Administer { id, told } => {
                self.deregister_by_operator(now, private_identity, (id, told), out);
            }
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
        while let Some(tag) = self.subscriptions.expired(now) {
            self.subscription_expired(now, &tag);
        }
        while let Some(timer) = self.timers.expired(now) {
            match timer {
                Timer::Challenge(private_identity, call_id) => {
                    self.challenge_lapsed(now, private_identity, &call_id, out);
                }
                Timer::Nonce(private_identity) => {
                    self.nonces.remove(&private_identity);
                }
                Timer::Lapsed(_) => {}
                Timer::End(number) => self.ends.forget(number),
                Timer::BackUp(private_identity, set) => {
                    // When the line is full, the next REGISTER leaves them.
                    self.begin(now, &private_identity, Job::BackUp { set }, out);
                }
            }
        }
    }

    /// TS 24.229 §5.3.1.3: by 480 the I-CSCF knows to give a REGISTER to another S-CSCF, also that of a user who is
    /// assigned here. A 503 would leave the user where it is, and become a 500 that has the phone begin anew.
    pub(crate) fn refuse_draining(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let request = incoming.request();
        let mut response = match request.method() {
            Method::Register => request.response(480, "Temporarily Unavailable"),
            _ => request.response(503, "Service Unavailable"),
        };
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
        let shared_criteria = SharedSets::read(&config.shared_filter_criteria)?;
        Ok(Own { host, server_name, server_host: host_port.host, service_route, shared_criteria })
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
            Input::Ended { flow } => {
                self.sip.ended(flow);
                self.on_unreachable(now, flow, out);
            }
            Input::Diameter { .. }
            | Input::Opened { .. }
            | Input::ConnectFailed { .. }
            | Input::Closed { .. } => self.cx.input(now, input, out),
            Input::Resolved { id, answer } => {
                for (wait, place) in self.locator.resolved(now, id, answer, out) {
                    self.on_place(now, wait, place, out);
                }
            }
            // Nothing is secured here.
            Input::SasInstalled { .. } | Input::SasAudited { .. } | Input::SasExpired { .. } => {}
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
        self.notify_due(now, out);
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
            self.subscriptions.next_timeout(),
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
        samples.gauge(
            "tessera_scscf_subscriptions",
            "Subscriptions to the registration state",
            &[],
            self.subscriptions.len() as f64,
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
        self.sip.owed()
            + self.locator.owed()
            + self.cx.owed()
            + self.turns.len()
            + self.telling.len()
    }
}

impl Scscf {
    fn on_unreachable(&mut self, now: Now, flow: Flow, out: &mut Vec<Output>) {
        while let Some(event) = self.sip.unreachable(now, flow, out) {
            self.on_sip(now, event, out);
        }
    }
}
