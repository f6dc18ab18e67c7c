//! A whole IMS in the simulated world: HSS, I-CSCF, two S-CSCFs, P-CSCF, and phones on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::aka::vector::Algorithm;
use common::dns::{Answer, Question, RecordData, RecordType};
use common::ipsec::esp::spi_of;
use common::node::{Node, Now};
use common::random::Random;
use common::reginfo::Event as RegistrationEvent;
use common::secret::Secret;
use common::sip::uri::HostPort;
use common::stats::Value;
use hss::Hss;
use hss::provision::Subscriber;
use icscf::Icscf;
use pcscf::Pcscf;
use rusqlite::{Connection, OpenFlags};
use scenarios::server::ApplicationServer;
use scenarios::{Function, Line, Standing};
use scscf::Scscf;
use serde::de::DeserializeOwned;

use crate::associations::Associations;
use crate::kernel::Kernel;
use crate::world::{Phone, World};

pub const HOME: &str = "ims.mnc001.mcc001.3gppnetwork.org";
const PCSCF_PORTS: [u16; 8] = [5100, 5101, 5102, 5103, 5104, 5105, 5106, 5107];
const PROTECTED_SERVER_PORT: u16 = 5064;
const HSS_KEY: [u8; 32] = [0x5A; 32];

/// Names of in-memory databases, unique in this process.
static DATABASES: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub is_ipv6: bool,
    /// Phones prefer TCP.
    pub is_tcp: bool,
    pub life: Life,
    /// Neither phones nor the P-CSCF subscribe to the state of registrations. The model of associations
    /// does not know what a NOTIFY may end.
    pub is_unwatched: bool,
    /// Security-Server names the chosen algorithms only: an answer to the challenge is then short enough
    /// for a datagram.
    pub is_choice_announced: bool,
    /// The P-CSCF stands in this network; `None`: in the home network.
    pub visited_network: Option<&'static str>,
    /// Priority, weight and capabilities of the two S-CSCFs at the I-CSCF, as its configuration has them;
    /// empty: the first one before the second.
    pub servers: [&'static str; 2],
    pub data: Data,
    /// InitialFilterCriteria of everybody; `None`: those of [`scenarios::server`].
    pub criteria: Option<&'static str>,
}

/// Who answers on Cx.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Data {
    #[default]
    OneHss,
    /// `hss` and `hss2` on one database.
    TwoHsss,
    /// The same, asked by nobody whom `slf` has not sent: to `hss2` with the users whose numbers end in 1.
    BehindSlf,
}

/// How long a registration is granted for, and how often it is authenticated again.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    pub seconds: u32,
    /// As `registration.reauthenticate` of the S-CSCF.
    pub reauthenticate: &'static str,
}

impl Default for Life {
    fn default() -> Self {
        Life { seconds: 3_600, reauthenticate: "never" }
    }
}

pub struct Ims {
    pub world: World,
    options: Options,
    database: String,
    /// Keeps the in-memory database alive while no HSS runs.
    anchor: Connection,
    /// Subscribers the HSS got so far.
    subscribers: u64,
}

impl Ims {
    pub fn new(seed: u64, options: Options) -> Ims {
        Ims::with_documents(seed, options, "full")
    }

