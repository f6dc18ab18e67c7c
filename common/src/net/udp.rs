//! UDP sockets for SIP: batches in, batches out, and ICMP errors told to the core (RFC 3261 §18.4).

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6,
    SockaddrStorage, recvmmsg, recvmsg, sendmmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::inbox::{Inbox, count};
use crate::node::{Flow, Input, Transport};

/// Datagrams of one system call.
const BATCH: usize = 32;
const DATAGRAM_BYTES: usize = 65_536;
/// RFC 8200 §5.
const IPV6_MINIMUM_MTU: libc::c_int = 1_280;
/// Kernel buffers of each socket; the kernel grants what `net.core.rmem_max` allows.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// How long a full send buffer is waited for before a datagram is given up.
const SEND_PATIENCE_MILLISECONDS: i32 = 10;

/// All UDP sockets of a daemon.
pub(super) struct UdpSockets {
    sockets: Vec<Rc<UdpSocket>>,
    inbox: Rc<Inbox>,
}

struct UdpSocket {
    descriptor: AsyncFd<Socket>,
    local: SocketAddr,
    queue: RefCell<Vec<(Flow, Bytes)>>,
}

/// Opens and binds a socket as the daemon will use it; `device` binds it to an interface.
pub(super) fn bind(address: SocketAddr, device: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    Ok(socket)
}

impl UdpSockets {
    /// Binds the sockets and starts to read them. Each address comes with the interface that it is
    /// bound to, if any.
    pub fn open(
        addresses: &[(SocketAddr, Option<String>)],
        inbox: &Rc<Inbox>,
    ) -> Result<UdpSockets, String> {
        let buffers = Rc::new(RefCell::new(vec![0; BATCH * DATAGRAM_BYTES]));
        let mut sockets = Vec::new();
        for (address, device) in addresses {
            let named = |error: io::Error| format!("sip udp {address}: cannot be bound: {error}");
            let socket = bind(*address, device.as_deref()).map_err(named)?;
            prepare(&socket, *address).map_err(named)?;
            let local = socket
                .local_addr()
                .map_err(named)?
                .as_socket()
                .expect("the socket was made for IPv4 or IPv6");
            let interest = Interest::READABLE | Interest::ERROR;
            // SAFETY: a `Socket` keeps its descriptor open, and the same, as long as it lives.
            let descriptor = unsafe { AsyncFd::register_with_interest(socket, interest) }
                .map_err(|error| named(error.into()))?;
            let socket = Rc::new(UdpSocket { descriptor, local, queue: RefCell::default() });
            tokio::task::spawn_local(read(socket.clone(), inbox.clone(), buffers.clone()));
            sockets.push(socket);
        }
        Ok(UdpSockets { sockets, inbox: inbox.clone() })
    }

    /// Queues a datagram for [`UdpSockets::flush`].
    pub fn send(&self, flow: Flow, bytes: Bytes) {
        match self.socket_for(flow.local) {
            Some(socket) => socket.queue.borrow_mut().push((flow, bytes)),
            None => {
                tracing::warn!(local = %flow.local, "no UDP socket has this local address");
                count(&self.inbox.counts.send_errors_udp);
                self.inbox.push(Input::Unreachable { flow });
            }
        }
    }

    /// Sends what is queued.
    pub fn flush(&self) {
        for socket in &self.sockets {
            let mut queue = socket.queue.borrow_mut();
            if queue.is_empty() {
                continue;
            }
            if socket.local.ip().is_unspecified() {
                send_one_by_one(socket, &queue, &self.inbox);
            } else {
                send_batches(socket, &queue, &self.inbox);
            }
            queue.clear();
        }
    }

    /// The socket of that address, else the wildcard one of that port; port 0 means any socket.
    fn socket_for(&self, local: SocketAddr) -> Option<&Rc<UdpSocket>> {
        let exact = self.sockets.iter().find(|socket| socket.local == local);
        exact.or_else(|| {
            self.sockets.iter().find(|socket| {
                let is_wild = |address: SocketAddr| address.ip().is_unspecified();
                socket.local.is_ipv4() == local.is_ipv4()
                    && (local.port() == 0 || socket.local.port() == local.port())
                    && (is_wild(socket.local)
                        || is_wild(local)
                        || (local.port() == 0 && socket.local.ip() == local.ip()))
            })
        })
    }
}

fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    send_fragments(socket, address)?;
    if address.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
        if address.ip().is_unspecified() {
            setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
        }
    } else {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
        if address.ip().is_unspecified() {
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    }
    Ok(())
}

/// A datagram longer than the path takes leaves in fragments: a response has no second transport to
/// turn to (RFC 3261 §18.2.2), and one that waits for path MTU discovery is lost once for each
/// phone. IPv6: fragments of the minimum MTU, since only the sender may make them (RFC 8200 §5).
fn send_fragments(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let (level, name, value) = if address.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU, IPV6_MINIMUM_MTU)
    };
    // SAFETY: the option takes an int, which outlives the call.
    let done = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

async fn read(socket: Rc<UdpSocket>, inbox: Rc<Inbox>, buffers: Rc<RefCell<Vec<u8>>>) {
    loop {
        inbox.room().await;
        let ready = socket.descriptor.ready(Interest::READABLE | Interest::ERROR).await;
        let Ok(mut guard) = ready else {
            tracing::error!(local = %socket.local, "UDP socket cannot be waited for");
            return;
        };
        let was_error = guard.ready().is_error();
        if was_error {
            receive_errors(&socket, &inbox);
        }
        match receive(&socket, &inbox, &mut buffers.borrow_mut()) {
            Ok(count) if count == BATCH => {}
            Ok(_) | Err(Errno::EAGAIN) => guard.clear_ready(),
            // An ICMP error that is reported once more by the call; its details came above.
            Err(_) => receive_errors(&socket, &inbox),
        }
    }
}

/// One batch of datagrams; how many there were.
fn receive(socket: &UdpSocket, inbox: &Inbox, buffers: &mut [u8]) -> Result<usize, Errno> {
    let is_wild = socket.local.ip().is_unspecified();
    let control = is_wild.then(|| nix::cmsg_space!(libc::in6_pktinfo));
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, control);
    let mut slices: Vec<[IoSliceMut<'_>; 1]> =
        buffers.chunks_mut(DATAGRAM_BYTES).map(|chunk| [IoSliceMut::new(chunk)]).collect();
    let descriptor = socket.descriptor.get_ref().as_raw_fd();
    let messages =
        recvmmsg(descriptor, &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
    let mut received = 0;
    for message in messages {
        received += 1;
        let Some(remote) = message.address.and_then(|address| socket_address(&address)) else {
            continue;
        };
        let mut local = socket.local;
        if is_wild && let Ok(controls) = message.cmsgs() {
            for control in controls {
                if let Some(address) = destination(&control) {
                    local.set_ip(address);
                }
            }
        }
        let Some(bytes) = message.iovs().next() else { continue };
        let flow = Flow { transport: Transport::Udp, local, remote };
        inbox.push(Input::Sip { flow, bytes: Bytes::copy_from_slice(bytes) });
    }
    Ok(received)
}

/// ICMP errors wait in a queue of their own, each with the destination that caused it (RFC 3261 §18.4).
fn receive_errors(socket: &UdpSocket, inbox: &Inbox) {
    loop {
        let mut bytes = [0u8; 0];
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let descriptor = socket.descriptor.get_ref().as_raw_fd();
        let received =
            recvmsg::<SockaddrStorage>(descriptor, &mut slices, Some(&mut control), flags);
        let Ok(message) = received else { return };
        let Some(remote) = message.address.and_then(|address| socket_address(&address)) else {
            continue;
        };
        let Ok(mut controls) = message.cmsgs() else { continue };
        let error = controls.find_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, _) => Some(error),
            ControlMessageOwned::Ipv6RecvErr(error, _) => Some(error),
            _ => None,
        });
        // Too big is the business of fragmentation, not an unreachable peer.
        if error.is_some_and(|error| error.ee_errno as i32 != libc::EMSGSIZE) {
            let flow = Flow { transport: Transport::Udp, local: socket.local, remote };
            count(&inbox.counts.send_errors_udp);
            inbox.push(Input::Unreachable { flow });
        }
    }
}

