//! What the program tells: lines for people on the standard output, JSON lines for programs.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use common::node::{Flow, Now};
use serde_json::{Value, json};

use crate::event::{Event, InvalidChallenge, Kind, Watched};
use crate::phone::Trace;
use crate::program::arguments::TraceLevel;
use crate::register::Registration;

/// Where events go.
#[derive(Debug)]
pub struct Report {
    started: Now,
    trace: TraceLevel,
    json: Option<File>,
}

impl Report {
    /// Times of lines count from `started`; those of JSON are seconds since the Unix epoch.
    ///
    /// # Errors
    /// The file of JSON lines cannot be written.
    pub fn new(started: Now, trace: TraceLevel, json: Option<&Path>) -> io::Result<Report> {
        let json = json.map(File::create).transpose()?;
        Ok(Report { started, trace, json })
    }

    /// One line for people.
    pub fn line(&self, now: Now, text: &str) {
        let elapsed = now.since(self.started);
        let mut out = io::stdout().lock();
        // A reader who has gone is no reason to leave a registration behind.
        let _ = writeln!(out, "{:>9.3} {text}", elapsed.as_secs_f64());
    }

    fn json(&mut self, now: Now, event: &str, mut fields: Value) {
        let Some(file) = &mut self.json else { return };
        fields["event"] = json!(event);
        fields["time"] = json!(seconds(now.elapsed_since_epoch()));
        let _ = file.write_all(format!("{fields}\n").as_bytes());
    }

    pub fn attached(&mut self, now: Now, address: &str, pcscf: &str, mtu: usize) {
        self.line(now, &format!("address {address}, P-CSCF {pcscf}, MTU {mtu}"));
        let fields = json!({ "address": address, "pcscf": pcscf, "mtu": mtu });
        self.json(now, "attached", fields);
    }

    pub fn verdict(&mut self, now: Now, is_registered: bool, text: &str) {
        self.json(now, "verdict", json!({ "registered": is_registered, "text": text }));
    }

    pub fn event(&mut self, now: Now, event: &Event, registration: Option<&Registration>) {
        match event {
            Event::Registered { kind, granted_seconds, is_authenticated, is_protected, .. } => {
                let how = if *is_protected { "over IPsec" } else { "in clear" };
                let again = if *kind == Kind::Refresh { " again" } else { "" };
                let challenged = if *is_authenticated { "" } else { ", without a challenge" };
                let text = format!("registered{again} {how} for {granted_seconds} s{challenged}");
                self.line(now, &text);
                let list = |of: fn(&Registration) -> &Vec<String>| registration.map(of);
                let fields = json!({
                    "kind": kind_name(*kind),
                    "granted_seconds": granted_seconds,
                    "authenticated": is_authenticated,
                    "protected": is_protected,
                    "associated": list(|it| &it.associated),
                    "service_route": list(|it| &it.service_route),
                    "path": list(|it| &it.path),
                });
                if let Some(registration) = registration.filter(|_| *kind == Kind::Initial) {
                    let associated = registration.associated.join(", ");
                    self.line(now, &format!("  identities: {associated}"));
                    let service_route = registration.service_route.join(", ");
                    self.line(now, &format!("  Service-Route: {service_route}"));
                }
                self.json(now, "registered", fields);
            }
            Event::Deregistered { .. } => {
                self.line(now, "deregistered");
                self.json(now, "deregistered", json!({}));
            }
            Event::ChallengeRefused { reason, .. } => {
                let why = match reason {
                    InvalidChallenge::Mac => "MAC of AUTN is wrong for this card",
                    InvalidChallenge::Sqn => "sequence number is not fresh, AUTS sent",
                    InvalidChallenge::SecurityServer => "no usable Security-Server",
                };
                self.line(now, &format!("challenge refused: {why}"));
                self.json(now, "challenge_refused", json!({ "reason": why }));
            }
            Event::Failed { kind, cause, retry_at, calls_unregistered, .. } => {
                let again = retry_at.map(|at| at.since(now).as_secs());
                let fields = json!({
                    "kind": kind_name(*kind),
                    "status": cause.status(),
                    "cause": cause.to_string(),
                    "retry_after_seconds": again,
                    "calls_unregistered": calls_unregistered,
                });
                self.json(now, "failed", fields);
            }
            Event::Lost { .. } => {
                self.line(now, "registration lost");
                self.json(now, "lost", json!({}));
            }
            Event::Watch { what, .. } => self.watched(now, what),
        }
    }

    fn watched(&mut self, now: Now, what: &Watched) {
        match what {
            Watched::Subscribed { expires_seconds } => {
                let text =
                    format!("subscribed to the registration's state for {expires_seconds} s");
                self.line(now, &text);
                self.json(now, "subscribed", json!({ "expires_seconds": expires_seconds }));
            }
            Watched::NotSubscribed { status } => {
                self.line(now, &format!("not subscribed to the registration's state: {status}"));
                self.json(now, "not_subscribed", json!({ "status": status }));
            }
            Watched::Notified { version, event, .. } => {
                let event = event.map_or("not named", |event| event.name());
                self.line(now, &format!("notified: version {version}, own contact {event}"));
                self.json(now, "notified", json!({ "version": version, "event": event }));
            }
            Watched::Gap { version } => {
                self.line(now, &format!("a document before version {version} was lost"));
                self.json(now, "gap", json!({ "version": version }));
            }
            Watched::Stale { version } => {
                self.line(now, &format!("notified of the past: version {version}"));
                self.json(now, "stale", json!({ "version": version }));
            }
        }
    }

