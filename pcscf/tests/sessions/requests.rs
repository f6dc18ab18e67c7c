//! Requests of UEs and for UEs, and the dialogs that they make (TS 24.229 §5.2.6).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::node::{Flow, Input, Node, Transport};
use common::reginfo::{Event, RegInfo, Registration};
use common::restoration;
use common::sip::header::Name;
use common::sip::message::Message;
use pcscf::config::{Policy, RouteMismatch};

use crate::lone::*;

/// TS 24.229 §5.2.6.3.3, §5.2.6.3.4: the identity asserted, the route checked, what is between UE
/// and P-CSCF taken off; the answer shows the protected port and no charging.
#[test]
fn a_subscription_of_a_ue() {
    let mut lone = Lone::registered(config(false));
    lone.protected(&subscribe(&[]));
    let (flow, request) = lone.request();
    assert_eq!(flow.remote, SCSCF.parse().unwrap());
    let headers = request.headers();
    assert_eq!(headers.get(Name::Route), Some("<sip:orig@192.0.2.31:5060;lr>"));
    assert_eq!(
        headers.get(Name::RecordRoute),
        Some("<sip:mo.0a2d00027919@pcscf1.visited.example;lr>")
    );
    let asserted: Vec<_> = headers.values(Name::PAssertedIdentity).collect();
    assert_eq!(asserted, ["<sip:alice@home.example>"]);
    for name in [
        Name::PPreferredIdentity,
        Name::SecurityVerify,
        Name::Require,
        Name::ProxyRequire,
        Name::SecurityClient,
    ] {
        assert!(!headers.has(name), "{name:?}");
    }
    assert!(headers.get(Name::PChargingVector).unwrap().contains("Type 1visited.example"));
    assert!(headers.has(Name::PAccessNetworkInfo));
    assert_eq!(headers.get(Name::MaxForwards), Some("69"));
    lone.from_core(taken(&request).to_bytes());
    let set = lone.set.clone().unwrap();
    let (flow, response) = lone.response(200);
    assert_eq!((flow.local.port(), flow.remote.port()), (set.ports.pc, set.ports.us));
    let headers = response.headers();
    assert_eq!(headers.get(Name::RecordRoute), Some("<sip:mo@10.46.0.1:5064;lr>"));
    assert!(!headers.has(Name::PChargingVector));
    assert_eq!(headers.values(Name::Via).count(), 1);
    assert_eq!(lone.core.owed(), 0);

    // Within the dialog, by the recorded route; of no other dialog.
    let again = [
        ("SUBSCRIBE sip:alice@home.example", &format!("SUBSCRIBE sip:{SCSCF}")[..]),
        (", <sip:orig@192.0.2.31:5060;lr>", ""),
        ("To: <sip:alice@home.example>", "To: <sip:alice@home.example>;tag=t"),
        ("CSeq: 1", "CSeq: 2"),
        ("z9hG4bKs1", "z9hG4bKs2"),
    ];
    lone.protected(&subscribe(&again));
    let (flow, request) = lone.request();
    assert_eq!(flow.remote, SCSCF.parse().unwrap());
    assert!(!request.headers().has(Name::Route));
    lone.from_core(taken(&request).to_bytes());
    lone.response(200);
    for (number, change) in [("tag=t", "tag=x"), ("watch1", "watch9")].into_iter().enumerate() {
        let branch = format!("z9hG4bKo{number}");
        let text = subscribe(&again).replace(change.0, change.1).replace("z9hG4bKs2", &branch);
        lone.protected(&text);
        lone.response(481);
    }
}

