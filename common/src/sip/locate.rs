//! From a URI to addresses (RFC 3263 §4): a walk over answers; somebody else looks them up.
//!
//! Each step is worked out anew from the answers at hand: what is missing becomes questions, and
//! when nothing is missing the hops are put in order.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::dns::{Answer, Question, RecordData, RecordType};
use crate::node::{Now, Transport};
use crate::random::Random;
use crate::sip::uri::{Host, HostPort, Scheme, Uri};

const DEFAULT_PORT: u16 = 5060;

/// How long a result holds that no record limits: the URI itself says it.
const TTL_WITHOUT_RECORDS: Duration = Duration::from_secs(3_600);

/// How long a result holds when a look-up on the way failed.
const TTL_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// One place to try.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Hop {
    pub transport: Transport,
    pub address: SocketAddr,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressFamilies {
    V4,
    V6,
    /// IPv6 first.
    Both,
}

impl AddressFamilies {
    fn record_types(self) -> &'static [RecordType] {
        match self {
            AddressFamilies::V4 => &[RecordType::A],
            AddressFamilies::V6 => &[RecordType::Aaaa],
            AddressFamilies::Both => &[RecordType::Aaaa, RecordType::A],
        }
    }

    fn has(self, address: IpAddr) -> bool {
        match self {
            AddressFamilies::V4 => address.is_ipv4(),
            AddressFamilies::V6 => address.is_ipv6(),
            AddressFamilies::Both => true,
        }
    }
}

/// What the next hop prefers and can.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preference {
    pub families: AddressFamilies,
    /// In order of preference where the DNS does not decide (no NAPTR).
    pub transports: Vec<Transport>,
}

/// A walk in progress. Answers may come in any order; the same question is asked once.
#[derive(Debug, Clone)]
pub struct Walk {
    families: AddressFamilies,
    plan: Plan,
    asked: BTreeSet<Question>,
    answers: BTreeMap<Question, Answer>,
}

/// Where RFC 3263 §4.1 and §4.2 let a walk begin.
#[derive(Debug, Clone)]
enum Plan {
    Never(String),
    /// Numeric host.
    Address(Hop),
    /// A name with a port: no SRV.
    Name(NamedHost),
    /// A name with a transport: SRV, no NAPTR.
    Service {
        name: String,
        transport: Transport,
    },
    /// A name alone.
    Naptr {
        name: String,
        transports: Vec<Transport>,
    },
}

/// A name whose addresses are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedHost {
    transport: Transport,
    name: String,
    port: u16,
}

/// What a NAPTR record leads to.
enum Lead {
    /// To SRV records of that name.
    Service(Transport, String),
    Host(NamedHost),
}

/// A host with the rank that SRV gives it; `lead` is the place of its service among the others.
#[derive(Clone)]
struct Ranked {
    lead: usize,
    priority: u16,
    weight: u16,
    host: NamedHost,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Look these up and call [`Walk::answer`] for each. Empty while earlier ones are missing.
    Ask(Vec<Question>),
    /// In the order to try them; never empty.
    Found(VecDeque<Hop>),
    /// Nothing there: the reason for the log.
    NotFound(String),
}

impl Walk {
    /// Numeric hosts, explicit ports and `transport=` skip steps as RFC 3263 §4.1, §4.2 say.
    pub fn begin(uri: &Uri, preference: &Preference) -> Walk {
        Walk {
            families: preference.families,
            plan: plan(uri, preference).unwrap_or_else(Plan::Never),
            asked: BTreeSet::new(),
            answers: BTreeMap::new(),
        }
    }

    /// The next step; SRV weights are drawn from `random`.
    pub fn step(&mut self, random: &mut Random) -> Step {
        let mut missing = Vec::new();
        let result = self.hosts(&mut missing).and_then(|mut ranked| {
            self.ask_addresses(&ranked, &mut missing);
            if !missing.is_empty() {
                return Ok(VecDeque::new());
            }
            order(&mut ranked, random);
            self.hops(&ranked)
        });
        if !missing.is_empty() {
            missing.retain(|question| self.asked.insert(question.clone()));
            return Step::Ask(missing);
        }
        match result {
            Ok(hops) => Step::Found(hops),
            Err(reason) => Step::NotFound(reason),
        }
    }

