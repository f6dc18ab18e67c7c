//! One seed of associations: phones that authenticate again and again, start anew with the same
//! ports, move to other addresses and leave, over a bad radio, with registrations of minutes. The
//! model in [`crate::associations`] watches each turn of the P-CSCF.
//!
//! Nothing but the radio and the kernel fails here, so that phones get far and the model sees much;
//! [`crate::storm`] has the other faults, without the model.

use std::collections::BTreeMap;
use std::time::Duration;

use common::random::Random;
use scenarios::{Function, Phone, Standing, World as _};

use crate::ims::{Ims, Life, Options, other_address};
use crate::network::Faults;

const PHONES: usize = 3;
const SECONDS: u64 = 900;
/// All lives have ended by then: the longest registration, its grace, 64 × T1.
const REST_SECONDS: u64 = 1_000;
const HEALING_SECONDS: u64 = 400;

/// Runs a seed; what the model saw, by name, or what did not hold.
pub fn run(seed: u64, show: bool) -> (Ims, Result<BTreeMap<&'static str, u64>, String>) {
    let mut draw = Random::from_seed({
        let mut bytes = [0x5A; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        bytes
    });
    let reauthenticate = ["always", "always", "every 1", "every 2", "never"];
    let life = Life {
        seconds: [70, 200, 320, 600][draw.below(4) as usize],
        reauthenticate: reauthenticate[draw.below(5) as usize],
    };
    let options = Options {
        is_ipv6: draw.below(4) == 0,
        is_tcp: draw.below(4) == 0,
        life,
        is_unwatched: draw.below(2) == 0,
        ..Options::default()
    };
    let mut ims = Ims::new(seed, options);
    ims.world.ladder.is_on = show;
    let result = phases(&mut ims, &mut draw, options.is_ipv6);
    (ims, result)
}

fn phases(
    ims: &mut Ims,
    draw: &mut Random,
    is_ipv6: bool,
) -> Result<BTreeMap<&'static str, u64>, String> {
    let mut share = |limit: u64| if draw.below(2) == 0 { 0 } else { draw.below(limit) as u32 };
    ims.world.network.faults = Faults {
        radio_loss: share(200),
        duplication: share(300),
        core_loss: 0,
        reordering: share(300),
        kernel_refusals: share(60),
    };
    for ue in 0..PHONES {
        ims.add(Phone::Good);
        let (mut at, mut moves) = (draw.below(20_000), 0);
        while at < SECONDS * 1_000 {
            let command = match draw.below(20) {
                0..=13 => "register".to_owned(),
                14 => "deregister".to_owned(),
                15 => "forget".to_owned(),
                16..=17 => "reboot".to_owned(),
                _ => {
                    moves += 1;
                    format!("move {}", other_address(ue, moves, is_ipv6))
                }
            };
            ims.world.command_after(ue, &command, Duration::from_millis(at));
            at += if draw.below(3) == 0 { draw.below(3_000) } else { draw.below(90_000) };
        }
    }
    // Now and then the operator ends a registration; who watches it hears of that.
    let begin = ims.world.now;
    let mut ends: Vec<u64> = (0..draw.below(4)).map(|_| draw.below(SECONDS * 1_000)).collect();
    ends.sort_unstable();
    for at in ends {
        ims.world.run(begin + Duration::from_millis(at), |_| false);
        let who = ims.world.phones[draw.below(PHONES as u64) as usize].private_identity();
        for scscf in [Function::Scscf1, Function::Scscf2] {
            ims.command(scscf, &["deregister", &who]);
        }
    }
    ims.world.run(begin + Duration::from_secs(SECONDS), |_| false);
    ims.world.network.faults = Faults::default();
    served(ims)?;
    let rest = ims.world.now + Duration::from_secs(REST_SECONDS);
    ims.world.run(rest, |_| false);
    let pcscf = ims.world.member("pcscf");
    let kernel = ims.world.members[pcscf].kernel.as_ref().ok_or("no kernel")?;
    let registered = ims.gauge("pcscf", "tessera_pcscf_registrations", &[]);
    if !kernel.is_empty() || registered > 0.0 {
        return Err(format!("left: {} sets, {registered} registrations", kernel.len()));
    }
    Ok(ims.world.associations.seen.clone())
}

/// On a good radio every phone is served, whatever it has been through.
fn served(ims: &mut Ims) -> Result<(), String> {
    let end = ims.world.now + Duration::from_secs(HEALING_SECONDS);
    loop {
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
            return Err(format!("not served: {standings:?}"));
        }
        let next = ims.world.now + Duration::from_secs(5);
        ims.world.run(next, |_| false);
    }
}
