pub(crate) fn check_snapshot(name: &str, text: &str) {
    let path = format!("{}/src/sip/transaction_tables/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert_eq!(kept, text, "the transition table changed: see {path}; UPDATE=1 rewrites it");
}
