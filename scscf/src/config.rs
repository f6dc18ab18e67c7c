//! Settings of the S-CSCF: the reference manual of `scscf.toml`.
//!
//! Every key may also come from the environment: `SCSCF__SIP__NAME=scscf1.hims.net`. An unknown
//! key is an error. A whole file:
//!
//! ```toml
//! home_domain = "hims.net"
//! state = "/var/lib/tessera/scscf.db"
//!
//! [sip]
//! name = "scscf1.hims.net"
//! [sip.listen]
//! udp = ["192.0.2.30:5060"]
//! tcp = ["192.0.2.30:5060"]
//!
//! [diameter]
//! identity = "scscf1.hims.net"
//! realm = "hims.net"
//! peers = [{ host = "192.0.2.40" }]
//!
//! [registration]
//! expires_max_seconds = 7200
//! reauthenticate = "every 5"
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use common::aka::digest::DigestAlgorithm;
use common::diameter;
use common::limits::Limits;
#[cfg(feature = "daemon")]
use common::net::{DnsConfig, HttpConfig, LogConfig};
use common::node::Transport;
use common::sip::uri::{HostPort, Scheme, Uri};
use serde::Deserialize;

use crate::filter_criteria::SharedSets;
use crate::gruu::read_uuid;
use crate::watch::Cause;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The domain whose subscribers are registered here.
    pub home_domain: String,
    /// SQLite file that keeps the registrations; absent: a restart forgets them.
    #[serde(default)]
    pub state: Option<PathBuf>,
    /// `[sip]`
    pub sip: Sip,
    /// `[diameter]`: the HSS is reached through one of `peers`.
    pub diameter: diameter::endpoint::Config,
    /// `[registration]`
    #[serde(default)]
    pub registration: Registration,
    /// `[reg_event]`
    #[serde(default)]
    pub reg_event: RegEvent,
    /// `[[shared_filter_criteria]]`
    #[serde(default)]
    pub shared_filter_criteria: Vec<SharedFilterCriteria>,
    /// `[timeouts]`
    #[serde(default)]
    pub timeouts: Timeouts,
    /// `[limits]`
    #[serde(default)]
    pub limits: Limits,
    /// Whether log lines at `info` name identities in clear. Otherwise a short hash stands for
    /// each: equal for equal identities.
    #[serde(default)]
    pub log_identities: bool,
    /// `[dns]`
    #[cfg(feature = "daemon")]
    #[serde(default)]
    pub dns: DnsConfig,
    /// `[http]`
    #[cfg(feature = "daemon")]
    #[serde(default)]
    pub http: HttpConfig,
    /// `[log]`
    #[cfg(feature = "daemon")]
    #[serde(default)]
    pub log: LogConfig,
}

/// `[sip]`: where SIP is spoken, and under which name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sip {
    /// Host name (or address) of this S-CSCF.
    pub name: String,
    /// Its SIP URI: Server-Name on Cx, the Request-URI of REGISTERs, and with `orig@` in front of
    /// the host the Service-Route. Absent: `sip:` and `name`. Give it with a port where the name
    /// has no SRV records and the port is not 5060.
    #[serde(default)]
    pub server_name: Option<String>,
    /// `[sip.listen]`
    pub listen: Listen,
}

/// `[sip.listen]`: addresses with ports.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    pub udp: Vec<SocketAddr>,
    pub tcp: Vec<SocketAddr>,
}

impl Listen {
    pub fn of(&self, transport: Transport) -> &[SocketAddr] {
        match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp => &self.tcp,
        }
    }
}

