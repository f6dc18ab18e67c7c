//! Security-Client, Security-Server, Security-Verify (RFC 3329 §2.2, TS 33.203 Annex H).

use crate::sip::message::{Headers, ParseError};
use crate::sip::header::Name;

/// One sec-mechanism.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mechanism {
    /// Lower case: `ipsec-3gpp`, `tls`, ...
    pub name: String,
    /// In order; names lower case, values as written without quotes.
    pub parameters: Vec<(String, String)>,
}

impl Mechanism {
    pub fn parse(text: &str) -> Result<Mechanism, ParseError> { let _ = text; todo!() }
    pub fn get(&self, name: &str) -> Option<&str> { let _ = name; todo!() }
    pub fn number(&self, name: &str) -> Option<u32> { let _ = name; todo!() }
    /// `q` in thousandths; 1000 when absent... unreadable counts as 1000.
    pub fn q(&self) -> u16 { todo!() }
    /// Same mechanism with the same parameters: tokens without case, any order, numbers as numbers.
    pub fn is_same(&self, other: &Mechanism) -> bool { let _ = other; todo!() }
}

impl std::fmt::Display for Mechanism { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { let _ = f; todo!() } }

/// All mechanisms of all lines of that header, in order.
pub fn mechanisms(headers: &Headers, name: Name) -> Result<Vec<Mechanism>, ParseError> { let _ = (headers, name); todo!() }

/// Same mechanisms in the same order (RFC 3329 §2.3.1).
pub fn is_same_list(a: &[Mechanism], b: &[Mechanism]) -> bool { let _ = (a, b); todo!() }
