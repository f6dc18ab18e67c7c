//! The P-CSCF as a program: which sockets its core needs.

use std::path::PathBuf;

use common::net::{Daemon, PlaneConfig, Shell, SipListen};
use common::node::Transport;
use common::random::Random;

use crate::Pcscf;
use crate::config::{Config, Policy};

impl Daemon for Pcscf {
    const NAME: &'static str = "pcscf";
    type Config = Config;

    fn shell(config: &Config) -> Shell {
        let has_ipsec = config.ipsec.policy != Policy::Off;
        let mut sip = Vec::new();
        let mut listen = |address, is_protected| {
            for transport in [Transport::Udp, Transport::Tcp] {
                sip.push(SipListen { transport, address, is_protected });
            }
        };
        for ip in &config.gm.addresses {
            listen((*ip, config.gm.port).into(), false);
            if has_ipsec {
                listen((*ip, config.gm.protected_server_port).into(), true);
                for port in &config.gm.protected_client_ports {
                    listen((*ip, *port).into(), true);
                }
            }
        }
        for address in &config.mw.listen {
            listen(*address, false);
        }
        Shell {
            sip,
            diameter_listen: None,
            diameter_local: None,
            store: config.store.clone(),
            dns: config.dns.clone(),
            ipsec: has_ipsec.then(|| PlaneConfig {
                choice: config.ipsec.plane,
                state: config.ipsec.state.clone().or_else(|| beside_the_store(config)),
                nat: config.ipsec.nat,
            }),
            http: config.http.clone(),
            log: config.log.clone(),
            limits: config.limits.clone(),
        }
    }

    fn build(config: Config, seed: [u8; 32]) -> Result<Pcscf, String> {
        Pcscf::new(config, Random::from_seed(seed))
    }

    fn check(config: &Config) -> Vec<String> {
        config.problems()
    }
}

/// What the user-space plane keeps is of use only together with what the core has stored.
fn beside_the_store(config: &Config) -> Option<PathBuf> {
    config.store.as_ref().map(|store| store.with_extension("sas"))
}