/// `[registration]`: the operator's policy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registration {
    /// A shorter interval (not 0) is answered 423 with this as Min-Expires.
    pub expires_min_seconds: u32,
    /// A longer interval is shortened to this in the 200.
    pub expires_max_seconds: u32,
    /// What a UE gets that asks for nothing.
    pub expires_default_seconds: u32,
    /// The longest interval of an emergency registration, which nobody ends but time; also what one
    /// gets that asks for nothing.
    pub emergency_expires_seconds: u32,
    /// Whether a protected REGISTER of a registered user is challenged: `"never"`, `"always"`, or
    /// `"every N"`: after N accepted without.
    pub reauthenticate: Reauthenticate,
    /// `required`: a challenge is answered inside security associations, as the P-CSCF says with
    /// `integrity-protected="yes"` (TS 33.203). `optional`: an answer outside of them counts too;
    /// for laboratories, and P-CSCFs that never write the parameter.
    pub protection: Protection,
    /// realm of the challenges; absent: `home_domain`.
    pub realm: Option<String>,
    /// qop of the challenges; empty: none is offered.
    pub qop: String,
    /// What AKA challenges offer, the preferred one first: `AKAv1-MD5`, `AKAv2-MD5`, `AKAv2-SHA-256`
    /// (RFC 3310, RFC 4169, RFC 8760).
    pub algorithms: Vec<DigestAlgorithm>,
    /// SIP Digest for users whom the HSS has with a password (TS 33.203 Annex N). Their REGISTERs come
    /// without IPsec, so the P-CSCF must allow that, too.
    pub digest: bool,
    /// What SIP Digest challenges offer, as far as the HSS has it: `SHA-256`, `MD5`.
    pub digest_algorithms: Vec<DigestAlgorithm>,
    /// For how long a nonce of SIP Digest may be used again with a higher nc; 0: never.
    pub digest_nonce_seconds: u32,
    /// Early IMS security (TS 33.203 Annex T): whoever comes from the address that the packet core told
    /// the HSS is not challenged. Only where nobody can send from another's address.
    pub early_ims: bool,
    /// reg-await-auth: how long a challenge waits for its answer. TS 24.229 §7.8 has 240; a laboratory may
    /// want less.
    pub reg_await_auth_seconds: u32,
    /// Challenges sent in a row, resynchronisation included, before an attempt is refused.
    pub challenges_max: u32,
    /// Wrong responses before an attempt is refused; each earlier one gets a new challenge.
    pub wrong_responses_max: u32,
    /// Leaves with the HSS what another S-CSCF needs to take over, and takes over itself
    /// (TS 23.380).
    pub restoration: bool,
    /// GRUUs for UEs that take them (TS 24.229 §5.4.7A, RFC 5627).
    pub gruu: bool,
    /// A UUID that is secret and the same at all S-CSCFs of the domain: in public GRUUs an IMEI is hidden
    /// by it. Absent: made from the home domain, so whoever has a GRUU can try all IMEIs.
    pub gruu_namespace: Option<String>,
    /// Flows (RFC 5626) of one private identity in one implicit set.
    pub flows_max: usize,
    /// What phones hear when an application server fails whose criterion says SESSION_TERMINATED: not to
    /// come again (`"rejected"`), to come at once (`"deactivated"`), or after N seconds (`"probation N"`).
    pub server_failure: ServerFailure,
}

impl Default for Registration {
    fn default() -> Self {
        Registration {
            expires_min_seconds: 60,
            expires_max_seconds: 600_000,
            expires_default_seconds: 3_600,
            emergency_expires_seconds: 1_800,
            reauthenticate: Reauthenticate::Never,
            protection: Protection::Required,
            realm: None,
            qop: "auth".to_owned(),
            algorithms: vec![DigestAlgorithm::AkaV1Md5],
            digest: false,
            digest_algorithms: vec![DigestAlgorithm::Sha256, DigestAlgorithm::Md5],
            digest_nonce_seconds: 3_600,
            early_ims: false,
            reg_await_auth_seconds: 240,
            challenges_max: 2,
            wrong_responses_max: 1,
            restoration: true,
            gruu: true,
            gruu_namespace: None,
            flows_max: 4,
            server_failure: ServerFailure(Cause::Rejected),
        }
    }
}

