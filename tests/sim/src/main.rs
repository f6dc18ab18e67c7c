//! `cargo sim`: a thousand seeds. `cargo sim 12345`: that one, as a ladder. `--sets`: of associations;
//! `--races`: of races.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use sim::ims::Ims;
use sim::{races, sets, storm};

/// Runs the four cores and five phones in virtual time, with faults drawn from a seed.
#[derive(Parser)]
struct Arguments {
    /// One seed, shown as a ladder.
    seed: Option<u64>,
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// Seeds of associations: nothing but their life, with registrations of minutes.
    #[arg(long)]
    sets: bool,
    /// Seeds of races: two things that happen to one registration at once.
    #[arg(long, conflicts_with = "sets")]
    races: bool,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) if arguments.sets => one_of_sets(seed),
        Some(seed) if arguments.races => one_of_races(seed),
        Some(seed) => one(seed),
        None => many(&arguments),
    }
}

fn one(seed: u64) -> ExitCode {
    let (ims, result) = storm::run(seed, true);
    print!("{}", ims.world.ladder.text(0));
    match result {
        Ok(report) => {
            println!("seed {seed}: {report:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("seed {seed}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn one_of_sets(seed: u64) -> ExitCode {
    let (ims, result) = sets::run(seed, true);
    print!("{}", ims.world.ladder.text(0));
    println!("seed {seed}: {result:?}");
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one_of_races(seed: u64) -> ExitCode {
    let (ims, race, result) = races::run(seed, true);
    print!("{}", ims.world.ladder.text(0));
    println!("seed {seed}, {race:?}, have met: {result:?}");
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn of_races(seed: u64) -> Result<storm::Report, String> {
    let (ims, race, result) = races::run(seed, false);
    result.map(|_| report(&ims)).map_err(|error| format!("{race:?}: {error}"))
}

fn of_sets(seed: u64) -> Result<storm::Report, String> {
    let (ims, result) = sets::run(seed, false);
    result.map(|_| report(&ims))
}

fn report(ims: &Ims) -> storm::Report {
    storm::Report {
        messages: ims.world.messages,
        simulated_seconds: ims.world.now.since(sim::world::BEGIN).as_secs(),
        ..storm::Report::default()
    }
}

fn many(arguments: &Arguments) -> ExitCode {
    let Arguments { from, seeds, .. } = *arguments;
    let began = Instant::now();
    let next = AtomicU64::new(from);
    let (failed, messages, seconds) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return;
            }
            match std::panic::catch_unwind(|| match arguments {
                Arguments { sets: true, .. } => of_sets(seed),
                Arguments { races: true, .. } => of_races(seed),
                _ => storm::run(seed, false).1,
            }) {
                Ok(Ok(report)) => {
                    messages.fetch_add(report.messages, Ordering::Relaxed);
                    seconds.fetch_add(report.simulated_seconds, Ordering::Relaxed);
                }
                Ok(Err(error)) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    println!("seed {seed}: {error}");
                }
                Err(_) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    println!("seed {seed}: panicked");
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner();
    println!(
        "{} messages in {} simulated hours, {:.1} s",
        messages.into_inner(),
        seconds.into_inner() / 3_600,
        began.elapsed().as_secs_f64()
    );
    println!("{} passed, {failed} failed", seeds - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
