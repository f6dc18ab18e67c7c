//! The same registration on Cx: what I-CSCF and S-CSCF ask, and what the HSS says.

use std::time::Duration;

use common::aka::digest;
use common::aka::digest::AkaNonce;
use common::cx::mar::AuthDataItem;
use common::cx::sar::ServerAssignmentType;
use common::cx::uar::UserAuthorizationType;
use common::cx::{Answer, Outcome, Request};
use common::diameter::base::result_code;
use common::diameter::message::Message;
use common::limits::Limits;
use common::sip::auth::{DigestParameters, credentials_for};
use common::sip::header::Name;
use common::sip::message::Message as SipMessage;
use scenarios::{Function, Phone as Kind, Standing, World as _};
use sim::ims::{HOME, Ims, Options};

/// One question and its answer.
struct Exchange {
    by: String,
    request: Request,
    answer: Answer,
}

/// What has been asked and answered since the recording began.
fn exchanges(ims: &mut Ims) -> Vec<Exchange> {
    let messages: Vec<_> = std::mem::take(&mut ims.world.diameter)
        .into_iter()
        .map(|(from, to, bytes)| {
            (from, to, Message::decode(bytes, &Limits::default()).expect("Diameter"))
        })
        .filter(|(.., message)| message.header.application != 0)
        .collect();
    let answer_to = |asked: &Message| {
        let mut later = messages.iter().filter(|(.., message)| !message.header.is_request());
        let found =
            later.find(|(.., message)| message.header.end_to_end == asked.header.end_to_end);
        &found.expect("an answer").2
    };
    messages
        .iter()
        .filter(|(.., message)| message.header.is_request())
        .map(|(by, _, asked)| Exchange {
            by: by.clone(),
            request: Request::decode(asked).expect("a request of Cx"),
            answer: Answer::decode(answer_to(asked)).expect("an answer of Cx"),
        })
        .collect()
}

/// What the S-CSCF has told the HSS in its SARs.
fn assignments(exchanges: &[Exchange]) -> Vec<(ServerAssignmentType, bool)> {
    let sars = exchanges.iter().filter_map(|exchange| match &exchange.request {
        Request::Sar(sar) => Some((sar.server_assignment_type, sar.user_data_already_available)),
        _ => None,
    });
    sars.collect()
}

/// Where the HSS has any user: registrations, pending authentications, assigned S-CSCFs.
fn held_by_hss(ims: &Ims) -> [i64; 3] {
    [
        "SELECT count(*) FROM registration WHERE is_registered",
        "SELECT count(*) FROM registration WHERE is_authentication_pending",
        "SELECT count(*) FROM subscription WHERE server_name IS NOT NULL",
    ]
    .map(|statement| ims.ask_database(statement))
}

fn registers(ims: &mut Ims, ue: usize) {
    ims.world.is_recording = true;
    ims.register(ue);
    let limit = Duration::from_secs(10);
    let registered = |world: &mut dyn scenarios::World| world.standing(ue) == Standing::Registered;
    ims.until("registered", limit, &mut { registered }).expect("a registration");
    ims.world.is_recording = false;
}

/// The vector of an MAA.
fn vector(exchanges: &[Exchange]) -> AuthDataItem {
    let found = exchanges.iter().find_map(|exchange| match &exchange.answer {
        Answer::Maa(maa) => Some(maa.items.clone()),
        _ => None,
    });
    let items = found.expect("an MAA");
    assert_eq!(items.len(), 1, "as many as were asked for");
    items[0].clone()
}

