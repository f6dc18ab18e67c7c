//! Each test starts the daemon as a process of its own and drives it through `/admin`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::toy::{PATIENCE, Running, command, folder, free_address};

fn udp_client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 65_536];
    let (count, from) = socket.recv_from(&mut buffer).unwrap();
    (String::from_utf8_lossy(&buffer[..count]).into_owned(), from)
}

fn message(word: &str) -> String {
    format!(
        "OPTIONS sip:{word} SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK{word}\r\n\
         Content-Length: 4\r\n\r\nbody"
    )
}

fn read_text(stream: &mut TcpStream, count: usize) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = vec![0; count];
    stream.read_exact(&mut buffer).unwrap();
    String::from_utf8(buffer).unwrap()
}

// ---- tests ----

#[test]
fn udp_goes_in_and_out_in_order() {
    let address = free_address();
    let toy = Running::start(&format!("udp = ['{address}']"));
    let client = udp_client();
    for number in 0..200 {
        client.send_to(format!("echo {number}").as_bytes(), address).unwrap();
        if number % 20 == 19 {
            for expected in number - 19..=number {
                assert_eq!(receive(&client), (format!("echo {expected}"), address));
            }
        }
    }
    let big = format!("echo {}", "x".repeat(60_000));
    client.send_to(big.as_bytes(), address).unwrap();
    assert_eq!(receive(&client).0, big);
    let local = client.local_addr().unwrap();
    toy.wait_for(&format!("sip UDP {address} {local} echo 199"));
}

#[test]
fn a_wildcard_socket_tells_and_uses_the_real_address() {
    let port = free_address().port();
    let toy = Running::start(&format!("udp = ['0.0.0.0:{port}']"));
    let client = udp_client();
    let address: SocketAddr = format!("127.0.0.2:{port}").parse().unwrap();
    client.send_to(b"echo", address).unwrap();
    assert_eq!(receive(&client), ("echo".to_owned(), address));
    toy.wait_for(&format!("sip UDP {address} "));
}

/// RFC 3261 §18.4: an ICMP error reaches the core with the flow that caused it.
#[test]
fn udp_to_nobody_is_unreachable() {
    let address = free_address();
    let toy = Running::start(&format!("udp = ['{address}']"));
    let nobody = free_address();
    toy.admin(&["sip", "udp", &address.to_string(), &nobody.to_string(), "hello"]);
    toy.wait_for(&format!("unreachable UDP {address} {nobody}"));
    // The socket goes on.
    let client = udp_client();
    client.send_to(b"echo", address).unwrap();
    assert_eq!(receive(&client).0, "echo");
}

#[test]
fn tcp_messages_are_cut_and_answered_on_their_connection() {
    let address = free_address();
    let toy = Running::start(&format!("tcp = ['{address}']"));
    let mut client = TcpStream::connect(address).unwrap();
    let local = client.local_addr().unwrap();
    let (one, two) = (message("echo1"), message("echo2"));
    let both = format!("{one}{two}");
    client.write_all(&both.as_bytes()[..one.len() + 10]).unwrap();
    assert_eq!(read_text(&mut client, one.len()), one);
    client.write_all(&both.as_bytes()[one.len() + 10..]).unwrap();
    assert_eq!(read_text(&mut client, two.len()), two);
    // The core's own request finds the connection, whatever its local port.
    let any = SocketAddr::new(address.ip(), 0).to_string();
    let request = message("own");
    toy.admin(&["sip", "tcp", &any, &local.to_string(), &request]);
    assert_eq!(read_text(&mut client, request.len()), request);
    // RFC 5626 §4.4.1: a keep-alive is answered.
    client.write_all(b"\r\n\r\n").unwrap();
    assert_eq!(read_text(&mut client, 2), "\r\n");
    // RFC 3261 §18.3: without Content-Length a stream cannot be cut: 400, and the end.
    let broken = "OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\n\
                  From: <sip:a@a>;tag=1\r\nTo: <sip:b@a>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n\r\n";
    client.write_all(broken.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("SIP/2.0 400 "), "{answer}");
    assert!(answer.contains(";tag="), "{answer}");
}

