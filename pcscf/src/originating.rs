//! Requests of UEs on their way to the home network (TS 24.229 §5.2.6.3).
//!
//! 1. `originate`          check, assert the identity, choose the route
//! 2. `originate_located`  the next hop is known: forward
//! 3. `originate_answered` keep what the dialog needs, pass the answer on

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use common::node::{Flow, Now, Output};
use common::reginfo::is_reg_event;
use common::restoration;
use common::sip::address::{Address, delta_seconds};
use common::sip::endpoint::{Branch, Incoming, NoReply, Segment, Target};
use common::sip::header::Name;
use common::sip::locate::Hop;
use common::sip::locator::Located;
use common::sip::message::{Headers, Request, Response};
use common::sip::p_headers::ChargingVector;
use common::sip::uri::Uri;

use crate::config::RouteMismatch;
use crate::dialogs::Dialog;
use crate::identity_headers::{strip_from_ue, strip_towards_ue};
use crate::registrations::Owner;
use crate::session::Refused;
use crate::{OnPlace, OnReply, Pcscf, path};

/// How long a dialog is remembered whose end nobody has named.
const DIALOG_LIFE: Duration = Duration::from_secs(600_000);

/// A request on its way, as the home network gets it.
#[derive(Debug)]
pub struct Originating {
    owner: Owner,
    request: Request,
    /// What stands behind us in Route.
    routes: Vec<String>,
    is_in_dialog: bool,
    /// As in [`Dialog`].
    is_own_registration: bool,
    deadline: Now,
    untried: VecDeque<Hop>,
}

impl Pcscf {
    /// TS 24.229 §5.2.6.3.3 (a new dialog), §5.2.6.3.7 (within one).
    pub(crate) fn originate(
        &mut self,
        now: Now,
        incoming: Incoming,
        owner: Owner,
        out: &mut Vec<Output>,
    ) {
        let icid = format!("{}{}", self.random.token(), self.random.token());
        let originating = match self.to_home(now, incoming.request(), owner, icid) {
            Ok(originating) => originating,
            Err(refused) => return self.session_refuse(now, incoming, refused, out),
        };
        let next_hop = match originating.routes.first() {
            Some(route) => uri_of(route),
            None => originating.request.uri().to_owned(),
        };
        let wait = OnPlace::OriginateLocated(incoming, Box::new(originating));
        if let Some((wait, place)) = self.locator.locate(now, &next_hop, wait, out) {
            self.on_place(now, wait, place, out);
        }
    }

    fn to_home(
        &self,
        now: Now,
        request: &Request,
        owner: Owner,
        icid: String,
    ) -> Result<Originating, Refused> {
        let headers = request.headers();
        if !headers.values(Name::ProxyRequire).all(|tag| tag.eq_ignore_ascii_case("sec-agree")) {
            return Err((420, "Bad Extension", "bad_extension"));
        }
        let Some(registration) = self.registrations.get_or_leaving(&owner) else {
            return Err((403, "Not Registered", "not_registered"));
        };
        let asked = self.routes_behind_us(headers)?;
        let is_in_dialog = request.to_tag().is_some();
        let (due, is_own_registration) = match request.to_tag() {
            None => {
                let is_own = is_reg_event(headers) && registration.holds(request.uri());
                (registration.service_route.clone(), is_own)
            }
            Some(other_tag) => {
                let ue_tag = request.from_tag().unwrap_or("");
                let dialog = self.dialogs.get(&owner, request.call_id(), ue_tag);
                let dialog = dialog.filter(|dialog| dialog.other_tag == other_tag);
                let unknown = (481, "Call/Transaction Does Not Exist", "no_dialog");
                let dialog = dialog.ok_or(unknown)?;
                (dialog.routes.clone(), dialog.is_own_registration)
            }
        };
        // TS 24.229 §5.2.6.3.3: what the UE wants must be what the home network has given.
        if !is_same_route(&asked, &due) && self.config.gm.route_mismatch == RouteMismatch::Reject {
            return Err((400, "Route Is Not The Service-Route", "route_mismatch"));
        }
        let asserted = registration.asserted_identity(headers.get(Name::PPreferredIdentity));
        let asserted = asserted.ok_or((403, "No Identity That May Be Used", "no_identity"))?;
        let mut request = request.clone();
        let headers = request.headers_mut();
        strip_from_ue(headers);
        for name in
            [Name::PPreferredIdentity, Name::SecurityClient, Name::SecurityVerify, Name::Route]
        {
            headers.remove(name);
        }
        headers.remove_token(Name::Require, "sec-agree");
        headers.remove_token(Name::ProxyRequire, "sec-agree");
        due.iter().for_each(|route| headers.append(Name::Route, route));
        headers.append(Name::PAssertedIdentity, &asserted);
        headers.push_front(Name::RecordRoute, &self.record_route(registration.place));
        let vector = ChargingVector {
            icid_value: icid,
            orig_ioi: Some(self.orig_ioi()),
            term_ioi: None,
            others: Vec::new(),
        };
        headers.append(Name::PChargingVector, &vector.to_string());
        Ok(Originating {
            owner,
            request,
            routes: due,
            is_in_dialog,
            is_own_registration,
            deadline: now + Duration::from_secs(self.config.mw.register_seconds),
            untried: VecDeque::new(),
        })
    }

