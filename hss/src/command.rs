//! The command line: the daemon, and the operator's commands on its database.
//!
//! | command | does |
//! |---|---|
//! | `hss --config FILE [--check]` | runs the HSS, or says what it lacks |
//! | `hss key create FILE` | makes a key file |
//! | `hss subscriber add` ... | brings one subscriber in |
//! | `hss subscriber import FILE` | many, from TOML or CSV, all or none |
//! | `hss subscriber list`, `show IMPI`, `export` | tells, never a key |
//! | `hss subscriber remove IMPI` | takes one out |
//! | `hss profile import NAME FILE` | a service profile from User-Data XML |
//! | `hss charging set NAME` ..., `assign IMPI [NAME]` | charging addresses |
//!
//! What changed for users that an S-CSCF serves is not pushed but by `--push`: there may be many, and the HSS may
//! not be running. Without it the command says for how many that is, and their S-CSCFs get it with the next SAR,
//! or by the command `push` of the HSS.
//!
//! Commands may be used while the HSS runs. While an import writes (seconds for a hundred thousand
//! subscribers), the HSS answers MAR and SAR with DIAMETER_TOO_BUSY.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use common::random::Random;
use rand::TryRngCore;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::daemon::{open, read_key};
use crate::database::Database;
use crate::entry::{Entry, PublicEntry};
use crate::import;
use crate::keys::Vault;
use crate::provision::{self, ChargingAddresses, Listed, Removal, Subscriber};
use crate::{Hss, refusal::Refusal};

/// How long a command waits for another program that is writing.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
#[command(
    name = "hss",
    about = "Commands on the database of the Tessera HSS",
    after_help = "The daemon itself: hss --config FILE [--check], hss --version"
)]
struct CommandLine {
    /// Configuration file of the HSS: names the database and the key file.
    #[arg(long, value_name = "FILE", global = true, default_value = "/etc/tessera/hss.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Key files.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Subscribers.
    #[command(subcommand)]
    Subscriber(SubscriberCommand),
    /// Service profiles.
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Charging addresses.
    #[command(subcommand)]
    Charging(ChargingCommand),
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key file that only its owner may read.
    Create { file: PathBuf },
}

#[derive(Subcommand)]
enum ProfileCommand {
    /// Take the first ServiceProfile of a User-Data document under a name.
    Import {
        name: String,
        file: PathBuf,
        #[command(flatten)]
        push: PushOption,
    },
}

#[derive(Subcommand)]
enum ChargingCommand {
    /// Store addresses under a name, all of them: one that is not given is not there any more.
    Set {
        name: String,
        /// DiameterURI, aaa://HOST.
        #[arg(long, value_name = "URI")]
        primary_collection: String,
        #[arg(long, value_name = "URI")]
        secondary_collection: Option<String>,
        #[arg(long, value_name = "URI")]
        primary_event: Option<String>,
        #[arg(long, value_name = "URI")]
        secondary_event: Option<String>,
        #[command(flatten)]
        push: PushOption,
    },
    /// Give a subscription the addresses of a name, or those of the configuration.
    Assign {
        impi: String,
        name: Option<String>,
        #[command(flatten)]
        push: PushOption,
    },
}

#[derive(Args)]
struct PushOption {
    /// Have the HSS that runs tell the S-CSCFs at once.
    #[arg(long)]
    push: bool,
}

#[derive(Subcommand)]
enum SubscriberCommand {
    /// Bring one subscriber in.
    Add(Box<AddOptions>),
    /// One line for each private identity.
    List,
    /// What is stored of one, without keys.
    Show { impi: String },
    /// Take one out.
    Remove {
        impi: String,
        /// Even when an S-CSCF serves it.
        #[arg(long)]
        force: bool,
    },
    /// Bring many in, from TOML or CSV (by the name of the file): all or none.
    Import { file: PathBuf },
    /// All subscribers as CSV, without keys.
    Export,
}

