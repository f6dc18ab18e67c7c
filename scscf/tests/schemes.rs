//! Other algorithms and schemes than AKAv1-MD5, and re-authentication on demand (RFC 4169, RFC 8760,
//! TS 33.203 Annex N and T, TS 24.229 §5.4.1.2.1A, §5.4.1.2.1E, §5.4.1.6).

mod dialogue;

use std::time::Duration;

use common::aka::digest::DigestAlgorithm::{self, AkaV1Md5, AkaV2Md5, AkaV2Sha256, Md5, Sha256};
use common::aka::vector::Vector;
use common::cx::mar::DigestAuthenticate;
use common::cx::sar::ServerAssignmentType::{AuthenticationFailure, ReRegistration, Registration};
use common::cx::{self, AuthDataItem, Mar, Outcome};
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::message::Response;
use dialogue::*;
use scscf::config::Config;

const PASSWORD: &[u8] = b"open sesame";

fn challenges(response: &Response) -> Vec<DigestParameters> {
    let lines = response.headers().lines(Name::WwwAuthenticate);
    lines.map(|line| DigestParameters::parse(line).unwrap()).collect()
}

/// Answers one of the challenges with a password.
fn respond(
    challenge: &DigestParameters,
    algorithm: DigestAlgorithm,
    password: &[u8],
    count: u32,
    protected: &str,
) -> DigestParameters {
    let mut credentials = DigestParameters::default();
    for name in ["realm", "nonce", "algorithm"] {
        credentials.set(name, challenge.get(name).unwrap());
    }
    credentials.set("username", IMPI);
    credentials.set("uri", "sip:hims.net");
    credentials.set("qop", "auth");
    credentials.set("nc", &format!("{count:08x}"));
    credentials.set("cnonce", "0a4f113b");
    let ha1 = algorithm.ha1(IMPI, challenge.get("realm").unwrap(), password);
    let response = algorithm.response(&credentials, &ha1, "REGISTER", b"").unwrap();
    credentials.set("response", &response);
    credentials.set("integrity-protected", protected);
    credentials
}

fn aka(challenge: &DigestParameters, algorithm: DigestAlgorithm, vector: &Vector) -> String {
    let (ik, ck) = (vector.ik.expose(), vector.ck.expose());
    let password = algorithm.aka_password(vector.xres.expose(), ik, ck);
    with_credentials(&respond(challenge, algorithm, password.expose(), 1, "yes"), 26, &[])
}

/// RFC 8760 §2.4: one line for each algorithm, the preferred one first; the keys once. Either may be
/// answered.
#[test]
fn offers_akav2() {
    let three = [AkaV2Sha256, AkaV2Md5, AkaV1Md5];
    for (place, algorithm) in three.into_iter().enumerate() {
        let mut config = config();
        config.registration.algorithms = three.to_vec();
        let mut dialogue = Dialogue::new(config);
        dialogue.receives(&register(&[]));
        let (mar, vector) = dialogue.asks_mar();
        assert_eq!(mar.scheme, "Digest-AKAv1-MD5", "the vector is the same");
        let offered = challenges(&dialogue.replies_with(401));
        let names: Vec<_> = offered.iter().map(|line| line.get("algorithm").unwrap()).collect();
        assert_eq!(names, ["AKAv2-SHA-256", "AKAv2-MD5", "AKAv1-MD5"]);
        assert!(offered[0].get("ck").is_some() && offered[0].get("ik").is_some());
        for line in &offered[1..] {
            assert!(line.get("ck").is_none() && line.get("ik").is_none());
            assert_eq!(line.get("nonce"), offered[0].get("nonce"));
        }
        dialogue.receives(&aka(&offered[place], algorithm, &vector));
        dialogue.asks_sar(Registration, saa(&profile(IMPI)));
        dialogue.replies_with(200);
    }
}

