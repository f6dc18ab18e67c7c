//! Dialogues about the registration state (TS 24.229 §5.4.2.1, RFC 3680, RFC 6665).

mod dialogue;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::cx::rtr::ReasonCode;
use common::cx::sar::ServerAssignmentType::*;
use common::cx::user_data::{InitialFilterCriterion, UserData};
use common::cx::{self, Outcome, Ppr, Rtr};
use common::reginfo::{Contact, Event, Order, RegInfo, State, Versions};
use common::restoration;
use common::sip::header::Name;
use common::sip::message::{Request, Response};
use dialogue::*;
use scscf::config::Documents;

const NUMBER: &str = "tel:+11234567890";

/// What is left of watchers with the HSS is another matter.
fn config() -> scscf::Config {
    let mut config = dialogue::config();
    config.registration.restoration = false;
    config
}

struct Notified {
    request: Request,
    info: RegInfo,
    state: String,
}

impl Notified {
    /// The contacts of an identity.
    fn contacts(&self, aor: &str) -> &[Contact] {
        let mut found = self.info.registrations.iter().filter(|one| one.aor == aor);
        let one = found.next().unwrap_or_else(|| panic!("{aor} in {:?}", self.info));
        assert!(found.next().is_none(), "{aor} twice");
        &one.contacts
    }

    fn events(&self, aor: &str) -> Vec<Event> {
        self.contacts(aor).iter().map(|contact| contact.event).collect()
    }
}

impl Dialogue {
    /// The next NOTIFY, which is answered.
    fn notifies(&mut self) -> Notified {
        let notified = self.notifies_unanswered();
        self.answers_request(&notified.request, 200);
        notified
    }

    fn notifies_unanswered(&mut self) -> Notified {
        let request = self.requests("NOTIFY", PCSCF);
        let info = RegInfo::parse(request.body()).expect("a document");
        let state = request.headers().get(Name::SubscriptionState).unwrap().to_owned();
        Notified { request, info, state }
    }

    /// The UE watches; gives the 200 and the first NOTIFY.
    fn watched(&mut self) -> (Response, Notified) {
        self.receives(&subscribe(&[]));
        let response = self.replies_with(200);
        (response, self.notifies())
    }

    fn refreshes(&mut self, cseq: u32) {
        let cseq = format!("CSeq: {cseq}");
        self.receives(&register(&[("CSeq: 25", &cseq), ("\"no\"", "\"yes\"")]));
        self.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
        self.replies_with(200);
    }

    /// A SUBSCRIBE for what is over, which is told so and no more; its first document.
    fn told_of_the_end(&mut self, subscribe: &str, event: Event, reason: &str) -> Notified {
        let before = self.watchers();
        self.receives(subscribe);
        self.replies_with(200);
        let notified = self.notifies();
        assert_eq!(notified.state, format!("terminated;reason={reason}"));
        assert!((notified.info.version, notified.info.is_full) == (0, true));
        for aor in [IMPU, NUMBER] {
            assert_eq!(notified.events(aor), [event], "{aor} {reason}");
            let contact = &notified.contacts(aor)[0];
            assert!(!contact.is_active && contact.uri == "sip:10.133.202.46:5064");
        }
        assert!(notified.info.registrations.iter().all(|one| one.state == State::Terminated));
        assert_eq!(self.watchers(), before);
        self.requests_nothing();
        notified
    }

    fn watchers(&self) -> u64 {
        self.counter("tessera_scscf_subscriptions", "")
    }
}

/// TS 24.229 §5.4.2.1.1, §5.4.2.1.2; RFC 6665 §4.2; RFC 3680 §5: 200 and at once the full state, in
/// the dialog of the SUBSCRIBE and by its route.
#[test]
fn a_ue_watches() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let (response, notified) = dialogue.watched();
    let headers = response.headers();
    assert_eq!(headers.get(Name::Expires), Some("600000"));
    assert_eq!(headers.get(Name::Contact), Some("<sip:scscf1.hims.net>"));
    assert_eq!(headers.get(Name::RecordRoute), Some("<sip:mo@pcscf1.vims.net;lr>"));
    assert!(headers.get(Name::PChargingVector).unwrap().contains("term-ioi"));
    let request = &notified.request;
    assert_eq!(request.uri(), "sip:10.133.202.46:5064");
    let headers = request.headers();
    assert_eq!(headers.get(Name::Route), Some("<sip:mo@pcscf1.vims.net;lr>"));
    // From and To are those of the dialog (RFC 3261 §12.2.1.1).
    assert_eq!(headers.get(Name::From), response.headers().get(Name::To));
    assert_eq!(headers.get(Name::To), Some("<sip:name@hims.net>;tag=ue1"));
    assert_eq!((request.call_id(), request.cseq()), ("watch1", 1));
    assert_eq!(headers.get(Name::Event), Some("reg"));
    assert_eq!(headers.get(Name::ContentType), Some("application/reginfo+xml"));
    assert_eq!(notified.state, "active;expires=600000");
    assert!((notified.info.version, notified.info.is_full) == (0, true));
    // The barred identity of the set is not told of.
    let aors: Vec<_> = notified.info.registrations.iter().map(|one| one.aor.as_str()).collect();
    assert_eq!(aors, [IMPU, NUMBER]);
    assert_eq!(notified.events(IMPU), [Event::Registered]);
    assert_eq!(notified.events(NUMBER), [Event::Created]);
    let contact = &notified.contacts(IMPU)[0];
    assert_eq!(contact.uri, "sip:10.133.202.46:5064");
    assert_eq!(contact.expires_seconds, Some(600_000));
    assert_eq!(contact.call_id.as_deref(), Some("ababab"));
    assert_eq!(contact.unknown_parameters, [("+g.3gpp.smsip".to_owned(), None)]);
    assert_ne!(contact.id, notified.contacts(NUMBER)[0].id);
    dialogue.rests();
}

/// TS 24.229 §5.4.2.1.2; RFC 3680 §4.7: a refresh is told with the next version; the NOTIFY follows
/// the 200 of the REGISTER.
#[test]
fn a_refresh_is_told() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let (_, first) = dialogue.watched();
    dialogue.trace.clear();
    dialogue.refreshes(27);
    assert_eq!(dialogue.trace, ["record", "answer", "record", "request"]);
    let second = dialogue.notifies();
    assert_eq!((second.info.version, second.request.cseq()), (1, 2));
    assert_eq!(second.events(IMPU), [Event::Refreshed]);
    assert_eq!(second.contacts(IMPU)[0].id, first.contacts(IMPU)[0].id);
    assert_eq!(second.contacts(IMPU)[0].cseq, Some(27));
}

/// RFC 3680 §5.1: partial documents, where the operator wants them: what has changed.
#[test]
fn partial_documents() {
    let mut config = config();
    config.reg_event.documents = Documents::Partial;
    let mut dialogue = Dialogue::new(config);
    dialogue.registered();
    assert!(dialogue.watched().1.info.is_full);
    let mut data = profile(IMPI);
    data.service_profiles[0].public_identities.push(common::cx::user_data::PublicIdentity {
        identity: "tel:+19998887777".to_owned(),
        ..Default::default()
    });
    dialogue.hss_asks(pushed(&data));
    let notified = dialogue.notifies();
    assert!(!notified.info.is_full);
    assert_eq!(notified.info.registrations.len(), 1);
    assert_eq!(notified.events("tel:+19998887777"), [Event::Created]);
}

