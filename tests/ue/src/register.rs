//! The registration procedures of a UE (TS 24.229 §5.1.1).

use std::net::SocketAddr;
use std::time::Duration;

use common::aka::digest::{AkaNonce, DigestAlgorithm};
use common::aka::vector::CardAnswer;
use common::ipsec::sa::{Keys, SetId};
use common::node::Now;
use common::secret::Secret;
use common::sip::auth::DigestParameters;
use common::sip::endpoint::NoReply;
use common::sip::header::Name;
use common::sip::message::Response;
use common::sip::security::mechanisms;
use common::sip::uri::HostPort;

use crate::config::Authentication;
use crate::event::{Cause, Event, InvalidChallenge, Kind};
use crate::phone::{Output, Phone};
use crate::request::{self, Answer, Register};
use crate::sets::{self, Offered};

/// Invalid challenges that are answered before the UE gives up (TS 24.229 §5.1.1.5.3).
const INVALID_CHALLENGES: u8 = 2;
/// Right answers that were challenged again, and repeats with a new Call-ID or a longer interval.
const REPEATS: u8 = 3;
/// A connection inside associations that failed is opened again so often: after 0.5 s, 1 s, 2 s, then
/// every 4 s, about as long as a datagram would be repeated.
const RECONNECTS: u8 = 10;

/// A public identity that is registered.
#[derive(Clone, Debug)]
pub struct Registration {
    pub call_id: String,
    pub(crate) from_tag: String,
    pub(crate) cseq: u32,
    pub expires_at: Now,
    /// hostport of the Contact that is bound.
    pub contact: HostPort,
    pub is_protected: bool,
    /// A refresh was refused so that no attempt follows by itself (TS 24.229 §5.1.1.5.1, §5.1.1.5.3).
    pub(crate) is_refused: bool,
    /// From when on a refresh may be asked for; an emergency registration knows no other (TS 24.229 §5.1.6.4).
    pub(crate) half_at: Now,
    /// P-Associated-URI: the first one is the default public identity.
    pub associated: Vec<String>,
    /// Service-Route, topmost first.
    pub service_route: Vec<String>,
    /// Path, topmost first.
    pub path: Vec<String>,
    pub public_gruu: Option<String>,
    pub temporary_gruu: Option<String>,
}

impl Registration {
    /// The public GRUU and the last temporary one (RFC 5627 §4.2).
    pub fn gruus(&self) -> Option<(String, String)> {
        self.public_gruu.clone().zip(self.temporary_gruu.clone())
    }
}

/// What waits for an answer: the REGISTER of that number, or the SUBSCRIBE for an identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    Register(u64),
    Subscribe(usize, u64),
}

/// Timers, per identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Timer {
    /// Time to register again (TS 24.229 §5.1.1.4.1).
    Refresh(usize),
    Expiry(usize),
    Retry(usize),
    /// Time to subscribe again.
    Watch(usize),
    /// emerg-reg: an initial emergency registration has taken too long (TS 24.229 §5.1.6.2).
    Emergency(usize),
    /// The REGISTER of that number goes out again, on another connection.
    Reconnect(u64),
    /// Time for a keep-alive, or its answer has not come (RFC 5626 §4.4.2).
    KeepAlive,
}

/// The procedure that is running.
#[derive(Debug)]
pub struct Attempt {
    pub(crate) kind: Kind,
    pub(crate) identity: usize,
    serial: u64,
    pub(crate) call_id: String,
    pub(crate) from_tag: String,
    pub(crate) cseq: u32,
    expires_seconds: u32,
    /// The set that protects what is no answer to a challenge; `None` in clear.
    pub(crate) over: Option<SetId>,
    /// The temporary set, once a challenge is answered by it.
    pub(crate) temporary: Option<SetId>,
    offered: Option<Offered>,
    pub(crate) authorization: DigestParameters,
    /// What a challenge was answered with: what AKA gave, or the user's own.
    pub(crate) password: Option<Secret<Vec<u8>>>,
    invalid_challenges: u8,
    repeats: u8,
    reconnects: u8,
}

