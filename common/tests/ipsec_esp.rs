//! ESP against packets made by another implementation, and against what an attacker may do to it
//! (RFC 4303, TS 33.203 §7).

use std::net::SocketAddr;

use common::ipsec::agree::AlgorithmPair;
use common::ipsec::esp::{EspSet, OpenError, spi_of};
use common::ipsec::sa::{Encryption, Integrity, Keys, Mode, Ports, SaSet, SetId, Side, Spis};
use common::secret::Secret;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

const CLEAR: &str = concat!(
    "4500003b12344000401191c00a85ca2ec000020a13c613ed00270000524547495354455220736970",
    "3a68696d732e6e6574205349502f322e300d0a",
);

/// Computed with another implementation, keys of MILENAGE set 1, SA1, sequence number 1.
const SEALED: [(Integrity, Encryption, &str); 6] = [
    (
        Integrity::HmacMd5_96,
        Encryption::Null,
        concat!(
            "4500005412344000403291860a85ca2ec000020a84746b8e0000000113c613ed0027000052454749",
            "53544552207369703a68696d732e6e6574205349502f322e300d0a01020303118b98b766f339ce96",
            "acbce010",
        ),
    ),
    (
        Integrity::HmacSha1_96,
        Encryption::Null,
        concat!(
            "4500005412344000403291860a85ca2ec000020a84746b8e0000000113c613ed0027000052454749",
            "53544552207369703a68696d732e6e6574205349502f322e300d0a01020303112ac7cd2bd3d0d976",
            "f1932164",
        ),
    ),
    (
        Integrity::HmacSha1_96,
        Encryption::AesCbc,
        concat!(
            "4500006812344000403291720a85ca2ec000020a84746b8e00000001a0a1a2a3a4a5a6a7a8a9aaab",
            "acadaeaf86b08bea0158a2976273604ed9176a5cf78f5ac59a02fef1427dd4057016a03c7b10c373",
            "0f16582544b94f20350111ae0057eb187d7be181b9deef5d",
        ),
    ),
    (
        Integrity::HmacMd5_96,
        Encryption::DesEde3Cbc,
        concat!(
            "45000060123440004032917a0a85ca2ec000020a84746b8e00000001a0a1a2a3a4a5a6a7c2443437",
            "95002952a0690070bb62a44e5cb4cd27b52ea26573c7780567cd023df94c4b2a0808613679f60c2c",
            "5f4cc62b1e09680c59681b0e576e0373",
        ),
    ),
    (
        Integrity::AesGmac,
        Encryption::Null,
        concat!(
            "45000060123440004032917a0a85ca2ec000020a84746b8e00000001a0a1a2a3a4a5a6a713c613ed",
            "002700005245474953544552207369703a68696d732e6e6574205349502f322e300d0a0102030311",
            "e7216a43085290a801ecd372a2621376",
        ),
    ),
    (
        Integrity::Null,
        Encryption::AesGcm,
        concat!(
            "45000060123440004032917a0a85ca2ec000020a84746b8e00000001a0a1a2a3a4a5a6a77ba498c7",
            "c9dc5f63e65a834341143356f81e8f1e4c154d2fbb08a3b0d67e2095914dcae81f12145cb890a1f2",
            "1afddd2c09677625fbc10e53ec7e8f51",
        ),
    ),
];

const INTEGRITIES: [Integrity; 4] =
    [Integrity::HmacMd5_96, Integrity::HmacSha1_96, Integrity::AesGmac, Integrity::Null];
const ENCRYPTIONS: [Encryption; 4] =
    [Encryption::Null, Encryption::DesEde3Cbc, Encryption::AesCbc, Encryption::AesGcm];

fn pairs() -> Vec<(Integrity, Encryption)> {
    let all = INTEGRITIES.into_iter().flat_map(|alg| ENCRYPTIONS.map(|ealg| (alg, ealg)));
    all.filter(|(alg, ealg)| AlgorithmPair { alg: *alg, ealg: *ealg }.is_usable()).collect()
}

