//! A set of four security associations and its keys (TS 33.203 §7.1, Annex I).

use std::net::{IpAddr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroize;

use crate::secret::Secret;

/// Names a set for its whole life on one node; never reused within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SetId(pub u64);

/// `alg` (TS 33.203 Annex H). `Null` only together with `aes-gcm`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Integrity {
    #[serde(rename = "hmac-md5-96")]
    HmacMd5_96,
    #[serde(rename = "hmac-sha-1-96")]
    HmacSha1_96,
    #[serde(rename = "aes-gmac")]
    AesGmac,
    #[serde(rename = "null")]
    Null,
}

/// `ealg` (TS 33.203 Annex H).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Encryption {
    #[serde(rename = "null")]
    Null,
    #[serde(rename = "des-ede3-cbc")]
    DesEde3Cbc,
    #[serde(rename = "aes-cbc")]
    AesCbc,
    #[serde(rename = "aes-gcm")]
    AesGcm,
}

/// Protected ports: `uc`, `us` the UE's client and server port, `pc`, `ps` the P-CSCF's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Ports {
    pub uc: u16,
    pub us: u16,
    pub pc: u16,
    pub ps: u16,
}

/// SPIs, each chosen by the receiver of its association for the port at which packets arrive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Spis {
    pub uc: u32,
    pub us: u32,
    pub pc: u32,
    pub ps: u32,
}

/// CK and IK of the AKA run; expanded per algorithm by the accessors of [`SaSet`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keys {
    pub ck: Secret<[u8; 16]>,
    pub ik: Secret<[u8; 16]>,
}

/// Whose view: decides which associations are inbound.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Pcscf,
    Ue,
}

/// UDP port of the P-CSCF for ESP inside UDP (RFC 3948 §2.1; TS 33.203 Annex M).
pub const UDP_ENCAPSULATION_PORT: u16 = 4500;

/// How the packets of a set travel: `mod` (TS 33.203 Annexes H and M).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// `trans`: ESP between the addresses of the sockets.
    Transport,
    /// `UDP-enc-tun`: whole packets inside ESP inside UDP, between `nat` and port 4500 of the P-CSCF.
    /// `nat` is where the UE's packets come from: to the P-CSCF an address and a port of the NAT, to
    /// the UE its own address and port 4500.
    UdpEncTun { nat: SocketAddr },
}

/// Four associations of one authentication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SaSet {
    pub id: SetId,
    pub side: Side,
    pub mode: Mode,
    /// As its sockets know it: behind a NAT the UE's own, private one.
    pub ue: IpAddr,
    pub pcscf: IpAddr,
    pub ports: Ports,
    pub spis: Spis,
    pub integrity: Integrity,
    pub encryption: Encryption,
    pub keys: Keys,
}

/// One unidirectional association of a set (ipsec.md section 3: SA1 to SA4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Association {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub spi: u32,
    pub is_inbound: bool,
    /// Source and destination of the UDP around it; `None`: in transport mode.
    pub around: Option<(SocketAddr, SocketAddr)>,
}

impl Association {
    /// The addresses of its ESP packets as the network sees them: source and destination.
    pub fn on_the_wire(&self) -> (IpAddr, IpAddr) {
        let (source, destination) = self.around.unwrap_or((self.source, self.destination));
        (source.ip(), destination.ip())
    }
}

impl SaSet {
    /// SA1 uc to ps (spi_ps), SA2 ps to uc (spi_uc), SA3 pc to us (spi_us), SA4 us to pc (spi_pc)
    /// (TS 33.203 §7.1).
    pub fn associations(&self) -> [Association; 4] {
        associations(self.side, self.mode, self.ue, self.pcscf, self.ports, self.spis)
    }

    /// Authentication key as the kernel wants it: IK, padded for SHA-1; `None` for Null
    /// (TS 33.203 Annex I).
    pub fn integrity_key(&self) -> Option<Secret<Vec<u8>>> {
        let mut key = self.keys.ik.expose().to_vec();
        match self.integrity {
            Integrity::Null => return None,
            Integrity::HmacSha1_96 => key.resize(20, 0),
            Integrity::HmacMd5_96 | Integrity::AesGmac => {}
        }
        Some(Secret::new(key))
    }

    /// Encryption key: CK, CK1‖CK2‖CK1 for 3DES; `None` for Null (TS 33.203 Annex I).
    pub fn encryption_key(&self) -> Option<Secret<Vec<u8>>> {
        let ck = self.keys.ck.expose();
        let mut key = ck.to_vec();
        match self.encryption {
            Encryption::Null => return None,
            Encryption::DesEde3Cbc => key.extend_from_slice(&ck[..8]),
            Encryption::AesCbc | Encryption::AesGcm => {}
        }
        Some(Secret::new(key))
    }

