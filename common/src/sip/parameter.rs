//! What all header values are made of: tokens, quoted strings, lists and `;name=value` parameters
//! (RFC 3261 §25.1). Everything here borrows from the text that it reads.

use std::fmt;

/// Parameters as the typed views keep them: names and values as written, quotes included.
pub type Parameters = Vec<(String, Option<String>)>;

/// One item per list element, trimmed: split at commas outside quotes and angle brackets. Empty
/// elements are left out; what follows an unclosed quote or bracket is one element.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    ranges(text).map(|(start, end)| &text[start..end])
}

/// RFC 3261 §7.3.1: the list elements as byte ranges of `text`.
pub(crate) fn ranges(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < text.len() {
            let start = at;
            let end = element_end(text.as_bytes(), at);
            at = end + 1;
            let (start, end) = trim_range(text.as_bytes(), start, end);
            if start < end {
                return Some((start, end));
            }
        }
        None
    })
}

/// Where the list element that begins at `at` ends: at a comma, or at the end.
fn element_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b',' => return at,
            b'"' => at = quote_end(bytes, at).unwrap_or(bytes.len()),
            b'<' => match memchr::memchr(b'>', &bytes[at..]) {
                Some(length) => at += length,
                None => return bytes.len(),
            },
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The position of the quote that closes the one at `at`.
pub(crate) fn quote_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    at += 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    None
}

/// The first `wanted` outside quotes. A quote that never closes hides all behind it.
pub(crate) fn find_unquoted(text: &str, wanted: u8) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            byte if byte == wanted => return Some(at),
            b'"' => at = quote_end(bytes, at)?,
            _ => {}
        }
        at += 1;
    }
    None
}

/// `;a=b;c` taken apart: name and value trimmed, quotes kept, empty items left out. The first
/// semicolon may be missing.
pub fn parameters(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let end = find_unquoted(rest, b';').unwrap_or(rest.len());
            let item = trim(&rest[..end]);
            rest = rest.get(end + 1..).unwrap_or("");
            if item.is_empty() {
                continue;
            }
            return Some(match item.split_once('=') {
                Some((name, value)) => (trim(name), Some(trim(value))),
                None => (item, None),
            });
        }
    })
}

/// Value of a parameter of `;a=b;c` text, quotes taken off; `Some("")` for one without value.
pub fn find_in<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    parameters(text)
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| unquote(value.unwrap_or("")))
}

/// Parameters to keep. `Err` names what is wrong: a name that is no token, an unclosed quote.
pub(crate) fn owned(text: &str) -> Result<Parameters, &'static str> {
    check(text)?;
    let owned = |(name, value): (&str, Option<&str>)| (name.to_owned(), value.map(str::to_owned));
    Ok(parameters(text).map(owned).collect())
}

/// Says whether [`owned`] would read it, without keeping anything.
pub(crate) fn check(text: &str) -> Result<(), &'static str> {
    for (name, value) in parameters(text) {
        if !is_token(name) {
            return Err("parameter name");
        }
        if value.is_some_and(|value| !is_value(value)) {
            return Err("parameter value");
        }
    }
    Ok(())
}

/// One quoted string, or text without quotes and blanks: a token, a host, an IPv6 address.
fn is_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    match bytes.first() {
        Some(b'"') => quote_end(bytes, 0) == Some(bytes.len() - 1),
        _ => !bytes
            .iter()
            .any(|byte| matches!(byte, b'"' | b'\\' | b' ' | b'\t' | b'<' | b'>' | b',')),
    }
}

/// Name compared without case; quotes taken off; `Some("")` for a parameter without value.
pub(crate) fn get<'a>(parameters: &'a Parameters, name: &str) -> Option<&'a str> {
    parameters
        .iter()
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| unquote(value.as_deref().unwrap_or("")))
}

/// Replaces the value of the first parameter of that name, or adds one at the end.
pub(crate) fn set(parameters: &mut Parameters, name: &str, value: Option<&str>) {
    let value = value.map(str::to_owned);
    match parameters.iter_mut().find(|(found, _)| found.eq_ignore_ascii_case(name)) {
        Some((_, old)) => *old = value,
        None => parameters.push((name.to_owned(), value)),
    }
}

