//! The header lines of a message (RFC 3261 §7.3): spans into the received bytes, edits beside them.
//!
//! A message is one received buffer (`wire`), one buffer of everything written since (`side`), and a
//! list of lines that each point into one of the two. Nothing is ever moved within a buffer.

use std::fmt;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr2;
use smallvec::SmallVec;

use crate::sip::header::Name;
use crate::sip::message::Method;
use crate::sip::parameter;

/// Where a span points.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Home {
    Wire,
    Side,
}

/// Bytes of one of the two buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub home: Home,
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub(crate) const EMPTY: Span = Span { home: Home::Side, start: 0, end: 0 };

    pub(crate) fn new(home: Home, start: usize, end: usize) -> Span {
        // Both buffers are bounded: the parser refuses more than 4 GiB, and nobody writes as much.
        Span { home, start: start as u32, end: end as u32 }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(crate) fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

/// One header line, continuation lines and line ends included. Kept small: a message has room for
/// forty of them in itself, and moves with them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    start: u32,
    end: u32,
    text_start: u32,
    text_end: u32,
    name_length: u16,
    home: Home,
    text_home: Home,
    name: Option<Name>,
}

impl Line {
    pub(crate) fn new(raw: Span, text: Span, name_length: u16, name: Option<Name>) -> Line {
        Line {
            start: raw.start,
            end: raw.end,
            text_start: text.start,
            text_end: text.end,
            name_length,
            home: raw.home,
            text_home: text.home,
            name,
        }
    }

    fn raw(&self) -> Span {
        Span { home: self.home, start: self.start, end: self.end }
    }

    /// The value, unfolded and trimmed. Only a folded value lives elsewhere than its line.
    fn text(&self) -> Span {
        Span { home: self.text_home, start: self.text_start, end: self.text_end }
    }

    fn name_text(&self) -> Span {
        Span { end: self.start + u32::from(self.name_length), ..self.raw() }
    }
}

/// The first line of a message, line end included, and the two parts of it that vary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartLine {
    pub raw: Span,
    /// Request: the method. Response: the three digits.
    pub first: Span,
    /// Request: the Request-URI. Response: the reason phrase.
    pub second: Span,
    pub method: Method,
    pub status: u16,
}

/// The header lines of one message, in order.
///
/// Values are handed out as text: bytes that are not UTF-8 make a value unreadable to typed
/// accessors (`None`/absent there) but are kept and forwarded as they are; [`Headers::raw`] hands
/// them out.
///
/// This is the message itself, start line and body included (they share the buffers): replacing a
/// `Headers` as a whole replaces the message.
pub struct Headers {
    pub(crate) wire: Bytes,
    pub(crate) side: Vec<u8>,
    pub(crate) lines: SmallVec<[Line; 40]>,
    pub(crate) start: StartLine,
    /// The empty line behind the header lines.
    pub(crate) blank: Span,
    pub(crate) body: Body,
    pub(crate) is_edited: bool,
}

#[derive(Clone)]
pub(crate) enum Body {
    Wire { start: usize, end: usize },
    Own(Bytes),
}

impl Clone for Headers {
    fn clone(&self) -> Headers {
        Headers {
            wire: self.wire.clone(),
            side: self.side.clone(),
            // Lines are plain numbers: copied as one block.
            lines: SmallVec::from_slice(&self.lines),
            body: self.body.clone(),
            ..*self
        }
    }
}

/// Neither values nor body: they may hold keys (`ck`, `ik` of a challenge).
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = String::from_utf8_lossy(self.bytes(self.start.raw));
        let (lines, body) = (self.lines.len(), self.body().len());
        write!(f, "<{}; {lines} header lines, {body} octets of body>", start.trim_end())
    }
}

impl Headers {
    /// Value of the first line of that name, unfolded and trimmed.
    pub fn get(&self, name: Name) -> Option<&str> {
        self.first(name).and_then(|line| self.text(line))
    }

    /// One item per header line; unreadable ones are left out.
    pub fn lines(&self, name: Name) -> impl Iterator<Item = &str> {
        self.named(name).filter_map(|line| self.text(line))
    }

    /// One item per list element: lines split at commas outside quotes and angle brackets.
    pub fn values(&self, name: Name) -> impl Iterator<Item = &str> {
        self.lines(name).flat_map(parameter::list)
    }

    /// First line with a name outside of [`Name`], compared without case.
    pub fn get_other(&self, name: &str) -> Option<&str> {
        self.lines.iter().find(|line| self.is_other(line, name)).and_then(|line| self.text(line))
    }

    pub fn has(&self, name: Name) -> bool {
        self.first(name).is_some()
    }

