//! The UDP sockets of port 4500, through which ESP comes from UEs behind a NAT (RFC 3948; TS 33.203
//! Annex M).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use netlink_packet_xfrm::constants::UDP_ENCAP_ESPINUDP;
use socket2::{Domain, Protocol, Socket, Type};

use super::silence::TAKE_NOTHING;
use crate::ipsec::sa::UDP_ENCAPSULATION_PORT;

/// Option of UDP sockets in the kernel's linux/udp.h.
const UDP_ENCAP: libc::c_int = 100;

/// One for each IPv4 address that has protected ports.
pub(super) fn open(protected: &[SocketAddr]) -> Result<Vec<(Ipv4Addr, Socket)>, String> {
    addresses(protected)
        .into_iter()
        .map(|address| {
            let socket = open_one(address).map_err(|error| explain(address, &error))?;
            Ok((address, socket))
        })
        .collect()
}

/// The same for the kernel's ESP: what comes to these goes to its states, and what is no ESP is dropped
/// unseen.
pub(super) fn open_for_kernel(protected: &[SocketAddr]) -> Result<Vec<Socket>, String> {
    let sockets = open(protected)?.into_iter().map(|(address, socket)| {
        give_to_kernel(&socket)
            .and_then(|()| socket.attach_filter(&[TAKE_NOTHING]))
            .map_err(|error| format!("ipsec.nat: {address}: no ESP inside UDP: {error}"))?;
        Ok(socket)
    });
    sockets.collect()
}

/// Whether they could be opened; changes nothing.
pub(super) fn check(protected: &[SocketAddr]) -> Result<(), String> {
    open(protected).map(drop)
}

fn addresses(protected: &[SocketAddr]) -> BTreeSet<Ipv4Addr> {
    protected
        .iter()
        .filter_map(|address| match address.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect()
}

fn open_one(address: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(address.into(), UDP_ENCAPSULATION_PORT).into())?;
    Ok(socket)
}

fn give_to_kernel(socket: &Socket) -> io::Result<()> {
    let kind = libc::c_int::from(UDP_ENCAP_ESPINUDP);
    // SAFETY: the descriptor is open and the option's value is one int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_UDP,
            UDP_ENCAP,
            (&raw const kind).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn explain(address: Ipv4Addr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "; end the IKE daemon that has it, or bind it elsewhere",
        _ => "",
    };
    format!("ipsec.nat: UDP port {UDP_ENCAPSULATION_PORT} of {address}: {error}{advice}")
}
