//! Registrations: what survives a restart (TS 24.229 §5.4.1.2.2, TS 23.228 §5.2).
//!
//! [`Registrations::apply`] is the only place where they change. A registration is one private
//! identity in one implicit set; it is stored as one record of kind `registration`, whose key is
//! the private identity, a blank, and the first public identity of the set.

use std::collections::HashMap;
use std::time::Duration;

use common::cx::ChargingInformation;
use common::cx::user_data::{PublicIdentity, ServiceProfile, UserData};
use common::identity::{Impi, Impu};
use common::node::{Now, Output, Record, StoredRecord};
use common::sip::uri::Uri;
use common::timers::Timers;
use serde::{Deserialize, Serialize};

use crate::gruu::Gruu;

/// IdentityType of wildcards (TS 29.228 Annex E).
const WILDCARDED_PSI: u8 = 2;
const WILDCARDED_PUI: u8 = 4;

/// Kind of the records.
const KIND: &str = "registration";

/// One private identity registered with one implicit set of public identities.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Registration {
    pub private_identity: Impi,
    /// The implicit set: all identities of all profiles, barred ones included.
    pub service_profiles: Vec<ServiceProfile>,
    pub charging: Charging,
    /// Origin-Host of the HSS that answered: Destination-Host of later requests.
    pub hss_host: String,
    /// P-Visited-Network-ID of the last REGISTER.
    pub visited_network: String,
    /// REGISTERs accepted since the last challenge.
    pub unchallenged: u32,
    /// The operator wants the next REGISTER challenged (TS 24.229 §5.4.1.6).
    #[serde(default)]
    pub is_reauthentication_due: bool,
    /// Identities that application servers were told of since the set is registered, by devices that are gone
    /// as well (TS 24.229 §5.4.1.7).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<Impu>,
    /// How often the HSS has refused to hear that the user is gone.
    #[serde(default)]
    pub refused_ends: u32,
    /// Empty: the user is gone, and the HSS has yet to hear of it.
    pub bindings: Vec<Binding>,
}

/// One contact address of a registration (RFC 3261 §10).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Binding {
    /// The Contact value with its parameters, `expires` taken off.
    pub contact: String,
    /// The URI in it.
    pub uri: String,
    /// Seconds since the Unix epoch.
    pub expires_at_seconds: u64,
    /// Path of the REGISTER, topmost first: the Route towards the UE (RFC 3327).
    pub path: Vec<String>,
    pub call_id: String,
    pub cseq: u32,
    /// `+sip.instance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// `reg-id`, when the UE registers flows (RFC 5626).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reg_id: Option<u32>,
    /// Made by an emergency registration (`sos` in the URI).
    #[serde(default)]
    pub is_emergency: bool,
    /// The identity that was in To when the contact was bound first; the others of the set came
    /// along with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_identity: Option<Impu>,
    #[serde(default)]
    pub latest: Latest,
    /// When the UE takes GRUUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gruu: Option<Gruu>,
}

/// What made a binding what it is (RFC 3680 §5.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Latest {
    #[default]
    Registered,
    Refreshed,
    /// By the network, which wants to authenticate the user again.
    Shortened,
}

/// Charging-Information of the HSS.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Charging {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_functions: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collection_functions: Vec<String>,
}

impl From<ChargingInformation> for Charging {
    fn from(information: ChargingInformation) -> Charging {
        let list = |names: [Option<String>; 2]| names.into_iter().flatten().collect();
        Charging {
            event_functions: list([
                information.primary_event_charging,
                information.secondary_event_charging,
            ]),
            collection_functions: list([
                information.primary_charging_collection,
                information.secondary_charging_collection,
            ]),
        }
    }
}

impl Registration {
    /// All identities of the set, in the order of the profile.
    pub fn identities(&self) -> impl Iterator<Item = &PublicIdentity> {
        self.service_profiles.iter().flat_map(|profile| &profile.public_identities)
    }

