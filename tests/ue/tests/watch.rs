//! A phone that watches its own registration, against a scripted P-CSCF (TS 24.229 §5.1.1.3,
//! §5.1.1.5A, §5.1.1.7; RFC 3680, RFC 6665).

mod net;

use std::time::Duration;

use common::reginfo::{self, Contact, RegInfo, Registration, State};
use common::sip::header::Name;
use common::sip::message::Request;
use net::{Got, Net, config};
use ue::{Command, Event, Watched};

const AOR: &str = "sip:name@hims.net";

fn watching() -> Net {
    let mut config = config();
    config.subscribes = true;
    Net::new(config)
}

/// A registration, and the SUBSCRIBE behind it.
fn registered(net: &mut Net, granted_seconds: u32) -> Got {
    net.command(Command::Register { identity: 0 });
    let r1 = net.request();
    net.challenge(&r1);
    let r2 = net.request();
    net.accept(&r2, granted_seconds);
    assert!(matches!(net.event(), Event::Registered { .. }));
    net.request()
}

fn accept(net: &mut Net, subscribe: &Got, expires: &str) {
    net.answer(
        subscribe,
        200,
        "OK",
        &[
            (Name::RecordRoute, "<sip:mo@192.0.2.10:5101;lr>"),
            (Name::Contact, "<sip:scscf1.hims.net>"),
            (Name::Expires, expires),
        ],
    );
}

/// The subscription stands, and the first document has come.
fn subscribed(net: &mut Net, granted_seconds: u32) -> (Got, String) {
    let subscribe = registered(net, granted_seconds);
    accept(net, &subscribe, "600000");
    let what = Watched::Subscribed { expires_seconds: 600_000 };
    assert_eq!(net.event(), Event::Watch { identity: 0, what });
    let contact = subscribe.header(Name::Contact);
    let contact = contact.trim_start_matches('<').split('>').next().unwrap().to_owned();
    (subscribe, contact)
}

/// A document about one contact of the identity.
fn about(contact: &str, event: reginfo::Event, is_active: bool, expires: u64) -> RegInfo {
    RegInfo {
        version: 1,
        is_full: true,
        registrations: vec![Registration {
            aor: AOR.to_owned(),
            id: "a".to_owned(),
            state: if is_active { State::Active } else { State::Terminated },
            wildcarded_identity: None,
            contacts: vec![Contact {
                id: "c".to_owned(),
                is_active,
                event,
                expires_seconds: Some(expires),
                uri: contact.to_owned(),
                ..Contact::default()
            }],
        }],
    }
}

/// A NOTIFY in the dialog of a SUBSCRIBE.
fn notify(subscribe: &Got, cseq: u32, state: &str, info: &RegInfo) -> Request {
    let mut request = Request::new("NOTIFY", "sip:ue");
    let headers = request.headers_mut();
    headers.append(Name::Via, &format!("SIP/2.0/UDP 192.0.2.10:5101;branch=z9hG4bKn{cseq}"));
    headers.append(Name::MaxForwards, "69");
    headers.append(Name::From, &format!("{};tag=registrar", subscribe.header(Name::To)));
    headers.append(Name::To, subscribe.header(Name::From));
    headers.append(Name::CallId, subscribe.header(Name::CallId));
    headers.append(Name::CSeq, &format!("{cseq} NOTIFY"));
    headers.append(Name::Contact, "<sip:scscf1.hims.net>");
    headers.append(Name::Event, "reg");
    headers.append(Name::SubscriptionState, state);
    request.set_body(reginfo::CONTENT_TYPE, info.to_xml().into());
    request
}

impl Net {
    /// A NOTIFY inside the newest set; gives the status of its answer.
    fn notified(&mut self, request: &Request) -> u16 {
        self.ask_with(request, self.sets.len() - 1);
        let got = self.got.pop_front().expect("an answer");
        assert_eq!(got.set, Some(self.sets.len() - 1), "the answer is protected");
        got.response().status()
    }
}

