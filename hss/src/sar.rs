//! Server assignment: registration state, profile download (TS 29.228 §6.1.2).

use common::cx::rtr::ReasonCode;
use common::cx::sar::ServerAssignmentType as Type;
use common::cx::{ChargingInformation, Outcome, Saa, Sar, ScscfRestorationInfo};

use crate::config::Config;
use crate::database::{
    Database, PrivateIdentity, PublicIdentity, Restoration, Server, State, Subscription,
};
use crate::profile;
use crate::push::{Holder, Termination};
use crate::refusal::Refusal;

/// The answer, and what other S-CSCFs have to be told because of it.
#[derive(Debug)]
pub struct Assigned {
    pub answer: Saa,
    pub terminations: Vec<Termination>,
}

/// What a request is about, once its identities are found.
struct Subject<'a> {
    database: &'a Database,
    config: &'a Config,
    sar: &'a Sar,
    /// The S-CSCF that asks.
    server: &'a Server,
    private: Option<PrivateIdentity>,
    public: Vec<PublicIdentity>,
    subscription: Subscription,
}

/// TS 29.228 §6.1.2.1: an S-CSCF is assigned to, or takes leave of, public identities.
///
/// # Errors
/// The first check that fails, in the order of the clause.
pub fn assign(
    database: &Database,
    config: &Config,
    sar: &Sar,
    server: &Server,
) -> Result<Assigned, Refusal> {
    database.begin()?;
    let private = match &sar.user_name {
        Some(user_name) => {
            Some(database.private_identity(user_name)?.ok_or(Refusal::UnknownPrivateIdentity)?)
        }
        None => None,
    };
    let mut public = Vec::with_capacity(sar.public_identities.len());
    for identity in &sar.public_identities {
        let found = database.public_identity(identity)?.ok_or(Refusal::UnknownPublicIdentity)?;
        public.push(found);
    }
    let subscription = private
        .as_ref()
        .map(|private| private.subscription)
        .or(public.first().map(|public| public.subscription))
        .ok_or(Refusal::MissingIdentity)?;
    for identity in &public {
        let is_associated = match &private {
            Some(private) => database.is_associated(identity.implicit_set, private.id)?,
            None => identity.subscription == subscription,
        };
        if !is_associated {
            return Err(Refusal::NotAssociated);
        }
    }
    let subscription = database.subscription(subscription)?;
    let subject = Subject { database, config, sar, server, private, public, subscription };
    subject.check_identities()?;

    let kept_to_itself = |answer| Ok(Assigned { answer, terminations: Vec::new() });
    match sar.server_assignment_type {
        Type::Registration | Type::ReRegistration => subject.register(),
        Type::UnregisteredUser => subject.serve_unregistered(),
        Type::NoAssignment => subject.download(),
        Type::TimeoutDeregistration
        | Type::UserDeregistration
        | Type::AdministrativeDeregistration
        | Type::DeregistrationTooMuchData => subject.deregister(false).and_then(kept_to_itself),
        Type::TimeoutDeregistrationStoreServerName | Type::UserDeregistrationStoreServerName => {
            subject.deregister(true).and_then(kept_to_itself)
        }
        Type::AuthenticationFailure | Type::AuthenticationTimeout => {
            subject.end_authentication().and_then(kept_to_itself)
        }
    }
}

