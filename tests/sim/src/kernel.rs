//! The simulated kernel of a P-CSCF: UDP, ESP with policies, and now and then a refusal.
//!
//! It speaks real ESP to the UEs. TCP connections are reset: phones then fall back to UDP
//! (RFC 3261 §18.1.1); TCP itself is the lab's subject, with real kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use common::ipsec::esp::{EspSet, OpenError, spi_of};
use common::ipsec::sa::{SaSet, SetId};
use common::node::{Flow, Transport};
use common::random::Random;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

/// What became of a packet from a UE.
pub enum Uplink {
    Sip {
        flow: Flow,
        bytes: Bytes,
        protected: bool,
    },
    /// Packets that go back: a TCP reset.
    Answer(Vec<Bytes>),
    Dropped(&'static str),
}

#[derive(Debug)]
pub struct Kernel {
    sets: BTreeMap<SetId, EspSet>,
    by_spi: BTreeMap<u32, SetId>,
    protected_ports: BTreeSet<u16>,
    /// Packets that decrypted.
    pub opened: u64,
    pub sealed: u64,
    pub drops: BTreeMap<&'static str, u64>,
}

impl Kernel {
    pub fn new(protected_ports: impl IntoIterator<Item = u16>) -> Kernel {
        Kernel {
            sets: BTreeMap::new(),
            by_spi: BTreeMap::new(),
            protected_ports: protected_ports.into_iter().collect(),
            opened: 0,
            sealed: 0,
            drops: BTreeMap::new(),
        }
    }

    pub fn clear(&mut self) {
        self.sets.clear();
        self.by_spi.clear();
    }

    pub fn len(&self) -> usize {
        self.sets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// SPIs of outbound associations: what the UEs must have as inbound.
    pub fn outbound_spis(&self) -> BTreeSet<u32> {
        self.sets.values().flat_map(|esp| [esp.set().spis.uc, esp.set().spis.us]).collect()
    }

    /// As XFRM: one state per SPI, one policy per selector.
    pub fn install(
        &mut self,
        set: &SaSet,
        refuses: bool,
        random: &mut Random,
    ) -> Result<(), String> {
        if refuses {
            return Err("No buffer space available".into());
        }
        for other in self.sets.values() {
            let other = other.set();
            let same_ue = other.ue == set.ue && other.pcscf == set.pcscf;
            let same_policy = (other.ports.uc, other.ports.ps) == (set.ports.uc, set.ports.ps)
                || (other.ports.us, other.ports.pc) == (set.ports.us, set.ports.pc);
            if same_ue && same_policy {
                return Err("File exists (policy)".into());
            }
        }
        if [set.spis.pc, set.spis.ps].iter().any(|spi| self.by_spi.contains_key(spi)) {
            return Err("File exists (state)".into());
        }
        self.by_spi.insert(set.spis.pc, set.id);
        self.by_spi.insert(set.spis.ps, set.id);
        self.sets.insert(set.id, EspSet::new(set, random.bytes()));
        Ok(())
    }

    pub fn remove(&mut self, id: SetId) -> bool {
        let Some(esp) = self.sets.remove(&id) else { return false };
        self.by_spi.remove(&esp.set().spis.pc);
        self.by_spi.remove(&esp.set().spis.ps);
        true
    }

    /// A packet from the UE's bearer.
    pub fn uplink(&mut self, packet: &[u8]) -> Uplink {
        let Some(spi) = spi_of(packet) else { return self.clear_text(packet, None) };
        let Some(id) = self.by_spi.get(&spi).copied() else {
            return self.drop_packet("ESP with an unknown SPI");
        };
        let Some(esp) = self.sets.get_mut(&id) else {
            return self.drop_packet("ESP with an unknown SPI");
        };
        match esp.open(packet) {
            Ok(clear) => {
                self.opened += 1;
                self.clear_text(&clear, Some(id))
            }
            Err(OpenError::Replayed) => self.drop_packet("ESP replayed"),
            Err(OpenError::BadIcv) => self.drop_packet("ESP with a bad ICV"),
            Err(OpenError::SelectorMismatch) => self.drop_packet("ESP on another's association"),
            Err(_) => self.drop_packet("ESP malformed"),
        }
    }

    fn clear_text(&mut self, packet: &[u8], set: Option<SetId>) -> Uplink {
        let Ok(sliced) = SlicedPacket::from_ip(packet) else {
            return self.drop_packet("not an IP packet");
        };
        let Some((source, destination)) = sliced.net.as_ref().and_then(addresses) else {
            return self.drop_packet("not an IP packet");
        };
        match sliced.transport {
            Some(TransportSlice::Udp(udp)) => {
                let flow = Flow {
                    transport: Transport::Udp,
                    local: SocketAddr::new(destination, udp.destination_port()),
                    remote: SocketAddr::new(source, udp.source_port()),
                };
                if set.is_none() && self.protected_ports.contains(&flow.local.port()) {
                    return self.drop_packet("clear text to a protected port");
                }
                let bytes = Bytes::copy_from_slice(udp.payload());
                Uplink::Sip { flow, bytes, protected: set.is_some() }
            }
            Some(TransportSlice::Tcp(tcp)) => {
                if tcp.rst() {
                    return Uplink::Dropped("TCP reset");
                }
                let reset = reset_for(source, destination, &tcp);
                Uplink::Answer(self.seal_or_clear(reset).into_iter().collect())
            }
            _ => self.drop_packet("neither UDP nor TCP"),
        }
    }

    /// A message towards a UE as packets. Fails where only TCP would do.
    pub fn downlink(&mut self, flow: &Flow, payload: &[u8]) -> Result<Vec<Bytes>, ()> {
        if flow.transport != Transport::Udp {
            return Err(());
        }
        let builder = ip_builder(flow.local.ip(), flow.remote.ip()).ok_or(())?;
        let builder = builder.udp(flow.local.port(), flow.remote.port());
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut packet, payload).map_err(|_| ())?;
        Ok(self.seal_or_clear(packet).into_iter().collect())
    }

