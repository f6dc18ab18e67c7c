//! Keep-alives of a phone in clear behind a NAT (RFC 6223, RFC 5626 §4.4.2): STUN Binding requests, as often as
//! the P-CSCF says.
//!
//! 1. `keeps_alive`        the 200 says how often
//! 2. `send_keep_alive`    one, repeated a few times
//! 3. `on_keep_alive`      its answer, which tells what the phone looks like from outside
//!
//! One that is not answered, or is answered with another address, means that the way which was registered is gone: the
//! phone registers again, by the new one, and subscribes anew, for what was on its way to the old one is lost
//! (RFC 5626 §4.4).

use std::net::SocketAddr;
use std::time::Duration;

use common::node::{Flow, Now, Transport};
use common::sip::header::Name;
use common::sip::keep_alive::{KeepAlive, binding_request, mapped_address};
use common::sip::message::Response;
use common::sip::via::Via;

use crate::packets;
use crate::phone::{Output, Phone};
use crate::register::Timer;

/// RFC 5389 §7.2.1: the first wait for an answer; each further one is twice as long.
const ANSWER_WAIT: Duration = Duration::from_millis(500);
/// How often a request goes out before the way is given up. RFC 5389 has seven, for half a minute; the phone would rather
/// register again.
const TRIES: u32 = 4;

/// The way that is kept open.
#[derive(Debug)]
pub struct Way {
    /// Longest time between two of them.
    interval: Duration,
    /// What the phone looks like from outside, once it has been told.
    mapped: Option<SocketAddr>,
    /// The request that waits, and how often it went out.
    waiting: Option<([u8; 12], u32)>,
}

impl Phone {
    /// RFC 6223 §4.2: whether a REGISTER asks how often.
    pub(crate) fn asks_to_keep_alive(&self) -> bool {
        self.has_nat() && !self.is_protecting() && self.config.transport == Transport::Udp
    }

    /// RFC 6223 §4.4: `keep` in the phone's own Via has a number.
    pub(crate) fn keeps_alive(&mut self, now: Now, response: &Response) {
        let via = response.headers().values(Name::Via).next().and_then(|via| Via::parse(via).ok());
        let via = via.filter(|via| via.transport.eq_ignore_ascii_case("UDP"));
        let seconds = via.and_then(|via| via.parameter("keep")?.parse::<u32>().ok());
        match seconds.filter(|seconds| *seconds > 0 && self.asks_to_keep_alive()) {
            Some(seconds) => {
                let interval = Duration::from_secs(u64::from(seconds));
                self.way = Some(Way { interval, mapped: None, waiting: None });
                self.next_keep_alive(now);
            }
            None => self.leave_way(),
        }
    }

    /// Nothing is registered that it leads to.
    pub(crate) fn leave_way(&mut self) {
        self.way = None;
        self.timers.stop(&Timer::KeepAlive);
    }

    /// RFC 5626 §4.4.2: between 80 and 100 % of the interval.
    fn next_keep_alive(&mut self, now: Now) {
        let Some(way) = &self.way else { return };
        let millis = way.interval.as_millis() as u64;
        let part = millis * 4 / 5 + self.random.below(millis / 5 + 1);
        self.timers.set(Timer::KeepAlive, now + Duration::from_millis(part));
    }

    /// The next request, the same one again, or the end of the way.
    pub(crate) fn send_keep_alive(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(way) = &mut self.way else { return };
        let (transaction, tries) = match way.waiting {
            Some((_, tries)) if tries >= TRIES => {
                return self.take_another_way(now, out);
            }
            Some((transaction, tries)) => (transaction, tries),
            None => (self.random.bytes(), 0),
        };
        way.waiting = Some((transaction, tries + 1));
        self.timers.set(Timer::KeepAlive, now + ANSWER_WAIT * (1 << tries));
        let local = SocketAddr::new(self.config.own_address(), self.config.unprotected_port);
        let request = binding_request(transaction);
        if let Some(packet) = packets::datagram(local, self.pcscf_address(), &request) {
            self.emit(packet, out);
        }
    }

    /// True for a datagram that is none of SIP.
    pub(crate) fn on_keep_alive(
        &mut self,
        now: Now,
        flow: Flow,
        datagram: &[u8],
        out: &mut Vec<Output>,
    ) -> bool {
        let waiting = self.way.as_ref().and_then(|way| way.waiting);
        let mapped = waiting.and_then(|(transaction, _)| mapped_address(datagram, &transaction));
        let (Some(mapped), Some(way)) = (mapped, &mut self.way) else {
            return KeepAlive::read(datagram, flow.remote) == Some(KeepAlive::Silent);
        };
        way.waiting = None;
        match way.mapped.replace(mapped).is_some_and(|before| before != mapped) {
            true => self.take_another_way(now, out),
            false => self.next_keep_alive(now),
        }
        true
    }

    /// Each identity, for each has a Path of its own.
    fn take_another_way(&mut self, now: Now, out: &mut Vec<Output>) {
        self.leave_way();
        for identity in self.registrations.keys().copied().collect::<Vec<_>>() {
            self.unwatch(identity);
            self.register_when_free(now, identity, out);
        }
    }
}
