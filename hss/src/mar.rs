//! Authentication: vectors, sequence numbers, resynchronisation (TS 29.228 §6.3, TS 33.102 §6.3).

use std::net::IpAddr;

use bytes::Bytes;
use common::aka::vector::{Algorithm, Sqn, Vector};
use common::cx::mar::{DigestAuthenticate, scheme};
use common::cx::{AuthDataItem, Maa, Mar, Outcome};
use common::random::Random;

use crate::config::Config;
use crate::database::{Credentials, Database, IdentityType, PrivateIdentity, Server, Subscription};
use crate::keys::Vault;
use crate::provision::{Ha1, digest_name};
use crate::refusal::Refusal;

/// How far SEQ may be ahead of the card's before the card takes it for nonsense
/// (TS 33.102 Annex C.2.1).
const DELTA: u64 = 1 << 28;

/// The last SEQ of 43 bits.
const SEQ_END: u64 = (1 << 43) - 1;

/// TS 29.228 §6.3.1: vectors for a private identity; from now on `server` is its S-CSCF.
///
/// # Errors
/// The first check that fails, in the order of the clause.
pub fn authenticate(
    database: &Database,
    config: &Config,
    vault: &Vault,
    random: &mut Random,
    mar: &Mar,
    server: &Server,
) -> Result<Maa, Refusal> {
    // What is read below must not change before the sequence number is stored.
    database.begin()?;
    let credentials =
        database.credentials(&mar.user_name)?.ok_or(Refusal::UnknownPrivateIdentity)?;
    let private = &credentials.private_identity;
    let public =
        database.public_identity(&mar.public_identity)?.ok_or(Refusal::UnknownPublicIdentity)?;
    if public.identity_type != IdentityType::PublicIdentity {
        return Err(Refusal::NotDistinct);
    }
    if !database.is_associated(public.implicit_set, private.id)? {
        return Err(Refusal::NotAssociated);
    }
    let subscription = database.subscription(private.subscription)?;
    if credentials.scheme != "aka" {
        let items = other_items(vault, mar, &credentials)?;
        remember_server(database, &subscription, server)?;
        database.set_authentication_pending(public.implicit_set, private.id, true)?;
        return Ok(answer(mar, items));
    }
    // "Unknown" asks for the stored scheme, and AKA must not be reached that way.
    let is_aka = [scheme::AKA_V1, scheme::AKA_V2_SHA_256]
        .into_iter()
        .any(|known| mar.scheme.eq_ignore_ascii_case(known));
    if !is_aka {
        return Err(Refusal::UnsupportedScheme);
    }
    let sealed = credentials.sealed_keys.as_deref().ok_or(Refusal::UnsupportedScheme)?;
    let keys = vault.open(&mar.user_name, sealed).map_err(Refusal::Fault)?;

    let mut sqn = Sqn(credentials.sqn);
    if let Some(authorization) = &mar.sip_authorization {
        if !may_resynchronise(&subscription, server) {
            return Err(Refusal::ServerNameDiffers);
        }
        sqn = resynchronise(database, private, &keys, sqn, authorization)?;
    }
    remember_server(database, &subscription, server)?;
    database.set_authentication_pending(public.implicit_set, private.id, true)?;

    let count = mar.sip_number_auth_items.clamp(1, config.vectors_per_request);
    let mut items = Vec::with_capacity(count as usize);
    let mut rand = [0; 16];
    for number in 1..=count {
        if sqn.seq() >= SEQ_END {
            return Err(Refusal::SequenceExhausted);
        }
        sqn = sqn.next();
        rand = random.bytes();
        let vector = keys.vector(rand, sqn, credentials.amf);
        items.push(item(vector, &mar.scheme, (count > 1).then_some(number)));
    }
    // Stored, and on disk before the answer leaves: a number is never used twice.
    database.advance_sqn(private.id, sqn.0, &rand)?;
    Ok(answer(mar, items))
}

fn answer(mar: &Mar, items: Vec<AuthDataItem>) -> Maa {
    Maa {
        outcome: Outcome::SUCCESS,
        user_name: Some(mar.user_name.clone()),
        public_identity: Some(mar.public_identity.clone()),
        items,
    }
}

