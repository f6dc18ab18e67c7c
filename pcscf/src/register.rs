//! Registration at the P-CSCF (TS 24.229 §5.2.2), re-registration and deregistration included:
//! they take the same path.
//!
//! 1. `register`           who speaks over which association; sec-agree; the request for home
//! 2. `register_located`   the entry point is known: forward
//! 3. `register_answered`  401: a temporary set; 2xx: an established one; silence: the next entry point
//! 4. `register_secured`   the associations are in the kernel: let the 401 go
//!
//! What follows a 2xx is in `accept`.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::identity::{Impi, Impu, logged};
use common::ipsec::agree::{self, Offer};
use common::ipsec::sa::SetId;
use common::node::{Flow, Now, Output, Transport};
use common::sip::address::{Address, Contact};
use common::sip::auth::{DigestParameters, credentials_for};
use common::sip::endpoint::{Branch, Incoming, NoReply, Segment, Target};
use common::sip::header::Name;
use common::sip::locate::Hop;
use common::sip::locator::Located;
use common::sip::message::{Headers, Request, Response};
use common::sip::p_headers::ChargingVector;
use common::sip::security::Mechanism;
use common::sip::uri::{Host, Uri};
use common::sip::via::Via;

use crate::accept::{contact_to_bind, contacts};
use crate::config::Policy;
use crate::identity_headers::{strip_from_ue, strip_towards_ue};
use crate::refusal::Refusal;
use crate::registrations::{Owner, is_for_emergency};
use crate::sec_agree::{agree_on_temporary, set_security_server, take_keys};
use crate::security::{Security, Set, State, Wanted};
use crate::{OnInstalled, OnPlace, OnReply, Pcscf, Side, Timer, path};

/// What is known of a REGISTER in progress.
#[derive(Debug)]
pub struct Attempt {
    pub(crate) began: Now,
    pub(crate) owner: Owner,
    pub(crate) public_identity: Impu,
    /// Where the REGISTER came from: the UE's address, or that of the NAT in front of it.
    pub(crate) source: IpAddr,
    /// As in [`crate::security::Set`].
    pub(crate) nat: Option<IpAddr>,
    pub(crate) pcscf: IpAddr,
    /// What Path names.
    pub(crate) place: SocketAddr,
    /// The set it came in on; `None`: in clear.
    pub(crate) set: Option<SetId>,
    /// What to build associations from, should the home network challenge.
    pub(crate) offer: Option<Offer>,
    pub(crate) security_client: Vec<Mechanism>,
    /// Every contact has expires 0, the UE's own or another.
    pub(crate) is_deregistration: bool,
    /// The REGISTER as the home network gets it.
    pub(crate) request: Request,
    pub(crate) deadline: Now,
}

/// Waits for the place of the entry point.
#[derive(Debug)]
pub struct Locating {
    incoming: Incoming,
    attempt: Attempt,
}

/// Waits for the answer of an entry point.
#[derive(Debug)]
pub struct Forwarded {
    attempt: Attempt,
    hop: Hop,
    untried: VecDeque<Hop>,
}

/// Waits for the kernel to hold the temporary set.
#[derive(Debug)]
pub struct Installing {
    incoming: Incoming,
    attempt: Attempt,
    challenge: Response,
    set: SetId,
}

impl Attempt {
    /// In clear, with an offer: it will cost a temporary set.
    fn is_to_be_challenged(&self) -> bool {
        self.set.is_none() && self.offer.is_some()
    }
}

