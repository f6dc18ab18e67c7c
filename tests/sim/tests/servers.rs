//! All daemons, and more than one of a kind: whom a user is given to, who stands in for whom, and what the servers that
//! hear of a registration read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::cx::Request as CxRequest;
use common::diameter::message::Message as Diameter;
use common::dns::{Answer, Question, RecordData, RecordType};
use common::limits::Limits;
use common::node::{Input, Node, Now, Output};
use common::sip::header::Name;
use common::sip::message::{Message, Request};
use scenarios::{Function, Phone as Kind, Standing, World as _};
use sim::ims::{Data, HOME, Ims, Life, Options};

const PATIENCE: Duration = Duration::from_secs(150);

fn register(ims: &mut Ims, ue: usize) -> Standing {
    ims.register(ue);
    ims.until("an end", PATIENCE, &mut |world| world.standing(ue) != Standing::Busy).unwrap();
    ims.standing(ue)
}

fn registers(ims: &mut Ims, ue: usize) {
    assert_eq!(register(ims, ue), Standing::Registered, "{}", ims.world.ladder.tail(60));
}

fn deregisters(ims: &mut Ims, ue: usize) {
    ims.deregister(ue);
    ims.until("it leaves", PATIENCE, &mut |world| world.standing(ue) == Standing::Idle).unwrap();
}

/// Gives how many vectors it took.
fn refreshes(ims: &mut Ims, ue: usize) -> f64 {
    let before = vectors(ims);
    let completed = ims.completed(ue);
    ims.reregister(ue);
    ims.until("an end", PATIENCE, &mut |world| world.completed(ue) > completed).unwrap();
    vectors(ims) - before
}

/// Of all HSSs.
fn vectors(ims: &Ims) -> f64 {
    let of = |name: &'static str| {
        let is_there = ims.world.members.iter().any(|member| member.name == name);
        if is_there { ims.gauge(name, "tessera_hss_vectors_total", &[]) } else { 0.0 }
    };
    of("hss") + of("hss2")
}

fn passes(ims: &mut Ims, span: Duration) {
    let until = ims.world.now + span;
    ims.world.run(until, |_| false);
}

fn registrations(ims: &Ims) -> [f64; 2] {
    ["scscf1", "scscf2"].map(|name| ims.gauge(name, "tessera_scscf_registrations", &[]))
}

/// What the HSS asks for in the UAA, in JSON.
fn needs(ims: &Ims, mandatory: &str, optional: &str) {
    ims.change_database(&format!(
        "UPDATE subscription SET mandatory_capabilities = '{mandatory}',
         optional_capabilities = '{optional}' WHERE server_name IS NULL"
    ));
}

/// TS 29.228 §6.7, TS 24.229 §5.3.1.2: S-45: who has all that must be, then who has most of what should be, and
/// only then who comes first by priority; none of it: 600.
#[test]
fn by_capabilities() {
    let servers = ["priority = 1\ncapabilities = [1, 3]", "priority = 2\ncapabilities = [1, 2]"];
    let cases = [
        ("[]", "[]", Some(0)),
        ("[1]", "[]", Some(0)),
        ("[2]", "[]", Some(1)),
        ("[1, 2]", "[3]", Some(1)),
        ("[]", "[2]", Some(1)),
        ("[1]", "[2, 9]", Some(1)),
        ("[1]", "[3, 2]", Some(0)),
        ("[2, 3]", "[]", None),
        ("[9]", "[1, 2, 3]", None),
    ];
    for (mandatory, optional, expected) in cases {
        let mut ims = Ims::new(5, Options { servers, ..Options::default() });
        let ue = ims.add(Kind::Good);
        needs(&ims, mandatory, optional);
        let standing = register(&mut ims, ue);
        let Some(expected) = expected else {
            let is_600 = matches!(standing, Standing::Failed { status: 600, .. });
            assert!(is_600, "{mandatory} {optional}: {standing:?}");
            assert_eq!(registrations(&ims), [0.0, 0.0]);
            continue;
        };
        assert_eq!(standing, Standing::Registered, "{mandatory} {optional}");
        let held = registrations(&ims);
        assert_eq!(held[expected], 1.0, "{mandatory} {optional}: {held:?}");
        // And there it stays, whoever else would do.
        assert_eq!(refreshes(&mut ims, ue), 0.0);
        assert_eq!(registrations(&ims), held);
    }
}

