//! Identities and keys of the card, from options, a key file and a subscriber file (TS 31.103,
//! TS 23.003 §13). Keys never print, nor does what is wrong with them show them.

use common::aka::vector::{Algorithm, Card, Sqn};
use common::aka::{milenage, tuak};
use common::identity::derive_from_imsi;
use common::secret::Secret;
use common::sip::uri::Uri;

use crate::isim::Isim;

/// What is known of a card, from one source or several.
#[derive(Clone, Default, Debug)]
pub struct Known {
    pub imsi: Option<String>,
    /// 2 or 3; absent: 3 for the MCCs 310 to 316, else 2, as the HSS has it.
    pub mnc_digits: Option<String>,
    pub impi: Option<String>,
    pub impu: Option<String>,
    pub domain: Option<String>,
    pub msisdn: Option<String>,
    /// `milenage` (default), `tuak` (default with `top` or `topc`), `test`.
    pub algorithm: Option<String>,
    pub k: Option<Secret<String>>,
    pub operator: OperatorKeys,
    /// TUAK: Keccak iterations, octets of RES.
    pub iterations: Option<String>,
    pub res_octets: Option<String>,
    /// The last sequence number that the HSS has used, decimal or hexadecimal behind `0x`.
    pub sqn: Option<String>,
}

/// One of them, in hexadecimal.
#[derive(Clone, Default, Debug)]
pub struct OperatorKeys {
    pub op: Option<Secret<String>>,
    pub opc: Option<Secret<String>>,
    pub top: Option<Secret<String>>,
    pub topc: Option<Secret<String>>,
}

impl OperatorKeys {
    fn is_empty(&self) -> bool {
        self.op.is_none() && self.opc.is_none() && self.top.is_none() && self.topc.is_none()
    }
}

impl Known {
    /// This, and where it says nothing, the other. The operator's keys come from one source.
    pub fn or(self, other: Known) -> Known {
        let operator = if self.operator.is_empty() { other.operator } else { self.operator };
        Known {
            imsi: self.imsi.or(other.imsi),
            mnc_digits: self.mnc_digits.or(other.mnc_digits),
            impi: self.impi.or(other.impi),
            impu: self.impu.or(other.impu),
            domain: self.domain.or(other.domain),
            msisdn: self.msisdn.or(other.msisdn),
            algorithm: self.algorithm.or(other.algorithm),
            k: self.k.or(other.k),
            operator,
            iterations: self.iterations.or(other.iterations),
            res_octets: self.res_octets.or(other.res_octets),
            sqn: self.sqn.or(other.sqn),
        }
    }

