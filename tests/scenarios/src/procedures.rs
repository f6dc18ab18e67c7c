//! Procedures that the network or time begins, and emergency registrations.

use std::time::Duration;

use crate::reg_event::{hss_ends, watched_phone};
use crate::registration::{ended, registers, registrations};
use crate::{Function, Phone, Scenario, Standing, World, ensure};

/// Longer than any interval that the S-CSCFs of a world give to [`Phone::Hasty`], and what follows it.
const PATIENCE: Duration = Duration::from_secs(130);
pub(crate) const SCSCFS: [Function; 2] = [Function::Scscf1, Function::Scscf2];

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "profile_is_pushed",
        shows: "PPR, but not of what the S-CSCF has: the new profile is there, the phone notices nothing",
        run: profile_is_pushed,
        is_fault: false,
    },
    Scenario {
        name: "an_identity_is_barred",
        shows: "bar and unbar at the HSS, PPR, and the phone is told what it may use",
        run: an_identity_is_barred,
        is_fault: false,
    },
    Scenario {
        name: "an_identity_comes_and_goes",
        shows: "identity add and remove at the HSS, PPR, and the phone is told what it may use",
        run: an_identity_comes_and_goes,
        is_fault: false,
    },
    Scenario {
        name: "operator_asks_for_authentication",
        shows: "a command at the S-CSCF, and the next refresh alone is challenged",
        run: operator_asks_for_authentication,
        is_fault: false,
    },
    Scenario {
        name: "gruus_come_in_pairs",
        shows: "a public GRUU that stays and hides the IMEI, a temporary one with each REGISTER",
        run: gruus_come_in_pairs,
        is_fault: false,
    },
    Scenario {
        name: "interval_too_brief_and_expiry",
        shows: "423 before a vector is spent, Min-Expires obeyed; then time ends it, and not before",
        run: interval_too_brief_and_expiry,
        is_fault: false,
    },
    Scenario {
        name: "emergency_beside_normal",
        shows: "an emergency registration stands beside the normal one, nobody is told, nobody can end it",
        run: emergency_beside_normal,
        is_fault: false,
    },
    Scenario {
        name: "network_spares_emergency",
        shows: "operator and HSS end the normal registration; the emergency one beside it stays",
        run: network_spares_emergency,
        is_fault: false,
    },
    Scenario {
        name: "two_attempts_at_once",
        shows: "one user registers on two bearers at the same time; neither attempt ends the other",
        run: two_attempts_at_once,
        is_fault: true,
    },
    Scenario {
        name: "contact_elsewhere",
        shows: "a phone whose Contact leads nowhere is found by its Path, in dialogs and when they end",
        run: contact_elsewhere,
        is_fault: false,
    },
    Scenario {
        name: "a_flow_is_registered",
        shows: "a phone that registers flows: the P-CSCF keeps one for it, and a restarted phone takes its place",
        run: a_flow_is_registered,
        is_fault: false,
    },
    Scenario {
        name: "a_termination_is_told_later",
        shows: "RTR while the S-CSCF is away: it is told when it is back, and so is the phone",
        run: a_termination_is_told_later,
        is_fault: true,
    },
    Scenario {
        name: "restored_by_another_scscf",
        shows: "kill -9 of the S-CSCF that serves: another one takes the refresh, unchallenged, and tells the watchers",
        run: restored_by_another_scscf,
        is_fault: true,
    },
];

/// Sum over the S-CSCFs.
fn at_scscfs(world: &mut dyn World, name: &str, labels: &[(&str, &str)]) -> f64 {
    SCSCFS.iter().map(|scscf| world.metric(*scscf, name, labels)).sum()
}

fn vectors(world: &mut dyn World) -> f64 {
    world.metric(Function::Hss, "tessera_hss_vectors_total", &[])
}

