//! Inputs on their way from sockets to the core, and what the shell counts of its own work.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::Notify;

use crate::dns::Answer;
use crate::node::Input;
use crate::stats::Histogram;

/// Inputs waiting for the next turn. One thread; tasks push, the loop takes.
#[derive(Debug)]
pub(super) struct Inbox {
    waiting: RefCell<VecDeque<Input>>,
    arrived: Notify,
    room: Notify,
    limit: usize,
    pub counts: Counts,
}

/// What the shell counts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub turns: Cell<u64>,
    pub inputs: [Cell<u64>; KINDS.len()],
    pub send_errors_udp: Cell<u64>,
    pub send_errors_tcp: Cell<u64>,
    pub send_errors_diameter: Cell<u64>,
    /// Connections refused because there were as many as `[limits]` allows.
    pub refused_connections: Cell<u64>,
    pub closed_idle: Cell<u64>,
    /// Streams that could not be cut into messages.
    pub broken_streams: Cell<u64>,
    pub commit: RefCell<Histogram>,
    /// Answers of the DNS, by [`DNS_OUTCOMES`].
    pub dns: [Cell<u64>; DNS_OUTCOMES.len()],
    pub dns_took: RefCell<Histogram>,
}

/// What a question to the DNS ended in, as `tessera_dns_queries_total` labels it.
pub(super) const DNS_OUTCOMES: [&str; 3] = ["found", "nothing", "failed"];

/// Kinds of inputs as `tessera_shell_inputs_total` labels them.
pub(super) const KINDS: [&str; 15] = [
    "start",
    "sip",
    "unreachable",
    "diameter",
    "opened",
    "connect_failed",
    "closed",
    "resolved",
    "sas_installed",
    "admin",
    "drain",
    "timeout",
    "sas_audited",
    "sas_expired",
    "ended",
];

pub(super) fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

impl Counts {
    pub fn input(&self, input: &Input) {
        let kind = match input {
            Input::Start { .. } => 0,
            Input::Sip { .. } => 1,
            Input::Unreachable { .. } => 2,
            Input::Diameter { .. } => 3,
            Input::Opened { .. } => 4,
            Input::ConnectFailed { .. } => 5,
            Input::Closed { .. } => 6,
            Input::Resolved { .. } => 7,
            Input::SasInstalled { .. } => 8,
            Input::Admin { .. } => 9,
            Input::Drain => 10,
            Input::Timeout => 11,
            Input::SasAudited { .. } => 12,
            Input::SasExpired { .. } => 13,
            Input::Ended { .. } => 14,
        };
        count(&self.inputs[kind]);
    }

    pub fn dns(&self, answer: &Answer, took: Duration) {
        let outcome = match answer {
            Answer::Found { .. } => 0,
            Answer::Nothing { .. } => 1,
            Answer::Failed { .. } => 2,
        };
        count(&self.dns[outcome]);
        self.dns_took.borrow_mut().observe(took);
    }
}

impl Inbox {
    /// `limit`: from how many waiting inputs on no socket is read.
    pub fn new(limit: usize) -> Inbox {
        Inbox {
            waiting: RefCell::default(),
            arrived: Notify::new(),
            room: Notify::new(),
            limit: limit.max(1),
            counts: Counts::default(),
        }
    }

    /// Readers of sockets see to it that there is room first; answers to the core's own questions
    /// are bounded by the questions.
    pub fn push(&self, input: Input) {
        self.waiting.borrow_mut().push_back(input);
        self.arrived.notify_one();
    }

    pub fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub fn has_room(&self) -> bool {
        self.len() < self.limit
    }

    /// Waits until [`Inbox::has_room`].
    pub async fn room(&self) {
        while !self.has_room() {
            self.room.notified().await;
        }
    }

    /// Waits until something is in.
    pub async fn arrived(&self) {
        while self.len() == 0 {
            self.arrived.notified().await;
        }
    }

    /// Moves up to `most` inputs to `inputs`.
    pub fn take(&self, most: usize, inputs: &mut Vec<Input>) {
        let had_room = self.has_room();
        let mut waiting = self.waiting.borrow_mut();
        let count = waiting.len().min(most);
        inputs.extend(waiting.drain(..count));
        drop(waiting);
        if !had_room && self.has_room() {
            self.room.notify_waiters();
        }
    }
}
