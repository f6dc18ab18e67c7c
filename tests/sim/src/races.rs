//! One seed of a race: two things happen to one registration within milliseconds of each other, over
//! a network that works. Whatever comes first, in the end all functions and the phone say the same.

use std::time::Duration;

use common::random::Random;
use scenarios::{Phone, Standing};

use crate::ims::{Ims, Life, Options};
use crate::world::World;

/// What meets what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Race {
    /// A REGISTER comes twice, while the S-CSCF waits for the vector or the assignment.
    RepeatedRegister,
    /// The HSS ends the registration while it is refreshed (TS 24.229 §5.4.1.5).
    RtrDuringRegister,
    /// The refresh comes when the registration ends (TS 24.229 §5.4.1.4).
    ExpiryAgainstRefresh,
    /// Two devices with cards of their own register and leave one public identity.
    TwoDevices,
    /// The HSS pushes another profile between the vector and the assignment (TS 29.228 §6.2.2).
    PprBetweenMarAndSar,
}

pub const ALL: [Race; 5] = [
    Race::RepeatedRegister,
    Race::RtrDuringRegister,
    Race::ExpiryAgainstRefresh,
    Race::TwoDevices,
    Race::PprBetweenMarAndSar,
];

/// Longer than any procedure, lingering transactions and the notices behind them.
const REST_SECONDS: u64 = 400;
const EXPIRES_SECONDS: u64 = 70;

