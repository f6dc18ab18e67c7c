//! The configuration of every node, as files in the lab's directory: what an operator would write
//! for this network.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use scenarios::server::criteria;

use crate::endurance;
use crate::mobility::{CELLS, SECOND_SGW};
use crate::subscribers::{CAPABILITY, Subscribers};
use crate::topology::{Addresses, IpVersion, POOL_V4, POOL_V6, Topology, UE_MTU};

/// Home domain of the lab (TS 23.003 §13.2): MCC 001, MNC 01 is the test network.
pub const HOME_DOMAIN: &str = "ims.mnc001.mcc001.3gppnetwork.org";

/// Ports of the P-CSCF at which it takes nothing but ESP.
pub const PROTECTED_SERVER_PORT: u16 = 5064;
pub const PROTECTED_CLIENT_PORTS: [u16; 8] = [5100, 5101, 5102, 5103, 5104, 5105, 5106, 5107];

/// The shortest registration: somebody waits for its end.
const EXPIRES_MIN_SECONDS: u32 = 3;

/// Where the HSS listens, and beside it the SLF and another HSS on the same database.
const HSS_PORT: u16 = 3868;
const SLF_PORT: u16 = 3869;
const SECOND_HSS_PORT: u16 = 3870;
/// Where there are two of each: reg-await-auth of the S-CSCF and of the P-CSCF, and what an entry point may take.
pub const SCSCF_AWAITS_SECONDS: u32 = 2;
pub const PCSCF_AWAITS_SECONDS: u32 = 12;
const ATTEMPT_SECONDS: u32 = 2;
/// What an S-CSCF takes only when it is told to.
const OTHER_SCHEMES: &str = "algorithms = [\"AKAv2-SHA-256\", \"AKAv2-MD5\", \"AKAv1-MD5\"]\n\
                             digest = true\nearly_ims = true\n";

/// Which data plane the P-CSCF uses for ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plane {
    Auto,
    Xfrm,
    Userspace,
    /// No IPsec at all: what the signalling itself costs.
    Off,
}

impl Plane {
    fn name(self) -> &'static str {
        match self {
            Plane::Auto | Plane::Off => "auto",
            Plane::Xfrm => "xfrm",
            Plane::Userspace => "userspace",
        }
    }
}

/// What the files depend on.
pub struct Settings<'a> {
    pub directory: &'a Path,
    /// Where the eNodeB writes its capture, if it does.
    pub radio_capture: Option<&'a Path>,
    /// Nothing is logged but warnings.
    pub is_quiet: bool,
    pub version: IpVersion,
    pub plane: Plane,
    /// Security-Server names the chosen algorithms only: an answer to the challenge is then short
    /// enough for a datagram.
    pub is_choice_announced: bool,
    /// Every other REGISTER is challenged, and replaced sets end soon.
    pub is_enduring: bool,
    /// Everything is allowed that is off by default, and an SLF stands in front of two HSSs.
    pub is_open: bool,
    /// There is another P-CSCF, and another I-CSCF; who waits for somebody waits for a short time.
    pub is_doubled: bool,
    /// Where each daemon is asked and commanded.
    pub http: &'a BTreeMap<&'static str, SocketAddr>,
    pub topology: &'a Topology,
    pub subscribers: &'a Subscribers,
}