/// TS 24.229 §5.1.1.3; S-100: behind the 200 to the initial registration, by the P-CSCF's protected
/// port and the Service-Route, protected; not again behind a refresh.
#[test]
fn subscribes_behind_the_initial_registration() {
    let mut net = watching();
    let got = registered(&mut net, 3_600);
    assert_eq!(got.set, Some(0));
    assert!(got.text.starts_with("SUBSCRIBE sip:name@hims.net SIP/2.0\r\n"), "{}", got.text);
    let routes: Vec<_> = got.request().headers().values(Name::Route).collect();
    assert_eq!(routes, ["<sip:192.0.2.10:5101;lr>", "<sip:orig@scscf1.hims.net;lr>"]);
    assert!(got.header(Name::From).starts_with("<sip:name@hims.net>;tag="));
    assert_eq!(got.header(Name::To), "<sip:name@hims.net>");
    assert_eq!(got.header(Name::Event), "reg");
    assert_eq!(got.header(Name::Expires), "600000");
    assert_eq!(got.header(Name::Accept), "application/reginfo+xml");
    assert_eq!(got.header(Name::PPreferredIdentity), "<sip:name@hims.net>");
    assert_eq!(got.header(Name::ProxyRequire), "sec-agree");
    assert!(got.header(Name::SecurityVerify).starts_with("ipsec-3gpp"));
    let port_us = net.sets[0].set().ports.us;
    assert_eq!(got.header(Name::Contact), format!("<sip:10.133.202.46:{port_us}>"));
    accept(&mut net, &got, "600000");
    net.events.clear();
    net.command(Command::Register { identity: 0 });
    let refresh = net.request();
    net.accept(&refresh, 3_600);
    assert!(net.got.is_empty(), "{:?}", net.got);
    assert_eq!(net.phone.owed(), 0);
}

/// RFC 6665 §4.1.2.2: again in the dialog, before it runs out; by the other way round.
#[test]
fn subscribes_again_in_time() {
    let mut net = watching();
    let subscribe = registered(&mut net, 600_000);
    accept(&mut net, &subscribe, "1000");
    net.advance(Duration::from_secs(499));
    assert!(net.got.is_empty());
    net.advance(Duration::from_secs(1));
    let again = net.request();
    assert!(again.text.starts_with("SUBSCRIBE sip:scscf1.hims.net SIP/2.0\r\n"), "{}", again.text);
    let routes: Vec<_> = again.request().headers().values(Name::Route).collect();
    assert_eq!(routes, ["<sip:mo@192.0.2.10:5101;lr>"]);
    assert_eq!(again.header(Name::To), "<sip:name@hims.net>;tag=registrar");
    assert_eq!(again.header(Name::CSeq), "2 SUBSCRIBE");
    // The network knows the dialog no more: another one.
    net.answer(&again, 481, "Gone", &[]);
    let anew = net.request();
    assert!(anew.text.starts_with("SUBSCRIBE sip:name@hims.net SIP/2.0\r\n"));
    assert_ne!(anew.header(Name::CallId), again.header(Name::CallId));
    // 423: as long as the network wants it (RFC 6665 §4.1.2.1).
    net.answer(&anew, 423, "Interval Too Brief", &[(Name::MinExpires, "700000")]);
    assert_eq!(net.request().header(Name::Expires), "700000");
}

/// RFC 6665 §4.1.3: what is no NOTIFY of this subscription gets its status and changes nothing.
#[test]
fn answers_notifies() {
    let mut net = watching();
    let (subscribe, contact) = subscribed(&mut net, 3_600);
    let info = about(&contact, reginfo::Event::Registered, true, 3_600);
    let good = notify(&subscribe, 1, "active;expires=600000", &info);
    assert_eq!(net.notified(&good), 200);
    let event = Some(reginfo::Event::Registered);
    let what = Watched::Notified { version: 1, is_full: true, event };
    assert_eq!(net.event(), Event::Watch { identity: 0, what });
    let active = |cseq| notify(&subscribe, cseq, "active;expires=600000", &info);
    let mut of_others = active(2);
    of_others.headers_mut().set(Name::CallId, "other");
    let mut of_nobody = active(3);
    of_nobody.headers_mut().set(Name::To, "<sip:name@hims.net>;tag=odd");
    let mut of_another_package = active(4);
    of_another_package.headers_mut().set(Name::Event, "presence");
    let mut unreadable = active(5);
    unreadable.set_body(reginfo::CONTENT_TYPE, "<reginfo".into());
    let mut late = active(1);
    late.headers_mut().set(Name::Via, "SIP/2.0/UDP 192.0.2.10:5101;branch=z9hG4bKlate");
    for (request, status) in [
        (of_others, 481),
        (of_nobody, 481),
        (of_another_package, 489),
        (unreadable, 400),
        (late, 500),
    ] {
        assert_eq!(net.notified(&request), status);
    }
    assert!(net.events.is_empty(), "{:?}", net.events);
    assert!(net.phone.registration(0).is_some());
}

