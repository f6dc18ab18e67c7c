//! Registration at the I-CSCF (TS 24.229 §5.3.1).
//!
//! 1. `register`             ask the HSS whether, and where
//! 2. `register_authorised`  take the S-CSCF it names, or choose one
//! 3. `register_located`     forward to its first address
//! 4. `register_answered`    pass the answer back, or try its next address, or another S-CSCF

use std::time::Duration;

use common::cx::uar::UserAuthorizationType;
use common::cx::{self, Answered, Outcome, ServerCapabilities, Uar};
use common::diameter::base::result_code;
use common::diameter::endpoint::NoAnswer;
use common::node::{Now, Output};
use common::sip::address::{Address, Contact};
use common::sip::auth::{DigestParameters, credentials_for};
use common::sip::endpoint::{Branch, Incoming, NoReply};
use common::sip::header::Name;
use common::sip::locate::Hop;
use common::sip::locator::Located;
use common::sip::message::{Headers, Request, Response};
use common::sip::p_headers::visited_network;
use common::sip::uri::{Scheme, Uri};

use crate::location::{Hops, OnLocated};
use crate::stats::status_class;
use crate::{Icscf, OnAnswer, OnReply, RETRY_AFTER_SECONDS};

/// Octets of an identity. No SIP URI or NAI that a network gives out comes near it, and the HSS gets
/// both identities, and logs and databases after it, before anybody has authenticated.
const IDENTITY_OCTETS_MAX: usize = 1024;

/// Octets of P-Visited-Network-ID: as long as a domain name can be (RFC 1035 §3.1).
const VISITED_NETWORK_OCTETS_MAX: usize = 255;

/// What one registration carries through all its waits.
#[derive(Debug)]
pub struct Procedure {
    started: Now,
    deadline: Now,
    /// The question to the HSS, to be asked again with other wishes.
    uar: Uar,
    /// Whether another S-CSCF may take over.
    may_reselect: bool,
    /// What the S-CSCF must be able to do, once the HSS has said so.
    capabilities: Option<ServerCapabilities>,
    /// S-CSCFs that gave no useful answer in this procedure.
    tried: Vec<String>,
    /// How the last of them failed.
    failure: Option<Refusal>,
}

/// Waits for the UAA.
#[derive(Debug)]
pub struct Authorising {
    incoming: Incoming,
    procedure: Procedure,
}

/// Waits for the addresses of the S-CSCF.
#[derive(Debug)]
pub struct Locating {
    incoming: Incoming,
    procedure: Procedure,
    server: String,
}

/// Waits for the S-CSCF.
#[derive(Debug)]
pub struct Forwarded {
    procedure: Procedure,
    server: String,
    /// The address in use, and the ones not tried.
    hop: Hop,
    others: Hops,
    /// When this S-CSCF has had its time, over all its addresses.
    server_deadline: Now,
}

/// Why a registration is refused here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A header that is needed cannot be read (RFC 3261 §21.4.1).
    Malformed(&'static str),
    /// The Request-URI is not of the home domain (RFC 3261 §10.3 step 1).
    ForeignDomain,
    /// The HSS knows no such user, no such pair, or allows no registration (TS 24.229 §5.3.1.2).
    NotAllowed(Outcome),
    /// The SLF names no HSS for the user (TS 24.229 §5.3.1.3).
    NoHss,
    /// The HSS could not do it (TS 24.229 §5.3.1.3).
    HssFailed(Outcome),
    /// The HSS gave no answer, or none was connected (TS 24.229 §5.3.1.3).
    HssSilent(NoAnswer),
    /// Too many questions are open (RFC 3261 §21.5.4).
    Overloaded,
    /// No S-CSCF has the mandatory capabilities (TS 24.229 §5.3.1.2).
    NoneCapable,
    /// The assigned S-CSCF cannot be found (TS 24.229 §5.3.1.3).
    ServerUnknown,
    /// S-CSCFs were silent, and no other is left (TS 24.229 §5.3.1.3).
    ServerSilent,
    /// S-CSCFs redirected or were unavailable, and no other is left (TS 24.229 §5.3.1.3).
    ServerUnavailable,
    /// The S-CSCF is overloaded, which says nothing about us (RFC 3261 §16.7 step 6).
    ServerOverloaded,
}

