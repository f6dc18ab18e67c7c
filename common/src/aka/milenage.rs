//! MILENAGE, the example set of authentication functions (TS 35.206).

use aes::Aes128;
use cipher::{BlockCipherEncrypt, KeyInit};

/// What f2, f3, f4 and f5 of an algorithm set give for one RAND.
#[derive(Clone, PartialEq, Eq)]
pub struct Responses {
    pub res: Vec<u8>,
    pub ck: [u8; 16],
    pub ik: [u8; 16],
    pub ak: [u8; 6],
}

/// The functions of one card: K expanded once, OPc beside it.
pub struct Milenage {
    cipher: Aes128,
    opc: [u8; 16],
}

impl Milenage {
    /// TS 35.206 §4.1
    pub fn new(k: &[u8; 16], opc: &[u8; 16]) -> Milenage {
        Milenage { cipher: Aes128::new(&(*k).into()), opc: *opc }
    }

    /// f1 and f1*: MAC-A and MAC-S.
    pub fn f1(&self, rand: &[u8; 16], sqn: &[u8; 6], amf: &[u8; 2]) -> ([u8; 8], [u8; 8]) {
        let mut in1 = [0; 16];
        for half in in1.chunks_exact_mut(8) {
            half[..6].copy_from_slice(sqn);
            half[6..].copy_from_slice(amf);
        }
        let temp = self.temp(rand);
        let mut block = rotate_left(&xor(&in1, &self.opc), 8);
        block = xor(&self.encrypt(&xor(&block, &temp)), &self.opc);
        (first(&block), first(&block[8..]))
    }

    /// f2, f3, f4, f5: RES, CK, IK and AK.
    pub fn f2345(&self, rand: &[u8; 16]) -> Responses {
        let temp = self.temp(rand);
        let out2 = self.out(&temp, 0, 1);
        Responses {
            res: out2[8..].to_vec(),
            ck: self.out(&temp, 4, 2),
            ik: self.out(&temp, 8, 4),
            ak: first(&out2),
        }
    }

    /// f5*: the anonymity key of a resynchronisation.
    pub fn f5_star(&self, rand: &[u8; 16]) -> [u8; 6] {
        first(&self.out(&self.temp(rand), 12, 8))
    }

    fn temp(&self, rand: &[u8; 16]) -> [u8; 16] {
        self.encrypt(&xor(rand, &self.opc))
    }

    /// OUT2 to OUT5: `rotation` in octets, `constant` in the last octet.
    fn out(&self, temp: &[u8; 16], rotation: usize, constant: u8) -> [u8; 16] {
        let mut block = rotate_left(&xor(temp, &self.opc), rotation);
        block[15] ^= constant;
        xor(&self.encrypt(&block), &self.opc)
    }

    fn encrypt(&self, block: &[u8; 16]) -> [u8; 16] {
        let mut block = (*block).into();
        self.cipher.encrypt_block(&mut block);
        block.into()
    }
}

/// OPc, the operator's OP bound to one card's K (TS 35.206 §8.2).
pub fn opc(k: &[u8; 16], op: &[u8; 16]) -> [u8; 16] {
    xor(&Milenage::new(k, &[0; 16]).encrypt(op), op)
}

fn xor(a: &[u8; 16], b: &[u8; 16]) -> [u8; 16] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

fn rotate_left(block: &[u8; 16], octets: usize) -> [u8; 16] {
    std::array::from_fn(|i| block[(i + octets) % 16])
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}
