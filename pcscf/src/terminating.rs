//! Requests of the home network on their way to a UE (TS 24.229 §5.2.6.4).
//!
//! 1. `terminate`           whose contact it is; on the set in use
//! 2. `terminate_answered`  the UE's answer, without what it has no say in

use std::net::SocketAddr;

use common::node::{Flow, Now, Output, Transport};
use common::sip::address::Address;
use common::sip::endpoint::{Branch, Incoming, NoReply, Segment, Target};
use common::sip::header::Name;
use common::sip::message::{Request, Response};
use common::sip::uri::Uri;

use crate::identity_headers::{strip_from_ue, strip_towards_ue};
use crate::originating::host_port;
use crate::security::Set;
use crate::{OnReply, Pcscf, path};

impl Pcscf {
    /// TS 24.229 §5.2.6.4: from port_pc to port_us; Via names the protected server port, or the
    /// phone would answer outside the associations.
    pub(crate) fn terminate(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let request = incoming.request();
        let top = request.headers().values(Name::Route).next();
        let top = top.and_then(|text| Address::parse(text).ok());
        let Some(route) = top.filter(|route| self.is_own(&route.uri)) else {
            let refused = (403, "Not For A UE Of Ours", "not_for_us");
            return self.session_refuse(now, incoming, refused, out);
        };
        let transport = transport_of(request.uri());
        let target = match path::place_in(&route.uri) {
            Some(place) => self.target_at(place, request, transport),
            None => self.target_of_ue(path::recorded_place(&route.uri), request, transport),
        };
        let Some(target) = target else {
            // RFC 5626 §5.3: so that the registrar tries another flow.
            let refused = match route.uri.parameter("ob") {
                Some(_) => (430, "Flow Failed", "flow_failed"),
                None => (480, "Temporarily Unavailable", "no_contact"),
            };
            return self.session_refuse(now, incoming, refused, out);
        };
        let mut request = request.clone();
        let headers = request.headers_mut();
        headers.remove(Name::Route);
        strip_towards_ue(headers);
        let overheard = self.overheard(&request);
        // 64 × T1 on Gm.
        let patience = self.config.gm.old_set_life();
        let wait = OnReply::TerminateAnswered;
        self.sip.forward(now, incoming, request, target, wait, patience, out);
        if let Some((owner, info)) = overheard {
            self.apply(now, &owner, &info);
        }
    }

    /// The UE of the dialog, whatever its Contact says: on its associations, or where it registered in clear,
    /// which behind a NAT is the place that it spoke from. A dialog of before our start is known by its Record-Route
    /// alone. Or else the registered contact that a Request-URI names.
    fn target_of_ue(
        &self,
        recorded: Option<SocketAddr>,
        request: &Request,
        transport: Transport,
    ) -> Option<Target> {
        let of_dialog = self.dialogs.of(request).and_then(|(owner, _)| {
            if let Some(set) = self.security.set_to_use(owner) {
                return Some(target_on(set, transport));
            }
            let place = self.registrations.get_or_leaving(owner)?.place?;
            self.target_in_clear(place, request, transport)
        });
        let at_recorded = || self.target_at(recorded?, request, transport);
        let at_contact = || {
            let place = path::place_of(&Uri::parse(request.uri()).ok()?)?;
            self.target_at(place, request, transport)
        };
        of_dialog.or_else(at_recorded).or_else(at_contact)
    }

    /// The UE at that place.
    fn target_at(
        &self,
        place: SocketAddr,
        request: &Request,
        transport: Transport,
    ) -> Option<Target> {
        let set = self.security.set_towards(place);
        let in_clear = || self.target_in_clear(place, request, transport);
        set.map(|set| target_on(set, transport)).or_else(in_clear)
    }

    /// Registered there without associations; or was, and is told of its end in a dialog that it has made.
    fn target_in_clear(
        &self,
        ue: SocketAddr,
        request: &Request,
        transport: Transport,
    ) -> Option<Target> {
        let has_dialog = self.dialogs.of(request).is_some_and(|(owner, _)| {
            owner.ue == ue.ip() && self.security.sets_of(owner).is_empty()
        });
        let mut of_place = self.in_clear(ue).into_iter();
        let is_registered = of_place.any(|owner| self.registrations.get(owner).is_some());
        if !is_registered && !has_dialog {
            return None;
        }
        let own = self.config.gm.addresses.iter().find(|own| own.is_ipv4() == ue.is_ipv4())?;
        let listen = SocketAddr::new(*own, self.config.gm.port);
        let local = match transport {
            Transport::Udp => listen,
            Transport::Tcp => SocketAddr::new(*own, 0),
        };
        Some(Target {
            flow: Flow { transport, local, remote: ue },
            tcp_local_port: 0,
            sent_by: host_port(listen),
            segment: Segment::Gm,
        })
    }

    /// TS 24.229 §5.2.6.4.4: silence of the UE is 408; it is registered all the same until its time
    /// is over.
    pub(crate) fn terminate_answered(
        &mut self,
        now: Now,
        mut branch: Branch<OnReply>,
        result: Result<Response, NoReply>,
        out: &mut Vec<Output>,
    ) {
        let Some(incoming) = branch.incoming.take() else { return };
        let mut response = match result {
            Ok(response) => response,
            Err(NoReply::Timeout) => {
                let refused = (408, "UE Is Silent", "ue_silent");
                return self.session_refuse(now, incoming, refused, out);
            }
            Err(NoReply::Unreachable) => {
                let refused = (480, "UE Is Unreachable", "ue_unreachable");
                return self.session_refuse(now, incoming, refused, out);
            }
        };
        self.counters.count_other("to_ue");
        let headers = response.headers_mut();
        strip_from_ue(headers);
        headers.remove(Name::PPreferredIdentity);
        headers.pop_value(Name::Via);
        self.respond(now, incoming, response, out);
    }
}

/// RFC 3261 §18.1.1, RFC 3263 §4.1: by TCP where the contact asks for it; the endpoint does so too with what
/// is too long for a datagram.
fn transport_of(contact: &str) -> Transport {
    let asks =
        |uri: Uri| uri.parameter("transport").is_some_and(|it| it.eq_ignore_ascii_case("tcp"));
    if Uri::parse(contact).is_ok_and(asks) { Transport::Tcp } else { Transport::Udp }
}

/// From port_pc to port_us; over TCP from port_pc too.
fn target_on(set: &Set, transport: Transport) -> Target {
    Target {
        flow: Flow { transport, ..set.flow_to_ue() },
        tcp_local_port: set.ports.pc,
        sent_by: host_port(SocketAddr::new(set.pcscf, set.ports.ps)),
        segment: Segment::Gm,
    }
}
