//! A core alone between a test and an HSS that the test answers for: real bytes on every side.

#![allow(dead_code)] // each test file uses its own part

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use common::aka::digest;
use common::aka::vector::{Algorithm, Sqn, Vector};
use common::cx::sar::ServerAssignmentType;
use common::cx::user_data::{PublicIdentity, ServiceProfile, UserData};
use common::cx::{self, Answer, AuthDataItem, Event, Maa, Mar, Outcome, Received, Saa, Sar};
use common::diameter::endpoint::{Config as DiameterConfig, PeerConfig};
use common::dns::{self, RecordData, RecordType};
use common::limits::Limits;
use common::node::{ConnectionId, Flow, Input, Node, Now, Output, StoredRecord, Transport};
use common::random::Random;
use common::secret::Secret;
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::message::{Message, Request, Response};
use common::stats::{Samples, Value};
use scscf::Scscf;
use scscf::config::{Config, Listen, Sip};

pub const ICSCF: &str = "192.0.2.20:5060";
pub const SCSCF: &str = "192.0.2.31:5060";
pub const PCSCF: &str = "192.0.2.10";
pub const AS: &str = "192.0.2.50";
pub const IMPI: &str = "name.private@hims.net";
pub const IMPU: &str = "sip:name@hims.net";
/// The private identity of a second device of the user.
pub const SECOND: &str = "second@hims.net";

const CONNECTION: ConnectionId = ConnectionId(7);

pub fn diameter(identity: &str, peers: &[&str]) -> DiameterConfig {
    DiameterConfig {
        identity: identity.to_owned(),
        realm: "hims.net".to_owned(),
        listen: None,
        peers: peers
            .iter()
            .map(|host| PeerConfig {
                identity: None,
                host: (*host).to_owned(),
                port: 3868,
                by_name_only: false,
            })
            .collect(),
        allowed_peers: Vec::new(),
        watchdog_milliseconds: 100_000_000,
        reconnect_milliseconds: 500,
        reconnect_max_milliseconds: 30_000,
        request_timeout_milliseconds: 3_000,
    }
}

pub fn config() -> Config {
    let listen = Listen { udp: vec![SCSCF.parse().unwrap()], tcp: vec![SCSCF.parse().unwrap()] };
    let sip = Sip { name: "scscf1.hims.net".to_owned(), server_name: None, listen };
    Config::new("hims.net", sip, diameter("scscf1.hims.net", &["192.0.2.40"]))
}

/// The core, what it sent and stored, and the HSS.
pub struct Dialogue {
    pub core: Scscf,
    config: Config,
    hss: cx::Endpoint<()>,
    pub now: Now,
    pub sent: VecDeque<Response>,
    /// Requests of its own, with where they went.
    pub requests: VecDeque<(SocketAddr, Request)>,
    /// The DNS: names with addresses, at port 5060 over UDP.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    pub asked: VecDeque<Received>,
    /// Answers to what the HSS asked.
    pub told: VecDeque<Answer>,
    /// The store: what would be on disk.
    pub store: BTreeMap<(String, String), String>,
    pub outputs: Vec<Output>,
    /// The order in which answers left and records were written.
    pub trace: Vec<&'static str>,
    pub is_hss_deaf: bool,
    is_hss_away: bool,
    branches: u32,
    sqn: Sqn,
}

impl Dialogue {
    pub fn new(config: Config) -> Dialogue {
        let hss_config = diameter("hss1.hims.net", &[]);
        let mut dialogue = Dialogue {
            core: Scscf::new(config.clone(), [3; 32]).unwrap(),
            config,
            hss: cx::Endpoint::new(hss_config, Random::from_seed([9; 32]), &Limits::default()),
            now: Now::from_millis(1_700_000_000_000),
            sent: VecDeque::new(),
            requests: VecDeque::new(),
            hosts: [("pcscf1.vims.net", PCSCF), ("as.hims.net", AS)]
                .map(|(name, address)| (name.to_owned(), vec![address.parse().unwrap()]))
                .into(),
            asked: VecDeque::new(),
            told: VecDeque::new(),
            store: BTreeMap::new(),
            outputs: Vec::new(),
            trace: Vec::new(),
            is_hss_deaf: false,
            is_hss_away: false,
            branches: 0,
            sqn: Sqn(32),
        };
        dialogue.input(Input::Start { records: Vec::new() });
        dialogue.connect();
        dialogue
    }

