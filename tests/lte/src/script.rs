//! Radio events: what a command asks for at once, and a script at its time.
//!
//! A script is TOML:
//!
//! ```toml
//! [[event]]
//! at_seconds = 10.0
//! do = "handover"              # the UE, or all UEs in the cell `from`, or "*" for all
//! ue = "001010000000001"
//! cell = "north"
//!
//! [[event]]
//! at_seconds = 20.0
//! every_seconds = 60.0         # again and again
//! do = "outage"
//! cell = "north"               # or a UE
//! for_seconds = 5.0            # absent: until "restore"
//! ```

use std::time::Duration;

use serde::Deserialize;

use crate::link::Profile;

/// What a script may hold.
const EVENTS_LIMIT: usize = 100_000;

/// A script, in the order of its times.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    #[serde(rename = "event", default)]
    pub events: Vec<Event>,
}

/// A command with its time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "toml::Table")]
pub struct Event {
    /// Since the script began.
    pub at_seconds: f64,
    /// Absent: once.
    pub every_seconds: Option<f64>,
    pub command: Command,
}

impl TryFrom<toml::Table> for Event {
    type Error = String;

    /// In two steps, because a flattened table would let unknown keys pass.
    fn try_from(mut table: toml::Table) -> Result<Event, String> {
        let mut time = |key: &str| match table.remove(key) {
            None => Ok(None),
            Some(value) => match (value.as_float(), value.as_integer()) {
                (Some(seconds), _) => Ok(Some(seconds)),
                (None, Some(seconds)) => Ok(Some(seconds as f64)),
                _ => Err(format!("{key} = {value}: expected seconds")),
            },
        };
        let at_seconds = time("at_seconds")?.ok_or("an event needs at_seconds")?;
        let every_seconds = time("every_seconds")?;
        let command = Command::deserialize(table).map_err(|error| error.to_string())?;
        Ok(Event { at_seconds, every_seconds, command })
    }
}

/// What happens to whom.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    #[serde(rename = "do")]
    pub what: What,
    /// An IMSI, or `*` for all UEs.
    #[serde(default)]
    pub ue: Option<String>,
    /// Of a handover, the target; of an outage or a link, the cell that it happens to.
    #[serde(default)]
    pub cell: Option<String>,
    /// All UEs of this cell, instead of `ue`.
    #[serde(default)]
    pub from: Option<String>,
    /// The S-GW that shall serve the UE after the handover.
    #[serde(default)]
    pub sgw: Option<String>,
    /// How long the UE is in neither cell.
    #[serde(default)]
    pub gap_milliseconds: Option<u64>,
    /// An outage or a link ends after this.
    #[serde(default)]
    pub for_seconds: Option<f64>,
    /// Many UEs: one after the other, spread evenly over this time.
    #[serde(default)]
    pub over_seconds: Option<f64>,
    /// Of `link`.
    #[serde(default)]
    pub uplink: Option<Profile>,
    #[serde(default)]
    pub downlink: Option<Profile>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// To another cell; an idle UE selects it.
    #[default]
    Handover,
    /// The UE's S1 is released.
    Idle,
    /// The network pages the UE.
    Page,
    /// A cell is off the air, or a UE is out of coverage.
    Outage,
    /// The end of an outage.
    Restore,
    /// The link of a UE, or of all UEs in a cell that have none of their own, behaves otherwise.
    Link,
    /// The network detaches the UE, which is told.
    Detach,
    /// The P-GW forgets the UE's session, which shows by Error Indications.
    Lose,
}

impl What {
    pub const ALL: [(What, &'static str); 8] = [
        (What::Handover, "handover"),
        (What::Idle, "idle"),
        (What::Page, "page"),
        (What::Outage, "outage"),
        (What::Restore, "restore"),
        (What::Link, "link"),
        (What::Detach, "detach"),
        (What::Lose, "lose"),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(what, _)| *what == self).map_or("", |(_, name)| name)
    }
}

impl Script {
    /// Reads and checks a script; the error names the event by its number.
    pub fn parse(text: &str) -> Result<Script, String> {
        let mut script: Script = toml::from_str(text).map_err(|error| error.to_string())?;
        if script.events.len() > EVENTS_LIMIT {
            return Err(format!("more than {EVENTS_LIMIT} events"));
        }
        for (index, event) in script.events.iter().enumerate() {
            let named = |error| format!("event {}: {error}", index + 1);
            seconds("at_seconds", event.at_seconds).map_err(named)?;
            if let Some(every) = event.every_seconds {
                seconds("every_seconds", every).map_err(named)?;
                if every < 0.001 {
                    return Err(named(format!("every_seconds = {every}: expected 0.001 or more")));
                }
            }
            event.command.check().map_err(named)?;
        }
        script.events.sort_by(|a, b| a.at_seconds.total_cmp(&b.at_seconds));
        Ok(script)
    }
}

