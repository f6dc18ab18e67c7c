//! Server transactions (RFC 3261 §17.2, with the Accepted state of RFC 6026 §8.5).
//!
//! Two machines, one function per state, one arm per event, as in [`super::client`].

use std::time::Duration;

use smallvec::{SmallVec, smallvec};

use crate::sip::client::Times;

/// After how long an INVITE without any response gets 100 (RFC 3261 §17.2.1).
const TRYING_AFTER: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum State {
    Trying,
    Proceeding,
    Completed,
    Confirmed,
    Accepted,
    Terminated,
}

/// Timers of a server transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Timer {
    /// An INVITE waits for its first response.
    Trying,
    /// G, or the repetition of our own 2xx: send the response again.
    Retransmit,
    /// H: no ACK came.
    GiveUp,
    /// I, J or L: absorb repeated requests until then.
    Linger,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// The request came for the first time.
    Begin,
    /// The request came again.
    Request,
    Ack,
    Fired(Timer),
    /// 1xx.
    Provisional,
    /// 2xx. `is_ours`: we made it, so repeating it until the ACK is our job; the one that a proxy
    /// relays is repeated by its maker.
    Success {
        is_ours: bool,
    },
    /// 3xx to 6xx.
    Failure,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    SendTrying,
    /// The response that came with the event.
    SendResponse,
    /// The last response sent.
    Retransmit,
    /// The ACK concerns whoever answered.
    DeliverAck,
    /// The response comes too late and goes nowhere.
    TooLate,
    NoAck,
    Start(Timer, Duration),
    Stop(Timer),
}

pub(crate) type Actions = SmallVec<[Action; 6]>;

/// One server transaction: of INVITE (RFC 3261 §17.2.1) or of any other method (§17.2.2).
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub state: State,
    /// Of the flow on which responses go.
    pub is_reliable: bool,
    is_invite: bool,
    times: Times,
    interval: Duration,
}

impl Machine {
    pub fn new(is_invite: bool, is_reliable: bool, times: Times) -> Machine {
        let state = if is_invite { State::Proceeding } else { State::Trying };
        Machine { state, is_reliable, is_invite, times, interval: times.t1 }
    }

    pub fn is_invite(&self) -> bool {
        self.is_invite
    }

    pub fn on(&mut self, event: Event) -> Actions {
        match (self.is_invite, self.state) {
            (true, State::Proceeding) => self.invite_proceeding(event),
            (true, State::Completed) => self.invite_completed(event),
            (true, State::Confirmed) => self.invite_confirmed(event),
            (true, State::Accepted) => self.invite_accepted(event),
            (false, State::Trying) => self.trying(event),
            (false, State::Proceeding) => self.proceeding(event),
            (false, State::Completed) => self.completed(event),
            (true, State::Trying | State::Terminated)
            | (false, State::Confirmed | State::Accepted | State::Terminated) => self.gone(event),
        }
    }

    /// RFC 3261 §17.2.1: an INVITE without a final response.
    fn invite_proceeding(&mut self, event: Event) -> Actions {
        match event {
            Event::Begin => smallvec![Action::Start(Timer::Trying, TRYING_AFTER)],
            Event::Fired(Timer::Trying) => smallvec![Action::SendTrying],
            Event::Request => smallvec![Action::Retransmit],
            Event::Provisional => smallvec![Action::Stop(Timer::Trying), Action::SendResponse],
            Event::Success { is_ours } => {
                self.state = State::Accepted;
                let mut actions: Actions =
                    smallvec![Action::Stop(Timer::Trying), Action::SendResponse];
                // RFC 3261 §13.3.1.4: over any transport, as the way to the caller may be mixed.
                if is_ours {
                    actions.push(Action::Start(Timer::Retransmit, self.interval));
                }
                actions.push(Action::Start(Timer::Linger, self.times.transaction()));
                actions
            }
            Event::Failure => {
                self.state = State::Completed;
                let mut actions: Actions =
                    smallvec![Action::Stop(Timer::Trying), Action::SendResponse];
                if !self.is_reliable {
                    actions.push(Action::Start(Timer::Retransmit, self.interval));
                }
                actions.push(Action::Start(Timer::GiveUp, self.times.transaction()));
                actions
            }
            Event::Ack | Event::Fired(_) => smallvec![],
        }
    }

    /// RFC 3261 §17.2.1: a refused INVITE; the refusal is repeated until its ACK.
    fn invite_completed(&mut self, event: Event) -> Actions {
        match event {
            Event::Request => smallvec![Action::Retransmit],
            Event::Fired(Timer::Retransmit) => self.retransmit(),
            Event::Fired(Timer::GiveUp) => {
                self.state = State::Terminated;
                smallvec![Action::Stop(Timer::Retransmit), Action::NoAck]
            }
            Event::Ack => {
                let mut actions: Actions =
                    smallvec![Action::Stop(Timer::Retransmit), Action::Stop(Timer::GiveUp)];
                if self.is_reliable {
                    self.state = State::Terminated;
                } else {
                    self.state = State::Confirmed;
                    actions.push(Action::Start(Timer::Linger, self.times.t4));
                }
                actions
            }
            Event::Provisional | Event::Success { .. } | Event::Failure => self.gone(event),
            Event::Begin | Event::Fired(_) => smallvec![],
        }
    }

