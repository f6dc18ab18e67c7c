//! What is seen while a run goes on: a few lines that renew themselves on a terminal, a line now and
//! then where there is none.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::load::measure::Tally;
use crate::load::model::Stage;
use crate::load::watch::Verdict;

/// Between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Seconds that the small plot of the rate shows.
const PLOT: usize = 60;

pub enum Live {
    /// Lines that renew themselves.
    Terminal(Terminal),
    /// To standard error, now and then.
    Plain(Plain),
    Quiet,
}

pub struct Terminal {
    lines: MultiProgress,
    progress: ProgressBar,
    rate: ProgressBar,
    latency: ProgressBar,
    causes: ProgressBar,
    health: ProgressBar,
    stages: Vec<Stage>,
}

#[derive(Debug)]
pub struct Plain {
    last: Option<Instant>,
    stages: Vec<Stage>,
}

impl Live {
    pub fn new(is_quiet: bool) -> Live {
        if is_quiet {
            return Live::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Live::Plain(Plain { last: None, stages: Vec::new() });
        }
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let text = || {
            let style = ProgressStyle::with_template("{msg}");
            let bar = lines.add(ProgressBar::new(1));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        };
        let progress = lines.add(ProgressBar::new(1));
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}");
        progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let (rate, latency, causes, health) = (text(), text(), text(), text());
        Live::Terminal(Terminal {
            lines: lines.clone(),
            progress,
            rate,
            latency,
            causes,
            health,
            stages: Vec::new(),
        })
    }

    /// UEs get their bearers.
    pub fn attaching(&mut self, ready: usize, count: usize) {
        if let Live::Terminal(terminal) = self {
            terminal.progress.set_length(count as u64);
            terminal.progress.set_position(ready as u64);
            terminal.progress.set_message("UEs attached");
        }
    }

    /// A sentence that stays.
    pub fn note(&mut self, text: &str) {
        match self {
            Live::Terminal(terminal) => drop(terminal.lines.println(text)),
            Live::Plain(_) => eprintln!("{text}"),
            Live::Quiet => {}
        }
    }

    pub fn began(&mut self, of: &[Stage], ues: usize) {
        let text = format!("{ues} UEs, {} stages, {}", of.len(), duration(of));
        match self {
            Live::Terminal(Terminal { stages, progress, .. }) => {
                *stages = of.to_vec();
                progress.set_length(total_seconds(of).clamp(1.0, 1e9) as u64);
                progress.set_message("s");
            }
            Live::Plain(plain) => {
                plain.stages = of.to_vec();
                eprintln!("{text}");
            }
            Live::Quiet => {}
        }
    }

    /// The second that was closed last.
    pub fn second(&mut self, tally: &Tally, stage: usize, verdict: &Verdict) {
        match self {
            Live::Terminal(terminal) => terminal.second(tally, stage, verdict),
            Live::Plain(plain) => plain.second(tally, stage, verdict),
            Live::Quiet => {}
        }
    }

    pub fn ended(&mut self) {
        if let Live::Terminal(terminal) = self {
            let Terminal { progress, rate, latency, causes, health, .. } = terminal;
            for bar in [progress, rate, latency, causes, health] {
                bar.finish_and_clear();
            }
        }
    }
}

fn total_seconds(stages: &[Stage]) -> f64 {
    stages.last().map_or(0.0, |last| last.begins + last.seconds)
}

fn duration(stages: &[Stage]) -> String {
    match total_seconds(stages) {
        long if long > 1e8 => "until it is stopped".to_owned(),
        short => format!("{short:.0} s"),
    }
}

impl Terminal {
    fn second(&mut self, tally: &Tally, stage: usize, verdict: &Verdict) {
        let Some(second) = tally.seconds.last() else { return };
        self.progress.set_position(second.at as u64 + 1);
        let name = self.stages.get(stage).map_or("", |stage| stage.name.as_str());
        self.progress.set_message(format!("s  {name}"));
        let from = tally.seconds.len().saturating_sub(PLOT);
        let rates: Vec<u64> = tally.seconds[from..].iter().map(|second| second.succeeded).collect();
        self.rate.set_message(format!(
            "offered {:>6}/s  ok {:>6}/s  failed {:>5}/s  in flight {:>6}  registered {:>7}  {}",
            second.offered,
            second.succeeded,
            second.failed,
            second.in_flight,
            second.registered,
            plot(&rates),
        ));
        self.latency.set_message(latency(second));
        let causes = causes(tally);
        self.causes.set_message(if causes.is_empty() { "no failures".into() } else { causes });
        self.health.set_message(health(second.late, second.cpu, verdict));
    }
}

impl Plain {
    fn second(&mut self, tally: &Tally, stage: usize, verdict: &Verdict) {
        if self.last.is_some_and(|last| last.elapsed() < LINE_INTERVAL) {
            return;
        }
        self.last = Some(Instant::now());
        let Some(second) = tally.seconds.last() else { return };
        let name = self.stages.get(stage).map_or("", |stage| stage.name.as_str());
        let causes = causes(tally);
        let causes = if causes.is_empty() { String::new() } else { format!("; {causes}") };
        eprintln!(
            "{:>5.0} s  {name}: offered {}/s, ok {}/s, failed {}/s, in flight {}, registered {}, \
             {}{causes}; {}",
            second.at + 1.0,
            second.offered,
            second.succeeded,
            second.failed,
            second.in_flight,
            second.registered,
            latency(second),
            health(second.late, second.cpu, verdict),
        );
    }
}

fn latency(second: &crate::load::measure::Second) -> String {
    match (second.p50, second.p99, second.max) {
        (Some(p50), Some(p99), Some(max)) => {
            format!("p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms")
        }
        _ => "nothing succeeded in this second".to_owned(),
    }
}

/// All of the run so far.
fn causes(tally: &Tally) -> String {
    let mut all = std::collections::BTreeMap::<&str, u64>::new();
    for stage in &tally.stages {
        for ((_, cause), count) in &stage.causes {
            if cause != "ok" {
                *all.entry(cause).or_default() += count;
            }
        }
    }
    let all: Vec<String> = all.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
    all.join(", ")
}

fn health(late: f64, cpu: f64, verdict: &Verdict) -> String {
    let first = verdict.reasons.first();
    let judged = first.map_or("valid".to_owned(), |reason| format!("INVALID: {reason}"));
    format!("generator: CPU {:.0} %, late {late:.1} ms, {judged}", cpu * 100.0)
}

/// Eight heights of a block.
fn plot(values: &[u64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = values.iter().copied().max().unwrap_or(0).max(1);
    values.iter().map(|value| BLOCKS[(value * 7 / highest) as usize]).collect()
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Live::Terminal(_) => "Terminal",
            Live::Plain(_) => "Plain",
            Live::Quiet => "Quiet",
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn small_plots() {
        assert_eq!(super::plot(&[0, 5, 10]), "▁▄█");
        assert_eq!(super::plot(&[0, 0]), "▁▁");
    }
}
