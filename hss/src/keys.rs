//! Subscriber keys at rest: sealed with AES-256-GCM under the operator's key file, bound to the
//! private identity, so that a row copied to another subscriber does not open.
//!
//! A sealed value is `1 ‖ nonce (12) ‖ ciphertext ‖ tag (16)`. Keys never print.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use common::aka::vector::Algorithm;
use common::random::Random;
use common::secret::Secret;
use zeroize::Zeroizing;

const FORMAT: u8 = 1;
const NONCE_OCTETS: usize = 12;

const MILENAGE: u8 = 1;
const TUAK: u8 = 2;
const TEST: u8 = 3;

/// Seals and opens the keys of subscribers.
pub struct Vault(Aes256Gcm);

impl Vault {
    pub fn new(key: &Secret<[u8; 32]>) -> Vault {
        Vault(Aes256Gcm::new(key.expose().into()))
    }

    /// The keys of `private_identity` as they are stored.
    pub fn seal(&self, private_identity: &str, keys: &Algorithm, random: &mut Random) -> Vec<u8> {
        self.seal_octets(private_identity, &encode(keys), random)
    }

    /// # Errors
    /// Why not, for the log: another key file, another identity, or a damaged row.
    pub fn open(&self, private_identity: &str, sealed: &[u8]) -> Result<Algorithm, String> {
        let octets = self.open_octets(private_identity, sealed)?;
        decode(&octets).ok_or_else(|| "sealed keys have an unknown form".to_owned())
    }

    /// Any value under any name; [`Vault::seal`] for keys.
    pub fn seal_octets(&self, name: &str, value: &[u8], random: &mut Random) -> Vec<u8> {
        let nonce: [u8; NONCE_OCTETS] = random.bytes();
        let payload = Payload { msg: value, aad: name.as_bytes() };
        let ciphertext = self
            .0
            .encrypt(&nonce.into(), payload)
            .expect("AES-GCM seals whatever is shorter than 64 GiB");
        let mut sealed = Vec::with_capacity(1 + NONCE_OCTETS + ciphertext.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        sealed
    }

    /// # Errors
    /// Why not, for the log.
    pub fn open_octets(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
        let Some((&FORMAT, rest)) = sealed.split_first() else {
            return Err("sealed value has an unknown form".to_owned());
        };
        let Some((nonce, ciphertext)) = rest.split_first_chunk::<NONCE_OCTETS>() else {
            return Err("sealed value is cut short".to_owned());
        };
        let payload = Payload { msg: ciphertext, aad: name.as_bytes() };
        self.0
            .decrypt(nonce.into(), payload)
            .map(Zeroizing::new)
            .map_err(|_| "sealed value does not open: another key file, or damaged".to_owned())
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault")
    }
}

/// As the column `algorithm` names it.
pub fn algorithm_name(keys: &Algorithm) -> &'static str {
    match keys {
        Algorithm::Milenage { .. } => "milenage",
        Algorithm::Tuak { .. } => "tuak",
        Algorithm::Test { .. } => "test",
    }
}

fn encode(keys: &Algorithm) -> Zeroizing<Vec<u8>> {
    let mut octets = Zeroizing::new(Vec::with_capacity(80));
    match keys {
        Algorithm::Milenage { k, opc } => {
            octets.push(MILENAGE);
            octets.extend_from_slice(k.expose());
            octets.extend_from_slice(opc.expose());
        }
        Algorithm::Tuak { k, topc, iterations, res_octets } => {
            octets.push(TUAK);
            octets.push(*iterations as u8);
            octets.push(*res_octets as u8);
            octets.extend_from_slice(topc.expose());
            octets.extend_from_slice(k.expose());
        }
        Algorithm::Test { k } => {
            octets.push(TEST);
            octets.extend_from_slice(k.expose());
        }
    }
    octets
}

fn decode(octets: &[u8]) -> Option<Algorithm> {
    let (kind, rest) = octets.split_first()?;
    match *kind {
        MILENAGE => {
            let (k, opc) = rest.split_first_chunk::<16>()?;
            let opc = <[u8; 16]>::try_from(opc).ok()?;
            Some(Algorithm::Milenage { k: Secret::new(*k), opc: Secret::new(opc) })
        }
        TUAK => {
            let ([iterations, res_octets], rest) = rest.split_first_chunk::<2>()?;
            let (topc, k) = rest.split_first_chunk::<32>()?;
            Some(Algorithm::Tuak {
                k: Secret::new(k.to_vec()),
                topc: Secret::new(*topc),
                iterations: u32::from(*iterations),
                res_octets: usize::from(*res_octets),
            })
        }
        TEST => Some(Algorithm::Test { k: Secret::new(<[u8; 16]>::try_from(rest).ok()?) }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault() -> Vault {
        Vault::new(&Secret::new([7; 32]))
    }

    fn milenage() -> Algorithm {
        Algorithm::Milenage { k: Secret::new([0xA5; 16]), opc: Secret::new([0x5A; 16]) }
    }

    #[test]
    fn opens_what_it_sealed_and_shows_no_key() {
        let mut random = Random::from_seed([1; 32]);
        let tuak = Algorithm::Tuak {
            k: Secret::new(vec![3; 32]),
            topc: Secret::new([4; 32]),
            iterations: 2,
            res_octets: 8,
        };
        for keys in [milenage(), tuak, Algorithm::Test { k: Secret::new([9; 16]) }] {
            let sealed = vault().seal("alice@hims.net", &keys, &mut random);
            assert_eq!(vault().open("alice@hims.net", &sealed), Ok(keys));
        }
        let sealed = vault().seal("alice@hims.net", &milenage(), &mut random);
        assert!(!sealed.windows(4).any(|part| part == [0xA5; 4] || part == [0x5A; 4]));
        assert_ne!(sealed, vault().seal("alice@hims.net", &milenage(), &mut random));
    }

    #[test]
    fn refuses_another_identity_key_or_octet() {
        let mut sealed =
            vault().seal("alice@hims.net", &milenage(), &mut Random::from_seed([1; 32]));
        assert!(vault().open("bob@hims.net", &sealed).is_err());
        assert!(Vault::new(&Secret::new([8; 32])).open("alice@hims.net", &sealed).is_err());
        for cut in 0..sealed.len() {
            assert!(vault().open("alice@hims.net", &sealed[..cut]).is_err());
        }
        sealed[20] ^= 1;
        assert!(vault().open("alice@hims.net", &sealed).is_err());
    }
}
