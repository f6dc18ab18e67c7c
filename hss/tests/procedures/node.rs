//! The whole HSS over Diameter, with S-CSCFs at the other end. S-09, S-41 to S-44, S-52 to S-54,
//! S-90 to S-96, S-121.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::cx::rtr::ReasonCode;
use common::cx::sar::ServerAssignmentType;
use common::cx::user_data::UserData;
use common::cx::{
    Answer, EmergencyRegistration, Endpoint, Event, Lir, Mar, Outcome, Ppa, Received, Request, Rta,
    Sar, Uar,
};
use common::diameter::base::result_code;
use common::diameter::endpoint::{Config, PeerConfig};
use common::limits::Limits;
use common::node::{ConnectionId, Input, Node, Now, Output, PeerIndex};
use common::random::Random;
use common::stats::{Samples, Value};
use hss::Hss;
use rusqlite::Connection;

use crate::world::*;

const LIMIT: Duration = Duration::from_secs(3);

/// An HSS and two S-CSCFs, each on a connection of its own.
pub struct Network {
    now: Now,
    pub hss: Hss,
    servers: Vec<Endpoint<u32>>,
    /// How the S-CSCFs answer what the HSS asks; `None`: not at all.
    pub answers: Vec<Option<Outcome>>,
    /// What the HSS asked, by S-CSCF.
    pub asked: Vec<(usize, Request)>,
    /// The same, as it was on the wire.
    pub wire: Vec<Bytes>,
    unanswered: Vec<(usize, Received)>,
    /// What the next RTA says stays.
    pub emergency: Vec<EmergencyRegistration>,
    answered: Vec<Answer>,
    pub replies: Vec<String>,
}

impl Network {
    pub fn new() -> Network {
        let mut hss =
            Hss::new(config(), Connection::open_in_memory().unwrap(), Random::from_seed([9; 32]))
                .unwrap();
        let voicemail = hss::provision::Profile { name: "voicemail".into(), ..Default::default() };
        hss::provision::put_profile(hss.database(), &voicemail).unwrap();
        for subscriber in subscribers() {
            hss.provision(&subscriber).unwrap();
        }
        Network::with(hss)
    }

    /// The HSS starts anew, on the same database.
    pub fn restarted(self) -> Network {
        let connection = self.hss.into_connection();
        Network::with(Hss::new(config(), connection, Random::from_seed([10; 32])).unwrap())
    }

    pub fn with(hss: Hss) -> Network {
        let mut network = Network {
            now: Now::from_millis(1_000_000),
            hss,
            servers: (1..=2).map(scscf).collect(),
            answers: Vec::new(),
            asked: Vec::new(),
            wire: Vec::new(),
            unanswered: Vec::new(),
            emergency: Vec::new(),
            answered: Vec::new(),
            replies: Vec::new(),
        };
        let now = network.now;
        let mut out = Vec::new();
        network.hss.handle(now, Input::Start { records: Vec::new() }, &mut out);
        network.release(out);
        for place in 0..network.servers.len() {
            let mut out = Vec::new();
            network.servers[place].start(now, &mut out);
            let peer = Some(PeerIndex(0));
            network.servers[place].input(now, opened(place, peer), &mut out);
            let mut from_hss = Vec::new();
            network.hss.handle(now, opened(place, None), &mut from_hss);
            network.from_server(place, out);
            network.release(from_hss);
        }
        network
    }

    /// The end of a turn of the HSS, and what leaves with it.
    fn release(&mut self, out: Vec<Output>) {
        self.hss.commit().unwrap();
        for output in out {
            match output {
                Output::Diameter { connection, bytes } => {
                    let place = connection.0 as usize;
                    if is_push(&bytes) {
                        self.wire.push(bytes.clone());
                    }
                    let mut out = Vec::new();
                    let input = Input::Diameter { connection, bytes };
                    self.servers[place].input(self.now, input, &mut out);
                    self.serve(place, &mut out);
                    self.from_server(place, out);
                }
                Output::Reply { text, .. } => self.replies.push(text),
                other => panic!("{other:?}"),
            }
        }
    }

