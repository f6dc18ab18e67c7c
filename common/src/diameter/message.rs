//! Header and AVPs, encode and decode (RFC 6733 §3, §4).
//!
//! A [`Message`] keeps the bytes it was made of: AVPs are views into them, checked once when the
//! message is decoded, and AVPs that nobody here knows survive [`Message::encode`] unchanged.
//! Groups are checked when they are entered, to a limited depth.

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::diameter::base::{self, result_code};
use crate::limits::Limits;

/// Octets of the message header.
pub const HEADER_LENGTH: usize = 20;

/// Command flag: this is a request.
pub const FLAG_REQUEST: u8 = 0x80;
/// Command flag: may be proxied.
pub const FLAG_PROXIABLE: u8 = 0x40;
/// Command flag: an answer with a protocol error (3xxx).
pub const FLAG_ERROR: u8 = 0x20;
/// Command flag: sent before, and no answer was seen.
pub const FLAG_RETRANSMITTED: u8 = 0x10;

const AVP_FLAG_VENDOR: u8 = 0x80;
const AVP_FLAG_MANDATORY: u8 = 0x40;
const AVP_FLAGS_RESERVED: u8 = 0x1f;

/// A message as received: header fields and a checked walk over AVPs; nothing is copied.
#[derive(Clone)]
pub struct Message {
    pub header: Header,
    bytes: Bytes,
    depth: usize,
}

/// The header without version and length, which follow from the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub flags: u8,
    pub command: u32,
    pub application: u32,
    pub hop_by_hop: u32,
    pub end_to_end: u32,
}

/// Why a request cannot be served: becomes Result-Code, Failed-AVP and Error-Message of the answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub result_code: u32,
    /// The AVP inside Failed-AVP, encoded and padded.
    pub failed_avp: Option<Bytes>,
    pub message: String,
}

/// What is known of an AVP: how it is named on the wire and how short its data may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Definition {
    pub code: u32,
    /// 0: none, the AVP is of the base protocol.
    pub vendor: u32,
    /// The M bit that we send. Either setting is accepted from others.
    pub is_mandatory: bool,
    /// Octets of the shortest data that the type allows.
    pub minimum_length: usize,
}

/// One AVP inside a message.
#[derive(Clone, Copy)]
pub struct Avp<'a> {
    pub code: u32,
    /// 0: none.
    pub vendor: u32,
    pub flags: u8,
    /// Without padding.
    pub data: &'a [u8],
    raw: &'a [u8],
    depth: usize,
}

/// The AVPs of a message or of a group, in order. The walk was checked before.
#[derive(Clone)]
pub struct Avps<'a> {
    rest: &'a [u8],
    depth: usize,
}

/// Writes a message: the header first, AVPs in the order of the calls.
#[derive(Clone)]
pub struct Builder {
    buffer: Vec<u8>,
}

impl Message {
    /// RFC 6733 §3, §4.1, §7.1.3, §7.1.5: checks version, length, flags and the lengths of all
    /// AVPs.
    ///
    /// # Errors
    ///
    /// 5011 for another version, 5015 for a length that is not the message's or exceeds the limit,
    /// 3008 for an answer's E bit in a request, 3009 for reserved AVP flags in a request, 5014 for
    /// an AVP that does not fit.
    pub fn decode(bytes: Bytes, limits: &Limits) -> Result<Message, Failure> {
        let header = Header::peek(&bytes).ok_or_else(|| {
            Failure::new(result_code::INVALID_MESSAGE_LENGTH, "shorter than a Diameter header")
        })?;
        if bytes[0] != 1 {
            let message = format!("version {} instead of 1", bytes[0]);
            return Err(Failure::new(result_code::UNSUPPORTED_VERSION, message));
        }
        let length = number(&bytes[1..4]) as usize;
        if length != bytes.len()
            || !length.is_multiple_of(4)
            || length > limits.diameter_message_bytes
        {
            let message = format!("length field {length} in a message of {} octets", bytes.len());
            return Err(Failure::new(result_code::INVALID_MESSAGE_LENGTH, message));
        }
        if header.is_request() && header.flags & FLAG_ERROR != 0 {
            return Err(Failure::new(result_code::INVALID_HDR_BITS, "E bit set in a request"));
        }
        check(&bytes[HEADER_LENGTH..], header.is_request())?;
        Ok(Message { header, bytes, depth: limits.diameter_depth })
    }

