//! The registration state document, `application/reginfo+xml` (RFC 3680 §5), with GRUUs
//! (RFC 5628 §5) and wildcarded identities (TS 24.229 §7.10.2): what an S-CSCF writes and its
//! watchers read.

mod versions;

use std::fmt;
use std::fmt::Write as _;

use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::{BytesStart, Event as Xml};

use crate::sip::header::Name;
use crate::sip::message::Headers;

pub use versions::{Order, Versions};

/// MIME type of the document.
pub const CONTENT_TYPE: &str = "application/reginfo+xml";
/// Name of the event package.
pub const PACKAGE: &str = "reg";

/// The request is of this package (RFC 3680 §4.1, RFC 6665 §8.2.1).
pub fn is_reg_event(headers: &Headers) -> bool {
    let package = headers.get(Name::Event).and_then(|event| event.split(';').next());
    package.is_some_and(|package| package.trim().eq_ignore_ascii_case(PACKAGE))
}

/// Contacts that one document may name.
const CONTACTS_LIMIT: usize = 1_000;

/// One document.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegInfo {
    /// One more with each document of a subscription, from 0.
    pub version: u32,
    /// All that is known; otherwise what has changed.
    pub is_full: bool,
    pub registrations: Vec<Registration>,
}

/// One public identity.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Registration {
    pub aor: String,
    /// The same for the same identity in every document.
    pub id: String,
    pub state: State,
    /// The wildcard that `aor` stands for.
    pub wildcarded_identity: Option<String>,
    pub contacts: Vec<Contact>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Nothing was ever bound.
    #[default]
    Init,
    Active,
    Terminated,
}

/// One contact bound, or bound until now, to a public identity.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contact {
    /// The same for the same contact in every document.
    pub id: String,
    pub is_active: bool,
    pub event: Event,
    /// What is left of it.
    pub expires_seconds: Option<u64>,
    /// With [`Event::Probation`]: when to come again.
    pub retry_after_seconds: Option<u64>,
    /// Of the last REGISTER.
    pub call_id: Option<String>,
    pub cseq: Option<u32>,
    /// As in the Contact: `0.7`.
    pub q: Option<String>,
    pub uri: String,
    /// Contact parameters that have no place of their own, as written, quotes included.
    pub unknown_parameters: Vec<(String, Option<String>)>,
    pub public_gruu: Option<String>,
    /// With the CSeq of the REGISTER from which on temporary GRUUs are valid.
    pub temporary_gruu: Option<(String, u32)>,
}

/// What made the state of a contact what it is (RFC 3680 §5.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Event {
    /// By a REGISTER for this identity.
    #[default]
    Registered,
    /// Along with another identity.
    Created,
    Refreshed,
    /// The registrar wants it sooner.
    Shortened,
    Expired,
    /// The user agent shall register again at once.
    Deactivated,
    /// The user agent shall come again later.
    Probation,
    /// By the user agent.
    Unregistered,
    /// The user agent shall not come again.
    Rejected,
}

impl Event {
    const ALL: [(Event, &'static str); 9] = [
        (Event::Registered, "registered"),
        (Event::Created, "created"),
        (Event::Refreshed, "refreshed"),
        (Event::Shortened, "shortened"),
        (Event::Expired, "expired"),
        (Event::Deactivated, "deactivated"),
        (Event::Probation, "probation"),
        (Event::Unregistered, "unregistered"),
        (Event::Rejected, "rejected"),
    ];

    pub fn name(self) -> &'static str {
        Event::ALL.iter().find(|(event, _)| *event == self).map_or("", |(_, name)| name)
    }

    fn find(text: &str) -> Option<Event> {
        Event::ALL.iter().find(|(_, name)| *name == text).map(|(event, _)| *event)
    }
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Init => "init",
            State::Active => "active",
            State::Terminated => "terminated",
        }
    }

    fn find(text: &str) -> Option<State> {
        [State::Init, State::Active, State::Terminated]
            .into_iter()
            .find(|state| state.name() == text)
    }
}

