//! Registration-Termination-Request and -Answer (TS 29.229 §6.1.9, §6.1.10).

use crate::cx::Outcome;

/// Reason-Code (TS 29.229 §6.3.17); values 0 to 3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ReasonCode { #[default] PermanentTermination, NewServerAssigned, ServerChange, RemoveScscf }

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rtr {
    pub destination_host: String,
    pub user_name: String,
    pub associated_identities: Vec<String>,
    pub public_identities: Vec<String>,
    pub reason_code: ReasonCode,
    pub reason_info: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rta { pub outcome: Outcome, pub associated_identities: Vec<String> }
