//! `lab check`: every scenario that the build knows, in this world; then what only a real wire can
//! show. `lab check matrix` runs [`crate::matrix`] instead, and so on. Each runs on a thread of its own and
//! asks the loop of the lab for what it needs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::net::client;
use nix::sys::signal::Signal;
use scenarios::{Function, Line, Phone, Scenario, Standing, World};
use serde::Serialize;
use tokio::sync::mpsc;
use ue::Faults;

use crate::diagnosis;
use crate::endurance;
use crate::handsets::Model;
use crate::laboratory::{Ask, Laboratory};
use crate::load;
use crate::matrix;
use crate::mobility;
use crate::outages;
use crate::paths;
use crate::processes;
use crate::schemes;
use crate::subscribers::Subscribers;
use crate::wire;

/// Between two looks at a condition.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// A daemon that does not answer in this time is not ready.
const READY_PATIENCE: Duration = Duration::from_secs(2);
const RESTART_LIMIT: Duration = Duration::from_secs(20);

/// Which checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Part {
    /// Every scenario, and what only a wire can show.
    Scenarios,
    /// Every pair of algorithms over UDP and TCP, each association looked at.
    Matrix,
    /// Many re-registrations with new authentication, by --ues phones, --count in all.
    Endurance,
    /// Other ways to authenticate than AKAv1 with a card, and an SLF.
    Schemes,
    /// What takes the place of a P-CSCF, of an entry point, of a server or of a DNS that is gone.
    Outages,
    /// The load generator, with --ues phones [default: 200], and what it says of itself.
    Load,
}

/// What is to run.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub part: Part,
    /// Of the part `endurance`.
    pub count: usize,
    /// Of all parts but `matrix` and `endurance`, those alone whose name has one of these in it; empty: all.
    pub only: Vec<String>,
}

impl Wanted {
    pub fn has(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part))
    }
}

/// What became of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub name: String,
    pub shows: String,
    pub seconds: f64,
    /// Absent: passed.
    pub error: Option<String>,
}

/// The world of scenarios in front of the lab's loop.
pub struct LabWorld {
    asks: mpsc::Sender<Ask>,
    http: BTreeMap<&'static str, SocketAddr>,
}

