//! P-Charging-Vector, P-Visited-Network-ID, P-Access-Network-Info (RFC 7315).

use std::fmt;

use crate::sip::parameter::{self, Parameters};

/// P-Charging-Vector (RFC 7315 §5.6).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChargingVector {
    /// Without quotes, like the two below.
    pub icid_value: String,
    pub orig_ioi: Option<String>,
    pub term_ioi: Option<String>,
    /// All others, as written.
    pub others: Vec<(String, Option<String>)>,
}

impl ChargingVector {
    /// RFC 7315 §5.6: one header line. `None` without icid-value.
    pub fn parse(text: &str) -> Option<ChargingVector> {
        let mut vector = ChargingVector::default();
        for (name, value) in parameter::owned(text).ok()? {
            let plain = value.as_deref().map(|value| parameter::unquote(value).to_owned());
            if name.eq_ignore_ascii_case("icid-value") {
                vector.icid_value = plain?;
            } else if name.eq_ignore_ascii_case("orig-ioi") {
                vector.orig_ioi = plain;
            } else if name.eq_ignore_ascii_case("term-ioi") {
                vector.term_ioi = plain;
            } else {
                vector.others.push((name, value));
            }
        }
        (!vector.icid_value.is_empty()).then_some(vector)
    }
}

impl fmt::Display for ChargingVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("icid-value=")?;
        parameter::write_quoted(&self.icid_value, f)?;
        for (name, value) in [("orig-ioi", &self.orig_ioi), ("term-ioi", &self.term_ioi)] {
            if let Some(value) = value {
                write!(f, ";{name}=")?;
                parameter::write_quoted(value, f)?;
            }
        }
        parameter::write(&self.others, f)
    }
}

/// RFC 7315 §5.3: the network name of a P-Visited-Network-ID value: quotes taken off, parameters
/// dropped; of a list the first. `None` when that leaves nothing.
pub fn visited_network(value: &str) -> Option<String> {
    let first = parameter::list(value).next()?;
    let end = parameter::find_unquoted(first, b';').unwrap_or(first.len());
    let name = parameter::unquote(parameter::trim(&first[..end]));
    let mut plain = String::with_capacity(name.len());
    let mut is_escaped = false;
    for character in name.chars() {
        is_escaped = character == '\\' && !is_escaped;
        if !is_escaped {
            plain.push(character);
        }
    }
    (!plain.is_empty()).then_some(plain)
}

/// One element of P-Access-Network-Info (RFC 7315 §5.4, TS 24.229 §7.2A.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessNetworkInfo {
    /// As written: `3GPP-E-UTRAN-FDD`, `IEEE-802.11`, ...
    pub access_type: String,
    pub parameters: Parameters,
}

/// An E-UTRAN cell (TS 24.229 §7.2A.4.3): digits of MCC and MNC, tracking area code, cell identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EutranCell {
    pub mcc: String,
    /// Two or three digits.
    pub mnc: String,
    pub tac: u16,
    pub eci: u32,
}

impl AccessNetworkInfo {
    /// TS 24.229 §7.2A.4.2: one list element.
    pub fn parse(text: &str) -> Option<AccessNetworkInfo> {
        let end = parameter::find_unquoted(text, b';').unwrap_or(text.len());
        let access_type = parameter::trim(&text[..end]);
        let parameters = parameter::owned(&text[end..]).ok()?;
        let access_type = parameter::is_token(access_type).then(|| access_type.to_owned())?;
        Some(AccessNetworkInfo { access_type, parameters })
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        parameter::get(&self.parameters, name)
    }

    /// TS 24.229 §7.2A.4.3: `utran-cell-id-3gpp` of an E-UTRAN access: MCC, MNC, four hexadecimal
    /// digits of TAC and seven of ECI; the length tells how long the MNC is.
    pub fn eutran_cell(&self) -> Option<EutranCell> {
        let access_type = self.access_type.to_ascii_uppercase();
        let text = self.parameter("utran-cell-id-3gpp")?;
        if !access_type.starts_with("3GPP-E-UTRAN") || !matches!(text.len(), 16 | 17) {
            return None;
        }
        let (network, cell) = text.split_at_checked(text.len() - 11)?;
        let is_cell = cell.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_cell || !network.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(EutranCell {
            mcc: network[..3].to_owned(),
            mnc: network[3..].to_owned(),
            tac: u16::from_str_radix(&cell[..4], 16).ok()?,
            eci: u32::from_str_radix(&cell[4..], 16).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7315 §5.6; S-40.
    #[test]
    fn charging_vector() {
        let text = "icid-value=\"AyretyU0dm+6O2IrT5tAFrbHLso=023551024\";orig-ioi=\"Type 1vims.net\";\
                    term-ioi=\"Type 1hims.net\";icid-generated-at=192.0.2.6;related-icid=\"x\"";
        let vector = ChargingVector::parse(text).unwrap();
        assert_eq!(vector.icid_value, "AyretyU0dm+6O2IrT5tAFrbHLso=023551024");
        assert_eq!(vector.orig_ioi.as_deref(), Some("Type 1vims.net"));
        assert_eq!(vector.to_string(), text);
        let bare = ChargingVector::parse(" orig-ioi = a.net ; ICID-Value = 1234bc9876e ").unwrap();
        assert_eq!(bare.to_string(), "icid-value=\"1234bc9876e\";orig-ioi=\"a.net\"");
        for text in ["", "orig-ioi=x", "icid-value", "icid-value=", "icid-value=\"x"] {
            assert_eq!(ChargingVector::parse(text), None, "{text}");
        }
    }

    /// RFC 7315 §5.3; S-39.
    #[test]
    fn visited_networks() {
        assert_eq!(visited_network("vims.net").as_deref(), Some("vims.net"));
        assert_eq!(
            visited_network(" \"Visited \\\"1\\\"; a\";x=y, b").as_deref(),
            Some("Visited \"1\"; a")
        );
        assert_eq!(visited_network(""), None);
        assert_eq!(visited_network("\"\""), None);
        assert_eq!(visited_network(";x=y"), None);
    }

    /// RFC 7315 §5.4, TS 24.229 §7.2A.4, §7.2A.4.2, §7.2A.4.3; S-116: blanks behind the semicolon.
    #[test]
    fn access_network() {
        let text = "3GPP-E-UTRAN-FDD; utran-cell-id-3gpp=3114800001FFFFFFF";
        let cell = AccessNetworkInfo::parse(text).unwrap().eutran_cell().unwrap();
        assert_eq!((cell.mcc.as_str(), cell.mnc.as_str()), ("311", "480"));
        assert_eq!((cell.tac, cell.eci), (1, 0xFFF_FFFF));
        let text = "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=\"0010100010019B01\"";
        let cell = AccessNetworkInfo::parse(text).unwrap().eutran_cell().unwrap();
        assert_eq!((cell.mnc.as_str(), cell.tac, cell.eci), ("01", 1, 0x001_9B01));
        for id in ["1", "31148X0001FFFFFFF", "3114800001FFFFFF\u{e9}"] {
            let text = format!("3GPP-E-UTRAN-FDD;utran-cell-id-3gpp={id}");
            assert_eq!(AccessNetworkInfo::parse(&text).unwrap().eutran_cell(), None);
        }
        assert_eq!(AccessNetworkInfo::parse(";a=b"), None);
    }
}
