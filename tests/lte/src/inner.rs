//! What the P-GW and the link read of a user's IP packet: version, length and addresses, never
//! what is inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    pub source: IpAddr,
    pub destination: IpAddr,
}

/// `None` for what is not one whole IPv4 or IPv6 packet (RFC 791 §3.1, RFC 8200 §3).
pub fn read(packet: &[u8]) -> Option<Inner> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            let address = |at: usize| {
                IpAddr::V4(Ipv4Addr::new(
                    packet[at],
                    packet[at + 1],
                    packet[at + 2],
                    packet[at + 3],
                ))
            };
            (length == packet.len())
                .then(|| Inner { source: address(12), destination: address(16) })
        }
        6 if packet.len() >= 40 => {
            let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            let address = |at: usize| -> Option<IpAddr> {
                let octets = <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?;
                Some(IpAddr::V6(Ipv6Addr::from(octets)))
            };
            (length + 40 == packet.len())
                .then_some(Inner { source: address(8)?, destination: address(24)? })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    #[test]
    fn addresses_of_both_versions_are_read() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut packet, &[1, 2, 3])
            .unwrap();
        let inner = read(&packet).unwrap();
        assert_eq!(inner.source, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(inner.destination, IpAddr::from([10, 0, 0, 2]));
        assert_eq!(read(&packet[..packet.len() - 1]), None);
        let mut packet = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(1, 2).write(&mut packet, &[]).unwrap();
        let inner = read(&packet).unwrap();
        assert_eq!(inner.source, IpAddr::from([1; 16]));
        assert_eq!(inner.destination, IpAddr::from([2; 16]));
        packet.push(0);
        assert_eq!(read(&packet), None);
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[0x45]), None);
        assert_eq!(read(&[0x50; 60]), None);
    }
}
