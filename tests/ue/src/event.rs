//! What became of procedures and registrations, for whoever drives the phone.

use std::fmt;

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
        /// It was to be an emergency registration: the emergency call goes out without one (TS 24.229 §5.1.6.8.2).
        calls_unregistered: bool,
    },
    /// Registered no more, without having asked for it.
    Lost {
        identity: usize,
    },
    /// Of the subscription to the registration's state.
    Watch {
        identity: usize,
        what: Watched,
    },
}

/// What became of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watched {
    Subscribed {
        expires_seconds: u32,
    },
    /// By the final response of that status; 408 for silence, 503 for no connection.
    NotSubscribed {
        status: u16,
    },
    Notified {
        version: u32,
        is_full: bool,
        /// Of this phone's own contact, where the document names it.
        event: Option<common::reginfo::Event>,
    },
    /// A document before this one was lost: everything is asked for.
    Gap {
        version: u32,
    },
    /// A document that was not looked at, since a later one has come.
    Stale {
        version: u32,
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
    /// Nothing was sent: an emergency registration ends by its expiry alone (TS 24.229 §5.1.6.6).
    EmergencyStays,
    /// Nothing was sent: less than half of an emergency registration has passed (TS 24.229 §5.1.6.4).
    EmergencyNotDue,
}

impl Cause {
    /// The status of the final response; 408 for silence (RFC 3261 §8.1.3.1), 503 for no
    /// connection; 401 for challenges that were not answered; 0 where nothing was sent.
    pub fn status(self) -> u16 {
        match self {
            Cause::Refused(status) => status,
            Cause::Timeout => 408,
            Cause::Unreachable => 503,
            Cause::InvalidChallenges | Cause::UnknownChallenge | Cause::NoSecurityAgreement => 401,
            Cause::NetworkNotAuthentic | Cause::NotBound => 200,
            Cause::EmergencyStays | Cause::EmergencyNotDue => 0,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Refused(status) => write!(f, "refused with {status}"),
            Cause::Timeout => f.write_str("no answer within 64*T1"),
            Cause::Unreachable => f.write_str("no connection to the P-CSCF"),
            Cause::InvalidChallenges => f.write_str("more than two invalid challenges"),
            Cause::UnknownChallenge => f.write_str("a challenge that is none of AKAv1-MD5"),
            Cause::NoSecurityAgreement => f.write_str("no usable Security-Server"),
            Cause::NetworkNotAuthentic => f.write_str("wrong rspauth"),
            Cause::NotBound => f.write_str("a 200 without this contact"),
            Cause::EmergencyStays => f.write_str("an emergency registration is left to expire"),
            Cause::EmergencyNotDue => {
                f.write_str("half of the emergency registration has not passed yet")
            }
        }
    }
}