    /// kill -9 and a new process on the same store.
    pub fn restart(&mut self) {
        self.core = Scscf::new(self.config.clone(), [4; 32]).unwrap();
        self.hss = cx::Endpoint::new(
            diameter("hss1.hims.net", &[]),
            Random::from_seed([9; 32]),
            &Limits::default(),
        );
        self.asked.clear();
        self.is_hss_away = false;
        let records = self
            .store
            .iter()
            .map(|((kind, key), value)| StoredRecord {
                kind: kind.clone(),
                key: key.clone(),
                value: value.clone(),
            })
            .collect();
        self.input(Input::Start { records });
        self.connect();
    }

    /// The connection to the only HSS is gone.
    pub fn loses_hss(&mut self) {
        let config = diameter("hss1.hims.net", &[]);
        self.hss = cx::Endpoint::new(config, Random::from_seed([9; 32]), &Limits::default());
        self.is_hss_away = true;
        self.input(Input::Closed { connection: CONNECTION });
        assert!(self.core.ready().is_err());
    }

    pub fn finds_hss(&mut self) {
        self.is_hss_away = false;
        let is_connect = |output: &Output| matches!(output, Output::Connect { .. });
        while !self.outputs.iter().any(is_connect) {
            self.now = self.core.next_timeout().expect("another try to connect").max(self.now);
            self.input(Input::Timeout);
        }
        self.connect();
    }

    fn connect(&mut self) {
        let at = self.outputs.iter().position(|output| matches!(output, Output::Connect { .. }));
        let Output::Connect { peer, .. } = self.outputs.remove(at.expect("a connection")) else {
            unreachable!()
        };
        let local: SocketAddr = "192.0.2.31:40000".parse().unwrap();
        let remote: SocketAddr = "192.0.2.40:3868".parse().unwrap();
        let opened =
            Input::Opened { connection: CONNECTION, peer: None, local: remote, remote: local };
        let mut out = Vec::new();
        self.hss.input(self.now, opened, &mut out);
        self.input(Input::Opened { connection: CONNECTION, peer: Some(peer), local, remote });
        assert_eq!(self.core.ready(), Ok(()));
    }

