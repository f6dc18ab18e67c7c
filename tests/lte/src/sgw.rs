//! The S-GW: relays between S1-U and S5-U by swapping TEIDs (TS 23.401 §4.4.3.2, TS 29.281 §4.3).
//!
//! It has one address on each side and never reads what is inside a tunnel. What comes for an idle
//! UE waits here until the UE is paged (TS 23.401 §5.3.4.3).

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::random::Random;

use crate::attach::BearerId;
use crate::endpoint::{Datagram, Endpoint, Received, Remote, Role};
use crate::gtpu::{self, Teid};

#[derive(Debug)]
pub struct Sgw {
    pub name: String,
    pub s1u: Endpoint<BearerId>,
    pub s5u: Endpoint<BearerId>,
    bearers: BTreeMap<BearerId, Bearer>,
    /// G-PDUs of idle UEs, as they came on S5-U.
    waiting: BTreeMap<BearerId, VecDeque<Vec<u8>>>,
    waiting_in_all: usize,
    room: Room,
    pub counters: Counters,
}

/// How many packets wait for idle UEs.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub of_one_ue: usize,
    pub of_all: usize,
}

/// What a datagram on S5-U brings about.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    Send(Datagram),
    /// TS 23.401 §5.3.4.3 step 2: Downlink Data Notification: the UE is to be paged.
    Notify(BearerId),
    Nothing,
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
    /// Another S-GW has the UE: this one passes the End Marker on, and forgets the bearer.
    is_leaving: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Downlink packets of an idle UE that had no room to wait, or waited in vain.
    pub downlink_without_s1: u64,
    /// Downlink packets that waited for an idle UE, and reached it.
    pub waited: u64,
    /// Downlink Data Notifications.
    pub notifications: u64,
    pub uplink_without_s5: u64,
    /// Bearers lost by an Error Indication of the P-GW or the eNodeB.
    pub bearers_lost: u64,
}

