//! The program around the I-CSCF.

use common::net::{Daemon, Shell, SipListen};
use common::node::Transport;

use crate::{Config, Icscf};

impl Daemon for Icscf {
    const NAME: &'static str = "icscf";
    type Config = Config;

    fn shell(config: &Config) -> Shell {
        let listen = |transport| {
            let addresses = config.sip.listen.of(transport).iter();
            addresses.map(move |address| SipListen {
                transport,
                address: *address,
                is_protected: false,
            })
        };
        Shell {
            sip: listen(Transport::Udp).chain(listen(Transport::Tcp)).collect(),
            diameter_listen: config.diameter.listen,
            diameter_local: None,
            store: None,
            dns: config.dns.clone(),
            ipsec: None,
            http: config.http.clone(),
            log: config.log.clone(),
            limits: config.limits.clone(),
        }
    }

    fn build(config: Config, seed: [u8; 32]) -> Result<Icscf, String> {
        Icscf::new(config, seed)
    }

    fn check(config: &Config) -> Vec<String> {
        config.problems()
    }
}
