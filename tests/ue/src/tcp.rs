//! TCP of one phone (RFC 9293), by smoltcp: connections by their two addresses, and whole SIP
//! messages out of them.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use common::limits::Limits;
use common::node::{Flow, Now, Transport};
use common::random::Random;
use common::sip::framer::{Frame, Framer};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use crate::packets::{self, Content};

/// Octets of each direction's buffer.
const BUFFER: usize = 4 * 1024;
/// Octets that may wait in front of a full buffer.
const WAITING: usize = 256 * 1024;
/// Connections at a time; one more is refused.
const CONNECTIONS: usize = 16;
/// Silence after which a connection is given up. Long enough for a SYN sent five times.
const TIMEOUT: Duration = Duration::from_secs(32);

/// The TCP stack of one phone. What it runs on is there only while there are connections: most
/// phones have none most of the time, and its buffers are larger than all else of a phone.
pub struct Stack {
    address: IpAddr,
    mtu: usize,
    /// Another one each time that it starts.
    seed: u64,
    next_ephemeral: u16,
    /// Ports that take connections.
    listening: Vec<u16>,
    running: Option<Box<Running>>,
}

/// Interface and connections.
struct Running {
    interface: Interface,
    device: Queues,
    sockets: SocketSet<'static>,
    address: IpAddr,
    /// In the order of opening.
    connections: Vec<Connection>,
    /// Sockets for connections that are being opened from outside, with their ports: made when somebody
    /// knocks, as most phones never see that.
    knocked: Vec<(u16, SocketHandle)>,
    next_ephemeral: u16,
    limits: Limits,
    due: Option<Now>,
}

/// What came of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happened {
    Message {
        flow: Flow,
        bytes: Bytes,
    },
    /// It could not be opened, or ended otherwise than by [`Stack::abort`]: what waits for an answer on it
    /// waits in vain. `flow` is as it was asked for.
    Failed {
        flow: Flow,
    },
    /// It was closed by either side, and what was sent on it had been taken.
    Ended {
        flow: Flow,
    },
}

struct Connection {
    handle: SocketHandle,
    flow: Flow,
    asked: Flow,
    framer: Framer,
    waiting: VecDeque<u8>,
    is_aborted: bool,
    /// Both sides have closed it in order.
    is_closed: bool,
}

impl Stack {
    pub fn new(address: IpAddr, mtu: usize, random: &mut Random) -> Stack {
        let seed = random.u64();
        let next_ephemeral = 49_152 + random.below(8_192) as u16;
        Stack { address, mtu, seed, next_ephemeral, listening: Vec::new(), running: None }
    }

    /// Puts `bytes` on the connection of that flow, and opens one when there is none. A local port
    /// of 0 means any. False when it cannot.
    pub fn send(&mut self, now: Now, flow: Flow, bytes: &[u8]) -> bool {
        self.run().send(now, flow, bytes)
    }

    /// Takes connections at `port` from now on.
    pub fn listen(&mut self, port: u16) {
        if !self.listening.contains(&port) {
            self.listening.push(port);
        }
    }

    /// Ends what goes between the two ports.
    pub fn abort(&mut self, local_port: u16, remote_port: u16) {
        if let Some(running) = &mut self.running {
            running.abort(local_port, remote_port);
        }
    }

    /// The phone has nothing more to say on any connection: FIN, and nothing else.
    pub fn close(&mut self, now: Now) {
        if let Some(running) = &mut self.running {
            running.close(now);
        }
    }

    pub fn stop_listening(&mut self, port: u16) {
        self.listening.retain(|known| *known != port);
    }

    /// True when a connection of the phone's own runs between these two addresses.
    pub fn knows(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.running.as_ref().is_some_and(|running| running.knows(local, remote))
    }

    /// A clear IP packet that carries TCP.
    pub fn receive(&mut self, now: Now, packet: &[u8]) {
        let Some(Content::Tcp { source, destination }) = packets::content(packet) else { return };
        let port = destination.port();
        let is_new = self.listening.contains(&port) && !self.knows(destination, source);
        let running = self.run();
        if is_new {
            running.knock(port);
        }
        running.receive(now, packet);
    }

    pub fn next_timeout(&self) -> Option<Now> {
        self.running.as_ref()?.due
    }

    /// Does what is due: packets to send, messages that are complete.
    pub fn poll(&mut self, now: Now, packets: &mut Vec<Vec<u8>>, happened: &mut Vec<Happened>) {
        let Some(running) = &mut self.running else { return };
        running.poll(now, packets, happened);
        if running.is_idle() {
            self.next_ephemeral = running.next_ephemeral;
            self.running = None;
        }
    }

