//! The checks of the tree. Each failure names file and reason.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use tidy::{SEED_ROWS, clauses, proofs, root, rows_for_later, sources};

#[test]
fn every_file_says_what_is_in_it() {
    let bare: Vec<_> = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path)
        .collect();
    assert!(bare.is_empty(), "files that do not start with `//!`: {bare:?}");
}

#[test]
fn nothing_is_left_unfinished() {
    let markers = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
    ];
    let mut left = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            if markers.iter().any(|marker| line.contains(marker)) {
                left.push(format!("{}:{}", source.path.display(), number + 1));
            }
        }
    }
    assert!(left.is_empty(), "unfinished: {left:?}");
}

/// What a registration is made of: documents, and clauses with all below them.
const REGISTRATION: &[(&str, &[&str])] = &[
    (
        "TS 24.229",
        &[
            "5.1.1", "5.1.6", "5.2.2", "5.2.3", "5.2.5", "5.3.1", "5.4.1", "5.4.2", "5.4.7A",
            "5.4.8", "7.2A", "7.6", "7.7", "7.8",
        ],
    ),
    ("TS 29.228", &["6"]),
    ("TS 29.229", &["6.1", "6.2", "6.3", "7"]),
    ("TS 23.380", &["4", "5"]),
    ("TS 33.203", &["6", "7", "8"]),
    ("RFC 3310", &["3"]),
    ("RFC 3329", &["2"]),
    ("RFC 3680", &["4", "5"]),
    ("RFC 4169", &["3"]),
    ("RFC 5626", &["4", "5", "6"]),
    ("RFC 5627", &["4", "5", "A"]),
    ("RFC 5628", &["5"]),
    ("RFC 6665", &["4", "8"]),
    ("RFC 7616", &["3", "6"]),
];

#[test]
fn every_clause_of_registration_is_tested() {
    let is_of_registration = |clause: &String| {
        let (document, number) = clause.split_once(" §").unwrap_or((clause, ""));
        REGISTRATION.iter().filter(|(name, _)| *name == document).any(|(_, clauses)| {
            clauses.iter().any(|above| {
                number
                    .strip_prefix(above)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        })
    };
    let sources = sources();
    let cited = |text: fn(&tidy::Source) -> &str| -> BTreeSet<String> {
        sources.iter().flat_map(|source| clauses(text(source))).filter(is_of_registration).collect()
    };
    let (coded, tested) = (cited(tidy::Source::product_text), cited(tidy::Source::test_text));
    let bare: Vec<_> = coded.difference(&tested).collect();
    assert!(bare.is_empty(), "clauses of registration that no test names: {bare:?}");
}

/// Who may not use whom: folder, and what must not stand in a `use` line or path there.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "common/src/sip",
        &["crate::cx", "crate::diameter", "crate::aka", "crate::ipsec", "crate::net"],
    ),
    (
        "common/src/diameter",
        &["crate::sip", "crate::cx", "crate::aka", "crate::ipsec", "crate::net"],
    ),
    ("common/src/cx", &["crate::sip", "crate::ipsec", "crate::net"]),
    ("common/src/aka", &["crate::cx", "crate::diameter", "crate::ipsec", "crate::net"]),
    ("common/src/ipsec", &["crate::cx", "crate::diameter", "crate::aka", "crate::net"]),
    ("pcscf/src", &["icscf::", "scscf::", "hss::", "common::cx", "common::diameter::message"]),
    ("icscf/src", &["pcscf::", "scscf::", "hss::", "common::ipsec"]),
    ("scscf/src", &["pcscf::", "icscf::", "hss::", "common::ipsec"]),
    (
        "hss/src",
        &[
            "pcscf::",
            "icscf::",
            "scscf::",
            "common::sip::endpoint",
            "common::sip::message",
            "common::ipsec",
        ],
    ),
];

