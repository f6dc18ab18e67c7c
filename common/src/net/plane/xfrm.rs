//! The kernel's IPsec (XFRM): four states and four policies for each set (TS 33.203 §7.1), by
//! netlink.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netlink_packet_xfrm::constants::{
    XFRM_MSG_GETPOLICY, XFRM_MSG_GETSA, XFRM_MSG_NEWPOLICY, XFRM_POLICY_BLOCK, XFRM_POLICY_IN,
};
use netlink_packet_xfrm::policy::ModifyMessage as PolicyMessage;
use netlink_packet_xfrm::state::DelGetMessage as StateKey;
use netlink_packet_xfrm::{
    Address, Selector, UserPolicyInfo, UserSaId, UserSaInfo, XfrmAttrs, XfrmMessage,
};

use super::netlink::{Batch, FLAG_CREATE, FLAG_EXCLUSIVE, Netlink, Refusal};
use super::xfrm_message::{
    direction, full_length, parse, push, push_policy, push_policy_removal, push_state,
    push_state_question, push_state_removal, selector, state_of,
};
use crate::ipsec::sa::{Association, Encryption, Integrity, Keys, Ports, SaSet, SetId, Side, Spis};
use crate::secret::Secret;
use crate::stats::Samples;

/// Request ids of our states: their own 24 bits, by which leftovers are known as ours.
const REQUEST_IDS: std::ops::Range<u32> = 0x5400_0000..0x5500_0000;
/// Behind every other policy; also tells our blocking policies from others.
const BLOCK_PRIORITY: u32 = 0x7E55_0001;

/// The open data plane.
pub(in crate::net) struct Xfrm {
    netlink: Netlink,
    installed: HashMap<SetId, Installed>,
    /// The first request ids of the installed sets; each has four.
    used_request_ids: HashSet<u32>,
    next_request_id: u32,
    protected: Vec<SocketAddr>,
    retired: Arc<Retired>,
}

/// What is needed to take a set out again.
#[derive(Clone, Copy)]
struct Installed {
    associations: [Association; 4],
    first_request_id: u32,
}

/// Counters of states that are gone.
#[derive(Debug, Default)]
struct Retired {
    packets: [AtomicU64; 2],
    bytes: [AtomicU64; 2],
    replayed: AtomicU64,
    bad_icv: AtomicU64,
}

/// Sums over states; index 0 is inbound, 1 outbound.
#[derive(Debug, Default)]
struct Totals {
    states: u64,
    packets: [u64; 2],
    bytes: [u64; 2],
    replayed: u64,
    bad_icv: u64,
}

/// Whether the kernel takes ESP states of the families of these addresses; changes nothing for good.
pub(super) fn probe(protected: &[SocketAddr]) -> Result<(), String> {
    let mut netlink = open()?;
    let has_v6 = protected.iter().any(SocketAddr::is_ipv6);
    let has_v4 = !has_v6 || protected.iter().any(SocketAddr::is_ipv4);
    if has_v4 {
        probe_with(&mut netlink, [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)])?;
    }
    if has_v6 {
        let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        probe_with(&mut netlink, [address(1), address(2)])?;
    }
    Ok(())
}

/// Adds and removes a real state between addresses that are documentation's.
fn probe_with(netlink: &mut Netlink, ends: [impl Into<IpAddr>; 2]) -> Result<(), String> {
    const SPI: u32 = 0x7E55_7E55;
    let [ue, pcscf] = ends.map(Into::into);
    let key = || Secret::new([0x55; 16]);
    let set = SaSet {
        id: SetId(0),
        side: Side::Pcscf,
        ue,
        pcscf,
        ports: Ports { uc: 1, us: 2, pc: 3, ps: 4 },
        spis: Spis { uc: SPI, us: SPI, pc: SPI, ps: SPI },
        integrity: Integrity::HmacSha1_96,
        encryption: Encryption::AesCbc,
        keys: Keys { ck: key(), ik: key() },
    };
    let association = set.associations()[0];
    let mut batch = Batch::default();
    push_state(&mut batch, &set, &association, REQUEST_IDS.start);
    push_state_removal(&mut batch, &association);
    let refusals = netlink.send(batch, |_, _| {}).map_err(|error| failed(&error))?;
    match refusals.first() {
        None => Ok(()),
        Some(refusal) => Err(explain(refusal)),
    }
}

