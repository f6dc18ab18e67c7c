//! The program `ue` as a process, against a scripted P-CSCF: over the radio socket of the LTE
//! transport, and over a TUN device where this host lets us make one.

use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use common::aka::digest::{self, AkaNonce};
use common::aka::vector::{Algorithm, Sqn, Vector};
use common::limits::Limits;
use common::secret::Secret;
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::message::{Message, Request, Response};
use lte::attach::Attached;
use lte::radio::{self, Message as Radio, Record};
use ue::packets::{self, Content};

const K: &str = "465b5ce8b199b49faa5f0a2ee238a6bc";
const OPC: &str = "cd63cb71954a9f4e48a5994e37a02baf";
const UE: &str = "10.45.0.2";
const PCSCF: &str = "192.0.2.10:5060";

/// A folder of its own for one test, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("ue-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The keys, out of the list of processes.
    fn key_file(&self) -> PathBuf {
        let path = self.file("card");
        std::fs::write(&path, format!("k={K}\nopc={OPC}\n")).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program with a card, not yet with a bearer.
fn program(folder: &Folder) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ue"));
    command.args(["register", "--imsi", "001010123456789", "--key-file"]);
    command.arg(folder.key_file()).stdin(Stdio::null());
    command
}

/// Both texts, with the exit status; neither shows a key.
fn outcome(output: &Output) -> (Option<i32>, String, String) {
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    for text in [&stdout, &stderr] {
        assert!(!text.contains(&K[..12]) && !text.contains(&OPC[..12]), "{text}");
    }
    (output.status.code(), stdout, stderr)
}

type Script = Box<dyn FnMut(&Request) -> Response + Send>;

/// An eNodeB and a P-CSCF behind it, for one program, until that goes.
fn serve_radio(path: &Path, mut script: Script) -> std::thread::JoinHandle<()> {
    let listener = radio::listen(path).unwrap();
    std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut buffer = vec![0; radio::RECORD_LIMIT];
        while let Ok(length @ 1..) = (&mut &socket).read(&mut buffer) {
            let Record { reference, message } = radio::decode(&buffer[..length]).unwrap();
            let answer = match message {
                Radio::Attach { imsi, .. } => {
                    assert_eq!(imsi, "001010123456789");
                    let pcscf: SocketAddr = PCSCF.parse().unwrap();
                    let address = UE.parse().unwrap();
                    let attached = Attached { address, pcscf: pcscf.ip(), mtu: 1358, second: None };
                    Record { reference, message: Radio::Attached(attached) }.encode()
                }
                Radio::Data(packet) => {
                    let Some(Content::Udp { source, destination, payload }) =
                        packets::content(packet)
                    else {
                        panic!("no datagram: {packet:?}")
                    };
                    assert_eq!(destination, PCSCF.parse().unwrap());
                    let response = script(&request(payload)).to_bytes();
                    let packet = packets::datagram(destination, source, &response).unwrap();
                    Record { reference, message: Radio::Data(&packet) }.encode()
                }
                other => panic!("{other:?}"),
            };
            let _ = socket.send(&answer);
        }
    })
}

fn request(bytes: Bytes) -> Request {
    match Message::parse(bytes, &Limits::default()) {
        Ok(Message::Request(request)) => request,
        other => panic!("no request: {other:?}"),
    }
}

fn refuse(request: &Request) -> Response {
    request.response(403, "Forbidden")
}

fn vector(seq: u64) -> Vector {
    let key = |text| Secret::new(hex::decode(text).unwrap().try_into().unwrap());
    let algorithm = Algorithm::Milenage { k: key(K), opc: key(OPC) };
    algorithm.vector([7; 16], Sqn::of(seq, 1), [0x80, 0])
}

fn challenge(request: &Request, vector: &Vector) -> Response {
    let mut response = request.response(401, "Unauthorized");
    let nonce = AkaNonce::encode(&vector.rand, &vector.autn);
    let line = format!(
        "Digest realm=\"ims.mnc001.mcc001.3gppnetwork.org\",nonce=\"{nonce}\",\
         algorithm=AKAv1-MD5,qop=\"auth\""
    );
    response.headers_mut().append(Name::WwwAuthenticate, &line);
    response
}

fn credentials(request: &Request) -> DigestParameters {
    DigestParameters::parse(request.headers().get(Name::Authorization).unwrap()).unwrap()
}