    pub fn answer(&mut self, question: &Question, answer: Answer) {
        if self.asked.contains(question) {
            self.answers.insert(question.clone(), answer);
        }
    }

    /// The smallest TTL seen.
    pub fn ttl(&self) -> Duration {
        let ttls = self.answers.values().filter_map(|answer| match answer {
            Answer::Found { ttl, .. } => Some(*ttl),
            // Zero means that the server said nothing about it.
            Answer::Nothing { ttl } => (!ttl.is_zero()).then_some(*ttl),
            Answer::Failed { .. } => Some(TTL_AFTER_FAILURE),
        });
        ttls.min().unwrap_or(TTL_WITHOUT_RECORDS)
    }

    /// RFC 3263 §4.1, §4.2: the hosts that serve the URI, as far as the answers tell.
    fn hosts(&self, missing: &mut Vec<Question>) -> Result<Vec<Ranked>, String> {
        let only = |host: NamedHost| vec![Ranked { lead: 0, priority: 0, weight: 0, host }];
        match &self.plan {
            Plan::Never(reason) => Err(reason.clone()),
            Plan::Address(hop) => Ok(only(NamedHost {
                transport: hop.transport,
                name: hop.address.ip().to_string(),
                port: hop.address.port(),
            })),
            Plan::Name(host) => Ok(only(host.clone())),
            Plan::Service { name, transport } => {
                let leads = [Lead::Service(*transport, service_name(*transport, name))];
                self.follow(&leads, name, missing)
            }
            Plan::Naptr { name, transports } => {
                let question = Question { name: name.clone(), record_type: RecordType::Naptr };
                let Some(answer) = self.look_up(&question, missing) else { return Ok(Vec::new()) };
                let mut leads = leads_of(answer, transports);
                if leads.is_empty() {
                    let services = transports.iter();
                    let lead = |transport: &Transport| {
                        Lead::Service(*transport, service_name(*transport, name))
                    };
                    leads = services.map(lead).collect();
                }
                self.follow(&leads, name, missing)
            }
        }
    }

    /// RFC 3263 §4.2: SRV records of each lead; without any, the addresses of the domain itself.
    fn follow(
        &self,
        leads: &[Lead],
        domain: &str,
        missing: &mut Vec<Question>,
    ) -> Result<Vec<Ranked>, String> {
        let mut ranked = Vec::new();
        let mut is_refused = false;
        for (lead, place) in leads.iter().zip(0..) {
            let (transport, name) = match lead {
                Lead::Host(host) => {
                    let host = host.clone();
                    ranked.push(Ranked { lead: place, priority: 0, weight: 0, host });
                    continue;
                }
                Lead::Service(transport, name) => (*transport, name.clone()),
            };
            let question = Question { name, record_type: RecordType::Srv };
            let answer = self.look_up(&question, missing);
            let Some(Answer::Found { records, .. }) = answer else { continue };
            for record in records {
                let RecordData::Srv { priority, weight, port, target } = record else { continue };
                let name = canonical(target);
                if name.is_empty() {
                    // RFC 2782: a lone dot says that the service is decidedly not there.
                    is_refused = true;
                    continue;
                }
                let host = NamedHost { transport, name, port: *port };
                ranked.push(Ranked { lead: place, priority: *priority, weight: *weight, host });
            }
        }
        if !missing.is_empty() || !ranked.is_empty() {
            return Ok(ranked);
        }
        if is_refused {
            return Err(format!("{domain} offers no SIP service (SRV target is the root)"));
        }
        let transport = match leads.first() {
            Some(Lead::Service(transport, _)) => *transport,
            Some(Lead::Host(_)) | None => return Err(format!("no transport for {domain}")),
        };
        let host = NamedHost { transport, name: domain.to_owned(), port: DEFAULT_PORT };
        Ok(vec![Ranked { lead: 0, priority: 0, weight: 0, host }])
    }

