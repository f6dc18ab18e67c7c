//! UE to SGi and back through eNodeB, S-GW and P-GW as values: what goes in comes out, and what must
//! not pass does not.

mod wired;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lte::attach::IpVersion;
use lte::endpoint::Datagram;
use lte::gtpu::{self, MessageType, Teid};
use lte::radio::{Direction, Message};
use wired::{CONFIG, CONNECTION, NOW, Wired, address, packet, route, teid};

/// TS 29.281 §4.3, TS 23.401 §4.4.3: S-02, S-03, S-04, S-13: the same octets at the UE and on SGi,
/// over each hop with its own TEID, in both directions and both IP versions.
#[test]
fn packets_pass_unchanged_in_both_directions() {
    for (version, pcscf) in [(IpVersion::V4, "10.20.0.10"), (IpVersion::V6, "fd00:20::10")] {
        let mut path = Wired::new(CONFIG);
        let attached = path.attach(7, version).unwrap();
        assert_eq!(attached.pcscf, address(pcscf));
        assert_eq!(attached.mtu, 1_358);
        let up = packet(attached.address, attached.pcscf, b"REGISTER sip:hims.net SIP/2.0");
        path.send(7, Message::Data(&up));
        assert_eq!(path.to_sgi, std::slice::from_ref(&up));
        let there =
            [("10.11.0.1".into(), "10.11.0.2".into()), ("10.12.0.1".into(), "10.12.0.2".into())];
        assert_eq!(route(&path.hops), there);
        for hop in &path.hops {
            assert_eq!(hop.bytes[..2], [0x30, 0xff]);
            assert_eq!(usize::from(u16::from_be_bytes([hop.bytes[2], hop.bytes[3]])), up.len());
            assert_eq!(hop.bytes[8..], up);
        }
        let uplink: Vec<_> = path.hops.drain(..).map(|hop| teid(&hop)).collect();

        let down = packet(attached.pcscf, attached.address, b"SIP/2.0 401 Unauthorized");
        path.sgi(&down);
        assert_eq!(path.to_ue, [(7, down.clone())]);
        let back =
            [("10.12.0.2".into(), "10.12.0.1".into()), ("10.11.0.2".into(), "10.11.0.1".into())];
        assert_eq!(route(&path.hops), back);
        assert!(path.hops.iter().all(|hop| hop.bytes[8..] == down));
        let downlink: Vec<_> = path.hops.iter().map(teid).collect();
        let different: BTreeMap<_, _> =
            uplink.iter().chain(&downlink).map(|teid| (*teid, ())).collect();
        assert_eq!(different.len(), 4, "each receiver of each direction has its own TEID");
        assert!(different.keys().all(|teid| teid.0 != 0));
        assert_eq!(path.captured, [(Direction::Uplink, up), (Direction::Downlink, down)]);
    }
}

/// TS 29.281 §4.3: S-80, ESP is carried like anything else.
#[test]
fn esp_is_not_looked_into() {
    let mut path = Wired::new(CONFIG);
    let attached = path.attach(1, IpVersion::V4).unwrap();
    let mut esp = packet(attached.address, attached.pcscf, &[0xee; 100]);
    esp[9] = 50;
    path.send(1, Message::Data(&esp));
    assert_eq!(path.to_sgi, [esp]);
}

/// TS 23.401 §4.4.3.3: S-04, the P-GW drops what does not come from the UE's own address.
#[test]
fn foreign_sources_are_dropped() {
    let mut path = Wired::new(CONFIG);
    let mine = path.attach(1, IpVersion::V4).unwrap();
    let other = path.attach(2, IpVersion::V4).unwrap();
    assert_ne!(mine.address, other.address);
    path.send(1, Message::Data(&packet(other.address, mine.pcscf, b"not me")));
    path.send(1, Message::Data(&[0x60; 10]));
    assert!(path.to_sgi.is_empty());
    let counters = &path.transport.network.pgw.counters;
    assert_eq!((counters.uplink_foreign_source, counters.not_ip), (1, 1));
    path.sgi(&packet(mine.pcscf, address("10.45.0.6"), b"nobody"));
    assert!(path.to_ue.is_empty());
    assert_eq!(path.transport.network.pgw.counters.downlink_unknown_address, 1);
}

