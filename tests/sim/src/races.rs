//! One seed of a race: two things happen to one registration within milliseconds of each other, over
//! a network that works. Whatever comes first, in the end all functions and the phone say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::random::Random;
use common::reginfo::Event;
use scenarios::{Phone, Standing};

use crate::ims::{Ims, Life, Options};
use crate::network::Faults;
use crate::world::{Copies, World};

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
    /// The normal registration ends while the same card registers for emergency calls (TS 24.229 §5.4.8).
    EmergencyBesideNormal,
    /// The P-CSCF starts anew while a registration is authenticated again.
    PcscfRestart,
}

pub const ALL: [Race; 7] = [
    Race::RepeatedRegister,
    Race::RtrDuringRegister,
    Race::ExpiryAgainstRefresh,
    Race::TwoDevices,
    Race::PprBetweenMarAndSar,
    Race::EmergencyBesideNormal,
    Race::PcscfRestart,
];

/// In which ways the two have met. What is expected of a thousand seeds: [`Race::expected`].
pub type Met = BTreeSet<&'static str>;

impl Race {
    /// Each way of meeting that a thousand seeds must show, with how many of them at least.
    pub fn expected(self) -> &'static [(&'static str, u64)] {
        match self {
            Race::RepeatedRegister => &[
                ("absorbed by the P-CSCF", 200),
                ("absorbed by the S-CSCF", 300),
                ("merged at the P-CSCF", 250),
                ("merged at the S-CSCF", 250),
            ],
            Race::RtrDuringRegister => &[
                (BEFORE, 120),
                (BETWEEN, 180),
                (AFTER, 120),
                ("permanent", 200),
                ("server-change", 200),
            ],
            Race::ExpiryAgainstRefresh => &[
                ("expired meanwhile", 400),
                ("before it expired", 50),
                ("registered anew", 400),
                ("refresh", 40),
            ],
            Race::TwoDevices => &[
                ("one leaves, one refreshes", 400),
                ("both leave", 200),
                ("both refresh", 180),
                ("one comes", 500),
            ],
            Race::PprBetweenMarAndSar => &[(BETWEEN, 600), (BEFORE, 15), (AFTER, 25)],
            Race::EmergencyBesideNormal => &[
                (BEFORE, 60),
                (BETWEEN, 140),
                (AFTER, 60),
                ("permanent", 150),
                ("server-change", 150),
                ("expired meanwhile", 100),
                ("emergency comes", 250),
                ("emergency refresh", 150),
            ],
            Race::PcscfRestart => &[(BEFORE, 180), (BETWEEN, 300), (AFTER, 50)],
        }
    }

    fn life(self) -> u32 {
        match self {
            Race::ExpiryAgainstRefresh => EXPIRES_SECONDS as u32,
            Race::EmergencyBesideNormal => 300,
            _ => 3_600,
        }
    }

    /// A race with a challenge needs one.
    fn reauthenticate(self, draw: &mut Random) -> &'static str {
        match self {
            Race::PprBetweenMarAndSar | Race::PcscfRestart => "always",
            _ => ["always", "never"][draw.below(2) as usize],
        }
    }
}

/// Longer than any procedure, lingering transactions and the notices behind them.
const REST_SECONDS: u64 = 400;
const EXPIRES_SECONDS: u64 = 70;
/// `registration.emergency_expires_seconds` of the S-CSCF.
const EMERGENCY_SECONDS: u64 = 1_800;