    /// RFC 3261 §16.4: Route without the entries that are ours.
    fn routes_behind_us(&self, headers: &Headers) -> Result<Vec<String>, Refused> {
        let mut routes = Vec::new();
        for text in headers.values(Name::Route) {
            let route = Address::parse(text).map_err(|_| (400, "Bad Route", "malformed"))?;
            if !(routes.is_empty() && self.is_own(&route.uri)) {
                routes.push(text.to_owned());
            }
        }
        Ok(routes)
    }

    /// Our entry of Record-Route towards the home network, for a UE at this place.
    fn record_route(&self, place: Option<SocketAddr>) -> String {
        format!("<sip:{}@{};lr>", path::record_route_user(place), self.mw_name())
    }

    fn is_own_record_route(&self, text: &str) -> bool {
        let uri = Uri::parse(&uri_of(text));
        uri.is_ok_and(|uri| self.is_own(&uri) && path::is_record_route(&uri))
    }

    pub(crate) fn orig_ioi(&self) -> String {
        let orig_ioi = self.config.orig_ioi.clone();
        orig_ioi.unwrap_or_else(|| format!("Type 1{}", self.config.visited_network))
    }

    pub(crate) fn originate_located(
        &mut self,
        now: Now,
        incoming: Incoming,
        mut wait: Originating,
        place: Located,
        out: &mut Vec<Output>,
    ) {
        match place {
            Ok(hops) => {
                wait.untried = hops;
                self.originate_forward(now, incoming, wait, out);
            }
            Err(reason) => {
                tracing::warn!(reason, "the next hop of a UE's request is not found");
                let refused = (504, "Next Hop Not Found", "not_located");
                self.originate_failed(now, incoming, &wait, refused, out);
            }
        }
    }

    fn originate_forward(
        &mut self,
        now: Now,
        incoming: Incoming,
        mut wait: Originating,
        out: &mut Vec<Output>,
    ) {
        let remaining = wait.deadline.since(now);
        while let Some(hop) = wait.untried.pop_front() {
            let Some(target) = self.target_in_core(hop) else { continue };
            if remaining.is_zero() {
                break;
            }
            let limit = remaining.min(Duration::from_secs(self.config.mw.attempt_seconds));
            let request = wait.request.clone();
            let wait = OnReply::OriginateAnswered(Box::new(wait));
            return self.sip.forward(now, incoming, request, target, wait, limit, out);
        }
        let refused = (504, "Next Hop Is Silent", "silence");
        self.originate_failed(now, incoming, &wait, refused, out);
    }

    /// TS 24.229 §5.2.6.3.2A, TS 23.380 §4.4.3: the S-CSCF of the UE is out of reach, and its next registration finds
    /// another. Within a dialog that helps nobody: the dialog is lost, and the UE makes another, whose first request
    /// is told.
    fn originate_failed(
        &mut self,
        now: Now,
        incoming: Incoming,
        wait: &Originating,
        refused: Refused,
        out: &mut Vec<Output>,
    ) {
        // One whose registration the home network is just ending is told that, and not to come back.
        let registration = self.registrations.get(&wait.owner);
        let place = registration.and_then(|registration| registration.place);
        let Some(place) = place.filter(|_| !wait.is_in_dialog) else {
            return self.session_refuse(now, incoming, refused, out);
        };
        let (_, reason, label) = refused;
        let own = format!("<{}>", self.path_uri(place));
        let response = restoration::register_anew(incoming.request(), &own, reason);
        self.session_refuse_with(now, incoming, response, label, out);
    }

    /// How a request gets to a hop of the home network.
    pub(crate) fn target_in_core(&self, hop: Hop) -> Option<Target> {
        let listen = &self.config.mw.listen;
        let own = listen.iter().copied().find(|own| own.is_ipv4() == hop.address.is_ipv4())?;
        Some(Target {
            flow: Flow { transport: hop.transport, local: own, remote: hop.address },
            tcp_local_port: 0,
            sent_by: self.mw_name(),
            segment: Segment::Core,
        })
    }