/// TS 23.401 §5.3.1.2.2: an IPv6 UE owns its /64 and no other.
#[test]
fn ipv6_ue_owns_its_prefix() {
    let mut path = Wired::new(CONFIG);
    let attached = path.attach(1, IpVersion::V6).unwrap();
    assert_eq!(attached.address, address("fd00:45:0:1::1"));
    let privacy = address("fd00:45:0:1:aaaa:bbbb:cccc:dddd");
    let up = packet(privacy, attached.pcscf, b"");
    path.send(1, Message::Data(&up));
    path.send(1, Message::Data(&packet(address("fd00:45:0:2::1"), attached.pcscf, b"")));
    assert_eq!(path.to_sgi, [up]);
    let down = packet(attached.pcscf, privacy, b"");
    path.sgi(&down);
    assert_eq!(path.to_ue, [(1, down)]);
}

/// TS 24.301 §6.5.1.4: the pool ends, says so, and a returned address is given out again.
#[test]
fn pool_is_finite_and_reused() {
    let mut path = Wired::new(CONFIG);
    let given: Vec<_> = (0..5).map(|n| path.attach(n, IpVersion::V4).unwrap().address).collect();
    let expected: Vec<_> = (2..7).map(|n| IpAddr::from([10, 45, 0, n])).collect();
    assert_eq!(given, expected);
    assert!(path.attach(5, IpVersion::V4).unwrap_err().contains("26"));
    path.send(3, Message::Detach);
    assert_eq!(path.attach(5, IpVersion::V4).unwrap().address, address("10.45.0.5"));
    for reference in 10..13 {
        path.attach(reference, IpVersion::V6).unwrap();
    }
    assert!(path.attach(13, IpVersion::V6).is_err());
    let network = &path.transport.network;
    let sizes = (network.enodebs[0].bearers(), network.sgws[0].bearers(), network.pgw.sessions());
    assert_eq!(sizes, (8, 8, 8), "a refused attach leaves nothing behind");
    path.transport.on_closed(CONNECTION);
    let network = &path.transport.network;
    let sizes = (network.enodebs[0].bearers(), network.sgws[0].bearers(), network.pgw.sessions());
    assert_eq!(sizes, (0, 0, 0));
}

/// TS 29.281 §7.3.1, TS 23.007 §20.3: the P-GW lost its sessions; the news travels back to the UE,
/// one node with each packet.
#[test]
fn lost_session_reaches_the_ue_by_error_indications() {
    let mut path = Wired::new(CONFIG);
    let attached = path.attach(1, IpVersion::V4).unwrap();
    let bearer = path.transport.network.sgws[0].s1u.tunnels().next().map(|(_, bearer)| *bearer);
    path.transport.network.pgw.delete_session(bearer.unwrap());
    let up = packet(attached.address, attached.pcscf, b"hello?");
    path.send(1, Message::Data(&up));
    let kinds = |hops: &[Datagram]| -> Vec<_> {
        hops.iter().map(|hop| gtpu::decode(&hop.bytes).unwrap().message_type).collect()
    };
    use MessageType::{ErrorIndication, GPdu};
    assert_eq!(kinds(&path.hops), [GPdu, GPdu, ErrorIndication]);
    assert!(path.detached.is_empty());
    path.hops.clear();
    path.send(1, Message::Data(&up));
    assert_eq!(kinds(&path.hops), [GPdu, ErrorIndication]);
    assert_eq!(path.detached, [1]);
    assert!(path.attach(1, IpVersion::V4).is_ok());
}