impl Subject<'_> {
    /// TS 29.228 §6.1.2.1 steps 3 and 4 (table 4.3 steps 3, 4, 11): how many identities, services,
    /// wildcards.
    fn check_identities(&self) -> Result<(), Refusal> {
        let kind = self.sar.server_assignment_type;
        if !is_deregistration(kind) {
            if self.public.len() > 1 {
                return Err(Refusal::TooManyPublicIdentities);
            }
            let needs_user_name = !matches!(kind, Type::UnregisteredUser | Type::NoAssignment);
            if self.public.is_empty() || (needs_user_name && self.private.is_none()) {
                return Err(Refusal::MissingIdentity);
            }
        }
        for identity in &self.public {
            if identity.is_service() {
                if !identity.is_active {
                    return Err(Refusal::InactiveService);
                }
                if !is_for_services(kind) {
                    return Err(Refusal::WrongTypeForService);
                }
            }
            if let Some(named) = &self.sar.wildcarded_public_identity
                && identity.is_wildcard()
                && identity.identity != *named
            {
                return Err(Refusal::WildcardDiffers(identity.identity.clone()));
            }
        }
        Ok(())
    }

    /// TS 29.228 §6.1.2.1, REGISTRATION and RE_REGISTRATION. Who takes over gets what was left for it
    /// (TS 23.380 §4), and leaves the same in its turn.
    fn register(&self) -> Result<Assigned, Refusal> {
        let private = self.private.as_ref().ok_or(Refusal::MissingIdentity)?;
        let identity = self.only_identity()?;
        let displaced = self.take_over()?;
        let restoration = match displaced {
            Some(_) => self.restoration()?,
            None => Vec::new(),
        };
        self.database.register(identity.implicit_set, private.id)?;
        if let Some(user_name) = &self.sar.user_name {
            let is_refresh = self.sar.server_assignment_type == Type::ReRegistration;
            self.database.forget_undelivered(user_name, &self.server.host, is_refresh)?;
        }
        if let Some(left) = self.sar.restoration.as_ref().filter(|_| self.config.restoration) {
            let left = stored(left)?;
            self.database.store_restoration(identity.implicit_set, private.id, &left)?;
        }
        let terminations = match &displaced {
            Some(old) => self.displace(old, identity.implicit_set, private)?,
            None => Vec::new(),
        };
        let answer = Saa { restoration, ..self.answer_with_profile()? };
        Ok(Assigned { answer, terminations })
    }

    /// TS 29.228 §6.1.2.1, UNREGISTERED_USER: services for a user who is not registered. One who is
    /// after all may have been forgotten by the S-CSCF: what was left of the registration comes
    /// with the refusal.
    fn serve_unregistered(&self) -> Result<Assigned, Refusal> {
        let identity = self.only_identity()?;
        let restoration = self.restoration()?;
        if identity.state == State::Registered && self.is_assigned() {
            if restoration.is_empty() {
                return Err(Refusal::AlreadyRegistered);
            }
            let outcome = Outcome::IN_ASSIGNMENT_TYPE;
            let answer = Saa { outcome, restoration, ..self.answer_with_profile()? };
            return Ok(Assigned { answer, terminations: Vec::new() });
        }
        // Whoever was displaced learns of it from its own next SAR: it holds nobody registered.
        self.take_over()?;
        if identity.state != State::Registered {
            self.database.set_unregistered(identity.implicit_set, true)?;
        }
        let answer = Saa { restoration, ..self.answer_with_profile()? };
        Ok(Assigned { answer, terminations: Vec::new() })
    }

    /// TS 29.228 §6.1.2.1, NO_ASSIGNMENT: the profile once more, and what was left of registrations;
    /// also for an S-CSCF that is about to take over (TS 23.380 §4). Nothing changes.
    fn download(&self) -> Result<Assigned, Refusal> {
        if self.subscription.server.is_none() {
            return Err(Refusal::ServerNameDiffers);
        }
        if !self.is_assigned() && !self.subscription.is_reassignment_pending {
            return Err(Refusal::AssignedElsewhere);
        }
        let answer = Saa { restoration: self.restoration()?, ..self.answer_with_profile()? };
        Ok(Assigned { answer, terminations: Vec::new() })
    }

    /// TS 29.229 §6.3.46: what S-CSCFs left of the registrations of this set.
    fn restoration(&self) -> Result<Vec<ScscfRestorationInfo>, Refusal> {
        if !self.config.restoration {
            return Ok(Vec::new());
        }
        let left = self.database.restorations_of(self.only_identity()?.implicit_set)?;
        left.into_iter().map(restored).collect()
    }

    /// TS 29.228 §6.1.2.1, the deregistrations: whole implicit sets, for the private identity
    /// named or for all. `wants_name_kept`: the S-CSCF would go on serving the user unregistered,
    /// which we grant where there are services for that.
    ///
    /// Whom another S-CSCF took over hears so by IDENTITY_ALREADY_REGISTERED: the clause leaves the code open,
    /// and UNABLE_TO_COMPLY is what a fault of ours looks like, after which it should ask again.
    fn deregister(&self, wants_name_kept: bool) -> Result<Saa, Refusal> {
        if self.subscription.server.is_some() && !self.is_assigned() {
            return Err(Refusal::AssignedElsewhere);
        }
        self.require_assigned()?;
        let private = self.private.as_ref().map(|private| private.id);
        let mut sets: Vec<(i64, bool)> = self
            .public
            .iter()
            .map(|public| (public.implicit_set, public.has_unregistered_services))
            .collect();
        if let (true, Some(private)) = (sets.is_empty(), private) {
            sets = self.database.sets_with_services(private)?;
        }
        sets.sort_unstable();
        sets.dedup_by_key(|(set, _)| *set);

        let mut is_name_dropped = false;
        for (set, has_unregistered_services) in sets {
            if is_by_user(self.sar.server_assignment_type)
                && let Some(private) = private
            {
                // The authentication that led here is over.
                self.database.set_authentication_pending(set, private, false)?;
            }
            if self.database.deregister(set, private)? {
                continue;
            }
            let is_kept = wants_name_kept && has_unregistered_services;
            self.database.set_unregistered(set, is_kept)?;
            is_name_dropped |= wants_name_kept && !is_kept;
        }
        self.database.release_server_if_unused(self.subscription.id)?;
        Ok(self.answer(if is_name_dropped {
            Outcome::SUCCESS_SERVER_NAME_NOT_STORED
        } else {
            Outcome::SUCCESS
        }))
    }

    /// TS 29.228 §6.1.2.1, AUTHENTICATION_FAILURE and AUTHENTICATION_TIMEOUT: the registration
    /// state is as it was before the challenge, and so is the S-CSCF that serves it.
    fn end_authentication(&self) -> Result<Saa, Refusal> {
        self.require_assigned()?;
        let private = self.private.as_ref().ok_or(Refusal::MissingIdentity)?;
        let identity = self.only_identity()?;
        self.database.set_authentication_pending(identity.implicit_set, private.id, false)?;
        if let Some(previous) = &self.subscription.previous {
            self.database.assign_server(self.subscription.id, previous, None)?;
        }
        self.database.release_server_if_unused(self.subscription.id)?;
        Ok(self.answer(Outcome::SUCCESS))
    }

    /// The asking S-CSCF becomes the assigned one, if it may; returns whom it displaced.
    fn take_over(&self) -> Result<Option<Server>, Refusal> {
        let displaced = match &self.subscription.server {
            Some(assigned) if !assigned.is_named(&self.server.name) => {
                if !self.subscription.is_reassignment_pending {
                    return Err(Refusal::AssignedElsewhere);
                }
                Some(assigned)
            }
            _ => self.subscription.previous.as_ref(),
        };
        let is_unchanged = self.subscription.server.as_ref() == Some(self.server)
            && self.subscription.previous.is_none()
            && !self.subscription.is_reassignment_pending;
        if !is_unchanged {
            self.database.assign_server(self.subscription.id, self.server, None)?;
        }
        // The same node under a new name has forgotten nobody.
        Ok(displaced.filter(|displaced| displaced.host != self.server.host).cloned())
    }

    /// TS 29.228 §6.1.3.1: the displaced S-CSCF forgets this user as served elsewhere, and those of
    /// the subscription whose registrations can be restored; it lets the others register anew.
    fn displace(
        &self,
        old: &Server,
        implicit_set: i64,
        private: &PrivateIdentity,
    ) -> Result<Vec<Termination>, Refusal> {
        let mut terminations = Vec::new();
        let mut others = Vec::new();
        for pair in self.database.registered_pairs(self.subscription.id)? {
            let is_this = pair.private_identity == private.id && pair.implicit_set == implicit_set;
            let is_restored = is_this
                || self.database.has_restoration(pair.implicit_set, pair.private_identity)?;
            if !is_restored {
                others.push(pair);
                continue;
            }
            terminations.push(Termination {
                host: old.host.clone(),
                public_identities: self.database.public_identities_of(pair.implicit_set)?,
                sets: vec![pair.implicit_set],
                user_name: pair.user_name,
                private_identity: pair.private_identity,
                subscription: self.subscription.id,
                associated: Vec::new(),
                reason: ReasonCode::NewServerAssigned,
                reply: None,
                is_repeated: false,
                removal: None,
            });
        }
        // Last: it ends whatever the S-CSCF still has of a private identity.
        let holders = Holder::of(others);
        terminations.extend(Termination::server_change(&old.host, self.subscription.id, holders));
        Ok(terminations)
    }

    fn is_assigned(&self) -> bool {
        let assigned = self.subscription.server.as_ref();
        assigned.is_some_and(|assigned| assigned.is_named(&self.server.name))
    }

    fn require_assigned(&self) -> Result<(), Refusal> {
        if self.is_assigned() { Ok(()) } else { Err(Refusal::ServerNameDiffers) }
    }

    fn only_identity(&self) -> Result<&PublicIdentity, Refusal> {
        self.public.first().ok_or(Refusal::MissingIdentity)
    }

    fn answer(&self, outcome: Outcome) -> Saa {
        Saa { outcome, user_name: self.sar.user_name.clone(), ..Saa::default() }
    }

    /// TS 29.228 §6.6: the profile of the whole set unless the S-CSCF has it, charging addresses,
    /// and the other private identities of the subscription. What the S-CSCF has is not what there is
    /// when a PPR did not reach it (TS 29.228 §6.2.2.1).
    fn answer_with_profile(&self) -> Result<Saa, Refusal> {
        let identity = self.only_identity()?;
        let all = self.database.private_identities_of(self.subscription.id)?;
        let mut answer = self.answer(Outcome::SUCCESS);
        if answer.user_name.is_none() {
            answer.user_name = all.first().cloned();
        }
        let (set, private) = (identity.implicit_set, self.private.as_ref().map(|one| one.id));
        let news = self.database.news_for(set, private)?;
        // Another one that only reads does not become the one that serves.
        let is_server = self.sar.server_assignment_type != Type::NoAssignment || self.is_assigned();
        if !news.is_none() && is_server {
            self.database.news_given(set, private, news)?;
        }
        if !news.is_none() || !self.sar.user_data_already_available {
            let user_name = answer.user_name.as_deref().unwrap_or_default();
            let user_data = profile::user_data(self.database, identity.implicit_set, user_name)?;
            answer.user_data = Some(user_data.to_xml().into());
            let charging = profile::charging(self.database, self.config, &self.subscription)?;
            // An empty group where there were some before: without it the S-CSCF keeps what it has.
            answer.charging_information =
                charging.or_else(|| news.charging.map(|_| ChargingInformation::default()));
        }
        if all.len() > 1 {
            answer.associated_identities = all;
        }
        Ok(answer)
    }
}

