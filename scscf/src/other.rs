//! Requests other than REGISTER.
//!
//! NOT DONE: TS 24.229 §5.4.3: sessions. Each gets a clear answer, so that nobody waits or tries again.

use common::node::{Now, Output};
use common::sip::endpoint::Incoming;
use common::sip::header::Name;
use common::sip::message::{Method, Request};
use common::sip::uri::Uri;

use crate::Scscf;
use crate::gruu::Found;

/// What this node takes.
const ALLOW: &str = "REGISTER, SUBSCRIBE, OPTIONS";

impl Scscf {
    /// RFC 3261 §8.2.1, §11.2.
    pub(crate) fn other(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let request = incoming.request();
        let (status, reason) = self.answer_to(request);
        let mut response = request.response(status, reason);
        if matches!(status, 200 | 405) {
            response.headers_mut().append(Name::Allow, ALLOW);
        }
        if status == 200 {
            response.headers_mut().append(Name::Supported, "path, outbound, gruu");
        }
        self.stats.other(status);
        tracing::info!(
            procedure = "other request",
            method = request.method_text(),
            status,
            reason,
            "answered"
        );
        self.sip.respond(now, incoming, response, out);
    }

    fn answer_to(&self, request: &Request) -> (u16, &'static str) {
        let Ok(uri) = Uri::parse(request.uri()) else { return (400, "Bad Request: Request-URI") };
        let is_for_us = uri.user.is_none() && (self.is_ours(&uri) || self.is_home(&uri));
        match request.method() {
            Method::Options if is_for_us => (200, "OK"),
            _ if request.to_tag().is_some() => (481, "Call/Transaction Does Not Exist"),
            Method::Invite
            | Method::Message
            | Method::Publish
            | Method::Refer
            | Method::Options => {
                let is_known = match self.find_gruu(&uri) {
                    // RFC 5627 §5.4
                    Some(found) => found != Found::Invalid,
                    None => !self.registrations.sharers(&uri.public_identity()).is_empty(),
                };
                match is_known {
                    true => (480, "Temporarily Unavailable"),
                    false => (404, "Not Found"),
                }
            }
            _ => (405, "Method Not Allowed"),
        }
    }
}
