//! The UDP sockets of port 4500, through which ESP comes from UEs behind a NAT (RFC 3948; TS 33.203
//! Annex M).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::ipsec::sa::UDP_ENCAPSULATION_PORT;

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

fn explain(address: Ipv4Addr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "; end the IKE daemon that has it, or bind it elsewhere",
        _ => "",
    };
    format!("ipsec.nat: UDP port {UDP_ENCAPSULATION_PORT} of {address}: {error}{advice}")
}