/// TS 29.228 §6.1.1, §6.1.2, §6.3: S-41, S-42, S-43, S-52, S-54, S-90, S-91, S-94, S-95: the order, who asks, and
/// what stands in each.
#[test]
fn a_registration_on_cx() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(Kind::Good);
    ims.change_database(
        "INSERT INTO charging (id, name, primary_charging_collection)
         VALUES (1, 'one', 'aaa://ccf.example.com')",
    );
    ims.change_database("UPDATE subscription SET charging = 1");
    registers(&mut ims, ue);
    let (impi, impu) = (format!("001010000000001@{HOME}"), format!("sip:001010000000001@{HOME}"));
    let exchanges = exchanges(&mut ims);
    let asked: Vec<_> = exchanges.iter().take(4).map(|one| one.by.as_str()).collect();
    assert_eq!(asked, ["icscf", "scscf1", "icscf", "scscf1"]);

    // It authorises and locates; keys are no matter of the I-CSCF.
    let (Request::Uar(uar), Answer::Uaa(uaa)) = (&exchanges[0].request, &exchanges[0].answer)
    else {
        panic!("a UAR is first")
    };
    assert_eq!((&uar.user_name, &uar.public_identity), (&impi, &impu));
    assert_eq!(uar.visited_network_identifier, HOME);
    assert_eq!(uar.user_authorization_type, UserAuthorizationType::Registration);
    assert_eq!(uaa.outcome, Outcome::FIRST_REGISTRATION);
    assert_eq!(uaa.server_name, None);
    assert!(uaa.server_capabilities.is_some(), "{uaa:?}");

    let (Request::Mar(mar), Answer::Maa(maa)) = (&exchanges[1].request, &exchanges[1].answer)
    else {
        panic!("a MAR is second")
    };
    assert_eq!((mar.sip_number_auth_items, mar.scheme.as_str()), (1, "Digest-AKAv1-MD5"));
    assert_eq!((&mar.user_name, &mar.public_identity), (&impi, &impu));
    assert_eq!(mar.server_name, format!("sip:scscf1.{HOME}"));
    assert_eq!(mar.sip_authorization, None);
    assert_eq!(maa.outcome, Outcome::SUCCESS);
    let vector = vector(&exchanges);
    assert_eq!(vector.sip_authenticate.len(), 32, "RAND and AUTN, raw");
    assert!((4..=16).contains(&vector.sip_authorization.expose().len()), "XRES");
    assert!(vector.confidentiality_key.is_some() && vector.integrity_key.is_some());

    // The MAR has stored whose the user is.
    let (Request::Uar(again), Answer::Uaa(uaa)) = (&exchanges[2].request, &exchanges[2].answer)
    else {
        panic!("a UAR is third")
    };
    assert_eq!(again, uar, "the I-CSCF remembers nothing");
    assert_eq!(uaa.outcome, Outcome::SUBSEQUENT_REGISTRATION);
    assert_eq!(uaa.server_name.as_deref(), Some(mar.server_name.as_str()));
    assert_eq!(uaa.server_capabilities, None);

    let (Request::Sar(sar), Answer::Saa(saa)) = (&exchanges[3].request, &exchanges[3].answer)
    else {
        panic!("a SAR is fourth")
    };
    assert_eq!(sar.user_name.as_deref(), Some(impi.as_str()));
    assert_eq!((&sar.public_identities, &sar.server_name), (&vec![impu], &mar.server_name));
    assert!(!sar.user_data_already_available);
    assert_eq!(sar.server_assignment_type, ServerAssignmentType::Registration);
    assert_eq!(saa.outcome, Outcome::SUCCESS);
    assert!(saa.user_data.is_some());
    let charging = saa.charging_information.clone().expect("Charging-Information");
    assert_eq!(charging.primary_charging_collection.as_deref(), Some("aaa://ccf.example.com"));
}

