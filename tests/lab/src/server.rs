//! The application server of the scenarios as a process of its own.

use std::net::SocketAddr;

use common::limits::Limits;
use common::net::{Daemon, DnsConfig, HttpConfig, LogConfig, Shell, SipListen};
use common::node::{Input, Node, Now, Output, Transport};
use common::stats::Samples;
use scenarios::server::ApplicationServer;
use serde::Deserialize;

/// `as.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Host name, by which filter criteria know it.
    name: String,
    listen: SocketAddr,
    #[serde(default)]
    http: HttpConfig,
    #[serde(default)]
    log: LogConfig,
}

pub struct Server(ApplicationServer);

impl Node for Server {
    fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        self.0.handle(now, input, out);
    }

    fn next_timeout(&self) -> Option<Now> {
        self.0.next_timeout()
    }

    fn samples(&self, samples: &mut Samples) {
        self.0.samples(samples);
    }

    fn ready(&self) -> Result<(), String> {
        self.0.ready()
    }

    fn owed(&self) -> usize {
        self.0.owed()
    }
}

impl Daemon for Server {
    const NAME: &'static str = "as";
    type Config = Config;

    fn shell(config: &Config) -> Shell {
        let listen =
            |transport| SipListen { transport, address: config.listen, is_protected: false };
        Shell {
            sip: vec![listen(Transport::Udp), listen(Transport::Tcp)],
            diameter_listen: None,
            diameter_local: None,
            store: None,
            dns: DnsConfig::default(),
            ipsec: None,
            http: config.http.clone(),
            log: config.log.clone(),
            limits: Limits::default(),
        }
    }

    fn build(config: Config, seed: [u8; 32]) -> Result<Server, String> {
        Ok(Server(ApplicationServer::new(&config.name, config.listen, seed)))
    }

    fn check(_config: &Config) -> Vec<String> {
        Vec::new()
    }
}
