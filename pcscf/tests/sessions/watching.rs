//! The P-CSCF watches the state of registrations (TS 24.229 §5.2.3), and what documents end.

use std::time::Duration;

use common::node::{Input, Node};
use common::reginfo::{Event, RegInfo, Registration, State};
use common::sip::header::Name;
use common::sip::message::Request;
use pcscf::config::Policy;

use crate::lone::*;

/// TS 24.229 §5.2.3; S-101: behind the 200, to the entry point, about the default identity, in the
/// P-CSCF's own name; once, and renewed in time within the dialog.
#[test]
fn the_pcscf_watches() {
    let mut lone = Lone::registered(config(true));
    let subscribe = lone.watched();
    assert_eq!(subscribe.uri(), ALICE);
    let headers = subscribe.headers();
    assert!(headers.get(Name::From).unwrap().starts_with("<sip:pcscf1.visited.example>;tag="));
    assert_eq!(headers.get(Name::To), Some("<sip:alice@home.example>"));
    assert_eq!(headers.get(Name::PAssertedIdentity), Some("<sip:pcscf1.visited.example>"));
    assert_eq!(headers.get(Name::Contact), Some("<sip:pcscf1.visited.example>"));
    assert_eq!(headers.get(Name::Event), Some("reg"));
    assert_eq!(headers.get(Name::Expires), Some("600000"));
    assert!(headers.has(Name::PChargingVector) && !headers.has(Name::Route));
    let active = [(ALICE, Event::Registered, true, 3_600), (NUMBER, Event::Created, true, 3_600)];
    lone.from_core(document(&subscribe, 1, "active;expires=600000", &active));
    lone.response(200);
    lone.is_silent();
    assert_eq!(lone.core.owed(), 0);
    assert_eq!(lone.counter("tessera_pcscf_watches", ""), 1);
    // Late, unreadable, of nobody.
    let late = document(&subscribe, 1, "active", &active);
    let late = String::from_utf8(late.to_vec()).unwrap().replace("z9hG4bKd1", "z9hG4bKlate");
    lone.from_core(late.clone().into());
    lone.response(500);
    let broken = late.replace("CSeq: 1", "CSeq: 9").replace("z9hG4bKlate", "z9hG4bKbroken");
    lone.from_core(broken.replace("<reginfo", "<reginfa").into());
    lone.response(400);
    lone.from_core(broken.replace("broken", "odd").replace("tag=home", "tag=odd").into());
    lone.response(481);
}

/// TS 24.229 §5.1.1.3, §5.2.3, RFC 6665 §4.1.2.2: renewed 600 s before the end of more than 1200 s, else after half
/// of what was granted, and never without a pause.
#[test]
fn a_watch_is_renewed_in_time() {
    for (granted, renewed) in
        [(0, 30), (1, 30), (100, 50), (600, 300), (1_200, 600), (1_201, 601), (3_000, 2_400)]
    {
        let mut lone = Lone::registered(config(true));
        let first = lone.watched_for(granted);
        lone.pass(Duration::from_secs(renewed - 1));
        lone.is_silent();
        lone.pass(Duration::from_millis(1_200));
        let (_, second) = lone.request();
        assert_eq!(second.call_id(), first.call_id(), "{granted}");
        assert!(second.to_tag().is_some(), "{granted}");
        // The home network knows that dialog no more: another one, later.
        lone.from_core(second.response(481, "Subscription Does Not Exist").to_bytes());
        lone.pass(Duration::from_secs(299));
        lone.is_silent();
        lone.pass(Duration::from_secs(2));
        let (_, third) = lone.request();
        assert_ne!(third.call_id(), first.call_id(), "{granted}");
    }
}

