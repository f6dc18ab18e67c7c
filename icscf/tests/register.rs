//! Registration at the I-CSCF (TS 24.229 §5.3.1): dialogues with the core alone.

mod dialogue;

use std::time::Duration;

use common::cx::uar::UserAuthorizationType;
use common::cx::{self, Answer, Outcome, Received, ServerCapabilities, Uaa, Uar};
use common::dns::{RecordData, RecordType};
use common::node::{Input, Node, Output};
use common::sip::header::Name;
use dialogue::*;

fn named(outcome: Outcome, server: &str) -> Answer {
    Answer::Uaa(Uaa { outcome, server_name: Some(server.to_owned()), server_capabilities: None })
}

fn capabilities(outcome: Outcome, mandatory: &[u32], optional: &[u32]) -> Answer {
    Answer::Uaa(Uaa {
        outcome,
        server_name: None,
        server_capabilities: Some(ServerCapabilities {
            mandatory: mandatory.to_vec(),
            optional: optional.to_vec(),
            server_names: Vec::new(),
        }),
    })
}

fn refused(outcome: Outcome) -> Answer {
    Answer::Uaa(Uaa { outcome, server_name: None, server_capabilities: None })
}

fn uar(received: &Received) -> &Uar {
    match &received.request {
        cx::Request::Uar(uar) => uar,
        other => panic!("{other:?}"),
    }
}

/// TS 24.229 §5.3.1.2: S-41, S-42: identities, visited network and type go to the HSS.
#[test]
fn asks_the_hss_whether_the_user_may_register() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[]));
    let received = dialogue.asks();
    assert_eq!(
        *uar(&received),
        Uar {
            user_name: IMPI.to_owned(),
            public_identity: IMPU.to_owned(),
            visited_network_identifier: "vims.net".to_owned(),
            user_authorization_type: UserAuthorizationType::Registration,
            is_emergency: false,
        }
    );
    assert_eq!(received.origin_host, "icscf1.hims.net");
    dialogue.sends_nothing();
}

/// TS 24.229 §5.3.1.2: S-43, S-45, S-46, S-47, S-48, S-49, S-50, S-51: the Request-URI becomes the
/// S-CSCF's, a Via goes on top, Max-Forwards goes down, and nothing else changes.
#[test]
fn forwards_to_the_chosen_s_cscf() {
    let mut dialogue = Dialogue::new(config());
    let received_text = register(&[]);
    dialogue.receives(PCSCF, &received_text);
    let received = dialogue.asks();
    dialogue.answers(received, capabilities(Outcome::FIRST_REGISTRATION, &[1], &[]));

    let request = dialogue.forwards_to(SCSCF1);
    assert_eq!(request.uri(), "sip:scscf1.hims.net");
    let headers = request.headers();
    let vias = vias(headers);
    assert_eq!(vias.len(), 3);
    assert!(vias[0].starts_with("SIP/2.0/UDP icscf1.hims.net:5060;branch=z9hG4bK"), "{}", vias[0]);
    assert_eq!(vias[1].split(';').next(), Some("SIP/2.0/UDP 192.0.2.10:5060"));
    assert_eq!(headers.get(Name::MaxForwards), Some("18"));
    for absent in [Name::Route, Name::RecordRoute] {
        assert!(!headers.has(absent));
    }
    let written = String::from_utf8(request.to_bytes().to_vec()).unwrap();
    for line in received_text.lines().filter(|line| {
        !["REGISTER", "Via", "Max-Forwards"].iter().any(|start| line.starts_with(start))
    }) {
        assert!(written.contains(line), "{line}");
    }
}

/// TS 24.229 §5.3.1.2: S-62, S-98, S-103: answers go back unchanged except for Via.
#[test]
fn passes_answers_back() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[]));
    let received = dialogue.asks();
    dialogue.answers(received, named(Outcome::SUBSEQUENT_REGISTRATION, "sip:scscf2.hims.net"));
    let request = dialogue.forwards_to(SCSCF2);
    let challenge =
        "WWW-Authenticate: Digest realm=\"hims.net\",nonce=\"bm9uY2U=\",ck=\"00\",ik=\"11\"\r\n";
    dialogue.scscf_replies(SCSCF2, &request, 401, challenge);
    let response = dialogue.replies();
    assert_eq!(response.status(), 401);
    assert_eq!(vias(response.headers()).len(), 2);
    assert!(String::from_utf8(response.to_bytes().to_vec()).unwrap().contains(challenge));
    assert_eq!(dialogue.counter("tessera_icscf_registrations_total", "challenged"), 1);
    dialogue.rests();
}

