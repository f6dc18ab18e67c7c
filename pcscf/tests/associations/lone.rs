//! A P-CSCF with nothing around it but a test: phones at any address, and a home network that says
//! what the test wants.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use common::dns::Question;
use common::ipsec::sa::{SaSet, SetId};
use common::limits::Limits;
use common::node::{Flow, Input, Node, Now, Output, Transport};
use common::questions::QuestionId;
use common::random::Random;
use common::sip::header::Name;
use common::sip::message::{Message, Request, Response};
use common::stats::{Samples, Value};
use pcscf::Pcscf;
use pcscf::config::Config;

pub const PCSCF: &str = "10.46.0.1";
const ICSCF: &str = "192.0.2.20:5060";
const CHALLENGE: &str = "Digest realm=\"home.example\",nonce=\"bm9uY2U=\",algorithm=AKAv1-MD5,qop=\"auth\",\
                         ck=\"00112233445566778899aabbccddeeff\",ik=\"ffeeddccbbaa99887766554433221100\"";

pub struct Lone {
    pub core: Pcscf,
    pub now: Now,
    /// Outputs not looked at yet.
    out: Vec<Output>,
    /// Call-IDs and branches.
    next: u32,
}

/// A phone: who it is, where, and what it offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phone {
    pub user: String,
    pub address: IpAddr,
    pub transport: Transport,
    pub uc: u16,
    pub us: u16,
    pub spi_uc: u32,
    pub spi_us: u32,
    /// What Security-Client says in front of SPIs and ports, once for each entry.
    pub algorithms: Vec<String>,
    /// It registers for emergency calls.
    pub is_emergency: bool,
}

impl Phone {
    pub fn new(user: &str, address: &str) -> Phone {
        Phone {
            user: user.into(),
            address: address.parse().unwrap(),
            transport: Transport::Udp,
            uc: 31_000,
            us: 31_001,
            spi_uc: 7_001,
            spi_us: 7_002,
            algorithms: vec!["alg=hmac-sha-1-96;ealg=aes-cbc".into()],
            is_emergency: false,
        }
    }

    /// What it offers for its next authentication: new SPIs and a new client port.
    pub fn next(&self) -> Phone {
        Phone { uc: self.uc + 2, spi_uc: self.spi_uc + 2, spi_us: self.spi_us + 2, ..self.clone() }
    }

    pub fn security_client(&self) -> String {
        let numbers = format!(
            "spi-c={};spi-s={};port-c={};port-s={}",
            self.spi_uc, self.spi_us, self.uc, self.us
        );
        let entry = |algorithms: &String| format!("ipsec-3gpp;{algorithms};{numbers}");
        self.algorithms.iter().map(entry).collect::<Vec<_>>().join(", ")
    }
}

/// A REGISTER in parts that tests change.
pub struct Register {
    pub digest: &'static str,
    pub expires: u32,
    pub more: String,
}

impl Register {
    /// Without an answer to a challenge.
    pub fn first(phone: &Phone) -> Register {
        let more = format!("Security-Client: {}\r\n", phone.security_client());
        Register { digest: "nonce=\"\", response=\"\"", expires: 600_000, more }
    }

    pub fn answer(phone: &Phone, security_server: &str) -> Register {
        let more = format!(
            "Security-Client: {}\r\nSecurity-Verify: {security_server}\r\n",
            phone.security_client()
        );
        Register { digest: "nonce=\"bm9uY2U=\", response=\"00\"", expires: 600_000, more }
    }

    /// Without an offer.
    pub fn refresh() -> Register {
        Register {
            digest: "nonce=\"bm9uY2U=\", response=\"00\"",
            expires: 600_000,
            more: String::new(),
        }
    }
}

