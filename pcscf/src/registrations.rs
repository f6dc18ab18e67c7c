//! What the P-CSCF knows of a registered UE (TS 24.229 §5.2.2.3), and the operator's view of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::identity::{Impi, Impu};
use common::ipsec::sa::SetId;
use common::node::{Now, Output};
use common::sip::address::Address;
use common::sip::uri::Uri;
use serde::{Deserialize, Serialize};

use crate::durable::Touched;
use crate::{Pcscf, Timer};

/// What one REGISTER registered: the identity in To and its implicit set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdentitySet {
    pub to: Impu,
    /// P-Associated-URI of the latest 200, in order, as written; the first is the default public
    /// identity.
    pub associated_uris: Vec<String>,
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
    pub expires_at: Now,
}

impl Registration {
    /// Made by an emergency registration: `sos` in the URI of Contact (TS 24.229 §5.1.6.2).
    pub fn is_emergency(&self) -> bool {
        // Most have not the letters even, and all are asked at each scrape.
        let has_letters = |text: &[u8]| text.eq_ignore_ascii_case(b"sos");
        self.contact_uri.as_bytes().windows(3).any(has_letters)
            && Uri::parse(&self.contact_uri).is_ok_and(|uri| uri.parameter("sos").is_some())
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

#[derive(Debug)]
pub struct Registrations {
    by_contact: Touched<(Impi, IpAddr), Registration>,
    by_address: BTreeMap<IpAddr, BTreeSet<Impi>>,
    /// Ended by the home network, by address: until their UEs have been told. Not durable.
    leaving: BTreeMap<(IpAddr, Impi), Registration>,
    limit: usize,
}

impl Registrations {
    pub fn new(limit: usize) -> Self {
        let (by_contact, by_address) = (Touched::default(), BTreeMap::new());
        Registrations { by_contact, by_address, leaving: BTreeMap::new(), limit }
    }

    /// There is room for this UE: it is known already, or the limit is not reached.
    pub fn has_room(&self, impi: &Impi, ue: IpAddr) -> bool {
        self.by_contact.len() < self.limit || self.get(impi, ue).is_some()
    }

    pub fn get(&self, impi: &Impi, ue: IpAddr) -> Option<&Registration> {
        self.by_contact.get(&(impi.clone(), ue))
    }

    /// Private identities registered from an address.
    pub fn at(&self, ue: IpAddr) -> impl Iterator<Item = &Impi> {
        self.by_address.get(&ue).into_iter().flatten()
    }

    /// As [`Registrations::get`], or while it is leaving.
    pub fn get_or_leaving(&self, impi: &Impi, ue: IpAddr) -> Option<&Registration> {
        self.get(impi, ue).or_else(|| self.leaving.get(&(ue, impi.clone())))
    }

    /// Private identities that are leaving from an address.
    pub fn leaving_at(&self, ue: IpAddr) -> impl Iterator<Item = &Impi> {
        let first = (ue, Impi::new(""));
        let at = self.leaving.range(first..).take_while(move |((of, _), _)| *of == ue);
        at.map(|((_, impi), _)| impi)
    }

    /// The home network has ended it, and tells the UE of it.
    pub fn leave(&mut self, impi: &Impi, ue: IpAddr) {
        let Some(registration) = self.remove(impi, ue) else { return };
        if self.leaving.len() < self.limit {
            self.leaving.insert((ue, impi.clone()), registration);
        }
    }

    pub fn has_left(&mut self, impi: &Impi, ue: IpAddr) {
        self.leaving.remove(&(ue, impi.clone()));
    }

    pub fn insert(&mut self, impi: Impi, ue: IpAddr, registration: Registration) {
        self.has_left(&impi, ue);
        self.by_address.entry(ue).or_default().insert(impi.clone());
        self.by_contact.insert((impi, ue), registration);
    }

    pub fn remove(&mut self, impi: &Impi, ue: IpAddr) -> Option<Registration> {
        if let Some(impis) = self.by_address.get_mut(&ue) {
            impis.remove(impi);
            if impis.is_empty() {
                self.by_address.remove(&ue);
            }
        }
        self.by_contact.remove(&(impi.clone(), ue))
    }

    /// Where a private identity is registered.
    pub fn addresses_of(&self, impi: &Impi) -> Vec<IpAddr> {
        let first = (impi.clone(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let of_it = self.by_contact.range(first..).take_while(|((of, _), _)| of == impi);
        of_it.map(|((_, ue), _)| *ue).collect()
    }

    /// Ends the registration of an identity and its implicit set; true: it was the last one, and the
    /// contact is registered no more.
    pub fn end(&mut self, impi: &Impi, ue: IpAddr, identity: &Impu) -> bool {
        let contact = (impi.clone(), ue);
        let Some(known) = self.by_contact.get_mut(&contact) else { return false };
        known.identities.retain(|set| !set.holds(identity));
        let is_last = known.identities.is_empty();
        if is_last {
            self.remove(impi, ue);
        }
        is_last
    }

    pub fn len(&self) -> usize {
        self.by_contact.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_contact.is_empty()
    }

    /// How many are leaving.
    pub fn leaving_len(&self) -> usize {
        self.leaving.len()
    }

    /// Registrations that were made, changed or removed since the last call.
    pub fn touched(&mut self) -> BTreeSet<(Impi, IpAddr)> {
        self.by_contact.take()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Impi, IpAddr, &Registration)> {
        self.by_contact.iter().map(|((impi, ue), registration)| (impi, *ue, registration))
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
                for (impi, ue, registration) in self.registrations.iter() {
                    let seconds = registration.expires_at.since(now).as_secs();
                    let or_none = |text: &Option<String>| text.clone().unwrap_or("-".to_owned());
                    let _ = writeln!(
                        text,
                        "{impi} at {ue}: {} for {seconds} s, default {}, term-ioi {}, charging {}",
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
        let all: Vec<(Impi, IpAddr)> = self
            .registrations
            .iter()
            .map(|(impi, ue, _)| (impi.clone(), ue))
            .chain(self.registrations.leaving.keys().map(|(ue, impi)| (impi.clone(), *ue)))
            .collect();
        for (impi, ue) in all {
            self.registrations.remove(&impi, ue);
            self.registrations.has_left(&impi, ue);
            self.forget_followers(&(impi.clone(), ue));
            self.timers.stop(&Timer::RegistrationEnds(impi, ue));
        }
    }
}
