//! `lab check outages`: what takes the place of somebody who is gone. There are two P-CSCFs, two I-CSCFs (entry
//! points, by SRV), and an application server with two addresses, at the first of which nobody is. Who waits for
//! somebody waits for a short time: see `config`.

use std::net::SocketAddr;
use std::time::Duration;

use common::node::Transport;
use scenarios::{Function, Phone, Standing, World, ensure};

use crate::check::{Check, LabWorld, Tell, Wanted, run_all};
use crate::config::{PCSCF_AWAITS_SECONDS, Plane, SCSCF_AWAITS_SECONDS};
use crate::handsets::Model;
use crate::topology::{Addresses, IpVersion, ROUTER};

const PATIENCE: Duration = Duration::from_secs(60);
const SCSCFS: [Function; 2] = [Function::Scscf1, Function::Scscf2];
const SECOND_ICSCF: &str = "icscf2";
const SECOND_PCSCF: &str = "pcscf2";
/// Of phones that find out that their P-CSCF is dead: 64 of it.
const BRIEF_T1: Duration = Duration::from_millis(100);

const CHECKS: [Check; 10] = [
    (
        "entry_point_is_killed",
        "without the first I-CSCF a phone registers, refreshes and leaves by the other one",
        entry_point_is_killed,
    ),
    (
        "entry_point_hangs",
        "who registers while the first I-CSCF hangs is served by the other one",
        entry_point_hangs,
    ),
    (
        "pcscf_is_killed",
        "a phone leaves a dead P-CSCF for another: one registration, new associations, and it is told",
        pcscf_is_killed,
    ),
    (
        "first_pcscf_is_dead",
        "a phone whose first P-CSCF has never answered registers by the next one at once",
        first_pcscf_is_dead,
    ),
    ("dns_is_dead", "a P-CSCF without DNS answers 504; with it phones register again", dns_is_dead),
    (
        "late_answer",
        "an answer behind reg-await-auth: the HSS has been told; the phone begins anew, and is registered",
        late_answer,
    ),
    (
        "no_answer",
        "a challenge that nobody answers lapses at the S-CSCF, and its associations at the P-CSCF",
        no_answer,
    ),
    (
        "server_with_two_addresses",
        "third-party REGISTER and NOTIFY pass over the dead one of two addresses",
        server_with_two_addresses,
    ),
    (
        "an_end_is_told_after_a_crash",
        "the way to the P-CSCF is cut when the HSS ends a registration, the S-CSCF dies: both are told yet",
        an_end_is_told_after_a_crash,
    ),
    (
        "an_end_while_the_pcscf_is_away",
        "back again, and told by nobody, the P-CSCF asks and learns of it; the phone is told in its old dialog",
        an_end_while_the_pcscf_is_away,
    ),
];

pub fn run(world: &mut LabWorld, wanted: &Wanted, tell: &mut Tell<'_>) -> bool {
    run_all(&CHECKS, world, wanted, tell)
}

/// TS 24.229 §5.2.2.1, RFC 3263 §4.3
fn entry_point_is_killed(world: &mut LabWorld) -> Result<(), String> {
    let before = registers_of(world, SECOND_ICSCF);
    world.kill(Function::Icscf);
    let result = registers_refreshes_leaves(world);
    world.start(Function::Icscf);
    result?;
    let now = registers_of(world, SECOND_ICSCF) - before;
    ensure(now >= 4.0, || format!("{now} REGISTERs by the other one"))?;
    forgets_who_failed(world);
    let at_first = registers_of(world, "icscf");
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    ensure(registers_of(world, "icscf") > at_first, || "the first one is not asked again".into())
}

/// For half a minute a P-CSCF would ask others first.
fn forgets_who_failed(world: &mut LabWorld) {
    world.kill(Function::Pcscf);
    world.start(Function::Pcscf);
}

fn registers_refreshes_leaves(world: &mut LabWorld) -> Result<(), String> {
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    let completed = world.completed(ue);
    world.reregister(ue);
    world.until("the refresh", PATIENCE, &mut |world| world.completed(ue) > completed)?;
    world.deregister(ue);
    world.until("it leaves", PATIENCE, &mut |world| world.standing(ue) == Standing::Idle)
}

