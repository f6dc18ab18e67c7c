//! name-addr and addr-spec with header parameters: From, To, Contact, Route, Path,
//! Service-Route, P-Associated-URI, P-Asserted-Identity (RFC 3261 §20.10).

use crate::sip::message::ParseError;
use crate::sip::uri::Uri;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// As written, quotes included.
    pub display_name: Option<String>,
    /// The URI as written between the angle brackets.
    pub uri_text: String,
    pub uri: Uri,
    /// Header parameters, as written (quotes kept in values).
    pub parameters: Vec<(String, Option<String>)>,
}

/// One Contact header value (RFC 3261 §10.2.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Contact { Star, Address(Address) }

impl Address {
    pub fn parse(text: &str) -> Result<Address, ParseError> { let _ = text; todo!() }
    /// `<uri>` and nothing else.
    pub fn of(uri: &str) -> Result<Address, ParseError> { let _ = uri; todo!() }
    /// Name compared without case; quotes taken off; `Some("")` for a parameter without value.
    pub fn parameter(&self, name: &str) -> Option<&str> { let _ = name; todo!() }
    pub fn set_parameter(&mut self, name: &str, value: Option<&str>) { let _ = (name, value); todo!() }
    pub fn remove_parameter(&mut self, name: &str) { let _ = name; todo!() }
    /// `expires` as seconds; unreadable values count as absent (RFC 3261 §10.3 step 6), larger than
    /// 2^32-1 as 2^32-1.
    pub fn expires_seconds(&self) -> Option<u32> { todo!() }
    /// `q` in thousandths, 0 to 1000.
    pub fn q(&self) -> Option<u16> { todo!() }
}

impl Contact {
    pub fn parse(text: &str) -> Result<Contact, ParseError> { let _ = text; todo!() }
}

impl std::fmt::Display for Address { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { let _ = f; todo!() } }
