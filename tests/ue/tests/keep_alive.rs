//! A phone in clear behind a NAT, which it keeps open (RFC 6223, RFC 5626 §4.4.2).

mod net;

use std::time::Duration;

use common::secret::Secret;
use common::sip::header::Name;
use net::{Got, Net, config};
use ue::{Authentication, Command, Config, Event, Watched};

const REGISTER: Command = Command::Register { identity: 0 };

fn in_clear() -> Config {
    let mut config = config();
    config.authentication = Authentication::Password(Secret::new("of a test".to_owned()));
    config.behind_nat = Some("192.168.1.2".parse().unwrap());
    config
}

impl Net {
    /// 200, with what the P-CSCF writes into the Via.
    fn accepts(&mut self, got: &Got, keep: &str) {
        let mut response = got.request().response(200, "OK");
        let headers = response.headers_mut();
        let via = headers.get(Name::Via).unwrap().replace(";keep", keep);
        headers.set(Name::Via, &via);
        let contact = got.header(Name::Contact);
        headers.append(Name::Contact, &contact.replace("expires=600000", "expires=3600"));
        headers.append(Name::PAssociatedUri, "<sip:name@hims.net>");
        self.send_response(got, &response);
    }

    /// The first message within so many seconds.
    fn message_within(&mut self, seconds: u64) -> Got {
        for _ in 0..seconds * 10 {
            self.advance(Duration::from_millis(100));
            if !self.got.is_empty() {
                break;
            }
        }
        self.request()
    }

    fn registered(keep: &str) -> Net {
        let mut net = Net::new(in_clear());
        net.command(REGISTER);
        let register = net.request();
        assert!(register.header(Name::Via).contains(";keep"), "{}", register.text);
        net.accepts(&register, keep);
        assert!(matches!(net.event(), Event::Registered { .. }));
        net
    }
}

/// RFC 6223 §4.2, §4.4; RFC 5626 §4.4.2: as often as it is told, 80 % of that at least; none behind the end.
#[test]
fn as_often_as_it_is_told() {
    let mut net = Net::registered(";keep=10");
    net.advance(Duration::from_secs(79));
    assert!((7..=9).contains(&net.keep_alives), "{}", net.keep_alives);
    assert!(net.got.is_empty());
    net.command(Command::Deregister { identity: 0 });
    let deregister = net.request();
    net.answer(&deregister, 200, "OK", &[]);
    let sent = net.keep_alives;
    net.advance(Duration::from_secs(60));
    assert_eq!(net.keep_alives, sent);
}

/// RFC 6223 §4.4: without a number nobody wants them; without a NAT, or inside ESP, nobody is asked.
#[test]
fn where_nobody_wants_them() {
    for keep in [";keep", "", ";keep=0", ";keep=x"] {
        let mut net = Net::registered(keep);
        net.advance(Duration::from_secs(120));
        assert_eq!(net.keep_alives, 0, "{keep}");
    }
    let without_nat = Config { behind_nat: None, ..in_clear() };
    let protected = Config { authentication: config().authentication, ..in_clear() };
    for config in [without_nat, protected] {
        let mut net = Net::new(config);
        net.command(REGISTER);
        let via = net.request().header(Name::Via).to_owned();
        assert!(!via.contains("keep"), "{via}");
    }
}

/// RFC 5626 §4.4.2: the NAT has given the phone another port, or nobody answers any more: it registers again.
#[test]
fn a_way_that_is_gone_is_registered_anew() {
    let mut net = Net::registered(";keep=10");
    net.advance(Duration::from_secs(21));
    assert!(net.keep_alives >= 2);
    net.command(Command::Rebind);
    let register = net.message_within(10);
    net.accepts(&register, ";keep=10");
    assert!(matches!(net.event(), Event::Registered { .. }));
    net.advance(Duration::from_secs(21));
    assert!(net.got.is_empty());

    net.answers_keep_alives = false;
    let answered = net.keep_alives;
    assert!(net.message_within(18).text.starts_with("REGISTER "));
    assert_eq!(net.keep_alives, answered + 4);
}

/// RFC 5626 §4.4.2: each identity has a Path of its own: all of them register by the new way.
#[test]
fn all_identities_take_the_new_way() {
    let mut net = Net::registered(";keep=10");
    net.command(Command::Register { identity: 1 });
    let register = net.request();
    net.accepts(&register, ";keep=10");
    assert!(matches!(net.event(), Event::Registered { identity: 1, .. }));
    net.advance(Duration::from_secs(21));
    net.command(Command::Rebind);
    for identity in 0..2 {
        let register = net.message_within(10);
        assert!(register.text.starts_with("REGISTER "));
        net.accepts(&register, ";keep=10");
        let Event::Registered { identity: registered, .. } = net.event() else { panic!() };
        assert_eq!(registered, identity);
    }
    net.advance(Duration::from_secs(21));
    assert!(net.got.is_empty());
}

/// RFC 5626 §4.4: what was on its way to the old port is lost: the phone subscribes anew by the new one.
#[test]
fn it_watches_by_the_new_way() {
    let mut net = Net::new(Config { subscribes: true, ..in_clear() });
    let mut call_ids = Vec::new();
    for _ in 0..2 {
        if call_ids.is_empty() {
            net.command(REGISTER);
        } else {
            net.advance(Duration::from_secs(11));
            net.command(Command::Rebind);
        }
        let register = net.message_within(10);
        net.accepts(&register, ";keep=10");
        let subscribe = net.request();
        assert!(subscribe.text.starts_with("SUBSCRIBE "));
        call_ids.push(subscribe.header(Name::CallId).to_owned());
        let accepted = [(Name::Contact, "<sip:scscf1.hims.net>"), (Name::Expires, "600000")];
        net.answer(&subscribe, 200, "OK", &accepted);
    }
    assert_ne!(call_ids[0], call_ids[1]);
}

/// TS 24.229 §5.1.1.3: a phone without associations watches its registration in clear.
#[test]
fn it_watches_in_clear() {
    let mut net = Net::new(Config { subscribes: true, ..in_clear() });
    net.command(REGISTER);
    let register = net.request();
    net.accepts(&register, "");
    assert!(matches!(net.event(), Event::Registered { .. }));
    let subscribe = net.request();
    let accepted = [(Name::Contact, "<sip:scscf1.hims.net>"), (Name::Expires, "600000")];
    net.answer(&subscribe, 200, "OK", &accepted);
    let what = Watched::Subscribed { expires_seconds: 600_000 };
    assert_eq!(net.event(), Event::Watch { identity: 0, what });
}
