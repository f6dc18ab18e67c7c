//! The phones of the lab: cores of `ue` on bearers of the LTE transport, all over one connection to
//! the eNodeB's radio socket.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use common::ipsec::agree::AlgorithmPair;
use common::ipsec::esp::spi_of;
use common::ipsec::sa::{Ports, SaSet, Spis};
use common::node::{Now, Transport};
use common::random::Random;
use common::sip::uri::HostPort;
use lte::attach::{Attached, IpVersion};
use lte::radio::{self, Message, Record};
use scenarios::{Line, Standing};
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use ue::{Cause, Command, Event, Faults, Input, Isim, Output, Phone, Trace, Watched};

use crate::capture_keys;
use crate::subscribers::Subscribers;

/// Records that wait for the radio.
const BACKLOG_LIMIT: usize = 65_536;

/// What all phones have in common.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub version: IpVersion,
    pub transport: Transport,
    pub ipsec: bool,
    /// Registers again in time and after failures, as phones do; a scenario wants to see the failure.
    pub automatic: bool,
    /// Another T1 than 2 s.
    pub gm_t1: Option<Duration>,
    /// Subscribes to the state of its registration.
    pub subscribes: bool,
    /// As [`Model::is_brief`], all of them.
    pub is_brief: bool,
}

/// What one phone has of its own; what is absent is as [`Habits`] and the phone's defaults say.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub faults: Faults,
    pub transport: Option<Transport>,
    /// What it offers.
    pub algorithms: Option<Vec<AlgorithmPair>>,
    /// It says no more than it must, so that its answer to a challenge fits a datagram: beyond 1300
    /// octets a request goes by TCP, whatever the phone prefers (RFC 3261 §18.1.1).
    pub is_brief: bool,
    /// Its address is [`scenarios::PRIVATE_ADDRESS`], behind a NAT of its own that has the bearer.
    pub is_behind_nat: bool,
    pub expires_seconds: Option<u32>,
    /// It registers a flow of this number.
    pub reg_id: Option<u32>,
    /// Its Contact names [`scenarios::ELSEWHERE`].
    pub is_elsewhere: bool,
    /// [`scenarios::REQUIRED`] stands in its Contact.
    pub needs_server: bool,
    /// It registers for emergency calls.
    pub is_emergency: bool,
    pub authentication: Option<ue::Authentication>,
    /// As [`Habits::automatic`], this one.
    pub is_automatic: bool,
    /// Another P-CSCF that it knows.
    pub other_pcscf: Option<SocketAddr>,
    /// Another T1 than 2 s.
    pub gm_t1: Option<Duration>,
    /// Octets of the longest packet that it sends, below those of the bearer.
    pub mtu: Option<usize>,
    /// Another one that its TCP goes by.
    pub tcp_mtu: Option<usize>,
}

/// Something worth a line of the ladder.
#[derive(Clone, Debug)]
pub struct Note {
    /// Since the Unix epoch.
    pub time: Duration,
    pub who: String,
    pub what: String,
}

pub struct Handsets {
    radio: AsyncFd<Socket>,
    habits: Habits,
    handsets: Vec<Handset>,
    /// Records that the socket had no room for.
    backlog: VecDeque<Vec<u8>>,
    random: Random,
    pub notes: Vec<Note>,
    /// Lines of [`capture_keys`], where they are wanted.
    pub capture_keys: Option<Vec<String>>,
}

struct Handset {
    subscriber: usize,
    isim: Isim,
    model: Model,
    bearer: Bearer,
    phone: Option<Phone>,
    /// Given before the bearer was there.
    waiting: Option<Command>,
    standing: Standing,
    completed: u64,
    notified: u64,
    /// The last ESP packet that it has sent.
    sent: Option<Bytes>,
    /// Packets that have come down to it.
    arrived: u64,
}

/// The default bearer of the IMS APN.
enum Bearer {
    Asked,
    Attached(Attached),
    Refused,
}