/// TS 24.229 §5.1.1.7; S-123: the network has ended the registration: `deactivated` asks for
/// another one at once, in clear and with a new Call-ID; the others for none.
#[test]
fn the_network_deregisters() {
    for event in [
        reginfo::Event::Deactivated,
        reginfo::Event::Rejected,
        reginfo::Event::Expired,
        reginfo::Event::Unregistered,
    ] {
        let mut net = watching();
        let (subscribe, contact) = subscribed(&mut net, 3_600);
        let info = about(&contact, event, false, 0);
        assert_eq!(net.notified(&notify(&subscribe, 1, "terminated;reason=x", &info)), 200);
        assert!(net.events.contains(&Event::Lost { identity: 0 }), "{event:?}");
        assert!(net.phone.registration(0).is_none());
        net.advance(Duration::from_secs(1));
        match event {
            reginfo::Event::Deactivated => {
                let register = net.request();
                assert!(register.text.starts_with("REGISTER "));
                assert_eq!(register.set, None);
            }
            _ => assert!(net.got.is_empty(), "{event:?}: {:?}", net.got),
        }
        assert!(net.phone.watched(0).is_none());
    }
}

/// RFC 3680 §5.3: `probation`: another one, when the network wants it, and not before.
#[test]
fn the_network_wants_it_later() {
    let mut net = watching();
    let (subscribe, contact) = subscribed(&mut net, 3_600);
    let mut info = about(&contact, reginfo::Event::Probation, false, 0);
    info.registrations[0].contacts[0].retry_after_seconds = Some(90);
    assert_eq!(net.notified(&notify(&subscribe, 1, "terminated;reason=probation", &info)), 200);
    assert!(net.events.contains(&Event::Lost { identity: 0 }));
    net.advance(Duration::from_secs(89));
    assert!(net.got.is_empty(), "{:?}", net.got);
    net.advance(Duration::from_secs(1));
    let register = net.request();
    assert!(register.text.starts_with("REGISTER ") && register.set.is_none());
}

/// TS 24.229 §5.1.1.5A: `shortened`: registers again when half of what is left has passed.
#[test]
fn the_network_wants_it_sooner() {
    let mut net = watching();
    let (subscribe, contact) = subscribed(&mut net, 600_000);
    let info = about(&contact, reginfo::Event::Shortened, true, 60);
    assert_eq!(net.notified(&notify(&subscribe, 1, "active;expires=600000", &info)), 200);
    net.advance(Duration::from_secs(29));
    assert!(net.got.is_empty());
    net.advance(Duration::from_secs(1));
    let register = net.request();
    assert!(register.text.starts_with("REGISTER ") && register.set == Some(0));
}

/// RFC 6665 §4.1.3: the subscription has ended, the registration has not: another SUBSCRIBE. A
/// contact of another device is of no concern.
#[test]
fn the_subscription_ends_alone() {
    let mut net = watching();
    let (subscribe, _) = subscribed(&mut net, 3_600);
    let info = about("sip:10.9.9.9:5064", reginfo::Event::Deactivated, false, 0);
    assert_eq!(net.notified(&notify(&subscribe, 1, "terminated;reason=timeout", &info)), 200);
    assert!(net.phone.registration(0).is_some());
    let again = net.request();
    assert!(again.text.starts_with("SUBSCRIBE sip:name@hims.net"));
    assert_ne!(again.header(Name::CallId), subscribe.header(Name::CallId));
}

