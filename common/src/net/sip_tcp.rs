//! TCP for SIP (RFC 3261 §18): connections by flow, cut into messages, failures told to the core.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::inbox::{Inbox, count};
use super::stream::{self, End, Stream};
use crate::limits::Limits;
use crate::node::{Flow, Input, Transport};
use crate::sip::framer::{Broken, Frame, Framer};
use crate::sip::header::Name;
use crate::sip::message::{Message, Method};

/// A flow used this long ago has nothing outstanding any more (64·T1 of the core network).
const OUTSTANDING: Duration = Duration::from_secs(32);
/// How long a connection is idle before the peer is probed: a probe wakes the radio of a phone, and what
/// has gone shows when there is something to send.
const KEEPALIVE: Duration = Duration::from_secs(15 * 60);
/// Between two looks for idle connections where there were too few.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// All TCP connections of a daemon that carry SIP.
pub(super) struct SipConnections {
    shared: Rc<Shared>,
    /// Connections written to in this turn.
    dirty: Vec<Rc<Connection>>,
}

struct Shared {
    inbox: Rc<Inbox>,
    limits: Limits,
    table: RefCell<Table>,
    /// Local addresses that are bound to an interface (protected ports of the user-space plane).
    devices: Vec<(SocketAddr, String)>,
}

#[derive(Default)]
struct Table {
    by_pair: HashMap<(SocketAddr, SocketAddr), Rc<Connection>>,
    by_remote: HashMap<SocketAddr, Vec<Rc<Connection>>>,
    count: usize,
    /// Of those, how many are being closed to make room.
    leaving: usize,
    /// When idle connections were looked for, and not enough found.
    looked: Option<Instant>,
}

struct Connection {
    stream: Stream,
    /// With port 0 until the connection is open, when the port does not matter.
    local: Cell<SocketAddr>,
    remote: SocketAddr,
    /// Flows by which the core wrote here, and when last.
    used: RefCell<Vec<(Flow, Instant)>>,
    /// When something last went either way.
    active: Cell<Instant>,
    is_leaving: Cell<bool>,
    is_dirty: Cell<bool>,
}

impl SipConnections {
    /// Listens on the addresses, each with the interface that it is bound to, if any.
    pub fn open(
        addresses: &[(SocketAddr, Option<String>)],
        protected: Vec<(SocketAddr, String)>,
        inbox: &Rc<Inbox>,
        limits: &Limits,
    ) -> Result<SipConnections, String> {
        let shared = Rc::new(Shared {
            inbox: inbox.clone(),
            limits: limits.clone(),
            table: RefCell::default(),
            devices: protected,
        });
        for (address, device) in addresses {
            let listener = stream::listen(*address, device.as_deref())
                .map_err(|error| format!("sip tcp {address}: cannot be bound: {error}"))?;
            tokio::task::spawn_local(accept(listener, shared.clone()));
        }
        Ok(SipConnections { shared, dirty: Vec::new() })
    }

    /// Queues a message for [`SipConnections::flush`], on the open connection of the flow or on a
    /// new one.
    pub fn send(&mut self, flow: Flow, bytes: Bytes) {
        let open = self.shared.table.borrow().find(&flow);
        let Some(connection) = open.or_else(|| dial(&self.shared, flow)) else {
            count(&self.shared.inbox.counts.refused_connections);
            return self.shared.inbox.push(Input::Unreachable { flow });
        };
        connection.note_use(flow);
        connection.active.set(Instant::now());
        if !connection.stream.enqueue(bytes) {
            count(&self.shared.inbox.counts.send_errors_tcp);
            connection.stream.abort();
            return self.shared.inbox.push(Input::Unreachable { flow });
        }
        if !connection.is_dirty.replace(true) {
            self.dirty.push(connection);
        }
    }

    /// Writes what is queued, each connection with as few calls as can be.
    pub fn flush(&mut self) {
        for connection in self.dirty.drain(..) {
            connection.is_dirty.set(false);
            connection.stream.flush();
        }
    }

    /// Ends a connection whose associations are about to go (a cached route would still encrypt for
    /// them).
    pub fn disconnect(&self, local: SocketAddr, remote: SocketAddr) {
        if let Some(connection) = self.shared.table.borrow().by_pair.get(&(local, remote)) {
            connection.stream.disconnect();
        }
    }

    pub fn len(&self) -> usize {
        self.shared.table.borrow().count
    }

