//! Settings of the I-CSCF: the reference manual of `icscf.toml`.
//!
//! Every key may also come from the environment: `ICSCF__SIP__NAME=icscf1.hims.net`. An unknown
//! key is an error. A whole file:
//!
//! ```toml
//! home_domain = "hims.net"
//!
//! [sip]
//! name = "icscf1.hims.net"
//! [sip.listen]
//! udp = ["192.0.2.20:5060"]
//! tcp = ["192.0.2.20:5060"]
//!
//! [diameter]
//! identity = "icscf1.hims.net"
//! realm = "hims.net"
//! peers = [{ host = "192.0.2.40" }]
//!
//! [[scscf]]
//! name = "sip:scscf1.hims.net"
//! capabilities = [1, 2]
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use common::diameter;
use common::limits::Limits;
#[cfg(feature = "daemon")]
use common::net::{DnsConfig, HttpConfig, LogConfig};
use common::node::Transport;
use common::sip::uri::{HostPort, Scheme, Uri};
use serde::Deserialize;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The domain whose subscribers are looked up here: host part of the Request-URI of their
    /// REGISTERs, and realm of their credentials.
    pub home_domain: String,
    /// `[sip]`
    pub sip: Sip,
    /// `[diameter]`: the HSS is reached through one of `peers`.
    pub diameter: diameter::endpoint::Config,
    /// `[[scscf]]`, one for each S-CSCF that may be chosen when the HSS names none.
    #[serde(default)]
    pub scscf: Vec<Scscf>,
    /// Another S-CSCF may take over users who are registered, or are answering a challenge, when
    /// theirs is silent (TS 23.380). Without it only initial REGISTERs get another one.
    #[serde(default = "default_restoration")]
    pub restoration: bool,
    /// `[timeouts]`
    #[serde(default)]
    pub timeouts: Timeouts,
    /// `[limits]`
    #[serde(default)]
    pub limits: Limits,
    /// Whether log lines at `info` name identities in clear. Otherwise a hash stands for each:
    /// equal for equal identities.
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
    /// Host name (or address) of this I-CSCF: sent-by of its Via, and what a Route names.
    pub name: String,
    /// `[sip.listen]`
    pub listen: Listen,
}

/// `[sip.listen]`: addresses with ports. Requests leave from the first one that fits the next hop
/// in transport and address family.
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

/// One S-CSCF.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scscf {
    /// Its SIP URI, as it names itself to the HSS (Server-Name).
    pub name: String,
    /// Where it is; absent: found by RFC 3263 from `name`.
    #[serde(default)]
    pub address: Option<SocketAddr>,
    /// Transport towards `address`.
    #[serde(default = "default_transport")]
    pub transport: TransportName,
    /// Capabilities by the operator's numbers (TS 29.229 §6.3.5, §6.3.6).
    #[serde(default)]
    pub capabilities: Vec<u32>,
    /// Lower is tried first among equally capable ones.
    #[serde(default)]
    pub priority: u16,
    /// Share among those of equal priority; 0: only when no other is left.
    #[serde(default = "default_weight")]
    pub weight: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportName {
    Udp,
    Tcp,
}

impl From<TransportName> for Transport {
    fn from(name: TransportName) -> Transport {
        match name {
            TransportName::Udp => Transport::Udp,
            TransportName::Tcp => Transport::Tcp,
        }
    }
}

fn default_restoration() -> bool {
    true
}

fn default_transport() -> TransportName {
    TransportName::Udp
}

fn default_weight() -> u16 {
    1
}

/// `[timeouts]`. Each hop gives up before the one in front of it: the P-CSCF waits longer than
/// `procedure_milliseconds`, and `scscf_milliseconds` is longer than an S-CSCF takes at most.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// One question to the HSS, failover to another peer included.
    pub hss_milliseconds: u64,
    /// One S-CSCF is given this long for a final answer, over all its addresses.
    pub scscf_milliseconds: u64,
    /// The same for an S-CSCF that was silent lately.
    pub suspect_milliseconds: u64,
    /// A whole registration, from the REGISTER to its answer.
    pub procedure_milliseconds: u64,
    /// For how long a silent S-CSCF is chosen last.
    pub suspect_for_milliseconds: u64,
    /// An INVITE is given up after this long without a final answer (RFC 3261 §16.6 step 11).
    pub invite_milliseconds: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            hss_milliseconds: 5_000,
            scscf_milliseconds: 10_000,
            suspect_milliseconds: 2_000,
            procedure_milliseconds: 30_000,
            suspect_for_milliseconds: 30_000,
            invite_milliseconds: 200_000,
        }
    }
}

impl Timeouts {
    pub fn hss(&self) -> Duration {
        Duration::from_millis(self.hss_milliseconds)
    }

    pub fn scscf(&self) -> Duration {
        Duration::from_millis(self.scscf_milliseconds)
    }

    pub fn suspect(&self) -> Duration {
        Duration::from_millis(self.suspect_milliseconds)
    }

    pub fn procedure(&self) -> Duration {
        Duration::from_millis(self.procedure_milliseconds)
    }

    pub fn suspect_for(&self) -> Duration {
        Duration::from_millis(self.suspect_for_milliseconds)
    }

    pub fn invite(&self) -> Duration {
        Duration::from_millis(self.invite_milliseconds)
    }
}

impl Config {
    /// A configuration with every optional setting at its default.
    pub fn new(home_domain: &str, sip: Sip, diameter: diameter::endpoint::Config) -> Config {
        Config {
            home_domain: home_domain.to_owned(),
            sip,
            diameter,
            scscf: Vec::new(),
            restoration: default_restoration(),
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

    /// What is wrong with it, one sentence each; empty when nothing is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.home_domain.is_empty() {
            problems.push("home_domain is empty".to_owned());
        }
        if HostPort::parse(&self.sip.name).is_err() {
            problems.push(format!(
                "sip.name \"{}\" is neither a host name nor an address",
                self.sip.name
            ));
        }
        if self.sip.listen.udp.is_empty() && self.sip.listen.tcp.is_empty() {
            problems.push("sip.listen names no address".to_owned());
        }
        for address in self.sip.listen.udp.iter().chain(&self.sip.listen.tcp) {
            if address.ip().is_unspecified() {
                problems.push(format!(
                    "sip.listen {address} is a wildcard: name the address that others send to"
                ));
            }
        }
        if self.diameter.peers.is_empty() {
            problems.push("diameter.peers is empty: no HSS can be asked".to_owned());
        }
        for scscf in &self.scscf {
            match Uri::parse(&scscf.name) {
                Ok(uri) if matches!(uri.scheme, Scheme::Sip | Scheme::Sips) => {}
                _ => problems.push(format!("scscf name \"{}\" is not a SIP URI", scscf.name)),
            }
            let transport = Transport::from(scscf.transport);
            if let Some(address) = scscf.address
                && !self
                    .sip
                    .listen
                    .of(transport)
                    .iter()
                    .any(|own| own.is_ipv4() == address.is_ipv4())
            {
                problems.push(format!(
                    "scscf \"{}\" at {address} over {} cannot be reached: \
                     sip.listen has no such address",
                    scscf.name,
                    transport.name()
                ));
            }
        }
        if self.timeouts.scscf_milliseconds >= self.timeouts.procedure_milliseconds {
            problems.push(
                "timeouts.scscf_milliseconds must be less than timeouts.procedure_milliseconds, \
                 or no second S-CSCF can be tried"
                    .to_owned(),
            );
        }
        problems
    }
}
