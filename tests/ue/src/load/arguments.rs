//! The command lines of `ue load`, `ue run` and `ue population`, and what they ask for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use common::ipsec::agree::AlgorithmPair;
use common::node::Transport;
use lte::attach::IpVersion;

use crate::config::{EXPIRES_SECONDS, default_algorithms};
use crate::load::engine::Run;
use crate::load::fleet::Habits;
use crate::load::link::Access;
use crate::load::model::{Arrivals, Mix, Model, Operation, Phase, Stage, What};
use crate::load::population::{self, Generated, Subscriber};
use crate::load::require::{self, Required};
use crate::load::scrape::Server;
use crate::load::watch::Limits;
use crate::profile::Profile;
use crate::program::arguments::{TransportName, address_with_port, ip_version, pair};

/// Seconds of a stage that ends with a signal.
const FOR_EVER: f64 = 1e9;
/// UEs that are generated when nobody says how many.
const UES: usize = 1_000;

/// Everything that is needed for a run.
#[derive(Debug)]
pub struct Job {
    pub run: Run,
    pub subscribers: Vec<Subscriber>,
    pub servers: Vec<Server>,
    /// Where the generator's own `/metrics` is.
    pub listen: Option<SocketAddr>,
    pub output: Output,
}

/// What is written, and where.
#[derive(Clone, Debug, Default)]
pub struct Output {
    pub json: Option<PathBuf>,
    pub csv: Option<PathBuf>,
    pub html: Option<PathBuf>,
    pub required: Vec<Required>,
    pub is_quiet: bool,
}

#[derive(Args, Debug)]
pub struct Load {
    #[command(flatten)]
    pub who: Who,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub load: LoadOptions,
    #[command(flatten)]
    pub habits: HabitOptions,
    #[command(flatten)]
    pub outcome: OutcomeOptions,
}

#[derive(Args, Debug)]
pub struct Standing {
    #[command(flatten)]
    pub who: Who,
    #[command(flatten)]
    pub place: Place,
    /// Registrations a second at the start, one after the other.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 50.0, value_parser = rate)]
    pub rate: f64,
    /// How long to stay registered: until a signal, if not said.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub hold: Option<f64>,
    /// Leave without deregistrations.
    #[arg(long)]
    pub keep: bool,
    #[command(flatten)]
    pub habits: HabitOptions,
    #[command(flatten)]
    pub outcome: OutcomeOptions,
}

#[derive(Args, Debug)]
pub struct Population {
    #[command(flatten)]
    pub cards: Cards,
    /// How many.
    #[arg(long, default_value_t = UES)]
    pub ues: usize,
    /// Where to; standard output if not said.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Generated cards")]
pub struct Cards {
    #[arg(long, default_value = "001")]
    mcc: String,
    #[arg(long, default_value = "01")]
    mnc: String,
    /// Number behind the MNC of the first IMSI.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000)]
    first: u64,
    /// Home domain [default: of the IMSI]
    #[arg(long)]
    domain: Option<String>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Who")]
pub struct Who {
    /// Subscribers in a file for `hss subscriber import`, CSV or TOML. Without it, cards are
    /// generated, as `ue population` writes them.
    #[arg(long, value_name = "FILE")]
    population: Option<PathBuf>,
    /// How many UEs [default: all of the file, or 1000]
    #[arg(long)]
    ues: Option<usize>,
    #[command(flatten)]
    cards: Cards,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Where to")]
pub struct Place {
    /// The eNodeB's socket of the LTE transport.
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["tun", "bind"])]
    radio: Option<PathBuf>,
    /// A TUN device to make, for UEs with addresses of their own.
    #[arg(long, value_name = "NAME", requires_all = ["prefix", "pcscf"], conflicts_with = "bind")]
    tun: Option<String>,
    /// Addresses of the UEs behind the TUN device, such as 10.99.0.0/16.
    #[arg(long, value_name = "IP/LENGTH", value_parser = prefix, requires = "tun")]
    prefix: Option<(IpAddr, u8)>,
    /// Without a TUN device or LTE: addresses of this host, with a port for each UE. Needs no
    /// privilege, has no IPsec. [default: the address from which the P-CSCF is reached]
    #[arg(long, value_name = "IP,...", value_delimiter = ',')]
    bind: Vec<IpAddr>,
    /// P-CSCFs in the order in which they are tried [default with --radio: what the bearer says]
    #[arg(long, value_name = "ADDR[:PORT],...", value_delimiter = ',',
        value_parser = address_with_port)]
    pcscf: Vec<SocketAddr>,
    /// IP version of the bearers of --radio.
    #[arg(long, value_name = "4|6", default_value = "4", value_parser = ip_version)]
    ip: IpVersion,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Load")]