/// The options of `add`; what they mean is told at `entry::Entry`.
#[derive(Args)]
struct AddOptions {
    /// IMSI: gives the private and a temporary public identity.
    #[arg(long, required_unless_present = "impi")]
    imsi: Option<String>,
    /// Private identity, user@realm.
    #[arg(long)]
    impi: Option<String>,
    /// Public identity; repeat for an implicit set, in its order. A ! in front bars it.
    #[arg(long)]
    impu: Vec<String>,
    /// Which public identity is barred; may be repeated.
    #[arg(long, value_name = "IMPU")]
    barred: Vec<String>,
    /// Digits of the MNC in the IMSI, 2 or 3.
    #[arg(long)]
    mnc_digits: Option<String>,
    /// Home domain instead of the one derived from the IMSI.
    #[arg(long)]
    domain: Option<String>,
    /// Telephone number in international form: adds its sip and tel identities.
    #[arg(long)]
    msisdn: Option<String>,
    /// Subscriber key, hexadecimal. Keys may also be @FILE, which keeps them off the process list.
    #[arg(long)]
    k: Option<String>,
    #[arg(long)]
    op: Option<String>,
    #[arg(long)]
    opc: Option<String>,
    #[arg(long)]
    top: Option<String>,
    #[arg(long)]
    topc: Option<String>,
    /// How it authenticates: aka, digest (with --password), early-ims (with --address).
    #[arg(long)]
    scheme: Option<String>,
    /// Of SIP Digest; only hashes of it are stored.
    #[arg(long)]
    password: Option<String>,
    /// The address of the UE's bearer, for early IMS security.
    #[arg(long)]
    address: Option<String>,
    /// milenage, tuak, test, none.
    #[arg(long)]
    algorithm: Option<String>,
    /// Keccak iterations of TUAK.
    #[arg(long)]
    iterations: Option<String>,
    /// Octets of RES of TUAK.
    #[arg(long)]
    res_octets: Option<String>,
    /// Four hexadecimal digits.
    #[arg(long)]
    amf: Option<String>,
    /// The last one used; hexadecimal behind 0x.
    #[arg(long)]
    sqn: Option<String>,
    #[arg(long)]
    display_name: Option<String>,
    /// Service profile by name.
    #[arg(long)]
    profile: Option<String>,
    /// Charging addresses by name.
    #[arg(long)]
    charging: Option<String>,
    /// Private identity whose subscription this one joins.
    #[arg(long, value_name = "IMPI")]
    joins: Option<String>,
    /// May not register for now.
    #[arg(long)]
    suspended: bool,
    /// Visited network in which this one may register; may be repeated.
    #[arg(long)]
    visited_network: Vec<String>,
    /// Capability an S-CSCF must have; may be repeated.
    #[arg(long)]
    mandatory_capability: Vec<u32>,
    /// Capability an S-CSCF should have; may be repeated.
    #[arg(long)]
    optional_capability: Vec<u32>,
}

/// `main` of the HSS: a command when the first word names one, else the daemon. The first argument
/// is the program's name.
pub fn run_from(arguments: Vec<OsString>) -> ExitCode {
    let first = arguments.get(1).and_then(|word| word.to_str());
    // `hss --config FILE subscriber list` is a command as well.
    let words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    if !names_command(words) && !matches!(first, Some("--help" | "-h" | "help")) {
        return common::net::run_from::<Hss>(arguments);
    }
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => error.exit(),
    };
    match run(line) {
        Ok(text) => {
            let mut output = std::io::stdout().lock();
            // A closed pipe (`| head`) is the reader's choice, not a fault.
            let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("hss: {text}");
            ExitCode::FAILURE
        }
    }
}

/// The first word that is no option, nor the value of `--config`: those behind it may be anything.
fn names_command<'a>(mut words: impl Iterator<Item = &'a str>) -> bool {
    while let Some(word) = words.next() {
        match word {
            "--config" => drop(words.next()),
            option if option.starts_with('-') => {}
            word => return matches!(word, "key" | "subscriber" | "profile" | "charging"),
        }
    }
    false
}

fn run(line: CommandLine) -> Result<String, String> {
    match line.command {
        Command::Key(KeyCommand::Create { file }) => create_key(&file),
        Command::Profile(ProfileCommand::Import { name, file, push }) => {
            let mut profile = import::profile_from_xml(read(&file)?.as_bytes())
                .map_err(|cause| format!("{}: {cause}", file.display()))?;
            profile.name = name;
            let database = Opened::at(&line.config)?.database;
            let is_changed = change(&database, || provision::put_profile(&database, &profile))?;
            let done = format!("profile {} {}\n", profile.name, stored(is_changed));
            Ok(done + &tell(&database, &line.config, push.push)?)
        }
        Command::Charging(command) => run_charging(command, &line.config),
        Command::Subscriber(command) => run_subscriber(command, &line.config),
    }
}