/// TS 29.228 §6.3.1 tables 6.3.5 and 6.3.7: HA1s, the stronger one first, or the address of the bearer.
fn other_items(
    vault: &Vault,
    mar: &Mar,
    credentials: &Credentials,
) -> Result<Vec<AuthDataItem>, Refusal> {
    let name = match credentials.scheme.as_str() {
        "digest" => scheme::SIP_DIGEST,
        _ => scheme::EARLY_IMS,
    };
    let is_asked =
        [name, scheme::UNKNOWN].into_iter().any(|known| mar.scheme.eq_ignore_ascii_case(known));
    if !is_asked || mar.sip_authorization.is_some() {
        return Err(Refusal::UnsupportedScheme);
    }
    let item = || AuthDataItem { scheme: name.to_owned(), ..AuthDataItem::default() };
    if name == scheme::EARLY_IMS {
        let address = credentials.framed_address.as_deref().and_then(|text| text.parse().ok());
        let address: IpAddr = address.ok_or(Refusal::UnsupportedScheme)?;
        let bits = if address.is_ipv4() { 32 } else { 64 };
        return Ok(vec![AuthDataItem { framed_address: Some((address, bits)), ..item() }]);
    }
    let sealed = credentials.sealed_digest.as_deref().ok_or(Refusal::UnsupportedScheme)?;
    let opened = vault.open_octets(&digest_name(&mar.user_name), sealed).map_err(Refusal::Fault)?;
    let ha1 = Ha1::from_octets(&opened)
        .ok_or_else(|| Refusal::Fault("sealed password has an unknown form".to_owned()))?;
    let both = [("SHA-256", ha1.sha_256), ("MD5", ha1.md5)];
    let count = mar.sip_number_auth_items.clamp(1, 2) as usize;
    // Who asks for one gets the one that everybody knows.
    let items = both.into_iter().skip(2 - count).map(|(algorithm, digits)| AuthDataItem {
        digest: Some(DigestAuthenticate {
            realm: ha1.realm.clone(),
            algorithm: Some(algorithm.to_owned()),
            qop: "auth".to_owned(),
            ha1: digits,
        }),
        ..item()
    });
    Ok((1..)
        .zip(items)
        .map(|(number, item)| numbered(item, (count > 1).then_some(number)))
        .collect())
}

fn numbered(item: AuthDataItem, number: Option<u32>) -> AuthDataItem {
    AuthDataItem { sip_item_number: number, ..item }
}

/// TS 29.228 §6.3.1: only the assigned S-CSCF has a challenge that can fail, unless another one is
/// taking over.
fn may_resynchronise(subscription: &Subscription, server: &Server) -> bool {
    subscription.is_reassignment_pending
        || subscription.server.as_ref().is_some_and(|assigned| assigned.is_named(&server.name))
}

/// TS 33.102 §6.3.5: the number to go on from. Our own stays when the card would take the next
/// one; MAC-S is verified in any case.
fn resynchronise(
    database: &Database,
    private: &PrivateIdentity,
    keys: &Algorithm,
    sqn_he: Sqn,
    authorization: &[u8],
) -> Result<Sqn, Refusal> {
    let (rand, auts) = authorization
        .split_first_chunk::<16>()
        .and_then(|(rand, auts)| Some((rand, <&[u8; 14]>::try_from(auts).ok()?)))
        .ok_or(Refusal::MalformedResynchronisation)?;
    let sqn_ms = keys.open_auts(rand, auts);
    database.note_resynchronisation(private.id, sqn_ms.map(|sqn| sqn.0))?;
    let sqn_ms = sqn_ms.ok_or(Refusal::WrongMacS)?;
    let next_seq = sqn_he.seq() + 1;
    let is_accepted = next_seq > sqn_ms.seq() && next_seq - sqn_ms.seq() <= DELTA;
    Ok(if is_accepted { sqn_he } else { sqn_ms })
}

/// TS 29.228 §6.3.1: the name counts from the MAR on, so that the second REGISTER finds the S-CSCF
/// that challenged. What it displaces is kept until a SAR shows that the user is really there.
fn remember_server(
    database: &Database,
    subscription: &Subscription,
    server: &Server,
) -> Result<(), Refusal> {
    let previous = match &subscription.server {
        Some(assigned) if assigned == server => return Ok(()),
        Some(assigned) if assigned.is_named(&server.name) => subscription.previous.as_ref(),
        Some(assigned)
            if subscription.previous.is_none() && database.is_served(subscription.id)? =>
        {
            Some(assigned)
        }
        _ => subscription.previous.as_ref(),
    };
    database.assign_server(subscription.id, server, previous)
}

/// TS 29.229 §6.3.13: a vector as the S-CSCF gets it.
fn item(vector: Vector, scheme: &str, number: Option<u32>) -> AuthDataItem {
    let mut authenticate = [0; 32];
    authenticate[..16].copy_from_slice(&vector.rand);
    authenticate[16..].copy_from_slice(&vector.autn);
    AuthDataItem {
        sip_item_number: number,
        scheme: scheme.to_owned(),
        sip_authenticate: Bytes::copy_from_slice(&authenticate),
        sip_authorization: vector.xres,
        confidentiality_key: Some(vector.ck),
        integrity_key: Some(vector.ik),
        ..AuthDataItem::default()
    }
}
