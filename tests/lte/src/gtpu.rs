//! GTPv1-U on the wire (TS 29.281 §5, §7, §8): the header with its extension headers, the six
//! message types, and their information elements.
//!
//! Decoding borrows the datagram; nothing is copied on the way of a user packet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The UDP port of GTP-U (TS 29.281 §4.4.2).
pub const PORT: u16 = 2152;

/// Octets of the header without its optional part (TS 29.281 §5.1).
pub const HEADER_LENGTH: usize = 8;

/// More extension headers than this in one packet are refused: no real packet carries more than two.
const EXTENSION_HEADERS_LIMIT: usize = 8;

const FLAG_EXTENSION: u8 = 0x04;
const FLAG_SEQUENCE: u8 = 0x02;
const FLAG_N_PDU: u8 = 0x01;
const VERSION_1_GTP: u8 = 0x30;

const ELEMENT_RECOVERY: u8 = 14;
const ELEMENT_TEID_DATA_I: u8 = 16;
const ELEMENT_PEER_ADDRESS: u8 = 133;
const ELEMENT_EXTENSION_HEADER_TYPES: u8 = 141;

/// Tunnel endpoint identifier: chosen by the side that receives on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Teid(pub u32);

impl fmt::Display for Teid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08x}", self.0)
    }
}

/// Message types (TS 29.281 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageType {
    EchoRequest = 1,
    EchoResponse = 2,
    ErrorIndication = 26,
    SupportedExtensionHeadersNotification = 31,
    EndMarker = 254,
    GPdu = 255,
}

/// One extension header: its type, and its content without the length and next-type octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionHeader<'a> {
    pub kind: u8,
    pub content: &'a [u8],
}

/// Extension header type of the UDP port, allowed in an Error Indication (TS 29.281 §5.2.2.1).
pub const EXTENSION_UDP_PORT: u8 = 0x40;
/// Extension header type of the PDCP PDU number (TS 29.281 §5.2.2.2).
pub const EXTENSION_PDCP_PDU_NUMBER: u8 = 0xc0;

impl ExtensionHeader<'_> {
    /// TS 29.281 §5.2.1: the two top bits of the type say who must understand it.
    pub fn must_be_understood_by_endpoint(&self) -> bool {
        self.kind & 0x80 != 0
    }

    /// TS 29.281 §5.2.1: an intermediate node must understand only those with both bits set.
    pub fn must_be_understood_by_intermediate(&self) -> bool {
        self.kind & 0xc0 == 0xc0
    }

    /// TS 29.281 §5.2.1: an intermediate node takes these out.
    pub fn is_dropped_by_intermediate(&self) -> bool {
        self.kind & 0xc0 == 0x40
    }
}

/// A decoded GTP-U packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub message_type: MessageType,
    pub teid: Teid,
    pub sequence_number: Option<u16>,
    pub n_pdu_number: Option<u8>,
    pub extension_headers: Vec<ExtensionHeader<'a>>,
    /// The inner IP packet of a G-PDU; the information elements of anything else.
    pub payload: &'a [u8],
}

/// Why a datagram is not a GTP-U packet that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Shorter than its header says.
    Truncated,
    /// Not version 1, or GTP' (TS 29.281 §5.1: discarded in silence).
    Version,
    /// A message type outside of [`MessageType`].
    MessageType(u8),
    /// An extension header of length zero or beyond the packet, or too many of them.
    ExtensionHeader,
    /// A mandatory information element is missing or malformed.
    InformationElement,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Truncated => f.write_str("shorter than its header says"),
            DecodeError::Version => f.write_str("not GTP version 1"),
            DecodeError::MessageType(kind) => write!(f, "message type {kind} is not of GTP-U"),
            DecodeError::ExtensionHeader => f.write_str("malformed extension header"),
            DecodeError::InformationElement => f.write_str("malformed information element"),
        }
    }
}

