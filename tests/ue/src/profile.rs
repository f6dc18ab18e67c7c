//! Device profiles: how phones of one make write their REGISTERs. The ones that come with the
//! program were made after messages of real phones, with other identities and numbers; a file in
//! TOML makes others.
//!
//! ```toml
//! name = "example"
//! transport = "udp"                    # of the REGISTER in clear
//! protected_transport = "tcp"          # absent: the same
//! expires_seconds = 3600
//! expires_header = true                # absent: in Contact
//! contact_user = false                 # sip:USER@ADDRESS, or the address alone
//! contact_q = "1.0"
//! user_agent = "Phone 1.0"
//! supported = "path, gruu, sec-agree"
//! allow = "INVITE, ACK, OPTIONS, BYE"
//! feature_tags = ["+g.3gpp.smsip"]
//! imei = "35209900"                    # first digits of +sip.instance
//! access_network = "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=0010100010000001"
//! access_network_in_clear = false
//! algorithms = ["hmac-md5-96/null"]    # as offered in Security-Client
//! algorithm_in_clear = true            # algorithm=AKAv1-MD5 before there is a challenge
//! first_cseq = 1
//! more = [["Privacy", "none"]]         # headers that mean nothing to a registrar
//! order = ["v", "f", "t", "i", "CSeq"] # spelling, too; what is not named comes behind
//! ```

use bytes::Bytes;
use common::ipsec::agree::AlgorithmPair;
use common::ipsec::sa::{Encryption, Integrity};
use common::node::Transport;
use serde::Deserialize;

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub name: String,
    #[serde(default, deserialize_with = "transport")]
    pub transport: Option<Transport>,
    #[serde(default, deserialize_with = "transport")]
    pub protected_transport: Option<Transport>,
    pub expires_seconds: Option<u32>,
    #[serde(default)]
    pub expires_header: bool,
    #[serde(default)]
    pub contact_user: bool,
    pub contact_q: Option<String>,
    pub user_agent: Option<String>,
    pub supported: Option<String>,
    pub allow: Option<String>,
    pub feature_tags: Option<Vec<String>>,
    pub imei: Option<String>,
    pub access_network: Option<String>,
    #[serde(default)]
    pub access_network_in_clear: bool,
    #[serde(default)]
    pub algorithms: Vec<String>,
    #[serde(default)]
    pub algorithm_in_clear: bool,
    #[serde(default = "one")]
    pub first_cseq: u32,
    #[serde(default)]
    pub more: Vec<(String, String)>,
    #[serde(default)]
    pub order: Vec<String>,
}

fn one() -> u32 {
    1
}

/// Those that come with the program.
const EMBEDDED: [&str; 6] = [
    include_str!("profiles/samsung-tab.toml"),
    include_str!("profiles/samsung-two-offers.toml"),
    include_str!("profiles/qualcomm.toml"),
    include_str!("profiles/qualcomm-compact.toml"),
    include_str!("profiles/huawei-six-offers.toml"),
    include_str!("profiles/boghe.toml"),
];

/// Compact names (RFC 3261 §7.3.3) of what a REGISTER has.
const COMPACT: [(&str, &str); 8] = [
    ("v", "Via"),
    ("f", "From"),
    ("t", "To"),
    ("i", "Call-ID"),
    ("m", "Contact"),
    ("l", "Content-Length"),
    ("k", "Supported"),
    ("c", "Content-Type"),
];

impl Profile {
    /// # Errors
    /// Not TOML, an unknown key, algorithms that are none.
    pub fn parse(text: &str) -> Result<Profile, String> {
        let profile: Profile = toml::from_str(text).map_err(|error| error.to_string())?;
        profile.pairs()?;
        if let Some(imei) = &profile.imei
            && (imei.len() != 8 || !imei.bytes().all(|digit| digit.is_ascii_digit()))
        {
            return Err("imei has 8 digits: the type allocation code".to_owned());
        }
        let texts = [&profile.user_agent, &profile.supported, &profile.allow, &profile.contact_q];
        let tags = profile.feature_tags.iter().flatten();
        let more = profile.more.iter().flat_map(|(name, value)| [name, value]);
        let network = profile.access_network.iter();
        let mut all = texts.into_iter().flatten().chain(tags).chain(more).chain(network);
        let has_more_lines = all.any(|text| text.contains(['\r', '\n']));
        drop(all);
        match has_more_lines {
            true => Err("a value has more than one line".to_owned()),
            false => Ok(profile),
        }
    }

    /// Names of those that come with the program.
    pub fn names() -> Vec<String> {
        EMBEDDED.iter().filter_map(|text| Some(Profile::parse(text).ok()?.name)).collect()
    }

