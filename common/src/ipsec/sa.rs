//! A set of four security associations and its keys (TS 33.203 §7.1, Annex I).

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// Names a set for its whole life on one node; never reused within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SetId(pub u64);

/// `alg` (TS 33.203 Annex H). `Null` only together with `aes-gcm`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Integrity {
    #[serde(rename = "hmac-md5-96")] HmacMd5_96,
    #[serde(rename = "hmac-sha-1-96")] HmacSha1_96,
    #[serde(rename = "aes-gmac")] AesGmac,
    #[serde(rename = "null")] Null,
}

/// `ealg` (TS 33.203 Annex H).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Encryption {
    #[serde(rename = "null")] Null,
    #[serde(rename = "des-ede3-cbc")] DesEde3Cbc,
    #[serde(rename = "aes-cbc")] AesCbc,
    #[serde(rename = "aes-gcm")] AesGcm,
}

/// Protected ports: `uc`, `us` the UE's client and server port, `pc`, `ps` the P-CSCF's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Ports { pub uc: u16, pub us: u16, pub pc: u16, pub ps: u16 }

/// SPIs, each chosen by the receiver of its association for the port at which packets arrive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Spis { pub uc: u32, pub us: u32, pub pc: u32, pub ps: u32 }

/// CK and IK of the AKA run; expanded per algorithm by the accessors of [`SaSet`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keys { pub ck: Secret<[u8; 16]>, pub ik: Secret<[u8; 16]> }

/// Whose view: decides which associations are inbound.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side { Pcscf, Ue }

/// Four associations of one authentication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SaSet {
    pub id: SetId,
    pub side: Side,
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
pub struct Association { pub source: SocketAddr, pub destination: SocketAddr, pub spi: u32, pub is_inbound: bool }

impl SaSet {
    /// SA1 uc to ps (spi_ps), SA2 ps to uc (spi_uc), SA3 pc to us (spi_us), SA4 us to pc (spi_pc).
    pub fn associations(&self) -> [Association; 4] { todo!() }
    /// Authentication key as the kernel wants it: IK, padded for SHA-1; `None` for Null.
    pub fn integrity_key(&self) -> Option<Secret<Vec<u8>>> { todo!() }
    /// Encryption key: CK, CK1‖CK2‖CK1 for 3DES; `None` for Null.
    pub fn encryption_key(&self) -> Option<Secret<Vec<u8>>> { todo!() }
    /// Salt of GCM or GMAC (TS 33.203 Annex I), `None` for others.
    pub fn salt(&self) -> Option<[u8; 4]> { todo!() }
}

impl Integrity { pub fn name(self) -> &'static str { todo!() } pub fn from_name(name: &str) -> Option<Integrity> { let _ = name; todo!() } }
impl Encryption { pub fn name(self) -> &'static str { todo!() } pub fn from_name(name: &str) -> Option<Encryption> { let _ = name; todo!() } }
