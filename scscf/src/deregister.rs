//! Deregistration by the user and the operator, and expiry (TS 24.229 §5.4.1.4, §5.4.1.5).
//!
//! 1. `deregister`, `expire`, `deregister_by_operator`  what is left; SAR when nothing is
//! 2. `deregistered`                                    forget it, or ask again later

use common::cx::sar::ServerAssignmentType;
use common::cx::{self, Answered, Outcome, Sar};
use common::diameter::endpoint::NoAnswer;
use common::identity::{Impi, Impu};
use common::node::{Now, Output};
use common::sip::message::{Request, Response};

use crate::contacts::Origin;
use crate::filter_criteria::RegistrationType;
use crate::register::{Refusal, Registering};
use crate::state::{Binding, Change, Registration};
use crate::third_party::{Notice, Occasion, Occurrence};
use crate::{OnAnswer, Scscf, watch};

/// How often an HSS that is unable to comply is told again that a registration is over.
const REFUSED_ENDS_MAX: u32 = 10;

/// Waits for the SAA.
#[derive(Debug)]
pub struct Deregistering {
    private_identity: Impi,
    set: Impu,
    /// The default identity, by which the set is found when its name has changed.
    identity: Impu,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    User(Box<Registering>),
    Expiry,
    /// The command to answer, and how many sets are still to be deregistered for it.
    Operator {
        id: u64,
        others: Vec<Impu>,
        told: watch::Cause,
    },
    /// An application server without which there is no registration.
    ServerFailed {
        told: watch::Cause,
    },
}

impl Cause {
    fn assignment_type(&self) -> ServerAssignmentType {
        match self {
            Cause::User(_) => ServerAssignmentType::UserDeregistration,
            Cause::Expiry => ServerAssignmentType::TimeoutDeregistration,
            Cause::Operator { .. } | Cause::ServerFailed { .. } => {
                ServerAssignmentType::AdministrativeDeregistration
            }
        }
    }

    fn for_watchers(&self) -> watch::Cause {
        match self {
            Cause::User(_) => watch::Cause::Unregistered,
            Cause::Expiry => watch::Cause::Expired,
            Cause::Operator { told, .. } | Cause::ServerFailed { told } => *told,
        }
    }
}

impl Scscf {
    /// TS 24.229 §5.4.1.4: the named contacts, or all of this private identity, go for the whole
    /// implicit set. The HSS is told when none is left.
    pub(crate) fn deregister(&mut self, now: Now, job: Registering, out: &mut Vec<Output>) {
        if job.contacts.wanted.iter().any(|wanted| wanted.is_emergency) {
            return self.deregister_refuse(now, job, Refusal::EmergencyDeregistration, out);
        }
        let held = self.registrations.find(&job.private_identity, &job.public_identity);
        let bindings = held.map_or(&[][..], |held| &held.bindings);
        let is_bound = |wanted: &crate::contacts::Wanted| {
            bindings.iter().any(|binding| !binding.has_expired(now) && wanted.is_bound_as(binding))
        };
        if !job.contacts.is_star && !job.contacts.wanted.iter().any(is_bound) {
            return self.deregister_refuse(now, job, Refusal::ContactNotBound, out);
        }
        let Some(held) = held else {
            return self.deregister_rest(now, job, out);
        };
        let identity = &job.public_identity;
        let origin = Origin { identity, call_id: "", cseq: 0, path: &[] };
        let remaining = job.contacts.applied(now, bindings, &origin);
        if remaining.is_empty() {
            let set = held.set();
            let private_identity = job.private_identity.clone();
            let cause = Cause::User(Box::new(job));
            return self.ask_to_deregister(now, private_identity, set, cause, out);
        }
        let before = held.clone();
        let registration = Registration { bindings: remaining, ..before.clone() };
        self.store(now, registration, watch::Cause::Unregistered, out);
        self.end_authentication(now, &job, out);
        let response = self.success(now, &job);
        let mut job = job;
        // Only what an emergency registration made may be left, of which no server knows.
        let exchange = Some((job.incoming.request(), &response));
        job.notices = self.notices_of_end(now, &before, &job.public_identity, exchange, out);
        self.finish_register(now, job, response, "deregistered", out);
    }