    /// Whether everything handed over has been given to the kernel.
    pub fn is_written(&self) -> bool {
        let table = self.shared.table.borrow();
        table.by_remote.values().flatten().all(|connection| !connection.stream.has_queued())
    }
}

impl Shared {
    /// Whether there may be another connection. Near the limit, those that have been idle longest are
    /// closed to make room for those to come.
    fn has_room(&self) -> bool {
        let limit = self.limits.sip_connections;
        let share = limit / 16;
        let mut table = self.table.borrow_mut();
        if table.count - table.leaving >= limit - share && !table.has_just_looked() {
            let idle = Duration::from_secs(self.limits.sip_connection_idle_seconds);
            let closed = table.close_idle(idle, share.max(1));
            table.looked = (closed < share).then(Instant::now);
            self.inbox.counts.closed_idle.set(self.inbox.counts.closed_idle.get() + closed as u64);
        }
        table.count - table.leaving < limit
    }

    fn device(&self, local: SocketAddr) -> Option<&str> {
        self.devices.iter().find(|(address, _)| *address == local).map(|(_, name)| name.as_str())
    }
}

impl Table {
    fn find(&self, flow: &Flow) -> Option<Rc<Connection>> {
        let usable = |connection: &&Rc<Connection>| !connection.stream.is_closing();
        if flow.local.port() != 0 {
            return self.by_pair.get(&(flow.local, flow.remote)).filter(usable).cloned();
        }
        let is_ours = |connection: &&Rc<Connection>| {
            usable(connection)
                && (flow.local.ip().is_unspecified()
                    || connection.local.get().ip() == flow.local.ip())
        };
        self.by_remote.get(&flow.remote)?.iter().find(is_ours).cloned()
    }

    /// Not again for a moment when too few were found: it takes a look at all of them.
    fn has_just_looked(&self) -> bool {
        self.looked.is_some_and(|looked| looked.elapsed() < LOOK_INTERVAL)
    }

    /// Begins to close up to `count` connections, those idle longest, and says how many.
    fn close_idle(&mut self, idle: Duration, count: usize) -> usize {
        let is_idle = |connection: &&Rc<Connection>| {
            connection.active.get().elapsed() >= idle
                && !connection.stream.is_closing()
                && !connection.stream.has_queued()
        };
        let all = self.by_remote.values().flatten();
        let mut found: Vec<Rc<Connection>> = all.filter(is_idle).cloned().collect();
        if found.len() > count {
            found.select_nth_unstable_by_key(count, |connection| connection.active.get());
            found.truncate(count);
        }
        for connection in &found {
            connection.is_leaving.set(true);
            connection.stream.close();
        }
        self.leaving += found.len();
        found.len()
    }

    fn insert(&mut self, connection: &Rc<Connection>) {
        self.count += 1;
        self.by_remote.entry(connection.remote).or_default().push(connection.clone());
        self.insert_pair(connection);
    }

    fn insert_pair(&mut self, connection: &Rc<Connection>) {
        if connection.local.get().port() != 0 {
            let pair = (connection.local.get(), connection.remote);
            self.by_pair.insert(pair, connection.clone());
        }
    }

    fn remove(&mut self, connection: &Rc<Connection>) {
        self.count -= 1;
        self.leaving -= usize::from(connection.is_leaving.get());
        let pair = (connection.local.get(), connection.remote);
        if self.by_pair.get(&pair).is_some_and(|other| Rc::ptr_eq(other, connection)) {
            self.by_pair.remove(&pair);
        }
        if let Some(connections) = self.by_remote.get_mut(&connection.remote) {
            connections.retain(|other| !Rc::ptr_eq(other, connection));
            if connections.is_empty() {
                self.by_remote.remove(&connection.remote);
            }
        }
    }
}

impl Connection {
    fn new(local: SocketAddr, remote: SocketAddr) -> Rc<Connection> {
        Rc::new(Connection {
            stream: Stream::default(),
            local: Cell::new(local),
            remote,
            used: RefCell::default(),
            active: Cell::new(Instant::now()),
            is_leaving: Cell::new(false),
            is_dirty: Cell::new(false),
        })
    }

    fn note_use(&self, flow: Flow) {
        let mut used = self.used.borrow_mut();
        match used.iter_mut().find(|(other, _)| *other == flow) {
            Some((_, last)) => *last = Instant::now(),
            None => used.push((flow, Instant::now())),
        }
    }
}