    fn from_server(&mut self, place: usize, out: Vec<Output>) {
        for output in out {
            if let Output::Diameter { connection, bytes } = output {
                assert_eq!(connection.0 as usize, place);
                let mut out = Vec::new();
                self.hss.handle(self.now, Input::Diameter { connection, bytes }, &mut out);
                self.release(out);
            }
        }
    }

    fn serve(&mut self, place: usize, out: &mut Vec<Output>) {
        while let Some(event) = self.servers[place].next_event() {
            match event {
                Event::Answer { result, .. } => self.answered.push(result.unwrap().answer),
                Event::Request(received) => {
                    self.asked.push((place, received.request.clone()));
                    let next = if self.answers.is_empty() { None } else { self.answers.remove(0) };
                    let Some(outcome) = next else {
                        self.unanswered.push((place, received));
                        continue;
                    };
                    self.answer(place, received, outcome, out);
                }
            }
        }
    }

    fn answer(
        &mut self,
        place: usize,
        received: Received,
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) {
        let answer = match received.request {
            Request::Rtr(_) => Answer::Rta(Rta {
                outcome,
                associated_identities: Vec::new(),
                emergency_registrations: std::mem::take(&mut self.emergency),
            }),
            _ => Answer::Ppa(Ppa { outcome }),
        };
        self.servers[place].answer(self.now, received, answer, out);
    }

    /// The answer to the first request that had none so far.
    pub fn answer_late(&mut self, outcome: Outcome) {
        let (place, received) = self.unanswered.remove(0);
        let mut out = Vec::new();
        self.answer(place, received, outcome, &mut out);
        self.from_server(place, out);
    }

    pub fn ask(&mut self, place: usize, request: Request) -> Answer {
        let mut out = Vec::new();
        self.servers[place].ask(self.now, request, None, 0, LIMIT, &mut out);
        self.from_server(place, out);
        self.answered.pop().expect("the HSS answers at once")
    }

    pub fn challenge(&mut self, place: usize, user_name: &str) -> Answer {
        let server_name = [S1, S2][place].to_owned();
        let mar = Mar {
            user_name: user_name.into(),
            public_identity: ALICE_SIP.into(),
            server_name,
            sip_number_auth_items: 1,
            scheme: "Digest-AKAv1-MD5".into(),
            sip_authorization: None,
        };
        self.ask(place, Request::Mar(mar))
    }

    pub fn register(&mut self, place: usize, user_name: &str) -> Answer {
        assert_eq!(self.challenge(place, user_name).outcome(), Outcome::SUCCESS);
        let kind = ServerAssignmentType::Registration;
        self.ask(place, Request::Sar(sar(user_name, [S1, S2][place], kind)))
    }

    pub fn command(&mut self, words: &[&str]) {
        let command = words.iter().map(|word| (*word).to_owned()).collect();
        let mut out = Vec::new();
        self.hss.handle(self.now, Input::Admin { id: 1, command }, &mut out);
        self.release(out);
    }

    pub fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.hss.handle(self.now, input, &mut out);
        self.release(out);
    }

    pub fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
        let mut out = Vec::new();
        self.hss.handle(self.now, Input::Timeout, &mut out);
        // The watchdog's questions are not what these tests are about.
        out.retain(|output| match output {
            Output::Diameter { bytes, .. } => is_push(bytes),
            _ => true,
        });
        self.release(out);
    }

    pub fn undelivered(&self) -> f64 {
        let mut samples = Samples::default();
        self.hss.samples(&mut samples);
        let name = "tessera_hss_undelivered_terminations";
        let sample = samples.0.iter().find(|sample| sample.name == name);
        match sample.map(|sample| &sample.value) {
            Some(Value::Gauge(value)) => *value,
            other => panic!("{other:?}"),
        }
    }

    pub fn is_registered(&self, user_name: &str) -> bool {
        let all = self.hss.assignments().unwrap();
        all.iter().any(|one| one.private_identity == user_name && one.is_registered)
    }
}

/// RTR or PPR, and no answer.
fn is_push(bytes: &[u8]) -> bool {
    let code = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]);
    bytes[4] & 0x80 != 0 && matches!(code, 304 | 305)
}

