//! A small application server: it takes third-party REGISTERs, watches those whom they register, and
//! counts (TS 24.229 §5.7.1.1).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use common::limits::Limits;
use common::node::{Flow, Input, Node, Now, Output, Transport};
use common::random::Random;
use common::reginfo::{self, RegInfo};
use common::sip::address::{Address, delta_seconds};
use common::sip::endpoint::{Endpoint, Event, Incoming, Segment, Target};
use common::sip::header::Name;
use common::sip::message::{Method, Request, Response};
use common::sip::uri::{Host, HostPort};
use common::stats::Samples;

const PATIENCE: Duration = Duration::from_secs(32);

/// InitialFilterCriteria by which every REGISTER goes to the server of that name; and one of
/// [`crate::Phone::NeedsServer`] to a server that cannot be found, without which there is no registration
/// (TS 29.228 §B.2).
pub fn criteria(name: &str) -> String {
    let trigger = |group: u8, condition: &str| {
        format!(
            "<SPT><ConditionNegated>0</ConditionNegated><Group>{group}</Group>{condition}</SPT>"
        )
    };
    let criterion = |priority: u8, triggers: &str, name: &str, handling: u8| {
        format!(
            "<InitialFilterCriteria><Priority>{priority}</Priority><TriggerPoint>\
             <ConditionTypeCNF>1</ConditionTypeCNF>{triggers}</TriggerPoint><ApplicationServer>\
             <ServerName>sip:{name}</ServerName><DefaultHandling>{handling}</DefaultHandling>\
             </ApplicationServer></InitialFilterCriteria>"
        )
    };
    let register = trigger(0, "<Method>REGISTER</Method>");
    let pattern = crate::REQUIRED.replace(['+', '.'], ".");
    let says =
        format!("<SIPHeader><Header>Contact</Header><Content>{pattern}</Content></SIPHeader>");
    let required = register.clone() + &trigger(1, &says);
    criterion(0, &register, name, 0) + &criterion(1, &required, crate::ELSEWHERE, 1)
}

/// The server as a core.
pub struct ApplicationServer {
    name: String,
    address: SocketAddr,
    sip: Endpoint<()>,
    random: Random,
    /// Whom it has heard of as registered, by public identity.
    registered: BTreeMap<String, u64>,
    counts: BTreeMap<&'static str, u64>,
}

impl ApplicationServer {
    /// `name`: host name, by which filter criteria know it; `address`: where it listens.
    pub fn new(name: &str, address: SocketAddr, seed: [u8; 32]) -> ApplicationServer {
        let mut random = Random::from_seed(seed);
        ApplicationServer {
            name: name.to_owned(),
            address,
            sip: Endpoint::new(random.fork(), &Limits::default()),
            random,
            registered: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn on_sip(&mut self, now: Now, event: Event<()>, out: &mut Vec<Output>) {
        match event {
            Event::Request(incoming) => self.on_request(now, incoming, out),
            Event::Ack { .. } => {}
            Event::Provisional(branch, _) => self.sip.keep(branch),
            Event::Reply(_, Ok(response)) if response.is_success() => self.count("subscribed"),
            Event::Reply(..) => self.count("not_subscribed"),
        }
    }

    fn on_request(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        let request = incoming.request();
        let mut subscribe = None;
        let response = match request.method() {
            Method::Register => {
                let (response, whom) = self.registered(request);
                subscribe = whom.map(|whom| (whom, incoming.flow()));
                response
            }
            Method::Notify => match RegInfo::parse(request.body()) {
                Ok(_) => {
                    self.count("notified");
                    request.response(200, "OK")
                }
                Err(malformed) => request.response(400, &malformed.to_string()),
            },
            _ => request.response(405, "Method Not Allowed"),
        };
        self.sip.respond(now, incoming, response, out);
        if let Some((whom, flow)) = subscribe {
            self.subscribe(now, &whom, flow, out);
        }
    }

    /// TS 24.229 §5.7.1.1: the answer, and whom to watch from now on.
    fn registered(&mut self, request: &Request) -> (Response, Option<String>) {
        let headers = request.headers();
        let expires = headers.get(Name::Expires).and_then(|text| delta_seconds(text.trim()));
        let to = headers.get(Name::To).and_then(|to| Address::parse(to).ok());
        let (Some(expires), Some(to)) = (expires, to) else {
            return (request.response(400, "Bad Request"), None);
        };
        let mut response = request.response(200, "OK");
        response.headers_mut().append(Name::Expires, &expires.to_string());
        if expires == 0 {
            self.count("deregistered");
            self.registered.remove(&to.uri_text);
            return (response, None);
        }
        self.count("registered");
        let is_new = self.registered.insert(to.uri_text.clone(), u64::from(expires)).is_none();
        (response, is_new.then_some(to.uri_text))
    }

    /// To the S-CSCF, which is where the REGISTER came from.
    fn subscribe(&mut self, now: Now, whom: &str, flow: Flow, out: &mut Vec<Output>) {
        let own = format!("sip:{}", self.name);
        let mut request = Request::new("SUBSCRIBE", whom);
        let headers = request.headers_mut();
        headers.append(Name::From, &format!("<{own}>;tag={}", self.random.token()));
        headers.append(Name::To, &format!("<{whom}>"));
        headers.append(Name::CallId, &format!("{}@{}", self.random.token(), self.name));
        headers.append(Name::CSeq, "1 SUBSCRIBE");
        headers.append(Name::Contact, &format!("<{own}>"));
        headers.append(Name::Event, reginfo::PACKAGE);
        headers.append(Name::Accept, reginfo::CONTENT_TYPE);
        headers.append(Name::Expires, "600000");
        headers.append(Name::PAssertedIdentity, &format!("<{own}>"));
        let host = Host::Address(self.address.ip());
        let target = Target {
            flow: Flow { transport: Transport::Udp, local: self.address, remote: flow.remote },
            tcp_local_port: 0,
            sent_by: HostPort { host, port: Some(self.address.port()) },
            segment: Segment::Core,
        };
        self.sip.send(now, request, target, (), PATIENCE, out);
    }
}

impl Node for ApplicationServer {
    fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Sip { flow, bytes } => {
                if let Some(event) = self.sip.receive(now, flow, bytes, Segment::Core, out) {
                    self.on_sip(now, event, out);
                }
            }
            Input::Unreachable { flow } | Input::Ended { flow } => {
                while let Some(event) = self.sip.unreachable(now, flow, out) {
                    self.on_sip(now, event, out);
                }
            }
            Input::Timeout => {
                while let Some(event) = self.sip.expire(now, out) {
                    self.on_sip(now, event, out);
                }
            }
            _ => {}
        }
    }

    fn next_timeout(&self) -> Option<Now> {
        self.sip.next_timeout()
    }

    fn samples(&self, samples: &mut Samples) {
        samples.gauge(
            "tessera_as_registered",
            "Public identities that are registered",
            &[],
            self.registered.len() as f64,
        );
        for (what, count) in &self.counts {
            let help = "What has come to the application server";
            samples.counter("tessera_as_events_total", help, &[("what", what)], *count);
        }
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn owed(&self) -> usize {
        self.sip.owed()
    }
}
