//! The Diameter codec: bytes as they are on the wire, and inputs that are not what they should be
//! (RFC 6733 §3, §4).

use bytes::Bytes;
use common::cx::{self, APPLICATION, Outcome};
use common::diameter::base::{self, result_code};
use common::diameter::message::{
    Builder, Definition, FLAG_ERROR, FLAG_PROXIABLE, FLAG_REQUEST, Failure, Header, Message,
};
use common::limits::Limits;
use proptest::prelude::*;

const HEADER: Header = Header {
    flags: FLAG_REQUEST | FLAG_PROXIABLE,
    command: 300,
    application: 16_777_216,
    hop_by_hop: 0x0102_0304,
    end_to_end: 0x0506_0708,
};

fn decode(bytes: Bytes) -> Result<Message, Failure> {
    Message::decode(bytes, &Limits::default())
}

fn build(fill: impl FnOnce(&mut Builder)) -> Bytes {
    let mut builder = Builder::new(HEADER);
    fill(&mut builder);
    builder.finish()
}

/// The AVPs that `fill` writes, as hex.
fn avps(fill: impl FnOnce(&mut Builder)) -> String {
    hex::encode(&build(fill)[20..])
}

fn mangled(bytes: &Bytes, change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let length = bytes.len() as u32;
    bytes[1..4].copy_from_slice(&length.to_be_bytes()[1..]);
    Bytes::from(bytes)
}

/// RFC 6733 §4.1: length without padding, zeros behind.
#[test]
fn encodes_avps_to_the_octet() {
    assert_eq!(
        avps(|builder| builder.text(cx::avp::PUBLIC_IDENTITY, "sip:a@b.c")),
        "00000259c0000015000028af7369703a6140622e63000000"
    );
    assert_eq!(
        avps(|builder| APPLICATION.write(builder)),
        "00000104400000200000010a4000000c000028af000001024000000c01000000"
    );
    assert_eq!(
        avps(|builder| Outcome::FIRST_REGISTRATION.encode(builder)),
        "00000129400000200000010a4000000c000028af0000012a4000000c000007d1"
    );
}

/// RFC 6733 §3: the header.
#[test]
fn encodes_the_header_to_the_octet() {
    let bytes = build(|builder| builder.number(base::RESULT_CODE, 2001));
    let expected = "01000020c000012c010000000102030405060708";
    assert_eq!(hex::encode(&bytes[..20]), expected);
    let message = decode(bytes).unwrap();
    assert_eq!(message.header, HEADER);
}

/// RFC 6733 §4.1: what nobody here knows stays as it was, flags and padding included.
#[test]
fn keeps_unknown_avps() {
    let unknown = Definition::octets(4242, 9999, false);
    let bytes = build(|builder| {
        builder.text(base::SESSION_ID, "a;1;2");
        builder.octets(unknown, b"12345");
        builder.text(base::USER_NAME, "x");
    });
    let mut message = decode(bytes.clone()).unwrap();
    assert_eq!(message.encode(), bytes);
    message.header.hop_by_hop = 7;
    let again = decode(message.encode()).unwrap();
    assert_eq!(again.header.hop_by_hop, 7);
    assert_eq!(again.find(unknown).unwrap().data, b"12345");
    let without = decode(message.encode_without(base::USER_NAME)).unwrap();
    assert!(without.find(base::USER_NAME).is_none());
    assert_eq!(without.find(unknown).unwrap().data, b"12345");
    assert_eq!(without.find(base::SESSION_ID).unwrap().data, b"a;1;2");
}

/// RFC 6733 §7.1.5: another version is 5011, a wrong length 5015.
#[test]
fn refuses_version_and_length() {
    let good = build(|builder| builder.text(base::SESSION_ID, "a;1;2"));
    let code = |bytes: Bytes| decode(bytes).unwrap_err().result_code;
    let change = |at: usize, to: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = to;
        Bytes::from(bytes)
    };
    assert_eq!(code(change(0, 2)), result_code::UNSUPPORTED_VERSION);
    for length in [0, 19, 22, 255] {
        assert_eq!(code(change(3, length)), result_code::INVALID_MESSAGE_LENGTH, "{length}");
    }
    assert_eq!(code(good.slice(..10)), result_code::INVALID_MESSAGE_LENGTH);
    let limits = Limits { diameter_message_bytes: 32, ..Limits::default() };
    let failure = Message::decode(good, &limits).unwrap_err();
    assert_eq!(failure.result_code, result_code::INVALID_MESSAGE_LENGTH);
}