pub fn scscf(number: usize) -> Endpoint<u32> {
    let config = Config {
        identity: format!("scscf{number}.hims.net"),
        peers: vec![PeerConfig {
            identity: None,
            host: "hss.hims.net".into(),
            port: 3868,
            by_name_only: false,
        }],
        ..config().diameter
    };
    Endpoint::new(config, Random::from_seed([number as u8; 32]), &Limits::default())
}

fn opened(place: usize, peer: Option<PeerIndex>) -> Input {
    let address = |last: usize| SocketAddr::from(([192, 0, 2, last as u8], 3868));
    let (server, hss) = (address(place + 1), address(100));
    let (local, remote) = if peer.is_some() { (server, hss) } else { (hss, server) };
    Input::Opened { connection: ConnectionId(place as u64), peer, local, remote }
}

pub fn sar(user_name: &str, server_name: &str, kind: ServerAssignmentType) -> Sar {
    Sar {
        user_name: Some(user_name.into()),
        public_identities: vec![ALICE_SIP.into()],
        server_name: server_name.into(),
        server_assignment_type: kind,
        ..Sar::default()
    }
}

pub fn uar() -> Request {
    Request::Uar(Uar {
        user_name: ALICE.into(),
        public_identity: ALICE_SIP.into(),
        visited_network_identifier: DOMAIN.into(),
        ..Uar::default()
    })
}

/// TS 29.228 §6; S-09, S-41, S-43, S-52, S-54, S-90, S-91, S-94, S-95, S-96, S-121.
#[test]
fn a_registration_from_end_to_end() {
    let mut network = Network::new();
    assert_eq!(network.ask(0, uar()).outcome(), Outcome::FIRST_REGISTRATION);
    let Answer::Saa(saa) = network.register(0, ALICE) else { panic!() };
    assert_eq!(saa.outcome, Outcome::SUCCESS);
    assert!(UserData::parse(&saa.user_data.unwrap()).is_ok());
    let Answer::Uaa(uaa) = network.ask(0, uar()) else { panic!() };
    assert_eq!(uaa.outcome, Outcome::SUBSEQUENT_REGISTRATION);
    assert_eq!(uaa.server_name.as_deref(), Some(S1));
    let lir = Request::Lir(Lir { public_identity: ALICE_TEL.into(), ..Lir::default() });
    let Answer::Lia(lia) = network.ask(1, lir) else { panic!() };
    assert_eq!(lia.server_name.as_deref(), Some(S1));
    let leave = sar(ALICE, S1, ServerAssignmentType::UserDeregistration);
    assert_eq!(network.ask(0, Request::Sar(leave)).outcome(), Outcome::SUCCESS);
    assert!(!network.is_registered(ALICE));
    let refused = network.ask(
        0,
        Request::Uar(Uar {
            user_name: BOB.into(),
            public_identity: ALICE_SIP.into(),
            visited_network_identifier: DOMAIN.into(),
            ..Uar::default()
        }),
    );
    assert_eq!(refused.outcome(), Outcome::IDENTITIES_DONT_MATCH);

    let mut samples = Samples::default();
    network.hss.samples(&mut samples);
    let count = |labels: &[(&str, &str)], name: &str| {
        let found = samples.0.iter().find(|sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| {
                    sample.labels.iter().any(|(l, v)| l == label && v == value)
                })
        });
        found.map(|sample| sample.value.clone())
    };
    let requests = "tessera_hss_requests_total";
    let uar = |result| count(&[("command", "UAR"), ("result", result)], requests);
    assert_eq!(uar("experimental_2001"), Some(Value::Counter(1)));
    assert_eq!(uar("experimental_5002"), Some(Value::Counter(1)));
    assert_eq!(count(&[], "tessera_hss_vectors_total"), Some(Value::Counter(1)));
    assert_eq!((network.hss.owed(), network.hss.ready()), (0, Ok(())));
}

