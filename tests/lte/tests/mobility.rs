//! What UEs do in time: handover with and without another S-GW, idle and paging, outages, links of
//! cells, scripts; in the order of the packets on each hop.

mod wired;

use lte::attach::IpVersion;
use lte::endpoint::Datagram;
use lte::gtpu::{self, MessageType};
use lte::radio::Message;
use wired::{CONFIG, Wired, address, packet};

/// Two eNodeBs, the second with two cells; two S-GWs.
fn many() -> String {
    CONFIG.replacen("[enodeb]", "[[enodeb]]", 1).replacen(
        "[sgw]",
        "[[enodeb]]\naddress = \"10.11.0.3\"\n\
         [[cell]]\nname = \"north\"\nenodeb = \"enb2\"\n\
         [[cell]]\nname = \"south\"\nenodeb = \"enb2\"\nuplink = { loss = 1.0 }\n\
         [[sgw]]\ns1u_address = \"10.11.0.4\"\ns5u_address = \"10.12.0.3\"\nname = \"far\"\n\
         [[sgw]]",
        1,
    )
}

/// Its cell is enb1: there are three cells, and its number, with a 1 in front, is a multiple of three.
const IMSI: &str = "001010000000003";

fn attached(config: &str) -> (Wired, lte::attach::Attached) {
    let mut path = Wired::new(config);
    let attached = path.attach_as(1, IpVersion::V4, IMSI).unwrap();
    let place = path.command(&format!("ue {IMSI}"));
    assert!(place.contains("state connected cell enb1 enodeb enb1 sgw far"), "{place}");
    path.hops.clear();
    (path, attached)
}

/// Each hop as FROM>TO and what it is: the last octet of a G-PDU's inner packet, or EM.
fn story(hops: &[Datagram]) -> Vec<String> {
    let name = |address: std::net::IpAddr| match address.to_string().as_str() {
        "10.11.0.1" => "enb1",
        "10.11.0.3" => "enb2",
        "10.11.0.4" | "10.12.0.3" => "far",
        "10.11.0.2" | "10.12.0.1" => "near",
        "10.12.0.2" => "pgw",
        other => panic!("{other}"),
    };
    let told = hops.iter().filter_map(|hop| {
        let packet = gtpu::decode(&hop.bytes).unwrap();
        let what = match packet.message_type {
            MessageType::GPdu => (packet.payload.last().copied().unwrap() as char).to_string(),
            MessageType::EndMarker => "EM".into(),
            MessageType::EchoRequest | MessageType::EchoResponse => return None,
            other => format!("{other:?}"),
        };
        Some(format!("{}>{} {what}", name(hop.from), name(hop.to.ip())))
    });
    told.collect()
}

fn received(path: &mut Wired) -> String {
    path.to_ue.drain(..).map(|(_, packet)| *packet.last().unwrap() as char).collect()
}

/// TS 23.401 §5.5.1.1.2, TS 36.300 §10.1.2.3.1: what comes during the handover is forwarded over
/// X2; after the path switch the End Marker follows it; what came by the new path waits for that;
/// the UE gets everything, once and in order.
#[test]
fn handover_loses_and_reorders_nothing() {
    let (mut path, attached) = attached(&many());
    let down = |letter: u8| packet(attached.pcscf, attached.address, &[letter]);
    path.sgi(&down(b'a'));
    assert_eq!(path.command(&format!("handover {IMSI} north gap 50")), "handover: 1 UEs\n");
    path.sgi(&down(b'b'));
    let expected = ["pgw>far a", "far>enb1 a", "pgw>far b", "far>enb1 b", "enb1>enb2 b"];
    assert_eq!(story(&path.hops), expected);
    path.hops.clear();

    // One packet is still on its way to the old eNodeB when the path is switched.
    path.is_held = true;
    path.sgi(&down(b'c'));
    let [to_sgw] = &std::mem::take(&mut path.held)[..] else { panic!("one hop") };
    path.gtpu(to_sgw.clone());
    path.run_for(50);
    assert_eq!(story(&path.held), ["far>enb1 c", "far>enb1 EM"]);
    let late = std::mem::take(&mut path.held);
    path.is_held = false;
    path.sgi(&down(b'd'));
    assert_eq!(story(&path.hops[path.hops.len() - 2..]), ["pgw>far d", "far>enb2 d"]);
    path.run_for(0);
    assert_eq!(received(&mut path), "ab", "d waits for the End Marker");
    path.held = late;
    path.hops.clear();
    path.deliver();
    assert_eq!(story(&path.hops), ["enb1>enb2 c", "enb1>enb2 EM"]);
    path.run_for(0);
    assert_eq!(received(&mut path), "cd");

    path.hops.clear();
    path.send(1, Message::Data(&packet(attached.address, attached.pcscf, b"u")));
    assert_eq!(story(&path.hops), ["enb2>far u", "far>pgw u"]);
    let network = &path.transport.network;
    assert_eq!((network.enodebs[0].bearers(), network.enodebs[1].bearers()), (0, 1));
    assert!(path.command(&format!("ue {IMSI}")).contains("cell north enodeb enb2 sgw far"));
    path.run_for(5_000);
    assert_eq!(path.transport.counters.end_markers_missed, 0);
    assert_eq!(path.transport.counters.downlink.lost, 0);
}

