//! The comparison with the data plane, at the start and from time to time: both sides end up with the
//! same sets. And what the data plane tells of its own accord.
//!
//! 1. `audit`            asks: here are all sets that I know
//! 2. `audited`          sets that are not there end here too; differences and drops are told
//! 3. `set_expired`      the data plane's own limit has ended a set

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use common::ipsec::audit::{Audit, KnownSet, Traffic};
use common::ipsec::sa::{SetId, Side};
use common::node::{Now, Output};
use common::questions::QuestionId;
use common::stats::Samples;

use crate::security::Set;
use crate::{Pcscf, Timer};

/// The audit that is running, and what audits have come to.
#[derive(Debug, Default)]
pub struct Audits {
    /// The open question, of which there is at most one, and how many were asked. It is no debt: the
    /// next one is always about to come.
    open: Option<QuestionId>,
    asked: u64,
    /// Operators who want the list that the answer makes possible.
    waiting: Vec<u64>,
    /// The sum over the associations of a set when they were last looked at; absent: nothing dropped.
    drops: BTreeMap<SetId, Drops>,
    /// What belonged to no set when it was last looked at, by reason.
    unowned: BTreeMap<String, u64>,
    has_looked: bool,
    /// Of the last one.
    known: u64,
    associations: u64,
    policies: u64,
    clean: u64,
    mended: u64,
    failed: u64,
    stray_associations: u64,
    stray_policies: u64,
    lost: [u64; Loss::ALL.len()],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Drops {
    replayed: u64,
    bad_icv: u64,
}

/// Why a set ended that should have lived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    /// The data plane does not hold it, or not all of it.
    Missing,
    /// The data plane's own limit was reached.
    Expired,
}

impl Loss {
    const ALL: [(Loss, &'static str); 2] = [(Loss::Missing, "missing"), (Loss::Expired, "expired")];

    fn name(self) -> &'static str {
        Loss::ALL.iter().find(|(loss, _)| *loss == self).map_or("", |(_, name)| name)
    }
}

impl Pcscf {
    /// The first audit, and the clock for the next ones.
    pub(crate) fn begin_audits(&mut self, now: Now, out: &mut Vec<Output>) {
        self.audit(out);
        self.next_audit(now);
    }

    /// An audit that is still open is given up: its answer is lost, or too old to go by.
    pub(crate) fn audit_is_due(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.audits.open.take().is_some() {
            self.audits.failed += 1;
        }
        self.audit(out);
        self.next_audit(now);
    }

    fn next_audit(&mut self, now: Now) {
        let seconds = self.config.ipsec.audit_seconds;
        if seconds > 0 {
            self.timers.set(Timer::AuditDue, now + Duration::from_secs(seconds));
        }
    }

    /// Asks, unless an answer is under way.
    fn audit(&mut self, out: &mut Vec<Output>) {
        if self.audits.open.is_some() {
            return;
        }
        let known: Vec<KnownSet> = self.security.iter().map(known).collect();
        self.audits.asked += 1;
        let id = QuestionId(self.audits.asked);
        self.audits.open = Some(id);
        out.push(Output::AuditSas { id, known });
    }

