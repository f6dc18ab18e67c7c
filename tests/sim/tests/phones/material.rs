//! Messages of real phones, each through the procedure that it belongs to.
//!
//! They lie outside of this repository; without them this says `skipped`. What is put into them is what nobody
//! could keep: identities and home domain of a card that is known, the address, where the P-CSCF is, nonce and
//! response, and what the P-CSCF has written into Security-Server, Via and Service-Route.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use common::node::{Flow, Transport};
use common::sip::header::Name;
use common::sip::message::{Request, Response};
use sim::ims::HOME;

use crate::bench::Bench;
use crate::cores;
use crate::words::Words;

/// The messages, by number; those asked for are noted.
pub struct Material {
    files: Vec<(String, Vec<u8>)>,
    taken: RefCell<BTreeSet<String>>,
}

impl Material {
    fn find() -> Option<Material> {
        let start = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folders = start.ancestors().map(|folder| folder.join("shared/material/real-messages"));
        let Some(folder) = folders.into_iter().find(|folder| folder.is_dir()) else {
            println!("skipped: no shared/material above {}", start.display());
            return None;
        };
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("a file").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if name.ends_with(".sip") {
                files.push((name, std::fs::read(path).expect("a file")));
            }
        }
        Some(Material { files, taken: RefCell::default() })
    }

    pub fn words(&self, number: &str) -> Words {
        let mut found = self.files.iter().filter(|(name, _)| name.starts_with(number));
        let (_, bytes) = found.next().unwrap_or_else(|| panic!("no message {number}"));
        self.taken.borrow_mut().insert(number.to_owned());
        Words::new(&complete(bytes.clone()))
    }
}

/// Two of the captures lost their bodies: as many octets as they state are put back.
fn complete(mut bytes: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(&bytes);
    let is_cut = text.ends_with("\r\n\r\n");
    let stated = text.lines().find_map(|line| line.strip_prefix("l: ")?.parse::<usize>().ok());
    if let (true, Some(length)) = (is_cut, stated) {
        bytes.resize(bytes.len() + length, b'x');
    }
    bytes
}

/// Numbers of messages, what they drive, and how.
type Drive = (&'static [&'static str], &'static str, fn(&Material));

/// Each message stands in one of these.
const DRIVES: [Drive; 13] = [
    (
        &["001", "006", "011", "014", "026", "028", "029", "030", "033", "034", "035"],
        "registration, subscription, answered NOTIFY and a call, of a phone with IPsec",
        samsung_tab,
    ),
    (
        &["018", "020", "022", "024"],
        "registration, subscription and answered NOTIFY of a phone without IPsec",
        qualcomm,
    ),
    (&["049", "051", "053"], "registration over IPv6, six offers, and a call", huawei),
    (&["062", "063"], "compact registration over TCP and IPv6, and a call", qualcomm_compact),
    (&["069"], "a MESSAGE in clear", samsung_sms),
    (&["073", "074"], "sec-agree without an offer", xiaomi),
    (&["076"], "a refresh that counts its nonce", samsung_refresh),
    (&["080"], "Expires beside another interval in Contact, and another domain in uri", iphone),
    (&["093"], "registration of a client on a PC", boghe),
    (&["094"], "headers that say too much", doubango),
    (&["096"], "a binary MESSAGE with a Security-Verify of five entries", phh),
    (
        &["002", "003", "007", "008"],
        "another P-CSCF and I-CSCF in front of ours",
        cores::other_proxies,
    ),
    (
        &[
            "004", "005", "009", "010", "012", "013", "019", "021", "023", "050", "052", "087",
            "088", "089", "095",
        ],
        "another home network behind our P-CSCF",
        cores::other_homes,
    ),
];

