//! What a failure means, in one line, and what to look at: the question behind most threads about
//! phones that do not register.

use std::fmt::Write as _;
use std::net::SocketAddr;

use common::ipsec::esp::{OpenError, spi_of};
use common::node::Transport;
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::message::{Message, Response};
use common::{limits::Limits, node::Flow};

use bytes::Bytes;

use crate::event::{Cause, InvalidChallenge, Kind};
use crate::phone::{Dropped, Trace};

/// What was seen since a procedure began.
#[derive(Clone, Default, Debug)]
pub struct Facts {
    /// The last REGISTER answered a challenge.
    pub has_answered: bool,
    /// It went by an association.
    pub is_protected: bool,
    pub transport: Option<Transport>,
    pub remote: Option<SocketAddr>,
    /// The last challenge that the card or the phone refused.
    pub refused: Option<InvalidChallenge>,
    /// Of the last challenge, as written.
    pub challenge_algorithm: Option<String>,
    /// What the last REGISTER has brought so far.
    pub since: Since,
    /// The last final response.
    pub answer: Option<Answer>,
}

/// What the last REGISTER has brought.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Since {
    pub provisional: bool,
    /// ESP with a wrong integrity check value.
    pub bad_icv: bool,
    /// ESP with an SPI that is not this phone's.
    pub unknown_spi: bool,
    /// SIP in clear where it must be protected.
    pub clear: bool,
    pub unreachable: Option<Unreachable>,
    /// Octets of the longest ESP packet sent.
    pub longest_esp: usize,
    pub is_fragmented: bool,
}

/// What an ICMP message says of a packet that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreachable {
    Port,
    /// The host there knows nothing of ESP.
    Protocol,
    Host,
    Filtered,
    TooBig,
}

/// What a final response says beside its status.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Answer {
    pub reason: String,
    /// Text of Warning, Reason or Unsupported.
    pub more: Option<String>,
}

impl Facts {
    pub fn trace(&mut self, trace: &Trace) {
        match trace {
            Trace::Sent { flow, is_protected, bytes } => self.sent(*flow, *is_protected, bytes),
            Trace::Received { bytes, .. } => self.received(bytes),
            Trace::Dropped(Dropped::Esp(OpenError::BadIcv)) => self.since.bad_icv = true,
            Trace::Dropped(Dropped::Esp(OpenError::UnknownSpi)) => self.since.unknown_spi = true,
            Trace::Dropped(Dropped::Clear) => self.since.clear = true,
            _ => {}
        }
    }

    fn sent(&mut self, flow: Flow, is_protected: bool, bytes: &Bytes) {
        let Ok(Message::Request(request)) = Message::parse(bytes.clone(), &Limits::default())
        else {
            return;
        };
        let authorization = request.headers().get(Name::Authorization);
        let authorization = authorization.and_then(|line| DigestParameters::parse(line).ok());
        let has = |name| {
            let value = authorization.as_ref().and_then(|it| it.get(name));
            value.is_some_and(|value| !value.is_empty())
        };
        self.has_answered = has("response") && !has("auts");
        self.is_protected = is_protected;
        self.transport = Some(flow.transport);
        self.remote = Some(flow.remote);
        self.since = Since::default();
    }

    fn received(&mut self, bytes: &Bytes) {
        let Ok(Message::Response(response)) = Message::parse(bytes.clone(), &Limits::default())
        else {
            return;
        };
        if response.is_provisional() {
            self.since.provisional = true;
            return;
        }
        if response.status() == 401 {
            let challenge = response.headers().get(Name::WwwAuthenticate);
            let challenge = challenge.and_then(|line| DigestParameters::parse(line).ok());
            self.challenge_algorithm =
                challenge.map(|it| it.get("algorithm").unwrap_or("MD5").to_owned());
        }
        self.answer = Some(answer_of(&response));
    }

