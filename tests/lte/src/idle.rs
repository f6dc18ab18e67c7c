//! ECM-IDLE and back: S1 release and Service Request (TS 23.401 §5.3.4, §5.3.5). When a UE is paged,
//! and how long it takes, is the transport's.

use std::time::Duration;

use crate::attach::{BearerId, Network};
use crate::endpoint::Datagram;

impl Network {
    /// TS 23.401 §5.3.5: the eNodeB forgets the UE, the S-GW keeps its session. The answer is how
    /// many packets were lost that waited for an End Marker.
    pub fn release_s1(&mut self, bearer: BearerId) -> usize {
        self.cancel(bearer);
        let lost = self.settle(bearer).len();
        let Some(context) = self.contexts.get_mut(&bearer) else { return lost };
        let Some(enodeb) = context.enodeb.take() else { return lost };
        self.enodebs[enodeb].release(bearer);
        self.sgws[context.sgw].release_access(bearer);
        lost
    }

    /// TS 23.401 §5.3.4.1 steps 4 to 9: the bearer is set up again at this eNodeB. What is to be sent
    /// is what waited for the UE. `None`: the eNodeB has no room.
    pub fn service_request(
        &mut self,
        now: Duration,
        bearer: BearerId,
        enodeb: usize,
    ) -> Option<Vec<Datagram>> {
        let context = self.contexts.get_mut(&bearer)?;
        let sgw = &mut self.sgws[context.sgw];
        let (s1, _) = sgw.tunnels_of(bearer)?;
        let downlink = self.enodebs[enodeb].set_up(now, bearer, s1)?;
        context.enodeb = Some(enodeb);
        Some(sgw.modify(now, bearer, downlink))
    }

    /// TS 23.401 §5.3.4.3: the UE does not answer its pages.
    pub fn give_up(&mut self, bearer: BearerId) {
        if let Some(context) = self.contexts.get(&bearer) {
            self.sgws[context.sgw].give_up(bearer);
        }
    }

    pub fn has_waiting(&self, bearer: BearerId) -> bool {
        self.sgw_of(bearer).is_some_and(|sgw| self.sgws[sgw].has_waiting(bearer))
    }
}
