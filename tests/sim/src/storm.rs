//! One seed: phones that do what phones do while the network does its worst, then healing, then rest.
//!
//! In the fault phase anything may fail but a promise: no vector twice, no key to a UE, no answer to
//! a challenge in clear. After healing every phone must get its registration; at rest nobody owes
//! anything, kernel and phones have the same associations, and all four functions agree on who is
//! registered. After deregistration nothing is left anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::random::Random;
use scenarios::{Phone, Standing};

use crate::ims::{Ims, Options};
use crate::network::Faults;

const PHONES: usize = 5;
const FAULT_SECONDS: u64 = 300;
/// Enough for the longest of all timers that a fault can have left: 64 × T1 on Gm, back-offs, a
/// temporary set's 240 s.
const HEALING_SECONDS: u64 = 600;
const REST_SECONDS: u64 = 400;

/// What a seed came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub messages: u64,
    pub events: u64,
    pub simulated_seconds: u64,
    pub vectors: u64,
    /// Registrations and deregistrations that ended well.
    pub completed: u64,
    pub faults: String,
    /// Over all that happened; equal for equal seeds.
    pub fingerprint: u64,
}

/// Runs a seed; an error says what did not hold.
pub fn run(seed: u64, show: bool) -> (Ims, Result<Report, String>) {
    let mut draw = Random::from_seed({
        let mut bytes = [0xA5; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        bytes
    });
    let options = Options {
        is_ipv6: draw.below(4) == 0,
        is_tcp: draw.below(4) == 0,
        is_unwatched: true,
        is_choice_announced: false,
        ..Options::default()
    };
    let mut ims = Ims::new(seed, options);
    ims.world.has_model = false;
    ims.world.ladder.is_on = show;
    let result = phases(&mut ims, &mut draw);
    (ims, result)
}

fn phases(ims: &mut Ims, draw: &mut Random) -> Result<Report, String> {
    let begin = ims.world.now;
    let faults = draw_faults(draw);
    let killed = fault_phase(ims, draw, faults);
    heal(ims)?;
    rest(ims, "after healing")?;
    agree(ims)?;
    leave(ims)?;
    rest(ims, "after deregistration")?;
    nothing_left(ims)?;
    let completed = ims.world.phones.iter().map(|phone| phone.completed()).sum();
    Ok(Report {
        messages: ims.world.messages,
        events: ims.world.events,
        simulated_seconds: ims.world.now.since(begin).as_secs(),
        vectors: ims.world.checkers.vectors,
        completed,
        faults: format!("{faults:?}, killed: {killed:?}"),
        fingerprint: ims.world.events ^ (ims.world.messages << 20) ^ (completed << 44),
    })
}

/// Which faults a seed has at all is drawn too: some bugs show only where others are absent.
fn draw_faults(draw: &mut Random) -> Faults {
    let mut share = |limit: u64| if draw.below(2) == 0 { 0 } else { draw.below(limit) as u32 };
    Faults {
        radio_loss: share(300),
        duplication: share(150),
        core_loss: share(100),
        reordering: share(250),
        kernel_refusals: share(120),
    }
}

fn fault_phase(ims: &mut Ims, draw: &mut Random, faults: Faults) -> Vec<&'static str> {
    ims.world.network.faults = faults;
    for number in 0..PHONES {
        let kind = if draw.below(5) == 0 { Phone::CardAhead } else { Phone::Good };
        let ue = ims.add(kind);
        debug_assert_eq!(ue, number);
        let mut at = draw.below(60_000);
        while at < FAULT_SECONDS * 1_000 {
            let command = match draw.below(10) {
                0..=5 => "register",
                6..=7 => "deregister",
                _ => "forget",
            };
            ims.world.command_after(ue, command, Duration::from_millis(at));
            at += 1_000 + draw.below(90_000);
        }
    }
    let mut killed = Vec::new();
    let mut sequence_numbers = ims.sequence_numbers();
    let end = ims.world.now + Duration::from_secs(FAULT_SECONDS);
    while ims.world.now < end {
        let next = ims.world.now + Duration::from_millis(5_000 + draw.below(60_000));
        ims.world.run(next.min(end), |_| false);
        sequence_numbers = grown(ims, sequence_numbers);
        if draw.below(3) == 0 {
            let names = ["scscf1", "scscf2", "icscf", "hss", "pcscf"];
            let name = names[draw.below(names.len() as u64) as usize];
            let member = ims.world.member(name);
            if draw.below(4) == 0 {
                ims.world.members[member].hangs = true;
            } else if ims.world.members[member].core.is_some() {
                ims.world.kill(member);
                let down = Duration::from_millis(200 + draw.below(60_000));
                ims.world.restart_after(member, down);
            }
            killed.push(name);
        }
        let pcscf = ims.world.member("pcscf");
        if draw.below(8) == 0
            && let Some(kernel) = &mut ims.world.members[pcscf].kernel
            && kernel.lose_one(draw).is_some()
        {
            killed.push("a set in the kernel");
        }
        for member in 0..ims.world.members.len() {
            if draw.below(2) == 0 {
                ims.world.members[member].hangs = false;
            }
        }
    }
    killed
}

