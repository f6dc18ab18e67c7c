//! What the phone writes, what it is told, and what it makes of networks that fail.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use common::aka::digest::AkaNonce;
use common::dns::{Answer, Question, RecordData, RecordType};
use common::limits::Limits;
use common::node::{Input, Node, Now, Output};
use common::sip::address::Address;
use common::sip::auth::credentials_for;
use common::sip::header::Name;
use common::sip::message::{Message, Request};
use common::stats::Samples;
use scenarios::{Function, Standing, World as _};
use sim::ims::{HOME, Ims, Life, Options};

use crate::{all, answers, first_register, registered, registered_as};

const USER: &str = "001010000000001";

/// TS 24.229 §5.1.1.2.1, TS 23.003 §13: S-15, S-18, S-19, S-20, S-23, S-24, S-25, S-27, S-28, S-124, S-125,
/// S-127, S-129: the first REGISTER as the P-CSCF gets it.
#[test]
fn the_first_register_of_a_phone() {
    let (_, mut wire) = registered();
    let (_, first) = wire.request("ue0", "pcscf");
    assert_eq!(first.uri(), format!("sip:{HOME}"), "a domain, and nobody in it");
    assert_eq!(HOME, "ims.mnc001.mcc001.3gppnetwork.org", "MNC 01 has a leading zero");
    let headers = first.headers();
    let identity = format!("<sip:{USER}@{HOME}>");
    assert_eq!(headers.get(Name::To), Some(identity.as_str()));
    let from = headers.get(Name::From).unwrap_or_default();
    assert!(from.starts_with(&format!("{identity};tag=")), "{from}");
    let via = headers.get(Name::Via).unwrap_or_default();
    assert!(via.starts_with("SIP/2.0/UDP 10.45.0.2:5060;"), "{via}");
    assert!(
        via.contains(";branch=z9hG4bK") && via.contains(";rport") && !via.contains("rport="),
        "{via}"
    );
    let contact = headers.get(Name::Contact).unwrap_or_default();
    for part in [
        "<sip:10.45.0.2:",
        "+sip.instance=\"<urn:gsma:imei:35209900-176148-0>\"",
        "+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\"",
    ] {
        assert!(contact.contains(part), "{part} in {contact}");
    }
    let asked = headers.get(Name::Expires).is_some_and(|text| text == "600000");
    assert!(asked || contact.contains("expires=600000"), "{contact}");
    for name in [Name::Require, Name::ProxyRequire] {
        assert!(headers.has_token(name, "sec-agree"), "{name:?}");
    }
    assert!(headers.has_token(Name::Supported, "path"));
    let offers = all(headers, Name::SecurityClient);
    assert!(!offers.is_empty());
    for offer in offers {
        for part in ["ipsec-3gpp", "alg=", "ealg=", "spi-c=", "spi-s=", "port-c=", "port-s="] {
            assert!(offer.contains(part), "{part} in {offer}");
        }
    }
    let authorization = headers.get(Name::Authorization).unwrap_or_default();
    for part in [
        format!("username=\"{USER}@{HOME}\""),
        format!("realm=\"{HOME}\""),
        format!("uri=\"sip:{HOME}\""),
        "nonce=\"\"".to_owned(),
        "response=\"\"".to_owned(),
    ] {
        assert!(authorization.contains(&part), "{part} in {authorization}");
    }
    assert_eq!(headers.get(Name::ContentLength), Some("0"));
    assert!(!headers.has(Name::PAccessNetworkInfo), "in clear nobody tells where it is");
    assert!(!headers.has(Name::Route) && !headers.has(Name::SecurityVerify));
}