/// What a watcher knows, of documents (RFC 3680 §5.2).
#[derive(Default)]
struct Known {
    versions: Versions,
    /// Identities, each with the contacts that are bound to it.
    bound: BTreeMap<String, BTreeSet<String>>,
}

impl Known {
    fn take(&mut self, dialogue: &Dialogue, info: &RegInfo) {
        assert_eq!(self.versions.take(dialogue.now, info, false), Order::Next);
        if info.is_full {
            self.bound.clear();
        }
        for registration in &info.registrations {
            let bound = self.bound.entry(registration.aor.clone()).or_default();
            for contact in &registration.contacts {
                match contact.is_active {
                    true => bound.insert(contact.uri.clone()),
                    false => bound.remove(&contact.uri),
                };
            }
        }
        self.bound.retain(|_, bound| !bound.is_empty());
    }
}

const OF_SERVER: [(&str, &str); 6] = [
    ("<sip:orig@scscf1.hims.net;lr>", "<sip:scscf1.hims.net;lr>"),
    ("Record-Route: <sip:mo@pcscf1.vims.net;lr>\r\n", ""),
    ("From: <sip:name@hims.net>;tag=ue1", "From: <sip:as.hims.net>;tag=as1"),
    ("Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip", "Contact: <sip:as.hims.net>"),
    ("watch1", "watch3"),
    ("P-Asserted-Identity: <sip:name@hims.net>", "P-Asserted-Identity: <sip:as.hims.net>"),
];

/// A profile with an application server that hears of no REGISTER.
fn served(private_identity: &str, identities: &[(&str, bool)]) -> UserData {
    let mut data = set(private_identity, identities);
    data.service_profiles[0].initial_filter_criteria.push(InitialFilterCriterion {
        server_name: "sip:as.hims.net".into(),
        registered_part: Some(false),
        ..Default::default()
    });
    data
}

/// The UE, its P-CSCF and an application server watch; a second device is registered as well, for less time.
fn three_watch(documents: Documents) -> (Dialogue, BTreeMap<String, Known>) {
    let mut config = config();
    config.reg_event.documents = documents;
    let mut dialogue = Dialogue::new(config);
    let both = [(IMPU, false), (NUMBER, false)];
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    dialogue.asks_sar(Registration, saa(&served(IMPI, &both)));
    dialogue.replies_with(200);
    dialogue.registered_second(&served(SECOND, &both), &[("=600000", "=900")]);
    let mut known = BTreeMap::new();
    for text in [subscribe(&[]), subscribe(&OF_PCSCF), subscribe(&OF_SERVER)] {
        dialogue.receives(&text);
        dialogue.replies_with(200);
        told(&mut dialogue, &mut known, 1);
    }
    (dialogue, known)
}

/// That many NOTIFYs, to whomever; gives the last one.
fn told(dialogue: &mut Dialogue, known: &mut BTreeMap<String, Known>, count: usize) -> Notified {
    let mut last = None;
    for _ in 0..count {
        last = Some(told_one(dialogue, known));
    }
    dialogue.requests_nothing();
    last.expect("at least one")
}

/// TS 24.229 §5.4.2.1.2; RFC 3680 §5.1, §5.2, §5.3: each kind of change, in documents of either kind, as UE, P-CSCF and
/// application server hear of it: the same event for the same contact, one version behind the other, and what follows
/// from them all is what one look shows.
#[test]
fn documents_add_up() {
    type Begin = fn(&mut Dialogue);
    const FIRST: &str = "sip:10.133.202.46:5064";
    const OTHER: &str = "sip:10.133.202.47:5064";
    fn ended_by_operator(dialogue: &mut Dialogue, words: &[&str]) {
        dialogue.command(&[&["deregister", SECOND], words].concat());
        dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
    }
    fn pushed_with(dialogue: &mut Dialogue, identities: &[(&str, bool)]) {
        dialogue.hss_asks(pushed(&served(IMPI, identities)));
    }
    let cases: [(&str, Begin, &str, &str, Event); 11] = [
        ("refreshed", |dialogue| dialogue.refreshes(27), IMPU, FIRST, Event::Refreshed),
        (
            "shortened",
            |dialogue| dialogue.command(&["reauthenticate", IMPI, "90"]),
            IMPU,
            FIRST,
            Event::Shortened,
        ),
        (
            "expired",
            |dialogue| {
                dialogue.wait(Duration::from_secs(900));
                dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
            },
            IMPU,
            OTHER,
            Event::Expired,
        ),
        ("rejected", |dialogue| ended_by_operator(dialogue, &[]), IMPU, OTHER, Event::Rejected),
        (
            "deactivated",
            |dialogue| ended_by_operator(dialogue, &["deactivated"]),
            IMPU,
            OTHER,
            Event::Deactivated,
        ),
        (
            "probation",
            |dialogue| ended_by_operator(dialogue, &["probation", "90"]),
            NUMBER,
            OTHER,
            Event::Probation,
        ),
        (
            "unregistered",
            |dialogue| {
                let zero = [("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\""), ("=600000", "=0")];
                let changes = [&OF_SECOND[..], &zero].concat();
                dialogue.receives(&register(&changes));
                dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
                dialogue.replies_with(200);
            },
            IMPU,
            OTHER,
            Event::Unregistered,
        ),
        (
            "an identity more",
            |dialogue| {
                let more = [(IMPU, false), (NUMBER, false), ("sip:more@hims.net", false)];
                pushed_with(dialogue, &more);
            },
            "sip:more@hims.net",
            FIRST,
            Event::Created,
        ),
        (
            "an identity less",
            |dialogue| pushed_with(dialogue, &[(IMPU, false)]),
            NUMBER,
            FIRST,
            Event::Unregistered,
        ),
        (
            "an identity barred",
            |dialogue| pushed_with(dialogue, &[(IMPU, false), (NUMBER, true)]),
            NUMBER,
            FIRST,
            Event::Unregistered,
        ),
        (
            "another contact",
            |dialogue| {
                let moved =
                    [("46:5064", "46:7064"), ("ababab", "again"), ("+g.3gpp.smsip", "reg-id=2")];
                let (challenge, vector) = dialogue.challenged(&register(&moved));
                dialogue.receives(&answered(&challenge, &vector, 26, &moved));
                dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
                dialogue.replies_with(200);
            },
            IMPU,
            "sip:10.133.202.46:7064",
            Event::Registered,
        ),
    ];
    for (name, begin, aor, uri, event) in cases {
        for documents in [Documents::Full, Documents::Partial] {
            let (mut dialogue, mut known) = three_watch(documents);
            begin(&mut dialogue);
            let case = format!("{name} {documents:?}");
            for _ in 0..3 {
                let notified = told_one(&mut dialogue, &mut known);
                assert!(notified.state.starts_with("active"), "{case}");
                assert_eq!(notified.info.is_full, documents == Documents::Full, "{case}");
                let contact = notified.contacts(aor).iter().find(|contact| contact.uri == uri);
                let contact = contact.unwrap_or_else(|| panic!("{case}: {:?}", notified.info));
                assert_eq!(contact.event, event, "{case}");
                let later = (event == Event::Probation).then_some(90);
                assert_eq!(contact.retry_after_seconds, later, "{case}");
            }
            dialogue.requests_nothing();
            let look = [("Expires: 600000", "Expires: 0"), ("watch1", "look")];
            dialogue.receives(&subscribe(&look));
            dialogue.replies_with(200);
            told(&mut dialogue, &mut known, 1);
            let seen = known.remove("look").expect("one look").bound;
            assert!(!seen.is_empty());
            for (watcher, known) in &known {
                assert_eq!(known.bound, seen, "{case} {watcher}");
            }
            assert_eq!(known.len(), 3, "{case}");
            dialogue.rests();
        }
    }
}

