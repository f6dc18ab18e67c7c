//! Questions to the DNS, by hickory-resolver (RFC 3263 §4 says which ones a core asks).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType as WireType};

use super::DnsConfig;
use crate::dns::{Answer, Question, RecordData, RecordType};

/// How long "there is nothing" counts when the server did not say (RFC 2308 §5 wants an SOA).
const NEGATIVE_TTL: Duration = Duration::from_secs(5);

/// Answers kept for their time to live.
const CACHED_ANSWERS: u64 = 4_096;

pub(super) struct Resolver {
    resolver: TokioResolver,
    /// No servers are configured: names of Diameter peers are the system's business.
    is_system: bool,
}

impl Resolver {
    /// Errors when no servers are configured and /etc/resolv.conf cannot be used.
    pub fn new(config: &DnsConfig) -> Result<Resolver, String> {
        let provider = TokioRuntimeProvider::default();
        let is_system = config.servers.is_empty();
        let servers = if is_system { system_servers()? } else { config.servers.clone() };
        let servers = servers.iter().map(|server| {
            let at = |mut connection: ConnectionConfig| {
                connection.port = server.port();
                connection
            };
            let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
            NameServerConfig::new(server.ip(), true, connections)
        });
        let servers = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let mut builder = TokioResolver::builder_with_config(servers, provider);
        set_options(builder.options_mut(), config);
        let resolver = builder.build().map_err(|error| format!("dns: {error}"))?;
        Ok(Resolver { resolver, is_system })
    }

    /// RFC 3263 §4: one question, one answer.
    pub async fn ask(&self, question: &Question) -> Answer {
        let wire_type = match question.record_type {
            RecordType::Naptr => WireType::NAPTR,
            RecordType::Srv => WireType::SRV,
            RecordType::A => WireType::A,
            RecordType::Aaaa => WireType::AAAA,
        };
        // The final dot keeps search lists away.
        let name = match Name::from_ascii(format!("{}.", question.name.trim_end_matches('.'))) {
            Ok(name) => name,
            Err(error) => return Answer::Failed { reason: format!("not a name: {error}") },
        };
        match self.resolver.lookup(name, wire_type).await {
            Ok(lookup) => found(&lookup, question.record_type),
            Err(error) => failed(&error),
        }
    }

    /// Addresses of a host for a transport connection: an address itself, a name of the DNS, or one
    /// that only the system knows (`/etc/hosts`).
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            return Ok(vec![address]);
        }
        let mut addresses = Vec::new();
        if !self.is_system {
            for record_type in [RecordType::A, RecordType::Aaaa] {
                let name = host.trim_end_matches('.').to_ascii_lowercase();
                if let Answer::Found { records, .. } =
                    self.ask(&Question { name, record_type }).await
                {
                    addresses.extend(records.into_iter().filter_map(|record| match record {
                        RecordData::Address(address) => Some(address),
                        _ => None,
                    }));
                }
            }
        }
        if addresses.is_empty() {
            let found = tokio::net::lookup_host((host, 0)).await;
            let found = found.map_err(|error| format!("{host}: {error}"))?;
            addresses = found.map(|address| address.ip()).collect();
        }
        Ok(addresses)
    }
}

/// The `nameserver` lines of /etc/resolv.conf; without any, the resolver of this host, as resolv.conf(5)
/// says.
fn system_servers() -> Result<Vec<SocketAddr>, String> {
    const PORT: u16 = 53;
    let text = match std::fs::read_to_string("/etc/resolv.conf") {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("dns: /etc/resolv.conf cannot be read: {error}")),
    };
    let servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
        .map(|address: IpAddr| SocketAddr::new(address, PORT))
        .collect();
    Ok(if servers.is_empty() { vec![SocketAddr::from(([127, 0, 0, 1], PORT))] } else { servers })
}

/// The time to give up is the time-out times one more than the attempts.
fn set_options(options: &mut ResolverOpts, config: &DnsConfig) {
    options.timeout = Duration::from_millis(config.timeout_milliseconds.max(1));
    options.attempts = config.attempts as usize;
    options.cache_size = CACHED_ANSWERS;
    options.ndots = 0;
    options.try_tcp_on_error = false;
}

fn found(lookup: &Lookup, wanted: RecordType) -> Answer {
    // A cached answer has only the rest of its time to live.
    let mut ttl = lookup.valid_until().saturating_duration_since(Instant::now());
    let mut records = Vec::new();
    for record in lookup.answers() {
        if let Some(data) = data(&record.data, wanted) {
            ttl = ttl.min(Duration::from_secs(record.ttl.into()));
            records.push(data);
        }
    }
    if records.is_empty() {
        return Answer::Nothing { ttl: ttl.min(NEGATIVE_TTL) };
    }
    // In whole seconds, as the DNS counts.
    Answer::Found { records, ttl: Duration::from_secs(ttl.as_millis().div_ceil(1000) as u64) }
}

fn data(data: &RData, wanted: RecordType) -> Option<RecordData> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match (data, wanted) {
        (RData::A(address), RecordType::A) => Some(RecordData::Address(IpAddr::V4(address.0))),
        (RData::AAAA(address), RecordType::Aaaa) => {
            Some(RecordData::Address(IpAddr::V6(address.0)))
        }
        (RData::SRV(srv), RecordType::Srv) => Some(RecordData::Srv {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            target: plain(&srv.target),
        }),
        (RData::NAPTR(naptr), RecordType::Naptr) => Some(RecordData::Naptr {
            order: naptr.order,
            preference: naptr.preference,
            flags: text(&naptr.flags),
            services: text(&naptr.services),
            replacement: plain(&naptr.replacement),
        }),
        _ => None,
    }
}

/// Without the final dot, lower case, as questions are written.
fn plain(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn failed(error: &NetError) -> Answer {
    if let NetError::Dns(DnsError::NoRecordsFound(nothing)) = error
        && matches!(nothing.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
    {
        let ttl = nothing.negative_ttl.map_or(NEGATIVE_TTL, |ttl| Duration::from_secs(ttl.into()));
        return Answer::Nothing { ttl };
    }
    Answer::Failed { reason: error.to_string() }
}
