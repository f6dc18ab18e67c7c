//! IPsec in this process, for kernels without ESP: raw sockets on the wire's side, a TUN on the
//! sockets' side, [`EspSet`] between them.
//!
//! From the wire: ESP, opened, written to the TUN, on to the protected socket. To the wire: the
//! protected sockets are bound to the TUN, what they send is read from it, sealed and sent raw. Clear
//! text from the wire never reaches a socket that is bound to the TUN.
//!
//! Sets are kept in a file ([`StateFile`]) where the configuration names one: the next run goes on with
//! them, number for number.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage,
    recvmsg, sendmsg, setsockopt, sockopt,
};
use rand::TryRngCore;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::encapsulation;
use super::epoch_seconds;
use super::routing::Routing;
use super::silence;
use super::state_file::{Found, StateFile};
use crate::ipsec::audit::{Audit, KnownSet, Traffic};
use crate::ipsec::esp::{EspSet, OpenError, spi_of};
use crate::ipsec::sa::{Association, Mode, SaSet, SetId, UDP_ENCAPSULATION_PORT};
use crate::net::udp::socket_address;
use crate::node::Now;
use crate::stats::Samples;

const PROTOCOL_ESP: u8 = 50;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const UDP_HEADER_BYTES: usize = 8;
/// `%d` is filled in by the kernel.
const DEVICE_PATTERN: &str = "tessera%d";
/// The longest IP packet less what ESP adds. Datagrams are sealed whole and fragmented as ESP, as the
/// kernel's own IPsec does it; the segments of TCP are kept short by its sockets.
const DEVICE_MTU: u16 = u16::MAX - ESP_OVERHEAD_BYTES;
/// IP and UDP around it 28, header 8, IV 16, padding 16, trailer 2, ICV 16, rounded up.
const ESP_OVERHEAD_BYTES: u16 = 96;
const PACKET_BYTES: usize = 65_536;
/// Packets handled before other tasks have their turn.
const BATCH: usize = 64;
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The open data plane.
pub(in crate::net) struct Userspace {
    shared: Rc<Shared>,
    device: String,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    _routing: Routing,
    silence: Vec<Socket>,
}

struct Shared {
    tun: AsyncFd<SyncDevice>,
    raw_v4: Option<AsyncFd<Socket>>,
    raw_v6: Option<AsyncFd<Socket>>,
    /// For UEs behind a NAT; none when they are not served.
    encapsulation: Vec<(Ipv4Addr, AsyncFd<Socket>)>,
    sets: RefCell<Sets>,
    counts: Counts,
}

#[derive(Default)]
struct Sets {
    by_id: HashMap<SetId, Installed>,
    /// By destination and SPI of ESP from the wire: the set, and the association's place in it.
    inbound: HashMap<(IpAddr, u32), (SetId, usize)>,
    /// By source and destination of what our sockets send.
    outbound: HashMap<(SocketAddr, SocketAddr), (SetId, usize)>,
    file: Option<StateFile>,
}

struct Installed {
    esp: EspSet,
    /// In the file.
    slot: Option<usize>,
    /// Seconds since the Unix epoch; 0: never.
    last_used: [u64; 4],
}

/// Index 0 is inbound, 1 outbound; drops by [`DROPS`].
#[derive(Default)]
struct Counts {
    packets: [Cell<u64>; 2],
    bytes: [Cell<u64>; 2],
    drops: [Cell<u64>; DROPS.len()],
    rebound: Cell<u64>,
}

const DROPS: [&str; 8] = [
    "unknown_spi",
    "too_short",
    "bad_icv",
    "replay",
    "selector",
    "bad_padding",
    "no_association",
    "not_sent",
];
const DROP_NO_ASSOCIATION: usize = 6;
const DROP_NOT_SENT: usize = 7;

/// Whether the plane could be opened; changes nothing.
pub(super) fn probe(protected: &[SocketAddr]) -> Result<(), String> {
    device().map_err(|error| no_device(&error))?;
    let (has_v4, has_v6) = families(protected);
    if has_v4 {
        raw_socket(Domain::IPV4).map_err(|error| no_raw(&error))?;
    }
    if has_v6 {
        raw_socket(Domain::IPV6).map_err(|error| no_raw(&error))?;
    }
    Ok(())
}