impl Xfrm {
    /// Removes what an earlier run left behind, and shuts the protected ports for clear text.
    pub fn open(protected: &[SocketAddr]) -> Result<Xfrm, String> {
        probe(protected)?;
        let mut xfrm = Xfrm {
            netlink: open()?,
            installed: HashMap::new(),
            used_request_ids: HashSet::new(),
            next_request_id: REQUEST_IDS.start,
            protected: protected.to_vec(),
            retired: Arc::default(),
        };
        xfrm.remove_leftovers(true)?;
        xfrm.shut_ports(true)?;
        Ok(xfrm)
    }

    /// Inbound objects first (ipsec.md K-06); all or nothing.
    pub fn install(&mut self, set: &SaSet) -> Result<(), String> {
        if self.installed.contains_key(&set.id) {
            return Err("a set of this number is installed".to_owned());
        }
        let first_request_id = self.request_ids();
        let mut refusals = self.add(set, first_request_id)?;
        if refusals.iter().any(|refusal| refusal.errno == libc::EEXIST) {
            // Ours from before, or somebody else's: only the former can be helped.
            self.remove_leftovers(false)?;
            refusals = self.add(set, first_request_id)?;
        }
        if let Some(refusal) = refusals.first() {
            return Err(explain(refusal));
        }
        let associations = set.associations();
        self.used_request_ids.insert(first_request_id);
        self.installed.insert(set.id, Installed { associations, first_request_id });
        Ok(())
    }

    pub fn associations(&self, set: SetId) -> Option<[Association; 4]> {
        self.installed.get(&set).map(|installed| installed.associations)
    }

    /// Removes all of a set, and keeps its counters.
    pub fn remove(&mut self, set: SetId) {
        let Some(installed) = self.installed.remove(&set) else { return };
        self.used_request_ids.remove(&installed.first_request_id);
        let mut batch = Batch::default();
        for association in &installed.associations {
            push_state_question(&mut batch, association);
        }
        for association in &installed.associations {
            push_policy_removal(&mut batch, selector(association), direction(association));
            push_state_removal(&mut batch, association);
        }
        let retired = self.retired.clone();
        let sent = self.netlink.send(batch, |request, payload| {
            if let Some(association) = installed.associations.get(request)
                && let Some(state) = state_of(payload)
            {
                retired.add(&state, association.is_inbound);
            }
        });
        match sent {
            Ok(refusals) => {
                for refusal in refusals {
                    let reason = explain(&refusal);
                    tracing::warn!(set = set.0, reason, "object of a set was gone already");
                }
            }
            Err(error) => tracing::error!(set = set.0, %error, "set not removed"),
        }
    }

    pub fn len(&self) -> usize {
        self.installed.len()
    }

    /// Takes out everything of this run.
    pub fn close(&mut self) {
        let sets: Vec<SetId> = self.installed.keys().copied().collect();
        for set in sets {
            self.remove(set);
        }
        if let Err(error) = self.shut_ports(false) {
            tracing::warn!(error, "blocking policies not removed");
        }
    }

