//! The four daemons as processes on loopback, and what the kernel counts of them.

use std::ffi::OsString;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

pub const HOME: &str = "ims.mnc001.mcc001.3gppnetwork.org";
/// Address of the P-CSCF towards phones that speak IPsec.
pub const GM: &str = "10.20.0.10";
pub const NAMES: [&str; 4] = ["hss", "scscf", "icscf", "pcscf"];

/// Runs one daemon when the first argument names it: this program is all of them.
pub fn run_role() -> Option<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let role = arguments.get(1)?.to_str()?.to_owned();
    let rest = arguments[1..].to_vec();
    Some(match role.as_str() {
        "hss" => hss::command::run_from(rest),
        "scscf" => common::net::run_from::<scscf::Scscf>(rest),
        "icscf" => common::net::run_from::<icscf::Icscf>(rest),
        "pcscf" => common::net::run_from::<pcscf::Pcscf>(rest),
        _ => return None,
    })
}

/// Four running daemons; they end with this value.
pub struct Daemons {
    children: Vec<(&'static str, Child)>,
    folder: PathBuf,
}

/// CPU seconds and resident octets of each daemon, in the order of [`NAMES`].
#[derive(Clone, Debug)]
pub struct Usage {
    pub cpu_seconds: [f64; 4],
    pub resident: [u64; 4],
}

impl Daemons {
    /// Starts them with `subscribers` provisioned, and waits until each says it is ready. With
    /// `ipsec` the P-CSCF is at [`GM`] and demands it.
    pub fn start(subscribers: usize, ipsec: bool) -> Result<Daemons, String> {
        let folder = std::env::temp_dir().join(format!("tessera-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let mut daemons = Daemons { children: Vec::new(), folder };
        daemons.provision(subscribers, ipsec)?;
        for (number, name) in NAMES.into_iter().enumerate() {
            let config =
                daemons.write(&format!("{name}.toml"), &config(name, &daemons.folder, ipsec))?;
            let log = fs::File::create(daemons.folder.join(format!("{name}.log")))
                .map_err(|error| error.to_string())?;
            let child = Command::new(own_path()?)
                .arg(name)
                .arg("--config")
                .arg(config)
                .env("RUST_LOG", "warn")
                .stdin(Stdio::null())
                .stdout(log.try_clone().map_err(|error| error.to_string())?)
                .stderr(log)
                .spawn()
                .map_err(|error| format!("{name}: {error}"))?;
            daemons.children.push((name, child));
            daemons.wait_ready(name, 19_000 + number as u16)?;
        }
        Ok(daemons)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    fn provision(&self, subscribers: usize, ipsec: bool) -> Result<(), String> {
        let config = self.write("hss.toml", &config("hss", &self.folder, ipsec))?;
        let mut csv = String::from("imsi,k,opc\n");
        for number in 0..subscribers {
            csv.push_str(&format!(
                "{},{},{}\n",
                imsi(number),
                hex::encode(key(number)),
                hex::encode(OPC)
            ));
        }
        let csv = self.write("subscribers.csv", &csv)?;
        let key = self.folder.join("key");
        let run = |arguments: &[&Path]| {
            let output = Command::new(own_path()?)
                .arg("hss")
                .args(arguments)
                .output()
                .map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() { Ok(()) } else { Err(said) }
        };
        run(&["key".as_ref(), "create".as_ref(), &key])?;
        run(&["--config".as_ref(), &config, "subscriber".as_ref(), "import".as_ref(), &csv])
    }

    fn wait_ready(&mut self, name: &str, port: u16) -> Result<(), String> {
        use std::io::{Read as _, Write as _};
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let said = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(1)))?;
                stream
                    .write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
                let mut said = String::new();
                stream.read_to_string(&mut said)?;
                Ok(said)
            });
            if said.is_ok_and(|said| said.contains(" 200 ")) {
                return Ok(());
            }
            if Instant::now() > end {
                let log = self.folder.join(format!("{name}.log"));
                let log = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("{name} does not get ready:\n{log}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn usage(&self) -> Usage {
        let mut usage = Usage { cpu_seconds: [0.0; 4], resident: [0; 4] };
        for (place, (_, child)) in self.children.iter().enumerate() {
            (usage.cpu_seconds[place], usage.resident[place]) = of_process(child.id());
        }
        usage
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// User and system time in seconds, and resident octets.
fn of_process(pid: u32) -> (f64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split_whitespace().collect();
    let field = |place: usize| fields.get(place).and_then(|text| text.parse::<u64>().ok());
    // SAFETY: sysconf reads a constant of the system.
    let (ticks, page) =
        unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
    let cpu = field(11).unwrap_or(0) + field(12).unwrap_or(0);
    (cpu as f64 / ticks as f64, field(21).unwrap_or(0) * page as u64)
}

fn own_path() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| error.to_string())
}

pub const OPC: [u8; 16] = [0x0C; 16];

pub fn imsi(number: usize) -> String {
    format!("00101{number:010}")
}

pub fn key(number: usize) -> [u8; 16] {
    let mut key = [0x4B; 16];
    key[8..].copy_from_slice(&(number as u64).to_be_bytes());
    key
}

fn config(name: &str, folder: &Path, ipsec: bool) -> String {
    let folder = folder.display();
    let place = NAMES.iter().position(|other| *other == name).unwrap_or(0);
    let http = format!("[http]\nlisten = \"127.0.0.1:{}\"\n", 19_000 + place);
    let diameter = format!(
        "[diameter]\nidentity = \"{name}.{HOME}\"\nrealm = \"{HOME}\"\n\
         peers = [{{ host = \"127.0.0.1\", port = 19868 }}]\n"
    );
    match name {
        "hss" => format!(
            "database = \"{folder}/hss.sqlite\"\nkey_file = \"{folder}/key\"\n\
             [diameter]\nidentity = \"hss.{HOME}\"\nrealm = \"{HOME}\"\nlisten = \"127.0.0.1:19868\"\n{http}"
        ),
        "scscf" => format!(
            "home_domain = \"{HOME}\"\nstate = \"{folder}/scscf.sqlite\"\n\
             [sip]\nname = \"scscf.{HOME}\"\n\
             [sip.listen]\nudp = [\"127.0.0.1:19063\"]\ntcp = [\"127.0.0.1:19063\"]\n\
             [registration]\nprotection = \"{}\"\n{diameter}{http}",
            if ipsec { "required" } else { "optional" }
        ),
        "icscf" => format!(
            "home_domain = \"{HOME}\"\n\
             [sip]\nname = \"icscf.{HOME}\"\n\
             [sip.listen]\nudp = [\"127.0.0.1:19062\"]\ntcp = [\"127.0.0.1:19062\"]\n\
             [[scscf]]\nname = \"sip:scscf.{HOME}\"\naddress = \"127.0.0.1:19063\"\n{diameter}{http}"
        ),
        _ => format!(
            "name = \"pcscf.{HOME}\"\nvisited_network = \"{HOME}\"\n\
             [gm]\naddresses = [\"{}\"]\nport = {}\n\
             [reg_event]\nsubscribe = false\n\
             [mw]\nlisten = [\"127.0.0.1:19061\"]\nentry_point = \"sip:127.0.0.1:19062\"\n\
             [ipsec]\n{}\n{http}",
            if ipsec { GM } else { "127.0.0.1" },
            if ipsec { 5060 } else { 19_060 },
            if ipsec { "plane = \"auto\"\nanswer = \"chosen\"" } else { "policy = \"off\"" },
        ),
    }
}