/// RFC 6733 §7.1.3: E in a request is 3008, a reserved AVP flag 3009 with the AVP. In answers
/// neither is anybody's business.
#[test]
fn refuses_flags() {
    let good = build(|builder| builder.text(base::SESSION_ID, "a;1;2"));
    let failure = decode(mangled(&good, |bytes| bytes[4] |= FLAG_ERROR)).unwrap_err();
    assert_eq!(failure.result_code, result_code::INVALID_HDR_BITS);
    let failure = decode(mangled(&good, |bytes| bytes[24] |= 1)).unwrap_err();
    assert_eq!(failure.result_code, result_code::INVALID_AVP_BITS);
    assert_eq!(hex::encode(failure.failed_avp.unwrap()), "000001074100000d613b313b32000000");
    assert!(decode(mangled(&good, |bytes| bytes[4] = FLAG_ERROR)).is_ok());
    assert!(
        decode(mangled(&good, |bytes| {
            bytes[4] = 0;
            bytes[24] |= 1;
        }))
        .is_ok()
    );
}

/// RFC 6733 §7.1.5: an AVP that does not fit is 5014; Failed-AVP has its header and zeros.
#[test]
fn refuses_avp_lengths() {
    let good = build(|builder| builder.number(base::RESULT_CODE, 2001));
    for length in [0u8, 7, 13, 200] {
        let failure = decode(mangled(&good, |bytes| bytes[27] = length)).unwrap_err();
        assert_eq!(failure.result_code, result_code::INVALID_AVP_LENGTH, "{length}");
        let failed = hex::encode(failure.failed_avp.unwrap());
        assert_eq!(failed, "0000010c4000000c00000000", "{length}");
    }
    // Vendor flag, but no room for the vendor.
    let failure = decode(mangled(&good, |bytes| {
        bytes[24] |= 0x80;
        bytes[27] = 11;
    }))
    .unwrap_err();
    assert_eq!(failure.result_code, result_code::INVALID_AVP_LENGTH);
    // Not even a header left at the end.
    let failure = decode(mangled(&good, |bytes| bytes.extend([0, 0, 1, 1]))).unwrap_err();
    assert_eq!(failure.result_code, result_code::INVALID_AVP_LENGTH);
    // A number of three octets.
    let short = build(|builder| builder.octets(base::RESULT_CODE, &[1, 2, 3]));
    let message = decode(short).unwrap();
    let failure = message.find(base::RESULT_CODE).unwrap().number().unwrap_err();
    assert_eq!(failure.result_code, result_code::INVALID_AVP_LENGTH);
    assert_eq!(hex::encode(failure.failed_avp.unwrap()), "0000010c4000000c00000000");
}

/// RFC 6733 §7.1.5: 5005 with the shortest AVP that the type allows.
#[test]
fn names_what_is_missing() {
    let failed = |definition| hex::encode(Failure::missing(definition).failed_avp.unwrap());
    assert_eq!(failed(cx::avp::PUBLIC_IDENTITY), "00000259c000000c000028af");
    assert_eq!(failed(cx::avp::SERVER_ASSIGNMENT_TYPE), "00000266c0000010000028af00000000");
    assert_eq!(failed(base::HOST_IP_ADDRESS), "000001014000000e0000000000000000");
    assert_eq!(Failure::missing(base::USER_NAME).result_code, result_code::MISSING_AVP);
}

