//! What somebody tries who is on the access network, and what comes of it: nothing for the others
//! (TS 33.203 §5, §7; the table of attacks in ARCHITECTURE.md).
//!
//! The attacker has a bearer of his own, with a phone that the network knows; packets are written
//! here, and go out on that bearer or, where he has taken the phone over, on the victim's.

use std::net::SocketAddr;
use std::time::Duration;

use etherparse::PacketBuilder;
use ue::packets;

use crate::registration::{PATIENCE, ended, registers};
use crate::{Function, Line, Phone, Scenario, Standing, World, ensure};

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "clear_register_in_anothers_name",
        shows: "a REGISTER in clear with the victim's identity costs the victim nothing",
        run: clear_register_in_anothers_name,
        is_fault: false,
    },
    Scenario {
        name: "flood_of_registers",
        shows: "three hundred REGISTERs for one identity: few temporary sets, everybody is served",
        run: flood_of_registers,
        is_fault: false,
    },
    Scenario {
        name: "replayed_esp",
        shows: "a packet sent again inside ESP is not heard again",
        run: replayed_esp,
        is_fault: false,
    },
    Scenario {
        name: "guessed_spi",
        shows: "ESP with guessed SPIs, and with the right one and a wrong key, is not answered",
        run: guessed_spi,
        is_fault: false,
    },
    Scenario {
        name: "scan_of_protected_ports",
        shows: "UDP and TCP in clear to protected ports: no answer at all",
        run: scan_of_protected_ports,
        is_fault: false,
    },
    Scenario {
        name: "the_same_offer_twice",
        shows: "two phones that offer the same SPIs and ports are both served",
        run: the_same_offer_twice,
        is_fault: false,
    },
];

/// Protected ports of the P-CSCF in simulator and lab: port-s and the first of port-c.
const PROTECTED_PORTS: [u16; 3] = [5064, 5100, 5107];

fn line(world: &mut dyn World, ue: usize) -> Result<Line, String> {
    world.line(ue).ok_or_else(|| format!("ue{ue} has no bearer"))
}

fn sets(world: &mut dyn World, state: &str) -> f64 {
    let name = "tessera_pcscf_security_association_sets";
    world.metric(Function::Pcscf, name, &[("state", state)])
}

/// REGISTERs that the P-CSCF has answered.
fn answers(world: &mut dyn World) -> f64 {
    world.metric(Function::Pcscf, "tessera_pcscf_register_answers_total", &[])
}

/// Two phones that are registered: victim and attacker.
fn two_registered(world: &mut dyn World) -> Result<(usize, usize), String> {
    let victim = world.add_phone(Phone::Good);
    registers(world, victim)?;
    let attacker = world.add_phone(Phone::Good);
    registers(world, attacker)?;
    Ok((victim, attacker))
}

/// What has come down to a phone, once its own business is over: the documents of its registration
/// come behind it, and what ends their transactions.
pub(crate) fn arrived_at_rest(world: &mut dyn World, ue: usize) -> Result<u64, String> {
    const LOOKS: u32 = 40;
    world.until("the phone's first document", PATIENCE, &mut |world| world.notified(ue) > 0)?;
    let (mut last, mut looks) = (0, 0);
    world.until("the phone's bearer to be quiet", PATIENCE, &mut |world| {
        let arrived = world.line(ue).map_or(0, |line| line.arrived);
        looks = if arrived == last { looks + 1 } else { 0 };
        last = arrived;
        looks >= LOOKS
    })?;
    Ok(last)
}

/// The phone's own associations still serve it: a refresh over them ends well. The S-CSCF may challenge
/// it there, since somebody has asked for a challenge in its name.
fn is_served(world: &mut dyn World, ue: usize) -> Result<(), String> {
    let completed = world.completed(ue);
    world.reregister(ue);
    world.until("the victim's refresh ends", PATIENCE, &mut |world| ended(world, ue))?;
    let (standing, now) = (world.standing(ue), world.completed(ue));
    ensure(standing == Standing::Registered && now == completed + 1, || {
        format!("the victim is not served: {standing:?}")
    })
}

