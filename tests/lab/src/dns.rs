//! The DNS of the lab: authoritative for the home domain, in the lab's own process, on a socket in
//! the namespace `dns`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, NAPTR, NS, SOA, SRV};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordSet, RrKey};
use hickory_server::Server;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneHandler, ZoneType};

use crate::topology::Namespace;

/// Short, so that a scenario which changes something need not wait.
const TIME_TO_LIVE_SECONDS: u32 = 60;

/// What the zone of a home domain says.
#[derive(Clone, Debug)]
pub struct Zone {
    pub domain: String,
    /// Transports by preference, such as `["udp", "tcp"]`, at which the entry points answer.
    pub transports: Vec<&'static str>,
    /// Host names (below the domain) of the entry points, the I-CSCFs, by SRV priority.
    pub entry_points: Vec<&'static str>,
    /// Other services below the domain: name, and its hosts by SRV priority.
    pub services: Vec<(&'static str, Vec<&'static str>)>,
    /// Host names below the domain with their addresses.
    pub hosts: Vec<(&'static str, IpAddr)>,
}

impl Zone {
    /// RFC 3263 §4.1: NAPTR of the domain names the SRV of each transport, these the hosts.
    fn records(&self) -> Result<Vec<Record>, String> {
        let origin = self.name("")?;
        let mut records = vec![
            self.record(
                "",
                RData::SOA(SOA::new(
                    self.name("ns")?,
                    self.name("hostmaster")?,
                    1,
                    3_600,
                    600,
                    86_400,
                    TIME_TO_LIVE_SECONDS,
                )),
            )?,
            self.record("", RData::NS(NS(self.name("ns")?)))?,
        ];
        for (order, transport) in self.transports.iter().enumerate() {
            let service = match *transport {
                "udp" => "SIP+D2U",
                _ => "SIP+D2T",
            };
            let service_name = format!("_sip._{transport}");
            let naptr = NAPTR::new(
                10 * (order as u16 + 1),
                50,
                b"s".to_vec().into(),
                service.as_bytes().to_vec().into(),
                Vec::new().into(),
                self.name(&service_name)?,
            );
            records.push(self.record("", RData::NAPTR(naptr))?);
            for (priority, host) in self.entry_points.iter().enumerate() {
                let srv = SRV::new(priority as u16, 1, 5060, self.name(host)?);
                records.push(self.record(&service_name, RData::SRV(srv))?);
            }
            for (service, hosts) in &self.services {
                for (priority, host) in hosts.iter().enumerate() {
                    let srv = SRV::new(priority as u16, 1, 5060, self.name(host)?);
                    let name = format!("{service_name}.{service}");
                    records.push(self.record(&name, RData::SRV(srv))?);
                }
            }
        }
        for (host, address) in &self.hosts {
            let data = match address {
                IpAddr::V4(address) => RData::A(A(*address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
            };
            records.push(self.record(host, data)?);
        }
        debug_assert!(records.iter().all(|record| origin.zone_of(&record.name)));
        Ok(records)
    }

    fn name(&self, below: &str) -> Result<Name, String> {
        let text = match below {
            "" => format!("{}.", self.domain),
            below => format!("{below}.{}.", self.domain),
        };
        Name::from_ascii(&text).map_err(|error| format!("DNS name {text}: {error}"))
    }

    fn record(&self, below: &str, data: RData) -> Result<Record, String> {
        Ok(Record::from_rdata(self.name(below)?, TIME_TO_LIVE_SECONDS, data))
    }

    fn handler(&self) -> Result<InMemoryZoneHandler, String> {
        let origin = self.name("")?;
        let mut sets: BTreeMap<RrKey, RecordSet> = BTreeMap::new();
        for record in self.records()? {
            let key = RrKey::new(LowerName::from(&record.name), record.record_type());
            let set = sets.entry(key);
            set.or_insert_with(|| RecordSet::new(record.name.clone(), record.record_type(), 1))
                .insert(record, 1);
        }
        InMemoryZoneHandler::new(origin, sets, ZoneType::Primary, AxfrPolicy::Deny)
    }
}

/// The running server; it ends when this value is dropped.
pub struct Dns {
    _server: Server<Catalog>,
}

impl Dns {
    /// Serves the zones at port 53 of `address` in the namespace. Needs the event loop around it.
    pub fn start(namespace: &Namespace, address: IpAddr, zones: &[Zone]) -> Result<Dns, String> {
        let at = SocketAddr::new(address, 53);
        let path = namespace.path();
        let sockets = lte::namespace::within(Some(&path), || {
            let udp = std::net::UdpSocket::bind(at)?;
            let tcp = std::net::TcpListener::bind(at)?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((udp, tcp))
        });
        let (udp, tcp) = sockets.map_err(|error| format!("DNS at {at}: {error}"))?;
        let mut server = Server::new(catalog(zones)?);
        let wrong = |error: std::io::Error| format!("DNS at {at}: {error}");
        server.register_socket(tokio::net::UdpSocket::from_std(udp).map_err(wrong)?);
        let tcp = tokio::net::TcpListener::from_std(tcp).map_err(wrong)?;
        server.register_listener(tcp, std::time::Duration::from_secs(5), 64);
        Ok(Dns { _server: server })
    }
}

fn catalog(zones: &[Zone]) -> Result<Catalog, String> {
    let mut catalog = Catalog::new();
    for zone in zones {
        let handler: Arc<dyn ZoneHandler> = Arc::new(zone.handler()?);
        catalog.upsert(LowerName::from(&zone.name("")?), vec![handler]);
    }
    Ok(catalog)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::RecordType;

    use super::*;
    use crate::config::HOME_DOMAIN;
    use crate::laboratory::zone;
    use crate::topology::{Addresses, IpVersion};

    /// What the server of the lab's zone answers to each question, over UDP.
    fn answers(version: IpVersion, questions: &[(&str, RecordType)]) -> Vec<Vec<String>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let zones = [zone(Addresses(version), true)];
            let mut server = Server::new(catalog(&zones).unwrap());
            let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let at = socket.local_addr().unwrap();
            server.register_socket(socket);
            let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let mut found = Vec::new();
            for (name, record_type) in questions {
                let mut message = Message::new(7, MessageType::Query, OpCode::Query);
                let name = Name::from_ascii(format!("{name}.")).unwrap();
                message.add_query(Query::query(name, *record_type));
                client.send_to(&message.to_vec().unwrap(), at).await.unwrap();
                let mut buffer = [0; 4_096];
                let (length, _) = client.recv_from(&mut buffer).await.unwrap();
                let answer = Message::from_vec(&buffer[..length]).unwrap();
                let mut records: Vec<_> =
                    answer.answers.iter().map(|record| record.data.to_string()).collect();
                records.sort();
                found.push(records);
            }
            found
        })
    }