/// TS 24.229 §5.3.1.2: S-90, S-91, S-92: no state is kept; the second REGISTER is asked for again
/// and goes to the S-CSCF that the HSS names.
#[test]
fn second_register_goes_where_the_hss_says() {
    let mut dialogue = Dialogue::new(config());
    let second =
        [("z9hG4bK0aab1", "z9hG4bK0aab9"), ("25 REGISTER", "26 REGISTER"), ("\"no\"", "\"yes\"")];
    dialogue.receives(PCSCF, &register(&second));
    let received = dialogue.asks();
    assert_eq!(uar(&received).user_authorization_type, UserAuthorizationType::Registration);
    dialogue.answers(received, named(Outcome::SUBSEQUENT_REGISTRATION, "sip:scscf2.hims.net"));
    let request = dialogue.forwards_to(SCSCF2);
    assert_eq!(request.uri(), "sip:scscf2.hims.net");
    dialogue.scscf_replies(SCSCF2, &request, 200, "");
    assert_eq!(dialogue.replies().status(), 200);
}

/// TS 24.229 §5.3.1.2: without credentials To tells the private identity.
#[test]
fn derives_the_private_identity_from_to() {
    let mut dialogue = Dialogue::new(config());
    let text = register(&[]);
    let text: String =
        text.split_inclusive("\r\n").filter(|line| !line.starts_with("Authorization")).collect();
    let text = text.replace("To: <sip:name@hims.net>", "To: <sip:name@HIMS.net:5060;user=phone>");
    dialogue.receives(PCSCF, &text);
    let received = dialogue.asks();
    assert_eq!(uar(&received).user_name, "name@hims.net");
    assert_eq!(uar(&received).public_identity, "sip:name@hims.net");
}

/// RFC 3261 §22.3: of several credentials the ones for our realm count, in any order.
#[test]
fn takes_the_credentials_for_its_realm() {
    let other = "Authorization: Digest username=\"x\",realm=\"other.net\",nonce=\"\",uri=\"sip:other.net\",response=\"\"\r\n";
    for text in [
        register(&[("Authorization:", &format!("{other}Authorization:"))]),
        register(&[("Content-Length", &format!("{other}Content-Length"))]),
    ] {
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(PCSCF, &text);
        let received = dialogue.asks();
        assert_eq!(uar(&received).user_name, IMPI);
    }
}

/// TS 29.228 §6.1.1: S-107, S-117: every contact at 0 is a deregistration.
#[test]
fn tells_deregistration_from_registration() {
    let contact = "Contact: <sip:10.133.202.46:5060>;expires=600000";
    let zero = "Contact: <sip:10.133.202.46:5060>;expires=0";
    let cases = [
        (zero.to_owned(), UserAuthorizationType::DeRegistration),
        (
            "Contact: <sip:10.133.202.46:5060>\r\nExpires: 0".to_owned(),
            UserAuthorizationType::DeRegistration,
        ),
        ("Contact: *\r\nExpires: 0".to_owned(), UserAuthorizationType::DeRegistration),
        (format!("{zero}\r\n{contact}"), UserAuthorizationType::Registration),
        (format!("{contact}\r\n{zero}"), UserAuthorizationType::Registration),
        ("X-None: 1".to_owned(), UserAuthorizationType::Registration),
    ];
    for (contacts, expected) in cases {
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(PCSCF, &register(&[(contact, &contacts)]));
        let received = dialogue.asks();
        assert_eq!(uar(&received).user_authorization_type, expected, "{contacts}");
    }
}

/// TS 29.228 §6.1.1: an emergency registration is flagged to the HSS.
#[test]
fn flags_an_emergency_registration() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[("46:5060>;expires", "46:5060;sos>;expires")]));
    let received = dialogue.asks();
    assert!(uar(&received).is_emergency);
}