    /// Lines of `name = value`; `#` begins a comment.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn of_key_file(text: &str) -> Result<Known, String> {
        let mut known = Known::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let number = number + 1;
            let (name, value) =
                line.split_once('=').ok_or_else(|| format!("line {number}: is not name=value"))?;
            let value = value.trim().trim_matches('"').to_owned();
            match name.trim() {
                "k" => known.k = Some(Secret::new(value)),
                "op" => known.operator.op = Some(Secret::new(value)),
                "opc" => known.operator.opc = Some(Secret::new(value)),
                "top" => known.operator.top = Some(Secret::new(value)),
                "topc" => known.operator.topc = Some(Secret::new(value)),
                "algorithm" => known.algorithm = Some(value),
                "iterations" => known.iterations = Some(value),
                "res_octets" => known.res_octets = Some(value),
                _ => {
                    let names = "k, op, opc, top, topc, algorithm, iterations, res_octets";
                    return Err(format!("line {number}: the name is none of {names}"));
                }
            }
        }
        Ok(known)
    }

    /// The subscriber of a file as `hss subscriber import` reads it: the first, or the one with the
    /// IMSI or private identity that `self` has.
    ///
    /// # Errors
    /// What is wrong with the file, or that the subscriber is not in it.
    pub fn of_subscriber_file(&self, source: &str) -> Result<Known, String> {
        Known::all_of_subscriber_file(source)?
            .into_iter()
            .find(|known| self.is_met_by(known))
            .ok_or_else(|| "no [[subscriber]] has this IMSI or private identity".to_owned())
    }

    /// All subscribers of such a file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn all_of_subscriber_file(source: &str) -> Result<Vec<Known>, String> {
        let file: toml::Table = toml::from_str(source).map_err(|error| {
            let before = source.get(..error.span().map_or(0, |span| span.start));
            let line = before.unwrap_or_default().matches('\n').count() + 1;
            // Only the message: the whole error shows the line, which may hold a key.
            format!("line {line}: {}", error.message())
        })?;
        let subscribers = file.get("subscriber").and_then(toml::Value::as_array);
        let subscribers = subscribers.ok_or("there is no [[subscriber]]")?;
        Ok(subscribers.iter().filter_map(toml::Value::as_table).map(of_table).collect())
    }

    /// All subscribers of a CSV file as `hss subscriber import` reads it.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn all_of_csv(source: &str) -> Result<Vec<Known>, String> {
        let mut lines = source.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let (_, first) = lines.next().ok_or("the file is empty")?;
        let columns = csv_fields(first).map_err(|why| format!("line 1: {why}"))?;
        for name in &columns {
            if !CSV_COLUMNS.contains(&name.trim()) {
                return Err(format!("line 1: column {name:?} is unknown"));
            }
        }
        let known = lines.map(|(number, line)| {
            let wrong = |why: String| format!("line {}: {why}", number + 1);
            let fields = csv_fields(line).map_err(|why| wrong(why.to_owned()))?;
            if fields.len() != columns.len() {
                return Err(wrong(format!("{} fields, not {}", fields.len(), columns.len())));
            }
            let mut table = toml::Table::new();
            for (name, field) in columns.iter().zip(fields) {
                let (name, field) = (name.trim(), field.trim());
                let value = match name {
                    _ if field.is_empty() => continue,
                    // `!` bars an identity.
                    "impu" => field
                        .split_whitespace()
                        .filter(|identity| !identity.starts_with('!'))
                        .map(toml::Value::from)
                        .collect::<Vec<_>>()
                        .into(),
                    _ => toml::Value::from(field),
                };
                table.insert(name.to_owned(), value);
            }
            Ok(of_table(&table))
        });
        known.collect()
    }

    fn is_met_by(&self, known: &Known) -> bool {
        let has_imsi = self.imsi.is_none() || self.imsi == known.imsi;
        let has_impi = self.impi.is_none()
            || self.impi == known.impi
            || known
                .identities()
                .is_ok_and(|identities| Some(&identities.impi) == self.impi.as_ref());
        has_imsi && has_impi
    }

    /// The card, its sequence numbers so far ahead of the HSS's.
    ///
    /// # Errors
    /// What is missing or wrong, by the names of the options.
    pub fn isim(&self, seq_ahead: u64) -> Result<Isim, String> {
        let identities = self.identities()?;
        let mut card = Card::new(self.algorithm()?);
        let seq = Sqn(self.sqn()?).seq().saturating_add(seq_ahead).min(Sqn::SEQ_MAX);
        card.seq_ms = [seq; 32];
        Ok(Isim {
            impi: identities.impi,
            impus: vec![identities.impu?],
            home_domain: identities.domain,
            card,
        })
    }

    /// What attaches to the LTE transport: the IMSI, or the private identity's digits.
    pub fn attaching_imsi(&self) -> Option<String> {
        let user = || self.impi.as_ref()?.split('@').next().map(str::to_owned);
        let imsi = self.imsi.clone().or_else(user)?;
        derive_from_imsi(&imsi, 2).map(|_| imsi)
    }

    /// TS 23.003 §13.2, §13.3, §13.4B
    fn identities(&self) -> Result<Identities, String> {
        if let Some(impi) = &self.impi {
            let realm = realm(impi).ok_or("impi is not user@realm")?;
            let domain = self.domain.clone().unwrap_or_else(|| realm.to_owned());
            return self.with_domain(impi.clone(), &domain, None);
        }
        let imsi = self.imsi.as_ref().ok_or("who? --imsi, --impi or --subscriber is needed")?;
        let mnc_digits = match self.mnc_digits.as_deref() {
            Some("2") => 2,
            Some("3") => 3,
            Some(_) => return Err("mnc-digits is neither 2 nor 3".to_owned()),
            None => match imsi.get(..3) {
                Some("310" | "311" | "312" | "313" | "314" | "315" | "316") => 3,
                _ => 2,
            },
        };
        let derived = derive_from_imsi(imsi, mnc_digits).ok_or("imsi is not 6 to 15 digits")?;
        let domain = self.domain.clone().unwrap_or(derived.home_domain);
        let temporary = format!("sip:{imsi}@{}", domain.to_ascii_lowercase());
        self.with_domain(
            format!("{imsi}@{}", domain.to_ascii_lowercase()),
            &domain,
            Some(temporary),
        )
    }

    fn with_domain(
        &self,
        impi: String,
        domain: &str,
        temporary: Option<String>,
    ) -> Result<Identities, String> {
        let domain = domain.to_ascii_lowercase();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        if domain.is_empty() || !domain.chars().all(is_name) {
            return Err("domain is no domain name".to_owned());
        }
        let of_number = || {
            let number = self.msisdn.as_ref()?.trim_start_matches('+');
            Some(format!("sip:+{number}@{domain}"))
        };
        let impu = self.impu.clone().or(temporary).or_else(of_number);
        let impu = match impu {
            None => Err("impu is missing: only an IMSI gives one".to_owned()),
            Some(impu) if impu.starts_with("sip:") && Uri::parse(&impu).is_ok() => Ok(impu),
            Some(impu) => Err(format!("impu: {impu:?} is not a SIP URI")),
        };
        Ok(Identities { impi, impu, domain })
    }

    fn algorithm(&self) -> Result<Algorithm, String> {
        let OperatorKeys { op, opc, top, topc } = &self.operator;
        let has_tuak = top.is_some() || topc.is_some();
        let named = self.algorithm.as_deref();
        let k = self.k.as_ref().ok_or("k is missing: --k, --key-file or --subscriber gives it")?;
        let algorithm = match named.unwrap_or(if has_tuak { "tuak" } else { "milenage" }) {
            "milenage" => {
                let k: Secret<[u8; 16]> = octets("k", k)?;
                let opc = match (op, opc) {
                    _ if has_tuak => return Err("top and topc are for TUAK".to_owned()),
                    (None, Some(opc)) => octets("opc", opc)?,
                    (Some(op), None) => {
                        let op: Secret<[u8; 16]> = octets("op", op)?;
                        Secret::new(milenage::opc(k.expose(), op.expose()))
                    }
                    (Some(_), Some(_)) => {
                        return Err("op and opc: one of them is enough".to_owned());
                    }
                    (None, None) => return Err("opc is missing, and so is op".to_owned()),
                };
                Algorithm::Milenage { k, opc }
            }
            "tuak" if op.is_some() || opc.is_some() => {
                return Err("op and opc are for MILENAGE".to_owned());
            }
            "tuak" => self.tuak(k)?,
            "test" => Algorithm::Test { k: octets("k", k)? },
            "none" => return Err("this subscriber has no keys (algorithm none)".to_owned()),
            _ => return Err("algorithm is none of milenage, tuak, test".to_owned()),
        };
        algorithm.check().map_err(str::to_owned)?;
        Ok(algorithm)
    }

    fn tuak(&self, k: &Secret<String>) -> Result<Algorithm, String> {
        let k = hex::decode(k.expose()).map_err(|_| "k is not hexadecimal")?;
        let k = Secret::new(k);
        if !matches!(k.expose().len(), 16 | 32) {
            return Err("k of TUAK has 32 or 64 hexadecimal digits".to_owned());
        }
        let iterations = number("iterations", self.iterations.as_deref(), 1, 1..=255)?;
        let topc = match (&self.operator.top, &self.operator.topc) {
            (None, Some(topc)) => octets("topc", topc)?,
            (Some(top), None) => {
                let top: Secret<[u8; 32]> = octets("top", top)?;
                Secret::new(tuak::topc(k.expose(), top.expose(), iterations))
            }
            (Some(_), Some(_)) => return Err("top and topc: one of them is enough".to_owned()),
            (None, None) => return Err("topc is missing, and so is top".to_owned()),
        };
        let res_octets = number("res_octets", self.res_octets.as_deref(), 8, 4..=32)? as usize;
        Ok(Algorithm::Tuak { k, topc, iterations, res_octets })
    }

    fn sqn(&self) -> Result<u64, String> {
        let Some(text) = &self.sqn else { return Ok(0) };
        let value = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        let is_sqn = |value: &u64| *value < 1 << 48;
        value.ok().filter(is_sqn).ok_or_else(|| "sqn is not a number of 48 bits".to_owned())
    }
}

