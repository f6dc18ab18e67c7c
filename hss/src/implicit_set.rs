//! Identities that an operator adds to an implicit registration set, or takes out of one
//! (TS 23.228 §4.3.3.4, TS 29.228 §6.2.2.1, §6.5.2).
//!
//! 1. `command_identity_added` stores the identity and pushes the set where an S-CSCF serves it
//! 2. `command_identity_removed` does the same; but the default identity of a set that is served cannot go by
//!    PPR, so `remove_next` first ends the registrations of the set by RTR, one private identity after another

use common::cx::rtr::ReasonCode;
use common::node::{Now, Output};
use common::sip::uri::Uri;

use crate::Hss;
use crate::database::{Database, PublicIdentity};
use crate::entry::PublicEntry;
use crate::provision;
use crate::push::{Pushing, Termination};
use crate::refusal::Refusal;

/// An identity that is taken out once nobody is registered with its set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removal {
    reply: u64,
    identity: String,
    implicit_set: i64,
    subscription: i64,
    /// RTRs still to be sent.
    rest: Vec<Termination>,
    report: Vec<String>,
}

impl Removal {
    /// Of the next RTR; when the S-CSCF kept somebody the identity stays, so nobody else has to go.
    pub(crate) fn kept_or_ended(&mut self, is_ended: bool, report: String) {
        self.report.push(report);
        if !is_ended {
            self.rest.clear();
        }
    }
}

impl Hss {
    /// `identity add IMPU BESIDE [PROFILE]`: the identity, barred behind a `!`, becomes the last one of the
    /// set that BESIDE is of, with its service profile or another one.
    pub(crate) fn command_identity_added(
        &mut self,
        now: Now,
        id: u64,
        (identity, beside, profile): (&str, &str, Option<&str>),
        out: &mut Vec<Output>,
    ) -> Result<Option<String>, Refusal> {
        let mut added = match PublicEntry::from(identity).resolve() {
            Ok(added) => added,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let database = &self.database;
        let Some(beside) = database.provisioned(beside)? else {
            return Ok(Some(format!("{beside} is not known")));
        };
        if beside.is_service() {
            return Ok(Some(format!("{}: a service has a set of its own", beside.identity)));
        }
        let set = beside.implicit_set;
        let default_profile = database.profile_name(&beside.identity)?;
        added.profile = profile.map(str::to_owned).or(default_profile);
        let is_done = database.change_served_set(set, || {
            let position = database.next_position(set)?;
            provision::insert_public_identity(database, set, position, &added)?;
            database.profile_changed(set)
        })?;
        if !is_done {
            return Ok(Some(format!("{}: {OTHER_DEFAULT}", added.identity)));
        }
        let report = format!("{}: added", added.identity);
        self.push_set(now, id, (set, beside.subscription), report, out)?;
        Ok(None)
    }

    /// `identity remove IMPU`.
    pub(crate) fn command_identity_removed(
        &mut self,
        now: Now,
        id: u64,
        identity: &str,
        out: &mut Vec<Output>,
    ) -> Result<Option<String>, Refusal> {
        let database = &self.database;
        let Some(known) = database.provisioned(identity)? else {
            return Ok(Some(format!("{identity} is not known")));
        };
        let set = known.implicit_set;
        if database.identity_count(known.subscription)? == 1 {
            return Ok(Some(format!(
                "{}: refused, it is the only one of its subscription; subscriber remove takes that \
                 out",
                known.identity
            )));
        }
        let is_last = database.public_identities_of(set)?.len() == 1
            && !database.push_candidates(set)?.is_empty();
        let is_removed =
            !is_last && database.change_served_set(set, || database.remove_identity(&known))?;
        if is_removed {
            let report = format!("{}: removed", known.identity);
            self.push_set(now, id, (set, known.subscription), report, out)?;
            return Ok(None);
        }
        let removal = Removal {
            reply: id,
            identity: known.identity.clone(),
            implicit_set: set,
            subscription: known.subscription,
            rest: self.plan_removal(&known)?,
            report: Vec::new(),
        };
        self.remove_next(now, removal, out);
        Ok(None)
    }

    /// TS 29.228 §6.1.3.1, §6.5.2.2: an RTR that names the identity ends its whole set, for one private
    /// identity; so there is one for each that an S-CSCF has.
    fn plan_removal(&self, known: &PublicIdentity) -> Result<Vec<Termination>, Refusal> {
        let subscription = self.database.subscription(known.subscription)?;
        let Some(server) = subscription.serving() else { return Ok(Vec::new()) };
        let mut candidates = self.database.push_candidates(known.implicit_set)?;
        if self.database.is_registered(known.implicit_set)? {
            let mut registered = Vec::new();
            for pair in candidates {
                if self.database.is_registered_by(&pair)? {
                    registered.push(pair);
                }
            }
            candidates = registered;
        } else {
            candidates.truncate(1);
        }
        let mut terminations = Vec::new();
        for pair in candidates {
            terminations.push(Termination {
                host: server.host.clone(),
                user_name: pair.user_name,
                private_identity: pair.private_identity,
                subscription: known.subscription,
                sets: vec![known.implicit_set],
                public_identities: vec![known.identity.clone()],
                associated: Vec::new(),
                reason: ReasonCode::PermanentTermination,
                reply: None,
                is_repeated: false,
                removal: None,
            });
        }
        Ok(terminations)
    }

    /// The next RTR, or the identity goes. It stays when the S-CSCF kept somebody (an emergency), or when
    /// somebody has come back meanwhile.
    pub(crate) fn remove_next(&mut self, now: Now, mut wait: Removal, out: &mut Vec<Output>) {
        if !wait.rest.is_empty() {
            let next = wait.rest.remove(0);
            return self.terminate(now, Termination { removal: Some(Box::new(wait)), ..next }, out);
        }
        let database = &self.database;
        let removed = database.procedure(|| {
            let known = database.provisioned(&wait.identity)?;
            let known = known.filter(|known| known.implicit_set == wait.implicit_set);
            let Some(known) = known else { return Ok(false) };
            if !database.push_candidates(wait.implicit_set)?.is_empty() {
                return Ok(false);
            }
            database.remove_identity(&known)?;
            database.release_server_if_unused(wait.subscription)?;
            Ok(true)
        });
        wait.report.push(match removed {
            Ok(true) => format!("{}: removed", wait.identity),
            Ok(false) => format!("{}: stays, its set is registered", wait.identity),
            Err(refusal) => format!("{}: {refusal}", wait.identity),
        });
        out.push(Output::Reply { id: wait.reply, text: wait.report.join("\n") });
    }

    /// Tells the S-CSCF that serves a set, if there is one, and then the operator.
    pub(crate) fn push_set(
        &mut self,
        now: Now,
        id: u64,
        (implicit_set, subscription): (i64, i64),
        report: String,
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        let mut pushing = Pushing::new(id, vec![report]);
        self.plan_set(&mut pushing, implicit_set, subscription)?;
        self.push_next(now, pushing, out);
        Ok(())
    }
}

/// TS 29.228 §6.2.2.1: why something is refused.
pub(crate) const OTHER_DEFAULT: &str = "refused, it would give another default identity to a set \
                                        that is registered; rtr ends that";

impl Database {
    /// An identity by its own name, and not by a wildcard that it falls under.
    pub fn provisioned(&self, identity: &str) -> Result<Option<PublicIdentity>, Refusal> {
        Ok(self.public_identity(identity)?.filter(|known| {
            let asked = Uri::parse(identity).map(|uri| uri.public_identity());
            known.identity == identity || asked.is_ok_and(|asked| known.identity == asked.as_str())
        }))
    }