/// TS 24.229 §5.1.1.2.1: a 403 ends the attempt, and the program says so with status 1.
#[test]
fn a_refusal_is_a_verdict() {
    let folder = Folder::new("refusal");
    let socket = folder.file("radio");
    let enodeb = serve_radio(&socket, Box::new(refuse));
    let output = program(&folder).arg("--radio").arg(&socket).arg("--trace").output().unwrap();
    enodeb.join().unwrap();
    let (status, stdout, stderr) = outcome(&output);
    assert_eq!(status, Some(1), "{stdout}{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("ue: not registered: 403 Forbidden: "), "{stderr}");
    assert!(stderr.contains("before any challenge"), "{stderr}");
    assert!(
        stdout.contains("-> clear UDP 10.45.0.2:5060 -> 192.0.2.10:5060 REGISTER "),
        "{stdout}"
    );
    assert!(stdout.contains(" SIP/2.0 403 Forbidden"), "{stdout}");
}

/// TS 24.229 §5.1.1.5.3, §5.1.1.5.1: a card with another K answers nothing; the refusal is
/// explained by that.
#[test]
fn another_key_is_named() {
    let folder = Folder::new("key");
    let socket = folder.file("radio");
    let script = |request: &Request| match request.cseq() {
        1 => challenge(request, &vector(1)),
        _ => {
            assert_eq!(credentials(request).get("response"), Some(""));
            refuse(request)
        }
    };
    let enodeb = serve_radio(&socket, Box::new(script));
    let output =
        program(&folder).args(["--fault", "wrong-k", "--radio"]).arg(&socket).output().unwrap();
    enodeb.join().unwrap();
    let (status, stdout, stderr) = outcome(&output);
    assert_eq!(status, Some(1), "{stdout}{stderr}");
    assert!(stderr.contains("403: the card refused the challenge"), "{stderr}");
    assert!(stderr.contains("K or OPc differ"), "{stderr}");
}

/// TS 24.229 §5.1.1.2, §5.1.1.4, §5.1.1.6; RFC 3310 §3.3: registers, refreshes, deregisters.
#[test]
fn a_registration_from_its_start_to_its_end() {
    let folder = Folder::new("registration");
    let (socket, events) = (folder.file("radio"), folder.file("events"));
    let vector = vector(1);
    let mut requests = 0;
    let script = move |request: &Request| {
        requests += 1;
        if requests == 1 {
            return challenge(request, &vector);
        }
        let credentials = credentials(request);
        let is_right = digest::verify(&credentials, vector.xres.expose(), "REGISTER", b"");
        assert!(is_right, "{credentials:?}");
        let contact = request.headers().get(Name::Contact).unwrap();
        assert_eq!(contact.ends_with(";expires=0"), requests == 4, "{contact}");
        let mut response = request.response(200, "OK");
        if requests < 4 {
            response.headers_mut().append(Name::Contact, contact);
            response.headers_mut().append(Name::ServiceRoute, "<sip:scscf.hims.net;lr>");
        }
        response
    };
    let enodeb = serve_radio(&socket, Box::new(script));
    let output = program(&folder)
        .args(["--no-ipsec", "--no-subscribe", "--expires", "600", "--hold", "0"])
        .args(["--count-reregister", "1", "--trace=full", "--json"])
        .arg(&events)
        .arg("--radio")
        .arg(&socket)
        .output()
        .unwrap();
    enodeb.join().unwrap();
    let (status, stdout, stderr) = outcome(&output);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.contains("registered in clear for 600 s\n"), "{stdout}");
    assert!(stdout.contains("registered again in clear for 600 s"), "{stdout}");
    assert!(stdout.contains("| CSeq: 2 REGISTER\n"), "{stdout}");
    let text = std::fs::read_to_string(&events).unwrap();
    assert!(!text.contains(&K[..12]) && !text.contains(&OPC[..12]));
    let events: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "attached",
            "sent",
            "received",
            "sent",
            "received",
            "registered",
            "sent",
            "received",
            "registered",
            "sent",
            "received",
            "deregistered",
            "verdict"
        ]
    );
    assert_eq!(events[5]["service_route"][0], "<sip:scscf.hims.net;lr>");
    assert_eq!((&events[5]["kind"], &events[8]["kind"]), (&"initial".into(), &"refresh".into()));
    assert_eq!(events[12]["registered"], true);
    assert!(events.windows(2).all(|two| two[0]["time"].as_f64() <= two[1]["time"].as_f64()));
}

#[test]
fn what_is_missing_is_said() {
    let folder = Folder::new("missing");
    let socket = folder.file("nowhere");
    let output = program(&folder).arg("--radio").arg(&socket).output().unwrap();
    let (status, _, stderr) = outcome(&output);
    assert_eq!(status, Some(2), "{stderr}");
    assert!(stderr.starts_with(&format!("ue: {}: ", socket.display())), "{stderr}");
    let output = program(&folder).output().unwrap();
    let (status, _, stderr) = outcome(&output);
    assert_eq!(status, Some(2), "{stderr}");
    assert!(stderr.contains("--radio"), "{stderr}");
}

/// The same refusal by the kernel's routes: a TUN device and a P-CSCF's socket on this host.
#[test]
fn a_refusal_over_a_tun_device() {
    // A thread has a network namespace of its own, and the processes that it starts share it.
    let skipped = std::thread::spawn(|| refuse_over_tun().err()).join().unwrap();
    if let Some(reason) = skipped {
        println!("skipped: {reason}");
    }
}

fn refuse_over_tun() -> Result<(), String> {
    let is_device =
        std::fs::metadata("/dev/net/tun").is_ok_and(|it| it.file_type().is_char_device());
    if !is_device || File::options().read(true).write(true).open("/dev/net/tun").is_err() {
        return Err("/dev/net/tun is not accessible".to_owned());
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(|error| format!("no network namespace: {error}"))?;
    for arguments in ["link set lo up", "address add 192.0.2.10/32 dev lo"] {
        let done = Command::new("ip").args(arguments.split(' ')).status();
        if !done.is_ok_and(|status| status.success()) {
            return Err(format!("ip {arguments} does not work"));
        }
    }
    let socket = UdpSocket::bind(PCSCF).map_err(|error| error.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let folder = Folder::new("tun");
    let mut command = program(&folder);
    command.args(["--tun", "uetest0", "--address", UE, "--pcscf", PCSCF]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let mut buffer = [0; 65_535];
    let received = socket.recv_from(&mut buffer);
    if let Ok((length, from)) = received {
        let register = request(Bytes::copy_from_slice(&buffer[..length]));
        socket.send_to(&refuse(&register).to_bytes(), from).unwrap();
    }
    let (status, stdout, stderr) = outcome(&child.wait_with_output().unwrap());
    assert!(received.is_ok(), "no REGISTER came: {stdout}{stderr}");
    assert_eq!(status, Some(1), "{stdout}{stderr}");
    assert!(stderr.starts_with("ue: not registered: 403 Forbidden: "), "{stderr}");
    assert!(!stdout.contains("note:"), "the P-CSCF is on this host: {stdout}");
    Ok(())
}
