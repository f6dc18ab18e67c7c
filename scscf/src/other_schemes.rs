//! SIP Digest and early IMS security (TS 33.203 Annex N, Annex T; TS 24.229 §5.4.1.2.1A, §5.4.1.2.1E):
//! what a UE without a card, or without IPsec, has instead of AKA. Both are off by default.
//!
//! 1. `schemes_for`        what the HSS is asked for
//! 2. `digest_challenges`  the 401
//!    `is_digest_right`    its answer
//! 3. `keep_nonce`         later REGISTERs may use the nonce again, each with a higher nc
//!    `decide_by_nonce`
//! 4. `compare_address`    early IMS security has no challenge: the address of the bearer is the proof

use std::net::IpAddr;
use std::time::Duration;

use common::aka::digest::DigestAlgorithm;
use common::cx::AuthDataItem;
use common::cx::mar::{DigestAuthenticate, scheme};
use common::cx::sar::ServerAssignmentType;
use common::node::{Now, Output};
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::uri::Host;
use common::sip::via::Via;

use crate::authenticate::Challenging;
use crate::config::Registration;
use crate::register::{Decision, Refusal, Registering};
use crate::{Scscf, Timer};

/// A nonce that a user has proved to know the password with.
#[derive(Debug)]
pub(crate) struct Nonce {
    value: String,
    offered: Vec<DigestAuthenticate>,
    /// The last nonce count seen (RFC 7616 §3.4).
    count: u32,
    hss_host: String,
}

impl Scscf {
    /// TS 24.229 §5.4.1.2.1, §5.4.1.2.1A: inside security associations there is only AKA. Otherwise the
    /// credentials say which algorithm they are of, and where they say nothing the HSS does.
    pub(crate) fn schemes_for(&self, job: &Registering) -> &'static [&'static str] {
        let Registration { digest, early_ims, .. } = self.config.registration;
        if job.is_protected || !(digest || early_ims) {
            return &[scheme::AKA_V1];
        }
        let Some(credentials) = &job.credentials else {
            return match (digest, early_ims) {
                (true, true) => &[scheme::UNKNOWN, scheme::AKA_V1],
                (true, false) => &[scheme::SIP_DIGEST, scheme::AKA_V1],
                _ => &[scheme::EARLY_IMS, scheme::AKA_V1],
            };
        };
        let named = credentials.get("algorithm").and_then(DigestAlgorithm::named);
        match named {
            _ if !digest => &[scheme::AKA_V1],
            Some(algorithm) if !algorithm.is_aka() => &[scheme::SIP_DIGEST, scheme::AKA_V1],
            _ => &[scheme::AKA_V1, scheme::SIP_DIGEST],
        }
    }

    /// What the HSS has, of what the operator allows, in the operator's order. `None`: nothing.
    pub(crate) fn digest_proof(&self, items: Vec<AuthDataItem>) -> Option<Vec<DigestAuthenticate>> {
        let mut found: Vec<_> = items.into_iter().filter_map(|item| item.digest).collect();
        let allowed = &self.config.registration.digest_algorithms;
        let rank =
            |digest: &DigestAuthenticate| allowed.iter().position(|a| Some(*a) == of(digest));
        found.retain(|digest| rank(digest).is_some());
        found.sort_by_key(rank);
        (!found.is_empty() && self.config.registration.digest).then_some(found)
    }

    /// TS 24.229 §5.4.1.2.1A, RFC 8760 §2.4: one line for each algorithm. `stale` tells a UE whose
    /// response was right that only its nonce was not (RFC 7616 §3.3).
    pub(crate) fn digest_challenges(
        &mut self,
        job: &Registering,
        offered: &[DigestAuthenticate],
    ) -> (String, Vec<DigestParameters>) {
        let nonce = hex::encode(self.random.bytes::<16>());
        let is_stale = self.is_digest_right(job, offered);
        let line = |digest: &DigestAuthenticate| {
            let mut parameters = DigestParameters::default();
            parameters.set("realm", &digest.realm);
            parameters.set("nonce", &nonce);
            parameters.set("algorithm", of(digest).unwrap_or(DigestAlgorithm::Md5).name());
            parameters.set("qop", &digest.qop);
            if is_stale {
                parameters.set("stale", "true");
            }
            parameters
        };
        let lines = offered.iter().map(line).collect();
        (nonce, lines)
    }

    /// RFC 7616 §3.4.1: the response is right for the nonce that the UE names.
    pub(crate) fn is_digest_right(
        &self,
        job: &Registering,
        offered: &[DigestAuthenticate],
    ) -> bool {
        let Some(credentials) = &job.credentials else { return false };
        let Some((digest, algorithm)) = chosen(credentials, offered) else { return false };
        let body = job.incoming.request().body();
        // Without qop a response could be used again and again.
        credentials.get("qop").is_some()
            && credentials.get("nonce").is_some_and(|nonce| !nonce.is_empty())
            && self.is_uri_home(credentials)
            && algorithm.verify(credentials, &digest.ha1, "REGISTER", body)
    }

    /// TS 24.229 §5.4.1.2.2F, RFC 7616 §3.5: the nonce stays good for a while, and the 200 proves that the
    /// network knows the password, too.
    pub(crate) fn keep_nonce(
        &mut self,
        now: Now,
        job: &mut Registering,
        value: String,
        offered: Vec<DigestAuthenticate>,
        hss_host: &str,
    ) {
        let Some(credentials) = &job.credentials else { return };
        job.authentication_info = authentication_info(credentials, &offered);
        let seconds = self.config.registration.digest_nonce_seconds;
        let is_known = self.nonces.contains_key(&job.private_identity);
        if seconds == 0 || (!is_known && self.nonces.len() >= self.config.limits.registrations) {
            return;
        }
        let count = nonce_count(credentials).unwrap_or(u32::MAX);
        let nonce = Nonce { value, offered, count, hss_host: hss_host.to_owned() };
        self.nonces.insert(job.private_identity.clone(), nonce);
        let timer = Timer::Nonce(job.private_identity.clone());
        self.timers.set(timer, now + Duration::from_secs(u64::from(seconds)));
    }

    /// RFC 7616 §3.4: a nonce is good again with a higher count. `None`: there is none to speak of.
    pub(crate) fn decide_by_nonce(&self, job: &Registering) -> Option<Decision> {
        let nonce = self.nonces.get(&job.private_identity)?;
        let credentials = job.credentials.as_ref()?;
        if credentials.get("nonce") != Some(nonce.value.as_str()) {
            return None;
        }
        let is_newer = nonce_count(credentials).is_some_and(|count| count > nonce.count);
        match is_newer && self.is_digest_right(job, &nonce.offered) {
            true => Some(Decision::AcceptByNonce),
            // Wrong, or somebody sends again what was sent before.
            false => Some(Decision::Challenge(1)),
        }
    }

    pub(crate) fn accept_by_nonce(
        &mut self,
        now: Now,
        mut job: Registering,
        out: &mut Vec<Output>,
    ) {
        if let Some(nonce) = self.nonces.get_mut(&job.private_identity)
            && let Some(credentials) = &job.credentials
        {
            nonce.count = nonce_count(credentials).unwrap_or(u32::MAX);
            job.authentication_info = authentication_info(credentials, &nonce.offered);
            job.hss_host = Some(nonce.hss_host.clone());
        }
        self.accept(now, job, out);
    }

    /// TS 33.203 Annex T, TS 24.229 §5.4.1.2.1E: the packet core has told the HSS which address it gave to
    /// the UE; the P-CSCF has seen from which one the REGISTER came.
    pub(crate) fn compare_address(
        &mut self,
        now: Now,
        wait: Challenging,
        items: &[AuthDataItem],
        hss_host: String,
        out: &mut Vec<Output>,
    ) {
        let mut job = wait.job;
        job.hss_host = Some(hss_host);
        let assigned = items.first().and_then(|item| item.framed_address);
        let source = source_address(&job);
        let is_same = match (assigned, source) {
            (Some((assigned, bits)), Some(source)) => is_within(source, assigned, bits),
            _ => false,
        };
        if !self.config.registration.early_ims || !is_same {
            self.tell_hss(now, &job, ServerAssignmentType::AuthenticationFailure, out);
            return self.refuse(now, job, Refusal::WrongAddress, out);
        }
        job.is_authenticated = true;
        self.accept(now, job, out);
    }
}

