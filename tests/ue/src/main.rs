//! The program `ue`: one phone by itself, see [`ue::program`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ue::program::run_from(std::env::args_os().collect())
}