/// TS 29.228 §6.1.3.1: the state follows the answer.
#[test]
fn an_operator_ends_a_registration() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.answers = vec![Some(Outcome::SUCCESS)];
    network.command(&["rtr", ALICE]);
    let (0, Request::Rtr(rtr)) = &network.asked[0] else { panic!("{:?}", network.asked) };
    assert_eq!(
        (rtr.user_name.as_str(), rtr.reason_code),
        (ALICE, ReasonCode::PermanentTermination)
    );
    assert_eq!(rtr.destination_host, "scscf1.hims.net");
    assert!(!network.is_registered(ALICE));
    assert_eq!(network.replies.len(), 1);
    assert!(network.replies[0].contains("registration ended"), "{:?}", network.replies);
    assert_eq!(network.ask(0, uar()).outcome(), Outcome::FIRST_REGISTRATION);
    network.command(&["rtr", ALICE, "server-change"]);
    assert!(network.replies[1].contains("not registered"));
    network.command(&["rtr", "nobody@hims.net"]);
    assert!(network.replies[2].contains("not provisioned"));
    assert_eq!(network.hss.owed(), 0);
}

/// TS 29.228 §6.1.3.1, §6.1.2.1: a challenge that was running ends with the registration, and pins no S-CSCF; one of
/// another device does, until it ends.
#[test]
fn a_challenge_ends_with_the_registration() {
    for (challenged, is_kept) in [(ALICE, false), (TABLET, true)] {
        let mut network = Network::new();
        network.register(0, ALICE);
        network.challenge(0, challenged);
        network.answers = vec![Some(Outcome::SUCCESS)];
        network.command(&["rtr", ALICE]);
        let all = network.hss.assignments().unwrap();
        let alice: Vec<_> = all.iter().filter(|one| one.private_identity == ALICE).collect();
        assert!(alice.iter().all(|one| !one.is_authentication_pending));
        assert_eq!(alice[0].server_name.is_some(), is_kept, "{challenged}");
    }
}

/// TS 29.228 §6.1.3.1: another device stays.
#[test]
fn ends_the_named_device_only() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.register(0, TABLET);
    network.answers = vec![Some(Outcome::SUCCESS)];
    network.command(&["rtr", ALICE]);
    assert!(!network.is_registered(ALICE) && network.is_registered(TABLET));
    assert_eq!(network.ask(0, uar()).outcome(), Outcome::SUBSEQUENT_REGISTRATION);
}

/// TS 29.228 §6.1.3.1, TS 29.229 §6.1.9: a change of the server is for every device and set of the subscription, also
/// for one that is only being authenticated; the S-CSCF's name is released, so that they come to another one.
#[test]
fn a_change_of_the_server_is_for_all_devices() {
    for is_answered in [true, false] {
        let mut network = Network::new();
        network.register(0, ALICE);
        network.register(0, TABLET);
        let mut work = sar(ALICE, S1, ServerAssignmentType::Registration);
        work.public_identities = vec![WORK.into()];
        assert_eq!(network.ask(0, Request::Sar(work)).outcome(), Outcome::SUCCESS);
        network.challenge(0, TABLET);
        network.answers = vec![is_answered.then_some(Outcome::SUCCESS)];
        network.command(&["rtr", TABLET, "server-change"]);
        let [(0, Request::Rtr(rtr))] = &network.asked[..] else { panic!("{:?}", network.asked) };
        assert_eq!(
            (&rtr.user_name[..], &rtr.associated_identities[..]),
            (TABLET, &[ALICE.into()][..])
        );
        assert!(rtr.public_identities.is_empty());
        network.wait(Duration::from_secs(6));
        assert!(!network.is_registered(ALICE) && !network.is_registered(TABLET));
        // Each of them is told for itself, later.
        assert_eq!(network.undelivered(), if is_answered { 0.0 } else { 2.0 });
        assert_eq!(network.ask(1, uar()).outcome(), Outcome::FIRST_REGISTRATION);
    }
}

/// TS 29.228 §6.1.3.1: silence ends it as well; emergency registrations do not.
#[test]
fn a_silent_server_keeps_nobody_and_an_emergency_stays() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.command(&["rtr", ALICE]);
    assert!(network.is_registered(ALICE) && network.hss.owed() == 1);
    network.wait(Duration::from_secs(6));
    assert!(!network.is_registered(ALICE));
    assert!(network.replies[0].contains("did not answer"), "{:?}", network.replies);

    let mut network = Network::new();
    network.register(0, ALICE);
    network.answers = vec![Some(Outcome::UNABLE_TO_COMPLY)];
    network.command(&["rtr", ALICE]);
    assert!(network.is_registered(ALICE));
    assert!(network.replies[0].contains("state kept"));
    // Of several sets that stays of which the S-CSCF says so, and nobody else's.
    for (user_name, stays) in [(ALICE, true), (TABLET, false)] {
        let mut network = Network::new();
        network.register(0, ALICE);
        network.answers = vec![Some(Outcome::Base(result_code::LIMITED_SUCCESS))];
        network.emergency = vec![EmergencyRegistration {
            user_name: user_name.to_owned(),
            public_identity: ALICE_SIP.to_owned(),
        }];
        network.command(&["rtr", ALICE]);
        assert_eq!(network.is_registered(ALICE), stays, "{user_name}");
    }
}