#[test]
fn tcp_connections_are_opened_from_the_port_of_the_flow() {
    let (address, from) = (free_address(), free_address());
    let toy = Running::start(&format!("tcp = ['{address}']"));
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = server.local_addr().unwrap();
    let (from_text, remote_text) = (from.to_string(), remote.to_string());
    for word in ["first", "second"] {
        toy.admin(&["sip", "tcp", &from_text, &remote_text, &message(word)]);
    }
    let (mut stream, peer) = server.accept().unwrap();
    assert_eq!(peer, from);
    let both = message("first") + &message("second");
    assert_eq!(read_text(&mut stream, both.len()), both);
    stream.write_all(message("echo").as_bytes()).unwrap();
    assert_eq!(read_text(&mut stream, message("echo").len()), message("echo"));
    toy.wait_for(&format!("sip TCP {from} {remote} OPTIONS sip:echo"));
    // The listening port serves as a local port as well.
    toy.admin(&["sip", "tcp", &address.to_string(), &remote_text, &message("third")]);
    let (mut other, peer) = server.accept().unwrap();
    assert_eq!(peer, address);
    assert_eq!(read_text(&mut other, message("third").len()), message("third"));
    // The peer closes what it has read.
    drop(stream);
    toy.wait_for(&format!("ended TCP {from} {remote}"));
    // The peer goes with something unread: the connection is reset, and what was sent on it may be lost.
    toy.admin(&["sip", "tcp", &address.to_string(), &remote_text, &message("unread")]);
    assert_eq!(other.peek(&mut [0; 1]).unwrap(), 1);
    drop(other);
    toy.wait_for(&format!("unreachable TCP {address} {remote}"));
    // Nobody listens any more.
    drop(server);
    let any = "127.0.0.1:0";
    toy.admin(&["sip", "tcp", any, &remote_text, &message("fourth")]);
    toy.wait_for(&format!("unreachable TCP {any} {remote}"));
}

#[test]
fn tcp_connections_have_a_limit() {
    let address = free_address();
    let limits = "[limits]\nsip_connections = 2\n";
    let toy = Running::start(&format!("tcp = ['{address}']\n{limits}"));
    let open: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
    for mut stream in &open {
        stream.write_all(message("echo").as_bytes()).unwrap();
        let mut answer = vec![0; message("echo").len()];
        stream.read_exact(&mut answer).unwrap();
    }
    let mut third = TcpStream::connect(address).unwrap();
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(third.read(&mut [0; 1]).unwrap_or(0), 0);
    let (_, metrics) = toy.get("/metrics").unwrap();
    assert!(metrics.contains("tessera_shell_refused_connections_total 1"), "{metrics}");
    assert!(metrics.contains("tessera_shell_sip_connections 2"), "{metrics}");
}

/// Near the limit, those that have been idle longest make room: nobody is refused.
#[test]
fn idle_connections_make_room() {
    let address = free_address();
    let limits = "[limits]\nsip_connections = 2\nsip_connection_idle_seconds = 0\n";
    let toy = Running::start(&format!("tcp = ['{address}']\n{limits}"));
    let mut open: Vec<TcpStream> = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(message("echo").as_bytes()).unwrap();
        let mut answer = vec![0; message("echo").len()];
        stream.read_exact(&mut answer).unwrap();
        open.push(stream);
    }
    assert_eq!(open[0].read(&mut [0; 1]).unwrap(), 0, "the first is closed in order");
    let (_, metrics) = toy.get("/metrics").unwrap();
    assert!(metrics.contains("tessera_shell_refused_connections_total 0"), "{metrics}");
    assert!(metrics.contains("tessera_shell_idle_connections_closed_total 1"), "{metrics}");
    // The second is still there.
    open[1].write_all(message("echo").as_bytes()).unwrap();
    let mut answer = vec![0; message("echo").len()];
    open[1].read_exact(&mut answer).unwrap();
}

fn diameter_message(fill: u8, bytes: u8) -> Vec<u8> {
    let mut message = vec![fill; bytes.into()];
    message[..4].copy_from_slice(&[1, 0, 0, bytes]);
    message
}

/// RFC 6733 §2.1, §3: both sides open connections; messages are cut at their length.
#[test]
fn diameter_connections_are_numbered_and_cut() {
    let address = free_address();
    let toy = Running::start(&format!("diameter = '{address}'"));
    let mut client = TcpStream::connect(address).unwrap();
    toy.wait_for(&format!("opened 1 None {}", client.local_addr().unwrap()));
    let sent = [diameter_message(7, 20), diameter_message(8, 44)].concat();
    client.write_all(&sent[..30]).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    client.write_all(&sent[30..]).unwrap();
    let mut echo = vec![0; sent.len()];
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_exact(&mut echo).unwrap();
    assert_eq!(echo, sent);
    drop(client);
    toy.wait_for("closed 1");

    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    toy.admin(&["connect", "localhost", &port.to_string()]);
    let (mut stream, _) = server.accept().unwrap();
    toy.wait_for("opened 2 Some(7)");
    toy.admin(&["diameter", "2", &hex::encode(diameter_message(9, 24))]);
    let mut got = [0; 24];
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got[..], diameter_message(9, 24));
    toy.admin(&["close", "2"]);
    assert_eq!(stream.read(&mut got).unwrap(), 0);
    toy.wait_for("closed 2");

    drop(server);
    toy.admin(&["connect", "127.0.0.1", &port.to_string()]);
    toy.wait_for("failed 7");
    // What is not Diameter is shown the door.
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut got).unwrap_or(0), 0);
    toy.wait_for("closed 3");
}

