//! Multimedia-Auth-Request and -Answer (TS 29.229 §6.1.7, §6.1.8).

use bytes::Bytes;

use crate::cx::avp::{self, once, pass_over};
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

/// One authentication vector (TS 29.229 §6.3.13).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthDataItem {
    pub sip_item_number: Option<u32>,
    pub scheme: String,
    /// SIP-Authenticate: RAND ‖ AUTN, 32 octets.
    pub sip_authenticate: Bytes,
    /// SIP-Authorization: XRES.
    pub sip_authorization: Secret<Vec<u8>>,
    pub confidentiality_key: Option<Secret<[u8; 16]>>,
    pub integrity_key: Option<Secret<[u8; 16]>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
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
        let mut item = AuthDataItem {
            sip_item_number: None,
            scheme: String::new(),
            sip_authenticate: Bytes::new(),
            sip_authorization: Secret::new(Vec::new()),
            confidentiality_key: None,
            integrity_key: None,
        };
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
            }
        }
        item.check()?;
        Ok(item)
    }

    /// TS 29.228 §6.3.1 table 6.3.4: RAND ‖ AUTN, XRES of 4 to 16 octets, and both keys belong to
    /// AKA. Other schemes are not used here.
    fn check(&self) -> Result<(), Failure> {
        if !self.scheme.starts_with("Digest-AKA") {
            return Ok(());
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
            item.octets(avp::SIP_AUTHENTICATE, &self.sip_authenticate);
            item.octets(avp::SIP_AUTHORIZATION, self.sip_authorization.expose());
            if let Some(key) = &self.confidentiality_key {
                item.octets(avp::CONFIDENTIALITY_KEY, key.expose());
            }
            if let Some(key) = &self.integrity_key {
                item.octets(avp::INTEGRITY_KEY, key.expose());
            }
        });
    }
}

/// A key has 16 octets. The failure does not repeat what was there.
fn key(avp: &Avp<'_>) -> Result<Secret<[u8; 16]>, Failure> {
    let octets: [u8; 16] = avp.data.try_into().map_err(|_| {
        let message = format!("key of {} octets, not 16", avp.data.len());
        Failure::new(result_code::INVALID_AVP_LENGTH, message)
    })?;
    Ok(Secret::new(octets))
}
