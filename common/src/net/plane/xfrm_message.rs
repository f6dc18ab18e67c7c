//! XFRM messages for one association: its state, its policy, their removal (TS 33.203 §7.1, Annex H).

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_xfrm::constants::{
    UDP_ENCAP_ESPINUDP, XFRM_MODE_TRANSPORT, XFRM_MODE_TUNNEL, XFRM_MSG_NEWPOLICY, XFRM_MSG_NEWSA,
    XFRM_POLICY_ALLOW, XFRM_POLICY_IN, XFRM_POLICY_OUT, XFRM_SHARE_ANY,
};
use netlink_packet_xfrm::policy::{DelGetMessage as PolicyKey, ModifyMessage as PolicyMessage};
use netlink_packet_xfrm::state::{DelGetMessage as StateKey, ModifyMessage as StateMessage};
use netlink_packet_xfrm::{
    Address, Alg, AlgAead, AlgAuth, EncapTmpl, Id, LifetimeConfig, Selector, UserPolicyId,
    UserPolicyInfo, UserSaId, UserSaInfo, UserTemplate, XfrmAttrs, XfrmMessage,
};
use zeroize::Zeroize;

use super::netlink::{Batch, FLAG_CREATE, FLAG_EXCLUSIVE};
use crate::ipsec::sa::{Association, Encryption, Integrity, SaSet};
use crate::secret::Secret;

const PROTOCOL_ESP: u8 = 50;
const REPLAY_WINDOW: u8 = 32;
/// Truncation of HMAC-MD5-96 and HMAC-SHA-1-96, and the ICV of GCM and GMAC, in bits.
const HMAC_BITS: u32 = 96;
const AEAD_ICV_BITS: u32 = 128;
const NO_CIPHER: &str = "ecb(cipher_null)";
const POLICY_PRIORITY: u32 = 0x1000;

pub(super) fn push(batch: &mut Batch, message: XfrmMessage, flags: u16) {
    let length = message.buffer_len();
    batch.push(message.message_type(), flags, length, |payload| message.serialize(payload));
    if let XfrmMessage::AddSa(mut message) = message {
        wipe(&mut message.nlas);
    }
}

fn wipe(attributes: &mut [XfrmAttrs]) {
    for attribute in attributes {
        match attribute {
            XfrmAttrs::AuthenticationAlg(algorithm) => algorithm.alg_key.zeroize(),
            XfrmAttrs::AuthenticationAlgTrunc(algorithm) => algorithm.alg_key.zeroize(),
            XfrmAttrs::EncryptionAlg(algorithm) => algorithm.alg_key.zeroize(),
            XfrmAttrs::EncryptionAlgAead(algorithm) => algorithm.alg_key.zeroize(),
            _ => {}
        }
    }
}

pub(super) fn push_state(
    batch: &mut Batch,
    set: &SaSet,
    association: &Association,
    request_id: u32,
    life_seconds: u64,
) {
    let user_sa_info = state_info(association, request_id, life_seconds);
    let mut nlas = algorithms(set);
    nlas.extend(encapsulation(association));
    let message = StateMessage { user_sa_info, nlas };
    push(batch, XfrmMessage::AddSa(message), FLAG_CREATE | FLAG_EXCLUSIVE);
}

/// Sets anew what may change of a state: its end, where `life_seconds` count from when it was added,
/// and the port of the NAT. The kernel wants to see algorithms and takes none of them over, so the keys
/// are not needed again.
pub(super) fn push_change(
    batch: &mut Batch,
    association: &Association,
    request_id: u32,
    life_seconds: u64,
) {
    let user_sa_info = state_info(association, request_id, life_seconds);
    let placeholder = Alg { alg_name: name(NO_CIPHER), alg_key_len: 0, alg_key: Vec::new() };
    let mut nlas = vec![XfrmAttrs::EncryptionAlg(placeholder)];
    nlas.extend(encapsulation(association));
    push(batch, XfrmMessage::UpdateSa(StateMessage { user_sa_info, nlas }), 0);
}

fn state_info(association: &Association, request_id: u32, life_seconds: u64) -> UserSaInfo {
    let (from, to) = association.on_the_wire();
    UserSaInfo {
        // One selector serves UDP and TCP alike.
        selector: selector(association),
        lifetime_cfg: LifetimeConfig {
            hard_add_expires_seconds: life_seconds,
            ..LifetimeConfig::default()
        },
        id: Id { daddr: Address::from_ip(&to), spi: association.spi, proto: PROTOCOL_ESP },
        saddr: Address::from_ip(&from),
        reqid: request_id,
        family: family(to),
        mode: mode(association),
        replay_window: REPLAY_WINDOW,
        ..UserSaInfo::default()
    }
}

