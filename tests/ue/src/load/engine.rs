//! One thread, one loop: arrivals that are due, packets that are there, timers that have come, and
//! sleep until the next of them. Nothing waits for an answer before it offers the next attempt.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::node::Now;
use common::random::Random;
use lte::attach::IpVersion;

use crate::load::fleet::{Fleet, Habits};
use crate::load::link::{Access, Link, Received};
use crate::load::live::Live;
use crate::load::measure::Tally;
use crate::load::metrics::Metrics;
use crate::load::model::{Due, Operation, Schedule, Stage, What, fraction};
use crate::load::population::Subscriber;
use crate::load::report::{Conditions, Report};
use crate::load::scrape::Scraper;
use crate::load::watch::{Limits, Watch};

/// Of one kind before the others get their turn.
const BATCH: usize = 32;
/// Attaches that may be unanswered.
const ATTACHES: usize = 256;
/// How long no attach may be answered.
const ATTACH_PATIENCE: Duration = Duration::from_secs(10);
/// How long to sleep when nothing is due: signals are looked at behind it.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// For what is under way when a signal ends the run.
const INTERRUPTED_DRAIN: Duration = Duration::from_secs(5);

/// Signals that asked for the end.
static INTERRUPTS: AtomicU8 = AtomicU8::new(0);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Run {
    pub access: Access,
    pub habits: Habits,
    pub stages: Vec<Stage>,
    pub seed: u64,
    pub slow_after: Duration,
    pub limits: Limits,
    /// How long what is under way may take after the last arrival.
    pub drain: Duration,
    /// Deregister all at the end, within that.
    pub leave: Option<Duration>,
}

/// A clock that never goes back: the time of day at its start, and what has passed since.
#[derive(Clone, Copy, Debug)]
struct Clock {
    started: Instant,
    started_at: Now,
}

impl Clock {
    fn start() -> Clock {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), started_at: Now::since_epoch(since_epoch) }
    }

    fn now(&self) -> Now {
        self.started_at + self.started.elapsed()
    }
}

/// All that runs. It may run several times, with other stages.
pub struct Engine {
    clock: Clock,
    link: Link,
    fleet: Fleet,
    version: Option<IpVersion>,
    random: Random,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}

/// SIGINT and SIGTERM end the run in order; a second one at once.
///
/// # Errors
/// The system does not let us.
pub fn heed_signals() -> Result<(), String> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn heard(_: libc::c_int) {
        INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    }
    let action = SigAction::new(SigHandler::Handler(heard), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only counts in an atomic.
        unsafe { sigaction(signal, &action) }.map_err(|error| format!("signals: {error}"))?;
    }
    Ok(())
}

fn seed_of_system() -> Result<[u8; 32], String> {
    use rand::TryRngCore;
    let mut seed = [0; 32];
    let filled = rand::rngs::OsRng.try_fill_bytes(&mut seed);
    filled.map_err(|error| format!("no random numbers: {error}"))?;
    Ok(seed)
}

fn interrupts() -> u8 {
    INTERRUPTS.load(Ordering::Relaxed)
}

impl Engine {
    /// Opens the link and gives each UE a bearer.
    ///
    /// # Errors
    /// What this host lacks, or that the network gives no bearer.
    pub fn prepare(
        run: &Run,
        subscribers: Vec<Subscriber>,
        metrics: Metrics,
        live: &mut Live,
    ) -> Result<Engine, String> {
        let link = Link::open(&run.access, subscribers.len())?;
        let tally = Tally::new(0, run.slow_after, metrics);
        let phones = Random::from_seed(seed_of_system()?);
        let fleet = Fleet::new(subscribers, run.habits.clone(), run.seed, phones, tally);
        let version = match run.access {
            Access::Radio { version, .. } => Some(version),
            _ => None,
        };
        let mut bytes = [0x45; 32];
        bytes[..8].copy_from_slice(&run.seed.to_be_bytes());
        let random = Random::from_seed(bytes);
        let mut engine = Engine { clock: Clock::start(), link, fleet, version, random };
        engine.attach(live)?;
        Ok(engine)
    }