/// TS 29.228 §6.1.1 to §6.2: S-09: the four questions that the HSS answers and the two that it asks, each with its answer.
#[test]
fn six_commands_of_cx() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(Kind::Good);
    registers(&mut ims, ue);
    ims.world.is_recording = true;
    let impi = ims.private_identity(ue);
    ims.rename(&impi, "Another");
    ims.command(Function::Hss, &["ppr", &impi, "again"]);
    let until = ims.world.now + Duration::from_secs(2);
    ims.world.run(until, |_| false);
    ims.command(Function::Hss, &["rtr", &impi]);
    let idle = |world: &mut dyn scenarios::World| world.standing(ue) == Standing::Idle;
    ims.until("ended", Duration::from_secs(10), &mut { idle }).expect("an end");
    let told: Vec<_> = exchanges(&mut ims)
        .iter()
        .map(|one| match (&one.request, &one.answer) {
            (Request::Uar(_), Answer::Uaa(_)) => format!("{} UAR", one.by),
            (Request::Mar(_), Answer::Maa(_)) => format!("{} MAR", one.by),
            (Request::Sar(_), Answer::Saa(_)) => format!("{} SAR", one.by),
            (Request::Lir(_), Answer::Lia(_)) => format!("{} LIR", one.by),
            (Request::Ppr(_), Answer::Ppa(_)) => format!("{} PPR", one.by),
            (Request::Rtr(_), Answer::Rta(_)) => format!("{} RTR", one.by),
            (asked, answered) => panic!("{asked:?} is answered by {answered:?}"),
        })
        .collect();
    // The P-CSCF's SUBSCRIBE asks where its user is; who watches is stored for another S-CSCF.
    let expected = [
        "icscf UAR",
        "scscf1 MAR",
        "icscf UAR",
        "scscf1 SAR",
        "icscf LIR",
        "hss PPR",
        "scscf1 SAR",
        "hss RTR",
    ];
    assert_eq!(told, expected);
}

/// TS 24.229 §5.3.1.2, TS 29.228 §6.1.1.1: S-44: each reason that the HSS has to refuse a user, as it stands in UAA, and
/// what the phone gets; it is the I-CSCF who says so, and nobody has asked for a vector.
#[test]
fn the_hss_refuses() {
    let other = format!("001010000000002@{HOME}");
    let own = format!("001010000000001@{HOME}");
    let register = super::first_register(&own);
    let of_nobody = super::first_register(&format!("001019999999999@{HOME}"));
    let of_another = register.replace(&format!("<sip:{own}>"), &format!("<sip:{other}>"));
    let nothing = "UPDATE subscription SET is_suspended = 0";
    let cases = [
        ("5001", &of_nobody, nothing, Outcome::USER_UNKNOWN, 403),
        ("5002", &of_another, nothing, Outcome::IDENTITIES_DONT_MATCH, 403),
        (
            "5004",
            &register,
            "UPDATE subscription SET visited_networks = '[\"elsewhere.example.com\"]'",
            Outcome::ROAMING_NOT_ALLOWED,
            403,
        ),
        (
            "5003",
            &register,
            "UPDATE subscription SET is_suspended = 1",
            Outcome::AUTHORIZATION_REJECTED,
            403,
        ),
        (
            "5012",
            &register,
            "UPDATE registration SET is_registered = 1",
            Outcome::Base(result_code::UNABLE_TO_COMPLY),
            480,
        ),
        (
            "nobody has what the HSS asks for",
            &register,
            "UPDATE subscription SET mandatory_capabilities = '[99]'",
            Outcome::FIRST_REGISTRATION,
            600,
        ),
    ];
    for (what, text, change, outcome, status) in cases {
        let visited_network = Some("visited.example.com");
        let mut ims = Ims::new(11, Options { visited_network, ..Options::default() });
        ims.add(Kind::Good);
        ims.add(Kind::Good);
        ims.change_database(change);
        ims.world.is_recording = true;
        let got = super::answers(&mut ims, text.clone());
        let wanted = format!("SIP/2.0 {status} ");
        assert!(got.first().is_some_and(|text| text.starts_with(&wanted)), "{what}: {got:?}");
        let exchanges = exchanges(&mut ims);
        assert!(!exchanges.is_empty(), "{what}");
        for exchange in &exchanges {
            let Answer::Uaa(uaa) = &exchange.answer else {
                panic!("{what}: {:?}", exchange.request)
            };
            assert_eq!((exchange.by.as_str(), uaa.outcome), ("icscf", outcome), "{what}");
        }
    }
}