/// RFC 4169 §3: AKAv2-MD5 alone; the password of AKAv1-MD5 with that name on it is a wrong one.
#[test]
fn akav2_is_not_akav1() {
    for (computed_as, is_right) in [(AkaV2Md5, true), (AkaV1Md5, false)] {
        let mut config = config();
        config.registration.algorithms = vec![AkaV2Md5];
        let mut dialogue = Dialogue::new(config);
        let (challenge, vector) = dialogue.challenged(&register(&[]));
        assert_eq!(challenge.get("algorithm"), Some("AKAv2-MD5"));
        dialogue.receives(&aka(&challenge, computed_as, &vector));
        if is_right {
            dialogue.asks_sar(Registration, saa(&profile(IMPI)));
            dialogue.replies_with(200);
        } else {
            dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
            dialogue.replies_with(403);
        }
    }
}

/// RFC 7616 §3.4.2: with auth-int the body counts, here the empty one; what was made for another body is wrong.
#[test]
fn protects_the_body() {
    for (body, is_right) in [(&b""[..], true), (b"x", false)] {
        let mut config = config();
        config.registration.qop = "auth-int".to_owned();
        let mut dialogue = Dialogue::new(config);
        let (challenge, vector) = dialogue.challenged(&register(&[]));
        assert_eq!(challenge.get("qop"), Some("auth-int"));
        let mut credentials = credentials(IMPI, &challenge, &vector);
        credentials.set("qop", "auth-int");
        let xres = vector.xres.expose();
        let response = common::aka::digest::response(&credentials, xres, "REGISTER", body);
        credentials.set("response", &response.unwrap());
        dialogue.receives(&with_credentials(&credentials, 26, &[]));
        if is_right {
            dialogue.asks_sar(Registration, saa(&profile(IMPI)));
            dialogue.replies_with(200);
        } else {
            dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
            dialogue.replies_with(403);
        }
    }
}

/// RFC 4169 §3: what was not offered is not accepted, however right it is.
#[test]
fn takes_only_what_was_offered() {
    let mut dialogue = Dialogue::new(config());
    let (mut challenge, vector) = dialogue.challenged(&register(&[]));
    challenge.set("algorithm", "AKAv2-SHA-256");
    dialogue.receives(&aka(&challenge, AkaV2Sha256, &vector));
    dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(403);
}

fn with_digest() -> Config {
    let mut config = config();
    config.registration.digest = true;
    config
}

fn digest_item(algorithm: DigestAlgorithm) -> AuthDataItem {
    AuthDataItem {
        scheme: "SIP Digest".to_owned(),
        digest: Some(DigestAuthenticate {
            realm: "hims.net".to_owned(),
            algorithm: Some(algorithm.name().to_owned()),
            qop: "auth".to_owned(),
            ha1: algorithm.ha1(IMPI, "hims.net", PASSWORD),
        }),
        ..AuthDataItem::default()
    }
}

impl Dialogue {
    /// Takes the MAR for SIP Digest and gives the HA1s.
    fn asks_digest(&mut self) -> Mar {
        let received = self.asks();
        let cx::Request::Mar(mar) = received.request.clone() else { panic!("{received:?}") };
        assert_eq!(mar.scheme, "SIP Digest");
        let items = vec![digest_item(Md5), digest_item(Sha256)];
        self.answers(received, maa(&mar, Outcome::SUCCESS, items));
        mar
    }

    /// A first REGISTER of a user whom the HSS has with a password.
    fn challenged_by_digest(&mut self) -> Vec<DigestParameters> {
        self.receives(&register(&[]));
        self.refuses_mar(Outcome::AUTH_SCHEME_NOT_SUPPORTED);
        let mar = self.asks_digest();
        assert_eq!(mar.sip_number_auth_items, 2);
        challenges(&self.replies_with(401))
    }

    fn registered_by_digest(&mut self) -> DigestParameters {
        let offered = self.challenged_by_digest();
        self.receives(&with_credentials(&respond(&offered[0], Sha256, PASSWORD, 1, "no"), 26, &[]));
        self.asks_sar(Registration, saa(&profile(IMPI)));
        self.replies_with(200);
        offered[0].clone()
    }
}