fn told_one(dialogue: &mut Dialogue, known: &mut BTreeMap<String, Known>) -> Notified {
    let (_, request) = dialogue.requests.pop_front().expect("a NOTIFY");
    let info = RegInfo::parse(request.body()).expect("a document");
    let state = request.headers().get(Name::SubscriptionState).unwrap().to_owned();
    known.entry(request.call_id().to_owned()).or_default().take(dialogue, &info);
    dialogue.answers_request(&request, 200);
    Notified { request, info, state }
}

/// TS 24.229 §5.4.1.5, §5.4.2.1.2; RFC 3680 §5.1: the end of the last contact is told in full to each of them, with the
/// reason in contact and subscription alike.
#[test]
fn the_last_document_says_everything() {
    let cases: [(&[&str], Event, &str); 3] = [
        (&[], Event::Rejected, "rejected"),
        (&["deactivated"], Event::Deactivated, "deactivated"),
        (&["probation", "90"], Event::Probation, "probation;retry-after=90"),
    ];
    for (words, event, reason) in cases {
        let (mut dialogue, mut known) = three_watch(Documents::Partial);
        for impi in [SECOND, IMPI] {
            dialogue.command(&[&["deregister", impi], words].concat());
            dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
            for _ in 0..3 {
                let notified = told_one(&mut dialogue, &mut known);
                let is_last = impi == IMPI;
                assert_eq!(notified.info.is_full, is_last);
                assert_eq!(notified.state == format!("terminated;reason={reason}"), is_last);
                for aor in [IMPU, NUMBER] {
                    assert_eq!(notified.events(aor).last(), Some(&event), "{aor}");
                }
            }
        }
        assert!(known.values().all(|known| known.bound.is_empty()));
        assert_eq!(dialogue.watchers(), 0);
        dialogue.rests();
    }
}

/// RFC 3680 §5.1, RFC 6665 §4.2.2: what happens while a NOTIFY is under way goes together into the next document, one
/// version later.
#[test]
fn partial_documents_one_behind_the_other() {
    let (mut dialogue, mut known) = three_watch(Documents::Partial);
    dialogue.refreshes(27);
    let under_way: Vec<Request> =
        std::mem::take(&mut dialogue.requests).into_iter().map(|(_, request)| request).collect();
    assert_eq!(under_way.len(), 3);
    dialogue.hss_asks(pushed(&served(IMPI, &[(IMPU, false), ("sip:more@hims.net", false)])));
    dialogue.command(&["deregister", SECOND]);
    dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
    dialogue.requests_nothing();
    for request in under_way {
        let info = RegInfo::parse(request.body()).expect("a document");
        known.get_mut(request.call_id()).unwrap().take(&dialogue, &info);
        dialogue.answers_request(&request, 200);
        let notified = told(&mut dialogue, &mut known, 1);
        assert!((notified.info.version, notified.info.is_full) == (2, false));
        assert_eq!(notified.request.call_id(), request.call_id());
        assert!(notified.events("sip:more@hims.net").contains(&Event::Created));
        assert!(notified.events(NUMBER).contains(&Event::Unregistered));
        assert!(notified.events(IMPU).contains(&Event::Rejected));
    }
    let left = known.values().flat_map(|known| known.bound.values());
    assert!(left.flatten().all(|contact| contact == "sip:10.133.202.46:5064"));
    dialogue.rests();
}

/// RFC 3680 §5.1: a watcher that has refused a document does not know what stood in it: the next one says everything,
/// also behind a restart.
#[test]
fn everything_behind_a_refusal() {
    for restarts in [false, true] {
        let (mut dialogue, _) = three_watch(Documents::Partial);
        dialogue.refreshes(27);
        let mut refused = None;
        for _ in 0..3 {
            let (_, request) = dialogue.requests.pop_front().expect("a NOTIFY");
            let refuses = request.call_id() == "watch2";
            dialogue.answers_request(&request, if refuses { 500 } else { 200 });
            refused = refused.or(refuses.then_some(request));
        }
        dialogue.requests_nothing();
        if restarts {
            dialogue.restart();
            let notified = dialogue.requests("NOTIFY", PCSCF);
            assert!(RegInfo::parse(notified.body()).expect("a document").is_full);
            continue;
        }
        dialogue.refreshes(28);
        for _ in 0..3 {
            let (_, request) = dialogue.requests.pop_front().expect("a NOTIFY");
            let info = RegInfo::parse(request.body()).expect("a document");
            assert_eq!(info.is_full, request.call_id() == "watch2");
            dialogue.answers_request(&request, 200);
        }
        dialogue.refreshes(29);
        for _ in 0..3 {
            let (_, request) = dialogue.requests.pop_front().expect("a NOTIFY");
            assert!(!RegInfo::parse(request.body()).expect("a document").is_full);
            dialogue.answers_request(&request, 200);
        }
        dialogue.rests();
    }
}

fn pushed(data: &common::cx::user_data::UserData) -> cx::Request {
    cx::Request::Ppr(Ppr {
        destination_host: "scscf1.hims.net".to_owned(),
        user_name: IMPI.to_owned(),
        user_data: Some(data.to_xml().into()),
        charging_information: None,
    })
}

/// TS 24.229 §5.4.2.1.2, TS 29.228 §6.2.2: an identity that a pushed profile bars is gone, another
/// one is there; the rest stays as it is.
#[test]
fn a_pushed_profile_is_told() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.watched();
    let temporary = format!("sip:temporary.{IMPI}");
    let identities =
        [(temporary.as_str(), true), (IMPU, false), (NUMBER, true), ("sip:a@hims.net", false)];
    dialogue.hss_asks(pushed(&set(IMPI, &identities)));
    let notified = dialogue.notifies();
    assert_eq!(notified.events(NUMBER), [Event::Unregistered]);
    assert_eq!(notified.events("sip:a@hims.net"), [Event::Created]);
    assert!(notified.contacts(IMPU)[0].is_active);
    assert!(notified.state.starts_with("active"));
    // What is told once is not told again.
    dialogue.refreshes(27);
    assert_eq!(dialogue.notifies().info.registrations.len(), 2);
}