/// A refresh that ends well; the answer is how many vectors it took.
pub(crate) fn refreshes(world: &mut dyn World, ue: usize) -> Result<f64, String> {
    let (before, completed) = (vectors(world), world.completed(ue));
    world.reregister(ue);
    world.until("the refresh ends", PATIENCE, &mut |world| {
        world.completed(ue) > completed || matches!(world.standing(ue), Standing::Failed { .. })
    })?;
    let standing = world.standing(ue);
    ensure(standing == Standing::Registered, || format!("not refreshed: {standing:?}"))?;
    Ok(vectors(world) - before)
}

/// TS 29.228 §6.2.2: Push-Profile-Request for a registered user.
fn profile_is_pushed(world: &mut dyn World) -> Result<(), String> {
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    let taken = [("outcome", "taken")];
    let name = "tessera_scscf_profile_pushes_total";
    let before = at_scscfs(world, name, &taken);
    let impi = world.private_identity(ue);
    // Nothing has changed.
    world.command(Function::Hss, &["ppr", &impi]);
    world.command(Function::Hss, &["ppr", &impi, "again"]);
    world.until("the profile is taken", PATIENCE, &mut |world| {
        at_scscfs(world, name, &taken) == before + 1.0
    })?;
    let took = refreshes(world, ue)?;
    ensure(at_scscfs(world, name, &taken) == before + 1.0, || "pushed twice".to_owned())?;
    ensure(took == 0.0, || "the refresh was challenged".to_owned())
}

/// TS 29.228 §6.2.2, TS 24.229 §5.4.2.1.2: an implicit set that changes.
fn an_identity_is_barred(world: &mut dyn World) -> Result<(), String> {
    let ue = watched_phone(world, Phone::Good)?;
    let telephone = world.telephone(ue);
    changes_its_set(world, ue, &[&["bar", &telephone], &["unbar", &telephone]])
}

/// TS 29.228 §6.2.2, §6.5.2.1: one that grows and shrinks.
fn an_identity_comes_and_goes(world: &mut dyn World) -> Result<(), String> {
    let ue = watched_phone(world, Phone::Good)?;
    let telephone = world.telephone(ue);
    let identity = format!("sip:second-{}", world.private_identity(ue));
    let commands =
        [&["identity", "add", &identity, &telephone][..], &["identity", "remove", &identity]];
    changes_its_set(world, ue, &commands)
}

/// Each command is pushed, and the phone is told; it goes on as before.
fn changes_its_set(world: &mut dyn World, ue: usize, commands: &[&[&str]]) -> Result<(), String> {
    let taken = [("outcome", "taken")];
    let name = "tessera_scscf_profile_pushes_total";
    for command in commands {
        let (before, told) = (at_scscfs(world, name, &taken), world.notified(ue));
        world.command(Function::Hss, command);
        world.until("the profile is taken, and told", PATIENCE, &mut |world| {
            at_scscfs(world, name, &taken) > before && world.notified(ue) > told
        })?;
    }
    let took = refreshes(world, ue)?;
    ensure(took == 0.0, || "the refresh was challenged".to_owned())
}

/// TS 24.229 §5.4.1.6.
fn operator_asks_for_authentication(world: &mut dyn World) -> Result<(), String> {
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    let impi = world.private_identity(ue);
    for scscf in SCSCFS {
        world.command(scscf, &["reauthenticate", &impi]);
    }
    let took = refreshes(world, ue)?;
    ensure(took == 1.0, || format!("the refresh took {took} vectors"))?;
    let took = refreshes(world, ue)?;
    ensure(took == 0.0, || "the refresh behind it was challenged again".to_owned())
}

/// TS 24.229 §5.4.7A, RFC 5627 §4.2, §5.2.
fn gruus_come_in_pairs(world: &mut dyn World) -> Result<(), String> {
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    let (public, temporary) = world.gruus(ue).ok_or("the phone has no GRUUs")?;
    let is_hidden = public.contains(";gr=urn:uuid:") && !public.contains("imei");
    ensure(is_hidden, || format!("public GRUU {public}"))?;
    let user = temporary.split('@').next().unwrap_or_default();
    let line = world.line(ue).ok_or("the phone has no bearer")?;
    let name = line.impi.split('@').next().unwrap_or_default();
    ensure(temporary.ends_with(";gr") && !user.contains(name), || {
        format!("temporary GRUU {temporary}")
    })?;
    refreshes(world, ue)?;
    let (stays, another) = world.gruus(ue).ok_or("the phone has lost its GRUUs")?;
    ensure(stays == public, || format!("{public}, and then {stays}"))?;
    ensure(another != temporary, || format!("{temporary} again"))
}

