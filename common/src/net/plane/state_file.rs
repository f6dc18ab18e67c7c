//! The sets of the user-space plane in a file that outlives the process: keys, and how far each
//! association has come.
//!
//! The file is mapped into memory: what was written last is there after a kill, and no packet waits
//! for a system call. After a reboot that would not be true of pages that had not reached the disk,
//! and sequence numbers would repeat, so the file names the boot that it belongs to and is worth
//! nothing to another.
//!
//! Whoever reads the file has the keys. It is its owner's alone (0600), gone with the set, and
//! belongs on a tmpfs, which no disk ever sees. A key file beside it would be read by the same
//! process from the same place and protect nothing more.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, compiler_fence};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use crate::ipsec::esp::{EspCounters, Progress, Window};
use crate::ipsec::sa::{Encryption, Integrity, Keys, Mode, Ports, SaSet, SetId, Side, Spis};
use crate::secret::Secret;

const MAGIC: [u8; 8] = *b"TESSAS\x00\x01";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const BOOT_ID_BYTES: usize = 36;
const HEADER_BYTES: usize = 4_096;
const SLOT_BYTES: usize = 1_024;
/// The file grows by so many slots at a time.
const GROWTH: usize = 256;

// Inside a slot: is it used, length of the description, CK and IK, description, progress, port of the
// NAT.
const DESCRIPTION_LENGTH: usize = 4;
const KEYS: usize = 8;
const DESCRIPTION: usize = KEYS + 32;
const PROGRESS: usize = 512;
const PROGRESS_BYTES: usize = 64;
const NAT_PORT: usize = PROGRESS + 4 * PROGRESS_BYTES;

const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// The open file; no other process has it open.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    file: File,
    map: Mapping,
    free: Vec<usize>,
}

/// What a run finds of the one before.
#[derive(Debug)]
pub(super) struct Found {
    pub slot: usize,
    pub set: SaSet,
    pub progress: [Progress; 4],
    /// Seconds since the Unix epoch; 0: never.
    pub last_used: [u64; 4],
}

/// A set without its keys, as JSON.
#[derive(Serialize, Deserialize)]
struct Description {
    id: SetId,
    side: Side,
    /// Address of the NAT; its port has a place of its own, for it may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nat: Option<IpAddr>,
    ue: IpAddr,
    pcscf: IpAddr,
    ports: Ports,
    spis: Spis,
    integrity: Integrity,
    encryption: Encryption,
}

/// Whether the file could be opened; changes nothing.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let shown = path.display();
    if path.exists() {
        return match File::options().read(true).write(true).open(path) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("ipsec.state {shown}: {error}; change its owner")),
        };
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(format!("ipsec.state {shown}: make the directory {}", folder.display()));
    }
    nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK)
        .map_err(|error| format!("ipsec.state {shown}: {} is not ours: {error}", folder.display()))
}

impl StateFile {
    /// Opens or creates the file, and reads what an earlier run of this boot has left in it.
    pub fn open(path: &Path) -> Result<(StateFile, Vec<Found>), String> {
        let named = |error: io::Error| format!("ipsec.state {}: {error}", path.display());
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(named)?;
        let metadata = file.metadata().map_err(named)?;
        if metadata.uid() != nix::unistd::geteuid().as_raw() || !metadata.is_file() {
            let path = path.display();
            return Err(format!("ipsec.state {path}: is not a file of our own; remove it"));
        }
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(named)?;
        file.try_lock().map_err(|error| {
            format!("ipsec.state {}: another process has it: {error}", path.display())
        })?;
        if !is_in_memory(&file) {
            let path = path.display();
            tracing::warn!(
                "ipsec.state {path} is not on a tmpfs: keys of associations reach a disk"
            );
        }
        let boot = std::fs::read(BOOT_ID).unwrap_or_default();
        let boot = boot.get(..BOOT_ID_BYTES).ok_or_else(|| format!("{BOOT_ID}: cannot be read"))?;
        let length = metadata.len() as usize;
        let is_whole = length >= HEADER_BYTES && (length - HEADER_BYTES).is_multiple_of(SLOT_BYTES);
        let mut opened = StateFile {
            path: path.to_owned(),
            map: Mapping::of(&file, if is_whole { length } else { 0 }).map_err(named)?,
            file,
            free: Vec::new(),
        };
        let is_ours = is_whole
            && opened.map.bytes()[..8] == MAGIC
            && opened.map.bytes()[8..8 + BOOT_ID_BYTES] == *boot;
        if !is_ours {
            opened.begin(boot).map_err(named)?;
        }
        let found = opened.read();
        Ok((opened, found))
    }

