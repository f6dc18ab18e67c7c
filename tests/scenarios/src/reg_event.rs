//! Registrations being watched, and ended by the network (TS 24.229 §5.1.1.3, §5.2.3, §5.4.2.1).

use std::time::Duration;

use crate::attacks::arrived_at_rest;
use crate::registration::{PATIENCE, registers, registrations};
use crate::{Function, Phone, Scenario, Standing, World, ensure};

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "phone_and_pcscf_watch",
        shows: "SUBSCRIBE and NOTIFY for phone and P-CSCF behind the registration",
        run: phone_and_pcscf_watch,
        is_fault: false,
    },
    Scenario {
        name: "a_refresh_is_told",
        shows: "the next document behind a refresh",
        run: a_refresh_is_told,
        is_fault: false,
    },
    Scenario {
        name: "hss_ends_a_registration",
        shows: "RTR: phone, P-CSCF and S-CSCF let the registration go",
        run: hss_ends_a_registration,
        is_fault: false,
    },
    Scenario {
        name: "hss_moves_a_user",
        shows: "RTR for a change of the server, and the phone comes back",
        run: hss_moves_a_user,
        is_fault: false,
    },
    Scenario {
        name: "operator_ends_a_registration",
        shows: "a command at the S-CSCF, and the phone hears of it",
        run: operator_ends_a_registration,
        is_fault: false,
    },
    Scenario {
        name: "an_end_behind_the_200",
        shows: "operator or HSS end what has just begun: phone and P-CSCF hear of it, whenever they subscribe",
        run: an_end_behind_the_200,
        is_fault: false,
    },
    Scenario {
        name: "application_server_hears",
        shows: "third-party REGISTER by shared filter criteria, and the server watches",
        run: application_server_hears,
        is_fault: false,
    },
    Scenario {
        name: "a_required_server_fails",
        shows: "no registration without a server that filter criteria demand: phone and P-CSCF hear of its end",
        run: a_required_server_fails,
        is_fault: false,
    },
    Scenario {
        name: "pcscf_watches_again_after_a_crash",
        shows: "kill -9 of the P-CSCF, restart: what the HSS ends then is heard of",
        run: pcscf_watches_again_after_a_crash,
        is_fault: true,
    },
    Scenario {
        name: "subscriptions_survive_an_scscf_crash",
        shows: "kill -9 of the S-CSCF, restart, and a refresh is told as before",
        run: subscriptions_survive_an_scscf_crash,
        is_fault: true,
    },
];

const SCSCFS: [Function; 2] = [Function::Scscf1, Function::Scscf2];

fn at_scscfs(world: &mut dyn World, name: &str) -> f64 {
    SCSCFS.iter().map(|scscf| world.metric(*scscf, name, &[])).sum()
}

/// Subscriptions that have been taken: what earlier scenarios leave may still be ending, so what there
/// are says nothing.
fn subscribed(world: &mut dyn World) -> f64 {
    let name = "tessera_scscf_subscription_events_total";
    let taken = [("outcome", "subscribed")];
    SCSCFS.iter().map(|scscf| world.metric(*scscf, name, &taken)).sum()
}

/// Registered, and watched by the phone and the P-CSCF.
fn watched(world: &mut dyn World) -> Result<usize, String> {
    watched_phone(world, Phone::Good)
}

pub(crate) fn watched_phone(world: &mut dyn World, phone: Phone) -> Result<usize, String> {
    let before = subscribed(world);
    let ue = world.add_phone(phone);
    registers(world, ue)?;
    world.until("two subscriptions more", PATIENCE, &mut |world| {
        subscribed(world) >= before + 2.0 && world.notified(ue) >= 1
    })?;
    Ok(ue)
}

/// S-100, S-101: each asks for itself, and each is told.
fn phone_and_pcscf_watch(world: &mut dyn World) -> Result<(), String> {
    let name = "tessera_pcscf_watch_events_total";
    let taken = [("outcome", "subscribed")];
    let before = world.metric(Function::Pcscf, name, &taken);
    watched(world)?;
    world.until("the P-CSCF watches", PATIENCE, &mut |world| {
        world.metric(Function::Pcscf, name, &taken) > before
    })?;
    let told = [("outcome", "notified")];
    world.until("the P-CSCF is notified", PATIENCE, &mut |world| {
        world.metric(Function::Pcscf, name, &told) >= 1.0
    })
}

