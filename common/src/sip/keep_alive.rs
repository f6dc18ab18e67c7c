//! Keep-alives over UDP (RFC 5626 §3.5.2, §4.4): what a peer sends so that a NAT between keeps the way open.
//!
//! STUN Binding requests are answered with the address that they came from (RFC 5389 §7.3.1), as the keep-alive
//! usage wants it and no more: no authentication, no FINGERPRINT. Line ends, which many send over UDP
//! although they are meant for TCP, want no answer there. [`binding_request`] and [`mapped_address`] are the
//! phone's side.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};

/// RFC 5389 §6: of each message.
const MAGIC_COOKIE: u32 = 0x2112_a442;
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;

/// What a datagram is that is no SIP message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeepAlive {
    /// To be passed over.
    Silent,
    /// To be answered with this, where it came from.
    Answer(Bytes),
}

impl KeepAlive {
    /// `None`: it is none, but a SIP message or what is meant to be one.
    pub fn read(datagram: &[u8], source: SocketAddr) -> Option<KeepAlive> {
        if datagram.iter().all(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            return Some(KeepAlive::Silent);
        }
        let header = datagram.get(..HEADER)?;
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        if header[4..8] != MAGIC_COOKIE.to_be_bytes()
            || usize::from(number(2)) != datagram.len() - HEADER
        {
            return None;
        }
        // RFC 5389 §7.3: an indication wants no answer, and what is asked for beside is not known here.
        let is_plain = number(0) == BINDING_REQUEST && !requires_more(&datagram[HEADER..]);
        Some(match is_plain {
            true => KeepAlive::Answer(success(&header[8..], source)),
            false => KeepAlive::Silent,
        })
    }
}

/// RFC 5389 §15: an attribute below 0x8000 must be understood.
fn requires_more(mut attributes: &[u8]) -> bool {
    while let Some(([high, low, length @ ..], rest)) = attributes.split_first_chunk::<4>() {
        if u16::from_be_bytes([*high, *low]) < 0x8000 {
            return true;
        }
        let length = usize::from(u16::from_be_bytes([length[0], length[1]])).next_multiple_of(4);
        attributes = rest.get(length..).unwrap_or_default();
    }
    false
}

/// RFC 5389 §15.2: port and address are covered by cookie and transaction, against NATs that rewrite what looks
/// like an address.
fn success(transaction: &[u8], source: SocketAddr) -> Bytes {
    let mut mask = MAGIC_COOKIE.to_be_bytes().to_vec();
    mask.extend(transaction);
    let (family, octets) = match source.ip() {
        IpAddr::V4(address) => (1, address.octets().to_vec()),
        IpAddr::V6(address) => (2, address.octets().to_vec()),
    };
    let length = 4 + octets.len() as u16;
    let mut answer = BytesMut::with_capacity(HEADER + 4 + usize::from(length));
    answer.put_u16(BINDING_SUCCESS);
    answer.put_u16(4 + length);
    answer.put_slice(&mask);
    answer.put_u16(XOR_MAPPED_ADDRESS);
    answer.put_u16(length);
    answer.put_u16(family);
    answer.put_u16(source.port() ^ (MAGIC_COOKIE >> 16) as u16);
    answer.extend(octets.iter().zip(&mask).map(|(octet, mask)| octet ^ mask));
    answer.freeze()
}

/// What a phone sends.
pub fn binding_request(transaction: [u8; 12]) -> Bytes {
    let mut request = BytesMut::with_capacity(HEADER);
    request.put_u16(BINDING_REQUEST);
    request.put_u16(0);
    request.put_u32(MAGIC_COOKIE);
    request.put_slice(&transaction);
    request.freeze()
}

