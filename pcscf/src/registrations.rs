//! What the P-CSCF knows of a registered UE (TS 24.229 §5.2.2.3), and the operator's view of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::identity::{Impi, Impu};
use common::ipsec::sa::SetId;
use common::node::{Now, Output};
use common::sip::address::Address;
use common::sip::uri::Uri;
use serde::{Deserialize, Serialize};

use crate::durable::Touched;
use crate::security::BEYOND_REGISTRATION;
use crate::{Pcscf, Timer};

/// A UE, as what belongs to it is kept: its private identity and its address. An emergency registration has a contact
/// and associations of its own, beside those of the normal one of the same UE (TS 24.229 §5.1.6.2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner {
    pub private_identity: Impi,
    pub ue: IpAddr,
    pub is_emergency: bool,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Owner { private_identity, ue, is_emergency } = self;
        write!(
            f,
            "{private_identity} at {ue}{}",
            if *is_emergency { " for emergencies" } else { "" }
        )
    }
}

/// What one REGISTER registered: the identity in To and its implicit set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdentitySet {
    pub to: Impu,
    /// P-Associated-URI of the latest 200, in order, as written; the first is the default public
    /// identity.
    pub associated_uris: Vec<String>,
    /// As the 200 for this identity says.
    pub expires_at: Now,
}

impl IdentitySet {
    /// The identity is the registered one or belongs to its implicit set.
    pub fn holds(&self, identity: &Impu) -> bool {
        let is_it = |text: &String| {
            Address::parse(text).is_ok_and(|address| address.uri.public_identity() == *identity)
        };
        self.to == *identity || self.associated_uris.iter().any(is_it)
    }

    /// The identity is one that may be used: it was associated, and so is not barred.
    pub fn holds_usable(&self, identity: &Impu) -> bool {
        self.usable(identity).is_some()
    }

    pub fn drop_usable(&mut self, identity: &Impu) {
        if let Some(place) = self.usable(identity) {
            self.associated_uris.remove(place);
        }
    }

    fn usable(&self, identity: &Impu) -> Option<usize> {
        self.associated_uris.iter().position(|text| {
            Address::parse(text).is_ok_and(|address| address.uri.public_identity() == *identity)
        })
    }
}

/// One registered contact: a private identity at an address. Stored as it is (see
/// [`crate::durable`]).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Registration {
    /// The Contact URI that was registered.
    pub contact_uri: String,
    /// Where the UE is asked: what Path names (see [`crate::path`]).
    #[serde(default)]
    pub place: Option<SocketAddr>,
    /// Service-Route of the latest 200, in order, as written.
    pub service_route: Vec<String>,
    /// In the order of registration.
    pub identities: Vec<IdentitySet>,
    /// term-ioi of the home network.
    pub term_ioi: Option<String>,
    /// P-Charging-Function-Addresses of the latest 200, as written.
    #[serde(default)]
    pub charging_function_addresses: Option<String>,
    /// The home network has taken a SUBSCRIBE of ours to its state.
    #[serde(default)]
    pub was_watched: bool,
}

impl Registration {
    /// Made by an emergency registration: `sos` in the URI of Contact (TS 24.229 §5.1.6.2).
    pub fn is_emergency(&self) -> bool {
        // Most have not the letters even, and all are asked at each scrape.
        let has_letters = |text: &[u8]| text.eq_ignore_ascii_case(b"sos");
        self.contact_uri.as_bytes().windows(3).any(has_letters)
            && Uri::parse(&self.contact_uri).is_ok_and(|uri| is_for_emergency(&uri))
    }

    /// When the last identity ends, and the contact with it.
    pub fn expires_at(&self) -> Now {
        self.identities.iter().map(|set| set.expires_at).max().unwrap_or_default()
    }

    /// When the first identity ends.
    pub fn first_expires_at(&self) -> Now {
        self.identities.iter().map(|set| set.expires_at).min().unwrap_or_default()
    }

    /// The URI is an identity of this registration.
    pub fn holds(&self, uri: &str) -> bool {
        let identity = Uri::parse(uri).map(|uri| uri.public_identity());
        identity.is_ok_and(|identity| self.identities.iter().any(|set| set.holds(&identity)))
    }

