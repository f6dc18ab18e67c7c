//! Where the packets of all UEs go: the LTE transport's radio socket, one TUN device with a prefix
//! of addresses, or plain UDP sockets, one for each UE, on addresses that this host has.
//!
//! | access | addresses | IPsec | needs |
//! |---|---|---|---|
//! | radio | one per UE, from the P-GW's pool | yes | the LTE transport |
//! | TUN | one per UE, from a prefix | yes | CAP_NET_ADMIN, a route back |
//! | sockets | one for all, or a few; a port per UE | no | nothing |

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use lte::attach::{Attached, IpVersion};
use lte::radio::{self, Message, Record};
use socket2::{SockRef, Socket};
use tun_rs::SyncDevice;

use crate::packets::{self, Content};
use crate::program::bearer;

/// Records that wait for the radio; beyond that packets are lost, as on a radio link.
const BACKLOG: usize = 65_536;
/// Octets of a socket's buffer that carries the packets of all UEs.
const BUFFER: usize = 8 << 20;
/// First port of UEs on sockets.
const FIRST_PORT: u16 = 10_000;
/// Descriptors for everything else.
const SPARE_DESCRIPTORS: u64 = 64;

/// What the command line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Access {
    Radio {
        socket: PathBuf,
        version: IpVersion,
    },
    /// UE number n has the address behind `address` by n + 1.
    Tun {
        name: String,
        address: IpAddr,
        prefix: u8,
    },
    Sockets {
        addresses: Vec<IpAddr>,
    },
}

/// What comes from the network.
#[derive(Debug)]
pub enum Received {
    Packet(u32, Bytes),
    Attached(u32, Attached),
    Refused(u32, String),
    /// No more packets for anybody.
    Gone(String),
}

/// Packets that were lost on this host, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    /// We did not read fast enough, so the kernel dropped them.
    pub received: u64,
    /// The kernel, or the backlog, took no more.
    pub sent: u64,
}

pub struct Link {
    kind: Kind,
    buffer: Vec<u8>,
    lost_sending: u64,
    /// What the kernel had dropped before we began.
    lost_before: u64,
}

enum Kind {
    Radio {
        socket: Socket,
        backlog: VecDeque<Vec<u8>>,
    },
    Tun {
        device: SyncDevice,
        name: String,
        address: IpAddr,
    },
    Sockets {
        epoll: OwnedFd,
        sockets: Vec<UdpSocket>,
        ready: Vec<u32>,
        refused: VecDeque<Received>,
    },
}

impl Link {
    /// Opens it for `count` UEs.
    ///
    /// # Errors
    /// What this host lacks, in a sentence.
    pub fn open(access: &Access, count: usize) -> Result<Link, String> {
        let kind = match access {
            Access::Radio { socket, .. } => {
                let path = socket.display();
                let missing = |error: io::Error| {
                    format!("{path}: {error}: is the LTE transport running (radio.socket)?")
                };
                let socket = radio::connect(socket).map_err(missing)?;
                socket.set_nonblocking(true).map_err(missing)?;
                // The kernel caps them; what does not fit waits at the other end.
                let _ = socket.set_recv_buffer_size(BUFFER);
                let _ = socket.set_send_buffer_size(BUFFER);
                Kind::Radio { socket, backlog: VecDeque::new() }
            }
            Access::Tun { name, address, prefix } => {
                check_prefix(*address, *prefix, count)?;
                let device = bearer::open_tun(name, *address, *prefix)?;
                Kind::Tun { device, name: name.clone(), address: *address }
            }
            Access::Sockets { addresses } => open_sockets(addresses, count)?,
        };
        let mut link = Link { kind, buffer: vec![0; 70_000], lost_sending: 0, lost_before: 0 };
        link.lost_before = link.dropped_by_kernel();
        Ok(link)
    }

