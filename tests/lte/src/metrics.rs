//! What `/metrics` says of the transport; names and labels are in `README.md` of this crate.

use common::stats::Samples;

use crate::attach::Refusal;
use crate::endpoint::Endpoint;
use crate::transport::{Crossings, Transport};

/// Adds everything that the transport counts.
pub fn samples(transport: &Transport, samples: &mut Samples) {
    ues(transport, samples);
    radio(transport, samples);
    nodes(transport, samples);
    pool(transport, samples);
}

fn ues(transport: &Transport, samples: &mut Samples) {
    let counters = &transport.counters;
    let attached = transport.ues() as f64;
    samples.gauge("tessera_lte_ues", UES, &[("state", "connected")], attached);
    let attaches = "tessera_lte_attaches_total";
    samples.counter(attaches, ATTACHES, &[("result", "accepted")], counters.attached);
    for refusal in Refusal::ALL {
        let refused = counters.attach_refused.get(&refusal).copied().unwrap_or(0);
        samples.counter(attaches, ATTACHES, &[("result", refusal.label())], refused);
    }
    let help = "UEs that detached, were released, or lost their program.";
    samples.counter("tessera_lte_detaches_total", help, &[], counters.detached);
}

fn radio(transport: &Transport, samples: &mut Samples) {
    let counters = &transport.counters;
    for (direction, crossings) in [("up", &counters.uplink), ("down", &counters.downlink)] {
        let Crossings { delivered, lost, too_long, queue_full, in_flight_full } = crossings;
        for (outcome, count) in [
            ("delivered", delivered),
            ("lost", lost),
            ("too-long", too_long),
            ("queue-full", queue_full),
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
    let network = &transport.network;
    let (enodeb, sgw, pgw) = (&network.enodeb, &network.sgw, &network.pgw);
    for (node, bearers) in
        [("enb1", enodeb.bearers()), ("sgw1", sgw.bearers()), ("pgw1", pgw.sessions())]
    {
        samples.gauge("tessera_lte_bearers", BEARERS, &[("node", node)], bearers as f64);
    }
    endpoint("enb1", "s1u", &enodeb.s1u, samples);
    endpoint("sgw1", "s1u", &sgw.s1u, samples);
    endpoint("sgw1", "s5u", &sgw.s5u, samples);
    endpoint("pgw1", "s5u", &pgw.s5u, samples);
    for (node, cause, count) in [
        ("enb1", "no-bearer", enodeb.counters.uplink_without_bearer),
        ("sgw1", "no-s1", sgw.counters.downlink_without_s1),
        ("sgw1", "no-s5", sgw.counters.uplink_without_s5),
        ("pgw1", "foreign-source", pgw.counters.uplink_foreign_source),
        ("pgw1", "not-ip", pgw.counters.not_ip),
        ("pgw1", "unknown-address", pgw.counters.downlink_unknown_address),
    ] {
        let labels = [("node", node), ("cause", cause)];
        samples.counter("tessera_lte_dropped_packets_total", DROPPED, &labels, count);
    }
    for (node, lost) in [
        ("enb1", enodeb.counters.bearers_lost),
        ("sgw1", sgw.counters.bearers_lost),
        ("pgw1", pgw.counters.sessions_lost),
    ] {
        samples.counter("tessera_lte_bearers_lost_total", BEARERS_LOST, &[("node", node)], lost);
    }
    for (direction, count) in [("up", pgw.counters.sgi_sent), ("down", pgw.counters.sgi_received)] {
        let labels = [("node", "pgw1"), ("direction", direction)];
        let help = "IP packets between the P-GW and the network behind it.";
        samples.counter("tessera_lte_sgi_packets_total", help, &labels, count);
    }
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

const UES: &str = "UEs attached, by state.";
const ATTACHES: &str = "Attaches, by result.";
const RADIO_PACKETS: &str = "Packets offered to the radio links, by what became of them.";
const BEARERS: &str = "EPS bearers at each node.";
const BEARERS_LOST: &str = "Bearers lost by Error Indications (TS 23.007 §20.3).";
const DROPPED: &str = "User packets dropped by a node, by cause.";
const GTPU_PACKETS: &str = "G-PDUs at each address of a node.";
const GTPU_OCTETS: &str = "Octets of the users' packets in them.";
const GTPU_MESSAGES: &str = "Other GTP-U messages at each address of a node.";
