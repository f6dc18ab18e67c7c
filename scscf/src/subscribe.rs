//! Subscription to the registration state (TS 24.229 §5.4.2.1.1, RFC 6665 §4.2.1, RFC 3680).
//!
//! 1. `subscribe`        read it; in a dialog of ours or a new one
//! 2. `subscribe_anew`   who may watch, for how long
//! 3. `subscribe_again`  longer, or no more
//!
//! The NOTIFY that answers leaves at the end of the turn: `notify`.

use common::identity::Impu;
use common::node::{Now, Output};
use common::reginfo;
use common::restoration;
use common::sip::address::{Address, Contact, delta_seconds};
use common::sip::endpoint::Incoming;
use common::sip::header::Name;
use common::sip::message::{Request, Response};
use common::sip::p_headers::ChargingVector;
use common::sip::parameter;
use common::sip::uri::{Host, Uri};

use crate::state::{Registration, canonical, end_of};
use crate::subscriptions::{End, News, Subscription, Watcher};
use crate::{RETRY_AFTER_SECONDS, Scscf};

/// Why a SUBSCRIBE is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A header that is needed cannot be read (RFC 3261 §21.4.1).
    Malformed(&'static str),
    /// Of another event package, or of none (RFC 6665 §4.2.1.1).
    OtherEvent,
    /// It takes no such document (RFC 3261 §21.4.7).
    NotAcceptable,
    /// It requires what is not supported (RFC 3261 §8.2.2.3).
    UnsupportedExtension,
    /// The interval is below the minimum (RFC 6665 §4.2.1.1).
    IntervalTooBrief,
    /// Whose state is asked for is not registered here.
    ///
    /// DEVIATES: TS 24.229 §5.4.2.1.1 has 480 for it, because that is also what an I-CSCF says whose HSS is silent, and
    /// a P-CSCF that was away has to tell the end of a registration from it.
    NotRegistered,
    /// A UE says by Service-Route that it is served here, and nothing is known of it (TS 24.229 §5.4.3.2, TS 23.380 §4.4):
    /// what was known is lost.
    NothingKnown,
    /// Neither the user nor one who serves it (TS 24.229 §5.4.2.1.1).
    NotAuthorised,
    /// In a dialog that is none of ours (RFC 6665 §4.4.1).
    NoSubscription,
    /// Not newer than the one before (RFC 3261 §12.2.2).
    OutOfOrder,
    /// As many as there may be.
    Full,
}

impl Refusal {
    fn face(self) -> (u16, &'static str, &'static str) {
        match self {
            Refusal::Malformed(_) => (400, "Bad Request", "malformed"),
            Refusal::OtherEvent => (489, "Bad Event", "other_event"),
            Refusal::NotAcceptable => (406, "Not Acceptable", "not_acceptable"),
            Refusal::UnsupportedExtension => (420, "Bad Extension", "unsupported_extension"),
            Refusal::IntervalTooBrief => (423, "Interval Too Brief", "interval_too_brief"),
            Refusal::NotRegistered => (404, "Not Found", "not_registered"),
            Refusal::NothingKnown => (504, "Server Time-out", "nothing_known"),
            Refusal::NotAuthorised => (403, "Forbidden", "not_authorised"),
            Refusal::NoSubscription => (481, "Subscription Does Not Exist", "no_subscription"),
            Refusal::OutOfOrder => (500, "Server Internal Error", "out_of_order"),
            Refusal::Full => (503, "Service Unavailable", "full"),
        }
    }
}

impl Scscf {
    /// TS 24.229 §5.4.2.1.1
    pub(crate) fn subscribe(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let request = incoming.request();
        let result = match request.to_tag() {
            Some(_) => self.subscribe_again(now, request, out),
            None => self.subscribe_anew(now, request, out),
        };
        let (response, outcome, status) = match result {
            Ok((response, outcome)) => (response, outcome, 200),
            Err(refusal) => {
                let (status, _, name) = refusal.face();
                (self.subscribe_refusal(request, refusal), name, status)
            }
        };
        self.stats.subscription(outcome);
        tracing::info!(
            procedure = "subscription",
            outcome,
            status,
            watched = %self.logged(request.uri()),
            by = %self.logged(request.headers().get(Name::PAssertedIdentity).unwrap_or("-")),
            "answered"
        );
        self.sip.respond(now, incoming, response, out);
    }

