//! Requests that come in: whether they are for us, whether they came before, and their answers
//! (RFC 6733 §6.1.4, §6.2, §7).

use bytes::Bytes;

use crate::diameter::base::{self, Echoed, result_code};
use crate::diameter::duplicates::{Key, Seen, Working};
use crate::diameter::endpoint::{Endpoint, Event, Incoming, ReplyTo};
use crate::diameter::message::{self, Builder, Failure, Header, Message};
use crate::diameter::stats::count;
use crate::node::{ConnectionId, Now, Output};

impl<W> Endpoint<W> {
    /// RFC 6733 §6.2: answers a request. `fill` writes the result and what follows it. An answer to
    /// a request that is owed none any more is dropped.
    pub fn answer(
        &mut self,
        reply_to: &ReplyTo,
        fill: impl FnOnce(&mut Builder),
        out: &mut Vec<Output>,
    ) {
        let place = (reply_to.connection, reply_to.hop_by_hop);
        let Some(working) = self.duplicates.finish(place) else { return };
        let mut builder = Builder::new(working.header.answer(false));
        builder.raw(&working.echoed.session_id);
        self.application.write(&mut builder);
        builder.number(base::AUTH_SESSION_STATE, base::NO_STATE_MAINTAINED);
        builder.text(base::ORIGIN_HOST, &self.config.identity);
        builder.text(base::ORIGIN_REALM, &self.config.realm);
        fill(&mut builder);
        builder.raw(&working.echoed.proxy_info);
        self.deliver(working, builder.finish(), out);
    }

    /// RFC 6733 §7: answers a request with a failure; 3xxx codes set the E bit. `fill` adds AVPs.
    pub fn refuse(
        &mut self,
        reply_to: &ReplyTo,
        failure: &Failure,
        fill: impl FnOnce(&mut Builder),
        out: &mut Vec<Output>,
    ) {
        let place = (reply_to.connection, reply_to.hop_by_hop);
        let Some(working) = self.duplicates.finish(place) else { return };
        count(&mut self.stats.refusals, failure.result_code);
        let application = self.application;
        let origin = (self.config.identity.as_str(), self.config.realm.as_str());
        let bytes =
            base::failure_answer(&working.header, &working.echoed, origin, failure, |builder| {
                if !result_code::is_protocol_error(failure.result_code) {
                    application.write(builder);
                    builder.number(base::AUTH_SESSION_STATE, base::NO_STATE_MAINTAINED);
                }
                fill(builder);
            });
        self.deliver(working, bytes, out);
    }

    /// RFC 6733 §6.1.4: a request of an application: is it for us, and can we serve it?
    pub(super) fn on_request(
        &mut self,
        now: Now,
        connection: ConnectionId,
        message: Message,
        out: &mut Vec<Output>,
    ) {
        let header = message.header;
        let command = self.known_command(header.command);
        count(&mut self.stats.requests_received, command);
        let incoming = match self.admit(connection, message) {
            Ok(incoming) => incoming,
            Err(refused) => {
                let (message, failure) = *refused;
                self.refuse_bytes(connection, message.bytes(), &failure, out);
                return;
            }
        };
        let key = Key {
            origin_host: incoming.origin_host.to_ascii_lowercase().into(),
            end_to_end: header.end_to_end,
            command: header.command,
        };
        let place = (connection, header.hop_by_hop);
        if header.is_retransmitted() {
            match self.duplicates.look_up(&key, place) {
                Seen::Never => {}
                Seen::Working => {
                    self.stats.duplicates += 1;
                    return;
                }
                Seen::Answered(bytes) => {
                    self.stats.duplicates += 1;
                    let bytes = message::with_hop_by_hop(bytes, header.hop_by_hop, 0);
                    out.push(Output::Diameter { connection, bytes });
                    return;
                }
            }
        }
        let echoed = Echoed::of(incoming.message.bytes());
        self.duplicates.begin(now, key, place, header, echoed);
        self.events.push_back(Event::Request(incoming));
    }

    /// RFC 6733 §6.1.3, §6.1.4: the checks that concern no application.
    fn admit(
        &self,
        connection: ConnectionId,
        message: Message,
    ) -> Result<Incoming, Box<(Message, Failure)>> {
        match self.routing(&message) {
            Err(failure) => Err(Box::new((message, failure))),
            Ok((session_id, origin_host, origin_realm)) => Ok(Incoming {
                reply_to: ReplyTo {
                    connection,
                    hop_by_hop: message.header.hop_by_hop,
                    end_to_end: message.header.end_to_end,
                    session_id,
                    command: message.header.command,
                },
                message,
                origin_host,
                origin_realm,
            }),
        }
    }