    /// Where UE number `number` is, when no attach says it.
    pub fn address(&self, number: u32) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Radio { .. } => None,
            Kind::Tun { address, .. } => Some(SocketAddr::new(behind(*address, number), 5060)),
            Kind::Sockets { sockets, .. } => sockets.get(number as usize)?.local_addr().ok(),
        }
    }

    /// Octets of the longest IP packet, when no attach says it.
    pub fn mtu(&self) -> usize {
        usize::from(bearer::TUN_MTU)
    }

    /// Asks the eNodeB for a bearer.
    pub fn attach(&mut self, number: u32, imsi: &str, version: IpVersion) {
        let message = Message::Attach { version, imsi };
        self.send_record(Record { reference: number, message }.encode());
    }

    /// Sends an IP packet of a UE.
    pub fn send(&mut self, number: u32, packet: &[u8]) {
        match &mut self.kind {
            Kind::Radio { .. } => {
                let message = Message::Data(packet);
                self.send_record(Record { reference: number, message }.encode());
            }
            Kind::Tun { device, .. } => {
                if device.send(packet).is_err() {
                    self.lost_sending += 1;
                }
            }
            Kind::Sockets { sockets, refused, .. } => {
                let Some(socket) = sockets.get(number as usize) else { return };
                match packets::content(packet) {
                    Some(Content::Udp { destination, payload, .. }) => {
                        // An ICMP error about an earlier datagram shows here; this one is fine.
                        let sent = socket
                            .send_to(&payload, destination)
                            .or_else(|_| socket.send_to(&payload, destination));
                        if sent.is_err() {
                            self.lost_sending += 1;
                        }
                    }
                    _ => refused.extend(reset(packet).map(|reset| Received::Packet(number, reset))),
                }
            }
        }
    }

    /// The next that is there; `None` when nothing is.
    pub fn receive(&mut self) -> Option<Received> {
        loop {
            match &mut self.kind {
                Kind::Radio { socket, .. } => match (&mut &*socket).read(&mut self.buffer) {
                    Ok(0) => {
                        return Some(Received::Gone("the eNodeB has closed the connection".into()));
                    }
                    Ok(length) => {
                        if let Some(received) = of_record(&self.buffer[..length]) {
                            return Some(received);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                    Err(error) => return Some(Received::Gone(error.to_string())),
                },
                Kind::Tun { device, address, .. } => match device.recv(&mut self.buffer) {
                    Ok(length) => {
                        let packet = &self.buffer[..length];
                        let number =
                            bearer::destination(packet).and_then(|to| number_of(*address, to));
                        // Others are the kernel's own multicast.
                        if let Some(number) = number {
                            return Some(Received::Packet(number, Bytes::copy_from_slice(packet)));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                    Err(error) => return Some(Received::Gone(error.to_string())),
                },
                Kind::Sockets { epoll, sockets, ready, refused } => {
                    if let Some(received) = refused.pop_front() {
                        return Some(received);
                    }
                    if ready.is_empty() {
                        wait_for_sockets(epoll, ready);
                    }
                    let number = *ready.last()?;
                    let socket = &sockets[number as usize];
                    match socket.recv_from(&mut self.buffer) {
                        Ok((length, from)) => {
                            let to = socket.local_addr().ok();
                            let payload = &self.buffer[..length];
                            let packet = to.and_then(|to| packets::datagram(from, to, payload));
                            if let Some(packet) = packet {
                                return Some(Received::Packet(number, packet.into()));
                            }
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            ready.pop();
                        }
                        // An ICMP error about what was sent.
                        Err(_) => {}
                    }
                }
            }
        }
    }

    /// Until something is there, for that long at most.
    pub fn wait(&self, patience: Duration) {
        let wants_room = matches!(&self.kind, Kind::Radio { backlog, .. } if !backlog.is_empty());
        let has_some = matches!(&self.kind, Kind::Sockets { ready, refused, .. }
            if !ready.is_empty() || !refused.is_empty());
        if has_some {
            return;
        }
        let events = if wants_room { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
        let mut poll = libc::pollfd { fd: self.descriptor(), events, revents: 0 };
        let time = libc::timespec {
            tv_sec: patience.as_secs() as libc::time_t,
            tv_nsec: patience.subsec_nanos() as libc::c_long,
        };
        // SAFETY: one descriptor of ours, and times and masks that outlive the call.
        unsafe { libc::ppoll(&mut poll, 1, &time, std::ptr::null()) };
    }

    /// Sends what had no room.
    pub fn flush(&mut self) {
        let Kind::Radio { socket, backlog } = &mut self.kind else { return };
        while let Some(record) = backlog.front() {
            match socket.send(record) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The end of the transport shows when reading.
                _ => drop(backlog.pop_front()),
            }
        }
    }

    pub fn lost(&self) -> Lost {
        let received = self.dropped_by_kernel().saturating_sub(self.lost_before);
        Lost { received, sent: self.lost_sending }
    }

    fn send_record(&mut self, record: Vec<u8>) {
        if let Kind::Radio { backlog, .. } = &mut self.kind {
            if backlog.len() < BACKLOG {
                backlog.push_back(record);
            } else {
                self.lost_sending += 1;
            }
        }
        self.flush();
    }

    fn descriptor(&self) -> RawFd {
        match &self.kind {
            Kind::Radio { socket, .. } => socket.as_raw_fd(),
            Kind::Tun { device, .. } => device.as_raw_fd(),
            Kind::Sockets { epoll, .. } => epoll.as_raw_fd(),
        }
    }

    fn dropped_by_kernel(&self) -> u64 {
        match &self.kind {
            // Nothing is dropped on a Unix socket: the other end waits, and counts what it drops.
            Kind::Radio { .. } => 0,
            Kind::Tun { name, .. } => {
                let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
                dropped_by_device(&text, name)
            }
            Kind::Sockets { sockets, .. } => {
                let ports = sockets.iter().filter_map(|socket| socket.local_addr().ok());
                let ports: Vec<u16> = ports.map(|address| address.port()).collect();
                let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
                let texts = tables.map(|path| std::fs::read_to_string(path).unwrap_or_default());
                texts.iter().map(|text| dropped_by_sockets(text, &ports)).sum()
            }
        }
    }
}

fn of_record(record: &[u8]) -> Option<Received> {
    let Record { reference, message } = radio::decode(record).ok()?;
    match message {
        Message::Data(packet) => Some(Received::Packet(reference, Bytes::copy_from_slice(packet))),
        Message::Attached(attached) => Some(Received::Attached(reference, attached)),
        Message::Refused { reason } | Message::Detached { reason } => {
            Some(Received::Refused(reference, reason.to_owned()))
        }
        _ => None,
    }
}

/// The prefix is one, nobody else has its addresses, and it has enough of them.
fn check_prefix(address: IpAddr, prefix: u8, count: usize) -> Result<(), String> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    if prefix > bits {
        return Err(format!("{address}/{prefix} is no prefix"));
    }
    let room = u32::from(bits - prefix).min(32);
    let is_aligned = match address {
        IpAddr::V4(address) => u64::from(u32::from(address)) & ((1u64 << room) - 1) == 0,
        IpAddr::V6(address) => {
            let hosts = u32::from(bits - prefix);
            hosts == 128 || u128::from(address) & ((1u128 << hosts) - 1) == 0
        }
    };
    if !is_aligned {
        return Err(format!("{address}/{prefix}: the address has bits behind its prefix"));
    }
    if (count as u64) + 1 > 1u64 << room {
        return Err(format!("{address}/{prefix} has no addresses for {count} UEs"));
    }
    match bearer::is_local(behind(address, 0)) {
        true => Err(format!("{address}/{prefix}: this host has addresses in it")),
        false => Ok(()),
    }
}

fn behind(address: IpAddr, number: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            Ipv4Addr::from(u32::from(address).wrapping_add(number).wrapping_add(1)).into()
        }
        IpAddr::V6(address) => {
            Ipv6Addr::from(u128::from(address).wrapping_add(u128::from(number) + 1)).into()
        }
    }
}

