//! Messages of other cores: to ours, and to the phones behind ours.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use common::dns::{Answer, Question, RecordData, RecordType};
use common::ipsec::sa::Keys;
use common::limits::Limits;
use common::node::{Flow, Input, Node, Now, Output, Transport};
use common::secret::Secret;
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::message::{Message, Method, Request, Response};
use common::stats::Samples;
use sim::ims::HOME;

use crate::bench::Bench;
use crate::material::Material;
use crate::words::Words;

const ICSCF: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 90, 0, 20));
const SCSCF: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 90, 0, 31));

/// What a neighbour has heard and has to say.
#[derive(Default)]
struct Desk {
    heard: VecDeque<Message>,
    saying: VecDeque<(Flow, Vec<u8>)>,
    /// Answers to the next REGISTERs.
    answers: VecDeque<Words>,
}

/// A function of another maker: it says what it is told, and answers REGISTERs with what is laid ready.
struct Neighbour(Rc<RefCell<Desk>>);

impl Node for Neighbour {
    fn handle(&mut self, _now: Now, input: Input, out: &mut Vec<Output>) {
        let mut desk = self.0.borrow_mut();
        match input {
            Input::Sip { flow, bytes } => {
                let message = Message::parse(bytes, &Limits::default()).expect("a message");
                if let Message::Request(request) = &message {
                    let answer = match request.method() {
                        Method::Register => desk.answers.pop_front(),
                        _ => Some(accepting(request)),
                    };
                    if let Some(answer) = answer {
                        let bytes = Bytes::from(answer.answering(request).bytes());
                        out.push(Output::Sip { flow, bytes });
                    }
                }
                desk.heard.push_back(message);
            }
            Input::Admin { id, .. } => {
                for (flow, bytes) in desk.saying.drain(..) {
                    out.push(Output::Sip { flow, bytes: bytes.into() });
                }
                out.push(Output::Reply { id, text: String::new() });
            }
            _ => {}
        }
    }

    fn next_timeout(&self) -> Option<Now> {
        None
    }

    fn samples(&self, _samples: &mut Samples) {}

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn owed(&self) -> usize {
        0
    }
}

/// 200 to a SUBSCRIBE.
fn accepting(request: &Request) -> Words {
    let mut words = Words::of_lines(&format!(
        "SIP/2.0 200 OK
        Via: x
        To: x;tag=home
        Contact: <sip:scscf.{HOME}:6060>
        Expires: 600000
        Content-Length: 0"
    ));
    for route in request.headers().values(Name::RecordRoute) {
        words = words.with(&format!("Record-Route: {route}"));
    }
    words
}

impl Bench {
    fn tell(&mut self, desk: &Rc<RefCell<Desk>>, member: &str, flow: Flow, words: &Words) {
        desk.borrow_mut().saying.push_back((flow, words.bytes()));
        let member = self.ims.world.member(member);
        self.ims.world.admin(member, &["say"]);
    }

    fn at_desk(&mut self, desk: &Rc<RefCell<Desk>>) -> Message {
        let until = self.ims.world.now + Duration::from_secs(60);
        self.ims.world.run(until, |_| !desk.borrow().heard.is_empty());
        let heard = desk.borrow_mut().heard.pop_front();
        heard.unwrap_or_else(|| panic!("nothing came:\n{}", self.ims.world.ladder.tail(40)))
    }

    fn response_at(&mut self, desk: &Rc<RefCell<Desk>>) -> Response {
        match self.at_desk(desk) {
            Message::Response(response) => response,
            other => panic!("a response was to come: {other:?}"),
        }
    }
}

