//! A phone with a card, a stack and associations, and no words of its own: it says what it is told.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use common::ipsec::esp::{EspSet, spi_of};
use common::ipsec::sa::SaSet;
use common::node::{Flow, Now, Transport};
use common::random::Random;
use scenarios::Standing;
use sim::world::Phone;
use ue::packets::{self, Content, Reassembly};
use ue::tcp::{Happened, Stack};

/// What came down: on which flow, whether inside ESP, and what.
pub type Received = (Flow, bool, Bytes);

pub struct Handset {
    address: IpAddr,
    stack: Stack,
    reassembly: Reassembly,
    sets: Vec<EspSet>,
    sending: VecDeque<(Flow, Vec<u8>)>,
    pub got: VecDeque<Received>,
}

impl Handset {
    pub fn new(address: IpAddr) -> Handset {
        let mut stack = Stack::new(address, 1_358, &mut Random::from_seed([7; 32]));
        stack.listen(5_060);
        Handset {
            address,
            stack,
            reassembly: Reassembly::default(),
            sets: Vec::new(),
            sending: VecDeque::new(),
            got: VecDeque::new(),
        }
    }

    pub fn install(&mut self, set: &SaSet) {
        self.stack.listen(set.ports.us);
        self.sets.push(EspSet::new(set, [set.id.0 as u8; 32]));
    }

    pub fn say(&mut self, flow: Flow, bytes: Vec<u8>) {
        self.sending.push_back((flow, bytes));
    }

    fn seal(&mut self, packet: Vec<u8>) -> Bytes {
        let sealed = self.sets.iter_mut().rev().find_map(|set| set.seal(&packet));
        sealed.unwrap_or(packet).into()
    }

    /// Runs TCP until it has nothing more to say.
    fn settle(&mut self, now: Now, out: &mut Vec<Bytes>) {
        loop {
            let (mut packets, mut happened) = (Vec::new(), Vec::new());
            self.stack.poll(now, &mut packets, &mut happened);
            for packet in packets {
                let packet = self.seal(packet);
                out.push(packet);
            }
            if happened.is_empty() {
                return;
            }
            for happened in happened {
                if let Happened::Message { flow, bytes } = happened {
                    let is_protected = self.is_protected(&flow);
                    self.got.push_back((flow, is_protected, bytes));
                }
            }
        }
    }

    fn is_protected(&self, flow: &Flow) -> bool {
        self.sets.iter().any(|set| {
            let ports = set.set().ports;
            [ports.uc, ports.us].contains(&flow.local.port())
        })
    }

    fn receive(&mut self, now: Now, packet: &[u8], out: &mut Vec<Bytes>) {
        let Some(packet) = self.reassembly.take(now, Bytes::copy_from_slice(packet)) else {
            return;
        };
        let is_protected = spi_of(&packet).is_some();
        let clear: Bytes = match is_protected {
            true => {
                let opened = self.sets.iter_mut().find_map(|set| set.open(&packet).ok());
                opened.expect("ESP of an association that the phone has").into()
            }
            false => packet,
        };
        match packets::content(&clear) {
            Some(Content::Udp { source, destination, payload }) => {
                let flow = Flow { transport: Transport::Udp, local: destination, remote: source };
                self.got.push_back((flow, is_protected, payload));
            }
            Some(Content::Tcp { .. }) => {
                self.stack.receive(now, &clear);
                self.settle(now, out);
            }
            None => panic!("neither UDP nor TCP came down"),
        }
    }
}

/// The handset on its bearer; the test has it, too.
pub struct OnBearer(pub Rc<RefCell<Handset>>);

impl Phone for OnBearer {
    fn address(&self) -> IpAddr {
        self.0.borrow().address
    }

    fn packet(&mut self, now: Now, packet: &[u8], out: &mut Vec<Bytes>) {
        self.0.borrow_mut().receive(now, packet, out);
    }

    fn timeout(&mut self, now: Now, out: &mut Vec<Bytes>) {
        self.0.borrow_mut().settle(now, out);
    }

    fn next_timeout(&self) -> Option<Now> {
        self.0.borrow().stack.next_timeout()
    }

    /// Whatever is to be said.
    fn command(&mut self, now: Now, _: &str, out: &mut Vec<Bytes>) {
        let mut handset = self.0.borrow_mut();
        while let Some((flow, bytes)) = handset.sending.pop_front() {
            if flow.transport == Transport::Tcp {
                assert!(handset.stack.send(now, flow, &bytes), "no connection for {flow:?}");
                handset.settle(now, out);
                continue;
            }
            let packet = packets::datagram(flow.local, flow.remote, &bytes).expect("a datagram");
            let packet = handset.seal(packet);
            out.push(packet);
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
        let sets = self.0.borrow();
        sets.sets.iter().flat_map(|set| [set.set().spis.uc, set.set().spis.us]).collect()
    }

    fn owed(&self) -> usize {
        0
    }
}
