//! Counters of the application.

use std::collections::BTreeMap;

use crate::cx::{Outcome, command};
use crate::stats::{Histogram, Samples};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Direction {
    Sent,
    Received,
}

/// Different results counted apart, per direction and command. What comes from others must not
/// make labels without end.
const RESULTS_COUNTED: usize = 256;

/// Plain counters; labels are command codes and results.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub requests: BTreeMap<u32, u64>,
    answers: BTreeMap<(Direction, u32, Outcome), u64>,
    answers_beyond: u64,
    pub malformed_requests: BTreeMap<u32, u64>,
    pub malformed_answers: BTreeMap<u32, u64>,
    pub took: BTreeMap<u32, Histogram>,
}

impl Stats {
    pub fn count(&mut self, direction: Direction, command: u32, outcome: Outcome) {
        let key = (direction, command, outcome);
        if self.answers.len() >= RESULTS_COUNTED && !self.answers.contains_key(&key) {
            self.answers_beyond += 1;
        } else {
            count(&mut self.answers, key);
        }
    }

    pub fn samples(&self, samples: &mut Samples) {
        let help = "Requests received, by command.";
        for (code, value) in &self.requests {
            let labels = [("command", command::name(*code))];
            samples.counter("tessera_cx_requests_received_total", help, &labels, *value);
        }
        let help = "Answers by direction, command and result.";
        for ((direction, code, outcome), value) in &self.answers {
            let direction = match direction {
                Direction::Sent => "sent",
                Direction::Received => "received",
            };
            let result = outcome.label();
            let labels =
                [("direction", direction), ("command", command::name(*code)), ("result", &result)];
            samples.counter("tessera_cx_answers_total", help, &labels, *value);
        }
        let help = "Answers whose results are too many to count apart.";
        samples.counter("tessera_cx_answers_beyond_total", help, &[], self.answers_beyond);
        let help = "Messages that could not be used, by kind and command.";
        for (kind, counts) in
            [("request", &self.malformed_requests), ("answer", &self.malformed_answers)]
        {
            for (code, value) in counts {
                let labels = [("kind", kind), ("command", command::name(*code))];
                samples.counter("tessera_cx_malformed_total", help, &labels, *value);
            }
        }
        let help = "From a request sent to its answer, failover included.";
        for (code, histogram) in &self.took {
            let labels = [("command", command::name(*code))];
            samples.histogram("tessera_cx_answer_seconds", help, &labels, histogram);
        }
    }
}

pub(super) fn count<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K) {
    *counts.entry(key).or_default() += 1;
}
