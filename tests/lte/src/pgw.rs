//! The P-GW: gives each UE its address, ends GTP-U on S5-U, and routes between there and SGi by
//! the UE's address (TS 23.401 §4.4.3.3, §5.3.1.2).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use common::random::Random;
use serde::Deserialize;

use crate::attach::{BearerId, IpVersion, Refusal};
use crate::endpoint::{Datagram, Endpoint, Received, Remote, Role};
use crate::gtpu::Teid;
use crate::inner;

#[derive(Debug)]
pub struct Pgw {
    pub s5u: Endpoint<BearerId>,
    pool: Pool,
    sessions: BTreeMap<BearerId, Session>,
    /// By the UE's IPv4 address, or the first address of its IPv6 prefix.
    by_address: BTreeMap<IpAddr, BearerId>,
    /// How many of them are IPv4.
    used_v4: u64,
    pub counters: Counters,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    uplink: Teid,
    sgw: Remote,
    addresses: Addresses,
}

/// Of a UE: of one IP version, or of both (TS 23.401 §5.3.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// From where UEs get their addresses.
#[derive(Clone, Debug)]
pub struct Pool {
    v4: Option<Prefix4>,
    v6: Option<Prefix6>,
    next_v4: u32,
    next_v6: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix4 {
    pub network: Ipv4Addr,
    pub length: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix6 {
    pub network: Ipv6Addr,
    pub length: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Uplink packets whose source is not the UE's address.
    pub uplink_foreign_source: u64,
    /// Uplink or downlink packets that are not one whole IP packet.
    pub not_ip: u64,
    /// Downlink packets for an address that no UE has.
    pub downlink_unknown_address: u64,
    /// Sessions lost by an Error Indication of the S-GW.
    pub sessions_lost: u64,
    /// Packets of UEs that went to SGi.
    pub sgi_sent: u64,
    /// Packets from SGi, whoever they are for.
    pub sgi_received: u64,
}

/// What a datagram on S5-U brings about.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<'a> {
    /// A packet for the network behind SGi.
    Sgi(&'a [u8]),
    Send(Datagram),
    Nothing,
}

impl Pgw {
    pub fn new(address: IpAddr, pool: Pool, bearers_limit: usize, random: Random) -> Pgw {
        Pgw {
            s5u: Endpoint::new(address, Role::Endpoint, bearers_limit, random),
            pool,
            sessions: BTreeMap::new(),
            by_address: BTreeMap::new(),
            used_v4: 0,
            counters: Counters::default(),
        }
    }

    /// TS 23.401 §5.3.2.1 steps 13 to 15: the addresses are allocated, and our end of S5-U.
    pub fn create_session(
        &mut self,
        now: Duration,
        bearer: BearerId,
        version: IpVersion,
        sgw: Remote,
    ) -> Result<(Addresses, Remote), Refusal> {
        let mut addresses = Addresses::default();
        if version != IpVersion::V6 {
            addresses.v4 = Some(self.pool.allocate_v4(&self.by_address)?);
        }
        if version != IpVersion::V4 {
            addresses.v6 = Some(self.pool.allocate_v6(&self.by_address)?);
        }
        let uplink = self.s5u.open(bearer).ok_or(Refusal::NoResources)?;
        self.s5u.supervise(now, sgw.address);
        for address in addresses.iter() {
            self.by_address.insert(key_of(address), bearer);
            self.used_v4 += u64::from(address.is_ipv4());
        }
        self.sessions.insert(bearer, Session { uplink, sgw, addresses });
        Ok((addresses, Remote { address: self.s5u.address(), teid: uplink }))
    }

    /// TS 23.401 §5.5.1.1.3 step 3: Modify Bearer from another S-GW. The answer is an End Marker for
    /// the one that it replaces, which passes it on to the eNodeB.
    pub fn modify(&mut self, now: Duration, bearer: BearerId, sgw: Remote) -> Option<Datagram> {
        let session = self.sessions.get_mut(&bearer)?;
        let replaced = std::mem::replace(&mut session.sgw, sgw);
        self.s5u.supervise(now, sgw.address);
        (replaced != sgw).then(|| self.s5u.end_marker(replaced))
    }

    /// TS 23.401 §5.3.8.2: the session is deleted; its addresses may be given to another UE.
    pub fn delete_session(&mut self, bearer: BearerId) {
        if let Some(session) = self.sessions.remove(&bearer) {
            for address in session.addresses.iter() {
                self.by_address.remove(&key_of(address));
                self.used_v4 -= u64::from(address.is_ipv4());
            }
            self.s5u.close(session.uplink);
        }
    }

    pub fn addresses_of(&self, bearer: BearerId) -> Option<Addresses> {
        self.sessions.get(&bearer).map(|session| session.addresses)
    }

    /// TS 23.401 §4.4.3.3: a datagram on S5-U. A packet goes on to SGi only with the UE's own
    /// address as its source.
    pub fn receive<'a>(&mut self, from: SocketAddr, datagram: &'a [u8]) -> Output<'a> {
        match self.s5u.receive(from, datagram) {
            Received::UserData { teid, g_pdu } => self.uplink(teid, g_pdu.payload),
            Received::Answer(answer) => Output::Send(answer),
            Received::RemoteLost(remote) => {
                self.sgw_lost(remote);
                Output::Nothing
            }
            Received::EndMarker { .. } | Received::Nothing => Output::Nothing,
        }
    }

