//! A scripted P-CSCF on the other end of a phone's bearer: the tests say what it answers.

// Each test program uses its own part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::aka::digest::AkaNonce;
use common::aka::vector::{Algorithm, Sqn, Vector};
use common::ipsec::agree::{self, AlgorithmPair, Offer, Preference};
use common::ipsec::esp::{EspSet, spi_of};
use common::ipsec::sa::{Keys, Mode, Ports, SaSet, SetId, Side, Spis};
use common::limits::Limits;
use common::node::{Flow, Now, Transport};
use common::random::Random;
use common::secret::Secret;
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::keep_alive::KeepAlive;
use common::sip::message::{Message, Request, Response};
use common::sip::security::mechanisms;
use ue::packets::{self, Content, Reassembly};
use ue::tcp::{Happened, Stack};
use ue::{Command, Config, Dropped, Event, Input, Isim, Output, Phone, Trace};

pub const UE: &str = "10.133.202.46";
pub const PCSCF: &str = "192.0.2.10:5060";

/// One message of the phone, and how it came.
#[derive(Clone, Debug)]
pub struct Got {
    pub message: Message,
    /// As the P-CSCF sees it.
    pub flow: Flow,
    /// Which of the P-CSCF's sets it was protected by.
    pub set: Option<usize>,
    pub text: String,
}

pub struct Net {
    pub now: Now,
    pub phone: Phone,
    pub got: VecDeque<Got>,
    pub events: Vec<Event>,
    pub dropped: Vec<Dropped>,
    pub removed: Vec<SetId>,
    /// Messages as the phone's trace shows them: sent, and protected.
    pub ladder: Vec<(bool, bool)>,
    /// IP packets of the phone, as they were on the bearer.
    pub packets: Vec<Bytes>,
    pub sets: Vec<EspSet>,
    pub sqn: Sqn,
    /// The vector of the last challenge.
    pub vector: Option<Vector>,
    pub pcscf: SocketAddr,
    /// What the P-CSCF takes, and says in Security-Server.
    pub preference: Vec<AlgorithmPair>,
    /// Nothing arrives at the phone, nothing leaves it.
    pub is_cut: bool,
    /// STUN requests that have come, and whether they are answered.
    pub keep_alives: usize,
    pub answers_keep_alives: bool,
    stack: Stack,
    reassembly: Reassembly,
    identification: u32,
    hss: Algorithm,
    random: Random,
    requests_of_pcscf: u32,
}

pub fn algorithm() -> Algorithm {
    let key = |text| Secret::new(hex::decode(text).unwrap().try_into().unwrap());
    Algorithm::Milenage {
        k: key("465b5ce8b199b49faa5f0a2ee238a6bc"),
        opc: key("cd63cb71954a9f4e48a5994e37a02baf"),
    }
}

pub fn config() -> Config {
    let isim = Isim {
        impi: "name.private@hims.net".to_string(),
        impus: vec!["sip:name@hims.net".to_string(), "sip:other@hims.net".to_string()],
        home_domain: "hims.net".to_string(),
        card: common::aka::vector::Card::new(algorithm()),
    };
    let mut config = Config::new(isim, UE.parse().unwrap(), PCSCF.parse().unwrap());
    // Only the tests of it want the subscription among the messages of the registration.
    config.subscribes = false;
    config
}

impl Net {
    pub fn new(config: Config) -> Net {
        let pcscf = config.pcscfs[0];
        let preference = config.algorithms.clone();
        let mut random = Random::from_seed([8; 32]);
        let mut stack = Stack::new(pcscf.ip(), 1400, &mut random);
        stack.listen(5060);
        stack.listen(5101);
        Net {
            now: Now::from_millis(1_000_000_000),
            phone: Phone::new(config, Random::from_seed([7; 32])),
            got: VecDeque::new(),
            events: Vec::new(),
            dropped: Vec::new(),
            removed: Vec::new(),
            ladder: Vec::new(),
            packets: Vec::new(),
            sets: Vec::new(),
            sqn: Sqn::of(1, 1),
            vector: None,
            pcscf,
            preference,
            is_cut: false,
            keep_alives: 0,
            answers_keep_alives: true,
            stack,
            reassembly: Reassembly::default(),
            identification: 0,
            hss: algorithm(),
            random,
            requests_of_pcscf: 0,
        }
    }

    pub fn command(&mut self, command: Command) {
        self.input(Input::Command(command));
    }