    /// What the set is called: its first public identity, canonical.
    pub fn set(&self) -> Impu {
        self.identities().next().map_or_else(|| Impu::new(""), canonical)
    }

    /// The identity that stands for the set with the HSS: the default one (TS 29.228 §6.1.2.1). Barred ones
    /// and wildcards only where there is nothing else.
    pub fn default_identity(&self) -> Impu {
        default_of(|| self.identities()).map_or_else(|| self.set(), canonical)
    }

    pub fn contains(&self, public_identity: &Impu) -> bool {
        self.identities().any(|identity| {
            identity.identity == public_identity.as_str() || canonical(identity) == *public_identity
        })
    }

    /// Whether any identity of the set may be used.
    pub fn has_unbarred(&self) -> bool {
        self.identities().any(|identity| !identity.is_barred)
    }

    /// Identities that watchers are told of (TS 24.229 §5.4.2.1.2): public user identities, distinct
    /// or wildcarded, that are not barred.
    pub fn listed(&self) -> impl Iterator<Item = &PublicIdentity> {
        self.identities()
            .filter(|identity| !identity.is_barred && matches!(identity.identity_type, 0 | 3 | 4))
    }

    /// Whether watchers are told of that identity, written like this.
    pub fn lists(&self, identity: &str) -> bool {
        self.listed().any(|listed| listed.identity == identity)
    }

    /// Bindings that watchers are told of: not those of emergency registrations.
    pub fn reported(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.iter().filter(|binding| !binding.is_emergency)
    }

    pub fn has_binding(&self) -> bool {
        self.reported().next().is_some()
    }

    fn expires_at(&self) -> Now {
        let soonest = self.bindings.iter().map(|binding| binding.expires_at_seconds).min();
        Now::since_epoch(Duration::from_secs(soonest.unwrap_or(0)))
    }
}

impl Binding {
    pub fn has_expired(&self, now: Now) -> bool {
        self.expires_at_seconds <= now.as_secs()
    }

    /// What is left of it, at least 1.
    pub fn expires_seconds(&self, now: Now) -> u64 {
        seconds_left(self.expires_at_seconds, now).max(1)
    }
}

/// The second of the Unix epoch at which an interval is over that begins now: never before its time.
pub fn end_of(interval_seconds: u32, now: Now) -> u64 {
    now.as_millis().div_ceil(1_000) + u64::from(interval_seconds)
}

/// Whole seconds until then: never more than was granted.
pub fn seconds_left(end_seconds: u64, now: Now) -> u64 {
    (end_seconds * 1_000).saturating_sub(now.as_millis()) / 1_000
}

/// Of the identities of a profile the one that [`Registration::default_identity`] is.
pub fn default_of<'a, I>(identities: impl Fn() -> I) -> Option<&'a PublicIdentity>
where
    I: Iterator<Item = &'a PublicIdentity>,
{
    let distinct = || identities().filter(|identity| !is_wildcard(identity));
    distinct().find(|identity| !identity.is_barred).or_else(|| distinct().next())
}

/// TS 23.003 §13.4A, §13.5: the identity stands for all that its regular expression fits.
pub fn is_wildcard(identity: &PublicIdentity) -> bool {
    matches!(identity.identity_type, WILDCARDED_PSI | WILDCARDED_PUI)
        || identity.identity.matches('!').count() >= 2
}

/// An identity of a profile as a key. A wildcard stands as it is: what is an ornament in a URI has a meaning
/// in a regular expression.
pub fn canonical(identity: &PublicIdentity) -> Impu {
    if is_wildcard(identity) {
        return Impu::new(identity.identity.as_str());
    }
    match Uri::parse(&identity.identity) {
        Ok(uri) => uri.public_identity(),
        Err(_) => Impu::new(identity.identity.as_str()),
    }
}

/// The implicit set of a profile.
pub fn implicit_set(data: &UserData) -> Vec<Impu> {
    data.public_identities().map(canonical).collect()
}

