//! Many UEs in one process: load on any P-CSCF, and what came of it.
//!
//! | module | what it is for |
//! |---|---|
//! | [`arguments`] | the command lines |
//! | [`population`] | who the UEs are |
//! | [`model`] | what they do, in time |
//! | [`link`] | where their packets go |
//! | [`fleet`] | the UEs: phones, timers, attempts |
//! | [`engine`] | the loop |
//! | [`measure`] | counts and latencies |
//! | [`watch`] | the generator's own health |
//! | [`scrape`] | the servers' numbers |
//! | [`metrics`] | the generator's own `/metrics` |
//! | [`report`], [`html`], [`require`] | what came of it, and whether that is enough |
//! | [`capacity`] | the search for the highest load that is handled adequately |
//! | [`live`] | what is seen meanwhile |
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | ran, valid, objectives met |
//! | 1 | an objective is not met; without objectives: nothing succeeded |
//! | 2 | wrong arguments, or something is missing on this host |
//! | 3 | invalid: the generator was the bottleneck |

pub mod arguments;
pub mod capacity;
pub mod engine;
pub mod fleet;
pub mod html;
pub mod link;
pub mod live;
pub mod measure;
pub mod metrics;
pub mod model;
pub mod population;
pub mod report;
pub mod require;
pub mod scrape;
pub mod watch;

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use arguments::{Job, Output};
use engine::Engine;
use link::Access;
use live::Live;
use metrics::Metrics;
use report::{Conditions, Report};
use scrape::Scraper;

/// Carries out the job, prints the report and gives the exit status.
///
/// # Errors
/// What is missing on this host, or that the network gives no bearers.
pub fn run(job: Job) -> Result<ExitCode, String> {
    engine::heed_signals()?;
    let mut live = Live::new(job.output.is_quiet);
    let metrics = Metrics::new();
    if let Some(at) = job.listen {
        let listener = TcpListener::bind(at).map_err(|error| format!("--listen {at}: {error}"))?;
        let address = metrics.serve(listener)?;
        live.note(&format!("metrics of the generator: http://{address}/metrics"));
    }
    let mut scraper = Scraper::start(job.servers)?;
    let conditions = conditions(&job.run, job.subscribers.len());
    let mut engine = Engine::prepare(&job.run, job.subscribers, metrics, &mut live)?;
    let mut report = engine.run(&job.run, conditions, &mut scraper, &mut live);
    report.required = require::judge(&job.output.required, &report);
    write(&report, &job.output)?;
    print!("{}", report.text());
    Ok(status(&report))
}

fn status(report: &Report) -> ExitCode {
    let is_met = match report.required.is_empty() {
        true => report.all.succeeded > 0,
        false => report.required.iter().all(|judged| judged.is_met),
    };
    match (report.generator.is_valid, is_met) {
        (false, _) => ExitCode::from(3),
        (true, false) => ExitCode::from(1),
        (true, true) => ExitCode::SUCCESS,
    }
}

pub(crate) fn write_file(path: &Path, text: String) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(report: &Report, output: &Output) -> Result<(), String> {
    if let Some(path) = &output.json {
        let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        write_file(path, text)?;
    }
    if let Some(path) = &output.csv {
        write_file(path, report.csv())?;
    }
    if let Some(path) = &output.html {
        write_file(path, html::page(report))?;
    }
    Ok(())
}

fn conditions(run: &engine::Run, ues: usize) -> Conditions {
    let pcscfs = run.habits.pcscfs.iter().map(ToString::to_string).collect::<Vec<_>>();
    let command: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    Conditions {
        version: env!("CARGO_PKG_VERSION"),
        started_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        command: command.join(" "),
        seed: run.seed,
        ues,
        access: match &run.access {
            Access::Radio { socket, .. } => format!("LTE transport at {}", socket.display()),
            Access::Tun { name, address, prefix } => format!("TUN {name}, {address}/{prefix}"),
            Access::Sockets { addresses } => {
                let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                format!("sockets on {}", all.join(", "))
            }
        },
        pcscf: if pcscfs.is_empty() {
            "the P-CSCF of the bearer".into()
        } else {
            pcscfs.join(", ")
        },
        transport: run.habits.transport.name(),
        ipsec: run.habits.ipsec,
        slow_after_milliseconds: run.slow_after.as_secs_f64() * 1e3,
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
    }
}