/// TS 24.229 §5.2.3: a phone that registers initially, having lost what it had, is watched anew, and what an earlier S-CSCF still
/// says ends nothing; a re-registration leaves subscription and dialogs as they are, and so does an emergency registration
/// (§5.1.6.2).
#[test]
fn an_initial_registration_is_watched_anew() {
    const NEXT: &str = "ipsec-3gpp;alg=hmac-sha-1-96;ealg=aes-cbc;prot=esp;mod=trans;spi-c=7003;\
                        spi-s=7004;port-c=31002;port-s=31001";
    for (is_initial, more) in [(true, ""), (false, ""), (true, ";sos")] {
        let mut lone = Lone::registered(config(true));
        let first = lone.set.clone().unwrap().id;
        let earlier = lone.watched();
        lone.protected(&subscribe(&[]));
        let (_, request) = lone.request();
        lone.from_core(taken(&request).to_bytes());
        lone.response(200);
        lone.registers(if is_initial { 5060 } else { 31_001 }, 3, NEXT, more);
        if !more.is_empty() {
            lone.is_silent();
            assert_eq!(lone.counter("tessera_pcscf_emergency_registrations", ""), 1);
            assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), 1);
            // What the home network says of one contact ends nothing of the other.
            let ended = [(ALICE, Event::Rejected, false, 0), (NUMBER, Event::Rejected, false, 0)];
            let text = document(&earlier, 1, "active;expires=60", &ended).to_vec();
            let text = String::from_utf8(text).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let length = format!("Content-Length: {}", body.len());
            let body = body
                .replace(&format!("sip:{UE}:31001"), &format!("sip:{UE}:31001;sos"))
                .replace("state=\"terminated\">\n<contact", "state=\"active\">\n<contact");
            let head = head.replace(&length, &format!("Content-Length: {}", body.len()));
            lone.from_core(format!("{head}\r\n\r\n{body}").into());
            lone.response(200);
            assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 2);
            lone.from_core(document(&earlier, 2, "terminated;reason=rejected", &ended));
            lone.response(200);
            assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
            assert_eq!(lone.counter("tessera_pcscf_emergency_registrations", ""), 1);
            lone.pass(Duration::from_secs(129));
            assert_eq!(lone.removed, [first]);
            continue;
        }
        assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), u64::from(!is_initial));
        let current = if is_initial { lone.watched() } else { earlier.clone() };
        assert_eq!(current.call_id() == earlier.call_id(), !is_initial);
        lone.is_silent();
        let ended = [(ALICE, Event::Deactivated, false, 0), (NUMBER, Event::Deactivated, false, 0)];
        lone.from_core(document(&earlier, 1, "terminated;reason=deactivated", &ended));
        lone.response(if is_initial { 481 } else { 200 });
        let left = lone.counter("tessera_pcscf_registrations", "");
        assert_eq!(left, u64::from(is_initial));
        if is_initial {
            lone.from_core(document(&current, 2, "terminated;reason=deactivated", &ended));
            lone.response(200);
            assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
        }
    }
}

/// TS 24.229 §5.2.5.2; S-123: what the home network has ended is ended here: the registration at
/// once, the associations when the NOTIFY to the UE has passed.
#[test]
fn the_home_network_deregisters() {
    for event in [Event::Deactivated, Event::Rejected, Event::Expired] {
        let mut lone = Lone::registered(config(true));
        let subscribe = lone.watched();
        let ended = [(ALICE, event, false, 0), (NUMBER, event, false, 0)];
        lone.from_core(document(&subscribe, 1, "terminated;reason=x", &ended));
        lone.response(200);
        lone.is_silent();
        assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0, "{event:?}");
        assert_eq!(lone.counter("tessera_pcscf_watches", ""), 0);
        lone.pass(Duration::from_secs(127));
        assert_eq!(lone.removed, []);
        lone.pass(Duration::from_secs(2));
        assert_eq!(lone.removed, [lone.set.clone().unwrap().id]);
        // Nobody speaks on it any more, and the copy of the UE is still passed on before.
    }
    let mut lone = Lone::registered(config(true));
    let subscribe = lone.watched();
    let ended = [(ALICE, Event::Deactivated, false, 0), (NUMBER, Event::Deactivated, false, 0)];
    lone.from_core(document(&subscribe, 1, "terminated;reason=deactivated", &ended));
    lone.response(200);
    lone.from_core(notify(&format!("sip:{UE}:31001")));
    let (flow, _) = lone.request();
    assert_eq!(flow.remote.port(), 31_001);
}