/// Up to a year.
fn seconds(name: &str, value: f64) -> Result<Duration, String> {
    match (0.0..=31_536_000.0).contains(&value) {
        true => Ok(Duration::from_secs_f64(value)),
        false => Err(format!("{name} = {value}: expected 0 to 31536000")),
    }
}

impl Command {
    /// What is wrong with it as far as it shows without the network.
    pub fn check(&self) -> Result<(), String> {
        let name = self.what.name();
        for (key, value) in [("for_seconds", self.for_seconds), ("over_seconds", self.over_seconds)]
        {
            value.map_or(Ok(Duration::ZERO), |value| seconds(key, value))?;
        }
        for profile in self.uplink.iter().chain(&self.downlink) {
            profile.check()?;
        }
        if self.ue.is_some() && self.from.is_some() {
            return Err(format!("{name}: either ue or from"));
        }
        if let Some(ue) = &self.ue
            && ue != "*"
            && Imsi::parse(ue).is_none()
        {
            return Err(format!("{name}: ue = {ue}: expected an IMSI of 6 to 15 digits, or *"));
        }
        let has_ues = self.ue.is_some() || self.from.is_some();
        let is_of_cell = matches!(self.what, What::Outage | What::Restore | What::Link);
        match (self.what, has_ues, self.cell.is_some()) {
            (What::Handover, true, true) => {}
            (What::Handover, ..) => return Err("handover: ue or from, and cell".into()),
            (_, true, false) => {}
            (_, false, true) if is_of_cell => {}
            _ if is_of_cell => return Err(format!("{name}: ue, from or cell")),
            _ => return Err(format!("{name}: ue or from")),
        }
        let handover_only =
            [("sgw", self.sgw.is_some()), ("gap_milliseconds", self.gap_milliseconds.is_some())];
        for (key, is_there) in handover_only {
            if is_there && self.what != What::Handover {
                return Err(format!("{name}: {key} is for handover"));
            }
        }
        let has_links = self.uplink.is_some() || self.downlink.is_some();
        if has_links && self.what != What::Link {
            return Err(format!("{name}: uplink and downlink are for link"));
        }
        if self.for_seconds.is_some() && !matches!(self.what, What::Outage | What::Link) {
            return Err(format!("{name}: for_seconds is for outage and link"));
        }
        Ok(())
    }

    /// A command in words, as the administrator types it:
    ///
    /// ```text
    /// handover UE CELL [sgw NAME] [gap MILLISECONDS] [over SECONDS]
    /// idle|page|detach|lose UE [over SECONDS]
    /// outage UE|CELL [for SECONDS] | restore UE|CELL
    /// link UE|CELL [up JSON] [down JSON] [for SECONDS]
    /// ```
    ///
    /// UE is an IMSI, `*` for all, or `in:CELL` for all of a cell. `link` without a profile takes
    /// back what was said before.
    pub fn from_words(words: &[String]) -> Result<Command, String> {
        let mut words = words.iter().map(String::as_str);
        let name = words.next().unwrap_or_default();
        let known = What::ALL.iter().find(|(_, known)| *known == name);
        let (what, _) = known.ok_or_else(|| format!("unknown command: {name}\n{USAGE}"))?;
        let mut command = Command { what: *what, ..Command::default() };
        let subject = words.next().ok_or_else(|| format!("{name}: of what?\n{USAGE}"))?.to_owned();
        if let Some(cell) = subject.strip_prefix("in:") {
            command.from = Some(cell.to_owned());
        } else if subject == "*" || subject.bytes().all(|byte| byte.is_ascii_digit()) {
            command.ue = Some(subject);
        } else {
            command.cell = Some(subject);
        }
        if *what == What::Handover {
            command.cell = words.next().map(str::to_owned);
        }
        while let Some(key) = words.next() {
            let value = words.next().ok_or_else(|| format!("{name}: {key} needs a value"))?;
            let number = || {
                let number = value.parse::<f64>();
                number.map_err(|_| format!("{name}: {key} {value}: expected a number"))
            };
            let profile = || {
                let profile = serde_json::from_str::<Profile>(value);
                profile.map_err(|error| format!("{name}: {key} {value}: {error}"))
            };
            match key {
                "sgw" => command.sgw = Some(value.to_owned()),
                "gap" => {
                    let gap = value.parse();
                    let wanted = |_| format!("{name}: gap {value}: expected milliseconds");
                    command.gap_milliseconds = Some(gap.map_err(wanted)?);
                }
                "for" => command.for_seconds = Some(number()?),
                "over" => command.over_seconds = Some(number()?),
                "up" => command.uplink = Some(profile()?),
                "down" => command.downlink = Some(profile()?),
                _ => return Err(format!("{name}: unknown word {key}\n{USAGE}")),
            }
        }
        command.check()?;
        Ok(command)
    }
}

