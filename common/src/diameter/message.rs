//! Header and AVPs, encode and decode (RFC 6733 §3, §4).

use bytes::Bytes;

use crate::limits::Limits;

/// A message as received: header fields and a checked walk over AVPs; nothing is copied.
#[derive(Clone, Debug)]
pub struct Message { pub header: Header, /* body */ }

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header { pub flags: u8, pub command: u32, pub application: u32, pub hop_by_hop: u32, pub end_to_end: u32 }

/// Why a request cannot be served: becomes Result-Code, Failed-AVP and Error-Message of the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure { pub result_code: u32, pub failed_avp: Option<Bytes>, pub message: String }

impl Message {
    pub fn decode(bytes: Bytes, limits: &Limits) -> Result<Message, Failure> { let _ = (bytes, limits); todo!() }
}