/// TS 24.229 §5.1.1.5.1: S-21, S-22, S-28, S-68, S-81, S-83, S-128, S-129: the answer to the challenge.
#[test]
fn the_second_register_of_a_phone() {
    // Short enough for a datagram.
    let options = Options { is_choice_announced: true, ..Options::default() };
    let (_, mut wire) = registered_as(options, |config| config.instance_id = None);
    let (_, first) = wire.request("ue0", "pcscf");
    for _ in 0..5 {
        wire.0.pop_front();
    }
    let (_, second) = wire.request("ue0", "pcscf");
    let (before, headers) = (first.headers(), second.headers());
    assert_eq!((second.call_id(), second.cseq()), (first.call_id(), first.cseq() + 1));
    assert_eq!(all(headers, Name::SecurityClient), all(before, Name::SecurityClient));
    assert!(headers.has(Name::SecurityVerify));
    let offer = before.get(Name::SecurityClient).unwrap_or_default();
    let port = offer.split("port-s=").nth(1).unwrap_or_default();
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    let at = format!("10.45.0.2:{port}");
    let via = headers.get(Name::Via).unwrap_or_default();
    assert!(via.starts_with(&format!("SIP/2.0/UDP {at};")), "port_us: {via}");
    let contact = |headers| {
        let text = all(headers, Name::Contact)[0].to_owned();
        Address::parse(&text).expect("a Contact")
    };
    let (old, new) = (contact(before), contact(headers));
    assert_eq!(new.uri.host_port.as_ref().map(ToString::to_string), Some(at));
    assert_eq!(old.parameters, new.parameters, "the same device with the same abilities");
    let cell = headers.get(Name::PAccessNetworkInfo).unwrap_or_default();
    assert!(cell.starts_with("3GPP-E-UTRAN-FDD"), "{cell}");
    let credentials = credentials_for(headers, HOME).expect("credentials").expect("ours");
    let response = credentials.get("response").unwrap_or_default();
    assert!(
        response.len() == 32 && response.bytes().all(|one| one.is_ascii_hexdigit()),
        "{response}"
    );
}

/// TS 24.229 §5.2.2.2, RFC 3329 §2.2: S-19, S-63, S-65, S-66, S-67: the challenge as the phone gets it: whole offers of the
/// P-CSCF, and nothing of the keys, which stand in what the P-CSCF gets.
#[test]
fn the_challenge_without_its_keys() {
    let (_, wire) = registered();
    let text = |from: &str, to: &str| {
        let mut found = wire.0.iter().filter(|(by, whom, _, bytes)| {
            by == from && whom == to && bytes.starts_with(b"SIP/2.0 401 ")
        });
        String::from_utf8_lossy(&found.next().expect("a 401").3).into_owned()
    };
    let (inside, outside) = (text("icscf", "pcscf"), text("pcscf", "ue0"));
    let key = |name: &str| {
        let value = inside.split(&format!("{name}=\"")).nth(1).unwrap_or_default();
        value.chars().take_while(|one| *one != '"').collect::<String>()
    };
    let keys = [key("ck"), key("ik")];
    assert!(keys.iter().all(|key| key.len() == 32), "{inside}");
    for (from, to, _, bytes) in wire.0.iter().filter(|(from, to, ..)| from == "ue0" || to == "ue0")
    {
        let seen = String::from_utf8_lossy(bytes).to_lowercase();
        assert!(keys.iter().all(|key| !seen.contains(key.as_str())), "from {from} to {to}: {seen}");
    }
    let line =
        outside.lines().find(|line| line.starts_with("Security-Server:")).unwrap_or_default();
    for part in
        ["ipsec-3gpp", "q=", "alg=", "ealg=", "spi-c=", "spi-s=", "port-c=51", "port-s=5064"]
    {
        assert!(line.contains(part), "{part} in {line}");
    }
    let to = outside.lines().find(|line| line.starts_with("To:")).unwrap_or_default();
    assert!(to.contains(";tag="), "{to}");
}

/// RFC 3261 §16.3, §16.6: S-16, S-17, S-33, S-34, S-65: 20 hops are 19 and 18; a Route that names the P-CSCF goes no further;
/// the answer comes where Via says, with its parameters.
#[test]
fn hops_are_counted() {
    let mut ims = Ims::new(11, Options::default());
    ims.add(scenarios::Phone::Good);
    ims.world.is_recording = true;
    let text = first_register(&format!("{USER}@{HOME}"))
        .replace("Max-Forwards: 70", "Max-Forwards: 20\r\nRoute: <sip:10.46.0.1;lr>");
    let got = answers(&mut ims, text);
    assert!(got.first().is_some_and(|text| text.starts_with("SIP/2.0 401 ")), "{got:?}");
    assert!(
        got[0].contains("branch=z9hG4bKa") && got[0].contains("received=10.45.9.9"),
        "{}",
        got[0]
    );
    let hops: Vec<_> = ims
        .world
        .wire
        .iter()
        .filter_map(|(_, to, _, bytes)| match Message::parse(bytes.clone(), &Limits::default()) {
            Ok(Message::Request(request)) => Some((to.clone(), request)),
            _ => None,
        })
        .collect();
    let told: Vec<_> = hops
        .iter()
        .map(|(to, request)| {
            (to.as_str(), request.headers().get(Name::MaxForwards).unwrap_or_default())
        })
        .collect();
    assert_eq!(told, [("pcscf", "20"), ("icscf", "19"), ("scscf1", "18")]);
    assert!(hops[1..].iter().all(|(_, request)| !request.headers().has(Name::Route)));
}

