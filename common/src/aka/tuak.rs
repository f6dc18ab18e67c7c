//! TUAK, the second example set of authentication functions, made of Keccak (TS 35.231).

use crate::aka::milenage::Responses;

/// Lengths of outputs in octets. IMS uses a MAC of 8 and keys of 16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lengths {
    /// 8, 16 or 32.
    pub mac: usize,
    /// 4, 8, 16 or 32.
    pub res: usize,
    /// 16 or 32.
    pub ck: usize,
    /// 16 or 32.
    pub ik: usize,
}

impl Lengths {
    /// What an IMS network uses: only RES varies.
    pub const fn of_ims(res: usize) -> Lengths {
        Lengths { mac: 8, res, ck: 16, ik: 16 }
    }
}

/// The functions of one card.
pub struct Tuak<'a> {
    /// 16 or 32 octets.
    k: &'a [u8],
    topc: &'a [u8; 32],
    iterations: u32,
    lengths: Lengths,
}

/// RES, CK, IK and AK in any of the lengths that TUAK knows.
#[derive(Clone, PartialEq, Eq)]
pub struct LongResponses {
    pub res: Vec<u8>,
    pub ck: Vec<u8>,
    pub ik: Vec<u8>,
    pub ak: [u8; 6],
}

impl<'a> Tuak<'a> {
    /// TS 35.231 §6
    ///
    /// A K that is neither 16 nor 32 octets long is nobody's key: `Algorithm::check` refuses it
    /// before it gets here.
    pub fn new(k: &'a [u8], topc: &'a [u8; 32], iterations: u32, lengths: Lengths) -> Tuak<'a> {
        Tuak { k, topc, iterations, lengths }
    }

    /// f1: MAC-A.
    pub fn f1(&self, rand: &[u8; 16], sqn: &[u8; 6], amf: &[u8; 2]) -> Vec<u8> {
        self.mac(self.mac_instance(), rand, sqn, amf)
    }

    /// f1*: MAC-S.
    pub fn f1_star(&self, rand: &[u8; 16], sqn: &[u8; 6], amf: &[u8; 2]) -> Vec<u8> {
        self.mac(self.mac_instance() | 0x80, rand, sqn, amf)
    }

    /// f2 to f5 in the lengths of IMS; longer keys are cut.
    pub fn f2345(&self, rand: &[u8; 16]) -> Responses {
        let long = self.long_f2345(rand);
        Responses {
            res: long.res,
            ck: std::array::from_fn(|i| long.ck[i]),
            ik: std::array::from_fn(|i| long.ik[i]),
            ak: long.ak,
        }
    }

    /// f2 to f5.
    pub fn long_f2345(&self, rand: &[u8; 16]) -> LongResponses {
        let Lengths { res, ck, ik, .. } = self.lengths;
        let mut instance = 0x40 | ((res as u8 / 8) << 3);
        if ck == 32 {
            instance |= 0x04;
        }
        if ik == 32 {
            instance |= 0x02;
        }
        let state = self.run(instance, rand, &[0; 6], &[0; 2]);
        LongResponses {
            res: reversed(&state[..res.min(32)]),
            ck: reversed(&state[32..32 + ck]),
            ik: reversed(&state[64..64 + ik]),
            ak: std::array::from_fn(|i| state[101 - i]),
        }
    }

    /// f5*: the anonymity key of a resynchronisation.
    pub fn f5_star(&self, rand: &[u8; 16]) -> [u8; 6] {
        let state = self.run(0xC0, rand, &[0; 6], &[0; 2]);
        std::array::from_fn(|i| state[101 - i])
    }

    fn mac_instance(&self) -> u8 {
        self.lengths.mac as u8
    }

    fn mac(&self, instance: u8, rand: &[u8; 16], sqn: &[u8; 6], amf: &[u8; 2]) -> Vec<u8> {
        reversed(&self.run(instance, rand, sqn, amf)[..self.lengths.mac])
    }

    fn run(&self, instance: u8, rand: &[u8; 16], sqn: &[u8; 6], amf: &[u8; 2]) -> [u8; 200] {
        run(self.topc, instance, rand, amf, sqn, self.k, self.iterations)
    }
}

/// TOPc, the operator's TOP bound to one card's K (TS 35.231 §6.1).
pub fn topc(k: &[u8], top: &[u8; 32], iterations: u32) -> [u8; 32] {
    let state = run(top, 0x00, &[0; 16], &[0; 2], &[0; 6], k, iterations);
    std::array::from_fn(|i| state[31 - i])
}

/// Fills the state, every field with its octets in reverse, and permutes it.
fn run(
    top_or_topc: &[u8; 32],
    instance: u8,
    rand: &[u8; 16],
    amf: &[u8; 2],
    sqn: &[u8; 6],
    k: &[u8],
    iterations: u32,
) -> [u8; 200] {
    let is_long_key = k.len() >= 32;
    let mut octets = [0u8; 200];
    place(&mut octets[0..32], top_or_topc);
    octets[32] = instance | u8::from(is_long_key);
    place(&mut octets[33..40], b"TUAK1.0");
    place(&mut octets[40..56], rand);
    place(&mut octets[56..58], amf);
    place(&mut octets[58..64], sqn);
    place(&mut octets[64..96], &k[..k.len().min(32)]);
    octets[96] = 0x1F;
    octets[135] = 0x80;

    let mut lanes = [0u64; 25];
    for (lane, chunk) in lanes.iter_mut().zip(octets.chunks_exact(8)) {
        *lane = u64::from_le_bytes(std::array::from_fn(|i| chunk[i]));
    }
    for _ in 0..iterations {
        keccak::Keccak::new().with_f1600(|f1600| f1600(&mut lanes));
    }
    for (lane, chunk) in lanes.iter().zip(octets.chunks_exact_mut(8)) {
        chunk.copy_from_slice(&lane.to_le_bytes());
    }
    octets
}

fn place(field: &mut [u8], value: &[u8]) {
    for (octet, source) in field.iter_mut().zip(value.iter().rev()) {
        *octet = *source;
    }
}

fn reversed(octets: &[u8]) -> Vec<u8> {
    octets.iter().rev().copied().collect()
}