impl Userspace {
    /// Makes the TUN, its route, and the raw sockets, and starts to carry packets.
    pub fn open(
        protected: &[SocketAddr],
        nat: bool,
        state: Option<&Path>,
    ) -> Result<Userspace, String> {
        let sets = Sets::open(state)?;
        let (has_v4, has_v6) = families(protected);
        let tun = device().map_err(|error| no_device(&error))?;
        let named = |error: io::Error| format!("ipsec: TUN: {error}");
        let name = tun.name().map_err(named)?;
        let index = tun.if_index().map_err(named)?;
        let mut families = Vec::new();
        if has_v4 {
            loosen_reverse_path_filter(&name);
            families.push(libc::AF_INET as u8);
        }
        if has_v6 {
            allow_ipv6(&name);
            families.push(libc::AF_INET6 as u8);
        }
        let routing = Routing::open(&name, index, &families)
            .map_err(|error| format!("ipsec: route through {name} not set: {error}"))?;
        let raw = |is_wanted: bool, domain| -> Result<Option<AsyncFd<Socket>>, String> {
            if !is_wanted {
                return Ok(None);
            }
            let socket = raw_socket(domain).map_err(|error| no_raw(&error))?;
            // SAFETY: a `Socket` keeps its descriptor open, and the same, as long as it lives.
            unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
                .map(Some)
                .map_err(|error| no_raw(&error.into()))
        };
        let encapsulation = if nat { encapsulation::open(protected)? } else { Vec::new() };
        let encapsulation = encapsulation
            .into_iter()
            .map(|(address, socket)| {
                for result in [
                    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES),
                    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES),
                    dont_discover_mtu_v4(&socket),
                ] {
                    result.map_err(|error| format!("ipsec.nat: {error}"))?;
                }
                // SAFETY: a `Socket` keeps its descriptor open, and the same, as long as it lives.
                unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
                    .map(|socket| (address, socket))
                    .map_err(|error| format!("ipsec.nat: {}", io::Error::from(error)))
            })
            .collect::<Result<Vec<_>, String>>()?;
        let shared = Rc::new(Shared {
            // SAFETY: the device keeps its descriptor open, and the same, as long as it lives.
            tun: unsafe { AsyncFd::register_with_interest(tun, Interest::READABLE) }
                .map_err(|error| named(error.into()))?,
            raw_v4: raw(has_v4, Domain::IPV4)?,
            raw_v6: raw(has_v6, Domain::IPV6)?,
            encapsulation,
            sets: RefCell::new(sets),
            counts: Counts::default(),
        });
        let mut tasks = vec![
            tokio::task::spawn_local(seal_all(shared.clone())),
            tokio::task::spawn_local(open_all_v4(shared.clone())),
            tokio::task::spawn_local(open_all_v6(shared.clone())),
        ];
        for place in 0..shared.encapsulation.len() {
            tasks.push(tokio::task::spawn_local(open_all_encapsulated(shared.clone(), place)));
        }
        Ok(Userspace { shared, device: name, tasks, _routing: routing, silence: Vec::new() })
    }

    pub fn device(&self) -> &str {
        &self.device
    }

    pub fn shut(&mut self, protected: &[SocketAddr]) -> Result<(), String> {
        self.silence = silence::shut(protected, &self.device)
            .map_err(|error| format!("ipsec: protected ports cannot be shut: {error}"))?;
        Ok(())
    }

    pub fn install(&self, set: &SaSet) -> Result<(), String> {
        let mut sets = self.shared.sets.borrow_mut();
        if !sets.has_room_for(set) {
            return Err("the SPI, or the ports, are in use".to_owned());
        }
        let esp = EspSet::new(set, seed()?);
        let slot = match &mut sets.file {
            Some(file) => Some(file.add(set, &esp.progress())?),
            None => None,
        };
        sets.insert(Installed { esp, slot, last_used: [0; 4] });
        Ok(())
    }

    /// Keeps the sets that the core knows, removes others, and tells what passed through.
    pub fn audit(&self, known: &[KnownSet]) -> Audit {
        let mut audit = Audit { unowned_drops: self.unowned_drops(), ..Audit::default() };
        let mut kept = HashSet::new();
        {
            let sets = self.shared.sets.borrow();
            audit.associations = 4 * sets.by_id.len() as u64;
            audit.policies = audit.associations;
            for set in known {
                match sets.by_id.get(&set.id) {
                    Some(found) if KnownSet::from(found.esp.set()) == *set => {
                        kept.insert(set.id);
                        audit.held.push((set.id, found.traffic()));
                    }
                    _ => audit.missing.push(set.id),
                }
            }
        }
        let strays: Vec<SetId> = {
            let sets = self.shared.sets.borrow();
            sets.by_id.keys().copied().filter(|id| !kept.contains(id)).collect()
        };
        for set in strays {
            self.remove(set);
            audit.stray_associations += 4;
            audit.stray_policies += 4;
        }
        audit
    }

    /// Without what is counted at an association as well.
    fn unowned_drops(&self) -> Vec<(String, u64)> {
        let drops = DROPS.iter().zip(&self.shared.counts.drops);
        let unowned = drops
            .filter(|(reason, count)| !matches!(**reason, "bad_icv" | "replay") && count.get() > 0);
        unowned.map(|(reason, count)| ((*reason).to_owned(), count.get())).collect()
    }

    pub fn associations(&self, set: SetId) -> Option<[Association; 4]> {
        self.shared.sets.borrow().by_id.get(&set).map(|found| found.esp.set().associations())
    }

    pub fn remove(&self, set: SetId) {
        let mut sets = self.shared.sets.borrow_mut();
        sets.remove(set);
    }

    pub fn len(&self) -> usize {
        self.shared.sets.borrow().by_id.len()
    }

    pub fn samples(&self, samples: &mut Samples) {
        let counts = &self.shared.counts;
        let drops: Vec<(&str, u64)> =
            DROPS.iter().zip(&counts.drops).map(|(reason, cell)| (*reason, cell.get())).collect();
        super::show_traffic(
            samples,
            [counts.packets[0].get(), counts.packets[1].get()],
            [counts.bytes[0].get(), counts.bytes[1].get()],
            &drops,
        );
        super::show_rebound(samples, counts.rebound.get());
    }
}