/// TS 29.228 §6.1.3.1: an S-CSCF that was not there hears of the end when it shows itself, once; in front of the answer
/// that would have had the user registered again; and not of somebody who has come back since.
#[test]
fn an_absent_server_is_told_later() {
    let absent = || {
        let mut network = Network::new();
        network.register(0, ALICE);
        network.command(&["rtr", ALICE]);
        network.wait(Duration::from_secs(6));
        assert!(network.replies[0].ends_with("told when it is back"), "{:?}", network.replies);
        assert!(!network.is_registered(ALICE));
        network.asked.clear();
        network
    };
    let told = |network: &Network| -> Vec<ReasonCode> {
        let of = |(place, request): &(usize, Request)| match request {
            Request::Rtr(rtr) if *place == 0 && rtr.user_name == ALICE => Some(rtr.reason_code),
            _ => None,
        };
        network.asked.iter().filter_map(of).collect()
    };
    let lir = || Request::Lir(Lir { public_identity: ALICE_TEL.into(), ..Lir::default() });

    let mut network = absent();
    network.ask(1, lir());
    assert!(told(&network).is_empty(), "another S-CSCF is no sign");
    network.answers = vec![Some(Outcome::SUCCESS)];
    network.ask(0, lir());
    network.ask(0, lir());
    assert_eq!(told(&network), [ReasonCode::PermanentTermination]);

    // As many as there may be, and over a restart of the HSS.
    let mut network = absent();
    let database = network.hss.database();
    for number in 0..10_000 {
        let sql = "INSERT INTO undelivered_termination (host, user_name, private_identity,
            subscription, implicit_sets, public_identities, reason)
            VALUES ('elsewhere', ?1, 1000, 1000, '[]', '[', 9)";
        database.write(sql, [number]).unwrap();
    }
    database.commit().unwrap();
    network.register(0, TABLET);
    network.command(&["rtr", TABLET]);
    network.wait(Duration::from_secs(6));
    assert_eq!(network.undelivered(), 10_000.0);
    let mut network = absent().restarted();
    assert_eq!(network.undelivered(), 1.0);
    network.answers = vec![Some(Outcome::SUCCESS)];
    network.ask(0, lir());
    assert_eq!(told(&network), [ReasonCode::PermanentTermination]);
    assert_eq!(network.undelivered(), 0.0);

    let mut network = absent();
    network.answers = vec![Some(Outcome::SUCCESS)];
    let refresh = sar(ALICE, S1, ServerAssignmentType::ReRegistration);
    let mut out = Vec::new();
    network.servers[0].ask(network.now, Request::Sar(refresh), None, 0, LIMIT, &mut out);
    network.from_server(0, out);
    assert_eq!(told(&network), [ReasonCode::PermanentTermination]);
    assert!(!network.is_registered(ALICE));

    let mut network = absent();
    network.register(0, ALICE);
    network.ask(0, lir());
    assert!(told(&network).is_empty(), "it has come back");
    assert!(network.is_registered(ALICE));

    // Displaced by restoration while it was away; and the same, back as the one that serves.
    for comes_back in [false, true] {
        let mut network = Network::new();
        network.register(0, ALICE);
        network.register(1, ALICE);
        network.wait(Duration::from_secs(6));
        network.asked.clear();
        network.answers = vec![Some(Outcome::SUCCESS), Some(Outcome::SUCCESS)];
        if comes_back {
            network.register(0, ALICE);
        } else {
            network.ask(0, lir());
        }
        let expected: &[ReasonCode] = match comes_back {
            true => &[],
            false => &[ReasonCode::NewServerAssigned],
        };
        assert_eq!(told(&network), expected);
        assert!(network.is_registered(ALICE));
    }
}

