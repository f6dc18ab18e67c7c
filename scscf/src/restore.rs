//! IMS restoration (TS 23.380 §4): registrations whose S-CSCF failed, or lost what it had stored.
//!
//! 1. `ask_for_restoration`  a REGISTER inside security associations, of a user unknown here: SAR with
//!    NO_ASSIGNMENT
//! 2. `restored`             take what another S-CSCF left with the HSS and go on with the REGISTER;
//!    where nothing was left, the UE begins anew
//! 3. `take_over`            the HSS has assigned the user: what was taken is this S-CSCF's own
//!    `forget_restored`      the REGISTER has ended in any other way: it is the other one's still
//!
//! `restoration_info` is what this S-CSCF leaves in its turn, with the SAR of every REGISTER. Watchers
//! come behind the REGISTER:
//!
//! 1. `back_up_later`  a watcher that is left for others has subscribed
//! 2. `back_up`        SAR with RE_REGISTRATION: all of them together
//! 3. `backed_up`      the HSS has it, or the next REGISTER brings it

use std::time::Duration;

use common::cx::sar::ServerAssignmentType;
use common::cx::user_data::{ServiceProfile, UserData};
use common::cx::{
    self, Answered, Outcome, RestorationInfo, Saa, Sar, ScscfRestorationInfo, SubscriptionInfo,
};
use common::diameter::endpoint::NoAnswer;
use common::identity::{Impi, Impu};
use common::node::{Now, Output};
use common::sip::address::Address;
use common::sip::parameter;
use common::sip::uri::{Host, Uri};

use crate::contacts::Wanted;
use crate::register::{Decision, REPEATED_FOR_SECONDS, Refusal, Registering, is_bound_by};
use crate::state::{Binding, Change, Charging, Registration, end_of};
use crate::subscriptions::{Subscription, Watcher};
use crate::{OnAnswer, Scscf, Timer};

/// P-CSCF and UE subscribe at the same time, behind the 200: they go to the HSS together.
const BACK_UP_AFTER: Duration = Duration::from_secs(1);

/// Waits for the SAA.
#[derive(Debug)]
pub struct Restoring {
    job: Registering,
}

/// A registration of another S-CSCF, and what that one left of it.
#[derive(Clone, Debug)]
pub struct Restored {
    registration: Registration,
    left: ScscfRestorationInfo,
}