/// TS 24.229 §5.4.1.2.1A: the HSS has a password and no card: SHA-256 and MD5 are offered, no keys; the
/// answer needs no security association, and the 200 proves that the network knows the password.
#[test]
fn registers_by_digest() {
    for (place, algorithm) in [(0, Sha256), (1, Md5)] {
        let mut dialogue = Dialogue::new(with_digest());
        let offered = dialogue.challenged_by_digest();
        assert_eq!(offered.len(), 2);
        let line = &offered[place];
        assert_eq!(line.get("algorithm"), Some(algorithm.name()));
        assert!(line.get("ck").is_none() && line.get("stale").is_none());
        let credentials = respond(line, algorithm, PASSWORD, 1, "no");
        dialogue.receives(&with_credentials(&credentials, 26, &[]));
        dialogue.asks_sar(Registration, saa(&profile(IMPI)));
        let response = dialogue.replies_with(200);
        let info = response.headers().get(Name::AuthenticationInfo).unwrap();
        let ha1 = algorithm.ha1(IMPI, "hims.net", PASSWORD);
        let rspauth = algorithm.response(&credentials, &ha1, "", b"").unwrap();
        assert!(info.contains(&format!("rspauth=\"{rspauth}\"")), "{info}");
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.1.2.1A: credentials that name their algorithm, or none at all, save a question.
#[test]
fn asks_for_the_likely_scheme_first() {
    let with_algorithm =
        register(&[("nonce=\"\",response=\"\"", "algorithm=MD5,nonce=\"\",response=\"\"")]);
    let mut dialogue = Dialogue::new(with_digest());
    dialogue.receives(&with_algorithm);
    dialogue.asks_digest();
    dialogue.replies_with(401);
    let without: String = register(&[])
        .lines()
        .filter(|line| !line.starts_with("Authorization"))
        .flat_map(|line| [line, "\r\n"])
        .collect();
    let mut dialogue = Dialogue::new(with_digest());
    dialogue.receives(&without);
    let mar = dialogue.asks_digest();
    assert_eq!(mar.user_name, "name@hims.net", "derived from To");
    dialogue.replies_with(401);
}

/// RFC 7616 §3.4: the nonce is good again with a higher nc, without a question to the HSS; a count that
/// was seen before is somebody else's copy, and the UE is told that only the nonce is stale.
#[test]
fn counts_uses_of_a_nonce() {
    let mut dialogue = Dialogue::new(with_digest());
    let line = dialogue.registered_by_digest();
    let again =
        |count, cseq| with_credentials(&respond(&line, Sha256, PASSWORD, count, "no"), cseq, &[]);
    dialogue.receives(&again(5, 27));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    let response = dialogue.replies_with(200);
    assert!(response.headers().get(Name::AuthenticationInfo).unwrap().contains("nc=00000005"));
    for count in [5, 1] {
        dialogue.receives(&again(count, 28));
        dialogue.asks_digest();
        let offered = challenges(&dialogue.replies_with(401));
        assert_eq!(offered[0].get("stale"), Some("true"));
        assert_ne!(offered[0].get("nonce"), line.get("nonce"));
    }
}

/// RFC 7616 §3.3: a right response for a nonce that is too old: stale; a wrong one is not.
#[test]
fn nonces_grow_old() {
    let mut dialogue = Dialogue::new(with_digest());
    let line = dialogue.registered_by_digest();
    dialogue.wait(Duration::from_secs(3_601));
    for (password, stale) in [(PASSWORD, Some("true")), (&b"guess"[..], None)] {
        dialogue.receives(&with_credentials(&respond(&line, Sha256, password, 2, "no"), 28, &[]));
        dialogue.asks_digest();
        let offered = challenges(&dialogue.replies_with(401));
        assert_eq!(offered[0].get("stale"), stale);
    }
}

/// RFC 7616 §3.3: nonces do not survive a restart, registrations do: who uses a nonce from before is told that only
/// the nonce is stale, and goes on with the new one without asking its user.
#[test]
fn nonces_from_before_a_restart() {
    for password in [PASSWORD, b"guess"] {
        let mut dialogue = Dialogue::new(with_digest());
        let line = dialogue.registered_by_digest();
        dialogue.restart();
        dialogue.receives(&with_credentials(&respond(&line, Sha256, password, 2, "no"), 27, &[]));
        dialogue.asks_digest();
        let offered = challenges(&dialogue.replies_with(401));
        assert_ne!(offered[0].get("nonce"), line.get("nonce"));
        let is_stale = (password == PASSWORD).then_some("true");
        assert!(offered.iter().all(|line| line.get("stale") == is_stale));
        assert_eq!(dialogue.registrations(), 1);
        let answer = respond(&offered[0], Sha256, PASSWORD, 1, "no");
        dialogue.receives(&with_credentials(&answer, 28, &[]));
        dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
        dialogue.replies_with(200);
        dialogue.rests();
    }
    // The challenge itself is lost: the same.
    let mut dialogue = Dialogue::new(with_digest());
    let offered = dialogue.challenged_by_digest();
    dialogue.restart();
    dialogue.receives(&with_credentials(&respond(&offered[1], Md5, PASSWORD, 1, "no"), 26, &[]));
    dialogue.asks_digest();
    assert_eq!(challenges(&dialogue.replies_with(401))[1].get("stale"), Some("true"));
}

/// TS 24.229 §5.4.1.2.3: a wrong password; and one that leaves out qop, which could be played again.
#[test]
fn refuses_a_wrong_password() {
    for is_without_qop in [false, true] {
        let mut dialogue = Dialogue::new(with_digest());
        let offered = dialogue.challenged_by_digest();
        let password = if is_without_qop { PASSWORD } else { b"guess" };
        let mut credentials = respond(&offered[0], Sha256, password, 1, "no");
        if is_without_qop {
            for name in ["qop", "nc", "cnonce"] {
                credentials.remove(name);
            }
            let ha1 = Sha256.ha1(IMPI, "hims.net", PASSWORD);
            let response = Sha256.response(&credentials, &ha1, "REGISTER", b"").unwrap();
            credentials.set("response", &response);
        }
        dialogue.receives(&with_credentials(&credentials, 26, &[]));
        dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
        dialogue.replies_with(403);
        assert_eq!(dialogue.registrations(), 0);
    }
}

/// Off by default: a user with a password is refused like any other whom AKA does not know.
#[test]
fn other_schemes_are_off() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&register(&[]));
    dialogue.refuses_mar(Outcome::AUTH_SCHEME_NOT_SUPPORTED);
    dialogue.replies_with(403);
    dialogue.rests();
    // And inside security associations there is nothing but AKA.
    let mut dialogue = Dialogue::new(with_digest());
    dialogue.registered();
    dialogue.receives(&register(&[
        ("CSeq: 25", "CSeq: 27"),
        ("\"no\"", "\"yes\""),
        ("sip:name@hims.net", "sip:work@hims.net"),
        ("nonce=\"\"", "algorithm=MD5,nonce=\"\""),
    ]));
    dialogue.refuses_mar(Outcome::AUTH_SCHEME_NOT_SUPPORTED);
    dialogue.replies_with(403);
}

