//! What the HSS begins: registration termination (TS 29.228 §6.1.3) and profile update
//! (TS 29.228 §6.2.2).
//!
//! 1. `terminate` sends RTR, `terminated` applies what it means
//! 2. `push_profile` plans one PPR for each set, `push_next` sends them one after another,
//!    `profile_pushed` takes the answer

use std::time::Duration;

use common::cx::rtr::ReasonCode;
use common::cx::{Answer, Answered, EmergencyRegistration, Outcome, Ppr, Request, Rtr};
use common::diameter::base::result_code;
use common::diameter::endpoint::NoAnswer;
use common::node::{Now, Output};

use crate::database::{Database, Pair};
use crate::records::Server;
use crate::refusal::Refusal;
use crate::{Hss, Wait, profile};

/// An RTR on its way: what it ends, once it is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Termination {
    /// Diameter host of the S-CSCF.
    pub host: String,
    pub user_name: String,
    pub private_identity: i64,
    pub subscription: i64,
    pub sets: Vec<i64>,
    /// Empty: all of the private identity.
    pub public_identities: Vec<String>,
    /// SERVER_CHANGE: the other private identities of the subscription that it ends.
    pub associated: Vec<Holder>,
    pub reason: ReasonCode,
    /// The operator's command that waits.
    pub reply: Option<u64>,
    /// The S-CSCF was not there the first time: it is told once more, and no oftener.
    pub is_repeated: bool,
}

/// A private identity with the sets that an S-CSCF serves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    pub user_name: String,
    pub private_identity: i64,
    pub sets: Vec<i64>,
}

impl Holder {
    /// `pairs` in the order of their private identities.
    pub fn of(pairs: Vec<Pair>) -> Vec<Holder> {
        let mut holders: Vec<Holder> = Vec::new();
        for Pair { implicit_set, private_identity, user_name } in pairs {
            match holders.last_mut() {
                Some(last) if last.private_identity == private_identity => {
                    last.sets.push(implicit_set);
                }
                _ => holders.push(Holder { user_name, private_identity, sets: vec![implicit_set] }),
            }
        }
        holders
    }
}

impl Termination {
    /// TS 29.228 §6.1.3.1, TS 29.229 §6.1.9: SERVER_CHANGE ends every set of every one of these at the S-CSCF,
    /// so no public identity is named and all but the first are associated. `None`: there is nobody.
    pub fn server_change(
        host: &str,
        subscription: i64,
        holders: Vec<Holder>,
    ) -> Option<Termination> {
        let mut holders = holders.into_iter();
        let Holder { user_name, private_identity, sets } = holders.next()?;
        Some(Termination {
            host: host.to_owned(),
            user_name,
            private_identity,
            subscription,
            sets,
            public_identities: Vec::new(),
            associated: holders.collect(),
            reason: ReasonCode::ServerChange,
            reply: None,
            is_repeated: false,
        })
    }

    /// The same, for each private identity alone.
    fn apart(&self) -> Vec<Termination> {
        let mut all = vec![Termination { associated: Vec::new(), ..self.clone() }];
        for Holder { user_name, private_identity, sets } in self.associated.clone() {
            all.push(Termination { user_name, private_identity, sets, ..all[0].clone() });
        }
        all
    }
}

/// PPRs of one command, sent one after another.
#[derive(Debug)]
pub struct Pushing {
    reply: u64,
    host: String,
    subscription: i64,
    /// Who may be named for each set; the first of the first set was asked last.
    sets: Vec<Vec<Pair>>,
    report: Vec<String>,
}

impl Pushing {
    /// The PPR of one set, by whoever of `candidates` the S-CSCF knows; `report`: what is told in front.
    pub fn of_set(
        reply: u64,
        server: &Server,
        subscription: i64,
        candidates: Vec<Pair>,
        report: String,
    ) -> Pushing {
        let (sets, report) = (vec![candidates], vec![report]);
        Pushing { reply, host: server.host.clone(), subscription, sets, report }
    }
}

