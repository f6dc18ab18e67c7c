//! An eNodeB: radio bearers on one side, S1-U on the other (TS 36.413 §8.3.1, TS 29.281 §4.3), and
//! X2-U to other eNodeBs while a UE is handed over (TS 36.300 §10.1.2.3).
//!
//! A user's packet is passed on unchanged in both directions; the eNodeB reads its TEID and nothing
//! else.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::random::Random;

use crate::attach::BearerId;
use crate::endpoint::{Datagram, Endpoint, Received, Remote, Role};
use crate::gtpu::Teid;

#[derive(Debug)]
pub struct Enodeb {
    pub name: String,
    /// S1-U and X2-U: one address, one space of TEIDs.
    pub s1u: Endpoint<Tunnel>,
    bearers: BTreeMap<BearerId, Bearer>,
    bearers_limit: usize,
    /// Packets that wait for an End Marker, of all bearers.
    waiting: usize,
    waiting_limit: usize,
    pub counters: Counters,
}

/// What ends at a TEID of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// Downlink from the S-GW.
    S1(BearerId),
    /// What the eNodeB that the UE left forwards to us.
    X2(BearerId),
}

#[derive(Debug)]
struct Bearer {
    downlink: Teid,
    uplink: Remote,
    moving: Move,
}

/// Where a bearer is in a handover.
#[derive(Debug)]
enum Move {
    None,
    /// The UE leaves: what comes for it goes to the other eNodeB.
    Leaving(Remote),
    /// The UE comes: first what is forwarded to this tunnel, and once its End Marker is there, what
    /// came by the new path meanwhile (TS 36.300 §10.1.2.3.1).
    Coming(Box<Coming>),
}

#[derive(Debug)]
struct Coming {
    x2: Teid,
    early: VecDeque<Vec<u8>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Uplink packets of a radio bearer that is not set up.
    pub uplink_without_bearer: u64,
    /// Bearers released because the S-GW did not know them.
    pub bearers_lost: u64,
    /// Packets forwarded over X2-U to the eNodeB to which the UE went.
    pub forwarded: u64,
    /// Packets that had no room while they waited for an End Marker.
    pub waiting_full: u64,
}

/// What a datagram on S1-U or X2-U brings about.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<'a> {
    /// A packet for the UE.
    Radio(BearerId, &'a [u8]),
    /// The End Marker came: these waited for it, in order.
    Released(BearerId, VecDeque<Vec<u8>>),
    Send(Datagram),
    /// The S-GW does not know this bearer any more: the UE must attach again.
    Lost(BearerId),
    Nothing,
}

impl Enodeb {
    /// `waiting_limit`: packets of all bearers that wait for End Markers.
    pub fn new(
        name: String,
        address: IpAddr,
        bearers_limit: usize,
        waiting_limit: usize,
        random: Random,
    ) -> Enodeb {
        Enodeb {
            name,
            // Each bearer has a tunnel for S1, and one for X2 while it moves.
            s1u: Endpoint::new(address, Role::Endpoint, bearers_limit.saturating_mul(2), random),
            bearers: BTreeMap::new(),
            bearers_limit,
            waiting: 0,
            waiting_limit,
            counters: Counters::default(),
        }
    }

    /// TS 36.413 §8.3.1.2: Initial Context Setup; the answer carries our end of the downlink.
    /// `None` at the limit of bearers.
    pub fn set_up(&mut self, now: Duration, bearer: BearerId, uplink: Remote) -> Option<Remote> {
        self.release(bearer);
        if self.bearers.len() >= self.bearers_limit {
            return None;
        }
        let downlink = self.s1u.open(Tunnel::S1(bearer))?;
        self.s1u.supervise(now, uplink.address);
        self.bearers.insert(bearer, Bearer { downlink, uplink, moving: Move::None });
        Some(Remote { address: self.s1u.address(), teid: downlink })
    }

    /// TS 36.413 §8.3.3: the UE's context is released.
    pub fn release(&mut self, bearer: BearerId) {
        let Some(bearer) = self.bearers.remove(&bearer) else { return };
        self.s1u.close(bearer.downlink);
        if let Move::Coming(coming) = bearer.moving {
            self.s1u.close(coming.x2);
            self.waiting -= coming.early.len();
        }
    }

    /// TS 36.423 §8.2.1: Handover Request; the answer carries our end of X2-U. The context is made
    /// by [`Enodeb::set_up`] before.
    pub fn expect(&mut self, bearer: BearerId) -> Option<Remote> {
        let context = self.bearers.get_mut(&bearer)?;
        let x2 = self.s1u.open(Tunnel::X2(bearer))?;
        context.moving = Move::Coming(Box::new(Coming { x2, early: VecDeque::new() }));
        Some(Remote { address: self.s1u.address(), teid: x2 })
    }

