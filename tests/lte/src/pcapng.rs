//! Writing and reading captures in pcapng (draft-ietf-opsawg-pcapng): one section, named interfaces,
//! nanosecond timestamps, enhanced packet blocks. Both byte orders are read.

use std::io::{self, Read, Write};
use std::time::Duration;

/// What a packet of an interface begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum LinkType {
    Ethernet = 1,
    /// An IPv4 or IPv6 packet without any link layer.
    RawIp = 101,
}

const BLOCK_SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BLOCK_INTERFACE: u32 = 1;
const BLOCK_ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const OPTION_IF_NAME: u16 = 2;
const OPTION_IF_TSRESOL: u16 = 9;
const OPTION_EPB_FLAGS: u16 = 2;
const NANOSECONDS: u8 = 9;

/// A block longer than this is not one that we would want in memory.
const BLOCK_LIMIT: u32 = 1 << 24;

/// Which way a packet went at the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Unknown,
    Inbound,
    Outbound,
}

/// A capture being written. Each packet is one write, so that a reader may follow.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    interfaces: u32,
}

impl<W: Write> Writer<W> {
    /// Begins the section.
    pub fn new(mut to: W) -> io::Result<Writer<W>> {
        let mut body = Vec::new();
        body.extend_from_slice(&BYTE_ORDER_MAGIC.to_le_bytes());
        body.extend_from_slice(&1u16.to_le_bytes());
        body.extend_from_slice(&0u16.to_le_bytes());
        // The length of the section is not known yet.
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        to.write_all(&block(BLOCK_SECTION_HEADER, &body))?;
        Ok(Writer { to, interfaces: 0 })
    }

    /// Adds an interface; the answer is its number for [`Writer::packet`].
    pub fn interface(&mut self, name: &str, link_type: LinkType) -> io::Result<u32> {
        let mut body = Vec::new();
        body.extend_from_slice(&(link_type as u16).to_le_bytes());
        body.extend_from_slice(&0u16.to_le_bytes());
        // No limit on the length of what is kept of a packet.
        body.extend_from_slice(&0u32.to_le_bytes());
        option(&mut body, OPTION_IF_NAME, name.as_bytes());
        option(&mut body, OPTION_IF_TSRESOL, &[NANOSECONDS]);
        body.extend_from_slice(&[0; 4]);
        self.to.write_all(&block(BLOCK_INTERFACE, &body))?;
        let number = self.interfaces;
        self.interfaces += 1;
        Ok(number)
    }

    /// Writes one packet. `time` is since the Unix epoch.
    pub fn packet(
        &mut self,
        interface: u32,
        time: Duration,
        direction: Direction,
        packet: &[u8],
    ) -> io::Result<()> {
        let nanoseconds = time.as_nanos() as u64;
        let length = packet.len() as u32;
        let mut body = Vec::with_capacity(packet.len() + 44);
        body.extend_from_slice(&interface.to_le_bytes());
        body.extend_from_slice(&((nanoseconds >> 32) as u32).to_le_bytes());
        body.extend_from_slice(&(nanoseconds as u32).to_le_bytes());
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(packet);
        pad(&mut body);
        if direction != Direction::Unknown {
            option(&mut body, OPTION_EPB_FLAGS, &(direction as u32).to_le_bytes());
            body.extend_from_slice(&[0; 4]);
        }
        self.to.write_all(&block(BLOCK_ENHANCED_PACKET, &body))
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() + 12) as u32;
    let mut block = Vec::with_capacity(body.len() + 12);
    block.extend_from_slice(&kind.to_le_bytes());
    block.extend_from_slice(&length.to_le_bytes());
    block.extend_from_slice(body);
    block.extend_from_slice(&length.to_le_bytes());
    block
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&(value.len() as u16).to_le_bytes());
    body.extend_from_slice(value);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// A packet as read from a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub interface: String,
    /// See [`LinkType`].
    pub link_type: u16,
    /// Since the Unix epoch.
    pub time: Duration,
    pub direction: Direction,
    pub packet: Vec<u8>,
}

#[derive(Debug)]
struct Interface {
    name: String,
    link_type: u16,
    units_per_second: u64,
}

