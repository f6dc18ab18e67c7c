//! Subscribers from options, TOML and CSV.
//!
//! A CSV file begins with a line that names its columns, any of [`COLUMNS`] in any order; a field
//! may stand in double quotes. Columns mean what the fields of [`Entry`] of the same name mean; in
//! `impu` identities are separated by spaces, and a `!` in front of one bars it.
//!
//! A TOML file has the same fields, and may define service profiles and charging addresses first:
//!
//! ```toml
//! [[charging]]
//! name = "gold"
//! primary_charging_collection = "aaa://ccf.ims.example.org"
//!
//! [[profile]]
//! name = "telephony"
//! user_data = "<IMSSubscription>...</IMSSubscription>" # its first ServiceProfile is taken
//!
//! [[subscriber]]
//! imsi = "001010123456789"
//! k = "465b5ce8b199b49faa5f0a2ee238a6bc"
//! opc = "cd63cb71954a9f4e48a5994e37a02baf"
//! msisdn = "15551234567"
//! impu = ["sip:alice@ims.example.org", { identity = "sip:work@ims.example.org", set = 2 }]
//! ```

use std::fmt;
use std::ops::Range;

use common::cx::user_data::UserData;
use serde::Deserialize;
use toml::Spanned;

use crate::entry::Entry;
use crate::provision::{ChargingAddresses, Profile, Subscriber};

/// Where a file is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileError {
    /// From 1.
    pub line: usize,
    pub cause: String,
}

/// What a file holds, each subscriber with the line it begins at.
#[derive(Debug, Default)]
pub struct Imported {
    pub profiles: Vec<Profile>,
    pub charging: Vec<ChargingAddresses>,
    pub subscribers: Vec<(usize, Subscriber)>,
}

/// The columns a CSV file may have.
pub const COLUMNS: [&str; 24] = [
    "imsi",
    "impi",
    "mnc_digits",
    "domain",
    "msisdn",
    "impu",
    "display_name",
    "k",
    "op",
    "opc",
    "top",
    "topc",
    "scheme",
    "password",
    "address",
    "algorithm",
    "iterations",
    "res_octets",
    "amf",
    "sqn",
    "profile",
    "charging",
    "joins",
    "suspended",
];

/// Reads subscribers from TOML.
///
/// # Errors
/// The first line that is wrong.
pub fn from_toml(source: &str) -> Result<Imported, FileError> {
    let line = |span: Option<Range<usize>>| line_at(source, span.map_or(0, |span| span.start));
    let file: TomlFile = toml::from_str(source).map_err(|error| FileError {
        line: line(error.span()),
        // Only the message: the whole error shows the line, which may hold a key.
        cause: error.message().to_owned(),
    })?;
    let mut imported = Imported::default();
    for entry in file.profile {
        let at = line(Some(entry.span()));
        let profile = entry.into_inner().resolve();
        imported.profiles.push(profile.map_err(|cause| FileError { line: at, cause })?);
    }
    imported.charging.extend(file.charging.into_iter().map(|entry| ChargingAddresses {
        name: entry.name,
        addresses: [
            entry.primary_event_charging,
            entry.secondary_event_charging,
            entry.primary_charging_collection,
            entry.secondary_charging_collection,
        ],
    }));
    for entry in file.subscriber {
        let at = line(Some(entry.span()));
        let subscriber = entry.into_inner().resolve();
        let subscriber =
            subscriber.map_err(|error| FileError { line: at, cause: error.to_string() })?;
        imported.subscribers.push((at, subscriber));
    }
    Ok(imported)
}

