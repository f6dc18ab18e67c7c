//! Location-Info-Request and -Answer (TS 29.229 §6.1.5, §6.1.6).

use crate::cx::{Outcome, ServerCapabilities};

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lir {
    pub public_identity: String,
    /// Originating-Request present.
    pub is_originating: bool,
    /// User-Authorization-Type REGISTRATION_AND_CAPABILITIES present.
    pub wants_capabilities: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lia {
    pub outcome: Outcome,
    pub server_name: Option<String>,
    pub server_capabilities: Option<ServerCapabilities>,
    pub wildcarded_public_identity: Option<String>,
}
