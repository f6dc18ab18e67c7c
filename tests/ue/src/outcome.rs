//! How a registration procedure ends (TS 24.229 §5.1.1.2.1, §5.1.1.4.1, §5.1.1.6).

use std::net::SocketAddr;
use std::time::Duration;

use common::ipsec::sa::SaSet;
use common::node::{Flow, Now, Transport};
use common::sip::address::Address;
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::message::Response;
use common::sip::uri::HostPort;

use crate::event::{Cause, Event, Kind};
use crate::phone::{Output, Phone, Trace};
use crate::register::{Attempt, Registration, Timer, seconds};
use crate::request::algorithm_of;

/// Back-off after failed initial registrations (RFC 5626 §4.5).
const BACK_OFF_BASE_SECONDS: u64 = 30;
const BACK_OFF_MAX_SECONDS: u64 = 1800;

impl Phone {
    /// TS 24.229 §5.1.1.2.1, §5.1.1.4.1, §5.1.1.6: a 2xx.
    pub(crate) fn on_success(
        &mut self,
        now: Now,
        response: &Response,
        out: &mut Vec<Output>,
    ) -> Result<(), Cause> {
        let Some(attempt) = &self.attempt else { return Ok(()) };
        if !is_network_authentic(attempt, response) {
            return Err(Cause::NetworkNotAuthentic);
        }
        if attempt.kind == Kind::Deregistration {
            self.deregistered(now, out);
            return Ok(());
        }
        let path = attempt.path();
        let port = path.and_then(|id| self.sets.get(id)).map(|set| set.esp.set().ports.us);
        let port = port.unwrap_or(self.config.unprotected_port);
        let own = self.config.contact(port);
        let contact = own_contact(response, &own);
        let contact = contact.ok_or(Cause::NotBound)?;
        let granted_seconds =
            contact.expires_seconds().or_else(|| seconds(response, Name::Expires)).unwrap_or(3600);
        if granted_seconds == 0 {
            return Err(Cause::NotBound);
        }
        let Some(attempt) = self.attempt.take() else { return Ok(()) };
        self.timers.stop(&Timer::Emergency(attempt.identity));
        let granted = Duration::from_secs(u64::from(granted_seconds));
        self.take_into_use(now, &attempt, granted, out);
        if attempt.password.is_some() || self.has_password() {
            self.credentials = Some(attempt.authorization);
        }
        self.failures = 0;
        let list = |name| response.headers().values(name).map(str::to_owned).collect();
        let parameter = |name| contact.parameter(name).map(str::to_owned);
        let registration = Registration {
            call_id: attempt.call_id,
            from_tag: attempt.from_tag,
            cseq: attempt.cseq,
            expires_at: now + granted,
            contact: own,
            is_protected: path.is_some(),
            is_refused: false,
            half_at: now + granted / 2,
            associated: list(Name::PAssociatedUri),
            service_route: list(Name::ServiceRoute),
            path: list(Name::Path),
            public_gruu: parameter("pub-gruu"),
            temporary_gruu: parameter("temp-gruu"),
        };
        let identity = attempt.identity;
        self.registrations.insert(identity, registration);
        self.timers.set(Timer::Expiry(identity), now + granted);
        if self.is_persistent() {
            self.timers.set(Timer::Refresh(identity), now + refresh_after(granted));
        }
        self.keeps_alive(now, response);
        out.push(Output::Event(Event::Registered {
            identity,
            kind: attempt.kind,
            granted_seconds,
            is_authenticated: attempt.password.is_some(),
            is_protected: path.is_some(),
        }));
        let is_to_wait = self.timers.at(&Timer::Watch(identity)).is_some();
        let is_watched = self.watches.contains_key(&identity) || is_to_wait;
        if attempt.kind == Kind::Initial || !is_watched {
            self.watch(now, identity, out);
        }
        self.next_command(now, out);
        Ok(())
    }

