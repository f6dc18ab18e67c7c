//! `lab check schemes`: what an operator has to switch on. The S-CSCFs offer AKAv2 (RFC 4169) with SHA-256
//! (RFC 8760), SIP Digest and early IMS security (TS 33.203 Annex N, Annex T); an SLF stands in front of
//! two HSSs (Dx), which share a database.

use std::time::Duration;

use common::aka::digest::DigestAlgorithm;
use common::node::Transport;
use common::secret::Secret;
use scenarios::{Function, Standing, World, ensure};
use ue::{AKA_ALGORITHMS, Authentication};

use crate::check::{Check, LabWorld, Tell, Wanted, run_all};
use crate::config::HOME_DOMAIN;
use crate::decode::What;
use crate::handsets::Model;
use crate::subscribers::{BY_ADDRESS, PASSWORD, WITH_CAPABILITY, WITH_PASSWORD, WITHOUT_SERVER};

const PATIENCE: Duration = Duration::from_secs(30);

const CHECKS: [Check; 11] = [
    ("akav2_sha_256", "the first line of the challenge is answered, inside IPsec", |world| {
        registers_by_card(world, &[DigestAlgorithm::AkaV2Sha256])
    }),
    ("akav2_md5", "a phone that knows no SHA-256 answers another line", |world| {
        registers_by_card(world, &[DigestAlgorithm::AkaV2Md5])
    }),
    ("akav1_where_more_is_offered", "a phone of today is served as before", |world| {
        registers_by_card(world, &[DigestAlgorithm::AkaV1Md5])
    }),
    (
        "sip_digest",
        "by password; a refresh uses the nonce again, with the next count; deregisters",
        sip_digest,
    ),
    ("sip_digest_wrong_password", "403, and nobody is registered", sip_digest_wrong_password),
    (
        "keep_alives",
        "a phone in clear behind a NAT keeps it open, registers again by another port, and is told there",
        keep_alives,
    ),
    (
        "early_ims",
        "the address that the packet core has told the HSS is enough, and any other is 403",
        early_ims,
    ),
    (
        "capabilities",
        "who needs what only the second S-CSCF has is registered there; what none has: 600",
        capabilities,
    ),
    ("slf", "all of this was asked by way of redirects; an RTR finds its way back", slf),
    (
        "hss_is_killed",
        "registrations, refreshes and RTR go by way of the other HSS, and back when that is killed",
        hss_is_killed,
    ),
    ("hss_hangs", "who registers while it hangs is served by the other HSS", hss_hangs),
];

pub fn run(world: &mut LabWorld, wanted: &Wanted, tell: &mut Tell<'_>) -> bool {
    run_all(&CHECKS, world, wanted, tell)
}

/// RFC 8760 §2.4: all that is offered stands in the challenge; the phone takes the first that it knows.
fn registers_by_card(
    world: &mut LabWorld,
    algorithms: &'static [DigestAlgorithm],
) -> Result<(), String> {
    let from = wire_events(world);
    let authentication = Some(Authentication::Aka(algorithms));
    let model = Model { authentication, ..Model::default() };
    let ue = world.ask(|laboratory| laboratory.add_phone(true, model)).ok_or("no subscriber")?;
    register(world, ue)?;
    let offered = values_on(world, from, "core", "SIP/2.0 401", "WWW-Authenticate");
    let names: Vec<_> = offered.iter().filter_map(|line| algorithm_in(line)).take(3).collect();
    let all = [AKA_ALGORITHMS[2], AKA_ALGORITHMS[1], AKA_ALGORITHMS[0]];
    ensure(names == all, || format!("offered {names:?}"))?;
    let answered = values_on(world, from, "core", "REGISTER ", "Authorization");
    let names: Vec<_> = answered.iter().filter_map(|line| algorithm_in(line)).collect();
    ensure(!names.is_empty() && names.iter().all(|name| algorithms.contains(name)), || {
        format!("answered {names:?}")
    })?;
    let is_protected = !world.ask(move |laboratory| laboratory.handsets.sets(ue)).is_empty();
    ensure(is_protected, || "without IPsec".to_owned())
}

