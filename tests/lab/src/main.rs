//! The laboratory: HSS, S-CSCFs, I-CSCF and P-CSCF as processes, an authoritative DNS, the LTE
//! transport and phones, in network namespaces of an ordinary user.
//!
//! `lab` starts it, registers a phone and prints the ladder; `lab check` runs every scenario; `lab load`
//! puts load on it.
//! `lab pcscf --config FILE` and its like run one daemon: the lab starts itself under these names.

mod associations;
mod capture;
mod capture_keys;
mod check;
mod config;
mod decode;
mod diagnosis;
mod dns;
mod endurance;
mod handsets;
mod laboratory;
mod ladder;
mod load;
mod matrix;
mod mobility;
mod outages;
mod paths;
mod processes;
mod protected;
mod schemes;
mod server;
mod subscribers;
mod topology;
mod wire;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand, ValueEnum};
use common::node::Transport;
use common::random::Random;
use scenarios::Standing;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::check::Part;
use crate::config::Plane;
use crate::handsets::Model;
use crate::laboratory::{DAEMONS, LTE_PORT, Laboratory, Options};
use crate::topology::IpVersion;

/// Phones of a load, when nobody says how many.
const LOAD_UES: usize = 1_000;
/// How long the first registration may take before the lab says that it has failed.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(130);

#[derive(Parser)]
#[command(name = "lab", version, about = "A whole IMS on one machine: daemons, LTE, phones")]
#[command(after_help = "lab pcscf|icscf|scscf|hss|lte|ue ...: that program alone")]
struct CommandLine {
    #[command(flatten)]
    options: CommonOptions,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Run every scenario, or another part of the checks; status 1 when one fails.
    Check {
        #[arg(value_enum, default_value = "scenarios")]
        part: Part,
        /// Re-registrations of the part `endurance`.
        #[arg(long, default_value_t = 1_000)]
        count: usize,
        /// Of all parts but `matrix` and `endurance`, those alone whose name has this in it; may be given again.
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
    },
    /// Put load on the lab with `ue load`, by --ues phones [default: 1000].
    Load {
        /// Options of `ue load`: who and where to is known.
        #[arg(last = true, value_name = "OPTION")]
        options: Vec<OsString>,
    },
    /// Find out what the lab can do on this machine with `ue capacity`, by --ues phones [default: 1000].
    Capacity {
        /// Options of `ue capacity`: who and where to is known.
        #[arg(last = true, value_name = "OPTION")]
        options: Vec<OsString>,
    },
}

#[derive(Args)]
struct CommonOptions {
    /// What carries ESP at the P-CSCF.
    #[arg(long, value_enum, default_value = "auto", global = true)]
    ipsec: Plane,
    /// IP version of everything.
    #[arg(long, value_enum, default_value = "4", global = true)]
    ip: IpChoice,
    /// Transport of the phones' requests.
    #[arg(long, value_enum, default_value = "udp", global = true)]
    transport: TransportChoice,
    /// Phones: that register at the start [default: 1], or of a load.
    #[arg(long, global = true, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    ues: Option<u32>,
    /// Write one pcapng file for each link there: radio, s1u, s5u, sgi, core.
    #[arg(long, value_name = "DIR", global = true)]
    capture: Option<PathBuf>,
    /// Also write esp_sa there: the keys of these test subscribers' associations, for tshark.
    #[arg(long, requires = "capture", global = true)]
    capture_keys: bool,
    /// Write the ladder, and the results of a check, there.
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    /// Keep logs, databases and configuration there.
    #[arg(long, value_name = "DIR", global = true)]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum IpChoice {
    #[value(name = "4")]
    V4,
    #[value(name = "6")]
    V6,
}

