//! The S-GW: relays between S1-U and S5-U by swapping TEIDs (TS 23.401 §4.4.3.2, TS 29.281 §4.3).
//!
//! It has one address on each side and never reads what is inside a tunnel.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::random::Random;

use crate::attach::BearerId;
use crate::endpoint::{Datagram, Endpoint, Received, Remote, Role};
use crate::gtpu::Teid;

#[derive(Debug)]
pub struct Sgw {
    pub s1u: Endpoint<BearerId>,
    pub s5u: Endpoint<BearerId>,
    bearers: BTreeMap<BearerId, Bearer>,
    pub counters: Counters,
}

/// The two tunnels of a bearer. What is `None` is not known yet, or was lost.
#[derive(Clone, Copy, Debug, Default)]
struct Bearer {
    /// Ours, towards which the eNodeB sends.
    s1_uplink: Option<Teid>,
    /// The eNodeB's.
    s1_downlink: Option<Remote>,
    /// The P-GW's.
    s5_uplink: Option<Remote>,
    /// Ours, towards which the P-GW sends.
    s5_downlink: Option<Teid>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Downlink packets of a UE whose S1 bearer is released; a real S-GW would page.
    pub downlink_without_s1: u64,
    pub uplink_without_s5: u64,
    /// Bearers lost by an Error Indication of the P-GW or the eNodeB.
    pub bearers_lost: u64,
}

impl Sgw {
    pub fn new(s1u: IpAddr, s5u: IpAddr, bearers_limit: usize, mut random: Random) -> Sgw {
        let s1u = Endpoint::new(s1u, Role::Intermediate, bearers_limit, random.fork());
        let s5u = Endpoint::new(s5u, Role::Intermediate, bearers_limit, random.fork());
        Sgw { s1u, s5u, bearers: BTreeMap::new(), counters: Counters::default() }
    }

    /// TS 23.401 §5.3.2.1 step 13: our end of S5-U, for the Create Session Request to the P-GW.
    pub fn open_s5(&mut self, bearer: BearerId) -> Option<Remote> {
        let teid = self.s5u.open(bearer)?;
        self.bearers.entry(bearer).or_default().s5_downlink = Some(teid);
        Some(Remote { address: self.s5u.address(), teid })
    }

    /// TS 23.401 §5.3.2.1 steps 15, 16: the P-GW answered; our end of S1-U for the eNodeB.
    pub fn open_s1(&mut self, now: Duration, bearer: BearerId, pgw: Remote) -> Option<Remote> {
        let teid = self.s1u.open(bearer)?;
        self.s5u.supervise(now, pgw.address);
        let bearer = self.bearers.entry(bearer).or_default();
        bearer.s1_uplink = Some(teid);
        bearer.s5_uplink = Some(pgw);
        Some(Remote { address: self.s1u.address(), teid })
    }

    /// TS 23.401 §5.3.2.1 step 23: Modify Bearer with the eNodeB's end of S1-U. The answer is an
    /// End Marker for the tunnel that this one replaces, if there was one (TS 23.401 §5.5.1.1.2).
    pub fn modify(&mut self, now: Duration, bearer: BearerId, enodeb: Remote) -> Option<Datagram> {
        let bearer = self.bearers.get_mut(&bearer)?;
        self.s1u.supervise(now, enodeb.address);
        let replaced = bearer.s1_downlink.replace(enodeb)?;
        (replaced != enodeb).then(|| self.s1u.end_marker(replaced))
    }

    /// TS 23.401 §5.3.8.2: the session is deleted.
    pub fn delete(&mut self, bearer: BearerId) {
        let Some(bearer) = self.bearers.remove(&bearer) else { return };
        if let Some(teid) = bearer.s1_uplink {
            self.s1u.close(teid);
        }
        if let Some(teid) = bearer.s5_downlink {
            self.s5u.close(teid);
        }
    }

    /// TS 29.281 §4.3: a datagram on S1-U, from the eNodeB.
    pub fn receive_s1u(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<Datagram> {
        match self.s1u.receive(from, datagram) {
            Received::UserData { teid, g_pdu } => {
                let bearer = self.s1u.tunnel(teid).and_then(|bearer| self.bearers.get(bearer));
                match bearer.and_then(|bearer| bearer.s5_uplink) {
                    Some(pgw) => Some(self.s5u.relay(pgw, g_pdu)),
                    None => {
                        self.counters.uplink_without_s5 += 1;
                        None
                    }
                }
            }
            Received::Answer(answer) => Some(answer),
            Received::RemoteLost(remote) => {
                self.enodeb_lost(remote);
                None
            }
            Received::EndMarker { .. } | Received::Nothing => None,
        }
    }

    /// TS 29.281 §4.3: a datagram on S5-U, from the P-GW.
    pub fn receive_s5u(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<Datagram> {
        match self.s5u.receive(from, datagram) {
            Received::UserData { teid, g_pdu } => match self.enodeb_of(teid) {
                Some(enodeb) => Some(self.s1u.relay(enodeb, g_pdu)),
                None => {
                    self.counters.downlink_without_s1 += 1;
                    None
                }
            },
            // TS 29.281 §7.3.2: passed on to where the packets before it went.
            Received::EndMarker { teid } => {
                self.enodeb_of(teid).map(|enodeb| self.s1u.end_marker(enodeb))
            }
            Received::Answer(answer) => Some(answer),
            Received::RemoteLost(remote) => {
                self.pgw_lost(remote);
                None
            }
            Received::Nothing => None,
        }
    }

    fn enodeb_of(&self, s5_downlink: Teid) -> Option<Remote> {
        let bearer = self.s5u.tunnel(s5_downlink)?;
        self.bearers.get(bearer)?.s1_downlink
    }

    /// TS 23.007 §20.3: the eNodeB does not know the bearer: its S1 part is released, the session
    /// stays.
    fn enodeb_lost(&mut self, remote: Remote) {
        let mut bearers = self.bearers.values_mut();
        if let Some(bearer) = bearers.find(|bearer| bearer.s1_downlink == Some(remote)) {
            bearer.s1_downlink = None;
            self.counters.bearers_lost += 1;
        }
    }

    /// TS 23.007 §20.3: the P-GW does not know the bearer: it is deleted, and the eNodeB learns
    /// that with its next packet.
    fn pgw_lost(&mut self, remote: Remote) {
        let mut bearers = self.bearers.iter();
        let lost = bearers.find(|(_, bearer)| bearer.s5_uplink == Some(remote));
        if let Some((&bearer, _)) = lost {
            self.delete(bearer);
            self.counters.bearers_lost += 1;
        }
    }

    pub fn bearers(&self) -> usize {
        self.bearers.len()
    }
}
