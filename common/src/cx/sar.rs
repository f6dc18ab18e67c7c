//! Server-Assignment-Request and -Answer (TS 29.229 §6.1.3, §6.1.4).

use bytes::Bytes;

use crate::cx::{ChargingInformation, Outcome};

/// Server-Assignment-Type (TS 29.229 §6.3.15); values 0 to 11.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ServerAssignmentType {
    #[default] NoAssignment, Registration, ReRegistration, UnregisteredUser, TimeoutDeregistration, UserDeregistration,
    TimeoutDeregistrationStoreServerName, UserDeregistrationStoreServerName, AdministrativeDeregistration,
    AuthenticationFailure, AuthenticationTimeout, DeregistrationTooMuchData,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sar {
    pub user_name: Option<String>,
    pub public_identities: Vec<String>,
    pub wildcarded_public_identity: Option<String>,
    pub server_name: String,
    pub server_assignment_type: ServerAssignmentType,
    /// User-Data-Already-Available.
    pub user_data_already_available: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saa {
    pub outcome: Outcome,
    pub user_name: Option<String>,
    /// User-Data: XML, see [`crate::cx::user_data`].
    pub user_data: Option<Bytes>,
    pub charging_information: Option<ChargingInformation>,
    /// Associated-Identities: User-Names.
    pub associated_identities: Vec<String>,
    pub server_name: Option<String>,
}