    /// The user was not registered here: no SAR ends the authentication, so the HSS hears of its end by
    /// itself.
    fn deregister_rest(&mut self, now: Now, job: Registering, out: &mut Vec<Output>) {
        self.end_authentication(now, &job, out);
        let response = self.success(now, &job);
        self.finish_register(now, job, response, "deregistered", out);
    }

    fn deregister_refuse(
        &mut self,
        now: Now,
        job: Registering,
        refusal: Refusal,
        out: &mut Vec<Output>,
    ) {
        self.end_authentication(now, &job, out);
        self.refuse(now, job, refusal, out);
    }

    fn end_authentication(&mut self, now: Now, job: &Registering, out: &mut Vec<Output>) {
        if job.is_authenticated {
            self.tell_hss(now, job, ServerAssignmentType::AuthenticationTimeout, out);
        }
    }

    /// TS 24.229 §5.4.1.5: bindings whose time is over go; with the last one the registration.
    pub(crate) fn expire(
        &mut self,
        now: Now,
        private_identity: &Impi,
        set: &Impu,
        out: &mut Vec<Output>,
    ) {
        let Some(held) = self.registrations.of_set(private_identity, set) else {
            return self.finish(now, private_identity, out);
        };
        let alive = held.bindings.iter().filter(|binding| !binding.has_expired(now));
        let bindings: Vec<_> = alive.cloned().collect();
        if bindings.is_empty() {
            let private_identity = private_identity.clone();
            self.ask_to_deregister(now, private_identity, set.clone(), Cause::Expiry, out);
            return;
        }
        let before = held.clone();
        let registration = Registration { bindings, ..before.clone() };
        self.store(now, registration, watch::Cause::Expired, out);
        self.say_goodbye(now, Some(&before), out);
        self.finish(now, private_identity, out);
    }

    /// TS 24.229 §5.4.8.4: the network ends no emergency registration. True when there was one, and the rest of
    /// the registration is gone without a word to the HSS, which has the user registered still.
    pub(crate) fn spare_emergency(
        &mut self,
        now: Now,
        private_identity: &Impi,
        set: &Impu,
        told: watch::Cause,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(held) = self.registrations.of_set(private_identity, set) else { return false };
        let is_spared = |binding: &&Binding| binding.is_emergency && !binding.has_expired(now);
        let bindings: Vec<_> = held.bindings.iter().filter(is_spared).cloned().collect();
        if bindings.is_empty() {
            return false;
        }
        let before = held.clone();
        self.store(now, Registration { bindings, ..before.clone() }, told, out);
        self.say_goodbye(now, Some(&before), out);
        true
    }

    /// TS 24.229 §5.4.1.5: all sets of a private identity, one after the other.
    pub(crate) fn deregister_by_operator(
        &mut self,
        now: Now,
        private_identity: &Impi,
        (id, told): (u64, watch::Cause),
        out: &mut Vec<Output>,
    ) {
        let held = self.registrations.of(private_identity).iter();
        let mut sets: Vec<_> = held.map(Registration::set).collect();
        let total = sets.len();
        sets.retain(|set| !self.spare_emergency(now, private_identity, set, told, out));
        let spared = total - sets.len();
        // By their default identities: no profile that is pushed meanwhile changes those.
        for set in &mut sets {
            if let Some(held) = self.registrations.of_set(private_identity, set) {
                *set = held.default_identity();
            }
        }
        match sets.pop() {
            Some(set) => {
                let cause = Cause::Operator { id, others: sets, told };
                self.ask_to_deregister(now, private_identity.clone(), set, cause, out);
            }
            None => {
                let text = match spared {
                    0 => "not registered\n",
                    _ => "deregistered, but for an emergency registration\n",
                };
                out.push(Output::Reply { id, text: text.to_owned() });
                self.finish(now, private_identity, out);
            }
        }
    }

