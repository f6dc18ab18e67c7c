//! The twelve messages of Cx: encode, decode, and what is refused (TS 29.229 §6.1, §6.3).

use bytes::Bytes;
use common::cx::sar::ServerAssignmentType;
use common::cx::uar::UserAuthorizationType;
use common::cx::{
    APPLICATION, Answer, AuthDataItem, ChargingInformation, EmergencyRegistration, Lia, Lir, Maa,
    Mar, Outcome, Ppa, Ppr, Request, RestorationInfo, Rta, Rtr, Saa, Sar, ScscfRestorationInfo,
    ServerCapabilities, SubscriptionInfo, Uaa, Uar, avp, mar::DigestAuthenticate, rtr::ReasonCode,
};
use common::diameter::base::{self, result_code};
use common::diameter::message::{
    Builder, Definition, FLAG_ERROR, FLAG_PROXIABLE, Failure, Header, Message,
};
use common::limits::Limits;
use common::secret::Secret;
use proptest::prelude::*;

const IMPI: &str = "name.private@hims.net";
const IMPU: &str = "sip:name@hims.net";
const SCSCF: &str = "sip:scscf1.hims.net:5060;transport=tcp";

fn decode(bytes: Bytes) -> Message {
    Message::decode(bytes, &Limits::default()).unwrap()
}

fn request_message(command: u32, fill: impl FnOnce(&mut Builder)) -> Message {
    let mut builder = Builder::new(base::application_header(command, APPLICATION.id, 7));
    builder.text(base::SESSION_ID, "icscf1.hims.net;1;2");
    APPLICATION.write(&mut builder);
    builder.number(base::AUTH_SESSION_STATE, 1);
    builder.text(base::ORIGIN_HOST, "icscf1.hims.net");
    builder.text(base::ORIGIN_REALM, "hims.net");
    builder.text(base::DESTINATION_REALM, "hims.net");
    fill(&mut builder);
    decode(builder.finish())
}

fn answer_message(command: u32, flags: u8, fill: impl FnOnce(&mut Builder)) -> Message {
    let header =
        Header { flags, command, application: APPLICATION.id, hop_by_hop: 1, end_to_end: 2 };
    let mut builder = Builder::new(header);
    builder.text(base::SESSION_ID, "icscf1.hims.net;1;2");
    builder.text(base::ORIGIN_HOST, "hss1.hims.net");
    builder.text(base::ORIGIN_REALM, "hims.net");
    fill(&mut builder);
    decode(builder.finish())
}

fn requests() -> Vec<Request> {
    let sar = Sar {
        user_name: Some(IMPI.into()),
        public_identities: vec![IMPU.into()],
        server_name: SCSCF.into(),
        server_assignment_type: ServerAssignmentType::Registration,
        ..Sar::default()
    };
    let mar = Mar {
        user_name: IMPI.into(),
        public_identity: IMPU.into(),
        server_name: SCSCF.into(),
        sip_number_auth_items: 1,
        scheme: "Digest-AKAv1-MD5".into(),
        sip_authorization: None,
    };
    vec![
        Request::Uar(Uar {
            user_name: IMPI.into(),
            public_identity: IMPU.into(),
            visited_network_identifier: "vims.net".into(),
            ..Uar::default()
        }),
        Request::Uar(Uar {
            user_name: IMPI.into(),
            public_identity: IMPU.into(),
            visited_network_identifier: "vims.net".into(),
            user_authorization_type: UserAuthorizationType::RegistrationAndCapabilities,
            is_emergency: true,
        }),
        Request::Sar(sar.clone()),
        Request::Sar(Sar {
            user_name: None,
            public_identities: vec![IMPU.into(), "tel:+15551234".into()],
            wildcarded_public_identity: Some("sip:!.*!@hims.net".into()),
            server_assignment_type: ServerAssignmentType::DeregistrationTooMuchData,
            user_data_already_available: true,
            ..sar.clone()
        }),
        Request::Lir(Lir { public_identity: IMPU.into(), ..Lir::default() }),
        Request::Lir(Lir {
            public_identity: IMPU.into(),
            is_originating: true,
            wants_capabilities: true,
        }),
        Request::Mar(mar.clone()),
        Request::Mar(Mar { sip_authorization: Some(Bytes::from(vec![9; 30])), ..mar }),
        Request::Rtr(Rtr {
            destination_host: "scscf1.hims.net".into(),
            user_name: IMPI.into(),
            associated_identities: vec!["other@hims.net".into()],
            public_identities: vec![IMPU.into()],
            reason_code: ReasonCode::ServerChange,
            reason_info: Some("moved".into()),
        }),
        Request::Ppr(Ppr {
            destination_host: "scscf1.hims.net".into(),
            user_name: IMPI.into(),
            user_data: Some(Bytes::from_static(b"<IMSSubscription/>")),
            charging_information: Some(charging()),
        }),
        Request::Sar(Sar {
            restoration: Some(restoration()),
            is_multiple_registration: true,
            is_pcscf_restoration: true,
            ..sar
        }),
    ]
}

