//! IP packets of a phone: datagrams out of them and into them, and fragments.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use common::node::Now;
use etherparse::defrag::IpDefragPool;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

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

/// Puts fragments of IPv4 together.
#[derive(Debug)]
pub struct Reassembly {
    pool: IpDefragPool<Now, ()>,
}

impl Default for Reassembly {
    fn default() -> Self {
        Reassembly { pool: IpDefragPool::new() }
    }
}

impl Reassembly {
    /// The whole packet: this one, or what this fragment has completed.
    pub fn take(&mut self, now: Now, packet: Bytes) -> Option<Bytes> {
        let is_fragment = packet.len() >= 20
            && packet[0] >> 4 == 4
            && u16::from_be_bytes([packet[6], packet[7]]) & 0x3FFF != 0;
        if !is_fragment {
            return Some(packet);
        }
        self.pool.retain(|since| now.since(*since) < REASSEMBLY);
        let sliced = SlicedPacket::from_ip(&packet).ok()?;
        let whole = self.pool.process_sliced_packet(&sliced, now, ()).ok()??;
        let Some(NetSlice::Ipv4(v4)) = &sliced.net else { return None };
        let mut header = v4.header().to_header();
        header.more_fragments = false;
        header.fragment_offset = etherparse::IpFragOffset::ZERO;
        header.set_payload_len(whole.payload.len()).ok()?;
        header.header_checksum = header.calc_header_checksum();
        let mut joined = header.to_bytes().to_vec();
        joined.extend_from_slice(&whole.payload);
        self.pool.return_buf(whole);
        Some(joined.into())
    }
}

/// Cuts an IPv4 packet that is longer than `mtu` (RFC 791 §3.2). IPv6 packets pass as they are: the
/// messages of a phone that could be too long go by TCP.
pub fn fragments(packet: Vec<u8>, mtu: usize) -> Vec<Vec<u8>> {
    let header_octets = usize::from(packet.first().map_or(0, |octet| octet & 15)) * 4;
    if packet.len() <= mtu || packet[0] >> 4 != 4 || mtu < header_octets + 8 {
        return vec![packet];
    }
    let (header, payload) = packet.split_at(header_octets);
    let step = (mtu - header_octets) & !7;
    let count = payload.len().div_ceil(step);
    payload
        .chunks(step)
        .enumerate()
        .map(|(place, part)| {
            let mut fragment = [header, part].concat();
            let is_last = place + 1 == count;
            let offset = (place * step / 8) as u16 | if is_last { 0 } else { 0x2000 };
            let total = fragment.len() as u16;
            fragment[2..4].copy_from_slice(&total.to_be_bytes());
            fragment[6..8].copy_from_slice(&offset.to_be_bytes());
            fragment[10..12].fill(0);
            if let Ok((ip, _)) = etherparse::Ipv4Header::from_slice(&fragment) {
                fragment[10..12].copy_from_slice(&ip.calc_header_checksum().to_be_bytes());
            }
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

    /// RFC 791 §3.2: fragments in any order come together again.
    #[test]
    fn fragments_come_together() {
        let payload = vec![0x5A; 4000];
        let packet = datagram(socket("10.0.0.1:5060"), socket("10.0.0.2:5060"), &payload).unwrap();
        let mut parts = fragments(packet.clone(), 1400);
        assert_eq!(parts.len(), 3);
        assert!(parts.iter().all(|part| part.len() <= 1400));
        assert_eq!(content(&parts[1]), None);
        parts.rotate_left(1);
        let mut reassembly = Reassembly::default();
        let mut whole = None;
        for part in parts {
            assert_eq!(whole, None);
            whole = reassembly.take(Now::from_millis(1), part.into());
        }
        assert_eq!(content(&whole.unwrap()), content(&packet));
        assert_eq!(fragments(packet.clone(), 5000), [packet]);
    }
}