/// RFC 3261 §16.3: S-17: whoever gets a request that may go no further says 483; 255 hops may be left.
#[test]
fn no_hops_are_left() {
    for (left, heard, at_last) in
        [("0", "483", "pcscf"), ("1", "483", "icscf"), ("255", "401", "scscf1")]
    {
        let mut ims = Ims::new(11, Options::default());
        ims.add(scenarios::Phone::Good);
        ims.world.is_recording = true;
        let text = first_register(&format!("{USER}@{HOME}"))
            .replace("Max-Forwards: 70", &format!("Max-Forwards: {left}"));
        let got = answers(&mut ims, text);
        assert!(got.first().is_some_and(|text| text.contains(heard)), "{left}: {got:?}");
        let mut wire = ims.world.wire.iter().rev();
        let last = wire.find(|(.., bytes)| bytes.starts_with(b"REGISTER ")).expect("a REGISTER");
        assert_eq!(last.1, at_last, "{left}");
    }
}

/// A P-CSCF that says what the test wants.
struct StandIn {
    saying: VecDeque<fn(&Request) -> Option<common::sip::message::Response>>,
}

impl Node for StandIn {
    fn handle(&mut self, _now: Now, input: Input, out: &mut Vec<Output>) {
        let Input::Sip { flow, bytes } = input else { return };
        let Ok(Message::Request(request)) = Message::parse(bytes, &Limits::default()) else {
            return;
        };
        let say = match self.saying.len() {
            1 => self.saying.front().copied(),
            _ => self.saying.pop_front(),
        };
        if let Some(response) = say.and_then(|say| say(&request)) {
            out.push(Output::Sip { flow, bytes: response.to_bytes() });
        }
    }

    fn next_timeout(&self) -> Option<Now> {
        None
    }

    fn samples(&self, _samples: &mut Samples) {}

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn owed(&self) -> usize {
        0
    }
}

const STAND_IN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 46, 0, 2));

/// A phone whose first P-CSCF says this, the last of it again and again; the network's own is its second, if it
/// has one.
fn behind(
    saying: &'static [fn(&Request) -> Option<common::sip::message::Response>],
    has_another: bool,
) -> (Ims, usize) {
    let mut ims = Ims::new(11, Options::default());
    ims.world.has_model = false;
    ims.add_stand_in(STAND_IN, move || {
        Box::new(StandIn { saying: saying.iter().copied().collect() }) as Box<dyn Node>
    });
    let ue = ims.add_changed(|config| {
        let own = std::mem::replace(&mut config.pcscfs, vec![(STAND_IN, 5060).into()]);
        if has_another {
            config.pcscfs.extend(own);
            config.automatic = true;
        }
    });
    ims.world.is_recording = true;
    ims.register(ue);
    (ims, ue)
}

/// TS 24.229 §5.1.1.2.1: S-131, S-132, S-137: 305, whatever its Contact says, 408, and silence for 64·T1 of Gm: the phone
/// takes another P-CSCF, with a new Call-ID.
#[test]
fn another_pcscf_is_taken() {
    type Say = fn(&Request) -> Option<common::sip::message::Response>;
    let elsewhere: &[Say] = &[|request| {
        let mut response = request.response(305, "Use Proxy");
        response.headers_mut().append(Name::Contact, "<sip:192.0.2.66>");
        Some(response)
    }];
    let slow: &[Say] = &[|request| Some(request.response(408, "Request Timeout"))];
    let silent: &[Say] = &[|_| None];
    for (what, saying, at_least) in
        [("305", elsewhere, 0), ("408", slow, 0), ("silence", silent, 128)]
    {
        let (mut ims, ue) = behind(saying, true);
        let began = ims.world.now;
        let registered =
            |world: &mut dyn scenarios::World| world.standing(ue) == Standing::Registered;
        ims.until("registered elsewhere", Duration::from_secs(300), &mut { registered })
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let took = ims.world.now.since(began).as_secs();
        assert!(took >= at_least, "{what}: after {took} s");
        assert_eq!(ims.registered_at_hss(), 1, "{what}");
        let mut calls: Vec<_> = ims
            .world
            .wire
            .iter()
            .filter(|(from, ..)| from == "ue0")
            .filter_map(|(_, to, _, bytes)| {
                match Message::parse(bytes.clone(), &Limits::default()) {
                    Ok(Message::Request(request))
                        if request.method() == common::sip::message::Method::Register =>
                    {
                        Some((to.clone(), request.call_id().to_owned()))
                    }
                    _ => None,
                }
            })
            .collect();
        calls.dedup();
        let [(first, old), (second, new)] = &calls[..] else { panic!("{what}: {calls:?}") };
        assert_eq!((first.as_str(), second.as_str()), ("stand-in", "pcscf"), "{what}");
        assert_ne!(old, new, "{what}");
    }
}

