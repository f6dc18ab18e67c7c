//! The life of security associations as the rules have it (TS 33.203 §7.4, TS 24.229 §5.2.2; rows L
//! and A of ipsec.md), kept beside the P-CSCF and apart from it.
//!
//! It sees what anybody sees who stands around the P-CSCF: messages that reach it and leave it, and
//! what it has its kernel install and remove. From these and the rules it knows which sets live, and
//! holds the P-CSCF to it after each turn: the kernel holds those sets and no others, nothing is
//! accepted on a set that has ended, nothing on a living one is thrown away, and what goes to a phone
//! goes on the set that the rules say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use common::ipsec::sa::{SaSet, SetId};
use common::limits::Limits;
use common::node::{Flow, Now, Output, Transport};
use common::reginfo::RegInfo;
use common::sip::address::Contact;
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::message::{Headers, Message, Method, Request};
use common::sip::security::mechanisms;
use common::sip::uri::{Host, Uri};
use common::sip::via::Via;

/// reg-await-auth, 64 × T1 on Gm, and what a set lives beyond its registration.
const AWAIT_AUTH: Duration = Duration::from_secs(240);
const TAIL: Duration = Duration::from_secs(128);
const GRACE: Duration = Duration::from_secs(30);
/// Challenges of one identity that may be open at several addresses: `ipsec.challenges_per_identity`.
const CHALLENGES: usize = 4;
/// Timers fire in the millisecond in which they are due.
const TICK: Duration = Duration::from_millis(1);

/// A private identity at an address, which behind a NAT is its private one.
type Owner = (String, IpAddr);

#[derive(Clone, Debug)]
struct Set {
    owner: Owner,
    /// From where its packets come: the owner's address, or that of the NAT.
    source: IpAddr,
    ports: common::ipsec::sa::Ports,
    spis: common::ipsec::sa::Spis,
    /// What protected the challenged REGISTER.
    over: Option<SetId>,
    is_established: bool,
    ends: Now,
}

/// What one contact has.
#[derive(Clone, Debug, Default)]
struct Place {
    /// Established sets, in the order in which they were.
    sets: Vec<SetId>,
    /// The one that requests to the phone go out on.
    serving: Option<SetId>,
    /// Contact URI while registered.
    contact: Option<(String, Now)>,
}

/// A REGISTER that has not been answered yet.
#[derive(Clone, Debug)]
struct Open {
    owner: Owner,
    came_from: IpAddr,
    transport: Transport,
    over: Option<SetId>,
    spi_and_port: Option<(u32, u16)>,
    is_deregistration: bool,
    contact: Option<String>,
    /// Where the answer goes, should it be a good one.
    answer_on: Option<SetId>,
}

#[derive(Debug, Default)]
pub struct Associations {
    sets: BTreeMap<SetId, Set>,
    places: BTreeMap<Owner, Place>,
    open: BTreeMap<(String, u32), Open>,
    /// REGISTERs that have been heard once: what comes again says nothing new.
    heard: BTreeSet<(String, u32)>,
    /// What the kernel of the P-CSCF holds, by its own orders.
    held: BTreeSet<SetId>,
    /// Sets that have ended, for what still comes on them.
    ended: BTreeMap<SetId, Set>,
    protected_server_port: u16,
    protected_ports: BTreeSet<u16>,
    /// The P-CSCF has slept past its timers.
    is_late: bool,
    /// How often each thing was seen; a model that sees nothing shows nothing.
    pub seen: BTreeMap<&'static str, u64>,
}

impl Associations {
    pub fn new(protected_server_port: u16, client_ports: &[u16]) -> Associations {
        let protected_ports = client_ports.iter().copied().chain([protected_server_port]).collect();
        Associations { protected_server_port, protected_ports, ..Associations::default() }
    }

