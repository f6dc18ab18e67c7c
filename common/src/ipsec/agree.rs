//! Choosing a mechanism (RFC 3329 §2.3, TS 33.203 Annex H).

use std::cmp::Reverse;

use crate::ipsec::sa::{Encryption, Integrity};
use crate::sip::security::Mechanism;

const UDP_ENC_TUN: &str = "UDP-enc-tun";

/// A pair of algorithms; the order of a list of them is the operator's preference.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct AlgorithmPair {
    pub alg: Integrity,
    pub ealg: Encryption,
}

/// A peer's usable offer: one ipsec-3gpp entry of Security-Client (or of Security-Server).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    pub pair: AlgorithmPair,
    pub spi_c: u32,
    pub spi_s: u32,
    pub port_c: u16,
    pub port_s: u16,
    /// In thousandths; absent counts as 1000.
    pub q: u16,
    /// mod=UDP-enc-tun
    pub is_udp_encapsulated: bool,
}

impl AlgorithmPair {
    /// Integrity is mandatory: it comes from `alg`, or from aes-gcm, which stands alone. GMAC is
    /// integrity alone (TS 33.203 Annex H).
    pub fn is_usable(self) -> bool {
        match (self.alg, self.ealg) {
            (Integrity::Null, ealg) => ealg == Encryption::AesGcm,
            (Integrity::AesGmac, ealg) => ealg == Encryption::Null,
            (_, ealg) => ealg != Encryption::AesGcm,
        }
    }
}

/// Usable ipsec-3gpp offers in order; entries with unknown algorithms, other protocols or missing
/// parameters are skipped (missing `mod`, `prot` mean trans, esp; missing `ealg` means null).
///
/// Also skipped: algorithms that do not go together, reserved SPIs (0 to 255), equal SPIs, and the
/// ports of unprotected SIP (TS 33.203 §7.1).
pub fn offers(security_client: &[Mechanism]) -> Vec<Offer> {
    security_client.iter().filter_map(offer).collect()
}

/// Whose preference decides (TS 33.203 §7.2, RFC 3329 §2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preference {
    /// Our order; of offers of the same pair the peer's q.
    Ours,
    /// The peer's q; our order among equal ones.
    Theirs,
}

/// The offer to use, of those whose pair is in `ours`, which is in order of preference.
///
/// Of offers of one mode only: UDP-enc-tun is for a UE behind a NAT (TS 33.203 Annex M).
pub fn choose(
    ours: &[AlgorithmPair],
    preference: Preference,
    is_udp_encapsulated: bool,
    offers: &[Offer],
) -> Option<Offer> {
    let has_mode = |offer: &&Offer| offer.is_udp_encapsulated == is_udp_encapsulated;
    let usable = offers.iter().filter(has_mode).filter_map(|offer| {
        let place = ours.iter().position(|pair| *pair == offer.pair)?;
        Some((offer, place, Reverse(offer.q)))
    });
    // Of equals the first: order of appearance breaks ties.
    let (chosen, ..) = match preference {
        Preference::Ours => usable.min_by_key(|(_, place, q)| (*place, *q)),
        Preference::Theirs => usable.min_by_key(|(_, place, q)| (*q, *place)),
    }?;
    Some(chosen.clone())
}

/// The entries of Security-Server: one per pair of `preference` with falling q, all of one mode and
/// with these SPIs and ports (RFC 3329 §2.2).
pub fn security_server(
    preference: &[AlgorithmPair],
    is_udp_encapsulated: bool,
    spi_c: u32,
    spi_s: u32,
    port_c: u16,
    port_s: u16,
) -> Vec<Mechanism> {
    let mut entries = security_client(preference, spi_c, spi_s, port_c, port_s);
    if is_udp_encapsulated {
        entries.iter_mut().for_each(encapsulate);
    }
    for (place, entry) in entries.iter_mut().enumerate() {
        // Nine steps are more than there are pairs; equal ones rank by their order.
        let tenths = 9usize.saturating_sub(place).max(1);
        entry.parameters.insert(0, ("q".to_string(), format!("0.{tenths}")));
    }
    entries
}

/// The entries of a UE's Security-Client (TS 24.229 §5.1.1.2.2).
pub fn security_client(
    pairs: &[AlgorithmPair],
    spi_c: u32,
    spi_s: u32,
    port_c: u16,
    port_s: u16,
) -> Vec<Mechanism> {
    let entry = |pair: &AlgorithmPair| Mechanism {
        name: "ipsec-3gpp".to_string(),
        parameters: vec![
            ("alg".to_string(), pair.alg.name().to_string()),
            ("ealg".to_string(), pair.ealg.name().to_string()),
            ("prot".to_string(), "esp".to_string()),
            ("mod".to_string(), "trans".to_string()),
            ("spi-c".to_string(), spi_c.to_string()),
            ("spi-s".to_string(), spi_s.to_string()),
            ("port-c".to_string(), port_c.to_string()),
            ("port-s".to_string(), port_s.to_string()),
        ],
    };
    pairs.iter().map(entry).collect()
}

