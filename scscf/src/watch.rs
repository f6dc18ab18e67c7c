//! What changes of registrations mean to those who watch (TS 24.229 §5.4.2.1.2, RFC 3680).
//!
//! [`Scscf::store`] and [`Scscf::remove`] are how procedures change a registration: the difference
//! is noted, and told at the end of the turn, behind whatever the procedure itself has sent.

use common::identity::{Impi, Impu};
use common::node::{Now, Output};
use common::reginfo::{self, Event, RegInfo, State};
use common::sip::address::Address;
use common::sip::uri::Uri;

use crate::Scscf;
use crate::ends::Ended;
use crate::state::{Binding, Change, Latest, Registration, canonical};
use crate::subscriptions::{End, Gone, News, Subscription, Watcher};

/// Why bindings are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The UE said so.
    Unregistered,
    Expired,
    /// The UE shall register again (TS 24.229 §5.4.1.5).
    Deactivated,
    /// The UE shall not come again (TS 24.229 §5.4.1.5).
    Rejected,
    /// The UE shall come again, but not before so many seconds (RFC 3680 §5.3).
    Probation {
        retry_after_seconds: u32,
    },
    /// The HSS has changed the profile: nobody has deregistered.
    ProfileChanged,
    /// Another S-CSCF tells the watchers, or nobody does (TS 29.228 §6.1.3).
    Silently,
}

impl Cause {
    /// By the operator's words; without any: rejected.
    pub fn named(words: &[&str]) -> Option<Cause> {
        match words {
            [] | ["rejected"] => Some(Cause::Rejected),
            ["deactivated"] => Some(Cause::Deactivated),
            ["probation", seconds] => {
                let retry_after_seconds = seconds.parse().ok()?;
                Some(Cause::Probation { retry_after_seconds })
            }
            _ => None,
        }
    }

    fn event(self) -> Event {
        match self {
            Cause::Unregistered | Cause::ProfileChanged | Cause::Silently => Event::Unregistered,
            Cause::Expired => Event::Expired,
            Cause::Deactivated => Event::Deactivated,
            Cause::Rejected => Event::Rejected,
            Cause::Probation { .. } => Event::Probation,
        }
    }

    /// UE and P-CSCF know of it by nothing but a NOTIFY; an expiry they see by the clock.
    fn is_of_the_network(self) -> bool {
        matches!(self, Cause::Deactivated | Cause::Rejected | Cause::Probation { .. })
    }

    /// Of subscriptions that have nothing left to watch.
    pub fn end(self) -> End {
        match self {
            Cause::Unregistered | Cause::Expired | Cause::ProfileChanged | Cause::Silently => {
                End::NoResource
            }
            Cause::Deactivated => End::Deactivated,
            Cause::Rejected => End::Rejected,
            Cause::Probation { retry_after_seconds } => End::Probation { retry_after_seconds },
        }
    }
}

impl Scscf {
    /// Makes or changes a registration. `cause`: why bindings that it had are gone.
    pub(crate) fn store(
        &mut self,
        now: Now,
        registration: Registration,
        cause: Cause,
        out: &mut Vec<Output>,
    ) {
        self.store_as(now, &registration.set(), registration, cause, out);
    }

    /// Changes a registration whose set was called `before`.
    pub(crate) fn store_as(
        &mut self,
        now: Now,
        before: &Impu,
        registration: Registration,
        cause: Cause,
        out: &mut Vec<Output>,
    ) {
        let private_identity = registration.private_identity.clone();
        let held = self.registrations.of_set(&private_identity, before).cloned();
        if held.is_some() && registration.set() != *before {
            let change = Change::Removed { private_identity, set: before.clone() };
            self.registrations.commit(change, out);
        }
        self.registrations.commit(Change::Stored(Box::new(registration.clone())), out);
        self.note(now, (held.as_ref(), Some(&registration)), cause, out);
    }

    /// Ends a registration.
    pub(crate) fn remove(
        &mut self,
        now: Now,
        private_identity: &Impi,
        set: &Impu,
        cause: Cause,
        out: &mut Vec<Output>,
    ) {
        let before = self.registrations.of_set(private_identity, set).cloned();
        let change =
            Change::Removed { private_identity: private_identity.clone(), set: set.clone() };
        self.registrations.commit(change, out);
        self.note(now, (before.as_ref(), None), cause, out);
    }

