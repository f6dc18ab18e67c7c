//! Peers, connections and pending requests behind one door. `W` is the daemon's enum of waits.

use serde::Deserialize;

use crate::node::ConnectionId;

/// The `[diameter]` section of a daemon.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Origin-Host of this node, a fully qualified name.
    pub identity: String,
    /// Origin-Realm.
    pub realm: String,
    /// Address and port on which connections are accepted; absent: none are. TCP.
    #[serde(default)]
    pub listen: Option<std::net::SocketAddr>,
    /// Peers to connect to, in order of preference.
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
    /// Origin-Hosts that may connect to us; empty: any that belongs to our realm. Compared without case.
    #[serde(default)]
    pub allowed_peers: Vec<String>,
    /// Watchdog interval Tw in milliseconds (RFC 3539: 30 s, at least 6 s; shorter is accepted for labs).
    #[serde(default = "default_watchdog")]
    pub watchdog_milliseconds: u64,
    /// First delay before a lost connection is tried again; doubles up to `reconnect_max_milliseconds`.
    #[serde(default = "default_reconnect")]
    pub reconnect_milliseconds: u64,
    #[serde(default = "default_reconnect_max")]
    pub reconnect_max_milliseconds: u64,
    /// How long a request waits for its answer.
    #[serde(default = "default_request")]
    pub request_timeout_milliseconds: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Origin-Host the peer must present; absent: whatever it presents.
    #[serde(default)]
    pub identity: Option<String>,
    /// Name or address.
    pub host: String,
    #[serde(default = "default_port")]
    pub port: u16,
}

fn default_port() -> u16 { 3868 }
fn default_watchdog() -> u64 { 30_000 }
fn default_reconnect() -> u64 { 500 }
fn default_reconnect_max() -> u64 { 30_000 }
fn default_request() -> u64 { 3_000 }

/// Why a question has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoAnswer {
    /// No peer was up, or every one that was went away.
    NoPeer,
    Timeout,
    /// Too many requests are pending.
    Overloaded,
    /// The answer could not be decoded as what was asked for.
    Malformed,
}

/// Where an answer to a received request goes.
#[derive(Clone, Debug)]
pub struct ReplyTo { pub connection: ConnectionId, pub hop_by_hop: u32, pub end_to_end: u32, pub session_id: String, pub command: u32 }