/// TS 29.228 §6.7, TS 24.229 §5.3.1.3: S-45: an S-CSCF that is away is replaced by nobody who has not what the user
/// must have, and the phone is told.
#[test]
fn nobody_incapable_takes_over() {
    let servers = ["capabilities = [1]", "capabilities = [2]"];
    for (needed, expected) in [("[1]", None), ("[]", Some(Standing::Registered))] {
        let mut ims = Ims::new(5, Options { servers, ..Options::default() });
        let ue = ims.add(Kind::Good);
        needs(&ims, needed, "[1]");
        ims.kill(Function::Scscf1);
        let standing = register(&mut ims, ue);
        match expected {
            Some(expected) => assert_eq!(standing, expected),
            None => {
                let is_told = matches!(standing, Standing::Failed { status: 480 | 504 | 600, .. });
                assert!(is_told, "{standing:?}");
                assert_eq!(registrations(&ims)[1], 0.0);
            }
        }
    }
}

/// TS 29.228 §6.7, TS 23.228 §5.1.2.2: S-45: among equals weights decide: a hundred users go one to three, and each of them
/// is challenged and served by the same one.
#[test]
fn by_weight() {
    let servers = ["priority = 1\nweight = 1", "priority = 1\nweight = 3"];
    let mut ims = Ims::new(5, Options { servers, is_unwatched: true, ..Options::default() });
    for _ in 0..100 {
        let ue = ims.add(Kind::Good);
        registers(&mut ims, ue);
    }
    let [light, heavy] = registrations(&ims);
    assert_eq!(light + heavy, 100.0);
    // Four standard deviations of a binomial distribution around 75.
    assert!((58.0..=92.0).contains(&heavy), "{heavy} of 100");
    assert_eq!(vectors(&ims), 100.0);
}

/// Each question of Cx that has gone out: by whom, to whom, T flag, End-to-End Identifier, what.
fn questions(ims: &mut Ims) -> Vec<(String, String, bool, u32, CxRequest)> {
    let decoded = std::mem::take(&mut ims.world.diameter).into_iter().map(|(from, to, bytes)| {
        (from, to, Diameter::decode(bytes, &Limits::default()).expect("Diameter"))
    });
    decoded
        .filter(|(.., message)| message.header.application != 0 && message.header.is_request())
        .map(|(from, to, message)| {
            let is_again = message.header.flags & 0x10 != 0;
            let request = CxRequest::decode(&message).expect("a request of Cx");
            (from, to, is_again, message.header.end_to_end, request)
        })
        .collect()
}

/// RFC 6733 §5.5.4, RFC 3539 §3.4.1, TS 33.102 §6.3.2: S-52, S-134: the HSS hangs between UAA and MAR. The S-CSCF asks the other
/// one the same, marked as asked again, in time for the phone, which gets one challenge of one vector. When the
/// first one is back, what it had been asked is forgotten.
#[test]
fn an_hss_hangs_between_uaa_and_mar() {
    let mut ims = Ims::new(5, Options { data: Data::TwoHsss, ..Options::default() });
    let ue = ims.add(Kind::Good);
    let impi = ims.private_identity(ue);
    let number = ims.sequence_numbers()[&impi];
    ims.world.is_recording = true;
    ims.register(ue);
    let begin = ims.world.now;
    let is_authorised = |world: &sim::world::World| {
        world.diameter.iter().any(|(from, to, _)| from == "hss" && to == "icscf")
    };
    assert!(ims.world.run(begin + Duration::from_secs(2), is_authorised), "no UAA");
    ims.hang(Function::Hss, true);
    ims.until("an end", PATIENCE, &mut |world| world.standing(ue) != Standing::Busy).unwrap();
    assert_eq!(ims.standing(ue), Standing::Registered);
    // What each of the two S-CSCF's and I-CSCF's questions waits for the first HSS, and no repetition by the phone.
    let took = ims.world.now.since(begin);
    assert!(took < Duration::from_secs(14), "{took:?}");

    let mars: Vec<_> = questions(&mut ims)
        .into_iter()
        .filter(|(.., request)| matches!(request, CxRequest::Mar(_)))
        .map(|(from, to, is_again, end_to_end, _)| (from, to, is_again, end_to_end))
        .collect();
    let [first, second] = &mars[..] else { panic!("{mars:?}") };
    assert_eq!((first.0.as_str(), first.1.as_str(), first.2), ("scscf1", "hss", false));
    assert_eq!((second.0.as_str(), second.1.as_str(), second.2), ("scscf1", "hss2", true));
    assert_eq!(first.3, second.3, "one End-to-End Identifier");
    let challenges = ims
        .world
        .wire
        .iter()
        .filter(|(_, to, _, bytes)| to == "ue0" && bytes.starts_with(b"SIP/2.0 401 "));
    assert_eq!(challenges.count(), 1);
    assert_eq!(vectors(&ims), 1.0);
    let now = ims.sequence_numbers()[&impi];
    ims.hang(Function::Hss, false);
    passes(&mut ims, Duration::from_secs(60));
    assert_eq!(ims.sequence_numbers()[&impi], now, "{number} before all");
    assert_eq!(ims.gauge("scscf1", "tessera_scscf_challenges", &[]), 0.0);
    assert_eq!(refreshes(&mut ims, ue), 0.0);
}

