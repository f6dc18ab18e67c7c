//! The load in time: stages one after the other, each with arrivals of operations at a rate, or a
//! storm of all UEs at once. Arrivals are open-loop: they depend on the seed alone, never on how
//! fast anybody answers.
//!
//! ```toml
//! seed = 7
//!
//! [[phase]]
//! name = "up"
//! seconds = 60
//! per_second = 10
//! to_per_second = 100        # a ramp; absent: constant
//! mix = { register = 1.0 }   # shares, of their sum
//!
//! [[phase]]
//! name = "busy hour"
//! seconds = 30               # each step
//! per_second = 100
//! step = 50                  # 100, 150, 200
//! steps = 3
//! arrivals = "constant"      # absent: "poisson"
//! mix = { reregister = 8, register = 1, deregister = 1 }
//!
//! [[phase]]
//! name = "power cut"
//! storm = "reregister"       # every registered UE once
//! outage_seconds = 20        # nothing passes before it
//! seconds = 10               # within which they all begin
//! share = 1.0                # of those that are registered
//!
//! [[phase]]
//! name = "recovery"
//! seconds = 60               # nothing new: what is under way goes on
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use common::random::Random;
use serde::{Deserialize, Serialize};

/// What a UE does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A UE that is not registered registers: challenge, associations, answer.
    Register,
    /// A registered UE registers again over its associations; whether it is challenged is the
    /// registrar's policy, and counted.
    Reregister,
    Deregister,
    /// The card has another K than the HSS: the UE refuses every challenge. That is adequate.
    WrongKey,
    /// The UE answers with another RES: the network refuses. That is adequate.
    WrongResponse,
    /// The card's SQN is ahead: AUTS, then a registration.
    Auts,
    /// The battery was taken out: a registered UE forgets everything and registers anew.
    Reboot,
    /// A registered UE registers again while its packets are lost for some seconds.
    RadioLoss,
    /// What phones do by themselves when they are held registered.
    Refresh,
}

impl Operation {
    /// All that a mix may have.
    pub const MIXABLE: [Operation; 8] = [
        Operation::Register,
        Operation::Reregister,
        Operation::Deregister,
        Operation::WrongKey,
        Operation::WrongResponse,
        Operation::Auts,
        Operation::Reboot,
        Operation::RadioLoss,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Operation::Register => "register",
            Operation::Reregister => "reregister",
            Operation::Deregister => "deregister",
            Operation::WrongKey => "wrong_key",
            Operation::WrongResponse => "wrong_response",
            Operation::Auts => "auts",
            Operation::Reboot => "reboot",
            Operation::RadioLoss => "radio_loss",
            Operation::Refresh => "refresh",
        }
    }

    pub fn from_name(name: &str) -> Option<Operation> {
        Self::MIXABLE.into_iter().find(|operation| operation.name() == name)
    }

    /// Only a registered UE can do it.
    pub fn needs_registered(self) -> bool {
        matches!(
            self,
            Operation::Reregister
                | Operation::Deregister
                | Operation::Reboot
                | Operation::RadioLoss
                | Operation::Refresh
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How arrivals lie in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Gaps are exponential: calls of many independent people (ETSI TS 186 008-1).
    #[default]
    Poisson,
    Constant,
}

/// Shares of operations; only their proportions count.
pub type Mix = BTreeMap<Operation, f64>;

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Absent: that of the command line.
    #[serde(default)]
    pub seed: Option<u64>,
    pub phase: Vec<Phase>,
}

/// One phase as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Phase {
    pub name: String,
    pub seconds: f64,
    pub per_second: f64,
    pub to_per_second: Option<f64>,
    pub step: Option<f64>,
    pub steps: Option<u32>,
    pub arrivals: Arrivals,
    pub mix: Mix,
    pub storm: Option<Operation>,
    pub share: Option<f64>,
    pub outage_seconds: Option<f64>,
}

/// A part of the run with one kind of load.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Stage {
    pub name: String,
    /// Seconds since the start of the run.
    pub begins: f64,
    pub seconds: f64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "load")]
pub enum What {
    Arrivals {
        arrivals: Arrivals,
        per_second: f64,
        to_per_second: f64,
        mix: Mix,
    },
    /// Nothing passes for `outage_seconds`; then every one of them within the rest.
    Storm {
        operation: Operation,
        share: f64,
        outage_seconds: f64,
    },
}

impl What {
    /// Nothing new arrives.
    pub fn is_quiet(&self) -> bool {
        matches!(self, What::Arrivals { per_second: 0.0, to_per_second: 0.0, .. })
    }
}

