//! The shell: one loop on one thread that turns sockets, timers, the kernel and the disk into
//! inputs of a core, and executes its outputs in order.

pub mod config;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::limits::Limits;
use crate::node::{Node, Transport};

/// A SIP socket to open. TCP listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipListen {
    pub transport: Transport,
    pub address: SocketAddr,
    /// A protected port of the P-CSCF: under the user-space plane it is bound to the plane's TUN, so
    /// that clear text never reaches it; under XFRM it is an ordinary socket and policies guard it.
    pub is_protected: bool,
}

/// Which data plane carries ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum PlaneChoice {
    /// XFRM where the kernel has ESP, else the user-space plane; says in one WARN line which and why.
    #[default]
    Auto,
    Xfrm,
    Userspace,
}

/// `[dns]` of a daemon.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsConfig {
    /// Empty: those of /etc/resolv.conf.
    #[serde(default)]
    pub servers: Vec<SocketAddr>,
    #[serde(default = "default_dns_timeout")]
    pub timeout_milliseconds: u64,
    #[serde(default = "default_dns_attempts")]
    pub attempts: u32,
}

fn default_dns_timeout() -> u64 { 1_000 }
fn default_dns_attempts() -> u32 { 1 }

impl Default for DnsConfig {
    fn default() -> Self {
        DnsConfig { servers: Vec::new(), timeout_milliseconds: default_dns_timeout(), attempts: default_dns_attempts() }
    }
}

/// `[http]` of a daemon: `/metrics`, `/healthz`, `/readyz`, `POST /admin`.
#[derive(Clone, Debug, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Absent: no HTTP. A descriptor handed in by the starter (`TESSERA_HTTP_FD`) takes its place.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
}

/// `[log]` of a daemon.
#[derive(Clone, Debug, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// `text` (default) or `json`.
    #[serde(default)]
    pub format: LogFormat,
    /// As of `RUST_LOG`; default `info`.
    #[serde(default)]
    pub filter: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat { #[default] Text, Json }

/// All that the shell around one core needs to know.
#[derive(Clone, Debug)]
pub struct Shell {
    pub sip: Vec<SipListen>,
    pub diameter_listen: Option<SocketAddr>,
    /// Local address from which Diameter connections are opened; absent: any.
    pub diameter_local: Option<std::net::IpAddr>,
    /// SQLite file for `Output::Persist`; absent: nothing is stored.
    pub store: Option<PathBuf>,
    pub dns: DnsConfig,
    /// Present: this node has security associations (P-CSCF).
    pub ipsec: Option<PlaneChoice>,
    pub http: HttpConfig,
    pub log: LogConfig,
    pub limits: Limits,
}

/// A core with its program around it.
pub trait Daemon: Node + Sized {
    /// `pcscf`, `icscf`, `scscf`, `hss`.
    const NAME: &'static str;
    type Config: DeserializeOwned;
    fn shell(config: &Self::Config) -> Shell;
    /// Makes the core. `seed` comes from the system.
    fn build(config: Self::Config, seed: [u8; 32]) -> Result<Self, String>;
    /// What is wrong with configuration or host beyond what the shell checks by itself (sockets
    /// can be bound, store can be written, ESP plane can be had). Changes nothing.
    fn check(config: &Self::Config) -> Vec<String>;
}

/// `main` of a daemon: `NAME --config FILE [--check]`, `--version`.
pub fn main<D: Daemon>() -> ExitCode {
    run_from::<D>(std::env::args_os().collect())
}

/// The same with arguments given (the first is the program's name); the lab runs the daemons so.
pub fn run_from<D: Daemon>(arguments: Vec<OsString>) -> ExitCode { let _ = arguments; todo!() }
