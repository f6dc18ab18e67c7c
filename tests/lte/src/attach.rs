//! Attach and detach: the default bearer of the IMS APN through its three nodes (TS 23.401 §5.3.2,
//! §5.3.8), and what the UE gets back, as protocol configuration options would carry it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::endpoint::Remote;
use crate::enodeb::Enodeb;
use crate::pgw::Pgw;
use crate::sgw::Sgw;

/// One EPS bearer, known under the same number in all three nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BearerId(pub u64);

/// The PDN type that the UE asks for (TS 24.301 §9.9.4.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    V4,
    V6,
    /// PDN type IPv4v6: an address of each.
    V4V6,
}

/// What the UE learns (TS 24.008 §10.5.6.3): containers 0x000C or 0x0001 for the P-CSCF, 0x0010 for
/// the MTU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub address: IpAddr,
    pub pcscf: IpAddr,
    /// Octets of an IP packet (TS 23.060 Annex C: 1358 keeps the outer packet within 1500).
    pub mtu: u16,
    /// With [`IpVersion::V4V6`], where the pool has both: the IPv6 address and its P-CSCF.
    pub second: Option<(IpAddr, IpAddr)>,
}

/// TS 24.301 §6.5.1.4: why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// ESM cause 26: no address or no TEID left.
    NoResources,
    /// ESM cause 50 or 51: the pool has no addresses of this version, or there is no P-CSCF in it.
    VersionNotSupported,
    /// No cell is on the air.
    NoCell,
}

impl Refusal {
    pub const ALL: [Refusal; 3] =
        [Refusal::NoResources, Refusal::VersionNotSupported, Refusal::NoCell];

    /// Of a counter.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::NoResources => "no-resources",
            Refusal::VersionNotSupported => "version-not-supported",
            Refusal::NoCell => "no-cell",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Refusal::NoResources => "insufficient resources (ESM cause 26)",
            Refusal::VersionNotSupported => "PDN type not allowed (ESM cause 50, 51)",
            Refusal::NoCell => "no cell is on the air",
        })
    }
}

/// What the network tells a UE beside its address.
#[derive(Clone, Copy, Debug)]
pub struct ConfigurationOptions {
    pub pcscf_v4: Option<IpAddr>,
    pub pcscf_v6: Option<IpAddr>,
    pub mtu: u16,
}

/// All nodes with what joins them besides GTP-U: the control plane, reduced to function calls in the
/// order of its messages. What it knows of a UE is what the MME knows.
#[derive(Debug)]
pub struct Network {
    pub enodebs: Vec<Enodeb>,
    pub sgws: Vec<Sgw>,
    pub pgw: Pgw,
    pub options: ConfigurationOptions,
    pub(crate) contexts: BTreeMap<BearerId, Context>,
    next_bearer: u64,
}

/// Where a bearer is, by the numbers of nodes in [`Network`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// `None`: ECM-IDLE.
    pub enodeb: Option<usize>,
    pub sgw: usize,
    /// Where the UE is being handed over.
    pub target: Option<Target>,
    /// What the UE left, and what may still hold packets for it.
    pub left: Option<Left>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub enodeb: usize,
    pub sgw: usize,
    /// The target's end of S1-U.
    pub downlink: Remote,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    pub enodeb: Option<usize>,
    pub sgw: Option<usize>,
}

impl Network {
    pub fn new(
        enodebs: Vec<Enodeb>,
        sgws: Vec<Sgw>,
        pgw: Pgw,
        options: ConfigurationOptions,
    ) -> Network {
        Network { enodebs, sgws, pgw, options, contexts: BTreeMap::new(), next_bearer: 1 }
    }