    pub fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.core.handle(self.now, input, &mut out);
        for output in out {
            match output {
                Output::Sip { flow, bytes } => {
                    match Message::parse(bytes, &Limits::default()).expect("SIP") {
                        Message::Response(response) => {
                            self.trace.push("answer");
                            self.sent.push_back(response);
                        }
                        Message::Request(request) => {
                            self.trace.push("request");
                            self.requests.push_back((flow.remote, request));
                        }
                    }
                }
                Output::Resolve { id, question } => {
                    let addresses = self.hosts.get(&question.name);
                    let addresses = addresses.filter(|_| question.record_type == RecordType::A);
                    let answer = match addresses {
                        Some(addresses) => dns::Answer::Found {
                            records: addresses.iter().copied().map(RecordData::Address).collect(),
                            ttl: Duration::from_secs(300),
                        },
                        None => dns::Answer::Nothing { ttl: Duration::from_secs(300) },
                    };
                    self.input(Input::Resolved { id, answer });
                }
                Output::Diameter { connection, bytes } => self.to_hss(connection, bytes),
                Output::Connect { peer, .. } if self.is_hss_away => {
                    self.input(Input::ConnectFailed { peer });
                }
                Output::Persist { record } => {
                    self.trace.push("record");
                    let key = (record.kind.to_owned(), record.key);
                    match record.value {
                        Some(value) => self.store.insert(key, value),
                        None => self.store.remove(&key),
                    };
                }
                other => self.outputs.push(other),
            }
        }
    }

    fn to_hss(&mut self, connection: ConnectionId, bytes: Bytes) {
        let mut out = Vec::new();
        self.hss.input(self.now, Input::Diameter { connection, bytes }, &mut out);
        while let Some(event) = self.hss.next_event() {
            match event {
                Event::Request(received) if !self.is_hss_deaf => self.asked.push_back(received),
                Event::Request(_) => {}
                Event::Answer { result, .. } => self.told.push_back(result.unwrap().answer),
            }
        }
        self.from_hss(out);
    }

    fn from_hss(&mut self, out: Vec<Output>) {
        for output in out {
            let Output::Diameter { connection, bytes } = output else { panic!("{output:?}") };
            self.input(Input::Diameter { connection, bytes });
        }
    }

    /// The HSS asks.
    pub fn hss_asks(&mut self, request: cx::Request) {
        let mut out = Vec::new();
        let limit = Duration::from_secs(5);
        self.hss.ask(self.now, request, Some("scscf1.hims.net"), (), limit, &mut out);
        self.from_hss(out);
    }

    /// Time passes; timers fire at their times.
    pub fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(at) = self.core.next_timeout().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.input(Input::Timeout);
        }
        self.now = until;
    }

    /// A REGISTER, with a branch of its own.
    pub fn receives(&mut self, text: &str) {
        self.branches += 1;
        let text = text.replacen("z9hG4bK0aab2", &format!("z9hG4bK{}", self.branches), 1);
        let flow = Flow {
            transport: Transport::Udp,
            local: SCSCF.parse().unwrap(),
            remote: ICSCF.parse().unwrap(),
        };
        self.input(Input::Sip { flow, bytes: Bytes::from(text.into_bytes()) });
    }

    /// The next request of the core's own, which must have that method and go there.
    pub fn requests(&mut self, method: &str, to: &str) -> Request {
        let (remote, request) = self.requests.pop_front().expect("a request");
        assert_eq!((request.method_text(), remote.ip().to_string().as_str()), (method, to));
        request.check().expect("a request as RFC 3261 wants it");
        request
    }

    pub fn requests_nothing(&self) {
        assert!(self.requests.is_empty(), "{:?}", self.requests);
    }

    /// Whoever got the request answers it.
    pub fn answers_request(&mut self, request: &Request, status: u16) {
        let mut response = request.response(status, "Whatever");
        if !response.headers().get(Name::To).unwrap().contains("tag=") {
            let to = format!("{};tag=other", response.headers().get(Name::To).unwrap());
            response.headers_mut().set(Name::To, &to);
        }
        let flow = Flow {
            transport: Transport::Udp,
            local: SCSCF.parse().unwrap(),
            remote: ICSCF.parse().unwrap(),
        };
        self.input(Input::Sip { flow, bytes: response.to_bytes() });
    }

    pub fn replies(&mut self) -> Response {
        self.sent.pop_front().expect("a response")
    }

    /// The next response, with this status.
    pub fn replies_with(&mut self, status: u16) -> Response {
        let response = self.replies();
        assert_eq!(response.status(), status, "{}", response.reason());
        response
    }

    pub fn asks(&mut self) -> Received {
        self.asked.pop_front().expect("a question to the HSS")
    }

    pub fn asks_nothing(&self) {
        assert!(self.asked.is_empty(), "{:?}", self.asked);
    }

    pub fn answers(&mut self, received: Received, answer: Answer) {
        let mut out = Vec::new();
        self.hss.answer(self.now, received, answer, &mut out);
        self.from_hss(out);
    }

    /// Takes the MAR and gives a vector with the next sequence number.
    pub fn asks_mar(&mut self) -> (Mar, Vector) {
        let received = self.asks();
        let cx::Request::Mar(mar) = received.request.clone() else { panic!("{received:?}") };
        self.sqn = self.sqn.next();
        let vector = card().vector([self.sqn.0 as u8; 16], self.sqn, [0x80, 0]);
        let answer = maa(&mar, Outcome::SUCCESS, vec![item(&vector)]);
        self.answers(received, answer);
        (mar, vector)
    }

    pub fn refuses_mar(&mut self, outcome: Outcome) {
        let received = self.asks();
        let cx::Request::Mar(mar) = received.request.clone() else { panic!("{received:?}") };
        self.answers(received, maa(&mar, outcome, Vec::new()));
    }

    /// Takes the SAR, which must be of that type, and answers it.
    pub fn asks_sar(&mut self, kind: ServerAssignmentType, answer: Saa) -> Sar {
        let received = self.asks();
        let cx::Request::Sar(sar) = received.request.clone() else { panic!("{received:?}") };
        assert_eq!(sar.server_assignment_type, kind);
        assert_eq!(sar.server_name, "sip:scscf1.hims.net");
        self.answers(received, Answer::Saa(answer));
        sar
    }

    /// First REGISTER to 401: gives the challenge.
    pub fn challenged(&mut self, text: &str) -> (DigestParameters, Vector) {
        self.receives(text);
        let (_, vector) = self.asks_mar();
        let response = self.replies_with(401);
        (challenge(&response), vector)
    }

    /// The whole of a first registration.
    pub fn registered(&mut self) -> Response {
        self.registered_as(IMPI, IMPU)
    }

    pub fn registered_as(&mut self, private_identity: &str, public_identity: &str) -> Response {
        let whose = |text: String| whose(&text, private_identity, public_identity);
        let (challenge, vector) = self.challenged(&whose(register(&[])));
        let text = whose(answered(&challenge, &vector, 26, &[]));
        let text = recomputed(&text, private_identity, &challenge, &vector);
        self.receives(&text);
        self.asks_sar(ServerAssignmentType::Registration, saa(&profile(private_identity)));
        self.replies_with(200)
    }

    /// The whole of a first registration of the second device, with that profile; the REGISTERs with more
    /// changes than [`OF_SECOND`].
    pub fn registered_second(&mut self, data: &UserData, more: &[(&str, &str)]) -> Response {
        let changes = [&OF_SECOND, more].concat();
        let (challenge, vector) = self.challenged(&register(&changes));
        let credentials = credentials(SECOND, &challenge, &vector);
        // The private identity is in the credentials alone.
        self.receives(&with_credentials(&credentials, 26, &changes[1..]));
        self.asks_sar(ServerAssignmentType::Registration, saa(data));
        self.replies_with(200)
    }

    pub fn counter(&self, name: &str, label: &str) -> u64 {
        let mut samples = Samples::default();
        self.core.samples(&mut samples);
        let found = samples.0.iter().find(|sample| {
            sample.name == name && (label.is_empty() || sample.labels.iter().any(|l| l.1 == label))
        });
        match found.map(|sample| &sample.value) {
            Some(Value::Counter(count)) => *count,
            Some(Value::Gauge(value)) => *value as u64,
            _ => 0,
        }
    }

    pub fn registers(&self, outcome: &str) -> u64 {
        self.counter("tessera_scscf_registers_total", outcome)
    }

    pub fn registrations(&self) -> u64 {
        self.counter("tessera_scscf_registrations", "")
    }

    pub fn command(&mut self, words: &[&str]) {
        let command = words.iter().map(|word| (*word).to_owned()).collect();
        self.input(Input::Admin { id: 5, command });
    }

    pub fn replied_text(&mut self) -> String {
        let at = self.outputs.iter().position(|output| matches!(output, Output::Reply { .. }));
        match self.outputs.remove(at.expect("a reply to the operator")) {
            Output::Reply { id: 5, text } => text,
            other => panic!("{other:?}"),
        }
    }

    pub fn rests(&self) {
        assert_eq!(self.core.owed(), 0);
        self.asks_nothing();
    }
}

