//! Where the phone's packets go: the LTE transport's radio socket, or a TUN device of our own.
//!
//! The phone's address is not the TUN device's: the kernel would keep the packets to it. The device
//! has no address at all, and a route to the phone's address.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use lte::attach::{Attached, IpVersion};
use lte::radio::{self, Message, Record};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::program::End;
use crate::program::arguments::Access;

/// How long an eNodeB may take to answer an attach.
const ATTACH: Duration = Duration::from_secs(5);
/// The phone's number on its connection to the eNodeB.
const REFERENCE: u32 = 1;
/// Octets of a packet that the TUN device takes.
pub(crate) const TUN_MTU: u16 = 1500;

/// Packets that may wait for us in the TUN device.
const TUN_QUEUE: u32 = 10_000;

/// An open bearer.
#[derive(Debug)]
pub struct Bearer {
    link: Link,
    pub address: IpAddr,
    /// What the network says, if it does.
    pub pcscf: Option<IpAddr>,
    pub mtu: usize,
    /// What the host still needs, in sentences.
    pub advice: Vec<String>,
}

enum Link {
    Radio(AsyncFd<Socket>),
    Tun(AsyncFd<SyncDevice>),
}

/// What comes from the bearer.
#[derive(Debug)]
pub enum Received {
    Packet(Bytes),
    /// The bearer is no more: why.
    Gone(String),
}

impl Bearer {
    /// Attaches, or makes the device.
    ///
    /// # Errors
    /// [`End::Missing`] for what the host lacks, [`End::Refused`] when the network gives no bearer.
    pub async fn open(access: &Access, pcscf: Option<SocketAddr>) -> Result<Bearer, End> {
        match access {
            Access::Radio { socket, imsi, version } => attach(socket, imsi, *version).await,
            Access::Tun { name, address } => make_tun(name, *address, pcscf).map_err(End::Missing),
        }
    }

    /// The next packet for the phone. Nothing is lost when the answer is not awaited.
    pub async fn receive(&self, buffer: &mut [u8]) -> Received {
        loop {
            let length = match self.read(buffer).await {
                Ok(0) => return Received::Gone("the eNodeB has closed the connection".to_owned()),
                Ok(length) => length,
                Err(error) => return Received::Gone(error.to_string()),
            };
            let bytes = &buffer[..length];
            match self.link {
                Link::Tun(_) if destination(bytes) == Some(self.address) => {
                    return Received::Packet(Bytes::copy_from_slice(bytes));
                }
                // The kernel's own multicast.
                Link::Tun(_) => {}
                Link::Radio(_) => match radio::decode(bytes) {
                    Ok(Record { message: Message::Data(packet), .. }) => {
                        return Received::Packet(Bytes::copy_from_slice(packet));
                    }
                    Ok(Record { message: Message::Detached { reason }, .. }) => {
                        return Received::Gone(format!("detached: {reason}"));
                    }
                    _ => {}
                },
            }
        }
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.link {
            Link::Radio(socket) => receive_record(socket, buffer).await,
            Link::Tun(device) => loop {
                let mut ready = device.readable().await?;
                if let Ok(result) = ready.try_io(|device| device.get_ref().recv(buffer)) {
                    return result;
                }
            },
        }
    }

    /// Sends a packet of the phone's. What is not taken is lost, as on a radio link.
    pub fn send(&self, packet: &[u8]) {
        let _ = match &self.link {
            Link::Radio(socket) => {
                let record = Record { reference: REFERENCE, message: Message::Data(packet) };
                socket.get_ref().send(&record.encode())
            }
            Link::Tun(device) => device.get_ref().send(packet),
        };
    }
}

async fn attach(path: &Path, imsi: &str, version: IpVersion) -> Result<Bearer, End> {
    let missing = |error: io::Error| {
        let path = path.display();
        End::Missing(format!("{path}: {error}: is the LTE transport running (radio.socket)?"))
    };
    let socket = radio::connect(path).map_err(missing)?;
    socket.set_nonblocking(true).map_err(missing)?;
    let socket = watch(socket).map_err(missing)?;
    let attach = Record { reference: REFERENCE, message: Message::Attach { version, imsi } };
    socket.get_ref().send(&attach.encode()).map_err(missing)?;
    let mut buffer = vec![0; radio::RECORD_LIMIT];
    let answer = tokio::time::timeout(ATTACH, receive_record(&socket, &mut buffer)).await;
    let length = match answer {
        Ok(received) => received.map_err(missing)?,
        Err(_) => {
            return Err(End::Refused(
                "no bearer: the eNodeB does not answer the attach".to_owned(),
            ));
        }
    };
    match radio::decode(&buffer[..length]) {
        Ok(Record { message: Message::Attached(attached), .. }) => {
            let Attached { address, pcscf, mtu, .. } = attached;
            let link = Link::Radio(socket);
            let mtu = usize::from(mtu);
            Ok(Bearer { link, address, pcscf: Some(pcscf), mtu, advice: Vec::new() })
        }
        Ok(Record { message: Message::Refused { reason }, .. }) => {
            Err(End::Refused(format!("no bearer: attach refused: {reason}")))
        }
        _ => Err(End::Refused("no bearer: the eNodeB's answer is not understood".to_owned())),
    }
}