/// What can happen to the registrations.
#[derive(Clone, Debug)]
pub enum Change {
    /// Made, refreshed, or changed in any other way: the whole row.
    Stored(Box<Registration>),
    Removed {
        private_identity: Impi,
        set: Impu,
    },
}

/// All registrations, and what is derived from them.
#[derive(Debug, Default)]
pub struct Registrations {
    by_private_identity: HashMap<Impi, Vec<Registration>>,
    /// Every identity of every set, barred ones included.
    private_identities: HashMap<Impu, Vec<Impi>>,
    /// Those with GRUUs.
    epochs: HashMap<u64, (Impi, Impu)>,
    count: usize,
    /// When a registration expires or, without a binding, is due to be deregistered.
    expiries: Timers<(Impi, Impu)>,
}

impl Registrations {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of one private identity.
    pub fn of(&self, private_identity: &Impi) -> &[Registration] {
        self.by_private_identity.get(private_identity).map_or(&[], Vec::as_slice)
    }

    /// The registration of a private identity whose set holds that public identity.
    pub fn find(&self, private_identity: &Impi, public_identity: &Impu) -> Option<&Registration> {
        self.of(private_identity).iter().find(|registration| registration.contains(public_identity))
    }

    /// The registration of a private identity whose set is called that ([`Registration::set`]).
    pub fn of_set(&self, private_identity: &Impi, set: &Impu) -> Option<&Registration> {
        self.of(private_identity).iter().find(|registration| registration.set() == *set)
    }

    /// The registration with a binding of that epoch of temporary GRUUs.
    pub fn of_epoch(&self, epoch: u64) -> Option<&Registration> {
        let (private_identity, set) = self.epochs.get(&epoch)?;
        self.of_set(private_identity, set)
    }

    /// Private identities whose sets hold that public identity, in the order of registration.
    pub fn sharers(&self, public_identity: &Impu) -> &[Impi] {
        self.private_identities.get(public_identity).map_or(&[], Vec::as_slice)
    }

    /// Everything, sorted, for the operator.
    pub fn sorted(&self) -> Vec<&Registration> {
        #[allow(clippy::iter_over_hash_type)] // sorted below
        let mut all: Vec<_> = self.by_private_identity.values().flatten().collect();
        all.sort_by_cached_key(|registration| {
            (registration.private_identity.clone(), registration.set())
        });
        all
    }

    /// Stores a change and makes it.
    pub fn commit(&mut self, change: Change, out: &mut Vec<Output>) {
        out.push(Output::Persist { record: change.record() });
        self.apply(change);
    }

    /// Makes one that is not to outlive a restart: it is not this S-CSCF's yet (TS 23.380 §4.2).
    pub fn hold(&mut self, registration: Registration) {
        self.apply(Change::Stored(Box::new(registration)));
    }

