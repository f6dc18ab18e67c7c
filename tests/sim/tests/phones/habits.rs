//! Habits of phones, with fixtures of our own.

use common::sip::header::Name;
use sim::ims::HOME;

use crate::bench::Bench;
use crate::words::Words;

impl Bench {
    /// A REGISTER that says what it must: from port 5060, for associations at ports 6301 and 6300.
    pub fn register(&self) -> Words {
        let (user, host, home) = (self.user(), self.host(), HOME);
        Words::of_lines(&format!(
            "REGISTER sip:{home} SIP/2.0
            Via: SIP/2.0/UDP {host}:5060;branch=z9hG4bK-r1;rport
            Max-Forwards: 70
            From: <sip:{user}@{home}>;tag=one
            To: <sip:{user}@{home}>
            Contact: <sip:{host}:6300>;expires=600000
            Call-ID: habits@{host}
            CSeq: 1 REGISTER
            Require: sec-agree
            Proxy-Require: sec-agree
            Supported: path
            Security-Client: ipsec-3gpp;alg=hmac-sha-1-96;ealg=null;prot=esp;mod=trans;spi-c=4001;spi-s=4002;port-c=6301;port-s=6300
            Authorization: Digest username=\"{user}@{home}\",realm=\"{home}\",uri=\"sip:{home}\",nonce=\"\",response=\"\"
            Content-Length: 0"
        ))
    }

    /// The answer to its challenge.
    pub fn protected_register(&self) -> Words {
        self.secured(self.followed(self.register(), 2))
    }

    /// The same inside the associations, with another branch and number.
    pub fn followed(&self, words: Words, cseq: u32) -> Words {
        let via = format!("SIP/2.0/UDP {}:6300;branch=z9hG4bK-r{cseq}", self.host());
        let words = words.set("CSeq", &format!("{cseq} REGISTER")).set("Via", &via);
        words.with("Security-Verify: x")
    }

    /// How many requests of this command code the HSS has got.
    fn asked(&self, code: u32) -> usize {
        let is_it = |bytes: &[u8]| bytes[4] & 0x80 != 0 && bytes[5..8] == code.to_be_bytes()[1..];
        self.ims.world.diameter.iter().filter(|(_, to, bytes)| to == "hss" && is_it(bytes)).count()
    }

    /// Challenged and accepted.
    #[track_caller]
    pub fn registered(&mut self) {
        let first = self.register();
        self.clear(&first);
        let challenge = self.answered(401, false);
        self.challenged(&challenge, &first);
        self.protected(&self.protected_register());
        self.answered(200, true);
    }
}

/// RFC 3261 §8.1.1.3, §10.2: a phone may have another tag in From in each REGISTER: in the answer to the challenge, and
/// in each refresh. Call-ID and CSeq make the attempt.
#[test]
fn another_tag_in_each_register() {
    let mut bench = Bench::new(false);
    let first = bench.register();
    bench.clear(&first);
    let challenge = bench.answered(401, false);
    bench.challenged(&challenge, &first);
    let mut words = bench.protected_register();
    for (cseq, tag) in [(2, "two"), (3, "three"), (4, "four")] {
        let via = format!("SIP/2.0/UDP {}:6300;branch=z9hG4bK-r{cseq}", bench.host());
        words = words.set("CSeq", &format!("{cseq} REGISTER")).set("Via", &via);
        words = words.set_parameter("From", "tag", tag);
        bench.protected(&words);
        let accepted = bench.answered(200, true);
        let from = accepted.headers().get(Name::From).expect("a From");
        assert!(from.ends_with(&format!(";tag={tag}")), "{from}");
        let contacts: Vec<&str> = accepted.headers().values(Name::Contact).collect();
        assert_eq!(contacts.len(), 1, "one binding: {contacts:?}");
    }
    assert_eq!(bench.ims.world.checkers.vectors, 1, "one challenge for all");
}