    /// TS 33.203 §7.4: the temporary set is the one in use, or the set in use lives longer.
    fn take_into_use(
        &mut self,
        now: Now,
        attempt: &Attempt,
        granted: Duration,
        out: &mut Vec<Output>,
    ) {
        let Some(set) = attempt.temporary else {
            self.sets.extend(now, granted);
            return;
        };
        let is_initial = attempt.over.is_none();
        for gone in self.sets.promote(now, set, granted, is_initial) {
            self.remove_set(gone, out);
        }
        if let Some(ends_at) = self.sets.get(set).map(|set| set.ends_at) {
            out.push(Output::Trace(Trace::SetInUse { set, ends_at }));
        }
    }

    /// TS 24.229 §5.1.1.6: with the last identity go the associations, once nothing uses them.
    fn deregistered(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(attempt) = self.attempt.take() else { return };
        let identity = attempt.identity;
        if attempt.temporary.is_some() {
            self.take_into_use(now, &attempt, Duration::ZERO, out);
            self.credentials = Some(attempt.authorization);
        }
        self.forget_registration(identity);
        if self.registrations.is_empty() {
            self.sets.retire_all(now);
            self.credentials = None;
        }
        out.push(Output::Event(Event::Deregistered { identity }));
        self.next_command(now, out);
    }

    /// The one exit of failures. The temporary set goes, established ones stay (TS 24.229 §5.1.1.5.1).
    pub(crate) fn fail(
        &mut self,
        now: Now,
        cause: Cause,
        retry_after_seconds: Option<u32>,
        out: &mut Vec<Output>,
    ) {
        if let Some(attempt) = &self.attempt
            && attempt.kind == Kind::Deregistration
            && cause == Cause::Refused(481)
        {
            // The network knows nothing of the contact: that is what was wanted.
            return self.deregistered(now, out);
        }
        self.drop_temporary(out);
        let Some(attempt) = self.attempt.take() else { return };
        let Attempt { kind, identity, over, .. } = attempt;
        self.timers.stop(&Timer::Emergency(identity));
        if let Some(known) = self.registrations.get_mut(&identity)
            && known.call_id == attempt.call_id
        {
            // The registrar has seen this number, and takes only higher ones.
            known.cseq = attempt.cseq;
            known.is_refused |= matches!(cause, Cause::Refused(403) | Cause::InvalidChallenges);
        }
        let retry_at = self.retry_at(now, kind, cause, retry_after_seconds);
        let calls_unregistered = self.config.is_emergency && kind == Kind::Initial;
        let failed = Event::Failed { identity, kind, cause, retry_at, calls_unregistered };
        out.push(Output::Event(failed));

        let is_silent = matches!(cause, Cause::Timeout | Cause::Unreachable);
        if is_silent && let Some(set) = over {
            // The associations are dead, and with them what was registered by them.
            let flows = self.sets.get(set).map(|set| request_flows(set.esp.set()));
            self.remove_set(set, out);
            if kind == Kind::Deregistration {
                // Nobody wants it back.
                self.forget_registration(identity);
            }
            self.lose_registrations(now, out);
            for flow in flows.into_iter().flatten() {
                // Transactions that wait there wait in vain.
                self.on_unreachable(now, flow, out);
            }
        }
        let is_lost = is_silent || matches!(cause, Cause::Refused(408 | 500 | 504));
        let is_elsewhere = cause == Cause::Refused(305);
        if kind == Kind::Refresh && !is_silent && (is_lost || is_elsewhere) {
            // TS 24.229 §5.1.1.4.1: what comes next is an initial registration, whenever that may be.
            self.forget_registration(identity);
        }
        let is_next = match kind {
            Kind::Initial => is_lost || is_elsewhere,
            Kind::Refresh => is_silent || is_elsewhere,
            Kind::Deregistration => false,
        };
        if is_next {
            self.pcscf = (self.pcscf + 1) % self.config.pcscfs.len().max(1);
        }
        match retry_at {
            Some(at) if at <= now => self.begin(now, Kind::Initial, identity, None, out),
            Some(at) => self.timers.set(Timer::Retry(identity), at),
            None => self.next_command(now, out),
        }
    }