/// The REGISTER of the mission as an I-CSCF forwards it.
pub fn register(changes: &[(&str, &str)]) -> String {
    let text = "REGISTER sip:scscf1.hims.net SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.20:5060;branch=z9hG4bK0aab2\r\n\
        Via: SIP/2.0/UDP pcscf1.vims.net:5060;branch=z9hG4bK0aab1;received=192.0.2.10\r\n\
        Via: SIP/2.0/UDP 10.133.202.46:5060;branch=z9hG4bK0abab;rport=5060;received=10.133.202.46\r\n\
        Max-Forwards: 18\r\n\
        From: <sip:name@hims.net>;tag=abbb\r\n\
        To: <sip:name@hims.net>\r\n\
        Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip;expires=600000\r\n\
        Call-ID: ababab\r\n\
        CSeq: 25 REGISTER\r\n\
        Require: path\r\n\
        Supported: path\r\n\
        Path: <sip:term@pcscf1.vims.net;lr>\r\n\
        P-Visited-Network-ID: \"vims.net\"\r\n\
        P-Charging-Vector: icid-value=\"icid1\";orig-ioi=\"Type 1vims.net\"\r\n\
        Authorization: Digest username=\"name.private@hims.net\",realm=\"hims.net\",uri=\"sip:hims.net\",nonce=\"\",response=\"\",integrity-protected=\"no\"\r\n\
        Content-Length: 0\r\n\r\n";
    changed(text, changes)
}

