//! The search for a capacity after ETSI TS 186 008: Poisson arrivals of a traffic set, the load going
//! up in steps, and the highest step at which the share of inadequately handled attempts stays within
//! 0.1 %, the design objective. Attempts that fail, that take longer than is adequate, or that never
//! end, are inadequately handled.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::load::arguments::{self, HabitOptions, Job, OutcomeOptions, Place, Who};
use crate::load::engine::{self, Engine};
use crate::load::live::Live;
use crate::load::metrics::Metrics;
use crate::load::model::{Arrivals, Mix, Operation, Stage, What};
use crate::load::report::{Conditions, Report, StageReport};
use crate::load::require;
use crate::load::scrape::Scraper;
use crate::load::{conditions, html, write_file};

#[derive(Args, Debug)]
pub struct Capacity {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    place: Place,
    /// Attempts a second of the first step.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 50.0, value_parser = arguments::rate)]
    from: f64,
    /// By how much each step is more than the one before [default: that of the first]
    #[arg(long, value_name = "PER_SECOND", value_parser = arguments::rate)]
    step: Option<f64>,
    /// The last step, however well it goes.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 100_000.0,
        value_parser = arguments::rate)]
    up_to: f64,
    /// Length of a step, of which nothing is left out.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = arguments::seconds)]
    step_seconds: f64,
    /// Before each step the same load so long, which is not judged.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = arguments::seconds)]
    warm_up: f64,
    /// How often the gap between the last good step and the first bad one is halved.
    #[arg(long, default_value_t = 3)]
    halvings: u32,
    /// Share of attempts that may be handled inadequately, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.1)]
    inadequate: f64,
    /// The traffic set, as of `ue load`.
    #[arg(long, value_name = "NAME=SHARE,...",
        default_value = "register=1,reregister=2,deregister=1", value_parser = arguments::mix)]
    mix: Mix,
    /// Registrations a second before the first step.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 50.0, value_parser = arguments::rate)]
    register_first: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    habits: HabitOptions,
    #[command(flatten)]
    outcome: OutcomeOptions,
}

/// Everything that is needed for a search.
#[derive(Debug)]
pub struct Search {
    job: Job,
    mix: Mix,
    plan: Plan,
    register_first: f64,
    step_seconds: f64,
    warm_up: f64,
    inadequate_share: f64,
}

/// Which rates are tried: steps up to the first that is bad, then halvings of the gap.
#[derive(Clone, PartialEq, Debug)]
struct Plan {
    step: f64,
    up_to: f64,
    halvings: u32,
    good: Option<f64>,
    bad: Option<f64>,
    next: f64,
}

/// One step, judged.
#[derive(Clone, Debug, Serialize)]
struct Step {
    per_second: f64,
    is_adequate: bool,
    is_generator_valid: bool,
    reasons: Vec<String>,
    #[serde(flatten)]
    measured: StageReport,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    /// Attempts a second; absent when not even the first step was good.
    design_objective_capacity: Option<f64>,
    /// The generator, or the last step, came before the servers' limit: it may be higher.
    is_lower_bound: bool,
    inadequate_share_allowed: f64,
    step_seconds: f64,
    mix: Mix,
    conditions: Conditions,
    steps: Vec<Step>,
}

impl Plan {
    /// Takes the judgement on the rate that was tried; gives the next one.
    fn judged(&mut self, is_good: bool) -> Option<f64> {
        match is_good {
            true => self.good = Some(self.next),
            false => self.bad = Some(self.next),
        }
        self.next = match (self.good, self.bad) {
            (Some(good), None) if good >= self.up_to => return None,
            (Some(good), None) => (good + self.step).min(self.up_to),
            (Some(good), Some(bad)) if self.halvings > 0 => {
                self.halvings -= 1;
                (good + bad) / 2.0
            }
            _ => return None,
        };
        Some(self.next)
    }
}

