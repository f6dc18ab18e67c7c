//! Termination by the HSS: RTR (TS 24.229 §5.4.1.5, TS 29.228 §6.1.3).
//!
//! Watchers hear `rejected` or `deactivated`; of a move to another S-CSCF they hear nothing
//! (TS 24.229 §5.4.1.5).

use common::cx::rtr::ReasonCode;
use common::cx::{self, Outcome, Received, Rta, Rtr};
use common::diameter::base::result_code;
use common::identity::{Impi, Impu};
use common::node::{Now, Output};
use common::sip::uri::Uri;

use crate::state::{Binding, Registration};
use crate::watch::Cause;
use crate::{Job, Scscf};

/// One private identity of an RTR.
#[derive(Debug)]
pub struct Terminating {
    reason_code: ReasonCode,
    /// Empty: all.
    public_identities: Vec<Impu>,
    /// The request, when this private identity is the one that its answer is about.
    received: Option<Received>,
    /// Private identities that the answer names as well.
    associated: Vec<String>,
    /// Their emergency registrations, which stay, and how many registrations they have.
    associated_kept: Vec<cx::EmergencyRegistration>,
    associated_total: usize,
}

impl Scscf {
    /// TS 29.228 §6.1.3: User-Name, and Associated-Identities when no public identity is named.
    pub(crate) fn terminate(&mut self, now: Now, received: Received, out: &mut Vec<Output>) {
        let cx::Request::Rtr(rtr) = &received.request else { return };
        let Rtr { user_name, associated_identities, public_identities, reason_code, .. } = rtr;
        let reason_code = *reason_code;
        // A change of the server is for the whole subscription, whatever is listed.
        let public_identities: Vec<_> = match reason_code {
            ReasonCode::ServerChange => Vec::new(),
            _ => public_identities.iter().map(|text| key(text)).collect(),
        };
        let is_alone =
            reason_code == ReasonCode::NewServerAssigned || !public_identities.is_empty();
        let associated: Vec<_> = match is_alone {
            true => Vec::new(),
            false => {
                associated_identities.iter().filter(|name| *name != user_name).cloned().collect()
            }
        };
        let private_identity = Impi::new(user_name.as_str());
        let mut known = associated;
        let (mut associated_kept, mut associated_total) = (Vec::new(), 0);
        known.retain(|name| {
            let name = Impi::new(name.as_str());
            let job = Terminating {
                reason_code,
                public_identities: Vec::new(),
                received: None,
                associated: Vec::new(),
                associated_kept: Vec::new(),
                associated_total: 0,
            };
            // The answer does not wait for their turns.
            let held = self.registrations.of(&name).to_vec();
            let is_begun = !held.is_empty() && self.terminate_begin(now, &name, job, out);
            if is_begun {
                associated_total += held.len();
                let kept = held.iter().filter(|one| !emergency(one, reason_code).is_empty());
                associated_kept.extend(kept.map(named));
            }
            is_begun
        });
        let job = Terminating {
            reason_code,
            public_identities,
            received: Some(received),
            associated: known,
            associated_kept,
            associated_total,
        };
        self.terminate_begin(now, &private_identity, job, out);
    }

    /// False when the line is full.
    fn terminate_begin(
        &mut self,
        now: Now,
        private_identity: &Impi,
        job: Terminating,
        out: &mut Vec<Output>,
    ) -> bool {
        let job = Job::Terminate(Box::new(job));
        let Some(refused) = self.begin(now, private_identity, job, out) else { return true };
        if let Job::Terminate(job) = refused
            && let Some(received) = job.received
        {
            let rta = Rta {
                outcome: Outcome::UNABLE_TO_COMPLY,
                associated_identities: Vec::new(),
                emergency_registrations: Vec::new(),
            };
            self.cx.answer(now, received, cx::Answer::Rta(rta), out);
        }
        false
    }

