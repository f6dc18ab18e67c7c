//! One phone from its first REGISTER to its last: registers, refreshes as often as asked, holds the
//! registration, deregisters.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::node::Now;
use common::random::Random;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::config::Config;
use crate::event::{Event, Kind};
use crate::phone::{Command, Input, Output, Phone};
use crate::program::End;
use crate::program::arguments::Plan;
use crate::program::bearer::{Bearer, Received};
use crate::program::report::Report;
use crate::program::verdict::{Facts, verdict};

/// The phone has one public identity.
const IDENTITY: usize = 0;
/// The unprotected port of a P-CSCF that the bearer names (TS 33.203 §7.1).
const SIP_PORT: u16 = 5060;
/// Longer than any IP packet and any record.
const BUFFER: usize = 70_000;
/// How long to sleep when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

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

    fn instant(&self, at: Now) -> Instant {
        self.started + at.since(self.started_at)
    }
}

/// Where the run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Until the registration and the refreshes asked for are done.
    Registering,
    Holding,
    /// Until the deregistration is answered.
    Leaving,
}

/// Carries out the plan.
pub async fn run(plan: Plan) -> End {
    let clock = Clock::start();
    let mut report = match Report::new(clock.started_at, plan.trace, plan.json.as_deref()) {
        Ok(report) => report,
        Err(error) => {
            let path = plan.json.unwrap_or_default();
            return End::Missing(format!("{}: {error}", path.display()));
        }
    };
    let end = match register(&plan, clock, &mut report).await {
        Ok(end) | Err(end) => end,
    };
    match &end {
        End::Registered => report.verdict(clock.now(), true, "registered as asked"),
        End::Refused(text) | End::Missing(text) => report.verdict(clock.now(), false, text),
    }
    end
}

async fn register(plan: &Plan, clock: Clock, report: &mut Report) -> Result<End, End> {
    let missing = |error: std::io::Error| End::Missing(error.to_string());
    let interrupt = signal(SignalKind::interrupt()).map_err(missing)?;
    let terminate = signal(SignalKind::terminate()).map_err(missing)?;
    let random = Random::from_seed(seed_of_system()?);
    let bearer = Bearer::open(&plan.access, plan.pcscf).await?;
    for advice in &bearer.advice {
        report.line(clock.now(), &format!("note: {advice}"));
    }
    let config = config(plan, &bearer)?;
    let (address, pcscf) = (config.address.to_string(), config.pcscfs[0].to_string());
    report.attached(clock.now(), &address, &pcscf, bearer.mtu);
    let mut session = Session {
        plan,
        clock,
        report,
        phone: Phone::new(config, random),
        bearer,
        facts: Facts::default(),
        stage: Stage::Registering,
        refreshes_left: plan.refreshes,
        wants_refresh: false,
        hold_until: None,
        last_failure: None,
        end: None,
    };
    session.give(Input::Command(Command::Register { identity: IDENTITY }));
    Ok(session.to_the_end(interrupt, terminate).await)
}

fn config(plan: &Plan, bearer: &Bearer) -> Result<Config, End> {
    let told = || Some(SocketAddr::new(bearer.pcscf?, SIP_PORT));
    let missing = || End::Missing("the bearer names no P-CSCF: --pcscf is needed".to_owned());
    let pcscf = plan.pcscf.or_else(told).ok_or_else(missing)?;
    let mut config = Config::new(plan.isim.clone(), bearer.address, pcscf);
    config.transport = plan.transport;
    config.ipsec = plan.ipsec;
    config.offers_udp_enc_tun = plan.behind_nat.is_some();
    config.behind_nat = plan.behind_nat.flatten();
    config.subscribes = plan.subscribes;
    config.contact_host = plan.contact_host.clone();
    config.reg_id = plan.reg_id;
    config.is_emergency = plan.is_emergency;
    config.icsis = plan.icsis.clone();
    config.iaris = plan.iaris.clone();
    config.algorithms = plan.algorithms.clone();
    config.expires_seconds = plan.expires_seconds;
    config.mtu = bearer.mtu;
    config.faults = plan.faults;
    Ok(config)
}

fn seed_of_system() -> Result<[u8; 32], End> {
    use rand::TryRngCore;
    let mut seed = [0; 32];
    let filled = rand::rngs::OsRng.try_fill_bytes(&mut seed);
    filled.map_err(|error| End::Missing(format!("no random numbers: {error}")))?;
    Ok(seed)
}

struct Session<'a> {
    plan: &'a Plan,
    clock: Clock,
    report: &'a mut Report,
    phone: Phone,
    bearer: Bearer,
    /// Of the procedure that runs.
    facts: Facts,
    stage: Stage,
    refreshes_left: u32,
    /// Once all of the phone's outputs are carried out.
    wants_refresh: bool,
    hold_until: Option<Instant>,
    /// The verdict on the last procedure that failed, until one succeeds.
    last_failure: Option<String>,
    end: Option<End>,
}