/// RFC 3261 §12.2: the route of a dialog is that of its first answer; a later one that does not repeat it takes
/// nothing away.
#[test]
fn the_route_of_a_dialog_stays() {
    const RECORDED: &str = "<sip:192.0.2.77;lr>";
    let mut lone = Lone::registered(config(false));
    lone.protected(&subscribe(&[]));
    let (_, request) = lone.request();
    let mut response = taken(&request);
    response.headers_mut().push_front(Name::RecordRoute, RECORDED);
    lone.from_core(response.to_bytes());
    lone.response(200);
    for cseq in [2, 3] {
        lone.protected(&subscribe(&[
            ("SUBSCRIBE sip:alice@home.example", &format!("SUBSCRIBE sip:{SCSCF}")[..]),
            (", <sip:orig@192.0.2.31:5060;lr>", &format!(", {RECORDED}")),
            ("To: <sip:alice@home.example>", "To: <sip:alice@home.example>;tag=t"),
            ("CSeq: 1", &format!("CSeq: {cseq}")),
            ("z9hG4bKs1", &format!("z9hG4bKr{cseq}")),
        ]));
        let (flow, request) = lone.request();
        assert_eq!(flow.remote.ip().to_string(), "192.0.2.77", "{cseq}");
        assert_eq!(request.headers().get(Name::Route), Some(RECORDED));
        let mut response = taken(&request);
        response.headers_mut().remove(Name::RecordRoute);
        lone.from_core(response.to_bytes());
        lone.response(200);
    }
}

/// TS 24.229 §5.2.6.3.3: another identity than may be used is replaced by the default one; another
/// route than the Service-Route is replaced, or refused where the operator wants that.
#[test]
fn identity_and_route_are_the_networks() {
    let mut lone = Lone::registered(config(false));
    for (number, (preferred, asserted)) in [
        ("<tel:+1-202-555-0123>", "<tel:+1-202-555-0123>"),
        ("<sip:bob@home.example>", "<sip:alice@home.example>"),
    ]
    .into_iter()
    .enumerate()
    {
        let branch = format!("z9hG4bKi{number}");
        lone.protected(&subscribe(&[
            ("Identity: <sip:alice@home.example>", &format!("Identity: {preferred}")),
            ("z9hG4bKs1", &branch),
            ("watch1", &branch),
            ("<sip:orig@192.0.2.31:5060;lr>", "<sip:elsewhere.example;lr>"),
        ]));
        let (flow, request) = lone.request();
        assert_eq!(flow.remote, SCSCF.parse().unwrap());
        assert_eq!(request.headers().get(Name::PAssertedIdentity), Some(asserted));
        assert_eq!(request.headers().get(Name::Route), Some("<sip:orig@192.0.2.31:5060;lr>"));
        lone.from_core(request.response(403, "Forbidden").to_bytes());
        lone.response(403);
    }
    let mut strict = config(false);
    strict.gm.route_mismatch = RouteMismatch::Reject;
    let mut lone = Lone::registered(strict);
    lone.protected(&subscribe(&[("<sip:orig@192.0.2.31:5060;lr>", "<sip:elsewhere.example;lr>")]));
    lone.response(400);
    lone.protected(&subscribe(&[
        ("Proxy-Require: sec-agree", "Proxy-Require: wings"),
        ("s1", "s3"),
    ]));
    assert_eq!(lone.response(420).1.headers().get(Name::Unsupported), Some("wings"));
}

/// TS 24.229 §5.2.2.3; registration.md P-24: the Service-Route of a later 200 stands in the place of the one before.
#[test]
fn another_service_route_replaces_the_first() {
    const OTHER: &str = "<sip:orig@192.0.2.32:5060;lr>";
    let mut strict = config(false);
    strict.gm.route_mismatch = RouteMismatch::Reject;
    let mut lone = Lone::registered(strict);
    lone.protected(&register(31_001, 3, "X: y\r\n"));
    let (_, refresh) = lone.request();
    let mut response = accepted(&refresh);
    response.headers_mut().set(Name::ServiceRoute, OTHER);
    lone.from_core(response.to_bytes());
    lone.response(200);
    lone.protected(&subscribe(&[]));
    lone.response(400);
    lone.protected(&subscribe(&[
        ("<sip:orig@192.0.2.31:5060;lr>", OTHER),
        ("z9hG4bKs1", "z9hG4bKs2"),
    ]));
    let (flow, request) = lone.request();
    assert_eq!(flow.remote, "192.0.2.32:5060".parse().unwrap());
    let routes: Vec<_> = request.headers().values(Name::Route).collect();
    assert_eq!(routes, [OTHER]);
}

