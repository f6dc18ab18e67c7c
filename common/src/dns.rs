//! Questions to the DNS and their answers, as RFC 3263 needs them.

use std::net::IpAddr;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RecordType {
    Naptr,
    Srv,
    A,
    Aaaa,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Question {
    /// Without the final dot, lower case.
    pub name: String,
    pub record_type: RecordType,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RecordData {
    Naptr { order: u16, preference: u16, flags: String, services: String, replacement: String },
    Srv { priority: u16, weight: u16, port: u16, target: String },
    Address(IpAddr),
}

/// How a look-up ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Records of the type asked for, `ttl` the smallest among them. Never empty.
    Found { records: Vec<RecordData>, ttl: Duration },
    /// The name does not exist, or has no record of that type.
    Nothing { ttl: Duration },
    /// No server answered, or it failed; the text is for the log.
    Failed { reason: String },
}
