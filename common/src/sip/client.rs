//! Client transactions (RFC 3261 §17.1, with the Accepted state of RFC 6026 §8.4).
//!
//! Two machines, one function per state, one arm per event. A machine decides and the endpoint
//! does: each event gives a short list of [`Action`]s. Which transport carries the request is a
//! field, because it changes only which timers run.

use std::time::Duration;

use smallvec::{SmallVec, smallvec};

use crate::sip::endpoint::Segment;

/// The timer values of a segment (RFC 3261 §17.1.1.1; TS 24.229 table 7.7.1 for Gm).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Times {
    pub t1: Duration,
    pub t2: Duration,
    pub t4: Duration,
}

/// T1 on Gm (TS 24.229 table 7.7.1).
pub(crate) const GM_T1: Duration = Duration::from_secs(2);

impl Times {
    #[cfg(test)]
    pub fn of(segment: Segment) -> Times {
        Times::with(segment, GM_T1)
    }

    /// With this T1 on Gm; T2 and T4 keep their proportion to it.
    pub fn with(segment: Segment, gm_t1: Duration) -> Times {
        let millis = Duration::from_millis;
        match segment {
            Segment::Core => Times { t1: millis(500), t2: millis(4_000), t4: millis(5_000) },
            Segment::Gm => Times { t1: gm_t1, t2: gm_t1 * 8, t4: gm_t1 * 17 / 2 },
        }
    }

    /// 64*T1: timers B, F, H, J, L and M.
    pub fn transaction(self) -> Duration {
        self.t1 * 64
    }

    /// Timer D: more than 64*T1, so that it outlives timer H at the other side.
    fn absorb_failures(self) -> Duration {
        self.t1 * 65
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum State {
    Calling,
    Trying,
    Proceeding,
    Completed,
    Accepted,
    Terminated,
}

/// Timers of a client transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Timer {
    /// A or E: send the request again.
    Retransmit,
    /// B or F: nothing came.
    GiveUp,
    /// D, K or M: absorb repeated responses until then.
    Linger,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// The request is ready to go.
    Begin,
    Fired(Timer),
    /// 1xx.
    Provisional,
    /// 2xx.
    Success,
    /// 3xx to 6xx.
    Failure,
    TransportError,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    SendRequest,
    Retransmit,
    /// ACK of a final response other than 2xx.
    SendAck,
    /// The response goes to whoever sent the request.
    Deliver,
    /// A further 2xx to an INVITE.
    DeliverAgain,
    TimedOut,
    Unreachable,
    Start(Timer, Duration),
    Stop(Timer),
}

pub(crate) type Actions = SmallVec<[Action; 6]>;

/// One client transaction: of INVITE (RFC 3261 §17.1.1) or of any other method (§17.1.2).
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub state: State,
    is_invite: bool,
    is_reliable: bool,
    times: Times,
    /// Until the next retransmission.
    interval: Duration,
}

impl Machine {
    pub fn new(is_invite: bool, is_reliable: bool, times: Times) -> Machine {
        let state = if is_invite { State::Calling } else { State::Trying };
        Machine { state, is_invite, is_reliable, times, interval: times.t1 }
    }

    pub fn on(&mut self, event: Event) -> Actions {
        match (self.is_invite, self.state) {
            (true, State::Calling) => self.invite_calling(event),
            (true, State::Proceeding) => self.invite_proceeding(event),
            (true, State::Completed) => self.invite_completed(event),
            (true, State::Accepted) => self.invite_accepted(event),
            (false, State::Trying) => self.trying(event),
            (false, State::Proceeding) => self.proceeding(event),
            (false, State::Completed) => self.completed(event),
            (true, State::Trying | State::Terminated)
            | (false, State::Calling | State::Accepted | State::Terminated) => smallvec![],
        }
    }

    /// RFC 3261 §17.1.1.2: an INVITE nobody has reacted to.
    fn invite_calling(&mut self, event: Event) -> Actions {
        match event {
            Event::Begin => self.begin(),
            Event::Fired(Timer::Retransmit) => {
                self.interval *= 2;
                smallvec![Action::Retransmit, Action::Start(Timer::Retransmit, self.interval)]
            }
            Event::Fired(Timer::GiveUp) => self.end(Action::TimedOut),
            Event::Fired(Timer::Linger) => smallvec![],
            Event::Provisional => {
                self.state = State::Proceeding;
                let mut actions = self.stop_waiting();
                actions.push(Action::Deliver);
                actions
            }
            Event::Success => self.accept(),
            Event::Failure => self.fail(),
            Event::TransportError => self.end(Action::Unreachable),
        }
    }

