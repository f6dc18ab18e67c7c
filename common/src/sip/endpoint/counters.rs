//! What an endpoint counts: plain integers, and the samples that a scrape makes of them.

use std::collections::BTreeMap;

use crate::sip::message::Method;
use crate::sip::proxy::method_label;
use crate::stats::Samples;

const METHODS: [Method; 15] = [
    Method::Register,
    Method::Invite,
    Method::Ack,
    Method::Bye,
    Method::Cancel,
    Method::Options,
    Method::Prack,
    Method::Update,
    Method::Subscribe,
    Method::Notify,
    Method::Publish,
    Method::Message,
    Method::Info,
    Method::Refer,
    Method::Other,
];

const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "6xx"];

/// Requests by method.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ByMethod([u64; METHODS.len()]);

/// Responses by method and class of status.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ByStatus([[u64; CLASSES.len()]; METHODS.len()]);

fn place(method: Method) -> usize {
    METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1)
}

impl ByMethod {
    pub fn count(&mut self, method: Method) {
        self.0[place(method)] += 1;
    }
}

impl ByStatus {
    pub fn count(&mut self, method: Method, status: u16) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len());
        self.0[place(method)][class - 1] += 1;
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub requests_received: ByMethod,
    pub requests_sent: ByMethod,
    pub responses_received: ByStatus,
    pub responses_sent: ByStatus,
    pub requests_repeated_to_us: u64,
    pub requests_repeated_by_us: u64,
    pub responses_repeated_to_us: u64,
    pub responses_repeated_by_us: u64,
    /// By what was expected: a set of words in our own code, so it cannot grow without limit.
    pub malformed: BTreeMap<&'static str, u64>,
    /// Messages that went nowhere, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Requests answered before a core saw them, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Over UDP.
    pub keep_alives: u64,
    pub timeouts: u64,
    pub unreachable: u64,
    pub without_ack: u64,
    pub tcp_for_length: u64,
    pub back_to_udp: u64,
    pub second_connections: u64,
    pub evicted: u64,
}

/// What is open at this moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub servers: usize,
    pub clients: usize,
    pub lingering: usize,
    pub dropped_unanswered: u64,
}

impl Counters {
    pub fn malformed(&mut self, expected: &'static str) {
        *self.malformed.entry(expected).or_default() += 1;
    }

    pub fn dropped(&mut self, reason: &'static str) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    pub fn refused(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }

    pub fn samples(&self, open: Open, samples: &mut Samples) {
        self.messages(samples);
        self.troubles(open, samples);
        let help = "SIP transactions that are not ended.";
        for (kind, count) in
            [("server", open.servers), ("client", open.clients), ("lingering", open.lingering)]
        {
            let labels = [("kind", kind)];
            samples.gauge("tessera_sip_transactions_open", help, &labels, count as f64);
        }
    }

    fn messages(&self, samples: &mut Samples) {
        for (name, help, counts) in [
            (
                "tessera_sip_requests_received_total",
                "SIP requests received, without repetitions.",
                &self.requests_received,
            ),
            (
                "tessera_sip_requests_sent_total",
                "SIP requests sent, without repetitions.",
                &self.requests_sent,
            ),
        ] {
            for (method, count) in METHODS.iter().zip(counts.0).filter(|(_, count)| *count > 0) {
                samples.counter(name, help, &[("method", method_label(*method))], count);
            }
        }
        for (name, help, counts) in [
            (
                "tessera_sip_responses_received_total",
                "SIP responses received, without repetitions.",
                &self.responses_received,
            ),
            (
                "tessera_sip_responses_sent_total",
                "SIP responses sent, without repetitions.",
                &self.responses_sent,
            ),
        ] {
            for (method, classes) in METHODS.iter().zip(counts.0) {
                for (class, count) in CLASSES.iter().zip(classes).filter(|(_, count)| *count > 0) {
                    let labels = [("method", method_label(*method)), ("class", *class)];
                    samples.counter(name, help, &labels, count);
                }
            }
        }
        let name = "tessera_sip_retransmissions_total";
        for (message, direction, count) in [
            ("request", "received", self.requests_repeated_to_us),
            ("request", "sent", self.requests_repeated_by_us),
            ("response", "received", self.responses_repeated_to_us),
            ("response", "sent", self.responses_repeated_by_us),
        ] {
            let labels = [("message", message), ("direction", direction)];
            samples.counter(name, "SIP messages repeated.", &labels, count);
        }
    }

    fn troubles(&self, open: Open, samples: &mut Samples) {
        for (name, help, label, counts) in [
            (
                "tessera_sip_malformed_total",
                "SIP messages that could not be read, by what was expected.",
                "expected",
                &self.malformed,
            ),
            (
                "tessera_sip_dropped_total",
                "SIP messages that went nowhere.",
                "reason",
                &self.dropped,
            ),
            (
                "tessera_sip_refused_total",
                "SIP requests answered by the transaction layer itself.",
                "reason",
                &self.refused,
            ),
        ] {
            for (reason, count) in counts {
                samples.counter(name, help, &[(label, *reason)], *count);
            }
        }
        for (name, help, count) in [
            (
                "tessera_sip_keep_alives_total",
                "Keep-alives received over UDP: STUN Binding requests and line ends.",
                self.keep_alives,
            ),
            (
                "tessera_sip_timeouts_total",
                "SIP requests that nobody answered in time.",
                self.timeouts,
            ),
            (
                "tessera_sip_unreachable_total",
                "SIP requests whose target could not be reached.",
                self.unreachable,
            ),
            (
                "tessera_sip_missing_acks_total",
                "Final responses to INVITE that no ACK followed.",
                self.without_ack,
            ),
            (
                "tessera_sip_tcp_for_length_total",
                "SIP requests too long for UDP that went by TCP.",
                self.tcp_for_length,
            ),
            (
                "tessera_sip_back_to_udp_total",
                "SIP requests too long for UDP that went by UDP, as TCP was refused.",
                self.back_to_udp,
            ),
            (
                "tessera_sip_second_connections_total",
                "SIP responses sent over a new connection, as the one of the request was gone.",
                self.second_connections,
            ),
            (
                "tessera_sip_evicted_total",
                "Ended SIP transactions forgotten early to keep within the limit.",
                self.evicted,
            ),
            (
                "tessera_sip_unanswered_total",
                "SIP requests dropped without an answer: a bug.",
                open.dropped_unanswered,
            ),
        ] {
            samples.counter(name, help, &[], count);
        }
    }
}