/// RFC 3261 §7.3, TS 24.229 §5.2.2.1, §5.4.1.2: every message of the material is said to the node that it is for, and
/// gets the right answer there.
#[test]
fn every_message_drives_a_node() {
    let Some(material) = Material::find() else { return };
    let numbers: BTreeSet<&str> = material.files.iter().map(|(name, _)| &name[..3]).collect();
    let named: Vec<&str> = DRIVES.iter().flat_map(|(numbers, ..)| *numbers).copied().collect();
    assert_eq!(named.iter().copied().collect::<BTreeSet<_>>(), numbers, "each has an entry");
    assert_eq!(named.len(), numbers.len(), "and one only");
    for (numbers, what, drive) in DRIVES {
        println!("{numbers:?}: {what}");
        material.taken.take();
        drive(&material);
        let taken = material.taken.take();
        assert!(taken.iter().eq(numbers.iter()), "{what}: {taken:?} were said, not {numbers:?}");
    }
}

impl Bench {
    /// The card and the address of this phone in the place of those of the capture.
    fn fit(&self, words: Words, user: &str, domain: &str, host: &str) -> Words {
        let words = words.replace(host, &self.host());
        let words = if user.is_empty() { words } else { words.replace(user, &self.user()) };
        words.replace(domain, HOME)
    }

    /// The answer to the challenge that a phone would write who wrote `first`.
    pub fn second(&self, first: &Words, port: (&str, u16)) -> Words {
        let cseq = first.get("CSeq").and_then(|cseq| cseq.split(' ').next()).expect("a CSeq");
        let cseq: u32 = cseq.parse().expect("a number");
        let via = first.get("Via").expect("a Via").replace(port.0, &format!(":{};", port.1));
        let branch = via.split("branch=").nth(1).expect("a branch").split(';').next();
        let branch = branch.expect("a branch").to_owned();
        let contact = first.get("Contact").expect("a Contact").to_owned();
        let port_in_contact = port.0.trim_end_matches(';');
        let contact = contact.replace(port_in_contact, &format!(":{}", port.1));
        let second = first
            .clone()
            .set("CSeq", &format!("{} REGISTER", cseq + 1))
            .set("Via", &via.replace(&branch, &format!("{branch}2")))
            .set("Contact", &contact)
            .with(&format!("Security-Verify: {}", self.security_server()));
        self.authorized(second)
    }

    /// 200 and NOTIFY, in either order.
    #[track_caller]
    fn subscribed(&mut self, is_protected: bool) -> (Flow, Request) {
        use common::sip::message::Message;
        let (mut answer, mut notify) = (None, None);
        while answer.is_none() || notify.is_none() {
            let (flow, was_protected, message) = self.hear();
            assert_eq!(was_protected, is_protected, "{message:?}");
            match message {
                Message::Response(response) => {
                    assert_eq!(response.status(), 200, "{response:?}");
                    answer = Some(response);
                }
                Message::Request(request) => {
                    assert_eq!(request.method_text(), "NOTIFY");
                    notify = Some((flow, request));
                }
            }
        }
        notify.expect("a NOTIFY")
    }
}

fn text(response: &Response, name: Name) -> &str {
    response.headers().get(name).unwrap_or_else(|| panic!("no {name:?} in {response:?}"))
}

/// Service-Route of a 200 without its angle brackets.
fn service_route(response: &Response) -> String {
    text(response, Name::ServiceRoute).trim_matches(['<', '>']).to_owned()
}