/// TS 24.229 §5.4.3.2, TS 23.380 §4.4: who comes by Service-Route for itself was registered here, and everything is
/// lost: it is sent to register. Who comes otherwise, or for another, is just told that there is nobody.
#[test]
fn a_ue_of_which_nothing_is_known() {
    const ROUTE: &str = "Route: <sip:orig@scscf1.hims.net;lr>\r\nRecord";
    let cases: [(&[_], bool); 4] = [
        (&[], true),
        (&[(ROUTE, "Record")], false),
        (&[(ROUTE, "Route: <sip:scscf1.hims.net;lr>\r\nRecord")], false),
        (&[("SUBSCRIBE sip:name@", "SUBSCRIBE sip:other@")], false),
    ];
    for (changes, is_sent_back) in cases {
        let mut dialogue = Dialogue::new(config());
        dialogue.receives(&subscribe(changes));
        let response = dialogue.replies();
        assert_eq!(restoration::asks_to_register_anew(&response), is_sent_back, "{changes:?}");
        match is_sent_back {
            true => {
                let asserted = response.headers().get(Name::PAssertedIdentity);
                assert_eq!(asserted, Some("<sip:orig@scscf1.hims.net;lr>"));
            }
            false => assert_eq!(response.status(), 404),
        }
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.2.1.1: the P-CSCF in the Path, an application server of the profile; nobody
/// else, and nothing else. RFC 6665 §4.2.1, §4.2.1.1, §8.2.1; RFC 3680 §4.4 for how long.
#[test]
fn who_may_watch() {
    let mut dialogue = Dialogue::new(config());
    dialogue.receives(&subscribe(&[]));
    dialogue.replies_with(504);
    dialogue.registered();
    dialogue.receives(&subscribe(&OF_PCSCF));
    dialogue.replies_with(200);
    let notified = dialogue.notifies();
    assert_eq!(notified.request.uri(), "sip:pcscf1.vims.net");
    assert!(!notified.request.headers().has(Name::Route));
    for (change, status) in [
        (("Identity: <sip:name@hims.net>", "Identity: <sip:other@hims.net>"), 403),
        (("P-Asserted-Identity: <sip:name@hims.net>\r\n", ""), 403),
        (("Identity: <sip:name@hims.net>", "Identity: <sip:as.hims.net>"), 403),
        (("Identity: <sip:name@hims.net>", "Identity: <sip:temporary.name.private@hims.net>"), 403),
        (("Event: reg", "Event: presence"), 489),
        (("Event: reg\r\n", ""), 489),
        (("Accept: application/reginfo+xml", "Accept: text/plain"), 406),
        (("Max-Forwards: 69", "Max-Forwards: 69\r\nRequire: odd"), 420),
        (("Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip\r\n", ""), 400),
        (("Expires: 600000", "Expires: soon"), 400),
        (("Expires: 600000", "Expires: 59"), 423),
        (("To: <sip:name@hims.net>", "To: <sip:name@hims.net>;tag=none"), 481),
    ] {
        dialogue.receives(&subscribe(&[change, ("watch1", "watch3")]));
        let response = dialogue.replies_with(status);
        match status {
            489 => assert_eq!(response.headers().get(Name::AllowEvents), Some("reg")),
            423 => assert_eq!(response.headers().get(Name::MinExpires), Some("60")),
            420 => assert_eq!(response.headers().get(Name::Unsupported), Some("odd")),
            _ => {}
        }
    }
    assert_eq!(dialogue.watchers(), 1);
    // By another identity of the user, and about another one.
    dialogue.receives(&subscribe(&[
        ("SUBSCRIBE sip:name@hims.net", "SUBSCRIBE tel:+1-123-456-7890"),
        ("Identity: <sip:name@hims.net>", "Identity: <tel:+11234567890>"),
        ("Event: reg", "o: reg;id=7"),
        ("Expires: 600000\r\n", ""),
    ]));
    assert_eq!(dialogue.replies_with(200).headers().get(Name::Expires), Some("3761"));
    let notified = dialogue.notifies();
    assert_eq!(notified.request.headers().get(Name::Event), Some("reg;id=7"));
    dialogue.requests_nothing();
    dialogue.rests();
}

/// RFC 6665 §4.4.1, §4.2.1.4: again in the dialog: longer; and with 0 the end of it, or one look:
/// RFC 6665 §4.4.3.
#[test]
fn again_and_no_more() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let (response, _) = dialogue.watched();
    let to = format!("To: {}", response.headers().get(Name::To).unwrap());
    let again = |cseq: &str, expires: &str| {
        subscribe(&[
            ("To: <sip:name@hims.net>", &to),
            ("CSeq: 1", cseq),
            ("Expires: 600000", expires),
            ("46:5064>;+g", "46:6064>;+g"),
        ])
    };
    dialogue.wait(Duration::from_secs(1_000));
    dialogue.receives(&again("CSeq: 1", "Expires: 7000"));
    dialogue.replies_with(500);
    dialogue.receives(&again("CSeq: 2", "Expires: 7000"));
    assert_eq!(dialogue.replies_with(200).headers().get(Name::Expires), Some("7000"));
    let notified = dialogue.notifies();
    assert_eq!(notified.state, "active;expires=7000");
    assert_eq!(notified.request.uri(), "sip:10.133.202.46:6064");
    assert!((notified.info.version, notified.info.is_full) == (1, true));
    dialogue.receives(&again("CSeq: 3", "Expires: 0"));
    assert_eq!(dialogue.replies_with(200).headers().get(Name::Expires), Some("0"));
    let notified = dialogue.notifies();
    assert_eq!(notified.state, "terminated;reason=timeout");
    assert!(notified.contacts(IMPU)[0].is_active);
    assert_eq!(dialogue.watchers(), 0);
    dialogue.receives(&again("CSeq: 4", "Expires: 7000"));
    dialogue.replies_with(481);
    // One look.
    dialogue.receives(&subscribe(&[("Expires: 600000", "Expires: 0")]));
    dialogue.replies_with(200);
    assert_eq!(dialogue.notifies().state, "terminated;reason=timeout");
    assert_eq!(dialogue.watchers(), 0);
    dialogue.rests();
}

/// RFC 6665 §4.2.2: nobody asks again: a last NOTIFY.
#[test]
fn a_subscription_runs_out() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.receives(&subscribe(&[("Expires: 600000", "Expires: 5000")]));
    dialogue.replies_with(200);
    dialogue.notifies();
    dialogue.wait(Duration::from_secs(4_999));
    dialogue.requests_nothing();
    dialogue.wait(Duration::from_secs(1));
    assert_eq!(dialogue.notifies().state, "terminated;reason=timeout");
    assert_eq!(dialogue.watchers(), 0);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.4, §5.4.2.1.2: a UE that deregisters is not told, its P-CSCF is.
#[test]
fn the_user_deregisters() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.watched();
    dialogue.receives(&subscribe(&OF_PCSCF));
    dialogue.replies_with(200);
    dialogue.notifies();
    let zero = [("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\""), ("expires=600000", "expires=0")];
    dialogue.receives(&register(&zero));
    dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    let notified = dialogue.notifies();
    assert_eq!(notified.request.call_id(), "watch2");
    assert_eq!(notified.state, "terminated;reason=noresource");
    assert_eq!(notified.events(IMPU), [Event::Unregistered]);
    assert_eq!(notified.events(NUMBER), [Event::Unregistered]);
    let states: Vec<_> = notified.info.registrations.iter().map(|one| one.state).collect();
    assert_eq!(states, [State::Terminated, State::Terminated]);
    assert!(notified.contacts(IMPU).iter().all(|contact| !contact.is_active));
    dialogue.requests_nothing();
    assert_eq!(dialogue.watchers(), 0);
    assert!(dialogue.store.is_empty(), "{:?}", dialogue.store);
    dialogue.rests();
}