fn charging() -> ChargingInformation {
    ChargingInformation {
        primary_charging_collection: Some("aaa://ccf1.hims.net".into()),
        secondary_event_charging: Some("aaa://ecf2.hims.net".into()),
        ..ChargingInformation::default()
    }
}

fn vector(number: u32) -> AuthDataItem {
    AuthDataItem {
        sip_item_number: Some(number),
        scheme: "Digest-AKAv1-MD5".into(),
        sip_authenticate: Bytes::from(vec![number as u8; 32]),
        sip_authorization: Secret::new(vec![2; 8]),
        confidentiality_key: Some(Secret::new([3; 16])),
        integrity_key: Some(Secret::new([4; 16])),
        ..AuthDataItem::default()
    }
}

/// What SIP Digest and early IMS security have in the place of a vector.
fn other_schemes() -> Vec<AuthDataItem> {
    let item = |scheme: &str| AuthDataItem { scheme: scheme.into(), ..AuthDataItem::default() };
    let digest = DigestAuthenticate {
        realm: "hims.net".into(),
        algorithm: Some("SHA-256".into()),
        qop: "auth".into(),
        ha1: Secret::new("242ab72f8d906da684c7dd7965928470".into()),
    };
    vec![
        AuthDataItem { digest: Some(digest), ..item("SIP Digest") },
        AuthDataItem {
            framed_address: Some(("10.45.0.2".parse().unwrap(), 32)),
            ..item("Early-IMS-Security")
        },
        AuthDataItem {
            framed_address: Some(("2001:db8:1:2::".parse().unwrap(), 64)),
            ..item("Early-IMS-Security")
        },
    ]
}

fn restoration() -> ScscfRestorationInfo {
    let subscription = SubscriptionInfo {
        call_id: "sub1".into(),
        from: "<sip:name@hims.net>;tag=1".into(),
        to: "<sip:name@hims.net>;tag=2".into(),
        record_route: Some("<sip:pcscf1.vims.net;lr>".into()),
        contact: "<sip:10.133.202.46:5064>".into(),
    };
    ScscfRestorationInfo {
        user_name: IMPI.into(),
        contacts: vec![
            RestorationInfo {
                path: "<sip:term@pcscf1.vims.net;lr>".into(),
                contact: "<sip:10.133.202.46:5064>;+g.3gpp.smsip".into(),
                ..RestorationInfo::default()
            },
            RestorationInfo {
                path: "<sip:a;lr>, <sip:b;lr>".into(),
                contact: "<sip:10.133.202.47:5064>".into(),
                cseq: Some(26),
                call_id: Some("ababab".into()),
                pcscf_subscription: Some(SubscriptionInfo {
                    record_route: None,
                    ..subscription.clone()
                }),
                subscription: Some(subscription),
            },
        ],
        registration_time_out: Some(1_700_003_600),
        scheme: Some("Digest-AKAv1-MD5".into()),
    }
}

