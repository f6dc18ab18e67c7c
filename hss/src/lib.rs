//! Home Subscriber Server (TS 23.228 §4.2.4, TS 29.228 §6): subscribers, keys, assignments, on
//! SQLite.
//!
//! | on | clause | function |
//! |---|---|---|
//! | UAR: may this user register, and where | TS 29.228 §6.1.1 | [`uar::authorize`] |
//! | MAR: vectors, resynchronisation | TS 29.228 §6.3 | [`mar::authenticate`] |
//! | SAR: registration state, profile | TS 29.228 §6.1.2 | [`sar::assign`] |
//! | LIR: where is this user | TS 29.228 §6.1.4 | [`lir::locate`] |
//! | RTR, PPR: what the HSS begins | TS 29.228 §6.1.3, §6.2.2 | [`push`] |
//! | identities that are added and taken out | TS 29.228 §6.5.2 | [`implicit_set`] |
//! | any of them, as an SLF | TS 23.228 §5.8 | [`slf`] |
//! | commands of the operator | | [`admin`] |
//!
//! Each decision is a function over the [`database::Database`], so that it can be read and tested
//! alone. One turn is one transaction: [`Node::commit`] ends it before any answer leaves.
//!
//! [`provision`], [`import`] and [`entry`] bring subscribers in; [`keys`] seals their keys; [`schema`] is the
//! file an operator may read with any SQLite tool.

pub mod admin;
#[cfg(feature = "daemon")]
pub mod command;
pub mod config;
#[cfg(feature = "daemon")]
mod daemon;
pub mod database;
pub mod entry;
pub mod implicit_set;
pub mod import;
pub mod keys;
pub mod lir;
pub mod mar;
pub mod profile;
pub mod provision;
pub mod push;
mod records;
pub mod refusal;
pub mod sar;
pub mod schema;
pub mod slf;
pub mod stats;
pub mod uar;
mod undelivered;
pub mod wildcard;

use common::cx::{self, Answer, Event, Lia, Maa, Outcome, Received, Request, Rta, Saa, Uaa};
use common::diameter::base::result_code;
use common::diameter::endpoint::NoAnswer;
use common::node::{Input, Node, Now, Output};
use common::random::Random;
use common::stats::Samples;
use rusqlite::Connection;

use config::Config;
use database::{Assignment, Database, Server};
use keys::Vault;
use push::{Pushing, Termination};
use refusal::Refusal;
use stats::Stats;

pub struct Hss {
    config: Config,
    database: Database,
    vault: Vault,
    cx: cx::Endpoint<Wait>,
    random: Random,
    stats: Stats,
    /// Why the database could not be used last time.
    fault: Option<String>,
}

/// What waits for the answer to a request of ours.
#[derive(Debug)]
enum Wait {
    Terminated(Termination),
    ProfilePushed(Box<Pushing>),
}

/// What a finished procedure says about itself.
struct Finished<'a> {
    command: &'static str,
    user_name: &'a str,
    public_identity: &'a str,
    /// Who asked.
    peer: &'a str,
    outcome: Outcome,
    refusal: Option<Refusal>,
}

impl Hss {
    /// An HSS on a database, which may be empty. `config.key` must be there.
    ///
    /// # Errors
    /// A sentence for the operator: the database cannot be used, or another key sealed it.
    pub fn new(config: Config, connection: Connection, mut random: Random) -> Result<Hss, String> {
        let key = config.key.as_ref().ok_or("no key for the keys of subscribers")?;
        let vault = Vault::new(key);
        let database = Database::new(connection)?;
        provision::check_key(&database, &vault, &mut random)
            .map_err(|refusal| refusal.to_string())?;
        database.commit().map_err(|refusal| refusal.to_string())?;
        let cx = cx::Endpoint::new(config.diameter.clone(), random.fork(), &config.limits);
        Ok(Hss { config, database, vault, cx, random, stats: Stats::default(), fault: None })
    }

    /// Brings a subscriber in at once.
    ///
    /// # Errors
    /// Which field is wrong and why.
    pub fn provision(&mut self, subscriber: &provision::Subscriber) -> Result<(), String> {
        let added = self.database.procedure(|| {
            provision::add(&self.database, &self.vault, &mut self.random, subscriber)
        });
        added.and_then(|()| self.database.commit()).map_err(|refusal| refusal.to_string())
    }