/// TS 24.229 §5.2.5.2, §5.4.2.1.2: the P-CSCF hears of the end before the phone has subscribed: its SUBSCRIBE passes, and so does
/// the NOTIFY in that dialog; until nobody can be under way any more.
#[test]
fn the_end_is_told_to_a_phone_that_subscribes_behind_it() {
    let mut lone = Lone::registered(config(true));
    let watch = lone.watched();
    let ended = [(ALICE, Event::Rejected, false, 0), (NUMBER, Event::Rejected, false, 0)];
    lone.from_core(document(&watch, 1, "terminated;reason=rejected", &ended));
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    lone.protected(&subscribe(&[]));
    let (_, request) = lone.request();
    assert_eq!(request.headers().get(Name::PAssertedIdentity), Some("<sip:alice@home.example>"));
    lone.from_core(taken(&request).to_bytes());
    lone.response(200);
    lone.from_core(notify("sip:phone.invalid"));
    let (flow, _) = lone.request();
    assert_eq!(flow.remote.port(), 31_001);
    lone.pass(Duration::from_secs(100));
    assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), 1);
    lone.pass(Duration::from_secs(29));
    assert_eq!(lone.removed, [lone.set.clone().unwrap().id]);
    assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), 0);
}

/// TS 24.229 §5.2.3, §5.2.5.2; RFC 3680 §4.1: the P-CSCF's own SUBSCRIBE finds nobody registered any more; what the phone is told in the end
/// of its subscription ends the registration here, too.
#[test]
fn the_end_that_only_the_phone_is_told() {
    const END: &str = "terminated;reason=rejected";
    let of_another = ("SUBSCRIBE sip:alice@home.example", "SUBSCRIBE sip:bob@home.example");
    for (state, change, tag, left) in [
        (END, None, "t", 0),
        ("active;expires=60", None, "t", 1),
        // Not about its own registration, or not from whom it has subscribed with.
        (END, Some(("Event: reg", "Event: presence")), "t", 1),
        (END, Some(of_another), "t", 1),
        (END, None, "x", 1),
    ] {
        let mut lone = Lone::registered(config(true));
        let (_, watch) = lone.request();
        lone.from_core(watch.response(480, "Temporarily Unavailable").to_bytes());
        lone.protected(&subscribe(change.as_slice()));
        let (_, request) = lone.request();
        lone.from_core(taken(&request).to_bytes());
        lone.response(200);
        let ended = [(ALICE, Event::Rejected, false, 0), (NUMBER, Event::Rejected, false, 0)];
        let text = String::from_utf8(document(&watch, 1, state, &ended).to_vec()).unwrap();
        let text = text
            .replace("NOTIFY sip:pcscf1.visited.example ", &format!("NOTIFY sip:{UE}:31001 "))
            .replace("Max-Forwards", "Route: <sip:mo@pcscf1.visited.example;lr>\r\nMax-Forwards")
            .replace(watch.call_id(), "watch1")
            .replace(watch.headers().get(Name::From).unwrap(), "<sip:alice@home.example>;tag=s")
            .replace(";tag=home", &format!(";tag={tag}"));
        lone.from_core(text.into());
        let (flow, notify) = lone.request();
        assert_eq!(flow.remote.port(), 31_001);
        assert!(notify.body().starts_with(b"<?xml"));
        let case = format!("{state} {change:?} {tag}");
        assert_eq!(lone.counter("tessera_pcscf_registrations", ""), left, "{case}");
    }
}