fn run_charging(command: ChargingCommand, config: &Path) -> Result<String, String> {
    let database = Opened::at(config)?.database;
    let (done, push) = match command {
        ChargingCommand::Set {
            name,
            primary_collection,
            secondary_collection,
            primary_event,
            secondary_event,
            push,
        } => {
            let addresses =
                [primary_event, secondary_event, Some(primary_collection), secondary_collection];
            if let Some(uri) = addresses.iter().flatten().find(|uri| !is_diameter_uri(uri)) {
                return Err(format!("{uri} is not a DiameterURI, aaa://HOST"));
            }
            let charging = ChargingAddresses { name, addresses };
            let is_changed = change(&database, || provision::put_charging(&database, &charging))?;
            (format!("charging {} {}\n", charging.name, stored(is_changed)), push)
        }
        ChargingCommand::Assign { impi, name, push } => {
            let is_changed =
                change(&database, || provision::set_charging(&database, &impi, name.as_deref()))?;
            (format!("charging of {impi} {}\n", stored(is_changed)), push)
        }
    };
    Ok(done + &tell(&database, config, push.push)?)
}

/// RFC 6733 §4.3.1
fn is_diameter_uri(text: &str) -> bool {
    let host = text.strip_prefix("aaa://").or_else(|| text.strip_prefix("aaas://"));
    host.is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace))
}

fn stored(is_changed: bool) -> &'static str {
    if is_changed { "stored" } else { "unchanged" }
}

/// How many of those it names that are not told yet.
const NAMED_AT_MOST: usize = 10;

/// What S-CSCFs do not know yet: has them told, or says for whom.
fn tell(database: &Database, config: &Path, is_pushed: bool) -> Result<String, String> {
    let (count, names) = told(provision::not_told(database, NAMED_AT_MOST))?;
    if count == 0 {
        return Ok(String::new());
    }
    if is_pushed {
        let config: Config = common::net::config::load("hss", config)?;
        let answer = common::net::client::command(config.http.listen, &["push".to_owned()]);
        return answer
            .map(|text| text.trim_end().to_owned() + "\n")
            .map_err(|cause| format!("stored, but not pushed: {cause}"));
    }
    let more = if count > names.len() { ", ..." } else { "" };
    Ok(format!(
        "{count} sets in service with what was before, of {}{more}: their S-CSCFs get it with the \
         next SAR, or by the command push\n",
        names.join(", ")
    ))
}

fn run_subscriber(command: SubscriberCommand, config: &Path) -> Result<String, String> {
    match command {
        SubscriberCommand::Add(options) => {
            let subscriber = options.entry()?.resolve().map_err(|error| error.to_string())?;
            let mut opened = Opened::at(config)?;
            opened.add(std::slice::from_ref(&subscriber), |_, cause| cause)?;
            Ok(format!("{} added\n", subscriber.private_identity))
        }
        SubscriberCommand::Import { file } => import_file(&file, config),
        SubscriberCommand::List => {
            let database = Opened::at(config)?.database;
            Ok(told(provision::list(&database))?.iter().map(list_line).collect())
        }
        SubscriberCommand::Export => {
            let database = Opened::at(config)?.database;
            let rows = told(provision::list(&database))?;
            let header = "impi,algorithm,amf,sqn,impu\n".to_owned();
            Ok(header + &rows.iter().map(export_line).collect::<String>())
        }
        SubscriberCommand::Show { impi } => {
            let database = Opened::at(config)?.database;
            told(provision::describe(&database, &impi))
        }
        SubscriberCommand::Remove { impi, force } => {
            let database = Opened::at(config)?.database;
            match change(&database, || provision::remove(&database, &impi, force))? {
                Removal::Done => Ok(format!("{impi} removed\n")),
                Removal::Unknown => Err(format!("{impi} is not there")),
                Removal::Registered => Err(format!(
                    "{impi} is registered: end that with the command rtr, or use --force"
                )),
            }
        }
    }
}

fn import_file(file: &Path, config: &Path) -> Result<String, String> {
    let source = Zeroizing::new(read(file)?);
    let is_csv = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let imported = if is_csv { import::from_csv(&source) } else { import::from_toml(&source) };
    let imported = imported.map_err(|error| format!("{}: {error}", file.display()))?;
    let mut opened = Opened::at(config)?;
    let database = &opened.database;
    told(database.procedure(|| {
        for row in &imported.charging {
            provision::put_charging(database, row)?;
        }
        for row in &imported.profiles {
            provision::put_profile(database, row)?;
        }
        Ok(())
    }))?;
    let (lines, subscribers): (Vec<usize>, Vec<Subscriber>) =
        imported.subscribers.into_iter().unzip();
    opened.add(&subscribers, |place, cause| {
        format!("{}: line {}: {cause}", file.display(), lines[place])
    })?;
    let done = format!("{} subscribers added\n", subscribers.len());
    Ok(done + &tell(&opened.database, config, false)?)
}

/// The database with what is needed to seal keys.
struct Opened {
    database: Database,
    vault: Vault,
    random: Random,
}

