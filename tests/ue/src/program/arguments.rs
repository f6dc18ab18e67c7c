//! The command line, and the plan that it makes.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use common::ipsec::agree::AlgorithmPair;
use common::ipsec::sa::{Encryption, Integrity};
use common::node::Transport;
use common::secret::Secret;
use common::sip::uri::HostPort;
use lte::attach::IpVersion;

use crate::config::{EXPIRES_SECONDS, Faults, MMTEL, default_algorithms};
use crate::isim::Isim;
use crate::load::arguments as load;
use crate::load::capacity::{Capacity, Search};
use crate::program::card::{Known, OperatorKeys};

/// Where SIP is spoken when no port is given (RFC 3261 §19.1.2).
const SIP_PORT: u16 = 5060;

/// What is to be done.
#[derive(Debug)]
pub enum Task {
    Register(Box<Plan>),
    Load(Box<load::Job>),
    Capacity(Box<Search>),
    Population(load::Population),
}

/// One phone: what it is to do, everything checked.
#[derive(Debug)]
pub struct Plan {
    pub isim: Isim,
    pub access: Access,
    /// Absent: what the bearer says.
    pub pcscf: Option<SocketAddr>,
    pub transport: Transport,
    pub ipsec: bool,
    /// Behind a NAT that others have made, or one made here with the phone's own address.
    pub behind_nat: Option<Option<Ipv4Addr>>,
    /// It watches its own registration.
    pub subscribes: bool,
    /// What Contact names instead of its address.
    pub contact_host: Option<HostPort>,
    /// It registers a flow of this number.
    pub reg_id: Option<u32>,
    pub is_emergency: bool,
    pub icsis: Vec<String>,
    pub iaris: Vec<String>,
    pub algorithms: Vec<AlgorithmPair>,
    pub expires_seconds: u32,
    /// Absent: until a signal.
    pub hold: Option<Duration>,
    /// Goes without deregistration.
    pub keep: bool,
    pub refreshes: u32,
    pub faults: Faults,
    pub trace: TraceLevel,
    pub json: Option<PathBuf>,
}

/// Where the phone's packets go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Access {
    Radio { socket: PathBuf, imsi: String, version: IpVersion },
    Tun { name: String, address: IpAddr },
}

/// How much of the SIP messages is shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum TraceLevel {
    Off,
    /// One line for each message.
    Brief,
    /// And its text.
    Full,
}

/// Why there is no plan.
#[derive(Debug)]
pub enum Wrong {
    /// Also for `--help` and `--version`.
    CommandLine(clap::Error),
    Value(String),
}

/// Reads the command line and the files that it names; the first argument is the program's name.
///
/// # Errors
/// What is wrong with it.
pub fn parse(arguments: Vec<OsString>) -> Result<Task, Wrong> {
    let line = CommandLine::try_parse_from(arguments).map_err(Wrong::CommandLine)?;
    let task = match line.command {
        Command::Register(register) => register.plan().map(|plan| Task::Register(Box::new(plan))),
        Command::Load(load) => load.job().map(|job| Task::Load(Box::new(job))),
        Command::Capacity(capacity) => {
            capacity.search().map(|search| Task::Capacity(Box::new(search)))
        }
        Command::Run(standing) => standing.job().map(|job| Task::Load(Box::new(job))),
        Command::Population(population) => Ok(Task::Population(population)),
    };
    task.map_err(Wrong::Value)
}

#[derive(Parser)]
#[command(
    name = "ue",
    version,
    about = "Phones by themselves: ISIM, sec-agree, IPsec, registration, load"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Register one subscriber, hold the registration, deregister.
    #[command(after_help = "Exit status: 0 registered as asked; 1 refused or not answered, with \
        the reason in one line; 2 wrong arguments, or something is missing on this host.")]
    Register(Box<Register>),
    /// Thousands of UEs: a load, measured from outside, with a report.
    #[command(after_help = LOAD_STATUS)]
    Load(Box<load::Load>),
    /// The highest load that is handled adequately, after ETSI TS 186 008.
    #[command(after_help = "Exit status: 0 a figure was found; 1 not even the first step was \
        adequate; 2 wrong arguments, or something is missing on this host; 3 the generator was the \
        bottleneck, and the figure is the least that the servers can.")]
    Capacity(Box<Capacity>),
    /// Thousands of UEs that register and stay so, with their refreshes, until a signal.
    #[command(after_help = LOAD_STATUS)]
    Run(Box<load::Standing>),
    /// Write the generated subscribers as `hss subscriber import` reads them.
    Population(load::Population),
}