    /// One turn of the P-CSCF. `drops`: whether it says that it has thrown the message away.
    pub fn turn(
        &mut self,
        now: Now,
        input: Option<(&Flow, &Bytes)>,
        out: &[Output],
        drops: bool,
    ) -> Result<(), String> {
        self.pass(now);
        if let Some((flow, bytes)) = input {
            self.arrived(now, flow, bytes, out, drops)?;
        }
        for output in out {
            match output {
                Output::InstallSas { set, .. } => self.installed(now, set)?,
                Output::RemoveSas { set } => {
                    self.held.remove(set);
                }
                _ => {}
            }
        }
        for output in out {
            if let Output::Sip { flow, bytes } = output {
                self.left(now, flow, bytes)?;
            }
        }
        self.compare(now)
    }

    /// The P-CSCF is stopped, and time passes it by.
    pub fn sleeps(&mut self) {
        self.is_late = true;
    }

    /// It has done all that was due.
    pub fn is_awake(&mut self) {
        self.is_late = false;
    }

    /// The kernel has refused the set: it never was.
    pub fn refused(&mut self, now: Now, set: SetId) {
        self.held.remove(&set);
        self.forget(now, set);
    }

    /// The process has gone and come back: sets that the kernel still holds live on, temporary ones
    /// do not (ipsec.md L-16).
    pub fn restarted(&mut self, now: Now, held: BTreeSet<SetId>) {
        self.open.clear();
        self.heard.clear();
        self.is_late = false;
        self.held = held;
        let gone = |(id, set): (&SetId, &Set)| {
            (!self.held.contains(id) || !set.is_established).then_some(*id)
        };
        for id in self.sets.iter().filter_map(gone).collect::<Vec<_>>() {
            self.forget(now, id);
        }
        self.ended.clear();
        if self.held.is_empty() {
            self.places.clear();
        }
    }

    // ---- Rules.

    /// L-07, L-11.
    fn pass(&mut self, now: Now) {
        let over = |(id, set): (&SetId, &Set)| (set.ends <= now).then_some(*id);
        let ended: Vec<SetId> = self.sets.iter().filter_map(over).collect();
        for place in self.places.values_mut() {
            // Of what is over, nothing takes over.
            let Some(serving) = place.serving.filter(|_| place.contact.is_some()) else { continue };
            let ends = self.sets.get(&serving).map_or(now, |set| set.ends);
            let newest = place.sets.last().copied().filter(|newest| *newest != serving);
            if ends <= now + TAIL && newest.is_some_and(|newest| self.sets[&newest].ends > now) {
                *self.seen.entry("taken over unused").or_default() += 1;
                place.serving = newest;
            }
        }
        for id in ended {
            let owner = self.sets[&id].owner.clone();
            let was_established = self.sets[&id].is_established;
            self.forget(now, id);
            if was_established
                && let Some(place) = self.places.get_mut(&owner)
                && place.sets.is_empty()
            {
                place.contact = None;
            }
        }
        for place in self.places.values_mut() {
            place.contact.take_if(|(_, ends)| *ends <= now);
        }
    }

    fn forget(&mut self, now: Now, id: SetId) {
        let Some(mut set) = self.sets.remove(&id) else { return };
        if let Some(place) = self.places.get_mut(&set.owner) {
            place.sets.retain(|other| *other != id);
            if place.serving == Some(id) {
                // Of those that are left the one that the phone made last.
                place.serving = place.sets.last().copied();
            }
        }
        set.ends = set.ends.min(now);
        self.ended.insert(id, set);
    }

