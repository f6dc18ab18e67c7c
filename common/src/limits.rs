//! How much of anything there may be. Reaching a limit is a refusal with a name, never growth.

use serde::Deserialize;

/// The `[limits]` section of every daemon.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of one SIP message.
    pub sip_message_bytes: usize,
    /// Header lines of one SIP message.
    pub sip_headers: usize,
    /// SIP transactions of one kind (client, server) open at a time; beyond it requests get 503.
    pub sip_transactions: usize,
    /// TCP connections for SIP open at a time. No more than the open files allow.
    pub sip_connections: usize,
    /// Near that limit, connections that have been idle for so long are closed, the longest idle first:
    /// phones keep connections for days without using them, and open another when they need one. Less than
    /// 64·T1 of Gm, 128 s, would close some that still wait for an answer.
    pub sip_connection_idle_seconds: u64,
    /// Bytes of one Diameter message.
    pub diameter_message_bytes: usize,
    /// Depth of grouped AVPs.
    pub diameter_depth: usize,
    /// Diameter requests waiting for an answer, over all peers.
    pub diameter_pending: usize,
    /// Diameter connections open at a time, accepted ones included.
    pub diameter_connections: usize,
    /// Registrations held at a time.
    pub registrations: usize,
    /// REGISTERs of one private identity that may wait behind the one in progress.
    pub waiting_per_identity: usize,
    /// Outputs queued in the shell before it stops reading sockets.
    pub queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            sip_message_bytes: 64 * 1024,
            sip_headers: 200,
            sip_transactions: 200_000,
            sip_connections: 50_000,
            sip_connection_idle_seconds: 130,
            diameter_message_bytes: 64 * 1024,
            diameter_depth: 8,
            diameter_pending: 50_000,
            diameter_connections: 64,
            registrations: 1_000_000,
            waiting_per_identity: 4,
            queue: 4_096,
        }
    }
}
