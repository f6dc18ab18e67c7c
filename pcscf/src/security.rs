//! Sets of security associations: temporary, established, old; and which one may speak for whom
//! (TS 33.203 §7, TS 24.229 §5.2.2).
//!
//! A set is keyed by what identifies its packets: UE address, UE port and own port. Ports and SPIs
//! of a set never serve two sets at a time. Keys are not kept here: they go to the kernel with the
//! set and nowhere else.
//!
//! Behind a NAT (TS 33.203 Annex M) the UE address is the private one, which is what the sockets see.
//! Two UEs behind different NATs may have the same; whoever comes second with the same ports is asked to
//! come again, since only the address of the NAT tells the one from the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::identity::Impi;
use common::ipsec::agree::{AlgorithmPair, Offer};
use common::ipsec::sa::{Keys, Mode, Ports, SaSet, SetId, Side, Spis, UDP_ENCAPSULATION_PORT};
use common::node::{Flow, Now, Output, Transport};
use common::random::Random;
use common::sip::security::Mechanism;
use common::stats::Samples;
use serde::{Deserialize, Serialize};

use crate::config::{Config, SpiRange};
use crate::durable::Touched;
use crate::{Pcscf, Timer};

/// How much longer a set lives than the registration it carries (TS 24.229 §5.2.2.3).
pub const BEYOND_REGISTRATION: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Challenged; the answer has not come.
    Temporary,
    /// Established by a re-authentication, and the UE has not used it yet.
    New,
    /// The one requests to the UE go out on.
    InUse,
    /// Replaced; packets still under way are accepted.
    Old,
}

impl State {
    const ALL: [(State, &'static str); 4] = [
        (State::Temporary, "temporary"),
        (State::New, "new"),
        (State::InUse, "in_use"),
        (State::Old, "old"),
    ];

    pub fn name(self) -> &'static str {
        State::ALL.iter().find(|(state, _)| *state == self).map_or("", |(_, name)| name)
    }
}

/// What was agreed while a challenge runs; the protected REGISTER is checked against it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agreed {
    pub security_client: Vec<Mechanism>,
    pub security_server: Vec<Mechanism>,
    /// The established set that protected the challenged REGISTER; `None` when it came in clear.
    pub challenged_over: Option<SetId>,
}

/// An established one is stored as it is (see [`crate::durable`]).
#[derive(Debug, Serialize, Deserialize)]
pub struct Set {
    pub id: SetId,
    pub impi: Impi,
    /// The address of the NAT in front of the UE, in UDP-encapsulated tunnel mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<IpAddr>,
    pub ue: IpAddr,
    pub pcscf: IpAddr,
    pub ports: Ports,
    pub spis: Spis,
    pub pair: AlgorithmPair,
    pub state: State,
    pub created_at: Now,
    pub expires_at: Now,
    /// While temporary.
    #[serde(skip)]
    pub agreed: Option<Box<Agreed>>,
}

impl Set {
    pub fn is_established(&self) -> bool {
        self.state != State::Temporary
    }

    /// Established, and the UE has not used it yet.
    pub fn is_new(&self) -> bool {
        self.state == State::New
    }

    /// From which its packets come, as the network sees them.
    fn source(&self) -> IpAddr {
        self.nat.unwrap_or(self.ue)
    }

    /// The offer is the UE's end of this very set.
    pub fn is_made_with(&self, offer: &Offer) -> bool {
        (self.spis.uc, self.spis.us) == (offer.spi_c, offer.spi_s)
            && (self.ports.uc, self.ports.us) == (offer.port_c, offer.port_s)
    }

    fn has_spi_of(&self, offer: &Offer) -> bool {
        let has_spi = |spi| self.spis.uc == spi || self.spis.us == spi;
        has_spi(offer.spi_c) || has_spi(offer.spi_s)
    }

    /// It is temporary, and its challenge answered a REGISTER in clear: anybody can cause such.
    fn is_from_clear(&self) -> bool {
        self.agreed.as_ref().is_some_and(|agreed| agreed.challenged_over.is_none())
    }

