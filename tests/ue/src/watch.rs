//! The phone watches its own registration (TS 24.229 §5.1.1.3, §5.1.1.5A, §5.1.1.7; RFC 3680).
//!
//! 1. `watch`           SUBSCRIBE, behind an initial registration
//! 2. `on_subscribed`   the dialog stands, or it does not
//! 3. `on_notify`       what the network says of the registration, and what follows

use std::net::SocketAddr;
use std::time::Duration;

use common::node::Now;
use common::reginfo::{self, Contact, Order, RegInfo, Versions};
use common::restoration;
use common::sip::address::Address;
use common::sip::endpoint::NoReply;
use common::sip::header::Name;
use common::sip::message::{Headers, Request, Response};
use common::sip::uri::{HostPort, Uri};

use crate::event::{Event, Watched};
use crate::outcome::refresh_after;
use crate::phone::{Output, Phone};
use crate::register::{Timer, Wait, seconds};
use crate::request::host_port;

/// What a UE asks for (TS 24.229 §5.1.1.3).
const EXPIRES_SECONDS: u32 = 600_000;

/// A subscription of the phone to the state of one of its registrations.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Whose state it is.
    pub public_identity: String,
    pub call_id: String,
    local_tag: String,
    local_cseq: u32,
    /// Once the 200 or the first NOTIFY has come.
    remote_tag: Option<String>,
    remote_cseq: Option<u32>,
    /// URI that later SUBSCRIBEs go to.
    remote_target: String,
    /// Route of later SUBSCRIBEs, topmost first.
    route_set: Vec<String>,
    /// Of the documents that have come.
    pub versions: Versions,
    /// The contact that a document has shown as bound.
    shown: Option<HostPort>,
    pub expires_at: Option<Now>,
    serial: u64,
    expires_seconds: u32,
}

/// What a NOTIFY has said.
#[derive(Debug)]
pub(crate) struct Told {
    identity: usize,
    info: RegInfo,
    order: Order,
    /// The subscription ends with it.
    is_over: bool,
}

impl Phone {
    /// What the phone knows of its subscription to that registration.
    pub fn watched(&self, identity: usize) -> Option<&Watch> {
        self.watches.get(&identity)
    }

    /// TS 24.229 §5.1.1.3: for the identity that was registered, or for the default one when that is
    /// barred and so is not among the associated ones; §5.1.6.3: never for an emergency registration.
    pub(crate) fn watch(&mut self, now: Now, identity: usize, out: &mut Vec<Output>) {
        let Some(registration) = self.registrations.get(&identity) else { return };
        if !self.config.subscribes || self.config.is_emergency {
            return;
        }
        let own = &self.config.isim.impus[identity];
        let associated: Vec<String> = registration
            .associated
            .iter()
            .filter_map(|text| Address::parse(text).ok())
            .map(|address| address.uri_text)
            .collect();
        let is_usable = associated.is_empty() || associated.iter().any(|uri| is_same(uri, own));
        let public_identity = match associated.first() {
            Some(default) if !is_usable => default.clone(),
            _ => own.clone(),
        };
        let watch = Watch {
            remote_target: public_identity.clone(),
            public_identity,
            call_id: self.new_call_id(),
            local_tag: self.random.token(),
            local_cseq: 0,
            remote_tag: None,
            remote_cseq: None,
            route_set: Vec::new(),
            versions: Versions::default(),
            shown: None,
            expires_at: None,
            serial: 0,
            expires_seconds: EXPIRES_SECONDS,
        };
        self.watches.insert(identity, watch);
        self.send_subscribe(now, identity, out);
    }