/// As it is kept.
fn stored(left: &ScscfRestorationInfo) -> Result<Restoration, Refusal> {
    Ok(Restoration {
        user_name: left.user_name.clone(),
        registration_time_out: left.registration_time_out,
        scheme: left.scheme.clone(),
        contacts: serde_json::to_string(&left.contacts)
            .map_err(|error| Refusal::Fault(format!("restoration information: {error}")))?,
    })
}

fn restored(kept: Restoration) -> Result<ScscfRestorationInfo, Refusal> {
    Ok(ScscfRestorationInfo {
        user_name: kept.user_name,
        contacts: serde_json::from_str(&kept.contacts)
            .map_err(|error| Refusal::Fault(format!("restoration information: {error}")))?,
        registration_time_out: kept.registration_time_out,
        scheme: kept.scheme,
    })
}

fn is_deregistration(kind: Type) -> bool {
    matches!(
        kind,
        Type::TimeoutDeregistration
            | Type::UserDeregistration
            | Type::TimeoutDeregistrationStoreServerName
            | Type::UserDeregistrationStoreServerName
            | Type::AdministrativeDeregistration
            | Type::DeregistrationTooMuchData
    )
}

/// The user authenticated in order to leave.
fn is_by_user(kind: Type) -> bool {
    matches!(kind, Type::UserDeregistration | Type::UserDeregistrationStoreServerName)
}

/// Nobody registers, authenticates or leaves as a service.
fn is_for_services(kind: Type) -> bool {
    matches!(
        kind,
        Type::NoAssignment
            | Type::UnregisteredUser
            | Type::TimeoutDeregistration
            | Type::TimeoutDeregistrationStoreServerName
            | Type::AdministrativeDeregistration
            | Type::DeregistrationTooMuchData
    )
}