    /// Where UDP responses and requests to the UE go: from port_pc to port_us (ipsec.md section 3).
    pub fn flow_to_ue(&self) -> Flow {
        Flow {
            transport: Transport::Udp,
            local: SocketAddr::new(self.pcscf, self.ports.pc),
            remote: SocketAddr::new(self.ue, self.ports.us),
        }
    }
}

/// No port or SPI is left, or too many sets exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exhausted;

/// For whom a temporary set is to be made, and from what.
pub struct Wanted<'a> {
    pub impi: &'a Impi,
    /// As in [`Set`].
    pub nat: Option<IpAddr>,
    pub ue: IpAddr,
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

#[derive(Debug)]
pub struct Security {
    sets: Touched<SetId, Set>,
    /// (UE address, port_uc): packets to port_ps.
    by_client_port: HashMap<(IpAddr, u16), SetId>,
    /// (UE address, port_us, port_pc): packets to port_pc.
    by_server_port: HashMap<(IpAddr, u16, u16), SetId>,
    by_ue: HashMap<IpAddr, BTreeSet<SetId>>,
    /// Sets of UEs behind a NAT.
    by_nat: HashMap<IpAddr, BTreeSet<SetId>>,
    /// Temporary sets from REGISTERs in clear, oldest first.
    from_clear: BTreeMap<Impi, BTreeSet<SetId>>,
    from_clear_count: usize,
    spis: BTreeSet<u32>,
    reg_await_auth: Duration,
    spi_range: SpiRange,
    challenges_per_identity: usize,
    challenges_per_address: usize,
    /// REGISTERs in clear that wait for their challenge.
    awaiting: HashMap<IpAddr, usize>,
    next_id: u64,
    protected_server_port: u16,
    protected_client_ports: Vec<u16>,
    /// Registrations: each has two established sets and a temporary one at most (ipsec.md A-06);
    /// as many temporary ones as registrations come from REGISTERs in clear.
    limit: usize,
    random: Random,
    pub installed: u64,
    pub refused_by_kernel: u64,
    pub exhausted: u64,
    /// Temporary sets that made room for others of their identity.
    pub crowded_out: u64,
    /// A UE behind another NAT has the same private address and port, or one behind the same NAT the
    /// same SPI.
    pub clashed: u64,
}

impl Security {
    pub fn new(config: &Config, random: Random) -> Security {
        Security {
            sets: Touched::default(),
            by_client_port: HashMap::new(),
            by_server_port: HashMap::new(),
            by_ue: HashMap::new(),
            by_nat: HashMap::new(),
            from_clear: BTreeMap::new(),
            from_clear_count: 0,
            spis: BTreeSet::new(),
            reg_await_auth: Duration::from_secs(config.ipsec.reg_await_auth_seconds.into()),
            spi_range: config.ipsec.spi_range,
            challenges_per_identity: config.ipsec.challenges_per_identity,
            challenges_per_address: config.ipsec.challenges_per_address,
            awaiting: HashMap::new(),
            next_id: 1,
            protected_server_port: config.gm.protected_server_port,
            protected_client_ports: config.gm.protected_client_ports.clone(),
            limit: config.limits.registrations,
            random,
            installed: 0,
            refused_by_kernel: 0,
            exhausted: 0,
            crowded_out: 0,
            clashed: 0,
        }
    }

    /// TS 33.203 §7.1: the set a message came in on, by the sockets it arrived between; never by
    /// what a header says.
    pub fn set_of(&self, flow: &Flow) -> Option<&Set> {
        let (ue, ue_port) = (flow.remote.ip(), flow.remote.port());
        let id = if flow.local.port() == self.protected_server_port {
            self.by_client_port.get(&(ue, ue_port))
        } else {
            self.by_server_port.get(&(ue, ue_port, flow.local.port()))
        }?;
        let set = self.sets.get(id)?;
        (set.pcscf == flow.local.ip()).then_some(set)
    }

    pub fn get(&self, id: SetId) -> Option<&Set> {
        self.sets.get(&id)
    }

    /// All sets of a UE: same private identity at the same address, oldest first.
    pub fn sets_of(&self, impi: &Impi, ue: IpAddr) -> Vec<SetId> {
        let Some(ids) = self.by_ue.get(&ue) else { return Vec::new() };
        ids.iter().copied().filter(|id| self.sets[id].impi == *impi).collect()
    }

