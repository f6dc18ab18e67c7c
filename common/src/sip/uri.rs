//! URIs: `sip:`, `sips:`, `tel:`, and any other kept as text (RFC 3261 §19.1, RFC 3966).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::identity::Impu;
use crate::sip::message::ParseError;
use crate::sip::parameter;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    Sip,
    Sips,
    Tel,
    Other,
}

/// Host of a URI or of a sent-by: a name, an IPv4 address or a bracketed IPv6 reference.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// Lower case.
    Name(String),
    Address(IpAddr),
}

/// `host[:port]`. `Display` writes IPv6 in brackets.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HostPort {
    pub host: Host,
    pub port: Option<u16>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uri {
    pub scheme: Scheme,
    /// sip/sips: the user part as written (escapes kept), without password; tel: the number as
    /// written; other: the whole URI as written, scheme included.
    pub user: Option<String>,
    /// sip and sips only (`None` otherwise).
    pub host_port: Option<HostPort>,
    /// As written, in order, without `;`: `("transport", Some("tcp"))`, `("lr", None)`.
    pub parameters: Vec<(String, Option<String>)>,
    /// Behind `?`, as written.
    pub headers: Option<String>,
}

impl Uri {
    /// RFC 3261 §19.1.1: one URI and nothing around it.
    pub fn parse(text: &str) -> Result<Uri, ParseError> {
        let parts = parts(text)?;
        let parameters = uri_parameters(parts.parameters);
        Ok(Uri {
            scheme: parts.scheme,
            user: parts.user.map(str::to_owned),
            host_port: parts.host_port.map(HostPort::from),
            parameters: parameters
                .map(|(name, value)| (name.to_owned(), value.map(str::to_owned)))
                .collect(),
            headers: parts.headers.map(str::to_owned),
        })
    }

    /// Says whether [`Uri::parse`] would read it, without keeping anything.
    pub(crate) fn check(text: &str) -> Result<(), ParseError> {
        parts(text).map(drop)
    }

    /// Name compared without case; a parameter without value gives `Some("")`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        parameter::get(&self.parameters, name)
    }

    /// TS 23.003 §13.4: canonical form for use as a public identity. `sips:` counts as `sip:`
    /// (RFC 5630 §3.3), escapes of ordinary characters are taken off; a local `tel:` number keeps
    /// its phone-context.
    pub fn public_identity(&self) -> Impu {
        let user = self.user.as_deref().unwrap_or("");
        Impu::new(match (self.scheme, &self.host_port) {
            (Scheme::Sip | Scheme::Sips, Some(HostPort { host, .. })) => match &self.user {
                Some(user) => format!("sip:{}@{host}", plain(user)),
                None => format!("sip:{host}"),
            },
            (Scheme::Tel, _) => {
                let number = digits(user);
                match self.parameter("phone-context") {
                    Some(context) if !number.starts_with('+') => {
                        format!("tel:{number};phone-context={}", context.to_ascii_lowercase())
                    }
                    _ => format!("tel:{number}"),
                }
            }
            _ => self.to_string(),
        })
    }

    /// RFC 3261 §19.1.4, RFC 3966 §5: the two name the same thing for sure.
    pub fn is_equivalent(&self, other: &Uri) -> bool {
        let users = (self.user.as_deref(), other.user.as_deref());
        if self.scheme != other.scheme {
            return false;
        }
        match (self.scheme, users) {
            (Scheme::Other, (Some(a), Some(b))) => {
                let ((a_scheme, a), (b_scheme, b)) = (split_scheme(a), split_scheme(b));
                a_scheme.eq_ignore_ascii_case(b_scheme) && a == b
            }
            (Scheme::Tel, (Some(a), Some(b))) => {
                digits(a) == digits(b)
                    && self.parameters.len() == other.parameters.len()
                    && self.parameters.iter().all(|(name, _)| self.is_alike(other, name))
            }
            _ => {
                users.0.map(plain) == users.1.map(plain)
                    && self.host_port == other.host_port
                    && self.parameters.iter().all(|(name, _)| self.is_alike(other, name))
                    && other.parameters.iter().all(|(name, _)| self.is_alike(other, name))
                    && sorted_headers(self) == sorted_headers(other)
            }
        }
    }

    /// A parameter of both has the same value; of `sip:` URIs most may be missing in one.
    fn is_alike(&self, other: &Uri, name: &str) -> bool {
        match (self.parameter(name), other.parameter(name)) {
            (Some(a), Some(b)) if self.scheme == Scheme::Tel => {
                digits(a) == digits(b) || a.eq_ignore_ascii_case(b)
            }
            (Some(a), Some(b)) => plain(a).eq_ignore_ascii_case(&plain(b)),
            _ if self.scheme == Scheme::Tel => false,
            _ => !DECISIVE.iter().any(|decisive| decisive.eq_ignore_ascii_case(name)),
        }
    }
}

