//! Choosing a mechanism (RFC 3329 §2.3, TS 33.203 Annex H).

use crate::ipsec::sa::{Encryption, Integrity};
use crate::sip::security::Mechanism;

/// A pair of algorithms; the order of a list of them is the operator's preference.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct AlgorithmPair { pub alg: Integrity, pub ealg: Encryption }

/// A UE's usable offer: one ipsec-3gpp entry of Security-Client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer { pub pair: AlgorithmPair, pub spi_c: u32, pub spi_s: u32, pub port_c: u16, pub port_s: u16, /** mod=UDP-enc-tun */ pub is_udp_encapsulated: bool }

/// Usable ipsec-3gpp offers in order; entries with unknown algorithms, other protocols or missing
/// parameters are skipped (missing `mod`, `prot` mean trans, esp; missing `ealg` means null).
pub fn offers(security_client: &[Mechanism]) -> Vec<Offer> { let _ = security_client; todo!() }

/// The offer to use: first of our preference that the UE offers.
pub fn choose(preference: &[AlgorithmPair], offers: &[Offer]) -> Option<Offer> { let _ = (preference, offers); todo!() }

/// The entries of Security-Server: one per pair of `preference` with falling q, all with these SPIs and ports.
pub fn security_server(preference: &[AlgorithmPair], spi_c: u32, spi_s: u32, port_c: u16, port_s: u16) -> Vec<Mechanism> { let _ = (preference, spi_c, spi_s, port_c, port_s); todo!() }

/// The entries of a UE's Security-Client.
pub fn security_client(pairs: &[AlgorithmPair], spi_c: u32, spi_s: u32, port_c: u16, port_s: u16) -> Vec<Mechanism> { let _ = (pairs, spi_c, spi_s, port_c, port_s); todo!() }
