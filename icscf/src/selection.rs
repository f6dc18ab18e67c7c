//! Choosing an S-CSCF by capabilities (TS 29.228 §6.7, TS 23.228 §5.1.2.2).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use common::cx::ServerCapabilities;
use common::node::{Now, Transport};
use common::random::Random;
use common::sip::locate::Hop;
use common::sip::uri::Uri;

use crate::config::Scscf;

/// How many names are remembered as silent; the HSS may name S-CSCFs that are not configured.
const SUSPECTS_LIMIT: usize = 1_000;

/// The S-CSCFs of the configuration, and which S-CSCFs were silent lately.
#[derive(Debug)]
pub struct Selection {
    servers: Vec<Server>,
    /// By name; until when each is chosen last.
    suspects: BTreeMap<String, Now>,
}

#[derive(Debug)]
struct Server {
    name: String,
    uri: Option<Uri>,
    hop: Option<Hop>,
    capabilities: Vec<u32>,
    priority: u16,
    weight: u16,
}

impl Selection {
    pub fn new(configured: &[Scscf]) -> Selection {
        let servers = configured.iter().map(Server::new).collect();
        Selection { servers, suspects: BTreeMap::new() }
    }

    /// TS 29.228 §6.7: all mandatory capabilities, then most optional ones. Server names given by
    /// the HSS override capabilities. Ones that were silent lately come last; then priority counts,
    /// then chance by weight. `tried` are out.
    pub fn choose(
        &self,
        now: Now,
        wanted: &ServerCapabilities,
        tried: &[String],
        random: &mut Random,
    ) -> Option<String> {
        let untried = |name: &str| !tried.iter().any(|other| is_same_server(other, name));
        if !wanted.server_names.is_empty() {
            let names = wanted.server_names.iter().filter(|name| untried(name));
            return names.min_by_key(|name| self.is_suspect(now, name)).cloned();
        }
        let capable = self.servers.iter().filter(|server| {
            untried(&server.name)
                && wanted.mandatory.iter().all(|number| server.capabilities.contains(number))
        });
        let ranked: Vec<_> = capable
            .map(|server| {
                let met =
                    wanted.optional.iter().filter(|n| server.capabilities.contains(n)).count();
                let unmet = wanted.optional.len() - met;
                ((self.is_suspect(now, &server.name), unmet, server.priority), server)
            })
            .collect();
        let best = ranked.iter().map(|(rank, _)| *rank).min()?;
        let equals: Vec<_> =
            ranked.iter().filter(|(rank, _)| *rank == best).map(|(_, server)| *server).collect();
        Some(draw(&equals, random).name.clone())
    }

    /// The configured address of a server, when there is one: no DNS is needed then.
    pub fn hop(&self, name: &str) -> Option<Hop> {
        if let Some(server) = self.servers.iter().find(|server| server.name == name) {
            return server.hop;
        }
        let uri = Uri::parse(name).ok()?;
        let same =
            |server: &&Server| server.uri.as_ref().is_some_and(|own| own.is_equivalent(&uri));
        self.servers.iter().find(same)?.hop
    }

    pub fn is_suspect(&self, now: Now, name: &str) -> bool {
        self.suspects.get(name).is_some_and(|until| now < *until)
    }

    /// It was silent: choose it last for `span`.
    pub fn silent(&mut self, now: Now, name: &str, span: Duration) {
        self.suspects.retain(|_, until| now < *until);
        if self.suspects.len() < SUSPECTS_LIMIT {
            self.suspects.insert(name.to_owned(), now + span);
        }
    }

    /// It answered.
    pub fn alive(&mut self, name: &str) {
        if !self.suspects.is_empty() {
            self.suspects.remove(name);
        }
    }

    /// One line per configured server and per silent one, for the operator.
    pub fn describe(&self, now: Now) -> String {
        let mut text = String::new();
        for server in &self.servers {
            let state = if self.is_suspect(now, &server.name) { "silent" } else { "in use" };
            let address = server.hop.map(|hop: Hop| hop.address);
            text.push_str(&format!(
                "{} {state} address={} priority={} weight={} capabilities={:?}\n",
                server.name,
                address.map_or("by DNS".to_owned(), |address: SocketAddr| address.to_string()),
                server.priority,
                server.weight,
                server.capabilities
            ));
        }
        for (name, until) in &self.suspects {
            if now < *until && !self.servers.iter().any(|server| server.name == *name) {
                text.push_str(&format!("{name} silent, named by the HSS\n"));
            }
        }
        text
    }
}

