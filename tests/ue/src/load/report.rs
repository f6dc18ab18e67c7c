//! What a run came to: one value from which all renderings are made (text here, JSON by serde, CSV,
//! and HTML in `html.rs`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::measure::{Second, StageTally, Step, Tally, millis};
use crate::load::model::{Operation, Stage};
use crate::load::require::Judged;
use crate::load::scrape::ServerReport;
use crate::load::watch::Verdict;

/// Milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    /// Quantile and milliseconds, for a plot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<(f64, f64)>,
}

/// Of one kind of attempt, or all.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    pub offered: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub challenged: u64,
    pub causes: BTreeMap<String, u64>,
    pub latency: BTreeMap<&'static str, Latency>,
}

#[derive(Clone, Debug, Serialize)]
pub struct StageReport {
    #[serde(flatten)]
    pub stage: Stage,
    pub offered: u64,
    pub succeeded: u64,
    pub failed: u64,
    /// Succeeded later than is adequate.
    pub slow: u64,
    pub unplaced: u64,
    /// Failed, slow or never ended (ETSI TS 186 008-1).
    pub inadequate_share: f64,
    pub offered_per_second: f64,
    pub latency: Option<Latency>,
    pub causes: BTreeMap<String, u64>,
}

/// Under which conditions it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Conditions {
    pub version: &'static str,
    /// Seconds since the Unix epoch.
    pub started_at: u64,
    pub command: String,
    pub seed: u64,
    pub ues: usize,
    pub access: String,
    pub pcscf: String,
    pub transport: &'static str,
    pub ipsec: bool,
    pub slow_after_milliseconds: f64,
    pub cpus: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub conditions: Conditions,
    /// Of load, without the wait for what was under way at its end.
    pub seconds: f64,
    pub is_interrupted: bool,
    pub registered_at_end: u64,
    pub all: Part,
    pub operations: BTreeMap<&'static str, Part>,
    pub stages: Vec<StageReport>,
    pub servers: Vec<ServerReport>,
    pub generator: Verdict,
    pub required: Vec<Judged>,
    pub series: Vec<Second>,
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>, has_curve: bool) -> Option<Latency> {
        if histogram.is_empty() {
            return None;
        }
        let quantile = |quantile| millis(histogram.value_at_quantile(quantile));
        let mut curve = Vec::new();
        if has_curve {
            // Evenly in the number of nines.
            for step in 0..=60 {
                let at = 1.0 - 10f64.powf(-f64::from(step) / 12.0);
                if at * histogram.len() as f64 <= histogram.len() as f64 - 0.5 {
                    curve.push((at, quantile(at)));
                }
            }
        }
        Some(Latency {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p95: quantile(0.95),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: millis(histogram.max()),
            curve,
        })
    }
}

impl Report {
    pub fn of_tally(
        conditions: Conditions,
        stages: &[Stage],
        tally: &mut Tally,
        generator: Verdict,
        servers: Vec<ServerReport>,
    ) -> Report {
        let total = tally.total();
        let operations =
            total.offers.keys().map(|operation| (operation.name(), part(&total, Some(*operation))));
        let load_ends = stages.last().map_or(0.0, |stage| stage.begins + stage.seconds);
        let reports = stages.iter().zip(&tally.stages).map(|(stage, tally)| StageReport {
            stage: stage.clone(),
            offered: tally.offered,
            succeeded: tally.succeeded,
            failed: tally.failed,
            slow: tally.slow,
            unplaced: tally.unplaced,
            inadequate_share: share(tally.inadequate(), tally.offered),
            offered_per_second: tally.offered as f64 / stage.seconds.max(1e-9),
            latency: Latency::of(&tally.all(Step::Complete), false),
            causes: causes(tally, None),
        });
        Report {
            seconds: load_ends,
            is_interrupted: false,
            registered_at_end: tally.seconds.last().map_or(0, |second| second.registered),
            all: part(&total, None),
            operations: operations.collect(),
            stages: reports.collect(),
            servers,
            generator,
            required: Vec::new(),
            series: std::mem::take(&mut tally.seconds),
            conditions,
        }
    }

