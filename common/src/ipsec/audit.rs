//! The comparison of what a core knows of its sets with what its data plane holds.

use std::net::{IpAddr, SocketAddr};

use crate::ipsec::sa::{Association, Mode, Ports, SaSet, SetId, Side, Spis, associations};
use crate::node::Now;

/// What names the four associations of a set, without keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownSet {
    pub id: SetId,
    pub side: Side,
    /// The address of the NAT in front of the UE, in UDP-encapsulated tunnel mode. Its port is the
    /// data plane's business: it may change at any time.
    pub nat: Option<IpAddr>,
    pub ue: IpAddr,
    pub pcscf: IpAddr,
    pub ports: Ports,
    pub spis: Spis,
}

impl KnownSet {
    /// As [`SaSet::associations`], with port 0 of the NAT.
    pub fn associations(&self) -> [Association; 4] {
        let mode = match self.nat {
            None => Mode::Transport,
            Some(nat) => Mode::UdpEncTun { nat: SocketAddr::new(nat, 0) },
        };
        associations(self.side, mode, self.ue, self.pcscf, self.ports, self.spis)
    }
}

impl From<&SaSet> for KnownSet {
    fn from(set: &SaSet) -> KnownSet {
        let nat = match set.mode {
            Mode::Transport => None,
            Mode::UdpEncTun { nat } => Some(nat.ip()),
        };
        let SaSet { id, side, ue, pcscf, ports, spis, .. } = *set;
        KnownSet { id, side, nat, ue, pcscf, ports, spis }
    }
}

/// What a data plane holds and what it has mended. A plane without policies (the user-space one)
/// counts one for each association.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Audit {
    /// Sets of the question that are not there in full; what there is of them goes with the set.
    pub missing: Vec<SetId>,
    /// Sets of the question that are there, each with the traffic of its associations in the order
    /// of [`SaSet::associations`].
    pub held: Vec<(SetId, [Traffic; 4])>,
    /// Associations and policies of this daemon that were there.
    pub associations: u64,
    pub policies: u64,
    /// Of these, the ones that belonged to no set of the question: they are removed.
    pub stray_associations: u64,
    pub stray_policies: u64,
    /// Packets that the plane has dropped for reasons that name no set, by reason: an SPI that nobody has, a
    /// policy that does not fit. In the kernel, of its whole network namespace (`/proc/net/xfrm_stat`) and
    /// since that began; reasons that never occurred may be left out.
    pub unowned_drops: Vec<(String, u64)>,
}

/// What passed through one association, and what did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    pub packets: u64,
    /// Octets as the plane counts them: of the clear IP packets in user space, without their IP header
    /// in the kernel.
    pub octets: u64,
    pub last_used: Option<Now>,
    pub replayed: u64,
    pub bad_icv: u64,
}
