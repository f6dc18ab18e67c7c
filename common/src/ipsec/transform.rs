//! The algorithms of ESP: what happens to one packet between its SPI and its ICV (RFC 4303 §3.2).

use std::ops::Range;

use aes::Aes128;
use aes_gcm::Aes128Gcm;
use aes_gcm::aead::{AeadInOut, Nonce, Tag};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit};
use cipher::{Array, KeyInit};
use des::TdesEde3;
use hmac::{Hmac, Mac};
use md5::Md5;
use sha1::Sha1;
use subtle::ConstantTimeEq;

use crate::ipsec::esp::OpenError;
use crate::ipsec::sa::{Encryption, Integrity, SaSet};

/// SPI and sequence number.
pub(super) const HEADER_OCTETS: usize = 8;

/// The algorithms of one set, keyed. All four associations share the keys (TS 33.203 Annex I).
#[derive(Clone)]
pub(super) enum Transform {
    /// RFC 4106
    Gcm { cipher: Aes128Gcm, salt: [u8; 4] },
    /// RFC 4543
    Gmac { cipher: Aes128Gcm, salt: [u8; 4] },
    /// A cipher, and a MAC over its output.
    Separate { cipher: Cipher, mac: Authenticator },
}

#[derive(Clone)]
pub(super) enum Cipher {
    Null,
    TripleDes(TdesEde3),
    Aes(Aes128),
}

#[derive(Clone)]
pub(super) enum Authenticator {
    Md5(Hmac<Md5>),
    Sha1(Hmac<Sha1>),
    /// No algorithm was agreed on: nothing that arrives is authentic.
    Nobody,
}

impl Transform {
    pub(super) fn new(set: &SaSet) -> Transform {
        let ck = set.keys.ck.expose();
        let ik = set.keys.ik.expose();
        let salt = set.salt().unwrap_or_default();
        if set.encryption == Encryption::AesGcm {
            return Transform::Gcm { cipher: Aes128Gcm::new(&(*ck).into()), salt };
        }
        if set.integrity == Integrity::AesGmac {
            return Transform::Gmac { cipher: Aes128Gcm::new(&(*ik).into()), salt };
        }
        let integrity_key = set.integrity_key();
        let integrity_key = integrity_key.as_ref().map_or(&[][..], |key| key.expose());
        let mac = match set.integrity {
            Integrity::HmacMd5_96 => Authenticator::Md5(keyed(integrity_key)),
            Integrity::HmacSha1_96 => Authenticator::Sha1(keyed(integrity_key)),
            Integrity::AesGmac | Integrity::Null => Authenticator::Nobody,
        };
        let cipher = match set.encryption {
            Encryption::Null | Encryption::AesGcm => Cipher::Null,
            Encryption::AesCbc => Cipher::Aes(Aes128::new(&(*ck).into())),
            Encryption::DesEde3Cbc => {
                let key = std::array::from_fn::<u8, 24, _>(|i| ck[i % 16]);
                Cipher::TripleDes(TdesEde3::new(&key.into()))
            }
        };
        Transform::Separate { cipher, mac }
    }

    /// Octets of the IV behind the header.
    pub(super) fn iv_octets(&self) -> usize {
        match self {
            Transform::Gcm { .. } | Transform::Gmac { .. } => 8,
            Transform::Separate { cipher, .. } => match cipher {
                Cipher::Null => 0,
                Cipher::TripleDes(_) => 8,
                Cipher::Aes(_) => 16,
            },
        }
    }

    /// True when the IV must not be guessable; otherwise it must only never repeat.
    pub(super) fn wants_random_iv(&self) -> bool {
        matches!(self, Transform::Separate { .. })
    }

    /// What the payload with its trailer is a multiple of (RFC 4303 §2.4).
    pub(super) fn block_octets(&self) -> usize {
        match self {
            Transform::Separate { cipher: Cipher::Aes(_), .. } => 16,
            Transform::Separate { cipher: Cipher::TripleDes(_), .. } => 8,
            _ => 4,
        }
    }

    pub(super) fn icv_octets(&self) -> usize {
        match self {
            Transform::Gcm { .. } | Transform::Gmac { .. } => 16,
            Transform::Separate { .. } => 12,
        }
    }

    /// Encrypts what stands behind header and IV from `start` on, and appends the ICV
    /// (RFC 4303 §3.3.2).
    pub(super) fn protect(&self, packet: &mut Vec<u8>, start: usize) {
        let (head, payload) = packet[start..].split_at_mut(HEADER_OCTETS + self.iv_octets());
        match self {
            Transform::Gcm { cipher, salt } => {
                let (header, iv) = head.split_at(HEADER_OCTETS);
                let tag = cipher
                    .encrypt_inout_detached(&nonce(salt, iv), header, payload.into())
                    .expect("an IP packet is far below the limit of GCM");
                packet.extend_from_slice(&tag);
            }
            Transform::Gmac { cipher, salt } => {
                let nonce = nonce(salt, &head[HEADER_OCTETS..]);
                let tag = cipher
                    .encrypt_inout_detached(&nonce, &packet[start..], (&mut [][..]).into())
                    .expect("an IP packet is far below the limit of GCM");
                packet.extend_from_slice(&tag);
            }
            Transform::Separate { cipher, mac } => {
                cipher.encrypt(&head[HEADER_OCTETS..], payload);
                let icv = mac.icv(&packet[start..]).unwrap_or_default();
                packet.extend_from_slice(&icv);
            }
        }
    }

