//! name-addr and addr-spec with header parameters: From, To, Contact, Route, Path,
//! Service-Route, P-Associated-URI, P-Asserted-Identity (RFC 3261 §20.10).

use std::fmt;

use crate::sip::message::ParseError;
use crate::sip::parameter;
use crate::sip::uri::Uri;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// As written, quotes included.
    pub display_name: Option<String>,
    /// The URI as written between the angle brackets.
    pub uri_text: String,
    pub uri: Uri,
    /// Header parameters, as written (quotes kept in values).
    pub parameters: Vec<(String, Option<String>)>,
}

/// One Contact header value (RFC 3261 §10.2.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Contact {
    Star,
    Address(Address),
}

impl Address {
    /// RFC 3261 §20.10: one list element. Without brackets all parameters belong to the header.
    pub fn parse(text: &str) -> Result<Address, ParseError> {
        let (display_name, uri_text, parameters) = split(text)?;
        let position = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize;
        let uri = Uri::parse(uri_text).map_err(|error| ParseError {
            position: position(uri_text) + error.position,
            expected: error.expected,
        })?;
        let parameters = parameter::owned(parameters)
            .map_err(|expected| ParseError { position: position(parameters), expected })?;
        Ok(Address {
            display_name: display_name.map(str::to_owned),
            uri_text: uri_text.to_owned(),
            uri,
            parameters,
        })
    }

    /// Says whether [`Address::parse`] would read it, without keeping anything; hands out the
    /// parameters.
    pub(crate) fn check(text: &str) -> Result<&str, ParseError> {
        let (_, uri_text, parameters) = split(text)?;
        Uri::check(uri_text)?;
        parameter::check(parameters).map_err(|expected| ParseError { position: 0, expected })?;
        Ok(parameters)
    }

    /// `<uri>` and nothing else.
    pub fn of(uri: &str) -> Result<Address, ParseError> {
        let uri_text = uri.to_owned();
        let uri = Uri::parse(uri)?;
        Ok(Address { display_name: None, uri_text, uri, parameters: Vec::new() })
    }

    /// Name compared without case; quotes taken off; `Some("")` for a parameter without value.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        parameter::get(&self.parameters, name)
    }

    /// `value` as it is to be written, quotes included.
    pub fn set_parameter(&mut self, name: &str, value: Option<&str>) {
        parameter::set(&mut self.parameters, name, value);
    }

    pub fn remove_parameter(&mut self, name: &str) {
        self.parameters.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
    }

    /// RFC 3261 §10.3: `expires` as seconds; unreadable values count as absent (step 6), larger than
    /// 2^32-1 as 2^32-1.
    pub fn expires_seconds(&self) -> Option<u32> {
        delta_seconds(self.parameter("expires")?)
    }

    /// `q` in thousandths, 0 to 1000.
    pub fn q(&self) -> Option<u16> {
        self.parameter("q").and_then(parameter::thousandths)
    }
}

/// RFC 3261 §20.19: delta-seconds of Expires, Min-Expires or `expires`. Unreadable is `None`, larger
/// than 2^32-1 is 2^32-1.
pub fn delta_seconds(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

impl Contact {
    /// One list element of Contact.
    pub fn parse(text: &str) -> Result<Contact, ParseError> {
        match parameter::trim(text) {
            "*" => Ok(Contact::Star),
            text => Address::parse(text).map(Contact::Address),
        }
    }
}

/// Display name (as written), URI and parameters (from their semicolon on), all within `text`.
pub(crate) fn split(text: &str) -> Result<(Option<&str>, &str, &str), ParseError> {
    let error = |position, expected| Err(ParseError { position, expected });
    let Some(open) = parameter::find_unquoted(text, b'<') else {
        let (uri, parameters) = text.split_at(text.find(';').unwrap_or(text.len()));
        return Ok((None, parameter::trim(uri), parameters));
    };
    // A display name that begins with a quote is that quoted string and nothing more.
    let display_name = parameter::trim(&text[..open]);
    let quote = display_name.find('"');
    let is_quoted = quote == Some(0)
        && parameter::quote_end(display_name.as_bytes(), 0) == Some(display_name.len() - 1);
    if quote.is_some() && !is_quoted {
        return error(0, "display name");
    }
    let Some(length) = text[open..].find('>') else { return error(open, "closing bracket") };
    let close = open + length;
    let parameters = parameter::trim(&text[close + 1..]);
    if !parameters.is_empty() && !parameters.starts_with(';') {
        return error(close + 1, "semicolon behind an address");
    }
    let display_name = (!display_name.is_empty()).then_some(display_name);
    Ok((display_name, &text[open + 1..close], parameters))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(display_name) = &self.display_name {
            write!(f, "{display_name} ")?;
        }
        write!(f, "<{}>", self.uri_text)?;
        parameter::write(&self.parameters, f)
    }
}

