//! Sets of security associations: temporary, established, old; and which one may speak for whom
//! (TS 33.203 §7, TS 24.229 §5.2.2).
//!
//! A set is keyed by what identifies its packets: UE address, UE port and own port. Ports and SPIs
//! of a set never serve two sets at a time. Keys are not kept here: they go to the kernel with the
//! set and nowhere else. What a new one takes is in [`allot`], how long it lives in [`life`].
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
use common::node::{Flow, Now, Transport};
use common::random::Random;
use common::sip::security::Mechanism;
use common::stats::Samples;
use serde::{Deserialize, Serialize};

use crate::config::{Config, SpiRange};
use crate::durable::Touched;
use crate::registrations::Owner;

mod allot;
mod life;

pub use allot::Wanted;

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
    /// Of the emergency registration of the UE.
    #[serde(default)]
    pub is_emergency: bool,
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

    pub fn owner(&self) -> Owner {
        let Set { impi, ue, is_emergency, .. } = self;
        Owner { private_identity: impi.clone(), ue: *ue, is_emergency: *is_emergency }
    }

    pub fn is_of(&self, owner: &Owner) -> bool {
        (&self.impi, self.ue, self.is_emergency)
            == (&owner.private_identity, owner.ue, owner.is_emergency)
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

    /// All sets of a UE, oldest first.
    pub fn sets_of(&self, owner: &Owner) -> Vec<SetId> {
        self.at(owner.ue).filter(|set| set.is_of(owner)).map(|set| set.id).collect()
    }

    /// The set to send on: in use, else new.
    pub fn set_to_use(&self, owner: &Owner) -> Option<&Set> {
        let sets = self.sets_of(owner);
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
        let Wanted { owner: Owner { private_identity: impi, ue, .. }, nat, offer, .. } = *wanted;
        let ue = *ue;
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
        let rank = |set: &&Set| {
            let by_state = match set.state {
                State::InUse => 0,
                State::New => 1,
                State::Old | State::Temporary => 2,
            };
            // A UE may have one server port for both of its registrations.
            (by_state, set.is_emergency)
        };
        sets.filter(|set| set.ports.us == port_us && set.is_established()).min_by_key(rank)
    }

    /// TS 33.203 §7.4, ipsec.md: an offer over `set` brings what no living set at that
    /// address has, and keeps the server port. A port or an SPI of the UE's own old sets may come
    /// again, since only the UE itself can have let go of them; so may those of a challenge that is
    /// repeated. The new one will belong to `owner`.
    pub fn may_follow(&self, set: &Set, owner: &Owner, offer: &Offer) -> bool {
        let gives_way = |other: &Set| {
            other.id != set.id
                && other.is_of(owner)
                && matches!(other.state, State::Old | State::Temporary)
        };
        let wanted =
            Wanted { owner, nat: set.nat, pcscf: set.pcscf, offer, challenged_over: Some(set.id) };
        offer.port_s == set.ports.us && self.clashing(&wanted).all(gives_way)
    }

    /// What the set was challenged over, of the same owner: another authentication (ipsec.md L-05). Any else is an initial
    /// one, also where it came over the associations of the other registration of its UE.
    pub fn challenged_over(&self, set: &Set, agreed: &Agreed) -> Option<SetId> {
        let older = self.get(agreed.challenged_over?)?;
        older.is_of(&set.owner()).then_some(older.id)
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
