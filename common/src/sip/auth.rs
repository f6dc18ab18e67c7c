//! WWW-Authenticate and Authorization with the AKA parameters (RFC 7616, RFC 3310, TS 24.229 §7.2A.1).

use std::fmt;

use crate::sip::header::Name;
use crate::sip::message::{Headers, ParseError};
use crate::sip::parameter;

/// Parameters of one challenge or of one credential. Quotes are taken off on reading; writing
/// puts them where RFC 3261 §25.1 and RFC 3310 want them (`algorithm`, `nc`, `stale` bare; `qop`
/// quoted in a challenge and bare in credentials; every other value quoted).
///
/// Values are the inside of a quoted string, escapes kept: that is what the digest is computed over
/// (RFC 7616 §3.4.2).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct DigestParameters {
    /// In order, names lower case.
    pub parameters: Vec<(String, String)>,
}

/// `ck` and `ik` never print.
impl fmt::Debug for DigestParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.parameters.iter().map(|(name, value)| match name.as_str() {
            "ck" | "ik" => (name, "<secret>"),
            _ => (name, value.as_str()),
        });
        f.debug_map().entries(shown).finish()
    }
}

impl DigestParameters {
    /// RFC 7616 §3.3, §3.4: one header line: `Digest a=b, c="d"`. Spaces around `=` and stray
    /// `Digest` tokens inside are tolerated; a repeated parameter is accepted when the values are
    /// equal, else an error (aka.md G-15). Unquoted values are accepted. The scheme must be Digest.
    pub fn parse(text: &str) -> Result<DigestParameters, ParseError> {
        let mut merged = DigestParameters::default();
        for credential in credentials(text)? {
            merged.merge(credential)?;
        }
        Ok(merged)
    }

    /// Name compared without case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn set(&mut self, name: &str, value: &str) {
        match self.parameters.iter_mut().find(|(found, _)| found.eq_ignore_ascii_case(name)) {
            Some((_, old)) => *old = value.to_owned(),
            None => self.parameters.push((name.to_ascii_lowercase(), value.to_owned())),
        }
    }

    /// The value that was removed.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let found = |(found, _): &(String, String)| found.eq_ignore_ascii_case(name);
        let index = self.parameters.iter().position(found)?;
        Some(self.parameters.remove(index).1)
    }

    /// The value of a WWW-Authenticate line.
    pub fn to_challenge(&self) -> String {
        self.write(&["algorithm", "nc", "stale"])
    }

    /// The value of an Authorization line.
    pub fn to_credentials(&self) -> String {
        self.write(&["algorithm", "nc", "stale", "qop"])
    }

    fn write(&self, bare: &[&str]) -> String {
        let mut out = String::with_capacity(256);
        for (index, (name, value)) in self.parameters.iter().enumerate() {
            out.push_str(if index == 0 { "Digest " } else { ", " });
            out.push_str(name);
            out.push('=');
            if bare.contains(&name.as_str()) && parameter::is_token(value) {
                out.push_str(value);
            } else {
                let written = parameter::write_quoted(value, &mut out);
                debug_assert!(written.is_ok(), "a String takes all that is written to it");
            }
        }
        out
    }

    /// Takes over what the other has; the same parameter with another value is an error.
    fn merge(&mut self, other: DigestParameters) -> Result<(), ParseError> {
        for (name, value) in other.parameters {
            match self.get(&name) {
                None => self.parameters.push((name, value)),
                Some(old) if old == value => {}
                Some(_) => {
                    return Err(ParseError { position: 0, expected: "one value per parameter" });
                }
            }
        }
        Ok(())
    }
}

/// TS 24.229 §5.4.1.2.2: the credentials for `realm` among all Authorization lines, in any order
/// (pitfall 20); with one line only, that one whatever its realm. `Ok(None)` when there is none.
/// Other schemes than Digest do not count. Two that are for `realm` and differ are an error.
pub fn credentials_for(
    headers: &Headers,
    realm: &str,
) -> Result<Option<DigestParameters>, ParseError> {
    let mut all = Vec::new();
    let mut fault = None;
    for line in headers.raw(Name::Authorization) {
        let unreadable = ParseError { position: 0, expected: "Authorization in UTF-8" };
        match std::str::from_utf8(line).map_err(|_| unreadable).and_then(credentials) {
            Ok(found) => all.extend(found),
            Err(error) if error.expected == SCHEME => {}
            Err(error) => fault = Some(error),
        }
    }
    let is_ours = |found: &DigestParameters| {
        found.get("realm").is_some_and(|found| found.eq_ignore_ascii_case(realm))
    };
    let only_one = all.len() == 1 && fault.is_none() && headers.count(Name::Authorization) == 1;
    let mut ours: Option<DigestParameters> = None;
    for found in all {
        if only_one || is_ours(&found) {
            match &mut ours {
                Some(ours) => ours.merge(found)?,
                None => ours = Some(found),
            }
        }
    }
    match (ours, fault) {
        (Some(ours), _) => Ok(Some(ours)),
        (None, Some(fault)) => Err(fault),
        (None, None) => Ok(None),
    }
}