/// TS 29.281 §5.1: the header and what follows it.
pub fn decode(datagram: &[u8]) -> Result<Packet<'_>, DecodeError> {
    let header = datagram.get(..HEADER_LENGTH).ok_or(DecodeError::Truncated)?;
    let flags = header[0];
    if flags & 0xf0 != VERSION_1_GTP {
        return Err(DecodeError::Version);
    }
    let message_type = message_type(header[1])?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let teid = Teid(u32::from_be_bytes([header[4], header[5], header[6], header[7]]));
    // What a datagram carries beyond the stated length is not part of the message.
    let rest = datagram.get(HEADER_LENGTH..HEADER_LENGTH + length).ok_or(DecodeError::Truncated)?;
    let mut packet = Packet {
        message_type,
        teid,
        sequence_number: None,
        n_pdu_number: None,
        extension_headers: Vec::new(),
        payload: rest,
    };
    if flags & (FLAG_EXTENSION | FLAG_SEQUENCE | FLAG_N_PDU) != 0 {
        let optional = rest.get(..4).ok_or(DecodeError::Truncated)?;
        if flags & FLAG_SEQUENCE != 0 {
            packet.sequence_number = Some(u16::from_be_bytes([optional[0], optional[1]]));
        }
        if flags & FLAG_N_PDU != 0 {
            packet.n_pdu_number = Some(optional[2]);
        }
        packet.payload = &rest[4..];
        // Without the E flag the octet is present but not meaningful.
        let next = if flags & FLAG_EXTENSION != 0 { optional[3] } else { 0 };
        packet.payload = extension_headers(next, packet.payload, &mut packet.extension_headers)?;
    }
    Ok(packet)
}

fn message_type(octet: u8) -> Result<MessageType, DecodeError> {
    Ok(match octet {
        1 => MessageType::EchoRequest,
        2 => MessageType::EchoResponse,
        26 => MessageType::ErrorIndication,
        31 => MessageType::SupportedExtensionHeadersNotification,
        254 => MessageType::EndMarker,
        255 => MessageType::GPdu,
        other => return Err(DecodeError::MessageType(other)),
    })
}

/// TS 29.281 §5.2.1: each extension header says its length in units of four octets, and the type of
/// the one behind it in its last octet.
fn extension_headers<'a>(
    mut next: u8,
    mut rest: &'a [u8],
    headers: &mut Vec<ExtensionHeader<'a>>,
) -> Result<&'a [u8], DecodeError> {
    while next != 0 {
        let units = usize::from(*rest.first().ok_or(DecodeError::Truncated)?);
        let length = units * 4;
        if units == 0 || length > rest.len() || headers.len() == EXTENSION_HEADERS_LIMIT {
            return Err(DecodeError::ExtensionHeader);
        }
        headers.push(ExtensionHeader { kind: next, content: &rest[1..length - 1] });
        next = rest[length - 1];
        rest = &rest[length..];
    }
    Ok(rest)
}

impl Packet<'_> {
    /// The packet as it goes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LENGTH + 4 + self.payload.len() + 16);
        let has_extension = !self.extension_headers.is_empty();
        let mut flags = VERSION_1_GTP;
        if has_extension {
            flags |= FLAG_EXTENSION;
        }
        if self.sequence_number.is_some() {
            flags |= FLAG_SEQUENCE;
        }
        if self.n_pdu_number.is_some() {
            flags |= FLAG_N_PDU;
        }
        out.extend_from_slice(&[flags, self.message_type as u8, 0, 0]);
        out.extend_from_slice(&self.teid.0.to_be_bytes());
        if flags != VERSION_1_GTP {
            out.extend_from_slice(&self.sequence_number.unwrap_or(0).to_be_bytes());
            out.push(self.n_pdu_number.unwrap_or(0));
            out.push(self.extension_headers.first().map_or(0, |header| header.kind));
        }
        for (index, header) in self.extension_headers.iter().enumerate() {
            let units = (header.content.len() + 2).div_ceil(4);
            out.push(units as u8);
            out.extend_from_slice(header.content);
            out.resize(out.len() + units * 4 - 2 - header.content.len(), 0);
            out.push(self.extension_headers.get(index + 1).map_or(0, |next| next.kind));
        }
        out.extend_from_slice(self.payload);
        let length = (out.len() - HEADER_LENGTH) as u16;
        out[2..4].copy_from_slice(&length.to_be_bytes());
        out
    }
}

