//! A phone in networks of other makes: the same messages, written otherwise (RFC 3261 §7.3.1, RFC 3329 §2.2,
//! TS 24.229 §5.1.1.2.1, §5.1.1.5.1).

mod net;

use bytes::Bytes;
use common::limits::Limits;
use common::sip::header::Name;
use common::sip::message::Message;
use net::{Got, Net, config, www_authenticate};
use ue::{Command, Event};

const REGISTER: Command = Command::Register { identity: 0 };

impl Net {
    /// An answer of these lines behind what it has from its request.
    fn answers_in_lines(&mut self, got: &Got, status: &str, lines: &str) {
        let mut text = format!("SIP/2.0 {status}\r\n");
        for name in [Name::Via, Name::CallId, Name::From, Name::CSeq] {
            text += &format!("{}: {}\r\n", name.as_str(), got.header(name));
        }
        text += &format!("t: {};tag=other\r\n{lines}l: 0\r\n\r\n", got.header(Name::To));
        let message = Message::parse(Bytes::from(text), &Limits::default()).unwrap();
        let Message::Response(response) = message else { unreachable!() };
        self.send_response(got, &response);
    }
}

/// A challenge whose Security-Server is written so; `SPIS` stands for SPIs and ports.
fn challenged(net: &mut Net, lines: &str) -> Got {
    net.command(REGISTER);
    let r1 = net.request();
    let vector = net.next_vector();
    net.agree(&r1, &vector).expect("a set");
    let set = net.sets.last().unwrap().set();
    let spis = format!(
        "spi-c={};spi-s={};\r\n                 port-c={};port-s={}",
        set.spis.pc, set.spis.ps, set.ports.pc, set.ports.ps
    );
    let challenge = www_authenticate(&vector).replacen(",nonce", ",\r\n\t nonce", 1);
    let lines = lines.replace("SPIS", &spis);
    net.answers_in_lines(
        &r1,
        "401 Unauthorized",
        &format!("WWW-Authenticate: {challenge}\r\n{lines}"),
    );
    net.request()
}

/// RFC 3261 §7.3.1, RFC 3329 §2.2: folded lines, another order, no q, a q of one for all; also six lines with
/// mechanisms that the phone has not offered.
#[test]
fn ways_to_write_security_server() {
    let six: String = [
        ("0.6", "hmac-md5-96", "aes-cbc"),
        ("0.4", "hmac-md5-96", "des-ede3-cbc"),
        ("0.3", "hmac-md5-96", "null"),
        ("0.1", "hmac-sha-1-96", "des-ede3-cbc"),
        ("0.2", "hmac-sha-1-96", "aes-cbc"),
        ("0.5", "hmac-sha-1-96", "null"),
    ]
    .map(|(q, alg, ealg)| {
        format!("Security-Server: ipsec-3gpp;q={q};alg={alg};ealg={ealg};SPIS\r\n")
    })
    .concat();
    for lines in [
        "Security-Server: ipsec-3gpp;q=0.5;alg=hmac-sha-1-96;prot=esp;mod=trans;\r\n   ealg=aes-cbc;SPIS\r\n",
        "Security-Server: ipsec-3gpp;alg=hmac-sha-1-96;prot=esp;mod=trans;ealg=aes-cbc;SPIS\r\n",
        "SECURITY-SERVER : IPSEC-3GPP ; EALG = aes-cbc ; ALG = hmac-sha-1-96 ; SPIS\r\n",
        six.as_str(),
    ] {
        let mut net = Net::new(config());
        let r2 = challenged(&mut net, lines);
        assert_eq!(r2.set, Some(0), "{lines}");
        net.accept(&r2, 3_600);
        assert!(matches!(net.event(), Event::Registered { is_protected: true, .. }), "{lines}");
    }
}

/// TS 24.229 §5.1.1.2.1, RFC 3261 §10.3: a 200 with the contacts of others beside the own one, with a user part, with
/// the interval in front, or for all of them; identities in one line, in several, or run together; without Path
/// and Service-Route; with headers that a phone has no use for.
#[test]
fn ways_to_write_a_200() {
    for (lines, granted, associated) in [
        (
            "P-Associated-URI: <sip:name@hims.net>  <sip:name@hims.net;user=phone>\r\n\
             Accept-Resource-Priority: wps.4\r\n\
             Contact: <sip:460600@HOST>;expires=900;+sip.instance=\"<urn:gsma:imei:35209900-176148-0>\";audio\r\n",
            900,
            1,
        ),
        (
            "Contact: <sip:502120@HOST;transport=udp>;\r\n         expires=3600;+g.3gpp.accesstype=\"wlan\"\r\n\
             P-Associated-Uri: <sip:name@hims.net>\r\nP-Associated-Uri: <tel:+60170000001>\r\n\
             P-Charging-Function-Addresses: ccf=\"aaa://prepaid.hims.net\"\r\n",
            3_600,
            2,
        ),
        (
            "P-Associated-URI: <sip:name@hims.net>\r\n\
             m: <sip:name@192.168.1.103:37761>;expires=1593;pub-gruu=\"sip:name@hims.net;gr=a\"\r\n\
             m: <sip:name@HOST>;expires=1700;pub-gruu=\"sip:name@hims.net;gr=b\"\r\n\
             Path: <sip:term@pcscf.hims.net:4060;lr>\r\nService-Route: <sip:orig@scscf.hims.net:6060;lr>\r\n\
             P-Charging-Function-Addresses: ccf=pri_ccf_address\r\nServer: some one (x/1)\r\n\
             Warning: 392 10.19.3.160:6060 \"Noisy feedback tells: pid=30444\"\r\n",
            1_700,
            1,
        ),
        ("Expires: 1200\r\nContact: \"A phone\" <sip:HOST>\r\n", 1_200, 0),
    ] {
        let mut net = Net::new(config());
        net.command(REGISTER);
        let r1 = net.request();
        net.challenge(&r1);
        let r2 = net.request();
        let contact = r2.header(Name::Contact);
        let host = contact.split("sip:").nth(1).unwrap().split('>').next().unwrap();
        net.answers_in_lines(&r2, "200 OK - and all that", &lines.replace("HOST", host));
        let Event::Registered { granted_seconds, .. } = net.event() else { panic!("{lines}") };
        assert_eq!(granted_seconds, granted, "{lines}");
        let registration = net.phone.registration(0).expect("registered");
        assert_eq!(registration.associated.len(), associated, "{lines}");
    }
}

/// RFC 5118 §4.6, RFC 5952 §4: the own contact with its IPv6 address spelt in full.
#[test]
fn a_long_ipv6_address() {
    let mut config = config();
    config.address = "2001:db8:890:1942:1:0:9e0b:baea".parse().unwrap();
    config.pcscfs = vec!["[2001:db8::10]:5060".parse().unwrap()];
    let mut net = Net::new(config);
    net.command(REGISTER);
    let r1 = net.request();
    net.challenge(&r1);
    let r2 = net.request();
    let contact = r2.header(Name::Contact);
    assert!(contact.contains("[2001:db8:890:1942:1:0:9e0b:baea]"), "{contact}");
    let long = "[2001:0DB8:0890:1942:0001:0000:9E0B:BAEA]";
    let contact = contact.replace("[2001:db8:890:1942:1:0:9e0b:baea]", long);
    net.answers_in_lines(&r2, "200 OK", &format!("Contact: {contact}\r\n"));
    assert!(matches!(net.event(), Event::Registered { .. }));
}