    /// `documents`: as `reg_event.documents` of the S-CSCFs.
    pub fn with_documents(seed: u64, options: Options, documents: &'static str) -> Ims {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let database = format!("file:hss{number}?mode=memory&cache=shared");
        let anchor = open(&database);
        let mut world = World::new(seed);
        zone(&mut world);
        let path = database.clone();
        let hss = move |seed| {
            let diameter = from_toml(&hss_toml("hss", 40));
            let config = hss::config::Config::new(diameter, Secret::new(HSS_KEY));
            let hss = Hss::new(config, open(&path), Random::from_seed(seed));
            Box::new(hss.expect("an HSS")) as Box<dyn Node>
        };
        world.add("hss", vec![address(40)], None, Box::new(hss));
        if options.data != Data::OneHss {
            add_second_hss(&mut world, database.clone());
        }
        if options.data == Data::BehindSlf {
            add_slf(&mut world);
        }
        let icscf = move |seed| {
            let config = from_toml(&icscf_toml(options));
            Box::new(Icscf::new(config, seed).expect("an I-CSCF")) as Box<dyn Node>
        };
        world.add("icscf", vec![address(20)], None, Box::new(icscf));
        for (name, number) in [("scscf1", 31), ("scscf2", 32)] {
            let scscf = move |seed| {
                let config = from_toml(&scscf_toml(name, number, options, documents));
                Box::new(Scscf::new(config, seed).expect("an S-CSCF")) as Box<dyn Node>
            };
            world.add(name, vec![address(number)], None, Box::new(scscf));
        }
        anchor
            .execute("UPDATE service_profile SET shared_ifc_set_ids = '[1]'", [])
            .expect("the schema of the HSS");
        let server = |seed| {
            let name = format!("as.{HOME}");
            let address = SocketAddr::new(address(50), 5060);
            Box::new(ApplicationServer::new(&name, address, seed)) as Box<dyn Node>
        };
        world.add("as", vec![address(50)], None, Box::new(server));
        let gm = gm_address(options.is_ipv6);
        let ports = PCSCF_PORTS.into_iter().chain([PROTECTED_SERVER_PORT]);
        let kernel = Kernel::new(gm, 5060, ports, world.random.fork());
        let pcscf = move |seed| {
            let config = from_toml(&pcscf_toml("pcscf", gm, 10, options));
            let core = Pcscf::new(config, Random::from_seed(seed));
            Box::new(core.expect("a P-CSCF")) as Box<dyn Node>
        };
        world.associations = Associations::new(PROTECTED_SERVER_PORT, &PCSCF_PORTS);
        world.add("pcscf", vec![gm, address(10)], Some(kernel), Box::new(pcscf));
        // The Diameter connections stand before anything else happens.
        let settled = world.now + Duration::from_secs(5);
        world.run(settled, |_| false);
        Ims { world, options, database, anchor, subscribers: 0 }
    }

    /// Adds a phone, and its subscriber to the HSS.
    pub fn add(&mut self, kind: scenarios::Phone) -> usize {
        let (isim, algorithm) = self.card();
        if kind != scenarios::Phone::Unknown {
            let telephone = telephone_of(&isim.impi);
            let identities = isim.impus.iter().map(String::as_str);
            let identities: Vec<&str> = identities.chain([telephone.as_str()]).collect();
            self.provision(&Subscriber::new(&isim.impi, algorithm, &identities));
        }
        self.add_with(isim, kind)
    }

    /// Adds a phone of a known subscriber whose settings are changed.
    pub fn add_changed(&mut self, change: impl FnOnce(&mut ue::Config)) -> usize {
        let (isim, algorithm) = self.card();
        let identities: Vec<&str> = isim.impus.iter().map(String::as_str).collect();
        self.provision(&Subscriber::new(&isim.impi, algorithm, &identities));
        let mut config = self.config(isim, scenarios::Phone::Good);
        change(&mut config);
        let phone = ue::Phone::new(config, self.world.random.fork());
        self.world.add_phone(Box::new(Mobile::new(phone)))
    }

    /// Adds another P-CSCF; gives its address of Gm. The model of associations knows one only.
    pub fn add_second_pcscf(&mut self) -> IpAddr {
        let gm = IpAddr::V4(Ipv4Addr::new(10, 46, 0, 3));
        let ports = PCSCF_PORTS.into_iter().chain([PROTECTED_SERVER_PORT]);
        let kernel = Kernel::new(gm, 5060, ports, self.world.random.fork());
        let options = self.options;
        let pcscf = move |seed| {
            let config = from_toml(&pcscf_toml("pcscf2", gm, 11, options));
            let core = Pcscf::new(config, Random::from_seed(seed));
            Box::new(core.expect("a P-CSCF")) as Box<dyn Node>
        };
        self.world.has_model = false;
        self.world.add("pcscf2", vec![gm, address(11)], Some(kernel), Box::new(pcscf));
        gm
    }

    /// Puts a function of the test in the place of a P-CSCF, at an address of Gm of its own.
    pub fn add_stand_in(&mut self, address: IpAddr, node: impl Fn() -> Box<dyn Node> + 'static) {
        let kernel = Kernel::new(address, 5060, PCSCF_PORTS, self.world.random.fork());
        self.world.add("stand-in", vec![address], Some(kernel), Box::new(move |_| node()));
    }

