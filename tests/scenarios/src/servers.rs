//! Servers that end in good order or fail, and who is served all the same: S-CSCFs, application servers, and
//! for emergency calls everybody.

use std::time::Duration;

use crate::procedures::{SCSCFS, refreshes};
use crate::registration::{PATIENCE, ended, registers, registrations};
use crate::{Function, Phone, Scenario, Standing, World, ensure};

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "scscf_is_drained",
        shows: "an S-CSCF that is to end takes nobody: phones register and refresh at the other one, unchallenged",
        run: scscf_is_drained,
        is_fault: true,
    },
    Scenario {
        name: "application_server_hangs",
        shows: "a silent server of SESSION_CONTINUED costs nobody a registration, and hears of the end at last",
        run: application_server_hangs,
        is_fault: true,
    },
    Scenario {
        name: "emergency_of_a_barred_user",
        shows: "a user whose identities are all barred is refused, but not for emergency calls",
        run: emergency_of_a_barred_user,
        is_fault: false,
    },
];

fn refreshes_unchallenged(world: &mut dyn World, ue: usize) -> Result<(), String> {
    let vectors = refreshes(world, ue)?;
    ensure(vectors == 0.0, || format!("the refresh took {vectors} vectors"))
}

/// A phone that has come, and the S-CSCF that serves it: which one that is depends on who was silent lately.
fn served_phone(world: &mut dyn World) -> Result<(usize, Function), String> {
    // A phone of an earlier scenario may leave at the same moment.
    for _ in 0..5 {
        let before = SCSCFS.map(|scscf| registrations(world, scscf));
        let ue = world.add_phone(Phone::Good);
        registers(world, ue)?;
        let now = SCSCFS.map(|scscf| registrations(world, scscf));
        match [now[0] > before[0], now[1] > before[1]] {
            [true, false] => return Ok((ue, Function::Scscf1)),
            [false, true] => return Ok((ue, Function::Scscf2)),
            _ => {}
        }
    }
    Err("no S-CSCF has one more".to_owned())
}

/// TS 24.229 §5.3.1.3, TS 23.380 §4.2: the third-party REGISTER that nobody answers keeps the S-CSCF, which begins
/// nothing new.
fn scscf_is_drained(world: &mut dyn World) -> Result<(), String> {
    let (ue, serving) = served_phone(world)?;
    let other = if serving == Function::Scscf1 { Function::Scscf2 } else { Function::Scscf1 };
    let at_other = registrations(world, other);
    world.hang(Function::ApplicationServer, true);
    let result = goes_to_the_other(world, ue, serving);
    world.hang(Function::ApplicationServer, false);
    let now = registrations(world, other);
    world.kill(serving);
    world.start(serving);
    let second = result?;
    // Of phones of earlier scenarios some may end meanwhile.
    ensure(now > at_other, || format!("{now} registrations, {at_other} before"))?;
    for ue in [ue, second] {
        world.deregister(ue);
        world.until("it leaves", PATIENCE, &mut |world| world.standing(ue) == Standing::Idle)?;
    }
    Ok(())
}

/// Gives a phone that has come meanwhile.
fn goes_to_the_other(world: &mut dyn World, ue: usize, serving: Function) -> Result<usize, String> {
    // Something is under way at the one that is to end.
    let waiting = world.add_phone(Phone::Good);
    registers(world, waiting)?;
    world.drain(serving);
    let name = "tessera_scscf_draining_refusals_total";
    refreshes_unchallenged(world, ue)?;
    let refused = world.metric(serving, name, &[]);
    ensure(refused >= 1.0, || "nobody was told to go elsewhere".to_owned())?;
    let second = world.add_phone(Phone::Good);
    registers(world, second)?;
    Ok(second)
}

/// TS 24.229 §5.4.1.7, TS 29.228 §B.2.2: refresh and end of the registration are not kept waiting. What it missed it hears
/// in order, once it is back.
fn application_server_hangs(world: &mut dyn World) -> Result<(), String> {
    let heard = |world: &mut dyn World, what: &str| {
        world.metric(Function::ApplicationServer, "tessera_as_events_total", &[("what", what)])
    };
    let ue = world.add_phone(Phone::Good);
    let before = heard(world, "registered");
    registers(world, ue)?;
    world.until("the server hears of it", PATIENCE, &mut |world| {
        heard(world, "registered") > before
    })?;
    let ends = heard(world, "deregistered");
    world.hang(Function::ApplicationServer, true);
    let result = refreshes_unchallenged(world, ue).and_then(|()| {
        world.deregister(ue);
        // Its answer is long behind the phone's.
        world.until("it leaves", Duration::from_secs(10), &mut |world| {
            world.standing(ue) == Standing::Idle
        })
    });
    world.hang(Function::ApplicationServer, false);
    result?;
    world.until("the server hears of the end", PATIENCE, &mut |world| {
        heard(world, "deregistered") > ends
    })
}

/// S-12: TS 24.229 §5.4.8.2, TS 29.228 §6.1.1.1: the I-CSCF says in UAR-Flags what it is for.
fn emergency_of_a_barred_user(world: &mut dyn World) -> Result<(), String> {
    let normal = world.add_phone(Phone::Good);
    let emergency = world.add_emergency_phone(normal);
    let (private_identity, telephone) = (world.private_identity(normal), world.telephone(normal));
    let home = private_identity.split('@').nth(1).unwrap_or_default();
    // The number as a SIP URI is there where the HSS has made the set from an MSISDN (TS 23.003 §13.4A).
    let number = telephone.replacen("tel:", "sip:", 1) + "@" + home;
    let identities = [format!("sip:{private_identity}"), telephone, number];
    for identity in &identities {
        world.command(Function::Hss, &["bar", identity]);
    }
    world.register(normal);
    world.until("an answer", PATIENCE, &mut |world| ended(world, normal))?;
    let standing = world.standing(normal);
    ensure(matches!(standing, Standing::Failed { status: 403, .. }), || {
        format!("403 was to come, not {standing:?}")
    })?;
    registers(world, emergency)?;
    refreshes_unchallenged(world, emergency)?;
    for identity in &identities {
        world.command(Function::Hss, &["unbar", identity]);
    }
    registers(world, normal)?;
    world.deregister(normal);
    world.until("it leaves", PATIENCE, &mut |world| world.standing(normal) == Standing::Idle)?;
    refreshes_unchallenged(world, emergency)
}
