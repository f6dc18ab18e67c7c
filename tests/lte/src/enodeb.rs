//! The eNodeB: radio bearers on one side, S1-U on the other (TS 36.413 §8.3.1, TS 29.281 §4.3).
//!
//! A user's packet is passed on unchanged in both directions; the eNodeB reads its TEID and nothing
//! else.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::random::Random;

use crate::attach::BearerId;
use crate::endpoint::{Datagram, Endpoint, Received, Remote, Role};
use crate::gtpu::Teid;

#[derive(Debug)]
pub struct Enodeb {
    pub s1u: Endpoint<BearerId>,
    bearers: BTreeMap<BearerId, Bearer>,
    pub counters: Counters,
}

#[derive(Clone, Copy, Debug)]
struct Bearer {
    downlink: Teid,
    uplink: Remote,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Uplink packets of a radio bearer that is not set up.
    pub uplink_without_bearer: u64,
    /// Bearers released because the S-GW did not know them.
    pub bearers_lost: u64,
}

/// What a datagram on S1-U brings about.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<'a> {
    /// A packet for the UE.
    Radio(BearerId, &'a [u8]),
    Send(Datagram),
    /// The S-GW does not know this bearer any more: the UE must attach again.
    Released(BearerId),
    Nothing,
}

impl Enodeb {
    pub fn new(address: IpAddr, bearers_limit: usize, random: Random) -> Enodeb {
        Enodeb {
            s1u: Endpoint::new(address, Role::Endpoint, bearers_limit, random),
            bearers: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// TS 36.413 §8.3.1.2: Initial Context Setup; the answer carries our end of the downlink.
    /// `None` at the limit of bearers.
    pub fn set_up(&mut self, now: Duration, bearer: BearerId, uplink: Remote) -> Option<Remote> {
        let downlink = self.s1u.open(bearer)?;
        self.s1u.supervise(now, uplink.address);
        self.bearers.insert(bearer, Bearer { downlink, uplink });
        Some(Remote { address: self.s1u.address(), teid: downlink })
    }

    /// TS 36.413 §8.3.3: the UE's context is released.
    pub fn release(&mut self, bearer: BearerId) {
        if let Some(bearer) = self.bearers.remove(&bearer) {
            self.s1u.close(bearer.downlink);
        }
    }

    /// TS 29.281 §4.3.1: a packet from the radio goes to the S-GW.
    pub fn uplink(&mut self, bearer: BearerId, packet: &[u8]) -> Option<Datagram> {
        match self.bearers.get(&bearer) {
            Some(bearer) => Some(self.s1u.send(bearer.uplink, packet)),
            None => {
                self.counters.uplink_without_bearer += 1;
                None
            }
        }
    }

    /// TS 29.281 §5, §7: a datagram on S1-U.
    pub fn receive<'a>(&mut self, from: SocketAddr, datagram: &'a [u8]) -> Output<'a> {
        match self.s1u.receive(from, datagram) {
            Received::UserData { teid, g_pdu } => match self.s1u.tunnel(teid) {
                Some(bearer) => Output::Radio(*bearer, g_pdu.payload),
                None => Output::Nothing,
            },
            Received::Answer(answer) => Output::Send(answer),
            Received::RemoteLost(remote) => self.remote_lost(remote),
            // No other eNodeB waits for it here: there is no forwarding to end.
            Received::EndMarker { .. } | Received::Nothing => Output::Nothing,
        }
    }

    /// TS 23.007 §20.3: an Error Indication from the S-GW releases the bearer.
    fn remote_lost(&mut self, remote: Remote) -> Output<'static> {
        let lost = self.bearers.iter().find(|(_, bearer)| bearer.uplink == remote);
        let Some((&bearer, _)) = lost else { return Output::Nothing };
        self.release(bearer);
        self.counters.bearers_lost += 1;
        Output::Released(bearer)
    }

    pub fn bearers(&self) -> usize {
        self.bearers.len()
    }
}
