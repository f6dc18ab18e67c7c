//! The process `lte`: UDP sockets in the namespaces of their nodes, the TUN on SGi, the radio socket
//! and a clock around one [`Transport`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use common::net::http::{self, Ask};
use common::random::Random;
use common::stats::{Samples, Value};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::admin;
use crate::config::Config;
use crate::gtpu;
use crate::metrics;
use crate::namespace;
use crate::pcapng::{self, LinkType};
use crate::radio::{self, Direction};
use crate::script::Script;
use crate::transport::{Connection, Output, Transport};

/// Datagrams taken from one socket before the others get their turn.
const BATCH: usize = 64;
/// Records that wait for one program.
const BACKLOG_LIMIT: usize = 65_536;
/// With so many waiting, nothing is read from the program until it has read: an answer to what it
/// asks is never lost.
const BACKLOG_PAUSE: usize = BACKLOG_LIMIT / 2;
const UPTIME: &str = "Since the daemon started.";

#[derive(Parser)]
#[command(name = "lte", version, about = "eNodeB, S-GW and P-GW joined by GTP-U")]
struct Arguments {
    /// Settings in TOML. Any key can be overridden by the environment: LTE__SECTION__KEY=value.
    #[arg(long)]
    config: PathBuf,
    /// Check the configuration and the host, and change nothing.
    #[arg(long)]
    check: bool,
    /// Script of radio events, instead of `events` of the configuration.
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// A command for the transport that runs with this configuration, such as
    /// `handover IMSI CELL`; it listens at `http.listen`. `help` lists all of them.
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
    /// Ask the transport that runs with this configuration whether it is ready: status 0, or 1 and
    /// why not.
    #[arg(long, conflicts_with = "check")]
    ready: bool,
}