    /// Every pair of private and public identity with its state, sorted.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn assignments(&self) -> Result<Vec<Assignment>, String> {
        self.database.assignments().map_err(|refusal| refusal.to_string())
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The connection, without what was not committed: what a crash leaves behind.
    pub fn into_connection(self) -> Connection {
        self.database.into_connection()
    }

    fn drain_events(&mut self, now: Now, out: &mut Vec<Output>) {
        while let Some(event) = self.cx.next_event() {
            match event {
                Event::Request(received) => self.serve(now, received, out),
                Event::Answer { wait: Wait::Terminated(wait), result } => {
                    self.terminated(now, wait, result, out);
                }
                Event::Answer { wait: Wait::ProfilePushed(wait), result } => {
                    self.profile_pushed(now, *wait, result, out);
                }
            }
        }
    }

    /// Decides and answers one request; nobody has to be waited for.
    fn serve(&mut self, now: Now, received: Received, out: &mut Vec<Output>) {
        if let Some(slf) = self.config.slf.clone() {
            return self.redirect(now, &slf, received, out);
        }
        self.tell_again(now, &received, out);
        let (answer, terminations) = self.decide(&received);
        self.cx.answer(now, received, answer, out);
        for termination in terminations {
            self.terminate(now, termination, out);
        }
    }

    fn decide(&mut self, received: &Received) -> (Answer, Vec<Termination>) {
        let server = |name: &str| Server {
            name: name.to_owned(),
            host: received.origin_host.clone(),
            realm: received.origin_realm.clone(),
        };
        let (database, config) = (&self.database, &self.config);
        let mut terminations = Vec::new();
        let (answer, refusal) = match &received.request {
            Request::Uar(uar) => {
                let result = database.procedure(|| uar::authorize(database, config, uar));
                let (answer, refusal) = split(result, |outcome| Uaa { outcome, ..Uaa::default() });
                (Answer::Uaa(answer), refusal)
            }
            Request::Mar(mar) => {
                let (vault, random) = (&self.vault, &mut self.random);
                let server = server(&mar.server_name);
                let result = database
                    .procedure(|| mar::authenticate(database, config, vault, random, mar, &server));
                let (answer, refusal) = split(result, |outcome| Maa { outcome, ..Maa::default() });
                self.stats.count_authentication(mar, &answer, refusal.as_ref());
                (Answer::Maa(answer), refusal)
            }
            Request::Sar(sar) => {
                let server = server(&sar.server_name);
                let result = database.procedure(|| sar::assign(database, config, sar, &server));
                let result = result.map(|assigned| {
                    terminations = assigned.terminations;
                    assigned.answer
                });
                let (mut answer, refusal) =
                    split(result, |outcome| Saa { outcome, ..Saa::default() });
                if let Some(Refusal::WildcardDiffers(wildcard)) = &refusal {
                    answer.wildcarded_public_identity = Some(wildcard.clone());
                }
                (Answer::Saa(answer), refusal)
            }
            Request::Lir(lir) => {
                let result = database.procedure(|| lir::locate(database, config, lir));
                let (answer, refusal) = split(result, |outcome| Lia { outcome, ..Lia::default() });
                (Answer::Lia(answer), refusal)
            }
            // Only an HSS sends these.
            Request::Rtr(_) | Request::Ppr(_) => {
                return (unsupported(&received.request), Vec::new());
            }
        };
        self.finished(received, &answer, refusal);
        (answer, terminations)
    }

    /// Counts and logs the end of a procedure: one line, with the cause of a refusal.
    fn finished(&mut self, received: &Received, answer: &Answer, refusal: Option<Refusal>) {
        let (command, user_name, public_identity) = subject_of(&received.request);
        let peer = &received.origin_host;
        let outcome = answer.outcome();
        *self.stats.requests.entry((command, outcome.into())).or_default() += 1;
        self.fault = match &refusal {
            Some(Refusal::Storage(text)) => Some(text.clone()),
            _ => None,
        };
        self.log(&Finished { command, user_name, public_identity, peer, outcome, refusal });
    }

