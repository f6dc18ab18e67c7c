//! Commands of the operator to a running HSS (`POST /admin`):
//!
//! | command | does |
//! |---|---|
//! | `status IMPI` | what is stored of a user, without keys |
//! | `rtr IMPI [permanent\|new-server\|server-change\|remove-scscf]` | ends the registration |
//! | `address IMPI ADDRESS` | what the packet core gave to the UE of a user of early IMS security |
//! | `ppr IMPI` | pushes the profile to the S-CSCF |
//! | `bar IMPU`, `unbar IMPU` | changes the profile, and pushes it where the identity is registered |

use std::net::IpAddr;

use common::cx::rtr::ReasonCode;
use common::node::{Now, Output};
use common::sip::uri::Uri;

use crate::push::Pushing;
use crate::refusal::Refusal;
use crate::{Hss, provision};

impl Hss {
    /// One command; the answer may come later, when an S-CSCF has answered.
    pub(crate) fn administer(
        &mut self,
        now: Now,
        id: u64,
        command: &[String],
        out: &mut Vec<Output>,
    ) {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let result = match words[..] {
            ["status", user_name] => provision::describe(&self.database, user_name).map(Some),
            ["rtr", user_name] => {
                self.command_termination(now, id, user_name, ReasonCode::PermanentTermination, out)
            }
            ["rtr", user_name, reason] => match parse_reason(reason) {
                Some(reason) => self.command_termination(now, id, user_name, reason, out),
                None => Ok(Some(format!("{reason}: {REASONS}"))),
            },
            ["address", user_name, address] => self.command_address(user_name, address).map(Some),
            ["ppr", user_name] => self.command_push(now, id, user_name, out),
            ["bar", identity] => self.command_barring(now, id, (identity, true), out),
            ["unbar", identity] => self.command_barring(now, id, (identity, false), out),
            _ => Ok(Some(format!(
                "commands: status IMPI, rtr IMPI [reason], ppr IMPI, bar IMPU, unbar IMPU, \
                 address IMPI ADDRESS; {REASONS}"
            ))),
        };
        let text = match result {
            Ok(None) => return,
            Ok(Some(text)) => text,
            Err(refusal) => format!("refused: {refusal}"),
        };
        out.push(Output::Reply { id, text });
    }

    fn command_termination(
        &mut self,
        now: Now,
        id: u64,
        user_name: &str,
        reason: ReasonCode,
        out: &mut Vec<Output>,
    ) -> Result<Option<String>, Refusal> {
        let Some(termination) = self.plan_termination(id, user_name, reason)? else {
            return Ok(Some(format!("{user_name}: not registered")));
        };
        self.terminate(now, termination, out);
        Ok(None)
    }

    /// TS 33.203 Annex T: the user's bearer has this address from now on.
    fn command_address(&self, user_name: &str, address: &str) -> Result<String, Refusal> {
        let Ok(address) = address.parse::<IpAddr>() else {
            return Ok(format!("{address} is no IP address"));
        };
        let database = &self.database;
        let is_stored =
            database.procedure(|| database.set_framed_address(user_name, &address.to_string()))?;
        Ok(match is_stored {
            true => format!("{user_name}: {address}"),
            false => format!("{user_name} does not authenticate by early-ims"),
        })
    }

    fn command_push(
        &mut self,
        now: Now,
        id: u64,
        user_name: &str,
        out: &mut Vec<Output>,
    ) -> Result<Option<String>, Refusal> {
        let Some(pushing) = self.plan_push(id, user_name)? else {
            return Ok(Some(format!("{user_name}: not registered")));
        };
        self.push_next(now, pushing, out);
        Ok(None)
    }

    /// TS 29.228 §6.2.2.1: what a set may be used for changes at once, but never its default identity while an
    /// S-CSCF has it.
    fn command_barring(
        &mut self,
        now: Now,
        id: u64,
        (identity, is_barred): (&str, bool),
        out: &mut Vec<Output>,
    ) -> Result<Option<String>, Refusal> {
        let database = &self.database;
        let known = database.public_identity(identity)?.filter(|known| {
            let asked = Uri::parse(identity).map(|uri| uri.public_identity());
            known.identity == identity || asked.is_ok_and(|asked| known.identity == asked.as_str())
        });
        let Some(known) = known else { return Ok(Some(format!("{identity} is not known"))) };
        let set = known.implicit_set;
        let served = database.push_candidates(set)?;
        let is_changed = database.procedure(|| {
            let before = database.default_identity(set)?;
            database.set_barred(&known.identity, is_barred)?;
            let is_kept = served.is_empty() || database.default_identity(set)? == before;
            if !is_kept {
                database.set_barred(&known.identity, known.is_barred)?;
            }
            Ok(is_kept)
        })?;
        if !is_changed {
            return Ok(Some(format!(
                "{identity}: refused, it would give another default identity to a set that is \
                 registered; rtr ends that"
            )));
        }
        let report =
            format!("{}: {}", known.identity, if is_barred { "barred" } else { "not barred" });
        let Some(server) = database.subscription(known.subscription)?.server else {
            return Ok(Some(report));
        };
        let pushing = Pushing::of_set(id, &server, known.subscription, served, report);
        self.push_next(now, pushing, out);
        Ok(None)
    }
}

const REASONS: &str = "reasons: permanent, new-server, server-change, remove-scscf";

/// Reason-Code by the operator's word (TS 29.229 §6.3.17).
fn parse_reason(word: &str) -> Option<ReasonCode> {
    Some(match word {
        "permanent" => ReasonCode::PermanentTermination,
        "new-server" => ReasonCode::NewServerAssigned,
        "server-change" => ReasonCode::ServerChange,
        "remove-scscf" => ReasonCode::RemoveScscf,
        _ => return None,
    })
}