/// RFC 6733 §4.4: groups are checked when entered, and only to the limit.
#[test]
fn bounds_groups() {
    fn nest(builder: &mut Builder, depth: usize) {
        builder.group(base::PROXY_INFO, |group| {
            if depth > 0 {
                nest(group, depth - 1);
            }
        });
    }
    let message = decode(build(|builder| nest(builder, 4_000))).unwrap();
    let mut group = message.find(base::PROXY_INFO).unwrap();
    let mut depth = 0;
    let failure = loop {
        match group.group() {
            Ok(mut inner) => group = inner.next().unwrap(),
            Err(failure) => break failure,
        }
        depth += 1;
    };
    assert_eq!(depth, Limits::default().diameter_depth);
    assert_eq!(failure.result_code, result_code::INVALID_AVP_VALUE);
    let broken = build(|builder| builder.octets(base::PROXY_INFO, &[0, 0, 1, 8, 0, 0, 0, 99]));
    let message = decode(broken).unwrap();
    let failure = message.find(base::PROXY_INFO).unwrap().group().err().unwrap();
    assert_eq!(failure.result_code, result_code::INVALID_AVP_LENGTH);
}

/// Neither Debug of a message nor of an AVP shows what is inside.
#[test]
fn prints_no_contents() {
    let bytes = build(|builder| builder.octets(cx::avp::CONFIDENTIALITY_KEY, b"0123456789abcdef"));
    let message = decode(bytes).unwrap();
    let avp = message.avps().next().unwrap();
    for text in [format!("{message:?}"), format!("{avp:?}")] {
        assert!(!text.contains("0123") && !text.contains("48, 49"), "{text}");
    }
}

/// RFC 6733 §5.3, §6.11: CER and CEA go through unchanged; an application of its own group counts,
/// two of them in one group do not.
#[test]
fn reads_capabilities() {
    let capabilities = base::Capabilities {
        origin_host: "scscf1.hims.net".into(),
        origin_realm: "hims.net".into(),
        host_ip_addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        vendor_id: 0,
        product_name: "Tessera".into(),
        origin_state_id: Some(1),
        ..base::Capabilities::default()
    };
    let header = base::request_header(base::COMMAND_CAPABILITIES_EXCHANGE, 1, 2);
    let mut builder = Builder::new(header);
    capabilities.encode(&APPLICATION, &mut builder);
    let message = decode(builder.finish()).unwrap();
    let read = base::Capabilities::decode(&message).unwrap();
    assert_eq!(read.supported_vendors, [10415, 13019]);
    assert_eq!(read.applications, [16_777_216]);
    assert!(read.supports(16_777_216) && !read.supports(16_777_217) && !read.is_relay());
    assert_eq!(read.host_ip_addresses, capabilities.host_ip_addresses);
    assert_eq!(message.header.flags, FLAG_REQUEST, "not proxiable");

    let with = |count: usize| {
        let mut builder = Builder::new(header);
        capabilities.encode(&APPLICATION, &mut builder);
        builder.group(base::VENDOR_SPECIFIC_APPLICATION_ID, |group| {
            group.number(base::VENDOR_ID, 10415);
            for id in 0..count {
                group.number(base::AUTH_APPLICATION_ID, id as u32);
            }
        });
        base::Capabilities::decode(&decode(builder.finish()).unwrap())
    };
    assert_eq!(with(0).unwrap_err().result_code, result_code::MISSING_AVP);
    assert_eq!(with(2).unwrap_err().result_code, result_code::AVP_OCCURS_TOO_MANY_TIMES);
}

/// Walks all there is, groups included.
fn walk(message: &Message) {
    fn inside(avp: common::diameter::message::Avp<'_>) {
        let _ = (avp.number(), avp.text());
        if let Ok(group) = avp.group() {
            group.for_each(inside);
        }
    }
    message.avps().for_each(inside);
}

proptest! {
    /// Whatever comes in, nothing panics, and what decodes encodes to the same bytes.
    #[test]
    fn survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = bytes;
        if bytes.len() >= 20 {
            bytes.truncate(bytes.len() / 4 * 4);
            let length = bytes.len() as u32;
            bytes[0] = 1;
            bytes[1..4].copy_from_slice(&length.to_be_bytes()[1..]);
        }
        let bytes = Bytes::from(bytes);
        if let Ok(message) = decode(bytes.clone()) {
            walk(&message);
            let _ = cx::Request::decode(&message);
            let _ = cx::Answer::decode(&message);
            let encoded = message.encode();
            prop_assert_eq!(&encoded[1..], &bytes[1..]);
        }
    }
}
