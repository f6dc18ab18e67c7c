//! What rows of the database say, in the terms of TS 29.228 §6.

/// Who may authenticate.
#[derive(Clone, Debug)]
pub struct PrivateIdentity {
    pub id: i64,
    pub subscription: i64,
}

/// What a vector is made of.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub private_identity: PrivateIdentity,
    /// `aka`, `digest` or `early-ims`.
    pub scheme: String,
    pub sealed_digest: Option<Vec<u8>>,
    pub framed_address: Option<String>,
    pub sealed_keys: Option<Vec<u8>>,
    pub amf: [u8; 2],
    /// Of the last vector made.
    pub sqn: u64,
}

/// State of a public identity (TS 29.228 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    NotRegistered,
    Registered,
    /// Not registered, but an S-CSCF keeps the profile.
    Unregistered,
}

/// IdentityType of User-Data (TS 29.228 Annex E).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdentityType {
    PublicIdentity,
    Service,
    WildcardedService,
    WildcardedPublicIdentity,
}

#[derive(Clone, Debug)]
pub struct PublicIdentity {
    /// As provisioned: for a wildcard the wildcard.
    pub identity: String,
    pub implicit_set: i64,
    pub subscription: i64,
    pub is_barred: bool,
    pub identity_type: IdentityType,
    pub is_active: bool,
    pub application_server: Option<String>,
    pub state: State,
    pub has_unregistered_services: bool,
}

impl PublicIdentity {
    pub fn is_service(&self) -> bool {
        matches!(self.identity_type, IdentityType::Service | IdentityType::WildcardedService)
    }

    pub fn is_wildcard(&self) -> bool {
        use IdentityType::{WildcardedPublicIdentity, WildcardedService};
        matches!(self.identity_type, WildcardedService | WildcardedPublicIdentity)
    }
}

/// An S-CSCF: its SIP URI and the Diameter host and realm it asked from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    pub name: String,
    pub host: String,
    pub realm: String,
}

impl Server {
    /// Server-Names are SIP URIs with a host name only; that is compared without case.
    pub fn is_named(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

#[derive(Clone, Debug)]
pub struct Subscription {
    pub id: i64,
    pub is_suspended: bool,
    pub is_reassignment_pending: bool,
    /// The S-CSCF assigned, by a MAR or a SAR.
    pub server: Option<Server>,
    /// The S-CSCF that a MAR of another one displaced.
    pub previous: Option<Server>,
    /// JSON lists; `None`: as configured.
    pub visited_networks: Option<String>,
    pub mandatory_capabilities: Option<String>,
    pub optional_capabilities: Option<String>,
    pub server_names: Option<String>,
    pub charging: Option<i64>,
}

impl Subscription {
    /// Who has the registrations: a MAR of another S-CSCF takes the name, but them only its SAR does.
    pub fn serving(&self) -> Option<&Server> {
        self.previous.as_ref().or(self.server.as_ref())
    }
}

/// What an S-CSCF lacks of a set: the versions it has once it has taken them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct News {
    pub profile: Option<i64>,
    pub charging: Option<i64>,
}

impl News {
    pub fn is_none(self) -> bool {
        self == News::default()
    }
}

/// A private identity with one of its sets.
#[derive(Clone, Debug)]
pub struct Pair {
    pub implicit_set: i64,
    pub private_identity: i64,
    pub user_name: String,
}

/// What an S-CSCF left of a registration (TS 23.380 §4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restoration {
    pub user_name: String,
    /// Registration-Time-Out, in seconds since the Unix epoch.
    pub registration_time_out: Option<u64>,
    pub scheme: Option<String>,
    /// JSON.
    pub contacts: String,
}

/// One registration as the HSS sees it; for checks over the whole network.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Assignment {
    pub private_identity: String,
    pub public_identity: String,
    pub is_registered: bool,
    pub is_authentication_pending: bool,
    pub is_unregistered: bool,
    pub server_name: Option<String>,
}