/// TS 23.401 §5.5.1.1.3: the P-GW's End Marker goes by the S-GW that the UE left, which then has
/// nothing of it any more.
#[test]
fn sgw_changes_with_the_enodeb() {
    let (mut path, attached) = attached(&many());
    let down = |letter: u8| packet(attached.pcscf, attached.address, &[letter]);
    path.command(&format!("handover {IMSI} north sgw sgw2 gap 20"));
    path.sgi(&down(b'a'));
    path.hops.clear();
    path.run_for(20);
    assert_eq!(story(&path.hops), ["pgw>far EM", "far>enb1 EM", "enb1>enb2 EM"]);
    path.hops.clear();
    path.sgi(&down(b'b'));
    path.send(1, Message::Data(&packet(attached.address, attached.pcscf, b"u")));
    assert_eq!(story(&path.hops), ["pgw>near b", "near>enb2 b", "enb2>near u", "near>pgw u"]);
    assert_eq!(received(&mut path), "ab");
    let network = &path.transport.network;
    let bearers = (network.sgws[0].bearers(), network.sgws[1].bearers());
    assert_eq!(bearers, (0, 1));
    // And back, with everything that goes with it.
    path.command(&format!("handover {IMSI} enb1 sgw far gap 0"));
    path.hops.clear();
    path.sgi(&down(b'c'));
    assert_eq!(story(&path.hops), ["pgw>far c", "far>enb1 c"]);
    path.run_for(5_000);
    assert_eq!(received(&mut path), "c");
    path.send(1, Message::Detach);
    let network = &path.transport.network;
    let left = network.enodebs.iter().map(|node| node.bearers()).sum::<usize>()
        + network.sgws.iter().map(|node| node.bearers()).sum::<usize>()
        + network.pgw.sessions();
    assert_eq!(left, 0, "detached everywhere");
}

/// TS 36.300 §10.1.2.3.1: an End Marker that is lost holds packets back for a while, not for ever.
#[test]
fn lost_end_marker_is_not_waited_for() {
    let (mut path, attached) = attached(&many());
    path.command(&format!("handover {IMSI} north gap 10"));
    path.is_held = true;
    path.run_for(10);
    assert_eq!(story(&path.held), ["far>enb1 EM"]);
    path.held.clear();
    path.is_held = false;
    path.sgi(&packet(attached.pcscf, attached.address, b"a"));
    path.run_for(900);
    assert_eq!(received(&mut path), "");
    path.run_for(200);
    assert_eq!(received(&mut path), "a");
    assert_eq!(path.transport.counters.end_markers_missed, 1);
    assert_eq!(path.transport.network.enodebs[0].bearers(), 0);
}

