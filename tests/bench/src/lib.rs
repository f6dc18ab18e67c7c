//! What the benchmarks share: timing of small things, and the four daemons on loopback.

pub mod daemons;
pub mod ipsec;
pub mod micro;
pub mod registrations;
