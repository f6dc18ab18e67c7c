//! What every GTP-U node has at each of its addresses (TS 29.281 §4, §5, §7): the tunnels that end
//! there, answers to Echo Requests, Error Indications for what nobody owns, refusal of extension
//! headers that must be understood, and the supervision of the paths to its peers.
//!
//! A value without I/O: datagrams in, [`Received`] and [`Datagram`]s out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::random::Random;

use crate::gtpu::{self, DecodeError, MessageType, Teid};

/// TS 29.281 §7.2.1: not more often than every 60 s.
const ECHO_INTERVAL: Duration = Duration::from_secs(60);
/// TS 29.281 §12: T3-RESPONSE, how long an Echo Request waits for its answer.
const T3_RESPONSE: Duration = Duration::from_secs(5);
/// TS 29.281 §12: N3-REQUESTS, how many Echo Requests without answer are a failed path.
const N3_REQUESTS: u32 = 5;

/// A datagram to be sent from one address of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub from: IpAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// Where the other end of a tunnel listens: its address and the TEID that it chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remote {
    pub address: IpAddr,
    pub teid: Teid,
}

/// How much of a tunnel a node reads (TS 29.281 §5.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The tunnel begins or ends here: eNodeB, P-GW.
    Endpoint,
    /// Relays between two tunnels: S-GW.
    Intermediate,
}

/// What was counted at one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub g_pdus_received: u64,
    pub g_pdus_sent: u64,
    pub octets_received: u64,
    pub octets_sent: u64,
    pub echo_requests_received: u64,
    pub echo_requests_sent: u64,
    pub echo_responses_received: u64,
    pub error_indications_sent: u64,
    pub error_indications_received: u64,
    pub extension_headers_refused: u64,
    pub end_markers_received: u64,
    pub end_markers_sent: u64,
    pub malformed: u64,
    pub paths_failed: u64,
}

/// What a received datagram means to the node.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// User data on a tunnel of ours. `g_pdu` still has its extension headers.
    UserData { teid: Teid, g_pdu: gtpu::Packet<'a> },
    /// The last packet of a tunnel of ours has passed.
    EndMarker { teid: Teid },
    /// To be sent back: an Echo Response, an Error Indication, a notification.
    Answer(Datagram),
    /// The peer does not know the TEID to which we send.
    RemoteLost(Remote),
    /// Counted; nothing to be done.
    Nothing,
}

/// One address of a node, with the tunnels that end there.
#[derive(Debug)]
pub struct Endpoint<T> {
    address: IpAddr,
    role: Role,
    tunnels: BTreeMap<Teid, T>,
    tunnels_limit: usize,
    paths: BTreeMap<IpAddr, Path>,
    has_new_path: bool,
    random: Random,
    pub counters: Counters,
}

#[derive(Debug)]
struct Path {
    next_at: Duration,
    /// When the latest new Echo Request was sent.
    asked_at: Duration,
    sequence_number: u16,
    unanswered: u32,
    is_failed: bool,
}

