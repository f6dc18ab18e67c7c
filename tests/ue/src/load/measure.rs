//! What is counted: attempts by stage, operation and cause, latencies from the intended start, and
//! one line for each second of the run.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::metrics::Metrics;
use crate::load::model::Operation;

/// What part of an attempt took how long. Each begins where the attempt was meant to begin, but
/// for [`Step::Associations`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// To the first 401.
    Challenge,
    /// From the 401 to the answer to the first protected REGISTER, which shows that the
    /// associations work both ways.
    Associations,
    /// To the end that was wanted.
    Complete,
}

impl Step {
    pub const ALL: [Step; 3] = [Step::Challenge, Step::Associations, Step::Complete];

    pub fn name(self) -> &'static str {
        match self {
            Step::Challenge => "challenge",
            Step::Associations => "associations",
            Step::Complete => "complete",
        }
    }
}

/// How one attempt ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    pub stage: usize,
    pub operation: Operation,
    pub is_success: bool,
    /// `ok`, or why not: a status, `timeout`, ...
    pub cause: String,
    pub steps: [Option<Duration>; 3],
    /// A challenge was answered.
    pub is_challenged: bool,
}

/// Of one stage.
#[derive(Debug, Default)]
pub struct StageTally {
    pub offered: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// Succeeded, but later than is adequate.
    pub slow: u64,
    /// Arrivals that found no UE in the state that they need.
    pub unplaced: u64,
    pub causes: BTreeMap<(Operation, String), u64>,
    pub offers: BTreeMap<Operation, u64>,
    pub challenged: BTreeMap<Operation, u64>,
    pub latency: BTreeMap<(Operation, Step), Histogram<u64>>,
}

impl StageTally {
    pub fn merge(&mut self, other: &StageTally) {
        self.offered += other.offered;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.slow += other.slow;
        self.unplaced += other.unplaced;
        for (key, count) in &other.causes {
            *self.causes.entry(key.clone()).or_default() += count;
        }
        for (key, count) in &other.offers {
            *self.offers.entry(*key).or_default() += count;
        }
        for (key, count) in &other.challenged {
            *self.challenged.entry(*key).or_default() += count;
        }
        for (key, histogram) in &other.latency {
            // Both have the same bounds.
            let _ = self.latency.entry(*key).or_insert_with(histogram_of_run).add(histogram);
        }
    }

    /// Of all operations together.
    pub fn all(&self, step: Step) -> Histogram<u64> {
        let mut all = histogram_of_run();
        for ((_, of), histogram) in &self.latency {
            if *of == step {
                let _ = all.add(histogram);
            }
        }
        all
    }

    /// Failed, too slow, or never ended: what ETSI TS 186 008-1 calls inadequately handled.
    pub fn inadequate(&self) -> u64 {
        self.offered.saturating_sub(self.succeeded) + self.slow
    }
}

/// One second of the run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Second {
    /// Since the start of the run.
    pub at: f64,
    pub offered: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// At its end.
    pub in_flight: u64,
    pub registered: u64,
    /// Milliseconds, of what succeeded in this second.
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
    /// Longest time by which an arrival was late, in milliseconds.
    pub late: f64,
    /// Share of one CPU that the generator used.
    pub cpu: f64,
    /// Of each scraped server, the same; by its place in the list.
    pub servers: Vec<Option<f64>>,
    pub causes: BTreeMap<String, u64>,
}

/// Seconds that are kept one by one: more than a day. A standing run has no end.
const SECONDS: usize = 100_000;

/// All of it.
#[derive(Debug)]
pub struct Tally {
    pub stages: Vec<StageTally>,
    pub seconds: Vec<Second>,
    pub in_flight: u64,
    /// What is adequate.
    slow_after: Duration,
    second: Second,
    second_latency: Histogram<u64>,
    pub metrics: Metrics,
}

/// Microseconds to beyond 64·T1 and the longest radio loss, three digits.
pub fn histogram_of_run() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

pub fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

impl Tally {
    pub fn new(stages: usize, slow_after: Duration, metrics: Metrics) -> Tally {
        Tally {
            stages: (0..stages).map(|_| StageTally::default()).collect(),
            seconds: Vec::new(),
            in_flight: 0,
            slow_after,
            second: Second::default(),
            second_latency: Histogram::new_with_bounds(1, 600_000_000, 2).expect("bounds"),
            metrics,
        }
    }

