//! The simulated kernel of a P-CSCF: UDP, TCP, ESP with policies, and now and then a refusal.
//!
//! It speaks real ESP to the UEs, and real TCP by the same stack that they have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use common::ipsec::audit::{Audit, KnownSet};
use common::ipsec::esp::{EspSet, OpenError, spi_of};
use common::ipsec::sa::{Association, SaSet, SetId};
use common::node::{Flow, Now, Transport, UNKEPT_SAS_LIFE};
use common::random::Random;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use ue::packets::Reassembly;
use ue::tcp::{Happened, Stack};

/// How much later than the core the kernel ends a set.
const BEYOND_THE_CORE: Duration = Duration::from_secs(10);

/// What comes of a packet from a UE, of a message to one, or of time.
#[derive(Default)]
pub struct Work {
    /// Messages for the P-CSCF; true: they came inside ESP.
    pub messages: Vec<(Flow, Bytes, bool)>,
    /// Packets for the bearer of the UE at that address.
    pub packets: Vec<(IpAddr, Bytes)>,
    /// Connections that failed.
    pub failed: Vec<Flow>,
    /// Connections that were closed in order.
    pub ended: Vec<Flow>,
    pub dropped: Option<&'static str>,
}

#[derive(Debug)]
pub struct Kernel {
    sets: BTreeMap<SetId, EspSet>,
    by_spi: BTreeMap<u32, SetId>,
    /// When each set ends by itself.
    limits: BTreeMap<SetId, Now>,
    address: IpAddr,
    open_port: u16,
    protected_ports: BTreeSet<u16>,
    /// TCP towards each UE.
    stacks: BTreeMap<IpAddr, Stack>,
    reassembly: Reassembly,
    random: Random,
    /// Packets that decrypted.
    pub opened: u64,
    pub sealed: u64,
    pub drops: BTreeMap<&'static str, u64>,
}

impl Kernel {
    /// A host at `address` that takes SIP in clear at `open_port`.
    pub fn new(
        address: IpAddr,
        open_port: u16,
        protected_ports: impl IntoIterator<Item = u16>,
        random: Random,
    ) -> Kernel {
        Kernel {
            address,
            open_port,
            stacks: BTreeMap::new(),
            reassembly: Reassembly::default(),
            random,
            sets: BTreeMap::new(),
            by_spi: BTreeMap::new(),
            limits: BTreeMap::new(),
            protected_ports: protected_ports.into_iter().collect(),
            opened: 0,
            sealed: 0,
            drops: BTreeMap::new(),
        }
    }

    /// The process has ended: its connections end with it, the sets stay.
    pub fn process_ended(&mut self) {
        self.stacks.clear();
    }

    /// Its sets, with their keys.
    pub fn sets(&self) -> impl Iterator<Item = &SaSet> {
        self.sets.values().map(EspSet::set)
    }

    /// A set ends at `until`; should nobody remove it then, it ends here a little later.
    pub fn keep(&mut self, set: SetId, until: Now) {
        if self.sets.contains_key(&set) {
            self.limits.insert(set, until + BEYOND_THE_CORE);
        }
    }

    /// The sets whose limit is reached are gone.
    pub fn expired(&mut self, now: Now) -> Vec<SetId> {
        let over = |(set, at): (&SetId, &Now)| (*at <= now).then_some(*set);
        let over: Vec<SetId> = self.limits.iter().filter_map(over).collect();
        for set in &over {
            self.remove(*set);
        }
        over
    }