    /// TS 24.229 §5.2.6.3.3: the identity that the UE prefers where it is registered and not barred,
    /// else the default one; as P-Asserted-Identity has it.
    pub fn asserted_identity(&self, preferred: Option<&str>) -> Option<String> {
        let preferred = preferred.and_then(|text| Address::parse(text).ok());
        if let Some(preferred) = preferred {
            let identity = preferred.uri.public_identity();
            if self.identities.iter().any(|set| set.holds_usable(&identity)) {
                return Some(format!("<{}>", preferred.uri_text));
            }
        }
        self.identities.iter().flat_map(|set| &set.associated_uris).next().cloned()
    }
}

/// The contact of an emergency registration (TS 24.229 §5.1.6.2).
pub(crate) fn is_for_emergency(contact: &Uri) -> bool {
    contact.parameter("sos").is_some()
}

/// RFC 3261 §19.1.4 lets a parameter be missing in one of two URIs; but `sos` makes another contact of it
/// (TS 24.229 §5.4.8.2).
pub(crate) fn is_same_contact(one: &Uri, other: &Uri) -> bool {
    one.is_equivalent(other) && is_for_emergency(one) == is_for_emergency(other)
}

#[derive(Debug)]
pub struct Registrations {
    by_owner: Touched<Owner, Registration>,
    by_address: BTreeMap<IpAddr, BTreeSet<Owner>>,
    /// Ended by the home network, by address: until their UEs have been told. Not durable.
    leaving: BTreeMap<(IpAddr, Owner), Registration>,
    limit: usize,
}

impl Registrations {
    pub fn new(limit: usize) -> Self {
        let (by_owner, by_address) = (Touched::default(), BTreeMap::new());
        Registrations { by_owner, by_address, leaving: BTreeMap::new(), limit }
    }

    /// There is room for this UE: it is known already, or the limit is not reached.
    pub fn has_room(&self, owner: &Owner) -> bool {
        self.by_owner.len() < self.limit || self.get(owner).is_some()
    }

    pub fn get(&self, owner: &Owner) -> Option<&Registration> {
        self.by_owner.get(owner)
    }

    /// Who is registered from an address.
    pub fn at(&self, ue: IpAddr) -> impl Iterator<Item = &Owner> {
        self.by_address.get(&ue).into_iter().flatten()
    }

    /// As [`Registrations::get`], or while it is leaving.
    pub fn get_or_leaving(&self, owner: &Owner) -> Option<&Registration> {
        self.get(owner).or_else(|| self.leaving.get(&(owner.ue, owner.clone())))
    }

    /// Who is leaving from an address.
    pub fn leaving_at(&self, ue: IpAddr) -> impl Iterator<Item = &Owner> {
        let first = Owner { private_identity: Impi::new(""), ue, is_emergency: false };
        let at = self.leaving.range((ue, first)..).take_while(move |((of, _), _)| *of == ue);
        at.map(|((_, owner), _)| owner)
    }

    /// The home network has ended it, and tells the UE of it.
    pub fn leave(&mut self, owner: &Owner) {
        let Some(registration) = self.remove(owner) else { return };
        if self.leaving.len() < self.limit {
            self.leaving.insert((owner.ue, owner.clone()), registration);
        }
    }

    pub fn has_left(&mut self, owner: &Owner) {
        self.leaving.remove(&(owner.ue, owner.clone()));
    }

    pub fn insert(&mut self, owner: Owner, registration: Registration) {
        self.has_left(&owner);
        self.by_address.entry(owner.ue).or_default().insert(owner.clone());
        self.by_owner.insert(owner, registration);
    }

    pub fn remove(&mut self, owner: &Owner) -> Option<Registration> {
        if let Some(owners) = self.by_address.get_mut(&owner.ue) {
            owners.remove(owner);
            if owners.is_empty() {
                self.by_address.remove(&owner.ue);
            }
        }
        self.by_owner.remove(owner)
    }

