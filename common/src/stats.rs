//! Counters as plain integers in the cores, and the list of samples that a scrape makes of them.

use std::time::Duration;

/// One value of one metric at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: &'static str,
    pub help: &'static str,
    pub labels: Vec<(&'static str, String)>,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(Histogram),
}

/// What a core fills in when `/metrics` is read. Names are `tessera_<part>_<what>[_total|_seconds]`.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<Sample>);

type Labels<'a> = &'a [(&'static str, &'a str)];

impl Samples {
    pub fn counter(&mut self, name: &'static str, help: &'static str, labels: Labels, value: u64) {
        self.push(name, help, labels, Value::Counter(value));
    }

    pub fn gauge(&mut self, name: &'static str, help: &'static str, labels: Labels, value: f64) {
        self.push(name, help, labels, Value::Gauge(value));
    }

    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Labels,
        value: &Histogram,
    ) {
        self.push(name, help, labels, Value::Histogram(value.clone()));
    }

    fn push(&mut self, name: &'static str, help: &'static str, labels: Labels, value: Value) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.0.push(Sample { name, help, labels, value });
    }
}

/// Upper bounds in seconds of the buckets of every duration in the project.
pub const DURATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0];

/// How long something took, counted into [`DURATION_BUCKETS`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Not cumulative; the last one is beyond the largest bound.
    pub counts: [u64; DURATION_BUCKETS.len() + 1],
    pub sum_seconds: f64,
}

impl Histogram {
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = DURATION_BUCKETS.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum_seconds += seconds;
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}
