//! How a REGISTER is written (TS 24.229 §5.1.1.2, §5.1.1.4, §5.1.1.6).

use std::net::SocketAddr;

use common::aka::digest::{self, DigestAlgorithm};
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::message::Request;
use common::sip::uri::{Host, HostPort};

use crate::config::Config;

/// What varies from one REGISTER to the next.
#[derive(Clone, Debug)]
pub struct Register<'a> {
    pub public_identity: &'a str,
    pub call_id: &'a str,
    pub from_tag: &'a str,
    pub cseq: u32,
    pub expires_seconds: u32,
    /// hostport of Contact.
    pub contact: HostPort,
    /// Absent in early IMS security.
    pub authorization: Option<&'a DigestParameters>,
    pub security_client: Option<&'a str>,
    /// Lines of the Security-Server that is verified; empty for none.
    pub security_verify: &'a [String],
    /// Sent inside a security association.
    pub is_protected: bool,
}

impl Register<'_> {
    /// TS 24.229 §5.1.1.2.1
    ///
    /// No Route: the P-CSCF is where the request is sent to.
    pub fn write(&self, config: &Config) -> Request {
        let mut request = Request::new("REGISTER", &home_uri(config));
        let headers = request.headers_mut();
        headers.append(Name::MaxForwards, "70");
        headers.append(Name::From, &format!("<{}>;tag={}", self.public_identity, self.from_tag));
        headers.append(Name::To, &format!("<{}>", self.public_identity));
        headers.append(Name::Contact, &self.contact(config));
        headers.append(Name::CallId, self.call_id);
        headers.append(Name::CSeq, &format!("{} REGISTER", self.cseq));
        let profile = config.profile.as_deref();
        let supported = profile.and_then(|profile| profile.supported.as_deref());
        headers.append(Name::Supported, supported.unwrap_or("path, gruu"));
        if config.reg_id.is_some() && !headers.has_token(Name::Supported, "outbound") {
            headers.append(Name::Supported, "outbound");
        }
        if let Some(profile) = profile {
            if profile.expires_header {
                headers.append(Name::Expires, &self.expires_seconds.to_string());
            }
            let written = [("Allow", &profile.allow), ("User-Agent", &profile.user_agent)];
            for (name, value) in written {
                if let Some(value) = value {
                    headers.append_other(name, value);
                }
            }
            for (name, value) in &profile.more {
                headers.append_other(name, value);
            }
        }
        if let Some(security_client) = self.security_client {
            headers.append(Name::Require, "sec-agree");
            headers.append(Name::ProxyRequire, "sec-agree");
            headers.append(Name::SecurityClient, security_client);
        }
        for line in self.security_verify {
            headers.append(Name::SecurityVerify, line);
        }
        let is_told = self.is_protected || profile.is_some_and(|it| it.access_network_in_clear);
        if let Some(access_network) = config.access_network.as_ref().filter(|_| is_told) {
            headers.append(Name::PAccessNetworkInfo, access_network);
        }
        if let Some(authorization) = self.authorization {
            headers.append(Name::Authorization, &authorization.to_credentials());
        }
        request
    }

    fn contact(&self, config: &Config) -> String {
        let host_port = &self.contact;
        let profile = config.profile.as_deref();
        let user = config.isim.impi.split('@').next().unwrap_or_default();
        let sos = if config.is_emergency { ";sos" } else { "" };
        let mut contact = match profile {
            Some(profile) if profile.contact_user => format!("<sip:{user}@{host_port}{sos}>"),
            _ => format!("<sip:{host_port}{sos}>"),
        };
        if let Some(instance_id) = &config.instance_id {
            contact.push_str(&format!(";+sip.instance=\"<{instance_id}>\""));
            if let Some(reg_id) = config.reg_id {
                contact.push_str(&format!(";reg-id={reg_id}"));
            }
        }
        if let Some(q) = profile.and_then(|profile| profile.contact_q.as_ref()) {
            contact.push_str(&format!(";q={q}"));
        }
        for (tag, urns) in
            [("+g.3gpp.icsi-ref", &config.icsis), ("+g.3gpp.iari-ref", &config.iaris)]
        {
            if !urns.is_empty() {
                let urns: Vec<String> = urns.iter().map(|urn| tag_value(urn)).collect();
                contact.push_str(&format!(";{tag}=\"{}\"", urns.join(",")));
            }
        }
        for tag in &config.feature_tags {
            contact.push(';');
            contact.push_str(tag);
        }
        if profile.is_none_or(|profile| !profile.expires_header) {
            contact.push_str(&format!(";expires={}", self.expires_seconds));
        }
        contact
    }
}