/// TS 23.380 §5, TS 24.229 §5.1.1.4.1, §5.4.1.2.2: S-132, S-137: a P-CSCF dies for good. Nobody answers the refresh of
/// its phone, which registers anew by another one; nothing of the first way is left, and the network reaches
/// the phone by the second.
#[test]
fn a_dead_pcscf_is_left() {
    let mut ims = Ims::new(11, Options::default());
    let second = ims.add_second_pcscf();
    let ue = ims.add_changed(|config| {
        config.pcscfs.push((second, 5060).into());
        config.automatic = true;
    });
    ims.register(ue);
    let registered = |world: &mut dyn scenarios::World| world.standing(ue) == Standing::Registered;
    ims.until("registered", Duration::from_secs(10), &mut { registered }).expect("a registration");
    let first = ims.world.member("pcscf");
    ims.world.kill(first);
    let (completed, told) = (ims.completed(ue), ims.notified(ue));
    ims.reregister(ue);
    ims.until("registered by the other one", Duration::from_secs(600), &mut |world| {
        world.completed(ue) > completed && world.notified(ue) > told
    })
    .expect("another registration");
    assert_eq!(ims.standing(ue), Standing::Registered);
    assert_eq!(ims.registered_at_hss(), 1);
    assert_eq!(ims.gauge("pcscf2", "tessera_pcscf_registrations", &[]), 1.0);
    let held =
        |ims: &Ims, name: &str| ims.gauge("scscf1", name, &[]) + ims.gauge("scscf2", name, &[]);
    assert_eq!(held(&ims, "tessera_scscf_registrations"), 1.0);
    let until = ims.world.now + Duration::from_secs(200);
    ims.world.run(until, |_| false);
    let watching = held(&ims, "tessera_scscf_subscriptions");
    assert_eq!(watching, 3.0, "phone, P-CSCF and application server, and none of before");
    let impi = ims.private_identity(ue);
    ims.command(scenarios::Function::Hss, &["rtr", &impi, "permanent"]);
    let left = |world: &mut dyn scenarios::World| world.standing(ue) == Standing::Idle;
    ims.until("the phone hears of it", Duration::from_secs(10), &mut { left }).expect("a NOTIFY");
    assert_eq!(ims.gauge("pcscf2", "tessera_pcscf_registrations", &[]), 0.0);
}

/// TS 24.229 §5.3.1.3, §5.4.1.2.2, TS 23.380 §4: S-87, S-134: the S-CSCF that has challenged is gone when the answer
/// comes, for good or with all that it knew: whoever gets the answer can make nothing of it, and the phone
/// begins anew.
#[test]
fn the_scscf_changes_between_the_registers() {
    for comes_back in [false, true] {
        let mut ims = Ims::new(11, Options::default());
        let ue = ims.add_changed(|config| config.automatic = true);
        ims.world.is_recording = true;
        ims.register(ue);
        ims.until("a challenge", Duration::from_secs(10), &mut |world| {
            world.metric(Function::Scscf1, "tessera_scscf_challenges", &[]) == 1.0
        })
        .expect("a challenge");
        assert_eq!(ims.standing(ue), Standing::Busy);
        ims.kill(Function::Scscf1);
        if comes_back {
            ims.start(Function::Scscf1);
        }
        ims.until("registered", Duration::from_secs(120), &mut |world| {
            world.standing(ue) == Standing::Registered
        })
        .expect("a registration in the end");
        let serving = if comes_back { "scscf1" } else { "scscf2" };
        assert_eq!(ims.gauge(serving, "tessera_scscf_registrations", &[]), 1.0, "{serving}");
        assert_eq!(ims.gauge("pcscf", "tessera_pcscf_registrations", &[]), 1.0);
        assert_eq!(ims.registered_at_hss(), 1);
        let mut wire = ims.world.wire.iter();
        let refused = wire.find(|(from, _, _, bytes)| {
            from.starts_with("scscf") && bytes.starts_with(b"SIP/2.0 500 ")
        });
        assert!(refused.is_some(), "whoever got the answer knew of no challenge");
    }
}

