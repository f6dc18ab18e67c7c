//! How requests of our own reach a hop (RFC 3263 §4).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::node::{Flow, Now, Transport};
use common::sip::endpoint::{Segment, Target};
use common::sip::locate::{AddressFamilies, Hop, Preference};
use common::sip::uri::HostPort;

use crate::Scscf;
use crate::config::Listen;

impl Scscf {
    /// RFC 3263 §4.3: the next place of a request that began then, and for how long it may be silent: those behind
    /// it shall have their share of the time, too. `None` when no place is left, or no time.
    pub(crate) fn next_try(
        &self,
        now: Now,
        began: Now,
        untried: &mut VecDeque<Hop>,
    ) -> Option<(Hop, Target, Duration)> {
        while let Some(hop) = untried.pop_front() {
            let Some(target) = self.target(hop) else { continue };
            let left = self.config.timeouts.watcher().saturating_sub(now.since(began));
            let share = left / (untried.len() as u32 + 1);
            return (!share.is_zero()).then_some((hop, target, share));
        }
        None
    }

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
