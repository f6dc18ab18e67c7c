//! A phone as a value: IP packets, commands and times in; IP packets, events and a trace out.
//!
//! | module | what it is for | specification |
//! |---|---|---|
//! | [`isim`] | identities and keys of the card | TS 31.103, TS 23.003 §13 |
//! | [`config`] | what a phone is set up with, and the faults a test asks for | |
//! | [`profile`] | how phones of one make write their REGISTERs | |
//! | [`phone`] | the phone: packets in and out, commands, times | |
//! | [`register`] | the registration procedures | TS 24.229 §5.1.1 |
//! | [`outcome`] | how they end | TS 24.229 §5.1.1 |
//! | [`event`] | what is told of them | |
//! | [`watch`] | it watches its own registration | TS 24.229 §5.1.1.3 |
//! | [`request`] | how a REGISTER is written | TS 24.229 §5.1.1.2 |
//! | [`sets`] | sets of security associations and their lives | TS 33.203 §7.4 |
//! | [`packets`] | UDP and IP | |
//! | [`keep_alive`] | it keeps a NAT open that it is behind in clear | RFC 6223, RFC 5626 §4.4.2 |
//! | [`nat`] | a NAT in front of the phone | RFC 4787 |
//! | [`tcp`] | TCP, by smoltcp | |
//!
//! No sockets and no clock: the simulator drives it in virtual time, the program drives it through
//! a TUN device.

pub mod config;
pub mod event;
pub mod isim;
pub mod keep_alive;
#[cfg(feature = "program")]
pub mod load;
pub mod nat;
pub mod outcome;
pub mod packets;
pub mod phone;
pub mod profile;
#[cfg(feature = "program")]
pub mod program;
pub mod register;
pub mod request;
pub mod sets;
pub mod tcp;
pub mod watch;

pub use config::{AKA_ALGORITHMS, Authentication, Config, Faults};
pub use event::{Cause, Event, InvalidChallenge, Kind, Watched};
pub use isim::Isim;
pub use phone::{Command, Dropped, Input, Output, Phone, Trace};