#[derive(Clone, Copy, ValueEnum)]
enum TransportChoice {
    Udp,
    Tcp,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(status) = run_role(&arguments) {
        return status;
    }
    let line = CommandLine::parse_from(arguments);
    match run(line.options, line.command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one program when the first word names it.
fn run_role(arguments: &[OsString]) -> Option<ExitCode> {
    let role = arguments.get(1)?.to_str()?;
    let rest = arguments[1..].to_vec();
    Some(match role {
        "pcscf" => common::net::run_from::<pcscf::Pcscf>(rest),
        "icscf" => common::net::run_from::<icscf::Icscf>(rest),
        "scscf" => common::net::run_from::<scscf::Scscf>(rest),
        "hss" => hss::command::run_from(rest),
        "as" => common::net::run_from::<server::Server>(rest),
        "lte" => lte::run_from(rest),
        "ue" => ue::program::run_from(rest),
        _ => return None,
    })
}

fn run(line: CommonOptions, verb: Option<Verb>) -> Result<ExitCode, String> {
    let started = Instant::now();
    let part = match &verb {
        Some(Verb::Check { part, .. }) => Some(*part),
        _ => None,
    };
    let ues = line.ues.map(|ues| ues as usize);
    let load = match &verb {
        Some(Verb::Load { .. } | Verb::Capacity { .. }) => Some(ues.unwrap_or(LOAD_UES)),
        Some(Verb::Check { part: Part::Load, .. }) => Some(ues.unwrap_or(load::UES)),
        _ => None,
    };
    let is_enduring = part == Some(Part::Endurance);
    // Watching costs more than what is watched.
    let is_watched = load.is_none() && !is_enduring;
    if !is_watched && (line.capture.is_some() || line.json.is_some()) {
        return Err(
            "nothing is watched here: --capture and --json cannot be used (-- --json FILE \
                    has a load's report written)"
                .into(),
        );
    }
    let mut http = Vec::new();
    for port in DAEMONS.map(|(_, _, port)| port).into_iter().chain([LTE_PORT]) {
        http.push(processes::open_http(port)?);
    }
    topology::enter()?;
    let options = Options {
        plane: line.ipsec,
        version: match line.ip {
            IpChoice::V4 => IpVersion::V4,
            IpChoice::V6 => IpVersion::V6,
        },
        transport: match line.transport {
            TransportChoice::Udp => Transport::Udp,
            TransportChoice::Tcp => Transport::Tcp,
        },
        ues: if load.is_some() { 0 } else { ues.unwrap_or(1) },
        capture: line.capture,
        are_keys_captured: line.capture_keys,
        json: line.json,
        keep: line.keep,
        automatic: verb.is_none(),
        is_ladder_printed: verb.is_none(),
        is_choice_announced: part == Some(Part::Matrix) || is_enduring,
        is_enduring,
        is_open: part == Some(Part::Schemes),
        is_doubled: part == Some(Part::Outages),
        load,
        is_watched,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no event loop: {error}"))?;
    LocalSet::new().block_on(&runtime, async {
        let random = Random::from_seed(seed()?);
        let laboratory = Laboratory::start(options, http, random).await?;
        println!("lab: everything is up after {:.2} s", started.elapsed().as_secs_f64());
        match verb {
            None => show(laboratory).await,
            Some(Verb::Check { part, count, only }) => {
                check(laboratory, check::Wanted { part, count, only }).await
            }
            Some(Verb::Load { options }) => put_load(laboratory, "load", &options).await,
            Some(Verb::Capacity { options }) => put_load(laboratory, "capacity", &options).await,
        }
    })
}

fn seed() -> Result<[u8; 32], String> {
    use std::io::Read;
    let mut seed = [0; 32];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut seed));
    read.map(|()| seed).map_err(|error| format!("/dev/urandom: {error}"))
}

/// Registers the phones, prints what passes, and goes on until Ctrl-C.
async fn show(mut laboratory: Laboratory) -> Result<ExitCode, String> {
    laboratory.forget_the_past().await;
    let begin = Instant::now();
    let ues = laboratory.options.ues;
    for _ in 0..ues {
        if let Some(phone) = laboratory.add_phone(true, Model::default()) {
            laboratory.handsets.register(phone);
        }
    }
    let (_sender, mut asks) = mpsc::channel(1);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut is_told = false;
    loop {
        tokio::select! {
            () = laboratory.step(&mut asks) => {}
            _ = &mut interrupted => break,
        }
        let registered =
            (0..ues).filter(|ue| laboratory.handsets.standing(*ue) == Standing::Registered).count();
        let is_over = registered == ues || begin.elapsed() > REGISTRATION_LIMIT;
        if is_over && !is_told {
            is_told = true;
            let took = begin.elapsed();
            laboratory.settle_for(ladder::SETTLING * 2).await;
            println!("\nlab: {registered} of {ues} registered, {:.3} s", took.as_secs_f64());
            for (name, address) in laboratory.http() {
                println!("lab: {name:7} http://{address}/metrics");
            }
            if let Some(directory) = laboratory.directory() {
                println!("lab: logs and configuration in {}", directory.display());
            }
            println!("lab: Ctrl-C ends it");
        }
        if !laboratory.casualties.is_empty() {
            break;
        }
    }
    finish(laboratory, &[]).await.map(|complaints| match complaints {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Runs the load generator; its exit status is ours unless something of the lab ended badly.
async fn put_load(
    mut laboratory: Laboratory,
    verb: &str,
    options: &[OsString],
) -> Result<ExitCode, String> {
    let status = load::run(&mut laboratory, verb, options).await?;
    match finish(laboratory, &[]).await? {
        0 => Ok(status),
        _ => Ok(ExitCode::FAILURE),
    }
}

/// Runs a part of the checks and says how many passed.
async fn check(mut laboratory: Laboratory, wanted: check::Wanted) -> Result<ExitCode, String> {
    let outcomes = check::run(&mut laboratory, wanted).await;
    let complaints = finish(laboratory, &outcomes).await?;
    let failed = outcomes.iter().filter(|outcome| outcome.error.is_some()).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    let is_good = failed == 0 && complaints == 0 && !outcomes.is_empty();
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Stops everything and writes what was asked for; the answer is how many complaints there were.
async fn finish(mut laboratory: Laboratory, outcomes: &[check::Outcome]) -> Result<usize, String> {
    laboratory.settle_for(ladder::SETTLING * 2).await;
    if let Some(path) = &laboratory.options.json {
        let value = serde_json::json!({ "ladder": laboratory.ladder.kept, "results": outcomes });
        let text = serde_json::to_string_pretty(&value).map_err(|error| error.to_string())?;
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let (Some(directory), Some(lines)) =
        (&laboratory.options.capture, laboratory.handsets.capture_keys.take())
    {
        let path = directory.join("esp_sa");
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let complaints = laboratory.stop().await;
    for complaint in &complaints {
        eprintln!("lab: {complaint}");
    }
    Ok(complaints.len())
}