/// A document about contacts of the identity: of this phone, and of another one.
fn versioned(version: u32, is_full: bool, contacts: &[(&str, bool)]) -> RegInfo {
    let of = |(contact, is_active): &(&str, bool)| {
        let event = match is_active {
            true => reginfo::Event::Registered,
            false => reginfo::Event::Rejected,
        };
        about(contact, event, *is_active, 600).registrations.remove(0).contacts.remove(0)
    };
    let mut info = about("sip:x", reginfo::Event::Registered, true, 600);
    info.registrations[0].contacts = contacts.iter().map(of).collect();
    RegInfo { version, is_full, ..info }
}

const OTHER: &str = "sip:10.9.9.9:5064";
const ACTIVE: &str = "active;expires=600000";

/// Told of its own contact by a first document.
fn told(net: &mut Net) -> (Got, String) {
    let (subscribe, contact) = subscribed(net, 600_000);
    let info = versioned(0, true, &[(&contact, true)]);
    assert_eq!(net.notified(&notify(&subscribe, 1, ACTIVE, &info)), 200);
    net.events.clear();
    (subscribe, contact)
}

/// RFC 3680 §5.1, §5.2: older documents are not looked at; what comes behind a lost one holds, and everything is asked for;
/// that ends what the lost one has told the end of, though another phone has the identity.
#[test]
fn documents_out_of_order() {
    let mut net = watching();
    let (subscribe, contact) = told(&mut net);
    let info = versioned(0, true, &[(&contact, false)]);
    assert_eq!(net.notified(&notify(&subscribe, 2, ACTIVE, &info)), 200);
    let what = Watched::Stale { version: 0 };
    assert_eq!(net.event(), Event::Watch { identity: 0, what });
    assert!(net.events.is_empty() && net.phone.registration(0).is_some());
    let info = versioned(2, false, &[(OTHER, true)]);
    assert_eq!(net.notified(&notify(&subscribe, 3, ACTIVE, &info)), 200);
    let gap = Watched::Gap { version: 2 };
    let notified = Watched::Notified { version: 2, is_full: false, event: None };
    let events = [gap, notified].map(|what| Event::Watch { identity: 0, what });
    assert_eq!(std::mem::take(&mut net.events), events);
    net.advance(Duration::ZERO);
    let again = net.request();
    assert!(again.text.starts_with("SUBSCRIBE sip:scscf1.hims.net SIP/2.0\r\n"), "{}", again.text);
    assert_eq!(again.header(Name::CallId), subscribe.header(Name::CallId));
    // Another gap while it is under way asks for nothing more.
    let info = versioned(4, false, &[(OTHER, true)]);
    assert_eq!(net.notified(&notify(&subscribe, 4, ACTIVE, &info)), 200);
    net.advance(Duration::ZERO);
    assert!(net.got.is_empty(), "{:?}", net.got);
    accept(&mut net, &again, "600000");
    net.advance(Duration::from_secs(29));
    assert!(net.got.is_empty(), "{:?}", net.got);
    net.events.clear();
    let info = versioned(5, true, &[(OTHER, true)]);
    net.ask_with(&notify(&subscribe, 5, ACTIVE, &info), 0);
    assert!(net.events.contains(&Event::Lost { identity: 0 }), "{:?}", net.events);
}

/// RFC 3680 §5.2: an end holds, whatever was lost before it; one that stands in an old document is found out by another
/// SUBSCRIBE; a contact that was never shown is not missed; another S-CSCF may begin with version 0.
#[test]
fn ends_out_of_order() {
    let mut net = watching();
    let (subscribe, contact) = told(&mut net);
    let info = versioned(9, false, &[(&contact, false)]);
    assert_eq!(net.notified(&notify(&subscribe, 2, ACTIVE, &info)), 200);
    assert!(net.phone.registration(0).is_none());
    net.advance(Duration::from_secs(60));
    assert!(net.got.is_empty(), "{:?}", net.got);

    let mut net = watching();
    let (subscribe, contact) = told(&mut net);
    let info = versioned(0, true, &[(&contact, false)]);
    assert_eq!(net.notified(&notify(&subscribe, 2, "terminated;reason=rejected", &info)), 200);
    assert!(net.phone.registration(0).is_some());
    assert_ne!(net.request().header(Name::CallId), subscribe.header(Name::CallId));

    let mut net = watching();
    let (subscribe, _) = subscribed(&mut net, 600_000);
    let info = versioned(0, true, &[(OTHER, true)]);
    assert_eq!(net.notified(&notify(&subscribe, 1, ACTIVE, &info)), 200);
    assert!(net.phone.registration(0).is_some());

    let mut net = watching();
    let (subscribe, contact) = told(&mut net);
    let mut of_another = notify(&subscribe, 2, ACTIVE, &versioned(0, true, &[(&contact, false)]));
    of_another.headers_mut().set(Name::Contact, "<sip:scscf2.hims.net>");
    assert_eq!(net.notified(&of_another), 200);
    assert!(net.phone.registration(0).is_none());
}