fn sip_digest(world: &mut LabWorld) -> Result<(), String> {
    let ue = add_with_password(world, PASSWORD);
    let known = registrations(world);
    register(world, ue)?;
    ensure(registrations(world) == known + 1.0, || "no S-CSCF has it".to_owned())?;
    let asked = mars(world);
    let from = wire_events(world);
    let completed = world.completed(ue);
    world.reregister(ue);
    world.until("the refresh", PATIENCE, &mut |world| world.completed(ue) > completed)?;
    ensure(mars(world) == asked, || "the HSS was asked again".to_owned())?;
    let answered = values_on(world, from, "core", "REGISTER ", "Authorization");
    ensure(answered.iter().any(|line| line.contains("nc=00000002")), || {
        format!("the nonce was not used again: {} REGISTERs", answered.len())
    })?;
    world.deregister(ue);
    world.until("its end", PATIENCE, &mut |world| world.standing(ue) == Standing::Idle)?;
    ensure(registrations(world) == known, || "an S-CSCF still has it".to_owned())
}

fn sip_digest_wrong_password(world: &mut LabWorld) -> Result<(), String> {
    let ue = add_with_password(world, "of another network");
    let known = registrations(world);
    is_refused(world, ue, 403)?;
    ensure(registrations(world) == known, || "somebody is registered".to_owned())
}

/// RFC 6223, RFC 5626 §4.4.2. On an IPv6 bearer there is no NAT, and nobody asks.
fn keep_alives(world: &mut LabWorld) -> Result<(), String> {
    let asked =
        |world: &mut dyn World| world.metric(Function::Pcscf, "tessera_sip_keep_alives_total", &[]);
    let model = Model {
        authentication: Some(Authentication::Password(Secret::new(PASSWORD.to_owned()))),
        is_behind_nat: true,
        // Keep-alives of TCP are others.
        transport: Some(Transport::Udp),
        is_brief: true,
        ..Model::default()
    };
    let ue = world.ask(move |laboratory| Some(laboratory.add_phone_of(WITH_PASSWORD, model)));
    let ue = ue.ok_or("no laboratory")?;
    let before = asked(world);
    register(world, ue)?;
    world.until("it watches", PATIENCE, &mut |world| world.notified(ue) > 0)?;
    let line = world.line(ue).ok_or("no bearer")?;
    if line.address.is_ipv4() {
        world.until("some keep-alives", PATIENCE, &mut |world| asked(world) >= before + 3.0)?;
        ensure(world.completed(ue) == 1, || "it registers without a reason".to_owned())?;
        let told = world.notified(ue);
        world.rebind(ue);
        world.until("it registers by its new port, and is told", PATIENCE, &mut |world| {
            world.completed(ue) == 2
                && world.standing(ue) == Standing::Registered
                && world.notified(ue) > told
        })?;
    } else {
        ensure(asked(world) == before, || "keep-alives without a NAT".to_owned())?;
    }
    world.command(Function::Hss, &["rtr", &line.impi]);
    world.until("the phone knows that it is deregistered", PATIENCE, &mut |world| {
        world.standing(ue) != Standing::Registered
    })
}

fn early_ims(world: &mut LabWorld) -> Result<(), String> {
    let model = Model { authentication: Some(Authentication::Address), ..Model::default() };
    let ue = world.ask(|laboratory| Some(laboratory.add_phone_of(BY_ADDRESS, model)));
    let ue = ue.ok_or("no laboratory")?;
    world.until("its bearer", PATIENCE, &mut |world| world.line(ue).is_some())?;
    let line = world.line(ue).ok_or("no bearer")?;
    // As long as the HSS thinks that the address is another's.
    is_refused(world, ue, 403)?;
    let address = line.address.to_string();
    world.command(Function::Hss, &["address", &line.impi, &address]);
    let from = wire_events(world);
    register(world, ue)?;
    let challenges = values_on(world, from, "core", "SIP/2.0 401", "WWW-Authenticate");
    ensure(challenges.is_empty(), || format!("challenged: {challenges:?}"))?;
    let credentials = values_on(world, from, "core", "REGISTER ", "Authorization");
    ensure(credentials.is_empty(), || format!("credentials: {credentials:?}"))
}