impl Pcscf {
    /// TS 24.229 §5.2.2.1: a REGISTER from a UE.
    pub(crate) fn register(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let icid = format!("{}{}", self.random.token(), self.random.token());
        let attempt = match self.attempt(now, &incoming, icid) {
            Ok(attempt) => attempt,
            Err(refusal) => return self.refuse(now, incoming, refusal, out),
        };
        if attempt.is_to_be_challenged()
            && !self.security.await_challenge(&attempt.owner.private_identity, attempt.source)
        {
            return self.refuse(now, incoming, Refusal::TooManyChallenges, out);
        }
        // The home domain by its name alone: port, maddr, or a numeric host would let a phone send us
        // anywhere.
        let home = Uri::parse(attempt.request.uri()).ok().and_then(|uri| uri.host_port);
        let entry_point = match (&self.config.mw.entry_point, home.map(|home| home.host)) {
            (Some(entry_point), _) => entry_point.clone(),
            (None, Some(Host::Name(home))) => format!("sip:{home}"),
            (None, _) => {
                tracing::warn!(
                    uri = attempt.request.uri(),
                    "no home domain, and no mw.entry_point"
                );
                return self.give_up(now, incoming, attempt, Refusal::NoEntryPoint, out);
            }
        };
        let wait = OnPlace::RegisterLocated(Box::new(Locating { incoming, attempt }));
        if let Some((wait, place)) = self.locator.locate(now, &entry_point, wait, out) {
            self.on_place(now, wait, place, out);
        }
    }

    /// Everything that is decided before the home network hears of it.
    fn attempt(&self, now: Now, incoming: &Incoming, icid: String) -> Result<Attempt, Refusal> {
        let request = incoming.request();
        let flow = incoming.flow();
        let set = self.security.set_of(&flow);
        if self.side(&flow) == Side::GmProtected && set.is_none() {
            return Err(Refusal::NoAssociation);
        }
        check_proxy_require(request.headers())?;
        let uri = Uri::parse(request.uri()).map_err(|_| Refusal::Malformed)?;
        let home = uri.host_port.as_ref().ok_or(Refusal::Malformed)?.host.to_string();
        let credentials =
            credentials_for(request.headers(), &home).map_err(|_| Refusal::Malformed)?;
        let public_identity = public_identity(request).ok_or(Refusal::Malformed)?;
        let impi = private_identity(credentials.as_ref(), &public_identity);
        if let Some(set) = set {
            if impi != set.impi {
                return Err(Refusal::ForeignIdentity);
            }
            check_via(request.headers(), set)?;
        }
        let source = flow.remote.ip();
        let private = match set {
            None => private_address(request.headers(), source, &self.config.gm.addresses),
            Some(_) => None,
        };
        let is_deregistration = is_deregistration(request.headers())?;
        let is_emergency = is_of_emergency(request.headers(), set, is_deregistration);
        let agreed = match set.map(|set| (set.state, set)) {
            None => self.agree_in_clear(request.headers(), private.is_some())?,
            Some((State::Temporary, set)) => {
                // It was challenged as the other kind of registration.
                if set.is_emergency != is_emergency {
                    return Err(Refusal::ForeignContact);
                }
                agree_on_temporary(request.headers(), set)?
            }
            Some((_, set)) => {
                let owner = Owner { is_emergency, ..set.owner() };
                self.agree_on_established(request.headers(), set, &owner)?
            }
        };
        // Of a UE inside a tunnel the sockets will see the private address.
        let in_tunnel = agreed.offer.as_ref().is_some_and(|offer| offer.is_udp_encapsulated);
        let (ue, nat) = match (set, private) {
            (Some(set), _) => (set.ue, set.nat),
            (None, Some(private)) if in_tunnel => (private, Some(source)),
            (None, private) => {
                if let Some(private) = private {
                    self.tell_nat(&impi, source, private);
                }
                (source, None)
            }
        };
        let owner = Owner { private_identity: impi, ue, is_emergency };
        let is_full = !self.registrations.has_room(&owner);
        if is_full && !is_deregistration {
            return Err(Refusal::Exhausted);
        }
        let own = set.filter(|set| set.is_of(&owner));
        let integrity_protected = is_integrity_protected(own.map(|set| set.state), &credentials);
        let place = match (set, &agreed.offer) {
            (Some(set), _) => SocketAddr::new(set.ue, set.ports.us),
            (None, Some(offer)) => SocketAddr::new(ue, offer.port_s),
            (None, None) => path::place_in_clear(request.headers(), flow.remote),
        };
        Ok(Attempt {
            began: now,
            public_identity,
            source,
            nat,
            owner,
            pcscf: flow.local.ip(),
            place,
            set: set.map(|set| set.id),
            offer: agreed.offer,
            security_client: agreed.security_client,
            is_deregistration,
            request: self.to_home_network(request, credentials, integrity_protected, place, icid),
            deadline: now + Duration::from_secs(self.config.mw.register_seconds),
        })
    }

