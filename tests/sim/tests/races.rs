//! A thousand seeds of each race that the specifications name.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sim::races::{self, Race};

const SEEDS: u64 = 1_000;
/// Failures that are shown in full.
const SHOWN: usize = 20;

/// None fails, and each way of meeting was there often enough: a change of timing that has the two miss each
/// other shows nothing any more.
fn seeds(race: Race) {
    let races = races::ALL.len() as u64;
    let place = races::ALL.iter().position(|one| *one == race).expect("one of them") as u64;
    let mut failed = Vec::new();
    let mut met: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in (0..SEEDS).map(|number| (number + 1) * races + place) {
        let again = format!("seed {seed} (`cargo sim --races {seed}`)");
        match catch_unwind(AssertUnwindSafe(|| races::run(seed, false))) {
            Ok((_, of, Ok(ways))) => {
                assert_eq!(of, race);
                for way in ways {
                    *met.entry(way).or_default() += 1;
                }
            }
            Ok((_, _, Err(error))) => failed.push(format!("{again}: {error}")),
            Err(_) => failed.push(format!("{again}: panicked")),
        }
    }
    println!("{race:?}: {met:#?}");
    let count = failed.len();
    failed.truncate(SHOWN);
    assert!(failed.is_empty(), "{count} seeds failed:\n{}", failed.join("\n"));
    for (way, at_least) in race.expected() {
        let count = met.get(way).copied().unwrap_or_default();
        assert!(count >= *at_least, "{race:?}: {way} in {count} seeds, not in {at_least}");
    }
}

#[test]
fn repeated_register() {
    seeds(Race::RepeatedRegister);
}

#[test]
fn rtr_during_register() {
    seeds(Race::RtrDuringRegister);
}

#[test]
fn expiry_against_refresh() {
    seeds(Race::ExpiryAgainstRefresh);
}

#[test]
fn two_devices() {
    seeds(Race::TwoDevices);
}

#[test]
fn ppr_between_mar_and_sar() {
    seeds(Race::PprBetweenMarAndSar);
}

#[test]
fn emergency_beside_normal() {
    seeds(Race::EmergencyBesideNormal);
}

#[test]
fn pcscf_restart() {
    seeds(Race::PcscfRestart);
}