    /// TS 24.229 §5.4.1.7, §5.4.1.5: a server that must be there is not. What another REGISTER has made or
    /// refreshed since then was told to the server again, and hangs on that.
    pub(crate) fn deregister_for_server(
        &mut self,
        now: Now,
        private_identity: &Impi,
        made_by: &Occurrence,
        out: &mut Vec<Output>,
    ) {
        let is_meant = |held: &&Registration| {
            let mut reported = held.reported();
            reported.any(|one| one.call_id == made_by.call_id && one.cseq == made_by.cseq)
        };
        let held = self.registrations.of(private_identity).iter().find(is_meant);
        let Some(set) = held.map(Registration::set) else {
            return self.finish(now, private_identity, out);
        };
        let told = self.config.registration.server_failure.cause();
        if self.spare_emergency(now, private_identity, &set, told, out) {
            return self.finish(now, private_identity, out);
        }
        let cause = Cause::ServerFailed { told };
        self.ask_to_deregister(now, private_identity.clone(), set, cause, out);
    }

    /// TS 24.229 §5.4.1.7: servers hear that an identity is registered no more, once no device has
    /// it: each of the set that a REGISTER has told them of. `request`: the REGISTER that ended it, with its
    /// answer.
    pub(crate) fn notices_of_end(
        &mut self,
        now: Now,
        ended: &Registration,
        public_identity: &Impu,
        exchange: Option<(&Request, &Response)>,
        out: &mut Vec<Output>,
    ) -> Vec<Notice> {
        if !ended.has_binding() {
            return Vec::new();
        }
        if self.is_registered(public_identity) {
            self.pass_on_told(ended, public_identity, out);
            return Vec::new();
        }
        let others = ended.told.iter().filter(|one| *one != public_identity);
        let others: Vec<_> = others.filter(|one| ended.contains(one)).collect();
        let mut notices: Vec<Notice> = Vec::new();
        for public_identity in std::iter::once(public_identity).chain(others) {
            let occasion = Occasion {
                registration: ended,
                public_identity,
                kind: RegistrationType::Deregistration,
                exchange,
                expires_seconds: 0,
            };
            // Barred ones are told as the default one.
            for notice in self.notices_of(now, &occasion) {
                if notices.iter().all(|other| other.line() != notice.line()) {
                    notices.push(notice);
                }
            }
        }
        notices
    }

    /// The set lives on with another device, whose end is to be told of all identities.
    fn pass_on_told(
        &mut self,
        ended: &Registration,
        public_identity: &Impu,
        out: &mut Vec<Output>,
    ) {
        let sharers = self.registrations.sharers(public_identity).iter();
        let mut held = sharers.filter_map(|one| self.registrations.find(one, public_identity));
        let Some(mut heir) = held.find(|held| held.has_binding()).cloned() else { return };
        let is_news = |one: &&Impu| heir.contains(one) && !heir.told.contains(one);
        let news: Vec<_> = ended.told.iter().filter(is_news).cloned().collect();
        if !news.is_empty() {
            heir.told.extend(news);
            self.registrations.commit(Change::Stored(Box::new(heir)), out);
        }
    }

    /// TS 29.228 §6.1.2.1: one public identity stands for its set.
    fn ask_to_deregister(
        &mut self,
        now: Now,
        private_identity: Impi,
        set: Impu,
        cause: Cause,
        out: &mut Vec<Output>,
    ) {
        let held = self.registrations.of_set(&private_identity, &set);
        let held = held.or_else(|| self.registrations.find(&private_identity, &set));
        let hss_host = held.map(|held| held.hss_host.clone());
        let identity = held.map_or_else(|| set.clone(), Registration::default_identity);
        let sar = Sar {
            user_name: Some(private_identity.as_str().to_owned()),
            public_identities: vec![identity.as_str().to_owned()],
            server_name: self.own.server_name.clone(),
            server_assignment_type: cause.assignment_type(),
            ..Sar::default()
        };
        let wait = Deregistering { private_identity, set, identity, cause };
        let wait = OnAnswer::Deregistered(Box::new(wait));
        let limit = self.config.timeouts.hss();
        self.cx.ask(now, cx::Request::Sar(sar), hss_host.as_deref(), wait, limit, out);
    }

