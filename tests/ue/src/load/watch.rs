//! The generator watches itself: a run in which it was late, had no CPU left or lost packets says
//! nothing about anybody else.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::link::Lost;
use crate::load::measure::millis;

/// What a run may have and still be valid.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Limits {
    /// An arrival that begins later than this after its time is late.
    pub late_milliseconds: f64,
    /// Share of arrivals that may be late.
    pub late_share: f64,
    /// Share of one CPU that the generator may use in [`CPU_WINDOW`] seconds.
    pub cpu_share: f64,
    /// Share of packets that this host may lose.
    pub lost_share: f64,
    /// Share of arrivals that may find no UE.
    pub unplaced_share: f64,
}

/// Seconds over which the use of the CPU is judged.
pub const CPU_WINDOW: usize = 5;

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            late_milliseconds: 20.0,
            late_share: 0.01,
            cpu_share: 0.9,
            lost_share: 0.001,
            unplaced_share: 0.01,
        }
    }
}

/// What the generator has seen of itself.
#[derive(Debug)]
pub struct Watch {
    limits: Limits,
    lateness: Histogram<u64>,
    late: u64,
    /// Timers of phones, which are as important as arrivals.
    timer_lateness: Histogram<u64>,
    cpu_before: ThreadUsage,
    pub began: ThreadUsage,
    recent_cpu: Vec<f64>,
    busiest: f64,
    pub packets_sent: u64,
    pub packets_received: u64,
}

/// The judgement.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Verdict {
    pub is_valid: bool,
    /// Why not, in sentences.
    pub reasons: Vec<String>,
    pub limits: Limits,
    pub late_p50_milliseconds: f64,
    pub late_p99_milliseconds: f64,
    pub late_max_milliseconds: f64,
    pub late_share: f64,
    pub timer_late_p99_milliseconds: f64,
    pub cpu_seconds: f64,
    /// Of one CPU, in the busiest window.
    pub busiest_cpu_share: f64,
    /// How long the generator was ready to run and another had the CPU.
    pub waited_for_cpu_seconds: f64,
    pub packets_sent: u64,
    pub packets_received: u64,
    pub packets_lost_sending: u64,
    pub packets_lost_receiving: u64,
    pub peak_resident_octets: u64,
}

impl Watch {
    pub fn new(limits: Limits) -> Watch {
        let histogram = || Histogram::new_with_bounds(1, 600_000_000, 3).expect("bounds");
        let usage = thread_usage();
        Watch {
            limits,
            lateness: histogram(),
            late: 0,
            timer_lateness: histogram(),
            cpu_before: usage,
            began: usage,
            recent_cpu: Vec::new(),
            busiest: 0.0,
            packets_sent: 0,
            packets_received: 0,
        }
    }

    pub fn arrival(&mut self, late: Duration) {
        self.lateness.saturating_record(late.as_micros() as u64);
        self.late += u64::from(late.as_secs_f64() * 1e3 > self.limits.late_milliseconds);
    }

    pub fn timer(&mut self, late: Duration) {
        self.timer_lateness.saturating_record(late.as_micros() as u64);
    }

    /// Share of one CPU since the last time, which was so long ago.
    pub fn second(&mut self, lasted: Duration) -> f64 {
        let usage = thread_usage();
        let used = usage.cpu_seconds - self.cpu_before.cpu_seconds;
        self.cpu_before = usage;
        let share = used / lasted.as_secs_f64().max(1e-3);
        self.recent_cpu.push(share);
        if self.recent_cpu.len() > CPU_WINDOW {
            self.recent_cpu.remove(0);
        }
        if self.recent_cpu.len() == CPU_WINDOW {
            let mean = self.recent_cpu.iter().sum::<f64>() / CPU_WINDOW as f64;
            self.busiest = self.busiest.max(mean);
        }
        share
    }

