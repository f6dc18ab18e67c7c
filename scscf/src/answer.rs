//! The 200 to a REGISTER (TS 24.229 §5.4.1.2.2F, RFC 3261 §10.3 step 8).

use common::node::Now;
use common::sip::header::Name;
use common::sip::message::Response;
use common::sip::p_headers::ChargingVector;

use crate::Scscf;
use crate::register::Registering;
use crate::state::Registration;

impl Scscf {
    /// TS 24.229 §5.4.1.2.2F: all bindings of the identity with what is left of each, and to a user
    /// that is registered Path, Service-Route and P-Associated-URI.
    pub(crate) fn success(&self, now: Now, job: &Registering) -> Response {
        let request = job.incoming.request();
        let mut response = request.response(200, "OK");
        // An application server may get it as it is here (TS 24.229 §5.4.1.7).
        job.incoming.add_to_tag(&mut response);
        let takes_gruus = crate::gruu::asks(request.headers());
        let headers = response.headers_mut();
        for sharer in self.registrations.sharers(&job.public_identity) {
            let Some(shared) = self.registrations.find(sharer, &job.public_identity) else {
                continue;
            };
            for binding in shared.bindings.iter().filter(|binding| !binding.has_expired(now)) {
                let expires = binding.expires_seconds(now);
                let mut contact = format!("{};expires={expires}", binding.contact);
                // RFC 5627 §5.2
                let gruus = self.gruus(job.public_identity.as_str(), binding);
                if let Some((public, temporary)) = gruus.filter(|_| takes_gruus) {
                    contact.push_str(&format!(";pub-gruu=\"{public}\";temp-gruu=\"{temporary}\""));
                }
                headers.append(Name::Contact, &contact);
            }
        }
        let own = self.registrations.find(&job.private_identity, &job.public_identity);
        let is_registered = own.is_some_and(|own| !own.bindings.is_empty());
        if let Some(own) = own.filter(|_| is_registered && !job.contacts.is_deregistration()) {
            headers.copy_from(request.headers(), Name::Path);
            headers.append(Name::ServiceRoute, &self.own.service_route);
            let associated = associated_uris(own);
            if !associated.is_empty() {
                headers.append(Name::PAssociatedUri, &associated);
            }
            if job.contacts.has_flows() {
                headers.append(Name::Require, "outbound");
            }
            if let Some(addresses) = self.charging_function_addresses(job, own) {
                headers.append(Name::PChargingFunctionAddresses, &addresses);
            }
        }
        if let Some(info) = &job.authentication_info {
            headers.append(Name::AuthenticationInfo, info);
        }
        self.add_charging_vector(job, &mut response);
        response
    }

    /// TS 24.229 §5.4.1.2.2F: the icid and orig-ioi of the request, and who answered it.
    pub(crate) fn add_charging_vector(&self, job: &Registering, response: &mut Response) {
        let received = job.incoming.request().headers().get(Name::PChargingVector);
        let Some(mut vector) = received.and_then(ChargingVector::parse) else { return };
        vector.term_ioi = Some(format!("Type 1{}", self.config.home_domain));
        response.headers_mut().append(Name::PChargingVector, &vector.to_string());
    }

    /// RFC 7315 §5.5: told to a P-CSCF of the home network only.
    fn charging_function_addresses(&self, job: &Registering, own: &Registration) -> Option<String> {
        if !job.visited_network.eq_ignore_ascii_case(&self.config.home_domain) {
            return None;
        }
        charging_addresses(own)
    }
}

/// RFC 7315 §5.5
pub fn charging_addresses(registration: &Registration) -> Option<String> {
    let named = |name: &'static str, functions: &[String]| {
        functions.iter().map(|function| format!("{name}=\"{function}\"")).collect::<Vec<_>>()
    };
    let mut addresses = named("ccf", &registration.charging.collection_functions);
    addresses.extend(named("ecf", &registration.charging.event_functions));
    (!addresses.is_empty()).then(|| addresses.join(";"))
}

/// TS 24.229 §5.4.1.2.2F: the distinct identities of the set that are not barred, in the order of
/// the profile, so that the first is the default one. Wildcards are not listed.
fn associated_uris(registration: &Registration) -> String {
    let usable = registration
        .identities()
        .filter(|identity| !identity.is_barred && matches!(identity.identity_type, 0 | 3));
    let mut listed: Vec<String> = Vec::new();
    for identity in usable {
        let uri = format!("<{}>", identity.identity);
        if !listed.contains(&uri) {
            listed.push(uri);
        }
    }
    listed.join(", ")
}