pub fn config() -> Config {
    let text = format!(
        r#"{{ "name": "pcscf1.visited.example", "visited_network": "visited.example",
             "gm": {{ "addresses": ["{PCSCF}"] }},
             "mw": {{ "listen": ["192.0.2.10:5060"], "entry_point": "sip:{ICSCF}" }},
             "reg_event": {{ "subscribe": false }} }}"#
    );
    serde_json::from_str(&text).expect("a configuration")
}

impl Lone {
    pub fn new() -> Lone {
        Lone::with(config())
    }

    pub fn with(config: Config) -> Lone {
        let core = Pcscf::new(config, Random::from_seed([7; 32])).expect("a P-CSCF");
        Lone { core, now: Now::from_millis(1_000_000), out: Vec::new(), next: 1 }
    }

    pub fn feed(&mut self, input: Input) {
        self.core.handle(self.now, input, &mut self.out);
    }

    pub fn pass(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        while let Some(at) = self.core.next_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.feed(Input::Timeout);
        }
        self.now = until;
    }

    /// A text from a phone's port to one of ours.
    pub fn text(&mut self, phone: &Phone, from: u16, to: u16, text: &str) -> Flow {
        let flow = Flow {
            transport: phone.transport,
            local: SocketAddr::new(PCSCF.parse().unwrap(), to),
            remote: SocketAddr::new(phone.address, from),
        };
        self.feed(Input::Sip { flow, bytes: Bytes::copy_from_slice(text.as_bytes()) });
        flow
    }

    pub fn write(&mut self, phone: &Phone, sent_by: u16, register: &Register) -> String {
        let number = self.next;
        self.next += 1;
        let Phone { user, address, .. } = phone;
        let host = SocketAddr::new(*address, sent_by);
        let sos = if phone.is_emergency { ";sos" } else { "" };
        let transport = if phone.transport == Transport::Tcp { "TCP" } else { "UDP" };
        let Register { digest, expires, more } = register;
        format!(
            "REGISTER sip:home.example SIP/2.0\r\n\
             Via: SIP/2.0/{transport} {host};branch=z9hG4bK{number};rport\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:{user}@home.example>;tag=a\r\n\
             To: <sip:{user}@home.example>\r\n\
             Contact: <sip:{host}{sos}>;expires={expires}\r\n\
             Call-ID: call{number}\r\n\
             CSeq: {number} REGISTER\r\n\
             Supported: path, gruu\r\n\
             Require: sec-agree\r\n\
             Proxy-Require: sec-agree\r\n\
             {more}\
             Authorization: Digest username=\"{user}@home.example\", realm=\"home.example\", \
             uri=\"sip:home.example\", {digest}\r\n\
             Content-Length: 0\r\n\r\n"
        )
    }

    /// In clear, from its unprotected port.
    pub fn in_clear(&mut self, phone: &Phone, register: &Register) {
        let text = self.write(phone, 5060, register);
        self.text(phone, 5060, 5060, &text);
    }

    /// Inside a set.
    pub fn inside(&mut self, phone: &Phone, set: &SaSet, register: &Register) -> Flow {
        let text = self.write(phone, set.ports.us, register);
        self.text(phone, set.ports.uc, set.ports.ps, &text)
    }

    /// Every message since the last look, with where it went.
    pub fn take_sip(&mut self) -> Vec<(Flow, Message)> {
        let mut sent: Vec<(Flow, Message)> = Vec::new();
        self.out.retain(|output| match output {
            Output::Sip { flow, bytes } => {
                let message = Message::parse(bytes.clone(), &Limits::default());
                sent.push((*flow, message.expect("what we send can be read")));
                false
            }
            _ => true,
        });
        sent
    }

    /// The one request that was forwarded to the home network.
    pub fn forwarded(&mut self) -> Request {
        let mut sent = self.take_sip();
        assert_eq!(sent.len(), 1, "one request was to be forwarded: {sent:?}");
        let (flow, message) = sent.remove(0);
        assert_eq!(flow.remote, ICSCF.parse().unwrap());
        let Message::Request(request) = message else { panic!("a request: {message:?}") };
        request
    }

    /// The one response that was sent to a phone.
    pub fn answered(&mut self) -> (Flow, Response) {
        let mut sent = self.take_sip();
        assert_eq!(sent.len(), 1, "one response was to be sent: {sent:?}");
        let (flow, message) = sent.remove(0);
        let Message::Response(response) = message else { panic!("a response: {message:?}") };
        (flow, response)
    }

    pub fn status(&mut self) -> u16 {
        self.answered().1.status()
    }

    /// Of all responses since the last look.
    pub fn statuses(&mut self) -> Vec<u16> {
        let sent = self.take_sip();
        let status = |(_, message): (Flow, Message)| match message {
            Message::Response(response) => response.status(),
            Message::Request(request) => panic!("a response, not {request:?}"),
        };
        sent.into_iter().map(status).collect()
    }

    /// All outputs not looked at yet.
    pub fn outputs(&self) -> &[Output] {
        &self.out
    }

    /// The next question to the DNS.
    pub fn asked(&mut self) -> Option<(QuestionId, Question)> {
        let is_it = |output: &Output| matches!(output, Output::Resolve { .. });
        let at = self.out.iter().position(is_it)?;
        match self.out.remove(at) {
            Output::Resolve { id, question } => Some((id, question)),
            _ => unreachable!(),
        }
    }

    pub fn is_silent(&self) -> bool {
        !self.out.iter().any(|output| matches!(output, Output::Sip { .. }))
    }

    pub fn home_says(&mut self, response: &Response) {
        let flow = Flow {
            transport: Transport::Udp,
            local: "192.0.2.10:5060".parse().unwrap(),
            remote: ICSCF.parse().unwrap(),
        };
        self.feed(Input::Sip { flow, bytes: response.to_bytes() });
    }

    /// The home network challenges what it has got; the question to the kernel and the set, if any.
    pub fn home_challenges(&mut self) -> Option<(QuestionId, SaSet)> {
        let request = self.forwarded();
        self.home_challenges_this(&request)
    }

    fn home_challenges_this(&mut self, request: &Request) -> Option<(QuestionId, SaSet)> {
        let mut response = request.response(401, "Unauthorized");
        response.headers_mut().append(Name::WwwAuthenticate, CHALLENGE);
        self.home_says(&response);
        self.installing()
    }

    pub fn home_refuses(&mut self, status: u16) {
        let request = self.forwarded();
        self.home_says(&request.response(status, "No"));
    }

    /// The contact of the REGISTER is bound for so many seconds, and no other.
    pub fn home_accepts(&mut self, seconds: u32) {
        let request = self.forwarded();
        let contact = request.headers().get(Name::Contact).unwrap();
        let uri = contact.split('>').next().unwrap();
        let mut response = request.response(200, "OK");
        let headers = response.headers_mut();
        headers.append(Name::Contact, &format!("{uri}>;expires={seconds}"));
        headers.append(Name::ServiceRoute, "<sip:orig@scscf1.home.example;lr>");
        let to = request.headers().get(Name::To).unwrap();
        headers.append(Name::PAssociatedUri, to.split(';').next().unwrap());
        self.home_says(&response);
    }

    pub fn installing(&mut self) -> Option<(QuestionId, SaSet)> {
        let is_it = |output: &Output| matches!(output, Output::InstallSas { .. });
        let at = self.out.iter().position(is_it)?;
        match self.out.remove(at) {
            Output::InstallSas { id, set } => Some((id, *set)),
            _ => unreachable!(),
        }
    }

    /// The answer to the operator.
    pub fn replied(&mut self) -> String {
        let replies = self.out.iter().filter_map(|output| match output {
            Output::Reply { text, .. } => Some(text.clone()),
            _ => None,
        });
        replies.last().expect("an answer to the operator")
    }

    pub fn removed(&mut self) -> Vec<SetId> {
        let mut removed = Vec::new();
        self.out.retain(|output| match output {
            Output::RemoveSas { set } => {
                removed.push(*set);
                false
            }
            _ => true,
        });
        removed
    }

    /// From the challenge of the home network to the 401 of the phone: its set, Security-Server, flow.
    pub fn challenged(&mut self) -> (SaSet, String, Flow) {
        let request = self.forwarded();
        self.challenge_for(&request)
    }

    /// The same for what the test has looked at.
    pub fn challenge_for(&mut self, request: &Request) -> (SaSet, String, Flow) {
        let (id, set) = self.home_challenges_this(request).expect("a set was to be installed");
        assert!(self.is_silent(), "the 401 must wait for the kernel");
        self.feed(Input::SasInstalled { id, result: Ok(()) });
        let (flow, response) = self.answered();
        assert_eq!(response.status(), 401);
        let list = response.headers().get(Name::SecurityServer).expect("Security-Server");
        (set, list.to_owned(), flow)
    }

    /// R1 in clear and the challenge for it.
    pub fn challenge(&mut self, phone: &Phone) -> (SaSet, String) {
        self.in_clear(phone, &Register::first(phone));
        let (set, list, flow) = self.challenged();
        assert_eq!(flow.local.port(), 5060);
        (set, list)
    }

    /// R2 inside the temporary set, accepted.
    pub fn answer(&mut self, phone: &Phone, set: &SaSet, list: &str) {
        self.inside(phone, set, &Register::answer(phone, list));
        self.home_accepts(3_600);
        assert_eq!(self.status(), 200);
    }

    /// Registered for an hour, by challenge and answer.
    pub fn registered(&mut self, phone: &Phone) -> SaSet {
        let (set, list) = self.challenge(phone);
        self.answer(phone, &set, &list);
        set
    }

    /// Another authentication over a set: the new set, established and not used yet.
    pub fn authenticated_again(&mut self, phone: &Phone, over: &SaSet) -> SaSet {
        self.inside(phone, over, &Register::first(phone));
        let (set, list, _) = self.challenged();
        self.answer(phone, &set, &list);
        set
    }

    /// A refresh over the set is accepted: where the answer went.
    pub fn refreshed(&mut self, phone: &Phone, over: &SaSet) -> Flow {
        self.inside(phone, over, &Register::refresh());
        self.home_accepts(3_600);
        let (flow, response) = self.answered();
        assert_eq!(response.status(), 200);
        flow
    }

    /// Nothing that comes in on the set is heard.
    pub fn is_deaf(&mut self, phone: &Phone, set: &SaSet) -> bool {
        let before = self.count("tessera_pcscf_dropped_without_association_total", "");
        self.inside(phone, set, &Register::refresh());
        let after = self.count("tessera_pcscf_dropped_without_association_total", "");
        self.is_silent() && after > before
    }

    pub fn refused(&self, cause: &str) -> u64 {
        self.count("tessera_pcscf_register_refusals_total", cause)
    }

    /// Sets in that state.
    pub fn sets(&self, state: &str) -> u64 {
        self.count("tessera_pcscf_security_association_sets", state)
    }

    pub fn registrations(&self) -> u64 {
        self.count("tessera_pcscf_registrations", "")
    }

    /// Of the samples with that label's value; all when it is empty.
    pub fn count(&self, name: &str, label: &str) -> u64 {
        let mut samples = Samples::default();
        self.core.samples(&mut samples);
        let has = |labels: &[(&'static str, String)]| {
            label.is_empty() || labels.iter().any(|(_, value)| value == label)
        };
        let of_name = samples.0.iter().filter(|sample| sample.name == name);
        of_name
            .filter(|sample| has(&sample.labels))
            .map(|sample| match sample.value {
                Value::Counter(count) => count,
                Value::Gauge(value) => value as u64,
                Value::Histogram(_) => 0,
            })
            .sum()
    }
}
