//! Both data planes of IPsec between two daemons in two network namespaces, over IPv4 and IPv6, UDP
//! and TCP (TS 33.203 §7.1).
//!
//! The user-space plane needs unprivileged user namespaces and iproute2, else the test says `skipped`.
//! XFRM needs a kernel with ESP, such as `tests/lab/esp-kernel.sh -- COMMAND` gives;
//! there, besides, one end in the kernel speaks with one end in user space, so that each ESP is
//! checked by the other.
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::toy::{PATIENCE, PORTS, Running, command, folder};

const INSIDE: &str = "TESSERA_INSIDE_NAMESPACE";
const PAIRS: [(&str, &str); 6] = [
    ("hmac-sha-1-96", "null"),
    ("hmac-sha-1-96", "aes-cbc"),
    ("hmac-md5-96", "des-ede3-cbc"),
    ("hmac-md5-96", "aes-cbc"),
    ("aes-gmac", "null"),
    ("null", "aes-gcm"),
];

#[test]
fn userspace_carries_all_algorithms_both_ways() {
    in_namespaces("ipsec::userspace_carries_all_algorithms_both_ways", || {
        set_up_links();
        auto_takes_one_and_check_says_which();
        exchange("userspace", "userspace");
    });
}

#[test]
fn xfrm_carries_all_algorithms_both_ways_and_agrees_with_userspace() {
    if std::env::var_os("TESSERA_ESP_KERNEL").is_none() {
        return println!(
            "skipped: no TESSERA_ESP_KERNEL in the environment, the kernel may lack ESP"
        );
    }
    in_namespaces("ipsec::xfrm_carries_all_algorithms_both_ways_and_agrees_with_userspace", || {
        set_up_links();
        exchange("xfrm", "xfrm");
        exchange("xfrm", "userspace");
        exchange("userspace", "xfrm");
        leftovers_are_removed_and_a_taken_spi_is_refused();
    });
}

/// Runs the named test again inside new user, network and mount namespaces.
fn in_namespaces(test: &str, inside: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let can = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !can(&["unshare", "-Urnm", "ip", "tuntap", "add", "mode", "tun"]) {
        return println!("skipped: no user namespaces, no iproute2 or no TUN");
    }
    let status = Command::new("unshare")
        .arg("-Urnm")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "yes")
        .status()
        .unwrap();
    assert!(status.success());
}

fn run(line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn output(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn set_up_links() {
    for line in [
        "mount -t tmpfs tmpfs /run",
        "ip link set lo up",
        "ip netns add ue",
        "ip link add gm type veth peer name ue netns ue",
        "ip addr add 10.9.0.1/24 dev gm",
        "ip addr add fd09::1/64 dev gm nodad",
        "ip link set gm up",
        "ip -n ue addr add 10.9.0.2/24 dev ue",
        "ip -n ue addr add fd09::2/64 dev ue nodad",
        "ip -n ue link set lo up",
        "ip -n ue link set ue up",
    ] {
        run(line);
    }
}

struct Ends {
    pcscf: Running,
    ue: Running,
}

fn start(pcscf_plane: &str, ue_plane: &str) -> Ends {
    let configuration = |addresses: [&str; 2], ports: [u16; 2], plane: &str| {
        let list = |ports: &[u16]| {
            let ends = addresses.iter().flat_map(|ip| ports.iter().map(move |port| (ip, port)));
            ends.map(|(ip, port)| format!("'{ip}:{port}'")).collect::<Vec<_>>().join(", ")
        };
        format!("udp = [{}]\nprotected = [{}]\nplane = '{plane}'\n", list(&[5060]), list(&ports))
    };
    let (pcscf_folder, ue_folder) = (folder(), folder());
    let pcscf_file = pcscf_folder.join("toy.toml");
    let pcscf = Running::start_with(
        pcscf_folder,
        &configuration(["10.9.0.1", "[fd09::1]"], [PORTS.ps, PORTS.pc], pcscf_plane),
        command(&["--config", pcscf_file.to_str().unwrap()]),
    );
    let ue_file = ue_folder.join("toy.toml");
    let plain = command(&["--config", ue_file.to_str().unwrap()]);
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", "ue"]).arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => inside.env(name, value),
            None => inside.env_remove(name),
        };
    }
    inside.stdin(Stdio::null());
    let ue = Running::start_with(
        ue_folder,
        &configuration(["10.9.0.2", "[fd09::2]"], [PORTS.us, PORTS.uc], ue_plane),
        inside,
    );
    Ends { pcscf, ue }
}

