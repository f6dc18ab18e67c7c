//! The network of the lab, in namespaces that an ordinary user may make: one for each node, joined
//! by veth pairs.
//!
//! ```text
//!  enb --s1u-- sgw --s5u-- pgw --sgi--- pcscf   --.
//!                             `--sgi2-- pcscf2  --+
//!                                       icscf   --+
//!                                       icscf2  --+
//!                                       scscf1  --+-- core (router)
//!                                       scscf2  --+
//!                                       hss     --+
//!                                       dns     --+
//!                                       as      --'
//! ```
//!
//! Namespaces are kept by descriptors of this process and reached as `/proc/PID/fd/N`: nothing is
//! mounted, nothing is left behind.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getgid, getuid};

/// Nodes of the core network, each behind a link of its own to the router.
pub const CORE_NODES: [&str; 9] =
    ["pcscf", "icscf", "scscf1", "scscf2", "hss", "dns", "as", "pcscf2", "icscf2"];

/// Links on which packets are captured, and where: interfaces as (namespace, interface).
pub const CAPTURED_LINKS: [(&str, &str, &str); 3] =
    [("s1u", "enb", "s1u"), ("s5u", "pgw", "s5u"), ("sgi", "pgw", "sgi")];

/// Namespace of the router between the nodes of the core.
pub const ROUTER: &str = "core";

/// Which IP version everything in the lab uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    V4,
    V6,
}

/// A network namespace, alive while this value is.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

#[derive(Debug)]
pub struct Topology {
    namespaces: BTreeMap<&'static str, Namespace>,
}

/// An address of the lab by network and host number.
///
/// 10.NETWORK.SUBNET.HOST, or fd00:NETWORK:SUBNET::HOST with the numbers as they read in decimal.
fn address(version: IpVersion, network: u8, subnet: u8, host: u8) -> IpAddr {
    match version {
        IpVersion::V4 => IpAddr::from([10, network, subnet, host]),
        IpVersion::V6 => {
            let text = format!("fd00:{network}:{subnet}::{host}");
            text.parse().expect("a written-out IPv6 address")
        }
    }
}

/// Addresses of the nodes in one IP version.
#[derive(Clone, Copy, Debug)]
pub struct Addresses(pub IpVersion);

impl Addresses {
    pub fn enb_s1u(self) -> IpAddr {
        address(self.0, 11, 0, 1)
    }

    /// Of the eNodeB of the second cell, in the namespace of the first.
    pub fn second_enb_s1u(self) -> IpAddr {
        address(self.0, 11, 0, 3)
    }

    pub fn sgw_s1u(self) -> IpAddr {
        address(self.0, 11, 0, 2)
    }

    pub fn sgw_s5u(self) -> IpAddr {
        address(self.0, 12, 0, 1)
    }

    /// Of the S-GW that a handover may choose, in the namespace of the first.
    pub fn second_sgw_s1u(self) -> IpAddr {
        address(self.0, 11, 0, 4)
    }

    pub fn second_sgw_s5u(self) -> IpAddr {
        address(self.0, 12, 0, 3)
    }

    pub fn pgw_s5u(self) -> IpAddr {
        address(self.0, 12, 0, 2)
    }

    pub fn pgw_sgi(self) -> IpAddr {
        address(self.0, 20, 0, 1)
    }

    /// The P-CSCF as phones know it.
    pub fn pcscf_gm(self) -> IpAddr {
        address(self.0, 20, 0, 10)
    }

    pub fn second_pgw_sgi(self) -> IpAddr {
        address(self.0, 21, 0, 1)
    }

    /// The second P-CSCF as phones know it.
    pub fn second_pcscf_gm(self) -> IpAddr {
        address(self.0, 21, 0, 10)
    }

    /// An address on the link of a node that nobody has.
    pub fn nobody_beside(self, node: &str) -> IpAddr {
        address(self.0, 30, subnet_of(node), 9)
    }

    /// A node of [`CORE_NODES`] on its link to the router.
    pub fn core(self, node: &str) -> IpAddr {
        address(self.0, 30, subnet_of(node), 2)
    }

    /// The router's end of that link.
    fn router(self, node: &str) -> IpAddr {
        address(self.0, 30, subnet_of(node), 1)
    }
}

fn subnet_of(node: &str) -> u8 {
    let index = CORE_NODES.iter().position(|known| *known == node);
    index.map_or(0, |index| index as u8 + 1)
}

/// Octets of the longest IP packet on a bearer (TS 23.060 Annex C).
pub const UE_MTU: u16 = 1_358;

/// Addresses of UEs: enough for any load, and none of those above.
pub const POOL_V4: &str = "10.64.0.0/10";
pub const POOL_V6: &str = "fd45::/32";