/// TS 33.203 Annex N, Annex T: off by default, also for a REGISTER without Authorization: AKA is asked for, and an HSS
/// that gives something else, unasked, lets nobody in.
#[test]
fn other_schemes_are_off_without_credentials() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&anonymous(&[]));
    let (mar, _) = dialogue.asks_mar();
    assert_eq!(
        (mar.user_name.as_str(), mar.scheme.as_str()),
        ("name@hims.net", "Digest-AKAv1-MD5")
    );
    dialogue.replies_with(401);

    let early = AuthDataItem {
        scheme: "Early-IMS-Security".to_owned(),
        framed_address: Some(("10.133.202.46".parse().unwrap(), 32)),
        ..AuthDataItem::default()
    };
    for (items, status) in [(vec![early], 403), (vec![digest_item(Md5)], 500)] {
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(&anonymous(&[]));
        let received = dialogue.asks();
        let cx::Request::Mar(mar) = received.request.clone() else { panic!("{received:?}") };
        dialogue.answers(received, maa(&mar, Outcome::SUCCESS, items));
        if status == 403 {
            dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
        }
        dialogue.replies_with(status);
        assert_eq!(dialogue.registrations(), 0);
        dialogue.rests();
    }
}

fn anonymous(changes: &[(&str, &str)]) -> String {
    register(changes)
        .lines()
        .filter(|line| !line.starts_with("Authorization"))
        .flat_map(|line| [line, "\r\n"])
        .collect()
}