    /// Takes back what [`Registrations::commit`] stored before a restart. `Err` says why a record
    /// cannot be read; records of other kinds are passed over.
    pub fn restore(&mut self, record: &StoredRecord) -> Result<(), String> {
        if record.kind != KIND {
            return Ok(());
        }
        let registration =
            serde_json::from_str(&record.value).map_err(|error| error.to_string())?;
        self.apply(Change::Stored(Box::new(registration)));
        Ok(())
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Stored(registration) => {
                let private_identity = registration.private_identity.clone();
                let set = registration.set();
                self.take(&private_identity, &set);
                for identity in registration.identities().map(canonical) {
                    let sharers = self.private_identities.entry(identity).or_default();
                    if !sharers.contains(&private_identity) {
                        sharers.push(private_identity.clone());
                    }
                }
                for gruu in registration.bindings.iter().filter_map(|binding| binding.gruu) {
                    self.epochs.insert(gruu.epoch, (private_identity.clone(), set.clone()));
                }
                self.count += 1;
                self.expiries.set((private_identity.clone(), set), registration.expires_at());
                self.by_private_identity.entry(private_identity).or_default().push(*registration);
            }
            Change::Removed { private_identity, set } => {
                self.take(&private_identity, &set);
                self.expiries.stop(&(private_identity, set));
            }
        }
    }

    /// Takes one out, with its entries in the index. Its timer stays.
    fn take(&mut self, private_identity: &Impi, set: &Impu) {
        let Some(all) = self.by_private_identity.get_mut(private_identity) else { return };
        let Some(place) = all.iter().position(|registration| registration.set() == *set) else {
            return;
        };
        let registration = all.remove(place);
        if all.is_empty() {
            self.by_private_identity.remove(private_identity);
        }
        self.count -= 1;
        // What overlaps it may be there already, with some of its bindings and identities.
        let is_of_it = |owner: &(Impi, Impu)| owner.0 == *private_identity && owner.1 == *set;
        for gruu in registration.bindings.iter().filter_map(|binding| binding.gruu) {
            if self.epochs.get(&gruu.epoch).is_some_and(is_of_it) {
                self.epochs.remove(&gruu.epoch);
            }
        }
        for identity in registration.identities().map(canonical) {
            if self.find(private_identity, &identity).is_some() {
                continue;
            }
            let Some(sharers) = self.private_identities.get_mut(&identity) else { continue };
            sharers.retain(|sharer| sharer != private_identity);
            if sharers.is_empty() {
                self.private_identities.remove(&identity);
            }
        }
    }

    /// One registration whose time has come.
    pub fn expired(&mut self, now: Now) -> Option<(Impi, Impu)> {
        self.expiries.expired(now)
    }

    /// Looks at a registration again later.
    pub fn look_again(&mut self, private_identity: Impi, set: Impu, at: Now) {
        self.expiries.set((private_identity, set), at);
    }

    pub fn next_timeout(&self) -> Option<Now> {
        self.expiries.next()
    }
}

