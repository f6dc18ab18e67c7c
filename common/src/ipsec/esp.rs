//! ESP (RFC 4303): encrypt, ICV, replay window; in transport mode, or for UEs behind a NAT in tunnel
//! mode inside UDP (RFC 3948, TS 33.203 Annex M). Used by the user-space data plane and by simulated
//! UEs. Packets are whole IP packets (IPv4, or IPv6 without extension headers; inside UDP IPv4 only).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use crate::ipsec::sa::{Association, Mode, SaSet, Side, UDP_ENCAPSULATION_PORT};
use crate::ipsec::transform::{HEADER_OCTETS, Transform};
use crate::random::Random;

const PROTOCOL_IPV4: u8 = 4;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ESP: u8 = 50;
const IPV4_HEADER_OCTETS: usize = 20;
const UDP_HEADER_OCTETS: usize = 8;
/// Of an outer packet: as a host's own.
const TIME_TO_LIVE: u8 = 64;

/// ESP state of the four associations of one set.
pub struct EspSet {
    set: SaSet,
    transform: Transform,
    random: Random,
    associations: [State; 4],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OpenError {
    UnknownSpi,
    TooShort,
    BadIcv,
    Replayed,
    /// inner ports or addresses are not the association's
    SelectorMismatch,
    BadPadding,
}

/// Counters of one association: packets accepted, octets of the clear IP packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EspCounters {
    pub packets: u64,
    pub bytes: u64,
}

/// How far one association has come: with this another value goes on where one ended, so that no
/// number is sent twice and none accepted twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Outbound: the last number sent.
    pub sequence: u32,
    /// Outbound: where the IVs of this association start.
    pub iv_start: u64,
    /// Inbound.
    pub window: Window,
    pub counters: EspCounters,
    /// Packets that had arrived before, or were too old to tell.
    pub replayed: u64,
    pub bad_icv: u64,
}

/// One association at work.
#[derive(Debug)]
struct State {
    association: Association,
    progress: Progress,
}

impl EspSet {
    /// `iv_seed` must differ between sets: IVs come from it.
    pub fn new(set: &SaSet, iv_seed: [u8; 32]) -> EspSet {
        let mut random = Random::from_seed(iv_seed);
        let associations = set.associations().map(|association| State {
            association,
            progress: Progress { iv_start: random.u64(), ..Progress::default() },
        });
        EspSet { set: set.clone(), transform: Transform::new(set), random, associations }
    }

    /// Goes on where another value of the same set had come to. `iv_seed` must be a new one: random
    /// IVs come from it, while counted ones go on from their own start.
    pub fn resume(set: &SaSet, iv_seed: [u8; 32], progress: [Progress; 4]) -> EspSet {
        let mut resumed = EspSet::new(set, iv_seed);
        for (state, progress) in resumed.associations.iter_mut().zip(progress) {
            state.progress = progress;
        }
        resumed
    }

    /// In the order of [`SaSet::associations`].
    pub fn progress(&self) -> [Progress; 4] {
        std::array::from_fn(|place| self.associations[place].progress)
    }

    pub fn set(&self) -> &SaSet {
        &self.set
    }

