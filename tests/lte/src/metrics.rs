//! What `/metrics` says of the transport; names and labels are in `README.md` of this crate.

use std::collections::BTreeMap;

use common::stats::Samples;

use crate::attach::Refusal;
use crate::endpoint::Endpoint;
use crate::script::What;
use crate::transport::{Crossings, Kind, Transport};

/// Adds everything that the transport counts.
pub fn samples(transport: &Transport, samples: &mut Samples) {
    ues(transport, samples);
    cells(transport, samples);
    mobility(transport, samples);
    paging(transport, samples);
    radio(transport, samples);
    nodes(transport, samples);
    pool(transport, samples);
}

fn ues(transport: &Transport, samples: &mut Samples) {
    let counters = &transport.counters;
    let (attached, idle) = (transport.ues(), transport.idle_ues());
    for (state, count) in [("connected", attached - idle), ("idle", idle)] {
        samples.gauge("tessera_lte_ues", UES, &[("state", state)], count as f64);
    }
    let attaches = "tessera_lte_attaches_total";
    samples.counter(attaches, ATTACHES, &[("result", "accepted")], counters.attached);
    for refusal in Refusal::ALL {
        let refused = counters.attach_refused.get(&refusal).copied().unwrap_or(0);
        samples.counter(attaches, ATTACHES, &[("result", refusal.label())], refused);
    }
    let help = "UEs that detached, were released, or lost their program.";
    samples.counter("tessera_lte_detaches_total", help, &[], counters.detached);
}

fn cells(transport: &Transport, samples: &mut Samples) {
    for cell in &transport.cells {
        let labels = [("cell", cell.name.as_str())];
        let help = "Whether the cell is on the air.";
        samples.gauge("tessera_lte_cell_up", help, &labels, f64::from(u8::from(cell.is_up)));
        let help = "UEs that are connected or camp in the cell.";
        samples.gauge("tessera_lte_cell_ues", help, &labels, cell.ues as f64);
    }
    for (what, name) in What::ALL {
        let count = transport.counters.events.get(&what).copied().unwrap_or(0);
        let help = "Radio events of commands and scripts, by kind.";
        samples.counter("tessera_lte_events_total", help, &[("event", name)], count);
    }
    let help = "Radio events that were refused, or did not fit a UE any more.";
    let refused = transport.counters.events_refused;
    samples.counter("tessera_lte_events_refused_total", help, &[], refused);
}

fn mobility(transport: &Transport, samples: &mut Samples) {
    let counters = &transport.counters;
    for kind in Kind::ALL {
        let of = |map: &BTreeMap<Kind, u64>| map.get(&kind).copied().unwrap_or(0);
        for (result, count) in
            [("completed", of(&counters.handovers)), ("failed", of(&counters.handovers_failed))]
        {
            let labels = [("kind", kind.label()), ("result", result)];
            samples.counter("tessera_lte_handovers_total", HANDOVERS, &labels, count);
        }
    }
    let help = "From leaving a cell to the path switched.";
    samples.histogram("tessera_lte_handover_seconds", help, &[], &counters.handover_seconds);
    let help = "Handovers after which packets had waited in vain for the End Marker.";
    let missed = counters.end_markers_missed;
    samples.counter("tessera_lte_end_markers_missed_total", help, &[], missed);
}

fn paging(transport: &Transport, samples: &mut Samples) {
    let counters = &transport.counters;
    for (result, count) in [
        ("sent", counters.pages),
        ("answered", counters.pages_answered),
        ("unanswered", counters.pages_unanswered),
    ] {
        samples.counter("tessera_lte_pages_total", PAGES, &[("result", result)], count);
    }
    let help = "From the first packet for an idle UE to its bearer set up again.";
    samples.histogram("tessera_lte_paging_seconds", help, &[], &counters.paging_seconds);
    for (result, count) in [
        ("accepted", counters.service_requests),
        ("no-resources", counters.service_requests_refused),
    ] {
        let labels = [("result", result)];
        let help = "Idle UEs that asked for their bearer, paged or not.";
        samples.counter("tessera_lte_service_requests_total", help, &labels, count);
    }
    for (cause, count) in [
        ("user-inactivity", counters.s1_released_inactive),
        ("radio-connection-lost", counters.s1_released_radio_lost),
        ("command", counters.s1_released_command),
    ] {
        let help = "UEs that became idle.";
        samples.counter("tessera_lte_s1_releases_total", help, &[("cause", cause)], count);
    }
}