    fn uplink<'a>(&mut self, teid: Teid, packet: &'a [u8]) -> Output<'a> {
        let bearer = self.s5u.tunnel(teid).and_then(|bearer| self.sessions.get(bearer));
        let Some(session) = bearer else { return Output::Nothing };
        let Some(inner) = inner::read(packet) else {
            self.counters.not_ip += 1;
            return Output::Nothing;
        };
        if !is_of_ue(session.addresses, inner.source) {
            self.counters.uplink_foreign_source += 1;
            tracing::debug!(
                source = %inner.source, ue = ?session.addresses,
                "uplink packet with a foreign source dropped"
            );
            return Output::Nothing;
        }
        self.counters.sgi_sent += 1;
        Output::Sgi(packet)
    }

    /// TS 23.401 §4.4.3.3: a packet from SGi goes into the tunnel of the UE that has its destination.
    pub fn downlink(&mut self, packet: &[u8]) -> Option<Datagram> {
        self.counters.sgi_received += 1;
        let Some(inner) = inner::read(packet) else {
            self.counters.not_ip += 1;
            return None;
        };
        let bearer = self.by_address.get(&key_of(inner.destination));
        match bearer.and_then(|bearer| self.sessions.get(bearer)) {
            Some(session) => Some(self.s5u.send(session.sgw, packet)),
            None => {
                self.counters.downlink_unknown_address += 1;
                None
            }
        }
    }

    /// TS 23.007 §20.3: the S-GW does not know the bearer: the session ends.
    fn sgw_lost(&mut self, remote: Remote) {
        let lost = self.sessions.iter().find(|(_, session)| session.sgw == remote);
        if let Some((&bearer, _)) = lost {
            self.delete_session(bearer);
            self.counters.sessions_lost += 1;
        }
    }

    /// Whether there are IPv4 and IPv6 addresses for UEs.
    pub fn has_versions(&self) -> (bool, bool) {
        (self.pool.v4.is_some(), self.pool.v6.is_some())
    }

    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Of each IP version that the pool has: its name, how many addresses UEs have, and how many
    /// there are for them.
    pub fn pool_use(&self) -> Vec<(&'static str, u64, u64)> {
        let v4 = self.pool.v4.map(|pool| ("4", self.used_v4, u64::from(pool.ues())));
        let v6 =
            self.pool.v6.map(|pool| ("6", self.by_address.len() as u64 - self.used_v4, pool.ues()));
        v4.into_iter().chain(v6).collect()
    }
}

/// TS 23.401 §5.3.1.2.2: an IPv6 UE owns a whole /64 and picks interface identifiers in it.
fn key_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)))
        }
    }
}

fn is_of_ue(ue: Addresses, source: IpAddr) -> bool {
    ue.iter().any(|address| key_of(address) == key_of(source))
}

impl Pool {
    /// The first address of an IPv4 network is the P-GW's own; so is the first /64 of an IPv6 one.
    pub fn new(v4: Option<Prefix4>, v6: Option<Prefix6>) -> Pool {
        Pool { v4, v6, next_v4: 0, next_v6: 0 }
    }