/// XOR-MAPPED-ADDRESS of the answer to that request: what the phone looks like from outside (RFC 5389 §15.2).
pub fn mapped_address(datagram: &[u8], transaction: &[u8; 12]) -> Option<SocketAddr> {
    let (header, mut attributes) = datagram.split_at_checked(HEADER)?;
    let number = |octets: &[u8]| Some(u16::from_be_bytes(*octets.first_chunk::<2>()?));
    if number(header)? != BINDING_SUCCESS
        || header[4..8] != MAGIC_COOKIE.to_be_bytes()
        || header[8..] != transaction[..]
    {
        return None;
    }
    while let Some((head, rest)) = attributes.split_first_chunk::<4>() {
        let length = usize::from(number(&head[2..])?);
        let value = rest.get(..length)?;
        if number(head)? != XOR_MAPPED_ADDRESS {
            attributes = rest.get(length.next_multiple_of(4)..)?;
            continue;
        }
        let port = number(value.get(2..)?)? ^ (MAGIC_COOKIE >> 16) as u16;
        let octets: Vec<u8> =
            value[4..].iter().zip(&header[4..]).map(|(octet, mask)| octet ^ mask).collect();
        let address = match value[1] {
            1 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
            2 => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
            _ => return None,
        };
        return Some(SocketAddr::new(address, port));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5389 §15.2: there and back; cut anywhere, or of another transaction, it is no answer.
    #[test]
    fn the_phones_side() {
        let transaction = [7; 12];
        for source in ["192.0.2.1:32853", "[2001:db8::1]:5060"] {
            let source = source.parse().unwrap();
            let answer = KeepAlive::read(&binding_request(transaction), source);
            let Some(KeepAlive::Answer(answer)) = answer else { panic!("{answer:?}") };
            assert_eq!(mapped_address(&answer, &transaction), Some(source));
            assert_eq!(mapped_address(&answer, &[8; 12]), None);
            for length in 0..answer.len() {
                assert_eq!(mapped_address(&answer[..length], &transaction), None);
            }
            // SOFTWARE in front of it.
            let mut longer = answer[..HEADER].to_vec();
            longer.extend([0x80, 0x22, 0, 3, b'a', b'b', b'c', 0]);
            longer.extend(&answer[HEADER..]);
            assert_eq!(mapped_address(&longer, &transaction), Some(source));
        }
        assert_eq!(mapped_address(&binding_request(transaction), &transaction), None);
    }

    /// RFC 5626 §3.5.2, §4.4; RFC 5769 §2.2, §2.3: the transaction of the sample responses, and their mapped addresses.
    #[test]
    fn binding_requests() {
        let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        request.extend(hex::decode("b7e7a701bc34d686fa87dfae").unwrap());
        for (source, mapped) in [
            ("192.0.2.1:32853", "002000080001a147e112a643"),
            (
                "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
                "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9",
            ),
        ] {
            let answer = KeepAlive::read(&request, source.parse().unwrap());
            let Some(KeepAlive::Answer(answer)) = answer else { panic!("{answer:?}") };
            assert_eq!(answer[..2], [1, 1]);
            assert_eq!(usize::from(answer[3]), answer.len() - 20);
            assert_eq!(answer[4..20], request[4..20]);
            assert_eq!(hex::encode(&answer[20..]), mapped);
        }
        // With SOFTWARE, which need not be understood; with USERNAME, which must be.
        let source = "192.0.2.1:32853".parse().unwrap();
        for (attribute, is_answered) in [("8022000161000000", true), ("0006000161000000", false)] {
            let mut request = request.clone();
            request.extend(hex::decode(attribute).unwrap());
            request[3] = 8;
            let read = KeepAlive::read(&request, source);
            assert_eq!(matches!(read, Some(KeepAlive::Answer(_))), is_answered);
            assert!(read.is_some());
        }
        request[0] = 0x11;
        request[1] = 0x11;
        assert_eq!(KeepAlive::read(&request, source), Some(KeepAlive::Silent));
        request[3] = 4;
        assert_eq!(KeepAlive::read(&request, source), None);
    }

    #[test]
    fn line_ends() {
        let source = "192.0.2.1:5060".parse().unwrap();
        for silent in ["\r\n\r\n", "\r\n", "\0", ""] {
            assert_eq!(KeepAlive::read(silent.as_bytes(), source), Some(KeepAlive::Silent));
        }
        for other in ["\r\nREGISTER sip:h SIP/2.0", "jaK", "x"] {
            assert_eq!(KeepAlive::read(other.as_bytes(), source), None);
        }
    }
}