/// TS 24.229 §5.3.1.3: S-135: no S-CSCF answers, and none is left: 504 while the phone still waits.
#[test]
fn no_scscf_is_left() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(scenarios::Phone::Good);
    for scscf in [Function::Scscf1, Function::Scscf2] {
        ims.hang(scscf, true);
    }
    ims.register(ue);
    let ended = |world: &mut dyn scenarios::World| world.standing(ue) != Standing::Busy;
    ims.until("an end", Duration::from_secs(128), &mut { ended }).expect("an answer");
    let standing = ims.standing(ue);
    assert!(matches!(standing, Standing::Failed { status: 504, .. }), "{standing:?}");
}

/// RFC 3263 §4: S-30: the entry point that DNS puts first does not answer: the second one does, and the next phone comes to
/// it at once.
#[test]
fn the_second_entry_point_answers() {
    let mut ims = Ims::new(11, Options::default());
    let srv = |priority, target: &str| RecordData::Srv {
        priority,
        weight: 10,
        port: 5060,
        target: format!("{target}.{HOME}"),
    };
    for transport in ["udp", "tcp"] {
        let name = format!("_sip._{transport}.{HOME}");
        let records = vec![srv(20, "icscf"), srv(10, "nobody")];
        ims.world.zone.insert(
            Question { name, record_type: RecordType::Srv },
            Answer::Found { records, ttl: Duration::from_secs(300) },
        );
    }
    let nobody = RecordData::Address(IpAddr::from([10, 90, 0, 99]));
    ims.world.zone.insert(
        Question { name: format!("nobody.{HOME}"), record_type: RecordType::A },
        Answer::Found { records: vec![nobody], ttl: Duration::from_secs(300) },
    );
    ims.world.is_recording = true;
    let mut asked = Vec::new();
    for _ in 0..2 {
        let ue = ims.add(scenarios::Phone::Good);
        ims.register(ue);
        ims.until("registered", Duration::from_secs(60), &mut |world| {
            world.standing(ue) == Standing::Registered
        })
        .expect("a registration");
        let of_pcscf = ims
            .world
            .wire
            .iter()
            .filter(|(from, _, _, bytes)| from == "pcscf" && bytes.starts_with(b"REGISTER "));
        asked.push(of_pcscf.map(|(_, to, ..)| to.clone()).collect::<Vec<_>>());
        ims.world.wire.clear();
    }
    assert!(asked[0].starts_with(&["nowhere".to_owned(), "icscf".to_owned()]), "{asked:?}");
    assert!(asked[1].iter().all(|to| to == "icscf"), "{asked:?}");
}

/// TS 24.229 §5.1.1.4.1: S-130: a phone asks anew 600 s before the end where it has more than 1200 s, and else when half
/// the time is over.
#[test]
fn a_phone_refreshes_in_time() {
    for (granted, at) in [(3_600, 3_000), (600, 300)] {
        let life = Life { seconds: granted, ..Life::default() };
        let mut ims = Ims::new(11, Options { life, ..Options::default() });
        let ue = ims.add_changed(|config| config.automatic = true);
        ims.register(ue);
        let registered =
            |world: &mut dyn scenarios::World| world.standing(ue) == Standing::Registered;
        ims.until("registered", Duration::from_secs(10), &mut { registered }).expect("registered");
        let began = ims.world.now;
        ims.until("refreshed", Duration::from_secs(4_000), &mut |world| world.completed(ue) == 2)
            .expect("a refresh");
        let after = ims.world.now.since(began).as_secs();
        assert!((at - 2..=at + 2).contains(&after), "{granted} s: after {after} s");
    }
}

