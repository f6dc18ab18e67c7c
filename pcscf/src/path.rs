//! Path and Record-Route: where requests for a UE come back to (TS 24.229 §5.2.2.1, §5.2.6.3.3, RFC 3327,
//! RFC 5626 §5), this P-CSCF as their edge proxy.
//!
//! What leads to one UE is its address and, inside security associations, its protected server port. Path names
//! that in a token, and a request that comes by the token goes there, whatever the phone wrote in Contact: some
//! write an address of their other interface, a name, or nothing that can be reached. Where the UE registers a
//! flow, `ob` stands beside it, so that the registrar takes more than one for an instance; what comes by a flow
//! goes to that UE and to no other, or is 430. Record-Route names it too, so that a dialog finds its UE also where
//! this P-CSCF has been started anew and knows the dialog no more.
//!
//! The token is no secret. Whoever writes one could have written the Contact, and either leads only to who is
//! registered here: what RFC 5626 §5.1 guards against with a key cannot come about.

use std::net::{IpAddr, SocketAddr};

use common::sip::address::Contact;
use common::sip::header::Name;
use common::sip::message::Headers;
use common::sip::uri::{Host, Uri};

/// Marks the user part of a Path that names a UE.
const PATH: &str = "term.";
/// Marks that of a Record-Route.
const RECORD_ROUTE: &str = "mo";

/// The UE registers a flow: `reg-id` and an instance in Contact, and `outbound` in Supported (RFC 5626 §4.2.1).
/// Path has `ob` then (§5.1).
pub fn is_flow(headers: &Headers) -> bool {
    let is_named = |text| match Contact::parse(text) {
        Ok(Contact::Address(address)) => {
            let has = |name| address.parameter(name).is_some();
            has("reg-id") && has("+sip.instance")
        }
        _ => false,
    };
    headers.has_token(Name::Supported, "outbound") && headers.values(Name::Contact).any(is_named)
}

/// Where a phone without associations is to be asked: at the port of its Contact, where that names the
/// address that it speaks from, or else where it speaks from.
pub fn place_in_clear(headers: &Headers, source: SocketAddr) -> SocketAddr {
    let places = headers.values(Name::Contact).filter_map(|text| match Contact::parse(text) {
        Ok(Contact::Address(address)) => place_of(&address.uri),
        _ => None,
    });
    places.into_iter().find(|place| place.ip() == source.ip()).unwrap_or(source)
}

/// The user part of Path that leads to the UE at this place.
pub fn token(place: SocketAddr) -> String {
    format!("{PATH}{}", encode(place))
}

/// The place that a URI of our Path leads to; `None`: it names none.
pub fn place_in(path: &Uri) -> Option<SocketAddr> {
    decode(path.user.as_deref()?.strip_prefix(PATH)?)
}

/// The user part of Record-Route for the dialogs of the UE at this place.
pub fn record_route_user(place: Option<SocketAddr>) -> String {
    let place = place.map(|place| format!(".{}", encode(place)));
    format!("{RECORD_ROUTE}{}", place.unwrap_or_default())
}

/// The user part is that of a Record-Route of ours.
pub fn is_record_route(uri: &Uri) -> bool {
    let rest = uri.user.as_deref().and_then(|user| user.strip_prefix(RECORD_ROUTE));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The place that a URI of our Record-Route leads to; `None`: it names none.
pub fn recorded_place(route: &Uri) -> Option<SocketAddr> {
    decode(route.user.as_deref()?.strip_prefix(RECORD_ROUTE)?.strip_prefix('.')?)
}

fn encode(place: SocketAddr) -> String {
    let mut octets = match place.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    octets.extend(place.port().to_be_bytes());
    hex::encode(octets)
}

fn decode(token: &str) -> Option<SocketAddr> {
    let octets = hex::decode(token).ok()?;
    let (address, port) = octets.split_at_checked(octets.len().checked_sub(2)?)?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    let address = match address.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// The place that the URI of a contact names, unless that is a name.
pub fn place_of(contact: &Uri) -> Option<SocketAddr> {
    let place = contact.host_port.as_ref()?;
    match place.host {
        Host::Address(address) => Some(SocketAddr::new(address, place.port.unwrap_or(5060))),
        Host::Name(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_back() {
        for flow in ["10.45.0.2:31001", "[2001:db8::2]:5060"] {
            let flow: SocketAddr = flow.parse().unwrap();
            let path = Uri::parse(&format!("sip:{}@pcscf1.vims.net;lr;ob", token(flow))).unwrap();
            assert_eq!((place_in(&path), recorded_place(&path)), (Some(flow), None));
            let user = record_route_user(Some(flow));
            let route = Uri::parse(&format!("sip:{user}@pcscf1.vims.net;lr")).unwrap();
            assert_eq!((place_in(&route), recorded_place(&route)), (None, Some(flow)));
            assert!(is_record_route(&route) && !is_record_route(&path));
        }
        for other in
            ["term", "term.", "term.00", "term.0a2d0002", "term.zz", "term.0a2d000279190000"]
        {
            let path = Uri::parse(&format!("sip:{other}@pcscf1.vims.net;lr")).unwrap();
            assert_eq!(place_in(&path), None, "{other}");
        }
    }
}
