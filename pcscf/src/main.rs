//! The P-CSCF daemon: `pcscf --config FILE`.

fn main() -> std::process::ExitCode {
    common::net::main::<pcscf::Pcscf>()
}
