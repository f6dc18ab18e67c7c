//! Walking through an XML document, and writing one (TS 29.228 §B).

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};

use crate::cx::user_data::Malformed;

/// Elements nested deeper than any schema has them.
const DEPTH: usize = 32;

/// A walk over the elements of a document, from outside in.
pub(super) struct Walk<'a> {
    reader: Reader<&'a [u8]>,
    depth: usize,
}

impl<'a> Walk<'a> {
    pub fn new(text: &'a str) -> Walk<'a> {
        let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
        reader.config_mut().expand_empty_elements = true;
        Walk { reader, depth: 0 }
    }

    /// Enters the next element inside the current one and gives its name; `None` at the end of the
    /// current one, which is left. Names with a prefix are of other namespaces and match nothing.
    pub fn child(&mut self) -> Result<Option<Cow<'a, str>>, Malformed> {
        loop {
            match self.event()? {
                Event::Start(start) => {
                    self.depth += 1;
                    if self.depth > DEPTH {
                        return Err(malformed("elements nested too deep"));
                    }
                    return Ok(Some(Cow::Owned(start.name().as_ref().to_owned())));
                }
                Event::End(_) => {
                    self.depth = self.depth.saturating_sub(1);
                    return Ok(None);
                }
                Event::Eof if self.depth == 0 => return Ok(None),
                Event::Eof => return Err(malformed("ends inside an element")),
                _ => {}
            }
        }
    }

    /// Text of the current element without white space around it; leaves the element. Elements
    /// inside it are passed over.
    pub fn text(&mut self) -> Result<String, Malformed> {
        let mut text = String::new();
        loop {
            match self.event()? {
                Event::Text(part) => text.push_str(&part.into_inner()),
                Event::CData(part) => text.push_str(&part.into_inner()),
                Event::GeneralRef(reference) => text.push(resolve(&reference)?),
                Event::Start(_) => {
                    self.depth += 1;
                    self.skip()?;
                }
                Event::End(_) => {
                    self.depth = self.depth.saturating_sub(1);
                    return Ok(text.trim().to_owned());
                }
                Event::Eof => return Err(malformed("ends inside an element")),
                _ => {}
            }
        }
    }

    /// Passes over the rest of the current element and leaves it.
    pub fn skip(&mut self) -> Result<(), Malformed> {
        let outside = self.depth.saturating_sub(1);
        while self.depth > outside {
            match self.event()? {
                Event::Start(_) => self.depth += 1,
                Event::End(_) => self.depth -= 1,
                Event::Eof => return Err(malformed("ends inside an element")),
                _ => {}
            }
        }
        Ok(())
    }

    pub fn number<T: std::str::FromStr>(&mut self, name: &str) -> Result<T, Malformed> {
        let text = self.text()?;
        text.parse().map_err(|_| Malformed(format!("{name} {text:?} is no number in range")))
    }

    /// `0`, `1`, `true`, `false`.
    pub fn boolean(&mut self, name: &str) -> Result<bool, Malformed> {
        match &self.text()?[..] {
            "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            text => Err(Malformed(format!("{name} {text:?} is neither true nor false"))),
        }
    }

    /// SIPHeader and SessionDescription: an element of the name given, and Content.
    pub fn named_content(&mut self, wanted: &str) -> Result<(String, Option<String>), Malformed> {
        let (mut named, mut content) = (None, None);
        while let Some(name) = self.child()? {
            match &name[..] {
                "Content" => content = Some(self.text()?),
                name if name == wanted => named = Some(self.text()?),
                _ => self.skip()?,
            }
        }
        let named = named.ok_or_else(|| Malformed(format!("{wanted} is missing")))?;
        Ok((named, content))
    }

    /// A document type could define entities, so it is refused.
    fn event(&mut self) -> Result<Event<'a>, Malformed> {
        match self.reader.read_event() {
            Ok(Event::DocType(_)) => Err(malformed("document type declaration")),
            Ok(event) => Ok(event),
            Err(error) => Err(Malformed(error.to_string())),
        }
    }
}

/// The five entities of XML, and characters by number.
fn resolve(reference: &BytesRef) -> Result<char, Malformed> {
    if let Some(character) =
        reference.resolve_char_ref().map_err(|error| Malformed(error.to_string()))?
    {
        return Ok(character);
    }
    let name: &str = reference;
    match name {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        name => Err(Malformed(format!("entity {name}"))),
    }
}

pub(super) fn malformed(why: &str) -> Malformed {
    Malformed(why.to_owned())
}

/// A document being written.
pub(super) struct Xml(pub String);

impl Xml {
    pub fn element(&mut self, name: &str, fill: impl FnOnce(&mut Xml)) {
        self.open(name);
        fill(self);
        self.close(name);
    }

    pub fn text(&mut self, name: &str, text: &str) {
        self.open(name);
        self.0.push_str(&quick_xml::escape::escape(text));
        self.close(name);
    }

    pub fn optional(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    pub fn number(&mut self, name: &str, number: u32) {
        self.text(name, &number.to_string());
    }

    fn open(&mut self, name: &str) {
        self.0.push('<');
        self.0.push_str(name);
        self.0.push('>');
    }

    fn close(&mut self, name: &str) {
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }
}
