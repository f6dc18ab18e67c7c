//! The P-CSCF watches the registrations that go through it (TS 24.229 §5.2.3): what the home network
//! ends, ends here too.
//!
//! 1. `watch`            SUBSCRIBE, behind the first 200 of a UE
//! 2. `watch_located`    the entry point is known: send
//! 3. `watch_answered`   the dialog stands, or it does not
//! 4. `notified`         a document, and what follows from it

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use common::identity::{Impu, logged};
use common::node::{Now, Output};
use common::reginfo::{self, Event, Order, RegInfo, State, Versions, is_reg_event};
use common::sip::address::{Address, delta_seconds};
use common::sip::endpoint::{Incoming, NoReply};
use common::sip::header::Name;
use common::sip::locate::Hop;
use common::sip::locator::Located;
use common::sip::message::{Request, Response};
use common::sip::p_headers::ChargingVector;
use common::sip::uri::{HostPort, Scheme, Uri};

use crate::registrations::{Owner, Registration, is_same_contact};
use crate::security::BEYOND_REGISTRATION;
use crate::{OnPlace, OnReply, Pcscf, Timer};

/// Longer than a registration lasts (TS 24.229 §5.2.3); refreshed before.
const EXPIRES_SECONDS: u32 = 600_000;
/// A subscription of more than twice that is renewed that long before it ends.
const RENEWAL: Duration = Duration::from_secs(600);
/// Never sooner, whatever is granted: a home network that grants nothing is not to be asked without a pause.
const SHORTEST_RENEWAL: Duration = Duration::from_secs(30);
/// After which a subscription is tried again that could not be had for now.
const RETRY: Duration = Duration::from_secs(300);

/// Our subscription to the registration of one UE.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The default public identity at the time of the SUBSCRIBE.
    public_identity: String,
    call_id: String,
    local_tag: String,
    local_cseq: u32,
    remote_tag: Option<String>,
    remote_cseq: Option<u32>,
    remote_target: String,
    route_set: Vec<String>,
    serial: u64,
    versions: Versions,
    /// The contact that a document has shown as bound.
    shown: Option<String>,
}

/// A SUBSCRIBE on its way.
#[derive(Debug)]
pub struct Watching {
    owner: Owner,
    serial: u64,
    request: Request,
    deadline: Now,
    untried: VecDeque<Hop>,
}

/// After a start; a hundred a second are little beside what a home network carries.
const BETWEEN_WATCHES_MILLIS: u64 = 10;

/// All of them, by UE. They end with the registrations, whose number is limited.
#[derive(Debug, Default)]
pub struct Watches {
    by_owner: BTreeMap<Owner, Watch>,
    owners: HashMap<String, Owner>,
    next_serial: u64,
    outcomes: BTreeMap<&'static str, u64>,
}

impl Watches {
    pub fn len(&self) -> usize {
        self.by_owner.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_owner.is_empty()
    }

    /// What became of subscriptions and documents.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.outcomes.iter().map(|(outcome, count)| (*outcome, *count))
    }

    fn count(&mut self, outcome: &'static str) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    fn insert(&mut self, owner: Owner, watch: Watch) {
        self.owners.insert(watch.call_id.clone(), owner.clone());
        self.by_owner.insert(owner, watch);
    }

    pub fn forget(&mut self, owner: &Owner) {
        if let Some(watch) = self.by_owner.remove(owner) {
            self.owners.remove(&watch.call_id);
        }
    }
}

impl Pcscf {
    /// TS 24.229 §5.2.3: once for each registered UE. Not for emergency registrations (§5.2.10), of which nobody
    /// is told anything.
    pub(crate) fn watch(&mut self, now: Now, owner: Owner, out: &mut Vec<Output>) {
        if !self.config.reg_event.subscribe || self.watches.by_owner.contains_key(&owner) {
            return;
        }
        if owner.is_emergency {
            return;
        }
        let Some(registration) = self.registrations.get(&owner) else { return };
        let Some(public_identity) = registration.default_identity() else { return };
        let watch = Watch {
            remote_target: public_identity.clone(),
            public_identity,
            call_id: format!("{}@{}", self.random.token(), self.config.name),
            local_tag: self.random.token(),
            local_cseq: 0,
            remote_tag: None,
            remote_cseq: None,
            route_set: Vec::new(),
            serial: 0,
            versions: Versions::default(),
            shown: None,
        };
        self.watches.insert(owner.clone(), watch);
        self.watch_send(now, owner, out);
    }