impl Restored {
    pub(crate) fn is_of(&self, private_identity: &Impi) -> bool {
        self.registration.private_identity == *private_identity
    }
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
        if job.is_reselected() {
            self.forget_older(now, &job, out);
        }
        job.restored = self.restore(now, &job, saa);
        let held = self.registrations.find(&job.private_identity, &job.public_identity);
        let is_restored = held.is_some();
        self.stats.restoration(if is_restored { "restored" } else { "nothing_left" });
        let decision = match is_restored {
            true => self.decide_restored(&job),
            // A first registration whose S-CSCF failed in the middle: the answer came inside a set that
            // was made for it, and a P-CSCF has no offer left to secure another challenge with.
            false => Decision::Refuse(Refusal::NotRegisteredHere),
        };
        self.follow(now, job, decision, out);
    }

    /// TS 29.228 §6.1.2.1: makes the registrations that were left, of this private identity and of
    /// those that share the public one. They are the other S-CSCF's until the HSS has assigned the user to
    /// this one: nothing is stored, and whoever watches is left alone.
    fn restore(&mut self, now: Now, job: &Registering, saa: Saa) -> Vec<Restored> {
        let data = saa.user_data.as_deref().and_then(|xml| UserData::parse(xml).ok());
        let Some(data) = data else { return Vec::new() };
        let charging = saa.charging_information.map(Charging::from).unwrap_or_default();
        let mut restored = Vec::new();
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
                "registration of another S-CSCF taken up"
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
            self.registrations.hold(registration.clone());
            restored.push(Restored { registration, left });
        }
        restored
    }

    /// The challenge of a takeover is answered: it goes on with what was kept beside the challenge.
    pub(crate) fn restore_again(
        &mut self,
        now: Now,
        public_identity: &Impu,
        mut restored: Vec<Restored>,
    ) -> Vec<Restored> {
        restored.retain_mut(|Restored { registration, .. }| {
            let held = self.registrations.find(&registration.private_identity, public_identity);
            registration.bindings.retain(|binding| !binding.has_expired(now));
            let is_full = self.registrations.len() >= self.config.limits.registrations;
            let is_good = held.is_none() && !registration.bindings.is_empty() && !is_full;
            if is_good {
                self.registrations.hold(registration.clone());
            }
            is_good
        });
        restored
    }

    /// TS 23.380 §4.2: the HSS has assigned the user to this S-CSCF, with all that another one left.
    pub(crate) fn take_over(&mut self, now: Now, job: &mut Registering, out: &mut Vec<Output>) {
        for Restored { registration, left } in std::mem::take(&mut job.restored) {
            let set = registration.set();
            let held = self.registrations.of_set(&registration.private_identity, &set);
            if held == Some(&registration) {
                self.registrations.commit(Change::Stored(Box::new(registration.clone())), out);
            }
            // The HSS or the user may have ended it meanwhile.
            if self.registrations.of_set(&registration.private_identity, &set).is_some() {
                self.take_over_watchers(now, &left, &registration, out);
            }
        }
    }

    /// TS 29.228 §6.1.2.1: what this S-CSCF leaves in its turn with the SAR of a takeover. Watchers that it
    /// is only about to take over are left again.
    pub(crate) fn restoration_of(
        &self,
        job: &Registering,
        bindings: &[Binding],
    ) -> Option<ScscfRestorationInfo> {
        let mut info =
            self.restoration_info(&job.private_identity, &job.public_identity, bindings)?;
        let is_own = |one: &&Restored| one.is_of(&job.private_identity);
        let uri_of = |contact: &str| Address::parse(contact).ok().map(|contact| contact.uri_text);
        for old in job.restored.iter().filter(is_own).flat_map(|one| &one.left.contacts) {
            let is_it = |new: &&mut RestorationInfo| {
                uri_of(&new.contact).is_some_and(|uri| uri_of(&old.contact) == Some(uri))
            };
            let Some(new) = info.contacts.iter_mut().find(is_it) else { continue };
            new.subscription = new.subscription.take().or_else(|| old.subscription.clone());
            let pcscf = new.pcscf_subscription.take();
            new.pcscf_subscription = pcscf.or_else(|| old.pcscf_subscription.clone());
        }
        Some(info)
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

    /// TS 29.229 §6.3.46: without a time-out a contact lives as long as one that asks for nothing. The time-out is that
    /// of the last contact to end; one for emergency calls, which nothing but time ends, has its own limit (TS 24.229
    /// §5.4.8.2).
    fn bindings_left(&self, now: Now, left: &ScscfRestorationInfo) -> Vec<Binding> {
        let default = u64::from(self.config.registration.expires_default_seconds);
        let ends_at = left.registration_time_out.unwrap_or(now.as_secs() + default);
        if ends_at <= now.as_secs() {
            return Vec::new();
        }
        let longest = u64::from(self.config.registration.emergency_expires_seconds);
        let restored = |contact| {
            let mut binding = Binding::restored(contact, ends_at)?;
            if binding.is_emergency {
                binding.expires_at_seconds = ends_at.min(now.as_secs() + longest);
            }
            Some(binding)
        };
        left.contacts.iter().filter_map(restored).collect()
    }

    /// TS 24.229 §5.4.1.2.2: a restored user is treated like any other one who is registered. An
    /// unknown contact only means that what was left is older than the UE. The very REGISTER that the other
    /// S-CSCF failed on, behind its SAR, is only to be assigned here.
    fn decide_restored(&self, job: &Registering) -> Decision {
        let registration = self.registrations.find(&job.private_identity, &job.public_identity);
        if registration.is_some_and(|registration| is_the_one_left(job, registration)) {
            return Decision::Accept;
        }
        if let Some(refusal) = self.contradiction(job, registration) {
            return Decision::Refuse(refusal);
        }
        match registration.map(|registration| self.decide_by_policy(job, registration)) {
            Some(Decision::Refuse(Refusal::ContactNotRegistered)) | None => Decision::Challenge(1),
            Some(decision) => decision,
        }
    }

    /// All that was restored for this REGISTER goes again when the REGISTER ends without an assignment:
    /// it is the other S-CSCF's still. What a REGISTER of another device has changed meanwhile was assigned
    /// by that one.
    pub(crate) fn forget_restored(&mut self, now: Now, job: &Registering, out: &mut Vec<Output>) {
        for one in &job.restored {
            let registration = &one.registration;
            let private_identity = &registration.private_identity;
            let set = registration.set();
            let held = self.registrations.of_set(private_identity, &set);
            if one.is_of(&job.private_identity) || held == Some(registration) {
                self.forget(now, private_identity, &set, out);
            }
        }
    }

    /// What was stored here before another S-CSCF had the user, which this one was not told.
    fn forget_older(&mut self, now: Now, job: &Registering, out: &mut Vec<Output>) {
        for sharer in self.registrations.sharers(&job.public_identity).to_vec() {
            self.forget(now, &sharer, &job.public_identity, out);
        }
    }

    /// Nobody is told: the watchers are another S-CSCF's.
    fn forget(
        &mut self,
        now: Now,
        private_identity: &Impi,
        public_identity: &Impu,
        out: &mut Vec<Output>,
    ) {
        let held = self.registrations.find(private_identity, public_identity);
        if let Some(set) = held.map(Registration::set) {
            self.remove(now, private_identity, &set, crate::watch::Cause::Silently, out);
        }
    }

    /// TS 29.229 §6.3.49, §6.3.63: whoever watched goes on watching. How far CSeq and version had come was
    /// not left: both go on at the seconds of the epoch, which no dialog has counted to.
    fn take_over_watchers(
        &mut self,
        now: Now,
        left: &ScscfRestorationInfo,
        registration: &Registration,
        out: &mut Vec<Output>,
    ) {
        let ends_at = registration.bindings.iter().map(|binding| binding.expires_at_seconds).max();
        let counted = u32::try_from(now.as_secs()).unwrap_or(0) & 0x7fff_ffff;
        for contact in &left.contacts {
            let watchers = [
                (&contact.subscription, Watcher::User),
                (&contact.pcscf_subscription, Watcher::Pcscf),
            ];
            for (info, watcher) in watchers {
                let Some(info) = info else { continue };
                let Some(dialog) = read_dialog(info) else {
                    tracing::warn!(?watcher, "a watcher that was left cannot be read");
                    continue;
                };
                let is_full = self.subscriptions.len() >= self.config.reg_event.subscriptions_max;
                let is_here = self.subscriptions.get(&dialog.local_tag).is_some();
                if is_full || is_here || !registration.contains(&dialog.public_identity) {
                    continue;
                }
                let subscription = Subscription {
                    watcher,
                    expires_at_seconds: ends_at.unwrap_or(0),
                    local_cseq: counted,
                    version: counted,
                    ..dialog
                };
                self.subscriptions.take_over(subscription, out);
            }
        }
    }

    /// TS 29.228 §6.1.2.1: what another S-CSCF needs to serve these contacts of a private identity.
    /// `public_identity`: one of the set.
    pub(crate) fn restoration_info(
        &self,
        private_identity: &Impi,
        public_identity: &Impu,
        bindings: &[Binding],
    ) -> Option<ScscfRestorationInfo> {
        if !self.config.registration.restoration || bindings.is_empty() {
            return None;
        }
        let held = self.registrations.find(private_identity, public_identity);
        let identities = held.into_iter().flat_map(Registration::identities);
        let watching: Vec<&Subscription> = identities
            .map(crate::state::canonical)
            .flat_map(|identity| self.subscriptions.of(&identity))
            .filter_map(|tag| self.subscriptions.get(tag))
            .filter(|subscription| subscription.ends.is_none())
            .collect();
        let of = |binding: &Binding, watcher: Watcher| {
            let mut fitting = watching.iter().filter(|one| one.watcher == watcher);
            // The last one is the one that is alive.
            fitting.rfind(|one| is_for(one, binding)).map(|one| SubscriptionInfo::from(*one))
        };
        let contact_of = |binding: &Binding| RestorationInfo {
            path: binding.path.join(", "),
            contact: binding.contact.clone(),
            cseq: Some(binding.cseq),
            call_id: Some(binding.call_id.clone()),
            subscription: of(binding, Watcher::User),
            pcscf_subscription: of(binding, Watcher::Pcscf)
                .map(|info| SubscriptionInfo { record_route: None, ..info }),
        };
        Some(ScscfRestorationInfo {
            user_name: private_identity.as_str().to_owned(),
            contacts: bindings.iter().map(contact_of).collect(),
            registration_time_out: bindings.iter().map(|binding| binding.expires_at_seconds).max(),
            scheme: None,
        })
    }

    /// TS 23.380 §4.4: what was left with the REGISTER did not have this watcher.
    pub(crate) fn back_up_later(&mut self, now: Now, subscription: &Subscription) {
        if !self.config.registration.restoration {
            return;
        }
        for sharer in self.registrations.sharers(&subscription.public_identity) {
            let held = self.registrations.find(sharer, &subscription.public_identity);
            let Some(held) = held else { continue };
            if held.bindings.iter().any(|binding| is_for(subscription, binding)) {
                let timer = Timer::BackUp(sharer.clone(), held.set());
                self.timers.set(timer, now + BACK_UP_AFTER);
            }
        }
    }

    /// TS 29.228 §6.1.2.1: RE_REGISTRATION changes nothing but what is left.
    pub(crate) fn back_up(
        &mut self,
        now: Now,
        private_identity: &Impi,
        set: &Impu,
        out: &mut Vec<Output>,
    ) {
        let held = self.registrations.of_set(private_identity, set);
        let restoration =
            held.and_then(|held| self.restoration_info(private_identity, set, &held.bindings));
        let (Some(held), Some(restoration)) = (held, restoration) else {
            return self.finish(now, private_identity, out);
        };
        let identity = held.default_identity();
        let sar = Sar {
            user_name: Some(private_identity.as_str().to_owned()),
            public_identities: vec![identity.as_str().to_owned()],
            server_name: self.own.server_name.clone(),
            server_assignment_type: ServerAssignmentType::ReRegistration,
            user_data_already_available: true,
            restoration: Some(restoration),
            ..Sar::default()
        };
        let hss_host = held.hss_host.clone();
        let wait = OnAnswer::BackedUp { private_identity: private_identity.clone() };
        let limit = self.config.timeouts.hss();
        self.cx.ask(now, cx::Request::Sar(sar), Some(&hss_host), wait, limit, out);
    }

    pub(crate) fn backed_up(
        &mut self,
        now: Now,
        private_identity: &Impi,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let outcome = match result {
            Ok(Answered { answer: cx::Answer::Saa(saa), .. }) if saa.outcome.is_success() => {
                // What a PPR could not bring comes with whatever SAA is next (TS 29.228 §6.2.2.1).
                if saa.user_data.is_some() || saa.charging_information.is_some() {
                    let (user_data, charging) = (saa.user_data, saa.charging_information);
                    let user_data = user_data.as_deref();
                    let taken = self.take_changes(now, private_identity, user_data, charging, out);
                    self.stats.pushed(taken.is_success());
                }
                "watchers_left"
            }
            result => {
                tracing::info!(
                    procedure = "restoration",
                    private_identity = %self.logged(private_identity.as_str()),
                    result = ?result.map(|answered| answered.answer.outcome()),
                    "the HSS did not take what is left of watchers"
                );
                "watchers_not_left"
            }
        };
        self.stats.restoration(outcome);
        self.finish(now, private_identity, out);
    }
}

