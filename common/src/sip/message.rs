//! SIP messages (RFC 3261 §7): a lossless index over the received bytes, and edits beside it.
//!
//! Parsing copies nothing: a message keeps the buffer and, per header line, a name and spans.
//! What is not edited is written back byte for byte, folding, compact names and odd spelling
//! included. Text of edits lives in a side buffer.

use std::fmt;

use bytes::{Buf, Bytes};
use memchr::{memchr, memrchr};

use crate::limits::Limits;
use crate::sip::address::Address;
use crate::sip::header::Name;
use crate::sip::index::{Rigour, index};
pub use crate::sip::lines::Headers;
use crate::sip::lines::{Home, Span, StartLine};
use crate::sip::parameter;
use crate::sip::uri::Uri;
use crate::sip::via::Via;

/// RFC 3261 §7.1: any token is a method; the ones that decide something here have a variant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Method {
    Register,
    Invite,
    Ack,
    Bye,
    Cancel,
    Options,
    Prack,
    Update,
    Subscribe,
    Notify,
    Publish,
    Message,
    Info,
    Refer,
    /// Any other token; [`Request::method_text`] has it.
    Other,
}

/// Why bytes are not a SIP message. `position` is a byte offset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    pub position: usize,
    /// What was expected, fit for a reason phrase and a log line: `CSeq number`, `Via branch`, ...
    pub expected: &'static str,
}

#[derive(Clone, Debug)]
pub enum Message {
    Request(Request),
    Response(Response),
}

#[derive(Clone, Debug)]
pub struct Request(Headers);

#[derive(Clone, Debug)]
pub struct Response(Headers);

impl Message {
    /// RFC 3261 §7, §18.3: indexes one whole message. Leading CRLFs (keep-alives) are skipped.
    ///
    /// Without Content-Length the body runs to the end of `bytes` (datagrams); with a shorter
    /// Content-Length the rest is dropped, with a longer one this is an error.
    /// Checks only the start line and the shape of header lines; [`Request::check`] checks what a
    /// request must have. What cannot be indexed may still be answered: [`Request::salvage`].
    pub fn parse(mut bytes: Bytes, limits: &Limits) -> Result<Message, ParseError> {
        skip_line_ends(&mut bytes);
        if bytes.len() > limits.sip_message_bytes.min(u32::MAX as usize) {
            return Err(ParseError { position: 0, expected: ParseError::SHORTER_MESSAGE });
        }
        let end = memchr(b'\n', &bytes).map(|end| end + 1);
        let end = end.ok_or(ParseError { position: bytes.len(), expected: "start line" })?;
        let start = start_line(&bytes[..end])?;
        let headers = index(bytes, start, end, limits, Rigour::Shape)?;
        Ok(match start.status {
            0 => Message::Request(Request(headers)),
            _ => Message::Response(Response(headers)),
        })
    }
}

fn skip_line_ends(bytes: &mut Bytes) {
    let count = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    bytes.advance(count);
}

/// RFC 3261 §7.1, §7.2: one line, line end included. Parts are separated by single spaces; the
/// reason phrase may be missing, with or without the space in front of it.
fn start_line(line: &[u8]) -> Result<StartLine, ParseError> {
    let error = |position, expected| Err(ParseError { position, expected });
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let Some(first) = memchr(b' ', text) else { return error(0, "start line") };
    let span = |start, end| Span::new(Home::Wire, start, end);
    let raw = span(0, line.len());
    if text.len() > 4 && text[..4].eq_ignore_ascii_case(b"SIP/") {
        version(&text[..first], 0)?;
        let code = first + 1;
        let rest = &text[code..];
        let end = memchr(b' ', rest).unwrap_or(rest.len());
        let status = std::str::from_utf8(&rest[..end]).ok().and_then(parameter::number::<u16>);
        let Some(status @ 100..=699) = status.filter(|_| end == 3) else {
            return error(code, "status code");
        };
        let reason = (code + end + 1).min(text.len());
        let (first, second) = (span(code, code + end), span(reason, text.len()));
        return Ok(StartLine { raw, first, second, method: Method::Other, status });
    }
    if !parameter::is_token_bytes(&text[..first]) {
        return error(0, "method");
    }
    let last = memrchr(b' ', text).unwrap_or(first);
    if last == first {
        return error(text.len(), "SIP version in the request line");
    }
    version(&text[last + 1..], last + 1)?;
    let uri = &text[first + 1..last];
    let is_blank = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
    if uri.is_empty() || uri.iter().any(is_blank) || std::str::from_utf8(uri).is_err() {
        return error(first + 1, "Request-URI");
    }
    let method = Method::find(&text[..first]);
    let (first, second) = (span(0, first), span(first + 1, last));
    Ok(StartLine { raw, first, second, method, status: 0 })
}