async fn accept(listener: TcpListener, shared: Rc<Shared>) {
    loop {
        let (socket, remote) = stream::accept(&listener, KEEPALIVE).await;
        let Ok(local) = socket.local_addr() else { continue };
        if !shared.has_room() {
            count(&shared.inbox.counts.refused_connections);
            tracing::debug!(%remote, "connection refused: limits.sip_connections is reached");
            continue;
        }
        let connection = Connection::new(local, remote);
        shared.table.borrow_mut().insert(&connection);
        let shared = shared.clone();
        tokio::task::spawn_local(async move {
            let end = serve(&connection, socket, &shared).await;
            ended(&connection, end, &shared);
        });
    }
}

/// A new connection for the flow; `None` when there are too many.
fn dial(shared: &Rc<Shared>, flow: Flow) -> Option<Rc<Connection>> {
    if !shared.has_room() {
        return None;
    }
    let connection = Connection::new(flow.local, flow.remote);
    shared.table.borrow_mut().insert(&connection);
    let (task, shared) = (connection.clone(), shared.clone());
    tokio::task::spawn_local(async move {
        let device = shared.device(flow.local);
        let opened = tokio::select! {
            opened = stream::connect(Some(flow.local), flow.remote, device, KEEPALIVE) => opened,
            () = task.stream.aborted() => Err(std::io::ErrorKind::ConnectionAborted.into()),
        };
        let end = match opened {
            Ok(socket) => {
                if let Ok(local) = socket.local_addr() {
                    task.local.set(local);
                    shared.table.borrow_mut().insert_pair(&task);
                }
                serve(&task, socket, &shared).await
            }
            Err(error) => End::Failed(error),
        };
        ended(&task, end, &shared);
    });
    Some(connection)
}

async fn serve(connection: &Connection, socket: TcpStream, shared: &Shared) -> End {
    let flow = Flow {
        transport: Transport::Tcp,
        local: connection.local.get(),
        remote: connection.remote,
    };
    let mut framer = Framer::default();
    let end = connection.stream.serve(socket, &shared.inbox, |piece| {
        framer.push(piece);
        connection.active.set(Instant::now());
        loop {
            match framer.next(&shared.limits) {
                Ok(None) => return ControlFlow::Continue(()),
                Ok(Some(Frame::Message(bytes))) => shared.inbox.push(Input::Sip { flow, bytes }),
                // RFC 5626 §4.4.1: a double CRLF is answered by a single one.
                Ok(Some(Frame::Ping)) => {
                    if connection.stream.enqueue(Bytes::from_static(b"\r\n")) {
                        connection.stream.flush();
                    }
                }
                Err(broken) => {
                    count(&shared.inbox.counts.broken_streams);
                    tracing::debug!(?flow, reason = broken.reason, "stream cannot be cut");
                    if let Some(answer) = refusal(&broken, &shared.limits)
                        && connection.stream.enqueue(answer)
                    {
                        connection.stream.flush();
                    }
                    return ControlFlow::Break(());
                }
            }
        }
    });
    end.await
}

/// RFC 3261 §18.3: 400 to a request whose end cannot be found.
fn refusal(broken: &Broken, limits: &Limits) -> Option<Bytes> {
    let Ok(Message::Request(request)) = Message::parse(broken.head.clone(), limits) else {
        return None;
    };
    if request.method() == Method::Ack || !request.headers().has(Name::Via) {
        return None;
    }
    let mut response = request.response(400, broken.reason);
    if request.to_tag().is_none()
        && let Some(to) = request.headers().get(Name::To)
    {
        response.headers_mut().set(Name::To, &format!("{to};tag=unframed"));
    }
    Some(response.to_bytes())
}

/// RFC 3261 §18.4: the core hears of what was under way.
fn ended(connection: &Rc<Connection>, end: End, shared: &Shared) {
    shared.table.borrow_mut().remove(connection);
    let remote = connection.remote;
    match &end {
        End::Asked | End::ByPeer | End::Broken => {
            tracing::debug!(%remote, ?end, "SIP connection ended");
        }
        End::Failed(error) => {
            count(&shared.inbox.counts.send_errors_tcp);
            tracing::debug!(%remote, %error, "SIP connection failed");
        }
    }
    let is_broken = matches!(end, End::Failed(_)) || connection.stream.has_queued();
    for (flow, last) in connection.used.borrow_mut().drain(..) {
        if last.elapsed() < OUTSTANDING {
            shared.inbox.push(match is_broken {
                true => Input::Unreachable { flow },
                false => Input::Ended { flow },
            });
        }
    }
}
