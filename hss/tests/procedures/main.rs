//! The HSS by its decision tables (TS 29.228 §6): one test for one row.

mod changes;
#[cfg(feature = "daemon")]
mod command;
mod import;
mod keys;
mod lir;
mod mar;
mod node;
mod provision;
mod sar;
mod uar;
mod world;