/// TS 24.229 §5.3.1.2, §5.3.1.3: S-44, S-136: what the HSS decides is 403, what it cannot is 480.
#[test]
fn maps_refusals_of_the_hss() {
    let cases = [
        (Outcome::USER_UNKNOWN, 403),
        (Outcome::IDENTITIES_DONT_MATCH, 403),
        (Outcome::ROAMING_NOT_ALLOWED, 403),
        (Outcome::IDENTITY_NOT_REGISTERED, 403),
        (Outcome::AUTHORIZATION_REJECTED, 403),
        (Outcome::UNABLE_TO_COMPLY, 480),
        (Outcome::IDENTITY_ALREADY_REGISTERED, 480),
        (Outcome::AUTH_SCHEME_NOT_SUPPORTED, 480),
        (Outcome::IN_ASSIGNMENT_TYPE, 480),
        (Outcome::TOO_MUCH_DATA, 480),
        (Outcome::NOT_SUPPORTED_USER_DATA, 480),
        (Outcome::Experimental(5010), 480),
        (Outcome::Experimental(5011), 480),
        (Outcome::Experimental(5012), 480),
        (Outcome::Base(3002), 480),
        (Outcome::Base(3004), 480),
        // An SLF that names no HSS.
        (Outcome::Base(3006), 403),
        (Outcome::Base(4001), 480),
        // The same numbers in the other AVP mean other things.
        (Outcome::Base(5001), 480),
        (Outcome::Base(5004), 480),
    ];
    for (outcome, status) in cases {
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(PCSCF, &register(&[]));
        let received = dialogue.asks();
        dialogue.answers(received, refused(outcome));
        assert_eq!(dialogue.replies().status(), status, "{outcome:?}");
        dialogue.rests();
    }
}

/// TS 24.229 §5.3.1.2: S-44: no S-CSCF with the mandatory capabilities.
#[test]
fn no_capable_s_cscf_is_600() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[]));
    let received = dialogue.asks();
    dialogue.answers(received, capabilities(Outcome::FIRST_REGISTRATION, &[1, 3], &[]));
    assert_eq!(dialogue.replies().status(), 600);
    assert_eq!(dialogue.counter("tessera_icscf_registrations_total", "none_capable"), 1);
}

/// TS 24.229 §5.3.1.3: a silent S-CSCF that the HSS named: capabilities are asked for, and another
/// one gets the REGISTER, well within the 128 s of the UE.
#[test]
fn another_s_cscf_after_silence() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[]));
    let received = dialogue.asks();
    dialogue.answers(received, named(Outcome::SUBSEQUENT_REGISTRATION, "sip:scscf1.hims.net"));
    let began = dialogue.now;
    dialogue.forwards_to(SCSCF1);
    dialogue.wait(Duration::from_secs(11));
    dialogue.sent.clear();
    let received = dialogue.asks();
    assert_eq!(
        uar(&received).user_authorization_type,
        UserAuthorizationType::RegistrationAndCapabilities
    );
    dialogue.answers(received, capabilities(Outcome::SUCCESS, &[1], &[]));
    let request = dialogue.forwards_to(SCSCF2);
    assert_eq!(request.uri(), "sip:scscf2.hims.net;scscf-reselection");
    assert!(dialogue.now.since(began) < Duration::from_secs(30));
    dialogue.scscf_replies(SCSCF2, &request, 401, "");
    assert_eq!(dialogue.replies().status(), 401);
    assert_eq!(dialogue.counter("tessera_icscf_reselections_total", ""), 1);
    dialogue.rests();
}

/// TS 24.229 §5.3.1.3: a port that nobody listens on counts as silence, at once.
#[test]
fn another_s_cscf_when_unreachable() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[]));
    let received = dialogue.asks();
    dialogue.answers(received, capabilities(Outcome::FIRST_REGISTRATION, &[1], &[]));
    let (flow, _) = dialogue.sent.pop_front().unwrap();
    dialogue.input(Input::Unreachable { flow });
    let request = dialogue.forwards_to(SCSCF2);
    dialogue.scscf_replies(SCSCF2, &request, 401, "");
    assert_eq!(dialogue.replies().status(), 401);
    // The capabilities were known: the HSS was asked once.
    dialogue.asks_nothing();
}