fn entry_point_hangs(world: &mut LabWorld) -> Result<(), String> {
    forgets_who_failed(world);
    let before = ["icscf", SECOND_ICSCF].map(|node| registers_of(world, node));
    let ue = world.add_phone(Phone::Good);
    world.hang(Function::Icscf, true);
    let result = registers(world, ue);
    world.hang(Function::Icscf, false);
    result?;
    let now = registers_of(world, SECOND_ICSCF);
    ensure(now > before[1], || "the other one was not asked".into())?;
    world.until_here("the first one finds what it was asked", PATIENCE, |world| {
        registers_of(world, "icscf") > before[0]
    })?;
    forgets_who_failed(world);
    Ok(())
}

/// TS 24.229 §5.1.1.4.1, §5.4.1.2.2
fn pcscf_is_killed(world: &mut LabWorld) -> Result<(), String> {
    let held = at_scscfs(world, "tessera_scscf_registrations");
    let at_second = held_by_second_pcscf(world);
    let ue = add_with_two_pcscfs(world)?;
    registers(world, ue)?;
    world.until("it watches", PATIENCE, &mut |world| world.notified(ue) > 0)?;
    let (completed, told) = (world.completed(ue), world.notified(ue));
    let packets = packets_of_second_pcscf(world);
    world.kill(Function::Pcscf);
    world.reregister(ue);
    let moved = world.until("registered by the other one, and told", PATIENCE, &mut |world| {
        world.completed(ue) > completed
            && world.notified(ue) > told
            && world.standing(ue) == Standing::Registered
    });
    let now = at_scscfs(world, "tessera_scscf_registrations");
    world.start(Function::Pcscf);
    moved?;
    ensure(now <= held + 1.0, || format!("{now} registrations, {held} before the phone"))?;
    let now = held_by_second_pcscf(world);
    ensure(now == at_second + 1.0, || format!("{now} registrations at the other P-CSCF"))?;
    let is_counted = world.ask(|laboratory| laboratory.options.plane != Plane::Off);
    let now = packets_of_second_pcscf(world);
    ensure(!is_counted || now > packets, || "no ESP at the other P-CSCF".into())?;
    let impi = world.private_identity(ue);
    world.command(Function::Hss, &["rtr", &impi, "permanent"]);
    world.until("it is told of its end", PATIENCE, &mut |world| {
        world.standing(ue) == Standing::Idle
    })?;
    world.until_here("its P-CSCF, too", PATIENCE, |world| held_by_second_pcscf(world) == at_second)
}

/// TS 24.229 §5.1.1.2.1
fn first_pcscf_is_dead(world: &mut LabWorld) -> Result<(), String> {
    let at_second = held_by_second_pcscf(world);
    world.kill(Function::Pcscf);
    let result = add_with_two_pcscfs(world).and_then(|ue| {
        world.register(ue);
        // Less than any back-off behind the first one's silence.
        let limit = 64 * BRIEF_T1 + Duration::from_secs(8);
        world.until("registered by the other one", limit, &mut |world| {
            world.standing(ue) == Standing::Registered
        })
    });
    world.start(Function::Pcscf);
    result?;
    let now = held_by_second_pcscf(world);
    ensure(now == at_second + 1.0, || format!("{now} registrations at the other P-CSCF"))
}

/// TS 24.229 §5.2.2.1: a P-CSCF that has nothing in memory of what the DNS said before.
fn dns_is_dead(world: &mut LabWorld) -> Result<(), String> {
    let ue = world.add_phone(Phone::Good);
    world.kill(Function::Pcscf);
    world.ask(|laboratory| laboratory.kill_dns());
    world.start(Function::Pcscf);
    world.register(ue);
    let answered = world.until("an answer", PATIENCE, &mut |world| {
        matches!(world.standing(ue), Standing::Failed { .. })
    });
    let standing = world.standing(ue);
    let started = world.ask(|laboratory| laboratory.start_dns().err());
    answered?;
    started.map_or(Ok(()), Err)?;
    ensure(matches!(standing, Standing::Failed { status: 504, .. }), || {
        format!("504 was to come, not {standing:?}")
    })?;
    registers(world, ue)
}

