//! The card: identities, home domain, keys and sequence numbers (TS 31.103, TS 33.203 §8).

use common::aka::vector::{Algorithm, Card};

/// An ISIM, or what a USIM stands in for one with.
#[derive(Clone, Debug)]
pub struct Isim {
    /// Private identity, without scheme.
    pub impi: String,
    /// Public identities, SIP URIs.
    pub impus: Vec<String>,
    pub home_domain: String,
    pub card: Card,
}

impl Isim {
    /// TS 23.003 §13.2, §13.3, §13.4B: identities of a card without ISIM. The MNC has two or three
    /// digits; the IMSI starts with `mcc` and `mnc`.
    pub fn of_imsi(imsi: &str, mcc: &str, mnc: &str, algorithm: Algorithm) -> Isim {
        let home_domain = format!("ims.mnc{mnc:0>3}.mcc{mcc}.3gppnetwork.org");
        Isim {
            impi: format!("{imsi}@{home_domain}"),
            impus: vec![format!("sip:{imsi}@{home_domain}")],
            home_domain,
            card: Card::new(algorithm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::secret::Secret;

    /// TS 23.003 §13.2, TS 33.203 §8: S-124, S-125
    #[test]
    fn identities_of_an_imsi() {
        let algorithm = Algorithm::Test { k: Secret::new([0; 16]) };
        let isim = Isim::of_imsi("001010123456789", "001", "01", algorithm);
        assert_eq!(isim.home_domain, "ims.mnc001.mcc001.3gppnetwork.org");
        assert_eq!(isim.impi, "001010123456789@ims.mnc001.mcc001.3gppnetwork.org");
        assert_eq!(isim.impus, ["sip:001010123456789@ims.mnc001.mcc001.3gppnetwork.org"]);
    }
}