/// TS 24.229 §5.2.3: one identity of several goes, or comes; a shorter time; a subscription that ends
/// while the registration stays is made anew.
#[test]
fn the_home_network_changes_a_registration() {
    let mut lone = Lone::registered(config(true));
    let watch = lone.watched();
    let changed = [
        (ALICE, Event::Shortened, true, 60),
        (NUMBER, Event::Unregistered, false, 0),
        ("tel:+12025550199", Event::Created, true, 60),
    ];
    lone.from_core(document(&watch, 1, "active;expires=600000", &changed));
    lone.response(200);
    for (number, (preferred, asserted)) in
        [(NUMBER, ALICE), ("tel:+12025550199", "tel:+12025550199")].into_iter().enumerate()
    {
        let branch = format!("z9hG4bKp{number}");
        lone.protected(&subscribe(&[
            ("Identity: <sip:alice@home.example>", &format!("Identity: <{preferred}>")),
            ("z9hG4bKs1", &branch),
            ("watch1", &branch),
        ]));
        let (_, request) = lone.request();
        let expected = format!("<{asserted}>");
        assert_eq!(request.headers().get(Name::PAssertedIdentity), Some(&expected[..]));
        lone.from_core(request.response(403, "Forbidden").to_bytes());
        lone.response(403);
    }
    lone.from_core(document(&watch, 2, "terminated;reason=timeout", &changed[..1]));
    lone.response(200);
    let (_, again) = lone.request();
    assert_ne!(again.call_id(), watch.call_id());
    lone.from_core(again.response(404, "Not Found").to_bytes());
    lone.pass(Duration::from_secs(91));
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    assert_eq!(lone.removed, [lone.set.clone().unwrap().id]);
}