    /// Dialogs do not outlive the process: each registration that was read back is subscribed to anew, so that
    /// what the home network has ended meanwhile ends here, some at a time.
    pub(crate) fn watch_all_anew(&mut self, now: Now) {
        if !self.config.reg_event.subscribe {
            return;
        }
        for (number, (owner, _)) in self.registrations.iter().enumerate() {
            let after = Duration::from_millis(1_000 + number as u64 * BETWEEN_WATCHES_MILLIS);
            self.timers.set(Timer::WatchAgain(owner.clone()), now + after);
        }
    }

    pub(crate) fn watch_again(&mut self, now: Now, owner: Owner, out: &mut Vec<Output>) {
        match self.watches.by_owner.contains_key(&owner) {
            true => self.watch_send(now, owner, out),
            false => self.watch(now, owner, out),
        }
    }

    /// A SUBSCRIBE: the first one to the entry point of the home network, later ones within the
    /// dialog.
    pub(crate) fn watch_send(&mut self, now: Now, owner: Owner, out: &mut Vec<Output>) {
        let own_uri = self.own_uri();
        let orig_ioi = self.orig_ioi();
        let icid_value = format!("{}{}", self.random.token(), self.random.token());
        let entry_point = self.config.mw.entry_point.clone();
        let Some(watch) = self.watches.by_owner.get_mut(&owner) else { return };
        self.watches.next_serial += 1;
        watch.serial = self.watches.next_serial;
        watch.versions.asks();
        watch.local_cseq += 1;
        let mut request = Request::new("SUBSCRIBE", &watch.remote_target);
        let headers = request.headers_mut();
        watch.route_set.iter().for_each(|route| headers.append(Name::Route, route));
        headers.append(Name::MaxForwards, "70");
        headers.append(Name::From, &format!("<{own_uri}>;tag={}", watch.local_tag));
        let tag = watch.remote_tag.as_ref().map(|tag| format!(";tag={tag}")).unwrap_or_default();
        headers.append(Name::To, &format!("<{}>{tag}", watch.public_identity));
        headers.append(Name::CallId, &watch.call_id);
        headers.append(Name::CSeq, &format!("{} SUBSCRIBE", watch.local_cseq));
        headers.append(Name::Contact, &format!("<{own_uri}>"));
        headers.append(Name::Event, reginfo::PACKAGE);
        headers.append(Name::Expires, &EXPIRES_SECONDS.to_string());
        headers.append(Name::Accept, reginfo::CONTENT_TYPE);
        headers.append(Name::PAssertedIdentity, &format!("<{own_uri}>"));
        let vector = ChargingVector {
            icid_value,
            orig_ioi: Some(orig_ioi),
            term_ioi: None,
            others: Vec::new(),
        };
        headers.append(Name::PChargingVector, &vector.to_string());
        let next_hop = match (watch.route_set.first(), &watch.remote_tag, entry_point) {
            (Some(route), ..) => {
                Address::parse(route).map_or_else(|_| route.clone(), |route| route.uri_text)
            }
            (None, None, Some(entry_point)) => entry_point,
            (None, None, None) => home_of(&watch.public_identity, &owner),
            (None, Some(_), _) => watch.remote_target.clone(),
        };
        let wait = Watching {
            serial: watch.serial,
            owner,
            request,
            deadline: now + Duration::from_secs(self.config.mw.register_seconds),
            untried: VecDeque::new(),
        };
        let wait = OnPlace::WatchLocated(Box::new(wait));
        if let Some((wait, place)) = self.locator.locate(now, &next_hop, wait, out) {
            self.on_place(now, wait, place, out);
        }
    }

    /// Whom the home network knows us as: the host of our Path.
    fn own_uri(&self) -> String {
        format!("sip:{}", self.mw_name())
    }

