//! Via (RFC 3261 §20.42, §18.2; RFC 3581).

use crate::sip::message::ParseError;
use crate::sip::uri::HostPort;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Via {
    /// As written: `UDP`, `TCP`, `TLS`, `SCTP`, ...
    pub transport: String,
    pub sent_by: HostPort,
    /// As written, in order.
    pub parameters: Vec<(String, Option<String>)>,
}

impl Via {
    /// One list element. Blanks around `/`, `;` and `=` are allowed.
    pub fn parse(text: &str) -> Result<Via, ParseError> { let _ = text; todo!() }
    pub fn parameter(&self, name: &str) -> Option<&str> { let _ = name; todo!() }
    pub fn branch(&self) -> Option<&str> { self.parameter("branch") }
    pub fn set_parameter(&mut self, name: &str, value: Option<&str>) { let _ = (name, value); todo!() }
}

impl std::fmt::Display for Via { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { let _ = f; todo!() } }
