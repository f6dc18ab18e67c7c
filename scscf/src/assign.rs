//! Assignment: what follows when a REGISTER is accepted (TS 24.229 §5.4.1.2.2, TS 29.228 §6.1.2).
//!
//! 1. `ask_for_assignment`  SAR
//! 2. `assigned`            take the profile, bind the contacts, answer 200; or undo and refuse
//!    `given_back`          what was undone is undone at the HSS, or it is told again

use common::cx::sar::ServerAssignmentType;
use common::cx::user_data::{PublicIdentity, ServiceProfile, UserData};
use common::cx::{self, Answered, Outcome, Saa, Sar};
use common::diameter::endpoint::NoAnswer;
use common::node::{Now, Output};
use common::sip::header::Name;
use common::sip::message::Response;

use crate::contacts::Origin;
use crate::deregister::is_final;
use crate::filter_criteria::RegistrationType;
use crate::register::{Refusal, Registering};
use crate::state::{Binding, Change, Charging, Registration};
use crate::third_party::{Notice, Occasion};
use crate::watch::Cause;
use crate::{OnAnswer, Scscf};

/// Waits for the SAA.
#[derive(Debug)]
pub struct Assigning {
    job: Registering,
}

impl Scscf {
    /// TS 29.228 §6.1.2.1: REGISTRATION where the identity was not registered here,
    /// RE_REGISTRATION where it was; the profile is asked for unless it is at hand.
    pub(crate) fn ask_for_assignment(&mut self, now: Now, job: Registering, out: &mut Vec<Output>) {
        let held = self.registrations.find(&job.private_identity, &job.public_identity);
        let is_registered = held.is_some_and(|held| !held.bindings.is_empty());
        let bindings = self.bindings_after(now, &job);
        let sar = Sar {
            user_name: Some(job.private_identity.as_str().to_owned()),
            public_identities: vec![job.public_identity.as_str().to_owned()],
            server_name: self.own.server_name.clone(),
            server_assignment_type: match is_registered {
                true => ServerAssignmentType::ReRegistration,
                false => ServerAssignmentType::Registration,
            },
            user_data_already_available: is_registered,
            restoration: self.restoration_of(&job, &bindings),
            is_multiple_registration: job.contacts.has_flows(),
            ..Sar::default()
        };
        let hss_host = job.hss_host.clone().or_else(|| held.map(|held| held.hss_host.clone()));
        let wait = OnAnswer::Assigned(Box::new(Assigning { job }));
        let limit = self.config.timeouts.hss();
        self.cx.ask(now, cx::Request::Sar(sar), hss_host.as_deref(), wait, limit, out);
    }

    /// The contacts once this REGISTER is done.
    fn bindings_after(&self, now: Now, job: &Registering) -> Vec<Binding> {
        let held = self.registrations.find(&job.private_identity, &job.public_identity);
        let request = job.incoming.request();
        let path: Vec<_> = request.headers().values(Name::Path).map(str::to_owned).collect();
        let origin = Origin {
            identity: &job.public_identity,
            call_id: request.call_id(),
            cseq: request.cseq(),
            path: &path,
        };
        job.contacts.applied(now, held.map_or(&[][..], |held| &held.bindings), &origin)
    }

    pub(crate) fn assigned(
        &mut self,
        now: Now,
        wait: Assigning,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let mut job = wait.job;
        let saa = match result {
            Ok(Answered { answer: cx::Answer::Saa(saa), origin_host, .. }) => {
                job.hss_host = Some(origin_host);
                saa
            }
            Ok(_) => return self.unanswered(now, job, NoAnswer::Malformed, out),
            Err(no_answer) => return self.unanswered(now, job, no_answer, out),
        };
        if let Some(refusal) = outcome_refusal(saa.outcome) {
            return self.refuse(now, job, refusal, out);
        }
        match self.profile_of(&job, &saa) {
            Ok(service_profiles) => self.bind(now, job, service_profiles, saa, out),
            Err(refusal) => self.unassign(now, job, refusal, out),
        }
    }