impl Model {
    /// Reads the file; the error names what is wrong.
    ///
    /// # Errors
    /// Not TOML, an unknown key, or a phase that makes no sense.
    pub fn parse(text: &str) -> Result<Model, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// The stages, in order and without gaps.
    ///
    /// # Errors
    /// The first phase that makes no sense.
    pub fn stages(&self) -> Result<Vec<Stage>, String> {
        if self.phase.is_empty() {
            return Err("there is no [[phase]]".to_owned());
        }
        let mut stages: Vec<Stage> = Vec::new();
        for (place, phase) in self.phase.iter().enumerate() {
            let name = match phase.name.is_empty() {
                true => format!("phase {}", place + 1),
                false => phase.name.clone(),
            };
            let made = phase.stages(&name).map_err(|why| format!("{name}: {why}"))?;
            for mut stage in made {
                stage.begins = stages.last().map_or(0.0, |last| last.begins + last.seconds);
                stages.push(stage);
            }
        }
        Ok(stages)
    }
}

impl Phase {
    fn stages(&self, name: &str) -> Result<Vec<Stage>, String> {
        let is_time = |value: f64| value.is_finite() && (0.0..=31_536_000.0).contains(&value);
        let is_rate = |value: f64| value.is_finite() && (0.0..=10_000_000.0).contains(&value);
        if !is_time(self.seconds) || self.seconds == 0.0 {
            return Err("seconds is not more than 0".to_owned());
        }
        let stage = |name: String, seconds, what| Stage { name, begins: 0.0, seconds, what };
        if let Some(operation) = self.storm {
            let share = self.share.unwrap_or(1.0);
            let outage_seconds = self.outage_seconds.unwrap_or(0.0);
            if !(0.0..=1.0).contains(&share) || !is_time(outage_seconds) {
                return Err("share is 0 to 1, outage_seconds is not negative".to_owned());
            }
            if self.per_second != 0.0 || self.to_per_second.is_some() || self.step.is_some() {
                return Err("a storm has no rate".to_owned());
            }
            let what = What::Storm { operation, share, outage_seconds };
            return Ok(vec![stage(name.to_owned(), outage_seconds + self.seconds, what)]);
        }
        if self.share.is_some() || self.outage_seconds.is_some() {
            return Err("share and outage_seconds belong to a storm".to_owned());
        }
        let to_per_second = self.to_per_second.unwrap_or(self.per_second);
        if !is_rate(self.per_second) || !is_rate(to_per_second) {
            return Err("per_second and to_per_second are rates".to_owned());
        }
        let is_loaded = self.per_second > 0.0 || to_per_second > 0.0;
        if is_loaded && self.mix.values().sum::<f64>() <= 0.0 {
            return Err("mix has no share of anything".to_owned());
        }
        if self.mix.values().any(|share| !share.is_finite() || *share < 0.0) {
            return Err("a share of mix is negative".to_owned());
        }
        if self.mix.contains_key(&Operation::Refresh) {
            return Err("refresh is what held phones do by themselves; reregister is meant".into());
        }
        let of_rate = |per_second: f64, to_per_second: f64| What::Arrivals {
            arrivals: self.arrivals,
            per_second,
            to_per_second,
            mix: self.mix.clone(),
        };
        match (self.step, self.steps) {
            (None, None) => {
                let what = of_rate(self.per_second, to_per_second);
                Ok(vec![stage(name.to_owned(), self.seconds, what)])
            }
            (Some(step), Some(steps @ 1..=1000)) if self.to_per_second.is_none() => {
                let rates = (0..steps).map(|place| self.per_second + step * f64::from(place));
                let rates: Vec<f64> = rates.collect();
                if !rates.iter().all(|rate| is_rate(*rate)) {
                    return Err("a step has no rate of 0 or more".to_owned());
                }
                let named = |rate: f64| format!("{name} {rate}/s");
                let made = rates
                    .into_iter()
                    .map(|rate| stage(named(rate), self.seconds, of_rate(rate, rate)));
                Ok(made.collect())
            }
            _ => Err("step and steps go together, without to_per_second".to_owned()),
        }
    }
}

/// What is to happen at some time.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Due {
    Stage(usize),
    Arrival(Operation),
    /// Nothing passes from now on, or everything again.
    Outage(bool),
    /// Every registered UE within `within`.
    Storm {
        operation: Operation,
        share: f64,
        within: Duration,
    },
    End,
}

