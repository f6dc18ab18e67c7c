//! The contract between a core and whatever runs it.
//!
//! A network function is a value with one method: given a time and an [`Input`] it changes, and
//! appends [`Output`]s to a list. The shell (`net::run`) and the simulator both run it.
//!
//! Outputs run in the order in which they were appended, and [`Output::Persist`] is on disk before
//! anything behind it is visible outside. An effect that can fail is a question: it carries an id
//! and comes back as an input ([`Output::Resolve`], [`Output::InstallSas`]). An effect without an
//! id cannot fail from the core's point of view: a lost datagram is the transaction's business,
//! and a store that does not store ends the process.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Add;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::dns;
use crate::ipsec::audit::{Audit, KnownSet};
use crate::ipsec::sa::{SaSet, SetId};
use crate::questions::QuestionId;
use crate::stats::Samples;

/// Time since the Unix epoch. Only ever an argument; never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Now(Duration);

impl Now {
    pub const fn since_epoch(elapsed: Duration) -> Now {
        Now(elapsed)
    }

    pub const fn from_millis(millis: u64) -> Now {
        Now(Duration::from_millis(millis))
    }

    pub const fn elapsed_since_epoch(self) -> Duration {
        self.0
    }

    pub fn as_millis(self) -> u64 {
        self.0.as_millis() as u64
    }

    pub fn as_secs(self) -> u64 {
        self.0.as_secs()
    }

    /// The time from `earlier` to this; zero when `earlier` is later.
    pub fn since(self, earlier: Now) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Now {
    type Output = Now;
    fn add(self, span: Duration) -> Now {
        Now(self.0.saturating_add(span))
    }
}

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0.as_secs(), self.0.subsec_millis())
    }
}

/// Milliseconds since the Unix epoch.
impl Serialize for Now {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_millis().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Now {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Now, D::Error> {
        u64::deserialize(deserializer).map(Now::from_millis)
    }
}

/// A transport of SIP (RFC 3261 §18).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    /// As in a Via header: `UDP`, `TCP`.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        }
    }

    pub const fn is_reliable(self) -> bool {
        matches!(self, Transport::Tcp)
    }
}

/// Where a SIP message came from, or where one goes to.
///
/// For TCP a flow names a connection: the shell uses the open one between the two addresses, or
/// opens one from `local`. A local port of 0 means any: an open connection to `remote` is used
/// whatever its local port, and a new one gets an ephemeral port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Flow {
    pub transport: Transport,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// A Diameter transport connection, numbered by the shell and never reused within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

/// A configured Diameter peer: its place in the configuration's list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerIndex(pub u32);

/// One row of a daemon's store. `value` of `None` removes the row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Kind of row, as the store's operator reads it: `registration`, `set`, ...
    pub kind: &'static str,
    pub key: String,
    /// JSON text, so that any SQLite tool shows it.
    pub value: Option<String>,
}

/// A row read back at the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredRecord {
    pub kind: String,
    pub key: String,
    pub value: String,
}

/// How long a set lives in a data plane that outlives the core when the core says nothing more of it:
/// longer than a temporary set may wait for its answer (240 s).
pub const UNKEPT_SAS_LIFE: Duration = Duration::from_secs(300);

/// What a shell tells a core.
#[derive(Debug)]
pub enum Input {
    /// Once, first: what the store holds.
    Start { records: Vec<StoredRecord> },
    /// One datagram, or one message cut from a stream.
    Sip { flow: Flow, bytes: Bytes },
    /// Nothing listens there, or the connection could not be opened, or it broke, or ended while something
    /// was being sent on it.
    Unreachable { flow: Flow },
    /// A connection that was open is closed in order, and all that was sent on it has left this process: answers
    /// are taken to have arrived, questions will not be answered on it any more.
    Ended { flow: Flow },
    /// One whole Diameter message.
    Diameter { connection: ConnectionId, bytes: Bytes },
    /// A Diameter connection is up. `peer` is what [`Output::Connect`] named, or `None` when the
    /// other side opened it.
    Opened {
        connection: ConnectionId,
        peer: Option<PeerIndex>,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// [`Output::Connect`] failed.
    ConnectFailed { peer: PeerIndex },
    /// A Diameter connection is gone.
    Closed { connection: ConnectionId },
    /// Answer to [`Output::Resolve`].
    Resolved { id: QuestionId, answer: dns::Answer },
    /// Answer to [`Output::InstallSas`]; the error is for the log.
    SasInstalled { id: QuestionId, result: Result<(), String> },
    /// Answer to [`Output::AuditSas`]; the error is for the log.
    SasAudited { id: QuestionId, result: Result<Audit, String> },
    /// The data plane has ended a set by itself: its own limit was reached (TS 33.203 §7.4).
    SasExpired { set: SetId },
    /// An operator's command; answered with [`Output::Reply`].
    Admin { id: u64, command: Vec<String> },
    /// Stop taking new work: the process is about to end.
    Drain,
    /// The time asked for by [`Node::next_timeout`] has come.
    Timeout,
}

/// What a core asks of a shell.
#[derive(Debug)]
pub enum Output {
    Sip {
        flow: Flow,
        bytes: Bytes,
    },
    Diameter {
        connection: ConnectionId,
        bytes: Bytes,
    },
    /// Open a transport connection to `host:port`; comes back as `Opened` or `ConnectFailed`.
    Connect {
        peer: PeerIndex,
        host: String,
        port: u16,
    },
    Close {
        connection: ConnectionId,
    },
    Resolve {
        id: QuestionId,
        question: dns::Question,
    },
    /// Install the four associations and their policies; comes back as `SasInstalled`. Unless
    /// [`Output::KeepSas`] says otherwise they end by themselves after [`UNKEPT_SAS_LIFE`].
    InstallSas {
        id: QuestionId,
        set: Box<SaSet>,
    },
    /// A set ends at `until`. The core removes it then; should it not be there to do so, a data plane
    /// that outlives it (the kernel) ends the set a little later by itself.
    KeepSas {
        set: SetId,
        until: Now,
    },
    /// These are all sets that the core knows. The data plane keeps the ones that it holds in full,
    /// removes whatever else is its own, and comes back with `SasAudited`. Of sets that an earlier
    /// run installed it learns in this way.
    AuditSas {
        id: QuestionId,
        known: Vec<KnownSet>,
    },
    /// Remove all of a set; unknown sets are ignored.
    RemoveSas {
        set: SetId,
    },
    Persist {
        record: Record,
    },
    /// The answer to [`Input::Admin`]. One that begins with `commands:` lists what there is, as there is no
    /// such command.
    Reply {
        id: u64,
        text: String,
    },
}

/// A core: a network function without I/O, clock, thread, lock or async.
pub trait Node {
    fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>);

    /// When [`Input::Timeout`] is wanted next.
    fn next_timeout(&self) -> Option<Now>;

    /// Ends a turn of the shell: whatever the core itself stores (the HSS asks SQLite directly)
    /// is on disk when this returns. Outputs of the turn are released afterwards.
    fn commit(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// The counters of this moment, for `/metrics`.
    fn samples(&self, samples: &mut Samples);

    /// Why this node cannot do its work right now, for `/readyz`.
    fn ready(&self) -> Result<(), String>;

    /// How many waits, turns and questions are open: zero at rest. The simulator checks it.
    fn owed(&self) -> usize;
}
