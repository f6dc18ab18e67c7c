//! Proxy-CSCF (TS 24.229 §5.2): the phone's first contact with the IMS.
//!
//! | on | clause | function |
//! |---|---|---|
//! | REGISTER of a UE | TS 24.229 §5.2.2.1 | [`Pcscf::register`] |
//! |   place of the entry point | TS 24.229 §5.2.2.1 | [`Pcscf::register_located`] |
//! |   answer of the home network | TS 24.229 §5.2.2.2, §5.2.2.3 | [`Pcscf::register_answered`] |
//! |   associations installed | TS 24.229 §5.2.2.2 | [`Pcscf::register_secured`] |
//! | request of a UE | TS 24.229 §5.2.6.3 | [`Pcscf::originate`] |
//! | request for a UE | TS 24.229 §5.2.6.4 | [`Pcscf::terminate`] |
//! | any other request | TS 24.229 §5.2.6 | [`Pcscf::session`] |
//! | a UE has registered | TS 24.229 §5.2.3 | [`Pcscf::watch`] |
//! | NOTIFY about it | TS 24.229 §5.2.3, §5.2.5.2 | [`Pcscf::notified`] |
//! | end of a set's life | TS 33.203 §7.4 | [`Pcscf::set_ended`] |
//! |   by the data plane | TS 33.203 §7.4 | [`Pcscf::set_expired`], [`Pcscf::audited`] |
//! | start | | [`Pcscf::start`] |
//!
//! [`security`] holds the sets of security associations and decides which one may speak for whom;
//! [`registrations`] what is known of a registered UE; [`durable`] stores both.

pub mod accept;
mod audit;
pub mod config;
#[cfg(feature = "daemon")]
mod daemon;
pub mod dialogs;
pub mod durable;
pub mod identity_headers;
mod originating;
pub mod path;
pub mod refusal;
pub mod reg_event;
pub mod register;
pub mod registrations;
pub mod sec_agree;
pub mod security;
pub mod session;
mod terminating;

use std::net::SocketAddr;

use common::ipsec::sa::SetId;
use common::node::{Flow, Input, Node, Now, Output, Transport};
use common::questions::Questions;
use common::random::Random;
use common::sip::endpoint::{Branch, Endpoint, Event, Incoming, NoReply, Segment};
use common::sip::header::Name;
use common::sip::locate::{AddressFamilies, Preference};
use common::sip::locator::{Located, Locator};
use common::sip::message::{Method, Response};
use common::sip::uri::{Host, HostPort};
use common::stats::Samples;
use common::timers::Timers;

use crate::audit::Audits;
use crate::config::Config;
use crate::dialogs::Dialogs;
use crate::durable::Durable;
use crate::refusal::Counters;
use crate::reg_event::Watches;
use crate::registrations::{Owner, Registrations};
use crate::security::Security;

/// The core of a P-CSCF.
pub struct Pcscf {
    config: Config,
    sip: Endpoint<OnReply>,
    locator: Locator<OnPlace>,
    kernel: Questions<OnInstalled>,
    security: Security,
    registrations: Registrations,
    durable: Durable,
    audits: Audits,
    dialogs: Dialogs,
    watches: Watches,
    timers: Timers<Timer>,
    random: Random,
    counters: Counters,
    is_draining: bool,
}

/// Variant `RegisterAnswered` is delivered to `register_answered`, and so on.
#[expect(clippy::enum_variant_names, reason = "each is the name of the function that gets it")]
#[derive(Debug)]
enum OnReply {
    RegisterAnswered(Box<register::Forwarded>),
    OriginateAnswered(Box<originating::Originating>),
    TerminateAnswered,
    WatchAnswered(Box<reg_event::Watching>),
}

#[expect(clippy::enum_variant_names, reason = "each is the name of the function that gets it")]
#[derive(Debug)]
enum OnPlace {
    RegisterLocated(Box<register::Locating>),
    OriginateLocated(Incoming, Box<originating::Originating>),
    WatchLocated(Box<reg_event::Watching>),
}

#[derive(Debug)]
enum OnInstalled {
    RegisterSecured(Box<register::Installing>),
}

/// What happens when a timer fires.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Timer {
    /// The SIP-level life of a set is over: it leaves the kernel at once (ipsec.md L-11).
    SetEnds(SetId),
    /// The set that this new one follows has 64 × T1 left (ipsec.md L-07).
    OldSetRunsOut(SetId),
    /// An identity of the registration and its 30 s of grace are over (registration.md D-09).
    RegistrationEnds(Owner),
    /// The data plane is to be compared with what we know.
    AuditDue,
    /// Our subscription to that registration is to be renewed.
    WatchAgain(Owner),
}

/// Which side of the P-CSCF a flow belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    /// The unprotected port.
    Gm,
    /// A protected port.
    GmProtected,
    Mw,
}