/// TS 24.229 §5.2.2.3, §5.2.6.3.3: identities that the home network has run together, without a comma, are two all
/// the same; a phone may watch, and prefer, a local number (RFC 3966 §5.1.5); what is no identity is none.
#[test]
fn identities_as_others_write_them() {
    let mut lone = Lone::registered(config(false));
    lone.protected(&register(31_001, 3, "X: y\r\n"));
    let (_, refresh) = lone.request();
    let mut response = accepted(&refresh);
    let joined = "<sip:alice@home.example>  <tel:0398765432100>, odd";
    response.headers_mut().set(Name::PAssociatedUri, joined);
    lone.from_core(response.to_bytes());
    lone.response(200);
    for (number, (preferred, asserted)) in [
        ("tel:0398765432100", "<tel:0398765432100>"),
        ("odd", "<sip:alice@home.example>"),
        ("tel:0398765432101", "<sip:alice@home.example>"),
    ]
    .into_iter()
    .enumerate()
    {
        let branch = format!("z9hG4bKl{number}");
        let uri = if number == 0 { preferred } else { "sip:alice@home.example" };
        lone.protected(&subscribe(&[
            ("SUBSCRIBE sip:alice@home.example", &format!("SUBSCRIBE {uri}")),
            (
                "P-Preferred-Identity: <sip:alice@home.example>",
                &format!("P-Preferred-Identity: <{preferred}>"),
            ),
            ("z9hG4bKs1", &branch),
            ("watch1", &branch),
        ]));
        let (_, request) = lone.request();
        assert_eq!(request.uri(), uri);
        assert_eq!(request.headers().get(Name::PAssertedIdentity), Some(asserted));
        lone.from_core(request.response(403, "Forbidden").to_bytes());
        lone.response(403);
    }
}

/// RFC 3261 §7.3.1: both Vias of an answer in one line, without a blank between them.
#[test]
fn an_answer_with_vias_in_one_line() {
    let mut lone = Lone::registered(config(false));
    lone.from_core(notify(&format!("sip:{UE}:31001")));
    let (_, request) = lone.request();
    let vias: Vec<_> = request.headers().values(Name::Via).map(str::to_owned).collect();
    assert_eq!(vias.len(), 2);
    let answer = format!(
        "SIP/2.0 200 OK\r\nVia: {}\r\nTo: <sip:alice@home.example>;tag=s\r\n\
         From: <sip:alice@home.example>;tag=t\r\nCSeq: 1 NOTIFY\r\nCall-ID: watch1\r\n\
         Content-Length: 0\r\nP-Access-Network-Info: 3GPP-E-UTRAN-FDD; utran-cell-id-3gpp=1\r\n\r\n",
        vias.join(",")
    );
    lone.protected(&answer);
    let (flow, response) = lone.response(200);
    assert_eq!(flow.remote, SCSCF.parse().unwrap());
    let left: Vec<_> = response.headers().values(Name::Via).collect();
    assert_eq!(left, [vias[1].as_str()]);
}

/// ipsec.md N-01; TS 24.229 §5.2.6.3.2: not in clear, not without registration; where the policy
/// allows phones without associations, in clear.
#[test]
fn who_may_send() {
    let mut lone = Lone::with(config(false));
    lone.from_ue(5060, 5060, &subscribe(&[]));
    lone.response(403);
    let mut lone = Lone::registered(config(false));
    lone.from_ue(5060, 5060, &subscribe(&[]));
    lone.response(403);
    lone.protected(&subscribe(&[]).replace("SUBSCRIBE", "MESSAGE"));
    lone.response(501);

    let mut open = config(false);
    open.ipsec.policy = Policy::Off;
    let mut lone = Lone::with(open);
    let plain = |text: String| text.replace("31001", "5060").replace(":5064;lr", ":5060;lr");
    lone.from_ue(5060, 5060, &plain(register(5060, 1, "")));
    let (_, request) = lone.request();
    let response = String::from_utf8(accepted(&request).to_bytes().to_vec()).unwrap();
    lone.from_core(plain(response).into());
    lone.response(200);
    lone.from_ue(5060, 5060, &plain(subscribe(&[])));
    let (_, request) = lone.request();
    lone.from_core(taken(&request).to_bytes());
    let (flow, response) = lone.response(200);
    assert_eq!(flow.local.port(), 5060);
    assert_eq!(response.headers().get(Name::RecordRoute), Some("<sip:mo@10.46.0.1:5060;lr>"));
    lone.from_core(notify(&format!("sip:{UE}:5060")));
    let (flow, _) = lone.request();
    assert_eq!((flow.local.port(), flow.remote.port()), (5060, 5060));
}