    /// Adds another device of the same subscription: a card of its own, the same public identity.
    pub fn add_device_of(&mut self, ue: usize) -> usize {
        self.add_changed_device_of(ue, |_| {})
    }

    /// The same, with its settings changed.
    pub fn add_changed_device_of(
        &mut self,
        ue: usize,
        change: impl FnOnce(&mut ue::Config),
    ) -> usize {
        let (mut isim, algorithm) = self.card();
        let line = self.world.phones[ue].line().expect("a phone has a bearer");
        isim.impus = vec![line.public_identity];
        let subscriber =
            Subscriber { joins: Some(line.impi), ..Subscriber::new(&isim.impi, algorithm, &[]) };
        self.provision(&subscriber);
        let mut config = self.config(isim, scenarios::Phone::Good);
        change(&mut config);
        let phone = ue::Phone::new(config, self.world.random.fork());
        self.world.add_phone(Box::new(Mobile::new(phone)))
    }

    /// Another bearer of a phone, with the same card, for emergency calls.
    pub fn add_emergency(&mut self, of: usize) -> usize {
        self.add_bearer_of(of, |config| {
            config.is_emergency = true;
            // What the network does then is looked at.
            config.faults.ends_emergency = true;
        })
    }

    /// Another bearer of a phone, with the same card and in the same device, whose settings are changed.
    pub fn add_bearer_of(&mut self, of: usize, change: impl FnOnce(&mut ue::Config)) -> usize {
        let (isim, _) = card_of(of as u64 + 1);
        let mut config = self.config(isim, scenarios::Phone::Good);
        change(&mut config);
        let phone = ue::Phone::new(config, self.world.random.fork());
        self.world.add_phone(Box::new(Mobile::new(phone)))
    }

    /// The card of the next phone.
    fn card(&self) -> (ue::Isim, Algorithm) {
        card_of(self.world.phones.len() as u64 + 1)
    }

    fn add_with(&mut self, isim: ue::Isim, kind: scenarios::Phone) -> usize {
        let config = self.config(isim, kind);
        let phone = ue::Phone::new(config, self.world.random.fork());
        self.world.add_phone(Box::new(Mobile::new(phone)))
    }

    /// Of the next phone, on a bearer of its own.
    fn config(&self, isim: ue::Isim, kind: scenarios::Phone) -> ue::Config {
        let number = self.world.phones.len() as u64 + 1;
        let gm = gm_address(self.options.is_ipv6);
        let mut config =
            ue::Config::new(isim, ue_address(number, self.options.is_ipv6), (gm, 5060).into());
        config.mtu = 1_358;
        config.automatic = false;
        config.subscribes = !self.options.is_unwatched;
        if self.options.is_tcp {
            config.transport = common::node::Transport::Tcp;
        }
        let faults = &mut config.faults;
        match kind {
            scenarios::Phone::Good | scenarios::Phone::Unknown => {}
            scenarios::Phone::Hasty => config.expires_seconds = 1,
            scenarios::Phone::CardAhead => faults.stale_sqn = true,
            scenarios::Phone::WrongKey => faults.wrong_k = true,
            scenarios::Phone::WrongResponse => faults.wrong_response = true,
            scenarios::Phone::AlteredSecurityVerify => faults.wrong_security_verify = true,
            scenarios::Phone::WithFlow => config.reg_id = Some(1),
            scenarios::Phone::NeedsServer => {
                config.feature_tags.push(scenarios::REQUIRED.to_owned());
            }
            scenarios::Phone::ContactElsewhere => {
                config.contact_host = HostPort::parse(scenarios::ELSEWHERE).ok();
            }
            scenarios::Phone::BehindNat => config.behind_nat = Some(scenarios::PRIVATE_ADDRESS),
        }
        config
    }

    /// Another display name for the first public identity in the profile of a private one, as an
    /// operator's change of the database; nobody is told.
    pub fn rename(&mut self, private_identity: &str, display_name: &str) {
        let changed = self.anchor.execute(
            "UPDATE public_identity SET display_name = ?2 WHERE position = 0 AND implicit_set IN
                (SELECT r.implicit_set FROM registration r
                 JOIN private_identity m ON m.id = r.private_identity WHERE m.identity = ?1)",
            (private_identity, display_name),
        );
        assert_eq!(changed.expect("the schema of the HSS"), 1);
    }

