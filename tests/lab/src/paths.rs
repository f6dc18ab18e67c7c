//! What the way between a phone and its P-CSCF does to packets and connections, and what must not come of
//! it: fragments, a path narrower than either end knows, connections that end while nobody has anything
//! to say.

use std::time::Duration;

use common::node::Transport;
use scenarios::{Function, Standing, World, ensure};

use crate::check::{Check, LabWorld, Tell, Wanted, run_all};
use crate::handsets::Model;
use crate::topology::{Addresses, IpVersion, POOL_V4, POOL_V6, UE_MTU};

const PATIENCE: Duration = Duration::from_secs(60);
/// Octets of a packet that every path takes (RFC 791, RFC 8200).
const NARROW_V4: u16 = 576;
const NARROW_V6: u16 = 1_280;
/// What an Ethernet takes.
const WIDE: u16 = 1_500;

const CHECKS: [Check; 3] = [
    (
        "fragments_of_esp",
        "a path as narrow as there may be: ESP in fragments, both ways, and nothing is lost",
        fragments_of_esp,
    ),
    (
        "path_mtu_is_found",
        "TCP in ESP on a path narrower than the P-CSCF knows: it finds out, nobody waits for ever",
        path_mtu_is_found,
    ),
    (
        "fin_at_idle_is_no_end",
        "a phone closes its connections: registered it stays, and is reached on another one",
        fin_at_idle_is_no_end,
    ),
];

pub fn run(world: &mut LabWorld, wanted: &Wanted, tell: &mut Tell<'_>) -> bool {
    run_all(&CHECKS, world, wanted, tell)
}

/// RFC 4303 §3.3.4: a datagram is put into ESP as a whole, and ESP is cut.
fn fragments_of_esp(world: &mut LabWorld) -> Result<(), String> {
    let narrow = match world.ask(|laboratory| laboratory.options.version == IpVersion::V4) {
        true => NARROW_V4,
        false => NARROW_V6,
    };
    world.route_to_phones(Some(narrow))?;
    let result = registers_in_fragments(world, narrow);
    world.route_to_phones(Some(UE_MTU))?;
    result
}

fn registers_in_fragments(world: &mut LabWorld, narrow: u16) -> Result<(), String> {
    let before = Counted::at(world, "pcscf")?;
    let model = Model {
        transport: Some(Transport::Udp),
        mtu: Some(usize::from(narrow)),
        ..Model::default()
    };
    let ue = registered(world, model)?;
    refreshed(world, ue)?;
    let now = Counted::at(world, "pcscf")?;
    // By IPv6 some messages are too long for UDP, and the others may fit.
    let is_enough = match narrow < NARROW_V6 {
        true => now.put_together > before.put_together && now.cut > before.cut,
        false => now.put_together + now.cut > before.put_together + before.cut,
    };
    ensure(is_enough, || format!("the P-CSCF saw no fragments: {now:?}, {before:?} before"))
}

/// RFC 1191, RFC 8201; with a path that takes less than the interface, and a phone that says it takes more.
fn path_mtu_is_found(world: &mut LabWorld) -> Result<(), String> {
    world.route_to_phones(None)?;
    let result = is_told_on_a_narrow_path(world);
    world.route_to_phones(Some(UE_MTU))?;
    result
}

fn is_told_on_a_narrow_path(world: &mut LabWorld) -> Result<(), String> {
    let before = Counted::at(world, "pgw")?;
    let model = Model {
        transport: Some(Transport::Tcp),
        tcp_mtu: Some(usize::from(WIDE)),
        ..Model::default()
    };
    let ue = registered(world, model)?;
    world
        .until("the document of its registration", PATIENCE, &mut |world| world.notified(ue) > 0)?;
    refreshed(world, ue)?;
    let now = Counted::at(world, "pgw")?;
    ensure(now.too_long + now.cut > before.too_long + before.cut, || {
        format!("nothing was too long for the bearer: {now:?}, {before:?} before")
    })
}