    /// TS 23.401 §5.3.2.1: steps 12 to 24 of the attach, at this eNodeB and S-GW. Each direction's
    /// TEID is chosen by the node that receives on it. A refusal leaves nothing behind.
    pub fn attach(
        &mut self,
        now: Duration,
        (enodeb, sgw): (usize, usize),
        version: IpVersion,
    ) -> Result<(BearerId, Attached), Refusal> {
        let version = self.allowed(version)?;
        let bearer = BearerId(self.next_bearer);
        self.next_bearer += 1;
        let context = Context { enodeb: Some(enodeb), sgw, target: None, left: None };
        self.contexts.insert(bearer, context);
        let attached = self.set_up(now, bearer, (enodeb, sgw), version);
        if attached.is_err() {
            self.detach(bearer);
        }
        attached.map(|attached| (bearer, attached))
    }

    /// TS 23.401 §5.3.1.1: who asks for both gets one where only one is to be had.
    fn allowed(&self, version: IpVersion) -> Result<IpVersion, Refusal> {
        let (has_v4, has_v6) = self.pgw.has_versions();
        let v4 = has_v4 && self.options.pcscf_v4.is_some();
        let v6 = has_v6 && self.options.pcscf_v6.is_some();
        match (version, v4, v6) {
            (IpVersion::V4 | IpVersion::V4V6, true, false) => Ok(IpVersion::V4),
            (IpVersion::V6 | IpVersion::V4V6, false, true) => Ok(IpVersion::V6),
            (version, true, true) => Ok(version),
            _ => Err(Refusal::VersionNotSupported),
        }
    }

    fn set_up(
        &mut self,
        now: Duration,
        bearer: BearerId,
        (enodeb, sgw): (usize, usize),
        version: IpVersion,
    ) -> Result<Attached, Refusal> {
        let sgw = &mut self.sgws[sgw];
        let sgw_s5 = sgw.open_s5(bearer).ok_or(Refusal::NoResources)?;
        let (addresses, pgw) = self.pgw.create_session(now, bearer, version, sgw_s5)?;
        let sgw_s1 = sgw.open_s1(now, bearer, pgw).ok_or(Refusal::NoResources)?;
        let enodeb = &mut self.enodebs[enodeb];
        let enodeb = enodeb.set_up(now, bearer, sgw_s1).ok_or(Refusal::NoResources)?;
        sgw.modify(now, bearer, enodeb);
        let v4 = addresses.v4.map(IpAddr::V4).zip(self.options.pcscf_v4);
        let v6 = addresses.v6.map(IpAddr::V6).zip(self.options.pcscf_v6);
        let mut pairs = v4.into_iter().chain(v6);
        let (address, pcscf) = pairs.next().ok_or(Refusal::VersionNotSupported)?;
        Ok(Attached { address, pcscf, mtu: self.options.mtu, second: pairs.next() })
    }

    /// TS 23.401 §5.3.8.2: everything of the bearer goes, in all nodes.
    pub fn detach(&mut self, bearer: BearerId) {
        self.pgw.delete_session(bearer);
        let Some(context) = self.contexts.remove(&bearer) else { return };
        let (target, left) = (context.target, context.left);
        let enodebs =
            [context.enodeb, target.map(|to| to.enodeb), left.and_then(|left| left.enodeb)];
        for enodeb in enodebs.into_iter().flatten() {
            self.enodebs[enodeb].release(bearer);
        }
        for sgw in [Some(context.sgw), left.and_then(|left| left.sgw)].into_iter().flatten() {
            self.sgws[sgw].delete(bearer);
        }
    }

    /// A path was added whose first Echo Request is to be sent.
    pub fn has_new_path(&self) -> bool {
        self.pgw.s5u.has_new_path()
            || self.sgws.iter().any(|sgw| sgw.s1u.has_new_path() || sgw.s5u.has_new_path())
            || self.enodebs.iter().any(|enodeb| enodeb.s1u.has_new_path())
    }

    /// The eNodeB at which the UE is, unless it is idle.
    pub fn enodeb_of(&self, bearer: BearerId) -> Option<usize> {
        self.contexts.get(&bearer)?.enodeb
    }

    pub fn sgw_of(&self, bearer: BearerId) -> Option<usize> {
        self.contexts.get(&bearer).map(|context| context.sgw)
    }
}