    /// TS 24.229 §5.4.1.4, §5.4.1.5: whatever the HSS says the user is gone from here. Where it does not
    /// say that it has the user registered here no longer, an empty registration stays behind to tell it again.
    pub(crate) fn deregistered(
        &mut self,
        now: Now,
        wait: Deregistering,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let Deregistering { private_identity, set, identity, cause } = wait;
        // A profile that was pushed meanwhile may have given the set another name.
        let held = self.registrations.of_set(&private_identity, &set);
        let held = held.or_else(|| self.registrations.find(&private_identity, &identity));
        let set = held.map_or(set, Registration::set);
        let (is_final, detail) = match &result {
            Ok(Answered { answer: cx::Answer::Saa(saa), .. }) => {
                (is_final(saa.outcome), format!("{:?}", saa.outcome))
            }
            Ok(_) => (false, "no SAA".to_owned()),
            Err(no_answer) => (false, format!("{no_answer:?}")),
        };
        if let (Cause::Expiry, true) = (&cause, is_elsewhere(&result)) {
            return self.moved_away(now, &private_identity, &set, out);
        }
        let ended = self.registrations.of_set(&private_identity, &set).cloned();
        if is_final {
            self.remove(now, &private_identity, &set, cause.for_watchers(), out);
        } else {
            let is_refused = matches!(&result,
                Ok(Answered { answer: cx::Answer::Saa(saa), .. })
                    if saa.outcome == Outcome::UNABLE_TO_COMPLY);
            let told = cause.for_watchers();
            self.keep_empty(now, &private_identity, &set, is_refused, told, out);
        }
        match cause {
            Cause::User(mut job) => {
                // Its own registration has gone its way above.
                job.restored.retain(|one| !one.is_of(&private_identity));
                let response = self.success(now, &job);
                if let Some(ended) = &ended {
                    let exchange = Some((job.incoming.request(), &response));
                    job.notices =
                        self.notices_of_end(now, ended, &job.public_identity, exchange, out);
                }
                self.finish_register(now, *job, response, "deregistered", out);
            }
            Cause::ServerFailed { .. } => {
                self.stats.deregistration("server_failed");
                tracing::info!(
                    procedure = "deregistration for an application server",
                    private_identity = %self.logged(private_identity.as_str()),
                    public_identity = %self.logged(set.as_str()),
                    hss = detail,
                    "deregistered"
                );
                self.say_goodbye(now, ended.as_ref(), out);
                self.finish(now, &private_identity, out);
            }
            Cause::Expiry => {
                self.stats.deregistration("expired");
                tracing::info!(
                    procedure = "expiry",
                    private_identity = %self.logged(private_identity.as_str()),
                    public_identity = %self.logged(set.as_str()),
                    hss = detail,
                    "registration expired"
                );
                self.say_goodbye(now, ended.as_ref(), out);
                self.finish(now, &private_identity, out);
            }
            Cause::Operator { id, mut others, told } => {
                self.stats.deregistration("operator");
                tracing::info!(
                    procedure = "administrative deregistration",
                    private_identity = %self.logged(private_identity.as_str()),
                    public_identity = %self.logged(set.as_str()),
                    hss = detail,
                    "deregistered"
                );
                self.say_goodbye(now, ended.as_ref(), out);
                if let Some(set) = others.pop() {
                    let cause = Cause::Operator { id, others, told };
                    return self.ask_to_deregister(now, private_identity, set, cause, out);
                }
                let text = format!("deregistered; the HSS says {detail}\n");
                out.push(Output::Reply { id, text });
                self.finish(now, &private_identity, out);
            }
        }
    }