    /// All that a private identity has registered.
    pub fn of(&self, impi: &Impi) -> Vec<Owner> {
        let ue = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let first = Owner { private_identity: impi.clone(), ue, is_emergency: false };
        let of_it = self.by_owner.range(first..).map(|(owner, _)| owner);
        of_it.take_while(|owner| owner.private_identity == *impi).cloned().collect()
    }

    pub fn note_watched(&mut self, owner: &Owner) {
        if self.get(owner).is_some_and(|known| !known.was_watched)
            && let Some(known) = self.by_owner.get_mut(owner)
        {
            known.was_watched = true;
        }
    }

    /// Ends the registration of an identity and its implicit set; true: it was the last one, and the
    /// contact is registered no more.
    pub fn end(&mut self, owner: &Owner, identity: &Impu) -> bool {
        let Some(known) = self.by_owner.get_mut(owner) else { return false };
        known.identities.retain(|set| !set.holds(identity));
        let is_last = known.identities.is_empty();
        if is_last {
            self.remove(owner);
        }
        is_last
    }

    /// Ends the identities whose time and grace are over; what is left of the registration.
    pub fn end_expired(&mut self, now: Now, owner: &Owner) -> Option<&Registration> {
        let known = self.by_owner.get_mut(owner)?;
        known.identities.retain(|set| set.expires_at + BEYOND_REGISTRATION > now);
        if known.identities.is_empty() {
            self.remove(owner);
        }
        self.get(owner)
    }

    pub fn len(&self) -> usize {
        self.by_owner.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_owner.is_empty()
    }

    /// How many are leaving.
    pub fn leaving_len(&self) -> usize {
        self.leaving.len()
    }

    /// Registrations that were made, changed or removed since the last call.
    pub fn touched(&mut self) -> BTreeSet<Owner> {
        self.by_owner.take()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Owner, &Registration)> {
        self.by_owner.iter()
    }
}

impl Pcscf {
    /// The operator's commands: `registrations`, `sa list`, `sa clear`.
    pub(crate) fn administer(
        &mut self,
        now: Now,
        id: u64,
        command: &[String],
        out: &mut Vec<Output>,
    ) {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let text = match words.as_slice() {
            ["registrations"] => {
                let mut text = String::new();
                for (owner, registration) in self.registrations.iter() {
                    let seconds = registration.expires_at().since(now).as_secs();
                    let or_none = |text: &Option<String>| text.clone().unwrap_or("-".to_owned());
                    let _ = writeln!(
                        text,
                        "{owner}: {} for {seconds} s, default {}, term-ioi {}, charging {}",
                        registration.contact_uri,
                        registration
                            .identities
                            .first()
                            .and_then(|set| set.associated_uris.first())
                            .map_or("-", String::as_str),
                        or_none(&registration.term_ioi),
                        or_none(&registration.charging_function_addresses),
                    );
                }
                text
            }
            ["sa", "list"] => return self.list_when_audited(id, out),
            ["sa", "clear"] => {
                let sets = self.security.len();
                self.clear(out);
                format!("{sets} sets removed, and the registrations with them\n")
            }
            _ => "commands: registrations | sa list | sa clear\n".into(),
        };
        out.push(Output::Reply { id, text });
    }

    /// Ends all sets and registrations here: what else does not end them, since a stopped P-CSCF leaves
    /// them to the next run. Phones find out when they speak; the S-CSCF when its time is over.
    fn clear(&mut self, out: &mut Vec<Output>) {
        tracing::warn!("all sets and registrations are removed by command");
        let sets: Vec<SetId> = self.security.iter().map(|set| set.id).collect();
        for set in sets {
            self.drop_set(set, out);
        }
        let leaving = self.registrations.leaving.keys().map(|(_, owner)| owner);
        let all: Vec<Owner> =
            self.registrations.iter().map(|(owner, _)| owner).chain(leaving).cloned().collect();
        for owner in all {
            self.registrations.remove(&owner);
            self.registrations.has_left(&owner);
            self.forget_followers(&owner);
            self.timers.stop(&Timer::RegistrationEnds(owner));
        }
    }
}
