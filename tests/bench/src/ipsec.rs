//! Full registrations with IPsec: phones with real ISIMs, ESP and TCP on a TUN, the four daemons behind
//! it, in a network namespace of our own. The data plane is what `auto` finds.
//!
//! The phones' own ESP and TCP run on the same machine, so "done per second" is of phones and daemons
//! together; CPU seconds are of each daemon alone.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use common::aka::vector::Algorithm;
use common::node::Now;
use common::random::Random;
use common::secret::Secret;
use hdrhistogram::Histogram;
use ue::{Command as Order, Event, Input, Isim, Output, Phone};

use crate::daemons::{Daemons, GM, OPC, imsi, key};
use crate::registrations::{Step, print_memory};

/// The argument that says: we are in the namespace already.
pub const INSIDE: &str = "--inside-namespace";

/// Registrations under way at a time when they go as fast as they can.
const AT_A_TIME: usize = 32;

/// Runs this program again in a user and network namespace of its own.
pub fn enter(phones: usize) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(program)
        .args([INSIDE, "--phones", &phones.to_string()])
        .status()
        .map_err(|error| format!("unshare: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the part with IPsec: {status}")) }
}

/// Prints saturation, then half of it.
pub fn run(phones: usize) -> Result<(), String> {
    println!("# Registrations through the four daemons, with IPsec, {phones} phones");
    for arguments in [
        "link set lo up",
        "addr add 10.20.0.10/32 dev lo",
        "tuntap add dev ues mode tun",
        "link set ues up mtu 1358",
        "route add 10.45.0.0/16 dev ues",
    ] {
        let status = Command::new("ip").args(arguments.split(' ')).status();
        if !status.is_ok_and(|status| status.success()) {
            return Err(format!("ip {arguments} failed"));
        }
    }
    let tun = open_tun("ues")?;
    let daemons = Daemons::start(phones, true)?;
    let mut fleet = Fleet { tun, phones: Vec::new(), due: BTreeSet::new(), times: Vec::new() };
    for number in 0..phones {
        fleet.add(number);
    }
    let third = phones / 3;
    let first = daemons.usage();
    let saturated = fleet.step(&daemons, 0..third, None)?;
    saturated.print(&format!("as fast as they go, {AT_A_TIME} at a time"));
    let half = saturated.per_second() / 2.0;
    let step = fleet.step(&daemons, third..2 * third, Some(half))?;
    step.print("half of that");
    print_memory(&first, &daemons.usage(), saturated.done + step.done);
    Ok(())
}

fn now() -> Now {
    Now::since_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn open_tun(name: &str) -> Result<File, String> {
    let tun = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|error| format!("/dev/net/tun: {error}"))?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: both calls work on our own descriptor; TUNSETIFF reads and writes the ifreq only.
    let done = unsafe {
        libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &mut request) == 0
            && libc::fcntl(tun.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) == 0
    };
    if done { Ok(tun) } else { Err(format!("TUN: {}", std::io::Error::last_os_error())) }
}

/// Many phones on one TUN.
struct Fleet {
    tun: File,
    phones: Vec<Phone>,
    /// When each phone wants to be called, soonest first.
    due: BTreeSet<(Now, usize)>,
    times: Vec<Option<Now>>,
}

/// How a registration ended.
struct Ended {
    number: usize,
    is_registered: bool,
}

impl Fleet {
    fn add(&mut self, number: usize) {
        let algorithm = Algorithm::Milenage { k: Secret::new(key(number)), opc: Secret::new(OPC) };
        let isim = Isim::of_imsi(&imsi(number), "001", "01", algorithm);
        let gm: IpAddr = GM.parse().expect("an address");
        let mut config = ue::Config::new(isim, address(number), (gm, 5060).into());
        config.mtu = 1_358;
        config.automatic = false;
        config.subscribes = false;
        let mut seed = [0x77; 32];
        seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
        self.phones.push(Phone::new(config, Random::from_seed(seed)));
        self.times.push(None);
    }