    /// One that comes with the program.
    pub fn embedded(name: &str) -> Option<Profile> {
        let all = EMBEDDED.iter().filter_map(|text| Profile::parse(text).ok());
        all.into_iter().find(|profile| profile.name == name)
    }

    /// What it offers, if it says that.
    ///
    /// # Errors
    /// A pair that is none.
    pub fn pairs(&self) -> Result<Vec<AlgorithmPair>, String> {
        self.algorithms.iter().map(|text| pair(text)).collect()
    }

    /// The message with the headers in this order and spelling. Only whole lines move; what is not
    /// named keeps its order behind them.
    pub fn dress(&self, message: &Bytes) -> Bytes {
        if self.order.is_empty() {
            return message.clone();
        }
        let Some(end) = message.windows(4).position(|four| four == b"\r\n\r\n") else {
            return message.clone();
        };
        let Ok(head) = std::str::from_utf8(&message[..end]) else { return message.clone() };
        let mut lines = head.split("\r\n");
        let start = lines.next().unwrap_or_default();
        let mut headers: Vec<(usize, &str, &str)> = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let place = self.order.iter().position(|known| is_same(known, name));
            let spelt = place.map_or(name, |place| self.order[place].as_str());
            headers.push((place.unwrap_or(usize::MAX), spelt, value));
        }
        // Lines of one name stay in their order.
        headers.sort_by_key(|(place, ..)| *place);
        let mut dressed = String::with_capacity(message.len() + 64);
        dressed.push_str(start);
        for (_, name, value) in headers {
            dressed.push_str("\r\n");
            dressed.push_str(name);
            dressed.push(':');
            dressed.push_str(value);
        }
        let mut dressed = dressed.into_bytes();
        dressed.extend_from_slice(&message[end..]);
        dressed.into()
    }
}

/// The same header, in full or compact.
fn is_same(one: &str, other: &str) -> bool {
    let full = |name: &str| {
        let compact = COMPACT.iter().find(|(compact, _)| compact.eq_ignore_ascii_case(name));
        compact.map_or_else(|| name.to_ascii_lowercase(), |(_, full)| full.to_ascii_lowercase())
    };
    full(one) == full(other)
}

fn pair(text: &str) -> Result<AlgorithmPair, String> {
    let wrong = || format!("{text:?} is no ALG/EALG");
    let (alg, ealg) = text.split_once('/').ok_or_else(wrong)?;
    let alg = Integrity::from_name(alg).ok_or_else(wrong)?;
    let ealg = Encryption::from_name(ealg).ok_or_else(wrong)?;
    let pair = AlgorithmPair { alg, ealg };
    if pair.is_usable() { Ok(pair) } else { Err(wrong()) }
}

fn transport<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Transport>, D::Error> {
    match String::deserialize(from)?.as_str() {
        "udp" => Ok(Some(Transport::Udp)),
        "tcp" => Ok(Some(Transport::Tcp)),
        _ => Err(serde::de::Error::custom("is neither udp nor tcp")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_come_along_are_right() {
        for text in EMBEDDED {
            let profile = Profile::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(Profile::embedded(&profile.name), Some(profile));
        }
        assert_eq!(Profile::names().len(), EMBEDDED.len());
        assert_eq!(Profile::embedded("nokia"), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, cause) in [
            ("name = \"x\"\ncolour = \"red\"", "colour"),
            ("name = \"x\"\nalgorithms = [\"null/aes-cbc\"]", "null/aes-cbc"),
            ("name = \"x\"\ntransport = \"sctp\"", "neither udp nor tcp"),
            ("name = \"x\"\nimei = \"35\"", "8 digits"),
            ("name = \"x\"\nuser_agent = \"a\\r\\nb\"", "more than one line"),
        ] {
            let error = Profile::parse(text).unwrap_err();
            assert!(error.contains(cause), "{text}: {error}");
        }
    }

    /// RFC 3261 §7.3.1, §7.3.3: order and spelling change, values do not.
    #[test]
    fn headers_are_ordered_and_spelt() {
        let text = "name = \"x\"\norder = [\"f\", \"CSeq\", \"v\", \"l\"]";
        let profile = Profile::parse(text).unwrap();
        let message = Bytes::from_static(
            b"REGISTER sip:a SIP/2.0\r\nVia: 1\r\nVia: 2\r\nTo: t\r\nFrom: f\r\nCSeq: 1 REGISTER\r\n\
              Content-Length: 2\r\n\r\nxy",
        );
        let expected = "REGISTER sip:a SIP/2.0\r\nf: f\r\nCSeq: 1 REGISTER\r\nv: 1\r\nv: 2\r\nl: 2\r\n\
            To: t\r\n\r\nxy";
        assert_eq!(profile.dress(&message), expected.as_bytes());
    }
}
