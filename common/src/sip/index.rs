//! The index over the header lines of a received message (RFC 3261 §7.3.1): one pass, no copies
//! but of folded values.

use bytes::Bytes;
use memchr::memchr;
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
        let fault = match line_end(wire, at) {
            None => ParseError { position: wire.len(), expected: "empty line behind the headers" },
            Some(_) if headers.lines.len() >= limits.sip_headers => {
                ParseError { position: at, expected: ParseError::FEWER_HEADERS }
            }
            Some((end, is_folded)) => match line(wire, at, end, is_folded, &mut headers.side) {
                Ok(line) => {
                    headers.lines.push(line);
                    at = end;
                    continue;
                }
                Err(_) if rigour == Rigour::Salvage => {
                    at = end;
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

/// Where the line that begins at `at` ends, continuation lines included, and whether it has any.
fn line_end(wire: &[u8], at: usize) -> Option<(usize, bool)> {
    let mut end = at + memchr(b'\n', &wire[at..])? + 1;
    let mut is_folded = false;
    while let Some(b' ' | b'\t') = wire.get(end) {
        is_folded = true;
        end += memchr(b'\n', &wire[end..])? + 1;
    }
    Some((end, is_folded))
}

/// True when a CR stands anywhere but in front of a line feed: other elements may end the line
/// there, and read what follows as a header line of its own.
fn has_bare_return(line: &[u8]) -> bool {
    let mut rest = line;
    while let Some(at) = memchr(b'\r', rest) {
        if rest.get(at + 1) != Some(&b'\n') {
            return true;
        }
        rest = &rest[at + 2..];
    }
    false
}

/// One header line: `name *( SP / HTAB ) ":" value`. A folded value goes unfolded into `side`.
fn line(
    wire: &[u8],
    start: usize,
    end: usize,
    is_folded: bool,
    side: &mut Vec<u8>,
) -> Result<Line, ParseError> {
    let error = |expected| ParseError { position: start, expected };
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
    if has_bare_return(&bytes[colon..]) {
        return Err(error("line feed behind a carriage return"));
    }
    let raw = Span::new(Home::Wire, start, end);
    let text = if is_folded {
        unfold(&bytes[colon + 1..], side)
    } else {
        let mut value_end = end - 1;
        if wire[value_end - 1] == b'\r' {
            value_end -= 1;
        }
        let (from, to) = parameter::trim_range(wire, start + colon + 1, value_end);
        Span::new(Home::Wire, from, to)
    };
    Ok(Line { raw, text, name_length, name })
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