/// TS 24.229 §5.2.6.4: on the set in use, with port_ps in Via (pitfall 17), without charging; the
/// answer goes back.
#[test]
fn a_notify_for_a_ue() {
    let mut lone = Lone::registered(config(false));
    lone.from_core(notify(&format!("sip:someone@{UE}:31001")));
    let set = lone.set.clone().unwrap();
    let (flow, request) = lone.request();
    assert_eq!((flow.local.port(), flow.remote.port()), (set.ports.pc, set.ports.us));
    let headers = request.headers();
    let via = headers.values(Name::Via).next().unwrap();
    assert!(via.starts_with("SIP/2.0/UDP 10.46.0.1:5064;branch="), "{via}");
    assert!(!headers.has(Name::Route) && !headers.has(Name::PChargingVector));
    let mut answer = request.response(200, "OK");
    answer.headers_mut().append(Name::PAssertedIdentity, "<sip:forged@x>");
    lone.protected(std::str::from_utf8(&answer.to_bytes()).unwrap());
    let (flow, response) = lone.response(200);
    assert_eq!(flow.remote, SCSCF.parse().unwrap());
    assert_eq!(response.headers().values(Name::Via).count(), 1);
    assert!(!response.headers().has(Name::PAssertedIdentity));
    assert_eq!(lone.core.owed(), 0);
}

/// TS 24.229 §5.2.6.4: nobody there: 480; a silent UE: 408; not by our Route: 403.
#[test]
fn a_notify_for_nobody() {
    let mut lone = Lone::registered(config(false));
    for uri in ["sip:10.45.0.3:31001", "sip:10.45.0.2:31002", "sip:alice@home.example", "tel:+1"] {
        let text = String::from_utf8(notify(uri).to_vec()).unwrap();
        lone.from_core(text.replace("z9hG4bKn1", &format!("z9hG4bK{}", uri.len())).into());
        lone.response(480);
    }
    let text = String::from_utf8(notify(&format!("sip:{UE}:31001")).to_vec()).unwrap();
    lone.from_core(text.replace("pcscf1.visited", "other").into());
    lone.response(403);
    lone.from_core(text.replace("z9hG4bKn1", "z9hG4bKlate").into());
    lone.pass(Duration::from_secs(129));
    assert!(lone.sent.iter().any(|(_, message)| {
        matches!(message, Message::Response(response) if response.status() == 408)
    }));
    assert_eq!(lone.core.owed(), 0);
}

/// TS 24.229 §5.2.6.4, RFC 3327 §5.1: Path says where the phone is, whatever its Contact does: a name, an address of
/// another interface, one that nobody has; by TCP, where that is what Contact asks for (RFC 3263 §4.1).
#[test]
fn a_request_by_path_whatever_the_contact_is() {
    for (number, (contact, transport)) in [
        ("sip:172.16.9.9:5060", Transport::Udp),
        ("sip:alice@10.45.0.2", Transport::Udp),
        ("sip:phone.invalid;transport=udp", Transport::Udp),
        ("sip:10.45.0.2:31001;transport=tcp", Transport::Tcp),
        ("sip:172.16.9.9:5060;transport=TCP", Transport::Tcp),
    ]
    .into_iter()
    .enumerate()
    {
        let mut lone = Lone::registered(config(false));
        let set = lone.set.clone().unwrap();
        let text = String::from_utf8(notify(contact).to_vec()).unwrap();
        let text = text.replace("sip:mo@", "sip:term.0a2d00027919@");
        lone.from_core(text.replace("z9hG4bKn1", &format!("z9hG4bKp{number}")).into());
        let (flow, request) = lone.request();
        assert_eq!(flow.transport, transport, "{contact}");
        assert_eq!((flow.local.port(), flow.remote.port()), (set.ports.pc, set.ports.us));
        assert_eq!(flow.remote.ip().to_string(), UE);
        assert_eq!(request.uri(), contact);
    }
}

