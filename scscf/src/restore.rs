//! IMS restoration (TS 23.380 §4): registrations whose S-CSCF failed, or lost what it had stored.
//!
//! 1. `ask_for_restoration`  a REGISTER inside security associations, of a user unknown here: SAR with
//!    NO_ASSIGNMENT
//! 2. `restored`             take what another S-CSCF left with the HSS and go on with the REGISTER;
//!    where nothing was left, the UE begins anew
//!
//! `restoration_info` is what this S-CSCF leaves in its turn.

use common::cx::sar::ServerAssignmentType;
use common::cx::user_data::{ServiceProfile, UserData};
use common::cx::{self, Answered, Outcome, RestorationInfo, Saa, Sar, ScscfRestorationInfo};
use common::diameter::endpoint::NoAnswer;
use common::identity::Impi;
use common::node::{Now, Output};

use crate::register::{Decision, Refusal, Registering};
use crate::state::{Binding, Change, Charging, Registration};
use crate::{OnAnswer, Scscf};

/// Waits for the SAA.
#[derive(Debug)]
pub struct Restoring {
    job: Registering,
}

impl Scscf {
    /// TS 23.380 §4.2: the P-CSCF vouches for the user with its security associations, so somebody
    /// registered it. NO_ASSIGNMENT asks for the profile and for what was left, and changes
    /// nothing.
    pub(crate) fn ask_for_restoration(
        &mut self,
        now: Now,
        job: Registering,
        out: &mut Vec<Output>,
    ) {
        let sar = Sar {
            user_name: Some(job.private_identity.as_str().to_owned()),
            public_identities: vec![job.public_identity.as_str().to_owned()],
            server_name: self.own.server_name.clone(),
            server_assignment_type: ServerAssignmentType::NoAssignment,
            ..Sar::default()
        };
        let wait = OnAnswer::Restored(Box::new(Restoring { job }));
        self.cx.ask(now, cx::Request::Sar(sar), None, wait, self.config.timeouts.hss(), out);
    }

    pub(crate) fn restored(
        &mut self,
        now: Now,
        wait: Restoring,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let mut job = wait.job;
        let saa = match result {
            Ok(Answered { answer: cx::Answer::Saa(saa), origin_host, .. }) => {
                job.hss_host = Some(origin_host);
                saa
            }
            Ok(_) => {
                return self.refuse(now, job, Refusal::HssSilent(NoAnswer::Malformed), out);
            }
            Err(no_answer) => {
                return self.refuse(now, job, Refusal::of_no_answer(no_answer), out);
            }
        };
        if let Some(refusal) = outcome_refusal(saa.outcome) {
            self.stats.restoration("refused");
            return self.refuse(now, job, refusal, out);
        }
        job.is_restored = self.restore(now, &job, saa, out);
        self.stats.restoration(if job.is_restored { "restored" } else { "nothing_left" });
        let decision = match job.is_restored {
            true => self.decide_restored(&job),
            // A first registration whose S-CSCF failed in the middle: the answer came inside a set that
            // was made for it, and a P-CSCF has no offer left to secure another challenge with.
            false => Decision::Refuse(Refusal::NotRegisteredHere),
        };
        self.follow(now, job, decision, out);
    }

    /// TS 29.228 §6.1.2.1: makes the registrations that were left, of this private identity and of
    /// those that share the public one. False when there is none of this private identity.
    fn restore(&mut self, now: Now, job: &Registering, saa: Saa, out: &mut Vec<Output>) -> bool {
        let data = saa.user_data.as_deref().and_then(|xml| UserData::parse(xml).ok());
        let Some(data) = data else { return false };
        let charging = saa.charging_information.map(Charging::from).unwrap_or_default();
        for left in saa.restoration {
            let private_identity = Impi::new(left.user_name.as_str());
            let is_here =
                self.registrations.find(&private_identity, &job.public_identity).is_some();
            let bindings = self.bindings_left(now, &left);
            let is_full = self.registrations.len() >= self.config.limits.registrations;
            if is_here || bindings.is_empty() || is_full {
                continue;
            }
            tracing::info!(
                procedure = "restoration",
                private_identity = %self.logged(private_identity.as_str()),
                contacts = bindings.len(),
                "registration of another S-CSCF taken over"
            );
            let registration = Registration {
                bindings,
                ..self.registration_of(
                    private_identity,
                    job,
                    data.service_profiles.clone(),
                    charging.clone(),
                )
            };
            self.registrations.commit(Change::Stored(Box::new(registration)), out);
        }
        self.registrations.find(&job.private_identity, &job.public_identity).is_some()
    }

