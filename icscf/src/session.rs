//! Initial requests other than REGISTER at the I-CSCF (TS 24.229 §5.3.2).
//!
//! 1. `session`           ask the HSS where the user is
//! 2. `session_told`      take the S-CSCF it names, or choose one
//! 3. `session_located`   forward: Route added, Request-URI kept
//! 4. `session_answered`  pass the answer back, or try its next address, or another S-CSCF

use std::time::Duration;

use common::cx::{self, Answered, Lir, Outcome, ServerCapabilities};
use common::diameter::base::result_code;
use common::diameter::endpoint::NoAnswer;
use common::node::{Now, Output};
use common::reginfo::is_reg_event;
use common::sip::address::Address;
use common::sip::endpoint::{Branch, Incoming, NoReply};
use common::sip::header::Name;
use common::sip::locate::Hop;
use common::sip::locator::Located;
use common::sip::message::{Method, Request, Response};
use common::sip::uri::{Scheme, Uri};

use crate::location::{Hops, OnLocated};
use crate::stats::status_class;
use crate::{Icscf, OnAnswer, OnReply, RETRY_AFTER_SECONDS};

/// What one request carries through all its waits.
#[derive(Debug)]
pub struct Procedure {
    started: Now,
    /// Before this an S-CSCF must have been found that answers.
    deadline: Now,
    lir: Lir,
    capabilities: Option<ServerCapabilities>,
    tried: Vec<String>,
}

/// Waits for the LIA.
#[derive(Debug)]
pub struct Asking {
    incoming: Incoming,
    procedure: Procedure,
}

/// Waits for the addresses of the next hop.
#[derive(Debug)]
pub struct Locating {
    incoming: Incoming,
    procedure: Procedure,
    next: Next,
}

/// Waits for the next hop.
#[derive(Debug)]
pub struct Forwarded {
    procedure: Procedure,
    next: Next,
    hop: Hop,
    others: Hops,
}

/// Where the request goes.
#[derive(Clone, Debug)]
enum Next {
    /// An S-CSCF (or application server) found for the user.
    Server(String),
    /// The topmost Route that the request has already.
    Route(String),
}

impl Next {
    fn uri(&self) -> &str {
        match self {
            Next::Server(uri) | Next::Route(uri) => uri,
        }
    }
}

/// Why a request is refused here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A header that is needed cannot be read (RFC 3261 §21.4.1).
    Malformed(&'static str),
    /// Neither a user nor a domain of ours (RFC 3261 §21.4.5).
    ForeignDomain,
    /// In-dialog, and we are in no dialog: no Record-Route was added (RFC 3261 §12.2.2).
    NoDialog,
    /// The HSS knows no such identity (TS 24.229 §5.3.2.1).
    UserUnknown,
    /// The user is not registered and has no services for that (TS 24.229 §5.3.2.1).
    NotRegistered,
    /// The same, of a SUBSCRIBE that would watch the registration.
    NothingToWatch,
    /// The HSS could not do it (TS 24.229 §5.3.2.2).
    HssFailed(Outcome),
    /// The HSS gave no answer (TS 24.229 §5.3.2.2).
    HssSilent(NoAnswer),
    /// Too many questions are open (RFC 3261 §21.5.4).
    Overloaded,
    /// No S-CSCF has the mandatory capabilities (TS 24.229 §5.3.2.1).
    NoneCapable,
    /// S-CSCFs cannot be found or were silent, and no other is left (TS 24.229 §5.3.2.2).
    ServerSilent,
    /// The next hop is overloaded (RFC 3261 §16.7 step 6).
    ServerOverloaded,
}

