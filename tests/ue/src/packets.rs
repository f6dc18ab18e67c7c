//! IP packets of a phone: datagrams out of them and into them, and fragments.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use common::node::Now;
use etherparse::defrag::IpDefragPool;
use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};

/// How long fragments wait for the others (RFC 8200 §4.5).
const REASSEMBLY: Duration = Duration::from_secs(60);

/// What a phone looks at in a clear IP packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    Udp { source: SocketAddr, destination: SocketAddr, payload: Bytes },
    Tcp { source: SocketAddr, destination: SocketAddr },
}

/// `None` for what is no whole UDP or TCP packet, or has a wrong UDP checksum.
pub fn content(packet: &[u8]) -> Option<Content> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (from, to): (IpAddr, IpAddr) = match sliced.net.as_ref()? {
        NetSlice::Ipv4(v4) => {
            let header = v4.header();
            (header.source_addr().into(), header.destination_addr().into())
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header();
            (header.source_addr().into(), header.destination_addr().into())
        }
        NetSlice::Arp(_) => return None,
    };
    match sliced.transport? {
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let expected = match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.calc_checksum_ipv4_raw(from.octets(), to.octets(), udp.payload())
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    header.calc_checksum_ipv6_raw(from.octets(), to.octets(), udp.payload())
                }
                _ => return None,
            };
            if header.checksum != 0 && expected.ok()? != header.checksum {
                return None;
            }
            Some(Content::Udp {
                source: SocketAddr::new(from, udp.source_port()),
                destination: SocketAddr::new(to, udp.destination_port()),
                payload: Bytes::copy_from_slice(udp.payload()),
            })
        }
        TransportSlice::Tcp(tcp) => Some(Content::Tcp {
            source: SocketAddr::new(from, tcp.source_port()),
            destination: SocketAddr::new(to, tcp.destination_port()),
        }),
        _ => None,
    }
}

/// The IP packet of one datagram; `None` when the addresses are not of one kind, or the payload is
/// longer than UDP allows.
pub fn datagram(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let ip = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => return None,
    };
    let builder = ip.udp(source.port(), destination.port());
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut packet, payload).ok()?;
    Some(packet)
}

/// Fragments that may wait; more of them make the phone forget all.
const FRAGMENTS: usize = 1024;

/// Puts fragments together.
#[derive(Debug)]
pub struct Reassembly {
    pool: IpDefragPool<Now, ()>,
    /// Fragments taken since the pool was empty, at most.
    taken: usize,
}

impl Default for Reassembly {
    fn default() -> Self {
        Reassembly { pool: IpDefragPool::new(), taken: 0 }
    }
}

impl Reassembly {
    /// The whole packet: this one, or what this fragment has completed (RFC 791 §3.2,
    /// RFC 8200 §4.5).
    pub fn take(&mut self, now: Now, packet: Bytes) -> Option<Bytes> {
        if !is_fragment(&packet) {
            return Some(packet);
        }
        self.taken += 1;
        if self.taken > FRAGMENTS {
            *self = Reassembly::default();
        }
        self.pool.retain(|since| now.since(*since) < REASSEMBLY);
        let sliced = SlicedPacket::from_ip(&packet).ok()?;
        let whole = self.pool.process_sliced_packet(&sliced, now, ()).ok()??;
        let mut joined = match sliced.net.as_ref()? {
            NetSlice::Ipv4(v4) => {
                let mut header = v4.header().to_header();
                header.more_fragments = false;
                header.fragment_offset = IpFragOffset::ZERO;
                header.set_payload_len(whole.payload.len()).ok()?;
                header.header_checksum = header.calc_header_checksum();
                header.to_bytes().to_vec()
            }
            NetSlice::Ipv6(v6) => {
                let mut header = v6.header().to_header();
                header.next_header = whole.ip_number;
                header.set_payload_length(whole.payload.len()).ok()?;
                header.to_bytes().to_vec()
            }
            NetSlice::Arp(_) => return None,
        };
        // Its buffer is not given back for the next one: most phones have no next one.
        joined.extend_from_slice(&whole.payload);
        Some(joined.into())
    }
}

fn is_fragment(packet: &[u8]) -> bool {
    match packet.first().map(|octet| octet >> 4) {
        Some(4) => packet.len() >= 20 && u16::from_be_bytes([packet[6], packet[7]]) & 0x3FFF != 0,
        Some(6) => packet.len() >= 40 && packet[6] == IpNumber::IPV6_FRAGMENTATION_HEADER.0,
        _ => false,
    }
}