/// TS 24.229 §5.3.1.3: an HSS that knows of no capabilities names the S-CSCF that was silent once more: another one
/// gets the REGISTER, and no question goes around.
#[test]
fn not_the_silent_one_again() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[]));
    let received = dialogue.asks();
    dialogue.answers(received, named(Outcome::SUBSEQUENT_REGISTRATION, "sip:scscf1.hims.net"));
    let (flow, _) = dialogue.sent.pop_front().unwrap();
    dialogue.input(Input::Unreachable { flow });
    let received = dialogue.asks();
    assert_eq!(
        uar(&received).user_authorization_type,
        UserAuthorizationType::RegistrationAndCapabilities
    );
    dialogue.answers(received, named(Outcome::SUBSEQUENT_REGISTRATION, "sip:scscf1.hims.net"));
    let (flow, _) = dialogue.sent.pop_front().unwrap();
    assert_eq!(flow.remote, SCSCF2.parse().unwrap());
    dialogue.input(Input::Unreachable { flow });
    assert_eq!(dialogue.replies().status(), 504);
    dialogue.asks_nothing();
    dialogue.rests();
}

/// TS 24.229 §5.3.1.3: the next user does not wait for an S-CSCF known to be silent.
#[test]
fn a_silent_s_cscf_is_chosen_last() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[]));
    let received = dialogue.asks();
    dialogue.answers(received, capabilities(Outcome::FIRST_REGISTRATION, &[1], &[]));
    let (flow, _) = dialogue.sent.pop_front().unwrap();
    dialogue.input(Input::Unreachable { flow });
    dialogue.forwards_to(SCSCF2);

    dialogue.receives(PCSCF, &register(&[("z9hG4bK0aab1", "z9hG4bKnext"), ("ababab", "next")]));
    let received = dialogue.asks();
    dialogue.answers(received, capabilities(Outcome::FIRST_REGISTRATION, &[1], &[]));
    dialogue.forwards_to(SCSCF2);
}

/// TS 24.229 §5.3.1.3: S-135: no S-CSCF answers: 504 before the P-CSCF gives up.
#[test]
fn silence_everywhere_is_504() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[]));
    let began = dialogue.now;
    let received = dialogue.asks();
    dialogue.answers(received, capabilities(Outcome::FIRST_REGISTRATION, &[1], &[]));
    dialogue.wait(Duration::from_secs(31));
    let responses = dialogue.sent.iter().filter_map(|(_, message)| match message {
        common::sip::message::Message::Response(response) => Some(response.status()),
        common::sip::message::Message::Request(_) => None,
    });
    assert_eq!(responses.collect::<Vec<_>>(), [504]);
    assert!(dialogue.now.since(began) < Duration::from_secs(32));
    dialogue.rests();
}

/// TS 24.229 §5.3.1.3: 3xx and 480 of an S-CSCF mean another one; when none is left, 480.
#[test]
fn another_s_cscf_after_480() {
    for status in [302, 480] {
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(PCSCF, &register(&[]));
        let received = dialogue.asks();
        dialogue.answers(received, capabilities(Outcome::FIRST_REGISTRATION, &[1], &[]));
        let request = dialogue.forwards_to(SCSCF1);
        dialogue.scscf_replies(SCSCF1, &request, status, "");
        let request = dialogue.forwards_to(SCSCF2);
        dialogue.scscf_replies(SCSCF2, &request, status, "");
        assert_eq!(dialogue.replies().status(), 480);
        dialogue.rests();
    }
}

/// TS 23.380 §4.2: S-92: a registered user's S-CSCF is silent: another one gets the REGISTER, with
/// what the first one left at the HSS, and is told so.
#[test]
fn another_s_cscf_takes_over_a_registered_user() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[("\"no\"", "\"yes\"")]));
    let received = dialogue.asks();
    dialogue.answers(received, named(Outcome::SUBSEQUENT_REGISTRATION, "sip:scscf1.hims.net"));
    let (flow, _) = dialogue.sent.pop_front().unwrap();
    dialogue.input(Input::Unreachable { flow });
    let received = dialogue.asks();
    assert_eq!(
        uar(&received).user_authorization_type,
        UserAuthorizationType::RegistrationAndCapabilities
    );
    dialogue.answers(received, capabilities(Outcome::SUCCESS, &[1], &[]));
    let request = dialogue.forwards_to(SCSCF2);
    assert_eq!(request.uri(), "sip:scscf2.hims.net;scscf-reselection");
    dialogue.scscf_replies(SCSCF2, &request, 200, "");
    assert_eq!(dialogue.replies().status(), 200);
    dialogue.rests();
}

