//! The process `lte` with real sockets: UEs on its radio socket, GTP-U on port 2152 of the loopback of
//! a network namespace, the P-GW's TUN, commands by its command line, numbers by `/metrics`.
//!
//! Each test runs itself again in namespaces of its own, which needs no root where users may make
//! them; where they may not, or there is no TUN, it says so and passes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use lte::attach::{Attached, IpVersion};
use lte::gtpu::{self, MessageType};
use lte::pcapng::{self, LinkType};
use lte::radio::{self, Message, Record};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};

const INSIDE: &str = "LTE_TEST_INSIDE";
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the test of that name again in a user and a network namespace.
fn in_namespace(name: &str, work: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return work();
    }
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--include-ignored"]).env(INSIDE, "1");
    // SAFETY: the child has one thread, and does nothing but system calls before it becomes the
    // test again.
    unsafe {
        command.pre_exec(move || {
            unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
            maps.iter().try_for_each(|(path, map)| std::fs::write(path, map))
        });
    }
    match command.status() {
        Ok(status) => assert!(status.success(), "{name}: {status}"),
        Err(error) => eprintln!("{name} SKIPPED: no namespaces: {error}"),
    }
}

/// What ends a capture, and what gives its packets then.
type Capture = (mpsc::Sender<()>, std::thread::JoinHandle<Vec<Vec<u8>>>);

/// The running transport, the program that brings UEs, and what passes on the loopback.
struct Lte {
    child: Child,
    directory: PathBuf,
    radio: Socket,
    /// On SGi: the P-GW's own address stands for a P-CSCF.
    pcscf: UdpSocket,
    capture: Option<Capture>,
}

const HTTP: &str = "127.0.0.1:9106";
const GATEWAY: &str = "10.44.0.1";

fn config(directory: &std::path::Path) -> String {
    format!(
        "seed = 7\n[radio]\nsocket = \"{0}/radio.sock\"\n\
         [[enodeb]]\naddress = \"127.0.11.1\"\n[[enodeb]]\naddress = \"127.0.11.3\"\n\
         [[sgw]]\ns1u_address = \"127.0.11.2\"\ns5u_address = \"127.0.12.1\"\n\
         [[sgw]]\ns1u_address = \"127.0.11.4\"\ns5u_address = \"127.0.12.3\"\n\
         [pgw]\naddress = \"127.0.12.2\"\npool_v4 = \"10.44.0.0/14\"\npcscf_v4 = \"{GATEWAY}\"\n\
         [idle]\npaging_cycle_milliseconds = 40\nservice_request_milliseconds = 10\n\
         [limits]\nbearers = 120000\n[http]\nlisten = \"{HTTP}\"\n",
        directory.display()
    )
}

