//! Security associations at the P-CSCF. Where they are the kernel's, `ip xfrm monitor` tells when
//! each was added, deleted, expired (without keys). In any case the daemon's log tells when a set
//! was in place and when it went.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::ipsec::sa::{Ports, Spis};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use crate::handsets::{self, Note};
use crate::topology::Topology;

/// The running monitor; it ends with this value.
pub struct Monitor {
    child: Child,
}

impl Monitor {
    /// Sends a note for each event. Needs a `LocalSet` around it.
    pub fn start(topology: &Topology, notes: mpsc::Sender<Note>) -> Result<Monitor, String> {
        let mut command = Command::new("ip");
        command
            .args(["-o", "xfrm", "monitor", "nokeys", "SA", "expire"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        topology.namespace("pcscf").enter_at_start(&mut command);
        let mut child = command.spawn().map_err(|error| format!("ip xfrm monitor: {error}"))?;
        let Some(output) = child.stdout.take() else { return Ok(Monitor { child }) };
        let output = tokio::process::ChildStdout::from_std(output)
            .map_err(|error| format!("ip xfrm monitor: {error}"))?;
        tokio::task::spawn_local(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Some(what) = event(&line) else { continue };
                let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let note = Note { time, who: "pcscf".into(), what };
                if notes.send(note).await.is_err() {
                    return;
                }
            }
        });
        Ok(Monitor { child })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It has no state to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One line of the monitor as a note.
fn event(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1).copied()
    };
    let (from, to, spi) = (after("src")?, after("dst")?, after("spi")?);
    let what = match *words.first()? {
        "Deleted" => "SA deleted",
        "Expired" => "SA expired",
        "Updated" => "SA updated",
        _ => "SA added",
    };
    Some(format!("{what}: {from} -> {to} spi {spi}"))
}

/// The P-CSCF's log, read as it grows: its data plane's sets come and go in it, whatever the plane.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    read: u64,
    /// The beginning of a line whose end is not written yet.
    rest: String,
}

impl Log {
    /// From its present end on.
    pub fn new(path: PathBuf) -> Log {
        let read = std::fs::metadata(&path).map_or(0, |file| file.len());
        Log { path, read, rest: String::new() }
    }

    /// Notes for what was written since the last call.
    pub fn news(&mut self) -> Vec<Note> {
        let mut text = std::mem::take(&mut self.rest);
        let grown = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_string(&mut text)
        });
        if let Ok(octets) = grown {
            self.read += octets as u64;
        }
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        self.rest = text.split_off(whole);
        text.lines().filter_map(logged).collect()
    }
}

/// A line of the log that tells of a set, as a note at the time that it names.
fn logged(line: &str) -> Option<Note> {
    let (time, rest) = line.split_once(' ')?;
    let at = rest.find("security associations ")?;
    let word = rest[at + "security associations ".len()..].split(' ').next()?;
    let field = |name: &str| {
        let value = rest.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim_matches('"'))
    };
    let number = |name: &str| field(name)?.parse::<u32>().ok();
    let set = number("set")?;
    let what = match word {
        "installed" => {
            let port = |name: &str| number(name).map(|port| port as u16);
            let ports =
                Ports { uc: port("uc")?, us: port("us")?, pc: port("pc")?, ps: port("ps")? };
            let spis = Spis {
                uc: number("spi_uc")?,
                us: number("spi_us")?,
                pc: number("spi_pc")?,
                ps: number("spi_ps")?,
            };
            let (alg, ealg) = (field("alg")?, field("ealg")?);
            format!("SAs of set {set} installed, {alg}/{ealg}: {}", handsets::four(&ports, &spis))
        }
        "removed" => format!("SAs of set {set} removed"),
        _ => return None,
    };
    Some(Note { time: since_epoch(time)?, who: "pcscf".into(), what })
}

/// `2026-11-25T23:54:33.047497Z` as time since the Unix epoch.
fn since_epoch(text: &str) -> Option<Duration> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':');
    let hours: u64 = time.next()?.parse().ok()?;
    let minutes: u64 = time.next()?.parse().ok()?;
    let seconds: f64 = time.next()?.parse().ok()?;
    // Days since 1970-01-01 in the Gregorian calendar, years beginning in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    let days = days.checked_sub(719_469)?;
    let whole = ((days * 24 + hours) * 60 + minutes) * 60;
    Some(Duration::from_secs(whole) + Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_log_are_read() {
        let line = "2026-11-25T23:54:33.047497Z DEBUG pcscf::security: security associations \
                    installed set=1 uc=31001 us=31000 pc=5100 ps=5064 spi_uc=1 spi_us=2 spi_pc=3 \
                    spi_ps=4 alg=\"hmac-sha-1-96\" ealg=\"null\"";
        let note = logged(line).expect("a note");
        assert_eq!(note.time.as_micros(), 1_795_650_873_047_497);
        assert_eq!(
            note.what,
            "SAs of set 1 installed, hmac-sha-1-96/null: 31001->5064 0x00000004, \
             5064->31001 0x00000001, 31000->5100 0x00000003, 5100->31000 0x00000002"
        );
        let line =
            "2026-11-25T23:54:33.1Z DEBUG pcscf::security: security associations removed set=1";
        assert_eq!(logged(line).expect("a note").what, "SAs of set 1 removed");
        assert!(logged("2026-11-25T23:54:33.1Z  INFO pcscf::register: x status=200").is_none());
    }

    #[test]
    fn lines_of_the_monitor_are_read() {
        let line =
            "src 10.45.0.2 dst 10.20.0.10 \\ proto esp spi 0x00001001 reqid 7 mode transport";
        assert_eq!(
            event(line).as_deref(),
            Some("SA added: 10.45.0.2 -> 10.20.0.10 spi 0x00001001")
        );
        let deleted = event(&format!("Deleted {line}")).unwrap();
        assert!(deleted.starts_with("SA deleted"));
        assert_eq!(event("something else"), None);
    }
}
