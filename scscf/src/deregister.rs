//! Deregistration by the user and the operator, and expiry (TS 24.229 §5.4.1.4, §5.4.1.5).
//!
//! 1. `deregister`, `expire`, `deregister_by_operator`  what is left; SAR when nothing is
//! 2. `deregistered`                                    forget it, or ask again later

use common::cx::sar::ServerAssignmentType;
use common::cx::{self, Answered, Sar};
use common::diameter::endpoint::NoAnswer;
use common::identity::{Impi, Impu};
use common::node::{Now, Output};

use crate::contacts::Origin;
use crate::register::{Refusal, Registering};
use crate::state::{Change, Registration};
use crate::{OnAnswer, Scscf};

/// Waits for the SAA.
#[derive(Debug)]
pub struct Deregistering {
    private_identity: Impi,
    set: Impu,
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
    },
}

impl Cause {
    fn assignment_type(&self) -> ServerAssignmentType {
        match self {
            Cause::User(_) => ServerAssignmentType::UserDeregistration,
            Cause::Expiry => ServerAssignmentType::TimeoutDeregistration,
            Cause::Operator { .. } => ServerAssignmentType::AdministrativeDeregistration,
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
        let origin = Origin { call_id: "", cseq: 0, path: &[] };
        let remaining = job.contacts.applied(now, bindings, &origin);
        if remaining.is_empty() {
            let set = held.set();
            let private_identity = job.private_identity.clone();
            let cause = Cause::User(Box::new(job));
            return self.ask_to_deregister(now, private_identity, set, cause, out);
        }
        let registration = Registration { bindings: remaining, ..held.clone() };
        self.registrations.commit(Change::Stored(Box::new(registration)), out);
        self.deregister_rest(now, job, out);
    }

    /// The user stays registered elsewhere, or was not registered at all: no SAR ends the
    /// authentication, so the HSS hears of its end by itself.
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
        let of_user = self.registrations.of(private_identity).iter();
        let Some(held) = of_user.into_iter().find(|held| held.set() == *set) else {
            return self.finish(now, private_identity, out);
        };
        let alive = held.bindings.iter().filter(|binding| !binding.has_expired(now));
        let bindings: Vec<_> = alive.cloned().collect();
        if bindings.is_empty() {
            let private_identity = private_identity.clone();
            self.ask_to_deregister(now, private_identity, set.clone(), Cause::Expiry, out);
            return;
        }
        let registration = Registration { bindings, ..held.clone() };
        self.registrations.commit(Change::Stored(Box::new(registration)), out);
        self.finish(now, private_identity, out);
    }

    /// TS 24.229 §5.4.1.5: all sets of a private identity, one after the other.
    pub(crate) fn deregister_by_operator(
        &mut self,
        now: Now,
        private_identity: &Impi,
        id: u64,
        out: &mut Vec<Output>,
    ) {
        let held = self.registrations.of(private_identity).iter();
        let mut sets: Vec<_> = held.map(Registration::set).collect();
        match sets.pop() {
            Some(set) => {
                let cause = Cause::Operator { id, others: sets };
                self.ask_to_deregister(now, private_identity.clone(), set, cause, out);
            }
            None => {
                out.push(Output::Reply { id, text: "not registered\n".to_owned() });
                self.finish(now, private_identity, out);
            }
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
        let held = self.registrations.find(&private_identity, &set);
        let hss_host = held.map(|held| held.hss_host.clone());
        let sar = Sar {
            user_name: Some(private_identity.as_str().to_owned()),
            public_identities: vec![set.as_str().to_owned()],
            server_name: self.own.server_name.clone(),
            server_assignment_type: cause.assignment_type(),
            ..Sar::default()
        };
        let wait = Deregistering { private_identity, set, cause };
        let wait = OnAnswer::Deregistered(Box::new(wait));
        let limit = self.config.timeouts.hss();
        self.cx.ask(now, cx::Request::Sar(sar), hss_host.as_deref(), wait, limit, out);
    }

    /// TS 24.229 §5.4.1.4, §5.4.1.5: whatever the HSS says the user is gone from here. When it says
    /// nothing, an empty registration stays behind to tell it again.
    pub(crate) fn deregistered(
        &mut self,
        now: Now,
        wait: Deregistering,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let Deregistering { private_identity, set, cause } = wait;
        let (is_final, detail) = match result {
            Ok(Answered { answer: cx::Answer::Saa(saa), .. }) => {
                (true, format!("{:?}", saa.outcome))
            }
            Ok(_) => (true, "no SAA".to_owned()),
            Err(no_answer) => (false, format!("{no_answer:?}")),
        };
        if is_final {
            let private_identity = private_identity.clone();
            let set = set.clone();
            self.registrations.commit(Change::Removed { private_identity, set }, out);
        } else {
            self.keep_empty(now, &private_identity, &set, out);
        }
        match cause {
            Cause::User(job) => {
                let response = self.success(now, &job);
                self.finish_register(now, *job, response, "deregistered", out);
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
                self.finish(now, &private_identity, out);
            }
            Cause::Operator { id, mut others } => {
                self.stats.deregistration("operator");
                tracing::info!(
                    procedure = "administrative deregistration",
                    private_identity = %self.logged(private_identity.as_str()),
                    public_identity = %self.logged(set.as_str()),
                    hss = detail,
                    "deregistered"
                );
                if let Some(set) = others.pop() {
                    let cause = Cause::Operator { id, others };
                    return self.ask_to_deregister(now, private_identity, set, cause, out);
                }
                let text = format!("deregistered; the HSS says {detail}\n");
                out.push(Output::Reply { id, text });
                self.finish(now, &private_identity, out);
            }
        }
    }

    fn keep_empty(&mut self, now: Now, private_identity: &Impi, set: &Impu, out: &mut Vec<Output>) {
        self.stats.untold += 1;
        let held = self.registrations.of(private_identity).iter().find(|held| held.set() == *set);
        let Some(held) = held else { return };
        if !held.bindings.is_empty() {
            let registration = Registration { bindings: Vec::new(), ..held.clone() };
            self.registrations.commit(Change::Stored(Box::new(registration)), out);
        }
        let later = now + self.config.timeouts.retry();
        self.registrations.look_again(private_identity.clone(), set.clone(), later);
    }
}
