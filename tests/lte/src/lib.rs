//! The LTE transport of the project: eNodeB, S-GW and P-GW joined by GTP-U, with a model of the
//! radio link of each UE.
//!
//! | module      | what it is                                            | specification           |
//! |-------------|-------------------------------------------------------|-------------------------|
//! | `attach`    | default bearer through the three nodes, and its end    | TS 23.401 §5.3.2        |
//! | `enodeb`    | radio bearers to S1-U                                  | TS 36.413, TS 29.281    |
//! | `sgw`       | S1-U to S5-U                                           | TS 23.401, TS 29.281    |
//! | `pgw`       | S5-U to SGi, address pool                              | TS 23.401, TS 29.281    |
//! | `endpoint`  | what all three have at each address                    | TS 29.281 §5, §7, §12   |
//! | `gtpu`      | GTP-U on the wire                                      | TS 29.281 §5, §7, §8    |
//! | `inner`     | addresses of a user's packet                           |                         |
//! | `link`      | radio link model                                       |                         |
//! | `radio`     | how programs attach UEs                                |                         |
//! | `transport` | all of it as one value                                 |                         |
//! | `metrics`   | what `/metrics` says                                  |                         |
//! | `config`    | settings                                               |                         |
//! | `program`   | sockets, TUN, clock: the process `lte`                 |                         |
//! | `namespace` | doing something inside another network namespace       |                         |
//! | `pcapng`    | captures                                               |                         |
//!
//! All but the last three and the sockets of `radio` are values without I/O.

pub mod attach;
pub mod config;
pub mod endpoint;
pub mod enodeb;
pub mod gtpu;
pub mod inner;
pub mod link;
pub mod metrics;
pub mod namespace;
pub mod pcapng;
pub mod pgw;
pub mod program;
pub mod radio;
pub mod sgw;
pub mod transport;

pub use config::Config;
pub use program::{run, run_from};