    fn give(&mut self, number: usize, input: Input) -> Option<Ended> {
        let mut out = Vec::new();
        let phone = &mut self.phones[number];
        phone.handle(now(), input, &mut out);
        if let Some(at) = self.times[number].take() {
            self.due.remove(&(at, number));
        }
        if let Some(at) = phone.next_timeout() {
            self.due.insert((at, number));
            self.times[number] = Some(at);
        }
        let mut ended = None;
        for output in out {
            match output {
                // A full device loses the packet, as a bearer would.
                Output::Packet(packet) => drop(self.tun.write(&packet)),
                Output::Event(Event::Registered { .. }) => {
                    ended = Some(Ended { number, is_registered: true });
                }
                Output::Event(Event::Failed { .. }) => {
                    ended = Some(Ended { number, is_registered: false });
                }
                Output::Event(_) | Output::Trace(_) => {}
            }
        }
        ended
    }

    /// Registers each of `range` once.
    fn step(
        &mut self,
        daemons: &Daemons,
        range: std::ops::Range<usize>,
        rate: Option<f64>,
    ) -> Result<Step, String> {
        let before = daemons.usage();
        let began = Instant::now();
        let mut started: Vec<Option<Instant>> = vec![None; self.phones.len()];
        let mut latency = Histogram::new_with_max(120_000_000, 3).expect("a histogram");
        let (mut done, mut failed, mut under_way) = (0_u64, 0_u64, 0_usize);
        let mut generator_late = Duration::ZERO;
        let mut next = range.clone();
        let total = range.len() as u64;
        let mut packet = vec![0; 65_536];
        while done + failed < total {
            let mut ended = Vec::new();
            loop {
                let count = (range.len() - next.len()) as f64;
                let due = match rate {
                    Some(rate) => began + Duration::from_secs_f64(count / rate),
                    None if under_way < AT_A_TIME => Instant::now(),
                    None => break,
                };
                let at = Instant::now();
                if due > at {
                    break;
                }
                let Some(number) = next.next() else { break };
                generator_late = generator_late.max(at - due);
                started[number] = Some(due);
                under_way += 1;
                let order = Order::Register { identity: 0 };
                ended.extend(self.give(number, Input::Command(order)));
            }
            // A few packets, then time: neither starves the other.
            for _ in 0..32 {
                match self.tun.read(&mut packet) {
                    Ok(length) => {
                        let Some(number) = phone_of(&packet[..length]) else { continue };
                        if number < self.phones.len() {
                            let bytes = Bytes::copy_from_slice(&packet[..length]);
                            ended.extend(self.give(number, Input::Packet(bytes)));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.wait();
                        break;
                    }
                    Err(error) => return Err(format!("TUN: {error}")),
                }
            }
            while let Some((at, number)) = self.due.first().copied().filter(|(at, _)| *at <= now())
            {
                debug_assert_eq!(self.times[number], Some(at));
                ended.extend(self.give(number, Input::Timeout));
            }
            for Ended { number, is_registered } in ended {
                let Some(due) = started[number].take() else { continue };
                under_way -= 1;
                if is_registered {
                    done += 1;
                    latency.saturating_record(due.elapsed().as_micros() as u64);
                } else {
                    failed += 1;
                }
            }
        }
        let took = began.elapsed();
        Ok(Step {
            offered_per_second: rate.unwrap_or(total as f64 / took.as_secs_f64()),
            done,
            failed,
            took,
            latency,
            generator_late,
            before,
            after: daemons.usage(),
        })
    }

    /// Until a packet is there, for 200 µs at most.
    fn wait(&self) {
        let mut poll = libc::pollfd { fd: self.tun.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let time = libc::timespec { tv_sec: 0, tv_nsec: 200_000 };
        // SAFETY: one descriptor of ours, and times and masks that outlive the call.
        unsafe { libc::ppoll(&mut poll, 1, &time, std::ptr::null()) };
    }
}

/// Phones have 10.45.1.0 and up.
fn address(number: usize) -> IpAddr {
    let [high, low] = (number as u16 + 256).to_be_bytes();
    IpAddr::from([10, 45, high, low])
}

/// Whose packet it is, by its IPv4 destination.
fn phone_of(packet: &[u8]) -> Option<usize> {
    match packet.get(16..20)? {
        [10, 45, high, low] => usize::from(u16::from_be_bytes([*high, *low])).checked_sub(256),
        _ => None,
    }
}