    /// Salt of GCM or GMAC (TS 33.203 Annex I), `None` for others.
    pub fn salt(&self) -> Option<[u8; 4]> {
        match (self.encryption, self.integrity) {
            (Encryption::AesGcm, _) => Some(self.derived_salt(0x59, b"AES_GCM_SALT")),
            (_, Integrity::AesGmac) => Some(self.derived_salt(0x58, b"AES_GMAC_SALT")),
            _ => None,
        }
    }

    /// The last four octets of KDF(CK‖IK, FC ‖ P0 ‖ L0) (TS 33.203 Annex I, TS 33.220 Annex B).
    fn derived_salt(&self, fc: u8, p0: &[u8]) -> [u8; 4] {
        let output = self.kdf(fc, p0);
        [output[28], output[29], output[30], output[31]]
    }

    fn kdf(&self, fc: u8, p0: &[u8]) -> [u8; 32] {
        let mut key = [0u8; 32];
        key[..16].copy_from_slice(self.keys.ck.expose());
        key[16..].copy_from_slice(self.keys.ik.expose());
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
        key.zeroize();
        mac.update(&[fc]);
        mac.update(p0);
        mac.update(&(p0.len() as u16).to_be_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// The four associations between these ends, in the order of [`SaSet::associations`].
pub(crate) fn associations(
    side: Side,
    mode: Mode,
    ue: IpAddr,
    pcscf: IpAddr,
    ports: Ports,
    spis: Spis,
) -> [Association; 4] {
    let around = match mode {
        Mode::Transport => None,
        Mode::UdpEncTun { nat } => Some((nat, SocketAddr::new(pcscf, UDP_ENCAPSULATION_PORT))),
    };
    let sent_by_ue = |source, destination, spi| Association {
        source: SocketAddr::new(ue, source),
        destination: SocketAddr::new(pcscf, destination),
        spi,
        is_inbound: side == Side::Pcscf,
        around,
    };
    let sent_to_ue = |source, destination, spi| Association {
        source: SocketAddr::new(pcscf, source),
        destination: SocketAddr::new(ue, destination),
        spi,
        is_inbound: side == Side::Ue,
        around: around.map(|(nat, pcscf)| (pcscf, nat)),
    };
    let Ports { uc, us, pc, ps } = ports;
    [
        sent_by_ue(uc, ps, spis.ps),
        sent_to_ue(ps, uc, spis.uc),
        sent_to_ue(pc, us, spis.us),
        sent_by_ue(us, pc, spis.pc),
    ]
}

impl Integrity {
    /// The token of `alg` (TS 33.203 Annex H).
    pub fn name(self) -> &'static str {
        match self {
            Integrity::HmacMd5_96 => "hmac-md5-96",
            Integrity::HmacSha1_96 => "hmac-sha-1-96",
            Integrity::AesGmac => "aes-gmac",
            Integrity::Null => "null",
        }
    }

    /// In any case.
    pub fn from_name(name: &str) -> Option<Integrity> {
        [Self::HmacMd5_96, Self::HmacSha1_96, Self::AesGmac, Self::Null]
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(name))
    }
}

impl Encryption {
    /// The token of `ealg` (TS 33.203 Annex H).
    pub fn name(self) -> &'static str {
        match self {
            Encryption::Null => "null",
            Encryption::DesEde3Cbc => "des-ede3-cbc",
            Encryption::AesCbc => "aes-cbc",
            Encryption::AesGcm => "aes-gcm",
        }
    }

