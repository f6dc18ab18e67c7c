//! Security-Client, Security-Server, Security-Verify (RFC 3329 §2.2, TS 33.203 Annex H).

use std::fmt;

use crate::sip::header::Name;
use crate::sip::message::{Headers, ParseError};
use crate::sip::parameter;

/// One sec-mechanism.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mechanism {
    /// Lower case: `ipsec-3gpp`, `tls`, ...
    pub name: String,
    /// In order; names lower case, values as written without quotes.
    pub parameters: Vec<(String, String)>,
}

impl Mechanism {
    /// RFC 3329 §2.2: one list element.
    pub fn parse(text: &str) -> Result<Mechanism, ParseError> {
        let end = parameter::find_unquoted(text, b';').unwrap_or(text.len());
        let (name, parameters) = text.split_at(end);
        let name = parameter::trim(name);
        if !parameter::is_token(name) {
            return Err(ParseError { position: 0, expected: "security mechanism" });
        }
        let parameters = parameter::owned(parameters)
            .map_err(|expected| ParseError { position: end, expected })?
            .into_iter()
            .map(|(name, value)| {
                let value = value.as_deref().map_or("", parameter::unquote);
                (name.to_ascii_lowercase(), value.to_owned())
            });
        Ok(Mechanism { name: name.to_ascii_lowercase(), parameters: parameters.collect() })
    }

    /// `Some("")` for a parameter without value.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Decimal digits up to 2^32-1: SPIs (of any length, although the grammar wants ten digits) and
    /// ports.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.get(name).and_then(parameter::number)
    }

    /// `q` in thousandths; absent or unreadable counts as 1000.
    pub fn q(&self) -> u16 {
        self.get("q").and_then(parameter::thousandths).unwrap_or(1000)
    }

    /// RFC 3329 §2.3.1: same mechanism with the same parameters: tokens without case, any order,
    /// numbers as numbers.
    pub fn is_same(&self, other: &Mechanism) -> bool {
        let sorted = |mechanism: &Mechanism| {
            let parameters = mechanism.parameters.iter();
            let mut all: Vec<_> = parameters.map(|(name, value)| comparable(name, value)).collect();
            all.sort();
            all
        };
        self.name.eq_ignore_ascii_case(&other.name) && sorted(self) == sorted(other)
    }
}

/// A parameter in the one form in which equal ones are equal.
fn comparable(name: &str, value: &str) -> (String, String) {
    let name = name.to_ascii_lowercase();
    let q = if name == "q" { parameter::thousandths(value).map(u64::from) } else { None };
    let value = match q.or_else(|| parameter::number::<u64>(value)) {
        Some(number) => number.to_string(),
        None => value.to_ascii_lowercase(),
    };
    (name, value)
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (name, value) in &self.parameters {
            write!(f, ";{name}")?;
            if parameter::is_token(value) {
                write!(f, "={value}")?;
            } else if !value.is_empty() {
                f.write_str("=")?;
                parameter::write_quoted(value, f)?;
            }
        }
        Ok(())
    }
}

/// All mechanisms of all lines of that header, in order (RFC 3329 §2.2).
pub fn mechanisms(headers: &Headers, name: Name) -> Result<Vec<Mechanism>, ParseError> {
    if headers.is_unreadable(name) {
        return Err(ParseError { position: headers.offset(name), expected: "UTF-8" });
    }
    headers.values(name).map(Mechanism::parse).collect()
}

/// Same mechanisms in the same order (RFC 3329 §2.3.1).
pub fn is_same_list(a: &[Mechanism], b: &[Mechanism]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_same(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::message::Request;

    fn mechanism(text: &str) -> Mechanism {
        Mechanism::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// RFC 3329 §2.2; S-23, S-67.
    #[test]
    fn reads_and_writes() {
        let text = "IPsec-3GPP ; Q=0.1; alg = hmac-sha-1-96;ealg=aes-cbc;spi-c=98;spi-s=4294967295;\
                    port-c=31100;port-s=31800;mediasec";
        let read = mechanism(text);
        assert_eq!(read.name, "ipsec-3gpp");
        assert_eq!((read.get("alg"), read.get("ALG")), (Some("hmac-sha-1-96"), read.get("alg")));
        assert_eq!((read.number("spi-c"), read.number("spi-s")), (Some(98), Some(u32::MAX)));
        assert_eq!((read.number("port-s"), read.number("alg")), (Some(31800), None));
        assert_eq!((read.q(), read.get("mediasec")), (100, Some("")));
        assert_eq!(mechanism(&read.to_string()), read);
        assert_eq!(mechanism("tls;q=x").q(), 1000);
        assert_eq!(mechanism("x;spi-c=4294967296").number("spi-c"), None);
        for text in ["", ";a=b", "a b", "x;a=\"b", "x;=b", "\"x\""] {
            assert!(Mechanism::parse(text).is_err(), "{text}");
        }
    }

    /// RFC 3329 §2.3.1; S-86: the mirror may be written otherwise, but says the same.
    #[test]
    fn compares() {
        let a = mechanism("ipsec-3gpp;q=0.1;alg=hmac-sha-1-96;spi-c=0000000098;prot=esp");
        assert!(a.is_same(&mechanism("IPSEC-3gpp; prot=ESP;spi-c=98; alg=HMAC-sha-1-96;q=0.10")));
        assert!(!a.is_same(&mechanism("ipsec-3gpp;q=0.1;alg=hmac-sha-1-96;spi-c=99;prot=esp")));
        assert!(!a.is_same(&mechanism("ipsec-3gpp;q=0.1;alg=hmac-sha-1-96;spi-c=98")));
        assert!(!a.is_same(&mechanism("tls;q=0.1;alg=hmac-sha-1-96;spi-c=98;prot=esp")));
        let b = mechanism("tls");
        assert!(is_same_list(&[a.clone(), b.clone()], &[a.clone(), b.clone()]));
        assert!(!is_same_list(&[a.clone(), b.clone()], &[b.clone(), a.clone()]));
        assert!(!is_same_list(std::slice::from_ref(&a), &[a.clone(), b]));
    }

    #[test]
    fn collects_lines_and_lists() {
        let mut request = Request::new("REGISTER", "sip:h");
        let headers = request.headers_mut();
        headers.append(Name::SecurityClient, "tls, ipsec-3gpp;alg=a,");
        headers.append(Name::SecurityClient, "digest");
        let names = |headers: &Headers| -> Vec<String> {
            let found = mechanisms(headers, Name::SecurityClient).unwrap();
            found.into_iter().map(|mechanism| mechanism.name).collect()
        };
        assert_eq!(names(request.headers()), ["tls", "ipsec-3gpp", "digest"]);
        assert_eq!(mechanisms(request.headers(), Name::SecurityVerify), Ok(vec![]));
        request.headers_mut().append(Name::SecurityClient, "a b");
        assert!(mechanisms(request.headers(), Name::SecurityClient).is_err());
    }
}