/// RFC 5626 §5.3: by a flow to its UE, whoever is in the Request-URI; a flow that is gone is 430.
#[test]
fn a_request_by_a_flow() {
    let mut lone = Lone::registered(config(false));
    let by_flow = |user: &str, branch: &str| {
        let text = String::from_utf8(notify("sip:alice@home.example;gr=urn:x").to_vec()).unwrap();
        let text = text.replace("sip:mo@", &format!("sip:{user}@")).replace(";lr>", ";lr;ob>");
        Bytes::from(text.replace("z9hG4bKn1", branch))
    };
    lone.from_core(by_flow("term.0a2d00027919", "z9hG4bKf1"));
    let set = lone.set.clone().unwrap();
    assert_eq!((lone.set.as_ref().map(|set| set.ports.us), UE), (Some(31_001), "10.45.0.2"));
    let (flow, request) = lone.request();
    assert_eq!((flow.local.port(), flow.remote.port()), (set.ports.pc, set.ports.us));
    assert!(!request.headers().has(Name::Route));
    lone.protected(std::str::from_utf8(&request.response(200, "OK").to_bytes()).unwrap());
    lone.response(200);
    for (user, branch) in [("term.0a2d0002791b", "z9hG4bKf2"), ("term.0a2d00037919", "z9hG4bKf3")] {
        lone.from_core(by_flow(user, branch));
        lone.response(430);
    }
}

/// RFC 3261 §12: a dialog is named by Call-ID and both tags. Who repeats the Call-ID and the tag of another UE hears nothing of
/// what is for that one, and ends nothing but his own.
#[test]
fn dialogs_of_two_with_one_call_id() {
    let mut open = config(false);
    open.ipsec.policy = Policy::Off;
    let mut lone = Lone::with(open);
    const BOB: &str = "10.45.0.3";
    let written = |text: String, address: &str, branch: &str| {
        let text = text.replace("31001", "5060").replace(":5064;lr", ":5060;lr");
        let text = text.replace(UE, address).replace("branch=", &format!("branch={branch}"));
        if address == BOB { text.replace("alice", "bob") } else { text }
    };
    let says = |lone: &mut Lone, address: &str, text: String, tag: &str| {
        let flow = Flow {
            transport: Transport::Udp,
            local: SocketAddr::new(PCSCF.parse().unwrap(), 5060),
            remote: SocketAddr::new(address.parse().unwrap(), 5060),
        };
        lone.feed(Input::Sip { flow, bytes: text.into() });
        let (_, request) = lone.request();
        let response = match tag.is_empty() {
            true => accepted(&request),
            false => taken(&request),
        };
        let text = String::from_utf8(response.to_bytes().to_vec()).unwrap();
        let text = written(text, address, "").replace(";tag=t\r\n", &format!(";tag={tag}\r\n"));
        lone.from_core(text.into());
        let (flow, _) = lone.response(200);
        assert_eq!(flow.remote.ip().to_string(), address);
    };
    for (address, tag) in [(UE, "t"), (BOB, "u")] {
        let text = written(register(5060, 1, ""), address, &format!("z9hG4bKr{tag}"));
        says(&mut lone, address, text, "");
        let text = written(subscribe(&[]), address, &format!("z9hG4bK{tag}"));
        says(&mut lone, address, text, tag);
    }
    let told = |lone: &mut Lone, tag: &str, branch: &str| {
        let text = String::from_utf8(notify("sip:phone.invalid").to_vec()).unwrap();
        let text = text.replace("z9hG4bKn1", branch).replace(";tag=t\r\n", tag);
        lone.from_core(text.into());
        lone.sent.remove(0).0.remote.ip().to_string()
    };
    assert_eq!(told(&mut lone, ";tag=t\r\n", "z9hG4bKn1"), UE);
    assert_eq!(told(&mut lone, ";tag=u\r\n", "z9hG4bKn2"), BOB);
    // Nobody's.
    assert_eq!(told(&mut lone, ";tag=v\r\n", "z9hG4bKn3"), "192.0.2.31");
    let again = subscribe(&[
        ("SUBSCRIBE sip:alice@home.example", &format!("SUBSCRIBE sip:{SCSCF}")[..]),
        (", <sip:orig@192.0.2.31:5060;lr>", ""),
        ("To: <sip:alice@home.example>", "To: <sip:alice@home.example>;tag=u"),
        ("CSeq: 1", "CSeq: 2"),
    ]);
    let flow = Flow {
        transport: Transport::Udp,
        local: SocketAddr::new(PCSCF.parse().unwrap(), 5060),
        remote: SocketAddr::new(BOB.parse().unwrap(), 5060),
    };
    lone.feed(Input::Sip { flow, bytes: written(again, BOB, "z9hG4bKend").into() });
    let (_, request) = lone.request();
    lone.from_core(request.response(481, "Subscription Does Not Exist").to_bytes());
    lone.response(481);
    assert_eq!(told(&mut lone, ";tag=u\r\n", "z9hG4bKn4"), "192.0.2.31");
    assert_eq!(told(&mut lone, ";tag=t\r\n", "z9hG4bKn5"), UE);
}