/// When a registered user is challenged again (TS 24.229 §5.4.1.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum Reauthenticate {
    Never,
    Always,
    /// After that many REGISTERs without a challenge.
    Every(u32),
}

impl TryFrom<String> for Reauthenticate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "never" => Ok(Reauthenticate::Never),
            "always" => Ok(Reauthenticate::Always),
            other => {
                let number = other.strip_prefix("every ").and_then(|n| n.trim().parse().ok());
                number.map(Reauthenticate::Every).ok_or_else(|| {
                    format!("\"{other}\" is not \"never\", \"always\" or \"every N\"")
                })
            }
        }
    }
}

/// Event of a deregistration for an application server (TS 24.229 §5.4.1.5, RFC 3680 §5.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct ServerFailure(Cause);

impl ServerFailure {
    pub(crate) fn cause(self) -> Cause {
        self.0
    }
}

impl TryFrom<String> for ServerFailure {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let cause = Cause::named(&words).filter(|_| !words.is_empty());
        cause.map(ServerFailure).ok_or_else(|| {
            format!("\"{text}\" is not \"rejected\", \"deactivated\" or \"probation N\"")
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    Required,
    Optional,
}

/// `[reg_event]`: subscriptions to the registration state (TS 24.229 §5.4.2.1, RFC 3680).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegEvent {
    /// A shorter interval (not 0) is answered 423 with this as Min-Expires; at most 3600.
    pub expires_min_seconds: u32,
    /// A longer interval is shortened to this in the 200.
    pub expires_max_seconds: u32,
    /// What a watcher gets that asks for nothing (RFC 3680 §4.4).
    pub expires_default_seconds: u32,
    /// Subscriptions to one public identity.
    pub per_identity_max: usize,
    /// All subscriptions.
    pub subscriptions_max: usize,
    /// What documents behind the first say: `full`, or `partial` for what has changed.
    pub documents: Documents,
}

impl Default for RegEvent {
    fn default() -> Self {
        RegEvent {
            expires_min_seconds: 60,
            expires_max_seconds: 600_000,
            expires_default_seconds: 3_761,
            per_identity_max: 16,
            subscriptions_max: 3_000_000,
            documents: Documents::Full,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Documents {
    Full,
    Partial,
}

/// `[[shared_filter_criteria]]`: criteria that service profiles name by number (TS 29.228 §6.6).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedFilterCriteria {
    /// SharedIFCSetID.
    pub id: u32,
    /// One or more InitialFilterCriteria elements, as in a service profile.
    pub xml: String,
}

/// `[timeouts]`. A REGISTER takes at most `queue_milliseconds` and `hss_milliseconds` together,
/// which must be less than an I-CSCF waits for one S-CSCF.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// One question to the HSS, failover to another peer included.
    pub hss_milliseconds: u64,
    /// A REGISTER that had to wait longer behind others of its user is refused.
    pub queue_milliseconds: u64,
    /// One NOTIFY or third-party REGISTER, all addresses of its target included.
    pub watcher_milliseconds: u64,
    /// A deregistration that the HSS did not answer is told it again after this long.
    pub retry_milliseconds: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            hss_milliseconds: 4_000,
            queue_milliseconds: 4_000,
            watcher_milliseconds: 32_000,
            retry_milliseconds: 60_000,
        }
    }
}

impl Timeouts {
    pub fn hss(&self) -> Duration {
        Duration::from_millis(self.hss_milliseconds)
    }

    pub fn queue(&self) -> Duration {
        Duration::from_millis(self.queue_milliseconds)
    }

    pub fn watcher(&self) -> Duration {
        Duration::from_millis(self.watcher_milliseconds)
    }

    pub fn retry(&self) -> Duration {
        Duration::from_millis(self.retry_milliseconds)
    }
}