impl Drop for Userspace {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Sets {
    /// What an earlier run has left goes on at once; the core's first audit says what of it stays.
    fn open(state: Option<&Path>) -> Result<Sets, String> {
        let mut sets = Sets::default();
        let Some(path) = state else { return Ok(sets) };
        let (mut file, found) = StateFile::open(path)?;
        for Found { slot, set, progress, last_used } in found {
            if !sets.has_room_for(&set) {
                tracing::warn!(set = set.id.0, "a stored set is in the way of another: dropped");
                file.remove(slot);
                continue;
            }
            let esp = EspSet::resume(&set, seed()?, progress);
            sets.insert(Installed { esp, slot: Some(slot), last_used });
        }
        tracing::info!(sets = sets.by_id.len(), "sets of an earlier run read back");
        sets.file = Some(file);
        Ok(sets)
    }

    fn has_room_for(&self, set: &SaSet) -> bool {
        let is_taken = |association: &Association| match association.is_inbound {
            true => self.inbound.contains_key(&inbound_key(association)),
            false => self.outbound.contains_key(&outbound_key(association)),
        };
        !self.by_id.contains_key(&set.id) && !set.associations().iter().any(is_taken)
    }

    fn insert(&mut self, installed: Installed) {
        let set = installed.esp.set();
        let id = set.id;
        for (place, association) in set.associations().iter().enumerate() {
            match association.is_inbound {
                true => self.inbound.insert(inbound_key(association), (id, place)),
                false => self.outbound.insert(outbound_key(association), (id, place)),
            };
        }
        self.by_id.insert(id, installed);
    }

    fn remove(&mut self, set: SetId) {
        let Some(removed) = self.by_id.remove(&set) else { return };
        for association in &removed.esp.set().associations() {
            match association.is_inbound {
                true => self.inbound.remove(&inbound_key(association)),
                false => self.outbound.remove(&outbound_key(association)),
            };
        }
        if let (Some(file), Some(slot)) = (&mut self.file, removed.slot) {
            file.remove(slot);
        }
    }

