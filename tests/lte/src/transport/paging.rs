//! A UE goes idle and comes back: when nothing was said for a while (TS 23.401 §5.3.5), because the
//! network pages it (§5.3.4.3), or because it has something to send (§5.3.4.1).

use std::time::Duration;

use super::{Output, Phase, Timer, Transport};
use crate::attach::BearerId;

/// Why the S1 of a UE is released (TS 36.413 §9.2.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    UserInactivity,
    RadioConnectionLost,
    Command,
}

impl Transport {
    /// Begins to look whether the UE says something, if inactivity counts.
    pub(super) fn watch(&mut self, now: Duration, bearer: BearerId) {
        let after = Duration::from_millis(self.idle.after_milliseconds);
        let Some(ue) = self.ues.get_mut(&bearer) else { return };
        if !after.is_zero() && !ue.is_watched {
            ue.is_watched = true;
            self.timers.insert((now + after, bearer, Timer::Inactive));
        }
    }

    /// A UE that was looked at long enough ago.
    pub(super) fn inactive(&mut self, now: Duration, bearer: BearerId) {
        let after = Duration::from_millis(self.idle.after_milliseconds);
        let Some(ue) = self.ues.get_mut(&bearer) else { return };
        match ue.phase {
            Phase::Connected | Phase::Moving { .. } => {
                let due = ue.last_active + after;
                if due > now || ue.phase != Phase::Connected {
                    self.timers.insert((due.max(now + after / 2), bearer, Timer::Inactive));
                    return;
                }
                ue.is_watched = false;
                self.go_idle(bearer, Cause::UserInactivity);
            }
            // Watched again when it comes back.
            _ => ue.is_watched = false,
        }
    }

    /// TS 23.401 §5.3.5: S1 release. `false`: it is idle already.
    pub(super) fn go_idle(&mut self, bearer: BearerId, cause: Cause) -> bool {
        let Some(ue) = self.ues.get_mut(&bearer) else { return false };
        if !matches!(ue.phase, Phase::Connected | Phase::Moving { .. }) {
            return false;
        }
        ue.phase = Phase::Idle;
        let lost = self.network.release_s1(bearer) as u64;
        self.counters.downlink.lost += lost;
        *match cause {
            Cause::UserInactivity => &mut self.counters.s1_released_inactive,
            Cause::RadioConnectionLost => &mut self.counters.s1_released_radio_lost,
            Cause::Command => &mut self.counters.s1_released_command,
        } += 1;
        true
    }

    /// TS 23.401 §5.3.4.3 step 3: something waits for the UE at its S-GW.
    pub(super) fn notified(&mut self, now: Duration, bearer: BearerId) {
        // The eNodeB has forgotten a UE that we take for connected (TS 23.007 §20.3).
        self.go_idle(bearer, Cause::RadioConnectionLost);
        self.page(now, bearer, 1, now);
    }

    /// The page waits for the UE's occasion.
    pub(super) fn page(&mut self, now: Duration, bearer: BearerId, attempt: u32, since: Duration) {
        let cycle_nanoseconds = self.idle.paging_cycle_milliseconds.saturating_mul(1_000_000);
        let occasion = Duration::from_nanos(self.random.below(cycle_nanoseconds));
        let Some(ue) = self.ues.get_mut(&bearer) else { return };
        let is_free = match ue.phase {
            Phase::Idle => true,
            Phase::Paged { .. } => attempt > 1,
            _ => false,
        };
        if is_free {
            let at = now + occasion;
            ue.phase = Phase::Paged { at, attempt, since };
            self.timers.insert((at, bearer, Timer::Paged));
        }
    }

    /// The page is on the air: a UE in coverage hears it, another one may hear the next.
    pub(super) fn paged(&mut self, now: Duration, due: Duration, bearer: BearerId) {
        let is_covered = self.is_covered(bearer);
        let Some(ue) = self.ues.get_mut(&bearer) else { return };
        let Phase::Paged { at, attempt, since } = ue.phase else { return };
        if at != due {
            return;
        }
        self.counters.pages += 1;
        if is_covered {
            return self.wake(now, bearer, Some(since));
        }
        if attempt < self.idle.paging_attempts {
            let retry = Duration::from_millis(self.idle.paging_retry_milliseconds);
            return self.page(now + retry, bearer, attempt + 1, since);
        }
        ue.phase = Phase::Idle;
        self.counters.pages_unanswered += 1;
        self.network.give_up(bearer);
    }

    /// A packet of an idle UE: it asks for its bearer, and the packet waits for that.
    pub(super) fn hold(&mut self, now: Duration, bearer: BearerId, packet: &[u8]) {
        let Some(ue) = self.ues.get_mut(&bearer) else { return };
        if ue.held.len() >= self.idle.packets_waiting {
            self.counters.uplink.in_flight_full += 1;
        } else {
            ue.held.push_back(packet.to_vec());
        }
        let paged_since = match ue.phase {
            Phase::Waking { .. } => return,
            Phase::Paged { since, .. } => Some(since),
            _ => None,
        };
        self.wake(now, bearer, paged_since);
    }

    /// TS 23.401 §5.3.4.1: Service Request.
    fn wake(&mut self, now: Duration, bearer: BearerId, paged_since: Option<Duration>) {
        let at = now + Duration::from_millis(self.idle.service_request_milliseconds);
        if let Some(ue) = self.ues.get_mut(&bearer) {
            ue.phase = Phase::Waking { at, paged_since };
            self.timers.insert((at, bearer, Timer::Woken));
        }
    }

    /// The bearer is set up again.
    pub(super) fn woken(
        &mut self,
        now: Duration,
        due: Duration,
        bearer: BearerId,
        out: &mut Vec<Output>,
    ) {
        let is_covered = self.is_covered(bearer);
        let Some(ue) = self.ues.get_mut(&bearer) else { return };
        let Phase::Waking { at, paged_since } = ue.phase else { return };
        if at != due {
            return;
        }
        let held = std::mem::take(&mut ue.held);
        ue.phase = Phase::Idle;
        if !is_covered {
            self.counters.uplink.outage += held.len() as u64;
            if let Some(since) = paged_since {
                self.page(now, bearer, 1, since);
            }
            return;
        }
        let enodeb = self.cells[ue.cell].enodeb;
        let Some(waiting) = self.network.service_request(now, bearer, enodeb) else {
            self.counters.service_requests_refused += 1;
            self.counters.uplink.lost += held.len() as u64;
            self.network.give_up(bearer);
            return;
        };
        ue.phase = Phase::Connected;
        ue.last_active = now;
        self.counters.service_requests += 1;
        if let Some(since) = paged_since {
            self.counters.pages_answered += 1;
            self.counters.paging_seconds.observe(now.saturating_sub(since));
        }
        self.paths_changed(now);
        self.watch(now, bearer);
        out.extend(waiting.into_iter().map(Output::Gtpu));
        for packet in held {
            self.cross_uplink(now, bearer, &packet, out);
        }
    }
}
