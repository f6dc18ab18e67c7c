//! CER and CEA: who is talked to, and about what (RFC 6733 §5.3).

use std::net::SocketAddr;

use crate::diameter::base::{self, Capabilities, Echoed, result_code};
use crate::diameter::endpoint::Endpoint;
use crate::diameter::message::{Builder, Failure, Header, Message};
use crate::node::{ConnectionId, Output};

/// Product-Name of CER and CEA.
const PRODUCT_NAME: &str = "Tessera";

impl<W> Endpoint<W> {
    /// RFC 6733 §5.3.1: CER.
    pub(super) fn send_cer(&mut self, key: u32, out: &mut Vec<Output>) {
        let Some(connection) = self.peers.get(&key).and_then(|peer| peer.initiator) else { return };
        let Some(at) = self.connections.get(&connection).copied() else { return };
        let application = self.application;
        let capabilities = self.capabilities(at.local);
        let (hop_by_hop, end_to_end) = self.next_identifiers();
        let header =
            base::request_header(base::COMMAND_CAPABILITIES_EXCHANGE, hop_by_hop, end_to_end);
        let mut builder = Builder::new(header);
        capabilities.encode(&application, &mut builder);
        out.push(Output::Diameter { connection, bytes: builder.finish() });
    }

    /// RFC 6733 §5.3.2, §5.6.3: Process-CEA: the peer takes us and is who it should be.
    pub(super) fn accept_cea(&mut self, key: u32, message: &Message) -> bool {
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        let code = message.find(base::RESULT_CODE).and_then(|avp| avp.number().ok());
        let capabilities = match Capabilities::decode(message) {
            Ok(capabilities) => capabilities,
            Err(failure) => {
                let reason = failure.message;
                tracing::warn!(peer = peer.name(), code, reason, "diameter peer refuses us");
                return false;
            }
        };
        let expected = peer.config.as_ref().and_then(|config| config.identity.as_deref());
        let host = &capabilities.origin_host;
        let refusal = if code != Some(result_code::SUCCESS) {
            Some("it refuses us")
        } else if expected.is_some_and(|expected| !expected.eq_ignore_ascii_case(host)) {
            Some("its Origin-Host is not the configured one")
        } else if !capabilities.supports(self.application.id) {
            Some("it does not serve our application")
        } else {
            None
        };
        if let Some(reason) = refusal {
            tracing::warn!(peer = peer.name(), code, %host, reason, "no diameter peer");
            return false;
        }
        peer.presented = Some(capabilities);
        true
    }

    /// RFC 6733 §5.3, §5.6.3: Process-CER: is this somebody to talk to, and about what? Gives the
    /// peer's key, a new one for a peer that is not configured.
    pub(super) fn admit_peer(&mut self, capabilities: &Capabilities) -> Result<u32, Failure> {
        let host = &capabilities.origin_host;
        let known = self.peer_named(host);
        let allowed = &self.config.allowed_peers;
        let is_allowed = match (known, allowed.is_empty()) {
            (Some(_), _) => true,
            (None, true) => capabilities.origin_realm.eq_ignore_ascii_case(&self.config.realm),
            (None, false) => allowed.iter().any(|name| name.eq_ignore_ascii_case(host)),
        };
        if !is_allowed || host.eq_ignore_ascii_case(&self.config.identity) {
            return Err(Failure::new(result_code::UNKNOWN_PEER, format!("{host} is no peer")));
        }
        if !capabilities.supports(self.application.id) {
            let why = format!("application {} is not among those offered", self.application.id);
            return Err(Failure::new(result_code::NO_COMMON_APPLICATION, why));
        }
        if capabilities.requires_inband_security {
            let why = "no in-band security is offered";
            return Err(Failure::new(result_code::NO_COMMON_SECURITY, why));
        }
        Ok(known.unwrap_or_else(|| {
            let key = self.next_peer;
            self.next_peer += 1;
            key
        }))
    }

    /// RFC 6733 §5.3.2: CEA, with a success or with the reason why not.
    pub(super) fn send_cea(
        &mut self,
        connection: ConnectionId,
        cer: &Header,
        echoed: &Echoed,
        failure: Option<&Failure>,
        out: &mut Vec<Output>,
    ) {
        let Some(at) = self.connections.get(&connection).copied() else { return };
        let code = failure.map_or(result_code::SUCCESS, |failure| failure.result_code);
        let mut builder = Builder::new(cer.answer(result_code::is_protocol_error(code)));
        builder.number(base::RESULT_CODE, code);
        self.capabilities(at.local).encode(&self.application, &mut builder);
        if let Some(failure) = failure {
            builder.text(base::ERROR_MESSAGE, &failure.message);
            if let Some(failed) = &failure.failed_avp {
                builder.group(base::FAILED_AVP, |group| group.raw(failed));
            }
        }
        builder.raw(&echoed.proxy_info);
        out.push(Output::Diameter { connection, bytes: builder.finish() });
    }

    pub(super) fn capabilities(&self, local: SocketAddr) -> Capabilities {
        Capabilities {
            origin_host: self.config.identity.clone(),
            origin_realm: self.config.realm.clone(),
            host_ip_addresses: vec![local.ip()],
            product_name: PRODUCT_NAME.to_owned(),
            origin_state_id: self.started,
            ..Capabilities::default()
        }
    }
}
