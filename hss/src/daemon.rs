//! The program around the HSS: its files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::net::{Daemon, DnsConfig, Shell};
use common::random::Random;
use common::secret::Secret;
use rusqlite::{Connection, OpenFlags};
use zeroize::Zeroizing;

use crate::config::Config;
use crate::database::Database;
use crate::keys::Vault;
use crate::{Hss, provision, schema};

/// How long one turn of the HSS waits for a command that is writing. Nothing is answered meanwhile,
/// so it is short: whoever is refused tries again.
const TURN_PATIENCE: Duration = Duration::from_millis(250);

impl Daemon for Hss {
    const NAME: &'static str = "hss";
    type Config = Config;

    fn shell(config: &Config) -> Shell {
        Shell {
            sip: Vec::new(),
            diameter_listen: config.diameter.listen,
            diameter_local: None,
            store: None,
            dns: DnsConfig::default(),
            ipsec: None,
            http: config.http.clone(),
            log: config.log.clone(),
            limits: config.limits.clone(),
        }
    }

    fn build(mut config: Config, seed: [u8; 32]) -> Result<Hss, String> {
        if let Some(fault) = config.faults().first() {
            return Err(fault.clone());
        }
        if config.slf.is_some() {
            // It keeps nothing, and seals nothing.
            config.key = Some(Secret::new([0; 32]));
            let connection = Connection::open_in_memory().map_err(|error| error.to_string())?;
            return Hss::new(config, connection, Random::from_seed(seed));
        }
        config.key = Some(read_key(&config.key_file)?);
        let connection = open(&config.database, TURN_PATIENCE)?;
        Hss::new(config, connection, Random::from_seed(seed))
    }

    fn check(config: &Config) -> Vec<String> {
        let mut faults = config.faults();
        if !faults.is_empty() || config.slf.is_some() {
            return faults;
        }
        match read_key(&config.key_file) {
            Err(fault) => faults.push(fault),
            Ok(key) => faults.extend(check_database(&config.database, &key).err()),
        }
        faults
    }
}

/// Opens the database for the HSS or a command: durable before an answer leaves. `patience`: how
/// long to wait for another program that is writing.
pub(crate) fn open(path: &Path, patience: Duration) -> Result<Connection, String> {
    let text = |error: rusqlite::Error| format!("{}: {error}", path.display());
    let connection = Connection::open(path).map_err(text)?;
    connection.busy_timeout(patience).map_err(text)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(text)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(text)?;
    Ok(connection)
}

/// Without changing anything: a database that is not there yet is made at the first start.
fn check_database(path: &Path, key: &Secret<[u8; 32]>) -> Result<(), String> {
    if !path.exists() {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        return match fs::metadata(directory) {
            Ok(found) if found.is_dir() && !found.permissions().readonly() => Ok(()),
            Ok(_) => Err(format!("{}: is not a directory one may write to", directory.display())),
            Err(error) => Err(format!("{}: {error}", directory.display())),
        };
    }
    let text = |error: rusqlite::Error| format!("{}: {error}", path.display());
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(text)?;
    let version = schema::version(&connection)?;
    if version > schema::VERSION {
        return Err(format!("{}: made by a newer program (schema {version})", path.display()));
    }
    if version == schema::VERSION {
        let database = Database::new(connection)?;
        let fits = provision::fits_key(&database, &Vault::new(key));
        fits.map_err(|refusal| format!("{}: {refusal}", path.display()))?;
    }
    Ok(())
}

/// The key in a file: 32 octets, or 64 hexadecimal digits, or base64 of 32 octets.
pub(crate) fn read_key(path: &Path) -> Result<Secret<[u8; 32]>, String> {
    let told = |cause: &str| format!("key file {}: {cause}", path.display());
    let metadata = fs::metadata(path).map_err(|error| {
        told(&format!("{error}; make one with: hss key create {}", path.display()))
    })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(told(&format!("mode {mode:03o} lets others read it: chmod 600 it")));
    }
    let content = fs::read(path).map_err(|error| told(&error.to_string()))?;
    parse_key(&Zeroizing::new(content))
        .ok_or_else(|| told("is not a key: 32 octets, raw, hexadecimal or base64"))
}

fn parse_key(content: &[u8]) -> Option<Secret<[u8; 32]>> {
    if let Ok(raw) = content.try_into() {
        return Some(Secret::new(raw));
    }
    let text = content.trim_ascii();
    let decoded = match text.len() {
        64 => hex::decode(text).ok(),
        _ => STANDARD.decode(text).ok(),
    };
    let decoded = Zeroizing::new(decoded?);
    Some(Secret::new(decoded.as_slice().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_key_in_three_forms() {
        let key = [0xC3; 32];
        let base64 = STANDARD.encode(key) + "\n";
        for content in [key.to_vec(), hex::encode(key).into_bytes(), base64.into_bytes()] {
            assert_eq!(parse_key(&content), Some(Secret::new(key)));
        }
        assert_eq!(parse_key(b"too short"), None);
    }
}