async fn receive_record(socket: &AsyncFd<Socket>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = socket.readable().await?;
        if let Ok(result) = ready.try_io(|socket| (&mut socket.get_ref()).read(buffer)) {
            return result;
        }
    }
}

fn watch<T: AsRawFd>(file: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the answer owns the socket or device, and closes it only when it is dropped itself.
    let watched = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
    watched.map_err(|error| error.into_parts().1)
}

fn make_tun(name: &str, address: IpAddr, pcscf: Option<SocketAddr>) -> Result<Bearer, String> {
    if is_local(address) {
        return Err(format!(
            "--address {address}: this host has it; the phone needs one of its own"
        ));
    }
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let device = open_tun(name, address, prefix)?;
    let link = Link::Tun(watch(device).map_err(|error| format!("TUN {name}: {error}"))?);
    let advice = advice(address, pcscf.map(|pcscf| pcscf.ip()));
    Ok(Bearer { link, address, pcscf: None, mtu: usize::from(TUN_MTU), advice })
}

/// A TUN device of that name that does not block, and a route to the prefix by it.
///
/// # Errors
/// What this host lacks, in a sentence.
pub(crate) fn open_tun(name: &str, address: IpAddr, prefix: u8) -> Result<SyncDevice, String> {
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
        return Err(format!(
            "/dev/net/tun is not accessible: {error} (load the module tun; give a container the \
             device; run as root)"
        ));
    }
    let device = DeviceBuilder::new().name(name).mtu(TUN_MTU).build_sync().map_err(|error| {
        match error.raw_os_error() {
            Some(libc::EPERM) => {
                format!("TUN {name}: no CAP_NET_ADMIN: run as root, or give the capability")
            }
            Some(libc::EBUSY) => format!("TUN {name}: another program uses a device of that name"),
            _ => format!("TUN {name}: {error}"),
        }
    })?;
    let interface = device.if_index().map_err(|error| format!("TUN {name}: {error}"))?;
    device.set_nonblocking(true).map_err(|error| format!("TUN {name}: {error}"))?;
    // A burst of many phones must fit. Only root of the host may say so: elsewhere it is shorter, and
    // what does not fit is counted as lost.
    let _ = device.set_tx_queue_len(TUN_QUEUE);
    add_route(address, prefix, interface)
        .map_err(|error| format!("route to {address}/{prefix} by {name}: {error}"))?;
    Ok(device)
}

/// What else is needed on the way to a P-CSCF that is not on this host.
pub(crate) fn advice(address: IpAddr, pcscf: Option<IpAddr>) -> Vec<String> {
    if pcscf.is_none_or(is_local) {
        return Vec::new();
    }
    let setting = match address {
        IpAddr::V4(_) => "net.ipv4.ip_forward",
        IpAddr::V6(_) => "net.ipv6.conf.all.forwarding",
    };
    let path = format!("/proc/sys/{}", setting.replace('.', "/"));
    let mut advice = Vec::new();
    if !std::fs::read_to_string(path).is_ok_and(|value| value.trim() != "0") {
        advice.push(format!("this host does not forward: sysctl -w {setting}=1"));
    }
    advice.push(format!(
        "the way back must lead here: a route to {address} by this host, at the P-CSCF or its \
         router, and no NAT (ESP does not pass it)"
    ));
    advice
}

/// An interface of this host has the address.
pub(crate) fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

pub(crate) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => {
            let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
        6 => {
            let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// A route to a prefix by an interface, which takes the route with it when it goes.
///
/// RTM_NEWROUTE of rtnetlink (RFC 3549 §3.1.1).
fn add_route(address: IpAddr, prefix: u8, interface: u32) -> io::Result<()> {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut body = vec![
        family as u8,
        prefix,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        libc::RT_SCOPE_LINK,
        libc::RTN_UNICAST,
    ];
    body.extend_from_slice(&0u32.to_ne_bytes());
    for (kind, value) in [(libc::RTA_DST, &octets[..]), (libc::RTA_OIF, &interface.to_ne_bytes())] {
        body.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(value);
    }
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
    message.extend_from_slice(&libc::RTM_NEWROUTE.to_ne_bytes());
    message.extend_from_slice(&(flags as u16).to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&body);

    let protocol = Protocol::from(libc::NETLINK_ROUTE);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
    socket.send(&message)?;
    let mut answer = [0; 1024];
    let length = (&mut &socket).read(&mut answer)?;
    // An acknowledgement is an error message with error 0; a negative one is an errno.
    let error = answer[..length].get(16..20).and_then(|octets| octets.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Link::Radio(_) => "Radio",
            Link::Tun(_) => "Tun",
        })
    }
}