    /// TS 24.229 §5.1.1.3, registration.md U-14, U-20: first by the preloaded route, then within the
    /// dialog.
    pub(crate) fn send_subscribe(&mut self, now: Now, identity: usize, out: &mut Vec<Output>) {
        let Some(registration) = self.registrations.get(&identity) else { return };
        let set = self.sets.in_use().filter(|_| registration.is_protected);
        let held = set.and_then(|id| self.sets.get(id));
        let pcscf = match held {
            Some(held) => SocketAddr::new(held.esp.set().pcscf, held.esp.set().ports.ps),
            None => self.pcscf_address(),
        };
        let Some(watch) = self.watches.get_mut(&identity) else { return };
        self.next_serial += 1;
        watch.serial = self.next_serial;
        watch.local_cseq += 1;
        watch.versions.asks();
        let mut request = Request::new("SUBSCRIBE", &watch.remote_target);
        let headers = request.headers_mut();
        if watch.remote_tag.is_some() {
            watch.route_set.iter().for_each(|route| headers.append(Name::Route, route));
        } else {
            headers.append(Name::Route, &format!("<sip:{};lr>", host_port(pcscf)));
            registration.service_route.iter().for_each(|route| headers.append(Name::Route, route));
        }
        headers.append(Name::MaxForwards, "70");
        let own = &watch.public_identity;
        headers.append(Name::From, &format!("<{own}>;tag={}", watch.local_tag));
        let tag = watch.remote_tag.as_ref().map(|tag| format!(";tag={tag}")).unwrap_or_default();
        headers.append(Name::To, &format!("<{own}>{tag}"));
        headers.append(Name::CallId, &watch.call_id);
        headers.append(Name::CSeq, &format!("{} SUBSCRIBE", watch.local_cseq));
        headers.append(Name::Contact, &format!("<sip:{}>", registration.contact));
        headers.append(Name::Event, reginfo::PACKAGE);
        headers.append(Name::Expires, &watch.expires_seconds.to_string());
        headers.append(Name::Accept, reginfo::CONTENT_TYPE);
        headers.append(Name::PPreferredIdentity, &format!("<{own}>"));
        if let Some(held) = held {
            headers.append(Name::Require, "sec-agree");
            headers.append(Name::ProxyRequire, "sec-agree");
            for line in &held.security_server {
                headers.append(Name::SecurityVerify, line);
            }
            if let Some(access_network) = &self.config.access_network {
                headers.append(Name::PAccessNetworkInfo, access_network);
            }
        }
        let wait = Wait::Subscribe(identity, watch.serial);
        self.send(now, request, set, wait, out);
    }

    /// The end of a SUBSCRIBE's transaction (RFC 6665 §4.1.2.1, §4.1.2.2).
    pub(crate) fn on_subscribed(
        &mut self,
        now: Now,
        identity: usize,
        serial: u64,
        reply: Result<Response, NoReply>,
        out: &mut Vec<Output>,
    ) {
        let Some(watch) = self.watches.get_mut(&identity).filter(|one| one.serial == serial) else {
            return;
        };
        let (status, response) = match reply {
            Ok(response) => (response.status(), Some(response)),
            Err(NoReply::Timeout) => (408, None),
            Err(NoReply::Unreachable) => (503, None),
        };
        match response {
            Some(response) if response.is_success() => {
                watch.confirm(&response);
                let granted = seconds(&response, Name::Expires).unwrap_or(watch.expires_seconds);
                let granted = Duration::from_secs(u64::from(granted));
                watch.expires_at = Some(now + granted);
                watch.versions.answered(now);
                let renewal = watch.versions.refresh_at(now + refresh_after(granted));
                self.timers.set(Timer::Watch(identity), renewal);
                let expires_seconds = granted.as_secs() as u32;
                let what = Watched::Subscribed { expires_seconds };
                out.push(Output::Event(Event::Watch { identity, what }));
            }
            Some(response) if status == 423 => {
                let wanted = seconds(&response, Name::MinExpires).unwrap_or(0);
                if wanted > watch.expires_seconds {
                    watch.expires_seconds = wanted;
                    return self.send_subscribe(now, identity, out);
                }
                self.not_subscribed(identity, status, out);
            }
            // RFC 6665 §4.1.2.2: the network has lost the dialog, not the registration.
            Some(_) if status == 481 && watch.remote_tag.is_some() => {
                self.watch(now, identity, out);
            }
            Some(response) => {
                let is_restoration = self.wants_restoration(identity, &response);
                self.not_subscribed(identity, status, out);
                // TS 24.229 §5.1.2A.1.6, registration.md U-24: not before that.
                if let Some(after) = seconds(&response, Name::RetryAfter) {
                    let after = Duration::from_secs(u64::from(after.max(1)));
                    self.timers.set(Timer::Watch(identity), now + after);
                }
                if is_restoration {
                    self.register_anew(now, identity, out);
                }
            }
            None => self.not_subscribed(identity, status, out),
        }
    }