impl Hss {
    /// The operator's `rtr IMPI [reason]`.
    pub(crate) fn plan_termination(
        &self,
        reply: u64,
        user_name: &str,
        reason: ReasonCode,
    ) -> Result<Option<Termination>, Refusal> {
        let private =
            self.database.private_identity(user_name)?.ok_or(Refusal::UnknownPrivateIdentity)?;
        let server = self.database.subscription(private.subscription)?.server;
        let pairs = self.database.served_pairs(private.id)?;
        let (Some(server), false) = (server, pairs.is_empty()) else { return Ok(None) };
        if reason == ReasonCode::ServerChange {
            let planned =
                self.plan_server_change(&server.host, private.subscription, private.id)?;
            return Ok(planned.map(|planned| Termination { reply: Some(reply), ..planned }));
        }
        Ok(Some(Termination {
            host: server.host,
            user_name: user_name.to_owned(),
            private_identity: private.id,
            subscription: private.subscription,
            public_identities: Vec::new(),
            associated: Vec::new(),
            sets: pairs.into_iter().map(|pair| pair.implicit_set).collect(),
            reason,
            reply: Some(reply),
            is_repeated: false,
        }))
    }

    /// All that the S-CSCF serves of the subscription, with that private identity in front: while one is
    /// left there, each would come back to the same S-CSCF.
    fn plan_server_change(
        &self,
        host: &str,
        subscription: i64,
        first: i64,
    ) -> Result<Option<Termination>, Refusal> {
        let mut holders = Holder::of(self.database.served_pairs_of_subscription(subscription)?);
        holders.sort_by_key(|holder| holder.private_identity != first);
        Ok(Termination::server_change(host, subscription, holders))
    }

    /// TS 29.228 §6.1.3.1: tells the S-CSCF that holds the user.
    pub(crate) fn terminate(&mut self, now: Now, wait: Termination, out: &mut Vec<Output>) {
        let associated = wait.associated.iter().map(|holder| holder.user_name.clone());
        let rtr = Rtr {
            destination_host: wait.host.clone(),
            user_name: wait.user_name.clone(),
            associated_identities: associated.collect(),
            public_identities: wait.public_identities.clone(),
            reason_code: wait.reason,
            reason_info: None,
        };
        let host = wait.host.clone();
        let limit = self.push_limit();
        self.cx.ask(now, Request::Rtr(rtr), Some(&host), Wait::Terminated(wait), limit, out);
    }

    /// TS 29.228 §6.1.3.1: the state follows the answer, and its absence too: an S-CSCF that cannot
    /// be reached does not keep a terminated user registered. Only UNABLE_TO_COMPLY, emergency
    /// registrations that must stay, leaves everything as it is.
    pub(crate) fn terminated(
        &mut self,
        wait: Termination,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let outcome = outcome_of(&result);
        let is_undelivered = matches!(outcome, Err(NoAnswer::NoPeer | NoAnswer::Timeout));
        let emergency = match &result {
            Ok(Answered { answer: Answer::Rta(rta), .. }) => rta.emergency_registrations.as_slice(),
            _ => &[],
        };
        let ends = outcome != Ok(Outcome::UNABLE_TO_COMPLY)
            && wait.reason != ReasonCode::NewServerAssigned;
        let applied = self.database.procedure(|| {
            for one in &wait.apart() {
                if is_undelivered && !wait.is_repeated {
                    self.database.keep_undelivered(one)?;
                }
                if ends {
                    self.database.end_authentications(one)?;
                    end_registrations(&self.database, &self.without(one, emergency)?)?;
                }
            }
            Ok(())
        });
        let text = match (&applied, outcome) {
            (Err(refusal), _) => format!("{}: {refusal}", wait.user_name),
            (Ok(()), outcome) => {
                let now = if ends { "registration ended" } else { "state kept" };
                let later = if is_undelivered { "; told when it is back" } else { "" };
                let how = describe(outcome);
                format!("{}: {now}, S-CSCF {}: {how}{later}", wait.user_name, wait.host)
            }
        };
        self.finished_push("RTR", &wait.user_name, &wait.host, outcome, applied.err());
        if let Some(id) = wait.reply {
            out.push(Output::Reply { id, text });
        }
    }