#[test]
fn layers_keep_to_themselves() {
    let mut crossed = Vec::new();
    for source in sources() {
        for (folder, forbidden) in LAYERS {
            if !source.path.starts_with(folder) {
                continue;
            }
            for (number, line) in source.product_text().lines().enumerate() {
                let code = line.split("//").next().unwrap_or("");
                for name in *forbidden {
                    let at = code.find(name);
                    let is_whole = |at: usize| {
                        !code[..at]
                            .chars()
                            .next_back()
                            .is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
                    };
                    if at.is_some_and(is_whole) {
                        crossed.push(format!("{}:{}: {name}", source.path.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(crossed.is_empty(), "{crossed:#?}");
}

/// Every metric has its line in a document: no number without a meaning.
#[test]
fn metrics_are_documented() {
    let documents = ["docs/metrics.md", "docs/load.md", "tests/lte/README.md"];
    let reference = documents.map(|path| std::fs::read_to_string(root().join(path)).expect(path));
    let is_named = |name: &str| {
        let quoted = format!("`{name}`");
        reference.iter().any(|text| text.contains(&quoted))
    };
    let mut missing = BTreeSet::new();
    for source in sources() {
        let path = source.path.to_string_lossy();
        if path.starts_with("tests/")
            && !path.starts_with("tests/lte")
            && !path.starts_with("tests/ue")
        {
            continue;
        }
        for literal in source.product_text().split('"').skip(1).step_by(2) {
            let is_metric =
                ["tessera_", "process_"].iter().any(|prefix| literal.starts_with(prefix))
                    && literal
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_metric && !is_named(literal) {
                missing.insert(format!("{literal} ({path})"));
            }
        }
    }
    assert!(missing.is_empty(), "without a line in {documents:?}: {missing:#?}");
}

/// The cores read no clock and start nothing.
#[test]
fn cores_are_pure() {
    let forbidden = [
        "Instant::now",
        "SystemTime",
        "thread::spawn",
        "tokio::",
        "println!",
        "eprintln!",
        "std::fs::",
        "std::env::",
        "Mutex<",
        "RwLock<",
    ];
    let mut found = Vec::new();
    for source in sources() {
        let path = source.path.to_string_lossy().into_owned();
        let is_program = path.ends_with("main.rs")
            || path.ends_with("daemon.rs")
            || path.contains("/program/")
            || path.starts_with("hss/src/command");
        let is_core = ["common/src", "pcscf/src", "icscf/src", "scscf/src", "hss/src"]
            .iter()
            .any(|folder| source.path.starts_with(folder))
            && !source.path.starts_with("common/src/net")
            && !is_program;
        if !is_core {
            continue;
        }
        for (number, line) in source.product_text().lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for name in forbidden {
                if code.contains(name) {
                    found.push(format!("{path}:{}: {name}", number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Without their program around them, the three CSCFs pull in no runtime and no sockets.
#[test]
fn cores_depend_on_no_runtime() {
    for package in ["common", "pcscf", "icscf", "scscf"] {
        let output = Command::new(env!("CARGO"))
            .current_dir(root())
            .args([
                "tree",
                "--offline",
                "--edges",
                "normal",
                "--prefix",
                "none",
                "--no-default-features",
                "-p",
                package,
            ])
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8_lossy(&output.stdout);
        let names: BTreeSet<&str> =
            tree.lines().filter_map(|line| line.split(' ').next()).collect();
        for forbidden in [
            "tokio",
            "nix",
            "mio",
            "socket2",
            "netlink-sys",
            "rusqlite",
            "hickory-resolver",
            "axum",
        ] {
            assert!(
                !names.contains(forbidden),
                "{package} without its program depends on {forbidden}"
            );
        }
    }
}

/// A test that drives all daemons: in the simulator, the lab, the scenarios of both, the LTE transport.
fn drives_all(source: &tidy::Source) -> bool {
    ["tests/sim", "tests/lab", "tests/scenarios", "tests/lte"]
        .iter()
        .any(|folder| source.path.starts_with(folder))
}

/// Each seed row is cited right above a test that drives all daemons, or named in later.tsv with what will bring it;
/// never both. A long range says nothing about each of its rows.
#[test]
fn every_seed_row_has_a_test_or_a_reason() {
    let sources = sources();
    let proofs: Vec<_> = sources
        .iter()
        .filter(|source| drives_all(source))
        .flat_map(|source| proofs(&source.text).into_iter().map(|proof| (&source.path, proof)))
        .collect();
    let vague: Vec<_> = proofs.iter().filter(|(_, proof)| proof.longest_range > 3).collect();
    assert!(vague.is_empty(), "name each row: {vague:#?}");
    let tested: BTreeSet<u32> = proofs.iter().flat_map(|(_, proof)| proof.rows.clone()).collect();
    let later = rows_for_later();
    let missing: Vec<u32> =
        (1..=SEED_ROWS).filter(|row| !tested.contains(row) && !later.contains_key(row)).collect();
    let both: Vec<u32> = later.keys().copied().filter(|row| tested.contains(row)).collect();
    assert!(missing.is_empty(), "rows neither tested nor in later.tsv: {missing:?}");
    assert!(both.is_empty(), "rows tested, so take them out of later.tsv: {both:?}");
}

/// A specification is written in one way, so that a search finds every place.
#[test]
fn clauses_are_cited_in_one_way() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            let comment = line.trim_start();
            if !comment.starts_with("//") {
                continue;
            }
            let spelt =
                ["3GPP TS", "TS24", "TS29", "TS33", "TS-24", "RFC3261", "rfc 3", " clause 5."];
            if spelt.iter().any(|bad| comment.contains(bad)) {
                wrong.push(format!("{}:{}: {comment}", source.path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "write `TS 24.229 §5.2.2.1`, `RFC 3261 §17.2`: {wrong:#?}");
}

/// Prints the index: clause, where it is implemented, where it is tested; then the seed rows.
#[test]
fn index() {
    let all = sources();
    let mut code: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut tests: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut rows: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    let mut declined = Vec::new();
    for source in &all {
        let path = source.path.display().to_string();
        for clause in clauses(source.product_text()) {
            code.entry(clause).or_default().insert(path.clone());
        }
        for clause in clauses(source.test_text()) {
            tests.entry(clause).or_default().insert(path.clone());
        }
        for proof in drives_all(source).then(|| proofs(&source.text)).into_iter().flatten() {
            for row in proof.rows {
                rows.entry(row).or_default().insert(format!("{path}:{}", proof.name));
            }
        }
        for line in source
            .text
            .lines()
            .filter(|line| line.contains("NOT DONE:") || line.contains("DEVIATES:"))
        {
            declined.push(format!("{path}: {}", line.trim_start_matches(['/', '!', ' '])));
        }
    }
    println!("# Clauses");
    for (clause, files) in &code {
        let tested = tests.get(clause).map_or("no test cites it".into(), join);
        println!("{clause}: {} | {tested}", join(files));
    }
    println!("# Declined and deviating");
    for line in declined {
        println!("{line}");
    }
    println!("# Seed rows");
    let later = rows_for_later();
    for row in 1..=SEED_ROWS {
        let place = rows.get(&row).map(join);
        let place = place.or_else(|| later.get(&row).map(|why| format!("later: {why}")));
        println!("S-{row:02}: {}", place.unwrap_or_default());
    }
    assert!(!code.is_empty());
}

fn join(files: &BTreeSet<String>) -> String {
    files.iter().cloned().collect::<Vec<_>>().join(" ")
}