    /// TS 23.380 §4: another S-CSCF has taken the user over, and this one was not there to be told. Phone,
    /// watchers and servers are that one's.
    fn moved_away(&mut self, now: Now, private_identity: &Impi, set: &Impu, out: &mut Vec<Output>) {
        self.stats.deregistration("served_elsewhere");
        tracing::info!(
            procedure = "expiry",
            private_identity = %self.logged(private_identity.as_str()),
            public_identity = %self.logged(set.as_str()),
            "another S-CSCF serves the user"
        );
        self.remove(now, private_identity, set, watch::Cause::Silently, out);
        self.finish(now, private_identity, out);
    }

    /// TS 24.229 §5.4.1.7: the network has ended a registration, and servers hear of it.
    pub(crate) fn say_goodbye(
        &mut self,
        now: Now,
        ended: Option<&Registration>,
        out: &mut Vec<Output>,
    ) {
        let Some(ended) = ended else { return };
        let registered = ended.reported().find_map(|binding| binding.registered_identity.clone());
        let public_identity = registered.unwrap_or_else(|| ended.set());
        for notice in self.notices_of_end(now, ended, &public_identity, None, out) {
            self.tell_server(now, notice, out);
        }
    }

    /// `is_refused`: the HSS has said no, and not merely not now.
    fn keep_empty(
        &mut self,
        now: Now,
        private_identity: &Impi,
        set: &Impu,
        is_refused: bool,
        cause: watch::Cause,
        out: &mut Vec<Output>,
    ) {
        self.stats.untold += 1;
        let Some(held) = self.registrations.of_set(private_identity, set) else { return };
        let refused_ends = held.refused_ends + u32::from(is_refused);
        if refused_ends > REFUSED_ENDS_MAX {
            return self.give_up(now, private_identity, set, cause, out);
        }
        if !held.bindings.is_empty() || is_refused {
            let registration = Registration { bindings: Vec::new(), refused_ends, ..held.clone() };
            self.store(now, registration, cause, out);
        }
        self.tell_end_later(now, private_identity.clone(), set.clone());
    }

    /// The user is gone, and the HSS has yet to hear of it.
    pub(crate) fn tell_end_later(&mut self, now: Now, private_identity: Impi, set: Impu) {
        let later = now + self.config.timeouts.retry();
        self.registrations.look_again(private_identity, set, later);
    }

    fn give_up(
        &mut self,
        now: Now,
        private_identity: &Impi,
        set: &Impu,
        cause: watch::Cause,
        out: &mut Vec<Output>,
    ) {
        self.stats.deregistration("given_up");
        tracing::warn!(
            private_identity = %self.logged(private_identity.as_str()),
            public_identity = %self.logged(set.as_str()),
            "the HSS refuses to hear that a registration is over, and may have it still"
        );
        self.remove(now, private_identity, set, cause, out);
    }
}

/// RFC 6733 §7.1: nothing changes by asking again: done, or a permanent failure. An HSS that is too busy, for
/// one, has the user registered here for good unless it is told again. UNABLE_TO_COMPLY, though permanent by its
/// number, is what an HSS answers whose database fails, too.
pub(crate) fn is_final(outcome: Outcome) -> bool {
    let (Outcome::Base(code) | Outcome::Experimental(code)) = outcome;
    let is_permanent = (5000..6000).contains(&code) && outcome != Outcome::UNABLE_TO_COMPLY;
    outcome.is_success() || is_permanent
}

/// TS 29.228 §6.1.2.1, TS 29.229 §6.2.2.5: the name of another S-CSCF is stored. UNABLE_TO_COMPLY may be a fault.
fn is_elsewhere(result: &Result<Answered, NoAnswer>) -> bool {
    matches!(result, Ok(Answered { answer: cx::Answer::Saa(saa), .. })
        if saa.outcome == Outcome::IDENTITY_ALREADY_REGISTERED)
}