    /// Lets time pass, with all that falls due in it.
    pub fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.poll_stack();
            self.input(Input::Timeout);
        }
        self.now = end;
        self.input(Input::Timeout);
    }

    fn next_timeout(&self) -> Option<Now> {
        [self.phone.next_timeout(), self.stack.next_timeout()].into_iter().flatten().min()
    }

    /// The only message of the phone that has not been looked at.
    pub fn request(&mut self) -> Got {
        let got = self.got.pop_front().expect("the phone sent nothing");
        assert!(self.got.is_empty(), "the phone sent more: {:?}", self.got);
        got
    }

    pub fn event(&mut self) -> Event {
        assert_eq!(self.events.len(), 1, "{:?}", self.events);
        self.events.remove(0)
    }

    fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.phone.handle(self.now, input, &mut out);
        let mut packets = Vec::new();
        for output in out {
            match output {
                Output::Packet(packet) => packets.push(packet),
                Output::Event(event) => self.events.push(event),
                Output::Trace(Trace::Dropped(why)) => self.dropped.push(why),
                Output::Trace(Trace::SetRemoved { set }) => self.removed.push(set),
                Output::Trace(Trace::Sent { is_protected, .. }) => {
                    self.ladder.push((true, is_protected));
                }
                Output::Trace(Trace::Received { is_protected, .. }) => {
                    self.ladder.push((false, is_protected));
                }
                Output::Trace(_) => {}
            }
        }
        for packet in packets {
            self.packets.push(packet.clone());
            if !self.is_cut {
                self.arrive(packet);
            }
        }
    }

    /// A packet of the phone at the P-CSCF.
    fn arrive(&mut self, packet: Bytes) {
        let Some(packet) = self.reassembly.take(self.now, packet) else { return };
        let mut set = None;
        let mut clear = packet.clone();
        if let Some(spi) = spi_of(&packet) {
            let place = self.sets.iter().rposition(|esp| {
                esp.set().associations().iter().any(|sa| sa.is_inbound && sa.spi == spi)
            });
            let place = place.expect("ESP of an unknown SPI");
            let Ok(opened) = self.sets[place].open(&packet) else { return };
            clear = opened.into();
            set = Some(place);
        }
        match packets::content(&clear).expect("a packet that can be read") {
            Content::Udp { source, destination, payload } => {
                if let Some(keep_alive) = KeepAlive::read(&payload, source) {
                    return self.take_keep_alive(keep_alive, destination, source);
                }
                let flow = Flow { transport: Transport::Udp, local: destination, remote: source };
                self.take(flow, payload, set);
            }
            Content::Tcp { .. } => {
                self.stack.receive(self.now, &clear);
                self.poll_stack();
            }
        }
    }

    fn take_keep_alive(&mut self, what: KeepAlive, own: SocketAddr, source: SocketAddr) {
        self.keep_alives += 1;
        if let (KeepAlive::Answer(answer), true) = (what, self.answers_keep_alives) {
            self.deliver(packets::datagram(own, source, &answer).unwrap());
        }
    }

    fn take(&mut self, flow: Flow, bytes: Bytes, set: Option<usize>) {
        let message = Message::parse(bytes.clone(), &Limits::default()).expect("a SIP message");
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        self.got.push_back(Got { message, flow, set, text });
    }

    fn poll_stack(&mut self) {
        let (mut packets, mut happened) = (Vec::new(), Vec::new());
        self.stack.poll(self.now, &mut packets, &mut happened);
        for what in happened {
            // A phone may end a connection that is idle.
            let Happened::Message { flow, bytes } = what else { continue };
            let set = self.sets.iter().rposition(|esp| {
                let ports = esp.set().ports;
                (flow.remote.port(), flow.local.port()) == (ports.uc, ports.ps)
                    || (flow.remote.port(), flow.local.port()) == (ports.us, ports.pc)
            });
            self.take(flow, bytes, set);
        }
        for packet in packets {
            self.deliver(packet);
        }
    }

    /// A clear packet of the P-CSCF: sealed where it matches a set.
    pub fn deliver(&mut self, packet: Vec<u8>) {
        let sealed = self.sets.iter_mut().rev().find_map(|esp| esp.seal(&packet));
        self.identification += 1;
        let mtu = self.phone.config().mtu;
        for part in packets::fragments(sealed.unwrap_or(packet), mtu, self.identification) {
            if !self.is_cut {
                self.input(Input::Packet(part.into()));
            }
        }
    }

    /// A packet on the bearer just as it is.
    pub fn inject(&mut self, packet: Vec<u8>) {
        self.input(Input::Packet(packet.into()));
    }

    /// Answers as a P-CSCF does: in clear to the Via, inside a set from port_pc to port_us; by TCP
    /// on the connection.
    pub fn answer(&mut self, got: &Got, status: u16, reason: &str, headers: &[(Name, &str)]) {
        let mut response = got.request().response(status, reason);
        let to = response.headers().get(Name::To).unwrap().to_string();
        response.headers_mut().set(Name::To, &format!("{to};tag=registrar"));
        for (name, value) in headers {
            response.headers_mut().append(*name, value);
        }
        self.send_response(got, &response);
    }

    /// An answer with a body.
    pub fn answer_with(
        &mut self,
        got: &Got,
        status: u16,
        headers: &[(Name, &str)],
        content_type: &str,
        body: &str,
    ) {
        let mut response = got.request().response(status, "As Asked");
        for (name, value) in headers {
            response.headers_mut().append(*name, value);
        }
        response.set_body(content_type, body.to_owned().into());
        self.send_response(got, &response);
    }

    pub fn send_response(&mut self, got: &Got, response: &Response) {
        if got.flow.transport == Transport::Tcp {
            assert!(self.stack.send(self.now, got.flow, &response.to_bytes()));
            return self.poll_stack();
        }
        let (from, to) = match got.set {
            Some(place) => {
                let set = self.sets[place].set();
                (SocketAddr::new(set.pcscf, set.ports.pc), SocketAddr::new(set.ue, set.ports.us))
            }
            None => (got.flow.local, got.flow.remote),
        };
        let packet = packets::datagram(from, to, &response.to_bytes()).unwrap();
        self.deliver(packet);
    }

    /// 200 with the Contact that came, and what an S-CSCF adds.
    pub fn accept(&mut self, got: &Got, granted_seconds: u32) {
        let contact = got.request().headers().get(Name::Contact).unwrap();
        let bare = contact.rsplit_once(";expires=").unwrap().0;
        let contact = format!("{bare};expires={granted_seconds}");
        self.answer(
            got,
            200,
            "OK",
            &[
                (Name::Contact, &contact),
                (Name::Path, "<sip:term@pcscf1.vims.net;lr>"),
                (Name::ServiceRoute, "<sip:orig@scscf1.hims.net;lr>"),
                (Name::PAssociatedUri, "<sip:name@hims.net>, <tel:+11234567890>"),
            ],
        );
    }

    /// A fresh challenge, with a set behind it where the phone has offered one.
    pub fn challenge(&mut self, got: &Got) {
        let vector = self.next_vector();
        self.challenge_with(got, &vector);
    }

    pub fn next_vector(&mut self) -> Vector {
        let vector = self.hss.vector(self.random.bytes(), self.sqn, [0, 0]);
        self.sqn = self.sqn.next();
        vector
    }

    /// One whose sequence number the card has seen.
    pub fn old_vector(&mut self) -> Vector {
        self.hss.vector(self.random.bytes(), Sqn::of(1, 1), [0, 0])
    }

    pub fn challenge_with(&mut self, got: &Got, vector: &Vector) {
        let www_authenticate = www_authenticate(vector);
        let mut headers = vec![(Name::WwwAuthenticate, www_authenticate.as_str())];
        let security_server = self.agree(got, vector);
        if let Some(text) = &security_server {
            headers.push((Name::SecurityServer, text));
        }
        self.vector = Some(vector.clone());
        self.answer(got, 401, "Unauthorized", &headers);
    }

    /// A set for what the phone offers, and the Security-Server that goes with it.
    pub fn agree(&mut self, got: &Got, vector: &Vector) -> Option<String> {
        let listed = mechanisms(got.request().headers(), Name::SecurityClient).unwrap();
        let offers = agree::offers(&listed);
        let chosen = agree::choose(&self.preference, Preference::Ours, false, &offers)?;
        let Offer { spi_c, spi_s, port_c, port_s, pair, .. } = chosen;
        let number = self.sets.len() as u32;
        let set = SaSet {
            id: SetId(u64::from(number)),
            side: Side::Pcscf,
            mode: Mode::Transport,
            ue: got.flow.remote.ip(),
            pcscf: self.pcscf.ip(),
            ports: Ports { uc: port_c, us: port_s, pc: 5200 + number as u16, ps: 5101 },
            spis: Spis {
                uc: spi_c,
                us: spi_s,
                pc: 2_000_000_000 + 2 * number,
                ps: 2_000_000_001 + 2 * number,
            },
            integrity: pair.alg,
            encryption: pair.ealg,
            keys: Keys { ck: vector.ck.clone(), ik: vector.ik.clone() },
        };
        let offered = agree::security_server(
            &self.preference,
            false,
            set.spis.pc,
            set.spis.ps,
            set.ports.pc,
            5101,
        );
        self.sets.push(EspSet::new(&set, [number as u8; 32]));
        Some(offered.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    }

    /// A request of the P-CSCF, by its newest set.
    pub fn ask(&mut self, method: &str, place: usize) {
        let set = self.sets[place].set();
        let (ue, pcscf, ports) = (set.ue, set.pcscf, set.ports);
        self.requests_of_pcscf += 1;
        let number = self.requests_of_pcscf;
        let text = format!(
            "{method} sip:{ue}:{} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {pcscf}:{};branch=z9hG4bKpcscf{number}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:pcscf@vims.net>;tag=p\r\nTo: <sip:name@hims.net>\r\n\
             Call-ID: of-pcscf-{number}\r\nCSeq: {number} {method}\r\nContent-Length: 0\r\n\r\n",
            ports.us, ports.ps
        );
        let from = SocketAddr::new(pcscf, ports.pc);
        let to = SocketAddr::new(ue, ports.us);
        let packet = packets::datagram(from, to, text.as_bytes()).unwrap();
        self.deliver(packet);
    }

    /// A request of the P-CSCF as it is given, by that set.
    pub fn ask_with(&mut self, request: &Request, place: usize) {
        let set = self.sets[place].set();
        let from = SocketAddr::new(set.pcscf, set.ports.pc);
        let to = SocketAddr::new(set.ue, set.ports.us);
        let packet = packets::datagram(from, to, &request.to_bytes()).unwrap();
        self.deliver(packet);
    }

    /// The same by TCP: a connection that the P-CSCF opens from port_pc to port_us.
    pub fn ask_by_tcp(&mut self, place: usize) {
        let set = self.sets[place].set();
        let flow = Flow {
            transport: Transport::Tcp,
            local: SocketAddr::new(set.pcscf, set.ports.pc),
            remote: SocketAddr::new(set.ue, set.ports.us),
        };
        let via = SocketAddr::new(set.pcscf, set.ports.ps);
        let text = format!(
            "OPTIONS sip:ue SIP/2.0\r\nVia: SIP/2.0/TCP {via};branch=z9hG4bKtcp\r\n\
             Max-Forwards: 70\r\nFrom: <sip:pcscf@vims.net>;tag=p\r\nTo: <sip:name@hims.net>\r\n\
             Call-ID: by-tcp\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        );
        assert!(self.stack.send(self.now, flow, text.as_bytes()));
        self.poll_stack();
    }

    /// Initial registration from end to end; gives both REGISTERs.
    pub fn register(&mut self, granted_seconds: u32) -> (Got, Got) {
        self.command(Command::Register { identity: 0 });
        let r1 = self.request();
        self.challenge(&r1);
        let r2 = self.request();
        self.accept(&r2, granted_seconds);
        assert!(matches!(self.event(), Event::Registered { .. }));
        (r1, r2)
    }
}

pub fn www_authenticate(vector: &Vector) -> String {
    let nonce = AkaNonce::encode(&vector.rand, &vector.autn);
    format!(
        "Digest realm=\"hims.net\",nonce=\"{nonce}\",algorithm=AKAv1-MD5,qop=\"auth\",opaque=\"b3BhcXVl==b3Bh\""
    )
}

impl Got {
    pub fn request(&self) -> &Request {
        match &self.message {
            Message::Request(request) => request,
            Message::Response(response) => panic!("a response: {response:?}"),
        }
    }

    pub fn response(&self) -> &Response {
        match &self.message {
            Message::Response(response) => response,
            Message::Request(request) => panic!("a request: {request:?}"),
        }
    }

    pub fn header(&self, name: Name) -> &str {
        let headers = match &self.message {
            Message::Request(request) => request.headers(),
            Message::Response(response) => response.headers(),
        };
        headers.get(name).unwrap_or_else(|| panic!("no {}", name.as_str()))
    }

    pub fn has(&self, name: Name) -> bool {
        self.request().headers().has(name)
    }

    pub fn authorization(&self) -> DigestParameters {
        DigestParameters::parse(self.header(Name::Authorization)).unwrap()
    }

    /// Parameters of the first entry of Security-Client.
    pub fn offer(&self) -> BTreeMap<String, String> {
        let listed = mechanisms(self.request().headers(), Name::SecurityClient).unwrap();
        listed[0].parameters.iter().cloned().collect()
    }
}