/// TS 33.203 Annex M: inside UDP whole packets travel.
fn mode(association: &Association) -> u8 {
    if association.around.is_some() { XFRM_MODE_TUNNEL } else { XFRM_MODE_TRANSPORT }
}

/// RFC 3948: the ports of the UDP around the packets of a state.
fn encapsulation(association: &Association) -> Option<XfrmAttrs> {
    let (source, destination) = association.around?;
    Some(XfrmAttrs::EncapsulationTemplate(EncapTmpl {
        encap_type: UDP_ENCAP_ESPINUDP,
        encap_sport: source.port(),
        encap_dport: destination.port(),
        encap_oa: Address::default(),
    }))
}

/// The port from which the packets of an inbound state come, as the kernel knows it.
pub(super) fn encapsulation_source_port(state: &StateMessage) -> Option<u16> {
    state.nlas.iter().find_map(|attribute| match attribute {
        XfrmAttrs::EncapsulationTemplate(template) => Some(template.encap_sport),
        _ => None,
    })
}

/// TS 33.203 Annex H and I: names of the kernel for the algorithms, and their keys (ipsec.md K-04).
fn algorithms(set: &SaSet) -> Vec<XfrmAttrs> {
    let bytes = |key: Option<Secret<Vec<u8>>>| key.map_or(Vec::new(), |key| key.expose().clone());
    let aead = |title: &str, mut key: Vec<u8>| {
        let mut alg_key = Vec::with_capacity(key.len() + 4);
        alg_key.extend_from_slice(&key);
        alg_key.extend_from_slice(&set.salt().unwrap_or_default());
        key.zeroize();
        XfrmAttrs::EncryptionAlgAead(AlgAead {
            alg_name: name(title),
            alg_key_len: 8 * alg_key.len() as u32,
            alg_icv_len: AEAD_ICV_BITS,
            alg_key,
        })
    };
    if set.encryption == Encryption::AesGcm {
        return vec![aead("rfc4106(gcm(aes))", bytes(set.encryption_key()))];
    }
    if set.integrity == Integrity::AesGmac {
        return vec![aead("rfc4543(gcm(aes))", bytes(set.integrity_key()))];
    }
    let cipher = match set.encryption {
        Encryption::AesCbc => "cbc(aes)",
        Encryption::DesEde3Cbc => "cbc(des3_ede)",
        Encryption::Null | Encryption::AesGcm => NO_CIPHER,
    };
    let alg_key = bytes(set.encryption_key());
    let encryption = XfrmAttrs::EncryptionAlg(Alg {
        alg_name: name(cipher),
        alg_key_len: 8 * alg_key.len() as u32,
        alg_key,
    });
    let digest = match set.integrity {
        Integrity::HmacMd5_96 => "hmac(md5)",
        Integrity::HmacSha1_96 | Integrity::AesGmac => "hmac(sha1)",
        // Never agreed on without GCM; the kernel then has nothing to authenticate with.
        Integrity::Null => return vec![encryption],
    };
    let alg_key = bytes(set.integrity_key());
    let integrity = XfrmAttrs::AuthenticationAlgTrunc(AlgAuth {
        alg_name: name(digest),
        alg_key_len: 8 * alg_key.len() as u32,
        alg_trunc_len: HMAC_BITS,
        alg_key,
    });
    vec![integrity, encryption]
}

fn name(text: &str) -> [u8; 64] {
    let mut name = [0; 64];
    name[..text.len()].copy_from_slice(text.as_bytes());
    name
}

pub(super) fn push_policy(batch: &mut Batch, association: &Association, request_id: u32) {
    let (from, to) = association.on_the_wire();
    let template = UserTemplate {
        id: Id { daddr: Address::from_ip(&to), spi: 0, proto: PROTOCOL_ESP },
        family: family(to),
        saddr: Address::from_ip(&from),
        reqid: request_id,
        mode: mode(association),
        share: XFRM_SHARE_ANY,
        optional: 0,
        aalgos: u32::MAX,
        ealgos: u32::MAX,
        calgos: u32::MAX,
    };
    let user_policy_info = UserPolicyInfo {
        selector: selector(association),
        priority: POLICY_PRIORITY,
        direction: direction(association),
        action: XFRM_POLICY_ALLOW,
        ..UserPolicyInfo::default()
    };
    let nlas = vec![XfrmAttrs::Template(vec![template])];
    let message = PolicyMessage { user_policy_info, nlas };
    push(batch, XfrmMessage::AddPolicy(message), FLAG_CREATE | FLAG_EXCLUSIVE);
}

