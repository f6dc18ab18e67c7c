//! Vectors, sequence numbers, resynchronisation (TS 33.102 §6.3, Annex C).

use crate::secret::Secret;

/// Which algorithm set a card has, with its keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// K and OPc.
    Milenage { k: Secret<[u8; 16]>, opc: Secret<[u8; 16]> },
    /// K of 16 or 32 octets, TOPc, Keccak iterations. MAC 64, CK and IK 128, RES 64 bits by default.
    Tuak { k: Secret<Vec<u8>>, topc: Secret<[u8; 32]>, iterations: u32, res_octets: usize },
    /// TS 34.108 §8.1.2.
    Test { k: Secret<[u8; 16]> },
}

/// 48-bit sequence number: SEQ (43) ‖ IND (5) (TS 33.102 Annex C.1.1.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sqn(pub u64);

/// What the HSS makes and the S-CSCF uses once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vector { pub rand: [u8; 16], pub autn: [u8; 16], pub xres: Secret<Vec<u8>>, pub ck: Secret<[u8; 16]>, pub ik: Secret<[u8; 16]> }

/// A card's answer to a challenge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CardAnswer {
    Success { res: Secret<Vec<u8>>, ck: Secret<[u8; 16]>, ik: Secret<[u8; 16]> },
    /// MAC is not XMAC: the network is not authentic.
    MacFailure,
    /// The sequence number is not fresh.
    SyncFailure { auts: [u8; 14] },
}

impl Sqn {
    /// SEQ + 1, IND + 1 modulo 32 (TS 33.102 Annex C.1.2, profile 2).
    pub fn next(self) -> Sqn { todo!() }
    pub fn seq(self) -> u64 { self.0 >> 5 }
    pub fn ind(self) -> usize { (self.0 & 31) as usize }
    pub fn to_bytes(self) -> [u8; 6] { todo!() }
    pub fn from_bytes(bytes: [u8; 6]) -> Sqn { let _ = bytes; todo!() }
}

impl Algorithm {
    /// A vector for `sqn` (TS 33.102 §6.3.2).
    pub fn vector(&self, rand: [u8; 16], sqn: Sqn, amf: [u8; 2]) -> Vector { let _ = (rand, sqn, amf); todo!() }
    /// The SQN_MS inside AUTS when its MAC-S is right (TS 33.102 §6.3.5); compared in constant time.
    pub fn open_auts(&self, rand: &[u8; 16], auts: &[u8; 14]) -> Option<Sqn> { let _ = (rand, auts); todo!() }
}

/// The sequence numbers of a card (TS 33.102 Annex C.2): one SEQ per IND.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Card { pub algorithm: Algorithm, pub seq_ms: [u64; 32] }

impl Card {
    pub fn new(algorithm: Algorithm) -> Card { Card { algorithm, seq_ms: [0; 32] } }
    /// TS 33.102 §6.3.3: MAC first, then freshness (delta 2^28).
    pub fn answer(&mut self, rand: &[u8; 16], autn: &[u8; 16]) -> CardAnswer { let _ = (rand, autn); todo!() }
    /// SQN_MS of now: the highest stored.
    pub fn sqn_ms(&self) -> Sqn { todo!() }
}
