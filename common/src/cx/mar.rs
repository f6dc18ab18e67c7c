//! Multimedia-Auth-Request and -Answer (TS 29.229 §6.1.7, §6.1.8).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use crate::cx::avp::{self, invalid, once, pass_over};
use crate::cx::{Outcome, Results};
use crate::diameter::base::{self, result_code};
use crate::diameter::message::{Avp, Builder, Failure, Message};
use crate::secret::Secret;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mar {
    pub user_name: String,
    pub public_identity: String,
    pub server_name: String,
    pub sip_number_auth_items: u32,
    /// SIP-Authentication-Scheme of the SIP-Auth-Data-Item, e.g. `Digest-AKAv1-MD5`.
    pub scheme: String,
    /// SIP-Authorization: RAND (16) ‖ AUTS (14) on resynchronisation.
    pub sip_authorization: Option<Bytes>,
}

/// SIP-Authentication-Scheme (TS 29.229 §6.3.9).
pub mod scheme {
    pub const AKA_V1: &str = "Digest-AKAv1-MD5";
    pub const AKA_V2_SHA_256: &str = "Digest-AKAv2-SHA-256";
    pub const SIP_DIGEST: &str = "SIP Digest";
    pub const EARLY_IMS: &str = "Early-IMS-Security";
    /// The scheme is what the HSS has for the user; never AKA (TS 29.228 §6.3.1).
    pub const UNKNOWN: &str = "Unknown";
}

/// One authentication vector (TS 29.229 §6.3.13): of AKA, or what another scheme has instead.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuthDataItem {
    pub sip_item_number: Option<u32>,
    pub scheme: String,
    /// SIP-Authenticate: RAND ‖ AUTN, 32 octets.
    pub sip_authenticate: Bytes,
    /// SIP-Authorization: XRES.
    pub sip_authorization: Secret<Vec<u8>>,
    pub confidentiality_key: Option<Secret<[u8; 16]>>,
    pub integrity_key: Option<Secret<[u8; 16]>>,
    /// SIP-Digest-Authenticate, of scheme `SIP Digest`.
    pub digest: Option<DigestAuthenticate>,
    /// Framed-IP-Address or Framed-IPv6-Prefix, of scheme `Early-IMS-Security`: the address that the
    /// packet core gave to the UE, and how many of its bits count.
    pub framed_address: Option<(IpAddr, u8)>,
}

/// SIP-Digest-Authenticate (TS 29.229 §6.3.36).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DigestAuthenticate {
    pub realm: String,
    /// Digest-Algorithm: `MD5` when absent, or `SHA-256` (RFC 8760).
    pub algorithm: Option<String>,
    pub qop: String,
    /// Digest-HA1: lower-case hexadecimal digits.
    pub ha1: Secret<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Maa {
    pub outcome: Outcome,
    pub user_name: Option<String>,
    pub public_identity: Option<String>,
    /// Lowest SIP-Item-Number first.
    pub items: Vec<AuthDataItem>,
}

impl Mar {
    /// TS 29.229 §6.1.7: reads the AVPs of an MAR.
    pub fn decode(message: &Message) -> Result<Mar, Failure> {
        let (mut user_name, mut public_identity, mut server_name) = (None, None, None);
        let (mut items, mut scheme) = (None, None);
        let mut mar = Mar::default();
        for avp in message.avps() {
            if avp.is(base::USER_NAME) {
                once(&mut user_name, avp.text()?, &avp)?;
            } else if avp.is(avp::PUBLIC_IDENTITY) {
                once(&mut public_identity, avp.text()?, &avp)?;
            } else if avp.is(avp::SERVER_NAME) {
                once(&mut server_name, avp.text()?, &avp)?;
            } else if avp.is(avp::SIP_NUMBER_AUTH_ITEMS) {
                once(&mut items, avp.number()?, &avp)?;
            } else if avp.is(avp::SIP_AUTH_DATA_ITEM) {
                let (asked, authorization) = asked_item(&avp)?;
                once(&mut scheme, asked, &avp)?;
                mar.sip_authorization = authorization.map(Bytes::copy_from_slice);
            } else {
                pass_over(&avp)?;
            }
        }
        mar.user_name = user_name.ok_or_else(|| Failure::missing(base::USER_NAME))?.to_owned();
        mar.public_identity =
            public_identity.ok_or_else(|| Failure::missing(avp::PUBLIC_IDENTITY))?.to_owned();
        mar.server_name = server_name.ok_or_else(|| Failure::missing(avp::SERVER_NAME))?.to_owned();
        mar.sip_number_auth_items =
            items.ok_or_else(|| Failure::missing(avp::SIP_NUMBER_AUTH_ITEMS))?;
        mar.scheme = scheme.ok_or_else(|| Failure::missing(avp::SIP_AUTH_DATA_ITEM))?.to_owned();
        Ok(mar)
    }