/// TS 29.228 §6.1.3.1, §6.3.1: what an absent S-CSCF has to hear outlives a challenge, which anybody can bring about
/// who knows the user's name; a refresh without one is then told the end.
#[test]
fn a_challenge_forgets_no_termination() {
    use ServerAssignmentType::*;
    for kind in [None, Some(AuthenticationTimeout), Some(AuthenticationFailure), Some(NoAssignment)]
    {
        let mut network = Network::new();
        network.register(0, ALICE);
        network.command(&["rtr", ALICE]);
        network.wait(Duration::from_secs(6));
        network.asked.clear();
        assert_eq!(network.challenge(0, ALICE).outcome(), Outcome::SUCCESS);
        if let Some(kind) = kind {
            network.ask(0, Request::Sar(sar(ALICE, S1, kind)));
        }
        assert!(network.asked.is_empty(), "{kind:?}");
        assert_eq!(network.undelivered(), 1.0, "{kind:?}");
        network.answers = vec![Some(Outcome::SUCCESS)];
        network.ask(0, Request::Sar(sar(ALICE, S1, ReRegistration)));
        assert!(matches!(network.asked[..], [(0, Request::Rtr(_))]), "{kind:?}");
        assert!(!network.is_registered(ALICE), "{kind:?}");
        assert_eq!(network.undelivered(), 0.0, "{kind:?}");
    }
    // Displaced, and challenged at by a stranger: it is still to be told.
    let mut network = Network::new();
    network.register(0, ALICE);
    network.register(1, ALICE);
    network.wait(Duration::from_secs(6));
    network.asked.clear();
    network.challenge(0, ALICE);
    let lir = || Request::Lir(Lir { public_identity: BOB_SIP.into(), ..Lir::default() });
    network.ask(0, lir());
    assert!(network.asked.is_empty());
    network.ask(0, Request::Sar(sar(ALICE, S1, AuthenticationTimeout)));
    network.answers = vec![Some(Outcome::SUCCESS)];
    network.ask(0, lir());
    assert!(matches!(network.asked[..], [(0, Request::Rtr(_))]));
    assert!(network.is_registered(ALICE));
}

/// TS 29.228 §6.1.3.1: who authenticated anew is not ended, and nor is somebody else who got the numbers of a user that
/// was removed.
#[test]
fn a_kept_termination_is_of_one_user() {
    let absent = || {
        let mut network = Network::new();
        network.register(0, ALICE);
        network.command(&["rtr", ALICE]);
        network.wait(Duration::from_secs(6));
        network.asked.clear();
        network
    };
    let mut network = absent();
    network.register(0, ALICE);
    assert_eq!(network.undelivered(), 0.0);

    let mut network = absent();
    let database = network.hss.database();
    let sql = "UPDATE private_identity SET identity = 'new@hims.net' WHERE identity = ?1";
    database.write(sql, [ALICE]).unwrap();
    let ids = "UPDATE registration SET is_registered = 1 WHERE private_identity =
        (SELECT id FROM private_identity WHERE identity = 'new@hims.net')";
    database.write(ids, []).unwrap();
    database.commit().unwrap();
    network.answers = vec![Some(Outcome::SUCCESS)];
    network.ask(0, Request::Lir(Lir { public_identity: BOB_SIP.into(), ..Lir::default() }));
    let [(0, Request::Rtr(rtr))] = &network.asked[..] else { panic!("{:?}", network.asked) };
    assert_eq!(rtr.user_name, ALICE, "the S-CSCF is told of the old one");
    let all = network.hss.assignments().unwrap();
    let mut new = all.iter().filter(|one| one.private_identity == "new@hims.net");
    assert!(new.all(|one| one.is_registered), "with every set");
}