    /// RFC 3261 §17.1.1.2: the other side works on the INVITE; no timer of this machine runs.
    fn invite_proceeding(&mut self, event: Event) -> Actions {
        match event {
            Event::Begin | Event::Fired(_) => smallvec![],
            Event::Provisional => smallvec![Action::Deliver],
            Event::Success => self.accept(),
            Event::Failure => self.fail(),
            Event::TransportError => self.end(Action::Unreachable),
        }
    }

    /// RFC 3261 §17.1.1.2: a refused INVITE; each repetition of the refusal gets the ACK again.
    fn invite_completed(&mut self, event: Event) -> Actions {
        match event {
            Event::Failure => smallvec![Action::SendAck],
            Event::Fired(Timer::Linger) => self.terminate(),
            // The ACK could not be sent. The refusal has been delivered already.
            Event::TransportError => self.terminate(),
            Event::Begin | Event::Fired(_) | Event::Provisional | Event::Success => smallvec![],
        }
    }

    /// RFC 6026 §8.4: an accepted INVITE; each further 2xx goes up, until timer M.
    fn invite_accepted(&mut self, event: Event) -> Actions {
        match event {
            Event::Success => smallvec![Action::DeliverAgain],
            Event::Fired(Timer::Linger) => self.terminate(),
            Event::Begin
            | Event::Fired(_)
            | Event::Provisional
            | Event::Failure
            | Event::TransportError => smallvec![],
        }
    }

    /// RFC 3261 §17.1.2.2: a request nobody has reacted to.
    fn trying(&mut self, event: Event) -> Actions {
        match event {
            Event::Begin => self.begin(),
            Event::Fired(Timer::Retransmit) => {
                self.interval = (self.interval * 2).min(self.times.t2);
                smallvec![Action::Retransmit, Action::Start(Timer::Retransmit, self.interval)]
            }
            Event::Fired(Timer::GiveUp) => self.end(Action::TimedOut),
            Event::Fired(Timer::Linger) => smallvec![],
            Event::Provisional => {
                self.state = State::Proceeding;
                smallvec![Action::Deliver]
            }
            Event::Success | Event::Failure => self.complete(),
            Event::TransportError => self.end(Action::Unreachable),
        }
    }

    /// RFC 3261 §17.1.2.2: the other side works on the request, which is repeated every T2.
    fn proceeding(&mut self, event: Event) -> Actions {
        match event {
            Event::Fired(Timer::Retransmit) => {
                self.interval = self.times.t2;
                smallvec![Action::Retransmit, Action::Start(Timer::Retransmit, self.interval)]
            }
            Event::Fired(Timer::GiveUp) => self.end(Action::TimedOut),
            Event::Begin | Event::Fired(Timer::Linger) => smallvec![],
            Event::Provisional => smallvec![Action::Deliver],
            Event::Success | Event::Failure => self.complete(),
            Event::TransportError => self.end(Action::Unreachable),
        }
    }

    /// RFC 3261 §17.1.2.2: answered; repeated responses are absorbed until timer K.
    fn completed(&mut self, event: Event) -> Actions {
        match event {
            Event::Fired(Timer::Linger) => self.terminate(),
            Event::Begin
            | Event::Fired(_)
            | Event::Provisional
            | Event::Success
            | Event::Failure
            | Event::TransportError => smallvec![],
        }
    }

    fn begin(&mut self) -> Actions {
        self.interval = self.times.t1;
        let mut actions: Actions = smallvec![Action::SendRequest];
        if !self.is_reliable {
            actions.push(Action::Start(Timer::Retransmit, self.interval));
        }
        actions.push(Action::Start(Timer::GiveUp, self.times.transaction()));
        actions
    }

    fn stop_waiting(&self) -> Actions {
        match self.is_reliable {
            true => smallvec![Action::Stop(Timer::GiveUp)],
            false => smallvec![Action::Stop(Timer::Retransmit), Action::Stop(Timer::GiveUp)],
        }
    }

    /// 2xx to an INVITE.
    fn accept(&mut self) -> Actions {
        self.state = State::Accepted;
        let mut actions = self.stop_waiting();
        actions.push(Action::Start(Timer::Linger, self.times.transaction()));
        actions.push(Action::Deliver);
        actions
    }