/// TS 29.228 §6.7, TS 29.229 §6.3.4.
fn capabilities(world: &mut LabWorld) -> Result<(), String> {
    let held = |world: &mut LabWorld, of| world.metric(of, "tessera_scscf_registrations", &[]);
    let before = held(world, Function::Scscf2);
    let ue =
        world.ask(|laboratory| Some(laboratory.add_phone_of(WITH_CAPABILITY, Model::default())));
    register(world, ue.ok_or("no laboratory")?)?;
    let now = held(world, Function::Scscf2);
    ensure(now == before + 1.0, || "the other S-CSCF has it".to_owned())?;
    let ue =
        world.ask(|laboratory| Some(laboratory.add_phone_of(WITHOUT_SERVER, Model::default())));
    is_refused(world, ue.ok_or("no laboratory")?, 600)
}

/// TS 23.228 §5.8
fn slf(world: &mut LabWorld) -> Result<(), String> {
    let redirected =
        |world: &LabWorld, of: &str| world.metric_of(of, "tessera_diameter_redirects_total", &[]);
    let before = redirected(world, "icscf");
    let ue = add_with_card(world).ok_or("no subscriber")?;
    register(world, ue)?;
    ensure(redirected(world, "icscf") > before, || "the I-CSCF was not redirected".to_owned())?;
    let at_scscfs = redirected(world, "scscf1") + redirected(world, "scscf2");
    ensure(at_scscfs > 0.0, || "no S-CSCF was redirected".to_owned())?;
    let asked = world.metric_of("slf", "tessera_hss_requests_total", &[("result", "3006")]);
    ensure(asked > 0.0, || "the SLF has redirected nobody".to_owned())?;
    let who = world.private_identity(ue);
    world.command(Function::Hss, &["rtr", &who]);
    world.until("the phone knows that it is deregistered", PATIENCE, &mut |world| {
        world.standing(ue) != Standing::Registered
    })
}

/// RFC 6733 §5.5.4: one HSS is enough, whichever it is, also for who was registered by the other one.
fn hss_is_killed(world: &mut LabWorld) -> Result<(), String> {
    let phones: Vec<usize> = (0..2).filter_map(|_| add_with_card(world)).collect();
    let &[stays, goes] = &phones[..] else { return Err("no subscriber".to_owned()) };
    register(world, stays)?;
    register(world, goes)?;
    for (dead, alive) in [("hss", "hss2"), ("hss2", "hss")] {
        let served = |world: &LabWorld, command: &str| {
            let labels = [("command", command)];
            world.metric_of(alive, "tessera_hss_requests_total", &labels)
        };
        let before = ["UAR", "MAR", "SAR"].map(|command| served(world, command));
        world.kill_process(dead);
        let completed = world.completed(stays);
        world.reregister(stays);
        world.until("the refresh", PATIENCE, &mut |world| world.completed(stays) > completed)?;
        let is_kept = world.standing(stays) == Standing::Registered;
        ensure(is_kept, || format!("without {dead} the refresh has failed"))?;
        let who = world.private_identity(goes);
        world.command_process(alive, &["rtr", &who]);
        world.until("the phone knows that it is deregistered", PATIENCE, &mut |world| {
            world.standing(goes) != Standing::Registered
        })?;
        register(world, goes)?;
        let after = ["UAR", "MAR", "SAR"].map(|command| served(world, command));
        let is_served = before.iter().zip(after).all(|(before, after)| *before < after);
        ensure(is_served, || format!("{alive} was not asked: {before:?}, {after:?}"))?;
        world.start_process(dead);
        both_hsss_are_up(world)?;
    }
    Ok(())
}

