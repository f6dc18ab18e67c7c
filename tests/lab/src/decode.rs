//! From packets to what a telecom engineer calls a message: SIP, Diameter, DNS, GTP-U hops, ESP.
//!
//! This reads the wire without the parsers of the daemons, so that a mistake there shows here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use etherparse::defrag::IpDefragPool;
use etherparse::{NetSlice, SlicedPacket};
use hickory_proto::op::{Message as DnsMessage, MessageType as DnsType};
use lte::gtpu::{self, MessageType};
use lte::pcapng::LinkType;
use serde::Serialize;

use crate::capture::Seen;

/// Streams followed at a time; the oldest is forgotten beyond that.
const STREAMS_LIMIT: usize = 4_096;
/// Octets waiting in a stream for the rest of a message.
const STREAM_LIMIT: usize = 262_144;

/// A message on a link.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Seconds since the Unix epoch.
    #[serde(serialize_with = "seconds")]
    pub time: Duration,
    pub link: &'static str,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    Sip {
        transport: &'static str,
        source_port: u16,
        destination_port: u16,
        start_line: String,
        cseq: String,
        text: String,
    },
    Diameter {
        name: String,
        is_request: bool,
        result: Option<String>,
        user_name: Option<String>,
        public_identity: Option<String>,
        session: Option<String>,
        octets: usize,
    },
    Dns {
        is_response: bool,
        question: String,
        answers: Vec<String>,
    },
    /// A packet in a tunnel, with what is inside.
    Gtpu {
        message: String,
        teid: String,
        inner: Option<Inner>,
    },
    Esp {
        spi: String,
        sequence_number: u32,
        octets: usize,
    },
}

/// The inside of a tunnel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inner {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub what: Box<What>,
}

fn seconds<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

/// Follows fragments and streams, and gives messages.
pub struct Decoder {
    fragments: IpDefragPool<Duration, String>,
    streams: BTreeMap<StreamKey, Stream>,
}

/// Link, addresses and ports.
type StreamKey = (String, IpAddr, IpAddr, u16, u16);

#[derive(Default)]
struct Stream {
    next: Option<u32>,
    /// Segments that came too early.
    early: BTreeMap<u32, Vec<u8>>,
    data: Vec<u8>,
    touched: Duration,
}

/// What an IP packet carries, after fragments are joined.
struct Carried<'a> {
    /// Link, and for the inside of a tunnel the TEID: where streams and fragments belong together.
    place: String,
    time: Duration,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

impl Decoder {
    pub fn new() -> Decoder {
        Decoder { fragments: IpDefragPool::new(), streams: BTreeMap::new() }
    }

    /// The messages that are complete with this packet.
    pub fn decode(&mut self, seen: &Seen) -> Vec<Event> {
        let packet = match seen.link_type {
            LinkType::Ethernet => match seen.packet.get(12..14) {
                Some([0x08, 0x00] | [0x86, 0xdd]) => &seen.packet[14..],
                _ => return Vec::new(),
            },
            LinkType::RawIp => &seen.packet[..],
        };
        let messages = self.ip(seen.link.to_owned(), seen.time, packet);
        messages
            .into_iter()
            .map(|inner| Event {
                time: seen.time,
                link: seen.link,
                source: inner.source,
                destination: inner.destination,
                what: *inner.what,
            })
            .collect()
    }

