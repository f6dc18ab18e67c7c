//! `scscf --config FILE [--check]`

use std::process::ExitCode;

fn main() -> ExitCode {
    common::net::main::<scscf::Scscf>()
}
