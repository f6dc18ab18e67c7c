//! Protected ports, as the links see them: whatever passes there in clear is kept, since only ESP
//! may (TS 33.203 §7.1).

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lte::gtpu;
use lte::pcapng::LinkType;

use crate::capture::Seen;
use crate::config::{PROTECTED_CLIENT_PORTS, PROTECTED_SERVER_PORT};

/// The first of the ports that phones use for protection, and how many there are.
const UE_PORTS: std::ops::Range<u16> = 31_000..32_000;
/// Packets kept; there should be none.
const LIMIT: usize = 100;

/// Clear packets of protected ports.
#[derive(Debug, Default)]
pub struct ClearText {
    pub packets: Vec<String>,
}

impl ClearText {
    /// Looks at a packet on one of the links between phone and P-CSCF.
    pub fn look(&mut self, seen: &Seen) {
        if seen.link == "core" || self.packets.len() >= LIMIT {
            return;
        }
        let packet = match seen.link_type {
            LinkType::Ethernet => seen.packet.get(14..).unwrap_or_default(),
            LinkType::RawIp => &seen.packet[..],
        };
        if let Some((source, destination)) = ends(packet)
            && (is_protected(source.port()) || is_protected(destination.port()))
        {
            self.packets.push(format!("{}: {source} -> {destination}", seen.link));
        }
    }
}

fn is_protected(port: u16) -> bool {
    port == PROTECTED_SERVER_PORT
        || PROTECTED_CLIENT_PORTS.contains(&port)
        || UE_PORTS.contains(&port)
}

/// Source and destination of a UDP or TCP packet, or of the one in a GTP-U tunnel.
fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let (from, to): (IpAddr, IpAddr) = match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Arp(_) => return None,
    };
    let (source, destination) = match sliced.transport? {
        TransportSlice::Udp(udp) if udp.destination_port() == gtpu::PORT => {
            let inside = gtpu::decode(udp.payload()).ok()?;
            return ends(inside.payload);
        }
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port()),
        TransportSlice::Tcp(tcp) => (tcp.source_port(), tcp.destination_port()),
        _ => return None,
    };
    Some((SocketAddr::new(from, source), SocketAddr::new(to, destination)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use etherparse::PacketBuilder;

    use super::*;

    fn datagram(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ipv4([10, 45, 0, 2], [10, 20, 0, 10], 64);
        let mut packet = Vec::new();
        builder.udp(source, destination).write(&mut packet, payload).expect("a vector takes all");
        packet
    }

    fn look(link: &'static str, packet: Vec<u8>) -> usize {
        let mut clear_text = ClearText::default();
        let link_type = LinkType::RawIp;
        clear_text.look(&Seen { link, time: Duration::ZERO, link_type, packet });
        clear_text.packets.len()
    }

    /// TS 33.203 §7.1
    #[test]
    fn clear_packets_of_protected_ports_are_found() {
        assert_eq!(look("sgi", datagram(5060, 5060, b"REGISTER")), 0);
        assert_eq!(look("sgi", datagram(31_001, 5064, b"x")), 1);
        assert_eq!(look("sgi", datagram(5103, 40_000, b"x")), 1);
        assert_eq!(look("radio", datagram(31_999, 5060, b"x")), 1);
        assert_eq!(look("core", datagram(31_001, 5064, b"x")), 0);
        let inner = datagram(31_001, 5064, b"x");
        let mut tunnel = vec![0x30, 0xFF];
        tunnel.extend((inner.len() as u16).to_be_bytes());
        tunnel.extend([0, 0, 0, 7]);
        tunnel.extend(inner);
        assert_eq!(look("s1u", datagram(gtpu::PORT, gtpu::PORT, &tunnel)), 1);
    }
}
