//! The daemons as processes: started in their namespaces under the names of this program, waited for
//! by what they say of themselves, stopped by signals, with a log file for each.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::topology::Topology;

/// How long a process may take to say that it is ready.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// How long a process may take to end after SIGTERM.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// A daemon that does not answer its metrics in this time has none to give.
const METRICS_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two looks at a condition that says nothing when it changes.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// What a process is started with, also after a crash.
#[derive(Debug)]
pub struct Process {
    /// Of the node, such as `scscf1`: of its namespace and log file.
    pub name: &'static str,
    /// Of the program, such as `scscf`.
    pub role: &'static str,
    config: PathBuf,
    log: PathBuf,
    /// Opened before we left the host's network, so that people reach it.
    http: Option<TcpListener>,
    child: Option<Child>,
}

/// What a process has taken since it was started.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub cpu: Duration,
    /// The most memory that was resident.
    pub peak_octets: u64,
}

/// Where people find `/metrics` of a daemon: on the loopback of the host, at this port if it is free.
pub fn open_http(port: u16) -> Result<TcpListener, String> {
    let at = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    at(port).or_else(|_| at(0)).map_err(|error| format!("http listener: {error}"))
}

impl Process {
    pub fn new(
        name: &'static str,
        role: &'static str,
        directory: &Path,
        http: Option<TcpListener>,
    ) -> Process {
        Process {
            name,
            role,
            config: directory.join(format!("{name}.toml")),
            log: directory.join(format!("{name}.log")),
            http,
            child: None,
        }
    }

    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it; [`Process::wait_until_ready`] then waits for it. Must be called from a thread that
    /// lives as long as the process shall: it ends with that thread.
    pub fn start(&mut self, topology: &Topology, namespace: Option<&str>) -> Result<(), String> {
        let wrong = |error: io::Error| format!("{}: cannot be started: {error}", self.name);
        let log = File::options().create(true).append(true).open(&self.log).map_err(wrong)?;
        let program = std::env::current_exe().map_err(wrong)?;
        let mut command = Command::new(program);
        command
            .arg0(self.role)
            // Ctrl-C is for the lab, which then ends them in order.
            .process_group(0)
            .arg(self.role)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(wrong)?)
            .stderr(log);
        if let Some(listener) = &self.http {
            let descriptor = listener.as_raw_fd();
            command.env("TESSERA_HTTP_FD", descriptor.to_string());
            // SAFETY: only a system call between fork and exec; the listener lives in the parent.
            unsafe {
                command.pre_exec(move || match libc::fcntl(descriptor, libc::F_SETFD, 0) {
                    -1 => Err(io::Error::last_os_error()),
                    _ => Ok(()),
                });
            }
        }
        match namespace {
            Some(namespace) => topology.namespace(namespace).enter_at_start(&mut command),
            None => end_with_us(&mut command),
        }
        self.child = Some(command.spawn().map_err(wrong)?);
        Ok(())
    }

    /// Waits until `/readyz` says so, or the condition given instead holds.
    pub async fn wait_until_ready(
        &mut self,
        condition: Option<&dyn Fn() -> bool>,
    ) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                let tail = tail_of(&self.log, 5);
                return Err(format!("{} ended ({status}):\n{tail}", self.name));
            }
            let is_ready = match (condition, self.http_address()) {
                (Some(condition), _) => condition(),
                (None, Some(address)) => is_ready(address).await,
                (None, None) => true,
            };
            if is_ready {
                return Ok(());
            }
            if begin.elapsed() > READY_LIMIT {
                let why = match self.http_address() {
                    Some(address) => get(address, "/readyz").await.unwrap_or_default(),
                    None => String::new(),
                };
                let why = why.lines().last().unwrap_or_default().to_owned();
                return Err(format!("{} is not ready after {READY_LIMIT:?}: {why}", self.name));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// Memory of its own that is in use (VmRSS).
    pub fn resident_octets(&self) -> Option<u64> {
        self.octets_of_status("VmRSS:")
    }

    /// What it has taken so far.
    pub fn usage(&self) -> Option<Usage> {
        let process = self.child.as_ref()?.id();
        let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // Behind the name, which may have anything in it: state, then numbers (proc_pid_stat(5)).
        let (_, numbers) = text.rsplit_once(") ")?;
        let ticks: u64 =
            numbers.split(' ').skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
        // SAFETY: asks for a constant of the system.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        let per_second = u64::try_from(per_second).ok().filter(|rate| *rate > 0)?;
        Some(Usage {
            cpu: Duration::from_millis(ticks * 1_000 / per_second),
            peak_octets: self.octets_of_status("VmHWM:")?,
        })
    }

    fn octets_of_status(&self, name: &str) -> Option<u64> {
        let process = self.child.as_ref()?.id();
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kilobytes * 1024)
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
        }
    }

    /// As a power failure would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM; once more for one that still waits for phones, which are gone by then; after a while
    /// SIGKILL. The answer says whether it ended by itself and well.
    pub async fn stop(&mut self) -> Result<(), String> {
        self.signal(Signal::SIGCONT);
        self.signal(Signal::SIGTERM);
        let begin = Instant::now();
        let mut is_hurried = false;
        while self.child.is_some() {
            if begin.elapsed() > DRAIN_LIMIT / 2 && !is_hurried {
                is_hurried = true;
                self.signal(Signal::SIGTERM);
            }
            if let Some(status) = self.ended() {
                self.child = None;
                return match status.success() {
                    true => Ok(()),
                    false => Err(format!("{} ended with {status}", self.name)),
                };
            }
            if begin.elapsed() > DRAIN_LIMIT {
                self.kill();
                return Err(format!("{} did not end within {DRAIN_LIMIT:?}", self.name));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes the program of the command end when we do.
pub fn end_with_us(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: only system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            match nix::unistd::getppid().as_raw() as u32 == parent {
                true => Ok(()),
                false => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
    }
}

async fn is_ready(address: SocketAddr) -> bool {
    get(address, "/readyz").await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// One GET without blocking the loop.
async fn get(address: SocketAddr, path: &'static str) -> Option<String> {
    let asking = tokio::task::spawn_blocking(move || fetch(address, path, Duration::from_secs(2)));
    asking.await.ok()?.ok()
}

/// One GET; head and body.
pub fn fetch(address: SocketAddr, path: &str, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Sum over all samples of a metric whose labels include these; 0 when there is none, or no answer.
pub fn metric(address: SocketAddr, name: &str, labels: &[(&str, &str)]) -> f64 {
    fetch(address, "/metrics", METRICS_PATIENCE).map_or(0.0, |text| sum_of(&text, name, labels))
}

/// Sum over the samples of a metric in the text exposition whose labels include these.
fn sum_of(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (found, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest),
        };
        if !value.starts_with(' ') {
            return None;
        }
        let has = |(name, value): &(&str, &str)| {
            found
                .split("\",")
                .any(|label| label.trim_end_matches('"') == format!("{name}=\"{value}"))
        };
        labels.iter().all(has).then(|| value.trim().parse::<f64>().ok())?
    });
    values.sum()
}

/// The last lines of a log.
pub fn tail_of(log: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all[from..].iter().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_label() {
        let text = "HTTP/1.1 200 OK\n# HELP a_total x\na_total{state=\"new\",by=\"x, y\"} 2\n\
                    a_total{state=\"old\",by=\"x\"} 3\na_total_more 9\nb 4\n";
        assert_eq!(sum_of(text, "a_total", &[]), 5.0);
        assert_eq!(sum_of(text, "a_total", &[("state", "old")]), 3.0);
        assert_eq!(sum_of(text, "a_total", &[("state", "new"), ("by", "x, y")]), 2.0);
        assert_eq!(sum_of(text, "a_total", &[("state", "ol")]), 0.0);
        assert_eq!(sum_of(text, "b", &[]), 4.0);
    }
}
