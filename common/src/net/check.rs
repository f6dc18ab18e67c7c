//! `--check`: what configuration and host lack, one line each with the way to mend it. Changes
//! nothing.

use std::io;
use std::net::SocketAddr;

use super::run::protected;
use super::{PlaneChoice, Shell, http, plane, store, stream, udp};
use crate::node::Transport;

/// One line for each missing thing.
pub(super) fn missing(shell: &Shell) -> Vec<String> {
    let mut missing = Vec::new();
    for listen in &shell.sip {
        let (result, name) = match listen.transport {
            Transport::Udp => (udp::bind(listen.address, None).map(drop), "sip udp"),
            Transport::Tcp => (stream::check_listen(listen.address), "sip tcp"),
        };
        missing.extend(unbound(name, listen.address, result));
    }
    if let Some(address) = shell.diameter_listen {
        let result = stream::check_listen(address);
        missing.extend(unbound("diameter tcp", address, result));
    }
    if let Some(address) = shell.diameter_local {
        let address = SocketAddr::new(address, 0);
        missing.extend(unbound("diameter local", address, stream::check_listen(address)));
    }
    if std::env::var_os(http::DESCRIPTOR_VARIABLE).is_none()
        && let Some(address) = shell.http.listen
    {
        missing.extend(unbound("http.listen", address, stream::check_listen(address)));
    }
    if let Some(path) = &shell.store {
        missing.extend(store::check(path).err());
    }
    if let Some(choice) = shell.ipsec {
        missing.extend(plane::check(choice, &protected(shell)).err());
    }
    missing
}

/// What else is worth knowing: which data plane would be used.
pub(super) fn notes(shell: &Shell) -> Vec<String> {
    let note = |choice: PlaneChoice| plane::check(choice, &protected(shell)).ok();
    shell.ipsec.and_then(note).into_iter().collect()
}

fn unbound(name: &str, address: SocketAddr, result: io::Result<()>) -> Option<String> {
    let error = result.err()?;
    let way = match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            format!("give {} to an interface of this host, or configure another", address.ip())
        }
        io::ErrorKind::AddrInUse => "stop what listens there, or configure another port".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "use a port from 1024 on, or grant CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => "configure another address".to_owned(),
    };
    Some(format!("{name} {address}: cannot be bound: {error}; {way}"))
}
