//! The program around the phone: `ue register` registers one subscriber at any P-CSCF and says what
//! came of it; `ue load` and its like, with thousands of them, are in [`crate::load`].
//!
//! | module | what it is for |
//! |---|---|
//! | [`arguments`] | the command line, and the plan that it makes |
//! | [`card`] | identities and keys: options, key file, subscriber file |
//! | [`bearer`] | where packets go: the LTE transport's radio socket, or a TUN device |
//! | [`session`] | register, refresh, hold, deregister |
//! | [`verdict`] | what a failure means, in one line |
//! | [`report`] | lines for people, JSON lines for programs |
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | registered as asked |
//! | 1 | refused, or no answer |
//! | 2 | wrong arguments, or something is missing on this host |

pub mod arguments;
pub mod bearer;
pub mod card;
pub mod report;
pub mod session;
pub mod verdict;

use std::ffi::OsString;
use std::process::ExitCode;

use arguments::{Task, Wrong};

use crate::load;

/// How the program ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    Registered,
    /// Refused or not answered: what it means.
    Refused(String),
    /// What this host lacks.
    Missing(String),
}

/// `main` with arguments given; the first is the program's name.
pub fn run_from(arguments: Vec<OsString>) -> ExitCode {
    let task = match arguments::parse(arguments) {
        Ok(task) => task,
        Err(Wrong::CommandLine(error)) => {
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
        Err(Wrong::Value(text)) => {
            eprintln!("ue: {text}");
            return ExitCode::from(2);
        }
    };
    let plan = match task {
        Task::Register(plan) => *plan,
        Task::Load(job) => return told(load::run(*job)),
        Task::Capacity(search) => return told(load::capacity::run(*search)),
        Task::Population(population) => return told(write_population(&population)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let end = match runtime {
        Ok(runtime) => runtime.block_on(session::run(plan)),
        Err(error) => End::Missing(format!("no event loop: {error}")),
    };
    match end {
        End::Registered => ExitCode::SUCCESS,
        End::Refused(verdict) => {
            eprintln!("ue: {verdict}");
            ExitCode::from(1)
        }
        End::Missing(what) => {
            eprintln!("ue: {what}");
            ExitCode::from(2)
        }
    }
}

fn told(done: Result<ExitCode, String>) -> ExitCode {
    done.unwrap_or_else(|what| {
        eprintln!("ue: {what}");
        ExitCode::from(2)
    })
}

fn write_population(population: &load::arguments::Population) -> Result<ExitCode, String> {
    let csv = population.csv()?;
    match &population.output {
        Some(path) => {
            std::fs::write(path, csv).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        None => print!("{csv}"),
    }
    Ok(ExitCode::SUCCESS)
}