    /// A change that an operator, or a fault, makes in the database of the HSS; gives the rows changed.
    pub fn change_database(&self, statement: &str) -> usize {
        self.anchor.execute(statement, []).unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// The first column of the first row, as a number.
    pub fn ask_database(&self, statement: &str) -> i64 {
        let asked = self.anchor.query_row(statement, [], |row| row.get(0));
        asked.unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// By a second connection, as the provisioning command does it.
    fn provision(&mut self, subscriber: &Subscriber) {
        let diameter = from_toml(&hss_toml("hss", 40));
        let config = hss::config::Config::new(diameter, Secret::new(HSS_KEY));
        let random = self.world.random.fork();
        let mut hss = Hss::new(config, open(&self.database), random).expect("the database");
        hss.provision(subscriber).expect("a subscriber");
        self.subscribers += 1;
    }

    /// Private identities that the HSS counts as registered, with any set.
    pub fn registered_at_hss(&mut self) -> usize {
        let diameter = from_toml(&hss_toml("hss", 40));
        let config = hss::config::Config::new(diameter, Secret::new(HSS_KEY));
        let random = Random::from_seed([0; 32]);
        let hss = Hss::new(config, open(&self.database), random).expect("the database");
        let assignments = hss.assignments().expect("assignments");
        let registered = assignments.iter().filter(|assignment| assignment.is_registered);
        registered.map(|one| &one.private_identity).collect::<BTreeSet<_>>().len()
    }

    /// Sequence number of each subscriber as the HSS has stored it, by private identity.
    pub fn sequence_numbers(&self) -> BTreeMap<String, i64> {
        let mut statement = self
            .anchor
            .prepare("SELECT identity, sqn FROM private_identity")
            .expect("the schema of the HSS");
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.expect("rows").map(|row| row.expect("a row")).collect()
    }

    /// Private identities that the HSS counts as registered, each with the name of its S-CSCF.
    pub fn assigned(&mut self) -> Vec<(String, String)> {
        let diameter = from_toml(&hss_toml("hss", 40));
        let config = hss::config::Config::new(diameter, Secret::new(HSS_KEY));
        let random = Random::from_seed([0; 32]);
        let hss = Hss::new(config, open(&self.database), random).expect("the database");
        let assignments = hss.assignments().expect("assignments");
        assignments
            .into_iter()
            .filter(|assignment| assignment.is_registered)
            .map(|assignment| {
                (assignment.private_identity, assignment.server_name.unwrap_or_default())
            })
            .collect()
    }

    pub fn gauge(&self, member: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.world.samples(self.world.member(member));
        samples
            .0
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| {
                labels.iter().all(|(label, value)| {
                    sample.labels.iter().any(|(name, have)| name == label && have == value)
                })
            })
            .map(|sample| match &sample.value {
                Value::Counter(count) => *count as f64,
                Value::Gauge(value) => *value,
                Value::Histogram(histogram) => histogram.count() as f64,
            })
            .sum()
    }
}

impl scenarios::World for Ims {
    fn add_phone(&mut self, phone: scenarios::Phone) -> usize {
        self.add(phone)
    }

    fn add_emergency_phone(&mut self, of: usize) -> usize {
        self.add_emergency(of)
    }

    fn register(&mut self, ue: usize) {
        self.world.command_after(ue, "register", Duration::ZERO);
        self.world.phones[ue].expect();
    }

    fn reregister(&mut self, ue: usize) {
        self.register(ue);
    }

    fn deregister(&mut self, ue: usize) {
        self.world.command_after(ue, "deregister", Duration::ZERO);
        self.world.phones[ue].expect();
    }

    fn standing(&mut self, ue: usize) -> Standing {
        self.world.phones[ue].standing()
    }

    fn completed(&mut self, ue: usize) -> u64 {
        self.world.phones[ue].completed()
    }

    fn notified(&mut self, ue: usize) -> u64 {
        self.world.phones[ue].notified()
    }

    fn gruus(&mut self, ue: usize) -> Option<(String, String)> {
        self.world.phones[ue].gruus()
    }

    fn private_identity(&mut self, ue: usize) -> String {
        self.world.phones[ue].private_identity()
    }