fn set(side: Side, integrity: Integrity, encryption: Encryption, is_v6: bool) -> SaSet {
    let key = |text| Secret::new(hex::decode(text).unwrap().try_into().unwrap());
    let (ue, pcscf) =
        if is_v6 { ("2001:db8::2e", "2001:db8:1::a") } else { ("10.133.202.46", "192.0.2.10") };
    SaSet {
        id: SetId(1),
        side,
        mode: Mode::Transport,
        ue: ue.parse().unwrap(),
        pcscf: pcscf.parse().unwrap(),
        ports: Ports { uc: 5062, us: 5064, pc: 5100, ps: 5101 },
        spis: Spis { uc: 1_111_111_111, us: 1_111_111_112, pc: 2_222_222_221, ps: 2_222_222_222 },
        integrity,
        encryption,
        keys: Keys {
            ck: key("b40ba9a3c58b2a05bbf0d987b21bf8cb"),
            ik: key("f769bcd751044604127672711c6d3441"),
        },
    }
}

fn both(integrity: Integrity, encryption: Encryption, is_v6: bool) -> (EspSet, EspSet) {
    let ue = EspSet::new(&set(Side::Ue, integrity, encryption, is_v6), [1; 32]);
    let pcscf = EspSet::new(&set(Side::Pcscf, integrity, encryption, is_v6), [2; 32]);
    (ue, pcscf)
}

/// An IP packet with the first octets of a UDP or TCP header in front of `data`.
fn packet(set: &SaSet, protocol: u8, ports: (u16, u16), from_ue: bool, data: &[u8]) -> Vec<u8> {
    let (source, destination) = if from_ue { (set.ue, set.pcscf) } else { (set.pcscf, set.ue) };
    let mut payload = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    payload.extend_from_slice(&[0; 4]);
    payload.extend_from_slice(data);
    let octets = |address| match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut packet = if set.ue.is_ipv4() {
        let total = (20 + payload.len()) as u16;
        let mut header = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header
    } else {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        header
    };
    packet.extend(octets(source));
    packet.extend(octets(destination));
    if set.ue.is_ipv4() {
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet.extend(payload);
    packet
}

fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum = words.sum::<u32>();
    !((sum & 0xFFFF) + (sum >> 16)) as u16
}

fn v4_checksum_is_right(packet: &[u8]) -> bool {
    packet[0] >> 4 == 6 || checksum(&packet[..20]) == 0
}

/// RFC 4303 §2: S-76, S-80, octet by octet as another implementation makes it.
#[test]
fn agrees_with_another_implementation() {
    let clear = hex::decode(CLEAR).unwrap();
    for (integrity, encryption, sealed) in SEALED {
        let (mut ue, mut pcscf) = both(integrity, encryption, false);
        let expected = hex::decode(sealed).unwrap();
        assert_eq!(pcscf.open(&expected).as_ref(), Ok(&clear), "{integrity:?} {encryption:?}");
        let made = ue.seal(&clear).unwrap();
        assert_eq!(made.len(), expected.len());
        if encryption == Encryption::Null && integrity != Integrity::AesGmac {
            assert_eq!(made, expected, "{integrity:?}: nothing in it is random");
        }
        assert_eq!(spi_of(&made), Some(2_222_222_222));
    }
}