    /// TS 29.228 §6.1.2.1: the HSS may have the user registered at this S-CSCF from now on, which knows nobody: it
    /// hears that the user is gone, unless the UE comes again before. Who was registered stays so, here and
    /// there; and of a user whom another S-CSCF has had, the HSS may have that registration still.
    fn unanswered(
        &mut self,
        now: Now,
        job: Registering,
        no_answer: NoAnswer,
        out: &mut Vec<Output>,
    ) {
        let held = self.registrations.find(&job.private_identity, &job.public_identity);
        let was_asked = no_answer != NoAnswer::Overloaded;
        if held.is_none() && was_asked && !job.is_reselected() {
            let gone = self.gone(&job);
            self.owe_end(now, gone, out);
        }
        self.refuse(now, job, Refusal::of_no_answer(no_answer), out);
    }

    /// A registration of nothing, with no more of the set than is known.
    fn gone(&self, job: &Registering) -> Registration {
        let identity = job.public_identity.as_str().to_owned();
        let public_identities = vec![PublicIdentity { identity, ..PublicIdentity::default() }];
        let profile = ServiceProfile { public_identities, ..ServiceProfile::default() };
        self.registration(job, vec![profile], Charging::default())
    }

    /// It stays until the HSS has heard that nobody is registered, also across a restart.
    fn owe_end(&mut self, now: Now, gone: Registration, out: &mut Vec<Output>) {
        let (private_identity, set) = (gone.private_identity.clone(), gone.set());
        self.registrations.commit(Change::Stored(Box::new(gone)), out);
        self.tell_end_later(now, private_identity, set);
    }

    /// TS 29.228 §6.1.2.1: the profile of the answer, or the one at hand. It must hold the identity
    /// that registers, and one that may be used.
    fn profile_of(&self, job: &Registering, saa: &Saa) -> Result<Vec<ServiceProfile>, Refusal> {
        let held = self.registrations.find(&job.private_identity, &job.public_identity);
        let service_profiles = match (&saa.user_data, held) {
            (Some(xml), _) => match UserData::parse(xml) {
                Ok(data) => data.service_profiles,
                Err(malformed) => {
                    tracing::warn!(reason = malformed.0, "User-Data is no service profile");
                    return Err(Refusal::ProfileUnusable);
                }
            },
            // What merely waits for the HSS to hear of its end has an old profile or none.
            (None, Some(held)) if !held.bindings.is_empty() => held.service_profiles.clone(),
            (None, _) => return Err(Refusal::NoProfile),
        };
        let registration = self.registration(job, service_profiles, Charging::default());
        // TS 24.229 §5.4.8.2: barred identities may register for emergency calls.
        let is_usable = registration.has_unbarred() || job.contacts.is_emergency();
        if !registration.contains(&job.public_identity) || !is_usable {
            return Err(Refusal::Barred);
        }
        Ok(registration.service_profiles)
    }

    pub(crate) fn registration(
        &self,
        job: &Registering,
        service_profiles: Vec<ServiceProfile>,
        charging: Charging,
    ) -> Registration {
        Registration {
            private_identity: job.private_identity.clone(),
            service_profiles,
            charging,
            hss_host: job.hss_host.clone().unwrap_or_default(),
            visited_network: job.visited_network.clone(),
            unchallenged: 0,
            is_reauthentication_due: false,
            told: Vec::new(),
            refused_ends: 0,
            bindings: Vec::new(),
        }
    }

