//! User-Authorization-Request and -Answer (TS 29.229 §6.1.1, §6.1.2).

use crate::cx::{Outcome, ServerCapabilities};

/// User-Authorization-Type (TS 29.229 §6.3.24).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum UserAuthorizationType { #[default] Registration, DeRegistration, RegistrationAndCapabilities }

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Uar {
    pub user_name: String,
    pub public_identity: String,
    pub visited_network_identifier: String,
    pub user_authorization_type: UserAuthorizationType,
    /// UAR-Flags bit 0.
    pub is_emergency: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uaa {
    pub outcome: Outcome,
    pub server_name: Option<String>,
    pub server_capabilities: Option<ServerCapabilities>,
}