    /// A phone that will hardly be reached by ESP: only it can help itself, or our configuration.
    fn tell_nat(&self, impi: &Impi, source: IpAddr, private: IpAddr) {
        let advice = match (self.config.ipsec.policy, self.config.ipsec.nat) {
            (Policy::Off, _) => return,
            (_, true) => "it does not offer mod=UDP-enc-tun",
            (_, false) => "ipsec.nat is off",
        };
        tracing::warn!(
            identity = %logged(impi.as_str(), self.config.log_identities),
            from = %source,
            sent_by = %private,
            advice,
            "a phone behind a NAT: ESP outside UDP may not get through"
        );
    }

    /// TS 24.229 §5.2.2.1: the REGISTER as the home network gets it; `place` is where the UE is asked.
    fn to_home_network(
        &self,
        request: &Request,
        credentials: Option<DigestParameters>,
        integrity_protected: &str,
        place: SocketAddr,
        icid: String,
    ) -> Request {
        let mut request = request.clone();
        let headers = request.headers_mut();
        strip_from_ue(headers);
        // Ours and nobody else's: a UE sends no Route in REGISTER (rows.md S-16).
        headers.remove(Name::Route);
        headers.remove(Name::SecurityClient);
        headers.remove(Name::SecurityVerify);
        headers.remove_token(Name::Require, "sec-agree");
        headers.remove_token(Name::ProxyRequire, "sec-agree");
        // Also what was not read as credentials for this home network: in any line that stayed, a UE could
        // say integrity-protected itself, to whoever reads that line.
        headers.remove(Name::Authorization);
        if let Some(mut credentials) = credentials {
            credentials.set("integrity-protected", integrity_protected);
            headers.append(Name::Authorization, &credentials.to_credentials());
        }
        let ob = if path::is_flow(headers) { ";ob" } else { "" };
        let path = format!("<{}{ob}>", self.path_uri(place));
        headers.append(Name::Path, &path);
        if !headers.has_token(Name::Require, "path") {
            headers.append(Name::Require, "path");
        }
        headers.append(Name::PVisitedNetworkId, &format!("\"{}\"", self.config.visited_network));
        let orig_ioi = match &self.config.orig_ioi {
            Some(orig_ioi) => orig_ioi.clone(),
            None => format!("Type 1{}", self.config.visited_network),
        };
        let vector = ChargingVector {
            icid_value: icid,
            orig_ioi: Some(orig_ioi),
            term_ioi: None,
            others: Vec::new(),
        };
        headers.append(Name::PChargingVector, &vector.to_string());
        request
    }

    /// TS 24.229 §5.2.2.1: to the entry point, over IPv4 or IPv6 as it is reached.
    pub(crate) fn register_located(
        &mut self,
        now: Now,
        wait: Locating,
        place: Located,
        out: &mut Vec<Output>,
    ) {
        let Locating { incoming, attempt } = wait;
        match place {
            Ok(hops) => self.register_forward(now, incoming, attempt, hops, out),
            Err(reason) => {
                tracing::warn!(uri = attempt.request.uri(), reason, "no entry point found");
                self.give_up(now, incoming, attempt, Refusal::NoEntryPoint, out);
            }
        }
    }