    pub fn trace(&mut self, now: Now, trace: &Trace) {
        match trace {
            Trace::Sent { flow, is_protected, bytes } => {
                self.message(now, "sent", *flow, *is_protected, bytes);
            }
            Trace::Received { flow, is_protected, bytes } => {
                self.message(now, "received", *flow, *is_protected, bytes);
            }
            Trace::SetInstalled { ports, spis, pair, .. } => {
                let pair = format!("{}/{}", pair.alg.name(), pair.ealg.name());
                self.traced(now, &format!("* associations installed: {pair} {ports:?} {spis:?}"));
                let fields = json!({
                    "algorithms": pair,
                    "ports": { "uc": ports.uc, "us": ports.us, "pc": ports.pc, "ps": ports.ps },
                    "spis": { "uc": spis.uc, "us": spis.us, "pc": spis.pc, "ps": spis.ps },
                });
                self.json(now, "associations_installed", fields);
            }
            Trace::SetInUse { ends_at, .. } => {
                self.traced(now, "* associations in use");
                let ends_at = seconds(ends_at.elapsed_since_epoch());
                self.json(now, "associations_in_use", json!({ "ends_at": ends_at }));
            }
            Trace::SetRemoved { .. } => {
                self.traced(now, "* associations removed");
                self.json(now, "associations_removed", json!({}));
            }
            Trace::Dropped(why) => {
                self.traced(now, &format!("* packet dropped: {why:?}"));
                self.json(now, "dropped", json!({ "why": format!("{why:?}") }));
            }
        }
    }

    fn traced(&self, now: Now, text: &str) {
        if self.trace != TraceLevel::Off {
            self.line(now, text);
        }
    }

    fn message(&mut self, now: Now, event: &str, flow: Flow, is_protected: bool, bytes: &[u8]) {
        let text = masked(&String::from_utf8_lossy(bytes));
        let start_line = text.lines().next().unwrap_or_default().to_owned();
        let transport = flow.transport.name();
        let arrow = if event == "sent" { "->" } else { "<-" };
        let how = if is_protected { "ESP" } else { "clear" };
        let (local, remote) = (flow.local, flow.remote);
        let line = format!("{arrow} {how:<5} {transport} {local} {arrow} {remote} {start_line}");
        self.traced(now, &line);
        if self.trace == TraceLevel::Full {
            let mut out = io::stdout().lock();
            for line in text.lines() {
                let _ = writeln!(out, "          | {line}");
            }
        }
        let mut fields = json!({
            "transport": transport,
            "local": local.to_string(),
            "remote": remote.to_string(),
            "protected": is_protected,
            "start_line": start_line,
        });
        if self.trace == TraceLevel::Full {
            fields["text"] = json!(text);
        }
        self.json(now, event, fields);
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Initial => "initial",
        Kind::Refresh => "refresh",
        Kind::Deregistration => "deregistration",
    }
}

/// To the millisecond.
fn seconds(span: Duration) -> f64 {
    (span.as_millis() as f64) / 1000.0
}

/// The text with CK and IK taken out, should a P-CSCF have left them in (TS 24.229 §5.2.2).
fn masked(text: &str) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some(at) = rest.find('=') {
        let (before, value) = rest.split_at(at + 1);
        out.push_str(before);
        rest = value;
        let name = before[..at].trim_end();
        let start = name.rfind(|c: char| !c.is_ascii_alphanumeric()).map_or(0, |at| at + 1);
        let name = &name[start..];
        if name.eq_ignore_ascii_case("ck") || name.eq_ignore_ascii_case("ik") {
            let is_quoted = value.trim_start().starts_with('"');
            let skipped = value.len() - value.trim_start().len() + usize::from(is_quoted);
            let inner = &value[skipped..];
            let ends: &[char] = if is_quoted { &['"', '\r'] } else { &[',', ' ', ';', '\r'] };
            let end = inner.find(ends).unwrap_or(inner.len());
            out.push_str(&value[..skipped]);
            out.push_str("<secret>");
            rest = &inner[end..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TS 24.229 §5.2.2: the P-CSCF takes ck and ik out; where it does not, they show not here.
    #[test]
    fn keys_of_a_challenge_are_masked() {
        let line = "WWW-Authenticate: Digest realm=\"h\",nonce=\"bm9uY2U=\",ck=\"00112233\",ik = \
                    \"44556677\",qop=\"auth\"\r\nX: ;ik=8899\r\n\r\n";
        let shown = masked(line);
        for octets in ["00112233", "44556677", "8899"] {
            assert!(!shown.contains(octets), "{shown}");
        }
        assert!(shown.contains("nonce=\"bm9uY2U=\",ck=\"<secret>\","), "{shown}");
        assert!(shown.ends_with("qop=\"auth\"\r\nX: ;ik=<secret>\r\n\r\n"), "{shown}");
        let plain = "REGISTER sip:h SIP/2.0\r\nFrom: <sip:a@h>;tag=ik\r\n\r\n";
        assert_eq!(masked(plain), plain);
    }
}