/// `main` with arguments given; the first is the program's name.
pub fn run_from(arguments: Vec<OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
    let done = Config::load(&arguments.config).and_then(|mut config| {
        config.events = arguments.events.or(config.events);
        match (arguments.check, arguments.ready, arguments.command.is_empty()) {
            (true, ..) => check(&config),
            (_, true, _) => common::net::client::ready(config.http.listen),
            (_, _, true) => run(config).map_err(|error| error.to_string()),
            _ => command(&config, arguments.command),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lte: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A file that `parse` understands; the error names it.
fn read<T>(path: &Path, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
    std::fs::read_to_string(path)
        .map_err(|error| error.to_string())
        .and_then(|text| parse(&text))
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn command(config: &Config, words: Vec<String>) -> Result<(), String> {
    let at = config.http.listen.ok_or("http.listen is needed for commands")?;
    admin::ask(at, words).map(|answer| print!("{answer}"))
}

/// The script of the configuration as far as it can be checked without the transport.
fn script(config: &Config) -> Result<Option<Script>, String> {
    config.events.as_deref().map(|path| read(path, Script::parse)).transpose()
}

/// What the host lacks for this configuration.
fn check(config: &Config) -> Result<(), String> {
    let mut missing = Vec::new();
    let begun = script(config).and_then(|script| {
        let mut transport = Transport::new(config, Random::from_seed([0; 32]));
        script.map_or(Ok(0), |script| transport.start_script(Duration::ZERO, script))
    });
    missing.extend(begun.err().map(|error| format!("events: {error}")));
    for (name, netns, address) in config.addresses() {
        if let Err(error) = open_gtpu(netns, address) {
            missing.push(format!("{name}: {error}"));
        }
    }
    if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
        missing.push(format!("/dev/net/tun: {error} (needed for SGi, with CAP_NET_ADMIN)"));
    }
    if missing.is_empty() { Ok(()) } else { Err(missing.join("\nlte: ")) }
}

/// Runs the transport until SIGTERM or SIGINT.
pub fn run(config: Config) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(config))
}

/// TS 29.281 §4.4.2: UDP port 2152 at the address of a node.
fn open_gtpu(netns: Option<&Path>, address: IpAddr) -> io::Result<std::net::UdpSocket> {
    let at = SocketAddr::new(address, gtpu::PORT);
    namespace::within(netns, || {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // A burst of many UEs must fit; the kernel caps it at net.core.rmem_max.
        let _ = socket.set_recv_buffer_size(4 << 20);
        let _ = socket.set_send_buffer_size(4 << 20);
        socket.bind(&at.into())?;
        Ok(socket.into())
    })
    .map_err(|error| io::Error::new(error.kind(), format!("{at}: {error}")))
}

/// The TUN on SGi, up, with the P-GW's addresses in the pools: that also routes the pools to it.
fn open_sgi(config: &Config) -> io::Result<SyncDevice> {
    let pgw = &config.pgw;
    namespace::within(pgw.netns.as_deref(), || {
        let mut builder = DeviceBuilder::new().name(&pgw.interface).mtu(pgw.mtu);
        if let Some(pool) = &pgw.pool_v4 {
            builder = builder.ipv4(pool.gateway(), pool.length, None::<Ipv4Addr>);
        }
        if let Some(pool) = &pgw.pool_v6 {
            builder = builder.ipv6(pool.gateway(), pool.length);
        }
        let device = builder.build_sync()?;
        device.set_nonblocking(true)?;
        forward(pgw.pool_v4.is_some(), "/proc/sys/net/ipv4/ip_forward");
        forward(pgw.pool_v6.is_some(), "/proc/sys/net/ipv6/conf/all/forwarding");
        Ok(device)
    })
    .map_err(|error| {
        let name = &pgw.interface;
        io::Error::new(
            error.kind(),
            format!("TUN {name}: {error} (needs /dev/net/tun and CAP_NET_ADMIN)"),
        )
    })
}

/// The P-GW is a router; where the setting cannot be changed and is off, that is said.
fn forward(is_wanted: bool, path: &str) {
    if is_wanted && std::fs::write(path, "1").is_err() {
        let is_on = std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "1");
        if !is_on {
            tracing::warn!(path, "forwarding is off: UEs reach the P-GW only; set it to 1");
        }
    }
}

struct Program {
    transport: RefCell<Transport>,
    gtpu: Vec<(IpAddr, UdpSocket)>,
    /// Number in `gtpu` of each address.
    sockets: BTreeMap<IpAddr, usize>,
    sgi: AsyncFd<SyncDevice>,
    connections: RefCell<BTreeMap<Connection, Rc<Peer>>>,
    capture: RefCell<Option<(pcapng::Writer<File>, u32)>>,
    started: Instant,
    /// A deadline may have come nearer.
    rearm: Notify,
    /// Sends that the kernel did not take.
    unsent: RefCell<u64>,
}

/// A program on the radio socket, with the records that its socket did not take yet.
struct Peer {
    socket: AsyncFd<Socket>,
    backlog: RefCell<VecDeque<Vec<u8>>>,
    /// The backlog has begun, or the connection has ended.
    woken: Notify,
    /// The backlog is gone, or the connection has ended.
    drained: Notify,
    is_closed: Cell<bool>,
}

async fn serve(config: Config) -> io::Result<()> {
    let seed = match config.seed {
        Some(seed) => {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&seed.to_be_bytes());
            bytes
        }
        None => seed_of_system()?,
    };
    let mut transport = Transport::new(&config, Random::from_seed(seed));
    if let Some(script) = script(&config).map_err(io::Error::other)? {
        transport.start_script(Duration::ZERO, script).map_err(io::Error::other)?;
    }
    let mut gtpu = Vec::new();
    for (name, netns, address) in config.addresses() {
        let socket = open_gtpu(netns, address)
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
        gtpu.push((address, UdpSocket::from_std(socket)?));
    }
    let sgi = watch(open_sgi(&config)?)?;
    let path = &config.radio.socket;
    let radio = radio::listen(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    radio.set_nonblocking(true)?;
    let program = Rc::new(Program {
        transport: RefCell::new(transport),
        sockets: gtpu.iter().map(|(address, _)| *address).zip(0..).collect(),
        gtpu,
        sgi,
        connections: RefCell::new(BTreeMap::new()),
        capture: RefCell::new(open_capture(&config)?),
        started: Instant::now(),
        rearm: Notify::new(),
        unsent: RefCell::new(0),
    });
    for index in 0..program.gtpu.len() {
        tokio::task::spawn_local(receive_gtpu(program.clone(), index));
    }
    tokio::task::spawn_local(receive_sgi(program.clone()));
    tokio::task::spawn_local(keep_time(program.clone()));
    let accepting = accept(program.clone(), watch(radio)?, config.limits.connections);
    tokio::task::spawn_local(accepting);
    let (ask, asks) = mpsc::channel(64);
    tokio::task::spawn_local(answer(program.clone(), asks));
    let listener = http::listener(&config.http).map_err(io::Error::other)?;
    let _http = listener
        .map(|listener| http::start(listener, ask, Box::new(|_: &mut Samples| {})))
        .transpose()
        .map_err(io::Error::other)?;
    tracing::info!(socket = %path.display(), "LTE transport is ready");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = std::fs::remove_file(path);
    program.report();
    Ok(())
}

fn watch<T: AsRawFd>(file: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the socket or TUN is owned by the answer, which never replaces or closes it before it
    // is dropped itself.
    let watched =
        unsafe { AsyncFd::register_with_interest(file, Interest::READABLE | Interest::WRITABLE) };
    watched.map_err(|error| error.into_parts().1)
}

fn seed_of_system() -> io::Result<[u8; 32]> {
    use rand::TryRngCore;
    let mut seed = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
}

fn open_capture(config: &Config) -> io::Result<Option<(pcapng::Writer<File>, u32)>> {
    let Some(path) = &config.radio.capture else { return Ok(None) };
    let file = File::create(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let mut writer = pcapng::Writer::new(file)?;
    let interface = writer.interface("radio", LinkType::RawIp)?;
    Ok(Some((writer, interface)))
}

/// One node's port 2152.
async fn receive_gtpu(program: Rc<Program>, index: usize) {
    let (local, socket) = &program.gtpu[index];
    let mut buffer = vec![0; 65_536];
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        for _ in 0..BATCH {
            // ICMP errors about what we sent come up here, too; they end nothing.
            let Ok((length, from)) = socket.try_recv_from(&mut buffer) else { break };
            program.turn(|now, transport, out| {
                transport.on_gtpu(now, *local, from, &buffer[..length], out);
            });
        }
        tokio::task::yield_now().await;
    }
}

/// What the network behind the P-GW sends to UEs.
async fn receive_sgi(program: Rc<Program>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(mut ready) = program.sgi.readable().await else { return };
        for _ in 0..BATCH {
            match ready.try_io(|device| device.get_ref().recv(&mut buffer)) {
                Ok(Ok(length)) => {
                    program.turn(|_, transport, out| transport.on_sgi(&buffer[..length], out));
                }
                Ok(Err(_)) | Err(_) => break,
            }
        }
        drop(ready);
        tokio::task::yield_now().await;
    }
}

