//! Silence at protected ports, for the plane in user space. Its protected sockets hear the TUN alone, so
//! the host's own TCP and UDP would answer clear text from the wire by a reset or by ICMP, and tell a
//! stranger which ports are in use (TS 33.203 §7.1: it is discarded).
//!
//! On every other interface each protected port has a socket of its own, whose filter takes nothing.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use nix::net::if_::if_nameindex;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// BPF: return 0 octets of the packet.
pub(super) const TAKE_NOTHING: SockFilter =
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);

/// Shuts these ports, UDP and TCP, on all interfaces that there are but `tun`, for as long as the sockets
/// live. An IPv6 address can be shut on its own interface only.
pub(super) fn shut(protected: &[SocketAddr], tun: &str) -> io::Result<Vec<Socket>> {
    let protected: BTreeSet<SocketAddr> = protected.iter().copied().collect();
    let mut sockets = Vec::new();
    for interface in if_nameindex()?.iter().map(|one| one.name()) {
        if interface.to_bytes() == tun.as_bytes() {
            continue;
        }
        for address in &protected {
            let udp = silent(*address, Type::DGRAM, Protocol::UDP, interface);
            let tcp = silent(*address, Type::STREAM, Protocol::TCP, interface);
            for socket in [udp, tcp] {
                match socket {
                    Ok(socket) => sockets.push(socket),
                    Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(sockets)
}

fn silent(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
    interface: &CStr,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.attach_filter(&[TAKE_NOTHING])?;
    // Before it is bound to the port, which the protected socket has on the TUN.
    socket.bind_device(Some(interface.to_bytes()))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        // Connections of an earlier run may linger at the port.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(1)?;
    }
    Ok(socket)
}
