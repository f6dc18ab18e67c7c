//! Transport connections for Diameter (RFC 6733 §2.1): numbered, cut at the length in the header.
//! What is TCP is in `stream`; SCTP would be a second kind of stream behind the same four calls.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::{TcpListener, TcpStream};

use super::inbox::{Inbox, count};
use super::resolver::Resolver;
use super::stream::{self, End, Stream};
use crate::limits::Limits;
use crate::node::{ConnectionId, Input, PeerIndex};

const HEADER_BYTES: usize = 20;
/// How long a connection is idle before the peer is probed.
const KEEPALIVE: Duration = Duration::from_secs(60);
const VERSION: u8 = 1;

/// All Diameter connections of a daemon.
pub(super) struct DiameterConnections {
    shared: Rc<Shared>,
    /// Connections written to in this turn.
    dirty: Vec<ConnectionId>,
    local: Option<IpAddr>,
}

struct Shared {
    inbox: Rc<Inbox>,
    limits: Limits,
    resolver: Rc<Resolver>,
    open: RefCell<BTreeMap<ConnectionId, Rc<Stream>>>,
    next: Cell<u64>,
    /// Connections being opened.
    dialling: Cell<usize>,
}

impl DiameterConnections {
    /// Accepts at `listen` and opens connections from `local`.
    pub fn open(
        listen: Option<SocketAddr>,
        local: Option<IpAddr>,
        resolver: &Rc<Resolver>,
        inbox: &Rc<Inbox>,
        limits: &Limits,
    ) -> Result<DiameterConnections, String> {
        let shared = Rc::new(Shared {
            inbox: inbox.clone(),
            limits: limits.clone(),
            resolver: resolver.clone(),
            open: RefCell::default(),
            next: Cell::new(1),
            dialling: Cell::new(0),
        });
        if let Some(address) = listen {
            let listener = stream::listen(address, None)
                .map_err(|error| format!("diameter tcp {address}: cannot be bound: {error}"))?;
            tokio::task::spawn_local(accept(listener, shared.clone()));
        }
        Ok(DiameterConnections { shared, dirty: Vec::new(), local })
    }

    /// Opens a connection to a name or an address.
    pub fn connect(&self, peer: PeerIndex, host: String, port: u16) {
        let shared = self.shared.clone();
        let local = self.local.map(|address| SocketAddr::new(address, 0));
        if shared.is_full() {
            count(&shared.inbox.counts.refused_connections);
            tracing::warn!(host, "limits.diameter_connections is reached");
            return shared.inbox.push(Input::ConnectFailed { peer });
        }
        shared.dialling.set(shared.dialling.get() + 1);
        tokio::task::spawn_local(async move {
            let opened = dial(&shared.resolver, local, &host, port).await;
            shared.dialling.set(shared.dialling.get() - 1);
            match opened {
                Ok((socket, remote)) => run(socket, remote, Some(peer), shared).await,
                Err(error) => {
                    tracing::debug!(host, port, error, "Diameter connection not opened");
                    shared.inbox.push(Input::ConnectFailed { peer });
                }
            }
        });
    }

    /// Queues a message for [`DiameterConnections::flush`].
    pub fn send(&mut self, connection: ConnectionId, bytes: Bytes) {
        let open = self.shared.open.borrow();
        // A connection that is gone has been reported as closed.
        let Some(stream) = open.get(&connection) else { return };
        if !stream.enqueue(bytes) {
            count(&self.shared.inbox.counts.send_errors_diameter);
            stream.abort();
        } else if self.dirty.last() != Some(&connection) {
            self.dirty.push(connection);
        }
    }

    pub fn flush(&mut self) {
        let open = self.shared.open.borrow();
        for connection in self.dirty.drain(..) {
            if let Some(stream) = open.get(&connection) {
                stream.flush();
            }
        }
    }

    /// Closes when all queued messages are written.
    pub fn close(&self, connection: ConnectionId) {
        if let Some(stream) = self.shared.open.borrow().get(&connection) {
            stream.close();
        }
    }

    pub fn len(&self) -> usize {
        self.shared.open.borrow().len()
    }

    pub fn is_written(&self) -> bool {
        self.shared.open.borrow().values().all(|stream| !stream.has_queued())
    }
}

impl Shared {
    fn is_full(&self) -> bool {
        self.open.borrow().len() + self.dialling.get() >= self.limits.diameter_connections
    }
}

