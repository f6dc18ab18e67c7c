//! The settings of the HSS: this file is their reference.
//!
//! ```toml
//! database = "/var/lib/tessera/hss.db"     # SQLite; made at the first start
//! key_file = "/etc/tessera/hss.key"        # made with `hss key create FILE`
//! visited_networks = ["*.3gppnetwork.org"] # absent: roaming is allowed everywhere
//!
//! [diameter]
//! identity = "hss.ims.example.org"
//! realm = "ims.example.org"
//! listen = "192.0.2.10:3868"
//! ```

use std::path::PathBuf;

use common::cx::{ChargingInformation, ServerCapabilities};
use common::diameter::endpoint;
use common::limits::Limits;
use common::secret::Secret;
use serde::Deserialize;

use crate::slf::Slf;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[diameter]`: who we are, where we listen, who may connect.
    pub diameter: endpoint::Config,
    /// The SQLite file. Its directory must be writable (write-ahead log). An SLF has none.
    #[serde(default)]
    pub database: PathBuf,
    /// 32 octets, raw, hexadecimal or base64, under which the keys of subscribers are sealed.
    /// Refused when its group or the world may read it. An SLF has none.
    #[serde(default)]
    pub key_file: PathBuf,
    /// Visited networks in which registration is allowed beside our own realm, compared without
    /// case; `*.example.org` stands for every name below. Absent: all. A subscription may have a
    /// list of its own.
    #[serde(default)]
    pub visited_networks: Option<Vec<String>>,
    /// Capabilities an S-CSCF needs for subscriptions without capabilities of their own.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// Charging addresses for subscriptions without addresses of their own.
    #[serde(default)]
    pub charging: Charging,
    /// Most authentication vectors given in one MAA, 1 to 16. One is what an S-CSCF needs; more are
    /// spent when it stops.
    #[serde(default = "default_vectors")]
    pub vectors_per_request: u32,
    /// Another S-CSCF may take over when an I-CSCF asks for capabilities of a registered user
    /// (TS 23.380 §4): yes by default.
    #[serde(default = "default_true")]
    pub restoration: bool,
    /// Identities in logs as they are; otherwise they are plain only at level debug.
    #[serde(default)]
    pub log_identities: bool,
    /// How long RTR and PPR wait for their answers.
    #[serde(default = "default_push_timeout")]
    pub push_timeout_milliseconds: u64,
    /// `[slf]`: this program is no HSS but an SLF, which redirects to HSSs.
    #[serde(default)]
    pub slf: Option<Slf>,
    /// `[http]`: metrics, health, administration.
    #[cfg(feature = "daemon")]
    #[serde(default)]
    pub http: common::net::HttpConfig,
    /// `[log]`.
    #[cfg(feature = "daemon")]
    #[serde(default)]
    pub log: common::net::LogConfig,
    /// `[limits]`.
    #[serde(default)]
    pub limits: Limits,
    /// What `key_file` holds; the program reads it.
    #[serde(skip)]
    pub key: Option<Secret<[u8; 32]>>,
}

/// `[capabilities]`: Server-Capabilities (TS 29.228 §6.7). All empty: any S-CSCF will do.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    pub mandatory: Vec<u32>,
    pub optional: Vec<u32>,
    /// SIP URIs of S-CSCFs to be preferred over any choice by capabilities.
    pub server_names: Vec<String>,
}

/// `[charging]`: Charging-Information, DiameterURIs such as `aaa://ccf.ims.example.org`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Charging {
    pub primary_event_charging: Option<String>,
    pub secondary_event_charging: Option<String>,
    pub primary_charging_collection: Option<String>,
    pub secondary_charging_collection: Option<String>,
}

impl Config {
    /// Everything at its default, without files: for an HSS inside another program.
    pub fn new(diameter: endpoint::Config, key: Secret<[u8; 32]>) -> Config {
        Config {
            diameter,
            database: PathBuf::from(":memory:"),
            key_file: PathBuf::new(),
            visited_networks: None,
            capabilities: Capabilities::default(),
            charging: Charging::default(),
            vectors_per_request: default_vectors(),
            restoration: true,
            log_identities: false,
            push_timeout_milliseconds: default_push_timeout(),
            slf: None,
            #[cfg(feature = "daemon")]
            http: common::net::HttpConfig::default(),
            #[cfg(feature = "daemon")]
            log: common::net::LogConfig::default(),
            limits: Limits::default(),
            key: Some(key),
        }
    }

    /// What is wrong with the values, one sentence each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !(1..=16).contains(&self.vectors_per_request) {
            faults.push(format!(
                "vectors_per_request is {}: must be 1 to 16",
                self.vectors_per_request
            ));
        }
        if self.diameter.identity.is_empty() || self.diameter.realm.is_empty() {
            faults.push("diameter.identity and diameter.realm must not be empty".to_owned());
        }
        if self.push_timeout_milliseconds == 0 {
            faults.push("push_timeout_milliseconds is 0: must be positive".to_owned());
        }
        for (name, path) in [("database", &self.database), ("key_file", &self.key_file)] {
            if self.slf.is_none() && self.key.is_none() && path.as_os_str().is_empty() {
                faults.push(format!("{name} is missing: only an SLF needs none"));
            }
        }
        faults.extend(self.slf.iter().flat_map(Slf::faults));
        faults
    }
}

impl From<&Capabilities> for ServerCapabilities {
    fn from(capabilities: &Capabilities) -> ServerCapabilities {
        ServerCapabilities {
            mandatory: capabilities.mandatory.clone(),
            optional: capabilities.optional.clone(),
            server_names: capabilities.server_names.clone(),
        }
    }
}

impl From<&Charging> for ChargingInformation {
    fn from(charging: &Charging) -> ChargingInformation {
        ChargingInformation {
            primary_event_charging: charging.primary_event_charging.clone(),
            secondary_event_charging: charging.secondary_event_charging.clone(),
            primary_charging_collection: charging.primary_charging_collection.clone(),
            secondary_charging_collection: charging.secondary_charging_collection.clone(),
        }
    }
}

fn default_vectors() -> u32 {
    1
}

fn default_true() -> bool {
    true
}

fn default_push_timeout() -> u64 {
    5_000
}
