//! Diameter base protocol (RFC 6733): messages, peers, the endpoint. Knows no SIP and no application.
//!
//! [`message`] is the codec, [`base`] the AVPs and commands of the base protocol, [`peer`] and
//! [`watchdog`] the two state machines as tables, `connections` what carries them out, `duplicates` the
//! memory of answers given, and [`endpoint`] the door: ask, answer, input, expire, next_event.

pub mod base;
mod connections;
mod duplicates;
pub mod endpoint;
pub mod message;
pub mod peer;
pub mod watchdog;
