//! `--check`: what configuration and host lack, one line each with the way to mend it. Changes
//! nothing.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::run::protected;
use super::{PlaneConfig, Shell, http, plane, store, stream, udp};
use crate::node::Transport;

/// One line for each missing thing.
pub(super) fn missing(shell: &Shell) -> Vec<String> {
    let mut missing = unbound(&sockets(shell));
    if let Some(path) = &shell.store {
        missing.extend(store::check(path).err());
    }
    if let Some(config) = &shell.ipsec {
        missing.extend(plane::check(config, &protected(shell)).err());
    }
    missing
}

/// A socket of the configuration, and whether it can be bound.
struct Socket {
    name: &'static str,
    address: SocketAddr,
    result: io::Result<()>,
}

fn sockets(shell: &Shell) -> Vec<Socket> {
    let tcp = |name, address| Socket { name, address, result: stream::check_listen(address) };
    let mut sockets: Vec<Socket> = shell
        .sip
        .iter()
        .map(|listen| match listen.transport {
            Transport::Tcp => tcp("sip tcp", listen.address),
            Transport::Udp => {
                let result = udp::bind(listen.address, None).map(drop);
                Socket { name: "sip udp", address: listen.address, result }
            }
        })
        .collect();
    sockets.extend(shell.diameter_listen.map(|address| tcp("diameter tcp", address)));
    let local = shell.diameter_local.map(|address| SocketAddr::new(address, 0));
    sockets.extend(local.map(|address| tcp("diameter local", address)));
    if std::env::var_os(http::DESCRIPTOR_VARIABLE).is_none() {
        sockets.extend(shell.http.listen.map(|address| tcp("http.listen", address)));
    }
    sockets
}

/// A missing address is one thing, however many sockets want it.
fn unbound(sockets: &[Socket]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut absent: BTreeMap<IpAddr, Vec<&Socket>> = BTreeMap::new();
    for socket in sockets {
        let Err(error) = &socket.result else { continue };
        let way = match error.kind() {
            io::ErrorKind::AddrNotAvailable => {
                absent.entry(socket.address.ip()).or_default().push(socket);
                continue;
            }
            io::ErrorKind::AddrInUse => "stop what listens there, or configure another port",
            io::ErrorKind::PermissionDenied => {
                "use a port from 1024 on, or grant CAP_NET_BIND_SERVICE"
            }
            _ => "configure another address",
        };
        let Socket { name, address, .. } = socket;
        lines.push(format!("{name} {address}: cannot be bound: {error}; {way}"));
    }
    for (ip, sockets) in absent {
        let first = format!("{} {}", sockets[0].name, sockets[0].address);
        let more = match sockets.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        lines.push(format!(
            "{first}{more}: this host has no address {ip}; give it to an interface, or configure \
             another"
        ));
    }
    lines
}

/// What else is worth knowing: which data plane would be used.
pub(super) fn notes(shell: &Shell) -> Vec<String> {
    let note = |config: &PlaneConfig| plane::check(config, &protected(shell)).ok();
    shell.ipsec.as_ref().and_then(note).into_iter().collect()
}
