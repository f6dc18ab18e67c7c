//! Every scenario in the simulated world: IPv4 and IPv6, UDP and TCP; and the golden ladder.

use scenarios::{Function, Phone, World};
use sim::ims::{Ims, Options};

fn all(options: Options) {
    let mut failed = Vec::new();
    for scenario in scenarios::all() {
        let mut ims = Ims::new(7, options);
        if let Err(error) = (scenario.run)(&mut ims) {
            let tail = ims.world.ladder.tail(40);
            failed.push(format!("{}: {error}\n{tail}", scenario.name));
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn over_ipv4_and_udp() {
    all(Options::default());
}

#[test]
fn over_ipv6_and_udp() {
    all(Options { is_ipv6: true, is_tcp: false, ..Options::default() });
}

#[test]
fn over_ipv4_and_tcp() {
    all(Options { is_ipv6: false, is_tcp: true, ..Options::default() });
}

#[test]
fn over_ipv6_and_tcp() {
    all(Options { is_ipv6: true, is_tcp: true, ..Options::default() });
}

/// RFC 3680 §5.1, §5.2: phones and P-CSCF do as well with documents about changes; over real bytes no version is left out,
/// and none comes twice.
#[test]
fn with_partial_documents() {
    let mut partial = 0;
    for scenario in scenarios::all() {
        let mut ims = Ims::with_documents(7, Options::default(), "partial");
        if let Err(error) = (scenario.run)(&mut ims) {
            panic!("{}: {error}\n{}", scenario.name, ims.world.ladder.tail(40));
        }
        for outcome in ["gap", "stale"] {
            let label = [("outcome", outcome)];
            let count = ims.metric(Function::Pcscf, "tessera_pcscf_watch_events_total", &label);
            assert_eq!(count, 0.0, "{}: {outcome}", scenario.name);
        }
        let lines = &ims.world.ladder.lines;
        let is_out_of_order = |line: &&String| line.contains("Gap {") || line.contains("Stale {");
        assert_eq!(lines.iter().find(is_out_of_order), None, "{}", scenario.name);
        partial += lines.iter().filter(|line| line.contains("is_full: false")).count();
    }
    assert!(partial > 0, "no document was partial");
}

/// S-10, S-29: who says what to whom, in which
/// order. `UPDATE=1 cargo test -p sim` rewrites the ladder; then read the difference.
#[test]
fn the_ladder_of_a_registration() {
    let mut ims = Ims::new(1, Options::default());
    ims.world.ladder.lines.clear();
    let ue = ims.add(Phone::Good);
    ims.register(ue);
    let end = ims.world.now + std::time::Duration::from_secs(3);
    ims.world.run(end, |_| false);
    let lines = &ims.world.ladder.lines;
    let from = lines.first().and_then(|line| line.trim().split(' ').next()).unwrap_or("0");
    let begin: f64 = from.parse().unwrap_or(0.0);
    let ladder: String = lines
        .iter()
        .map(|line| {
            let (time, rest) = line.trim_start().split_once(' ').unwrap_or(("0", line));
            let seconds = time.parse::<f64>().unwrap_or(0.0) - begin;
            format!("{seconds:7.3} {rest}\n")
        })
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ladders/register-aka.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &ladder).expect("the ladder is written");
    }
    let golden = std::fs::read_to_string(path).expect("the golden ladder");
    assert_eq!(ladder, golden);
}