/// TS 33.203 §7.1: S-71 to S-75, all four associations, every pair, both IP versions, UDP and TCP.
#[test]
fn round_trip_of_every_pair() {
    let flows = [(5062, 5101, true), (5101, 5062, false), (5100, 5064, false), (5064, 5100, true)];
    for (integrity, encryption) in pairs() {
        for is_v6 in [false, true] {
            let (mut ue, mut pcscf) = both(integrity, encryption, is_v6);
            for (length, protocol) in (0..64).zip([6, 17].into_iter().cycle()) {
                for (source, destination, from_ue) in flows {
                    let data = vec![0xC5; length];
                    let clear = packet(ue.set(), protocol, (source, destination), from_ue, &data);
                    let (from, to) =
                        if from_ue { (&mut ue, &mut pcscf) } else { (&mut pcscf, &mut ue) };
                    let sealed = from.seal(&clear).expect("matches an association");
                    assert!(v4_checksum_is_right(&sealed));
                    let header = if is_v6 { 40 } else { 20 };
                    assert_eq!((sealed.len() - header) % 4, 0, "RFC 4303 alignment");
                    assert_eq!(to.open(&sealed), Ok(clear), "{integrity:?} {encryption:?}");
                }
            }
            let counted: Vec<_> = pcscf.counters();
            assert!(counted.iter().all(|(_, counters)| counters.packets == 64));
            assert_eq!(counted[0].0, 2_222_222_222);
        }
    }
}

/// What matches no outbound association is not this set's (N-03, N-04).
#[test]
fn seals_only_its_own_flows() {
    let (mut ue, _) = both(Integrity::HmacSha1_96, Encryption::AesCbc, false);
    let own = packet(ue.set(), 17, (5062, 5101), true, b"x");
    assert!(ue.seal(&own).is_some());
    for (protocol, ports, from_ue) in [
        (17, (5062, 5100), true),
        (17, (5064, 5101), true),
        (17, (5060, 5060), true),
        (17, (5101, 5062), true),
        (17, (5101, 5062), false),
        (1, (5062, 5101), true),
    ] {
        let other = packet(ue.set(), protocol, ports, from_ue, b"x");
        assert_eq!(ue.seal(&other), None, "{protocol} {ports:?} {from_ue}");
    }
    let mut fragment = own.clone();
    fragment[6] = 0x20;
    assert_eq!(ue.seal(&fragment), None);
    assert_eq!(ue.seal(&own[..28]), None, "cut short");
    assert_eq!(ue.seal(&[]), None);
}

/// RFC 4303 §3.4.4: S-78, every changed bit is noticed, whatever it is in.
#[test]
fn tampering_is_noticed() {
    for (integrity, encryption) in pairs() {
        let (mut ue, mut pcscf) = both(integrity, encryption, false);
        let clear = packet(ue.set(), 17, (5062, 5101), true, b"REGISTER");
        let sealed = ue.seal(&clear).unwrap();
        for at in 20..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                let expected = if at < 24 { OpenError::UnknownSpi } else { OpenError::BadIcv };
                assert_eq!(pcscf.open(&changed), Err(expected), "{integrity:?} octet {at}");
            }
        }
        assert_eq!(pcscf.open(&sealed), Ok(clear), "none of it moved the window");
    }
}

/// TS 33.203 §7.1: F-06, another IK means silence.
#[test]
fn another_key_opens_nothing() {
    for (integrity, encryption) in pairs() {
        let (mut ue, _) = both(integrity, encryption, false);
        let mut other = set(Side::Pcscf, integrity, encryption, false);
        other.keys.ik = Secret::new([0x55; 16]);
        other.keys.ck = Secret::new([0xAA; 16]);
        let sealed = ue.seal(&packet(ue.set(), 17, (5062, 5101), true, b"x")).unwrap();
        let mut pcscf = EspSet::new(&other, [3; 32]);
        assert_eq!(pcscf.open(&sealed), Err(OpenError::BadIcv));
    }
}

/// RFC 4303 §3.4.3: each number once, 64 back at most, any order within.
#[test]
fn replay_window() {
    let (mut ue, mut pcscf) = both(Integrity::HmacSha1_96, Encryption::AesCbc, false);
    let clear = packet(ue.set(), 17, (5062, 5101), true, b"x");
    let sealed: Vec<_> = (0..200).map(|_| ue.seal(&clear).unwrap()).collect();
    assert!(pcscf.open(&sealed[0]).is_ok());
    assert_eq!(pcscf.open(&sealed[0]), Err(OpenError::Replayed));
    assert!(pcscf.open(&sealed[63]).is_ok());
    assert!(pcscf.open(&sealed[1]).is_ok(), "late, but inside the window");
    assert_eq!(pcscf.open(&sealed[1]), Err(OpenError::Replayed));
    assert!(pcscf.open(&sealed[64]).is_ok());
    assert!(pcscf.open(&sealed[199]).is_ok(), "a long jump");
    assert_eq!(pcscf.open(&sealed[135]), Err(OpenError::Replayed), "64 behind");
    assert!(pcscf.open(&sealed[136]).is_ok(), "63 behind");
    for packet in &sealed[137..199] {
        assert!(pcscf.open(packet).is_ok());
        assert_eq!(pcscf.open(packet), Err(OpenError::Replayed));
    }
}