    fn not_subscribed(&mut self, identity: usize, status: u16, out: &mut Vec<Output>) {
        self.unwatch(identity);
        let what = Watched::NotSubscribed { status };
        out.push(Output::Event(Event::Watch { identity, what }));
    }

    /// TS 24.229 §5.1.2A.1.6, registration.md U-25: a 504 of the S-CSCF or P-CSCF of this
    /// registration that says: register anew.
    fn wants_restoration(&self, identity: usize, response: &Response) -> bool {
        let Some(registration) = self.registrations.get(&identity) else { return false };
        let asserted = response.headers().values(Name::PAssertedIdentity);
        let asserted: Vec<Address> =
            asserted.filter_map(|text| Address::parse(text).ok()).collect();
        let mut known = registration.service_route.iter().chain(&registration.path);
        restoration::asks_to_register_anew(response)
            && known.any(|text| {
                Address::parse(text)
                    .is_ok_and(|known| asserted.iter().any(|one| one.uri.is_equivalent(&known.uri)))
            })
    }

    /// RFC 6665 §4.1.3: the answer to a NOTIFY, and what follows from it.
    pub(crate) fn on_notify(&mut self, now: Now, request: &Request) -> (Response, Option<Told>) {
        let is_of = |watch: &Watch| {
            watch.call_id == request.call_id()
                && request.to_tag() == Some(watch.local_tag.as_str())
                && watch.remote_tag.as_deref().is_none_or(|tag| request.from_tag() == Some(tag))
        };
        let found = self.watches.iter_mut().find(|(_, watch)| is_of(watch));
        let Some((identity, watch)) = found else {
            return (request.response(481, "Subscription Does Not Exist"), None);
        };
        let headers = request.headers();
        if !reginfo::is_reg_event(headers) {
            return (request.response(489, "Bad Event"), None);
        }
        if watch.remote_cseq.is_some_and(|last| request.cseq() <= last) {
            return (request.response(500, "Out of Order"), None);
        }
        let info = match RegInfo::parse(request.body()) {
            Ok(info) => info,
            Err(malformed) => {
                return (request.response(400, &format!("Bad Document: {malformed}")), None);
            }
        };
        watch.remote_cseq = Some(request.cseq());
        if watch.remote_tag.is_none() {
            watch.remote_tag = request.from_tag().map(str::to_owned);
            watch.take_dialog(headers, false);
        }
        // RFC 6665 §4.4.1, RFC 3261 §12.2: another S-CSCF may have taken the dialog over.
        let before = watch.remote_target.clone();
        watch.take_target(headers);
        let order = watch.versions.take(now, &info, watch.remote_target != before);
        let state = headers.get(Name::SubscriptionState).unwrap_or("").to_owned();
        let is_over = state.trim_start().starts_with("terminated");
        if let Some(left) = state.split("expires=").nth(1).and_then(|text| text.trim().parse().ok())
        {
            let left = Duration::from_secs(left);
            watch.expires_at = Some(now + left);
            let renewal = watch.versions.refresh_at(now + refresh_after(left));
            self.timers.set(Timer::Watch(*identity), renewal);
        } else if let Some(due) = watch.versions.due() {
            self.timers.set(Timer::Watch(*identity), due);
        }
        let told = Told { identity: *identity, info, order, is_over };
        (request.response(200, "OK"), Some(told))
    }