/// A `sip:` URI parameter in one of two URIs only makes them differ (RFC 3261 §19.1.4).
const DECISIVE: [&str; 5] = ["user", "ttl", "method", "maddr", "transport"];

/// A URI taken apart within its text.
struct Parts<'a> {
    scheme: Scheme,
    user: Option<&'a str>,
    host_port: Option<HostPortText<'a>>,
    parameters: &'a str,
    headers: Option<&'a str>,
}

fn parts(text: &str) -> Result<Parts<'_>, ParseError> {
    let error = |position, expected| Err(ParseError { position, expected });
    let Some(colon) = text.find(':') else { return error(0, "scheme of a URI") };
    let (scheme, rest) = (&text[..colon], &text[colon + 1..]);
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme {
        return error(0, "scheme of a URI");
    }
    let is_foreign = |byte: u8| byte <= b' ' || matches!(byte, b'<' | b'>' | b'"' | 0x7f);
    if rest.is_empty() || rest.bytes().any(is_foreign) {
        return error(colon + 1, "URI without blanks, quotes and brackets");
    }
    let parts = if scheme.eq_ignore_ascii_case("sip") {
        sip(Scheme::Sip, rest, colon + 1)?
    } else if scheme.eq_ignore_ascii_case("sips") {
        sip(Scheme::Sips, rest, colon + 1)?
    } else if scheme.eq_ignore_ascii_case("tel") {
        let (number, parameters) = rest.split_once(';').unwrap_or((rest, ""));
        if number.is_empty() {
            return error(colon + 1, "telephone number");
        }
        let user = Some(number);
        Parts { scheme: Scheme::Tel, user, host_port: None, parameters, headers: None }
    } else {
        let user = Some(text);
        Parts { scheme: Scheme::Other, user, host_port: None, parameters: "", headers: None }
    };
    if uri_parameters(parts.parameters).any(|(name, _)| name.is_empty()) {
        return error(colon + 1, "name of a URI parameter");
    }
    Ok(parts)
}

fn sip(scheme: Scheme, rest: &str, offset: usize) -> Result<Parts<'_>, ParseError> {
    // The user part may hold `;` and `?`, so that the first `@` decides before all else.
    let (user, behind) = match rest.split_once('@') {
        None => (None, rest),
        Some((userinfo, behind)) => {
            let user = userinfo.split_once(':').map_or(userinfo, |(user, _password)| user);
            if user.is_empty() {
                return Err(ParseError { position: offset, expected: "user of a URI" });
            }
            (Some(user), behind)
        }
    };
    let offset = offset + rest.len() - behind.len();
    let (behind, headers) = match behind.split_once('?') {
        None => (behind, None),
        Some((behind, headers)) => (behind, Some(headers)),
    };
    let (host_port, parameters) = behind.split_once(';').unwrap_or((behind, ""));
    let host_port = HostPortText::parse(host_port).map_err(|error| ParseError {
        position: offset + error.position,
        expected: error.expected,
    })?;
    Ok(Parts { scheme, user, host_port: Some(host_port), parameters, headers })
}

fn uri_parameters(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(';').filter(|item| !item.is_empty()).map(|item| match item.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (item, None),
    })
}

fn split_scheme(text: &str) -> (&str, &str) {
    text.split_once(':').unwrap_or(("", text))
}

/// Escapes of unreserved characters taken off, others with capital digits (RFC 3261 §19.1.4).
fn plain(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digit = |index: usize| {
            bytes
                .get(index)
                .and_then(|byte| char::from(*byte).to_digit(16))
                .map(|digit| digit as u8)
        };
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                let byte = high << 4 | low;
                if byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte) {
                    out.push(byte);
                } else {
                    out.extend_from_slice(format!("%{byte:02X}").as_bytes());
                }
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    // Only ASCII was put in or taken out.
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// RFC 3966 §5: without visual separators, letters small.
fn digits(number: &str) -> String {
    let is_separator = |character: &char| matches!(character, '-' | '.' | '(' | ')');
    let kept = number.chars().filter(|character| !is_separator(character));
    kept.map(|character| character.to_ascii_lowercase()).collect()
}