/// TS 33.203 §7.1: N-04, an authentic packet on the wrong association is refused.
#[test]
fn selectors_are_checked_after_decryption() {
    let side = |side| set(side, Integrity::HmacSha1_96, Encryption::AesCbc, false);
    let mut forger = side(Side::Ue);
    forger.ports.uc = 6000;
    let clear = packet(&forger, 17, (6000, 5101), true, b"x");
    let sealed = EspSet::new(&forger, [4; 32]).seal(&clear).unwrap();
    let mut pcscf = EspSet::new(&side(Side::Pcscf), [5; 32]);
    assert_eq!(pcscf.open(&sealed), Err(OpenError::SelectorMismatch));

    // Another outer address: the ICV of transport mode does not cover it.
    let (mut ue, mut pcscf) = both(Integrity::HmacSha1_96, Encryption::AesCbc, false);
    let mut moved = ue.seal(&packet(ue.set(), 17, (5062, 5101), true, b"x")).unwrap();
    moved[15] ^= 1;
    assert_eq!(pcscf.open(&moved), Err(OpenError::SelectorMismatch));
}

/// RFC 4303 §3.4: packets too short to be one, and packets for others.
#[test]
fn garbage_is_refused() {
    for (integrity, encryption) in pairs() {
        let (mut ue, mut pcscf) = both(integrity, encryption, false);
        let clear = packet(ue.set(), 17, (5062, 5101), true, b"some data in here");
        let sealed = ue.seal(&clear).unwrap();
        for length in 0..sealed.len() {
            assert!(pcscf.open(&sealed[..length]).is_err(), "cut by the wire");
            if length >= 20 {
                let mut short = sealed[..length].to_vec();
                short[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                assert!(pcscf.open(&short).is_err(), "cut by a sender");
            }
        }
        assert_eq!(pcscf.open(&clear), Err(OpenError::TooShort), "not ESP");
        assert_eq!(ue.open(&sealed), Err(OpenError::UnknownSpi), "outbound SPI");
        let counted = pcscf.counters();
        assert!(counted.iter().all(|(_, counters)| counters.packets == 0));
    }
}

/// RFC 4303 §3.3.3: nothing leaves in clear because a packet would grow too long.
#[test]
fn too_long_is_never_sent_in_clear() {
    let (mut ue, _) = both(Integrity::HmacSha1_96, Encryption::AesCbc, false);
    let clear = packet(ue.set(), 17, (5062, 5101), true, &vec![0; 65_500]);
    assert_eq!(ue.seal(&clear), Some(Vec::new()));
}

/// RFC 4106 §3.1: one key for four associations on two sides, so no two IVs are equal.
#[test]
fn ivs_differ_between_associations() {
    let (mut ue, mut pcscf) = both(Integrity::Null, Encryption::AesGcm, false);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        for (source, destination, from_ue) in
            [(5062, 5101, true), (5064, 5100, true), (5101, 5062, false), (5100, 5064, false)]
        {
            let clear = packet(ue.set(), 17, (source, destination), from_ue, b"x");
            let from = if from_ue { &mut ue } else { &mut pcscf };
            let sealed = from.seal(&clear).unwrap();
            assert!(seen.insert(sealed[28..36].to_vec()));
        }
    }
}