    /// Reads the kernel's counters; for a thread that may take its time.
    pub fn counters(&self) -> impl Fn(&mut Samples) + Send + Sync + 'static {
        let (retired, protected) = (self.retired.clone(), self.protected.clone());
        move |samples| match totals(&protected, &retired) {
            Ok(totals) => totals.show(samples),
            Err(error) => tracing::warn!(error, "counters of the kernel not read"),
        }
    }

    fn add(&mut self, set: &SaSet, first_request_id: u32) -> Result<Vec<Refusal>, String> {
        let mut associations: Vec<(usize, Association)> =
            set.associations().into_iter().enumerate().collect();
        associations.sort_by_key(|(_, association)| !association.is_inbound);
        let mut batch = Batch::default();
        for (index, association) in &associations {
            let request_id = first_request_id + *index as u32;
            push_state(&mut batch, set, association, request_id);
            push_policy(&mut batch, association, request_id);
        }
        let refusals = self.netlink.send(batch, |_, _| {}).map_err(|error| failed(&error))?;
        if refusals.is_empty() {
            return Ok(refusals);
        }
        let is_refused = |request: usize| refusals.iter().any(|refusal| refusal.request == request);
        let mut undo = Batch::default();
        for (place, (_, association)) in associations.iter().enumerate() {
            if !is_refused(2 * place) {
                push_state_removal(&mut undo, association);
            }
            if !is_refused(2 * place + 1) {
                push_policy_removal(&mut undo, selector(association), direction(association));
            }
        }
        self.netlink.send(undo, |_, _| {}).map_err(|error| failed(&error))?;
        Ok(refusals)
    }

    /// The first of four ids that no installed set uses. There are ids for four million sets.
    fn request_ids(&mut self) -> u32 {
        loop {
            let first = self.next_request_id;
            self.next_request_id = first + 4;
            if self.next_request_id == REQUEST_IDS.end {
                self.next_request_id = REQUEST_IDS.start;
            }
            if !self.used_request_ids.contains(&first) {
                return first;
            }
        }
    }

    /// Removes states and policies that have our request ids and our addresses and belong to no set
    /// of this run. At the start the policies that shut the ports are of an earlier run as well.
    fn remove_leftovers(&mut self, is_start: bool) -> Result<(), String> {
        let used = &self.used_request_ids;
        let is_stale = |request_id: u32| {
            REQUEST_IDS.contains(&request_id)
                && !used.contains(&(request_id - (request_id - REQUEST_IDS.start) % 4))
        };
        let mut batch = Batch::default();
        let protected = self.protected.clone();
        dump_states(&mut self.netlink, |state| {
            let is_our_address = [state.id.daddr, state.saddr]
                .iter()
                .any(|address| is_ours(&protected, address, state.family));
            if is_stale(state.reqid) && is_our_address {
                push(
                    &mut batch,
                    XfrmMessage::DeleteSa(StateKey {
                        user_sa_id: UserSaId {
                            daddr: state.id.daddr,
                            spi: state.id.spi,
                            family: state.family,
                            proto: state.id.proto,
                        },
                        nlas: Vec::new(),
                    }),
                    0,
                );
            }
        })?;
        dump_policies(&mut self.netlink, |policy| {
            let info = &policy.user_policy_info;
            let is_our_address = [info.selector.daddr, info.selector.saddr]
                .iter()
                .any(|address| is_ours(&protected, address, info.selector.family));
            let has_our_template = policy.nlas.iter().any(|attribute| match attribute {
                XfrmAttrs::Template(templates) => {
                    templates.iter().any(|template| is_stale(template.reqid))
                }
                _ => false,
            });
            let is_block =
                is_start && info.priority == BLOCK_PRIORITY && info.action == XFRM_POLICY_BLOCK;
            if is_our_address && (has_our_template || is_block) {
                push_policy_removal(&mut batch, info.selector, info.direction);
            }
        })?;
        if batch.is_empty() {
            return Ok(());
        }
        tracing::warn!("removing security associations that an earlier run left behind");
        let refusals = self.netlink.send(batch, |_, _| {}).map_err(|error| failed(&error))?;
        for refusal in refusals {
            tracing::warn!(reason = explain(&refusal), "leftover not removed");
        }
        Ok(())
    }

    /// Clear text to a protected port is dropped, whichever association it should have used
    /// (ipsec.md K-08).
    fn shut_ports(&mut self, is_shut: bool) -> Result<(), String> {
        let mut batch = Batch::default();
        let mut seen = HashSet::new();
        for address in self.protected.iter().filter(|address| seen.insert(**address)) {
            let mut selector = Selector::default();
            let any: IpAddr = match address {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            selector.source_prefix(&any, 0);
            selector.destination_prefix(&address.ip(), full_length(address.ip()));
            selector.dport = address.port();
            selector.dport_mask = u16::MAX;
            if !is_shut {
                push_policy_removal(&mut batch, selector, XFRM_POLICY_IN);
                continue;
            }
            let user_policy_info = UserPolicyInfo {
                selector,
                priority: BLOCK_PRIORITY,
                direction: XFRM_POLICY_IN,
                action: XFRM_POLICY_BLOCK,
                ..UserPolicyInfo::default()
            };
            let message = PolicyMessage { user_policy_info, nlas: Vec::new() };
            push(&mut batch, XfrmMessage::AddPolicy(message), FLAG_CREATE | FLAG_EXCLUSIVE);
        }
        let refusals = self.netlink.send(batch, |_, _| {}).map_err(|error| failed(&error))?;
        match refusals.first() {
            Some(refusal) if is_shut => {
                Err(format!("ipsec: protected ports not shut: {}", explain(refusal)))
            }
            _ => Ok(()),
        }
    }
}

impl Retired {
    fn add(&self, state: &UserSaInfo, is_inbound: bool) {
        let place = usize::from(!is_inbound);
        self.packets[place].fetch_add(state.lifetime_cur.packets, Ordering::Relaxed);
        self.bytes[place].fetch_add(state.lifetime_cur.bytes, Ordering::Relaxed);
        self.replayed.fetch_add(state.stats.replay.into(), Ordering::Relaxed);
        self.bad_icv.fetch_add(state.stats.integrity_failed.into(), Ordering::Relaxed);
    }
}