impl Change {
    fn record(&self) -> Record {
        let key = |private_identity: &Impi, set: &Impu| format!("{private_identity} {set}");
        match self {
            Change::Stored(registration) => Record {
                kind: KIND,
                key: key(&registration.private_identity, &registration.set()),
                value: Some(
                    serde_json::to_string(registration)
                        .expect("strings, numbers and lists of them have a JSON form"),
                ),
            },
            Change::Removed { private_identity, set } => {
                Record { kind: KIND, key: key(private_identity, set), value: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The HSS has cut the sets anew: the new one comes, and the one that it overlaps goes.
    #[test]
    fn an_overlapping_set_takes_identities_over() {
        let mut registrations = Registrations::default();
        let mut out = Vec::new();
        let [old, new] = [["sip:a", "tel:+1"], ["sip:b", "tel:+1"]];
        let [old, new] = [old, new].map(|set| registration("one", &set, 100));
        let (private_identity, set) = (old.private_identity.clone(), old.set());
        registrations.commit(Change::Stored(Box::new(old)), &mut out);
        registrations.commit(Change::Stored(Box::new(new)), &mut out);
        let removed = Change::Removed { private_identity: private_identity.clone(), set };
        registrations.commit(removed, &mut out);
        assert_eq!(registrations.len(), 1);
        for identity in ["tel:+1", "sip:b"] {
            let sharers = registrations.sharers(&Impu::new(identity));
            assert_eq!(sharers, std::slice::from_ref(&private_identity));
        }
        assert!(registrations.sharers(&Impu::new("sip:a")).is_empty());
    }

    fn registration(private_identity: &str, identities: &[&str], expires_at: u64) -> Registration {
        let public_identities = identities
            .iter()
            .map(|identity| PublicIdentity {
                identity: (*identity).to_owned(),
                ..Default::default()
            })
            .collect();
        Registration {
            private_identity: Impi::new(private_identity),
            service_profiles: vec![ServiceProfile { public_identities, ..Default::default() }],
            charging: Charging::default(),
            hss_host: "hss.hims.net".to_owned(),
            visited_network: "vims.net".to_owned(),
            unchallenged: 0,
            is_reauthentication_due: false,
            told: Vec::new(),
            refused_ends: 0,
            bindings: vec![Binding {
                contact: "<sip:10.0.0.1:5064>".to_owned(),
                uri: "sip:10.0.0.1:5064".to_owned(),
                expires_at_seconds: expires_at,
                path: vec!["<sip:term@pcscf1.vims.net;lr>".to_owned()],
                call_id: "a".to_owned(),
                cseq: 1,
                instance: None,
                reg_id: None,
                is_emergency: false,
                registered_identity: None,
                latest: Latest::Registered,
                gruu: None,
            }],
        }
    }

    fn stored(registration: Registration) -> Change {
        Change::Stored(Box::new(registration))
    }

    #[test]
    fn comes_back_from_its_records_with_index_and_timer() {
        let mut before = Registrations::default();
        let mut out = Vec::new();
        before.commit(stored(registration("a@h", &["sip:a@h", "tel:+1"], 70)), &mut out);
        before.commit(stored(registration("b@h", &["sip:b@h", "tel:+1"], 50)), &mut out);
        before.commit(stored(registration("a@h", &["sip:a@h", "tel:+1"], 90)), &mut out);
        let removed =
            Change::Removed { private_identity: Impi::new("b@h"), set: Impu::new("sip:b@h") };
        before.commit(removed, &mut out);

        let mut rows = std::collections::BTreeMap::new();
        for output in out {
            let Output::Persist { record } = output else { panic!("{output:?}") };
            rows.insert((record.kind, record.key), record.value);
        }
        let mut after = Registrations::default();
        for ((kind, key), value) in rows {
            let Some(value) = value else { continue };
            after.restore(&StoredRecord { kind: kind.to_owned(), key, value }).unwrap();
        }
        assert_eq!(after.len(), 1);
        assert_eq!(after.sorted(), before.sorted());
        assert_eq!(after.sharers(&Impu::new("tel:+1")), [Impi::new("a@h")]);
        assert_eq!(after.next_timeout(), Some(Now::from_millis(90_000)));
        assert_eq!(before.next_timeout(), after.next_timeout());
    }

    /// TS 23.003 §13.4A, §13.5: a wildcard is kept as it is, and another identity stands for its set.
    #[test]
    fn a_wildcard_is_no_uri() {
        let wildcards = ["tel:+1555![0-9]{4}!", "sip:!.*-(x|y)!@H", "sip:pbx![0-9.]{2}!@h"];
        for wildcard in wildcards {
            let one = registration("a@h", &[wildcard, "sip:a@h"], 70);
            assert_eq!(one.set(), Impu::new(wildcard));
            assert!(one.contains(&Impu::new(wildcard)));
            assert_eq!(one.default_identity(), Impu::new("sip:a@h"));
            let alone = registration("a@h", &[wildcard], 70);
            assert_eq!(alone.default_identity(), Impu::new(wildcard));
        }
        let mut barred = registration("a@h", &["sip:t@h", "tel:+1(5)5", "sip:a@h"], 70);
        barred.service_profiles[0].public_identities[0].is_barred = true;
        assert_eq!(barred.default_identity(), Impu::new("tel:+155"));
    }

    #[test]
    fn finds_by_either_identity_of_the_set() {
        let mut registrations = Registrations::default();
        let mut out = Vec::new();
        registrations.commit(stored(registration("a@h", &["sip:a@h", "tel:+1"], 70)), &mut out);
        let private_identity = Impi::new("a@h");
        assert!(registrations.find(&private_identity, &Impu::new("tel:+1")).is_some());
        assert!(registrations.find(&private_identity, &Impu::new("sip:b@h")).is_none());
        assert!(registrations.find(&Impi::new("b@h"), &Impu::new("tel:+1")).is_none());
    }
}
