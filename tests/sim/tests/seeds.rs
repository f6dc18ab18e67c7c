//! A thousand seeds, in four parts so that they share the cores of the machine.

use sim::storm;

fn seeds(range: std::ops::Range<u64>) {
    let mut failed = Vec::new();
    for seed in range {
        let (_, result) = storm::run(seed, false);
        if let Err(error) = result {
            failed.push(format!("seed {seed} (`cargo sim {seed}` shows it): {error}"));
        }
    }
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn seeds_1_to_250() {
    seeds(1..251);
}

#[test]
fn seeds_251_to_500() {
    seeds(251..501);
}

#[test]
fn seeds_501_to_750() {
    seeds(501..751);
}

#[test]
fn seeds_751_to_1000() {
    seeds(751..1_001);
}

/// Invariant I2: the same seed gives the same run.
#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 77, 1_234] {
        let (first, second) = (storm::run(seed, true).0, storm::run(seed, true).0);
        assert_eq!(first.world.ladder.lines, second.world.ladder.lines, "seed {seed}");
    }
}
