//! `cargo bench`: small things, then registrations through the four daemons.
//!
//! `cargo bench -p bench -- --subscribers 30000 --phones 3000` changes how many register without
//! and with IPsec.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(status) = bench::daemons::run_role() {
        return status;
    }
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default| {
        let place = arguments.iter().position(|argument| argument == name);
        let value = place.and_then(|place| arguments.get(place + 1));
        value.and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let (subscribers, phones) = (number("--subscribers", 30_000), number("--phones", 3_000));
    if arguments.iter().any(|argument| argument == bench::ipsec::INSIDE) {
        return told(bench::ipsec::run(phones));
    }
    bench::micro::run();
    println!();
    let first = told(bench::registrations::run(subscribers));
    println!();
    let second = told(bench::ipsec::enter(phones));
    if first == ExitCode::SUCCESS { second } else { first }
}

fn told(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