/// Makes of [`register`] that of the second device, at an address of its own.
pub const OF_SECOND: [(&str, &str); 3] =
    [(IMPI, SECOND), ("46:5064", "47:5064"), ("ababab", "second")];

/// The SUBSCRIBE of a UE as its P-CSCF forwards it; that of a P-CSCF and others by changes.
pub fn subscribe(changes: &[(&str, &str)]) -> String {
    let text = "SUBSCRIBE sip:name@hims.net SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.20:5060;branch=z9hG4bK0aab2\r\n\
        Via: SIP/2.0/UDP 10.133.202.46:5064;branch=z9hG4bKs1\r\n\
        Max-Forwards: 69\r\n\
        Route: <sip:orig@scscf1.hims.net;lr>\r\n\
        Record-Route: <sip:mo@pcscf1.vims.net;lr>\r\n\
        From: <sip:name@hims.net>;tag=ue1\r\n\
        To: <sip:name@hims.net>\r\n\
        Call-ID: watch1\r\n\
        CSeq: 1 SUBSCRIBE\r\n\
        Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip\r\n\
        Event: reg\r\n\
        Expires: 600000\r\n\
        Accept: application/reginfo+xml\r\n\
        P-Asserted-Identity: <sip:name@hims.net>\r\n\
        P-Charging-Vector: icid-value=\"icid2\";orig-ioi=\"Type 1vims.net\"\r\n\
        Content-Length: 0\r\n\r\n";
    changed(text, changes)
}

/// Makes of [`subscribe`] that of the P-CSCF, by the I-CSCF.
pub const OF_PCSCF: [(&str, &str); 6] = [
    ("<sip:orig@scscf1.hims.net;lr>", "<sip:scscf1.hims.net;lr>"),
    ("Record-Route: <sip:mo@pcscf1.vims.net;lr>\r\n", ""),
    ("From: <sip:name@hims.net>;tag=ue1", "From: <sip:pcscf1.vims.net>;tag=p1"),
    ("Contact: <sip:10.133.202.46:5064>;+g.3gpp.smsip", "Contact: <sip:pcscf1.vims.net>"),
    ("watch1", "watch2"),
    ("P-Asserted-Identity: <sip:name@hims.net>", "P-Asserted-Identity: <sip:pcscf1.vims.net>"),
];

pub fn changed(text: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not there to be changed");
        text.replace(from, to)
    })
}

/// The same REGISTER for somebody else.
pub fn whose(text: &str, private_identity: &str, public_identity: &str) -> String {
    changed(text, &[(IMPI, private_identity), (IMPU, public_identity)])
}

/// The parameters of a 401.
pub fn challenge(response: &Response) -> DigestParameters {
    let text = response.headers().get(Name::WwwAuthenticate).expect("a challenge");
    DigestParameters::parse(text).unwrap()
}