    /// What was received is noted before it goes on.
    fn open_packet(
        &mut self,
        destination: IpAddr,
        spi: u32,
        packet: &[u8],
    ) -> Result<Opened, OpenError> {
        let place = self.inbound.get(&(destination, spi)).copied();
        let Some((set, place)) = place else { return Err(OpenError::UnknownSpi) };
        let Some(installed) = self.by_id.get_mut(&set) else { return Err(OpenError::UnknownSpi) };
        let before = installed.esp.set().mode;
        let clear = installed.esp.open(packet);
        installed.note(&mut self.file, place, clear.is_ok());
        let rebound = match installed.esp.set().mode {
            Mode::UdpEncTun { nat } if installed.esp.set().mode != before => {
                if let (Some(file), Some(slot)) = (&mut self.file, installed.slot) {
                    file.note_nat_port(slot, nat.port());
                }
                Some((set, nat))
            }
            _ => None,
        };
        Ok(Opened { clear: clear?, rebound })
    }

    /// A number is noted before a packet bears it.
    fn seal_packet(&mut self, ends: (SocketAddr, SocketAddr), packet: &[u8]) -> Option<Vec<u8>> {
        let (set, place) = *self.outbound.get(&ends)?;
        let installed = self.by_id.get_mut(&set)?;
        let sealed = installed.esp.seal(packet);
        installed.note(&mut self.file, place, sealed.is_some());
        sealed
    }
}

struct Opened {
    /// An IP packet.
    clear: Vec<u8>,
    /// The set's UE has another port of its NAT from now on.
    rebound: Option<(SetId, SocketAddr)>,
}

fn seed() -> Result<[u8; 32], String> {
    let mut seed = [0; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut seed)
        .map_err(|error| format!("the system has no randomness: {error}"))?;
    Ok(seed)
}

impl Installed {
    fn note(&mut self, file: &mut Option<StateFile>, place: usize, is_used: bool) {
        if is_used {
            self.last_used[place] = epoch_seconds();
        }
        if let (Some(file), Some(slot)) = (file, self.slot) {
            file.note(slot, place, &self.esp.progress()[place], self.last_used[place]);
        }
    }

    fn traffic(&self) -> [Traffic; 4] {
        let progress = self.esp.progress();
        std::array::from_fn(|place| {
            let one = progress[place];
            let seconds = self.last_used[place];
            Traffic {
                packets: one.counters.packets,
                octets: one.counters.bytes,
                last_used: (seconds > 0).then(|| Now::from_millis(seconds * 1_000)),
                replayed: one.replayed,
                bad_icv: one.bad_icv,
            }
        })
    }
}

impl Shared {
    fn count(&self, place: usize, packet: &[u8]) {
        let add = |cell: &Cell<u64>, more: usize| cell.set(cell.get() + more as u64);
        add(&self.counts.packets[place], 1);
        add(&self.counts.bytes[place], packet.len());
    }

    fn drop_packet(&self, reason: usize) {
        let cell = &self.counts.drops[reason];
        cell.set(cell.get() + 1);
        tracing::debug!(reason = DROPS[reason], "packet dropped");
    }

    /// A whole IP packet with ESP inside.
    fn open_from_wire(&self, packet: &[u8], destination: IpAddr) {
        let opened = match spi_of(packet) {
            None => Err(OpenError::TooShort),
            Some(spi) => self.sets.borrow_mut().open_packet(destination, spi, packet),
        };
        match opened {
            Ok(Opened { clear, rebound }) => {
                if let Some((set, nat)) = rebound {
                    super::tell_rebound(set, nat);
                    self.counts.rebound.set(self.counts.rebound.get() + 1);
                }
                self.count(0, &clear);
                if let Err(error) = self.tun.get_ref().send(&clear) {
                    tracing::debug!(%error, "TUN did not take a packet");
                }
            }
            Err(error) => self.drop_packet(match error {
                OpenError::UnknownSpi => 0,
                OpenError::TooShort => 1,
                OpenError::BadIcv => 2,
                OpenError::Replayed => 3,
                OpenError::SelectorMismatch => 4,
                OpenError::BadPadding => 5,
            }),
        }
    }