    /// The AVPs of the top level, in order.
    pub fn avps(&self) -> Avps<'_> {
        Avps { rest: &self.bytes[HEADER_LENGTH..], depth: self.depth }
    }

    /// The first AVP of that name.
    pub fn find(&self, definition: Definition) -> Option<Avp<'_>> {
        self.avps().find(|avp| avp.is(definition))
    }

    /// The message as it was received.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The data of one of this message's AVPs without a copy. It keeps the whole message alive, so
    /// take it for large values only.
    pub fn slice(&self, data: &[u8]) -> Bytes {
        self.bytes.slice_ref(data)
    }

    /// RFC 6733 §3: the bytes again with the header as it is now; all AVPs, known or not, stay.
    pub fn encode(&self) -> Bytes {
        let mut buffer = self.bytes.to_vec();
        self.header.write(&mut buffer);
        Bytes::from(buffer)
    }

    /// The message without the AVPs of that name, all else unchanged.
    pub fn encode_without(&self, definition: Definition) -> Bytes {
        let mut builder = Builder::new(self.header);
        for avp in self.avps().filter(|avp| !avp.is(definition)) {
            builder.copy(&avp);
        }
        builder.finish()
    }

    /// The message with that AVP in the place of others of its name.
    pub fn encode_with_text(&self, definition: Definition, value: &str) -> Bytes {
        let mut builder = Builder::new(self.header);
        for avp in self.avps().filter(|avp| !avp.is(definition)) {
            builder.copy(&avp);
        }
        builder.text(definition, value);
        builder.finish()
    }
}

impl fmt::Debug for Message {
    /// Header and size only: the AVPs may hold keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({:?}, {} octets)", self.header, self.bytes.len())
    }
}

impl Header {
    /// The fields of a header, whatever the rest looks like; `None` below 20 octets.
    pub fn peek(bytes: &[u8]) -> Option<Header> {
        let fixed = bytes.get(..HEADER_LENGTH)?;
        Some(Header {
            flags: fixed[4],
            command: number(&fixed[5..8]),
            application: number(&fixed[8..12]),
            hop_by_hop: number(&fixed[12..16]),
            end_to_end: number(&fixed[16..20]),
        })
    }

    pub fn is_request(&self) -> bool {
        self.flags & FLAG_REQUEST != 0
    }

    pub fn is_proxiable(&self) -> bool {
        self.flags & FLAG_PROXIABLE != 0
    }

    pub fn is_error(&self) -> bool {
        self.flags & FLAG_ERROR != 0
    }

    pub fn is_retransmitted(&self) -> bool {
        self.flags & FLAG_RETRANSMITTED != 0
    }

    /// RFC 6733 §6.2: the header of the answer, P copied, E for protocol errors alone.
    pub fn answer(&self, is_protocol_error: bool) -> Header {
        let error = if is_protocol_error { FLAG_ERROR } else { 0 };
        Header { flags: self.flags & FLAG_PROXIABLE | error, ..*self }
    }

    /// Everything but the length.
    fn write(&self, buffer: &mut [u8]) {
        buffer[0] = 1;
        buffer[4..8].copy_from_slice(&self.command.to_be_bytes());
        buffer[4] = self.flags;
        buffer[8..12].copy_from_slice(&self.application.to_be_bytes());
        buffer[12..16].copy_from_slice(&self.hop_by_hop.to_be_bytes());
        buffer[16..20].copy_from_slice(&self.end_to_end.to_be_bytes());
    }
}