    /// Adds a set; the answer is its slot.
    pub fn add(&mut self, set: &SaSet, progress: &[Progress; 4]) -> Result<usize, String> {
        let SaSet { id, side, mode, ue, pcscf, ports, spis, integrity, encryption, ref keys } =
            *set;
        let nat = match mode {
            Mode::Transport => None,
            Mode::UdpEncTun { nat } => Some(nat),
        };
        let description = Description {
            id,
            side,
            nat: nat.map(|nat| nat.ip()),
            ue,
            pcscf,
            ports,
            spis,
            integrity,
            encryption,
        };
        let text = serde_json::to_vec(&description).map_err(|error| error.to_string())?;
        if text.len() > PROGRESS - DESCRIPTION {
            return Err("ipsec.state: the set is too large".to_owned());
        }
        if self.free.is_empty() {
            self.grow().map_err(|error| format!("ipsec.state {}: {error}", self.path.display()))?;
        }
        let Some(slot) = self.free.pop() else { return Err("ipsec.state is full".to_owned()) };
        let bytes = self.slot(slot);
        bytes[DESCRIPTION_LENGTH..KEYS].copy_from_slice(&(text.len() as u32).to_ne_bytes());
        bytes[KEYS..KEYS + 16].copy_from_slice(keys.ck.expose());
        bytes[KEYS + 16..DESCRIPTION].copy_from_slice(keys.ik.expose());
        bytes[DESCRIPTION..DESCRIPTION + text.len()].copy_from_slice(&text);
        for (place, progress) in progress.iter().enumerate() {
            write_progress(bytes, place, progress, 0);
        }
        write_nat_port(bytes, nat.map_or(0, |nat| nat.port()));
        // Whole before it counts: a kill may come at any moment.
        compiler_fence(Ordering::SeqCst);
        bytes[0] = 1;
        Ok(slot)
    }

    /// How far an association has come; to be called before its packet goes on.
    pub fn note(&mut self, slot: usize, place: usize, progress: &Progress, last_used: u64) {
        write_progress(self.slot(slot), place, progress, last_used);
    }

    /// The NAT has given another port; to be called before a packet goes there.
    pub fn note_nat_port(&mut self, slot: usize, port: u16) {
        write_nat_port(self.slot(slot), port);
    }

    /// Wipes a slot.
    pub fn remove(&mut self, slot: usize) {
        let bytes = self.slot(slot);
        bytes[0] = 0;
        compiler_fence(Ordering::SeqCst);
        bytes.zeroize();
        self.free.push(slot);
    }

    /// Throws away whatever was in it.
    fn begin(&mut self, boot: &[u8]) -> io::Result<()> {
        self.map = Mapping::of(&self.file, 0)?;
        self.file.set_len(0)?;
        self.resize(0)?;
        let header = self.map.bytes_mut();
        header[8..8 + BOOT_ID_BYTES].copy_from_slice(boot);
        compiler_fence(Ordering::SeqCst);
        header[..8].copy_from_slice(&MAGIC);
        Ok(())
    }

    fn grow(&mut self) -> io::Result<()> {
        let slots = self.slots();
        self.resize(slots + GROWTH)?;
        self.free.extend((slots..slots + GROWTH).rev());
        Ok(())
    }

