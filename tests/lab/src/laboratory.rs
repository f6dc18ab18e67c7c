//! The laboratory itself: everything started in order, one loop that moves phones, captures and the
//! ladder, and everything stopped again.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::node::Transport;
use common::random::Random;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use crate::associations::{Log, Monitor};
use crate::capture::{self, Capture, Seen};
use crate::config::{HOME_DOMAIN, Plane, Settings};
use crate::decode::{Decoder, Event};
use crate::dns::{Dns, Zone};
use crate::endurance;
use crate::handsets::{Habits, Handsets, Model, Note};
use crate::ladder::{Ladder, SETTLING};
use crate::load;
use crate::processes::{self, Process};
use crate::protected::ClearText;
use crate::subscribers::{Subscribers, WITHOUT_SERVER};
use crate::topology::{Addresses, CORE_NODES, IpVersion, Topology};

/// Subscribers beyond those who register at once, for scenarios.
const SPARE_SUBSCRIBERS: usize = 256;
/// Messages kept for scenarios that look at the wire.
const RECENT_LIMIT: usize = 100_000;
const TICK: Duration = Duration::from_millis(50);

/// The daemons: name of the node, of the program, and the port of its HTTP on the host.
pub const DAEMONS: [(&str, &str, u16); 6] = [
    ("hss", "hss", 9304),
    ("as", "as", 9306),
    ("scscf1", "scscf", 9303),
    ("scscf2", "scscf", 9305),
    ("icscf", "icscf", 9302),
    ("pcscf", "pcscf", 9301),
];

/// What the command line asked for.
#[derive(Clone, Debug)]
pub struct Options {
    pub plane: Plane,
    pub version: IpVersion,
    pub transport: Transport,
    pub ues: usize,
    pub capture: Option<PathBuf>,
    /// The keys of the phones' associations go beside the captures.
    pub are_keys_captured: bool,
    pub json: Option<PathBuf>,
    pub keep: Option<PathBuf>,
    /// Phones look after their registrations by themselves.
    pub automatic: bool,
    /// Lines of the ladder are printed.
    pub is_ladder_printed: bool,
    /// Security-Server names the chosen algorithms only.
    pub is_choice_announced: bool,
    /// Every other REGISTER is challenged, replaced sets end soon, and nobody hears of it but who must.
    pub is_enduring: bool,
    /// Everything is allowed that is off by default, and an SLF stands in front of the HSS.
    pub is_open: bool,
    /// There is another P-CSCF, and another I-CSCF.
    pub is_doubled: bool,
    /// Subscribers of the load generator are in the HSS, so many, instead of the lab's own.
    pub load: Option<usize>,
    /// What passes on the links is captured and read, and the daemons tell of what they do.
    pub is_watched: bool,
}

/// What runs beside the HSS where everything is allowed: name of the node, of the program, of the namespace, and
/// the port of its HTTP on the host.
const BESIDE_THE_HSS: [Further; 2] = [("hss2", "hss", "hss", 9309), ("slf", "hss", "hss", 9308)];
/// And where there are two of each.
const DOUBLES: [Further; 2] =
    [("icscf2", "icscf", "icscf2", 9310), ("pcscf2", "pcscf", "pcscf2", 9311)];