/// `None`: the host has no TUN.
fn start(is_captured: bool) -> Option<Lte> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
        eprintln!("SKIPPED: /dev/net/tun: {error}");
        return None;
    }
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let directory = std::env::temp_dir().join(format!("lte-test-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("lte.toml"), config(&directory)).unwrap();
    let capture = is_captured.then(capture);
    let child = Command::new(env!("CARGO_BIN_EXE_lte"))
        .arg("--config")
        .arg(directory.join("lte.toml"))
        .stderr(Stdio::from(File::create(directory.join("log")).unwrap()))
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while !get("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
        let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(begin.elapsed() < LIMIT, "lte is not ready: {log}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let radio = radio::connect(&directory.join("radio.sock")).unwrap();
    radio.set_read_timeout(Some(LIMIT)).unwrap();
    let pcscf = UdpSocket::bind((GATEWAY, 7007)).unwrap();
    pcscf.set_read_timeout(Some(LIMIT)).unwrap();
    Some(Lte { child, directory, radio, pcscf, capture })
}

impl Drop for Lte {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What leaves on the loopback, as IP packets, until told to end.
fn capture() -> Capture {
    let all = Protocol::from(i32::from(3u16.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(all)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let _ = socket.set_recv_buffer_size(16 << 20);
    let (end, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut packets = Vec::new();
        let mut buffer = [std::mem::MaybeUninit::new(0); 70_000];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                match ended.try_recv() {
                    Err(mpsc::TryRecvError::Empty) => continue,
                    _ => return packets,
                }
            };
            // SAFETY: an address of a packet socket is a sockaddr_ll.
            let kind = unsafe { (*from.as_ptr().cast::<libc::sockaddr_ll>()).sll_pkttype };
            if kind == libc::PACKET_OUTGOING {
                // SAFETY: the buffer was initialised when it was made.
                let packet = buffer[..length].iter().map(|octet| unsafe { octet.assume_init() });
                packets.push(packet.collect());
            }
        }
    });
    (end, thread)
}

fn get(path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(HTTP).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: lte\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The value of one sample.
fn metric(sample: &str) -> f64 {
    let text = get("/metrics").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample}\n{text}")).parse().unwrap()
}

fn until(sample: &str, value: f64) {
    let begin = Instant::now();
    while metric(sample) != value {
        assert!(begin.elapsed() < LIMIT, "{sample} is {} and not {value}", metric(sample));
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Lte {
    /// `lte --config FILE WORDS`.
    fn command(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_lte"))
            .arg("--config")
            .arg(self.directory.join("lte.toml"))
            .args(words)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        match output.status.success() {
            true => Ok(text(output.stdout)),
            false => Err(text(output.stderr)),
        }
    }

    fn send(&self, reference: u32, message: Message<'_>) {
        self.radio.send(&Record { reference, message }.encode()).unwrap();
    }

    /// The next record; the packet of a UE, or what it was told.
    fn receive(&self, buffer: &mut [u8]) -> (u32, Vec<u8>) {
        let length = (&self.radio).read(buffer).unwrap();
        match radio::decode(&buffer[..length]).unwrap() {
            Record { reference, message: Message::Data(packet) } => (reference, packet.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    fn attach(&self, reference: u32, imsi: &str) -> Attached {
        self.send(reference, Message::Attach { version: IpVersion::V4, imsi });
        let mut buffer = vec![0; radio::RECORD_LIMIT];
        let length = (&self.radio).read(&mut buffer).unwrap();
        match radio::decode(&buffer[..length]).unwrap().message {
            Message::Attached(attached) => attached,
            other => panic!("{other:?}"),
        }
    }

    fn uplink(&self, reference: u32, ue: IpAddr, payload: &[u8]) {
        let IpAddr::V4(ue) = ue else { panic!("an IPv4 UE") };
        let gateway: std::net::Ipv4Addr = GATEWAY.parse().unwrap();
        let mut packet = Vec::new();
        PacketBuilder::ipv4(ue.octets(), gateway.octets(), 64)
            .udp(7007, 7007)
            .write(&mut packet, payload)
            .unwrap();
        self.send(reference, Message::Data(&packet));
    }
}

/// The number that a packet carries at its end.
fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[packet.len() - 4..].try_into().unwrap())
}

/// A GTP-U message on the loopback: from, to, what, and the number of a user's packet.
type Hop = (IpAddr, IpAddr, MessageType, Option<u32>);

fn hops(packets: &[Vec<u8>]) -> Vec<Hop> {
    let hops = packets.iter().filter_map(|packet| {
        let sliced = etherparse::SlicedPacket::from_ip(packet).ok()?;
        let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport else { return None };
        if udp.destination_port() != gtpu::PORT {
            return None;
        }
        let inner = lte::inner::read(packet)?;
        let message = gtpu::decode(udp.payload()).ok()?;
        let carried = (message.message_type == MessageType::GPdu).then(|| number(message.payload));
        Some((inner.source, inner.destination, message.message_type, carried))
    });
    hops.collect()
}

/// TS 23.401 §5.5.1.1.2, §5.5.1.1.3, TS 29.281 §7.3.2: under a stream of packets a UE is handed over
/// to another eNodeB, and back with another S-GW. It gets all of them, once and in order; on each
/// hop the End Marker is the last on its path; and tshark reads it so, too.
#[test]
fn handover_under_traffic() {
    in_namespace("handover_under_traffic", || {
        let Some(mut lte) = start(true) else { return };
        let imsi = "001010000000004";
        let attached = lte.attach(1, imsi);
        let place = lte.command(&["ue", imsi]).unwrap();
        assert!(place.contains("cell enb1 enodeb enb1 sgw sgw1"), "{place}");
        let ue = SocketAddr::new(attached.address, 7007);
        let pcscf = lte.pcscf.try_clone().unwrap();
        let (stop, stopped) = mpsc::channel::<()>();
        let sender = std::thread::spawn(move || {
            let mut sent = 0u32;
            while let Err(mpsc::RecvTimeoutError::Timeout) =
                stopped.recv_timeout(Duration::from_millis(1))
            {
                pcscf.send_to(&sent.to_be_bytes(), ue).unwrap();
                sent += 1;
            }
            sent
        });
        let completed = "tessera_lte_handovers_total{kind=\"x2\",result=\"completed\"}";
        lte.command(&["handover", imsi, "enb2", "gap", "60"]).unwrap();
        until(completed, 1.0);
        let changed = "tessera_lte_handovers_total{kind=\"s-gw-change\",result=\"completed\"}";
        lte.command(&["handover", imsi, "enb1", "sgw", "sgw2", "gap", "40"]).unwrap();
        until(changed, 1.0);
        let (sgw1, left) =
            ("tessera_lte_bearers{node=\"sgw1\"}", "tessera_lte_bearers{node=\"enb2\"}");
        until(sgw1, 0.0);
        until(left, 0.0);
        drop(stop);
        let sent = sender.join().unwrap();
        let mut buffer = vec![0; radio::RECORD_LIMIT];
        let got: Vec<u32> = (0..sent).map(|_| number(&lte.receive(&mut buffer).1)).collect();
        assert_eq!(got, (0..sent).collect::<Vec<_>>());
        lte.uplink(1, attached.address, b"up");
        let (length, from) = lte.pcscf.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"up"[..], ue));
        assert!(metric("tessera_lte_x2_forwarded_packets_total{node=\"enb1\"}") > 0.0);
        assert_eq!(metric("tessera_lte_end_markers_missed_total"), 0.0);
        let error = lte.command(&["handover", imsi, "enb9"]).unwrap_err();
        assert!(error.contains("there is no cell enb9"), "{error}");

        let (end, thread) = lte.capture.take().unwrap();
        drop(end);
        let packets = thread.join().unwrap();
        let all = hops(&packets);
        let markers: Vec<_> = all
            .iter()
            .filter(|(.., what, _)| *what == MessageType::EndMarker)
            .map(|(from, to, ..)| format!("{from}>{to}"))
            .collect();
        let [enb1, enb2] = ["127.0.11.1", "127.0.11.3"];
        let expected = [
            format!("127.0.11.2>{enb1}"),
            format!("{enb1}>{enb2}"),
            "127.0.12.2>127.0.12.1".into(),
            format!("127.0.11.2>{enb2}"),
            format!("{enb2}>{enb1}"),
        ];
        assert_eq!(markers, expected);
        // Nothing follows an End Marker on its path.
        let mut ended = BTreeMap::new();
        for (from, to, what, carried) in &all {
            match what {
                MessageType::EndMarker => drop(ended.insert((*from, *to), true)),
                MessageType::GPdu => {
                    assert!(!ended.contains_key(&(*from, *to)), "{from}>{to} {carried:?}");
                }
                _ => {}
            }
        }
        tshark_agrees(&lte.directory, &packets, &expected);
    });
}

/// The same order, as somebody else reads it.
fn tshark_agrees(directory: &std::path::Path, packets: &[Vec<u8>], markers: &[String]) {
    let path = directory.join("lo.pcapng");
    let mut writer = pcapng::Writer::new(File::create(&path).unwrap()).unwrap();
    let interface = writer.interface("lo", LinkType::RawIp).unwrap();
    for (number, packet) in packets.iter().enumerate() {
        let time = Duration::from_micros(number as u64);
        writer.packet(interface, time, pcapng::Direction::Outbound, packet).unwrap();
    }
    let read = |filter: &str| {
        let fields = ["-T", "fields", "-E", "occurrence=f", "-e", "ip.src", "-e", "ip.dst"];
        let mut tshark = Command::new("tshark");
        tshark.env("HOME", directory).arg("-n").arg("-r").arg(&path).args(["-Y", filter]);
        let output = tshark.args(fields).output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        Some(text.lines().map(|line| line.replace('\t', ">")).collect::<Vec<_>>())
    };
    let Some(found) = read("gtp.message == 0xfe") else {
        return eprintln!("tshark is not here: the capture was read by ourselves alone");
    };
    assert_eq!(found, markers);
    assert_eq!(read("udp.port == 2152 && _ws.malformed").unwrap(), Vec::<String>::new());
}

/// TS 23.401 §5.3.4.3: a script puts the UE to sleep, a packet from the network wakes it; a cell goes
/// off the air for a while, and what is sent afterwards passes.
#[test]
fn script_of_radio_events() {
    in_namespace("script_of_radio_events", || {
        let Some(lte) = start(false) else { return };
        let imsi = "001010000000004";
        let attached = lte.attach(1, imsi);
        let script = lte.directory.join("script.toml");
        let idle = "[[event]]\nat_seconds = 0.01\ndo = \"idle\"\nue = \"*\"\n";
        std::fs::write(&script, idle).unwrap();
        let answer = lte.command(&["script", script.to_str().unwrap()]).unwrap();
        assert_eq!(answer, "script: 1 events\n");
        until("tessera_lte_ues{state=\"idle\"}", 1.0);
        let ue = SocketAddr::new(attached.address, 7007);
        for n in 0..5u32 {
            lte.pcscf.send_to(&n.to_be_bytes(), ue).unwrap();
        }
        let mut buffer = vec![0; radio::RECORD_LIMIT];
        let got: Vec<u32> = (0..5).map(|_| number(&lte.receive(&mut buffer).1)).collect();
        assert_eq!(got, [0, 1, 2, 3, 4]);
        assert_eq!(metric("tessera_lte_pages_total{result=\"answered\"}"), 1.0);
        assert_eq!(metric("tessera_lte_waited_packets_total{node=\"sgw1\"}"), 5.0);

        lte.command(&["outage", "enb1", "for", "0.3"]).unwrap();
        assert_eq!(metric("tessera_lte_cell_up{cell=\"enb1\"}"), 0.0);
        lte.uplink(1, attached.address, b"lost");
        until("tessera_lte_radio_packets_total{direction=\"up\",outcome=\"outage\"}", 1.0);
        until("tessera_lte_cell_up{cell=\"enb1\"}", 1.0);
        lte.uplink(1, attached.address, b"back");
        let (length, _) = lte.pcscf.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"back");
        // The network forgets the session: the UE is told, and attaches again.
        lte.command(&["detach", imsi]).unwrap();
        let length = (&lte.radio).read(&mut buffer).unwrap();
        let told = radio::decode(&buffer[..length]).unwrap().message;
        assert!(matches!(told, Message::Detached { .. }), "{told:?}");
        lte.attach(1, imsi);
    });
}

/// 100,000 bearers over one connection: memory, attaches per second, packets per second each way.
/// Prints figures; what it asserts is that every UE attaches and no packet is lost.
#[test]
#[ignore = "a measurement: cargo test --release -p lte --test program -- --ignored --nocapture"]
fn hundred_thousand_bearers() {
    in_namespace("hundred_thousand_bearers", || {
        let Some(lte) = start(false) else { return };
        let ues: u32 =
            std::env::var("LTE_TEST_UES").map_or(100_000, |count| count.parse().unwrap());
        let memory = || metric("process_resident_memory_bytes");
        let cpu = || metric("process_cpu_seconds_total");
        let empty = memory();
        let begin = Instant::now();
        let writer = lte.radio.try_clone().unwrap();
        let attaching = std::thread::spawn(move || {
            for reference in 0..ues {
                let imsi = format!("00101{:010}", reference + 1);
                let message = Message::Attach { version: IpVersion::V4, imsi: &imsi };
                writer.send(&Record { reference, message }.encode()).unwrap();
            }
        });
        let mut buffer = vec![0; radio::RECORD_LIMIT];
        let mut addresses = vec![None; ues as usize];
        for _ in 0..ues {
            let length = (&lte.radio).read(&mut buffer).unwrap();
            let record = radio::decode(&buffer[..length]).unwrap();
            let Message::Attached(attached) = record.message else { panic!("{record:?}") };
            addresses[record.reference as usize] = Some(attached.address);
        }
        attaching.join().unwrap();
        let took = begin.elapsed().as_secs_f64();
        let addresses: Vec<IpAddr> = addresses.into_iter().flatten().collect();
        assert_eq!(addresses.len(), ues as usize);
        let per_ue = (memory() - empty) / f64::from(ues);
        println!("attach: {ues} in {took:.2} s, {:.0} a second", f64::from(ues) / took);
        println!("memory: {:.1} MB in all, {per_ue:.0} octets a bearer", memory() / 1e6);

        // So many at once as fit every socket on the way.
        const WINDOW: u32 = 64;
        const ROUNDS: u32 = 3_000;
        let payload = [0x55u8; 600];
        let (begin, cpu_before) = (Instant::now(), cpu());
        for round in 0..ROUNDS {
            for n in 0..WINDOW {
                let ue = (round * WINDOW + n).wrapping_mul(7_919) % ues;
                lte.uplink(ue, addresses[ue as usize], &payload);
            }
            for _ in 0..WINDOW {
                lte.pcscf.recv_from(&mut buffer).unwrap();
            }
        }
        report("uplink", WINDOW * ROUNDS, begin, cpu() - cpu_before);
        let (begin, cpu_before) = (Instant::now(), cpu());
        for round in 0..ROUNDS {
            for n in 0..WINDOW {
                let ue = (round * WINDOW + n).wrapping_mul(7_919) % ues;
                lte.pcscf.send_to(&payload, (addresses[ue as usize], 7007)).unwrap();
            }
            for _ in 0..WINDOW {
                lte.receive(&mut buffer);
            }
        }
        report("downlink", WINDOW * ROUNDS, begin, cpu() - cpu_before);
        let begin = Instant::now();
        lte.command(&["handover", "in:enb1", "enb2", "gap", "0"]).unwrap();
        until("tessera_lte_cell_ues{cell=\"enb1\"}", 0.0);
        println!("handover of one cell, {} UEs: {:.2} s", ues / 2, begin.elapsed().as_secs_f64());
    });
}

fn report(direction: &str, packets: u32, begin: Instant, cpu_seconds: f64) {
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{direction}: {packets} packets of 628 octets in {seconds:.2} s, {:.0} a second, \
         {:.1} us of CPU each",
        f64::from(packets) / seconds,
        cpu_seconds / f64::from(packets) * 1e6
    );
}