    /// When the phone tries again: `now` means an initial registration at once
    /// (TS 24.229 §5.1.1.2.1, §5.1.1.4.1).
    fn retry_at(
        &mut self,
        now: Now,
        kind: Kind,
        cause: Cause,
        retry_after_seconds: Option<u32>,
    ) -> Option<Now> {
        let may_help = match cause {
            Cause::Timeout | Cause::Unreachable => true,
            Cause::Refused(status) => matches!(status, 305 | 408 | 480 | 500 | 503 | 504),
            _ => false,
        };
        if !self.is_persistent() || kind == Kind::Deregistration || !may_help {
            return None;
        }
        if let Some(seconds) = retry_after_seconds {
            return Some(now + Duration::from_secs(u64::from(seconds.max(1))));
        }
        let is_dead = !matches!(cause, Cause::Refused(305 | 480 | 503));
        if kind == Kind::Refresh && is_dead {
            return Some(now);
        }
        self.failures += 1;
        // What another P-CSCF may do it is asked at once, until all have been asked.
        let pcscfs = self.config.pcscfs.len().max(1) as u32;
        let is_for_another = is_dead || cause == Cause::Refused(305);
        if is_for_another && !self.failures.is_multiple_of(pcscfs) {
            return Some(now);
        }
        let factor = 1 << self.failures.div_ceil(pcscfs).min(6);
        let upper = (BACK_OFF_BASE_SECONDS * factor).min(BACK_OFF_MAX_SECONDS) * 1000;
        Some(now + Duration::from_millis(upper / 2 + self.random.below(upper / 2 + 1)))
    }

    /// TS 24.229 §5.1.1.4.1: what was registered by associations that are dead is registered no
    /// more.
    pub(crate) fn lose_registrations(&mut self, now: Now, out: &mut Vec<Output>) {
        let identities: Vec<usize> = self
            .registrations
            .iter()
            .filter(|(_, registration)| registration.is_protected)
            .map(|(identity, _)| *identity)
            .collect();
        for identity in identities {
            self.forget_registration(identity);
            out.push(Output::Event(Event::Lost { identity }));
            if self.is_persistent() {
                self.timers.set(Timer::Retry(identity), now);
            }
        }
    }

    pub(crate) fn forget_registration(&mut self, identity: usize) {
        self.registrations.remove(&identity);
        if self.registrations.is_empty() {
            self.leave_way();
        }
        self.unwatch(identity);
        for timer in [Timer::Refresh(identity), Timer::Expiry(identity), Timer::Retry(identity)] {
            self.timers.stop(&timer);
        }
    }
}

/// Where requests of the phone wait for answers in that set; by TCP first, as one that fails there goes on by UDP.
fn request_flows(set: &SaSet) -> [Flow; 2] {
    let local = SocketAddr::new(set.ue, set.ports.uc);
    let remote = SocketAddr::new(set.pcscf, set.ports.ps);
    [Transport::Tcp, Transport::Udp].map(|transport| Flow { transport, local, remote })
}

/// TS 24.229 §5.1.1.4.1: 600 s before the end, or at half of a short registration.
pub(crate) fn refresh_after(granted: Duration) -> Duration {
    let seconds = granted.as_secs();
    if seconds > 1200 { Duration::from_secs(seconds - 600) } else { granted / 2 }
}

/// RFC 7616 §3.5: `rspauth`, where Authentication-Info has it, proves that the network knows the password.
fn is_network_authentic(attempt: &Attempt, response: &Response) -> bool {
    let Some(line) = response.headers().get(Name::AuthenticationInfo) else { return true };
    let Ok(info) = DigestParameters::parse(&format!("Digest {line}")) else { return true };
    let (Some(given), Some(password)) = (info.get("rspauth"), &attempt.password) else {
        return true;
    };
    let mut expected = attempt.authorization.clone();
    for name in ["qop", "nc", "cnonce"] {
        if let Some(value) = info.get(name) {
            expected.set(name, value);
        }
    }
    expected.set("response", given);
    let Some(algorithm) = algorithm_of(&expected) else { return false };
    let [username, realm] = ["username", "realm"].map(|name| expected.get(name).unwrap_or(""));
    let ha1 = algorithm.ha1(username, realm, password.expose());
    algorithm.verify(&expected, &ha1, "", response.body())
}

/// The Contact of a 200 that is this UE's.
fn own_contact(response: &Response, own: &HostPort) -> Option<Address> {
    response
        .headers()
        .values(Name::Contact)
        .filter_map(|text| Address::parse(text).ok())
        .find(|contact| contact.uri.host_port.as_ref() == Some(own))
}
