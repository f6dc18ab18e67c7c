//! Acceptance of a REGISTER at the P-CSCF: what follows the 2xx of the home network (TS 24.229 §5.2.2.3,
//! §5.2.5.1).
//!
//! 1. `register_accepted`      is it one, and of what
//! 2. `registered`             keep what the home network says, establish the set
//! 3. `forget_left_addresses`  what the UE had at another address
//! 4. `deregistered`           the end, of one implicit set or of all

use std::time::Duration;

use common::identity::logged;
use common::node::{Now, Output};
use common::reginfo::Event;
use common::sip::address::{Address, Contact};
use common::sip::endpoint::Incoming;
use common::sip::header::Name;
use common::sip::message::{Headers, Response};
use common::sip::p_headers::ChargingVector;
use common::sip::uri::{Host, Uri};
use common::sip::via::Via;

use crate::config::Policy;
use crate::refusal::Refusal;
use crate::register::Attempt;
use crate::registrations::{IdentitySet, Owner, Registration, is_for_emergency, is_same_contact};
use crate::security::{BEYOND_REGISTRATION, State};
use crate::{Pcscf, Side, Timer, path};

impl Pcscf {
    /// TS 24.229 §5.2.2.3: registered, refreshed or deregistered.
    pub(crate) fn register_accepted(
        &mut self,
        now: Now,
        incoming: Incoming,
        attempt: Attempt,
        response: Response,
        out: &mut Vec<Output>,
    ) {
        let is_in_clear = attempt.set.is_none();
        let set = attempt.set.and_then(|id| self.security.get(id));
        // Its set has ended meanwhile (ipsec.md L-10, L-11): nothing can be said to the UE any more.
        let is_set_gone = !is_in_clear && set.is_none();
        // No associations of its own: those that it came over serve the other registration of its UE.
        let is_guest = set.is_some_and(|set| !set.is_of(&attempt.owner));
        match granted(incoming.request().headers(), response.headers()) {
            _ if is_guest || is_in_clear && self.config.ipsec.policy == Policy::Required => {
                return self.give_up(now, incoming, attempt, Refusal::NotChallenged, out);
            }
            _ if attempt.is_deregistration => {
                let (request, response) = (incoming.request().headers(), response.headers());
                self.deregistered(now, &attempt, request, response, out);
            }
            Some(_) if is_set_gone => {}
            Some((contact_uri, seconds)) => {
                let is_initial = self.is_initial(&attempt);
                let expires_at = now + Duration::from_secs(u64::from(seconds));
                self.registered(now, &attempt, contact_uri, &response, expires_at, out);
                if is_initial {
                    self.forget_earlier_dialogs(&attempt);
                }
                self.forget_left_addresses(&attempt, &response, out);
            }
            // A query of bindings changes nothing; a temporary set it was asked over ends by itself.
            None => {}
        }
        self.register_relay(now, incoming, &attempt, response, out);
        self.watch(now, attempt.owner, out);
    }

    /// It concludes the challenge of a REGISTER that came over no associations of its own: an initial registration
    /// (TS 24.229 §5.1.1.2).
    fn is_initial(&self, attempt: &Attempt) -> bool {
        let Some(set) = attempt.set.and_then(|id| self.security.get(id)) else { return false };
        let is_over_none = |agreed| self.security.challenged_over(set, agreed).is_none();
        set.agreed.as_deref().is_some_and(is_over_none)
    }

    /// TS 24.229 §5.2.3: we subscribe upon an initial registration. Another S-CSCF may serve the UE now, of which the
    /// earlier subscription would hear nothing; and what the earlier one still says about the end of the earlier
    /// registration, to us or to the UE, must not end the new one. It gets 481, and forgets us (RFC 6665 §4.2.2).
    fn forget_earlier_dialogs(&mut self, attempt: &Attempt) {
        self.watches.forget(&attempt.owner);
        self.dialogs.forget(&attempt.owner);
        self.timers.stop(&Timer::WatchAgain(attempt.owner.clone()));
    }

    /// RFC 6223 §4.3: a UE in clear behind a NAT that wants to keep its way open is told how often. Others need
    /// no keep-alives, which wake radios; those in a tunnel keep it open themselves (RFC 3948 §4).
    pub(crate) fn offer_keep_alive(&self, incoming: &Incoming, response: &mut Response) {
        let seconds = self.config.gm.keep_alive_seconds;
        let flow = incoming.flow();
        let mut vias = response.headers().values(Name::Via);
        let own = vias.next().map(Via::parse);
        let (Some(Ok(mut via)), None) = (own, vias.next()) else { return };
        drop(vias);
        let is_behind_nat = via.sent_by.host != Host::Address(flow.remote.ip());
        let is_asked = via.parameter("keep") == Some("");
        if seconds > 0 && is_asked && is_behind_nat && self.side(&flow) == Side::Gm {
            via.set_parameter("keep", Some(&seconds.to_string()));
            response.headers_mut().set(Name::Via, &via.to_string());
        }
    }