/// TS 24.229 §5.2.3; RFC 3680 §5.1, §5.2: what ended while nobody could say why: a full document with nobody in it ends the
/// registration as well; one about other contacts does not.
#[test]
fn a_document_without_contacts() {
    let of_all = |state| [(ALICE, state), (NUMBER, state)].to_vec();
    for (registrations, is_full, left) in [
        (of_all(State::Terminated), true, 0),
        (of_all(State::Init), true, 0),
        (of_all(State::Active), true, 1),
        // With the one that is watched goes the set, unless another one of it is there.
        (vec![(ALICE, State::Init)], true, 0),
        (vec![(ALICE, State::Terminated)], true, 0),
        (vec![(ALICE, State::Terminated)], false, 1),
        (vec![(ALICE, State::Terminated), (NUMBER, State::Active)], true, 1),
        (vec![("sip:bob@home.example", State::Terminated)], true, 1),
    ] {
        let case = format!("{registrations:?} {is_full}");
        let mut lone = Lone::registered(config(true));
        let watch = lone.watched();
        let active =
            [(ALICE, Event::Registered, true, 3_600), (NUMBER, Event::Created, true, 3_600)];
        let text = String::from_utf8(document(&watch, 1, "active", &active).to_vec()).unwrap();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        let registrations = registrations.into_iter().map(|(aor, state)| Registration {
            aor: aor.to_owned(),
            id: aor.to_owned(),
            state,
            wildcarded_identity: None,
            contacts: Vec::new(),
        });
        let info = RegInfo { version: 1, is_full, registrations: registrations.collect() };
        let body = info.to_xml();
        let head: Vec<&str> =
            head.lines().filter(|line| !line.starts_with("Content-Length")).collect();
        let head = head.join("\r\n");
        let length = body.len();
        lone.from_core(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").into());
        lone.response(200);
        assert_eq!(lone.counter("tessera_pcscf_registrations", ""), left, "{case}");
    }
}

impl Lone {
    /// Registered, watched, and told so by a first document.
    fn told() -> (Lone, Request) {
        let mut lone = Lone::registered(config(true));
        let watch = lone.watched();
        lone.hears(&watch, 1, "active;expires=600000", &about(0, true, &[(OWN, true)]));
        lone.is_silent();
        (lone, watch)
    }

    fn hears(&mut self, watch: &Request, cseq: u32, state: &str, info: &RegInfo) {
        self.from_core(notify_of(watch, cseq, state, info));
        self.response(200);
        self.pass(Duration::ZERO);
    }

    /// A SUBSCRIBE within the dialog, which is taken.
    fn refreshed(&mut self, watch: &Request) {
        let (_, again) = self.request();
        assert_eq!((again.call_id(), again.to_tag()), (watch.call_id(), Some("home")));
        let mut response = again.response(200, "OK");
        response.headers_mut().append(Name::Expires, "600000");
        self.from_core(response.to_bytes());
        self.pass(Duration::ZERO);
    }

    fn heard(&self, outcome: &str) -> u64 {
        self.counter("tessera_pcscf_watch_events_total", outcome)
    }
}

/// RFC 3680 §5.1, §5.2: a document that is older than what is known, or the same, is not looked at; one about changes that
/// comes behind a lost one holds, and everything is asked for, once; and that ends what the lost one has told the end of,
/// though others have the identity.
#[test]
fn documents_out_of_order() {
    let (mut lone, watch) = Lone::told();
    let active = "active;expires=600000";
    lone.hears(&watch, 2, active, &about(0, true, &[(OWN, false)]));
    assert_eq!((lone.heard("stale"), lone.heard("gap")), (1, 0));
    lone.is_silent();
    lone.hears(&watch, 3, active, &about(2, false, &[(OTHER, true)]));
    assert_eq!((lone.heard("stale"), lone.heard("gap")), (1, 1));
    assert_eq!(lone.sent.len(), 1);
    lone.hears_meanwhile(&watch, 4, &about(4, false, &[(OTHER, true)]));
    assert_eq!(lone.heard("gap"), 2);
    lone.refreshed(&watch);
    lone.is_silent();
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
    lone.hears(&watch, 5, active, &about(5, true, &[(OTHER, true)]));
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    lone.is_silent();
    // An end holds, whatever was lost before it.
    let (mut lone, watch) = Lone::told();
    lone.hears(&watch, 2, active, &about(7, false, &[(OWN, false)]));
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    lone.is_silent();
    // What comes in order is asked for by nobody.
    let (mut lone, watch) = Lone::told();
    lone.hears(&watch, 2, active, &about(1, false, &[(OTHER, true)]));
    lone.hears(&watch, 3, active, &about(9, true, &[(OWN, true), (OTHER, true)]));
    assert_eq!((lone.heard("stale"), lone.heard("gap")), (0, 0));
    lone.is_silent();
    // A contact that was never shown is not missed.
    let mut lone = Lone::registered(config(true));
    let watch = lone.watched();
    lone.hears(&watch, 1, active, &about(0, true, &[(OTHER, true)]));
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
}

impl Lone {
    /// A NOTIFY that comes before what has been sent is looked at.
    fn hears_meanwhile(&mut self, watch: &Request, cseq: u32, info: &RegInfo) {
        let before = std::mem::take(&mut self.sent);
        self.hears(watch, cseq, "active;expires=600000", info);
        self.is_silent();
        self.sent = before;
    }
}

/// RFC 3680 §5.2, RFC 6665 §4.2.1.2: a notifier that leaves something out whenever it says anything is asked with growing pauses.
#[test]
fn a_notifier_with_gaps_is_not_asked_without_end() {
    let (mut lone, watch) = Lone::told();
    let (mut number, mut asked) = (1, Vec::new());
    let began = lone.now;
    while lone.now.since(began) < Duration::from_secs(1_000) {
        number += 1;
        let info = about(number * 2, false, &[(OTHER, true)]);
        lone.hears(&watch, number, "active;expires=600000", &info);
        if !lone.sent.is_empty() {
            asked.push(lone.now.since(began).as_secs());
            lone.refreshed(&watch);
        }
        lone.is_silent();
        lone.now = lone.now + Duration::from_secs(1);
    }
    assert_eq!(asked, [0, 30, 90, 210, 450, 930]);
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
}

/// RFC 6665 §4.1.3, RFC 3680 §5.2: why a subscription is over stands in a document that is not looked at: another SUBSCRIBE
/// finds out. TS 29.229 §6.3.49: an S-CSCF that takes the dialog over may begin with version 0.
#[test]
fn an_end_in_an_old_document() {
    let (mut lone, watch) = Lone::told();
    lone.hears(&watch, 2, "terminated;reason=rejected", &about(0, true, &[(OWN, false)]));
    let (_, again) = lone.request();
    assert_ne!(again.call_id(), watch.call_id());
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
    for (other, left) in [(false, 1), (true, 0)] {
        let (mut lone, watch) = Lone::told();
        let info = about(0, true, &[(OWN, false)]);
        let text = notify_of(&watch, 2, "active;expires=60", &info).to_vec();
        let mut text = String::from_utf8(text).unwrap();
        if other {
            let contact = format!("Contact: <sip:{SCSCF}>");
            assert!(text.contains(&contact));
            text = text.replace(&contact, "Contact: <sip:192.0.2.32:5060>");
        }
        lone.from_core(text.into());
        lone.response(200);
        assert_eq!(lone.counter("tessera_pcscf_registrations", ""), left);
    }
}

/// RFC 6665 §4.1.3, §8.4: what a NOTIFY says of the time that is left counts.
#[test]
fn a_notify_shortens_a_subscription() {
    let (mut lone, watch) = Lone::told();
    lone.hears(&watch, 2, "active ; Expires = 100", &about(1, true, &[(OWN, true)]));
    lone.pass(Duration::from_secs(49));
    lone.is_silent();
    lone.pass(Duration::from_secs(1));
    lone.refreshed(&watch);
}

/// TS 24.229 §5.2.5.2: a phone without associations is told of its end by its dialog, which ends after that.
#[test]
fn dialogs_end_with_the_registration() {
    let mut open = config(true);
    open.ipsec.policy = Policy::Off;
    let mut lone = Lone::with(open);
    let plain = |text: String| text.replace("31001", "5060").replace(":5064;lr", ":5060;lr");
    lone.from_ue(5060, 5060, &plain(register(5060, 1, "")));
    let (_, request) = lone.request();
    let response = String::from_utf8(accepted(&request).to_bytes().to_vec()).unwrap();
    lone.from_core(plain(response).into());
    lone.response(200);
    let watch = lone.watched();
    lone.from_ue(5060, 5060, &plain(subscribe(&[])));
    let (_, request) = lone.request();
    lone.from_core(taken(&request).to_bytes());
    lone.response(200);
    let ended = [(ALICE, Event::Deactivated, false, 0), (NUMBER, Event::Deactivated, false, 0)];
    let text = document(&watch, 1, "terminated;reason=deactivated", &ended).to_vec();
    let text = String::from_utf8(text).unwrap();
    let long = text.len() - text.split("\r\n\r\n").next().unwrap().len() - 4;
    let short = plain(text.clone());
    let body = short.len() - short.split("\r\n\r\n").next().unwrap().len() - 4;
    let short =
        short.replace(&format!("Content-Length: {long}"), &format!("Content-Length: {body}"));
    lone.from_core(short.into());
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    lone.from_core(notify(&format!("sip:{UE}:5060")));
    let (flow, _) = lone.request();
    assert_eq!(flow.remote.port(), 5060);
    assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), 1);
    lone.pass(Duration::from_secs(130));
    assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), 0);
}