/// TS 33.203 §7.1: a connection that ends says nothing of the associations that it ran in.
fn fin_at_idle_is_no_end(world: &mut LabWorld) -> Result<(), String> {
    let model = Model { transport: Some(Transport::Tcp), ..Model::default() };
    let ue = registered(world, model)?;
    world
        .until("the document of its registration", PATIENCE, &mut |world| world.notified(ue) > 0)?;
    let open =
        |world: &mut dyn World| world.metric(Function::Pcscf, "tessera_shell_sip_connections", &[]);
    let connected = open(world);
    let known = world.metric(Function::Pcscf, "tessera_pcscf_registrations", &[]);
    world.ask(move |laboratory| laboratory.handsets.close_connections(ue));
    world.until("the P-CSCF sees them end", PATIENCE, &mut |world| open(world) < connected)?;
    let now = world.metric(Function::Pcscf, "tessera_pcscf_registrations", &[]);
    ensure(now == known, || format!("{now} registrations, {known} before"))?;
    let vectors = world.metric(Function::Hss, "tessera_hss_vectors_total", &[]);
    refreshed(world, ue)?;
    let took = world.metric(Function::Hss, "tessera_hss_vectors_total", &[]) - vectors;
    ensure(took == 0.0, || "the refresh was challenged".to_owned())?;
    // Once more, when all has been said; now it is the network that begins.
    world.until("the document of the refresh", PATIENCE, &mut |world| world.notified(ue) > 1)?;
    let connected = open(world);
    world.ask(move |laboratory| laboratory.handsets.close_connections(ue));
    world.until("the P-CSCF sees them end", PATIENCE, &mut |world| open(world) < connected)?;
    let who = world.private_identity(ue);
    world.command(Function::Hss, &["rtr", &who]);
    world.until("the phone knows that it is deregistered", PATIENCE, &mut |world| {
        world.standing(ue) != Standing::Registered
    })
}

fn registered(world: &mut LabWorld, model: Model) -> Result<usize, String> {
    let ue = world.ask(|laboratory| laboratory.add_phone(true, model)).ok_or("no subscriber")?;
    world.register(ue);
    world.until("the registration ends", PATIENCE, &mut |world| {
        !matches!(world.standing(ue), Standing::Busy | Standing::Idle)
    })?;
    let standing = world.standing(ue);
    ensure(standing == Standing::Registered, || format!("not registered: {standing:?}"))?;
    Ok(ue)
}

fn refreshed(world: &mut LabWorld, ue: usize) -> Result<(), String> {
    let completed = world.completed(ue);
    world.reregister(ue);
    world.until("the refresh ends", PATIENCE, &mut |world| world.completed(ue) > completed)
}

/// What the kernel of a node has counted of IP.
#[derive(Debug)]
struct Counted {
    put_together: u64,
    cut: u64,
    /// Not cut, because nobody may: the sender was told.
    too_long: u64,
}

impl Counted {
    fn at(world: &LabWorld, node: &'static str) -> Result<Counted, String> {
        let text = world.ask(move |laboratory| {
            let namespace = laboratory.topology.namespace(node);
            let v6 = laboratory.options.version == IpVersion::V6;
            let file = if v6 { "/proc/net/snmp6" } else { "/proc/net/snmp" };
            Some((v6, namespace.output_of(&["cat", file])))
        });
        let (v6, text) = text.ok_or("no laboratory")?;
        let text = text?;
        let value = |name: &str| match v6 {
            true => of_snmp6(&text, name),
            false => of_snmp(&text, name),
        };
        Ok(match v6 {
            true => Counted {
                put_together: value("Ip6ReasmOKs"),
                cut: value("Ip6FragOKs"),
                too_long: value("Icmp6OutPktTooBigs"),
            },
            false => Counted {
                put_together: value("ReasmOKs"),
                cut: value("FragOKs"),
                too_long: value("FragFails"),
            },
        })
    }
}

/// A line of names, and below it a line of values.
fn of_snmp(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let names = lines.next().unwrap_or("").split_whitespace();
    let mut pairs = names.zip(lines.next().unwrap_or("").split_whitespace());
    pairs.find(|(known, _)| *known == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

fn of_snmp6(text: &str, name: &str) -> u64 {
    let mut pairs = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let value = pairs.find(|(known, _)| *known == name).map(|(_, value)| value.trim());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

impl LabWorld {
    /// Changes what the P-CSCF's kernel knows of the way to the phones.
    fn route_to_phones(&self, mtu: Option<u16>) -> Result<(), String> {
        let done = self.ask(move |laboratory| {
            let version = laboratory.options.version;
            let (family, pool) = match version {
                IpVersion::V4 => ("-4", POOL_V4),
                IpVersion::V6 => ("-6", POOL_V6),
            };
            let via = Addresses(version).pgw_sgi().to_string();
            let mtu = mtu.map(|mtu| mtu.to_string());
            let mut words = vec!["ip", family, "route", "replace", pool, "via", &via, "dev", "sgi"];
            words.extend(mtu.iter().flat_map(|mtu| ["mtu", mtu.as_str()]));
            Some(laboratory.topology.namespace("pcscf").output_of(&words).map(drop))
        });
        done.unwrap_or_else(|| Err("no laboratory".to_owned()))
    }
}