impl fmt::Display for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contact::Star => f.write_str("*"),
            Contact::Address(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::uri::Scheme;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// RFC 3261 §20.10; S-128: feature tags, quoted instance, blanks anywhere they may stand.
    #[test]
    fn reads_a_contact() {
        let text = "\"A, <B> \\\"\" <sip:u@[2001:db8::1]:31800;transport=udp> ; expires = 600000;q=0.7;\
            +sip.instance=\"<urn:gsma:imei:35209900-176148-0>\";video;+g.3gpp.icsi-ref=\"a;b,c\"";
        let contact = address(text);
        assert_eq!(contact.display_name.as_deref(), Some("\"A, <B> \\\"\""));
        assert_eq!(contact.uri_text, "sip:u@[2001:db8::1]:31800;transport=udp");
        assert_eq!(contact.expires_seconds(), Some(600_000));
        assert_eq!(contact.q(), Some(700));
        assert_eq!(contact.parameter("+SIP.instance"), Some("<urn:gsma:imei:35209900-176148-0>"));
        assert_eq!(contact.parameter("video"), Some(""));
        assert_eq!(contact.parameter("+g.3gpp.icsi-ref"), Some("a;b,c"));
        assert_eq!(address(&contact.to_string()), contact);
    }

    #[test]
    fn parameters_without_brackets_belong_to_the_header() {
        let from = address("sip:a@h;tag=1");
        assert_eq!((from.uri_text.as_str(), from.parameter("tag")), ("sip:a@h", Some("1")));
        assert_eq!(from.to_string(), "<sip:a@h>;tag=1");
        assert_eq!(address("<tel:+1;phone-context=h>;tag=2").uri.scheme, Scheme::Tel);
        assert_eq!(address("Bell, A <sip:a@h>").display_name.as_deref(), Some("Bell, A"));
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            "*",
            "<sip:a@h",
            "sip:a@h>",
            "\"x <sip:a@h>",
            "<sip:a@h>x",
            "<>",
            "< sip:a@h>",
            "a\"b\" <sip:a@h>",
            "<sip:a@h>;tag=\"x",
            "<sip:a@h>;=x",
            "<sip:a@h>;a b",
            "\"x\"",
            "<<sip:a@h>>",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    /// S-105, S-122.
    #[test]
    fn contact_star() {
        assert_eq!(Contact::parse(" * "), Ok(Contact::Star));
        assert!(Contact::parse("*;expires=0").is_err());
        assert!(matches!(Contact::parse("<sip:*@h>"), Ok(Contact::Address(_))));
    }

    #[test]
    fn expiry_values() {
        let expires = |value: &str| address(&format!("<sip:h>;expires={value}")).expires_seconds();
        assert_eq!(expires("0"), Some(0));
        assert_eq!(expires("4294967296"), Some(u32::MAX));
        assert_eq!(expires("99999999999999999999999"), Some(u32::MAX));
        assert_eq!(expires("-1"), None);
        assert_eq!(expires("1h"), None);
        assert_eq!(expires(""), None);
        let mut contact = address("<sip:h>;EXPIRES=1");
        contact.set_parameter("expires", Some("2"));
        assert_eq!(contact.to_string(), "<sip:h>;EXPIRES=2");
        contact.remove_parameter("expires");
        contact.set_parameter("ob", None);
        assert_eq!(contact.to_string(), "<sip:h>;ob");
    }
}
