//! AKA digest (RFC 3310, RFC 7616): the response computed from RES as raw octets.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use serde::Deserialize;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::sip::auth::DigestParameters;

/// Peers differ in how they pad; what they meant is never in doubt.
const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// RAND, AUTN and server data of a nonce (RFC 3310 §3.2). `None` when it does not decode to at
/// least 32 octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AkaNonce {
    pub rand: [u8; 16],
    pub autn: [u8; 16],
    pub server_data: Vec<u8>,
}

impl AkaNonce {
    /// RFC 3310 §3.2
    pub fn decode(nonce: &str) -> Option<AkaNonce> {
        let octets = TOLERANT.decode(nonce).ok()?;
        let (rand, rest) = octets.split_first_chunk::<16>()?;
        let (autn, server_data) = rest.split_first_chunk::<16>()?;
        Some(AkaNonce { rand: *rand, autn: *autn, server_data: server_data.to_vec() })
    }

    pub fn encode(rand: &[u8; 16], autn: &[u8; 16]) -> String {
        let mut octets = [0; 32];
        octets[..16].copy_from_slice(rand);
        octets[16..].copy_from_slice(autn);
        STANDARD.encode(octets)
    }
}

/// The `response` for these credentials (username, realm, nonce, uri, and qop, nc, cnonce when qop
/// is there: RFC 7616 §3.4.1, RFC 2069 form without qop), 32 lower-case hex digits. `None` when a
/// needed parameter is missing or qop is neither auth nor auth-int.
///
/// `password` is RES as raw octets (RFC 3310 §3.3), empty together with `auts` (§3.4). With an
/// empty `method` this is the `rspauth` of Authentication-Info (RFC 7616 §3.5), `body` then being
/// that of the response.
pub fn response(
    credentials: &DigestParameters,
    password: &[u8],
    method: &str,
    body: &[u8],
) -> Option<String> {
    let digits = response_digits(credentials, password, method, body)?;
    Some(digits.text().to_owned())
}

/// Compares in constant time, hex without case.
pub fn verify(credentials: &DigestParameters, password: &[u8], method: &str, body: &[u8]) -> bool {
    let Some(given) = credentials.get("response") else { return false };
    let Some(expected) = response_digits(credentials, password, method, body) else { return false };
    expected.as_bytes().ct_eq(given.to_ascii_lowercase().as_bytes()).into()
}

/// Digest algorithms of SIP (RFC 7616 §6.1, RFC 8760) and of AKA (RFC 3310 §3.1, RFC 4169 §3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum DigestAlgorithm {
    Md5,
    Sha256,
    #[default]
    AkaV1Md5,
    AkaV2Md5,
    AkaV2Sha256,
}

impl DigestAlgorithm {
    const ALL: [DigestAlgorithm; 5] = [
        DigestAlgorithm::Md5,
        DigestAlgorithm::Sha256,
        DigestAlgorithm::AkaV1Md5,
        DigestAlgorithm::AkaV2Md5,
        DigestAlgorithm::AkaV2Sha256,
    ];