    /// How many lines of that name there are, readable or not.
    pub fn count(&self, name: Name) -> usize {
        self.named(name).count()
    }

    /// The names that stand in more than one line, one bit for each: in one pass.
    pub(crate) fn repeated(&self) -> u128 {
        const { assert!(Name::ALL.len() <= u128::BITS as usize, "one bit per name") };
        let (mut seen, mut repeated) = (0, 0);
        for name in self.lines.iter().filter_map(|line| line.name) {
            let bit = 1 << name as u32;
            repeated |= seen & bit;
            seen |= bit;
        }
        repeated
    }

    /// True when a line of that name is not UTF-8.
    pub fn is_unreadable(&self, name: Name) -> bool {
        self.named(name).any(|line| self.text(line).is_none())
    }

    /// Values of that name as bytes: trimmed and unfolded, UTF-8 or not.
    pub fn raw(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        self.named(name).map(|line| self.bytes(line.text()))
    }

    /// All lines: the name as written and the value as bytes.
    pub fn iter(&self) -> impl Iterator<Item = (Option<Name>, &[u8], &[u8])> {
        self.lines
            .iter()
            .map(|line| (line.name, self.bytes(line.name_text()), self.bytes(line.text())))
    }

    /// True when a list header such as Require or Supported holds this option tag (no case).
    pub fn has_token(&self, name: Name, token: &str) -> bool {
        self.values(name).any(|value| value.eq_ignore_ascii_case(token))
    }

    /// RFC 3261 §8.1.1.7: `branch` of the topmost Via.
    pub fn branch(&self) -> Option<&str> {
        let via = self.values(Name::Via).next()?;
        let parameters = via.get(parameter::find_unquoted(via, b';')?..)?;
        parameter::find_in(parameters, "branch")
    }

    /// A new line behind the last one.
    pub fn append(&mut self, name: Name, value: &str) {
        let line = self.write_line(Some(name), name.as_str(), value);
        self.lines.push(line);
    }

    /// A name that is no token, or one that [`Name`] knows, is written all the same; the second is
    /// found under its [`Name`].
    pub fn append_other(&mut self, name: &str, value: &str) {
        let line = self.write_line(Name::find(name.as_bytes()), name, value);
        self.lines.push(line);
    }

    /// A new line in front of the first one of that name (at the very top when there is none).
    pub fn push_front(&mut self, name: Name, value: &str) {
        let line = self.write_line(Some(name), name.as_str(), value);
        self.lines.insert(self.position(name).unwrap_or(0), line);
    }

    /// Replaces all lines of that name by one (in the place of the first), or appends it.
    pub fn set(&mut self, name: Name, value: &str) {
        let line = self.write_line(Some(name), name.as_str(), value);
        match self.position(name) {
            None => self.lines.push(line),
            Some(first) => {
                self.lines[first] = line;
                if self.lines[first + 1..].iter().any(|line| line.name == Some(name)) {
                    let mut index = 0;
                    self.lines.retain(|line| {
                        index += 1;
                        index <= first + 1 || line.name != Some(name)
                    });
                }
            }
        }
    }

    /// How many lines were removed.
    pub fn remove(&mut self, name: Name) -> usize {
        let before = self.lines.len();
        self.lines.retain(|line| line.name != Some(name));
        self.removed(before)
    }

    /// Lines whose name is outside of [`Name`].
    pub fn remove_other(&mut self, name: &str) -> usize {
        let before = self.lines.len();
        let mut lines = std::mem::take(&mut self.lines);
        lines.retain(|line| !self.is_other(line, name));
        self.lines = lines;
        self.removed(before)
    }

    /// Takes the first list element of the first line (Via, Route); the line goes when it is empty.
    /// A first line that cannot be read stays.
    pub fn pop_value(&mut self, name: Name) -> Option<String> {
        loop {
            let index = self.position(name)?;
            let text = self.text(&self.lines[index])?;
            let mut elements = parameter::ranges(text);
            let first = elements.next();
            let rest = elements.next().map(|(start, _)| (start, text.len()));
            drop(elements);
            let value = first.map(|(start, end)| text[start..end].to_owned());
            self.is_edited = true;
            match rest {
                Some(rest) => self.rewrite(index, &[], rest),
                None => {
                    self.lines.remove(index);
                }
            }
            if value.is_some() {
                return value;
            }
        }
    }

