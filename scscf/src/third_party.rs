//! Third-party registration: application servers hear of registrations (TS 24.229 §5.4.1.7).
//!
//! 1. `notices_of`           whom the filter criteria name, and what each is to be told
//! 2. `tell_server`          behind what it is being told of the same identity: look for the server
//! 3. `server_located`       send the REGISTER
//! 4. `server_answered`      a server that fails may end the registration (default handling)
//!
//! One REGISTER at a time tells a server of an identity, so that the end does not come before the beginning.

use std::collections::VecDeque;

use bytes::Bytes;
use common::cx::user_data::{InitialFilterCriterion, PublicIdentity, ServiceProfile};
use common::identity::{Impi, Impu};
use common::node::{Now, Output};
use common::sip::endpoint::NoReply;
use common::sip::header::Name;
use common::sip::locate::Hop;
use common::sip::locator::Located;
use common::sip::message::{Request, Response};
use common::sip::p_headers::ChargingVector;
use common::turns::Turn;

use crate::filter_criteria::{RegistrationType, SessionCase, Subject};
use crate::state::{Registration, canonical};
use crate::{Job, OnPlace, OnReply, Scscf};

/// Content of the service information (TS 24.229 §7.6).
const SERVICE_INFO_TYPE: &str = common::restoration::CONTENT_TYPE;

/// What one application server is to be told.
#[derive(Clone, Debug)]
pub struct Notice {
    server: String,
    request: Request,
    public_identity: Impu,
    private_identity: Impi,
    /// The REGISTER whose registration ends when the server fails (SESSION_TERMINATED).
    ends: Option<Occurrence>,
    began: Now,
    /// Where it is now.
    hop: Option<Hop>,
    untried: VecDeque<Hop>,
}

/// Call-ID and CSeq of a REGISTER that was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Occurrence {
    pub call_id: String,
    pub cseq: u32,
}

/// The registration that servers are told of, as a REGISTER made it or something else ended it.
pub struct Occasion<'a> {
    pub registration: &'a Registration,
    /// The identity in To.
    pub public_identity: &'a Impu,
    pub kind: RegistrationType,
    /// The REGISTER and its 200, where there are any.
    pub exchange: Option<(&'a Request, &'a Response)>,
    /// 0: deregistered.
    pub expires_seconds: u64,
}

impl Scscf {
    /// TS 24.229 §5.4.1.7: one REGISTER for each server whose criteria the occasion meets.
    pub(crate) fn notices_of(&mut self, now: Now, occasion: &Occasion) -> Vec<Notice> {
        let Some((profile, served)) = served(occasion) else { return Vec::new() };
        let synthetic;
        let request = match occasion.exchange {
            Some((request, _)) => request,
            None => {
                synthetic = self.register_of_nobody(served, occasion.expires_seconds);
                &synthetic
            }
        };
        let subject = Subject {
            request,
            session_case: SessionCase::Originating,
            registration_type: Some(occasion.kind),
        };
        let criteria = self.own.shared_criteria.of(profile).into_iter();
        // ProfilePartIndicator UNREGISTERED is for users that are not.
        let met: Vec<InitialFilterCriterion> = criteria
            .filter(|one| one.registered_part != Some(false) && subject.meets(one))
            .cloned()
            .collect();
        let mut notices: Vec<Notice> = Vec::new();
        for criterion in met {
            if notices.iter().any(|notice| notice.server == criterion.server_name) {
                continue;
            }
            let request = self.third_party_register(occasion, served, &criterion);
            let is_required = criterion.default_handling_terminated
                && occasion.kind != RegistrationType::Deregistration;
            let made_by = occasion.exchange.filter(|_| is_required);
            notices.push(Notice {
                server: criterion.server_name,
                request,
                public_identity: canonical(served),
                private_identity: occasion.registration.private_identity.clone(),
                ends: made_by.map(|(request, _)| Occurrence {
                    call_id: request.call_id().to_owned(),
                    cseq: request.cseq(),
                }),
                began: now,
                hop: None,
                untried: VecDeque::new(),
            });
        }
        notices
    }

    /// TS 24.229 §5.4.1.5: what a deregistration by the network is held against the criteria as.
    fn register_of_nobody(&self, served: &PublicIdentity, expires_seconds: u64) -> Request {
        let mut request = Request::new("REGISTER", &format!("sip:{}", self.config.home_domain));
        let headers = request.headers_mut();
        headers.append(Name::From, &format!("<{}>", served.identity));
        headers.append(Name::To, &format!("<{}>", served.identity));
        headers.append(Name::Expires, &expires_seconds.to_string());
        request
    }