    /// `offered` and `unplaced` are of the whole run so far.
    pub fn verdict(&self, lost: Lost, offered: u64, unplaced: u64) -> Verdict {
        let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
        let late_share = share(self.late, self.lateness.len());
        let usage = thread_usage();
        let waited = usage.waited_seconds - self.began.waited_seconds;
        let quantile = |histogram: &Histogram<u64>, quantile| {
            if histogram.is_empty() { 0.0 } else { millis(histogram.value_at_quantile(quantile)) }
        };
        let Limits { late_milliseconds, cpu_share, lost_share, unplaced_share, .. } = self.limits;
        let mut reasons = Vec::new();
        if late_share > self.limits.late_share {
            reasons.push(format!(
                "{:.1} % of arrivals began more than {late_milliseconds} ms late (99 % within \
                 {:.1} ms, the worst {:.1} ms); the generator had waited {waited:.1} s for a CPU",
                late_share * 100.0,
                quantile(&self.lateness, 0.99),
                millis(self.lateness.max()),
            ));
        }
        let timer_p99 = quantile(&self.timer_lateness, 0.99);
        if self.timer_lateness.len() >= 100 && timer_p99 > late_milliseconds {
            reasons.push(format!("timers of phones were up to {timer_p99:.1} ms late (99 %)"));
        }
        if self.busiest > cpu_share {
            reasons.push(format!(
                "the generator used {:.0} % of its CPU for {CPU_WINDOW} s",
                self.busiest * 100.0
            ));
        }
        let lost_received = share(lost.received, self.packets_received + lost.received);
        let lost_sent = share(lost.sent, self.packets_sent);
        if lost_received.max(lost_sent) > lost_share {
            reasons.push(format!(
                "this host lost {} packets on the way to the UEs and {} on the way from them",
                lost.received, lost.sent
            ));
        }
        if share(unplaced, offered + unplaced) > unplaced_share {
            reasons.push(format!(
                "{unplaced} arrivals found no UE in the state they need: the population is too \
                 small for this load"
            ));
        }
        Verdict {
            is_valid: reasons.is_empty(),
            reasons,
            limits: self.limits,
            late_p50_milliseconds: quantile(&self.lateness, 0.5),
            late_p99_milliseconds: quantile(&self.lateness, 0.99),
            late_max_milliseconds: millis(self.lateness.max()),
            late_share,
            timer_late_p99_milliseconds: timer_p99,
            cpu_seconds: usage.cpu_seconds - self.began.cpu_seconds,
            busiest_cpu_share: self.busiest,
            waited_for_cpu_seconds: waited,
            packets_sent: self.packets_sent,
            packets_received: self.packets_received,
            packets_lost_sending: lost.sent,
            packets_lost_receiving: lost.received,
            peak_resident_octets: process_usage().peak_resident_octets,
        }
    }
}

/// Of the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadUsage {
    pub cpu_seconds: f64,
    /// Ready to run, while others ran.
    pub waited_seconds: f64,
}

pub fn thread_usage() -> ThreadUsage {
    // Nanoseconds on the CPU, nanoseconds waiting for it, time slices.
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let mut fields = text.split_whitespace().map(|field| field.parse::<f64>().unwrap_or(0.0));
    let waited = fields.nth(1).unwrap_or(0.0);
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec that outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    ThreadUsage {
        cpu_seconds: time.tv_sec as f64 + time.tv_nsec as f64 / 1e9,
        waited_seconds: waited / 1e9,
    }
}

/// Of the whole process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessUsage {
    pub cpu_seconds: f64,
    pub resident_octets: u64,
    pub peak_resident_octets: u64,
}

pub fn process_usage() -> ProcessUsage {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec that outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let octets = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    ProcessUsage {
        cpu_seconds: time.tv_sec as f64 + time.tv_nsec as f64 / 1e9,
        resident_octets: octets("VmRSS:").unwrap_or(0),
        peak_resident_octets: octets("VmHWM:").unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        let mut watch = Watch::new(Limits::default());
        for _ in 0..1_000 {
            watch.arrival(Duration::from_micros(100));
        }
        watch.packets_sent = 1_000;
        watch.packets_received = 1_000;
        watch
    }

    #[test]
    fn a_quiet_run_is_valid() {
        let verdict = watch().verdict(Lost::default(), 1_000, 0);
        assert!(verdict.is_valid, "{:?}", verdict.reasons);
        assert!(verdict.late_p99_milliseconds < 1.0);
    }

    /// Each way of being the bottleneck makes the run invalid, and is named.
    #[test]
    fn bottlenecks_are_named() {
        let mut late = watch();
        for _ in 0..20 {
            late.arrival(Duration::from_secs(2));
        }
        let mut busy = watch();
        busy.busiest = 0.97;
        let mut slow = watch();
        for _ in 0..100 {
            slow.timer(Duration::from_millis(50));
        }
        let lost = Lost { received: 20, sent: 0 };
        for (watch, lost, unplaced, cause) in [
            (late, Lost::default(), 0, "late"),
            (slow, Lost::default(), 0, "timers"),
            (busy, Lost::default(), 0, "97 %"),
            (watch(), lost, 0, "lost 20 packets"),
            (watch(), Lost::default(), 500, "population"),
        ] {
            let verdict = watch.verdict(lost, 1_000, unplaced);
            assert!(!verdict.is_valid);
            assert_eq!(verdict.reasons.len(), 1, "{:?}", verdict.reasons);
            assert!(verdict.reasons[0].contains(cause), "{:?}", verdict.reasons);
        }
    }

    #[test]
    fn the_thread_is_measured() {
        let before = thread_usage().cpu_seconds;
        let mut sum = 0u64;
        while thread_usage().cpu_seconds - before < 0.02 {
            sum = sum.wrapping_add(1);
        }
        let usage = process_usage();
        assert!(usage.cpu_seconds >= 0.02 && usage.resident_octets > 1 << 20, "{usage:?} {sum}");
    }
}