impl<T> Endpoint<T> {
    pub fn new(address: IpAddr, role: Role, tunnels_limit: usize, random: Random) -> Endpoint<T> {
        Endpoint {
            address,
            role,
            tunnels: BTreeMap::new(),
            tunnels_limit,
            paths: BTreeMap::new(),
            has_new_path: false,
            random,
            counters: Counters::default(),
        }
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// TS 29.281 §5.1: a TEID is chosen by the receiver, never zero for user data, and unique at
    /// this address. It is random, so that a stranger cannot guess one. `None` at the limit.
    pub fn open(&mut self, tunnel: T) -> Option<Teid> {
        if self.tunnels.len() >= self.tunnels_limit {
            return None;
        }
        loop {
            let teid = Teid(self.random.u32());
            if teid.0 != 0 && !self.tunnels.contains_key(&teid) {
                self.tunnels.insert(teid, tunnel);
                return Some(teid);
            }
        }
    }

    pub fn tunnel(&self, teid: Teid) -> Option<&T> {
        self.tunnels.get(&teid)
    }

    pub fn tunnel_mut(&mut self, teid: Teid) -> Option<&mut T> {
        self.tunnels.get_mut(&teid)
    }

    pub fn close(&mut self, teid: Teid) -> Option<T> {
        self.tunnels.remove(&teid)
    }

    pub fn tunnels(&self) -> impl Iterator<Item = (Teid, &T)> {
        self.tunnels.iter().map(|(teid, tunnel)| (*teid, tunnel))
    }

    /// TS 29.281 §4.4.2: user data goes to port 2152 of the other end.
    pub fn send(&mut self, remote: Remote, inner: &[u8]) -> Datagram {
        self.counters.g_pdus_sent += 1;
        self.counters.octets_sent += inner.len() as u64;
        self.datagram(remote.address, gtpu::g_pdu(remote.teid, inner))
    }

    /// The same for a packet that keeps extension headers on its way through.
    pub fn relay(&mut self, remote: Remote, mut g_pdu: gtpu::Packet<'_>) -> Datagram {
        if g_pdu.extension_headers.is_empty() {
            return self.send(remote, g_pdu.payload);
        }
        g_pdu.extension_headers.retain(|header| !header.is_dropped_by_intermediate());
        g_pdu.teid = remote.teid;
        // A sequence number holds within one tunnel only.
        g_pdu.sequence_number = None;
        self.counters.g_pdus_sent += 1;
        self.counters.octets_sent += g_pdu.payload.len() as u64;
        self.datagram(remote.address, g_pdu.encode())
    }

    /// TS 29.281 §7.3.2.
    pub fn end_marker(&mut self, remote: Remote) -> Datagram {
        self.counters.end_markers_sent += 1;
        self.datagram(remote.address, gtpu::end_marker(remote.teid))
    }

    fn datagram(&self, to: IpAddr, bytes: Vec<u8>) -> Datagram {
        Datagram { from: self.address, to: SocketAddr::new(to, gtpu::PORT), bytes }
    }

    /// TS 29.281 §5, §7: one datagram that arrived at this address.
    pub fn receive<'a>(&mut self, from: SocketAddr, datagram: &'a [u8]) -> Received<'a> {
        let packet = match gtpu::decode(datagram) {
            Ok(packet) => packet,
            Err(error) => return self.malformed(error),
        };
        if self.has_unknown_extension(&packet) {
            // TS 29.281 §5.2.1: say what we do understand, and discard.
            self.counters.extension_headers_refused += 1;
            let bytes = gtpu::supported_extension_headers_notification(&[gtpu::EXTENSION_UDP_PORT]);
            return Received::Answer(self.datagram(from.ip(), bytes));
        }
        match packet.message_type {
            MessageType::GPdu => self.receive_user_data(from, packet),
            MessageType::EchoRequest => self.receive_echo_request(from, &packet),
            MessageType::EchoResponse => self.receive_echo_response(from.ip(), &packet),
            MessageType::ErrorIndication => self.receive_error_indication(&packet),
            MessageType::EndMarker => {
                self.counters.end_markers_received += 1;
                match self.tunnels.contains_key(&packet.teid) {
                    true => Received::EndMarker { teid: packet.teid },
                    // TS 29.281 §7.3.2: for an unknown TEID it is ignored.
                    false => Received::Nothing,
                }
            }
            MessageType::SupportedExtensionHeadersNotification => Received::Nothing,
        }
    }

    fn has_unknown_extension(&self, packet: &gtpu::Packet<'_>) -> bool {
        packet.extension_headers.iter().any(|header| match self.role {
            Role::Endpoint => header.must_be_understood_by_endpoint(),
            Role::Intermediate => header.must_be_understood_by_intermediate(),
        })
    }

    fn malformed(&mut self, error: DecodeError) -> Received<'static> {
        self.counters.malformed += 1;
        tracing::debug!(address = %self.address, %error, "GTP-U packet dropped");
        Received::Nothing
    }

    fn receive_user_data<'a>(
        &mut self,
        from: SocketAddr,
        packet: gtpu::Packet<'a>,
    ) -> Received<'a> {
        self.counters.g_pdus_received += 1;
        self.counters.octets_received += packet.payload.len() as u64;
        if self.tunnels.contains_key(&packet.teid) {
            return Received::UserData { teid: packet.teid, g_pdu: packet };
        }
        Received::Answer(self.error_indication(from.ip(), packet.teid))
    }

    /// TS 29.281 §7.3.1: the peer address in it is the one at which the packet arrived.
    fn error_indication(&mut self, to: IpAddr, unknown: Teid) -> Datagram {
        self.counters.error_indications_sent += 1;
        self.datagram(to, gtpu::error_indication(unknown, self.address))
    }

    /// TS 29.281 §7.2.2: the response repeats the sequence number and goes to where the request
    /// came from.
    fn receive_echo_request(
        &mut self,
        from: SocketAddr,
        packet: &gtpu::Packet<'_>,
    ) -> Received<'static> {
        let Some(sequence_number) = packet.sequence_number else {
            return self.malformed(DecodeError::InformationElement);
        };
        self.counters.echo_requests_received += 1;
        Received::Answer(Datagram {
            from: self.address,
            to: from,
            bytes: gtpu::echo_response(sequence_number),
        })
    }

    fn receive_echo_response(
        &mut self,
        from: IpAddr,
        packet: &gtpu::Packet<'_>,
    ) -> Received<'static> {
        self.counters.echo_responses_received += 1;
        if let Some(path) = self.paths.get_mut(&from)
            && packet.sequence_number == Some(path.sequence_number)
        {
            if path.is_failed {
                tracing::info!(local = %self.address, peer = %from, "GTP-U path is back");
            }
            path.unanswered = 0;
            path.is_failed = false;
            path.next_at = path.asked_at + ECHO_INTERVAL;
        }
        Received::Nothing
    }

    fn receive_error_indication(&mut self, packet: &gtpu::Packet<'_>) -> Received<'static> {
        match gtpu::read_error_indication(packet.payload) {
            Ok(lost) => {
                self.counters.error_indications_received += 1;
                Received::RemoteLost(Remote { address: lost.address, teid: lost.teid })
            }
            Err(error) => self.malformed(error),
        }
    }

    /// TS 29.281 §7.2.1: from now on the path to this peer is supervised.
    pub fn supervise(&mut self, now: Duration, peer: IpAddr) {
        self.paths.entry(peer).or_insert_with(|| {
            self.has_new_path = true;
            Path {
                next_at: now,
                asked_at: now,
                sequence_number: 0,
                unanswered: 0,
                is_failed: false,
            }
        });
    }

    /// A path was added since the last [`Endpoint::tick`].
    pub fn has_new_path(&self) -> bool {
        self.has_new_path
    }

    /// When [`Endpoint::tick`] has something to do.
    pub fn next_tick(&self) -> Option<Duration> {
        self.paths.values().map(|path| path.next_at).min()
    }

    /// TS 29.281 §7.2.1, §12: sends the Echo Requests that are due, and notices paths that failed.
    pub fn tick(&mut self, now: Duration) -> Vec<Datagram> {
        let mut out = Vec::new();
        self.has_new_path = false;
        let address = self.address;
        for (peer, path) in &mut self.paths {
            if path.next_at > now {
                continue;
            }
            if path.unanswered >= N3_REQUESTS && !path.is_failed {
                path.is_failed = true;
                self.counters.paths_failed += 1;
                tracing::warn!(local = %address, %peer, "GTP-U path failed: no Echo Response");
            }
            // A retransmission keeps its sequence number; after failure each interval tries anew.
            let is_retransmission = path.unanswered > 0 && !path.is_failed;
            if !is_retransmission {
                path.sequence_number = path.sequence_number.wrapping_add(1);
                path.asked_at = now;
            }
            path.unanswered = path.unanswered.saturating_add(1);
            path.next_at = now + if path.is_failed { ECHO_INTERVAL } else { T3_RESPONSE };
            self.counters.echo_requests_sent += 1;
            out.push(Datagram {
                from: address,
                to: SocketAddr::new(*peer, gtpu::PORT),
                bytes: gtpu::echo_request(path.sequence_number),
            });
        }
        out
    }

    /// Whether Echo Responses from this peer have stopped.
    pub fn path_is_failed(&self, peer: IpAddr) -> bool {
        self.paths.get(&peer).is_some_and(|path| path.is_failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(role: Role) -> Endpoint<()> {
        Endpoint::new("192.0.2.1".parse().unwrap(), role, 3, Random::from_seed([7; 32]))
    }

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::new("192.0.2.9".parse().unwrap(), port)
    }

    /// TS 29.281 §7.2.2: S-02, the answer goes to the port that asked.
    #[test]
    fn echo_is_answered_to_its_source_port() {
        let mut endpoint = endpoint(Role::Endpoint);
        let Received::Answer(answer) = endpoint.receive(peer(40_000), &gtpu::echo_request(77))
        else {
            panic!("an Echo Request is answered")
        };
        assert_eq!(answer.to, peer(40_000));
        assert_eq!(answer.bytes, gtpu::echo_response(77));
    }

    /// TS 29.281 §7.3.1: from whatever port the packet came, the indication goes to 2152.
    #[test]
    fn unknown_teid_gets_an_error_indication() {
        let mut endpoint = endpoint(Role::Endpoint);
        let packet = gtpu::g_pdu(Teid(5), &[0x45]);
        let Received::Answer(answer) = endpoint.receive(peer(40_000), &packet) else {
            panic!("an unknown TEID is answered")
        };
        assert_eq!(answer.to, peer(gtpu::PORT));
        assert_eq!(answer.bytes, gtpu::error_indication(Teid(5), endpoint.address()));
        assert_eq!(endpoint.counters.error_indications_sent, 1);
        // An End Marker for an unknown TEID, and an Error Indication itself, are not.
        assert_eq!(endpoint.receive(peer(2152), &gtpu::end_marker(Teid(5))), Received::Nothing);
    }

    /// TS 29.281 §5.1: unique, never zero, and limited.
    #[test]
    fn tunnels_have_their_own_teids_up_to_the_limit() {
        let mut endpoint = endpoint(Role::Endpoint);
        let teids: Vec<_> = (0..3).map(|_| endpoint.open(()).unwrap()).collect();
        assert!(teids.iter().all(|teid| teid.0 != 0));
        assert!(teids[0] != teids[1] && teids[1] != teids[2] && teids[0] != teids[2]);
        assert_eq!(endpoint.open(()), None);
        endpoint.close(teids[0]);
        assert!(endpoint.open(()).is_some());
    }

    /// TS 29.281 §5.2.1: GT-6, an extension header that must be understood and is not.
    #[test]
    fn extension_headers_are_refused_by_role() {
        for (role, kind, is_refused) in [
            (Role::Endpoint, 0xc0, true),
            (Role::Endpoint, 0x80, true),
            (Role::Endpoint, 0x40, false),
            (Role::Endpoint, 0x01, false),
            (Role::Intermediate, 0xc0, true),
            (Role::Intermediate, 0x80, false),
        ] {
            let mut endpoint = endpoint(role);
            let teid = endpoint.open(()).unwrap();
            let header = gtpu::ExtensionHeader { kind, content: &[0, 1] };
            let packet = gtpu::Packet {
                message_type: MessageType::GPdu,
                teid,
                sequence_number: None,
                n_pdu_number: None,
                extension_headers: vec![header],
                payload: &[0x45],
            }
            .encode();
            match endpoint.receive(peer(2152), &packet) {
                Received::Answer(answer) if is_refused => {
                    assert_eq!(
                        answer.bytes,
                        gtpu::supported_extension_headers_notification(&[0x40])
                    );
                }
                Received::UserData { .. } if !is_refused => {}
                other => panic!("{role:?} {kind:#x}: {other:?}"),
            }
        }
    }

    /// TS 29.281 §7.2.1, §12: GT-7, five requests without answer are a failed path; an answer to
    /// the latest one ends that.
    #[test]
    fn paths_are_supervised() {
        let mut endpoint = endpoint(Role::Endpoint);
        endpoint.supervise(Duration::ZERO, peer(0).ip());
        let mut now = Duration::ZERO;
        let mut requests = Vec::new();
        for _ in 0..6 {
            requests.extend(endpoint.tick(now));
            now = endpoint.next_tick().unwrap();
        }
        assert_eq!(requests.len(), 6);
        assert!(requests[..5].iter().all(|request| request.bytes == gtpu::echo_request(1)));
        assert_eq!(requests[5].bytes, gtpu::echo_request(2));
        assert!(endpoint.path_is_failed(peer(0).ip()));
        assert_eq!(endpoint.counters.paths_failed, 1);
        endpoint.receive(peer(2152), &gtpu::echo_response(1));
        assert!(endpoint.path_is_failed(peer(0).ip()), "an old answer proves nothing");
        endpoint.receive(peer(2152), &gtpu::echo_response(2));
        assert!(!endpoint.path_is_failed(peer(0).ip()));
        assert_eq!(endpoint.next_tick(), Some(Duration::from_secs(25 + 60)));
    }
}
