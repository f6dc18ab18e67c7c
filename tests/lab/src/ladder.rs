//! What happened, as a telecom engineer reads it: one line for each message on each link, in the
//! order of time. It knows only what passed on the links, and what phones and kernel said.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::decode::{Event, What};
use crate::handsets::Note;

/// Captures of different links arrive a little out of order: a line waits this long for others.
pub const SETTLING: Duration = Duration::from_millis(150);

/// A line before it is printed.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Line {
    Message(Event),
    Note { time: f64, who: String, what: String },
}

impl Line {
    fn time(&self) -> Duration {
        match self {
            Line::Message(event) => event.time,
            Line::Note { time, .. } => Duration::from_secs_f64(*time),
        }
    }
}

#[derive(Debug, Default)]
pub struct Ladder {
    names: BTreeMap<IpAddr, String>,
    waiting: Vec<Line>,
    begin: Option<Duration>,
    is_kept: bool,
    /// All lines so far, when they are kept for a file.
    pub kept: Vec<Line>,
}

impl Ladder {
    pub fn new(is_kept: bool) -> Ladder {
        Ladder { is_kept, ..Ladder::default() }
    }

    /// The node at that address is called so.
    pub fn name(&mut self, address: IpAddr, name: impl Into<String>) {
        self.names.insert(address, name.into());
    }

    /// Times are counted from the next line on.
    pub fn begin_anew(&mut self) {
        self.begin = None;
    }

    pub fn message(&mut self, event: Event) {
        self.waiting.push(Line::Message(event));
    }

    pub fn note(&mut self, note: Note) {
        let time = note.time.as_secs_f64();
        self.waiting.push(Line::Note { time, who: note.who, what: note.what });
    }

    /// The lines of what happened before `until`, in order.
    pub fn settle(&mut self, until: Duration) -> Vec<String> {
        let (mut due, rest): (Vec<Line>, Vec<Line>) =
            self.waiting.drain(..).partition(|line| line.time() <= until);
        self.waiting = rest;
        due.sort_by_key(Line::time);
        let mut texts = Vec::new();
        for line in due {
            let begin = *self.begin.get_or_insert(line.time());
            let at = line.time().saturating_sub(begin).as_secs_f64();
            texts.push(format!("{at:9.4}  {}", self.text(&line)));
            if self.is_kept {
                self.kept.push(line);
            }
        }
        texts
    }

    fn text(&self, line: &Line) -> String {
        match line {
            Line::Note { who, what, .. } => format!("{:5}  {who:>6} ** {what}", ""),
            Line::Message(event) => {
                let (from, to) = self.hop(event);
                let what = self.what(&event.what);
                format!("{:5}  {from:>6} -> {to:<6}  {what}", event.link)
            }
        }
    }

    /// Between which nodes the packet was on this link.
    fn hop(&self, event: &Event) -> (String, String) {
        let (from, to) = (self.name_of(event.source), self.name_of(event.destination));
        let is_uplink = from.starts_with("ue");
        match event.link {
            "radio" if is_uplink => (from, "enb".into()),
            "radio" => ("enb".into(), to),
            "sgi" if is_uplink => ("pgw".into(), to),
            "sgi" if to.starts_with("ue") => (from, "pgw".into()),
            _ => (from, to),
        }
    }

    fn name_of(&self, address: IpAddr) -> String {
        self.names.get(&address).cloned().unwrap_or_else(|| address.to_string())
    }

    /// Short: for what was told on the link before.
    fn title(&self, what: &What) -> String {
        match what {
            What::Sip { start_line, .. } => match start_line.strip_prefix("SIP/2.0 ") {
                Some(status) => status.to_owned(),
                None => start_line.split(' ').next().unwrap_or_default().to_owned(),
            },
            other => self.what(other),
        }
    }

    fn what(&self, what: &What) -> String {
        match what {
            What::Sip { transport, source_port, destination_port, start_line, cseq, .. } => {
                let line = start_line.strip_suffix(" SIP/2.0").unwrap_or(start_line);
                let line = line.strip_prefix("SIP/2.0 ").unwrap_or(line);
                format!("{line}  (CSeq {cseq}; {transport} {source_port} -> {destination_port})")
            }
            What::Diameter { name, result, user_name, public_identity, .. } => {
                let mut text = format!("Diameter {name}");
                for part in [result, user_name, public_identity].into_iter().flatten() {
                    text += &format!("  {part}");
                }
                text
            }
            What::Dns { is_response: false, question, .. } => format!("DNS query {question}"),
            What::Dns { question, answers, .. } => {
                format!("DNS answer {question}: {}", answers.join(", "))
            }
            What::Gtpu { message, teid, inner: None } => format!("GTP-U {message} {teid}"),
            What::Gtpu { teid, inner: Some(inner), .. } => {
                let (from, to) = (self.name_of(inner.source), self.name_of(inner.destination));
                format!("GTP-U {teid} [{from} -> {to}  {}]", self.title(&inner.what))
            }
            What::Esp { spi, sequence_number, octets } => {
                format!("ESP {spi} #{sequence_number}, {octets} octets")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_the_order_of_time() {
        let mut ladder = Ladder::new(true);
        let ue: IpAddr = "10.45.0.2".parse().unwrap();
        let pcscf: IpAddr = "10.20.0.10".parse().unwrap();
        ladder.name(ue, "ue1");
        ladder.name(pcscf, "pcscf");
        let what = What::Esp { spi: "0x00000001".into(), sequence_number: 1, octets: 100 };
        let event = |time, link, source, destination| Event {
            time: Duration::from_millis(time),
            link,
            source,
            destination,
            what: what.clone(),
        };
        ladder.message(event(20, "sgi", ue, pcscf));
        ladder.message(event(10, "radio", ue, pcscf));
        ladder.message(event(90, "radio", pcscf, ue));
        let lines = ladder.settle(Duration::from_millis(50));
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("ue1 -> enb") && lines[0].contains("0.0000"), "{}", lines[0]);
        assert!(lines[1].contains("pgw -> pcscf") && lines[1].contains("0.0100"), "{}", lines[1]);
        let lines = ladder.settle(Duration::from_millis(100));
        assert!(lines[0].contains("enb -> ue1"), "{}", lines[0]);
        assert_eq!(ladder.kept.len(), 3);
    }
}