impl LabWorld {
    /// Has the loop do something, and waits for its answer. A loop that is gone answers nothing.
    pub fn ask<T: Default + Send + 'static>(
        &self,
        what: impl FnOnce(&mut Laboratory) -> T + Send + 'static,
    ) -> T {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let ask: Ask = Box::new(move |laboratory| {
            let _ = sender.send(what(laboratory));
        });
        if self.asks.blocking_send(ask).is_err() {
            return T::default();
        }
        receiver.recv().unwrap_or_default()
    }

    /// Where the LTE transport takes commands.
    pub fn lte_address(&self) -> Option<SocketAddr> {
        self.http.get("lte").copied()
    }

    /// A command of the LTE transport.
    pub fn lte(&self, words: &[&str]) -> Result<String, String> {
        let at = self.lte_address().ok_or("the LTE transport does not run")?;
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        lte::admin::ask(at, words)
    }

    /// As [`World::until`], with what is known of this world alone.
    pub fn until_here(
        &mut self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&mut LabWorld) -> bool,
    ) -> Result<(), String> {
        let begin = Instant::now();
        while !holds(self) {
            if begin.elapsed() > limit {
                return Err(format!("{what}: not within {limit:?}"));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Also of a process that scenarios have no name for, as the following.
    pub fn metric_of(&self, process: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.http.get(process).map_or(0.0, |at| processes::metric(*at, name, labels))
    }

    pub fn command_process(&self, process: &str, words: &[&str]) {
        let Some(address) = self.http.get(process) else { return };
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        if let Err(error) = client::command(Some(*address), &words) {
            eprintln!("{process}: {error}");
        }
    }

    pub fn kill_process(&self, process: &'static str) {
        self.ask(move |laboratory| {
            if let Some(process) = laboratory.processes.get_mut(process) {
                process.kill();
            }
        });
    }

    /// Returns when it is ready.
    pub fn start_process(&self, process: &'static str) {
        let started = self.ask(move |laboratory| laboratory.start_again(process).err());
        if let Some(error) = started {
            eprintln!("{error}");
            return;
        }
        let Some(address) = self.http.get(process) else { return };
        let begin = Instant::now();
        while begin.elapsed() < RESTART_LIMIT {
            let answer = processes::fetch(*address, "/readyz", READY_PATIENCE);
            if answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

impl World for LabWorld {
    fn add_phone(&mut self, phone: Phone) -> usize {
        let faults = Faults {
            stale_sqn: phone == Phone::CardAhead,
            wrong_k: phone == Phone::WrongKey,
            wrong_response: phone == Phone::WrongResponse,
            wrong_security_verify: phone == Phone::AlteredSecurityVerify,
            ..Faults::default()
        };
        let is_known = phone != Phone::Unknown;
        let is_behind_nat = phone == Phone::BehindNat;
        let expires_seconds = (phone == Phone::Hasty).then_some(1);
        let reg_id = (phone == Phone::WithFlow).then_some(1);
        let is_elsewhere = phone == Phone::ContactElsewhere;
        let needs_server = phone == Phone::NeedsServer;
        let number = self.ask(move |laboratory| {
            let model = Model {
                faults,
                is_behind_nat,
                expires_seconds,
                reg_id,
                is_elsewhere,
                needs_server,
                ..Model::default()
            };
            laboratory.add_phone(is_known, model)
        });
        number.unwrap_or(usize::MAX)
    }

    fn add_emergency_phone(&mut self, of: usize) -> usize {
        let number = self.ask(move |laboratory| Some(laboratory.add_emergency_phone(of)));
        number.unwrap_or(usize::MAX)
    }

    fn register(&mut self, ue: usize) {
        self.ask(move |laboratory| laboratory.handsets.register(ue));
    }

    fn reregister(&mut self, ue: usize) {
        self.ask(move |laboratory| laboratory.handsets.register(ue));
    }

    fn deregister(&mut self, ue: usize) {
        self.ask(move |laboratory| laboratory.handsets.deregister(ue));
    }

    fn standing(&mut self, ue: usize) -> Standing {
        let standing = self.ask(move |laboratory| Some(laboratory.handsets.standing(ue)));
        standing.unwrap_or(Standing::Idle)
    }

    fn completed(&mut self, ue: usize) -> u64 {
        self.ask(move |laboratory| laboratory.handsets.completed(ue))
    }

    fn notified(&mut self, ue: usize) -> u64 {
        self.ask(move |laboratory| laboratory.handsets.notified(ue))
    }

    fn gruus(&mut self, ue: usize) -> Option<(String, String)> {
        self.ask(move |laboratory| laboratory.handsets.gruus(ue))
    }

    fn private_identity(&mut self, ue: usize) -> String {
        self.ask(move |laboratory| laboratory.handsets.private_identity(ue))
    }

    fn telephone(&mut self, ue: usize) -> String {
        self.ask(move |laboratory| Subscribers::telephone(laboratory.handsets.subscriber(ue)))
    }

    fn command(&mut self, of: Function, words: &[&str]) {
        self.command_process(of.name(), words);
    }

    fn metric(&mut self, of: Function, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.http.get(of.name()).map_or(0.0, |at| processes::metric(*at, name, labels))
    }

    fn line(&mut self, ue: usize) -> Option<Line> {
        self.ask(move |laboratory| laboratory.handsets.line(ue))
    }

    fn inject(&mut self, ue: usize, packet: Vec<u8>) {
        self.ask(move |laboratory| laboratory.handsets.inject(ue, &packet));
    }

    fn reboot(&mut self, ue: usize) {
        self.ask(move |laboratory| laboratory.handsets.reboot(ue));
    }

    fn rebind(&mut self, ue: usize) {
        self.ask(move |laboratory| laboratory.handsets.rebind(ue));
    }

    fn kill(&mut self, function: Function) {
        self.kill_process(function.name());
    }

    fn drain(&mut self, function: Function) {
        self.ask(move |laboratory| {
            if let Some(process) = laboratory.processes.get(function.name()) {
                process.signal(Signal::SIGTERM);
            }
        });
    }

    fn start(&mut self, function: Function) {
        self.start_process(function.name());
    }

    fn hang(&mut self, function: Function, hangs: bool) {
        let signal = if hangs { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.ask(move |laboratory| {
            if let Some(process) = laboratory.processes.get(function.name()) {
                process.signal(signal);
            }
        });
    }

    fn until(
        &mut self,
        what: &str,
        limit: Duration,
        condition: &mut dyn FnMut(&mut dyn World) -> bool,
    ) -> Result<(), String> {
        self.until_here(what, limit, |world| condition(world))
    }
}

/// Runs a part, one check after the other, while the loop of the lab goes on. One line for each.
pub async fn run(laboratory: &mut Laboratory, wanted: Wanted) -> Vec<Outcome> {
    let ues = laboratory.options.ues;
    let (sender, mut asks) = mpsc::channel::<Ask>(16);
    let http = laboratory.http();
    let (outcomes_sender, mut outcomes) = mpsc::channel::<Outcome>(16);
    let thread = std::thread::spawn(move || {
        let mut world = LabWorld { asks: sender, http };
        // Nobody listens any more: what is left need not run.
        let mut tell = |outcome| outcomes_sender.blocking_send(outcome).is_ok();
        match wanted.part {
            Part::Scenarios => run_scenarios(&mut world, &wanted, &mut tell),
            Part::Matrix => matrix::run(&mut world, &mut tell),
            Part::Endurance => endurance::run(&mut world, ues, wanted.count, &mut tell),
            Part::Schemes => {
                schemes::run(&mut world, &wanted, &mut tell);
            }
            Part::Outages => {
                outages::run(&mut world, &wanted, &mut tell);
            }
            Part::Load => {
                load::run_checks(&mut world, &wanted, &mut tell);
            }
        }
    });
    let mut all = Vec::new();
    loop {
        while let Ok(outcome) = outcomes.try_recv() {
            print(&outcome);
            all.push(outcome);
        }
        if thread.is_finished() && outcomes.is_empty() {
            break;
        }
        laboratory.step(&mut asks).await;
    }
    if thread.join().is_err() {
        let error = Some("a scenario panicked".to_owned());
        all.push(Outcome { name: "scenarios".into(), shows: String::new(), seconds: 0.0, error });
    }
    all
}

/// Name of a check of the laboratory's own, what it shows, and what it does.
pub type Check = (&'static str, &'static str, fn(&mut LabWorld) -> Result<(), String>);

/// Runs those that are wanted; false when nobody wants more.
pub fn run_all(
    checks: &[Check],
    world: &mut LabWorld,
    wanted: &Wanted,
    tell: &mut Tell<'_>,
) -> bool {
    checks.iter().filter(|(name, ..)| wanted.has(name)).all(|(name, shows, check)| {
        let begin = Instant::now();
        let result = check(world);
        tell(outcome(name, shows, begin, result))
    })
}

/// Takes the outcome of a check; false when nobody wants more.
pub type Tell<'a> = dyn FnMut(Outcome) -> bool + 'a;

fn run_scenarios(world: &mut LabWorld, wanted: &Wanted, tell: &mut Tell<'_>) {
    for scenario in scenarios::all().filter(|scenario| wanted.has(scenario.name)) {
        if !tell(run_one(scenario, world)) {
            return;
        }
    }
    let begin = Instant::now();
    let shows = "packets and, with XFRM, states as the data plane itself counts them";
    if wanted.has("esp_counters_move") {
        let counted = outcome("esp_counters_move", shows, begin, esp_counters_move(world));
        if !tell(counted) {
            return;
        }
    }
    let begin = Instant::now();
    let shows =
        "a foreign SPI and a replayed packet are in the log, the latter with its subscriber";
    if wanted.has("drops_are_told") {
        let result = diagnosis::drops_are_told(world);
        if !tell(outcome("drops_are_told", shows, begin, result)) {
            return;
        }
    }
    if !mobility::run(world, wanted, tell) || !paths::run(world, wanted, tell) {
        return;
    }
    for check in wire::ALL.iter().filter(|check| wanted.has(check.name)) {
        let begin = Instant::now();
        let result = run_wire(check, world);
        if !tell(outcome(check.name, check.shows, begin, result)) {
            return;
        }
    }
}

fn run_one(scenario: &Scenario, world: &mut LabWorld) -> Outcome {
    let begin = Instant::now();
    let result = (scenario.run)(world);
    outcome(scenario.name, scenario.shows, begin, result)
}

/// TS 33.203 §7.1: a registration moves the counters of the data plane in both directions, which are the
/// kernel's own where XFRM carries ESP; and the kernel has four states for each set that the
/// P-CSCF knows.
fn esp_counters_move(world: &mut LabWorld) -> Result<(), String> {
    let packets = |world: &mut LabWorld| {
        ["in", "out"].map(|direction| {
            let labels = [("direction", direction)];
            world.metric(Function::Pcscf, "tessera_ipsec_packets_total", &labels)
        })
    };
    if world.metric(Function::Pcscf, "tessera_ipsec_plane", &[]) == 0.0 {
        // `--ipsec off`: nothing carries ESP.
        return Ok(());
    }
    let before = packets(world);
    let ue = world.add_phone(Phone::Good);
    world.register(ue);
    world.until("the registration", Duration::from_secs(30), &mut |world| {
        world.standing(ue) == Standing::Registered
    })?;
    let after = packets(world);
    if after[0] <= before[0] || after[1] <= before[1] {
        return Err(format!("packets in and out: {after:?}, {before:?} before"));
    }
    let is_xfrm = [("plane", "xfrm")];
    if world.metric(Function::Pcscf, "tessera_ipsec_plane", &is_xfrm) == 1.0 {
        let states = world.metric(Function::Pcscf, "tessera_ipsec_kernel_states", &[]);
        let sets = world.metric(Function::Pcscf, "tessera_pcscf_security_association_sets", &[]);
        if states != 4.0 * sets {
            return Err(format!("{states} states in the kernel for {sets} sets"));
        }
    }
    Ok(())
}

/// A phone registers, and what passed on the links meanwhile is looked at.
fn run_wire(check: &wire::Check, world: &mut LabWorld) -> Result<(), String> {
    world.ask(|laboratory| laboratory.recent.clear());
    let ue = world.add_phone(Phone::Good);
    world.register(ue);
    let limit = Duration::from_secs(30);
    world.until("the registration ends", limit, &mut |world| {
        !matches!(world.standing(ue), Standing::Busy)
    })?;
    let standing = world.standing(ue);
    if standing != Standing::Registered {
        return Err(format!("not registered: {standing:?}"));
    }
    // The last packets are on their way from the sockets to the loop.
    std::thread::sleep(Duration::from_millis(300));
    let run = check.run;
    let result = world.ask(move |laboratory| {
        let Some(address) = laboratory.handsets.address(ue) else {
            return Some("the phone has no address".to_owned());
        };
        run(&laboratory.recent, address).err()
    });
    result.map_or(Ok(()), Err)
}

pub fn outcome(name: &str, shows: &str, begin: Instant, result: Result<(), String>) -> Outcome {
    Outcome {
        name: name.to_owned(),
        shows: shows.to_owned(),
        seconds: begin.elapsed().as_secs_f64(),
        error: result.err(),
    }
}

fn print(outcome: &Outcome) {
    let Outcome { name, shows, seconds, error } = outcome;
    match error {
        None => println!("ok    {name:42} {seconds:8.3} s  {shows}"),
        Some(error) => println!("FAIL  {name:42} {seconds:8.3} s  {error}"),
    }
}