    /// TS 29.229 §6.1.7: the AVPs behind the common ones.
    pub fn encode(&self, builder: &mut Builder) {
        builder.text(base::USER_NAME, &self.user_name);
        builder.text(avp::PUBLIC_IDENTITY, &self.public_identity);
        builder.group(avp::SIP_AUTH_DATA_ITEM, |item| {
            item.text(avp::SIP_AUTHENTICATION_SCHEME, &self.scheme);
            if let Some(sip_authorization) = &self.sip_authorization {
                item.octets(avp::SIP_AUTHORIZATION, sip_authorization);
            }
        });
        builder.number(avp::SIP_NUMBER_AUTH_ITEMS, self.sip_number_auth_items);
        builder.text(avp::SERVER_NAME, &self.server_name);
    }
}

/// TS 29.228 §6.3.1 table 6.3.2, table 6.3.3: scheme and, on resynchronisation, RAND ‖ AUTS.
fn asked_item<'a>(group: &Avp<'a>) -> Result<(&'a str, Option<&'a [u8]>), Failure> {
    let (mut scheme, mut authorization) = (None, None);
    for avp in group.group()? {
        if avp.is(avp::SIP_AUTHENTICATION_SCHEME) {
            scheme = Some(avp.text()?);
        } else if avp.is(avp::SIP_AUTHORIZATION) {
            authorization = Some(avp.data);
        }
    }
    let scheme = scheme.ok_or_else(|| Failure::missing(avp::SIP_AUTHENTICATION_SCHEME))?;
    Ok((scheme, authorization))
}

impl Maa {
    /// TS 29.229 §6.1.8: reads an MAA; the items come back in the order of their numbers.
    pub fn decode(message: &Message) -> Result<Maa, Failure> {
        let mut results = Results::default();
        let (mut user_name, mut public_identity) = (None, None);
        let mut items = Vec::new();
        for avp in message.avps() {
            if avp.is(base::USER_NAME) {
                user_name = Some(avp.text()?.to_owned());
            } else if avp.is(avp::PUBLIC_IDENTITY) {
                public_identity = Some(avp.text()?.to_owned());
            } else if avp.is(avp::SIP_AUTH_DATA_ITEM) {
                items.push(AuthDataItem::decode(&avp)?);
            } else if !avp.is(avp::SIP_NUMBER_AUTH_ITEMS) {
                results.take(&avp)?;
            }
        }
        items.sort_by_key(|item: &AuthDataItem| item.sip_item_number);
        Ok(Maa { outcome: results.outcome()?, user_name, public_identity, items })
    }

    /// TS 29.229 §6.1.8: the AVPs behind the common ones.
    pub fn encode(&self, builder: &mut Builder) {
        self.outcome.encode(builder);
        avp::optional_text(builder, base::USER_NAME, self.user_name.as_deref());
        avp::optional_text(builder, avp::PUBLIC_IDENTITY, self.public_identity.as_deref());
        if !self.items.is_empty() {
            builder.number(avp::SIP_NUMBER_AUTH_ITEMS, self.items.len() as u32);
        }
        for item in &self.items {
            item.encode(builder);
        }
    }
}

impl AuthDataItem {
    /// TS 29.228 §6.3.1 table 6.3.4: a vector of AKA.
    fn decode(group: &Avp<'_>) -> Result<AuthDataItem, Failure> {
        let mut item = AuthDataItem::default();
        for avp in group.group()? {
            if avp.is(avp::SIP_ITEM_NUMBER) {
                item.sip_item_number = Some(avp.number()?);
            } else if avp.is(avp::SIP_AUTHENTICATION_SCHEME) {
                item.scheme = avp.text()?.to_owned();
            } else if avp.is(avp::SIP_AUTHENTICATE) {
                item.sip_authenticate = Bytes::copy_from_slice(avp.data);
            } else if avp.is(avp::SIP_AUTHORIZATION) {
                item.sip_authorization = Secret::new(avp.data.to_vec());
            } else if avp.is(avp::CONFIDENTIALITY_KEY) {
                item.confidentiality_key = Some(key(&avp)?);
            } else if avp.is(avp::INTEGRITY_KEY) {
                item.integrity_key = Some(key(&avp)?);
            } else if avp.is(avp::SIP_DIGEST_AUTHENTICATE) {
                item.digest = Some(DigestAuthenticate::decode(&avp)?);
            } else if avp.is(avp::FRAMED_IP_ADDRESS) || avp.is(avp::FRAMED_IPV6_PREFIX) {
                item.framed_address = Some(framed_address(&avp)?);
            }
        }
        item.check()?;
        Ok(item)
    }