    fn finished_push(
        &mut self,
        command: &'static str,
        user_name: &str,
        host: &str,
        outcome: Result<Outcome, NoAnswer>,
        refusal: Option<Refusal>,
    ) {
        *self.stats.pushes.entry((command, outcome.into())).or_default() += 1;
        let result = stats::Label::from(outcome);
        let impi = self.name(user_name);
        match refusal {
            Some(cause) => tracing::error!(%command, %impi, %host, %result, %cause, "push failed"),
            None => tracing::info!(%command, %impi, %host, %result, "push finished"),
        }
    }

    fn log(&self, finished: &Finished) {
        let &Finished { command, peer, ref refusal, .. } = finished;
        let result = stats::Label::from(finished.outcome);
        let faulty = refusal.as_ref().is_some_and(Refusal::is_fault);
        if !faulty && !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let (impi, impu) = (self.name(finished.user_name), self.name(finished.public_identity));
        match refusal {
            Some(cause) if faulty => {
                tracing::error!(%command, %impi, %impu, %peer, %result, %cause, "procedure failed");
            }
            Some(cause) => {
                tracing::info!(%command, %impi, %impu, %peer, %result, %cause, "procedure refused");
            }
            None => tracing::info!(%command, %impi, %impu, %peer, %result, "procedure finished"),
        }
    }

    /// An identity as logs may show it.
    fn name(&self, identity: &str) -> String {
        let is_plain = self.config.log_identities || tracing::enabled!(tracing::Level::DEBUG);
        if is_plain { identity.to_owned() } else { short_hash(identity) }
    }
}

impl Node for Hss {
    fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Start { .. } => self.cx.start(now, out),
            Input::Timeout => self.cx.expire(now, out),
            Input::Drain => self.cx.drain(now, out),
            Input::Admin { id, command } => self.administer(now, id, &command, out),
            input => self.cx.input(now, input, out),
        }
        self.drain_events(now, out);
    }

    fn next_timeout(&self) -> Option<Now> {
        self.cx.next_timeout()
    }

    fn commit(&mut self) -> Result<(), String> {
        self.database.commit().map_err(|refusal| refusal.to_string())
    }

    fn samples(&self, samples: &mut Samples) {
        self.cx.samples(samples);
        self.stats.samples(samples);
        samples.gauge(
            "tessera_hss_undelivered_terminations",
            "RTRs whose S-CSCF was not there; told when it shows itself.",
            &[],
            self.database.undelivered_count().unwrap_or(0) as f64,
        );
    }

    /// Peers come to us, so their absence is no fault of ours.
    fn ready(&self) -> Result<(), String> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    fn owed(&self) -> usize {
        self.cx.owed()
    }
}

/// The answer of a procedure, or the one that refuses, with the reason for the log.
fn split<A>(result: Result<A, Refusal>, refuse: impl FnOnce(Outcome) -> A) -> (A, Option<Refusal>) {
    match result {
        Ok(answer) => (answer, None),
        Err(refusal) => (refuse(refusal.outcome()), Some(refusal)),
    }
}

fn unsupported(request: &Request) -> Answer {
    let outcome = Outcome::Base(result_code::COMMAND_UNSUPPORTED);
    match request {
        Request::Ppr(_) => Answer::Ppa(cx::Ppa { outcome }),
        _ => Answer::Rta(Rta {
            outcome,
            associated_identities: Vec::new(),
            emergency_registrations: Vec::new(),
        }),
    }
}

fn subject_of(request: &Request) -> (&'static str, &str, &str) {
    match request {
        Request::Uar(uar) => ("UAR", &uar.user_name, &uar.public_identity),
        Request::Mar(mar) => ("MAR", &mar.user_name, &mar.public_identity),
        Request::Sar(sar) => (
            "SAR",
            sar.user_name.as_deref().unwrap_or_default(),
            sar.public_identities.first().map(String::as_str).unwrap_or_default(),
        ),
        Request::Lir(lir) => ("LIR", "", &lir.public_identity),
        Request::Rtr(rtr) => ("RTR", &rtr.user_name, ""),
        Request::Ppr(ppr) => ("PPR", &ppr.user_name, ""),
    }
}

/// Enough of a hash to follow one user through a log without naming them.
fn short_hash(identity: &str) -> String {
    use sha2::{Digest, Sha256};
    if identity.is_empty() {
        return String::new();
    }
    hex::encode(&Sha256::digest(identity.as_bytes())[..4])
}