    pub fn offered(&mut self, stage: usize, operation: Operation) {
        let tally = &mut self.stages[stage];
        tally.offered += 1;
        *tally.offers.entry(operation).or_default() += 1;
        self.second.offered += 1;
        self.in_flight += 1;
        self.metrics.offered(operation);
        self.metrics.in_flight.set(self.in_flight as f64);
    }

    /// Nobody could make the attempt.
    pub fn unplaced(&mut self, stage: usize, operation: Operation) {
        self.stages[stage].unplaced += 1;
        self.metrics.unplaced(operation);
    }

    /// An arrival was begun so much later than meant.
    pub fn late(&mut self, late: Duration) {
        self.second.late = self.second.late.max(late.as_secs_f64() * 1e3);
        self.metrics.lateness.observe(late.as_secs_f64());
    }

    pub fn ended(&mut self, ended: &Ended) {
        let tally = &mut self.stages[ended.stage];
        let key = (ended.operation, ended.cause.clone());
        *tally.causes.entry(key).or_default() += 1;
        *self.second.causes.entry(ended.cause.clone()).or_default() += 1;
        if ended.is_challenged {
            *tally.challenged.entry(ended.operation).or_default() += 1;
        }
        for (step, taken) in Step::ALL.into_iter().zip(ended.steps) {
            let Some(taken) = taken else { continue };
            tally
                .latency
                .entry((ended.operation, step))
                .or_insert_with(histogram_of_run)
                .saturating_record(micros(taken));
        }
        if ended.is_success {
            tally.succeeded += 1;
            self.second.succeeded += 1;
            if let Some(taken) = ended.steps[2] {
                tally.slow += u64::from(taken > self.slow_after);
                self.second_latency.saturating_record(micros(taken));
            }
        } else {
            tally.failed += 1;
            self.second.failed += 1;
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.metrics.ended(ended);
        self.metrics.in_flight.set(self.in_flight as f64);
    }

    /// Closes the second that began at `at`.
    pub fn close_second(&mut self, at: f64, registered: u64, cpu: f64, servers: Vec<Option<f64>>) {
        let mut second = std::mem::take(&mut self.second);
        second.at = at;
        second.in_flight = self.in_flight;
        second.registered = registered;
        second.cpu = cpu;
        second.servers = servers;
        if !self.second_latency.is_empty() {
            let quantile = |quantile| Some(millis(self.second_latency.value_at_quantile(quantile)));
            second.p50 = quantile(0.5);
            second.p95 = quantile(0.95);
            second.p99 = quantile(0.99);
            second.max = Some(millis(self.second_latency.max()));
            self.second_latency.reset();
        }
        self.metrics.registered.set(registered as f64);
        if self.seconds.len() >= SECONDS {
            // The last half is what a plot of such a run is about.
            self.seconds.drain(..SECONDS / 2);
        }
        self.seconds.push(second);
    }

    /// The whole run.
    pub fn total(&self) -> StageTally {
        let mut total = StageTally::default();
        for stage in &self.stages {
            total.merge(stage);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(stage: usize, cause: &str, taken: u64) -> Ended {
        Ended {
            stage,
            operation: Operation::Register,
            is_success: cause == "ok",
            cause: cause.to_owned(),
            steps: [None, None, (cause == "ok").then(|| Duration::from_millis(taken))],
            is_challenged: true,
        }
    }

    /// An attempt counts where it began, and what never ended is inadequate as well.
    #[test]
    fn stages_add_up() {
        let mut tally = Tally::new(2, Duration::from_secs(1), Metrics::new());
        for stage in [0, 0, 0, 1, 1] {
            tally.offered(stage, Operation::Register);
        }
        tally.ended(&ended(0, "ok", 10));
        tally.ended(&ended(0, "ok", 2_000));
        tally.ended(&ended(1, "403", 0));
        tally.close_second(0.0, 2, 0.1, Vec::new());
        assert_eq!(tally.in_flight, 2);
        assert_eq!((tally.stages[0].inadequate(), tally.stages[1].inadequate()), (2, 2));
        let total = tally.total();
        assert_eq!((total.offered, total.succeeded, total.failed, total.slow), (5, 2, 1, 1));
        assert_eq!(total.causes[&(Operation::Register, "403".to_owned())], 1);
        assert_eq!(total.challenged[&Operation::Register], 3);
        assert_eq!(total.all(Step::Complete).len(), 2);
        let second = &tally.seconds[0];
        assert_eq!((second.offered, second.succeeded, second.failed), (5, 2, 1));
        assert!(second.max.unwrap() >= 1_990.0, "{second:?}");
    }
}
