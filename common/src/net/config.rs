//! The command line of a daemon, and its configuration: a TOML file with the environment on top.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;
use config::{Config, Environment, File, FileFormat};
use serde::de::DeserializeOwned;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    pub config: PathBuf,
    pub task: Task,
}

/// What is to be done with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Run,
    Check,
    Ready,
    /// Have the daemon that runs with it carry out a command of the operator's.
    Command(Vec<String>),
}

/// Why the command line starts nothing; the text has been printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// `--help` and `--version` have been answered.
    Answered,
    Refused,
}

#[derive(Parser)]
#[command(disable_help_subcommand = true)]
struct CommandLine {
    /// Configuration file (TOML). Any key can be overridden by the environment:
    /// NAME__SECTION__KEY=value, a list as in TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Validate configuration and host, name each missing thing, change nothing.
    #[arg(long)]
    check: bool,
    /// Ask the daemon that runs with this configuration whether it is ready: status 0, or 1 and why
    /// not.
    #[arg(long, conflicts_with = "check")]
    ready: bool,
    /// Have the daemon that runs with this configuration carry out a command, and print its answer.
    /// `help` lists them.
    #[arg(value_name = "COMMAND", conflicts_with_all = ["check", "ready"])]
    command: Vec<String>,
}

impl CommandLine {
    fn task(self) -> Task {
        match (self.check, self.ready) {
            (true, _) => Task::Check,
            (_, true) => Task::Ready,
            _ if !self.command.is_empty() => Task::Command(self.command),
            _ => Task::Run,
        }
    }
}

/// Reads the command line of the daemon `name`; prints help, version or what is wrong with it.
pub(super) fn arguments(name: &'static str, words: Vec<OsString>) -> Result<Arguments, Stop> {
    use clap::{CommandFactory, FromArgMatches};
    let command = CommandLine::command()
        .name(name)
        .bin_name(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(format!("{name} of the Tessera IMS core"));
    let parsed = command
        .try_get_matches_from(words)
        .and_then(|matches| CommandLine::from_arg_matches(&matches));
    match parsed {
        Ok(line) => Ok(Arguments { config: line.config.clone(), task: line.task() }),
        Err(error) => {
            // When the terminal is gone there is nobody to tell.
            let _ = error.print();
            Err(if error.use_stderr() { Stop::Refused } else { Stop::Answered })
        }
    }
}

/// The configuration of the daemon `name` from `file`, overridden by `NAME__SECTION__KEY`.
///
/// A list or a table in the environment is written as in TOML: `PCSCF__GM__ADDRESSES=["192.0.2.1"]`.
/// Errors name the full key (`sip.listen`), and the file or the environment variable it came from.
pub fn load<C: DeserializeOwned>(name: &str, file: &Path) -> Result<C, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("{}: cannot be read: {error}", file.display()))?;
    // Syntax errors are told by the TOML reader, which shows the line.
    toml::from_str::<toml::Table>(&text)
        .map_err(|error| format!("{}: {}", file.display(), error.to_string().trim_end()))?;
    let prefix = name.to_uppercase() + "__";
    let mut builder = Config::builder().add_source(File::from_str(&text, FileFormat::Toml));
    let mut plain = config::Map::new();
    for (key, value) in std::env::vars_os() {
        let (Ok(key), Ok(value)) = (key.into_string(), value.into_string()) else { continue };
        let Some(rest) = key.strip_prefix(&prefix) else { continue };
        match nested(rest, &value) {
            Some(source) => builder = builder.add_source(File::from_str(&source, FileFormat::Toml)),
            None => drop(plain.insert(key, value)),
        }
    }
    let environment = Environment::with_prefix(&name.to_uppercase())
        .prefix_separator("__")
        .separator("__")
        .source(Some(plain));
    builder
        .add_source(environment)
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|error| format!("{}: {error}", file.display()))
}