/// TS 24.229 §5.2.5.1, §5.2.5.2: the home network's NOTIFY about a deregistration overtakes its 200: nothing stays, also not
/// of what is leaving.
#[test]
fn a_notify_before_the_200_of_a_deregistration() {
    let mut lone = Lone::registered(config(true));
    let watch = lone.watched();
    lone.protected(&register(31_001, 3, "X: y\r\n").replace("expires=600000", "expires=0"));
    let (_, request) = lone.request();
    let ended = [(ALICE, Event::Unregistered, false, 0), (NUMBER, Event::Unregistered, false, 0)];
    lone.from_core(document(&watch, 1, "terminated;reason=noresource", &ended));
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_leaving_registrations", ""), 1);
    lone.from_core(request.response(200, "OK").to_bytes());
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_leaving_registrations", ""), 0);
    lone.pass(Duration::from_secs(129));
    assert_eq!(lone.removed, [lone.set.clone().unwrap().id]);
}

/// TS 24.229 §5.2.6.3.1: a dialog that is made when its UE is registered no more is not kept.
#[test]
fn a_dialog_after_the_end() {
    let mut lone = Lone::registered(config(false));
    lone.protected(&subscribe(&[]));
    let (_, request) = lone.request();
    lone.feed(Input::Admin { id: 1, command: ["sa", "clear"].map(str::to_owned).to_vec() });
    lone.from_core(taken(&request).to_bytes());
    assert_eq!(lone.counter("tessera_pcscf_dialogs", ""), 0);
}