/// TS 24.229 §5.4.1.2.2: S-106: a refresh repeats the nonce of the last challenge and counts on: nc=00000005, with the
/// response for that, or with an old one, or with none. Inside the associations nobody is challenged for it, and the
/// HSS hears of a re-registration.
#[test]
fn a_refresh_counts_its_nonce() {
    let mut bench = Bench::new(false);
    let first = bench.register();
    bench.clear(&first);
    let challenge = bench.answered(401, false);
    bench.challenged(&challenge, &first);
    let with_qop = |words: Words, nc: &str| {
        let credentials = words.get("Authorization").expect("credentials").to_owned();
        let counted = format!("{credentials},algorithm=AKAv1-MD5,qop=auth,nc={nc},cnonce=\"c\"");
        words.set("Authorization", &counted)
    };
    let second = bench.secured(with_qop(bench.followed(first.clone(), 2), "00000001"));
    bench.protected(&second);
    bench.answered(200, true);
    let refresh = |bench: &Bench, cseq| bench.followed(first.clone(), cseq);
    let counted = bench.secured(with_qop(refresh(&bench, 3), "00000005"));
    let stale = counted.clone().set_parameter("Authorization", "response", &"0".repeat(32));
    let stale = stale.set("CSeq", "4 REGISTER").set("Via", "SIP/2.0/UDP x:6300;branch=z9hG4bK-r4");
    let none = stale.clone().set_parameter("Authorization", "response", "");
    let none = none.set("CSeq", "5 REGISTER").set("Via", "SIP/2.0/UDP x:6300;branch=z9hG4bK-r5");
    bench.ims.world.diameter.clear();
    for words in [counted, stale, none] {
        bench.protected(&words);
        let accepted = bench.answered(200, true);
        // 600000 s are asked for; what is granted is the S-CSCF's.
        let contact = accepted.headers().get(Name::Contact).expect("a binding");
        assert!(contact.contains(";expires=3600"), "{contact}");
    }
    assert_eq!(bench.asked(303), 0, "no MAR");
    assert!(bench.asked(301) > 0, "SAR");
    // Server-Assignment-Type RE_REGISTRATION, and User-Data-Already-Available: of vendor 10415, with their value.
    for (code, value) in [(614_u16, 2), (624, 1)] {
        let [high, low] = code.to_be_bytes();
        let avp = [0, 0, high, low, 0xC0, 0, 0, 16, 0, 0, 0x28, 0xAF, 0, 0, 0, value];
        let mut said = bench.ims.world.diameter.iter().filter(|(_, to, _)| to == "hss");
        assert!(
            said.any(|(.., bytes)| bytes.windows(16).any(|part| part == avp)),
            "{code}: {value}"
        );
    }
}

/// RFC 3261 §16.6 step 3, §8.1.1: without Max-Forwards a REGISTER goes on with 70; without Content-Length it ends with
/// its datagram (§18.3). Without To, From, Call-ID or CSeq it is answered with 400, and goes nowhere.
#[test]
fn headers_that_are_missing() {
    let mut bench = Bench::new(false);
    let words = bench.register().without("Max-Forwards").without("Content-Length");
    bench.clear(&words);
    bench.answered(401, false);
    let at_icscf =
        bench.ims.world.wire.iter().find(|(_, to, ..)| to == "icscf").expect("it went on");
    let at_icscf = Words::new(&at_icscf.3);
    assert_eq!(at_icscf.get("Max-Forwards"), Some("70"));
    for name in ["To", "From", "Call-ID", "CSeq"] {
        let mut bench = Bench::new(false);
        let before = bench.ims.world.wire.len();
        let words = bench.register().without(name);
        bench.clear(&words);
        bench.answered(400, false);
        bench.nothing_is_asked(5);
        let went_on = bench.ims.world.wire[before..]
            .iter()
            .any(|(from, to, ..)| from == "pcscf" && to != "ue0");
        assert!(!went_on, "a REGISTER without {name} went on");
    }
}

/// RFC 3261 §10.3 step 6, TS 24.229 §5.4.1.2.2: S-104: a REGISTER without Contact asks what is bound. It is answered with the
/// bindings, and changes none.
#[test]
fn a_register_without_contact_asks() {
    let mut bench = Bench::new(false);
    bench.registered();
    bench.ims.world.diameter.clear();
    let query = bench.protected_register().without("Contact").set("CSeq", "3 REGISTER");
    let query = query.set("Via", &format!("SIP/2.0/UDP {}:6300;branch=z9hG4bK-r3", bench.host()));
    bench.protected(&query);
    let answer = bench.answered(200, true);
    let contacts: Vec<&str> = answer.headers().values(Name::Contact).collect();
    assert!(contacts.len() == 1 && contacts[0].contains(":6300>"), "{contacts:?}");
    assert_eq!(bench.metric("pcscf", "tessera_pcscf_registrations"), 1.0);
    assert_eq!((bench.asked(303), bench.asked(301)), (0, 0), "it changes nothing at the HSS");
}