fn number_of(address: IpAddr, to: IpAddr) -> Option<u32> {
    match (address, to) {
        (IpAddr::V4(address), IpAddr::V4(to)) => {
            u32::from(to).checked_sub(u32::from(address))?.checked_sub(1)
        }
        (IpAddr::V6(address), IpAddr::V6(to)) => {
            let number = u128::from(to).checked_sub(u128::from(address))?.checked_sub(1)?;
            u32::try_from(number).ok()
        }
        _ => None,
    }
}

/// A socket for each UE: its address and port are what tells UEs apart.
fn open_sockets(addresses: &[IpAddr], count: usize) -> Result<Kind, String> {
    let wanted = count as u64 + SPARE_DESCRIPTORS;
    raise_descriptors(wanted)?;
    // SAFETY: makes a descriptor that nobody else knows.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(format!("epoll: {}", io::Error::last_os_error()));
    }
    // SAFETY: the descriptor was just made, and is ours.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    let mut sockets: Vec<UdpSocket> = Vec::with_capacity(count);
    'all: for address in addresses {
        for port in FIRST_PORT..=u16::MAX {
            if sockets.len() == count {
                break 'all;
            }
            let socket = match UdpSocket::bind((*address, port)) {
                Ok(socket) => socket,
                // Somebody else's port.
                Err(error) if error.kind() == ErrorKind::AddrInUse => continue,
                Err(error) => return Err(format!("{address}: {error}")),
            };
            socket.set_nonblocking(true).map_err(|error| error.to_string())?;
            let _ = SockRef::from(&socket).set_recv_buffer_size(64 << 10);
            let mut event =
                libc::epoll_event { events: libc::EPOLLIN as u32, u64: sockets.len() as u64 };
            // SAFETY: both descriptors are open, the event outlives the call.
            let added = unsafe {
                libc::epoll_ctl(
                    epoll.as_raw_fd(),
                    libc::EPOLL_CTL_ADD,
                    socket.as_raw_fd(),
                    &mut event,
                )
            };
            if added < 0 {
                return Err(format!("epoll: {}", io::Error::last_os_error()));
            }
            sockets.push(socket);
        }
    }
    if sockets.len() < count {
        return Err(format!(
            "{} ports are free on these addresses, {count} are needed: give more addresses \
             (--bind 127.0.0.1,127.0.0.2), or a TUN device",
            sockets.len()
        ));
    }
    Ok(Kind::Sockets { epoll, sockets, ready: Vec::new(), refused: VecDeque::new() })
}