/// TS 24.229 §5.4.1.2.3, §7.8
fn late_answer(world: &mut LabWorld) -> Result<(), String> {
    let vectors =
        |world: &mut LabWorld| world.metric(Function::Hss, "tessera_hss_vectors_total", &[]);
    let (ue, imsi) = with_a_bearer(world)?;
    let (given, lapsed, told) = (vectors(world), lapsed(world), sars(world));
    challenged_off_the_air(world, ue, &imsi, SCSCF_AWAITS_SECONDS + 2)?;
    world.until("the registration ends", PATIENCE, &mut |world| {
        !matches!(world.standing(ue), Standing::Busy)
    })?;
    let standing = world.standing(ue);
    let now = self::lapsed(world) - lapsed;
    ensure(now >= 1.0, || "no challenge has lapsed".into())?;
    let now = sars(world) - told;
    ensure(now >= 1.0, || "the HSS was not told".into())?;
    let is_protected = world.ask(|laboratory| laboratory.options.plane != Plane::Off);
    // The S-CSCF challenges the answer; there is nothing left to make associations of.
    let wanted = if is_protected { 2.0 } else { 1.0 };
    let now = vectors(world) - given;
    ensure(now >= wanted, || format!("{now} vectors"))?;
    ensure(!is_protected || matches!(standing, Standing::Failed { status: 500, .. }), || {
        format!("500 was to come, not {standing:?}")
    })?;
    registers(world, ue)
}

/// TS 24.229 §5.2.2.2, §5.4.1.2.3, §7.8
fn no_answer(world: &mut LabWorld) -> Result<(), String> {
    let temporary = |world: &mut LabWorld| {
        let name = "tessera_pcscf_security_association_sets";
        world.metric(Function::Pcscf, name, &[("state", "temporary")])
    };
    let (ue, imsi) = with_a_bearer(world)?;
    let (lapsed, told) = (lapsed(world), sars(world));
    let registered = at_scscfs(world, "tessera_scscf_registrations");
    challenged_off_the_air(world, ue, &imsi, 1)?;
    world.reboot(ue);
    let is_protected = world.ask(|laboratory| laboratory.options.plane != Plane::Off);
    if is_protected {
        world.until_here("a temporary set", PATIENCE, |world| temporary(world) > 0.0)?;
    }
    world.until_here("the S-CSCF gives up", PATIENCE, |world| self::lapsed(world) > lapsed)?;
    world.until_here("the HSS is told", PATIENCE, |world| sars(world) > told)?;
    let limit = Duration::from_secs(2 * u64::from(PCSCF_AWAITS_SECONDS));
    world.until_here("the P-CSCF gives up", limit, |world| temporary(world) == 0.0)?;
    let now = at_scscfs(world, "tessera_scscf_registrations");
    ensure(now <= registered, || "somebody is registered".into())?;
    registers(world, ue)
}

/// TS 24.229 §5.4.1.7, §5.4.2.1.2; RFC 3263 §4.3
fn server_with_two_addresses(world: &mut LabWorld) -> Result<(), String> {
    let heard = |world: &mut dyn World| {
        ["registered", "notified"].map(|what| {
            let labels = [("what", what)];
            world.metric(Function::ApplicationServer, "tessera_as_events_total", &labels)
        })
    };
    // They would know by now at which address nobody is.
    for scscf in SCSCFS {
        world.kill(scscf);
        world.start(scscf);
    }
    let before = heard(world);
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    world.until("the server hears, and is told", PATIENCE, &mut |world| {
        heard(world).iter().zip(before).all(|(now, before)| *now > before)
    })
}