fn samsung_tab(material: &Material) {
    let mut bench = Bench::new(false);
    let of = |bench: &Bench, number: &str| {
        material.words(number).replace("192.168.101.5", &bench.host())
    };
    let mine =
        |bench: &Bench, number: &str| of(bench, number).replace("001011234567893", &bench.user());
    let first = mine(&bench, "001");
    bench.clear(&first);
    let challenge = bench.answered(401, false);
    bench.challenged(&challenge, &first);
    // The phone says auth-int where it is offered; here it is not, and right all the same.
    let second = bench.secured(mine(&bench, "006"));
    bench.protected(&second);
    let accepted = bench.answered(200, true);
    assert!(text(&accepted, Name::Contact).contains("q=1.0"), "{accepted:?}");

    let number = bench.telephone.trim_start_matches("tel:").to_owned();
    let route = service_route(&accepted);
    let kamailio = format!("sip:orig@scscf.{HOME}:6060;lr");
    let call = |bench: &Bench, number_of_file: &str| {
        of(bench, number_of_file).replace("0398765432100", &number)
    };
    let subscribe = call(&bench, "011")
        .replace("10.4.128.21:6100", &bench.protected_pcscf())
        .replace(&kamailio, &route)
        .set("Security-Verify", &bench.security_server());
    bench.protected(&subscribe);
    let (flow, notify) = bench.subscribed(true);
    assert!(String::from_utf8_lossy(notify.body()).contains(&number), "{notify:?}");
    let answer = call(&bench, "014").answering(&notify);
    bench.answer_on(flow, &answer);
    bench.nothing_is_asked(40);
    // Those of P-CSCF and application server, and that of the phone, which has taken its NOTIFY.
    assert_eq!(bench.metric("scscf1", "tessera_scscf_subscriptions"), 3.0);

    // Sessions are not carried, and that is said; another phone of this make has made the call.
    let caller = |bench: &Bench, number: &str| {
        let at = format!("{}:6300", bench.host());
        let words = material.words(number).replace("192.168.101.3:6400", &at);
        words.replace("10.4.128.21:6101", &bench.protected_pcscf())
    };
    for number in ["026", "029", "030"] {
        let request = caller(&bench, number).set("Security-Verify", &bench.security_server());
        bench.protected(&request);
        bench.answered(501, true);
    }
    // Neither an ACK nor a response without a request is answered, nor goes anywhere.
    let before = bench.ims.world.wire.len();
    bench.protected(&caller(&bench, "035"));
    for number in ["028", "033", "034"] {
        let response = material.words(number);
        let flow = Flow {
            transport: Transport::Udp,
            local: SocketAddr::new(bench.address, 6300),
            remote: bench.protected_pcscf().parse().expect("an address"),
        };
        bench.answer_on(flow, &response);
    }
    bench.nothing_is_asked(1);
    let said = &bench.ims.world.wire[before..];
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said.iter().all(|(from, to, ..)| from == "ue0" && to == "pcscf"), "{said:?}");
}

fn qualcomm(material: &Material) {
    let of = |bench: &Bench, number: &str| {
        material.words(number).replace("192.168.101.2", &bench.host())
    };
    let mine =
        |bench: &Bench, number: &str| of(bench, number).replace("001011234567895", &bench.user());
    // Where associations are required it is told so.
    let mut bench = Bench::new(false);
    bench.clear(&mine(&bench, "018"));
    let refused = bench.answered(421, false);
    assert!(refused.headers().has_token(Name::Require, "sec-agree"));
    assert!(text(&refused, Name::SecurityServer).contains("ipsec-3gpp"));
    bench.clear(&of(&bench, "022"));
    bench.answered(403, false);

    let mut bench = Bench::without_ipsec(false);
    let first = mine(&bench, "018");
    bench.clear(&first);
    let challenge = bench.answered(401, false);
    assert!(!challenge.headers().has(Name::SecurityServer));
    bench.challenged(&challenge, &first);
    let second = bench.authorized(mine(&bench, "020"));
    // Another From tag than that of the challenge.
    assert_ne!(first.get("From"), second.get("From"));
    bench.clear(&second);
    let accepted = bench.answered(200, false);
    let contact = text(&accepted, Name::Contact);
    assert!(contact.contains("video") && contact.contains("accesstype=\"cellular2\""), "{contact}");

    let number = bench.telephone.trim_start_matches("tel:").to_owned();
    let route = service_route(&accepted);
    let subscribe = of(&bench, "022")
        .replace("0598765432100", &number)
        .replace("10.4.128.21:5060", &SocketAddr::new(bench.pcscf, 5060).to_string())
        .replace(&format!("sip:orig@scscf.{HOME}:6060;lr"), &route);
    bench.clear(&subscribe);
    let (flow, notify) = bench.subscribed(false);
    let answer = material.words("024").answering(&notify);
    bench.answer_on(flow, &answer);
    bench.nothing_is_asked(40);
    assert_eq!(bench.metric("lenient-scscf", "tessera_scscf_subscriptions"), 2.0);
}

