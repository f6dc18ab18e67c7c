//! The watchdog of one connection (RFC 3539 §3.4, Appendix A): one row of the table per arm.

use std::time::Duration;

use crate::random::Random;

/// States of RFC 3539 §3.4.1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum State {
    /// Never been up.
    #[default]
    Initial,
    Okay,
    /// No sign of life for two intervals: requests go elsewhere.
    Suspect,
    Down,
    /// Up again, to prove itself with three DWAs.
    Reopen,
}

impl State {
    /// Name as a metric's label shows it.
    pub const fn name(self) -> &'static str {
        match self {
            State::Initial => "initial",
            State::Okay => "okay",
            State::Suspect => "suspect",
            State::Down => "down",
            State::Reopen => "reopen",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    ConnectionUp,
    ConnectionDown,
    ReceiveDwa,
    ReceiveNonDwa,
    TimerExpires,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Starts the timer anew: Tw with jitter; in DOWN, the delay before the next attempt.
    SetWatchdog,
    SendWatchdog,
    CloseConnection,
    AttemptOpen,
    /// Sends pending requests to another peer.
    FailOver,
    /// Requests may go to this peer again.
    FailBack,
}

/// RFC 3539 App. A: the variables of the algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watchdog {
    pub state: State,
    is_pending: bool,
    /// DWAs received in REOPEN; -1 when one of them is overdue.
    dwas: i8,
}

impl Watchdog {
    /// RFC 3539 App. A: one event.
    pub fn step(&mut self, event: Event) -> &'static [Action] {
        use Action::*;
        use Event::*;
        use State::*;
        match (self.state, event) {
            (Initial, ConnectionUp) => self.enter(Okay, false, &[SetWatchdog]),
            (Initial, _) => &[],

            (Okay, ReceiveDwa) => self.enter(Okay, false, &[SetWatchdog]),
            (Okay, ReceiveNonDwa) => &[SetWatchdog],
            (Okay, TimerExpires) if !self.is_pending => {
                self.enter(Okay, true, &[SendWatchdog, SetWatchdog])
            }
            (Okay, TimerExpires) => self.enter(Suspect, true, &[FailOver, SetWatchdog]),
            (Okay, ConnectionDown) => {
                self.enter(Down, false, &[CloseConnection, FailOver, SetWatchdog])
            }

            (Suspect, ReceiveDwa) => self.enter(Okay, false, &[FailBack, SetWatchdog]),
            (Suspect, ReceiveNonDwa) => self.enter(Okay, self.is_pending, &[FailBack, SetWatchdog]),
            (Suspect, TimerExpires | ConnectionDown) => {
                self.enter(Down, false, &[CloseConnection, SetWatchdog])
            }

            (Down, ConnectionUp) => {
                self.dwas = 0;
                self.enter(Reopen, true, &[SendWatchdog, SetWatchdog])
            }
            (Down, TimerExpires) => &[AttemptOpen],

            (Reopen, ReceiveDwa) if self.dwas >= 2 => {
                self.enter(Okay, false, &[FailBack, SetWatchdog])
            }
            (Reopen, ReceiveDwa) => {
                self.dwas += 1;
                self.enter(Reopen, false, &[])
            }
            (Reopen, ReceiveNonDwa) => &[],
            (Reopen, TimerExpires) if !self.is_pending => {
                self.enter(Reopen, true, &[SendWatchdog, SetWatchdog])
            }
            (Reopen, TimerExpires) if self.dwas >= 0 => {
                self.dwas = -1;
                self.enter(Reopen, true, &[SetWatchdog])
            }
            (Reopen, TimerExpires | ConnectionDown) => {
                self.enter(Down, false, &[CloseConnection, SetWatchdog])
            }
            (Okay | Suspect | Reopen, ConnectionUp) => &[],
            (Down, ReceiveDwa | ReceiveNonDwa | ConnectionDown) => &[],
        }
    }

    /// RFC 6733 §5.4: the peer said goodbye. It is no suspect when it comes back.
    pub fn part(&mut self) {
        *self = Watchdog::default();
    }

    fn enter(
        &mut self,
        state: State,
        is_pending: bool,
        actions: &'static [Action],
    ) -> &'static [Action] {
        self.state = state;
        self.is_pending = is_pending;
        actions
    }
}