/// S-133: RFC 3261 §10.2.8, §10.3; TS 24.229 §5.4.1.2.1, §5.4.1.5.
fn interval_too_brief_and_expiry(world: &mut dyn World) -> Result<(), String> {
    let held = |world: &mut dyn World| {
        let at_pcscf = registrations(world, Function::Pcscf);
        (at_pcscf, at_scscfs(world, "tessera_scscf_registrations", &[]))
    };
    let refused = [("outcome", "interval_too_brief")];
    let name = "tessera_scscf_registers_total";
    let (before, spent) = (held(world), vectors(world));
    let told = at_scscfs(world, name, &refused);
    let ue = world.add_phone(Phone::Hasty);
    registers(world, ue)?;
    let now = held(world);
    ensure(now == (before.0 + 1.0, before.1 + 1.0), || format!("{now:?}, {before:?} before"))?;
    let refusals = at_scscfs(world, name, &refused) - told;
    ensure(refusals == 1.0, || format!("{refusals} answers 423"))?;
    let took = vectors(world) - spent;
    ensure(took == 1.0, || format!("{took} vectors for one registration"))?;
    let at_hss = [("command", "SAR")];
    let watchers_left = |world: &mut dyn World| {
        let of_watchers = [("outcome", "watchers_left")];
        at_scscfs(world, "tessera_scscf_restorations_total", &of_watchers)
    };
    let answered = world.metric(Function::Hss, "tessera_hss_requests_total", &at_hss);
    let left = watchers_left(world);
    world.until("time ends it everywhere", PATIENCE, &mut |world| held(world) == before)?;
    let told = world.metric(Function::Hss, "tessera_hss_requests_total", &at_hss) - answered;
    let told = told - (watchers_left(world) - left);
    ensure(told == 1.0, || format!("{told} SARs of the end"))
}

/// S-12: TS 24.229 §5.1.6, §5.1.6.2, §5.4.8: another contact of the same user, on another bearer.
fn emergency_beside_normal(world: &mut dyn World) -> Result<(), String> {
    let normal = world.add_phone(Phone::Good);
    registers(world, normal)?;
    world.until("the phone hears of its registration", PATIENCE, &mut |world| {
        world.notified(normal) > 0
    })?;
    let watches =
        |world: &mut dyn World| world.metric(Function::Pcscf, "tessera_pcscf_watches", &[]);
    let (told, at_pcscf) = (world.notified(normal), registrations(world, Function::Pcscf));
    let watched = watches(world);
    let emergency = world.add_emergency_phone(normal);
    registers(world, emergency)?;
    let now = registrations(world, Function::Pcscf);
    ensure(now == at_pcscf + 1.0, || format!("{now} registrations, {at_pcscf} before"))?;
    // Neither replaces the other.
    for ue in [normal, emergency] {
        let took = refreshes(world, ue)?;
        ensure(took == 0.0, || "a refresh was challenged".to_owned())?;
    }
    world.deregister(emergency);
    world.until("the answer to its deregistration", PATIENCE, &mut |world| {
        ended(world, emergency)
    })?;
    let standing = world.standing(emergency);
    ensure(matches!(standing, Standing::Failed { status: 501, .. }), || {
        format!("501 was to come, not {standing:?}")
    })?;
    // The refresh is told to the watchers; the emergency registration was not, and has none of its own.
    let now = watches(world);
    ensure(now <= watched, || format!("{now} watches of the P-CSCF, {watched} before"))?;
    let news = world.notified(normal) - told;
    ensure(news <= 1, || format!("the normal phone was told {news} times"))?;
    world.deregister(normal);
    world.until("the normal one leaves", PATIENCE, &mut |world| {
        world.standing(normal) == Standing::Idle
    })?;
    let now = registrations(world, Function::Pcscf);
    ensure(now == at_pcscf, || format!("{now} registrations at the P-CSCF, not {at_pcscf}"))
}