/// RFC 3680 §5.2: nobody knows any more why it ended, only that it did.
fn an_end_is_told_after_a_crash(world: &mut LabWorld) -> Result<(), String> {
    let held = |world: &mut dyn World| {
        SCSCFS.map(|of| world.metric(of, "tessera_scscf_registrations", &[]))
    };
    let before = held(world);
    let told = |world: &mut dyn World| {
        let name = "tessera_pcscf_watch_events_total";
        world.metric(Function::Pcscf, name, &[("outcome", "notified")])
    };
    let at_pcscf = world.metric(Function::Pcscf, "tessera_pcscf_registrations", &[]);
    let heard = told(world);
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    world.until("phone and P-CSCF watch", PATIENCE, &mut |world| {
        world.notified(ue) > 0 && told(world) > heard
    })?;
    let now = held(world);
    let serving = usize::from(now[1] > before[1]);
    let impi = world.private_identity(ue);
    let node = SCSCFS[serving].name();
    world.cut_off("pcscf", true)?;
    world.command(Function::Hss, &["rtr", &impi, "permanent"]);
    let ended = world
        .until("the S-CSCF ends it", PATIENCE, &mut |world| held(world)[serving] < now[serving]);
    world.kill(SCSCFS[serving]);
    // The kernel would go on sending for it: half a minute, as daemons have it told.
    let silent = world.until_here("what it had sent is given up", PATIENCE, |world| {
        world.sends_nothing_more(node)
    });
    let whole = world.cut_off("pcscf", false);
    let standing = world.standing(ue);
    world.start(SCSCFS[serving]);
    ended?;
    silent?;
    whole?;
    ensure(standing == Standing::Registered, || format!("it cannot know, and is {standing:?}"))?;
    world
        .until("the phone is told", PATIENCE, &mut |world| world.standing(ue) == Standing::Idle)?;
    world.until("the P-CSCF is told", PATIENCE, &mut |world| {
        world.metric(Function::Pcscf, "tessera_pcscf_registrations", &[]) <= at_pcscf
    })
}

/// TS 24.229 §5.2.3, §5.2.6.4: nobody is left who would notify the P-CSCF, and it knows no dialog any more; but a
/// SUBSCRIBE is 404 now, and Record-Route leads to the phone.
fn an_end_while_the_pcscf_is_away(world: &mut LabWorld) -> Result<(), String> {
    let held = |world: &mut dyn World| {
        SCSCFS.map(|of| world.metric(of, "tessera_scscf_registrations", &[]))
    };
    let watched = |world: &mut dyn World, outcome| {
        let name = "tessera_pcscf_watch_events_total";
        world.metric(Function::Pcscf, name, &[("outcome", outcome)])
    };
    let before = held(world);
    let at_pcscf = world.metric(Function::Pcscf, "tessera_pcscf_registrations", &[]);
    let heard = watched(world, "notified");
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    world.until("phone and P-CSCF watch", PATIENCE, &mut |world| {
        world.notified(ue) > 0 && watched(world, "notified") > heard
    })?;
    let now = held(world);
    let serving = usize::from(now[1] > before[1]);
    let impi = world.private_identity(ue);
    // A port where nobody is would be reported at once, and the phone given up.
    world.cut_off("pcscf", true)?;
    world.kill(Function::Pcscf);
    world.command(Function::Hss, &["rtr", &impi, "permanent"]);
    let ended = world
        .until("the S-CSCF ends it", PATIENCE, &mut |world| held(world)[serving] < now[serving]);
    world.kill(SCSCFS[serving]);
    let whole = world.cut_off("pcscf", false);
    world.start(Function::Pcscf);
    let learned = world.until("the P-CSCF learns of it", PATIENCE, &mut |world| {
        watched(world, "deregistered") >= 1.0
            && world.metric(Function::Pcscf, "tessera_pcscf_registrations", &[]) <= at_pcscf
    });
    world.start(SCSCFS[serving]);
    ended?;
    whole?;
    learned?;
    world.until("the phone is told", PATIENCE, &mut |world| world.standing(ue) == Standing::Idle)
}

fn registers(world: &mut LabWorld, ue: usize) -> Result<(), String> {
    world.register(ue);
    world.until("the registration ends", PATIENCE, &mut |world| {
        !matches!(world.standing(ue), Standing::Busy | Standing::Idle)
    })?;
    let standing = world.standing(ue);
    ensure(standing == Standing::Registered, || format!("not registered: {standing:?}"))
}

/// A phone that has been registered and has left, so that it has a bearer; and its IMSI.
fn with_a_bearer(world: &mut LabWorld) -> Result<(usize, String), String> {
    let ue = world.add_phone(Phone::Good);
    registers(world, ue)?;
    world.deregister(ue);
    world.until("it leaves", PATIENCE, &mut |world| world.standing(ue) == Standing::Idle)?;
    let who = world.private_identity(ue);
    Ok((ue, who.split('@').next().unwrap_or_default().to_owned()))
}

