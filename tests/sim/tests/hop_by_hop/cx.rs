//! The same registration on Cx: what I-CSCF and S-CSCF ask, and what the HSS says.

use std::time::Duration;

use common::aka::digest::AkaNonce;
use common::cx::mar::AuthDataItem;
use common::cx::{Answer, Outcome, Request};
use common::diameter::message::Message;
use common::limits::Limits;
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use scenarios::{Phone as Kind, Standing, World as _};
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

/// TS 29.228 §6.1.1, §6.1.2, §6.3: S-41, S-42, S-43, S-52, S-53, S-54, S-90, S-91, S-94, S-95: the order, who asks, and
/// what stands in each.
#[test]
fn a_registration_on_cx() {
    let mut ims = Ims::new(11, Options::default());
    let ue = ims.add(Kind::Good);
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
    assert_eq!(uaa.outcome, Outcome::FIRST_REGISTRATION);
    assert_eq!(uaa.server_name, None);
    assert!(uaa.server_capabilities.is_some(), "{uaa:?}");

    let (Request::Mar(mar), Answer::Maa(maa)) = (&exchanges[1].request, &exchanges[1].answer)
    else {
        panic!("a MAR is second")
    };
    assert_eq!((mar.sip_number_auth_items, mar.scheme.as_str()), (1, "Digest-AKAv1-MD5"));
    assert_eq!(maa.outcome, Outcome::SUCCESS);
    let vector = vector(&exchanges);
    assert_eq!(vector.sip_authenticate.len(), 32, "RAND and AUTN, raw");
    assert!((4..=16).contains(&vector.sip_authorization.expose().len()), "XRES");
    assert!(vector.confidentiality_key.is_some() && vector.integrity_key.is_some());

    // The MAR has stored whose the user is.
    let (Request::Uar(_), Answer::Uaa(uaa)) = (&exchanges[2].request, &exchanges[2].answer) else {
        panic!("a UAR is third")
    };
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
    assert_eq!(saa.outcome, Outcome::SUCCESS);
    assert!(saa.user_data.is_some());
}

/// TS 33.102 §6.3, RFC 3310 §3.2: S-54, S-55, S-56, S-58: the challenge is the vector, which is used once; the next one
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
    assert_eq!(told, [common::cx::sar::ServerAssignmentType::AuthenticationTimeout]);
    assert_eq!(ims.registered_at_hss(), 0);
}