/// Cuts an IP packet that is longer than `mtu` (RFC 791 §3.2, RFC 8200 §4.5); `identification`
/// is another one for each packet.
pub fn fragments(packet: Vec<u8>, mtu: usize, identification: u32) -> Vec<Vec<u8>> {
    let is_v6 = packet.first().is_some_and(|octet| octet >> 4 == 6);
    let header_octets =
        if is_v6 { 40 } else { usize::from(packet.first().map_or(0, |octet| octet & 15)) * 4 };
    let extension_octets = if is_v6 { 8 } else { 0 };
    let overhead = header_octets + extension_octets;
    if packet.len() <= mtu.max(overhead + 8) {
        return vec![packet];
    }
    let (header, payload) = packet.split_at(header_octets);
    let step = (mtu.max(overhead + 8) - overhead) & !7;
    let count = payload.len().div_ceil(step);
    let parts = payload.chunks(step).enumerate();
    parts
        .map(|(place, part)| {
            let is_last = place + 1 == count;
            let mut fragment = header.to_vec();
            let offset = (place * step / 8) as u16;
            if is_v6 {
                let length = (extension_octets + part.len()) as u16;
                fragment[4..6].copy_from_slice(&length.to_be_bytes());
                fragment[6] = IpNumber::IPV6_FRAGMENTATION_HEADER.0;
                fragment.extend_from_slice(&[header[6], 0]);
                fragment.extend_from_slice(&(offset << 3 | u16::from(!is_last)).to_be_bytes());
                fragment.extend_from_slice(&identification.to_be_bytes());
            } else {
                let total = (header_octets + part.len()) as u16;
                let flags_and_offset = offset | if is_last { 0 } else { 0x2000 };
                fragment[2..4].copy_from_slice(&total.to_be_bytes());
                fragment[4..6].copy_from_slice(&(identification as u16).to_be_bytes());
                fragment[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
                if let Ok((ip, _)) = Ipv4Header::from_slice(&fragment) {
                    fragment[10..12].copy_from_slice(&ip.calc_header_checksum().to_be_bytes());
                }
            }
            fragment.extend_from_slice(part);
            fragment
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// RFC 768: what is written is read back, and a changed octet is noticed.
    #[test]
    fn datagrams_of_both_versions() {
        let pairs =
            [("10.0.0.1:5060", "192.0.2.10:5060"), ("[2001:db8::1]:5060", "[2001:db8::2]:5060")];
        for (source, destination) in pairs {
            let (source, destination) = (socket(source), socket(destination));
            let mut packet = datagram(source, destination, b"REGISTER").unwrap();
            let payload = Bytes::from_static(b"REGISTER");
            let expected = Content::Udp { source, destination, payload };
            assert_eq!(content(&packet), Some(expected));
            *packet.last_mut().unwrap() ^= 1;
            assert_eq!(content(&packet), None);
        }
        assert_eq!(datagram(socket("10.0.0.1:1"), socket("[::1]:2"), b""), None);
    }

    /// RFC 791 §3.2, RFC 8200 §4.5: fragments in any order come together again, and two packets
    /// do not mix.
    #[test]
    fn fragments_come_together() {
        for (from, to) in
            [("10.0.0.1:5060", "10.0.0.2:5060"), ("[2001:db8::1]:5060", "[2001:db8::2]:5060")]
        {
            let whole = |octet| datagram(socket(from), socket(to), &[octet; 4000]).unwrap();
            let mut reassembly = Reassembly::default();
            let cut = |octet| fragments(whole(octet), 1400, u32::from(octet));
            let (mut first, second) = (cut(1), cut(2));
            assert_eq!(first.len(), 3);
            assert!(first.iter().all(|part| part.len() <= 1400));
            assert_eq!(content(&first[1]), None);
            first.rotate_left(1);
            let mut joined = Vec::new();
            for part in first.into_iter().zip(second).flat_map(|(a, b)| [a, b]) {
                joined.extend(reassembly.take(Now::from_millis(1), part.into()));
            }
            assert_eq!(joined.len(), 2);
            assert_eq!(content(&joined[0]), content(&whole(1)));
            assert_eq!(content(&joined[1]), content(&whole(2)));
            assert_eq!(fragments(whole(1), 5000, 0), [whole(1)]);
        }
    }

    /// RFC 791 §3.2: what never comes together is forgotten.
    #[test]
    fn fragments_have_a_limit() {
        let (from, to) = (socket("10.0.0.1:5060"), socket("10.0.0.2:5060"));
        let mut reassembly = Reassembly::default();
        for number in 0..5000 {
            let part = fragments(datagram(from, to, &[0; 2000]).unwrap(), 1400, number).remove(0);
            assert_eq!(reassembly.take(Now::from_millis(1), part.into()), None);
            assert!(reassembly.taken <= FRAGMENTS);
        }
    }
}