    fn telephone(&mut self, ue: usize) -> String {
        telephone_of(&self.world.phones[ue].private_identity())
    }

    fn command(&mut self, of: Function, words: &[&str]) {
        let member = self.world.member(of.name());
        self.world.admin(member, words);
    }

    fn metric(&mut self, of: Function, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.gauge(of.name(), name, labels)
    }

    fn line(&mut self, ue: usize) -> Option<Line> {
        self.world.phones[ue].line()
    }

    fn inject(&mut self, ue: usize, packet: Vec<u8>) {
        self.world.inject(ue, packet.into());
    }

    fn reboot(&mut self, ue: usize) {
        self.world.command_after(ue, "reboot", Duration::ZERO);
        let now = self.world.now;
        self.world.run(now, |_| false);
    }

    fn rebind(&mut self, ue: usize) {
        self.world.command_after(ue, "rebind", Duration::ZERO);
        let now = self.world.now;
        self.world.run(now, |_| false);
    }

    fn kill(&mut self, function: Function) {
        let member = self.world.member(function.name());
        self.world.kill(member);
    }

    fn drain(&mut self, function: Function) {
        let member = self.world.member(function.name());
        self.world.drain(member);
    }

    fn start(&mut self, function: Function) {
        let member = self.world.member(function.name());
        self.world.restart_after(member, Duration::from_millis(300));
    }

    fn hang(&mut self, function: Function, hangs: bool) {
        let member = self.world.member(function.name());
        self.world.members[member].hangs = hangs;
    }

    fn until(
        &mut self,
        what: &str,
        limit: Duration,
        condition: &mut dyn FnMut(&mut dyn scenarios::World) -> bool,
    ) -> Result<(), String> {
        let end = self.world.now + limit;
        loop {
            if condition(self) {
                return Ok(());
            }
            if self.world.now >= end {
                return Err(format!("not within {} s: {what}", limit.as_secs()));
            }
            let next = self.world.now + Duration::from_millis(100);
            self.world.run(next, |_| false);
        }
    }
}

/// A phone of the `ue` crate on its bearer.
pub struct Mobile {
    phone: ue::Phone,
    lines: Vec<String>,
    standing: Standing,
    completed: u64,
    notified: u64,
    heard: Vec<RegistrationEvent>,
    was_challenged: bool,
    sent: Option<Bytes>,
    arrived: u64,
}

impl Mobile {
    pub fn new(phone: ue::Phone) -> Mobile {
        Mobile {
            phone,
            lines: Vec::new(),
            standing: Standing::Idle,
            completed: 0,
            notified: 0,
            heard: Vec::new(),
            was_challenged: false,
            sent: None,
            arrived: 0,
        }
    }

    fn feed(&mut self, now: Now, input: ue::Input, out: &mut Vec<Bytes>) {
        let mut outputs = Vec::new();
        self.phone.handle(now, input, &mut outputs);
        for output in outputs {
            match output {
                ue::Output::Packet(packet) => {
                    if spi_of(&packet).is_some() {
                        self.sent = Some(packet.clone());
                    }
                    out.push(packet);
                }
                ue::Output::Event(event) => self.note(event),
                ue::Output::Trace(trace) => self.trace(&trace),
            }
        }
    }

    fn note(&mut self, event: ue::Event) {
        self.lines.push(describe(&event));
        match event {
            ue::Event::Registered { is_authenticated, .. } => {
                self.standing = Standing::Registered;
                self.was_challenged = is_authenticated;
                self.completed += 1;
            }
            ue::Event::Deregistered { .. } => {
                self.standing = Standing::Idle;
                self.completed += 1;
            }
            ue::Event::Lost { .. } => self.standing = Standing::Idle,
            ue::Event::Failed { cause, .. } => {
                let status = match cause {
                    ue::Cause::Refused(status) => status,
                    _ => 408,
                };
                self.standing = Standing::Failed { status, cause: format!("{cause:?}") };
            }
            ue::Event::Watch { what: ue::Watched::Notified { event, .. }, .. } => {
                self.notified += 1;
                self.heard.extend(event);
            }
            ue::Event::ChallengeRefused { .. } | ue::Event::Watch { .. } => {}
        }
    }