/// S-12, S-123: TS 24.229 §5.4.8.4, TS 29.228 §6.1.3: what the network ends.
fn network_spares_emergency(world: &mut dyn World) -> Result<(), String> {
    let normal = watched_phone(world, Phone::Good)?;
    let emergency = world.add_emergency_phone(normal);
    registers(world, emergency)?;
    let impi = world.private_identity(normal);
    for scscf in SCSCFS {
        world.command(scscf, &["deregister", &impi]);
    }
    only_the_emergency_one_is_left(world, normal, emergency)?;
    let told = world.notified(normal);
    registers(world, normal)?;
    world.until("the phone watches again", PATIENCE, &mut |world| world.notified(normal) > told)?;
    world.command(Function::Hss, &["rtr", &impi, "permanent"]);
    only_the_emergency_one_is_left(world, normal, emergency)
}

fn only_the_emergency_one_is_left(
    world: &mut dyn World,
    normal: usize,
    emergency: usize,
) -> Result<(), String> {
    world.until("the normal registration ends", PATIENCE, &mut |world| {
        world.standing(normal) == Standing::Idle
    })?;
    let took = refreshes(world, emergency)?;
    ensure(took == 0.0, || "the emergency registration was challenged".to_owned())
}

/// S-12, S-87: TS 24.229 §5.4.1.2.1: each attempt is answered for itself.
fn two_attempts_at_once(world: &mut dyn World) -> Result<(), String> {
    let received = |world: &mut dyn World| {
        let registers = [("method", "REGISTER")];
        world.metric(Function::Icscf, "tessera_sip_requests_received_total", &registers)
    };
    let first = world.add_phone(Phone::Good);
    let second = world.add_emergency_phone(first);
    let before = received(world);
    // Neither is answered before both are under way.
    world.hang(Function::Hss, true);
    world.register(first);
    world.register(second);
    let both =
        world.until("both are under way", PATIENCE, &mut |world| received(world) >= before + 2.0);
    world.hang(Function::Hss, false);
    both?;
    for ue in [first, second] {
        world.until("an attempt has ended", PATIENCE, &mut |world| ended(world, ue))?;
        let standing = world.standing(ue);
        ensure(standing == Standing::Registered, || format!("phone {ue} is {standing:?}"))?;
    }
    world.deregister(first);
    world.until("it leaves", PATIENCE, &mut |world| world.standing(first) == Standing::Idle)
}

/// RFC 3327 §5.1, TS 24.229 §5.2.2.1, §5.2.6.4: documents come, and the last one too.
fn contact_elsewhere(world: &mut dyn World) -> Result<(), String> {
    let ue = watched_phone(world, Phone::ContactElsewhere)?;
    let told = world.notified(ue);
    let took = refreshes(world, ue)?;
    ensure(took == 0.0, || "the refresh was challenged".to_owned())?;
    world.until("the phone is told of its refresh", PATIENCE, &mut |world| {
        world.notified(ue) > told
    })?;
    hss_ends(world, ue)
}

/// RFC 5626 §4.2, §5.1, §6; TS 24.229 §5.2.2.1, §5.4.1.2.2: the first hop says that it keeps flows, or the
/// registrar would refuse them.
fn a_flow_is_registered(world: &mut dyn World) -> Result<(), String> {
    let name = "tessera_scscf_registers_total";
    let refused = [("outcome", "first_hop_lacks_outbound")];
    let before = at_scscfs(world, name, &refused);
    let ue = watched_phone(world, Phone::WithFlow)?;
    let took = refreshes(world, ue)?;
    ensure(took == 0.0, || "the refresh was challenged".to_owned())?;
    let held = at_scscfs(world, "tessera_scscf_registrations", &[]);
    world.reboot(ue);
    registers(world, ue)?;
    let now = at_scscfs(world, "tessera_scscf_registrations", &[]);
    ensure(now == held, || format!("{now} registrations, {held} before the restart"))?;
    let refusals = at_scscfs(world, name, &refused) - before;
    ensure(refusals == 0.0, || format!("{refusals} times no first hop that keeps flows"))?;
    world.deregister(ue);
    world.until("it leaves", PATIENCE, &mut |world| world.standing(ue) == Standing::Idle)
}