    /// The set to send on: in use, else new.
    pub fn set_to_use(&self, impi: &Impi, ue: IpAddr) -> Option<&Set> {
        let sets = self.sets_of(impi, ue);
        let in_state =
            |state| sets.iter().rev().map(|id| &self.sets[id]).find(move |set| set.state == state);
        in_state(State::InUse).or_else(|| in_state(State::New))
    }

    fn at(&self, ue: IpAddr) -> impl Iterator<Item = &Set> {
        self.by_ue.get(&ue).into_iter().flatten().map(|id| &self.sets[id])
    }

    /// Sets whose packets come from this address, as the network sees them.
    fn from(&self, source: IpAddr) -> impl Iterator<Item = &Set> {
        let direct = self.at(source).filter(|set| set.nat.is_none());
        direct.chain(self.by_nat.get(&source).into_iter().flatten().map(|id| &self.sets[id]))
    }

    /// Sets beside which an offer cannot stand in one kernel (ipsec.md A-05): the same client port at the
    /// same address of a UE, or an SPI that is in use at the same address of the network. And requests
    /// to one of two subscribers must not reach the other.
    fn clashing(&self, wanted: &Wanted<'_>) -> impl Iterator<Item = &Set> {
        let Wanted { impi, nat, ue, offer, .. } = *wanted;
        let source = nat.unwrap_or(ue);
        let by_port = self.at(ue).filter(move |set| {
            let is_elsewhere = set.source() != source && set.impi != *impi;
            set.ports.uc == offer.port_c || (is_elsewhere && set.ports.us == offer.port_s)
        });
        by_port.chain(self.from(source).filter(move |set| set.has_spi_of(offer)))
    }

    /// The set for requests to the protected server port of a UE, whoever it is: in use, else new,
    /// else one that is about to end. A UE behind a NAT may be named by the NAT's address, as long as
    /// it is the only one there with that port.
    pub fn set_towards(&self, ue: SocketAddr) -> Option<&Set> {
        self.best_of(self.at(ue.ip()), ue.port()).or_else(|| {
            let sets = self.by_nat.get(&ue.ip())?;
            let found = self.best_of(sets.iter().map(|id| &self.sets[id]), ue.port())?;
            let is_other = |id: &SetId| {
                let set = &self.sets[id];
                set.ports.us == ue.port() && (&set.impi, set.ue) != (&found.impi, found.ue)
            };
            (!sets.iter().any(is_other)).then_some(found)
        })
    }