impl Attempt {
    /// The set by which the last REGISTER went; `None` in clear.
    pub(crate) fn path(&self) -> Option<SetId> {
        self.temporary.or(self.over)
    }

    /// That set is gone: what is still to be sent goes by the other one, or in clear.
    pub(crate) fn forget_set(&mut self, id: SetId) {
        for set in [&mut self.over, &mut self.temporary] {
            set.take_if(|set| *set == id);
        }
    }
}

impl Phone {
    /// TS 24.229 §5.1.1.2, §5.1.1.4: initial when nothing protects yet, else over the set in use.
    pub(crate) fn register(&mut self, now: Now, identity: usize, out: &mut Vec<Output>) {
        let known = self.registrations.get(&identity);
        let is_known = known.is_some();
        if self.keeps_emergency_rules() && known.is_some_and(|known| now < known.half_at) {
            return self.decline(identity, Kind::Refresh, Cause::EmergencyNotDue, out);
        }
        let kind = if is_known { Kind::Refresh } else { Kind::Initial };
        // With no identity registered the associations that are left are those of a registration that is
        // over: an initial REGISTER goes in clear, and makes its own (TS 24.229 §5.1.1.2.1).
        let over = self.sets.in_use().filter(|_| !self.registrations.is_empty());
        self.begin(now, kind, identity, over, out);
    }

    /// TS 24.229 §5.1.1.6
    pub(crate) fn deregister(&mut self, now: Now, identity: usize, out: &mut Vec<Output>) {
        self.timers.stop(&Timer::Retry(identity));
        if !self.registrations.contains_key(&identity) {
            return;
        }
        if self.keeps_emergency_rules() {
            return self.decline(identity, Kind::Deregistration, Cause::EmergencyStays, out);
        }
        self.begin(now, Kind::Deregistration, identity, self.sets.in_use(), out);
    }

    /// TS 24.229 §5.1.6.4, §5.1.6.6: an emergency registration is not refreshed in its first half, and not ended.
    fn keeps_emergency_rules(&self) -> bool {
        self.config.is_emergency && !self.config.faults.ends_emergency
    }

    /// It registers again, and tries again, without being told.
    pub(crate) fn is_persistent(&self) -> bool {
        self.config.automatic && !self.config.is_emergency
    }

    fn decline(&mut self, identity: usize, kind: Kind, cause: Cause, out: &mut Vec<Output>) {
        let (retry_at, calls_unregistered) = (None, false);
        let failed = Event::Failed { identity, kind, cause, retry_at, calls_unregistered };
        out.push(Output::Event(failed));
    }

    pub(crate) fn on_timer(&mut self, now: Now, timer: Timer, out: &mut Vec<Output>) {
        match timer {
            Timer::Refresh(identity) | Timer::Retry(identity) => {
                self.register_when_free(now, identity, out);
            }
            Timer::Watch(identity) if self.watches.contains_key(&identity) => {
                self.send_subscribe(now, identity, out);
            }
            Timer::Watch(identity) => self.watch(now, identity, out),
            Timer::KeepAlive => self.send_keep_alive(now, out),
            Timer::Emergency(identity) => {
                if self.attempt.as_ref().is_some_and(|attempt| attempt.identity == identity) {
                    self.fail(now, Cause::Timeout, None, out);
                }
            }
            Timer::Reconnect(serial) => {
                if let Some(attempt) = self.attempt.as_mut().filter(|it| it.serial == serial) {
                    attempt.cseq += 1;
                    self.send_register(now, out);
                }
            }
            Timer::Expiry(identity) => {
                let known = self.registrations.get(&identity);
                let is_refused = known.is_some_and(|known| known.is_refused);
                // Not before Retry-After is over (registration.md U-24).
                let retry_at = self.timers.at(&Timer::Retry(identity)).unwrap_or(now);
                self.forget_registration(identity);
                out.push(Output::Event(Event::Lost { identity }));
                if self.is_persistent() && !is_refused {
                    self.timers.set(Timer::Retry(identity), retry_at);
                }
            }
        }
    }

