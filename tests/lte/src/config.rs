//! Settings of the LTE transport. Everything has a unit in its name; unknown keys are refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use common::net::HttpConfig;
use serde::Deserialize;

use crate::link::Profile;
use crate::pgw::{Prefix4, Prefix6};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub radio: Radio,
    pub enodeb: EnodebConfig,
    pub sgw: SgwConfig,
    pub pgw: PgwConfig,
    #[serde(default)]
    pub link: Links,
    #[serde(default)]
    pub limits: Limits,
    /// `/metrics`, `/healthz`, `/readyz` and `POST /admin`.
    #[serde(default)]
    pub http: HttpConfig,
    /// Seed of TEIDs and links; absent: from the system.
    #[serde(default)]
    pub seed: Option<u64>,
}

/// The radio side of the eNodeB.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Radio {
    /// Unix socket on which UEs attach; see `radio.rs`.
    pub socket: PathBuf,
    /// Absent: no capture. Else a pcapng file of the IP packets at the eNodeB's radio side.
    #[serde(default)]
    pub capture: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnodebConfig {
    pub address: IpAddr,
    /// Network namespace in which the address is (a path such as /run/netns/enb); absent: our own.
    #[serde(default)]
    pub netns: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgwConfig {
    /// Towards the eNodeB.
    pub s1u_address: IpAddr,
    /// Towards the P-GW; another address than on S1-U.
    pub s5u_address: IpAddr,
    #[serde(default)]
    pub netns: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PgwConfig {
    pub address: IpAddr,
    #[serde(default)]
    pub netns: Option<PathBuf>,
    /// Name of the TUN that the P-GW makes towards SGi; the pools are routed to it.
    #[serde(default = "default_interface")]
    pub interface: String,
    /// Addresses of UEs, such as 10.45.0.0/16; absent: no IPv4 UEs.
    #[serde(default)]
    pub pool_v4: Option<Prefix4>,
    /// Prefixes of UEs, a /64 for each, such as fd00:45::/48; absent: no IPv6 UEs.
    #[serde(default)]
    pub pool_v6: Option<Prefix6>,
    /// What UEs learn as their P-CSCF (TS 24.008 §10.5.6.3).
    #[serde(default)]
    pub pcscf_v4: Option<Ipv4Addr>,
    #[serde(default)]
    pub pcscf_v6: Option<Ipv6Addr>,
    /// What UEs learn as their MTU, in octets.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
}

/// Behaviour of every UE's radio link unless changed by the UE's program.
#[derive(Clone, Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Links {
    pub uplink: Profile,
    pub downlink: Profile,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// In each of the three nodes.
    pub bearers: usize,
    /// Packets on their way over all radio links.
    pub packets_in_flight: usize,
    /// Programs connected to the radio socket.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bearers: 100_000, packets_in_flight: 100_000, connections: 1_000 }
    }
}

fn default_interface() -> String {
    "sgi-tun".into()
}

fn default_mtu() -> u16 {
    1_358
}

impl Config {
    /// Reads and checks a configuration; the error names the key.
    pub fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let addresses = [
            ("enodeb.address", self.enodeb.address),
            ("sgw.s1u_address", self.sgw.s1u_address),
            ("sgw.s5u_address", self.sgw.s5u_address),
            ("pgw.address", self.pgw.address),
        ];
        for (index, (name, address)) in addresses.iter().enumerate() {
            if address.is_unspecified() {
                return Err(format!("{name} = {address}: GTP-U needs a specific address"));
            }
            for (other, same) in &addresses[..index] {
                if same == address {
                    return Err(format!("{name} and {other} are both {address}"));
                }
            }
        }
        for (from, to) in [(0, 1), (2, 3)] {
            let ((from, a), (to, b)) = (addresses[from], addresses[to]);
            if a.is_ipv4() != b.is_ipv4() {
                return Err(format!("{from} and {to} are of different IP versions"));
            }
        }
        if self.pgw.pool_v4.is_none() && self.pgw.pool_v6.is_none() {
            return Err("pgw.pool_v4 or pgw.pool_v6 is needed".into());
        }
        if !(1_280..=9_000).contains(&self.pgw.mtu) {
            return Err(format!("pgw.mtu = {}: expected 1280 to 9000", self.pgw.mtu));
        }
        let name = &self.pgw.interface;
        if !(1..=15).contains(&name.len()) || name.contains(['/', ' ']) {
            return Err(format!("pgw.interface = {name}: expected 1 to 15 characters"));
        }
        self.link.uplink.check().map_err(|error| format!("link.uplink.{error}"))?;
        self.link.downlink.check().map_err(|error| format!("link.downlink.{error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [radio]
        socket = "/tmp/radio.sock"
        [enodeb]
        address = "10.11.0.1"
        [sgw]
        s1u_address = "10.11.0.2"
        s5u_address = "10.12.0.1"
        [pgw]
        address = "10.12.0.2"
        pool_v4 = "10.45.0.0/16"
        pcscf_v4 = "10.20.0.10"
        [link.uplink]
        delay_milliseconds = 10.0
    "#;

    #[test]
    fn good_configuration_is_read() {
        let config = Config::parse(GOOD).unwrap();
        assert_eq!(config.pgw.mtu, 1_358);
        assert_eq!(config.link.uplink.delay_milliseconds, 10.0);
        assert_eq!(config.link.downlink, Profile::default());
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, named) in [
            ("10.11.0.2", "10.11.0.1", "sgw.s1u_address and enodeb.address"),
            ("10.11.0.2", "fd00::1", "different IP versions"),
            ("10.11.0.1", "0.0.0.0", "specific address"),
            ("10.45.0.0/16", "10.45.0.1/16", "behind its prefix"),
            ("10.45.0.0/16", "10.45.0.0", "ADDRESS/LENGTH"),
            ("pool_v4", "pool_v5", "pool_v5"),
            ("10.0", "-1.0", "link.uplink.delay_milliseconds"),
        ] {
            let error = Config::parse(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(named), "{from} -> {to}: {error}");
        }
    }
}
