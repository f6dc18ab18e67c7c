//! The index over the header lines of a received message (RFC 3261 §7.3.1): one pass, no copies
//! but of folded values.

use bytes::Bytes;
use memchr::{memchr, memchr2};
use smallvec::SmallVec;

use crate::limits::Limits;
use crate::sip::header::Name;
use crate::sip::lines::{Body, Headers, Home, Line, Span, StartLine};
use crate::sip::message::ParseError;
use crate::sip::parameter;

/// How much the index forgives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rigour {
    /// The first line without the shape of a header line is an error.
    Shape,
    /// Such lines are left out, and so is everything behind a limit: enough for an answer.
    Salvage,
}

/// Indexes header lines (RFC 3261 §7.3.1) from `at`, the byte behind the start line.
#[inline]
pub(crate) fn index(
    wire: Bytes,
    start: StartLine,
    at: usize,
    limits: &Limits,
    rigour: Rigour,
) -> Result<Headers, ParseError> {
    let mut headers = Headers {
        wire: Bytes::new(),
        side: Vec::new(),
        lines: SmallVec::new(),
        start,
        blank: Span::EMPTY,
        body: Body::Wire { start: at, end: at },
        is_edited: false,
    };
    let start = index_lines(&wire, at, limits, rigour, &mut headers)?;
    let mut end = wire.len();
    headers.wire = wire;
    if rigour == Rigour::Shape {
        end = body_end(&headers, start)?;
    }
    headers.body = Body::Wire { start, end };
    Ok(headers)
}

/// Returns the offset behind the empty line.
#[inline]
fn index_lines(
    wire: &[u8],
    mut at: usize,
    limits: &Limits,
    rigour: Rigour,
    headers: &mut Headers,
) -> Result<usize, ParseError> {
    loop {
        let blank = match wire[at..] {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            _ => 0,
        };
        if blank > 0 {
            headers.blank = Span::new(Home::Wire, at, at + blank);
            return Ok(at + blank);
        }
        let fault = match extent(wire, at) {
            None => ParseError { position: wire.len(), expected: "empty line behind the headers" },
            Some(_) if headers.lines.len() >= limits.sip_headers => {
                ParseError { position: at, expected: ParseError::FEWER_HEADERS }
            }
            Some(extent) => match line(wire, at, &extent, &mut headers.side) {
                Ok(line) => {
                    headers.lines.push(line);
                    at = extent.end;
                    continue;
                }
                Err(_) if rigour == Rigour::Salvage => {
                    at = extent.end;
                    continue;
                }
                Err(error) => error,
            },
        };
        if rigour == Rigour::Shape {
            return Err(fault);
        }
        headers.blank = headers.keep(b"\r\n");
        return Ok(wire.len());
    }
}

/// One header line as it stands in the buffer, continuation lines included.
struct Extent {
    end: usize,
    is_folded: bool,
    /// A CR stands anywhere but in front of a line feed: other elements may end the line there, and
    /// read what follows as a header line of its own.
    has_bare_return: bool,
}

#[inline]
fn extent(wire: &[u8], start: usize) -> Option<Extent> {
    let mut extent = Extent { end: start, is_folded: false, has_bare_return: false };
    loop {
        let at = extent.end + memchr2(b'\r', b'\n', &wire[extent.end..])?;
        extent.end = at + 1;
        match (wire[at], wire.get(at + 1)) {
            (b'\r', Some(b'\n')) => extent.end += 1,
            (b'\r', _) => {
                extent.has_bare_return = true;
                continue;
            }
            _ => {}
        }
        match wire.get(extent.end) {
            Some(b' ' | b'\t') => extent.is_folded = true,
            _ => return Some(extent),
        }
    }
}

/// One header line: `name *( SP / HTAB ) ":" value`. A folded value goes unfolded into `side`.
#[inline]
fn line(
    wire: &[u8],
    start: usize,
    extent: &Extent,
    side: &mut Vec<u8>,
) -> Result<Line, ParseError> {
    let error = |expected| ParseError { position: start, expected };
    let end = extent.end;
    let bytes = &wire[start..end];
    let colon = memchr(b':', bytes).ok_or(error("colon of a header line"))?;
    let mut name_end = colon;
    while name_end > 0 && matches!(bytes[name_end - 1], b' ' | b'\t') {
        name_end -= 1;
    }
    let name_text = &bytes[..name_end];
    let name = Name::find(name_text);
    if name.is_none() && !parameter::is_token_bytes(name_text) {
        return Err(error("header name"));
    }
    let name_length = u16::try_from(name_end).map_err(|_| error("header name"))?;
    if extent.has_bare_return {
        return Err(error("line feed behind a carriage return"));
    }
    let raw = Span::new(Home::Wire, start, end);
    let text = if extent.is_folded {
        unfold(&bytes[colon + 1..], side)
    } else {
        let mut value_end = end - 1;
        if wire[value_end - 1] == b'\r' {
            value_end -= 1;
        }
        let (from, to) = parameter::trim_range(wire, start + colon + 1, value_end);
        Span::new(Home::Wire, from, to)
    };
    Ok(Line::new(raw, text, name_length, name))
}

/// RFC 3261 §7.3.1: a line break with the blanks around it counts as one SP.
fn unfold(value: &[u8], side: &mut Vec<u8>) -> Span {
    let start = side.len();
    for part in value.split(|byte| *byte == b'\n') {
        let part = part.strip_suffix(b"\r").unwrap_or(part);
        let (from, to) = parameter::trim_range(part, 0, part.len());
        if from < to {
            if side.len() > start {
                side.push(b' ');
            }
            side.extend_from_slice(&part[from..to]);
        }
    }
    Span::new(Home::Side, start, side.len())
}

/// RFC 3261 §18.3: Content-Length decides where the body, which begins at `start`, ends. One that
/// cannot be read decides nothing; `check` refuses it.
fn body_end(headers: &Headers, start: usize) -> Result<usize, ParseError> {
    let end = headers.wire.len();
    let stated = headers.get(Name::ContentLength).and_then(parameter::number::<usize>);
    match stated {
        None => Ok(end),
        Some(stated) if stated <= end - start => Ok(start + stated),
        Some(_) => Err(ParseError { position: end, expected: "body as long as Content-Length" }),
    }
}