    /// A clear IP packet that one of our sockets sent.
    fn seal_to_wire(&self, packet: &[u8]) {
        // The kernel's own chatter on a new interface has no ports.
        let Some(ends) = ends(packet) else { return };
        let sealed = {
            let mut sets = self.sets.borrow_mut();
            sets.seal_packet(ends, packet)
        };
        match sealed {
            None => self.drop_packet(DROP_NO_ASSOCIATION),
            Some(sealed) if sealed.is_empty() => self.drop_packet(DROP_NOT_SENT),
            Some(sealed) => match self.send(&sealed, ends) {
                Ok(_) => self.count(1, packet),
                Err(error) => {
                    tracing::debug!(%error, "ESP not sent");
                    self.drop_packet(DROP_NOT_SENT);
                }
            },
        }
    }

    /// From port 4500 of the address that the packet names; the kernel makes IP and UDP headers.
    fn send_encapsulated(
        &self,
        packet: &[u8],
        flags: MsgFlags,
    ) -> Result<usize, nix::errno::Errno> {
        let octets = |at: usize| packet.get(at..at + 4)?.first_chunk::<4>().copied();
        let port = packet.get(IPV4_HEADER_BYTES + 2..IPV4_HEADER_BYTES + 4);
        let (Some(source), Some(destination), Some(port)) =
            (octets(12), octets(16), port.and_then(|port| port.first_chunk::<2>()))
        else {
            return Err(nix::errno::Errno::EINVAL);
        };
        let source = Ipv4Addr::from(source);
        let socket = self.encapsulation.iter().find(|(address, _)| *address == source);
        let Some((_, socket)) = socket else { return Err(nix::errno::Errno::EADDRNOTAVAIL) };
        let to = std::net::SocketAddrV4::new(destination.into(), u16::from_be_bytes(*port));
        let slices = [IoSlice::new(&packet[IPV4_HEADER_BYTES + UDP_HEADER_BYTES..])];
        let to = SockaddrIn::from(to);
        sendmsg(socket.get_ref().as_raw_fd(), &slices, &[], flags, Some(&to))
    }

    /// The kernel makes the IP header, so that it can also fragment.
    fn send(
        &self,
        packet: &[u8],
        (source, destination): (SocketAddr, SocketAddr),
    ) -> Result<usize, nix::errno::Errno> {
        let flags = MsgFlags::MSG_DONTWAIT;
        if packet.first() == Some(&0x45) && packet.get(9) == Some(&PROTOCOL_UDP) {
            return self.send_encapsulated(packet, flags);
        }
        match (source.ip(), destination.ip(), &self.raw_v4, &self.raw_v6) {
            (IpAddr::V4(source), IpAddr::V4(destination), Some(raw), _) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(source).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let to = SockaddrIn::from(std::net::SocketAddrV4::new(destination, 0));
                let slices = [IoSlice::new(&packet[IPV4_HEADER_BYTES..])];
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(raw.get_ref().as_raw_fd(), &slices, &control, flags, Some(&to))
            }
            (IpAddr::V6(source), IpAddr::V6(destination), _, Some(raw)) => {
                let info = libc::in6_pktinfo {
                    ipi6_ifindex: 0,
                    ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                };
                let to = SockaddrIn6::from(std::net::SocketAddrV6::new(destination, 0, 0, 0));
                let slices = [IoSlice::new(&packet[IPV6_HEADER_BYTES..])];
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(raw.get_ref().as_raw_fd(), &slices, &control, flags, Some(&to))
            }
            _ => Err(nix::errno::Errno::EAFNOSUPPORT),
        }
    }
}

/// What our sockets send, to the wire.
async fn seal_all(shared: Rc<Shared>) {
    let mut buffer = vec![0; PACKET_BYTES];
    while let Ok(mut guard) = shared.tun.readable().await {
        for _ in 0..BATCH {
            match shared.tun.get_ref().recv(&mut buffer) {
                Ok(count) => shared.seal_to_wire(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready();
                    break;
                }
                Err(error) => return tracing::error!(%error, "TUN cannot be read"),
            }
        }
        tokio::task::yield_now().await;
    }
}