/// A capture being read, also while it is being written: `next` gives `None` where it ends now and
/// may give more later.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    buffer: Vec<u8>,
    is_big_endian: bool,
    interfaces: Vec<Interface>,
}

impl<R: Read> Reader<R> {
    pub fn new(from: R) -> Reader<R> {
        Reader { from, buffer: Vec::new(), is_big_endian: false, interfaces: Vec::new() }
    }

    /// The next packet; `None` when no whole block is there.
    pub fn next_packet(&mut self) -> io::Result<Option<Captured>> {
        while let Some((kind, body)) = self.next_block()? {
            match kind {
                BLOCK_SECTION_HEADER => self.interfaces.clear(),
                BLOCK_INTERFACE => {
                    let interface = self.read_interface(&body)?;
                    self.interfaces.push(interface);
                }
                BLOCK_ENHANCED_PACKET => return self.read_packet(&body).map(Some),
                _ => {}
            }
        }
        Ok(None)
    }

    fn next_block(&mut self) -> io::Result<Option<(u32, Vec<u8>)>> {
        if !self.fill(12)? {
            return Ok(None);
        }
        // The type of a section header reads the same in both orders; its magic then says which.
        if self.buffer[..4] == BLOCK_SECTION_HEADER.to_le_bytes() {
            self.is_big_endian = match self.buffer[8..12] {
                [0x4d, 0x3c, 0x2b, 0x1a] => false,
                [0x1a, 0x2b, 0x3c, 0x4d] => true,
                _ => return Err(malformed("byte-order magic")),
            };
        }
        let kind = self.u32(&self.buffer, 0)?;
        let length = self.u32(&self.buffer, 4)?;
        if !(12..=BLOCK_LIMIT).contains(&length) || length % 4 != 0 {
            return Err(malformed("block length"));
        }
        if !self.fill(length as usize)? {
            return Ok(None);
        }
        let rest = self.buffer.split_off(length as usize);
        let block = std::mem::replace(&mut self.buffer, rest);
        Ok(Some((kind, block[8..block.len() - 4].to_vec())))
    }

