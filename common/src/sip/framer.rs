//! Cuts messages from a stream (RFC 3261 §18.3), and answers keep-alives (RFC 5626 §4.4.1).

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use crate::limits::Limits;
use crate::sip::header::Name;
use crate::sip::parameter;

/// Collects bytes of one connection.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: BytesMut,
    /// How far the end of the head was looked for.
    searched: usize,
    /// Length of the whole message, once its head has been read.
    length: Option<usize>,
}

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
pub struct Broken {
    pub reason: &'static str,
    pub head: Bytes,
}

impl Framer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// RFC 3261 §18.3: `Ok(None)`: more bytes are needed. Call until then. Behind `Broken` the
    /// rest of the stream is lost.
    pub fn next(&mut self, limits: &Limits) -> Result<Option<Frame>, Broken> {
        if self.length.is_none() && self.searched == 0 {
            match self.skip_line_ends() {
                Skipped::Ping => return Ok(Some(Frame::Ping)),
                Skipped::Undecided => return Ok(None),
                Skipped::All => {}
            }
        }
        let length = match self.length {
            Some(length) => length,
            None => match self.head_end() {
                Some(end) => self.message_length(end, limits)?,
                None if self.buffer.len() > limits.sip_message_bytes => {
                    return Err(self.broken("message head too long", limits.sip_message_bytes));
                }
                None => return Ok(None),
            },
        };
        if self.buffer.len() < length {
            self.length = Some(length);
            return Ok(None);
        }
        self.length = None;
        self.searched = 0;
        Ok(Some(Frame::Message(self.buffer.split_to(length).freeze())))
    }

    /// RFC 5626 §4.4.1: a double CRLF asks for an answer, a single one is an answer.
    fn skip_line_ends(&mut self) -> Skipped {
        loop {
            match self.buffer[..] {
                [b'\r', b'\n', b'\r', b'\n', ..] => {
                    self.buffer.advance(4);
                    return Skipped::Ping;
                }
                [] | [b'\r'] | [b'\r', b'\n'] | [b'\r', b'\n', b'\r'] => return Skipped::Undecided,
                [b'\r', b'\n', ..] => self.buffer.advance(2),
                [b'\n', ..] => self.buffer.advance(1),
                _ => return Skipped::All,
            }
        }
    }

    /// The offset behind the empty line that ends the head.
    fn head_end(&mut self) -> Option<usize> {
        let bytes = &self.buffer[..];
        while let Some(length) = memchr(b'\n', &bytes[self.searched..]) {
            let behind = self.searched + length + 1;
            match bytes[behind..] {
                [b'\n', ..] => return Some(behind + 1),
                [b'\r', b'\n', ..] => return Some(behind + 2),
                // Not decided yet: this line end is looked at again.
                [] | [b'\r'] => {
                    self.searched = behind - 1;
                    return None;
                }
                _ => self.searched = behind,
            }
        }
        self.searched = bytes.len();
        None
    }

    fn message_length(&mut self, head_end: usize, limits: &Limits) -> Result<usize, Broken> {
        let length = content_length(&self.buffer[..head_end])
            .map_err(|reason| self.broken(reason, head_end))?
            .checked_add(head_end)
            .filter(|length| *length <= limits.sip_message_bytes);
        length.ok_or_else(|| self.broken("message too long", head_end))
    }

    fn broken(&mut self, reason: &'static str, head_end: usize) -> Broken {
        let head = self.buffer.split_to(head_end.min(self.buffer.len())).freeze();
        *self = Framer::default();
        Broken { reason, head }
    }
}

enum Skipped {
    Ping,
    Undecided,
    All,
}

/// RFC 3261 §20.14: the one number that all Content-Length lines of a head agree on.
fn content_length(head: &[u8]) -> Result<usize, &'static str> {
    let mut found = None;
    let mut rest = head;
    while let Some(end) = memchr(b'\n', rest) {
        let mut end = end + 1;
        while let Some(b' ' | b'\t') = rest.get(end) {
            end += memchr(b'\n', &rest[end..]).map_or(rest.len() - end, |length| length + 1);
        }
        let (line, behind) = rest.split_at(end);
        rest = behind;
        if !matches!(line[0], b'l' | b'L' | b'c' | b'C') {
            continue;
        }
        let Some(colon) = memchr(b':', line) else { continue };
        if Name::find(line[..colon].trim_ascii()) != Some(Name::ContentLength) {
            continue;
        }
        let value = std::str::from_utf8(line[colon + 1..].trim_ascii()).ok();
        let value = value.and_then(parameter::number).ok_or("Content-Length is no number")?;
        if found.is_some_and(|found| found != value) {
            return Err("two different Content-Length");
        }
        found = Some(value);
    }
    found.ok_or("no Content-Length")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str =
        "OPTIONS sip:h SIP/2.0\r\nVia: SIP/2.0/TCP h\r\nContent-Length: 3\r\n\r\nabc";

    fn frames(framer: &mut Framer) -> Vec<Frame> {
        let limits = Limits::default();
        std::iter::from_fn(|| framer.next(&limits).unwrap()).collect()
    }

    fn message(text: &str) -> Frame {
        Frame::Message(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// RFC 3261 §18.3; S-25: whatever the pieces, the messages are the same.
    #[test]
    fn cuts_at_any_place() {
        let compact = MESSAGE.replace("Content-Length: 3", "l :\r\n 3");
        let bare = MESSAGE.replace("\r\n", "\n");
        let stream = format!("\r\n{MESSAGE}\r\n\r\n{compact}{bare}\r\n{MESSAGE}");
        let expected = || {
            vec![message(MESSAGE), Frame::Ping, message(&compact), message(&bare), message(MESSAGE)]
        };
        for size in 1..stream.len() {
            let mut framer = Framer::default();
            let mut found = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                framer.push(piece);
                found.extend(frames(&mut framer));
            }
            assert_eq!(found, expected(), "pieces of {size}");
        }
    }

    /// RFC 5626 §4.4.1.
    #[test]
    fn keep_alives() {
        let mut framer = Framer::default();
        framer.push(b"\r\n\r\n\r\n\r\n\r\n");
        assert_eq!(frames(&mut framer), [Frame::Ping, Frame::Ping]);
        framer.push(b"\r\n");
        assert_eq!(frames(&mut framer), [Frame::Ping]);
    }

    #[test]
    fn broken_streams() {
        let limits = Limits { sip_message_bytes: 200, ..Limits::default() };
        let with = |value: &str| MESSAGE.replace("Content-Length: 3\r\n", value);
        for (text, reason) in [
            (with(""), "no Content-Length"),
            (with("Content-Length: x\r\n"), "Content-Length is no number"),
            (with("Content-Length: -1\r\n"), "Content-Length is no number"),
            (with("Content-Length: 99999999999999999999999\r\n"), "Content-Length is no number"),
            (with("Content-Length: 18446744073709551615\r\n"), "message too long"),
            (with("Content-Length: 3\r\nl: 4\r\n"), "two different Content-Length"),
            (with("Content-Length: 1000\r\n"), "message too long"),
            ("x".repeat(201), "message head too long"),
        ] {
            let mut framer = Framer::default();
            framer.push(text.as_bytes());
            let broken = framer.next(&limits).unwrap_err();
            assert_eq!(broken.reason, reason);
            assert!(text.as_bytes().starts_with(&broken.head));
            assert_eq!(framer.next(&limits), Ok(None));
        }
    }
}
