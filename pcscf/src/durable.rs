//! What survives a restart: one record for each registration and for each established set, without
//! keys, which stay with the data plane. Temporary sets are never stored (ipsec.md L-16).
//!
//! | kind | key | value |
//! |---|---|---|
//! | `registration` | private identity, blank, address; of an emergency one ` sos` | [`Registration`] with its owner |
//! | `set` | number | [`Set`] |
//! | `set_numbers` | `reserved` | sets of later runs get numbers from here on |
//!
//! Procedures change sets and registrations as they like; [`Touched`] remembers which, and what came
//! of them is stored at the end of each input, in the same turn.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::{Index, RangeBounds};

use common::identity::{Impi, logged};
use common::ipsec::sa::SetId;
use common::node::{Now, Output, Record, StoredRecord};
use serde::{Deserialize, Serialize};

use crate::registrations::{Owner, Registration};
use crate::security::Set;
use crate::{Pcscf, Timer};

const REGISTRATION: &str = "registration";
const SET: &str = "set";
const SET_NUMBERS: &str = "set_numbers";
const RESERVED: &str = "reserved";
/// Numbers of sets are reserved so many at a time: none is used twice, whichever run made the set and
/// whether it was stored or not, so a data plane can go by them.
const RESERVED_AT_A_TIME: u64 = 1_000;

/// A map that remembers which entries may have changed.
#[derive(Debug)]
pub struct Touched<K, V> {
    entries: BTreeMap<K, V>,
    touched: BTreeSet<K>,
}

impl<K, V> Default for Touched<K, V> {
    fn default() -> Self {
        Touched { entries: BTreeMap::new(), touched: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V> Touched<K, V> {
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let value = self.entries.get_mut(key)?;
        self.touched.insert(key.clone());
        Some(value)
    }

    pub fn insert(&mut self, key: K, value: V) -> &mut V {
        self.touched.insert(key.clone());
        match self.entries.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(value),
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                entry.insert(value);
                entry.into_mut()
            }
        }
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.entries.remove(key)?;
        self.touched.insert(key.clone());
        Some(value)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }

    pub fn range(&self, range: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        self.entries.range(range)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values()
    }

    /// The keys of entries that were added, changed or removed since the last call.
    pub fn take(&mut self) -> BTreeSet<K> {
        std::mem::take(&mut self.touched)
    }
}

impl<K: Ord, V> Index<&K> for Touched<K, V> {
    type Output = V;
    fn index(&self, key: &K) -> &V {
        &self.entries[key]
    }
}

/// What the store and the data plane have been told.
#[derive(Debug, Default)]
pub struct Durable {
    /// Established sets with the end of their life.
    sets: BTreeMap<SetId, Now>,
    reserved: u64,
    /// Records that could not be read at the start.
    pub unreadable: u64,
}

/// A registration with whose it is.
#[derive(Serialize, Deserialize)]
struct Owned<R> {
    private_identity: Impi,
    ue: IpAddr,
    #[serde(flatten)]
    registration: R,
}

impl Pcscf {
    /// Takes back what an earlier run stored. What is over meanwhile ends as if we had been there, by
    /// its timer. Then the data plane hears which sets there are (ipsec.md L-16).
    pub(crate) fn start(&mut self, now: Now, records: Vec<StoredRecord>, out: &mut Vec<Output>) {
        for record in records {
            if let Err(reason) = self.take_back(&record, out) {
                self.durable.unreadable += 1;
                let (kind, key) = (&record.kind, &record.key);
                tracing::warn!(kind, key, reason, "a stored record cannot be used and is dropped");
                if let Some(kind) = [REGISTRATION, SET, SET_NUMBERS].iter().find(|own| *own == kind)
                {
                    out.push(Output::Persist { record: forget(kind, record.key) });
                }
            }
        }
        let new: Vec<SetId> =
            self.security.iter().filter(|set| set.is_new()).map(|set| set.id).collect();
        for set in new {
            self.old_set_runs_out(now, set);
        }
        let (registrations, sets) = (self.registrations.len(), self.security.len());
        tracing::info!(registrations, sets, "registrations and sets read back");
        self.watch_all_anew(now);
        self.begin_audits(now, out);
    }

