//! A message as somebody wrote it: edited line by line, everything else stays as it is.

use bytes::Bytes;
use common::limits::Limits;
use common::sip::header::Name;
use common::sip::message::{Message, Request};

#[derive(Clone)]
pub struct Words {
    /// With the empty line that ends it.
    head: String,
    body: Vec<u8>,
}

impl Words {
    pub fn new(bytes: &[u8]) -> Words {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an empty line");
        let (head, body) = bytes.split_at(end + 4);
        Words { head: String::from_utf8(head.to_vec()).expect("a head of text"), body: body.into() }
    }

    /// Of lines as they stand in a test: without CR, the empty line is added.
    pub fn of_lines(text: &str) -> Words {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        Words { head: format!("{}\r\n\r\n", lines.join("\r\n")), body: Vec::new() }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.clone().into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    pub fn message(&self) -> Message {
        Message::parse(Bytes::from(self.bytes()), &Limits::default()).expect("a message")
    }

    /// Its first line.
    pub fn start(&self) -> &str {
        self.head.split("\r\n").next().unwrap_or_default()
    }

    /// Everywhere in the head; it has to be there.
    pub fn replace(mut self, from: &str, to: &str) -> Words {
        assert!(self.head.contains(from), "no {from} in\n{}", self.head);
        self.head = self.head.replace(from, to);
        self
    }

    /// The value of the first line of this name, in full or compact.
    pub fn get(&self, name: &str) -> Option<&str> {
        let line = self.head.split("\r\n").find(|line| is_of(line, name))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }

    /// Another value for the first line of this name; its name stays as it is spelt.
    pub fn set(self, name: &str, value: &str) -> Words {
        let mut is_done = false;
        let words = self.each_line(|line| match is_of(line, name) && !is_done {
            true => {
                is_done = true;
                let (spelt, _) = line.split_once(':').expect("a header");
                Some(format!("{spelt}: {value}"))
            }
            false => Some(line.to_owned()),
        });
        assert!(is_done, "no {name} in\n{}", words.head);
        words
    }

    /// Via, Call-ID, CSeq, From and To of an answer, where the answer has them; else they are added. The tag of To stays
    /// what it is.
    pub fn answering(self, request: &Request) -> Words {
        let value = |name: &str| {
            Name::find(name.as_bytes()).and_then(|name| request.headers().get(name)).unwrap_or("")
        };
        let mut words = self;
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            if words.get(name).is_none() {
                words = words.with(&format!("{name}: x"));
            }
        }
        let tag = words.get("To").and_then(|to| to.split(";tag=").nth(1)).map(str::to_owned);
        let mut to = value("To").to_owned();
        if let (Some(tag), None) = (tag, request.to_tag()) {
            to = format!("{to};tag={tag}");
        }
        let vias: Vec<&str> = request.headers().values(Name::Via).collect();
        // One line or several, as it was.
        let is_joined = words.get("Via").is_some_and(|via| via.contains(','));
        let vias = vias.join(if is_joined { "," } else { "\r\nVia: " });
        let mut is_first = true;
        let words = words.each_line(|line| match is_of(line, "Via") {
            true => std::mem::take(&mut is_first).then(|| format!("Via: {vias}")),
            false => Some(line.to_owned()),
        });
        words
            .set("From", value("From"))
            .set("To", &to)
            .set("Call-ID", value("Call-ID"))
            .set("CSeq", value("CSeq"))
    }

    pub fn without(self, name: &str) -> Words {
        self.each_line(|line| (!is_of(line, name)).then(|| line.to_owned()))
    }

    /// Another line, the last one.
    pub fn with(mut self, line: &str) -> Words {
        self.head.truncate(self.head.len() - 2);
        self.head.push_str(line);
        self.head.push_str("\r\n\r\n");
        self
    }

    /// The value of a parameter, in quotes or not, wherever in the line it stands.
    pub fn set_parameter(self, name: &str, parameter: &str, value: &str) -> Words {
        let line = self.get(name).unwrap_or_else(|| panic!("no {name}"));
        let at = line
            .match_indices(&format!("{parameter}="))
            .map(|(at, found)| (at, at + found.len()))
            .find(|(at, _)| *at == 0 || matches!(line.as_bytes()[at - 1], b',' | b' ' | b';'));
        let (_, from) = at.unwrap_or_else(|| panic!("no {parameter} in {line}"));
        let rest = &line[from..];
        let (from, length) = match rest.strip_prefix('"') {
            Some(quoted) => (from + 1, quoted.find('"').expect("a closing quote")),
            None => (from, rest.find([',', ';']).unwrap_or(rest.len())),
        };
        let changed = format!("{}{value}{}", &line[..from], &line[from + length..]);
        self.set(name, &changed)
    }

    fn each_line(self, mut change: impl FnMut(&str) -> Option<String>) -> Words {
        let head = self.head.strip_suffix("\r\n\r\n").expect("an empty line");
        let lines: Vec<String> = head.split("\r\n").filter_map(&mut change).collect();
        Words { head: format!("{}\r\n\r\n", lines.join("\r\n")), body: self.body }
    }
}

/// RFC 3261 §7.3.3
fn is_of(line: &str, name: &str) -> bool {
    const COMPACT: [(&str, &str); 7] = [
        ("v", "Via"),
        ("f", "From"),
        ("t", "To"),
        ("i", "Call-ID"),
        ("m", "Contact"),
        ("l", "Content-Length"),
        ("k", "Supported"),
    ];
    let Some((spelt, _)) = line.split_once(':') else { return false };
    let full = COMPACT.iter().find(|(compact, _)| *compact == spelt).map(|(_, full)| *full);
    full.unwrap_or(spelt.trim()).eq_ignore_ascii_case(name)
}
