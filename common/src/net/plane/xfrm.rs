//! The kernel's IPsec (XFRM): four states and four policies for each set (TS 33.203 §7.1), by
//! netlink. They outlive this process: the next run adopts the sets that its core still knows.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netlink_packet_xfrm::constants::{
    XFRM_MSG_EXPIRE, XFRM_MSG_GETPOLICY, XFRM_MSG_GETSA, XFRM_MSG_MAPPING, XFRM_POLICY_BLOCK,
    XFRM_POLICY_IN, XFRMNLGRP_EXPIRE, XFRMNLGRP_MAPPING,
};
use netlink_packet_xfrm::policy::ModifyMessage as PolicyMessage;
use netlink_packet_xfrm::state::{DelGetMessage as StateKey, ModifyMessage as StateMessage};
use netlink_packet_xfrm::{Address, Selector, UserPolicyInfo, UserSaId, UserSaInfo, XfrmMessage};
use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::encapsulation;
use super::epoch_seconds;
use super::netlink::{Batch, Netlink, Refusal};
use super::xfrm_message::{
    address_of, direction, encapsulation_source_port, ends, full_length, last_used_seconds, parse,
    policy_of, push, push_change, push_policy, push_policy_question, push_policy_removal,
    push_state, push_state_question, push_state_removal, selector, state_of, wanted_request_id,
};
use crate::ipsec::audit::{Audit, KnownSet, Traffic};
use crate::ipsec::sa::{
    Association, Encryption, Integrity, Keys, Mode, Ports, SaSet, SetId, Side, Spis,
};
use crate::net::inbox::Inbox;
use crate::node::{Input, Now, UNKEPT_SAS_LIFE};
use crate::secret::Secret;
use crate::stats::Samples;

/// Request ids of our states: their own 24 bits, by which they are known as ours. Each set has four,
/// by its number, so that a later run knows them too.
const REQUEST_IDS: std::ops::Range<u32> = 0x5400_0000..0x5500_0000;
/// Behind every other policy; also tells our blocking policies from others.
const BLOCK_PRIORITY: u32 = 0x7E55_0001;
/// How much later than the core's timer the kernel ends a set by itself.
const BEYOND_THE_CORE_SECONDS: u64 = 10;
/// Objects removed before other tasks have their turn.
const REMOVED_AT_A_TIME: usize = 256;

/// The open data plane.
pub(in crate::net) struct Xfrm {
    table: Rc<RefCell<Table>>,
    events: tokio::task::JoinHandle<()>,
    /// Their packets go to the kernel's ESP.
    _encapsulation: Vec<Socket>,
}

struct Table {
    netlink: Netlink,
    installed: HashMap<SetId, Installed>,
    /// By destination and SPI of each association.
    by_spi: HashMap<(IpAddr, u32), SetId>,
    /// By source and destination of each policy.
    by_ends: HashMap<(SocketAddr, SocketAddr), SetId>,
    protected: Vec<SocketAddr>,
    retired: Arc<Retired>,
    rebound: u64,
}

/// What is needed to take a set out again.
#[derive(Clone, Copy)]
struct Installed {
    associations: [Association; 4],
    /// Seconds since the Unix epoch: what the kernel counts its limits from. `None`: an earlier run
    /// did it, and the kernel has not been asked yet.
    added_at: Option<u64>,
    /// When the kernel ends it, which is told to it once `added_at` is known; `None`: after
    /// [`UNKEPT_SAS_LIFE`].
    until: Option<Now>,
    /// The kernel has no more of it.
    is_gone: bool,
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
        mode: Mode::Transport,
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
    push_state(&mut batch, &set, &association, REQUEST_IDS.start, 60);
    push_state_removal(&mut batch, &association);
    let refusals = netlink.send(batch, |_, _| {}).map_err(|error| failed(&error))?;
    match refusals.first() {
        None => Ok(()),
        Some(refusal) => Err(explain(refusal)),
    }
}