    /// As it stands in `algorithm`.
    pub const fn name(self) -> &'static str {
        match self {
            DigestAlgorithm::Md5 => "MD5",
            DigestAlgorithm::Sha256 => "SHA-256",
            DigestAlgorithm::AkaV1Md5 => "AKAv1-MD5",
            DigestAlgorithm::AkaV2Md5 => "AKAv2-MD5",
            DigestAlgorithm::AkaV2Sha256 => "AKAv2-SHA-256",
        }
    }

    /// Compared without case.
    pub fn named(name: &str) -> Option<DigestAlgorithm> {
        DigestAlgorithm::ALL.into_iter().find(|one| one.name().eq_ignore_ascii_case(name))
    }

    pub const fn is_aka(self) -> bool {
        !matches!(self, DigestAlgorithm::Md5 | DigestAlgorithm::Sha256)
    }

    /// RFC 4169 §3: the password is more than RES.
    pub const fn is_aka_v2(self) -> bool {
        matches!(self, DigestAlgorithm::AkaV2Md5 | DigestAlgorithm::AkaV2Sha256)
    }

    /// Of the parts with colons between them, as lower-case hexadecimal digits.
    fn hash(self, parts: &[&[u8]]) -> Hex {
        match self {
            DigestAlgorithm::Md5 | DigestAlgorithm::AkaV1Md5 | DigestAlgorithm::AkaV2Md5 => {
                hash_hex::<Md5>(parts)
            }
            DigestAlgorithm::Sha256 | DigestAlgorithm::AkaV2Sha256 => hash_hex::<Sha256>(parts),
        }
    }

    /// HA1, which stands for the password wherever a password is not to be kept
    /// (RFC 7616 §3.4.2).
    pub fn ha1(self, username: &str, realm: &str, password: &[u8]) -> Secret<String> {
        let ha1 = self.hash(&[username.as_bytes(), realm.as_bytes(), password]);
        Secret::new(ha1.text().to_owned())
    }

    /// What AKA gives as password: RES itself (RFC 3310 §3.3), or in version 2
    /// base64(HMAC(RES ‖ IK ‖ CK, "http-digest-akav2-password")) (RFC 4169 §3).
    pub fn aka_password(self, res: &[u8], ik: &[u8; 16], ck: &[u8; 16]) -> Secret<Vec<u8>> {
        if !self.is_aka_v2() {
            return Secret::new(res.to_vec());
        }
        let mut key = Zeroizing::new(Vec::with_capacity(res.len() + 32));
        key.extend_from_slice(res);
        key.extend_from_slice(ik);
        key.extend_from_slice(ck);
        const LABEL: &[u8] = b"http-digest-akav2-password";
        let code = match self {
            DigestAlgorithm::AkaV2Sha256 => hmac::<Hmac<Sha256>>(&key, LABEL),
            _ => hmac::<Hmac<Md5>>(&key, LABEL),
        };
        Secret::new(STANDARD.encode(&*code).into_bytes())
    }

    /// The `response` for these credentials, as [`response`], with HA1 for the password.
    pub fn response(
        self,
        credentials: &DigestParameters,
        ha1: &Secret<String>,
        method: &str,
        body: &[u8],
    ) -> Option<String> {
        self.response_digits(credentials, ha1.expose().as_bytes(), method, body)
            .map(|digits| digits.text().to_owned())
    }

    /// Compares in constant time, hex without case.
    pub fn verify(
        self,
        credentials: &DigestParameters,
        ha1: &Secret<String>,
        method: &str,
        body: &[u8],
    ) -> bool {
        let Some(given) = credentials.get("response") else { return false };
        let ha1 = ha1.expose().as_bytes();
        let Some(expected) = self.response_digits(credentials, ha1, method, body) else {
            return false;
        };
        expected.as_bytes().ct_eq(given.to_ascii_lowercase().as_bytes()).into()
    }

    fn response_digits(
        self,
        credentials: &DigestParameters,
        ha1: &[u8],
        method: &str,
        body: &[u8],
    ) -> Option<Hex> {
        let nonce = credentials.get("nonce")?.as_bytes();
        let uri = credentials.get("uri")?.as_bytes();
        let Some(qop) = credentials.get("qop") else {
            let ha2 = self.hash(&[method.as_bytes(), uri]);
            return Some(self.hash(&[ha1, nonce, ha2.as_bytes()]));
        };
        let ha2 = if qop.eq_ignore_ascii_case("auth") {
            self.hash(&[method.as_bytes(), uri])
        } else if qop.eq_ignore_ascii_case("auth-int") {
            self.hash(&[method.as_bytes(), uri, self.hash(&[body]).as_bytes()])
        } else {
            return None;
        };
        let nc = credentials.get("nc")?.as_bytes();
        let cnonce = credentials.get("cnonce")?.as_bytes();
        Some(self.hash(&[ha1, nonce, nc, cnonce, qop.as_bytes(), ha2.as_bytes()]))
    }
}

