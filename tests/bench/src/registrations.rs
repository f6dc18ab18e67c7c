//! Full registrations (two REGISTERs, a challenge, an assignment) through all four daemons on loopback,
//! without IPsec; the HSS keeps its database on disk with `synchronous=FULL`.
//!
//! Latency counts from the moment at which a registration was due, so a slow system does not slow
//! the offer down. The generator watches itself: when its own thread was late, the step says so.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::aka::digest::{AkaNonce, response};
use common::aka::vector::{Algorithm, Card, CardAnswer};
use common::secret::Secret;
use common::sip::auth::DigestParameters;
use hdrhistogram::Histogram;

use crate::daemons::{Daemons, HOME, NAMES, OPC, Usage, imsi, key};

/// A registration that takes longer is given up, and a datagram is sent again after [`RESEND`].
const PATIENCE: Duration = Duration::from_secs(10);
const RESEND: Duration = Duration::from_millis(500);

/// What one step came to.
pub struct Step {
    pub offered_per_second: f64,
    pub done: u64,
    pub failed: u64,
    pub took: Duration,
    pub latency: Histogram<u64>,
    /// Longest time by which the generator itself was late.
    pub generator_late: Duration,
    pub before: Usage,
    pub after: Usage,
}

impl Step {
    pub fn per_second(&self) -> f64 {
        self.done as f64 / self.took.as_secs_f64()
    }

    fn cpu_per_thousand(&self, place: usize) -> f64 {
        let used = self.after.cpu_seconds[place] - self.before.cpu_seconds[place];
        used * 1_000.0 / self.done.max(1) as f64
    }

    /// One line of the step, one of the CPU that each daemon used.
    pub fn print(&self, what: &str) {
        let millis = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1_000.0;
        println!(
            "{what}: offered {:.0}/s, done {:.0}/s ({} done, {} failed), p50 {:.1} ms, p99 {:.1} ms, \
             generator late by {:.1} ms at most",
            self.offered_per_second,
            self.per_second(),
            self.done,
            self.failed,
            millis(0.5),
            millis(0.99),
            self.generator_late.as_secs_f64() * 1e3,
        );
        let mut all = 0.0;
        for (place, name) in NAMES.iter().enumerate() {
            let cpu = self.cpu_per_thousand(place);
            all += cpu;
            print!("  {name} {cpu:.3}");
        }
        println!("  all {all:.3} CPU seconds per 1,000 registrations");
    }
}

/// One UE of the generator.
struct Subscriber {
    card: Card,
    began: Instant,
    sent: Instant,
    /// What was sent last, for resending.
    text: String,
    is_answering: bool,
}

/// Prints saturation, then half of it.
pub fn run(subscribers: usize) -> Result<(), String> {
    println!("# Registrations through the four daemons, without IPsec, {subscribers} subscribers");
    let daemons = Daemons::start(subscribers, false)?;
    let mut generator = Generator::new()?;
    let third = subscribers / 3;
    let first = daemons.usage();
    let saturated = generator.step(&daemons, 0..third, None)?;
    saturated.print("as fast as they go, 64 at a time");
    let half = saturated.per_second() / 2.0;
    let step = generator.step(&daemons, third..2 * third, Some(half))?;
    step.print("half of that");
    print_memory(&first, &daemons.usage(), saturated.done + step.done);
    Ok(())
}

/// How much each daemon has grown for each UE that registered. What a transaction keeps to answer
/// repetitions is in it: on Gm that is 128 s (64 × T1).
pub fn print_memory(before: &Usage, after: &Usage, registered: u64) {
    let mut all = 0;
    print!("resident memory per registered UE:");
    for (place, name) in NAMES.iter().enumerate() {
        let grown = after.resident[place].saturating_sub(before.resident[place]);
        let grown = grown / registered.max(1);
        all += grown;
        print!("  {name} {grown}");
    }
    println!("  all {all} octets");
}

struct Generator {
    socket: UdpSocket,
    pcscf: SocketAddr,
    buffer: Vec<u8>,
}