fn answers() -> Vec<Answer> {
    vec![
        Answer::Uaa(Uaa {
            outcome: Outcome::FIRST_REGISTRATION,
            server_name: None,
            server_capabilities: Some(ServerCapabilities {
                mandatory: vec![1, 2],
                optional: vec![3],
                server_names: vec![SCSCF.into()],
            }),
        }),
        Answer::Uaa(Uaa {
            outcome: Outcome::SUBSEQUENT_REGISTRATION,
            server_name: Some(SCSCF.into()),
            server_capabilities: None,
        }),
        Answer::Saa(Saa {
            outcome: Outcome::SUCCESS,
            user_name: Some(IMPI.into()),
            user_data: Some(Bytes::from_static(b"<IMSSubscription/>")),
            charging_information: Some(charging()),
            associated_identities: vec![IMPI.into(), "other@hims.net".into()],
            server_name: Some(SCSCF.into()),
            restoration: vec![restoration(), restoration()],
            associated_registered_identities: vec![IMPI.into()],
            wildcarded_public_identity: Some("sip:!.*!@hims.net".into()),
        }),
        Answer::Lia(Lia {
            outcome: Outcome::UNREGISTERED_SERVICE,
            server_capabilities: Some(ServerCapabilities::default()),
            wildcarded_public_identity: Some("sip:!.*!@hims.net".into()),
            is_psi_direct: true,
            ..Lia::default()
        }),
        Answer::Maa(Maa {
            outcome: Outcome::SUCCESS,
            user_name: Some(IMPI.into()),
            public_identity: Some(IMPU.into()),
            items: vec![vector(1), vector(2)],
        }),
        Answer::Rta(Rta {
            outcome: Outcome::SUCCESS,
            associated_identities: vec!["other@hims.net".into()],
            emergency_registrations: vec![EmergencyRegistration {
                user_name: IMPI.into(),
                public_identity: IMPU.into(),
            }],
        }),
        Answer::Ppa(Ppa { outcome: Outcome::Base(5012) }),
        Answer::Maa(Maa { outcome: Outcome::SUCCESS, items: other_schemes(), ..Maa::default() }),
    ]
}

fn encode(request: &Request) -> Message {
    request_message(request.command(), |builder| {
        if let Request::Rtr(Rtr { destination_host, .. })
        | Request::Ppr(Ppr { destination_host, .. }) = request
        {
            builder.text(base::DESTINATION_HOST, destination_host);
        }
        request.encode(builder);
    })
}

fn command_of(answer: &Answer) -> u32 {
    match answer {
        Answer::Uaa(_) => 300,
        Answer::Saa(_) => 301,
        Answer::Lia(_) => 302,
        Answer::Maa(_) => 303,
        Answer::Rta(_) => 304,
        Answer::Ppa(_) => 305,
    }
}

fn encode_answer(answer: &Answer) -> Message {
    answer_message(command_of(answer), FLAG_PROXIABLE, |builder| answer.encode(builder))
}

/// What is written is what is read; S-41, S-52, S-54, S-94, S-95. All twelve messages, and their groups and AVPs:
/// TS 29.229 §6.1, §6.1.2, §6.1.4, §6.1.5, §6.1.6, §6.1.8, §6.1.10, §6.1.11, §6.1.12;
/// TS 29.229 §6.3.4, §6.3.5, §6.3.6, §6.3.9, §6.3.10, §6.3.11, §6.3.15, §6.3.16, §6.3.17, §6.3.19, §6.3.24, §6.3.33,
/// TS 29.229 §6.3.34, §6.3.36, §6.3.46, §6.3.49, §6.3.52, §6.3.63, §6.3.64; RFC 4005 §6.11.1, §6.11.6.
#[test]
fn all_messages_round_trip() {
    for request in requests() {
        assert_eq!(Request::decode(&encode(&request)).unwrap(), request);
    }
    for answer in answers() {
        assert_eq!(Answer::decode(&encode_answer(&answer)).unwrap(), answer);
    }
}