/// TS 29.281 §7.3.2, TS 23.401 §5.5.1.1.2: when another eNodeB takes over, the S-GW ends the old
/// tunnel, and sends to the new one.
#[test]
fn path_switch_ends_the_old_tunnel() {
    use lte::endpoint::Remote;
    let mut path = Wired::new(CONFIG);
    let attached = path.attach(1, IpVersion::V4).unwrap();
    let sgw = &mut path.transport.network.sgws[0];
    let bearer = sgw.s1u.tunnels().next().map(|(_, bearer)| *bearer).unwrap();
    let target = Remote { address: address("10.11.0.3"), teid: Teid(0x77) };
    let [marker] = &sgw.modify(NOW, bearer, target)[..] else { panic!("one End Marker") };
    let marker = marker.clone();
    assert_eq!(marker.to.ip(), address("10.11.0.1"));
    assert_eq!(gtpu::decode(&marker.bytes).unwrap().message_type, MessageType::EndMarker);
    path.gtpu(marker);
    assert_eq!(path.transport.network.enodebs[0].s1u.counters.end_markers_received, 1);
    path.sgi(&packet(attached.pcscf, attached.address, b"moved"));
    let last = path.hops.last().unwrap();
    assert_eq!((last.to.ip(), teid(last)), (address("10.11.0.3"), Teid(0x77)));
}

/// TS 29.281 §5.2.1: the S-GW passes an extension header that only the end must understand, and the
/// P-GW refuses it.
#[test]
fn extension_headers_are_for_the_end() {
    let mut path = Wired::new(CONFIG);
    path.attach(1, IpVersion::V4).unwrap();
    let (teid, _) = path.transport.network.sgws[0].s1u.tunnels().next().unwrap();
    let bytes = gtpu::Packet {
        message_type: MessageType::GPdu,
        teid,
        sequence_number: Some(5),
        n_pdu_number: None,
        extension_headers: vec![
            gtpu::ExtensionHeader { kind: 0x85, content: &[0, 9] },
            gtpu::ExtensionHeader { kind: 0x40, content: &[0x08, 0x68] },
        ],
        payload: &[0x45],
    }
    .encode();
    let to = SocketAddr::new(address("10.11.0.2"), gtpu::PORT);
    path.gtpu(Datagram { from: address("10.11.0.1"), to, bytes });
    let relayed = gtpu::decode(&path.hops[0].bytes).unwrap();
    assert_eq!(relayed.extension_headers.len(), 1);
    assert_eq!(relayed.extension_headers[0].kind, 0x85);
    assert_eq!(path.transport.network.pgw.s5u.counters.extension_headers_refused, 1);
    let answer = gtpu::decode(&path.hops[1].bytes).unwrap().message_type;
    assert_eq!(answer, MessageType::SupportedExtensionHeadersNotification);
    assert!(path.to_sgi.is_empty());
}

/// The link holds, loses and delays; what it delays arrives when its time comes, in order.
#[test]
fn links_are_in_front_of_the_path() {
    let config = format!("{CONFIG}\n[link.uplink]\ndelay_milliseconds = 10.0\nmtu = 1358\n");
    let mut path = Wired::new(&config);
    let attached = path.attach(1, IpVersion::V4).unwrap();
    let packets: Vec<_> =
        (0..3).map(|n| packet(attached.address, attached.pcscf, &[n; 10])).collect();
    for packet in &packets {
        path.send(1, Message::Data(packet));
    }
    path.send(1, Message::Data(&packet(attached.address, attached.pcscf, &[0; 1_400])));
    assert_eq!(path.transport.counters.uplink.too_long, 1);
    assert!(path.to_sgi.is_empty());
    let mut out = Vec::new();
    path.transport.on_timeout(NOW + Duration::from_millis(9), &mut out);
    path.carry_out(out);
    assert!(path.to_sgi.is_empty());
    let mut out = Vec::new();
    path.transport.on_timeout(NOW + Duration::from_millis(10), &mut out);
    path.carry_out(out);
    assert_eq!(path.to_sgi, packets);
    let profile = r#"{"loss": 1.0}"#;
    path.send(1, Message::SetLink { direction: Direction::Downlink, profile });
    path.sgi(&packet(attached.pcscf, attached.address, b"lost"));
    assert!(path.to_ue.is_empty());
    assert_eq!(path.transport.counters.downlink.lost, 1);
    path.send(1, Message::SetLink { direction: Direction::Downlink, profile: "{\"loss\": 2}" });
    assert_eq!(path.transport.counters.radio_malformed, 1);
}