fn rtr(reason_code: ReasonCode) -> cx::Request {
    cx::Request::Rtr(Rtr {
        destination_host: "scscf1.hims.net".to_owned(),
        user_name: IMPI.to_owned(),
        associated_identities: Vec::new(),
        public_identities: Vec::new(),
        reason_code,
        reason_info: None,
    })
}

/// TS 24.229 §5.4.1.5; S-123: expiry, the operator, and the HSS with each of its reasons: the right
/// event and the right end.
#[test]
fn the_network_deregisters() {
    type Begin = fn(&mut Dialogue);
    type Case = (&'static str, Begin, Option<(Event, &'static str)>);
    let cases: [Case; 8] = [
        (
            "expiry",
            |dialogue| {
                dialogue.wait(Duration::from_secs(599_991));
                dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
            },
            Some((Event::Expired, "noresource")),
        ),
        (
            "operator",
            |dialogue| {
                dialogue.command(&["deregister", IMPI]);
                dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
            },
            Some((Event::Rejected, "rejected")),
        ),
        (
            "operator, to come again at once",
            |dialogue| {
                dialogue.command(&["deregister", IMPI, "deactivated"]);
                dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
            },
            Some((Event::Deactivated, "deactivated")),
        ),
        (
            "operator, to come again later",
            |dialogue| {
                dialogue.command(&["deregister", IMPI, "probation", "90"]);
                dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
            },
            Some((Event::Probation, "probation;retry-after=90")),
        ),
        (
            "permanent termination",
            |dialogue| {
                dialogue.hss_asks(rtr(ReasonCode::PermanentTermination));
            },
            Some((Event::Rejected, "rejected")),
        ),
        (
            "server change",
            |dialogue| {
                dialogue.hss_asks(rtr(ReasonCode::ServerChange));
            },
            Some((Event::Deactivated, "deactivated")),
        ),
        (
            "new server",
            |dialogue| {
                dialogue.hss_asks(rtr(ReasonCode::NewServerAssigned));
            },
            None,
        ),
        (
            "remove S-CSCF",
            |dialogue| {
                dialogue.hss_asks(rtr(ReasonCode::RemoveScscf));
            },
            None,
        ),
    ];
    for (name, begin, told) in cases {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered();
        // Longer than the registration, so that it is there to be told of its end.
        dialogue.wait(Duration::from_secs(10));
        dialogue.watched();
        dialogue.receives(&subscribe(&OF_PCSCF));
        dialogue.replies_with(200);
        dialogue.notifies();
        begin(&mut dialogue);
        if let Some((event, reason)) = told {
            // The UE and the P-CSCF alike (registration.md D-14).
            for _ in 0..2 {
                let notified = dialogue.notifies();
                assert_eq!(notified.events(IMPU), [event], "{name}");
                assert_eq!(notified.events(NUMBER), [event], "{name}");
                let later = (event == Event::Probation).then_some(90);
                assert_eq!(notified.contacts(IMPU)[0].retry_after_seconds, later, "{name}");
                assert_eq!(notified.state, format!("terminated;reason={reason}"), "{name}");
            }
        }
        dialogue.requests_nothing();
        assert_eq!(dialogue.watchers(), 0, "{name}");
        assert!(dialogue.store.is_empty(), "{name}: {:?}", dialogue.store);
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.2.1.2; RFC 6665 §4.2.2: of two devices one goes: its contact is told as gone, the
/// other's is active, and the other's subscription goes on.
#[test]
fn two_devices() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let of_second = [("46:5064", "47:5064"), ("watch1", "watch3")];
    dialogue.receives(&subscribe(&of_second));
    dialogue.replies_with(200);
    dialogue.notifies();
    dialogue.watched();
    dialogue.registered_second(&profile(SECOND), &[]);
    for _ in 0..2 {
        let notified = dialogue.notifies();
        assert_eq!(notified.events(IMPU), [Event::Registered, Event::Registered]);
    }
    let zero = [("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\""), ("expires=600000", "expires=0")];
    dialogue.receives(&register(&zero));
    dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    let notified = dialogue.notifies();
    assert_eq!(notified.request.uri(), "sip:10.133.202.47:5064");
    assert!(notified.state.starts_with("active"));
    assert_eq!(notified.events(IMPU), [Event::Registered, Event::Unregistered]);
    // Its own subscription the device has taken along (TS 24.229 §5.1.1.6).
    assert_eq!(dialogue.watchers(), 1);
    dialogue.requests_nothing();
    assert!(notified.info.registrations.iter().all(|one| one.state != State::Terminated));
}

/// TS 24.229 §5.4.2.1.2; TS 29.228 §6.2.2: the profile has lost the identity that somebody watches: it is told
/// so, and by nobody's deregistration.
#[test]
fn the_profile_loses_what_is_watched() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let of_number = [("SUBSCRIBE sip:name@hims.net", "SUBSCRIBE tel:+11234567890")];
    dialogue.receives(&subscribe(&of_number));
    dialogue.replies_with(200);
    dialogue.notifies();
    let data = set(IMPI, &[(&format!("sip:temporary.{IMPI}"), true), (IMPU, false)]);
    dialogue.hss_asks(cx::Request::Ppr(Ppr {
        destination_host: "scscf1.hims.net".to_owned(),
        user_name: IMPI.to_owned(),
        user_data: Some(data.to_xml().into()),
        charging_information: None,
    }));
    let notified = dialogue.notifies();
    assert_eq!(notified.events(NUMBER), [Event::Unregistered]);
    assert_eq!(notified.state, "terminated;reason=noresource");
    assert_eq!(dialogue.registrations(), 1);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.7, §5.4.1.5: what phones hear when a server fails that must be there is the operator's
/// choice; the registration ends at once, and whoever subscribes behind the end hears the same.
#[test]
fn a_server_fails() {
    for (choice, event, reason, comes_before) in [
        ("rejected", Event::Rejected, "rejected", true),
        ("deactivated", Event::Deactivated, "deactivated", true),
        ("probation 60", Event::Probation, "probation;retry-after=60", true),
        ("rejected", Event::Rejected, "rejected", false),
        ("deactivated", Event::Deactivated, "deactivated", false),
        ("probation 60", Event::Probation, "probation;retry-after=60", false),
    ] {
        let mut config = config();
        config.registration.server_failure = choice.to_owned().try_into().unwrap();
        let mut dialogue = Dialogue::new(config);
        let mut data = profile(IMPI);
        data.service_profiles[0].initial_filter_criteria.push(InitialFilterCriterion {
            server_name: "sip:as.hims.net".into(),
            default_handling_terminated: true,
            ..Default::default()
        });
        let (challenge, vector) = dialogue.challenged(&register(&[]));
        dialogue.receives(&answered(&challenge, &vector, 26, &[]));
        dialogue.asks_sar(Registration, saa(&data));
        dialogue.replies_with(200);
        let told = dialogue.requests("REGISTER", AS);
        if comes_before {
            dialogue.watched();
        }
        dialogue.answers_request(&told, 500);
        dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
        let place = dialogue.requests.iter().position(|(_, one)| one.method_text() == "REGISTER");
        dialogue.requests.remove(place.expect("the server hears of the end"));
        let notified = match comes_before {
            true => dialogue.notifies(),
            false => dialogue.watched().1,
        };
        assert_eq!(notified.events(IMPU), [event], "{choice}");
        assert_eq!(notified.state, format!("terminated;reason={reason}"), "{choice}");
    }
    for odd in ["", "probation", "probation soon", "never"] {
        assert!(scscf::config::ServerFailure::try_from(odd.to_owned()).is_err(), "{odd}");
    }
}

