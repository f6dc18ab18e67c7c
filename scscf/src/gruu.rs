//! Globally routable URIs of user agents (TS 24.229 §5.4.7A, RFC 5627): made, told, recognised.
//!
//! A public GRUU is the public identity with the instance in `gr`; it is the same for ever. A temporary
//! one is another with each REGISTER, and nobody but us can tell whose it is; all that were made under
//! one Call-ID stay good until the contact is gone or registers under another.

use std::fmt::Write;

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::identity::Impu;
use common::node::{Output, Record, StoredRecord};
use common::random::Random;
use common::secret::Secret;
use common::sip::header::Name;
use common::sip::message::Headers;
use common::sip::uri::Uri;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::Scscf;
use crate::register::Registering;
use crate::state::{Binding, Registration};

/// Kind of the record that holds the keys.
pub const KIND: &str = "gruu_keys";

/// Marks the user part of a temporary GRUU (RFC 5627 §A.2).
const TEMPORARY: &str = "tgruu.";
/// Octets of its MAC (RFC 5627 §A.2: HMAC-SHA256-80).
const MAC_OCTETS: usize = 10;
/// RFC 4122 Appendix C: the name space of domain names.
const NAMESPACE_DNS: [u8; 16] = [
    0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8,
];

/// What GRUUs of one binding are made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Gruu {
    /// 48 bits, drawn with the first REGISTER under a Call-ID: what its temporary GRUUs are good for.
    pub epoch: u64,
    /// CSeq of that REGISTER (RFC 5628 §5).
    pub first_cseq: u32,
    /// 48 bits, drawn with each REGISTER.
    pub distinguisher: u64,
}

/// What temporary GRUUs are encrypted and authenticated with. They outlive the process, or a restart
/// would take from phones what they may have given to others.
#[derive(Debug)]
pub struct Keys {
    encryption: Secret<[u8; 16]>,
    authentication: Secret<[u8; 16]>,
    /// For the names of instances that shall not be known.
    namespace: [u8; 16],
    /// The next start will find them.
    is_stored: bool,
}

/// Whom a Request-URI that is a GRUU leads to (RFC 5627 §5.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// A contact is bound.
    Registered,
    /// Good, but its user agent is not there.
    NotRegistered,
    /// Never made, or no longer good.
    Invalid,
}

impl Keys {
    /// `namespace`: 16 octets as a UUID; absent: made from the home domain.
    pub fn draw(random: &mut Random, namespace: Option<&str>, home_domain: &str) -> Keys {
        Keys {
            encryption: Secret::new(random.bytes()),
            authentication: Secret::new(random.bytes()),
            namespace: namespace
                .and_then(read_uuid)
                .unwrap_or_else(|| named_uuid(&NAMESPACE_DNS, &home_domain.to_ascii_lowercase())),
            is_stored: false,
        }
    }

    /// Those of before a restart.
    pub fn restore(&mut self, record: &StoredRecord) -> Result<(), String> {
        let mut octets = [0; 32];
        hex::decode_to_slice(&record.value, &mut octets).map_err(|error| error.to_string())?;
        self.encryption = Secret::new(std::array::from_fn(|i| octets[i]));
        self.authentication = Secret::new(std::array::from_fn(|i| octets[16 + i]));
        self.is_stored = true;
        Ok(())
    }

    fn record(&self) -> Record {
        let (encryption, authentication) =
            (hex::encode(self.encryption.expose()), hex::encode(self.authentication.expose()));
        let value = Some(encryption + &authentication);
        Record { kind: KIND, key: "own".to_owned(), value }
    }

    /// TS 24.229 §5.4.7A.2: the public identity with `gr`. What names a device for life, an IMEI or a
    /// MEID, is not told to strangers: a UUID that follows from it stands in its place.
    pub fn public(&self, identity: &str, instance: &str) -> Option<String> {
        is_sip(identity).then(|| format!("{identity};gr={}", self.instance_shown(instance)))
    }

    fn instance_shown(&self, instance: &str) -> String {
        let urn = instance.trim_matches('"').trim_start_matches('<').trim_end_matches('>');
        let lower = urn.to_ascii_lowercase();
        if lower.starts_with("urn:gsma:imei:") || lower.starts_with("urn:device-id:meid:") {
            // The serial number names the device; what follows behind it may change (RFC 7255 §3).
            let name = lower.split(';').next().unwrap_or(&lower);
            return format!("urn:uuid:{}", written_uuid(named_uuid(&self.namespace, name)));
        }
        escaped(urn)
    }

    /// TS 24.229 §5.4.7A.3, RFC 5627 §A.2
    pub fn temporary(&self, identity: &str, gruu: Gruu) -> Option<String> {
        let uri = Uri::parse(identity).ok().filter(|_| is_sip(identity))?;
        let mut block = [0; 16];
        block[..6].copy_from_slice(&gruu.epoch.to_be_bytes()[2..]);
        block[6..10].copy_from_slice(&shortened(&uri.public_identity()));
        block[10..].copy_from_slice(&gruu.distinguisher.to_be_bytes()[2..]);
        let mut block = block.into();
        Aes128::new(&(*self.encryption.expose()).into()).encrypt_block(&mut block);
        let mut octets = block.to_vec();
        let mac = self.mac(&octets);
        octets.extend_from_slice(&mac);
        let host = uri.host_port?.host;
        Some(format!("sip:{TEMPORARY}{}@{host};gr", URL_SAFE_NO_PAD.encode(octets)))
    }