/// The stages as times, one after the other.
#[derive(Debug)]
pub struct Schedule {
    stages: Vec<Stage>,
    random: Random,
    place: usize,
    /// Of the stage that runs: arrivals so far, as the integral of the rate.
    arrived: f64,
    /// What stands between the beginning of a stage and its first arrival.
    ahead: Vec<(Duration, Due)>,
    is_over: bool,
}

impl Schedule {
    pub fn new(stages: Vec<Stage>, seed: u64) -> Schedule {
        let mut bytes = [0x4C; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let random = Random::from_seed(bytes);
        let mut schedule =
            Schedule { stages, random, place: 0, arrived: 0.0, ahead: Vec::new(), is_over: false };
        schedule.begin();
        schedule
    }

    fn begin(&mut self) {
        self.arrived = 0.0;
        let Some(stage) = self.stages.get(self.place) else { return };
        if let What::Storm { operation, share, outage_seconds } = stage.what {
            let within = seconds(stage.seconds - outage_seconds);
            let at = seconds(stage.begins + outage_seconds);
            self.ahead.push((at, Due::Storm { operation, share, within }));
            if outage_seconds > 0.0 {
                self.ahead.push((at, Due::Outage(false)));
                self.ahead.push((seconds(stage.begins), Due::Outage(true)));
            }
        }
        self.ahead.push((seconds(stage.begins), Due::Stage(self.place)));
    }
}

/// What is next, and when, since the start of the run; [`Due::End`] is the last.
impl Iterator for Schedule {
    type Item = (Duration, Due);