/// Writes `;name=value` for each.
pub(crate) fn write(parameters: &Parameters, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (name, value) in parameters {
        match value {
            Some(value) => write!(f, ";{name}={value}")?,
            None => write!(f, ";{name}")?,
        }
    }
    Ok(())
}

/// The inside of a quoted string, escapes kept; other text as it is.
pub fn unquote(text: &str) -> &str {
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(inside) => inside,
        None => text,
    }
}

/// Writes `text`, the inside of a quoted string, in quotes. Escapes that it has are kept; a quote
/// without one gets one, and so does a backslash at the very end.
pub(crate) fn write_quoted(text: &str, out: &mut impl fmt::Write) -> fmt::Result {
    out.write_char('"')?;
    let mut escaped = false;
    for character in text.chars() {
        if character == '"' && !escaped {
            out.write_char('\\')?;
        }
        escaped = character == '\\' && !escaped;
        out.write_char(character)?;
    }
    if escaped {
        out.write_char('\\')?;
    }
    out.write_char('"')
}

/// Blanks are SP and HT (RFC 3261 §25.1, LWS after unfolding).
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

pub(crate) fn trim_range(bytes: &[u8], mut start: usize, mut end: usize) -> (usize, usize) {
    while start < end && matches!(bytes[start], b' ' | b'\t') {
        start += 1;
    }
    while start < end && matches!(bytes[end - 1], b' ' | b'\t') {
        end -= 1;
    }
    (start, end)
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"-.!%*_+`'~";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

pub(crate) fn is_token_bytes(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| TOKEN[*byte as usize])
}

pub(crate) fn is_token(text: &str) -> bool {
    is_token_bytes(text.as_bytes())
}

/// Decimal digits and nothing else; `None` also when the number does not fit.
pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// A qvalue in thousandths, 0 to 1000: `1`, `0.5`, `.5`; digits behind the third are dropped.
pub(crate) fn thousandths(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u16 = if whole.is_empty() { 0 } else { number(whole)? };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) || whole > 1 {
        return None;
    }
    let digits = fraction.bytes().map(|byte| u16::from(byte - b'0'));
    let fraction = digits.chain([0, 0, 0]).take(3).fold(0, |sum, digit| sum * 10 + digit);
    let all = whole * 1000 + fraction;
    (all <= 1000).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3261 §7.3.1: commas in quotes, in escapes and in brackets do not split.
    #[test]
    fn splits_lists() {
        let text = r#" "a, \"b" <sip:x,y@h> ;q=1 , <sip:z@h>,, ,*"#;
        let found: Vec<_> = list(text).collect();
        assert_eq!(found, [r#""a, \"b" <sip:x,y@h> ;q=1"#, "<sip:z@h>", "*"]);
        assert_eq!(list("").count(), 0);
        assert_eq!(list("\"open, a").collect::<Vec<_>>(), ["\"open, a"]);
        assert_eq!(list("<open, a").collect::<Vec<_>>(), ["<open, a"]);
        assert_eq!(list("\"\\").collect::<Vec<_>>(), ["\"\\"]);
    }

    #[test]
    fn reads_parameters() {
        let text = " ; a = \"x;y\" ;; B;received=2001:db8::1 ";
        let found: Vec<_> = parameters(text).collect();
        assert_eq!(found, [("a", Some("\"x;y\"")), ("B", None), ("received", Some("2001:db8::1"))]);
        assert_eq!(find_in(text, "b"), Some(""));
        assert_eq!(find_in(text, "A"), Some("x;y"));
        assert_eq!(find_in(text, "c"), None);
        assert!(owned("a=\"open").is_err());
        assert!(owned("a b=c").is_err());
        assert!(owned("=c").is_err());
    }

    #[test]
    fn reads_qvalues() {
        for (text, value) in [("1", 1000), ("0.5", 500), ("0", 0), ("1.000", 1000), ("0.0019", 1)] {
            assert_eq!(thousandths(text), Some(value), "{text}");
        }
        for text in ["", ".", "2", "1.1", "-1", "0.x", "65537"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }

    #[test]
    fn quotes() {
        let quoted = |text: &str| {
            let mut out = String::new();
            write_quoted(text, &mut out).unwrap();
            out
        };
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
        assert_eq!(quoted(r#"a\"b"#), r#""a\"b""#);
        assert_eq!(quoted("a\\"), r#""a\\""#);
        assert_eq!(unquote("\""), "\"");
    }
}