impl Pcscf {
    /// Fails with what contradicts itself in `config`.
    pub fn new(config: Config, mut random: Random) -> Result<Pcscf, String> {
        if let Some(problem) = config.problems().into_iter().next() {
            return Err(problem);
        }
        let has = |v4: bool| config.mw.listen.iter().any(|listen| listen.is_ipv4() == v4);
        let families = match (has(true), has(false)) {
            (true, true) => AddressFamilies::Both,
            (false, true) => AddressFamilies::V6,
            _ => AddressFamilies::V4,
        };
        let preference = Preference { families, transports: vec![Transport::Udp, Transport::Tcp] };
        let mut sip = Endpoint::new(random.fork(), &config.limits);
        sip.set_gm_t1(config.gm.t1());
        Ok(Pcscf {
            sip,
            locator: Locator::new(preference, random.fork(), config.limits.sip_transactions),
            kernel: Questions::new(),
            security: Security::new(&config, random.fork()),
            registrations: Registrations::new(config.limits.registrations),
            durable: Durable::default(),
            audits: Audits::default(),
            dialogs: Dialogs::default(),
            watches: Watches::default(),
            timers: Timers::new(),
            counters: Counters::default(),
            is_draining: false,
            random,
            config,
        })
    }

    fn on_sip(&mut self, now: Now, event: Event<OnReply>, out: &mut Vec<Output>) {
        match event {
            Event::Request(incoming) => self.on_request(now, incoming, out),
            Event::Ack { .. } => {}
            // Neither REGISTER nor what else is carried has provisional answers of use to anybody.
            Event::Provisional(branch, _) => self.sip.keep(branch),
            Event::Reply(branch, result) => self.on_reply(now, branch, result, out),
        }
    }

    fn on_reply(
        &mut self,
        now: Now,
        mut branch: Branch<OnReply>,
        result: Result<Response, NoReply>,
        out: &mut Vec<Output>,
    ) {
        match std::mem::replace(&mut branch.wait, OnReply::TerminateAnswered) {
            OnReply::RegisterAnswered(wait) => {
                branch.wait = OnReply::RegisterAnswered(wait);
                self.register_answered(now, branch, result, out);
            }
            OnReply::OriginateAnswered(wait) => {
                self.originate_answered(now, branch, *wait, result, out);
            }
            OnReply::TerminateAnswered => self.terminate_answered(now, branch, result, out),
            OnReply::WatchAnswered(wait) => self.watch_answered(now, *wait, result, out),
        }
    }

    fn on_request(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let side = self.side(&incoming.flow());
        if side == Side::GmProtected {
            self.heard(now, &incoming.flow());
        }
        if self.is_draining {
            let mut response = incoming.request().response(503, "Shutting Down");
            response.headers_mut().set(Name::RetryAfter, "10");
            self.sip.respond(now, incoming, response, out);
            return;
        }
        match incoming.request().method() {
            Method::Register if side != Side::Mw => self.register(now, incoming, out),
            _ => self.session(now, incoming, side, out),
        }
    }

    /// Each request that waits for an answer on that flow has none.
    fn on_unreachable(&mut self, now: Now, flow: Flow, out: &mut Vec<Output>) {
        while let Some(event) = self.sip.unreachable(now, flow, out) {
            self.on_sip(now, event, out);
        }
    }

    fn on_place(&mut self, now: Now, wait: OnPlace, place: Located, out: &mut Vec<Output>) {
        match wait {
            OnPlace::RegisterLocated(locating) => self.register_located(now, *locating, place, out),
            OnPlace::OriginateLocated(incoming, wait) => {
                self.originate_located(now, incoming, *wait, place, out);
            }
            OnPlace::WatchLocated(wait) => self.watch_located(now, *wait, place, out),
        }
    }

    fn on_timer(&mut self, now: Now, timer: Timer, out: &mut Vec<Output>) {
        match timer {
            Timer::SetEnds(set) => self.set_ended(now, set, out),
            Timer::OldSetRunsOut(new) => self.old_set_runs_out(now, new),
            Timer::RegistrationEnds(owner) => self.registration_ends(now, owner),
            Timer::AuditDue => self.audit_is_due(now, out),
            Timer::WatchAgain(owner) => self.watch_again(now, owner, out),
        }
    }

    fn side(&self, flow: &Flow) -> Side {
        let gm = &self.config.gm;
        if !gm.addresses.contains(&flow.local.ip()) {
            return Side::Mw;
        }
        let port = flow.local.port();
        if port == gm.port {
            Side::Gm
        } else if port == gm.protected_server_port || gm.protected_client_ports.contains(&port) {
            Side::GmProtected
        } else {
            Side::Mw
        }
    }

    /// TS 33.203 §7.1, ipsec.md N-03: nothing is accepted at a protected port but on a set that lives,
    /// and nothing is answered. The data plane sees to it; what was on its way inside this host when
    /// its set ended is dropped here, also where we are late to end it.
    fn is_without_association(&self, now: Now, flow: &Flow) -> bool {
        self.side(flow) == Side::GmProtected
            && self.security.set_of(flow).is_none_or(|set| set.expires_at <= now)
    }

    fn segment(&self, flow: &Flow) -> Segment {
        match self.side(flow) {
            Side::Mw => Segment::Core,
            Side::Gm | Side::GmProtected => Segment::Gm,
        }
    }

