//! The test algorithm of conformance equipment (TS 34.108 §8.1.2): nothing but XOR. It protects
//! nothing; it exists so that test cards and test equipment agree.

use crate::aka::milenage::Responses;

/// An AMF of all ones asks a test card to answer with a synchronisation failure.
pub const AMF_RESYNCH: [u8; 2] = [0xFF, 0xFF];

/// The functions of one test card.
pub struct TestAlgorithm {
    k: [u8; 16],
}

impl TestAlgorithm {
    /// TS 34.108 §8.1.2
    pub fn new(k: &[u8; 16]) -> TestAlgorithm {
        TestAlgorithm { k: *k }
    }

    /// f1, and f1* when given SQN_MS and an AMF of zero.
    pub fn f1(&self, rand: &[u8; 16], sqn: &[u8; 6], amf: &[u8; 2]) -> [u8; 8] {
        let xdout = self.xdout(rand);
        std::array::from_fn(|i| xdout[i] ^ if i < 6 { sqn[i] } else { amf[i - 6] })
    }

    /// f2 to f5. RES has 16 octets.
    pub fn f2345(&self, rand: &[u8; 16]) -> Responses {
        let xdout = self.xdout(rand);
        Responses {
            res: xdout.to_vec(),
            ck: std::array::from_fn(|i| xdout[(i + 1) % 16]),
            ik: std::array::from_fn(|i| xdout[(i + 2) % 16]),
            ak: self.f5_star(rand),
        }
    }

    /// f5*, the same as f5.
    pub fn f5_star(&self, rand: &[u8; 16]) -> [u8; 6] {
        let xdout = self.xdout(rand);
        std::array::from_fn(|i| xdout[i + 3])
    }

    fn xdout(&self, rand: &[u8; 16]) -> [u8; 16] {
        std::array::from_fn(|i| self.k[i] ^ rand[i])
    }
}
