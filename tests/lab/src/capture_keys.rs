//! `--capture-keys`: the keys of the lab's own test subscribers' associations, in the form that
//! tshark and Wireshark read (their table `esp_sa`), so that somebody else's ESP opens a capture.

use std::net::IpAddr;

use common::ipsec::sa::{Encryption, Integrity, SaSet};

/// One line for each association of a set; none for AES-GMAC, which tshark does not know.
pub fn esp_sa(set: &SaSet) -> Vec<String> {
    let key = |key: Option<common::secret::Secret<Vec<u8>>>| {
        key.map_or(Vec::new(), |key| key.expose().clone())
    };
    let mut encryption_key = key(set.encryption_key());
    let encryption = match set.encryption {
        Encryption::Null => "NULL",
        Encryption::DesEde3Cbc => "TripleDES-CBC [RFC2451]",
        Encryption::AesCbc => "AES-CBC [RFC3602]",
        Encryption::AesGcm => {
            encryption_key.extend(set.salt().unwrap_or_default());
            "AES-GCM with 16 octet ICV [RFC4106]"
        }
    };
    let integrity = match set.integrity {
        Integrity::HmacMd5_96 => "HMAC-MD5-96 [RFC2403]",
        Integrity::HmacSha1_96 => "HMAC-SHA-1-96 [RFC2404]",
        Integrity::AesGmac => return Vec::new(),
        Integrity::Null => "NULL",
    };
    let integrity_key = key(set.integrity_key());
    let line = |association: &common::ipsec::sa::Association| {
        // Which address the NAT has is not known here.
        let behind_nat = |ip: IpAddr| association.around.is_some() && ip == set.ue;
        let shown = |ip| if behind_nat(ip) { "*".to_owned() } else { ip.to_string() };
        let version = match association.source.ip() {
            IpAddr::V4(_) => "IPv4",
            IpAddr::V6(_) => "IPv6",
        };
        format!(
            "\"{version}\",\"{}\",\"{}\",\"0x{:08x}\",\"{encryption}\",\"{}\",\"{integrity}\",\"{}\"",
            shown(association.source.ip()),
            shown(association.destination.ip()),
            association.spi,
            hex(&encryption_key),
            hex(&integrity_key),
        )
    };
    set.associations().iter().map(line).collect()
}

fn hex(octets: &[u8]) -> String {
    let digits: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    if digits.is_empty() { digits } else { format!("0x{digits}") }
}