fn auto_takes_one_and_check_says_which() {
    let folder = folder();
    let file = folder.join("toy.toml");
    let words = ["--config", file.to_str().unwrap()];
    let configuration = "protected = ['10.9.0.1:5063', '[fd09::1]:5063']\nplane = 'auto'\n";
    std::fs::write(&file, format!("udp = ['10.9.0.1:5060']\n{configuration}[http]\n")).unwrap();
    let output = command(&[&words[..], &["--check"]].concat()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let taken = if text.contains("ipsec.plane: xfrm") { "xfrm" } else { "userspace" };
    assert!(text.contains(&format!("ipsec.plane: {taken}, because the kernel has")), "{text}");
    let mut running = Running::start_with(folder, configuration, command(&words));
    let metrics = running.get("/metrics").unwrap().1;
    assert!(metrics.contains(&format!("tessera_ipsec_plane{{plane=\"{taken}\"}} 1")), "{metrics}");
    running.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(running.wait(), 0);
}

fn exchange(pcscf_plane: &str, ue_plane: &str) {
    println!("P-CSCF {pcscf_plane}, UE {ue_plane}");
    let mut ends = start(pcscf_plane, ue_plane);
    let wire = Wire::open();
    let mut number = 0;
    for (ue, pcscf) in [("10.9.0.2", "10.9.0.1"), ("fd09::2", "fd09::1")] {
        for (alg, ealg) in PAIRS {
            number += 1;
            println!("{ue} {alg} {ealg}");
            let words = [alg, ealg, ue, pcscf, &number.to_string()];
            for (side, end) in [("pcscf", &ends.pcscf), ("ue", &ends.ue)] {
                let installed = end.admin(&[&["install", side], &words[..]].concat());
                assert_eq!(installed, "Ok(())");
            }
            ends.exchange_one(ue, pcscf, number);
            ends.remove(ue, pcscf, number);
        }
    }
    wire.check();
    ends.check_clear_text();
    let metrics = ends.pcscf.get("/metrics").unwrap().1;
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name} ")));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value(&format!("tessera_ipsec_plane{{plane=\"{pcscf_plane}\"}}")), 1.0);
    assert_eq!(value("tessera_ipsec_sets"), 0.0);
    for direction in ["in", "out"] {
        let name = format!("tessera_ipsec_packets_total{{direction=\"{direction}\"}}");
        assert!(value(&name) >= 5.0 * number as f64, "{metrics}");
    }
    // The datagrams that came too late.
    let late = match pcscf_plane {
        "xfrm" => "tessera_ipsec_kernel_errors_total{reason=\"XfrmInNoStates\"}",
        _ => "tessera_ipsec_drops_total{reason=\"unknown_spi\"}",
    };
    assert!(value(late) >= number as f64, "{metrics}");
    ends.stop();
    assert_eq!(output("ip xfrm state"), "");
    assert_eq!(output("ip xfrm policy"), "");
    assert!(!output("ip rule").contains("tessera"), "{}", output("ip rule"));
}

impl Ends {
    fn exchange_one(&self, ue: &str, pcscf: &str, number: u64) {
        let at = |ip: &str, port| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port).to_string();
        let (uc, us) = (at(ue, PORTS.uc), at(ue, PORTS.us));
        let (pc, ps) = (at(pcscf, PORTS.pc), at(pcscf, PORTS.ps));
        let big = format!("big{number} {}", "x".repeat(4_000));
        for text in [&format!("hello{number}"), &big] {
            let first: String = text.chars().take(20).collect();
            self.ue.admin(&["sip", "udp", &uc, &ps, text]);
            self.pcscf.wait_for(&format!("sip UDP {ps} {uc} {first}"));
            self.pcscf.admin(&["sip", "udp", &pc, &us, text]);
            self.ue.wait_for(&format!("sip UDP {us} {pc} {first}"));
        }
        // TCP: opened by the UE and answered on the connection, then opened by the P-CSCF.
        let message = |word: &str| {
            let filler = "y".repeat(3_000);
            format!(
                "OPTIONS sip:{word}{number} SIP/2.0\r\nFiller: {filler}\r\n\
                 Content-Length: 0\r\n\r\n"
            )
        };
        self.ue.admin(&["sip", "tcp", &uc, &ps, &message("echo")]);
        self.pcscf.wait_for(&format!("sip TCP {ps} {uc} OPTIONS sip:echo{number} "));
        self.ue.wait_for(&format!("sip TCP {uc} {ps} OPTIONS sip:echo{number} "));
        self.pcscf.admin(&["sip", "tcp", &pc, &us, &message("own")]);
        self.ue.wait_for(&format!("sip TCP {us} {pc} OPTIONS sip:own{number} "));
    }

    /// The connections go with the associations, and a UE that still has its own gets nothing through.
    fn remove(&self, ue: &str, pcscf: &str, number: u64) {
        let at = |ip: &str, port| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port).to_string();
        let (uc, ps) = (at(ue, PORTS.uc), at(pcscf, PORTS.ps));
        let number_text = number.to_string();
        let remove = |end: &Running| {
            end.admin(&["remove", &number_text]);
            let began = Instant::now();
            let has_open = || {
                let metrics = end.get("/metrics").unwrap().1;
                !metrics.lines().any(|line| line == "tessera_shell_sip_connections 0")
            };
            while has_open() {
                assert!(began.elapsed() < PATIENCE, "connections stay");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        remove(&self.pcscf);
        self.ue.admin(&["sip", "udp", &uc, &ps, &format!("late{number}")]);
        std::thread::sleep(Duration::from_millis(30));
        let log = self.pcscf.admin(&["log"]);
        assert!(!log.contains(&format!("late{number}")), "{log}");
        remove(&self.ue);
    }

    /// Clear text to a protected port is dropped, to the unprotected one it is not.
    fn check_clear_text(&self) {
        for (ue, pcscf) in [("10.9.0.2", "10.9.0.1"), ("[fd09::2]", "[fd09::1]")] {
            let (from, open) = (format!("{ue}:5060"), format!("{pcscf}:5060"));
            for port in [PORTS.ps, PORTS.pc] {
                let protected = format!("{pcscf}:{port}");
                self.ue.admin(&["sip", "udp", &from, &protected, "clear text"]);
            }
            self.ue.admin(&["sip", "udp", &from, &open, "in the open"]);
            self.pcscf.wait_for(&format!("sip UDP {open} {from} in the open"));
        }
        std::thread::sleep(Duration::from_millis(50));
        let log = self.pcscf.admin(&["log"]);
        assert!(!log.contains("clear text"), "{log}");
    }

    fn stop(&mut self) {
        for end in [&mut self.pcscf, &mut self.ue] {
            end.signal(nix::sys::signal::Signal::SIGTERM);
            assert_eq!(end.wait(), 0);
        }
    }
}

