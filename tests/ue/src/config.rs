//! What a phone is set up with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::aka::digest::DigestAlgorithm;
use common::ipsec::agree::AlgorithmPair;
use common::ipsec::sa::{Encryption, Integrity};
use common::node::Transport;
use common::secret::Secret;
use common::sip::uri::HostPort;

use crate::isim::Isim;
use crate::profile::Profile;
use crate::request::host_port;

/// Seconds that a UE asks for (TS 24.229 §5.1.1.2.1).
pub const EXPIRES_SECONDS: u32 = 600_000;

/// emerg-reg as TS 24.229 §7.8 has it where nobody says otherwise.
const EMERGENCY_SECONDS: u64 = 10;

/// Multimedia telephony (TS 24.173 §5.1).
pub const MMTEL: &str = "urn:urn-7:3gpp-service.ims.icsi.mmtel";

/// What AKA challenges a new phone answers.
pub const AKA_ALGORITHMS: [DigestAlgorithm; 3] =
    [DigestAlgorithm::AkaV1Md5, DigestAlgorithm::AkaV2Md5, DigestAlgorithm::AkaV2Sha256];

/// What a UE shows that it is who it says with (TS 33.203).
#[derive(Clone, Debug)]
pub enum Authentication {
    /// The card, by the first line of a challenge whose algorithm is among these (RFC 8760 §2.4).
    Aka(&'static [DigestAlgorithm]),
    /// SIP Digest (Annex N), in clear.
    Password(Secret<String>),
    /// The address of its bearer, and nothing else (Annex T): no Authorization at all, in clear.
    Address,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub isim: Isim,
    pub authentication: Authentication,
    /// Given by the bearer.
    pub address: IpAddr,
    /// It offers ESP inside UDP, too, should there be a NAT (TS 33.203 Annex M).
    pub offers_udp_enc_tun: bool,
    /// The phone has this address behind a NAT of its own, which has the bearer's. It then offers ESP
    /// inside UDP, too. Of no effect on an IPv6 bearer.
    pub behind_nat: Option<Ipv4Addr>,
    /// Unprotected ports of the P-CSCFs, in the order in which they are tried.
    pub pcscfs: Vec<SocketAddr>,
    /// The transport of requests; a request longer than 1300 bytes goes by TCP anyway.
    pub transport: Transport,
    /// Without it, a phone that offers no security agreement at all.
    pub ipsec: bool,
    /// In the order of Security-Client.
    pub algorithms: Vec<AlgorithmPair>,
    /// Where answers to unprotected requests are awaited.
    pub unprotected_port: u16,
    /// First of the port numbers used for protection; 1000 of them are.
    pub first_protected_port: u16,
    /// `+sip.instance`, without quotes and angle brackets: `urn:gsma:imei:35209900-176148-0`.
    pub instance_id: Option<String>,
    /// URNs of the communication services that it uses: `+g.3gpp.icsi-ref` of Contact.
    pub icsis: Vec<String>,
    /// URNs of the applications that it uses: `+g.3gpp.iari-ref` of Contact.
    pub iaris: Vec<String>,
    /// Other feature tags of Contact, as written.
    pub feature_tags: Vec<String>,
    /// Contact names this host, and its port if there is one, instead of the address that it speaks from: as
    /// some phones do, which write the address of another interface.
    pub contact_host: Option<HostPort>,
    /// Registers a flow of this number (RFC 5626 §4.2), as long as the network does not say that its first hop
    /// keeps none.
    pub reg_id: Option<u32>,
    /// It registers for emergency calls: `sos` in the URI of Contact (TS 24.229 §5.1.6.2). Such a registration is
    /// not watched.
    pub is_emergency: bool,
    /// emerg-reg: after this long an initial emergency registration has failed (TS 24.229 §7.8, 8 to 20 s).
    pub emergency_seconds: u64,
    /// P-Access-Network-Info, sent only over a security association.
    pub access_network: Option<String>,
    pub expires_seconds: u32,
    /// T1 (TS 24.229 table 7.7.1).
    pub gm_t1: Duration,
    /// Registers again in time, and tries again after failures, as TS 24.229 wants it.
    pub automatic: bool,
    /// Subscribes to the state of its registrations (TS 24.229 §5.1.1.3).
    pub subscribes: bool,
    /// Octets of the longest IP packet that the bearer takes.
    pub mtu: usize,
    /// What its TCP takes that for, if it is wrong: it then tells of longer segments than ESP leaves room
    /// for, and whoever sends them has to find out.
    pub tcp_mtu: Option<usize>,
    pub faults: Faults,
    /// How its REGISTERs look; [`Config::follow`] sets it.
    pub profile: Option<Arc<Profile>>,
}

/// Deliberate faults, one per test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// The card has another K: no network is authentic to it.
    pub wrong_k: bool,
    /// The card is ahead of the HSS: the next challenge ends in AUTS.
    pub stale_sqn: bool,
    /// The response is computed from another RES.
    pub wrong_response: bool,
    /// The keys of the associations are others than those of the AKA run.
    pub wrong_association_keys: bool,
    /// Security-Verify names another SPI than Security-Server did.
    pub wrong_security_verify: bool,
    /// No Security-Verify at all.
    pub no_security_verify: bool,
    /// Security-Client of the answer to a challenge is not that of the challenged REGISTER.
    pub changed_security_client: bool,
    /// No Security-Client and no sec-agree.
    pub no_security_client: bool,
    /// An emergency registration is refreshed too early, and deregistered, when it is told so.
    pub ends_emergency: bool,
}