    fn ask_addresses(&self, ranked: &[Ranked], missing: &mut Vec<Question>) {
        for host in ranked.iter().map(|ranked| &ranked.host) {
            if host.name.parse::<IpAddr>().is_ok() {
                continue;
            }
            for record_type in self.families.record_types() {
                let question = Question { name: host.name.clone(), record_type: *record_type };
                if !missing.contains(&question) {
                    self.look_up(&question, missing);
                }
            }
        }
    }

    fn hops(&self, ranked: &[Ranked]) -> Result<VecDeque<Hop>, String> {
        let mut hops = VecDeque::new();
        for host in ranked.iter().map(|ranked| &ranked.host) {
            for address in self.addresses(&host.name) {
                let address = SocketAddr::new(address, host.port);
                let hop = Hop { transport: host.transport, address };
                if !hops.contains(&hop) {
                    hops.push_back(hop);
                }
            }
        }
        match hops.is_empty() {
            false => Ok(hops),
            true => Err(self.why_nothing(ranked)),
        }
    }

    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        if let Ok(address) = name.parse() {
            return if self.families.has(address) { vec![address] } else { Vec::new() };
        }
        let mut addresses = Vec::new();
        for record_type in self.families.record_types() {
            let question = Question { name: name.to_owned(), record_type: *record_type };
            if let Some(Answer::Found { records, .. }) = self.answers.get(&question) {
                addresses.extend(records.iter().filter_map(|record| match record {
                    RecordData::Address(address) if self.families.has(*address) => Some(*address),
                    _ => None,
                }));
            }
        }
        addresses
    }

    fn why_nothing(&self, ranked: &[Ranked]) -> String {
        let names: BTreeSet<&str> = ranked.iter().map(|ranked| ranked.host.name.as_str()).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        let failure = self.answers.iter().find_map(|(question, answer)| match answer {
            Answer::Failed { reason } => Some(format!(
                "; look-up of {:?} {} failed: {reason}",
                question.record_type, question.name
            )),
            _ => None,
        });
        format!("no address of {names}{}", failure.unwrap_or_default())
    }

    fn look_up(&self, question: &Question, missing: &mut Vec<Question>) -> Option<&Answer> {
        let answer = self.answers.get(question);
        if answer.is_none() {
            missing.push(question.clone());
        }
        answer
    }
}

/// RFC 3263 §4.1: which transport, and where to begin.
///
/// Where the RFC says UDP because neither the URI nor the DNS decides, the first preferred
/// transport is taken: it is the operator's word.
fn plan(uri: &Uri, preference: &Preference) -> Result<Plan, String> {
    let host_port = match (uri.scheme, &uri.host_port) {
        (Scheme::Sip, Some(host_port)) => host_port,
        (Scheme::Sips, _) => return Err(format!("{uri} asks for TLS, which is not offered")),
        _ => return Err(format!("{uri} names no host")),
    };
    // RFC 3263 §4: TARGET is the maddr parameter where there is one.
    let target = match uri.parameter("maddr") {
        Some(maddr) => HostPort::parse(maddr).map_err(|_| format!("{uri}: maddr is no host"))?.host,
        None => host_port.host.clone(),
    };
    let asked = match uri.parameter("transport") {
        Some(text) => Some(transport_of(text).ok_or(format!("{uri}: transport is not offered"))?),
        None => None,
    };
    if asked.is_some_and(|asked| !preference.transports.contains(&asked)) {
        return Err(format!("{uri}: transport is not offered"));
    }
    let first = preference.transports.first().copied();
    let transport = asked.or(first).ok_or("no transport is offered")?;
    match (target, host_port.port) {
        (Host::Address(address), port) => {
            if !preference.families.has(address) {
                return Err(format!("{uri}: no address of that family is used"));
            }
            let address = SocketAddr::new(address, port.unwrap_or(DEFAULT_PORT));
            Ok(Plan::Address(Hop { transport, address }))
        }
        (Host::Name(name), Some(port)) => {
            Ok(Plan::Name(NamedHost { transport, name: canonical(&name), port }))
        }
        (Host::Name(name), None) if asked.is_some() => {
            Ok(Plan::Service { name: canonical(&name), transport })
        }
        (Host::Name(name), None) => {
            Ok(Plan::Naptr { name: canonical(&name), transports: preference.transports.clone() })
        }
    }
}