    /// Whether the buffer has so many octets now.
    fn fill(&mut self, octets: usize) -> io::Result<bool> {
        while self.buffer.len() < octets {
            let mut chunk = [0; 16_384];
            match self.from.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn read_interface(&self, body: &[u8]) -> io::Result<Interface> {
        let link_type = self.u16(body, 0)?;
        let mut interface =
            Interface { name: String::new(), link_type, units_per_second: 1_000_000 };
        for (code, value) in self.options(body.get(8..).unwrap_or_default()) {
            match (code, value) {
                (OPTION_IF_NAME, name) => {
                    interface.name = String::from_utf8_lossy(name).into_owned();
                }
                (OPTION_IF_TSRESOL, [power, ..]) if power & 0x80 == 0 && *power <= 18 => {
                    interface.units_per_second = 10u64.pow(u32::from(*power));
                }
                _ => {}
            }
        }
        Ok(interface)
    }

    fn read_packet(&self, body: &[u8]) -> io::Result<Captured> {
        let number = self.u32(body, 0)? as usize;
        let interface = self.interfaces.get(number).ok_or_else(|| malformed("interface"))?;
        let units = u64::from(self.u32(body, 4)?) << 32 | u64::from(self.u32(body, 8)?);
        let per_second = interface.units_per_second;
        let fraction = u128::from(units % per_second) * 1_000_000_000 / u128::from(per_second);
        let length = self.u32(body, 12)? as usize;
        let packet = body.get(20..20 + length).ok_or_else(|| malformed("packet length"))?;
        let mut direction = Direction::Unknown;
        for (code, value) in
            self.options(body.get(20 + length.next_multiple_of(4)..).unwrap_or(&[]))
        {
            if code == OPTION_EPB_FLAGS {
                direction = match self.u32(value, 0)? & 3 {
                    1 => Direction::Inbound,
                    2 => Direction::Outbound,
                    _ => Direction::Unknown,
                };
            }
        }
        Ok(Captured {
            interface: interface.name.clone(),
            link_type: interface.link_type,
            time: Duration::new(units / per_second, fraction as u32),
            direction,
            packet: packet.to_vec(),
        })
    }

    fn options<'a>(&self, mut rest: &'a [u8]) -> Vec<(u16, &'a [u8])> {
        let mut options = Vec::new();
        while let (Ok(code @ 1..), Ok(length)) = (self.u16(rest, 0), self.u16(rest, 2)) {
            let length = usize::from(length);
            let Some(value) = rest.get(4..4 + length) else { break };
            options.push((code, value));
            rest = rest.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
        }
        options
    }

    fn u16(&self, bytes: &[u8], at: usize) -> io::Result<u16> {
        let value = bytes.get(at..at + 2).ok_or_else(|| malformed("block"))?;
        let value = [value[0], value[1]];
        Ok(if self.is_big_endian { u16::from_be_bytes(value) } else { u16::from_le_bytes(value) })
    }

    fn u32(&self, bytes: &[u8], at: usize) -> io::Result<u32> {
        let value = bytes.get(at..at + 4).ok_or_else(|| malformed("block"))?;
        let value = [value[0], value[1], value[2], value[3]];
        Ok(if self.is_big_endian { u32::from_be_bytes(value) } else { u32::from_le_bytes(value) })
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("pcapng: malformed {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::new(1_790_000_000, 123_456_789);

    fn capture() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        let radio = writer.interface("radio", LinkType::RawIp).unwrap();
        let s1u = writer.interface("s1u", LinkType::Ethernet).unwrap();
        writer.packet(radio, TIME, Direction::Inbound, &[0x45, 1, 2, 3, 4]).unwrap();
        writer.packet(s1u, TIME + Duration::from_nanos(1), Direction::Unknown, &[6; 60]).unwrap();
        bytes
    }

    /// The section header and an interface, octet for octet as the draft lays them out.
    #[test]
    fn blocks_are_byte_exact() {
        let bytes = capture();
        let section = [
            0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 0xff, 0xff,
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 28, 0, 0, 0,
        ];
        assert_eq!(bytes[..28], section);
        let interface = [
            1, 0, 0, 0, 44, 0, 0, 0, 101, 0, 0, 0, 0, 0, 0, 0, 2, 0, 5, 0, b'r', b'a', b'd', b'i',
            b'o', 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0,
        ];
        assert_eq!(bytes[28..72], interface);
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = capture();
        let mut reader = Reader::new(&bytes[..]);
        let first = reader.next_packet().unwrap().unwrap();
        assert_eq!(
            first,
            Captured {
                interface: "radio".into(),
                link_type: 101,
                time: TIME,
                direction: Direction::Inbound,
                packet: vec![0x45, 1, 2, 3, 4],
            }
        );
        let second = reader.next_packet().unwrap().unwrap();
        assert_eq!((second.interface.as_str(), second.link_type), ("s1u", 1));
        assert_eq!(second.time, TIME + Duration::from_nanos(1));
        assert_eq!(reader.next_packet().unwrap(), None);
    }

    /// A capture that ends in the middle of a block is not wrong, it is not finished.
    #[test]
    fn growing_capture_is_followed() {
        struct Growing<'a>(std::collections::VecDeque<&'a [u8]>);
        impl Read for Growing<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.pop_front() {
                    Some(part) => {
                        buffer[..part.len()].copy_from_slice(part);
                        Ok(part.len())
                    }
                    None => Ok(0),
                }
            }
        }
        let bytes = capture();
        let (one, two) = bytes.split_at(150);
        let mut reader = Reader::new(Growing([one, &[], two].into()));
        let mut packets = 0;
        for _ in 0..6 {
            packets += usize::from(reader.next_packet().unwrap().is_some());
        }
        assert_eq!(packets, 2);
    }

    #[test]
    fn garbage_is_refused() {
        assert!(Reader::new(&[0xff; 64][..]).next_packet().is_err());
        let mut bytes = capture();
        bytes[8] = 0;
        assert!(Reader::new(&bytes[..]).next_packet().is_err());
    }
}