fn a_refresh_is_told(world: &mut dyn World) -> Result<(), String> {
    let ue = watched(world)?;
    let told = world.notified(ue);
    world.reregister(ue);
    world.until("another document", PATIENCE, &mut |world| world.notified(ue) > told)
}

/// The phone, the P-CSCF and the S-CSCFs have let go of one registration; one of an earlier scenario may
/// end at the same time.
fn ends(world: &mut dyn World, ue: usize, at: (f64, f64)) -> Result<(), String> {
    world.until("the phone hears of it", PATIENCE, &mut |world| {
        world.standing(ue) == Standing::Idle
    })?;
    world.until("the P-CSCF hears of it", PATIENCE, &mut |world| {
        registrations(world, Function::Pcscf) <= at.0 - 1.0
    })?;
    let now = at_scscfs(world, "tessera_scscf_registrations");
    ensure(now <= at.1 - 1.0, || format!("{now} registrations at the S-CSCFs, {} before", at.1))
}

fn held(world: &mut dyn World) -> (f64, f64) {
    let at_pcscf = registrations(world, Function::Pcscf);
    (at_pcscf, at_scscfs(world, "tessera_scscf_registrations"))
}

/// S-123: RTR with PERMANENT_TERMINATION.
fn hss_ends_a_registration(world: &mut dyn World) -> Result<(), String> {
    let ue = watched(world)?;
    hss_ends(world, ue)
}

/// And the phone, the P-CSCF and the S-CSCF hear of it.
pub(crate) fn hss_ends(world: &mut dyn World, ue: usize) -> Result<(), String> {
    let at = held(world);
    let impi = world.private_identity(ue);
    world.command(Function::Hss, &["rtr", &impi, "permanent"]);
    ends(world, ue, at)
}

/// S-123: RTR with SERVER_CHANGE: the phone shall come again, and does.
fn hss_moves_a_user(world: &mut dyn World) -> Result<(), String> {
    let ue = watched(world)?;
    let at = held(world);
    let impi = world.private_identity(ue);
    world.command(Function::Hss, &["rtr", &impi, "server-change"]);
    ends(world, ue, at)?;
    registers(world, ue)
}

/// S-123: the operator's command at whichever S-CSCF has the user.
fn operator_ends_a_registration(world: &mut dyn World) -> Result<(), String> {
    let ue = watched(world)?;
    let at = held(world);
    let impi = world.private_identity(ue);
    for scscf in SCSCFS {
        world.command(scscf, &["deregister", &impi]);
    }
    ends(world, ue, at)
}

/// S-101, S-123: TS 24.229 §5.4.1.5: the command comes before, between, or behind their SUBSCRIBEs.
fn an_end_behind_the_200(world: &mut dyn World) -> Result<(), String> {
    let (at_pcscf, at_scscfs) = held(world);
    let ue = world.add_phone(Phone::Good);
    for by_operator in [true, false] {
        registers(world, ue)?;
        let impi = world.private_identity(ue);
        if by_operator {
            for scscf in SCSCFS {
                world.command(scscf, &["deregister", &impi]);
            }
        } else {
            world.command(Function::Hss, &["rtr", &impi, "permanent"]);
        }
        ends(world, ue, (at_pcscf + 1.0, at_scscfs + 1.0))?;
    }
    Ok(())
}

