//! The shell: one loop on one thread that turns sockets, timers, the kernel and the disk into
//! inputs of a core, and executes its outputs in order.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | command line, TOML and environment |
//! | `check` | `--check` |
//! | [`client`] | `--ready`, and commands to the daemon that runs |
//! | `run` | the loop: take inputs, handle, commit, release |
//! | `inbox` | inputs waiting for the loop, and counts |
//! | `udp` | UDP sockets for SIP |
//! | `stream` | one TCP connection, whatever runs on it |
//! | `sip_tcp`, `diameter` | TCP connections of SIP and of Diameter |
//! | `plane` | what carries ESP: XFRM or this process |
//! | `resolver` | the DNS |
//! | `store` | SQLite |
//! | [`http`], `metrics` | `/metrics`, `/healthz`, `/readyz`, `/admin` |
//! | `telemetry` | logs |

pub mod client;
pub mod config;
pub mod http;

mod check;
mod diameter;
mod inbox;
mod metrics;
mod plane;
mod resolver;
mod run;
mod sip_tcp;
mod store;
mod stream;
mod telemetry;
mod udp;

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use rand::TryRngCore;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

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

/// The data plane of a node that has security associations.
#[derive(Clone, Debug)]
pub struct PlaneConfig {
    pub choice: PlaneChoice,
    /// File in which the user-space plane keeps its sets, keys included, over the end of the process;
    /// absent: they end with it. XFRM keeps them in the kernel.
    pub state: Option<PathBuf>,
    /// UEs behind a NAT are served too, through UDP port 4500 of the protected IPv4 addresses.
    pub nat: bool,
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

fn default_dns_timeout() -> u64 {
    1_000
}
fn default_dns_attempts() -> u32 {
    1
}

impl Default for DnsConfig {
    fn default() -> Self {
        DnsConfig {
            servers: Vec::new(),
            timeout_milliseconds: default_dns_timeout(),
            attempts: default_dns_attempts(),
        }
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
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

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
    pub ipsec: Option<PlaneConfig>,
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

/// `main` of a daemon: `NAME --config FILE [--check|--ready|COMMAND]`, `--version`.
pub fn main<D: Daemon>() -> ExitCode {
    run_from::<D>(std::env::args_os().collect())
}

/// The same with arguments given (the first is the program's name); the lab runs the daemons so.
pub fn run_from<D: Daemon>(arguments: Vec<OsString>) -> ExitCode {
    let arguments = match config::arguments(D::NAME, arguments) {
        Ok(arguments) => arguments,
        Err(config::Stop::Answered) => return ExitCode::SUCCESS,
        Err(config::Stop::Refused) => return ExitCode::from(2),
    };
    let configuration = match config::load::<D::Config>(D::NAME, &arguments.config) {
        Ok(configuration) => configuration,
        Err(error) => return refuse::<D>(&error),
    };
    let mut shell = D::shell(&configuration);
    match arguments.task {
        config::Task::Check => return check::<D>(&configuration, &shell),
        config::Task::Ready => {
            return match client::ready(shell.http.listen) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => refuse::<D>(&error),
            };
        }
        config::Task::Command(words) => {
            return match client::command(shell.http.listen, &words) {
                Ok(text) => {
                    // A closed pipe (`| head`) is the reader's choice, not a fault.
                    let _ = std::io::stdout().lock().write_all(text.as_bytes());
                    ExitCode::SUCCESS
                }
                Err(error) => refuse::<D>(&error),
            };
        }
        config::Task::Run => {}
    }
    if let Err(error) = telemetry::start(&shell.log) {
        return refuse::<D>(&error);
    }
    raise_open_files(&mut shell);
    let result = start::<D>(configuration, &shell);
    if let Err(error) = &result {
        tracing::error!(daemon = D::NAME, "{error}");
    }
    telemetry::flush();
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn refuse<D: Daemon>(error: &str) -> ExitCode {
    eprintln!("{}: {error}", D::NAME);
    ExitCode::FAILURE
}

/// One line for each missing thing; success when there is none.
fn check<D: Daemon>(configuration: &D::Config, shell: &Shell) -> ExitCode {
    let mut missing = check::missing(shell);
    missing.extend(D::check(configuration));
    for line in check::notes(shell) {
        println!("{}: {line}", D::NAME);
    }
    for line in &missing {
        println!("{}: {line}", D::NAME);
    }
    if !missing.is_empty() {
        return ExitCode::FAILURE;
    }
    println!("{}: configuration and host are in order", D::NAME);
    ExitCode::SUCCESS
}

fn start<D: Daemon>(configuration: D::Config, shell: &Shell) -> Result<(), String> {
    let mut seed = [0; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut seed)
        .map_err(|error| format!("the system has no randomness: {error}"))?;
    let node = D::build(configuration, seed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no event loop: {error}"))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let stops = stops().map_err(|error| format!("signals cannot be handled: {error}"))?;
        tracing::info!(daemon = D::NAME, version = env!("CARGO_PKG_VERSION"), "started");
        run::run(D::NAME, node, shell, stops).await?;
        tracing::info!(daemon = D::NAME, "ended");
        Ok(())
    })
}

/// Descriptors for everything but connections of SIP and Diameter.
const OTHER_OPEN_FILES: u64 = 200;

/// As many open files as the host allows; where that is less than the limits want, the connections for
/// SIP are as many as there can be.
fn raise_open_files(shell: &mut Shell) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let resource = Resource::RLIMIT_NOFILE;
    let raised =
        getrlimit(resource).and_then(|(_, hard)| setrlimit(resource, hard, hard).map(|()| hard));
    let others = OTHER_OPEN_FILES + shell.limits.diameter_connections as u64;
    let limit = &mut shell.limits.sip_connections;
    match raised {
        Ok(hard) if hard < *limit as u64 + others => {
            let possible = hard.saturating_sub(others).max(1) as usize;
            tracing::info!(
                hard,
                wanted = *limit,
                possible,
                "limits.sip_connections is more than the open files allow: raise LimitNOFILE"
            );
            *limit = possible;
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "open files not raised"),
    }
}

/// One message for each SIGTERM or SIGINT.
fn stops() -> std::io::Result<mpsc::Receiver<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = mpsc::channel(2);
    tokio::task::spawn_local(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // A third signal finds the second one at work.
            let _ = sender.try_send(());
        }
    });
    Ok(receiver)
}