/// Which race the seed is of, how the two have met, and what did not hold. Seeds take turns: of races
/// in the order of [`ALL`].
pub fn run(seed: u64, show: bool) -> (Ims, Race, Result<Met, String>) {
    let mut draw = Random::from_seed({
        let mut bytes = [0xC3; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        bytes
    });
    let race = ALL[(seed % ALL.len() as u64) as usize];
    let options = Options {
        is_ipv6: draw.below(4) == 0,
        is_tcp: draw.below(4) == 0,
        life: Life { seconds: race.life(), reauthenticate: race.reauthenticate(&mut draw) },
        ..Options::default()
    };
    let mut ims = Ims::new(seed, options);
    // The model of associations does not know what a NOTIFY ends.
    ims.world.has_model = false;
    ims.world.ladder.is_on = show;
    let ue = ims.add(Phone::Good);
    let result = match race {
        Race::RepeatedRegister => repeated_register(&mut ims, ue, &mut draw),
        Race::RtrDuringRegister => rtr_during_register(&mut ims, ue, &mut draw),
        Race::ExpiryAgainstRefresh => expiry_against_refresh(&mut ims, ue, &mut draw),
        Race::TwoDevices => two_devices(&mut ims, ue, &mut draw),
        Race::PprBetweenMarAndSar => ppr_between(&mut ims, ue, &mut draw),
        Race::EmergencyBesideNormal => emergency_beside_normal(&mut ims, ue, &mut draw),
        Race::PcscfRestart => pcscf_restart(&mut ims, ue, &mut draw),
    };
    let result = result.and_then(|met| leave(&mut ims).map(|()| met));
    (ims, race, result)
}

// ---- A REGISTER comes twice.

/// One vector and one assignment for one challenge, however often its REGISTERs come.
fn repeated_register(ims: &mut Ims, ue: usize, draw: &mut Random) -> Result<Met, String> {
    let mut met = Met::new();
    // First the initial registration, then one of a registered user.
    for is_again in [false, true] {
        let before = Asked::of(ims);
        let absorbed = ["pcscf", "scscf1", "scscf2"].map(|name| repeated(ims, name));
        let merged = ["pcscf", "scscf1", "scscf2"].map(|name| merged(ims, name));
        match draw.below(4) {
            0 => ims.world.network.faults.duplication = 1_000,
            1 => {
                ims.world.network.faults =
                    Faults { duplication: 1_000, reordering: 400, ..Faults::default() }
            }
            // Sooner than the HSS can answer.
            2 => copies(ims, "pcscf", draw.below(2_000)),
            _ => copies(ims, "scscf1", draw.below(1_500)),
        }
        begin(ims, ue, "register");
        let end = ims.world.now + Duration::from_secs(140);
        ims.world.run(end, |world| world.phones[ue].standing() != Standing::Busy);
        // Once only: nothing of this may cost a try.
        all_registered(ims, &[ue])?;
        let at_once = Asked::of(ims).since(&before);
        rest(ims);
        ims.world.network.faults = Faults::default();
        ims.world.copies = None;
        let asked = Asked::of(ims).since(&before);
        let challenges = u64::from(ims.world.phones[ue].was_challenged());
        let kind = if is_again { RE_REGISTRATION } else { REGISTRATION };
        // A second later the S-CSCF has the HSS keep its new watchers (TS 23.380 §4.2.2).
        let later = asked.assignments() - at_once.assignments();
        if (asked.mars, asked.vectors) != (challenges, challenges)
            || at_once.sars != BTreeMap::from([(kind, 1)])
            || later > 1
        {
            return Err(format!("{challenges} challenges, asked {at_once:?}, at rest {asked:?}"));
        }
        let name = ["pcscf", "scscf1", "scscf2"];
        for (place, name) in name.into_iter().enumerate() {
            let at_pcscf = name == "pcscf";
            if repeated(ims, name) > absorbed[place] {
                met.insert(if at_pcscf {
                    "absorbed by the P-CSCF"
                } else {
                    "absorbed by the S-CSCF"
                });
            }
            if self::merged(ims, name) > merged[place] {
                met.insert(if at_pcscf { "merged at the P-CSCF" } else { "merged at the S-CSCF" });
            }
        }
        agree(ims, &[ue])?;
        all_registered(ims, &[ue])?;
    }
    Ok(met)
}

/// REGISTERs come to that function once more, as other transactions, that many microseconds later.
fn copies(ims: &mut Ims, to: &'static str, micros: u64) {
    ims.world.copies = Some(Copies { to, later: Duration::from_micros(micros), made: 0 });
}

// ---- RTR.

/// Of those who are served: `new-server` is for the S-CSCF that was displaced, `remove-scscf` for the unregistered.
const REASONS: [&str; 2] = ["permanent", "server-change"];

fn rtr_during_register(ims: &mut Ims, ue: usize, draw: &mut Random) -> Result<Met, String> {
    let reason = REASONS[draw.below(2) as usize];
    registers(ims, ue)?;
    rest(ims);
    agree(ims, &[ue])?;
    all_registered(ims, &[ue])?;
    let before = Asked::of(ims);
    begin(ims, ue, "register");
    meet(ims, draw);
    let mut met = at_hss(ims, &before, &[ue]);
    if !met.is_empty() {
        met.insert(reason);
    }
    end_by_rtr(ims, ue, reason);
    rest(ims);
    ended_as_told(ims, &[ue], reason)?;
    registers(ims, ue)?;
    rest(ims);
    agree(ims, &[ue])?;
    all_registered(ims, &[ue])?;
    Ok(met)
}

fn end_by_rtr(ims: &mut Ims, ue: usize, reason: &str) {
    let (hss, private_identity) =
        (ims.world.member("hss"), ims.world.phones[ue].private_identity());
    ims.world.admin(hss, &["rtr", &private_identity, reason]);
}

/// What an RTR of that reason leaves (registration.md D-10, D-11): who is told of it ends it too.
fn ended_as_told(ims: &mut Ims, ues: &[usize], reason: &str) -> Result<(), String> {
    let heard: Vec<Event> =
        ues.iter().flat_map(|ue| ims.world.phones[*ue].heard().to_vec()).collect();
    for (event, of) in [(Event::Rejected, "permanent"), (Event::Deactivated, "server-change")] {
        if heard.contains(&event) && reason != of {
            return Err(format!("after {reason} the phone heard {heard:?}"));
        }
        let is_idle = ues.iter().any(|ue| ims.world.phones[*ue].standing() == Standing::Idle);
        if reason == of && is_idle && !heard.contains(&event) {
            return Err(format!("after {reason} the phone heard only {heard:?}"));
        }
    }
    agree(ims, ues)
}

// ---- Expiry.

fn expiry_against_refresh(ims: &mut Ims, ue: usize, draw: &mut Random) -> Result<Met, String> {
    // The S-CSCF counts in whole seconds, the phone does not: both ends are near each other when the
    // registration was made shortly before a whole second.
    if draw.below(2) == 0 {
        let aimed_at = 700 + draw.below(200);
        pass_millis(ims, (1_000 + aimed_at - ims.world.now.as_millis() % 1_000) % 1_000);
    }
    registers(ims, ue)?;
    let ends_at = ims.world.now.as_millis().div_ceil(1_000) * 1_000 + EXPIRES_SECONDS * 1_000;
    // The refresh takes some tens of milliseconds to the S-CSCF, and as many back.
    let begin_at = ends_at - 130 + draw.below(150);
    pass_millis(ims, begin_at - ims.world.now.as_millis());
    let (before, ended) = (registrations_at_scscfs(ims), expired_at_scscfs(ims));
    let is_refresh = ims.world.phones[ue].standing() == Standing::Registered;
    begin(ims, ue, "register");
    let (mut met, mut is_registered) = (Met::new(), false);
    while !is_registered && ims.world.now.as_millis() < begin_at + 2_000 {
        pass_millis(ims, 1);
        let is_busy = ims.world.phones[ue].standing() == Standing::Busy;
        is_registered = ims.world.phones[ue].standing() == Standing::Registered;
        if expired_at_scscfs(ims) > ended && is_busy && before > 0.0 {
            met.insert("expired meanwhile");
        }
    }
    if expired_at_scscfs(ims) == ended && is_registered && before > 0.0 {
        met.insert("before it expired");
    }
    if !met.is_empty() {
        met.insert(if is_refresh { "refresh" } else { "registered anew" });
    }
    registers(ims, ue)?;
    // What is held longer than this is to end below.
    let until = ims.world.now + Duration::from_secs(30);
    ims.world.run(until, |_| false);
    counted(ims, &[ue])?;
    all_registered(ims, &[ue])?;
    rest(ims);
    agree(ims, &[ue])?;
    nothing_left(ims)?;
    Ok(met)
}

fn expired_at_scscfs(ims: &Ims) -> f64 {
    let name = "tessera_scscf_deregistrations_total";
    ["scscf1", "scscf2"].iter().map(|scscf| ims.gauge(scscf, name, &[])).sum()
}

// ---- Two devices.

fn two_devices(ims: &mut Ims, first: usize, draw: &mut Random) -> Result<Met, String> {
    let second = ims.add_device_of(first);
    let both = [first, second];
    registers(ims, first)?;
    registers(ims, second)?;
    rest(ims);
    agree(ims, &both)?;
    all_registered(ims, &both)?;
    let mut met = Met::new();
    for _ in 0..4 {
        let were = both.map(|ue| ims.world.phones[ue].standing() == Standing::Registered);
        let leaves = were.map(|is_registered| is_registered && draw.below(2) == 0);
        let kept = both.map(|ue| ims.world.phones[ue].contact());
        for (place, ue) in both.into_iter().enumerate() {
            begin(ims, ue, if leaves[place] { "deregister" } else { "register" });
            if place == 0 {
                meet(ims, draw);
            }
        }
        let at_once = both.iter().all(|ue| ims.world.phones[*ue].standing() == Standing::Busy);
        if at_once {
            met.insert(match (were, leaves) {
                ([true, true], [true, false] | [false, true]) => "one leaves, one refreshes",
                ([true, true], [true, true]) => "both leave",
                ([true, true], _) => "both refresh",
                _ => "one comes",
            });
        }
        rest(ims);
        for (place, ue) in both.into_iter().enumerate() {
            let phone = &ims.world.phones[ue];
            let is_registered = phone.standing() == Standing::Registered;
            if is_registered == leaves[place] {
                return Err(format!("ue{ue}, leaves {}: {:?}", leaves[place], phone.standing()));
            }
            if is_registered && were[place] && phone.contact().is_none() {
                return Err(format!("ue{ue} has lost {:?}", kept[place]));
            }
        }
        agree(ims, &both)?;
    }
    for ue in both {
        registers(ims, ue)?;
    }
    rest(ims);
    agree(ims, &both)?;
    all_registered(ims, &both)?;
    Ok(met)
}

// ---- PPR.

/// The display name in the profile that is pushed.
const PUSHED: &str = "pushed in between";

fn ppr_between(ims: &mut Ims, ue: usize, draw: &mut Random) -> Result<Met, String> {
    registers(ims, ue)?;
    rest(ims);
    let telephone = scenarios::World::telephone(ims, ue);
    if !ims.world.phones[ue].associated().iter().any(|uri| uri.contains(&telephone)) {
        return Err(format!("{telephone} is not registered"));
    }
    let before = Asked::of(ims);
    begin(ims, ue, "register");
    match draw.below(4) {
        0 => {
            meet(ims, draw);
        }
        // From the MAA on; the SAR comes when the phone has answered the challenge.
        _ => {
            let end = ims.world.now + Duration::from_secs(5);
            let vectors = before.vectors;
            ims.world.run(end, |world| world.checkers.vectors > vectors);
            let until = ims.world.now + Duration::from_micros(draw.below(70_000));
            ims.world.run(until, |_| false);
        }
    }
    let met = at_hss(ims, &before, &[ue]);
    let private_identity = ims.world.phones[ue].private_identity();
    ims.rename(&private_identity, PUSHED);
    ims.world.is_recording = true;
    let hss = ims.world.member("hss");
    // Which pushes the profile (TS 29.228 §6.2.2.1).
    ims.world.admin(hss, &["bar", &telephone]);
    rest(ims);
    ims.world.is_recording = false;
    agree(ims, &[ue])?;
    all_registered(ims, &[ue])?;
    has_pushed_profile(ims, ue, &telephone)?;
    let associated = ims.world.phones[ue].associated();
    let is_listed = associated.iter().any(|uri| uri.contains(&telephone));
    if is_listed && met.contains(BETWEEN) {
        return Err(format!("the SAA had the new profile, the 200 the old one: {associated:?}"));
    }
    registers(ims, ue)?;
    rest(ims);
    has_pushed_profile(ims, ue, &telephone)?;
    let associated = ims.world.phones[ue].associated();
    if associated.is_empty() || associated.iter().any(|uri| uri.contains(&telephone)) {
        return Err(format!("P-Associated-URI after the push: {associated:?}"));
    }
    agree(ims, &[ue])?;
    Ok(met)
}

/// TS 29.228 §6.2.2.1: at the S-CSCF, and told to the phone.
fn has_pushed_profile(ims: &mut Ims, ue: usize, telephone: &str) -> Result<(), String> {
    let of_scscfs = ["scscf1", "scscf2"].map(|name| ims.world.member(name));
    let has_it = of_scscfs.iter().any(|member| {
        let records = ims.world.members[*member].disk.records();
        records.iter().any(|record| record.value.contains(PUSHED))
    });
    if !has_it {
        return Err("the S-CSCF has the profile from before the push".into());
    }
    let to = format!("ue{ue}");
    let is_told = ims.world.wire.iter().any(|(_, receiver, _, bytes)| {
        let text = String::from_utf8_lossy(bytes);
        let terminated = text.split("<registration").any(|part| {
            part.contains(&format!("aor=\"{telephone}\"")) && part.contains("\"terminated\"")
        });
        *receiver == to && text.starts_with("NOTIFY") && terminated
    });
    match is_told {
        true => Ok(()),
        false => Err(format!("no NOTIFY says that {telephone} is registered no more")),
    }
}

// ---- Emergency.

fn emergency_beside_normal(ims: &mut Ims, normal: usize, draw: &mut Random) -> Result<Met, String> {
    let emergency = ims.add_emergency(normal);
    registers(ims, normal)?;
    let ends_at = ims.world.now.as_millis().div_ceil(1_000) * 1_000
        + u64::from(Race::EmergencyBesideNormal.life()) * 1_000;
    let is_refresh = draw.below(2) == 0;
    if is_refresh {
        registers(ims, emergency)?;
    }
    let until = ims.world.now + Duration::from_secs(150);
    ims.world.run(until, |_| false);
    let mut met = match draw.below(2) {
        0 => emergency_against_rtr(ims, normal, emergency, draw)?,
        _ => emergency_against_expiry(ims, emergency, ends_at, draw)?,
    };
    if !met.is_empty() {
        met.insert(if is_refresh { "emergency refresh" } else { "emergency comes" });
    }
    registers(ims, emergency)?;
    counted(ims, &[normal, emergency])?;
    registers(ims, normal)?;
    counted(ims, &[normal, emergency])?;
    all_registered(ims, &[normal, emergency])?;
    let until = ims.world.now + Duration::from_secs(EMERGENCY_SECONDS + REST_SECONDS);
    ims.world.run(until, |_| false);
    agree(ims, &[normal, emergency])?;
    nothing_left(ims)?;
    Ok(met)
}

/// TS 24.229 §5.4.8.4: what the HSS ends for good leaves the emergency registration alone.
fn emergency_against_rtr(
    ims: &mut Ims,
    normal: usize,
    emergency: usize,
    draw: &mut Random,
) -> Result<Met, String> {
    let reason = ["permanent", "server-change"][draw.below(2) as usize];
    let was_registered = ims.world.phones[emergency].standing() == Standing::Registered;
    let before = Asked::of(ims);
    begin(ims, emergency, "register");
    meet(ims, draw);
    let met = at_hss(ims, &before, &[emergency]);
    end_by_rtr(ims, normal, reason);
    let until = ims.world.now + Duration::from_secs(135);
    ims.world.run(until, |_| false);
    let standing = ims.world.phones[normal].standing();
    if standing != Standing::Idle {
        return Err(format!("after {reason} the normal phone is {standing:?}"));
    }
    if was_registered && reason == "permanent" {
        // Whatever became of the refresh.
        all_registered(ims, &[emergency])?;
        counted(ims, &[normal, emergency])?;
    }
    Ok(met.into_iter().chain([reason]).filter(|_| !before.is_same(ims)).collect())
}

fn emergency_against_expiry(
    ims: &mut Ims,
    emergency: usize,
    ends_at: u64,
    draw: &mut Random,
) -> Result<Met, String> {
    let begin_at = ends_at - 130 + draw.below(150);
    pass_millis(ims, begin_at - ims.world.now.as_millis());
    let ended = expired_at_scscfs(ims);
    begin(ims, emergency, "register");
    let mut met = Met::new();
    while ims.world.phones[emergency].standing() == Standing::Busy
        && ims.world.now.as_millis() < begin_at + 2_000
    {
        pass_millis(ims, 1);
        if expired_at_scscfs(ims) > ended {
            met.insert("expired meanwhile");
        }
    }
    pass_millis(ims, 5_000);
    all_registered(ims, &[emergency])?;
    // The phone counts the end of the normal one by itself.
    counted(ims, &[0, emergency])?;
    Ok(met)
}

// ---- A restart of the P-CSCF.

fn pcscf_restart(ims: &mut Ims, ue: usize, draw: &mut Random) -> Result<Met, String> {
    registers(ims, ue)?;
    rest(ims);
    let before = Asked::of(ims);
    begin(ims, ue, "register");
    let until = ims.world.now + Duration::from_micros(draw.below(220_000));
    ims.world.run(until, |_| false);
    let met = at_hss(ims, &before, &[ue]);
    let pcscf = ims.world.member("pcscf");
    ims.world.kill(pcscf);
    ims.world.restart_after(pcscf, Duration::from_millis(10 + draw.below(3_000)));
    rest(ims);
    at_rest(ims)?;
    registers(ims, ue)?;
    rest(ims);
    agree(ims, &[ue])?;
    all_registered(ims, &[ue])?;
    Ok(met)
}

// ---- What phones are told, and how time passes.

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
fn meet(ims: &mut Ims, draw: &mut Random) {
    let owes =
        |world: &World| world.owed().iter().any(|(name, count)| is_scscf(name) && *count > 0);
    let end = ims.world.now + Duration::from_secs(5);
    ims.world.run(end, owes);
    if draw.below(2) == 0 {
        ims.world.run(end, |world| !owes(world));
        if draw.below(2) == 0 {
            // While the phone answers the challenge.
            return pass_millis(ims, draw.below(40));
        }
        ims.world.run(end, owes);
    }
    pass_millis(ims, draw.below(5));
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

// ---- What the HSS was asked.

/// Server-Assignment-Types (TS 29.229 §6.3.15).
const REGISTRATION: u32 = 1;
const RE_REGISTRATION: u32 = 2;

/// Command code of Multimedia-Auth (TS 29.229 §6.1).
const MAR: u32 = 303;

const BEFORE: &str = "before the MAR";
const BETWEEN: &str = "between MAA and SAR";
const AFTER: &str = "after the SAR";

/// Requests and vectors, since the world began.
#[derive(Clone, Debug)]
struct Asked {
    mars: u64,
    vectors: u64,
    /// By Server-Assignment-Type.
    sars: BTreeMap<u32, u64>,
}

impl Asked {
    fn of(ims: &Ims) -> Asked {
        let checkers = &ims.world.checkers;
        Asked {
            mars: checkers.at_hss.get(&MAR).copied().unwrap_or_default(),
            vectors: checkers.vectors,
            sars: checkers.assignments.clone(),
        }
    }

    fn since(mut self, before: &Asked) -> Asked {
        self.mars -= before.mars;
        self.vectors -= before.vectors;
        for (assignment_type, count) in &before.sars {
            *self.sars.entry(*assignment_type).or_default() -= count;
        }
        self.sars.retain(|_, count| *count > 0);
        self
    }

    /// SARs that register.
    fn assignments(&self) -> u64 {
        self.sars.values().sum()
    }

    fn is_same(&self, ims: &Ims) -> bool {
        let now = Asked::of(ims).since(self);
        now.mars == 0 && now.sars.is_empty()
    }
}

/// Where the procedure of a phone has got to at the HSS, while the phone waits for its end; nothing when it does not.
fn at_hss(ims: &Ims, before: &Asked, ues: &[usize]) -> Met {
    if ues.iter().all(|ue| ims.world.phones[*ue].standing() != Standing::Busy) {
        return Met::new();
    }
    let asked = Asked::of(ims).since(before);
    Met::from([match (asked.vectors, asked.assignments()) {
        (0, 0) => BEFORE,
        (_, 0) => BETWEEN,
        _ => AFTER,
    }])
}

fn repeated(ims: &Ims, name: &str) -> f64 {
    let labels = [("message", "request"), ("direction", "received")];
    ims.gauge(name, "tessera_sip_retransmissions_total", &labels)
}

fn merged(ims: &Ims, name: &str) -> f64 {
    ims.gauge(name, "tessera_sip_refused_total", &[("reason", "merged")])
}

// ---- What must hold.

fn registrations_at_scscfs(ims: &Ims) -> f64 {
    let name = "tessera_scscf_registrations";
    ["scscf1", "scscf2"].iter().map(|scscf| ims.gauge(scscf, name, &[])).sum()
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

/// Registrations at phones and P-CSCF, private identities registered at S-CSCFs and HSS.
#[derive(Debug)]
struct Counts {
    phones: usize,
    at_pcscf: usize,
    at_scscfs: usize,
    at_hss: usize,
}

impl Counts {
    fn of(ims: &mut Ims, ues: &[usize]) -> Counts {
        let is_registered = |ue: &&usize| ims.world.phones[**ue].standing() == Standing::Registered;
        Counts {
            phones: ues.iter().filter(is_registered).count(),
            at_pcscf: ims.gauge("pcscf", "tessera_pcscf_registrations", &[]) as usize,
            at_scscfs: registrations_at_scscfs(ims) as usize,
            at_hss: ims.registered_at_hss(),
        }
    }
}

/// At rest: everybody says the same of who is registered and where, and nobody owes anything.
fn agree(ims: &mut Ims, ues: &[usize]) -> Result<(), String> {
    counted(ims, ues)?;
    associations(ims, ues)?;
    at_rest(ims)
}

/// Phones, P-CSCF and its kernel, S-CSCFs and HSS say the same: who, where, and on which associations.
fn counted(ims: &mut Ims, ues: &[usize]) -> Result<(), String> {
    let is_registered = |ue: &usize| ims.world.phones[*ue].standing() == Standing::Registered;
    let registered: Vec<usize> = ues.iter().copied().filter(is_registered).collect();
    let private: BTreeSet<String> =
        registered.iter().map(|ue| ims.world.phones[*ue].private_identity()).collect();
    let counts = Counts::of(ims, ues);
    let Counts { phones, at_pcscf, at_scscfs, at_hss } = counts;
    if phones != at_pcscf || at_scscfs != private.len() || at_hss != private.len() {
        return Err(format!("{} private identities, {counts:?}", private.len()));
    }
    let contacts: Vec<String> =
        registered.iter().filter_map(|ue| ims.world.phones[*ue].contact()).collect();
    if contacts.len() != phones {
        return Err(format!("{phones} phones are registered, and have the contacts {contacts:?}"));
    }
    let pcscf = ims.world.member("pcscf");
    let held = ims.world.admin(pcscf, &["registrations"]);
    let bound = bound_at_scscfs(ims, ues);
    for contact in &contacts {
        if !held.contains(contact.as_str()) {
            return Err(format!("{contact} is not at the P-CSCF:\n{held}"));
        }
        if bound.iter().filter(|one| one.contains(contact.as_str())).count() != 1 {
            return Err(format!("{contact} is not bound once at the S-CSCF: {bound:?}"));
        }
    }
    if bound.len() != contacts.len() {
        return Err(format!("the S-CSCF has bound {bound:?}, phones have {contacts:?}"));
    }
    Ok(())
}

/// What the S-CSCFs have bound to the public identities of the phones.
fn bound_at_scscfs(ims: &mut Ims, ues: &[usize]) -> Vec<String> {
    let line = |ue: &usize| Some(ims.world.phones[*ue].line()?.public_identity);
    let identities: BTreeSet<String> = ues.iter().filter_map(line).collect();
    let mut bound = Vec::new();
    for name in ["scscf1", "scscf2"] {
        for identity in &identities {
            let shown = ims.world.admin(ims.world.member(name), &["show", identity]);
            let contacts = shown.lines().filter(|line| line.starts_with("  contact "));
            bound.extend(contacts.map(str::to_owned));
        }
    }
    bound
}

/// P-CSCF, kernel and phones have the same: a registered phone its newest set, and after a challenge the one
/// from before it as long as that is not taken out of use; nobody else any.
fn associations(ims: &mut Ims, ues: &[usize]) -> Result<(), String> {
    let pcscf = ims.world.member("pcscf");
    let at_pcscf = ims.gauge("pcscf", "tessera_pcscf_security_association_sets", &[]) as usize;
    let kernel = ims.world.members[pcscf].kernel.as_ref().ok_or("no kernel")?;
    let (sets, spis) = (kernel.len(), kernel.outbound_spis());
    let is_registered = |ue: &&usize| ims.world.phones[**ue].standing() == Standing::Registered;
    let registered = ues.iter().filter(is_registered).count();
    if sets != at_pcscf || sets < registered || sets > 2 * registered {
        return Err(format!("{sets} sets in the kernel, {at_pcscf} known, {registered} phones"));
    }
    for ue in ues {
        let phone = &ims.world.phones[*ue];
        let own = phone.inbound_spis();
        let newest = &own[own.len().saturating_sub(2)..];
        match phone.standing() {
            Standing::Registered if newest.is_empty() => {
                return Err(format!("ue{ue} is registered, and has no set"));
            }
            Standing::Registered if !newest.iter().all(|spi| spis.contains(spi)) => {
                return Err(format!("ue{ue} listens on {newest:?}, the kernel sends on {spis:?}"));
            }
            Standing::Idle if !own.is_empty() => {
                return Err(format!("ue{ue} is not registered, and has sets"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// No open transaction, question, turn or challenge anywhere.
fn at_rest(ims: &mut Ims) -> Result<(), String> {
    let owed: Vec<_> = ims.world.owed().into_iter().filter(|(_, count)| *count > 0).collect();
    let phones: Vec<_> = ims.world.phones.iter().map(|phone| phone.owed()).collect();
    if !owed.is_empty() || phones.iter().any(|count| *count > 0) {
        return Err(format!("owed: {owed:?}, phones {phones:?}"));
    }
    for (name, gauge) in [
        ("scscf1", "tessera_scscf_challenges"),
        ("scscf2", "tessera_scscf_challenges"),
        ("pcscf", "tessera_pcscf_leaving_registrations"),
    ] {
        let left = ims.gauge(name, gauge, &[]);
        if left != 0.0 {
            return Err(format!("{gauge} at {name}: {left}"));
        }
    }
    Ok(())
}

/// All phones that are registered leave.
fn leave(ims: &mut Ims) -> Result<(), String> {
    for ue in 0..ims.world.phones.len() {
        if ims.world.phones[ue].standing() != Standing::Registered {
            continue;
        }
        begin(ims, ue, "deregister");
        let end = ims.world.now + Duration::from_secs(140);
        ims.world.run(end, |world| world.phones[ue].standing() != Standing::Busy);
        let standing = ims.world.phones[ue].standing();
        if standing != Standing::Idle {
            return Err(format!("ue{ue} does not leave: {standing:?}"));
        }
    }
    rest(ims);
    let all: Vec<usize> = (0..ims.world.phones.len()).collect();
    agree(ims, &all)?;
    nothing_left(ims)
}

fn nothing_left(ims: &mut Ims) -> Result<(), String> {
    for (name, gauge) in [
        ("pcscf", "tessera_pcscf_registrations"),
        ("pcscf", "tessera_pcscf_security_association_sets"),
        ("pcscf", "tessera_pcscf_watches"),
        ("scscf1", "tessera_scscf_registrations"),
        ("scscf2", "tessera_scscf_registrations"),
        ("scscf1", "tessera_scscf_subscriptions"),
        ("scscf2", "tessera_scscf_subscriptions"),
    ] {
        let left = ims.gauge(name, gauge, &[]);
        if left != 0.0 {
            return Err(format!("left at {name}: {left} of {gauge}"));
        }
    }
    match ims.registered_at_hss() {
        0 => Ok(()),
        left => Err(format!("left at the HSS: {left}")),
    }
}
