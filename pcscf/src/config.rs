//! The P-CSCF's settings. This file is their reference manual; `deploy/pcscf.toml` shows them in use.
//!
//! Environment variables override the file: `PCSCF__IPSEC__POLICY=preferred`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use common::ipsec::agree::AlgorithmPair;
use common::ipsec::sa::{Encryption, Integrity};
use common::limits::Limits;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Each of our client ports has four sockets of its own: UDP and TCP, IPv4 and IPv6.
const MOST_CLIENT_PORTS: usize = 256;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Host name of this P-CSCF, as it stands in Via and Path; the home network's S-CSCFs must be
    /// able to resolve it. Example: `pcscf1.visited.example`.
    pub name: String,
    /// P-Visited-Network-ID, agreed with the home networks. Example: `visited.example`.
    pub visited_network: String,
    /// orig-ioi in P-Charging-Vector. Default: `Type 1` followed by `visited_network`.
    #[serde(default)]
    pub orig_ioi: Option<String>,
    /// Logs identities in full; otherwise as a short hash.
    #[serde(default)]
    pub log_identities: bool,
    /// SQLite file with what must survive a restart. Absent: nothing does.
    #[serde(default)]
    pub store: Option<PathBuf>,
    pub gm: Gm,
    pub mw: Mw,
    #[serde(default)]
    pub reg_event: RegEvent,
    #[serde(default)]
    pub ipsec: Ipsec,
    #[cfg(feature = "daemon")]
    #[serde(default)]
    pub dns: common::net::DnsConfig,
    #[cfg(feature = "daemon")]
    #[serde(default)]
    pub http: common::net::HttpConfig,
    #[cfg(feature = "daemon")]
    #[serde(default)]
    pub log: common::net::LogConfig,
    #[serde(default)]
    pub limits: Limits,
}

/// `[gm]`: towards the phones.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gm {
    /// Addresses the phones know, at most one of each family. No wildcards: security associations
    /// need the address itself.
    pub addresses: Vec<IpAddr>,
    /// Unprotected port.
    #[serde(default = "default_gm_port")]
    pub port: u16,
    /// T1 towards phones (TS 24.229 table 7.7.1); a set that was replaced lives 64 of it. A laboratory
    /// may want less than the 2000 that phones expect.
    #[serde(default = "default_gm_t1_milliseconds")]
    pub t1_milliseconds: u64,
    /// Protected server port (port-s), the same for all phones.
    #[serde(default = "default_protected_server_port")]
    pub protected_server_port: u16,
    /// Protected client ports (port-c): each set of associations takes one that its phone does not
    /// use yet, so four of them serve any number of phones. A list, a range, or a list with ranges:
    /// `[5100, 5102]`, `"5100-5107"`, `[5100, "5110-5113"]`.
    #[serde(default = "default_protected_client_ports", deserialize_with = "ports")]
    pub protected_client_ports: Vec<u16>,
    /// How often a phone in clear behind a NAT is told to keep its way open, when its Via asks for that with
    /// `keep` (RFC 6223); 0: never.
    #[serde(default = "default_keep_alive_seconds")]
    pub keep_alive_seconds: u32,
    /// What becomes of a request whose Route is not the Service-Route of its registration:
    /// `replace` puts that in its place, `reject` answers 400.
    #[serde(default)]
    pub route_mismatch: RouteMismatch,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum RouteMismatch {
    #[default]
    Replace,
    Reject,
}

/// `[reg_event]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegEvent {
    /// Subscribes to the state of every registration (TS 24.229 §5.2.3), so that what the home
    /// network ends, ends here.
    pub subscribe: bool,
}

impl Default for RegEvent {
    fn default() -> Self {
        RegEvent { subscribe: true }
    }
}

/// `[mw]`: towards the home networks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mw {
    /// Addresses and ports, UDP and TCP each, at most one of each family.
    pub listen: Vec<SocketAddr>,
    /// Where every REGISTER goes (an IBCF, or an I-CSCF by address). Absent: found in the DNS by
    /// the domain of the Request-URI (RFC 3263).
    #[serde(default)]
    pub entry_point: Option<String>,
    /// How long one entry point may take to answer a REGISTER before the next one is tried.
    #[serde(default = "default_attempt_seconds")]
    pub attempt_seconds: u64,
    /// How long all attempts for one REGISTER may take together; less than the 128 s of the phone.
    #[serde(default = "default_register_seconds")]
    pub register_seconds: u64,
}

/// Whether a phone must speak IPsec.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// A REGISTER without a usable offer gets 421 or 494.
    #[default]
    Required,
    /// Phones that do not ask for it register in clear.
    Preferred,
    /// Offers are taken off and not used.
    Off,
}