/// A P-CSCF that leaves Security-Client, Security-Verify and Proxy-Require in, and says nothing of protection; and
/// behind it an I-CSCF that does the same.
pub fn other_proxies(material: &Material) {
    let other = IpAddr::from([10, 46, 0, 77]);
    // Where the answer of a phone must have come inside associations, and where it need not.
    for (is_lenient, numbers, to) in [
        (false, ["002", "007"], ICSCF),
        (true, ["002", "007"], ICSCF),
        (false, ["003", "008"], SCSCF),
        (true, ["003", "008"], SCSCF),
    ] {
        let mut bench = if is_lenient { Bench::without_ipsec(false) } else { Bench::new(false) };
        let desk = Rc::<RefCell<Desk>>::default();
        let node = Rc::clone(&desk);
        bench.ims.add_stand_in(other, move || Box::new(Neighbour(Rc::clone(&node))));
        let local = SocketAddr::new(other, 5060);
        let flow = Flow { transport: Transport::Udp, local, remote: SocketAddr::new(to, 5060) };
        let fit = |bench: &Bench, number: &str| {
            let words = material.words(number).replace("192.168.101.5", &bench.host());
            let words = words.replace("001011234567893", &bench.user());
            let words = words.replace("10.4.128.21", &other.to_string());
            match to == SCSCF {
                true => words
                    .replace(&format!("sip:scscf.{HOME}:6060"), &format!("sip:scscf1.{HOME}"))
                    .replace(":4060;", ":5060;"),
                false => words,
            }
        };
        bench.tell(&desk, "stand-in", flow, &fit(&bench, numbers[0]));
        let challenge = bench.response_at(&desk);
        assert_eq!(challenge.status(), 401, "{challenge:?}");
        let line = challenge.headers().get(Name::WwwAuthenticate).expect("a challenge");
        assert!(line.contains("ck=\"") && line.contains("ik=\""), "{line}");
        bench.ask_card(line);
        let second = bench.authorized(fit(&bench, numbers[1]));
        bench.tell(&desk, "stand-in", flow, &second);
        let answer = bench.response_at(&desk);
        assert_eq!(answer.status(), if is_lenient { 200 } else { 401 }, "{numbers:?}: {answer:?}");
        if is_lenient {
            let path = format!("<sip:term@pcscf.{HOME};lr>");
            assert_eq!(answer.headers().get(Name::Path), Some(path.as_str()));
            assert!(answer.headers().has(Name::ServiceRoute), "{answer:?}");
        }
    }
}

/// What the P-CSCF makes of a challenge, of a 200 behind it, and of a NOTIFY behind that.
pub fn other_homes(material: &Material) {
    for (challenge, accepted, notify) in [
        ("004", "009", Some("012")),
        ("005", "010", Some("013")),
        ("019", "021", Some("023")),
        ("004", "052", None),
        ("004", "088", None),
        ("004", "095", None),
    ] {
        let home = &mut Home::new();
        home.register(material, challenge, accepted);
        if let Some(notify) = notify {
            home.notify(material, notify);
        }
    }
    // No keys, no associations: what would come of it is no challenge.
    for number in ["050", "087", "089"] {
        let mut home = Home::new();
        let challenge = material.words(number);
        home.desk.borrow_mut().answers.push_back(challenge);
        let first = home.bench.register();
        home.bench.clear(&first);
        home.bench.answered(500, false);
    }
}

/// Our P-CSCF with a home network of another maker.
struct Home {
    bench: Bench,
    desk: Rc<RefCell<Desk>>,
}

impl Home {
    fn new() -> Home {
        let mut bench = Bench::new(false);
        let world = &mut bench.ims.world;
        let name = format!("scscf.{HOME}");
        let records = vec![RecordData::Address(ICSCF)];
        let answer = Answer::Found { records, ttl: Duration::from_secs(300) };
        world.zone.insert(Question { name, record_type: RecordType::A }, answer);
        let icscf = world.member("icscf");
        world.kill(icscf);
        let desk = Rc::<RefCell<Desk>>::default();
        let node = Rc::clone(&desk);
        let node = move |_| Box::new(Neighbour(Rc::clone(&node))) as Box<dyn Node>;
        world.add("home", vec![ICSCF], None, Box::new(node));
        Home { bench, desk }
    }