    /// A packet of the phone's on its way to the bearer.
    pub fn packet_sent(&mut self, packet: &[u8]) {
        let is_fragment = match packet.first().map(|octet| octet >> 4) {
            Some(4) => packet.get(6..8).is_some_and(|it| it[0] & 0x3F != 0 || it[1] != 0),
            _ => packet.get(6) == Some(&44),
        };
        self.since.is_fragmented |= is_fragment;
        if is_fragment || spi_of(packet).is_some() {
            self.since.longest_esp = self.since.longest_esp.max(packet.len());
        }
    }

    /// A packet for the phone: ICMP tells what became of others (RFC 792, RFC 4443 §3).
    pub fn packet_received(&mut self, packet: &[u8]) {
        let icmp = match packet.first().map(|octet| octet >> 4) {
            Some(4) if packet.get(9) == Some(&1) => packet.get(usize::from(packet[0] & 15) * 4..),
            Some(6) if packet.get(6) == Some(&58) => packet.get(40..),
            _ => return,
        };
        let Some([kind, code, ..]) = icmp else { return };
        let unreachable = match (packet[0] >> 4, kind, code) {
            (4, 3, 3) | (6, 1, 4) => Unreachable::Port,
            (4, 3, 2) | (6, 4, 1) => Unreachable::Protocol,
            (4, 3, 4) | (6, 2, _) => Unreachable::TooBig,
            (4, 3, 9 | 10 | 13) | (6, 1, 1 | 5 | 6) => Unreachable::Filtered,
            (4, 3, _) | (6, 1, _) => Unreachable::Host,
            _ => return,
        };
        self.since.unreachable = Some(unreachable);
    }
}

fn answer_of(response: &Response) -> Answer {
    let names = [Name::Warning, Name::Reason, Name::Unsupported];
    let more = names.into_iter().find_map(|name| {
        response.headers().get(name).map(|text| format!("{}: {text}", name.as_str()))
    });
    Answer { reason: response.reason().to_owned(), more }
}

/// The verdict on a procedure that failed.
pub fn verdict(kind: Kind, cause: Cause, facts: &Facts) -> String {
    let what = match kind {
        Kind::Initial => "not registered",
        Kind::Refresh => "not registered again",
        Kind::Deregistration => "not deregistered",
    };
    let mut text = match cause {
        Cause::Refused(status) => refused(status, facts),
        Cause::Timeout => silence(facts),
        Cause::Unreachable => no_connection(facts),
        Cause::InvalidChallenges => challenges(facts),
        Cause::UnknownChallenge => {
            let algorithm = facts.challenge_algorithm.as_deref().unwrap_or("none");
            format!(
                "the challenge is no AKAv1-MD5 with RAND and AUTN (algorithm {algorithm}): the \
                 network has this subscriber for another authentication scheme"
            )
        }
        Cause::NoSecurityAgreement => NO_AGREEMENT.to_owned(),
        Cause::NetworkNotAuthentic => "200 with a wrong rspauth: the S-CSCF does not know RES, or \
            the Authentication-Info was changed on its way"
            .to_owned(),
        Cause::NotBound => "200 without this phone's contact: the registrar has not bound it, or \
            something on the way rewrites Contact"
            .to_owned(),
        Cause::EmergencyStays | Cause::EmergencyNotDue => cause.to_string(),
    };
    if let (Cause::Refused(_), Some(answer)) = (cause, &facts.answer)
        && let Some(more) = &answer.more
    {
        let _ = write!(text, " [{more}]");
    }
    format!("{what}: {text}")
}

const WRONG_KEY: &str = "the card refused the challenge (wrong MAC in AUTN): K or OPc differ \
    between card and HSS (OP given as OPc? another algorithm?)";
const OUT_OF_STEP: &str = "SQN out of step: the card sent AUTS, and the HSS did not resynchronise \
    (AUTS not understood on the way, or K and OPc of another card there)";
