//! From a message here to one of `rsip`, for users of that crate.
//!
//! Names come out long, values unfolded. What `rsip` cannot express is an error: unknown methods,
//! `tel:` and `urn:` Request-URIs, IPv6 hosts of a Request-URI, header values that are not UTF-8.

use crate::sip::message::{Headers, Message, Request, Response};

impl TryFrom<&Request> for rsip::Request {
    type Error = rsip::Error;

    fn try_from(request: &Request) -> Result<rsip::Request, rsip::Error> {
        let start = format!("{} {} SIP/2.0", request.method_text(), request.uri());
        let plain = plain_bytes(&start, request.headers(), request.body())?;
        rsip::Request::try_from(plain.as_slice())
    }
}

impl TryFrom<&Response> for rsip::Response {
    type Error = rsip::Error;

    fn try_from(response: &Response) -> Result<rsip::Response, rsip::Error> {
        let start = format!("SIP/2.0 {} {}", response.status(), response.reason());
        let plain = plain_bytes(&start, response.headers(), response.body())?;
        rsip::Response::try_from(plain.as_slice())
    }
}

impl TryFrom<&Request> for rsip::SipMessage {
    type Error = rsip::Error;

    fn try_from(request: &Request) -> Result<rsip::SipMessage, rsip::Error> {
        rsip::Request::try_from(request).map(rsip::SipMessage::Request)
    }
}

impl TryFrom<&Response> for rsip::SipMessage {
    type Error = rsip::Error;

    fn try_from(response: &Response) -> Result<rsip::SipMessage, rsip::Error> {
        rsip::Response::try_from(response).map(rsip::SipMessage::Response)
    }
}

impl TryFrom<&Message> for rsip::SipMessage {
    type Error = rsip::Error;

    fn try_from(message: &Message) -> Result<rsip::SipMessage, rsip::Error> {
        match message {
            Message::Request(request) => request.try_into(),
            Message::Response(response) => response.try_into(),
        }
    }
}

/// The message as `rsip` understands it.
fn plain_bytes(start: &str, headers: &Headers, body: &[u8]) -> Result<Vec<u8>, rsip::Error> {
    let mut out = Vec::with_capacity(1024 + body.len());
    out.extend_from_slice(start.as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, name_text, value) in headers.iter() {
        let is_text = std::str::from_utf8(value).is_ok_and(|value| !value.contains(['\r', '\n']));
        if !is_text {
            let name = String::from_utf8_lossy(name_text);
            return Err(rsip::Error::ParseError(format!(
                "value of {name} is not one line of text"
            )));
        }
        out.extend_from_slice(name.map_or(name_text, |name| name.as_str().as_bytes()));
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    Ok(out)
}