fn raise_descriptors(wanted: u64) -> Result<(), String> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| format!("limits: {error}"))?;
    if soft >= wanted {
        return Ok(());
    }
    let raised = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    if hard < wanted || raised.is_err() {
        return Err(format!("{wanted} descriptors are needed, {hard} allowed: ulimit -n {wanted}"));
    }
    Ok(())
}

fn wait_for_sockets(epoll: &OwnedFd, ready: &mut Vec<u32>) {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
    // SAFETY: the array is as long as is said, and outlives the call.
    let found = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), 64, 0) };
    let found = usize::try_from(found).unwrap_or(0);
    ready.extend(events[..found].iter().map(|event| event.u64 as u32));
}

/// RFC 9293 §3.5.2: nobody takes connections here, so that the phone goes back to UDP.
fn reset(packet: &[u8]) -> Option<Bytes> {
    let sliced = SlicedPacket::from_ip(packet).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { return None };
    if tcp.rst() {
        return None;
    }
    let builder = match sliced.net.as_ref()? {
        NetSlice::Ipv4(v4) => {
            PacketBuilder::ipv4(v4.header().destination(), v4.header().source(), 64)
        }
        NetSlice::Ipv6(v6) => {
            PacketBuilder::ipv6(v6.header().destination(), v6.header().source(), 64)
        }
        NetSlice::Arp(_) => return None,
    };
    let acknowledged = tcp.sequence_number().wrapping_add(u32::from(tcp.syn()));
    let builder = builder
        .tcp(tcp.destination_port(), tcp.source_port(), 0, 0)
        .rst()
        .ack(acknowledged.wrapping_add(tcp.payload().len() as u32));
    let mut reset = Vec::with_capacity(builder.size(0));
    builder.write(&mut reset, &[]).ok()?;
    Some(reset.into())
}