    /// What packets do not show.
    fn trace(&mut self, trace: &ue::Trace) {
        match trace {
            ue::Trace::SetInstalled { set, ports, .. } => self.lines.push(format!(
                "installs set {}: uc {} us {} pc {} ps {}",
                set.0, ports.uc, ports.us, ports.pc, ports.ps
            )),
            ue::Trace::SetRemoved { set } => self.lines.push(format!("removes set {}", set.0)),
            ue::Trace::Dropped(why) => self.lines.push(format!("drops a packet: {why:?}")),
            ue::Trace::Sent { .. } | ue::Trace::Received { .. } | ue::Trace::SetInUse { .. } => {}
        }
    }
}

/// Without times: those are the ladder's.
fn describe(event: &ue::Event) -> String {
    match event {
        ue::Event::Registered { kind, granted_seconds, is_authenticated, .. } => {
            let challenged = if *is_authenticated { ", challenged" } else { "" };
            format!("registered ({kind:?}{challenged}) for {granted_seconds} s")
        }
        ue::Event::Deregistered { .. } => "deregistered".into(),
        ue::Event::ChallengeRefused { reason, .. } => format!("refuses the challenge: {reason:?}"),
        ue::Event::Failed { kind, cause, .. } => format!("{kind:?} failed: {cause:?}"),
        ue::Event::Lost { .. } => "registration lost".into(),
        ue::Event::Watch { what, .. } => format!("{what:?}"),
    }
}

impl Phone for Mobile {
    fn address(&self) -> IpAddr {
        self.phone.config().address
    }

    fn packet(&mut self, now: Now, packet: &[u8], out: &mut Vec<Bytes>) {
        self.arrived += 1;
        self.feed(now, ue::Input::Packet(Bytes::copy_from_slice(packet)), out);
    }

    fn timeout(&mut self, now: Now, out: &mut Vec<Bytes>) {
        self.feed(now, ue::Input::Timeout, out);
    }

    fn next_timeout(&self) -> Option<Now> {
        self.phone.next_timeout()
    }

    fn command(&mut self, now: Now, command: &str, out: &mut Vec<Bytes>) {
        self.lines.push(command.to_owned());
        let command = match command {
            "register" => ue::Command::Register { identity: 0 },
            "register another" => ue::Command::Register { identity: 1 },
            "deregister" => ue::Command::Deregister { identity: 0 },
            "deregister another" => ue::Command::Deregister { identity: 1 },
            "close connections" => ue::Command::CloseConnections,
            "reboot" => ue::Command::Reboot,
            "rebind" => ue::Command::Rebind,
            "forget" => ue::Command::Forget,
            _ => match command.strip_prefix("move ").and_then(|address| address.parse().ok()) {
                Some(address) => ue::Command::Move { address },
                None => panic!("a phone knows no command {command}"),
            },
        };
        if matches!(
            command,
            ue::Command::Forget
                | ue::Command::Reboot
                | ue::Command::Move { .. }
                | ue::Command::Rebind
        ) {
            self.standing = Standing::Idle;
        }
        self.feed(now, ue::Input::Command(command), out);
    }

    fn events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    fn expect(&mut self) {
        self.standing = Standing::Busy;
    }

    fn standing(&self) -> Standing {
        self.standing.clone()
    }

    fn completed(&self) -> u64 {
        self.completed
    }

    fn notified(&self) -> u64 {
        self.notified
    }

    fn gruus(&self) -> Option<(String, String)> {
        self.phone.registration(0)?.gruus()
    }

    fn private_identity(&self) -> String {
        self.phone.config().isim.impi.clone()
    }

    fn inbound_spis(&self) -> Vec<u32> {
        let sets = self.phone.sets().iter();
        sets.flat_map(|(_, set)| [set.esp.set().spis.uc, set.esp.set().spis.us]).collect()
    }

    fn line(&self) -> Option<Line> {
        let config = self.phone.config();
        Some(Line {
            impi: config.isim.impi.clone(),
            public_identity: config.isim.impus[0].clone(),
            address: config.address,
            pcscf: config.pcscfs[0].ip(),
            ports: self.phone.sets().iter().last().map(|(_, set)| {
                let set = set.esp.set();
                (set.ports.uc, set.ports.us, set.spis.uc, set.spis.us)
            }),
            sent: self.sent.as_ref().map(|packet| packet.to_vec()),
            arrived: self.arrived,
        })
    }