impl Config {
    /// A phone with the usual settings: IPsec with every pair, UDP, automatic.
    pub fn new(isim: Isim, address: IpAddr, pcscf: SocketAddr) -> Config {
        Config {
            isim,
            authentication: Authentication::Aka(&AKA_ALGORITHMS),
            address,
            offers_udp_enc_tun: false,
            behind_nat: None,
            pcscfs: vec![pcscf],
            transport: Transport::Udp,
            ipsec: true,
            algorithms: default_algorithms(),
            unprotected_port: 5060,
            first_protected_port: 31_000,
            instance_id: Some("urn:gsma:imei:35209900-176148-0".to_string()),
            icsis: vec![MMTEL.to_string()],
            iaris: Vec::new(),
            feature_tags: vec!["+g.3gpp.smsip".to_string()],
            contact_host: None,
            reg_id: None,
            emergency_seconds: EMERGENCY_SECONDS,
            is_emergency: false,
            access_network: Some(
                "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=3114800001FFFFFFF".to_string(),
            ),
            expires_seconds: EXPIRES_SECONDS,
            gm_t1: Duration::from_secs(2),
            automatic: true,
            subscribes: true,
            mtu: 1500,
            tcp_mtu: None,
            faults: Faults::default(),
            profile: None,
        }
    }

    /// What the phone itself takes for its address.
    pub fn own_address(&self) -> IpAddr {
        match (self.behind_nat, self.address) {
            (Some(private), IpAddr::V4(_)) => private.into(),
            _ => self.address,
        }
    }

    /// hostport of Contact for a phone that listens at that port.
    pub fn contact(&self, port: u16) -> HostPort {
        let own = || host_port(SocketAddr::new(self.own_address(), port));
        self.contact_host.clone().unwrap_or_else(own)
    }

    /// Takes on the ways of a make of phones; `serial` is behind the type in +sip.instance.
    pub fn follow(&mut self, profile: Arc<Profile>, serial: u32) {
        if let Some(transport) = profile.transport {
            self.transport = transport;
        }
        if let Some(expires_seconds) = profile.expires_seconds {
            self.expires_seconds = expires_seconds;
        }
        if let Some(tags) = &profile.feature_tags {
            self.feature_tags = tags.clone();
            // A make's tags are written as its phones do, those of services among them.
            self.icsis.clear();
            self.iaris.clear();
        }
        // Checked when the profile was read.
        let pairs = profile.pairs().unwrap_or_default();
        if !pairs.is_empty() {
            self.algorithms = pairs;
        }
        if let Some(network) = &profile.access_network {
            self.access_network = Some(network.clone());
        }
        if let Some(imei) = &profile.imei {
            self.instance_id = Some(format!("urn:gsma:imei:{imei}-{:06}-0", serial % 1_000_000));
        }
        self.profile = Some(profile);
    }
}

/// One pair: with more of them the answer to a challenge grows beyond 1300 octets, and goes by TCP
/// whatever the transport of the configuration is (RFC 3261 §18.1.1).
pub fn default_algorithms() -> Vec<AlgorithmPair> {
    vec![AlgorithmPair { alg: Integrity::HmacSha1_96, ealg: Encryption::AesCbc }]
}
