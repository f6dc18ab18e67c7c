//! Requests other than REGISTER (TS 24.229 §5.2.6): who may speak, and which way they go.
//!
//! | from | to | in |
//! |---|---|---|
//! | a UE | the home network | `originating` |
//! | the home network | a UE | `terminating` |
//! | the home network | us | `reg_event` |
//!
//! NOT DONE: TS 24.229 §5.2.7: sessions and other methods than SUBSCRIBE and NOTIFY are not carried
//! yet; each is refused with a status that says so.

use std::net::SocketAddr;

use common::node::{Now, Output};
use common::sip::endpoint::Incoming;
use common::sip::header::Name;
use common::sip::message::{Method, Response};
use common::sip::uri::{Host, Uri};

use crate::config::Policy;
use crate::registrations::Owner;
use crate::{Pcscf, Side};

/// What is taken here.
const ALLOW: &str = "REGISTER, SUBSCRIBE, NOTIFY, OPTIONS";

/// Why a request goes no further: status, reason phrase, and name in counters and logs.
pub(crate) type Refused = (u16, &'static str, &'static str);

/// TS 24.229 §5.2.7 is not done yet; nobody is refused for asking.
const NOT_CARRIED: Refused = (501, "Sessions Not Carried", "not_carried");

impl Pcscf {
    /// TS 24.229 §5.2.6.3: who may speak at all (ipsec.md N-01, F-08), then what is carried.
    pub(crate) fn session(
        &mut self,
        now: Now,
        incoming: Incoming,
        side: Side,
        out: &mut Vec<Output>,
    ) {
        let method = incoming.request().method();
        let is_for_us = self.is_for_us(&incoming);
        if side == Side::Mw {
            return match method {
                Method::Notify if is_for_us => self.notified(now, incoming, out),
                Method::Notify => self.terminate(now, incoming, out),
                _ => self.session_answer(now, incoming, is_for_us, out),
            };
        }
        let Some(owner) = self.speaker(&incoming, side) else {
            let refused = match side {
                Side::Gm if is_emergency(incoming.request().uri()) => NOT_CARRIED,
                Side::Gm => (403, "Only REGISTER Without Protection", "unprotected"),
                _ => (403, "Not Registered Over This Association", "not_registered"),
            };
            return self.session_refuse(now, incoming, refused, out);
        };
        match method {
            Method::Subscribe => self.originate(now, incoming, owner, out),
            _ => self.session_answer(now, incoming, is_for_us, out),
        }
    }

    /// What is not carried.
    fn session_answer(
        &mut self,
        now: Now,
        incoming: Incoming,
        is_for_us: bool,
        out: &mut Vec<Output>,
    ) {
        let refused = match incoming.request().method() {
            Method::Options if is_for_us => {
                self.counters.count_other("options");
                let mut response = incoming.request().response(200, "OK");
                response.headers_mut().append(Name::Allow, ALLOW);
                return self.respond(now, incoming, response, out);
            }
            Method::Register => (403, "REGISTER Comes From UEs Only", "from_core"),
            _ => NOT_CARRIED,
        };
        self.session_refuse(now, incoming, refused, out);
    }

    /// The one exit for refusals.
    pub(crate) fn session_refuse(
        &mut self,
        now: Now,
        incoming: Incoming,
        (status, reason, label): Refused,
        out: &mut Vec<Output>,
    ) {
        let mut response = incoming.request().response(status, reason);
        let headers = response.headers_mut();
        match status {
            420 => {
                for tag in incoming.request().headers().values(Name::ProxyRequire) {
                    if !tag.eq_ignore_ascii_case("sec-agree") {
                        headers.append(Name::Unsupported, tag);
                    }
                }
            }
            503 => headers.append(Name::RetryAfter, "5"),
            _ => {}
        }
        self.session_refuse_with(now, incoming, response, label, out);
    }

    pub(crate) fn session_refuse_with(
        &mut self,
        now: Now,
        incoming: Incoming,
        response: Response,
        label: &'static str,
        out: &mut Vec<Output>,
    ) {
        self.counters.count_other(label);
        tracing::info!(
            procedure = "request",
            method = incoming.request().method_text(),
            from = %incoming.flow().remote,
            status = response.status(),
            cause = label,
        );
        self.respond(now, incoming, response, out);
    }

    /// Whose request it is: of the subscriber of an established set, who is registered. In clear,
    /// where the policy allows phones without associations, of the one registered from there. One whose
    /// registration the home network has just ended is let through to be told so.
    fn speaker(&self, incoming: &Incoming, side: Side) -> Option<Owner> {
        let flow = incoming.flow();
        let owner = match side {
            Side::GmProtected => {
                let set = self.security.set_of(&flow)?;
                set.is_established().then(|| set.owner())?
            }
            // The normal registration before the emergency one.
            Side::Gm if self.config.ipsec.policy != Policy::Required => {
                self.in_clear(flow.remote).into_iter().min()?.clone()
            }
            _ => return None,
        };
        self.registrations.get_or_leaving(&owner).is_some().then_some(owner)
    }

    /// What the one subscriber has that is registered from an address without associations, or leaving: the normal
    /// registration, the emergency one, or both. Where there are several, behind one NAT, it is the one that registered
    /// from this very place. Two at one place are nobody.
    pub(crate) fn in_clear(&self, place: SocketAddr) -> Vec<&Owner> {
        let ue = place.ip();
        let mut there: Vec<&Owner> =
            self.registrations.at(ue).chain(self.registrations.leaving_at(ue)).collect();
        if !is_one_subscriber(&there) {
            there.retain(|owner| {
                let known = self.registrations.get_or_leaving(owner);
                known.is_some_and(|known| known.place == Some(place))
            });
        }
        if !is_one_subscriber(&there) {
            return Vec::new();
        }
        there.retain(|owner| self.security.sets_of(owner).is_empty());
        there
    }

    /// Neither Request-URI nor Route lead beyond this node.
    fn is_for_us(&self, incoming: &Incoming) -> bool {
        let request = incoming.request();
        let routes = request.headers().values(Name::Route);
        let is_ours = |text: &str| {
            let route = common::sip::address::Address::parse(text);
            route.is_ok_and(|route| self.is_own(&route.uri))
        };
        Uri::parse(request.uri()).is_ok_and(|uri| self.is_own(&uri))
            && routes.into_iter().all(is_ours)
    }

    /// The URI leads to this node.
    pub(crate) fn is_own(&self, uri: &Uri) -> bool {
        match uri.host_port.as_ref().map(|host_port| &host_port.host) {
            Some(Host::Name(name)) => name.eq_ignore_ascii_case(&self.config.name),
            Some(Host::Address(address)) => {
                self.config.gm.addresses.contains(address)
                    || self.config.mw.listen.iter().any(|listen| listen.ip() == *address)
            }
            None => false,
        }
    }
}

fn is_one_subscriber(owners: &[&Owner]) -> bool {
    owners.windows(2).all(|pair| pair[0].private_identity == pair[1].private_identity)
}

/// TS 24.229 §5.2.10: in clear nothing but REGISTER and what is for an emergency service (RFC 5031).
fn is_emergency(uri: &str) -> bool {
    const SERVICE: &str = "urn:service:sos";
    let (head, rest) = uri.split_at_checked(SERVICE.len()).unwrap_or((uri, ""));
    head.eq_ignore_ascii_case(SERVICE) && (rest.is_empty() || rest.starts_with(['.', ';']))
}