/// TS 24.229 §5.4.1.2.2, RFC 3310 §3.3: S-84, S-85: `response` is the digest with RES as password. Neither RES nor a key is in
/// any message of SIP, but for ck and ik on their way to the P-CSCF.
#[test]
fn res_stays_with_card_and_scscf() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(Kind::Good);
    registers(&mut ims, ue);
    let wire = std::mem::take(&mut ims.world.wire);
    let vector = vector(&exchanges(&mut ims));
    let xres = vector.sip_authorization.expose();
    let answered = wire.iter().filter(|(from, ..)| from == "ue0").find_map(|(.., bytes)| {
        let SipMessage::Request(request) =
            SipMessage::parse(bytes.clone(), &Limits::default()).ok()?
        else {
            return None;
        };
        let credentials = credentials_for(request.headers(), HOME).ok()??;
        credentials.get("response").is_some_and(|text| !text.is_empty()).then_some(credentials)
    });
    let credentials = answered.expect("an answer to the challenge");
    assert!(digest::verify(&credentials, xres, "REGISTER", b""));
    assert_eq!(credentials.get("qop"), Some("auth"));
    assert_eq!(credentials.get("nc"), Some("00000001"));
    let written = credentials.to_credentials();
    assert!(written.contains("qop=auth, nc=00000001,"), "bare: {written}");

    let hexadecimal =
        |octets: &[u8]| -> String { octets.iter().map(|octet| format!("{octet:02x}")).collect() };
    let contains = |bytes: &[u8], what: &[u8]| {
        let text = String::from_utf8_lossy(bytes).to_lowercase();
        text.contains(&hexadecimal(what)) || bytes.windows(what.len()).any(|part| part == what)
    };
    for (from, to, _, bytes) in &wire {
        assert!(!contains(bytes, xres), "RES from {from} to {to}");
        let carries_keys = bytes.starts_with(b"SIP/2.0 401 ") && to != "ue0";
        for key in [&vector.confidentiality_key, &vector.integrity_key] {
            let key = key.as_ref().expect("a key").expose();
            assert_eq!(contains(bytes, key), carries_keys, "from {from} to {to}");
        }
    }
}

/// TS 24.229 §5.1.1.5.3, §5.4.1.2.3, TS 29.228 §6.3.1, TS 33.102 §6.3.5: S-68, S-69: a card that is ahead: the phone answers in clear, with
/// auts, without a response and with a new offer; the S-CSCF asks with RAND and AUTS, and the next challenge is another.
#[test]
fn a_synchronisation_failure_on_cx() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(Kind::CardAhead);
    registers(&mut ims, ue);
    let mars: Vec<_> = exchanges(&mut ims)
        .into_iter()
        .filter_map(|exchange| match (exchange.request, exchange.answer) {
            (Request::Mar(mar), Answer::Maa(maa)) => Some((mar, maa)),
            _ => None,
        })
        .collect();
    let [(first, vectors), (second, newer)] = &mars[..] else { panic!("two MARs: {mars:?}") };
    assert_eq!(first.sip_authorization, None);
    let sent = second.sip_authorization.as_ref().expect("RAND and AUTS");
    assert_eq!(sent.len(), 30);
    assert_eq!(sent[..16], vectors.items[0].sip_authenticate[..16], "of the challenge that failed");
    assert_ne!(newer.items[0].sip_authenticate, vectors.items[0].sip_authenticate);

    let of_phone: Vec<_> = ims
        .world
        .wire
        .iter()
        .filter(|(from, ..)| from == "ue0")
        .filter_map(|(_, _, protected, bytes)| {
            match SipMessage::parse(bytes.clone(), &Limits::default()) {
                Ok(SipMessage::Request(request)) => Some((*protected, request)),
                _ => None,
            }
        })
        .collect();
    let auts = |request: &common::sip::message::Request| {
        let credentials = credentials_for(request.headers(), HOME).ok()??;
        credentials
            .get("auts")
            .map(|auts| (auts.to_owned(), credentials.get("response").map(str::to_owned)))
    };
    let (protected, resync) =
        of_phone.iter().find(|(_, request)| auts(request).is_some()).expect("an auts");
    assert!(!protected);
    let (written, response) = auts(resync).expect("an auts");
    assert_eq!(digest::decode_auts(&written).map(|auts| auts.to_vec()), Some(sent[16..].to_vec()));
    assert!(response.is_none_or(|text| !text.is_empty()), "RFC 3310 §3.4: of an empty password");
    let offer = |request: &common::sip::message::Request| {
        request.headers().get(Name::SecurityClient).map(str::to_owned)
    };
    assert!(offer(resync).is_some() && offer(resync) != offer(&of_phone[0].1), "a new offer");
}