/// SQN only grows (TS 33.102 Annex C.1.1), whatever happens to whom.
fn grown(ims: &Ims, before: BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let now = ims.sequence_numbers();
    for (subscriber, sqn) in &before {
        let seed = ims.world.seed;
        let later = now.get(subscriber).expect("subscribers stay");
        assert!(later >= sqn, "seed {seed}: SQN of {subscriber} went back from {sqn} to {later}");
    }
    now
}

/// The faults end, and every phone is switched off and on: it must get its registration.
fn heal(ims: &mut Ims) -> Result<(), String> {
    ims.world.network.faults = Faults::default();
    for member in 0..ims.world.members.len() {
        ims.world.members[member].hangs = false;
        ims.world.restart_after(member, Duration::from_millis(100));
    }
    let end = ims.world.now + Duration::from_secs(HEALING_SECONDS);
    // Long enough for hung look-ups and connections to have ended.
    let quiet = ims.world.now + Duration::from_secs(130);
    ims.world.run(quiet, |_| false);
    for ue in 0..PHONES {
        ims.world.command_after(ue, "forget", Duration::from_millis(1));
        ims.world.command_after(ue, "register", Duration::from_millis(10 + ue as u64 * 700));
        ims.world.phones[ue].expect();
    }
    loop {
        let next = ims.world.now + Duration::from_secs(10);
        ims.world.run(next, |_| false);
        let mut waiting = 0;
        for ue in 0..PHONES {
            match ims.world.phones[ue].standing() {
                Standing::Registered => {}
                Standing::Busy => waiting += 1,
                Standing::Idle | Standing::Failed { .. } => {
                    waiting += 1;
                    ims.world.command_after(ue, "register", Duration::from_millis(1));
                    ims.world.phones[ue].expect();
                }
            }
        }
        if waiting == 0 {
            return Ok(());
        }
        if ims.world.now >= end {
            let standings: Vec<_> = ims.world.phones.iter().map(|phone| phone.standing()).collect();
            return Err(format!("not registered after healing: {standings:?}"));
        }
    }
}

/// Transactions that only linger have ended; nobody owes anybody anything (invariant I4).
fn rest(ims: &mut Ims, when: &str) -> Result<(), String> {
    let until = ims.world.now + Duration::from_secs(REST_SECONDS);
    ims.world.run(until, |_| false);
    let owed: Vec<_> = ims.world.owed().into_iter().filter(|(_, count)| *count > 0).collect();
    if !owed.is_empty() {
        return Err(format!("{when}, owed: {owed:?}"));
    }
    let phones: Vec<_> = ims.world.phones.iter().map(|phone| phone.owed()).collect();
    if phones.iter().any(|count| *count > 0) {
        return Err(format!("{when}, phones owe {phones:?}"));
    }
    Ok(())
}

/// All functions say the same of who is registered, and the P-CSCF's kernel mirrors the phones.
fn agree(ims: &mut Ims) -> Result<(), String> {
    let at_pcscf = ims.gauge("pcscf", "tessera_pcscf_registrations", &[]);
    if at_pcscf != PHONES as f64 {
        return Err(format!("{at_pcscf} registrations at the P-CSCF"));
    }
    let at_scscf: f64 = ["scscf1", "scscf2"]
        .iter()
        .map(|name| ims.gauge(name, "tessera_scscf_registrations", &[]))
        .sum();
    if at_scscf < PHONES as f64 {
        return Err(format!("{at_scscf} registrations at the S-CSCFs"));
    }
    let at_hss = ims.registered_at_hss();
    if at_hss != PHONES {
        return Err(format!("{at_hss} registered pairs at the HSS"));
    }
    for (subscriber, server) in ims.assigned() {
        let name = if server.contains("scscf1") { "scscf1" } else { "scscf2" };
        let held = ims.world.admin(ims.world.member(name), &["registrations"]);
        if !held.contains(&subscriber) {
            return Err(format!("the HSS sends {subscriber} to {server}, which does not know it"));
        }
    }
    let pcscf = ims.world.member("pcscf");
    let kernel = ims.world.members[pcscf].kernel.as_ref().ok_or("no kernel")?;
    if kernel.len() != PHONES {
        return Err(format!("{} sets in the kernel for {PHONES} phones", kernel.len()));
    }
    let of_phones: BTreeSet<u32> =
        ims.world.phones.iter().flat_map(|phone| phone.inbound_spis()).collect();
    let of_kernel = kernel.outbound_spis();
    if !of_kernel.is_subset(&of_phones) {
        return Err(format!("the kernel sends on {of_kernel:?}, phones have {of_phones:?}"));
    }
    persisted(ims)?;
    pcscf_goes_on(ims)
}