/// TS 29.229 §6.1.1, §6.1.3, §6.1.7; S-41, S-52, S-94: the AVPs that are mandatory are on the wire,
/// with V and M set, and in newer ones M clear (TS 29.229 §6.3 table 6.3.1).
#[test]
fn writes_mandatory_avps_with_their_flags() {
    let expect = |request: &Request, expected: &[Definition]| {
        let message = encode(request);
        for definition in expected {
            let found = message.find(*definition).unwrap_or_else(|| panic!("{definition:?}"));
            assert_eq!(found.is_mandatory(), definition.is_mandatory, "{definition:?}");
        }
    };
    let all = requests();
    expect(
        &all[0],
        &[
            base::USER_NAME,
            avp::PUBLIC_IDENTITY,
            avp::VISITED_NETWORK_IDENTIFIER,
            avp::USER_AUTHORIZATION_TYPE,
        ],
    );
    expect(&all[1], &[avp::UAR_FLAGS]);
    expect(
        &all[2],
        &[
            base::USER_NAME,
            avp::PUBLIC_IDENTITY,
            avp::SERVER_NAME,
            avp::SERVER_ASSIGNMENT_TYPE,
            avp::USER_DATA_ALREADY_AVAILABLE,
        ],
    );
    expect(
        &all[6],
        &[
            base::USER_NAME,
            avp::PUBLIC_IDENTITY,
            avp::SIP_AUTH_DATA_ITEM,
            avp::SIP_NUMBER_AUTH_ITEMS,
            avp::SERVER_NAME,
        ],
    );
    let message = encode(&all[2]);
    assert_eq!(message.find(avp::SERVER_ASSIGNMENT_TYPE).unwrap().number().unwrap(), 1);
    assert_eq!(message.find(avp::USER_DATA_ALREADY_AVAILABLE).unwrap().number().unwrap(), 0);
    for (definition, is_mandatory) in [
        (avp::PUBLIC_IDENTITY, true),
        (avp::ORIGINATING_REQUEST, true),
        (avp::SUPPORTED_FEATURES, false),
        (avp::ASSOCIATED_IDENTITIES, false),
        (avp::WILDCARDED_PUBLIC_IDENTITY, false),
        (avp::UAR_FLAGS, false),
    ] {
        assert_eq!(definition.is_mandatory, is_mandatory, "{definition:?}");
    }
}

/// RFC 6733 §7.1.5: each mandatory AVP that is left out is named by a 5005.
#[test]
fn refuses_requests_that_lack_an_avp() {
    let all = requests();
    for (request, missing) in [
        (&all[0], base::USER_NAME),
        (&all[0], avp::PUBLIC_IDENTITY),
        (&all[0], avp::VISITED_NETWORK_IDENTIFIER),
        (&all[2], base::USER_NAME),
        (&all[2], avp::PUBLIC_IDENTITY),
        (&all[2], avp::SERVER_NAME),
        (&all[2], avp::SERVER_ASSIGNMENT_TYPE),
        (&all[2], avp::USER_DATA_ALREADY_AVAILABLE),
        (&all[4], avp::PUBLIC_IDENTITY),
        (&all[6], base::USER_NAME),
        (&all[6], avp::PUBLIC_IDENTITY),
        (&all[6], avp::SIP_AUTH_DATA_ITEM),
        (&all[6], avp::SIP_NUMBER_AUTH_ITEMS),
        (&all[6], avp::SERVER_NAME),
        (&all[8], base::DESTINATION_HOST),
        (&all[8], base::USER_NAME),
        (&all[8], avp::DEREGISTRATION_REASON),
        (&all[9], base::DESTINATION_HOST),
        (&all[9], base::USER_NAME),
    ] {
        let message = decode(encode(request).encode_without(missing));
        let failure = Request::decode(&message).unwrap_err();
        assert_eq!(failure, Failure::missing(missing), "{request:?}");
    }
}

/// TS 29.228 §6.2.2, RFC 6733 §7.1.5: a PPR with nothing that could be new is refused; any one of what it may
/// bring is enough, and an AVP that nobody knows is none of it.
#[test]
fn refuses_a_push_of_nothing() {
    let full = encode(&requests()[9]);
    let without_data = decode(full.encode_without(avp::USER_DATA));
    assert!(Request::decode(&without_data).is_ok());
    let without_charging = decode(full.encode_without(avp::CHARGING_INFORMATION));
    assert!(Request::decode(&without_charging).is_ok());
    let ppr = |more: &dyn Fn(&mut Builder)| {
        request_message(305, |builder| {
            builder.text(base::DESTINATION_HOST, "scscf1.hims.net");
            builder.text(base::USER_NAME, IMPI);
            more(builder);
        })
    };
    let unknown = Definition::octets(4711, avp::VENDOR_3GPP, false);
    for nothing in [ppr(&|_| {}), ppr(&|builder| builder.text(unknown, "news"))] {
        let failure = Request::decode(&nothing).unwrap_err();
        assert_eq!(failure, Failure::missing(avp::USER_DATA));
    }
    for news in [avp::SIP_AUTH_DATA_ITEM, avp::ALLOWED_WAF_WWSF_IDENTITIES] {
        assert!(Request::decode(&ppr(&|builder| builder.group(news, |_| {}))).is_ok());
    }
}

