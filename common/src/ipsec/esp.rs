//! ESP in transport mode (RFC 4303): encrypt, ICV, replay window. Used by the user-space data plane
//! and by simulated UEs. Packets are whole IP packets (IPv4 or IPv6 without extension headers).

use crate::ipsec::sa::SaSet;

/// ESP state of the four associations of one set.
#[derive(Debug)]
pub struct EspSet {}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OpenError { UnknownSpi, TooShort, BadIcv, Replayed, /** inner ports or addresses are not the association's */ SelectorMismatch, BadPadding }

/// Counters of one association.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EspCounters { pub packets: u64, pub bytes: u64 }

impl EspSet {
    pub fn new(set: &SaSet, iv_seed: [u8; 32]) -> EspSet { let _ = (set, iv_seed); todo!() }
    pub fn set(&self) -> &SaSet { todo!() }
    /// The ESP packet for a clear IP packet whose addresses and ports match an outbound association; `None` when none does.
    pub fn seal(&mut self, packet: &[u8]) -> Option<Vec<u8>> { let _ = packet; todo!() }
    /// The clear IP packet inside an ESP packet of an inbound association.
    pub fn open(&mut self, packet: &[u8]) -> Result<Vec<u8>, OpenError> { let _ = packet; todo!() }
    /// By SPI, inbound and outbound.
    pub fn counters(&self) -> Vec<(u32, EspCounters)> { todo!() }
}

/// SPI of a whole IP packet that carries ESP.
pub fn spi_of(packet: &[u8]) -> Option<u32> { let _ = packet; todo!() }