const NO_AGREEMENT: &str = "no security agreement: Security-Server is missing, or has none of the \
    algorithms that this phone offers (--algorithms)";

fn challenges(facts: &Facts) -> String {
    match facts.refused {
        Some(InvalidChallenge::Sqn) => OUT_OF_STEP.to_owned(),
        Some(InvalidChallenge::SecurityServer) => NO_AGREEMENT.to_owned(),
        Some(InvalidChallenge::Mac) | None => WRONG_KEY.to_owned(),
    }
}

/// TS 24.229 §5.1.1.2.1, §5.1.1.5.1: what a final response to a REGISTER means.
fn refused(status: u16, facts: &Facts) -> String {
    let is_verdict_on_card = matches!(status, 400 | 401 | 403) || status >= 500;
    if facts.refused.is_some() && is_verdict_on_card && !facts.has_answered {
        return format!("{status}: {}", challenges(facts));
    }
    let meaning = match status {
        400 => "the network finds the REGISTER malformed",
        401 => {
            "challenged again after each answer: the network's XRES is another (K and OPc agree, \
             or AUTN would be wrong: look at the RES length), or it does not see the answer"
        }
        403 if facts.has_answered => {
            "forbidden after the answer to the challenge: the network's XRES is another (K and \
             OPc agree, or AUTN would be wrong: look at the RES length), or it bars this subscriber"
        }
        403 => {
            "forbidden before any challenge: the HSS does not know this private or public \
             identity, they do not belong together, or it may not register here (barred, roaming)"
        }
        404 => "the home domain is not served there, or the public identity is unknown",
        405 => "no REGISTER is taken there: is that address a P-CSCF?",
        406 | 415 | 416 => "the network does not take the form of this REGISTER",
        420 => "the network does not know an extension that is required (path, gruu, sec-agree)",
        421 => "the P-CSCF wants a security agreement, and this phone offered none",
        423 => "the interval is too brief even after Min-Expires",
        439 => "the first hop does not support outbound",
        480 => "temporarily unavailable: the network has no S-CSCF for this subscriber now",
        494 if facts.is_protected => {
            "security agreement refused: Security-Verify is not what Security-Server was, or \
             Security-Client has changed since the challenge"
        }
        494 => "the P-CSCF takes none of the security mechanisms offered, or wants one offered",
        408 => "a server behind the P-CSCF gets no answer (I-CSCF, S-CSCF or DNS)",
        500 => "a server of the network failed; its log says why",
        503 => "the network is overloaded, or has no HSS or S-CSCF at hand",
        504 => "a server behind the P-CSCF does not answer (S-CSCF down, or HSS without answer)",
        305 => "the P-CSCF sends to another one",
        300..=399 => "the network redirects, which no phone follows for a REGISTER",
        600..=699 => "refused everywhere",
        _ => "refused",
    };
    let reason = facts.answer.as_ref().map_or("", |answer| answer.reason.as_str());
    let space = if reason.is_empty() { "" } else { " " };
    format!("{status}{space}{reason}: {meaning}")
}

