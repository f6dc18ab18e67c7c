//! What a proxy does to messages (RFC 3261 §16): checks a request, recognises its transaction,
//! finds the way back, and makes ACK and CANCEL from what was sent.
//!
//! Functions of messages alone; [`super::endpoint`] has the state.

use std::borrow::Cow;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use crate::node::{Flow, Transport};
use crate::sip::header::Name;
use crate::sip::message::{Method, ParseError, Request, Response};
use crate::sip::uri::Host;
use crate::sip::via::Via;

/// RFC 3261 §8.1.1.7: what a branch of this RFC begins with.
pub(crate) const MAGIC_COOKIE: &str = "z9hG4bK";

/// RFC 3261 §18.1.1: a request longer than this must not go over UDP when the path MTU is unknown.
pub(crate) const UDP_REQUEST_LIMIT: usize = 1_300;

/// RFC 3261 §8.1.1.6.
const DEFAULT_MAX_FORWARDS: u32 = 70;

pub(super) const DEFAULT_PORT: u16 = 5060;

/// Why a request goes no further than its reception.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// RFC 3261 §21.4.1, §21.5.6, §21.5.7.
    Malformed(ParseError),
    /// RFC 3261 §16.3 step 3.
    TooManyHops,
    /// RFC 3261 §16.3 step 4.
    Loop,
    /// RFC 3261 §8.2.2.2.
    Merged,
    /// RFC 3261 §9.2: a CANCEL of nothing.
    NothingToCancel,
    /// RFC 3261 §21.5.4: too many transactions are open.
    Overload,
}

impl Refusal {
    pub fn status(&self) -> u16 {
        match self {
            Refusal::Malformed(error) => error.status(),
            Refusal::TooManyHops => 483,
            Refusal::Loop | Refusal::Merged => 482,
            Refusal::NothingToCancel => 481,
            Refusal::Overload => 503,
        }
    }

    pub fn reason(&self) -> Cow<'static, str> {
        match self {
            Refusal::Malformed(error) => {
                let name = match error.status() {
                    505 => "Version Not Supported",
                    513 => "Message Too Large",
                    _ => "Bad Request",
                };
                format!("{name}: expected {}", error.expected).into()
            }
            Refusal::TooManyHops => "Too Many Hops".into(),
            Refusal::Loop => "Loop Detected".into(),
            Refusal::Merged => "Merged Request".into(),
            Refusal::NothingToCancel => "Call/Transaction Does Not Exist".into(),
            Refusal::Overload => "Service Unavailable".into(),
        }
    }

    /// Label of the counter.
    pub fn label(&self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::TooManyHops => "max_forwards",
            Refusal::Loop => "loop",
            Refusal::Merged => "merged",
            Refusal::NothingToCancel => "nothing_to_cancel",
            Refusal::Overload => "overload",
        }
    }
}

/// RFC 3261 §16.3 steps 1 and 3: well-formed, and allowed one more hop.
pub(crate) fn check(request: &Request) -> Result<(), Refusal> {
    request.check().map_err(Refusal::Malformed)?;
    match max_forwards(request) {
        Some(0) => Err(Refusal::TooManyHops),
        _ => Ok(()),
    }
}

fn max_forwards(request: &Request) -> Option<u32> {
    request.headers().get(Name::MaxForwards)?.trim().parse().ok()
}

/// RFC 3261 §16.6 step 3: one hop less, or 70 where nothing was said.
pub(crate) fn spend_hop(request: &mut Request) {
    let left = max_forwards(request).map_or(DEFAULT_MAX_FORWARDS, |hops| hops.saturating_sub(1));
    let mut text = Digits::default();
    request.headers_mut().set(Name::MaxForwards, text.of(left));
}

/// RFC 3261 §8.1.1.6: a request of our own has a Max-Forwards.
pub(crate) fn give_hops(request: &mut Request) {
    if !request.headers().has(Name::MaxForwards) {
        let mut text = Digits::default();
        request.headers_mut().append(Name::MaxForwards, text.of(DEFAULT_MAX_FORWARDS));
    }
}

