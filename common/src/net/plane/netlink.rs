//! Requests to the kernel by netlink: batches with one acknowledgement, dumps, and why a request
//! was refused.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::{Socket, SocketAddr};
use zeroize::{Zeroize, Zeroizing};

const HEADER_BYTES: usize = 16;
const RECEIVE_BYTES: usize = 256 * 1024;
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;

pub(super) const FLAG_CREATE: u16 = 0x400;
pub(super) const FLAG_EXCLUSIVE: u16 = 0x200;
const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACKNOWLEDGE: u16 = 0x4;
const FLAG_DUMP: u16 = 0x300;
const FLAG_ANSWER_HAS_ATTRIBUTES: u16 = 0x200;
const ATTRIBUTE_TEXT: u16 = 1;

/// A netlink socket of one family.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Requests that go to the kernel with one call. Holds keys: wiped when dropped.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Zeroizing<Vec<u8>>,
    starts: Vec<usize>,
}

/// Why the kernel did not do one request of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Place of the request in the batch.
    pub request: usize,
    /// Positive.
    pub errno: i32,
    /// The kernel's own words, often none.
    pub text: String,
}

impl Batch {
    /// Adds a request; `fill` writes its payload of `length` bytes.
    pub fn push(
        &mut self,
        message_type: u16,
        flags: u16,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let start = self.bytes.len();
        let end = start + HEADER_BYTES + length;
        if end > self.bytes.capacity() {
            // Growing would leave a copy behind that nobody wipes.
            let mut larger = Vec::with_capacity((2 * end).max(8 * 1024));
            larger.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.bytes = Zeroizing::new(larger);
        }
        self.bytes.resize(end, 0);
        let request = &mut self.bytes[start..];
        let total = (HEADER_BYTES + length) as u32;
        request[..4].copy_from_slice(&total.to_ne_bytes());
        request[4..6].copy_from_slice(&message_type.to_ne_bytes());
        request[6..8].copy_from_slice(&(FLAG_REQUEST | flags).to_ne_bytes());
        fill(&mut request[HEADER_BYTES..]);
        self.bytes.resize(end.next_multiple_of(4), 0);
        self.starts.push(start);
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    fn number(&mut self, first: u32) {
        for (index, start) in self.starts.iter().enumerate() {
            let sequence = first.wrapping_add(index as u32);
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        }
        // Errors come for every request; success needs to be told only of the last.
        if let Some(last) = self.starts.last() {
            let flags = u16::from_ne_bytes([self.bytes[last + 6], self.bytes[last + 7]]);
            self.bytes[last + 6..last + 8]
                .copy_from_slice(&(flags | FLAG_ACKNOWLEDGE).to_ne_bytes());
        }
    }
}

impl Netlink {
    pub fn open(family: isize) -> io::Result<Netlink> {
        let mut socket = Socket::new(family)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Older kernels lack these; then the errors have fewer words.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        socket.set_rx_buf_sz(SOCKET_BUFFER_BYTES as u32)?;
        Ok(Netlink { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// What the kernel tells groups of its own accord, to be had by [`Netlink::events`].
    pub fn open_groups(family: isize, groups: &[u32]) -> io::Result<Netlink> {
        let mut socket = Socket::new(family)?;
        socket.bind_auto()?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        socket.set_rx_buf_sz(SOCKET_BUFFER_BYTES as u32)?;
        Ok(Netlink { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// One datagram of a group: type and payload of each message. `WouldBlock` when there is none.
    pub fn events(&mut self, mut event: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.receive(|message_type, _, _, payload| event(message_type, payload))
    }

    /// Sends the batch and waits for its end. What the kernel answers beside acknowledgements goes to
    /// `answer`, with the place of the request. Refusals are in the order of the requests.
    pub fn send(
        &mut self,
        mut batch: Batch,
        mut answer: impl FnMut(usize, &[u8]),
    ) -> io::Result<Vec<Refusal>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.sequence.wrapping_add(1);
        let count = batch.starts.len();
        self.sequence = self.sequence.wrapping_add(count as u32);
        batch.number(first);
        self.socket.send(&batch.bytes, 0)?;
        let mut refusals = Vec::new();
        loop {
            let mut is_over = false;
            self.receive(|message_type, flags, sequence, payload| {
                let request = sequence.wrapping_sub(first) as usize;
                if request >= count {
                    // Left over from a batch that was given up.
                    return;
                }
                if message_type != MESSAGE_ERROR {
                    return answer(request, payload);
                }
                is_over |= request + 1 == count;
                refusals.extend(refusal(request, flags, payload));
            })?;
            if is_over {
                return Ok(refusals);
            }
        }
    }

    /// All objects of one kind; `fill` writes the payload of the question.
    pub fn dump(
        &mut self,
        message_type: u16,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
        mut object: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.push(message_type, FLAG_DUMP, length, fill);
        self.sequence = self.sequence.wrapping_add(1);
        let wanted = self.sequence;
        batch.bytes[8..12].copy_from_slice(&wanted.to_ne_bytes());
        self.socket.send(&batch.bytes, 0)?;
        loop {
            let mut end = None;
            self.receive(|message_type, flags, sequence, payload| {
                if sequence != wanted {
                    return;
                }
                match message_type {
                    MESSAGE_DONE => end = Some(Ok(())),
                    MESSAGE_ERROR => {
                        let errno = refusal(0, flags, payload).map_or(0, |refusal| refusal.errno);
                        end = Some(Err(io::Error::from_raw_os_error(errno)));
                    }
                    _ => object(payload),
                }
            })?;
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// One datagram of the kernel. It is there when the request has been sent, so that not finding
    /// it is an error and never a wait.
    fn receive(&mut self, mut message: impl FnMut(u16, u16, u32, &[u8])) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.reserve(RECEIVE_BYTES);
        self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT)?;
        let mut rest = &self.buffer[..];
        while let Some(header) = rest.first_chunk::<HEADER_BYTES>() {
            let word = |at: usize| {
                u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
            };
            let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
            let length = word(0) as usize;
            if length < HEADER_BYTES || length > rest.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "cut netlink message"));
            }
            message(half(4), half(6), word(8), &rest[HEADER_BYTES..length]);
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(())
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// What an acknowledgement says; `None` is success.
fn refusal(request: usize, flags: u16, payload: &[u8]) -> Option<Refusal> {
    let code = i32::from_ne_bytes(*payload.first_chunk::<4>()?);
    if code == 0 {
        return None;
    }
    let mut text = String::new();
    if flags & FLAG_ANSWER_HAS_ATTRIBUTES != 0 {
        let mut rest = payload.get(4 + HEADER_BYTES..).unwrap_or_default();
        while let Some(&[l0, l1, t0, t1]) = rest.first_chunk::<4>() {
            let length = usize::from(u16::from_ne_bytes([l0, l1]));
            if length < 4 || length > rest.len() {
                break;
            }
            if u16::from_ne_bytes([t0, t1]) == ATTRIBUTE_TEXT {
                let words = String::from_utf8_lossy(&rest[4..length]);
                text = words.trim_end_matches('\0').to_owned();
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
    Some(Refusal { request, errno: code.unsigned_abs() as i32, text })
}