impl Settings<'_> {
    /// Writes all of them.
    pub fn write(&self) -> Result<(), String> {
        self.file("lte.toml", &self.lte())?;
        let all = self.addresses();
        self.file("pcscf.toml", &self.pcscf("pcscf", all.pcscf_gm()))?;
        self.file("icscf.toml", &self.icscf("icscf"))?;
        if self.is_doubled {
            self.file("pcscf2.toml", &self.pcscf("pcscf2", all.second_pcscf_gm()))?;
            self.file("icscf2.toml", &self.icscf("icscf2"))?;
        }
        for name in ["scscf1", "scscf2"] {
            self.file(&format!("{name}.toml"), &self.scscf(name))?;
        }
        self.file("hss.toml", &self.hss("hss", HSS_PORT))?;
        if self.is_open {
            self.file("hss2.toml", &self.hss("hss2", SECOND_HSS_PORT))?;
            self.file("slf.toml", &self.slf())?;
        }
        self.file("as.toml", &self.application_server())?;
        self.file(
            "subscribers.toml",
            &self.subscribers.provisioning(!self.is_enduring, self.is_open),
        )
    }

    fn file(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.directory.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn addresses(&self) -> Addresses {
        Addresses(self.version)
    }

    fn core(&self, node: &str, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses().core(node), port)
    }

    fn netns(&self, node: &str) -> String {
        quoted_path(&self.topology.namespace(node).path())
    }

    fn lte(&self) -> String {
        let all = self.addresses();
        let pcscf = all.pcscf_gm();
        let (pool, pcscf_key) = match pcscf {
            IpAddr::V4(_) => (format!("pool_v4 = \"{POOL_V4}\""), "pcscf_v4"),
            IpAddr::V6(_) => (format!("pool_v6 = \"{POOL_V6}\""), "pcscf_v6"),
        };
        let capture = match self.radio_capture {
            Some(path) => format!("capture = {}\n", quoted_path(path)),
            None => String::new(),
        };
        let mut text = String::new();
        let _ = write!(
            text,
            "[radio]\nsocket = {}\n{capture}\n{}\
             [pgw]\naddress = \"{}\"\nnetns = {}\n{pool}\n{pcscf_key} = \"{pcscf}\"\n\
             mtu = {UE_MTU}\n\n\
             [link.uplink]\ndelay_milliseconds = 2.0\nmtu = {UE_MTU}\n\n\
             [link.downlink]\ndelay_milliseconds = 2.0\n\n",
            quoted_path(&self.directory.join("radio.sock")),
            self.http("lte"),
            all.pgw_s5u(),
            self.netns("pgw"),
        );
        for (cell, address) in CELLS.into_iter().zip([all.enb_s1u(), all.second_enb_s1u()]) {
            let _ = write!(
                text,
                "[[enodeb]]\nname = \"{cell}\"\naddress = \"{address}\"\nnetns = {}\n\n",
                self.netns("enb"),
            );
        }
        for (name, s1u, s5u) in [
            ("sgw1", all.sgw_s1u(), all.sgw_s5u()),
            (SECOND_SGW, all.second_sgw_s1u(), all.second_sgw_s5u()),
        ] {
            let _ = write!(
                text,
                "[[sgw]]\nname = \"{name}\"\ns1u_address = \"{s1u}\"\ns5u_address = \"{s5u}\"\n\
                 netns = {}\n\n",
                self.netns("sgw"),
            );
        }
        text
    }

    fn pcscf(&self, name: &str, gm: IpAddr) -> String {
        let t1 = match self.is_enduring {
            true => format!("t1_milliseconds = {}\n", endurance::GM_T1.as_millis()),
            false => String::new(),
        };
        let keep = if self.is_open { "keep_alive_seconds = 1\n" } else { "" };
        let (attempt, await_auth) = match self.is_doubled {
            true => (
                format!("attempt_seconds = {ATTEMPT_SECONDS}\n"),
                format!("reg_await_auth_seconds = {PCSCF_AWAITS_SECONDS}\n"),
            ),
            false => (String::new(), String::new()),
        };
        format!(
            "name = \"{name}.{HOME_DOMAIN}\"\n\
             visited_network = \"{HOME_DOMAIN}\"\n\
             log_identities = true\n\
             store = {}\n\n\
             [gm]\naddresses = [\"{gm}\"]\n{t1}{keep}protected_server_port = {PROTECTED_SERVER_PORT}\n\
             protected_client_ports = {PROTECTED_CLIENT_PORTS:?}\n\n\
             [mw]\nlisten = [\"{}\"]\n{attempt}\n\
             [ipsec]\n{await_auth}plane = \"{}\"\npolicy = \"{}\"\nanswer = \"{}\"\nnat = {}\n\n\
             {}{}{}",
            quoted_path(&self.directory.join(format!("{name}.db"))),
            self.core(name, 5060),
            self.plane.name(),
            match self.plane {
                Plane::Off => "off",
                _ if self.is_open => "preferred",
                _ => "required",
            },
            if self.is_choice_announced { "chosen" } else { "list" },
            gm.is_ipv4(),
            self.log("info,pcscf::security=debug"),
            self.http(name),
            self.dns(),
        )
    }

    fn icscf(&self, own: &str) -> String {
        let mut text = format!(
            "home_domain = \"{HOME_DOMAIN}\"\nlog_identities = true\n\n{}{}{}{}{}",
            self.log("info"),
            self.http(own),
            self.sip(own),
            self.diameter_client(own),
            self.dns(),
        );
        for (priority, name) in ["scscf1", "scscf2"].iter().enumerate() {
            let capabilities = if priority == 1 { vec![CAPABILITY] } else { Vec::new() };
            let _ = write!(
                text,
                "\n[[scscf]]\nname = \"sip:{name}.{HOME_DOMAIN}:5060\"\npriority = {priority}\n\
                 capabilities = {capabilities:?}\n"
            );
        }
        text
    }

    fn scscf(&self, name: &str) -> String {
        format!(
            "home_domain = \"{HOME_DOMAIN}\"\nlog_identities = true\nstate = {}\n\n{}{}{}{}\
             [registration]\nexpires_min_seconds = {EXPIRES_MIN_SECONDS}\nprotection = \"{}\"\nreauthenticate = \"{}\"\n{}\n{}\n\
             [[shared_filter_criteria]]\nid = 1\nxml = '{}'\n",
            quoted_path(&self.directory.join(format!("{name}.db"))),
            self.log("info"),
            self.http(name),
            self.sip(name),
            self.diameter_client(name),
            if self.plane == Plane::Off { "optional" } else { "required" },
            if self.is_enduring { "every 1" } else { "never" },
            match (self.is_open, self.is_doubled) {
                (true, _) => OTHER_SCHEMES.to_owned(),
                (_, true) => format!("reg_await_auth_seconds = {SCSCF_AWAITS_SECONDS}\n"),
                _ => String::new(),
            },
            self.dns(),
            criteria(&format!("as.{HOME_DOMAIN}")),
        )
    }

    fn application_server(&self) -> String {
        let at = self.core("as", 5060);
        format!("name = \"as.{HOME_DOMAIN}\"\nlisten = \"{at}\"\n")
    }

    /// All of them on one database.
    fn hss(&self, name: &str, port: u16) -> String {
        format!(
            "database = {}\nkey_file = {}\nlog_identities = true\n\n\
             {}{}[diameter]\nidentity = \"{name}.{HOME_DOMAIN}\"\nrealm = \"{HOME_DOMAIN}\"\n\
             listen = \"{}\"\n",
            quoted_path(&self.directory.join("hss.db")),
            quoted_path(&self.directory.join("hss.key")),
            self.log("info"),
            self.http(name),
            self.core("hss", port),
        )
    }

    /// In the namespace of the HSS, on a port of its own; it sends everybody to the first HSS, and to
    /// the other one when that is away.
    fn slf(&self) -> String {
        format!(
            "log_identities = true\n\n{}{}[diameter]\nidentity = \"slf.{HOME_DOMAIN}\"\n\
             realm = \"{HOME_DOMAIN}\"\nlisten = \"{}\"\n\n\
             [slf]\n[[slf.routes]]\nidentities = [\"*\"]\n\
             hosts = [\"aaa://hss.{HOME_DOMAIN}\", \"aaa://hss2.{HOME_DOMAIN}\"]\n",
            self.log("info"),
            self.http("slf"),
            self.core("hss", SLF_PORT),
        )
    }

    fn sip(&self, name: &str) -> String {
        let at = self.core(name, 5060);
        let server_name = match name.starts_with("scscf") {
            true => format!("server_name = \"sip:{name}.{HOME_DOMAIN}:5060\"\n"),
            false => String::new(),
        };
        format!(
            "[sip]\nname = \"{name}.{HOME_DOMAIN}\"\n{server_name}\
             [sip.listen]\nudp = [\"{at}\"]\ntcp = [\"{at}\"]\n\n"
        )
    }

    fn diameter_client(&self, name: &str) -> String {
        let hss = self.addresses().core("hss");
        let peers = match self.is_open {
            true => format!(
                "{{ host = \"{hss}\", port = {SLF_PORT} }}, \
                 {{ identity = \"hss.{HOME_DOMAIN}\", host = \"{hss}\", port = {HSS_PORT}, \
                 by_name_only = true }}, \
                 {{ identity = \"hss2.{HOME_DOMAIN}\", host = \"{hss}\", \
                 port = {SECOND_HSS_PORT}, by_name_only = true }}"
            ),
            false => format!("{{ host = \"{hss}\" }}"),
        };
        format!(
            "[diameter]\nidentity = \"{name}.{HOME_DOMAIN}\"\nrealm = \"{HOME_DOMAIN}\"\n\
             peers = [{peers}]\n\n"
        )
    }

    fn log(&self, filter: &str) -> String {
        let filter = if self.is_quiet { "warn" } else { filter };
        format!("[log]\nfilter = \"{filter}\"\n\n")
    }

    /// The socket is handed in; this tells `pcscf --config FILE sa list` where it is.
    fn http(&self, name: &str) -> String {
        let address = self.http.get(name);
        address.map_or_else(String::new, |at| format!("[http]\nlisten = \"{at}\"\n\n"))
    }

    fn dns(&self) -> String {
        format!("[dns]\nservers = [\"{}\"]\n", self.core("dns", 53))
    }
}

/// A path as a TOML string.
fn quoted_path(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted() {
        assert_eq!(quoted_path(Path::new("/tmp/a b")), "\"/tmp/a b\"");
        let odd = quoted_path(Path::new("/tmp/\"x\\"));
        let table: toml::Table = format!("p = {odd}").parse().unwrap();
        assert_eq!(table["p"].as_str(), Some("/tmp/\"x\\"));
    }
}