    /// L-01, A-05, A-06: a temporary set, and what it displaces.
    fn installed(&mut self, now: Now, set: &SaSet) -> Result<(), String> {
        if self.held.contains(&set.id) && self.sets.contains_key(&set.id) {
            return Ok(());
        }
        let offered = Some((set.spis.uc, set.ports.uc));
        let open = self
            .open
            .values()
            .find(|open| open.owner.1 == set.ue && open.spi_and_port == offered)
            .ok_or_else(|| format!("set {} was made for no REGISTER", set.id.0))?;
        let (owner, over) = (open.owner.clone(), open.over);
        let source = set.associations().into_iter().find(|one| one.is_inbound);
        let source = source.map_or(set.ue, |association| association.on_the_wire().0);
        let displaced = |(id, other): (&SetId, &Set)| {
            let clashes = (other.owner.1, other.source) == (set.ue, source)
                && (other.ports.uc == set.ports.uc
                    || [other.spis.uc, other.spis.us].contains(&set.spis.uc)
                    || [other.spis.uc, other.spis.us].contains(&set.spis.us));
            (clashes || (other.owner == owner && !other.is_established)).then_some(*id)
        };
        for id in self.sets.iter().filter_map(displaced).collect::<Vec<_>>() {
            let was_established = self.sets[&id].is_established;
            let what = if was_established { "restarted" } else { "challenged again" };
            *self.seen.entry(what).or_default() += 1;
            self.forget(now, id);
        }
        if over.is_none() {
            let crowd = self.sets.iter().filter(|(_, other)| {
                other.owner.0 == owner.0 && !other.is_established && other.over.is_none()
            });
            let crowd: Vec<SetId> = crowd.map(|(id, _)| *id).collect();
            for id in crowd.iter().take((crowd.len() + 1).saturating_sub(CHALLENGES)) {
                self.forget(now, *id);
            }
        }
        for other in self.sets.values() {
            for spi in [set.spis.pc, set.spis.ps] {
                if [other.spis.pc, other.spis.ps].contains(&spi) {
                    return Err(format!("SPI {spi} is in use, and given again"));
                }
            }
        }
        *self.seen.entry("made").or_default() += 1;
        self.held.insert(set.id);
        let made = Set {
            owner: owner.clone(),
            source,
            ports: set.ports,
            spis: set.spis,
            over,
            is_established: false,
            ends: now + AWAIT_AUTH,
        };
        self.sets.insert(set.id, made);
        let of_owner = self.sets.values().filter(|set| set.owner == owner).count();
        if of_owner > 3 {
            return Err(format!("{of_owner} sets of {owner:?}"));
        }
        Ok(())
    }

    /// L-06: the phone speaks on its new set.
    fn spoken_on(&mut self, now: Now, id: SetId) {
        let Some(set) = self.sets.get(&id).filter(|set| set.is_established) else { return };
        let Some(place) = self.places.get_mut(&set.owner) else { return };
        let is_new = place.sets.last() == Some(&id) && place.serving != Some(id);
        if !is_new {
            return;
        }
        *self.seen.entry("moved to the new set").or_default() += 1;
        place.serving = Some(id);
        self.cut_others(now, id);
    }

    fn cut_others(&mut self, now: Now, id: SetId) {
        let owner = self.sets[&id].owner.clone();
        let others: Vec<SetId> = self.places[&owner].sets.clone();
        for other in others.into_iter().filter(|other| *other != id) {
            if let Some(set) = self.sets.get_mut(&other) {
                set.ends = set.ends.min(now + TAIL);
            }
        }
    }

    /// L-04, L-05: the temporary set is an established one.
    fn established(&mut self, now: Now, id: SetId, registration_ends: Now) {
        let set = self.sets[&id].clone();
        let kept = set.over.filter(|over| self.sets.contains_key(over));
        let others = self.sets.iter().filter(|(other, other_set)| {
            **other != id && Some(**other) != kept && other_set.owner == set.owner
        });
        for other in others.map(|(other, _)| *other).collect::<Vec<_>>() {
            self.forget(now, other);
        }
        let kept_ends = kept.map(|kept| self.sets[&kept].ends);
        let own = self.sets.get_mut(&id).expect("it is there");
        own.is_established = true;
        own.ends = registration_ends + GRACE;
        own.ends = kept_ends.map_or(own.ends, |ends| ends.max(own.ends));
        let place = self.places.entry(set.owner.clone()).or_default();
        place.sets.push(id);
        match kept_ends {
            Some(ends) if ends > now + TAIL && place.serving == kept => {
                *self.seen.entry("authenticated again").or_default() += 1;
            }
            _ => {
                *self.seen.entry("authenticated").or_default() += 1;
                place.serving = Some(id);
                self.cut_others(now, id);
            }
        }
    }

