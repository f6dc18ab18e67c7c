//! What passes on the links of the lab: packet sockets on s1u, s5u, sgi and the router of the core,
//! and the capture that the eNodeB writes of its radio side. Each packet once, with the kernel's
//! time; into one pcapng file per link where that is wanted, and to whoever watches.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use lte::pcapng::{Direction, LinkType, Reader, Writer};
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::topology::{CAPTURED_LINKS, ROUTER, Topology};

/// Packets waiting for the watcher; what does not fit is counted and not watched.
const QUEUE: usize = 65_536;
/// How often the radio's capture is looked at.
const RADIO_INTERVAL: Duration = Duration::from_millis(20);

/// A packet seen on a link.
#[derive(Clone, Debug)]
pub struct Seen {
    pub link: &'static str,
    /// Since the Unix epoch.
    pub time: Duration,
    pub link_type: LinkType,
    pub packet: Vec<u8>,
}

/// The running capture. It ends with this value.
pub struct Capture {
    pub seen: mpsc::Receiver<Seen>,
    sender: mpsc::Sender<Seen>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    unwatched: Rc<RefCell<u64>>,
}

impl Capture {
    /// Begins to capture all links but the radio. Needs a `LocalSet` around it.
    pub fn start(topology: &Topology, directory: Option<&Path>) -> Result<Capture, String> {
        let (sender, seen) = mpsc::channel(QUEUE);
        let unwatched = Rc::new(RefCell::new(0));
        let mut tasks = Vec::new();
        let links = CAPTURED_LINKS.into_iter().map(|(l, n, interface)| (l, n, Some(interface)));
        for (link, namespace, interface) in links.chain([("core", ROUTER, None)]) {
            let named = |error: io::Error| format!("capture of {link}: {error}");
            let path = topology.namespace(namespace).path();
            let socket = lte::namespace::within(Some(&path), || open(interface)).map_err(named)?;
            let writer = match directory {
                Some(directory) => {
                    let path = file_of(directory, link);
                    let file = File::create(&path)
                        .map_err(|error| format!("{}: {error}", path.display()))?;
                    let mut writer = Writer::new(file).map_err(named)?;
                    writer.interface(link, LinkType::Ethernet).map_err(named)?;
                    Some(writer)
                }
                None => None,
            };
            let tap = Tap { link, sender: sender.clone(), writer, unwatched: unwatched.clone() };
            tasks.push(tokio::task::spawn_local(follow_link(watch(socket).map_err(named)?, tap)));
        }
        Ok(Capture { seen, sender, tasks, unwatched })
    }

    /// Also watches the capture that the eNodeB writes.
    pub fn follow_radio(&mut self, path: &Path) -> Result<(), String> {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let (sender, unwatched) = (self.sender.clone(), self.unwatched.clone());
        self.tasks.push(tokio::task::spawn_local(follow_radio(file, sender, unwatched)));
        Ok(())
    }

    /// How many packets the watcher was too slow for.
    pub fn unwatched(&self) -> u64 {
        *self.unwatched.borrow()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The file of a link in the directory of captures.
pub fn file_of(directory: &Path, link: &str) -> PathBuf {
    directory.join(format!("{link}.pcapng"))
}

/// A packet socket on one interface with both directions; or on all of a namespace with what comes
/// in, so that what is routed from one to another is seen once.
fn open(interface: Option<&str>) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the call has no memory to respect; its result is checked and owned once.
    let socket = unsafe {
        let descriptor = libc::socket(libc::AF_PACKET, kind, 0);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    let index = match interface {
        Some(name) => nix::net::if_::if_nametoindex(name)? as i32,
        None => {
            const PACKET_IGNORE_OUTGOING: i32 = 23;
            let on: i32 = 1;
            // SAFETY: `on` outlives the call, and its size is the one stated.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_PACKET,
                    PACKET_IGNORE_OUTGOING,
                    (&raw const on).cast(),
                    size_of::<i32>() as u32,
                )
            };
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
            0
        }
    };
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    // The forced size needs a capability that only real root has.
    let size = 8 << 20;
    if setsockopt(&socket, sockopt::RcvBufForce, &size).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &size)?;
    }
    // SAFETY: a sockaddr_ll of zeros is valid, and it outlives the call with its true size.
    let result = unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the answer and closed only with it.
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    watched.map_err(|error| error.into_parts().1)
}

struct Tap {
    link: &'static str,
    sender: mpsc::Sender<Seen>,
    writer: Option<Writer<File>>,
    unwatched: Rc<RefCell<u64>>,
}

async fn follow_link(socket: AsyncFd<OwnedFd>, mut tap: Tap) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        for _ in 0..64 {
            let received = ready.try_io(|socket| receive(socket.get_ref(), &mut buffer));
            let Ok(Ok((time, direction, length))) = received else { break };
            tap.take(time, direction, &buffer[..length]);
        }
        drop(ready);
        tokio::task::yield_now().await;
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(Duration, Direction, usize)> {
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let mut time = Duration::ZERO;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmTimestampns(at) = control {
            time = Duration::new(at.tv_sec() as u64, at.tv_nsec() as u32);
        }
    }
    let kind = message.address.map_or(0, |address| address.pkttype());
    let direction = match kind {
        libc::PACKET_OUTGOING => Direction::Outbound,
        _ => Direction::Inbound,
    };
    Ok((time, direction, message.bytes))
}

impl Tap {
    fn take(&mut self, time: Duration, direction: Direction, packet: &[u8]) {
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.packet(0, time, direction, packet)
        {
            tracing::warn!(link = self.link, %error, "capture ends");
            self.writer = None;
        }
        let packet = packet.to_vec();
        let seen = Seen { link: self.link, time, link_type: LinkType::Ethernet, packet };
        if self.sender.try_send(seen).is_err() {
            *self.unwatched.borrow_mut() += 1;
        }
    }
}

async fn follow_radio(file: File, sender: mpsc::Sender<Seen>, unwatched: Rc<RefCell<u64>>) {
    let mut reader = Reader::new(file);
    let mut interval = tokio::time::interval(RADIO_INTERVAL);
    loop {
        interval.tick().await;
        loop {
            let captured = match reader.next_packet() {
                Ok(Some(captured)) => captured,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "the radio's capture cannot be read");
                    return;
                }
            };
            let seen = Seen {
                link: "radio",
                time: captured.time,
                link_type: LinkType::RawIp,
                packet: captured.packet,
            };
            if sender.try_send(seen).is_err() {
                *unwatched.borrow_mut() += 1;
            }
        }
    }
}
