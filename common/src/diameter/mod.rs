//! Diameter base protocol (RFC 6733): messages, peers, the endpoint. Knows no SIP.

pub mod base;
pub mod endpoint;
pub mod message;
pub mod peer;
pub mod watchdog;