    /// How a UE at this place is reached through this P-CSCF (see [`path`]).
    fn path_uri(&self, place: SocketAddr) -> String {
        format!("sip:{}@{};lr", path::token(place), self.mw_name())
    }

    /// How we name ourselves towards the home network: name, and the port where it is not the default.
    fn mw_name(&self) -> HostPort {
        let port = self.config.mw.listen.first().map(|listen| listen.port());
        HostPort {
            host: Host::Name(self.config.name.to_ascii_lowercase()),
            port: port.filter(|port| *port != 5060),
        }
    }

    fn respond(&mut self, now: Now, incoming: Incoming, response: Response, out: &mut Vec<Output>) {
        self.sip.respond(now, incoming, response, out);
    }
}

impl Pcscf {
    fn on_input(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Start { records } => self.start(now, records, out),
            Input::Sip { flow, .. } if self.is_without_association(now, &flow) => {
                self.counters.no_association += 1;
                tracing::debug!(from = %flow.remote, to = %flow.local, "no association has these ports");
            }
            Input::Sip { flow, bytes } => {
                let segment = self.segment(&flow);
                let reply_flow = self.reply_flow(&flow);
                let sip = &mut self.sip;
                let event = match reply_flow {
                    Some(to) => sip.receive_answering_on(now, flow, to, bytes, segment, out),
                    None => sip.receive(now, flow, bytes, segment, out),
                };
                if let Some(event) = event {
                    if !matches!(event, Event::Request(_)) {
                        self.heard(now, &flow);
                    }
                    self.on_sip(now, event, out);
                }
            }
            Input::Unreachable { flow } => self.on_unreachable(now, flow, out),
            Input::Ended { flow } => {
                self.sip.ended(flow);
                self.on_unreachable(now, flow, out);
            }
            Input::Resolved { id, answer } => {
                for (wait, place) in self.locator.resolved(now, id, answer, out) {
                    self.on_place(now, wait, place, out);
                }
            }
            Input::SasInstalled { id, result } => match self.kernel.answer(id) {
                Some(OnInstalled::RegisterSecured(installing)) => {
                    self.register_secured(now, *installing, result, out);
                }
                None => tracing::debug!("an answer of the kernel that nobody waits for"),
            },
            Input::SasAudited { id, result } => self.audited(now, id, result, out),
            Input::SasExpired { set } => self.set_expired(now, set, out),
            Input::Admin { id, command } => self.administer(now, id, &command, out),
            Input::Drain => self.is_draining = true,
            Input::Timeout => {
                while let Some(event) = self.sip.expire(now, out) {
                    self.on_sip(now, event, out);
                }
                while let Some(timer) = self.timers.expired(now) {
                    self.on_timer(now, timer, out);
                }
            }
            Input::Diameter { .. }
            | Input::Opened { .. }
            | Input::ConnectFailed { .. }
            | Input::Closed { .. } => {}
        }
    }
}

impl Node for Pcscf {
    fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        let first = out.len();
        self.on_input(now, input, out);
        self.persist(first, out);
    }

    fn next_timeout(&self) -> Option<Now> {
        [self.sip.next_timeout(), self.timers.next()].into_iter().flatten().min()
    }

    fn samples(&self, samples: &mut Samples) {
        self.sip.samples(samples);
        self.security.samples(samples);
        self.counters.samples(samples);
        self.audits.samples(samples);
        samples.counter(
            "tessera_pcscf_unreadable_records_total",
            "Stored registrations and sets that could not be used at the start",
            &[],
            self.durable.unreadable,
        );
        samples.gauge(
            "tessera_pcscf_registrations",
            "UEs registered through this P-CSCF",
            &[],
            self.registrations.len() as f64,
        );
        samples.gauge(
            "tessera_pcscf_leaving_registrations",
            "UEs whose registration the home network has ended, and that are being told so",
            &[],
            self.registrations.leaving_len() as f64,
        );
        samples.gauge(
            "tessera_pcscf_dialogs",
            "Dialogs of registered UEs",
            &[],
            self.dialogs.len() as f64,
        );
        let emergency = self.registrations.iter().filter(|(owner, _)| owner.is_emergency).count();
        samples.gauge(
            "tessera_pcscf_emergency_registrations",
            "Of the UEs registered through this P-CSCF, those for emergency calls alone",
            &[],
            emergency as f64,
        );
        samples.gauge(
            "tessera_pcscf_watches",
            "Own subscriptions to registration state",
            &[],
            self.watches.len() as f64,
        );
        for (outcome, count) in self.watches.outcomes() {
            samples.counter(
                "tessera_pcscf_watch_events_total",
                "Own subscriptions to registration state, and documents, by what became of them",
                &[("outcome", outcome)],
                count,
            );
        }
    }

    fn ready(&self) -> Result<(), String> {
        if self.is_draining { Err("draining".into()) } else { Ok(()) }
    }

    fn owed(&self) -> usize {
        self.sip.owed() + self.locator.owed() + self.kernel.len()
    }
}
