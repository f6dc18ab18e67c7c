//! Messages of real phones and cores: indexed, written back, forwarded (RFC 3261 §7, §16.6).
//!
//! The messages lie outside of this repository; without them these tests say `skipped`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::limits::Limits;
use common::sip::address::{Address, Contact};
use common::sip::auth::DigestParameters;
use common::sip::framer::{Frame, Framer};
use common::sip::header::Name;
use common::sip::message::{Headers, Message, Method};
use common::sip::security::mechanisms;
use common::sip::uri::Uri;
use common::sip::via::Via;

/// Name and bytes of each message, in order of their names.
fn material() -> Vec<(String, Bytes)> {
    let start = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder: Option<PathBuf> = start
        .ancestors()
        .map(|folder| folder.join("shared/material/real-messages"))
        .find(|folder| folder.is_dir());
    let Some(folder) = folder else {
        println!("skipped: no shared/material above {}", start.display());
        return Vec::new();
    };
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sip"));
    files.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, complete(std::fs::read(path).unwrap()))
    };
    files.into_iter().map(read).collect()
}

/// Two of the captures lost their bodies: as many octets as they state are put back.
fn complete(mut bytes: Vec<u8>) -> Bytes {
    let text = String::from_utf8_lossy(&bytes);
    let is_cut = text.ends_with("\r\n\r\n");
    let stated = text.lines().find_map(|line| line.strip_prefix("l: ")?.parse::<usize>().ok());
    if let (true, Some(length)) = (is_cut, stated) {
        bytes.resize(bytes.len() + length, b'x');
    }
    Bytes::from(bytes)
}

fn parse(name: &str, bytes: &Bytes) -> Message {
    Message::parse(bytes.clone(), &Limits::default())
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn headers(message: &Message) -> &Headers {
    match message {
        Message::Request(request) => request.headers(),
        Message::Response(response) => response.headers(),
    }
}

/// RFC 3261 §16.3: what phones send is acceptable, and comes out as it went in.
#[test]
fn written_back_byte_for_byte() {
    for (name, bytes) in material() {
        let written = match parse(&name, &bytes) {
            Message::Request(request) => {
                assert_ne!(request.method(), Method::Other, "{name}");
                request.check().unwrap_or_else(|error| panic!("{name}: {error}"));
                request.to_bytes()
            }
            Message::Response(response) => response.to_bytes(),
        };
        assert_eq!(written, bytes, "{name}");
    }
}

/// RFC 3261 §16.6: a new Via, one hop less, a Path: every other byte stays.
#[test]
fn forwarded_otherwise_unchanged() {
    for (name, bytes) in material() {
        let Message::Request(mut request) = parse(&name, &bytes) else { continue };
        let hops: u8 = request.headers().get(Name::MaxForwards).unwrap().parse().unwrap();
        let via = "SIP/2.0/UDP pcscf.example:5060;branch=z9hG4bK1";
        let path = "<sip:term@pcscf.example;lr>";
        let edited = request.headers_mut();
        edited.push_front(Name::Via, via);
        edited.set(Name::MaxForwards, &(hops - 1).to_string());
        edited.append(Name::Path, path);
        let written = request.to_bytes();
        // Undone by hand, line by line.
        let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
            bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
        };
        let is_hops = |line: &[u8]| line.to_ascii_lowercase().starts_with(b"max-forwards");
        let (mut before, mut after) = (lines(&bytes), lines(&written));
        before.retain(|line| !is_hops(line));
        after.retain(|line| !is_hops(line));
        for added in [format!("Via: {via}\r\n"), format!("Path: {path}\r\n")] {
            let position = after.iter().position(|line| line == added.as_bytes());
            after.remove(position.unwrap());
        }
        assert_eq!(after, before, "{name}");
        let Message::Request(mut again) = parse(&name, &written) else { panic!("{name}") };
        assert_eq!(again.headers_mut().pop_value(Name::Via).as_deref(), Some(via), "{name}");
        assert_eq!(again.headers().get(Name::MaxForwards), Some(&*(hops - 1).to_string()));
        assert_eq!(again.body(), request.body(), "{name}");
    }
}

/// Every value of these headers can be read.
#[test]
fn typed_views() {
    let addresses = [
        Name::From,
        Name::To,
        Name::Route,
        Name::RecordRoute,
        Name::Path,
        Name::ServiceRoute,
        Name::PAssociatedUri,
        Name::PAssertedIdentity,
        Name::PPreferredIdentity,
    ];
    for (name, bytes) in material() {
        let message = parse(&name, &bytes);
        let headers = headers(&message);
        let context = |value: &str| format!("{name}: {value}");
        if let Message::Request(request) = &message {
            Uri::parse(request.uri()).unwrap_or_else(|_| panic!("{}", context(request.uri())));
        }
        for value in headers.values(Name::Via) {
            Via::parse(value).unwrap_or_else(|_| panic!("{}", context(value)));
        }
        for value in headers.values(Name::Contact) {
            Contact::parse(value).unwrap_or_else(|_| panic!("{}", context(value)));
        }
        for value in addresses.iter().flat_map(|header| headers.values(*header)) {
            // One core forgets the comma of a list.
            let is_joined = value.contains(">  <");
            assert_eq!(Address::parse(value).is_ok(), !is_joined, "{}", context(value));
        }
        for header in [Name::Authorization, Name::WwwAuthenticate, Name::ProxyAuthenticate] {
            for value in headers.lines(header) {
                DigestParameters::parse(value).unwrap_or_else(|_| panic!("{}", context(value)));
            }
        }
        for header in [Name::SecurityClient, Name::SecurityServer, Name::SecurityVerify] {
            mechanisms(headers, header).unwrap_or_else(|_| panic!("{}", context("")));
        }
    }
}

/// RFC 3261 §18.3: those with a Content-Length, one behind the other on one stream.
#[test]
fn cut_from_a_stream() {
    let mut messages = material();
    messages.retain(|(name, bytes)| headers(&parse(name, bytes)).has(Name::ContentLength));
    let stream: Vec<u8> = messages.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
    for size in [1, 7, 1460, usize::MAX] {
        let mut framer = Framer::default();
        let mut found = Vec::new();
        for piece in stream.chunks(size) {
            framer.push(piece);
            while let Some(frame) = framer.next(&Limits::default()).unwrap() {
                found.push(frame);
            }
        }
        let expected: Vec<_> =
            messages.iter().map(|(_, bytes)| Frame::Message(bytes.clone())).collect();
        assert_eq!(found, expected, "pieces of {size}");
    }
}