#[test]
fn rows_survive_kill_and_sqlite_reads_them() {
    let folder = folder();
    let path = folder.join("state.db");
    let configuration = format!("store = '{}'", path.display());
    let mut toy = Running::start_in(folder.clone(), &configuration);
    toy.admin(&["persist", "a", "1"]);
    toy.admin(&["persist", "b", "2"]);
    toy.admin(&["persist", "a", "3"]);
    toy.admin(&["forget", "b"]);
    // Answered means stored: kill -9 must not matter.
    toy.signal(nix::sys::signal::Signal::SIGKILL);
    toy.wait();
    let toy = Running::start_in(folder.clone(), &configuration);
    assert_eq!(toy.admin(&["rows"]), "{\"a\": \"3\"}");
    let database = rusqlite::Connection::open(&path).unwrap();
    let value: String = database
        .query_row("SELECT value FROM state WHERE kind = 'toy' AND key = 'a'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(value, "3");
}

#[test]
fn a_store_that_fails_ends_the_process() {
    let folder = folder();
    let path = folder.join("state.db");
    let mut toy = Running::start_in(folder.clone(), &format!("store = '{}'", path.display()));
    toy.admin(&["persist", "a", "1"]);
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute_batch("DROP TABLE state").unwrap();
    assert!(toy.request("POST /admin", "persist b 2").is_none_or(|(status, _)| status == 503));
    assert_eq!(toy.wait(), 1);
}

#[test]
fn timers_fire_once_and_draining_waits_for_what_is_owed() {
    let mut toy = Running::start("");
    let began = Instant::now();
    toy.admin(&["timer", "150"]);
    toy.wait_for("timeout");
    assert!(began.elapsed() >= Duration::from_millis(150));
    toy.admin(&["owe"]);
    let began = Instant::now();
    toy.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(toy.wait(), 0);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn http_tells_health_readiness_and_numbers() {
    let toy = Running::start("");
    assert_eq!(toy.get("/healthz").unwrap(), (200, "ok\n".to_owned()));
    assert_eq!(toy.get("/readyz").unwrap(), (200, "ready\n".to_owned()));
    assert_eq!(toy.request("POST /admin", "persist broken yes").unwrap().1, "ok");
    assert_eq!(toy.get("/readyz").unwrap(), (503, "broken by a row\n".to_owned()));
    assert_eq!(toy.request("POST /admin", "").unwrap().0, 400);
    assert_eq!(toy.request("POST /admin", "[1]").unwrap().0, 400);
    let (status, text) = toy.get("/metrics").unwrap();
    assert_eq!(status, 200);
    for line in [
        "tessera_toy_log_total 1",
        "tessera_shell_inputs_total{kind=\"admin\"} 1",
        "tessera_shell_inputs_total{kind=\"start\"} 1",
        "tessera_shell_queue_length 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.contains("tessera_shell_commit_seconds_count"), "{text}");
    assert!(text.contains("process_open_fds"), "{text}");
}

#[test]
fn ready_is_asked_by_the_program_itself() {
    let toy = Running::start("");
    let file = toy.folder.join("toy.toml");
    let ask = || {
        let output = command(&["--config", file.to_str().unwrap(), "--ready"]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(ask(), (Some(0), String::new()));
    assert_eq!(toy.request("POST /admin", "persist broken yes").unwrap().1, "ok");
    assert_eq!(ask(), (Some(1), "toy: broken by a row\n".to_owned()));
    std::fs::write(&file, "[http]\nlisten = '127.0.0.1:9'\n").unwrap();
    assert!(ask().1.contains("127.0.0.1:9"));
    std::fs::write(&file, "[http]\n").unwrap();
    assert!(ask().1.contains("http.listen is not set"));
}

#[test]
fn http_takes_a_socket_from_the_starter() {
    use std::os::fd::AsRawFd;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = listener.local_addr().unwrap();
    let folder = folder();
    let file = folder.join("toy.toml");
    std::fs::write(&file, "[http]\n").unwrap();
    let inherited = nix::unistd::dup(&listener).unwrap();
    nix::fcntl::fcntl(&inherited, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
        .unwrap();
    let child = command(&["--config", file.to_str().unwrap()])
        .env("TESSERA_HTTP_FD", inherited.as_raw_fd().to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    drop((listener, inherited));
    let toy = Running { child, http, folder };
    assert_eq!(toy.get("/healthz").unwrap().0, 200);
}

#[test]
fn check_names_each_missing_thing_and_changes_nothing() {
    let folder = folder();
    let file = folder.join("toy.toml");
    let check = || {
        let output = command(&["--config", file.to_str().unwrap(), "--check"]).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (address, taken) = (free_address(), TcpListener::bind("127.0.0.1:0").unwrap());
    let good = format!("udp = ['{address}']\nstore = '{}/s.db'\n[http]\n", folder.display());
    std::fs::write(&file, &good).unwrap();
    let (is_good, text) = check();
    assert!(is_good, "{text}");
    assert!(text.contains("toy: configuration and host are in order"), "{text}");
    assert!(!folder.join("s.db").exists());
    let taken = taken.local_addr().unwrap();
    let bad = format!(
        "udp = ['192.0.2.1:5060']\ntcp = ['{taken}', '192.0.2.1:5060']\nstore = '/nonexistent/s.db'\n[http]\n"
    );
    std::fs::write(&file, bad).unwrap();
    let (is_good, text) = check();
    assert!(!is_good);
    assert!(text.contains("sip udp 192.0.2.1:5060 and 1 more: this host has no address"), "{text}");
    assert!(text.contains(&format!("sip tcp {taken}: cannot be bound")), "{text}");
    assert!(text.contains("make the directory /nonexistent"), "{text}");
    std::fs::write(&file, "[http]\n").unwrap();
    assert!(check().1.contains("toy: udp: give an address"));
    std::fs::write(&file, "[http]\nlisten = 1\n").unwrap();
    assert!(!check().0);
    std::fs::remove_dir_all(folder).unwrap();
}

/// A DNS server that knows four names (RFC 1035 §4.1) and is silent about `silent.*`.
fn dns_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = dns_answer(&buffer[..count]) {
                socket.send_to(&answer, from).unwrap();
            }
        }
    });
    address
}

fn dns_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn dns_answer(query: &[u8]) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let end = at + 1 + query[at] as usize;
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    let question = &query[12..at + 5];
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let data = match (labels.join(".").as_str(), kind) {
        ("silent.example", _) => return None,
        ("home.example", 35) => {
            let mut data = vec![0, 10, 0, 20, 1, b's', 7];
            data.extend_from_slice(b"SIP+D2U\0");
            data.extend(dns_name("_sip._udp.home.example"));
            Some(data)
        }
        ("_sip._udp.home.example", 33) => {
            Some([&[0, 1, 0, 2, 0x13, 0xC4][..], &dns_name("Icscf.Home.Example")].concat())
        }
        ("icscf.home.example", 1) => Some(vec![192, 0, 2, 7]),
        _ => None,
    };
    let mut answer = query[..2].to_vec();
    let code = if data.is_some() { 0 } else { 3 };
    answer.extend([0x85, 0x80 | code, 0, 1, 0, u8::from(data.is_some())]);
    answer.extend([0, u8::from(data.is_none()), 0, 0]);
    answer.extend_from_slice(question);
    let (owner, kind, data) = match data {
        Some(data) => (vec![0xC0, 12], kind, data),
        None => {
            let mut soa = [dns_name("ns.example"), dns_name("admin.example")].concat();
            soa.extend([1u32, 2, 3, 4, 17].iter().flat_map(|number| number.to_be_bytes()));
            (dns_name("example"), 6, soa)
        }
    };
    answer.extend(owner);
    answer.extend(kind.to_be_bytes());
    answer.extend([0, 1, 0, 0, 0, 60]);
    answer.extend((data.len() as u16).to_be_bytes());
    answer.extend(data);
    Some(answer)
}

/// RFC 3263 §4.1, §4.2: the record types, what is not there, and a server that does not answer.
#[test]
fn names_are_looked_up_with_the_configured_servers() {
    let server = dns_server();
    let toy = Running::start(&format!(
        "[dns]\nservers = ['{server}']\ntimeout_milliseconds = 300\nattempts = 1\n"
    ));
    let naptr = toy.admin(&["resolve", "naptr", "home.example"]);
    for part in
        ["order: 10", "preference: 20", "\"s\"", "\"SIP+D2U\"", "\"_sip._udp.home.example\"", "60s"]
    {
        assert!(naptr.contains(part), "{part} in {naptr}");
    }
    let srv = toy.admin(&["resolve", "srv", "_sip._udp.home.example"]);
    assert!(srv.contains("weight: 2, port: 5060, target: \"icscf.home.example\""), "{srv}");
    let address = toy.admin(&["resolve", "a", "icscf.home.example"]);
    assert!(address.contains("Address(192.0.2.7)"), "{address}");
    assert_eq!(toy.admin(&["resolve", "aaaa", "icscf.home.example"]), "Nothing { ttl: 17s }");
    let began = Instant::now();
    let silent = toy.admin(&["resolve", "a", "silent.example"]);
    assert!(silent.starts_with("Failed"), "{silent}");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(2), "{took:?}");
}
