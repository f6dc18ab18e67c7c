//! The whole laboratory as `cargo lab check` runs it: real processes, real packets, every scenario.
//! Where the host allows no namespaces or no TUN the tests say so and pass.

use std::process::Command;

fn check(options: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .arg("check")
        .args(options)
        .output()
        .expect("the lab's program can be started");
    let told = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    if complained.contains("are refused") || complained.contains("/dev/net/tun cannot be opened") {
        println!("skipped: {}", complained.trim());
        return;
    }
    assert!(output.status.success(), "{told}\n{complained}");
    let last = told.lines().last().unwrap_or_default();
    assert!(last.ends_with(" passed, 0 failed"), "{told}\n{complained}");
}

/// Each scenario and check cites the rows that it shows.
#[test]
fn everything_passes_with_ipv4_and_udp() {
    check(&["--ip", "4", "--transport", "udp"]);
}

#[test]
fn everything_passes_with_ipv6_and_tcp() {
    check(&["--ip", "6", "--transport", "tcp"]);
}
