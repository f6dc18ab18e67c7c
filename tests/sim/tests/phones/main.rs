//! Phones in their own words, in front of the whole IMS: order and spelling of headers, parameters and habits that
//! no phone of ours has.
//!
//! `habits` has fixtures of its own; `material` and `cores` have messages of real phones and of other cores, where
//! they are there.

mod bench;
mod cores;
mod habits;
mod handset;
mod material;
mod words;