/// TS 24.229 §5.3.1.3: without restoration no other S-CSCF can serve inside security associations:
/// 504 makes the UE begin anew. A deregistration goes nowhere else in any case.
#[test]
fn no_reselection_for_a_protected_register() {
    let mut config = config();
    config.restoration = false;
    let mut dialogue = Dialogue::new(config);
    dialogue.receives(PCSCF, &register(&[("\"no\"", "\"yes\"")]));
    let received = dialogue.asks();
    dialogue.answers(received, named(Outcome::SUBSEQUENT_REGISTRATION, "sip:scscf1.hims.net"));
    let (flow, _) = dialogue.sent.pop_front().unwrap();
    dialogue.input(Input::Unreachable { flow });
    assert_eq!(dialogue.replies().status(), 504);
    dialogue.asks_nothing();
}

/// RFC 3261 §16.7: a 503 of the S-CSCF becomes 500, with its user left where it is.
#[test]
fn overload_of_the_s_cscf_is_not_ours() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[]));
    let received = dialogue.asks();
    dialogue.answers(received, named(Outcome::SUBSEQUENT_REGISTRATION, "sip:scscf1.hims.net"));
    let request = dialogue.forwards_to(SCSCF1);
    dialogue.scscf_replies(SCSCF1, &request, 503, "Retry-After: 9\r\n");
    let response = dialogue.replies();
    assert_eq!(response.status(), 500);
    assert!(response.headers().has(Name::RetryAfter));
    dialogue.asks_nothing();
}

/// TS 24.229 §5.3.1.3, RFC 3263 §4.3: a new user's S-CSCF is overloaded: the capabilities are known, so another one
/// gets the REGISTER and the HSS is not asked again; when none is left, 500.
#[test]
fn another_s_cscf_after_503_when_capabilities_are_known() {
    for second in [401, 503] {
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(PCSCF, &register(&[]));
        let received = dialogue.asks();
        dialogue.answers(received, capabilities(Outcome::FIRST_REGISTRATION, &[1], &[]));
        let request = dialogue.forwards_to(SCSCF1);
        dialogue.scscf_replies(SCSCF1, &request, 503, "Retry-After: 9\r\n");
        let request = dialogue.forwards_to(SCSCF2);
        dialogue.asks_nothing();
        dialogue.scscf_replies(SCSCF2, &request, second, "");
        let expected = if second == 503 { 500 } else { second };
        assert_eq!(dialogue.replies().status(), expected);
        dialogue.asks_nothing();
        dialogue.rests();
    }
}

/// RFC 3261 §21.4.1: S-136: what cannot be read is refused with its name.
#[test]
fn malformed_is_400() {
    let cases = [
        ("To: <sip:name@hims.net>", "To: <sip:>"),
        ("Authorization: Digest ", "Authorization: Digest username=\"x\","),
        ("username=\"name.private@hims.net\"", "username=\"\""),
        ("Contact: <sip:10.133.202.46:5060>", "Contact: <sip:10.133"),
    ];
    for (from, to) in cases {
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(PCSCF, &register(&[(from, to)]));
        assert!(!dialogue.sent.is_empty(), "{to}");
        assert_eq!(dialogue.replies().status(), 400, "{to}");
        dialogue.asks_nothing();
        dialogue.rests();
    }
}