/// A handover that cannot be is refused and changes nothing: no such cell, a cell off the air, the
/// same eNodeB with another S-GW, a handover under way.
#[test]
fn impossible_handovers_are_refused() {
    let (mut path, attached) = attached(&many());
    for (command, why) in [
        (format!("handover {IMSI} west"), "there is no cell west"),
        (format!("handover {IMSI} north sgw sgw9"), "there is no S-GW sgw9"),
        (format!("handover {IMSI} enb1 sgw sgw2"), "with another eNodeB only"),
        ("handover 001010000000099 north".into(), "no UE 001010000000099"),
    ] {
        let answer = path.command(&command);
        assert!(answer.starts_with("error: ") && answer.contains(why), "{command}: {answer}");
    }
    path.command("outage north");
    assert!(path.command(&format!("handover {IMSI} north")).contains("off the air"));
    path.command("restore north");
    path.command(&format!("handover {IMSI} north gap 50"));
    assert!(path.command(&format!("handover {IMSI} south")).contains("being handed over"));
    path.run_for(50);
    path.sgi(&packet(attached.pcscf, attached.address, b"a"));
    assert_eq!(received(&mut path), "a");
    // The target goes while the UE is on its way: it stays where it was.
    path.command(&format!("handover {IMSI} enb1 gap 50"));
    path.command("outage enb1");
    path.run_for(50);
    path.sgi(&packet(attached.pcscf, attached.address, b"b"));
    assert_eq!(received(&mut path), "b");
    assert!(path.command(&format!("ue {IMSI}")).contains("cell north"));
    assert_eq!(path.transport.counters.events_refused, 6);
}

/// TS 23.401 §5.3.5, §5.3.4.3, §5.3.4.1: idle, a packet waits at the S-GW, the UE is paged, and
/// everything that waited arrives in order; the UE's own packet brings it back, too.
#[test]
fn idle_ue_is_paged_and_loses_nothing() {
    let config = format!(
        "{}[idle]\nafter_milliseconds = 1000\npaging_cycle_milliseconds = 640\n\
         service_request_milliseconds = 30\n",
        many()
    );
    let (mut path, attached) = attached(&config);
    path.run_for(500);
    path.send(1, Message::Data(&packet(attached.address, attached.pcscf, b"u")));
    path.run_for(900);
    assert!(path.command(&format!("ue {IMSI}")).contains("state connected"), "it spoke");
    path.run_for(600);
    assert!(path.command(&format!("ue {IMSI}")).contains("state idle"));
    assert_eq!(path.transport.network.enodebs[0].bearers(), 0);
    path.hops.clear();
    for letter in *b"abc" {
        path.sgi(&packet(attached.pcscf, attached.address, &[letter]));
    }
    assert_eq!(story(&path.hops), ["pgw>far a", "pgw>far b", "pgw>far c"]);
    assert!(path.command(&format!("ue {IMSI}")).contains("state paged"));
    path.run_for(640 + 30);
    assert_eq!(received(&mut path), "abc");
    let counters = &path.transport.counters;
    assert_eq!((counters.pages, counters.pages_answered, counters.s1_released_inactive), (1, 1, 1));
    assert_eq!(counters.paging_seconds.count(), 1);

    path.command(&format!("idle {IMSI}"));
    path.to_sgi.clear();
    let up = packet(attached.address, attached.pcscf, b"u");
    path.send(1, Message::Data(&up));
    path.send(1, Message::Data(&up));
    assert!(path.to_sgi.is_empty());
    path.run_for(30);
    assert_eq!(path.to_sgi, [up.clone(), up]);
    assert_eq!(path.transport.counters.service_requests, 2);
}

/// TS 24.301 §5.6.2.2: pages without answer are repeated, and then what waited is dropped; too much
/// is not kept (I8).
#[test]
fn unanswered_pages_end() {
    let config = format!(
        "{}[idle]\npaging_cycle_milliseconds = 10\npaging_retry_milliseconds = 1000\n\
         paging_attempts = 3\npackets_waiting = 2\n",
        many()
    );
    let (mut path, attached) = attached(&config);
    path.command(&format!("outage {IMSI}"));
    for letter in *b"abc" {
        path.sgi(&packet(attached.pcscf, attached.address, &[letter]));
    }
    assert_eq!(path.transport.network.sgws[0].counters.downlink_without_s1, 1, "two may wait");
    path.run_for(5_000);
    let counters = &path.transport.counters;
    assert_eq!((counters.pages, counters.pages_unanswered, counters.pages_answered), (3, 1, 0));
    assert_eq!(path.transport.network.sgws[0].counters.downlink_without_s1, 3);
    path.command(&format!("restore {IMSI}"));
    path.run_for(1_000);
    assert_eq!(received(&mut path), "");
    // In coverage again before the last page: what waited arrives.
    path.command(&format!("outage {IMSI} for 1.5"));
    path.sgi(&packet(attached.pcscf, attached.address, b"d"));
    path.run_for(3_000);
    assert_eq!(received(&mut path), "d");
}