impl Xfrm {
    /// Shuts the protected ports for clear text. States and policies of an earlier run stay as they
    /// are until [`Xfrm::audit`] has told whose they are.
    pub fn open(protected: &[SocketAddr], nat: bool, inbox: &Rc<Inbox>) -> Result<Xfrm, String> {
        probe(protected)?;
        let encapsulation =
            if nat { encapsulation::open_for_kernel(protected)? } else { Vec::new() };
        let mut table = Table {
            netlink: open()?,
            installed: HashMap::new(),
            by_spi: HashMap::new(),
            by_ends: HashMap::new(),
            protected: protected.to_vec(),
            retired: Arc::default(),
            rebound: 0,
        };
        let groups = [XFRMNLGRP_EXPIRE, XFRMNLGRP_MAPPING];
        let events = Netlink::open_groups(libc::NETLINK_XFRM as isize, &groups)
            .map_err(|error| failed(&error))?;
        // SAFETY: a `Netlink` keeps its descriptor open, and the same, as long as it lives.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }
            .map_err(|error| failed(&error.into()))?;
        table.shut_ports(true)?;
        let table = Rc::new(RefCell::new(table));
        let events = tokio::task::spawn_local(hear_events(events, table.clone(), inbox.clone()));
        Ok(Xfrm { table, events, _encapsulation: encapsulation })
    }

    /// Inbound objects first (ipsec.md K-06); all or nothing.
    pub fn install(&mut self, set: &SaSet) -> Result<(), String> {
        let mut table = self.table.borrow_mut();
        if table.installed.contains_key(&set.id) {
            return Err("a set of this number is installed".to_owned());
        }
        let mut refusals = table.add(set)?;
        if refusals.iter().any(|refusal| refusal.errno == libc::EEXIST) {
            // Ours from before, or somebody else's: only the former can be helped.
            table.clear_way_for(&set.associations())?;
            refusals = table.add(set)?;
        }
        if let Some(refusal) = refusals.first() {
            return Err(explain(refusal));
        }
        table.note(set.id, set.associations(), Some(epoch_seconds()));
        Ok(())
    }

    /// The kernel ends the set by itself a little after this (TS 33.203 §7.4).
    pub fn keep(&mut self, set: SetId, until: Now) {
        self.table.borrow_mut().keep(set, until);
    }

    pub fn associations(&self, set: SetId) -> Option<[Association; 4]> {
        self.table.borrow().installed.get(&set).map(|installed| installed.associations)
    }

    /// Removes all of a set, and keeps its counters.
    pub fn remove(&mut self, set: SetId) {
        self.table.borrow_mut().remove(set);
    }

    pub fn len(&self) -> usize {
        self.table.borrow().installed.len()
    }

    pub fn samples(&self, samples: &mut Samples) {
        super::show_rebound(samples, self.table.borrow().rebound);
    }

    /// Opens the ports that nobody listens at any more. The sets stay: the next run goes on with them.
    pub fn close(&mut self) {
        if let Err(error) = self.table.borrow_mut().shut_ports(false) {
            tracing::warn!(error, "blocking policies not removed");
        }
    }

    /// Compares the kernel with the sets that the core knows; the kernel is read on another thread,
    /// which takes a second for tens of thousands of sets. `done` gets the answer later, on this one.
    pub fn audit(&self, known: Vec<KnownSet>, done: impl FnOnce(Result<Audit, String>) + 'static) {
        let table = self.table.clone();
        let protected = {
            let mut table = table.borrow_mut();
            for set in &known {
                if !table.installed.contains_key(&set.id) {
                    table.note(set.id, set.associations(), None);
                }
            }
            table.protected.clone()
        };
        tokio::task::spawn_local(async move {
            let looking = tokio::task::spawn_blocking(move || look(&protected, &known));
            let result = match looking.await {
                Ok(Ok(seen)) => conclude(&table, seen).await,
                Ok(Err(error)) => Err(error),
                Err(error) => Err(error.to_string()),
            };
            done(result);
        });
    }