    /// Checks the ICV in constant time before anything else, then decrypts in place. Gives where
    /// payload and trailer stand (RFC 4303 §3.4.4).
    pub(super) fn open(&self, esp: &mut [u8]) -> Result<Range<usize>, OpenError> {
        let start = HEADER_OCTETS + self.iv_octets();
        let end = esp.len().checked_sub(self.icv_octets()).ok_or(OpenError::TooShort)?;
        if end < start + 2 {
            return Err(OpenError::TooShort);
        }
        let (covered, icv) = esp.split_at_mut(end);
        match self {
            Transform::Gcm { cipher, salt } => {
                let (head, payload) = covered.split_at_mut(start);
                let (header, iv) = head.split_at(HEADER_OCTETS);
                cipher
                    .decrypt_inout_detached(&nonce(salt, iv), header, payload.into(), &tag(icv))
                    .map_err(|_| OpenError::BadIcv)?;
            }
            Transform::Gmac { cipher, salt } => {
                let nonce = nonce(salt, &covered[HEADER_OCTETS..start]);
                cipher
                    .decrypt_inout_detached(&nonce, covered, (&mut [][..]).into(), &tag(icv))
                    .map_err(|_| OpenError::BadIcv)?;
            }
            Transform::Separate { cipher, mac } => {
                let expected = mac.icv(covered).ok_or(OpenError::BadIcv)?;
                if !bool::from(expected.ct_eq(icv)) {
                    return Err(OpenError::BadIcv);
                }
                let (head, payload) = covered.split_at_mut(start);
                if !payload.len().is_multiple_of(self.block_octets()) {
                    return Err(OpenError::BadPadding);
                }
                cipher.decrypt(&head[HEADER_OCTETS..], payload);
            }
        }
        Ok(start..end)
    }
}

impl Cipher {
    /// `payload` is a whole number of blocks, `iv` one block.
    fn encrypt(&self, iv: &[u8], payload: &mut [u8]) {
        match self {
            Cipher::Null => {}
            Cipher::Aes(aes) => {
                let iv = block::<16>(iv);
                let (blocks, _) = Array::slice_as_chunks_mut(payload);
                cbc::Encryptor::inner_iv_init(aes, &iv.into()).encrypt_blocks(blocks);
            }
            Cipher::TripleDes(des) => {
                let iv = block::<8>(iv);
                let (blocks, _) = Array::slice_as_chunks_mut(payload);
                cbc::Encryptor::inner_iv_init(des, &iv.into()).encrypt_blocks(blocks);
            }
        }
    }

    fn decrypt(&self, iv: &[u8], payload: &mut [u8]) {
        match self {
            Cipher::Null => {}
            Cipher::Aes(aes) => {
                let iv = block::<16>(iv);
                let (blocks, _) = Array::slice_as_chunks_mut(payload);
                cbc::Decryptor::inner_iv_init(aes, &iv.into()).decrypt_blocks(blocks);
            }
            Cipher::TripleDes(des) => {
                let iv = block::<8>(iv);
                let (blocks, _) = Array::slice_as_chunks_mut(payload);
                cbc::Decryptor::inner_iv_init(des, &iv.into()).decrypt_blocks(blocks);
            }
        }
    }
}

impl Authenticator {
    /// The first 96 bits of the MAC (RFC 2403 §2, RFC 2404 §2).
    fn icv(&self, covered: &[u8]) -> Option<[u8; 12]> {
        match self {
            Authenticator::Md5(mac) => {
                let output = mac.clone().chain_update(covered).finalize().into_bytes();
                Some(block::<12>(&output))
            }
            Authenticator::Sha1(mac) => {
                let output = mac.clone().chain_update(covered).finalize().into_bytes();
                Some(block::<12>(&output))
            }
            Authenticator::Nobody => None,
        }
    }
}

fn keyed<M: Mac + KeyInit>(key: &[u8]) -> M {
    <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// Salt and IV (RFC 4106 §4, RFC 4543 §3.2).
fn nonce(salt: &[u8; 4], iv: &[u8]) -> Nonce<Aes128Gcm> {
    let octets: [u8; 12] = std::array::from_fn(|i| if i < 4 { salt[i] } else { iv[i - 4] });
    octets.into()
}

fn tag(icv: &[u8]) -> Tag<Aes128Gcm> {
    block::<16>(icv).into()
}

/// The first octets; callers have checked the length.
fn block<const N: usize>(octets: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| octets[i])
}
