//! Private and public identities, and what derives from an IMSI (TS 23.003 §13).

use std::fmt;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// IP Multimedia Private Identity: a NAI, `user@realm`, without a scheme (TS 23.003 §13.3).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Impi(String);

impl Impi {
    pub fn new(text: impl Into<String>) -> Impi {
        Impi(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Impi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// IP Multimedia Public Identity in canonical form, usable as a key (TS 23.003 §13.4): a `sip:` URI
/// with lower-case host and without port, parameters and headers, or a global `tel:` URI without
/// visual separators.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Impu(String);

impl Impu {
    /// Takes text that is canonical already, such as what the HSS provisioned. For a URI from a
    /// message use `sip::uri::Uri::public_identity`.
    pub fn new(text: impl Into<String>) -> Impu {
        Impu(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Impu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An identity as it appears in logs: in full where the operator wants that, else `#` and eight hex
/// digits that stay the same for the same identity.
pub fn logged(identity: &str, in_full: bool) -> Cow<'_, str> {
    if in_full {
        return Cow::Borrowed(identity);
    }
    let hash = Sha256::digest(identity.as_bytes());
    Cow::Owned(format!("#{}", hex::encode(&hash[..4])))
}

/// What a UE without an ISIM registers with, derived from its IMSI (TS 23.003 §13.2, §13.3, §13.4B).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DerivedIdentities {
    pub home_domain: String,
    pub private_identity: Impi,
    pub temporary_public_identity: Impu,
}

/// `mnc_digits` is 2 or 3: an IMSI does not tell. `None` when `imsi` is not 6 to 15 digits.
pub fn derive_from_imsi(imsi: &str, mnc_digits: usize) -> Option<DerivedIdentities> {
    let digits = imsi.bytes().all(|digit| digit.is_ascii_digit());
    if !digits || !(6..=15).contains(&imsi.len()) || !(2..=3).contains(&mnc_digits) {
        return None;
    }
    let mcc = &imsi[..3];
    let mnc = &imsi[3..3 + mnc_digits];
    let home_domain = format!("ims.mnc{mnc:0>3}.mcc{mcc}.3gppnetwork.org");
    Some(DerivedIdentities {
        private_identity: Impi(format!("{imsi}@{home_domain}")),
        temporary_public_identity: Impu(format!("sip:{imsi}@{home_domain}")),
        home_domain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TS 23.003 §13.2; S-124, S-125: a two-digit MNC is padded to three digits.
    #[test]
    fn derives_identities_from_the_imsi() {
        let derived = derive_from_imsi("001010123456789", 2).unwrap();
        assert_eq!(derived.home_domain, "ims.mnc001.mcc001.3gppnetwork.org");
        assert_eq!(
            derived.private_identity.as_str(),
            "001010123456789@ims.mnc001.mcc001.3gppnetwork.org"
        );
        assert_eq!(
            derived.temporary_public_identity.as_str(),
            "sip:001010123456789@ims.mnc001.mcc001.3gppnetwork.org"
        );
        let derived = derive_from_imsi("311480123456789", 3).unwrap();
        assert_eq!(derived.home_domain, "ims.mnc480.mcc311.3gppnetwork.org");
        assert_eq!(derive_from_imsi("31148012345678x", 3), None);
    }
}