    /// TS 29.228 §6.1.3.1: sets with an identity that is emergency registered stay.
    fn without(
        &self,
        wait: &Termination,
        emergency: &[EmergencyRegistration],
    ) -> Result<Termination, Refusal> {
        let mut ended = Termination { sets: Vec::new(), ..wait.clone() };
        for set in &wait.sets {
            let identities = self.database.public_identities_of(*set)?;
            let stays = emergency.iter().any(|one| {
                one.user_name == wait.user_name && identities.contains(&one.public_identity)
            });
            if !stays {
                ended.sets.push(*set);
            }
        }
        Ok(ended)
    }

    /// The operator's `ppr IMPI`: every set of the private identity that an S-CSCF holds.
    pub(crate) fn plan_push(
        &self,
        reply: u64,
        user_name: &str,
    ) -> Result<Option<Pushing>, Refusal> {
        let private =
            self.database.private_identity(user_name)?.ok_or(Refusal::UnknownPrivateIdentity)?;
        let server = self.database.subscription(private.subscription)?.server;
        let mut sets = Vec::new();
        for pair in self.database.served_pairs(private.id)? {
            sets.push(self.database.push_candidates(pair.implicit_set)?);
        }
        let (Some(server), false) = (server, sets.is_empty()) else { return Ok(None) };
        Ok(Some(Pushing {
            reply,
            host: server.host,
            subscription: private.subscription,
            sets,
            report: Vec::new(),
        }))
    }

    /// TS 29.228 §6.2.2.1: the whole profile of the next set, or the end.
    pub(crate) fn push_next(&mut self, now: Now, mut wait: Pushing, out: &mut Vec<Output>) {
        while wait.sets.first().is_some_and(Vec::is_empty) {
            wait.sets.remove(0);
        }
        let Some(pair) = wait.sets.first().and_then(|candidates| candidates.first()) else {
            out.push(Output::Reply { id: wait.reply, text: wait.report.join("\n") });
            return;
        };
        // Due until the S-CSCF says that it has it: so no way of failing is forgotten.
        let planned = self.database.procedure(|| {
            self.database.set_profile_due(pair.implicit_set)?;
            self.profile_push(pair, wait.subscription, &wait.host)
        });
        match planned {
            Ok(ppr) => {
                let host = wait.host.clone();
                let limit = self.push_limit();
                let wait = Wait::ProfilePushed(Box::new(wait));
                self.cx.ask(now, Request::Ppr(ppr), Some(&host), wait, limit, out);
            }
            Err(refusal) => {
                wait.report.push(format!("{}: {refusal}", pair.user_name));
                out.push(Output::Reply { id: wait.reply, text: wait.report.join("\n") });
            }
        }
    }

    fn profile_push(&self, pair: &Pair, subscription: i64, host: &str) -> Result<Ppr, Refusal> {
        let subscription = self.database.subscription(subscription)?;
        let user_data = profile::user_data(&self.database, pair.implicit_set, &pair.user_name)?;
        Ok(Ppr {
            destination_host: host.to_owned(),
            user_name: pair.user_name.clone(),
            user_data: Some(user_data.to_xml().into()),
            charging_information: profile::charging(&self.database, &self.config, &subscription)?,
        })
    }