/// What [`Handsets::next`] waited for.
pub enum Due {
    Radio(Vec<u8>),
    /// The radio takes more of the backlog.
    Room,
    Time,
}

fn now() -> Now {
    Now::since_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

impl Handsets {
    /// Connects to the eNodeB.
    pub fn connect(path: &Path, habits: Habits, random: Random) -> Result<Handsets, String> {
        let connect = || {
            let socket = radio::connect(path)?;
            socket.set_nonblocking(true)?;
            let _ = socket.set_recv_buffer_size(4 << 20);
            // SAFETY: the socket is owned by the answer and closed only with it.
            let watched = unsafe {
                AsyncFd::register_with_interest(socket, Interest::READABLE | Interest::WRITABLE)
            };
            watched.map_err(|error| error.into_parts().1)
        };
        let radio = connect().map_err(|error| format!("{}: {error}", path.display()))?;
        let (handsets, backlog) = (Vec::new(), VecDeque::new());
        let (notes, capture_keys) = (Vec::new(), None);
        Ok(Handsets { radio, habits, handsets, backlog, random, notes, capture_keys })
    }

    /// Switches a phone on: it attaches. The answer is its number.
    pub fn add(&mut self, subscriber: usize, subscribers: &Subscribers, model: Model) -> usize {
        let number = self.handsets.len();
        let imsi = Subscribers::imsi(subscriber);
        let message = Message::Attach { version: self.habits.version, imsi: &imsi };
        self.send(number, message);
        self.handsets.push(Handset {
            subscriber,
            isim: subscribers.isim(subscriber),
            model,
            bearer: Bearer::Asked,
            phone: None,
            waiting: None,
            standing: Standing::Idle,
            completed: 0,
            notified: 0,
            sent: None,
            arrived: 0,
        });
        number
    }

    /// Whose card is in it.
    pub fn subscriber(&self, number: usize) -> usize {
        self.handsets[number].subscriber
    }

    pub fn len(&self) -> usize {
        self.handsets.len()
    }

    /// What the ladder calls it.
    pub fn name(number: usize) -> String {
        format!("ue{}", number + 1)
    }

    /// Its address, once it is attached.
    pub fn address(&self, number: usize) -> Option<IpAddr> {
        match &self.handsets.get(number)?.bearer {
            Bearer::Attached(attached) => Some(attached.address),
            Bearer::Asked | Bearer::Refused => None,
        }
    }

    pub fn standing(&self, number: usize) -> Standing {
        let Some(handset) = self.handsets.get(number) else { return Standing::Idle };
        handset.standing.clone()
    }

    pub fn completed(&self, number: usize) -> u64 {
        self.handsets.get(number).map_or(0, |handset| handset.completed)
    }

    /// Its sets of security associations, newest last.
    pub fn sets(&self, number: usize) -> Vec<SaSet> {
        let phone = self.handsets.get(number).and_then(|handset| handset.phone.as_ref());
        let sets = phone.map(|phone| phone.sets().iter().map(|(_, set)| set.esp.set().clone()));
        sets.map(Iterator::collect).unwrap_or_default()
    }

    pub fn gruus(&self, number: usize) -> Option<(String, String)> {
        self.handsets.get(number)?.phone.as_ref()?.registration(0)?.gruus()
    }

    /// Of its card.
    pub fn private_identity(&self, number: usize) -> String {
        self.handsets.get(number).map_or_else(String::new, |handset| handset.isim.impi.clone())
    }

    /// Documents of registration state that it has got.
    pub fn notified(&self, number: usize) -> u64 {
        self.handsets.get(number).map_or(0, |handset| handset.notified)
    }

    /// Its identity and bearer, once it is attached.
    pub fn line(&self, number: usize) -> Option<Line> {
        let handset = self.handsets.get(number)?;
        let Bearer::Attached(attached) = &handset.bearer else { return None };
        let newest = self.sets(number).pop();
        Some(Line {
            impi: handset.isim.impi.clone(),
            public_identity: handset.isim.impus.first()?.clone(),
            address: attached.address,
            pcscf: attached.pcscf,
            ports: newest.map(|set| (set.ports.uc, set.ports.us, set.spis.uc, set.spis.us)),
            sent: handset.sent.as_ref().map(|packet| packet.to_vec()),
            arrived: handset.arrived,
        })
    }

    /// A packet on its bearer that it did not send itself.
    pub fn inject(&mut self, number: usize, packet: &[u8]) {
        self.send(number, Message::Data(packet));
    }

    /// The battery is taken out. The bearer stays.
    pub fn reboot(&mut self, number: usize) {
        let Some(handset) = self.handsets.get_mut(number) else { return };
        handset.standing = Standing::Idle;
        self.give(number, Input::Command(Command::Reboot));
    }

    /// Its NAT gives it other ports.
    pub fn rebind(&mut self, number: usize) {
        if number < self.handsets.len() {
            self.give(number, Input::Command(Command::Rebind));
        }
    }

    /// FIN on all its connections.
    pub fn close_connections(&mut self, number: usize) {
        if number < self.handsets.len() {
            self.give(number, Input::Command(Command::CloseConnections));
        }
    }

    pub fn register(&mut self, number: usize) {
        self.command(number, Command::Register { identity: 0 });
    }

    pub fn deregister(&mut self, number: usize) {
        self.command(number, Command::Deregister { identity: 0 });
    }

    fn command(&mut self, number: usize, command: Command) {
        let Some(handset) = self.handsets.get_mut(number) else { return };
        if let Bearer::Refused = handset.bearer {
            return;
        }
        handset.standing = Standing::Busy;
        match handset.phone.is_some() {
            true => self.give(number, Input::Command(command)),
            false => handset.waiting = Some(command),
        }
    }

    /// Waits for a record of the eNodeB or for a phone's time.
    pub async fn next(&self) -> Due {
        let due = self.next_timeout().map(|at| at.since(now()));
        let patience = due.unwrap_or(Duration::from_secs(3_600));
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let ready = tokio::select! {
                ready = self.radio.readable() => ready,
                Ok(mut ready) = self.radio.writable(), if !self.backlog.is_empty() => {
                    // Whether there still is room, the next send finds out.
                    if self.has_no_room() {
                        ready.clear_ready();
                        continue;
                    }
                    return Due::Room;
                }
                () = tokio::time::sleep_until(deadline) => return Due::Time,
            };
            let Ok(mut ready) = ready else { return Due::Time };
            let mut buffer = vec![0; radio::RECORD_LIMIT];
            let received = ready.try_io(|socket| {
                use std::io::Read;
                (&mut socket.get_ref()).read(&mut buffer)
            });
            match received {
                Ok(Ok(0)) | Ok(Err(_)) => {
                    // The transport is gone: only time goes on.
                    tokio::time::sleep_until(deadline).await;
                    return Due::Time;
                }
                Ok(Ok(length)) => {
                    buffer.truncate(length);
                    return Due::Radio(buffer);
                }
                Err(_) => {}
            }
        }
    }

    /// Carries out what [`Handsets::next`] found.
    pub fn handle(&mut self, due: Due) {
        match due {
            Due::Radio(record) => self.on_record(&record),
            Due::Room => self.send_backlog(),
            Due::Time => {
                let now = now();
                let is_due = |phone: &Phone| phone.next_timeout().is_some_and(|at| at <= now);
                let due = (0..self.handsets.len())
                    .filter(|n| self.handsets[*n].phone.as_ref().is_some_and(is_due));
                for number in due.collect::<Vec<_>>() {
                    self.give(number, Input::Timeout);
                }
            }
        }
    }

    fn next_timeout(&self) -> Option<Now> {
        self.handsets.iter().filter_map(|handset| handset.phone.as_ref()?.next_timeout()).min()
    }

    fn on_record(&mut self, record: &[u8]) {
        let Ok(Record { reference, message }) = radio::decode(record) else { return };
        let number = reference as usize;
        if number >= self.handsets.len() {
            return;
        }
        match message {
            Message::Attached(attached) => self.attached(number, attached),
            Message::Data(packet) => {
                self.handsets[number].arrived += 1;
                self.give(number, Input::Packet(Bytes::copy_from_slice(packet)))
            }
            Message::Refused { reason } | Message::Detached { reason } => {
                let handset = &mut self.handsets[number];
                handset.bearer = Bearer::Refused;
                handset.standing = Standing::Failed { status: 0, cause: reason.to_owned() };
                self.note(number, format!("no bearer: {reason}"));
            }
            _ => {}
        }
    }

    fn attached(&mut self, number: usize, attached: Attached) {
        let handset = &mut self.handsets[number];
        let pcscf = SocketAddr::new(attached.pcscf, 5060);
        let mut config = ue::Config::new(handset.isim.clone(), attached.address, pcscf);
        let model = handset.model.clone();
        config.transport = model.transport.unwrap_or(self.habits.transport);
        config.algorithms = model.algorithms.unwrap_or(config.algorithms);
        config.ipsec = self.habits.ipsec;
        config.automatic = self.habits.automatic || model.is_automatic;
        config.gm_t1 = model.gm_t1.or(self.habits.gm_t1).unwrap_or(config.gm_t1);
        config.pcscfs.extend(model.other_pcscf);
        config.authentication = model.authentication.unwrap_or(config.authentication);
        config.mtu = model.mtu.unwrap_or(usize::from(attached.mtu));
        config.tcp_mtu = model.tcp_mtu;
        config.subscribes = self.habits.subscribes;
        config.is_emergency = model.is_emergency;
        config.reg_id = model.reg_id;
        let elsewhere = HostPort::parse(scenarios::ELSEWHERE).ok();
        config.contact_host = elsewhere.filter(|_| model.is_elsewhere);
        config.expires_seconds = model.expires_seconds.unwrap_or(config.expires_seconds);
        if model.is_brief || self.habits.is_brief {
            config.icsis.clear();
            config.feature_tags.clear();
            config.access_network = None;
        }
        if model.needs_server {
            config.feature_tags.push(scenarios::REQUIRED.to_owned());
        }
        config.faults = model.faults;
        config.behind_nat = model.is_behind_nat.then_some(scenarios::PRIVATE_ADDRESS);
        handset.phone = Some(Phone::new(config, self.random.fork()));
        let waiting = handset.waiting.take();
        let address = attached.address;
        let pcscf = attached.pcscf;
        handset.bearer = Bearer::Attached(attached);
        self.note(number, format!("attached: address {address}, P-CSCF {pcscf}"));
        if let Some(command) = waiting {
            self.give(number, Input::Command(command));
        }
    }

    fn give(&mut self, number: usize, input: Input) {
        let handset = &mut self.handsets[number];
        let Some(phone) = handset.phone.as_mut() else { return };
        let mut out = Vec::new();
        phone.handle(now(), input, &mut out);
        for output in out {
            match output {
                Output::Packet(packet) => {
                    if spi_of(&packet).is_some() {
                        self.handsets[number].sent = Some(packet.clone());
                    }
                    self.send(number, Message::Data(&packet));
                }
                Output::Event(event) => self.on_event(number, event),
                Output::Trace(trace) => self.on_trace(number, trace),
            }
        }
    }

    fn on_event(&mut self, number: usize, event: Event) {
        let handset = &mut self.handsets[number];
        let text = match &event {
            Event::Registered { granted_seconds, is_protected, .. } => {
                handset.standing = Standing::Registered;
                handset.completed += 1;
                let how = if *is_protected { "over IPsec" } else { "in clear" };
                format!("registered {how} for {granted_seconds} s")
            }
            Event::Deregistered { .. } => {
                handset.standing = Standing::Idle;
                handset.completed += 1;
                "deregistered".to_owned()
            }
            Event::ChallengeRefused { reason, .. } => format!("challenge refused: {reason:?}"),
            Event::Failed { cause, .. } => {
                let status = match cause {
                    Cause::Refused(status) => *status,
                    Cause::Timeout => 408,
                    _ => 0,
                };
                handset.standing = Standing::Failed { status, cause: format!("{cause:?}") };
                format!("failed: {cause:?}")
            }
            Event::Lost { .. } => {
                handset.standing = Standing::Idle;
                "registration lost".to_owned()
            }
            Event::Watch { what: Watched::Notified { event, .. }, .. } => {
                handset.notified += 1;
                let event = event.map_or("not named", |event| event.name());
                format!("notified: own contact {event}")
            }
            Event::Watch { what: Watched::Subscribed { expires_seconds }, .. } => {
                format!("subscribed for {expires_seconds} s")
            }
            Event::Watch { what: Watched::NotSubscribed { status }, .. } => {
                format!("not subscribed: {status}")
            }
            Event::Watch { what: Watched::Gap { version }, .. } => {
                format!("a document before version {version} was lost")
            }
            Event::Watch { what: Watched::Stale { version }, .. } => {
                format!("notified of the past: version {version}")
            }
        };
        self.note(number, text);
    }

    fn on_trace(&mut self, number: usize, trace: Trace) {
        match trace {
            Trace::SetInstalled { set, ports, spis, pair } => {
                let phone = self.handsets[number].phone.as_ref();
                let keyed = phone.and_then(|phone| phone.sets().get(set));
                if let (Some(lines), Some(keyed)) = (&mut self.capture_keys, keyed) {
                    lines.extend(capture_keys::esp_sa(keyed.esp.set()));
                }
                let pair = format!("{}/{}", pair.alg.name(), pair.ealg.name());
                self.note(number, format!("SAs installed, {pair}: {}", four(&ports, &spis)));
            }
            Trace::SetInUse { .. } => self.note(number, "SAs in use".to_owned()),
            Trace::SetRemoved { .. } => self.note(number, "SAs removed".to_owned()),
            Trace::Dropped(why) => self.note(number, format!("packet dropped: {why:?}")),
            // The wire tells these.
            Trace::Sent { .. } | Trace::Received { .. } => {}
        }
    }

    fn note(&mut self, number: usize, what: String) {
        let time = now().elapsed_since_epoch();
        self.notes.push(Note { time, who: Self::name(number), what });
    }

    fn send(&mut self, number: usize, message: Message<'_>) {
        // Beyond the limit packets are lost, as on a radio link.
        if self.backlog.len() < BACKLOG_LIMIT {
            self.backlog.push_back(Record { reference: number as u32, message }.encode());
        }
        self.send_backlog();
    }

    fn send_backlog(&mut self) {
        while let Some(record) = self.backlog.front() {
            match self.radio.get_ref().send(record) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // The end of the transport shows when reading.
                _ => drop(self.backlog.pop_front()),
            }
        }
    }

    fn has_no_room(&self) -> bool {
        use std::os::fd::AsRawFd;
        let mut poll =
            libc::pollfd { fd: self.radio.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one descriptor that is open, and a structure that outlives the call.
        let found = unsafe { libc::poll(&raw mut poll, 1, 0) };
        found == 0
    }
}

/// TS 33.203 §7.1: the four associations of a set, each with the SPI that its receiver chose for the
/// port at which packets arrive.
pub fn four(ports: &Ports, spis: &Spis) -> String {
    let (uc, us, pc, ps) = (ports.uc, ports.us, ports.pc, ports.ps);
    format!(
        "{uc}->{ps} 0x{:08x}, {ps}->{uc} 0x{:08x}, {us}->{pc} 0x{:08x}, {pc}->{us} 0x{:08x}",
        spis.ps, spis.uc, spis.pc, spis.us
    )
}

impl std::fmt::Debug for Handsets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let radio = self.radio.get_ref().as_raw_fd();
        f.debug_struct("Handsets").field("radio", &radio).finish_non_exhaustive()
    }
}