/// A list or a table as TOML under its key; `None` for everything else, `[::1]:5060` among it.
fn nested(key: &str, value: &str) -> Option<String> {
    if !value.trim_start().starts_with(['[', '{']) {
        return None;
    }
    let source = format!("{} = {value}", key.to_lowercase().replace("__", "."));
    toml::from_str::<toml::Table>(&source).is_ok().then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::net::SocketAddr;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        sip: Sip,
        #[serde(default)]
        limits: crate::limits::Limits,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sip {
        listen: SocketAddr,
        #[serde(default)]
        t1_milliseconds: u64,
    }

    fn write(text: &str) -> PathBuf {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir()
            .join(format!("tessera-config-{}-{number}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn read(name: &str, text: &str) -> Result<Example, String> {
        let path = write(text);
        let result = load(name, &path);
        std::fs::remove_file(path).unwrap();
        result
    }

    #[test]
    fn reads_a_file_and_lets_the_environment_override_it() {
        let text = "[sip]\nlisten = '127.0.0.1:5060'\nt1_milliseconds = 500\n";
        let example = read("overridden", text).unwrap();
        assert_eq!(example.sip.t1_milliseconds, 500);
        assert_eq!(example.limits.queue, 4_096);
        // SAFETY: no other thread of the tests reads or writes these variables.
        unsafe {
            std::env::set_var("OVERRIDDEN__SIP__LISTEN", "[::1]:5070");
            std::env::set_var("OVERRIDDEN__LIMITS__QUEUE", "7");
        }
        let example = read("overridden", text).unwrap();
        assert_eq!(example.sip.listen, "[::1]:5070".parse().unwrap());
        assert_eq!(example.limits.queue, 7);
    }

    #[test]
    fn lists_in_the_environment_are_written_as_in_toml() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Listening {
            gm: Gm,
        }
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Gm {
            addresses: Vec<std::net::IpAddr>,
            port: u16,
        }
        let path = write("[gm]\naddresses = ['192.0.2.1']\nport = 5060\n");
        // SAFETY: no other thread of the tests reads or writes this variable.
        unsafe { std::env::set_var("LISTS__GM__ADDRESSES", "[\"::1\", '192.0.2.9']") };
        let read: Listening = load("lists", &path).unwrap();
        assert_eq!(read.gm.addresses.len(), 2);
        assert_eq!((read.gm.addresses[0].is_ipv6(), read.gm.port), (true, 5060));
        // SAFETY: as above.
        unsafe { std::env::set_var("LISTS__GM__ADDRESSES", "['192.0.2.9'") };
        let error = load::<Listening>("lists", &path).unwrap_err();
        assert!(error.contains("gm.addresses"), "{error}");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn names_the_full_key_of_what_is_wrong() {
        let error = read("wrong", "[sip]\nlisten = '127.0.0.1'\n").unwrap_err();
        assert!(error.contains("sip.listen"), "{error}");
        let error = read("wrong", "[sip]\nlisten = '127.0.0.1:1'\nlisden = 2\n").unwrap_err();
        assert!(error.contains("lisden") && error.contains("sip"), "{error}");
        let error = read("wrong", "[sip]\nt1_milliseconds = 1\n").unwrap_err();
        assert!(error.contains("listen"), "{error}");
        let error = read("wrong", "[sip\n").unwrap_err();
        assert!(error.contains("line 1"), "{error}");
        // SAFETY: no other thread of the tests reads or writes this variable.
        unsafe { std::env::set_var("WRONGENV__LIMITS__QUEUE", "many") };
        let error = read("wrongenv", "[sip]\nlisten = '127.0.0.1:1'\n").unwrap_err();
        assert!(error.contains("limits.queue") && error.contains("environment"), "{error}");
    }

    #[test]
    fn reads_the_command_line() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let read = arguments("pcscf", words("pcscf --config /etc/a.toml --check")).unwrap();
        assert_eq!(read, Arguments { config: "/etc/a.toml".into(), task: Task::Check });
        let read = arguments("pcscf", words("pcscf --config /etc/a.toml --ready")).unwrap();
        assert_eq!(read.task, Task::Ready);
        let read = arguments("pcscf", words("pcscf --config /etc/a.toml sa list")).unwrap();
        assert_eq!(read.task, Task::Command(vec!["sa".to_owned(), "list".to_owned()]));
        let both = words("pcscf --config a --ready sa list");
        assert_eq!(arguments("pcscf", both), Err(Stop::Refused));
        let both = words("pcscf --config /etc/a.toml --ready --check");
        assert_eq!(arguments("pcscf", both), Err(Stop::Refused));
        assert_eq!(arguments("pcscf", words("pcscf --version")), Err(Stop::Answered));
        assert_eq!(arguments("pcscf", words("pcscf")), Err(Stop::Refused));
        assert_eq!(arguments("pcscf", words("pcscf --config a --nonsense")), Err(Stop::Refused));
    }
}