    /// One procedure at a time: the one that runs answers the question as well, or fails and leaves it to the
    /// expiry.
    pub(crate) fn register_when_free(&mut self, now: Now, identity: usize, out: &mut Vec<Output>) {
        match self.attempt.is_some() {
            true => self.timers.set(Timer::Retry(identity), now + Duration::from_secs(1)),
            false => self.register(now, identity, out),
        }
    }

    pub(crate) fn begin(
        &mut self,
        now: Now,
        kind: Kind,
        identity: usize,
        over: Option<SetId>,
        out: &mut Vec<Output>,
    ) {
        if identity >= self.config.isim.impus.len() {
            return;
        }
        self.timers.stop(&Timer::Retry(identity));
        self.timers.stop(&Timer::Refresh(identity));
        if self.config.is_emergency && kind == Kind::Initial {
            let ends = now + Duration::from_secs(self.config.emergency_seconds);
            self.timers.set(Timer::Emergency(identity), ends);
        }
        let known = self.registrations.get(&identity).filter(|_| kind != Kind::Initial);
        let (call_id, from_tag, cseq) = match known {
            Some(known) => (known.call_id.clone(), known.from_tag.clone(), known.cseq + 1),
            None => (self.new_call_id(), self.random.token(), self.first_cseq()),
        };
        let authorization = match (&self.credentials, over) {
            (Some(credentials), None) if self.has_password() => {
                self.used_again(credentials.clone())
            }
            (Some(credentials), Some(_)) => credentials.clone(),
            (Some(credentials), None) if kind != Kind::Initial => credentials.clone(),
            _ => request::empty_authorization(&self.config),
        };
        let expires_seconds =
            if kind == Kind::Deregistration { 0 } else { self.config.expires_seconds };
        self.attempt = Some(Attempt {
            kind,
            identity,
            serial: 0,
            call_id,
            from_tag,
            cseq,
            expires_seconds,
            over,
            temporary: None,
            offered: self.new_offer(),
            authorization,
            password: None,
            invalid_challenges: 0,
            repeats: 0,
            reconnects: 0,
        });
        self.send_register(now, out);
    }

    /// TS 24.229 §5.1.1.2.1
    fn send_register(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(attempt) = &mut self.attempt else { return };
        self.next_serial += 1;
        attempt.serial = self.next_serial;
        let path = attempt.path();
        let faults = self.config.faults;
        let set = path.and_then(|id| self.sets.get(id));
        let port = set.map_or(self.config.unprotected_port, |set| set.esp.set().ports.us);
        let mut security_verify = match set {
            Some(_) if faults.no_security_verify => Vec::new(),
            Some(set) => set.security_server.clone(),
            None => Vec::new(),
        };
        if faults.wrong_security_verify && attempt.temporary.is_some() {
            for line in &mut security_verify {
                *line = line.replacen("spi-c=", "spi-c=1", 1);
            }
        }
        let mut security_client =
            attempt.offered.as_ref().map(|offered| offered.security_client.clone());
        if faults.changed_security_client && attempt.temporary.is_some() {
            security_client = security_client.map(|text| text.replace("spi-s=", "spi-s=1"));
        }
        let register = Register {
            public_identity: &self.config.isim.impus[attempt.identity],
            call_id: &attempt.call_id,
            from_tag: &attempt.from_tag,
            cseq: attempt.cseq,
            expires_seconds: attempt.expires_seconds,
            contact: self.config.contact(port),
            authorization: match self.config.authentication {
                Authentication::Address => None,
                _ => Some(&attempt.authorization),
            },
            security_client: security_client.as_deref(),
            security_verify: &security_verify,
            is_protected: path.is_some(),
        };
        let request = register.write(&self.config);
        let wait = Wait::Register(attempt.serial);
        self.send(now, request, path, wait, out);
    }

