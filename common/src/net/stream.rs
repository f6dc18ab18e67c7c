//! One stream connection, whatever runs on it: a bounded queue, the writes of a turn gathered, and
//! reading that stops while too much waits.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;

use super::inbox::Inbox;

/// Bytes that may wait on one connection; more is a peer that does not read.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// With more than this waiting, nothing is read from that peer.
const QUEUE_BYTES_PAUSE: usize = 1024 * 1024;
/// Buffers handed to the kernel with one call.
const GATHERED: usize = 64;
const READ_BYTES: usize = 64 * 1024;
const BACKLOG: i32 = 1024;
/// How long a peer may leave data unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// A connection that is open or being opened.
#[derive(Debug, Default)]
pub(super) struct Stream {
    socket: OnceCell<TcpStream>,
    queue: RefCell<VecDeque<Bytes>>,
    queued_bytes: Cell<usize>,
    closing: Cell<Closing>,
    wake: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Closing {
    #[default]
    No,
    /// When the queue has been written.
    AfterQueue,
    /// At once, with a reset, so that no TIME_WAIT keeps the local port.
    Now,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// We closed it.
    Asked,
    ByPeer,
    Failed(io::Error),
    /// What arrived made no sense.
    Broken,
}

impl Stream {
    /// Queues bytes; false when too much waits already.
    pub fn enqueue(&self, bytes: Bytes) -> bool {
        let queued = self.queued_bytes.get() + bytes.len();
        if queued > QUEUE_BYTES || self.closing.get() != Closing::No {
            return false;
        }
        self.queued_bytes.set(queued);
        self.queue.borrow_mut().push_back(bytes);
        true
    }

    /// Writes what the kernel takes now; the connection's task writes the rest.
    pub fn flush(&self) {
        let Some(socket) = self.socket.get() else { return };
        match self.write(socket) {
            Ok(()) if self.queue.borrow().is_empty() => {}
            Ok(()) => self.wake.notify_one(),
            Err(_) => self.abort(),
        }
    }

    /// Closes when everything queued has been written.
    pub fn close(&self) {
        if self.closing.get() == Closing::No {
            self.closing.set(Closing::AfterQueue);
        }
        self.wake.notify_one();
    }

    /// Closes at once.
    pub fn abort(&self) {
        self.closing.set(Closing::Now);
        self.wake.notify_one();
    }

    /// Closes at once, and the reset leaves before this returns: what would have protected it may be
    /// gone afterwards.
    pub fn disconnect(&self) {
        if let Some(socket) = self.socket.get() {
            disconnect(socket);
        }
        self.abort();
    }

    pub fn is_closing(&self) -> bool {
        self.closing.get() != Closing::No
    }

    pub fn has_queued(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// Waits until the connection is to be closed; for use while it is being opened.
    pub async fn aborted(&self) {
        while self.closing.get() != Closing::Now {
            self.wake.notified().await;
        }
    }

    /// Runs the open connection to its end. `received` gets every piece that arrives.
    pub async fn serve(
        &self,
        socket: TcpStream,
        inbox: &Inbox,
        mut received: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> End {
        let socket = self.socket.get_or_init(|| socket);
        let mut buffer = Vec::new();
        loop {
            match self.closing.get() {
                Closing::Now => {
                    // Failing means that the connection is gone already.
                    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
                    return End::Asked;
                }
                Closing::AfterQueue if !self.has_queued() => return End::Asked,
                _ => {}
            }
            let may_read = inbox.has_room() && self.queued_bytes.get() <= QUEUE_BYTES_PAUSE;
            tokio::select! {
                ready = socket.readable(), if may_read => {
                    let step = ready.and_then(|()| read(socket, &mut buffer));
                    match step {
                        Ok(0) => return End::ByPeer,
                        Ok(count) => if received(&buffer[..count]).is_break() {
                            return End::Broken;
                        },
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            buffer = Vec::new();
                        }
                        Err(error) => return End::Failed(error),
                    }
                }
                () = inbox.room(), if !inbox.has_room() => {}
                ready = socket.writable(), if self.has_queued() => {
                    if let Err(error) = ready.and_then(|()| self.write(socket)) {
                        return End::Failed(error);
                    }
                }
                () = self.wake.notified() => {}
            }
        }
    }

    fn write(&self, socket: &TcpStream) -> io::Result<()> {
        let mut queue = self.queue.borrow_mut();
        while !queue.is_empty() {
            let slices: Vec<IoSlice<'_>> =
                queue.iter().take(GATHERED).map(|bytes| IoSlice::new(bytes)).collect();
            let mut written = match socket.try_write_vectored(&slices) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.queued_bytes.set(self.queued_bytes.get() - written);
            while let Some(first) = queue.front_mut() {
                if first.len() > written {
                    let _ = first.split_to(written);
                    break;
                }
                written -= first.len();
                queue.pop_front();
            }
        }
        Ok(())
    }
}

/// Connecting to no family dissolves a connection (connect(2)).
fn disconnect(socket: &TcpStream) {
    use std::os::fd::AsRawFd;
    let nowhere =
        libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the descriptor is open and the address outlives the call. Failing means that the
    // connection is gone already.
    unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, length) };
}