    /// TS 24.229 §5.2.6.3.4: Record-Route names the protected port to the UE, charging stays here.
    pub(crate) fn originate_answered(
        &mut self,
        now: Now,
        mut branch: Branch<OnReply>,
        wait: Originating,
        result: Result<Response, NoReply>,
        out: &mut Vec<Output>,
    ) {
        let Some(incoming) = branch.incoming.take() else { return };
        let mut response = match result {
            Ok(response) => response,
            Err(_) => return self.originate_forward(now, incoming, wait, out),
        };
        if response.is_success() {
            self.note_dialog(now, &incoming, &wait, &response);
        } else if wait.is_in_dialog && matches!(response.status(), 404 | 410 | 481) {
            self.dialogs.end(&wait.owner, incoming.request().call_id());
        }
        self.counters.count_other("from_ue");
        tracing::info!(
            procedure = "request of a UE",
            method = incoming.request().method_text(),
            ue = %wait.owner.ue,
            status = response.status(),
        );
        let headers = response.headers_mut();
        strip_towards_ue(headers);
        self.show_protected_port(headers, incoming.flow());
        headers.pop_value(Name::Via);
        self.respond(now, incoming, response, out);
    }

    fn note_dialog(
        &mut self,
        now: Now,
        incoming: &Incoming,
        wait: &Originating,
        response: &Response,
    ) {
        // Nothing ends the dialogs of a UE whose registration has gone while its request was under way.
        if self.registrations.get_or_leaving(&wait.owner).is_none() {
            return;
        }
        let request = incoming.request();
        let headers = response.headers();
        let to = headers.get(Name::To).and_then(|to| Address::parse(to).ok());
        let other_tag = to.and_then(|to| to.parameter("tag").map(str::to_owned));
        let Some(other_tag) = other_tag else { return };
        let span = headers.get(Name::Expires).and_then(|text| delta_seconds(text.trim()));
        let span = span.map_or(DIALOG_LIFE, |seconds| Duration::from_secs(u64::from(seconds)));
        if span.is_zero() {
            return self.dialogs.end(&wait.owner, request.call_id());
        }
        // RFC 3261 §12.1.2: the UE turns Record-Route round; what stands before us there is what
        // comes behind us.
        let recorded: Vec<String> = headers.values(Name::RecordRoute).map(str::to_owned).collect();
        let own = recorded.iter().position(|text| self.is_own_record_route(text));
        let mut routes: Vec<String> = recorded.iter().take(own.unwrap_or(0)).cloned().collect();
        routes.reverse();
        // §12.2: what was recorded when the dialog was made stands for all of it, and later answers need
        // not say it again.
        if wait.is_in_dialog {
            routes.clone_from(&wait.routes);
        }
        let dialog = Dialog {
            call_id: request.call_id().to_owned(),
            ue_tag: request.from_tag().unwrap_or("").to_owned(),
            other_tag,
            is_own_registration: wait.is_own_registration,
            routes,
            // A little longer than both sides count.
            ends: now + span + Duration::from_secs(128),
        };
        self.dialogs.note(now, wait.owner.clone(), dialog);
    }

    /// registration.md PO-5: towards the UE our Record-Route is where it speaks to.
    fn show_protected_port(&self, headers: &mut Headers, flow: Flow) {
        let recorded: Vec<String> = headers.values(Name::RecordRoute).map(str::to_owned).collect();
        if recorded.is_empty() {
            return;
        }
        headers.remove(Name::RecordRoute);
        let gm = format!("<sip:mo@{};lr>", host_port(flow.local));
        for text in recorded {
            let is_own = self.is_own_record_route(&text);
            headers.append(Name::RecordRoute, if is_own { &gm } else { &text });
        }
    }
}

/// Address and port as a URI has them.
pub(crate) fn host_port(address: SocketAddr) -> common::sip::uri::HostPort {
    common::sip::uri::HostPort {
        host: common::sip::uri::Host::Address(address.ip()),
        port: Some(address.port()),
    }
}

fn uri_of(route: &str) -> String {
    Address::parse(route).map_or_else(|_| route.to_owned(), |route| route.uri_text)
}

fn is_same_route(a: &[String], b: &[String]) -> bool {
    let is_same = |(a, b): (&String, &String)| match (Address::parse(a), Address::parse(b)) {
        (Ok(a), Ok(b)) => a.uri.is_equivalent(&b.uri),
        _ => a == b,
    };
    a.len() == b.len() && a.iter().zip(b).all(is_same)
}