/// RFC 6665 §4.2.2: while a NOTIFY is under way the next one waits; what happened is told once.
#[test]
fn one_notify_at_a_time() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.receives(&subscribe(&[]));
    dialogue.replies_with(200);
    let first = dialogue.notifies_unanswered();
    dialogue.refreshes(27);
    dialogue.refreshes(28);
    dialogue.requests_nothing();
    dialogue.answers_request(&first.request, 200);
    let second = dialogue.notifies();
    assert_eq!((second.info.version, second.contacts(IMPU)[0].cseq), (1, Some(28)));
    dialogue.requests_nothing();
    dialogue.rests();
}

/// RFC 6665 §4.2.2, RFC 5057 §5.1: 481, 408 or silence end a subscription without a further NOTIFY;
/// a passing failure does not.
#[test]
fn a_watcher_is_gone() {
    for (status, stays) in [(481, 0), (408, 0), (480, 0), (500, 1), (403, 1)] {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered();
        dialogue.watched();
        dialogue.refreshes(27);
        let notified = dialogue.notifies_unanswered();
        dialogue.answers_request(&notified.request, status);
        assert_eq!(dialogue.watchers(), stays, "{status}");
        dialogue.requests_nothing();
        dialogue.rests();
    }
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.receives(&subscribe(&[]));
    dialogue.replies_with(200);
    dialogue.wait(Duration::from_secs(40));
    assert_eq!(dialogue.watchers(), 0);
    assert_eq!(dialogue.counter("tessera_scscf_notifications_total", "silence"), 1);
    dialogue.rests();
    // Nor is there one whose place is unknown.
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.hosts.clear();
    dialogue.receives(&subscribe(&[]));
    dialogue.replies_with(200);
    assert_eq!(dialogue.watchers(), 0);
    dialogue.rests();
}

/// Invariant I6: subscriptions survive kill -9; what was not acknowledged is told again, in full and
/// with a higher version.
#[test]
fn subscriptions_survive_a_crash() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.watched();
    dialogue.restart();
    dialogue.requests_nothing();
    dialogue.refreshes(27);
    let notified = dialogue.notifies_unanswered();
    assert_eq!((notified.info.version, notified.request.cseq()), (1, 2));
    dialogue.restart();
    let notified = dialogue.notifies();
    assert_eq!((notified.info.version, notified.request.cseq()), (2, 3));
    assert_eq!(notified.events(IMPU), [Event::Refreshed]);
    dialogue.restart();
    dialogue.requests_nothing();
    dialogue.rests();
}

/// RFC 3680 §5.3: what ended behind the back of a NOTIFY that nobody has acknowledged before the crash is told
/// as ended behind it, too.
#[test]
fn an_end_survives_a_crash() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.watched();
    dialogue.hss_asks(rtr(ReasonCode::PermanentTermination));
    let before = dialogue.notifies_unanswered();
    assert_eq!(before.events(IMPU), [Event::Rejected]);
    dialogue.restart();
    let notified = dialogue.notifies();
    assert_eq!(notified.info.registrations.len(), 1);
    assert_eq!(notified.info.registrations[0].state, State::Terminated);
    assert_eq!(notified.state, before.state);
    assert_eq!(dialogue.watchers(), 0);
    dialogue.rests();
}

/// RFC 3263 §4.3: a watcher with several addresses: the silent one leaves time for the next.
#[test]
fn a_watcher_with_several_places() {
    let mut dialogue = Dialogue::new(config());
    let addresses = [PCSCF, "192.0.2.11"].map(|address| address.parse().unwrap());
    dialogue.hosts.insert("pcscf1.vims.net".into(), addresses.to_vec());
    dialogue.registered();
    dialogue.receives(&subscribe(&[]));
    dialogue.replies_with(200);
    let (first, _) = dialogue.requests.pop_front().unwrap();
    dialogue.wait(Duration::from_secs(16));
    dialogue.requests.retain(|(to, _)| *to != first);
    let (_, notified) = dialogue.requests.pop_front().expect("the other one is asked");
    dialogue.answers_request(&notified, 200);
    assert_eq!(dialogue.watchers(), 1);
    dialogue.rests();
}

/// RFC 3680 §5.3: a UE gives up one contact as it binds another: the old one is told as unregistered, whoever has to
/// make room beside it as deactivated; its own subscription goes on.
#[test]
fn a_contact_is_given_up_for_another() {
    const BOUND: &str = "Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip;expires=600000";
    let mut dialogue = Dialogue::new(config());
    let two =
        "Contact: <sip:10.133.202.46:5064>;expires=900, <sip:b@10.133.202.46:5064>;expires=900";
    let (challenge, vector) = dialogue.challenged(&register(&[(BOUND, two)]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[(BOUND, two)]));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
    dialogue.watched();
    let moves = "Contact: <sip:10.133.202.46:5064>;expires=0, <sip:10.133.202.46:7064>;expires=900";
    let other = [(BOUND, moves), ("ababab", "again")];
    let (challenge, vector) = dialogue.challenged(&register(&other));
    dialogue.receives(&answered(&challenge, &vector, 26, &other));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    let notified = dialogue.notifies();
    let mut told: Vec<_> =
        notified.contacts(IMPU).iter().map(|one| (one.uri.as_str(), one.event)).collect();
    told.sort_by_key(|(uri, _)| *uri);
    assert_eq!(
        told,
        [
            ("sip:10.133.202.46:5064", Event::Unregistered),
            ("sip:10.133.202.46:7064", Event::Registered),
            ("sip:b@10.133.202.46:5064", Event::Deactivated),
        ]
    );
    dialogue.requests_nothing();
    assert_eq!(dialogue.watchers(), 1);
}

/// TS 24.229 §5.4.1.6, §5.4.2.1.2; RFC 3680 §5.3: the network shortens a registration, so that the user has to come and
/// be authenticated: told as shortened, with what is left.
#[test]
fn a_shortened_registration_is_told() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.watched();
    dialogue.command(&["reauthenticate", IMPI, "90"]);
    dialogue.replied_text();
    let notified = dialogue.notifies();
    assert_eq!(notified.events(IMPU), [Event::Shortened]);
    assert_eq!(notified.contacts(IMPU)[0].expires_seconds, Some(90));
    assert!(notified.state.starts_with("active"));
    dialogue.rests();
}