/// RFC 6733 §4.1, §7.1.5: either M setting of a known AVP is fine; unknown with M is 5001 and comes
/// back in Failed-AVP; unknown without M is passed over.
#[test]
fn follows_the_m_bit() {
    let uar = &requests()[0];
    let with = |definition: Definition| {
        let message = request_message(300, |builder| {
            uar.encode(builder);
            builder.octets(definition, b"abc");
        });
        Request::decode(&message)
    };
    for is_mandatory in [true, false] {
        assert_eq!(&with(Definition::octets(632, 10415, is_mandatory)).unwrap(), uar);
        assert_eq!(&with(Definition::octets(650, 10415, is_mandatory)).unwrap(), uar);
        assert_eq!(&with(Definition::octets(282, 0, is_mandatory)).unwrap(), uar);
    }
    assert_eq!(&with(Definition::octets(9999, 10415, false)).unwrap(), uar);
    assert_eq!(&with(Definition::octets(9999, 4242, false)).unwrap(), uar);
    let failure = with(Definition::octets(9999, 4242, true)).unwrap_err();
    assert_eq!(failure.result_code, result_code::AVP_UNSUPPORTED);
    let failed = hex::encode(failure.failed_avp.unwrap());
    assert_eq!(failed, "0000270fc000000f0000109261626300");
    // The same AVPs with M clear where we would set it.
    let lenient = request_message(300, |builder| {
        for definition in [avp::PUBLIC_IDENTITY, avp::VISITED_NETWORK_IDENTIFIER, base::USER_NAME] {
            builder.text(Definition { is_mandatory: false, ..definition }, "x");
        }
    });
    assert!(Request::decode(&lenient).is_ok());
}

/// RFC 6733 §7.1.5: 5004 for values that do not exist and text that is none, 5009 for what occurs
/// twice.
#[test]
fn refuses_values() {
    let all = requests();
    let with = |request: &Request, fill: &dyn Fn(&mut Builder)| {
        let message = request_message(request.command(), |builder| {
            request.encode(builder);
            fill(builder);
        });
        Request::decode(&message).unwrap_err().result_code
    };
    let without_type = |number: u32| {
        let message = decode(encode(&all[2]).encode_without(avp::SERVER_ASSIGNMENT_TYPE));
        let mut builder = Builder::new(message.header);
        message.avps().for_each(|avp| builder.copy(&avp));
        builder.number(avp::SERVER_ASSIGNMENT_TYPE, number);
        Request::decode(&decode(builder.finish()))
    };
    assert!(without_type(11).is_ok());
    assert_eq!(without_type(12).unwrap_err().result_code, result_code::INVALID_AVP_VALUE);
    let code = with(&all[0], &|builder| builder.number(avp::USER_AUTHORIZATION_TYPE, 3));
    assert_eq!(code, result_code::INVALID_AVP_VALUE);
    let code = with(&all[4], &|builder| builder.number(avp::ORIGINATING_REQUEST, 1));
    assert_eq!(code, result_code::INVALID_AVP_VALUE);
    let code = with(&all[0], &|builder| builder.text(base::USER_NAME, "second"));
    assert_eq!(code, result_code::AVP_OCCURS_TOO_MANY_TIMES);
    let code = with(&all[2], &|builder| builder.octets(avp::PUBLIC_IDENTITY, &[0xff, 0xfe]));
    assert_eq!(code, result_code::INVALID_AVP_VALUE);
    let code = with(&all[0], &|builder| builder.octets(avp::UAR_FLAGS, &[1]));
    assert_eq!(code, result_code::INVALID_AVP_LENGTH);
}

/// TS 29.229 §6.2, RFC 6733 §6.2: an answer with nothing but a result is the answer that was asked
/// for; the two kinds of result are told apart; both at once, or none, is no answer.
#[test]
fn reads_results() {
    for command in 300..=305 {
        for (flags, outcome) in [
            (FLAG_ERROR, Outcome::Base(result_code::UNABLE_TO_DELIVER)),
            (FLAG_ERROR, Outcome::Base(result_code::REDIRECT_INDICATION)),
            (0, Outcome::UNABLE_TO_COMPLY),
            (0, Outcome::USER_UNKNOWN),
            (0, Outcome::Base(5001)),
        ] {
            let message = answer_message(command, flags, |builder| outcome.encode(builder));
            let answer = Answer::decode(&message).unwrap();
            assert_eq!((command_of(&answer), answer.outcome()), (command, outcome));
        }
        let both = answer_message(command, 0, |builder| {
            Outcome::SUCCESS.encode(builder);
            Outcome::FIRST_REGISTRATION.encode(builder);
        });
        assert!(Answer::decode(&both).is_err());
        assert!(Answer::decode(&answer_message(command, 0, |_| {})).is_err());
    }
    let message = encode_answer(&answers()[0]);
    assert!(message.find(base::RESULT_CODE).is_none());
    assert!(message.find(base::EXPERIMENTAL_RESULT).is_some());
}