impl Session<'_> {
    async fn to_the_end(&mut self, mut interrupt: Signal, mut terminate: Signal) -> End {
        let mut buffer = vec![0; BUFFER];
        loop {
            if let Some(end) = self.end.take() {
                return end;
            }
            let idle = Instant::now() + IDLE;
            let due = self.phone.next_timeout().map_or(idle, |at| self.clock.instant(at));
            let hold_until = self.hold_until.unwrap_or(idle);
            tokio::select! {
                received = self.bearer.receive(&mut buffer) => match received {
                    Received::Packet(packet) => {
                        self.facts.packet_received(&packet);
                        self.give(Input::Packet(packet));
                    }
                    Received::Gone(why) => return End::Refused(format!("no bearer: {why}")),
                },
                () = tokio::time::sleep_until(due.min(idle)) => self.give(Input::Timeout),
                () = tokio::time::sleep_until(hold_until), if self.hold_until.is_some() => {
                    self.leave();
                }
                _ = interrupt.recv() => self.interrupted(),
                _ = terminate.recv() => self.interrupted(),
            }
        }
    }

    /// One input to the phone, and at once all that follows from it.
    fn give(&mut self, input: Input) {
        let now = self.clock.now();
        let mut out = Vec::new();
        self.phone.handle(now, input, &mut out);
        for output in out {
            match output {
                Output::Packet(packet) => {
                    self.facts.packet_sent(&packet);
                    self.bearer.send(&packet);
                }
                Output::Trace(trace) => {
                    self.facts.trace(&trace);
                    self.report.trace(now, &trace);
                }
                Output::Event(event) => self.on_event(now, &event),
            }
        }
        if std::mem::take(&mut self.wants_refresh) {
            self.give(Input::Command(Command::Register { identity: IDENTITY }));
        }
        let is_quiet = !self.phone.is_busy() && self.phone.registration(IDENTITY).is_none();
        if self.stage == Stage::Leaving && is_quiet && self.end.is_none() {
            self.end = Some(self.outcome());
        }
    }

    fn on_event(&mut self, now: Now, event: &Event) {
        self.report.event(now, event, self.phone.registration(IDENTITY));
        match event {
            Event::Registered { .. } => {
                self.facts = Facts::default();
                self.last_failure = None;
                if self.stage == Stage::Registering {
                    self.registered();
                }
            }
            Event::Deregistered { .. } => self.facts = Facts::default(),
            Event::ChallengeRefused { reason, .. } => self.facts.refused = Some(*reason),
            Event::Failed { kind, cause, retry_at, calls_unregistered, .. } => {
                let mut text = verdict(*kind, *cause, &self.facts);
                if *calls_unregistered {
                    text = format!(
                        "emergency registration refused, call without registration: {text}"
                    );
                }
                self.facts = Facts::default();
                self.failed(now, *kind, text, *retry_at);
            }
            Event::Watch { .. } => {}
            Event::Lost { .. } => {
                let text = "not registered any more: the associations or the registration ended";
                self.last_failure.get_or_insert_with(|| text.to_owned());
            }
        }
    }

    /// The first registration, or one of the refreshes asked for.
    fn registered(&mut self) {
        if self.refreshes_left > 0 {
            self.refreshes_left -= 1;
            self.wants_refresh = true;
            return;
        }
        self.stage = Stage::Holding;
        self.hold_until = self.plan.hold.map(|hold| Instant::now() + hold);
    }

    /// A registration that was held is tried again by the phone; all else ends here.
    fn failed(&mut self, now: Now, kind: Kind, text: String, retry_at: Option<Now>) {
        match (self.stage, retry_at) {
            (Stage::Holding, Some(at)) => {
                let seconds = at.since(now).as_secs();
                self.report.line(now, &format!("{text}; tries again in {seconds} s"));
                self.last_failure = Some(text);
            }
            (Stage::Leaving, _) if kind != Kind::Deregistration => self.last_failure = Some(text),
            _ => self.end = Some(End::Refused(text)),
        }
    }

    /// A signal: the first one deregisters, the second one only leaves.
    fn interrupted(&mut self) {
        if self.stage == Stage::Leaving {
            self.end = Some(End::Refused("interrupted before the deregistration".to_owned()));
            return;
        }
        if self.stage == Stage::Registering {
            let text = "interrupted before it was registered as asked".to_owned();
            self.last_failure.get_or_insert(text);
        }
        self.leave();
    }

    fn leave(&mut self) {
        self.hold_until = None;
        let is_registered = self.phone.registration(IDENTITY).is_some();
        // An emergency registration is left to expire (TS 24.229 §5.1.6.6).
        if self.plan.keep || self.plan.is_emergency || !is_registered {
            self.end = Some(self.outcome());
            return;
        }
        self.stage = Stage::Leaving;
        self.give(Input::Command(Command::Deregister { identity: IDENTITY }));
    }

    fn outcome(&mut self) -> End {
        match self.last_failure.take() {
            None => End::Registered,
            Some(text) => End::Refused(text),
        }
    }
}
