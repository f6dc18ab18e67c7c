//! The simulator: the daemons' cores, UEs, a network, a kernel and disks in virtual time.
//!
//! `cargo sim` runs a thousand seeds; `cargo sim 12345` shows one as a ladder.

pub mod associations;
pub mod checkers;
pub mod disk;
pub mod ims;
pub mod kernel;
pub mod ladder;
pub mod network;
pub mod races;
pub mod sets;
pub mod storm;
pub mod world;