/// After a kill the kernel still holds the set; the next run removes it, and only what is ours.
fn leftovers_are_removed_and_a_taken_spi_is_refused() {
    println!("leftovers");
    let foreign = "ip xfrm state add src 10.9.0.2 dst 10.9.0.1 proto esp spi 0x1014 mode transport \
                   enc cbc(aes) 0x00112233445566778899001122334455";
    let install = |end: &Running, number: &str| {
        end.admin(&["install", "pcscf", "hmac-md5-96", "null", "10.9.0.2", "10.9.0.1", number])
    };
    let mut ends = start("xfrm", "xfrm");
    assert_eq!(install(&ends.pcscf, "2"), "Ok(())");
    ends.pcscf.signal(nix::sys::signal::Signal::SIGKILL);
    ends.pcscf.wait();
    assert_eq!(output("ip xfrm state").matches("proto esp").count(), 4);
    // 0x1014 is the inbound SPI of set 1, on port ps.
    run(foreign);
    drop(ends);
    let mut ends = start("xfrm", "xfrm");
    assert_eq!(output("ip xfrm state").matches("proto esp").count(), 1);
    let refused = install(&ends.pcscf, "1");
    assert!(refused.contains("SPI"), "{refused}");
    assert_eq!(output("ip xfrm state").matches("proto esp").count(), 1);
    let policies = output("ip xfrm policy");
    assert!(!policies.contains("tmpl"), "{policies}");
    assert_eq!(policies.matches("action block").count(), 4, "{policies}");
    assert_eq!(install(&ends.pcscf, "2"), "Ok(())");
    let metrics = ends.pcscf.get("/metrics").unwrap().1;
    assert!(metrics.contains("tessera_ipsec_kernel_states 4"), "{metrics}");
    ends.stop();
    assert_eq!(output("ip xfrm state").matches("proto esp").count(), 1);
}

/// Listens on the link between the two and looks for clear text of protected ports.
struct Wire {
    socket: socket2::Socket,
}

impl Wire {
    fn open() -> Wire {
        use std::os::fd::AsRawFd;
        const EVERYTHING: u16 = 0x0003;
        // Without a protocol it hears nothing until it is bound; with one it would hear every link.
        let (domain, kind) = (socket2::Domain::PACKET, socket2::Type::DGRAM);
        let socket = socket2::Socket::new(domain, kind, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.set_recv_buffer_size(8 * 1024 * 1024).unwrap();
        let link = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: EVERYTHING.to_be(),
            sll_ifindex: nix::net::if_::if_nametoindex("gm").unwrap() as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the descriptor is open and the address outlives the call.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const link).cast(), length) };
        assert_eq!(bound, 0);
        Wire { socket }
    }

    fn check(self) {
        use std::io::Read;
        let mut buffer = [0; 65_536];
        let mut sealed = 0;
        while let Ok(count) = (&self.socket).read(&mut buffer) {
            let packet = &buffer[..count];
            let (protocol, header) = match packet[0] >> 4 {
                4 => (packet[9], 20),
                6 => (packet[6], 40),
                _ => continue,
            };
            match protocol {
                50 | 44 => sealed += 1,
                6 | 17 => panic!("clear text on the link: {:02x?}", &packet[..header + 4]),
                _ => {}
            }
        }
        assert!(sealed > 100, "only {sealed} packets of ESP");
    }
}
