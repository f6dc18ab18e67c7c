//! The registration procedures of a phone against a scripted P-CSCF (TS 24.229 §5.1.1).

mod net;

use std::time::Duration;

use common::aka::digest;
use common::ipsec::agree::AlgorithmPair;
use common::ipsec::esp::spi_of;
use common::ipsec::sa::{Encryption, Integrity};
use common::node::Transport;
use common::sip::header::Name;
use net::{Got, Net, PCSCF, UE, algorithm, config};
use ue::{Cause, Command, Config, Dropped, Event, Faults, InvalidChallenge, Kind, packets};

const REGISTER: Command = Command::Register { identity: 0 };
const DEREGISTER: Command = Command::Deregister { identity: 0 };

fn with(change: impl FnOnce(&mut Config)) -> Net {
    let mut config = config();
    change(&mut config);
    Net::new(config)
}

fn faulty(change: impl FnOnce(&mut Faults)) -> Net {
    with(|config| change(&mut config.faults))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// TS 24.229 §5.1.1.2.1: S-13, S-14, S-15, S-18, S-19, S-20, S-21, S-22, S-23, S-24, S-25, S-27,
/// S-28, S-124, S-126, S-127, the first REGISTER header by header.
#[test]
fn first_register() {
    let mut net = Net::new(config());
    net.command(REGISTER);
    let r1 = net.request();
    assert_eq!(r1.set, None);
    assert_eq!(r1.flow.remote.to_string(), format!("{UE}:5060"));
    assert_eq!(r1.flow.local.to_string(), PCSCF);
    assert!(r1.text.starts_with("REGISTER sip:hims.net SIP/2.0\r\n"));
    let via = r1.header(Name::Via);
    assert!(via.starts_with(&format!("SIP/2.0/UDP {UE}:5060;branch=z9hG4bK")), "{via}");
    assert!(via.ends_with(";rport"), "{via}");
    assert_eq!(r1.header(Name::MaxForwards), "70");
    assert!(r1.header(Name::From).starts_with("<sip:name@hims.net>;tag="));
    assert_eq!(r1.header(Name::To), "<sip:name@hims.net>");
    assert_eq!(
        r1.header(Name::Contact),
        "<sip:10.133.202.46:5060>;+sip.instance=\"<urn:gsma:imei:35209900-176148-0>\"\
         ;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\";+g.3gpp.smsip\
         ;expires=600000"
    );
    assert!(!r1.header(Name::CallId).is_empty());
    assert_eq!(r1.header(Name::CSeq), "1 REGISTER");
    assert!(r1.request().headers().has_token(Name::Supported, "path"));
    assert_eq!(r1.header(Name::Require), "sec-agree");
    assert_eq!(r1.header(Name::ProxyRequire), "sec-agree");
    assert_eq!(
        r1.header(Name::Authorization),
        "Digest username=\"name.private@hims.net\", realm=\"hims.net\", uri=\"sip:hims.net\", \
         nonce=\"\", response=\"\""
    );
    assert_eq!(r1.header(Name::ContentLength), "0");
    for absent in [
        Name::Route,
        Name::SecurityVerify,
        Name::PAccessNetworkInfo,
        Name::PVisitedNetworkId,
        Name::PChargingVector,
        Name::PPreferredIdentity,
    ] {
        assert!(!r1.has(absent), "{absent:?}");
    }
    let entries: Vec<_> = r1.request().headers().values(Name::SecurityClient).collect();
    assert_eq!(entries.len(), 1);
    let offer = r1.offer();
    let first: Vec<_> =
        ["alg", "ealg", "prot", "mod"].iter().map(|name| offer[*name].as_str()).collect();
    assert_eq!(first, ["hmac-sha-1-96", "aes-cbc", "esp", "trans"]);
    let spi = |name: &str| offer[name].parse::<u32>().unwrap();
    assert!(spi("spi-c") >= 1_000_000_000 && spi("spi-s") >= 1_000_000_000);
    assert_ne!(spi("spi-c"), spi("spi-s"));
    assert_ne!(offer["port-c"], offer["port-s"]);
}

/// TS 24.229 §5.1.1.5.1: S-80, S-81, S-82, S-83, S-84, S-86, S-87, the answer to the challenge.
#[test]
fn second_register() {
    let mut net = Net::new(config());
    net.command(REGISTER);
    let r1 = net.request();
    net.challenge(&r1);
    let security_server: Vec<String> = {
        let set = net.sets[0].set();
        let pairs = ue::config::default_algorithms();
        let (spis, ports) = (set.spis, set.ports);
        let agreed = (spis.pc, spis.ps, ports.pc, ports.ps);
        common::ipsec::agree::security_server(&pairs, false, agreed.0, agreed.1, agreed.2, agreed.3)
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    let r2 = net.request();
    assert_eq!(r2.set, Some(0), "inside ESP");
    let set = net.sets[0].set();
    assert_eq!(r2.flow.remote.port(), set.ports.uc);
    assert_eq!(r2.flow.local.port(), set.ports.ps);
    assert_eq!(spi_of(net.packets.last().unwrap()), Some(set.spis.ps));
    let us = set.ports.us;
    let via = r2.header(Name::Via);
    assert!(via.starts_with(&format!("SIP/2.0/UDP {UE}:{us};branch=z9hG4bK")), "{via}");
    assert!(!via.contains("rport"), "{via}");
    let contact = r1.header(Name::Contact).replace("5060", &us.to_string());
    assert_eq!(r2.header(Name::Contact), contact);
    assert_eq!(r2.header(Name::CallId), r1.header(Name::CallId));
    assert_eq!(r2.header(Name::From), r1.header(Name::From));
    assert_eq!(r2.header(Name::CSeq), "2 REGISTER");
    assert_eq!(r2.header(Name::SecurityClient), r1.header(Name::SecurityClient));
    let verify: Vec<_> = r2.request().headers().values(Name::SecurityVerify).collect();
    assert_eq!(verify, security_server);
    assert_eq!(r2.header(Name::Require), "sec-agree");
    assert_eq!(r2.header(Name::ProxyRequire), "sec-agree");
    assert!(!r2.has(Name::Route));
    assert_eq!(
        r2.header(Name::PAccessNetworkInfo),
        "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=3114800001FFFFFFF"
    );

    let authorization = r2.authorization();
    let vector = net.vector.clone().unwrap();
    let get = |name| authorization.get(name);
    assert_eq!(get("username"), Some("name.private@hims.net"));
    assert_eq!(get("realm"), Some("hims.net"));
    assert_eq!(get("uri"), Some("sip:hims.net"));
    assert_eq!(get("algorithm"), Some("AKAv1-MD5"));
    assert_eq!(get("opaque"), Some("b3BhcXVl==b3Bh"));
    assert_eq!((get("qop"), get("nc")), (Some("auth"), Some("00000001")));
    assert!(digest::verify(&authorization, vector.xres.expose(), "REGISTER", b""));
    let all: Vec<u8> = net.packets.concat();
    let res = hex::encode(vector.xres.expose());
    assert!(!all.windows(8).any(|octets| octets == vector.xres.expose().as_slice()));
    assert!(!r2.text.contains(&res));

    net.accept(&r2, 600_000);
    let expected = Event::Registered {
        identity: 0,
        kind: Kind::Initial,
        granted_seconds: 600_000,
        is_authenticated: true,
        is_protected: true,
    };
    assert_eq!(net.event(), expected);
    let registration = net.phone.registration(0).unwrap();
    assert_eq!(registration.service_route, ["<sip:orig@scscf1.hims.net;lr>"]);
    assert_eq!(registration.associated, ["<sip:name@hims.net>", "<tel:+11234567890>"]);
    assert_eq!(registration.path, ["<sip:term@pcscf1.vims.net;lr>"]);
    let ladder = [(true, false), (false, false), (true, true), (false, true)];
    assert_eq!(net.ladder, ladder, "R1, 401, R2, 200");
    let in_use = net.phone.sets().in_use().and_then(|id| net.phone.sets().get(id)).unwrap();
    assert_eq!(in_use.ends_at, net.now + seconds(600_030));
    net.advance(seconds(40));
    assert_eq!(net.phone.owed(), 0);
    assert_eq!(net.dropped, []);
}

/// TS 33.102 §6.3.3: S-68, S-69, AUTS in clear with a new offer, then success.
#[test]
fn resynchronisation() {
    let mut net = faulty(|faults| faults.stale_sqn = true);
    net.command(REGISTER);
    let r1 = net.request();
    net.challenge(&r1);
    let reason = InvalidChallenge::Sqn;
    assert_eq!(net.event(), Event::ChallengeRefused { identity: 0, reason });
    let r2 = net.request();
    assert_eq!(r2.set, None, "no associations");
    assert_eq!(r2.header(Name::CallId), r1.header(Name::CallId));
    assert_eq!(r2.header(Name::CSeq), "2 REGISTER");
    assert!(!r2.has(Name::SecurityVerify));
    new_offer(&r1, &r2);
    let authorization = r2.authorization();
    let auts = digest::decode_auts(authorization.get("auts").unwrap()).unwrap();
    let rand = net.vector.clone().unwrap().rand;
    let sqn_ms = algorithm().open_auts(&rand, &auts).expect("MAC-S");
    assert_eq!(sqn_ms.seq(), 1_000_000);
    assert!(digest::verify(&authorization, b"", "REGISTER", b""), "an empty password");

    net.sqn = sqn_ms.next();
    net.challenge(&r2);
    let r3 = net.request();
    assert_eq!(r3.header(Name::CSeq), "3 REGISTER");
    assert_eq!(r3.set, Some(1));
    net.accept(&r3, 3600);
    assert!(matches!(net.event(), Event::Registered { is_authenticated: true, .. }));
}

fn new_offer(before: &Got, after: &Got) {
    let (before, after) = (before.offer(), after.offer());
    for name in ["spi-c", "spi-s", "port-c"] {
        assert_ne!(before[name], after[name], "{name}");
    }
    assert_eq!(before["port-s"], after["port-s"]);
}

/// TS 24.229 §5.1.1.5.3: S-70, an empty response without auts, twice, then no more.
#[test]
fn mac_failure() {
    let mut net = faulty(|faults| faults.wrong_k = true);
    net.command(REGISTER);
    let mut last = net.request();
    let reason = InvalidChallenge::Mac;
    for cseq in 2..=3 {
        net.challenge(&last);
        assert_eq!(net.event(), Event::ChallengeRefused { identity: 0, reason });
        let next = net.request();
        assert_eq!(next.set, None);
        assert_eq!(next.header(Name::CSeq), format!("{cseq} REGISTER"));
        assert_eq!(next.authorization().get("response"), Some(""));
        assert_eq!(next.authorization().get("auts"), None);
        new_offer(&last, &next);
        last = next;
    }
    net.challenge(&last);
    let cause = Cause::InvalidChallenges;
    let failed = Event::Failed {
        identity: 0,
        kind: Kind::Initial,
        cause,
        retry_at: None,
        calls_unregistered: false,
    };
    assert_eq!(net.events, [Event::ChallengeRefused { identity: 0, reason }, failed]);
    assert!(net.got.is_empty());
    assert!(!net.phone.is_busy());
    assert_eq!(net.phone.sets().iter().count(), 0);
    net.advance(seconds(7200));
    assert!(net.got.is_empty(), "no automatic attempt");
}

/// TS 24.229 §5.1.1.2.1: S-133, 423 in clear and the interval that it asks for.
#[test]
fn interval_too_brief() {
    let mut net = with(|config| config.expires_seconds = 600);
    net.command(REGISTER);
    let r1 = net.request();
    net.answer(&r1, 423, "Interval Too Brief", &[(Name::MinExpires, "1800")]);
    let again = net.request();
    assert!(again.header(Name::Contact).ends_with(";expires=1800"));
    assert_eq!(again.header(Name::CallId), r1.header(Name::CallId));
    assert_eq!(again.header(Name::CSeq), "2 REGISTER");
    net.answer(&again, 423, "Interval Too Brief", &[(Name::MinExpires, "1800")]);
    let cause = Cause::Refused(423);
    let failed = Event::Failed {
        identity: 0,
        kind: Kind::Initial,
        cause,
        retry_at: None,
        calls_unregistered: false,
    };
    assert_eq!(net.event(), failed);
}

/// RFC 5626 §4.2.1, §11.6: a flow of its instance; where the first hop keeps none, again without.
#[test]
fn a_flow_or_none() {
    let mut net = with(|config| config.reg_id = Some(1));
    net.command(REGISTER);
    let first = net.request();
    assert!(first.header(Name::Contact).contains(";reg-id=1"), "{}", first.header(Name::Contact));
    assert!(first.request().headers().has_token(Name::Supported, "outbound"));
    net.answer(&first, 439, "First Hop Lacks Outbound Support", &[]);
    let second = net.request();
    assert!(!second.header(Name::Contact).contains("reg-id"));
    assert!(!second.request().headers().has_token(Name::Supported, "outbound"));
    assert_eq!(second.request().cseq(), first.request().cseq() + 1);
    net.challenge(&second);
    let answer = net.request();
    net.accept(&answer, 3600);
    assert!(matches!(net.event(), Event::Registered { .. }));
}

/// TS 24.229 §5.1.1.6: S-107, S-116, S-121, over the association, and what is left behind.
#[test]
fn deregistration() {
    let mut net = Net::new(config());
    let (_, r2) = net.register(600_000);
    net.command(DEREGISTER);
    let gone = net.request();
    assert_eq!(gone.set, Some(0));
    assert!(gone.header(Name::Contact).ends_with(";expires=0"));
    assert_eq!(gone.header(Name::Contact).split(';').next(), {
        r2.header(Name::Contact).split(';').next()
    });
    assert_eq!(gone.header(Name::CallId), r2.header(Name::CallId));
    assert_eq!(gone.header(Name::CSeq), "3 REGISTER");
    assert_eq!(gone.header(Name::Authorization), r2.header(Name::Authorization));
    assert_eq!(gone.header(Name::SecurityVerify), r2.header(Name::SecurityVerify));
    new_offer(&r2, &gone);
    net.answer(&gone, 200, "OK", &[]);
    assert_eq!(net.event(), Event::Deregistered { identity: 0 });
    assert!(net.phone.registration(0).is_none());
    assert_eq!(net.removed, []);
    net.advance(seconds(127));
    assert_eq!(net.removed, [], "until transactions have ended");
    net.advance(seconds(2));
    assert_eq!(net.removed.len(), 1);
    assert_eq!(net.phone.next_timeout(), None, "nothing is left to do");

    net.command(REGISTER);
    let r1 = net.request();
    assert_eq!(r1.set, None);
    assert_ne!(r1.offer()["port-s"], r2.offer()["port-s"]);
    assert_ne!(r1.header(Name::CallId), r2.header(Name::CallId));
}

/// TS 24.229 §5.1.1.4.1: S-104, S-106, S-130, a refresh 600 s before the end, without challenge.
#[test]
fn refresh_without_challenge() {
    let mut net = Net::new(config());
    let (_, r2) = net.register(600_000);
    net.advance(seconds(599_399));
    assert!(net.got.is_empty());
    net.advance(seconds(2));
    let refresh = net.request();
    assert_eq!(refresh.set, Some(0));
    assert_eq!(refresh.header(Name::CSeq), "3 REGISTER");
    assert_eq!(refresh.header(Name::CallId), r2.header(Name::CallId));
    assert_eq!(refresh.header(Name::Authorization), r2.header(Name::Authorization));
    assert_eq!(refresh.header(Name::SecurityVerify), r2.header(Name::SecurityVerify));
    assert_eq!(refresh.header(Name::Contact), r2.header(Name::Contact));
    new_offer(&r2, &refresh);
    net.accept(&refresh, 1000);
    let Event::Registered { kind, is_authenticated, .. } = net.event() else { panic!() };
    assert_eq!((kind, is_authenticated), (Kind::Refresh, false));
    net.advance(seconds(499));
    assert!(net.got.is_empty(), "half of a short one");
    net.advance(seconds(2));
    assert_eq!(net.request().header(Name::CSeq), "4 REGISTER");
}

/// TS 33.203 §7.4, §7.4.1a, TS 24.229 §5.1.1.2.2: S-79, re-authentication; port_us stays, the old set serves until the new one is used by the
/// P-CSCF, and 64·T1 longer.
#[test]
fn refresh_with_challenge() {
    let mut net = Net::new(config());
    let (_, r2) = net.register(600_000);
    net.command(REGISTER);
    let refresh = net.request();
    assert_eq!(refresh.set, Some(0));
    net.challenge(&refresh);
    let answer = net.request();
    assert_eq!(answer.set, Some(1), "by the new set");
    assert_eq!(answer.header(Name::SecurityClient), refresh.header(Name::SecurityClient));
    assert_ne!(answer.header(Name::SecurityVerify), r2.header(Name::SecurityVerify));
    assert_eq!(answer.header(Name::Contact), r2.header(Name::Contact), "the same port_us");
    net.accept(&answer, 600_000);
    assert!(matches!(net.event(), Event::Registered { kind: Kind::Refresh, .. }));
    assert_eq!(net.removed, []);

    net.advance(seconds(300));
    net.ask("OPTIONS", 0);
    let reply = net.request();
    assert_eq!(reply.set, Some(0), "the old set still works");
    assert_eq!(net.removed, []);
    net.ask("OPTIONS", 1);
    assert_eq!(net.request().set, Some(1));
    net.advance(seconds(129));
    assert_eq!(net.removed.len(), 1, "the old one is gone");
    net.command(REGISTER);
    assert_eq!(net.request().set, Some(1));
}

/// TS 24.229 §5.1.1.5.1: S-136, 403 to the answer: back to the set of before.
#[test]
fn forbidden_keeps_the_old_set() {
    let mut net = Net::new(config());
    net.register(600_000);
    net.command(REGISTER);
    let refresh = net.request();
    net.challenge(&refresh);
    let answer = net.request();
    // The P-CSCF answers by the old set (registration.md P-21).
    let by_old = Got { set: Some(0), ..answer };
    net.answer(&by_old, 403, "Forbidden", &[]);
    let cause = Cause::Refused(403);
    let failed = Event::Failed {
        identity: 0,
        kind: Kind::Refresh,
        cause,
        retry_at: None,
        calls_unregistered: false,
    };
    assert_eq!(net.event(), failed);
    assert_eq!(net.removed.len(), 1);
    assert!(net.phone.registration(0).is_some());
    net.command(REGISTER);
    let next = net.request();
    assert_eq!(next.set, Some(0));
    assert_eq!(next.header(Name::CSeq), "5 REGISTER", "higher than any before");
}

/// TS 24.229 §5.1.1.5.1: a 401 without a usable Security-Server is abandoned; another Call-ID.
#[test]
fn no_security_server() {
    let mut net = Net::new(config());
    net.command(REGISTER);
    let r1 = net.request();
    let vector = net.next_vector();
    let www_authenticate = net::www_authenticate(&vector);
    net.answer(&r1, 401, "Unauthorized", &[(Name::WwwAuthenticate, &www_authenticate)]);
    let reason = InvalidChallenge::SecurityServer;
    assert_eq!(net.event(), Event::ChallengeRefused { identity: 0, reason });
    let again = net.request();
    assert_ne!(again.header(Name::CallId), r1.header(Name::CallId));
    assert_eq!(again.header(Name::CSeq), "1 REGISTER");
    assert_eq!(again.authorization().get("nonce"), Some(""));
    net.challenge(&again);
    let r2 = net.request();
    net.accept(&r2, 3600);
    assert!(matches!(net.event(), Event::Registered { .. }));
}

/// RFC 3261 §17.1.2, TS 24.229 §7.7: S-137, retransmissions at T1 2 s to T2 16 s, and the end after 128 s.
#[test]
fn timer_f() {
    let mut net = Net::new(config());
    net.command(REGISTER);
    net.got.clear();
    let begin = net.now;
    net.advance(seconds(127));
    assert_eq!(net.got.len(), 10, "2, 6, 14, 30, 46, 62, 78, 94, 110, 126");
    let first = net.got[0].text.clone();
    assert!(net.got.iter().all(|got| got.text == first));
    net.got.clear();
    net.advance(seconds(1));
    let Event::Failed { cause: Cause::Timeout, retry_at: Some(at), .. } = net.event() else {
        panic!()
    };
    let wait = at.since(begin + seconds(128));
    assert!((seconds(30)..=seconds(60)).contains(&wait), "{wait:?}");
    net.advance(wait);
    assert!(!net.got.is_empty(), "tries again by itself");
}

/// TS 24.229 §5.1.1.4.1: S-134, S-137, a refresh that fails becomes an initial registration.
#[test]
fn failed_refresh_starts_anew() {
    for status in [Some(500), Some(504), Some(408), None] {
        let mut net = Net::new(config());
        net.register(600_000);
        net.command(REGISTER);
        let refresh = net.request();
        match status {
            Some(status) => net.answer(&refresh, status, "Failed", &[]),
            None => {
                net.is_cut = true;
                net.advance(seconds(129));
                net.is_cut = false;
                net.got.clear();
                net.packets.clear();
                net.advance(seconds(2));
            }
        }
        assert!(matches!(net.events[0], Event::Failed { kind: Kind::Refresh, .. }));
        let lost = net.events.contains(&Event::Lost { identity: 0 });
        assert_eq!(lost, status.is_none(), "dead associations end the registration");
        let r1 = net.got.pop_back().expect("an initial REGISTER");
        assert_eq!(r1.set, None, "{status:?}");
        assert_ne!(r1.header(Name::CallId), refresh.header(Name::CallId));
        assert_eq!(r1.authorization().get("nonce"), Some(""));
        net.got.clear();
        net.events.clear();
        net.challenge(&r1);
        let r2 = net.request();
        net.accept(&r2, 3600);
        assert!(matches!(net.event(), Event::Registered { kind: Kind::Initial, .. }));
        assert_eq!(net.phone.sets().iter().count(), 1, "all others are gone");
    }
}

/// TS 24.229 §5.1.1.2.1: no retry before Retry-After ends.
#[test]
fn retry_after() {
    let mut net = Net::new(config());
    net.command(REGISTER);
    let r1 = net.request();
    net.answer(&r1, 503, "Service Unavailable", &[(Name::RetryAfter, "120 (busy)")]);
    let Event::Failed { retry_at, .. } = net.event() else { panic!() };
    assert_eq!(retry_at, Some(net.now + seconds(120)));
    net.advance(seconds(119));
    assert!(net.got.is_empty());
    net.advance(seconds(2));
    assert_ne!(net.request().header(Name::CallId), r1.header(Name::CallId));
}

/// TS 24.229 §5.1.1.2.1, RFC 5626 §4.5: without Retry-After 30 s, 60 s and so on to half an hour, each time
/// between half of it and all.
#[test]
fn failed_registrations_back_off() {
    let mut net = Net::new(config());
    net.command(REGISTER);
    for upper in [60, 120, 240, 480, 960, 1_800, 1_800, 1_800] {
        let request = net.request();
        net.answer(&request, 500, "Server Internal Error", &[]);
        let Event::Failed { retry_at: Some(retry_at), .. } = net.event() else { panic!() };
        let after = retry_at.since(net.now);
        assert!(seconds(upper / 2) <= after && after <= seconds(upper), "{after:?} of {upper} s");
        net.advance(after);
    }
    let request = net.request();
    net.challenge(&request);
    let answer = net.request();
    net.accept(&answer, 3600);
    assert!(matches!(net.event(), Event::Registered { .. }), "it has not given up");
}

/// TS 24.229 §5.1.1.2.1: S-131, S-132, the next P-CSCF after 305 and after 408.
#[test]
fn next_pcscf() {
    for status in [305, 408] {
        let mut net = with(|config| config.pcscfs.push("192.0.2.11:5060".parse().unwrap()));
        net.command(REGISTER);
        let r1 = net.request();
        net.answer(&r1, status, "Elsewhere", &[(Name::Contact, "<sip:192.0.2.66>")]);
        assert!(matches!(net.event(), Event::Failed { retry_at: Some(_), .. }));
        net.advance(seconds(31));
        let r1 = net.got.pop_front().unwrap();
        assert_eq!(r1.flow.local.to_string(), "192.0.2.11:5060", "{status}");
    }
}

/// TS 33.203 §7.1: N-02, N-03, what comes in clear and is no answer is dropped silently.
#[test]
fn clear_traffic_is_dropped() {
    let mut net = Net::new(config());
    let (_, r2) = net.register(600_000);
    let us = net.sets[0].set().ports.us;
    let options = "OPTIONS sip:name@hims.net SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10\
         ;branch=z9hG4bKx\r\nMax-Forwards: 9\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n\
         Call-ID: z\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";
    let ok = format!(
        "SIP/2.0 200 OK\r\nVia: {}\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {}\r\n\
         Content-Length: 0\r\n\r\n",
        r2.header(Name::Via),
        r2.header(Name::From),
        r2.header(Name::To),
        r2.header(Name::CallId),
        r2.header(Name::CSeq),
    );
    for (source, port, text) in [
        (PCSCF, 5060, options),
        (PCSCF, us, options),
        ("192.0.2.10:5200", us, options),
        (PCSCF, 5060, &ok),
        ("203.0.113.1:5060", 5060, &ok),
    ] {
        let to = format!("{UE}:{port}").parse().unwrap();
        let packet = packets::datagram(source.parse().unwrap(), to, text.as_bytes()).unwrap();
        net.inject(packet);
        assert_eq!(net.dropped.pop(), Some(Dropped::Clear), "{source} to {port}");
        assert!(net.got.is_empty());
    }
    // While an unprotected REGISTER waits, its answer alone is taken.
    let mut net = Net::new(config());
    net.command(REGISTER);
    let r1 = net.request();
    let stray = ok.replace(r2.header(Name::CallId), "another");
    let to = format!("{UE}:5060").parse().unwrap();
    let packet = packets::datagram(PCSCF.parse().unwrap(), to, stray.as_bytes()).unwrap();
    net.inject(packet);
    assert_eq!(net.dropped, [Dropped::Clear]);
    net.challenge(&r1);
    assert_eq!(net.request().set, Some(0));
}

/// RFC 3261 §8.2: requests of the network are answered, from port_uc to port_ps.
#[test]
fn requests_are_answered() {
    let mut net = Net::new(config());
    net.register(600_000);
    for (method, status) in [("OPTIONS", 200), ("NOTIFY", 481), ("MESSAGE", 405), ("BYE", 481)] {
        net.ask(method, 0);
        let reply = net.request();
        assert_eq!(reply.response().status(), status, "{method}");
        let ports = net.sets[0].set().ports;
        assert_eq!((reply.flow.remote.port(), reply.flow.local.port()), (ports.uc, ports.ps));
        assert_eq!(reply.set, Some(0));
    }
    assert!(net.got.is_empty());
}

/// RFC 3261 §18.1.1, TS 33.203 §7.1: S-72, S-74, by TCP in clear and inside the associations.
#[test]
fn registration_by_tcp() {
    for is_v6 in [false, true] {
        let mut net = with(|config| {
            config.transport = Transport::Tcp;
            if is_v6 {
                config.address = "2001:db8::2e".parse().unwrap();
                config.pcscfs = vec!["[2001:db8:1::a]:5060".parse().unwrap()];
            }
        });
        net.command(REGISTER);
        let r1 = net.request();
        assert_eq!((r1.flow.transport, r1.set), (Transport::Tcp, None));
        assert!(r1.header(Name::Via).starts_with("SIP/2.0/TCP "));
        net.challenge(&r1);
        let r2 = net.request();
        assert_eq!((r2.flow.transport, r2.set), (Transport::Tcp, Some(0)));
        let ports = net.sets[0].set().ports;
        assert_eq!((r2.flow.remote.port(), r2.flow.local.port()), (ports.uc, ports.ps));
        net.accept(&r2, 600_000);
        assert!(matches!(net.event(), Event::Registered { is_protected: true, .. }));
        net.ask_by_tcp(0);
        let reply = net.request();
        assert_eq!(reply.response().status(), 200);
        assert_eq!(reply.flow.remote.port(), ports.us, "on the P-CSCF's own connection");
        assert_eq!((reply.flow.local.port(), reply.set), (ports.pc, Some(0)));
        net.command(REGISTER);
        let refresh = net.request();
        assert_eq!(refresh.flow, r2.flow, "the connection is used again");
        net.challenge(&refresh);
        let answer = net.request();
        assert_eq!(answer.set, Some(1));
        net.accept(&answer, 600_000);
        assert!(matches!(net.event(), Event::Registered { kind: Kind::Refresh, .. }));
        net.command(DEREGISTER);
        let gone = net.request();
        net.answer(&gone, 200, "OK", &[]);
        assert_eq!(net.event(), Event::Deregistered { identity: 0 });
        net.advance(seconds(200));
        assert_eq!(net.removed.len(), 2);
        assert_eq!(net.phone.owed(), 0);
        let sealed_only = net.packets.iter().all(|packet| {
            let esp = if is_v6 { packet[6] } else { packet[9] } == 50;
            esp || matches!(packets::content(packet), Some(packets::Content::Tcp { destination, .. })
                if destination.port() == 5060)
        });
        assert!(sealed_only, "from protected ports nothing leaves in clear");
    }
}

/// RFC 3261 §18.1.1: a REGISTER longer than 1300 octets goes by TCP.
#[test]
fn long_register_goes_by_tcp() {
    let mut net = with(|config| {
        config.feature_tags.push(format!("+g.oma.long=\"{}\"", "x".repeat(900)));
    });
    let (r1, r2) = net.register(3600);
    assert!(r1.text.len() > 1300);
    assert_eq!((r1.flow.transport, r2.flow.transport), (Transport::Tcp, Transport::Tcp));
    assert_eq!(r2.set, Some(0));
}

/// TS 33.203 Annex H: every pair of algorithms, alone and in a list, of which the P-CSCF's favourite
/// is taken.
#[test]
fn every_pair_of_algorithms() {
    let all = [
        ("hmac-sha-1-96", "aes-cbc"),
        ("hmac-sha-1-96", "des-ede3-cbc"),
        ("hmac-sha-1-96", "null"),
        ("hmac-md5-96", "aes-cbc"),
        ("hmac-md5-96", "des-ede3-cbc"),
        ("hmac-md5-96", "null"),
        ("aes-gmac", "null"),
        ("null", "aes-gcm"),
    ]
    .map(|(alg, ealg)| AlgorithmPair {
        alg: Integrity::from_name(alg).unwrap(),
        ealg: Encryption::from_name(ealg).unwrap(),
    });
    for pair in all {
        let mut net = with(|config| config.algorithms = vec![pair]);
        let (_, r2) = net.register(3600);
        assert_eq!(r2.set, Some(0), "{pair:?}");
        let mut net = with(|config| config.algorithms = all.to_vec());
        net.preference = vec![pair];
        net.register(3600);
        let set = net.sets[0].set();
        assert_eq!((set.integrity, set.encryption), (pair.alg, pair.ealg));
    }
}

/// RFC 791 §3.2, RFC 3261 §18.1.1: an answer beyond the MTU arrives in fragments of ESP, and where
/// TCP is refused a long REGISTER leaves in fragments.
#[test]
fn fragments_of_esp() {
    let mut net = with(|config| config.mtu = 700);
    let (r1, r2) = net.register(3600);
    assert_eq!((r1.flow.transport, r2.flow.transport), (Transport::Udp, Transport::Udp));
    assert!(r2.text.len() > 700, "{}", r2.text.len());
    assert!(net.packets.iter().all(|packet| packet.len() <= 700));
    assert!(net.packets.len() > 2);
}

/// IPv6 by UDP.
#[test]
fn registration_over_ipv6() {
    let mut net = with(|config| {
        config.address = "2001:db8::2e".parse().unwrap();
        config.pcscfs = vec!["[2001:db8:1::a]:5060".parse().unwrap()];
    });
    let (r1, r2) = net.register(600_000);
    assert!(r1.header(Name::Contact).starts_with("<sip:[2001:db8::2e]:5060>;"));
    assert_eq!(r2.set, Some(0));
}

/// A phone without sec-agree: the digest alone, everything in clear.
#[test]
fn registration_without_ipsec() {
    let mut net = with(|config| config.ipsec = false);
    net.command(REGISTER);
    let r1 = net.request();
    assert!(!r1.has(Name::SecurityClient) && !r1.has(Name::Require));
    net.challenge(&r1);
    let r2 = net.request();
    assert_eq!(r2.set, None);
    assert!(!r2.has(Name::PAccessNetworkInfo));
    let vector = net.vector.clone().unwrap();
    assert!(digest::verify(&r2.authorization(), vector.xres.expose(), "REGISTER", b""));
    net.accept(&r2, 3600);
    assert!(matches!(net.event(), Event::Registered { is_protected: false, .. }));
}

/// The deliberate faults do what they say (ipsec.md F-01, F-02, F-03, F-06; rows.md S-93).
#[test]
fn deliberate_faults() {
    let second = |change: fn(&mut Faults)| {
        let mut net = faulty(change);
        net.command(REGISTER);
        let r1 = net.request();
        net.challenge(&r1);
        let r2 = net.got.pop_front();
        (net, r1, r2)
    };
    let (net, _, r2) = second(|faults| faults.wrong_response = true);
    let vector = net.vector.unwrap();
    let authorization = r2.unwrap().authorization();
    assert!(!digest::verify(&authorization, vector.xres.expose(), "REGISTER", b""));

    let (net, _, r2) = second(|faults| faults.wrong_association_keys = true);
    assert!(r2.is_none(), "nothing that the P-CSCF could open");
    assert!(spi_of(net.packets.last().unwrap()).is_some());

    let (_, r1, r2) = second(|faults| faults.changed_security_client = true);
    assert_ne!(r1.header(Name::SecurityClient), r2.unwrap().header(Name::SecurityClient));
    let (_, _, r2) = second(|faults| faults.no_security_verify = true);
    assert!(!r2.unwrap().has(Name::SecurityVerify));
    let (net, _, r2) = second(|faults| faults.wrong_security_verify = true);
    let spi = format!("spi-c={};", net.sets[0].set().spis.pc);
    assert!(!r2.unwrap().header(Name::SecurityVerify).contains(&spi));
    let (_, r1, _) = second(|faults| faults.no_security_client = true);
    assert!(!r1.has(Name::SecurityClient));
}

/// TS 24.229 §5.1.1.2.1: another identity registers over the associations of the first; only the
/// last deregistration ends them.
#[test]
fn second_identity() {
    let mut net = Net::new(config());
    net.register(600_000);
    net.command(Command::Register { identity: 1 });
    let other = net.request();
    assert_eq!(other.set, Some(0));
    assert_eq!(other.header(Name::To), "<sip:other@hims.net>");
    net.accept(&other, 600_000);
    assert!(matches!(net.event(), Event::Registered { identity: 1, .. }));
    net.command(DEREGISTER);
    // One procedure at a time: this one waits.
    net.command(Command::Deregister { identity: 1 });
    let first = net.request();
    net.answer(&first, 200, "OK", &[]);
    assert_eq!(net.event(), Event::Deregistered { identity: 0 });
    assert!(net.phone.sets().in_use().is_some());
    let second = net.request();
    assert_eq!(second.header(Name::To), "<sip:other@hims.net>");
    net.answer(&second, 481, "Gone already", &[]);
    assert_eq!(net.event(), Event::Deregistered { identity: 1 });
    assert!(net.phone.sets().in_use().is_none());
}

/// RFC 7616 §3.5: a 200 that proves a wrong RES is no success.
#[test]
fn rspauth() {
    for is_right in [true, false] {
        let mut net = Net::new(config());
        net.command(REGISTER);
        let r1 = net.request();
        net.challenge(&r1);
        let r2 = net.request();
        let res = net.vector.clone().unwrap().xres;
        let mut rspauth = digest::response(&r2.authorization(), res.expose(), "", b"").unwrap();
        if !is_right {
            rspauth = "0".repeat(32);
        }
        let info = format!("qop=auth,rspauth=\"{rspauth}\"");
        let contact = r2.header(Name::Contact).to_string();
        let headers = [(Name::AuthenticationInfo, info.as_str()), (Name::Contact, &contact)];
        net.answer(&r2, 200, "OK", &headers);
        match net.event() {
            Event::Registered { .. } => assert!(is_right),
            Event::Failed { cause: Cause::NetworkNotAuthentic, .. } => assert!(!is_right),
            other => panic!("{other:?}"),
        }
    }
}

/// The same seed gives the same octets: a failing run can be run again.
#[test]
fn deterministic() {
    let run = || {
        let mut net = Net::new(config());
        net.register(3600);
        net.command(DEREGISTER);
        net.packets
    };
    assert_eq!(run(), run());
}

/// Lost power, and another address: everything starts in clear (ipsec.md L-13).
#[test]
fn forget_and_move() {
    let mut net = Net::new(config());
    let (_, r2) = net.register(600_000);
    net.command(Command::Forget);
    assert_eq!(net.phone.sets().iter().count(), 0);
    assert_eq!(net.phone.next_timeout(), None);
    let (r1, _) = net.register(600_000);
    assert_eq!(r1.set, None);
    assert_ne!(r1.header(Name::CallId), r2.header(Name::CallId));
    net.command(Command::Move { address: "10.133.202.99".parse().unwrap() });
    let moved = net.request();
    assert_eq!(moved.flow.remote.to_string(), "10.133.202.99:5060");
    assert_eq!(moved.set, None);
}

/// TS 24.229 §5.1.1.2.1, §7.9.2, §7.9.3; registration.md U-06: all services and applications in one tag each, as real
/// phones write them.
#[test]
fn services_in_contact() {
    let mut net = with(|config| {
        config.icsis.push("urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg,x".to_owned());
        config.iaris = vec![
            "urn:urn-7:3gpp-application.ims.iari.rcse.im".to_owned(),
            "urn:urn-7:3gpp-application.ims.iari.rcs.fthttp".to_owned(),
        ];
    });
    net.command(REGISTER);
    let r1 = net.request();
    let expected = ";+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel,\
        urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg%2Cx\"\
        ;+g.3gpp.iari-ref=\"urn%3Aurn-7%3A3gpp-application.ims.iari.rcse.im,\
        urn%3Aurn-7%3A3gpp-application.ims.iari.rcs.fthttp\";+g.3gpp.smsip;";
    let contact = r1.header(Name::Contact);
    assert!(contact.contains(expected), "{contact}");
}