/// TS 24.229 §7.9.2, RFC 3840 §9: a colon may not stand in the value of a feature tag, and a comma ends it.
fn tag_value(urn: &str) -> String {
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._".contains(&octet);
    let written = |octet| match is_plain(octet) {
        true => char::from(octet).to_string(),
        false => format!("%{octet:02X}"),
    };
    urn.bytes().map(written).collect()
}

/// The Request-URI of every REGISTER, and `uri` of its Authorization.
pub fn home_uri(config: &Config) -> String {
    format!("sip:{}", config.isim.home_domain)
}

pub fn host_port(address: SocketAddr) -> HostPort {
    HostPort { host: Host::Address(address.ip()), port: Some(address.port()) }
}

/// Authorization of a REGISTER that answers nothing yet (TS 24.229 §5.1.1.2.2).
pub fn empty_authorization(config: &Config) -> DigestParameters {
    let mut authorization = DigestParameters::default();
    authorization.set("username", &config.isim.impi);
    authorization.set("realm", &config.isim.home_domain);
    authorization.set("uri", &home_uri(config));
    authorization.set("nonce", "");
    authorization.set("response", "");
    if config.profile.as_ref().is_some_and(|profile| profile.algorithm_in_clear) {
        authorization.set("algorithm", "AKAv1-MD5");
    }
    authorization
}

/// How a challenge is answered.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// With this password: what AKA has given (RFC 3310 §3.3, RFC 4169 §3), or the user's own.
    Response(&'a [u8]),
    /// MAC failure: nothing (TS 24.229 §5.1.1.5.3).
    Empty,
    /// The sequence number was not fresh (RFC 3310 §3.4).
    Resynchronisation(&'a [u8; 14]),
}

/// Authorization that answers `challenge` (RFC 3310 §3.3, §3.4).
pub fn authorization(
    config: &Config,
    challenge: &DigestParameters,
    answer: Answer<'_>,
    (cnonce, nonce_count): (&str, u32),
) -> DigestParameters {
    let mut authorization = DigestParameters::default();
    authorization.set("username", &config.isim.impi);
    for name in ["realm", "nonce", "opaque", "algorithm"] {
        if let Some(value) = challenge.get(name) {
            authorization.set(name, value);
        }
    }
    authorization.set("uri", &home_uri(config));
    if let Some(qop) = challenge.get("qop").and_then(choose_qop) {
        authorization.set("qop", qop);
        authorization.set("nc", &format!("{nonce_count:08x}"));
        authorization.set("cnonce", cnonce);
    }
    let password: &[u8] = match answer {
        Answer::Response(res) => res,
        Answer::Empty | Answer::Resynchronisation(_) => b"",
    };
    let response = match answer {
        Answer::Empty => Some(String::new()),
        _ => response(&authorization, password),
    };
    // Realm and nonce were there, or the challenge would not have been read.
    authorization.set("response", &response.unwrap_or_default());
    if let Answer::Resynchronisation(auts) = answer {
        authorization.set("auts", &digest::encode_auts(auts));
    }
    authorization
}

fn response(authorization: &DigestParameters, password: &[u8]) -> Option<String> {
    let algorithm = algorithm_of(authorization)?;
    let (username, realm) = (authorization.get("username")?, authorization.get("realm")?);
    let ha1 = algorithm.ha1(username, realm, password);
    algorithm.response(authorization, &ha1, "REGISTER", b"")
}

/// RFC 7616 §3.3: MD5 where none is named.
pub fn algorithm_of(parameters: &DigestParameters) -> Option<DigestAlgorithm> {
    parameters.get("algorithm").map_or(Some(DigestAlgorithm::Md5), DigestAlgorithm::named)
}

/// `auth` when it is offered, else `auth-int`; none of others (RFC 7616 §3.3).
fn choose_qop(offered: &str) -> Option<&'static str> {
    ["auth", "auth-int"]
        .into_iter()
        .find(|known| offered.split(',').any(|token| token.trim().eq_ignore_ascii_case(known)))
}