    /// The ESP packet for a clear IP packet whose addresses and ports match an outbound
    /// association; `None` when none does (RFC 4303 §3.3).
    ///
    /// An empty packet means that this packet must not be sent at all: the association has used up
    /// its sequence numbers (RFC 4303 §3.3.3), or the packet would become longer than IP allows.
    pub fn seal(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let ip = Ip::parse(packet)?;
        let (source, destination) = ip.sockets(packet)?;
        let state = self.associations.iter_mut().find(|state| {
            let Association { source: from, destination: to, is_inbound, .. } = state.association;
            !is_inbound && from == source && to == destination
        })?;
        let whole = &packet[..ip.total_octets];
        // What ESP carries, and what stands in front of it.
        let (payload, next_header, front_octets) = match state.association.around {
            None => (&whole[ip.header_octets..], ip.protocol, ip.header_octets),
            Some(_) => (whole, PROTOCOL_IPV4, IPV4_HEADER_OCTETS + UDP_HEADER_OCTETS),
        };
        let transform = &self.transform;
        let padding = padding_octets(payload.len(), transform.block_octets());
        let esp_octets = HEADER_OCTETS
            + transform.iv_octets()
            + payload.len()
            + padding
            + 2
            + transform.icv_octets();
        let progress = &mut state.progress;
        let Some(sequence) = progress.sequence.checked_add(1) else { return Some(Vec::new()) };
        if front_octets + esp_octets > usize::from(u16::MAX) {
            return Some(Vec::new());
        }
        progress.sequence = sequence;
        progress.counters.count(ip.total_octets);

        let mut sealed = Vec::with_capacity(front_octets + esp_octets);
        match state.association.around {
            None => {
                sealed.extend_from_slice(&packet[..ip.header_octets]);
                fix_ip_header(&mut sealed, PROTOCOL_ESP, esp_octets);
            }
            Some((source, destination)) => {
                sealed.extend_from_slice(&udp_around(source, destination, esp_octets)?);
            }
        }
        sealed.extend_from_slice(&state.association.spi.to_be_bytes());
        sealed.extend_from_slice(&sequence.to_be_bytes());
        if transform.wants_random_iv() {
            let iv: [u8; 16] = self.random.bytes();
            sealed.extend_from_slice(&iv[..transform.iv_octets()]);
        } else {
            // One key serves both directions and four associations, so each counts from a random
            // place of its own: two of them never meet.
            let iv = progress.iv_start.wrapping_add(u64::from(sequence));
            sealed.extend_from_slice(&iv.to_be_bytes());
        }
        sealed.extend_from_slice(payload);
        sealed.extend((1..=padding).map(|octet| octet as u8));
        sealed.push(padding as u8);
        sealed.push(next_header);
        transform.protect(&mut sealed, front_octets);
        Some(sealed)
    }

    /// The clear IP packet inside an ESP packet of an inbound association (RFC 4303 §3.4).
    ///
    /// The ICV is checked before anything that could tell two packets apart; then the replay
    /// window, the padding, and the selector (TS 33.203 §7.1). A fragment inside a tunnel has the
    /// addresses of the selector, and its first part the ports: whoever puts them together looks at
    /// these.
    pub fn open(&mut self, packet: &[u8]) -> Result<Vec<u8>, OpenError> {
        let found = Esp::find(packet).ok_or(OpenError::TooShort)?;
        let state = self
            .associations
            .iter_mut()
            .find(|state| state.association.is_inbound && state.association.spi == found.spi)
            .ok_or(OpenError::UnknownSpi)?;
        let mut esp = packet[found.octets].to_vec();
        let progress = &mut state.progress;
        let clear = self.transform.open(&mut esp).inspect_err(|error| {
            progress.bad_icv += u64::from(*error == OpenError::BadIcv);
        })?;
        let sequence = u32::from_be_bytes([esp[4], esp[5], esp[6], esp[7]]);
        if !progress.window.accept(sequence) {
            progress.replayed += 1;
            return Err(OpenError::Replayed);
        }
        let (payload, protocol) = without_trailer(&esp[clear]).ok_or(OpenError::BadPadding)?;
        let Association { source, destination, around, .. } = state.association;
        let opened = match (around, found.around) {
            (None, None) => {
                let header_octets = found.ip.header_octets;
                let mut opened = Vec::with_capacity(header_octets + payload.len());
                opened.extend_from_slice(&packet[..header_octets]);
                fix_ip_header(&mut opened, protocol, payload.len());
                opened.extend_from_slice(payload);
                let sockets = Ip::parse(&opened).and_then(|inner| inner.sockets(&opened));
                if sockets != Some((source, destination)) {
                    return Err(OpenError::SelectorMismatch);
                }
                opened
            }
            // The NAT may give another port, but never another address: that is another NAT.
            (Some(expected), Some(around))
                if protocol == PROTOCOL_IPV4 && expected.0.ip() == around.0.ip() =>
            {
                if !is_from_tunnel(payload, source, destination) {
                    return Err(OpenError::SelectorMismatch);
                }
                payload.to_vec()
            }
            _ => return Err(OpenError::SelectorMismatch),
        };
        state.progress.counters.count(opened.len());
        if let (Side::Pcscf, Some((nat, _))) = (self.set.side, found.around) {
            self.set_nat(nat);
        }
        Ok(opened)
    }

