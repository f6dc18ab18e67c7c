//! A run as a ladder that a telecom engineer reads without knowing Rust.

use std::fmt::Write as _;

use common::dns::{Answer, Question};
use common::node::Now;

/// Lines kept of a run; older ones go.
const LINE_LIMIT: usize = 4_000;

#[derive(Debug)]
pub struct Ladder {
    begin: Now,
    pub lines: Vec<String>,
    /// Off in long runs: formatting costs more than the run.
    pub is_on: bool,
}

impl Ladder {
    pub fn new(begin: Now) -> Ladder {
        Ladder { begin, lines: Vec::new(), is_on: true }
    }

    fn push(&mut self, now: Now, line: &str) {
        if self.lines.len() == LINE_LIMIT {
            self.lines.drain(..LINE_LIMIT / 2);
        }
        let seconds = now.since(self.begin).as_secs_f64();
        self.lines.push(format!("{seconds:9.3} {line}"));
    }

    /// `=>` is a message inside ESP.
    pub fn sip(&mut self, now: Now, from: &str, to: &str, protected: bool, bytes: &[u8]) {
        if !self.is_on {
            return;
        }
        let arrow = if protected { "=>" } else { "->" };
        self.push(now, &format!("{from:>7} {arrow} {to:<7} {}", title(bytes)));
    }

    pub fn diameter(&mut self, now: Now, from: &str, to: &str, bytes: &[u8]) {
        if !self.is_on || bytes.len() < 8 {
            return;
        }
        let is_request = bytes[4] & 0x80 != 0;
        let command = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]);
        let name = match command {
            257 => "CE",
            280 => "DW",
            282 => "DP",
            300 => "UA",
            301 => "SA",
            302 => "LI",
            303 => "MA",
            304 => "RT",
            305 => "PP",
            _ => "?",
        };
        let kind = if is_request { "R" } else { "A" };
        self.push(now, &format!("{from:>7} -> {to:<7} {name}{kind}"));
    }

    pub fn dns(&mut self, now: Now, from: &str, question: &Question, answer: &Answer) {
        if !self.is_on {
            return;
        }
        let outcome = match answer {
            Answer::Found { records, .. } => format!("{} records", records.len()),
            Answer::Nothing { .. } => "nothing".into(),
            Answer::Failed { reason } => reason.clone(),
        };
        let what = format!("{:?} {}", question.record_type, question.name).to_lowercase();
        self.push(now, &format!("{from:>7} -> dns     {what}: {outcome}"));
    }

    pub fn note(&mut self, now: Now, who: &str, what: &str) {
        if self.is_on {
            self.push(now, &format!("{who:>7} .. {what}"));
        }
    }

    pub fn tail(&self, count: usize) -> String {
        let start = self.lines.len().saturating_sub(count);
        self.text(start)
    }

    pub fn text(&self, start: usize) -> String {
        let mut text = String::new();
        for line in &self.lines[start..] {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// `REGISTER`, or `401 to REGISTER`: what a ladder calls a message.
fn title(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let first = text.lines().next().unwrap_or("");
    let Some(rest) = first.strip_prefix("SIP/2.0 ") else {
        return first.split(' ').next().unwrap_or("").to_owned();
    };
    let status = rest.split(' ').next().unwrap_or("");
    let method = text
        .lines()
        .find_map(|line| line.strip_prefix("CSeq:"))
        .and_then(|value| value.split_whitespace().nth(1))
        .unwrap_or("?");
    format!("{status} to {method}")
}