    fn attach(&mut self, live: &mut Live) -> Result<(), String> {
        let count = self.fleet.len();
        let Some(version) = self.version else {
            for number in 0..count as u32 {
                let address = self.link.address(number);
                let address = address.ok_or("there are not so many addresses")?;
                let mtu = self.link.mtu();
                self.fleet.place(number, address, mtu, None);
            }
            return Ok(());
        };
        let mut asked = 0;
        let mut heard = Instant::now();
        while self.fleet.ready() < count {
            while asked < count && asked < self.fleet.ready() + ATTACHES {
                let imsi = self.fleet.imsi(asked as u32).map(str::to_owned);
                let imsi = imsi.ok_or("a UE without IMSI cannot attach to the LTE transport")?;
                self.link.attach(asked as u32, &imsi, version);
                asked += 1;
            }
            match self.link.receive() {
                Some(Received::Attached(number, attached)) => {
                    self.fleet.attached(number, attached);
                    heard = Instant::now();
                    live.attaching(self.fleet.ready(), count);
                }
                Some(Received::Refused(number, reason)) => {
                    self.fleet.refused(number, reason);
                    heard = Instant::now();
                }
                Some(Received::Gone(why)) => return Err(why),
                Some(Received::Packet(..)) => {}
                None => self.link.wait(LONGEST_SLEEP),
            }
            self.link.flush();
            if heard.elapsed() > ATTACH_PATIENCE {
                let ready = self.fleet.ready();
                return Err(format!("the eNodeB answers no attach ({ready} of {count} so far)"));
            }
            if interrupts() > 0 {
                return Err("interrupted while UEs attached".to_owned());
            }
        }
        match (self.fleet.attached_count(), &self.fleet.refusal) {
            (0, Some(reason)) => Err(format!("no bearer for anybody: {reason}")),
            (some, Some(reason)) => {
                live.note(&format!("{} of {count} UEs got no bearer: {reason}", count - some));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// UEs that are registered now.
    pub fn registered(&self) -> u64 {
        self.fleet.registered()
    }

    /// Runs the stages, waits for what is under way, and says what came of it.
    pub fn run(
        &mut self,
        run: &Run,
        conditions: Conditions,
        scraper: &mut Scraper,
        live: &mut Live,
    ) -> Report {
        let mut stages = run.stages.clone();
        if let Some(leave) = run.leave {
            let begins = stages.last().map_or(0.0, |last| last.begins + last.seconds);
            let what =
                What::Storm { operation: Operation::Deregister, share: 1.0, outage_seconds: 0.0 };
            let seconds = leave.as_secs_f64();
            stages.push(Stage { name: "deregister all".to_owned(), begins, seconds, what });
        }
        let metrics = self.fleet.tally.metrics.clone();
        self.fleet.tally = Tally::new(stages.len(), run.slow_after, metrics);
        self.fleet.stage = 0;
        let began = self.clock.now();
        let mut going = Going {
            schedule: Schedule::new(run.stages.clone(), run.seed),
            next: None,
            storm: BinaryHeap::new(),
            watch: Watch::new(run.limits),
            began,
            second_began: began,
            end: End::Offering,
            is_interrupted: false,
            gone: None,
            packets: (self.fleet.packets_sent, self.fleet.packets_received),
            lost: self.link.lost(),
            load_ended: None,
        };
        going.advance();
        live.began(&stages, self.fleet.len());
        while !self.turn(run, &stages, &mut going, scraper, live) {}
        self.fleet.give_up(self.clock.now(), "unfinished");
        self.second(&stages, &mut going, scraper, live);
        live.ended();

        let verdict = self.verdict(&mut going);
        if going.is_interrupted
            && let Some(ended) = going.load_ended
        {
            // Only what has run.
            let ran = ended.since(began).as_secs_f64();
            for stage in &mut stages {
                stage.seconds = stage.seconds.min((ran - stage.begins).max(0.0));
            }
        }
        let servers = scraper.report();
        let tally = &mut self.fleet.tally;
        let mut report = Report::of_tally(conditions, &stages, tally, verdict, servers);
        report.is_interrupted = going.is_interrupted;
        report.registered_at_end = self.fleet.registered();
        if let Some(why) = going.gone {
            report.generator.is_valid = false;
            report.generator.reasons.push(why);
        }
        report
    }

    fn verdict(&self, going: &mut Going) -> crate::load::watch::Verdict {
        let watch = &mut going.watch;
        watch.packets_sent = self.fleet.packets_sent - going.packets.0;
        watch.packets_received = self.fleet.packets_received - going.packets.1;
        let mut lost = self.link.lost();
        lost.received -= going.lost.received;
        lost.sent -= going.lost.sent;
        let stages = &self.fleet.tally.stages;
        let offered = stages.iter().map(|stage| stage.offered).sum();
        let unplaced = stages.iter().map(|stage| stage.unplaced).sum();
        watch.verdict(lost, offered, unplaced)
    }

    /// One turn; true when all is over.
    fn turn(
        &mut self,
        run: &Run,
        stages: &[Stage],
        going: &mut Going,
        scraper: &mut Scraper,
        live: &mut Live,
    ) -> bool {
        let mut now = self.clock.now();
        for _ in 0..BATCH {
            let Some((at, due)) = going.next.filter(|(at, _)| *at <= now) else { break };
            going.advance();
            self.due(now, at, due, going, run);
            now = self.clock.now();
        }
        for _ in 0..BATCH {
            let Some(Reverse((at, number, operation))) = going.storm.peek().copied() else { break };
            if at > now {
                break;
            }
            going.storm.pop();
            self.arrive(now, at, operation, Some(number), going);
            now = self.clock.now();
        }
        let mut is_drained = false;
        for _ in 0..BATCH {
            match self.link.receive() {
                Some(Received::Packet(number, packet)) => {
                    self.fleet.packet(self.clock.now(), number, packet, &mut self.link);
                }
                Some(Received::Refused(number, reason)) => self.fleet.refused(number, reason),
                Some(Received::Attached(..)) => {}
                Some(Received::Gone(why)) => {
                    going.gone = Some(why);
                    return true;
                }
                None => {
                    is_drained = true;
                    break;
                }
            }
        }
        for _ in 0..BATCH {
            let Some(late) = self.fleet.expire(self.clock.now(), &mut self.link) else { break };
            going.watch.timer(late);
        }
        self.link.flush();
        now = self.clock.now();
        if now.since(going.second_began) >= Duration::from_secs(1) {
            self.second(stages, going, scraper, live);
        }
        if self.is_over(run, stages, going, now) {
            return true;
        }
        if is_drained {
            let next_second = going.second_began + Duration::from_secs(1);
            let storm = going.storm.peek().map(|Reverse((at, ..))| *at);
            let arrival = going.next.map(|(at, _)| at);
            let next = [Some(next_second), storm, arrival, self.fleet.next_due()];
            let next = next.into_iter().flatten().min().unwrap_or(next_second);
            let patience = next.since(self.clock.now());
            if !patience.is_zero() {
                self.link.wait(patience.min(LONGEST_SLEEP));
            }
        }
        false
    }

    fn is_over(&mut self, run: &Run, stages: &[Stage], going: &mut Going, now: Now) -> bool {
        let heard = interrupts();
        if heard > 1 {
            going.is_interrupted = true;
            return true;
        }
        if heard == 1 && going.end == End::Offering {
            going.is_interrupted = true;
            going.next = None;
            going.storm.clear();
            self.fleet.is_outage = false;
            self.end_of_load(run, stages, going, now);
        }
        match going.end {
            End::Offering => false,
            End::Draining(until) | End::Leaving(until) => {
                let is_done = self.fleet.tally.in_flight == 0 && going.storm.is_empty();
                let is_late = now >= until;
                if !is_done && !is_late {
                    return false;
                }
                let Some(leave) = run.leave.filter(|_| matches!(going.end, End::Draining(_)))
                else {
                    return true;
                };
                self.fleet.stage = stages.len().saturating_sub(1);
                self.storm(now, Operation::Deregister, 1.0, leave, going);
                let limit = if going.is_interrupted { INTERRUPTED_DRAIN } else { run.drain };
                going.end = End::Leaving(now + leave + limit);
                false
            }
        }
    }

    fn end_of_load(&mut self, run: &Run, _: &[Stage], going: &mut Going, now: Now) {
        going.load_ended = Some(now);
        let drain = if going.is_interrupted { INTERRUPTED_DRAIN } else { run.drain };
        going.end = End::Draining(now + drain);
        self.fleet.tally.metrics.target_per_second.set(0.0);
    }

    fn due(&mut self, now: Now, at: Now, due: Due, going: &mut Going, run: &Run) {
        match due {
            Due::Stage(place) => {
                self.fleet.stage = place;
                let target = match run.stages[place].what {
                    What::Arrivals { per_second, .. } => per_second,
                    What::Storm { .. } => 0.0,
                };
                self.fleet.tally.metrics.target_per_second.set(target);
            }
            Due::Arrival(operation) => self.arrive(now, at, operation, None, going),
            Due::Outage(is_outage) => self.fleet.is_outage = is_outage,
            Due::Storm { operation, share, within } => {
                self.storm(at, operation, share, within, going);
            }
            Due::End => self.end_of_load(run, &[], going, now),
        }
    }

    fn storm(
        &mut self,
        at: Now,
        operation: Operation,
        share: f64,
        within: Duration,
        going: &mut Going,
    ) {
        for number in self.fleet.candidates(operation) {
            if fraction(&mut self.random) < share {
                let after = within.mul_f64(fraction(&mut self.random));
                going.storm.push(Reverse((at + after, number, operation)));
            }
        }
    }

    /// An attempt that is meant to begin at `at`.
    fn arrive(
        &mut self,
        now: Now,
        at: Now,
        operation: Operation,
        number: Option<u32>,
        going: &mut Going,
    ) {
        let late = now.since(at);
        going.watch.arrival(late);
        self.fleet.tally.late(late);
        let number = match number {
            Some(number) => Some(number).filter(|number| self.fleet.can(*number, operation)),
            None => self.fleet.draw(operation),
        };
        match number {
            Some(number) => self.fleet.begin(now, number, operation, at, &mut self.link),
            None => {
                let stage = self.fleet.stage;
                self.fleet.tally.unplaced(stage, operation);
            }
        }
    }

    fn second(
        &mut self,
        stages: &[Stage],
        going: &mut Going,
        scraper: &mut Scraper,
        live: &mut Live,
    ) {
        let now = self.clock.now();
        let lasted = now.since(going.second_began);
        let at = going.second_began.since(going.began).as_secs_f64();
        going.second_began = now;
        let cpu = going.watch.second(lasted);
        let servers = scraper.collect();
        let before = (going.watch.packets_sent, going.watch.packets_received);
        let verdict = self.verdict(going);
        let metrics = self.fleet.tally.metrics.clone();
        metrics.packets(verdict.packets_sent - before.0, verdict.packets_received - before.1);
        metrics.set_lost(verdict.packets_lost_sending, verdict.packets_lost_receiving);
        metrics.is_valid.set(f64::from(u8::from(verdict.is_valid)));
        if let Some(What::Arrivals { per_second, to_per_second, .. }) =
            stages.get(self.fleet.stage).map(|stage| &stage.what)
            && going.end == End::Offering
        {
            let stage = &stages[self.fleet.stage];
            let elapsed = now.since(going.began).as_secs_f64();
            let part = ((elapsed - stage.begins) / stage.seconds).clamp(0.0, 1.0);
            metrics.target_per_second.set(per_second + (to_per_second - per_second) * part);
        }
        let registered = self.fleet.registered();
        self.fleet.tally.close_second(at, registered, cpu, servers);
        live.second(&self.fleet.tally, self.fleet.stage, &verdict);
    }
}

/// Where a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Offering,
    /// Until nothing is under way, but not beyond that time.
    Draining(Now),
    Leaving(Now),
}

/// What changes while a run goes on.
struct Going {
    schedule: Schedule,
    next: Option<(Now, Due)>,
    /// What single UEs are meant to do, soonest first.
    storm: BinaryHeap<Reverse<(Now, u32, Operation)>>,
    watch: Watch,
    began: Now,
    second_began: Now,
    end: End,
    is_interrupted: bool,
    gone: Option<String>,
    /// Sent and received before this run.
    packets: (u64, u64),
    lost: crate::load::link::Lost,
    load_ended: Option<Now>,
}

impl Going {
    fn advance(&mut self) {
        let began = self.began;
        self.next = self.schedule.next().map(|(after, due)| (began + after, due));
    }
}