    fn register(&mut self, material: &Material, challenge: &str, accepted: &str) {
        let Home { bench, desk } = self;
        let challenge = material.words(challenge);
        let said = challenge.get("WWW-Authenticate").expect("a challenge").to_owned();
        let said = DigestParameters::parse(&said).expect("a challenge");
        let key = |name| {
            let octets = hex(said.get(name).expect("a key"));
            Secret::new(<[u8; 16]>::try_from(octets).expect("16 octets"))
        };
        desk.borrow_mut().answers.push_back(challenge);
        let first = bench.register();
        bench.clear(&first);
        let challenge = bench.answered(401, false);
        let servers: Vec<&str> = challenge.headers().lines(Name::SecurityServer).collect();
        assert!(servers.len() == 1 && servers[0].contains("port-s=5064"), "ours: {servers:?}");
        bench.agreed(&challenge, &first, Keys { ck: key("ck"), ik: key("ik") });
        // What the home network does not look at.
        let words = material.words(accepted);
        let contact = words.get("Contact").expect("a Contact").to_owned();
        let at = contact.find(':').expect("a URI") + 1;
        // With the transport, which the phone has not named; whatever else stands there stays.
        let uri = &contact[at..at + contact[at..].find('>').expect("the end of it")];
        let end = at + uri.find(";alias").unwrap_or(uri.len());
        let contact = contact.replace(&contact[at..end], &format!("{}:6300", bench.host()));
        desk.borrow_mut().answers.push_back(words.set("Contact", &contact));
        let second = bench.protected_register();
        bench.protected(&second);
        let answer = bench.answered(200, true);
        assert!(!answer.headers().has(Name::PChargingFunctionAddresses), "{answer:?}");
        let ours = bench.ims.gauge("pcscf", "tessera_pcscf_registrations", &[]);
        assert_eq!(ours, 1.0, "{accepted}");
    }

    fn notify(&mut self, material: &Material, number: &str) {
        let Home { bench, desk } = self;
        let identity = format!("sip:{}@{HOME}", bench.user());
        let (host, pcscf) = (bench.host(), bench.protected_pcscf());
        let subscribe = Words::of_lines(&format!(
            "SUBSCRIBE tel:0398765432100 SIP/2.0
            Via: SIP/2.0/UDP {host}:6300;branch=z9hG4bK-s1
            Max-Forwards: 70
            Route: <sip:{pcscf};lr>
            Route: <sip:orig@scscf.{HOME}:6060;lr>
            From: <{identity}>;tag=ue
            To: <{identity}>
            Call-ID: watch@{host}
            CSeq: 1 SUBSCRIBE
            Contact: <sip:{host}:6300>
            Event: reg
            Expires: 600000
            Content-Length: 0"
        ));
        desk.borrow_mut().heard.clear();
        bench.protected(&subscribe);
        bench.answered(200, true);
        let is_of_ue = |message: &Message| match message {
            Message::Request(request) => request.call_id().starts_with("watch@"),
            Message::Response(_) => false,
        };
        let found = desk.borrow().heard.iter().find(|message| is_of_ue(message)).cloned();
        let Some(Message::Request(subscribed)) = found else { panic!("the SUBSCRIBE at home") };
        desk.borrow_mut().heard.clear();
        let words = material.words(number);
        let uri = words.start().split(' ').nth(1).expect("a URI").to_owned();
        let route = subscribed.headers().get(Name::RecordRoute).expect("a Record-Route");
        let via = format!("SIP/2.0/UDP {ICSCF}:5060;branch=z9hG4bK-n1");
        let words = words.without("Route").without("Via").without("Security-Server");
        let words = words
            .replace(&uri, &format!("sip:{host}:6300"))
            .with(&format!("Via: {via}"))
            .with(&format!("Route: {route}"))
            .set("To", &format!("<{identity}>;tag=ue"))
            .set("From", &format!("<{identity}>;tag=home"))
            .set("Call-ID", subscribed.call_id());
        let local = SocketAddr::new(ICSCF, 5060);
        let remote = SocketAddr::new(IpAddr::from([10, 90, 0, 10]), 5060);
        let flow = Flow { transport: Transport::Udp, local, remote };
        bench.tell(desk, "home", flow, &words);
        let (flow, notify) = bench.request();
        assert_eq!(notify.method(), Method::Notify);
        let Message::Request(said) = words.message() else { panic!("a request") };
        assert_eq!(notify.body(), said.body(), "{number}");
        let topmost = notify.headers().values(Name::Via).next().expect("a Via");
        assert!(topmost.contains(":5064;"), "it is answered inside the associations: {topmost}");
        let ok = Words::of_lines("SIP/2.0 200 OK\nContent-Length: 0").answering(&notify);
        bench.answer_on(flow, &ok);
        let answer = bench.response_at(desk);
        assert_eq!(answer.status(), 200);
        let vias: Vec<&str> = answer.headers().values(Name::Via).collect();
        assert_eq!(vias.len(), 1, "{vias:?}");
    }
}

fn hex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("digits")).collect()
}