    pub(crate) fn watch_located(
        &mut self,
        now: Now,
        mut wait: Watching,
        place: Located,
        out: &mut Vec<Output>,
    ) {
        match place {
            Ok(hops) => {
                wait.untried = hops;
                self.watch_forward(now, wait, out);
            }
            Err(reason) => {
                tracing::warn!(reason, "no entry point for a subscription");
                self.watch_failed(now, &wait, "not_located", true);
            }
        }
    }

    fn watch_forward(&mut self, now: Now, mut wait: Watching, out: &mut Vec<Output>) {
        let remaining = wait.deadline.since(now);
        let is_current =
            self.watches.by_owner.get(&wait.owner).is_some_and(|one| one.serial == wait.serial);
        if !is_current {
            return;
        }
        while let Some(hop) = wait.untried.pop_front() {
            let Some(target) = self.target_in_core(hop) else { continue };
            if remaining.is_zero() {
                break;
            }
            let limit = remaining.min(Duration::from_secs(self.config.mw.attempt_seconds));
            let request = wait.request.clone();
            let wait = OnReply::WatchAnswered(Box::new(wait));
            return self.sip.send(now, request, target, wait, limit, out);
        }
        self.watch_failed(now, &wait, "silence", true);
    }

    /// RFC 6665 §4.1.2: without a subscription the registration goes on. What may be another time is tried
    /// again, for the next REGISTER may be days away; it tries again in any case.
    pub(crate) fn watch_answered(
        &mut self,
        now: Now,
        wait: Watching,
        result: Result<Response, NoReply>,
        out: &mut Vec<Output>,
    ) {
        let response = match result {
            Ok(response) => response,
            Err(_) => return self.watch_forward(now, wait, out),
        };
        if !response.is_success() {
            tracing::info!(status = response.status(), "no subscription to a registration");
            // What ended while we were away has nobody left who would notify us. A home network that never took
            // a SUBSCRIBE of ours says nothing by 404.
            let current = self.watches.by_owner.get(&wait.owner);
            let is_current = current.is_some_and(|one| one.serial == wait.serial);
            let known = self.registrations.get(&wait.owner);
            let was_watched = is_current && known.is_some_and(|known| known.was_watched);
            if response.status() == 404 && was_watched {
                return self.ended_by_home(now, &wait.owner, Event::Unregistered);
            }
            // 481 to a renewal: the home network knows the dialog no more (RFC 6665 §4.1.2.2).
            let may_be_later = matches!(response.status(), 408 | 480 | 481 | 500 | 503 | 504);
            return self.watch_failed(now, &wait, "refused", may_be_later);
        }
        let watch = self.watches.by_owner.get_mut(&wait.owner);
        let Some(watch) = watch.filter(|one| one.serial == wait.serial) else { return };
        let headers = response.headers();
        let to = headers.get(Name::To).and_then(|to| Address::parse(to).ok());
        watch.remote_tag = to.and_then(|to| to.parameter("tag").map(str::to_owned));
        let contact =
            headers.values(Name::Contact).next().and_then(|text| Address::parse(text).ok());
        if let Some(contact) = contact {
            watch.remote_target = contact.uri_text;
        }
        watch.route_set = headers.values(Name::RecordRoute).map(str::to_owned).collect();
        watch.route_set.reverse();
        self.registrations.note_watched(&wait.owner);
        let granted = headers.get(Name::Expires).and_then(|text| delta_seconds(text.trim()));
        let granted = Duration::from_secs(u64::from(granted.unwrap_or(EXPIRES_SECONDS)));
        watch.versions.answered(now);
        let renewal = watch.versions.refresh_at(now + renewal_after(granted));
        self.timers.set(Timer::WatchAgain(wait.owner), renewal);
        self.watches.count("subscribed");
    }

    fn watch_failed(
        &mut self,
        now: Now,
        wait: &Watching,
        outcome: &'static str,
        may_be_later: bool,
    ) {
        self.watches.count(outcome);
        let current = self.watches.by_owner.get(&wait.owner);
        if current.is_none_or(|one| one.serial != wait.serial) {
            return;
        }
        self.watches.forget(&wait.owner);
        if may_be_later {
            self.timers.set(Timer::WatchAgain(wait.owner.clone()), now + RETRY);
        }
    }