    /// TS 24.229 §5.4.1.2.2: the contacts are bound to the whole implicit set and stored before the
    /// 200 leaves.
    fn bind(
        &mut self,
        now: Now,
        mut job: Registering,
        service_profiles: Vec<ServiceProfile>,
        saa: Saa,
        out: &mut Vec<Output>,
    ) {
        let held = self.registrations.find(&job.private_identity, &job.public_identity);
        let charging = match (saa.charging_information, held) {
            (Some(information), _) => Charging::from(information),
            (None, Some(held)) => held.charging.clone(),
            (None, None) => Charging::default(),
        };
        let mut bindings = self.bindings_after(now, &job);
        self.assign_gruus(&job, &mut bindings, out);
        let held = self.registrations.find(&job.private_identity, &job.public_identity);
        let unchallenged = match job.is_authenticated {
            true => 0,
            false => held.map_or(0, |held| held.unchallenged.saturating_add(1)),
        };
        let is_reauthentication_due =
            !job.is_authenticated && held.is_some_and(|held| held.is_reauthentication_due);
        let is_first = held.is_none_or(|held| held.bindings.is_empty());
        // Of an emergency registration servers know nothing.
        let is_news = held.is_none_or(|held| !held.has_binding());
        let mut told = held.filter(|_| !is_news).map_or_else(Vec::new, |held| held.told.clone());
        let is_told = job.contacts.wanted.iter().any(|wanted| !wanted.is_emergency);
        if is_told && !told.contains(&job.public_identity) {
            told.push(job.public_identity.clone());
        }
        let registration = Registration {
            told,
            bindings,
            unchallenged,
            is_reauthentication_due,
            ..self.registration(&job, service_profiles, charging)
        };
        self.take_over(now, &mut job, out);
        self.let_go(now, &job, &registration, out);
        self.replace(now, registration, out);
        let response = self.success(now, &job);
        job.notices = self.notices_of_registration(now, &job, &response, is_news);
        let outcome = if is_first { "registered" } else { "refreshed" };
        self.finish_register(now, job, response, outcome, out);
    }

    /// TS 24.229 §5.4.1.7: who hears of it. An emergency registration concerns no server
    /// (TS 24.229 §5.4.8).
    fn notices_of_registration(
        &mut self,
        now: Now,
        job: &Registering,
        response: &Response,
        is_first: bool,
    ) -> Vec<Notice> {
        if job.contacts.wanted.iter().all(|wanted| wanted.is_emergency) {
            return Vec::new();
        }
        let held = self.registrations.find(&job.private_identity, &job.public_identity);
        let Some(held) = held.cloned() else { return Vec::new() };
        // The identity is registered for as long as any of its devices.
        let sharers = self.registrations.sharers(&job.public_identity).iter();
        let left = sharers
            .filter_map(|sharer| self.registrations.find(sharer, &job.public_identity))
            .flat_map(Registration::reported)
            .map(|binding| binding.expires_seconds(now))
            .max();
        let occasion = Occasion {
            registration: &held,
            public_identity: &job.public_identity,
            kind: if is_first { RegistrationType::Initial } else { RegistrationType::Again },
            exchange: Some((job.incoming.request(), response)),
            expires_seconds: left.unwrap_or(0),
        };
        self.notices_of(now, &occasion)
    }

    /// RFC 3680 §5.3: contacts that the same REGISTER gives up are told as given up by the UE, and not as having
    /// had to make room.
    fn let_go(
        &mut self,
        now: Now,
        job: &Registering,
        registration: &Registration,
        out: &mut Vec<Output>,
    ) {
        let Some(held) = self.registrations.of_set(&job.private_identity, &registration.set())
        else {
            return;
        };
        let ends = |binding: &Binding| {
            let mut wanted = job.contacts.wanted.iter();
            wanted.any(|one| one.expires_seconds == 0 && one.is_bound_as(binding))
        };
        if !held.bindings.iter().any(ends) {
            return;
        }
        let is_new =
            |binding: &&Binding| held.bindings.iter().all(|other| other.uri != binding.uri);
        let stays = held.bindings.iter().filter(|binding| !ends(binding));
        let bindings = stays.chain(registration.bindings.iter().filter(is_new)).cloned().collect();
        let between = Registration { bindings, ..registration.clone() };
        self.store(now, between, Cause::Unregistered, out);
    }