/// TS 29.281 §5.1: a G-PDU as every node here sends it, without sequence number.
pub fn g_pdu(teid: Teid, inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LENGTH + inner.len());
    out.extend_from_slice(&[VERSION_1_GTP, MessageType::GPdu as u8]);
    out.extend_from_slice(&(inner.len() as u16).to_be_bytes());
    out.extend_from_slice(&teid.0.to_be_bytes());
    out.extend_from_slice(inner);
    out
}

/// TS 29.281 §7.2.1: is the path alive?
pub fn echo_request(sequence_number: u16) -> Vec<u8> {
    signalling(MessageType::EchoRequest, sequence_number, &[])
}

/// TS 29.281 §7.2.2: it is. Recovery is present and zero, as §8.2 wants it in GTP-U.
pub fn echo_response(sequence_number: u16) -> Vec<u8> {
    signalling(MessageType::EchoResponse, sequence_number, &[ELEMENT_RECOVERY, 0])
}

/// TS 29.281 §7.3.1: nobody listens on this TEID at this address.
pub fn error_indication(unknown: Teid, address: IpAddr) -> Vec<u8> {
    let mut elements = vec![ELEMENT_TEID_DATA_I];
    elements.extend_from_slice(&unknown.0.to_be_bytes());
    elements.push(ELEMENT_PEER_ADDRESS);
    match address {
        IpAddr::V4(address) => {
            elements.extend_from_slice(&4u16.to_be_bytes());
            elements.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            elements.extend_from_slice(&16u16.to_be_bytes());
            elements.extend_from_slice(&address.octets());
        }
    }
    signalling(MessageType::ErrorIndication, 0, &elements)
}

/// TS 29.281 §7.2.3: the extension headers that the sender understands.
pub fn supported_extension_headers_notification(kinds: &[u8]) -> Vec<u8> {
    let mut elements = vec![ELEMENT_EXTENSION_HEADER_TYPES, kinds.len() as u8];
    elements.extend_from_slice(kinds);
    signalling(MessageType::SupportedExtensionHeadersNotification, 0, &elements)
}

/// TS 29.281 §7.3.2: nothing more comes on this tunnel.
pub fn end_marker(teid: Teid) -> Vec<u8> {
    let mut out = vec![VERSION_1_GTP, MessageType::EndMarker as u8, 0, 0];
    out.extend_from_slice(&teid.0.to_be_bytes());
    out
}

fn signalling(message_type: MessageType, sequence_number: u16, elements: &[u8]) -> Vec<u8> {
    Packet {
        message_type,
        teid: Teid(0),
        sequence_number: Some(sequence_number),
        n_pdu_number: None,
        extension_headers: Vec::new(),
        payload: elements,
    }
    .encode()
}

/// What an Error Indication says: the TEID that was not known, and the address it was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorIndication {
    pub teid: Teid,
    pub address: IpAddr,
}

/// TS 29.281 §7.3.1: the two mandatory elements, in whatever company.
pub fn read_error_indication(elements: &[u8]) -> Result<ErrorIndication, DecodeError> {
    let (mut teid, mut address) = (None, None);
    for_each_element(elements, |kind, value| match (kind, value.len()) {
        (ELEMENT_TEID_DATA_I, 4) => {
            teid = Some(Teid(u32::from_be_bytes([value[0], value[1], value[2], value[3]])));
        }
        (ELEMENT_PEER_ADDRESS, 4) => {
            address = Some(IpAddr::V4(Ipv4Addr::new(value[0], value[1], value[2], value[3])));
        }
        (ELEMENT_PEER_ADDRESS, 16) => {
            let octets = <[u8; 16]>::try_from(value).unwrap_or_default();
            address = Some(IpAddr::V6(Ipv6Addr::from(octets)));
        }
        _ => {}
    })?;
    match (teid, address) {
        (Some(teid), Some(address)) => Ok(ErrorIndication { teid, address }),
        _ => Err(DecodeError::InformationElement),
    }
}

