//! What the kernel of the P-CSCF says about security associations: added, deleted, expired. From
//! `ip xfrm monitor`, without keys. Nothing comes where ESP is not the kernel's.

use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use crate::handsets::Note;
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

#[cfg(test)]
mod tests {
    use super::*;

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