    fn registered(
        &mut self,
        now: Now,
        attempt: &Attempt,
        contact_uri: String,
        response: &Response,
        expires_at: Now,
        out: &mut Vec<Output>,
    ) {
        let headers = response.headers();
        let values = |name| headers.values(name).map(str::to_owned).collect::<Vec<_>>();
        let term_ioi = headers
            .get(Name::PChargingVector)
            .and_then(ChargingVector::parse)
            .and_then(|vector| vector.term_ioi);
        let functions = values(Name::PChargingFunctionAddresses);
        let known = self.registrations.remove(&attempt.owner);
        let was_watched = known.as_ref().is_some_and(|known| known.was_watched);
        let mut identities = known.map(|known| known.identities).unwrap_or_default();
        identities.retain(|set| set.to != attempt.public_identity);
        identities.push(IdentitySet {
            to: attempt.public_identity.clone(),
            associated_uris: values(Name::PAssociatedUri)
                .iter()
                .flat_map(|text| apart(text))
                .collect(),
            expires_at,
        });
        let registration = Registration {
            contact_uri,
            place: Some(attempt.place),
            service_route: values(Name::ServiceRoute),
            identities,
            term_ioi,
            charging_function_addresses: (!functions.is_empty()).then(|| functions.join(", ")),
            was_watched,
        };
        // registration.md T-07: of several identities the set carries the one that lasts longest.
        let ends = registration.expires_at() + BEYOND_REGISTRATION;
        self.keep_registration(attempt.owner.clone(), registration);
        match attempt.set.and_then(|id| self.security.get(id)) {
            // Registered in clear, where our policy allows it: no set protects that (ipsec.md L-04).
            None => {
                for id in self.security.sets_of(&attempt.owner) {
                    self.drop_set(id, out);
                }
            }
            Some(set) if set.is_established() => {
                // An old set stays as it is (F-09): the registration lives on the one in use.
                let carries = match set.state {
                    State::Old => self.security.set_to_use(&attempt.owner),
                    _ => Some(set),
                };
                if let Some((id, current)) = carries.map(|set| (set.id, set.expires_at)) {
                    self.set_life(id, current.max(ends));
                }
            }
            Some(set) => {
                let id = set.id;
                self.establish(now, id, ends, out);
            }
        }
    }

    /// Keeps what is registered, until the first of its identities ends.
    pub(crate) fn keep_registration(&mut self, owner: Owner, registration: Registration) {
        let ends = registration.first_expires_at() + BEYOND_REGISTRATION;
        self.timers.set(Timer::RegistrationEnds(owner.clone()), ends);
        self.registrations.insert(owner, registration);
    }

    /// registration.md D-09: identities end by their time, the contact with the last one, or when its UE has been told
    /// that the home network has ended it.
    pub(crate) fn registration_ends(&mut self, now: Now, owner: Owner) {
        if let Some(left) = self.registrations.end_expired(now, &owner) {
            let ends = left.first_expires_at() + BEYOND_REGISTRATION;
            return self.timers.set(Timer::RegistrationEnds(owner), ends);
        }
        self.registrations.has_left(&owner);
        self.forget_followers(&owner);
    }

    /// ipsec.md L-13: where the registrar no longer lists the contact that this private identity had
    /// at another address, the UE has moved, and what it had there is dead. So it is where the contact there is the
    /// one that was registered here: a private address or a name stays the same wherever the phone goes, and the
    /// registrar has one binding for it (RFC 3261 §10.3), unless phones register flows (RFC 5626 §6).
    /// Of an emergency registration, which has a binding of its own (TS 24.229 §5.4.8.2), the normal one says nothing,
    /// nor the other way round.
    fn forget_left_addresses(
        &mut self,
        attempt: &Attempt,
        response: &Response,
        out: &mut Vec<Output>,
    ) {
        let listed = contacts(response.headers());
        let Owner { private_identity: impi, ue: here, is_emergency } = &attempt.owner;
        let registered = self.registrations.get(&attempt.owner);
        let registered = registered.and_then(|one| Uri::parse(&one.contact_uri).ok());
        let bound_here = registered.filter(|_| !path::is_flow(attempt.request.headers()));
        for other in self.registrations.of(impi) {
            let Some(known) = self.registrations.get(&other) else { continue };
            let is_listed = Uri::parse(&known.contact_uri).is_ok_and(|uri| {
                let is_bound_here =
                    bound_here.as_ref().is_some_and(|bound| is_same_contact(bound, &uri));
                !is_bound_here && listed.iter().any(|listed| is_same_contact(listed, &uri))
            });
            if other.ue == *here || other.is_emergency != *is_emergency || is_listed {
                continue;
            }
            if !self.registrations.end(&other, &attempt.public_identity) {
                continue;
            }
            tracing::info!(
                identity = %logged(impi.as_str(), self.config.log_identities),
                left = %other.ue,
                "the UE has another address"
            );
            self.forget_followers(&other);
            for id in self.security.sets_of(&other) {
                self.drop_set(id, out);
            }
            self.timers.stop(&Timer::RegistrationEnds(other));
        }
    }