/// The same entry with the mode for UEs behind a NAT (TS 33.203 Annex M).
pub fn encapsulate(mechanism: &mut Mechanism) {
    for (name, value) in &mut mechanism.parameters {
        if name == "mod" {
            *value = UDP_ENC_TUN.to_string();
        }
    }
}

fn offer(mechanism: &Mechanism) -> Option<Offer> {
    if !mechanism.name.eq_ignore_ascii_case("ipsec-3gpp") {
        return None;
    }
    if !mechanism.get("prot").unwrap_or("esp").eq_ignore_ascii_case("esp") {
        return None;
    }
    let mode = mechanism.get("mod").unwrap_or("trans");
    let is_udp_encapsulated = mode.eq_ignore_ascii_case(UDP_ENC_TUN);
    if !is_udp_encapsulated && !mode.eq_ignore_ascii_case("trans") {
        return None;
    }
    let ealg = match mechanism.get("ealg") {
        Some(name) => Encryption::from_name(name)?,
        None => Encryption::Null,
    };
    let alg = match mechanism.get("alg") {
        Some(name) => Integrity::from_name(name)?,
        None => Integrity::Null,
    };
    let offer = Offer {
        pair: AlgorithmPair { alg, ealg },
        spi_c: spi(mechanism, "spi-c")?,
        spi_s: spi(mechanism, "spi-s")?,
        port_c: port(mechanism, "port-c")?,
        port_s: port(mechanism, "port-s")?,
        q: mechanism.q(),
        is_udp_encapsulated,
    };
    (offer.pair.is_usable() && offer.spi_c != offer.spi_s).then_some(offer)
}

/// SPIs up to 255 are reserved (RFC 4303 §2.1).
fn spi(mechanism: &Mechanism, name: &str) -> Option<u32> {
    mechanism.number(name).filter(|spi| *spi > 255)
}