/// TS 29.228 §6.1.2, §6.3: S-53, S-96: what the HSS knows between MAR and SAR, and behind it: the identity that was
/// registered and its whole implicit set.
#[test]
fn the_hss_after_mar_and_sar() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(Kind::Good);
    assert_eq!(held_by_hss(&ims), [0, 0, 0]);
    ims.register(ue);
    ims.until("a challenge", Duration::from_secs(10), &mut |world| {
        world.metric(Function::Scscf1, "tessera_scscf_challenges", &[]) == 1.0
    })
    .expect("a challenge");
    assert_eq!(held_by_hss(&ims), [0, 1, 1], "nobody registered, one pending, with its S-CSCF");
    let registered = |world: &mut dyn scenarios::World| world.standing(ue) == Standing::Registered;
    ims.until("registered", Duration::from_secs(10), &mut { registered }).expect("a registration");
    assert_eq!(held_by_hss(&ims), [1, 0, 1]);
    let of_set = "SELECT count(*) FROM public_identity p JOIN registration r
                  ON r.implicit_set = p.implicit_set WHERE r.is_registered";
    assert_eq!(ims.ask_database(of_set), 2, "its SIP URI and its telephone number");
}

/// TS 24.229 §5.4.1.2.2F, TS 29.228 §6.1.2: S-106: a refresh inside the association repeats what answered the challenge:
/// nobody asks for a vector, and the HSS is told RE_REGISTRATION by somebody who has the profile.
#[test]
fn a_refresh_on_cx() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(Kind::Good);
    registers(&mut ims, ue);
    let until = ims.world.now + Duration::from_secs(3);
    ims.world.run(until, |_| false);
    ims.world.diameter.clear();
    ims.world.wire.clear();
    let completed = ims.completed(ue);
    ims.world.is_recording = true;
    ims.reregister(ue);
    ims.until("refreshed", Duration::from_secs(10), &mut |world| world.completed(ue) > completed)
        .expect("a refresh");
    let exchanges = exchanges(&mut ims);
    let asked: Vec<_> = exchanges.iter().map(|one| one.request.command()).collect();
    assert_eq!(asked, [300, 301], "UAR and SAR alone");
    assert_eq!(assignments(&exchanges), [(ServerAssignmentType::ReRegistration, true)]);
    let wire = std::mem::take(&mut ims.world.wire);
    let of_refresh = |bytes: &[u8]| bytes.windows(9).any(|part| part == b" REGISTER");
    let mut on_gm = wire
        .iter()
        .filter(|(from, to, _, bytes)| (from == "ue0" || to == "ue0") && of_refresh(bytes));
    let (_, _, protected, asked) = on_gm.next().expect("a REGISTER");
    assert!(*protected && asked.starts_with(b"REGISTER "));
    let (_, _, protected, answered) = on_gm.next().expect("an answer");
    assert!(*protected && answered.starts_with(b"SIP/2.0 200 "));
    let at_icscf = wire.iter().find(|(_, to, ..)| to == "icscf").expect("a REGISTER on Mw");
    let text = String::from_utf8_lossy(&at_icscf.3);
    assert!(text.contains("integrity-protected=\"yes\""), "{text}");
}

/// TS 24.229 §5.4.1.2.3A, TS 29.228 §6.1.2: S-93: an answer that is not XRES: 403 to the phone, AUTHENTICATION_FAILURE to
/// the HSS, which then knows of nobody.
#[test]
fn a_wrong_answer_on_cx() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(Kind::WrongResponse);
    ims.world.is_recording = true;
    ims.register(ue);
    let ended = |world: &mut dyn scenarios::World| world.standing(ue) != Standing::Busy;
    ims.until("an end", Duration::from_secs(150), &mut { ended }).expect("an end");
    let standing = ims.standing(ue);
    assert!(matches!(standing, Standing::Failed { status: 403, .. }), "{standing:?}");
    let told = assignments(&exchanges(&mut ims));
    assert_eq!(told, [(ServerAssignmentType::AuthenticationFailure, false)]);
    assert_eq!(held_by_hss(&ims), [0, 0, 0]);
}