/// S-102: behind the registration, a refresh, and the end; what the server watches it is told.
fn application_server_hears(world: &mut dyn World) -> Result<(), String> {
    let at = |world: &mut dyn World, what: &str| {
        world.metric(Function::ApplicationServer, "tessera_as_events_total", &[("what", what)])
    };
    let mut before = ["registered", "notified", "deregistered"].map(|what| at(world, what));
    let ue = watched(world)?;
    world.until("the server hears, and is told", PATIENCE, &mut |world| {
        at(world, "registered") > before[0] && at(world, "notified") > before[1]
    })?;
    before = ["registered", "notified", "deregistered"].map(|what| at(world, what));
    world.reregister(ue);
    world.until("the server hears of the refresh", PATIENCE, &mut |world| {
        at(world, "registered") > before[0] && at(world, "notified") > before[1]
    })?;
    world.deregister(ue);
    world.until("the server hears of the end", PATIENCE, &mut |world| {
        at(world, "deregistered") > before[2]
    })
}

/// TS 24.229 §5.4.1.7, §5.4.1.5, TS 29.228 §B.2.2: DefaultHandling SESSION_TERMINATED.
fn a_required_server_fails(world: &mut dyn World) -> Result<(), String> {
    let failed = [("outcome", "not_located")];
    let name = "tessera_scscf_third_party_registers_total";
    let failures = |world: &mut dyn World| -> f64 {
        SCSCFS.iter().map(|scscf| world.metric(*scscf, name, &failed)).sum()
    };
    let before = failures(world);
    let (at_pcscf, at_scscfs) = held(world);
    let ue = world.add_phone(Phone::NeedsServer);
    world.register(ue);
    world.until("it is registered", PATIENCE, &mut |world| world.completed(ue) == 1)?;
    ends(world, ue, (at_pcscf + 1.0, at_scscfs + 1.0))?;
    let now = failures(world) - before;
    ensure(now >= 1.0, || "no server was looked for".to_owned())
}

/// TS 24.229 §5.2.3: the P-CSCF's own dialogs end with it, and are made anew without a word of a phone.
fn pcscf_watches_again_after_a_crash(world: &mut dyn World) -> Result<(), String> {
    let ue = watched(world)?;
    pcscf_crashes(world, ue)?;
    hss_ends(world, ue)
}

/// While this phone is at rest; what the P-CSCF held then, it watches again.
pub(crate) fn pcscf_crashes(world: &mut dyn World, ue: usize) -> Result<(), String> {
    // A document that is under way when it dies is lost, and its watcher with it (RFC 6665 §4.2.2).
    arrived_at_rest(world, ue)?;
    // Nobody is told of emergency registrations.
    let untold = world.metric(Function::Pcscf, "tessera_pcscf_emergency_registrations", &[]);
    let before = registrations(world, Function::Pcscf) - untold;
    world.kill(Function::Pcscf);
    world.start(Function::Pcscf);
    let taken = [("outcome", "notified")];
    world.until("the P-CSCF is told of all that it holds", PATIENCE, &mut |world| {
        world.metric(Function::Pcscf, "tessera_pcscf_watch_events_total", &taken) >= before
    })
}

/// S-08: subscriptions are durable.
fn subscriptions_survive_an_scscf_crash(world: &mut dyn World) -> Result<(), String> {
    let ue = watched(world)?;
    // What is under way at the moment is told again in full, and what is ending ends: let it.
    let name = "tessera_scscf_subscriptions";
    let (mut before, mut quiet) = ([0.0; 2], 0);
    world.until("nothing is under way", PATIENCE, &mut |world| {
        let now = SCSCFS.map(|scscf| world.metric(scscf, name, &[]));
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        quiet > 20
    })?;
    for scscf in SCSCFS {
        world.kill(scscf);
        world.start(scscf);
    }
    // Those of phones of earlier scenarios may end meanwhile; that this phone's is there the document shows.
    world.until("the S-CSCFs have their subscriptions back", PATIENCE, &mut |world| {
        let now = SCSCFS.map(|scscf| world.metric(scscf, name, &[]));
        now.iter().sum::<f64>() > 0.0 && now.iter().zip(before).all(|(now, before)| *now <= before)
    })?;
    let (told, completed) = (world.notified(ue), world.completed(ue));
    let limit = PATIENCE + Duration::from_secs(60);
    world.reregister(ue);
    world.until("the refresh ends", limit, &mut |world| world.completed(ue) > completed)?;
    world.until("another document", limit, &mut |world| world.notified(ue) > told)
}