    /// Replaces the first list element of the first line, or appends a line when there is none.
    pub fn set_first_value(&mut self, name: Name, value: &str) {
        let Some(index) = self.position(name) else { return self.append(name, value) };
        let text = self.text(&self.lines[index]).unwrap_or("");
        let (_, end) = parameter::ranges(text).next().unwrap_or((0, text.len()));
        let rest = (end, text.len());
        self.rewrite(index, value.as_bytes(), rest);
    }

    /// Removes a token from a list header such as Require, and the header when it gets empty.
    pub fn remove_token(&mut self, name: Name, token: &str) {
        let mut index = 0;
        while index < self.lines.len() {
            let line = &self.lines[index];
            let text = if line.name == Some(name) { self.text(line) } else { None };
            let is_token = |value: &&str| value.eq_ignore_ascii_case(token);
            let Some(text) = text.filter(|text| parameter::list(text).any(|v| is_token(&v))) else {
                index += 1;
                continue;
            };
            let kept: Vec<&str> = parameter::list(text).filter(|value| !is_token(value)).collect();
            let kept = kept.join(", ");
            if kept.is_empty() {
                self.lines.remove(index);
                self.is_edited = true;
            } else {
                self.rewrite(index, kept.as_bytes(), (0, 0));
                index += 1;
            }
        }
    }