const SCHEME: &str = "Digest scheme";

/// The credentials of one line; more than one where `Digest` begins a list element again. Sets of
/// the same realm (or of none) are one, when they do not contradict each other.
fn credentials(text: &str) -> Result<Vec<DigestParameters>, ParseError> {
    let error = |expected| ParseError { position: 0, expected };
    if after_scheme(text).is_none() {
        return Err(error(SCHEME));
    }
    let mut sets: Vec<DigestParameters> = Vec::new();
    for element in elements(text) {
        let mut element = parameter::trim(element);
        while let Some(behind) = after_scheme(element) {
            sets.push(DigestParameters::default());
            element = parameter::trim(behind);
        }
        if element.is_empty() {
            continue;
        }
        let (name, value) = element.split_once('=').ok_or(error("parameter with a value"))?;
        let name = parameter::trim(name);
        let value = parameter::trim(value);
        let is_open = value.starts_with('"')
            && parameter::quote_end(value.as_bytes(), 0) != Some(value.len() - 1);
        if !parameter::is_token(name) || is_open {
            return Err(error("parameter with a value"));
        }
        let value = parameter::unquote(value).to_owned();
        let one = DigestParameters { parameters: vec![(name.to_ascii_lowercase(), value)] };
        if let Some(set) = sets.last_mut() {
            set.merge(one)?;
        }
    }
    let mut merged: Vec<DigestParameters> = Vec::new();
    for set in sets.into_iter().filter(|set| !set.parameters.is_empty()) {
        let realm = set.get("realm");
        match merged.iter_mut().find(|old| realm.is_none() || old.get("realm") == realm) {
            Some(old) => old.merge(set)?,
            None => merged.push(set),
        }
    }
    if merged.is_empty() { Err(error("parameter with a value")) } else { Ok(merged) }
}

/// What follows the word `Digest`, when the text begins with it as a word of its own.
fn after_scheme(text: &str) -> Option<&str> {
    let text = parameter::trim(text);
    let (word, rest) = text.split_at_checked("Digest".len())?;
    let is_word = rest.is_empty() || rest.starts_with([' ', '\t']);
    let is_name = parameter::trim(rest).starts_with('=');
    (word.eq_ignore_ascii_case("Digest") && is_word && !is_name).then_some(rest)
}

