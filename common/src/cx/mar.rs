//! Multimedia-Auth-Request and -Answer (TS 29.229 §6.1.7, §6.1.8).

use bytes::Bytes;

use crate::cx::Outcome;
use crate::secret::Secret;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mar {
    pub user_name: String,
    pub public_identity: String,
    pub server_name: String,
    pub sip_number_auth_items: u32,
    /// SIP-Authentication-Scheme of the SIP-Auth-Data-Item, e.g. `Digest-AKAv1-MD5`.
    pub scheme: String,
    /// SIP-Authorization: RAND (16) ‖ AUTS (14) on resynchronisation.
    pub sip_authorization: Option<Bytes>,
}

/// One authentication vector (TS 29.229 §6.3.13).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthDataItem {
    pub sip_item_number: Option<u32>,
    pub scheme: String,
    /// SIP-Authenticate: RAND ‖ AUTN, 32 octets.
    pub sip_authenticate: Bytes,
    /// SIP-Authorization: XRES.
    pub sip_authorization: Secret<Vec<u8>>,
    pub confidentiality_key: Option<Secret<[u8; 16]>>,
    pub integrity_key: Option<Secret<[u8; 16]>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Maa {
    pub outcome: Outcome,
    pub user_name: Option<String>,
    pub public_identity: Option<String>,
    /// Lowest SIP-Item-Number first.
    pub items: Vec<AuthDataItem>,
}