/// TS 33.203 Annex T, TS 24.229 §5.4.1.2.1E: from the address that the packet core gave: no challenge. From
/// another one, or from behind Vias that the UE wrote itself: 403, and the HSS is told.
#[test]
fn early_ims() {
    let more_vias = [(
        "Via: SIP/2.0/UDP 10.133",
        "Via: SIP/2.0/UDP 10.9.9.9;branch=z9hG4bKx\r\nVia: SIP/2.0/UDP 10.133",
    )];
    for (address, changes, is_right) in [
        ("10.133.202.46", &[][..], true),
        ("10.133.202.47", &[][..], false),
        ("10.133.202.46", &more_vias[..], false),
    ] {
        let mut config = config();
        config.registration.early_ims = true;
        let mut dialogue = Dialogue::new(config);
        dialogue.receives(&anonymous(changes));
        let received = dialogue.asks();
        let cx::Request::Mar(mar) = received.request.clone() else { panic!("{received:?}") };
        assert_eq!(mar.scheme, "Early-IMS-Security");
        let item = AuthDataItem {
            scheme: "Early-IMS-Security".to_owned(),
            framed_address: Some((address.parse().unwrap(), 32)),
            ..AuthDataItem::default()
        };
        dialogue.answers(received, maa(&mar, Outcome::SUCCESS, vec![item]));
        if is_right {
            dialogue.asks_sar(Registration, saa(&profile("name@hims.net")));
            dialogue.replies_with(200);
            assert_eq!(dialogue.registrations(), 1);
        } else {
            dialogue.asks_sar(AuthenticationFailure, empty_saa(Outcome::SUCCESS));
            dialogue.replies_with(403);
            assert_eq!(dialogue.registers("wrong_address"), 1);
        }
    }
}

/// TS 24.229 §5.4.1.6: the operator wants a user authenticated again: the next refresh is challenged, also
/// after a restart, and the one after it is not. Shortened, the registration ends soon.
#[test]
fn reauthenticates_on_demand() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.command(&["reauthenticate", IMPI, "300"]);
    assert!(dialogue.replied_text().contains("is challenged next time"));
    dialogue.restart();
    dialogue.command(&["show", IMPU]);
    assert!(dialogue.replied_text().contains("for 300 s"));
    let refresh =
        |cseq: u32| register(&[("CSeq: 25", &format!("CSeq: {cseq}")), ("\"no\"", "\"yes\"")]);
    dialogue.receives(&refresh(27));
    let (_, vector) = dialogue.asks_mar();
    let challenge = challenge(&dialogue.replies_with(401));
    dialogue.receives(&answered(&challenge, &vector, 28, &[]));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    assert!(contacts(&dialogue.replies_with(200))[0].contains("expires=600000"));
    dialogue.receives(&refresh(29));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    dialogue.command(&["reauthenticate", "nobody@hims.net"]);
    assert_eq!(dialogue.replied_text(), "not registered\n");
}
