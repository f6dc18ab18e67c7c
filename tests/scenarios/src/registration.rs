//! Everything about being registered (TS 24.229 §5.1.1, §5.2.2, §5.3.1, §5.4.1).

use std::time::Duration;

use crate::{Function, Phone, Scenario, Standing, World, ensure};

/// Longer than a phone's own patience (64 × T1 on Gm is 128 s).
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "registers_with_aka",
        shows: "challenge, four associations, protected answer, profile",
        run: registers_with_aka,
        is_fault: false,
    },
    Scenario {
        name: "reregisters_over_the_associations",
        shows: "a refresh without a new challenge keeps the set",
        run: reregisters_over_the_associations,
        is_fault: false,
    },
    Scenario {
        name: "deregisters",
        shows: "the end of a registration at all four functions",
        run: deregisters,
        is_fault: false,
    },
    Scenario {
        name: "registers_again_after_deregistration",
        shows: "a new challenge, a new set",
        run: registers_again_after_deregistration,
        is_fault: false,
    },
    Scenario {
        name: "resynchronises",
        shows: "AUTS moves the sequence number of the HSS",
        run: resynchronises,
        is_fault: false,
    },
    Scenario {
        name: "card_rejects_the_network",
        shows: "a MAC failure ends in 403",
        run: card_rejects_the_network,
        is_fault: false,
    },
    Scenario {
        name: "network_rejects_the_card",
        shows: "a wrong response ends in 403",
        run: network_rejects_the_card,
        is_fault: false,
    },
    Scenario {
        name: "bidding_down_is_found_out",
        shows: "an altered Security-Verify ends in 494",
        run: bidding_down_is_found_out,
        is_fault: false,
    },
    Scenario {
        name: "unknown_subscriber_is_refused",
        shows: "the HSS knows nobody of that name: 403",
        run: unknown_subscriber_is_refused,
        is_fault: false,
    },
    Scenario {
        name: "twenty_register_at_once",
        shows: "twenty phones, twenty sets",
        run: twenty_register_at_once,
        is_fault: false,
    },
    Scenario {
        name: "registrations_survive_an_scscf_crash",
        shows: "kill -9 of the S-CSCF, restart, refresh without a new challenge",
        run: registrations_survive_an_scscf_crash,
        is_fault: true,
    },
    Scenario {
        name: "registrations_survive_a_pcscf_crash",
        shows: "kill -9 of the P-CSCF amid refreshes, restart: the same associations, nobody is challenged",
        run: registrations_survive_a_pcscf_crash,
        is_fault: true,
    },
    Scenario {
        name: "second_scscf_takes_over",
        shows: "a dead S-CSCF costs time, not the registration",
        run: second_scscf_takes_over,
        is_fault: true,
    },
    Scenario {
        name: "hung_hss_is_answered_for",
        shows: "a silent HSS ends in an error in time, and service returns with it",
        run: hung_hss_is_answered_for,
        is_fault: true,
    },
];

pub(crate) fn ended(world: &mut dyn World, ue: usize) -> bool {
    !matches!(world.standing(ue), Standing::Busy)
}

fn register(world: &mut dyn World, ue: usize) -> Result<Standing, String> {
    world.register(ue);
    world.until("the registration ends", PATIENCE, &mut |world| ended(world, ue))?;
    Ok(world.standing(ue))
}

pub(crate) fn registers(world: &mut dyn World, ue: usize) -> Result<(), String> {
    let standing = register(world, ue)?;
    ensure(standing == Standing::Registered, || format!("not registered: {standing:?}"))
}

fn fails_with(world: &mut dyn World, phone: Phone, expected: u16) -> Result<(), String> {
    let sets = established_sets(world);
    let ue = world.add_phone(phone);
    match register(world, ue)? {
        Standing::Failed { status, .. } if status == expected => {}
        other => return Err(format!("{expected} was to come, not {other:?}")),
    }
    let after = established_sets(world);
    ensure(after == sets, || format!("{after} established sets, {sets} before"))
}

pub(crate) fn registrations(world: &mut dyn World, of: Function) -> f64 {
    let name = match of {
        Function::Pcscf => "tessera_pcscf_registrations",
        _ => "tessera_scscf_registrations",
    };
    world.metric(of, name, &[])
}

