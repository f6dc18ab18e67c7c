//! Via (RFC 3261 §20.42, §18.2; RFC 3581).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::sip::message::ParseError;
use crate::sip::parameter;
use crate::sip::uri::HostPort;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Via {
    /// As written: `UDP`, `TCP`, `TLS`, `SCTP`, ...
    pub transport: String,
    pub sent_by: HostPort,
    /// As written, in order.
    pub parameters: Vec<(String, Option<String>)>,
}

impl Via {
    /// RFC 3261 §20.42: one list element. Blanks around `/`, `;` and `=` are allowed.
    pub fn parse(text: &str) -> Result<Via, ParseError> {
        let (transport, sent_by, parameters) = parts(text)?;
        let transport = transport.to_owned();
        let error = |expected| ParseError { position: 0, expected };
        let sent_by = HostPort::parse(sent_by).map_err(|_| error("Via sent-by"))?;
        let parameters = parameter::owned(parameters).map_err(|_| error("Via parameters"))?;
        Ok(Via { transport, sent_by, parameters })
    }

    /// Says whether [`Via::parse`] would read it, without keeping anything.
    pub(crate) fn check(text: &str) -> Result<(), ParseError> {
        parts(text).map(drop)
    }

    /// Name compared without case; quotes taken off; `Some("")` for a parameter without value.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        parameter::get(&self.parameters, name)
    }

    pub fn branch(&self) -> Option<&str> {
        self.parameter("branch")
    }

    pub fn set_parameter(&mut self, name: &str, value: Option<&str>) {
        parameter::set(&mut self.parameters, name, value);
    }

    /// RFC 3261 §18.2.2: `received`, an IPv6 address with or without brackets (RFC 5118 §4.5).
    pub fn received(&self) -> Option<IpAddr> {
        let text = self.parameter("received")?;
        match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            Some(inside) => inside.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => text.parse().ok(),
        }
    }

    /// RFC 3581 §4: the port in `rport`. `None` when it is absent, empty or unreadable.
    pub fn rport(&self) -> Option<u16> {
        self.parameter("rport").and_then(parameter::number)
    }
}

/// Transport, sent-by and parameters (from their semicolon on), each readable.
fn parts(text: &str) -> Result<(&str, &str, &str), ParseError> {
    let error = |part: &str, expected| {
        let position = part.as_ptr() as usize - text.as_ptr() as usize;
        Err(ParseError { position, expected })
    };
    let end = parameter::find_unquoted(text, b';').unwrap_or(text.len());
    let (head, parameters) = text.split_at(end);
    let mut parts = head.splitn(3, '/').map(parameter::trim);
    let (protocol, version) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    if !protocol.eq_ignore_ascii_case("SIP") || version != "2.0" {
        return error(text, "Via with SIP/2.0");
    }
    let rest = parts.next().unwrap_or(&text[..0]);
    let (transport, sent_by) = rest.split_once([' ', '\t']).unwrap_or((rest, &rest[..0]));
    if !parameter::is_token(transport) {
        return error(rest, "Via transport");
    }
    if HostPort::check(sent_by).is_err() {
        return error(sent_by, "Via sent-by");
    }
    if parameter::check(parameters).is_err() {
        return error(parameters, "Via parameters");
    }
    if parameter::find_in(parameters, "branch") == Some("") {
        return error(parameters, "Via branch");
    }
    Ok((transport, sent_by, parameters))
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIP/2.0/{} {}", self.transport, self.sent_by)?;
        parameter::write(&self.parameters, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3261 §20.42; S-113, S-129.
    #[test]
    fn reads_with_blanks() {
        let via = Via::parse(
            " SIP / 2.0 / UDP\t first.example : 4000 ; ttl = 16; branch =z9hG4bK1 ;rport",
        );
        let via = via.unwrap();
        assert_eq!((via.transport.as_str(), via.branch()), ("UDP", Some("z9hG4bK1")));
        assert_eq!(via.parameter("TTL"), Some("16"));
        assert_eq!((via.parameter("rport"), via.rport()), (Some(""), None));
        assert_eq!(via.to_string(), "SIP/2.0/UDP first.example:4000;ttl=16;branch=z9hG4bK1;rport");
    }

    /// RFC 5118 §4.5: `received` with and without brackets.
    #[test]
    fn reads_ipv6() {
        let mut via =
            Via::parse("SIP/2.0/TCP [2001:db8::9:1]:6050;received=2001:db8::9:255;rport=9")
                .unwrap();
        let address: IpAddr = "2001:db8::9:255".parse().unwrap();
        assert_eq!((via.received(), via.rport()), (Some(address), Some(9)));
        via.set_parameter("received", Some("[2001:db8::9:255]"));
        assert_eq!(via.received(), Some(address));
        let again = Via::parse(&via.to_string()).unwrap();
        assert_eq!(again, via);
        via.set_parameter("received", Some("[192.0.2.1]"));
        assert_eq!(via.received(), None);
    }

    /// S-15: a branch without the magic cookie, or none, is no reason for refusal.
    #[test]
    fn old_branches() {
        assert_eq!(Via::parse("SIP/2.0/UDP h;branch=0abab").unwrap().branch(), Some("0abab"));
        assert_eq!(Via::parse("SIP/2.0/UDP h").unwrap().branch(), None);
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            "SIP/2.0/UDP",
            "SIP/2.0/UDP ",
            "SIP/7.0/UDP h",
            "SIP/2.0 h",
            "HTTP/2.0/UDP h",
            "SIP/2.0/UDP h:x",
            "SIP/2.0/U DP h",
            "SIP/2.0/UDP 2001:db8::1",
            "SIP/2.0/UDP h;branch",
            "SIP/2.0/UDP h;branch=",
            "SIP/2.0/UDP h;a=\"x",
            "SIP/2.0//h",
        ] {
            assert!(Via::parse(text).is_err(), "{text}");
        }
    }
}