/// RFC 3261 §16.11, §16.3: true when a request without a transaction (an ACK) may go on.
pub(crate) fn has_hops_left(request: &Request) -> bool {
    max_forwards(request) != Some(0)
}

#[derive(Default)]
struct Digits(smallvec::SmallVec<[u8; 10]>);

impl Digits {
    fn of(&mut self, mut number: u32) -> &str {
        self.0.clear();
        loop {
            self.0.insert(0, b'0' + (number % 10) as u8);
            number /= 10;
            if number == 0 {
                break;
            }
        }
        std::str::from_utf8(&self.0).unwrap_or("0")
    }
}

/// The topmost Via, read.
pub(crate) fn top_via(request: &Request) -> Result<Via, ParseError> {
    let missing = ParseError { position: 0, expected: "Via" };
    Via::parse(request.headers().values(Name::Via).next().ok_or(missing)?)
}

/// RFC 3261 §18.2.1, RFC 3581 §4: notes in the topmost Via where the request came from. With a
/// reply flow given from outside, `rport` names its port, so that it agrees with where responses go.
pub(crate) fn mark_received(request: &mut Request, via: &mut Via, flow: Flow, reply: Option<Flow>) {
    let source = flow.remote.ip().to_canonical();
    let asks_for_port = via.parameter("rport").is_some();
    let is_elsewhere = match &via.sent_by.host {
        Host::Address(address) => address.to_canonical() != source,
        Host::Name(_) => true,
    };
    if !asks_for_port && !is_elsewhere {
        return;
    }
    via.set_parameter("received", Some(&source.to_string()));
    if asks_for_port {
        let port = reply.unwrap_or(flow).remote.port();
        via.set_parameter("rport", Some(&port.to_string()));
    }
    request.headers_mut().set_first_value(Name::Via, &via.to_string());
}

/// RFC 3261 §18.2.2, RFC 3581 §4: where responses go: for TCP the connection of the request, and
/// behind it a new one to the sent-by port; for UDP the source address, at the source port when
/// `rport` asks for it, else at the sent-by port.
///
/// DEVIATES: RFC 3261 §18.2.2: `maddr` is ignored, because it would let anybody aim our responses
/// at somebody else.
pub(crate) fn reply_flows(via: &Via, flow: Flow) -> (Flow, Option<Flow>) {
    let sent_by = SocketAddr::new(flow.remote.ip(), via.sent_by.port.unwrap_or(DEFAULT_PORT));
    match flow.transport {
        Transport::Tcp => {
            let local = SocketAddr::new(flow.local.ip(), 0);
            (flow, Some(Flow { local, remote: sent_by, ..flow }))
        }
        Transport::Udp if via.parameter("rport").is_some() => (flow, None),
        Transport::Udp => (Flow { remote: sent_by, ..flow }, None),
    }
}

/// RFC 3261 §17.2.3: what tells the transaction of a request, as text: branch, sent-by and method,
/// with ACK and CANCEL found under the method they belong to (`method`). Without the magic cookie
/// it is what RFC 2543 compared; the To tag stays out, because the ACK has one that the INVITE had
/// not.
pub(crate) fn transaction_key(request: &Request, via: &Via, method: &str, key: &mut String) {
    key.clear();
    let result = match via.branch() {
        Some(branch) if has_cookie(branch) => write!(key, "{branch} {} {method}", via.sent_by),
        branch => write!(
            key,
            "2543 {} {method} {} {} {} {} {}",
            request.uri(),
            request.call_id(),
            request.cseq(),
            request.from_tag().unwrap_or(""),
            via.sent_by,
            branch.unwrap_or(""),
        ),
    };
    debug_assert!(result.is_ok(), "writing to a String cannot fail");
}

pub(crate) fn has_cookie(branch: &str) -> bool {
    let cookie = branch.as_bytes().get(..MAGIC_COOKIE.len());
    cookie.is_some_and(|cookie| cookie.eq_ignore_ascii_case(MAGIC_COOKIE.as_bytes()))
}