    /// TS 33.203 Annex M: where packets to the UE go from now on, in UDP-encapsulated tunnel mode.
    pub fn set_nat(&mut self, nat: SocketAddr) {
        if !matches!(self.set.mode, Mode::UdpEncTun { nat: known } if known != nat) {
            return;
        }
        self.set.mode = Mode::UdpEncTun { nat };
        for (state, association) in self.associations.iter_mut().zip(self.set.associations()) {
            state.association = association;
        }
    }

    /// By SPI, inbound and outbound.
    pub fn counters(&self) -> Vec<(u32, EspCounters)> {
        self.associations
            .iter()
            .map(|state| (state.association.spi, state.progress.counters))
            .collect()
    }
}

/// SPI of a whole IP packet that carries ESP, be it inside UDP.
pub fn spi_of(packet: &[u8]) -> Option<u32> {
    Esp::find(packet).map(|found| found.spi)
}

/// Where a packet has its ESP.
struct Esp {
    ip: Ip,
    octets: Range<usize>,
    spi: u32,
    /// Source and destination of the UDP around it.
    around: Option<(SocketAddr, SocketAddr)>,
}

impl Esp {
    /// RFC 3948 §2.2, §2.3: inside UDP of port 4500, four octets of zero are somebody else's, and a
    /// keep-alive is too short for ESP.
    fn find(packet: &[u8]) -> Option<Esp> {
        let ip = Ip::parse(packet)?;
        let (start, around) = match ip.protocol {
            PROTOCOL_ESP => (ip.header_octets, None),
            PROTOCOL_UDP => {
                let (source, destination) = ip.sockets(packet)?;
                if ![source.port(), destination.port()].contains(&UDP_ENCAPSULATION_PORT) {
                    return None;
                }
                (ip.header_octets + UDP_HEADER_OCTETS, Some((source, destination)))
            }
            _ => return None,
        };
        let octets = start..ip.total_octets;
        let esp = packet.get(octets.clone()).filter(|esp| esp.len() >= HEADER_OCTETS)?;
        let spi = u32::from_be_bytes([esp[0], esp[1], esp[2], esp[3]]);
        if around.is_some() && spi == 0 {
            return None;
        }
        Some(Esp { ip, octets, spi, around })
    }
}

/// An IPv4 and a UDP header (RFC 3948 §2.1, where the checksum of UDP is zero); `None` for IPv6.
fn udp_around(source: SocketAddr, destination: SocketAddr, esp_octets: usize) -> Option<[u8; 28]> {
    let (SocketAddr::V4(source), SocketAddr::V4(destination)) = (source, destination) else {
        return None;
    };
    let mut front = [0; IPV4_HEADER_OCTETS + UDP_HEADER_OCTETS];
    let (ip, udp) = front.split_at_mut(IPV4_HEADER_OCTETS);
    ip[0] = 0x45;
    ip[8] = TIME_TO_LIVE;
    ip[12..16].copy_from_slice(&source.ip().octets());
    ip[16..20].copy_from_slice(&destination.ip().octets());
    fix_ip_header(ip, PROTOCOL_UDP, UDP_HEADER_OCTETS + esp_octets);
    udp[..2].copy_from_slice(&source.port().to_be_bytes());
    udp[2..4].copy_from_slice(&destination.port().to_be_bytes());
    udp[4..6].copy_from_slice(&((UDP_HEADER_OCTETS + esp_octets) as u16).to_be_bytes());
    Some(front)
}

/// A packet that came out of a tunnel has addresses and ports of its association. A fragment has no
/// ports but in its first part.
fn is_from_tunnel(packet: &[u8], source: SocketAddr, destination: SocketAddr) -> bool {
    if let Some(ip) = Ip::parse(packet) {
        return ip.sockets(packet) == Some((source, destination));
    }
    let Some(header) = packet.first_chunk::<IPV4_HEADER_OCTETS>() else { return false };
    let header_octets = usize::from(header[0] & 15) * 4;
    let total_octets = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let address =
        |at: usize| IpAddr::V4(Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|i| header[at + i])));
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1FFF;
    let ports = packet.get(header_octets..header_octets + 4).map(|ports| {
        (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]))
    });
    header[0] >> 4 == 4
        && header_octets >= IPV4_HEADER_OCTETS
        && total_octets == packet.len()
        && (address(12), address(16)) == (source.ip(), destination.ip())
        && matches!(header[9], PROTOCOL_UDP | PROTOCOL_TCP)
        && (offset > 0 || ports == Some((source.port(), destination.port())))
}