/// RFC 6733 §5.5.4, TS 29.228 §6.1.3: one of two HSSs over one database dies, then the other: registrations, refreshes and ends go
/// on, no sequence number is used twice, and what either ends the phone hears of.
#[test]
fn one_of_two_hsss_is_enough() {
    let mut ims = Ims::new(5, Options { data: Data::TwoHsss, ..Options::default() });
    let first = ims.add(Kind::Good);
    registers(&mut ims, first);
    for (gone, left) in [("hss", "hss2"), ("hss2", "hss")] {
        let (gone, left) = (ims.world.member(gone), ims.world.member(left));
        let before = ims.sequence_numbers()[&ims.private_identity(first)];
        ims.world.kill(gone);
        let begin = ims.world.now;
        let ue = ims.add(Kind::Good);
        registers(&mut ims, ue);
        assert!(ims.world.now.since(begin) < Duration::from_secs(3), "nobody waits for the dead");
        assert_eq!(refreshes(&mut ims, first), 0.0);
        deregisters(&mut ims, first);
        registers(&mut ims, first);
        assert!(ims.sequence_numbers()[&ims.private_identity(first)] > before);
        let impi = ims.private_identity(ue);
        ims.world.admin(left, &["rtr", &impi]);
        ims.until("it hears of the end", PATIENCE, &mut |world| {
            world.standing(ue) == Standing::Idle
        })
        .unwrap();
        assert_eq!(ims.registered_at_hss(), 1);
        ims.world.restart_after(gone, Duration::ZERO);
        passes(&mut ims, Duration::from_secs(40));
    }
}

/// TS 29.228 §5.2, §6.1.1, TS 24.229 §5.3.1.2, RFC 6733 §6.1.8, §6.13: who asks the SLF is sent to the HSS that has the user: I-CSCF with UAR and
/// LIR, S-CSCF with MAR and SAR; each remembers it, and asks the SLF no second time.
#[test]
fn the_slf_names_the_hss() {
    let mut ims = Ims::new(5, Options { data: Data::BehindSlf, ..Options::default() });
    let ues: Vec<usize> = (0..2).map(|_| ims.add(Kind::Good)).collect();
    for (ue, hss) in ues.into_iter().zip(["hss2", "hss"]) {
        ims.world.is_recording = true;
        registers(&mut ims, ue);
        ims.until("watched", PATIENCE, &mut |world| world.notified(ue) == 1).unwrap();
        passes(&mut ims, Duration::from_secs(3));
        refreshes(&mut ims, ue);
        deregisters(&mut ims, ue);
        passes(&mut ims, Duration::from_secs(3));
        let asked = questions(&mut ims);
        let mut by_slf: BTreeMap<&str, usize> = BTreeMap::new();
        let mut at_hss: BTreeMap<&str, usize> = BTreeMap::new();
        for (by, of, _, _, request) in &asked {
            let name = match request {
                CxRequest::Uar(_) => "UAR",
                CxRequest::Mar(_) => "MAR",
                CxRequest::Sar(_) => "SAR",
                CxRequest::Lir(_) => "LIR",
                other => panic!("{other:?}"),
            };
            match of.as_str() {
                "slf" => *by_slf.entry(by).or_default() += 1,
                _ => {
                    assert_eq!(of, hss, "{name} of ue{ue}");
                    *at_hss.entry(name).or_default() += 1;
                }
            }
        }
        assert_eq!(by_slf, BTreeMap::from([("icscf", 2), ("scscf1", 1)]), "of ue{ue}");
        assert!(
            ["UAR", "MAR", "SAR", "LIR"].iter().all(|one| at_hss.contains_key(one)),
            "{at_hss:?}"
        );
        assert_eq!(at_hss["MAR"], 1);
    }
    assert_eq!(ims.registered_at_hss(), 0);
}

