//! A core that writes down what it is told and does what `/admin` says, as a process of its own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::dns::{Question, RecordType};
use common::ipsec::audit::KnownSet;
use common::ipsec::sa::{Encryption, Integrity, Keys, Mode, Ports, SaSet, SetId, Side, Spis};
use common::limits::Limits;
use common::net::{
    Daemon, DnsConfig, HttpConfig, LogConfig, PlaneChoice, PlaneConfig, Shell, SipListen, run_from,
};
use common::node::{ConnectionId, Flow, Input, Node, Now, Output, PeerIndex, Record, Transport};
use common::questions::QuestionId;
use common::secret::Secret;
use common::stats::Samples;
use serde::Deserialize;

const ARGUMENTS: &str = "TESSERA_TOY_ARGUMENTS";
pub const PATIENCE: Duration = Duration::from_secs(10);

// ---- the toy ----

/// Writes down every input and does what `/admin` says.
#[derive(Default)]
struct Toy {
    log: Vec<String>,
    rows: BTreeMap<String, String>,
    timer: Option<Now>,
    owed: usize,
    asked: BTreeMap<u64, u64>,
    last: Now,
}

impl Node for Toy {
    fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        assert!(now >= self.last, "time went back");
        self.last = now;
        match input {
            Input::Start { records } => {
                assert!(self.log.is_empty(), "Start comes first");
                for row in records {
                    assert_eq!(row.kind, "toy");
                    self.rows.insert(row.key, row.value);
                }
                self.log.push("start".to_owned());
            }
            Input::Sip { flow, bytes } => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let first = text.lines().next().unwrap_or_default();
                self.log.push(format!("sip {} {first}", show(flow)));
                if first.contains("echo") {
                    out.push(Output::Sip { flow, bytes });
                }
            }
            Input::Ended { flow } => self.log.push(format!("ended {}", show(flow))),
            Input::Unreachable { flow } => self.log.push(format!("unreachable {}", show(flow))),
            Input::Diameter { connection, bytes } => {
                self.log.push(format!("diameter {} {}", connection.0, hex::encode(&bytes)));
                out.push(Output::Diameter { connection, bytes });
            }
            Input::Opened { connection, peer, remote, .. } => {
                let peer = peer.map(|peer| peer.0);
                self.log.push(format!("opened {} {peer:?} {remote}", connection.0));
            }
            Input::ConnectFailed { peer } => self.log.push(format!("failed {}", peer.0)),
            Input::Closed { connection } => self.log.push(format!("closed {}", connection.0)),
            Input::Resolved { id, answer } => {
                let id = self.asked.remove(&id.0).unwrap();
                out.push(Output::Reply { id, text: format!("{answer:?}") });
            }
            Input::SasInstalled { id, result } => {
                let id = self.asked.remove(&id.0).unwrap();
                out.push(Output::Reply { id, text: format!("{result:?}") });
            }
            Input::SasAudited { id, result } => {
                let id = self.asked.remove(&id.0).unwrap();
                out.push(Output::Reply { id, text: format!("{result:?}") });
            }
            Input::SasExpired { set } => self.log.push(format!("expired {}", set.0)),
            Input::Admin { id, command } => self.command(now, id, &command, out),
            Input::Drain => {
                self.log.push("drain".to_owned());
                if self.owed > 0 {
                    self.timer = Some(now + Duration::from_millis(200));
                }
            }
            Input::Timeout => {
                assert!(self.timer.is_some_and(|at| at <= now), "too early");
                self.timer = None;
                self.owed = 0;
                self.log.push("timeout".to_owned());
            }
        }
    }

    fn next_timeout(&self) -> Option<Now> {
        self.timer
    }

    fn samples(&self, samples: &mut Samples) {
        samples.counter("tessera_toy_log_total", "Lines.", &[], self.log.len() as u64);
    }

    fn ready(&self) -> Result<(), String> {
        if self.rows.contains_key("broken") { Err("broken by a row".to_owned()) } else { Ok(()) }
    }

    fn owed(&self) -> usize {
        self.owed
    }
}