fn transport_of(text: &str) -> Option<Transport> {
    let transports = [Transport::Udp, Transport::Tcp];
    transports.into_iter().find(|transport| transport.name().eq_ignore_ascii_case(text))
}

fn service_name(transport: Transport, domain: &str) -> String {
    match transport {
        Transport::Udp => format!("_sip._udp.{domain}"),
        Transport::Tcp => format!("_sip._tcp.{domain}"),
    }
}

fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// RFC 3263 §4.1: the NAPTR records that lead to a transport we have, by order and preference.
/// SIPS, TLS and SCTP services are passed over.
fn leads_of(answer: &Answer, transports: &[Transport]) -> Vec<Lead> {
    let Answer::Found { records, .. } = answer else { return Vec::new() };
    let mut leads: Vec<(u16, u16, Lead)> = Vec::new();
    for record in records {
        let RecordData::Naptr { order, preference, flags, services, replacement } = record else {
            continue;
        };
        let transport = match services.to_ascii_uppercase().as_str() {
            "SIP+D2U" => Transport::Udp,
            "SIP+D2T" => Transport::Tcp,
            _ => continue,
        };
        let name = canonical(replacement);
        if !transports.contains(&transport) || name.is_empty() {
            continue;
        }
        let lead = match flags.to_ascii_lowercase().as_str() {
            "s" => Lead::Service(transport, name),
            "a" => Lead::Host(NamedHost { transport, name, port: DEFAULT_PORT }),
            _ => continue,
        };
        leads.push((*order, *preference, lead));
    }
    leads.sort_by_key(|(order, preference, _)| (*order, *preference));
    leads.into_iter().map(|(_, _, lead)| lead).collect()
}

/// RFC 2782: by priority, and at random by weight among those of the same priority.
fn order(ranked: &mut Vec<Ranked>, random: &mut Random) {
    ranked.sort_by(|a, b| {
        let key = |ranked: &Ranked| (ranked.lead, ranked.priority, ranked.weight);
        key(a).cmp(&key(b)).then_with(|| a.host.name.cmp(&b.host.name))
    });
    let mut rest = std::mem::take(ranked);
    while let Some(first) = rest.first() {
        let rank = (first.lead, first.priority);
        let same = rest.iter().take_while(|next| (next.lead, next.priority) == rank).count();
        let sum: u64 = rest[..same].iter().map(|next| u64::from(next.weight)).sum();
        let drawn = if same > 1 { random.below(sum + 1) } else { 0 };
        let mut running = 0;
        let chosen = rest[..same].iter().position(|next| {
            running += u64::from(next.weight);
            running >= drawn
        });
        ranked.push(rest.remove(chosen.unwrap_or(0)));
    }
}

/// Resolved hops by URI with their TTL, and which hops failed lately (they go last for a while).
#[derive(Debug, Default)]
pub struct HopCache {
    limit: usize,
    hops: HashMap<String, (Now, VecDeque<Hop>)>,
    /// What ends first is forgotten first.
    ends: BTreeSet<(Now, String)>,
    failed: HashMap<Hop, Now>,
}

impl HopCache {
    pub fn new(limit: usize) -> HopCache {
        HopCache { limit, ..HopCache::default() }
    }

    pub fn get(&mut self, now: Now, uri: &str) -> Option<VecDeque<Hop>> {
        let (end, hops) = self.hops.get(uri)?;
        if *end <= now {
            self.forget(uri);
            return None;
        }
        let has_failed = |hop: &&Hop| self.failed.get(hop).is_some_and(|until| *until > now);
        let (last, first): (Vec<_>, Vec<_>) = hops.iter().partition(has_failed);
        Some(first.into_iter().chain(last).collect())
    }