/// S-123: TS 29.228 §6.1.3.1: the S-CSCF comes back with what it has stored, and asks the HSS something for somebody else.
fn a_termination_is_told_later(world: &mut dyn World) -> Result<(), String> {
    let held = |world: &mut dyn World| SCSCFS.map(|scscf| registrations(world, scscf));
    let before = held(world);
    let ue = watched_phone(world, Phone::Good)?;
    let other = watched_phone(world, Phone::Good)?;
    let now = held(world);
    let serving = usize::from(now[1] > before[1]);
    ensure(now[1 - serving] <= before[1 - serving], || "two S-CSCFs serve".to_owned())?;
    let impi = world.private_identity(ue);
    let undelivered = |world: &mut dyn World| {
        world.metric(Function::Hss, "tessera_hss_undelivered_terminations", &[])
    };
    let waiting = undelivered(world);
    world.kill(SCSCFS[serving]);
    world.command(Function::Hss, &["rtr", &impi, "permanent"]);
    let is_kept = world
        .until("the HSS gives up for now", PATIENCE, &mut |world| undelivered(world) > waiting);
    world.start(SCSCFS[serving]);
    is_kept?;
    world.until("the S-CSCF has an HSS again", PATIENCE, &mut |world| {
        world.metric(SCSCFS[serving], "tessera_diameter_peer_up", &[]) >= 1.0
    })?;
    ensure(world.standing(ue) == Standing::Registered, || "it cannot know".to_owned())?;
    refreshes(world, other)?;
    world.until("the phone hears of the end", PATIENCE, &mut |world| {
        world.standing(ue) == Standing::Idle
    })?;
    world.deregister(other);
    world.until("the other leaves", PATIENCE, &mut |world| world.standing(other) == Standing::Idle)
}

/// TS 23.380 §4.
fn restored_by_another_scscf(world: &mut dyn World) -> Result<(), String> {
    let held = |world: &mut dyn World| SCSCFS.map(|scscf| registrations(world, scscf));
    let before = held(world);
    let name = "tessera_scscf_restorations_total";
    let ue = watched_phone(world, Phone::Good)?;
    let now = held(world);
    let serving = SCSCFS[usize::from(now[1] > before[1])];
    let other = SCSCFS[usize::from(now[1] <= before[1])];
    // Which brings the watchers to the HSS, unless they are there by now.
    refreshes(world, ue)?;
    world.until("the phone is told", PATIENCE, &mut |world| world.notified(ue) >= 2)?;
    let restored = [("outcome", "restored")];
    let done = world.metric(other, name, &restored);
    let told = world.notified(ue);
    world.kill(serving);
    let result = goes_on_at_the_other(world, ue, told);
    let now = world.metric(other, name, &restored);
    world.start(serving);
    result?;
    ensure(now == done + 1.0, || format!("{} restorations", now - done))
}

/// The phone is not challenged, and it and the P-CSCF are told in the dialogs that they had: of the refresh,
/// and that the HSS ends the registration.
fn goes_on_at_the_other(world: &mut dyn World, ue: usize, told: u64) -> Result<(), String> {
    let subscribed = [("outcome", "subscribed")];
    let name = "tessera_scscf_subscription_events_total";
    let before = at_scscfs(world, name, &subscribed);
    let took = refreshes(world, ue)?;
    ensure(took == 0.0, || "the refresh was challenged".to_owned())?;
    world.until("the phone is told of its refresh", PATIENCE, &mut |world| {
        world.notified(ue) > told
    })?;
    hss_ends(world, ue)?;
    let now = at_scscfs(world, name, &subscribed);
    ensure(now == before, || format!("{} new subscriptions", now - before))
}
