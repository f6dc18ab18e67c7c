//! One subscriber as an operator writes it, field by field.

use std::fmt;

use common::aka::vector::Algorithm;
use common::aka::{milenage, tuak};
use common::identity::derive_from_imsi;
use common::secret::Secret;
use common::sip::uri::Uri;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use zeroize::Zeroizing;

use crate::provision::{Ha1, PublicIdentity, Scheme, Subscriber};
use crate::wildcard;

/// One subscriber as an operator writes it. Keys are hexadecimal and never print.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Entry {
    /// Gives the private identity, and a temporary public identity that is barred when there are
    /// others (TS 23.003 §13.3, §13.4B).
    #[serde(deserialize_with = "text")]
    pub imsi: Option<String>,
    /// The private identity; without it `imsi` gives one.
    #[serde(deserialize_with = "text")]
    pub impi: Option<String>,
    /// 2 or 3; absent: 3 for the MCCs 310 to 316, else 2.
    #[serde(deserialize_with = "text")]
    pub mnc_digits: Option<String>,
    /// Home domain; absent: derived from the IMSI, or that of the private identity.
    #[serde(deserialize_with = "text")]
    pub domain: Option<String>,
    /// International number, digits only: adds `sip:+N@domain` and `tel:+N`.
    #[serde(deserialize_with = "text")]
    pub msisdn: Option<String>,
    /// Public identities in the order of their implicit set.
    pub impu: Vec<PublicEntry>,
    /// Which of the public identities are barred.
    pub barred: Vec<String>,
    /// For all public identities without one of their own.
    #[serde(deserialize_with = "text")]
    pub display_name: Option<String>,
    /// Subscriber key, 16 octets, for TUAK 16 or 32.
    #[serde(deserialize_with = "text")]
    pub k: Option<String>,
    /// MILENAGE: the operator's OP, or what derives from it and K.
    #[serde(deserialize_with = "text")]
    pub op: Option<String>,
    #[serde(deserialize_with = "text")]
    pub opc: Option<String>,
    /// TUAK: the operator's TOP, or what derives from it and K.
    #[serde(deserialize_with = "text")]
    pub top: Option<String>,
    #[serde(deserialize_with = "text")]
    pub topc: Option<String>,
    /// `aka` (default), `digest` (SIP Digest, with `password`), or `early-ims` (with `address`).
    #[serde(deserialize_with = "text")]
    pub scheme: Option<String>,
    /// Of scheme `digest`; only its HA1s are stored, for the home domain as realm.
    #[serde(deserialize_with = "text")]
    pub password: Option<String>,
    /// Of scheme `early-ims`: the address of the UE's bearer, for now.
    #[serde(deserialize_with = "text")]
    pub address: Option<String>,
    /// `milenage` (default), `tuak` (default when `top` or `topc` is there), `test`, `none`.
    #[serde(deserialize_with = "text")]
    pub algorithm: Option<String>,
    /// TUAK: Keccak iterations (1) and octets of RES (8).
    #[serde(deserialize_with = "text")]
    pub iterations: Option<String>,
    #[serde(deserialize_with = "text")]
    pub res_octets: Option<String>,
    /// Four hexadecimal digits; absent: 0000.
    #[serde(deserialize_with = "text")]
    pub amf: Option<String>,
    /// The last one used, decimal or hexadecimal behind `0x`; absent: 0.
    #[serde(deserialize_with = "text")]
    pub sqn: Option<String>,
    /// Service profile for public identities without one of their own; absent: `default`.
    #[serde(deserialize_with = "text")]
    pub profile: Option<String>,
    /// Charging addresses by name.
    #[serde(deserialize_with = "text")]
    pub charging: Option<String>,
    /// A private identity that is there already: a second device on its subscription.
    #[serde(deserialize_with = "text")]
    pub joins: Option<String>,
    /// `true`: may not register for now.
    #[serde(deserialize_with = "text")]
    pub suspended: Option<String>,
    pub visited_networks: Option<Vec<String>>,
    pub mandatory_capabilities: Option<Vec<u32>>,
    pub optional_capabilities: Option<Vec<u32>>,
    pub server_names: Option<Vec<String>>,
}

/// A public identity: its text alone, or a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicEntry(PublicTable);

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicTable {
    /// A sip or tel URI, or a wildcard such as `sip:chat-!.*!@ims.example.org`.
    identity: String,
    /// Identities with the same number are registered together; absent: 1.
    #[serde(default)]
    set: Option<u32>,
    #[serde(default)]
    barred: bool,
    /// A public service identity, not a user's.
    #[serde(default)]
    service: bool,
    /// An inactive service is unknown to everybody.
    #[serde(default)]
    inactive: bool,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    alias_group: Option<String>,
    /// Where requests for a service go directly, a SIP URI.
    #[serde(default)]
    application_server: Option<String>,
    #[serde(default)]
    profile: Option<String>,
}

