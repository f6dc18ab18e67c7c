//! Terminations that an S-CSCF was not there to hear of (TS 29.228 §6.1.3.1): told again when it shows itself.
//!
//! The user is not registered any more, whatever the S-CSCF thinks; but the S-CSCF, back with what it has
//! stored, would go on serving, and its next RE_REGISTRATION would have the user registered again that the
//! operator has ended.
//!
//! They are kept in memory, and forgotten with the process.

use std::collections::VecDeque;

use common::cx::rtr::ReasonCode;
use common::cx::sar::ServerAssignmentType;
use common::cx::{Received, Request};
use common::node::{Now, Output};

use crate::push::Termination;
use crate::{Hss, subject_of};

/// So many; the oldest makes room.
const LIMIT: usize = 10_000;

#[derive(Debug, Default)]
pub struct Undelivered(VecDeque<Termination>);

impl Undelivered {
    /// Once more, and no oftener.
    pub fn keep(&mut self, termination: &Termination) {
        if termination.is_repeated {
            return;
        }
        if self.0.len() >= LIMIT {
            self.0.pop_front();
        }
        self.0.push_back(Termination { is_repeated: true, reply: None, ..termination.clone() });
    }

    fn take(&mut self, host: &str) -> VecDeque<Termination> {
        let all = std::mem::take(&mut self.0).into_iter();
        let (due, rest) = all.partition(|one| one.host == host);
        self.0 = rest;
        due
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Hss {
    /// The S-CSCF asks something, so it is there. In front of the answer: what it asks may be for the very user.
    pub(crate) fn tell_again(&mut self, now: Now, received: &Received, out: &mut Vec<Output>) {
        if self.undelivered.len() == 0 {
            return;
        }
        for termination in self.undelivered.take(&received.origin_host) {
            if self.is_still_meant(&termination, &received.request) {
                self.terminate(now, termination, out);
            }
        }
    }

    /// Not when the user has come back since, or is about to: an authentication, or a registration by it, is newer
    /// than what was to be ended.
    fn is_still_meant(&self, termination: &Termination, request: &Request) -> bool {
        let is_move = termination.reason == ReasonCode::NewServerAssigned;
        let (_, user_name, _) = subject_of(request);
        let is_refresh = matches!(request, Request::Sar(sar)
            if sar.server_assignment_type == ServerAssignmentType::ReRegistration);
        if user_name == termination.user_name && (is_move || !is_refresh) {
            return false;
        }
        // Of a user who is not there any more nothing can have changed.
        match is_move {
            true => self.database.subscription(termination.subscription).map_or(true, |found| {
                found.server.is_none_or(|server| server.host != termination.host)
            }),
            false => {
                self.database.registered_pairs(termination.subscription).map_or(true, |pairs| {
                    !pairs.iter().any(|pair| {
                        pair.private_identity == termination.private_identity
                            && termination.sets.contains(&pair.implicit_set)
                    })
                })
            }
        }
    }
}
