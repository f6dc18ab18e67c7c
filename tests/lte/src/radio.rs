//! The radio interface as programs see it: a Unix socket of type SOCK_SEQPACKET on which UEs attach
//! and exchange IP packets with the eNodeB. It stands for RRC, NAS and PDCP, of which IMS needs no
//! more than this.
//!
//! A program that brings many UEs writes Attach records one after the other without waiting for
//! answers: the eNodeB stops reading while the program does not read, and loses no answer. A write that
//! would block is to be tried again.
//!
//! One record is one message: an octet for its kind, four octets (big endian) for the reference by
//! which the program knows the UE, and a body. One connection carries any number of UEs. When the
//! connection ends, its UEs are detached.
//!
//! | kind | message  | from    | body                                                       |
//! |------|----------|---------|------------------------------------------------------------|
//! | 1    | Attach   | UE      | octet 4, 6 or 46 (both), then the IMSI in ASCII digits       |
//! | 2    | Attached | eNodeB  | octet 4 or 6, address, P-CSCF address, MTU in two octets;     |
//! |      |          |         | 46: the same of IPv4, then address and P-CSCF of IPv6         |
//! | 3    | Refused  | eNodeB  | reason in UTF-8                                             |
//! | 4    | Data     | both    | one IP packet                                              |
//! | 5    | Detach   | UE      |                                                            |
//! | 6    | Detached | eNodeB  | reason in UTF-8                                             |
//! | 7    | SetLink  | UE      | octet 0 uplink or 1 downlink, then a link profile in JSON    |
//! | 8    | HandOver | UE      | milliseconds of the gap in four octets                      |

use std::io;
use std::net::IpAddr;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::attach::{Attached, IpVersion};

/// Longest record: an IP packet with its five octets in front.
pub const RECORD_LIMIT: usize = 65_535 + 5;

/// PDN type IPv4v6 on the socket.
const BOTH: u8 = 46;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The program's own number of the UE on this connection.
    pub reference: u32,
    pub message: Message<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Attach { version: IpVersion, imsi: &'a str },
    Attached(Attached),
    Refused { reason: &'a str },
    Data(&'a [u8]),
    Detach,
    Detached { reason: &'a str },
    SetLink { direction: Direction, profile: &'a str },
    HandOver { gap_milliseconds: u32 },
}

/// Of a link, seen from the UE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Uplink = 0,
    Downlink = 1,
}

/// The record is not one of the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Record<'_> {
    /// The record as it goes on the socket.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, capacity) = match &self.message {
            Message::Attach { .. } => (1, 16),
            Message::Attached(_) => (2, 43),
            Message::Refused { .. } => (3, 64),
            Message::Data(packet) => (4, packet.len()),
            Message::Detach => (5, 0),
            Message::Detached { .. } => (6, 64),
            Message::SetLink { .. } => (7, 256),
            Message::HandOver { .. } => (8, 4),
        };
        let mut out = Vec::with_capacity(5 + capacity);
        out.push(kind);
        out.extend_from_slice(&self.reference.to_be_bytes());
        match &self.message {
            Message::Attach { version, imsi } => {
                out.push(match version {
                    IpVersion::V4 => 4,
                    IpVersion::V6 => 6,
                    IpVersion::V4V6 => BOTH,
                });
                out.extend_from_slice(imsi.as_bytes());
            }
            Message::Attached(attached) => encode_attached(attached, &mut out),
            Message::Refused { reason } | Message::Detached { reason } => {
                out.extend_from_slice(reason.as_bytes());
            }
            Message::Data(packet) => out.extend_from_slice(packet),
            Message::Detach => {}
            Message::SetLink { direction, profile } => {
                out.push(match direction {
                    Direction::Uplink => 0,
                    Direction::Downlink => 1,
                });
                out.extend_from_slice(profile.as_bytes());
            }
            Message::HandOver { gap_milliseconds } => {
                out.extend_from_slice(&gap_milliseconds.to_be_bytes());
            }
        }
        out
    }
}

fn encode_attached(attached: &Attached, out: &mut Vec<u8>) {
    let version = if attached.address.is_ipv4() { 4 } else { 6 };
    out.push(if attached.second.is_some() { BOTH } else { version });
    let mut push = |address| match address {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    };
    push(attached.address);
    push(attached.pcscf);
    out.extend_from_slice(&attached.mtu.to_be_bytes());
    if let Some((address, pcscf)) = attached.second {
        for address in [address, pcscf] {
            if let IpAddr::V6(address) = address {
                out.extend_from_slice(&address.octets());
            }
        }
    }
}