    fn subscribe_refusal(&self, request: &Request, refusal: Refusal) -> Response {
        let (status, reason, _) = refusal.face();
        let mut response = match refusal {
            Refusal::Malformed(what) => request.response(status, &format!("{reason}: {what}")),
            Refusal::NothingKnown => {
                let own = &self.own.service_route;
                return restoration::register_anew(request, own, "S-CSCF without profile");
            }
            _ => request.response(status, reason),
        };
        let headers = response.headers_mut();
        match refusal {
            Refusal::OtherEvent => headers.append(Name::AllowEvents, reginfo::PACKAGE),
            Refusal::NotAcceptable => headers.append(Name::Accept, reginfo::CONTENT_TYPE),
            Refusal::UnsupportedExtension => {
                headers.copy_from(request.headers(), Name::Require);
                let tags: Vec<String> =
                    request.headers().values(Name::Require).map(str::to_owned).collect();
                headers.remove(Name::Require);
                headers.append(Name::Unsupported, &tags.join(", "));
            }
            Refusal::IntervalTooBrief => {
                let minimum = self.config.reg_event.expires_min_seconds;
                headers.append(Name::MinExpires, &minimum.to_string());
            }
            Refusal::Full => headers.append(Name::RetryAfter, RETRY_AFTER_SECONDS),
            _ => {}
        }
        response
    }

    /// A new subscription, or with an interval of 0 one look (RFC 6665 §4.4.3). Of a registration that has just
    /// ended one NOTIFY tells, as it would have told a watcher that was there (TS 24.229 §5.4.1.5).
    fn subscribe_anew(
        &mut self,
        now: Now,
        request: &Request,
        out: &mut Vec<Output>,
    ) -> Result<(Response, &'static str), Refusal> {
        let headers = request.headers();
        let event_id = read_event(request)?;
        let seconds = self.granted(request)?;
        let remote_target = read_contact(request)?;
        let uri = Uri::parse(request.uri()).map_err(|_| Refusal::Malformed("Request-URI"))?;
        let public_identity = uri.public_identity();
        let (watcher, end) = self.watcher(request, &public_identity)?;
        let policy = &self.config.reg_event;
        let is_full = self.subscriptions.len() >= policy.subscriptions_max
            || self.subscriptions.of(&public_identity).len() >= policy.per_identity_max;
        if is_full {
            return Err(Refusal::Full);
        }
        let untagged = |name, what| {
            let mut address = headers
                .get(name)
                .and_then(|text| Address::parse(text).ok())
                .ok_or(Refusal::Malformed(what))?;
            address.remove_parameter("tag");
            Ok(address.to_string())
        };
        let gone = self.ends_of(&public_identity).iter().flat_map(|one| one.gone.clone()).collect();
        let subscription = Subscription {
            call_id: request.call_id().to_owned(),
            local_tag: self.random.token(),
            remote_tag: request.from_tag().unwrap_or("").to_owned(),
            local: untagged(Name::To, "To")?,
            remote: untagged(Name::From, "From")?,
            remote_target,
            route_set: headers.values(Name::RecordRoute).map(str::to_owned).collect(),
            remote_cseq: request.cseq(),
            local_cseq: 0,
            event_id,
            public_identity,
            watcher,
            expires_at_seconds: end_of(seconds, now),
            version: 0,
            is_owed: true,
            ends: end.or((seconds == 0).then_some(End::Timeout)),
        };
        let tag = subscription.local_tag.clone();
        let response = self.accepted(request, &tag, seconds);
        if subscription.ends.is_none() {
            self.back_up_later(now, &subscription);
        }
        self.subscriptions.store(subscription, out);
        self.subscriptions.tell(&tag, &News { gone, ..News::default() });
        self.subscriptions.tell_all(&tag);
        let outcome = match (end, seconds) {
            (Some(_), _) => "told_of_the_end",
            (None, 0) => "fetched",
            (None, _) => "subscribed",
        };
        Ok((response, outcome))
    }