    /// Reads the kernel's counters; for a thread that may take its time.
    pub fn counters(&self) -> impl Fn(&mut Samples) + Send + Sync + 'static {
        let table = self.table.borrow();
        let (retired, protected) = (table.retired.clone(), table.protected.clone());
        move |samples| match totals(&protected, &retired) {
            Ok(totals) => totals.show(samples),
            Err(error) => tracing::warn!(error, "counters of the kernel not read"),
        }
    }
}

impl Drop for Xfrm {
    fn drop(&mut self) {
        self.events.abort();
    }
}

impl Table {
    fn add(&mut self, set: &SaSet) -> Result<Vec<Refusal>, String> {
        let mut associations: Vec<(usize, Association)> =
            set.associations().into_iter().enumerate().collect();
        associations.sort_by_key(|(_, association)| !association.is_inbound);
        let life_seconds = UNKEPT_SAS_LIFE.as_secs();
        let mut batch = Batch::default();
        for (place, association) in &associations {
            let request_id = request_id(set.id, *place);
            push_state(&mut batch, set, association, request_id, life_seconds);
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

    fn note(&mut self, set: SetId, associations: [Association; 4], added_at: Option<u64>) {
        for association in &associations {
            self.by_spi.insert((association.on_the_wire().1, association.spi), set);
            self.by_ends.insert((association.source, association.destination), set);
        }
        let installed = Installed { associations, added_at, until: None, is_gone: false };
        self.installed.insert(set, installed);
    }

    fn keep(&mut self, set: SetId, until: Now) {
        let Some(installed) = self.installed.get_mut(&set) else { return };
        installed.until = Some(until);
        self.change(set);
    }

    /// TS 33.203 Annex M, RFC 3948 §3.1.1: where packets to the UE of a set go from now on. The kernel
    /// tells of it after it has found the packet that came from there authentic.
    fn rebind(&mut self, set: SetId, nat: SocketAddr) {
        let Some(installed) = self.installed.get_mut(&set) else { return };
        let known = installed.nat();
        if known.is_none_or(|known| known.ip() != nat.ip() || known == nat) {
            return;
        }
        installed.set_nat_port(nat.port());
        self.rebound += 1;
        super::tell_rebound(set, nat);
        self.change(set);
    }

    /// Tells the kernel what it is to know of a set, once it is known what it has.
    fn change(&mut self, set: SetId) {
        let Some(installed) = self.installed.get(&set) else { return };
        let Some(added_at) = installed.added_at else { return };
        let life_seconds = match installed.until {
            Some(until) => until.as_secs().saturating_sub(added_at) + BEYOND_THE_CORE_SECONDS,
            None => UNKEPT_SAS_LIFE.as_secs(),
        };
        let mut batch = Batch::default();
        for (place, association) in installed.associations.iter().enumerate() {
            push_change(&mut batch, association, request_id(set, place), life_seconds);
        }
        match self.netlink.send(batch, |_, _| {}) {
            // What is gone is found by the next audit.
            Ok(refusals) => {
                if let Some(refusal) = refusals.first() {
                    tracing::warn!(
                        set = set.0,
                        reason = explain(refusal),
                        "limit of a set, or port of its NAT, not set"
                    );
                }
            }
            Err(error) => tracing::error!(set = set.0, %error, "set not changed"),
        }
    }

    fn remove(&mut self, set: SetId) {
        let Some(installed) = self.installed.remove(&set) else { return };
        for association in &installed.associations {
            self.by_spi.remove(&(association.on_the_wire().1, association.spi));
            self.by_ends.remove(&(association.source, association.destination));
        }
        if installed.is_gone {
            return;
        }
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
                retired.add(&state.user_sa_info, association.is_inbound);
            }
        });
        match sent {
            Ok(refusals) => {
                for refusal in refusals {
                    let reason = explain(&refusal);
                    match refusal.errno {
                        // Its limit was reached, or somebody was faster: as good as removed.
                        libc::ENOENT | libc::ESRCH => {
                            tracing::debug!(set = set.0, reason, "object was gone already");
                        }
                        _ => tracing::warn!(set = set.0, reason, "object of a set not removed"),
                    }
                }
            }
            Err(error) => tracing::error!(set = set.0, %error, "set not removed"),
        }
    }

    /// Removes what stands in the way of a new set when it is ours and belongs to no set any more.
    fn clear_way_for(&mut self, associations: &[Association; 4]) -> Result<(), String> {
        let mut questions = Batch::default();
        for association in associations {
            push_state_question(&mut questions, association);
            push_policy_question(&mut questions, selector(association), direction(association));
        }
        let mut strays = Vec::new();
        let protected = self.protected.clone();
        let answered = self.netlink.send(questions, |_, payload| {
            if let Some(state) = state_of(payload) {
                strays.extend(Object::of_state(&protected, &state.user_sa_info));
            } else if let Some(policy) = policy_of(payload) {
                strays.extend(Object::of_policy(&protected, &policy));
            }
        });
        answered.map_err(|error| failed(&error))?;
        self.remove_strays(&strays).map(drop)
    }

    /// Removes objects that belong to no set now; how many associations and policies they were.
    fn remove_strays(&mut self, objects: &[Object]) -> Result<(u64, u64), String> {
        let mut batch = Batch::default();
        let mut removed = Vec::new();
        for object in objects {
            let is_owned = match &object.name {
                Name::State { destination, spi } => self.by_spi.contains_key(&(*destination, *spi)),
                Name::Policy { ends: Some(ends), .. } => self.by_ends.contains_key(ends),
                Name::Policy { ends: None, .. } => false,
            };
            if is_owned {
                continue;
            }
            object.push_removal(&mut batch);
            removed.push(matches!(object.name, Name::State { .. }));
        }
        let refusals = self.netlink.send(batch, |_, _| {}).map_err(|error| failed(&error))?;
        for refusal in &refusals {
            if ![libc::ENOENT, libc::ESRCH].contains(&refusal.errno) {
                tracing::warn!(reason = explain(refusal), "leftover not removed");
            }
        }
        let is_refused = |place: usize| refusals.iter().any(|refusal| refusal.request == place);
        let done: Vec<bool> =
            (0..removed.len()).filter(|at| !is_refused(*at)).map(|at| removed[at]).collect();
        let states = done.iter().filter(|is_state| **is_state).count() as u64;
        Ok((states, done.len() as u64 - states))
    }

    /// Clear text to a protected port is dropped, whichever association it should have used
    /// (ipsec.md K-08). A policy that an earlier run left is replaced.
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
            push(&mut batch, XfrmMessage::UpdatePolicy(message), 0);
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