    /// Keeps for every watcher what it is to be told, for those that are yet to come as well.
    fn note(
        &mut self,
        now: Now,
        (before, after): (Option<&Registration>, Option<&Registration>),
        cause: Cause,
        out: &mut Vec<Output>,
    ) {
        let Some(private_identity) =
            before.or(after).map(|registration| registration.private_identity.clone())
        else {
            return;
        };
        let news = self.difference(before, after, cause);
        if news.identities.is_empty() {
            return;
        }
        let is_bound = |one: &&Registration| one.has_binding();
        match (before.filter(is_bound), after.filter(is_bound)) {
            (None, Some(after)) => self.forget_ends(after),
            (Some(before), None) if cause.is_of_the_network() => {
                let (registration, gone) = (before.clone(), news.gone.clone());
                self.remember_end(now, Ended { registration, cause, gone });
            }
            _ => {}
        }
        let others = self.registrations.of(&private_identity).iter();
        let mut identities: Vec<Impu> = before
            .into_iter()
            .chain(others)
            .flat_map(|registration| registration.identities().map(canonical))
            .collect();
        identities.sort();
        identities.dedup();
        let tags: Vec<String> = identities
            .iter()
            .flat_map(|identity| self.subscriptions.of(identity))
            .cloned()
            .collect();
        for tag in tags {
            self.note_one(&tag, &news, (before, after), cause, out);
        }
    }

    fn note_one(
        &mut self,
        tag: &str,
        news: &News,
        (before, after): (Option<&Registration>, Option<&Registration>),
        cause: Cause,
        out: &mut Vec<Output>,
    ) {
        let Some(subscription) = self.subscriptions.get(tag) else { return };
        let is_left = self.is_registered(&subscription.public_identity);
        // TS 24.229 §5.1.1.6, §5.4.1.4: a UE that deregisters has ended its own subscription with it, whoever
        // else has the identity.
        let is_own = cause == Cause::Unregistered
            && subscription.watcher == Watcher::User
            && before.is_some_and(|before| is_of_a_device(subscription, before))
            && !after.is_some_and(Registration::has_binding);
        if is_own || (!is_left && cause == Cause::Silently) {
            self.stats.subscription("ended_with_registration");
            return self.subscriptions.remove(tag, out);
        }
        if cause != Cause::Silently {
            self.subscriptions.tell(tag, news);
            if !is_left {
                self.subscriptions.end(tag, cause.end());
            }
        }
    }

    /// Some contact is bound to the identity, other than by an emergency registration.
    pub(crate) fn is_registered(&self, public_identity: &Impu) -> bool {
        self.registrations.sharers(public_identity).iter().any(|sharer| {
            let held = self.registrations.find(sharer, public_identity);
            held.is_some_and(|held| held.bindings.iter().any(|binding| !binding.is_emergency))
        })
    }

    /// What is new between two states of one registration.
    fn difference(
        &self,
        before: Option<&Registration>,
        after: Option<&Registration>,
        cause: Cause,
    ) -> News {
        let mut news = News::default();
        for identity in after.into_iter().flat_map(Registration::listed) {
            let old = before.filter(|before| before.lists(&identity.identity));
            let changed = after.into_iter().flat_map(Registration::reported).any(|binding| {
                !old.is_some_and(|old| old.reported().any(|other| other == binding))
            });
            if changed {
                news.identities.insert(identity.identity.clone());
            }
            if changed && before.is_some_and(Registration::has_binding) && old.is_none() {
                news.created.insert(identity.identity.clone());
            }
        }
        for identity in before.into_iter().flat_map(Registration::listed) {
            let new = after.filter(|after| after.lists(&identity.identity));
            for binding in before.into_iter().flat_map(Registration::reported) {
                let stays =
                    new.is_some_and(|new| new.reported().any(|other| other.uri == binding.uri));
                if stays {
                    continue;
                }
                // An identity that the profile has lost was not deregistered by anybody.
                let is_profile = new.is_none() && after.is_some();
                let event = if is_profile { Event::Unregistered } else { cause.event() };
                let aor = &identity.identity;
                let mut contact = contact_of(aor, before, binding);
                (contact.is_active, contact.event) = (false, event);
                contact.expires_seconds = Some(0);
                if let (Cause::Probation { retry_after_seconds }, false) = (cause, is_profile) {
                    contact.retry_after_seconds = Some(u64::from(retry_after_seconds));
                }
                news.identities.insert(aor.clone());
                news.gone.push(Gone {
                    aor: aor.clone(),
                    wildcarded_identity: identity.wildcarded_identity.clone(),
                    contact,
                });
            }
        }
        news
    }