/// RFC 3261 §18.2.2, RFC 3581 §4: a phone in clear behind a NAT is asked in its dialogs where it registered from, whatever
/// private address its Contact has; by its new port, once it has registered from there; also of its end.
#[test]
fn a_dialog_of_a_phone_behind_a_nat() {
    let mut open = config(true);
    open.ipsec.policy = Policy::Off;
    let mut lone = Lone::with(open);
    let private = |text: String| {
        [31_001, 5060]
            .iter()
            .fold(text, |text, port| text.replace(&format!("{UE}:{port}"), "192.168.1.2:5060"))
            .replace(":5064;lr", ":5060;lr")
    };
    let registers = |lone: &mut Lone, port: u16, cseq: u32| {
        lone.from_ue(port, 5060, &private(register(5060, cseq, "")));
        let (_, request) = lone.request();
        let response = String::from_utf8(accepted(&request).to_bytes().to_vec()).unwrap();
        lone.from_core(private(response).into());
        let (flow, _) = lone.response(200);
        assert_eq!(flow.remote.port(), port);
    };
    registers(&mut lone, 20_001, 1);
    let watch = lone.watched();
    lone.from_ue(20_001, 5060, &private(subscribe(&[])));
    let (_, request) = lone.request();
    lone.from_core(taken(&request).to_bytes());
    lone.response(200);
    let told_at = |lone: &mut Lone, number: u32| {
        let text = String::from_utf8(notify("sip:192.168.1.2:5060").to_vec()).unwrap();
        lone.from_core(text.replace("z9hG4bKn1", &format!("z9hG4bKn{number}")).into());
        lone.request().0.remote
    };
    let outside = |port: u16| SocketAddr::new(UE.parse().unwrap(), port);
    assert_eq!(told_at(&mut lone, 1), outside(20_001));
    registers(&mut lone, 20_008, 2);
    assert_eq!(told_at(&mut lone, 2), outside(20_008));
    let ended = [(ALICE, Event::Rejected, false, 0), (NUMBER, Event::Rejected, false, 0)];
    let text = document(&watch, 1, "terminated;reason=rejected", &ended).to_vec();
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let body = body.replace(&format!("{UE}:31001"), "192.168.1.2:5060");
    let head: Vec<&str> = head.lines().filter(|line| !line.starts_with("Content-Le")).collect();
    let length = body.len();
    lone.from_core(
        format!("{}\r\nContent-Length: {length}\r\n\r\n{body}", head.join("\r\n")).into(),
    );
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 0);
    assert_eq!(told_at(&mut lone, 3), outside(20_008));
}