fn huawei(material: &Material) {
    let mut bench = Bench::new(true);
    let (user, domain) = ("460600123456701", "ims.mnc060.mcc460.3gppnetwork.org");
    let host = "[2001:683:890:1942:1::9e0b:baea]";
    let of = |bench: &Bench, number| bench.fit(material.words(number), user, domain, host);
    let first = of(&bench, "049");
    bench.clear(&first);
    let challenge = bench.answered(401, false);
    bench.challenged(&challenge, &first);
    let second = bench.secured(of(&bench, "051"));
    assert_ne!(first.get("From"), second.get("From"), "another tag");
    bench.protected(&second);
    let accepted = bench.answered(200, true);
    assert!(text(&accepted, Name::Contact).contains(&bench.user()), "{accepted:?}");
    let invite = bench.fit(material.words("053"), "", domain, host);
    bench.protected(&invite);
    bench.answered(501, true);
}

fn qualcomm_compact(material: &Material) {
    let mut bench = Bench::new(true);
    let (user, domain) = ("460020123456701", "ims.mnc002.mcc460.3gppnetwork.org");
    let host = "[2409:8800:1111:2222:aaaa:bbbb:cccc:0001]";
    let first = bench.fit(material.words("062"), user, domain, host);
    bench.clear(&first);
    let challenge = bench.answered(401, false);
    bench.challenged(&challenge, &first);
    let second = bench.second(&first, (":8904;", 8904));
    bench.protected(&second);
    bench.answered(200, true);
    bench.protected(&bench.fit(material.words("063"), "", domain, host));
    bench.answered(501, true);
}

fn samsung_sms(material: &Material) {
    let mut bench = Bench::new(true);
    bench.clear(&material.words("069").replace("[2001:4430:1111:2222::58a:001]", &bench.host()));
    bench.answered(403, false);
}

fn xiaomi(material: &Material) {
    let (user, domain) = ("505030000000001", "ims.mnc003.mcc505.3gppnetwork.org");
    let of = |bench: &Bench, number| bench.fit(material.words(number), user, domain, "10.45.0.2");
    let mut bench = Bench::new(false);
    bench.clear(&of(&bench, "073"));
    let refused = bench.answered(494, false);
    assert!(text(&refused, Name::SecurityServer).contains("ipsec-3gpp"));

    let mut bench = Bench::without_ipsec(false);
    let first = of(&bench, "073");
    bench.clear(&first);
    let challenge = bench.answered(401, false);
    bench.challenged(&challenge, &first);
    // Whoever made the capture anonymous gave both the same branch.
    let second = bench.authorized(of(&bench, "074").replace("BRANCH000001", "BRANCH000002"));
    bench.clear(&second);
    bench.answered(200, false);
}