    /// TS 24.229 §5.4.2.1.2: every identity of the user that is not barred, with the contacts of all
    /// devices; of a partial document those with news.
    pub(crate) fn document(
        &self,
        now: Now,
        subscription: &Subscription,
        news: &News,
        is_full: bool,
    ) -> RegInfo {
        let mut registrations: Vec<reginfo::Registration> = Vec::new();
        let mut at = |aor: &str, wildcard: &Option<String>| {
            let place = registrations.iter().position(|one| one.aor == aor);
            place.unwrap_or_else(|| {
                registrations.push(reginfo::Registration {
                    aor: aor.to_owned(),
                    id: stable_id(&[aor]),
                    state: State::Init,
                    wildcarded_identity: wildcard.clone(),
                    contacts: Vec::new(),
                });
                registrations.len() - 1
            })
        };
        let mut active = Vec::new();
        for sharer in self.registrations.sharers(&subscription.public_identity) {
            for held in self.registrations.of(sharer) {
                for identity in held.listed() {
                    let aor = &identity.identity;
                    if !is_full && !news.identities.contains(aor) {
                        continue;
                    }
                    let place = at(aor, &identity.wildcarded_identity);
                    for binding in held.reported().filter(|binding| !binding.has_expired(now)) {
                        let mut contact = contact_of(aor, Some(held), binding);
                        contact.expires_seconds = Some(binding.expires_seconds(now));
                        if let Some((public, temporary)) = self.gruus(aor, binding) {
                            let first_cseq = binding.gruu.map_or(0, |gruu| gruu.first_cseq);
                            contact.public_gruu = Some(public);
                            contact.temporary_gruu = Some((temporary, first_cseq));
                        }
                        if news.created.contains(aor) {
                            contact.event = Event::Created;
                        }
                        active.push((place, contact));
                    }
                }
            }
        }
        let mut ended = Vec::new();
        for gone in &news.gone {
            let place = at(&gone.aor, &gone.wildcarded_identity);
            if active.iter().all(|(_, contact)| contact.id != gone.contact.id) {
                ended.push((place, gone.contact.clone()));
            }
        }
        for (place, contact) in active.into_iter().chain(ended) {
            let registration = &mut registrations[place];
            registration.state = match (contact.is_active, registration.state) {
                (true, _) | (_, State::Active) => State::Active,
                _ => State::Terminated,
            };
            registration.contacts.push(contact);
        }
        // Of what ended before a restart no more is known.
        let watched = &subscription.public_identity;
        let is_told = registrations.iter().any(|one| one.aor == watched.as_str());
        if is_full && !is_told && self.registrations.sharers(watched).is_empty() {
            registrations.push(reginfo::Registration {
                aor: watched.as_str().to_owned(),
                id: stable_id(&[watched.as_str()]),
                state: State::Terminated,
                wildcarded_identity: None,
                contacts: Vec::new(),
            });
        }
        RegInfo { version: subscription.version, is_full, registrations }
    }
}

/// The subscription is of a device that the registration has a binding of.
fn is_of_a_device(subscription: &Subscription, registration: &Registration) -> bool {
    let host_port = |text: &str| Uri::parse(text).ok()?.host_port;
    let target = host_port(&subscription.remote_target);
    registration.bindings.iter().any(|binding| host_port(&binding.uri) == target)
}

/// A contact as documents show it, active; the rest of its time is left to the caller.
fn contact_of(aor: &str, held: Option<&Registration>, binding: &Binding) -> reginfo::Contact {
    let private_identity = held.map_or("", |held| held.private_identity.as_str());
    let is_explicit = binding.registered_identity.as_ref().is_none_or(|registered| {
        let aor = Uri::parse(aor).map(|aor| aor.public_identity());
        aor.is_ok_and(|aor| aor == *registered)
    });
    let parameters = Address::parse(&binding.contact).map(|contact| contact.parameters);
    let mut unknown_parameters = parameters.unwrap_or_default();
    let mut q = None;
    unknown_parameters.retain(|(name, value)| {
        if name.eq_ignore_ascii_case("q") {
            q = value.clone();
        }
        !name.eq_ignore_ascii_case("q") && !name.eq_ignore_ascii_case("expires")
    });
    reginfo::Contact {
        id: stable_id(&[aor, private_identity, &binding.uri]),
        is_active: true,
        event: match (binding.latest, is_explicit) {
            (Latest::Registered, true) => Event::Registered,
            (Latest::Registered, false) => Event::Created,
            (Latest::Refreshed, _) => Event::Refreshed,
            (Latest::Shortened, _) => Event::Shortened,
        },
        expires_seconds: None,
        retry_after_seconds: None,
        call_id: Some(binding.call_id.clone()),
        cseq: Some(binding.cseq),
        q,
        uri: binding.uri.clone(),
        unknown_parameters,
        public_gruu: None,
        temporary_gruu: None,
    }
}

/// The same text for the same parts, whenever and wherever (FNV-1a, 64 bits).
fn stable_id(parts: &[&str]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("r{hash:016x}")
}