/// ESP over IPv4 from the wire: the socket delivers the IP header.
async fn open_all_v4(shared: Rc<Shared>) {
    let Some(raw) = &shared.raw_v4 else { return };
    let mut buffer = vec![0; PACKET_BYTES];
    while let Ok(mut guard) = raw.readable().await {
        for _ in 0..BATCH {
            let descriptor = raw.get_ref().as_raw_fd();
            let Some(received) = receive(descriptor, &mut buffer) else {
                guard.clear_ready();
                break;
            };
            let packet = &buffer[..received.count];
            if let Some(destination) = packet.get(16..20).and_then(|bytes| bytes.first_chunk()) {
                shared.open_from_wire(packet, Ipv4Addr::from(*destination).into());
            }
        }
        tokio::task::yield_now().await;
    }
}

/// ESP over IPv6 from the wire: the header is made again from what the socket tells.
async fn open_all_v6(shared: Rc<Shared>) {
    let Some(raw) = &shared.raw_v6 else { return };
    let mut buffer = vec![0; IPV6_HEADER_BYTES + PACKET_BYTES];
    while let Ok(mut guard) = raw.readable().await {
        for _ in 0..BATCH {
            let descriptor = raw.get_ref().as_raw_fd();
            let Some(received) = receive(descriptor, &mut buffer[IPV6_HEADER_BYTES..]) else {
                guard.clear_ready();
                break;
            };
            let (Some(SocketAddr::V6(source)), Some(destination)) =
                (received.source, received.destination)
            else {
                continue;
            };
            buffer[..IPV6_HEADER_BYTES].fill(0);
            buffer[0] = 0x60;
            buffer[4..6].copy_from_slice(&(received.count as u16).to_be_bytes());
            buffer[6] = PROTOCOL_ESP;
            buffer[7] = 64;
            buffer[8..24].copy_from_slice(&source.ip().octets());
            buffer[24..40].copy_from_slice(&destination.octets());
            let packet = &buffer[..IPV6_HEADER_BYTES + received.count];
            shared.open_from_wire(packet, destination.into());
        }
        tokio::task::yield_now().await;
    }
}

/// RFC 3948: what comes to port 4500 from UEs behind a NAT; their IP and UDP headers are made again from
/// what the socket tells. A datagram that is no ESP (IKE, a keep-alive) has no SPI that anybody has.
async fn open_all_encapsulated(shared: Rc<Shared>, place: usize) {
    const FRONT_BYTES: usize = IPV4_HEADER_BYTES + UDP_HEADER_BYTES;
    let (address, socket) = &shared.encapsulation[place];
    let mut buffer = vec![0; FRONT_BYTES + PACKET_BYTES];
    while let Ok(mut guard) = socket.readable().await {
        for _ in 0..BATCH {
            let descriptor = socket.get_ref().as_raw_fd();
            let Some(received) = receive(descriptor, &mut buffer[FRONT_BYTES..]) else {
                guard.clear_ready();
                break;
            };
            let Some(SocketAddr::V4(source)) = received.source else { continue };
            // RFC 3948 §2.3: a keep-alive is one octet.
            if received.count == 1 {
                continue;
            }
            let length = (FRONT_BYTES + received.count) as u16;
            let (ip, udp) = buffer[..FRONT_BYTES].split_at_mut(IPV4_HEADER_BYTES);
            ip.fill(0);
            ip[0] = 0x45;
            ip[2..4].copy_from_slice(&length.to_be_bytes());
            ip[8] = 64;
            ip[9] = PROTOCOL_UDP;
            ip[12..16].copy_from_slice(&source.ip().octets());
            ip[16..20].copy_from_slice(&address.octets());
            udp[..2].copy_from_slice(&source.port().to_be_bytes());
            udp[2..4].copy_from_slice(&UDP_ENCAPSULATION_PORT.to_be_bytes());
            udp[4..6].copy_from_slice(&(length - IPV4_HEADER_BYTES as u16).to_be_bytes());
            udp[6..].fill(0);
            let packet = &buffer[..FRONT_BYTES + received.count];
            shared.open_from_wire(packet, (*address).into());
        }
        tokio::task::yield_now().await;
    }
}

struct Received {
    count: usize,
    source: Option<SocketAddr>,
    destination: Option<Ipv6Addr>,
}