fn both_hsss_are_up(world: &mut LabWorld) -> Result<(), String> {
    world.until("everybody knows both HSSs", PATIENCE, &mut |world| {
        [Function::Icscf, Function::Scscf1, Function::Scscf2].into_iter().all(|function| {
            ["hss", "hss2"].into_iter().all(|name| {
                let peer = format!("{name}.{HOME_DOMAIN}");
                world.metric(function, "tessera_diameter_peer_up", &[("peer", &peer)]) == 1.0
            })
        })
    })
}

/// RFC 3539 §3.4.1, RFC 6733 §5.5.4: what waits for an HSS that says nothing moves to the other one.
fn hss_hangs(world: &mut LabWorld) -> Result<(), String> {
    let ue = add_with_card(world).ok_or("no subscriber")?;
    both_hsss_are_up(world)?;
    let failovers = |world: &mut LabWorld| {
        world.metric(Function::Icscf, "tessera_diameter_failovers_total", &[])
    };
    let before = failovers(world);
    world.hang(Function::Hss, true);
    let registered = register(world, ue);
    world.hang(Function::Hss, false);
    registered?;
    ensure(failovers(world) > before, || "no request has moved".to_owned())
}

fn add_with_card(world: &mut LabWorld) -> Option<usize> {
    world.ask(|laboratory| laboratory.add_phone(true, Model::default()))
}

fn add_with_password(world: &mut LabWorld, password: &str) -> usize {
    let authentication = Some(Authentication::Password(Secret::new(password.to_owned())));
    let model = Model { authentication, ..Model::default() };
    world.ask(move |laboratory| laboratory.add_phone_of(WITH_PASSWORD, model))
}

fn register(world: &mut LabWorld, ue: usize) -> Result<(), String> {
    let standing = ends(world, ue)?;
    ensure(standing == Standing::Registered, || format!("not registered: {standing:?}"))
}

fn is_refused(world: &mut LabWorld, ue: usize, wanted: u16) -> Result<(), String> {
    let standing = ends(world, ue)?;
    ensure(matches!(standing, Standing::Failed { status, .. } if status == wanted), || {
        format!("{wanted} was to come, not {standing:?}")
    })
}

fn ends(world: &mut LabWorld, ue: usize) -> Result<Standing, String> {
    world.register(ue);
    world.until("the registration ends", PATIENCE, &mut |world| {
        !matches!(world.standing(ue), Standing::Busy | Standing::Idle)
    })?;
    Ok(world.standing(ue))
}

fn mars(world: &mut LabWorld) -> f64 {
    world.metric(Function::Hss, "tessera_hss_requests_total", &[("command", "MAR")])
}

fn registrations(world: &mut LabWorld) -> f64 {
    let at = |world: &mut LabWorld, of| world.metric(of, "tessera_scscf_registrations", &[]);
    at(world, Function::Scscf1) + at(world, Function::Scscf2)
}

/// How many messages have been seen on the links.
fn wire_events(world: &LabWorld) -> usize {
    world.ask(|laboratory| laboratory.recent.len())
}

/// Values of a header in messages on a link, behind the first so many, whose first line begins like that.
fn values_on(
    world: &LabWorld,
    from: usize,
    link: &'static str,
    start: &'static str,
    header: &'static str,
) -> Vec<String> {
    world.ask(move |laboratory| {
        let later = laboratory.recent.iter().skip(from).filter(|event| event.link == link);
        let texts = later.filter_map(|event| match &event.what {
            What::Sip { start_line, text, .. } if start_line.starts_with(start) => Some(text),
            _ => None,
        });
        texts.flat_map(|text| values_of(text, header)).collect()
    })
}

fn values_of<'a>(text: &'a str, header: &'a str) -> impl Iterator<Item = String> + 'a {
    text.lines().filter_map(move |line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(header).then(|| value.trim().to_owned())
    })
}

fn algorithm_in(line: &str) -> Option<DigestAlgorithm> {
    let at = line.find("algorithm=")? + "algorithm=".len();
    DigestAlgorithm::named(line[at..].split([',', ' ']).next()?.trim_matches('"'))
}