/// The REGISTER that the other S-CSCF failed on, as `register::is_repeated` has it. Of several contacts only the
/// end of the last one was left (TS 29.229 §6.3.46), which may be another REGISTER's and later.
fn is_the_one_left(job: &Registering, registration: &Registration) -> bool {
    let wanted: Vec<_> =
        job.contacts.wanted.iter().filter(|wanted| wanted.expires_seconds > 0).collect();
    let request = job.incoming.request();
    let is_bound = |wanted: &&Wanted| {
        registration.bindings.iter().any(|binding| is_bound_by(request, wanted, binding))
    };
    let longest = wanted.iter().map(|wanted| wanted.expires_seconds).max();
    let left = registration.bindings.iter().map(|binding| binding.expires_at_seconds).max();
    let (Some(longest), Some(left)) = (longest, left) else { return false };
    let age = end_of(longest, job.received).saturating_sub(left);
    job.is_protected && age <= REPEATED_FOR_SECONDS && wanted.iter().all(is_bound)
}

/// Whether a watcher is the UE of a contact, or the P-CSCF in its Path.
fn is_for(subscription: &Subscription, binding: &Binding) -> bool {
    let host_port = |text: &str| Uri::parse(text).ok()?.host_port;
    let host = |text: &str| host_port(text).map(|host_port| host_port.host);
    match subscription.watcher {
        Watcher::User => host_port(&subscription.remote_target) == host_port(&binding.uri),
        Watcher::Pcscf => {
            let uri = |text: &str| Address::parse(text).ok().map(|address| address.uri_text);
            let own: [Option<Host>; 2] = [
                uri(&subscription.remote).and_then(|uri| host(&uri)),
                host(&subscription.remote_target),
            ];
            let mut path = binding.path.iter().filter_map(|path| host(&uri(path)?));
            path.any(|one| own.contains(&Some(one)))
        }
        Watcher::ApplicationServer => false,
    }
}

