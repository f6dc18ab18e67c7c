//! Cuts messages from a stream (RFC 3261 §18.3), and answers keep-alives (RFC 5626 §4.4.1).

use bytes::{Bytes, BytesMut};

use crate::limits::Limits;

/// Collects bytes of one connection.
#[derive(Debug, Default)]
pub struct Framer { buffer: BytesMut }

#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// One whole message.
    Message(Bytes),
    /// A double CRLF: answer it with a single CRLF.
    Ping,
}

/// The stream cannot be cut any more (no Content-Length, too long): answer 400 if `head` can be
/// answered, then close.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken { pub reason: &'static str, pub head: Bytes }

impl Framer {
    pub fn push(&mut self, bytes: &[u8]) { self.buffer.extend_from_slice(bytes) }
    /// `Ok(None)`: more bytes are needed. Call until then.
    pub fn next(&mut self, limits: &Limits) -> Result<Option<Frame>, Broken> { let _ = limits; todo!() }
}