/// An idle connection holds no buffer: it is made when something arrives.
fn read(socket: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    if buffer.is_empty() {
        buffer.resize(READ_BYTES, 0);
    }
    socket.try_read(buffer)
}

/// Opens a listening socket. Connections may later be opened from the same port (port_pc), so it
/// shares the port with sockets of this user; another listener there is refused first.
pub(super) fn listen(address: SocketAddr, device: Option<&str>) -> io::Result<TcpListener> {
    let probe = listening_socket(address)?;
    probe.bind(&address.into())?;
    probe.listen(BACKLOG)?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    let socket = listening_socket(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
        clamp_segments(&socket)?;
    }
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether [`listen`] could be called now.
pub(super) fn check_listen(address: SocketAddr) -> io::Result<()> {
    let probe = listening_socket(address)?;
    probe.bind(&address.into())?;
    probe.listen(1)
}

fn listening_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Connects from `local`, whose port 0 and unspecified address mean any.
pub(super) async fn connect(
    local: Option<SocketAddr>,
    remote: SocketAddr,
    device: Option<&str>,
    keepalive: Duration,
) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(device) = device {
        let socket = SockRef::from(&socket);
        socket.bind_device(Some(device.as_bytes()))?;
        clamp_segments(&socket)?;
    }
    if let Some(local) = local.filter(|local| local.port() != 0 || !local.ip().is_unspecified()) {
        if local.port() == 0 {
            choose_port_at_connect(&socket)?;
        } else {
            socket.set_reuseaddr(true)?;
            socket.set_reuseport(true)?;
        }
        socket.bind(local)?;
    }
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(remote)).await {
        Ok(result) => result?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    prepare(&stream, keepalive)?;
    Ok(stream)
}

/// Options of every open connection. `keepalive`: how long it is idle before the peer is probed.
fn prepare(stream: &TcpStream, keepalive: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(keepalive))
}

/// Segments that still fit a link of 1280 bytes once ESP has been added.
fn clamp_segments(socket: &Socket) -> io::Result<()> {
    const SEGMENT_BYTES: u32 = 1_140;
    socket.set_tcp_mss(SEGMENT_BYTES)
}

/// The kernel picks the port when it knows the other end, so that one local port can serve many.
fn choose_port_at_connect(socket: &TcpSocket) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open and the option's value is one int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Accepts forever; a process out of descriptors waits a little before it tries again.
pub(super) async fn accept(listener: &TcpListener, keepalive: Duration) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => match prepare(&stream, keepalive) {
                Ok(()) => return (stream, remote),
                Err(error) => tracing::debug!(%error, %remote, "connection gone at once"),
            },
            Err(error) => {
                tracing::warn!(%error, "connections cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