/// Invariant I8: no more subscriptions than there may be, whoever they are for.
#[test]
fn too_many_subscriptions() {
    let mut config = config();
    config.reg_event.subscriptions_max = 1;
    let mut dialogue = Dialogue::new(config);
    dialogue.registered();
    dialogue.watched();
    let of_number =
        [("SUBSCRIBE sip:name@hims.net", "SUBSCRIBE tel:+11234567890"), ("watch1", "n")];
    dialogue.receives(&subscribe(&of_number));
    assert!(dialogue.replies_with(503).headers().has(Name::RetryAfter));
    assert_eq!(dialogue.watchers(), 1);
}

/// Invariant I8: as many watchers as there may be.
#[test]
fn too_many_watchers() {
    let mut config = config();
    config.reg_event.per_identity_max = 1;
    let mut dialogue = Dialogue::new(config);
    dialogue.registered();
    dialogue.watched();
    dialogue.receives(&subscribe(&OF_PCSCF));
    assert!(dialogue.replies_with(503).headers().has(Name::RetryAfter));
}

/// TS 24.229 §5.4.1.2.2F: a new contact takes the place of the one before, which is told as
/// deactivated.
#[test]
fn a_contact_takes_anothers_place() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.watched();
    let other = [("46:5064", "46:7064"), ("ababab", "again")];
    let (challenge, vector) = dialogue.challenged(&register(&other));
    dialogue.requests_nothing();
    dialogue.receives(&answered(&challenge, &vector, 26, &other));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    let notified = dialogue.notifies();
    assert_eq!(notified.events(IMPU), [Event::Registered, Event::Deactivated]);
    assert_eq!(notified.contacts(IMPU)[1].uri, "sip:10.133.202.46:5064");
}

