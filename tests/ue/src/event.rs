//! What became of procedures and registrations, for whoever drives the phone.

use common::node::Now;

/// What a procedure is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Without protection, or of another identity over the associations of the first.
    Initial,
    Refresh,
    Deregistration,
}

/// What became of procedures and registrations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    Registered {
        identity: usize,
        kind: Kind,
        granted_seconds: u32,
        /// A challenge was answered.
        is_authenticated: bool,
        is_protected: bool,
    },
    Deregistered {
        identity: usize,
    },
    /// A challenge was not accepted. The procedure goes on.
    ChallengeRefused {
        identity: usize,
        reason: InvalidChallenge,
    },
    Failed {
        identity: usize,
        kind: Kind,
        cause: Cause,
        /// When the phone tries again by itself.
        retry_at: Option<Now>,
    },
    /// Registered no more, without having asked for it.
    Lost {
        identity: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidChallenge {
    /// The network is not authentic.
    Mac,
    /// AUTS was sent.
    Sqn,
    /// Security-Server is missing, incomplete or offers nothing that this UE has offered.
    SecurityServer,
}

/// Why a procedure failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// By the final response of that status.
    Refused(u16),
    /// No answer within 64·T1.
    Timeout,
    /// No connection.
    Unreachable,
    /// More than two invalid challenges in a row.
    InvalidChallenges,
    /// A challenge that is none of AKAv1-MD5.
    UnknownChallenge,
    /// No usable Security-Server, twice.
    NoSecurityAgreement,
    /// `rspauth` of Authentication-Info is wrong.
    NetworkNotAuthentic,
    /// A 200 without this UE's contact.
    NotBound,
}