    /// ipsec.md L-16: what the data plane lacks ends here too.
    pub(crate) fn audited(
        &mut self,
        now: Now,
        id: QuestionId,
        result: Result<Audit, String>,
        out: &mut Vec<Output>,
    ) {
        if self.audits.open != Some(id) {
            return tracing::debug!("an audit that was given up");
        }
        self.audits.open = None;
        let audit = match result {
            Ok(audit) => audit,
            Err(reason) => {
                self.audits.failed += 1;
                tracing::warn!(reason, "security associations cannot be compared");
                Audit::default()
            }
        };
        let strays = audit.stray_associations + audit.stray_policies;
        if strays > 0 {
            tracing::warn!(
                associations = audit.stray_associations,
                policies = audit.stray_policies,
                "removed from the data plane: they belonged to no set"
            );
        }
        let lost = audit.missing.len();
        for set in &audit.missing {
            self.set_lost(now, *set, Loss::Missing, out);
        }
        self.tell_unowned_drops(&audit);
        self.tell_drops(&audit);
        let audits = &mut self.audits;
        audits.known = (audit.held.len() + lost) as u64;
        audits.associations = audit.associations;
        audits.policies = audit.policies;
        audits.stray_associations += audit.stray_associations;
        audits.stray_policies += audit.stray_policies;
        match strays == 0 && lost == 0 {
            true => audits.clean += 1,
            false => audits.mended += 1,
        }
        let waiting = std::mem::take(&mut audits.waiting);
        if !waiting.is_empty() {
            let text = self.list(now, &audit.held);
            out.extend(waiting.into_iter().map(|id| Output::Reply { id, text: text.clone() }));
        }
    }

    /// TS 33.203 §7.4: the limit of the data plane ended the set before we did.
    pub(crate) fn set_expired(&mut self, now: Now, set: SetId, out: &mut Vec<Output>) {
        self.set_lost(now, set, Loss::Expired, out);
    }

    /// A set that is gone ends as one whose time is over; with the last one of a UE its registration
    /// ends here (TS 33.203 §7.4), and the S-CSCF's by its own time.
    fn set_lost(&mut self, now: Now, id: SetId, loss: Loss, out: &mut Vec<Output>) {
        let Some(set) = self.security.get(id) else { return };
        tracing::warn!(
            set = id.0,
            identity = %self.logged(&set.impi),
            ue = %set.ue,
            state = set.state.name(),
            cause = loss.name(),
            "security associations are gone from the data plane: the set ends"
        );
        self.audits.lost[loss as usize] += 1;
        self.set_ended(now, id, out);
    }

    /// One line for all that was dropped since the last look without belonging to anybody.
    fn tell_unowned_drops(&mut self, audit: &Audit) {
        let before = &self.audits.unowned;
        let mut news = String::new();
        for (reason, count) in &audit.unowned_drops {
            let more = count.saturating_sub(before.get(reason).copied().unwrap_or(0));
            if more > 0 {
                let _ = write!(news, "{}{reason} {more}", if news.is_empty() { "" } else { ", " });
            }
        }
        // What an earlier run has seen is not told again.
        if self.audits.has_looked && !news.is_empty() {
            tracing::warn!(
                packets = news,
                "IPsec dropped packets that belong to no subscriber's association"
            );
        }
        self.audits.unowned = audit.unowned_drops.iter().cloned().collect();
    }

    /// One line for each set on which something was dropped since the last look.
    fn tell_drops(&mut self, audit: &Audit) {
        let mut all = BTreeMap::new();
        for (id, traffic) in &audit.held {
            let drops = Drops {
                replayed: traffic.iter().map(|one| one.replayed).sum(),
                bad_icv: traffic.iter().map(|one| one.bad_icv).sum(),
            };
            if drops == Drops::default() {
                continue;
            }
            all.insert(*id, drops);
            let before = self.audits.drops.get(id).copied().unwrap_or_default();
            // What an earlier run has seen is not told again.
            let is_news = self.audits.has_looked && drops != before;
            if let Some(set) = self.security.get(*id).filter(|_| is_news) {
                tracing::warn!(
                    set = id.0,
                    identity = %self.logged(&set.impi),
                    ue = %set.ue,
                    replayed = drops.replayed.saturating_sub(before.replayed),
                    bad_icv = drops.bad_icv.saturating_sub(before.bad_icv),
                    "packets of this subscriber were dropped inside IPsec"
                );
            }
        }
        self.audits.drops = all;
        self.audits.has_looked = true;
    }

    /// The operator wants all sets with their counters: answered by the next audit.
    pub(crate) fn list_when_audited(&mut self, id: u64, out: &mut Vec<Output>) {
        self.audits.waiting.push(id);
        self.audit(out);
    }