/// TS 24.229 §5.4.1.5, §5.4.2.1.1, §5.4.2.1.2; RFC 3680 §5.3: UE and P-CSCF subscribe behind the 200 to the
/// REGISTER, and the network has ended the registration already: both hear what they would have heard had they been
/// there.
#[test]
fn an_end_right_behind_the_200() {
    type Begin = fn(&mut Dialogue);
    let cases: [(&str, Begin, Event, &str); 5] = [
        (
            "permanent termination",
            |dialogue| dialogue.hss_asks(rtr(ReasonCode::PermanentTermination)),
            Event::Rejected,
            "rejected",
        ),
        (
            "server change",
            |dialogue| dialogue.hss_asks(rtr(ReasonCode::ServerChange)),
            Event::Deactivated,
            "deactivated",
        ),
        (
            "operator",
            |dialogue| {
                dialogue.command(&["deregister", IMPI]);
                dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
            },
            Event::Rejected,
            "rejected",
        ),
        (
            "operator, to come again later",
            |dialogue| {
                dialogue.command(&["deregister", IMPI, "probation", "30"]);
                dialogue.asks_sar(AdministrativeDeregistration, empty_saa(Outcome::SUCCESS));
            },
            Event::Probation,
            "probation;retry-after=30",
        ),
        (
            "operator, and a silent HSS",
            |dialogue| {
                dialogue.is_hss_deaf = true;
                dialogue.command(&["deregister", IMPI]);
                dialogue.wait(Duration::from_secs(5));
            },
            Event::Rejected,
            "rejected",
        ),
    ];
    for (name, begin, event, reason) in cases {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered();
        begin(&mut dialogue);
        // Each as often as it asks; one look is told no less.
        let look = [("Expires: 600000", "Expires: 0"), ("watch1", "look")];
        for text in [subscribe(&[]), subscribe(&OF_PCSCF), subscribe(&[]), subscribe(&look)] {
            let notified = dialogue.told_of_the_end(&text, event, reason);
            let later = (event == Event::Probation).then_some(30);
            assert_eq!(notified.contacts(IMPU)[0].retry_after_seconds, later, "{name}");
        }
        let counter = "tessera_scscf_subscription_events_total";
        assert_eq!(dialogue.counter(counter, "told_of_the_end"), 4, "{name}");
        assert!(dialogue.store.keys().all(|(kind, _)| kind != "subscription"), "{name}");
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.2.1.1: of an end nobody hears who could not have watched what has ended.
#[test]
fn an_end_is_not_for_strangers() {
    let mut dialogue = Dialogue::new(config());
    let mut data = profile(IMPI);
    data.service_profiles[0].initial_filter_criteria.push(InitialFilterCriterion {
        server_name: "sip:as.hims.net".into(),
        registered_part: Some(false),
        ..Default::default()
    });
    let (challenge, vector) = dialogue.challenged(&register(&[]));
    dialogue.receives(&answered(&challenge, &vector, 26, &[]));
    dialogue.asks_sar(Registration, saa(&data));
    dialogue.replies_with(200);
    dialogue.hss_asks(rtr(ReasonCode::PermanentTermination));
    const BY: &str = "Identity: <sip:name@hims.net>";
    for (change, status) in [
        ((BY, "Identity: <sip:other@hims.net>"), 403),
        ((BY, "Identity: <sip:pcscf2.vims.net>"), 403),
        ((BY, "Identity: <sip:temporary.name.private@hims.net>"), 403),
        (("P-Asserted-Identity: <sip:name@hims.net>\r\n", ""), 403),
        (("SUBSCRIBE sip:name@hims.net", "SUBSCRIBE sip:other@hims.net"), 404),
    ] {
        dialogue.receives(&subscribe(&[change]));
        dialogue.replies_with(status);
        dialogue.requests_nothing();
    }
    let by_server = [(BY, "Identity: <sip:as.hims.net>")];
    dialogue.told_of_the_end(&subscribe(&by_server), Event::Rejected, "rejected");
    // By another identity of the user, and about another one.
    let of_number = [
        ("SUBSCRIBE sip:name@hims.net", "SUBSCRIBE tel:+1-123-456-7890"),
        (BY, "Identity: <tel:+11234567890>"),
    ];
    dialogue.told_of_the_end(&subscribe(&of_number), Event::Rejected, "rejected");
    dialogue.rests();
}

/// TS 24.229 §5.4.1.4, §5.4.1.5: what the UE has ended itself, what has run out, and what another S-CSCF serves,
/// is just not registered.
#[test]
fn ends_that_are_not_told() {
    type Begin = fn(&mut Dialogue);
    let cases: [(&str, Begin); 3] = [
        ("the user", |dialogue| {
            let zero = [("CSeq: 25", "CSeq: 27"), ("\"no\"", "\"yes\""), ("=600000", "=0")];
            dialogue.receives(&register(&zero));
            dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
            dialogue.replies_with(200);
        }),
        ("expiry", |dialogue| {
            dialogue.wait(Duration::from_secs(600_001));
            dialogue.asks_sar(TimeoutDeregistration, empty_saa(Outcome::SUCCESS));
        }),
        ("new server", |dialogue| dialogue.hss_asks(rtr(ReasonCode::NewServerAssigned))),
    ];
    for (name, begin) in cases {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered();
        begin(&mut dialogue);
        dialogue.receives(&subscribe(&[]));
        assert_eq!(dialogue.replies().status(), 504, "{name}");
        dialogue.requests_nothing();
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.2.1.1, RFC 3261 §17.1.2.2: an end is remembered for the life of a SUBSCRIBE, and not across a
/// restart.
#[test]
fn an_end_is_forgotten() {
    for restarts in [false, true] {
        let mut dialogue = Dialogue::new(config());
        dialogue.registered();
        dialogue.hss_asks(rtr(ReasonCode::PermanentTermination));
        dialogue.wait(Duration::from_millis(31_999));
        dialogue.told_of_the_end(&subscribe(&[]), Event::Rejected, "rejected");
        match restarts {
            true => dialogue.restart(),
            false => dialogue.wait(Duration::from_millis(1)),
        }
        dialogue.receives(&subscribe(&[]));
        dialogue.replies_with(504);
        dialogue.rests();
    }
}

/// TS 24.229 §5.4.2.1.2: whoever registers anew is registered: nothing is told of the time before, and nothing is
/// left of it when the UE goes by itself.
#[test]
fn a_new_registration_forgets_an_end() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    dialogue.hss_asks(rtr(ReasonCode::ServerChange));
    dialogue.told_of_the_end(&subscribe(&[]), Event::Deactivated, "deactivated");
    let moved = [("46:5064", "46:6064")];
    let (challenge, vector) = dialogue.challenged(&register(&moved));
    dialogue.receives(&answered(&challenge, &vector, 26, &moved));
    dialogue.asks_sar(Registration, saa(&profile(IMPI)));
    dialogue.replies_with(200);
    let (_, notified) = dialogue.watched();
    assert_eq!(notified.state, "active;expires=600000");
    assert_eq!(notified.events(IMPU), [Event::Registered]);
    assert_eq!(dialogue.watchers(), 1);
    let zero = [
        ("CSeq: 25", "CSeq: 27"),
        ("\"no\"", "\"yes\""),
        ("=600000", "=0"),
        ("46:5064", "46:6064"),
    ];
    dialogue.receives(&register(&zero));
    dialogue.asks_sar(UserDeregistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    dialogue.requests.clear();
    dialogue.receives(&subscribe(&[("watch1", "watch4")]));
    dialogue.replies_with(504);
}

/// TS 24.229 §5.4.2.1.1, §5.4.2.1.2: of two devices the network ends one. Its SUBSCRIBE is as good as the other's,
/// and the document shows its contact as gone; a P-CSCF that serves this one alone hears so, and no more.
#[test]
fn the_end_of_one_of_two_devices() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered_second(&profile(SECOND), &[("term@pcscf1", "term@pcscf2")]);
    dialogue.registered();
    dialogue.hss_asks(rtr(ReasonCode::PermanentTermination));
    let (_, notified) = dialogue.watched();
    assert_eq!(notified.state, "active;expires=600000");
    assert_eq!(notified.events(IMPU), [Event::Registered, Event::Rejected]);
    assert_eq!(notified.contacts(IMPU)[1].uri, "sip:10.133.202.46:5064");
    assert!(notified.info.registrations.iter().all(|one| one.state == State::Active));
    assert_eq!(dialogue.watchers(), 1);
    dialogue.receives(&subscribe(&OF_PCSCF));
    dialogue.replies_with(200);
    let notified = dialogue.notifies();
    assert_eq!(notified.state, "terminated;reason=rejected");
    assert_eq!(notified.events(IMPU), [Event::Registered, Event::Rejected]);
    assert_eq!(dialogue.watchers(), 1);
    // The other one ends as well: its end is told, with what is known of the first.
    let cx::Request::Rtr(rtr) = rtr(ReasonCode::ServerChange) else { unreachable!() };
    dialogue.hss_asks(cx::Request::Rtr(Rtr { user_name: SECOND.to_owned(), ..rtr }));
    assert_eq!(dialogue.notifies().state, "terminated;reason=deactivated");
    dialogue.receives(&subscribe(&OF_PCSCF));
    dialogue.replies_with(200);
    let notified = dialogue.notifies();
    assert_eq!(notified.state, "terminated;reason=deactivated");
    let mut events = notified.events(IMPU);
    events.sort_by_key(|event| event.name());
    assert_eq!(events, [Event::Deactivated, Event::Rejected]);
    dialogue.rests();
}

/// TS 24.229 §5.4.1.5, TS 29.228 §6.1.3: an RTR ends both sets of a user: the end of the one tells of the other as
/// well.
#[test]
fn the_end_of_two_sets() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let work = [("To: <sip:name@", "To: <sip:work@"), ("ababab", "work")];
    let (challenge, vector) = dialogue.challenged(&register(&work));
    dialogue.receives(&answered(&challenge, &vector, 26, &work));
    dialogue.asks_sar(Registration, saa(&set(IMPI, &[("sip:work@hims.net", false)])));
    dialogue.replies_with(200);
    dialogue.hss_asks(rtr(ReasonCode::PermanentTermination));
    let notified = dialogue.told_of_the_end(&subscribe(&[]), Event::Rejected, "rejected");
    assert_eq!(notified.events("sip:work@hims.net"), [Event::Rejected]);
    dialogue.rests();
}

/// TS 24.229 §5.4.8.4, §5.4.2.1.1: an emergency registration stays, which nobody may watch; of the normal one
/// beside it, which is over, everybody hears.
#[test]
fn an_end_beside_an_emergency_registration() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let sos = [("46:5064>", "46:5064;sos>"), ("ababab", "sos")];
    let (challenge, vector) = dialogue.challenged(&register(&sos));
    dialogue.receives(&answered(&challenge, &vector, 26, &sos));
    dialogue.asks_sar(ReRegistration, empty_saa(Outcome::SUCCESS));
    dialogue.replies_with(200);
    dialogue.hss_asks(rtr(ReasonCode::PermanentTermination));
    assert_eq!(dialogue.registrations(), 1);
    dialogue.told_of_the_end(&subscribe(&[]), Event::Rejected, "rejected");
    dialogue.wait(Duration::from_secs(32));
    assert_eq!(dialogue.registrations(), 1);
    dialogue.receives(&subscribe(&[]));
    dialogue.replies_with(504);
    dialogue.rests();
}

/// TS 29.228 §6.1.2.1, TS 24.229 §5.4.2.1.2: the HSS has cut the sets anew, and the new one has taken the place of
/// the old: nothing has ended that whoever watches from now on should hear of.
#[test]
fn a_set_in_the_place_of_another_is_no_end() {
    let mut dialogue = Dialogue::new(config());
    dialogue.registered();
    let again = [("ababab", "again")];
    let (challenge, vector) = dialogue.challenged(&register(&again));
    dialogue.receives(&answered(&challenge, &vector, 26, &again));
    dialogue.asks_sar(ReRegistration, saa(&set(IMPI, &[(IMPU, false)])));
    dialogue.replies_with(200);
    let (_, notified) = dialogue.watched();
    assert_eq!(notified.info.registrations.len(), 1);
    assert!(notified.contacts(IMPU).iter().all(|contact| contact.is_active));
    dialogue.receives(&subscribe(&[("SUBSCRIBE sip:name@hims.net", "SUBSCRIBE tel:+11234567890")]));
    dialogue.replies_with(404);
}
