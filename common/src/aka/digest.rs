//! AKA digest (RFC 3310, RFC 7616): the response computed from RES as raw octets.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

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
    Some(digits.iter().map(|digit| *digit as char).collect())
}

/// Compares in constant time, hex without case.
pub fn verify(credentials: &DigestParameters, password: &[u8], method: &str, body: &[u8]) -> bool {
    let Some(given) = credentials.get("response") else { return false };
    let Some(expected) = response_digits(credentials, password, method, body) else { return false };
    expected.as_slice().ct_eq(given.to_ascii_lowercase().as_bytes()).into()
}

fn response_digits(
    credentials: &DigestParameters,
    password: &[u8],
    method: &str,
    body: &[u8],
) -> Option<[u8; 32]> {
    let username = credentials.get("username")?.as_bytes();
    let realm = credentials.get("realm")?.as_bytes();
    let nonce = credentials.get("nonce")?.as_bytes();
    let uri = credentials.get("uri")?.as_bytes();
    let ha1 = md5_hex(&[username, realm, password]);
    let Some(qop) = credentials.get("qop") else {
        let ha2 = md5_hex(&[method.as_bytes(), uri]);
        return Some(md5_hex(&[&ha1, nonce, &ha2]));
    };
    let ha2 = if qop.eq_ignore_ascii_case("auth") {
        md5_hex(&[method.as_bytes(), uri])
    } else if qop.eq_ignore_ascii_case("auth-int") {
        md5_hex(&[method.as_bytes(), uri, &md5_hex(&[body])])
    } else {
        return None;
    };
    let nc = credentials.get("nc")?.as_bytes();
    let cnonce = credentials.get("cnonce")?.as_bytes();
    Some(md5_hex(&[&ha1, nonce, nc, cnonce, qop.as_bytes(), &ha2]))
}

/// MD5 of the parts with colons between them, as lower-case hex digits.
fn md5_hex(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Md5::new();
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            hash.update(b":");
        }
        hash.update(part);
    }
    let octets: [u8; 16] = hash.finalize().into();
    std::array::from_fn(|i| {
        let nibble = if i % 2 == 0 { octets[i / 2] >> 4 } else { octets[i / 2] & 15 };
        b"0123456789abcdef"[usize::from(nibble)]
    })
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
