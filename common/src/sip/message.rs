//! SIP messages (RFC 3261 §7): a lossless index over the received bytes, and edits beside it.
//!
//! Parsing copies nothing: a message keeps the buffer and, per header line, a name and spans.
//! What is not edited is written back byte for byte, folding, compact names and odd spelling
//! included. Text of edits lives in a side buffer.

use bytes::Bytes;

use crate::limits::Limits;
use crate::sip::header::Name;

/// RFC 3261 §7.1: any token is a method; the ones that decide something here have a variant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Method {
    Register, Invite, Ack, Bye, Cancel, Options, Prack, Update, Subscribe, Notify, Publish, Message, Info, Refer,
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

/// What stands in for a message that could be indexed but is not acceptable: enough to answer 400.
/// (`parse` returns `Err` when not even that is possible.)
impl Message {
    /// Indexes one whole message. Leading CRLFs (keep-alives) are skipped.
    ///
    /// Without Content-Length the body runs to the end of `bytes` (datagrams); with a shorter
    /// Content-Length the rest is dropped, with a longer one this is an error.
    /// Checks only the start line and the shape of header lines; [`Request::check`] checks what a
    /// request must have.
    pub fn parse(bytes: Bytes, limits: &Limits) -> Result<Message, ParseError> { let _ = (bytes, limits); todo!() }
}

#[derive(Clone, Debug)]
pub struct Request {}
#[derive(Clone, Debug)]
pub struct Response {}

impl Request {
    /// A new request with `Content-Length: 0` and nothing else; add Via last (the endpoint does).
    pub fn new(method: &str, uri: &str) -> Request { let _ = (method, uri); todo!() }
    pub fn method(&self) -> Method { todo!() }
    pub fn method_text(&self) -> &str { todo!() }
    /// The Request-URI as written. Never empty.
    pub fn uri(&self) -> &str { todo!() }
    pub fn set_uri(&mut self, uri: &str) { let _ = uri; todo!() }
    pub fn headers(&self) -> &Headers { todo!() }
    pub fn headers_mut(&mut self) -> &mut Headers { todo!() }
    pub fn body(&self) -> &[u8] { todo!() }
    /// Also sets Content-Length and Content-Type.
    pub fn set_body(&mut self, content_type: &str, body: Bytes) { let _ = (content_type, body); todo!() }
    pub fn to_bytes(&self) -> Bytes { todo!() }
    /// RFC 3261 §8.1.1, §16.3: Via, From, To, Call-ID, CSeq, Max-Forwards can be read, once each,
    /// and CSeq names the method.
    pub fn check(&self) -> Result<(), ParseError> { todo!() }
    pub fn call_id(&self) -> &str { todo!() }
    /// The number of CSeq; 0 when it cannot be read (which `check` refuses).
    pub fn cseq(&self) -> u32 { todo!() }
    /// `tag` of From / To.
    pub fn from_tag(&self) -> Option<&str> { todo!() }
    pub fn to_tag(&self) -> Option<&str> { todo!() }
    /// A response to this request (RFC 3261 §8.2.6): Via, From, To, Call-ID, CSeq copied; To gets a
    /// tag from the endpoint when it is sent.
    pub fn response(&self, status: u16, reason: &str) -> Response { let _ = (status, reason); todo!() }
}

impl Response {
    pub fn status(&self) -> u16 { todo!() }
    pub fn reason(&self) -> &str { todo!() }
    pub fn headers(&self) -> &Headers { todo!() }
    pub fn headers_mut(&mut self) -> &mut Headers { todo!() }
    pub fn body(&self) -> &[u8] { todo!() }
    pub fn set_body(&mut self, content_type: &str, body: Bytes) { let _ = (content_type, body); todo!() }
    pub fn to_bytes(&self) -> Bytes { todo!() }
    /// Method named by CSeq.
    pub fn cseq_method(&self) -> Method { todo!() }
    pub fn cseq(&self) -> u32 { todo!() }
    pub fn call_id(&self) -> &str { todo!() }
    pub fn is_provisional(&self) -> bool { self.status() < 200 }
    pub fn is_success(&self) -> bool { (200..300).contains(&self.status()) }
}

/// The header lines of one message, in order.
///
/// Values are handed out as text: bytes that are not UTF-8 make a value unreadable to typed
/// accessors (`None`/absent there) but are kept and forwarded as they are; `raw` hands them out.
#[derive(Clone, Debug)]
pub struct Headers {}

impl Headers {
    /// Value of the first line of that name, unfolded and trimmed.
    pub fn get(&self, name: Name) -> Option<&str> { let _ = name; todo!() }
    /// One item per header line.
    pub fn lines(&self, name: Name) -> impl Iterator<Item = &str> { let _ = name; std::iter::empty() }
    /// One item per list element: lines split at commas outside quotes and angle brackets.
    pub fn values(&self, name: Name) -> impl Iterator<Item = &str> { let _ = name; std::iter::empty() }
    /// First line with a name outside of [`Name`], compared without case.
    pub fn get_other(&self, name: &str) -> Option<&str> { let _ = name; todo!() }
    pub fn has(&self, name: Name) -> bool { let _ = name; todo!() }
    /// True when a list header such as Require or Supported holds this option tag (no case).
    pub fn has_token(&self, name: Name, token: &str) -> bool { let _ = (name, token); todo!() }
    /// A new line behind the last one.
    pub fn append(&mut self, name: Name, value: &str) { let _ = (name, value); todo!() }
    pub fn append_other(&mut self, name: &str, value: &str) { let _ = (name, value); todo!() }
    /// A new line in front of the first one of that name (at the very top when there is none).
    pub fn push_front(&mut self, name: Name, value: &str) { let _ = (name, value); todo!() }
    /// Replaces all lines of that name by one (in the place of the first), or appends it.
    pub fn set(&mut self, name: Name, value: &str) { let _ = (name, value); todo!() }
    /// How many lines were removed.
    pub fn remove(&mut self, name: Name) -> usize { let _ = name; todo!() }
    pub fn remove_other(&mut self, name: &str) -> usize { let _ = name; todo!() }
    /// Takes the first list element of the first line (Via, Route); the line goes when it is empty.
    pub fn pop_value(&mut self, name: Name) -> Option<String> { let _ = name; todo!() }
    /// Replaces the first list element of the first line.
    pub fn set_first_value(&mut self, name: Name, value: &str) { let _ = (name, value); todo!() }
    /// Removes a token from a list header such as Require, and the header when it gets empty.
    pub fn remove_token(&mut self, name: Name, token: &str) { let _ = (name, token); todo!() }
    /// Copies all lines of that name, as written.
    pub fn copy_from(&mut self, other: &Headers, name: Name) { let _ = (other, name); todo!() }
    pub fn len(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { self.len() == 0 }
}
