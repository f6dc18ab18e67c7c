//! Phones behind a NAT: ESP inside UDP (TS 33.203 Annex M). On an IPv6 bearer, and where nobody speaks
//! IPsec, there is no NAT to see, and these are phones as others.

use crate::reg_event::{hss_ends, pcscf_crashes, watched_phone};
use crate::registration::{PATIENCE, registers};
use crate::{Function, Phone, Scenario, Standing, World, ensure};

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "behind_a_nat",
        shows: "ESP inside UDP: registration, refresh, new authentication, and the network's NOTIFY",
        run: behind_a_nat,
        is_fault: false,
    },
    Scenario {
        name: "nat_gives_other_ports",
        shows: "the next packet of the phone tells the new port, and the network's NOTIFY goes there",
        run: nat_gives_other_ports,
        is_fault: false,
    },
    Scenario {
        name: "the_same_private_address_twice",
        shows: "two phones with one private address behind two NATs: each hears what is for it",
        run: the_same_private_address_twice,
        is_fault: false,
    },
    Scenario {
        name: "nat_survives_a_pcscf_crash",
        shows: "kill -9 of the P-CSCF, restart: the phone is reached at the port that was learnt before",
        run: nat_survives_a_pcscf_crash,
        is_fault: true,
    },
];

fn sets_behind_nat(world: &mut dyn World) -> f64 {
    world.metric(Function::Pcscf, "tessera_pcscf_security_association_sets_behind_nat", &[])
}

/// IPv4, and protected.
fn must_be_in_tunnel(world: &mut dyn World, ue: usize) -> bool {
    world.line(ue).is_some_and(|line| line.address.is_ipv4() && line.ports.is_some())
}

/// Registered and watched. Should another phone with that private address have drawn the same ports, it
/// is told to come again, and does.
fn registered(world: &mut dyn World) -> Result<usize, String> {
    let mut last = Ok(usize::MAX);
    for _ in 0..3 {
        let before = sets_behind_nat(world);
        last = watched_phone(world, Phone::BehindNat);
        let Ok(ue) = last else { continue };
        if must_be_in_tunnel(world, ue) {
            let now = sets_behind_nat(world);
            ensure(now > before, || format!("{now} sets behind a NAT, {before} before"))?;
        }
        return Ok(ue);
    }
    last
}

fn refreshes(world: &mut dyn World, ue: usize) -> Result<(), String> {
    let (completed, told) = (world.completed(ue), world.notified(ue));
    world.reregister(ue);
    world.until("the refresh ends, and is told", PATIENCE, &mut |world| {
        world.completed(ue) > completed && world.notified(ue) > told
    })?;
    let standing = world.standing(ue);
    ensure(standing == Standing::Registered, || format!("not registered: {standing:?}"))
}

fn behind_a_nat(world: &mut dyn World) -> Result<(), String> {
    let ue = registered(world)?;
    refreshes(world, ue)?;
    world.deregister(ue);
    world.until("the deregistration ends", PATIENCE, &mut |world| {
        world.standing(ue) == Standing::Idle
    })?;
    registers(world, ue)?;
    refreshes(world, ue)?;
    hss_ends(world, ue)
}

/// RFC 3948 §3.1.1: until the phone has said something, nobody can know.
fn nat_gives_other_ports(world: &mut dyn World) -> Result<(), String> {
    let ue = registered(world)?;
    let name = "tessera_ipsec_nat_rebound_total";
    let before = world.metric(Function::Pcscf, name, &[]);
    let has_plane = world.metric(Function::Pcscf, "tessera_ipsec_plane", &[]) > 0.0;
    world.rebind(ue);
    refreshes(world, ue)?;
    if has_plane && must_be_in_tunnel(world, ue) {
        let now = world.metric(Function::Pcscf, name, &[]);
        ensure(now > before, || format!("{now} new ports of NATs, {before} before"))?;
    }
    hss_ends(world, ue)
}

fn the_same_private_address_twice(world: &mut dyn World) -> Result<(), String> {
    let (one, other) = (registered(world)?, registered(world)?);
    for ue in [one, other, one] {
        refreshes(world, ue)?;
    }
    hss_ends(world, one)?;
    let standing = world.standing(other);
    ensure(standing == Standing::Registered, || format!("the other phone: {standing:?}"))?;
    refreshes(world, other)?;
    hss_ends(world, other)
}

fn nat_survives_a_pcscf_crash(world: &mut dyn World) -> Result<(), String> {
    let ue = registered(world)?;
    world.rebind(ue);
    refreshes(world, ue)?;
    pcscf_crashes(world, ue)?;
    hss_ends(world, ue)
}