    pub fn put(&mut self, now: Now, uri: &str, hops: &VecDeque<Hop>, ttl: Duration) {
        self.forget(uri);
        if ttl.is_zero() || self.limit == 0 {
            return;
        }
        if self.hops.len() >= self.limit
            && let Some((_, oldest)) = self.ends.first().cloned()
        {
            self.forget(&oldest);
        }
        let end = now + ttl;
        self.hops.insert(uri.to_owned(), (end, hops.clone()));
        self.ends.insert((end, uri.to_owned()));
    }

    /// Marks a hop as failed for `span`: `get` puts it behind the others until then.
    pub fn failed(&mut self, now: Now, hop: Hop, span: Duration) {
        if self.failed.len() >= self.limit {
            self.failed.retain(|_, until| *until > now);
        }
        if self.failed.len() < self.limit || self.failed.contains_key(&hop) {
            self.failed.insert(hop, now + span);
        }
    }

    fn forget(&mut self, uri: &str) {
        if let Some((end, _)) = self.hops.remove(uri) {
            self.ends.remove(&(end, uri.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        Uri::parse(text).unwrap()
    }

    fn preference(families: AddressFamilies, transports: &[Transport]) -> Preference {
        Preference { families, transports: transports.to_vec() }
    }

    fn both() -> Preference {
        preference(AddressFamilies::V4, &[Transport::Udp, Transport::Tcp])
    }

    fn hop(transport: Transport, address: &str) -> Hop {
        Hop { transport, address: address.parse().unwrap() }
    }

    /// A zone: `TYPE name: data`, as many lines as there are records.
    struct Zone(Vec<(Question, RecordData)>);

    impl Zone {
        fn of(lines: &[&str]) -> Zone {
            Zone(lines.iter().map(|line| Zone::record(line)).collect())
        }

        fn record(line: &str) -> (Question, RecordData) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |place: usize| words[place].parse().unwrap();
            let text = |place: usize| words[place].to_owned();
            let (record_type, data) = match words[1] {
                "NAPTR" => (
                    RecordType::Naptr,
                    RecordData::Naptr {
                        order: number(2),
                        preference: number(3),
                        flags: text(4),
                        services: text(5),
                        replacement: text(6),
                    },
                ),
                "SRV" => (
                    RecordType::Srv,
                    RecordData::Srv {
                        priority: number(2),
                        weight: number(3),
                        port: number(4),
                        target: text(5),
                    },
                ),
                "A" => (RecordType::A, RecordData::Address(words[2].parse().unwrap())),
                "AAAA" => (RecordType::Aaaa, RecordData::Address(words[2].parse().unwrap())),
                other => panic!("{other}"),
            };
            (Question { name: text(0), record_type }, data)
        }

        fn answer(&self, question: &Question) -> Answer {
            let found = self.0.iter().filter(|(asked, _)| asked == question);
            let records: Vec<_> = found.map(|(_, data)| data.clone()).collect();
            match records.is_empty() {
                true => Answer::Nothing { ttl: Duration::from_secs(900) },
                false => Answer::Found { records, ttl: Duration::from_secs(300) },
            }
        }
    }

    /// The result, and the questions in the order of asking.
    fn walk_with(
        zone: &Zone,
        text: &str,
        preference: &Preference,
        seed: u8,
    ) -> (Step, Vec<String>) {
        let mut random = Random::from_seed([seed; 32]);
        let mut walk = Walk::begin(&uri(text), preference);
        let mut asked = Vec::new();
        loop {
            match walk.step(&mut random) {
                Step::Ask(questions) => {
                    assert!(!questions.is_empty(), "all answers are there");
                    for question in questions.iter().rev() {
                        walk.answer(question, zone.answer(question));
                    }
                    asked.extend(
                        questions.iter().map(|q| format!("{:?} {}", q.record_type, q.name)),
                    );
                }
                end => return (end, asked),
            }
        }
    }

    fn walk(zone: &Zone, text: &str) -> (Step, Vec<String>) {
        walk_with(zone, text, &both(), 1)
    }

    fn found(hops: &[Hop]) -> Step {
        Step::Found(hops.iter().copied().collect())
    }

    /// RFC 3263 §4.1, §4.2; S-29: numeric hosts need no look-up.
    #[test]
    fn numeric_hosts_skip_the_dns() {
        let zone = Zone::of(&[]);
        let (step, asked) = walk(&zone, "sip:192.0.2.1");
        assert_eq!(step, found(&[hop(Transport::Udp, "192.0.2.1:5060")]));
        assert!(asked.is_empty());
        let (step, _) = walk(&zone, "sip:a@192.0.2.1:5070;transport=TCP");
        assert_eq!(step, found(&[hop(Transport::Tcp, "192.0.2.1:5070")]));
        let six = preference(AddressFamilies::V6, &[Transport::Udp]);
        let (step, _) = walk_with(&zone, "sip:[2001:db8::1]", &six, 1);
        assert_eq!(step, found(&[hop(Transport::Udp, "[2001:db8::1]:5060")]));
        let (step, _) = walk(&zone, "sip:[2001:db8::1]");
        assert!(matches!(step, Step::NotFound(_)), "IPv4 only");
        let (step, _) = walk(&zone, "sip:hims.net;maddr=192.0.2.9");
        assert_eq!(step, found(&[hop(Transport::Udp, "192.0.2.9:5060")]));
    }

    /// RFC 3263 §4.1: with a port only the addresses are asked for.
    #[test]
    fn an_explicit_port_skips_naptr_and_srv() {
        let zone = Zone::of(&["icscf.hims.net A 192.0.2.1", "icscf.hims.net A 192.0.2.2"]);
        let (step, asked) = walk(&zone, "sip:ICSCF.hims.net:5080");
        let hops = [hop(Transport::Udp, "192.0.2.1:5080"), hop(Transport::Udp, "192.0.2.2:5080")];
        assert_eq!(step, found(&hops));
        assert_eq!(asked, ["A icscf.hims.net"]);
    }

    /// RFC 3263 §4.1, §4.2; S-29: `transport` skips NAPTR.
    #[test]
    fn a_transport_parameter_skips_naptr() {
        let zone = Zone::of(&[
            "_sip._tcp.hims.net SRV 1 0 5090 icscf.hims.net",
            "icscf.hims.net A 192.0.2.1",
        ]);
        let (step, asked) = walk(&zone, "sip:hims.net;transport=tcp");
        assert_eq!(step, found(&[hop(Transport::Tcp, "192.0.2.1:5090")]));
        assert_eq!(asked, ["Srv _sip._tcp.hims.net", "A icscf.hims.net"]);
    }

    /// RFC 3263 §4.1; S-29, S-30: order, then preference; SIPS, TLS and SCTP services are ignored.
    #[test]
    fn naptr_decides_the_transport() {
        let zone = Zone::of(&[
            "hims.net NAPTR 20 10 s SIP+D2U _sip._udp.hims.net.",
            "hims.net NAPTR 10 20 S sip+d2t _sip._tcp.HIMS.net.",
            "hims.net NAPTR 10 10 s SIPS+D2T _sips._tcp.hims.net",
            "hims.net NAPTR 10 15 s SIP+D2S _sip._sctp.hims.net",
            "_sip._udp.hims.net SRV 1 0 5060 icscf1.hims.net.",
            "_sip._tcp.hims.net SRV 1 0 5061 icscf2.hims.net",
            "icscf1.hims.net A 192.0.2.1",
            "icscf2.hims.net A 192.0.2.2",
        ]);
        let (step, asked) = walk(&zone, "sip:hims.net");
        let hops = [hop(Transport::Tcp, "192.0.2.2:5061"), hop(Transport::Udp, "192.0.2.1:5060")];
        assert_eq!(step, found(&hops));
        assert_eq!(
            asked,
            [
                "Naptr hims.net",
                "Srv _sip._tcp.hims.net",
                "Srv _sip._udp.hims.net",
                "A icscf2.hims.net",
                "A icscf1.hims.net"
            ]
        );
        let udp = preference(AddressFamilies::V4, &[Transport::Udp]);
        let (step, _) = walk_with(&zone, "sip:hims.net", &udp, 1);
        assert_eq!(step, found(&[hop(Transport::Udp, "192.0.2.1:5060")]));
    }

    /// RFC 3263 §4.1: flag `a` leads to addresses at once.
    #[test]
    fn naptr_may_lead_to_a_host() {
        let zone = Zone::of(&["hims.net NAPTR 1 1 a SIP+D2U i.hims.net", "i.hims.net A 192.0.2.3"]);
        let (step, _) = walk(&zone, "sip:hims.net");
        assert_eq!(step, found(&[hop(Transport::Udp, "192.0.2.3:5060")]));
    }

    /// RFC 3263 §4.1: without NAPTR, SRV of each transport in the order of preference.
    #[test]
    fn without_naptr_srv_of_each_transport() {
        let zone = Zone::of(&[
            "_sip._udp.hims.net SRV 1 0 5060 icscf.hims.net",
            "_sip._tcp.hims.net SRV 1 0 5062 icscf.hims.net",
            "icscf.hims.net A 192.0.2.1",
        ]);
        let tcp_first = preference(AddressFamilies::V4, &[Transport::Tcp, Transport::Udp]);
        let (step, asked) = walk_with(&zone, "sip:hims.net", &tcp_first, 1);
        let hops = [hop(Transport::Tcp, "192.0.2.1:5062"), hop(Transport::Udp, "192.0.2.1:5060")];
        assert_eq!(step, found(&hops));
        assert_eq!(asked.len(), 4, "one host is asked for once: {asked:?}");
    }

    /// RFC 3263 §4.2: without SRV, the addresses of the domain and port 5060.
    #[test]
    fn without_srv_the_domain_itself() {
        let zone = Zone::of(&["hims.net A 192.0.2.1", "hims.net AAAA 2001:db8::1"]);
        let families = preference(AddressFamilies::Both, &[Transport::Udp]);
        let (step, _) = walk_with(&zone, "sip:hims.net", &families, 1);
        let hops =
            [hop(Transport::Udp, "[2001:db8::1]:5060"), hop(Transport::Udp, "192.0.2.1:5060")];
        assert_eq!(step, found(&hops));
    }

    /// S-30: a name that does not exist, and a server that fails, end with the reason.
    #[test]
    fn nothing_there() {
        let (step, _) = walk(&Zone::of(&[]), "sip:nowhere.invalid");
        assert_eq!(step, Step::NotFound("no address of nowhere.invalid".into()));
        let mut random = Random::from_seed([1; 32]);
        let mut walk = Walk::begin(&uri("sip:a.example:5060"), &both());
        let Step::Ask(questions) = walk.step(&mut random) else { panic!() };
        walk.answer(&questions[0], Answer::Failed { reason: "SERVFAIL".into() });
        let Step::NotFound(reason) = walk.step(&mut random) else { panic!() };
        assert_eq!(reason, "no address of a.example; look-up of A a.example failed: SERVFAIL");
        for (text, part) in [
            ("sips:hims.net", "TLS"),
            ("tel:+1234", "no host"),
            ("sip:hims.net;transport=sctp", "not offered"),
        ] {
            let (Step::NotFound(reason), _) = super::tests::walk(&Zone::of(&[]), text) else {
                panic!()
            };
            assert!(reason.contains(part), "{text}: {reason}");
        }
        let zone = Zone::of(&["_sip._udp.hims.net SRV 0 0 0 .", "hims.net A 192.0.2.1"]);
        let (step, _) = super::tests::walk(&zone, "sip:hims.net");
        assert!(matches!(step, Step::NotFound(_)), "RFC 2782: a dot means no");
    }

    /// RFC 2782; S-30: priorities strictly, weights in proportion.
    #[test]
    fn srv_priority_and_weight() {
        let zone = Zone::of(&[
            "_sip._udp.hims.net SRV 10 30 5060 a.hims.net",
            "_sip._udp.hims.net SRV 10 10 5060 b.hims.net",
            "_sip._udp.hims.net SRV 10 0 5060 c.hims.net",
            "_sip._udp.hims.net SRV 5 0 5060 d.hims.net",
            "a.hims.net A 192.0.2.1",
            "b.hims.net A 192.0.2.2",
            "c.hims.net A 192.0.2.3",
            "d.hims.net A 192.0.2.4",
        ]);
        let mut firsts = [0; 4];
        for seed in 0..200 {
            let (Step::Found(hops), _) = walk_with(&zone, "sip:hims.net", &both(), seed) else {
                panic!()
            };
            assert_eq!(hops.len(), 4);
            assert_eq!(hops[0].address.to_string(), "192.0.2.4:5060");
            let SocketAddr::V4(second) = hops[1].address else { panic!() };
            firsts[usize::from(second.ip().octets()[3]) - 1] += 1;
        }
        assert!(firsts[0] > 2 * firsts[1] && firsts[1] > 3 * firsts[2].max(1), "{firsts:?}");
        assert_eq!(
            walk_with(&zone, "sip:hims.net", &both(), 7),
            walk_with(&zone, "sip:hims.net", &both(), 7)
        );
    }

    /// Answers may be missing for a while; nothing is asked twice, and strangers' answers are
    /// ignored.
    #[test]
    fn waits_for_all_answers() {
        let zone = Zone::of(&["hims.net A 192.0.2.1"]);
        let mut random = Random::from_seed([1; 32]);
        let mut walk = Walk::begin(&uri("sip:hims.net"), &both());
        let stranger = Question { name: "hims.net".into(), record_type: RecordType::A };
        walk.answer(&stranger, Answer::Failed { reason: "not asked".into() });
        let Step::Ask(first) = walk.step(&mut random) else { panic!() };
        assert_eq!(walk.step(&mut random), Step::Ask(vec![]));
        walk.answer(&first[0], zone.answer(&first[0]));
        let Step::Ask(second) = walk.step(&mut random) else { panic!() };
        assert_eq!(second.len(), 2);
        walk.answer(&second[1], zone.answer(&second[1]));
        assert_eq!(walk.step(&mut random), Step::Ask(vec![]));
        walk.answer(&second[0], zone.answer(&second[0]));
        let Step::Ask(third) = walk.step(&mut random) else { panic!() };
        walk.answer(&third[0], zone.answer(&third[0]));
        assert!(matches!(walk.step(&mut random), Step::Found(_)));
        assert_eq!(walk.ttl(), Duration::from_secs(300));
    }

    /// S-30, P-20: hops live as long as their TTL; one that failed goes last for a while.
    #[test]
    fn the_cache_remembers_failures_for_a_while() {
        let mut cache = HopCache::new(2);
        let (a, b) = (hop(Transport::Udp, "192.0.2.1:5060"), hop(Transport::Udp, "192.0.2.2:5060"));
        let hops: VecDeque<Hop> = [a, b].into();
        let at = Now::from_millis;
        cache.put(at(0), "sip:hims.net", &hops, Duration::from_secs(60));
        assert_eq!(cache.get(at(59_999), "sip:hims.net"), Some(hops.clone()));
        cache.failed(at(1_000), a, Duration::from_secs(30));
        assert_eq!(cache.get(at(2_000), "sip:hims.net"), Some([b, a].into()));
        assert_eq!(cache.get(at(31_000), "sip:hims.net"), Some(hops.clone()));
        assert_eq!(cache.get(at(60_000), "sip:hims.net"), None);
        for name in ["sip:1", "sip:2", "sip:3"] {
            cache.put(at(60_000), name, &hops, Duration::from_secs(60));
        }
        assert_eq!(cache.get(at(60_001), "sip:1"), None, "the limit holds");
        assert!(cache.get(at(60_001), "sip:3").is_some());
        cache.put(at(60_001), "sip:3", &hops, Duration::ZERO);
        assert_eq!(cache.get(at(60_001), "sip:3"), None, "a TTL of 0 is not kept");
    }
}