impl Refusal {
    fn status(self) -> (u16, &'static str) {
        match self {
            Refusal::Malformed(_) => (400, "Bad Request"),
            Refusal::ForeignDomain | Refusal::UserUnknown => (404, "Not Found"),
            // TS 24.229 §5.3.2.1 has 404 or 480 for a user who is not registered: a watcher has to tell this
            // from an HSS that fails, because it learns of no end of a registration in another way.
            Refusal::NothingToWatch => (404, "Not Registered"),
            Refusal::NoDialog => (481, "Call/Transaction Does Not Exist"),
            Refusal::NotRegistered | Refusal::HssFailed(_) | Refusal::HssSilent(_) => {
                (480, "Temporarily Unavailable")
            }
            Refusal::Overloaded => (503, "Service Unavailable"),
            Refusal::NoneCapable => (600, "Busy Everywhere"),
            Refusal::ServerSilent => (504, "Server Time-out"),
            Refusal::ServerOverloaded => (500, "Server Internal Error"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::ForeignDomain => "foreign_domain",
            Refusal::NoDialog => "no_dialog",
            Refusal::UserUnknown => "user_unknown",
            Refusal::NotRegistered => "not_registered",
            Refusal::NothingToWatch => "nothing_to_watch",
            Refusal::HssFailed(_) => "hss_failed",
            Refusal::HssSilent(_) => "hss_silent",
            Refusal::Overloaded => "overloaded",
            Refusal::NoneCapable => "none_capable",
            Refusal::ServerSilent => "server_silent",
            Refusal::ServerOverloaded => "server_overloaded",
        }
    }
}

impl Icscf {
    /// TS 24.229 §5.3.2.1: the location query. A request that has a further Route needs none.
    pub(crate) fn session(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let mut procedure = Procedure {
            started: now,
            deadline: now + self.config.timeouts.procedure(),
            lir: Lir::default(),
            capabilities: None,
            tried: Vec::new(),
        };
        match self.session_read(incoming.request()) {
            Ok(Wanted::Ourselves) => self.session_ourselves(now, incoming, out),
            Ok(Wanted::Route(uri)) => {
                let wait = Locating { incoming, procedure, next: Next::Route(uri.clone()) };
                self.locate(now, &uri, OnLocated::Session(Box::new(wait)), out);
            }
            Ok(Wanted::User(lir)) => {
                procedure.lir = lir;
                self.session_ask(now, Asking { incoming, procedure }, out);
            }
            Err(refusal) => self.session_refuse(now, incoming, &procedure, refusal, out),
        }
    }

    fn session_read(&self, request: &Request) -> Result<Wanted, Refusal> {
        let headers = request.headers();
        let uri = Uri::parse(request.uri()).map_err(|_| Refusal::Malformed("Request-URI"))?;
        let mut is_originating = false;
        let mut routes = headers.values(Name::Route);
        let mut top = routes.next();
        if let Some(text) = top {
            let route = Address::parse(text).map_err(|_| Refusal::Malformed("Route"))?;
            if self.is_own(&route.uri) || self.is_home(&route.uri) {
                is_originating = route.uri.parameter("orig").is_some();
                top = routes.next();
            }
        }
        if let Some(text) = top {
            let route = Address::parse(text).map_err(|_| Refusal::Malformed("Route"))?;
            return Ok(Wanted::Route(route.uri_text));
        }
        if uri.user.is_none() && request.method() == Method::Options && self.is_served(&uri) {
            return Ok(Wanted::Ourselves);
        }
        if request.to_tag().is_some() {
            return Err(Refusal::NoDialog);
        }
        let public_identity = match is_originating {
            true => served_user(request)?,
            false => self.called_user(&uri)?,
        };
        Ok(Wanted::User(Lir { public_identity, is_originating, wants_capabilities: false }))
    }

    /// TS 24.229 §5.3.2.1: a SIP URI that stands for a telephone number is asked for as one.
    fn called_user(&self, uri: &Uri) -> Result<String, Refusal> {
        let user = uri.user.as_deref().unwrap_or("");
        let is_phone = uri.parameter("user").is_some_and(|kind| kind.eq_ignore_ascii_case("phone"));
        match uri.scheme {
            Scheme::Sip | Scheme::Sips if is_phone && user.starts_with('+') => {
                let number = user.split(';').next().unwrap_or(user);
                let tel = Uri::parse(&format!("tel:{number}"));
                let tel = tel.map_err(|_| Refusal::Malformed("Request-URI"))?;
                Ok(tel.public_identity().as_str().to_owned())
            }
            Scheme::Sip | Scheme::Sips if self.is_served(uri) => {
                Ok(uri.public_identity().as_str().to_owned())
            }
            Scheme::Tel => Ok(uri.public_identity().as_str().to_owned()),
            _ => Err(Refusal::ForeignDomain),
        }
    }

    fn is_served(&self, uri: &Uri) -> bool {
        self.is_home(uri) || self.is_own(uri)
    }

    /// RFC 3261 §11.2: what this node can do.
    fn session_ourselves(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let mut response = incoming.request().response(200, "OK");
        response.headers_mut().append(Name::Supported, "path");
        self.stats.session("options", Duration::ZERO);
        self.sip.respond(now, incoming, response, out);
    }

    fn session_ask(&mut self, now: Now, wait: Asking, out: &mut Vec<Output>) {
        let request = cx::Request::Lir(wait.procedure.lir.clone());
        let limit = self.config.timeouts.hss().min(wait.procedure.deadline.since(now));
        let wait = OnAnswer::SessionTold(Box::new(wait));
        self.cx.ask(now, request, None, wait, limit, out);
    }