    /// TS 36.300 §10.1.2.3.1: from now on what comes for the UE goes to the other eNodeB.
    pub fn forward(&mut self, now: Duration, bearer: BearerId, to: Remote) {
        if let Some(bearer) = self.bearers.get_mut(&bearer) {
            bearer.moving = Move::Leaving(to);
            self.s1u.supervise(now, to.address);
        }
    }

    /// TS 36.423 §8.2.3: Handover Cancel: the UE stays.
    pub fn keep(&mut self, bearer: BearerId) {
        if let Some(bearer) = self.bearers.get_mut(&bearer) {
            bearer.moving = Move::None;
        }
    }

    /// Where the S-GW gets our uplink: what a target needs to know.
    pub fn uplink_of(&self, bearer: BearerId) -> Option<Remote> {
        self.bearers.get(&bearer).map(|bearer| bearer.uplink)
    }

    /// TS 36.413 §8.4.4.2: Path Switch Request Acknowledge with another S-GW.
    pub fn switch_uplink(&mut self, now: Duration, bearer: BearerId, uplink: Remote) {
        if let Some(bearer) = self.bearers.get_mut(&bearer) {
            bearer.uplink = uplink;
            self.s1u.supervise(now, uplink.address);
        }
    }

    /// The End Marker has come, or will not come any more: what waited for it goes to the UE.
    pub fn arrived(&mut self, bearer: BearerId) -> VecDeque<Vec<u8>> {
        let Some(bearer) = self.bearers.get_mut(&bearer) else { return VecDeque::new() };
        if !matches!(bearer.moving, Move::Coming(_)) {
            return VecDeque::new();
        }
        let Move::Coming(coming) = std::mem::replace(&mut bearer.moving, Move::None) else {
            return VecDeque::new();
        };
        self.s1u.close(coming.x2);
        self.waiting -= coming.early.len();
        coming.early
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

    /// TS 29.281 §5, §7: a datagram on S1-U or X2-U.
    pub fn receive<'a>(&mut self, from: SocketAddr, datagram: &'a [u8]) -> Output<'a> {
        match self.s1u.receive(from, datagram) {
            Received::UserData { teid, g_pdu } => match self.s1u.tunnel(teid).copied() {
                Some(Tunnel::S1(bearer)) => self.downlink(bearer, g_pdu.payload),
                Some(Tunnel::X2(bearer)) => Output::Radio(bearer, g_pdu.payload),
                None => Output::Nothing,
            },
            Received::Answer(answer) => Output::Send(answer),
            Received::RemoteLost(remote) => self.remote_lost(remote),
            Received::EndMarker { teid } => match self.s1u.tunnel(teid).copied() {
                Some(Tunnel::S1(bearer)) => self.left(bearer),
                Some(Tunnel::X2(bearer)) => Output::Released(bearer, self.arrived(bearer)),
                None => Output::Nothing,
            },
            Received::Nothing => Output::Nothing,
        }
    }

    fn downlink<'a>(&mut self, id: BearerId, packet: &'a [u8]) -> Output<'a> {
        let Some(bearer) = self.bearers.get_mut(&id) else { return Output::Nothing };
        match &mut bearer.moving {
            Move::None => Output::Radio(id, packet),
            Move::Leaving(to) => {
                self.counters.forwarded += 1;
                Output::Send(self.s1u.send(*to, packet))
            }
            Move::Coming(_) if self.waiting >= self.waiting_limit => {
                self.counters.waiting_full += 1;
                Output::Nothing
            }
            Move::Coming(coming) => {
                self.waiting += 1;
                coming.early.push_back(packet.to_vec());
                Output::Nothing
            }
        }
    }

    /// TS 36.300 §10.1.2.3.1: the S-GW sends here no more; the End Marker follows the packets that
    /// were forwarded, and the context has done its work.
    fn left(&mut self, bearer: BearerId) -> Output<'static> {
        let context = self.bearers.get(&bearer);
        let Some(&Bearer { moving: Move::Leaving(to), .. }) = context else {
            return Output::Nothing;
        };
        self.release(bearer);
        Output::Send(self.s1u.end_marker(to))
    }

    /// TS 23.007 §20.3: an Error Indication from the S-GW releases the bearer.
    fn remote_lost(&mut self, remote: Remote) -> Output<'static> {
        let lost = self.bearers.iter().find(|(_, bearer)| bearer.uplink == remote);
        let Some((&bearer, context)) = lost else { return Output::Nothing };
        // The other end of X2-U may also have gone, or the path was switched: no bearer has it.
        if matches!(context.moving, Move::Leaving(_)) {
            return Output::Nothing;
        }
        self.release(bearer);
        self.counters.bearers_lost += 1;
        Output::Lost(bearer)
    }

    pub fn bearers(&self) -> usize {
        self.bearers.len()
    }
}
