//! The service profile and its XML (TS 29.228 Annexes B, E; cx-diameter section 5).

use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UserData {
    pub private_identity: String,
    pub service_profiles: Vec<ServiceProfile>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceProfile {
    pub public_identities: Vec<PublicIdentity>,
    pub subscribed_media_profile_id: Option<u32>,
    pub initial_filter_criteria: Vec<InitialFilterCriterion>,
    pub shared_ifc_set_ids: Vec<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PublicIdentity {
    pub identity: String,
    pub is_barred: bool,
    /// IdentityType: 0 distinct PUI, 1 distinct PSI, 2 wildcarded PSI, 3 non-distinct PUI, 4 wildcarded PUI.
    pub identity_type: u8,
    pub display_name: Option<String>,
    pub alias_identity_group_id: Option<String>,
    pub wildcarded_identity: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InitialFilterCriterion {
    pub priority: u32,
    /// Absent: always.
    pub trigger_point: Option<TriggerPoint>,
    pub server_name: String,
    /// DefaultHandling: true for SESSION_TERMINATED.
    pub default_handling_terminated: bool,
    pub service_info: Option<String>,
    /// ProfilePartIndicator: `Some(true)` REGISTERED only, `Some(false)` UNREGISTERED only.
    pub registered_part: Option<bool>,
    pub include_register_request: bool,
    pub include_register_response: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TriggerPoint {
    /// ConditionTypeCNF: true AND of OR groups, false OR of AND groups.
    pub is_cnf: bool,
    pub service_point_triggers: Vec<ServicePointTrigger>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServicePointTrigger {
    pub is_negated: bool,
    pub groups: Vec<u32>,
    pub condition: Condition,
    /// RegistrationType values, only with Method REGISTER; empty: all.
    pub registration_types: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Condition {
    RequestUri(String),
    Method(String),
    SipHeader { header: String, content: Option<String> },
    /// 0 ORIGINATING_REGISTERED, 1 TERMINATING_REGISTERED, 2 TERMINATING_UNREGISTERED, 3 ORIGINATING_UNREGISTERED, 4 ORIGINATING_CDIV.
    SessionCase(u8),
    SessionDescription { line: String, content: Option<String> },
}

/// Why a document is not a service profile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Malformed(pub String);

impl UserData {
    pub fn parse(xml: &[u8]) -> Result<UserData, Malformed> { let _ = xml; todo!() }
    /// Elements in the schema's order.
    pub fn to_xml(&self) -> String { todo!() }
    /// All public identities over all profiles, in order.
    pub fn public_identities(&self) -> impl Iterator<Item = &PublicIdentity> { self.service_profiles.iter().flat_map(|profile| profile.public_identities.iter()) }
}