/// What the operator clears has no watch and no dialog left, and is not leaving either.
#[test]
fn cleared_by_the_operator() {
    let mut lone = Lone::registered(config(true));
    lone.watched();
    lone.protected(&subscribe(&[]));
    let (_, request) = lone.request();
    lone.from_core(taken(&request).to_bytes());
    lone.response(200);
    let gauges = ["registrations", "watches", "dialogs"];
    let gauges = gauges.map(|name| format!("tessera_pcscf_{name}"));
    assert!(gauges.iter().all(|name| lone.counter(name, "") == 1));
    let command = ["sa", "clear"].map(str::to_owned).to_vec();
    lone.feed(Input::Admin { id: 1, command });
    assert!(gauges.iter().all(|name| lone.counter(name, "") == 0));
    assert_eq!(lone.removed, [lone.set.clone().unwrap().id]);

    let mut lone = Lone::registered(config(true));
    let watch = lone.watched();
    let ended = [(ALICE, Event::Rejected, false, 0), (NUMBER, Event::Rejected, false, 0)];
    lone.from_core(document(&watch, 1, "terminated;reason=rejected", &ended));
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_leaving_registrations", ""), 1);
    let command = ["sa", "clear"].map(str::to_owned).to_vec();
    lone.feed(Input::Admin { id: 1, command });
    assert_eq!(lone.counter("tessera_pcscf_leaving_registrations", ""), 0);
}

/// TS 24.229 §5.2.3; RFC 6665 §4.1.2: a home network that refuses or is silent costs the subscription only.
#[test]
fn a_subscription_that_fails() {
    let mut lone = Lone::registered(config(true));
    let (_, subscribe) = lone.request();
    lone.from_core(subscribe.response(489, "Bad Event").to_bytes());
    assert_eq!(lone.counter("tessera_pcscf_watch_events_total", "refused"), 1);
    let mut lone = Lone::registered(config(true));
    lone.pass(Duration::from_secs(120));
    assert_eq!(lone.counter("tessera_pcscf_watch_events_total", "silence"), 1);
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
    assert_eq!(lone.core.owed(), 0);
}