type Further = (&'static str, &'static str, &'static str, u16);
/// Port of the HTTP of the LTE transport on the host.
pub const LTE_PORT: u16 = 9307;

/// Behind the subscribers who are there for something.
const FIRST_ORDINARY: usize = WITHOUT_SERVER + 1;

/// Something to be done between two events of the loop, on its thread.
pub type Ask = Box<dyn FnOnce(&mut Laboratory) + Send>;

pub struct Laboratory {
    // In the order in which they are to be dropped: processes before their namespaces.
    pub handsets: Handsets,
    pub processes: BTreeMap<&'static str, Process>,
    _monitor: Option<Monitor>,
    /// Absent where nothing is watched.
    capture: Option<Capture>,
    /// Absent while it is dead.
    dns: Option<Dns>,
    pub topology: Topology,
    pub subscribers: Subscribers,
    pub ladder: Ladder,
    /// What passed on the links lately.
    pub recent: Vec<Event>,
    /// What passed in clear where only ESP may.
    pub clear_text: ClearText,
    decoder: Decoder,
    notes: mpsc::Receiver<Note>,
    pcscf_log: Log,
    tick: Interval,
    directory: Directory,
    pub options: Options,
    /// Processes that ended by themselves.
    pub casualties: Vec<String>,
}

/// Where configuration, databases and logs are.
struct Directory {
    path: PathBuf,
    is_kept: bool,
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.is_kept {
            // A directory left in /tmp is not worth an error at the end.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Directory {
    fn make(keep: Option<&Path>) -> Result<Directory, String> {
        use std::os::unix::fs::DirBuilderExt;
        let (path, is_kept) = match keep {
            Some(path) => {
                let path = std::path::absolute(path)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                (path, true)
            }
            None => {
                let name = format!("tessera-lab-{}", std::process::id());
                (std::env::temp_dir().join(name), false)
            }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        forget_what_was(&path);
        Ok(Directory { path, is_kept })
    }
}

/// A kept directory may have been used before: nobody of that lab is here.
fn forget_what_was(directory: &Path) {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_state = |path: &Path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("db" | "db-wal" | "db-shm" | "sas"))
    };
    for file in files.map(|file| file.path()).filter(|path| is_state(path)) {
        // What cannot be removed fails when it is opened.
        let _ = std::fs::remove_file(file);
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Laboratory {
    /// Starts everything: the network, the DNS, the transport, the daemons, each as soon as what it
    /// needs is ready. `http`: listening sockets of [`DAEMONS`], in that order, and of the transport.
    pub async fn start(
        options: Options,
        http: Vec<TcpListener>,
        mut random: Random,
    ) -> Result<Laboratory, String> {
        let topology = Topology::build()?;
        let directory = Directory::make(options.keep.as_deref())?;
        if let Some(path) = &options.capture {
            std::fs::create_dir_all(path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let captures = options.capture.as_deref().unwrap_or(&directory.path);
        let radio_capture = std::path::absolute(capture::file_of(captures, "radio"))
            .map_err(|error| format!("{}: {error}", captures.display()))?;
        let mut subscribers = Subscribers::new(options.ues + SPARE_SUBSCRIBERS, &mut random);
        let mut addresses = addresses_of(&http);
        let mut further = Vec::new();
        for (name, role, namespace, port) in further_of(&options) {
            let listener = processes::open_http(port)?;
            addresses.extend(listener.local_addr().map(|address| (name, address)));
            further.push((name, role, namespace, listener));
        }
        if options.is_open {
            subscribers.begin_at(FIRST_ORDINARY);
        }
        Settings {
            directory: &directory.path,
            radio_capture: options.is_watched.then_some(radio_capture.as_path()),
            is_quiet: !options.is_watched,
            version: options.version,
            plane: options.plane,
            is_choice_announced: options.is_choice_announced,
            is_enduring: options.is_enduring,
            is_open: options.is_open,
            is_doubled: options.is_doubled,
            http: &addresses,
            topology: &topology,
            subscribers: &subscribers,
        }
        .write()?;
        let addresses = Addresses(options.version);
        let dns = Some(start_dns(&topology, addresses, options.is_doubled)?);
        let is_watched = options.is_watched;
        let mut capture = match is_watched {
            true => Some(Capture::start(&topology, options.capture.as_deref())?),
            false => None,
        };
        let (note_sender, notes) = mpsc::channel(1_024);
        let monitor = match options.plane {
            Plane::Auto | Plane::Xfrm if is_watched => {
                Some(Monitor::start(&topology, note_sender)?)
            }
            _ => None,
        };
        let provisioning = match options.load {
            Some(ues) => load::write_population(&directory.path, ues)?,
            None => directory.path.join("subscribers.toml"),
        };
        provision(&directory.path, &provisioning)?;
        let mut processes = BTreeMap::new();
        let mut http = http;
        let mut lte = Process::new("lte", "lte", &directory.path, http.pop());
        lte.start(&topology, None)?;
        for (name, role, namespace, listener) in further {
            let mut process = Process::new(name, role, &directory.path, Some(listener));
            process.start(&topology, Some(namespace))?;
            processes.insert(name, process);
        }
        for ((name, role, _), listener) in DAEMONS.into_iter().zip(http) {
            let mut process = Process::new(name, role, &directory.path, Some(listener));
            process.start(&topology, Some(name))?;
            processes.insert(name, process);
        }
        let socket = directory.path.join("radio.sock");
        let captures = || !is_watched || radio_capture.exists();
        lte.wait_until_ready(Some(&|| socket.exists() && captures())).await?;
        processes.insert("lte", lte);
        if let Some(capture) = &mut capture {
            capture.follow_radio(&radio_capture)?;
        }
        for process in processes.values_mut() {
            if process.name != "lte" {
                process.wait_until_ready(None).await?;
            }
        }
        let habits = Habits {
            version: match options.version {
                IpVersion::V4 => lte::attach::IpVersion::V4,
                IpVersion::V6 => lte::attach::IpVersion::V6,
            },
            transport: options.transport,
            ipsec: options.plane != Plane::Off,
            automatic: options.automatic,
            gm_t1: options.is_enduring.then_some(endurance::GM_T1),
            subscribes: !options.is_enduring,
            is_brief: options.is_enduring,
        };
        let mut handsets = Handsets::connect(&socket, habits, random.fork())?;
        handsets.capture_keys = options.are_keys_captured.then(Vec::new);
        let pcscf_log = Log::new(directory.path.join("pcscf.log"));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Laboratory {
            handsets,
            processes,
            _monitor: monitor,
            capture,
            dns,
            topology,
            subscribers,
            ladder: named_ladder(addresses, options.json.is_some()),
            recent: Vec::new(),
            clear_text: ClearText::default(),
            decoder: Decoder::new(),
            notes,
            pcscf_log,
            tick,
            directory,
            options,
            casualties: Vec::new(),
        })
    }

    /// Adds a phone of a subscriber that the HSS knows, or of a stranger.
    pub fn add_phone(&mut self, is_known: bool, model: Model) -> Option<usize> {
        let subscriber = match is_known {
            true => self.subscribers.take()?,
            false => self.subscribers.stranger(),
        };
        Some(self.handsets.add(subscriber, &self.subscribers, model))
    }

    /// Adds a phone of a certain subscriber.
    pub fn add_phone_of(&mut self, subscriber: usize, model: Model) -> usize {
        self.handsets.add(subscriber, &self.subscribers, model)
    }

    /// Adds another bearer of that phone's subscriber, for emergency calls.
    pub fn add_emergency_phone(&mut self, of: usize) -> usize {
        // What the network does with an end of it is looked at.
        let faults = ue::Faults { ends_emergency: true, ..ue::Faults::default() };
        let model = Model { is_emergency: true, faults, ..Model::default() };
        self.handsets.add(self.handsets.subscriber(of), &self.subscribers, model)
    }

    /// Where people find a daemon's metrics.
    pub fn http(&self) -> BTreeMap<&'static str, SocketAddr> {
        let addresses = self
            .processes
            .values()
            .filter_map(|process| process.http_address().map(|address| (process.name, address)));
        addresses.collect()
    }

    /// Starts a daemon again that was killed.
    pub fn start_again(&mut self, name: &str) -> Result<(), String> {
        let process = self.processes.get_mut(name).ok_or_else(|| format!("no process {name}"))?;
        let further = further_of(&self.options).into_iter().find(|(further, ..)| *further == name);
        let namespace = further.map_or(process.name, |(_, _, namespace, _)| namespace);
        process.start(&self.topology, Some(namespace))
    }

    /// Nobody answers questions about names any more.
    pub fn kill_dns(&mut self) {
        self.dns = None;
    }

    pub fn start_dns(&mut self) -> Result<(), String> {
        // The old one's sockets go first.
        self.dns = None;
        let addresses = Addresses(self.options.version);
        self.dns = Some(start_dns(&self.topology, addresses, self.options.is_doubled)?);
        Ok(())
    }

    /// Waits for one thing to happen, and does what it needs.
    pub async fn step(&mut self, asks: &mut mpsc::Receiver<Ask>) {
        tokio::select! {
            Some(seen) = seen(&mut self.capture) => {
                self.clear_text.look(&seen);
                for event in self.decoder.decode(&seen) {
                    self.take(event);
                }
            }
            due = self.handsets.next() => {
                self.handsets.handle(due);
                self.name_phones();
                let notes = std::mem::take(&mut self.handsets.notes);
                notes.into_iter().for_each(|note| self.ladder.note(note));
            }
            Some(note) = self.notes.recv() => self.ladder.note(note),
            Some(ask) = asks.recv() => ask(self),
            _ = self.tick.tick() => self.on_tick(),
        }
    }

    fn take(&mut self, event: Event) {
        if self.recent.len() >= RECENT_LIMIT {
            self.recent.drain(..RECENT_LIMIT / 2);
        }
        self.recent.push(event.clone());
        self.ladder.message(event);
    }

    fn name_phones(&mut self) {
        for number in 0..self.handsets.len() {
            if let Some(address) = self.handsets.address(number) {
                self.ladder.name(address, Handsets::name(number));
            }
        }
    }

    fn on_tick(&mut self) {
        for note in self.pcscf_log.news() {
            self.ladder.note(note);
        }
        self.print_until(since_epoch().saturating_sub(SETTLING));
        for process in self.processes.values_mut() {
            if let Some(status) = process.ended() {
                let tail = processes::tail_of(process.log(), 10);
                let text = format!("{} ended by itself ({status}):\n{tail}", process.name);
                eprintln!("{text}");
                self.casualties.push(text);
                process.kill();
            }
        }
    }

    fn print_until(&mut self, until: Duration) {
        for line in self.ladder.settle(until) {
            if self.options.is_ladder_printed {
                println!("{line}");
            }
        }
    }

    /// Everything that happened up to now is taken as past: the ladder begins anew.
    pub async fn forget_the_past(&mut self) {
        let printed = std::mem::replace(&mut self.options.is_ladder_printed, false);
        self.settle_for(SETTLING * 2).await;
        self.options.is_ladder_printed = printed;
        self.recent.clear();
        self.ladder.begin_anew();
    }

    /// Lets the loop run for so long.
    pub async fn settle_for(&mut self, time: Duration) {
        let (_sender, mut nothing) = mpsc::channel(1);
        let end = tokio::time::Instant::now() + time;
        while tokio::time::timeout_at(end, self.step(&mut nothing)).await.is_ok() {}
    }

    /// Stops everything; what did not end well is told.
    pub async fn stop(mut self) -> Vec<String> {
        self.settle_for(SETTLING * 2).await;
        let mut complaints = std::mem::take(&mut self.casualties);
        for name in [
            "pcscf", "pcscf2", "icscf", "icscf2", "scscf1", "scscf2", "as", "slf", "hss2", "hss",
            "lte",
        ] {
            if let Some(process) = self.processes.get_mut(name)
                && let Err(complaint) = process.stop().await
            {
                complaints.push(complaint);
            }
        }
        let unwatched = self.capture.as_ref().map_or(0, Capture::unwatched);
        if unwatched > 0 {
            complaints.push(format!("{unwatched} packets were not watched"));
        }
        complaints
    }

    /// Where configuration and logs are, when they stay there.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.is_kept.then_some(self.directory.path.as_path())
    }

    /// Where files are while the lab runs.
    pub fn working_directory(&self) -> &Path {
        &self.directory.path
    }
}

/// Of [`DAEMONS`], in that order, and of the LTE transport.
fn addresses_of(http: &[TcpListener]) -> BTreeMap<&'static str, SocketAddr> {
    let names = DAEMONS.iter().map(|(name, ..)| *name).chain(["lte"]);
    names.zip(http).filter_map(|(name, at)| Some((name, at.local_addr().ok()?))).collect()
}

/// The next packet on a link; never one where nobody watches.
async fn seen(capture: &mut Option<Capture>) -> Option<Seen> {
    match capture {
        Some(capture) => capture.seen.recv().await,
        None => std::future::pending().await,
    }
}

/// What runs beside [`DAEMONS`].
fn further_of(options: &Options) -> Vec<Further> {
    match (options.is_open, options.is_doubled) {
        (true, _) => BESIDE_THE_HSS.to_vec(),
        (_, true) => DOUBLES.to_vec(),
        _ => Vec::new(),
    }
}

fn start_dns(topology: &Topology, addresses: Addresses, is_doubled: bool) -> Result<Dns, String> {
    let zone = zone(addresses, is_doubled);
    Dns::start(topology.namespace("dns"), addresses.core("dns"), &[zone])
}

/// The zone of the home domain (RFC 3263 §4). Where there are two of each, the application server has two
/// addresses as well, at the first of which there is nobody.
pub(crate) fn zone(addresses: Addresses, is_doubled: bool) -> Zone {
    let hosts = CORE_NODES.into_iter().filter(|node| *node != "dns");
    let mut hosts: Vec<_> = hosts.map(|node| (node, addresses.core(node))).collect();
    hosts.push(("ns", addresses.core("dns")));
    hosts.push(("nobody", addresses.nobody_beside("as")));
    let (entry_points, services) = match is_doubled {
        true => (vec!["icscf", "icscf2"], vec![("as", vec!["nobody", "as"])]),
        false => (vec!["icscf"], Vec::new()),
    };
    Zone {
        domain: HOME_DOMAIN.into(),
        transports: vec!["udp", "tcp"],
        entry_points,
        services,
        hosts,
    }
}

fn named_ladder(addresses: Addresses, is_kept: bool) -> Ladder {
    let mut ladder = Ladder::new(is_kept);
    ladder.name(addresses.enb_s1u(), "enb");
    ladder.name(addresses.second_enb_s1u(), "enb");
    ladder.name(addresses.sgw_s1u(), "sgw");
    ladder.name(addresses.second_sgw_s1u(), "sgw");
    ladder.name(addresses.second_sgw_s5u(), "sgw");
    ladder.name(addresses.sgw_s5u(), "sgw");
    ladder.name(addresses.pgw_s5u(), "pgw");
    ladder.name(addresses.pgw_sgi(), "pgw");
    ladder.name(addresses.pcscf_gm(), "pcscf");
    ladder.name(addresses.second_pgw_sgi(), "pgw");
    ladder.name(addresses.second_pcscf_gm(), "pcscf2");
    for node in CORE_NODES {
        ladder.name(addresses.core(node), node);
    }
    ladder
}

/// Key file, database and subscribers of the HSS, by its own commands.
fn provision(directory: &Path, subscribers: &Path) -> Result<(), String> {
    let key = directory.join("hss.key");
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let run = |arguments: &[&std::ffi::OsStr]| {
        let output = Command::new(&program)
            .arg("hss")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("hss: {error}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("hss: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    };
    let _ = std::fs::remove_file(&key);
    run(&["key".as_ref(), "create".as_ref(), key.as_os_str()])?;
    let config = directory.join("hss.toml");
    run(&[
        "--config".as_ref(),
        config.as_os_str(),
        "subscriber".as_ref(),
        "import".as_ref(),
        subscribers.as_os_str(),
    ])
}
