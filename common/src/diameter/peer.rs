//! The peer state machine (RFC 6733 §5.6): one row of the table per arm.
//!
//! Two connections may exist at a time: the one that we opened (initiator, `I`) and the one that
//! the peer opened (responder, `R`). The machine says what to do; the endpoint does it.

/// States of RFC 6733 §5.6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum State {
    #[default]
    Closed,
    WaitConnAck,
    WaitICea,
    WaitConnAckElect,
    WaitReturns,
    ROpen,
    IOpen,
    Closing,
}

impl State {
    /// Name as a metric's label shows it.
    pub const fn name(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::WaitConnAck => "wait-conn-ack",
            State::WaitICea => "wait-i-cea",
            State::WaitConnAckElect => "wait-conn-ack-elect",
            State::WaitReturns => "wait-returns",
            State::ROpen => "r-open",
            State::IOpen => "i-open",
            State::Closing => "closing",
        }
    }

    pub const fn is_open(self) -> bool {
        matches!(self, State::ROpen | State::IOpen)
    }
}

/// Events of RFC 6733 §5.6.2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Event {
    Start,
    IRcvConnAck,
    IRcvConnNack,
    /// A CER of this peer came on a connection that the peer opened.
    RConnCer,
    /// A CEA with a success came on our connection.
    IRcvCea,
    /// Something else came on our connection before the CEA, or the CEA refuses us.
    IRcvNonCea,
    IPeerDisc,
    RPeerDisc,
    IRcvDpr,
    RRcvDpr,
    IRcvDpa,
    RRcvDpa,
    WinElection,
    Timeout,
    Stop,
}

/// Actions of RFC 6733 §5.6.3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    ISndConnReq,
    ISndCer,
    /// Takes the new connection as this peer's.
    RAccept,
    /// Refuses the new connection and closes it.
    RReject,
    RSndCea,
    /// Closes our connection.
    IDisc,
    /// Closes the peer's connection.
    RDisc,
    /// Compares the Origin-Hosts; the winner gets [`Event::WinElection`].
    Elect,
    ISndDpr,
    RSndDpr,
    ISndDpa,
    RSndDpa,
    /// Closes whatever is there.
    Error,
}

/// RFC 6733 §5.6: the next state and what to do on the way. An event that the table does not know
/// in a state changes nothing.
pub fn step(state: State, event: Event) -> (State, &'static [Action]) {
    use Action::*;
    use Event::*;
    use State::*;
    match (state, event) {
        (Closed, Start) => (WaitConnAck, &[ISndConnReq]),
        (Closed, RConnCer) => (ROpen, &[RAccept, RSndCea]),

        (WaitConnAck, IRcvConnAck) => (WaitICea, &[ISndCer]),
        (WaitConnAck, IRcvConnNack) => (Closed, &[]),
        (WaitConnAck, RConnCer) => (WaitConnAckElect, &[RAccept]),
        (WaitConnAck, Timeout | Stop) => (Closed, &[Error]),

        (WaitICea, IRcvCea) => (IOpen, &[]),
        (WaitICea, RConnCer) => (WaitReturns, &[RAccept, Elect]),
        (WaitICea, IPeerDisc) => (Closed, &[IDisc]),
        (WaitICea, IRcvNonCea | Timeout | Stop) => (Closed, &[Error]),

        (WaitConnAckElect, IRcvConnAck) => (WaitReturns, &[ISndCer, Elect]),
        (WaitConnAckElect, IRcvConnNack) => (ROpen, &[RSndCea]),
        (WaitConnAckElect, RPeerDisc) => (WaitConnAck, &[RDisc]),
        (WaitConnAckElect, RConnCer) => (WaitConnAckElect, &[RReject]),
        // DEVIATES: the table closes both, but the peer's connection is there and works.
        (WaitConnAckElect, Timeout) => (ROpen, &[RSndCea]),
        (WaitConnAckElect, Stop) => (Closed, &[Error]),

        (WaitReturns, WinElection) => (ROpen, &[IDisc, RSndCea]),
        (WaitReturns, IPeerDisc) => (ROpen, &[IDisc, RSndCea]),
        (WaitReturns, IRcvCea) => (IOpen, &[RDisc]),
        // The table leaves it open; the refusal concerns our connection only.
        (WaitReturns, IRcvNonCea) => (ROpen, &[IDisc, RSndCea]),
        (WaitReturns, RPeerDisc) => (WaitICea, &[RDisc]),
        (WaitReturns, RConnCer) => (WaitReturns, &[RReject]),
        (WaitReturns, Timeout | Stop) => (Closed, &[Error]),

        (ROpen, RConnCer) => (ROpen, &[RReject]),
        (ROpen, Stop) => (Closing, &[RSndDpr]),
        (ROpen, RRcvDpr) => (Closing, &[RSndDpa]),
        (ROpen, RPeerDisc) => (Closed, &[RDisc]),

        (IOpen, RConnCer) => (IOpen, &[RReject]),
        (IOpen, Stop) => (Closing, &[ISndDpr]),
        (IOpen, IRcvDpr) => (Closing, &[ISndDpa]),
        (IOpen, IPeerDisc) => (Closed, &[IDisc]),

        (Closing, IRcvDpa) => (Closed, &[IDisc]),
        (Closing, RRcvDpa) => (Closed, &[RDisc]),
        // Both sides said DPR at once: each is owed its answer.
        (Closing, IRcvDpr) => (Closing, &[ISndDpa]),
        (Closing, RRcvDpr) => (Closing, &[RSndDpa]),
        (Closing, IPeerDisc) => (Closed, &[IDisc]),
        (Closing, RPeerDisc) => (Closed, &[RDisc]),
        (Closing, RConnCer) => (Closing, &[RReject]),
        (Closing, Timeout) => (Closed, &[Error]),

        _ => (state, &[]),
    }
}

