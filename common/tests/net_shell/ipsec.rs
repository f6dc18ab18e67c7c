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
        userspace_keeps_sets_over_a_kill();
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
        the_kernel_keeps_sets_over_a_restart();
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

fn configuration(addresses: [&str; 2], ports: [u16; 2], plane: &str) -> String {
    let list = |ports: &[u16]| {
        let ends = addresses.iter().flat_map(|ip| ports.iter().map(move |port| (ip, port)));
        ends.map(|(ip, port)| format!("'{ip}:{port}'")).collect::<Vec<_>>().join(", ")
    };
    format!("udp = [{}]\nprotected = [{}]\nplane = '{plane}'\n", list(&[5060]), list(&ports))
}

fn start_pcscf(plane: &str) -> Running {
    start_pcscf_with(plane, "")
}

fn start_pcscf_with(plane: &str, more: &str) -> Running {
    let folder = folder();
    let file = folder.join("toy.toml");
    let configuration = configuration(["10.9.0.1", "[fd09::1]"], [PORTS.ps, PORTS.pc], plane);
    Running::start_with(
        folder,
        &format!("{configuration}{more}"),
        command(&["--config", file.to_str().unwrap()]),
    )
}

fn start(pcscf_plane: &str, ue_plane: &str) -> Ends {
    let pcscf = start_pcscf(pcscf_plane);
    let ue_folder = folder();
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

    /// The P-CSCF's TUN may go before its connections could say that they end. The UE then hears it when
    /// it next uses its own, by a reset inside ESP, and what it sent is lost: it sends until something
    /// arrives. What the P-CSCF opened is settled by its next SYN.
    fn notice_lost_connections(&self, ue: &str, pcscf: &str) {
        let at = |ip: &str, port| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port).to_string();
        let (uc, ps) = (at(ue, PORTS.uc), at(pcscf, PORTS.ps));
        let again = "OPTIONS sip:again SIP/2.0\r\nContent-Length: 0\r\n\r\n";
        let arrived = || self.pcscf.admin(&["log"]).contains("OPTIONS sip:again ");
        let began = Instant::now();
        while !arrived() {
            assert!(began.elapsed() < PATIENCE, "the UE does not come back");
            self.ue.admin(&["sip", "tcp", &uc, &ps, again]);
            let sent = Instant::now();
            while !arrived() && sent.elapsed() < Duration::from_millis(200) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
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

/// The same in user space: a kill loses no key, repeats no number, and takes no packet twice; what the
/// core does not know goes.
fn userspace_keeps_sets_over_a_kill() {
    println!("restart in user space");
    let state = folder().join("pcscf.sas");
    let more = format!("state = '{}'\n", state.display());
    let install = |end: &Running, side: &str, ends: [&str; 2], number: &str| {
        end.admin(&["install", side, "null", "aes-gcm", ends[0], ends[1], number])
    };
    let (v4, v6) = (["10.9.0.2", "10.9.0.1"], ["fd09::2", "fd09::1"]);
    let mut ends = start("userspace", "userspace");
    ends.pcscf.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(ends.pcscf.wait(), 0);
    ends.pcscf = start_pcscf_with("userspace", &more);
    for (ends_of, number) in [(v4, "2"), (v6, "3")] {
        assert_eq!(install(&ends.pcscf, "pcscf", ends_of, number), "Ok(())");
    }
    assert_eq!(install(&ends.ue, "ue", v4, "2"), "Ok(())");
    for run in 0..3 {
        ends.exchange_one(v4[0], v4[1], 20 + run);
        ends.pcscf.signal(nix::sys::signal::Signal::SIGKILL);
        ends.pcscf.wait();
        ends.pcscf = start_pcscf_with("userspace", &more);
        ends.notice_lost_connections(v4[0], v4[1]);
    }
    ends.exchange_one(v4[0], v4[1], 30);
    let audit = ends.pcscf.admin(&["audit", v4[0], v4[1], "2", "9"]);
    assert!(audit.contains("missing: [SetId(9)]"), "{audit}");
    assert!(audit.contains("associations: 8, policies: 8, stray_associations: 4"), "{audit}");
    assert!(audit.contains("replayed: 0, bad_icv: 0"), "{audit}");
    ends.exchange_one(v4[0], v4[1], 31);
    // The phone has seen every number once.
    let metrics = ends.ue.get("/metrics").unwrap().1;
    assert!(metrics.contains("tessera_ipsec_drops_total{reason=\"replay\"} 0"), "{metrics}");
    // An orderly end keeps them too; a removed set is not in the file.
    ends.pcscf.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(ends.pcscf.wait(), 0);
    ends.pcscf = start_pcscf_with("userspace", &more);
    ends.notice_lost_connections(v4[0], v4[1]);
    ends.exchange_one(v4[0], v4[1], 32);
    ends.pcscf.admin(&["remove", "2"]);
    ends.stop();
    let bytes = std::fs::read(&state).unwrap();
    assert!(!bytes.windows(16).any(|window| window == [2; 16]), "a key is left");
}

/// What other programs have in the kernel: one state and policy of its own, one state with a request
/// id out of our range but without our ports, and an SPI that set 1 would need for port ps.
const FOREIGN: [&str; 4] = [
    "ip xfrm state add src 10.9.0.2 dst 10.9.0.1 proto esp spi 0x9999 reqid 7 mode transport \
     enc cbc(aes) 0x00112233445566778899001122334455",
    "ip xfrm state add src 10.9.0.2 dst 10.9.0.1 proto esp spi 0x9998 reqid 1409286144 mode transport \
     enc cbc(aes) 0x00112233445566778899001122334455",
    "ip xfrm state add src 10.9.0.2 dst 10.9.0.1 proto esp spi 0x1014 mode transport \
     enc cbc(aes) 0x00112233445566778899001122334455",
    "ip xfrm policy add src 10.9.0.77 dst 10.9.0.1 dir in priority 5 tmpl proto esp reqid 7 \
     mode transport",
];

/// States and policies of sets and others, without those that shut ports.
fn objects() -> [usize; 2] {
    [
        output("ip xfrm state").matches("proto esp spi").count(),
        output("ip xfrm policy").matches("tmpl").count(),
    ]
}

/// TS 33.203 §7.4, ipsec.md L-16: sets outlive the process; the next run adopts those that its core
/// knows, and removes what else is its own and nothing of others; what is gone is told.
fn the_kernel_keeps_sets_over_a_restart() {
    println!("restart");
    let install = |end: &Running, side: &str, ends: [&str; 2], number: &str| {
        end.admin(&["install", side, "hmac-sha-1-96", "aes-cbc", ends[0], ends[1], number])
    };
    let (v4, v6) = (["10.9.0.2", "10.9.0.1"], ["fd09::2", "fd09::1"]);
    let mut ends = start("xfrm", "userspace");
    for line in FOREIGN {
        run(line);
    }
    for (ends_of, number) in [(v4, "2"), (v6, "3")] {
        assert_eq!(install(&ends.pcscf, "pcscf", ends_of, number), "Ok(())");
    }
    assert_eq!(install(&ends.ue, "ue", v4, "2"), "Ok(())");
    ends.exchange_one(v4[0], v4[1], 2);
    ends.pcscf.signal(nix::sys::signal::Signal::SIGKILL);
    ends.pcscf.wait();
    assert_eq!(objects(), [8 + 3, 8 + 1]);

    // Set 2 is known to the next run, set 3 is not; 9 is known and nowhere.
    ends.pcscf = start_pcscf("xfrm");
    let audit = ends.pcscf.admin(&["audit", v4[0], v4[1], "2", "9"]);
    assert!(audit.contains("missing: [SetId(9)]"), "{audit}");
    assert!(audit.contains("associations: 8, policies: 8"), "{audit}");
    assert!(audit.contains("stray_associations: 4, stray_policies: 4"), "{audit}");
    assert!(audit.contains("held: [(SetId(2), [Traffic { packets: "), "{audit}");
    assert!(!audit.contains("held: [(SetId(2), [Traffic { packets: 0"), "{audit}");
    assert_eq!(objects(), [4 + 3, 4 + 1]);
    ends.exchange_one(v4[0], v4[1], 2);
    let metrics = ends.pcscf.get("/metrics").unwrap().1;
    assert!(metrics.contains("tessera_ipsec_kernel_states 4"), "{metrics}");
    ends.pcscf.admin(&["remove", "9"]);

    // One state of a set is gone: the set is, and what was left of it.
    run(&format!("ip xfrm state delete src {} dst {} proto esp spi 0x1024", v4[0], v4[1]));
    let audit = ends.pcscf.admin(&["audit", v4[0], v4[1], "2"]);
    assert!(audit.contains("missing: [SetId(2)]"), "{audit}");
    assert_eq!(objects(), [3, 1]);
    ends.pcscf.admin(&["remove", "2"]);

    // The limit of the kernel, set to two seconds from now.
    assert_eq!(install(&ends.pcscf, "pcscf", v4, "4"), "Ok(())");
    ends.pcscf.admin(&["keep", "4", "-8"]);
    ends.pcscf.wait_for("expired 4");
    ends.pcscf.admin(&["remove", "4"]);
    assert_eq!(objects(), [3, 1]);
    // And moved away from there.
    assert_eq!(install(&ends.pcscf, "pcscf", v4, "5"), "Ok(())");
    ends.pcscf.admin(&["keep", "5", "-8"]);
    ends.pcscf.admin(&["keep", "5", "3600"]);
    let states = output("ip -s xfrm state");
    assert!(states.contains("expire add: soft 0(sec), hard 361"), "{states}");
    assert_eq!(objects(), [4 + 3, 4 + 1]);

    // A foreign state in the way is a refusal, a leftover of ours is not.
    let refused = install(&ends.pcscf, "pcscf", v6, "2");
    assert_eq!(refused, "Ok(())");
    ends.pcscf.admin(&["remove", "5"]);
    let refused = install(&ends.pcscf, "pcscf", v4, "1");
    assert!(refused.contains("SPI"), "{refused}");
    assert_eq!(objects(), [4 + 3, 4 + 1]);
    ends.pcscf.signal(nix::sys::signal::Signal::SIGKILL);
    ends.pcscf.wait();
    ends.pcscf = start_pcscf("xfrm");
    assert_eq!(install(&ends.pcscf, "pcscf", v6, "2"), "Ok(())");
    assert_eq!(objects(), [4 + 3, 4 + 1]);

    // An orderly end leaves the sets too; what nobody knows goes with the first audit.
    ends.pcscf.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(ends.pcscf.wait(), 0);
    assert_eq!(objects(), [4 + 3, 4 + 1]);
    assert!(!output("ip xfrm policy").contains("action block"));
    ends.pcscf = start_pcscf("xfrm");
    assert_eq!(output("ip xfrm policy").matches("action block").count(), 4);
    ends.pcscf.admin(&["audit", v4[0], v4[1]]);
    assert_eq!(objects(), [3, 1]);
    ends.stop();
    run("ip xfrm state flush");
    run("ip xfrm policy flush");
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
