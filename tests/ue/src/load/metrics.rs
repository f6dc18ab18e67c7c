//! `/metrics` of the generator itself, on a thread of its own.
//!
//! | name | labels | what |
//! |---|---|---|
//! | `tessera_load_offered_total` | `operation` | attempts that were begun |
//! | `tessera_load_attempts_total` | `operation`, `outcome`, `cause` | attempts that ended: `success` or `failure` |
//! | `tessera_load_unplaced_total` | `operation` | arrivals that found no UE in the state they need |
//! | `tessera_load_latency_seconds` | `operation`, `step` | from the intended start: `challenge`, `associations`, `complete` |
//! | `tessera_load_lateness_seconds` | | by how much arrivals began later than meant |
//! | `tessera_load_in_flight` | | attempts under way |
//! | `tessera_load_registered` | | UEs registered now |
//! | `tessera_load_population` | | UEs there are |
//! | `tessera_load_target_per_second` | | the rate that is meant now |
//! | `tessera_load_valid` | | 1 while the generator has not been the bottleneck |
//! | `tessera_load_packets_total` | `direction` | IP packets `sent` and `received` |
//! | `tessera_load_packets_lost_total` | `direction` | packets lost on this host |
//! | `process_cpu_seconds_total`, `process_resident_memory_bytes` | | of this process |

use std::net::{SocketAddr, TcpListener};

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{
    CounterVec, Gauge, Histogram, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder,
};

use crate::load::measure::{Ended, Step};
use crate::load::model::Operation;
use crate::load::watch;

/// Seconds; up to beyond 64·T1.
const BUCKETS: [f64; 17] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
    200.0,
];

#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    offered: CounterVec,
    attempts: CounterVec,
    unplaced: CounterVec,
    latency: HistogramVec,
    pub lateness: Histogram,
    pub in_flight: Gauge,
    pub registered: Gauge,
    pub population: Gauge,
    pub target_per_second: Gauge,
    pub is_valid: Gauge,
    packets: CounterVec,
    lost: CounterVec,
    cpu: prometheus::Counter,
    resident: Gauge,
}

