//! Diameter base protocol (RFC 6733): messages, peers, the endpoint. Knows no SIP and no
//! application.
//!
//! | module | what it is for |
//! |---|---|
//! | [`endpoint`] | the door: ask, answer, input, expire, next_event |
//! | `outgoing`, `incoming` | requests sent and requests received |
//! | `redirect` | where a redirect agent sends requests, and for how long |
//! | `duplicates` | the memory of answers given |
//! | `connections`, `greeting` | messages on connections; CER and CEA |
//! | `peers` | carries out the two state machines |
//! | [`peer`], [`watchdog`] | the two state machines as tables |
//! | [`message`], [`base`] | the codec; AVPs and commands of the base protocol |

pub mod base;
mod connections;
mod duplicates;
pub mod endpoint;
mod greeting;
mod incoming;
pub mod message;
mod outgoing;
pub mod peer;
mod peers;
mod redirect;
mod stats;
pub mod watchdog;