impl From<&Subscription> for SubscriptionInfo {
    fn from(subscription: &Subscription) -> SubscriptionInfo {
        let tagged = |address: &str, tag: &str| match tag.is_empty() {
            true => address.to_owned(),
            false => format!("{address};tag={tag}"),
        };
        let route_set = &subscription.route_set;
        SubscriptionInfo {
            call_id: subscription.call_id.clone(),
            from: tagged(&subscription.remote, &subscription.remote_tag),
            to: tagged(&subscription.local, &subscription.local_tag),
            record_route: (!route_set.is_empty()).then(|| route_set.join(", ")),
            contact: format!("<{}>", subscription.remote_target),
        }
    }
}

/// The dialog of a watcher; what was not left is empty.
fn read_dialog(left: &SubscriptionInfo) -> Option<Subscription> {
    let (from, to) = (Address::parse(&left.from).ok()?, Address::parse(&left.to).ok()?);
    let tag_of = |address: &Address| address.parameter("tag").map(str::to_owned);
    let untagged = |mut address: Address| {
        address.remove_parameter("tag");
        address.to_string()
    };
    let route_set = left.record_route.as_deref().unwrap_or("");
    Some(Subscription {
        call_id: left.call_id.clone(),
        local_tag: tag_of(&to)?,
        remote_tag: tag_of(&from).unwrap_or_default(),
        public_identity: to.uri.public_identity(),
        local: untagged(to),
        remote: untagged(from),
        remote_target: Address::parse(&left.contact).ok()?.uri_text,
        route_set: parameter::list(route_set).map(str::to_owned).collect(),
        remote_cseq: 0,
        local_cseq: 0,
        event_id: None,
        watcher: Watcher::User,
        expires_at_seconds: 0,
        version: 0,
        is_owed: true,
        ends: None,
    })
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
