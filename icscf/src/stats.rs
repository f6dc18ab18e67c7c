//! Counters of the I-CSCF.

use std::collections::BTreeMap;
use std::time::Duration;

use common::stats::{Histogram, Samples};

#[derive(Debug, Default)]
pub struct Stats {
    /// Finished registrations by outcome: the status class of a relayed answer, or the refusal.
    pub registrations: BTreeMap<&'static str, u64>,
    /// Finished other initial requests by outcome.
    pub sessions: BTreeMap<&'static str, u64>,
    pub registration_seconds: Histogram,
    pub session_seconds: Histogram,
    /// Requests for which a second or later S-CSCF was chosen.
    pub reselections: u64,
    /// S-CSCFs, or one of their addresses, that gave no answer.
    pub silent_servers: u64,
    /// Requests refused because the process is about to end.
    pub draining: u64,
}

impl Stats {
    pub fn registration(&mut self, outcome: &'static str, took: Duration) {
        *self.registrations.entry(outcome).or_default() += 1;
        self.registration_seconds.observe(took);
    }

    pub fn session(&mut self, outcome: &'static str, took: Duration) {
        *self.sessions.entry(outcome).or_default() += 1;
        self.session_seconds.observe(took);
    }

    pub fn samples(&self, samples: &mut Samples) {
        for (outcome, count) in &self.registrations {
            samples.counter(
                "tessera_icscf_registrations_total",
                "Finished registrations by outcome",
                &[("outcome", outcome)],
                *count,
            );
        }
        for (outcome, count) in &self.sessions {
            samples.counter(
                "tessera_icscf_sessions_total",
                "Finished initial requests other than REGISTER by outcome",
                &[("outcome", outcome)],
                *count,
            );
        }
        samples.histogram(
            "tessera_icscf_registration_seconds",
            "From a REGISTER to its final answer",
            &[],
            &self.registration_seconds,
        );
        samples.histogram(
            "tessera_icscf_session_seconds",
            "From an initial request to its final answer",
            &[],
            &self.session_seconds,
        );
        samples.counter(
            "tessera_icscf_reselections_total",
            "Requests for which another S-CSCF was chosen",
            &[],
            self.reselections,
        );
        samples.counter(
            "tessera_icscf_silent_servers_total",
            "Addresses of S-CSCFs that gave no answer",
            &[],
            self.silent_servers,
        );
        samples.counter(
            "tessera_icscf_draining_refusals_total",
            "Requests refused because the process is about to end",
            &[],
            self.draining,
        );
    }
}

/// The label of an answer that was passed back.
pub fn status_class(status: u16) -> &'static str {
    match status {
        200..=299 => "2xx",
        300..=399 => "3xx",
        401 => "challenged",
        400..=499 => "4xx",
        500..=599 => "5xx",
        _ => "6xx",
    }
}