impl Failure {
    pub fn new(result_code: u32, message: impl Into<String>) -> Failure {
        Failure { result_code, failed_avp: None, message: message.into() }
    }

    /// RFC 6733 §7.1.5: 5005 with an AVP of the missing name and the shortest data of its type.
    pub fn missing(definition: Definition) -> Failure {
        Failure {
            result_code: result_code::MISSING_AVP,
            failed_avp: Some(definition.with_zeros()),
            message: format!("AVP {} is missing", definition.name()),
        }
    }

    /// 5001, 5004, 5008, 5009 and the like: the AVP itself is at fault.
    pub fn at(result_code: u32, avp: &Avp<'_>, why: &str) -> Failure {
        let name = Definition::octets(avp.code, avp.vendor, true).name();
        let mut failed = avp.raw.to_vec();
        failed.resize(padded(failed.len()), 0);
        Failure {
            result_code,
            failed_avp: Some(Bytes::from(failed)),
            message: format!("AVP {name}: {why}"),
        }
    }
}

impl Definition {
    /// OctetString, UTF8String, DiameterIdentity, DiameterURI.
    pub const fn octets(code: u32, vendor: u32, is_mandatory: bool) -> Definition {
        Definition { code, vendor, is_mandatory, minimum_length: 0 }
    }

    /// Unsigned32, Enumerated, Time.
    pub const fn number(code: u32, vendor: u32, is_mandatory: bool) -> Definition {
        Definition { code, vendor, is_mandatory, minimum_length: 4 }
    }

    pub const fn grouped(code: u32, vendor: u32, is_mandatory: bool) -> Definition {
        Definition { code, vendor, is_mandatory, minimum_length: 0 }
    }

    fn flags(&self) -> u8 {
        let vendor = if self.vendor != 0 { AVP_FLAG_VENDOR } else { 0 };
        vendor | if self.is_mandatory { AVP_FLAG_MANDATORY } else { 0 }
    }

    /// An AVP of this name with zeros as data, as Failed-AVP wants it.
    fn with_zeros(&self) -> Bytes {
        let mut buffer = Vec::new();
        put_avp_header(&mut buffer, *self, self.minimum_length);
        buffer.resize(padded(buffer.len() + self.minimum_length), 0);
        Bytes::from(buffer)
    }

    fn name(&self) -> String {
        match self.vendor {
            0 => self.code.to_string(),
            vendor => format!("{} of vendor {vendor}", self.code),
        }
    }
}

impl<'a> Avp<'a> {
    #[inline]
    pub fn is(&self, definition: Definition) -> bool {
        self.code == definition.code && self.vendor == definition.vendor
    }

    /// The M bit.
    pub fn is_mandatory(&self) -> bool {
        self.flags & AVP_FLAG_MANDATORY != 0
    }

    /// Appends the AVP as it stands, padded.
    pub fn write(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(self.raw);
        buffer.resize(buffer.len() - self.raw.len() + padded(self.raw.len()), 0);
    }

    /// RFC 6733 §4.2: Unsigned32, Enumerated, Time.
    ///
    /// # Errors
    ///
    /// 5014 unless the data has four octets.
    pub fn number(&self) -> Result<u32, Failure> {
        match self.data.try_into() {
            Ok(octets) => Ok(u32::from_be_bytes(octets)),
            Err(_) => Err(Failure {
                result_code: result_code::INVALID_AVP_LENGTH,
                failed_avp: Some(
                    Definition::number(self.code, self.vendor, self.is_mandatory()).with_zeros(),
                ),
                message: format!("AVP {} has {} octets, not 4", self.code, self.data.len()),
            }),
        }
    }