    fn take_back(&mut self, record: &StoredRecord, out: &mut Vec<Output>) -> Result<(), String> {
        let unreadable = |error: serde_json::Error| error.to_string();
        match record.kind.as_str() {
            REGISTRATION => {
                let Owned { private_identity, ue, registration } =
                    serde_json::from_str(&record.value)
                        .map(with_ends)
                        .and_then(serde_json::from_value::<Owned<Registration>>)
                        .map_err(unreadable)?;
                let is_emergency = registration.is_emergency();
                let owner = Owner { private_identity, ue, is_emergency };
                if !self.registrations.has_room(&owner) {
                    return Err("limits.registrations is reached".into());
                }
                // Versions before this one kept an emergency registration in the place of the normal one.
                if record.key != key_of(&owner) {
                    let kept = record_of(&owner, &registration);
                    let former = forget(REGISTRATION, record.key.clone());
                    out.extend([kept, former].map(|record| Output::Persist { record }));
                }
                self.keep_registration(owner, registration);
                self.registrations.touched();
            }
            SET => {
                let set: Set = serde_json::from_str(&record.value).map_err(unreadable)?;
                let (id, ends) = (set.id, set.expires_at);
                self.security.take_back(set)?;
                self.timers.set(Timer::SetEnds(id), ends);
                self.security.touched();
                self.durable.sets.insert(id, ends);
            }
            SET_NUMBERS => {
                let first: u64 = record.value.parse().map_err(|_| "not a number")?;
                self.security.number_sets_from(first);
            }
            _ => return Err("records of this kind are not ours".into()),
        }
        Ok(())
    }

    /// Stores what the input changed, in front of the outputs that it led to (invariant I6); then tells
    /// the data plane how long its sets live.
    pub(crate) fn persist(&mut self, first: usize, out: &mut Vec<Output>) {
        let mut records = Vec::new();
        for owner in self.registrations.touched() {
            records.push(match self.registrations.get(&owner) {
                Some(registration) => record_of(&owner, registration),
                None => forget(REGISTRATION, key_of(&owner)),
            });
        }
        for id in self.security.touched() {
            let key = id.0.to_string();
            match self.security.get(id) {
                Some(set) if set.is_established() => {
                    let until = set.expires_at;
                    records.push(keep(SET, key, set));
                    if self.durable.sets.insert(id, until) != Some(until) {
                        out.push(Output::KeepSas { set: id, until });
                    }
                }
                _ if self.durable.sets.remove(&id).is_some() => records.push(forget(SET, key)),
                _ => {}
            }
        }
        let next = self.security.next_number();
        if next > self.durable.reserved {
            self.durable.reserved = next + RESERVED_AT_A_TIME;
            let value = Some(self.durable.reserved.to_string());
            records.push(Record { kind: SET_NUMBERS, key: RESERVED.into(), value });
        }
        out.splice(first..first, records.into_iter().map(|record| Output::Persist { record }));
    }

    /// A subscriber as logs name it.
    pub(crate) fn logged<'a>(&self, impi: &'a Impi) -> std::borrow::Cow<'a, str> {
        logged(impi.as_str(), self.config.log_identities)
    }
}

/// Versions before this one stored one end for all identities.
fn with_ends(mut registration: serde_json::Value) -> serde_json::Value {
    let ends = registration.get("expires_at").cloned();
    let identities = registration.get_mut("identities").and_then(|all| all.as_array_mut());
    if let (Some(ends), Some(identities)) = (ends, identities) {
        identities.iter_mut().for_each(|identity| identity["expires_at"] = ends.clone());
    }
    registration
}

/// Whether it is an emergency registration, its Contact says as well.
fn record_of(owner: &Owner, registration: &Registration) -> Record {
    let private_identity = owner.private_identity.clone();
    let owned = Owned { private_identity, ue: owner.ue, registration };
    keep(REGISTRATION, key_of(owner), &owned)
}

fn key_of(owner: &Owner) -> String {
    let Owner { private_identity, ue, is_emergency } = owner;
    format!("{private_identity} {ue}{}", if *is_emergency { " sos" } else { "" })
}

fn keep(kind: &'static str, key: String, value: &impl Serialize) -> Record {
    let value = serde_json::to_string(value);
    let value = value.expect("strings, numbers and lists of them have a JSON form");
    Record { kind, key, value: Some(value) }
}

fn forget(kind: &'static str, key: String) -> Record {
    Record { kind, key, value: None }
}