    fn third_party_register(
        &mut self,
        occasion: &Occasion,
        served: &PublicIdentity,
        criterion: &InitialFilterCriterion,
    ) -> Request {
        let mut request = Request::new("REGISTER", &criterion.server_name);
        let own = &self.own.server_name;
        let call_id = format!("{}@{}", self.random.token(), self.own.host);
        let headers = request.headers_mut();
        headers.append(Name::MaxForwards, "70");
        headers.append(Name::From, &format!("<{own}>;tag={}", self.random.token()));
        headers.append(Name::To, &format!("<{}>", served.identity));
        headers.append(Name::Contact, &format!("<{own}>"));
        headers.append(Name::Expires, &occasion.expires_seconds.to_string());
        headers.append(Name::CallId, &call_id);
        headers.append(Name::CSeq, "1 REGISTER");
        let received = occasion.exchange.map(|(request, _)| request.headers());
        if let Some(received) = received {
            headers.copy_from(received, Name::PAccessNetworkInfo);
            headers.copy_from(received, Name::PVisitedNetworkId);
        }
        let vector = received.and_then(|received| received.get(Name::PChargingVector));
        let icid = vector.and_then(ChargingVector::parse).map(|vector| vector.icid_value);
        let vector = ChargingVector {
            icid_value: icid.unwrap_or_else(|| self.random.token()),
            orig_ioi: Some(format!("Type 3{}", self.config.home_domain)),
            term_ioi: None,
            others: Vec::new(),
        };
        headers.append(Name::PChargingVector, &vector.to_string());
        if let Some(addresses) = crate::answer::charging_addresses(occasion.registration) {
            headers.append(Name::PChargingFunctionAddresses, &addresses);
        }
        let parts = parts(occasion, criterion);
        self.set_parts(&mut request, parts);
        request
    }