/// RFC 3261 §21.4.1, TS 29.228 §6.1.1: an identity that no network gives out costs the HSS nothing, whether To or
/// the username is that long.
#[test]
fn a_long_identity_is_400() {
    let text = |long: &str| {
        let to = format!("To: <sip:{long}@hims.net>");
        let text = register(&[("To: <sip:name@hims.net>", &to)]);
        let kept = |line: &&str| !line.starts_with("Authorization");
        text.split_inclusive("\r\n").filter(kept).collect::<String>()
    };
    let long = "a".repeat(1_025);
    let username = format!("username=\"{long}\"");
    for text in [
        text(&long),
        text(&"a".repeat(33_000)),
        register(&[("username=\"name.private@hims.net\"", &username)]),
    ] {
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(PCSCF, &text);
        assert_eq!(dialogue.replies().status(), 400);
        dialogue.asks_nothing();
        dialogue.rests();
    }
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &text(&"a".repeat(1_000)));
    assert!(uar(&dialogue.asks()).user_name.len() > 1_000);
}

/// TS 24.229 §5.3.1.2: nor does the HSS get a visited network longer than a domain name can be.
#[test]
fn a_long_visited_network_is_400() {
    for (octets, is_taken) in [(255, true), (256, false), (20_000, false)] {
        let mut dialogue = Dialogue::new(config());
        let visited = format!("\"{}\"", "v".repeat(octets));
        dialogue.receives(PCSCF, &register(&[("\"vims.net\"", &visited)]));
        if is_taken {
            assert_eq!(uar(&dialogue.asks()).visited_network_identifier.len(), octets);
            continue;
        }
        assert_eq!(dialogue.replies().status(), 400);
        assert_eq!(dialogue.counter("tessera_icscf_registrations_total", "malformed"), 1);
        dialogue.asks_nothing();
        dialogue.rests();
    }
}

/// RFC 3261 §10.3: S-14: another domain is not looked up here.
#[test]
fn foreign_domain_is_404() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[("REGISTER sip:hims.net", "REGISTER sip:other.net")]));
    assert_eq!(dialogue.replies().status(), 404);
    dialogue.asks_nothing();
}

/// TS 24.229 §5.3.1.3: a hung HSS: the REGISTER is answered in time, and everything else at once;
/// service returns with the HSS.
#[test]
fn a_hung_hss_stops_nothing() {
    let mut dialogue = Dialogue::new(config());
    dialogue.deafen_hss();
    dialogue.receives(PCSCF, &register(&[]));
    let options = "OPTIONS sip:icscf1.hims.net SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKo\r\nMax-Forwards: 70\r\nFrom: <sip:a@b.net>;tag=1\r\nTo: <sip:icscf1.hims.net>\r\nCall-ID: o\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";
    dialogue.receives(PCSCF, options);
    assert_eq!(dialogue.replies().status(), 200);
    dialogue.sends_nothing();
    dialogue.wait(Duration::from_secs(6));
    assert_eq!(dialogue.replies().status(), 480);
    dialogue.rests();
}

/// TS 24.229 §5.3.1.3: without an HSS the node is not ready, and says 480.
#[test]
fn without_hss() {
    let mut dialogue = Dialogue::without_hss(config());
    assert!(dialogue.core.ready().is_err());
    dialogue.receives(PCSCF, &register(&[]));
    dialogue.wait(Duration::from_secs(6));
    assert_eq!(dialogue.replies().status(), 480);
}

/// RFC 3263 §4: S-29: an S-CSCF known by name only is found in the DNS; its next address is
/// tried when the first is silent.
#[test]
fn finds_an_s_cscf_in_the_dns() {
    let mut config = config();
    config.scscf.clear();
    let mut dialogue = Dialogue::new(config);
    dialogue.receives(PCSCF, &register(&[]));
    let received = dialogue.asks();
    dialogue.answers(received, named(Outcome::SUBSEQUENT_REGISTRATION, "sip:scscf9.hims.net"));
    let srv = |priority, target: &str| RecordData::Srv {
        priority,
        weight: 0,
        port: 6060,
        target: target.to_owned(),
    };
    dialogue.resolves(&[
        ("_sip._udp.scscf9.hims.net", RecordType::Srv, srv(1, "a.hims.net")),
        ("_sip._udp.scscf9.hims.net", RecordType::Srv, srv(2, "b.hims.net")),
        ("a.hims.net", RecordType::A, RecordData::Address("192.0.2.91".parse().unwrap())),
        ("b.hims.net", RecordType::A, RecordData::Address("192.0.2.92".parse().unwrap())),
    ]);
    let (flow, _) = dialogue.sent.pop_front().expect("the REGISTER");
    assert_eq!(flow.remote, "192.0.2.91:6060".parse().unwrap());
    dialogue.input(Input::Unreachable { flow });
    let request = dialogue.forwards_to("192.0.2.92:6060");
    assert_eq!(request.uri(), "sip:scscf9.hims.net");
    dialogue.scscf_replies("192.0.2.92:6060", &request, 401, "");
    assert_eq!(dialogue.replies().status(), 401);
    dialogue.rests();
}

