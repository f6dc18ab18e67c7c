//! Security associations at the P-CSCF. Where they are the kernel's, `ip xfrm monitor` tells when
//! each was added, deleted, expired (without keys). In any case the daemon is asked for its list,
//! and what is new in it since the last time is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::ipsec::sa::{Ports, Spis};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use crate::handsets::{self, Note};
use crate::processes;
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

/// The sets that the P-CSCF has, as it last told: state and description by number.
#[derive(Debug, Default)]
pub struct Sets {
    known: BTreeMap<String, (String, String)>,
}

impl Sets {
    /// What has changed with this answer to `sa list`.
    pub fn update(&mut self, list: &str) -> Vec<String> {
        let now: BTreeMap<String, (String, String)> = list.lines().filter_map(set).collect();
        let mut changes = Vec::new();
        for (number, (state, description)) in &now {
            match self.known.get(number) {
                None => changes.push(format!("SAs of set {number} are {state}: {description}")),
                Some((before, _)) if before != state => {
                    changes.push(format!("SAs of set {number} are {state}, {before} before"));
                }
                Some(_) => {}
            }
        }
        for number in self.known.keys().filter(|number| !now.contains_key(*number)) {
            changes.push(format!("SAs of set {number} are gone"));
        }
        self.known = now;
        changes
    }
}

/// One line of `sa list`: number of the set, its state, and its four associations.
fn set(line: &str) -> Option<(String, (String, String))> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["set", number, _, state, ..] = words[..] else { return None };
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1)?.parse::<u32>().ok()
    };
    let port = |name: &str| after(name).map(|port| port as u16);
    let ports = Ports { uc: port("uc")?, us: port("us")?, pc: port("pc")?, ps: port("ps")? };
    let spis = Spis {
        uc: after("spi_uc")?,
        us: after("spi_us")?,
        pc: after("spi_pc")?,
        ps: after("spi_ps")?,
    };
    Some((number.to_owned(), (state.to_owned(), handsets::four(&ports, &spis))))
}

/// Asks the P-CSCF for its sets, without blocking the loop. Needs a `LocalSet` around it.
pub fn ask(pcscf: SocketAddr, answer: mpsc::Sender<String>) {
    tokio::task::spawn_local(async move {
        let patience = Duration::from_secs(1);
        let asking =
            tokio::task::spawn_blocking(move || processes::command(pcscf, "sa list", patience));
        if let Ok(Ok(list)) = asking.await {
            // Nobody listens when the lab ends.
            let _ = answer.send(list).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_the_list_are_told() {
        let line = |state| {
            format!(
                "set 1 001@ims {state} ue 10.45.0.2 uc 31001 us 31000 pc 5100 ps 5064 spi_uc 1 \
                 spi_us 2 spi_pc 3 spi_ps 4 alg hmac-sha-1-96 ealg null for 240 s\n"
            )
        };
        let mut sets = Sets::default();
        let changes = sets.update(&line("temporary"));
        assert_eq!(
            changes,
            ["SAs of set 1 are temporary: 31001->5064 0x00000004, 5064->31001 0x00000001, \
              31000->5100 0x00000003, 5100->31000 0x00000002"]
        );
        assert_eq!(sets.update(&line("temporary")), Vec::<String>::new());
        assert_eq!(sets.update(&line("in_use")), ["SAs of set 1 are in_use, temporary before"]);
        assert_eq!(sets.update("HTTP/1.1 200 OK\n"), ["SAs of set 1 are gone"]);
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
