//! Tests of the endpoint, one file per subject. This one has what they share.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::sip::header::Name;
use crate::sip::message::Message;
use crate::stats::Value;

mod forwarding;
mod reception;
mod routing;

const LIMIT: Duration = Duration::from_secs(600);

fn at(millis: u64) -> Now {
    Now::from_millis(millis)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn udp(local: &str, remote: &str) -> Flow {
    Flow { transport: Transport::Udp, local: address(local), remote: address(remote) }
}

fn tcp(local: &str, remote: &str) -> Flow {
    Flow { transport: Transport::Tcp, ..udp(local, remote) }
}

const US: &str = "192.0.2.1:5060";
const UPSTREAM: &str = "198.51.100.7:5070";
const DOWNSTREAM: &str = "203.0.113.9:5060";

fn upstream() -> Flow {
    udp(US, UPSTREAM)
}

fn target() -> Target {
    Target {
        flow: udp(US, DOWNSTREAM),
        tcp_local_port: 0,
        sent_by: HostPort::parse("us.example:5060").unwrap(),
        segment: Segment::Core,
    }
}

/// One endpoint, and what it has put out.
struct Bench {
    endpoint: Endpoint<&'static str>,
    out: Vec<Output>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(&Limits::default())
    }

    fn with(limits: &Limits) -> Bench {
        Bench { endpoint: Endpoint::new(Random::from_seed([7; 32]), limits), out: Vec::new() }
    }

    fn receive(&mut self, millis: u64, flow: Flow, text: &str) -> Option<Event<&'static str>> {
        let bytes = Bytes::from(text.to_owned());
        self.endpoint.receive(at(millis), flow, bytes, Segment::Core, &mut self.out)
    }

    /// A request that must come through to the core.
    fn request(&mut self, millis: u64, text: &str) -> Incoming {
        match self.receive(millis, upstream(), text) {
            Some(Event::Request(incoming)) => incoming,
            other => panic!("{other:?}"),
        }
    }

    fn respond(&mut self, millis: u64, incoming: Incoming, status: u16) {
        let response = incoming.request().response(status, "Reason");
        self.endpoint.respond(at(millis), incoming, response, &mut self.out);
    }

    fn forward(&mut self, millis: u64, incoming: Incoming, target: Target) {
        let request = incoming.request().clone();
        self.endpoint.forward(at(millis), incoming, request, target, "wait", LIMIT, &mut self.out);
    }

    fn send(&mut self, millis: u64, method: &str, target: Target, limit: Duration) {
        let Message::Request(request) = parsed(&request_text(method, "1", "")) else { panic!() };
        let mut own = request.clone();
        own.headers_mut().remove(Name::Via);
        self.endpoint.send(at(millis), own, target, "own", limit, &mut self.out);
    }

    /// All events of timers up to `millis`.
    fn until(&mut self, millis: u64) -> Vec<Event<&'static str>> {
        let mut events = Vec::new();
        while let Some(next) = self.endpoint.next_timeout().filter(|next| *next <= at(millis)) {
            while let Some(event) = self.endpoint.expire(next, &mut self.out) {
                events.push(event);
            }
        }
        events
    }

    fn sent(&mut self) -> Vec<(Flow, String)> {
        let sip = |output| match output {
            Output::Sip { flow, bytes } => (flow, String::from_utf8(bytes.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        };
        self.out.drain(..).map(sip).collect()
    }

    /// The one message sent since the last look.
    fn one(&mut self) -> (Flow, String) {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    fn status(&mut self) -> u16 {
        status_of(&self.one().1)
    }

    /// The sum over all samples of that name with these words among the labels.
    fn count(&self, name: &str, words: &[&str]) -> u64 {
        let mut samples = Samples::default();
        self.endpoint.samples(&mut samples);
        let matching = samples.0.iter().filter(|sample| {
            let has = |word: &&str| sample.labels.iter().any(|(_, value)| value == word);
            sample.name == name && words.iter().all(has)
        });
        matching
            .map(|sample| match &sample.value {
                Value::Counter(count) => *count,
                Value::Gauge(count) => *count as u64,
                Value::Histogram(_) => panic!("no histograms here"),
            })
            .sum()
    }
}

fn parsed(text: &str) -> Message {
    Message::parse(Bytes::from(text.to_owned()), &Limits::default()).unwrap()
}

fn request_of(text: &str) -> Request {
    match parsed(text) {
        Message::Request(request) => request,
        Message::Response(_) => panic!("a response: {text}"),
    }
}

fn status_of(text: &str) -> u16 {
    match parsed(text) {
        Message::Response(response) => response.status(),
        Message::Request(_) => panic!("a request: {text}"),
    }
}

/// A whole request with that Via tail (`;branch=...`).
fn request_with_via(method: &str, cseq: &str, via: &str, more: &str) -> String {
    format!(
        "{method} sip:hims.net SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.7:5070{via}\r\n\
         From: <sip:name@hims.net>;tag=abbb\r\nTo: <sip:name@hims.net>\r\nCall-ID: ababab\r\n\
         CSeq: {cseq} {method}\r\nMax-Forwards: 20\r\n{more}Content-Length: 0\r\n\r\n"
    )
}

fn request_text(method: &str, cseq: &str, more: &str) -> String {
    request_with_via(method, cseq, &format!(";branch=z9hG4bK{cseq}"), more)
}

/// What the server at the other end of a sent request answers.
fn answer(sent: &str, status: u16, to_tag: &str) -> String {
    let request = request_of(sent);
    let mut response = request.response(status, "Reason");
    if !to_tag.is_empty() {
        let to = format!("{};tag={to_tag}", request.headers().get(Name::To).unwrap());
        response.headers_mut().set(Name::To, &to);
    }
    String::from_utf8(response.to_bytes().to_vec()).unwrap()
}

fn top_via(text: &str) -> String {
    let via = match parsed(text) {
        Message::Request(request) => request.headers().values(Name::Via).next().map(str::to_owned),
        Message::Response(response) => {
            response.headers().values(Name::Via).next().map(str::to_owned)
        }
    };
    via.unwrap()
}