    /// The end of a REGISTER's transaction.
    pub(crate) fn on_reply(
        &mut self,
        now: Now,
        wait: Wait,
        reply: Result<Response, NoReply>,
        out: &mut Vec<Output>,
    ) {
        let serial = match wait {
            Wait::Register(serial) => serial,
            Wait::Subscribe(identity, serial) => {
                return self.on_subscribed(now, identity, serial, reply, out);
            }
        };
        if self.attempt.as_ref().is_none_or(|attempt| attempt.serial != serial) {
            return;
        }
        let response = match reply {
            Ok(response) => response,
            Err(NoReply::Timeout) => return self.fail(now, Cause::Timeout, None, out),
            Err(NoReply::Unreachable) if self.reconnects(now) => return,
            Err(NoReply::Unreachable) => return self.fail(now, Cause::Unreachable, None, out),
        };
        let result = match response.status() {
            200..300 => self.on_success(now, &response, out),
            401 => self.on_challenge(now, &response, out),
            423 => self.on_interval_too_brief(now, &response, out),
            439 if self.config.reg_id.is_some() => self.on_no_flows(now, out),
            status => Err(Cause::Refused(status)),
        };
        if let Err(cause) = result {
            let retry_after = seconds(&response, Name::RetryAfter);
            self.fail(now, cause, retry_after, out);
        }
    }

    /// TS 33.203 §7.1: a connection that ends says nothing about the associations that it ran in; a
    /// P-CSCF that starts anew still has them. True when the REGISTER will go out again.
    fn reconnects(&mut self, now: Now) -> bool {
        let Some(attempt) = self.attempt.as_mut().filter(|it| it.path().is_some()) else {
            return false;
        };
        if attempt.reconnects >= RECONNECTS {
            return false;
        }
        let wait = Duration::from_millis(500 << attempt.reconnects.min(3));
        attempt.reconnects += 1;
        self.timers.set(Timer::Reconnect(attempt.serial), now + wait);
        true
    }

    /// TS 24.229 §5.1.1.5.1: MAC first, then the sequence number, then the security agreement.
    fn on_challenge(
        &mut self,
        now: Now,
        response: &Response,
        out: &mut Vec<Output>,
    ) -> Result<(), Cause> {
        let Some(attempt) = &self.attempt else { return Ok(()) };
        if attempt.repeats >= REPEATS {
            return Err(Cause::Refused(401));
        }
        let algorithms = match &self.config.authentication {
            Authentication::Aka(algorithms) => *algorithms,
            Authentication::Password(password) => {
                let password = Secret::new(password.expose().clone().into_bytes());
                let challenge = read_digest_challenge(response).ok_or(Cause::UnknownChallenge)?;
                self.answer_challenge(now, &challenge, password, out);
                return Ok(());
            }
            Authentication::Address => return Err(Cause::UnknownChallenge),
        };
        let read = read_challenge(response, algorithms);
        let (challenge, nonce, algorithm) = read.ok_or(Cause::UnknownChallenge)?;
        match self.config.isim.card.answer(&nonce.rand, &nonce.autn) {
            CardAnswer::MacFailure => {
                self.refuse(now, InvalidChallenge::Mac, &challenge, Answer::Empty, out)
            }
            CardAnswer::SyncFailure { auts } => {
                let answer = Answer::Resynchronisation(&auts);
                self.refuse(now, InvalidChallenge::Sqn, &challenge, answer, out)
            }
            CardAnswer::Success { res, ck, ik } => {
                let password = algorithm.aka_password(res.expose(), ik.expose(), ck.expose());
                if attempt.offered.is_some() && !self.agree(now, response, Keys { ck, ik }, out) {
                    return self.abandon(now, out);
                }
                self.answer_challenge(now, &challenge, password, out);
                Ok(())
            }
        }
    }

    /// TS 24.229 §5.1.1.5.3: refuses at most two challenges in a row; the offer is a new one, and no
    /// associations are set up.
    fn refuse(
        &mut self,
        now: Now,
        reason: InvalidChallenge,
        challenge: &DigestParameters,
        answer: Answer<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), Cause> {
        self.drop_temporary(out);
        let cnonce = self.random.token();
        let offered = self.new_offer();
        let authorization = request::authorization(&self.config, challenge, answer, (&cnonce, 1));
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        let identity = attempt.identity;
        out.push(Output::Event(Event::ChallengeRefused { identity, reason }));
        if attempt.invalid_challenges >= INVALID_CHALLENGES {
            return Err(Cause::InvalidChallenges);
        }
        attempt.invalid_challenges += 1;
        attempt.cseq += 1;
        attempt.offered = offered;
        attempt.authorization = authorization;
        self.send_register(now, out);
        Ok(())
    }