/// No final response within 64·T1 (TS 24.229 §7.7).
fn silence(facts: &Facts) -> String {
    let remote = match facts.remote {
        Some(remote) => remote.to_string(),
        None => "the P-CSCF".to_owned(),
    };
    let Since { longest_esp, is_fragmented, .. } = facts.since;
    if facts.since.provisional {
        return "the P-CSCF has the REGISTER (100), and no final response came: what is behind it \
            does not answer"
            .to_owned();
    }
    if let Some(unreachable) = facts.since.unreachable {
        let why = match unreachable {
            Unreachable::Port => "nothing listens on that port",
            Unreachable::Protocol => "that host takes no ESP",
            Unreachable::Host => "no route to that host",
            Unreachable::Filtered => "a firewall forbids it",
            Unreachable::TooBig => "the packet is too long for the path (MTU)",
        };
        return format!("{remote} is not reachable: {why} (ICMP)");
    }
    if !facts.is_protected {
        return format!(
            "no answer at all from {remote}: wrong address or port, no route there or back, a \
             firewall, or no P-CSCF"
        );
    }
    if facts.since.bad_icv {
        return format!(
            "ESP of {remote} has wrong integrity: IK differs (keys or algorithms of the two sides \
             are not the same)"
        );
    }
    if facts.since.clear {
        return format!(
            "{remote} answers in clear what was protected: it has no security associations for \
             this phone"
        );
    }
    if facts.since.unknown_spi {
        return format!(
            "ESP of {remote} has SPIs that are not this phone's: old associations there"
        );
    }
    let fragments = if is_fragmented { ", in fragments" } else { "" };
    format!(
        "silence after the protected REGISTER to {remote}: IK or CK differ, the P-CSCF has no \
         associations, ESP is blocked on the way (protocol 50, NAT), or the MTU is too small (the \
         longest packet had {longest_esp} octets{fragments})"
    )
}

