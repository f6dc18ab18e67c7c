//! The shell around a toy core, over real sockets and with the real kernel.
#![cfg(feature = "net")]

mod ipsec;
mod sockets;
mod toy;