const LOAD_STATUS: &str = "Exit status: 0 ran, the generator was not the bottleneck, objectives met; \
    1 an objective is not met, or nothing succeeded; 2 wrong arguments, or something is missing on \
    this host; 3 invalid, because the generator was the bottleneck.";

#[derive(Args)]
struct Register {
    #[command(flatten)]
    card: CardOptions,
    #[command(flatten)]
    access: AccessOptions,
    #[command(flatten)]
    behaviour: BehaviourOptions,
}

#[derive(Args)]
#[command(next_help_heading = "Identity and card")]
struct CardOptions {
    /// Identities of a card without ISIM derive from it.
    #[arg(long)]
    imsi: Option<String>,
    /// 2 or 3 [default: 2, and 3 for the MCCs 310 to 316]
    #[arg(long, value_name = "2|3")]
    mnc_digits: Option<String>,
    /// Private identity, user@realm.
    #[arg(long)]
    impi: Option<String>,
    /// Public identity to register, a SIP URI.
    #[arg(long)]
    impu: Option<String>,
    /// Home domain [default: of the IMSI, or the realm of the private identity]
    #[arg(long)]
    domain: Option<String>,
    /// Subscriber key in hexadecimal. Others on this host may read it in the list of processes:
    /// --key-file and --subscriber do without.
    #[arg(long, value_name = "HEX", value_parser = secret)]
    k: Option<Secret<String>>,
    /// What derives from OP and K.
    #[arg(long, value_name = "HEX", value_parser = secret, conflicts_with = "op")]
    opc: Option<Secret<String>>,
    #[arg(long, value_name = "HEX", value_parser = secret)]
    op: Option<Secret<String>>,
    /// TUAK: what derives from TOP and K.
    #[arg(long, value_name = "HEX", value_parser = secret, conflicts_with = "top")]
    topc: Option<Secret<String>>,
    #[arg(long, value_name = "HEX", value_parser = secret)]
    top: Option<Secret<String>>,
    /// milenage, tuak or test [default: milenage, and tuak with --topc or --top]
    #[arg(long)]
    algorithm: Option<String>,
    /// The card is so many SEQ ahead of the HSS: its challenges end in AUTS until it
    /// resynchronises.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    sqn_ahead: u64,
    /// Lines of k=HEX, opc=HEX, op=HEX, topc=HEX, top=HEX, algorithm=NAME.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A file that `hss subscriber import` reads: its first [[subscriber]], or that of --imsi or
    /// --impi. Options go before what it says.
    #[arg(long, value_name = "FILE")]
    subscriber: Option<PathBuf>,
}

#[derive(Args)]
#[command(next_help_heading = "Where to")]
struct AccessOptions {
    /// The eNodeB's socket of the LTE transport.
    #[arg(long, value_name = "SOCKET", required_unless_present = "tun", conflicts_with = "tun")]
    radio: Option<PathBuf>,
    /// A TUN device to make: the kernel routes the phone's packets.
    #[arg(long, value_name = "NAME", requires_all = ["address", "pcscf"])]
    tun: Option<String>,
    /// The phone's address, behind the TUN device. No interface of this host may have it.
    #[arg(long, value_name = "IP", conflicts_with = "radio")]
    address: Option<IpAddr>,
    /// [default with --radio: what the bearer says, port 5060]
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = address_with_port)]
    pcscf: Option<SocketAddr>,
    /// IP version of the bearer [default: 4, or that of --address]
    #[arg(long, value_name = "4|6", value_parser = ip_version)]
    ip: Option<IpVersion>,
}

