//! A NAT in front of one phone: a router at home, or a phone that shares its connection. Each port of the
//! phone has one of the NAT, whoever the other end is, and what comes to it from anybody reaches the phone
//! (RFC 4787 §4.1, §5, endpoint-independent). ESP outside UDP has no ports and does not pass.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use common::random::Random;

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// Where the NAT's ports begin; they go up by more than one, as those of a NAT with other users.
const FIRST_PORT: u16 = 20_000;
/// Ports in use at a time; one more makes the NAT forget all.
const PORTS: usize = 1_024;

#[derive(Debug)]
pub struct Nat {
    private: Ipv4Addr,
    public: Ipv4Addr,
    next_port: u16,
    /// By protocol and the phone's port.
    outside: BTreeMap<(u8, u16), u16>,
    /// By protocol and the NAT's port.
    inside: BTreeMap<(u8, u16), u16>,
}

/// Which of the two ends of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

impl Nat {
    pub fn new(private: Ipv4Addr, public: Ipv4Addr, random: &mut Random) -> Nat {
        let next_port = FIRST_PORT + random.below(20_000) as u16;
        Nat { private, public, next_port, outside: BTreeMap::new(), inside: BTreeMap::new() }
    }

    /// A whole packet of the phone, as the network sees it; `None` for what does not pass.
    pub fn out(&mut self, mut packet: Vec<u8>) -> Option<Vec<u8>> {
        let (protocol, port) = read(&packet, self.private, End::Source)?;
        let outside = match self.outside.get(&(protocol, port)) {
            Some(outside) => *outside,
            None => self.open(protocol, port),
        };
        write(&mut packet, self.public, outside, End::Source)?;
        Some(packet)
    }

    /// A whole packet from the network, as the phone sees it; `None` for what does not pass.
    pub fn back(&self, mut packet: Vec<u8>) -> Option<Vec<u8>> {
        let (protocol, port) = read(&packet, self.public, End::Destination)?;
        let inside = *self.inside.get(&(protocol, port))?;
        write(&mut packet, self.private, inside, End::Destination)?;
        Some(packet)
    }

    /// The NAT has forgotten which ports the phone has: each gets another.
    pub fn forget(&mut self) {
        self.outside.clear();
        self.inside.clear();
    }

    /// The NAT itself has moved.
    pub fn set_public(&mut self, public: Ipv4Addr) {
        self.public = public;
        self.forget();
    }

    fn open(&mut self, protocol: u8, port: u16) -> u16 {
        if self.outside.len() >= PORTS {
            self.forget();
        }
        loop {
            self.next_port = self.next_port.checked_add(7).unwrap_or(FIRST_PORT);
            let outside = self.next_port;
            if !self.inside.contains_key(&(protocol, outside)) {
                self.outside.insert((protocol, port), outside);
                self.inside.insert((protocol, outside), port);
                return outside;
            }
        }
    }
}

/// Protocol and port of that end, if the end has this address.
fn read(packet: &[u8], address: Ipv4Addr, end: End) -> Option<(u8, u16)> {
    let transport = transport_at(packet)?;
    let (at_address, at_port) = places(transport, end);
    if packet.get(at_address..at_address + 4)? != address.octets() {
        return None;
    }
    let port = packet.get(at_port..at_port + 2)?.first_chunk::<2>()?;
    Some((packet[9], u16::from_be_bytes(*port)))
}

fn write(packet: &mut [u8], address: Ipv4Addr, port: u16, end: End) -> Option<()> {
    let transport = transport_at(packet)?;
    let (at_address, at_port) = places(transport, end);
    packet.get_mut(at_address..at_address + 4)?.copy_from_slice(&address.octets());
    packet.get_mut(at_port..at_port + 2)?.copy_from_slice(&port.to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum(&[&packet[..transport]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let protocol = packet[9];
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let segment = packet.get(transport..total)?.len() as u16;
    let at_sum = transport + if protocol == PROTOCOL_UDP { 6 } else { 16 };
    let old = packet.get(at_sum..at_sum + 2)?;
    // RFC 768: no checksum, such as around ESP.
    if protocol == PROTOCOL_UDP && old == [0, 0] {
        return Some(());
    }
    packet[at_sum..at_sum + 2].fill(0);
    let pseudo = [[0, protocol], segment.to_be_bytes()].concat();
    let sum = checksum(&[&packet[12..20], &pseudo, &packet[transport..total]]);
    let sum = if protocol == PROTOCOL_UDP && sum == 0 { u16::MAX } else { sum };
    packet[at_sum..at_sum + 2].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// Where UDP or TCP begins in a whole IPv4 packet.
fn transport_at(packet: &[u8]) -> Option<usize> {
    let header = packet.first_chunk::<20>()?;
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3FFF != 0;
    let passes = matches!(header[9], PROTOCOL_UDP | PROTOCOL_TCP);
    (header[0] >> 4 == 4 && !is_fragment && passes).then(|| usize::from(header[0] & 15) * 4)
}

fn places(transport: usize, end: End) -> (usize, usize) {
    match end {
        End::Source => (12, transport),
        End::Destination => (16, transport + 2),
    }
}

/// RFC 1071, over parts of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::packets::{Content, content, datagram};

    fn nat() -> Nat {
        let (private, public) = (Ipv4Addr::new(192, 168, 1, 2), Ipv4Addr::new(198, 51, 100, 7));
        Nat::new(private, public, &mut Random::from_seed([7; 32]))
    }

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// RFC 4787 §4.1: one port of the phone has one of the NAT, and checksums hold on both ways.
    #[test]
    fn there_and_back() {
        let mut nat = nat();
        let (phone, server) = (socket("192.168.1.2:4500"), socket("192.0.2.10:4500"));
        let sources = [b"one".as_slice(), b"three octets"].map(|text| {
            let packet = nat.out(datagram(phone, server, text).unwrap()).unwrap();
            let Some(Content::Udp { source, destination, .. }) = content(&packet) else {
                panic!("a wrong checksum")
            };
            assert_eq!((source.ip(), destination), (socket("198.51.100.7:0").ip(), server));
            source
        });
        assert_eq!(sources[0], sources[1]);
        let packet = nat.back(datagram(server, sources[0], b"back").unwrap()).unwrap();
        let payload = bytes::Bytes::from_static(b"back");
        let expected = Content::Udp { source: server, destination: phone, payload };
        assert_eq!(content(&packet), Some(expected));
    }

    /// What nobody inside asked for does not pass, nor what has no ports.
    #[test]
    fn what_does_not_pass() {
        let mut nat = nat();
        let (phone, server) = (socket("192.168.1.2:5060"), socket("192.0.2.10:5060"));
        let unknown = socket("198.51.100.7:5060");
        assert_eq!(nat.back(datagram(server, unknown, b"who").unwrap()), None);
        let mut esp = datagram(phone, server, b"esp").unwrap();
        esp[9] = 50;
        assert_eq!(nat.out(esp), None);
        let foreign = datagram(socket("192.168.1.3:5060"), server, b"other").unwrap();
        assert_eq!(nat.out(foreign), None);
        let source_of = |packet: Vec<u8>| match content(&packet) {
            Some(Content::Udp { source, .. }) => source,
            other => panic!("{other:?}"),
        };
        let before = source_of(nat.out(datagram(phone, server, b"a").unwrap()).unwrap());
        nat.forget();
        assert_eq!(nat.back(datagram(server, before, b"late").unwrap()), None);
        let after = source_of(nat.out(datagram(phone, server, b"b").unwrap()).unwrap());
        assert_ne!(before, after);
    }
}
