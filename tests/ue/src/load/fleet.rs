//! All UEs: phones, when each is due, and the attempt that each makes. Only the phone that has a
//! packet, a command or a timer is touched.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::aka::vector::Sqn;
use common::ipsec::agree::AlgorithmPair;
use common::node::{Now, Transport};
use common::random::Random;
use lte::attach::Attached;

use crate::config::{Config, Faults};
use crate::event::{Cause, Event, InvalidChallenge};
use crate::load::link::Link;
use crate::load::measure::{Ended, Tally};
use crate::load::model::{Operation, fraction};
use crate::load::population::Subscriber;
use crate::phone::{Command, Input, Output, Phone, Trace, spoil_key};
use crate::profile::Profile;

/// The phones have one public identity.
const IDENTITY: usize = 0;
/// Where a P-CSCF listens when only its address is known (RFC 3261 §19.1.2).
const SIP_PORT: u16 = 5060;
/// By how much a card is put ahead of the HSS: less than a card tolerates of an HSS
/// (TS 33.102 Annex C.2.1).
const AHEAD: u64 = 1 << 20;

/// What all phones have in common.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Absent: what the bearer says.
    pub pcscfs: Vec<SocketAddr>,
    pub transport: Transport,
    pub ipsec: bool,
    pub algorithms: Vec<AlgorithmPair>,
    pub expires_seconds: u32,
    /// Phones refresh and retry by themselves.
    pub automatic: bool,
    /// How long packets are lost in a radio loss.
    pub radio_loss: Duration,
    /// Phones subscribe to their registration state.
    pub subscribes: bool,
    /// Makes of phones, with their shares; nobody is of one when there are none.
    pub profiles: Vec<(Arc<Profile>, f64)>,
    /// The link carries nothing but UDP.
    pub udp_only: bool,
}

/// An attempt under way.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    operation: Operation,
    stage: usize,
    /// When it was meant to begin.
    intended: Now,
    challenged: Option<Now>,
    is_secured: bool,
    refused: Option<InvalidChallenge>,
}

struct Ue {
    /// Until there is a bearer.
    subscriber: Option<Subscriber>,
    phone: Option<Box<Phone>>,
    due: Option<Now>,
    attempt: Option<Attempt>,
    /// Its packets are lost until then.
    cut_until: Option<Now>,
    /// After the last attempt.
    is_registered: bool,
}

/// Numbers of UEs, any of which can be drawn and removed at once.
#[derive(Debug, Default)]
struct Pool {
    members: Vec<u32>,
    /// By number: its place in `members`.
    places: Vec<Option<u32>>,
}

pub struct Fleet {
    ues: Vec<Ue>,
    /// When each phone wants to be called, soonest first.
    due: BTreeSet<(Now, u32)>,
    /// UEs that do nothing, by what they are.
    idle: Pool,
    registered: Pool,
    registered_count: u64,
    random: Random,
    /// Of the phones: Call-IDs, SPIs and the like must be others in each run.
    phone_random: Random,
    habits: Habits,
    /// Nothing passes.
    pub is_outage: bool,
    /// Where attempts are counted that phones make by themselves.
    pub stage: usize,
    pub tally: Tally,
    pub packets_sent: u64,
    pub packets_received: u64,
    /// The last bearer that was refused.
    pub refusal: Option<String>,
    refusals: usize,
    out: Vec<Output>,
}

impl Pool {
    fn with_room(count: usize) -> Pool {
        Pool { members: Vec::with_capacity(count), places: vec![None; count] }
    }

    fn insert(&mut self, number: u32) {
        if self.places[number as usize].is_none() {
            self.places[number as usize] = Some(self.members.len() as u32);
            self.members.push(number);
        }
    }

    fn remove(&mut self, number: u32) {
        let Some(place) = self.places[number as usize].take() else { return };
        self.members.swap_remove(place as usize);
        if let Some(moved) = self.members.get(place as usize) {
            self.places[*moved as usize] = Some(place);
        }
    }

    fn draw(&self, random: &mut Random) -> Option<u32> {
        self.members.get(random.below(self.members.len() as u64) as usize).copied()
    }
}