    /// TS 24.229 §5.2.5.1: the other contacts that the same private identity has, and that are named.
    /// Their UEs are told by the home network, and so have the time that they have after any end that it makes.
    fn end_named(&mut self, now: Now, attempt: &Attempt, request: &Headers) {
        let identity = &attempt.public_identity;
        let named = contacts(request);
        for other in self.registrations.of(&attempt.owner.private_identity) {
            let Some(known) = self.registrations.get(&other) else { continue };
            let is_named = Uri::parse(&known.contact_uri)
                .is_ok_and(|uri| named.iter().any(|named| is_same_contact(named, &uri)));
            if other == attempt.owner || !is_named {
                continue;
            }
            if known.identities.iter().all(|set| set.holds(identity)) {
                self.ended_by_home(now, &other, Event::Unregistered);
            } else {
                self.registrations.end(&other, identity);
            }
        }
    }

    /// TS 24.229 §5.2.5.1: the identity and its implicit set go; with the last one the sets go too,
    /// after the 200 and its retransmissions have passed (ipsec.md L-12). Where others stay and this one
    /// was challenged, they live on the new set, as after any challenge (TS 24.229 §5.2.2.3).
    fn deregistered(
        &mut self,
        now: Now,
        attempt: &Attempt,
        request: &Headers,
        response: &Headers,
        out: &mut Vec<Output>,
    ) {
        self.end_named(now, attempt, request);
        let owner = &attempt.owner;
        let known = self.registrations.get(owner);
        let is_own = known.is_some_and(|known| ends(&known.contact_uri, request, response));
        if known.is_some() && !(is_own && self.registrations.end(owner, &attempt.public_identity)) {
            let ends = self.registrations.get(owner).map(Registration::expires_at);
            let set = attempt.set.and_then(|id| self.security.get(id));
            if let (Some(ends), Some(set)) = (ends, set.filter(|set| !set.is_established())) {
                let id = set.id;
                self.establish(now, id, ends + BEYOND_REGISTRATION, out);
            }
            return;
        }
        // The home network's NOTIFY about this very end may have come before its 200.
        self.registrations.has_left(owner);
        self.timers.stop(&Timer::RegistrationEnds(owner.clone()));
        self.forget_followers(owner);
        for id in self.security.sets_of(&attempt.owner) {
            let Some(set) = self.security.get(id) else { continue };
            let ends = set.expires_at.min(now + self.config.gm.old_set_life());
            self.set_life(id, ends);
        }
    }
}

/// RFC 3261 §10.2.2: a deregistration ends this contact: by `*`, by its name, or because the registrar no longer
/// lists it. A UE may name another contact than its own, and stays registered then. `*` is not for the contact of an
/// emergency registration, which no UE ends (TS 24.229 §5.1.6.2).
fn ends(contact_uri: &str, request: &Headers, response: &Headers) -> bool {
    let Ok(own) = Uri::parse(contact_uri) else { return true };
    let has = |headers| contacts(headers).iter().any(|uri| is_same_contact(uri, &own));
    let mut values = request.values(Name::Contact);
    let is_all = values.any(|value| matches!(Contact::parse(value), Ok(Contact::Star)));
    (is_all && !is_for_emergency(&own)) || has(request) || !has(response)
}

/// URIs of all contacts.
pub(crate) fn contacts(headers: &Headers) -> Vec<Uri> {
    let uri = |value| match Contact::parse(value) {
        Ok(Contact::Address(address)) => Some(address.uri),
        _ => None,
    };
    headers.values(Name::Contact).filter_map(uri).collect()
}

/// Some home networks forget the comma between two identities.
fn apart(value: &str) -> Vec<String> {
    if Address::parse(value).is_ok() {
        return vec![value.to_owned()];
    }
    let pieces = value.split_inclusive('>').map(str::trim);
    pieces.filter(|piece| Address::parse(piece).is_ok()).map(str::to_owned).collect()
}

/// The contact that the REGISTER is to bind.
pub(crate) fn contact_to_bind(request: &Headers) -> Option<Address> {
    request.values(Name::Contact).find_map(|value| match Contact::parse(value) {
        Ok(Contact::Address(address)) if address.expires_seconds() != Some(0) => Some(address),
        _ => None,
    })
}

/// What the registrar granted to the contact of this REGISTER: its URI and seconds.
fn granted(request: &Headers, response: &Headers) -> Option<(String, u32)> {
    let asked = contact_to_bind(request)?;
    let default = response.get(Name::Expires).and_then(|value| value.trim().parse().ok());
    let bound = |is_it: fn(&Uri, &Uri) -> bool| {
        response.values(Name::Contact).find_map(|value| match Contact::parse(value) {
            Ok(Contact::Address(address)) if is_it(&address.uri, &asked.uri) => Some(address),
            _ => None,
        })
    };
    // Some registrars leave parameters out.
    let bound = bound(is_same_contact).or_else(|| bound(Uri::is_equivalent))?;
    let seconds = bound.expires_seconds().or(default).unwrap_or(3_600);
    (seconds > 0).then_some((asked.uri_text, seconds))
}