fn established_sets(world: &mut dyn World) -> f64 {
    let name = "tessera_pcscf_security_association_sets";
    ["new", "in_use", "old"]
        .iter()
        .map(|state| world.metric(Function::Pcscf, name, &[("state", state)]))
        .sum()
}

/// S-01: the whole path, and the end state at P-CSCF and S-CSCF.
fn registers_with_aka(world: &mut dyn World) -> Result<(), String> {
    let at_pcscf = registrations(world, Function::Pcscf);
    let sets = established_sets(world);
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    let now = registrations(world, Function::Pcscf);
    ensure(now == at_pcscf + 1.0, || format!("{now} registrations at the P-CSCF"))?;
    let now = established_sets(world);
    ensure(now == sets + 1.0, || format!("{now} sets where {sets} were"))?;
    let at_scscf = registrations(world, Function::Scscf1) + registrations(world, Function::Scscf2);
    ensure(at_scscf >= 1.0, || "nobody is registered at an S-CSCF".into())
}

/// S-106: over the association, without MAR; the set stays.
fn reregisters_over_the_associations(world: &mut dyn World) -> Result<(), String> {
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    let sets = established_sets(world);
    let vectors = world.metric(Function::Hss, "tessera_hss_vectors_total", &[]);
    let completed = world.completed(ue);
    world.reregister(ue);
    world.until("the refresh ends", PATIENCE, &mut |world| world.completed(ue) > completed)?;
    let standing = world.standing(ue);
    ensure(standing == Standing::Registered, || format!("not registered: {standing:?}"))?;
    let now = established_sets(world);
    ensure(now == sets, || format!("{now} sets where {sets} were"))?;
    let now = world.metric(Function::Hss, "tessera_hss_vectors_total", &[]);
    ensure(now == vectors, || "a refresh has cost a vector".into())
}

/// S-107: gone everywhere; the set ends after the answer has passed.
fn deregisters(world: &mut dyn World) -> Result<(), String> {
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    let at_pcscf = registrations(world, Function::Pcscf);
    let at_scscf = registrations(world, Function::Scscf1) + registrations(world, Function::Scscf2);
    world.deregister(ue);
    world.until("the deregistration ends", PATIENCE, &mut |world| {
        matches!(world.standing(ue), Standing::Idle)
    })?;
    let now = registrations(world, Function::Pcscf);
    ensure(now == at_pcscf - 1.0, || format!("{now} registrations at the P-CSCF"))?;
    let now = registrations(world, Function::Scscf1) + registrations(world, Function::Scscf2);
    ensure(now < at_scscf, || format!("{now} registrations at the S-CSCFs, {at_scscf} before"))
}

/// TS 24.229 §5.1.1.2.1: nothing of the old registration is in the way of a new one.
fn registers_again_after_deregistration(world: &mut dyn World) -> Result<(), String> {
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    world.deregister(ue);
    world.until("the deregistration ends", PATIENCE, &mut |world| {
        matches!(world.standing(ue), Standing::Idle)
    })?;
    registers(world, ue)
}

/// S-68, S-69: the card's sequence number reaches the HSS, and the next challenge is accepted.
fn resynchronises(world: &mut dyn World) -> Result<(), String> {
    let before = world.metric(Function::Hss, "tessera_hss_resynchronisations_total", &[]);
    let ue = world.add_phone(Phone::CardAhead);
    registers(world, ue)?;
    let after = world.metric(Function::Hss, "tessera_hss_resynchronisations_total", &[]);
    ensure(after == before + 1.0, || format!("{after} resynchronisations, {before} before"))
}

/// S-68, S-70: no response and no auts.
fn card_rejects_the_network(world: &mut dyn World) -> Result<(), String> {
    fails_with(world, Phone::WrongKey, 403)
}

/// S-93: RES is not XRES.
fn network_rejects_the_card(world: &mut dyn World) -> Result<(), String> {
    fails_with(world, Phone::WrongResponse, 403)
}

/// S-86.
fn bidding_down_is_found_out(world: &mut dyn World) -> Result<(), String> {
    fails_with(world, Phone::AlteredSecurityVerify, 494)
}

/// S-44: UAA 5001.
fn unknown_subscriber_is_refused(world: &mut dyn World) -> Result<(), String> {
    fails_with(world, Phone::Unknown, 403)
}