/// RFC 3539 §3.4.1: Tw is 30 s with 2 s of jitter either way, new at every setting; a shorter
/// interval has a shorter jitter.
pub fn interval(milliseconds: u64, random: &mut Random) -> Duration {
    let jitter = (milliseconds / 15).min(2_000);
    Duration::from_millis(milliseconds - jitter + random.below(2 * jitter + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::*;
    use Event::*;
    use State::*;

    fn at(state: State, is_pending: bool, dwas: i8) -> Watchdog {
        Watchdog { state, is_pending, dwas }
    }

    /// RFC 3539 App. A: every row of the table.
    #[test]
    fn follows_the_table() {
        #[rustfmt::skip]
        let rows: &[(Watchdog, Event, Watchdog, &[Action])] = &[
            (at(Initial, false, 0), ConnectionUp, at(Okay, false, 0), &[SetWatchdog]),
            (at(Okay, true, 0), ReceiveDwa, at(Okay, false, 0), &[SetWatchdog]),
            (at(Okay, true, 0), ReceiveNonDwa, at(Okay, true, 0), &[SetWatchdog]),
            (at(Okay, false, 0), TimerExpires, at(Okay, true, 0), &[SendWatchdog, SetWatchdog]),
            (at(Okay, true, 0), TimerExpires, at(Suspect, true, 0), &[FailOver, SetWatchdog]),
            (at(Okay, false, 0), ConnectionDown, at(Down, false, 0), &[CloseConnection, FailOver, SetWatchdog]),
            (at(Suspect, true, 0), ReceiveDwa, at(Okay, false, 0), &[FailBack, SetWatchdog]),
            (at(Suspect, true, 0), ReceiveNonDwa, at(Okay, true, 0), &[FailBack, SetWatchdog]),
            (at(Suspect, true, 0), TimerExpires, at(Down, false, 0), &[CloseConnection, SetWatchdog]),
            (at(Suspect, true, 0), ConnectionDown, at(Down, false, 0), &[CloseConnection, SetWatchdog]),
            (at(Down, false, 2), ConnectionUp, at(Reopen, true, 0), &[SendWatchdog, SetWatchdog]),
            (at(Down, false, 0), TimerExpires, at(Down, false, 0), &[AttemptOpen]),
            (at(Reopen, true, 0), ReceiveDwa, at(Reopen, false, 1), &[]),
            (at(Reopen, true, 1), ReceiveDwa, at(Reopen, false, 2), &[]),
            (at(Reopen, true, 2), ReceiveDwa, at(Okay, false, 2), &[FailBack, SetWatchdog]),
            (at(Reopen, true, 1), ReceiveNonDwa, at(Reopen, true, 1), &[]),
            (at(Reopen, false, 1), TimerExpires, at(Reopen, true, 1), &[SendWatchdog, SetWatchdog]),
            (at(Reopen, true, 1), TimerExpires, at(Reopen, true, -1), &[SetWatchdog]),
            (at(Reopen, true, -1), TimerExpires, at(Down, false, -1), &[CloseConnection, SetWatchdog]),
            (at(Reopen, true, -1), ReceiveDwa, at(Reopen, false, 0), &[]),
            (at(Reopen, true, 1), ConnectionDown, at(Down, false, 1), &[CloseConnection, SetWatchdog]),
        ];
        for (before, event, after, actions) in rows {
            let mut watchdog = *before;
            assert_eq!(watchdog.step(*event), *actions, "{before:?}, {event:?}");
            assert_eq!(watchdog, *after, "{before:?}, {event:?}");
        }
    }

    /// RFC 3539 §3.4.1: 30 s, plus or minus 2 s, and not always the same.
    #[test]
    fn has_jitter() {
        let mut random = Random::from_seed([7; 32]);
        let intervals: Vec<_> = (0..100).map(|_| interval(30_000, &mut random)).collect();
        let span = Duration::from_secs(28)..=Duration::from_secs(32);
        assert!(intervals.iter().all(|interval| span.contains(interval)));
        assert!(intervals.iter().any(|interval| *interval != intervals[0]));
        assert_eq!(interval(0, &mut random), Duration::ZERO);
    }
}