    /// TS 24.229 §5.3.2.1: the S-CSCF that serves the user, or one that could.
    pub(crate) fn session_told(
        &mut self,
        now: Now,
        wait: Asking,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let Asking { incoming, mut procedure } = wait;
        let refusal = match result {
            Ok(Answered { answer: cx::Answer::Lia(lia), .. }) if lia.outcome.is_success() => {
                // As for a REGISTER: not one that has just failed, whoever names it once more.
                let server_name = lia.server_name.filter(|one| !procedure.tried.contains(one));
                if let Some(server) = server_name {
                    return self.session_try(now, incoming, procedure, server, out);
                }
                procedure.capabilities = Some(lia.server_capabilities.unwrap_or_default());
                return self.session_choose(now, incoming, procedure, out);
            }
            Ok(Answered { answer: cx::Answer::Lia(lia), .. }) => match lia.outcome {
                Outcome::USER_UNKNOWN => Refusal::UserUnknown,
                Outcome::IDENTITY_NOT_REGISTERED if is_watching(incoming.request()) => {
                    Refusal::NothingToWatch
                }
                Outcome::IDENTITY_NOT_REGISTERED => Refusal::NotRegistered,
                // TS 23.228 §5.15.2: an SLF that names no HSS knows no such user. A watcher would take that for the
                // end of a registration, which an SLF that is badly configured must not be.
                Outcome::Base(result_code::REDIRECT_INDICATION)
                    if !is_watching(incoming.request()) =>
                {
                    Refusal::UserUnknown
                }
                other => Refusal::HssFailed(other),
            },
            Ok(_) => Refusal::HssSilent(NoAnswer::Malformed),
            Err(NoAnswer::Overloaded) => Refusal::Overloaded,
            Err(no_answer) => Refusal::HssSilent(no_answer),
        };
        self.session_refuse(now, incoming, &procedure, refusal, out);
    }

    fn session_choose(
        &mut self,
        now: Now,
        incoming: Incoming,
        procedure: Procedure,
        out: &mut Vec<Output>,
    ) {
        let any = ServerCapabilities::default();
        let wanted = procedure.capabilities.as_ref().unwrap_or(&any);
        match self.selection.choose(now, wanted, &procedure.tried, &mut self.random) {
            Some(server) => self.session_try(now, incoming, procedure, server, out),
            None => {
                let refusal = match procedure.tried.is_empty() {
                    true => Refusal::NoneCapable,
                    false => Refusal::ServerSilent,
                };
                self.session_refuse(now, incoming, &procedure, refusal, out);
            }
        }
    }

    fn session_try(
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
        let wait = Locating { incoming, procedure, next: Next::Server(server.clone()) };
        self.locate(now, &server, OnLocated::Session(Box::new(wait)), out);
    }

    pub(crate) fn session_located(
        &mut self,
        now: Now,
        wait: Locating,
        found: Located,
        out: &mut Vec<Output>,
    ) {
        let Locating { incoming, procedure, next } = wait;
        match found {
            Ok(hops) => self.session_forward(now, incoming, procedure, next, hops, out),
            Err(reason) => {
                tracing::warn!(server = next.uri(), reason, "next hop cannot be found");
                self.session_failed(now, incoming, procedure, next, out);
            }
        }
    }

    /// TS 24.229 §5.3.2.1: the S-CSCF becomes the topmost Route, the Request-URI is kept, and no
    /// Record-Route is added.
    fn session_forward(
        &mut self,
        now: Now,
        incoming: Incoming,
        procedure: Procedure,
        next: Next,
        mut hops: Hops,
        out: &mut Vec<Output>,
    ) {
        let target = loop {
            let Some(hop) = hops.pop_front() else {
                return self.session_failed(now, incoming, procedure, next, out);
            };
            if let Some(target) = self.target(hop) {
                break (hop, target);
            }
        };
        let (hop, target) = target;
        let mut request = incoming.request().clone();
        if self.has_own_route(&request) {
            request.headers_mut().pop_value(Name::Route);
        }
        if let Next::Server(server) = &next {
            let orig = if procedure.lir.is_originating { ";orig" } else { "" };
            request.headers_mut().push_front(Name::Route, &format!("<{server};lr{orig}>"));
        }
        let limit = match request.method() {
            Method::Invite => self.config.timeouts.invite(),
            _ => self.config.timeouts.scscf(),
        };
        let wait = Forwarded { procedure, next, hop, others: hops };
        let wait = OnReply::SessionAnswered(Box::new(wait));
        self.sip.forward(now, incoming, request, target, wait, limit, out);
    }