/// TS 24.229 §5.3.1.2, TS 29.228 §5.4: the I-CSCF keeps nothing of what the SLF has told it: without the SLF a phone is
/// refused in time, and with it again it is served.
#[test]
fn the_slf_is_away() {
    let mut ims = Ims::new(5, Options { data: Data::BehindSlf, ..Options::default() });
    let ue = ims.add(Kind::Good);
    let slf = ims.world.member("slf");
    ims.world.kill(slf);
    let standing = register(&mut ims, ue);
    assert!(matches!(standing, Standing::Failed { status: 480, .. }), "{standing:?}");
    ims.world.restart_after(slf, Duration::ZERO);
    passes(&mut ims, Duration::from_secs(40));
    registers(&mut ims, ue);
}

/// All that has been said to a member, REGISTERs alone.
fn told(ims: &mut Ims, whom: &str) -> Vec<Request> {
    let heard = std::mem::take(&mut ims.world.wire).into_iter().filter(|(_, to, ..)| to == whom);
    heard
        .filter_map(|(.., bytes)| match Message::parse(bytes, &Limits::default()) {
            Ok(Message::Request(request)) => Some(request),
            _ => None,
        })
        .filter(|request| request.uri().starts_with("sip:as") && request.cseq() == 1)
        .filter(|request| request.to_bytes().starts_with(b"REGISTER "))
        .collect()
}

/// The parts of a multipart/mixed, each with its type.
fn parts(request: &Request) -> Vec<(String, String)> {
    let content_type = request.headers().get(Name::ContentType).expect("a Content-Type");
    let boundary = content_type.strip_prefix("multipart/mixed;boundary=").expect("a multipart");
    let boundary = format!("--{}", boundary.trim_matches('"'));
    let body = String::from_utf8(request.body().to_vec()).expect("text");
    let end = format!("{boundary}--\r\n");
    let inside = body.strip_suffix(&end).expect("the last boundary");
    inside
        .split(&format!("{boundary}\r\n"))
        .skip(1)
        .map(|part| {
            let (head, content) = part.split_once("\r\n\r\n").expect("a part with its head");
            let content_type = head.strip_prefix("Content-Type: ").expect("its type");
            let content = content.strip_suffix("\r\n").expect("the line break of the boundary");
            (content_type.to_owned(), content.to_owned())
        })
        .collect()
}

const CRITERIA: &str = "<InitialFilterCriteria><Priority>0</Priority><TriggerPoint>\
    <ConditionTypeCNF>1</ConditionTypeCNF><SPT><ConditionNegated>0</ConditionNegated><Group>0</Group>\
    <Method>REGISTER</Method></SPT></TriggerPoint><ApplicationServer>\
    <ServerName>sip:as.ims.mnc001.mcc001.3gppnetwork.org</ServerName><DefaultHandling>0</DefaultHandling>\
    <ServiceInfo>a &lt; b</ServiceInfo>\
    <Extension><IncludeRegisterRequest/><IncludeRegisterResponse/></Extension>\
    </ApplicationServer></InitialFilterCriteria>";