/// Protected ports are never those of unprotected SIP (TS 33.203 §7.1).
fn port(mechanism: &Mechanism, name: &str) -> Option<u16> {
    let port = u16::try_from(mechanism.number(name)?).ok()?;
    (!matches!(port, 0 | 5060 | 5061)).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA1_CBC: AlgorithmPair =
        AlgorithmPair { alg: Integrity::HmacSha1_96, ealg: Encryption::AesCbc };
    const SHA1_NULL: AlgorithmPair =
        AlgorithmPair { alg: Integrity::HmacSha1_96, ealg: Encryption::Null };
    const GCM: AlgorithmPair = AlgorithmPair { alg: Integrity::Null, ealg: Encryption::AesGcm };

    fn entry(text: &str) -> Mechanism {
        Mechanism::parse(text).unwrap()
    }

    const NUMBERS: &str = "spi-c=1111111111;spi-s=1111111112;port-c=5062;port-s=5064";

    /// TS 33.203 Annex H: S-23
    #[test]
    fn reads_offers_and_skips_the_unusable() {
        let usable = [
            format!("ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans;{NUMBERS}"),
            format!("ipsec-3gpp;alg=HMAC-SHA-1-96;{NUMBERS}"),
            format!("ipsec-3gpp;ealg=aes-gcm;{NUMBERS}"),
            format!("ipsec-3gpp;alg=hmac-md5-96;mod=UDP-enc-tun;{NUMBERS}"),
            "ipsec-3gpp;alg=hmac-md5-96;spi-c=25656;spi-s=25657;port-c=6300;port-s=6300".into(),
        ];
        let listed: Vec<_> = usable.iter().map(|text| entry(text)).collect();
        let found = offers(&listed);
        assert_eq!(found.len(), usable.len());
        assert_eq!(found[0].pair, SHA1_CBC);
        assert_eq!((found[0].spi_c, found[0].spi_s), (1_111_111_111, 1_111_111_112));
        assert_eq!((found[0].port_c, found[0].port_s), (5062, 5064));
        assert_eq!(found[1].pair, SHA1_NULL);
        assert_eq!(found[2].pair, GCM);
        assert!(found[3].is_udp_encapsulated && !found[2].is_udp_encapsulated);

        for text in [
            format!("tls;{NUMBERS}"),
            format!("ipsec-3gpp;alg=hmac-sha-1-96;prot=ah;{NUMBERS}"),
            format!("ipsec-3gpp;alg=hmac-sha-1-96;mod=tun;{NUMBERS}"),
            format!("ipsec-3gpp;alg=hmac-sha-256;{NUMBERS}"),
            format!("ipsec-3gpp;alg=hmac-sha-1-96;ealg=rot13;{NUMBERS}"),
            format!("ipsec-3gpp;alg=null;ealg=aes-cbc;{NUMBERS}"),
            format!("ipsec-3gpp;ealg=null;{NUMBERS}"),
            format!("ipsec-3gpp;alg=aes-gmac;ealg=aes-cbc;{NUMBERS}"),
            format!("ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-gcm;{NUMBERS}"),
            "ipsec-3gpp;alg=hmac-sha-1-96;spi-c=1000;spi-s=1001;port-c=5062".into(),
            "ipsec-3gpp;alg=hmac-sha-1-96;spi-c=255;spi-s=1001;port-c=5062;port-s=5064".into(),
            "ipsec-3gpp;alg=hmac-sha-1-96;spi-c=1001;spi-s=1001;port-c=5062;port-s=5064".into(),
            "ipsec-3gpp;alg=hmac-sha-1-96;spi-c=1000;spi-s=1001;port-c=5060;port-s=5064".into(),
            "ipsec-3gpp;alg=hmac-sha-1-96;spi-c=1000;spi-s=1001;port-c=70000;port-s=5064".into(),
        ] {
            assert_eq!(offers(&[entry(&text)]), [], "{text}");
        }
    }

    /// TS 33.203 §7.2: our order decides, not the UE's, unless it is to.
    #[test]
    fn first_of_the_one_or_the_other_preference() {
        let ours = Preference::Ours;
        let offered = offers(&security_client(&[SHA1_NULL, SHA1_CBC], 1000, 1001, 6000, 6001));
        assert_eq!(
            choose(&[GCM, SHA1_CBC, SHA1_NULL], ours, false, &offered).unwrap().pair,
            SHA1_CBC
        );
        assert_eq!(choose(&[GCM], ours, false, &offered), None);
        assert_eq!(choose(&[], ours, false, &offered), None);
        let tunnel = entry(&format!("ipsec-3gpp;alg=hmac-sha-1-96;mod=UDP-enc-tun;{NUMBERS}"));
        let tunnel = offers(&[tunnel]);
        assert_eq!(choose(&[SHA1_NULL], ours, false, &tunnel), None);
        assert_eq!(choose(&[SHA1_NULL], ours, true, &tunnel).as_ref(), tunnel.first());
        assert_eq!(choose(&[SHA1_CBC, SHA1_NULL], ours, true, &offered), None);

        let with_q = |q: &str, algorithms: &str, spi_c: u32| {
            format!("ipsec-3gpp;q={q};{algorithms};spi-c={spi_c};spi-s=9000;port-c=6;port-s=7")
        };
        let (cbc, null) = ("alg=hmac-sha-1-96;ealg=aes-cbc", "alg=hmac-sha-1-96");
        let listed = [
            with_q("0.1", cbc, 1000),
            with_q("0.5", null, 1001),
            with_q("0.7", null, 1002),
            with_q("0.7", cbc, 1003),
            with_q("0.9", "alg=unknown", 1004),
        ];
        let offered = offers(&listed.map(|text| entry(&text)));
        let spi = |ours: &[AlgorithmPair], preference| {
            choose(ours, preference, false, &offered).map(|offer| offer.spi_c)
        };
        assert_eq!(spi(&[SHA1_CBC, SHA1_NULL], Preference::Ours), Some(1003));
        assert_eq!(spi(&[SHA1_NULL, SHA1_CBC], Preference::Ours), Some(1002));
        assert_eq!(spi(&[SHA1_CBC, SHA1_NULL], Preference::Theirs), Some(1003));
        assert_eq!(spi(&[SHA1_NULL, SHA1_CBC], Preference::Theirs), Some(1002));
        assert_eq!(spi(&[SHA1_NULL], Preference::Theirs), Some(1002));
    }

    /// RFC 3329 §2.2: S-67, one entry per pair with falling q.
    #[test]
    fn security_server_entries() {
        let entries =
            security_server(&[SHA1_CBC, GCM], false, 2_222_222_221, 2_222_222_222, 5100, 5101);
        let texts: Vec<_> = entries.iter().map(|entry| entry.to_string()).collect();
        let numbers =
            "prot=esp;mod=trans;spi-c=2222222221;spi-s=2222222222;port-c=5100;port-s=5101";
        assert_eq!(
            texts,
            [
                format!("ipsec-3gpp;q=0.9;alg=hmac-sha-1-96;ealg=aes-cbc;{numbers}"),
                format!("ipsec-3gpp;q=0.8;alg=null;ealg=aes-gcm;{numbers}"),
            ]
        );
        assert_eq!(offers(&entries).len(), 2);
        let behind_nat = security_server(&[SHA1_CBC], true, 1000, 1001, 6000, 6001);
        assert!(behind_nat[0].to_string().contains(";mod=UDP-enc-tun;"), "{}", behind_nat[0]);
        assert!(offers(&behind_nat)[0].is_udp_encapsulated);
        let many = security_server(&[SHA1_CBC; 12], false, 1000, 1001, 6000, 6001);
        assert!(many.is_sorted_by(|a, b| a.get("q") >= b.get("q")));
        assert_eq!(many[11].get("q"), Some("0.1"));
    }
}