    /// TS 29.228 §6.3.1 table 6.3.4: RAND ‖ AUTN, XRES of 4 to 16 octets, and both keys belong to
    /// AKA; HA1 to SIP Digest.
    fn check(&self) -> Result<(), Failure> {
        if !self.scheme.starts_with("Digest-AKA") {
            let needs_digest = self.scheme.eq_ignore_ascii_case(scheme::SIP_DIGEST);
            return match needs_digest && self.digest.is_none() {
                true => Err(Failure::missing(avp::SIP_DIGEST_AUTHENTICATE)),
                false => Ok(()),
            };
        }
        let xres = self.sip_authorization.expose().len();
        if self.sip_authenticate.len() != 32 || !(4..=16).contains(&xres) {
            let message = "SIP-Authenticate or SIP-Authorization has the wrong length";
            return Err(Failure::new(result_code::INVALID_AVP_LENGTH, message));
        }
        match (&self.confidentiality_key, &self.integrity_key) {
            (None, _) => Err(Failure::missing(avp::CONFIDENTIALITY_KEY)),
            (_, None) => Err(Failure::missing(avp::INTEGRITY_KEY)),
            _ => Ok(()),
        }
    }

    fn encode(&self, builder: &mut Builder) {
        builder.group(avp::SIP_AUTH_DATA_ITEM, |item| {
            if let Some(number) = self.sip_item_number {
                item.number(avp::SIP_ITEM_NUMBER, number);
            }
            item.text(avp::SIP_AUTHENTICATION_SCHEME, &self.scheme);
            if !self.sip_authenticate.is_empty() {
                item.octets(avp::SIP_AUTHENTICATE, &self.sip_authenticate);
                item.octets(avp::SIP_AUTHORIZATION, self.sip_authorization.expose());
            }
            if let Some(key) = &self.confidentiality_key {
                item.octets(avp::CONFIDENTIALITY_KEY, key.expose());
            }
            if let Some(key) = &self.integrity_key {
                item.octets(avp::INTEGRITY_KEY, key.expose());
            }
            if let Some(digest) = &self.digest {
                digest.encode(item);
            }
            match self.framed_address {
                Some((IpAddr::V4(address), _)) => {
                    item.octets(avp::FRAMED_IP_ADDRESS, &address.octets());
                }
                Some((IpAddr::V6(address), bits)) => {
                    let mut prefix = vec![0, bits];
                    prefix.extend_from_slice(&address.octets()[..usize::from(bits).div_ceil(8)]);
                    item.octets(avp::FRAMED_IPV6_PREFIX, &prefix);
                }
                None => {}
            }
        });
    }
}

impl DigestAuthenticate {
    /// TS 29.229 §6.3.36
    fn decode(group: &Avp<'_>) -> Result<DigestAuthenticate, Failure> {
        let (mut realm, mut algorithm, mut qop, mut ha1) = (None, None, None, None);
        for avp in group.group()? {
            if avp.is(avp::DIGEST_REALM) {
                realm = Some(avp.text()?.to_owned());
            } else if avp.is(avp::DIGEST_ALGORITHM) {
                algorithm = Some(avp.text()?.to_owned());
            } else if avp.is(avp::DIGEST_QOP) {
                qop = Some(avp.text()?.to_owned());
            } else if avp.is(avp::DIGEST_HA1) {
                ha1 = Some(Secret::new(avp.text()?.to_ascii_lowercase()));
            }
        }
        Ok(DigestAuthenticate {
            realm: realm.ok_or_else(|| Failure::missing(avp::DIGEST_REALM))?,
            algorithm,
            qop: qop.ok_or_else(|| Failure::missing(avp::DIGEST_QOP))?,
            ha1: ha1.ok_or_else(|| Failure::missing(avp::DIGEST_HA1))?,
        })
    }

    fn encode(&self, builder: &mut Builder) {
        builder.group(avp::SIP_DIGEST_AUTHENTICATE, |group| {
            group.text(avp::DIGEST_REALM, &self.realm);
            avp::optional_text(group, avp::DIGEST_ALGORITHM, self.algorithm.as_deref());
            group.text(avp::DIGEST_QOP, &self.qop);
            group.text(avp::DIGEST_HA1, self.ha1.expose());
        });
    }
}

/// RFC 4005 §6.11.1, §6.11.6: four octets, or a reserved one, the length of the prefix in bits and
/// its octets.
fn framed_address(avp: &Avp<'_>) -> Result<(IpAddr, u8), Failure> {
    if avp.is(avp::FRAMED_IP_ADDRESS) {
        let octets: [u8; 4] = avp.data.try_into().map_err(|_| invalid(avp))?;
        return Ok((IpAddr::V4(Ipv4Addr::from(octets)), 32));
    }
    let [_, bits, prefix @ ..] = avp.data else { return Err(invalid(avp)) };
    let mut octets = [0; 16];
    let place = octets.get_mut(..prefix.len()).filter(|_| *bits <= 128);
    place.ok_or_else(|| invalid(avp))?.copy_from_slice(prefix);
    Ok((IpAddr::V6(Ipv6Addr::from(octets)), *bits))
}

/// A key has 16 octets. The failure does not repeat what was there.
fn key(avp: &Avp<'_>) -> Result<Secret<[u8; 16]>, Failure> {
    let octets: [u8; 16] = avp.data.try_into().map_err(|_| {
        let message = format!("key of {} octets, not 16", avp.data.len());
        Failure::new(result_code::INVALID_AVP_LENGTH, message)
    })?;
    Ok(Secret::new(octets))
}
