//! Addresses of an S-CSCF (RFC 3263 §4): configured, remembered, or asked of the DNS.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use common::dns;
use common::node::{Flow, Now, Output, Transport};
use common::questions::QuestionId;
use common::sip::endpoint::{Segment, Target};
use common::sip::locate::{AddressFamilies, Hop, Preference};
use common::sip::uri::HostPort;

use crate::config::Listen;
use crate::{Icscf, register, session};

/// Addresses in the order to try them.
pub type Hops = VecDeque<Hop>;

/// What waits for the addresses of a server.
#[derive(Debug)]
pub enum OnLocated {
    Register(Box<register::Locating>),
    Session(Box<session::Locating>),
}

impl Icscf {
    /// RFC 3263 §4: the addresses of `uri`, delivered to `on_located`, at once where known.
    pub(crate) fn locate(&mut self, now: Now, uri: &str, wait: OnLocated, out: &mut Vec<Output>) {
        if let Some(hop) = self.selection.hop(uri) {
            return self.on_located(now, wait, Ok(VecDeque::from([hop])), out);
        }
        if let Some((wait, found)) = self.locator.locate(now, uri, wait, out) {
            self.on_located(now, wait, found, out);
        }
    }

    pub(crate) fn resolved(
        &mut self,
        now: Now,
        id: QuestionId,
        answer: dns::Answer,
        out: &mut Vec<Output>,
    ) {
        for (wait, found) in self.locator.resolved(now, id, answer, out) {
            self.on_located(now, wait, found, out);
        }
    }

    /// How a request gets to a hop: from the first listening address of that transport and family,
    /// over TCP from any port of it. `None` when there is none.
    pub(crate) fn target(&self, hop: Hop) -> Option<Target> {
        let listen = self.config.sip.listen.of(hop.transport);
        let fits = |own: &&SocketAddr| own.is_ipv4() == hop.address.is_ipv4();
        let own = *listen.iter().find(fits)?;
        let local = match hop.transport {
            Transport::Udp => own,
            Transport::Tcp => SocketAddr::new(own.ip(), 0),
        };
        let flow = Flow { transport: hop.transport, local, remote: hop.address };
        let sent_by = HostPort { host: self.own_host.clone(), port: Some(own.port()) };
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