    /// To the next entry point that we can reach, while there is time.
    fn register_forward(
        &mut self,
        now: Now,
        incoming: Incoming,
        attempt: Attempt,
        mut untried: VecDeque<Hop>,
        out: &mut Vec<Output>,
    ) {
        let remaining = attempt.deadline.since(now);
        while let Some(hop) = untried.pop_front() {
            let Some(local) = self.mw_address(hop.address) else { continue };
            if remaining.is_zero() {
                break;
            }
            let target = Target {
                flow: Flow { transport: hop.transport, local, remote: hop.address },
                tcp_local_port: 0,
                sent_by: self.mw_name(),
                segment: Segment::Core,
            };
            let limit = remaining.min(Duration::from_secs(self.config.mw.attempt_seconds));
            let request = attempt.request.clone();
            let wait = OnReply::RegisterAnswered(Box::new(Forwarded { attempt, hop, untried }));
            self.sip.forward(now, incoming, request, target, wait, limit, out);
            return;
        }
        self.give_up(now, incoming, attempt, Refusal::EntryPointSilent, out);
    }

    /// TS 24.229 §5.2.2.2 (401), §5.2.2.3 (2xx), §5.2.2.1 (another entry point).
    pub(crate) fn register_answered(
        &mut self,
        now: Now,
        branch: Branch<OnReply>,
        result: Result<Response, NoReply>,
        out: &mut Vec<Output>,
    ) {
        let Branch { incoming: Some(incoming), wait: OnReply::RegisterAnswered(wait), .. } = branch
        else {
            return;
        };
        let Forwarded { attempt, hop, untried } = *wait;
        let is_unusable = |response: &Response| {
            matches!(response.status(), 300..=399 | 503) || response.status() == 480
        };
        match result {
            Err(failure) => {
                tracing::warn!(entry_point = %hop.address, ?failure, "entry point does not answer");
                self.locator.failed(now, hop);
                self.register_forward(now, incoming, attempt, untried, out);
            }
            Ok(response) if is_unusable(&response) && !untried.is_empty() => {
                self.register_forward(now, incoming, attempt, untried, out);
            }
            Ok(response) if (300..400).contains(&response.status()) => {
                self.give_up(now, incoming, attempt, Refusal::EntryPointSilent, out);
            }
            Ok(response) if response.status() == 401 => {
                self.register_challenged(now, incoming, attempt, response, out);
            }
            Ok(response) if response.is_success() => {
                self.register_accepted(now, incoming, attempt, response, out);
            }
            Ok(response) => self.register_failed(now, incoming, attempt, response, out),
        }
    }

    /// TS 24.229 §5.2.2.2: keep CK and IK, make a temporary set, install it before the 401 leaves.
    fn register_challenged(
        &mut self,
        now: Now,
        incoming: Incoming,
        attempt: Attempt,
        mut challenge: Response,
        out: &mut Vec<Output>,
    ) {
        let keys = match take_keys(challenge.headers_mut()) {
            Ok(keys) => keys,
            Err(refusal) => return self.give_up(now, incoming, attempt, refusal, out),
        };
        let Some(offer) = attempt.offer.clone() else {
            let set = attempt.set.and_then(|id| self.security.get(id));
            let refusal = set.map(|set| match set.is_established() {
                true => Refusal::NothingToSecure,
                false => Refusal::ChallengedAgain,
            });
            if let Some(refusal) = refusal {
                return self.give_up(now, incoming, attempt, refusal, out);
            }
            return self.register_relay(now, incoming, &attempt, challenge, out);
        };
        let Some(keys) = keys else {
            return self.give_up(now, incoming, attempt, Refusal::NoKeys, out);
        };
        let wanted = Wanted {
            owner: &attempt.owner,
            nat: attempt.nat,
            pcscf: attempt.pcscf,
            offer: &offer,
            challenged_over: attempt.set,
        };
        let Ok(allotted) = self.security.allot(&wanted) else {
            return self.give_up(now, incoming, attempt, Refusal::Exhausted, out);
        };
        for displaced in &allotted.displaced {
            self.displace(*displaced, attempt.owner.ue, out);
        }
        let pairs = self.listed_pairs(offer.pair);
        let set = self.security.create(now, wanted, &allotted);
        let (spis, ports, in_tunnel) = (set.spis, set.ports, set.nat.is_some());
        let security_server =
            agree::security_server(&pairs, in_tunnel, spis.pc, spis.ps, ports.pc, ports.ps);
        set_security_server(challenge.headers_mut(), &security_server);
        if let Some(agreed) = &mut set.agreed {
            agreed.security_client = attempt.security_client.clone();
            agreed.security_server = security_server;
        }
        let (id, ends) = (set.id, set.expires_at);
        let associations = Security::with_keys(set, keys);
        self.timers.set(Timer::SetEnds(id), ends);
        let installing = Installing { incoming, attempt, challenge, set: id };
        let question = self.kernel.ask(OnInstalled::RegisterSecured(Box::new(installing)));
        out.push(Output::InstallSas { id: question, set: Box::new(associations) });
    }

