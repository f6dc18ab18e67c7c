//! Counters of the endpoint.

use std::collections::BTreeMap;

use crate::stats::Samples;

/// Plain counters; labels are command codes.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub requests_sent: BTreeMap<u32, u64>,
    pub requests_received: BTreeMap<u32, u64>,
    pub answers_sent: BTreeMap<u32, u64>,
    pub answers_received: BTreeMap<u32, u64>,
    pub refusals: BTreeMap<u32, u64>,
    pub no_answers: BTreeMap<&'static str, u64>,
    pub failovers: u64,
    pub redirects: u64,
    pub late_answers: u64,
    pub duplicates: u64,
    pub undecodable: u64,
    pub too_long: u64,
    pub watchdogs_sent: u64,
    pub watchdogs_received: u64,
    pub suspects: u64,
    pub connects: u64,
    pub connections_refused: BTreeMap<&'static str, u64>,
}

impl Stats {
    pub fn samples(&self, samples: &mut Samples) {
        let help = "Requests by direction and command.";
        for (direction, counts) in
            [("sent", &self.requests_sent), ("received", &self.requests_received)]
        {
            for (command, value) in counts {
                let labels = [("direction", direction), ("command", &command.to_string()[..])];
                samples.counter("tessera_diameter_requests_total", help, &labels, *value);
            }
        }
        let help = "Answers by direction and command.";
        for (direction, counts) in
            [("sent", &self.answers_sent), ("received", &self.answers_received)]
        {
            for (command, value) in counts {
                let labels = [("direction", direction), ("command", &command.to_string()[..])];
                samples.counter("tessera_diameter_answers_total", help, &labels, *value);
            }
        }
        let help = "Requests refused by the base protocol or as malformed, by Result-Code.";
        for (code, value) in &self.refusals {
            let labels = [("result", &code.to_string()[..])];
            samples.counter("tessera_diameter_refusals_total", help, &labels, *value);
        }
        let help = "Requests that ended without an answer, by reason.";
        for (reason, value) in &self.no_answers {
            let labels = [("reason", *reason)];
            samples.counter("tessera_diameter_no_answers_total", help, &labels, *value);
        }
        let help = "Connections refused, by reason.";
        for (reason, value) in &self.connections_refused {
            let labels = [("reason", *reason)];
            samples.counter("tessera_diameter_connections_refused_total", help, &labels, *value);
        }
        let timeouts = self.no_answers.get("timeout").copied().unwrap_or_default();
        for (name, help, value) in [
            ("tessera_diameter_timeouts_total", "Requests that timed out.", timeouts),
            ("tessera_diameter_failovers_total", "Requests moved to another peer.", self.failovers),
            ("tessera_diameter_redirects_total", "Answers that were redirects.", self.redirects),
            (
                "tessera_diameter_late_answers_total",
                "Answers nobody waited for.",
                self.late_answers,
            ),
            ("tessera_diameter_duplicates_total", "Repeated requests found.", self.duplicates),
            ("tessera_diameter_undecodable_total", "Messages not decodable.", self.undecodable),
            (
                "tessera_diameter_too_long_total",
                "Messages of ours longer than limits.diameter_message_bytes, not sent.",
                self.too_long,
            ),
            ("tessera_diameter_watchdogs_sent_total", "DWRs sent.", self.watchdogs_sent),
            (
                "tessera_diameter_watchdogs_received_total",
                "DWAs received.",
                self.watchdogs_received,
            ),
            ("tessera_diameter_suspects_total", "Peers gone silent.", self.suspects),
            ("tessera_diameter_connects_total", "Connections asked for.", self.connects),
        ] {
            samples.counter(name, help, &[], value);
        }
    }
}

pub(super) fn count<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K) {
    *counts.entry(key).or_default() += 1;
}