impl Refusal {
    fn status(self) -> (u16, &'static str) {
        match self {
            Refusal::Malformed(_) => (400, "Bad Request"),
            Refusal::ForeignDomain => (404, "Not Found"),
            Refusal::NotAllowed(_) | Refusal::NoHss => (403, "Forbidden"),
            Refusal::HssFailed(_) | Refusal::HssSilent(_) => (480, "Temporarily Unavailable"),
            Refusal::Overloaded => (503, "Service Unavailable"),
            Refusal::NoneCapable => (600, "Busy Everywhere"),
            Refusal::ServerUnknown => (480, "Temporarily Unavailable"),
            Refusal::ServerSilent => (504, "Server Time-out"),
            Refusal::ServerUnavailable => (480, "Temporarily Unavailable"),
            Refusal::ServerOverloaded => (500, "Server Internal Error"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::ForeignDomain => "foreign_domain",
            Refusal::NotAllowed(_) => "not_allowed",
            Refusal::NoHss => "no_hss",
            Refusal::HssFailed(_) => "hss_failed",
            Refusal::HssSilent(_) => "hss_silent",
            Refusal::Overloaded => "overloaded",
            Refusal::NoneCapable => "none_capable",
            Refusal::ServerUnknown => "server_unknown",
            Refusal::ServerSilent => "server_silent",
            Refusal::ServerUnavailable => "server_unavailable",
            Refusal::ServerOverloaded => "server_overloaded",
        }
    }
}

impl Icscf {
    /// TS 24.229 §5.3.1.2: the user registration status query.
    pub(crate) fn register(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let mut procedure = Procedure {
            started: now,
            deadline: now + self.config.timeouts.procedure(),
            uar: Uar::default(),
            may_reselect: false,
            capabilities: None,
            tried: Vec::new(),
            failure: None,
        };
        match self.read(incoming.request(), &mut procedure) {
            Ok(()) => self.register_ask(now, Authorising { incoming, procedure }, out),
            Err(refusal) => self.register_refuse(now, incoming, &procedure, refusal, out),
        }
    }

    /// TS 29.228 §6.1.1: what the UAR says, from the headers of the REGISTER.
    fn read(&self, request: &Request, procedure: &mut Procedure) -> Result<(), Refusal> {
        let headers = request.headers();
        let uri = Uri::parse(request.uri()).map_err(|_| Refusal::Malformed("Request-URI"))?;
        if !self.is_home(&uri) && !self.is_own(&uri) {
            return Err(Refusal::ForeignDomain);
        }
        let to = headers.get(Name::To).and_then(|text| Address::parse(text).ok());
        let to = to.ok_or(Refusal::Malformed("To"))?.uri;
        let credentials = credentials_for(headers, &self.config.home_domain)
            .map_err(|_| Refusal::Malformed("Authorization"))?;
        let visited = headers.get(Name::PVisitedNetworkId).and_then(visited_network);
        let wishes = Wishes::read(headers)?;

        let user_name = private_identity(credentials.as_ref(), &to, &self.config.home_domain)?;
        let public_identity = to.public_identity().as_str().to_owned();
        if public_identity.len() > IDENTITY_OCTETS_MAX {
            return Err(Refusal::Malformed("To"));
        }
        if user_name.len() > IDENTITY_OCTETS_MAX {
            return Err(Refusal::Malformed("username"));
        }
        if visited.as_ref().is_some_and(|visited| visited.len() > VISITED_NETWORK_OCTETS_MAX) {
            return Err(Refusal::Malformed("P-Visited-Network-ID"));
        }

        procedure.uar = Uar {
            user_name,
            public_identity,
            visited_network_identifier: visited.unwrap_or_else(|| self.config.home_domain.clone()),
            user_authorization_type: wishes.authorization_type(),
            is_emergency: wishes.is_emergency,
        };
        // TS 24.229 §5.3.1.3, TS 23.380 §4.2: inside security associations another S-CSCF can serve
        // only with what was left at the HSS; nothing is gained by asking one to deregister.
        let is_protected = credentials.as_ref().and_then(|credentials| {
            credentials.get("integrity-protected").map(|value| value.eq_ignore_ascii_case("yes"))
        });
        let is_served_anywhere = is_protected != Some(true) || self.config.restoration;
        procedure.may_reselect = is_served_anywhere && !wishes.is_deregistration;
        Ok(())
    }

    fn register_ask(&mut self, now: Now, wait: Authorising, out: &mut Vec<Output>) {
        let request = cx::Request::Uar(wait.procedure.uar.clone());
        let limit = self.config.timeouts.hss().min(wait.procedure.deadline.since(now));
        let wait = OnAnswer::RegisterAuthorised(Box::new(wait));
        self.cx.ask(now, request, None, wait, limit, out);
    }