/// `SIP/2.0` in any case; other numbers are another version, anything else is malformed.
fn version(text: &[u8], position: usize) -> Result<(), ParseError> {
    if text.eq_ignore_ascii_case(b"SIP/2.0") {
        return Ok(());
    }
    let is_number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let is_version = text.len() > 4
        && text[..4].eq_ignore_ascii_case(b"SIP/")
        && memchr(b'.', text)
            .is_some_and(|dot| dot >= 4 && is_number(&text[4..dot]) && is_number(&text[dot + 1..]));
    let expected = if is_version { ParseError::OTHER_VERSION } else { "SIP version" };
    Err(ParseError { position, expected })
}

impl ParseError {
    pub(crate) const OTHER_VERSION: &'static str = "SIP version 2.0";
    pub(crate) const SHORTER_MESSAGE: &'static str = "message within the size limit";
    pub(crate) const FEWER_HEADERS: &'static str = "fewer header lines";

    /// RFC 3261 §21.4.1, §21.5.6, §21.5.7: the status that answers a request with this fault.
    pub fn status(&self) -> u16 {
        match self.expected {
            ParseError::OTHER_VERSION => 505,
            ParseError::SHORTER_MESSAGE | ParseError::FEWER_HEADERS => 513,
            _ => 400,
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {} at octet {}", self.expected, self.position)
    }
}

impl std::error::Error for ParseError {}

impl Method {
    /// RFC 3261 §7.1: method names are compared with case.
    pub fn find(text: &[u8]) -> Method {
        match text {
            b"REGISTER" => Method::Register,
            b"INVITE" => Method::Invite,
            b"ACK" => Method::Ack,
            b"BYE" => Method::Bye,
            b"CANCEL" => Method::Cancel,
            b"OPTIONS" => Method::Options,
            b"PRACK" => Method::Prack,
            b"UPDATE" => Method::Update,
            b"SUBSCRIBE" => Method::Subscribe,
            b"NOTIFY" => Method::Notify,
            b"PUBLISH" => Method::Publish,
            b"MESSAGE" => Method::Message,
            b"INFO" => Method::Info,
            b"REFER" => Method::Refer,
            _ => Method::Other,
        }
    }
}

impl Request {
    /// A new request with `Content-Length: 0` and nothing else; add Via last (the endpoint does).
    pub fn new(method: &str, uri: &str) -> Request {
        let mut headers = Headers::with_start_line(method, uri, true);
        headers.start.method = Method::find(method.as_bytes());
        headers.append(Name::ContentLength, "0");
        Request(headers)
    }

    /// RFC 3261 §8.2, §21.4.1: what can be read of a request that [`Message::parse`] refuses, for an
    /// answer and for nothing else. Lines without the shape of a header line are left out, and so
    /// is all behind the limits. `None` for a response, and for what has no Via to answer to.
    pub fn salvage(mut bytes: Bytes, limits: &Limits) -> Option<Request> {
        skip_line_ends(&mut bytes);
        bytes.truncate(limits.sip_message_bytes.min(u32::MAX as usize));
        let end = memchr(b'\n', &bytes)? + 1;
        let text = bytes[..end].trim_ascii_end();
        let method_end = text.iter().position(|byte| matches!(byte, b' ' | b'\t'))?;
        // A status line has a slash in its first word, so that it is no method.
        if !parameter::is_token_bytes(&text[..method_end]) {
            return None;
        }
        let uri = text[method_end..].trim_ascii_start();
        let uri_start = text.len() - uri.len();
        let uri_end = uri_start + memchr(b' ', uri).unwrap_or(uri.len());
        let span = |start, end| Span::new(Home::Wire, start, end);
        let start = StartLine {
            raw: span(0, end),
            first: span(0, method_end),
            second: span(uri_start, uri_end),
            method: Method::find(&text[..method_end]),
            status: 0,
        };
        let headers = index(bytes, start, end, limits, Rigour::Salvage).ok()?;
        headers.get(Name::Via).is_some().then_some(Request(headers))
    }