/// A state or a policy that is ours by its request id and by our end of its selector: an address and a
/// protected port of this daemon. Whatever else there is belongs to other programs.
struct Object {
    name: Name,
    family: u16,
    proto: u8,
    selector: Selector,
}

enum Name {
    State {
        destination: IpAddr,
        spi: u32,
    },
    /// `ends` are absent for a policy that shuts a port.
    Policy {
        ends: Option<(SocketAddr, SocketAddr)>,
        direction: u8,
    },
}

impl Object {
    fn of_state(protected: &[SocketAddr], state: &UserSaInfo) -> Option<Object> {
        let (source, destination) = ends(&state.selector)?;
        let is_ours = is_protected(protected, source) || is_protected(protected, destination);
        if !is_ours || !REQUEST_IDS.contains(&state.reqid) {
            return None;
        }
        let name = Name::State {
            destination: address_of(&state.id.daddr, state.family),
            spi: state.id.spi,
        };
        let UserSaInfo { family, selector, .. } = *state;
        Some(Object { name, family, proto: state.id.proto, selector })
    }

    fn of_policy(protected: &[SocketAddr], policy: &PolicyMessage) -> Option<Object> {
        let UserPolicyInfo { selector, direction, .. } = policy.user_policy_info;
        let (source, destination) = ends(&selector)?;
        let is_ours = is_protected(protected, source) || is_protected(protected, destination);
        let is_wanted = wanted_request_id(policy).is_some_and(|id| REQUEST_IDS.contains(&id));
        if !is_ours || !is_wanted {
            return None;
        }
        let name = Name::Policy { ends: Some((source, destination)), direction };
        Some(Object { name, family: selector.family, proto: 0, selector })
    }