    /// RFC 6665 §4.1.3: a NOTIFY in one of our dialogs.
    pub(crate) fn notified(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let request = incoming.request();
        let is_of = |watch: &&mut Watch| {
            request.to_tag() == Some(watch.local_tag.as_str())
                && watch.remote_tag.as_deref().is_none_or(|tag| request.from_tag() == Some(tag))
        };
        let owner = self.watches.owners.get(request.call_id()).cloned();
        let by_owner = &mut self.watches.by_owner;
        let found = owner.as_ref().and_then(|owner| by_owner.get_mut(owner)).filter(is_of);
        let (Some(owner), Some(watch)) = (&owner, found) else {
            let refused = (481, "Subscription Does Not Exist", "no_dialog");
            return self.session_refuse(now, incoming, refused, out);
        };
        if watch.remote_cseq.is_some_and(|last| request.cseq() <= last) {
            let refused = (500, "Out of Order", "out_of_order");
            return self.session_refuse(now, incoming, refused, out);
        }
        let info = match RegInfo::parse(request.body()) {
            Ok(info) => info,
            Err(malformed) => {
                tracing::warn!(%malformed, "a document of registration state cannot be read");
                let refused = (400, "Bad Document", "malformed");
                return self.session_refuse(now, incoming, refused, out);
            }
        };
        watch.remote_cseq = Some(request.cseq());
        if watch.remote_tag.is_none() {
            watch.remote_tag = request.from_tag().map(str::to_owned);
        }
        // RFC 6665 §4.4.1, RFC 3261 §12.2: another S-CSCF may have taken the dialog over.
        let contact = request.headers().values(Name::Contact).next();
        let contact = contact.and_then(|text| Address::parse(text).ok()).map(|one| one.uri_text);
        let is_of_another = contact.as_ref().is_some_and(|contact| *contact != watch.remote_target);
        watch.remote_target = contact.unwrap_or_else(|| std::mem::take(&mut watch.remote_target));
        let order = watch.versions.take(now, &info, is_of_another);
        let (owner, watched) = (owner.clone(), watch.public_identity.clone());
        let state = request.headers().get(Name::SubscriptionState).unwrap_or("").to_owned();
        // RFC 6665 §4.1.3: what is left of the subscription, which the notifier may have shortened.
        let left = expires_of(&state).map(|left| now + renewal_after(left));
        let renewal = match (left, watch.versions.due()) {
            (Some(left), _) => Some(watch.versions.refresh_at(left)),
            (None, due) => due,
        };
        if let Some(renewal) = renewal {
            self.timers.set(Timer::WatchAgain(owner.clone()), renewal);
        }
        let response = request.response(200, "OK");
        self.watches.count("notified");
        self.respond(now, incoming, response, out);
        let is_over = state.trim_start().starts_with("terminated");
        if is_over {
            self.watches.forget(&owner);
        }
        self.note_order(&owner, order, info.version);
        if order != Order::Stale {
            self.apply(now, &owner, &info);
        }
        let still = self.registrations.get(&owner);
        let is_other =
            still.and_then(Registration::default_identity).is_some_and(|uri| uri != watched);
        let is_asked = ["deactivated", "timeout"].iter().any(|reason| state.contains(reason));
        // Why it is over stood in a document that was not looked at.
        let is_untold = order == Order::Stale;
        if is_over && still.is_some() && (is_other || is_asked || is_untold) {
            self.watch(now, owner, out);
        }
    }

    fn note_order(&mut self, owner: &Owner, order: Order, version: u32) {
        let outcome = match order {
            Order::Next => return,
            Order::Gap => "gap",
            Order::Stale => "stale",
        };
        self.watches.count(outcome);
        let identity = logged(owner.private_identity.as_str(), self.config.log_identities);
        tracing::info!(%identity, version, outcome, "a document of registration state out of order");
    }

    /// The end of a UE's own subscription tells the P-CSCF as well what has become of the registration. The home
    /// network may have ended it before our own SUBSCRIBE came, which then finds nobody registered.
    pub(crate) fn overheard(&self, request: &Request) -> Option<(Owner, RegInfo)> {
        let headers = request.headers();
        let state = headers.get(Name::SubscriptionState)?.trim_start();
        let is_end = is_reg_event(headers) && state.starts_with("terminated");
        let (owner, dialog) = self.dialogs.of(request)?;
        // Of other dialogs a notifier may be anybody.
        if !is_end || !dialog.is_own_registration {
            return None;
        }
        Some((owner.clone(), RegInfo::parse(request.body()).ok()?))
    }