/// TS 29.281 §8.1: types below 128 have a fixed length known by the type, the others carry it.
fn for_each_element(
    mut elements: &[u8],
    mut element: impl FnMut(u8, &[u8]),
) -> Result<(), DecodeError> {
    while let Some((&kind, rest)) = elements.split_first() {
        let (length, rest) = match kind {
            ELEMENT_RECOVERY => (1, rest),
            ELEMENT_TEID_DATA_I => (4, rest),
            ELEMENT_EXTENSION_HEADER_TYPES => {
                let (&count, rest) = rest.split_first().ok_or(DecodeError::InformationElement)?;
                (usize::from(count), rest)
            }
            128.. => {
                let length = rest.get(..2).ok_or(DecodeError::InformationElement)?;
                (usize::from(u16::from_be_bytes([length[0], length[1]])), &rest[2..])
            }
            // A fixed length that we do not know ends what can be read.
            _ => return Err(DecodeError::InformationElement),
        };
        element(kind, rest.get(..length).ok_or(DecodeError::InformationElement)?);
        elements = &rest[length..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(hex: &str) -> Vec<u8> {
        let hex: Vec<u8> = hex.bytes().filter(|octet| !octet.is_ascii_whitespace()).collect();
        hex.chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// TS 29.281 §7.2.1, §7.2.2: both Echo messages, octet for octet.
    #[test]
    fn echo_messages_are_byte_exact() {
        assert_eq!(echo_request(1), octets("320100040000000000010000"));
        assert_eq!(echo_response(1), octets("3202000600000000000100000e00"));
        let bytes = echo_request(0xfffe);
        let packet = decode(&bytes).unwrap();
        assert_eq!(packet.message_type, MessageType::EchoRequest);
        assert_eq!(packet.sequence_number, Some(0xfffe));
        assert_eq!(packet.payload, b"");
    }

    /// TS 29.281 §5.1: S-02, the header of user data is eight octets.
    #[test]
    fn g_pdu_is_byte_exact() {
        let inner = [0x45; 28];
        let bytes = g_pdu(Teid(0x1122_3344), &inner);
        assert_eq!(bytes[..8], octets("30ff001c11223344"));
        assert_eq!(bytes[8..], inner);
        let packet = decode(&bytes).unwrap();
        assert_eq!((packet.teid, packet.payload), (Teid(0x1122_3344), &inner[..]));
        assert_eq!(packet.encode(), bytes);
    }

    /// TS 29.281 §7.3.1, §8.3, §8.4.
    #[test]
    fn error_indication_is_byte_exact() {
        let bytes = error_indication(Teid(0x1122_3344), "192.0.2.1".parse().unwrap());
        assert_eq!(bytes, octets("321a0010 00000000 00000000 10 11223344 85 0004 c0000201"));
        let packet = decode(&bytes).unwrap();
        assert_eq!(
            read_error_indication(packet.payload),
            Ok(ErrorIndication { teid: Teid(0x1122_3344), address: "192.0.2.1".parse().unwrap() })
        );
        let address: IpAddr = "2001:db8::7".parse().unwrap();
        let bytes = error_indication(Teid(9), address);
        let elements = decode(&bytes).unwrap().payload.to_vec();
        assert_eq!(
            read_error_indication(&elements),
            Ok(ErrorIndication { teid: Teid(9), address })
        );
    }

    /// TS 29.281 §5.2.2.1: an Error Indication may carry the UDP port of the packet it is about.
    #[test]
    fn error_indication_with_a_udp_port_is_read() {
        let bytes = octets("361a0014 00000000 00000040 01 0868 00 10 11223344 85 0004 c0000201");
        let packet = decode(&bytes).unwrap();
        assert_eq!(
            packet.extension_headers,
            [ExtensionHeader { kind: EXTENSION_UDP_PORT, content: &[0x08, 0x68] }]
        );
        assert_eq!(read_error_indication(packet.payload).unwrap().teid, Teid(0x1122_3344));
        assert_eq!(packet.encode(), bytes);
    }

    /// TS 29.281 §8.1: an element that is not for us does not hide those that are; a cut one is an
    /// error.
    #[test]
    fn error_indication_elements_are_checked() {
        let private_extension = octets("ff 0003 000a00 10 00000005 85 0004 c0000201");
        assert_eq!(read_error_indication(&private_extension).unwrap().teid, Teid(5));
        for cut in ["", "10 000000", "10 00000005", "10 00000005 85 0004 c00002", "05"] {
            assert_eq!(
                read_error_indication(&octets(cut)),
                Err(DecodeError::InformationElement),
                "{cut}"
            );
        }
    }

    /// TS 29.281 §7.2.3, §8.5.
    #[test]
    fn supported_extension_headers_are_listed() {
        let bytes = supported_extension_headers_notification(&[EXTENSION_UDP_PORT]);
        assert_eq!(bytes, octets("321f0007 00000000 00000000 8d 01 40"));
    }

    /// TS 29.281 §7.3.2.
    #[test]
    fn end_marker_is_byte_exact() {
        assert_eq!(end_marker(Teid(7)), octets("30fe000000000007"));
    }

    /// TS 29.281 §5.2.1: extension headers in a chain, with the comprehension bits of each.
    #[test]
    fn extension_headers_are_walked() {
        let bytes = octets("34ff000e 00000001 0000 00 c0 01 0102 40 01 0868 00 4500");
        let packet = decode(&bytes).unwrap();
        assert_eq!(packet.extension_headers.len(), 2);
        assert_eq!(packet.payload, [0x45, 0x00]);
        let (pdcp, port) = (packet.extension_headers[0], packet.extension_headers[1]);
        assert!(pdcp.must_be_understood_by_endpoint());
        assert!(pdcp.must_be_understood_by_intermediate());
        assert!(!port.must_be_understood_by_endpoint());
        assert!(port.is_dropped_by_intermediate());
        assert_eq!(packet.encode(), bytes);
    }

    /// TS 29.281 §5.1: whatever arrives, an answer and no panic.
    #[test]
    fn malformed_packets_are_refused() {
        assert_eq!(decode(&octets("30ff001c112233")), Err(DecodeError::Truncated));
        assert_eq!(decode(&octets("30ff001c11223344")), Err(DecodeError::Truncated));
        assert_eq!(decode(&octets("10ff000011223344")), Err(DecodeError::Version));
        assert_eq!(decode(&octets("50ff000011223344")), Err(DecodeError::Version));
        assert_eq!(decode(&octets("20ff000011223344")), Err(DecodeError::Version));
        assert_eq!(decode(&octets("3007000011223344")), Err(DecodeError::MessageType(7)));
        assert_eq!(decode(&octets("32ff000211223344 0001")), Err(DecodeError::Truncated));
        let zero_length = octets("34ff000811223344 00000040 00000000");
        assert_eq!(decode(&zero_length), Err(DecodeError::ExtensionHeader));
        let beyond = octets("34ff000811223344 00000040 02000000");
        assert_eq!(decode(&beyond), Err(DecodeError::ExtensionHeader));
        let endless = [&octets("34ff0028 11223344 00000040")[..], &[1, 0, 0, 0x40].repeat(9)];
        assert_eq!(decode(&endless.concat()), Err(DecodeError::ExtensionHeader));
        // Octets behind the stated length are not part of the packet.
        assert_eq!(decode(&octets("30ff000111223344 45ffff")).unwrap().payload, [0x45]);
    }
}
