//! What the radio network does to a registered phone, and what of it the IMS must not notice: another
//! cell, another S-GW, a radio that sleeps, a cell that is off the air.

use std::time::{Duration, Instant};

use scenarios::{Function, Phone, Standing, World, ensure};

use crate::check::{Check, LabWorld, Tell, Wanted, run_all};
use crate::processes;

/// Cells of the lab, each of an eNodeB of its own; UEs attach in one or the other.
pub const CELLS: [&str; 2] = ["cell1", "cell2"];
/// The S-GW that serves nobody until a handover says so.
pub const SECOND_SGW: &str = "sgw2";

const PATIENCE: Duration = Duration::from_secs(30);
/// Of a refresh whose first copies are lost: retransmissions are 2, 4 and 8 s apart (T1 of Gm).
const OUTAGE_PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

const CHECKS: [Check; 5] = [
    (
        "handover_to_another_cell",
        "an X2 handover in the middle of a refresh: same associations, no challenge",
        handover_to_another_cell,
    ),
    (
        "handover_to_another_sgw",
        "path switch with a change of S-GW: same address, same associations",
        handover_to_another_sgw,
    ),
    (
        "idle_phone_is_paged",
        "a deregistration by the network reaches a phone whose radio sleeps",
        idle_phone_is_paged,
    ),
    (
        "refresh_through_an_outage",
        "a refresh into a cell that is off the air ends well when it is back",
        refresh_through_an_outage,
    ),
    (
        "scscf_changes_between_the_registers",
        "kill -9 of the S-CSCF between challenge and answer: refused at once, and served by the other one",
        scscf_changes_between_the_registers,
    ),
];

pub fn run(world: &mut LabWorld, wanted: &Wanted, tell: &mut Tell<'_>) -> bool {
    run_all(&CHECKS, world, wanted, tell)
}

fn handover_to_another_cell(world: &mut LabWorld) -> Result<(), String> {
    hand_over(world, &[], "x2")
}

fn handover_to_another_sgw(world: &mut LabWorld) -> Result<(), String> {
    hand_over(world, &["sgw", SECOND_SGW], "s-gw-change")
}

/// The refresh is on its way when the UE leaves its cell.
fn hand_over(world: &mut LabWorld, more: &[&str], kind: &str) -> Result<(), String> {
    let (ue, imsi) = registered(world)?;
    let at = world.lte(&["ue", &imsi])?;
    let target = CELLS.into_iter().find(|cell| !at.contains(cell)).ok_or("there is one cell")?;
    let before = Known::of(world, ue)?;
    let labels = [("kind", kind), ("result", "completed")];
    let done = world.lte_metric("tessera_lte_handovers_total", &labels);
    world.reregister(ue);
    world.lte(&[&["handover", &imsi, target], more].concat())?;
    world.until("the refresh ends", OUTAGE_PATIENCE, &mut |world| world.completed(ue) == 2)?;
    world.until_here(&format!("a handover of the kind {kind}"), PATIENCE, |world| {
        world.lte_metric("tessera_lte_handovers_total", &labels) == done + 1.0
    })?;
    // Once more, all of it in the new cell.
    world.reregister(ue);
    world.until("another refresh", PATIENCE, &mut |world| world.completed(ue) == 3)?;
    let at = world.lte(&["ue", &imsi])?;
    ensure(at.contains(target), || format!("the UE is not in {target}: {at}"))?;
    before.still_holds(world, ue)
}

fn idle_phone_is_paged(world: &mut LabWorld) -> Result<(), String> {
    let (ue, imsi) = registered(world)?;
    let who = world.private_identity(ue);
    // The phone subscribes to its registration by itself; only then does it have nothing more to do.
    world.until("its subscription is answered", PATIENCE, &mut |world| world.notified(ue) > 0)?;
    world.sleeps(ue, &imsi)?;
    let answered = world.lte_metric("tessera_lte_pages_total", &[("result", "answered")]);
    world.command(Function::Hss, &["rtr", &who]);
    world.until("the phone knows that it is deregistered", PATIENCE, &mut |world| {
        world.standing(ue) != Standing::Registered
    })?;
    let now = world.lte_metric("tessera_lte_pages_total", &[("result", "answered")]);
    ensure(now > answered, || "no page was answered".to_owned())
}

fn refresh_through_an_outage(world: &mut LabWorld) -> Result<(), String> {
    let (ue, imsi) = registered(world)?;
    let before = Known::of(world, ue)?;
    world.lte(&["outage", &imsi, "for", "3"])?;
    world.reregister(ue);
    world.until("the refresh ends", OUTAGE_PATIENCE, &mut |world| world.completed(ue) == 2)?;
    before.still_holds(world, ue)
}