fn no_connection(facts: &Facts) -> String {
    let remote = facts.remote.map_or_else(String::new, |remote| format!(" to {remote}"));
    match (facts.transport, facts.is_protected) {
        (Some(Transport::Tcp), true) => format!(
            "no TCP connection{remote} inside the associations: IK or CK differ, ESP is blocked, \
             or the P-CSCF does not listen on its protected port"
        ),
        (Some(Transport::Tcp), false) => {
            format!("no TCP connection{remote}: refused, or no answer; is TCP served there?")
        }
        _ => format!("the packets do not leave{remote}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts { remote: Some("192.0.2.10:5060".parse().unwrap()), ..Facts::default() }
    }

    fn protected() -> Facts {
        Facts { is_protected: true, has_answered: true, ..facts() }
    }

    fn since(since: Since) -> Facts {
        Facts { since, ..protected() }
    }

    /// TS 24.229 §5.1.1.2.1, §5.1.1.5.1, §5.1.1.5.3
    #[test]
    fn every_failure_has_its_meaning() {
        let refused = |reason| Facts { refused: Some(reason), ..facts() };
        let quiet = Since::default();
        let table: &[(Cause, Facts, &str)] = &[
            (Cause::Refused(403), protected(), "XRES is another"),
            (Cause::Refused(403), facts(), "before any challenge"),
            (Cause::Refused(403), refused(InvalidChallenge::Mac), "K or OPc differ"),
            (Cause::InvalidChallenges, refused(InvalidChallenge::Mac), "K or OPc differ"),
            (Cause::InvalidChallenges, refused(InvalidChallenge::Sqn), "SQN out of step"),
            (Cause::Refused(500), refused(InvalidChallenge::Sqn), "SQN out of step"),
            (Cause::Refused(401), protected(), "challenged again"),
            (Cause::NoSecurityAgreement, facts(), "Security-Server is missing"),
            (Cause::Refused(494), protected(), "Security-Verify is not"),
            (Cause::Refused(494), facts(), "none of the security mechanisms"),
            (Cause::Refused(421), facts(), "offered none"),
            (Cause::Refused(504), protected(), "does not answer"),
            (Cause::Refused(499), facts(), "499: refused"),
            (Cause::UnknownChallenge, facts(), "another authentication scheme"),
            (Cause::NetworkNotAuthentic, protected(), "rspauth"),
            (Cause::NotBound, protected(), "contact"),
            (Cause::Timeout, facts(), "no answer at all from 192.0.2.10:5060"),
            (Cause::Timeout, protected(), "IK or CK differ"),
            (Cause::Timeout, since(Since { bad_icv: true, ..quiet }), "IK differs"),
            (Cause::Timeout, since(Since { clear: true, ..quiet }), "answers in clear"),
            (Cause::Timeout, since(Since { unknown_spi: true, ..quiet }), "SPIs"),
            (Cause::Timeout, since(Since { provisional: true, ..quiet }), "behind it"),
            (
                Cause::Timeout,
                since(Since { longest_esp: 1500, is_fragmented: true, ..quiet }),
                "1500 octets, in fragments",
            ),
            (
                Cause::Timeout,
                since(Since { unreachable: Some(Unreachable::Port), ..quiet }),
                "nothing listens",
            ),
            (
                Cause::Unreachable,
                Facts { transport: Some(Transport::Tcp), ..facts() },
                "is TCP served there?",
            ),
            (
                Cause::Unreachable,
                Facts { transport: Some(Transport::Tcp), ..protected() },
                "inside the associations",
            ),
        ];
        for (cause, facts, meaning) in table {
            let text = verdict(Kind::Initial, *cause, facts);
            assert!(text.starts_with("not registered: "), "{text}");
            assert!(text.contains(meaning), "{cause:?}: {text}");
            assert!(!text.contains("  ") && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn the_procedure_is_named_and_the_answer_quoted() {
        let answer = Answer {
            reason: "Forbidden".to_owned(),
            more: Some("Warning: 399 hss \"unknown user\"".to_owned()),
        };
        let facts = Facts { answer: Some(answer), ..facts() };
        let text = verdict(Kind::Deregistration, Cause::Refused(403), &facts);
        assert!(text.starts_with("not deregistered: 403 Forbidden: "), "{text}");
        assert!(text.ends_with(" [Warning: 399 hss \"unknown user\"]"), "{text}");
    }

    /// RFC 4443 §3.1: and of RFC 792 the same.
    #[test]
    fn icmp_is_understood() {
        let mut v4 = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1];
        v4.resize(20, 0);
        v4.extend([3, 3, 0, 0]);
        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
        v6.resize(40, 0);
        v6.extend([2, 0, 0, 0]);
        for (packet, expected) in [(v4, Unreachable::Port), (v6, Unreachable::TooBig)] {
            let mut facts = facts();
            facts.packet_received(&packet);
            assert_eq!(facts.since.unreachable, Some(expected));
            let mut unmoved = Facts::default();
            unmoved.packet_received(&packet[..packet.len() - 4]);
            assert_eq!(unmoved.since, Since::default());
        }
    }

    #[test]
    fn messages_become_facts() {
        let mut facts = Facts::default();
        let flow = Flow {
            transport: Transport::Udp,
            local: "10.9.0.2:5060".parse().unwrap(),
            remote: "192.0.2.10:5060".parse().unwrap(),
        };
        let sent = |more: &str, is_protected| Trace::Sent {
            flow,
            is_protected,
            bytes: Bytes::from(format!(
                "REGISTER sip:hims.net SIP/2.0\r\nVia: SIP/2.0/UDP 10.9.0.2;branch=z9hG4bKa\r\n\
                 From: <sip:a@hims.net>;tag=1\r\nTo: <sip:a@hims.net>\r\nCall-ID: c\r\n\
                 CSeq: 1 REGISTER\r\nMax-Forwards: 70\r\nAuthorization: Digest \
                 username=\"a@hims.net\",realm=\"hims.net\",uri=\"sip:hims.net\",nonce=\"n\"{more}\r\n\
                 Content-Length: 0\r\n\r\n"
            )),
        };
        facts.trace(&sent(",response=\"\"", false));
        assert_eq!((facts.has_answered, facts.is_protected), (false, false));
        facts.trace(&Trace::Dropped(Dropped::Clear));
        assert!(facts.since.clear);
        facts.trace(&sent(",response=\"0123456789abcdef0123456789abcdef\"", true));
        assert_eq!((facts.has_answered, facts.is_protected), (true, true));
        assert_eq!(facts.since, Since::default());
        facts.trace(&sent(",response=\"0123\",auts=\"AAAA\"", true));
        assert!(!facts.has_answered);
    }
}
