//! A UE goes to another cell: handed over when it is connected (TS 23.401 §5.5.1.1), by its own
//! choice when it is idle (TS 36.304 §5.2.4).
//!
//! It leaves ([`Transport::hand_over`]), is in neither cell for the gap, is in the other one
//! ([`Transport::moved`]), and what it left behind is removed ([`Transport::settled`]).

use std::time::Duration;

use super::{Output, Phase, Timer, Transport};
use crate::attach::BearerId;
use crate::handover::Failure;
use crate::radio::Direction;

/// Which way a UE went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// To another cell of the same eNodeB: the core does not notice.
    Intra,
    /// Over X2 to another eNodeB (TS 23.401 §5.5.1.1.2).
    X2,
    /// The same with another S-GW (TS 23.401 §5.5.1.1.3).
    SgwChange,
    /// An idle UE selected the cell (TS 36.304 §5.2.4).
    Reselection,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Intra, Kind::X2, Kind::SgwChange, Kind::Reselection];

    /// Of a counter.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Intra => "intra",
            Kind::X2 => "x2",
            Kind::SgwChange => "s-gw-change",
            Kind::Reselection => "reselection",
        }
    }
}

impl Transport {
    /// The UE leaves its cell; the error is why it stays. `sgw`: that of the target, unless it is
    /// asked for.
    pub(super) fn hand_over(
        &mut self,
        now: Duration,
        bearer: BearerId,
        cell: usize,
        sgw: Option<usize>,
        gap: Duration,
        out: &mut Vec<Output>,
    ) -> Result<(), String> {
        let (Some(ue), Some(serving)) = (self.ues.get(&bearer), self.network.sgw_of(bearer)) else {
            return Err(Failure::NotConnected.to_string());
        };
        let phase = ue.phase;
        let from_enodeb = self.cells[ue.cell].enodeb;
        let to_enodeb = self.cells[cell].enodeb;
        let to_sgw = sgw.or(self.sgw_of_enodeb[to_enodeb]).unwrap_or(serving);
        let kind = match phase {
            Phase::Idle | Phase::Paged { .. } | Phase::Waking { .. } => Kind::Reselection,
            _ if to_sgw != serving => Kind::SgwChange,
            _ if to_enodeb != from_enodeb => Kind::X2,
            _ => Kind::Intra,
        };
        let done = self.leave(now, bearer, cell, to_sgw, gap, kind, out);
        if done.is_err() {
            *self.counters.handovers_failed.entry(kind).or_default() += 1;
        }
        done
    }

    fn leave(
        &mut self,
        now: Duration,
        bearer: BearerId,
        cell: usize,
        to_sgw: usize,
        gap: Duration,
        kind: Kind,
        out: &mut Vec<Output>,
    ) -> Result<(), String> {
        if !self.cells[cell].is_up {
            return Err(format!("cell {} is off the air", self.cells[cell].name));
        }
        let Some(ue) = self.ues.get(&bearer) else {
            return Err(Failure::NotConnected.to_string());
        };
        if matches!(ue.phase, Phase::Moving { .. }) || ue.is_out && kind != Kind::Reselection {
            return Err(Failure::NotConnected.to_string());
        }
        let to_enodeb = self.cells[cell].enodeb;
        match kind {
            Kind::Reselection => {
                let end_marker = self
                    .network
                    .relocate_idle(now, bearer, to_sgw)
                    .map_err(|failure| failure.to_string())?;
                out.extend(end_marker.map(Output::Gtpu));
                self.settle_later(now, bearer);
                self.enter(bearer, cell);
                self.arrived(bearer, kind, Duration::ZERO);
                self.paths_changed(now);
                return Ok(());
            }
            Kind::Intra => {}
            // An S-GW changes only together with the eNodeB or in idle.
            Kind::SgwChange if self.network.enodeb_of(bearer) == Some(to_enodeb) => {
                return Err("a connected UE gets another S-GW with another eNodeB only".into());
            }
            Kind::X2 | Kind::SgwChange => {
                self.network
                    .prepare(now, bearer, to_enodeb, to_sgw)
                    .map_err(|failure| failure.to_string())?;
                self.paths_changed(now);
            }
        }
        let at = now + gap;
        if let Some(ue) = self.ues.get_mut(&bearer) {
            ue.phase = Phase::Moving { at, cell, began: now };
            ue.uplink.hand_over(now, gap);
            ue.downlink.hand_over(now, gap);
        }
        match gap.is_zero() {
            true => self.moved(now, at, bearer, out),
            false => drop(self.timers.insert((at, bearer, Timer::Moved))),
        }
        Ok(())
    }