    /// TS 23.401 §5.3.1.2: an address that nobody has; one that was given back is not given out
    /// again before the others, so that late packets of its last owner find nobody.
    fn allocate_v4(&mut self, taken: &BTreeMap<IpAddr, BearerId>) -> Result<Ipv4Addr, Refusal> {
        let pool = self.v4.ok_or(Refusal::VersionNotSupported)?;
        let count = pool.ues();
        // One look more than there are UEs finds a free one if there is any.
        for _ in 0..=(taken.len() as u64).min(u64::from(count)) {
            let index = self.next_v4 % count.max(1);
            self.next_v4 = self.next_v4.wrapping_add(1) % count.max(1);
            let address = pool.ue(index);
            if count > 0 && !taken.contains_key(&IpAddr::V4(address)) {
                return Ok(address);
            }
        }
        Err(Refusal::NoResources)
    }

    fn allocate_v6(&mut self, taken: &BTreeMap<IpAddr, BearerId>) -> Result<Ipv6Addr, Refusal> {
        let pool = self.v6.ok_or(Refusal::VersionNotSupported)?;
        let count = pool.ues();
        for _ in 0..=(taken.len() as u64).min(count) {
            let index = self.next_v6 % count.max(1);
            self.next_v6 = self.next_v6.wrapping_add(1) % count.max(1);
            let address = pool.ue(index);
            if count > 0 && !taken.contains_key(&key_of(IpAddr::V6(address))) {
                return Ok(address);
            }
        }
        Err(Refusal::NoResources)
    }
}

impl Prefix4 {
    /// The P-GW's own address on SGi's side of the pool.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// Without network, gateway and broadcast addresses.
    fn ues(&self) -> u32 {
        let size = 1u64 << (32 - u32::from(self.length.min(32)));
        size.saturating_sub(3).min(u64::from(u32::MAX)) as u32
    }

    fn ue(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network).wrapping_add(2).wrapping_add(index))
    }
}

impl Prefix6 {
    pub fn gateway(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.network) + 1)
    }

    fn ues(&self) -> u64 {
        let bits = 64u32.saturating_sub(u32::from(self.length));
        (1u64.checked_shl(bits).unwrap_or(u64::MAX)).saturating_sub(1)
    }

    /// Interface identifier 1 in the prefix of the UE: what the P-GW gives it in PCO and ESM
    /// (TS 23.401 §5.3.1.2.2).
    fn ue(&self, index: u64) -> Ipv6Addr {
        let prefix = (u128::from(index) + 1) << 64;
        Ipv6Addr::from(u128::from(self.network) + prefix + 1)
    }
}

impl std::str::FromStr for Prefix4 {
    type Err = String;

    fn from_str(text: &str) -> Result<Prefix4, String> {
        let (network, length) = split_prefix::<Ipv4Addr>(text, 30)?;
        let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        if u32::from(network) & host != 0 {
            return Err(format!("{text}: the address has bits behind its prefix"));
        }
        Ok(Prefix4 { network, length })
    }
}

impl std::str::FromStr for Prefix6 {
    type Err = String;

    fn from_str(text: &str) -> Result<Prefix6, String> {
        let (network, length) = split_prefix::<Ipv6Addr>(text, 63)?;
        let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        if u128::from(network) & host != 0 {
            return Err(format!("{text}: the address has bits behind its prefix"));
        }
        Ok(Prefix6 { network, length })
    }
}

impl TryFrom<String> for Prefix4 {
    type Error = String;

    fn try_from(text: String) -> Result<Prefix4, String> {
        text.parse()
    }
}

impl TryFrom<String> for Prefix6 {
    type Error = String;

    fn try_from(text: String) -> Result<Prefix6, String> {
        text.parse()
    }
}

fn split_prefix<A: std::str::FromStr>(text: &str, longest: u8) -> Result<(A, u8), String> {
    let wanted = || format!("{text}: expected ADDRESS/LENGTH with a length of 1 to {longest}");
    let (address, length) = text.split_once('/').ok_or_else(wanted)?;
    let length: u8 = length.parse().map_err(|_| wanted())?;
    let address = address.parse().map_err(|_| wanted())?;
    if length == 0 || length > longest {
        return Err(wanted());
    }
    Ok((address, length))
}