    /// TS 24.229 §5.1.1.5.1: sets up the temporary associations with the mechanism that the P-CSCF
    /// prefers of those offered. False when there is none.
    fn agree(
        &mut self,
        now: Now,
        response: &Response,
        mut keys: Keys,
        out: &mut Vec<Output>,
    ) -> bool {
        self.drop_temporary(out);
        let remote = self.pcscf_address();
        let in_tunnel_too = self.offers_udp_enc_tun();
        let Some(attempt) = &mut self.attempt else { return false };
        let Some(offered) = &attempt.offered else { return false };
        let listed = mechanisms(response.headers(), Name::SecurityServer).unwrap_or_default();
        let Some(chosen) = sets::choose(&listed, &self.config.algorithms, in_tunnel_too) else {
            return false;
        };
        if self.config.faults.wrong_association_keys {
            keys = Keys { ck: Secret::new([0x5A; 16]), ik: Secret::new([0xA5; 16]) };
        }
        let lines = response.headers().lines(Name::SecurityServer).map(str::to_owned).collect();
        let addresses = (SocketAddr::new(self.config.own_address(), 0), remote);
        let seed = self.random.bytes();
        let set = self.sets.install(now, addresses, offered, &chosen, keys, lines, seed);
        attempt.temporary = Some(set);
        self.use_set(set, out);
        true
    }

    fn answer_challenge(
        &mut self,
        now: Now,
        challenge: &DigestParameters,
        password: Secret<Vec<u8>>,
        out: &mut Vec<Output>,
    ) {
        let cnonce = self.random.token();
        let mut given = password.expose().clone();
        if self.config.faults.wrong_response {
            given.reverse();
        }
        let answer = Answer::Response(&given);
        let authorization = request::authorization(&self.config, challenge, answer, (&cnonce, 1));
        let Some(attempt) = &mut self.attempt else { return };
        attempt.invalid_challenges = 0;
        attempt.repeats += 1;
        attempt.cseq += 1;
        attempt.authorization = authorization;
        attempt.password = Some(password);
        self.send_register(now, out);
    }

    /// It wants security associations (TS 33.203 §7.1).
    pub(crate) fn is_protecting(&self) -> bool {
        self.config.ipsec && matches!(self.config.authentication, Authentication::Aka(_))
    }

    pub(crate) fn has_password(&self) -> bool {
        matches!(self.config.authentication, Authentication::Password(_))
    }

    /// RFC 7616 §3.4: a nonce that was answered once is answered again, with the next count.
    fn used_again(&mut self, credentials: DigestParameters) -> DigestParameters {
        let Authentication::Password(password) = &self.config.authentication else {
            return credentials;
        };
        let cnonce = self.random.token();
        let count = credentials.get("nc").and_then(|text| u32::from_str_radix(text, 16).ok());
        let Some(count) = count else { return request::empty_authorization(&self.config) };
        let answer = Answer::Response(password.expose().as_bytes());
        request::authorization(&self.config, &credentials, answer, (&cnonce, count + 1))
    }

    /// TS 24.229 §5.1.1.5.1: without a usable Security-Server this authentication is abandoned, and
    /// another REGISTER has another Call-ID.
    fn abandon(&mut self, now: Now, out: &mut Vec<Output>) -> Result<(), Cause> {
        let call_id = self.new_call_id();
        let offered = self.new_offer();
        let authorization = request::empty_authorization(&self.config);
        let first_cseq = self.first_cseq();
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        let identity = attempt.identity;
        let reason = InvalidChallenge::SecurityServer;
        out.push(Output::Event(Event::ChallengeRefused { identity, reason }));
        if attempt.invalid_challenges >= 1 {
            return Err(Cause::NoSecurityAgreement);
        }
        attempt.invalid_challenges += 1;
        attempt.call_id = call_id;
        attempt.cseq = first_cseq;
        attempt.offered = offered;
        if attempt.over.is_none() {
            attempt.authorization = authorization;
        }
        self.send_register(now, out);
        Ok(())
    }