/// A REGISTER for `victim` from the attacker's own address, in clear.
fn forged(victim: &Line, attacker: &Line, number: u32) -> Option<Vec<u8>> {
    let from = SocketAddr::new(attacker.address, 5060);
    let home = victim.impi.split('@').nth(1)?;
    let (impu, impi) = (&victim.public_identity, &victim.impi);
    let text = format!(
        "REGISTER sip:{home} SIP/2.0\r\n\
         Via: SIP/2.0/UDP {from};branch=z9hG4bKforged{number};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <{impu}>;tag=forged{number}\r\n\
         To: <{impu}>\r\n\
         Contact: <sip:{from}>;expires=600000\r\n\
         Call-ID: forged{number}\r\n\
         CSeq: 1 REGISTER\r\n\
         Supported: path\r\n\
         Require: sec-agree\r\n\
         Proxy-Require: sec-agree\r\n\
         Security-Client: ipsec-3gpp;alg=hmac-sha-1-96;ealg=null;spi-c={};spi-s={};port-c={};port-s=39999\r\n\
         Authorization: Digest username=\"{impi}\",realm=\"{home}\",uri=\"sip:{home}\",nonce=\"\",\
         response=\"\",integrity-protected=\"yes\"\r\n\
         Content-Length: 0\r\n\r\n",
        3_000_000_000u32 + 2 * number,
        3_000_000_001u32 + 2 * number,
        33_000 + number,
    );
    packets::datagram(from, SocketAddr::new(victim.pcscf, 5060), text.as_bytes())
}

/// S-37: ipsec.md N-06, F-07; forged integrity-protected, too: the P-CSCF challenges, and that is all.
fn clear_register_in_anothers_name(world: &mut dyn World) -> Result<(), String> {
    let (victim, attacker) = two_registered(world)?;
    let (of_victim, own) = (line(world, victim)?, line(world, attacker)?);
    let (in_use, registered) = (sets(world, "in_use"), registrations(world));
    let temporary = sets(world, "temporary");
    let packet = forged(&of_victim, &own, 1).ok_or("no packet")?;
    world.inject(attacker, packet);
    world.until("the forged REGISTER is challenged", PATIENCE, &mut |world| {
        sets(world, "temporary") == temporary + 1.0
    })?;
    is_served(world, victim)?;
    is_served(world, attacker)?;
    let now = (sets(world, "in_use"), registrations(world));
    ensure(now == (in_use, registered), || format!("{now:?} where {in_use} and {registered} were"))
}

fn registrations(world: &mut dyn World) -> f64 {
    world.metric(Function::Pcscf, "tessera_pcscf_registrations", &[])
}

fn flood_of_registers(world: &mut dyn World) -> Result<(), String> {
    const PACKETS: u32 = 300;
    let (victim, attacker) = two_registered(world)?;
    let (of_victim, own) = (line(world, victim)?, line(world, attacker)?);
    let temporary = sets(world, "temporary");
    let before = answers(world);
    for number in 0..PACKETS {
        let packet = forged(&of_victim, &own, 1_000 + number).ok_or("no packet")?;
        world.inject(attacker, packet);
    }
    // Many are on their way at once; some may be lost before they reach us, none costs us anything.
    let other = world.add_phone(Phone::Good);
    registers(world, other)?;
    is_served(world, victim)?;
    world.until("the flood is answered", PATIENCE, &mut |world| {
        answers(world) - before > 200.0 && sets(world, "temporary") <= temporary + 1.0
    })?;
    is_served(world, victim)?;
    is_served(world, other)
}

/// RFC 4303 §3.4.3: the window has seen its number.
fn replayed_esp(world: &mut dyn World) -> Result<(), String> {
    let (victim, _) = two_registered(world)?;
    let seen = line(world, victim)?;
    let packet = seen.sent.ok_or("the victim has sent no ESP")?;
    let before = answers(world);
    for _ in 0..20 {
        world.inject(victim, packet.clone());
    }
    is_served(world, victim)?;
    let now = answers(world);
    ensure(now == before + 1.0, || format!("{} REGISTERs were answered", now - before))
}