    /// TS 24.229 §5.3.1.2: the S-CSCF that the HSS names, or one with the capabilities it asks for.
    pub(crate) fn register_authorised(
        &mut self,
        now: Now,
        wait: Authorising,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let Authorising { incoming, mut procedure } = wait;
        let uaa = match result {
            Ok(Answered { answer: cx::Answer::Uaa(uaa), .. }) => uaa,
            Ok(_) => {
                let refusal = Refusal::HssSilent(NoAnswer::Malformed);
                return self.register_refuse(now, incoming, &procedure, refusal, out);
            }
            Err(no_answer) => {
                let refusal = no_answer_refusal(no_answer);
                return self.register_refuse(now, incoming, &procedure, refusal, out);
            }
        };
        if !uaa.outcome.is_success() {
            let refusal = outcome_refusal(uaa.outcome);
            return self.register_refuse(now, incoming, &procedure, refusal, out);
        }
        // An HSS that knows of no capabilities names the one that has just failed once more, and would for ever.
        let server_name = uaa.server_name.filter(|server| !procedure.tried.contains(server));
        match server_name {
            Some(server) => self.register_try(now, incoming, procedure, server, out),
            None => {
                procedure.capabilities = Some(uaa.server_capabilities.unwrap_or_default());
                self.register_choose(now, incoming, procedure, out);
            }
        }
    }

    /// TS 24.229 §5.3.1.2, TS 29.228 §6.7: an S-CSCF not tried yet. Without one, the way in which
    /// the last one failed is the answer.
    fn register_choose(
        &mut self,
        now: Now,
        incoming: Incoming,
        procedure: Procedure,
        out: &mut Vec<Output>,
    ) {
        let any = ServerCapabilities::default();
        let wanted = procedure.capabilities.as_ref().unwrap_or(&any);
        match self.selection.choose(now, wanted, &procedure.tried, &mut self.random) {
            Some(server) => self.register_try(now, incoming, procedure, server, out),
            None => {
                let refusal = procedure.failure.unwrap_or(Refusal::NoneCapable);
                self.register_refuse(now, incoming, &procedure, refusal, out);
            }
        }
    }

    fn register_try(
        &mut self,
        now: Now,
        incoming: Incoming,
        procedure: Procedure,
        server: String,
        out: &mut Vec<Output>,
    ) {
        if !procedure.tried.is_empty() {
            self.stats.reselections += 1;
        }
        let wait = Locating { incoming, procedure, server: server.clone() };
        self.locate(now, &server, OnLocated::Register(Box::new(wait)), out);
    }

    pub(crate) fn register_located(
        &mut self,
        now: Now,
        wait: Locating,
        found: Located,
        out: &mut Vec<Output>,
    ) {
        let Locating { incoming, procedure, server } = wait;
        match found {
            Ok(hops) => {
                let patience = if self.selection.is_suspect(now, &server) {
                    self.config.timeouts.suspect()
                } else {
                    self.config.timeouts.scscf()
                };
                let server_deadline = (now + patience).min(procedure.deadline);
                self.register_forward(now, incoming, procedure, server, hops, server_deadline, out);
            }
            Err(reason) => {
                tracing::warn!(%server, reason, "S-CSCF cannot be found");
                self.register_failed(now, incoming, procedure, server, Refusal::ServerUnknown, out);
            }
        }
    }

    /// TS 24.229 §5.3.1.2: the Request-URI becomes the S-CSCF's, and nothing else changes.
    #[allow(clippy::too_many_arguments)]
    fn register_forward(
        &mut self,
        now: Now,
        incoming: Incoming,
        procedure: Procedure,
        server: String,
        mut hops: Hops,
        server_deadline: Now,
        out: &mut Vec<Output>,
    ) {
        let left = server_deadline.since(now);
        let target = loop {
            let Some(hop) = hops.pop_front().filter(|_| left > Duration::ZERO) else {
                let refusal = Refusal::ServerSilent;
                return self.register_failed(now, incoming, procedure, server, refusal, out);
            };
            if let Some(target) = self.target(hop) {
                break (hop, target);
            }
        };
        let (hop, target) = target;
        let mut request = incoming.request().clone();
        if procedure.tried.is_empty() {
            request.set_uri(&server);
        } else {
            request.set_uri(&format!("{server};scscf-reselection"));
        }
        request.headers_mut().remove(Name::Route);
        // Addresses not tried yet share what time the S-CSCF has left.
        let limit = left / (hops.len() as u32 + 1);
        let wait = Forwarded { procedure, server, hop, others: hops, server_deadline };
        let wait = OnReply::RegisterAnswered(Box::new(wait));
        self.sip.forward(now, incoming, request, target, wait, limit, out);
    }

