//! A phone that says what the test writes, in front of the whole IMS of the simulator.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use common::aka::digest::{self, AkaNonce};
use common::aka::vector::{Algorithm, CardAnswer};
use common::dns::{Answer, Question, RecordData, RecordType};
use common::ipsec::agree::{self, Offer};
use common::ipsec::sa::{Keys, Mode, Ports, SaSet, SetId, Side, Spis};
use common::limits::Limits;
use common::node::{Flow, Node, Transport};
use common::random::Random;
use common::secret::Secret;
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::message::{Message, Request, Response};
use common::sip::security::mechanisms;
use common::sip::via::Via;
use scenarios::World as _;
use sim::ims::{HOME, Ims, Options};
use sim::kernel::Kernel;
use ue::Isim;

use crate::handset::{Handset, OnBearer};
use crate::words::Words;

/// Where the P-CSCF takes what is protected.
const PROTECTED: u16 = 5064;
/// Longer than any answer may take on Gm (64·T1).
const PATIENCE: Duration = Duration::from_secs(130);

pub struct Bench {
    pub ims: Ims,
    handset: Rc<RefCell<Handset>>,
    pub card: Isim,
    /// tel URI of the same set of identities.
    pub telephone: String,
    pub address: IpAddr,
    pub pcscf: IpAddr,
    sets: u64,
    /// Of the last challenge.
    challenge: DigestParameters,
    res: Vec<u8>,
    security_server: Vec<String>,
    ports: Option<Ports>,
}

impl Bench {
    pub fn new(is_ipv6: bool) -> Bench {
        let mut ims = Ims::new(1, Options { is_ipv6, ..Options::default() });
        let ue = ims.add(scenarios::Phone::Good);
        let line = ims.line(ue).expect("a bearer");
        let telephone = ims.telephone(ue);
        let imsi = line.impi.split('@').next().expect("an IMSI");
        // The card as the simulator makes it; another one would take no challenge.
        let mut k = [0x4B; 16];
        k[8..].copy_from_slice(&(ue as u64 + 1).to_be_bytes());
        let keys = Algorithm::Milenage { k: Secret::new(k), opc: Secret::new([0x0C; 16]) };
        let card = Isim::of_imsi(imsi, "001", "01", keys);
        let handset = Rc::new(RefCell::new(Handset::new(line.address)));
        ims.world.phones[ue] = Box::new(OnBearer(Rc::clone(&handset)));
        ims.world.is_recording = true;
        Bench {
            ims,
            handset,
            card,
            telephone,
            address: line.address,
            pcscf: line.pcscf,
            sets: 0,
            challenge: DigestParameters::default(),
            res: Vec::new(),
            security_server: Vec::new(),
            ports: None,
        }
    }

    /// With a P-CSCF that takes phones without IPsec too, and an S-CSCF that takes their answers in clear.
    pub fn without_ipsec(is_ipv6: bool) -> Bench {
        let mut bench = Bench::new(is_ipv6);
        let world = &mut bench.ims.world;
        let gm = match is_ipv6 {
            true => "fd00:46::9".parse().expect("an address"),
            false => IpAddr::V4(Ipv4Addr::new(10, 46, 0, 9)),
        };
        let mw = IpAddr::V4(Ipv4Addr::new(10, 90, 0, 19));
        let name = format!("lenient.{HOME}");
        let question = Question { name: name.clone(), record_type: RecordType::A };
        let records = vec![RecordData::Address(mw)];
        world.zone.insert(question, Answer::Found { records, ttl: Duration::from_secs(300) });
        let pcscf = format!(
            "name = \"{name}\"\nvisited_network = \"{HOME}\"\n\
             [gm]\naddresses = [\"{gm}\"]\nprotected_server_port = {PROTECTED}\n\
             protected_client_ports = \"5100-5103\"\n[mw]\nlisten = [\"{mw}:5060\"]\n\
             [ipsec]\npolicy = \"preferred\"\n"
        );
        let kernel =
            Kernel::new(gm, 5060, [PROTECTED, 5100, 5101, 5102, 5103], Random::from_seed([5; 32]));
        let node = move |seed| {
            let config = toml::from_str(&pcscf).unwrap_or_else(|error| panic!("{error}\n{pcscf}"));
            let core = pcscf::Pcscf::new(config, Random::from_seed(seed));
            Box::new(core.expect("a P-CSCF")) as Box<dyn Node>
        };
        world.has_model = false;
        world.add("lenient", vec![gm, mw], Some(kernel), Box::new(node));
        let old = world.member("scscf1");
        world.kill(old);
        let own = "10.90.0.31:5060";
        let scscf = format!(
            "home_domain = \"{HOME}\"\n[sip]\nname = \"scscf1.{HOME}\"\n\
             [sip.listen]\nudp = [\"{own}\"]\ntcp = [\"{own}\"]\n\
             [registration]\nexpires_max_seconds = 3600\nprotection = \"optional\"\n\
             [diameter]\nidentity = \"scscf1.{HOME}\"\nrealm = \"{HOME}\"\n\
             peers = [{{ host = \"10.90.0.40\" }}]\n"
        );
        let node = move |seed| {
            let config = toml::from_str(&scscf).unwrap_or_else(|error| panic!("{error}\n{scscf}"));
            Box::new(scscf::Scscf::new(config, seed).expect("an S-CSCF")) as Box<dyn Node>
        };
        world.add("lenient-scscf", vec![IpAddr::from([10, 90, 0, 31])], None, Box::new(node));
        let settled = world.now + Duration::from_secs(5);
        world.run(settled, |_| false);
        bench.pcscf = gm;
        bench
    }