    /// In any case.
    pub fn from_name(name: &str) -> Option<Encryption> {
        [Self::Null, Self::DesEde3Cbc, Self::AesCbc, Self::AesGcm]
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(integrity: Integrity, encryption: Encryption) -> SaSet {
        let key = |text| Secret::new(hex::decode(text).unwrap().try_into().unwrap());
        SaSet {
            id: SetId(1),
            side: Side::Ue,
            mode: Mode::Transport,
            ue: "10.133.202.46".parse().unwrap(),
            pcscf: "192.0.2.10".parse().unwrap(),
            ports: Ports { uc: 5062, us: 5064, pc: 5100, ps: 5101 },
            spis: Spis {
                uc: 1_111_111_111,
                us: 1_111_111_112,
                pc: 2_222_222_221,
                ps: 2_222_222_222,
            },
            integrity,
            encryption,
            keys: Keys {
                ck: key("b40ba9a3c58b2a05bbf0d987b21bf8cb"),
                ik: key("f769bcd751044604127672711c6d3441"),
            },
        }
    }

    /// TS 33.203 Annex I: S-76, the check vector of MILENAGE set 1.
    #[test]
    fn key_expansion() {
        let shown = |key: Option<Secret<Vec<u8>>>| key.map(|key| hex::encode(key.expose()));
        let cbc = set(Integrity::HmacSha1_96, Encryption::AesCbc);
        let sha1 = "f769bcd751044604127672711c6d344100000000";
        assert_eq!(shown(cbc.integrity_key()).as_deref(), Some(sha1));
        assert_eq!(
            shown(cbc.encryption_key()).as_deref(),
            Some("b40ba9a3c58b2a05bbf0d987b21bf8cb")
        );
        assert_eq!(cbc.salt(), None);
        let des = set(Integrity::HmacMd5_96, Encryption::DesEde3Cbc);
        assert_eq!(shown(des.integrity_key()).as_deref(), Some("f769bcd751044604127672711c6d3441"));
        let ede3 = "b40ba9a3c58b2a05bbf0d987b21bf8cbb40ba9a3c58b2a05";
        assert_eq!(shown(des.encryption_key()).as_deref(), Some(ede3));
        let gmac = set(Integrity::AesGmac, Encryption::Null);
        assert_eq!(shown(gmac.encryption_key()), None);
        assert_eq!(gmac.salt().map(hex::encode).as_deref(), Some("dbc2b1c2"));
        assert_eq!(
            hex::encode(gmac.kdf(0x58, b"AES_GMAC_SALT")),
            "de2d8fa4a81e8872bed63550622ea1e4b741f4e0ef633fa3ecbf4e12dbc2b1c2"
        );
        let gcm = set(Integrity::Null, Encryption::AesGcm);
        assert_eq!(shown(gcm.integrity_key()), None);
        assert_eq!(gcm.salt().map(hex::encode).as_deref(), Some("89273db6"));
        assert_eq!(
            hex::encode(gcm.kdf(0x59, b"AES_GCM_SALT")),
            "990208b8e98def9647b3267bbc4fb85ba56472b9fe616bae6ed8e3d589273db6"
        );
    }

    /// TS 33.203 §7.1: S-71, S-72, S-73, S-74, S-75, four associations and whose SPI each has.
    #[test]
    fn four_associations_of_a_set() {
        let mut set = set(Integrity::HmacSha1_96, Encryption::Null);
        let listed = |set: &SaSet| {
            set.associations().map(|sa| (sa.source.port(), sa.destination.port(), sa.spi))
        };
        let expected = [
            (5062, 5101, 2_222_222_222),
            (5101, 5062, 1_111_111_111),
            (5100, 5064, 1_111_111_112),
            (5064, 5100, 2_222_222_221),
        ];
        assert_eq!(listed(&set), expected);
        let inbound = set.associations().map(|sa| sa.is_inbound);
        assert_eq!(inbound, [false, true, true, false]);
        assert_eq!(set.associations()[0].source.ip(), set.ue);
        assert_eq!(set.associations()[2].source.ip(), set.pcscf);
        set.side = Side::Pcscf;
        assert_eq!(listed(&set), expected);
        assert_eq!(set.associations().map(|sa| sa.is_inbound), [true, false, false, true]);
    }

    /// TS 33.203 Annex M: behind a NAT the sockets are the same, and the packets go between the NAT
    /// and port 4500.
    #[test]
    fn associations_behind_a_nat() {
        let mut set = set(Integrity::HmacSha1_96, Encryption::Null);
        let in_transport = set.associations();
        let nat: SocketAddr = "198.51.100.7:31234".parse().unwrap();
        set.mode = Mode::UdpEncTun { nat };
        let pcscf = SocketAddr::new(set.pcscf, 4500);
        let around = [(nat, pcscf), (pcscf, nat), (pcscf, nat), (nat, pcscf)];
        assert_eq!(set.associations().map(|sa| sa.around.unwrap()), around);
        assert_eq!(set.associations().map(|sa| Association { around: None, ..sa }), in_transport);
        assert_eq!(set.associations()[1].on_the_wire(), (set.pcscf, nat.ip()));
        assert_eq!(in_transport[1].on_the_wire(), (set.pcscf, set.ue));
    }

    /// TS 33.203 Annex H
    #[test]
    fn algorithm_names() {
        assert_eq!(Integrity::from_name("HMAC-SHA-1-96"), Some(Integrity::HmacSha1_96));
        assert_eq!(Integrity::from_name("aes-cbc"), None);
        assert_eq!(Encryption::from_name("aes-cbc"), Some(Encryption::AesCbc));
        assert_eq!(Encryption::from_name("rot13"), None);
    }
}
