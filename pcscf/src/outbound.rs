//! Flows that UEs register (RFC 5626 §5, TS 24.229 §5.2.2.1): this P-CSCF as their edge proxy.
//!
//! A flow is what leads to one UE: its address and, inside security associations, its protected server port,
//! as they stand in Contact. Path names it in a token, with `ob`, so that the registrar takes more than one for
//! an instance; a request that comes by a token goes to that UE and to no other, or is 430.
//!
//! The token is no secret. Whoever writes one could have written the Contact, and either leads only to who is
//! registered here: what RFC 5626 §5.1 guards against with a key cannot come about.

use std::net::{IpAddr, SocketAddr};

use common::sip::address::Contact;
use common::sip::header::Name;
use common::sip::message::Headers;
use common::sip::uri::{Host, Uri};

/// Marks the user part of a Path that is a flow.
const MARK: &str = "flow.";

/// The token for Path, when the UE registers a flow: `reg-id` and an instance in Contact, and `outbound` in
/// Supported (RFC 5626 §4.2.1).
pub fn token_for(headers: &Headers) -> Option<String> {
    if !headers.has_token(Name::Supported, "outbound") {
        return None;
    }
    headers.values(Name::Contact).find_map(|text| match Contact::parse(text) {
        Ok(Contact::Address(address)) => {
            let has = |name| address.parameter(name).is_some();
            (has("reg-id") && has("+sip.instance")).then(|| flow_of(&address.uri).map(token))?
        }
        _ => None,
    })
}

/// The flow that a URI of our Path leads to; `None`: it is no flow's.
pub fn flow_in(path: &Uri) -> Option<SocketAddr> {
    let octets = hex::decode(path.user.as_deref()?.strip_prefix(MARK)?).ok()?;
    let (address, port) = octets.split_at_checked(octets.len().checked_sub(2)?)?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    let address = match address.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

fn token(flow: SocketAddr) -> String {
    let mut octets = match flow.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    octets.extend(flow.port().to_be_bytes());
    format!("{MARK}{}", hex::encode(octets))
}

fn flow_of(contact: &Uri) -> Option<SocketAddr> {
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
            assert_eq!(flow_in(&path), Some(flow));
        }
        for other in
            ["term", "flow.", "flow.00", "flow.0a2d0002", "flow.zz", "flow.0a2d000279190000"]
        {
            let path = Uri::parse(&format!("sip:{other}@pcscf1.vims.net;lr")).unwrap();
            assert_eq!(flow_in(&path), None, "{other}");
        }
    }
}