    fn owed(&self) -> usize {
        self.phone.owed()
    }

    fn contact(&self) -> Option<String> {
        Some(self.phone.registration(0)?.contact.to_string())
    }

    fn was_challenged(&self) -> bool {
        self.was_challenged
    }

    fn associated(&self) -> Vec<String> {
        self.phone.registration(0).map(|one| one.associated.clone()).unwrap_or_default()
    }

    fn heard(&self) -> &[RegistrationEvent] {
        &self.heard
    }
}

fn open(database: &str) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(database, flags).expect("a database in memory")
}

fn from_toml<T: DeserializeOwned>(text: &str) -> T {
    toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 90, 0, last))
}

fn gm_address(is_ipv6: bool) -> IpAddr {
    if is_ipv6 {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x46, 0, 0, 0, 0, 0, 1))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 46, 0, 1))
    }
}

fn card_of(number: u64) -> (ue::Isim, Algorithm) {
    let mut k = [0x4B; 16];
    k[8..].copy_from_slice(&number.to_be_bytes());
    let algorithm = Algorithm::Milenage { k: Secret::new(k), opc: Secret::new([0x0C; 16]) };
    let isim = ue::Isim::of_imsi(&format!("00101{number:010}"), "001", "01", algorithm.clone());
    (isim, algorithm)
}

/// Beside what the card says, in the HSS alone.
fn telephone_of(private_identity: &str) -> String {
    let imsi = private_identity.split('@').next().unwrap_or_default();
    let subscriber = imsi.get(imsi.len().saturating_sub(4)..).unwrap_or_default();
    format!("tel:+1555010{subscriber}")
}

/// The address that a phone gets when it moves for the nth time.
pub fn other_address(ue: usize, moves: u16, is_ipv6: bool) -> IpAddr {
    ue_address(1_000 * (ue as u64 + 1) + u64::from(moves), is_ipv6)
}

fn ue_address(number: u64, is_ipv6: bool) -> IpAddr {
    if is_ipv6 {
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x45, 0, 0, 0, 0, 0, number as u16 + 1))
    } else {
        let [high, low] = (number as u16 + 1).to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, 45, high, low))
    }
}

fn zone(world: &mut World) {
    let mut records: BTreeMap<(String, RecordType), Vec<RecordData>> = BTreeMap::new();
    let mut add = |name: &str, record_type, data| {
        records.entry((name.to_owned(), record_type)).or_default().push(data);
    };
    let naptr = |preference, services: &str, replacement: String| RecordData::Naptr {
        order: 10,
        preference,
        flags: "s".into(),
        services: services.into(),
        replacement,
    };
    add(HOME, RecordType::Naptr, naptr(10, "SIP+D2U", format!("_sip._udp.{HOME}")));
    add(HOME, RecordType::Naptr, naptr(20, "SIP+D2T", format!("_sip._tcp.{HOME}")));
    for transport in ["udp", "tcp"] {
        let target = format!("icscf.{HOME}");
        let data = RecordData::Srv { priority: 10, weight: 10, port: 5060, target };
        add(&format!("_sip._{transport}.{HOME}"), RecordType::Srv, data);
    }
    for (host, last) in [
        ("icscf", 20),
        ("scscf1", 31),
        ("scscf2", 32),
        ("hss", 40),
        ("pcscf", 10),
        ("pcscf2", 11),
        ("as", 50),
    ] {
        add(&format!("{host}.{HOME}"), RecordType::A, RecordData::Address(address(last)));
    }
    for ((name, record_type), records) in records {
        let question = Question { name, record_type };
        world.zone.insert(question, Answer::Found { records, ttl: Duration::from_secs(300) });
    }
}

/// On the database of the first one.
fn add_second_hss(world: &mut World, database: String) {
    let hss = move |seed| {
        let diameter = from_toml(&hss_toml("hss2", 41));
        let config = hss::config::Config::new(diameter, Secret::new(HSS_KEY));
        let hss = Hss::new(config, open(&database), Random::from_seed(seed));
        Box::new(hss.expect("an HSS")) as Box<dyn Node>
    };
    world.add("hss2", vec![address(41)], None, Box::new(hss));
}

