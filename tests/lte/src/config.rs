//! Settings of the LTE transport. Everything has a unit in its name; unknown keys are refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use common::net::HttpConfig;
use serde::Deserialize;

use crate::link::Profile;
use crate::pgw::{Prefix4, Prefix6};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub radio: Radio,
    /// One table, or an array of them.
    #[serde(deserialize_with = "one_or_many")]
    pub enodeb: Vec<EnodebConfig>,
    /// One table, or an array of them.
    #[serde(deserialize_with = "one_or_many")]
    pub sgw: Vec<SgwConfig>,
    pub pgw: PgwConfig,
    /// An eNodeB that no cell names has one of its own name.
    #[serde(default)]
    pub cell: Vec<CellConfig>,
    #[serde(default)]
    pub link: Links,
    #[serde(default)]
    pub handover: HandoverConfig,
    #[serde(default)]
    pub idle: IdleConfig,
    #[serde(default)]
    pub limits: Limits,
    /// `/metrics`, `/healthz`, `/readyz` and `POST /admin`.
    #[serde(default)]
    pub http: HttpConfig,
    /// Script of radio events whose time begins with the program's; see `script.rs`.
    #[serde(default)]
    pub events: Option<PathBuf>,
    /// Seed of TEIDs, links and paging occasions; absent: from the system.
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
    /// In commands and metrics; absent: enb1, enb2 and so on.
    #[serde(default)]
    pub name: Option<String>,
    /// Of S1-U, and of X2-U towards the other eNodeBs.
    pub address: IpAddr,
    /// Network namespace in which the address is (a path such as /run/netns/enb); absent: our own.
    #[serde(default)]
    pub netns: Option<PathBuf>,
    /// Name of the S-GW that serves its UEs; absent: the first for UEs that attach here, and the one
    /// that they have for UEs that are handed over.
    #[serde(default)]
    pub sgw: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgwConfig {
    /// In commands and metrics; absent: sgw1, sgw2 and so on.
    #[serde(default)]
    pub name: Option<String>,
    /// Towards the eNodeBs.
    pub s1u_address: IpAddr,
    /// Towards the P-GW; another address than on S1-U.
    pub s5u_address: IpAddr,
    #[serde(default)]
    pub netns: Option<PathBuf>,
}

/// A cell of an eNodeB.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellConfig {
    pub name: String,
    /// Name of its eNodeB.
    pub enodeb: String,
    /// Links of UEs in this cell; absent: those of `[link]`.
    #[serde(default)]
    pub uplink: Option<Profile>,
    #[serde(default)]
    pub downlink: Option<Profile>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HandoverConfig {
    /// How long a UE is in neither cell, unless the command says otherwise.
    pub gap_milliseconds: u64,
    /// How long the target eNodeB waits for the End Marker before it lets the packets of the new
    /// path go, and old contexts are removed.
    pub end_marker_patience_milliseconds: u64,
}

impl Default for HandoverConfig {
    fn default() -> HandoverConfig {
        HandoverConfig { gap_milliseconds: 50, end_marker_patience_milliseconds: 1_000 }
    }
}

/// ECM-IDLE and the way out of it (TS 23.401 §5.3.4, §5.3.5).
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdleConfig {
    /// Without packets for so long a UE goes idle; zero: by command only.
    pub after_milliseconds: u64,
    /// The paging cycle: a page waits for the UE's occasion, uniform from zero to this
    /// (TS 36.304 §7.1).
    pub paging_cycle_milliseconds: u64,
    /// From the page heard, or the UE's own packet, to the bearer set up again.
    pub service_request_milliseconds: u64,
    /// T3413: a page without answer is repeated after this (TS 24.301 §10.2).
    pub paging_retry_milliseconds: u64,
    pub paging_attempts: u32,
    /// Downlink packets of one UE that wait at the S-GW, and uplink packets that wait in the UE.
    pub packets_waiting: usize,
}

