//! What the HSS begins: registration termination (TS 29.228 §6.1.3) and profile update
//! (TS 29.228 §6.2.2).
//!
//! 1. `terminate` sends RTR, `terminated` applies what it means
//! 2. `plan_push` and `plan_all_news` plan one PPR for each set, `push_next` sends them one after another, of
//!    each set what changed, `profile_pushed` takes the answer

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use common::cx::rtr::ReasonCode;
use common::cx::{Answer, Answered, EmergencyRegistration, Outcome, Ppr, Request, Rtr};
use common::diameter::base::result_code;
use common::diameter::endpoint::NoAnswer;
use common::node::{Now, Output};

use crate::database::{Database, News, Pair};
use crate::implicit_set::Removal;
use crate::refusal::Refusal;
use crate::{Hss, Wait, profile};

/// So many sets are told by one command; the operator asks again for more.
const SETS_AT_ONCE: usize = 1_000;
/// So many of those that could not be told are named.
const NAMED_AT_MOST: usize = 20;

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
    /// What it is for, when an identity is to be taken out that an S-CSCF has.
    pub removal: Option<Box<Removal>>,
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
            removal: None,
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
    /// The first is being told, or was told last.
    sets: VecDeque<PushedSet>,
    report: Vec<String>,
    /// Of many sets only a count is told, and which failed.
    tally: Option<Tally>,
    /// S-CSCFs that did not answer: of many sets no more is sent to them.
    silent: BTreeSet<String>,
}

#[derive(Debug)]
struct PushedSet {
    subscription: i64,
    /// Diameter host of the S-CSCF.
    host: String,
    /// Who may be named; the first is named next.
    candidates: VecDeque<Pair>,
    sent: News,
}

#[derive(Debug, Default)]
struct Tally {
    told: usize,
    failed: usize,
    is_more: bool,
}

impl Pushing {
    /// Of one set, or of none where no S-CSCF serves it; `report`: what is told in front.
    pub(crate) fn new(reply: u64, report: Vec<String>) -> Pushing {
        Pushing { reply, sets: VecDeque::new(), report, tally: None, silent: BTreeSet::new() }
    }

    fn told(&mut self, text: String) {
        match &mut self.tally {
            None => self.report.push(text),
            Some(tally) => {
                tally.failed += 1;
                if tally.failed <= NAMED_AT_MOST {
                    self.report.push(text);
                }
            }
        }
    }

    fn text(mut self) -> String {
        if let Some(Tally { told, failed, is_more }) = self.tally {
            let more = if is_more { "; there are more: push again" } else { "" };
            self.report.insert(0, format!("{told} sets told, {failed} not{more}"));
        }
        self.report.join("\n")
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
        let subscription = self.database.subscription(private.subscription)?;
        let Some(server) = subscription.serving() else { return Ok(None) };
        let mut termination = Termination {
            host: server.host.clone(),
            user_name: user_name.to_owned(),
            private_identity: private.id,
            subscription: private.subscription,
            public_identities: Vec::new(),
            associated: Vec::new(),
            sets: Vec::new(),
            reason,
            reply: Some(reply),
            is_repeated: false,
            removal: None,
        };
        for pair in self.database.served_pairs(private.id)? {
            let set = pair.implicit_set;
            if reason == ReasonCode::RemoveScscf {
                if self.database.is_registered(set)? {
                    continue;
                }
                let identities = self.database.public_identities_of(set)?;
                termination.public_identities.extend(identities);
            }
            termination.sets.push(set);
        }
        if termination.sets.is_empty() {
            return Ok(None);
        }
        if reason == ReasonCode::ServerChange {
            let planned =
                self.plan_server_change(&server.host, private.subscription, private.id)?;
            return Ok(planned.map(|planned| Termination { reply: Some(reply), ..planned }));
        }
        Ok(Some(termination))
    }