/// Keys never print.
#[test]
fn debug_shows_no_key() {
    let (ue, _) = both(Integrity::HmacSha1_96, Encryption::AesCbc, false);
    let text = format!("{ue:?}");
    assert!(text.contains("<secret>") && !text.contains("180, 11, 169"), "{text}");
}

/// The two ends of a set whose UE is behind a NAT, and the NAT's address.
fn behind_nat(integrity: Integrity, encryption: Encryption) -> (EspSet, EspSet, SocketAddr) {
    let nat = |text: &str| Mode::UdpEncTun { nat: text.parse().unwrap() };
    let mut ue = set(Side::Ue, integrity, encryption, false);
    ue.mode = nat("10.133.202.46:4500");
    let mut pcscf = set(Side::Pcscf, integrity, encryption, false);
    pcscf.mode = nat("198.51.100.7:4500");
    let public = "198.51.100.7:31234".parse().unwrap();
    (EspSet::new(&ue, [1; 32]), EspSet::new(&pcscf, [2; 32]), public)
}

/// What a NAT makes of a packet of the UE.
fn through_nat(packet: &[u8], public: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(public) = public else { unreachable!() };
    let mut packet = packet.to_vec();
    packet[12..16].copy_from_slice(&public.ip().octets());
    packet[20..22].copy_from_slice(&public.port().to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// TS 33.203 Annex M, RFC 3948 §2.1: whole packets inside ESP inside UDP of port 4500, for every pair;
/// and the P-CSCF answers to where the last authentic packet came from.
#[test]
fn tunnel_behind_a_nat() {
    for (integrity, encryption) in pairs() {
        let (mut ue, mut pcscf, public) = behind_nat(integrity, encryption);
        for (length, protocol) in (0..40).zip([6, 17].into_iter().cycle()) {
            let up = packet(ue.set(), protocol, (5062, 5101), true, &vec![0xC5; length]);
            let sealed = ue.seal(&up).unwrap();
            assert!(v4_checksum_is_right(&sealed));
            assert_eq!((sealed[9], sealed[20..24].to_vec()), (17, [0x11, 0x94].repeat(2)));
            assert_eq!(sealed[26..28], [0, 0], "RFC 3948 §2.1: no checksum");
            assert_eq!(spi_of(&sealed), Some(2_222_222_222));
            assert_eq!(pcscf.open(&through_nat(&sealed, public)), Ok(up), "{integrity:?}");
            assert_eq!(pcscf.set().mode, Mode::UdpEncTun { nat: public });

            let down = packet(ue.set(), protocol, (5101, 5062), false, &vec![0x5C; length]);
            let mut sealed = pcscf.seal(&down).unwrap();
            assert_eq!(sealed[16..20], [198, 51, 100, 7]);
            assert_eq!(sealed[22..24], 31_234_u16.to_be_bytes());
            // The NAT again.
            sealed[16..20].copy_from_slice(&[10, 133, 202, 46]);
            sealed[22..24].copy_from_slice(&4_500_u16.to_be_bytes());
            assert_eq!(ue.open(&sealed), Ok(down));
        }
        let Mode::UdpEncTun { nat } = ue.set().mode else { unreachable!() };
        assert_eq!(nat, "10.133.202.46:4500".parse().unwrap(), "a UE knows where it is");
    }
}

/// RFC 3948 §3.1: only what is authentic, new and from the NAT of the set says where the UE is.
#[test]
fn nobody_else_moves_a_ue_behind_a_nat() {
    let (mut ue, mut pcscf, public) = behind_nat(Integrity::HmacSha1_96, Encryption::AesCbc);
    let clear = packet(ue.set(), 17, (5062, 5101), true, b"REGISTER");
    let first = ue.seal(&clear).unwrap();
    pcscf.open(&through_nat(&first, public)).unwrap();
    let elsewhere = "198.51.100.7:6666".parse().unwrap();
    assert_eq!(pcscf.open(&through_nat(&first, elsewhere)), Err(OpenError::Replayed));
    let mut forged = ue.seal(&clear).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(pcscf.open(&through_nat(&forged, elsewhere)), Err(OpenError::BadIcv));
    let other_nat = "203.0.113.9:31234".parse().unwrap();
    let moved = ue.seal(&clear).unwrap();
    let mismatch = Err(OpenError::SelectorMismatch);
    assert_eq!(pcscf.open(&through_nat(&moved, other_nat)), mismatch);
    assert_eq!(pcscf.set().mode, Mode::UdpEncTun { nat: public });
}

/// RFC 3948 §2.2, §2.3: a keep-alive and what is for IKE are not ESP; nor is UDP of other ports.
#[test]
fn what_is_not_esp_inside_udp() {
    let (mut ue, _, _) = behind_nat(Integrity::HmacSha1_96, Encryption::Null);
    let sealed = ue.seal(&packet(ue.set(), 17, (5062, 5101), true, b"x")).unwrap();
    let mut ike = sealed.clone();
    ike[28..32].fill(0);
    assert_eq!(spi_of(&ike), None);
    let mut other_port = sealed.clone();
    other_port[20..24].copy_from_slice(&[0x13, 0xC4, 0x13, 0xC4]);
    assert_eq!(spi_of(&other_port), None);
    let mut keep_alive = sealed[..29].to_vec();
    keep_alive[2..4].copy_from_slice(&29_u16.to_be_bytes());
    keep_alive[28] = 0xFF;
    assert_eq!(spi_of(&keep_alive), None);
}

/// ESP with a cipher of none and HMAC-SHA-1, made by hand: SPI, number, packet, trailer, ICV.
fn by_hand(set: &SaSet, number: u32, inner: &[u8]) -> Vec<u8> {
    let mut esp = set.spis.ps.to_be_bytes().to_vec();
    esp.extend(number.to_be_bytes());
    esp.extend(inner);
    let padding = (inner.len() + 2).next_multiple_of(4) - inner.len() - 2;
    esp.extend((1..=padding).map(|octet| octet as u8));
    esp.extend([padding as u8, 4]);
    let key = set.integrity_key().unwrap();
    let mut mac = Hmac::<Sha1>::new_from_slice(key.expose()).unwrap();
    mac.update(&esp);
    esp.extend(&mac.finalize().into_bytes()[..12]);
    esp
}

/// A tunnel carries fragments (another implementation may cut before it encrypts), which have ports in
/// their first part only. Addresses, and ports where there are any, are the association's.
#[test]
fn fragments_inside_a_tunnel() {
    let (mut ue, _, public) = behind_nat(Integrity::HmacSha1_96, Encryption::Null);
    let front = ue.seal(&packet(ue.set(), 17, (5062, 5101), true, &[])).unwrap()[..28].to_vec();
    let mut first = packet(ue.set(), 17, (5062, 5101), true, &[0xC5; 64]);
    first[6] = 0x20;
    let mut later = packet(ue.set(), 17, (0xC5C5, 0xC5C5), true, &[0xC5; 64]);
    later[7] = 9;
    let mut foreign_ports = first.clone();
    foreign_ports[20] ^= 1;
    let mut foreign_address = later.clone();
    foreign_address[15] ^= 1;
    let mut of_icmp = later.clone();
    of_icmp[9] = 1;
    let mut cut = first.clone();
    cut.truncate(first.len() - 8);
    for (inner, is_right) in [
        (first, true),
        (later, true),
        (foreign_ports, false),
        (foreign_address, false),
        (of_icmp, false),
        (cut, false),
    ] {
        let (_, mut pcscf, _) = behind_nat(Integrity::HmacSha1_96, Encryption::Null);
        let esp = by_hand(pcscf.set(), 1, &inner);
        let mut outer = front.clone();
        outer[2..4].copy_from_slice(&((28 + esp.len()) as u16).to_be_bytes());
        outer.extend(esp);
        let expected = if is_right { Ok(inner) } else { Err(OpenError::SelectorMismatch) };
        assert_eq!(pcscf.open(&through_nat(&outer, public)), expected);
    }
}