/// RFC 3261 §10.2.2, TS 24.229 §5.4.1.4: S-105, S-107, S-122: `*` and no time end all that the phone has; a time with `*` means
/// nothing, and ends nothing.
#[test]
fn a_star_inside_the_associations() {
    let mut bench = Bench::new(false);
    bench.registered();
    let star = bench.followed(bench.register(), 3).set("Contact", "*").with("Expires: 3600");
    bench.protected(&bench.secured(star.clone()));
    bench.answered(400, true);
    assert_eq!(bench.metric("scscf1", "tessera_scscf_registrations"), 1.0);
    let star = bench.followed(bench.register(), 4).set("Contact", "*").with("Expires: 0");
    bench.protected(&bench.secured(star));
    bench.answered(200, true);
    assert_eq!(bench.metric("scscf1", "tessera_scscf_registrations"), 0.0);
    assert_eq!(bench.metric("pcscf", "tessera_pcscf_registrations"), 0.0);
    assert_eq!(bench.ims.registered_at_hss(), 0);
}

/// RFC 3261 §10.2.1.1, §20.10: S-20, S-105, S-117: the time in Contact counts before the one in Expires, which is for the contacts
/// that say none.
#[test]
fn the_time_in_contact_counts() {
    let mut bench = Bench::new(false);
    bench.registered();
    let at = format!("<sip:{}:6300>", bench.host());
    for (cseq, contact, expires, granted) in [
        (3, format!("{at};expires=1800"), 600, ";expires=1800"),
        (4, at.clone(), 900, ";expires=900"),
    ] {
        let words = bench.followed(bench.register(), cseq).set("Contact", &contact);
        bench.protected(&bench.secured(words.with(&format!("Expires: {expires}"))));
        let answer = bench.answered(200, true);
        let told = answer.headers().get(Name::Contact).expect("a binding");
        assert!(told.contains(granted), "{granted}: {told}");
    }
    let words = bench.followed(bench.register(), 5).set("Contact", &format!("{at};expires=0"));
    bench.protected(&bench.secured(words.with("Expires: 600000")));
    bench.answered(200, true);
    assert_eq!(bench.metric("scscf1", "tessera_scscf_registrations"), 0.0);
}

/// RFC 3261 §8.1.1.5, §10.3 step 7: S-111: a number under the same Call-ID that is not higher changes nothing, and one that is no
/// number of SIP is malformed.
#[test]
fn numbers_of_registers() {
    let mut bench = Bench::new(false);
    bench.registered();
    let old = bench.followed(bench.register(), 1);
    let old = old.set("Via", &format!("SIP/2.0/UDP {}:6300;branch=z9hG4bK-old", bench.host()));
    bench.protected(&bench.secured(old.set_parameter("Contact", "expires", "0")));
    bench.answered(500, true);
    let large = bench.followed(bench.register(), 9).set("CSeq", "2147483648 REGISTER");
    bench.protected(&bench.secured(large));
    bench.answered(400, true);
    assert_eq!(bench.metric("scscf1", "tessera_scscf_registrations"), 1.0);
}

/// RFC 3329 §2.3, TS 24.229 §5.2.2.2: S-86: the answer to the challenge has the offer of the challenged REGISTER, to the octet.
#[test]
fn another_offer_in_the_answer() {
    let mut bench = Bench::new(false);
    let first = bench.register();
    bench.clear(&first);
    let challenge = bench.answered(401, false);
    bench.challenged(&challenge, &first);
    let offer = first.get("Security-Client").expect("an offer").replace("spi-c=4001", "spi-c=4003");
    bench.protected(&bench.protected_register().set("Security-Client", &offer));
    let (_, response) = bench.response();
    assert_eq!(response.status(), 494, "{response:?}");
    assert_eq!(bench.metric("scscf1", "tessera_scscf_registrations"), 0.0);
}

/// TS 24.229 §5.4.1.2.2: S-87: who has the right answer under another Call-ID has not been asked: the S-CSCF asks anew.
#[test]
fn another_call_id_in_the_answer() {
    let mut bench = Bench::new(false);
    let first = bench.register();
    bench.clear(&first);
    let challenge = bench.answered(401, false);
    bench.challenged(&challenge, &first);
    bench.ims.world.wire.clear();
    bench.protected(&bench.protected_register().set("Call-ID", "another"));
    let (_, response) = bench.response();
    assert_ne!(response.status(), 200, "{response:?}");
    let mut wire = bench.ims.world.wire.iter().filter(|(from, ..)| from == "scscf1");
    let by_scscf = wire.find(|(.., bytes)| bytes.starts_with(b"SIP/2.0 "));
    assert!(by_scscf.is_some_and(|(.., bytes)| bytes.starts_with(b"SIP/2.0 401 ")), "{by_scscf:?}");
    assert_eq!(bench.ims.registered_at_hss(), 0);
}

