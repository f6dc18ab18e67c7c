//! `lte --config FILE`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    lte::run_from(std::env::args_os().collect())
}