    fn ip(&mut self, place: String, time: Duration, packet: &[u8]) -> Vec<Inner> {
        let Ok(sliced) = SlicedPacket::from_ip(packet) else { return Vec::new() };
        let (source, destination) = match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                (IpAddr::V4(ip.header().source_addr()), IpAddr::V4(ip.header().destination_addr()))
            }
            Some(NetSlice::Ipv6(ip)) => {
                (IpAddr::V6(ip.header().source_addr()), IpAddr::V6(ip.header().destination_addr()))
            }
            _ => return Vec::new(),
        };
        let Some(carried) = sliced.ip_payload() else { return Vec::new() };
        let mut carried = Carried {
            place,
            time,
            source,
            destination,
            protocol: carried.ip_number.0,
            payload: carried.payload,
        };
        if !sliced.is_ip_payload_fragmented() {
            return self.carried(&carried);
        }
        self.fragments.retain(|at| time.saturating_sub(*at) < Duration::from_secs(30));
        let whole = self.fragments.process_sliced_packet(&sliced, time, carried.place.clone());
        match whole {
            Ok(Some(whole)) => {
                carried.protocol = whole.ip_number.0;
                carried.payload = &whole.payload;
                self.carried(&carried)
            }
            _ => Vec::new(),
        }
    }

    fn carried(&mut self, carried: &Carried<'_>) -> Vec<Inner> {
        let one = |what: Option<What>| what.into_iter().collect();
        let whats: Vec<What> = match carried.protocol {
            17 => return self.udp(carried),
            6 => self.tcp(carried),
            50 => one(esp(carried.payload)),
            _ => Vec::new(),
        };
        whats.into_iter().map(|what| carried.inner(what)).collect()
    }

    fn udp(&mut self, carried: &Carried<'_>) -> Vec<Inner> {
        let Some((header, payload)) = carried.payload.split_at_checked(8) else {
            return Vec::new();
        };
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (from, to) = (port(0), port(2));
        if from == gtpu::PORT || to == gtpu::PORT {
            return self.gtpu(carried, payload);
        }
        let what = match (from, to) {
            (53, _) | (_, 53) => dns(payload),
            // RFC 3948: ESP inside UDP, unless it is a keep-alive.
            (4500, _) | (_, 4500) => esp(payload),
            _ => sip(payload, "UDP", from, to).map(|(what, _)| what),
        };
        what.map(|what| carried.inner(what)).into_iter().collect()
    }

    fn gtpu(&mut self, carried: &Carried<'_>, payload: &[u8]) -> Vec<Inner> {
        let Ok(packet) = gtpu::decode(payload) else { return Vec::new() };
        let message = match packet.message_type {
            MessageType::GPdu => "G-PDU",
            MessageType::EchoRequest => "Echo Request",
            MessageType::EchoResponse => "Echo Response",
            MessageType::ErrorIndication => "Error Indication",
            MessageType::SupportedExtensionHeadersNotification => {
                "Supported Extension Headers Notification"
            }
            MessageType::EndMarker => "End Marker",
        };
        let hop = |inner| What::Gtpu {
            message: message.to_owned(),
            teid: packet.teid.to_string(),
            inner,
        };
        if packet.message_type != MessageType::GPdu {
            return vec![carried.inner(hop(None))];
        }
        let place = format!("{} {}", carried.place, packet.teid);
        let inside = self.ip(place, carried.time, packet.payload);
        inside.into_iter().map(|inner| carried.inner(hop(Some(inner)))).collect()
    }

    /// RFC 9293 §3.4: octets in the order of their sequence numbers; then messages by what they say
    /// of their own length.
    fn tcp(&mut self, carried: &Carried<'_>) -> Vec<What> {
        let Ok(segment) = etherparse::TcpSlice::from_slice(carried.payload) else {
            return Vec::new();
        };
        let (from, to) = (segment.source_port(), segment.destination_port());
        let key = (carried.place.clone(), carried.source, carried.destination, from, to);
        if segment.rst() {
            self.streams.remove(&key);
            return Vec::new();
        }
        let stream = self.streams.entry(key).or_default();
        stream.touched = carried.time;
        stream.add(segment.sequence_number(), segment.syn(), segment.payload());
        let whats = stream.messages(from, to);
        if self.streams.len() > STREAMS_LIMIT {
            let oldest = self.streams.iter().min_by_key(|(_, stream)| stream.touched);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.streams.remove(&key);
            }
        }
        whats
    }
}

impl Carried<'_> {
    fn inner(&self, what: What) -> Inner {
        Inner { source: self.source, destination: self.destination, what: Box::new(what) }
    }
}

impl Stream {
    fn add(&mut self, sequence: u32, is_syn: bool, payload: &[u8]) {
        if is_syn {
            *self = Stream { next: Some(sequence.wrapping_add(1)), ..Stream::default() };
            return;
        }
        // A stream met in its middle begins with what is seen of it.
        let next = *self.next.get_or_insert(sequence);
        if payload.is_empty() {
            return;
        }
        if next.wrapping_sub(sequence) as i32 > 0 {
            // Sent again, perhaps with something new behind it.
            let known = next.wrapping_sub(sequence) as usize;
            let Some(new) = payload.get(known..).filter(|new| !new.is_empty()) else { return };
            return self.add(next, false, new);
        }
        if sequence != next {
            if self.early.len() < 64 {
                self.early.insert(sequence, payload.to_vec());
            }
            return;
        }
        if self.data.len() + payload.len() > STREAM_LIMIT {
            self.data.clear();
        }
        self.data.extend_from_slice(payload);
        let next = sequence.wrapping_add(payload.len() as u32);
        self.next = Some(next);
        let due = self.early.keys().copied().find(|at| next.wrapping_sub(*at) as i32 >= 0);
        if let Some((at, payload)) = due.and_then(|at| self.early.remove_entry(&at)) {
            self.add(at, false, &payload);
        }
    }