impl Generator {
    fn new() -> Result<Generator, String> {
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20);
        socket
            .set_read_timeout(Some(Duration::from_micros(200)))
            .map_err(|error| error.to_string())?;
        Ok(Generator {
            socket,
            pcscf: "127.0.0.1:19060".parse().expect("an address"),
            buffer: vec![0; 65_536],
        })
    }

    /// Registers each of `range` once: at `rate` per second, or 64 at a time.
    fn step(
        &mut self,
        daemons: &Daemons,
        range: std::ops::Range<usize>,
        rate: Option<f64>,
    ) -> Result<Step, String> {
        let before = daemons.usage();
        let began = Instant::now();
        let mut waiting: HashMap<usize, Subscriber> = HashMap::new();
        let mut latency = Histogram::new_with_max(60_000_000, 3).expect("a histogram");
        let (mut done, mut failed) = (0, 0);
        let mut generator_late = Duration::ZERO;
        let mut next = range.clone();
        let mut swept = began;
        let total = range.len() as u64;
        while done + failed < total {
            loop {
                let started = (range.len() - next.len()) as f64;
                let due = match rate {
                    Some(rate) => began + Duration::from_secs_f64(started / rate),
                    None if waiting.len() < 64 => Instant::now(),
                    None => break,
                };
                let now = Instant::now();
                if due > now {
                    break;
                }
                let Some(number) = next.next() else { break };
                generator_late = generator_late.max(now - due);
                let text = self.register(number, 1, None)?;
                self.send(&text)?;
                let card = Card::new(Algorithm::Milenage {
                    k: Secret::new(key(number)),
                    opc: Secret::new(OPC),
                });
                let subscriber =
                    Subscriber { card, began: due, sent: now, text, is_answering: false };
                waiting.insert(number, subscriber);
            }
            match self.socket.recv(&mut self.buffer) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&self.buffer[..length]).into_owned();
                    let Some(number) = number_of(&text) else { continue };
                    match self.answered(&text, number, waiting.get_mut(&number))? {
                        Some(true) => {
                            let Some(subscriber) = waiting.remove(&number) else { continue };
                            let micros = subscriber.began.elapsed().as_micros() as u64;
                            latency.saturating_record(micros);
                            done += 1;
                        }
                        Some(false) => {
                            waiting.remove(&number);
                            failed += 1;
                        }
                        None => {}
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    return Err("the P-CSCF is gone".into());
                }
                Err(_) => {}
            }
            if swept.elapsed() > Duration::from_millis(100) {
                swept = Instant::now();
                failed += self.sweep(&mut waiting)?;
            }
        }
        let took = began.elapsed();
        let offered = rate.unwrap_or(total as f64 / took.as_secs_f64());
        Ok(Step {
            offered_per_second: offered,
            done,
            failed,
            took,
            latency,
            generator_late,
            before,
            after: daemons.usage(),
        })
    }

    /// Sends again what has no answer; gives up what is too old.
    fn sweep(&self, waiting: &mut HashMap<usize, Subscriber>) -> Result<u64, String> {
        let before = waiting.len();
        waiting.retain(|_, subscriber| subscriber.began.elapsed() < PATIENCE);
        for subscriber in waiting.values_mut() {
            if subscriber.sent.elapsed() > RESEND {
                subscriber.sent = Instant::now();
                self.send(&subscriber.text)?;
            }
        }
        Ok((before - waiting.len()) as u64)
    }

    /// `Some(true)`: registered; `Some(false)`: refused; `None`: goes on.
    fn answered(
        &self,
        text: &str,
        number: usize,
        subscriber: Option<&mut Subscriber>,
    ) -> Result<Option<bool>, String> {
        let Some(subscriber) = subscriber else { return Ok(None) };
        match text.get(8..11) {
            Some("200") => Ok(Some(true)),
            Some("401") if !subscriber.is_answering => {
                let challenge = text
                    .lines()
                    .find_map(|line| line.strip_prefix("WWW-Authenticate: "))
                    .and_then(|value| DigestParameters::parse(value).ok())
                    .ok_or("a 401 without a challenge")?;
                let nonce = challenge.get("nonce").unwrap_or_default().to_owned();
                let decoded = AkaNonce::decode(&nonce).ok_or("a nonce that is none of AKA")?;
                let CardAnswer::Success { res, .. } =
                    subscriber.card.answer(&decoded.rand, &decoded.autn)
                else {
                    return Ok(Some(false));
                };
                subscriber.text = self.register(number, 2, Some((&nonce, res.expose())))?;
                subscriber.is_answering = true;
                subscriber.sent = Instant::now();
                self.send(&subscriber.text)?;
                Ok(None)
            }
            Some("401" | "100") => Ok(None),
            _ => Ok(Some(false)),
        }
    }

    fn send(&self, text: &str) -> Result<(), String> {
        let sent = self.socket.send_to(text.as_bytes(), self.pcscf);
        sent.map(|_| ()).map_err(|error| error.to_string())
    }

    fn register(
        &self,
        number: usize,
        cseq: u32,
        answer: Option<(&str, &Vec<u8>)>,
    ) -> Result<String, String> {
        let local = self.socket.local_addr().map_err(|error| error.to_string())?;
        let user = format!("{}@{HOME}", imsi(number));
        let mut credentials = DigestParameters::default();
        credentials.set("username", &user);
        credentials.set("realm", HOME);
        credentials.set("uri", &format!("sip:{HOME}"));
        credentials.set("nonce", answer.map_or("", |(nonce, _)| nonce));
        if let Some((_, res)) = answer {
            credentials.set("algorithm", "AKAv1-MD5");
            credentials.set("qop", "auth");
            credentials.set("nc", "00000001");
            credentials.set("cnonce", "0a4f113b");
            let digest = response(&credentials, res, "REGISTER", b"").ok_or("no digest")?;
            credentials.set("response", &digest);
        } else {
            credentials.set("response", "");
        }
        Ok(format!(
            "REGISTER sip:{HOME} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {local};branch=z9hG4bK-{number}-{cseq};rport\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:{user}>;tag=t{number}\r\n\
             To: <sip:{user}>\r\n\
             Call-ID: {number}@bench\r\n\
             CSeq: {cseq} REGISTER\r\n\
             Contact: <sip:u{number}@{local}>;expires=600000\r\n\
             Supported: path\r\n\
             Authorization: {}\r\n\
             Content-Length: 0\r\n\r\n",
            credentials.to_credentials()
        ))
    }
}

fn number_of(text: &str) -> Option<usize> {
    let at = text.find("\r\nCall-ID: ")? + 11;
    let rest = &text[at..];
    rest[..rest.find('@')?].parse().ok()
}