    /// TS 24.229 §5.2.3, §5.2.5.2: identities that are registered, no more, or for a shorter time.
    pub(crate) fn apply(&mut self, now: Now, owner: &Owner, info: &RegInfo) {
        let Some(known) = self.registrations.get(owner) else { return };
        let Ok(own) = Uri::parse(&known.contact_uri) else { return };
        let shown = self.watches.by_owner.get(owner).and_then(|watch| watch.shown.as_ref());
        let was_shown = shown == Some(&known.contact_uri);
        let mut is_shown = false;
        let mut registration = known.clone();
        let mut ended = None;
        let is_active = |one: &&reginfo::Registration| one.state == State::Active;
        let active: Vec<Impu> = info
            .registrations
            .iter()
            .filter(is_active)
            .filter_map(|one| Some(Uri::parse(&one.aor).ok()?.public_identity()))
            .collect();
        for one in &info.registrations {
            let is_own = |contact: &&reginfo::Contact| {
                Uri::parse(&contact.uri).is_ok_and(|uri| is_same_contact(&uri, &own))
            };
            let Ok(aor) = Uri::parse(&one.aor) else { continue };
            let Some(contact) = one.contacts.iter().find(is_own) else {
                // RFC 3680 §5.2: nobody is registered. It ended while we were not there to be told why.
                let identity = aor.public_identity();
                let has_ended = match (one.state, info.is_full) {
                    (State::Terminated | State::Init, true) => {
                        registration.drop_set_of(&identity, &active)
                    }
                    (State::Terminated | State::Init, false) => {
                        registration.drop_identity(&identity)
                    }
                    // Others are, and the UE was among them. A document that never showed it may be older than its
                    // contact, or write it in another way.
                    (State::Active, true) => was_shown && registration.drop_identity(&identity),
                    (State::Active, false) => false,
                };
                if has_ended {
                    ended = Some(Event::Unregistered);
                }
                continue;
            };
            if contact.is_active {
                is_shown = true;
                registration.note_identity(&one.aor, &aor.public_identity());
            } else {
                registration.drop_identity(&aor.public_identity());
                ended = Some(contact.event);
            }
            if let (Event::Shortened, true, Some(left)) =
                (contact.event, contact.is_active, contact.expires_seconds)
            {
                let until = now + Duration::from_secs(left);
                registration.shorten(&aor.public_identity(), until);
            }
        }
        let contact = is_shown.then(|| known.contact_uri.clone());
        if let (Some(contact), Some(watch)) = (contact, self.watches.by_owner.get_mut(owner)) {
            watch.shown = Some(contact);
        }
        if registration == *known {
            return;
        }
        if let (true, Some(event)) = (registration.identities.is_empty(), ended) {
            return self.ended_by_home(now, owner, event);
        }
        let ends = registration.expires_at() + BEYOND_REGISTRATION;
        if registration.expires_at() < known.expires_at() {
            for id in self.security.sets_of(owner) {
                let established = self.security.get(id).filter(|set| set.is_established());
                let Some(set) = established else { continue };
                let ends = ends.min(set.expires_at);
                self.set_life(id, ends);
            }
        }
        self.keep_registration(owner.clone(), registration);
    }

    /// TS 24.229 §5.2.5.2: the registration goes at once; the associations stay until the NOTIFY to
    /// the UE, and its answer, have passed (registration.md D-14), and so may the SUBSCRIBE to which it belongs.
    pub(crate) fn ended_by_home(&mut self, now: Now, owner: &Owner, event: Event) {
        self.watches.count("deregistered");
        tracing::info!(
            procedure = "network-initiated deregistration",
            identity = %logged(owner.private_identity.as_str(), self.config.log_identities),
            ue = %owner.ue,
            event = event.name(),
        );
        self.registrations.leave(owner);
        self.watches.forget(owner);
        let until = now + self.config.gm.old_set_life();
        // Dialogs, too: by them the NOTIFY finds the UE.
        self.timers.set(Timer::RegistrationEnds(owner.clone()), until);
        self.timers.stop(&Timer::WatchAgain(owner.clone()));
        for id in self.security.sets_of(owner) {
            let Some(set) = self.security.get(id) else { continue };
            let ends = set.expires_at.min(until);
            self.set_life(id, ends);
        }
    }