    fn registration_of(
        &self,
        private_identity: Impi,
        job: &Registering,
        service_profiles: Vec<ServiceProfile>,
        charging: Charging,
    ) -> Registration {
        Registration { private_identity, ..self.registration(job, service_profiles, charging) }
    }

    /// TS 29.229 §6.3.46: without a time-out a contact lives as long as one that asks for nothing.
    fn bindings_left(&self, now: Now, left: &ScscfRestorationInfo) -> Vec<Binding> {
        let default = u64::from(self.config.registration.expires_default_seconds);
        let ends_at = left.registration_time_out.unwrap_or(now.as_secs() + default);
        if ends_at <= now.as_secs() {
            return Vec::new();
        }
        left.contacts.iter().filter_map(|contact| Binding::restored(contact, ends_at)).collect()
    }

    /// TS 24.229 §5.4.1.2.2: a restored user is treated like any other one who is registered. An
    /// unknown contact only means that what was left is older than the UE.
    fn decide_restored(&self, job: &Registering) -> Decision {
        let registration = self.registrations.find(&job.private_identity, &job.public_identity);
        if let Some(refusal) = self.contradiction(job, registration) {
            return Decision::Refuse(refusal);
        }
        match registration.map(|registration| self.decide_by_policy(job, registration)) {
            Some(Decision::Refuse(Refusal::ContactNotRegistered)) | None => Decision::Challenge(1),
            Some(decision) => decision,
        }
    }

    /// A registration that was restored for this REGISTER goes again when the REGISTER fails: the
    /// HSS has not assigned it to this S-CSCF.
    pub(crate) fn forget_restored(&mut self, job: &Registering, out: &mut Vec<Output>) {
        if !job.is_restored {
            return;
        }
        let held = self.registrations.find(&job.private_identity, &job.public_identity);
        if let Some(set) = held.map(Registration::set) {
            let private_identity = job.private_identity.clone();
            self.registrations.commit(Change::Removed { private_identity, set }, out);
        }
    }

    /// TS 29.228 §6.1.2.1: what another S-CSCF needs to serve these contacts.
    pub(crate) fn restoration_info(
        &self,
        private_identity: &Impi,
        bindings: &[Binding],
    ) -> Option<ScscfRestorationInfo> {
        if !self.config.registration.restoration || bindings.is_empty() {
            return None;
        }
        Some(ScscfRestorationInfo {
            user_name: private_identity.as_str().to_owned(),
            contacts: bindings.iter().map(RestorationInfo::from).collect(),
            registration_time_out: bindings.iter().map(|binding| binding.expires_at_seconds).max(),
            scheme: None,
        })
    }
}

impl From<&Binding> for RestorationInfo {
    fn from(binding: &Binding) -> RestorationInfo {
        RestorationInfo {
            path: binding.path.join(", "),
            contact: binding.contact.clone(),
            cseq: Some(binding.cseq),
            call_id: Some(binding.call_id.clone()),
            subscription: None,
            pcscf_subscription: None,
        }
    }
}

/// TS 24.229 §5.4.1.2.2: the HSS knows the user as registered nowhere, or elsewhere: 500 makes the
/// UE begin anew.
fn outcome_refusal(outcome: Outcome) -> Option<Refusal> {
    match outcome {
        _ if outcome.is_success() => None,
        Outcome::USER_UNKNOWN | Outcome::IDENTITIES_DONT_MATCH => {
            Some(Refusal::NotAllowed(outcome))
        }
        _ => Some(Refusal::NotRegisteredHere),
    }
}