    /// RFC 2046 §5.1: one part is the body, several are a multipart/mixed.
    fn set_parts(&mut self, request: &mut Request, mut parts: Vec<(&'static str, Bytes)>) {
        if parts.len() < 2 {
            if let Some((content_type, body)) = parts.pop() {
                request.set_body(content_type, body);
            }
            return;
        }
        let boundary = self.random.token();
        let mut body = Vec::new();
        for (content_type, part) in parts {
            body.extend(
                format!("--{boundary}\r\nContent-Type: {content_type}\r\n\r\n").into_bytes(),
            );
            body.extend(part);
            body.extend(b"\r\n");
        }
        body.extend(format!("--{boundary}--\r\n").into_bytes());
        request.set_body(&format!("multipart/mixed;boundary=\"{boundary}\""), body.into());
    }

    pub(crate) fn tell_server(&mut self, now: Now, notice: Notice, out: &mut Vec<Output>) {
        match self.telling.take(&notice.line(), notice) {
            Turn::Now(notice) => self.tell_server_in_turn(now, notice, out),
            Turn::Later => {}
            // How things are in the end is what a server has to hear, of all that such a slow one may miss.
            Turn::Refused(notice) => {
                let line = notice.line();
                if let Some(dropped) = self.crowded.insert(line, notice) {
                    self.stats.third_party("dropped");
                    let server = dropped.server;
                    tracing::warn!(server, "an application server is told too slowly");
                }
            }
        }
    }

    fn tell_server_in_turn(&mut self, now: Now, mut notice: Notice, out: &mut Vec<Output>) {
        notice.began = now;
        let server = notice.server.clone();
        let wait = OnPlace::ServerLocated(Box::new(notice));
        if let Some((wait, place)) = self.locator.locate(now, &server, wait, out) {
            self.on_place(now, wait, place, out);
        }
    }

    pub(crate) fn server_located(
        &mut self,
        now: Now,
        mut notice: Notice,
        place: Located,
        out: &mut Vec<Output>,
    ) {
        match place {
            Ok(hops) => {
                notice.untried = hops;
                self.server_next(now, notice, out);
            }
            Err(reason) => {
                tracing::warn!(server = notice.server, reason, "application server not found");
                self.server_failed(now, notice, "not_located", out);
            }
        }
    }

    fn server_next(&mut self, now: Now, mut notice: Notice, out: &mut Vec<Output>) {
        let Some((hop, target, limit)) = self.next_try(now, notice.began, &mut notice.untried)
        else {
            return self.server_failed(now, notice, "silence", out);
        };
        notice.hop = Some(hop);
        let request = notice.request.clone();
        let wait = OnReply::ServerAnswered(Box::new(notice));
        self.sip.send(now, request, target, wait, limit, out);
    }

    /// TS 24.229 §5.4.1.7: 408, 5xx and silence are failures; any other answer changes nothing.
    pub(crate) fn server_answered(
        &mut self,
        now: Now,
        notice: Notice,
        result: Result<Response, NoReply>,
        out: &mut Vec<Output>,
    ) {
        match result {
            Ok(response) if response.is_success() => {
                self.stats.third_party("taken");
                self.server_told(now, &notice, out);
            }
            Ok(response) if response.status() == 503 && !notice.untried.is_empty() => {
                self.server_next(now, notice, out);
            }
            Ok(response) if matches!(response.status(), 408 | 500..600) => {
                tracing::warn!(
                    server = notice.server,
                    status = response.status(),
                    "application server fails"
                );
                self.server_failed(now, notice, "failed", out);
            }
            Ok(response) => {
                self.stats.third_party("refused");
                tracing::info!(server = notice.server, status = response.status(), "refused");
                self.server_told(now, &notice, out);
            }
            Err(_) => {
                if let Some(hop) = notice.hop {
                    self.locator.failed(now, hop);
                }
                self.server_next(now, notice, out);
            }
        }
    }

    /// TS 29.228 §B.2.2: SESSION_CONTINUED leaves the registration alone; with SESSION_TERMINATED
    /// the network deregisters the user at once (TS 24.229 §5.4.1.5): whoever is about to watch hears of it
    /// from what is remembered of the end.
    fn server_failed(
        &mut self,
        now: Now,
        notice: Notice,
        outcome: &'static str,
        out: &mut Vec<Output>,
    ) {
        self.stats.third_party(outcome);
        self.server_told(now, &notice, out);
        let Some(made_by) = notice.ends else { return };
        tracing::warn!(
            server = notice.server,
            private_identity = %self.logged(notice.private_identity.as_str()),
            "without this server there is no registration"
        );
        let job = Job::ServerFailed { made_by };
        if self.begin(now, &notice.private_identity, job, out).is_some() {
            // Its line is full: the user is at it, and every REGISTER tells the server again.
            self.stats.third_party("deregistration_dropped");
        }
    }

    /// The server has heard it, or never will: what waited behind it may go.
    fn server_told(&mut self, now: Now, notice: &Notice, out: &mut Vec<Output>) {
        let line = notice.line();
        let next = self.telling.done(&line);
        // There is room again behind what waited before it.
        if let Some(newest) = self.crowded.remove(&line) {
            self.tell_server(now, newest, out);
        }
        if let Some(next) = next {
            self.tell_server_in_turn(now, next, out);
        }
    }
}

impl Notice {
    /// What goes to a server about an identity goes in order.
    pub(crate) fn line(&self) -> (Impu, String) {
        (self.public_identity.clone(), self.server.clone())
    }
}

/// The identity that servers are told of, with its profile: the registered one, or where that is
/// barred the default one.
fn served<'a>(occasion: &Occasion<'a>) -> Option<(&'a ServiceProfile, &'a PublicIdentity)> {
    let profiles = || occasion.registration.service_profiles.iter();
    let all = || {
        profiles()
            .flat_map(|profile| profile.public_identities.iter().map(move |one| (profile, one)))
    };
    let is_it =
        |one: &PublicIdentity| !one.is_barred && canonical(one) == *occasion.public_identity;
    let registered = all().find(|(_, one)| is_it(one));
    registered
        .or_else(|| all().find(|(_, one)| !one.is_barred && matches!(one.identity_type, 0 | 3)))
}

/// TS 24.229 §5.4.1.7: what the criterion wants the server to see.
fn parts(occasion: &Occasion, criterion: &InitialFilterCriterion) -> Vec<(&'static str, Bytes)> {
    let mut parts = Vec::new();
    let is_deregistration = occasion.kind == RegistrationType::Deregistration;
    if let Some(info) = criterion.service_info.as_ref().filter(|_| !is_deregistration) {
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ims-3gpp version=\"1\">\
             <service-info>{}</service-info></ims-3gpp>\n",
            escaped(info)
        );
        parts.push((SERVICE_INFO_TYPE, Bytes::from(xml)));
    }
    if let Some((request, response)) = occasion.exchange {
        if criterion.include_register_request {
            parts.push(("message/sip", request.to_bytes()));
        }
        if criterion.include_register_response {
            parts.push(("message/sip", response.to_bytes()));
        }
    }
    parts
}

/// Text as it stands in XML.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut xml, character| {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            other => xml.push(other),
        }
        xml
    })
}