fn add_slf(world: &mut World) {
    let slf = |seed| {
        let diameter = from_toml(&hss_toml("slf", 42));
        let mut config = hss::config::Config::new(diameter, Secret::new(HSS_KEY));
        config.slf = Some(from_toml(&format!(
            "[[routes]]\nidentities = [\"*1@{HOME}\"]\nhosts = [\"aaa://hss2.{HOME}\"]\n\
             [[routes]]\nidentities = [\"*\"]\nhosts = [\"aaa://hss.{HOME}\"]\n"
        )));
        let nothing = Connection::open_in_memory().expect("a database that nobody looks into");
        let slf = Hss::new(config, nothing, Random::from_seed(seed));
        Box::new(slf.expect("an SLF")) as Box<dyn Node>
    };
    world.add("slf", vec![address(42)], None, Box::new(slf));
}

fn hss_toml(name: &str, number: u8) -> String {
    let own = SocketAddr::new(address(number), 3868);
    format!("identity = \"{name}.{HOME}\"\nrealm = \"{HOME}\"\nlisten = \"{own}\"\n")
}

fn diameter_toml(host: &str, data: Data) -> String {
    let by_name = |name: &str, number| {
        format!(
            "{{ identity = \"{name}.{HOME}\", host = \"{}\", by_name_only = true }}",
            address(number)
        )
    };
    let peer = |number| format!("{{ host = \"{}\" }}", address(number));
    let peers = match data {
        Data::OneHss => vec![peer(40)],
        Data::TwoHsss => vec![peer(40), peer(41)],
        Data::BehindSlf => vec![peer(42), by_name("hss", 40), by_name("hss2", 41)],
    };
    format!(
        "[diameter]\nidentity = \"{host}.{HOME}\"\nrealm = \"{HOME}\"\npeers = [{}]\n",
        peers.join(", ")
    )
}

fn icscf_toml(options: Options) -> String {
    let [first, second] = match options.servers {
        ["", ""] => ["priority = 1", "priority = 2"],
        servers => servers,
    };
    let own = SocketAddr::new(address(20), 5060);
    format!(
        "home_domain = \"{HOME}\"\n[sip]\nname = \"icscf.{HOME}\"\n\
         [sip.listen]\nudp = [\"{own}\"]\ntcp = [\"{own}\"]\n\
         [[scscf]]\nname = \"sip:scscf1.{HOME}\"\n{first}\n\
         [[scscf]]\nname = \"sip:scscf2.{HOME}\"\n{second}\n{}",
        diameter_toml("icscf", options.data)
    )
}

fn scscf_toml(name: &str, number: u8, options: Options, documents: &str) -> String {
    let life = options.life;
    let criteria = match options.criteria {
        Some(criteria) => criteria.to_owned(),
        None => scenarios::server::criteria(&format!("as.{HOME}")),
    };
    let own = SocketAddr::new(address(number), 5060);
    format!(
        "home_domain = \"{HOME}\"\n[sip]\nname = \"{name}.{HOME}\"\n\
         [sip.listen]\nudp = [\"{own}\"]\ntcp = [\"{own}\"]\n\
         [registration]\nexpires_min_seconds = 60\nexpires_default_seconds = {0}\n\
         expires_max_seconds = {0}\nreauthenticate = \"{1}\"\n\
         [reg_event]\ndocuments = \"{4}\"\n{2}\
         [[shared_filter_criteria]]\nid = 1\nxml = '{3}'\n",
        life.seconds,
        life.reauthenticate,
        diameter_toml(name, options.data),
        criteria,
        documents,
    )
}

fn pcscf_toml(name: &str, gm: IpAddr, core: u8, options: Options) -> String {
    format!(
        "name = \"{name}.{HOME}\"\nvisited_network = \"{}\"\n\
         [gm]\naddresses = [\"{gm}\"]\nprotected_server_port = {PROTECTED_SERVER_PORT}\n\
         protected_client_ports = {PCSCF_PORTS:?}\n\
         [mw]\nlisten = [\"{}\"]\n\
         [reg_event]\nsubscribe = {}\n\
         [ipsec]\nnat = {}\nanswer = \"{}\"\n",
        options.visited_network.unwrap_or(HOME),
        SocketAddr::new(address(core), 5060),
        !options.is_unwatched,
        gm.is_ipv4(),
        if options.is_choice_announced { "chosen" } else { "list" },
    )
}
