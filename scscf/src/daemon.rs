//! The program around the S-CSCF.

use common::net::{Daemon, Shell, SipListen};
use common::node::Transport;

use crate::{Config, Scscf};

impl Daemon for Scscf {
    const NAME: &'static str = "scscf";
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
            store: config.state.clone(),
            dns: config.dns.clone(),
            ipsec: None,
            http: config.http.clone(),
            log: config.log.clone(),
            limits: config.limits.clone(),
        }
    }

    fn build(config: Config, seed: [u8; 32]) -> Result<Scscf, String> {
        Scscf::new(config, seed)
    }

    fn check(config: &Config) -> Vec<String> {
        config.problems()
    }
}