impl Capacity {
    /// # Errors
    /// What does not fit, or a file that cannot be used.
    pub fn search(self) -> Result<Search, String> {
        if !(0.0..100.0).contains(&self.inadequate) {
            return Err("--inadequate is a share in percent".to_owned());
        }
        if self.mix.values().sum::<f64>() <= 0.0 {
            return Err("--mix has no share of anything".to_owned());
        }
        let subscribers = self.who.subscribers()?;
        let place = (self.place, self.habits, self.outcome);
        let job = arguments::job(place, subscribers, Vec::new(), self.seed, false, None)?;
        let plan = Plan {
            step: self.step.unwrap_or(self.from),
            up_to: self.up_to,
            halvings: self.halvings,
            good: None,
            bad: None,
            next: self.from.min(self.up_to),
        };
        Ok(Search {
            job,
            mix: self.mix,
            plan,
            register_first: self.register_first,
            step_seconds: self.step_seconds,
            warm_up: self.warm_up,
            inadequate_share: self.inadequate / 100.0,
        })
    }
}

/// Carries out the search, prints the figure and gives the exit status: 0 found, 1 not even the
/// first step was good, 3 the generator was the bottleneck.
///
/// # Errors
/// What is missing on this host, or that the population cannot register.
pub fn run(search: Search) -> Result<ExitCode, String> {
    engine::heed_signals()?;
    let Search { job, mix, mut plan, .. } = search;
    let mut live = Live::new(job.output.is_quiet);
    let metrics = Metrics::new();
    if let Some(at) = job.listen {
        let listener = TcpListener::bind(at).map_err(|error| format!("--listen {at}: {error}"))?;
        metrics.serve(listener)?;
    }
    let mut scraper = Scraper::start(job.servers)?;
    let conditions = conditions(&job.run, job.subscribers.len());
    let mut engine = Engine::prepare(&job.run, job.subscribers, metrics, &mut live)?;
    let mut run = job.run;

    let registered = registered_first(&mix, conditions.ues);
    if registered > 0 {
        run.stages = vec![arguments::registering(registered, search.register_first)];
        let report = engine.run(&run, conditions.clone(), &mut scraper, &mut live);
        if report.is_interrupted {
            return Err("interrupted while the population registered".to_owned());
        }
        if report.all.succeeded < registered as u64 {
            let causes = report.all.causes;
            return Err(format!("the population does not register, before any load: {causes:?}"));
        }
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut best: Option<Report> = None;
    let is_lower_bound = loop {
        run.seed = run.seed.wrapping_add(1);
        run.stages = stages(plan.next, &mix, search.warm_up, search.step_seconds);
        let report = engine.run(&run, conditions.clone(), &mut scraper, &mut live);
        if report.is_interrupted {
            break true;
        }
        let step = judge(&report, plan.next, search.inadequate_share);
        live.note(&line(&step));
        let is_good = step.is_adequate;
        let is_valid = step.is_generator_valid;
        steps.push(step);
        if !is_valid {
            // Nothing is known of this load, nor of higher ones.
            break true;
        }
        if is_good {
            best = Some(report);
        }
        if plan.judged(is_good).is_none() {
            break plan.bad.is_none();
        }
    };
    let found = Found {
        design_objective_capacity: plan.good,
        is_lower_bound,
        inadequate_share_allowed: search.inadequate_share,
        step_seconds: search.step_seconds,
        mix,
        conditions,
        steps,
    };
    if let Some(path) = &job.output.json {
        let text = serde_json::to_string_pretty(&found).map_err(|error| error.to_string())?;
        write_file(path, text)?;
    }
    if let (Some(path), Some(mut report)) = (&job.output.html, best) {
        report.required = require::judge(&job.output.required, &report);
        write_file(path, html::page(&report))?;
    }
    print!("{}", found.text());
    let is_spoilt = found.steps.last().is_some_and(|step| !step.is_generator_valid);
    Ok(match found.design_objective_capacity {
        _ if is_spoilt => ExitCode::from(3),
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::from(1),
    })
}

/// How many are registered before the first step: all where nobody needs others, half where both
/// kinds are needed.
fn registered_first(mix: &Mix, ues: usize) -> usize {
    let share = |needs: bool| -> f64 {
        let of = mix.iter().filter(|(operation, _)| operation.needs_registered() == needs);
        of.map(|(_, share)| share).sum()
    };
    match (share(true) > 0.0, share(false) > 0.0) {
        (true, true) => ues.div_ceil(2),
        (true, false) => ues,
        (false, _) => 0,
    }
}

fn stages(per_second: f64, mix: &Mix, warm_up: f64, seconds: f64) -> Vec<Stage> {
    let stage = |name: &str, begins, seconds| Stage {
        name: format!("{name} {per_second:.0}/s"),
        begins,
        seconds,
        what: What::Arrivals {
            arrivals: Arrivals::Poisson,
            per_second,
            to_per_second: per_second,
            mix: mix.clone(),
        },
    };
    vec![stage("warm-up", 0.0, warm_up), stage("step", warm_up, seconds)]
}

fn judge(report: &Report, per_second: f64, allowed: f64) -> Step {
    // The second stage is the step itself.
    let measured = report.stages[1].clone();
    Step {
        per_second,
        is_adequate: measured.offered > 0 && measured.inadequate_share <= allowed,
        is_generator_valid: report.generator.is_valid,
        reasons: report.generator.reasons.clone(),
        measured,
    }
}

fn line(step: &Step) -> String {
    let word = match (step.is_generator_valid, step.is_adequate) {
        (false, _) => "generator was the bottleneck",
        (true, true) => "adequate",
        (true, false) => "INADEQUATE",
    };
    let latency = step.measured.latency.as_ref();
    let latency = latency.map_or(String::new(), |latency| {
        format!("p50 {:.1} ms, p99 {:.1} ms", latency.p50, latency.p99)
    });
    format!(
        "{:>9.1}/s  {:>7} attempts  {:>7.3} % inadequate  {latency}  {word}",
        step.per_second,
        step.measured.offered,
        step.measured.inadequate_share * 100.0
    )
}

impl Found {
    fn text(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            let _ = writeln!(text, "{}", line(step));
            for reason in &step.reasons {
                let _ = writeln!(text, "             {reason}");
            }
        }
        let conditions = &self.conditions;
        let least = if self.is_lower_bound { "at least " } else { "" };
        let _ = match self.design_objective_capacity {
            Some(rate) => {
                writeln!(text, "\ndesign objective capacity: {least}{rate:.1} attempts/s")
            }
            None => writeln!(text, "\ndesign objective capacity: less than the first step"),
        };
        let names: Vec<String> = self
            .mix
            .iter()
            .map(|(operation, share): (&Operation, &f64)| format!("{operation}={share}"))
            .collect();
        let _ = writeln!(
            text,
            "conditions: {} UEs, {}; P-CSCF {}; {}, {}; mix {}; Poisson arrivals, steps of {} s; \
             inadequate: failed or slower than {} ms, within {} %; seed {}; generator on {} CPUs",
            conditions.ues,
            conditions.access,
            conditions.pcscf,
            conditions.transport,
            if conditions.ipsec { "IPsec" } else { "in clear" },
            names.join(","),
            self.step_seconds,
            conditions.slow_after_milliseconds,
            self.inadequate_share_allowed * 100.0,
            conditions.seed,
            conditions.cpus,
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates that are tried when everything up to `limit` is good.
    fn tried(limit: f64, up_to: f64) -> (Vec<f64>, Plan) {
        let mut plan = Plan { step: 50.0, up_to, halvings: 2, good: None, bad: None, next: 50.0 };
        let mut tried = vec![plan.next];
        while let Some(next) = plan.judged(plan.next <= limit) {
            tried.push(next);
        }
        (tried, plan)
    }

    #[test]
    fn steps_go_up_and_halve() {
        let (rates, plan) = tried(130.0, 1_000.0);
        assert_eq!(rates, [50.0, 100.0, 150.0, 125.0, 137.5]);
        assert_eq!((plan.good, plan.bad), (Some(125.0), Some(137.5)));
        let (rates, plan) = tried(1e9, 120.0);
        assert_eq!(rates, [50.0, 100.0, 120.0]);
        assert_eq!((plan.good, plan.bad), (Some(120.0), None));
        let (rates, plan) = tried(10.0, 1_000.0);
        assert_eq!((rates, plan.good), (vec![50.0], None));
    }

    #[test]
    fn who_registers_first() {
        let mix = |text| arguments::mix(text).unwrap();
        assert_eq!(registered_first(&mix("register=1,reregister=1"), 101), 51);
        assert_eq!(registered_first(&mix("reboot"), 100), 100);
        assert_eq!(registered_first(&mix("auts,wrong_key"), 100), 0);
    }
}