fn twenty_register_at_once(world: &mut dyn World) -> Result<(), String> {
    let sets = established_sets(world);
    let ues: Vec<usize> = (0..20).map(|_| world.add_phone(Phone::Good)).collect();
    for ue in &ues {
        world.register(*ue);
    }
    world.until("all are registered", PATIENCE, &mut |world| {
        ues.iter().all(|ue| world.standing(*ue) == Standing::Registered)
    })?;
    let now = established_sets(world);
    ensure(now == sets + 20.0, || format!("{now} sets where {sets} were"))
}

/// S-08: the binding is durable.
fn registrations_survive_an_scscf_crash(world: &mut dyn World) -> Result<(), String> {
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    // A request that finds nobody is answered by 504, and the phone begins anew (TS 23.380 §4.4.3).
    world.until("the phone has asked what it asks", PATIENCE, &mut |world| {
        world.notified(ue) >= 1
    })?;
    let serving = [Function::Scscf1, Function::Scscf2]
        .into_iter()
        .find(|scscf| registrations(world, *scscf) >= 1.0)
        .ok_or("nobody is registered at an S-CSCF")?;
    let held = registrations(world, serving);
    let vectors = world.metric(Function::Hss, "tessera_hss_vectors_total", &[]);
    world.kill(serving);
    world.start(serving);
    world.until("the S-CSCF has its registrations back", PATIENCE, &mut |world| {
        registrations(world, serving) == held
    })?;
    let completed = world.completed(ue);
    world.reregister(ue);
    world.until("the refresh ends", PATIENCE, &mut |world| world.completed(ue) > completed)?;
    let now = world.metric(Function::Hss, "tessera_hss_vectors_total", &[]);
    ensure(now == vectors, || "the crash has cost a vector".into())
}

/// TS 33.203 §7.4: the associations outlive the process. Refreshes are under way when it dies: some before
/// the P-CSCF, some behind it, some on their way back.
fn registrations_survive_a_pcscf_crash(world: &mut dyn World) -> Result<(), String> {
    let ues: Vec<usize> = (0..12).map(|_| world.add_phone(Phone::Good)).collect();
    for ue in &ues {
        registers(world, *ue)?;
    }
    let vectors = world.metric(Function::Hss, "tessera_hss_vectors_total", &[]);
    let held = registrations(world, Function::Pcscf);
    for round in 0..3 {
        let completed: Vec<u64> = ues.iter().map(|ue| world.completed(*ue)).collect();
        for ue in &ues {
            world.reregister(*ue);
        }
        // In each round at another moment of the refreshes.
        world.until("some refreshes end", PATIENCE, &mut |world| {
            let ended =
                ues.iter().zip(&completed).filter(|(ue, old)| world.completed(**ue) > **old);
            ended.count() >= 4 * round
        })?;
        world.kill(Function::Pcscf);
        world.start(Function::Pcscf);
        world.until("all refreshes end", PATIENCE, &mut |world| {
            ues.iter().zip(&completed).all(|(ue, old)| world.completed(*ue) > *old)
        })?;
    }
    world.until("the P-CSCF has its registrations back", PATIENCE, &mut |world| {
        registrations(world, Function::Pcscf) == held
    })?;
    let now = world.metric(Function::Hss, "tessera_hss_vectors_total", &[]);
    ensure(now == vectors, || format!("{} challenges because of the crash", now - vectors))
}

/// TS 24.229 §5.3.1.3: the I-CSCF chooses again while the phone still waits.
fn second_scscf_takes_over(world: &mut dyn World) -> Result<(), String> {
    let ue = world.add_phone(Phone::Good);
    world.kill(Function::Scscf1);
    let result = registers(world, ue);
    let held = registrations(world, Function::Scscf2);
    world.start(Function::Scscf1);
    result?;
    ensure(held >= 1.0, || "the second S-CSCF holds no registration".into())
}

/// S-44: the answer comes within the phone's patience.
fn hung_hss_is_answered_for(world: &mut dyn World) -> Result<(), String> {
    let ue = world.add_phone(Phone::Good);
    world.hang(Function::Hss, true);
    let standing = register(world, ue);
    world.hang(Function::Hss, false);
    match standing? {
        Standing::Failed { status: 480 | 500..=599, .. } => {}
        other => return Err(format!("an error of the network was to come, not {other:?}")),
    }
    let again = world.add_phone(Phone::Good);
    world.until("service is back", PATIENCE, &mut |world| {
        if ended(world, again) && world.standing(again) != Standing::Registered {
            world.register(again);
        }
        world.standing(again) == Standing::Registered
    })
}
