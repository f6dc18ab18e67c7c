//! Challenges that run (TS 24.229 §5.4.1.2.1), by private identity and Call-ID.
//!
//! One attempt is one Call-ID. A user may be in several at a time: an emergency registration beside the
//! normal one (§5.4.8), the same card over WLAN; and anybody can begin one for somebody else, since the first
//! REGISTER proves nothing. None of them ends another, up to [`ATTEMPTS_MAX`]: whoever begins that many more
//! while a challenge runs still ends it. What holds such a flood back is the P-CSCF, by address and identity.

use std::collections::HashMap;

use common::identity::Impi;

use crate::authenticate::Challenge;

/// Attempts of one private identity at a time; the oldest makes room.
pub const ATTEMPTS_MAX: usize = 4;

#[derive(Debug, Default)]
pub struct Challenges {
    /// Oldest first.
    by_private_identity: HashMap<Impi, Vec<Challenge>>,
}

impl Challenges {
    /// Private identities with a challenge.
    pub fn len(&self) -> usize {
        self.by_private_identity.len()
    }

    pub fn has(&self, private_identity: &Impi) -> bool {
        self.by_private_identity.contains_key(private_identity)
    }

    /// Of the attempt with that Call-ID.
    pub fn get(&self, private_identity: &Impi, call_id: &str) -> Option<&Challenge> {
        self.of(private_identity).iter().find(|challenge| challenge.call_id == call_id)
    }

    /// Of whatever attempt began last.
    pub fn latest(&self, private_identity: &Impi) -> Option<&Challenge> {
        self.of(private_identity).last()
    }

    fn of(&self, private_identity: &Impi) -> &[Challenge] {
        self.by_private_identity.get(private_identity).map_or(&[], Vec::as_slice)
    }

    /// In the place of the one of the same attempt; gives the one that has to make room.
    pub fn insert(&mut self, private_identity: Impi, challenge: Challenge) -> Option<Challenge> {
        let all = self.by_private_identity.entry(private_identity).or_default();
        all.retain(|other| other.call_id != challenge.call_id);
        let oldest = (all.len() >= ATTEMPTS_MAX).then(|| all.remove(0));
        all.push(challenge);
        oldest
    }

    pub fn remove(&mut self, private_identity: &Impi, call_id: &str) -> Option<Challenge> {
        let all = self.by_private_identity.get_mut(private_identity)?;
        let place = all.iter().position(|challenge| challenge.call_id == call_id)?;
        let challenge = all.remove(place);
        if all.is_empty() {
            self.by_private_identity.remove(private_identity);
        }
        Some(challenge)
    }

    /// `spares_emergency`: those of registrations for emergency calls stay.
    pub fn remove_all(
        &mut self,
        private_identity: &Impi,
        spares_emergency: bool,
    ) -> Vec<Challenge> {
        let all = self.by_private_identity.remove(private_identity).unwrap_or_default();
        let is_spared = |challenge: &Challenge| spares_emergency && challenge.is_emergency;
        let (spared, removed): (Vec<_>, Vec<_>) = all.into_iter().partition(is_spared);
        if !spared.is_empty() {
            self.by_private_identity.insert(private_identity.clone(), spared);
        }
        removed
    }
}