    /// The room is really there: a write to the mapping of a full disk would end the process.
    fn resize(&mut self, slots: usize) -> io::Result<()> {
        let length = HEADER_BYTES + slots * SLOT_BYTES;
        // SAFETY: the descriptor is open.
        let error = unsafe { libc::posix_fallocate(self.file.as_raw_fd(), 0, length as i64) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        self.map = Mapping::of(&self.file, length)?;
        Ok(())
    }

    fn read(&mut self) -> Vec<Found> {
        let mut found = Vec::new();
        for slot in 0..self.slots() {
            let bytes = self.slot(slot);
            let set = if bytes[0] == 1 { read_set(bytes) } else { None };
            match set {
                Some(set) => {
                    let (mut progress, mut last_used) = ([Progress::default(); 4], [0; 4]);
                    for place in 0..4 {
                        (progress[place], last_used[place]) = read_progress(bytes, place);
                    }
                    found.push(Found { slot, set, progress, last_used });
                }
                None => self.remove(slot),
            }
        }
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        found
    }

    fn slots(&self) -> usize {
        self.map.bytes().len().saturating_sub(HEADER_BYTES) / SLOT_BYTES
    }

    fn slot(&mut self, slot: usize) -> &mut [u8] {
        let start = HEADER_BYTES + slot * SLOT_BYTES;
        &mut self.map.bytes_mut()[start..start + SLOT_BYTES]
    }
}

fn read_set(bytes: &[u8]) -> Option<SaSet> {
    let length = u32::from_ne_bytes(*bytes[DESCRIPTION_LENGTH..].first_chunk()?) as usize;
    let text = bytes[DESCRIPTION..PROGRESS].get(..length)?;
    let Description { id, side, nat, ue, pcscf, ports, spis, integrity, encryption } =
        serde_json::from_slice(text).ok()?;
    let nat_port = u16::from_ne_bytes(*bytes[NAT_PORT..].first_chunk()?);
    let mode = match nat {
        None => Mode::Transport,
        Some(nat) => Mode::UdpEncTun { nat: SocketAddr::new(nat, nat_port) },
    };
    let keys = Keys {
        ck: Secret::new(*bytes[KEYS..].first_chunk()?),
        ik: Secret::new(*bytes[KEYS + 16..].first_chunk()?),
    };
    Some(SaSet { id, side, mode, ue, pcscf, ports, spis, integrity, encryption, keys })
}

fn write_nat_port(slot: &mut [u8], port: u16) {
    slot[NAT_PORT..NAT_PORT + 2].copy_from_slice(&port.to_ne_bytes());
}

fn write_progress(slot: &mut [u8], place: usize, progress: &Progress, last_used: u64) {
    let Progress { sequence, iv_start, window, counters, replayed, bad_icv } = *progress;
    let words = [
        u64::from(sequence) << 32 | u64::from(window.highest),
        iv_start,
        window.seen,
        counters.packets,
        counters.bytes,
        replayed,
        bad_icv,
        last_used,
    ];
    let start = PROGRESS + place * PROGRESS_BYTES;
    for (to, word) in slot[start..start + PROGRESS_BYTES].chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
}

fn read_progress(slot: &[u8], place: usize) -> (Progress, u64) {
    let start = PROGRESS + place * PROGRESS_BYTES;
    let word = |at: usize| {
        let octets: [u8; 8] = std::array::from_fn(|octet| slot[start + 8 * at + octet]);
        u64::from_ne_bytes(octets)
    };
    let progress = Progress {
        sequence: (word(0) >> 32) as u32,
        iv_start: word(1),
        window: Window { highest: word(0) as u32, seen: word(2) },
        counters: EspCounters { packets: word(3), bytes: word(4) },
        replayed: word(5),
        bad_icv: word(6),
    };
    (progress, word(7))
}

fn is_in_memory(file: &File) -> bool {
    let mut about = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open and the structure outlives the call.
    let failed = unsafe { libc::fstatfs(file.as_raw_fd(), about.as_mut_ptr()) } != 0;
    // SAFETY: zeroed is a valid value of it, and the call has filled it.
    let kind = unsafe { about.assume_init() }.f_type;
    !failed && [TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind)
}

/// A file in memory, shared with the kernel.
#[derive(Debug)]
struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

impl Mapping {
    /// `length` must not be more than the file has, else touching the rest ends the process.
    fn of(file: &File, length: usize) -> io::Result<Mapping> {
        if length == 0 {
            return Ok(Mapping { start: std::ptr::null_mut(), length });
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let descriptor = file.as_raw_fd();
        // SAFETY: a new mapping of an open file at a place that the kernel chooses.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, descriptor, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: of this mapping; keys are no business of a core dump.
        unsafe { libc::madvise(start, length, libc::MADV_DONTDUMP) };
        Ok(Mapping { start, length })
    }

    fn bytes(&self) -> &[u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: mapped for as long as this value lives; the lock keeps other processes from it.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        if self.length == 0 {
            return &mut [];
        }
        // SAFETY: as above, and this value is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: mapped by us, and no slice of it lives longer than this value.
            unsafe { libc::munmap(self.start, self.length) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipsec::esp::{EspSet, OpenError};

    fn set(id: u64, side: Side) -> SaSet {
        SaSet {
            id: SetId(id),
            side,
            mode: Mode::Transport,
            ue: "fd00:45::2".parse().unwrap(),
            pcscf: "fd00:46::1".parse().unwrap(),
            ports: Ports { uc: 31_000, us: 31_001, pc: 5_100, ps: 5_064 },
            spis: Spis {
                uc: 4_000_000_001,
                us: 4_000_000_002,
                pc: 4_000_000_003,
                ps: 4_000_000_004,
            },
            integrity: Integrity::Null,
            encryption: Encryption::AesGcm,
            keys: Keys { ck: Secret::new([id as u8; 16]), ik: Secret::new([0x5A; 16]) },
        }
    }

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("tessera-{name}-{}", std::process::id()))
    }

    /// An IPv6 packet with UDP from the phone's client port to the protected server port.
    fn packet(text: &[u8]) -> Vec<u8> {
        let set = set(1, Side::Ue);
        let mut packet = vec![0x60, 0, 0, 0, 0, 8 + text.len() as u8, 17, 64];
        for ip in [set.ue, set.pcscf] {
            let IpAddr::V6(ip) = ip else { unreachable!() };
            packet.extend(ip.octets());
        }
        packet.extend([set.ports.uc, set.ports.ps].iter().flat_map(|port| port.to_be_bytes()));
        packet.extend((8 + text.len() as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(text);
        packet
    }

    /// RFC 4303 §3.3.3, §3.4.3: after a crash no number is sent again, none is accepted again, and
    /// nothing that was not seen is lost.
    #[test]
    fn a_crash_repeats_no_number_and_loses_none() {
        let path = path("crash");
        let mut phone = EspSet::new(&set(1, Side::Ue), [1; 32]);
        let sealed: Vec<Vec<u8>> = (0..5).map(|n| phone.seal(&packet(&[n])).unwrap()).collect();
        let before = {
            let (mut file, found) = StateFile::open(&path).unwrap();
            assert!(found.is_empty());
            let mut pcscf = EspSet::new(&set(1, Side::Pcscf), [2; 32]);
            let slot = file.add(pcscf.set(), &pcscf.progress()).unwrap();
            for arrived in [0, 1, 3] {
                pcscf.open(&sealed[arrived]).unwrap();
                file.note(slot, 0, &pcscf.progress()[0], 77);
            }
            pcscf.progress()
            // Neither closed nor flushed: as a kill leaves it.
        };
        let (_file, found) = StateFile::open(&path).unwrap();
        let [Found { set: kept, progress, last_used, .. }] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(*kept, set(1, Side::Pcscf));
        assert_eq!((*progress, *last_used), (before, [77, 0, 0, 0]));
        let mut pcscf = EspSet::resume(kept, [3; 32], *progress);
        assert_eq!(pcscf.open(&sealed[1]), Err(OpenError::Replayed));
        assert_eq!(pcscf.open(&sealed[3]), Err(OpenError::Replayed));
        assert_eq!(pcscf.open(&sealed[2]).unwrap(), packet(&[2]));
        assert_eq!(pcscf.open(&sealed[4]).unwrap(), packet(&[4]));
        std::fs::remove_file(path).unwrap();
    }

    /// TS 33.203 Annex M: where the UE was last heard from is known to the next run.
    #[test]
    fn a_crash_forgets_no_nat() {
        let path = path("nat");
        let nat = |port| Mode::UdpEncTun { nat: SocketAddr::from(([198, 51, 100, 7], port)) };
        let kept = SaSet { mode: nat(4_500), ..set(1, Side::Pcscf) };
        {
            let (mut file, _) = StateFile::open(&path).unwrap();
            let slot = file.add(&kept, &[Progress::default(); 4]).unwrap();
            file.note_nat_port(slot, 31_234);
        }
        let (_file, found) = StateFile::open(&path).unwrap();
        assert_eq!(found[0].set, SaSet { mode: nat(31_234), ..kept });
        std::fs::remove_file(path).unwrap();
    }

    /// The counted IVs of GCM go on with the numbers.
    #[test]
    fn a_resumed_sender_repeats_no_iv() {
        let mut first = EspSet::new(&set(1, Side::Ue), [1; 32]);
        let one = first.seal(&packet(b"a")).unwrap();
        let mut second = EspSet::resume(&set(1, Side::Ue), [9; 32], first.progress());
        let two = second.seal(&packet(b"a")).unwrap();
        // SPI, number, IV.
        let head = |packet: &[u8]| packet[44..56].to_vec();
        assert_eq!(head(&one)[..4], [0, 0, 0, 1]);
        assert_eq!(head(&two)[..4], [0, 0, 0, 2]);
        assert_ne!(head(&one)[4..], head(&two)[4..]);
    }

    #[test]
    fn is_its_owners_alone_grows_and_wipes() {
        use std::os::unix::fs::MetadataExt;
        let path = path("grows");
        let slots: Vec<usize> = {
            let (mut file, _) = StateFile::open(&path).unwrap();
            assert!(StateFile::open(&path).unwrap_err().contains("another process"));
            let progress = [Progress::default(); 4];
            (0..300).map(|id| file.add(&set(id, Side::Pcscf), &progress).unwrap()).collect()
        };
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let (mut file, found) = StateFile::open(&path).unwrap();
        assert_eq!(found.len(), 300);
        for slot in slots {
            file.remove(slot);
        }
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[HEADER_BYTES..].iter().all(|octet| *octet == 0));
        drop(file);
        assert!(StateFile::open(&path).unwrap().1.is_empty());
        std::fs::remove_file(path).unwrap();
    }

    /// What belongs to another boot, is cut short or is no file of ours at all, gives no sets.
    #[test]
    fn another_boot_finds_nothing() {
        let path = path("boot");
        {
            let (mut file, _) = StateFile::open(&path).unwrap();
            file.add(&set(1, Side::Pcscf), &[Progress::default(); 4]).unwrap();
        }
        let good = std::fs::read(&path).unwrap();
        let mut of_another_boot = good.clone();
        of_another_boot[10] ^= 1;
        let mut damaged = good.clone();
        damaged[HEADER_BYTES + DESCRIPTION] = b'x';
        let cut = good[..good.len() - 7].to_vec();
        for bytes in [of_another_boot, damaged, cut, b"something else".to_vec()] {
            std::fs::write(&path, bytes).unwrap();
            assert!(StateFile::open(&path).unwrap().1.is_empty());
        }
        std::fs::write(&path, good).unwrap();
        assert_eq!(StateFile::open(&path).unwrap().1.len(), 1);
        std::fs::remove_file(path).unwrap();
    }
}