    /// The operator's `rtr IMPI new-server HOST`: an S-CSCF that was displaced, and may not have heard of it,
    /// forgets the user. `None`: it is the one that serves, and would have the user lost.
    pub(crate) fn plan_displacement(
        &self,
        reply: u64,
        user_name: &str,
        host: &str,
    ) -> Result<Option<Termination>, Refusal> {
        let private =
            self.database.private_identity(user_name)?.ok_or(Refusal::UnknownPrivateIdentity)?;
        let subscription = self.database.subscription(private.subscription)?;
        let mut known = subscription.server.iter().chain(&subscription.previous);
        if known.any(|server| server.host.eq_ignore_ascii_case(host)) {
            return Ok(None);
        }
        let mut public_identities = Vec::new();
        let mut sets = Vec::new();
        for (set, _) in self.database.sets_with_services(private.id)? {
            public_identities.extend(self.database.public_identities_of(set)?);
            sets.push(set);
        }
        Ok(Some(Termination {
            host: host.to_owned(),
            user_name: user_name.to_owned(),
            private_identity: private.id,
            subscription: private.subscription,
            public_identities,
            associated: Vec::new(),
            sets,
            reason: ReasonCode::NewServerAssigned,
            reply: Some(reply),
            is_repeated: false,
            removal: None,
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
        now: Now,
        mut wait: Termination,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let outcome = outcome_of(&result);
        let is_undelivered = is_undelivered(outcome);
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
                let state = if ends { "registration ended" } else { "state kept" };
                let later = if is_undelivered { "; told when it is back" } else { "" };
                let how = describe(outcome);
                format!("{}: {state}, S-CSCF {}: {how}{later}", wait.user_name, wait.host)
            }
        };
        self.finished_push("RTR", &wait.user_name, &wait.host, outcome, applied.err());
        if let Some(mut removal) = wait.removal.take() {
            removal.kept_or_ended(ends, text);
            return self.remove_next(now, *removal, out);
        }
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

    /// The operator's `ppr IMPI`: every set of the private identity that an S-CSCF holds. `is_again`: all of
    /// it, whatever the S-CSCF is known to have.
    pub(crate) fn plan_push(
        &self,
        reply: u64,
        user_name: &str,
        is_again: bool,
    ) -> Result<Option<Pushing>, Refusal> {
        let database = &self.database;
        let private =
            database.private_identity(user_name)?.ok_or(Refusal::UnknownPrivateIdentity)?;
        let mut pushing = Pushing::new(reply, Vec::new());
        for pair in database.served_pairs(private.id)? {
            if is_again {
                database.procedure(|| {
                    database.profile_changed(pair.implicit_set)?;
                    database.charging_changed(pair.implicit_set)
                })?;
            }
            self.plan_set(&mut pushing, pair.implicit_set, private.subscription)?;
        }
        Ok(if pushing.sets.is_empty() { None } else { Some(pushing) })
    }

    /// The operator's `push`: every set that changed since its S-CSCF was told.
    pub(crate) fn plan_all_news(&self, reply: u64) -> Result<Pushing, Refusal> {
        let mut due = self.database.sets_with_news(SETS_AT_ONCE + 1)?;
        let tally = Tally { is_more: due.len() > SETS_AT_ONCE, ..Tally::default() };
        due.truncate(SETS_AT_ONCE);
        let mut pushing = Pushing { tally: Some(tally), ..Pushing::new(reply, Vec::new()) };
        for (set, subscription) in due {
            self.plan_set(&mut pushing, set, subscription)?;
        }
        Ok(pushing)
    }

    /// Nothing is planned for a set that no S-CSCF serves.
    pub(crate) fn plan_set(
        &self,
        pushing: &mut Pushing,
        implicit_set: i64,
        subscription: i64,
    ) -> Result<(), Refusal> {
        let known = self.database.subscription(subscription)?;
        let candidates = VecDeque::from(self.database.push_candidates(implicit_set)?);
        if let (Some(server), false) = (known.serving(), candidates.is_empty()) {
            let (host, sent) = (server.host.clone(), News::default());
            pushing.sets.push_back(PushedSet { subscription, host, candidates, sent });
        }
        Ok(())
    }

    /// TS 29.228 §6.2.2.1: what changed of the next set, or the end. It is due until the S-CSCF says that it
    /// has it: so no way of failing is forgotten.
    pub(crate) fn push_next(&mut self, now: Now, mut wait: Pushing, out: &mut Vec<Output>) {
        while let Some(set) = wait.sets.front_mut() {
            let Some(pair) = set.candidates.front().cloned() else {
                wait.sets.pop_front();
                continue;
            };
            let user_name = pair.user_name.clone();
            if wait.tally.is_some() && wait.silent.contains(&set.host) {
                let text = format!("{user_name}: S-CSCF {} is silent{LATER}", set.host);
                wait.sets.pop_front();
                wait.told(text);
                continue;
            }
            match self.next_push(&pair, set) {
                Ok(Some((ppr, news))) => {
                    set.sent = news;
                    let host = set.host.clone();
                    let limit = self.push_limit();
                    let wait = Wait::ProfilePushed(Box::new(wait));
                    self.cx.ask(now, Request::Ppr(ppr), Some(&host), wait, limit, out);
                    return;
                }
                Ok(None) => {
                    wait.sets.pop_front();
                    match &mut wait.tally {
                        // Somebody else has told it meanwhile.
                        Some(tally) => tally.told += 1,
                        None => wait.report.push(format!("{user_name}: unchanged")),
                    }
                }
                Err(refusal) => {
                    wait.sets.clear();
                    wait.told(format!("{user_name}: {refusal}"));
                }
            }
        }
        out.push(Output::Reply { id: wait.reply, text: wait.text() });
    }

    /// TS 29.228 table 6.2.2.1: User-Data with the whole profile of the set, Charging-Information with all
    /// addresses, each when it changed; an empty one says that there are no addresses any more.
    fn next_push(&self, pair: &Pair, set: &PushedSet) -> Result<Option<(Ppr, News)>, Refusal> {
        let news = self.database.news(pair.implicit_set)?;
        if news.is_none() {
            return Ok(None);
        }
        let mut ppr = Ppr {
            destination_host: set.host.clone(),
            user_name: pair.user_name.clone(),
            ..Ppr::default()
        };
        if news.profile.is_some() {
            let user_data = profile::user_data(&self.database, pair.implicit_set, &pair.user_name)?;
            ppr.user_data = Some(user_data.to_xml().into());
        }
        if news.charging.is_some() {
            let subscription = self.database.subscription(set.subscription)?;
            let charging = profile::charging(&self.database, &self.config, &subscription)?;
            ppr.charging_information = Some(charging.unwrap_or_default());
        }
        Ok(Some((ppr, news)))
    }

    /// TS 29.228 §6.2.2.1: a private identity that the S-CSCF does not know is no longer registered
    /// there, and another one of the set is tried; a profile that is too much for the S-CSCF moves
    /// the user to another. After any other failure the next SAR gets what this one did not bring, but for a
    /// profile that the S-CSCF cannot use: it cannot use it in an answer either.
    pub(crate) fn profile_pushed(
        &mut self,
        now: Now,
        mut wait: Pushing,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let outcome = outcome_of(&result);
        let Some(set) = wait.sets.front_mut() else { return };
        let Some(pair) = set.candidates.pop_front() else { return };
        let (host, subscription, sent) = (set.host.clone(), set.subscription, set.sent);
        let is_taken = outcome.is_ok_and(Outcome::is_success);
        let is_unusable = outcome == Ok(Outcome::NOT_SUPPORTED_USER_DATA);
        if outcome != Ok(Outcome::USER_UNKNOWN) {
            set.candidates.clear();
        }
        if outcome.is_err() {
            wait.silent.insert(host.clone());
        }
        let applied = self.database.procedure(|| match outcome {
            Ok(Outcome::USER_UNKNOWN) => end_registrations(
                &self.database,
                &Termination {
                    host: host.clone(),
                    user_name: pair.user_name.clone(),
                    private_identity: pair.private_identity,
                    subscription,
                    sets: vec![pair.implicit_set],
                    public_identities: Vec::new(),
                    associated: Vec::new(),
                    reason: ReasonCode::PermanentTermination,
                    reply: None,
                    is_repeated: false,
                    removal: None,
                },
            ),
            _ if is_taken => self.database.news_given(pair.implicit_set, None, sent),
            _ if is_unusable => {
                self.database.news_given(pair.implicit_set, None, sent)?;
                match sent.profile {
                    Some(_) => self.database.profile_refused(pair.implicit_set),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        });
        let then = match outcome {
            _ if is_taken => "",
            Ok(Outcome::USER_UNKNOWN) => "; not registered there any more",
            Ok(Outcome::TOO_MUCH_DATA) => "; moved to another S-CSCF",
            Ok(Outcome::NOT_SUPPORTED_USER_DATA) => "; it keeps the profile it has",
            _ => LATER,
        };
        match &mut wait.tally {
            Some(tally) if is_taken => tally.told += 1,
            _ => wait.told(format!("{}: {}{then}", pair.user_name, describe(outcome))),
        }
        self.finished_push("PPR", &pair.user_name, &host, outcome, applied.err());
        if outcome == Ok(Outcome::TOO_MUCH_DATA) {
            // Nothing more of this user for this S-CSCF: it loses all sets.
            wait.sets.retain(|set| set.subscription != subscription);
            match self.plan_server_change(&host, subscription, pair.private_identity) {
                Ok(Some(termination)) => self.terminate(now, termination, out),
                Ok(None) => {}
                Err(refusal) => wait.told(format!("{}: {refusal}", pair.user_name)),
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

/// What a push that failed leaves.
const LATER: &str = "; given when the S-CSCF asks next";

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

/// The S-CSCF has not seen it: it was not sent, nobody answered, or an agent on the way did
/// (RFC 6733 §7.1.3).
fn is_undelivered(outcome: Result<Outcome, NoAnswer>) -> bool {
    match outcome {
        Err(no_answer) => no_answer != NoAnswer::Malformed,
        Ok(Outcome::Base(code)) => result_code::is_protocol_error(code),
        Ok(Outcome::Experimental(_)) => false,
    }
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