    pub fn method(&self) -> Method {
        self.0.start.method
    }

    pub fn method_text(&self) -> &str {
        self.0.str(self.0.start.first)
    }

    /// The Request-URI as written. Never empty (but for a request from [`Request::salvage`]).
    pub fn uri(&self) -> &str {
        self.0.str(self.0.start.second)
    }

    pub fn set_uri(&mut self, uri: &str) {
        let method = self.method_text().to_owned();
        self.0.set_start_line(&method, uri, true);
    }

    pub fn headers(&self) -> &Headers {
        &self.0
    }

    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.0
    }

    pub fn body(&self) -> &[u8] {
        self.0.body()
    }

    /// Also sets Content-Length and Content-Type (an empty `content_type` removes it).
    pub fn set_body(&mut self, content_type: &str, body: Bytes) {
        self.0.set_body(content_type, body);
    }

    /// RFC 3261 §18.3: adds or mends Content-Length, without which no stream can carry the request.
    pub fn set_content_length(&mut self) {
        self.0.set_content_length();
    }

    pub fn to_bytes(&self) -> Bytes {
        self.0.to_bytes()
    }

    /// RFC 3261 §8.1.1, §16.3: Via, From, To, Call-ID, CSeq, Max-Forwards can be read, once each,
    /// and CSeq names the method. A missing Max-Forwards is tolerated, and so is a From without tag
    /// (RFC 3261 §12.1.1).
    pub fn check(&self) -> Result<(), ParseError> {
        if Uri::check(self.uri()).is_err() {
            return Err(ParseError { position: 0, expected: "Request-URI" });
        }
        check_common(&self.0)?;
        let headers = &self.0;
        let method = cseq(headers).map(|(_, method)| method);
        if method != Some(self.method_text()) {
            return Err(fault(headers, Name::CSeq, "CSeq with the method of the request"));
        }
        if headers.has(Name::MaxForwards) {
            let hops = headers.get(Name::MaxForwards).and_then(parameter::number::<u8>);
            hops.ok_or(fault(headers, Name::MaxForwards, "Max-Forwards of 0 to 255"))?;
        }
        Ok(())
    }

    pub fn call_id(&self) -> &str {
        self.0.get(Name::CallId).unwrap_or("")
    }

    /// The number of CSeq; 0 when it cannot be read (which `check` refuses).
    pub fn cseq(&self) -> u32 {
        cseq(&self.0).map_or(0, |(number, _)| number)
    }

    /// `tag` of From.
    pub fn from_tag(&self) -> Option<&str> {
        self.0.get(Name::From).and_then(tag)
    }

    /// `tag` of To.
    pub fn to_tag(&self) -> Option<&str> {
        self.0.get(Name::To).and_then(tag)
    }

    /// RFC 3261 §8.2.6: a response to this request, with Via, From, To, Call-ID, CSeq copied; To
    /// gets a tag from the endpoint when it is sent. A 100 also has the Timestamp.
    pub fn response(&self, status: u16, reason: &str) -> Response {
        let mut response = Response::new(status, reason);
        let headers = &mut response.0;
        headers.remove(Name::ContentLength);
        for name in [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq] {
            headers.copy_from(&self.0, name);
        }
        if status == 100 {
            headers.copy_from(&self.0, Name::Timestamp);
        }
        headers.append(Name::ContentLength, "0");
        response
    }
}

impl Response {
    /// A response with `Content-Length: 0` and nothing else; see [`Request::response`]. A status
    /// outside 100 to 699 becomes 500.
    pub fn new(status: u16, reason: &str) -> Response {
        let status = if (100..=699).contains(&status) { status } else { 500 };
        let mut headers = Headers::with_start_line(&status.to_string(), reason, false);
        headers.start.status = status;
        headers.append(Name::ContentLength, "0");
        Response(headers)
    }

    pub fn status(&self) -> u16 {
        self.0.start.status
    }

    /// As written; empty when it is missing or not UTF-8.
    pub fn reason(&self) -> &str {
        self.0.str(self.0.start.second)
    }