    /// RFC 6733 §4.3.1: UTF8String and what is made of it.
    ///
    /// # Errors
    ///
    /// 5004 when it is not UTF-8.
    pub fn text(&self) -> Result<&'a str, Failure> {
        std::str::from_utf8(self.data)
            .map_err(|_| Failure::at(result_code::INVALID_AVP_VALUE, self, "not UTF-8"))
    }

    /// RFC 6733 §4.4: the AVPs of a group.
    ///
    /// # Errors
    ///
    /// 5014 when one of them does not fit, 5004 when groups are nested deeper than the limit.
    pub fn group(&self) -> Result<Avps<'a>, Failure> {
        let Some(depth) = self.depth.checked_sub(1) else {
            return Err(Failure::new(result_code::INVALID_AVP_VALUE, "groups nested too deep"));
        };
        check(self.data, false)?;
        Ok(Avps { rest: self.data, depth })
    }
}

impl<'a> Avps<'a> {
    /// What can be read of a message that need not be well formed; ends at the first fault.
    pub fn lenient(bytes: &'a [u8]) -> Avps<'a> {
        Avps { rest: bytes.get(HEADER_LENGTH..).unwrap_or_default(), depth: 1 }
    }
}

impl fmt::Debug for Avp<'_> {
    /// Name and size only: the data may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Avp({}, vendor {}, {} octets)", self.code, self.vendor, self.data.len())
    }
}

impl<'a> Iterator for Avps<'a> {
    type Item = Avp<'a>;

    #[inline]
    fn next(&mut self) -> Option<Avp<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (avp, rest) = cut(self.rest, self.depth).ok()?;
        self.rest = rest;
        Some(avp)
    }
}

impl Builder {
    pub fn new(header: Header) -> Builder {
        let mut buffer = Vec::with_capacity(512);
        buffer.resize(HEADER_LENGTH, 0);
        header.write(&mut buffer);
        Builder { buffer }
    }

    /// RFC 6733 §4.1: one AVP with its padding, which its length does not count.
    #[inline]
    pub fn octets(&mut self, definition: Definition, data: &[u8]) {
        put_avp_header(&mut self.buffer, definition, data.len());
        self.buffer.extend_from_slice(data);
        self.pad();
    }

    #[inline]
    pub fn text(&mut self, definition: Definition, text: &str) {
        self.octets(definition, text.as_bytes());
    }

    #[inline]
    pub fn number(&mut self, definition: Definition, value: u32) {
        self.octets(definition, &value.to_be_bytes());
    }

    /// RFC 6733 §4.4: a group; its length counts the padding of what is inside.
    pub fn group(&mut self, definition: Definition, fill: impl FnOnce(&mut Builder)) {
        let start = self.buffer.len();
        put_avp_header(&mut self.buffer, definition, 0);
        fill(self);
        let length = self.buffer.len() - start;
        put_length(&mut self.buffer[start + 5..start + 8], length);
    }

    /// AVPs that are encoded and padded already.
    pub fn raw(&mut self, avps: &[u8]) {
        self.buffer.extend_from_slice(avps);
        self.pad();
    }

    /// An AVP of another message, flags and all.
    pub fn copy(&mut self, avp: &Avp<'_>) {
        self.raw(avp.raw);
    }

    /// Octets so far, header included.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Nothing but the header so far.
    pub fn is_empty(&self) -> bool {
        self.buffer.len() <= HEADER_LENGTH
    }

    /// The message with its length filled in.
    pub fn finish(mut self) -> Bytes {
        let length = self.buffer.len();
        put_length(&mut self.buffer[1..4], length);
        Bytes::from(self.buffer)
    }

    fn pad(&mut self) {
        self.buffer.resize(padded(self.buffer.len()), 0);
    }
}

impl fmt::Debug for Builder {
    /// Size only: the AVPs may hold keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Builder({} octets)", self.buffer.len())
    }
}