    /// The epoch of a temporary GRUU, and what is left of the identity that it stands for. `None` when
    /// it is none of ours.
    fn opened(&self, user: &str) -> Option<(u64, [u8; 4])> {
        let octets = URL_SAFE_NO_PAD.decode(user.strip_prefix(TEMPORARY)?).ok()?;
        let (block, mac) = octets.split_at_checked(16)?;
        let is_ours = Secret::new(self.mac(block)) == Secret::new(mac.try_into().ok()?);
        let mut block = <[u8; 16]>::try_from(block).ok().filter(|_| is_ours)?.into();
        Aes128::new(&(*self.encryption.expose()).into()).decrypt_block(&mut block);
        let mut epoch = [0; 8];
        epoch[2..].copy_from_slice(&block[..6]);
        Some((u64::from_be_bytes(epoch), [block[6], block[7], block[8], block[9]]))
    }

    fn mac(&self, block: &[u8]) -> [u8; MAC_OCTETS] {
        let key = self.authentication.expose();
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
        mac.update(block);
        let mac = mac.finalize().into_bytes();
        std::array::from_fn(|i| mac[i])
    }
}

impl Scscf {
    /// RFC 5627 §5.1: what this REGISTER has bound gets its GRUUs, when the UE takes them.
    pub(crate) fn assign_gruus(
        &mut self,
        job: &Registering,
        bindings: &mut [Binding],
        out: &mut Vec<Output>,
    ) {
        let request = job.incoming.request();
        let (call_id, cseq) = (request.call_id(), request.cseq());
        let is_asked = self.config.registration.gruu && asks(request.headers());
        let held = self.registrations.find(&job.private_identity, &job.public_identity);
        let held = held.map_or(&[][..], |held| &held.bindings);
        for binding in bindings.iter_mut() {
            let is_of_this = binding.call_id == call_id && binding.cseq == cseq;
            if !is_of_this || binding.is_emergency || binding.instance.is_none() {
                continue;
            }
            let before = held.iter().find(|other| {
                other.instance == binding.instance
                    && other.call_id == call_id
                    && other.gruu.is_some()
            });
            let before = before.and_then(|other| other.gruu);
            if is_asked && !self.gruu_keys.is_stored {
                self.gruu_keys.is_stored = true;
                out.push(Output::Persist { record: self.gruu_keys.record() });
            }
            let mut draw = || self.random.u64() >> 16;
            binding.gruu = is_asked.then(|| Gruu {
                epoch: before.map_or_else(&mut draw, |gruu| gruu.epoch),
                first_cseq: before.map_or(cseq, |gruu| gruu.first_cseq),
                distinguisher: draw(),
            });
        }
    }

    /// The public and the temporary GRUU of a binding under one identity, if it has them; they come in
    /// pairs (TS 24.229 §5.4.7A.1).
    pub(crate) fn gruus(&self, identity: &str, binding: &Binding) -> Option<(String, String)> {
        let (gruu, instance) = (binding.gruu?, binding.instance.as_ref()?);
        let public = self.gruu_keys.public(identity, instance)?;
        Some((public, self.gruu_keys.temporary(identity, gruu)?))
    }

    /// TS 24.229 §5.4.7A.4, RFC 5627 §5.4: `None` when the Request-URI is no GRUU.
    pub(crate) fn find_gruu(&self, uri: &Uri) -> Option<Found> {
        let gr = uri.parameter("gr").filter(|_| self.is_home(uri))?;
        let user = uri.user.as_deref().unwrap_or("");
        if gr.is_empty() {
            let Some((epoch, identity)) = self.gruu_keys.opened(user) else {
                return Some(Found::Invalid);
            };
            let registration = self.registrations.of_epoch(epoch);
            let is_it = |held: &&Registration| {
                held.identities().any(|one| shortened(&crate::state::canonical(one)) == identity)
            };
            return Some(match registration.filter(is_it) {
                Some(_) => Found::Registered,
                None => Found::Invalid,
            });
        }
        let public_identity = uri.public_identity();
        let sharers = self.registrations.sharers(&public_identity).iter();
        let held = sharers.filter_map(|sharer| self.registrations.find(sharer, &public_identity));
        let is_there = held.flat_map(|held| &held.bindings).any(|binding| {
            let instance = binding.instance.as_deref();
            binding.gruu.is_some()
                && instance.is_some_and(|one| self.gruu_keys.instance_shown(one) == escaped(gr))
        });
        Some(if is_there { Found::Registered } else { Found::NotRegistered })
    }
}

/// RFC 5627 §4.1
pub fn asks(headers: &Headers) -> bool {
    headers.has_token(Name::Supported, "gruu") || headers.has_token(Name::Require, "gruu")
}