    /// The UE is in the target's cell.
    pub(super) fn moved(
        &mut self,
        now: Duration,
        due: Duration,
        bearer: BearerId,
        out: &mut Vec<Output>,
    ) {
        let Some(ue) = self.ues.get_mut(&bearer) else { return };
        let Phase::Moving { at, cell, began } = ue.phase else { return };
        if at != due {
            return;
        }
        ue.phase = Phase::Connected;
        ue.last_active = now;
        self.watch(now, bearer);
        let before = self.network.sgw_of(bearer);
        let is_intra = self.network.enodeb_of(bearer) == Some(self.cells[cell].enodeb);
        if !self.cells[cell].is_up {
            // Neither here nor there (TS 36.331 §5.3.7): what the source has goes back to it.
            self.network.cancel(bearer);
            let kind = if is_intra { Kind::Intra } else { Kind::X2 };
            *self.counters.handovers_failed.entry(kind).or_default() += 1;
            return;
        }
        if is_intra {
            self.enter(bearer, cell);
            return self.arrived(bearer, Kind::Intra, now.saturating_sub(began));
        }
        match self.network.switch_path(now, bearer) {
            Ok(datagrams) => {
                out.extend(datagrams.into_iter().map(Output::Gtpu));
                self.settle_later(now, bearer);
                self.enter(bearer, cell);
                let is_same_sgw = self.network.sgw_of(bearer) == before;
                let kind = if is_same_sgw { Kind::X2 } else { Kind::SgwChange };
                self.arrived(bearer, kind, now.saturating_sub(began));
                self.paths_changed(now);
            }
            Err(failure) => {
                *self.counters.handovers_failed.entry(Kind::SgwChange).or_default() += 1;
                if let Some(ue) = self.ues.get(&bearer) {
                    tracing::warn!(imsi = %ue.imsi, %failure, "handover failed");
                }
            }
        }
    }

    /// The End Marker has had its time.
    pub(super) fn settled(
        &mut self,
        now: Duration,
        due: Duration,
        bearer: BearerId,
        out: &mut Vec<Output>,
    ) {
        // A later handover has its own time.
        if self.ues.get(&bearer).is_none_or(|ue| ue.settles_at != due) {
            return;
        }
        let packets = self.network.settle(bearer);
        if !packets.is_empty() {
            self.counters.end_markers_missed += 1;
        }
        for packet in packets {
            self.cross_downlink(now, bearer, &packet, out);
        }
    }

    fn settle_later(&mut self, now: Duration, bearer: BearerId) {
        let at = now + Duration::from_millis(self.handover.end_marker_patience_milliseconds);
        if let Some(ue) = self.ues.get_mut(&bearer) {
            ue.settles_at = at;
            self.timers.insert((at, bearer, Timer::Settled));
        }
    }

    fn arrived(&mut self, bearer: BearerId, kind: Kind, took: Duration) {
        *self.counters.handovers.entry(kind).or_default() += 1;
        if kind != Kind::Reselection {
            self.counters.handover_seconds.observe(took);
        }
        if let Some(ue) = self.ues.get(&bearer) {
            let cell = &self.cells[ue.cell].name;
            tracing::debug!(imsi = %ue.imsi, cell, kind = kind.label(), "UE is in another cell");
        }
    }

    /// The UE is in this cell, and its links are those of the cell unless it has its own.
    fn enter(&mut self, bearer: BearerId, cell: usize) {
        let links =
            [Direction::Uplink, Direction::Downlink].map(|direction| self.link_in(cell, direction));
        let Some(ue) = self.ues.get_mut(&bearer) else { return };
        self.cells[ue.cell].ues -= 1;
        self.cells[cell].ues += 1;
        ue.cell = cell;
        let [uplink, downlink] = links;
        if !ue.has_own_link[Direction::Uplink as usize] {
            ue.uplink.set_profile(uplink);
        }
        if !ue.has_own_link[Direction::Downlink as usize] {
            ue.downlink.set_profile(downlink);
        }
    }
}