    pub fn headers(&self) -> &Headers {
        &self.0
    }

    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.0
    }

    pub fn body(&self) -> &[u8] {
        self.0.body()
    }

    /// Also sets Content-Length and Content-Type (an empty `content_type` removes it).
    pub fn set_body(&mut self, content_type: &str, body: Bytes) {
        self.0.set_body(content_type, body);
    }

    /// RFC 3261 §18.3: adds or mends Content-Length, without which no stream can carry the response.
    pub fn set_content_length(&mut self) {
        self.0.set_content_length();
    }

    pub fn to_bytes(&self) -> Bytes {
        self.0.to_bytes()
    }

    /// RFC 3261 §8.1.3: Via, From, To, Call-ID and CSeq can be read, once each.
    pub fn check(&self) -> Result<(), ParseError> {
        check_common(&self.0)
    }

    /// Method named by CSeq.
    pub fn cseq_method(&self) -> Method {
        cseq(&self.0).map_or(Method::Other, |(_, method)| Method::find(method.as_bytes()))
    }

    pub fn cseq(&self) -> u32 {
        cseq(&self.0).map_or(0, |(number, _)| number)
    }

    pub fn call_id(&self) -> &str {
        self.0.get(Name::CallId).unwrap_or("")
    }

    pub fn is_provisional(&self) -> bool {
        self.status() < 200
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status())
    }
}

/// RFC 3261 §20.16: number below 2^31 and method.
fn cseq(headers: &Headers) -> Option<(u32, &str)> {
    let (number, method) = headers.get(Name::CSeq)?.split_once([' ', '\t'])?;
    let number = parameter::number::<u32>(number).filter(|number| *number < 1 << 31)?;
    let method = parameter::trim(method);
    parameter::is_token(method).then_some((number, method))
}

/// `tag` among the header parameters of From or To.
fn tag(value: &str) -> Option<&str> {
    let (_, _, parameters) = crate::sip::address::split(value).ok()?;
    parameter::find_in(parameters, "tag").filter(|tag| !tag.is_empty())
}

/// What requests and responses must have alike.
fn check_common(headers: &Headers) -> Result<(), ParseError> {
    let repeated = headers.repeated();
    for name in ONCE.iter().filter(|name| repeated & (1 << **name as u32) != 0) {
        let mut values = headers.raw(*name);
        let first = values.next();
        if values.any(|value| Some(value) != first || !REPEATABLE.contains(name)) {
            return Err(fault(headers, *name, once(*name)));
        }
    }
    let via = headers.values(Name::Via).next().filter(|_| !headers.is_unreadable(Name::Via));
    let via = via.ok_or(fault(headers, Name::Via, "Via"))?;
    Via::check(via).map_err(|error| fault(headers, Name::Via, error.expected))?;
    for (name, expected) in [(Name::From, "From"), (Name::To, "To")] {
        let parameters = headers.get(name).and_then(|value| Address::check(value).ok());
        let parameters = parameters.ok_or(fault(headers, name, expected))?;
        if parameter::find_in(parameters, "tag") == Some("") {
            return Err(fault(headers, name, "value of a tag"));
        }
    }
    let call_id = headers.get(Name::CallId).unwrap_or("");
    if call_id.is_empty() || call_id.contains([' ', '\t']) {
        return Err(fault(headers, Name::CallId, "Call-ID"));
    }
    cseq(headers).ok_or(fault(headers, Name::CSeq, "CSeq number and method"))?;
    if headers.has(Name::ContentLength) {
        let length = headers.get(Name::ContentLength).and_then(parameter::number::<u32>);
        length.ok_or(fault(headers, Name::ContentLength, "Content-Length number"))?;
    }
    Ok(())
}

/// Header lines that stand once (RFC 3261 §7.3.1, §20).
const ONCE: &[Name] = &[
    Name::From,
    Name::To,
    Name::CallId,
    Name::CSeq,
    Name::MaxForwards,
    Name::ContentLength,
    Name::ContentType,
    Name::Expires,
    Name::Event,
];

/// Of these a repetition of the same value leaves no doubt.
const REPEATABLE: &[Name] =
    &[Name::ContentLength, Name::ContentType, Name::Expires, Name::MaxForwards, Name::Event];

fn once(name: Name) -> &'static str {
    match name {
        Name::From => "one From",
        Name::To => "one To",
        Name::CallId => "one Call-ID",
        Name::CSeq => "one CSeq",
        Name::MaxForwards => "one Max-Forwards",
        Name::ContentLength => "one Content-Length",
        Name::ContentType => "one Content-Type",
        Name::Expires => "one Expires",
        _ => "one Event",
    }
}

fn fault(headers: &Headers, name: Name, expected: &'static str) -> ParseError {
    ParseError { position: headers.offset(name), expected }
}