    /// TS 24.229 §5.3.1.2: the answer goes back unchanged.
    /// TS 24.229 §5.3.1.3: no answer, 3xx or 480 means another S-CSCF, while there is time.
    pub(crate) fn register_answered(
        &mut self,
        now: Now,
        branch: Branch<OnReply>,
        result: Result<Response, NoReply>,
        out: &mut Vec<Output>,
    ) {
        let OnReply::RegisterAnswered(wait) = &branch.wait else {
            return self.misdelivered(now, branch, out);
        };
        match result {
            Ok(response) => {
                self.selection.alive(&wait.server);
                let refusal = match response.status() {
                    300..=399 | 480 => Refusal::ServerUnavailable,
                    503 => Refusal::ServerOverloaded,
                    _ => return self.register_relay(now, branch, response, out),
                };
                if refusal == Refusal::ServerUnavailable && !wait.procedure.may_reselect {
                    return self.register_relay(now, branch, response, out);
                }
                let Some((incoming, wait)) = taken(branch) else { return };
                self.register_next(now, incoming, wait, refusal, out);
            }
            Err(_) => {
                self.stats.silent_servers += 1;
                let Some((incoming, wait)) = taken(branch) else { return };
                self.locator.failed(now, wait.hop);
                self.register_next(now, incoming, wait, Refusal::ServerSilent, out);
            }
        }
    }

    /// RFC 3263 §4.3: the next address of the same S-CSCF after silence or 503; then another one.
    fn register_next(
        &mut self,
        now: Now,
        incoming: Incoming,
        wait: Forwarded,
        refusal: Refusal,
        out: &mut Vec<Output>,
    ) {
        let Forwarded { procedure, server, others, server_deadline, .. } = wait;
        let is_of_address = refusal != Refusal::ServerUnavailable;
        if is_of_address && !others.is_empty() && now < server_deadline {
            return self.register_forward(
                now,
                incoming,
                procedure,
                server,
                others,
                server_deadline,
                out,
            );
        }
        if refusal == Refusal::ServerSilent {
            self.selection.silent(now, &server, self.config.timeouts.suspect_for());
            tracing::warn!(%server, "S-CSCF is silent");
        }
        self.register_failed(now, incoming, procedure, server, refusal, out);
    }

    /// TS 24.229 §5.3.1.3: capabilities are asked for where they are not known, then another
    /// S-CSCF gets the REGISTER as it came.
    fn register_failed(
        &mut self,
        now: Now,
        incoming: Incoming,
        mut procedure: Procedure,
        server: String,
        refusal: Refusal,
        out: &mut Vec<Output>,
    ) {
        procedure.tried.push(server);
        procedure.failure = Some(refusal);
        // An overloaded S-CSCF holds the user: another would only add to the load of the HSS.
        let is_final = refusal == Refusal::ServerOverloaded && procedure.capabilities.is_none();
        if !procedure.may_reselect || is_final || procedure.deadline <= now {
            return self.register_refuse(now, incoming, &procedure, refusal, out);
        }
        if procedure.capabilities.is_some() {
            return self.register_choose(now, incoming, procedure, out);
        }
        procedure.uar.user_authorization_type = UserAuthorizationType::RegistrationAndCapabilities;
        self.register_ask(now, Authorising { incoming, procedure }, out);
    }

    fn register_relay(
        &mut self,
        now: Now,
        branch: Branch<OnReply>,
        response: Response,
        out: &mut Vec<Output>,
    ) {
        let status = response.status();
        if let OnReply::RegisterAnswered(wait) = &branch.wait {
            self.stats.registration(status_class(status), now.since(wait.procedure.started));
            tracing::info!(
                procedure = "registration",
                status,
                private_identity = %self.logged(&wait.procedure.uar.user_name),
                public_identity = %self.logged(&wait.procedure.uar.public_identity),
                server = %wait.server,
                took_ms = now.since(wait.procedure.started).as_millis() as u64,
                "answered"
            );
        }
        self.sip.relay(now, branch, response, out);
    }