fn send_batches(socket: &UdpSocket, queue: &[(Flow, Bytes)], inbox: &Inbox) {
    let descriptor = socket.descriptor.get_ref().as_raw_fd();
    let mut sent = 0;
    let mut retries = 0;
    while sent < queue.len() {
        let batch = &queue[sent..queue.len().min(sent + BATCH)];
        let slices: Vec<[IoSlice<'_>; 1]> =
            batch.iter().map(|(_, bytes)| [IoSlice::new(bytes)]).collect();
        let addresses: Vec<Option<SockaddrStorage>> =
            batch.iter().map(|(flow, _)| Some(flow.remote.into())).collect();
        let mut headers = MultiHeaders::preallocate(batch.len(), None);
        let flags = MsgFlags::MSG_DONTWAIT;
        let controls: [ControlMessage<'_>; 0] = [];
        let result = sendmmsg(descriptor, &mut headers, slices.iter(), addresses, controls, flags);
        match result.map(|results| results.count()) {
            Ok(count) if count > 0 => {
                sent += count;
                retries = 0;
            }
            Ok(_) => return,
            Err(error) => {
                if !try_again(socket, error, &mut retries, inbox) {
                    give_up(batch[0].0, error, inbox);
                    sent += 1;
                    retries = 0;
                }
            }
        }
    }
}

/// Through a wildcard socket the source address of each datagram is told to the kernel.
fn send_one_by_one(socket: &UdpSocket, queue: &[(Flow, Bytes)], inbox: &Inbox) {
    for (flow, bytes) in queue {
        let mut retries = 0;
        while let Err(error) = send_from(socket, *flow, bytes) {
            if !try_again(socket, error, &mut retries, inbox) {
                give_up(*flow, error, inbox);
                break;
            }
        }
    }
}

fn send_from(socket: &UdpSocket, flow: Flow, bytes: &Bytes) -> Result<usize, Errno> {
    let slices = [IoSlice::new(bytes)];
    let descriptor = socket.descriptor.get_ref().as_raw_fd();
    let flags = MsgFlags::MSG_DONTWAIT;
    match (flow.local.ip(), flow.remote) {
        (IpAddr::V4(source), SocketAddr::V4(remote)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(source).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(descriptor, &slices, &control, flags, Some(&SockaddrIn::from(remote)))
        }
        (IpAddr::V6(source), SocketAddr::V6(remote)) => {
            let info = libc::in6_pktinfo {
                ipi6_ifindex: 0,
                ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
            };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(descriptor, &slices, &control, flags, Some(&SockaddrIn6::from(remote)))
        }
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// A full buffer is waited for; an error of an earlier datagram is taken out of the way once.
fn try_again(socket: &UdpSocket, error: Errno, retries: &mut u32, inbox: &Inbox) -> bool {
    *retries += 1;
    match error {
        Errno::EINTR => true,
        Errno::EAGAIN if *retries == 1 => {
            let descriptor = socket.descriptor.get_ref().as_raw_fd();
            let mut wait = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
            // SAFETY: one entry that outlives the call.
            unsafe { libc::poll(&raw mut wait, 1, SEND_PATIENCE_MILLISECONDS) > 0 }
        }
        Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH if *retries == 1 => {
            receive_errors(socket, inbox);
            true
        }
        _ => false,
    }
}

fn give_up(flow: Flow, error: Errno, inbox: &Inbox) {
    tracing::debug!(?flow, %error, "datagram not sent");
    count(&inbox.counts.send_errors_udp);
    // A full buffer is a lost datagram: retransmission deals with it.
    if error != Errno::EAGAIN {
        inbox.push(Input::Unreachable { flow });
    }
}

fn destination(control: &ControlMessageOwned) -> Option<IpAddr> {
    match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::V4(u32::from_be(info.ipi_addr.s_addr).into()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(IpAddr::V6(info.ipi6_addr.s6_addr.into()))
        }
        _ => None,
    }
}

/// The address in the form that flows are compared in: no flow label, a scope only for link-local.
pub(super) fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(address) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*address).into());
    }
    let address = SocketAddrV6::from(*address.as_sockaddr_in6()?);
    Some(SocketAddrV6::new(*address.ip(), address.port(), 0, address.scope_id()).into())
}