/// TS 24.229 §5.4.1.7, §7.6, TS 29.228 §B.2.2, RFC 2046 §5.1: S-102: what an application server reads of registration, refresh and
/// end: who, for how long, what belongs to it, and the REGISTER and its 200 to the octet.
#[test]
fn what_an_application_server_reads() {
    let mut ims = Ims::new(5, Options { criteria: Some(CRITERIA), ..Options::default() });
    let ue = ims.add_changed(|config| {
        config.access_network = Some("3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=001010001".to_owned());
    });
    let identity = format!("sip:001010000000001@{HOME}");
    type Happens = fn(&mut Ims, usize);
    let occasions: [(&str, Happens); 3] = [
        ("3600", registers),
        ("3600", |ims, ue| assert_eq!(refreshes(ims, ue), 0.0)),
        ("0", deregisters),
    ];
    let mut call_ids = Vec::new();
    for (expires, happens) in occasions {
        ims.world.is_recording = true;
        happens(&mut ims, ue);
        passes(&mut ims, Duration::from_secs(3));
        let at_scscf = |bytes: &Bytes, what: &[u8]| bytes.starts_with(what);
        let wire = &ims.world.wire;
        let last = |from: &str, to: &str, what: &[u8], method: &[u8]| {
            let found = wire.iter().rev().find(|(by, of, _, bytes)| {
                by == from
                    && of == to
                    && at_scscf(bytes, what)
                    && bytes.windows(method.len()).any(|part| part == method)
            });
            String::from_utf8(found.expect("a message").3.to_vec()).expect("text")
        };
        let asked = last("icscf", "scscf1", b"REGISTER ", b" REGISTER");
        let answered = last("scscf1", "icscf", b"SIP/2.0 200 ", b" REGISTER");
        let told = told(&mut ims, "as");
        let [request] = &told[..] else { panic!("{expires}: {} REGISTERs", told.len()) };
        let headers = request.headers();
        let server = format!("sip:scscf1.{HOME}");
        assert_eq!(request.uri(), format!("sip:as.{HOME}"));
        assert!(headers.get(Name::From).unwrap().starts_with(&format!("<{server}>;tag=")));
        assert_eq!(headers.get(Name::To), Some(format!("<{identity}>").as_str()));
        assert_eq!(headers.get(Name::Contact), Some(format!("<{server}>").as_str()));
        assert_eq!(headers.get(Name::Expires), Some(expires));
        assert_eq!(headers.get(Name::PVisitedNetworkId), Some(format!("\"{HOME}\"").as_str()));
        let network = headers.get(Name::PAccessNetworkInfo).expect("its cell");
        assert!(network.starts_with("3GPP-E-UTRAN-FDD;"), "{network}");
        let vector = headers.get(Name::PChargingVector).expect("an icid");
        let icid = |text: &str| {
            let value = text.split("icid-value=").nth(1).unwrap_or_default();
            value.split([';', '\r']).next().unwrap_or_default().trim_matches('"').to_owned()
        };
        assert_eq!(icid(vector), icid(&asked), "that of the REGISTER");
        assert!(vector.contains(&format!("orig-ioi=\"Type 3{HOME}\"")), "{vector}");
        for name in [Name::Authorization, Name::Path, Name::SecurityVerify, Name::Require] {
            assert!(!headers.has(name), "{name:?}");
        }
        call_ids.push(request.call_id().to_owned());

        let parts = parts(request);
        let types: Vec<_> = parts.iter().map(|(content_type, _)| content_type.as_str()).collect();
        let messages = match expires {
            "0" => {
                assert_eq!(types, ["message/sip", "message/sip"]);
                &parts[..]
            }
            _ => {
                assert_eq!(types, ["application/3gpp-ims+xml", "message/sip", "message/sip"]);
                let info = "<service-info>a &lt; b</service-info>";
                assert!(parts[0].1.contains(info), "{}", parts[0].1);
                &parts[1..]
            }
        };
        let without_received = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with("Via: ")).map(str::to_owned).collect()
        };
        assert_eq!(without_received(&messages[0].1), without_received(&asked));
        assert_eq!(without_received(&messages[1].1), without_received(&answered));
        for (_, message) in messages {
            assert!(!message.contains("ck=") && !message.contains("ik="), "{message}");
        }
    }
    call_ids.dedup();
    assert_eq!(call_ids.len(), 3, "each is a REGISTER of its own");
}

/// An application server that refuses whatever comes.
struct Refusing(u16);

impl Node for Refusing {
    fn handle(&mut self, _: Now, input: Input, out: &mut Vec<Output>) {
        let Input::Sip { flow, bytes } = input else { return };
        if let Ok(Message::Request(request)) = Message::parse(bytes, &Limits::default()) {
            let bytes = request.response(self.0, "No").to_bytes();
            out.push(Output::Sip { flow, bytes });
        }
    }