/// Which race the seed is of, whether the two have met, and what did not hold.
pub fn run(seed: u64, show: bool) -> (Ims, Race, Result<bool, String>) {
    let mut draw = Random::from_seed({
        let mut bytes = [0xC3; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        bytes
    });
    let race = ALL[(seed % ALL.len() as u64) as usize];
    let seconds = if race == Race::ExpiryAgainstRefresh { EXPIRES_SECONDS as u32 } else { 3_600 };
    let options = Options {
        is_ipv6: draw.below(4) == 0,
        is_tcp: draw.below(4) == 0,
        life: Life { seconds, reauthenticate: ["always", "never"][draw.below(2) as usize] },
        ..Options::default()
    };
    let mut ims = Ims::new(seed, options);
    // The model of associations does not know what a NOTIFY ends.
    ims.world.has_model = false;
    ims.world.ladder.is_on = show;
    let ue = ims.add(Phone::Good);
    let result = match race {
        Race::RepeatedRegister => repeated_register(&mut ims, ue),
        Race::RtrDuringRegister => rtr_during_register(&mut ims, ue, &mut draw),
        Race::ExpiryAgainstRefresh => expiry_against_refresh(&mut ims, ue, &mut draw),
        Race::TwoDevices => two_devices(&mut ims, ue, &mut draw),
        Race::PprBetweenMarAndSar => ppr_between(&mut ims, ue, &mut draw),
    };
    (ims, race, result)
}

/// Each datagram arrives twice: one vector and one assignment for one challenge, all the same.
fn repeated_register(ims: &mut Ims, ue: usize) -> Result<bool, String> {
    ims.world.network.faults.duplication = 1_000;
    registers(ims, ue)?;
    let repeated = repeated(ims);
    ims.world.network.faults.duplication = 0;
    rest(ims);
    let vectors = ims.world.checkers.vectors;
    if vectors != 1 {
        return Err(format!("{vectors} vectors for one registration"));
    }
    agree(ims, &[ue], 1)?;
    Ok(repeated > 0.0)
}

fn rtr_during_register(ims: &mut Ims, ue: usize, draw: &mut Random) -> Result<bool, String> {
    registers(ims, ue)?;
    rest(ims);
    begin(ims, ue, "register");
    let has_met = meet(ims, draw);
    let (hss, private_identity) =
        (ims.world.member("hss"), ims.world.phones[ue].private_identity());
    ims.world.admin(hss, &["rtr", &private_identity, "permanent"]);
    rest(ims);
    agree(ims, &[ue], 1)?;
    registers(ims, ue)?;
    rest(ims);
    agree(ims, &[ue], 1)?;
    all_registered(ims, &[ue])?;
    Ok(has_met)
}

fn expiry_against_refresh(ims: &mut Ims, ue: usize, draw: &mut Random) -> Result<bool, String> {
    registers(ims, ue)?;
    // From the last moments of the phone's own count to the end of the network's, which is within a second
    // after that.
    pass_millis(ims, EXPIRES_SECONDS * 1_000 - 200 + draw.below(1_300));
    let (before, ended) = (registrations_at_scscfs(ims), expired_at_scscfs(ims));
    begin(ims, ue, "register");
    pass_millis(ims, 2_000);
    let has_met = ended != expired_at_scscfs(ims) || before == 0.0;
    registers(ims, ue)?;
    agree(ims, &[ue], 1)?;
    all_registered(ims, &[ue])?;
    rest(ims);
    agree(ims, &[ue], 0)?;
    Ok(has_met)
}

fn expired_at_scscfs(ims: &Ims) -> f64 {
    let name = "tessera_scscf_deregistrations_total";
    ["scscf1", "scscf2"].iter().map(|scscf| ims.gauge(scscf, name, &[])).sum()
}

fn two_devices(ims: &mut Ims, first: usize, draw: &mut Random) -> Result<bool, String> {
    let second = ims.add_device_of(first);
    registers(ims, first)?;
    registers(ims, second)?;
    rest(ims);
    agree(ims, &[first, second], 2)?;
    let mut has_met = false;
    for _ in 0..4 {
        for ue in [first, second] {
            let is_registered = ims.world.phones[ue].standing() == Standing::Registered;
            let leaves = is_registered && draw.below(2) == 0;
            begin(ims, ue, if leaves { "deregister" } else { "register" });
            has_met |= ue == first && meet(ims, draw);
        }
        rest(ims);
        agree(ims, &[first, second], 2)?;
    }
    for ue in [first, second] {
        registers(ims, ue)?;
    }
    rest(ims);
    all_registered(ims, &[first, second])?;
    Ok(has_met)
}

fn ppr_between(ims: &mut Ims, ue: usize, draw: &mut Random) -> Result<bool, String> {
    registers(ims, ue)?;
    rest(ims);
    begin(ims, ue, "register");
    let has_met = meet(ims, draw);
    let private_identity = ims.world.phones[ue].private_identity();
    ims.rename(&private_identity, PUSHED);
    let hss = ims.world.member("hss");
    ims.world.admin(hss, &["ppr", &private_identity, "again"]);
    rest(ims);
    agree(ims, &[ue], 1)?;
    all_registered(ims, &[ue])?;
    let of_scscfs = ["scscf1", "scscf2"].map(|name| ims.world.member(name));
    let has_it = of_scscfs.iter().any(|member| {
        let records = ims.world.members[*member].disk.records();
        records.iter().any(|record| record.value.contains(PUSHED))
    });
    if !has_it {
        return Err("the S-CSCF has the profile from before the push".into());
    }
    Ok(has_met)
}

/// The display name in the profile that is pushed.
const PUSHED: &str = "pushed in between";

fn begin(ims: &mut Ims, ue: usize, command: &str) {
    ims.world.command_after(ue, command, Duration::ZERO);
    ims.world.phones[ue].expect();
}

/// Until it is registered: the race may have cost the first try.
fn registers(ims: &mut Ims, ue: usize) -> Result<(), String> {
    for _ in 0..3 {
        begin(ims, ue, "register");
        let end = ims.world.now + Duration::from_secs(140);
        ims.world.run(end, |world| world.phones[ue].standing() != Standing::Busy);
        if ims.world.phones[ue].standing() == Standing::Registered {
            return Ok(());
        }
    }
    Err(format!("ue{ue} is not registered: {:?}", ims.world.phones[ue].standing()))
}

/// To a moment at which an S-CSCF waits for the HSS: for the vector, for the assignment, or a little after.
fn meet(ims: &mut Ims, draw: &mut Random) -> bool {
    let owes =
        |world: &World| world.owed().iter().any(|(name, count)| is_scscf(name) && *count > 0);
    let end = ims.world.now + Duration::from_secs(5);
    ims.world.run(end, owes);
    if draw.below(2) == 0 {
        ims.world.run(end, |world| !owes(world));
        ims.world.run(end, owes);
    }
    pass_millis(ims, draw.below(5));
    owes(&ims.world)
}

fn is_scscf(name: &str) -> bool {
    name.starts_with("scscf")
}

fn pass_millis(ims: &mut Ims, millis: u64) {
    let until = ims.world.now + Duration::from_millis(millis);
    ims.world.run(until, |_| false);
}

fn rest(ims: &mut Ims) {
    let until = ims.world.now + Duration::from_secs(REST_SECONDS);
    ims.world.run(until, |_| false);
}

fn repeated(ims: &Ims) -> f64 {
    let labels = [("message", "request"), ("direction", "received")];
    ims.gauge("pcscf", "tessera_sip_retransmissions_total", &labels)
}

fn registrations_at_scscfs(ims: &Ims) -> f64 {
    ["scscf1", "scscf2"]
        .iter()
        .map(|name| ims.gauge(name, "tessera_scscf_registrations", &[]))
        .sum()
}

fn all_registered(ims: &Ims, ues: &[usize]) -> Result<(), String> {
    for ue in ues {
        let standing = ims.world.phones[*ue].standing();
        if standing != Standing::Registered {
            return Err(format!("ue{ue} is not registered: {standing:?}"));
        }
    }
    Ok(())
}

/// Phones, P-CSCF, its kernel, S-CSCFs and HSS count the same, at most `at_most`; and nobody owes anything.
fn agree(ims: &mut Ims, ues: &[usize], at_most: usize) -> Result<(), String> {
    let is_registered = |ue: &&usize| ims.world.phones[**ue].standing() == Standing::Registered;
    let phones = ues.iter().filter(is_registered).count();
    let at_pcscf = ims.gauge("pcscf", "tessera_pcscf_registrations", &[]) as usize;
    let at_scscfs = registrations_at_scscfs(ims) as usize;
    let at_hss = ims.registered_at_hss();
    let counts = [phones, at_pcscf, at_scscfs, at_hss];
    if counts.iter().any(|count| *count != phones) || phones > at_most {
        return Err(format!("phones, P-CSCF, S-CSCFs, HSS count {counts:?} registrations"));
    }
    Ok(())
}
