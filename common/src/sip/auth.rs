//! WWW-Authenticate and Authorization with the AKA parameters (RFC 7616, RFC 3310, TS 24.229 §7.2A.1).

use crate::sip::message::ParseError;

/// Parameters of one challenge or of one credential. Quotes are taken off on reading; writing
/// puts them where RFC 3261 §25.1 and RFC 3310 want them (`algorithm`, `nc`, `stale` bare; `qop`
/// quoted in a challenge and bare in credentials; every other value quoted).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DigestParameters {
    /// In order, names lower case.
    pub parameters: Vec<(String, String)>,
}

impl DigestParameters {
    /// One header line: `Digest a=b, c="d"`. Spaces around `=` and stray `Digest` tokens inside are
    /// tolerated; a repeated parameter is accepted when the values are equal, else an error (aka.md
    /// G-15). Unquoted values are accepted. The scheme must be Digest.
    pub fn parse(text: &str) -> Result<DigestParameters, ParseError> { let _ = text; todo!() }
    pub fn get(&self, name: &str) -> Option<&str> { let _ = name; todo!() }
    pub fn set(&mut self, name: &str, value: &str) { let _ = (name, value); todo!() }
    /// The value that was removed.
    pub fn remove(&mut self, name: &str) -> Option<String> { let _ = name; todo!() }
    pub fn to_challenge(&self) -> String { todo!() }
    pub fn to_credentials(&self) -> String { todo!() }
}

/// The credentials for `realm` among all Authorization lines, in any order (pitfall 20); with one
/// line only, that one whatever its realm. `Ok(None)` when there is none.
pub fn credentials_for(headers: &crate::sip::message::Headers, realm: &str) -> Result<Option<DigestParameters>, ParseError> { let _ = (headers, realm); todo!() }