/// Columns of a CSV file; what a phone has no use for is passed over.
const CSV_COLUMNS: [&str; 21] = [
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

/// RFC 4180, one line a row.
fn csv_fields(line: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars().peekable();
    let mut is_quoted = false;
    while let Some(character) = characters.next() {
        let Some(field) = fields.last_mut() else { break };
        match character {
            '"' if is_quoted && characters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if is_quoted => is_quoted = false,
            '"' if field.is_empty() => is_quoted = true,
            ',' if !is_quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    if is_quoted { Err("a quoted field does not end on its line") } else { Ok(fields) }
}

struct Identities {
    impi: String,
    /// An error only once it is needed: a private identity alone already finds a subscriber.
    impu: Result<String, String>,
    domain: String,
}

fn realm(impi: &str) -> Option<&str> {
    let (user, realm) = impi.split_once('@')?;
    let is_plain = |text: &str| {
        let is_bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '@' | '"' | ':');
        !text.is_empty() && !text.contains(is_bad)
    };
    (is_plain(user) && is_plain(realm)).then_some(realm)
}

fn of_table(table: &toml::Table) -> Known {
    let text = |name: &str| match table.get(name)? {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        _ => None,
    };
    let key = |name: &str| text(name).map(Secret::new);
    Known {
        imsi: text("imsi"),
        mnc_digits: text("mnc_digits"),
        impi: text("impi"),
        impu: text("impi").and_then(|_| public_identity(table)),
        domain: text("domain"),
        msisdn: text("msisdn"),
        algorithm: text("algorithm"),
        k: key("k"),
        operator: OperatorKeys {
            op: key("op"),
            opc: key("opc"),
            top: key("top"),
            topc: key("topc"),
        },
        iterations: text("iterations"),
        res_octets: text("res_octets"),
        sqn: text("sqn"),
    }
}

/// The first that is a user's own and not barred; a subscriber by IMSI registers with the temporary
/// one.
fn public_identity(table: &toml::Table) -> Option<String> {
    let flag =
        |entry: &toml::Table, name| entry.get(name).and_then(toml::Value::as_bool) == Some(true);
    table.get("impu")?.as_array()?.iter().find_map(|entry| {
        match entry {
            toml::Value::String(text) => Some(text.clone()),
            toml::Value::Table(entry) if flag(entry, "barred") || flag(entry, "service") => None,
            toml::Value::Table(entry) => Some(entry.get("identity")?.as_str()?.to_owned()),
            _ => None,
        }
        .filter(|identity| identity.starts_with("sip:") && !identity.contains('!'))
    })
}

fn octets<const N: usize>(name: &str, digits: &Secret<String>) -> Result<Secret<[u8; N]>, String> {
    let octets = hex::decode(digits.expose()).map_err(|_| format!("{name} is not hexadecimal"))?;
    let octets = Secret::new(octets);
    let octets: [u8; N] = octets.expose().as_slice().try_into().map_err(|_| {
        let (found, wanted) = (digits.expose().len(), 2 * N);
        format!("{name} has {found} hexadecimal digits, must have {wanted}")
    })?;
    Ok(Secret::new(octets))
}

fn number(
    name: &str,
    text: Option<&str>,
    default: u32,
    range: std::ops::RangeInclusive<u32>,
) -> Result<u32, String> {
    match text.map(str::parse) {
        None => Ok(default),
        Some(Ok(number)) if range.contains(&number) => Ok(number),
        Some(_) => Err(format!("{name} must be {} to {}", range.start(), range.end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: &str = "465b5ce8b199b49faa5f0a2ee238a6bc";
    const OP: &str = "cdc202d5123e20f62b6d676ac72cb318";
    const OPC: &str = "cd63cb71954a9f4e48a5994e37a02baf";

    fn secret(text: &str) -> Option<Secret<String>> {
        Some(Secret::new(text.to_owned()))
    }

    fn milenage_card() -> Known {
        let operator = OperatorKeys { opc: secret(OPC), ..OperatorKeys::default() };
        let imsi = Some("001010123456789".to_owned());
        Known { imsi, k: secret(K), operator, ..Known::default() }
    }

    /// TS 23.003 §13.2, §13.3, §13.4B; S-124, S-125
    #[test]
    fn an_imsi_gives_all_identities() {
        let isim = milenage_card().isim(0).unwrap();
        assert_eq!(isim.home_domain, "ims.mnc001.mcc001.3gppnetwork.org");
        assert_eq!(isim.impi, "001010123456789@ims.mnc001.mcc001.3gppnetwork.org");
        assert_eq!(isim.impus, ["sip:001010123456789@ims.mnc001.mcc001.3gppnetwork.org"]);
        let american = Known { imsi: Some("311480123456789".to_owned()), ..milenage_card() };
        assert_eq!(american.isim(0).unwrap().home_domain, "ims.mnc480.mcc311.3gppnetwork.org");
        let two = Known { mnc_digits: Some("2".to_owned()), ..american };
        assert_eq!(two.isim(0).unwrap().home_domain, "ims.mnc048.mcc311.3gppnetwork.org");
    }

    #[test]
    fn op_becomes_opc() {
        let operator = OperatorKeys { op: secret(OP), ..OperatorKeys::default() };
        let known = Known { operator, ..milenage_card() };
        let algorithm = |known: &Known| known.isim(0).unwrap().card.algorithm;
        assert_eq!(algorithm(&known), algorithm(&milenage_card()));
    }

    #[test]
    fn what_is_wrong_shows_no_key() {
        let bare = Known { imsi: Some("001010123456789".to_owned()), ..Known::default() };
        assert!(bare.isim(0).unwrap_err().starts_with("k is missing"));
        let no_opc = Known { k: secret(K), ..bare };
        assert_eq!(no_opc.isim(0).unwrap_err(), "opc is missing, and so is op");
        let short = Known { k: secret("465b5c"), ..milenage_card() };
        let error = short.isim(0).unwrap_err();
        assert_eq!(error, "k has 6 hexadecimal digits, must have 32");
        let garbled = Known { k: secret("465b5ce8b199b49faa5f0a2ee238a6bx"), ..milenage_card() };
        assert_eq!(garbled.isim(0).unwrap_err(), "k is not hexadecimal");
        let impi = Some("a@hims.net".to_owned());
        let isim = Known { impi, ..milenage_card() };
        assert!(isim.isim(0).unwrap_err().starts_with("impu is missing"));
        assert!(!format!("{isim:?}").contains("465b"));
    }

    #[test]
    fn key_files() {
        let known = Known::of_key_file(&format!("# card\nk = {K}\nopc=\"{OPC}\" # of K\n"));
        let known = known.unwrap().or(Known { imsi: milenage_card().imsi, ..Known::default() });
        assert_eq!(known.isim(0).unwrap().card, milenage_card().isim(0).unwrap().card);
        let error = Known::of_key_file(&format!("\nki={K}")).unwrap_err();
        assert!(error.starts_with("line 2: ") && !error.contains(K), "{error}");
        let error = Known::of_key_file(K).unwrap_err();
        assert!(error.starts_with("line 1: ") && !error.contains(K), "{error}");
    }

    #[test]
    fn subscriber_files() {
        let file = format!(
            "[[profile]]\nname = \"media\"\n[[subscriber]]\nimsi = \"001010123456789\"\n\
             k = \"{K}\"\nopc = \"{OPC}\"\nsqn = 0x40\n[[subscriber]]\nimpi = \"a@hims.net\"\n\
             impu = [\"tel:+1555\", {{ identity = \"sip:x@hims.net\", barred = true }}, \
             \"sip:a@hims.net\"]\nk = \"{K}\"\nop = \"{OP}\"\namf = \"8000\"\n"
        );
        let first = Known::default().of_subscriber_file(&file).unwrap().isim(3).unwrap();
        assert_eq!(first.impus, ["sip:001010123456789@ims.mnc001.mcc001.3gppnetwork.org"]);
        assert_eq!(first.card.seq_ms, [5; 32]);
        let wanted = Known { impi: Some("a@hims.net".to_owned()), ..Known::default() };
        let second = wanted.of_subscriber_file(&file).unwrap().isim(0).unwrap();
        assert_eq!((second.impi.as_str(), second.home_domain.as_str()), ("a@hims.net", "hims.net"));
        assert_eq!(second.impus, ["sip:a@hims.net"]);
        assert_eq!(second.card.algorithm, first.card.algorithm);
        let stranger = Known { imsi: Some("001019999999999".to_owned()), ..Known::default() };
        assert!(stranger.of_subscriber_file(&file).unwrap_err().starts_with("no [[subscriber]]"));
        let broken = format!("[[subscriber]]\nk = {K}\n");
        let error = Known::default().of_subscriber_file(&broken).unwrap_err();
        assert!(error.starts_with("line 2: ") && !error.contains("465b"), "{error}");
    }
}