/// TS 29.228 §6.1.3.1: restoration tells the displaced S-CSCF.
#[test]
fn a_displaced_server_is_told() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.register(0, TABLET);
    network.answers = vec![Some(Outcome::SUCCESS), Some(Outcome::SUCCESS)];
    let saa = network.register(1, ALICE);
    assert_eq!(saa.outcome(), Outcome::SUCCESS);
    let told: Vec<_> = network
        .asked
        .iter()
        .map(|(place, request)| match request {
            Request::Rtr(rtr) => (*place, rtr.user_name.as_str(), rtr.reason_code),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        told,
        [(0, ALICE, ReasonCode::NewServerAssigned), (0, TABLET, ReasonCode::ServerChange)]
    );
    assert!(network.is_registered(ALICE) && !network.is_registered(TABLET));
}

/// TS 29.228 §6.2.2.1: the whole profile of the set.
#[test]
fn pushes_a_profile() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.answers = vec![Some(Outcome::SUCCESS)];
    network.command(&["ppr", ALICE, "again"]);
    let (0, Request::Ppr(ppr)) = &network.asked[0] else { panic!("{:?}", network.asked) };
    let user_data = UserData::parse(ppr.user_data.as_ref().unwrap()).unwrap();
    let identities: Vec<_> =
        user_data.public_identities().map(|public| public.identity.as_str()).collect();
    assert_eq!(identities, [TEMPORARY, ALICE_SIP, ALICE_TEL]);
    assert_eq!(network.replies, [format!("{ALICE}: done")]);
    network.command(&["ppr", BOB]);
    assert!(network.replies[1].contains("not registered"));
}

/// TS 29.228 §6.2.2.1: who is unknown there is not registered, and another one is tried.
#[test]
fn pushes_by_another_private_identity() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.register(0, TABLET);
    network.answers = vec![Some(Outcome::USER_UNKNOWN), Some(Outcome::SUCCESS)];
    network.command(&["ppr", ALICE, "again"]);
    let named: Vec<_> = network
        .asked
        .iter()
        .map(|(_, request)| match request {
            Request::Ppr(ppr) => ppr.user_name.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(named, [ALICE, TABLET]);
    assert!(!network.is_registered(ALICE) && network.is_registered(TABLET));
    assert_eq!(network.hss.owed(), 0);
}

/// TS 29.228 §6.2.2.1: too much for this S-CSCF, so another one shall serve.
#[test]
fn too_much_profile_changes_the_server() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.register(0, TABLET);
    network.answers = vec![Some(Outcome::TOO_MUCH_DATA), Some(Outcome::SUCCESS)];
    network.command(&["ppr", ALICE, "again"]);
    let (0, Request::Rtr(rtr)) = &network.asked[1] else { panic!("{:?}", network.asked) };
    assert_eq!(rtr.reason_code, ReasonCode::ServerChange);
    assert_eq!(
        (&rtr.public_identities[..], &rtr.associated_identities[..]),
        (&[][..], &[TABLET.to_owned()][..])
    );
    assert!(!network.is_registered(ALICE) && !network.is_registered(TABLET));
    let Answer::Uaa(uaa) = network.ask(0, uar()) else { panic!() };
    assert_eq!(uaa.server_name, None);
}

/// TS 29.228 §6.2.2.1: barring is pushed at once, but a set that is registered keeps its default identity.
#[test]
fn bars_identities() {
    let mut network = Network::new();
    network.command(&["bar", ALICE_TEL]);
    assert_eq!(network.replies.pop().unwrap(), format!("{ALICE_TEL}: barred"));
    network.command(&["unbar", ALICE_TEL]);
    network.register(0, ALICE);
    assert!(network.asked.is_empty());
    network.answers = vec![Some(Outcome::SUCCESS), Some(Outcome::SUCCESS)];
    for (command, is_barred) in [("bar", true), ("unbar", false)] {
        network.command(&[command, ALICE_TEL]);
        let Some((0, Request::Ppr(ppr))) = network.asked.pop() else {
            panic!("{:?}", network.asked)
        };
        let user_data = UserData::parse(ppr.user_data.as_ref().unwrap()).unwrap();
        let mut identities = user_data.public_identities();
        let pushed = identities.find(|public| public.identity == ALICE_TEL).unwrap();
        assert_eq!(pushed.is_barred, is_barred);
        let reply = network.replies.pop().unwrap();
        assert!(reply.starts_with(ALICE_TEL) && reply.ends_with(&format!("{ALICE}: done")));
    }
    // The default identity, and one in front of it.
    for (command, identity) in [("bar", ALICE_SIP), ("unbar", TEMPORARY)] {
        network.command(&[command, identity]);
        assert!(network.replies.pop().unwrap().contains("refused"), "{command} {identity}");
    }
    network.command(&["bar", "sip:nobody@hims.net"]);
    assert!(network.replies.pop().unwrap().contains("not known"));
    assert!(network.asked.is_empty());
    // Without a registration nothing stands against it.
    network.answers = vec![Some(Outcome::SUCCESS)];
    network.command(&["rtr", ALICE]);
    network.command(&["bar", ALICE_SIP]);
    assert!(network.replies.pop().unwrap().ends_with(": barred"));
}