impl Fleet {
    /// `seed` is of choices; the phones' own randomness is `random`.
    pub fn new(
        subscribers: Vec<Subscriber>,
        habits: Habits,
        seed: u64,
        random: Random,
        tally: Tally,
    ) -> Fleet {
        let count = subscribers.len();
        let mut bytes = [0x46; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        tally.metrics.population.set(count as f64);
        let ues = subscribers.into_iter().map(|subscriber| Ue {
            subscriber: Some(subscriber),
            phone: None,
            due: None,
            attempt: None,
            cut_until: None,
            is_registered: false,
        });
        Fleet {
            ues: ues.collect(),
            due: BTreeSet::new(),
            idle: Pool::with_room(count),
            registered: Pool::with_room(count),
            registered_count: 0,
            random: Random::from_seed(bytes),
            phone_random: random,
            habits,
            is_outage: false,
            stage: 0,
            tally,
            packets_sent: 0,
            packets_received: 0,
            refusal: None,
            refusals: 0,
            out: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.ues.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ues.is_empty()
    }

    pub fn imsi(&self, number: u32) -> Option<&str> {
        self.ues.get(number as usize)?.subscriber.as_ref()?.imsi.as_deref()
    }

    /// Has a bearer, or will never have one.
    pub fn ready(&self) -> usize {
        self.idle.members.len() + self.refusals
    }

    /// UEs with a bearer.
    pub fn attached_count(&self) -> usize {
        self.idle.members.len() + self.registered.members.len()
    }

    /// UEs whose last attempt left them registered.
    pub fn registered(&self) -> u64 {
        self.registered_count
    }

    /// Numbers of the UEs that could do it now.
    pub fn candidates(&self, operation: Operation) -> Vec<u32> {
        let pool = if operation.needs_registered() { &self.registered } else { &self.idle };
        pool.members.clone()
    }

    /// A bearer for UE number `number`.
    pub fn attached(&mut self, number: u32, attached: Attached) {
        self.place(number, SocketAddr::new(attached.address, SIP_PORT), attached.mtu.into(), {
            Some(SocketAddr::new(attached.pcscf, SIP_PORT))
        });
    }

    pub fn refused(&mut self, number: u32, reason: String) {
        if let Some(ue) = self.ues.get_mut(number as usize) {
            self.refusals += usize::from(ue.subscriber.take().is_some());
            self.refusal = Some(reason);
        }
    }

    /// UE number `number` is at that address; it may speak from that port in clear.
    pub fn place(
        &mut self,
        number: u32,
        address: SocketAddr,
        mtu: usize,
        pcscf: Option<SocketAddr>,
    ) {
        let Some(ue) = self.ues.get_mut(number as usize) else { return };
        let Some(subscriber) = ue.subscriber.take() else { return };
        let habits = &self.habits;
        let pcscfs = match habits.pcscfs.is_empty() {
            true => pcscf.into_iter().collect(),
            false => habits.pcscfs.clone(),
        };
        let first = pcscfs.first().copied().unwrap_or(address);
        let mut config = Config::new(subscriber.isim, address.ip(), first);
        config.pcscfs = pcscfs;
        config.transport = habits.transport;
        config.ipsec = habits.ipsec;
        config.algorithms = habits.algorithms.clone();
        config.unprotected_port = address.port();
        if !config.ipsec {
            // No port is a protected one.
            config.first_protected_port = 0;
        }
        config.instance_id =
            Some(format!("urn:gsma:imei:35209900-{:06}-0", u64::from(number) % 1_000_000));
        config.expires_seconds = habits.expires_seconds;
        if let Some(profile) = draw_profile(&habits.profiles, fraction(&mut self.random)) {
            config.follow(profile, number);
        }
        if habits.udp_only {
            config.transport = Transport::Udp;
        }
        config.automatic = habits.automatic;
        config.subscribes = habits.subscribes;
        config.mtu = mtu;
        ue.phone = Some(Box::new(Phone::new(config, self.phone_random.fork())));
        self.idle.insert(number);
    }

    // ---- Attempts.

    /// A UE in the state that the operation needs, if there is one.
    pub fn draw(&mut self, operation: Operation) -> Option<u32> {
        let pool = if operation.needs_registered() { &self.registered } else { &self.idle };
        pool.draw(&mut self.random)
    }

    /// Whether UE number `number` can begin it now.
    pub fn can(&self, number: u32, operation: Operation) -> bool {
        let pool = if operation.needs_registered() { &self.registered } else { &self.idle };
        pool.places[number as usize].is_some()
    }

    /// UE number `number` begins; it was meant to at `intended`.
    pub fn begin(
        &mut self,
        now: Now,
        number: u32,
        operation: Operation,
        intended: Now,
        link: &mut Link,
    ) {
        let stage = self.stage;
        self.idle.remove(number);
        self.registered.remove(number);
        let ue = &mut self.ues[number as usize];
        let Some(phone) = ue.phone.as_mut() else { return };
        let new = Attempt {
            operation,
            stage,
            intended,
            challenged: None,
            is_secured: false,
            refused: None,
        };
        ue.attempt = Some(new);
        let config = &mut phone.config;
        match operation {
            Operation::WrongKey => spoil_key(&mut config.isim.card.algorithm),
            Operation::WrongResponse => config.faults.wrong_response = true,
            Operation::Auts => {
                let seq_ms = &mut config.isim.card.seq_ms;
                let highest = seq_ms.iter().copied().max().unwrap_or(0);
                *seq_ms = [highest.saturating_add(AHEAD).min(Sqn::SEQ_MAX); 32];
            }
            Operation::RadioLoss => ue.cut_until = Some(now + self.habits.radio_loss),
            _ => {}
        }
        self.tally.offered(stage, operation);
        if operation == Operation::Reboot {
            self.give(now, number, Input::Command(Command::Forget), None, link);
        }
        let command = match operation {
            Operation::Deregister => Command::Deregister { identity: IDENTITY },
            _ => Command::Register { identity: IDENTITY },
        };
        self.give(now, number, Input::Command(command), None, link);
    }

    /// Ends what has not ended.
    pub fn give_up(&mut self, now: Now, cause: &str) {
        for number in 0..self.ues.len() as u32 {
            if self.ues[number as usize].attempt.is_some() {
                self.finish(now, number, false, cause.to_owned(), false);
            }
        }
    }

    // ---- Packets and times.

    pub fn packet(&mut self, now: Now, number: u32, packet: bytes::Bytes, link: &mut Link) {
        self.packets_received += 1;
        if (number as usize) < self.ues.len() && !self.is_cut(now, number) {
            self.give(now, number, Input::Packet(packet), None, link);
        }
    }

    pub fn next_due(&self) -> Option<Now> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Calls the phone that is due longest; gives by how much it was late.
    pub fn expire(&mut self, now: Now, link: &mut Link) -> Option<Duration> {
        let (at, number) = *self.due.first().filter(|(at, _)| *at <= now)?;
        self.give(now, number, Input::Timeout, Some(at), link);
        Some(now.since(at))
    }

    fn is_cut(&self, now: Now, number: u32) -> bool {
        self.is_outage || self.ues[number as usize].cut_until.is_some_and(|until| now < until)
    }

    /// One input to a phone, and all that follows from it. `due` is when its timer was meant.
    fn give(&mut self, now: Now, number: u32, input: Input, due: Option<Now>, link: &mut Link) {
        let is_cut = self.is_cut(now, number);
        let ue = &mut self.ues[number as usize];
        let Some(phone) = ue.phone.as_mut() else { return };
        let mut out = std::mem::take(&mut self.out);
        phone.handle(now, input, &mut out);
        let next = phone.next_timeout();
        if ue.due != next {
            if let Some(at) = ue.due {
                self.due.remove(&(at, number));
            }
            if let Some(at) = next {
                self.due.insert((at, number));
            }
            ue.due = next;
        }
        for output in out.drain(..) {
            match output {
                Output::Packet(_) if is_cut => {}
                Output::Packet(packet) => {
                    self.packets_sent += 1;
                    link.send(number, &packet);
                }
                Output::Trace(trace) => self.on_trace(now, number, &trace, due),
                Output::Event(event) => self.on_event(now, number, &event),
            }
        }
        self.out = out;
    }

    fn on_trace(&mut self, now: Now, number: u32, trace: &Trace, due: Option<Now>) {
        let ue = &mut self.ues[number as usize];
        match trace {
            // A phone does something by itself.
            Trace::Sent { bytes, .. } if ue.attempt.is_none() && bytes.starts_with(b"REGISTER") => {
                let operation = Operation::Refresh;
                let intended = due.unwrap_or(now);
                ue.attempt = Some(Attempt {
                    operation,
                    stage: self.stage,
                    intended,
                    challenged: None,
                    is_secured: false,
                    refused: None,
                });
                self.idle.remove(number);
                self.registered.remove(number);
                self.tally.offered(self.stage, operation);
            }
            Trace::Received { bytes, .. } if bytes.starts_with(b"SIP/2.0 401") => {
                if let Some(attempt) = &mut ue.attempt {
                    attempt.challenged.get_or_insert(now);
                }
            }
            Trace::SetInstalled { .. } => {
                if let Some(attempt) = &mut ue.attempt {
                    attempt.is_secured = true;
                }
            }
            _ => {}
        }
    }

    fn on_event(&mut self, now: Now, number: u32, event: &Event) {
        let attempt = self.ues[number as usize].attempt;
        match event {
            Event::Registered { is_authenticated, .. } => match attempt.map(|a| a.operation) {
                Some(operation @ (Operation::WrongKey | Operation::WrongResponse)) => {
                    let cause = format!("{operation}_accepted");
                    self.finish(now, number, false, cause, *is_authenticated);
                }
                Some(Operation::Auts) if attempt.is_some_and(|a| a.refused.is_none()) => {
                    self.finish(now, number, false, "not_challenged".to_owned(), false);
                }
                _ => self.finish(now, number, true, "ok".to_owned(), *is_authenticated),
            },
            Event::Deregistered { .. } => {
                let is_challenged = attempt.is_some_and(|a| a.challenged.is_some());
                self.finish(now, number, true, "ok".to_owned(), is_challenged);
            }
            Event::ChallengeRefused { reason, .. } => {
                if let Some(attempt) = &mut self.ues[number as usize].attempt {
                    attempt.refused = Some(*reason);
                }
            }
            Event::Failed { cause, .. } => {
                let is_wanted = attempt.is_some_and(|attempt| match attempt.operation {
                    Operation::WrongKey => attempt.refused == Some(InvalidChallenge::Mac),
                    Operation::WrongResponse => {
                        attempt.challenged.is_some() && matches!(cause, Cause::Refused(401 | 403))
                    }
                    _ => false,
                });
                let cause = if is_wanted { "ok".to_owned() } else { label(*cause) };
                let is_challenged = attempt.is_some_and(|a| a.challenged.is_some());
                self.finish(now, number, is_wanted, cause, is_challenged);
            }
            Event::Lost { .. } if attempt.is_none() => self.settle(number),
            Event::Lost { .. } | Event::Watch { .. } => {}
        }
    }

    fn finish(&mut self, now: Now, number: u32, is_success: bool, cause: String, challenged: bool) {
        let ue = &mut self.ues[number as usize];
        let Some(attempt) = ue.attempt.take() else { return self.settle(number) };
        let Some(phone) = ue.phone.as_mut() else { return };
        match attempt.operation {
            // The same once more is the key itself again.
            Operation::WrongKey => spoil_key(&mut phone.config.isim.card.algorithm),
            Operation::WrongResponse => phone.config.faults = Faults::default(),
            _ => {}
        }
        let since = |begin: Now| now.since(begin);
        let associations = attempt.challenged.filter(|_| is_success && attempt.is_secured);
        self.tally.ended(&Ended {
            stage: attempt.stage,
            operation: attempt.operation,
            is_success,
            cause,
            steps: [
                attempt.challenged.map(|at| at.since(attempt.intended)),
                associations.map(since),
                is_success.then(|| since(attempt.intended)),
            ],
            is_challenged: challenged,
        });
        self.settle(number);
    }

    /// Puts a UE that does nothing where it belongs.
    fn settle(&mut self, number: u32) {
        let ue = &mut self.ues[number as usize];
        let Some(phone) = &ue.phone else { return };
        let is_registered = phone.registration(IDENTITY).is_some();
        match (std::mem::replace(&mut ue.is_registered, is_registered), is_registered) {
            (false, true) => self.registered_count += 1,
            (true, false) => self.registered_count -= 1,
            _ => {}
        }
        self.idle.remove(number);
        self.registered.remove(number);
        match is_registered {
            true => self.registered.insert(number),
            false => self.idle.insert(number),
        }
    }
}

/// By the shares.
fn draw_profile(profiles: &[(Arc<Profile>, f64)], fraction: f64) -> Option<Arc<Profile>> {
    let all: f64 = profiles.iter().map(|(_, share)| share).sum();
    let mut rest = fraction * all;
    let drawn = profiles.iter().find(|(_, share)| {
        rest -= share;
        rest < 0.0
    });
    drawn.or(profiles.last()).map(|(profile, _)| profile.clone())
}

/// The name of a failure, for counters.
fn label(cause: Cause) -> String {
    match cause {
        Cause::Refused(status) => return status.to_string(),
        Cause::Timeout => "timeout",
        Cause::Unreachable => "unreachable",
        Cause::InvalidChallenges => "invalid_challenges",
        Cause::UnknownChallenge => "unknown_challenge",
        Cause::NoSecurityAgreement => "no_security_agreement",
        Cause::NetworkNotAuthentic => "network_not_authentic",
        Cause::NotBound => "not_bound",
        Cause::EmergencyStays => "emergency_stays",
        Cause::EmergencyNotDue => "emergency_not_due",
    }
    .to_owned()
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("ues", &self.ues.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_draw_whom_they_have() {
        let mut random = Random::from_seed([1; 32]);
        let mut pool = Pool::with_room(5);
        assert_eq!(pool.draw(&mut random), None);
        for number in [4, 1, 3, 1] {
            pool.insert(number);
        }
        pool.remove(4);
        pool.remove(4);
        assert_eq!(pool.members.len(), 2);
        for _ in 0..20 {
            assert!(matches!(pool.draw(&mut random), Some(1 | 3)));
        }
        pool.remove(3);
        pool.remove(1);
        pool.insert(0);
        assert_eq!(pool.draw(&mut random), Some(0));
    }
}