/// TS 24.229 §5.1.2A.1.6, registration.md U-25: a 504 that says so, of one who may say so, leads to
/// an initial registration.
#[test]
fn restoration_leads_to_a_new_registration() {
    let body = "<?xml version=\"1.0\"?><ims-3gpp version=\"1\"><alternative-service>\
        <type>restoration</type><reason/><action>initial-registration</action>\
        </alternative-service></ims-3gpp>";
    for (asserted, is_heard) in
        [("<sip:orig@scscf1.hims.net;lr>", true), ("<sip:scscf9.hims.net>", false)]
    {
        let mut net = watching();
        let subscribe = registered(&mut net, 3_600);
        let headers = [(Name::PAssertedIdentity, asserted)];
        net.answer_with(&subscribe, 504, &headers, "application/3gpp-ims+xml", body);
        let what = Watched::NotSubscribed { status: 504 };
        assert!(net.events.contains(&Event::Watch { identity: 0, what }), "{:?}", net.events);
        net.advance(Duration::from_secs(1));
        match is_heard {
            true => assert_eq!(net.request().set, None),
            false => assert!(net.got.is_empty()),
        }
        assert_eq!(net.phone.registration(0).is_none(), is_heard);
    }
}

/// RFC 3680 §5.2: a full document in which nobody has the identity any more: it is lost, and registered anew. One about
/// others alone says nothing.
#[test]
fn a_document_without_contacts() {
    for (aor, state, is_full, is_lost) in [
        (AOR, State::Terminated, true, true),
        (AOR, State::Init, true, true),
        (AOR, State::Terminated, false, false),
        ("sip:nobody@hims.net", State::Terminated, true, false),
    ] {
        let mut net = watching();
        let (subscribe, _) = subscribed(&mut net, 600_000);
        let registration = Registration {
            aor: aor.to_owned(),
            id: "a".to_owned(),
            state,
            wildcarded_identity: None,
            contacts: Vec::new(),
        };
        let info = RegInfo { version: 1, is_full, registrations: vec![registration] };
        let request = notify(&subscribe, 1, "active;expires=600000", &info);
        net.ask_with(&request, 0);
        let is_gone = net.events.iter().any(|event| matches!(event, Event::Lost { .. }));
        assert_eq!(is_gone, is_lost, "{aor} {state:?} {is_full}");
        net.got.retain(|got| got.text.starts_with("REGISTER "));
        assert_eq!(net.got.len(), usize::from(is_lost));
    }
}

/// TS 24.229 §5.1.2A.1.6, registration.md U-24: a SUBSCRIBE that is refused for a while is not sent before that is over, whatever
/// registers meanwhile; and then by itself.
#[test]
fn a_refusal_for_a_while() {
    let mut net = watching();
    let subscribe = registered(&mut net, 600_000);
    net.answer(&subscribe, 503, "Service Unavailable", &[(Name::RetryAfter, "90")]);
    let what = Watched::NotSubscribed { status: 503 };
    assert_eq!(net.event(), Event::Watch { identity: 0, what });
    net.command(Command::Register { identity: 0 });
    let refresh = net.request();
    net.accept(&refresh, 600_000);
    assert!(matches!(net.event(), Event::Registered { .. }));
    net.advance(Duration::from_secs(89));
    assert!(net.got.is_empty(), "{:?}", net.got);
    net.advance(Duration::from_secs(2));
    assert!(net.request().text.starts_with("SUBSCRIBE "));
}
