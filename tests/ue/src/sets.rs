//! Sets of security associations as the UE holds them: at most a temporary one, one in use, and old
//! ones that run out (TS 33.203 §7.4).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use common::ipsec::agree::{self, AlgorithmPair, Offer};
use common::ipsec::esp::{EspSet, OpenError, spi_of};
use common::ipsec::sa::{Keys, Mode, Ports, SaSet, SetId, Side, Spis, UDP_ENCAPSULATION_PORT};
use common::node::{Flow, Now};
use common::random::Random;

/// Life of a temporary set: reg-await-auth (TS 24.229 §5.1.1.5.1).
pub const TEMPORARY: Duration = Duration::from_secs(240);
/// By how much an association outlives the registration (TS 33.203 §7.4).
pub const BEYOND_REGISTRATION: Duration = Duration::from_secs(30);
/// Where a phone begins that counts its SPIs.
const COUNTED_SPI: u32 = 2_000_000_000;
/// How many port numbers a phone uses for protection.
const PORTS: u16 = 1000;

/// What the UE offers: SPIs and ports of its side, and how Security-Client says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offered {
    pub spi_c: u32,
    pub spi_s: u32,
    pub port_c: u16,
    pub port_s: u16,
    /// The value of Security-Client, the same in both REGISTERs of an authentication.
    pub security_client: String,
}

/// Where a set is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Temporary,
    InUse,
    Old,
}

/// One set.
#[derive(Debug)]
pub struct Set {
    pub esp: EspSet,
    pub role: Role,
    pub ends_at: Now,
    /// Lines of Security-Server as received: what Security-Verify repeats.
    pub security_server: Vec<String>,
}

/// All sets of one phone, newest last.
#[derive(Debug)]
pub struct Sets {
    /// Boxed: the map has room for eleven at once, and a phone has one or two.
    sets: BTreeMap<SetId, Box<Set>>,
    next_id: u64,
    /// port_us: kept until the UE is fully deregistered (TS 24.229 §5.1.1.2.2).
    port_s: Option<u16>,
    first_port: u16,
    next_port: u16,
    /// 64·T1 on Gm: what an old set is cut to.
    old_life: Duration,
    /// SPIs are counted from here; `None`: they are drawn.
    next_spi: Option<u32>,
}

impl Sets {
    pub fn new(first_port: u16, old_life: Duration, random: &mut Random) -> Sets {
        let next_port = random.below(u64::from(PORTS)) as u16;
        Sets {
            sets: BTreeMap::new(),
            next_id: 1,
            port_s: None,
            first_port,
            next_port,
            next_spi: None,
            old_life,
        }
    }

    /// New SPIs and a new client port; the server port stays (TS 24.229 §5.1.1.2.2). For NATs each pair
    /// stands there twice, for either mode (TS 33.203 Annex M).
    pub fn offer(
        &mut self,
        pairs: &[AlgorithmPair],
        in_tunnel_too: bool,
        random: &mut Random,
    ) -> Offered {
        let port_s = match self.port_s {
            Some(port) => port,
            None => self.free_port(),
        };
        self.port_s = Some(port_s);
        let port_c = self.free_port();
        let spi_c = self.free_spi(random, 0);
        let spi_s = self.free_spi(random, spi_c);
        let mut entries = agree::security_client(pairs, spi_c, spi_s, port_c, port_s);
        if in_tunnel_too {
            let mut encapsulated = entries.clone();
            encapsulated.iter_mut().for_each(agree::encapsulate);
            entries.splice(0..0, encapsulated);
        }
        let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
        Offered { spi_c, spi_s, port_c, port_s, security_client: entries.join(",") }
    }