    /// A policy that matches demands its association; a protected port without one sends nothing.
    fn seal_or_clear(&mut self, packet: Vec<u8>) -> Option<Bytes> {
        for esp in self.sets.values_mut().rev() {
            if let Some(sealed) = esp.seal(&packet) {
                self.sealed += 1;
                return Some(sealed.into());
            }
        }
        let from_protected =
            source_port(&packet).is_some_and(|port| self.protected_ports.contains(&port));
        if from_protected {
            *self.drops.entry("no association to send on").or_default() += 1;
            return None;
        }
        Some(packet.into())
    }

    /// The flow is between ports of an installed set.
    pub fn is_protected(&self, flow: &Flow) -> bool {
        self.sets.values().any(|esp| {
            esp.set().associations().iter().any(|association| {
                !association.is_inbound
                    && association.source == flow.local
                    && association.destination == flow.remote
            })
        })
    }

    fn drop_packet(&mut self, reason: &'static str) -> Uplink {
        *self.drops.entry(reason).or_default() += 1;
        Uplink::Dropped(reason)
    }
}

/// Destination address of an IP packet.
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    addresses(sliced.net.as_ref()?).map(|(_, destination)| destination)
}

fn addresses(net: &NetSlice) -> Option<(IpAddr, IpAddr)> {
    match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            Some((header.source_addr().into(), header.destination_addr().into()))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            Some((header.source_addr().into(), header.destination_addr().into()))
        }
        _ => None,
    }
}

fn source_port(packet: &[u8]) -> Option<u16> {
    match SlicedPacket::from_ip(packet).ok()?.transport? {
        TransportSlice::Udp(udp) => Some(udp.source_port()),
        TransportSlice::Tcp(tcp) => Some(tcp.source_port()),
        _ => None,
    }
}

fn ip_builder(
    source: IpAddr,
    destination: IpAddr,
) -> Option<etherparse::PacketBuilderStep<etherparse::IpHeaders>> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Some(PacketBuilder::ipv4(source.octets(), destination.octets(), 64))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Some(PacketBuilder::ipv6(source.octets(), destination.octets(), 64))
        }
        _ => None,
    }
}

/// RFC 9293 §3.5.2: nobody listens.
fn reset_for(source: IpAddr, destination: IpAddr, tcp: &etherparse::TcpSlice) -> Vec<u8> {
    let Some(builder) = ip_builder(destination, source) else { return Vec::new() };
    let length = tcp.payload().len() as u32 + u32::from(tcp.syn()) + u32::from(tcp.fin());
    let sequence = if tcp.ack() { tcp.acknowledgment_number() } else { 0 };
    let builder = builder
        .tcp(tcp.destination_port(), tcp.source_port(), sequence, 0)
        .rst()
        .ack(tcp.sequence_number().wrapping_add(length));
    let mut packet = Vec::with_capacity(builder.size(0));
    if builder.write(&mut packet, &[]).is_err() {
        packet.clear();
    }
    packet
}