/// Puts this process, while it has one thread, into a user namespace where it may make network
/// namespaces; as root with the capability for that, nothing is needed. The error is one line that
/// names the setting which would allow it.
pub fn enter() -> Result<(), String> {
    let (uid, gid) = (getuid(), getgid());
    if uid.is_root() && can_make_namespace() {
        return check_tun();
    }
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| diagnosis(error.into()))?;
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    for (path, map) in maps {
        std::fs::write(path, map).map_err(diagnosis)?;
    }
    if !can_make_namespace() {
        return Err(diagnosis(io::Error::from(io::ErrorKind::PermissionDenied)));
    }
    check_tun()
}

fn can_make_namespace() -> bool {
    std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok()).join().unwrap_or(false)
}

/// What a container needs for namespaces, links and forwarding of its own.
const CONTAINER: &str = "run the container with --cap-add SYS_ADMIN --cap-add NET_ADMIN \
                         --device /dev/net/tun --security-opt systempaths=unconfined";

/// Which setting of the host refuses namespaces.
fn diagnosis(error: io::Error) -> String {
    let value = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let setting = if value("/proc/sys/user/max_user_namespaces") == "0" {
        "sysctl -w user.max_user_namespaces=10000"
    } else if value("/proc/sys/user/max_net_namespaces") == "0" {
        "sysctl -w user.max_net_namespaces=10000"
    } else if value("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        "sysctl -w kernel.unprivileged_userns_clone=1"
    } else if value("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    } else {
        CONTAINER
    };
    format!("user and network namespaces are refused ({error}); to allow them: {setting}")
}

/// The P-GW, and the user-space plane for ESP, need a TUN.
fn check_tun() -> Result<(), String> {
    let path = "/dev/net/tun";
    File::options().read(true).write(true).open(path).map(|_| ()).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => "chmod 0666 /dev/net/tun",
            _ => "modprobe tun, or in a container --device /dev/net/tun",
        };
        format!("{path} cannot be opened ({error}); to allow it: {remedy}")
    })
}

