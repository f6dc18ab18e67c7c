//! What a phone makes of refusals, silence, and challenges that are odd (TS 24.229 §5.1.1.4.1, §5.1.1.5,
//! §5.1.1.6, §5.1.6.2).

mod net;

use std::time::Duration;

use common::ipsec::agree::AlgorithmPair;
use common::ipsec::sa::{Encryption, Integrity};
use common::sip::header::Name;
use net::{Got, Net, config, www_authenticate};
use ue::{Cause, Command, Config, Event, InvalidChallenge, Kind};

const REGISTER: Command = Command::Register { identity: 0 };
const SECOND_PCSCF: &str = "192.0.2.11:5060";

fn with(change: impl FnOnce(&mut Config)) -> Net {
    let mut config = config();
    change(&mut config);
    Net::new(config)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// TS 24.229 §5.1.1.4.1; S-131: 305 to a refresh: another P-CSCF, and an initial registration there; the Contact of
/// the answer says nothing.
#[test]
fn a_refresh_is_sent_elsewhere() {
    let mut net = with(|config| config.pcscfs.push(SECOND_PCSCF.parse().unwrap()));
    net.register(600_000);
    net.command(REGISTER);
    let refresh = net.request();
    net.answer(&refresh, 305, "Use Proxy", &[(Name::Contact, "<sip:192.0.2.66>")]);
    assert!(matches!(net.event(), Event::Failed { kind: Kind::Refresh, .. }));
    let r1 = net.request();
    assert_eq!((r1.flow.local.to_string().as_str(), r1.set), (SECOND_PCSCF, None));
    assert_ne!(r1.header(Name::CallId), refresh.header(Name::CallId));
}

/// TS 24.229 §5.1.1.4.1: 408, 500 and 504 to a refresh: an initial registration follows, and not before Retry-After
/// is over; behind a 503 a refresh.
#[test]
fn a_refresh_is_put_off() {
    for (status, is_initial) in [(408, true), (500, true), (504, true), (503, false)] {
        let mut net = Net::new(config());
        net.register(600_000);
        net.command(REGISTER);
        let refresh = net.request();
        net.answer(&refresh, status, "Later", &[(Name::RetryAfter, "90")]);
        let Event::Failed { retry_at, .. } = net.event() else { panic!() };
        assert_eq!(retry_at, Some(net.now + seconds(90)));
        net.advance(seconds(89));
        assert!(net.got.is_empty(), "{status}");
        net.advance(seconds(2));
        let next = net.got.pop_front().expect("another REGISTER");
        assert_eq!(next.set.is_none(), is_initial, "{status}");
        let is_same = next.header(Name::CallId) == refresh.header(Name::CallId);
        assert_eq!(is_same, !is_initial, "{status}");
    }
}

/// TS 24.229 §5.1.1.6: a deregistration that nobody answers is the end all the same, and no reason to come back.
#[test]
fn a_silent_deregistration() {
    let mut net = Net::new(config());
    net.register(600_000);
    net.command(Command::Deregister { identity: 0 });
    net.got.clear();
    net.is_cut = true;
    net.advance(seconds(129));
    net.is_cut = false;
    net.got.clear();
    assert!(matches!(net.events[0], Event::Failed { kind: Kind::Deregistration, .. }));
    assert!(net.phone.registration(0).is_none());
    net.advance(seconds(7_200));
    assert!(net.got.is_empty(), "{:?}", net.got);
}

/// TS 24.229 §5.1.6.2, §7.8; registration.md T-12: an initial emergency registration that takes too long has failed,
/// long before timer F; one that is done in time has nothing more to fear.
#[test]
fn an_emergency_registration_in_time() {
    let mut net = with(|config| config.is_emergency = true);
    net.command(REGISTER);
    net.got.clear();
    net.advance(seconds(9));
    assert!(net.events.is_empty());
    net.advance(seconds(2));
    let Event::Failed { cause: Cause::Timeout, kind: Kind::Initial, .. } = net.events[0] else {
        panic!("{:?}", net.events)
    };
    let mut net = with(|config| config.is_emergency = true);
    net.register(600);
    net.advance(seconds(60));
    assert!(net.events.is_empty(), "{:?}", net.events);
}

const NULL: AlgorithmPair = AlgorithmPair { alg: Integrity::HmacMd5_96, ealg: Encryption::Null };

/// A challenge with these lines of Security-Server; `SPIS` stands for SPIs and ports.
fn challenge_listing(net: &mut Net, r1: &Got, lines: &[&str]) {
    let vector = net.next_vector();
    let line = www_authenticate(&vector);
    net.agree(r1, &vector).expect("a set");
    let set = net.sets.last().unwrap().set();
    let spis = format!(
        "spi-c={};spi-s={};port-c={};port-s={}",
        set.spis.pc, set.spis.ps, set.ports.pc, set.ports.ps
    );
    let lines: Vec<String> = lines.iter().map(|line| line.replace("SPIS", &spis)).collect();
    let mut headers = vec![(Name::WwwAuthenticate, line.as_str())];
    headers.extend(lines.iter().map(|line| (Name::SecurityServer, line.as_str())));
    net.answer(r1, 401, "Unauthorized", &headers);
}

/// RFC 3329 §2.3.1: of those that it has offered, the one with the highest q, wherever it stands, in one line or in
/// several; all that was listed is repeated in Security-Verify.
#[test]
fn the_mechanism_with_the_highest_q() {
    let sha = "ipsec-3gpp;q=0.2;prot=esp;mod=trans;alg=hmac-sha-1-96;ealg=aes-cbc;SPIS";
    let md5 = "ipsec-3gpp;q=0.7;prot=esp;mod=trans;alg=hmac-md5-96;ealg=null;SPIS";
    let unknown = "ipsec-3gpp;q=0.9;prot=esp;mod=trans;alg=hmac-sha-512;ealg=null;SPIS";
    let in_one_line = [sha, unknown, md5].join(", ");
    for lines in [&[in_one_line.as_str()][..], &[sha, unknown, md5], &[md5, sha]] {
        let mut net = with(|config| config.algorithms.push(NULL));
        net.preference = vec![NULL];
        net.command(REGISTER);
        let r1 = net.request();
        challenge_listing(&mut net, &r1, lines);
        let r2 = net.request();
        assert_eq!(r2.set, Some(0), "{lines:?}");
        let verified: Vec<_> = r2.request().headers().values(Name::SecurityVerify).collect();
        assert_eq!(verified.len(), lines.join(", ").split(", ").count());
        net.accept(&r2, 3_600);
        assert!(matches!(net.event(), Event::Registered { is_protected: true, .. }));
    }
}

/// TS 24.229 §5.1.1.5.1: a Security-Server without what makes a set, or with nothing that was offered, is none: the
/// phone begins anew.
#[test]
fn an_incomplete_security_server() {
    for line in [
        "ipsec-3gpp;q=0.9;alg=hmac-sha-1-96;ealg=aes-cbc;spi-s=4;port-c=5;port-s=6",
        "ipsec-3gpp;q=0.9;alg=hmac-sha-1-96;ealg=aes-cbc;spi-c=3;spi-s=4;port-c=5",
        "ipsec-3gpp;q=0.9;alg=hmac-sha-1-96;ealg=aes-cbc;spi-c=3;spi-s=4;port-c=x;port-s=6",
        "ipsec-3gpp;q=0.9;alg=hmac-md5-96;ealg=null;SPIS",
        "tls;q=0.9",
        "ipsec-3gpp",
    ] {
        let mut net = Net::new(config());
        net.command(REGISTER);
        let r1 = net.request();
        challenge_listing(&mut net, &r1, &[line]);
        let reason = InvalidChallenge::SecurityServer;
        assert_eq!(net.event(), Event::ChallengeRefused { identity: 0, reason }, "{line}");
        let again = net.request();
        assert_ne!(again.header(Name::CallId), r1.header(Name::CallId), "{line}");
        assert_eq!(net.phone.sets().iter().count(), 0, "{line}");
    }
}

/// TS 24.229 §5.1.1.5.3, TS 33.203 §7.4: a challenge of a refresh that the card does not take is answered over the set
/// that protects the refresh, which stays, whatever becomes of it.
#[test]
fn an_invalid_challenge_over_a_set() {
    for is_mac in [true, false] {
        let mut net = Net::new(config());
        net.register(600_000);
        net.command(REGISTER);
        let refresh = net.request();
        let mut vector = net.next_vector();
        match is_mac {
            true => vector.autn[15] ^= 1,
            // Not above what the card has seen.
            false => vector = net.old_vector(),
        }
        net.challenge_with(&refresh, &vector);
        let reason = if is_mac { InvalidChallenge::Mac } else { InvalidChallenge::Sqn };
        assert_eq!(net.event(), Event::ChallengeRefused { identity: 0, reason });
        let answer = net.request();
        assert_eq!(answer.set, Some(0), "over the set in use");
        let authorization = answer.authorization();
        assert_eq!(authorization.get("auts").is_some(), !is_mac);
        assert_eq!(answer.header(Name::CallId), refresh.header(Name::CallId));
        assert_ne!(answer.offer()["spi-c"], refresh.offer()["spi-c"]);
        // What the phone offers now is what counts.
        net.challenge(&answer);
        let r2 = net.request();
        net.accept(&r2, 600_000);
        assert!(matches!(net.events.last(), Some(Event::Registered { kind: Kind::Refresh, .. })));
        assert!(net.phone.registration(0).is_some());
    }
}

/// TS 24.229 §5.1.1.3: the identity that was registered is barred: the phone watches the default one of
/// P-Associated-URI.
#[test]
fn a_barred_identity_is_not_watched() {
    let mut net = with(|config| config.subscribes = true);
    net.command(REGISTER);
    let r1 = net.request();
    net.challenge(&r1);
    let r2 = net.request();
    let contact = r2.header(Name::Contact).to_owned();
    net.answer(
        &r2,
        200,
        "OK",
        &[
            (Name::Contact, &contact),
            (Name::ServiceRoute, "<sip:orig@scscf1.hims.net;lr>"),
            (Name::PAssociatedUri, "<tel:+11234567890>, <sip:other@hims.net>"),
        ],
    );
    let subscribe = net.request();
    assert!(subscribe.text.starts_with("SUBSCRIBE tel:+11234567890 SIP/2.0\r\n"));
    assert_eq!(subscribe.header(Name::To), "<tel:+11234567890>");
    assert_eq!(subscribe.header(Name::PPreferredIdentity), "<tel:+11234567890>");
}

/// TS 24.229 §5.1.6.3, §5.1.6.4, §5.1.6.6; registration.md EM-4: an emergency registration is neither watched, nor
/// refreshed by itself or in its first half, nor ended; it expires, and that is all.
#[test]
fn an_emergency_registration_is_left_alone() {
    let mut net = with(|config| {
        config.is_emergency = true;
        config.subscribes = true;
    });
    net.register(600);
    assert!(net.got.is_empty(), "no SUBSCRIBE");
    for (command, kind, cause) in [
        (Command::Deregister { identity: 0 }, Kind::Deregistration, Cause::EmergencyStays),
        (REGISTER, Kind::Refresh, Cause::EmergencyNotDue),
    ] {
        net.command(command);
        assert!(net.got.is_empty(), "{cause:?}");
        let (retry_at, calls_unregistered) = (None, false);
        let failed = Event::Failed { identity: 0, kind, cause, retry_at, calls_unregistered };
        assert_eq!(net.event(), failed);
    }
    net.advance(seconds(300));
    assert!(net.got.is_empty(), "no refresh by itself");
    // Its user calls again.
    net.command(REGISTER);
    let refresh = net.request();
    net.accept(&refresh, 600);
    assert!(matches!(net.event(), Event::Registered { kind: Kind::Refresh, .. }));
    net.advance(seconds(7_200));
    assert_eq!(net.event(), Event::Lost { identity: 0 });
    assert!(net.got.is_empty(), "and not once more");
}

/// TS 24.229 §5.1.6.2, §5.1.6.8.2; registration.md EM-6: whatever ends an initial emergency registration, the call goes
/// out without one, and the phone does not try again.
#[test]
fn an_emergency_call_without_registration() {
    for status in [403, 480, 500, 503, 504] {
        let mut net = with(|config| {
            config.is_emergency = true;
            config.pcscfs.push(SECOND_PCSCF.parse().unwrap());
        });
        net.command(REGISTER);
        let r1 = net.request();
        net.answer(&r1, status, "No", &[(Name::RetryAfter, "5")]);
        let Event::Failed { retry_at, calls_unregistered, .. } = net.event() else { panic!() };
        assert_eq!((retry_at, calls_unregistered), (None, true), "{status}");
        net.advance(seconds(7_200));
        assert!(net.got.is_empty(), "{status}: no automatic attempt");
    }
}

/// TS 24.229 §5.1.1.5.3; registration.md U-11: two invalid challenges in a row are answered, of whatever kind.
#[test]
fn no_third_invalid_challenge_is_answered() {
    for kinds in [[false, false, false], [false, true, false], [true, false, true]] {
        let mut net = Net::new(config());
        net.register(600_000);
        net.command(REGISTER);
        let mut last = net.request();
        for (number, is_mac) in kinds.into_iter().enumerate() {
            let mut vector = net.old_vector();
            if is_mac {
                vector.autn[15] ^= 1;
            }
            net.challenge_with(&last, &vector);
            if number < 2 {
                last = net.request();
            }
        }
        assert!(net.got.is_empty(), "{kinds:?}");
        let failed = Cause::InvalidChallenges;
        let Some(Event::Failed { cause, retry_at: None, .. }) = net.events.last() else { panic!() };
        assert_eq!(*cause, failed);
        // Not even when the registration runs out.
        net.advance(seconds(700_000));
        assert_eq!(net.events.last(), Some(&Event::Lost { identity: 0 }));
        assert!(net.got.is_empty(), "{kinds:?}");
    }
}

/// TS 24.229 §5.1.1.5.1; registration.md U-24, U-26: a refused refresh is not tried again when the registration runs out:
/// never behind a 403, behind a 503 not before Retry-After is over.
#[test]
fn a_refusal_outlasts_the_registration() {
    for status in [403, 503] {
        let mut net = Net::new(config());
        net.register(1_000);
        net.command(REGISTER);
        let refresh = net.request();
        net.answer(&refresh, status, "No", &[(Name::RetryAfter, "5000")]);
        net.advance(seconds(4_999));
        assert_eq!(net.events.last(), Some(&Event::Lost { identity: 0 }));
        assert!(net.got.is_empty(), "{status}");
        net.advance(seconds(2));
        assert_eq!(net.got.len(), usize::from(status == 503));
    }
}

/// TS 33.203 §7.4; registration.md T-01, T-07: a temporary set lasts four minutes; an established one as long as the one
/// before, or 30 s longer than the registration, whichever is later.
#[test]
fn lives_of_sets() {
    for (granted, is_cut) in [(3_600, true), (700_000, false)] {
        let mut net = Net::new(config());
        net.register(600_000);
        let before = net.phone.sets().in_use().and_then(|id| net.phone.sets().get(id)).unwrap();
        let before = before.ends_at;
        net.command(REGISTER);
        let refresh = net.request();
        net.challenge(&refresh);
        let answer = net.request();
        let sets = net.phone.sets();
        let temporary = sets.temporary().and_then(|id| sets.get(id)).unwrap();
        assert_eq!(temporary.ends_at, net.now + seconds(240));
        net.accept(&answer, granted);
        let sets = net.phone.sets();
        let in_use = sets.in_use().and_then(|id| sets.get(id)).unwrap();
        let expected = if is_cut { before } else { net.now + seconds(700_030) };
        assert_eq!(in_use.ends_at, expected, "{granted}");
    }
}

/// TS 33.203 §7.4.1a; registration.md U-13: an old set that the P-CSCF never leaves goes when its life ends, and no
/// sooner; the registration stays.
#[test]
fn an_old_set_runs_out() {
    let mut net = Net::new(config());
    net.register(3_600);
    net.command(REGISTER);
    let refresh = net.request();
    net.challenge(&refresh);
    let answer = net.request();
    net.accept(&answer, 600_000);
    net.advance(seconds(3_629));
    assert_eq!(net.removed, []);
    net.advance(seconds(1));
    assert_eq!(net.removed.len(), 1);
    assert!(net.phone.registration(0).is_some());
}

/// TS 24.229 §5.1.1.4.1; registration.md U-16: a set that is dead takes with it all identities that it protects, the
/// subscription, and what waits for an answer there.
#[test]
fn a_dead_set_takes_all_with_it() {
    let mut net = with(|config| {
        config.subscribes = true;
        config.automatic = false;
    });
    net.command(REGISTER);
    let r1 = net.request();
    net.challenge(&r1);
    let r2 = net.request();
    net.accept(&r2, 600_000);
    let subscribe = net.request();
    let headers = [(Name::Contact, "<sip:scscf1.hims.net>"), (Name::Expires, "200")];
    net.answer(&subscribe, 200, "OK", &headers);
    net.command(Command::Register { identity: 1 });
    let other = net.got.pop_front().unwrap();
    net.accept(&other, 600_000);
    net.is_cut = true;
    net.command(REGISTER);
    // At half of it the phone subscribes again: that SUBSCRIBE has most of its time before it.
    net.advance(seconds(127));
    assert!(net.phone.owed() > 1);
    net.events.clear();
    net.advance(seconds(1));
    assert_eq!(net.phone.owed(), 0);
    for identity in [0, 1] {
        assert!(net.events.contains(&Event::Lost { identity }), "{:?}", net.events);
        assert!(
            net.phone.registration(identity).is_none() && net.phone.watched(identity).is_none()
        );
    }
    assert_eq!(net.removed.len(), 1);
}