    /// Subscribers with their sets and associations, like `ip -s xfrm state` with names; no keys.
    fn list(&self, now: Now, held: &[(SetId, [Traffic; 4])]) -> String {
        let traffic: HashMap<SetId, &[Traffic; 4]> =
            held.iter().map(|(set, traffic)| (*set, traffic)).collect();
        let mut sets: Vec<&Set> = self.security.iter().collect();
        sets.sort_by_key(|set| (set.owner(), set.id));
        let mut text = String::new();
        let mut owner = None;
        for set in sets {
            if owner.as_ref() != Some(&set.owner()) {
                let of = set.owner();
                let left = self.registrations.get(&of).map(|registration| {
                    format!("registered for {} s", registration.expires_at().since(now).as_secs())
                });
                let left = left.unwrap_or_else(|| "not registered".into());
                let _ = writeln!(text, "{of}: {left}");
                owner = Some(of);
            }
            let _ = writeln!(
                text,
                "    set {} {}, {} s old, {} s left, {} {}{}",
                set.id.0,
                set.state.name(),
                now.since(set.created_at).as_secs(),
                set.expires_at.since(now).as_secs(),
                set.pair.alg.name(),
                set.pair.ealg.name(),
                set.nat.map(|nat| format!(", behind {nat}")).unwrap_or_default(),
            );
            for (place, association) in known(set).associations().iter().enumerate() {
                let _ = write!(
                    text,
                    "        {} > {} spi {:#010x} ",
                    association.source, association.destination, association.spi,
                );
                let _ = match traffic.get(&set.id).map(|traffic| traffic[place]) {
                    Some(traffic) => writeln!(text, "{}", counters(now, &traffic)),
                    None => writeln!(text, "without counters"),
                };
            }
        }
        text
    }
}

fn known(set: &Set) -> KnownSet {
    let Set { id, nat, ue, pcscf, ports, spis, .. } = *set;
    KnownSet { id, side: Side::Pcscf, nat, ue, pcscf, ports, spis }
}

fn counters(now: Now, traffic: &Traffic) -> String {
    let Traffic { packets, octets, last_used, replayed, bad_icv } = traffic;
    let used = match last_used {
        Some(at) => format!("used {} s ago", now.since(*at).as_secs()),
        None => "never used".into(),
    };
    format!("{packets} packets, {octets} octets, {used}, {replayed} replayed, {bad_icv} bad ICV")
}

impl Audits {
    pub fn samples(&self, samples: &mut Samples) {
        for (result, value) in
            [("clean", self.clean), ("mended", self.mended), ("failed", self.failed)]
        {
            samples.counter(
                "tessera_pcscf_audits_total",
                "Comparisons of the P-CSCF's sets with its data plane, by what came of them",
                &[("result", result)],
                value,
            );
        }
        for (object, value) in
            [("association", self.stray_associations), ("policy", self.stray_policies)]
        {
            samples.counter(
                "tessera_pcscf_strays_removed_total",
                "Objects of ours in the data plane that belonged to no set and were removed",
                &[("object", object)],
                value,
            );
        }
        for (loss, cause) in Loss::ALL {
            samples.counter(
                "tessera_pcscf_sets_lost_total",
                "Sets that ended because the data plane did not hold them any more",
                &[("cause", cause)],
                self.lost[loss as usize],
            );
        }
        for (object, place, value) in [
            ("association", "known", 4 * self.known),
            ("association", "present", self.associations),
            ("policy", "known", 4 * self.known),
            ("policy", "present", self.policies),
        ] {
            samples.gauge(
                "tessera_pcscf_audited_objects",
                "Associations and policies known to the P-CSCF and present in the data plane, at the \
                 last comparison",
                &[("object", object), ("place", place)],
                value as f64,
            );
        }
    }
}