/// Why text is no such document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RegInfo {
    /// RFC 3680 §5.4, RFC 5628 §5. Namespaces are declared only where they are used, because there
    /// are phones that stumble over what they do not know.
    pub fn to_xml(&self) -> String {
        let contacts = || self.registrations.iter().flat_map(|one| &one.contacts);
        let has_gruu =
            contacts().any(|one| one.public_gruu.is_some() || one.temporary_gruu.is_some());
        let has_wildcard = self.registrations.iter().any(|one| one.wildcarded_identity.is_some());
        let mut xml = String::with_capacity(1_024);
        xml.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<reginfo");
        attribute(&mut xml, "xmlns", "urn:ietf:params:xml:ns:reginfo");
        if has_gruu {
            attribute(&mut xml, "xmlns:gr", "urn:ietf:params:xml:ns:gruuinfo");
        }
        if has_wildcard {
            attribute(&mut xml, "xmlns:ere", "urn:3gpp:ns:extRegExp:1.0");
        }
        attribute(&mut xml, "version", self.version);
        attribute(&mut xml, "state", if self.is_full { "full" } else { "partial" });
        xml.push_str(">\n");
        for registration in &self.registrations {
            registration.write(&mut xml);
        }
        xml.push_str("</reginfo>\n");
        xml
    }

    /// RFC 3680 §5.4: reads a document; elements that it does not know are passed over, with all
    /// that is in them.
    ///
    /// # Errors
    ///
    /// When it is no XML, has a document type, or lacks what the schema requires.
    pub fn parse(xml: &[u8]) -> Result<RegInfo, Malformed> {
        let text = std::str::from_utf8(xml).map_err(|_| malformed("not UTF-8"))?;
        let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
        reader.config_mut().expand_empty_elements = true;
        let mut reading = Reading::default();
        loop {
            match reader.read_event().map_err(|error| Malformed(error.to_string()))? {
                Xml::Start(start) => reading.enter(&start)?,
                Xml::End(_) => reading.leave()?,
                Xml::Text(part) => reading.text.push_str(&part.into_inner()),
                Xml::CData(part) => reading.text.push_str(&part.into_inner()),
                Xml::GeneralRef(reference) => {
                    let name: &str = &reference;
                    let text = quick_xml::escape::unescape(&format!("&{name};"))
                        .map(|text| text.into_owned())
                        .map_err(|error| Malformed(error.to_string()))?;
                    reading.text.push_str(&text);
                }
                Xml::DocType(_) => return Err(malformed("document type declaration")),
                Xml::Eof => return reading.done(),
                _ => {}
            }
        }
    }
}

impl Registration {
    fn write(&self, xml: &mut String) {
        xml.push_str("<registration");
        attribute(xml, "aor", &self.aor);
        attribute(xml, "id", &self.id);
        attribute(xml, "state", self.state.name());
        xml.push_str(">\n");
        for contact in &self.contacts {
            contact.write(xml);
        }
        if let Some(wildcard) = &self.wildcarded_identity {
            element(xml, "ere:wildcardedIdentity", wildcard);
        }
        xml.push_str("</registration>\n");
    }
}

impl Contact {
    fn write(&self, xml: &mut String) {
        xml.push_str("<contact");
        attribute(xml, "id", &self.id);
        attribute(xml, "state", if self.is_active { "active" } else { "terminated" });
        attribute(xml, "event", self.event.name());
        optional(xml, "expires", self.expires_seconds);
        optional(xml, "retry-after", self.retry_after_seconds);
        optional(xml, "q", self.q.as_deref());
        optional(xml, "callid", self.call_id.as_deref());
        optional(xml, "cseq", self.cseq);
        xml.push_str(">\n");
        element(xml, "uri", &self.uri);
        for (name, value) in &self.unknown_parameters {
            xml.push_str("<unknown-param");
            attribute(xml, "name", name);
            xml.push('>');
            xml.push_str(&escape(value.as_deref().unwrap_or("")));
            xml.push_str("</unknown-param>\n");
        }
        if let Some(gruu) = &self.public_gruu {
            xml.push_str("<gr:pub-gruu");
            attribute(xml, "uri", gruu);
            xml.push_str("/>\n");
        }
        if let Some((gruu, first_cseq)) = &self.temporary_gruu {
            xml.push_str("<gr:temp-gruu");
            attribute(xml, "uri", gruu);
            attribute(xml, "first-cseq", first_cseq);
            xml.push_str("/>\n");
        }
        xml.push_str("</contact>\n");
    }
}

fn attribute(xml: &mut String, name: &str, value: impl fmt::Display) {
    let value = value.to_string();
    let _ = write!(xml, " {name}=\"{}\"", escape(value.as_str()));
}

fn optional(xml: &mut String, name: &str, value: Option<impl fmt::Display>) {
    if let Some(value) = value {
        attribute(xml, name, value);
    }
}

fn element(xml: &mut String, name: &str, text: &str) {
    let _ = writeln!(xml, "<{name}>{}</{name}>", escape(text));
}

fn malformed(what: &str) -> Malformed {
    Malformed(what.to_owned())
}

/// A document being read: where we are, and what there is so far.
#[derive(Default)]
struct Reading {
    path: Vec<Place>,
    info: Option<RegInfo>,
    text: String,
    parameter: String,
    contacts: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    RegInfo,
    Registration,
    Contact,
    Uri,
    Parameter,
    Wildcard,
    /// Of no meaning to us.
    Other,
}