    /// Sets up a temporary set and drops an earlier one (TS 33.203 §7.4.1a).
    pub fn install(
        &mut self,
        now: Now,
        addresses: (SocketAddr, SocketAddr),
        offered: &Offered,
        chosen: &Offer,
        keys: Keys,
        security_server: Vec<String>,
        iv_seed: [u8; 32],
    ) -> SetId {
        let id = SetId(self.next_id);
        self.next_id += 1;
        let own = SocketAddr::new(addresses.0.ip(), UDP_ENCAPSULATION_PORT);
        let set = SaSet {
            id,
            side: Side::Ue,
            mode: match chosen.is_udp_encapsulated {
                true => Mode::UdpEncTun { nat: own },
                false => Mode::Transport,
            },
            ue: addresses.0.ip(),
            pcscf: addresses.1.ip(),
            ports: Ports {
                uc: offered.port_c,
                us: offered.port_s,
                pc: chosen.port_c,
                ps: chosen.port_s,
            },
            spis: Spis { uc: offered.spi_c, us: offered.spi_s, pc: chosen.spi_c, ps: chosen.spi_s },
            integrity: chosen.pair.alg,
            encryption: chosen.pair.ealg,
            keys,
        };
        let esp = EspSet::new(&set, iv_seed);
        let ends_at = now + TEMPORARY;
        let set = Set { esp, role: Role::Temporary, ends_at, security_server };
        self.sets.insert(id, Box::new(set));
        id
    }

    pub fn get(&self, id: SetId) -> Option<&Set> {
        self.sets.get(&id).map(Box::as_ref)
    }

    pub fn iter(&self) -> impl Iterator<Item = (SetId, &Set)> {
        self.sets.iter().map(|(id, set)| (*id, set.as_ref()))
    }

    /// The set that the phone's own requests use.
    pub fn in_use(&self) -> Option<SetId> {
        self.with_role(Role::InUse)
    }

    pub fn temporary(&self) -> Option<SetId> {
        self.with_role(Role::Temporary)
    }

    /// The set of a flow, by both its ports.
    pub fn of_flow(&self, flow: Flow) -> Option<SetId> {
        self.iter()
            .find(|(_, set)| {
                set.esp.set().associations().iter().any(|association| {
                    association.is_inbound
                        && association.source == flow.remote
                        && association.destination == flow.local
                })
            })
            .map(|(id, _)| id)
    }

    /// True for the ports that clear packets must never use or reach (TS 33.203 §7.1).
    pub fn is_protected(&self, port: u16) -> bool {
        (self.first_port..self.first_port.saturating_add(PORTS)).contains(&port)
    }

    /// The ESP packet for a clear one; `None` when no set has such an association. An empty one
    /// must not be sent.
    pub fn seal(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        self.sets.values_mut().rev().find_map(|set| set.esp.seal(packet))
    }

    pub fn open(&mut self, packet: &[u8]) -> Result<Vec<u8>, OpenError> {
        let spi = spi_of(packet).ok_or(OpenError::TooShort)?;
        for set in self.sets.values_mut().rev() {
            let associations = set.esp.set().associations();
            if associations.iter().any(|sa| sa.is_inbound && sa.spi == spi) {
                return set.esp.open(packet);
            }
        }
        Err(OpenError::UnknownSpi)
    }

    /// The temporary set is the one in use from now on (TS 24.229 §5.1.1.2.1). After an initial
    /// authentication all others go; after another one the set in use until now becomes an old one.
    /// Gives the sets that are to be removed.
    pub fn promote(&mut self, now: Now, id: SetId, granted: Duration, initial: bool) -> Vec<SetId> {
        let previous_end = self.in_use().and_then(|id| self.get(id)).map(|set| set.ends_at);
        let mut gone = Vec::new();
        for (other, set) in &mut self.sets {
            if *other == id {
                set.role = Role::InUse;
                // Kept until the phone is deregistered (ipsec.md A-03); should the network have ended the
                // registration meanwhile, this is another one.
                self.port_s = Some(set.esp.set().ports.us);
                set.ends_at = now + granted + BEYOND_REGISTRATION;
                if !initial {
                    set.ends_at = previous_end.map_or(set.ends_at, |end| end.max(set.ends_at));
                }
            } else if initial || set.role != Role::InUse {
                gone.push(*other);
            } else {
                set.role = Role::Old;
            }
        }
        gone
    }