    /// RFC 3261 §17.2.1: the ACK came; repeated ones are absorbed until timer I.
    fn invite_confirmed(&mut self, event: Event) -> Actions {
        match event {
            Event::Fired(Timer::Linger) => self.terminate(),
            Event::Provisional | Event::Success { .. } | Event::Failure => self.gone(event),
            Event::Begin | Event::Request | Event::Ack | Event::Fired(_) => smallvec![],
        }
    }

    /// RFC 6026 §8.5: an accepted INVITE; repeated requests are absorbed, ACK and 2xx pass.
    fn invite_accepted(&mut self, event: Event) -> Actions {
        match event {
            Event::Request => smallvec![],
            Event::Ack => smallvec![Action::Stop(Timer::Retransmit), Action::DeliverAck],
            Event::Success { .. } => smallvec![Action::SendResponse],
            Event::Fired(Timer::Retransmit) => self.retransmit(),
            Event::Fired(Timer::Linger) => self.terminate(),
            Event::Provisional | Event::Failure => self.gone(event),
            Event::Begin | Event::Fired(_) => smallvec![],
        }
    }

    /// RFC 3261 §17.2.2: a request without any response; repetitions are dropped.
    fn trying(&mut self, event: Event) -> Actions {
        match event {
            Event::Provisional => {
                self.state = State::Proceeding;
                smallvec![Action::SendResponse]
            }
            Event::Success { .. } | Event::Failure => self.complete(),
            Event::Begin | Event::Request | Event::Ack | Event::Fired(_) => smallvec![],
        }
    }

    /// RFC 3261 §17.2.2: a request with a provisional response.
    fn proceeding(&mut self, event: Event) -> Actions {
        match event {
            Event::Request => smallvec![Action::Retransmit],
            Event::Provisional => smallvec![Action::SendResponse],
            Event::Success { .. } | Event::Failure => self.complete(),
            Event::Begin | Event::Ack | Event::Fired(_) => smallvec![],
        }
    }

    /// RFC 3261 §17.2.2: answered; each repetition gets the answer again, until timer J.
    fn completed(&mut self, event: Event) -> Actions {
        match event {
            Event::Request => smallvec![Action::Retransmit],
            Event::Fired(Timer::Linger) => self.terminate(),
            Event::Provisional | Event::Success { .. } | Event::Failure => self.gone(event),
            Event::Begin | Event::Ack | Event::Fired(_) => smallvec![],
        }
    }

    fn complete(&mut self) -> Actions {
        // Timer J is zero over a reliable transport.
        if self.is_reliable {
            self.state = State::Terminated;
            return smallvec![Action::SendResponse];
        }
        self.state = State::Completed;
        smallvec![Action::SendResponse, Action::Start(Timer::Linger, self.times.transaction()),]
    }

    /// Timer G: doubles up to T2.
    fn retransmit(&mut self) -> Actions {
        self.interval = (self.interval * 2).min(self.times.t2);
        smallvec![Action::Retransmit, Action::Start(Timer::Retransmit, self.interval)]
    }

    fn terminate(&mut self) -> Actions {
        let was_accepted = self.state == State::Accepted;
        self.state = State::Terminated;
        if was_accepted { smallvec![Action::Stop(Timer::Retransmit)] } else { smallvec![] }
    }

    /// A response after the final one.
    fn gone(&mut self, event: Event) -> Actions {
        match event {
            Event::Provisional | Event::Success { .. } | Event::Failure => {
                smallvec![Action::TooLate]
            }
            Event::Begin | Event::Request | Event::Ack | Event::Fired(_) => smallvec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::sip::client::tests::check_snapshot;
    use crate::sip::endpoint::Segment;

    const EVENTS: [Event; 11] = [
        Event::Begin,
        Event::Request,
        Event::Ack,
        Event::Fired(Timer::Trying),
        Event::Fired(Timer::Retransmit),
        Event::Fired(Timer::GiveUp),
        Event::Fired(Timer::Linger),
        Event::Provisional,
        Event::Success { is_ours: true },
        Event::Success { is_ours: false },
        Event::Failure,
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

    /// RFC 3261 §17.2.1, §17.2.2 and RFC 6026 §8.5: every transition of both machines. Pairs of
    /// state and event that are not listed change nothing.
    #[test]
    fn transitions() {
        let invite = [State::Proceeding, State::Completed, State::Confirmed, State::Accepted];
        let other = [State::Trying, State::Proceeding, State::Completed];
        let mut text = String::new();
        for segment in [Segment::Core, Segment::Gm] {
            table(true, segment, &invite, &mut text);
            table(false, segment, &other, &mut text);
        }
        check_snapshot("server", &text);
    }
}