/// Split at commas outside quotes; angle brackets mean nothing here.
fn elements(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        match parameter::find_unquoted(text, b',') {
            Some(comma) => {
                rest = Some(&text[comma + 1..]);
                Some(&text[..comma])
            }
            None => {
                rest = None;
                Some(text)
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::message::Request;

    fn digest(text: &str) -> DigestParameters {
        DigestParameters::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// S-24: unquoted, blanks around the equals sign.
    #[test]
    fn reads_unquoted_values() {
        let credentials = digest("Digest username = name.private@hims.net");
        assert_eq!(credentials.get("Username"), Some("name.private@hims.net"));
        assert_eq!(credentials.to_credentials(), "Digest username=\"name.private@hims.net\"");
    }

    /// S-26: any order of parameters, no algorithm, empty nonce and response.
    #[test]
    fn reads_the_first_credentials_of_test_equipment() {
        let credentials = digest(
            "Digest uri=\"sip:test.3gpp.com\",username=\"001010123456789@test.3gpp.com\",\
             response=\"\",realm=\"test.3gpp.com\",nonce=\"\"",
        );
        assert_eq!(credentials.get("uri"), Some("sip:test.3gpp.com"));
        assert_eq!(credentials.get("username"), Some("001010123456789@test.3gpp.com"));
        assert_eq!((credentials.get("response"), credentials.get("nonce")), (Some(""), Some("")));
        assert_eq!(credentials.get("algorithm"), None);
    }

    /// TS 24.229 §7.2A.1: S-58, S-60, S-61; G-06: what is quoted in a challenge, and opaque verbatim.
    #[test]
    fn writes_a_challenge() {
        let text = "Digest realm=\"hims.net\", nonce=\"qlWqVQ==\", qop=\"auth,auth-int\", \
                    opaque=\"YWJj=ZGVm==\", algorithm=AKAv1-MD5, ck=\"00ff\", ik=\"ff00\"";
        let mut challenge = digest(text);
        assert_eq!(challenge.to_challenge(), text);
        assert_eq!(challenge.get("opaque"), Some("YWJj=ZGVm=="));
        assert!(!format!("{challenge:?}").contains("00ff"));
        assert_eq!(challenge.remove("CK").as_deref(), Some("00ff"));
        assert_eq!(challenge.remove("ck"), None);
        challenge.remove("ik");
        assert!(!challenge.to_challenge().contains("k="));
    }

    /// S-85; G-06: nc, qop and algorithm bare in credentials, accepted quoted.
    #[test]
    fn writes_credentials() {
        let credentials =
            digest("digest\tnc=\"0000000a\" ,qop=\"auth\",algorithm=\"AKAv1-MD5\",cnonce=\"1,1\"");
        assert_eq!(
            credentials.to_credentials(),
            "Digest nc=0000000a, qop=auth, algorithm=AKAv1-MD5, cnonce=\"1,1\""
        );
    }

    #[test]
    fn keeps_escapes() {
        let text = r#"Digest username="a\"b, c\\", realm="x""#;
        assert_eq!(digest(text).get("username"), Some(r#"a\"b, c\\"#));
        assert_eq!(digest(text).to_credentials(), text);
        let mut set = DigestParameters::default();
        set.set("REALM", "a\"b\\");
        assert_eq!(set.to_challenge(), r#"Digest realm="a\"b\\""#);
        set.set("qop", "auth, x");
        assert_eq!(set.to_credentials(), r#"Digest realm="a\"b\\", qop="auth, x""#);
        assert_eq!(digest(&set.to_credentials()).get("qop"), Some("auth, x"));
    }

    /// S-119; G-15: the set twice in one header, `Digest` in the middle.
    #[test]
    fn repeated_credentials() {
        let twice = digest(
            "Digest uri=\"sip:h\",realm=\"h\",nonce=\"n\", Digest uri=\"sip:h\",realm=\"h\",nonce=\"n\"",
        );
        assert_eq!(twice.to_credentials(), "Digest uri=\"sip:h\", realm=\"h\", nonce=\"n\"");
        let unequal = "Digest realm=\"h\",nonce=\"n\", Digest realm=\"h\",nonce=\"m\"";
        assert!(DigestParameters::parse(unequal).is_err());
        assert!(DigestParameters::parse("Digest realm=h,realm=i").is_err());
        assert_eq!(digest("Digest Digest, Digest a=b,, Digest").parameters.len(), 1);
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            "Digest",
            "Digest ,",
            "Basic abc",
            "DigestX a=b",
            "Digest a",
            "Digest =b",
            "Digest a=\"b",
            "Digest a b=c",
            "a=b",
            "Digest a=\"b\"c",
        ] {
            assert!(DigestParameters::parse(text).is_err(), "{text}");
        }
    }

    fn with(lines: &[&str]) -> Request {
        let mut request = Request::new("REGISTER", "sip:h");
        for line in lines {
            request.headers_mut().append(Name::Authorization, line);
        }
        request
    }

    /// TS 24.229 §5.4.1.2.2: ours among several, in one line or in many, in any order.
    #[test]
    fn finds_ours() {
        let (ours, other) = ("Digest realm=\"h\", nonce=\"1\"", "Digest realm=\"g\", nonce=\"2\"");
        let joined = [format!("{ours}, {other}"), format!("{other}, {ours}")];
        for lines in [
            &[ours, other][..],
            &[other, ours],
            &["Bearer x", ours],
            &[&joined[0]],
            &[&joined[1]],
            &[ours, ours],
        ] {
            let found = credentials_for(with(lines).headers(), "H").unwrap().unwrap();
            assert_eq!(found.get("nonce"), Some("1"), "{lines:?}");
        }
        let nonce = |lines: &[&str]| {
            credentials_for(with(lines).headers(), "h")
                .map(|found| found.map(|found| found.get("nonce").unwrap_or("").to_owned()))
        };
        assert_eq!(nonce(&[]), Ok(None));
        assert_eq!(nonce(&["Basic abc"]), Ok(None));
        assert_eq!(nonce(&[other]), Ok(Some("2".to_owned())));
        assert_eq!(nonce(&[other, other]), Ok(None));
        assert!(nonce(&["Digest realm=\"h"]).is_err());
        assert!(nonce(&[ours, "Digest realm=\"h\", nonce=\"3\""]).is_err());
        assert_eq!(nonce(&["Digest x", ours]), Ok(Some("1".to_owned())));
    }
}