/// Reads one record.
pub fn decode(record: &[u8]) -> Result<Record<'_>, Malformed> {
    let [kind, a, b, c, d, body @ ..] = record else { return Err(Malformed) };
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| Malformed);
    let message = match (*kind, body) {
        (1, [version, imsi @ ..]) => {
            let version = match *version {
                4 => IpVersion::V4,
                6 => IpVersion::V6,
                BOTH => IpVersion::V4V6,
                _ => return Err(Malformed),
            };
            let imsi = text(imsi)?;
            let is_imsi = (6..=15).contains(&imsi.len());
            if !is_imsi || !imsi.bytes().all(|digit| digit.is_ascii_digit()) {
                return Err(Malformed);
            }
            Message::Attach { version, imsi }
        }
        (2, body) => Message::Attached(decode_attached(body).ok_or(Malformed)?),
        (3, reason) => Message::Refused { reason: text(reason)? },
        (4, packet) => Message::Data(packet),
        (5, []) => Message::Detach,
        (6, reason) => Message::Detached { reason: text(reason)? },
        (7, [0, profile @ ..]) => {
            Message::SetLink { direction: Direction::Uplink, profile: text(profile)? }
        }
        (7, [1, profile @ ..]) => {
            Message::SetLink { direction: Direction::Downlink, profile: text(profile)? }
        }
        (8, [w, x, y, z]) => {
            Message::HandOver { gap_milliseconds: u32::from_be_bytes([*w, *x, *y, *z]) }
        }
        _ => return Err(Malformed),
    };
    Ok(Record { reference: u32::from_be_bytes([*a, *b, *c, *d]), message })
}

fn decode_attached(body: &[u8]) -> Option<Attached> {
    let (version, body) = body.split_first()?;
    let v4 = |at: usize| -> Option<IpAddr> {
        Some(IpAddr::from(<[u8; 4]>::try_from(body.get(at..at + 4)?).ok()?))
    };
    let v6 = |at: usize| -> Option<IpAddr> {
        Some(IpAddr::from(<[u8; 16]>::try_from(body.get(at..at + 16)?).ok()?))
    };
    let mtu = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let (address, pcscf, mtu, second) = match (*version, body.len()) {
        (4, 10) => (v4(0)?, v4(4)?, mtu(8)?, None),
        (6, 34) => (v6(0)?, v6(16)?, mtu(32)?, None),
        (BOTH, 42) => (v4(0)?, v4(4)?, mtu(8)?, Some((v6(10)?, v6(26)?))),
        _ => return None,
    };
    Some(Attached { address, pcscf, mtu, second })
}

/// Connects a program to the eNodeB's socket. The socket is blocking; each `send` is one record and
/// each `recv` into [`RECORD_LIMIT`] octets gives one; zero octets are the end.
pub fn connect(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Opens the eNodeB's socket; one left by an earlier process is replaced.
pub fn listen(path: &Path) -> io::Result<Socket> {
    use std::os::unix::fs::FileTypeExt;
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(128)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_way() {
        let attached_v4 = Attached {
            address: "10.45.0.2".parse().unwrap(),
            pcscf: "10.1.0.10".parse().unwrap(),
            mtu: 1_358,
            second: None,
        };
        let attached_v6 = Attached {
            address: "fd00:45:0:1::1".parse().unwrap(),
            pcscf: "fd00:1::10".parse().unwrap(),
            mtu: 1_358,
            second: None,
        };
        let attached_both = Attached {
            second: Some((attached_v6.address, attached_v6.pcscf)),
            ..attached_v4.clone()
        };
        let messages = [
            Message::Attach { version: IpVersion::V4, imsi: "001010000000001" },
            Message::Attach { version: IpVersion::V6, imsi: "001010000000001" },
            Message::Attached(attached_v4),
            Message::Attached(attached_v6),
            Message::Attach { version: IpVersion::V4V6, imsi: "001010000000001" },
            Message::Attached(attached_both),
            Message::Refused { reason: "no" },
            Message::Data(&[0x45, 0, 0, 1]),
            Message::Detach,
            Message::Detached { reason: "lost" },
            Message::SetLink { direction: Direction::Uplink, profile: "{\"loss\":1.0}" },
            Message::SetLink { direction: Direction::Downlink, profile: "{}" },
            Message::HandOver { gap_milliseconds: 50 },
        ];
        for message in messages {
            let record = Record { reference: 0x0102_0304, message };
            assert_eq!(decode(&record.encode()), Ok(record.clone()));
        }
    }

    #[test]
    fn garbage_is_refused() {
        let attach = Record {
            reference: 1,
            message: Message::Attach { version: IpVersion::V4, imsi: "00101000000000a" },
        };
        assert_eq!(decode(&attach.encode()), Err(Malformed));
        for record in [&[][..], &[4, 0, 0, 0], &[1, 0, 0, 0, 1], &[2, 0, 0, 0, 1, 4, 1], &[9; 9]] {
            assert_eq!(decode(record), Err(Malformed));
        }
    }
}