    /// A policy of an earlier run that shuts a port that is a protected one no more.
    fn of_block(protected: &[SocketAddr], policy: &PolicyMessage) -> Option<Object> {
        let info = &policy.user_policy_info;
        let address = address_of(&info.selector.daddr, info.selector.family);
        let at = SocketAddr::new(address, info.selector.dport);
        let is_block = info.priority == BLOCK_PRIORITY && info.action == XFRM_POLICY_BLOCK;
        let is_our_address = protected.iter().any(|own| own.ip() == address);
        if !is_block || !is_our_address || protected.contains(&at) {
            return None;
        }
        let name = Name::Policy { ends: None, direction: info.direction };
        let UserPolicyInfo { selector, .. } = *info;
        Some(Object { name, family: selector.family, proto: 0, selector })
    }

    fn push_removal(&self, batch: &mut Batch) {
        match &self.name {
            Name::State { destination, spi } => {
                let user_sa_id = UserSaId {
                    daddr: Address::from_ip(destination),
                    spi: *spi,
                    family: self.family,
                    proto: self.proto,
                };
                let key = StateKey { user_sa_id, nlas: Vec::new() };
                push(batch, XfrmMessage::DeleteSa(key), 0);
            }
            Name::Policy { direction, .. } => {
                push_policy_removal(batch, self.selector, *direction);
            }
        }
    }
}

/// What a look at the kernel has shown.
struct Seen {
    audit: Audit,
    /// Sets that are there in full, with the second at which they were added and the port of their NAT.
    added: Vec<(SetId, u64, Option<u16>)>,
    strays: Vec<Object>,
    /// What there is of sets that are not there in full.
    remains: Vec<Object>,
}

/// Reads all states and policies of the kernel and finds the sets in them.
fn look(protected: &[SocketAddr], known: &[KnownSet]) -> Result<Seen, String> {
    let mut netlink = open()?;
    let mut states: HashMap<(IpAddr, u32), (Object, StateMessage)> = HashMap::new();
    dump_states(&mut netlink, |state| {
        if let Some(object) = Object::of_state(protected, &state.user_sa_info)
            && let Name::State { destination, spi } = object.name
        {
            states.insert((destination, spi), (object, state));
        }
    })?;
    let mut policies: HashMap<(SocketAddr, SocketAddr), (Object, u32)> = HashMap::new();
    let mut strays = Vec::new();
    dump_policies(&mut netlink, |policy| {
        if let Some(object) = Object::of_policy(protected, &policy)
            && let Name::Policy { ends: Some(ends), .. } = object.name
        {
            policies.insert(ends, (object, wanted_request_id(&policy).unwrap_or_default()));
        }
        strays.extend(Object::of_block(protected, &policy));
    })?;
    let mut audit = Audit {
        associations: states.len() as u64,
        policies: policies.len() as u64,
        unowned_drops: unowned(kernel_errors()),
        ..Audit::default()
    };
    let (mut added, mut remains) = (Vec::new(), Vec::new());
    for set in known {
        let associations = set.associations();
        let mut traffic = [Traffic::default(); 4];
        let mut found = Vec::new();
        let mut nat_port = None;
        let mut objects = Vec::new();
        for (place, association) in associations.iter().enumerate() {
            let wanted = request_id(set.id, place);
            let key = (association.on_the_wire().1, association.spi);
            let state = states.remove(&key);
            let policy = policies.remove(&(association.source, association.destination));
            if let (Some((object, state)), Some((_, id))) = (&state, &policy)
                && object.selector == selector(association)
                && (state.user_sa_info.reqid, *id) == (wanted, wanted)
            {
                found.push(state.user_sa_info.lifetime_cur.add_time);
                traffic[place] = traffic_of(state);
                if association.is_inbound {
                    nat_port = encapsulation_source_port(state);
                }
            }
            objects.extend(state.map(|(object, _)| object));
            objects.extend(policy.map(|(object, _)| object));
        }
        match found[..] {
            [first, _, _, _] => {
                audit.held.push((set.id, traffic));
                added.push((set.id, first, nat_port));
            }
            _ => {
                audit.missing.push(set.id);
                remains.extend(objects);
            }
        }
    }
    strays.extend(states.into_values().map(|(object, _)| object));
    strays.extend(policies.into_values().map(|(object, _)| object));
    Ok(Seen { audit, added, strays, remains })
}

