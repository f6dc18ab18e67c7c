//! The servers' own numbers, read beside the run: `/metrics` of each, once a second, on a thread of
//! its own.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use serde::Serialize;

const PATIENCE: Duration = Duration::from_millis(900);
const INTERVAL: Duration = Duration::from_secs(1);
/// What every client library of Prometheus tells of a process.
const CPU: &str = "process_cpu_seconds_total";
const RESIDENT: &str = "process_resident_memory_bytes";
/// Octets of an answer that are read.
const LONGEST: u64 = 8 << 20;

/// A server to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    pub name: String,
    /// `host:port`
    pub authority: String,
    pub path: String,
}

impl Server {
    /// `NAME=URL`.
    ///
    /// # Errors
    /// It is not that, or the URL is none of http.
    pub fn parse(text: &str) -> Result<Server, String> {
        let (name, url) = text.split_once('=').ok_or("is not NAME=URL")?;
        let rest = url.strip_prefix("http://").ok_or("the URL does not begin with http://")?;
        let (authority, path) = rest.find('/').map_or((rest, "/metrics"), |at| rest.split_at(at));
        let has_port = authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        let authority = match has_port {
            true => authority.to_owned(),
            false => format!("{authority}:80"),
        };
        let path = if path == "/" { "/metrics" } else { path };
        Ok(Server { name: name.to_owned(), authority, path: path.to_owned() })
    }

    fn fetch(&self) -> std::io::Result<String> {
        let address = self.authority.to_socket_addrs()?.next();
        let address = address.ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // An answer to HTTP/1.0 comes in one piece.
        let request = format!(
            "GET {} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.path, self.authority
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.take(LONGEST).read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::InvalidData)?;
        match head.split(' ').nth(1) {
            Some("200") => Ok(body.to_owned()),
            _ => Err(std::io::Error::other(head.lines().next().unwrap_or_default().to_owned())),
        }
    }
}

/// One answer of one server.
struct Scrape {
    server: usize,
    at: Instant,
    samples: Result<BTreeMap<String, f64>, String>,
}

/// What is known of a server.
#[derive(Clone, Debug, Default)]
struct Known {
    first: BTreeMap<String, f64>,
    last: BTreeMap<String, f64>,
    /// Of the last two answers.
    cpu_share: Option<f64>,
    cpu: Option<(Instant, f64)>,
    peak_resident: f64,
    answers: u64,
    failures: u64,
    error: Option<String>,
}

/// Of one server, for the report.
#[derive(Clone, Debug, Serialize)]
pub struct ServerReport {
    pub name: String,
    pub url: String,
    pub answers: u64,
    pub failures: u64,
    /// The last failure.
    pub error: Option<String>,
    pub cpu_seconds: Option<f64>,
    pub peak_resident_octets: Option<u64>,
    /// By how much each counter has grown.
    pub counters: BTreeMap<String, f64>,
}

#[derive(Debug)]
pub struct Scraper {
    servers: Vec<Server>,
    known: Vec<Known>,
    answers: Receiver<Scrape>,
    /// Dropping it ends the thread.
    _stop: Sender<()>,
}