    fn messages(&mut self, from: u16, to: u16) -> Vec<What> {
        let mut whats = Vec::new();
        loop {
            // Keep-alives of RFC 5626 §3.5.1.
            let blank = self.data.iter().take_while(|octet| b"\r\n".contains(octet)).count();
            self.data.drain(..blank);
            let found = match self.data.first() {
                Some(1) => diameter(&self.data),
                Some(_) => sip(&self.data, "TCP", from, to),
                None => None,
            };
            let Some((what, length)) = found else { return whats };
            self.data.drain(..length.clamp(1, self.data.len()));
            whats.push(what);
        }
    }
}

/// RFC 3261 §7: one message at the beginning of the octets, and its length.
fn sip(bytes: &[u8], transport: &'static str, from: u16, to: u16) -> Option<(What, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let (start_line, _) = head.split_once("\r\n")?;
    if !start_line.starts_with("SIP/2.0 ") && !start_line.ends_with(" SIP/2.0") {
        return None;
    }
    let value = |long: &str, short: &str| {
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let name = name.trim();
            let is_it = name.eq_ignore_ascii_case(long) || name.eq_ignore_ascii_case(short);
            is_it.then(|| value.trim().to_owned())
        })
    };
    let cseq = value("CSeq", "CSeq").unwrap_or_default();
    let stated = value("Content-Length", "l").and_then(|value| value.parse::<usize>().ok());
    let length = match (transport, stated) {
        ("UDP", None) => bytes.len(),
        (_, stated) => end + stated.unwrap_or(0),
    };
    let message = bytes.get(..length)?;
    let what = What::Sip {
        transport,
        source_port: from,
        destination_port: to,
        start_line: start_line.to_owned(),
        cseq,
        text: String::from_utf8_lossy(message).into_owned(),
    };
    Some((what, length))
}

/// RFC 6733 §3: one message at the beginning of the octets, and its length.
fn diameter(bytes: &[u8]) -> Option<(What, usize)> {
    let header = bytes.get(..20)?;
    let length = u24(&header[1..4]);
    let message = bytes.get(..length.max(20))?;
    let is_request = header[4] & 0x80 != 0;
    let code = u24(&header[5..8]);
    let letters = match code {
        257 => "CE",
        280 => "DW",
        282 => "DP",
        300 => "UA",
        301 => "SA",
        302 => "LI",
        303 => "MA",
        304 => "RT",
        305 => "PP",
        _ => "",
    };
    let kind = if is_request { "R" } else { "A" };
    let name = match letters {
        "" => format!("command {code} {kind}"),
        letters => format!("{letters}{kind}"),
    };
    let text = |avp: Option<&[u8]>| avp.map(|value| String::from_utf8_lossy(value).into_owned());
    let number =
        |avp: Option<&[u8]>| avp.and_then(|value| Some(u32::from_be_bytes(value.try_into().ok()?)));
    let avps = avps(&message[20..]);
    let find = |code: u32| avps.iter().find(|(found, _)| *found == code).map(|(_, value)| *value);
    let experimental = find(297).map(self::avps).unwrap_or_default();
    let experimental =
        number(experimental.iter().find(|(found, _)| *found == 298).map(|(_, value)| *value));
    let result = match (number(find(268)), experimental) {
        (Some(result), _) => Some(result.to_string()),
        (None, Some(result)) => Some(format!("experimental {result}")),
        (None, None) => None,
    };
    let what = What::Diameter {
        name,
        is_request,
        result,
        user_name: text(find(1)),
        public_identity: text(find(601)),
        session: text(find(263)),
        octets: message.len(),
    };
    Some((what, message.len()))
}

fn u24(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2])
}

