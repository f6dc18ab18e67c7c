//! The program `hss`: the daemon and its commands, see [`hss::command`].

use std::process::ExitCode;

fn main() -> ExitCode {
    hss::command::run_from(std::env::args_os().collect())
}