/// Which field of a subscriber is wrong, and why. Never shows a value of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldError {
    pub field: &'static str,
    pub cause: String,
}

impl Entry {
    /// One column of a CSV file; an empty field is absent.
    pub(crate) fn set(&mut self, column: &str, field: &str) {
        if field.is_empty() {
            return;
        }
        let place = match column {
            "impu" => {
                self.impu.extend(field.split_whitespace().map(PublicEntry::from));
                return;
            }
            "imsi" => &mut self.imsi,
            "impi" => &mut self.impi,
            "mnc_digits" => &mut self.mnc_digits,
            "domain" => &mut self.domain,
            "msisdn" => &mut self.msisdn,
            "display_name" => &mut self.display_name,
            "k" => &mut self.k,
            "op" => &mut self.op,
            "opc" => &mut self.opc,
            "top" => &mut self.top,
            "topc" => &mut self.topc,
            "scheme" => &mut self.scheme,
            "password" => &mut self.password,
            "address" => &mut self.address,
            "algorithm" => &mut self.algorithm,
            "iterations" => &mut self.iterations,
            "res_octets" => &mut self.res_octets,
            "amf" => &mut self.amf,
            "sqn" => &mut self.sqn,
            "profile" => &mut self.profile,
            "charging" => &mut self.charging,
            "joins" => &mut self.joins,
            _ => &mut self.suspended,
        };
        *place = Some(field.to_owned());
    }

