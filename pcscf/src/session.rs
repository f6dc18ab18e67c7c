//! Requests other than REGISTER (TS 24.229 §5.2.6).
//!
//! NOT DONE: TS 24.229 §5.2.6, §5.2.7: sessions and stand-alone transactions are not carried yet;
//! each is refused with a status that says so.

use common::node::{Now, Output};
use common::sip::endpoint::Incoming;
use common::sip::header::Name;
use common::sip::message::Method;

use crate::{Pcscf, Side};

impl Pcscf {
    /// TS 24.229 §5.2.6.3: who may speak at all (ipsec.md N-01, F-08), then what is carried.
    pub(crate) fn session(
        &mut self,
        now: Now,
        incoming: Incoming,
        side: Side,
        out: &mut Vec<Output>,
    ) {
        let is_for_us = self.is_own_uri(incoming.request().uri());
        let (status, reason, label) = match (side, incoming.request().method()) {
            (Side::Gm, _) => (403, "Only REGISTER Without Protection", "unprotected"),
            (Side::GmProtected, _) if !self.may_speak(&incoming) => {
                (403, "Not Registered Over This Association", "not_registered")
            }
            (_, Method::Options) if is_for_us => (200, "OK", "options"),
            (Side::Mw, Method::Register) => (403, "REGISTER Comes From UEs Only", "from_core"),
            _ => (501, "Sessions Not Carried", "not_carried"),
        };
        self.counters.count_other(label);
        if status != 200 {
            tracing::info!(
                procedure = "request",
                method = incoming.request().method_text(),
                from = %incoming.flow().remote,
                status,
                cause = label,
            );
        }
        let mut response = incoming.request().response(status, reason);
        if status == 200 {
            response.headers_mut().append(Name::Allow, "REGISTER, OPTIONS");
        }
        self.respond(now, incoming, response, out);
    }

    /// The flow belongs to an established set whose subscriber is registered.
    fn may_speak(&self, incoming: &Incoming) -> bool {
        let flow = incoming.flow();
        self.security.set_of(&flow).is_some_and(|set| {
            set.is_established() && self.registrations.get(&set.impi, flow.remote.ip()).is_some()
        })
    }

    fn is_own_uri(&self, uri: &str) -> bool {
        let Ok(uri) = common::sip::uri::Uri::parse(uri) else { return false };
        let Some(host_port) = uri.host_port else { return false };
        match host_port.host {
            common::sip::uri::Host::Name(name) => name.eq_ignore_ascii_case(&self.config.name),
            common::sip::uri::Host::Address(address) => {
                self.config.gm.addresses.contains(&address)
                    || self.config.mw.listen.iter().any(|listen| listen.ip() == address)
            }
        }
    }
}
