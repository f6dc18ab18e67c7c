//! `cargo bench`: small things, then registrations through the four daemons.
//!
//! `cargo bench -p bench -- --subscribers 30000` changes how many subscribers there are.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(status) = bench::daemons::run_role() {
        return status;
    }
    let arguments: Vec<String> = std::env::args().collect();
    let subscribers = arguments
        .iter()
        .position(|argument| argument == "--subscribers")
        .and_then(|place| arguments.get(place + 1))
        .and_then(|number| number.parse().ok())
        .unwrap_or(30_000);
    bench::micro::run();
    println!();
    match bench::registrations::run(subscribers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
