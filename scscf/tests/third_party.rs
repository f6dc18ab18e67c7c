//! Dialogues about application servers: filter criteria and third-party registration
//! (TS 24.229 §5.4.1.7, TS 29.228 §B.2).

mod dialogue;

use std::time::Duration;

use common::cx::rtr::ReasonCode;
use common::cx::sar::ServerAssignmentType::*;
use common::cx::user_data::{
    Condition, InitialFilterCriterion, ServicePointTrigger, TriggerPoint, UserData,
};
use common::cx::{self, Outcome, Rtr};
use common::sip::header::Name;
use common::sip::message::Request;
use dialogue::*;
use scscf::config::SharedFilterCriteria;

/// A criterion: REGISTER of these types goes to the server.
fn criterion(types: &[u8]) -> InitialFilterCriterion {
    let trigger = ServicePointTrigger {
        is_negated: false,
        groups: vec![0],
        condition: Condition::Method("REGISTER".into()),
        registration_types: types.to_vec(),
    };
    InitialFilterCriterion {
        priority: 1,
        trigger_point: Some(TriggerPoint { is_cnf: true, service_point_triggers: vec![trigger] }),
        server_name: "sip:as.hims.net".into(),
        ..Default::default()
    }
}

fn with(criterion: InitialFilterCriterion) -> UserData {
    let mut data = profile(IMPI);
    data.service_profiles[0].initial_filter_criteria.push(criterion);
    data
}

impl Dialogue {
    /// A first registration with that profile.
    fn registered_with(&mut self, data: &UserData) {
        let (challenge, vector) = self.challenged(&register(&[]));
        self.trace.clear();
        self.receives(&answered(&challenge, &vector, 26, &[]));
        self.asks_sar(Registration, saa(data));
        self.replies_with(200);
    }

    /// The third-party REGISTER, which is answered.
    fn tells(&mut self) -> Request {
        let request = self.requests("REGISTER", AS);
        self.answers_request(&request, 200);
        request
    }

    fn deregisters(&mut self) {
        let zero = [("CSeq: 25", "CSeq: 28"), ("\"no\"", "\"yes\""), ("=600000", "=0")];
        self.receives(&register(&zero));
        self.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
        self.replies_with(200);
    }

    fn outcome(&self, outcome: &str) -> u64 {
        self.counter("tessera_scscf_third_party_registers_total", outcome)
    }
}

/// TS 24.229 §5.4.1.7; S-102: behind the 200; in the S-CSCF's own name about the user.
#[test]
fn a_server_hears_of_a_registration() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered_with(&with(criterion(&[])));
    let at = |what| dialogue.trace.iter().position(|one| *one == what);
    assert!(at("answer") < at("request"), "{:?}", dialogue.trace);
    let told = dialogue.tells();
    let headers = told.headers();
    assert_eq!(told.uri(), "sip:as.hims.net");
    assert!(headers.get(Name::From).unwrap().starts_with("<sip:scscf1.hims.net>;tag="));
    assert_eq!(headers.get(Name::To), Some("<sip:name@hims.net>"));
    assert_eq!(headers.get(Name::Contact), Some("<sip:scscf1.hims.net>"));
    assert_eq!(headers.get(Name::Expires), Some("600000"));
    assert_eq!(headers.get(Name::PVisitedNetworkId), Some("\"vims.net\""));
    let vector = headers.get(Name::PChargingVector).unwrap();
    assert_eq!(vector, "icid-value=\"icid1\";orig-ioi=\"Type 3hims.net\"");
    assert_ne!(told.call_id(), "ababab");
    assert!(told.body().is_empty());
    assert_eq!(dialogue.outcome("taken"), 1);
    dialogue.rests();
}