    /// RFC 6665 §4.4.1: in a dialog that a SUBSCRIBE made.
    fn subscribe_again(
        &mut self,
        now: Now,
        request: &Request,
        out: &mut Vec<Output>,
    ) -> Result<(Response, &'static str), Refusal> {
        let known = request.to_tag().and_then(|tag| self.subscriptions.get(tag));
        let is_of_dialog = |known: &&Subscription| {
            known.call_id == request.call_id()
                && known.remote_tag == request.from_tag().unwrap_or("")
                && known.ends.is_none()
        };
        let known = known.filter(is_of_dialog).ok_or(Refusal::NoSubscription)?;
        if request.cseq() <= known.remote_cseq {
            return Err(Refusal::OutOfOrder);
        }
        if read_event(request)? != known.event_id {
            return Err(Refusal::NoSubscription);
        }
        let seconds = self.granted(request)?;
        let mut known = known.clone();
        known.remote_cseq = request.cseq();
        known.remote_target = read_contact(request)?;
        known.expires_at_seconds = end_of(seconds, now);
        known.is_owed = true;
        known.ends = (seconds == 0).then_some(End::Timeout);
        let tag = known.local_tag.clone();
        let response = self.accepted(request, &tag, seconds);
        self.subscriptions.store(known, out);
        self.subscriptions.tell_all(&tag);
        Ok((response, if seconds == 0 { "unsubscribed" } else { "resubscribed" }))
    }

    /// RFC 6665 §4.2.1.1: as asked, shortened, or refused as too brief; RFC 3680 §4.4 for none.
    fn granted(&self, request: &Request) -> Result<u32, Refusal> {
        let policy = &self.config.reg_event;
        let asked = match request.headers().get(Name::Expires) {
            None => policy.expires_default_seconds,
            Some(text) => delta_seconds(text.trim()).ok_or(Refusal::Malformed("Expires"))?,
        };
        match asked {
            0 => Ok(0),
            // Only what is below an hour may be called too brief.
            _ if asked < policy.expires_min_seconds.min(3_600) => Err(Refusal::IntervalTooBrief),
            _ => Ok(asked.min(policy.expires_max_seconds)),
        }
    }

    /// TS 24.229 §5.4.2.1.1: the user itself, the P-CSCF that is in its Path, and the application
    /// servers of its filter criteria. P-Asserted-Identity says who it is: what comes from the
    /// trust domain has one.
    ///
    /// Whoever might watch only what has just ended is told of that end, and no more.
    fn watcher(
        &self,
        request: &Request,
        public_identity: &Impu,
    ) -> Result<(Watcher, Option<End>), Refusal> {
        let is_registered = self.is_registered(public_identity);
        if is_registered {
            let sharers = self.registrations.sharers(public_identity).iter();
            let held: Vec<_> = sharers.flat_map(|sharer| self.registrations.of(sharer)).collect();
            if let Some(watcher) = self.watcher_of(request, &held) {
                return Ok((watcher, None));
            }
        }
        let Some(latest) = self.ends.latest(public_identity) else {
            return Err(match is_registered {
                true => Refusal::NotAuthorised,
                false if self.is_said_to_serve(request, public_identity) => Refusal::NothingKnown,
                false => Refusal::NotRegistered,
            });
        };
        let ends = self.ends_of(public_identity);
        let ended: Vec<_> = ends.iter().map(|ended| &ended.registration).collect();
        let watcher = self.watcher_of(request, &ended).ok_or(Refusal::NotAuthorised)?;
        Ok((watcher, Some(latest.cause.end())))
    }

    /// By the Route of our Service-Route its P-CSCF sends what a UE asks, with the identity that it has vouched for; here
    /// the UE asks for its own state.
    fn is_said_to_serve(&self, request: &Request, public_identity: &Impu) -> bool {
        let uri_of = |text: &str| Address::parse(text).ok().map(|address| address.uri);
        let headers = request.headers();
        let route = headers.values(Name::Route).next().and_then(uri_of);
        let own = uri_of(&self.own.service_route);
        let mut asserted = headers.values(Name::PAssertedIdentity).filter_map(uri_of);
        route.zip(own).is_some_and(|(route, own)| route.is_equivalent(&own))
            && asserted.any(|uri| uri.public_identity() == *public_identity)
    }