/// Makes the kernel what the core knows. While it was read sets may have come and gone.
async fn conclude(table: &RefCell<Table>, seen: Seen) -> Result<Audit, String> {
    let Seen { mut audit, added, strays, remains } = seen;
    for some in added.chunks(REMOVED_AT_A_TIME) {
        for (set, at, nat_port) in some {
            let mut table = table.borrow_mut();
            let Some(installed) = table.installed.get_mut(set) else { continue };
            let is_adopted = installed.added_at.is_none();
            installed.added_at = Some(*at);
            if let Some(port) = nat_port.filter(|_| is_adopted) {
                installed.set_nat_port(port);
            }
            if is_adopted && installed.until.is_some() {
                table.change(*set);
            }
        }
        tokio::task::yield_now().await;
    }
    {
        let mut table = table.borrow_mut();
        for set in &audit.missing {
            let Some(installed) = table.installed.get_mut(set) else { continue };
            installed.is_gone = true;
            for association in installed.associations {
                table.by_spi.remove(&(association.on_the_wire().1, association.spi));
                table.by_ends.remove(&(association.source, association.destination));
            }
        }
    }
    for some in remains.chunks(REMOVED_AT_A_TIME) {
        table.borrow_mut().remove_strays(some)?;
        tokio::task::yield_now().await;
    }
    for some in strays.chunks(REMOVED_AT_A_TIME) {
        let (states, policies) = table.borrow_mut().remove_strays(some)?;
        audit.stray_associations += states;
        audit.stray_policies += policies;
        tokio::task::yield_now().await;
    }
    Ok(audit)
}

/// Without what is counted at a state as well.
fn unowned(mut errors: Vec<(String, u64)>) -> Vec<(String, u64)> {
    const AT_A_STATE: [&str; 2] = ["XfrmInStateProtoError", "XfrmInStateSeqError"];
    errors.retain(|(reason, count)| *count > 0 && !AT_A_STATE.contains(&reason.as_str()));
    errors
}

fn traffic_of(state: &StateMessage) -> Traffic {
    let info = &state.user_sa_info;
    let last_used = match last_used_seconds(state) {
        0 => None,
        seconds => Some(Now::from_millis(seconds * 1_000)),
    };
    Traffic {
        packets: info.lifetime_cur.packets,
        octets: info.lifetime_cur.bytes,
        last_used,
        replayed: info.stats.replay.into(),
        bad_icv: info.stats.integrity_failed.into(),
    }
}

