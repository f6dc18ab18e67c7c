//! Wildcarded identities: a public identity with a regular expression between exclamation marks,
//! such as `sip:chat-!.*!@example.org` (TS 23.003 §13.4A, §13.5).
//!
//! The expressions are extended regular expressions (TS 23.003 refers to POSIX) without groups and
//! alternatives: characters, `.`, `[...]`, `\` before a character, each with `*`, `+`, `?` or
//! `{n,m}`. [`check`] refuses the rest when an identity is provisioned.

/// Octets of an identity that is matched. Time grows with the square of its length, and anybody who may
/// call or register chooses it; what a network gives out is shorter by far.
const IDENTITY_OCTETS_MAX: usize = 1024;

/// True when `identity` falls under `pattern`. One of more than [`IDENTITY_OCTETS_MAX`] falls under none.
pub fn matches(pattern: &str, identity: &str) -> bool {
    if identity.len() > IDENTITY_OCTETS_MAX {
        return false;
    }
    let Some((before, expression, after)) = split(pattern) else { return false };
    let Some(rest) = identity.strip_prefix(before) else { return false };
    let Some(middle) = rest.strip_suffix(after) else { return false };
    parse(expression).is_ok_and(|pieces| matches_pieces(&pieces, middle.as_bytes()))
}

/// # Errors
/// What is wrong with the expression.
pub fn check(pattern: &str) -> Result<(), String> {
    let (_, expression, after) = split(pattern).ok_or("a wildcard is written !expression!")?;
    if after.contains('!') {
        return Err("only one expression is supported in a wildcard".to_owned());
    }
    parse(expression).map(|_| ())
}

fn split(pattern: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = pattern.split_once('!')?;
    let (expression, after) = rest.split_once('!')?;
    Some((before, expression, after))
}

/// One character class and how often it may occur.
struct Piece {
    class: Class,
    least: usize,
    most: usize,
}

enum Class {
    Any,
    One(u8),
    Ranges { is_negated: bool, ranges: Vec<(u8, u8)> },
}

impl Class {
    fn has(&self, octet: u8) -> bool {
        match self {
            Class::Any => true,
            Class::One(wanted) => *wanted == octet,
            Class::Ranges { is_negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&octet)) != *is_negated
            }
        }
    }
}

/// Steps through the pieces once, keeping every place each could have reached: time is the number of pieces
/// times the square of the text's length at most, whatever the expression is.
fn matches_pieces(pieces: &[Piece], text: &[u8]) -> bool {
    let mut reachable = vec![false; text.len() + 1];
    reachable[0] = true;
    for piece in pieces {
        let mut after = vec![false; text.len() + 1];
        for start in (0..=text.len()).filter(|start| reachable[*start]) {
            let run = text[start..].iter().take_while(|octet| piece.class.has(**octet)).count();
            for length in piece.least..=run.min(piece.most) {
                after[start + length] = true;
            }
        }
        reachable = after;
    }
    reachable[text.len()]
}

fn parse(expression: &str) -> Result<Vec<Piece>, String> {
    let mut rest = expression.as_bytes();
    let mut pieces = Vec::new();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        let class = match first {
            b'.' => Class::Any,
            b'[' => bracket(&mut rest)?,
            b'\\' => {
                let (escaped, tail) = rest.split_first().ok_or("nothing behind \\")?;
                rest = tail;
                Class::One(*escaped)
            }
            b'(' | b')' | b'|' => return Err("groups and alternatives are not supported".into()),
            b'^' | b'$' => return Err("anchors are not supported: a wildcard is anchored".into()),
            b'*' | b'+' | b'?' | b'{' => return Err("nothing to repeat".into()),
            octet => Class::One(octet),
        };
        let (least, most) = repetition(&mut rest)?;
        pieces.push(Piece { class, least, most });
    }
    Ok(pieces)
}

fn repetition(rest: &mut &[u8]) -> Result<(usize, usize), String> {
    let (bounds, used) = match rest.first() {
        Some(b'*') => ((0, usize::MAX), 1),
        Some(b'+') => ((1, usize::MAX), 1),
        Some(b'?') => ((0, 1), 1),
        Some(b'{') => {
            let end = rest.iter().position(|octet| *octet == b'}').ok_or("{ without }")?;
            let inside = std::str::from_utf8(&rest[1..end]).map_err(|_| "bad repetition")?;
            let number =
                |text: &str| text.parse::<usize>().map_err(|_| "bad repetition".to_owned());
            let bounds = match inside.split_once(',') {
                None => (number(inside)?, number(inside)?),
                Some((least, "")) => (number(least)?, usize::MAX),
                Some((least, most)) => (number(least)?, number(most)?),
            };
            (bounds, end + 1)
        }
        _ => ((1, 1), 0),
    };
    *rest = &rest[used..];
    Ok(bounds)
}

fn bracket(rest: &mut &[u8]) -> Result<Class, String> {
    let is_negated = rest.first() == Some(&b'^');
    let inside: &[u8] = if is_negated { &rest[1..] } else { rest };
    // A bracket in the first place stands for itself.
    let end = inside.iter().skip(1).position(|octet| *octet == b']').ok_or("[ without ]")? + 1;
    let mut members = &inside[..end];
    if members.contains(&b'[') {
        return Err("named character classes are not supported".into());
    }
    let mut ranges = Vec::new();
    while let Some((&low, tail)) = members.split_first() {
        let (high, tail) = match tail {
            [b'-', high, tail @ ..] => (*high, tail),
            _ => (low, tail),
        };
        ranges.push((low, high));
        members = tail;
    }
    *rest = &inside[end + 1..];
    Ok(Class::Ranges { is_negated, ranges })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TS 23.003 §13.4A, §13.5.
    #[test]
    fn matches_between_the_marks() {
        assert!(matches("sip:chat-!.*!@hims.net", "sip:chat-@hims.net"));
        assert!(matches("sip:chat-!.*!@hims.net", "sip:chat-42@hims.net"));
        assert!(!matches("sip:chat-!.*!@hims.net", "sip:talk-42@hims.net"));
        assert!(!matches("sip:chat-!.*!@hims.net", "sip:chat-42@example.net"));
        assert!(matches("tel:+1555![0-9]{4}!", "tel:+15551234"));
        assert!(!matches("tel:+1555![0-9]{4}!", "tel:+155512345"));
        assert!(matches("sip:!a?[^x]+\\.!@h", "sip:zz.@h"));
        assert!(!matches("sip:!a?[^x]+\\.!@h", "sip:ax.@h"));
        assert!(matches("sip:!.*!@h", &format!("sip:{}@h", "a".repeat(1_000))));
    }

    /// TS 23.003 §13.4A: two pieces without an end and a text that is long would take minutes.
    #[test]
    fn matches_nothing_that_is_too_long() {
        for (digits, is_matched) in [(1_018, true), (1_019, false), (1_000_000, false)] {
            let identity = format!("sip:{}@h", "1".repeat(digits));
            assert_eq!(matches("sip:![0-9]+.*!@h", &identity), is_matched, "{digits}");
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for pattern in ["sip:a@h", "sip:!(a|b)!@h", "sip:!*!@h", "sip:![a!@h", "sip:!a{2!@h"] {
            assert!(check(pattern).is_err(), "{pattern}");
        }
        assert_eq!(check("sip:!.*!@h"), Ok(()));
    }
}