/// TS 24.229 §5.2.6.3.2A, §5.4.3.2, §5.1.2A.1.6, TS 23.380 §4.4: S-135: behind the 200 the S-CSCF is gone for good, or
/// with all that it had stored. To the phone's next request P-CSCF or S-CSCF say 504 with a body that sends it to
/// register, and it is served again, by whoever is there.
#[test]
fn a_lost_scscf_sends_the_phone_back() {
    for (comes_back, teller, serving) in [(false, "pcscf", "scscf2"), (true, "scscf1", "scscf1")] {
        let mut ims = Ims::new(11, Options::default());
        let ue = ims.add(scenarios::Phone::Good);
        ims.world.is_recording = true;
        ims.register(ue);
        let is_registered = |world: &sim::world::World| {
            let mut wire = world.wire.iter();
            wire.any(|(_, to, _, bytes)| to == "ue0" && bytes.starts_with(b"SIP/2.0 200 "))
        };
        let limit = ims.world.now + Duration::from_secs(10);
        assert!(ims.world.run(limit, is_registered));
        let scscf = ims.world.member("scscf1");
        ims.world.kill(scscf);
        ims.world.members[scscf].disk = Default::default();
        if comes_back {
            ims.world.restart_after(scscf, Duration::ZERO);
        }
        ims.until("registered and told of it", Duration::from_secs(200), &mut |world| {
            world.standing(ue) == Standing::Registered && world.notified(ue) == 1
        })
        .unwrap_or_else(|error| panic!("{error}: {}", ims.world.ladder.tail(60)));
        let sent_back = ims.world.wire.iter().find(|(.., bytes)| {
            let text = String::from_utf8_lossy(bytes);
            text.starts_with("SIP/2.0 504 ") && text.contains("<type>restoration</type>")
        });
        assert_eq!(sent_back.map(|(from, ..)| from.as_str()), Some(teller));
        assert_eq!(ims.gauge(serving, "tessera_scscf_registrations", &[]), 1.0, "{serving}");
        assert_eq!(ims.gauge("pcscf", "tessera_pcscf_registrations", &[]), 1.0);
        assert_eq!(ims.registered_at_hss(), 1);
    }
}

/// RFC 3263 §4, TS 24.229 §5.2.2.1: S-135: without DNS nobody finds the home network: 504 before the phone gives up;
/// and with it again the phone is served.
#[test]
fn a_dead_dns_is_answered_for() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(scenarios::Phone::Good);
    ims.world.dns_is_dead = true;
    ims.register(ue);
    let ended = |world: &mut dyn scenarios::World| world.standing(ue) != Standing::Busy;
    ims.until("an end", Duration::from_secs(128), &mut { ended }).expect("an answer");
    let standing = ims.standing(ue);
    assert!(matches!(standing, Standing::Failed { status: 504, .. }), "{standing:?}");
    ims.world.dns_is_dead = false;
    ims.register(ue);
    let registered = |world: &mut dyn scenarios::World| world.standing(ue) == Standing::Registered;
    ims.until("registered", Duration::from_secs(60), &mut { registered }).expect("a registration");
}

/// TS 24.229 §5.1.1.2.1: S-136: any other refusal: not registered, and it says which.
#[test]
fn refusals_are_told() {
    macro_rules! says {
        ($($status:literal),*) => {
            [$(($status, &[
                (|request: &Request| Some(request.response($status, "No"))) as fn(&Request) -> _,
            ])),*]
        };
    }
    for (status, saying) in says!(403, 420, 421, 480, 494, 500, 503, 504, 600) {
        let (mut ims, ue) = behind(saying, false);
        let ended = |world: &mut dyn scenarios::World| world.standing(ue) != Standing::Busy;
        ims.until("an end", Duration::from_secs(10), &mut { ended }).expect("an end");
        let standing = ims.standing(ue);
        assert!(
            matches!(standing, Standing::Failed { status: told, .. } if told == status),
            "{status}: {standing:?}"
        );
    }
}