/// S-78: RFC 4303 §3.4.2, §3.4.4: no association, or an integrity check that fails.
fn guessed_spi(world: &mut dyn World) -> Result<(), String> {
    let (victim, attacker) = two_registered(world)?;
    let esp = line(world, victim)?.sent.ok_or("the victim has sent no ESP")?;
    let arrived = arrived_at_rest(world, attacker)?;
    let own = line(world, attacker)?;
    let before = answers(world);
    let header = if own.address.is_ipv4() { 20 } else { 40 };
    let own_esp = own.sent.ok_or("the attacker has sent no ESP")?;
    // SPIs one after the other around the true ones, as a phone with a set of its own may write them.
    for step in 0..200u32 {
        let mut packet = own_esp.clone();
        let true_spi =
            u32::from_be_bytes([esp[header], esp[header + 1], esp[header + 2], esp[header + 3]]);
        let spi = true_spi.wrapping_add(step).wrapping_sub(100);
        packet[header..header + 4].copy_from_slice(&spi.to_be_bytes());
        packet[header + 4..header + 8].copy_from_slice(&(9_000 + step).to_be_bytes());
        world.inject(attacker, packet);
    }
    // On the victim's own bearer: the right SPI, the next number, and one octet that is not his.
    for number in 0..20u32 {
        let mut packet = esp.clone();
        packet[header + 4..header + 8].copy_from_slice(&(5_000 + number).to_be_bytes());
        let middle = packet.len() - 16;
        packet[middle] ^= 1;
        world.inject(victim, packet);
    }
    is_served(world, victim)?;
    let now = answers(world);
    ensure(now == before + 1.0, || format!("{} REGISTERs were answered", now - before))?;
    let now = line(world, attacker)?.arrived;
    ensure(now == arrived, || format!("the attacker got {} packets", now - arrived))
}

/// S-78: TS 33.203 §7.1, ipsec.md N-03: nothing comes back, neither SIP nor TCP nor ICMP. What is sent to the
/// open port behind it is answered, so that one knows when to look.
fn scan_of_protected_ports(world: &mut dyn World) -> Result<(), String> {
    let (victim, attacker) = two_registered(world)?;
    let arrived = arrived_at_rest(world, attacker)?;
    let own = line(world, attacker)?;
    let of_victim = line(world, victim)?;
    let before = (others_heard(world), answers(world));
    for port in PROTECTED_PORTS {
        for from in [5060, 31_000, 40_000] {
            let (from, to) = (SocketAddr::new(own.address, from), SocketAddr::new(own.pcscf, port));
            let options = b"OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/UDP x\r\n\r\n";
            let datagram = packets::datagram(from, to, options).ok_or("no packet")?;
            world.inject(attacker, datagram);
            world.inject(attacker, connecting(from, to).ok_or("no packet")?);
        }
    }
    let packet = forged(&of_victim, &own, 5_000).ok_or("no packet")?;
    world.inject(attacker, packet);
    world.until("the open port answers", PATIENCE, &mut |world| {
        answers(world) > before.1 && world.line(attacker).is_some_and(|line| line.arrived > arrived)
    })?;
    is_served(world, victim)?;
    let heard = others_heard(world) - before.0;
    ensure(heard == 0.0, || format!("{heard} of the messages were heard"))?;
    // The 401 of the open port, in two fragments where it is long.
    let back = line(world, attacker)?.arrived - arrived;
    ensure((1..=2).contains(&back), || format!("{back} packets came back, not one or two"))
}

/// Messages at protected ports that have got as far as the P-CSCF itself without an association.
fn others_heard(world: &mut dyn World) -> f64 {
    let without = "tessera_pcscf_dropped_without_association_total";
    world.metric(Function::Pcscf, without, &[])
}

/// A SYN.
fn connecting(from: SocketAddr, to: SocketAddr) -> Option<Vec<u8>> {
    let builder = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64)
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            PacketBuilder::ipv6(from.ip().octets(), to.ip().octets(), 64)
        }
        _ => return None,
    };
    let mut packet = Vec::new();
    builder.tcp(from.port(), to.port(), 1, 65_535).syn().write(&mut packet, &[]).ok()?;
    Some(packet)
}

/// Ipsec.md: each at its own address, after a boot from which both count from the same
/// numbers; and once more, with the sets of the boot before still there.
fn the_same_offer_twice(world: &mut dyn World) -> Result<(), String> {
    let (one, two) = two_registered(world)?;
    let in_use = sets(world, "in_use");
    for _ in 0..2 {
        for ue in [one, two] {
            world.reboot(ue);
            registers(world, ue)?;
        }
        let (first, second) = (line(world, one)?, line(world, two)?);
        ensure(first.ports.is_some() && first.ports == second.ports, || {
            format!("not the same ports: {:?} and {:?}", first.ports, second.ports)
        })?;
        is_served(world, one)?;
        is_served(world, two)?;
        // Those of earlier scenarios may end meanwhile.
        let limit = Duration::from_secs(10);
        world.until("the sets of before are gone", limit, &mut |world| {
            sets(world, "in_use") <= in_use
        })?;
    }
    Ok(())
}