    /// TS 24.229 §5.1.1.5A, §5.1.1.7, registration.md U-18, U-19.
    pub(crate) fn on_document(&mut self, now: Now, told: &Told, out: &mut Vec<Output>) {
        let Told { identity, ref info, order, is_over } = *told;
        let version = info.version;
        let out_of_order = match order {
            Order::Next => None,
            Order::Gap => Some(Watched::Gap { version }),
            Order::Stale => Some(Watched::Stale { version }),
        };
        out.extend(out_of_order.map(|what| Output::Event(Event::Watch { identity, what })));
        if order == Order::Stale {
            if is_over {
                // Why stood in a document that was not looked at.
                self.unwatch(identity);
                self.watch(now, identity, out);
            }
            return;
        }
        let own = self.own_contact(identity, info).cloned();
        let what = Watched::Notified {
            version,
            is_full: info.is_full,
            event: own.as_ref().map(|contact| contact.event),
        };
        out.push(Output::Event(Event::Watch { identity, what }));
        let is_missing = own.is_none() && info.is_full && self.is_missing(identity, info);
        let registration = self.registrations.get(&identity);
        if let (Some(watch), Some(registration)) = (self.watches.get_mut(&identity), registration)
            && own.as_ref().is_some_and(|own| own.is_active)
        {
            watch.shown = Some(registration.contact.clone());
        }
        if is_over {
            self.unwatch(identity);
        }
        match own {
            Some(contact) if contact.is_active => self.on_active(now, identity, &contact),
            Some(contact) => return self.on_terminated(now, identity, &contact, out),
            // RFC 3680 §5.2: nobody has it any more, and nobody says why.
            None if is_missing || (info.is_full && self.is_gone(identity, info)) => {
                return self.on_gone(now, identity, out);
            }
            None => {}
        }
        if is_over && self.registrations.contains_key(&identity) {
            // The subscription has ended, the registration has not (RFC 6665 §4.1.3).
            self.watch(now, identity, out);
        }
    }

    /// The watched identity is there, and has no contacts.
    fn is_gone(&self, identity: usize, info: &RegInfo) -> bool {
        let Some(registration) = self.registrations.get(&identity) else { return false };
        let own = &self.config.isim.impus[identity];
        let is_own = |aor: &str| {
            let mut associated = registration.associated.iter();
            is_same(aor, own)
                || associated.any(|text| {
                    Address::parse(text).is_ok_and(|address| is_same(aor, &address.uri_text))
                })
        };
        let mut own = info.registrations.iter().filter(|one| is_own(&one.aor)).peekable();
        own.peek().is_some()
            && own.all(|one| one.state != reginfo::State::Active && one.contacts.is_empty())
    }

    /// RFC 3680 §5.2: the watched identity has other contacts, and this phone's was among them.
    fn is_missing(&self, identity: usize, info: &RegInfo) -> bool {
        let registration = self.registrations.get(&identity);
        let watch = self.watches.get(&identity);
        let (Some(registration), Some(watch)) = (registration, watch) else { return false };
        watch.shown.as_ref() == Some(&registration.contact)
            && info.registrations.iter().any(|one| is_same(&one.aor, &watch.public_identity))
    }

    fn on_gone(&mut self, now: Now, identity: usize, out: &mut Vec<Output>) {
        self.is_registered_no_more(now, identity, out);
        if self.config.automatic {
            self.timers.set(Timer::Retry(identity), now);
        }
    }