    fn next(&mut self) -> Option<(Duration, Due)> {
        loop {
            if let Some(next) = self.ahead.pop() {
                return Some(next);
            }
            let Some(stage) = self.stages.get(self.place) else {
                if std::mem::replace(&mut self.is_over, true) {
                    return None;
                }
                let end = self.stages.last().map_or(0.0, |last| last.begins + last.seconds);
                return Some((seconds(end), Due::End));
            };
            if let What::Arrivals { arrivals, per_second, to_per_second, mix } = &stage.what {
                self.arrived += match arrivals {
                    Arrivals::Constant => 1.0,
                    // 1 - u is never 0.
                    Arrivals::Poisson => -(1.0 - fraction(&mut self.random)).ln(),
                };
                let at = time_of(self.arrived, *per_second, *to_per_second, stage.seconds);
                if let Some(at) = at {
                    let operation = draw(mix, fraction(&mut self.random));
                    return Some((seconds(stage.begins + at), Due::Arrival(operation)));
                }
            }
            self.place += 1;
            self.begin();
        }
    }
}

/// When so many arrivals are there, in seconds since the start of a stage whose rate goes in a
/// straight line from `from` to `to`: the integral of the rate, turned around. `None` behind its
/// end.
fn time_of(arrived: f64, from: f64, to: f64, length: f64) -> Option<f64> {
    let slope = (to - from) / length;
    let at = if slope.abs() < 1e-12 {
        arrived / from
    } else {
        let root = from * from + 2.0 * slope * arrived;
        if root < 0.0 {
            return None;
        }
        // As a quotient, which loses no digits where the slope is small.
        2.0 * arrived / (from + root.sqrt())
    };
    (at.is_finite() && at < length).then_some(at)
}

fn draw(mix: &Mix, fraction: f64) -> Operation {
    let all: f64 = mix.values().sum();
    let mut rest = fraction * all;
    for (operation, share) in mix {
        rest -= share;
        if rest < 0.0 && *share > 0.0 {
            return *operation;
        }
    }
    // Rounding: the last that has a share.
    let last = mix.iter().rev().find(|(_, share)| **share > 0.0);
    last.map_or(Operation::Register, |(operation, _)| *operation)
}

/// Uniform in `0.0..1.0`.
pub fn fraction(random: &mut Random) -> f64 {
    (random.u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(model: &str, seed: u64) -> Vec<(Duration, Operation)> {
        let stages = Model::parse(model).unwrap().stages().unwrap();
        let schedule = Schedule::new(stages, seed);
        let mut found = Vec::new();
        for (at, due) in schedule {
            if let Due::Arrival(operation) = due {
                found.push((at, operation));
            }
        }
        found
    }

    const POISSON: &str =
        "[[phase]]\nseconds = 200\nper_second = 50\nmix = { register = 3, deregister = 1 }";

    /// A seed is a run: the same one twice, another one differently.
    #[test]
    fn a_seed_repeats() {
        assert_eq!(arrivals(POISSON, 7), arrivals(POISSON, 7));
        assert_ne!(arrivals(POISSON, 7), arrivals(POISSON, 8));
    }

    /// ETSI TS 186 008-1: of a Poisson process, as many as the rate says, gaps as scattered as they
    /// are long, and the shares of the mix.
    #[test]
    fn poisson_arrivals() {
        let found = arrivals(POISSON, 1);
        let count = found.len() as f64;
        assert!((count - 10_000.0).abs() < 400.0, "{count}");
        let gaps: Vec<f64> =
            found.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let square = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        let variation = square.sqrt() / mean;
        assert!((variation - 1.0).abs() < 0.05, "{variation}");
        let registers = found.iter().filter(|(_, what)| *what == Operation::Register).count();
        assert!((registers as f64 / count - 0.75).abs() < 0.02, "{registers}");
    }

    #[test]
    fn constant_arrivals_and_ramps() {
        let constant = "[[phase]]\nseconds = 2\nper_second = 4\narrivals = \"constant\"\n\
            mix = { register = 1 }";
        let at: Vec<u128> = arrivals(constant, 1).iter().map(|(at, _)| at.as_millis()).collect();
        assert_eq!(at, [250, 500, 750, 1000, 1250, 1500, 1750]);
        let ramp = "[[phase]]\nseconds = 100\nper_second = 0\nto_per_second = 100\n\
            arrivals = \"constant\"\nmix = { register = 1 }";
        let found = arrivals(ramp, 1);
        // The area of a triangle; half of it lies behind 100 * sqrt(1/2) s.
        assert!((4_999..=5_000).contains(&found.len()), "{}", found.len());
        let middle = found[2_499].0.as_secs_f64();
        assert!((middle - 70.71).abs() < 0.05, "{middle}");
        let down = ramp
            .replace("per_second = 0\nto_per_second = 100", "per_second = 100\nto_per_second = 0");
        assert!((4_998..=5_000).contains(&arrivals(&down, 1).len()));
    }

    #[test]
    fn steps_and_storms() {
        let model = "[[phase]]\nname = \"a\"\nseconds = 10\nper_second = 5\nstep = 5\nsteps = 3\n\
            mix = { register = 1 }\n[[phase]]\nstorm = \"reregister\"\noutage_seconds = 20\n\
            seconds = 10\n[[phase]]\nseconds = 5";
        let stages = Model::parse(model).unwrap().stages().unwrap();
        let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["a 5/s", "a 10/s", "a 15/s", "phase 2", "phase 3"]);
        assert_eq!(stages[3].begins, 30.0);
        assert_eq!(stages[3].seconds, 30.0);
        assert!(stages[4].what.is_quiet());
        let schedule = Schedule::new(stages, 1);
        let rest: Vec<_> = schedule
            .filter(|(at, due)| at.as_secs() >= 30 && !matches!(due, Due::Arrival(_)))
            .map(|(at, due)| (at.as_secs(), due))
            .collect();
        let within = Duration::from_secs(10);
        let storm = Due::Storm { operation: Operation::Reregister, share: 1.0, within };
        let expected = [
            (30, Due::Stage(3)),
            (30, Due::Outage(true)),
            (50, Due::Outage(false)),
            (50, storm),
            (60, Due::Stage(4)),
            (65, Due::End),
        ];
        assert_eq!(rest, expected);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (model, cause) in [
            ("", "phase"),
            ("[[phase]]\nper_second = 1\nmix = { register = 1 }", "seconds"),
            ("[[phase]]\nseconds = 1\nper_second = 1", "mix"),
            ("[[phase]]\nseconds = 1\nper_second = -1\nmix = { register = 1 }", "rates"),
            ("[[phase]]\nseconds = 1\nper_second = 1\nmix = { call = 1 }", "call"),
            ("[[phase]]\nseconds = 1\nper_second = 1\nmix = { refresh = 1 }", "reregister"),
            ("[[phase]]\nseconds = 1\nper_second = 1\nstep = 1\nmix = { register = 1 }", "steps"),
            ("[[phase]]\nseconds = 1\nstorm = \"reboot\"\nper_second = 1", "no rate"),
            ("[[phase]]\nseconds = 1\nstorm = \"reboot\"\nshare = 2", "share"),
            ("[[phase]]\nseconds = 1\nspeed = 1", "speed"),
        ] {
            let error = Model::parse(model).and_then(|model| model.stages()).unwrap_err();
            assert!(error.contains(cause), "{model}: {error}");
        }
    }
}
