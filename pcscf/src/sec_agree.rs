//! The security agreement of a REGISTER (RFC 3329, TS 24.229 §5.2.2.1, TS 33.203 §7.2).

use common::ipsec::agree::{self, AlgorithmPair, Offer, Preference};
use common::ipsec::sa::Keys;
use common::secret::Secret;
use common::sip::auth::DigestParameters;
use common::sip::endpoint::Incoming;
use common::sip::header::Name;
use common::sip::message::Headers;
use common::sip::security::{Mechanism, is_same_list, mechanisms};

use crate::Pcscf;
use crate::config::{Policy, Prefer, SecurityAnswer};
use crate::refusal::Refusal;
use crate::registrations::Owner;
use crate::security::Set;

/// What the offer of a REGISTER comes to.
pub(crate) struct SecAgree {
    pub offer: Option<Offer>,
    pub security_client: Vec<Mechanism>,
}

impl Pcscf {
    /// RFC 3329 §2.3.1, TS 24.229 §5.2.2.1: the offer of a REGISTER in clear. Where there is nothing
    /// to agree on, who asks for an agreement gets 494, who does not 421 (registration.md P-04).
    ///
    /// A UE behind a NAT gets UDP-enc-tun if it offers that, and else what it offers: its Via may be
    /// wrong, or a helper in between may see to it (TS 33.203 Annex M).
    pub(crate) fn agree_in_clear(
        &self,
        headers: &Headers,
        is_behind_nat: bool,
    ) -> Result<SecAgree, Refusal> {
        let nothing = SecAgree { offer: None, security_client: Vec::new() };
        if self.config.ipsec.policy == Policy::Off {
            return Ok(nothing);
        }
        let security_client =
            mechanisms(headers, Name::SecurityClient).map_err(|_| Refusal::Malformed)?;
        let in_tunnel = is_behind_nat && self.config.ipsec.nat;
        let offer = if in_tunnel { self.choose(&security_client, true) } else { None };
        if let Some(offer) = offer.or_else(|| self.choose(&security_client, false)) {
            return Ok(SecAgree { offer: Some(offer), security_client });
        }
        let asks = [Name::Require, Name::ProxyRequire, Name::Supported]
            .into_iter()
            .any(|name| headers.has_token(name, "sec-agree"));
        match self.config.ipsec.policy {
            Policy::Preferred if security_client.is_empty() => Ok(nothing),
            _ if asks => Err(Refusal::NoCommonAlgorithm),
            _ => Err(Refusal::SecAgreeRequired),
        }
    }

    /// TS 33.203 §7.4: an offer over an established set brings new SPIs and a new client port, and
    /// keeps the server port. Without an offer a refresh goes on, but cannot be challenged. `owner`: whose the new set
    /// will be.
    pub(crate) fn agree_on_established(
        &self,
        headers: &Headers,
        set: &Set,
        owner: &Owner,
    ) -> Result<SecAgree, Refusal> {
        let security_client =
            mechanisms(headers, Name::SecurityClient).map_err(|_| Refusal::Malformed)?;
        if security_client.is_empty() {
            return Ok(SecAgree { offer: None, security_client });
        }
        let offer =
            self.choose(&security_client, set.nat.is_some()).ok_or(Refusal::NoCommonAlgorithm)?;
        // What the set itself was made with: the UE has not seen the answer to its REGISTER, and sends it
        // again by another connection, or refreshes with what it has always said. That is no new offer.
        if set.is_made_with(&offer) {
            return Ok(SecAgree { offer: None, security_client });
        }
        if !self.security.may_follow(set, owner, &offer) {
            return Err(Refusal::OfferCollides);
        }
        Ok(SecAgree { offer: Some(offer), security_client })
    }

    /// By the preference of the configuration.
    fn choose(&self, security_client: &[Mechanism], is_udp_encapsulated: bool) -> Option<Offer> {
        let preference = match self.config.ipsec.prefer {
            Prefer::Operator => Preference::Ours,
            Prefer::Phone => Preference::Theirs,
        };
        let offers = agree::offers(security_client);
        agree::choose(&self.config.ipsec.algorithms, preference, is_udp_encapsulated, &offers)
    }

    /// The pairs that Security-Server lists beside a challenge. The UE takes the first it knows: that
    /// has to be the chosen one, whoever's preference chose it.
    pub(crate) fn listed_pairs(&self, chosen: AlgorithmPair) -> Vec<AlgorithmPair> {
        let others = self.config.ipsec.algorithms.iter().copied().filter(|pair| *pair != chosen);
        match (self.config.ipsec.answer, self.config.ipsec.prefer) {
            (SecurityAnswer::Chosen, _) => vec![chosen],
            (SecurityAnswer::List, Prefer::Operator) => self.config.ipsec.algorithms.clone(),
            (SecurityAnswer::List, Prefer::Phone) => [chosen].into_iter().chain(others).collect(),
        }
    }