impl Default for IdleConfig {
    fn default() -> IdleConfig {
        IdleConfig {
            after_milliseconds: 0,
            paging_cycle_milliseconds: 1_280,
            service_request_milliseconds: 50,
            paging_retry_milliseconds: 6_000,
            paging_attempts: 3,
            packets_waiting: 64,
        }
    }
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
    /// In each node.
    pub bearers: usize,
    /// Packets on their way over all radio links; as many may wait in each node.
    pub packets_in_flight: usize,
    /// Events of scripts and commands that are to come.
    pub events: usize,
    /// Programs connected to the radio socket.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bearers: 100_000, packets_in_flight: 100_000, events: 200_000, connections: 1_000 }
    }
}

fn default_interface() -> String {
    "sgi-tun".into()
}

fn default_mtu() -> u16 {
    1_358
}

impl Config {
    /// Reads and checks a file, overridden by `LTE__SECTION__KEY` in the environment; the error names
    /// file and key.
    pub fn load(path: &Path) -> Result<Config, String> {
        let config: Config = common::net::config::load("lte", path)?;
        config.check().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(config)
    }

    /// Reads and checks a configuration; the error names the key.
    pub fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.check_addresses()?;
        self.check_names()?;
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
        let links = [("link.uplink", &self.link.uplink), ("link.downlink", &self.link.downlink)];
        for (name, profile) in links {
            profile.check().map_err(|error| format!("{name}.{error}"))?;
        }
        for cell in &self.cell {
            for profile in cell.uplink.iter().chain(&cell.downlink) {
                profile.check().map_err(|error| format!("cell {}: {error}", cell.name))?;
            }
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), String> {
        let addresses = self.addresses();
        let mut seen = std::collections::BTreeMap::new();
        for (name, _, address) in &addresses {
            if address.is_unspecified() {
                return Err(format!("{name} = {address}: GTP-U needs a specific address"));
            }
            if let Some(other) = seen.insert(*address, name) {
                return Err(format!("{name} and {other} are both {address}"));
            }
        }
        // S1-U and X2-U are one network, S5-U another.
        let (s5u, s1u): (Vec<_>, Vec<_>) = addresses
            .iter()
            .partition(|(name, ..)| name.ends_with(".s5u_address") || name == "pgw.address");
        for side in [s1u, s5u] {
            for ((one, _, a), (other, _, b)) in side.iter().zip(side.iter().skip(1)) {
                if a.is_ipv4() != b.is_ipv4() {
                    return Err(format!("{one} and {other} are of different IP versions"));
                }
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), String> {
        if self.enodeb.is_empty() || self.sgw.is_empty() {
            return Err("an enodeb and an sgw are needed".into());
        }
        if self.enodeb.len() > 10_000 || self.sgw.len() > 1_000 || self.cell.len() > 30_000 {
            return Err("more than 10000 enodeb, 1000 sgw or 30000 cell".into());
        }
        let (enodebs, sgws) = (self.enodeb_names(), self.sgw_names());
        let cells = self.cells();
        let cells: Vec<_> = cells.iter().map(|cell| cell.name.as_str()).collect();
        for (kind, names) in [
            ("enodeb", enodebs.iter().map(String::as_str).collect::<Vec<_>>()),
            ("sgw", sgws.iter().map(String::as_str).collect()),
            ("cell", cells),
        ] {
            let mut seen = std::collections::BTreeSet::new();
            for name in names {
                if name.is_empty() || name.contains([' ', '*', '"']) {
                    return Err(format!("{kind} name \"{name}\": without blanks, * and quotes"));
                }
                // An IMSI is all digits, and commands tell the two apart by that.
                if name.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(format!("{kind} name {name}: expected more than digits"));
                }
                if !seen.insert(name) {
                    return Err(format!("two of {kind} are called {name}"));
                }
            }
        }
        for enodeb in &self.enodeb {
            if let Some(sgw) = &enodeb.sgw
                && !sgws.contains(sgw)
            {
                return Err(format!("enodeb.sgw = {sgw}: there is no such sgw"));
            }
        }
        for cell in &self.cell {
            if !enodebs.contains(&cell.enodeb) {
                let CellConfig { name, enodeb, .. } = cell;
                return Err(format!("cell {name}: there is no enodeb {enodeb}"));
            }
        }
        Ok(())
    }

    pub fn enodeb_names(&self) -> Vec<String> {
        let names = self.enodeb.iter().enumerate();
        names.map(|(n, node)| node.name.clone().unwrap_or(format!("enb{}", n + 1))).collect()
    }

    pub fn sgw_names(&self) -> Vec<String> {
        let names = self.sgw.iter().enumerate();
        names.map(|(n, node)| node.name.clone().unwrap_or(format!("sgw{}", n + 1))).collect()
    }

    /// Those of the configuration, and one for each eNodeB that has none there; the first eNodeB's
    /// first.
    pub fn cells(&self) -> Vec<CellConfig> {
        let mut cells = Vec::new();
        for name in self.enodeb_names() {
            let own = self.cell.iter().filter(|cell| cell.enodeb == name);
            let before = cells.len();
            cells.extend(own.cloned());
            if cells.len() == before {
                let enodeb = name.clone();
                cells.push(CellConfig { name, enodeb, uplink: None, downlink: None });
            }
        }
        cells
    }

    /// Every address of GTP-U with the key that sets it and its namespace.
    pub fn addresses(&self) -> Vec<(String, Option<&Path>, IpAddr)> {
        let mut all = Vec::new();
        for (name, node) in self.enodeb_names().into_iter().zip(&self.enodeb) {
            all.push((format!("enodeb {name}.address"), node.netns.as_deref(), node.address));
        }
        for (name, node) in self.sgw_names().into_iter().zip(&self.sgw) {
            let netns = node.netns.as_deref();
            all.push((format!("sgw {name}.s1u_address"), netns, node.s1u_address));
            all.push((format!("sgw {name}.s5u_address"), netns, node.s5u_address));
        }
        all.push(("pgw.address".into(), self.pgw.netns.as_deref(), self.pgw.address));
        all
    }
}

/// A table, or an array of tables.
fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    use serde::de::Error;
    // By way of a value, so that an error names the key and not only that nothing fits.
    let tables = match toml::Value::deserialize(deserializer)? {
        toml::Value::Array(tables) => tables,
        table => vec![table],
    };
    tables.into_iter().map(|table| T::deserialize(table).map_err(D::Error::custom)).collect()
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
    fn many_nodes_have_names_and_cells() {
        let many = GOOD.replacen("[enodeb]", "[[enodeb]]\naddress = \"10.11.0.7\"\n[[enodeb]]", 1);
        let cells = "[[cell]]\nname = \"north\"\nenodeb = \"enb2\"\n\
                     [[cell]]\nname = \"south\"\nenodeb = \"enb2\"\n";
        let config = Config::parse(&format!("{many}{cells}")).unwrap();
        assert_eq!(config.enodeb_names(), ["enb1", "enb2"]);
        let cells: Vec<_> = config.cells().into_iter().map(|cell| cell.name).collect();
        assert_eq!(cells, ["enb1", "north", "south"]);
        let twice = many.replacen("[[enodeb]]", "[[enodeb]]\nname = \"enb2\"", 1);
        assert!(Config::parse(&twice).unwrap_err().contains("two of enodeb are called enb2"));
    }

    #[test]
    fn the_example_is_complete() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/lte.toml");
        let config = Config::load(Path::new(path)).unwrap();
        assert!(config.http.listen.is_some());
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, named) in [
            ("10.11.0.2", "10.11.0.1", "sgw sgw1.s1u_address and enodeb enb1.address"),
            ("10.11.0.2", "fd00::1", "different IP versions"),
            ("10.11.0.1", "0.0.0.0", "specific address"),
            ("10.45.0.0/16", "10.45.0.1/16", "behind its prefix"),
            ("10.45.0.0/16", "10.45.0.0", "ADDRESS/LENGTH"),
            ("pool_v4", "pool_v5", "pool_v5"),
            ("10.0", "-1.0", "link.uplink.delay_milliseconds"),
            ("s1u_address", "s1_address", "s1_address"),
            ("\n        [sgw]", "\nsgw = \"sgw9\"\n[sgw]", "no such sgw"),
            (
                "[link.uplink]",
                "[[cell]]\nname = \"c\"\nenodeb = \"enb2\"\n[link.uplink]",
                "no enodeb enb2",
            ),
        ] {
            let error = Config::parse(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(named), "{from} -> {to}: {error}");
        }
    }
}
