//! Messages that are hard to read, and messages that must not be accepted, in the spirit of
//! RFC 4475 and RFC 5118. All of them are our own.

use std::net::IpAddr;

use bytes::Bytes;
use common::limits::Limits;
use common::sip::address::{Address, Contact};
use common::sip::auth::credentials_for;
use common::sip::header::Name;
use common::sip::message::{Message, Method, ParseError, Request, Response};
use common::sip::p_headers::AccessNetworkInfo;
use common::sip::security::mechanisms;
use common::sip::uri::{Scheme, Uri};
use common::sip::via::Via;

fn parse(bytes: impl AsRef<[u8]>) -> Result<Message, ParseError> {
    Message::parse(Bytes::copy_from_slice(bytes.as_ref()), &Limits::default())
}

fn request(bytes: impl AsRef<[u8]>) -> Request {
    let bytes = bytes.as_ref();
    match parse(bytes) {
        Ok(Message::Request(request)) => request,
        other => panic!("{}: {other:?}", String::from_utf8_lossy(bytes)),
    }
}

fn response(bytes: impl AsRef<[u8]>) -> Response {
    let bytes = bytes.as_ref();
    match parse(bytes) {
        Ok(Message::Response(response)) => response,
        other => panic!("{}: {other:?}", String::from_utf8_lossy(bytes)),
    }
}

/// `text` with CRLF for each line end.
fn crlf(text: &str) -> String {
    text.replace('\n', "\r\n")
}

/// An OPTIONS that is right in every respect, for tests that spoil one thing.
const PLAIN: &str = "OPTIONS sip:ims.example SIP/2.0
Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK77
Max-Forwards: 70
From: <sip:a@ims.example>;tag=1
To: <sip:b@ims.example>
Call-ID: c1@192.0.2.1
CSeq: 5 OPTIONS
Content-Length: 0

";

fn spoilt(from: &str, to: &str) -> String {
    assert!(PLAIN.contains(from), "{from}");
    crlf(&PLAIN.replacen(from, to, 1))
}