    fn next_timeout(&self) -> Option<Now> {
        None
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn samples(&self, _: &mut common::stats::Samples) {}

    fn owed(&self) -> usize {
        0
    }
}

/// Every REGISTER to `as2`, whose failure ends registrations or does not.
const CONTINUED: &str = "<InitialFilterCriteria><Priority>0</Priority><ApplicationServer>\
    <ServerName>sip:as2.ims.mnc001.mcc001.3gppnetwork.org</ServerName><DefaultHandling>0</DefaultHandling>\
    </ApplicationServer></InitialFilterCriteria>";
const TERMINATED: &str = "<InitialFilterCriteria><Priority>0</Priority><ApplicationServer>\
    <ServerName>sip:as2.ims.mnc001.mcc001.3gppnetwork.org</ServerName><DefaultHandling>1</DefaultHandling>\
    </ApplicationServer></InitialFilterCriteria>";

/// TS 24.229 §5.4.1.7, TS 29.228 §B.2.2: S-102, S-123: a server that answers 5xx, or 4xx, and what its criterion makes of it:
/// nothing, or with SESSION_TERMINATED and 5xx the end of the registration, of which the phone hears.
#[test]
fn a_server_refuses() {
    let cases = [
        (CONTINUED, 500, true),
        (CONTINUED, 503, true),
        (CONTINUED, 408, true),
        (CONTINUED, 403, true),
        (TERMINATED, 403, true),
        (TERMINATED, 500, false),
        (TERMINATED, 503, false),
        (TERMINATED, 408, false),
    ];
    for (criteria, status, stays) in cases {
        let mut ims = Ims::new(5, Options { criteria: Some(criteria), ..Options::default() });
        let at = SocketAddr::new("10.90.0.51".parse().unwrap(), 5060);
        let node = move |_| Box::new(Refusing(status)) as Box<dyn Node>;
        ims.world.add("as2", vec![at.ip()], None, Box::new(node));
        let question = Question { name: format!("as2.{HOME}"), record_type: RecordType::A };
        let records = vec![RecordData::Address(at.ip())];
        let ttl = Duration::from_secs(300);
        ims.world.zone.insert(question, Answer::Found { records, ttl });
        let ue = ims.add(Kind::Good);
        registers(&mut ims, ue);
        passes(&mut ims, Duration::from_secs(10));
        let what = format!("{status}: {}", ims.world.ladder.tail(60));
        if stays {
            assert_eq!(ims.standing(ue), Standing::Registered, "{what}");
            assert_eq!(ims.registered_at_hss(), 1, "{what}");
            assert_eq!(refreshes(&mut ims, ue), 0.0, "{what}");
        } else {
            assert_eq!(ims.standing(ue), Standing::Idle, "{what}");
            assert_eq!(ims.registered_at_hss(), 0, "{what}");
            assert_eq!(registrations(&ims), [0.0, 0.0]);
        }
    }
}

/// RFC 3261 §20.33, TS 24.229 §5.1.1.2.1: S-136: a P-CSCF that is to end answers 503 with Retry-After, in clear and over
/// associations; by the time that the phone comes again it is gone, and the phone takes the other one.
#[test]
fn a_pcscf_is_drained() {
    let mut ims = Ims::new(5, Options::default());
    let other = ims.add_second_pcscf();
    let both = |config: &mut ue::Config| {
        config.pcscfs.push((other, 5060).into());
        config.automatic = true;
    };
    let served = ims.add_changed(both);
    registers(&mut ims, served);
    let ue = ims.add_changed(both);
    let pcscf = ims.world.member("pcscf");
    ims.world.drain(pcscf);
    assert!(ims.world.members[pcscf].core.as_ref().unwrap().ready().is_err());
    ims.world.is_recording = true;
    for ue in [ue, served] {
        let standing = register(&mut ims, ue);
        assert!(matches!(standing, Standing::Failed { status: 503, .. }), "{standing:?}");
    }
    let refusals: Vec<_> = ims
        .world
        .wire
        .iter()
        .filter(|(from, .., bytes)| from == "pcscf" && bytes.starts_with(b"SIP/2.0 503 "))
        .collect();
    let of = |ue: &str| -> Vec<bool> {
        refusals.iter().filter(|(_, to, ..)| to == ue).map(|one| one.2).collect()
    };
    assert_eq!((of("ue0"), of("ue1")), (vec![true], vec![false]));
    for (.., bytes) in refusals {
        assert!(String::from_utf8_lossy(bytes).contains("\r\nRetry-After: 10\r\n"));
    }
    // It had nothing left to do.
    ims.world.kill(pcscf);
    for ue in [ue, served] {
        let registered =
            |world: &mut dyn scenarios::World| world.standing(ue) == Standing::Registered;
        ims.until("served by the other", Duration::from_secs(300), &mut { registered }).unwrap();
    }
    assert_eq!(ims.gauge("pcscf2", "tessera_pcscf_registrations", &[]), 2.0);
    assert_eq!(registrations(&ims), [2.0, 0.0]);
}

/// S-12: TS 24.229 §5.4.8.2, TS 29.228 §6.1.1.1: who may not roam here may call for help here; UAR-Flags say so, and the
/// HSS gives the profile although all of it is barred.
#[test]
fn emergency_where_roaming_is_forbidden() {
    let visited_network = Some("visited.example.com");
    for change in [
        "UPDATE subscription SET visited_networks = '[\"elsewhere.example.com\"]'",
        "UPDATE public_identity SET is_barred = 1",
    ] {
        let mut ims = Ims::new(5, Options { visited_network, ..Options::default() });
        let normal = ims.add(Kind::Good);
        ims.change_database(change);
        let standing = register(&mut ims, normal);
        assert!(matches!(standing, Standing::Failed { status: 403, .. }), "{standing:?}");
        ims.world.is_recording = true;
        let emergency = ims.add_bearer_of(normal, |config| config.is_emergency = true);
        registers(&mut ims, emergency);
        let flags: Vec<_> = questions(&mut ims)
            .into_iter()
            .filter_map(|(.., request)| match request {
                CxRequest::Uar(uar) => Some(uar.is_emergency),
                _ => None,
            })
            .collect();
        assert_eq!(flags, [true, true], "of both REGISTERs");
        assert_eq!(ims.gauge("pcscf", "tessera_pcscf_emergency_registrations", &[]), 1.0);
        assert_eq!(told(&mut ims, "as").len(), 0, "no server hears of it");
    }
}

/// S-12: TS 24.229 §5.1.6.4, §5.1.6.6, §5.4.8.2: an emergency registration has its own interval, is not refreshed before half of it
/// has passed, nor ended by the phone; time ends it everywhere, and the normal registration beside it stays.
#[test]
fn time_ends_an_emergency_registration() {
    let mut ims = Ims::new(5, Options::default());
    let normal = ims.add(Kind::Good);
    registers(&mut ims, normal);
    let emergency = ims.add_bearer_of(normal, |config| {
        config.is_emergency = true;
        // Which is of no effect for it.
        config.automatic = true;
    });
    registers(&mut ims, emergency);
    let begin = ims.world.now;
    ims.world.is_recording = true;
    passes(&mut ims, Duration::from_secs(800));
    for (command, cause) in [("register", "EmergencyNotDue"), ("deregister", "EmergencyStays")] {
        ims.world.command_after(emergency, command, Duration::ZERO);
        passes(&mut ims, Duration::from_secs(2));
        let standing = ims.standing(emergency);
        let is_it = matches!(&standing, Standing::Failed { cause: said, .. } if said == cause);
        assert!(is_it, "{command}: {standing:?}");
    }
    let sent = |ims: &Ims| ims.world.wire.iter().filter(|(from, ..)| from == "ue1").count();
    assert_eq!(sent(&ims), 0, "nothing was sent");
    passes(&mut ims, Duration::from_secs(120));
    assert_eq!(refreshes(&mut ims, emergency), 0.0);
    assert!(ims.world.now.since(begin) > Duration::from_secs(900));
    let refreshed = ims.world.now;
    ims.world.wire.clear();
    let held = |ims: &Ims| ims.gauge("pcscf", "tessera_pcscf_emergency_registrations", &[]);
    passes(&mut ims, Duration::from_secs(1_750));
    assert_eq!(held(&ims), 1.0);
    assert_eq!(refreshes(&mut ims, normal), 0.0);
    let gone = refreshed + Duration::from_secs(1_800 + 60);
    ims.world.run(gone, |_| false);
    assert_eq!(held(&ims), 0.0);
    assert_eq!(sent(&ims), 0, "it was not refreshed by itself");
    assert_eq!(registrations(&ims), [1.0, 0.0]);
    assert_eq!(refreshes(&mut ims, normal), 0.0);
    assert_eq!(ims.registered_at_hss(), 1);
    deregisters(&mut ims, normal);
    assert_eq!(ims.registered_at_hss(), 0);
}

/// RFC 5626 §4.2, §6, RFC 5627 §3.1, TS 24.229 §5.4.1.4.1, §5.4.1.5: one instance with two flows: each is a contact of its own
/// under one public GRUU. One leaves, or its time is up, and the other stays, unchallenged.
#[test]
fn one_of_two_flows_goes() {
    let life = Life { seconds: 600, ..Life::default() };
    let mut ims = Ims::new(5, Options { life, ..Options::default() });
    let first = ims.add(Kind::WithFlow);
    registers(&mut ims, first);
    let second = ims.add_bearer_of(first, |config| config.reg_id = Some(2));
    registers(&mut ims, second);
    let identity = ims.line(first).expect("a bearer").public_identity;
    let contacts = |ims: &mut Ims| {
        let scscf = ims.world.member("scscf1");
        ims.world.admin(scscf, &["show", &identity]).matches("\n  contact ").count()
    };
    let at_pcscf = |ims: &Ims| ims.gauge("pcscf", "tessera_pcscf_registrations", &[]);
    assert_eq!((at_pcscf(&ims), registrations(&ims)), (2.0, [1.0, 0.0]));
    let [one, two] = [first, second].map(|ue| ims.gruus(ue).expect("GRUUs"));
    assert_eq!(one.0, two.0, "one instance");
    assert_ne!(one.1, two.1);
    assert_eq!(contacts(&mut ims), 2);

    deregisters(&mut ims, second);
    assert_eq!(contacts(&mut ims), 1);
    assert_eq!((at_pcscf(&ims), registrations(&ims)), (1.0, [1.0, 0.0]));
    assert_eq!(refreshes(&mut ims, first), 0.0);
    assert_eq!(ims.registered_at_hss(), 1);

    registers(&mut ims, second);
    passes(&mut ims, Duration::from_secs(400));
    assert_eq!(refreshes(&mut ims, first), 0.0);
    assert_eq!(at_pcscf(&ims), 2.0);
    passes(&mut ims, Duration::from_secs(300));
    assert_eq!((at_pcscf(&ims), registrations(&ims)), (1.0, [1.0, 0.0]));
    assert_eq!(contacts(&mut ims), 1);
    assert_eq!(ims.standing(first), Standing::Registered);
    assert_eq!(refreshes(&mut ims, first), 0.0);
    assert_eq!(ims.registered_at_hss(), 1);
}

/// RFC 5627 §3.1, §5.1, TS 24.229 §5.4.7A.2, §5.4.7A.3, TS 23.380 §4.2: two devices of one identity have a public GRUU each. Another S-CSCF that
/// takes a device over gives it the same public one, and a temporary one of its own.
#[test]
fn gruus_of_devices_and_after_a_takeover() {
    let mut ims = Ims::new(5, Options::default());
    let first = ims.add(Kind::Good);
    registers(&mut ims, first);
    let second = ims.add_changed_device_of(first, |config| {
        config.instance_id = Some("urn:gsma:imei:35209900-176149-0".to_owned());
    });
    registers(&mut ims, second);
    let [one, two] = [first, second].map(|ue| ims.gruus(ue).expect("GRUUs"));
    assert_ne!(one.0, two.0, "each instance its own");
    let identity = format!("sip:001010000000001@{HOME};gr=urn:uuid:");
    assert!(one.0.starts_with(&identity) && two.0.starts_with(&identity), "{one:?} {two:?}");

    passes(&mut ims, Duration::from_secs(3));
    ims.kill(Function::Scscf1);
    assert_eq!(refreshes(&mut ims, first), 0.0);
    let restored = ims.gruus(first).expect("GRUUs");
    assert_eq!(restored.0, one.0);
    assert_ne!(restored.1, one.1);
    assert!(restored.1.starts_with("sip:tgruu."), "{}", restored.1);
    assert!(registrations(&ims)[1] >= 1.0);
}
