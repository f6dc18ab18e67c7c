//! What is sent through an interface by a socket that is bound to it goes there and nowhere else:
//! one rule and one default route in a table of its own, by rtnetlink.

use std::io;

use super::netlink::{Batch, FLAG_CREATE, FLAG_EXCLUSIVE, Netlink};

const NEW_ROUTE: u16 = 24;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const GET_RULE: u16 = 34;

const RULE_TO_TABLE: u8 = 1;
const RULE_PRIORITY: u16 = 6;
const RULE_TABLE: u16 = 15;
const RULE_OUTPUT_INTERFACE: u16 = 17;
/// Before the rules of others, behind the local table.
const PRIORITY: u32 = 5060;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_TABLE: u16 = 15;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_LINK: u8 = 253;
const TYPE_UNICAST: u8 = 1;
const RULE_HEADER_BYTES: usize = 12;
/// Tables of the interfaces: this plus the interface's number.
const FIRST_TABLE: u32 = 0x7E55_0000;

/// Routes of one interface; the kernel drops the route with the interface, the rule goes with this.
pub(super) struct Routing {
    device: String,
    families: Vec<u8>,
}

impl Routing {
    /// Sets up rule and route for the families (`AF_INET`, `AF_INET6`).
    pub fn open(device: &str, index: u32, families: &[u8]) -> io::Result<Routing> {
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE as isize)?;
        let table = FIRST_TABLE + index;
        let mut batch = Batch::default();
        for family in families {
            for stale in stale_rules(&mut netlink, *family, device)? {
                push(&mut batch, DELETE_RULE, 0, &stale);
            }
        }
        // Somebody else may have been faster.
        netlink.send(batch, |_, _| {})?;
        let mut batch = Batch::default();
        for family in families {
            let mut route = vec![*family, 0, 0, 0, 0, PROTOCOL_STATIC, SCOPE_LINK, TYPE_UNICAST];
            route.extend(0u32.to_ne_bytes());
            attribute(&mut route, ROUTE_TABLE, &table.to_ne_bytes());
            attribute(&mut route, ROUTE_INTERFACE, &index.to_ne_bytes());
            push(&mut batch, NEW_ROUTE, FLAG_CREATE | FLAG_EXCLUSIVE, &route);
            push(&mut batch, NEW_RULE, FLAG_CREATE | FLAG_EXCLUSIVE, &rule(*family, device, table));
        }
        let refusals = netlink.send(batch, |_, _| {})?;
        let routing = Routing { device: device.to_owned(), families: families.to_vec() };
        match refusals.first() {
            None => Ok(routing),
            Some(refusal) => {
                let error = io::Error::from_raw_os_error(refusal.errno);
                Err(io::Error::new(error.kind(), format!("{error} {}", refusal.text)))
            }
        }
    }
}

impl Drop for Routing {
    fn drop(&mut self) {
        let remove = || -> io::Result<()> {
            let mut netlink = Netlink::open(libc::NETLINK_ROUTE as isize)?;
            let mut batch = Batch::default();
            for family in &self.families {
                for (device, rule) in rules(&mut netlink, *family)? {
                    if device == self.device {
                        push(&mut batch, DELETE_RULE, 0, &rule);
                    }
                }
            }
            netlink.send(batch, |_, _| {}).map(drop)
        };
        if let Err(error) = remove() {
            tracing::warn!(%error, "routing rule not removed");
        }
    }
}

fn rule(family: u8, device: &str, table: u32) -> Vec<u8> {
    let mut rule = vec![family, 0, 0, 0, 0, 0, 0, RULE_TO_TABLE];
    rule.extend(0u32.to_ne_bytes());
    attribute(&mut rule, RULE_TABLE, &table.to_ne_bytes());
    attribute(&mut rule, RULE_PRIORITY, &PRIORITY.to_ne_bytes());
    let mut name = device.as_bytes().to_vec();
    name.push(0);
    attribute(&mut rule, RULE_OUTPUT_INTERFACE, &name);
    rule
}

/// Our rules of interfaces that do not exist any more, or whose name is `device` again.
fn stale_rules(netlink: &mut Netlink, family: u8, device: &str) -> io::Result<Vec<Vec<u8>>> {
    let rules = rules(netlink, family)?;
    let is_stale = |name: &str| name == device || nix::net::if_::if_nametoindex(name).is_err();
    Ok(rules.into_iter().filter(|(name, _)| is_stale(name)).map(|(_, rule)| rule).collect())
}

/// Rules of our priority that lead to tables of ours, each with its interface.
fn rules(netlink: &mut Netlink, family: u8) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut rules = Vec::new();
    let question = |payload: &mut [u8]| payload[0] = family;
    netlink.dump(GET_RULE, RULE_HEADER_BYTES, question, |payload| {
        let mut device = None;
        let mut table = 0;
        let mut priority = 0;
        let mut rest = payload.get(RULE_HEADER_BYTES..).unwrap_or_default();
        while let Some(&[l0, l1, t0, t1]) = rest.first_chunk::<4>() {
            let length = usize::from(u16::from_ne_bytes([l0, l1]));
            if length < 4 || length > rest.len() {
                break;
            }
            let value = &rest[4..length];
            let number = || value.first_chunk::<4>().map_or(0, |word| u32::from_ne_bytes(*word));
            match u16::from_ne_bytes([t0, t1]) {
                RULE_TABLE => table = number(),
                RULE_PRIORITY => priority = number(),
                RULE_OUTPUT_INTERFACE => {
                    let text = String::from_utf8_lossy(value);
                    device = Some(text.trim_end_matches('\0').to_owned());
                }
                _ => {}
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        let is_ours = priority == PRIORITY && table & 0xFFFF_0000 == FIRST_TABLE;
        if let Some(device) = device.filter(|_| is_ours) {
            rules.push((device.clone(), rule(family, &device, table)));
        }
    })?;
    Ok(rules)
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend((4 + value.len() as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn push(batch: &mut Batch, message_type: u16, flags: u16, bytes: &[u8]) {
    batch.push(message_type, flags, bytes.len(), |payload| payload.copy_from_slice(bytes));
}