    /// L-08, F-09: a refresh prolongs the set in use, never an old one.
    fn refreshed(&mut self, id: SetId, registration_ends: Now) {
        let place = &self.places[&self.sets[&id].owner];
        // The new one that is not in use yet is no old one.
        let is_old = place.serving != Some(id) && place.sets.last() != Some(&id);
        let carries = if is_old { place.serving } else { Some(id) };
        *self
            .seen
            .entry(if is_old { "refreshed over an old set" } else { "refreshed" })
            .or_default() += 1;
        if let Some(set) = carries.and_then(|id| self.sets.get_mut(&id)) {
            set.ends = set.ends.max(registration_ends + GRACE);
        }
    }

    /// L-13: a contact that the registrar lists no more. One for emergency calls and one that is not say nothing of each
    /// other.
    fn left_behind(&mut self, now: Now, owner: &Owner, response: &Headers) {
        let listed: Vec<Uri> = contacts(response).into_iter().map(|(uri, _)| uri).collect();
        let is_emergency = |place: &Place| {
            let (contact, _) = place.contact.as_ref()?;
            Some(Uri::parse(contact).ok()?.parameter("sos").is_some())
        };
        let own = self.places.get(owner).and_then(is_emergency);
        let is_left = |(other, place): (&Owner, &Place)| {
            let uri = Uri::parse(&place.contact.as_ref()?.0).ok()?;
            let is_meant = other.0 == owner.0 && other.1 != owner.1 && is_emergency(place) == own;
            let is_listed = listed.iter().any(|one| one.is_equivalent(&uri));
            (is_meant && !is_listed).then(|| other.clone())
        };
        for left in self.places.iter().filter_map(is_left).collect::<Vec<_>>() {
            *self.seen.entry("moved").or_default() += 1;
            let of_it = self.sets.iter().filter(|(_, set)| set.owner == left);
            for id in of_it.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.forget(now, id);
            }
            self.places.remove(&left);
        }
    }

    // ---- What is seen.

    fn arrived(
        &mut self,
        now: Now,
        flow: &Flow,
        bytes: &Bytes,
        out: &[Output],
        drops: bool,
    ) -> Result<(), String> {
        let is_protected = self.protected_ports.contains(&flow.local.port());
        let on = is_protected.then(|| self.set_of(flow)).flatten();
        if is_protected && on.is_none() {
            if out.iter().any(|output| matches!(output, Output::Sip { .. })) {
                let which = self.ended_of(flow);
                return Err(format!("accepted on a set that has ended ({which:?}): {flow:?}"));
            }
            *self.seen.entry("came too late").or_default() += 1;
            return Ok(());
        }
        if drops {
            return Err(format!("thrown away, though set {on:?} lives: {flow:?}"));
        }
        let request = match Message::parse(bytes.clone(), &Limits::default()) {
            Ok(Message::Request(request)) => request,
            Ok(Message::Response(response)) => {
                // An answer of the phone that somebody waits for; what comes twice is not passed on.
                let key = (format!("answer to {}", response.call_id()), response.cseq());
                let is_passed_on = out.iter().any(|output| matches!(output, Output::Sip { .. }));
                if let Some(on) = on.filter(|_| is_passed_on)
                    && self.heard.insert(key)
                {
                    self.spoken_on(now, on);
                }
                return Ok(());
            }
            Err(_) => return Ok(()),
        };
        let is_register = request.method() == Method::Register;
        let key = (request.call_id().to_owned(), request.cseq());
        // Over TCP a transaction ends with its answer: what then comes by UDP is another one.
        let transport = flow.transport.name();
        let named = format!("{} {} {transport}", request.method_text(), request.call_id());
        if !self.heard.insert((named, request.cseq())) {
            return Ok(());
        }
        if let Some(on) = on {
            self.spoken_on(now, on);
        }
        if request.method() == Method::Notify && on.is_none() {
            self.told(now, &request, out);
        }
        if !is_register {
            return Ok(());
        }
        let answer_on = on.map(|on| self.answering(on));
        let headers = request.headers();
        let username = headers
            .get(Name::Authorization)
            .and_then(|text| DigestParameters::parse(text).ok())
            .and_then(|digest| digest.get("username").map(str::to_owned));
        let offer = mechanisms(headers, Name::SecurityClient).ok();
        let offer = offer.and_then(|list| {
            let first = list.first()?;
            Some((first.number("spi-c")?, first.number("port-c")? as u16))
        });
        // TS 33.203 Annex M: in clear the Via tells the phone's own address.
        let via = headers.values(Name::Via).next().and_then(|via| Via::parse(via).ok());
        let own = match (on, via.map(|via| via.sent_by.host)) {
            (None, Some(Host::Address(own)))
                if own.is_ipv4() == flow.remote.is_ipv4() && !own.is_unspecified() =>
            {
                own
            }
            _ => flow.remote.ip(),
        };
        let bound = contacts(headers);
        let default = headers.get(Name::Expires).and_then(|text| text.trim().parse().ok());
        let seconds = |seconds: &Option<u32>| seconds.or(default) == Some(0);
        let open = Open {
            owner: (username.unwrap_or_default(), own),
            came_from: flow.remote.ip(),
            transport: flow.transport,
            over: on,
            spi_and_port: offer,
            is_deregistration: !bound.is_empty() && bound.iter().all(|(_, s)| seconds(s)),
            contact: headers.values(Name::Contact).find_map(|value| match Contact::parse(value) {
                Ok(Contact::Address(address)) => Some(address.uri_text),
                _ => None,
            }),
            answer_on,
        };
        self.open.insert(key, open);
        Ok(())
    }

    /// TS 24.229 §5.2.5.2, D-14: what the P-CSCF itself watches is over; the associations stay for as long
    /// as the UE may still be told.
    fn told(&mut self, now: Now, notify: &Request, out: &[Output]) {
        let state = notify.headers().get(Name::SubscriptionState).unwrap_or("");
        let is_last = state.starts_with("terminated");
        let is_heard = out.iter().any(|output| match output {
            Output::Sip { bytes, .. } => {
                match Message::parse(bytes.clone(), &Limits::default()) {
                    Ok(Message::Response(response)) => {
                        response.call_id() == notify.call_id() && response.status() == 200
                    }
                    // It is the UE's, and passed on: of the last one the P-CSCF takes note.
                    Ok(Message::Request(request)) => {
                        is_last && request.call_id() == notify.call_id()
                    }
                    Err(_) => false,
                }
            }
            _ => false,
        });
        let Some(info) = RegInfo::parse(notify.body()).ok().filter(|_| is_heard) else { return };
        let about = |uri: &str| {
            let uri = Uri::parse(uri).ok()?;
            let all = info.registrations.iter().flat_map(|one| &one.contacts);
            let own = all.filter(|contact| {
                Uri::parse(&contact.uri).is_ok_and(|other| other.is_equivalent(&uri))
            });
            own.map(|contact| contact.is_active).reduce(|one, other| one || other)
        };
        let is_over = |(owner, place): (&Owner, &Place)| {
            let (contact, _) = place.contact.as_ref()?;
            (about(contact) == Some(false)).then(|| owner.clone())
        };
        for owner in self.places.iter().filter_map(is_over).collect::<Vec<_>>() {
            *self.seen.entry("ended by the home network").or_default() += 1;
            for set in self.sets.values_mut().filter(|set| set.owner == owner) {
                set.ends = set.ends.min(now + TAIL);
            }
            if let Some(place) = self.places.get_mut(&owner) {
                place.contact = None;
            }
        }
    }

    /// F-09, L-14: what comes on an old set is answered on the one in use.
    fn answering(&self, on: SetId) -> SetId {
        let set = &self.sets[&on];
        let Some(place) = self.places.get(&set.owner).filter(|_| set.is_established) else {
            return on;
        };
        let is_old = place.serving != Some(on) && place.sets.last() != Some(&on);
        if is_old { place.serving.unwrap_or(on) } else { on }
    }

    fn left(&mut self, now: Now, flow: &Flow, bytes: &Bytes) -> Result<(), String> {
        let is_protected = self.protected_ports.contains(&flow.local.port());
        if is_protected && self.carrying(flow).is_none() && self.ended_carrying(flow).is_none() {
            return Err(format!("sent from a protected port on no set: {flow:?}"));
        }
        let response = match Message::parse(bytes.clone(), &Limits::default()) {
            Ok(Message::Response(response)) => response,
            Ok(Message::Request(request)) => {
                return self.requested(flow, request.call_id(), request.cseq());
            }
            Err(_) => return Ok(()),
        };
        if response.cseq_method() != Method::Register || response.status() < 200 {
            return Ok(());
        }
        let key = (response.call_id().to_owned(), response.cseq());
        // Only the first answer means something, and only towards the phone.
        let Some(open) = self.open.get(&key).filter(|open| open.came_from == flow.remote.ip())
        else {
            return Ok(());
        };
        let open = open.clone();
        self.open.remove(&key);
        self.check_answer(flow, &open, response.status())?;
        match response.status() {
            200..300 => self.accepted(now, &open, response.headers()),
            401 => {}
            // L-09
            _ => {
                if let Some(set) = open.over.and_then(|over| self.sets.get_mut(&over))
                    && !set.is_established
                    && response.status() != 494
                {
                    *self.seen.entry("refused").or_default() += 1;
                    set.ends = set.ends.min(now + TAIL);
                }
            }
        }
        Ok(())
    }

    /// L-14: a request to the phone goes on the set in use; sent again, where it was sent first.
    fn requested(&mut self, flow: &Flow, call_id: &str, cseq: u32) -> Result<(), String> {
        if !self.protected_ports.contains(&flow.local.port())
            || !self.heard.insert((format!("request {call_id}"), cseq))
        {
            return Ok(());
        }
        let Some(carrying) = self.carrying(flow) else {
            return Err(format!("a request to the phone goes on no living set: {flow:?}"));
        };
        let serving = self.places.get(&self.sets[&carrying].owner).and_then(|place| place.serving);
        *self.seen.entry("asked the phone").or_default() += 1;
        if serving == Some(carrying) {
            return Ok(());
        }
        Err(format!("a request to the phone goes on {carrying:?}, not {serving:?}"))
    }

    fn accepted(&mut self, now: Now, open: &Open, headers: &Headers) {
        let Some(over) = open.over.filter(|over| self.sets.contains_key(over)) else { return };
        if open.is_deregistration {
            // L-12
            *self.seen.entry("deregistered").or_default() += 1;
            for set in self.sets.values_mut().filter(|set| set.owner == open.owner) {
                set.ends = set.ends.min(now + TAIL);
            }
            if let Some(place) = self.places.get_mut(&open.owner) {
                place.contact = None;
            }
            return;
        }
        let own = open.contact.as_ref().and_then(|contact| Uri::parse(contact).ok());
        let granted = contacts(headers).into_iter().find_map(|(uri, seconds)| {
            own.as_ref().is_some_and(|own| own.is_equivalent(&uri)).then_some(seconds).flatten()
        });
        let Some(granted) = granted.filter(|granted| *granted > 0) else { return };
        let ends = now + Duration::from_secs(u64::from(granted));
        if self.sets[&over].is_established {
            self.refreshed(over, ends);
        } else {
            self.established(now, over, ends);
        }
        let contact = open.contact.clone().unwrap_or_default();
        self.places.entry(open.owner.clone()).or_default().contact = Some((contact, ends + GRACE));
        self.left_behind(now, &open.owner, headers);
    }

    /// L-09, L-15, F-09, TS 33.203 §7.1: on which set an answer goes.
    fn check_answer(&self, flow: &Flow, open: &Open, status: u16) -> Result<(), String> {
        let Some(over) = open.over else {
            return match self.protected_ports.contains(&flow.local.port()) {
                true => Err(format!("a REGISTER in clear is answered on a set: {flow:?}")),
                false => Ok(()),
            };
        };
        let Some(carrying) = self.carrying(flow).or_else(|| self.ended_carrying(flow)) else {
            return Err(format!("{status} to a REGISTER on set {over:?} goes in clear: {flow:?}"));
        };
        let set = self.sets.get(&over).or_else(|| self.ended.get(&over));
        let is_temporary = set.is_some_and(|set| !set.is_established);
        let is_failure = !matches!(status, 200..300 | 401 | 494);
        let expected = match (open.transport, is_temporary && is_failure) {
            (Transport::Tcp, _) => over,
            (Transport::Udp, true) => {
                let older = set.and_then(|set| set.over);
                older.filter(|older| self.sets.contains_key(older)).unwrap_or(over)
            }
            (Transport::Udp, false) => open.answer_on.unwrap_or(over),
        };
        if carrying == expected {
            return Ok(());
        }
        Err(format!("{status} to what came on {over:?} goes on {carrying:?}, not {expected:?}"))
    }

    /// The kernel holds the sets that live, and no others.
    fn compare(&self, now: Now) -> Result<(), String> {
        for (id, set) in &self.sets {
            if !self.held.contains(id) && set.ends > now + TICK {
                let left = set.ends.since(now).as_secs();
                return Err(format!("set {} is gone {left} s too early: {set:?}", id.0));
            }
        }
        if self.is_late {
            return Ok(());
        }
        for id in &self.held {
            if let Some(set) = self.ended.get(id)
                && set.ends + TICK < now
            {
                let late = now.since(set.ends).as_secs();
                return Err(format!("set {} is {late} s late, or was displaced: {set:?}", id.0));
            }
        }
        Ok(())
    }

    // ---- By ports.

    fn set_of(&self, flow: &Flow) -> Option<SetId> {
        self.sets.iter().find(|(_, set)| self.receives(set, flow)).map(|(id, _)| *id)
    }

    fn ended_of(&self, flow: &Flow) -> Option<SetId> {
        self.ended.iter().rev().find(|(_, set)| self.receives(set, flow)).map(|(id, _)| *id)
    }

    fn receives(&self, set: &Set, flow: &Flow) -> bool {
        let (ue, port) = (flow.remote.ip(), flow.remote.port());
        let (wanted, own) = match flow.local.port() == self.protected_server_port {
            true => (set.ports.uc, set.ports.ps),
            false => (set.ports.us, set.ports.pc),
        };
        set.owner.1 == ue && port == wanted && flow.local.port() == own
    }

    /// The set that a message from us travels on; UDP leaves from port_pc alone.
    fn carrying(&self, flow: &Flow) -> Option<SetId> {
        let carries = |set: &Set| self.receives(set, flow) && self.may_send(flow);
        self.sets.iter().find(|(_, set)| carries(set)).map(|(id, _)| *id)
    }

    fn ended_carrying(&self, flow: &Flow) -> Option<SetId> {
        self.ended_of(flow).filter(|_| self.may_send(flow))
    }

    fn may_send(&self, flow: &Flow) -> bool {
        flow.transport == Transport::Tcp || flow.local.port() != self.protected_server_port
    }
}

fn contacts(headers: &Headers) -> Vec<(Uri, Option<u32>)> {
    let address = |value: &str| match Contact::parse(value) {
        Ok(Contact::Address(address)) => Some((address.uri.clone(), address.expires_seconds())),
        _ => None,
    };
    headers.values(Name::Contact).filter_map(address).collect()
}