    fn best_of<'a>(&self, sets: impl Iterator<Item = &'a Set>, port_us: u16) -> Option<&'a Set> {
        let rank = |set: &&Set| match set.state {
            State::InUse => 0,
            State::New => 1,
            State::Old | State::Temporary => 2,
        };
        sets.filter(|set| set.ports.us == port_us && set.is_established()).min_by_key(rank)
    }

    /// TS 33.203 §7.4, ipsec.md: an offer over `set` brings what no living set at that
    /// address has, and keeps the server port. A port or an SPI of the UE's own old sets may come
    /// again, since only the UE itself can have let go of them; so may those of a challenge that is
    /// repeated.
    pub fn may_follow(&self, set: &Set, offer: &Offer) -> bool {
        let gives_way = |other: &Set| {
            other.id != set.id
                && other.impi == set.impi
                && matches!(other.state, State::Old | State::Temporary)
        };
        let wanted = Wanted {
            impi: &set.impi,
            nat: set.nat,
            ue: set.ue,
            pcscf: set.pcscf,
            offer,
            challenged_over: Some(set.id),
        };
        offer.port_s == set.ports.us && self.clashing(&wanted).all(gives_way)
    }

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
        let source = wanted.nat.unwrap_or(wanted.ue);
        let is_elsewhere = |set: &Set| (set.source(), set.ue) != (source, wanted.ue);
        let other = self.clashing(wanted).find(|set| is_elsewhere(set)).map(|set| set.id.0);
        if let Some(set) = other {
            let ue = wanted.ue;
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
        let (ue, us) = (wanted.ue, wanted.offer.port_s);
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
            set.impi == *wanted.impi && set.nat == wanted.nat && set.state == State::Temporary
        };
        let earlier = self.at(wanted.ue).filter(is_earlier);
        let displaced: BTreeSet<SetId> =
            earlier.chain(self.clashing(wanted)).map(|set| set.id).collect();
        let mut displaced: Vec<SetId> = displaced.into_iter().collect();
        if wanted.challenged_over.is_none()
            && let Some(others) = self.from_clear.get(wanted.impi)
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
        let Wanted { impi, nat, ue, pcscf, offer, challenged_over } = wanted;
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
            impi: impi.clone(),
            nat,
            ue,
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

    /// The challenge is over, one way or the other: what was agreed for it.
    fn take_agreed(&mut self, id: SetId) -> Option<Box<Agreed>> {
        let set = self.sets.get_mut(&id)?;
        let agreed = set.agreed.take()?;
        if agreed.challenged_over.is_none()
            && let Some(ids) = self.from_clear.get_mut(&set.impi)
            && ids.remove(&id)
        {
            self.from_clear_count -= 1;
            if ids.is_empty() {
                self.from_clear.remove(&set.impi);
            }
        }
        Some(agreed)
    }

    /// A set that an earlier run has stored.
    pub fn take_back(&mut self, set: Set) -> Result<(), String> {
        if !set.is_established() {
            return Err("the set is a temporary one".into());
        }
        let client = (set.ue, set.ports.uc);
        let server = (set.ue, set.ports.us, set.ports.pc);
        let has_spi = [set.spis.pc, set.spis.ps].iter().any(|spi| self.spis.contains(spi));
        if has_spi
            || self.sets.get(&set.id).is_some()
            || self.by_client_port.contains_key(&client)
            || self.by_server_port.contains_key(&server)
        {
            return Err("another set has its number, its ports or its SPIs".into());
        }
        self.number_sets_from(set.id.0 + 1);
        self.by_client_port.insert(client, set.id);
        self.by_server_port.insert(server, set.id);
        self.by_ue.entry(set.ue).or_default().insert(set.id);
        if let Some(nat) = set.nat {
            self.by_nat.entry(nat).or_default().insert(set.id);
        }
        self.spis.extend([set.spis.pc, set.spis.ps]);
        self.sets.insert(set.id, set);
        Ok(())
    }

    /// New sets get this number or a higher one.
    pub fn number_sets_from(&mut self, first: u64) {
        self.next_id = self.next_id.max(first);
    }

    pub fn next_number(&self) -> u64 {
        self.next_id
    }

    /// Sets that were made, changed or removed since the last call.
    pub fn touched(&mut self) -> BTreeSet<SetId> {
        self.sets.take()
    }

    pub fn len(&self) -> usize {
        self.sets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// In the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Set> {
        self.sets.values()
    }

    /// The data plane holds the set. Whoever follows the life of sets (the lab's ladder does) reads
    /// these lines at level debug.
    pub fn note_installed(&mut self, id: SetId) {
        self.installed += 1;
        let Some(set) = self.sets.get(&id) else { return };
        let (ports, spis) = (set.ports, set.spis);
        tracing::debug!(
            set = id.0,
            uc = ports.uc,
            us = ports.us,
            pc = ports.pc,
            ps = ports.ps,
            spi_uc = spis.uc,
            spi_us = spis.us,
            spi_pc = spis.pc,
            spi_ps = spis.ps,
            alg = set.pair.alg.name(),
            ealg = set.pair.ealg.name(),
            "security associations installed"
        );
    }

    /// Forgets a set; its ports and SPIs are free again.
    pub fn remove(&mut self, id: SetId) -> Option<Set> {
        self.take_agreed(id);
        let set = self.sets.remove(&id)?;
        self.by_client_port.remove(&(set.ue, set.ports.uc));
        self.by_server_port.remove(&(set.ue, set.ports.us, set.ports.pc));
        forget(&mut self.by_ue, set.ue, id);
        if let Some(nat) = set.nat {
            forget(&mut self.by_nat, nat, id);
        }
        self.spis.remove(&set.spis.pc);
        self.spis.remove(&set.spis.ps);
        Some(set)
    }

    /// What the kernel gets: the set with its keys. The port of the NAT shows with the first packet that
    /// comes from it (TS 33.203 Annex M); until then it may be the UE's own.
    pub fn with_keys(set: &Set, keys: Keys) -> SaSet {
        let mode = match set.nat {
            None => Mode::Transport,
            Some(nat) => Mode::UdpEncTun { nat: SocketAddr::new(nat, UDP_ENCAPSULATION_PORT) },
        };
        SaSet {
            id: set.id,
            side: Side::Pcscf,
            mode,
            ue: set.ue,
            pcscf: set.pcscf,
            ports: set.ports,
            spis: set.spis,
            integrity: set.pair.alg,
            encryption: set.pair.ealg,
            keys,
        }
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

    pub fn samples(&self, samples: &mut Samples) {
        for (state, name) in State::ALL {
            let count = self.sets.values().filter(|set| set.state == state).count();
            samples.gauge(
                "tessera_pcscf_security_association_sets",
                "Sets of four security associations",
                &[("state", name)],
                count as f64,
            );
        }
        let behind_nat: usize = self.by_nat.values().map(BTreeSet::len).sum();
        samples.gauge(
            "tessera_pcscf_security_association_sets_behind_nat",
            "Sets of four security associations of UEs behind a NAT, inside UDP",
            &[],
            behind_nat as f64,
        );
        for (result, value) in [
            ("installed", self.installed),
            ("refused_by_kernel", self.refused_by_kernel),
            ("exhausted", self.exhausted),
            ("crowded_out", self.crowded_out),
            ("clashed", self.clashed),
        ] {
            samples.counter(
                "tessera_pcscf_set_requests_total",
                "Sets asked for, by what became of them",
                &[("result", result)],
                value,
            );
        }
    }
}