    fn watcher_of(&self, request: &Request, held: &[&Registration]) -> Option<Watcher> {
        let asserted: Vec<Uri> = request
            .headers()
            .values(Name::PAssertedIdentity)
            .filter_map(|text| Address::parse(text).ok())
            .map(|address| address.uri)
            .collect();
        let is_barred = |identity: &Impu| {
            held.iter().all(|held| {
                let mut identities = held.identities();
                !identities.any(|one| !one.is_barred && canonical(one) == *identity)
            })
        };
        if asserted.iter().any(|uri| !is_barred(&uri.public_identity())) {
            return Some(Watcher::User);
        }
        let has_host = |text: &str| {
            let host = |uri: &Uri| uri.host_port.as_ref().map(|host_port| host_port.host.clone());
            let uri = match Address::parse(text) {
                Ok(address) => address.uri,
                Err(_) => return false,
            };
            let wanted: Option<Host> = host(&uri);
            wanted.is_some() && asserted.iter().any(|asserted| host(asserted) == wanted)
        };
        let mut paths = held.iter().flat_map(|held| &held.bindings).flat_map(|one| &one.path);
        if paths.any(|path| has_host(path)) {
            return Some(Watcher::Pcscf);
        }
        let profiles = held.iter().flat_map(|held| &held.service_profiles);
        let mut criteria = profiles.flat_map(|profile| self.own.shared_criteria.of(profile));
        criteria
            .any(|criterion| has_host(&format!("<{}>", criterion.server_name)))
            .then_some(Watcher::ApplicationServer)
    }

    /// RFC 6665 §4.2.1.1: the 200, with the tag of our side of the dialog.
    fn accepted(&self, request: &Request, local_tag: &str, seconds: u32) -> Response {
        let mut response = request.response(200, "OK");
        let headers = response.headers_mut();
        if request.to_tag().is_none()
            && let Some(to) = request.headers().get(Name::To)
        {
            headers.set(Name::To, &format!("{to};tag={local_tag}"));
        }
        headers.copy_from(request.headers(), Name::RecordRoute);
        headers.append(Name::Contact, &format!("<{}>", self.own.server_name));
        headers.append(Name::Expires, &seconds.to_string());
        let vector = request.headers().get(Name::PChargingVector).and_then(ChargingVector::parse);
        if let Some(mut vector) = vector {
            vector.term_ioi = Some(format!("Type 1{}", self.config.home_domain));
            headers.append(Name::PChargingVector, &vector.to_string());
        }
        response
    }

    /// RFC 6665 §4.2.2: nobody has asked for it again.
    pub(crate) fn subscription_expired(&mut self, now: Now, tag: &str) {
        let Some(known) = self.subscriptions.get(tag) else { return };
        if known.expires_at_seconds <= now.as_secs() {
            self.stats.subscription("expired");
            self.subscriptions.end(tag, End::Timeout);
            self.subscriptions.tell_all(tag);
        }
    }
}

/// The `id` of Event, which must be of this package (RFC 6665 §8.2.1); what is required, and what
/// is accepted.
fn read_event(request: &Request) -> Result<Option<String>, Refusal> {
    let headers = request.headers();
    let event = headers.get(Name::Event).ok_or(Refusal::OtherEvent)?;
    if !reginfo::is_reg_event(headers) {
        return Err(Refusal::OtherEvent);
    }
    let is_accepted = |value: &str| {
        let kind = value.split(';').next().unwrap_or("").trim();
        [reginfo::CONTENT_TYPE, "application/*", "*/*"]
            .iter()
            .any(|known| kind.eq_ignore_ascii_case(known))
    };
    if headers.has(Name::Accept) && !headers.values(Name::Accept).any(is_accepted) {
        return Err(Refusal::NotAcceptable);
    }
    if headers.has(Name::Require) {
        return Err(Refusal::UnsupportedExtension);
    }
    let mut parameters = parameter::parameters(&event[package_end(event)..]);
    let id = parameters.find(|(name, _)| name.eq_ignore_ascii_case("id"));
    Ok(id.and_then(|(_, value)| value).map(str::to_owned))
}

fn package_end(event: &str) -> usize {
    event.find(';').unwrap_or(event.len())
}

/// RFC 6665 §4.1.2.1: where the NOTIFYs go.
fn read_contact(request: &Request) -> Result<String, Refusal> {
    let mut contacts = request.headers().values(Name::Contact);
    match contacts.next().map(Contact::parse) {
        Some(Ok(Contact::Address(address))) => Ok(address.uri_text),
        _ => Err(Refusal::Malformed("Contact")),
    }
}