async fn accept(listener: TcpListener, shared: Rc<Shared>) {
    loop {
        let (socket, remote) = stream::accept(&listener, KEEPALIVE).await;
        if shared.is_full() {
            count(&shared.inbox.counts.refused_connections);
            tracing::warn!(%remote, "refused: limits.diameter_connections is reached");
            continue;
        }
        tokio::task::spawn_local(run(socket, remote, None, shared.clone()));
    }
}

/// The first address of the host that answers.
async fn dial(
    resolver: &Resolver,
    local: Option<SocketAddr>,
    host: &str,
    port: u16,
) -> Result<(TcpStream, SocketAddr), String> {
    let mut last = "the name has no address".to_owned();
    for address in resolver.addresses(host).await? {
        if local.is_some_and(|local| local.is_ipv4() != address.is_ipv4()) {
            continue;
        }
        let remote = SocketAddr::new(address, port);
        match stream::connect(local, remote, None, KEEPALIVE).await {
            Ok(socket) => return Ok((socket, remote)),
            Err(error) => last = format!("{remote}: {error}"),
        }
    }
    Err(last)
}

async fn run(socket: TcpStream, remote: SocketAddr, peer: Option<PeerIndex>, shared: Rc<Shared>) {
    let local = match socket.local_addr() {
        Ok(local) => local,
        Err(error) => {
            tracing::debug!(%remote, %error, "Diameter connection gone at once");
            if let Some(peer) = peer {
                shared.inbox.push(Input::ConnectFailed { peer });
            }
            return;
        }
    };
    let connection = ConnectionId(shared.next.get());
    shared.next.set(connection.0 + 1);
    let stream = Rc::new(Stream::default());
    shared.open.borrow_mut().insert(connection, stream.clone());
    shared.inbox.push(Input::Opened { connection, peer, local, remote });

    let mut buffer = BytesMut::new();
    let limit = shared.limits.diameter_message_bytes;
    let end = stream.serve(socket, &shared.inbox, |piece| {
        buffer.extend_from_slice(piece);
        loop {
            match next_message(&mut buffer, limit) {
                Ok(None) => return ControlFlow::Continue(()),
                Ok(Some(bytes)) => shared.inbox.push(Input::Diameter { connection, bytes }),
                Err(reason) => {
                    count(&shared.inbox.counts.broken_streams);
                    tracing::warn!(%remote, reason, "Diameter connection closed");
                    return ControlFlow::Break(());
                }
            }
        }
    });
    let end = end.await;
    if let End::Failed(error) = &end {
        count(&shared.inbox.counts.send_errors_diameter);
        tracing::debug!(%remote, %error, "Diameter connection failed");
    }
    shared.open.borrow_mut().remove(&connection);
    shared.inbox.push(Input::Closed { connection });
}

/// RFC 6733 §3: version, then the length of the whole message in three octets.
fn next_message(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, &'static str> {
    let Some(&[version, high, middle, low]) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    if version != VERSION {
        return Err("not version 1 of Diameter");
    }
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    if length < HEADER_BYTES || !length.is_multiple_of(4) {
        return Err("the length in a Diameter header is impossible");
    }
    if length > limit {
        return Err("a Diameter message is longer than limits.diameter_message_bytes");
    }
    if buffer.len() < length {
        buffer.reserve(length - buffer.len());
        return Ok(None);
    }
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6733 §3: messages are cut at their length, whatever the pieces.
    #[test]
    fn cuts_messages_at_their_length() {
        let mut message = vec![0u8; 24];
        message[..4].copy_from_slice(&[1, 0, 0, 24]);
        let mut buffer = BytesMut::from(&message[..]);
        buffer.extend_from_slice(&message[..7]);
        assert_eq!(next_message(&mut buffer, 100).unwrap().unwrap(), message);
        assert_eq!(next_message(&mut buffer, 100), Ok(None));
        buffer.extend_from_slice(&message[7..]);
        assert_eq!(next_message(&mut buffer, 100).unwrap().unwrap(), message);
        for bad in [[2, 0, 0, 24], [1, 0, 0, 16], [1, 0, 0, 22], [1, 1, 0, 0]] {
            assert!(next_message(&mut BytesMut::from(&bad[..]), 100).is_err(), "{bad:?}");
        }
    }
}
