//! How requests of our own reach a hop (RFC 3263 §4).

use std::net::{IpAddr, SocketAddr};

use common::node::{Flow, Transport};
use common::sip::endpoint::{Segment, Target};
use common::sip::locate::{AddressFamilies, Hop, Preference};
use common::sip::uri::HostPort;

use crate::Scscf;
use crate::config::Listen;

impl Scscf {
    /// From the first listening address of that transport and family, over TCP from any port of it.
    /// `None` when there is none.
    pub(crate) fn target(&self, hop: Hop) -> Option<Target> {
        let listen = self.config.sip.listen.of(hop.transport);
        let own = *listen.iter().find(|own| own.is_ipv4() == hop.address.is_ipv4())?;
        let local = match hop.transport {
            Transport::Udp => own,
            Transport::Tcp => SocketAddr::new(own.ip(), 0),
        };
        let flow = Flow { transport: hop.transport, local, remote: hop.address };
        let sent_by = HostPort { host: self.own.host.clone(), port: Some(own.port()) };
        Some(Target { flow, tcp_local_port: 0, sent_by, segment: Segment::Core })
    }
}

/// Only families and transports that we listen on.
pub fn preference(listen: &Listen) -> Preference {
    let has = |is_of_family: fn(&IpAddr) -> bool| {
        listen.udp.iter().chain(&listen.tcp).any(|own| is_of_family(&own.ip()))
    };
    let families = match (has(IpAddr::is_ipv4), has(IpAddr::is_ipv6)) {
        (true, true) => AddressFamilies::Both,
        (false, true) => AddressFamilies::V6,
        _ => AddressFamilies::V4,
    };
    let transports = [Transport::Udp, Transport::Tcp];
    let transports =
        transports.into_iter().filter(|transport| !listen.of(*transport).is_empty()).collect();
    Preference { families, transports }
}