/// TS 24.229 §5.2.6.3.3, §5.2.6.4: of several phones in clear behind one NAT each speaks for itself, and is asked for itself, by the
/// port that the NAT has for it; also when one is leaving. From another port speaks none of them.
#[test]
fn phones_in_clear_behind_one_nat() {
    let mut open = config(true);
    open.ipsec.policy = Policy::Off;
    let mut lone = Lone::with(open);
    let written = |text: String, user: &str| {
        let text = text.replace("alice", user).replace(":5064;lr", ":5060;lr");
        [31_001, 5060].iter().fold(text, |text, port| {
            text.replace(&format!("{UE}:{port}"), &format!("192.168.1.2:{port}"))
        })
    };
    let phones = [("alice", 20_001), ("bob", 20_002)];
    let mut watches = Vec::new();
    for (user, port) in phones {
        lone.from_ue(port, 5060, &written(register(5060, 1, ""), user).replace("5060x1", user));
        let (_, request) = lone.request();
        let text = String::from_utf8(accepted(&request).to_bytes().to_vec()).unwrap();
        let text = written(text, user).replace("192.168.1.2:31001", "192.168.1.2:5060");
        lone.from_core(text.into());
        assert_eq!(lone.response(200).0.remote.port(), port);
        watches.push(lone.watched());
    }
    let mut number = 0;
    let mut asserted = |lone: &mut Lone, user: &str, port: u16| {
        number += 1;
        let branch = format!("z9hG4bKnat{number}");
        let text = written(subscribe(&[("z9hG4bKs1", &branch), ("watch1", &branch)]), user);
        lone.from_ue(port, 5060, &text);
        let (_, message) = lone.sent.remove(0);
        let Message::Request(request) = message else { return None };
        lone.from_core(request.response(403, "Forbidden").to_bytes());
        lone.response(403);
        request.headers().get(Name::PAssertedIdentity).map(str::to_owned)
    };
    let identity = |user: &str| Some(format!("<sip:{user}@home.example>"));
    let told = |lone: &mut Lone, port: u16, branch: &str| {
        let text = String::from_utf8(notify("sip:phone.invalid").to_vec()).unwrap();
        let token = format!("sip:term.0a2d0002{port:04x}@");
        let text = text.replace("z9hG4bKn1", branch).replace("sip:mo@", &token);
        lone.from_core(text.into());
        match lone.sent.remove(0) {
            (flow, Message::Request(_)) => Some(flow.remote.port()),
            _ => None,
        }
    };
    for (user, port) in phones {
        assert_eq!(asserted(&mut lone, user, port), identity(user));
        assert_eq!(told(&mut lone, port, &format!("z9hG4bKto{user}")), Some(port));
    }
    assert_eq!(asserted(&mut lone, "alice", 20_003), None);
    assert_eq!(told(&mut lone, 20_003, "z9hG4bKtonobody"), None);
    // One is leaving: it may still ask why, and the other is not taken for it.
    let ended = [(ALICE, Event::Rejected, false, 0), (NUMBER, Event::Rejected, false, 0)];
    let text = document(&watches[0], 1, "terminated;reason=rejected", &ended).to_vec();
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let body = body.replace(&format!("{UE}:31001"), "192.168.1.2:5060");
    let head: Vec<&str> = head.lines().filter(|line| !line.starts_with("Content-Le")).collect();
    let text = format!("{}\r\nContent-Length: {}\r\n\r\n{body}", head.join("\r\n"), body.len());
    lone.from_core(text.into());
    lone.response(200);
    assert_eq!(lone.counter("tessera_pcscf_registrations", ""), 1);
    for (user, port) in phones {
        assert_eq!(asserted(&mut lone, user, port), identity(user));
    }
    assert_eq!(told(&mut lone, 20_002, "z9hG4bKlast"), Some(20_002));
}