    /// This phone's contact of the watched identity.
    fn own_contact<'a>(&self, identity: usize, info: &'a RegInfo) -> Option<&'a Contact> {
        let registration = self.registrations.get(&identity)?;
        let watched = &self.watches.get(&identity)?.public_identity;
        let own = registration.contact.clone();
        info.registrations.iter().filter(|one| is_same(&one.aor, watched)).find_map(|one| {
            one.contacts.iter().find(|contact| {
                Uri::parse(&contact.uri).is_ok_and(|uri| uri.host_port.as_ref() == Some(&own))
            })
        })
    }

    /// TS 24.229 §5.1.1.5A: the network wants to see the user sooner: when half of what it leaves
    /// has passed.
    fn on_active(&mut self, now: Now, identity: usize, contact: &Contact) {
        let Some(left) = contact.expires_seconds.map(Duration::from_secs) else { return };
        if contact.event != reginfo::Event::Shortened {
            return;
        }
        let Some(registration) = self.registrations.get_mut(&identity) else { return };
        registration.expires_at = now + left;
        self.timers.set(Timer::Expiry(identity), now + left);
        self.timers.set(Timer::Refresh(identity), now + left / 2);
    }

    /// TS 24.229 §5.1.1.7: registered no more. `deactivated` asks for another registration, at once;
    /// `probation` for one later; the rest for none.
    fn on_terminated(
        &mut self,
        now: Now,
        identity: usize,
        contact: &Contact,
        out: &mut Vec<Output>,
    ) {
        self.is_registered_no_more(now, identity, out);
        match contact.event {
            reginfo::Event::Deactivated if self.config.automatic => {
                self.timers.set(Timer::Retry(identity), now);
            }
            reginfo::Event::Probation if self.config.automatic => {
                let seconds = contact.retry_after_seconds.unwrap_or(60);
                self.timers.set(Timer::Retry(identity), now + Duration::from_secs(seconds));
            }
            _ => {}
        }
    }

    /// TS 24.229 §5.1.1.6: with the registration the subscription counts as ended.
    pub(crate) fn unwatch(&mut self, identity: usize) {
        self.watches.remove(&identity);
        self.timers.stop(&Timer::Watch(identity));
    }

    fn is_registered_no_more(&mut self, now: Now, identity: usize, out: &mut Vec<Output>) {
        self.forget_registration(identity);
        out.push(Output::Event(Event::Lost { identity }));
        if self.registrations.is_empty() {
            // Nothing protects an initial registration.
            self.sets.retire_all(now);
            self.credentials = None;
        }
    }

    fn register_anew(&mut self, now: Now, identity: usize, out: &mut Vec<Output>) {
        self.is_registered_no_more(now, identity, out);
        self.timers.set(Timer::Retry(identity), now);
    }
}

impl Watch {
    /// RFC 3261 §12.1.2: the dialog of the 200.
    fn confirm(&mut self, response: &Response) {
        let headers = response.headers();
        let to = headers.get(Name::To).and_then(|to| Address::parse(to).ok());
        if let Some(tag) = to.and_then(|to| to.parameter("tag").map(str::to_owned)) {
            self.remote_tag = Some(tag);
        }
        self.take_dialog(headers, true);
    }

    fn take_target(&mut self, headers: &Headers) {
        let contact = headers.values(Name::Contact).next();
        if let Some(contact) = contact.and_then(|text| Address::parse(text).ok()) {
            self.remote_target = contact.uri_text;
        }
    }

    /// Remote target, and the route set, which in a response is the other way round.
    fn take_dialog(&mut self, headers: &Headers, is_response: bool) {
        self.take_target(headers);
        let routes = headers.values(Name::RecordRoute).map(str::to_owned);
        let mut routes: Vec<String> = routes.collect();
        if is_response {
            routes.reverse();
        }
        if !routes.is_empty() {
            self.route_set = routes;
        }
    }
}

/// The same public identity, whatever its spelling.
fn is_same(a: &str, b: &str) -> bool {
    match (Uri::parse(a), Uri::parse(b)) {
        (Ok(a), Ok(b)) => a.public_identity() == b.public_identity(),
        _ => a == b,
    }
}
