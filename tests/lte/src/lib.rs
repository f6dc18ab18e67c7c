//! The LTE transport of the project: eNodeB, S-GW and P-GW joined by GTP-U, with a model of the
//! radio link of each UE.
//!
//! | module      | what it is                                            | specification           |
//! |-------------|-------------------------------------------------------|-------------------------|
//! | `attach`    | default bearer through the nodes, and its end          | TS 23.401 §5.3.2        |
//! | `handover`  | another eNodeB, another S-GW                           | TS 23.401 §5.5.1.1      |
//! | `idle`      | S1 release, Service Request                            | TS 23.401 §5.3.4, §5.3.5 |
//! | `enodeb`    | radio bearers to S1-U, X2-U                            | TS 36.413, TS 36.300    |
//! | `sgw`       | S1-U to S5-U                                           | TS 23.401, TS 29.281    |
//! | `pgw`       | S5-U to SGi, address pool                              | TS 23.401, TS 29.281    |
//! | `endpoint`  | what each has at each address                          | TS 29.281 §5, §7, §12   |
//! | `gtpu`      | GTP-U on the wire                                      | TS 29.281 §5, §7, §8    |
//! | `inner`     | addresses of a user's packet                           |                         |
//! | `link`      | radio link model                                       |                         |
//! | `radio`     | how programs attach UEs                                |                         |
//! | `transport` | all of it as one value, and what UEs do in time        |                         |
//! | `script`    | radio events: commands, and scripts of them            |                         |
//! | `metrics`   | what `/metrics` says                                   |                         |
//! | `config`    | settings                                               |                         |
//! | `program`   | sockets, TUN, clock: the process `lte`                 |                         |
//! | `admin`     | commands by HTTP                                       |                         |
//! | `namespace` | doing something inside another network namespace       |                         |
//! | `pcapng`    | captures                                               |                         |
//!
//! All but the last four and the sockets of `radio` are values without I/O.

pub mod admin;
pub mod attach;
pub mod config;
pub mod endpoint;
pub mod enodeb;
pub mod gtpu;
pub mod handover;
pub mod idle;
pub mod inner;
pub mod link;
pub mod metrics;
pub mod namespace;
pub mod pcapng;
pub mod pgw;
pub mod program;
pub mod radio;
pub mod script;
pub mod sgw;
pub mod transport;

pub use config::Config;
pub use program::{run, run_from};