pub struct LoadOptions {
    /// Phases in TOML; see docs/load.md. Instead of --rate, --to-rate, --seconds, --mix, --arrivals.
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["rate", "to_rate", "seconds", "mix", "arrivals"])]
    model: Option<PathBuf>,
    /// Attempts a second.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 10.0, value_parser = rate)]
    rate: f64,
    /// Let the rate go in a straight line to this one.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    to_rate: Option<f64>,
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    seconds: f64,
    /// What is attempted, by shares: register, reregister, deregister, wrong_key, wrong_response,
    /// auts, reboot, radio_loss.
    #[arg(long, value_name = "NAME=SHARE,...", default_value = "register=1", value_parser = mix)]
    mix: Mix,
    #[arg(long, value_enum, default_value_t = ArrivalsName::Poisson)]
    arrivals: ArrivalsName,
    /// Register every UE first, so many a second; it is a stage of its own in the report.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    register_first: Option<f64>,
    /// Of arrivals and choices: the same seed is the same offer.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// After the load: stay so long, with refreshes. `forever` is until a signal.
    #[arg(long, value_name = "SECONDS|forever", value_parser = hold)]
    hold: Option<f64>,
    /// Deregister all at the end.
    #[arg(long)]
    deregister: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Behaviour of the UEs")]
pub struct HabitOptions {
    /// Transport of requests; longer ones than 1300 octets go by TCP anyway.
    #[arg(long, value_enum, default_value_t = TransportName::Udp)]
    transport: TransportName,
    /// Offer no security agreement, and stay in clear. Always so without --radio and --tun.
    #[arg(long)]
    no_ipsec: bool,
    /// Pairs to offer, such as hmac-sha-1-96/aes-cbc,hmac-md5-96/null.
    #[arg(long, value_name = "ALG/EALG,...", value_delimiter = ',', value_parser = pair,
        conflicts_with = "no_ipsec")]
    algorithms: Vec<AlgorithmPair>,
    /// Seconds that are asked for.
    #[arg(long, value_name = "SECONDS", default_value_t = EXPIRES_SECONDS,
        value_parser = clap::value_parser!(u32).range(1..))]
    expires: u32,
    /// Makes of phones and their shares: names that come with the program (samsung-tab,
    /// samsung-two-offers, qualcomm, qualcomm-compact, huawei-six-offers, boghe) or TOML files. What a
    /// profile says goes before other options.
    #[arg(long, value_name = "NAME[=SHARE],...", value_delimiter = ',', value_parser = profile)]
    profile: Vec<(Arc<Profile>, f64)>,
    /// How long packets are lost in a radio_loss.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    radio_loss: f64,
    /// Each UE subscribes to its registration state (reg event), as phones do. Without it what is
    /// measured is registration alone.
    #[arg(long)]
    subscribe: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Outcome")]
pub struct OutcomeOptions {
    /// A server whose /metrics are read beside the run; may be repeated.
    #[arg(long, value_name = "NAME=URL", value_parser = Server::parse)]
    metrics: Vec<Server>,
    /// Serve the generator's own /metrics there.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// An attempt that succeeds later than this is inadequate.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = time)]
    slow_after: Duration,
    /// How long what is under way may take after the last arrival. A REGISTER ends after 128 s.
    #[arg(long, value_name = "SECONDS", default_value_t = 135.0, value_parser = seconds)]
    drain: f64,
    /// Objectives that make the exit status: success=99.9%,p99=50ms.
    #[arg(long, value_name = "NAME=VALUE,...", value_parser = required)]
    require: Option<Objectives>,
    /// An arrival that begins later than this makes the generator suspect.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = time)]
    late_after: Duration,
    /// The whole report.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// One line for each second.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// The report with plots, in one file that needs no other.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show nothing while it runs.
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone, Debug)]
pub struct Objectives(Vec<Required>);

#[derive(Clone, Copy, ValueEnum, Debug)]
enum ArrivalsName {
    Poisson,
    Constant,
}

impl Load {
    /// # Errors
    /// What does not fit, or a file that cannot be used.
    pub fn job(self) -> Result<Job, String> {
        let subscribers = self.who.subscribers()?;
        let LoadOptions { seed, hold, deregister, register_first, .. } = self.load;
        let (model_seed, mut stages) = self.load.stages()?;
        if let Some(rate) = register_first {
            let first = registering(subscribers.len(), rate);
            for stage in &mut stages {
                stage.begins += first.seconds;
            }
            stages.insert(0, first);
        }
        if let Some(seconds) = hold {
            stages.push(holding(&stages, seconds));
        }
        let leave = deregister.then(|| leaving(subscribers.len()));
        let seed = model_seed.unwrap_or(seed);
        let place = (self.place, self.habits, self.outcome);
        job(place, subscribers, stages, seed, hold.is_some(), leave)
    }
}