impl Reading {
    fn enter(&mut self, start: &BytesStart) -> Result<(), Malformed> {
        self.text.clear();
        let name = start.local_name();
        let name: &str = name.as_ref();
        let place = match (self.path.last(), name) {
            (None, "reginfo") if self.info.is_none() => {
                self.info = Some(RegInfo {
                    version: number(start, "version")?.ok_or_else(|| malformed("no version"))?,
                    is_full: match value(start, "state")?.as_deref() {
                        Some("full") => true,
                        Some("partial") => false,
                        _ => return Err(malformed("state of reginfo")),
                    },
                    registrations: Vec::new(),
                });
                Place::RegInfo
            }
            (None, name) => return Err(Malformed(format!("root element {name}"))),
            (Some(Place::RegInfo), "registration") => {
                let state = value(start, "state")?;
                let state = state.as_deref().and_then(State::find);
                let registration = Registration {
                    aor: value(start, "aor")?.ok_or_else(|| malformed("no aor"))?,
                    id: value(start, "id")?.unwrap_or_default(),
                    state: state.ok_or_else(|| malformed("state of a registration"))?,
                    ..Registration::default()
                };
                self.info.as_mut().ok_or_else(nowhere)?.registrations.push(registration);
                Place::Registration
            }
            (Some(Place::Registration), "contact") => {
                self.contacts += 1;
                if self.contacts > CONTACTS_LIMIT {
                    return Err(malformed("too many contacts"));
                }
                let contact = contact(start)?;
                self.registration()?.contacts.push(contact);
                Place::Contact
            }
            (Some(Place::Registration), "wildcardedIdentity") => Place::Wildcard,
            (Some(Place::Contact), "uri") => Place::Uri,
            (Some(Place::Contact), "unknown-param") => {
                self.parameter = value(start, "name")?.unwrap_or_default();
                Place::Parameter
            }
            (Some(Place::Contact), "pub-gruu") => {
                self.contact()?.public_gruu = value(start, "uri")?;
                Place::Other
            }
            (Some(Place::Contact), "temp-gruu") => {
                let first_cseq = number(start, "first-cseq")?.unwrap_or(0);
                let uri = value(start, "uri")?;
                self.contact()?.temporary_gruu = uri.map(|uri| (uri, first_cseq));
                Place::Other
            }
            _ => Place::Other,
        };
        self.path.push(place);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Malformed> {
        let text = std::mem::take(&mut self.text);
        match self.path.pop() {
            Some(Place::Uri) => self.contact()?.uri = text.trim().to_owned(),
            Some(Place::Parameter) => {
                let name = std::mem::take(&mut self.parameter);
                let value = (!text.is_empty()).then_some(text);
                self.contact()?.unknown_parameters.push((name, value));
            }
            Some(Place::Wildcard) => {
                self.registration()?.wildcarded_identity = Some(text.trim().to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn done(self) -> Result<RegInfo, Malformed> {
        match self.info {
            Some(info) if self.path.is_empty() => Ok(info),
            Some(_) => Err(malformed("ends inside an element")),
            None => Err(malformed("no reginfo")),
        }
    }

    fn registration(&mut self) -> Result<&mut Registration, Malformed> {
        self.info.as_mut().and_then(|info| info.registrations.last_mut()).ok_or_else(nowhere)
    }

    fn contact(&mut self) -> Result<&mut Contact, Malformed> {
        self.registration()?.contacts.last_mut().ok_or_else(nowhere)
    }
}

fn nowhere() -> Malformed {
    malformed("an element out of place")
}

fn contact(start: &BytesStart) -> Result<Contact, Malformed> {
    let event = value(start, "event")?;
    let event = event.as_deref().and_then(Event::find);
    Ok(Contact {
        id: value(start, "id")?.unwrap_or_default(),
        is_active: match value(start, "state")?.as_deref() {
            Some("active") => true,
            Some("terminated") => false,
            _ => return Err(malformed("state of a contact")),
        },
        event: event.ok_or_else(|| malformed("event of a contact"))?,
        expires_seconds: number(start, "expires")?,
        retry_after_seconds: number(start, "retry-after")?,
        call_id: value(start, "callid")?,
        cseq: number(start, "cseq")?,
        q: value(start, "q")?,
        ..Contact::default()
    })
}

fn value(start: &BytesStart, name: &str) -> Result<Option<String>, Malformed> {
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| Malformed(error.to_string()))?;
        let key: &str = attribute.key.as_ref();
        if key == name {
            let value = quick_xml::escape::unescape(&attribute.value);
            let value = value.map_err(|error| Malformed(error.to_string()))?;
            return Ok(Some(value.into_owned()));
        }
    }
    Ok(None)
}

fn number<T: std::str::FromStr>(start: &BytesStart, name: &str) -> Result<Option<T>, Malformed> {
    match value(start, name)? {
        None => Ok(None),
        Some(text) => match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Malformed(format!("{name} {text:?} is no number in range"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> RegInfo {
        let contact = Contact {
            id: "76".into(),
            is_active: true,
            event: Event::Registered,
            expires_seconds: Some(600_000),
            call_id: Some("a\"b&c".into()),
            cseq: Some(26),
            q: Some("0.7".into()),
            uri: "sip:10.133.202.46:5064;a=<b>".into(),
            unknown_parameters: vec![
                ("+sip.instance".into(), Some("\"<urn:gsma:imei:35209900-176148-0>\"".into())),
                ("+g.3gpp.smsip".into(), None),
            ],
            public_gruu: Some("sip:name@hims.net;gr=urn:gsma:imei:35209900-176148-0".into()),
            temporary_gruu: Some(("sip:tgruu.abc@hims.net;gr".into(), 25)),
            ..Contact::default()
        };
        let gone = Contact {
            id: "77".into(),
            event: Event::Probation,
            retry_after_seconds: Some(30),
            uri: "sip:10.133.202.47:5064".into(),
            ..Contact::default()
        };
        RegInfo {
            version: 3,
            is_full: true,
            registrations: vec![
                Registration {
                    aor: "sip:name@hims.net".into(),
                    id: "a7".into(),
                    state: State::Active,
                    wildcarded_identity: None,
                    contacts: vec![contact, gone],
                },
                Registration {
                    aor: "sip:pbx1@hims.net".into(),
                    id: "a8".into(),
                    state: State::Terminated,
                    wildcarded_identity: Some("sip:pbx!.*!@hims.net".into()),
                    contacts: Vec::new(),
                },
            ],
        }
    }

    /// RFC 3680 §5.4, RFC 5628 §5, TS 24.229 §7.10.2: what is written is read the same.
    #[test]
    fn reads_what_it_writes() {
        let xml = document().to_xml();
        assert_eq!(RegInfo::parse(xml.as_bytes()), Ok(document()), "{xml}");
        assert!(xml.contains("xmlns:gr=") && xml.contains("xmlns:ere="));
        let plain = RegInfo { version: 0, is_full: false, registrations: Vec::new() };
        assert!(!plain.to_xml().contains("xmlns:"), "{}", plain.to_xml());
        assert_eq!(RegInfo::parse(plain.to_xml().as_bytes()), Ok(plain));
    }

    /// RFC 3680 §5.4: white space, prefixes and elements of others.
    #[test]
    fn reads_the_documents_of_others() {
        let xml = "<?xml version=\"1.0\"?>\n<r:reginfo xmlns:r=\"urn:ietf:params:xml:ns:reginfo\" \
            version=\"2\" state=\"full\">\n\t<r:registration aor=\"tel:03987\" id=\"0x7f\" \
            state=\"active\">\n\t\t<r:contact id=\"0x70\" state=\"active\" event=\"registered\" \
            expires=\"3599\" q=\"1.000\">\n\t\t\t<r:uri>\n sip:192.168.101.5:6300;alias=x~1 </r:uri>\n\
            <x xmlns=\"y\"><uri>no</uri></x></r:contact></r:registration></r:reginfo>";
        let info = RegInfo::parse(xml.as_bytes()).unwrap();
        let contact = &info.registrations[0].contacts[0];
        assert_eq!(contact.uri, "sip:192.168.101.5:6300;alias=x~1");
        assert_eq!((contact.expires_seconds, contact.event), (Some(3599), Event::Registered));
    }

    #[test]
    fn refuses() {
        for xml in [
            "",
            "<reginfo",
            "<other/>",
            "<reginfo version=\"1\" state=\"odd\"/>",
            "<reginfo state=\"full\"/>",
            "<reginfo version=\"-1\" state=\"full\"/>",
            "<reginfo version=\"1\" state=\"full\">",
            "<!DOCTYPE x><reginfo version=\"1\" state=\"full\"/>",
            "<reginfo version=\"1\" state=\"full\"><registration aor=\"a\" state=\"x\"/></reginfo>",
            "<reginfo version=\"1\" state=\"full\"><registration aor=\"a\" state=\"active\">\
             <contact state=\"active\" event=\"odd\"/></registration></reginfo>",
        ] {
            assert!(RegInfo::parse(xml.as_bytes()).is_err(), "{xml}");
        }
    }
}