impl Sgw {
    pub fn new(
        name: String,
        (s1u, s5u): (IpAddr, IpAddr),
        bearers_limit: usize,
        room: Room,
        mut random: Random,
    ) -> Sgw {
        Sgw {
            name,
            s1u: Endpoint::new(s1u, Role::Intermediate, bearers_limit, random.fork()),
            s5u: Endpoint::new(s5u, Role::Intermediate, bearers_limit, random.fork()),
            bearers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_in_all: 0,
            room,
            counters: Counters::default(),
        }
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

    /// TS 23.401 §5.3.2.1 step 23: Modify Bearer with the eNodeB's end of S1-U. What is to be sent:
    /// an End Marker for the tunnel that this one replaces, if there was one (TS 23.401
    /// §5.5.1.1.2), else what waited for the UE.
    pub fn modify(&mut self, now: Duration, id: BearerId, enodeb: Remote) -> Vec<Datagram> {
        let Some(bearer) = self.bearers.get_mut(&id) else { return Vec::new() };
        self.s1u.supervise(now, enodeb.address);
        match bearer.s1_downlink.replace(enodeb) {
            Some(replaced) if replaced != enodeb => vec![self.s1u.end_marker(replaced)],
            Some(_) => Vec::new(),
            None => self.send_waiting(id, enodeb),
        }
    }

    fn send_waiting(&mut self, id: BearerId, enodeb: Remote) -> Vec<Datagram> {
        let waiting = self.waiting.remove(&id).unwrap_or_default();
        self.waiting_in_all -= waiting.len();
        self.counters.waited += waiting.len() as u64;
        let g_pdus = waiting.iter().filter_map(|datagram| gtpu::decode(datagram).ok());
        g_pdus.map(|g_pdu| self.s1u.relay(enodeb, g_pdu)).collect()
    }

    /// TS 23.401 §5.3.5 step 2: Release Access Bearers: the UE is idle.
    pub fn release_access(&mut self, bearer: BearerId) {
        if let Some(bearer) = self.bearers.get_mut(&bearer) {
            bearer.s1_downlink = None;
        }
    }

    /// TS 23.401 §5.3.4.3 step 3a: the UE does not answer: what waited for it is dropped.
    pub fn give_up(&mut self, bearer: BearerId) {
        let waited = self.waiting.remove(&bearer).unwrap_or_default();
        self.waiting_in_all -= waited.len();
        self.counters.downlink_without_s1 += waited.len() as u64;
    }

    pub fn has_waiting(&self, bearer: BearerId) -> bool {
        self.waiting.contains_key(&bearer)
    }

    /// TS 23.401 §5.5.1.1.3: another S-GW has the UE now. What waits here goes with the UE.
    pub fn leave(&mut self, bearer: BearerId) -> VecDeque<Vec<u8>> {
        let Some(context) = self.bearers.get_mut(&bearer) else { return VecDeque::new() };
        context.is_leaving = true;
        let waiting = self.waiting.remove(&bearer).unwrap_or_default();
        self.waiting_in_all -= waiting.len();
        waiting
    }

    /// What waited at the S-GW that the UE had before.
    pub fn take_over(&mut self, bearer: BearerId, waiting: VecDeque<Vec<u8>>) {
        if !waiting.is_empty() {
            self.waiting_in_all += waiting.len();
            self.waiting.insert(bearer, waiting);
        }
    }

    /// Our end of S1-U, and the P-GW's of S5-U, of a bearer.
    pub fn tunnels_of(&self, bearer: BearerId) -> Option<(Remote, Remote)> {
        let bearer = self.bearers.get(&bearer)?;
        let s1 = Remote { address: self.s1u.address(), teid: bearer.s1_uplink? };
        Some((s1, bearer.s5_uplink?))
    }

    /// TS 23.401 §5.3.8.2: the session is deleted.
    pub fn delete(&mut self, bearer: BearerId) {
        self.give_up(bearer);
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
    pub fn receive_s5u(&mut self, from: SocketAddr, datagram: &[u8]) -> Output {
        match self.s5u.receive(from, datagram) {
            Received::UserData { teid, g_pdu } => match self.enodeb_of(teid) {
                Some(enodeb) => Output::Send(self.s1u.relay(enodeb, g_pdu)),
                None => self.wait(teid, datagram),
            },
            Received::EndMarker { teid } => self.pass_end_marker(teid),
            Received::Answer(answer) => Output::Send(answer),
            Received::RemoteLost(remote) => {
                self.pgw_lost(remote);
                Output::Nothing
            }
            Received::Nothing => Output::Nothing,
        }
    }

    /// TS 23.401 §5.3.4.3 step 1: a packet for an idle UE waits, and the first one has it paged.
    fn wait(&mut self, s5_downlink: Teid, datagram: &[u8]) -> Output {
        let Some(&bearer) = self.s5u.tunnel(s5_downlink) else { return Output::Nothing };
        let waiting = self.waiting.entry(bearer).or_default();
        let is_first = waiting.is_empty();
        if waiting.len() >= self.room.of_one_ue || self.waiting_in_all >= self.room.of_all {
            self.counters.downlink_without_s1 += 1;
            if is_first {
                self.waiting.remove(&bearer);
            }
            return Output::Nothing;
        }
        waiting.push_back(datagram.to_vec());
        self.waiting_in_all += 1;
        if !is_first {
            return Output::Nothing;
        }
        self.counters.notifications += 1;
        Output::Notify(bearer)
    }

    /// TS 29.281 §7.3.2: passed on to where the packets before it went; and when the UE has another
    /// S-GW, there is nothing to come after it.
    fn pass_end_marker(&mut self, s5_downlink: Teid) -> Output {
        let enodeb = self.enodeb_of(s5_downlink);
        if let Some(&bearer) = self.s5u.tunnel(s5_downlink)
            && self.bearers.get(&bearer).is_some_and(|bearer| bearer.is_leaving)
        {
            self.delete(bearer);
        }
        enodeb.map_or(Output::Nothing, |enodeb| Output::Send(self.s1u.end_marker(enodeb)))
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