/// What Security-Server says beside a challenge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum SecurityAnswer {
    /// All our algorithms with falling q, as RFC 3329 wants; the UE takes the first it knows.
    #[default]
    List,
    /// The one that was chosen, for phones that pick by an order of their own.
    Chosen,
}

/// Whose order decides between algorithms that both sides know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Prefer {
    /// The order of `algorithms`; of equal offers the one with the phone's higher q.
    #[default]
    Operator,
    /// The phone's q, the order of `algorithms` among equal ones.
    Phone,
}

/// SPIs of ours, both ends included. Default: ten digits each, so that peers which read the grammar
/// literally are content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpiRange {
    pub first: u32,
    pub last: u32,
}

/// `[ipsec]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ipsec {
    pub policy: Policy,
    /// What carries ESP: `auto`, `xfrm` or `userspace`.
    #[cfg(feature = "daemon")]
    pub plane: common::net::PlaneChoice,
    /// File in which the user-space plane keeps its sets over a restart or a crash, with their keys: mode
    /// 0600, of use to this boot of the host only. Put it on a tmpfs such as /run, so that no disk ever
    /// sees a key. Default: beside `store`, with the extension `sas`. XFRM needs none.
    #[cfg(feature = "daemon")]
    pub state: Option<PathBuf>,
    /// Phones behind a NAT that offer `mod=UDP-enc-tun` get it: ESP inside UDP, to port 4500 of the IPv4
    /// address in `gm.addresses` (TS 33.203 Annex M). What such a phone is sent goes to its private
    /// address until IPsec takes hold of it, so the host needs a route there; a default route will do.
    pub nat: bool,
    /// Algorithm pairs in order of preference.
    pub algorithms: Vec<AlgorithmPair>,
    pub answer: SecurityAnswer,
    pub prefer: Prefer,
    pub spi_range: SpiRange,
    /// reg-await-auth: life of a temporary set, whose challenge nobody has answered. TS 24.229 §7.8 has 240,
    /// and phones keep theirs as long; a laboratory may want less.
    pub reg_await_auth_seconds: u32,
    /// Challenges of one private identity that may be open at a time, each with a temporary set: at
    /// one address there is only one, so this is for a flood from several. The oldest makes room.
    pub challenges_per_identity: usize,
    /// Challenges open at a time for one address, whoever they are for; beyond it REGISTERs in clear
    /// get 503. More where many phones share an address behind a NAT.
    pub challenges_per_address: usize,
    /// Retry-After of the 503 that a phone gets when no port or SPI is left for it.
    pub retry_after_seconds: u32,
    /// How often the data plane is compared with the sets that the P-CSCF knows, and mended; 0: at the
    /// start only.
    pub audit_seconds: u64,
}

impl Default for Ipsec {
    fn default() -> Self {
        Ipsec {
            policy: Policy::default(),
            #[cfg(feature = "daemon")]
            plane: common::net::PlaneChoice::default(),
            #[cfg(feature = "daemon")]
            state: None,
            nat: false,
            algorithms: vec![
                AlgorithmPair { alg: Integrity::Null, ealg: Encryption::AesGcm },
                AlgorithmPair { alg: Integrity::HmacSha1_96, ealg: Encryption::AesCbc },
                AlgorithmPair { alg: Integrity::AesGmac, ealg: Encryption::Null },
                AlgorithmPair { alg: Integrity::HmacSha1_96, ealg: Encryption::Null },
                AlgorithmPair { alg: Integrity::HmacSha1_96, ealg: Encryption::DesEde3Cbc },
                AlgorithmPair { alg: Integrity::HmacMd5_96, ealg: Encryption::AesCbc },
                AlgorithmPair { alg: Integrity::HmacMd5_96, ealg: Encryption::Null },
                AlgorithmPair { alg: Integrity::HmacMd5_96, ealg: Encryption::DesEde3Cbc },
            ],
            answer: SecurityAnswer::default(),
            prefer: Prefer::default(),
            spi_range: SpiRange { first: 1_000_000_000, last: u32::MAX },
            reg_await_auth_seconds: 240,
            challenges_per_identity: 4,
            challenges_per_address: 64,
            retry_after_seconds: 30,
            audit_seconds: 60,
        }
    }
}

fn default_gm_t1_milliseconds() -> u64 {
    2_000
}

/// RFC 5626 §4.4.2: for UDP, between 24 and 29 seconds.
fn default_keep_alive_seconds() -> u32 {
    29
}

fn default_gm_port() -> u16 {
    5060
}

fn default_protected_server_port() -> u16 {
    5064
}

fn default_protected_client_ports() -> Vec<u16> {
    (5100..5108).collect()
}