    /// A UE is registered no more: what hangs on it goes too.
    pub(crate) fn forget_followers(&mut self, owner: &Owner) {
        if self.registrations.get(owner).is_none() {
            self.watches.forget(owner);
            self.dialogs.forget(owner);
            self.timers.stop(&Timer::WatchAgain(owner.clone()));
        }
    }
}

/// When a subscription is renewed, as a UE renews its own (TS 24.229 §5.1.1.3): 600 s before the end of more
/// than 1200 s, else after half of it.
fn renewal_after(granted: Duration) -> Duration {
    let renewal = if granted > 2 * RENEWAL { granted - RENEWAL } else { granted / 2 };
    renewal.max(SHORTEST_RENEWAL)
}

/// `expires` of Subscription-State (RFC 6665 §8.4), of a subscription that goes on.
fn expires_of(state: &str) -> Option<Duration> {
    let mut parts = state.split(';').map(str::trim);
    let is_active = parts.next().is_some_and(|word| word.eq_ignore_ascii_case("active"));
    let expires = parts.filter_map(|part| part.split_once('=')).find_map(|(name, value)| {
        name.trim().eq_ignore_ascii_case("expires").then(|| delta_seconds(value.trim()))?
    });
    expires.filter(|_| is_active).map(|seconds| Duration::from_secs(u64::from(seconds)))
}

/// Where the home network of an identity is found: by its own domain, or for a telephone number by
/// the realm of the private identity.
fn home_of(public_identity: &str, owner: &Owner) -> String {
    let uri = Uri::parse(public_identity).ok();
    let is_sip = |uri: &Uri| matches!(uri.scheme, Scheme::Sip | Scheme::Sips);
    match uri.filter(is_sip).and_then(|uri| uri.host_port) {
        Some(HostPort { host, .. }) => format!("sip:{host}"),
        None => {
            let impi = owner.private_identity.as_str();
            format!("sip:{}", impi.rsplit_once('@').map_or(impi, |(_, realm)| realm))
        }
    }
}

impl Registration {
    /// URI of the default public identity, of the first set that has one.
    pub(crate) fn default_identity(&self) -> Option<String> {
        let mut associated = self.identities.iter().flat_map(|set| &set.associated_uris);
        let address = associated.find_map(|text| Address::parse(text).ok())?;
        Some(address.uri_text)
    }

    /// The identity may be used (again).
    fn note_identity(&mut self, text: &str, identity: &Impu) {
        if self.identities.iter().any(|set| set.holds_usable(identity)) {
            return;
        }
        if let Some(set) = self.identities.first_mut() {
            set.associated_uris.push(format!("<{text}>"));
        }
    }

    /// TS 23.228 §5.2.1a: with the identity its implicit set.
    fn shorten(&mut self, identity: &Impu, until: Now) {
        for set in self.identities.iter_mut().filter(|set| set.holds(identity)) {
            set.expires_at = set.expires_at.min(until);
        }
    }

    /// TS 23.228 §5.2.1a: identities of one implicit set are registered and deregistered together. A document that says
    /// all there is (RFC 3680 §5.1) ends the whole set with one of them, unless it names another one of the set that is
    /// registered: an S-CSCF may know no more than the identity that is watched. False when it was not there.
    fn drop_set_of(&mut self, identity: &Impu, active: &[Impu]) -> bool {
        let before = self.identities.len();
        self.identities.retain(|set| {
            !set.holds(identity) || active.iter().any(|other| set.holds_usable(other))
        });
        self.identities.len() < before || self.drop_identity(identity)
    }

    /// The identity is registered no more; a set without any goes. False when it was not there.
    fn drop_identity(&mut self, identity: &Impu) -> bool {
        let before = self.identities.clone();
        for set in &mut self.identities {
            set.drop_usable(identity);
        }
        self.identities.retain(|set| !set.associated_uris.is_empty());
        self.identities != before
    }
}
