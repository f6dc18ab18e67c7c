//! What only a wire can show: checks of the packets that passed on the links of the lab while one
//! phone registered.

use std::net::IpAddr;

use crate::decode::{Event, What};

/// One look at the packets.
pub struct Check {
    pub name: &'static str,
    pub shows: &'static str,
    /// Given all messages on all links, and the phone's address.
    pub run: fn(&[Event], IpAddr) -> Result<(), String>,
}

pub const ALL: &[Check] = &[
    Check {
        name: "wire_first_register_in_clear_second_in_esp",
        shows: "one clear REGISTER and 401 on each link of the bearer, then ESP alone",
        run: first_in_clear_second_in_esp,
    },
    Check {
        name: "wire_bearer_is_gtpu_on_every_hop",
        shows: "the same message on radio, S1-U, S5-U and SGi; a TEID for each hop and direction",
        run: bearer_is_gtpu_on_every_hop,
    },
    Check {
        name: "wire_cx_in_the_order_of_the_procedure",
        shows: "UAR, MAR, UAR, SAR, each with its answer, and at most a LIR behind them",
        run: cx_in_order,
    },
    Check {
        name: "wire_keys_stay_in_the_core",
        shows: "ck and ik leave the S-CSCF, and never the P-CSCF",
        run: keys_stay_in_the_core,
    },
];

const BEARER: [&str; 4] = ["radio", "s1u", "s5u", "sgi"];

/// The message itself, with the addresses of its packet: taken out of the tunnel if it was in one.
fn unwrapped(event: &Event) -> (IpAddr, IpAddr, &What) {
    match &event.what {
        What::Gtpu { inner: Some(inner), .. } => (inner.source, inner.destination, &inner.what),
        what => (event.source, event.destination, what),
    }
}

fn on<'a>(
    events: &'a [Event],
    link: &'a str,
    ue: IpAddr,
) -> impl Iterator<Item = (bool, &'a What)> {
    events.iter().filter(move |event| event.link == link).filter_map(move |event| {
        let (source, destination, what) = unwrapped(event);
        (source == ue || destination == ue).then_some((source == ue, what))
    })
}

/// S-10, S-11: phase 2 has no messages of its own, and everything behind it is ESP.
fn first_in_clear_second_in_esp(events: &[Event], ue: IpAddr) -> Result<(), String> {
    for link in BEARER {
        let mut clear = Vec::new();
        let (mut up, mut down) = (0, 0);
        for (is_uplink, what) in on(events, link, ue) {
            match what {
                What::Sip { start_line, text, .. } => {
                    let lower = text.to_ascii_lowercase();
                    if lower.contains("security-verify:") {
                        return Err(format!("{link}: Security-Verify in clear: {start_line}"));
                    }
                    clear.push(start_line.clone());
                }
                What::Esp { .. } if is_uplink => up += 1,
                What::Esp { .. } => down += 1,
                _ => {}
            }
        }
        // What is sent again counts once.
        clear.dedup();
        let registers = clear.iter().filter(|line| line.starts_with("REGISTER ")).count();
        let challenges = clear.iter().filter(|line| line.starts_with("SIP/2.0 401")).count();
        let others = clear.iter().find(|line| {
            !["REGISTER ", "SIP/2.0 401", "SIP/2.0 100"].iter().any(|known| line.starts_with(known))
        });
        if registers != 1 || challenges != 1 || others.is_some() {
            return Err(format!("{link}: in clear {clear:?}"));
        }
        if up == 0 || down == 0 {
            return Err(format!("{link}: {up} ESP packets up, {down} down"));
        }
    }
    Ok(())
}

/// S-02, S-03, S-04, S-13: the phone's first message passes each link, unchanged, in its tunnel.
fn bearer_is_gtpu_on_every_hop(events: &[Event], ue: IpAddr) -> Result<(), String> {
    let mut texts = Vec::new();
    for link in BEARER {
        let first = on(events, link, ue).find_map(|(is_uplink, what)| match what {
            What::Sip { text, .. } if is_uplink => Some(text.clone()),
            _ => None,
        });
        texts.push(first.ok_or_else(|| format!("{link}: no SIP message of the phone"))?);
    }
    if texts.iter().any(|text| *text != texts[0]) {
        return Err("the phone's REGISTER is not the same on all links".into());
    }
    let mut teids = Vec::new();
    for (link, is_uplink) in [("s1u", true), ("s1u", false), ("s5u", true), ("s5u", false)] {
        let mut found: Vec<&str> = events
            .iter()
            .filter(|event| event.link == link)
            .filter_map(|event| match &event.what {
                What::Gtpu { teid, inner: Some(inner), .. } => {
                    let end = if is_uplink { inner.source } else { inner.destination };
                    (end == ue).then_some(teid.as_str())
                }
                _ => None,
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        match found[..] {
            [teid] => teids.push(teid),
            _ => return Err(format!("{link}: TEIDs of one direction {found:?}")),
        }
    }
    teids.sort_unstable();
    teids.dedup();
    if teids.len() != 4 { Err(format!("TEIDs {teids:?}")) } else { Ok(()) }
}

/// S-42: who asks for what: authorisation and place first, vectors later.
fn cx_in_order(events: &[Event], _: IpAddr) -> Result<(), String> {
    let messages: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Diameter { name, user_name, session, .. } => Some((name, user_name, session)),
            _ => None,
        })
        .collect();
    // Watchers of phones of earlier scenarios may be left with the HSS meanwhile.
    let user = messages.iter().find(|(name, ..)| *name == "UAR").map(|(_, user, _)| *user);
    let is_of_another = |session: &Option<String>| {
        messages
            .iter()
            .any(|(_, other, of)| *of == session && other.is_some() && Some(*other) != user)
    };
    let names: Vec<&str> = messages
        .iter()
        .filter(|(name, _, session)| !name.starts_with("DW") && !is_of_another(session))
        .map(|(name, ..)| name.as_str())
        .collect();
    let expected = ["UAR", "UAA", "MAR", "MAA", "UAR", "UAA", "SAR", "SAA"];
    // The P-CSCF's subscription asks for the S-CSCF of the identity behind it (TS 24.229 §5.2.3).
    let behind = names.strip_prefix(expected.as_slice());
    match behind {
        Some([] | ["LIR"] | ["LIR", "LIA"]) => Ok(()),
        _ => Err(format!("on Cx {names:?}")),
    }
}

/// S-66: the keys come with the 401 to the P-CSCF, which takes them out.
fn keys_stay_in_the_core(events: &[Event], ue: IpAddr) -> Result<(), String> {
    let has_keys = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let header = lower.lines().find(|line| line.starts_with("www-authenticate:"));
        header.is_some_and(|line| names_key(line, "ck") && names_key(line, "ik"))
    };
    let core = events.iter().filter(|event| event.link == "core");
    let in_core = core
        .filter(|event| matches!(&event.what, What::Sip { text, .. } if has_keys(text)))
        .count();
    if in_core < 2 {
        return Err(format!("{in_core} messages with keys between S-CSCF, I-CSCF and P-CSCF"));
    }
    for link in BEARER {
        for (_, what) in on(events, link, ue) {
            if let What::Sip { text, start_line, .. } = what
                && (names_key(text, "ck") || names_key(text, "ik"))
            {
                return Err(format!("{link}: keys in {start_line}"));
            }
        }
    }
    Ok(())
}

/// The parameter stands there; a nonce in base64 may well end in `ck=`.
fn names_key(text: &str, name: &str) -> bool {
    [',', ' '].iter().any(|before| text.contains(&format!("{before}{name}=")))
}