    /// TS 24.229 §5.2.2.2: the set is in the kernel, so the 401 may go.
    pub(crate) fn register_secured(
        &mut self,
        now: Now,
        wait: Installing,
        result: Result<(), String>,
        out: &mut Vec<Output>,
    ) {
        let Installing { incoming, attempt, challenge, set } = wait;
        match result {
            Ok(()) => {
                self.security.note_installed(set);
                self.register_relay(now, incoming, &attempt, challenge, out);
            }
            Err(reason) => {
                self.security.refused_by_kernel += 1;
                tracing::error!(reason, "security associations not installed");
                self.drop_set(set, out);
                self.give_up(now, incoming, attempt, Refusal::KernelRefused, out);
            }
        }
    }

    /// TS 24.229 §5.2.2.4: the home network's refusal, as it is.
    ///
    /// DEVIATES: RFC 3261 §16.7 step 6: also a 503 with its Retry-After, when no entry point is left. A 500 in its
    /// place would have the UE come again at once, to a home network that has asked for a rest.
    ///
    /// DEVIATES: TS 24.229 §5.2.2.1, registration.md P-20: also a 480, where 504 is said when no entry point is left. An
    /// entry point has answered, and says that the home network cannot serve the UE for now: with 480 the UE waits and
    /// comes again (TS 24.229 §5.1.1.2.1), with 504 to a refresh it would register initially at once.
    fn register_failed(
        &mut self,
        now: Now,
        mut incoming: Incoming,
        attempt: Attempt,
        response: Response,
        out: &mut Vec<Output>,
    ) {
        self.end_challenge(now, &mut incoming, &attempt);
        self.register_relay(now, incoming, &attempt, response, out);
    }

    /// ipsec.md L-09: a final answer to the protected REGISTER that is neither 401 nor 2xx ends the
    /// temporary set, once the answer has passed; the answer goes out on the set that protected the
    /// challenged REGISTER, which is the one that the UE goes back to.
    ///
    /// DEVIATES: registration.md P-21: not on any older set, because a UE that was challenged in clear
    /// may have lost them all; the temporary one it has.
    fn end_challenge(&mut self, now: Now, incoming: &mut Incoming, attempt: &Attempt) {
        let Some(set) = attempt.set.and_then(|id| self.security.get(id)) else { return };
        let Some(agreed) = &set.agreed else { return };
        let older = agreed.challenged_over.and_then(|older| self.security.get(older));
        if let (Transport::Udp, Some(older)) = (incoming.flow().transport, older) {
            incoming.set_reply_flow(older.flow_to_ue());
        }
        let ends = set.expires_at.min(now + self.config.gm.old_set_life());
        let id = set.id;
        self.set_life(id, ends);
    }

    /// A temporary set makes room for another.
    fn displace(&mut self, id: SetId, ue: IpAddr, out: &mut Vec<Output>) {
        let Some(set) = self.security.get(id) else { return };
        if set.ue != ue {
            tracing::warn!(
                identity = %logged(set.impi.as_str(), self.config.log_identities),
                ue = %set.ue,
                by = %ue,
                "too many challenges for one identity: the oldest ends"
            );
            self.security.crowded_out += 1;
        }
        self.drop_set(id, out);
    }

