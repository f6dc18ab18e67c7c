//! Handover between eNodeBs over X2, with or without another S-GW (TS 23.401 §5.5.1.1), and what an
//! idle UE does instead (TS 23.401 §5.3.3).
//!
//! In the order in which it happens: [`Network::prepare`] when the UE leaves its cell,
//! [`Network::switch_path`] when it is in the other one, and [`Network::settle`] when the End Marker
//! has had its time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::attach::{BearerId, Left, Network, Target};
use crate::endpoint::Datagram;

/// Why a UE stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// TS 36.423 §8.2.1.3: the target has no room.
    Preparation,
    /// TS 36.413 §8.4.4.3: the S-GW that was to serve it has no room.
    PathSwitch,
    /// It is idle, being handed over already, or gone.
    NotConnected,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Failure::Preparation => "the target eNodeB has no room",
            Failure::PathSwitch => "the target S-GW has no room",
            Failure::NotConnected => "the UE is not connected, or is being handed over",
        })
    }
}

impl Network {
    /// TS 36.300 §10.1.2.1.1 steps 4 to 8: the target makes a context and a tunnel for what is
    /// forwarded; from now on the source forwards. Nothing has changed when this fails.
    pub fn prepare(
        &mut self,
        now: Duration,
        bearer: BearerId,
        to_enodeb: usize,
        to_sgw: usize,
    ) -> Result<(), Failure> {
        // The way back may lead through a node that the UE has just left.
        self.settle(bearer);
        let context = self.contexts.get_mut(&bearer).ok_or(Failure::NotConnected)?;
        let from = context.enodeb.ok_or(Failure::NotConnected)?;
        if context.target.is_some() || from == to_enodeb {
            return Err(Failure::NotConnected);
        }
        let uplink = self.enodebs[from].uplink_of(bearer).ok_or(Failure::NotConnected)?;
        let target = &mut self.enodebs[to_enodeb];
        let downlink = target.set_up(now, bearer, uplink).ok_or(Failure::Preparation)?;
        let Some(x2) = target.expect(bearer) else {
            target.release(bearer);
            return Err(Failure::Preparation);
        };
        self.enodebs[from].forward(now, bearer, x2);
        context.target = Some(Target { enodeb: to_enodeb, sgw: to_sgw, downlink });
        Ok(())
    }

    /// TS 23.401 §5.5.1.1.2, §5.5.1.1.3: the UE is in the target's cell: Path Switch Request. What is
    /// to be sent is the End Marker for the old path. After a failure the UE is at its source.
    pub fn switch_path(
        &mut self,
        now: Duration,
        bearer: BearerId,
    ) -> Result<Vec<Datagram>, Failure> {
        let context = self.contexts.get(&bearer).copied().ok_or(Failure::NotConnected)?;
        let (Some(from), Some(target)) = (context.enodeb, context.target) else {
            return Err(Failure::NotConnected);
        };
        let is_relocated = target.sgw != context.sgw;
        let out = match is_relocated {
            false => self.sgws[context.sgw].modify(now, bearer, target.downlink),
            true => match self.relocate(now, bearer, context.sgw, target) {
                Some(out) => out,
                None => {
                    self.cancel(bearer);
                    return Err(Failure::PathSwitch);
                }
            },
        };
        if let Some(context) = self.contexts.get_mut(&bearer) {
            context.left =
                Some(Left { enodeb: Some(from), sgw: is_relocated.then_some(context.sgw) });
            context.enodeb = Some(target.enodeb);
            context.sgw = target.sgw;
            context.target = None;
        }
        Ok(out)
    }

    /// TS 23.401 §5.5.1.1.3 steps 2 to 5: a session at the new S-GW, to which the P-GW switches; the
    /// P-GW's End Marker goes by the old one.
    fn relocate(
        &mut self,
        now: Duration,
        bearer: BearerId,
        from: usize,
        target: Target,
    ) -> Option<Vec<Datagram>> {
        let s1 = self.open_at(now, bearer, from, target.sgw)?;
        let sgw = &mut self.sgws[target.sgw];
        let mut out = sgw.modify(now, bearer, target.downlink);
        self.enodebs[target.enodeb].switch_uplink(now, bearer, s1.0);
        out.extend(self.pgw.modify(now, bearer, s1.1));
        self.sgws[from].leave(bearer);
        Some(out)
    }

    /// Create Session at another S-GW: its ends of S1-U and S5-U.
    fn open_at(
        &mut self,
        now: Duration,
        bearer: BearerId,
        from: usize,
        to: usize,
    ) -> Option<(crate::endpoint::Remote, crate::endpoint::Remote)> {
        let (_, pgw) = self.sgws[from].tunnels_of(bearer)?;
        let sgw = &mut self.sgws[to];
        let s5 = sgw.open_s5(bearer)?;
        match sgw.open_s1(now, bearer, pgw) {
            Some(s1) => Some((s1, s5)),
            None => {
                sgw.delete(bearer);
                None
            }
        }
    }

    /// TS 36.423 §8.2.3: the UE does not come: the source keeps it.
    pub fn cancel(&mut self, bearer: BearerId) {
        let Some(context) = self.contexts.get_mut(&bearer) else { return };
        let Some(target) = context.target.take() else { return };
        self.enodebs[target.enodeb].release(bearer);
        if let Some(from) = context.enodeb {
            self.enodebs[from].keep(bearer);
        }
    }

    /// TS 23.401 §5.5.1.1.3 step 7: the End Marker has passed, or has been lost: what the UE left
    /// forgets it. The answer is what still waited for an End Marker, in order.
    pub fn settle(&mut self, bearer: BearerId) -> VecDeque<Vec<u8>> {
        let Some(context) = self.contexts.get_mut(&bearer) else { return VecDeque::new() };
        let (at, left) = (context.enodeb, context.left.take());
        let Some(left) = left else { return VecDeque::new() };
        if let Some(enodeb) = left.enodeb {
            self.enodebs[enodeb].release(bearer);
        }
        if let Some(sgw) = left.sgw {
            self.sgws[sgw].delete(bearer);
        }
        at.map(|at| self.enodebs[at].arrived(bearer)).unwrap_or_default()
    }

    /// TS 23.401 §5.3.3.1: Tracking Area Update of an idle UE with another S-GW. What waited at the
    /// old one goes along (§5.3.3.1A). What is to be sent is the P-GW's End Marker, after which the
    /// old S-GW forgets the bearer.
    pub fn relocate_idle(
        &mut self,
        now: Duration,
        bearer: BearerId,
        to: usize,
    ) -> Result<Option<Datagram>, Failure> {
        self.settle(bearer);
        let context = self.contexts.get(&bearer).copied().ok_or(Failure::NotConnected)?;
        if context.sgw == to || context.enodeb.is_some() {
            return Ok(None);
        }
        let (_, s5) = self.open_at(now, bearer, context.sgw, to).ok_or(Failure::PathSwitch)?;
        let end_marker = self.pgw.modify(now, bearer, s5);
        let waiting = self.sgws[context.sgw].leave(bearer);
        self.sgws[to].take_over(bearer, waiting);
        if let Some(context) = self.contexts.get_mut(&bearer) {
            context.left = Some(Left { enodeb: None, sgw: Some(context.sgw) });
            context.sgw = to;
        }
        Ok(end_marker)
    }
}
