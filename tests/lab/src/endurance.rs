//! `lab check endurance`: phones register again and again, each time with a new authentication, new
//! associations and new ports, as in months of a phone's life. In the end each has the four
//! associations of one set and nothing else, and the P-CSCF is as large as it was after a quarter.

use std::time::{Duration, Instant};

use scenarios::{Function, Phone, Standing, World};

use crate::check::{LabWorld, Tell, outcome};

/// T1 of P-CSCF and phones here: an old set then lives 6.4 s, and not 128. Less would not leave a busy
/// machine the time for what it still has to say on it.
pub const GM_T1: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(120);
/// Sets of one phone that may be there before it goes on: well below what its ports allow.
const SETS_EACH: usize = 5;

/// `count` re-registrations of `phones` phones together.
pub fn run(world: &mut LabWorld, phones: usize, count: usize, tell: &mut Tell<'_>) {
    let begin = Instant::now();
    let result = register_again_and_again(world, phones, count);
    let (shows, result) = match result {
        Ok(figures) => (figures, Ok(())),
        Err(error) => (String::new(), Err(error)),
    };
    tell(outcome("reregisters_with_new_authentication", &shows, begin, result));
}

fn register_again_and_again(
    world: &mut LabWorld,
    phones: usize,
    count: usize,
) -> Result<String, String> {
    let ues: Vec<usize> = (0..phones).map(|_| world.add_phone(Phone::Good)).collect();
    ues.iter().for_each(|ue| world.register(*ue));
    all_have_completed(world, &ues, 1)?;
    let vectors = world.metric(Function::Hss, "tessera_hss_vectors_total", &[]);
    let begin = Instant::now();
    let rounds = count.div_ceil(phones);
    let mut after_a_quarter = 0;
    for round in 1..=rounds {
        // One without a challenge, by which the phone first speaks on its new set and so ends the old
        // one (TS 24.229 §5.2.2.1); and one with.
        for registered in [2 * round, 2 * round + 1] {
            ues.iter().for_each(|ue| world.reregister(*ue));
            all_have_completed(world, &ues, registered as u64)?;
        }
        world.until("old sets end", PATIENCE, &mut |world| sets(world) <= phones * SETS_EACH)?;
        if round == rounds.div_ceil(4) {
            after_a_quarter = resident_octets(world)?;
        }
    }
    let took = begin.elapsed();
    ues.iter().for_each(|ue| world.reregister(*ue));
    all_have_completed(world, &ues, 2 * rounds as u64 + 2)?;
    world.until("one set for each phone", PATIENCE, &mut |world| sets(world) == phones)?;
    let known = world.metric(Function::Pcscf, "tessera_pcscf_security_association_sets", &[]);
    if known != phones as f64 {
        return Err(format!("the P-CSCF knows {known} sets of {phones} phones"));
    }
    if world.metric(Function::Pcscf, "tessera_ipsec_plane", &[("plane", "xfrm")]) == 1.0 {
        let listed = world.ask(|laboratory| {
            let namespace = laboratory.topology.namespace("pcscf");
            Some(namespace.output_of(&["ip", "xfrm", "state"]))
        });
        let listed = listed.unwrap_or_else(|| Err("no laboratory".into()))?;
        let states = listed.lines().filter(|line| line.contains("proto esp")).count();
        if states != 4 * phones {
            return Err(format!("{states} states in the kernel for {phones} phones"));
        }
    }
    let made = world.metric(Function::Hss, "tessera_hss_vectors_total", &[]) - vectors;
    let wanted = (rounds * phones) as f64;
    if made != wanted {
        return Err(format!("{made} vectors for {wanted} re-registrations"));
    }
    let in_the_end = resident_octets(world)?;
    if in_the_end > after_a_quarter + after_a_quarter / 4 {
        return Err(format!("P-CSCF: {in_the_end} octets, {after_a_quarter} after a quarter"));
    }
    Ok(format!(
        "{wanted} by {phones} phones in {:.0} s, then 4 associations each; P-CSCF {} kB after a \
         quarter, {} kB in the end",
        took.as_secs_f64(),
        after_a_quarter / 1024,
        in_the_end / 1024,
    ))
}

fn all_have_completed(world: &mut LabWorld, ues: &[usize], times: u64) -> Result<(), String> {
    world.until("all are registered", PATIENCE, &mut |world| {
        ues.iter().all(|ue| {
            world.completed(*ue) >= times || matches!(world.standing(*ue), Standing::Failed { .. })
        })
    })?;
    for ue in ues {
        if let Standing::Failed { status, cause } = world.standing(*ue) {
            return Err(format!("ue{} failed: {status} {cause}", ue + 1));
        }
    }
    Ok(())
}

/// Sets that the data plane holds.
fn sets(world: &mut dyn World) -> usize {
    world.metric(Function::Pcscf, "tessera_ipsec_sets", &[]) as usize
}

fn resident_octets(world: &mut LabWorld) -> Result<u64, String> {
    let octets = world.ask(|laboratory| laboratory.processes.get("pcscf")?.resident_octets());
    octets.ok_or_else(|| "the P-CSCF does not run".to_owned())
}