/// Packets for us that the device dropped: what it was to transmit, and we did not read.
fn dropped_by_device(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    // Eight columns of receiving; of transmitting bytes, packets, errs, drop.
    let dropped = line.and_then(|line| line.split_whitespace().nth(11)?.parse().ok());
    dropped.unwrap_or(0)
}

/// The last column of each line of our ports.
fn dropped_by_sockets(text: &str, ports: &[u16]) -> u64 {
    let ports: std::collections::BTreeSet<u16> = ports.iter().copied().collect();
    let dropped = text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let port = fields.nth(1)?.rsplit_once(':')?.1;
        let port = u16::from_str_radix(port, 16).ok()?;
        ports.contains(&port).then(|| fields.last()?.parse::<u64>().ok()).flatten()
    });
    dropped.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_prefix() {
        for (base, second) in [("10.99.0.0", "10.99.0.2"), ("fd00:99::", "fd00:99::2")] {
            let base: IpAddr = base.parse().unwrap();
            assert_eq!(behind(base, 1), second.parse::<IpAddr>().unwrap());
            assert_eq!(number_of(base, behind(base, 70_000)), Some(70_000));
            assert_eq!(number_of(base, base), None);
        }
        let check =
            |address: &str, prefix, count| check_prefix(address.parse().unwrap(), prefix, count);
        assert_eq!(check("10.99.0.0", 24, 255), Ok(()));
        assert!(check("10.99.0.0", 24, 256).unwrap_err().contains("no addresses"));
        assert!(check("10.99.0.1", 24, 1).unwrap_err().contains("behind its prefix"));
        assert!(check("fd00::", 129, 1).unwrap_err().contains("no prefix"));
        assert_eq!(check("fd00:99::", 64, 100_000), Ok(()));
    }

    /// What a phone sends by TCP where there are only UDP sockets is refused at once.
    #[test]
    fn connections_are_reset() {
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(4000, 5060, 7, 100);
        let mut syn = Vec::new();
        builder.syn().write(&mut syn, &[]).unwrap();
        let reset = reset(&syn).unwrap();
        let sliced = SlicedPacket::from_ip(&reset).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!() };
        assert!(tcp.rst() && tcp.ack());
        assert_eq!((tcp.source_port(), tcp.destination_port()), (5060, 4000));
        assert_eq!(tcp.acknowledgment_number(), 8);
        assert_eq!(super::reset(&reset), None);
    }

    #[test]
    fn drops_of_the_kernel() {
        let devices = "Inter-|   Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13\n  \
            ues: 1 2 3 4 5 6 7 8 9 10 11 42 13 14 15 16\n";
        assert_eq!(dropped_by_device(devices, "ues"), 42);
        assert_eq!(dropped_by_device(devices, "ue"), 0);
        let sockets = "  sl  local_address rem_address   st ... drops\n\
            1: 0100007F:2710 00000000:0000 07 0 0 0 0 0 5\n2: 0100007F:2711 00000000:0000 07 0 9\n";
        assert_eq!(dropped_by_sockets(sockets, &[10_000]), 5);
    }
}