impl fmt::Debug for EspSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EspSet")
            .field("set", &self.set)
            .field("associations", &self.associations)
            .finish_non_exhaustive()
    }
}

impl EspCounters {
    fn count(&mut self, octets: usize) {
        self.packets += 1;
        self.bytes += octets as u64;
    }
}

/// Which of the last 64 sequence numbers have arrived (RFC 4303 §3.4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Window {
    pub highest: u32,
    /// Bit 0 is `highest`.
    pub seen: u64,
}

impl Window {
    /// True for a number that is new, which is then marked; zero is never sent.
    fn accept(&mut self, sequence: u32) -> bool {
        if sequence > self.highest {
            let step = sequence - self.highest;
            self.seen = if step < 64 { self.seen << step | 1 } else { 1 };
            self.highest = sequence;
            return true;
        }
        let age = self.highest - sequence;
        if sequence == 0 || age >= 64 || self.seen >> age & 1 == 1 {
            return false;
        }
        self.seen |= 1 << age;
        true
    }
}

/// What ESP needs to know of an IP header.
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    header_octets: usize,
    total_octets: usize,
}

impl Ip {
    /// `None` for what is not a whole IP packet; a fragment has no ports and is none either.
    fn parse(packet: &[u8]) -> Option<Ip> {
        match packet.first()? >> 4 {
            4 => Ip::parse_v4(packet),
            6 => Ip::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &[u8]) -> Option<Ip> {
        let header = packet.first_chunk::<20>()?;
        let header_octets = usize::from(header[0] & 15) * 4;
        let total_octets = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3FFF != 0;
        let is_whole =
            header_octets >= 20 && total_octets >= header_octets && packet.len() >= total_octets;
        if is_fragment || !is_whole {
            return None;
        }
        let address =
            |at: usize| Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(|i| header[at + i]));
        Some(Ip {
            source: address(12).into(),
            destination: address(16).into(),
            protocol: header[9],
            header_octets,
            total_octets,
        })
    }

    fn parse_v6(packet: &[u8]) -> Option<Ip> {
        let header = packet.first_chunk::<40>()?;
        let total_octets = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if packet.len() < total_octets {
            return None;
        }
        let address =
            |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| header[at + i]));
        Some(Ip {
            source: address(8).into(),
            destination: address(24).into(),
            protocol: header[6],
            header_octets: 40,
            total_octets,
        })
    }

    /// Source and destination of a UDP or TCP packet.
    fn sockets(&self, packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        if !matches!(self.protocol, PROTOCOL_UDP | PROTOCOL_TCP) {
            return None;
        }
        let ports = packet[self.header_octets..self.total_octets].first_chunk::<4>()?;
        let source = u16::from_be_bytes([ports[0], ports[1]]);
        let destination = u16::from_be_bytes([ports[2], ports[3]]);
        Some((SocketAddr::new(self.source, source), SocketAddr::new(self.destination, destination)))
    }
}

/// Sets protocol and length for another payload, and the checksum of IPv4 anew.
fn fix_ip_header(header: &mut [u8], protocol: u8, payload_octets: usize) {
    if header[0] >> 4 == 6 {
        header[4..6].copy_from_slice(&(payload_octets as u16).to_be_bytes());
        header[6] = protocol;
        return;
    }
    let total_octets = (header.len() + payload_octets) as u16;
    header[2..4].copy_from_slice(&total_octets.to_be_bytes());
    header[9] = protocol;
    header[10..12].fill(0);
    let mut sum: u32 = 0;
    for pair in header.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// Pad octets in front of the two of the trailer (RFC 4303 §2.4).
fn padding_octets(payload_octets: usize, block_octets: usize) -> usize {
    (payload_octets + 2).next_multiple_of(block_octets) - payload_octets - 2
}

/// Payload and next header, when the padding counts 1, 2, 3 as it must (RFC 4303 §2.4).
fn without_trailer(clear: &[u8]) -> Option<(&[u8], u8)> {
    let (rest, trailer) = clear.split_last_chunk::<2>()?;
    let padding = usize::from(trailer[0]);
    let payload_octets = rest.len().checked_sub(padding)?;
    let (payload, pad) = rest.split_at(payload_octets);
    let is_counting = pad.iter().enumerate().all(|(i, octet)| usize::from(*octet) == i + 1);
    is_counting.then_some((payload, trailer[1]))
}