/// RFC 6733 §4.1: code and data of each AVP, up to the first that is malformed.
fn avps(mut bytes: &[u8]) -> Vec<(u32, &[u8])> {
    let mut found = Vec::new();
    while let Some(header) = bytes.get(..8) {
        let code = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let data_at = if header[4] & 0x80 != 0 { 12 } else { 8 };
        let length = u24(&header[5..8]);
        let Some(data) = bytes.get(data_at..length) else { break };
        found.push((code, data));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn dns(payload: &[u8]) -> Option<What> {
    let message = DnsMessage::from_vec(payload).ok()?;
    let question = message.queries.first()?;
    let answers = message.answers.iter().map(|record| record.data.to_string());
    let mut answers: Vec<String> = answers.collect();
    let is_response = message.metadata.message_type == DnsType::Response;
    if is_response && answers.is_empty() {
        answers.push(message.metadata.response_code.to_string());
    }
    let question = format!("{} {}", question.query_type(), question.name());
    Some(What::Dns { is_response, question, answers })
}

/// RFC 4303 §2: what is not encrypted.
fn esp(payload: &[u8]) -> Option<What> {
    let header = payload.get(..8)?;
    let spi = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    let sequence_number = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    Some(What::Esp { spi: format!("0x{spi:08x}"), sequence_number, octets: payload.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    const REGISTER: &str = "REGISTER sip:hims.net SIP/2.0\r\nCSeq: 25 REGISTER\r\nl: 4\r\n\r\nbody";

    fn seen(link: &'static str, packet: Vec<u8>) -> Seen {
        Seen { link, time: Duration::from_secs(1), link_type: LinkType::RawIp, packet }
    }

    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 45, 0, 2], [10, 20, 0, 10], 64).udp(port, port);
        builder.write(&mut packet, payload).unwrap();
        packet
    }

    fn tcp(sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder =
            PacketBuilder::ipv4([10, 45, 0, 2], [10, 20, 0, 10], 64).tcp(4000, 5060, sequence, 9);
        builder.write(&mut packet, payload).unwrap();
        packet
    }

    fn start_lines(events: &[Event]) -> Vec<&str> {
        events
            .iter()
            .map(|event| match &event.what {
                What::Sip { start_line, .. } => start_line.as_str(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn sip_is_seen_in_the_clear_and_in_a_tunnel() {
        let mut decoder = Decoder::new();
        let inner = udp(5060, REGISTER.as_bytes());
        let events = decoder.decode(&seen("radio", inner.clone()));
        assert_eq!(start_lines(&events), ["REGISTER sip:hims.net SIP/2.0"]);
        let outer = udp(2152, &gtpu::g_pdu(gtpu::Teid(5), &inner));
        let events = decoder.decode(&seen("s1u", outer));
        let What::Gtpu { teid, inner: Some(inside), .. } = &events[0].what else { panic!() };
        assert_eq!(teid, "0x00000005");
        assert!(matches!(&*inside.what, What::Sip { cseq, .. } if cseq == "25 REGISTER"));
    }

    #[test]
    fn fragments_are_joined() {
        let mut decoder = Decoder::new();
        let whole = udp(5060, REGISTER.as_bytes());
        let (head, payload) = whole.split_at(20);
        let cut = 32;
        let mut events = Vec::new();
        for (offset, more, part) in [(0, 0x20, &payload[..cut]), (cut / 8, 0, &payload[cut..])] {
            let mut packet = head.to_vec();
            packet[2..4].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
            packet[6..8].copy_from_slice(&[more, offset as u8]);
            packet.extend_from_slice(part);
            events.extend(decoder.decode(&seen("sgi", packet)));
        }
        assert_eq!(start_lines(&events), ["REGISTER sip:hims.net SIP/2.0"]);
    }

    #[test]
    fn streams_are_put_in_order() {
        let mut decoder = Decoder::new();
        let twice = [REGISTER.as_bytes(), b"\r\n\r\n", REGISTER.as_bytes()].concat();
        let (one, rest) = twice.split_at(20);
        let (two, three) = rest.split_at(50);
        let mut events = Vec::new();
        for (sequence, part) in [(100, one), (170, three), (100, one), (120, two)] {
            events.extend(decoder.decode(&seen("core", tcp(sequence, part))));
        }
        assert_eq!(start_lines(&events).len(), 2);
    }

    #[test]
    fn diameter_and_esp_are_named() {
        let mut decoder = Decoder::new();
        let mut uaa = vec![1, 0, 0, 0, 0x40, 0, 1, 44, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
        uaa.extend_from_slice(&[0, 0, 1, 41, 0x40, 0, 0, 20]);
        uaa.extend_from_slice(&[0, 0, 1, 42, 0x40, 0, 0, 12, 0, 0, 0x07, 0xd2]);
        let length = uaa.len() as u8;
        uaa[3] = length;
        let events = decoder.decode(&seen("core", tcp(1, &uaa)));
        let What::Diameter { name, result, .. } = &events[0].what else { panic!() };
        assert_eq!((name.as_str(), result.as_deref()), ("UAA", Some("experimental 2002")));
        let mut packet = udp(1, &[]);
        packet[9] = 50;
        packet[20..24].copy_from_slice(&0x1234_5678u32.to_be_bytes());
        let events = decoder.decode(&seen("sgi", packet));
        assert!(matches!(&events[0].what, What::Esp { spi, .. } if spi == "0x12345678"));
    }

    #[test]
    fn garbage_gives_nothing() {
        let mut decoder = Decoder::new();
        for packet in [vec![], vec![0x45], vec![0x60; 50], udp(5060, b"\r\n\r\n"), tcp(1, &[1; 30])]
        {
            assert!(decoder.decode(&seen("core", packet)).is_empty());
        }
    }
}