/// The credentials that a card gives.
pub fn credentials(
    private_identity: &str,
    challenge: &DigestParameters,
    vector: &Vector,
) -> DigestParameters {
    let mut credentials = DigestParameters::default();
    credentials.set("username", private_identity);
    credentials.set("realm", challenge.get("realm").unwrap());
    credentials.set("uri", "sip:hims.net");
    credentials.set("nonce", challenge.get("nonce").unwrap());
    credentials.set("algorithm", "AKAv1-MD5");
    if challenge.get("qop").is_some() {
        credentials.set("qop", "auth");
        credentials.set("nc", "00000001");
        credentials.set("cnonce", "0a4f113b");
    }
    let response = digest::response(&credentials, vector.xres.expose(), "REGISTER", b"").unwrap();
    credentials.set("response", &response);
    credentials.set("integrity-protected", "yes");
    credentials
}

/// A REGISTER with these credentials.
pub fn with_credentials(
    credentials: &DigestParameters,
    cseq: u32,
    changes: &[(&str, &str)],
) -> String {
    let line = format!("Authorization: {}", credentials.to_credentials());
    let text: String = register(&[("CSeq: 25", &format!("CSeq: {cseq}"))])
        .lines()
        .map(|old| if old.starts_with("Authorization") { &line } else { old })
        .flat_map(|line| [line, "\r\n"])
        .collect();
    changed(&text, changes)
}

/// The second REGISTER, as the challenge wants it.
pub fn answered(
    challenge: &DigestParameters,
    vector: &Vector,
    cseq: u32,
    changes: &[(&str, &str)],
) -> String {
    with_credentials(&credentials(IMPI, challenge, vector), cseq, changes)
}

fn recomputed(
    text: &str,
    private_identity: &str,
    challenge: &DigestParameters,
    vector: &Vector,
) -> String {
    let old = credentials(IMPI, challenge, vector);
    let new = credentials(private_identity, challenge, vector);
    text.replace(old.get("response").unwrap(), new.get("response").unwrap())
}

/// TS 35.208 test set 1.
pub fn card() -> Algorithm {
    let key = |text: &str| {
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
        Secret::new(bytes)
    };
    Algorithm::Milenage {
        k: key("465b5ce8b199b49faa5f0a2ee238a6bc"),
        opc: key("cd63cb71954a9f4e48a5994e37a02baf"),
    }
}

pub fn item(vector: &Vector) -> AuthDataItem {
    let mut sip_authenticate = vector.rand.to_vec();
    sip_authenticate.extend(vector.autn);
    AuthDataItem {
        sip_item_number: None,
        scheme: "Digest-AKAv1-MD5".to_owned(),
        sip_authenticate: Bytes::from(sip_authenticate),
        sip_authorization: vector.xres.clone(),
        confidentiality_key: Some(vector.ck.clone()),
        integrity_key: Some(vector.ik.clone()),
        ..AuthDataItem::default()
    }
}

pub fn maa(mar: &Mar, outcome: Outcome, items: Vec<AuthDataItem>) -> Answer {
    Answer::Maa(Maa {
        outcome,
        user_name: Some(mar.user_name.clone()),
        public_identity: Some(mar.public_identity.clone()),
        items,
    })
}

/// An implicit set: each identity, and whether it is barred.
pub fn set(private_identity: &str, identities: &[(&str, bool)]) -> UserData {
    let public_identities = identities
        .iter()
        .map(|(identity, is_barred)| PublicIdentity {
            identity: (*identity).to_owned(),
            is_barred: *is_barred,
            ..PublicIdentity::default()
        })
        .collect();
    UserData {
        private_identity: private_identity.to_owned(),
        service_profiles: vec![ServiceProfile { public_identities, ..ServiceProfile::default() }],
    }
}

/// A set with a barred temporary identity in front, the one that registers, and a number.
pub fn profile(private_identity: &str) -> UserData {
    let temporary = format!("sip:temporary.{private_identity}");
    set(private_identity, &[(&temporary, true), (IMPU, false), ("tel:+11234567890", false)])
}

pub fn saa(data: &UserData) -> Saa {
    Saa { user_data: Some(Bytes::from(data.to_xml())), ..empty_saa(Outcome::SUCCESS) }
}

pub fn empty_saa(outcome: Outcome) -> Saa {
    Saa { outcome, ..Saa::default() }
}

pub fn contacts(response: &Response) -> Vec<String> {
    response.headers().values(Name::Contact).map(str::to_owned).collect()
}