/// The cell is off the air while the challenge comes, and the S-CSCF that has sent it dies meanwhile.
fn scscf_changes_between_the_registers(world: &mut LabWorld) -> Result<(), String> {
    const SCSCFS: [Function; 2] = [Function::Scscf1, Function::Scscf2];
    let challenges = |world: &mut LabWorld| {
        SCSCFS.map(|scscf| world.metric(scscf, "tessera_scscf_challenges", &[]))
    };
    let received = |world: &mut LabWorld| {
        let registers = [("method", "REGISTER")];
        world.metric(Function::Icscf, "tessera_sip_requests_received_total", &registers)
    };
    // Registered once, so that it has a bearer.
    let (ue, imsi) = registered(world)?;
    world.deregister(ue);
    world.until("it leaves", PATIENCE, &mut |world| world.standing(ue) == Standing::Idle)?;
    let before = challenges(world);
    let had = received(world);
    world.hang(Function::Hss, true);
    world.register(ue);
    let begun =
        world.until_here("the I-CSCF has the REGISTER", PATIENCE, |world| received(world) > had);
    let out = world.lte(&["outage", &imsi, "for", "3"]);
    world.hang(Function::Hss, false);
    begun?;
    out?;
    world.until_here("a challenge", PATIENCE, |world| {
        challenges(world).iter().zip(before).any(|(now, before)| *now > before)
    })?;
    let now = challenges(world);
    let serving = SCSCFS[usize::from(now[1] > before[1])];
    world.kill(serving);
    let ended = world.until("the answer to it", OUTAGE_PATIENCE, &mut |world| {
        world.standing(ue) != Standing::Busy
    });
    let standing = world.standing(ue);
    world.register(ue);
    let again = world.until("the other one serves", OUTAGE_PATIENCE, &mut |world| {
        world.standing(ue) == Standing::Registered
    });
    world.start(serving);
    ended?;
    ensure(matches!(standing, Standing::Failed { status: 500, .. }), || {
        format!("500 was to come, not {standing:?}")
    })?;
    again
}

/// A phone that is registered, and its IMSI.
fn registered(world: &mut LabWorld) -> Result<(usize, String), String> {
    let ue = world.add_phone(Phone::Good);
    world.register(ue);
    world.until("the registration", PATIENCE, &mut |world| {
        world.standing(ue) == Standing::Registered
    })?;
    let who = world.private_identity(ue);
    let imsi = who.split('@').next().unwrap_or_default().to_owned();
    Ok((ue, imsi))
}

/// What a change of the access must leave as it is.
#[derive(PartialEq, Debug)]
struct Known {
    address: std::net::IpAddr,
    /// Ports and SPIs.
    associations: Option<(u16, u16, u32, u32)>,
    vectors: f64,
}

impl Known {
    fn of(world: &mut LabWorld, ue: usize) -> Result<Known, String> {
        let line = world.line(ue).ok_or("the phone has no bearer")?;
        let vectors = world.metric(Function::Hss, "tessera_hss_vectors_total", &[]);
        Ok(Known { address: line.address, associations: line.ports, vectors })
    }

    fn still_holds(&self, world: &mut LabWorld, ue: usize) -> Result<(), String> {
        let now = Known::of(world, ue)?;
        ensure(now == *self, || format!("{now:?}, {self:?} before"))
    }
}

impl LabWorld {
    /// Puts a phone's radio to sleep, until it stays so for longer than a repetition over TCP takes. What is under
    /// way when it goes to sleep is lost, sent again, and has it awake: so only when nothing has come for a while.
    fn sleeps(&mut self, ue: usize, imsi: &str) -> Result<(), String> {
        const QUIET: Duration = Duration::from_millis(500);
        const LONGER_THAN_A_REPETITION: Duration = Duration::from_millis(1_500);
        let begin = Instant::now();
        loop {
            let (mut last, mut since) = (0, Instant::now());
            while since.elapsed() < QUIET {
                ensure(begin.elapsed() < PATIENCE, || format!("{imsi} is never quiet"))?;
                let arrived = self.line(ue).map_or(0, |line| line.arrived);
                if arrived != last {
                    (last, since) = (arrived, Instant::now());
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
            self.lte(&["idle", imsi])?;
            let asleep = Instant::now();
            while self.lte(&["ue", imsi])?.contains("state idle") {
                if asleep.elapsed() > LONGER_THAN_A_REPETITION {
                    return Ok(());
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
        }
    }

    fn lte_metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let Some(at) = self.lte_address() else { return 0.0 };
        processes::metric(at, name, labels)
    }
}