#[derive(Args)]
#[command(next_help_heading = "Behaviour")]
struct BehaviourOptions {
    /// Transport of requests; longer ones than 1300 octets go by TCP anyway.
    #[arg(long, value_enum, default_value_t = TransportName::Udp)]
    transport: TransportName,
    /// Offer no security agreement, and stay in clear.
    #[arg(long)]
    no_ipsec: bool,
    /// There is a NAT between it and the P-CSCF: offer ESP inside UDP (mod=UDP-enc-tun), too. With an
    /// address, the NAT is made here, and the phone has that address behind it.
    #[arg(long, value_name = "PRIVATE ADDRESS", conflicts_with = "no_ipsec")]
    behind_nat: Option<Option<Ipv4Addr>>,
    /// Do not watch the own registration (reg event).
    #[arg(long)]
    no_subscribe: bool,
    /// Name this host in Contact instead of the own address, as phones do that write the address of another
    /// interface. The P-CSCF finds the phone by its Path.
    #[arg(long, value_name = "HOST[:PORT]", value_parser = host_port)]
    contact: Option<HostPort>,
    /// Register a flow of this number (RFC 5626, outbound).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    reg_id: Option<u32>,
    /// Register for emergency calls: not watched, not refreshed, left to expire.
    #[arg(long)]
    emergency: bool,
    /// Communication services to name in Contact (+g.3gpp.icsi-ref), as URNs.
    #[arg(long, value_name = "URN,...", value_delimiter = ',', default_value = MMTEL)]
    icsi: Vec<String>,
    /// Applications to name in Contact (+g.3gpp.iari-ref), as URNs.
    #[arg(long, value_name = "URN,...", value_delimiter = ',')]
    iari: Vec<String>,
    /// Pairs to offer, such as hmac-sha-1-96/aes-cbc,hmac-md5-96/null.
    #[arg(long, value_name = "ALG/EALG,...", value_delimiter = ',', value_parser = pair,
        conflicts_with = "no_ipsec")]
    algorithms: Vec<AlgorithmPair>,
    /// Seconds that are asked for.
    #[arg(long, value_name = "SECONDS", default_value_t = EXPIRES_SECONDS,
        value_parser = clap::value_parser!(u32).range(1..))]
    expires: u32,
    /// How long to stay registered, in seconds. A signal ends it as well.
    #[arg(long, value_name = "SECONDS|forever", default_value = "forever", value_parser = hold)]
    hold: Hold,
    /// Leave without deregistration.
    #[arg(long)]
    keep: bool,
    /// Register again so many times at once.
    #[arg(long, value_name = "N", default_value_t = 0)]
    count_reregister: u32,
    /// A deliberate fault; may be repeated.
    #[arg(long, value_enum, value_name = "NAME")]
    fault: Vec<Fault>,
    /// Show each SIP message: direction, time, protected or in clear; with full its text.
    #[arg(long, value_enum, value_name = "LEVEL", num_args = 0..=1, require_equals = true,
        default_value = "off", default_missing_value = "brief")]
    trace: TraceLevel,
    /// Events as JSON, one a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub(crate) enum TransportName {
    Udp,
    Tcp,
}

/// Names of [`Faults`].
#[derive(Clone, Copy, ValueEnum)]
enum Fault {
    /// The card has another K.
    WrongK,
    /// The card is far ahead of the HSS.
    StaleSqn,
    /// The response is computed from another RES.
    WrongResponse,
    /// IK and CK of the associations are others.
    WrongAssociationKeys,
    /// Security-Verify is not what Security-Server was.
    WrongSecurityVerify,
    /// No Security-Verify.
    NoSecurityVerify,
    /// Security-Client changes between the REGISTERs.
    ChangedSecurityClient,
    /// No Security-Client.
    NoSecurityClient,
    /// An emergency registration is refreshed too early, and ended.
    EndsEmergency,
}

/// `None` is for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hold(Option<Duration>);

impl Register {
    fn plan(self) -> Result<Plan, String> {
        let known = self.card.known()?;
        let isim = known.isim(self.card.sqn_ahead)?;
        let AccessOptions { radio, tun, address, pcscf, ip } = self.access;
        let access = match (radio, tun, address) {
            (Some(socket), _, _) => {
                let imsi = known.attaching_imsi();
                let imsi = imsi.ok_or("--radio attaches with an IMSI: --imsi is needed")?;
                let version = ip.unwrap_or(match pcscf {
                    Some(SocketAddr::V6(_)) => IpVersion::V6,
                    _ => IpVersion::V4,
                });
                Access::Radio { socket, imsi, version }
            }
            (None, Some(name), Some(address)) => Access::Tun { name, address },
            _ => return Err("--radio SOCKET, or --tun NAME --address IP is needed".to_owned()),
        };
        let version = match &access {
            Access::Radio { version, .. } => *version,
            Access::Tun { address, .. } => version_of(*address),
        };
        if ip.is_some_and(|ip| ip != version) {
            return Err("--ip and --address are of different versions".to_owned());
        }
        if pcscf.is_some_and(|pcscf| version_of(pcscf.ip()) != version) {
            return Err("--pcscf is of another IP version than the phone's address".to_owned());
        }
        let behaviour = self.behaviour;
        let mut algorithms = behaviour.algorithms;
        if algorithms.is_empty() {
            algorithms = default_algorithms();
        }
        Ok(Plan {
            isim,
            access,
            pcscf,
            transport: match behaviour.transport {
                TransportName::Udp => Transport::Udp,
                TransportName::Tcp => Transport::Tcp,
            },
            ipsec: !behaviour.no_ipsec,
            behind_nat: behaviour.behind_nat,
            subscribes: !behaviour.no_subscribe,
            contact_host: behaviour.contact,
            reg_id: behaviour.reg_id,
            is_emergency: behaviour.emergency,
            icsis: behaviour.icsi,
            iaris: behaviour.iari,
            algorithms,
            expires_seconds: behaviour.expires,
            hold: behaviour.hold.0,
            keep: behaviour.keep,
            refreshes: behaviour.count_reregister,
            faults: faults(&behaviour.fault),
            trace: behaviour.trace,
            json: behaviour.json,
        })
    }
}

