//! URIs: `sip:`, `sips:`, `tel:`, and any other kept as text (RFC 3261 §19.1, RFC 3966).

use crate::identity::Impu;
use crate::sip::message::ParseError;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme { Sip, Sips, Tel, Other }

/// Host of a URI or of a sent-by: a name, an IPv4 address or a bracketed IPv6 reference.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// Lower case.
    Name(String),
    Address(std::net::IpAddr),
}

/// `host[:port]`. `Display` writes IPv6 in brackets.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HostPort { pub host: Host, pub port: Option<u16> }

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uri {
    pub scheme: Scheme,
    /// sip/sips: the user part as written (escapes kept), without password; tel: the number as
    /// written; other: everything behind the colon.
    pub user: Option<String>,
    /// sip and sips only (`None` otherwise).
    pub host_port: Option<HostPort>,
    /// As written, in order, without `;`: `("transport", Some("tcp"))`, `("lr", None)`.
    pub parameters: Vec<(String, Option<String>)>,
    /// Behind `?`, as written.
    pub headers: Option<String>,
}

impl Uri {
    pub fn parse(text: &str) -> Result<Uri, ParseError> { let _ = text; todo!() }
    /// Name compared without case; a parameter without value gives `Some("")`.
    pub fn parameter(&self, name: &str) -> Option<&str> { let _ = name; todo!() }
    /// Canonical form for use as a public identity (TS 23.003 §13.4, registration.md section 9).
    pub fn public_identity(&self) -> Impu { todo!() }
    /// RFC 3261 §19.1.4.
    pub fn is_equivalent(&self, other: &Uri) -> bool { let _ = other; todo!() }
}

impl HostPort {
    pub fn parse(text: &str) -> Result<HostPort, ParseError> { let _ = text; todo!() }
}
impl std::fmt::Display for Uri { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { let _ = f; todo!() } }
impl std::fmt::Display for Host { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { let _ = f; todo!() } }
impl std::fmt::Display for HostPort { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { let _ = f; todo!() } }