    /// Session-Id, Origin-Host and Origin-Realm of a request that is for us.
    fn routing(&self, message: &Message) -> Result<(String, String, String), Failure> {
        let header = message.header;
        if header.application != self.application.id {
            let why = format!("application {} is not served", header.application);
            return Err(Failure::new(result_code::APPLICATION_UNSUPPORTED, why));
        }
        if !self.application.commands.contains(&header.command) {
            let why = format!("command {} is not of this application", header.command);
            return Err(Failure::new(result_code::COMMAND_UNSUPPORTED, why));
        }
        if self.is_draining || self.duplicates.is_full() {
            return Err(Failure::new(result_code::TOO_BUSY, "no new requests are taken"));
        }
        let mut session_id = None;
        let (mut origin_host, mut origin_realm) = (None, None);
        let (mut host, mut realm) = (None, None);
        for avp in message.avps() {
            if avp.is(base::SESSION_ID) {
                session_id.get_or_insert(avp.text()?);
            } else if avp.is(base::ORIGIN_HOST) {
                origin_host.get_or_insert(avp.text()?);
            } else if avp.is(base::ORIGIN_REALM) {
                origin_realm.get_or_insert(avp.text()?);
            } else if avp.is(base::DESTINATION_HOST) {
                host.get_or_insert(avp.text()?);
            } else if avp.is(base::DESTINATION_REALM) {
                realm.get_or_insert(avp.text()?);
            } else if avp.is(base::ROUTE_RECORD)
                && avp.text()?.eq_ignore_ascii_case(&self.config.identity)
            {
                let why = "Route-Record names this node";
                return Err(Failure::new(result_code::LOOP_DETECTED, why));
            }
        }
        let session_id = session_id.ok_or_else(|| Failure::missing(base::SESSION_ID))?;
        let origin_host = origin_host.ok_or_else(|| Failure::missing(base::ORIGIN_HOST))?;
        let origin_realm = origin_realm.ok_or_else(|| Failure::missing(base::ORIGIN_REALM))?;
        let realm = realm.ok_or_else(|| Failure::missing(base::DESTINATION_REALM))?;
        if !realm.eq_ignore_ascii_case(&self.config.realm) {
            let why = format!("realm {realm} is not served");
            return Err(Failure::new(result_code::REALM_NOT_SERVED, why));
        }
        if let Some(host) = host.filter(|host| !host.eq_ignore_ascii_case(&self.config.identity)) {
            let why = format!("{host} is another node, and this one does not relay");
            return Err(Failure::new(result_code::UNABLE_TO_DELIVER, why));
        }
        Ok((session_id.to_owned(), origin_host.to_owned(), origin_realm.to_owned()))
    }

    /// RFC 6733 §7.2: refuses what did not become an event.
    pub(super) fn refuse_bytes(
        &mut self,
        connection: ConnectionId,
        request: &Bytes,
        failure: &Failure,
        out: &mut Vec<Output>,
    ) {
        let Some(header) = Header::peek(request) else { return };
        count(&mut self.stats.refusals, failure.result_code);
        tracing::warn!(
            result_code = failure.result_code,
            command = header.command,
            reason = %failure.message,
            "diameter request refused"
        );
        let origin = (self.config.identity.as_str(), self.config.realm.as_str());
        let echoed = Echoed::of(request);
        let application = self.application;
        let bytes = base::failure_answer(&header, &echoed, origin, failure, |builder| {
            let is_ours = header.application == application.id;
            if is_ours && !result_code::is_protocol_error(failure.result_code) {
                application.write(builder);
                builder.number(base::AUTH_SESSION_STATE, base::NO_STATE_MAINTAINED);
            }
        });
        let bytes = self.fitting(bytes, &header, &echoed);
        out.push(Output::Diameter { connection, bytes });
    }

    /// Sends an answer to where the request was seen last, and keeps it for repetitions.
    fn deliver(&mut self, working: Working, bytes: Bytes, out: &mut Vec<Output>) {
        let (connection, hop_by_hop) = working.deliver_to;
        count(&mut self.stats.answers_sent, working.header.command);
        let bytes = self.fitting(bytes, &working.header, &working.echoed);
        let moved = hop_by_hop != working.header.hop_by_hop;
        let bytes = if moved { message::with_hop_by_hop(bytes, hop_by_hop, 0) } else { bytes };
        self.duplicates.answered(working, &bytes);
        if self.connections.contains_key(&connection) {
            out.push(Output::Diameter { connection, bytes });
        }
    }

    /// RFC 6733 §7.1.5: in the place of an answer that is too long to be sent, UNABLE_TO_COMPLY; and where
    /// what is echoed makes it long, without that: Hop-by-Hop and End-to-End Identifier still say what it
    /// answers.
    fn fitting(&mut self, bytes: Bytes, request: &Header, echoed: &Echoed) -> Bytes {
        if !self.is_too_long(&bytes, request.command) {
            return bytes;
        }
        let failure = Failure::new(result_code::UNABLE_TO_COMPLY, "the answer is too long");
        let origin = (self.config.identity.as_str(), self.config.realm.as_str());
        let application = self.application;
        let answer = |echoed: &Echoed| {
            base::failure_answer(request, echoed, origin, &failure, |builder| {
                if request.application == application.id {
                    application.write(builder);
                    builder.number(base::AUTH_SESSION_STATE, base::NO_STATE_MAINTAINED);
                }
            })
        };
        let short = answer(echoed);
        if short.len() <= self.limits.diameter_message_bytes {
            return short;
        }
        answer(&Echoed::default())
    }

    /// A command as a label: other people's numbers must not make new ones.
    fn known_command(&self, command: u32) -> u32 {
        if self.application.commands.contains(&command) { command } else { 0 }
    }
}