impl CardOptions {
    /// Options, then the key file, then the subscriber file.
    fn known(&self) -> Result<Known, String> {
        let mut known = Known {
            imsi: self.imsi.clone(),
            mnc_digits: self.mnc_digits.clone(),
            impi: self.impi.clone(),
            impu: self.impu.clone(),
            domain: self.domain.clone(),
            algorithm: self.algorithm.clone(),
            k: self.k.clone(),
            operator: OperatorKeys {
                op: self.op.clone(),
                opc: self.opc.clone(),
                top: self.top.clone(),
                topc: self.topc.clone(),
            },
            ..Known::default()
        };
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path);
            text.map_err(|error| format!("{}: {error}", path.display()))
        };
        if let Some(path) = &self.key_file {
            let of_file = Known::of_key_file(&read(path)?);
            known = known.or(of_file.map_err(|error| format!("{}: {error}", path.display()))?);
        }
        if let Some(path) = &self.subscriber {
            let of_file = known.of_subscriber_file(&read(path)?);
            known = known.or(of_file.map_err(|error| format!("{}: {error}", path.display()))?);
        }
        Ok(known)
    }
}

fn faults(names: &[Fault]) -> Faults {
    let mut faults = Faults::default();
    for name in names {
        let fault = match name {
            Fault::WrongK => &mut faults.wrong_k,
            Fault::StaleSqn => &mut faults.stale_sqn,
            Fault::WrongResponse => &mut faults.wrong_response,
            Fault::WrongAssociationKeys => &mut faults.wrong_association_keys,
            Fault::WrongSecurityVerify => &mut faults.wrong_security_verify,
            Fault::NoSecurityVerify => &mut faults.no_security_verify,
            Fault::ChangedSecurityClient => &mut faults.changed_security_client,
            Fault::NoSecurityClient => &mut faults.no_security_client,
            Fault::EndsEmergency => &mut faults.ends_emergency,
        };
        *fault = true;
    }
    faults
}

fn version_of(address: IpAddr) -> IpVersion {
    if address.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 }
}

/// Takes everything: an error here would be printed with the value.
fn secret(text: &str) -> Result<Secret<String>, std::convert::Infallible> {
    Ok(Secret::new(text.to_owned()))
}

pub(crate) fn address_with_port(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = text.parse().or_else(|_| bare.parse().map(|ip| SocketAddr::new(ip, SIP_PORT)));
    address.map_err(|_| "is no IP address with or without port; names are not looked up".to_owned())
}

pub(crate) fn ip_version(text: &str) -> Result<IpVersion, String> {
    match text {
        "4" => Ok(IpVersion::V4),
        "6" => Ok(IpVersion::V6),
        _ => Err("is neither 4 nor 6".to_owned()),
    }
}

/// TS 33.203 Annex H: names of integrity and encryption.
pub(crate) fn pair(text: &str) -> Result<AlgorithmPair, String> {
    let (alg, ealg) = text.split_once('/').ok_or("is not ALG/EALG")?;
    let alg = Integrity::from_name(alg.trim());
    let alg = alg.ok_or("ALG is none of hmac-md5-96, hmac-sha-1-96, aes-gmac, null")?;
    let ealg = Encryption::from_name(ealg.trim());
    let ealg = ealg.ok_or("EALG is none of null, des-ede3-cbc, aes-cbc, aes-gcm")?;
    let pair = AlgorithmPair { alg, ealg };
    pair.is_usable().then_some(pair).ok_or_else(|| "do not go together".to_owned())
}

fn host_port(text: &str) -> Result<HostPort, String> {
    HostPort::parse(text).map_err(|_| "is no host with or without a port".to_owned())
}

