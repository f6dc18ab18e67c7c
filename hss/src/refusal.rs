//! Why a Cx request is refused, and with which result (TS 29.229 §6.2, RFC 6733 §7.1).

use std::fmt;

use common::cx::Outcome;
use common::diameter::base::result_code;

/// One variant per cause; [`Refusal::cause`] is its label in logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    UnknownPrivateIdentity,
    UnknownPublicIdentity,
    /// A PSI or a wildcard where a distinct public user identity is needed.
    NotDistinct,
    InactiveService,
    NotAssociated,
    /// The identity is barred and so is its whole implicit set.
    Barred,
    /// The operator has suspended the subscription.
    Suspended,
    RoamingNotAllowed,
    NotRegistered,
    UnsupportedScheme,
    /// SIP-Authorization is not RAND ‖ AUTS.
    MalformedResynchronisation,
    /// MAC-S does not fit: K, OPc or the algorithm of the card are not those provisioned.
    WrongMacS,
    /// Not the S-CSCF that is assigned; nothing was changed.
    ServerNameDiffers,
    /// Another S-CSCF is assigned.
    AssignedElsewhere,
    /// UNREGISTERED_USER for an identity that is registered.
    AlreadyRegistered,
    /// This Server-Assignment-Type is not for a PSI.
    WrongTypeForService,
    /// The identity falls under this wildcard and not under the one named.
    WildcardDiffers(String),
    TooManyPublicIdentities,
    /// User-Name or Public-Identity is needed for this type.
    MissingIdentity,
    /// SEQ is at its end: the card must be personalised anew (TS 33.102 Annex C).
    SequenceExhausted,
    /// The database is being written by another program for too long.
    Busy,
    /// The database does not do its work; the text is for the log.
    Storage(String),
    /// What is stored makes no sense: a key that does not open, a list that is none.
    Fault(String),
    /// What an operator wants to bring in contradicts what is there.
    Conflict(String),
}

impl Refusal {
    /// The result of the answer (TS 29.228 §6).
    pub fn outcome(&self) -> Outcome {
        match self {
            Refusal::UnknownPrivateIdentity
            | Refusal::UnknownPublicIdentity
            | Refusal::NotDistinct
            | Refusal::InactiveService => Outcome::USER_UNKNOWN,
            Refusal::NotAssociated => Outcome::IDENTITIES_DONT_MATCH,
            Refusal::Barred | Refusal::Suspended => Outcome::AUTHORIZATION_REJECTED,
            Refusal::RoamingNotAllowed => Outcome::ROAMING_NOT_ALLOWED,
            Refusal::NotRegistered => Outcome::IDENTITY_NOT_REGISTERED,
            Refusal::UnsupportedScheme => Outcome::AUTH_SCHEME_NOT_SUPPORTED,
            Refusal::AssignedElsewhere => Outcome::IDENTITY_ALREADY_REGISTERED,
            Refusal::AlreadyRegistered
            | Refusal::WrongTypeForService
            | Refusal::WildcardDiffers(_) => Outcome::IN_ASSIGNMENT_TYPE,
            Refusal::MalformedResynchronisation => Outcome::Base(result_code::INVALID_AVP_VALUE),
            Refusal::TooManyPublicIdentities => {
                Outcome::Base(result_code::AVP_OCCURS_TOO_MANY_TIMES)
            }
            Refusal::MissingIdentity => Outcome::Base(result_code::MISSING_AVP),
            Refusal::Busy => Outcome::Base(result_code::TOO_BUSY),
            Refusal::WrongMacS
            | Refusal::ServerNameDiffers
            | Refusal::SequenceExhausted
            | Refusal::Storage(_)
            | Refusal::Fault(_)
            | Refusal::Conflict(_) => Outcome::UNABLE_TO_COMPLY,
        }
    }

    /// The fault is ours, so what the procedure wrote is taken back.
    pub fn is_fault(&self) -> bool {
        matches!(
            self,
            Refusal::Busy | Refusal::Storage(_) | Refusal::Fault(_) | Refusal::Conflict(_)
        )
    }

    /// For the log.
    pub fn cause(&self) -> &str {
        match self {
            Refusal::UnknownPrivateIdentity => "private identity is not provisioned",
            Refusal::UnknownPublicIdentity => "public identity is not provisioned",
            Refusal::NotDistinct => "public identity is a service or a wildcard",
            Refusal::InactiveService => "public service identity is not active",
            Refusal::NotAssociated => "public identity does not belong to the private identity",
            Refusal::Barred => "public identity and its whole implicit set are barred",
            Refusal::Suspended => "subscription is suspended",
            Refusal::RoamingNotAllowed => "roaming in the visited network is not allowed",
            Refusal::NotRegistered => "public identity is not registered",
            Refusal::UnsupportedScheme => "authentication scheme is not the one the user has",
            Refusal::MalformedResynchronisation => "SIP-Authorization is not RAND and AUTS",
            Refusal::WrongMacS => {
                "MAC-S of AUTS is wrong: K, OP/OPc or algorithm differ between card and HSS"
            }
            Refusal::ServerNameDiffers => "request is not from the assigned S-CSCF",
            Refusal::AssignedElsewhere => "another S-CSCF is assigned",
            Refusal::AlreadyRegistered => "public identity is registered already",
            Refusal::WrongTypeForService => "assignment type is not for a public service identity",
            Refusal::WildcardDiffers(_) => "public identity falls under another wildcard",
            Refusal::TooManyPublicIdentities => "more than one public identity",
            Refusal::MissingIdentity => "User-Name or Public-Identity is missing",
            Refusal::SequenceExhausted => "sequence number is at its end",
            Refusal::Busy => "database is locked by another program",
            Refusal::Storage(text) | Refusal::Fault(text) | Refusal::Conflict(text) => text,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause())
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Refusal {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                Refusal::Busy
            }
            _ => Refusal::Storage(format!("database: {error}")),
        }
    }
}