impl Standing {
    /// # Errors
    /// What does not fit, or a file that cannot be used.
    pub fn job(self) -> Result<Job, String> {
        let subscribers = self.who.subscribers()?;
        let mut stages = vec![registering(subscribers.len(), self.rate)];
        stages.push(holding(&stages, self.hold.unwrap_or(FOR_EVER)));
        let leave = (!self.keep).then(|| leaving(subscribers.len()));
        job((self.place, self.habits, self.outcome), subscribers, stages, 1, true, leave)
    }
}

impl Population {
    /// # Errors
    /// What does not fit.
    pub fn csv(&self) -> Result<String, String> {
        let generated = self.cards.generated(self.ues);
        generated.check()?;
        Ok(generated.csv())
    }
}

/// So many UEs, each once.
pub(crate) fn registering(count: usize, rate: f64) -> Stage {
    let what = What::Arrivals {
        arrivals: Arrivals::Constant,
        per_second: rate,
        to_per_second: rate,
        mix: Mix::from([(Operation::Register, 1.0)]),
    };
    // The last arrival is inside.
    let seconds = (count as f64 + 0.5) / rate;
    Stage { name: "register all".to_owned(), begins: 0.0, seconds, what }
}

fn holding(before: &[Stage], seconds: f64) -> Stage {
    let what = What::Arrivals {
        arrivals: Arrivals::Constant,
        per_second: 0.0,
        to_per_second: 0.0,
        mix: Mix::new(),
    };
    let begins = before.last().map_or(0.0, |last| last.begins + last.seconds);
    Stage { name: "hold".to_owned(), begins, seconds, what }
}

/// Within which all deregister: as a core of moderate size bears it.
fn leaving(count: usize) -> Duration {
    Duration::from_secs_f64((count as f64 / 200.0).max(0.1))
}

pub(crate) fn job(
    (place, habits, outcome): (Place, HabitOptions, OutcomeOptions),
    subscribers: Vec<Subscriber>,
    stages: Vec<Stage>,
    seed: u64,
    automatic: bool,
    leave: Option<Duration>,
) -> Result<Job, String> {
    let access = place.access()?;
    let has_ipsec = !habits.no_ipsec && !matches!(access, Access::Sockets { .. });
    if matches!(access, Access::Sockets { .. }) && !habits.algorithms.is_empty() {
        return Err("--algorithms: IPsec needs --radio or --tun".to_owned());
    }
    let transport = match habits.transport {
        TransportName::Udp => Transport::Udp,
        TransportName::Tcp if matches!(access, Access::Sockets { .. }) => {
            return Err("--transport tcp needs --radio or --tun".to_owned());
        }
        TransportName::Tcp => Transport::Tcp,
    };
    let algorithms = match habits.algorithms.is_empty() {
        true => default_algorithms(),
        false => habits.algorithms,
    };
    let habits = Habits {
        pcscfs: place.pcscf,
        transport,
        ipsec: has_ipsec,
        algorithms,
        expires_seconds: habits.expires,
        automatic,
        radio_loss: Duration::from_secs_f64(habits.radio_loss),
        subscribes: habits.subscribe,
        profiles: habits.profile,
        udp_only: matches!(access, Access::Sockets { .. }),
    };
    let limits =
        Limits { late_milliseconds: outcome.late_after.as_secs_f64() * 1e3, ..Limits::default() };
    let run = Run {
        access,
        habits,
        stages,
        seed,
        slow_after: outcome.slow_after,
        limits,
        drain: Duration::from_secs_f64(outcome.drain),
        leave,
    };
    let output = Output {
        json: outcome.json,
        csv: outcome.csv,
        html: outcome.html,
        required: outcome.require.map(|objectives| objectives.0).unwrap_or_default(),
        is_quiet: outcome.quiet,
    };
    Ok(Job { run, subscribers, servers: outcome.metrics, listen: outcome.listen, output })
}

impl Who {
    pub fn subscribers(&self) -> Result<Vec<Subscriber>, String> {
        let Some(path) = &self.population else {
            return self.cards.generated(self.ues.unwrap_or(UES)).subscribers();
        };
        let mut all = population::from_file(path)?;
        if let Some(wanted) = self.ues {
            if wanted > all.len() {
                return Err(format!("{} has {} subscribers", path.display(), all.len()));
            }
            all.truncate(wanted);
        }
        Ok(all)
    }
}

impl Cards {
    fn generated(&self, count: usize) -> Generated {
        Generated {
            mcc: self.mcc.clone(),
            mnc: self.mnc.clone(),
            first: self.first,
            count,
            domain: self.domain.clone(),
        }
    }
}