/// Digest-Algorithm of the HSS; MD5 when it names none.
fn of(digest: &DigestAuthenticate) -> Option<DigestAlgorithm> {
    match &digest.algorithm {
        None => Some(DigestAlgorithm::Md5),
        Some(name) => DigestAlgorithm::named(name).filter(|algorithm| !algorithm.is_aka()),
    }
}

/// The line of the challenge that credentials are for.
fn chosen<'a>(
    credentials: &DigestParameters,
    offered: &'a [DigestAuthenticate],
) -> Option<(&'a DigestAuthenticate, DigestAlgorithm)> {
    let algorithm = match credentials.get("algorithm") {
        None => DigestAlgorithm::Md5,
        Some(name) => DigestAlgorithm::named(name)?,
    };
    let is_meant = |digest: &&DigestAuthenticate| {
        of(digest) == Some(algorithm) && credentials.get("realm") == Some(digest.realm.as_str())
    };
    Some((offered.iter().find(is_meant)?, algorithm))
}

/// RFC 7616 §3.4: eight hexadecimal digits.
fn nonce_count(credentials: &DigestParameters) -> Option<u32> {
    u32::from_str_radix(credentials.get("nc")?, 16).ok()
}

/// RFC 7616 §3.5
fn authentication_info(
    credentials: &DigestParameters,
    offered: &[DigestAuthenticate],
) -> Option<String> {
    let (digest, algorithm) = chosen(credentials, offered)?;
    let rspauth = algorithm.response(credentials, &digest.ha1, "", b"")?;
    let [qop, cnonce, nc] = ["qop", "cnonce", "nc"].map(|name| credentials.get(name));
    Some(format!("qop={}, rspauth=\"{rspauth}\", cnonce=\"{}\", nc={}", qop?, cnonce?, nc?))
}

/// Where the REGISTER came from, as the P-CSCF saw it: the Via of the UE is below those of P-CSCF and
/// I-CSCF. One that hides behind more of them may have written what it liked.
fn source_address(job: &Registering) -> Option<IpAddr> {
    let vias: Vec<_> = job.incoming.request().headers().values(Name::Via).take(4).collect();
    let via = vias.last().filter(|_| vias.len() <= 3)?;
    let via = Via::parse(via).ok()?;
    if via.parameter("received").is_some() {
        return via.received();
    }
    match via.sent_by.host {
        Host::Address(address) => Some(address),
        Host::Name(_) => None,
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => address == network,
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let shift = 128 - u32::from(bits.min(128));
            let top = |address: std::net::Ipv6Addr| {
                u128::from(address).checked_shr(shift).unwrap_or_default()
            };
            bits > 0 && top(address) == top(network)
        }
        _ => false,
    }
}