/// What decides how a request is routed, in one number (RFC 3261 §16.6 step 8, RFC 5393 §4.2): the
/// same request that comes back with the same number loops, with another it spirals.
pub(crate) fn fingerprint(request: &Request, salt: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    salt.hash(&mut hasher);
    request.method_text().hash(&mut hasher);
    request.uri().hash(&mut hasher);
    for route in request.headers().lines(Name::Route) {
        route.hash(&mut hasher);
    }
    request.call_id().hash(&mut hasher);
    request.from_tag().hash(&mut hasher);
    request.to_tag().hash(&mut hasher);
    request.cseq().hash(&mut hasher);
    hasher.finish()
}

/// RFC 3261 §8.2.6.2, §19.3: the To tag of our responses. Made from the request, so that a
/// stateless answer repeats it and the one to a CANCEL has the one of its INVITE (§9.2).
pub(crate) fn tag_for(request: &Request, via: &Via, salt: u64) -> Tag {
    let mut hasher = DefaultHasher::new();
    (salt, "tag").hash(&mut hasher);
    request.call_id().hash(&mut hasher);
    via.branch().hash(&mut hasher);
    request.cseq().hash(&mut hasher);
    Tag(hasher.finish())
}

/// A To tag of ours: written only where it is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tag(u64);

impl Tag {
    pub fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// Puts a tag on the To of a response that has none.
pub(crate) fn add_to_tag(response: &mut Response, tag: Tag) {
    let Some(to) = response.headers().get(Name::To) else { return };
    let may_have_tag = to.as_bytes().windows(3).any(|text| text.eq_ignore_ascii_case(b"tag"));
    if may_have_tag {
        match crate::sip::address::Address::parse(to) {
            Ok(address) if address.parameter("tag").is_none() => (),
            Ok(_) | Err(_) => return,
        }
    }
    let tagged = format!("{to};tag={}", tag.text());
    response.headers_mut().set(Name::To, &tagged);
}

/// RFC 3261 §17.1.1.3: the ACK of a final response other than 2xx.
pub(crate) fn ack_of(invite: &Request, response: &Response) -> Request {
    let mut ack = within_transaction(invite, "ACK");
    ack.headers_mut().remove(Name::To);
    ack.headers_mut().copy_from(response.headers(), Name::To);
    ack
}

/// RFC 3261 §9.1: the CANCEL of an INVITE.
pub(crate) fn cancel_of(invite: &Request) -> Request {
    within_transaction(invite, "CANCEL")
}

/// A request of the same transaction as `invite`: its topmost Via, its Route, its CSeq number.
fn within_transaction(invite: &Request, method: &str) -> Request {
    let mut request = Request::new(method, invite.uri());
    let headers = request.headers_mut();
    if let Some(via) = invite.headers().values(Name::Via).next() {
        headers.append(Name::Via, via);
    }
    headers.copy_from(invite.headers(), Name::Route);
    let mut text = Digits::default();
    headers.append(Name::MaxForwards, text.of(DEFAULT_MAX_FORWARDS));
    for name in [Name::From, Name::To, Name::CallId] {
        headers.copy_from(invite.headers(), name);
    }
    headers.append(Name::CSeq, &format!("{} {method}", invite.cseq()));
    request
}

/// Label of a method in counters.
pub(crate) const fn method_label(method: Method) -> &'static str {
    match method {
        Method::Register => "REGISTER",
        Method::Invite => "INVITE",
        Method::Ack => "ACK",
        Method::Bye => "BYE",
        Method::Cancel => "CANCEL",
        Method::Options => "OPTIONS",
        Method::Prack => "PRACK",
        Method::Update => "UPDATE",
        Method::Subscribe => "SUBSCRIBE",
        Method::Notify => "NOTIFY",
        Method::Publish => "PUBLISH",
        Method::Message => "MESSAGE",
        Method::Info => "INFO",
        Method::Refer => "REFER",
        Method::Other => "other",
    }
}
