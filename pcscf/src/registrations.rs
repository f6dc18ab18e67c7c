//! What the P-CSCF knows of a registered UE (TS 24.229 §5.2.2.3), and the operator's view of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use common::identity::{Impi, Impu};
use common::node::Now;
use common::sip::address::Address;

use crate::Pcscf;

/// What one REGISTER registered: the identity in To and its implicit set.
#[derive(Clone, PartialEq, Eq, Debug)]
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
}

/// One registered contact: a private identity at an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// The Contact URI that was registered.
    pub contact_uri: String,
    /// Service-Route of the latest 200, in order, as written.
    pub service_route: Vec<String>,
    /// In the order of registration.
    pub identities: Vec<IdentitySet>,
    /// term-ioi of the home network.
    pub term_ioi: Option<String>,
    pub expires_at: Now,
}

#[derive(Debug)]
pub struct Registrations {
    by_contact: BTreeMap<(Impi, IpAddr), Registration>,
    limit: usize,
}

impl Registrations {
    pub fn new(limit: usize) -> Self {
        Registrations { by_contact: BTreeMap::new(), limit }
    }

    /// There is room for this UE: it is known already, or the limit is not reached.
    pub fn has_room(&self, impi: &Impi, ue: IpAddr) -> bool {
        self.by_contact.len() < self.limit || self.get(impi, ue).is_some()
    }

    pub fn get(&self, impi: &Impi, ue: IpAddr) -> Option<&Registration> {
        self.by_contact.get(&(impi.clone(), ue))
    }

    pub fn insert(&mut self, impi: Impi, ue: IpAddr, registration: Registration) {
        self.by_contact.insert((impi, ue), registration);
    }

    pub fn remove(&mut self, impi: &Impi, ue: IpAddr) -> Option<Registration> {
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
            self.by_contact.remove(&contact);
        }
        is_last
    }

    pub fn len(&self) -> usize {
        self.by_contact.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_contact.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Impi, IpAddr, &Registration)> {
        self.by_contact.iter().map(|((impi, ue), registration)| (impi, *ue, registration))
    }
}

impl Pcscf {
    /// The operator's commands: `registrations`, `sa list`.
    pub(crate) fn admin(&self, now: Now, command: &[String]) -> String {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["registrations"] => {
                let mut text = String::new();
                for (impi, ue, registration) in self.registrations.iter() {
                    let seconds = registration.expires_at.since(now).as_secs();
                    let _ = writeln!(
                        text,
                        "{impi} at {ue}: {} for {seconds} s, default {}",
                        registration.contact_uri,
                        registration
                            .identities
                            .first()
                            .and_then(|set| set.associated_uris.first())
                            .map_or("-", String::as_str),
                    );
                }
                text
            }
            ["sa", "list"] => self.security.list(now),
            _ => "commands: registrations | sa list\n".into(),
        }
    }
}
