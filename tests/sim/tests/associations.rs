//! A thousand seeds of associations, held against the rules of TS 33.203 §7.4 (rows L and A of ipsec.md).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sim::sets;

fn seeds(range: std::ops::Range<u64>) {
    let (mut failed, mut seen) = (Vec::new(), BTreeMap::<&str, u64>::new());
    for seed in range {
        match catch_unwind(AssertUnwindSafe(|| sets::run(seed, false).1)) {
            Ok(Ok(of_seed)) => {
                for (what, count) in of_seed {
                    *seen.entry(what).or_default() += count;
                }
            }
            Ok(Err(error)) => {
                failed.push(format!("seed {seed} (`cargo sim --sets {seed}`): {error}"))
            }
            Err(_) => failed.push(format!("seed {seed} (`cargo sim --sets {seed}`): panicked")),
        }
    }
    println!("{seen:#?}");
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
    // Each rule has been at work, or the model has watched nothing.
    for what in [
        "made",
        "authenticated",
        "authenticated again",
        "challenged again",
        "deregistered",
        "ended by the home network",
        "moved",
        "moved to the new set",
        "refreshed",
        "refused",
        "restarted",
        "taken over unused",
    ] {
        assert!(seen.get(what).is_some_and(|count| *count > 0), "never seen: {what}");
    }
}

#[test]
fn seeds_1_to_500() {
    seeds(1..501);
}

#[test]
fn seeds_501_to_1000() {
    seeds(501..1_001);
}