impl Namespace {
    fn new() -> Result<Namespace, String> {
        let make = || -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            // Link-local addresses are as unique as the links are new: routers use them at once,
            // instead of a second later. And nobody here advertises routes.
            for (setting, value) in
                [("accept_dad", "0"), ("dad_transmits", "0"), ("router_solicitations", "0")]
            {
                // Without IPv6 in the kernel there is no such file, and nothing to wait for.
                let path = format!("/proc/sys/net/ipv6/conf/default/{setting}");
                let _ = std::fs::write(path, value);
            }
            File::open("/proc/thread-self/ns/net")
        };
        let made = std::thread::spawn(make).join();
        let made = made.unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
        made.map(|file| Namespace { file }).map_err(|error| format!("network namespace: {error}"))
    }

    /// Where other processes of this user find it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Makes the program of the command start in this namespace, and end when we do.
    pub fn enter_at_start(&self, command: &mut Command) {
        let descriptor = self.file.as_raw_fd();
        let parent = std::process::id();
        // SAFETY: between fork and exec only system calls are made, and the descriptor stays open
        // in the parent for as long as the topology lives.
        unsafe {
            command.pre_exec(move || {
                let file = std::os::fd::BorrowedFd::borrow_raw(descriptor);
                setns(file, CloneFlags::CLONE_NEWNET)?;
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                // The parent may have gone before that took effect.
                if nix::unistd::getppid().as_raw() as u32 != parent {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Ok(())
            });
        }
    }

    /// What a command in this namespace prints.
    pub fn output_of(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        self.enter_at_start(&mut command);
        let output = command.output().map_err(|error| format!("{}: {error}", words[0]))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => {
                let error = String::from_utf8_lossy(&output.stderr);
                Err(format!("{}: {}", words.join(" "), error.trim()))
            }
        }
    }

    /// Runs `ip` with a list of commands; the error says which one was refused.
    fn ip(&self, commands: &str) -> Result<(), String> {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        self.enter_at_start(&mut command);
        let mut child = command
            .spawn()
            .map_err(|error| format!("the command `ip` (package iproute2): {error}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A refusal is told by the exit status.
            let _ = stdin.write_all(commands.as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| format!("ip: {error}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("ip: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    }
}

impl Topology {
    /// Makes all namespaces, links, addresses and routes.
    pub fn build() -> Result<Topology, String> {
        let mut namespaces = BTreeMap::new();
        for name in ["enb", "sgw", "pgw", ROUTER].into_iter().chain(CORE_NODES) {
            namespaces.insert(name, Namespace::new()?);
        }
        let topology = Topology { namespaces };
        let mut commands = BTreeMap::new();
        topology.plan(&mut commands);
        // Links first: a link shows up in two namespaces.
        for (namespace, commands) in &commands {
            topology.namespace(namespace).ip(&commands.links)?;
        }
        for (namespace, commands) in &commands {
            let namespace = topology.namespace(namespace);
            namespace.ip(&commands.addresses)?;
            let interfaces = commands.interfaces.clone();
            within(namespace, move || {
                for interface in &interfaces {
                    turn_offloads_off(interface)?;
                }
                Ok(())
            })?;
        }
        within(topology.namespace(ROUTER), || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })
        .map_err(|error| {
            format!(
                "forwarding cannot be switched on ({error}); where /proc/sys is read-only, as in \
                 containers: {CONTAINER}"
            )
        })?;
        Ok(topology)
    }

    pub fn namespace(&self, name: &str) -> &Namespace {
        self.namespaces.get(name).expect("the name of a namespace that `build` makes")
    }

    fn plan(&self, plan: &mut BTreeMap<&'static str, Commands>) {
        for version in [IpVersion::V4, IpVersion::V6] {
            let all = Addresses(version);
            let pool = if version == IpVersion::V4 { POOL_V4 } else { POOL_V6 };
            self.link(plan, [("enb", "s1u", all.enb_s1u()), ("sgw", "s1u", all.sgw_s1u())]);
            self.link(plan, [("sgw", "s5u", all.sgw_s5u()), ("pgw", "s5u", all.pgw_s5u())]);
            let gms = [
                ("pcscf", "sgi", all.pgw_sgi(), all.pcscf_gm()),
                ("pcscf2", "sgi2", all.second_pgw_sgi(), all.second_pcscf_gm()),
            ];
            for (pcscf, interface, via, gm) in gms {
                self.link(plan, [("pgw", interface, via), (pcscf, "sgi", gm)]);
            }
            self.address(plan, ("enb", "s1u", all.second_enb_s1u()));
            self.address(plan, ("sgw", "s1u", all.second_sgw_s1u()));
            self.address(plan, ("sgw", "s5u", all.second_sgw_s5u()));
            for node in CORE_NODES {
                let ends = [(ROUTER, node, all.router(node)), (node, "core", all.core(node))];
                self.link(plan, ends);
                let via = all.router(node);
                let commands = plan.entry(node).or_default();
                commands.addresses += &format!("route add default via {via} dev core\n");
            }
            // An operator knows the MTU of its access, and need not lose packets to find it out.
            for (pcscf, _, via, _) in gms {
                let commands = plan.entry(pcscf).or_default();
                commands.addresses += &format!("route add {pool} via {via} dev sgi mtu {UE_MTU}\n");
            }
        }
        for commands in plan.values_mut() {
            commands.addresses.insert_str(0, "link set lo up\n");
        }
    }

    /// A veth pair with an address at each end; the second IP version only adds addresses.
    fn link(&self, plan: &mut BTreeMap<&'static str, Commands>, ends: [End; 2]) {
        let [(namespace, interface, address), (peer, peer_interface, _)] = ends;
        if address.is_ipv4() {
            let peer = self.namespace(peer).path();
            plan.entry(namespace).or_default().links += &format!(
                "link add {interface} type veth peer name {peer_interface} netns {}\n",
                peer.display()
            );
        }
        for end in ends {
            let (namespace, interface, address) = end;
            let commands = plan.entry(namespace).or_default();
            if address.is_ipv4() {
                commands.interfaces.push(interface);
                commands.addresses += &format!("link set {interface} up\n");
            }
            self.address(plan, end);
        }
    }

    /// An address of an interface.
    fn address(&self, plan: &mut BTreeMap<&'static str, Commands>, end: End) {
        let (namespace, interface, address) = end;
        // There is nobody to have the same address, and a lab should not wait to find out.
        let (length, flags) = if address.is_ipv4() { (24, "") } else { (64, " nodad") };
        let commands = plan.entry(namespace).or_default();
        commands.addresses += &format!("addr add {address}/{length} dev {interface}{flags}\n");
    }
}

/// One end of a link: namespace, interface, address.
type End = (&'static str, &'static str, IpAddr);

#[derive(Debug, Default)]
struct Commands {
    links: String,
    addresses: String,
    interfaces: Vec<&'static str>,
}

fn within<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> Result<T, String> {
    lte::namespace::within(Some(&namespace.path()), work).map_err(|error| error.to_string())
}

/// Has the kernel compute checksums and cut segments before a link, so that captures show what a
/// wire would carry.
fn turn_offloads_off(interface: &str) -> io::Result<()> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    const ETHTOOL_STXCSUM: u32 = 0x17;
    const ETHTOOL_STSO: u32 = 0x1f;
    const ETHTOOL_SGSO: u32 = 0x24;
    const ETHTOOL_SGRO: u32 = 0x2c;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    for command in [ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO, ETHTOOL_STXCSUM] {
        let mut value = [command, 0];
        // SAFETY: an ifreq of zeros is valid, the name fits with its terminating zero, and `value`
        // outlives the call that reads it.
        let result = unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            for (to, from) in request.ifr_name[..15].iter_mut().zip(interface.bytes()) {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
            libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &mut request)
        };
        // Some kernels have one of these fixed; the others still count.
        if result < 0 && command == ETHTOOL_STXCSUM {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