    /// What goes into the database.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn resolve(&self) -> Result<Subscriber, FieldError> {
        let (private_identity, domain, temporary) = self.identity()?;
        let scheme = self.scheme(&private_identity, &domain)?;
        let keys = match scheme {
            Scheme::Aka => self.keys()?,
            Scheme::Digest(_) | Scheme::EarlyIms(_) if self.k.is_some() => {
                return fail("k", "is only for scheme aka");
            }
            Scheme::Digest(_) | Scheme::EarlyIms(_) => None,
        };
        let mut public_identities = Vec::new();
        for entry in &self.impu {
            public_identities.push(entry.resolve()?);
        }
        if let Some(msisdn) = &self.msisdn {
            let number = msisdn.trim_start_matches('+');
            if number.is_empty() || !number.bytes().all(|digit| digit.is_ascii_digit()) {
                return fail("msisdn", "is not a number");
            }
            public_identities.push(PublicIdentity::new(&format!("sip:+{number}@{domain}")));
            public_identities.push(PublicIdentity::new(&format!("tel:+{number}")));
        }
        if let Some(temporary) = temporary {
            let mut temporary = PublicIdentity::new(&temporary);
            temporary.is_barred = !public_identities.is_empty();
            public_identities.insert(0, temporary);
        }
        for barred in &self.barred {
            let barred = canonical("barred", barred)?;
            let found = public_identities.iter_mut().find(|public| public.identity == barred);
            match found {
                Some(public) => public.is_barred = true,
                None => {
                    return fail("barred", format!("{barred} is none of the public identities"));
                }
            }
        }
        if public_identities.is_empty() && self.joins.is_none() {
            return fail("impu", "at least one public identity is needed (impu, msisdn or imsi)");
        }
        for public in &mut public_identities {
            public.profile = public.profile.take().or(self.profile.clone());
            public.display_name = public.display_name.take().or(self.display_name.clone());
        }
        Ok(Subscriber {
            private_identity,
            keys,
            scheme,
            amf: octets("amf", self.amf.as_deref().unwrap_or("0000"))?,
            sqn: self.sqn_value()?,
            public_identities,
            joins: self.joins.clone(),
            is_suspended: match self.suspended.as_deref() {
                None | Some("false" | "0" | "no") => false,
                Some("true" | "1" | "yes") => true,
                Some(_) => return fail("suspended", "is neither true nor false"),
            },
            visited_networks: self.visited_networks.clone(),
            mandatory_capabilities: self.mandatory_capabilities.clone(),
            optional_capabilities: self.optional_capabilities.clone(),
            server_names: self.server_names.clone(),
            charging: self.charging.clone(),
        })
    }

    /// Private identity, home domain, temporary public identity.
    fn identity(&self) -> Result<(String, String, Option<String>), FieldError> {
        if let Some(impi) = &self.impi {
            let Some((user, realm)) = impi.split_once('@') else {
                return fail("impi", "is not user@realm");
            };
            let is_plain = |text: &str| {
                !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '@')
            };
            if !is_plain(user) || !is_plain(realm) || impi.starts_with("sip:") {
                return fail("impi", "is not user@realm");
            }
            let domain = self.domain.clone().unwrap_or_else(|| realm.to_owned());
            return Ok((impi.clone(), domain.to_ascii_lowercase(), None));
        }
        let Some(imsi) = &self.imsi else {
            return fail("impi", "neither impi nor imsi is there");
        };
        let mnc_digits = match self.mnc_digits.as_deref() {
            Some("2") => 2,
            Some("3") => 3,
            Some(_) => return fail("mnc_digits", "is neither 2 nor 3"),
            None => match imsi.get(..3) {
                Some("310" | "311" | "312" | "313" | "314" | "315" | "316") => 3,
                _ => 2,
            },
        };
        let Some(derived) = derive_from_imsi(imsi, mnc_digits) else {
            return fail("imsi", "is not 6 to 15 digits");
        };
        let domain = self.domain.clone().unwrap_or(derived.home_domain).to_ascii_lowercase();
        Ok((format!("{imsi}@{domain}"), domain.clone(), Some(format!("sip:{imsi}@{domain}"))))
    }

    fn scheme(&self, private_identity: &str, domain: &str) -> Result<Scheme, FieldError> {
        let scheme = self.scheme.as_deref().unwrap_or("aka");
        if scheme != "digest" && self.password.is_some() {
            return fail("password", "is only for scheme digest");
        }
        if scheme != "early-ims" && self.address.is_some() {
            return fail("address", "is only for scheme early-ims");
        }
        match scheme {
            "aka" => Ok(Scheme::Aka),
            "digest" => match self.password.as_deref().filter(|password| !password.is_empty()) {
                Some(password) => {
                    Ok(Scheme::Digest(Ha1::of(private_identity, domain, password.as_bytes())))
                }
                None => fail("password", "is missing"),
            },
            "early-ims" => match self.address.as_deref().map(str::parse) {
                Some(Ok(address)) => Ok(Scheme::EarlyIms(address)),
                Some(Err(_)) => fail("address", "is no IP address"),
                None => fail("address", "is missing"),
            },
            _ => fail("scheme", "is none of aka, digest, early-ims"),
        }
    }

    fn keys(&self) -> Result<Option<Algorithm>, FieldError> {
        let has_tuak = self.top.is_some() || self.topc.is_some();
        let named = self.algorithm.as_deref();
        let algorithm = named.unwrap_or(if has_tuak { "tuak" } else { "milenage" });
        if algorithm == "none" {
            return match self.k {
                None => Ok(None),
                Some(_) => fail("k", "is not for algorithm none"),
            };
        }
        let k = self.k.as_deref().ok_or(FieldError::new("k", "is missing"))?;
        let keys = match algorithm {
            "milenage" => {
                if has_tuak {
                    return fail("topc", "is not for MILENAGE");
                }
                let k: Zeroizing<[u8; 16]> = Zeroizing::new(octets("k", k)?);
                let opc = match (&self.op, &self.opc) {
                    (None, Some(opc)) => octets("opc", opc)?,
                    (Some(op), None) => milenage::opc(&k, &octets("op", op)?),
                    (Some(_), Some(_)) => {
                        return fail("op", "is beside opc: one of them is enough");
                    }
                    (None, None) => return fail("opc", "is missing, and so is op"),
                };
                Algorithm::Milenage { k: Secret::new(*k), opc: Secret::new(opc) }
            }
            "tuak" => self.tuak(k)?,
            "test" => Algorithm::Test { k: Secret::new(octets("k", k)?) },
            _ => return fail("algorithm", "is none of milenage, tuak, test, none"),
        };
        keys.check().map_err(|cause| FieldError::new("k", cause))?;
        Ok(Some(keys))
    }

    fn tuak(&self, k: &str) -> Result<Algorithm, FieldError> {
        if self.op.is_some() || self.opc.is_some() {
            return fail("opc", "is not for TUAK");
        }
        let k = Zeroizing::new(hex::decode(k).map_err(|_| FieldError::new("k", NOT_HEX))?);
        if !matches!(k.len(), 16 | 32) {
            return fail("k", "of TUAK has 32 or 64 hexadecimal digits");
        }
        let iterations = number("iterations", self.iterations.as_deref(), 1..=255, 1)?;
        let topc = match (&self.top, &self.topc) {
            (None, Some(topc)) => octets("topc", topc)?,
            (Some(top), None) => tuak::topc(&k, &octets("top", top)?, iterations),
            (Some(_), Some(_)) => return fail("top", "is beside topc: one of them is enough"),
            (None, None) => return fail("topc", "is missing, and so is top"),
        };
        Ok(Algorithm::Tuak {
            k: Secret::new(k.to_vec()),
            topc: Secret::new(topc),
            iterations,
            res_octets: number("res_octets", self.res_octets.as_deref(), 4..=32, 8)? as usize,
        })
    }

    fn sqn_value(&self) -> Result<u64, FieldError> {
        let Some(text) = &self.sqn else { return Ok(0) };
        let value = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        match value {
            Ok(sqn) if sqn < 1 << 48 => Ok(sqn),
            _ => fail("sqn", "is not a number of 48 bits, decimal or behind 0x"),
        }
    }
}