/// TS 24.229 §5.4.1.4, §5.2.5.1, TS 29.228 §6.1.2: S-107, S-121: the end of a registration, at each of the four and at the
/// phone; the associations live until the 200 can have been sent again.
#[test]
fn a_deregistration_everywhere() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(Kind::Good);
    registers(&mut ims, ue);
    let until = ims.world.now + Duration::from_secs(3);
    ims.world.run(until, |_| false);
    ims.world.diameter.clear();
    ims.world.wire.clear();
    ims.world.is_recording = true;
    ims.deregister(ue);
    let idle = |world: &mut dyn scenarios::World| world.standing(ue) == Standing::Idle;
    ims.until("gone", Duration::from_secs(10), &mut { idle }).expect("a deregistration");
    let until = ims.world.now + Duration::from_secs(3);
    ims.world.run(until, |_| false);

    let exchanges = exchanges(&mut ims);
    assert_eq!(assignments(&exchanges), [(ServerAssignmentType::UserDeregistration, false)]);
    assert_eq!(held_by_hss(&ims), [0, 0, 0]);
    for (member, name) in [
        ("pcscf", "tessera_pcscf_registrations"),
        ("scscf1", "tessera_scscf_registrations"),
        ("scscf1", "tessera_scscf_subscriptions"),
    ] {
        assert_eq!(ims.gauge(member, name, &[]), 0.0, "{name}");
    }
    // The phone's own subscription ends with its REGISTER (TS 24.229 §5.4.1.4.1); the others are told.
    let ends: Vec<_> = ims
        .world
        .wire
        .iter()
        .filter(|(_, _, _, bytes)| bytes.starts_with(b"NOTIFY "))
        .filter(|(.., bytes)| {
            let text = String::from_utf8_lossy(bytes);
            text.contains("Subscription-State: terminated")
                && text.contains("event=\"unregistered\"")
        })
        .map(|(from, to, ..)| (from.as_str(), to.as_str()))
        .collect();
    for whom in [("scscf1", "as"), ("scscf1", "pcscf")] {
        assert!(ends.contains(&whom), "{whom:?} in {ends:?}");
    }
    let pcscf = ims.world.member("pcscf");
    let sets = |ims: &Ims| ims.world.members[pcscf].kernel.as_ref().map(|it| it.sets().count());
    assert_eq!(sets(&ims), Some(1), "the 200 may have to be sent again");
    let until = ims.world.now + Duration::from_secs(130);
    ims.world.run(until, |_| false);
    assert_eq!(sets(&ims), Some(0));
}

/// TS 33.102 §6.3, RFC 3310 §3.2: S-54, S-55, S-58: the challenge is the vector, which is used once; the next one
/// is newer.
#[test]
fn a_vector_makes_one_challenge() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(Kind::Good);
    let impi = format!("001010000000001@{HOME}");
    let mut vectors = Vec::new();
    let mut numbers = Vec::new();
    for _ in 0..2 {
        registers(&mut ims, ue);
        let exchanges = exchanges(&mut ims);
        let vector = vector(&exchanges);
        let wire = std::mem::take(&mut ims.world.wire);
        let nonces: Vec<String> = wire
            .iter()
            .filter(|(from, to, ..)| from == "scscf1" && to == "icscf")
            .filter_map(|(.., bytes)| {
                let headers = super::response(bytes)?.headers().clone();
                let challenge = headers.get(Name::WwwAuthenticate)?.to_owned();
                let challenge = DigestParameters::parse(&challenge).expect("a challenge");
                challenge.get("nonce").map(str::to_owned)
            })
            .collect();
        assert_eq!(nonces.len(), 1, "{nonces:?}");
        let nonce = AkaNonce::decode(&nonces[0]).expect("RAND and AUTN");
        let both = [nonce.rand, nonce.autn].concat();
        assert_eq!(both, vector.sip_authenticate, "nothing else and in this order");
        vectors.push(both);
        numbers.push(ims.sequence_numbers()[&impi]);
        ims.deregister(ue);
        let idle = |world: &mut dyn scenarios::World| world.standing(ue) == Standing::Idle;
        ims.until("gone", Duration::from_secs(10), &mut { idle }).expect("a deregistration");
    }
    assert_ne!(vectors[0], vectors[1]);
    assert!(numbers[0] < numbers[1], "{numbers:?}");
}