impl TryFrom<String> for DigestAlgorithm {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        DigestAlgorithm::named(&name).ok_or_else(|| {
            let known = DigestAlgorithm::ALL.map(DigestAlgorithm::name).join(", ");
            format!("\"{name}\" is none of {known}")
        })
    }
}

fn response_digits(
    credentials: &DigestParameters,
    password: &[u8],
    method: &str,
    body: &[u8],
) -> Option<Hex> {
    let username = credentials.get("username")?.as_bytes();
    let realm = credentials.get("realm")?.as_bytes();
    let algorithm = DigestAlgorithm::AkaV1Md5;
    let ha1 = algorithm.hash(&[username, realm, password]);
    algorithm.response_digits(credentials, ha1.as_bytes(), method, body)
}

/// Hexadecimal digits of a hash.
struct Hex {
    digits: [u8; 64],
    length: usize,
}

impl Hex {
    fn as_bytes(&self) -> &[u8] {
        &self.digits[..self.length]
    }

    fn text(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

fn hash_hex<H: Digest>(parts: &[&[u8]]) -> Hex {
    let mut hash = H::new();
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            hash.update(b":");
        }
        hash.update(part);
    }
    let octets = hash.finalize();
    let mut hex = Hex { digits: [0; 64], length: (2 * octets.len()).min(64) };
    for (pair, octet) in hex.digits.chunks_exact_mut(2).zip(&octets[..]) {
        pair[0] = b"0123456789abcdef"[usize::from(octet >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(octet & 15)];
    }
    hex
}

fn hmac<M: Mac + KeyInit>(key: &[u8], label: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(label);
    Zeroizing::new(mac.finalize().into_bytes().to_vec())
}

/// AUTS of an `auts` parameter: base64 of 14 octets (RFC 3310 §3.4).
pub fn decode_auts(text: &str) -> Option<[u8; 14]> {
    TOLERANT.decode(text).ok()?.try_into().ok()
}

pub fn encode_auts(auts: &[u8; 14]) -> String {
    STANDARD.encode(auts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M=";
    const RES: [u8; 8] = [0xA5, 0x42, 0x11, 0xD5, 0xE3, 0xBA, 0x50, 0xBF];

    fn credentials(username: &str, domain: &str, qop: Option<&str>) -> DigestParameters {
        let mut parameters = vec![
            ("username".into(), username.into()),
            ("realm".into(), domain.into()),
            ("nonce".into(), NONCE.into()),
            ("uri".into(), format!("sip:{domain}")),
        ];
        if let Some(qop) = qop {
            parameters.push(("qop".into(), qop.into()));
            parameters.push(("nc".into(), "00000001".into()));
            parameters.push(("cnonce".into(), "0a4f113b".into()));
        }
        DigestParameters { parameters }
    }

    fn case_a(qop: Option<&str>) -> DigestParameters {
        credentials("name.private@hims.net", "hims.net", qop)
    }

    fn case_b(qop: Option<&str>) -> DigestParameters {
        let domain = "ims.mnc001.mcc001.3gppnetwork.org";
        credentials(&format!("001010123456789@{domain}"), domain, qop)
    }

    /// RFC 3310 §3.3: S-84, the response is made of RES and is not RES.
    #[test]
    fn response_is_computed_from_raw_res() {
        let of = |credentials: &DigestParameters, password: &[u8], method: &str| {
            response(credentials, password, method, b"").unwrap()
        };
        let auth = Some("auth");
        assert_eq!(of(&case_a(None), &RES, "REGISTER"), "48f8e42850c542326d78277d14b7bfa4");
        assert_eq!(of(&case_a(auth), &RES, "REGISTER"), "418d1039b6be114ea40bc36db13f0781");
        assert_eq!(of(&case_a(auth), &RES, ""), "0314c2708f29627f068d0917bdb11c7f");
        assert_eq!(of(&case_a(auth), b"", "REGISTER"), "55b70840656897802e75d4e8acf4bf75");
        assert_eq!(of(&case_b(None), &RES, "REGISTER"), "486f3ee163ac4a424493c7ee626d3794");
        assert_eq!(of(&case_b(auth), &RES, "REGISTER"), "cbefdcc54c81aa658d67da2fba29638c");
        assert_eq!(
            of(&case_b(Some("auth-int")), &RES, "REGISTER"),
            "17755ff7bbf167d364a531859619f40c"
        );
        assert_eq!(of(&case_b(auth), &RES, ""), "5abd9db7ea133e69c22e31fd1dd29f65");
        assert_eq!(of(&case_b(auth), b"", "REGISTER"), "3414b268edd18acb8f4a8901537ea4df");
        assert_eq!(of(&case_b(None), b"", "REGISTER"), "180933893eb8c4519e87ae2c9d5a1955");
    }

    /// RFC 7616 §3.9.1 and the example of RFC 2617.
    #[test]
    fn published_plain_digests() {
        let mut credentials = DigestParameters {
            parameters: [
                ("username", "Mufasa"),
                ("realm", "testrealm@host.com"),
                ("nonce", "dcd98b7102dd2f0e8b11d0f600bfb0c093"),
                ("uri", "/dir/index.html"),
                ("qop", "auth"),
                ("nc", "00000001"),
                ("cnonce", "0a4f113b"),
            ]
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .to_vec(),
        };
        let digest = response(&credentials, b"Circle Of Life", "GET", b"");
        assert_eq!(digest.as_deref(), Some("6629fae49393a05397450978507c4ef1"));
        credentials.set("realm", "http-auth@example.org");
        credentials.set("nonce", "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v");
        credentials.set("cnonce", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ");
        let digest = response(&credentials, b"Circle of Life", "GET", b"");
        assert_eq!(digest.as_deref(), Some("8ca523f5e9506fed4657c9700eebdbec"));
    }

    /// RFC 3310 §3.3
    #[test]
    fn verify_accepts_one_value_only() {
        let mut given = case_b(Some("auth"));
        assert!(!verify(&given, &RES, "REGISTER", b""), "no response");
        given.set("response", "cbefdcc54c81aa658d67da2fba29638c");
        assert!(verify(&given, &RES, "REGISTER", b""));
        given.set("response", "CBEFDCC54C81AA658D67DA2FBA29638C");
        assert!(verify(&given, &RES, "REGISTER", b""));
        for wrong in [
            "ede28f34921fc55ae60dc2e7f997429e", // RES taken as hex text
            "00000000000000000000000000000000",
            "cbefdcc54c81aa658d67da2fba29638",
            "",
            "a54211d5e3ba50bf",
        ] {
            given.set("response", wrong);
            assert!(!verify(&given, &RES, "REGISTER", b""), "{wrong}");
        }
    }

    /// RFC 7616 §3.4: what cannot be computed is no response.
    #[test]
    fn missing_parameters_give_no_response() {
        for name in ["username", "realm", "nonce", "uri", "nc", "cnonce"] {
            let mut given = case_b(Some("auth"));
            given.parameters.retain(|(present, _)| present != name);
            assert_eq!(response(&given, &RES, "REGISTER", b""), None, "{name}");
        }
        assert_eq!(response(&case_b(Some("auth-conf")), &RES, "REGISTER", b""), None);
    }

    /// RFC 3310 §3.2: S-60, the nonce of the test equipment's challenge.
    #[test]
    fn nonce_round_trip_and_server_data() {
        let nonce = AkaNonce::decode(NONCE).unwrap();
        assert_eq!(hex::encode(nonce.rand), "23553cbe9637a89d218ae64dae47bf35");
        assert_eq!(hex::encode(nonce.autn), "55f328b43577b9b94a9ffac354dfafb3");
        assert!(nonce.server_data.is_empty());
        assert_eq!(AkaNonce::encode(&nonce.rand, &nonce.autn), NONCE);
        assert_eq!(AkaNonce::decode(NONCE.trim_end_matches('=')), Some(nonce));
        let long = STANDARD.encode([7u8; 35]);
        assert_eq!(AkaNonce::decode(&long).unwrap().server_data, [7; 3]);
        for wrong in ["", "AAAA", "not base64 at all!", &STANDARD.encode([7u8; 31])] {
            assert_eq!(AkaNonce::decode(wrong), None, "{wrong}");
        }
        // RFC 3310's own example is not a whole number of base64 groups: no panic.
        let _ = AkaNonce::decode("MzQ0a2xrbGtmbGtsZm9wb2tsc2tqaHJzZXNy9uQyMzMzMzQK=");
    }

    /// RFC 3310 §3.1, RFC 4169 §3, RFC 7616 §3.4.2, §3.9.1, §6.1: aka.md 6.1, computed with IK and CK of test set 1.
    #[test]
    fn other_algorithms() {
        let octets = |text: &str| -> [u8; 16] { hex::decode(text).unwrap().try_into().unwrap() };
        let ck = octets("b40ba9a3c58b2a05bbf0d987b21bf8cb");
        let ik = octets("f769bcd751044604127672711c6d3441");
        let given = case_b(Some("auth"));
        let (username, realm) = (given.get("username").unwrap(), given.get("realm").unwrap());
        for (algorithm, password, expected) in [
            (
                DigestAlgorithm::AkaV2Md5,
                "shzt3q8CWaZnCAWqs3WmEQ==",
                "8bcf53b701e7803582f4167efb760cd0",
            ),
            (
                DigestAlgorithm::AkaV2Sha256,
                "wpC+5dv/7kC35JEI2hluv8XcBd+vf8XcfedJBan1buk=",
                "7743037b1193cc9a360b4b31c0f324292b1799083a8c2d115e8fdff7883bec6b",
            ),
        ] {
            let derived = algorithm.aka_password(&RES, &ik, &ck);
            assert_eq!(derived.expose(), password.as_bytes());
            let ha1 = algorithm.ha1(username, realm, derived.expose());
            let response = algorithm.response(&given, &ha1, "REGISTER", b"");
            assert_eq!(response.as_deref(), Some(expected));
            assert_eq!(DigestAlgorithm::named(&algorithm.name().to_lowercase()), Some(algorithm));
        }
        let credentials = DigestParameters {
            parameters: [
                ("username", "Mufasa"),
                ("realm", "http-auth@example.org"),
                ("nonce", "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"),
                ("uri", "/dir/index.html"),
                ("qop", "auth"),
                ("nc", "00000001"),
                ("cnonce", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"),
                ("response", "753927FA0E85D155564E2E272A28D1802CA10DAF4496794697CF8DB5856CB6C1"),
            ]
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .to_vec(),
        };
        let sha = DigestAlgorithm::Sha256;
        let ha1 = sha.ha1("Mufasa", "http-auth@example.org", b"Circle of Life");
        assert!(sha.verify(&credentials, &ha1, "GET", b""));
        assert!(!DigestAlgorithm::Md5.verify(&credentials, &ha1, "GET", b""));
        assert_eq!(DigestAlgorithm::named("AKAv3-MD5"), None);
    }

    /// RFC 3310 §3.4
    #[test]
    fn auts_is_fourteen_octets() {
        let auts = decode_auts("RR6L7KR6jCsaYgbYbpY=").unwrap();
        assert_eq!(hex::encode(auts), "451e8beca47a8c2b1a6206d86e96");
        assert_eq!(encode_auts(&auts), "RR6L7KR6jCsaYgbYbpY=");
        assert_eq!(decode_auts("451e8beca47a8c2b1a6206d86e96"), None, "hex is not base64 of 14");
        assert_eq!(decode_auts(""), None);
    }
}
