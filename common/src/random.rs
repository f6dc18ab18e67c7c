//! The one source of randomness of a core: seeded by the system in a daemon, by the seed of the
//! run in the simulator. It is cryptographically strong, because branches, tags and RANDs must
//! not be guessable.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

pub struct Random(StdRng);

impl Random {
    pub fn from_seed(seed: [u8; 32]) -> Random {
        Random(StdRng::from_seed(seed))
    }

    /// A generator of its own, for a part of a core.
    pub fn fork(&mut self) -> Random {
        Random::from_seed(self.bytes())
    }

    pub fn u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { ((u128::from(self.u64()) * u128::from(bound)) >> 64) as u64 }
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// 16 lower-case hex digits: a tag, the tail of a branch, a Call-ID.
    pub fn token(&mut self) -> String {
        format!("{:016x}", self.u64())
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random")
    }
}