/// The phone begins to register, and its cell is off the air for so long when the challenge comes.
fn challenged_off_the_air(
    world: &mut LabWorld,
    ue: usize,
    imsi: &str,
    seconds: u32,
) -> Result<(), String> {
    let challenges =
        |world: &mut LabWorld| SCSCFS.map(|of| world.metric(of, "tessera_scscf_challenges", &[]));
    let received = |world: &LabWorld| registers_of(world, "icscf");
    let (before, had) = (challenges(world), received(world));
    world.hang(Function::Hss, true);
    world.register(ue);
    let begun =
        world.until_here("the I-CSCF has the REGISTER", PATIENCE, |world| received(world) > had);
    let out = world.lte(&["outage", imsi, "for", &seconds.to_string()]);
    world.hang(Function::Hss, false);
    begun?;
    out?;
    world.until_here("a challenge", PATIENCE, |world| {
        challenges(world).iter().zip(before).any(|(now, before)| *now > before)
    })
}

/// Automatic, as phones are, and soon sure that nobody answers.
fn add_with_two_pcscfs(world: &mut LabWorld) -> Result<usize, String> {
    let number = world.ask(|laboratory| {
        let second = Addresses(laboratory.options.version).second_pcscf_gm();
        let model = Model {
            is_automatic: true,
            other_pcscf: Some(SocketAddr::new(second, 5060)),
            gm_t1: Some(BRIEF_T1),
            // A connection to nobody has patience of its own.
            transport: Some(Transport::Udp),
            is_brief: true,
            ..Model::default()
        };
        laboratory.add_phone(true, model)
    });
    number.ok_or_else(|| "no subscriber".to_owned())
}

fn registers_of(world: &LabWorld, node: &str) -> f64 {
    world.metric_of(node, "tessera_sip_requests_received_total", &[("method", "REGISTER")])
}

fn held_by_second_pcscf(world: &LabWorld) -> f64 {
    world.metric_of(SECOND_PCSCF, "tessera_pcscf_registrations", &[])
}

fn packets_of_second_pcscf(world: &LabWorld) -> f64 {
    world.metric_of(SECOND_PCSCF, "tessera_ipsec_packets_total", &[("direction", "in")])
}

fn at_scscfs(world: &mut LabWorld, name: &str) -> f64 {
    SCSCFS.iter().map(|of| world.metric(*of, name, &[])).sum()
}

fn lapsed(world: &mut LabWorld) -> f64 {
    let labels = [("outcome", "challenge_lapsed")];
    SCSCFS.iter().map(|of| world.metric(*of, "tessera_scscf_registers_total", &labels)).sum()
}

/// But for those that leave watchers with the HSS, a second after they came.
fn sars(world: &mut LabWorld) -> f64 {
    let left = [("outcome", "watchers_left")];
    let of_watchers: f64 =
        SCSCFS.iter().map(|of| world.metric(*of, "tessera_scscf_restorations_total", &left)).sum();
    world.metric(Function::Hss, "tessera_hss_requests_total", &[("command", "SAR")]) - of_watchers
}

impl LabWorld {
    /// No connection of a dead process waits for an acknowledgement there.
    fn sends_nothing_more(&self, node: &'static str) -> bool {
        let states = self.ask(move |laboratory| {
            let words = ["sh", "-c", "cat /proc/net/tcp /proc/net/tcp6"];
            laboratory.topology.namespace(node).output_of(&words).unwrap_or_default()
        });
        // proc_pid_net(5): FIN_WAIT1 is 4, LAST_ACK 9, CLOSING 11.
        let is_sending = |line: &str| {
            let state = line.split_whitespace().nth(3);
            matches!(state, Some("04" | "09" | "0B"))
        };
        !states.lines().any(is_sending)
    }

    /// The router of the core drops what is for that node, without a word.
    fn cut_off(&self, node: &'static str, is_cut: bool) -> Result<(), String> {
        let verb = if is_cut { "add" } else { "delete" };
        let error = self.ask(move |laboratory| {
            let version = laboratory.options.version;
            let address = Addresses(version).core(node);
            let (family, length) = match version {
                IpVersion::V4 => ("-4", 32),
                IpVersion::V6 => ("-6", 128),
            };
            let prefix = format!("{address}/{length}");
            let words = ["ip", family, "route", verb, "blackhole", &prefix];
            laboratory.topology.namespace(ROUTER).output_of(&words).err()
        });
        error.map_or(Ok(()), Err)
    }
}