    /// RFC 3329 §2.3.1: the list that a 494 or 421 carries, never an empty one. Over a temporary set
    /// it is the list that was sent with the challenge; else our algorithms without SPIs and client
    /// port, since none are allocated.
    pub(crate) fn security_server_for(&self, incoming: &Incoming) -> Vec<Mechanism> {
        let set = self.security.set_of(&incoming.flow());
        if let Some(agreed) = set.and_then(|set| set.agreed.as_ref()) {
            return agreed.security_server.clone();
        }
        let in_tunnel = set.is_some_and(|set| set.nat.is_some());
        let (pairs, ps) = (&self.config.ipsec.algorithms, self.config.gm.protected_server_port);
        let mut list = agree::security_server(pairs, in_tunnel, 0, 0, 0, ps);
        for mechanism in &mut list {
            mechanism
                .parameters
                .retain(|(name, _)| !["spi-c", "spi-s", "port-c"].contains(&name.as_str()));
        }
        list
    }
}

/// TS 24.229 §5.2.2.1: over a temporary set, Security-Verify must be the list that went out with the
/// challenge and Security-Client the one that was challenged. Both are protected now, so whoever
/// changed the clear ones is found out.
pub(crate) fn agree_on_temporary(headers: &Headers, set: &Set) -> Result<SecAgree, Refusal> {
    let Some(agreed) = &set.agreed else { return Err(Refusal::NoAssociation) };
    let read = |name| mechanisms(headers, name);
    let verify = read(Name::SecurityVerify).map_err(|_| Refusal::SecurityVerifyMismatch)?;
    if !is_same_list(&for_signalling(verify), &agreed.security_server) {
        return Err(Refusal::SecurityVerifyMismatch);
    }
    let client = read(Name::SecurityClient).map_err(|_| Refusal::SecurityClientChanged)?;
    let challenged = for_signalling(agreed.security_client.clone());
    if !is_same_list(&for_signalling(client.clone()), &challenged) {
        return Err(Refusal::SecurityClientChanged);
    }
    // Should the S-CSCF challenge again, the phone needs a new offer: this one is used up.
    Ok(SecAgree { offer: None, security_client: client })
}

/// Mechanisms for media plane security stand in the same headers, and are agreed on elsewhere
/// (TS 24.229 §7.2A.7).
fn for_signalling(list: Vec<Mechanism>) -> Vec<Mechanism> {
    list.into_iter().filter(|mechanism| mechanism.get("mediasec").is_none()).collect()
}

/// Writes the list as one line; replaces any.
pub(crate) fn set_security_server(headers: &mut Headers, list: &[Mechanism]) {
    let text: Vec<String> = list.iter().map(Mechanism::to_string).collect();
    headers.set(Name::SecurityServer, &text.join(", "));
}

/// TS 24.229 §5.2.2.2: takes ck and ik out of the challenge; they never reach the UE (rows.md
/// S-66). `Ok(None)` when the challenge has none; an error when they cannot be taken out.
pub(crate) fn take_keys(headers: &mut Headers) -> Result<Option<Keys>, Refusal> {
    let lines: Vec<String> = headers.lines(Name::WwwAuthenticate).map(str::to_owned).collect();
    let mut keys = None;
    headers.remove(Name::WwwAuthenticate);
    for line in lines {
        let Ok(mut challenge) = DigestParameters::parse(&line) else {
            // Not a digest challenge: it cannot carry keys unless somebody spells them oddly.
            if line.to_ascii_lowercase().contains("ck") {
                return Err(Refusal::NoKeys);
            }
            headers.append(Name::WwwAuthenticate, &line);
            continue;
        };
        let ck = challenge.remove("ck").map(Secret::new);
        let ik = challenge.remove("ik").map(Secret::new);
        if let (Some(ck), Some(ik)) = (ck, ik) {
            let (ck, ik) = (key(&ck), key(&ik));
            keys = ck.zip(ik).map(|(ck, ik)| Keys { ck, ik });
        }
        headers.append(Name::WwwAuthenticate, &challenge.to_challenge());
    }
    Ok(keys)
}

/// 32 hex digits.
fn key(text: &Secret<String>) -> Option<Secret<[u8; 16]>> {
    let mut key = [0; 16];
    let text = text.expose();
    if text.len() != 32 {
        return None;
    }
    for (octet, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        let high = char::from(digits[0]).to_digit(16)?;
        let low = char::from(digits[1]).to_digit(16)?;
        *octet = (high * 16 + low) as u8;
    }
    Some(Secret::new(key))
}