/// TS 29.228 §6.3.1; S-54, S-55: vectors come back lowest number first, RAND ‖ AUTN is 32 raw
/// octets, and what is no vector is refused. None of it prints.
#[test]
fn reads_vectors() {
    let items = vec![vector(3), vector(1), vector(2)];
    let maa = Maa { outcome: Outcome::SUCCESS, user_name: None, public_identity: None, items };
    let Answer::Maa(read) = Answer::decode(&encode_answer(&Answer::Maa(maa.clone()))).unwrap()
    else {
        panic!("no MAA")
    };
    let numbers: Vec<_> = read.items.iter().map(|item| item.sip_item_number).collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
    assert_eq!(read.items[0].sip_authenticate.len(), 32);
    assert!(!format!("{read:?}").contains("4, 4, 4"));
    for spoil in [
        |item: &mut AuthDataItem| item.sip_authenticate = Bytes::from_static(&[0; 31]),
        |item: &mut AuthDataItem| item.sip_authorization = Secret::new(vec![]),
        |item: &mut AuthDataItem| item.confidentiality_key = None,
        |item: &mut AuthDataItem| item.integrity_key = None,
    ] {
        let mut maa = maa.clone();
        spoil(&mut maa.items[0]);
        assert!(Answer::decode(&encode_answer(&Answer::Maa(maa))).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Real messages with octets changed, lengths among them, never panic.
    #[test]
    fn survives_mutation(
        which in 0..17usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let messages: Vec<Bytes> = requests()
            .iter()
            .map(|request| encode(request).bytes().clone())
            .chain(answers().iter().map(|answer| encode_answer(answer).bytes().clone()))
            .collect();
        let mut bytes = messages[which].to_vec();
        for (at, to) in changes {
            let at = 4 + at.index(bytes.len() - 4);
            bytes[at] = to;
        }
        if let Ok(message) = Message::decode(Bytes::from(bytes), &Limits::default()) {
            let _ = Request::decode(&message);
            let _ = Answer::decode(&message);
        }
    }
}

/// Prints what encoding and decoding an MAA costs; run in release. The best of many rounds, because
/// the machine has other things to do.
#[test]
#[ignore = "a measurement"]
fn measures_maa() {
    fn best(mut act: impl FnMut()) -> std::time::Duration {
        let round = |act: &mut dyn FnMut()| {
            let begin = std::time::Instant::now();
            (0..10_000).for_each(|_| act());
            begin.elapsed() / 10_000
        };
        (0..100).map(|_| round(&mut act)).min().unwrap()
    }
    let maa = Answer::Maa(Maa {
        outcome: Outcome::SUCCESS,
        user_name: Some(IMPI.into()),
        public_identity: Some(IMPU.into()),
        items: vec![vector(1)],
    });
    let bytes = encode_only(&maa);
    let encode = best(|| {
        std::hint::black_box(encode_only(std::hint::black_box(&maa)));
    });
    let limits = Limits::default();
    let decode = best(|| {
        let message = Message::decode(std::hint::black_box(bytes.clone()), &limits).unwrap();
        std::hint::black_box(Answer::decode(&message).unwrap());
    });
    println!("MAA of {} octets: encode {encode:?}, decode {decode:?}", bytes.len());
}

fn encode_only(answer: &Answer) -> Bytes {
    let header = Header { flags: 0, command: 303, application: 0, hop_by_hop: 1, end_to_end: 2 };
    let mut builder = Builder::new(header);
    builder.text(base::SESSION_ID, "icscf1.hims.net;1;2");
    APPLICATION.write(&mut builder);
    builder.number(base::AUTH_SESSION_STATE, 1);
    builder.text(base::ORIGIN_HOST, "hss1.hims.net");
    builder.text(base::ORIGIN_REALM, "hims.net");
    answer.encode(&mut builder);
    builder.finish()
}