impl Opened {
    fn at(config: &Path) -> Result<Opened, String> {
        let config: Config = common::net::config::load("hss", config)?;
        if config.slf.is_some() {
            return Err("an SLF has no subscribers: slf.routes names their HSSs".to_owned());
        }
        let key = read_key(&config.key_file)?;
        let connection = open(&config.database, PATIENCE)?;
        let database = Database::new(connection)
            .map_err(|cause| format!("{}: {cause}", config.database.display()))?;
        let vault = Vault::new(&key);
        let mut random = Random::from_seed(*seed()?);
        change(&database, || provision::check_key(&database, &vault, &mut random))?;
        Ok(Opened { database, vault, random })
    }

    /// All of them or none, in one transaction.
    fn add(
        &mut self,
        subscribers: &[Subscriber],
        place: impl Fn(usize, String) -> String,
    ) -> Result<(), String> {
        for (number, subscriber) in subscribers.iter().enumerate() {
            let (database, vault, random) = (&self.database, &self.vault, &mut self.random);
            let added = database.procedure(|| provision::add(database, vault, random, subscriber));
            told(added).map_err(|cause| place(number, cause))?;
        }
        told(self.database.commit())
    }
}

fn change<T>(database: &Database, work: impl FnOnce() -> Result<T, Refusal>) -> Result<T, String> {
    let result = told(database.procedure(work))?;
    told(database.commit())?;
    Ok(result)
}

fn told<T>(result: Result<T, Refusal>) -> Result<T, String> {
    result.map_err(|refusal| refusal.to_string())
}

fn create_key(file: &Path) -> Result<String, String> {
    let key = seed()?;
    let written =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).and_then(
            |mut opened| {
                opened.write_all(Zeroizing::new(hex::encode(*key) + "\n").as_bytes())?;
                opened.sync_all()
            },
        );
    written.map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(format!(
        "{} made: keep a copy, without it the keys in the database are lost\n",
        file.display()
    ))
}

fn seed() -> Result<Zeroizing<[u8; 32]>, String> {
    let mut seed = Zeroizing::new([0; 32]);
    OsRng
        .try_fill_bytes(&mut *seed)
        .map_err(|error| format!("no randomness from the system: {error}"))?;
    Ok(seed)
}

fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

impl AddOptions {
    fn entry(self: Box<Self>) -> Result<Entry, String> {
        let options = *self;
        let list = |values: Vec<u32>| (!values.is_empty()).then_some(values);
        Ok(Entry {
            imsi: options.imsi,
            impi: options.impi,
            mnc_digits: options.mnc_digits,
            domain: options.domain,
            msisdn: options.msisdn,
            impu: options.impu.iter().map(|impu| PublicEntry::from(impu.as_str())).collect(),
            barred: options.barred,
            display_name: options.display_name,
            k: from_file(options.k)?,
            op: from_file(options.op)?,
            opc: from_file(options.opc)?,
            top: from_file(options.top)?,
            topc: from_file(options.topc)?,
            scheme: options.scheme,
            password: from_file(options.password)?,
            address: options.address,
            algorithm: options.algorithm,
            iterations: options.iterations,
            res_octets: options.res_octets,
            amf: options.amf,
            sqn: options.sqn,
            profile: options.profile,
            charging: options.charging,
            joins: options.joins,
            suspended: options.suspended.then(|| "true".to_owned()),
            visited_networks: Some(options.visited_network).filter(|list| !list.is_empty()),
            mandatory_capabilities: list(options.mandatory_capability),
            optional_capabilities: list(options.optional_capability),
            server_names: None,
        })
    }
}

/// A key itself, or the content of the file behind `@`.
fn from_file(value: Option<String>) -> Result<Option<String>, String> {
    match value.as_deref().and_then(|value| value.strip_prefix('@')) {
        Some(file) => Ok(Some(read(Path::new(file))?.trim().to_owned())),
        None => Ok(value),
    }
}

fn list_line(row: &Listed) -> String {
    let state = if row.is_registered { "registered" } else { "not registered" };
    let server = row.server_name.as_deref().unwrap_or("-");
    format!(
        "{}\t{}\tSQN {:012x}\t{state}\t{server}\t{}\n",
        row.private_identity, row.algorithm, row.sqn, row.public_identities
    )
}

fn export_line(row: &Listed) -> String {
    let fields = [
        row.private_identity.as_str(),
        &row.algorithm,
        &format!("{:04x}", row.amf),
        &row.sqn.to_string(),
        &row.public_identities,
    ];
    let quoted: Vec<String> = fields
        .iter()
        .map(|field| match field.contains([',', '"', '\n']) {
            true => format!("\"{}\"", field.replace('"', "\"\"")),
            false => (*field).to_owned(),
        })
        .collect();
    quoted.join(",") + "\n"
}