impl Toy {
    fn command(&mut self, now: Now, id: u64, command: &[String], out: &mut Vec<Output>) {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut text = "ok".to_owned();
        match words[..] {
            ["log"] => text = self.log.join("\n"),
            ["rows"] => text = format!("{:?}", self.rows),
            ["sip", transport, local, remote, bytes] => {
                let transport = if transport == "udp" { Transport::Udp } else { Transport::Tcp };
                let local = local.parse().unwrap();
                let flow = Flow { transport, local, remote: remote.parse().unwrap() };
                out.push(Output::Sip { flow, bytes: Bytes::copy_from_slice(bytes.as_bytes()) });
            }
            ["connect", host, port] => {
                let port = port.parse().unwrap();
                out.push(Output::Connect { peer: PeerIndex(7), host: host.to_owned(), port });
            }
            ["diameter", connection, bytes] => {
                let connection = ConnectionId(connection.parse().unwrap());
                let bytes = Bytes::from(hex::decode(bytes).unwrap());
                out.push(Output::Diameter { connection, bytes });
            }
            ["close", connection] => {
                out.push(Output::Close { connection: ConnectionId(connection.parse().unwrap()) });
            }
            ["resolve", kind, name] => {
                let record_type = match kind {
                    "naptr" => RecordType::Naptr,
                    "srv" => RecordType::Srv,
                    "a" => RecordType::A,
                    _ => RecordType::Aaaa,
                };
                self.asked.insert(id, id);
                let question = Question { name: name.to_owned(), record_type };
                out.push(Output::Resolve { id: QuestionId(id), question });
                return;
            }
            ["persist", key, value] => {
                self.rows.insert(key.to_owned(), value.to_owned());
                out.push(row(key, Some(value)));
            }
            ["forget", key] => {
                self.rows.remove(key);
                out.push(row(key, None));
            }
            ["install", side, alg, ealg, ue, pcscf, number] => {
                let set = Box::new(set(side, alg, ealg, ue, pcscf, number.parse().unwrap()));
                self.asked.insert(id, id);
                out.push(Output::InstallSas { id: QuestionId(id), set });
                return;
            }
            // Numbers of the sets that are known, between the same two ends.
            ["audit", ue, pcscf, ..] => {
                let known = words[3..].iter().map(|number| {
                    let number = number.parse().unwrap();
                    KnownSet::from(&set("pcscf", "null", "aes-gcm", ue, pcscf, number))
                });
                self.asked.insert(id, id);
                out.push(Output::AuditSas { id: QuestionId(id), known: known.collect() });
                return;
            }
            ["keep", number, seconds] => {
                let seconds: i64 = seconds.parse().unwrap();
                let until = now.as_millis().saturating_add_signed(1_000 * seconds);
                let until = Now::from_millis(until);
                out.push(Output::KeepSas { set: SetId(number.parse().unwrap()), until });
            }
            ["remove", number] => {
                out.push(Output::RemoveSas { set: SetId(number.parse().unwrap()) });
            }
            ["owe"] => self.owed = 1,
            ["timer", milliseconds] => {
                let span = Duration::from_millis(milliseconds.parse().unwrap());
                self.timer = Some(now + span);
            }
            _ => text = format!("unknown: {words:?}"),
        }
        out.push(Output::Reply { id, text });
    }
}

fn row(key: &str, value: Option<&str>) -> Output {
    let value = value.map(str::to_owned);
    Output::Persist { record: Record { kind: "toy", key: key.to_owned(), value } }
}

fn show(flow: Flow) -> String {
    format!("{} {} {}", flow.transport.name(), flow.local, flow.remote)
}

/// The ports are the same in all sets, the SPIs and keys follow from the number.
fn set(side: &str, alg: &str, ealg: &str, ue: &str, pcscf: &str, number: u64) -> SaSet {
    let spi = |offset| 0x1000 + 16 * number as u32 + offset;
    SaSet {
        id: SetId(number),
        side: if side == "ue" { Side::Ue } else { Side::Pcscf },
        mode: Mode::Transport,
        ue: ue.parse::<IpAddr>().unwrap(),
        pcscf: pcscf.parse::<IpAddr>().unwrap(),
        ports: PORTS,
        spis: Spis { uc: spi(1), us: spi(2), pc: spi(3), ps: spi(4) },
        integrity: Integrity::from_name(alg).unwrap(),
        encryption: Encryption::from_name(ealg).unwrap(),
        keys: Keys { ck: Secret::new([number as u8; 16]), ik: Secret::new([0x5A; 16]) },
    }
}

/// Protected ports of every set.
pub const PORTS: Ports = Ports { uc: 6000, us: 6001, pc: 5064, ps: 5063 };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToyConfig {
    #[serde(default)]
    protected: Vec<SocketAddr>,
    #[serde(default)]
    plane: Option<PlaneChoice>,
    #[serde(default)]
    state: Option<PathBuf>,
    #[serde(default)]
    udp: Vec<SocketAddr>,
    #[serde(default)]
    tcp: Vec<SocketAddr>,
    #[serde(default)]
    diameter: Option<SocketAddr>,
    #[serde(default)]
    store: Option<PathBuf>,
    #[serde(default)]
    dns: DnsConfig,
    http: HttpConfig,
    #[serde(default)]
    log: LogConfig,
    #[serde(default)]
    limits: Limits,
}