/// TS 24.229 §5.4.1.2.1, §7.8: S-53, S-56: what waits for an answer waits 240 s, at the S-CSCF and in the HSS.
#[test]
fn a_challenge_waits_for_four_minutes() {
    let mut ims = Ims::new(11, Options::default());
    ims.add(Kind::Good);
    let user = format!("001010000000001@{HOME}");
    let got = super::answers(&mut ims, super::first_register(&user));
    assert!(got.first().is_some_and(|text| text.starts_with("SIP/2.0 401 ")), "{got:?}");
    let waiting = |ims: &Ims| ims.gauge("scscf1", "tessera_scscf_challenges", &[]);
    assert_eq!(waiting(&ims), 1.0);
    // Five seconds have passed.
    ims.world.is_recording = true;
    let until = ims.world.now + Duration::from_secs(230);
    ims.world.run(until, |_| false);
    assert_eq!(waiting(&ims), 1.0);
    let until = ims.world.now + Duration::from_secs(10);
    ims.world.run(until, |_| false);
    assert_eq!(waiting(&ims), 0.0);
    let told: Vec<_> = exchanges(&mut ims)
        .into_iter()
        .filter_map(|exchange| match exchange.request {
            Request::Sar(sar) => Some(sar.server_assignment_type),
            _ => None,
        })
        .collect();
    assert_eq!(told, [ServerAssignmentType::AuthenticationTimeout]);
    assert_eq!(ims.registered_at_hss(), 0);
}

/// TS 24.229 §5.1.1.2.1, §5.4.1.2.2, TS 29.228 §6.1.2: S-104: another identity of the same card, in an implicit set of its
/// own, over the associations that are there: registered beside the first one, which stays when it goes.
#[test]
fn another_identity_beside_the_first() {
    let mut ims = Ims::new(11, Options::default());
    let second = format!("sip:second@{HOME}");
    let ue = ims.add_changed(|config| config.isim.impus.push(second.clone()));
    ims.change_database("INSERT INTO implicit_set (id, subscription) VALUES (2, 1)");
    ims.change_database(&format!(
        "INSERT INTO public_identity (implicit_set, position, identity, service_profile)
         VALUES (2, 0, '{second}', 1)"
    ));
    ims.change_database("INSERT INTO registration (implicit_set, private_identity) VALUES (2, 1)");
    registers(&mut ims, ue);
    let until = ims.world.now + Duration::from_secs(3);
    ims.world.run(until, |_| false);
    assert_eq!(held_by_hss(&ims), [1, 0, 1]);
    ims.world.diameter.clear();
    ims.world.wire.clear();
    ims.world.is_recording = true;
    ims.world.command_after(ue, "register another", Duration::ZERO);
    ims.until("the other one too", Duration::from_secs(10), &mut |world| world.completed(ue) == 2)
        .expect("a registration");
    assert_eq!(held_by_hss(&ims), [2, 0, 1]);
    let mut of_phone = ims.world.wire.iter().filter(|(from, ..)| from == "ue0");
    assert!(of_phone.all(|(_, _, protected, _)| *protected), "inside the associations");
    let told: Vec<_> = exchanges(&mut ims)
        .into_iter()
        .filter_map(|exchange| match exchange.request {
            Request::Sar(sar) => Some((sar.server_assignment_type, sar.public_identities)),
            _ => None,
        })
        .collect();
    let first = (ServerAssignmentType::Registration, vec![second.clone()]);
    assert!(told.contains(&first), "{told:?}");
    assert_eq!(ims.gauge("pcscf", "tessera_pcscf_registrations", &[]), 1.0);

    ims.world.command_after(ue, "deregister another", Duration::ZERO);
    ims.until("one of them", Duration::from_secs(10), &mut |world| world.completed(ue) == 3)
        .expect("a deregistration");
    assert_eq!(held_by_hss(&ims), [1, 0, 1]);
    assert_eq!(ims.gauge("pcscf", "tessera_pcscf_registrations", &[]), 1.0);
}
