//! A phone that says what it is told, byte for byte.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use common::node::Now;
use scenarios::Standing;
use sim::ims::Ims;
use sim::world::Phone;

/// A phone without SIM and stack: it sends what it is told and keeps what it gets.
struct Raw {
    address: IpAddr,
    sending: Vec<String>,
    got: std::rc::Rc<std::cell::RefCell<Vec<String>>>,
}

impl Phone for Raw {
    fn address(&self) -> IpAddr {
        self.address
    }

    fn packet(&mut self, _now: Now, packet: &[u8], _out: &mut Vec<Bytes>) {
        // IPv4 and UDP headers are 28 octets.
        self.got.borrow_mut().push(String::from_utf8_lossy(&packet[28..]).into_owned());
    }

    fn timeout(&mut self, _now: Now, _out: &mut Vec<Bytes>) {}

    fn next_timeout(&self) -> Option<Now> {
        None
    }

    fn command(&mut self, _now: Now, _command: &str, out: &mut Vec<Bytes>) {
        let (IpAddr::V4(source), [10, 46, 0, 1]) = (self.address, [10, 46, 0, 1]) else { return };
        for text in self.sending.drain(..) {
            let from = SocketAddr::new(source.into(), 5060);
            let to: SocketAddr = "10.46.0.1:5060".parse().unwrap();
            let packet = ue::packets::datagram(from, to, text.as_bytes()).expect("a packet");
            out.push(packet.into());
        }
    }

    fn events(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn expect(&mut self) {}

    fn standing(&self) -> Standing {
        Standing::Idle
    }

    fn completed(&self) -> u64 {
        0
    }

    fn notified(&self) -> u64 {
        0
    }

    fn gruus(&self) -> Option<(String, String)> {
        None
    }

    fn private_identity(&self) -> String {
        String::new()
    }

    fn inbound_spis(&self) -> Vec<u32> {
        Vec::new()
    }

    fn owed(&self) -> usize {
        0
    }
}

/// What a phone without stack gets that sends this.
pub fn answers(ims: &mut Ims, text: String) -> Vec<String> {
    let got = std::rc::Rc::<std::cell::RefCell<Vec<String>>>::default();
    let address = IpAddr::from([10, 45, 9, 9]);
    let raw = Raw { address, sending: vec![text], got: std::rc::Rc::clone(&got) };
    let ue = ims.world.add_phone(Box::new(raw));
    ims.world.command_after(ue, "send", Duration::ZERO);
    let until = ims.world.now + Duration::from_secs(5);
    ims.world.run(until, |_| false);
    let got = got.borrow();
    got.clone()
}
