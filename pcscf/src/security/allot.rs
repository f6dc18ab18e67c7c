//! What a challenge takes of the P-CSCF: SPIs and ports for a temporary set, and the sets that make room
//! (TS 33.203 §7.1, ipsec.md, L-01).
//!
//! 1. `await_challenge`  before the home network is asked: are there too many already
//! 2. `allot`            it has challenged: what is free, what has to go
//! 3. `create`           the set

use std::collections::BTreeSet;
use std::net::IpAddr;

use common::identity::Impi;
use common::ipsec::agree::Offer;
use common::ipsec::sa::{Ports, SetId, Spis};
use common::node::Now;

use super::{Agreed, Security, Set, State};
use crate::config::SpiRange;
use crate::registrations::Owner;

/// No port or SPI is left, or too many sets exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exhausted;

/// For whom a temporary set is to be made, and from what.
pub struct Wanted<'a> {
    pub owner: &'a Owner,
    /// As in [`Set`].
    pub nat: Option<IpAddr>,
    pub pcscf: IpAddr,
    pub offer: &'a Offer,
    /// As in [`Agreed`].
    pub challenged_over: Option<SetId>,
}

/// What a new set gets of ours, and which sets have to go first.
pub struct Allotted {
    port_pc: u16,
    spi_pc: u32,
    spi_ps: u32,
    pub displaced: Vec<SetId>,
}
impl Security {
    /// A REGISTER in clear is on its way to be challenged; false: too many are at the address that it
    /// came from, or in all. The identity's own temporary set does not count: a new one replaces it.
    pub fn await_challenge(&mut self, impi: &Impi, source: IpAddr) -> bool {
        let counts = |set: &&Set| set.is_from_clear() && set.impi != *impi;
        let temporary = self.from(source).filter(counts).count();
        let awaiting = self.awaiting.get(&source).copied().unwrap_or_default();
        if temporary + awaiting >= self.challenges_per_address {
            return false;
        }
        *self.awaiting.entry(source).or_default() += 1;
        true
    }

    /// That REGISTER has its answer.
    pub fn awaits_no_more(&mut self, source: IpAddr) {
        let Some(count) = self.awaiting.get_mut(&source) else { return };
        *count -= 1;
        if *count == 0 {
            self.awaiting.remove(&source);
        }
    }

    /// TS 33.203 §7.1: ports and SPIs of our own that nobody else uses, and the sets that the new one
    /// displaces. Nothing changes yet: where something is lacking, nothing is lost.
    pub fn allot(&mut self, wanted: &Wanted<'_>) -> Result<Allotted, Exhausted> {
        // Whoever is somewhere else has nothing to do with this UE, and loses nothing to it.
        let ue = wanted.owner.ue;
        let source = wanted.nat.unwrap_or(ue);
        let is_elsewhere = |set: &Set| (set.source(), set.ue) != (source, ue);
        let other = self.clashing(wanted).find(|set| is_elsewhere(set)).map(|set| set.id.0);
        if let Some(set) = other {
            tracing::warn!(%ue, %source, set, "another UE behind a NAT has these ports or SPIs");
            self.clashed += 1;
            return Err(Exhausted);
        }
        let allotted = self.try_allot(wanted);
        if allotted.is_none() {
            self.exhausted += 1;
        }
        allotted.ok_or(Exhausted)
    }

    fn try_allot(&mut self, wanted: &Wanted<'_>) -> Option<Allotted> {
        let displaced = self.displaced_by(wanted);
        let gone = |id: &SetId| displaced.contains(id);
        let gone_from_clear = displaced.iter().filter(|id| self.sets[id].is_from_clear()).count();
        let is_full = match wanted.challenged_over {
            None => self.from_clear_count - gone_from_clear >= self.limit,
            Some(_) => {
                let others = self.sets.len() - self.from_clear_count;
                others >= self.limit.saturating_mul(3)
            }
        };
        if is_full {
            return None;
        }
        let (ue, us) = (wanted.owner.ue, wanted.offer.port_s);
        let count = self.protected_client_ports.len();
        let start = self.random.below(count as u64) as usize;
        let port_pc = (0..count)
            .map(|step| self.protected_client_ports[(start + step) % count])
            .find(|port| self.by_server_port.get(&(ue, us, *port)).is_none_or(gone))?;
        let theirs = [wanted.offer.spi_c, wanted.offer.spi_s];
        let spi_pc = self.free_spi(&theirs)?;
        let spi_ps = self.free_spi(&[theirs[0], theirs[1], spi_pc])?;
        Some(Allotted { port_pc, spi_pc, spi_ps, displaced })
    }