    /// The answer as the UE may see it, and the one line that says how it ended.
    pub(crate) fn register_relay(
        &mut self,
        now: Now,
        incoming: Incoming,
        attempt: &Attempt,
        mut response: Response,
        out: &mut Vec<Output>,
    ) {
        self.end(attempt);
        strip_towards_ue(response.headers_mut());
        response.headers_mut().pop_value(Name::Via);
        if response.is_success() {
            self.offer_keep_alive(&incoming, &mut response);
        }
        let took = now.since(attempt.began);
        self.counters.took.observe(took);
        self.counters.count_status(response.status());
        tracing::info!(
            procedure = "register",
            identity = %logged(attempt.owner.private_identity.as_str(), self.config.log_identities),
            ue = %attempt.owner.ue,
            protected = attempt.set.is_some(),
            deregistration = attempt.is_deregistration,
            status = response.status(),
            milliseconds = took.as_millis() as u64,
        );
        self.respond(now, incoming, response, out);
    }

    fn end(&mut self, attempt: &Attempt) {
        if attempt.is_to_be_challenged() {
            self.security.awaits_no_more(attempt.source);
        }
    }

    /// We refuse what was on its way already.
    pub(crate) fn give_up(
        &mut self,
        now: Now,
        mut incoming: Incoming,
        attempt: Attempt,
        refusal: Refusal,
        out: &mut Vec<Output>,
    ) {
        self.end(&attempt);
        self.end_challenge(now, &mut incoming, &attempt);
        self.refuse(now, incoming, refusal, out);
    }

    /// The one exit for refusals.
    fn refuse(&mut self, now: Now, incoming: Incoming, refusal: Refusal, out: &mut Vec<Output>) {
        let (status, reason) = refusal.status();
        self.counters.count_refusal(refusal);
        self.counters.count_status(status);
        tracing::info!(
            procedure = "register",
            from = %incoming.flow().remote,
            status,
            cause = refusal.label(),
        );
        let mut response = incoming.request().response(status, reason);
        let headers = response.headers_mut();
        match refusal {
            Refusal::BadExtension => {
                for tag in incoming.request().headers().values(Name::ProxyRequire) {
                    if !tag.eq_ignore_ascii_case("sec-agree") {
                        headers.append(Name::Unsupported, tag);
                    }
                }
            }
            Refusal::SecAgreeRequired
            | Refusal::NoCommonAlgorithm
            | Refusal::SecurityVerifyMismatch
            | Refusal::SecurityClientChanged
            | Refusal::OfferCollides => {
                headers.append(Name::Require, "sec-agree");
                let list = self.security_server_for(&incoming);
                set_security_server(headers, &list);
            }
            Refusal::Exhausted | Refusal::TooManyChallenges => {
                let seconds = self.config.ipsec.retry_after_seconds.to_string();
                headers.append(Name::RetryAfter, &seconds);
            }
            _ => {}
        }
        self.respond(now, incoming, response, out);
    }

    /// Our Mw address of the same family.
    fn mw_address(&self, remote: SocketAddr) -> Option<SocketAddr> {
        self.config.mw.listen.iter().copied().find(|local| local.is_ipv4() == remote.is_ipv4())
    }
}

/// RFC 3261 §16.3 item 5: of Proxy-Require we know sec-agree only.
fn check_proxy_require(headers: &Headers) -> Result<(), Refusal> {
    let knows = |tag: &str| tag.eq_ignore_ascii_case("sec-agree");
    if headers.values(Name::ProxyRequire).all(knows) { Ok(()) } else { Err(Refusal::BadExtension) }
}

/// The public identity that is being registered: To (TS 24.229 §5.1.1.2.1).
fn public_identity(request: &Request) -> Option<Impu> {
    let to = Address::parse(request.headers().get(Name::To)?).ok()?;
    Some(to.uri.public_identity())
}