/// TS 24.229 §5.2.3: nobody notifies of what ended while we were away; a home network that took a SUBSCRIBE before
/// says by 404 that there is nobody. One that never took any says nothing by it.
#[test]
fn nobody_is_there_to_watch() {
    let mut lone = Lone::registered(config(true));
    lone.watched_for(1_200);
    lone.pass(Duration::from_secs(601));
    let (_, renewal) = lone.request();
    lone.from_core(renewal.response(404, "Not Found").to_bytes());
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    assert_eq!(lone.counter("tessera_pcscf_leaving_registrations", ""), 1);
    assert_eq!(lone.counter("tessera_pcscf_watch_events_total", "deregistered"), 1);

    let mut lone = Lone::registered(config(true));
    let (_, subscribe) = lone.request();
    lone.from_core(subscribe.response(404, "Not Found").to_bytes());
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
    assert_eq!(lone.counter("tessera_pcscf_watch_events_total", "refused"), 1);
}

impl Lone {
    /// Another identity is registered over the associations, for so long.
    fn registers_also(&mut self, user: &str, cseq: u32, seconds: u32) {
        let text = register(31_001, cseq, "X: y\r\n");
        let to = format!("To: <sip:{user}@home.example>");
        self.protected(&text.replace("To: <sip:alice@home.example>", &to));
        let (_, request) = self.request();
        let mut response = accepted(&request);
        let headers = response.headers_mut();
        headers.set(Name::PAssociatedUri, &format!("<sip:{user}@home.example>"));
        headers.set(Name::Contact, &format!("<sip:{UE}:31001>;expires={seconds}"));
        self.from_core(response.to_bytes());
        self.response(200);
    }

    /// What is asserted of a phone that prefers this identity.
    fn asserted_for(&mut self, user: &str, number: u32) -> Option<String> {
        let branch = format!("z9hG4bKas{number}");
        let preferred = format!("P-Preferred-Identity: <sip:{user}@home.example>");
        let changes = [
            ("z9hG4bKs1", branch.as_str()),
            ("watch1", branch.as_str()),
            ("P-Preferred-Identity: <sip:alice@home.example>", preferred.as_str()),
        ];
        self.protected(&subscribe(&changes));
        let (_, request) = self.request();
        self.from_core(request.response(403, "Forbidden").to_bytes());
        self.response(403);
        request.headers().get(Name::PAssertedIdentity).map(str::to_owned)
    }
}

/// TS 24.229 §5.2.2.3; registration.md T-07, D-09: each identity ends by the time of its own 200, or as a document
/// shortens it; associations and contact last as long as the last of them.
#[test]
fn each_identity_has_its_time() {
    let (alice, carol) = ("<sip:alice@home.example>", "<sip:carol@home.example>");
    for is_shortened in [false, true] {
        let mut lone = Lone::registered(config(is_shortened));
        let granted = if is_shortened { 7_200 } else { 600 };
        if is_shortened {
            let watch = lone.watched();
            lone.registers_also("carol", 3, granted);
            let shortened = [("sip:carol@home.example", Event::Shortened, true, 600)];
            lone.from_core(document(&watch, 1, "active;expires=600000", &shortened));
            lone.response(200);
        } else {
            lone.registers_also("carol", 3, granted);
        }
        assert_eq!(lone.asserted_for("carol", 1).as_deref(), Some(carol));
        lone.pass(Duration::from_secs(629));
        assert_eq!(lone.asserted_for("carol", 2).as_deref(), Some(carol));
        lone.pass(Duration::from_secs(2));
        assert_eq!(lone.asserted_for("carol", 3).as_deref(), Some(alice));
        lone.pass(Duration::from_secs(2_998));
        assert_eq!(lone.asserted_for("alice", 4).as_deref(), Some(alice));
        assert_eq!(lone.removed, []);
        lone.pass(Duration::from_secs(2));
        assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
        assert_eq!(lone.removed.len(), 1);
    }
    // The longer one may be the later one.
    let mut lone = Lone::registered(config(false));
    lone.registers_also("carol", 3, 7_200);
    lone.pass(Duration::from_secs(3_631));
    assert_eq!(lone.asserted_for("alice", 1).as_deref(), Some(carol));
    lone.pass(Duration::from_secs(3_600));
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    assert_eq!(lone.removed.len(), 1);
}
