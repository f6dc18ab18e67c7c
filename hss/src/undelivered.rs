//! Terminations that an S-CSCF was not there to hear of (TS 29.228 §6.1.3.1): told again when it shows itself.
//!
//! The user is not registered any more, whatever the S-CSCF thinks; but the S-CSCF, back with what it has
//! stored, would go on serving, and its next RE_REGISTRATION would have the user registered again that the
//! operator has ended.
//!
//! They are kept in the database, so that a restart of the HSS forgets none, and whichever HSS of several on
//! one database is asked tells.

use common::cx::rtr::ReasonCode;
use common::cx::sar::ServerAssignmentType;
use common::cx::{Received, Request, Sar};
use common::node::{Now, Output};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::database::Database;
use crate::push::Termination;
use crate::refusal::Refusal;
use crate::{Hss, subject_of};

/// So many; the oldest makes room.
const LIMIT: i64 = 10_000;

/// What becomes of a termination that was kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Tell,
    /// Nothing is decided yet.
    Keep,
    Over,
}

impl Database {
    /// One of a single private identity: each is told, or forgotten, for itself.
    pub fn keep_undelivered(&self, termination: &Termination) -> Result<(), Refusal> {
        self.insert(
            "INSERT INTO undelivered_termination (host, user_name, private_identity, subscription,
                implicit_sets, public_identities, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            (
                &termination.host,
                &termination.user_name,
                termination.private_identity,
                termination.subscription,
                to_json(&termination.sets),
                to_json(&termination.public_identities),
                termination.reason as u8,
            ),
        )?;
        self.write(
            "DELETE FROM undelivered_termination WHERE id <=
                (SELECT max(id) FROM undelivered_termination) - ?1",
            [LIMIT],
        )
    }

    pub fn undelivered_count(&self) -> Result<i64, Refusal> {
        let sql = "SELECT count(*) FROM undelivered_termination";
        Ok(self.row(sql, [], |row| row.get(0))?.unwrap_or(0))
    }

    /// What that S-CSCF is to be told, oldest first. Only what it is told, and what is over, is not kept any
    /// more.
    fn take_undelivered(
        &self,
        host: &str,
        fate_of: impl Fn(&Termination) -> Result<Fate, Refusal>,
    ) -> Result<Vec<Termination>, Refusal> {
        const DUE: &str = "SELECT host, user_name, private_identity, subscription, implicit_sets,
                public_identities, reason, id
             FROM undelivered_termination WHERE host = ?1 ORDER BY id";
        if self.row(DUE, [host], |_| Ok(()))?.is_none() {
            return Ok(Vec::new());
        }
        // Another HSS on this database may be at it: what is read from here on is ours.
        self.begin()?;
        let due = self.rows(DUE, [host], |row| {
            let termination = Termination {
                host: row.get(0)?,
                user_name: row.get(1)?,
                private_identity: row.get(2)?,
                subscription: row.get(3)?,
                sets: from_json(&row.get::<_, String>(4)?),
                public_identities: from_json(&row.get::<_, String>(5)?),
                associated: Vec::new(),
                reason: reason_of(row.get(6)?),
                reply: None,
                is_repeated: true,
                removal: None,
            };
            Ok((row.get::<_, i64>(7)?, termination))
        })?;
        let mut told = Vec::new();
        for (id, termination) in due {
            let fate = fate_of(&termination)?;
            if fate == Fate::Keep {
                continue;
            }
            self.write("DELETE FROM undelivered_termination WHERE id = ?1", [id])?;
            if fate == Fate::Tell {
                told.push(termination);
            }
        }
        Ok(told)
    }

    /// A registration is newer than what was to be ended; by RE_REGISTRATION, which shows no
    /// authentication, only than the move away from the S-CSCF that now serves again.
    pub fn forget_undelivered(
        &self,
        user_name: &str,
        host: &str,
        is_refresh: bool,
    ) -> Result<(), Refusal> {
        const NEW_SERVER_ASSIGNED: u8 = ReasonCode::NewServerAssigned as u8;
        self.write(
            "DELETE FROM undelivered_termination WHERE user_name = ?1
                AND ((reason = ?3 AND host = ?2) OR (reason <> ?3 AND NOT ?4))",
            (user_name, host, NEW_SERVER_ASSIGNED, is_refresh),
        )
    }
}

fn to_json(list: &impl Serialize) -> String {
    serde_json::to_string(list).expect("lists of numbers and texts are JSON")
}

/// Nothing, where somebody has written something else.
fn from_json<T: DeserializeOwned + Default>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_default()
}

/// TS 29.229 §6.3.17
fn reason_of(code: u8) -> ReasonCode {
    match code {
        1 => ReasonCode::NewServerAssigned,
        2 => ReasonCode::ServerChange,
        3 => ReasonCode::RemoveScscf,
        _ => ReasonCode::PermanentTermination,
    }
}

impl Hss {
    /// The S-CSCF asks something, so it is there. In front of the answer: what it asks may be for the very user.
    pub(crate) fn tell_again(&mut self, now: Now, received: &Received, out: &mut Vec<Output>) {
        let host = &received.origin_host;
        let fate_of = |termination: &Termination| self.fate(termination, &received.request);
        let due = match self.database.procedure(|| self.database.take_undelivered(host, fate_of)) {
            Ok(due) => due,
            Err(refusal) => {
                tracing::warn!(host, %refusal, "terminations that it missed cannot be read");
                return;
            }
        };
        for termination in due {
            self.terminate(now, termination, out);
        }
    }

    /// Over when the user has come back since. Not while it may be about to: a challenge is no proof of anything,
    /// anybody can have the user challenged, so only the registration that follows one decides.
    fn fate(&self, termination: &Termination, request: &Request) -> Result<Fate, Refusal> {
        let is_move = termination.reason == ReasonCode::NewServerAssigned;
        let (_, user_name, _) = subject_of(request);
        if user_name == termination.user_name && is_undecided(request, is_move) {
            return Ok(Fate::Keep);
        }
        // Of a user who is not there any more nothing can have changed; another may have got its numbers.
        if !self.database.is_provisioned(termination)? {
            return Ok(Fate::Tell);
        }
        if is_move {
            let subscription = self.database.subscription(termination.subscription)?;
            let is_back = subscription.server.is_some_and(|server| server.host == termination.host);
            return Ok(match (is_back, subscription.previous) {
                (false, _) => Fate::Tell,
                // By a challenge alone, so far.
                (true, Some(_)) => Fate::Keep,
                (true, None) => Fate::Over,
            });
        }
        let pairs = self.database.registered_pairs(termination.subscription)?;
        let is_back = pairs.iter().any(|pair| {
            pair.private_identity == termination.private_identity
                && termination.sets.contains(&pair.implicit_set)
        });
        Ok(if is_back { Fate::Over } else { Fate::Tell })
    }
}

/// A request about the user itself that says nothing of a registration, or one whose success says it.
fn is_undecided(request: &Request, is_move: bool) -> bool {
    use ServerAssignmentType as Type;
    match request {
        Request::Mar(_) => true,
        Request::Sar(Sar { server_assignment_type, .. }) => match server_assignment_type {
            Type::Registration
            | Type::NoAssignment
            | Type::AuthenticationFailure
            | Type::AuthenticationTimeout => true,
            Type::ReRegistration => is_move,
            _ => false,
        },
        _ => false,
    }
}
