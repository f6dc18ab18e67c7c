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
    pub is_check: bool,
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
    /// NAME__SECTION__KEY=value.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Validate configuration and host, name each missing thing, change nothing.
    #[arg(long)]
    check: bool,
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
        Ok(line) => Ok(Arguments { config: line.config, is_check: line.check }),
        Err(error) => {
            // When the terminal is gone there is nobody to tell.
            let _ = error.print();
            Err(if error.use_stderr() { Stop::Refused } else { Stop::Answered })
        }
    }
}

/// The configuration of the daemon `name` from `file`, overridden by `NAME__SECTION__KEY`.
///
/// Errors name the full key (`sip.listen`), and the file or the environment variable it came from.
pub fn load<C: DeserializeOwned>(name: &str, file: &Path) -> Result<C, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("{}: cannot be read: {error}", file.display()))?;
    // Syntax errors are told by the TOML reader, which shows the line.
    toml::from_str::<toml::Table>(&text)
        .map_err(|error| format!("{}: {}", file.display(), error.to_string().trim_end()))?;
    let environment =
        Environment::with_prefix(&name.to_uppercase()).prefix_separator("__").separator("__");
    Config::builder()
        .add_source(File::from_str(&text, FileFormat::Toml))
        .add_source(environment)
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|error| format!("{}: {error}", file.display()))
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
        assert_eq!(read, Arguments { config: "/etc/a.toml".into(), is_check: true });
        assert_eq!(arguments("pcscf", words("pcscf --version")), Err(Stop::Answered));
        assert_eq!(arguments("pcscf", words("pcscf")), Err(Stop::Refused));
        assert_eq!(arguments("pcscf", words("pcscf --config a --nonsense")), Err(Stop::Refused));
    }
}