fn samsung_refresh(material: &Material) {
    let mut bench = Bench::new(true);
    let (user, domain) = ("302221000000001", "ims.mnc221.mcc302.3gppnetwork.org");
    let host = "[2001:56b:f:628:0:4a:0001:0001]";
    let refresh = bench.fit(material.words("076"), user, domain, host);
    // What that phone must have said before, in the same words.
    let offer = refresh.get("Security-Client").expect("an offer").to_owned();
    let offer = offer.replace("7311", "7111").replace("port-c=8802", "port-c=8801");
    let first = refresh
        .clone()
        .set("CSeq", "1 REGISTER")
        .set("Via", &format!("SIP/2.0/TCP {}:5060;branch=z9hG4bK-1;rport", bench.host()))
        .set("Security-Client", &offer)
        .without("Security-Verify")
        .without("P-Access-Network-Info")
        .set_parameter("Authorization", "nonce", "")
        .set_parameter("Authorization", "response", "");
    bench.clear(&first);
    let challenge = bench.answered(401, false);
    bench.challenged(&challenge, &first);
    let second = first
        .clone()
        .set("CSeq", "2 REGISTER")
        .set("Via", &format!("SIP/2.0/TCP {}:8800;branch=z9hG4bK-2;rport", bench.host()))
        .set_parameter("From", "tag", "before")
        .set_parameter("Authorization", "nc", "00000001")
        .with("Security-Verify: x");
    bench.protected(&bench.secured(second));
    bench.answered(200, true);
    let vectors = bench.ims.world.checkers.vectors;
    bench.protected(&bench.secured(refresh));
    let accepted = bench.answered(200, true);
    assert_eq!(bench.ims.world.checkers.vectors, vectors, "no challenge, no vector");
    assert!(text(&accepted, Name::Contact).contains("192.168.1.10:8800"), "{accepted:?}");
}

fn iphone(material: &Material) {
    let (user, domain) = ("97321761314732", "ims.mnc123.mcc123.3gppnetwork.org");
    let of = |bench: &Bench| {
        let words = bench.fit(material.words("080"), user, domain, "127.0.0.1");
        let pcscf = SocketAddr::new(bench.pcscf, 5060);
        words.set("Route", &format!("<sip:{pcscf};lr>"))
    };
    // It says sec-agree, and offers nothing.
    let mut bench = Bench::new(false);
    bench.clear(&of(&bench));
    bench.answered(494, false);

    let mut bench = Bench::without_ipsec(false);
    let first = of(&bench);
    bench.clear(&first);
    let challenge = bench.answered(401, false);
    bench.challenged(&challenge, &first);
    // Computed for another domain than the one that it registers with: never right.
    let second = first
        .clone()
        .set("CSeq", "2 REGISTER")
        .set("Via", &first.get("Via").expect("a Via").replace("4y479", "5y479"));
    bench.clear(&bench.authorized(second));
    bench.answered(403, false);
}

fn boghe(material: &Material) {
    let mut bench = Bench::new(false);
    let first = material
        .words("093")
        .replace("192.168.200.100", &bench.host())
        .replace("alice", &bench.user())
        .replace("open-ims.test", HOME);
    bench.clear(&first);
    let challenge = bench.answered(401, false);
    bench.challenged(&challenge, &first);
    let second = bench.second(&first, (":63373;", 63374));
    bench.protected(&second);
    let accepted = bench.answered(200, true);
    let contact = text(&accepted, Name::Contact);
    assert!(
        contact.contains("language=\"en,fr\"") && contact.contains("transport=udp"),
        "{contact}"
    );
}

fn doubango(material: &Material) {
    let of = |bench: &Bench| {
        let words = material.words("094").replace("[::]", &bench.host());
        words.replace("mamadou", &bench.user()).replace("open-ims.test", HOME)
    };
    let mut bench = Bench::new(true);
    bench.clear(&of(&bench));
    bench.answered(421, false);

    let mut bench = Bench::without_ipsec(true);
    bench.clear(&of(&bench));
    let refused = bench.answered(420, false);
    let unsupported: Vec<&str> = refused.headers().values(Name::Unsupported).collect();
    assert_eq!(unsupported, ["pref", "100rel"], "path is known");
}

fn phh(material: &Material) {
    let mut bench = Bench::new(true);
    bench.registered();
    let message = material.words("096").replace("[2001::1234]", &bench.host());
    bench.protected(&message);
    bench.answered(501, true);
}