/// Programs that bring UEs.
async fn accept(program: Rc<Program>, listener: AsyncFd<Socket>, limit: usize) {
    let mut next = 0;
    loop {
        let Ok(mut ready) = listener.readable().await else { return };
        let Ok(accepted) = ready.try_io(|listener| listener.get_ref().accept()) else { continue };
        let Ok((socket, _)) = accepted else { continue };
        if program.connections.borrow().len() >= limit {
            tracing::warn!(limit, "radio: connection refused, limits.connections is reached");
            continue;
        }
        let _ = socket.set_send_buffer_size(4 << 20);
        if socket.set_nonblocking(true).is_err() {
            continue;
        }
        let Ok(socket) = watch(socket) else { continue };
        let peer = Rc::new(Peer {
            socket,
            backlog: RefCell::default(),
            woken: Notify::new(),
            drained: Notify::new(),
            is_closed: Cell::new(false),
        });
        let connection = Connection(next);
        next += 1;
        program.connections.borrow_mut().insert(connection, peer.clone());
        tokio::task::spawn_local(send_backlog(peer.clone()));
        tokio::task::spawn_local(receive_radio(program.clone(), connection, peer));
    }
}

/// One program on the radio socket, until it goes.
async fn receive_radio(program: Rc<Program>, connection: Connection, peer: Rc<Peer>) {
    let mut buffer = vec![0; radio::RECORD_LIMIT];
    'open: while let Ok(mut ready) = peer.socket.readable().await {
        while peer.backlog.borrow().len() >= BACKLOG_PAUSE {
            peer.drained.notified().await;
        }
        for _ in 0..BATCH {
            match ready.try_io(|socket| receive_record(socket.get_ref(), &mut buffer)) {
                Ok(Ok(length @ 1..)) => program.turn(|now, transport, out| {
                    transport.on_radio(now, connection, &buffer[..length], out);
                }),
                Ok(_) => break 'open,
                Err(_) => break,
            }
        }
        drop(ready);
        tokio::task::yield_now().await;
    }
    program.connections.borrow_mut().remove(&connection);
    peer.is_closed.set(true);
    peer.woken.notify_one();
    program.turn(|_, transport, _| transport.on_closed(connection));
}

/// Sends what the program's socket had no room for, as soon as it has.
async fn send_backlog(peer: Rc<Peer>) {
    while !peer.is_closed.get() {
        peer.woken.notified().await;
        while !peer.is_closed.get() && !peer.backlog.borrow().is_empty() {
            let Ok(mut ready) = peer.socket.writable().await else { return peer.give_up() };
            let mut backlog = peer.backlog.borrow_mut();
            while let Some(record) = backlog.front() {
                match ready.try_io(|socket| socket.get_ref().send(record)) {
                    Ok(Ok(_)) => drop(backlog.pop_front()),
                    // The reader notices the end of the connection, too.
                    Ok(Err(_)) => {
                        drop(backlog);
                        return peer.give_up();
                    }
                    Err(_) => break,
                }
            }
        }
        peer.drained.notify_one();
    }
}

impl Peer {
    /// Nobody will read what waits.
    fn give_up(&self) {
        self.backlog.borrow_mut().clear();
        self.drained.notify_one();
    }
}