/// RFC 6733 §5.6.4: we win when our Origin-Host comes behind the peer's, octet by octet, upper-case
/// and lower-case letters being the same. The winner closes the connection that it opened itself.
pub fn wins_election(ours: &str, theirs: &str) -> bool {
    let lower = |octet: u8| octet.to_ascii_lowercase();
    ours.bytes().map(lower).cmp(theirs.bytes().map(lower)).is_gt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6733 §5.6: every row of the table.
    #[test]
    fn follows_the_table() {
        use Action::*;
        use Event::*;
        use State::*;
        #[rustfmt::skip]
        let rows: &[(State, Event, State, &[Action])] = &[
            (Closed, Start, WaitConnAck, &[ISndConnReq]),
            (Closed, RConnCer, ROpen, &[RAccept, RSndCea]),
            (WaitConnAck, IRcvConnAck, WaitICea, &[ISndCer]),
            (WaitConnAck, IRcvConnNack, Closed, &[]),
            (WaitConnAck, RConnCer, WaitConnAckElect, &[RAccept]),
            (WaitConnAck, Timeout, Closed, &[Error]),
            (WaitICea, IRcvCea, IOpen, &[]),
            (WaitICea, RConnCer, WaitReturns, &[RAccept, Elect]),
            (WaitICea, IPeerDisc, Closed, &[IDisc]),
            (WaitICea, IRcvNonCea, Closed, &[Error]),
            (WaitICea, Timeout, Closed, &[Error]),
            (WaitConnAckElect, IRcvConnAck, WaitReturns, &[ISndCer, Elect]),
            (WaitConnAckElect, IRcvConnNack, ROpen, &[RSndCea]),
            (WaitConnAckElect, RPeerDisc, WaitConnAck, &[RDisc]),
            (WaitConnAckElect, RConnCer, WaitConnAckElect, &[RReject]),
            (WaitConnAckElect, Timeout, ROpen, &[RSndCea]),
            (WaitReturns, WinElection, ROpen, &[IDisc, RSndCea]),
            (WaitReturns, IPeerDisc, ROpen, &[IDisc, RSndCea]),
            (WaitReturns, IRcvCea, IOpen, &[RDisc]),
            (WaitReturns, RPeerDisc, WaitICea, &[RDisc]),
            (WaitReturns, RConnCer, WaitReturns, &[RReject]),
            (WaitReturns, Timeout, Closed, &[Error]),
            (ROpen, RConnCer, ROpen, &[RReject]),
            (ROpen, Stop, Closing, &[RSndDpr]),
            (ROpen, RRcvDpr, Closing, &[RSndDpa]),
            (ROpen, RPeerDisc, Closed, &[RDisc]),
            (IOpen, RConnCer, IOpen, &[RReject]),
            (IOpen, Stop, Closing, &[ISndDpr]),
            (IOpen, IRcvDpr, Closing, &[ISndDpa]),
            (IOpen, IPeerDisc, Closed, &[IDisc]),
            (Closing, IRcvDpa, Closed, &[IDisc]),
            (Closing, RRcvDpa, Closed, &[RDisc]),
            (Closing, IPeerDisc, Closed, &[IDisc]),
            (Closing, RPeerDisc, Closed, &[RDisc]),
            (Closing, Timeout, Closed, &[Error]),
        ];
        for (state, event, next, actions) in rows {
            assert_eq!(step(*state, *event), (*next, *actions), "{state:?}, {event:?}");
        }
        assert_eq!(step(IOpen, Start), (IOpen, &[][..]), "an event without a row changes nothing");
    }

    /// RFC 6733 §5.6.4: the comparison is by octet, without case.
    #[test]
    fn elects_by_octets() {
        assert!(wins_election("scscf1.hims.net", "hss1.hims.net"));
        assert!(!wins_election("hss1.hims.net", "scscf1.hims.net"));
        assert!(wins_election("hss10.hims.net", "hss1.hims.net"), "'0' comes behind '.'");
        assert!(!wins_election("HSS1.hims.net", "hss1.hims.net"), "the same name, no winner");
        assert!(wins_election("hss1.hims.net", "HSS1.hims"), "the longer one");
    }
}