fn hold(text: &str) -> Result<Hold, String> {
    if text == "forever" {
        return Ok(Hold(None));
    }
    let seconds: u32 = text.parse().map_err(|_| "is neither seconds nor forever")?;
    Ok(Hold(Some(Duration::from_secs(u64::from(seconds)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "ue register --imsi 001010123456789 \
        --k 465b5ce8b199b49faa5f0a2ee238a6bc --opc cd63cb71954a9f4e48a5994e37a02baf";

    fn plan(more: &str) -> Result<Plan, Wrong> {
        match parse(format!("{CARD} {more}").split_whitespace().map(OsString::from).collect())? {
            Task::Register(plan) => Ok(*plan),
            other => panic!("{other:?}"),
        }
    }

    fn wrong(more: &str) -> String {
        match plan(more).unwrap_err() {
            Wrong::CommandLine(error) => {
                assert_eq!(error.exit_code(), 2);
                error.to_string()
            }
            Wrong::Value(text) => text,
        }
    }

    #[test]
    fn the_radio_needs_no_more() {
        let plan = plan("--radio /run/lte").unwrap();
        let imsi = "001010123456789".to_owned();
        let socket = "/run/lte".into();
        assert_eq!(plan.access, Access::Radio { socket, imsi, version: IpVersion::V4 });
        assert_eq!((plan.pcscf, plan.hold, plan.refreshes), (None, None, 0));
        assert_eq!((plan.transport, plan.ipsec, plan.keep), (Transport::Udp, true, false));
        assert_eq!((plan.expires_seconds, plan.trace), (EXPIRES_SECONDS, TraceLevel::Off));
        assert_eq!((plan.algorithms, plan.faults), (default_algorithms(), Faults::default()));
    }

    #[test]
    fn everything_given() {
        let plan = plan(
            "--tun ue0 --address fd00::2 --pcscf [fd00::1]:4060 --ip 6 --transport tcp \
             --algorithms hmac-md5-96/null,null/aes-gcm --expires 60 --hold 5 --keep \
             --count-reregister 3 --fault wrong-response --fault no-security-verify --trace=full \
             --json /tmp/events --sqn-ahead 7",
        )
        .unwrap();
        let address: IpAddr = "fd00::2".parse().unwrap();
        assert_eq!(plan.access, Access::Tun { name: "ue0".to_owned(), address });
        assert_eq!(plan.pcscf, Some("[fd00::1]:4060".parse().unwrap()));
        assert_eq!(plan.transport, Transport::Tcp);
        assert_eq!(plan.algorithms.len(), 2);
        assert_eq!((plan.expires_seconds, plan.refreshes, plan.keep), (60, 3, true));
        assert_eq!(plan.hold, Some(Duration::from_secs(5)));
        let faults = Faults { wrong_response: true, no_security_verify: true, ..Faults::default() };
        assert_eq!((plan.faults, plan.trace), (faults, TraceLevel::Full));
        assert_eq!(plan.isim.card.seq_ms, [7; 32]);
    }

    #[test]
    fn ports_and_levels_have_defaults() {
        let tun = "--tun ue0 --address 10.9.0.2";
        let port = |text: &str| plan(&format!("{tun} --pcscf {text}")).unwrap().pcscf.unwrap();
        assert_eq!(port("192.0.2.10"), "192.0.2.10:5060".parse().unwrap());
        assert_eq!(port("192.0.2.10:4060"), "192.0.2.10:4060".parse().unwrap());
        let radio = plan("--radio /run/lte --pcscf fd00::1 --trace").unwrap();
        assert_eq!(radio.pcscf, Some("[fd00::1]:5060".parse().unwrap()));
        assert_eq!(radio.trace, TraceLevel::Brief);
        assert!(matches!(radio.access, Access::Radio { version: IpVersion::V6, .. }));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (more, cause) in [
            ("", "--radio"),
            ("--tun ue0", "--address"),
            ("--tun ue0 --address 10.9.0.2", "--pcscf"),
            ("--tun ue0 --radio /run/lte --address 10.9.0.2 --pcscf 192.0.2.10", "--radio"),
            ("--tun ue0 --address 10.9.0.2 --pcscf fd00::1", "another IP version"),
            ("--tun ue0 --address 10.9.0.2 --pcscf 192.0.2.10 --ip 6", "different versions"),
            ("--radio /run/lte --pcscf pcscf.hims.net", "no IP address"),
            ("--radio /run/lte --algorithms null/aes-cbc", "do not go together"),
            ("--radio /run/lte --algorithms sha/aes-cbc", "ALG is none of"),
            ("--radio /run/lte --fault wrong", "wrong-response"),
            ("--radio /run/lte --hold soon", "neither seconds nor forever"),
            ("--radio /run/lte --expires 0", "--expires"),
            ("--radio /run/lte --op 00", "--op"),
            ("--radio /run/lte --key-file /nowhere", "/nowhere"),
            ("--radio /run/lte --mnc-digits 4", "neither 2 nor 3"),
        ] {
            let text = wrong(more);
            assert!(text.contains(cause), "{more}: {text}");
            assert!(!text.contains("465b5ce8"), "{more}: {text}");
        }
    }
}