/// A list of numbers and ranges, or one of them alone.
fn ports<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Piece {
        Port(u16),
        Range(String),
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ports {
        One(Piece),
        Many(Vec<Piece>),
    }
    let pieces = match Ports::deserialize(deserializer)? {
        Ports::One(piece) => vec![piece],
        Ports::Many(pieces) => pieces,
    };
    let mut ports = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Port(port) => ports.push(port),
            Piece::Range(text) => {
                let range = port_range(&text).ok_or_else(|| {
                    D::Error::custom(format!("{text:?} is no range of ports such as \"5100-5107\""))
                })?;
                ports.extend(range);
            }
        }
    }
    Ok(ports)
}

fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some(first..=last)
}

fn default_attempt_seconds() -> u64 {
    32
}

fn default_register_seconds() -> u64 {
    100
}

impl Gm {
    pub fn t1(&self) -> Duration {
        Duration::from_millis(self.t1_milliseconds)
    }

    /// 64 × T1: what an old set has left once the new one is in use (TS 24.229 §5.2.2.1).
    pub fn old_set_life(&self) -> Duration {
        self.t1() * 64
    }
}

impl Config {
    /// What contradicts itself; empty when nothing does.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut say = |problem: String| problems.push(problem);
        if self.gm.addresses.is_empty() {
            say("gm.addresses: at least one address is needed".into());
        }
        for address in &self.gm.addresses {
            if address.is_unspecified() {
                say(format!("gm.addresses: {address} is a wildcard; associations need an address"));
            }
        }
        for family in [true, false] {
            if self.gm.addresses.iter().filter(|address| address.is_ipv4() == family).count() > 1 {
                say("gm.addresses: more than one address of a family".into());
            }
        }
        if self.mw.listen.is_empty() {
            say("mw.listen: at least one address is needed".into());
        }
        for port in self.gm.protected_client_ports.iter().chain([&self.gm.protected_server_port]) {
            if [5060, 5061, 0, self.gm.port].contains(port) {
                say(format!("gm: {port} cannot be a protected port (TS 33.203 §7.1)"));
            }
        }
        let client_ports: BTreeSet<u16> = self.gm.protected_client_ports.iter().copied().collect();
        if client_ports.len() < self.gm.protected_client_ports.len() {
            say("gm.protected_client_ports: a port stands there twice".into());
        }
        if client_ports.len() > MOST_CLIENT_PORTS {
            say(format!(
                "gm.protected_client_ports: more than {MOST_CLIENT_PORTS}, each with sockets"
            ));
        }
        if client_ports.len() < 4 {
            say("gm.protected_client_ports: at least four are needed (old, new, temporary)".into());
        }
        if self.gm.protected_client_ports.contains(&self.gm.protected_server_port) {
            say("gm.protected_client_ports: holds the protected server port".into());
        }
        if self.ipsec.nat && !self.gm.addresses.iter().any(IpAddr::is_ipv4) {
            say("ipsec.nat: needs an IPv4 address in gm.addresses".into());
        }
        let own_ports = [self.gm.port, self.gm.protected_server_port];
        if self.ipsec.nat && own_ports.iter().chain(&client_ports).any(|port| *port == 4500) {
            say("gm: with ipsec.nat, port 4500 is for ESP inside UDP (RFC 3948)".into());
        }
        let SpiRange { first, last } = self.ipsec.spi_range;
        if first < 256 {
            say("ipsec.spi_range: 0 to 255 are reserved (RFC 4303 §2.1)".into());
        }
        // Old, new and temporary set take two each (TS 33.203 §7.4).
        if last < first || last - first < 5 {
            say("ipsec.spi_range: at least six are needed".into());
        }
        if self.ipsec.challenges_per_identity == 0 || self.ipsec.challenges_per_address == 0 {
            say("ipsec.challenges_per_identity, challenges_per_address: 0 lets nobody in".into());
        }
        if self.ipsec.policy != Policy::Off && self.ipsec.algorithms.is_empty() {
            say("ipsec.algorithms: none".into());
        }
        for pair in &self.ipsec.algorithms {
            let ok = match pair.ealg {
                Encryption::AesGcm => pair.alg == Integrity::Null,
                Encryption::Null => pair.alg != Integrity::Null,
                _ => matches!(pair.alg, Integrity::HmacMd5_96 | Integrity::HmacSha1_96),
            };
            if !ok {
                say(format!(
                    "ipsec.algorithms: alg {} does not go with ealg {}",
                    pair.alg.name(),
                    pair.ealg.name()
                ));
            }
        }
        if !(5..=10_000).contains(&self.gm.t1_milliseconds) {
            say("gm.t1_milliseconds: 5 to 10000".into());
        }
        if !(1..=3_600).contains(&self.ipsec.reg_await_auth_seconds) {
            say("ipsec.reg_await_auth_seconds: 1 to 3600".into());
        }
        if self.mw.register_seconds >= 128 {
            say("mw.register_seconds: must stay below the phone's 128 s".into());
        }
        problems
    }
}
