//! Commands of the operator to a running HSS (`POST /admin`):
//!
//! | command | does |
//! |---|---|
//! | `status IMPI` | what is stored of a user, without keys |
//! | `rtr IMPI [permanent\|server-change]` | ends the registrations |
//! | `rtr IMPI remove-scscf` | ends services for the unregistered |
//! | `rtr IMPI new-server HOST` | has an S-CSCF that was displaced forget the user |
//! | `address IMPI ADDRESS` | what the packet core gave to the UE of a user of early IMS security |
//! | `ppr IMPI` | pushes what changed to the S-CSCF; `ppr IMPI again` all |
//! | `push` | the same for all users; after imports |
//! | `bar IMPU`, `unbar IMPU` | changes the profile, and pushes it where the identity is registered |
//! | `identity add IMPU BESIDE [PROFILE]` | one more identity for the implicit set of BESIDE, pushed like that |
//! | `identity remove IMPU` | one less; the default identity goes by RTR |

use std::net::IpAddr;

use common::cx::rtr::ReasonCode;
use common::node::{Now, Output};

use crate::implicit_set::OTHER_DEFAULT;
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
            ["rtr", user_name, "new-server", host] => {
                self.command_displacement(now, id, (user_name, host), out)
            }
            ["rtr", _, "new-server"] => Ok(Some(format!("new-server: which S-CSCF? {REASONS}"))),
            ["rtr", user_name, reason] => match parse_reason(reason) {
                Some(reason) => self.command_termination(now, id, user_name, reason, out),
                None => Ok(Some(format!("{reason}: {REASONS}"))),
            },
            ["address", user_name, address] => self.command_address(user_name, address).map(Some),
            ["ppr", user_name] => self.command_push(now, id, (user_name, false), out),
            ["ppr", user_name, "again"] => self.command_push(now, id, (user_name, true), out),
            ["push"] => self.plan_all_news(id).map(|pushing| {
                self.push_next(now, pushing, out);
                None
            }),
            ["identity", "add", identity, beside] => {
                self.command_identity_added(now, id, (identity, beside, None), out)
            }
            ["identity", "add", identity, beside, profile] => {
                self.command_identity_added(now, id, (identity, beside, Some(profile)), out)
            }
            ["identity", "remove", identity] => {
                self.command_identity_removed(now, id, identity, out)
            }
            ["bar", identity] => self.command_barring(now, id, (identity, true), out),
            ["unbar", identity] => self.command_barring(now, id, (identity, false), out),
            _ => Ok(Some(format!(
                "commands: status IMPI, rtr IMPI [reason], ppr IMPI [again], push, bar IMPU, \
                 unbar IMPU, identity add IMPU BESIDE [PROFILE], identity remove IMPU, address IMPI \
                 ADDRESS; {REASONS}"
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
            let what = match reason {
                ReasonCode::RemoveScscf => "no service for the unregistered",
                _ => "not registered",
            };
            return Ok(Some(format!("{user_name}: {what}")));
        };
        self.terminate(now, termination, out);
        Ok(None)
    }

    fn command_displacement(
        &mut self,
        now: Now,
        id: u64,
        (user_name, host): (&str, &str),
        out: &mut Vec<Output>,
    ) -> Result<Option<String>, Refusal> {
        let Some(termination) = self.plan_displacement(id, user_name, host)? else {
            return Ok(Some(format!("{user_name}: {host} serves; server-change moves the user")));
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
        (user_name, is_again): (&str, bool),
        out: &mut Vec<Output>,
    ) -> Result<Option<String>, Refusal> {
        let Some(pushing) = self.plan_push(id, user_name, is_again)? else {
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
        let Some(known) = database.provisioned(identity)? else {
            return Ok(Some(format!("{identity} is not known")));
        };
        let set = known.implicit_set;
        let is_done = known.is_barred == is_barred
            || database.change_served_set(set, || {
                database.set_barred(&known.identity, is_barred)?;
                database.profile_changed(set)
            })?;
        if !is_done {
            return Ok(Some(format!("{identity}: {OTHER_DEFAULT}")));
        }
        let report =
            format!("{}: {}", known.identity, if is_barred { "barred" } else { "not barred" });
        self.push_set(now, id, (set, known.subscription), report, out)?;
        Ok(None)
    }
}

const REASONS: &str = "reasons: permanent, server-change, remove-scscf, new-server HOST (an S-CSCF that was displaced)";

/// Reason-Code by the operator's word (TS 29.229 §6.3.17).
fn parse_reason(word: &str) -> Option<ReasonCode> {
    Some(match word {
        "permanent" => ReasonCode::PermanentTermination,
        "server-change" => ReasonCode::ServerChange,
        "remove-scscf" => ReasonCode::RemoveScscf,
        _ => return None,
    })
}