    fn run(&mut self) -> &mut Running {
        let Stack { address, mtu, seed, next_ephemeral, running, .. } = self;
        running.get_or_insert_with(|| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Box::new(Running::new(*address, *mtu, *seed, *next_ephemeral))
        })
    }
}

impl Running {
    fn new(address: IpAddr, mtu: usize, seed: u64, next_ephemeral: u16) -> Running {
        let mut device = Queues { mtu, arrived: VecDeque::new(), leaving: VecDeque::new() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let prefix = if address.is_ipv4() { 32 } else { 128 };
            let added = addresses.push(IpCidr::new(IpAddress::from(address), prefix));
            debug_assert!(added.is_ok(), "an interface takes at least one address");
        });
        Running {
            interface,
            device,
            sockets: SocketSet::new(Vec::new()),
            address,
            connections: Vec::new(),
            knocked: Vec::new(),
            next_ephemeral,
            limits: Limits::default(),
            due: None,
        }
    }

    /// Nothing runs, and nothing is to be done.
    fn is_idle(&self) -> bool {
        self.connections.is_empty()
            && self.due.is_none()
            && self.device.arrived.is_empty()
            && self.knocked.is_empty()
    }

    /// Puts `bytes` on the connection of that flow, and opens one when there is none. A local port
    /// of 0 means any. False when it cannot.
    fn send(&mut self, now: Now, flow: Flow, bytes: &[u8]) -> bool {
        self.due = Some(now);
        let found = self.connections.iter().position(|connection| {
            connection.flow.remote == flow.remote
                && (flow.local.port() == 0 || connection.flow.local == flow.local)
        });
        let Some(place) = found.or_else(|| self.open(now, flow)) else { return false };
        let connection = &mut self.connections[place];
        if connection.waiting.len() + bytes.len() > WAITING {
            return false;
        }
        connection.waiting.extend(bytes);
        true
    }

    /// The next packet may open a connection to this port.
    fn knock(&mut self, port: u16) {
        if self.connections.len() + self.knocked.len() >= CONNECTIONS {
            return;
        }
        let mut socket = new_socket();
        if socket.listen((IpAddress::from(self.address), port)).is_ok() {
            let handle = self.sockets.add(socket);
            self.knocked.push((port, handle));
        }
    }

    /// Ends what goes between the two ports.
    fn abort(&mut self, local_port: u16, remote_port: u16) {
        for connection in &mut self.connections {
            let ports = (connection.flow.local.port(), connection.flow.remote.port());
            if ports == (local_port, remote_port) {
                self.sockets.get_mut::<Socket>(connection.handle).abort();
                connection.is_aborted = true;
                // At the next poll: the connection is to be forgotten.
                self.due = Some(Now::default());
            }
        }
    }

    fn close(&mut self, now: Now) {
        for connection in &self.connections {
            self.sockets.get_mut::<Socket>(connection.handle).close();
        }
        self.due = Some(now);
    }

    /// True when a connection of the phone's own runs between these two addresses.
    fn knows(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.connections
            .iter()
            .any(|connection| (connection.flow.local, connection.flow.remote) == (local, remote))
    }

    /// A clear IP packet that carries TCP.
    fn receive(&mut self, now: Now, packet: &[u8]) {
        self.device.arrived.push_back(packet.to_vec());
        self.due = Some(now);
    }

    /// Does what is due: packets to send, messages that are complete.
    fn poll(&mut self, now: Now, packets: &mut Vec<Vec<u8>>, happened: &mut Vec<Happened>) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        let timestamp = instant(now);
        self.write();
        self.interface.poll(timestamp, &mut self.device, &mut self.sockets);
        self.accept();
        for place in 0..self.connections.len() {
            self.read(place, happened);
        }
        self.write();
        self.interface.poll(timestamp, &mut self.device, &mut self.sockets);
        self.bury(happened);
        packets.extend(self.device.leaving.drain(..));
        let at = self.interface.poll_at(timestamp, &self.sockets);
        self.due = at.map(|at| moment(at).max(now + std::time::Duration::from_millis(1)));
    }

    fn open(&mut self, now: Now, flow: Flow) -> Option<usize> {
        if self.connections.len() >= CONNECTIONS {
            return None;
        }
        let mut local = flow.local;
        if local.port() == 0 {
            local.set_port(self.next_ephemeral);
            self.next_ephemeral = self.next_ephemeral.checked_add(1).unwrap_or(49_152);
        }
        let handle = self.sockets.add(new_socket());
        let socket = self.sockets.get_mut::<Socket>(handle);
        let opened =
            socket.connect(self.interface.context(), endpoint(flow.remote), endpoint(local));
        if opened.is_err() {
            self.sockets.remove(handle);
            return None;
        }
        self.due = Some(now);
        self.connections.push(Connection::new(handle, Flow { local, ..flow }, flow));
        Some(self.connections.len() - 1)
    }

    /// Turns sockets that have found a peer into connections, and forgets the others: nobody knocked but a
    /// stray packet.
    fn accept(&mut self) {
        for (port, handle) in self.knocked.drain(..) {
            let socket = self.sockets.get::<Socket>(handle);
            let remote = socket
                .remote_endpoint()
                .map(|remote| SocketAddr::new(IpAddr::from(remote.addr), remote.port));
            match remote {
                Some(remote) if !socket.is_listening() => {
                    let local = SocketAddr::new(self.address, port);
                    let flow = Flow { transport: Transport::Tcp, local, remote };
                    self.connections.push(Connection::new(handle, flow, flow));
                }
                _ => {
                    self.sockets.remove(handle);
                }
            }
        }
    }

    fn read(&mut self, place: usize, happened: &mut Vec<Happened>) {
        let connection = &mut self.connections[place];
        let socket = self.sockets.get_mut::<Socket>(connection.handle);
        while socket.can_recv() {
            let framer = &mut connection.framer;
            let taken = socket.recv(|octets| {
                framer.push(octets);
                (octets.len(), octets.len())
            });
            if !matches!(taken, Ok(1..)) {
                break;
            }
        }
        loop {
            match connection.framer.next(&self.limits) {
                Ok(None) => break,
                Ok(Some(Frame::Message(bytes))) => {
                    happened.push(Happened::Message { flow: connection.flow, bytes });
                }
                Ok(Some(Frame::Ping)) => connection.waiting.extend(b"\r\n"),
                Err(_) => {
                    socket.abort();
                    break;
                }
            }
        }
        if socket.state() == State::CloseWait {
            socket.close();
        }
        // Each has acknowledged what the other has sent, up to its end.
        let state = socket.state();
        connection.is_closed |= matches!(state, State::LastAck | State::TimeWait | State::FinWait2);
    }

    fn write(&mut self) {
        for connection in &mut self.connections {
            let socket = self.sockets.get_mut::<Socket>(connection.handle);
            while socket.can_send() && !connection.waiting.is_empty() {
                let (front, _) = connection.waiting.as_slices();
                match socket.send_slice(front) {
                    Ok(sent @ 1..) => drop(connection.waiting.drain(..sent)),
                    _ => break,
                }
            }
        }
    }

    /// Forgets connections that have ended.
    fn bury(&mut self, happened: &mut Vec<Happened>) {
        let sockets = &mut self.sockets;
        self.connections.retain(|connection| {
            let socket = sockets.get::<Socket>(connection.handle);
            // One that was taken and reset before it stood listens again, for anybody.
            if !matches!(socket.state(), State::Closed | State::TimeWait | State::Listen) {
                return true;
            }
            let flow = connection.asked;
            match connection.is_closed && connection.waiting.is_empty() {
                _ if connection.is_aborted => {}
                true => happened.push(Happened::Ended { flow }),
                false => happened.push(Happened::Failed { flow }),
            }
            sockets.remove(connection.handle);
            false
        });
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = self.running.iter();
        let connections = running.flat_map(|running| &running.connections);
        let flows: Vec<_> = connections.map(|connection| connection.flow).collect();
        f.debug_struct("Stack").field("connections", &flows).finish_non_exhaustive()
    }
}

impl Connection {
    fn new(handle: SocketHandle, flow: Flow, asked: Flow) -> Connection {
        let framer = Framer::default();
        Connection {
            handle,
            flow,
            asked,
            framer,
            waiting: VecDeque::new(),
            is_aborted: false,
            is_closed: false,
        }
    }
}

fn new_socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.set_timeout(Some(TIMEOUT));
    socket
}

fn endpoint(address: SocketAddr) -> IpEndpoint {
    IpEndpoint::new(IpAddress::from(address.ip()), address.port())
}

fn instant(now: Now) -> Instant {
    Instant::from_micros(now.elapsed_since_epoch().as_micros() as i64)
}

fn moment(at: Instant) -> Now {
    Now::since_epoch(std::time::Duration::from_micros(at.total_micros() as u64))
}

/// The device under smoltcp: two lists of packets.
struct Queues {
    mtu: usize,
    arrived: VecDeque<Vec<u8>>,
    leaving: VecDeque<Vec<u8>>,
}

struct Arrived(Vec<u8>);
struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Queues {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        Some((Arrived(self.arrived.pop_front()?), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let result = fill(&mut packet);
        self.0.push_back(packet);
        result
    }
}