/// A killed P-CSCF costs nobody a registration (ipsec.md L-16): it comes back with its sets, the kernel
/// has kept them, and each phone refreshes over the set it had, without a challenge.
fn pcscf_goes_on(ims: &mut Ims) -> Result<(), String> {
    let pcscf = ims.world.member("pcscf");
    let before = ims.world.admin(pcscf, &["registrations"]);
    let spis = outbound_spis(ims)?;
    let vectors = ims.world.checkers.vectors;
    ims.world.kill(pcscf);
    ims.world.restart_after(pcscf, Duration::from_millis(200));
    let until = ims.world.now + Duration::from_secs(2);
    ims.world.run(until, |_| false);
    let after = ims.world.admin(pcscf, &["registrations"]);
    if names(&before) != names(&after) {
        return Err(format!("the P-CSCF forgot something:\n{before}---\n{after}"));
    }
    let lost = ims.gauge("pcscf", "tessera_pcscf_sets_lost_total", &[]);
    let strays = ims.gauge("pcscf", "tessera_pcscf_strays_removed_total", &[]);
    if lost != 0.0 || strays != 0.0 {
        return Err(format!("{lost} sets lost by the crash, {strays} strays removed"));
    }
    for ue in 0..PHONES {
        ims.world.command_after(ue, "register", Duration::from_millis(1 + ue as u64 * 300));
        ims.world.phones[ue].expect();
    }
    let until = ims.world.now + Duration::from_secs(140);
    let is_over = |world: &crate::world::World| {
        world.phones.iter().all(|phone| phone.standing() != Standing::Busy)
    };
    ims.world.run(until, is_over);
    let standings: Vec<_> = ims.world.phones.iter().map(|phone| phone.standing()).collect();
    if standings.iter().any(|standing| *standing != Standing::Registered) {
        return Err(format!("not refreshed after the crash of the P-CSCF: {standings:?}"));
    }
    let now = outbound_spis(ims)?;
    if ims.world.checkers.vectors != vectors || now != spis {
        return Err(format!("forced to register again: {now:?} in the kernel, {spis:?} before"));
    }
    Ok(())
}

fn outbound_spis(ims: &Ims) -> Result<BTreeSet<u32>, String> {
    let pcscf = ims.world.member("pcscf");
    let kernel = ims.world.members[pcscf].kernel.as_ref().ok_or("no kernel")?;
    Ok(kernel.outbound_spis())
}

/// Who is where, without times.
fn names(registrations: &str) -> Vec<String> {
    let lines = registrations.lines();
    lines.map(|line| line.split(" for ").next().unwrap_or_default().to_owned()).collect()
}

/// A restarted S-CSCF knows what the running one knew (invariant I6).
fn persisted(ims: &mut Ims) -> Result<(), String> {
    for name in ["scscf1", "scscf2"] {
        let member = ims.world.member(name);
        let before = ims.world.admin(member, &["registrations"]);
        ims.world.kill(member);
        ims.world.restart_after(member, Duration::from_millis(10));
        let until = ims.world.now + Duration::from_secs(40);
        ims.world.run(until, |_| false);
        let after = ims.world.admin(member, &["registrations"]);
        if without_times(&before) != without_times(&after) {
            return Err(format!("{name} forgot something:\n{before}---\n{after}"));
        }
    }
    Ok(())
}

/// Seconds left differ between two looks.
fn without_times(text: &str) -> Vec<String> {
    let word = |word: &str| match word.split_once("expires=") {
        Some((before, _)) => format!("{before}expires"),
        None => word.to_owned(),
    };
    text.lines().map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" ")).collect()
}

fn leave(ims: &mut Ims) -> Result<(), String> {
    for ue in 0..PHONES {
        ims.world.command_after(ue, "deregister", Duration::from_millis(1 + ue as u64 * 300));
        ims.world.phones[ue].expect();
    }
    let until = ims.world.now + Duration::from_secs(140);
    ims.world
        .run(until, |world| world.phones.iter().all(|phone| phone.standing() == Standing::Idle));
    let standings: Vec<_> = ims.world.phones.iter().map(|phone| phone.standing()).collect();
    if standings.iter().all(|standing| *standing == Standing::Idle) {
        return Ok(());
    }
    Err(format!("not deregistered: {standings:?}"))
}

fn nothing_left(ims: &mut Ims) -> Result<(), String> {
    let at_pcscf = ims.gauge("pcscf", "tessera_pcscf_registrations", &[]);
    let at_hss = ims.registered_at_hss();
    let pcscf = ims.world.member("pcscf");
    let sets = ims.world.members[pcscf].kernel.as_ref().map_or(0, |kernel| kernel.len());
    if at_pcscf == 0.0 && at_hss == 0 && sets == 0 {
        return Ok(());
    }
    Err(format!("left: {at_pcscf} at the P-CSCF, {at_hss} at the HSS, {sets} sets"))
}