    /// As a real data plane does it: keeps what the core knows, removes the rest.
    pub fn audit(&mut self, known: &[KnownSet]) -> Audit {
        let mut audit = Audit { associations: 4 * self.sets.len() as u64, ..Audit::default() };
        audit.policies = audit.associations;
        for set in known {
            let holds = |esp: &EspSet| KnownSet::from(esp.set()) == *set;
            match self.sets.get(&set.id).is_some_and(holds) {
                true => audit.held.push((set.id, Default::default())),
                false => audit.missing.push(set.id),
            }
        }
        let is_known = |id: &SetId| audit.held.iter().any(|(held, _)| held == id);
        let strays: Vec<SetId> = self.sets.keys().copied().filter(|id| !is_known(id)).collect();
        for stray in strays {
            self.remove(stray);
            audit.stray_associations += 4;
            audit.stray_policies += 4;
        }
        audit
    }

    /// Somebody else's hand: one set is gone, and nobody has been told.
    pub fn lose_one(&mut self, draw: &mut Random) -> Option<SetId> {
        let count = self.sets.len() as u64;
        let place = if count > 0 { draw.below(count) as usize } else { return None };
        let set = *self.sets.keys().nth(place)?;
        self.remove(set);
        Some(set)
    }

    pub fn len(&self) -> usize {
        self.sets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    pub fn set_ids(&self) -> BTreeSet<SetId> {
        self.sets.keys().copied().collect()
    }

    /// SPIs of outbound associations: what the UEs must have as inbound.
    pub fn outbound_spis(&self) -> BTreeSet<u32> {
        self.sets.values().flat_map(|esp| [esp.set().spis.uc, esp.set().spis.us]).collect()
    }

    /// As XFRM: one state per SPI, one policy per selector.
    pub fn install(
        &mut self,
        now: Now,
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
        self.limits.insert(set.id, now + UNKEPT_SAS_LIFE);
        Ok(())
    }

    pub fn remove(&mut self, id: SetId) -> bool {
        let Some(esp) = self.sets.remove(&id) else { return false };
        self.limits.remove(&id);
        self.by_spi.remove(&esp.set().spis.pc);
        let set = esp.set();
        self.by_spi.remove(&set.spis.ps);
        if let Some(stack) = self.stacks.get_mut(&set.ue) {
            stack.abort(set.ports.ps, set.ports.uc);
            stack.abort(set.ports.pc, set.ports.us);
        }
        true
    }

    /// A packet from the UE's bearer.
    pub fn uplink(&mut self, now: Now, packet: Bytes) -> Work {
        let Some(packet) = self.reassembly.take(now, packet) else { return Work::default() };
        let packet = packet.as_ref();
        let Some(spi) = spi_of(packet) else { return self.clear_text(now, packet, None) };
        let Some(id) = self.by_spi.get(&spi).copied() else {
            return self.drop_packet("ESP with an unknown SPI");
        };
        let Some(esp) = self.sets.get_mut(&id) else {
            return self.drop_packet("ESP with an unknown SPI");
        };
        match esp.open(packet) {
            Ok(clear) => {
                self.opened += 1;
                self.clear_text(now, &clear, Some(id))
            }
            Err(OpenError::Replayed) => self.drop_packet("ESP replayed"),
            Err(OpenError::BadIcv) => self.drop_packet("ESP with a bad ICV"),
            Err(OpenError::SelectorMismatch) => self.drop_packet("ESP on another's association"),
            Err(_) => self.drop_packet("ESP malformed"),
        }
    }

    fn clear_text(&mut self, now: Now, packet: &[u8], set: Option<SetId>) -> Work {
        let Ok(sliced) = SlicedPacket::from_ip(packet) else {
            return self.drop_packet("not an IP packet");
        };
        let Some((source, destination)) = sliced.net.as_ref().and_then(addresses) else {
            return self.drop_packet("not an IP packet");
        };
        let (source_port, destination_port) = match &sliced.transport {
            Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
            Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
            _ => return self.drop_packet("neither UDP nor TCP"),
        };
        if set.is_none() && self.protected_ports.contains(&destination_port) {
            return self.drop_packet("clear text to a protected port");
        }
        if let Some(TransportSlice::Udp(udp)) = &sliced.transport {
            let flow = Flow {
                transport: Transport::Udp,
                local: SocketAddr::new(destination, destination_port),
                remote: SocketAddr::new(source, source_port),
            };
            let bytes = Bytes::copy_from_slice(udp.payload());
            return Work { messages: vec![(flow, bytes, set.is_some())], ..Work::default() };
        }
        self.stack(source).receive(now, packet);
        self.poll(now)
    }

    fn stack(&mut self, ue: IpAddr) -> &mut Stack {
        let (address, random) = (self.address, &mut self.random);
        let (open, protected) = (self.open_port, &self.protected_ports);
        self.stacks.entry(ue).or_insert_with(|| {
            let mut stack = Stack::new(address, 1_400, random);
            for port in protected.iter().chain([&open]) {
                stack.listen(*port);
            }
            stack
        })
    }

    /// A message towards a UE.
    pub fn downlink(&mut self, now: Now, flow: &Flow, payload: &[u8]) -> Work {
        let failed = || Work { failed: vec![*flow], ..Work::default() };
        if flow.transport == Transport::Tcp {
            if !self.stack(flow.remote.ip()).send(now, *flow, payload) {
                return failed();
            }
            return self.poll(now);
        }
        let Some(builder) = ip_builder(flow.local.ip(), flow.remote.ip()) else { return failed() };
        let builder = builder.udp(flow.local.port(), flow.remote.port());
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        if builder.write(&mut packet, payload).is_err() {
            return failed();
        }
        let mut work = Work::default();
        work.packets.extend(self.seal_or_clear(packet));
        work
    }

    /// What TCP has to send, has received, and has given up.
    pub fn poll(&mut self, now: Now) -> Work {
        let mut work = Work::default();
        let mut leaving = Vec::new();
        for stack in self.stacks.values_mut() {
            if stack.next_timeout().is_none_or(|at| at > now) {
                continue;
            }
            let (mut packets, mut happened) = (Vec::new(), Vec::new());
            stack.poll(now, &mut packets, &mut happened);
            leaving.extend(packets);
            for happened in happened {
                match happened {
                    Happened::Message { flow, bytes } => {
                        let protected = self.protected_ports.contains(&flow.local.port());
                        work.messages.push((flow, bytes, protected));
                    }
                    Happened::Failed { flow } => work.failed.push(flow),
                    Happened::Ended { flow } => work.ended.push(flow),
                }
            }
        }
        for packet in leaving {
            work.packets.extend(self.seal_or_clear(packet));
        }
        work
    }

    pub fn next_timeout(&self) -> Option<Now> {
        let stacks = self.stacks.values().filter_map(Stack::next_timeout);
        stacks.chain(self.limits.values().copied()).min()
    }

    /// A policy that matches demands its association; a protected port without one sends nothing. With the
    /// address whose bearer has it: of a UE behind a NAT that is the NAT's.
    fn seal_or_clear(&mut self, packet: Vec<u8>) -> Option<(IpAddr, Bytes)> {
        let packet = self.seal_if_it_must(packet)?;
        let destination = {
            let sliced = SlicedPacket::from_ip(&packet).ok()?;
            sliced.net.as_ref().and_then(addresses)?.1
        };
        Some((destination, packet))
    }

    fn seal_if_it_must(&mut self, packet: Vec<u8>) -> Option<Bytes> {
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

    /// Whose bearer has what is sent on a flow: of a UE behind a NAT the NAT's.
    pub fn bearer(&self, flow: &Flow) -> IpAddr {
        let carries = |association: &Association| {
            !association.is_inbound
                && association.source == flow.local
                && association.destination == flow.remote
        };
        let mut all = self.sets.values().flat_map(|esp| esp.set().associations());
        let carrying = all.find(carries);
        carrying.map_or(flow.remote.ip(), |association| association.on_the_wire().1)
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

    fn drop_packet(&mut self, reason: &'static str) -> Work {
        *self.drops.entry(reason).or_default() += 1;
        Work { dropped: Some(reason), ..Work::default() }
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