/// RFC 3261 §18.1.1, TS 33.203 §7.1: a document of many identities is too long for a datagram: it goes to the UE over TCP,
/// inside the same associations; and as a datagram when the UE takes no connection.
#[test]
fn a_long_document_for_a_ue() {
    for is_refused in [false, true] {
        let mut lone = Lone::registered(config(false));
        lone.protected(&subscribe(&[]));
        let (_, request) = lone.request();
        lone.from_core(taken(&request).to_bytes());
        lone.response(200);
        let one = about(0, true, &[(OWN, true), (OTHER, true)]).registrations.remove(0);
        let registrations = (0..100)
            .map(|number| Registration { aor: format!("tel:+1202555{number:04}"), ..one.clone() })
            .collect();
        let body = RegInfo { version: 0, is_full: true, registrations }.to_xml();
        assert!(body.len() > 20_000);
        let short = String::from_utf8(notify(&format!("sip:{UE}:31001")).to_vec()).unwrap();
        let (head, old) = short.split_once("\r\n\r\n").unwrap();
        let length = format!("Content-Length: {}", old.len());
        assert!(head.contains(&length), "{head}");
        let head = head.replace(&length, &format!("Content-Length: {}", body.len()));
        lone.from_core(format!("{head}\r\n\r\n{body}").into());
        let ports = lone.set.clone().unwrap().ports;
        let (mut flow, mut request) = lone.request();
        assert_eq!(flow.transport, Transport::Tcp);
        assert_eq!((flow.local.port(), flow.remote.port()), (ports.pc, ports.us));
        if is_refused {
            lone.feed(Input::Unreachable { flow });
            (flow, request) = lone.request();
            assert_eq!(flow.transport, Transport::Udp);
            assert_eq!((flow.local.port(), flow.remote.port()), (ports.pc, ports.us));
        }
        assert_eq!(request.body(), body.as_bytes());
        lone.feed(Input::Sip { flow, bytes: request.response(200, "OK").to_bytes() });
        lone.response(200);
        assert_eq!(lone.core.owed(), 0);
    }
}

/// TS 24.229 §5.2.6.3.2A, TS 23.380 §4.4.3: the S-CSCF of a phone is silent: its next registration finds another, and by
/// the Path of its own 200 it knows that it may believe us. Within a dialog nothing is said of that.
#[test]
fn a_phone_whose_scscf_is_silent_is_sent_to_register() {
    let mut lone = Lone::registered(config(false));
    lone.protected(&subscribe(&[]));
    let (_, first) = lone.request();
    lone.pass(Duration::from_secs(120));
    lone.sent.retain(|(_, message)| matches!(message, Message::Response(_)));
    let (_, response) = lone.response(504);
    assert!(restoration::asks_to_register_anew(&response));
    let asserted = response.headers().get(Name::PAssertedIdentity).unwrap();
    // As its Path was: 10.45.0.2, port 31001.
    assert_eq!(asserted, "<sip:term.0a2d00027919@pcscf1.visited.example;lr>");
    assert!(first.to_tag().is_none());

    let mut lone = Lone::registered(config(false));
    lone.protected(&subscribe(&[]));
    let (_, first) = lone.request();
    lone.from_core(taken(&first).to_bytes());
    lone.response(200);
    let within = [
        ("SUBSCRIBE sip:alice@home.example", &format!("SUBSCRIBE sip:{SCSCF}")[..]),
        ("To: <sip:alice@home.example>", "To: <sip:alice@home.example>;tag=t"),
        ("CSeq: 1", "CSeq: 2"),
        ("z9hG4bKs1", "z9hG4bKs2"),
    ];
    lone.protected(&subscribe(&within));
    lone.request();
    lone.pass(Duration::from_secs(120));
    lone.sent.retain(|(_, message)| matches!(message, Message::Response(_)));
    let (_, response) = lone.response(504);
    assert!(!restoration::asks_to_register_anew(&response) && response.body().is_empty());
}
