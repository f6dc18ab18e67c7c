//! The example in `deploy/` is a configuration that this daemon takes.

#![cfg(feature = "daemon")]

#[test]
fn the_example_is_complete() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/hss.toml");
    let text = std::fs::read_to_string(path).expect("the example");
    let config: hss::config::Config = toml::from_str(&text).expect("a configuration");
    let shell = <hss::Hss as common::net::Daemon>::shell(&config);
    assert!(shell.http.listen.is_some());
}
