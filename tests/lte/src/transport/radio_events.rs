//! Radio events: commands that are carried out now, and what scripts and commands have put off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::paging::Cause;
use super::{Output, Phase, Transport};
use crate::attach::BearerId;
use crate::link::Profile;
use crate::radio::Direction;
use crate::script::{Command, Imsi, Script, What};

/// What is to be done later, by time and order of arrival.
#[derive(Debug)]
pub(super) struct Scheduled {
    tasks: BTreeMap<(Duration, u64), Task>,
    number: u64,
    limit: usize,
}

#[derive(Clone, Debug)]
struct Task {
    command: Arc<Command>,
    /// One UE of the command; absent: all that it means.
    bearer: Option<BearerId>,
    every: Option<Duration>,
}

/// What a command is about.
enum Subject {
    Ues(Vec<BearerId>),
    Cell(usize),
}

impl Scheduled {
    pub fn new(limit: usize) -> Scheduled {
        Scheduled { tasks: BTreeMap::new(), number: 0, limit }
    }

    pub fn next(&self) -> Option<Duration> {
        self.tasks.keys().next().map(|(at, _)| *at)
    }

    fn has_room_for(&self, count: usize) -> Result<(), String> {
        match self.tasks.len().saturating_add(count) > self.limit {
            true => Err("limits.events is reached".into()),
            false => Ok(()),
        }
    }

    fn add(&mut self, at: Duration, task: Task) {
        self.number += 1;
        self.tasks.insert((at, self.number), task);
    }
}

impl Transport {
    /// Puts the events of a script on the calendar; its time begins now. Nothing is put there when
    /// an event names a cell or an S-GW that does not exist.
    pub fn start_script(&mut self, now: Duration, script: Script) -> Result<usize, String> {
        for (index, event) in script.events.iter().enumerate() {
            self.check_names(&event.command)
                .map_err(|error| format!("event {}: {error}", index + 1))?;
        }
        self.scheduled.has_room_for(script.events.len())?;
        let count = script.events.len();
        for event in script.events {
            let every = event.every_seconds.map(Duration::from_secs_f64);
            let task = Task { command: Arc::new(event.command), bearer: None, every };
            self.scheduled.add(now + Duration::from_secs_f64(event.at_seconds), task);
        }
        Ok(count)
    }

    fn check_names(&self, command: &Command) -> Result<(), String> {
        for cell in command.cell.iter().chain(&command.from) {
            self.cell_named(cell)?;
        }
        command.sgw.as_ref().map_or(Ok(0), |sgw| self.sgw_named(sgw)).map(|_| ())
    }

    /// What is due of scripts and of commands over time.
    pub(super) fn run_scheduled(&mut self, now: Duration, out: &mut Vec<Output>) {
        while let Some(entry) = self.scheduled.tasks.first_entry()
            && entry.key().0 <= now
        {
            let ((at, _), task) = entry.remove_entry();
            if let Some(every) = task.every {
                // What was slept through is not made up for.
                let next = (at + every).max(now);
                self.scheduled.add(next, task.clone());
            }
            match task.bearer {
                // A UE that is gone, or somewhere else by now, is counted and no more.
                Some(bearer) => {
                    if self.act(now, &task.command, bearer, out).is_err() {
                        self.counters.events_refused += 1;
                    }
                }
                None => match self.command(now, &task.command, out) {
                    Ok(done) => tracing::info!(event = task.command.what.name(), "{done}"),
                    Err(error) => tracing::warn!(event = task.command.what.name(), "{error}"),
                },
            }
        }
    }

    /// Carries a command out, and says what came of it in one line.
    pub fn command(
        &mut self,
        now: Duration,
        command: &Command,
        out: &mut Vec<Output>,
    ) -> Result<String, String> {
        let done = self.begin(now, command, out);
        match done {
            Ok(_) => *self.counters.events.entry(command.what).or_default() += 1,
            Err(_) => self.counters.events_refused += 1,
        }
        done
    }

    fn begin(
        &mut self,
        now: Duration,
        command: &Command,
        out: &mut Vec<Output>,
    ) -> Result<String, String> {
        self.check_names(command)?;
        let name = command.what.name();
        let ues = match self.subject(command)? {
            Subject::Cell(cell) => return self.change_cell(now, command, cell),
            Subject::Ues(ues) => ues,
        };
        if let Some(over) = command.over_seconds
            && ues.len() > 1
        {
            self.scheduled.has_room_for(ues.len())?;
            let step = Duration::from_secs_f64(over) / ues.len() as u32;
            let command = Arc::new(command.clone());
            let count = ues.len();
            for (index, bearer) in ues.into_iter().enumerate() {
                let task = Task { command: command.clone(), bearer: Some(bearer), every: None };
                self.scheduled.add(now + step * index as u32, task);
            }
            return Ok(format!("{name}: {count} UEs, over {over} s"));
        }
        let count = ues.len();
        let mut why = None;
        let mut refused = 0;
        for bearer in ues {
            if let Err(error) = self.act(now, command, bearer, out) {
                refused += 1;
                why = Some(error);
            }
        }
        match (count, refused, why) {
            (1, 1, Some(why)) => Err(format!("{name}: {why}")),
            (_, 0, _) => Ok(format!("{name}: {count} UEs")),
            (_, _, why) => {
                self.counters.events_refused += refused;
                let why = why.unwrap_or_default();
                Ok(format!("{name}: {count} UEs, {refused} of them not: {why}"))
            }
        }
    }