/// TS 24.229 §5.4.1.4: S-107, S-109, S-110, S-112, S-115, S-117, S-118, S-119: a deregistration in compact form, under
/// another Call-ID, whose one Authorization has the same credentials twice. Inside the associations it ends the
/// registration; with port 5060 in Contact it names what is not bound.
#[test]
fn a_compact_deregistration_inside_the_associations() {
    let mut bench = Bench::new(false);
    bench.registered();
    let wrong = bench.compact_deregistration(5060, "one");
    bench.protected(&wrong);
    bench.answered(481, true);
    assert_eq!(bench.metric("scscf1", "tessera_scscf_registrations"), 1.0);
    let right = bench.compact_deregistration(6300, "two").set("CSeq", "589636510 REGISTER");
    bench.protected(&right);
    let answer = bench.answered(200, true);
    let left: Vec<&str> = answer.headers().values(Name::Contact).collect();
    assert!(left.iter().all(|contact| contact.contains("expires=0")), "{left:?}");
    assert_eq!(bench.metric("scscf1", "tessera_scscf_registrations"), 0.0);
    assert_eq!(bench.ims.registered_at_hss(), 0);
    // What stood there twice went on once.
    let at_scscf = bench
        .ims
        .world
        .wire
        .iter()
        .rev()
        .find(|(_, to, _, bytes)| to == "scscf1" && bytes.starts_with(b"REGISTER"));
    let at_scscf = Words::new(&at_scscf.expect("it was there").3);
    let credentials = at_scscf.get("Authorization").expect("credentials");
    assert_eq!(credentials.matches("username=").count(), 1, "{credentials}");
    assert!(credentials.contains("integrity-protected=\"yes\""), "{credentials}");
}

/// TS 24.229 §5.4.1.4, RFC 3261 §22: S-119, S-120: the same in clear is challenged and ends nothing; with credentials that
/// contradict each other it is refused.
#[test]
fn a_compact_deregistration_in_clear() {
    let mut bench = Bench::new(false);
    bench.registered();
    let words = bench.compact_deregistration(5060, "clear");
    let offer = bench.register().get("Security-Client").expect("an offer").replace("400", "500");
    let offer = offer.replace("port-c=6301", "port-c=6302");
    let in_clear = words
        .set("Via", &format!("SIP/2.0/UDP {}:5060;branch=z9hG4bK428556305", bench.host()))
        .without("P-Access-Network-Info")
        .with("Require: sec-agree")
        .with("Proxy-Require: sec-agree")
        .with(&format!("Security-Client: {offer}"));
    bench.clear(&in_clear);
    bench.answered(401, false);
    assert_eq!(bench.metric("scscf1", "tessera_scscf_registrations"), 1.0);
    let two = in_clear.get("Authorization").expect("credentials").to_owned();
    let (one, other) = two.split_once(", Digest ").expect("two");
    let unequal = format!("{one}, Digest {}", other.replace("nonce=\"\"", "nonce=\"x\""));
    let unequal = in_clear
        .set("Authorization", &unequal)
        .set("Via", &format!("SIP/2.0/UDP {}:5060;branch=z9hG4bK428556306", bench.host()))
        .set("CSeq", "589636510 REGISTER");
    bench.clear(&unequal);
    bench.answered(400, false);
    assert_eq!(bench.metric("scscf1", "tessera_scscf_registrations"), 1.0);
}

impl Bench {
    /// As one phone says it, with identities of ours.
    fn compact_deregistration(&self, port: u16, branch: &str) -> Words {
        let (user, host) = (self.user(), self.host());
        let credentials = format!(
            "uri=\"sip:{HOME}\", username=\"{user}@{HOME}\", response=\"\", realm=\"{HOME}\", nonce=\"\""
        );
        Words::of_lines(&format!(
            "REGISTER sip:{HOME} SIP/2.0
            f: <sip:{user}@{HOME}>;tag=589636628
            t: <sip:{user}@{HOME}>
            CSeq: 589636509 REGISTER
            i: 589636508_2363003488@{host}-{branch}
            v: SIP/2.0/UDP {host}:6300;branch=z9hG4bK42855{branch}
            Max-Forwards: 70
            m: <sip:{host}:{port}>
            P-Access-Network-Info: 3GPP-E-UTRAN-FDD; utran-cell-id-3gpp=3114800001FFFFFFF
            Expires: 0
            l: 0
            Authorization: Digest {credentials}, Digest {credentials}"
        ))
    }
}
