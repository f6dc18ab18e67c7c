//! `lab check matrix`: each pair of algorithms that a P-CSCF may agree on, over UDP and TCP. A phone
//! registers with that pair and nothing else; then the counters of its associations are looked at, the
//! kernel's own where it carries ESP, and what passed on the links.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::ipsec::agree::AlgorithmPair;
use common::ipsec::sa::{Encryption, Integrity, SaSet};
use common::node::Transport;
use scenarios::{Function, Standing, World};

use crate::check::{LabWorld, Tell, outcome};
use crate::decode::{Event, What};
use crate::handsets::Model;

const PATIENCE: Duration = Duration::from_secs(30);
/// From the end of a registration to its last packet's place among those seen.
const LINK_PATIENCE: Duration = Duration::from_secs(5);

/// TS 33.203 Annex H, with what earlier releases had.
pub const PAIRS: [AlgorithmPair; 8] = [
    pair(Integrity::HmacMd5_96, Encryption::Null),
    pair(Integrity::HmacMd5_96, Encryption::DesEde3Cbc),
    pair(Integrity::HmacMd5_96, Encryption::AesCbc),
    pair(Integrity::HmacSha1_96, Encryption::Null),
    pair(Integrity::HmacSha1_96, Encryption::DesEde3Cbc),
    pair(Integrity::HmacSha1_96, Encryption::AesCbc),
    pair(Integrity::AesGmac, Encryption::Null),
    pair(Integrity::Null, Encryption::AesGcm),
];

const fn pair(alg: Integrity, ealg: Encryption) -> AlgorithmPair {
    AlgorithmPair { alg, ealg }
}

/// TS 33.203 §7.1: all of it, one line for each cell.
pub fn run(world: &mut LabWorld, tell: &mut Tell<'_>) {
    for transport in [Transport::Udp, Transport::Tcp] {
        for pair in PAIRS {
            let begin = Instant::now();
            let result = registers(world, pair, transport);
            let transport = transport.name().to_lowercase();
            let name = format!("{transport} {} {}", pair.alg.name(), pair.ealg.name());
            let shows = "counters of its associations move, nothing passes in clear";
            if !tell(outcome(&name, shows, begin, result)) {
                return;
            }
        }
    }
}

fn registers(
    world: &mut LabWorld,
    pair: AlgorithmPair,
    transport: Transport,
) -> Result<(), String> {
    world.ask(|laboratory| {
        laboratory.recent.clear();
        laboratory.clear_text.packets.clear();
    });
    let before = plane_packets(world);
    let algorithms = Some(vec![pair]);
    let model =
        Model { transport: Some(transport), algorithms, is_brief: true, ..Model::default() };
    let ue = world.ask(|laboratory| laboratory.add_phone(true, model)).ok_or("no subscriber")?;
    world.register(ue);
    world.until("the registration ends", PATIENCE, &mut |world| {
        !matches!(world.standing(ue), Standing::Busy)
    })?;
    let standing = world.standing(ue);
    if standing != Standing::Registered {
        return Err(format!("not registered: {standing:?}"));
    }
    let sets = world.ask(move |laboratory| Some(laboratory.handsets.sets(ue))).unwrap_or_default();
    let [set] = &sets[..] else { return Err(format!("{} sets", sets.len())) };
    if (set.integrity, set.encryption) != (pair.alg, pair.ealg) {
        return Err(format!("agreed {}/{}", set.integrity.name(), set.encryption.name()));
    }
    // TS 33.203 §7.1: a datagram is answered from port_pc to port_us, a stream where it came from.
    let used = match transport {
        Transport::Udp => [set.spis.ps, set.spis.us],
        Transport::Tcp => [set.spis.ps, set.spis.uc],
    };
    all_pass_the_link(world, set, used)?;
    match world.metric(Function::Pcscf, "tessera_ipsec_plane", &[("plane", "xfrm")]) == 1.0 {
        true => kernel_has_counted(world, set, used)?,
        false => plane_has_counted(world, before)?,
    }
    let clear = world.ask(|laboratory| Some(laboratory.clear_text.packets.clone()));
    match clear.unwrap_or_default().first() {
        Some(packet) => Err(format!("in clear on {packet}")),
        None => Ok(()),
    }
}