    /// The registration was prolonged without another authentication.
    pub fn extend(&mut self, now: Now, granted: Duration) {
        let until = now + granted + BEYOND_REGISTRATION;
        for set in self.sets.values_mut().filter(|set| set.role == Role::InUse) {
            set.ends_at = set.ends_at.max(until);
        }
    }

    /// The P-CSCF has used the newest set: old ones last only as long as transactions on them can
    /// (TS 33.203 §7.4.1a).
    pub fn retire_old(&mut self, now: Now) {
        for set in self.sets.values_mut().filter(|set| set.role == Role::Old) {
            set.ends_at = set.ends_at.min(now + self.old_life);
        }
    }

    /// Fully deregistered: what there is ends with the transactions that use it, and the next
    /// registration has another server port (TS 24.229 §5.1.1.6).
    pub fn retire_all(&mut self, now: Now) {
        for set in self.sets.values_mut() {
            set.role = Role::Old;
            set.ends_at = set.ends_at.min(now + self.old_life);
        }
        self.port_s = None;
    }

    pub fn remove(&mut self, id: SetId) -> Option<Set> {
        self.sets.remove(&id).map(|set| *set)
    }

    /// All, for removal: the phone forgets them at once.
    pub fn forget(&mut self) -> Vec<SetId> {
        self.port_s = None;
        self.sets.keys().copied().collect()
    }

    /// Ports and SPIs are counted from the same numbers at every boot, as some phones do.
    pub fn count_again(&mut self) {
        self.next_port = 0;
        self.next_spi = Some(COUNTED_SPI);
    }

    /// One set whose life has ended.
    pub fn expired(&self, now: Now) -> Option<SetId> {
        self.iter().find(|(_, set)| set.ends_at <= now).map(|(id, _)| id)
    }

    pub fn next_end(&self) -> Option<Now> {
        self.sets.values().map(|set| set.ends_at).min()
    }

    fn with_role(&self, role: Role) -> Option<SetId> {
        self.iter().find(|(_, set)| set.role == role).map(|(id, _)| id)
    }

    fn free_port(&mut self) -> u16 {
        let used: BTreeSet<u16> = self
            .sets
            .values()
            .flat_map(|set| [set.esp.set().ports.uc, set.esp.set().ports.us])
            .chain(self.port_s)
            .collect();
        loop {
            let port = self.first_port + self.next_port;
            self.next_port = (self.next_port + 1) % PORTS;
            // A phone has a handful of sets; a thousand ports never run out.
            if !used.contains(&port) {
                return port;
            }
        }
    }

    /// Ten digits, so that readers of either grammar agree (ipsec.md section 1).
    fn free_spi(&mut self, random: &mut Random, other: u32) -> u32 {
        let used: BTreeSet<u32> = self
            .sets
            .values()
            .flat_map(|set| set.esp.set().associations().map(|association| association.spi))
            .chain([other])
            .collect();
        loop {
            let spi = match &mut self.next_spi {
                Some(next) => {
                    *next = next.checked_add(1).unwrap_or(COUNTED_SPI);
                    *next
                }
                None => 1_000_000_000 + random.below(3_000_000_000) as u32,
            };
            if !used.contains(&spi) {
                return spi;
            }
        }
    }
}

/// The UE's choice: of the entries of Security-Server that it offered, the one that the P-CSCF
/// prefers (RFC 3329 §2.3.1).
pub fn choose(
    server: &[common::sip::security::Mechanism],
    offered: &[AlgorithmPair],
    in_tunnel_too: bool,
) -> Option<Offer> {
    let mut entries: Vec<_> = server.iter().collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.q()));
    let entries: Vec<_> = entries.into_iter().cloned().collect();
    agree::offers(&entries).into_iter().find(|offer| {
        offered.contains(&offer.pair) && (in_tunnel_too || !offer.is_udp_encapsulated)
    })
}