/// RFC 3261 §7.3.1; S-105: folding, compact names, any case and order, blanks before the colon.
#[test]
fn tortuous_headers() {
    let text = crlf(
        "REGISTER sip:ims.example;p1;p2=%41 SIP/2.0
l\t:
\t0
uNKNOWN-hEADER  :  a;;,,;;b
x.y!%*_+`'~z: kept
TO :
 sip:+15550100@ims.example ;   unknown = \"a \\\" ; b\"
fROM: \"A \\\\ \\\"B\\\"\"
   <sip:+15550100@ims.example>
  ;
  tag = 98asjd8
mAX-fORWARDS: 0068
cSEQ: 0009
  REGISTER
Via  : SIP  /   2.0
 /UDP
    192.0.2.2;branch=390skdjuw
s:
v:  SIP  / 2.0  / TCP     sp.example   ;
  branch  =   z9hG4bK9ikj8  ,
 SIP  /    2.0   / UDP  192.168.255.111   ; branch=
 z9hG4bK30239
Call-iD : fold.ed@host
m:\"Quoted string \\\"\\\"\" <sip:j@ims.example>;newparam
  =    newvalue ;
  secondparam ; q = 0.33,
  <tel:+15550100>
Contact: *
k: path
 , sec-agree

",
    );
    let message = request(&text);
    message.check().unwrap();
    let headers = message.headers();
    assert_eq!(message.to_bytes(), text.as_bytes());
    assert_eq!((message.cseq(), message.call_id()), (9, "fold.ed@host"));
    assert_eq!((message.from_tag(), message.to_tag()), (Some("98asjd8"), None));
    assert_eq!(headers.get(Name::MaxForwards), Some("0068"));
    assert_eq!(headers.get(Name::ContentLength), Some("0"));
    assert_eq!(headers.get_other("Unknown-Header"), Some("a;;,,;;b"));
    assert_eq!(headers.get_other("X.Y!%*_+`'~Z"), Some("kept"));
    assert_eq!(headers.get_other("S"), Some(""));
    let vias: Vec<Via> =
        headers.values(Name::Via).map(|value| Via::parse(value).unwrap()).collect();
    let written: Vec<String> = vias.iter().map(Via::to_string).collect();
    assert_eq!(
        written,
        [
            "SIP/2.0/UDP 192.0.2.2;branch=390skdjuw",
            "SIP/2.0/TCP sp.example;branch=z9hG4bK9ikj8",
            "SIP/2.0/UDP 192.168.255.111;branch=z9hG4bK30239",
        ]
    );
    let contacts: Vec<Contact> =
        headers.values(Name::Contact).map(|value| Contact::parse(value).unwrap()).collect();
    let [Contact::Address(first), Contact::Address(second), Contact::Star] = &contacts[..] else {
        panic!("{contacts:?}")
    };
    assert_eq!((first.q(), first.parameter("newparam")), (Some(330), Some("newvalue")));
    assert_eq!(second.uri.scheme, Scheme::Tel);
    assert!(headers.has_token(Name::Supported, "Sec-Agree"));
    let to = Address::parse(headers.get(Name::To).unwrap()).unwrap();
    assert_eq!(to.parameter("unknown"), Some("a \\\" ; b"));
}

/// The edits of a proxy keep the rest, folded lines too (RFC 3261 §16.6; S-35, S-48).
#[test]
fn edits_keep_the_rest() {
    let text = crlf(
        "INVITE sip:b@ims.example SIP/2.0
v: SIP/2.0/UDP a.example;branch=z9hG4bK1 ,
  SIP/2.0/UDP b.example;branch=z9hG4bK2
Route: <sip:p.example;lr>, <sip:s.example;lr>
RoUtE:   <sip:t.example;lr>
Require: 100rel, sec-agree
Require : sec-agree
X-Odd  :\t folded
  twice

body",
    );
    let mut message = request(&text);
    let headers = message.headers_mut();
    assert_eq!(headers.pop_value(Name::Route).as_deref(), Some("<sip:p.example;lr>"));
    headers.set_first_value(Name::Via, "SIP/2.0/UDP a.example;branch=z9hG4bK1;received=192.0.2.9");
    headers.remove_token(Name::Require, "SEC-AGREE");
    headers.push_front(Name::Via, "SIP/2.0/UDP c.example;branch=z9hG4bK3");
    headers.append_other("X-New", "1\r\nX-Evil: 2");
    message.set_uri("sip:b@192.0.2.7");
    let expected = crlf(
        "INVITE sip:b@192.0.2.7 SIP/2.0
Via: SIP/2.0/UDP c.example;branch=z9hG4bK3
v: SIP/2.0/UDP a.example;branch=z9hG4bK1;received=192.0.2.9 , SIP/2.0/UDP b.example;branch=z9hG4bK2
Route: <sip:s.example;lr>
RoUtE:   <sip:t.example;lr>
Require: 100rel
X-Odd  :\t folded
  twice
X-New: 1  X-Evil: 2

body",
    );
    assert_eq!(String::from_utf8_lossy(&message.to_bytes()), expected);
    assert_eq!((message.method(), message.uri()), (Method::Invite, "sip:b@192.0.2.7"));
    let headers = message.headers_mut();
    assert_eq!(headers.branch(), Some("z9hG4bK3"));
    assert!(!headers.has_token(Name::Require, "sec-agree"));
    for branch in ["z9hG4bK3", "z9hG4bK1", "z9hG4bK2"] {
        assert_eq!(
            Via::parse(&headers.pop_value(Name::Via).unwrap()).unwrap().branch(),
            Some(branch)
        );
    }
    assert_eq!(headers.pop_value(Name::Via), None);
    assert_eq!(headers.remove(Name::Route), 2);
    assert_eq!((headers.remove(Name::Route), headers.remove_other("x-odd")), (0, 1));
    headers.set(Name::Require, "a");
    headers.append(Name::Require, "b");
    headers.set(Name::Require, "c");
    assert_eq!(headers.lines(Name::Require).collect::<Vec<_>>(), ["c"]);
    message.set_body("text/plain", Bytes::from_static(b"xyz"));
    let again = request(message.to_bytes());
    assert_eq!((again.body(), again.headers().get(Name::ContentLength)), (&b"xyz"[..], Some("3")));
    assert_eq!(again.headers().get(Name::ContentType), Some("text/plain"));
}

/// RFC 3261 §8.2.6.2; S-57, S-59: what a response copies, as it was written.
#[test]
fn responses_copy() {
    let text = crlf(
        "REGISTER sip:ims.example SIP/2.0
v: SIP/2.0/UDP i.example;branch=z9hG4bK2
Via: SIP/2.0/UDP p.example;branch=z9hG4bK1,
 SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK0
f: <sip:a@ims.example>;tag=1
t: <sip:a@ims.example>
i: x
CSeq: 25 REGISTER
Timestamp: 54
l: 0

",
    );
    let answer = request(&text).response(401, "Unauthorized");
    let expected = crlf(
        "SIP/2.0 401 Unauthorized
v: SIP/2.0/UDP i.example;branch=z9hG4bK2
Via: SIP/2.0/UDP p.example;branch=z9hG4bK1,
 SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK0
f: <sip:a@ims.example>;tag=1
t: <sip:a@ims.example>
i: x
CSeq: 25 REGISTER
Content-Length: 0

",
    );
    assert_eq!(String::from_utf8_lossy(&answer.to_bytes()), expected);
    answer.check().unwrap();
    assert_eq!(answer.headers().values(Name::Via).count(), 3);
    assert_eq!((answer.cseq(), answer.cseq_method()), (25, Method::Register));
    assert_eq!((answer.status(), answer.reason()), (401, "Unauthorized"));
    let trying = request(&text).response(100, "Trying");
    assert_eq!(trying.headers().get(Name::Timestamp), Some("54"));
    assert!(trying.is_provisional() && !answer.is_success());
}

/// Right, if unusual (RFC 3261 §7, §25.1).
#[test]
fn acceptable_requests() {
    let method = "!interesting-Method0123456789_*+`.%indeed'~";
    let long = "x".repeat(4000);
    let cases = [
        PLAIN.replace("OPTIONS", method),
        PLAIN.replace("sip:ims.example", "sip:%00%2e@ims.example;a=%20?b=c"),
        PLAIN.replace("sip:ims.example", "sips:user;par=u%40example.net@[2001:db8::1]:5061"),
        PLAIN.replace("sip:ims.example", "tel:+1-555-0100;phone-context=ims.example"),
        PLAIN.replace("sip:ims.example", "urn:service:sos.police"),
        PLAIN.replace("sip:ims.example", "nobodyKnowsThisScheme:opaque;content"),
        PLAIN.replace("SIP/2.0\n", "sip/2.0\n"),
        PLAIN.replace("a@ims.example>", &format!("{long}@ims.example>")),
        PLAIN.replace("77", &long),
        PLAIN.replace("<sip:a@ims.example>", "\"\u{65e5}\u{672c}\" <sip:a@ims.example>"),
        PLAIN.replace("<sip:a@ims.example>", "\"<sip:x@y>, (\\\"\" <sip:a@ims.example>"),
        PLAIN.replace("<sip:a@ims.example>;tag=1", "sip:a@ims.example;tag=1"),
        PLAIN.replace(";tag=1", ""),
        PLAIN.replace("Max-Forwards: 70\n", ""),
        PLAIN.replace("Max-Forwards: 70\n", "Max-Forwards: 0\n"),
        PLAIN.replace("Max-Forwards: 70\n", "Max-Forwards: 255\n"),
        PLAIN.replace("Content-Length: 0\n", ""),
        PLAIN.replace("Content-Length: 0\n", "l: 0\nContent-Length: 0\n"),
        PLAIN.replace("CSeq: 5", "CSeq: 2147483647"),
        PLAIN.replace("c1@192.0.2.1", "a\"(/)[]?{}:<>%"),
        PLAIN.replace(
            "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK77",
            "Via: SIP/2.0/TLS-SCTP t1.example;branch=0abab, SIP/2.0/X a;branch=b;c=\"d,e\"",
        ),
        format!("\n\n\n{PLAIN}"),
    ];
    for text in cases {
        let text = crlf(&text);
        let message = request(&text);
        message.check().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(message.to_bytes(), text.trim_start().as_bytes());
        let bare = request(text.replace("\r\n", "\n"));
        bare.check().unwrap_or_else(|error| panic!("bare line feeds: {text}: {error}"));
        assert_eq!(bare.to_bytes(), text.trim_start().replace("\r\n", "\n").as_bytes());
    }
}

/// RFC 3261 §18.3; S-25: Content-Length decides about the body of a datagram.
#[test]
fn bodies() {
    let with = |length: &str, body: &[u8]| {
        let head = spoilt("Content-Length: 0\n", length);
        [head.as_bytes(), body].concat()
    };
    let binary: Vec<u8> = (0..=255).chain(*b"\r\n\r\n--x\r\n\0").collect();
    let message = request(with("", &binary));
    assert_eq!((message.body(), message.to_bytes().len()), (&binary[..], with("", &binary).len()));
    let dropped = request(with("Content-Length: 3\n", b"abcdef"));
    assert_eq!(dropped.body(), b"abc");
    assert_eq!(dropped.to_bytes(), with("Content-Length: 3\n", b"abc"));
    assert_eq!(request(with("Content-Length: 0\n", b"rest")).body(), b"");
    let error = parse(with("Content-Length: 7\n", b"abcdef")).unwrap_err();
    assert_eq!((error.expected, error.status()), ("body as long as Content-Length", 400));
    for length in ["-1", "0x3", "3 3", "", "3;x", "99999999999999999999"] {
        let message = request(with(&format!("Content-Length: {length}\n"), b"abc"));
        assert_eq!(message.check().unwrap_err().expected, "Content-Length number", "{length}");
    }
    let mut unstated = request(with("", b"abc"));
    unstated.set_content_length();
    assert_eq!(unstated.headers().get(Name::ContentLength), Some("3"));
    unstated.set_content_length();
    assert_eq!(unstated.headers().count(Name::ContentLength), 1);
}

/// RFC 3261 §7.3.1: octets that are no text are passed on, but never read as a value.
#[test]
fn values_that_are_not_utf8() {
    let text = spoilt("Max-Forwards", "User-Agent: \u{1}x\nOrganization: \u{1}\nMax-Forwards");
    let bytes: Vec<u8> = text.bytes().map(|byte| if byte == 1 { 0xE9 } else { byte }).collect();
    let mut message = request(&bytes);
    message.check().unwrap();
    let headers = message.headers_mut();
    assert_eq!(headers.get(Name::UserAgent), None);
    assert!(headers.has(Name::UserAgent) && headers.is_unreadable(Name::UserAgent));
    assert_eq!(headers.raw(Name::UserAgent).collect::<Vec<_>>(), [b"\xE9x"]);
    assert_eq!(headers.get_other("organization"), None);
    headers.push_front(Name::Path, "<sip:p.example;lr>");
    let written = message.to_bytes();
    assert_eq!(written.iter().filter(|byte| **byte == 0xE9).count(), 2);
    let spoilt = text.replace("c1@", "\u{1}");
    let bytes: Vec<u8> = spoilt.bytes().map(|byte| if byte == 1 { 0xE9 } else { byte }).collect();
    assert_eq!(request(bytes).check().unwrap_err().expected, "Call-ID");
}

/// Requests that cannot be indexed, the answer to each, and that it can be given
/// (RFC 3261 §21.4.1, §21.5.6; S-14).
#[test]
fn unparsable_requests() {
    let cases = [
        ("sip:ims.example SIP/2.0", "sip:ims.example SIP/2.0,", "SIP version", 400),
        ("sip:ims.example SIP/2.0", "sip:ims.example SIP/2.0 ", "SIP version", 400),
        ("sip:ims.example SIP/2.0", "sip:ims.example  SIP/2.0", "Request-URI", 400),
        ("sip:ims.example SIP/2.0", " sip:ims.example SIP/2.0", "Request-URI", 400),
        (
            "sip:ims.example SIP/2.0",
            "sip:ims.example\tSIP/2.0",
            "SIP version in the request line",
            400,
        ),
        ("sip:ims.example SIP/2.0", "sip:ims.example; lr SIP/2.0", "Request-URI", 400),
        ("sip:ims.example SIP/2.0", "SIP/2.0", "SIP version in the request line", 400),
        ("sip:ims.example SIP/2.0", "sip:ims.example", "SIP version in the request line", 400),
        ("sip:ims.example SIP/2.0", "sip:ims.example HTTP/1.1", "SIP version", 400),
        ("sip:ims.example SIP/2.0", "sip:ims.example SIP/", "SIP version", 400),
        ("sip:ims.example SIP/2.0", "sip:ims.example SIP/2", "SIP version", 400),
        ("sip:ims.example SIP/2.0", "sip:ims.example SIP/7.0", "SIP version 2.0", 505),
        ("sip:ims.example SIP/2.0", "sip:ims.example SIP/2.01", "SIP version 2.0", 505),
        ("Max-Forwards: 70", "Max-Forwards 70", "colon of a header line", 400),
        ("Max-Forwards: 70", ": 70", "header name", 400),
        ("Max-Forwards: 70", "Max Forwards: 70", "header name", 400),
        ("Max-Forwards: 70", "Max-F\u{f6}rwards: 70", "header name", 400),
        ("Max-Forwards: 70", "\rMax-Forwards: 70", "header name", 400),
        ("Max-Forwards: 70", "X: 1\rMax-Forwards: 70", "line feed behind a carriage return", 400),
        ("Max-Forwards: 70", "X: 1\r ", "line feed behind a carriage return", 400),
        ("0\n\n", "0\n", "empty line behind the headers", 400),
        ("Content-Length: 0", "Content-Length: 1", "body as long as Content-Length", 400),
    ];
    for (from, to, expected, status) in cases {
        let text = spoilt(from, to);
        let error = parse(&text).expect_err(&text);
        assert_eq!((error.expected, error.status()), (expected, status), "{text}");
        assert!(error.position <= text.len());
        let bytes = Bytes::from(text.clone());
        let salvaged = Request::salvage(bytes, &Limits::default()).expect(&text);
        assert_eq!(salvaged.method_text(), "OPTIONS");
        let answer = salvaged.response(status, error.expected);
        let again = response(answer.to_bytes());
        again.check().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(
            (again.call_id(), again.headers().branch()),
            ("c1@192.0.2.1", Some("z9hG4bK77"))
        );
    }
    for text in [
        "",
        "\r\n\r\n",
        "\0",
        "x",
        "OPTIONS",
        "OPTIONS \n",
        "SIP/2.0 200 OK\r\nVia: x\r\n\r\n",
        "OPTIONS sip:h SIP/2.0\r\n\r\n",
        "OPTI(NS sip:h SIP/2.0\r\nVia: x\r\n\r\n",
    ] {
        assert!(Request::salvage(Bytes::from(text), &Limits::default()).is_none(), "{text:?}");
    }
    for text in
        ["", "\r\n\r\n", "\0", "x", "OPTIONS", "OPTIONS \n", " OPTIONS sip:h SIP/2.0\r\n\r\n"]
    {
        assert!(parse(text).is_err(), "{text:?}");
    }
}

/// RFC 3261 §8.1.1, §16.3: requests that are indexed and then refused.
#[test]
fn unacceptable_requests() {
    let cases = [
        ("sip:ims.example SIP", "<sip:ims.example> SIP", "Request-URI"),
        ("sip:ims.example SIP", "ims.example SIP", "Request-URI"),
        ("sip:ims.example SIP", "sip:2001:db8::1 SIP", "Request-URI"),
        ("CSeq: 5 OPTIONS", "CSeq: 5 INVITE", "CSeq with the method of the request"),
        ("CSeq: 5 OPTIONS", "CSeq: 5 options", "CSeq with the method of the request"),
        ("CSeq: 5 OPTIONS", "CSeq: 2147483648 OPTIONS", "CSeq number and method"),
        ("CSeq: 5 OPTIONS", "CSeq: 36893488147419103232 OPTIONS", "CSeq number and method"),
        ("CSeq: 5 OPTIONS", "CSeq: -5 OPTIONS", "CSeq number and method"),
        ("CSeq: 5 OPTIONS", "CSeq: 5", "CSeq number and method"),
        ("CSeq: 5 OPTIONS", "CSeq: 5 OPTIONS OPTIONS", "CSeq number and method"),
        ("CSeq: 5 OPTIONS\n", "", "CSeq number and method"),
        ("CSeq: 5 OPTIONS\n", "CSeq: 5 OPTIONS\nCSeq: 5 OPTIONS\n", "one CSeq"),
        ("Max-Forwards: 70", "Max-Forwards: 256", "Max-Forwards of 0 to 255"),
        ("Max-Forwards: 70", "Max-Forwards: -1", "Max-Forwards of 0 to 255"),
        ("Max-Forwards: 70", "Max-Forwards:", "Max-Forwards of 0 to 255"),
        ("Max-Forwards: 70", "Max-Forwards: 7\nMax-Forwards: 8", "one Max-Forwards"),
        ("Call-ID: c1@192.0.2.1\n", "", "Call-ID"),
        ("Call-ID: c1@192.0.2.1\n", "Call-ID:\n", "Call-ID"),
        ("Call-ID: c1@192.0.2.1\n", "Call-ID: a b\n", "Call-ID"),
        ("Call-ID: c1@192.0.2.1\n", "i: a\nCall-ID: b\n", "one Call-ID"),
        ("To: <sip:b@ims.example>\n", "", "To"),
        ("To: <sip:b@ims.example>", "To: \"Unclosed <sip:b@ims.example>", "To"),
        ("To: <sip:b@ims.example>", "To: <sip:b@ims.example", "To"),
        ("To: <sip:b@ims.example>", "To: <sip:b@ims.example>;tag=", "value of a tag"),
        ("To: <sip:b@ims.example>", "To: <sip:b@ims.example>\nt: <sip:b@ims.example>", "one To"),
        ("From: <sip:a@ims.example>;tag=1\n", "", "From"),
        ("From: <sip:a@ims.example>;tag=1", "From: <sip:a b@ims.example>;tag=1", "From"),
        ("From: <sip:a@ims.example>;tag=1", "From: <sip:a@ims.example> tag=1", "From"),
        ("From: <sip:a@ims.example>;tag=1", "f: <sip:a@h>\nFrom: <sip:a@h>", "one From"),
        ("Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK77\n", "", "Via"),
        ("Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK77", "Via: ,", "Via"),
        ("UDP 192.0.2.1:5060;", "UDP 192.0.2.1:99999;", "Via sent-by"),
        ("UDP 192.0.2.1:5060;", "UDP 2001:db8::1;", "Via sent-by"),
        ("branch=z9hG4bK77", "branch=", "Via branch"),
        ("branch=z9hG4bK77", "branch=\"z", "Via parameters"),
        ("SIP/2.0/UDP", "SIP/7.0/UDP", "Via with SIP/2.0"),
        ("Content-Length: 0", "l: 0\nContent-Length: 1", "one Content-Length"),
    ];
    for (from, to, expected) in cases {
        let text = spoilt(from, to);
        let message = request(&text);
        let error = message.check().expect_err(&text);
        assert_eq!((error.expected, error.status()), (expected, 400), "{text}");
        assert_eq!(message.to_bytes(), text.as_bytes());
    }
}

/// S-47: a header line inside of another's value is no header line.
#[test]
fn two_headers_on_one_line() {
    let message =
        request(spoilt("Max-Forwards: 70", "Route: sip:scscf1.hims.net,Max-Forwards: 18"));
    assert!(!message.headers().has(Name::MaxForwards));
    let routes: Vec<_> =
        message.headers().values(Name::Route).map(|value| Address::parse(value).is_ok()).collect();
    assert_eq!(routes, [true, false]);
}

/// RFC 3261 §21.5.7: more than the limits allow.
#[test]
fn limits() {
    let limits = Limits { sip_message_bytes: 600, sip_headers: 10, ..Limits::default() };
    let parse = |text: &str| Message::parse(Bytes::from(text.to_owned()), &limits);
    let many = spoilt("Max-Forwards", &format!("{}Max-Forwards", "X: y\n".repeat(4)));
    let long = spoilt("Content-Length: 0\n", &format!("X: {}\n", "y".repeat(600)));
    assert!(parse(&crlf(PLAIN)).is_ok());
    for text in [many, long] {
        assert_eq!(parse(&text).unwrap_err().status(), 513);
        let salvaged = Request::salvage(Bytes::from(text), &limits).unwrap();
        assert!(salvaged.headers().len() <= 10);
        assert_eq!(salvaged.headers().branch(), Some("z9hG4bK77"));
    }
}

/// RFC 3261 §7.2.
#[test]
fn status_lines() {
    let lines = "Via: SIP/2.0/UDP h\r\n\r\n";
    for (line, status, reason) in [
        ("SIP/2.0 200 OK", 200, "OK"),
        ("SIP/2.0 100 ", 100, ""),
        ("SIP/2.0 699", 699, ""),
        ("sip/2.0 200 = 2**3 * 5**2 \u{41d}\u{43e}", 200, "= 2**3 * 5**2 \u{41d}\u{43e}"),
    ] {
        let message = response(format!("{line}\r\n{lines}"));
        assert_eq!((message.status(), message.reason()), (status, reason));
        assert_eq!(message.to_bytes(), format!("{line}\r\n{lines}").as_bytes());
    }
    for line in [
        "SIP/2.0 99 x",
        "SIP/2.0 700 x",
        "SIP/2.0 4294967301 x",
        "SIP/2.0 +200 x",
        "SIP/2.0 2e2 x",
        "SIP/2.0  200 x",
        "SIP/2.0 0200 x",
        "SIP/2.0",
        "SIP/2.0 ",
        "SIP/3.0 200 OK",
    ] {
        assert!(parse(format!("{line}\r\n{lines}")).is_err(), "{line}");
    }
    let mut odd = b"SIP/2.0 200 \xff\r\n".to_vec();
    odd.extend_from_slice(lines.as_bytes());
    assert_eq!(response(&odd).reason(), "");
    assert_eq!(response(&odd).to_bytes(), odd);
}

/// The notations of RFC 5118: references in brackets, and without where the grammar has none.
#[test]
fn ipv6() {
    let text = crlf(
        "REGISTER sip:[2001:db8::10] SIP/2.0
Via: SIP/2.0/TCP [2001:DB8::9:1]:6050;received=2001:db8::9:255;rport=7;branch=z9hG4bKas3-111
Via: SIP/2.0/UDP [::ffff:192.0.2.3];received=[2001:db8::9:255];branch=z9hG4bKas3
From: \"v6\" <sip:user@[2001:db8::10:5070];transport=tcp>;tag=81x2
To: sip:user@[2001:db8::10]:5070
Call-ID: SSG9559905523997077@[2001:db8::9:1]
CSeq: 98176 REGISTER
Contact: <sip:user@[2001:db8::9:1]:31800;maddr=[::1]>
",
    ) + "\r\n";
    let message = request(&text);
    message.check().unwrap();
    assert_eq!(message.to_bytes(), text.as_bytes());
    let vias: Vec<Via> =
        message.headers().values(Name::Via).map(|value| Via::parse(value).unwrap()).collect();
    let address: IpAddr = "2001:db8::9:255".parse().unwrap();
    assert_eq!((vias[0].received(), vias[1].received()), (Some(address), Some(address)));
    assert_eq!(vias[0].sent_by.to_string(), "[2001:db8::9:1]:6050");
    assert_eq!(vias[1].sent_by.to_string(), "[::ffff:192.0.2.3]");
    let uri = |name| Address::parse(message.headers().get(name).unwrap()).unwrap().uri;
    // A port inside of the brackets is a part of the address.
    assert_eq!(uri(Name::From).host_port.unwrap().port, None);
    assert_eq!(uri(Name::To).host_port.unwrap().port, Some(5070));
    assert_eq!(uri(Name::Contact).parameter("maddr"), Some("[::1]"));
    let same = |a: &str, b: &str| Uri::parse(a).unwrap().is_equivalent(&Uri::parse(b).unwrap());
    assert!(same("sip:a@[2001:DB8:0:0::1]", "sip:a@[2001:db8::1]"));
    assert!(!same("sip:a@[2001:db8::1:5070]", "sip:a@[2001:db8::1]:5070"));
}

/// The deregistration of the issue that this project answers: compact header forms (S-108 to
/// S-118), the same credentials twice (S-119).
#[test]
fn compact_deregistration() {
    let credentials = "Digest uri=\"sip:test.3gpp.com\",username=\"001010123456789@test.3gpp.com\",\
                       response=\"\",realm=\"test.3gpp.com\",nonce=\"\"";
    let text = crlf(&format!(
        "REGISTER sip:test.3gpp.com SIP/2.0
f: <sip:+11234567890@test.3gpp.com>;tag=589636628
t: <sip:+11234567890@test.3gpp.com>
CSeq: 589636509 REGISTER
i: 589636508_2363003488@10.133.202.46
v: SIP/2.0/UDP 10.133.202.46:5060;branch=z9hG4bK428556305
Max-Forwards: 70
m: <sip:+11234567890@10.133.202.46:5060>
P-Access-Network-Info: 3GPP-E-UTRAN-FDD; utran-cell-id-3gpp=3114800001FFFFFFF
l: 0
Authorization: {credentials}, {credentials}
Expires: 0

"
    ));
    let message = request(&text);
    message.check().unwrap();
    assert_eq!(message.to_bytes(), text.as_bytes());
    let headers = message.headers();
    assert_eq!((message.method(), message.uri()), (Method::Register, "sip:test.3gpp.com"));
    assert_eq!((message.from_tag(), message.to_tag()), (Some("589636628"), None));
    assert_eq!(message.cseq(), 589_636_509);
    assert_eq!(message.call_id(), "589636508_2363003488@10.133.202.46");
    let via = Via::parse(headers.get(Name::Via).unwrap()).unwrap();
    assert_eq!((via.sent_by.port, via.branch()), (Some(5060), Some("z9hG4bK428556305")));
    assert_eq!(headers.get(Name::MaxForwards), Some("70"));
    let contact = Contact::parse(headers.get(Name::Contact).unwrap()).unwrap();
    let Contact::Address(contact) = contact else { panic!("{contact:?}") };
    assert_eq!(
        (contact.uri.user.as_deref(), contact.expires_seconds()),
        (Some("+11234567890"), None)
    );
    let bound = Uri::parse("sip:+11234567890@10.133.202.46:31800").unwrap();
    assert!(!contact.uri.is_equivalent(&bound));
    let to = Address::parse(headers.get(Name::To).unwrap()).unwrap();
    assert_eq!(to.uri.public_identity().as_str(), "sip:+11234567890@test.3gpp.com");
    let access = AccessNetworkInfo::parse(headers.get(Name::PAccessNetworkInfo).unwrap()).unwrap();
    assert_eq!(access.eutran_cell().unwrap().tac, 1);
    assert_eq!(headers.get(Name::Expires), Some("0"));
    assert_eq!(headers.get(Name::ContentLength), Some("0"));
    let found = credentials_for(headers, "test.3gpp.com").unwrap().unwrap();
    assert_eq!(DIGEST, found.to_credentials());
}

const DIGEST: &str = "Digest uri=\"sip:test.3gpp.com\", username=\"001010123456789@test.3gpp.com\", \
                      response=\"\", realm=\"test.3gpp.com\", nonce=\"\"";

/// Oddities of phones in the field, with identities of our own: a list that ends in a comma, six
/// offers in one line and in six, blanks behind semicolons, feature tags with lists in quotes.
#[test]
fn phones() {
    let offers = ["hmac-md5-96", "hmac-sha-1-96"].map(|alg| {
        ["des-ede3-cbc", "aes-cbc", "null"].map(|ealg| {
            format!("ipsec-3gpp; alg={alg}; ealg={ealg}; spi-c=98; spi-s=4294967295; port-c=8034; port-s=8904")
        })
    });
    let offers = offers.concat();
    let text = crlf(&format!(
        "REGISTER sip:ims.mnc001.mcc001.3gppnetwork.org SIP/2.0
f: <sip:001010000000001@ims.mnc001.mcc001.3gppnetwork.org>;tag=1
t:    <sip:001010000000001@ims.mnc001.mcc001.3gppnetwork.org>
CSeq: 695724863 REGISTER
i: 17_23@2001:db8::7
v: SIP/2.0/TCP [2001:db8::7]:8904;branch=z9hG4bK37
m: <sip:001010000000001@[2001:db8::7]:8904>;+sip.instance=\"<urn:gsma:imei:00101000-000001-0>\";+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel,urn%3Aurn-7%3Ax\";+g.3gpp.smsip;video
k:path,   gruu,sec-agree
Security-Client: {}
Security-Verify: invalid, {}, invalid2;q=0.9,  ,
Security-Server: {}

",
        offers.join(","),
        offers[0],
        offers.join("\nSecurity-Server: "),
    ));
    let message = request(&text);
    message.check().unwrap();
    assert_eq!(message.to_bytes(), text.as_bytes());
    let headers = message.headers();
    let client = mechanisms(headers, Name::SecurityClient).unwrap();
    assert_eq!(client, mechanisms(headers, Name::SecurityServer).unwrap());
    assert_eq!((client.len(), client[5].number("spi-s")), (6, Some(u32::MAX)));
    assert_eq!(mechanisms(headers, Name::SecurityVerify).unwrap().len(), 3);
    assert!(headers.has_token(Name::Supported, "gruu"));
    let contact = Address::parse(headers.values(Name::Contact).next().unwrap()).unwrap();
    assert_eq!(contact.parameter("+sip.instance"), Some("<urn:gsma:imei:00101000-000001-0>"));
    assert_eq!(headers.values(Name::Contact).count(), 1);
}

/// RFC 3261 §18.1.1: nothing of a key shows in a log line made with `Debug`.
#[test]
fn debug_shows_no_values() {
    let mut challenge = request(crlf(PLAIN)).response(401, "Unauthorized");
    challenge.headers_mut().append(Name::WwwAuthenticate, "Digest ck=\"c0ffee\", ik=\"c0ffee\"");
    let shown = format!("{challenge:?}");
    assert!(shown.contains("401 Unauthorized") && !shown.contains("c0ffee"), "{shown}");
}
