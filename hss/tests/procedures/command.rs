//! The program `hss` as an operator uses it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::cx::sar::ServerAssignmentType;
use common::cx::{Answer, Endpoint, Event, Outcome, Ppa, Request, Rta, Sar};
use common::node::{ConnectionId, Input, Now, Output, PeerIndex};

use crate::node::{sar, scscf};
use crate::world::{ALICE, ALICE_SIP, ALICE_TEL, K, OPC, S1};

/// A folder with a configuration, a key and a database; gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("tessera-hss-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        let folder = Folder(path);
        let configuration = format!(
            "database = \"{}\"\nkey_file = \"{}\"\n[diameter]\nidentity = \"hss.hims.net\"\n\
             realm = \"hims.net\"\nlisten = \"127.0.0.1:0\"\n",
            folder.file("hss.db"),
            folder.file("hss.key")
        );
        std::fs::write(folder.file("hss.toml"), configuration).unwrap();
        folder
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// What the command printed, and what it complained about when it failed.
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_hss"))
            .args(words)
            .args(["--config", &self.file("hss.toml")])
            .output()
            .unwrap();
        let text = |octets| String::from_utf8(octets).unwrap();
        let printed = text(output.stdout);
        if output.status.success() { Ok(printed) } else { Err(printed + &text(output.stderr)) }
    }

    fn with_key(name: &str) -> Folder {
        let folder = Folder::new(name);
        folder.run(&["key", "create", &folder.file("hss.key")]).unwrap();
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn makes_a_key_once_and_for_its_owner_only() {
    let folder = Folder::with_key("key");
    let key = folder.file("hss.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert!(folder.run(&["key", "create", &key]).is_err(), "a key is never written over");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let told = folder.run(&["subscriber", "list"]).unwrap_err();
    assert!(told.contains("640") && told.contains("chmod 600"), "{told}");
    std::fs::remove_file(&key).unwrap();
    let told = folder.run(&["subscriber", "list"]).unwrap_err();
    assert!(told.contains("hss key create"), "{told}");
}

#[test]
fn adds_shows_lists_exports_and_removes() {
    let folder = Folder::with_key("add");
    let add = ["subscriber", "add", "--imsi", "001010123456789", "--k", K, "--opc", OPC];
    folder.run(&[&add[..], &["--msisdn", "15551234567", "--sqn", "0x20"]].concat()).unwrap();
    let impi = "001010123456789@ims.mnc001.mcc001.3gppnetwork.org";
    let shown = folder.run(&["subscriber", "show", impi]).unwrap();
    assert!(shown.contains("milenage") && shown.contains("000000000020"), "{shown}");
    let listed = folder.run(&["subscriber", "list"]).unwrap();
    assert!(listed.starts_with(impi) && listed.contains("tel:+15551234567"), "{listed}");
    let exported = folder.run(&["subscriber", "export"]).unwrap();
    assert!(exported.contains(&format!("{impi},milenage,0000,32,!sip:{impi} sip:+1555")));
    for text in [shown, listed, exported] {
        assert!(!text.contains(K) && !text.contains(OPC));
    }
    assert!(folder.run(&add).unwrap_err().contains("is there already"));
    folder.run(&["subscriber", "remove", impi]).unwrap();
    assert!(folder.run(&["subscriber", "remove", impi]).unwrap_err().contains("is not there"));
    assert_eq!(folder.run(&["subscriber", "list"]), Ok(String::new()));
}

/// All or none, with the line that is wrong.
#[test]
fn imports_all_or_none() {
    let folder = Folder::with_key("import");
    let row = |user: &str| format!("{user}@hims.net,sip:{user}@hims.net,{K},{OPC}\n");
    let file = folder.file("users.csv");
    let header = "impi,impu,k,opc\n".to_owned();
    std::fs::write(&file, header.clone() + &row("a") + &row("b") + &row("a")).unwrap();
    let told = folder.run(&["subscriber", "import", &file]).unwrap_err();
    assert!(told.contains("users.csv: line 4: impi: a@hims.net is there already"), "{told}");
    assert_eq!(folder.run(&["subscriber", "list"]), Ok(String::new()));
    std::fs::write(&file, header + &row("a") + &row("b")).unwrap();
    assert_eq!(folder.run(&["subscriber", "import", &file]).unwrap(), "2 subscribers added\n");
    assert_eq!(folder.run(&["subscriber", "list"]).unwrap().lines().count(), 2);
}

#[test]
fn checks_its_configuration() {
    let folder = Folder::new("check");
    let told = folder.run(&["--check"]).unwrap_err();
    assert!(told.contains("hss key create"), "{told}");
    folder.run(&["key", "create", &folder.file("hss.key")]).unwrap();
    folder.run(&["--check"]).unwrap();
    assert!(!std::path::Path::new(&folder.file("hss.db")).exists(), "a check changes nothing");
}

/// A port that is free right now.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The daemon as a process; gone with the test.
struct Daemon(Child);

impl Daemon {
    fn start(folder: &Folder) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hss"));
        command.args(["--config", &folder.file("hss.toml")]).stderr(Stdio::null());
        let mut daemon = Daemon(command.spawn().unwrap());
        while folder.run(&["--ready"]).is_err() {
            assert_eq!(daemon.0.try_wait().unwrap(), None, "the daemon did not start");
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An S-CSCF at the other end of a TCP connection.
struct Peer {
    stream: TcpStream,
    endpoint: Endpoint<u32>,
}

const NOW: Now = Now::from_millis(1_000_000);
const CONNECTION: ConnectionId = ConnectionId(0);

impl Peer {
    fn connect(hss: SocketAddr) -> Peer {
        let stream = TcpStream::connect(hss).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let mut peer = Peer { stream, endpoint: scscf(1) };
        let mut out = Vec::new();
        peer.endpoint.start(NOW, &mut out);
        let input =
            Input::Opened { connection: CONNECTION, peer: Some(PeerIndex(0)), local, remote };
        peer.endpoint.input(NOW, input, &mut out);
        peer.send(out);
        // The answer to the handshake.
        peer.read();
        peer
    }

    fn send(&mut self, out: Vec<Output>) {
        for output in out {
            if let Output::Diameter { bytes, .. } = output {
                self.stream.write_all(&bytes).unwrap();
            }
        }
    }

    fn read(&mut self) {
        let mut header = [0; 4];
        self.stream.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let mut message = vec![0; length];
        message[..4].copy_from_slice(&header);
        self.stream.read_exact(&mut message[4..]).unwrap();
        let mut out = Vec::new();
        let input = Input::Diameter { connection: CONNECTION, bytes: message.into() };
        self.endpoint.input(NOW, input, &mut out);
        self.send(out);
    }

    fn ask(&mut self, request: Request) -> Answer {
        let mut out = Vec::new();
        self.endpoint.ask(NOW, request, None, 0, Duration::from_secs(5), &mut out);
        self.send(out);
        loop {
            self.read();
            if let Some(Event::Answer { result, .. }) = self.endpoint.next_event() {
                return result.unwrap().answer;
            }
        }
    }

    /// Takes the next RTR or PPR.
    fn take(&mut self) -> Request {
        loop {
            self.read();
            if let Some(Event::Request(received)) = self.endpoint.next_event() {
                let request = received.request.clone();
                let outcome = Outcome::SUCCESS;
                let answer = match request {
                    Request::Rtr(_) => Answer::Rta(Rta { outcome, ..Rta::default() }),
                    _ => Answer::Ppa(Ppa { outcome }),
                };
                let mut out = Vec::new();
                self.endpoint.answer(NOW, received, answer, &mut out);
                self.send(out);
                return request;
            }
        }
    }

    /// The command, and what the S-CSCF hears because of it.
    fn hears(&mut self, folder: &Folder, words: &[&str]) -> (String, Request) {
        std::thread::scope(|scope| {
            let heard = scope.spawn(|| self.take());
            let printed = folder.run(words).unwrap();
            (printed, heard.join().unwrap())
        })
    }
}

/// TS 29.228 §6.2.2.1, §6.1.3.1: from the command line to an S-CSCF, through the daemon.
#[test]
fn tells_an_s_cscf_what_an_operator_changes() {
    let folder = Folder::with_key("push");
    let (diameter, http) = (free_address(), free_address());
    let configuration = std::fs::read_to_string(folder.file("hss.toml")).unwrap();
    let configuration = configuration.replace("127.0.0.1:0", &diameter.to_string());
    let configuration = format!("{configuration}[http]\nlisten = \"{http}\"\n");
    std::fs::write(folder.file("hss.toml"), configuration).unwrap();
    let add = ["subscriber", "add", "--impi", ALICE, "--k", K, "--opc", OPC, "--impu", ALICE_SIP];
    folder.run(&add).unwrap();
    let daemon = Daemon::start(&folder);
    let mut peer = Peer::connect(diameter);
    let registration = sar(ALICE, S1, ServerAssignmentType::Registration);
    assert_eq!(peer.ask(Request::Sar(registration)).outcome(), Outcome::SUCCESS);

    let profile = |media: u32| {
        let file = folder.file("profile.xml");
        let xml = format!(
            "<IMSSubscription><PrivateID>x@hims.net</PrivateID><ServiceProfile><PublicIdentity>\
             <Identity>sip:x@hims.net</Identity></PublicIdentity><CoreNetworkServicesAuthorization>\
             <SubscribedMediaProfileId>{media}</SubscribedMediaProfileId>\
             </CoreNetworkServicesAuthorization></ServiceProfile></IMSSubscription>"
        );
        std::fs::write(&file, xml).unwrap();
        file
    };
    let import = ["profile", "import", "default", &profile(7)].map(str::to_owned);
    let import: Vec<&str> = import.iter().map(String::as_str).collect();
    let printed = folder.run(&import).unwrap();
    assert!(printed.starts_with("profile default stored\n1 sets in service"), "{printed}");
    assert!(printed.contains(ALICE) && printed.contains("next SAR"), "{printed}");
    // Unchanged, but still to be told.
    let with_push = [&import[..], &["--push"]].concat();
    let (printed, heard) = peer.hears(&folder, &with_push);
    assert_eq!(printed, "profile default unchanged\n1 sets told, 0 not\n");
    let Request::Ppr(ppr) = heard else { panic!("{heard:?}") };
    assert!(String::from_utf8_lossy(&ppr.user_data.unwrap()).contains(">7</Subscribed"));
    assert_eq!(folder.run(&with_push).unwrap(), "profile default unchanged\n");
    assert_eq!(folder.run(&["ppr", ALICE]).unwrap().trim_end(), format!("{ALICE}: unchanged"));

    let addresses =
        ["--primary-collection", "aaa://ccf1.hims.net", "--primary-event", "aaa://ecf1.hims.net"];
    folder.run(&[&["charging", "set", "gold"][..], &addresses].concat()).unwrap();
    let (_, heard) = peer.hears(&folder, &["charging", "assign", ALICE, "gold", "--push"]);
    let Request::Ppr(ppr) = heard else { panic!("{heard:?}") };
    let charging = ppr.charging_information.unwrap();
    assert_eq!(ppr.user_data, None);
    assert_eq!(charging.primary_charging_collection.as_deref(), Some("aaa://ccf1.hims.net"));
    let other = ["charging", "set", "gold", "--primary-collection", "aaa://ccf9.hims.net"];
    let (_, heard) = peer.hears(&folder, &[&other[..], &["--push"]].concat());
    let Request::Ppr(ppr) = heard else { panic!("{heard:?}") };
    assert_eq!(ppr.charging_information.unwrap().primary_event_charging, None);
    let wrong = ["charging", "set", "gold", "--primary-collection", "ccf9"];
    assert!(folder.run(&wrong).unwrap_err().contains("is not a DiameterURI"));

    let (printed, heard) = peer.hears(&folder, &["identity", "add", ALICE_TEL, ALICE_SIP]);
    assert!(printed.starts_with(&format!("{ALICE_TEL}: added\n")), "{printed}");
    let Request::Ppr(ppr) = heard else { panic!("{heard:?}") };
    assert!(String::from_utf8_lossy(&ppr.user_data.unwrap()).contains(ALICE_TEL));
    let (printed, heard) = peer.hears(&folder, &["identity", "remove", ALICE_SIP]);
    assert!(printed.trim_end().ends_with(&format!("{ALICE_SIP}: removed")), "{printed}");
    let Request::Rtr(rtr) = heard else { panic!("{heard:?}") };
    assert_eq!(rtr.public_identities, [ALICE_SIP]);
    assert!(folder.run(&["subscriber", "list"]).unwrap().contains("not registered"));
    // A profile may be named like a command, behind one.
    let printed = folder.run(&["identity", "add", ALICE_SIP, ALICE_TEL, "profile"]).unwrap();
    assert!(printed.contains("profile is not there"), "{printed}");
    // S-CSCFs are told by the daemon alone.
    let registration = Sar {
        public_identities: vec![ALICE_TEL.to_owned()],
        ..sar(ALICE, S1, ServerAssignmentType::Registration)
    };
    assert_eq!(peer.ask(Request::Sar(registration)).outcome(), Outcome::SUCCESS);
    drop(daemon);
    profile(8);
    let told = folder.run(&with_push).unwrap_err();
    assert!(told.contains("stored, but not pushed"), "{told}");
}