/// Reads subscribers from CSV (RFC 4180).
///
/// # Errors
/// The first line that is wrong.
pub fn from_csv(source: &str) -> Result<Imported, FileError> {
    let mut rows = CsvRows { rest: source, line: 1 };
    let Some((_, header)) = rows.next_row()? else {
        return Err(FileError { line: 1, cause: "the file is empty".to_owned() });
    };
    let mut columns = Vec::with_capacity(header.len());
    for name in &header {
        let name = name.trim();
        let known = COLUMNS.iter().find(|column| **column == name);
        columns.push(*known.ok_or_else(|| FileError {
            line: 1,
            cause: format!("column {name:?} is unknown; known are {}", COLUMNS.join(", ")),
        })?);
    }
    let mut imported = Imported::default();
    while let Some((line, fields)) = rows.next_row()? {
        if fields.len() == 1 && fields[0].trim().is_empty() {
            continue;
        }
        if fields.len() != columns.len() {
            let cause = format!("{} fields, the first line names {}", fields.len(), columns.len());
            return Err(FileError { line, cause });
        }
        let mut entry = Entry::default();
        for (column, field) in columns.iter().zip(fields) {
            entry.set(column, field.trim());
        }
        let subscriber =
            entry.resolve().map_err(|error| FileError { line, cause: error.to_string() })?;
        imported.subscribers.push((line, subscriber));
    }
    Ok(imported)
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.cause)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlFile {
    #[serde(default)]
    profile: Vec<Spanned<ProfileEntry>>,
    #[serde(default)]
    charging: Vec<ChargingEntry>,
    #[serde(default)]
    subscriber: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileEntry {
    name: String,
    /// An IMSSubscription document; its first ServiceProfile is taken, identities are not.
    #[serde(default)]
    user_data: Option<String>,
    #[serde(default)]
    subscribed_media_profile_id: Option<u32>,
    #[serde(default)]
    shared_ifc_set_ids: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChargingEntry {
    name: String,
    #[serde(default)]
    primary_event_charging: Option<String>,
    #[serde(default)]
    secondary_event_charging: Option<String>,
    #[serde(default)]
    primary_charging_collection: Option<String>,
    #[serde(default)]
    secondary_charging_collection: Option<String>,
}

impl ProfileEntry {
    fn resolve(self) -> Result<Profile, String> {
        let mut profile = Profile {
            subscribed_media_profile_id: self.subscribed_media_profile_id,
            shared_ifc_set_ids: self.shared_ifc_set_ids,
            ..Profile::default()
        };
        if let Some(xml) = &self.user_data {
            profile = profile_from_xml(xml.as_bytes())?;
        }
        profile.name = self.name;
        Ok(profile)
    }
}

/// What the first ServiceProfile of a User-Data document says beside its identities.
///
/// # Errors
/// The document cannot be read, or has no profile.
pub fn profile_from_xml(xml: &[u8]) -> Result<Profile, String> {
    let user_data =
        UserData::parse(xml).map_err(|malformed| format!("user_data: {}", malformed.0))?;
    let service_profile = user_data.service_profiles.into_iter().next();
    let service_profile = service_profile.ok_or("user_data: there is no ServiceProfile")?;
    Ok(Profile {
        name: String::new(),
        subscribed_media_profile_id: service_profile.subscribed_media_profile_id,
        initial_filter_criteria: service_profile.initial_filter_criteria,
        shared_ifc_set_ids: service_profile.shared_ifc_set_ids,
    })
}

fn line_at(source: &str, offset: usize) -> usize {
    let before = &source.as_bytes()[..offset.min(source.len())];
    before.iter().filter(|octet| **octet == b'\n').count() + 1
}

/// Cuts CSV into rows; a quoted field may hold separators, quotes and line ends.
struct CsvRows<'a> {
    rest: &'a str,
    line: usize,
}

impl CsvRows<'_> {
    /// The line at which a row begins, and its fields.
    fn next_row(&mut self) -> Result<Option<(usize, Vec<String>)>, FileError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let line = self.line;
        let mut fields = Vec::new();
        loop {
            fields.push(self.next_field()?);
            let mut characters = self.rest.chars();
            match characters.next() {
                Some(',') => self.rest = characters.as_str(),
                Some('\n') => {
                    self.rest = characters.as_str();
                    self.line += 1;
                    return Ok(Some((line, fields)));
                }
                None => return Ok(Some((line, fields))),
                Some(_) => {
                    let cause = "something follows a closing quote".to_owned();
                    return Err(FileError { line: self.line, cause });
                }
            }
        }
    }

    fn next_field(&mut self) -> Result<String, FileError> {
        let Some(mut quoted) = self.rest.strip_prefix('"') else {
            let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
            let (field, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Ok(field.trim_end_matches('\r').to_owned());
        };
        let mut field = String::new();
        loop {
            let Some((part, rest)) = quoted.split_once('"') else {
                let cause = "a quoted field does not end".to_owned();
                return Err(FileError { line: self.line, cause });
            };
            self.line += part.matches('\n').count();
            field.push_str(part);
            match rest.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    quoted = more;
                }
                None => {
                    self.rest = rest.strip_prefix('\r').unwrap_or(rest);
                    return Ok(field);
                }
            }
        }
    }
}