const USAGE: &str = "\
handover UE CELL [sgw NAME] [gap MILLISECONDS] [over SECONDS]
idle|page|detach|lose UE [over SECONDS]
outage UE|CELL [for SECONDS]
restore UE|CELL
link UE|CELL [up JSON] [down JSON] [for SECONDS]
cells
ue IMSI
script TOML
UE: an IMSI, * for all, or in:CELL for all of a cell";

/// An IMSI in eight octets (TS 23.003 §2.2): its digits behind a 1, which keeps leading zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Imsi(u64);

impl Imsi {
    pub fn parse(text: &str) -> Option<Imsi> {
        let is_imsi =
            (6..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        is_imsi.then(|| format!("1{text}").parse().ok().map(Imsi)).flatten()
    }

    /// Subscribers that follow one another have numbers that do.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Imsi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.to_string()[1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn scripts_are_read_and_put_in_order() {
        let script = Script::parse(
            "[[event]]\nat_seconds = 2\nevery_seconds = 3.5\ndo = \"outage\"\ncell = \"north\"\n\
             for_seconds = 0.5\n[[event]]\nat_seconds = 1\ndo = \"link\"\nue = \"*\"\n\
             uplink = { loss = 0.5 }\n",
        )
        .unwrap();
        assert_eq!(script.events[0].command.what, What::Link);
        assert_eq!(script.events[0].command.uplink.as_ref().unwrap().loss, 0.5);
        assert_eq!(script.events[1].every_seconds, Some(3.5));
    }

    #[test]
    fn mistakes_in_scripts_are_named() {
        let event = "[[event]]\nat_seconds = 1.0\n";
        for (rest, named) in [
            ("do = \"jump\"", "jump"),
            ("do = \"idle\"", "event 1: idle: ue or from"),
            ("do = \"handover\"\nue = \"001010000000001\"", "and cell"),
            ("do = \"idle\"\nue = \"01\"", "expected an IMSI"),
            ("do = \"idle\"\nue = \"*\"\nsgw = \"sgw2\"", "sgw is for handover"),
            ("do = \"link\"\nue = \"*\"\nuplink = { loss = 2.0 }", "loss"),
            ("do = \"outage\"\ncell = \"c\"\nfor_seconds = -1.0", "for_seconds"),
            ("do = \"outage\"\ncell = \"c\"\nfor = 1.0", "for"),
            ("do = \"outage\"\ncell = \"c\"\nevery_seconds = 0.0", "0.001 or more"),
        ] {
            let error = Script::parse(&format!("{event}{rest}")).unwrap_err();
            assert!(error.contains(named), "{rest}: {error}");
        }
    }

    #[test]
    fn words_are_commands() {
        let command =
            Command::from_words(&words("handover 001010000000001 north sgw sgw2 gap 30")).unwrap();
        assert_eq!((command.sgw.as_deref(), command.gap_milliseconds), (Some("sgw2"), Some(30)));
        let command = Command::from_words(&words("outage north for 2.5")).unwrap();
        assert_eq!((command.cell.as_deref(), command.for_seconds), (Some("north"), Some(2.5)));
        let command = Command::from_words(&words("detach in:north over 10")).unwrap();
        assert_eq!((command.from.as_deref(), command.over_seconds), (Some("north"), Some(10.0)));
        for (text, named) in [
            ("jump 001010000000001", "unknown command: jump"),
            ("handover 001010000000001", "and cell"),
            ("handover", "of what?"),
            ("outage north for", "needs a value"),
            ("outage north for ever", "expected a number"),
            ("idle north", "ue or from"),
        ] {
            let error = Command::from_words(&words(text)).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn imsis_keep_their_zeros() {
        assert_eq!(Imsi::parse("001010000000001").unwrap().to_string(), "001010000000001");
        assert_ne!(Imsi::parse("001010"), Imsi::parse("0001010"));
        assert_eq!(Imsi::parse("0010100000000011"), None);
    }
}