    pub fn user(&self) -> String {
        self.card.impi.split('@').next().expect("an IMSI").to_owned()
    }

    /// As it stands in a URI or a Via.
    pub fn host(&self) -> String {
        match self.address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        }
    }

    /// Where the phone reaches the P-CSCF inside its associations, for a Route.
    pub fn protected_pcscf(&self) -> String {
        SocketAddr::new(self.pcscf, PROTECTED).to_string()
    }

    pub fn security_server(&self) -> String {
        self.security_server.join(", ")
    }

    fn say(&mut self, flow: Flow, words: &Words) {
        self.handset.borrow_mut().say(flow, words.bytes());
        self.ims.world.command_after(0, "say", Duration::ZERO);
    }

    /// A request in clear, from where its Via says.
    pub fn clear(&mut self, words: &Words) {
        let (transport, port) = via(words);
        // A connection in clear has a port of its own.
        let port = if transport == Transport::Tcp { 0 } else { port };
        let local = SocketAddr::new(self.address, port);
        let remote = SocketAddr::new(self.pcscf, 5060);
        self.say(Flow { transport, local, remote }, words);
    }

    /// A request inside the associations of the last challenge.
    pub fn protected(&mut self, words: &Words) {
        let ports = self.ports.expect("associations");
        let (transport, _) = via(words);
        let local = SocketAddr::new(self.address, ports.uc);
        let remote = SocketAddr::new(self.pcscf, ports.ps);
        self.say(Flow { transport, local, remote }, words);
    }

    /// A response to what came on this flow: over UDP it leaves from port_uc (TS 33.203 §7.1).
    pub fn answer_on(&mut self, came: Flow, words: &Words) {
        let mut flow = came;
        if let (Transport::Udp, Some(ports)) = (came.transport, self.ports)
            && came.local.port() == ports.us
        {
            flow.local.set_port(ports.uc);
            flow.remote.set_port(ports.ps);
        }
        self.say(flow, words);
    }

    /// What comes down next.
    pub fn hear(&mut self) -> (Flow, bool, Message) {
        let until = self.ims.world.now + PATIENCE;
        let handset = Rc::clone(&self.handset);
        self.ims.world.run(until, |_| !handset.borrow().got.is_empty());
        let got = self.handset.borrow_mut().got.pop_front();
        let Some((flow, is_protected, bytes)) = got else {
            panic!("nothing came:\n{}", self.ims.world.ladder.tail(40));
        };
        let message = Message::parse(bytes, &Limits::default()).expect("a message");
        (flow, is_protected, message)
    }

    pub fn response(&mut self) -> (bool, Response) {
        match self.hear() {
            (_, is_protected, Message::Response(response)) => (is_protected, response),
            (.., other) => panic!("a response was to come: {other:?}"),
        }
    }

    pub fn request(&mut self) -> (Flow, Request) {
        match self.hear() {
            (flow, _, Message::Request(request)) => (flow, request),
            (.., other) => panic!("a request was to come: {other:?}"),
        }
    }

    /// The answer to a request of this status, over ESP or not.
    #[track_caller]
    pub fn answered(&mut self, status: u16, is_protected: bool) -> Response {
        let (was_protected, response) = self.response();
        let ladder = || self.ims.world.ladder.tail(40);
        assert_eq!(response.status(), status, "{response:?}\n{}", ladder());
        assert_eq!(was_protected, is_protected, "{response:?}\n{}", ladder());
        response
    }

    /// Nobody asks the phone anything, or asks again. What it was answered on a connection that then rested may come
    /// once more: the kernel here gives it up after 32 s.
    #[track_caller]
    pub fn nothing_is_asked(&mut self, seconds: u64) {
        let until = self.ims.world.now + Duration::from_secs(seconds);
        self.ims.world.run(until, |_| false);
        for (_, _, bytes) in self.handset.borrow_mut().got.drain(..) {
            let text = String::from_utf8_lossy(&bytes);
            assert!(text.starts_with("SIP/2.0 "), "{text}\n{}", self.ims.world.ladder.tail(60));
        }
    }

    /// Asks the card, and installs the associations that the two sides have agreed on.
    #[track_caller]
    pub fn challenged(&mut self, response: &Response, first: &Words) {
        let line = response.headers().get(Name::WwwAuthenticate).expect("a challenge");
        let keys = self.ask_card(line);
        self.agreed(response, first, keys);
    }

    /// CK and IK; nonce and RES are kept for what answers the challenge.
    #[track_caller]
    pub fn ask_card(&mut self, challenge: &str) -> Keys {
        self.challenge = DigestParameters::parse(challenge).expect("a challenge");
        let nonce = self.challenge.get("nonce").and_then(AkaNonce::decode).expect("a nonce");
        let CardAnswer::Success { res, ck, ik } = self.card.card.answer(&nonce.rand, &nonce.autn)
        else {
            panic!("the card takes the challenge");
        };
        self.res = res.expose().to_vec();
        Keys { ck, ik }
    }

    /// The associations of a challenge with these keys, if it offers any.
    #[track_caller]
    pub fn agreed(&mut self, response: &Response, first: &Words, keys: Keys) {
        let line = response.headers().get(Name::WwwAuthenticate).expect("a challenge");
        self.challenge = DigestParameters::parse(line).expect("a challenge");
        for key in ["ck", "ik"] {
            assert_eq!(self.challenge.get(key), None, "{line}");
        }
        let lines = response.headers().lines(Name::SecurityServer);
        self.security_server = lines.map(str::to_owned).collect();
        if self.security_server.is_empty() {
            return;
        }
        let Message::Request(first) = first.message() else { panic!("a request") };
        let list = |headers, name| mechanisms(headers, name).expect("mechanisms");
        let client = agree::offers(&list(first.headers(), Name::SecurityClient));
        let mut server = agree::offers(&list(response.headers(), Name::SecurityServer));
        server.sort_by_key(|offer| std::cmp::Reverse(offer.q));
        let is_offered = |offer: &Offer| client.iter().any(|own| own.pair == offer.pair);
        let chosen = server.into_iter().find(is_offered).expect("something in common");
        let own = client.iter().find(|own| own.pair == chosen.pair).expect("it was offered");
        self.install(own, &chosen, keys);
    }

    fn install(&mut self, own: &Offer, chosen: &Offer, keys: Keys) {
        self.sets += 1;
        let ports = Ports { uc: own.port_c, us: own.port_s, pc: chosen.port_c, ps: chosen.port_s };
        self.ports = Some(ports);
        self.handset.borrow_mut().install(&SaSet {
            id: SetId(self.sets),
            side: Side::Ue,
            mode: Mode::Transport,
            ue: self.address,
            pcscf: self.pcscf,
            ports,
            spis: Spis { uc: own.spi_c, us: own.spi_s, pc: chosen.spi_c, ps: chosen.spi_s },
            integrity: chosen.pair.alg,
            encryption: chosen.pair.ealg,
            keys,
        });
    }

    /// Nonce and response into the Authorization that stands there; whatever else it has, it keeps.
    pub fn authorized(&self, words: Words) -> Words {
        let nonce = self.challenge.get("nonce").expect("a challenge");
        let words = words.set_parameter("Authorization", "nonce", nonce);
        let credentials = DigestParameters::parse(words.get("Authorization").expect("it is there"));
        let credentials = credentials.expect("credentials");
        let response = digest::response(&credentials, &self.res, "REGISTER", b"");
        words.set_parameter("Authorization", "response", &response.expect("a response"))
    }

    /// [`Bench::authorized`], and the Security-Server of the challenge as Security-Verify.
    pub fn secured(&self, words: Words) -> Words {
        self.authorized(words).set("Security-Verify", &self.security_server())
    }

    pub fn metric(&self, member: &str, name: &str) -> f64 {
        self.ims.gauge(member, name, &[])
    }
}

fn via(words: &Words) -> (Transport, u16) {
    let text = words.get("Via").expect("a Via");
    let via = Via::parse(text).expect("a Via");
    let transport = if text.contains("/TCP") { Transport::Tcp } else { Transport::Udp };
    (transport, via.sent_by.port.unwrap_or(5060))
}