impl Server {
    fn new(configured: &Scscf) -> Server {
        let transport = Transport::from(configured.transport);
        Server {
            name: configured.name.clone(),
            uri: Uri::parse(&configured.name).ok(),
            hop: configured.address.map(|address| Hop { transport, address }),
            capabilities: configured.capabilities.clone(),
            priority: configured.priority,
            weight: configured.weight,
        }
    }
}

/// Whether two Server-Names name one S-CSCF.
pub fn is_same_server(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    match (Uri::parse(a), Uri::parse(b)) {
        (Ok(a), Ok(b)) => a.is_equivalent(&b),
        _ => false,
    }
}

/// By weight; `equals` is never empty.
fn draw<'a>(equals: &[&'a Server], random: &mut Random) -> &'a Server {
    let total: u64 = equals.iter().map(|server| u64::from(server.weight)).sum();
    let mut ticket = random.below(total);
    for server in equals {
        let weight = u64::from(server.weight);
        if ticket < weight {
            return server;
        }
        ticket -= weight;
    }
    equals[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TransportName;

    fn server(name: &str, capabilities: &[u32], priority: u16) -> Scscf {
        Scscf {
            name: name.to_owned(),
            address: None,
            transport: TransportName::Udp,
            capabilities: capabilities.to_vec(),
            priority,
            weight: 1,
        }
    }

    fn wanted(mandatory: &[u32], optional: &[u32]) -> ServerCapabilities {
        ServerCapabilities {
            mandatory: mandatory.to_vec(),
            optional: optional.to_vec(),
            server_names: Vec::new(),
        }
    }

    fn choose(
        selection: &Selection,
        wanted: &ServerCapabilities,
        tried: &[&str],
    ) -> Option<String> {
        let tried: Vec<_> = tried.iter().map(|name| (*name).to_owned()).collect();
        selection.choose(Now::from_millis(1), wanted, &tried, &mut Random::from_seed([7; 32]))
    }

    /// TS 29.228 §6.7, TS 23.228 §5.1.2.2, TS 29.229 §6.3.5, §6.3.6: every mandatory capability, then most optional ones, then priority.
    #[test]
    fn mandatory_then_optional_then_priority() {
        let selection = Selection::new(&[
            server("sip:a", &[1], 0),
            server("sip:b", &[1, 2], 1),
            server("sip:c", &[1, 2, 3], 2),
        ]);
        assert_eq!(choose(&selection, &wanted(&[], &[]), &[]).as_deref(), Some("sip:a"));
        assert_eq!(choose(&selection, &wanted(&[2], &[]), &[]).as_deref(), Some("sip:b"));
        assert_eq!(choose(&selection, &wanted(&[1], &[2, 3]), &[]).as_deref(), Some("sip:c"));
        assert_eq!(choose(&selection, &wanted(&[2], &[]), &["sip:b"]).as_deref(), Some("sip:c"));
        assert_eq!(choose(&selection, &wanted(&[4], &[]), &[]), None);
    }

    /// TS 29.228 §6.7: names inside Server-Capabilities override capabilities.
    #[test]
    fn names_override_capabilities() {
        let selection = Selection::new(&[server("sip:a", &[1], 0)]);
        let mut wanted = wanted(&[9], &[]);
        wanted.server_names = vec!["sip:x".to_owned(), "sip:y".to_owned()];
        assert_eq!(choose(&selection, &wanted, &[]).as_deref(), Some("sip:x"));
        assert_eq!(choose(&selection, &wanted, &["sip:x"]).as_deref(), Some("sip:y"));
        assert_eq!(choose(&selection, &wanted, &["sip:x", "sip:y"]), None);
    }

    #[test]
    fn silent_ones_come_last_until_they_answer() {
        let mut selection = Selection::new(&[server("sip:a", &[], 0), server("sip:b", &[], 1)]);
        let any = wanted(&[], &[]);
        selection.silent(Now::from_millis(0), "sip:a", Duration::from_secs(30));
        assert_eq!(choose(&selection, &any, &[]).as_deref(), Some("sip:b"));
        assert_eq!(choose(&selection, &any, &["sip:b"]).as_deref(), Some("sip:a"));
        selection.alive("sip:a");
        assert_eq!(choose(&selection, &any, &[]).as_deref(), Some("sip:a"));
    }

    #[test]
    fn weight_decides_among_equals() {
        let mut heavy = server("sip:heavy", &[], 0);
        heavy.weight = 3;
        let selection = Selection::new(&[server("sip:light", &[], 0), heavy]);
        let mut random = Random::from_seed([1; 32]);
        let any = wanted(&[], &[]);
        let heavy = (0..400)
            .filter(|_| {
                let name = selection.choose(Now::from_millis(1), &any, &[], &mut random);
                name.as_deref() == Some("sip:heavy")
            })
            .count();
        assert!((250..350).contains(&heavy), "{heavy} of 400");
    }
}