    /// Copies all lines of that name, as written, behind the last line.
    pub fn copy_from(&mut self, other: &Headers, name: Name) {
        for line in other.named(name) {
            let raw = self.keep(other.bytes(line.raw()));
            let text = if line.text().home == line.raw().home {
                let start = raw.start + (line.text().start - line.raw().start);
                Span { home: Home::Side, start, end: start + line.text().len() as u32 }
            } else {
                self.keep(other.bytes(line.text()))
            };
            self.lines.push(Line::new(raw, text, line.name_length, line.name));
        }
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn first(&self, name: Name) -> Option<&Line> {
        self.lines.iter().find(|line| line.name == Some(name))
    }

    fn named(&self, name: Name) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.name == Some(name))
    }

    fn position(&self, name: Name) -> Option<usize> {
        self.lines.iter().position(|line| line.name == Some(name))
    }

    fn is_other(&self, line: &Line, name: &str) -> bool {
        line.name.is_none() && self.bytes(line.name_text()).eq_ignore_ascii_case(name.as_bytes())
    }

    fn text(&self, line: &Line) -> Option<&str> {
        std::str::from_utf8(self.bytes(line.text())).ok()
    }

    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        match span.home {
            Home::Wire => &self.wire[span.range()],
            Home::Side => &self.side[span.range()],
        }
    }

    pub(crate) fn str(&self, span: Span) -> &str {
        std::str::from_utf8(self.bytes(span)).unwrap_or("")
    }

    /// Byte offset of the first line of that name in the received message, 0 for a new line.
    pub(crate) fn offset(&self, name: Name) -> usize {
        match self.first(name) {
            Some(line) if line.raw().home == Home::Wire => line.raw().start as usize,
            _ => 0,
        }
    }

    fn removed(&mut self, before: usize) -> usize {
        let removed = before - self.lines.len();
        self.is_edited |= removed > 0;
        removed
    }

    fn write_line(&mut self, name: Option<Name>, name_text: &str, value: &str) -> Line {
        self.begin_edit(name_text.len() + value.len() + 4);
        let start = self.side.len();
        self.side.extend_from_slice(name_text.as_bytes());
        let name_length = name_text.len();
        self.finish_line(name, start, name_length, value.as_bytes(), Span::EMPTY)
    }

    /// Writes the line anew under the name it has: `value`, then `rest` of its present text.
    fn rewrite(&mut self, index: usize, value: &[u8], rest: (usize, usize)) {
        let line = self.lines[index];
        let name = line.name_text();
        self.begin_edit(line.raw().len() + value.len() + 4);
        let start = self.side.len();
        self.extend(name);
        let text_start = line.text().start as usize;
        let rest = Span::new(line.text().home, text_start + rest.0, text_start + rest.1);
        self.lines[index] = self.finish_line(line.name, start, name.len(), value, rest);
    }

    /// Behind the name: colon, value without line breaks, rest, line end.
    fn finish_line(
        &mut self,
        name: Option<Name>,
        start: usize,
        name_length: usize,
        value: &[u8],
        rest: Span,
    ) -> Line {
        self.side.extend_from_slice(b": ");
        let text_start = self.side.len();
        let (from, to) = parameter::trim_range(value, 0, value.len());
        self.extend_flat(&value[from..to]);
        self.extend(rest);
        let text_end = self.side.len();
        self.side.extend_from_slice(b"\r\n");
        let raw = Span::new(Home::Side, start, self.side.len());
        let text = Span::new(Home::Side, text_start, text_end);
        Line::new(raw, text, name_length.min(usize::from(u16::MAX)) as u16, name)
    }

    /// A line break in a value would be the start of somebody else's header line.
    fn extend_flat(&mut self, value: &[u8]) {
        let start = self.side.len();
        self.side.extend_from_slice(value);
        if memchr2(b'\r', b'\n', value).is_some() {
            for byte in &mut self.side[start..] {
                if matches!(byte, b'\r' | b'\n') {
                    *byte = b' ';
                }
            }
        }
    }

    fn extend(&mut self, span: Span) {
        match span.home {
            Home::Wire => self.side.extend_from_slice(&self.wire[span.range()]),
            Home::Side => self.side.extend_from_within(span.range()),
        }
    }

    fn begin_edit(&mut self, length: usize) {
        self.is_edited = true;
        if self.side.capacity() == 0 {
            self.side.reserve(length.max(384));
        }
    }

    /// Puts bytes into the side buffer.
    pub(crate) fn keep(&mut self, bytes: &[u8]) -> Span {
        self.begin_edit(bytes.len());
        let start = self.side.len();
        self.side.extend_from_slice(bytes);
        Span::new(Home::Side, start, self.side.len())
    }

    pub(crate) fn body(&self) -> &[u8] {
        match &self.body {
            Body::Wire { start, end } => &self.wire[*start..*end],
            Body::Own(bytes) => bytes,
        }
    }

    /// RFC 3261 §20.14, §20.15: the body with the two header lines that describe it.
    pub(crate) fn set_body(&mut self, content_type: &str, body: Bytes) {
        match content_type {
            "" => _ = self.remove(Name::ContentType),
            _ => self.set(Name::ContentType, content_type),
        }
        self.body = Body::Own(body);
        self.set_content_length();
    }

    /// RFC 3261 §20.14: states the length of the body, as stream transports need it.
    pub(crate) fn set_content_length(&mut self) {
        let length = self.body().len();
        let is_right = self.count(Name::ContentLength) == 1
            && self.get(Name::ContentLength).and_then(parameter::number) == Some(length);
        if !is_right {
            self.set(Name::ContentLength, &length.to_string());
        }
    }

    /// A message of header lines yet to come, with this start line.
    pub(crate) fn with_start_line(first: &str, second: &str, is_request: bool) -> Headers {
        let mut headers = Headers {
            wire: Bytes::new(),
            side: Vec::with_capacity(1024),
            lines: SmallVec::new(),
            start: StartLine {
                raw: Span::EMPTY,
                first: Span::EMPTY,
                second: Span::EMPTY,
                method: Method::Other,
                status: 0,
            },
            blank: Span::EMPTY,
            body: Body::Own(Bytes::new()),
            is_edited: true,
        };
        headers.blank = headers.keep(b"\r\n");
        headers.set_start_line(first, second, is_request);
        headers
    }

    pub(crate) fn set_start_line(&mut self, first: &str, second: &str, is_request: bool) {
        self.is_edited = true;
        let start = self.side.len();
        if !is_request {
            self.side.extend_from_slice(b"SIP/2.0 ");
        }
        let first_start = self.side.len();
        self.extend_flat(first.as_bytes());
        let first_end = self.side.len();
        self.side.push(b' ');
        let second_start = self.side.len();
        self.extend_flat(second.as_bytes());
        let second_end = self.side.len();
        self.side.extend_from_slice(if is_request { b" SIP/2.0\r\n" } else { b"\r\n" });
        self.start.raw = Span::new(Home::Side, start, self.side.len());
        self.start.first = Span::new(Home::Side, first_start, first_end);
        self.start.second = Span::new(Home::Side, second_start, second_end);
    }

    /// The whole message: what was not edited is as it came, byte for byte.
    pub(crate) fn to_bytes(&self) -> Bytes {
        if let (false, Body::Wire { end, .. }) = (self.is_edited, &self.body) {
            return self.wire.slice(self.start.raw.start as usize..*end);
        }
        let lines = self.lines.iter().map(|line| line.raw().len()).sum::<usize>();
        let length = self.start.raw.len() + lines + self.blank.len() + self.body().len();
        let mut out = BytesMut::with_capacity(length);
        let mut run = self.start.raw;
        for span in self.lines.iter().map(|line| line.raw()).chain([self.blank]) {
            // Neighbours in the same buffer are copied at once.
            if span.home == run.home && span.start == run.end {
                run.end = span.end;
            } else {
                out.put_slice(self.bytes(run));
                run = span;
            }
        }
        out.put_slice(self.bytes(run));
        out.put_slice(self.body());
        out.freeze()
    }
}
