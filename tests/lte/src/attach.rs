//! Attach and detach: the default bearer of the IMS APN through all three nodes (TS 23.401 §5.3.2,
//! §5.3.8), and what the UE gets back, as protocol configuration options would carry it.

use std::net::IpAddr;
use std::time::Duration;

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
}

/// What the UE learns (TS 24.008 §10.5.6.3): containers 0x000C or 0x0001 for the P-CSCF, 0x0010 for
/// the MTU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub address: IpAddr,
    pub pcscf: IpAddr,
    /// Octets of an IP packet (TS 23.060 Annex C: 1358 keeps the outer packet within 1500).
    pub mtu: u16,
}

/// TS 24.301 §6.5.1.4: why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// ESM cause 26: no address or no TEID left.
    NoResources,
    /// ESM cause 50 or 51: the pool has no addresses of this version, or there is no P-CSCF in it.
    VersionNotSupported,
}

impl Refusal {
    pub const ALL: [Refusal; 2] = [Refusal::NoResources, Refusal::VersionNotSupported];

    /// Of a counter.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::NoResources => "no-resources",
            Refusal::VersionNotSupported => "version-not-supported",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Refusal::NoResources => "insufficient resources (ESM cause 26)",
            Refusal::VersionNotSupported => "PDN type not allowed (ESM cause 50, 51)",
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

/// The three nodes with what joins them besides GTP-U: the control plane, reduced to function calls
/// in the order of its messages.
#[derive(Debug)]
pub struct Network {
    pub enodeb: Enodeb,
    pub sgw: Sgw,
    pub pgw: Pgw,
    pub options: ConfigurationOptions,
    next_bearer: u64,
}

impl Network {
    pub fn new(enodeb: Enodeb, sgw: Sgw, pgw: Pgw, options: ConfigurationOptions) -> Network {
        Network { enodeb, sgw, pgw, options, next_bearer: 1 }
    }

    /// TS 23.401 §5.3.2.1: steps 12 to 24 of the attach. Each direction's TEID is chosen by the
    /// node that receives on it. A refusal leaves nothing behind.
    pub fn attach(
        &mut self,
        now: Duration,
        version: IpVersion,
    ) -> Result<(BearerId, Attached), Refusal> {
        let bearer = BearerId(self.next_bearer);
        self.next_bearer += 1;
        let attached = self.set_up(now, bearer, version);
        if attached.is_err() {
            self.detach(bearer);
        }
        attached.map(|attached| (bearer, attached))
    }

    fn set_up(
        &mut self,
        now: Duration,
        bearer: BearerId,
        version: IpVersion,
    ) -> Result<Attached, Refusal> {
        let pcscf = match version {
            IpVersion::V4 => self.options.pcscf_v4,
            IpVersion::V6 => self.options.pcscf_v6,
        };
        let pcscf = pcscf.ok_or(Refusal::VersionNotSupported)?;
        let sgw_s5 = self.sgw.open_s5(bearer).ok_or(Refusal::NoResources)?;
        let (address, pgw) = self.pgw.create_session(now, bearer, version, sgw_s5)?;
        let sgw_s1 = self.sgw.open_s1(now, bearer, pgw).ok_or(Refusal::NoResources)?;
        let enodeb = self.enodeb.set_up(now, bearer, sgw_s1).ok_or(Refusal::NoResources)?;
        self.sgw.modify(now, bearer, enodeb);
        Ok(Attached { address, pcscf, mtu: self.options.mtu })
    }

    /// TS 23.401 §5.3.8.2: everything of the bearer goes, in all three nodes.
    pub fn detach(&mut self, bearer: BearerId) {
        self.pgw.delete_session(bearer);
        self.sgw.delete(bearer);
        self.enodeb.release(bearer);
    }
}