impl PublicEntry {
    pub(crate) fn resolve(&self) -> Result<PublicIdentity, FieldError> {
        let entry = &self.0;
        let is_wildcard = entry.identity.contains('!');
        let identity = if is_wildcard {
            wildcard::check(&entry.identity).map_err(|cause| FieldError::new("impu", cause))?;
            entry.identity.clone()
        } else {
            canonical("impu", &entry.identity)?
        };
        if entry.application_server.is_some() && !entry.service {
            return fail("application_server", "is only for a service");
        }
        Ok(PublicIdentity {
            identity,
            set: entry.set.unwrap_or(1),
            is_barred: entry.barred,
            identity_type: match (entry.service, is_wildcard) {
                (false, false) => 0,
                (true, false) => 1,
                (true, true) => 2,
                (false, true) => 4,
            },
            is_active: !entry.inactive,
            display_name: entry.display_name.clone(),
            alias_identity_group_id: entry.alias_group.clone(),
            application_server: entry.application_server.clone(),
            profile: entry.profile.clone(),
        })
    }
}

impl From<&str> for PublicEntry {
    /// A `!` in front bars the identity.
    fn from(text: &str) -> PublicEntry {
        let barred = text.starts_with('!');
        let identity = text.strip_prefix('!').unwrap_or(text).to_owned();
        PublicEntry(PublicTable { identity, barred, ..PublicTable::default() })
    }
}

impl<'de> Deserialize<'de> for PublicEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PublicEntry, D::Error> {
        struct TextOrTable;
        impl<'de> Visitor<'de> for TextOrTable {
            type Value = PublicEntry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a public identity, as a text or as a table")
            }
            fn visit_str<E>(self, text: &str) -> Result<PublicEntry, E> {
                Ok(PublicEntry::from(text))
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<PublicEntry, M::Error> {
                PublicTable::deserialize(MapAccessDeserializer::new(map)).map(PublicEntry)
            }
        }
        deserializer.deserialize_any(TextOrTable)
    }
}

impl FieldError {
    fn new(field: &'static str, cause: impl Into<String>) -> FieldError {
        FieldError { field, cause: cause.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.cause)
    }
}

const NOT_HEX: &str = "is not hexadecimal";

fn fail<T>(field: &'static str, cause: impl Into<String>) -> Result<T, FieldError> {
    Err(FieldError::new(field, cause))
}

fn octets<const N: usize>(field: &'static str, digits: &str) -> Result<[u8; N], FieldError> {
    let octets = hex::decode(digits).map(Zeroizing::new);
    let octets = octets.map_err(|_| FieldError::new(field, NOT_HEX))?;
    octets.as_slice().try_into().map_err(|_| {
        let (wanted, found) = (2 * N, digits.len());
        FieldError::new(field, format!("has {found} hexadecimal digits, must have {wanted}"))
    })
}

fn number(
    field: &'static str,
    text: Option<&str>,
    range: std::ops::RangeInclusive<u32>,
    default: u32,
) -> Result<u32, FieldError> {
    match text.map(str::parse) {
        None => Ok(default),
        Some(Ok(number)) if range.contains(&number) => Ok(number),
        Some(_) => fail(field, format!("must be {} to {}", range.start(), range.end())),
    }
}

/// TS 23.003 §13.4: the form in which identities are compared.
fn canonical(field: &'static str, identity: &str) -> Result<String, FieldError> {
    let has_scheme = ["sip:", "sips:", "tel:"].iter().any(|scheme| identity.starts_with(scheme));
    match Uri::parse(identity) {
        Ok(uri) if has_scheme => Ok(uri.public_identity().as_str().to_owned()),
        _ => fail(field, format!("{identity} is not a sip or tel URI")),
    }
}

/// Texts, numbers and booleans alike, as CSV and options give them.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Text;
    impl Visitor<'_> for Text {
        type Value = String;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a number")
        }
        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
        fn visit_i64<E>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_u64<E>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_bool<E>(self, flag: bool) -> Result<String, E> {
            Ok(flag.to_string())
        }
    }
    deserializer.deserialize_any(Text).map(Some)
}