    /// One line for each second, for other programs.
    pub fn csv(&self) -> String {
        let mut text = String::from(
            "second,offered,succeeded,failed,in_flight,registered,p50_ms,p95_ms,p99_ms,max_ms,\
             late_ms,generator_cpu",
        );
        for server in &self.servers {
            let _ = write!(text, ",cpu_{}", server.name.replace([',', '"'], "_"));
        }
        text.push('\n');
        let number =
            |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
        for second in &self.series {
            let _ = write!(
                text,
                "{:.0},{},{},{},{},{},{},{},{},{},{:.3},{:.3}",
                second.at,
                second.offered,
                second.succeeded,
                second.failed,
                second.in_flight,
                second.registered,
                number(second.p50),
                number(second.p95),
                number(second.p99),
                number(second.max),
                second.late,
                second.cpu,
            );
            for share in &second.servers {
                let _ = write!(text, ",{}", number(*share));
            }
            text.push('\n');
        }
        text
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let all = &self.all;
        let _ = writeln!(
            text,
            "{} attempts in {:.0} s: {} succeeded, {} failed ({:.3} %); {} of {} UEs registered at \
             the end",
            all.offered,
            self.seconds,
            all.succeeded,
            all.offered.saturating_sub(all.succeeded),
            100.0 * share(all.offered.saturating_sub(all.succeeded), all.offered),
            self.registered_at_end,
            self.conditions.ues,
        );
        let _ = writeln!(text, "\noperation        offered      ok  failed  challenged");
        for (name, part) in &self.operations {
            let _ = writeln!(
                text,
                "{name:<14} {:>9} {:>7} {:>7} {:>11}",
                part.offered, part.succeeded, part.failed, part.challenged
            );
        }
        let _ = writeln!(
            text,
            "\nlatency from the intended start, ms   p50      p95      p99    p99.9      max"
        );
        for (name, part) in &self.operations {
            for (step, latency) in &part.latency {
                let _ = writeln!(
                    text,
                    "{:<32} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
                    format!("{name} {step}"),
                    latency.p50,
                    latency.p95,
                    latency.p99,
                    latency.p999,
                    latency.max
                );
            }
        }
        if self.stages.len() > 1 {
            let _ = writeln!(
                text,
                "\nstage                     offered/s  inadequate   p50 ms   p99 ms"
            );
            for stage in &self.stages {
                let latency = |get: fn(&Latency) -> f64| stage.latency.as_ref().map_or(0.0, get);
                let _ = writeln!(
                    text,
                    "{:<24} {:>10.1} {:>9.3} % {:>8.1} {:>8.1}",
                    stage.stage.name,
                    stage.offered_per_second,
                    100.0 * stage.inadequate_share,
                    latency(|latency| latency.p50),
                    latency(|latency| latency.p99),
                );
            }
        }
        let wrong: Vec<String> = all
            .causes
            .iter()
            .filter(|(cause, _)| *cause != "ok")
            .map(|(cause, count)| format!("{cause} {count}"))
            .collect();
        if !wrong.is_empty() {
            let _ = writeln!(text, "\ncauses of failure: {}", wrong.join(", "));
        }
        for server in &self.servers {
            let _ = match (server.cpu_seconds, &server.error) {
                (Some(cpu), _) => writeln!(
                    text,
                    "{}: {cpu:.2} CPU seconds, {:.3} per 1,000 attempts that succeeded",
                    server.name,
                    1000.0 * cpu / all.succeeded.max(1) as f64
                ),
                (None, Some(error)) => writeln!(text, "{}: no metrics: {error}", server.name),
                (None, None) => writeln!(text, "{}: says nothing of its CPU", server.name),
            };
        }
        let generator = &self.generator;
        let _ = writeln!(
            text,
            "\ngenerator: {:.2} CPU seconds, at most {:.0} % of its CPU, arrivals late by {:.1} ms \
             (99 %), {:.1} ms (worst), {} MB at its peak",
            generator.cpu_seconds,
            generator.busiest_cpu_share * 100.0,
            generator.late_p99_milliseconds,
            generator.late_max_milliseconds,
            generator.peak_resident_octets >> 20,
        );
        for judged in &self.required {
            let word = if judged.is_met { "met" } else { "NOT MET" };
            let _ = writeln!(text, "required {}: {word} ({})", judged.wanted, judged.found);
        }
        if generator.is_valid {
            text.push_str("valid: the generator was not the bottleneck\n");
        } else {
            text.push_str("INVALID, the servers are not judged:\n");
            for reason in &generator.reasons {
                let _ = writeln!(text, "  {reason}");
            }
        }
        text
    }
}

pub fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

fn causes(tally: &StageTally, operation: Option<Operation>) -> BTreeMap<String, u64> {
    let mut causes = BTreeMap::new();
    for ((of, cause), count) in &tally.causes {
        if operation.is_none_or(|operation| operation == *of) {
            *causes.entry(cause.clone()).or_default() += count;
        }
    }
    causes
}

fn part(tally: &StageTally, operation: Option<Operation>) -> Part {
    let causes = causes(tally, operation);
    let is_meant = |of: &Operation| operation.is_none_or(|operation| operation == *of);
    let of = |counts: &BTreeMap<Operation, u64>| {
        counts.iter().filter(|(of, _)| is_meant(of)).map(|(_, count)| count).sum()
    };
    let succeeded = causes.get("ok").copied().unwrap_or(0);
    let latency = Step::ALL.into_iter().filter_map(|step| {
        let histogram = match operation {
            Some(operation) => tally.latency.get(&(operation, step))?.clone(),
            None => tally.all(step),
        };
        Some((step.name(), Latency::of(&histogram, true)?))
    });
    Part {
        offered: of(&tally.offers),
        succeeded,
        failed: causes.values().sum::<u64>() - succeeded,
        challenged: of(&tally.challenged),
        latency: latency.collect(),
        causes,
    }
}
