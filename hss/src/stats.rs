//! Counters of the HSS.

use std::collections::BTreeMap;

use common::cx::{Maa, Mar, Outcome};
use common::diameter::endpoint::NoAnswer;
use common::stats::Samples;

use crate::refusal::Refusal;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests answered, by command and result.
    pub requests: BTreeMap<(&'static str, Label), u64>,
    /// Requests the HSS sent, by command and how they ended.
    pub pushes: BTreeMap<(&'static str, Label), u64>,
    pub vectors: u64,
    /// Requests to resynchronise that were verified, and those whose MAC-S was wrong.
    pub resynchronisations: u64,
    pub resynchronisation_failures: u64,
}

/// The label `result`: which AVP carried the code, and the code; or why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    Base(u32),
    Experimental(u32),
    None(&'static str),
}

impl From<Outcome> for Label {
    fn from(outcome: Outcome) -> Label {
        match outcome {
            Outcome::Base(code) => Label::Base(code),
            Outcome::Experimental(code) => Label::Experimental(code),
        }
    }
}

impl From<Result<Outcome, NoAnswer>> for Label {
    fn from(result: Result<Outcome, NoAnswer>) -> Label {
        match result {
            Ok(outcome) => outcome.into(),
            Err(NoAnswer::NoPeer) => Label::None("no_peer"),
            Err(NoAnswer::Timeout) => Label::None("timeout"),
            Err(NoAnswer::Overloaded) => Label::None("overloaded"),
            Err(NoAnswer::Malformed) => Label::None("malformed"),
        }
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Label::Base(code) => write!(f, "{code}"),
            Label::Experimental(code) => write!(f, "experimental_{code}"),
            Label::None(reason) => f.write_str(reason),
        }
    }
}

impl Stats {
    pub fn count_authentication(&mut self, mar: &Mar, maa: &Maa, refusal: Option<&Refusal>) {
        self.vectors += maa.items.len() as u64;
        if mar.sip_authorization.is_some() {
            match refusal {
                None => self.resynchronisations += 1,
                Some(Refusal::WrongMacS) => self.resynchronisation_failures += 1,
                Some(_) => {}
            }
        }
    }

    pub fn samples(&self, samples: &mut Samples) {
        for ((command, result), count) in &self.requests {
            samples.counter(
                "tessera_hss_requests_total",
                "Cx requests answered, by command and result.",
                &[("command", command), ("result", &result.to_string())],
                *count,
            );
        }
        for ((command, result), count) in &self.pushes {
            samples.counter(
                "tessera_hss_pushes_total",
                "Cx requests sent by the HSS, by command and result.",
                &[("command", command), ("result", &result.to_string())],
                *count,
            );
        }
        samples.counter(
            "tessera_hss_vectors_total",
            "Authentication vectors given out.",
            &[],
            self.vectors,
        );
        for (result, count) in [
            ("accepted", self.resynchronisations),
            ("wrong_mac_s", self.resynchronisation_failures),
        ] {
            samples.counter(
                "tessera_hss_resynchronisations_total",
                "Sequence number resynchronisations asked for, by result.",
                &[("result", result)],
                count,
            );
        }
    }
}