pub(super) fn push_policy_removal(batch: &mut Batch, selector: Selector, direction: u8) {
    let user_policy_id = UserPolicyId { selector, index: 0, direction };
    let message = PolicyKey { user_policy_id, nlas: Vec::new() };
    push(batch, XfrmMessage::DeletePolicy(message), 0);
}

pub(super) fn push_state_removal(batch: &mut Batch, association: &Association) {
    push(batch, XfrmMessage::DeleteSa(state_key(association)), 0);
}

pub(super) fn push_state_question(batch: &mut Batch, association: &Association) {
    push(batch, XfrmMessage::GetSa(state_key(association)), 0);
}

pub(super) fn push_policy_question(batch: &mut Batch, selector: Selector, direction: u8) {
    let user_policy_id = UserPolicyId { selector, index: 0, direction };
    let message = PolicyKey { user_policy_id, nlas: Vec::new() };
    push(batch, XfrmMessage::GetPolicy(message), 0);
}

fn state_key(association: &Association) -> StateKey {
    let (source, destination) = association.on_the_wire();
    StateKey {
        user_sa_id: UserSaId {
            daddr: Address::from_ip(&destination),
            spi: association.spi,
            family: family(destination),
            proto: PROTOCOL_ESP,
        },
        nlas: vec![XfrmAttrs::SrcAddr(Address::from_ip(&source))],
    }
}

/// Exact addresses and ports, any protocol: one selector matches UDP and TCP (ipsec.md K-02).
pub(super) fn selector(association: &Association) -> Selector {
    let Association { source, destination, .. } = *association;
    let mut selector = Selector::default();
    selector.source_prefix(&source.ip(), full_length(source.ip()));
    selector.destination_prefix(&destination.ip(), full_length(destination.ip()));
    selector.sport = source.port();
    selector.sport_mask = u16::MAX;
    selector.dport = destination.port();
    selector.dport_mask = u16::MAX;
    selector
}

pub(super) fn direction(association: &Association) -> u8 {
    if association.is_inbound { XFRM_POLICY_IN } else { XFRM_POLICY_OUT }
}

pub(super) fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn family(address: IpAddr) -> u16 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u16
}

pub(super) fn parse(message_type: u16, payload: &[u8]) -> Option<XfrmMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = message_type;
    XfrmMessage::deserialize(&header, payload).ok()
}

/// A state as the kernel tells of it; the keys are wiped, nobody needs them.
pub(super) fn state_of(payload: &[u8]) -> Option<StateMessage> {
    match parse(XFRM_MSG_NEWSA, payload)? {
        XfrmMessage::AddSa(mut message) => {
            wipe(&mut message.nlas);
            Some(message)
        }
        _ => None,
    }
}

pub(super) fn policy_of(payload: &[u8]) -> Option<PolicyMessage> {
    match parse(XFRM_MSG_NEWPOLICY, payload)? {
        XfrmMessage::AddPolicy(message) => Some(message),
        _ => None,
    }
}

/// The request id of the association that a policy asks for.
pub(super) fn wanted_request_id(policy: &PolicyMessage) -> Option<u32> {
    policy.nlas.iter().find_map(|attribute| match attribute {
        XfrmAttrs::Template(templates) => templates.first().map(|template| template.reqid),
        _ => None,
    })
}

/// Seconds since the Unix epoch at which a packet last used the state; newer kernels tell it, others
/// only when the first one did.
pub(super) fn last_used_seconds(state: &StateMessage) -> u64 {
    let told = state.nlas.iter().find_map(|attribute| match attribute {
        XfrmAttrs::LastUsed(seconds) => Some(*seconds),
        _ => None,
    });
    told.unwrap_or(state.user_sa_info.lifetime_cur.use_time)
}

/// The two ends of a selector with exact addresses and ports, as all of ours are.
pub(super) fn ends(selector: &Selector) -> Option<(SocketAddr, SocketAddr)> {
    let is_v4 = i32::from(selector.family) == libc::AF_INET;
    let full = if is_v4 { 32 } else { 128 };
    let is_exact = selector.prefixlen_s == full
        && selector.prefixlen_d == full
        && selector.sport_mask == u16::MAX
        && selector.dport_mask == u16::MAX;
    let ip = |address: &Address| address_of(address, selector.family);
    let source = SocketAddr::new(ip(&selector.saddr), selector.sport);
    let destination = SocketAddr::new(ip(&selector.daddr), selector.dport);
    is_exact.then_some((source, destination))
}

pub(super) fn address_of(address: &Address, family: u16) -> IpAddr {
    if i32::from(family) == libc::AF_INET {
        IpAddr::V4(address.to_ipv4())
    } else {
        IpAddr::V6(address.to_ipv6())
    }
}