    /// TS 29.228 §6.2.2.1: a private identity that the S-CSCF does not know is no longer registered
    /// there, and another one of the set is tried; a profile that is too much for the S-CSCF moves
    /// the user to another.
    pub(crate) fn profile_pushed(
        &mut self,
        now: Now,
        mut wait: Pushing,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let outcome = outcome_of(&result);
        let candidates = &mut wait.sets[0];
        let pair = candidates.remove(0);
        let later = if outcome.is_err() { "; given when the S-CSCF asks next" } else { "" };
        wait.report.push(format!("{}: {}{later}", pair.user_name, describe(outcome)));
        let termination = Termination {
            host: wait.host.clone(),
            user_name: pair.user_name.clone(),
            private_identity: pair.private_identity,
            subscription: wait.subscription,
            sets: vec![pair.implicit_set],
            public_identities: Vec::new(),
            associated: Vec::new(),
            reason: ReasonCode::ServerChange,
            reply: None,
            is_repeated: false,
        };
        let mut applied = Ok(());
        if outcome == Ok(Outcome::USER_UNKNOWN) {
            applied = self.database.procedure(|| end_registrations(&self.database, &termination));
        } else {
            candidates.clear();
        }
        // What the S-CSCF cannot use it cannot use in an answer either.
        let is_over = outcome == Ok(Outcome::NOT_SUPPORTED_USER_DATA);
        if is_over || outcome.is_ok_and(Outcome::is_success) {
            let set = pair.implicit_set;
            applied = self.database.procedure(|| self.database.profile_given(set, None));
        }
        self.finished_push("PPR", &pair.user_name, &wait.host, outcome, applied.err());
        if outcome == Ok(Outcome::TOO_MUCH_DATA) {
            // Nothing more for this S-CSCF: it loses all sets.
            wait.sets.clear();
            let (subscription, first) = (wait.subscription, pair.private_identity);
            match self.plan_server_change(&wait.host, subscription, first) {
                Ok(Some(termination)) => self.terminate(now, termination, out),
                Ok(None) => {}
                Err(refusal) => wait.report.push(format!("{}: {refusal}", pair.user_name)),
            }
        }
        self.push_next(now, wait, out);
    }

    fn push_limit(&self) -> Duration {
        Duration::from_millis(self.config.push_timeout_milliseconds)
    }
}

impl Database {
    /// Ids are given again when a user is removed, so that a name has to fit them.
    pub fn is_provisioned(&self, termination: &Termination) -> Result<bool, Refusal> {
        let found = self.private_identity(&termination.user_name)?;
        Ok(found.is_some_and(|found| {
            found.id == termination.private_identity
                && found.subscription == termination.subscription
        }))
    }

    /// A challenge that runs ends with the registrations: its answer finds nothing at the S-CSCF, which so
    /// never tells how it ended, and would keep its name for ever. Not one of another S-CSCF.
    fn end_authentications(&self, wait: &Termination) -> Result<(), Refusal> {
        if !self.is_provisioned(wait)? {
            return Ok(());
        }
        let server = self.subscription(wait.subscription)?.server;
        if server.is_none_or(|server| server.host != wait.host) {
            return Ok(());
        }
        // A change of the server is for devices that are only being authenticated, too.
        let is_for_all = wait.reason == ReasonCode::ServerChange;
        self.write(
            "UPDATE registration SET is_authentication_pending = 0
             WHERE is_authentication_pending AND (private_identity = ?1 OR (?3 AND private_identity
                IN (SELECT id FROM private_identity WHERE subscription = ?2)))",
            (wait.private_identity, wait.subscription, is_for_all),
        )
    }
}

fn end_registrations(database: &Database, wait: &Termination) -> Result<(), Refusal> {
    if !database.is_provisioned(wait)? {
        return Ok(());
    }
    for set in &wait.sets {
        if !database.deregister(*set, Some(wait.private_identity))? {
            database.set_unregistered(*set, false)?;
        }
    }
    database.release_server_if_unused(wait.subscription)
}

fn outcome_of(result: &Result<Answered, NoAnswer>) -> Result<Outcome, NoAnswer> {
    match result {
        Ok(Answered { answer: Answer::Rta(rta), .. }) => Ok(rta.outcome),
        Ok(Answered { answer: Answer::Ppa(ppa), .. }) => Ok(ppa.outcome),
        Ok(_) => Err(NoAnswer::Malformed),
        Err(no_answer) => Err(*no_answer),
    }
}

fn describe(outcome: Result<Outcome, NoAnswer>) -> String {
    match outcome {
        Ok(Outcome::Base(result_code::LIMITED_SUCCESS)) => {
            "done, emergency registrations stay".to_owned()
        }
        Ok(outcome) if outcome.is_success() => "done".to_owned(),
        Ok(outcome) => format!("refused ({outcome:?})"),
        Err(NoAnswer::NoPeer) => "cannot be reached".to_owned(),
        Err(NoAnswer::Timeout) => "did not answer".to_owned(),
        Err(NoAnswer::Overloaded) => "too many requests are waiting".to_owned(),
        Err(NoAnswer::Malformed) => "answered something else".to_owned(),
    }
}