    /// Stores a registration in the place of those of the same private identity that it overlaps:
    /// the HSS may have cut the implicit sets anew.
    fn replace(&mut self, now: Now, registration: Registration, out: &mut Vec<Output>) {
        let set = registration.set();
        let private_identity = registration.private_identity.clone();
        let overlaps = |other: &&Registration| {
            other.set() != set
                && registration
                    .identities()
                    .any(|identity| other.contains(&crate::state::canonical(identity)))
        };
        let others = self.registrations.of(&private_identity).iter();
        let replaced: Vec<_> = others.filter(overlaps).map(Registration::set).collect();
        // TS 24.229 §5.4.1.2.2F: a contact that another takes the place of is gone, and whoever is
        // there shall register again.
        self.store(now, registration, Cause::Deactivated, out);
        for set in replaced {
            self.remove(now, &private_identity, &set, Cause::Deactivated, out);
        }
    }

    /// TS 29.228 §6.1.2.1: an assignment that was granted and cannot be used is given back, and
    /// nothing of it stays here but what an emergency registration made (TS 24.229 §5.4.8.4): where there is that,
    /// the HSS hears nothing either, or it would have no S-CSCF for it. Servers hear of the end, and phones: to come
    /// again where only this S-CSCF cannot use the profile.
    fn unassign(&mut self, now: Now, job: Registering, refusal: Refusal, out: &mut Vec<Output>) {
        let (assignment_type, told) = match refusal {
            Refusal::ProfileUnusable => {
                (ServerAssignmentType::DeregistrationTooMuchData, Cause::Deactivated)
            }
            _ => (ServerAssignmentType::AdministrativeDeregistration, Cause::Rejected),
        };
        self.forget_restored(now, &job, out);
        let private_identity = &job.private_identity;
        let held = self.registrations.find(private_identity, &job.public_identity).cloned();
        let set = held.as_ref().map_or_else(|| job.public_identity.clone(), Registration::set);
        if !self.spare_emergency(now, private_identity, &set, told, out) {
            self.give_back(now, &job, assignment_type, out);
            self.remove(now, private_identity, &set, told, out);
            self.say_goodbye(now, held.as_ref(), out);
        }
        self.refuse(now, job, refusal, out);
    }

    fn give_back(
        &mut self,
        now: Now,
        job: &Registering,
        assignment_type: ServerAssignmentType,
        out: &mut Vec<Output>,
    ) {
        let sar = Sar {
            user_name: Some(job.private_identity.as_str().to_owned()),
            public_identities: vec![job.public_identity.as_str().to_owned()],
            server_name: self.own.server_name.clone(),
            server_assignment_type: assignment_type,
            ..Sar::default()
        };
        let wait = OnAnswer::GivenBack(Box::new(self.gone(job)));
        let limit = self.config.timeouts.hss();
        self.cx.ask(now, cx::Request::Sar(sar), job.hss_host.as_deref(), wait, limit, out);
    }

    /// TS 29.228 §6.1.2.1: an HSS that has not heard it has the user registered here, for good unless it is told
    /// again; unless the user has come again meanwhile.
    pub(crate) fn given_back(
        &mut self,
        now: Now,
        gone: Registration,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let (is_final, is_success) = match &result {
            Ok(Answered { answer: cx::Answer::Saa(saa), .. }) => {
                (is_final(saa.outcome), saa.outcome.is_success())
            }
            _ => (false, false),
        };
        if is_success {
            return;
        }
        self.stats.untold += 1;
        tracing::warn!(
            private_identity = %self.logged(gone.private_identity.as_str()),
            result = ?result.map(|answered| answered.answer.outcome()),
            is_final,
            "the HSS did not take back an assignment that cannot be used"
        );
        let is_here = self.registrations.find(&gone.private_identity, &gone.set()).is_some();
        if !is_final && !is_here {
            self.owe_end(now, gone, out);
        }
    }
}

/// TS 29.228 §6.1.2.1
fn outcome_refusal(outcome: Outcome) -> Option<Refusal> {
    match outcome {
        _ if outcome.is_success() => None,
        Outcome::USER_UNKNOWN
        | Outcome::IDENTITIES_DONT_MATCH
        | Outcome::AUTHORIZATION_REJECTED
        | Outcome::IN_ASSIGNMENT_TYPE => Some(Refusal::NotAllowed(outcome)),
        Outcome::IDENTITY_ALREADY_REGISTERED => Some(Refusal::RegisteredElsewhere),
        other => Some(Refusal::HssFailed(other)),
    }
}