impl Metrics {
    /// Names and labels are constants, and each is registered once.
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let made = || -> prometheus::Result<Metrics> {
            let counters = |name: &str, help: &str, labels: &[&str]| {
                let made = CounterVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(made.clone()))?;
                prometheus::Result::Ok(made)
            };
            let gauge = |name: &str, help: &str| {
                let made = Gauge::new(name, help)?;
                registry.register(Box::new(made.clone()))?;
                prometheus::Result::Ok(made)
            };
            let options =
                |name: &str, help: &str| HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
            let latency = HistogramVec::new(
                options("tessera_load_latency_seconds", "From the intended start."),
                &["operation", "step"],
            )?;
            registry.register(Box::new(latency.clone()))?;
            let lateness = Histogram::with_opts(options(
                "tessera_load_lateness_seconds",
                "By how much arrivals began later than meant.",
            ))?;
            registry.register(Box::new(lateness.clone()))?;
            let cpu = prometheus::Counter::new("process_cpu_seconds_total", "User and system.")?;
            registry.register(Box::new(cpu.clone()))?;
            let metrics = Metrics {
                offered: counters(
                    "tessera_load_offered_total",
                    "Attempts that were begun.",
                    &["operation"],
                )?,
                attempts: counters(
                    "tessera_load_attempts_total",
                    "Attempts that ended.",
                    &["operation", "outcome", "cause"],
                )?,
                unplaced: counters(
                    "tessera_load_unplaced_total",
                    "Arrivals that found no UE in the state they need.",
                    &["operation"],
                )?,
                latency,
                lateness,
                in_flight: gauge("tessera_load_in_flight", "Attempts under way.")?,
                registered: gauge("tessera_load_registered", "UEs registered now.")?,
                population: gauge("tessera_load_population", "UEs there are.")?,
                target_per_second: gauge(
                    "tessera_load_target_per_second",
                    "The rate that is meant now.",
                )?,
                is_valid: gauge(
                    "tessera_load_valid",
                    "1 while the generator has not been the bottleneck.",
                )?,
                packets: counters("tessera_load_packets_total", "IP packets.", &["direction"])?,
                lost: counters(
                    "tessera_load_packets_lost_total",
                    "Packets lost on this host.",
                    &["direction"],
                )?,
                cpu,
                resident: gauge("process_resident_memory_bytes", "Resident memory.")?,
                registry: registry.clone(),
            };
            metrics.is_valid.set(1.0);
            Ok(metrics)
        };
        made().expect("names are well formed and differ")
    }

    pub fn offered(&self, operation: Operation) {
        self.offered.with_label_values(&[operation.name()]).inc();
    }

    pub fn unplaced(&self, operation: Operation) {
        self.unplaced.with_label_values(&[operation.name()]).inc();
    }

    pub fn ended(&self, ended: &Ended) {
        let outcome = if ended.is_success { "success" } else { "failure" };
        let operation = ended.operation.name();
        self.attempts.with_label_values(&[operation, outcome, ended.cause.as_str()]).inc();
        for (step, taken) in Step::ALL.into_iter().zip(ended.steps) {
            if let Some(taken) = taken {
                let histogram = self.latency.with_label_values(&[operation, step.name()]);
                histogram.observe(taken.as_secs_f64());
            }
        }
    }

    /// Since the last time.
    pub fn packets(&self, sent: u64, received: u64) {
        self.packets.with_label_values(&["sent"]).inc_by(sent as f64);
        self.packets.with_label_values(&["received"]).inc_by(received as f64);
    }

    /// In this run so far.
    pub fn set_lost(&self, sent: u64, received: u64) {
        for (direction, lost) in [("sent", sent), ("received", received)] {
            let counter = self.lost.with_label_values(&[direction]);
            counter.inc_by((lost as f64 - counter.get()).max(0.0));
        }
    }

    pub fn exposition(&self) -> String {
        let usage = watch::process_usage();
        self.cpu.inc_by((usage.cpu_seconds - self.cpu.get()).max(0.0));
        self.resident.set(usage.resident_octets as f64);
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// Serves `/metrics` and `/healthz` at a listening socket, for as long as the process lives.
    ///
    /// # Errors
    /// No thread, or no event loop.
    pub fn serve(&self, listener: TcpListener) -> Result<SocketAddr, String> {
        let wrong = |error: std::io::Error| format!("metrics: {error}");
        listener.set_nonblocking(true).map_err(wrong)?;
        let address = listener.local_addr().map_err(wrong)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(wrong)?;
        let metrics = self.clone();
        let exposition = move || {
            let text = metrics.exposition();
            async { ([("content-type", prometheus::TEXT_FORMAT)], text).into_response() }
        };
        let serve = move || {
            runtime.block_on(async move {
                let routes = Router::new()
                    .route("/metrics", get(exposition))
                    .route("/healthz", get(|| async { "ok\n" }));
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                let _ = axum::serve(listener, routes).await;
            });
        };
        std::thread::Builder::new().name("metrics".into()).spawn(serve).map_err(wrong)?;
        Ok(address)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_names_of_the_documentation() {
        let metrics = Metrics::new();
        metrics.offered(Operation::Register);
        metrics.unplaced(Operation::Reboot);
        metrics.lateness.observe(0.003);
        metrics.packets(1, 2);
        metrics.set_lost(0, 1);
        metrics.ended(&Ended {
            stage: 0,
            operation: Operation::Register,
            is_success: true,
            cause: "ok".to_owned(),
            steps: [None, None, Some(Duration::from_millis(3))],
            is_challenged: true,
        });
        let text = metrics.exposition();
        let table = include_str!("metrics.rs").lines().filter(|line| line.starts_with("//! | `"));
        for line in table {
            for name in line.split('|').nth(1).unwrap().split('`').skip(1).step_by(2) {
                assert!(text.contains(&format!("# TYPE {name} ")), "{name}\n{text}");
            }
        }
        let bucket = "tessera_load_latency_seconds_bucket{operation=\"register\",\
            step=\"complete\",le=\"0.005\"} 1";
        assert!(text.contains(bucket), "{text}");
    }
}