/// A telephone number has no GRUU.
fn is_sip(identity: &str) -> bool {
    identity.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case("sip:"))
}

fn shortened(identity: &Impu) -> [u8; 4] {
    let hash = Sha256::digest(identity.as_str());
    [hash[0], hash[1], hash[2], hash[3]]
}

/// As a URI parameter may be written (RFC 3261 §25.1).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for octet in text.bytes() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => escaped.push(char::from(octet)),
            _ if b"-_.!~*'()[]/:&+$%".contains(&octet) => escaped.push(char::from(octet)),
            _ => {
                let _ = write!(escaped, "%{octet:02X}");
            }
        }
    }
    escaped
}

/// RFC 4122 §4.3, version 5
fn named_uuid(namespace: &[u8; 16], name: &str) -> [u8; 16] {
    let hash = Sha1::new().chain_update(namespace).chain_update(name).finalize();
    let mut uuid: [u8; 16] = std::array::from_fn(|i| hash[i]);
    uuid[6] = uuid[6] & 0x0f | 0x50;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn written_uuid(uuid: [u8; 16]) -> String {
    let digits = hex::encode(uuid);
    let part = |from: usize, to: usize| &digits[from..to];
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

pub fn read_uuid(text: &str) -> Option<[u8; 16]> {
    let mut uuid = [0; 16];
    hex::decode_to_slice(text.replace('-', ""), &mut uuid).ok().map(|()| uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::draw(&mut Random::from_seed([5; 32]), None, "hims.net")
    }

    /// RFC 4122 §4.3
    #[test]
    fn names_follow_rfc_4122() {
        // The example of Python's documentation of uuid5.
        let uuid = named_uuid(&NAMESPACE_DNS, "python.org");
        assert_eq!(written_uuid(uuid), "886313e1-3b8a-5372-9b90-0c9aee199e5d");
        assert_eq!(read_uuid("886313e1-3b8a-5372-9b90-0c9aee199e5d"), Some(uuid));
        assert_eq!(read_uuid("886313e1"), None);
    }

    /// TS 24.229 §5.4.7A.2; RFC 7255 §3: the software version does not name the device.
    #[test]
    fn a_public_gruu_hides_the_imei_and_nothing_else() {
        let keys = keys();
        let urn = "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
        assert_eq!(
            keys.public("sip:name@hims.net", &format!("\"<{urn}>\"")).unwrap(),
            format!("sip:name@hims.net;gr={urn}")
        );
        let imei =
            keys.public("sip:name@hims.net", "\"<urn:gsma:imei:35209900-176148-0>\"").unwrap();
        assert!(imei.starts_with("sip:name@hims.net;gr=urn:uuid:"), "{imei}");
        assert!(!imei.contains("176148"), "{imei}");
        let with_software = "\"<urn:gsma:imei:35209900-176148-0;svn=01>\"";
        assert_eq!(keys.public("sip:name@hims.net", with_software).unwrap(), imei);
        assert_eq!(keys.public("tel:+4930", "\"<urn:x:y>\""), None);
        let odd = keys.public("sip:name@hims.net", "\"<urn:x:a b;c>\"").unwrap();
        assert!(odd.ends_with(";gr=urn:x:a%20b%3Bc"), "{odd}");
    }

    #[test]
    fn temporary_gruus_tell_nothing_and_open_again() {
        let keys = keys();
        let gruu = Gruu { epoch: 0x1234_5678_9abc, first_cseq: 1, distinguisher: 7 };
        let first = keys.temporary("sip:name@hims.net", gruu).unwrap();
        let second =
            keys.temporary("sip:name@hims.net", Gruu { distinguisher: 8, ..gruu }).unwrap();
        assert_ne!(first, second);
        for text in [&first, &second] {
            let uri = Uri::parse(text).unwrap();
            assert_eq!(uri.parameter("gr"), Some(""));
            let (epoch, identity) = keys.opened(uri.user.as_deref().unwrap()).unwrap();
            assert_eq!(epoch, gruu.epoch);
            assert_eq!(identity, shortened(&Impu::new("sip:name@hims.net")));
        }
        let user = Uri::parse(&first).unwrap().user.unwrap();
        for at in TEMPORARY.len()..user.len() - 1 {
            let mut forged = user.to_string().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(keys.opened(std::str::from_utf8(&forged).unwrap()), None, "at {at}");
        }
        assert_eq!(keys.opened("tgruu.AAAA"), None);
        assert_eq!(keys.opened("name"), None);
        // Another process with its own keys.
        let other = Keys::draw(&mut Random::from_seed([6; 32]), None, "hims.net");
        assert_eq!(other.opened(&user), None);
        let mut again = Keys::draw(&mut Random::from_seed([6; 32]), None, "hims.net");
        let record = keys.record();
        let value = record.value.unwrap();
        again.restore(&StoredRecord { kind: KIND.to_owned(), key: record.key, value }).unwrap();
        assert!(again.opened(&user).is_some());
    }
}