/// TS 24.229 §5.1.1.5.3: S-68, S-70: a challenge that the card does not believe is answered with no response and no auts; the
/// second one is the last.
#[test]
fn two_challenges_that_are_not_believed() {
    type Say = fn(&Request) -> Option<common::sip::message::Response>;
    let for_ever: &[Say] = &[|request| {
        let mut response = request.response(401, "Unauthorized");
        let headers = response.headers_mut();
        let security = "ipsec-3gpp;q=0.1;alg=hmac-sha-1-96;ealg=null;spi-c=7001;spi-s=7002;\
                        port-c=5100;port-s=5064";
        headers.append(Name::SecurityServer, security);
        let nonce = "qlWqVapVqlWqVapVqlWqVUUQA5HEt9VVZ3t1TM221cg=";
        headers.append(
            Name::WwwAuthenticate,
            &format!("Digest realm=\"{HOME}\",nonce=\"{nonce}\",algorithm=AKAv1-MD5"),
        );
        Some(response)
    }];
    let (mut ims, ue) = behind(for_ever, false);
    let ended = |world: &mut dyn scenarios::World| world.standing(ue) != Standing::Busy;
    ims.until("an end", Duration::from_secs(150), &mut { ended }).expect("an end");
    let answered: Vec<_> = ims
        .world
        .wire
        .iter()
        .filter(|(from, ..)| from == "ue0")
        .filter_map(|(.., bytes)| match Message::parse(bytes.clone(), &Limits::default()) {
            Ok(Message::Request(request)) => credentials_for(request.headers(), HOME).ok()?,
            _ => None,
        })
        .filter(|credentials| credentials.get("nonce").is_some_and(|nonce| !nonce.is_empty()))
        .collect();
    assert!((1..=2).contains(&answered.len()), "{answered:?}");
    for credentials in answered {
        assert_eq!((credentials.get("response"), credentials.get("auts")), (Some(""), None));
    }
}

/// RFC 7616 §3.4: S-60, S-61: opaque comes back as it was, however it looks; qop, realm and nonce with it.
#[test]
fn opaque_comes_back() {
    type Say = fn(&Request) -> Option<common::sip::message::Response>;
    // A nonce of the phone's own card is not needed to see what it does with the rest: an AUTN that is wrong is
    // answered with an empty response.
    let challenge: &[Say] = &[
        |request| {
            let mut response = request.response(401, "Unauthorized");
            let headers = response.headers_mut();
            let security = "ipsec-3gpp;q=0.1;alg=hmac-sha-1-96;ealg=null;spi-c=7001;spi-s=7002;\
                            port-c=5100;port-s=5064";
            headers.append(Name::SecurityServer, security);
            headers.append(
                Name::WwwAuthenticate,
                "Digest realm=\"test.3gpp.com\",nonce=\"qlWqVapVqlWqVapVqlWqVUUQA5HEt9VVZ3t1TM221cg=\",\
                 qop=\"auth\",opaque=\"UVdFUlRZ==QVNERkdI==\",algorithm=AKAv1-MD5",
            );
            Some(response)
        },
        |_| None,
    ];
    let (mut ims, _) = behind(challenge, false);
    let until = ims.world.now + Duration::from_secs(5);
    ims.world.run(until, |_| false);
    let answered = ims.world.wire.iter().rev().find_map(|(from, _, _, bytes)| {
        let Ok(Message::Request(request)) = Message::parse(bytes.clone(), &Limits::default())
        else {
            return None;
        };
        (from == "ue0").then(|| request.headers().get(Name::Authorization).map(str::to_owned))?
    });
    let answered = answered.expect("an answer to the challenge");
    let nonce = AkaNonce::decode("qlWqVapVqlWqVapVqlWqVUUQA5HEt9VVZ3t1TM221cg=").expect("a nonce");
    assert_eq!(nonce.rand, *b"\xaa\x55\xaa\x55\xaa\x55\xaa\x55\xaa\x55\xaa\x55\xaa\x55\xaa\x55");
    assert_eq!(nonce.autn[..8], [0x45, 0x10, 0x03, 0x91, 0xc4, 0xb7, 0xd5, 0x55]);
    assert_eq!(nonce.autn[8..], [0x67, 0x7b, 0x75, 0x4c, 0xcd, 0xb6, 0xd5, 0xc8]);
    for part in [
        "opaque=\"UVdFUlRZ==QVNERkdI==\"",
        "realm=\"test.3gpp.com\"",
        "nonce=\"qlWqVapVqlWqVapVqlWqVUUQA5HEt9VVZ3t1TM221cg=\"",
    ] {
        assert!(answered.contains(part), "{part} in {answered}");
    }
}