    /// Sets that cannot live beside the new one: the earlier temporary one of this UE (ipsec.md L-01);
    /// whatever at this address has the same client port or SPIs, since a phone that offers them again
    /// has restarted; and of too many challenges for one identity the oldest.
    fn displaced_by(&self, wanted: &Wanted<'_>) -> Vec<SetId> {
        let is_earlier = |set: &&Set| {
            set.is_of(wanted.owner) && set.nat == wanted.nat && set.state == State::Temporary
        };
        let earlier = self.at(wanted.owner.ue).filter(is_earlier);
        let displaced: BTreeSet<SetId> =
            earlier.chain(self.clashing(wanted)).map(|set| set.id).collect();
        let mut displaced: Vec<SetId> = displaced.into_iter().collect();
        if wanted.challenged_over.is_none()
            && let Some(others) = self.from_clear.get(&wanted.owner.private_identity)
        {
            let others: Vec<SetId> =
                others.iter().copied().filter(|id| !displaced.contains(id)).collect();
            let too_many = (others.len() + 1).saturating_sub(self.challenges_per_identity);
            displaced.extend(others.into_iter().take(too_many));
        }
        displaced
    }

    /// TS 33.203 §7.1: the temporary set. What it displaces has gone before.
    pub fn create(&mut self, now: Now, wanted: Wanted<'_>, allotted: &Allotted) -> &mut Set {
        let Wanted { owner, nat, pcscf, offer, challenged_over } = wanted;
        let Owner { private_identity: impi, ue, is_emergency } = owner.clone();
        let Allotted { port_pc, spi_pc, spi_ps, displaced: _ } = *allotted;
        let ports = Ports {
            uc: offer.port_c,
            us: offer.port_s,
            pc: port_pc,
            ps: self.protected_server_port,
        };
        let spis = Spis { uc: offer.spi_c, us: offer.spi_s, pc: spi_pc, ps: spi_ps };
        let id = SetId(self.next_id);
        self.next_id += 1;
        self.spis.extend([spi_pc, spi_ps]);
        self.by_client_port.insert((ue, ports.uc), id);
        self.by_server_port.insert((ue, ports.us, ports.pc), id);
        self.by_ue.entry(ue).or_default().insert(id);
        if let Some(nat) = nat {
            self.by_nat.entry(nat).or_default().insert(id);
        }
        if challenged_over.is_none() {
            self.from_clear.entry(impi.clone()).or_default().insert(id);
            self.from_clear_count += 1;
        }
        let agreed =
            Agreed { security_client: Vec::new(), security_server: Vec::new(), challenged_over };
        let set = Set {
            id,
            impi,
            nat,
            ue,
            is_emergency,
            pcscf,
            ports,
            spis,
            pair: offer.pair,
            state: State::Temporary,
            created_at: now,
            expires_at: now + self.reg_await_auth,
            agreed: Some(Box::new(agreed)),
        };
        self.sets.insert(id, set)
    }

    /// Drawn by chance: a wrapping counter would reuse living ones, and a guessable one helps
    /// whoever wants to disturb. From there the next that no living set has, in the order of numbers;
    /// `None` when there is none.
    fn free_spi(&mut self, others: &[u32]) -> Option<u32> {
        let SpiRange { first, last } = self.spi_range;
        let span = u64::from(last - first) + 1;
        if self.spis.len() as u64 >= span {
            return None;
        }
        let start = first + self.random.below(span) as u32;
        let is_free = |spi: &u32| !self.spis.contains(spi) && !others.contains(spi);
        (start..=last).chain(first..start).find(is_free)
    }
}