/// `None` when nothing is there.
fn receive(descriptor: i32, buffer: &mut [u8]) -> Option<Received> {
    let mut slices = [IoSliceMut::new(buffer)];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let flags = MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(descriptor, &mut slices, Some(&mut control), flags).ok()?;
    let source = message.address.and_then(|address| socket_address(&address));
    let destination = message.cmsgs().ok().and_then(|mut controls| {
        controls.find_map(|control| match control {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info.ipi6_addr.s6_addr.into()),
            _ => None,
        })
    });
    Some(Received { count: message.bytes, source, destination })
}

/// Source and destination of a clear UDP or TCP packet without options or extension headers.
fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (header, protocol, source, destination): (usize, u8, IpAddr, IpAddr) =
        match packet.first()? >> 4 {
            4 => {
                let octets = |at: usize| packet.get(at..at + 4)?.first_chunk::<4>().copied();
                let header = usize::from(packet[0] & 0xF) * 4;
                (header, *packet.get(9)?, octets(12)?.into(), octets(16)?.into())
            }
            6 => {
                let octets = |at: usize| packet.get(at..at + 16)?.first_chunk::<16>().copied();
                (IPV6_HEADER_BYTES, *packet.get(6)?, octets(8)?.into(), octets(24)?.into())
            }
            _ => return None,
        };
    if protocol != PROTOCOL_UDP && protocol != PROTOCOL_TCP {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let source = SocketAddr::new(source, port(header)?);
    Some((source, SocketAddr::new(destination, port(header + 2)?)))
}

fn inbound_key(association: &Association) -> (IpAddr, u32) {
    (association.on_the_wire().1, association.spi)
}

fn outbound_key(association: &Association) -> (SocketAddr, SocketAddr) {
    (association.source, association.destination)
}

fn families(protected: &[SocketAddr]) -> (bool, bool) {
    let has_v6 = protected.iter().any(SocketAddr::is_ipv6);
    (!has_v6 || protected.iter().any(SocketAddr::is_ipv4), has_v6)
}

fn device() -> io::Result<SyncDevice> {
    let device = DeviceBuilder::new().name(DEVICE_PATTERN).mtu(DEVICE_MTU).build_sync()?;
    device.set_nonblocking(true)?;
    Ok(device)
}

fn raw_socket(domain: Domain) -> io::Result<Socket> {
    let protocol = Protocol::from(i32::from(PROTOCOL_ESP));
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    if domain == Domain::IPV4 {
        dont_discover_mtu_v4(&socket)?;
    } else {
        let (option, value) = (libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT);
        dont_discover_mtu(&socket, libc::IPPROTO_IPV6, option, value)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    Ok(socket)
}

fn dont_discover_mtu_v4(socket: &Socket) -> io::Result<()> {
    dont_discover_mtu(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
}

/// Packets longer than the link are fragmented, not refused.
fn dont_discover_mtu(socket: &Socket, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open and the option's value is one int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A packet from a UE comes out of the TUN while the way to the UE leads elsewhere; a strict filter
/// would drop it. The stricter of `all` and the interface counts, except that loose (2) wins.
fn loosen_reverse_path_filter(device: &str) {
    let path = |of: &str| format!("/proc/sys/net/ipv4/conf/{of}/rp_filter");
    let read = |of: &str| std::fs::read_to_string(path(of)).unwrap_or_default();
    if read("all").trim() != "1" && read(device).trim() != "1" {
        return;
    }
    if let Err(error) = std::fs::write(path(device), "2") {
        tracing::warn!(
            %error,
            "strict reverse path filter: set net.ipv4.conf.all.rp_filter=0 (or 2), else the kernel \
             drops what phones send"
        );
    }
}

fn allow_ipv6(device: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6");
    if std::fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1")
        && let Err(error) = std::fs::write(&path, "0")
    {
        tracing::warn!(%error, "IPv6 is off on the TUN: set net.ipv6.conf.default.disable_ipv6=0");
    }
}

fn no_device(error: &io::Error) -> String {
    format!("no TUN: {error}; give the process /dev/net/tun and CAP_NET_ADMIN")
}

fn no_raw(error: &io::Error) -> String {
    format!("no raw socket for ESP: {error}; give the process CAP_NET_RAW")
}