impl Place {
    fn access(&self) -> Result<Access, String> {
        if let Some(socket) = &self.radio {
            return Ok(Access::Radio { socket: socket.clone(), version: self.ip });
        }
        let Some(first) = self.pcscf.first() else {
            return Err("--radio SOCKET, or --pcscf ADDR is needed".to_owned());
        };
        if self.pcscf.iter().any(|other| other.is_ipv4() != first.is_ipv4()) {
            return Err("--pcscf: all are of one IP version".to_owned());
        }
        if let (Some(name), Some((address, prefix))) = (&self.tun, self.prefix) {
            if address.is_ipv4() != first.is_ipv4() {
                return Err("--prefix and --pcscf are of different IP versions".to_owned());
            }
            return Ok(Access::Tun { name: name.clone(), address, prefix });
        }
        let addresses = match self.bind.is_empty() {
            true => vec![own_address(*first)?],
            false => self.bind.clone(),
        };
        if addresses.iter().any(|address| address.is_ipv4() != first.is_ipv4()) {
            return Err("--bind and --pcscf are of different IP versions".to_owned());
        }
        Ok(Access::Sockets { addresses })
    }
}

/// From which this host would speak to it.
fn own_address(to: SocketAddr) -> Result<IpAddr, String> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let found = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(to)?;
        socket.local_addr()
    });
    found.map(|address| address.ip()).map_err(|error| format!("--pcscf {to}: {error}"))
}

impl LoadOptions {
    fn stages(&self) -> Result<(Option<u64>, Vec<Stage>), String> {
        let Some(path) = &self.model else {
            let phase = Phase {
                name: "load".to_owned(),
                seconds: self.seconds,
                per_second: self.rate,
                to_per_second: self.to_rate,
                arrivals: match self.arrivals {
                    ArrivalsName::Poisson => Arrivals::Poisson,
                    ArrivalsName::Constant => Arrivals::Constant,
                },
                mix: self.mix.clone(),
                ..Phase::default()
            };
            let model = Model { seed: None, phase: vec![phase] };
            return Ok((None, model.stages()?));
        };
        let named = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        let model = Model::parse(&text).map_err(named)?;
        Ok((model.seed, model.stages().map_err(named)?))
    }
}

pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=1e7).contains(rate));
    rate.ok_or_else(|| "is no rate".to_owned())
}

pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.001..=1e8).contains(seconds));
    seconds.ok_or_else(|| "is no number of seconds".to_owned())
}

fn hold(text: &str) -> Result<f64, String> {
    if text == "forever" { Ok(FOR_EVER) } else { seconds(text) }
}

pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let milliseconds = require::milliseconds(text).filter(|value| *value < 1e9);
    let milliseconds = milliseconds.ok_or("is no time such as 50ms or 2s")?;
    Ok(Duration::from_secs_f64(milliseconds / 1e3))
}

fn profile(text: &str) -> Result<(Arc<Profile>, f64), String> {
    let (name, share) = match text.rsplit_once('=') {
        Some((name, share)) => {
            let share = share.parse::<f64>().ok().filter(|share| *share > 0.0);
            (name, share.ok_or("the share is no number")?)
        }
        None => (text, 1.0),
    };
    if let Some(profile) = Profile::embedded(name) {
        return Ok((Arc::new(profile), share));
    }
    if !name.ends_with(".toml") {
        let names = Profile::names().join(", ");
        return Err(format!("{name:?} is none of {names}, and no file *.toml"));
    }
    let text = std::fs::read_to_string(name).map_err(|error| format!("{name}: {error}"))?;
    let profile = Profile::parse(&text).map_err(|why| format!("{name}: {why}"))?;
    Ok((Arc::new(profile), share))
}

fn required(text: &str) -> Result<Objectives, String> {
    require::parse(text).map(Objectives)
}

fn prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || "is not IP/LENGTH".to_owned();
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    Ok((address.parse().map_err(|_| wrong())?, length.parse().map_err(|_| wrong())?))
}

/// `register=3,deregister=1`
pub(crate) fn mix(text: &str) -> Result<Mix, String> {
    let mut mix = Mix::new();
    for each in text.split(',') {
        let (name, share) = each.split_once('=').unwrap_or((each, "1"));
        let operation = Operation::from_name(name.trim()).ok_or_else(|| {
            let names = Operation::MIXABLE.map(Operation::name).join(", ");
            format!("{name:?} is none of {names}")
        })?;
        let share = share.trim().parse::<f64>().ok().filter(|share| *share >= 0.0);
        mix.insert(operation, share.ok_or_else(|| format!("{each:?}: the share is no number"))?);
    }
    Ok(mix)
}