/// TS 24.229 §5.3.1.3: a name that the DNS does not know: another S-CSCF, else 480.
#[test]
fn an_unknown_s_cscf_name() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[]));
    let received = dialogue.asks();
    dialogue.answers(received, named(Outcome::SUBSEQUENT_REGISTRATION, "sip:gone.hims.net"));
    dialogue.resolves(&[]);
    let received = dialogue.asks();
    dialogue.answers(received, capabilities(Outcome::SUCCESS, &[9], &[]));
    assert_eq!(dialogue.replies().status(), 480);
    dialogue.rests();
}

/// RFC 3261 §18.1.1: S-105: a REGISTER longer than 1300 bytes goes on by TCP.
#[test]
fn a_long_register_goes_by_tcp() {
    let mut dialogue = Dialogue::new(config());
    let long = format!("X-Long: {}\r\nContent-Length", "a".repeat(900));
    dialogue.receives(PCSCF, &register(&[("Content-Length", &long)]));
    let received = dialogue.asks();
    dialogue.answers(received, named(Outcome::SUBSEQUENT_REGISTRATION, "sip:scscf1.hims.net"));
    let (flow, _) = dialogue.sent.pop_front().unwrap();
    assert_eq!(flow.transport, common::node::Transport::Tcp);
    assert_eq!(flow.local.port(), 0);
}

/// A process that is about to end takes nothing new, and ends what it has.
#[test]
fn draining() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(PCSCF, &register(&[]));
    let received = dialogue.asks();
    dialogue.input(Input::Drain);
    assert!(dialogue.core.ready().is_err());
    dialogue.receives(PCSCF, &register(&[("z9hG4bK0aab1", "z9hG4bKlate"), ("ababab", "late")]));
    let response = dialogue.replies();
    assert_eq!((response.status(), response.headers().has(Name::RetryAfter)), (503, true));
    dialogue.answers(received, refused(Outcome::USER_UNKNOWN));
    assert_eq!(dialogue.replies().status(), 403);
    dialogue.rests();
}

/// An operator sees which S-CSCFs are in use.
#[test]
fn operator_lists_servers() {
    let mut dialogue = Dialogue::new(config());
    dialogue.input(Input::Admin { id: 4, command: vec!["servers".to_owned()] });
    let Some(Output::Reply { id: 4, text }) = dialogue.outputs.pop() else { panic!() };
    assert!(text.contains("sip:scscf1.hims.net in use address=192.0.2.31:5060"), "{text}");
}

/// An unknown key is named, and a whole file is read.
#[test]
fn reads_its_configuration() {
    let text = "home_domain = \"hims.net\"\n[sip]\nname = \"icscf1.hims.net\"\n[sip.listen]\nudp = [\"192.0.2.20:5060\"]\n[diameter]\nidentity = \"icscf1.hims.net\"\nrealm = \"hims.net\"\npeers = [{ host = \"192.0.2.40\" }]\n[[scscf]]\nname = \"sip:scscf1.hims.net\"\ncapabilities = [1, 2]\n[timeouts]\nhss_milliseconds = 900\n";
    let config: icscf::Config = toml::from_str(text).unwrap();
    assert_eq!(config.problems(), Vec::<String>::new());
    assert_eq!(config.timeouts.hss(), Duration::from_millis(900));
    assert_eq!(config.timeouts.scscf(), Duration::from_secs(10));
    let error = toml::from_str::<icscf::Config>(&text.replace("capabilities", "capability"));
    assert!(error.unwrap_err().to_string().contains("capability"));
    let mut config: icscf::Config = toml::from_str(&text.replace("192.0.2.20", "0.0.0.0")).unwrap();
    config.diameter.peers.clear();
    assert_eq!(config.problems().len(), 2, "{:?}", config.problems());
}