    /// TS 24.229 §5.4.1.5: the registrations go, without a SAR. What an emergency registration
    /// made stays, unless the server changes.
    pub(crate) fn terminate_in_turn(
        &mut self,
        now: Now,
        private_identity: &Impi,
        job: Terminating,
        out: &mut Vec<Output>,
    ) {
        let held = self.registrations.of(private_identity);
        let is_known = !held.is_empty() || self.challenges.has(private_identity);
        let is_meant = |held: &&Registration| {
            job.public_identities.is_empty()
                || job.public_identities.iter().any(|identity| held.contains(identity))
        };
        let meant: Vec<_> = held.iter().filter(is_meant).cloned().collect();
        // Nor does it end the attempt to refresh what stays.
        self.forget_challenges(private_identity, spares_emergency(job.reason_code));
        let total = meant.len() + job.associated_total;
        let mut emergency_registrations = Vec::new();
        for registration in meant {
            let name = named(&registration);
            if self.terminate_one(now, registration, job.reason_code, out) {
                emergency_registrations.push(name);
            }
        }
        emergency_registrations.extend(job.associated_kept);
        let kept = emergency_registrations.len();
        let outcome = match (is_known, kept) {
            (false, _) => Outcome::USER_UNKNOWN,
            (true, 0) => Outcome::SUCCESS,
            (true, kept) if kept == total => Outcome::UNABLE_TO_COMPLY,
            (true, _) => Outcome::Base(result_code::LIMITED_SUCCESS),
        };
        self.stats.deregistration("terminated");
        tracing::info!(
            procedure = "termination",
            reason = ?job.reason_code,
            private_identity = %self.logged(private_identity.as_str()),
            registrations = total,
            kept,
            ?outcome,
            "the HSS ended registrations"
        );
        if let Some(received) = job.received {
            let mut associated_identities = job.associated;
            if !associated_identities.is_empty() {
                associated_identities.insert(0, private_identity.as_str().to_owned());
            }
            let rta =
                cx::Answer::Rta(Rta { outcome, associated_identities, emergency_registrations });
            self.cx.answer(now, received, rta, out);
        }
        self.finish(now, private_identity, out);
    }

    /// True when an emergency binding was kept.
    fn terminate_one(
        &mut self,
        now: Now,
        registration: Registration,
        reason_code: ReasonCode,
        out: &mut Vec<Output>,
    ) -> bool {
        let bindings = emergency(&registration, reason_code);
        let cause = match reason_code {
            ReasonCode::PermanentTermination => Cause::Rejected,
            ReasonCode::ServerChange => Cause::Deactivated,
            ReasonCode::NewServerAssigned | ReasonCode::RemoveScscf => Cause::Silently,
        };
        if bindings.is_empty() {
            self.remove(now, &registration.private_identity, &registration.set(), cause, out);
            if cause != Cause::Silently {
                self.say_goodbye(now, Some(&registration), out);
            }
            return false;
        }
        let left = Registration { bindings, ..registration.clone() };
        self.store(now, left, cause, out);
        if cause != Cause::Silently {
            self.say_goodbye(now, Some(&registration), out);
        }
        true
    }
}

/// What an emergency registration made, where the reason leaves it alone.
fn emergency(registration: &Registration, reason_code: ReasonCode) -> Vec<Binding> {
    let is_kept = spares_emergency(reason_code);
    let emergency = registration.bindings.iter().filter(|binding| binding.is_emergency);
    emergency.filter(|_| is_kept).cloned().collect()
}

/// TS 24.229 §5.4.8.4: unless the server changes.
fn spares_emergency(reason_code: ReasonCode) -> bool {
    matches!(reason_code, ReasonCode::PermanentTermination | ReasonCode::RemoveScscf)
}

/// TS 29.228 §6.1.3.1: private identity and one public identity of the set.
fn named(registration: &Registration) -> cx::EmergencyRegistration {
    let identity = registration.identities().next().map(|one| one.identity.clone());
    cx::EmergencyRegistration {
        user_name: registration.private_identity.as_str().to_owned(),
        public_identity: identity.unwrap_or_default(),
    }
}

fn key(public_identity: &str) -> Impu {
    match Uri::parse(public_identity) {
        Ok(uri) => uri.public_identity(),
        Err(_) => Impu::new(public_identity),
    }
}