/// TS 29.228 §6.2.2.1, §6.6: a profile that did not reach the S-CSCF comes with its next SAR for each device, also for
/// one that says it has a profile; once, and not when a later push got through, or when the S-CSCF cannot use it.
#[test]
fn a_profile_that_was_not_delivered_comes_later() {
    let is_barred_in = |network: &mut Network, user_name: &str| {
        let refresh = Sar {
            user_data_already_available: true,
            ..sar(user_name, S1, ServerAssignmentType::ReRegistration)
        };
        let Answer::Saa(saa) = network.ask(0, Request::Sar(refresh)) else { panic!() };
        assert_eq!(saa.outcome, Outcome::SUCCESS);
        let user_data = UserData::parse(&saa.user_data?).unwrap();
        let mut identities = user_data.public_identities();
        identities.find(|public| public.identity == ALICE_TEL).map(|public| public.is_barred)
    };
    let barred = |answer: Option<Outcome>| {
        let mut network = Network::new();
        network.register(0, ALICE);
        network.register(0, TABLET);
        network.answers = vec![answer];
        network.command(&["bar", ALICE_TEL]);
        network.wait(Duration::from_secs(6));
        network
    };
    for answer in [None, Some(Outcome::UNABLE_TO_COMPLY)] {
        let mut network = barred(answer);
        assert!(network.replies[0].contains("asks next"), "{answer:?}");
        for user_name in [ALICE, TABLET] {
            assert_eq!(is_barred_in(&mut network, user_name), Some(true), "{user_name}");
            assert_eq!(is_barred_in(&mut network, user_name), None, "{user_name}");
        }
    }
    for answer in [Outcome::SUCCESS, Outcome::NOT_SUPPORTED_USER_DATA] {
        let mut network = barred(Some(answer));
        assert_eq!(is_barred_in(&mut network, ALICE), None, "{answer:?}");
        assert!(network.is_registered(ALICE));
    }
    let mut network = barred(None);
    network.answers = vec![Some(Outcome::SUCCESS)];
    network.command(&["ppr", ALICE]);
    assert_eq!(is_barred_in(&mut network, ALICE), None);

    // The S-CSCF is not even connected; and over a restart of the HSS.
    let mut network = Network::new();
    network.register(0, ALICE);
    network.input(Input::Closed { connection: ConnectionId(0) });
    network.command(&["bar", ALICE_TEL]);
    assert!(network.replies[0].contains("cannot be reached"), "{:?}", network.replies);
    let mut network = network.restarted();
    assert_eq!(is_barred_in(&mut network, ALICE), Some(true));
}

#[test]
fn tells_what_is_stored_and_what_it_knows() {
    let mut network = Network::new();
    network.register(0, ALICE);
    network.command(&["status", ALICE]);
    assert!(network.replies[0].contains(S1) && network.replies[0].contains("registered"));
    assert!(!network.replies[0].contains(K) && !network.replies[0].contains(OPC));
    for words in [&["rtr"][..], &["help"], &["rtr", ALICE, "now"], &[]] {
        network.command(words);
        assert!(network.replies.pop().unwrap().contains("reasons:"), "{words:?}");
    }
}

/// A database that is gone is answered, not crashed on, and shows in readiness.
#[test]
fn a_broken_database_is_answered() {
    let mut network = Network::new();
    network.hss.database().write("DROP TABLE registration", []).unwrap();
    assert_eq!(network.ask(0, uar()).outcome(), Outcome::UNABLE_TO_COMPLY);
    assert!(network.hss.ready().is_err());
}