    /// TS 24.229 §5.1.1.2.1, §5.1.1.4.1: the network wants a longer interval.
    fn on_interval_too_brief(
        &mut self,
        now: Now,
        response: &Response,
        out: &mut Vec<Output>,
    ) -> Result<(), Cause> {
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        let wanted = seconds(response, Name::MinExpires).unwrap_or(0);
        let is_longer = wanted > attempt.expires_seconds && attempt.expires_seconds > 0;
        if !is_longer || attempt.repeats >= REPEATS {
            return Err(Cause::Refused(423));
        }
        attempt.repeats += 1;
        attempt.expires_seconds = wanted;
        self.send_otherwise(now, out);
        Ok(())
    }

    /// RFC 5626 §11.6: the first hop keeps no flows: again without one, as anybody does who has none.
    fn on_no_flows(&mut self, now: Now, out: &mut Vec<Output>) -> Result<(), Cause> {
        self.config.reg_id = None;
        self.send_otherwise(now, out);
        Ok(())
    }

    /// The same attempt once more, with something changed: its next number, and a new offer.
    fn send_otherwise(&mut self, now: Now, out: &mut Vec<Output>) {
        self.drop_temporary(out);
        let offered = self.new_offer();
        let authorization = request::empty_authorization(&self.config);
        let Some(attempt) = &mut self.attempt else { return };
        attempt.cseq += 1;
        attempt.offered = offered;
        if attempt.over.is_none() {
            attempt.authorization = authorization;
        }
        self.send_register(now, out);
    }

    pub(crate) fn drop_temporary(&mut self, out: &mut Vec<Output>) {
        if let Some(attempt) = &mut self.attempt {
            attempt.temporary = None;
            attempt.password = None;
        }
        if let Some(set) = self.sets.temporary() {
            self.remove_set(set, out);
        }
    }

    fn new_offer(&mut self) -> Option<Offered> {
        if !self.is_protecting() || self.config.faults.no_security_client {
            return None;
        }
        let in_tunnel_too = self.offers_udp_enc_tun();
        Some(self.sets.offer(&self.config.algorithms, in_tunnel_too, &mut self.random))
    }

    fn first_cseq(&self) -> u32 {
        self.config.profile.as_ref().map_or(1, |profile| profile.first_cseq)
    }

    pub(crate) fn new_call_id(&mut self) -> String {
        let token = self.random.token();
        format!("{token}@{}", self.config.own_address())
    }
}

/// The first challenge of an algorithm that is known, with a realm and a nonce of RAND and AUTN
/// (RFC 3310 §3.2, RFC 8760 §2.4).
fn read_challenge(
    response: &Response,
    algorithms: &[DigestAlgorithm],
) -> Option<(DigestParameters, AkaNonce, DigestAlgorithm)> {
    response.headers().lines(Name::WwwAuthenticate).find_map(|line| {
        let challenge = DigestParameters::parse(line).ok()?;
        let algorithm = DigestAlgorithm::named(challenge.get("algorithm")?)?;
        challenge.get("realm").filter(|_| algorithms.contains(&algorithm))?;
        let nonce = AkaNonce::decode(challenge.get("nonce")?)?;
        Some((challenge, nonce, algorithm))
    })
}

/// The first challenge of SIP Digest.
fn read_digest_challenge(response: &Response) -> Option<DigestParameters> {
    response.headers().lines(Name::WwwAuthenticate).find_map(|line| {
        let challenge = DigestParameters::parse(line).ok()?;
        request::algorithm_of(&challenge).filter(|one| !one.is_aka())?;
        let is_whole = challenge.get("realm").is_some() && challenge.get("nonce").is_some();
        is_whole.then_some(challenge)
    })
}

/// A header of seconds, comments and parameters behind it left out.
pub(crate) fn seconds(response: &Response, name: Name) -> Option<u32> {
    let text = response.headers().get(name)?;
    let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}