fn forget(index: &mut HashMap<IpAddr, BTreeSet<SetId>>, address: IpAddr, id: SetId) {
    if let Some(ids) = index.get_mut(&address) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(&address);
        }
    }
}

impl Pcscf {
    /// TS 33.203 §7.1: responses to what came by UDP inside IPsec go from port_pc to port_us, whatever
    /// port the request came from. What came on an old set is answered on the one in use (ipsec.md
    /// F-09). Over TCP that is where they go when the connection of the request is gone, never in clear.
    /// `None`: as RFC 3261 says.
    pub(crate) fn reply_flow(&self, flow: &Flow) -> Option<Flow> {
        let set = self.security.set_of(flow)?;
        let answer_on = match set.state {
            State::Old => self.security.set_to_use(&set.impi, set.ue).unwrap_or(set),
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
        let in_use = self.security.set_to_use(&new.impi, new.ue).filter(|set| set.id != id);
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
        let (impi, ue) = (set.impi.clone(), set.ue);
        for other in self.security.sets_of(&impi, ue) {
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
        let (impi, ue, was) = (set.impi.clone(), set.ue, set.state);
        self.drop_set(id, out);
        // Old about to end and new still unused: the new one is the one to use (ipsec.md L-07).
        if was == State::InUse
            && let Some(next) = self.security.set_to_use(&impi, ue).map(|set| set.id)
        {
            self.put_into_use(now, next);
        }
        let is_left = self
            .security
            .sets_of(&impi, ue)
            .iter()
            .any(|id| self.security.get(*id).is_some_and(Set::is_established));
        if was != State::Temporary && !is_left {
            // The S-CSCF ended the registration 30 s ago (registration.md D-09).
            self.registrations.remove(&impi, ue);
            self.forget_followers(&(impi, ue));
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
        let challenged_over =
            self.security.take_agreed(id).and_then(|agreed| agreed.challenged_over);
        let Some(set) = self.security.sets.get_mut(&id) else { return };
        let (impi, ue) = (set.impi.clone(), set.ue);
        set.state = State::New;
        let others = self.security.sets_of(&impi, ue).into_iter().filter(|other| *other != id);
        match challenged_over.filter(|old| self.security.get(*old).is_some()) {
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
