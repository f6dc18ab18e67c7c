//! The life of a set (TS 33.203 §7.4, ipsec.md L-01 to L-12): temporary, new, in use, old, gone.
//!
//! 1. `establish`         its challenge was answered well
//! 2. `heard`             the UE speaks on it: the one in use
//! 3. `old_set_runs_out`  the UE does not, and there is no time left
//! 4. `set_ended`         its time is over

use common::ipsec::sa::SetId;
use common::node::{Flow, Now, Output};

use super::{Set, State};
use crate::{Pcscf, Timer};

impl Pcscf {
    /// TS 33.203 §7.1: responses to what came by UDP inside IPsec go from port_pc to port_us, whatever
    /// port the request came from. What came on an old set is answered on the one in use (ipsec.md
    /// F-09). Over TCP that is where they go when the connection of the request is gone, never in clear.
    /// `None`: as RFC 3261 says.
    pub(crate) fn reply_flow(&self, flow: &Flow) -> Option<Flow> {
        let set = self.security.set_of(flow)?;
        let answer_on = match set.state {
            State::Old => self.security.set_to_use(&set.owner()).unwrap_or(set),
            _ => set,
        };
        Some(Flow { transport: flow.transport, ..answer_on.flow_to_ue() })
    }

    /// The UE speaks on this set, which ends the old ones (ipsec.md L-06).
    ///
    /// TS 24.229 §5.2.2.1: the first protected message on the new set puts it into use and leaves
    /// the old ones 64 × T1 at most. A repetition says nothing: the UE may still wait for its 200.
    pub(crate) fn heard(&mut self, now: Now, flow: &Flow) {
        let Some(set) = self.security.set_of(flow).filter(|set| set.state == State::New) else {
            return;
        };
        let id = set.id;
        self.put_into_use(now, id);
    }

    /// TS 24.229 §5.2.2.3, ipsec.md L-07: once the set in use has 64 × T1 left, the new one is used,
    /// though the UE has not used it yet.
    pub(crate) fn old_set_runs_out(&mut self, now: Now, id: SetId) {
        let Some(new) = self.security.get(id).filter(|set| set.state == State::New) else { return };
        let in_use = self.security.set_to_use(&new.owner()).filter(|set| set.id != id);
        match in_use.map(|set| set.expires_at) {
            // A refresh over it has prolonged its life meanwhile (L-08).
            Some(ends) if ends > now + self.config.gm.old_set_life() => {
                let spare = ends.since(now + self.config.gm.old_set_life());
                self.timers.set(Timer::OldSetRunsOut(id), now + spare);
            }
            _ => self.put_into_use(now, id),
        }
    }

    /// Makes a set the one in use; the other established ones of its UE become old.
    pub(crate) fn put_into_use(&mut self, now: Now, id: SetId) {
        self.timers.stop(&Timer::OldSetRunsOut(id));
        let Some(set) = self.security.sets.get_mut(&id) else { return };
        set.state = State::InUse;
        let owner = set.owner();
        for other in self.security.sets_of(&owner) {
            let Some(set) = self.security.sets.get_mut(&other) else { continue };
            if other != id && set.is_established() {
                set.state = State::Old;
                let ends = set.expires_at.min(now + self.config.gm.old_set_life());
                self.set_life(other, ends);
            }
        }
    }

    /// Sets when a set ends.
    pub(crate) fn set_life(&mut self, id: SetId, ends: Now) {
        if let Some(set) = self.security.sets.get_mut(&id) {
            set.expires_at = ends;
            self.timers.set(Timer::SetEnds(id), ends);
        }
    }

    /// TS 33.203 §7.4: a set whose life is over leaves the kernel at once.
    pub(crate) fn set_ended(&mut self, now: Now, id: SetId, out: &mut Vec<Output>) {
        let Some(set) = self.security.get(id) else { return };
        let (owner, was) = (set.owner(), set.state);
        self.drop_set(id, out);
        // Old about to end and new still unused: the new one is the one to use (ipsec.md L-07).
        if was == State::InUse
            && let Some(next) = self.security.set_to_use(&owner).map(|set| set.id)
        {
            self.put_into_use(now, next);
        }
        let is_left = self
            .security
            .sets_of(&owner)
            .iter()
            .any(|id| self.security.get(*id).is_some_and(Set::is_established));
        if was != State::Temporary && !is_left {
            // The S-CSCF ended the registration 30 s ago (registration.md D-09).
            self.registrations.remove(&owner);
            self.forget_followers(&owner);
        }
    }

    pub(crate) fn drop_set(&mut self, id: SetId, out: &mut Vec<Output>) {
        if self.security.remove(id).is_some() {
            self.timers.stop(&Timer::SetEnds(id));
            self.timers.stop(&Timer::OldSetRunsOut(id));
            tracing::debug!(set = id.0, "security associations removed");
            out.push(Output::RemoveSas { set: id });
        }
    }

    /// Promotes the temporary set of a successful challenge.
    pub(crate) fn establish(&mut self, now: Now, id: SetId, ends: Now, out: &mut Vec<Output>) {
        let agreed = self.security.take_agreed(id);
        let Some(set) = self.security.sets.get_mut(&id) else { return };
        set.state = State::New;
        let set = &self.security.sets[&id];
        let others = self.security.sets_of(&set.owner()).into_iter().filter(|other| *other != id);
        match agreed.and_then(|agreed| self.security.challenged_over(set, &agreed)) {
            // Re-authentication: the set that protected the challenged REGISTER stays in use until
            // the UE speaks on the new one (TS 24.229 §5.2.2.3; ipsec.md L-05).
            Some(old) => {
                let old_ends = self.security.get(old).map_or(ends, |set| set.expires_at);
                self.set_life(id, old_ends.max(ends));
                for other in others.filter(|other| *other != old).collect::<Vec<_>>() {
                    self.drop_set(other, out);
                }
                self.old_set_runs_out(now, id);
            }
            // Initial authentication: all others go now (ipsec.md L-04).
            None => {
                for other in others.collect::<Vec<_>>() {
                    self.drop_set(other, out);
                }
                self.set_life(id, ends);
                self.put_into_use(now, id);
            }
        }
    }
}