impl Config {
    /// A configuration with every optional setting at its default.
    pub fn new(home_domain: &str, sip: Sip, diameter: diameter::endpoint::Config) -> Config {
        Config {
            home_domain: home_domain.to_owned(),
            state: None,
            sip,
            diameter,
            registration: Registration::default(),
            reg_event: RegEvent::default(),
            shared_filter_criteria: Vec::new(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            log_identities: false,
            #[cfg(feature = "daemon")]
            dns: DnsConfig::default(),
            #[cfg(feature = "daemon")]
            http: HttpConfig::default(),
            #[cfg(feature = "daemon")]
            log: LogConfig::default(),
        }
    }

    /// The SIP URI of this S-CSCF.
    pub fn server_name(&self) -> String {
        self.sip.server_name.clone().unwrap_or_else(|| format!("sip:{}", self.sip.name))
    }

    pub fn realm(&self) -> &str {
        self.registration.realm.as_deref().unwrap_or(&self.home_domain)
    }

    /// What is wrong with it, one sentence each; empty when nothing is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut say = |problem: String| problems.push(problem);
        if self.home_domain.is_empty() {
            say("home_domain is empty".to_owned());
        }
        if HostPort::parse(&self.sip.name).is_err() {
            say(format!("sip.name \"{}\" is neither a host name nor an address", self.sip.name));
        }
        let server_name = self.server_name();
        let is_sip = Uri::parse(&server_name)
            .is_ok_and(|uri| matches!(uri.scheme, Scheme::Sip | Scheme::Sips));
        if !is_sip {
            say(format!("sip.server_name \"{server_name}\" is not a SIP URI"));
        }
        if self.sip.listen.udp.is_empty() && self.sip.listen.tcp.is_empty() {
            say("sip.listen names no address".to_owned());
        }
        if self.diameter.peers.is_empty() {
            say("diameter.peers is empty: no HSS can be asked".to_owned());
        }
        let policy = &self.registration;
        if policy.expires_min_seconds > policy.expires_max_seconds {
            say("registration.expires_min_seconds is above expires_max_seconds".to_owned());
        }
        let between = policy.expires_min_seconds..=policy.expires_max_seconds;
        if !between.contains(&policy.expires_default_seconds) {
            say("registration.expires_default_seconds is not between minimum and maximum"
                .to_owned());
        }
        if let Err(problem) = SharedSets::read(&self.shared_filter_criteria) {
            say(problem);
        }
        if self.reg_event.expires_min_seconds > self.reg_event.expires_max_seconds {
            say("reg_event.expires_min_seconds is above expires_max_seconds".to_owned());
        }
        if policy.emergency_expires_seconds == 0 {
            say("registration.emergency_expires_seconds is 0".to_owned());
        }
        if policy.algorithms.is_empty() || policy.algorithms.iter().any(|one| !one.is_aka()) {
            say("registration.algorithms names one or more of AKAv1-MD5, AKAv2-MD5, AKAv2-SHA-256"
                .to_owned());
        }
        if policy.digest_algorithms.is_empty()
            || policy.digest_algorithms.iter().any(|one| one.is_aka())
        {
            say("registration.digest_algorithms names SHA-256, MD5, or both".to_owned());
        }
        if !(1..=3_600).contains(&policy.reg_await_auth_seconds) {
            say("registration: reg_await_auth_seconds is 1 to 3600".to_owned());
        }
        if policy.challenges_max == 0 || policy.wrong_responses_max == 0 {
            say("registration: challenges_max and wrong_responses_max are at least 1".to_owned());
        }
        if policy.gruu_namespace.as_deref().is_some_and(|text| read_uuid(text).is_none()) {
            say("registration.gruu_namespace is no UUID".to_owned());
        }
        if !["", "auth", "auth-int", "auth,auth-int"].contains(&policy.qop.as_str()) {
            say(format!("registration.qop \"{}\" is not auth, auth-int or empty", policy.qop));
        }
        problems
    }
}
