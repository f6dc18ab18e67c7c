//! From samples to the text that Prometheus reads, and what the process knows of itself.

use std::collections::BTreeMap;
use std::path::Path;

use prometheus::TextEncoder;
use prometheus::proto::MetricType;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily};

use super::inbox::{Counts, DNS_OUTCOMES, KINDS};
use crate::limits::Limits;
use crate::stats::{DURATION_BUCKETS, Sample, Samples, Value};

/// The exposition of all samples; those of one name stand together.
pub(super) fn encode(samples: Samples) -> Result<String, String> {
    let mut families: BTreeMap<&'static str, MetricFamily> = BTreeMap::new();
    for sample in samples.0 {
        let family = families.entry(sample.name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(sample.name.to_owned());
            family.set_help(sample.help.to_owned());
            family.set_field_type(match sample.value {
                Value::Histogram(_) => MetricType::HISTOGRAM,
                _ if is_counter(&sample) => MetricType::COUNTER,
                _ => MetricType::GAUGE,
            });
            family
        });
        family.mut_metric().push(metric(sample));
    }
    let families: Vec<MetricFamily> = families.into_values().collect();
    TextEncoder::new().encode_to_string(&families).map_err(|error| error.to_string())
}

/// Seconds of CPU are counted in fractions, which a counter of the cores has not.
fn is_counter(sample: &Sample) -> bool {
    matches!(sample.value, Value::Counter(_)) || sample.name.ends_with("_total")
}

fn metric(sample: Sample) -> Metric {
    let is_counter = is_counter(&sample);
    let labels = sample.labels.into_iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    });
    let mut metric = Metric::from_label(labels.collect());
    match sample.value {
        Value::Counter(value) => metric.set_counter(counter(value as f64)),
        Value::Gauge(value) if is_counter => metric.set_counter(counter(value)),
        Value::Gauge(value) => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        Value::Histogram(histogram) => metric.set_histogram(cumulative(&histogram)),
    }
    metric
}

fn counter(value: f64) -> Counter {
    let mut counter = Counter::default();
    counter.set_value(value);
    counter
}

fn cumulative(histogram: &crate::stats::Histogram) -> Histogram {
    let mut sum = 0;
    let buckets = DURATION_BUCKETS.iter().zip(histogram.counts).map(|(bound, count)| {
        sum += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(sum);
        bucket
    });
    let mut encoded = Histogram::default();
    encoded.set_bucket(buckets.collect());
    encoded.set_sample_count(histogram.count());
    encoded.set_sample_sum(histogram.sum_seconds);
    encoded
}

/// What the shell counted.
pub(super) fn shell(counts: &Counts, samples: &mut Samples) {
    samples.counter(
        "tessera_shell_turns_total",
        "Turns of the event loop.",
        &[],
        counts.turns.get(),
    );
    for (kind, cell) in KINDS.iter().zip(&counts.inputs) {
        samples.counter(
            "tessera_shell_inputs_total",
            "Inputs handled by the core, by kind.",
            &[("kind", kind)],
            cell.get(),
        );
    }
    for (transport, cell) in [
        ("udp", &counts.send_errors_udp),
        ("tcp", &counts.send_errors_tcp),
        ("diameter", &counts.send_errors_diameter),
    ] {
        samples.counter(
            "tessera_shell_send_errors_total",
            "Messages or connections that could not be delivered.",
            &[("transport", transport)],
            cell.get(),
        );
    }
    samples.counter(
        "tessera_shell_refused_connections_total",
        "Connections refused because of a limit.",
        &[],
        counts.refused_connections.get(),
    );
    samples.counter(
        "tessera_shell_idle_connections_closed_total",
        "Connections for SIP closed to make room for others.",
        &[],
        counts.closed_idle.get(),
    );
    samples.counter(
        "tessera_shell_broken_streams_total",
        "Connections closed because their bytes could not be cut into messages.",
        &[],
        counts.broken_streams.get(),
    );
    samples.histogram(
        "tessera_shell_commit_seconds",
        "How long a turn waited for its state to be stored.",
        &[],
        &counts.commit.borrow(),
    );
    for (outcome, cell) in DNS_OUTCOMES.iter().zip(&counts.dns) {
        samples.counter(
            "tessera_dns_queries_total",
            "Questions to the DNS, by what came of them.",
            &[("outcome", outcome)],
            cell.get(),
        );
    }
    samples.histogram(
        "tessera_dns_query_seconds",
        "From a question to the DNS to its answer; cached answers are fast.",
        &[],
        &counts.dns_took.borrow(),
    );
    samples.counter(
        "tessera_shell_lost_log_lines_total",
        "Log lines dropped because standard error did not take them.",
        &[],
        super::telemetry::lost_lines(),
    );
}