fn sorted_headers(uri: &Uri) -> Vec<(String, String)> {
    let items = uri.headers.as_deref().unwrap_or("").split('&').filter(|item| !item.is_empty());
    let mut sorted: Vec<_> = items
        .map(|item| {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            (name.to_ascii_lowercase(), plain(value))
        })
        .collect();
    sorted.sort();
    sorted
}

impl HostPort {
    /// RFC 3261 §25.1 hostport. IPv6 stands in brackets; blanks around the colon are allowed, as in
    /// the sent-by of a Via. A host name has letters, digits, `-`, `.` and (seen in the field) `_`.
    pub fn parse(text: &str) -> Result<HostPort, ParseError> {
        HostPortText::parse(text).map(HostPort::from)
    }

    /// Says whether [`HostPort::parse`] would read it, without keeping anything.
    pub(crate) fn check(text: &str) -> Result<(), ParseError> {
        HostPortText::parse(text).map(drop)
    }
}

struct HostPortText<'a> {
    host: Result<IpAddr, &'a str>,
    port: Option<u16>,
}

impl From<HostPortText<'_>> for HostPort {
    fn from(text: HostPortText<'_>) -> HostPort {
        let host = match text.host {
            Ok(address) => Host::Address(address),
            Err(name) => Host::Name(name.to_ascii_lowercase()),
        };
        HostPort { host, port: text.port }
    }
}

impl HostPortText<'_> {
    fn parse(text: &str) -> Result<HostPortText<'_>, ParseError> {
        let text = parameter::trim(text);
        let error = |position, expected| Err(ParseError { position, expected });
        let (host, behind) = match text.strip_prefix('[') {
            Some(rest) => {
                let Some((inside, behind)) = rest.split_once(']') else {
                    return error(0, "bracket behind an IPv6 address");
                };
                let Some(address) = ipv6(inside) else { return error(1, "IPv6 address") };
                (Ok(IpAddr::V6(address)), behind)
            }
            None => {
                let (name, behind) = text.split_at(text.find(':').unwrap_or(text.len()));
                let name = parameter::trim(name);
                let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
                if name.is_empty() || !name.bytes().all(is_host) {
                    return error(0, "host");
                }
                (name.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| name), behind)
            }
        };
        let behind_host = parameter::trim(behind);
        if behind_host.is_empty() {
            return Ok(HostPortText { host, port: None });
        }
        let port = behind_host.strip_prefix(':').map(parameter::trim);
        match port.and_then(parameter::number) {
            Some(port) => Ok(HostPortText { host, port: Some(port) }),
            None => error(text.len() - behind.len(), "port"),
        }
    }
}