    /// RFC 3263 §4: S-05: transports of the home domain, entry points of each by priority, addresses of I-CSCF and S-CSCF.
    #[test]
    fn the_home_domain_is_found() {
        let (icscf, scscf) = (format!("icscf.{HOME_DOMAIN}"), format!("scscf1.{HOME_DOMAIN}"));
        let (udp, tcp) = (format!("_sip._udp.{HOME_DOMAIN}"), format!("_sip._tcp.{HOME_DOMAIN}"));
        for (version, of_host) in
            [(IpVersion::V4, RecordType::A), (IpVersion::V6, RecordType::AAAA)]
        {
            let found = answers(
                version,
                &[
                    (HOME_DOMAIN, RecordType::NAPTR),
                    (&udp, RecordType::SRV),
                    (&tcp, RecordType::SRV),
                    (&icscf, of_host),
                    (&scscf, of_host),
                    ("nobody.example.com", of_host),
                ],
            );
            let [naptr, of_udp, of_tcp, of_icscf, of_scscf, of_nobody] = &found[..] else {
                panic!()
            };
            assert_eq!(naptr.len(), 2);
            assert!(naptr[0].starts_with("10 50 ") && naptr[0].contains("SIP+D2U"), "{naptr:?}");
            assert!(naptr[0].ends_with(&format!("{udp}.")), "{naptr:?}");
            assert!(naptr[1].starts_with("20 50 ") && naptr[1].contains("SIP+D2T"), "{naptr:?}");
            let entry_points =
                [format!("0 1 5060 {icscf}."), format!("1 1 5060 icscf2.{HOME_DOMAIN}.")];
            assert_eq!(of_udp, &entry_points);
            assert_eq!(of_tcp, &entry_points);
            let addresses = Addresses(version);
            assert_eq!(of_icscf, &[addresses.core("icscf").to_string()]);
            assert_eq!(of_scscf, &[addresses.core("scscf1").to_string()]);
            assert!(of_nobody.is_empty());
        }
    }
}
