//! Counters of the S-CSCF.

use std::collections::BTreeMap;
use std::time::Duration;

use common::stats::{Histogram, Samples};

#[derive(Debug, Default)]
pub struct Stats {
    /// Answered REGISTERs by outcome: what became of it, or the refusal; and lapsed challenges.
    pub registrations: BTreeMap<&'static str, u64>,
    pub registration_seconds: Histogram,
    /// Registrations that ended otherwise than by the user, by cause.
    pub deregistrations: BTreeMap<&'static str, u64>,
    /// SUBSCRIBEs and subscriptions, by what became of them.
    pub subscriptions: BTreeMap<&'static str, u64>,
    /// NOTIFYs, by what became of them.
    pub notifications: BTreeMap<&'static str, u64>,
    /// REGISTERs to application servers, by what became of them.
    pub third_parties: BTreeMap<&'static str, u64>,
    /// Requests other than REGISTER, by status.
    pub others: BTreeMap<u16, u64>,
    /// PPRs taken and refused.
    pub pushed_taken: u64,
    pub pushed_refused: u64,
    /// AUTS passed to the HSS.
    pub resynchronisations: u64,
    /// Users registered elsewhere that came here, by what the HSS had of them.
    pub restorations: BTreeMap<&'static str, u64>,
    /// Ends of authentications and registrations that the HSS did not take.
    pub untold: u64,
    /// Stored registrations that could not be read back.
    pub unreadable_records: u64,
    /// Requests refused because the process is about to end.
    pub draining: u64,
}

impl Stats {
    pub fn registration(&mut self, outcome: &'static str, took: Duration) {
        *self.registrations.entry(outcome).or_default() += 1;
        if !outcome.starts_with("challenge_") {
            self.registration_seconds.observe(took);
        }
    }

    pub fn deregistration(&mut self, cause: &'static str) {
        *self.deregistrations.entry(cause).or_default() += 1;
    }

    pub fn restoration(&mut self, outcome: &'static str) {
        *self.restorations.entry(outcome).or_default() += 1;
    }

    pub fn subscription(&mut self, outcome: &'static str) {
        *self.subscriptions.entry(outcome).or_default() += 1;
    }

    pub fn third_party(&mut self, outcome: &'static str) {
        *self.third_parties.entry(outcome).or_default() += 1;
    }

    pub fn notification(&mut self, outcome: &'static str) {
        *self.notifications.entry(outcome).or_default() += 1;
    }

    pub fn other(&mut self, status: u16) {
        *self.others.entry(status).or_default() += 1;
    }

    pub fn pushed(&mut self, is_taken: bool) {
        match is_taken {
            true => self.pushed_taken += 1,
            false => self.pushed_refused += 1,
        }
    }

    pub fn samples(&self, samples: &mut Samples) {
        for (outcome, count) in &self.registrations {
            samples.counter(
                "tessera_scscf_registers_total",
                "Answered REGISTERs by outcome, and challenges that lapsed",
                &[("outcome", outcome)],
                *count,
            );
        }
        samples.histogram(
            "tessera_scscf_register_seconds",
            "From a REGISTER to its answer",
            &[],
            &self.registration_seconds,
        );
        for (cause, count) in &self.deregistrations {
            samples.counter(
                "tessera_scscf_deregistrations_total",
                "Registrations that ended otherwise than by the user",
                &[("cause", cause)],
                *count,
            );
        }
        for (outcome, count) in &self.restorations {
            samples.counter(
                "tessera_scscf_restorations_total",
                "Users of another S-CSCF that came here inside security associations",
                &[("outcome", outcome)],
                *count,
            );
        }
        for (name, help, counts) in [
            (
                "tessera_scscf_subscription_events_total",
                "SUBSCRIBEs for registration state, and subscriptions, by what became of them",
                &self.subscriptions,
            ),
            (
                "tessera_scscf_notifications_total",
                "NOTIFYs of registration state by what became of them",
                &self.notifications,
            ),
            (
                "tessera_scscf_third_party_registers_total",
                "REGISTERs to application servers by what became of them",
                &self.third_parties,
            ),
        ] {
            for (outcome, count) in counts {
                samples.counter(name, help, &[("outcome", outcome)], *count);
            }
        }
        for (status, count) in &self.others {
            samples.counter(
                "tessera_scscf_other_requests_total",
                "Requests other than REGISTER by status of the answer",
                &[("status", &status.to_string())],
                *count,
            );
        }
        let pushed = "Profiles pushed by the HSS";
        let name = "tessera_scscf_profile_pushes_total";
        samples.counter(name, pushed, &[("outcome", "taken")], self.pushed_taken);
        samples.counter(name, pushed, &[("outcome", "refused")], self.pushed_refused);
        for (name, help, value) in [
            (
                "tessera_scscf_resynchronisations_total",
                "Sequence numbers of UEs passed to the HSS",
                self.resynchronisations,
            ),
            (
                "tessera_scscf_untold_total",
                "Ends of authentications and registrations that the HSS did not take",
                self.untold,
            ),
            (
                "tessera_scscf_unreadable_records_total",
                "Stored registrations that could not be read back",
                self.unreadable_records,
            ),
            (
                "tessera_scscf_draining_refusals_total",
                "Requests refused because the process is about to end",
                self.draining,
            ),
        ] {
            samples.counter(name, help, &[], value);
        }
    }
}