    fn subject(&self, command: &Command) -> Result<Subject, String> {
        if let Some(ue) = &command.ue {
            if ue == "*" {
                return Ok(Subject::Ues(self.ues.keys().copied().collect()));
            }
            let bearer = Imsi::parse(ue).and_then(|imsi| self.by_imsi.get(&imsi));
            return match bearer {
                Some(bearer) => Ok(Subject::Ues(vec![*bearer])),
                None => Err(format!("no UE {ue} is attached")),
            };
        }
        if let Some(from) = &command.from {
            let cell = self.cell_named(from)?;
            return Ok(Subject::Ues(self.ues_in(cell)));
        }
        match &command.cell {
            Some(cell) => self.cell_named(cell).map(Subject::Cell),
            None => Err("of what?".into()),
        }
    }

    fn ues_in(&self, cell: usize) -> Vec<BearerId> {
        self.ues.iter().filter(|(_, ue)| ue.cell == cell).map(|(bearer, _)| *bearer).collect()
    }

    fn cell_named(&self, name: &str) -> Result<usize, String> {
        let cell = self.cells.iter().position(|cell| cell.name == name);
        cell.ok_or_else(|| format!("there is no cell {name}"))
    }

    fn sgw_named(&self, name: &str) -> Result<usize, String> {
        let sgw = self.network.sgws.iter().position(|sgw| sgw.name == name);
        sgw.ok_or_else(|| format!("there is no S-GW {name}"))
    }

    /// One UE of a command.
    fn act(
        &mut self,
        now: Duration,
        command: &Command,
        bearer: BearerId,
        out: &mut Vec<Output>,
    ) -> Result<(), String> {
        if !self.ues.contains_key(&bearer) {
            return Err("the UE is gone".into());
        }
        match command.what {
            What::Handover => {
                let cell = self.cell_named(command.cell.as_deref().unwrap_or_default())?;
                let sgw = match &command.sgw {
                    Some(sgw) => Some(self.sgw_named(sgw)?),
                    None => None,
                };
                let gap = command.gap_milliseconds.unwrap_or(self.handover.gap_milliseconds);
                self.hand_over(now, bearer, cell, sgw, Duration::from_millis(gap), out)
            }
            What::Idle => match self.go_idle(bearer, Cause::Command) {
                true => Ok(()),
                false => Err("the UE is idle".into()),
            },
            What::Page => match self.ues.get(&bearer).map(|ue| ue.phase) {
                Some(Phase::Idle) => {
                    self.page(now, bearer, 1, now);
                    Ok(())
                }
                _ => Err("the UE is not idle".into()),
            },
            What::Outage => {
                self.set_coverage(bearer, false);
                self.go_idle(bearer, Cause::RadioConnectionLost);
                self.put_off(now, command, bearer, What::Restore)
            }
            What::Restore => {
                self.set_coverage(bearer, true);
                Ok(())
            }
            What::Link => {
                let profile = |profile: &Option<Profile>| profile.clone().map(Arc::new);
                let (up, down) = (profile(&command.uplink), profile(&command.downlink));
                let is_reset = up.is_none() && down.is_none();
                for (direction, own) in [(Direction::Uplink, up), (Direction::Downlink, down)] {
                    if own.is_some() || is_reset {
                        self.own_link(bearer, direction, own);
                    }
                }
                self.put_off(now, command, bearer, What::Link)
            }
            What::Detach => {
                self.released(bearer, "detached by the network", out);
                Ok(())
            }
            What::Lose => {
                self.network.pgw.delete_session(bearer);
                Ok(())
            }
        }
    }

    fn set_coverage(&mut self, bearer: BearerId, is_covered: bool) {
        if let Some(ue) = self.ues.get_mut(&bearer) {
            ue.is_out = !is_covered;
        }
    }