/// RFC 5118 §4.9: the grammar of RFC 3261 lets three colons stand in front of an IPv4 part.
fn ipv6(text: &str) -> Option<Ipv6Addr> {
    let parsed = text.parse().ok();
    parsed.or_else(|| text.contains('.').then(|| text.replacen(":::", "::", 1))?.parse().ok())
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_deref();
        f.write_str(match self.scheme {
            Scheme::Sip => "sip:",
            Scheme::Sips => "sips:",
            Scheme::Tel => "tel:",
            Scheme::Other => "",
        })?;
        f.write_str(user.unwrap_or(""))?;
        if let Some(host_port) = &self.host_port {
            let at = if user.is_some() { "@" } else { "" };
            write!(f, "{at}{host_port}")?;
        }
        parameter::write(&self.parameters, f)?;
        match &self.headers {
            Some(headers) => write!(f, "?{headers}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(IpAddr::V4(address)) => address.fmt(f),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        Uri::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn reads_and_writes() {
        for text in [
            "sip:ims.example.org",
            "sip:alice@example.org:5070;transport=tcp;lr?Subject=hi&Priority=urgent",
            "sips:alice@[2001:db8::1]:5061",
            "sip:a;b=c?d/e@192.0.2.1",
            "sip:%00@example.org;lr=on",
            "tel:+1-212-555-0100;ext=12",
            "urn:service:sos",
            "urn:gsma:imei:35209900-176148-0",
        ] {
            assert_eq!(uri(text).to_string(), text);
        }
        assert_eq!(uri("SIP:x:secret@H.Example").to_string(), "sip:x@h.example");
        assert_eq!(uri("sip:a;b@h;c").user.as_deref(), Some("a;b"));
        assert_eq!(uri("sip:h;c;d=e").parameter("D"), Some("e"));
        assert_eq!(uri("sip:h;c;d=e").parameter("c"), Some(""));
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            ":",
            "sip:",
            "sip",
            "<sip:a@h>",
            "sip:a b@h",
            "sip:@h",
            "sip:a@",
            "sip:a@b@c",
            "sip:h:",
            "sip:h:65536",
            "sip:h:x",
            "sip:[::1",
            "sip:[::g]",
            "sip:2001:db8::1",
            "sip:a@2001:db8::1:5060",
            "tel:",
            "tel:;x",
            "1x:y",
            "sip:h;=x",
            "sip:[::1]x",
        ] {
            assert!(Uri::parse(text).is_err(), "{text}");
        }
    }

    /// TS 23.003 §13.4; S-109: a SIP URI with a number stays a SIP identity.
    #[test]
    fn public_identities() {
        for (text, identity) in [
            ("sip:+11234567890@HIMS.net:5060;user=phone", "sip:+11234567890@hims.net"),
            ("sips:%61lice@hims.net?a=b", "sip:alice@hims.net"),
            ("tel:+1(212)555-0100;ext=1", "tel:+12125550100"),
            ("tel:70-42;phone-context=Hims.net", "tel:7042;phone-context=hims.net"),
            ("sip:hims.net", "sip:hims.net"),
            ("urn:service:sos", "urn:service:sos"),
        ] {
            assert_eq!(uri(text).public_identity().as_str(), identity, "{text}");
        }
    }

    /// RFC 3261 §19.1.4, RFC 3966 §5; S-115: the user part and the port count.
    #[test]
    fn equivalence() {
        for (a, b) in [
            (
                "sip:%61lice@atlanta.example;transport=TCP",
                "sip:alice@AtlantA.example;Transport=tcp",
            ),
            ("sip:carol@h", "sip:carol@h;newparam=5"),
            ("sip:carol@h;security=on", "sip:carol@h;newparam=5"),
            ("sip:h;a=1;method=REGISTER?to=x&b=c", "sip:h;method=register;a=1?b=c&to=x"),
            ("tel:+1-201-555", "tel:+1(201)555"),
            ("sip:a@[2001:DB8:0::1]:5", "sip:a@[2001:db8::1]:5"),
            ("URN:service:sos", "urn:service:sos"),
        ] {
            assert!(uri(a).is_equivalent(&uri(b)), "{a} {b}");
            assert!(uri(b).is_equivalent(&uri(a)), "{b} {a}");
        }
        for (a, b) in [
            ("SIP:ALICE@h", "sip:alice@h"),
            ("sip:bob@h", "sip:bob@h:5060"),
            ("sip:bob@h", "sip:bob@h;transport=udp"),
            ("sip:bob@h", "sip:bob@h:6000;transport=tcp"),
            ("sip:carol@h", "sip:carol@h?Subject=next"),
            ("sip:carol@h;security=on", "sip:carol@h;security=off"),
            ("sip:bob@h", "sips:bob@h"),
            ("sip:h", "sip:a@h"),
            ("tel:+1201;ext=1", "tel:+1201"),
            ("sip:+11234567890@10.0.0.1:5060", "sip:+11234567890@10.0.0.1:31800"),
        ] {
            assert!(!uri(a).is_equivalent(&uri(b)), "{a} {b}");
            assert!(!uri(b).is_equivalent(&uri(a)), "{b} {a}");
        }
    }

    #[test]
    fn hosts() {
        let written = |text| HostPort::parse(text).map(|host_port| host_port.to_string());
        assert_eq!(written("H.example : 5060").unwrap(), "h.example:5060");
        assert_eq!(written("[2001:DB8::A]:1").unwrap(), "[2001:db8::a]:1");
        assert_eq!(written("[::ffff:192.0.2.1]").unwrap(), "[::ffff:192.0.2.1]");
        assert_eq!(written("[2001:db8:::192.0.2.1]").unwrap(), "[2001:db8::c000:201]");
        assert!(matches!(HostPort::parse("192.0.2.1").unwrap().host, Host::Address(_)));
        assert!(matches!(HostPort::parse("999.0.2.1").unwrap().host, Host::Name(_)));
        for text in ["", " ", "a b", ":5060", "h:", "[fe80::1%eth0]", "h:5:6", "\u{e9}.example"] {
            assert!(HostPort::parse(text).is_err(), "{text}");
        }
    }
}