    /// The one exit for refusals.
    fn register_refuse(
        &mut self,
        now: Now,
        incoming: Incoming,
        procedure: &Procedure,
        refusal: Refusal,
        out: &mut Vec<Output>,
    ) {
        let (status, reason) = refusal.status();
        let mut response = match refusal {
            Refusal::Malformed(what) => {
                incoming.request().response(status, &format!("{reason}: {what}"))
            }
            _ => incoming.request().response(status, reason),
        };
        if matches!(refusal, Refusal::Overloaded | Refusal::ServerOverloaded) {
            response.headers_mut().append(Name::RetryAfter, RETRY_AFTER_SECONDS);
        }
        self.stats.registration(refusal.name(), now.since(procedure.started));
        tracing::info!(
            procedure = "registration",
            status,
            cause = refusal.name(),
            detail = ?refusal,
            private_identity = %self.logged(&procedure.uar.user_name),
            public_identity = %self.logged(&procedure.uar.public_identity),
            tried = ?procedure.tried,
            took_ms = now.since(procedure.started).as_millis() as u64,
            "refused"
        );
        self.sip.respond(now, incoming, response, out);
    }

    /// A branch whose wait is of another procedure: the dispatch in `on_reply` rules it out.
    pub(crate) fn misdelivered(
        &mut self,
        now: Now,
        branch: Branch<OnReply>,
        out: &mut Vec<Output>,
    ) {
        debug_assert!(false, "dispatch by the variant of the wait");
        let Branch { incoming, .. } = branch;
        if let Some(incoming) = incoming {
            let response = incoming.request().response(500, "Server Internal Error");
            self.sip.respond(now, incoming, response, out);
        }
    }
}

/// The request and the wait of a branch that has ended.
fn taken(branch: Branch<OnReply>) -> Option<(Incoming, Forwarded)> {
    let Branch { incoming, wait, .. } = branch;
    match (incoming, wait) {
        (Some(incoming), OnReply::RegisterAnswered(wait)) => Some((incoming, *wait)),
        _ => None,
    }
}

/// DEVIATES: TS 24.229 §5.3.1.3 has 403 also where it is an SLF that is silent, because a UE that is forbidden
/// does not come again, and an SLF does.
pub(crate) fn no_answer_refusal(no_answer: NoAnswer) -> Refusal {
    match no_answer {
        NoAnswer::Overloaded => Refusal::Overloaded,
        other => Refusal::HssSilent(other),
    }
}

/// TS 24.229 §5.3.1.2, §5.3.1.3: 403 where the HSS decided against the user, 480 where it failed.
fn outcome_refusal(outcome: Outcome) -> Refusal {
    match outcome {
        Outcome::USER_UNKNOWN
        | Outcome::IDENTITIES_DONT_MATCH
        | Outcome::IDENTITY_NOT_REGISTERED
        | Outcome::ROAMING_NOT_ALLOWED
        | Outcome::AUTHORIZATION_REJECTED => Refusal::NotAllowed(outcome),
        Outcome::Base(result_code::REDIRECT_INDICATION) => Refusal::NoHss,
        _ => Refusal::HssFailed(outcome),
    }
}

/// TS 24.229 §5.3.1.2: the username, or what To says when there are no credentials.
fn private_identity(
    credentials: Option<&DigestParameters>,
    to: &Uri,
    home_domain: &str,
) -> Result<String, Refusal> {
    if let Some(credentials) = credentials {
        let username = credentials.get("username").filter(|username| !username.is_empty());
        return username.map(str::to_owned).ok_or(Refusal::Malformed("username"));
    }
    let public_identity = to.public_identity();
    match (to.scheme, public_identity.as_str().split_once(':')) {
        (Scheme::Sip | Scheme::Sips, Some((_, rest))) => Ok(rest.to_owned()),
        (Scheme::Tel, Some((_, number))) => Ok(format!("{number}@{home_domain}")),
        _ => Err(Refusal::Malformed("To")),
    }
}

/// What the Contact headers ask for.
struct Wishes {
    is_deregistration: bool,
    is_emergency: bool,
}

impl Wishes {
    fn read(headers: &Headers) -> Result<Wishes, Refusal> {
        let expires = headers.get(Name::Expires).and_then(|text| text.trim().parse::<u32>().ok());
        let mut wishes = Wishes { is_deregistration: false, is_emergency: false };
        for (index, value) in headers.values(Name::Contact).enumerate() {
            let contact = Contact::parse(value).map_err(|_| Refusal::Malformed("Contact"))?;
            let is_zero = match contact {
                Contact::Star => expires == Some(0),
                Contact::Address(address) => {
                    wishes.is_emergency |= address.uri.parameter("sos").is_some();
                    address.expires_seconds().or(expires) == Some(0)
                }
            };
            wishes.is_deregistration = is_zero && (index == 0 || wishes.is_deregistration);
        }
        Ok(wishes)
    }

    fn authorization_type(&self) -> UserAuthorizationType {
        match self.is_deregistration {
            true => UserAuthorizationType::DeRegistration,
            false => UserAuthorizationType::Registration,
        }
    }
}
