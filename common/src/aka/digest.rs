//! AKA digest (RFC 3310, RFC 7616): the response computed from RES as raw octets.

use crate::sip::auth::DigestParameters;

/// RAND, AUTN and server data of a nonce (RFC 3310 §3.2). `None` when it does not decode to at least 32 octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AkaNonce { pub rand: [u8; 16], pub autn: [u8; 16], pub server_data: Vec<u8> }

impl AkaNonce {
    pub fn decode(nonce: &str) -> Option<AkaNonce> { let _ = nonce; todo!() }
    pub fn encode(rand: &[u8; 16], autn: &[u8; 16]) -> String { let _ = (rand, autn); todo!() }
}

/// The `response` for these credentials (username, realm, nonce, uri, and qop, nc, cnonce when qop is
/// there: RFC 7616 §3.4.1, RFC 2069 form without qop), 32 lower-case hex digits. `None` when a needed parameter is missing or
/// qop is neither auth nor auth-int.
pub fn response(credentials: &DigestParameters, password: &[u8], method: &str, body: &[u8]) -> Option<String> { let _ = (credentials, password, method, body); todo!() }

/// Compares in constant time, hex without case.
pub fn verify(credentials: &DigestParameters, password: &[u8], method: &str, body: &[u8]) -> bool { let _ = (credentials, password, method, body); todo!() }

/// AUTS of an `auts` parameter: base64 of 14 octets.
pub fn decode_auts(text: &str) -> Option<[u8; 14]> { let _ = text; todo!() }
pub fn encode_auts(auts: &[u8; 14]) -> String { let _ = auts; todo!() }