/// What the kernel tells of its own accord: which sets it has ended by itself (TS 33.203 §7.4), for the
/// core, and from where a UE's NAT sends now. An end that is lost shows at the next audit; the kernel
/// tells of a NAT's port with every packet until it is set.
async fn hear_events(mut events: AsyncFd<Netlink>, table: Rc<RefCell<Table>>, inbox: Rc<Inbox>) {
    while let Ok(mut guard) = events.readable_mut().await {
        let mut ended = Vec::new();
        let mut rebound = Vec::new();
        let read = guard.get_inner_mut().events(|message_type, payload| {
            if ![XFRM_MSG_EXPIRE, XFRM_MSG_MAPPING].contains(&message_type) {
                return;
            }
            match parse(message_type, payload) {
                Some(XfrmMessage::Expire(message)) if message.expire.hard == 1 => {
                    let state = message.expire.state;
                    ended.push((address_of(&state.id.daddr, state.family), state.id.spi));
                }
                Some(XfrmMessage::Mapping(message)) => {
                    let id = message.map.id;
                    let nat = address_of(&message.map.new_saddr, id.family);
                    let nat = SocketAddr::new(nat, message.map.new_sport);
                    rebound.push(((address_of(&id.daddr, id.family), id.spi), nat));
                }
                _ => {}
            }
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(error) => tracing::debug!(%error, "events of XFRM lost"),
            Ok(()) => {}
        }
        for key in ended {
            if let Some(set) = table.borrow().by_spi.get(&key) {
                inbox.push(Input::SasExpired { set: *set });
            }
        }
        for (key, nat) in rebound {
            let mut table = table.borrow_mut();
            if let Some(set) = table.by_spi.get(&key).copied() {
                table.rebind(set, nat);
            }
        }
    }
}

/// Of the association of a set at its place in [`SaSet::associations`]. There are ids for four million
/// sets that live at a time.
fn request_id(set: SetId, place: usize) -> u32 {
    let sets = u64::from((REQUEST_IDS.end - REQUEST_IDS.start) / 4);
    REQUEST_IDS.start + 4 * (set.0 % sets) as u32 + place as u32
}

impl Installed {
    /// Where the UE's packets come from, in UDP-encapsulated tunnel mode.
    fn nat(&self) -> Option<SocketAddr> {
        let inbound = self.associations.iter().find(|association| association.is_inbound)?;
        inbound.around.map(|(nat, _)| nat)
    }

    fn set_nat_port(&mut self, port: u16) {
        for association in &mut self.associations {
            let is_inbound = association.is_inbound;
            if let Some((source, destination)) = &mut association.around {
                let nat = if is_inbound { source } else { destination };
                nat.set_port(port);
            }
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
        for (reason, count) in kernel_errors() {
            let help = "Packets that XFRM of this network namespace dropped.";
            let labels = [("reason", reason.as_str())];
            samples.counter("tessera_ipsec_kernel_errors_total", help, &labels, count);
        }
    }
}

/// What XFRM of this network namespace has dropped, by reason; nothing without CONFIG_XFRM_STATISTICS.
fn kernel_errors() -> Vec<(String, u64)> {
    let text = std::fs::read_to_string("/proc/net/xfrm_stat").unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    });
    lines.collect()
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
        let state = state.user_sa_info;
        if Object::of_state(protected, &state).is_none() {
            return;
        }
        let is_inbound = is_ours(protected, &state.id.daddr, state.family);
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
    let address = address_of(address, family);
    protected.iter().any(|own| own.ip() == address || own.ip().is_unspecified())
}

fn is_protected(protected: &[SocketAddr], end: SocketAddr) -> bool {
    protected
        .iter()
        .any(|own| own.port() == end.port() && (own.ip() == end.ip() || own.ip().is_unspecified()))
}

fn dump_states(netlink: &mut Netlink, mut each: impl FnMut(StateMessage)) -> Result<(), String> {
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
                if let Some(policy) = policy_of(payload) {
                    each(policy);
                }
            },
        )
        .map_err(|error| failed(&error))
}