/// RFC 6733 §3: gives an encoded message another Hop-by-Hop Identifier and sets flags. Copies the
/// bytes only when somebody else holds them too.
pub fn with_hop_by_hop(bytes: Bytes, hop_by_hop: u32, set_flags: u8) -> Bytes {
    let mut buffer = BytesMut::from(bytes);
    if buffer.len() >= HEADER_LENGTH {
        buffer[4] |= set_flags;
        buffer[12..16].copy_from_slice(&hop_by_hop.to_be_bytes());
    }
    buffer.freeze()
}

/// RFC 6733 §4.1: takes the first AVP off `rest`.
#[inline]
fn cut(rest: &[u8], depth: usize) -> Result<(Avp<'_>, &[u8]), Failure> {
    let Some(fixed) = rest.get(..8) else { return Err(does_not_fit(rest)) };
    let flags = fixed[4];
    let length = number(&fixed[5..8]) as usize;
    let has_vendor = flags & AVP_FLAG_VENDOR != 0;
    let header_length = if has_vendor { 12 } else { 8 };
    if length < header_length || length > rest.len() {
        return Err(does_not_fit(rest));
    }
    let avp = Avp {
        code: number(&fixed[..4]),
        vendor: if has_vendor { number(&rest[8..12]) } else { 0 },
        flags,
        data: &rest[header_length..length],
        raw: &rest[..length],
        depth,
    };
    // Inside a group some senders leave the last padding out.
    Ok((avp, rest.get(padded(length)..).unwrap_or_default()))
}

/// Walks all AVPs once, so that later walks cannot fail.
fn check(mut rest: &[u8], refuse_reserved_flags: bool) -> Result<(), Failure> {
    while !rest.is_empty() {
        let (avp, behind) = cut(rest, 0)?;
        if refuse_reserved_flags && avp.flags & AVP_FLAGS_RESERVED != 0 {
            let why = "reserved flags are set";
            return Err(Failure::at(result_code::INVALID_AVP_BITS, &avp, why));
        }
        rest = behind;
    }
    Ok(())
}

/// RFC 6733 §7.1.5: 5014; Failed-AVP is the header of the AVP with the data left out, or with zeros
/// where even the header was cut off.
#[cold]
fn does_not_fit(rest: &[u8]) -> Failure {
    let mut fixed = [0; 12];
    let present = rest.len().min(12);
    fixed[..present].copy_from_slice(&rest[..present]);
    let vendor = if fixed[4] & AVP_FLAG_VENDOR != 0 { number(&fixed[8..12]) } else { 0 };
    let code = number(&fixed[..4]);
    let definition = base::DEFINITIONS
        .iter()
        .copied()
        .find(|known| (known.code, known.vendor) == (code, vendor))
        .unwrap_or(Definition::octets(code, vendor, fixed[4] & AVP_FLAG_MANDATORY != 0));
    Failure {
        result_code: result_code::INVALID_AVP_LENGTH,
        failed_avp: Some(definition.with_zeros()),
        message: format!("AVP {} does not fit its length", definition.name()),
    }
}

fn put_avp_header(buffer: &mut Vec<u8>, definition: Definition, data_length: usize) {
    let header_length = if definition.vendor != 0 { 12 } else { 8 };
    let mut header = [0; 12];
    header[..4].copy_from_slice(&definition.code.to_be_bytes());
    header[4] = definition.flags();
    put_length(&mut header[5..8], header_length + data_length);
    header[8..].copy_from_slice(&definition.vendor.to_be_bytes());
    buffer.extend_from_slice(&header[..header_length]);
}

fn put_length(place: &mut [u8], length: usize) {
    place.copy_from_slice(&(length as u32).to_be_bytes()[1..]);
}

/// Three or four octets in network order.
#[inline]
fn number(octets: &[u8]) -> u32 {
    match *octets {
        [a, b, c, d] => u32::from_be_bytes([a, b, c, d]),
        [b, c, d] => u32::from_be_bytes([0, b, c, d]),
        _ => 0,
    }
}

#[inline]
const fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}