    /// 3xx to 6xx to an INVITE.
    fn fail(&mut self) -> Actions {
        let mut actions = self.stop_waiting();
        actions.push(Action::SendAck);
        self.linger(&mut actions, self.times.absorb_failures());
        actions.push(Action::Deliver);
        actions
    }

    /// Any final response to any other request.
    fn complete(&mut self) -> Actions {
        let mut actions = self.stop_waiting();
        self.linger(&mut actions, self.times.t4);
        actions.push(Action::Deliver);
        actions
    }

    /// Timers D and K are zero over a reliable transport.
    fn linger(&mut self, actions: &mut Actions, span: Duration) {
        if self.is_reliable {
            self.state = State::Terminated;
        } else {
            self.state = State::Completed;
            actions.push(Action::Start(Timer::Linger, span));
        }
    }

    fn end(&mut self, how: Action) -> Actions {
        self.state = State::Terminated;
        let mut actions = self.stop_waiting();
        actions.push(how);
        actions
    }

    fn terminate(&mut self) -> Actions {
        self.state = State::Terminated;
        smallvec![]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Write;

    use super::*;

    /// Compares with the kept table; `UPDATE=1` rewrites it.
    pub(crate) fn check_snapshot(name: &str, text: &str) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sip/transaction_tables");
        let path = format!("{folder}/{name}.txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert_eq!(kept, text, "the transition table changed: see {path}; UPDATE=1 rewrites it");
    }

    const EVENTS: [Event; 8] = [
        Event::Begin,
        Event::Fired(Timer::Retransmit),
        Event::Fired(Timer::GiveUp),
        Event::Fired(Timer::Linger),
        Event::Provisional,
        Event::Success,
        Event::Failure,
        Event::TransportError,
    ];

    fn table(is_invite: bool, segment: Segment, states: &[State], text: &mut String) {
        let method = if is_invite { "INVITE" } else { "other" };
        for is_reliable in [false, true] {
            let transport = if is_reliable { "TCP" } else { "UDP" };
            writeln!(text, "\n{method} over {transport}, {segment:?}").unwrap();
            for state in states {
                for event in EVENTS {
                    let mut machine = Machine::new(is_invite, is_reliable, Times::of(segment));
                    machine.state = *state;
                    let actions = machine.on(event);
                    if machine.state == *state && actions.is_empty() {
                        continue;
                    }
                    writeln!(text, "  {state:?} + {event:?} -> {:?} {actions:?}", machine.state)
                        .unwrap();
                }
            }
        }
    }

    /// RFC 3261 §17.1.1.2, §17.1.2.2 and RFC 6026 §8.4: every transition of both machines. Pairs
    /// of state and event that are not listed change nothing.
    #[test]
    fn transitions() {
        let mut text = String::new();
        for segment in [Segment::Core, Segment::Gm] {
            let states = [State::Calling, State::Proceeding, State::Completed, State::Accepted];
            table(true, segment, &states, &mut text);
            table(false, segment, &[State::Trying, State::Proceeding, State::Completed], &mut text);
        }
        check_snapshot("client", &text);
    }

    fn intervals(is_invite: bool, segment: Segment, proceeding: bool) -> Vec<u64> {
        let mut machine = Machine::new(is_invite, false, Times::of(segment));
        let mut actions = machine.on(Event::Begin);
        if proceeding {
            machine.on(Event::Provisional);
        }
        let mut seen = Vec::new();
        for _ in 0..6 {
            let started = actions.iter().find_map(|action| match action {
                Action::Start(Timer::Retransmit, span) => Some(span.as_millis() as u64),
                _ => None,
            });
            seen.push(started.unwrap());
            actions = machine.on(Event::Fired(Timer::Retransmit));
        }
        seen
    }

    /// RFC 3261 §17.1.1.2, §17.1.2.2: INVITE doubles without bound, others up to T2; the values of
    /// each segment (TS 24.229 table 7.7.1).
    #[test]
    fn retransmission_intervals() {
        let invite = intervals(true, Segment::Core, false);
        assert_eq!(invite, [500, 1_000, 2_000, 4_000, 8_000, 16_000]);
        let other = intervals(false, Segment::Core, false);
        assert_eq!(other, [500, 1_000, 2_000, 4_000, 4_000, 4_000]);
        let proceeding = intervals(false, Segment::Core, true);
        assert_eq!(proceeding, [500, 4_000, 4_000, 4_000, 4_000, 4_000]);
        let access = intervals(false, Segment::Gm, false);
        assert_eq!(access, [2_000, 4_000, 8_000, 16_000, 16_000, 16_000]);
    }
}