fn radio(transport: &Transport, samples: &mut Samples) {
    let counters = &transport.counters;
    for (direction, crossings) in [("up", &counters.uplink), ("down", &counters.downlink)] {
        let Crossings { delivered, lost, too_long, queue_full, outage, in_flight_full } = crossings;
        for (outcome, count) in [
            ("delivered", delivered),
            ("lost", lost),
            ("too-long", too_long),
            ("queue-full", queue_full),
            ("outage", outage),
            ("in-flight-full", in_flight_full),
        ] {
            let labels = [("direction", direction), ("outcome", outcome)];
            samples.counter("tessera_lte_radio_packets_total", RADIO_PACKETS, &labels, *count);
        }
    }
    let help = "Records of programs that are not of the protocol, or of a UE that is not attached.";
    samples.counter("tessera_lte_radio_malformed_total", help, &[], counters.radio_malformed);
    let help = "Packets on their way over the radio links.";
    let in_flight = transport.packets_in_flight() as f64;
    samples.gauge("tessera_lte_packets_in_flight", help, &[], in_flight);
}

fn nodes(transport: &Transport, samples: &mut Samples) {
    for enodeb in &transport.network.enodebs {
        let (node, counters) = (enodeb.name.as_str(), &enodeb.counters);
        endpoint(node, "s1u", &enodeb.s1u, samples);
        bearers(node, enodeb.bearers(), counters.bearers_lost, samples);
        dropped(node, "no-bearer", counters.uplink_without_bearer, samples);
        dropped(node, "waiting-full", counters.waiting_full, samples);
        let help = "Packets forwarded over X2-U to the eNodeB to which the UE went.";
        let name = "tessera_lte_x2_forwarded_packets_total";
        samples.counter(name, help, &[("node", node)], counters.forwarded);
    }
    for sgw in &transport.network.sgws {
        let (node, counters) = (sgw.name.as_str(), &sgw.counters);
        endpoint(node, "s1u", &sgw.s1u, samples);
        endpoint(node, "s5u", &sgw.s5u, samples);
        bearers(node, sgw.bearers(), counters.bearers_lost, samples);
        dropped(node, "no-s1", counters.downlink_without_s1, samples);
        dropped(node, "no-s5", counters.uplink_without_s5, samples);
        let labels = [("node", node)];
        let help = "Packets that waited for an idle UE, and went to it.";
        samples.counter("tessera_lte_waited_packets_total", help, &labels, counters.waited);
        let help = "Downlink Data Notifications: the first packet for an idle UE.";
        let notifications = counters.notifications;
        samples.counter("tessera_lte_notifications_total", help, &labels, notifications);
    }
    let pgw = &transport.network.pgw;
    let counters = &pgw.counters;
    endpoint("pgw1", "s5u", &pgw.s5u, samples);
    bearers("pgw1", pgw.sessions(), counters.sessions_lost, samples);
    dropped("pgw1", "foreign-source", counters.uplink_foreign_source, samples);
    dropped("pgw1", "not-ip", counters.not_ip, samples);
    dropped("pgw1", "unknown-address", counters.downlink_unknown_address, samples);
    for (direction, count) in [("up", counters.sgi_sent), ("down", counters.sgi_received)] {
        let labels = [("node", "pgw1"), ("direction", direction)];
        let help = "IP packets between the P-GW and the network behind it.";
        samples.counter("tessera_lte_sgi_packets_total", help, &labels, count);
    }
}

