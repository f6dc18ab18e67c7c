//! Registrations that the network has just ended (TS 24.229 §5.4.1.5).
//!
//! UE and P-CSCF hear of such an end by NOTIFY alone, and subscribe only behind the 200 to the REGISTER. Whoever
//! comes when it is over already is told what it would have been told had it come before
//! (TS 24.229 §5.4.2.1.2). Not durable.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use common::identity::{Impi, Impu};
use common::node::Now;

use crate::state::{Registration, canonical};
use crate::subscriptions::Gone;
use crate::watch::Cause;
use crate::{Scscf, Timer};

/// How long an end is remembered: 64*T1, the life of a SUBSCRIBE (RFC 3261 §17.1.2.2).
const REMEMBERED: Duration = Duration::from_secs(32);
/// So many are remembered; the oldest makes room.
const ENDS_MAX: usize = 10_000;

/// One registration that was, and why it is no more.
#[derive(Debug)]
pub struct Ended {
    pub registration: Registration,
    pub cause: Cause,
    /// Its contacts, as watchers were told of them.
    pub gone: Vec<Gone>,
}

/// What is remembered, by numbers that grow.
#[derive(Debug, Default)]
pub struct Ends {
    by_number: BTreeMap<u64, Ended>,
    by_private_identity: HashMap<Impi, Vec<u64>>,
    /// Every identity of every set, barred ones included.
    by_identity: HashMap<Impu, Vec<u64>>,
    next_number: u64,
}

impl Ends {
    /// Gives the number of the new one, and of the one that has made room.
    fn remember(&mut self, ended: Ended) -> (u64, Option<u64>) {
        let number = self.next_number;
        self.next_number += 1;
        let private_identity = ended.registration.private_identity.clone();
        self.by_private_identity.entry(private_identity).or_default().push(number);
        for identity in ended.registration.identities().map(canonical) {
            self.by_identity.entry(identity).or_default().push(number);
        }
        self.by_number.insert(number, ended);
        let oldest = self.by_number.keys().next().copied();
        let forgotten = oldest.filter(|_| self.by_number.len() > ENDS_MAX);
        if let Some(oldest) = forgotten {
            self.forget(oldest);
        }
        (number, forgotten)
    }

    pub fn forget(&mut self, number: u64) {
        let Some(ended) = self.by_number.remove(&number) else { return };
        let private_identity = ended.registration.private_identity.clone();
        if let Some(numbers) = self.by_private_identity.get_mut(&private_identity) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_private_identity.remove(&private_identity);
            }
        }
        for identity in ended.registration.identities().map(canonical) {
            let Some(numbers) = self.by_identity.get_mut(&identity) else { continue };
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_identity.remove(&identity);
            }
        }
    }

    /// All of one private identity, oldest first.
    fn of(&self, private_identity: &Impi) -> impl Iterator<Item = (u64, &Ended)> {
        let numbers = self.by_private_identity.get(private_identity).into_iter().flatten();
        numbers.filter_map(|number| Some((*number, self.by_number.get(number)?)))
    }

    /// Those whose sets hold that public identity, oldest first.
    fn with(&self, public_identity: &Impu) -> impl DoubleEndedIterator<Item = &Ended> {
        let numbers = self.by_identity.get(public_identity).into_iter().flatten();
        numbers.filter_map(|number| self.by_number.get(number))
    }

    /// The last one of an identity.
    pub fn latest(&self, public_identity: &Impu) -> Option<&Ended> {
        self.with(public_identity).next_back()
    }
}

impl Scscf {
    /// TS 24.229 §5.4.1.5: keeps an end for those who are not there yet. One that a new registration of the
    /// same private identity has overtaken is none.
    pub(crate) fn remember_end(&mut self, now: Now, ended: Ended) {
        let Ended { registration, .. } = &ended;
        let goes_on = registration.identities().map(canonical).any(|identity| {
            let held = self.registrations.find(&registration.private_identity, &identity);
            held.is_some_and(Registration::has_binding)
        });
        if goes_on {
            return;
        }
        let (number, forgotten) = self.ends.remember(ended);
        self.timers.set(Timer::End(number), now + REMEMBERED);
        if let Some(oldest) = forgotten {
            self.timers.stop(&Timer::End(oldest));
        }
    }

    /// The private identity is registered again.
    pub(crate) fn forget_ends(&mut self, registration: &Registration) {
        let is_over = |ended: &Ended| {
            let mut identities = ended.registration.identities();
            identities.any(|identity| registration.contains(&canonical(identity)))
        };
        let ends = self.ends.of(&registration.private_identity);
        let numbers: Vec<_> =
            ends.filter(|(_, ended)| is_over(ended)).map(|(number, _)| number).collect();
        for number in numbers {
            self.timers.stop(&Timer::End(number));
            self.ends.forget(number);
        }
    }

    /// What is remembered of all who have or had that public identity, with all their sets: as much as those
    /// who watched it were told.
    pub(crate) fn ends_of(&self, public_identity: &Impu) -> Vec<&Ended> {
        let had = self.ends.with(public_identity).map(|ended| &ended.registration.private_identity);
        let mut sharers: Vec<&Impi> =
            self.registrations.sharers(public_identity).iter().chain(had).collect();
        sharers.sort();
        sharers.dedup();
        sharers.into_iter().flat_map(|sharer| self.ends.of(sharer)).map(|(_, one)| one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::cx::user_data::{PublicIdentity, ServiceProfile};

    fn ended(user: usize) -> Ended {
        let public_identities = [format!("sip:{user}@h"), "sip:shared@h".to_owned()]
            .map(|identity| PublicIdentity { identity, ..Default::default() })
            .to_vec();
        let registration = Registration {
            private_identity: Impi::new(format!("{user}@h")),
            service_profiles: vec![ServiceProfile { public_identities, ..Default::default() }],
            charging: Default::default(),
            hss_host: String::new(),
            visited_network: String::new(),
            unchallenged: 0,
            is_reauthentication_due: false,
            told: Vec::new(),
            refused_ends: 0,
            bindings: Vec::new(),
        };
        Ended { registration, cause: Cause::Rejected, gone: Vec::new() }
    }

    /// Invariant I8: no more than there may be, and nothing stays behind of what is forgotten.
    #[test]
    fn the_oldest_makes_room() {
        let mut ends = Ends::default();
        for user in 0..ENDS_MAX {
            assert_eq!(ends.remember(ended(user)), (user as u64, None));
        }
        assert_eq!(ends.remember(ended(ENDS_MAX)), (ENDS_MAX as u64, Some(0)));
        assert_eq!(ends.by_number.len(), ENDS_MAX);
        assert!(ends.latest(&Impu::new("sip:0@h")).is_none());
        assert!(ends.latest(&Impu::new("sip:1@h")).is_some());
        let last = ends.latest(&Impu::new("sip:shared@h")).expect("the last");
        assert_eq!(last.registration.private_identity, Impi::new(format!("{ENDS_MAX}@h")));
        for number in 1..=ENDS_MAX as u64 {
            ends.forget(number);
        }
        assert!(ends.by_number.is_empty() && ends.by_private_identity.is_empty());
        assert!(ends.by_identity.is_empty());
    }
}
