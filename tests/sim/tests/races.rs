//! A thousand seeds of the races that the specifications name.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sim::races::{self, Race};

/// How often each race was run, and how often the two have met.
type Met = BTreeMap<Race, (u64, u64)>;

fn seeds(range: std::ops::Range<u64>) {
    let (mut failed, mut met) = (Vec::new(), Met::new());
    for seed in range {
        match catch_unwind(AssertUnwindSafe(|| races::run(seed, false))) {
            Ok((_, race, Ok(has_met))) => {
                let of_race = met.entry(race).or_default();
                *of_race = (of_race.0 + 1, of_race.1 + u64::from(has_met));
            }
            Ok((_, race, Err(error))) => {
                failed.push(format!("seed {seed} (`cargo sim --races {seed}`), {race:?}: {error}"))
            }
            Err(_) => failed.push(format!("seed {seed} (`cargo sim --races {seed}`): panicked")),
        }
    }
    println!("{met:#?}");
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
    for race in races::ALL {
        let (runs, met) = met.get(&race).copied().unwrap_or_default();
        assert!(4 * met > runs, "{race:?}: the two have met {met} times in {runs}");
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