impl Totals {
    fn show(&self, samples: &mut Samples) {
        samples.gauge(
            "tessera_ipsec_kernel_states",
            "Security associations of this daemon in the kernel.",
            &[],
            self.states as f64,
        );
        let drops = [("replay", self.replayed), ("bad_icv", self.bad_icv)];
        super::show_traffic(samples, self.packets, self.bytes, &drops);
        // Of the whole network namespace; absent without CONFIG_XFRM_STATISTICS.
        let errors = std::fs::read_to_string("/proc/net/xfrm_stat").unwrap_or_default();
        for line in errors.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some(reason), Some(Ok(count))) = (words.next(), words.next().map(str::parse)) {
                let help = "Packets that XFRM of this network namespace dropped.";
                let labels = [("reason", reason)];
                samples.counter("tessera_ipsec_kernel_errors_total", help, &labels, count);
            }
        }
    }
}

fn totals(protected: &[SocketAddr], retired: &Retired) -> Result<Totals, String> {
    let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
    let mut totals = Totals {
        states: 0,
        packets: [load(&retired.packets[0]), load(&retired.packets[1])],
        bytes: [load(&retired.bytes[0]), load(&retired.bytes[1])],
        replayed: load(&retired.replayed),
        bad_icv: load(&retired.bad_icv),
    };
    dump_states(&mut open()?, |state| {
        let is_outbound = is_ours(protected, &state.saddr, state.family);
        let is_inbound = is_ours(protected, &state.id.daddr, state.family);
        if !REQUEST_IDS.contains(&state.reqid) || !(is_inbound || is_outbound) {
            return;
        }
        let place = usize::from(!is_inbound);
        totals.states += 1;
        totals.packets[place] += state.lifetime_cur.packets;
        totals.bytes[place] += state.lifetime_cur.bytes;
        totals.replayed += u64::from(state.stats.replay);
        totals.bad_icv += u64::from(state.stats.integrity_failed);
    })?;
    Ok(totals)
}

fn open() -> Result<Netlink, String> {
    Netlink::open(libc::NETLINK_XFRM as isize)
        .map_err(|error| format!("the kernel has no XFRM (CONFIG_XFRM_USER): {error}"))
}

fn failed(error: &io::Error) -> String {
    format!("XFRM request failed: {error}")
}

/// What a refusal means and how to mend it.
fn explain(refusal: &Refusal) -> String {
    let error = io::Error::from_raw_os_error(refusal.errno);
    let meaning = match refusal.errno {
        libc::EPROTONOSUPPORT => "the kernel has no ESP (CONFIG_INET_ESP, CONFIG_INET6_ESP)",
        libc::ENOSYS | libc::ENOENT => "the kernel lacks the algorithm, or the object is gone",
        libc::EEXIST => "the SPI, or the ports, are in use",
        libc::EPERM | libc::EACCES => "CAP_NET_ADMIN is needed",
        _ => "the kernel refused the association",
    };
    match refusal.text.as_str() {
        "" => format!("{meaning} ({error})"),
        text => format!("{meaning} ({error}: {text})"),
    }
}

/// Whether an address is one of ours; a protected port on all addresses makes every one ours.
fn is_ours(protected: &[SocketAddr], address: &Address, family: u16) -> bool {
    let address = if i32::from(family) == libc::AF_INET {
        IpAddr::V4(address.to_ipv4())
    } else {
        IpAddr::V6(address.to_ipv6())
    };
    protected.iter().any(|own| own.ip() == address || own.ip().is_unspecified())
}

fn dump_states(netlink: &mut Netlink, mut each: impl FnMut(UserSaInfo)) -> Result<(), String> {
    netlink
        .dump(
            XFRM_MSG_GETSA,
            0,
            |_| {},
            |payload| {
                if let Some(state) = state_of(payload) {
                    each(state);
                }
            },
        )
        .map_err(|error| failed(&error))
}

fn dump_policies(netlink: &mut Netlink, mut each: impl FnMut(PolicyMessage)) -> Result<(), String> {
    netlink
        .dump(
            XFRM_MSG_GETPOLICY,
            0,
            |_| {},
            |payload| {
                if let Some(XfrmMessage::AddPolicy(policy)) = parse(XFRM_MSG_NEWPOLICY, payload) {
                    each(policy);
                }
            },
        )
        .map_err(|error| failed(&error))
}