impl Daemon for Toy {
    const NAME: &'static str = "toy";
    type Config = ToyConfig;

    fn shell(config: &ToyConfig) -> Shell {
        let listen = |transport, is_protected, addresses: &[SocketAddr]| -> Vec<SipListen> {
            let listen = |address| SipListen { transport, address, is_protected };
            addresses.iter().copied().map(listen).collect()
        };
        let mut sip = listen(Transport::Udp, false, &config.udp);
        sip.extend(listen(Transport::Tcp, false, &config.tcp));
        sip.extend(listen(Transport::Udp, true, &config.protected));
        sip.extend(listen(Transport::Tcp, true, &config.protected));
        Shell {
            sip,
            diameter_listen: config.diameter,
            diameter_local: None,
            store: config.store.clone(),
            dns: config.dns.clone(),
            ipsec: config.plane.map(|choice| PlaneConfig {
                choice,
                state: config.state.clone(),
                nat: false,
            }),
            http: config.http.clone(),
            log: config.log.clone(),
            limits: config.limits.clone(),
        }
    }

    fn build(_: ToyConfig, seed: [u8; 32]) -> Result<Toy, String> {
        assert_ne!(seed, [0; 32]);
        Ok(Toy::default())
    }

    fn check(config: &ToyConfig) -> Vec<String> {
        if config.udp.is_empty() { vec!["udp: give an address".to_owned()] } else { Vec::new() }
    }
}

/// Not a test: the daemon's process. Without the variable there is nothing to run.
#[test]
fn daemon_process() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let code = run_from::<Toy>(arguments.split('\n').map(Into::into).collect());
    std::process::exit(if code == ExitCode::SUCCESS { 0 } else { 1 });
}

// ---- its process ----

pub struct Running {
    pub child: Child,
    pub http: SocketAddr,
    pub folder: PathBuf,
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "toy::daemon_process", "--nocapture"])
        .env(ARGUMENTS, format!("toy\n{}", arguments.join("\n")))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

pub fn folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("tessera-net-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A port that is free for UDP and TCP on 127.0.0.1 right now.
pub fn free_address() -> SocketAddr {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

impl Running {
    pub fn start(configuration: &str) -> Running {
        Running::start_in(folder(), configuration)
    }

    pub fn start_in(folder: PathBuf, configuration: &str) -> Running {
        let http = free_address();
        let file = folder.join("toy.toml");
        let command = command(&["--config", file.to_str().unwrap()]);
        let configuration = format!("{configuration}\n[http]\nlisten = '{http}'\n");
        Running::spawn(folder, &configuration, command, http)
    }

    /// Starts the process that `command` describes; its HTTP socket is opened here, wherever it runs.
    pub fn start_with(folder: PathBuf, configuration: &str, mut command: Command) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let http = listener.local_addr().unwrap();
        let inherited = nix::unistd::dup(&listener).unwrap();
        let none = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
        nix::fcntl::fcntl(&inherited, none).unwrap();
        command.env("TESSERA_HTTP_FD", inherited.as_raw_fd().to_string());
        Running::spawn(folder, &format!("{configuration}\n[http]\n"), command, http)
    }

    fn spawn(
        folder: PathBuf,
        configuration: &str,
        mut command: Command,
        http: SocketAddr,
    ) -> Running {
        std::fs::write(folder.join("toy.toml"), configuration).unwrap();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // The log goes where the test's output goes.
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().for_each(|line| println!("{}", line.unwrap())));
        let mut running = Running { child, http, folder };
        let began = Instant::now();
        // One that ends at once may never have answered; its status is for the test to ask.
        while running.get("/healthz").is_none() && running.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "the daemon did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    pub fn request(&self, head: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let length = body.len();
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: toy\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let status = text.split(' ').nth(1)?.parse().ok()?;
        Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
    }

    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        self.request(&format!("GET {path}"), "")
    }

    pub fn admin(&self, words: &[&str]) -> String {
        let body = serde_json::to_string(words).unwrap();
        let (status, text) = self.request("POST /admin", &body).unwrap();
        assert_eq!(status, 200, "{text}");
        text
    }

    /// Waits for a line of the log that begins so.
    pub fn wait_for(&self, line: &str) -> String {
        let began = Instant::now();
        loop {
            let log = self.admin(&["log"]);
            if let Some(found) = log.lines().find(|found| found.starts_with(line)) {
                return found.to_owned();
            }
            assert!(began.elapsed() < PATIENCE, "no {line:?} in\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let process = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(process, signal).unwrap();
    }

    pub fn wait(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(began.elapsed() < PATIENCE, "the daemon did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