/// TS 29.228 §B.2.4: the type of the registration decides; the end is told with Expires 0.
#[test]
fn each_type_of_registration() {
    for (types, heard) in [
        (&[][..], [true, true, true]),
        (&[0][..], [true, false, false]),
        (&[1][..], [false, true, false]),
        (&[2][..], [false, false, true]),
    ] {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered_with(&with(criterion(types)));
        if heard[0] {
            assert_eq!(dialogue.tells().headers().get(Name::Expires), Some("600000"));
        }
        dialogue.requests_nothing();
        dialogue.receives(&register(&[("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\"")]));
        dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
        dialogue.replies_with(200);
        if heard[1] {
            assert_eq!(dialogue.tells().headers().get(Name::Expires), Some("600000"));
        }
        dialogue.requests_nothing();
        dialogue.deregisters();
        if heard[2] {
            assert_eq!(dialogue.tells().headers().get(Name::Expires), Some("0"));
        }
        dialogue.requests_nothing();
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.1.7, §7.6: service information, the REGISTER and its answer, as the criterion wants;
/// several parts in a multipart (RFC 2046 §5.1).
#[test]
fn bodies() {
    let mut wanted = criterion(&[]);
    wanted.service_info = Some("a<b&c".into());
    let mut dialogue = Dialogue::new(config());
    dialogue.registered_with(&with(wanted.clone()));
    let told = dialogue.tells();
    assert_eq!(told.headers().get(Name::ContentType), Some("application/3gpp-ims+xml"));
    let body = String::from_utf8(told.body().to_vec()).unwrap();
    assert!(body.contains("<service-info>a&lt;b&amp;c</service-info>"), "{body}");

    wanted.include_register_request = true;
    wanted.include_register_response = true;
    let mut dialogue = Dialogue::new(config());
    dialogue.registered_with(&with(wanted.clone()));
    let told = dialogue.requests("REGISTER", AS);
    let kind = told.headers().get(Name::ContentType).unwrap();
    let boundary = kind.strip_prefix("multipart/mixed;boundary=\"").unwrap().trim_end_matches('"');
    let body = String::from_utf8(told.body().to_vec()).unwrap();
    let parts: Vec<_> = body.split(&format!("--{boundary}")).collect();
    assert_eq!((parts.len(), parts[4]), (5, "--\r\n"));
    assert!(parts[1].starts_with("\r\nContent-Type: application/3gpp-ims+xml\r\n\r\n<?xml"));
    assert!(parts[2].starts_with("\r\nContent-Type: message/sip\r\n\r\nREGISTER sip:scscf1"));
    assert!(parts[3].contains("\r\n\r\nSIP/2.0 200 OK\r\n") && parts[3].contains("Service-Route"));

    wanted.service_info = None;
    wanted.include_register_response = false;
    let mut dialogue = Dialogue::new(config());
    dialogue.registered_with(&with(wanted));
    let told = dialogue.tells();
    assert_eq!(told.headers().get(Name::ContentType), Some("message/sip"));
    assert!(told.body().starts_with(b"REGISTER sip:scscf1.hims.net"));
}

/// TS 29.228 §B.2.2, TS 24.229 §5.4.1.7: a server that fails: with SESSION_CONTINUED nothing
/// happens, with SESSION_TERMINATED the network deregisters at once; another refusal changes nothing.
#[test]
fn default_handling() {
    for (is_terminated, status, stays) in [
        (false, 500, 1),
        (false, 408, 1),
        (true, 404, 1),
        (true, 403, 1),
        (true, 408, 0),
        (true, 500, 0),
        (true, 503, 0),
    ] {
        let mut dialogue = Dialogue::new(config());
        let mut criterion = criterion(&[]);
        criterion.default_handling_terminated = is_terminated;
        dialogue.registered_with(&with(criterion));
        let told = dialogue.requests("REGISTER", AS);
        dialogue.answers_request(&told, status);
        if stays == 0 {
            dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
            let cause = "tessera_scscf_deregistrations_total";
            assert_eq!(dialogue.counter(cause, "server_failed"), 1);
            // The server hears that, too; its failure ends nothing more.
            let told = dialogue.requests("REGISTER", AS);
            assert_eq!(told.headers().get(Name::Expires), Some("0"));
            dialogue.answers_request(&told, status);
        }
        assert_eq!(dialogue.registrations(), stays, "{status}");
        dialogue.rests();
    }
    // Silence, and a server that cannot be found.
    for is_known in [true, false] {
        let mut dialogue = Dialogue::new(config());
        if !is_known {
            dialogue.hosts.remove("as.hims.net");
        }
        let mut criterion = criterion(&[0]);
        criterion.default_handling_terminated = true;
        dialogue.registered_with(&with(criterion));
        if is_known {
            dialogue.wait(Duration::from_secs(33));
        }
        dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
        assert_eq!(dialogue.registrations(), 0);
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.1.7, §7.2A.4, RFC 7315 §5.5: the access network and the charging functions are told; of a barred
/// identity the default one stands in To.
#[test]
fn what_is_told() {
    let barred = "sip:001010123456789@hims.net";
    let mut dialogue = Dialogue::new(config());
    let access = "P-Access-Network-Info: 3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=3114800001FFFFFFF\r\n";
    let more = format!("{access}Content-Length");
    let changes = [("sip:name@hims.net", barred), ("Content-Length", more.as_str())];
    let (challenge, vector) = dialogue.challenged(&register(&changes));
    dialogue.receives(&answered(&challenge, &vector, 26, &changes));
    let mut data = set(IMPI, &[(barred, true), (IMPU, false)]);
    data.service_profiles[0].initial_filter_criteria.push(criterion(&[]));
    let charging = cx::ChargingInformation {
        primary_charging_collection: Some("aaa://cdf1.hims.net".to_owned()),
        ..Default::default()
    };
    dialogue.asks_sar(Registration, cx::Saa { charging_information: Some(charging), ..saa(&data) });
    dialogue.replies_with(200);
    let told = dialogue.tells();
    let headers = told.headers();
    assert_eq!(headers.get(Name::To), Some("<sip:name@hims.net>"));
    let network = "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=3114800001FFFFFFF";
    assert_eq!(headers.get(Name::PAccessNetworkInfo), Some(network));
    let functions = "ccf=\"aaa://cdf1.hims.net\"";
    assert_eq!(headers.get(Name::PChargingFunctionAddresses), Some(functions));
    dialogue.rests();
}

/// RFC 3263 §4.3: a server with several addresses: the silent one leaves time for the next, one that is
/// overloaded is passed over, and what was silent comes last the next time.
#[test]
fn several_places() {
    let second = "192.0.2.51";
    let addresses = || [AS, second].map(|address| address.parse().unwrap()).to_vec();
    for is_silent in [true, false] {
        let mut dialogue = Dialogue::new(config());
        dialogue.hosts.insert("as.hims.net".into(), addresses());
        let mut criterion = criterion(&[]);
        criterion.default_handling_terminated = true;
        dialogue.registered_with(&with(criterion));
        let (first, told) = dialogue.requests.pop_front().unwrap();
        match is_silent {
            true => dialogue.wait(Duration::from_secs(16)),
            false => dialogue.answers_request(&told, 503),
        }
        dialogue.requests.retain(|(to, _)| *to != first);
        let (other, told) = dialogue.requests.pop_front().expect("the other one is asked");
        assert_ne!(first, other);
        dialogue.answers_request(&told, 200);
        dialogue.requests_nothing();
        assert_eq!((dialogue.outcome("taken"), dialogue.registrations()), (1, 1));
        dialogue.rests();
        if is_silent {
            dialogue.deregisters();
            let (to, told) = dialogue.requests.pop_front().unwrap();
            assert_eq!(to, other);
            dialogue.answers_request(&told, 200);
        }
    }
}

/// TS 24.229 §5.4.1.7: the end is not told before the beginning was heard.
#[test]
fn in_order() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered_with(&with(criterion(&[])));
    let beginning = dialogue.requests("REGISTER", AS);
    dialogue.deregisters();
    dialogue.requests_nothing();
    dialogue.answers_request(&beginning, 200);
    assert_eq!(dialogue.tells().headers().get(Name::Expires), Some("0"));
    dialogue.rests();
}

/// TS 24.229 §5.4.1.7: a server that is too slow misses what lies between, and never the end.
#[test]
fn the_newest_is_not_missed() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered_with(&with(criterion(&[])));
    let mut told = dialogue.requests("REGISTER", AS);
    let refreshes = 6;
    for cseq in 0..refreshes {
        let number = format!("CSeq: {}", 27 + cseq);
        dialogue.receives(&register(&[("CSeq: 25", &number), ("\"no\"", "\"yes\"")]));
        dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
        dialogue.replies_with(200);
    }
    let zero = [("CSeq: 25", "CSeq: 40"), ("\"no\"", "\"yes\""), ("=600000", "=0")];
    dialogue.receives(&register(&zero));
    dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    let mut heard = vec![told.headers().get(Name::Expires).unwrap().to_owned()];
    dialogue.answers_request(&told, 200);
    while !dialogue.requests.is_empty() {
        told = dialogue.tells();
        heard.push(told.headers().get(Name::Expires).unwrap().to_owned());
    }
    let total = refreshes as usize + 2;
    assert_eq!(heard.len() + dialogue.outcome("dropped") as usize, total, "{heard:?}");
    assert!(heard.len() < total);
    assert_eq!(heard.last().map(String::as_str), Some("0"));
    dialogue.rests();
}

/// TS 24.229 §5.4.1.7, TS 29.228 §6.2.2.1: a server that must be there fails behind a profile that gave the set
/// another name: it is the same registration that ends.
#[test]
fn a_failure_behind_another_profile() {
    let mut criterion = criterion(&[]);
    criterion.default_handling_terminated = true;
    let mut data = with(criterion);
    let mut dialogue = Dialogue::new(config());
    dialogue.registered_with(&data);
    let told = dialogue.requests("REGISTER", AS);
    data.service_profiles[0].public_identities.remove(0);
    dialogue.hss_asks(cx::Request::Ppr(cx::Ppr {
        destination_host: "scscf1.hims.net".to_owned(),
        user_name: IMPI.to_owned(),
        user_data: Some(data.to_xml().into_bytes().into()),
        charging_information: None,
    }));
    dialogue.answers_request(&told, 500);
    dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
    assert_eq!(dialogue.registrations(), 0);
}

/// TS 29.228 §B.2.3: the pattern of a Request-URI is for its host and port alone.
#[test]
fn the_place_of_a_request() {
    for (pattern, is_told) in [("^scscf1\\.hims\\.net$", true), ("^sip:", false)] {
        let mut criterion = criterion(&[]);
        let point = criterion.trigger_point.as_mut().unwrap();
        point.service_point_triggers[0].condition = Condition::RequestUri(pattern.into());
        let mut dialogue = Dialogue::new(config());
        dialogue.registered_with(&with(criterion));
        if is_told {
            dialogue.tells();
        }
        dialogue.requests_nothing();
    }
}

/// TS 29.228 §6.1.2.1, TS 24.229 §5.4.1.5, §5.4.1.7, §5.4.8.4: a refresh brings a profile that cannot be used: phones
/// hear to register again, servers of the end, and an emergency registration stays.
#[test]
fn a_profile_that_cannot_be_used_any_more() {
    for has_emergency in [false, true] {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered_with(&with(criterion(&[])));
        dialogue.tells();
        if has_emergency {
            let sos = [("46:5064>", "46:5064;sos>"), ("ababab", "sos")];
            let (challenge, vector) = dialogue.challenged(&register(&sos));
            dialogue.receives(&answered(&challenge, &vector, 26, &sos));
            dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
            dialogue.replies_with(200);
        }
        dialogue.receives(&subscribe(&OF_PCSCF));
        dialogue.replies_with(200);
        let notify = dialogue.requests("NOTIFY", PCSCF);
        dialogue.answers_request(&notify, 200);
        dialogue.receives(&register(&[("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\"")]));
        let unusable = cx::Saa { user_data: Some("<broken".into()), ..empty_saa(Outcome::SUCCESS) };
        dialogue.asks_sar(ReRegistration, unusable);
        // The HSS would have no S-CSCF for the emergency registration.
        if !has_emergency {
            dialogue.asks_sar(DeregistrationTooMuchData, empty_saa(Outcome::SUCCESS));
        }
        dialogue.asks_nothing();
        dialogue.replies_with(480);
        assert_eq!(dialogue.tells().headers().get(Name::Expires), Some("0"));
        let notify = dialogue.requests("NOTIFY", PCSCF);
        let document = common::reginfo::RegInfo::parse(notify.body()).unwrap();
        let contacts = document.registrations.iter().flat_map(|one| &one.contacts);
        let events: Vec<_> = contacts.map(|contact| contact.event).collect();
        assert!(!events.is_empty());
        assert!(events.iter().all(|event| *event == common::reginfo::Event::Deactivated));
        assert_eq!(dialogue.registrations(), u64::from(has_emergency));
    }
}

/// TS 24.229 §5.4.1.7: what fails for a REGISTER does not end what a later one has made.
#[test]
fn a_failure_of_earlier() {
    let mut dialogue = Dialogue::new(config());
    let mut criterion = criterion(&[]);
    criterion.default_handling_terminated = true;
    dialogue.registered_with(&with(criterion));
    let first = dialogue.requests("REGISTER", AS);
    dialogue.receives(&register(&[("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\"")]));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    dialogue.answers_request(&first, 500);
    dialogue.tells();
    assert_eq!(dialogue.registrations(), 1);
    dialogue.rests();
}

/// TS 24.229 §5.4.8.2, §5.4.1.7: servers know nothing of an emergency registration: a normal one beside it
/// begins and ends for itself, however it ends.
#[test]
fn beside_an_emergency_registration() {
    let sos = [("46:5064>", "46:5064;sos>"), ("ababab", "sos")];
    type End = fn(&mut Dialogue);
    let ends: [(&str, End); 4] = [
        ("user", |dialogue| {
            let zero = [("CSeq: 25", "CSeq: 28"), ("\"no\"", "\"yes\""), ("=600000", "=0")];
            dialogue.receives(&register(&zero));
            dialogue.replies_with(200);
        }),
        ("expiry", |dialogue| dialogue.wait(Duration::from_secs(600))),
        ("operator", |dialogue| {
            dialogue.command(&["deregister", IMPI]);
            dialogue.replied_text();
        }),
        ("failure", |dialogue| {
            let again = [("CSeq: 25", "CSeq: 28"), ("\"no\"", "\"yes\""), ("=600000", "=600")];
            dialogue.receives(&register(&again));
            dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
            dialogue.replies_with(200);
            let told = dialogue.requests("REGISTER", AS);
            dialogue.answers_request(&told, 500);
        }),
    ];
    for (name, end) in ends {
        let mut dialogue = Dialogue::new(config());
        let mut criterion = criterion(&[]);
        criterion.default_handling_terminated = true;
        let data = with(criterion);
        let (challenge, vector) = dialogue.challenged(&register(&sos));
        dialogue.receives(&answered(&challenge, &vector, 26, &sos));
        dialogue.asks_sar(Registration, saa(&data));
        dialogue.replies_with(200);
        dialogue.requests_nothing();
        let short = [("=600000", "=600")];
        let (challenge, vector) = dialogue.challenged(&register(&short));
        dialogue.receives(&answered(&challenge, &vector, 26, &short));
        dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
        dialogue.replies_with(200);
        assert_eq!(dialogue.tells().headers().get(Name::Expires), Some("600"), "{name}");
        end(&mut dialogue);
        assert_eq!(dialogue.tells().headers().get(Name::Expires), Some("0"), "{name}");
        assert_eq!(dialogue.registrations(), 1, "{name}: the emergency registration stays");
        dialogue.requests_nothing();
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.1.7: an identity of several devices is registered for as long as the last of them.
#[test]
fn the_longest_of_several_devices() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered_with(&with(criterion(&[])));
    dialogue.tells();
    let mut data = profile(SECOND);
    data.service_profiles[0].initial_filter_criteria.push(criterion(&[]));
    dialogue.registered_second(&data, &[("=600000", "=700")]);
    assert_eq!(dialogue.tells().headers().get(Name::Expires), Some("600000"));
    dialogue.rests();
}

/// TS 24.229 §5.4.1.5, §5.4.1.7; S-123: the end by the network is told as well; a move to another
/// S-CSCF is not.
#[test]
fn a_server_hears_of_the_end() {
    let rtr = |reason_code| {
        cx::Request::Rtr(Rtr {
            destination_host: "scscf1.hims.net".to_owned(),
            user_name: IMPI.to_owned(),
            associated_identities: Vec::new(),
            public_identities: Vec::new(),
            reason_code,
            reason_info: None,
        })
    };
    for (reason, is_told) in [
        (Some(ReasonCode::PermanentTermination), true),
        (Some(ReasonCode::ServerChange), true),
        (Some(ReasonCode::NewServerAssigned), false),
        (Some(ReasonCode::RemoveScscf), false),
        (None, true),
    ] {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered_with(&with(criterion(&[0, 2])));
        dialogue.tells();
        match reason {
            Some(reason) => dialogue.hss_asks(rtr(reason)),
            None => {
                dialogue.wait(Duration::from_secs(600_001));
                dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
            }
        }
        if is_told {
            let told = dialogue.tells();
            assert_eq!(told.headers().get(Name::Expires), Some("0"), "{reason:?}");
            assert_eq!(told.headers().get(Name::To), Some("<sip:name@hims.net>"));
        }
        dialogue.requests_nothing();
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.1.7: a device of two goes: the identity stays registered, and no server hears.
#[test]
fn a_shared_identity_ends_with_its_last_device() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered_with(&with(criterion(&[2])));
    dialogue.registered_second(&profile(SECOND), &[]);
    dialogue.deregisters();
    dialogue.requests_nothing();
}

/// TS 24.229 §5.4.1.7: two devices registered with two identities of a set: servers heard of both, and hear of the
/// end of both with the last device, whoever is last and whatever crashed between.
#[test]
fn each_identity_that_was_told_ends() {
    const NUMBER: &str = "<tel:+11234567890>";
    let to_number = ("To: <sip:name@hims.net>", "To: <tel:+11234567890>");
    let to_of = |told: &Request| told.headers().get(Name::To).unwrap().to_owned();
    for is_second_last in [true, false] {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered_with(&with(criterion(&[])));
        assert_eq!(to_of(&dialogue.tells()), "<sip:name@hims.net>");
        dialogue.registered_second(&with(criterion(&[])), &[to_number]);
        assert_eq!(to_of(&dialogue.tells()), NUMBER);
        let bye = [("CSeq: 25", "CSeq: 28"), ("\"no\"", "\"yes\""), ("=600000", "=0")];
        let second = register(&[&OF_SECOND[..], &[to_number], &bye].concat());
        let mut byes = [register(&bye), second];
        if !is_second_last {
            byes.reverse();
        }
        dialogue.receives(&byes[0]);
        dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
        dialogue.replies_with(200);
        dialogue.requests_nothing();
        dialogue.restart();
        dialogue.receives(&byes[1]);
        dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
        dialogue.replies_with(200);
        let told = [dialogue.tells(), dialogue.tells()];
        assert!(told.iter().all(|told| told.headers().get(Name::Expires) == Some("0")));
        let mut ended = told.map(|told| to_of(&told));
        ended.sort();
        assert_eq!(ended, ["<sip:name@hims.net>", NUMBER]);
        dialogue.requests_nothing();
        dialogue.rests();
    }
}

/// TS 29.228 §6.6, §B.2.2: shared criteria come in by number and priority; one REGISTER for each
/// server; what is for unregistered users is passed over.
#[test]
fn shared_criteria() {
    let mut config = config();
    config.shared_filter_criteria = vec![SharedFilterCriteria {
        id: 7,
        xml: "<InitialFilterCriteria><Priority>0</Priority><ApplicationServer>\
              <ServerName>sip:first@as.hims.net</ServerName></ApplicationServer>\
              </InitialFilterCriteria>"
            .into(),
    }];
    assert!(config.problems().is_empty());
    let mut data = with(criterion(&[]));
    let profile = &mut data.service_profiles[0];
    profile.shared_ifc_set_ids = vec![7, 9];
    profile.initial_filter_criteria.push(criterion(&[0]));
    profile.initial_filter_criteria.push(InitialFilterCriterion {
        priority: 3,
        server_name: "sip:unregistered@as.hims.net".into(),
        registered_part: Some(false),
        ..Default::default()
    });
    let mut dialogue = Dialogue::new(config.clone());
    dialogue.registered_with(&data);
    assert_eq!(dialogue.tells().uri(), "sip:first@as.hims.net");
    assert_eq!(dialogue.tells().uri(), "sip:as.hims.net");
    dialogue.requests_nothing();
    dialogue.rests();
    config.shared_filter_criteria[0].xml = "<odd".into();
    assert!(config.problems()[0].contains("shared_filter_criteria 7"));
}

/// TS 24.229 §5.4.2.1.1: the server of a criterion may watch.
#[test]
fn a_server_watches() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered_with(&with(criterion(&[])));
    dialogue.tells();
    dialogue.receives(
        "SUBSCRIBE sip:name@hims.net SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.20:5060;branch=z9hG4bK0aab2\r\nMax-Forwards: 69\r\n\
         From: <sip:as.hims.net>;tag=a1\r\nTo: <sip:name@hims.net>\r\nCall-ID: of-as\r\n\
         CSeq: 1 SUBSCRIBE\r\nContact: <sip:as.hims.net>\r\nEvent: reg\r\n\
         P-Asserted-Identity: <sip:as.hims.net>\r\nContent-Length: 0\r\n\r\n",
    );
    dialogue.replies_with(200);
    let notified = dialogue.requests("NOTIFY", AS);
    dialogue.answers_request(&notified, 200);
    dialogue.rests();
}