/// On SGi: ESP with the SPI of each association that is used, from the right end.
fn all_pass_the_link(world: &mut LabWorld, set: &SaSet, used: [u32; 2]) -> Result<(), String> {
    let wanted: Vec<_> =
        set.associations().into_iter().filter(|one| used.contains(&one.spi)).collect();
    let limit = Instant::now() + LINK_PATIENCE;
    loop {
        let wanted = wanted.clone();
        let missing = world.ask(move |laboratory| {
            let has_passed = |association: &common::ipsec::sa::Association| {
                let of_it = |event: &&Event| {
                    event.link == "sgi"
                        && event.source == association.source.ip()
                        && matches!(&event.what, What::Esp { spi, .. }
                            if *spi == format!("0x{:08x}", association.spi))
                };
                laboratory.recent.iter().any(|event| of_it(&event))
            };
            wanted.iter().find(|one| !has_passed(one)).copied()
        });
        match missing {
            None => return Ok(()),
            Some(missing) if Instant::now() > limit => {
                return Err(format!(
                    "no ESP {} -> {} with SPI 0x{:08x} on SGi",
                    missing.source, missing.destination, missing.spi
                ));
            }
            Some(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Packets that the P-CSCF's data plane has taken in and sent out.
fn plane_packets(world: &mut LabWorld) -> [f64; 2] {
    ["in", "out"].map(|direction| {
        let labels = [("direction", direction)];
        world.metric(Function::Pcscf, "tessera_ipsec_packets_total", &labels)
    })
}

fn plane_has_counted(world: &mut LabWorld, before: [f64; 2]) -> Result<(), String> {
    let after = plane_packets(world);
    match after[0] > before[0] && after[1] > before[1] {
        true => Ok(()),
        false => Err(format!("packets in and out: {after:?}, {before:?} before")),
    }
}

/// What the kernel itself says of the four states.
fn kernel_has_counted(world: &mut LabWorld, set: &SaSet, used: [u32; 2]) -> Result<(), String> {
    let listed = world.ask(|laboratory| {
        let namespace = laboratory.topology.namespace("pcscf");
        Some(namespace.output_of(&["ip", "-s", "xfrm", "state"]))
    });
    let states = states_of(&listed.unwrap_or_else(|| Err("no laboratory".into()))?);
    for association in set.associations() {
        let spi = association.spi;
        let state = states.get(&spi).ok_or_else(|| format!("0x{spi:08x} is not in the kernel"))?;
        for wanted in kernel_names(set) {
            if !state.text.contains(wanted) {
                return Err(format!("0x{spi:08x} is not {wanted}: {}", state.text));
            }
        }
        if used.contains(&spi) && (state.packets == 0 || state.bytes == 0) {
            return Err(format!("0x{spi:08x} has counted nothing"));
        }
    }
    Ok(())
}

/// What `ip xfrm state` calls the algorithms (ipsec.md K-04).
fn kernel_names(set: &SaSet) -> Vec<&'static str> {
    if set.encryption == Encryption::AesGcm {
        return vec!["aead rfc4106(gcm(aes)) ", " 128"];
    }
    let integrity = match set.integrity {
        Integrity::HmacMd5_96 => "auth-trunc hmac(md5) ",
        Integrity::HmacSha1_96 => "auth-trunc hmac(sha1) ",
        Integrity::AesGmac => return vec!["aead rfc4543(gcm(aes)) ", " 128"],
        Integrity::Null => "",
    };
    let encryption = match set.encryption {
        Encryption::Null | Encryption::AesGcm => "enc ecb(cipher_null) ",
        Encryption::DesEde3Cbc => "enc cbc(des3_ede) ",
        Encryption::AesCbc => "enc cbc(aes) ",
    };
    vec![integrity, " 96", encryption]
}

/// A state of the kernel as `ip -s xfrm state` shows it.
struct KernelState {
    packets: u64,
    bytes: u64,
    /// Its lines of algorithms, without keys.
    text: String,
}

/// By SPI.
fn states_of(listing: &str) -> BTreeMap<u32, KernelState> {
    let mut states = BTreeMap::new();
    let mut spi = 0;
    let mut is_current = false;
    for line in listing.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["proto", "esp", "spi", text, ..] => {
                spi = text
                    .split_once('(')
                    .map_or(text, |(number, _)| number)
                    .strip_prefix("0x")
                    .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                    .unwrap_or(0);
                states.insert(spi, KernelState { packets: 0, bytes: 0, text: String::new() });
            }
            ["auth-trunc" | "enc" | "aead" | "auth", ..] => {
                if let Some(state) = states.get_mut(&spi) {
                    let shown = words.iter().filter(|word| !word.starts_with("0x"));
                    let shown: Vec<&str> = shown.copied().collect();
                    state.text += &format!("{} ", shown.join(" "));
                }
            }
            // `lifetime current:` and behind it `NNN(bytes), NNN(packets)`.
            ["lifetime", which, ..] => is_current = which.starts_with("current"),
            [bytes, packets] if is_current && packets.ends_with("(packets)") => {
                let number = |word: &str| word.split('(').next()?.parse::<u64>().ok();
                if let Some(state) = states.get_mut(&spi) {
                    state.bytes = number(bytes).unwrap_or(0);
                    state.packets = number(packets).unwrap_or(0);
                }
                is_current = false;
            }
            _ => {}
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_the_kernel_are_read() {
        let listing = "src 10.45.0.2 dst 10.20.0.10\n\
            \tproto esp spi 0x3b9aca01(1000000001) reqid 1409286144(0x54000000) mode transport\n\
            \treplay-window 32 seq 0x00000000 flag  (0x00000000)\n\
            \tauth-trunc hmac(sha1) 0x00112233 (160 bits) 96\n\
            \tenc cbc(aes) 0x8899 (128 bits)\n\
            \tanti-replay context: seq 0x2, oseq 0x0, bitmap 0x00000003\n\
            \tlifetime config:\n\
            \t  limit: soft (INF)(bytes), hard (INF)(bytes)\n\
            \t  expire add: soft 0(sec), hard 0(sec)\n\
            \tlifetime current:\n\
            \t  1460(bytes), 2(packets)\n\
            \t  add 2026-11-26 02:51:14 use 2026-11-26 02:51:14\n\
            \tstats:\n\
            \t  replay-window 0 replay 0 failed 0\n\
            src 10.20.0.10 dst 10.45.0.2\n\
            \tproto esp spi 0x00001001(4097) reqid 7(0x00000007) mode transport\n\
            \taead rfc4106(gcm(aes)) 0x00 (160 bits) 128\n\
            \tlifetime current:\n\
            \t  0(bytes), 0(packets)\n";
        let states = states_of(listing);
        assert_eq!(states.len(), 2);
        let first = &states[&0x3b9a_ca01];
        assert_eq!((first.bytes, first.packets), (1460, 2));
        assert!(first.text.contains("auth-trunc hmac(sha1) (160 bits) 96"), "{}", first.text);
        assert!(!first.text.contains("0x"), "{}", first.text);
        assert_eq!(states[&0x1001].packets, 0);
        assert!(states[&0x1001].text.contains("aead rfc4106(gcm(aes)) "));
    }
}
