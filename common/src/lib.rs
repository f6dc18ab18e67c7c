//! What the four network functions share.
//!
//! | module | what it is for | specification |
//! |---|---|---|
//! | [`node`] | the contract between a core and the shell that runs it | |
//! | [`timers`], [`turns`], [`questions`] | what a core needs to wait: times, one-at-a-time, effects | |
//! | [`identity`] | private and public identities, home domain | TS 23.003 §13 |
//! | [`sip`] | messages, transactions, the endpoint | RFC 3261 |
//! | [`diameter`] | messages, peers, the endpoint | RFC 6733 |
//! | [`cx`] | the Cx application, typed | TS 29.228, TS 29.229 |
//! | [`aka`] | MILENAGE, TUAK, vectors, the AKA digest | TS 33.102, RFC 3310 |
//! | [`reginfo`] | the registration state document | RFC 3680, RFC 5628 |
//! | [`restoration`] | the 504 that sends a UE back to register | TS 24.229 §7.6, TS 23.380 |
//! | [`ipsec`] | sec-agree, sets of security associations, ESP | TS 33.203, RFC 3329 |
//! | [`dns`] | the questions and answers of RFC 3263 | RFC 3263 |
//! | [`stats`] | counters as plain integers | |
//! | [`limits`] | how much of anything there may be | |
//! | [`secret`] | values that never print | |
//! | `net` | the shell: sockets, storage, kernel, HTTP (feature `net`) | |
//!
//! Nothing outside `net` performs I/O, reads a clock, spawns or locks.

pub mod aka;
pub mod cx;
pub mod diameter;
pub mod dns;
pub mod identity;
pub mod ipsec;
pub mod limits;
#[cfg(feature = "net")]
pub mod net;
pub mod node;
pub mod questions;
pub mod random;
pub mod reginfo;
pub mod restoration;
pub mod secret;
pub mod sip;
pub mod stats;
pub mod timers;
pub mod turns;