/// Echo Requests go out on every path of the bearer, and are answered on it.
#[test]
fn all_paths_are_supervised() {
    let mut path = Wired::new(CONFIG);
    path.attach(1, IpVersion::V4).unwrap();
    let mut out = Vec::new();
    path.transport.on_timeout(NOW, &mut out);
    path.carry_out(out);
    let network = &path.transport.network;
    for counters in [
        &network.enodebs[0].s1u.counters,
        &network.sgws[0].s1u.counters,
        &network.sgws[0].s5u.counters,
        &network.pgw.s5u.counters,
    ] {
        assert_eq!(counters.echo_requests_sent, 1);
        assert_eq!(counters.echo_requests_received, 1);
        assert_eq!(counters.echo_responses_received, 1);
    }
    // Every request was answered, so that none is repeated.
    path.run_for(59_000);
    assert_eq!(path.transport.network.pgw.s5u.counters.echo_requests_sent, 1);
    assert_eq!(path.transport.next_timeout(), Some(NOW + Duration::from_secs(60)));
}

/// What a scrape says is what happened: an attach, a refusal, a packet each way, a foreign source.
#[test]
fn samples_tell_what_happened() {
    use common::stats::{Samples, Value};
    let mut path = Wired::new(CONFIG);
    let attached = path.attach(1, IpVersion::V4).unwrap();
    path.send(1, Message::Data(&packet(attached.address, attached.pcscf, b"up")));
    path.send(1, Message::Data(&packet(address("10.9.9.9"), attached.pcscf, b"foreign")));
    path.sgi(&packet(attached.pcscf, attached.address, b"down"));
    for reference in 2..6 {
        path.attach(reference, IpVersion::V4).unwrap();
    }
    path.attach(9, IpVersion::V4).unwrap_err();
    let mut samples = Samples::default();
    lte::metrics::samples(&path.transport, &mut samples);
    let value = |name: &str, labels: &[(&str, &str)]| {
        let found: Vec<_> = samples
            .0
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| {
                labels
                    .iter()
                    .all(|(name, value)| sample.labels.iter().any(|(n, v)| n == name && v == value))
            })
            .collect();
        let [sample] = &found[..] else { panic!("{name} {labels:?}: {found:?}") };
        match sample.value {
            Value::Counter(count) => count as f64,
            Value::Gauge(value) => value,
            Value::Histogram(_) => panic!("{name} is a histogram"),
        }
    };
    for (name, labels, expected) in [
        ("tessera_lte_ues", &[("state", "connected")][..], 5.0),
        ("tessera_lte_attaches_total", &[("result", "accepted")], 5.0),
        ("tessera_lte_attaches_total", &[("result", "no-resources")], 1.0),
        ("tessera_lte_bearers", &[("node", "pgw1")], 5.0),
        ("tessera_lte_radio_packets_total", &[("direction", "up"), ("outcome", "delivered")], 2.0),
        ("tessera_lte_radio_packets_total", &[("direction", "down"), ("outcome", "lost")], 0.0),
        ("tessera_lte_dropped_packets_total", &[("cause", "foreign-source")], 1.0),
        ("tessera_lte_sgi_packets_total", &[("direction", "up")], 1.0),
        ("tessera_lte_sgi_packets_total", &[("direction", "down")], 1.0),
        ("tessera_lte_pool_used", &[("version", "4")], 5.0),
        ("tessera_lte_pool_size", &[("version", "4")], 5.0),
        (
            "tessera_lte_gtpu_packets_total",
            &[("node", "sgw1"), ("interface", "s5u"), ("direction", "out")],
            2.0,
        ),
    ] {
        assert_eq!(value(name, labels), expected, "{name} {labels:?}");
    }
}