fn receive_record(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    use std::io::Read;
    (&mut &*socket).read(buffer)
}

/// `/metrics`, `/healthz`, `/readyz` and `/admin`. The transport is ready from the start: it opens everything
/// before it listens.
async fn answer(program: Rc<Program>, mut asks: mpsc::Receiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        // Who asked may have gone, in all three.
        match ask {
            Ask::Samples(reply) => drop(reply.send(program.samples())),
            Ask::Ready(reply) => drop(reply.send(Ok(()))),
            Ask::Admin { command, reply } => {
                let mut text = String::new();
                program.turn(|now, transport, out| {
                    text = admin::answer(transport, now, &command, out);
                });
                drop(reply.send(text));
            }
        }
    }
}

/// Wakes the transport when something is due.
async fn keep_time(program: Rc<Program>) {
    loop {
        let next = program.transport.borrow().next_timeout();
        let at = program.started + next.unwrap_or(Duration::from_secs(3_600));
        tokio::select! {
            () = tokio::time::sleep_until(at.into()) => {
                program.turn(|now, transport, out| transport.on_timeout(now, out));
            }
            () = program.rearm.notified() => {}
        }
    }
}

impl Program {
    /// One input, and at once all that follows from it.
    fn turn(&self, input: impl FnOnce(Duration, &mut Transport, &mut Vec<Output>)) {
        let mut out = Vec::new();
        {
            let mut transport = self.transport.borrow_mut();
            let before = transport.next_timeout();
            input(self.started.elapsed(), &mut transport, &mut out);
            if transport.next_timeout() != before {
                self.rearm.notify_one();
            }
        }
        for output in out {
            let sent = match output {
                Output::Gtpu(datagram) => {
                    self.send_gtpu(datagram.from, datagram.to, &datagram.bytes)
                }
                Output::Sgi(packet) => self.sgi.get_ref().send(&packet).map(|_| ()),
                Output::Radio(connection, record) => self.send_radio(connection, record),
                Output::Captured(direction, packet) => self.captured(direction, &packet),
            };
            if let Err(error) = sent {
                *self.unsent.borrow_mut() += 1;
                tracing::debug!(%error, "not sent");
            }
        }
    }

    fn send_gtpu(&self, from: IpAddr, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let index = self.sockets.get(&from).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (_, socket) = &self.gtpu[*index];
        socket.try_send_to(bytes, to).map(|_| ())
    }

    /// A program that reads too slowly gets its records later, and in the end loses packets as a UE
    /// out of coverage does.
    fn send_radio(&self, connection: Connection, record: Vec<u8>) -> io::Result<()> {
        let connections = self.connections.borrow();
        let Some(peer) = connections.get(&connection) else { return Ok(()) };
        let mut backlog = peer.backlog.borrow_mut();
        if backlog.is_empty() {
            match peer.socket.get_ref().send(&record) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return sent.map(|_| ()),
            }
        }
        if backlog.len() >= BACKLOG_LIMIT {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        backlog.push_back(record);
        peer.woken.notify_one();
        Ok(())
    }

    fn captured(&self, direction: Direction, packet: &[u8]) -> io::Result<()> {
        let mut capture = self.capture.borrow_mut();
        let Some((writer, interface)) = capture.as_mut() else { return Ok(()) };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let direction = match direction {
            Direction::Uplink => pcapng::Direction::Inbound,
            Direction::Downlink => pcapng::Direction::Outbound,
        };
        writer.packet(*interface, time, direction, packet)
    }

    fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        metrics::samples(&self.transport.borrow(), &mut samples);
        for (name, help, value) in [
            (
                "tessera_lte_programs",
                "Programs connected to the radio socket.",
                self.connections.borrow().len() as f64,
            ),
            ("tessera_uptime_seconds", UPTIME, self.started.elapsed().as_secs_f64()),
        ] {
            samples.gauge(name, help, &[], value);
        }
        let help = "Packets and records that the kernel or a slow program did not take.";
        samples.counter("tessera_lte_unsent_total", help, &[], *self.unsent.borrow());
        samples
    }

    /// The last word: everything that is not zero, as `/metrics` would say it.
    fn report(&self) {
        for sample in self.samples().0 {
            let value = match sample.value {
                Value::Counter(count) => count as f64,
                Value::Gauge(value) => value,
                Value::Histogram(_) => continue,
            };
            if value != 0.0 {
                let labels: Vec<_> =
                    sample.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
                tracing::info!("{} {} {value}", sample.name, labels.join(","));
            }
        }
    }
}

/// The P-GW's own address of either version, for those who look at its routes.
pub fn gateways(config: &Config) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    (
        config.pgw.pool_v4.as_ref().map(|pool| pool.gateway()),
        config.pgw.pool_v6.as_ref().map(|pool| pool.gateway()),
    )
}