    fn has_own_route(&self, request: &Request) -> bool {
        let top = request.headers().values(Name::Route).next();
        let top = top.and_then(|text| Address::parse(text).ok());
        top.is_some_and(|route| self.is_own(&route.uri) || self.is_home(&route.uri))
    }

    /// TS 24.229 §5.3.2.1, §5.3.2.2: answers go back unchanged; after silence another S-CSCF.
    pub(crate) fn session_answered(
        &mut self,
        now: Now,
        branch: Branch<OnReply>,
        result: Result<Response, NoReply>,
        out: &mut Vec<Output>,
    ) {
        let OnReply::SessionAnswered(wait) = &branch.wait else {
            return self.misdelivered(now, branch, out);
        };
        match result {
            Ok(response) if response.status() != 503 => {
                self.selection.alive(wait.next.uri());
                self.session_relay(now, branch, response, out);
            }
            other => {
                let hop = wait.hop;
                let Branch {
                    incoming: Some(incoming), wait: OnReply::SessionAnswered(wait), ..
                } = branch
                else {
                    return;
                };
                let Forwarded { procedure, next, others, .. } = *wait;
                if other.is_err() {
                    self.stats.silent_servers += 1;
                    self.locator.failed(now, hop);
                }
                if !others.is_empty() && now < procedure.deadline {
                    return self.session_forward(now, incoming, procedure, next, others, out);
                }
                if other.is_ok() {
                    let refusal = Refusal::ServerOverloaded;
                    return self.session_refuse(now, incoming, &procedure, refusal, out);
                }
                self.selection.silent(now, next.uri(), self.config.timeouts.suspect_for());
                self.session_failed(now, incoming, procedure, next, out);
            }
        }
    }

    /// TS 24.229 §5.3.2.2: capabilities are asked for where not known, then another S-CSCF.
    fn session_failed(
        &mut self,
        now: Now,
        incoming: Incoming,
        mut procedure: Procedure,
        next: Next,
        out: &mut Vec<Output>,
    ) {
        let Next::Server(server) = next else {
            return self.session_refuse(now, incoming, &procedure, Refusal::ServerSilent, out);
        };
        procedure.tried.push(server);
        if procedure.deadline <= now {
            return self.session_refuse(now, incoming, &procedure, Refusal::ServerSilent, out);
        }
        if procedure.capabilities.is_some() {
            return self.session_choose(now, incoming, procedure, out);
        }
        procedure.lir.wants_capabilities = true;
        self.session_ask(now, Asking { incoming, procedure }, out);
    }

    fn session_relay(
        &mut self,
        now: Now,
        branch: Branch<OnReply>,
        response: Response,
        out: &mut Vec<Output>,
    ) {
        let status = response.status();
        if let OnReply::SessionAnswered(wait) = &branch.wait {
            let took = now.since(wait.procedure.started);
            self.stats.session(status_class(status), took);
            tracing::info!(
                procedure = "session",
                status,
                public_identity = %self.logged(&wait.procedure.lir.public_identity),
                server = wait.next.uri(),
                took_ms = took.as_millis() as u64,
                "answered"
            );
        }
        self.sip.relay(now, branch, response, out);
    }

    /// The one exit for refusals.
    fn session_refuse(
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
        let took = now.since(procedure.started);
        self.stats.session(refusal.name(), took);
        tracing::info!(
            procedure = "session",
            status,
            cause = refusal.name(),
            detail = ?refusal,
            method = incoming.request().method_text(),
            public_identity = %self.logged(&procedure.lir.public_identity),
            tried = ?procedure.tried,
            took_ms = took.as_millis() as u64,
            "refused"
        );
        self.sip.respond(now, incoming, response, out);
    }
}

fn is_watching(request: &Request) -> bool {
    request.method() == Method::Subscribe && is_reg_event(request.headers())
}

/// Whom a request is for.
enum Wanted {
    Ourselves,
    /// The URI of the topmost Route that is not ours.
    Route(String),
    User(Lir),
}

/// TS 24.229 §5.3.2.1: in the originating case the user is the one who asks: P-Served-User, or
/// P-Asserted-Identity.
fn served_user(request: &Request) -> Result<String, Refusal> {
    let headers = request.headers();
    let text = headers.get_other("P-Served-User");
    let text = text.or_else(|| headers.values(Name::PAssertedIdentity).next());
    let address = text.and_then(|text| Address::parse(text).ok());
    let address = address.ok_or(Refusal::Malformed("P-Asserted-Identity"))?;
    Ok(address.uri.public_identity().as_str().to_owned())
}