/// A cell off the air: what is in it loses its packets and goes idle (TS 36.413 §8.3.2), what is
/// elsewhere does not; afterwards it goes on.
#[test]
fn cell_outage_ends() {
    let (mut path, attached) = attached(&many());
    let other = path.attach_as(2, IpVersion::V4, "001010000000004").unwrap();
    assert!(path.command("ue 001010000000004").contains("cell north"));
    assert!(path.command("outage enb1 for 2").contains("1 of them connected"));
    let up = packet(attached.address, attached.pcscf, b"u");
    path.send(1, Message::Data(&up));
    assert!(path.to_sgi.is_empty());
    assert_eq!(path.transport.counters.uplink.outage, 1);
    let theirs = packet(other.address, other.pcscf, b"v");
    path.send(2, Message::Data(&theirs));
    assert_eq!(path.to_sgi, [theirs]);
    assert!(path.command("cells").contains("enb1 enodeb enb1 air off ues 1"));
    // Who attaches now attaches elsewhere.
    path.attach_as(3, IpVersion::V4, "001010000000006").unwrap();
    assert!(path.command("ue 001010000000006").contains("cell north"));
    path.run_for(2_000);
    path.to_sgi.clear();
    path.send(1, Message::Data(&up));
    path.run_for(50);
    assert_eq!(path.to_sgi, [up]);
    for cell in ["enb1", "north", "south"] {
        path.command(&format!("outage {cell}"));
    }
    assert!(path.attach_as(9, IpVersion::V4, IMSI).unwrap_err().contains("no cell"));
}