/// What is allowed, beside what is: a panel shows how near the two are.
pub(super) fn limits(limits: &Limits, samples: &mut Samples) {
    for (what, value) in [
        ("sip_transactions", limits.sip_transactions),
        ("sip_connections", limits.sip_connections),
        ("diameter_pending", limits.diameter_pending),
        ("diameter_connections", limits.diameter_connections),
        ("registrations", limits.registrations),
        ("queue", limits.queue),
    ] {
        let help = "What the section [limits] of the configuration allows.";
        samples.gauge("tessera_limit", help, &[("what", what)], value as f64);
    }
}

/// Which program this is.
pub(super) fn build(name: &str, samples: &mut Samples) {
    let labels = [("program", name), ("version", env!("CARGO_PKG_VERSION"))];
    samples.gauge("tessera_build_info", "Always 1; the labels say which build runs.", &labels, 1.0);
}

/// CPU, memory and descriptors of this process, from /proc.
pub(super) fn process(samples: &mut Samples) {
    let user_and_system = std::fs::read_to_string("/proc/self/stat").ok().and_then(|text| {
        // The name in parentheses may hold blanks; utime and stime are fields 14 and 15.
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
    });
    if let (Some(ticks), Ok(Some(per_second))) =
        (user_and_system, nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK))
    {
        samples.gauge(
            "process_cpu_seconds_total",
            "CPU time of the process, user and system.",
            &[],
            ticks as f64 / per_second as f64,
        );
    }
    let resident = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    if let (Some(pages), Ok(Some(page))) =
        (resident, nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE))
    {
        let bytes = pages as f64 * page as f64;
        samples.gauge("process_resident_memory_bytes", "Resident memory.", &[], bytes);
    }
    if let Ok(folder) = std::fs::read_dir(Path::new("/proc/self/fd")) {
        // One of them is the folder being read.
        let open = folder.count().saturating_sub(1);
        samples.gauge("process_open_fds", "Open file descriptors.", &[], open as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn writes_what_prometheus_reads() {
        let mut samples = Samples::default();
        samples.counter("tessera_a_total", "As.", &[("kind", "x")], 3);
        samples.gauge("tessera_b", "Bs.", &[], 0.5);
        samples.counter("tessera_a_total", "As.", &[("kind", "y\"")], 4);
        let mut histogram = crate::stats::Histogram::default();
        histogram.observe(Duration::from_millis(3));
        histogram.observe(Duration::from_secs(60));
        samples.histogram("tessera_c_seconds", "Cs.", &[], &histogram);
        process(&mut samples);
        let text = encode(samples).unwrap();
        for line in [
            "# TYPE tessera_a_total counter",
            "# TYPE process_cpu_seconds_total counter",
            "# TYPE tessera_b gauge",
            "tessera_a_total{kind=\"x\"} 3",
            "tessera_a_total{kind=\"y\\\"\"} 4",
            "tessera_b 0.5",
            "tessera_c_seconds_bucket{le=\"0.002\"} 0",
            "tessera_c_seconds_bucket{le=\"0.005\"} 1",
            "tessera_c_seconds_bucket{le=\"+Inf\"} 2",
            "tessera_c_seconds_count 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
        assert!(text.contains("process_cpu_seconds_total "), "{text}");
    }
}