    /// What ends the event on this UE after its time, if it has one.
    fn put_off(
        &mut self,
        now: Duration,
        command: &Command,
        bearer: BearerId,
        end: What,
    ) -> Result<(), String> {
        let Some(seconds) = command.for_seconds else { return Ok(()) };
        self.scheduled.has_room_for(1)?;
        let command = Arc::new(Command { what: end, ..Command::default() });
        let task = Task { command, bearer: Some(bearer), every: None };
        self.scheduled.add(now + Duration::from_secs_f64(seconds), task);
        Ok(())
    }

    /// A command that is about a cell itself.
    fn change_cell(
        &mut self,
        now: Duration,
        command: &Command,
        cell: usize,
    ) -> Result<String, String> {
        let name = self.cells[cell].name.clone();
        if let Some(seconds) = command.for_seconds {
            self.scheduled.has_room_for(1)?;
            let end = if command.what == What::Outage { What::Restore } else { What::Link };
            let end = Command { what: end, cell: Some(name.clone()), ..Command::default() };
            let task = Task { command: Arc::new(end), bearer: None, every: None };
            self.scheduled.add(now + Duration::from_secs_f64(seconds), task);
        }
        match command.what {
            What::Outage => {
                self.cells[cell].is_up = false;
                let ues = self.ues_in(cell);
                let is_released = |bearer: &&BearerId| {
                    // TS 36.413 §8.3.2: Radio Connection With UE Lost.
                    self.go_idle(**bearer, Cause::RadioConnectionLost)
                };
                let released = ues.iter().filter(is_released).count();
                Ok(format!("outage: cell {name}, {} UEs, {released} of them connected", ues.len()))
            }
            What::Restore => {
                self.cells[cell].is_up = true;
                Ok(format!("restore: cell {name}, {} UEs", self.cells[cell].ues))
            }
            What::Link => {
                let is_reset = command.uplink.is_none() && command.downlink.is_none();
                let sides = [
                    (Direction::Uplink, &command.uplink),
                    (Direction::Downlink, &command.downlink),
                ];
                for (direction, profile) in sides {
                    let side = direction as usize;
                    if is_reset {
                        self.cells[cell].links[side] = self.cells[cell].configured[side].clone();
                    } else if let Some(profile) = profile {
                        self.cells[cell].links[side] = Some(Arc::new(profile.clone()));
                    }
                    self.refresh_links(cell, direction);
                }
                Ok(format!("link: cell {name}, {} UEs", self.cells[cell].ues))
            }
            _ => Err(format!("{}: of a UE, not of a cell", command.what.name())),
        }
    }

    /// UEs in the cell without a link of their own get that of the cell.
    fn refresh_links(&mut self, cell: usize, direction: Direction) {
        let link = self.link_in(cell, direction);
        let in_cell = self.ues.values_mut().filter(|ue| ue.cell == cell);
        for ue in in_cell.filter(|ue| !ue.has_own_link[direction as usize]) {
            match direction {
                Direction::Uplink => ue.uplink.set_profile(link.clone()),
                Direction::Downlink => ue.downlink.set_profile(link.clone()),
            }
        }
    }

    /// All cells, one a line.
    pub fn describe_cells(&self) -> String {
        let lines = self.cells.iter().map(|cell| {
            let enodeb = &self.network.enodebs[cell.enodeb].name;
            let air = if cell.is_up { "on" } else { "off" };
            format!("{} enodeb {enodeb} air {air} ues {}\n", cell.name, cell.ues)
        });
        lines.collect()
    }

    /// Where a UE is, in one line.
    pub fn describe_ue(&self, imsi: &str) -> Result<String, String> {
        let found = Imsi::parse(imsi).and_then(|imsi| self.by_imsi.get(&imsi));
        let bearer = found.ok_or_else(|| format!("no UE {imsi} is attached"))?;
        let ue = self.ues.get(bearer).ok_or_else(|| format!("no UE {imsi} is attached"))?;
        let state = match ue.phase {
            Phase::Connected => "connected",
            Phase::Moving { .. } => "handover",
            Phase::Idle => "idle",
            Phase::Paged { .. } => "paged",
            Phase::Waking { .. } => "service-request",
        };
        let cell = &self.cells[ue.cell];
        let sgw = self.network.sgw_of(*bearer).map_or("", |sgw| &self.network.sgws[sgw].name);
        let addresses = self.network.pgw.addresses_of(*bearer).unwrap_or_default();
        let mut line = format!(
            "{imsi} state {state} cell {} enodeb {} sgw {sgw}",
            cell.name, self.network.enodebs[cell.enodeb].name
        );
        line.extend(addresses.v4.map(|address| format!(" v4 {address}")));
        line.extend(addresses.v6.map(|address| format!(" v6 {address}")));
        if ue.is_out {
            line.push_str(" out-of-coverage");
        }
        line.push('\n');
        Ok(line)
    }
}