fn bearers(node: &str, bearers: usize, lost: u64, samples: &mut Samples) {
    let labels = [("node", node)];
    samples.gauge("tessera_lte_bearers", BEARERS, &labels, bearers as f64);
    samples.counter("tessera_lte_bearers_lost_total", BEARERS_LOST, &labels, lost);
}

fn dropped(node: &str, cause: &str, count: u64, samples: &mut Samples) {
    let labels = [("node", node), ("cause", cause)];
    samples.counter("tessera_lte_dropped_packets_total", DROPPED, &labels, count);
}

/// One address of a node.
fn endpoint<T>(node: &str, interface: &str, endpoint: &Endpoint<T>, samples: &mut Samples) {
    let counters = &endpoint.counters;
    for (direction, packets, octets) in [
        ("in", counters.g_pdus_received, counters.octets_received),
        ("out", counters.g_pdus_sent, counters.octets_sent),
    ] {
        let labels = [("node", node), ("interface", interface), ("direction", direction)];
        samples.counter("tessera_lte_gtpu_packets_total", GTPU_PACKETS, &labels, packets);
        samples.counter("tessera_lte_gtpu_octets_total", GTPU_OCTETS, &labels, octets);
    }
    for (message, direction, count) in [
        ("echo-request", "in", counters.echo_requests_received),
        ("echo-request", "out", counters.echo_requests_sent),
        ("echo-response", "in", counters.echo_responses_received),
        ("error-indication", "in", counters.error_indications_received),
        ("error-indication", "out", counters.error_indications_sent),
        ("end-marker", "in", counters.end_markers_received),
        ("end-marker", "out", counters.end_markers_sent),
    ] {
        let labels = [
            ("node", node),
            ("interface", interface),
            ("message", message),
            ("direction", direction),
        ];
        samples.counter("tessera_lte_gtpu_messages_total", GTPU_MESSAGES, &labels, count);
    }
    let labels = [("node", node), ("interface", interface)];
    let help = "GTP-U packets that could not be read, or had extension headers to be refused.";
    let malformed = counters.malformed + counters.extension_headers_refused;
    samples.counter("tessera_lte_gtpu_malformed_total", help, &labels, malformed);
    let help = "Paths whose peer stopped to answer Echo Requests (TS 29.281 §12).";
    samples.counter("tessera_lte_paths_failed_total", help, &labels, counters.paths_failed);
}

fn pool(transport: &Transport, samples: &mut Samples) {
    for (version, used, size) in transport.network.pgw.pool_use() {
        let labels = [("node", "pgw1"), ("version", version)];
        let help = "IPv4 addresses, or IPv6 prefixes, that UEs have.";
        samples.gauge("tessera_lte_pool_used", help, &labels, used as f64);
        let help = "IPv4 addresses, or IPv6 prefixes, that there are for UEs.";
        samples.gauge("tessera_lte_pool_size", help, &labels, size as f64);
    }
}

const HANDOVERS: &str = "UEs that went to another cell, by the way they did.";
const PAGES: &str = "Pages on the air, and UEs that answered or did not answer any of theirs.";
const UES: &str = "UEs attached, by state.";
const ATTACHES: &str = "Attaches, by result.";
const RADIO_PACKETS: &str = "Packets offered to the radio links, by what became of them.";
const BEARERS: &str = "EPS bearers at each node.";
const BEARERS_LOST: &str = "Bearers lost by Error Indications (TS 23.007 §20.3).";
const DROPPED: &str = "User packets dropped by a node, by cause.";
const GTPU_PACKETS: &str = "G-PDUs at each address of a node.";
const GTPU_OCTETS: &str = "Octets of the users' packets in them.";
const GTPU_MESSAGES: &str = "Other GTP-U messages at each address of a node.";