/// Links: a cell's own, a UE's own that goes with it, and back to what the configuration says.
#[test]
fn links_are_of_cells_and_of_ues() {
    let (mut path, attached) = attached(&many());
    let up = packet(attached.address, attached.pcscf, b"u");
    let passes = |path: &mut Wired| {
        path.to_sgi.clear();
        path.send(1, Message::Data(&up));
        !path.to_sgi.is_empty()
    };
    assert!(passes(&mut path));
    path.command(&format!("handover {IMSI} north gap 0"));
    path.command(&format!("handover {IMSI} south gap 0"));
    assert!(!passes(&mut path), "south loses everything");
    path.command(r#"link south up {"loss":0.0}"#);
    assert!(passes(&mut path));
    path.command("link south");
    assert!(!passes(&mut path), "as configured");
    path.command(&format!(r#"link {IMSI} up {{"mtu":1400}}"#));
    assert!(passes(&mut path), "its own");
    path.command(&format!("handover {IMSI} enb1 gap 0"));
    path.command(r#"link enb1 up {"loss":1.0} for 3"#);
    assert!(passes(&mut path), "its own goes with it");
    path.command(&format!("link {IMSI}"));
    assert!(!passes(&mut path), "the cell's");
    path.run_for(3_000);
    assert!(passes(&mut path));
}

/// Events of a script come at their time, again and again, one UE after the other.
#[test]
fn scripts_run_in_time() {
    let mut path = Wired::new(&many().replace("10.45.0.0/29", "10.45.0.0/24"));
    for reference in 0..30 {
        let imsi = format!("0010100000001{reference:02}");
        path.attach_as(reference, IpVersion::V4, &imsi).unwrap();
    }
    let in_cell = |path: &Wired, name: &str| {
        path.transport.cells.iter().find(|cell| cell.name == name).unwrap().ues
    };
    assert_eq!(in_cell(&path, "enb1"), 10);
    let script = "[[event]]\nat_seconds = 1\ndo = \"handover\"\nfrom = \"enb1\"\ncell = \"north\"\n\
                  over_seconds = 1\ngap_milliseconds = 10\n\
                  [[event]]\nat_seconds = 5\nevery_seconds = 2\ndo = \"idle\"\nue = \"*\"\n";
    let mut out = Vec::new();
    let words = ["script".to_owned(), script.to_owned()];
    let answer = lte::admin::answer(&mut path.transport, path.now, &words, &mut out);
    assert_eq!(answer, "script: 2 events\n");
    path.run_for(999);
    assert_eq!(in_cell(&path, "enb1"), 10);
    path.run_for(500);
    let on_the_way = in_cell(&path, "enb1");
    assert!((4..=6).contains(&on_the_way), "{on_the_way}");
    path.run_for(1_000);
    assert_eq!((in_cell(&path, "enb1"), in_cell(&path, "north")), (0, 20));
    assert_eq!(path.transport.idle_ues(), 0);
    path.run_for(2_600);
    assert_eq!(path.transport.idle_ues(), 30);
    path.run_for(6_000);
    assert_eq!(path.transport.counters.events[&lte::script::What::Idle], 4);
    let words = ["script".to_owned(), script.replace("north", "west")];
    let answer = lte::admin::answer(&mut path.transport, path.now, &words, &mut out);
    assert_eq!(answer, "error: event 1: there is no cell west\n");
}

/// TS 23.401 §5.3.1.1: both IP versions on one bearer, or the one that there is.
#[test]
fn both_versions_on_one_bearer() {
    let (mut path, _) = attached(&many());
    let attached = path.attach_as(2, IpVersion::V4V6, "001010000000009").unwrap();
    let (v6, pcscf_v6) = attached.second.unwrap();
    for (from, to) in [(attached.address, attached.pcscf), (v6, pcscf_v6)] {
        path.to_sgi.clear();
        let up = packet(from, to, b"u");
        path.send(2, Message::Data(&up));
        assert_eq!(path.to_sgi, [up]);
        path.sgi(&packet(to, from, b"d"));
        assert_eq!(received(&mut path), "d");
    }
    path.send(2, Message::Data(&packet(address("fd00:45:0:3::1"), pcscf_v6, b"x")));
    assert_eq!(path.transport.network.pgw.counters.uplink_foreign_source, 1);
    let only_v4 = many().replace("pool_v6", "#").replace("pcscf_v6", "#");
    let mut path = Wired::new(&only_v4);
    let attached = path.attach_as(2, IpVersion::V4V6, IMSI).unwrap();
    assert!(attached.address.is_ipv4() && attached.second.is_none());
    assert!(path.attach_as(3, IpVersion::V6, IMSI).is_err());
}

/// TS 23.401 §5.3.3.1: an idle UE selects a cell of another S-GW; what waited goes with it.
#[test]
fn idle_ue_takes_what_waits_along() {
    let config = format!("{}[idle]\npaging_cycle_milliseconds = 1000\n", many());
    let (mut path, attached) = attached(&config);
    path.command(&format!("idle {IMSI}"));
    path.sgi(&packet(attached.pcscf, attached.address, b"a"));
    path.hops.clear();
    path.command(&format!("handover {IMSI} north sgw sgw2"));
    assert_eq!(story(&path.hops), ["pgw>far EM"]);
    path.sgi(&packet(attached.pcscf, attached.address, b"b"));
    path.hops.clear();
    path.run_for(1_050);
    assert_eq!(story(&path.hops), ["near>enb2 a", "near>enb2 b"]);
    assert_eq!(received(&mut path), "ab");
    assert_eq!(path.transport.network.sgws[0].bearers(), 0);
}

/// What README.md shows is what the program takes.
#[test]
fn readme_is_true() {
    let blocks: Vec<_> = include_str!("../README.md").split("```\n").collect();
    let block = |with: &str| *blocks.iter().skip(1).step_by(2).find(|b| b.contains(with)).unwrap();
    let config = lte::Config::parse(block("[radio]")).unwrap();
    assert_eq!((config.enodeb.len(), config.cells().len(), config.sgw.len()), (2, 2, 2));
    let mut path = Wired::new(block("[radio]"));
    let script = lte::script::Script::parse(block("[[event]]")).unwrap();
    assert_eq!(path.transport.start_script(path.now, script), Ok(2));
}