/// The private identity: username, or what stands in To without its scheme where no credentials
/// came (registration.md I-02).
fn private_identity(credentials: Option<&DigestParameters>, public_identity: &Impu) -> Impi {
    match credentials.and_then(|credentials| credentials.get("username")) {
        Some(username) if !username.is_empty() => Impi::new(username),
        _ => {
            let text = public_identity.as_str();
            Impi::new(text.split_once(':').map_or(text, |(_, rest)| rest))
        }
    }
}

/// TS 24.229 §5.2.2.1: the only Via of a protected REGISTER names the UE of the association, by its own
/// address or by that of its NAT. A sent-by that is a name says nothing.
fn check_via(headers: &Headers, set: &Set) -> Result<(), Refusal> {
    let mut vias = headers.values(Name::Via);
    let via = vias.next().and_then(|via| Via::parse(via).ok()).ok_or(Refusal::Malformed)?;
    match via.sent_by.host {
        Host::Address(address) if address != set.ue && Some(address) != set.nat => {
            Err(Refusal::ForeignAddress)
        }
        _ if vias.next().is_some() => Err(Refusal::ForeignAddress),
        _ => Ok(()),
    }
}

/// TS 33.203 Annex M: the address that a UE behind a NAT says is its own, where packets come from
/// another; IPv4 only. Never one of ours, nor one that no UE can have.
fn private_address(headers: &Headers, source: IpAddr, own: &[IpAddr]) -> Option<IpAddr> {
    let via = Via::parse(headers.values(Name::Via).next()?).ok()?;
    let Host::Address(said @ IpAddr::V4(address)) = via.sent_by.host else { return None };
    let is_somebody = !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !address.is_broadcast();
    (source.is_ipv4() && said != source && is_somebody && !own.contains(&said)).then_some(said)
}

/// TS 24.229 §5.2.2.1, registration.md P-08: set from facts, never from what the UE says.
fn is_integrity_protected(
    set: Option<State>,
    credentials: &Option<DigestParameters>,
) -> &'static str {
    let has_response = credentials
        .as_ref()
        .and_then(|credentials| credentials.get("response"))
        .is_some_and(|response| !response.is_empty());
    match set {
        None => "no",
        Some(State::Temporary) if !has_response => "no",
        Some(_) => "yes",
    }
}

/// Whether it is about an emergency registration or about the normal one: the contact says so that it is to bind or, in
/// clear, to end (TS 24.229 §5.1.6.2). What else comes over associations is about the registration that they belong to.
///
/// A REGISTER that is to bind the other kind of contact over associations is no re-registration: the initial one of the
/// other kind comes in clear. It is taken all the same, as if it had: it is not called protected, has to be challenged,
/// and its challenge makes a set of its own.
fn is_of_emergency(headers: &Headers, set: Option<&Set>, is_deregistration: bool) -> bool {
    let bound = contact_to_bind(headers).filter(|_| !is_deregistration);
    match (bound, set) {
        (Some(contact), _) => is_for_emergency(&contact.uri),
        (None, Some(set)) => set.is_emergency,
        (None, None) => contacts(headers).iter().any(is_for_emergency),
    }
}

/// Every binding that it names is to end: `Contact: *`, or all contacts with expires 0
/// (RFC 3261 §10.2.2).
fn is_deregistration(headers: &Headers) -> Result<bool, Refusal> {
    let default: Option<u32> =
        headers.get(Name::Expires).and_then(|value| value.trim().parse().ok());
    let mut contacts = 0;
    let mut ending = 0;
    for value in headers.values(Name::Contact) {
        contacts += 1;
        let expires = match Contact::parse(value).map_err(|_| Refusal::Malformed)? {
            Contact::Star => default,
            Contact::Address(address) => address.expires_seconds().or(default),
        };
        ending += usize::from(expires == Some(0));
    }
    Ok(contacts > 0 && contacts == ending)
}