    /// Does it, unless it gives another default identity to a set that an S-CSCF serves: then nothing
    /// is changed, and the answer is false.
    pub fn change_served_set(
        &self,
        implicit_set: i64,
        change: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<bool, Refusal> {
        let changed = self.procedure(|| {
            self.begin()?;
            let is_served = !self.push_candidates(implicit_set)?.is_empty();
            let before = self.default_identity(implicit_set)?;
            change()?;
            // A set of barred identities has none, and one that is served for an emergency may get one.
            let has_another = self.default_identity(implicit_set)? != before;
            if is_served && before.is_some() && has_another {
                // A fault, so that what was written is taken back.
                return Err(Refusal::Conflict(OTHER_DEFAULT.to_owned()));
            }
            Ok(())
        });
        match changed {
            Ok(()) => Ok(true),
            Err(Refusal::Conflict(text)) if text == OTHER_DEFAULT => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }

    fn next_position(&self, implicit_set: i64) -> Result<i64, Refusal> {
        let sql = "SELECT max(position) + 1 FROM public_identity WHERE implicit_set = ?1";
        let next = self.row(sql, [implicit_set], |row| row.get::<_, Option<i64>>(0))?;
        Ok(next.flatten().unwrap_or(0))
    }

    fn profile_name(&self, identity: &str) -> Result<Option<String>, Refusal> {
        let sql = "SELECT p.name FROM public_identity u
             JOIN service_profile p ON p.id = u.service_profile WHERE u.identity = ?1";
        self.row(sql, [identity], |row| row.get(0))
    }

    fn identity_count(&self, subscription: i64) -> Result<i64, Refusal> {
        let sql = "SELECT count(*) FROM public_identity u
             JOIN implicit_set i ON i.id = u.implicit_set WHERE i.subscription = ?1";
        Ok(self.row(sql, [subscription], |row| row.get(0))?.unwrap_or(0))
    }

    /// With the last identity of a set the set goes. A challenge that runs may be for this identity, and would
    /// then never be said to have ended: nothing waits for it any more.
    fn remove_identity(&self, known: &PublicIdentity) -> Result<(), Refusal> {
        let set = known.implicit_set;
        self.write("DELETE FROM public_identity WHERE identity = ?1", [&known.identity])?;
        self.write(
            "UPDATE registration SET is_authentication_pending = 0 WHERE implicit_set = ?1",
            [set],
        )?;
        self.write(
            "DELETE FROM implicit_set WHERE id = ?1
                AND NOT EXISTS (SELECT 1 FROM public_identity WHERE implicit_set = ?1)",
            [set],
        )?;
        self.profile_changed(set)?;
        self.release_server_if_unused(known.subscription)
    }
}