impl Scraper {
    /// Begins to read them.
    ///
    /// # Errors
    /// No thread.
    pub fn start(servers: Vec<Server>) -> Result<Scraper, String> {
        let (sender, answers) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let (known, asked) = (vec![Known::default(); servers.len()], servers.clone());
        let read = move || {
            while !asked.is_empty() {
                let began = Instant::now();
                for (server, each) in asked.iter().enumerate() {
                    let samples = each.fetch().map(|text| samples(&text));
                    let samples = samples.map_err(|error| error.to_string());
                    if sender.send(Scrape { server, at: Instant::now(), samples }).is_err() {
                        return;
                    }
                }
                let rest = INTERVAL.saturating_sub(began.elapsed());
                if stopped.recv_timeout(rest) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("scrape".into()).spawn(read);
        thread.map_err(|error| format!("scraping: {error}"))?;
        Ok(Scraper { servers, known, answers, _stop: stop })
    }

    pub fn names(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.name.clone()).collect()
    }

    /// What has come since the last time; gives each server's share of a CPU.
    pub fn collect(&mut self) -> Vec<Option<f64>> {
        while let Ok(Scrape { server, at, samples }) = self.answers.try_recv() {
            let known = &mut self.known[server];
            match samples {
                Ok(samples) => known.take(at, samples),
                Err(error) => {
                    known.failures += 1;
                    known.error = Some(error);
                    known.cpu_share = None;
                }
            }
        }
        self.known.iter().map(|known| known.cpu_share).collect()
    }

    pub fn report(&mut self) -> Vec<ServerReport> {
        self.collect();
        let all = self.servers.iter().zip(&self.known);
        all.map(|(server, known)| {
            let grown = |name: &String, last: f64| {
                let first = known.first.get(name).copied().unwrap_or(0.0);
                let by = last - first;
                (by != 0.0).then(|| (name.clone(), by))
            };
            let is_counter = |name: &str| {
                let bare = name.split('{').next().unwrap_or(name);
                bare.ends_with("_total") && bare != CPU
            };
            let cpu = |of: &BTreeMap<String, f64>| of.get(CPU).copied();
            ServerReport {
                name: server.name.clone(),
                url: format!("http://{}{}", server.authority, server.path),
                answers: known.answers,
                failures: known.failures,
                error: known.error.clone(),
                cpu_seconds: cpu(&known.last)
                    .zip(cpu(&known.first))
                    .map(|(last, first)| last - first),
                peak_resident_octets: (known.peak_resident > 0.0)
                    .then_some(known.peak_resident as u64),
                counters: known
                    .last
                    .iter()
                    .filter(|(name, _)| is_counter(name))
                    .filter_map(|(name, last)| grown(name, *last))
                    .collect(),
            }
        })
        .collect()
    }
}

impl Known {
    fn take(&mut self, at: Instant, samples: BTreeMap<String, f64>) {
        self.answers += 1;
        if let Some(cpu) = samples.get(CPU).copied() {
            if let Some((before, had)) = self.cpu {
                let lasted = at.duration_since(before).as_secs_f64();
                self.cpu_share = (lasted > 0.0).then(|| (cpu - had) / lasted);
            }
            self.cpu = Some((at, cpu));
        }
        let resident = samples.get(RESIDENT).copied().unwrap_or(0.0);
        self.peak_resident = self.peak_resident.max(resident);
        if self.answers == 1 {
            self.first = samples.clone();
        }
        self.last = samples;
    }
}

/// The text of Prometheus: name with labels, value, perhaps a time.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let end = line.rfind('}').map_or_else(|| line.find(' '), |at| Some(at + 1))?;
            let (name, rest) = line.split_at(end);
            let value = rest.split_whitespace().next()?.parse().ok()?;
            Some((name.to_owned(), value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn servers_by_name() {
        let server = Server::parse("hss=http://127.0.0.1:9304").unwrap();
        assert_eq!(
            (server.authority.as_str(), server.path.as_str()),
            ("127.0.0.1:9304", "/metrics")
        );
        let server = Server::parse("k=http://host/prom").unwrap();
        assert_eq!((server.authority.as_str(), server.path.as_str()), ("host:80", "/prom"));
        for wrong in ["http://127.0.0.1", "hss=127.0.0.1", "hss=https://127.0.0.1"] {
            assert!(Server::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_text_of_prometheus() {
        let text = "# HELP a As.\na_total{x=\"y z\"} 3\nb 0.5 1700000000\n\nc{} NaN\nodd\n";
        let samples = samples(text);
        assert_eq!(samples["a_total{x=\"y z\"}"], 3.0);
        assert_eq!(samples["b"], 0.5);
        assert!(samples["c{}"].is_nan());
        assert_eq!(samples.len(), 3);
    }

    /// Counters are told by how much they grew; a server that is not there is told as that.
    #[test]
    fn what_grew() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for count in [5, 9] {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let mut request = [0; 1024];
                let _ = stream.read(&mut request);
                let _ = write!(
                    stream,
                    "HTTP/1.0 200 OK\r\n\r\nprocess_cpu_seconds_total {count}\nx_total {count}\n"
                );
            }
        });
        let at = |port| format!("node=http://127.0.0.1:{port}");
        let mut scraper = Scraper::start(vec![Server::parse(&at(port)).unwrap()]).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        let report = loop {
            let report = scraper.report().remove(0);
            if report.answers >= 2 || Instant::now() > end {
                break report;
            }
            std::thread::yield_now();
        };
        assert_eq!(report.cpu_seconds, Some(4.0));
        assert_eq!(report.counters, BTreeMap::from([("x_total".to_owned(), 4.0)]));
        let mut scraper = Scraper::start(vec![Server::parse(&at(1)).unwrap()]).unwrap();
        let failed = loop {
            let report = scraper.report().remove(0);
            if report.failures > 0 || Instant::now() > end {
                break report;
            }
            std::thread::yield_now();
        };
        assert!(failed.error.is_some() && failed.answers == 0, "{failed:?}");
    }
}
