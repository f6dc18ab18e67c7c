//! In which order documents are taken (RFC 3680 §5.1, §5.2), and when a watcher asks for everything.

use std::time::Duration;

use super::RegInfo;
use crate::node::Now;

/// Between two times that everything is asked for; twice as long after each that brought nothing.
const SHORTEST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// What a document is behind the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// All that is to be known is known with it.
    Next,
    /// It says what has changed, and a document before it was lost: it holds, and everything is to be asked for.
    Gap,
    /// Older than what is known, or the same: not to be looked at.
    Stale,
}

/// The versions of one subscription, as its watcher has seen them.
///
/// A watcher that lacks something refreshes its subscription, which brings everything (RFC 6665 §4.2.1.2): one SUBSCRIBE
/// at a time, and with pauses, so that a notifier that always leaves something out is not asked without end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Versions {
    last: Option<u32>,
    /// A document was lost, and none has said everything since.
    lacks: bool,
    /// A SUBSCRIBE is under way.
    is_asking: bool,
    /// When to ask for everything.
    due: Option<Now>,
    not_before: Option<Now>,
    pause: Duration,
}

impl Versions {
    /// Of the last document that was taken.
    pub fn last(&self) -> Option<u32> {
        self.last
    }

    /// RFC 3680 §5.2. `is_of_another`: the NOTIFY comes from another place than those before, since another registrar
    /// has taken the dialog over.
    ///
    /// DEVIATES: RFC 3680 §5.2 has every document of a lower version discarded, because a registrar that goes on in
    /// another's dialog does not learn how far versions had come (TS 29.229 §6.3.49); whole documents of its own count
    /// anew. What was delayed is told by CSeq from this.
    pub fn take(&mut self, now: Now, info: &RegInfo, is_of_another: bool) -> Order {
        let is_anew = info.is_full && is_of_another;
        if self.last.is_some_and(|last| info.version <= last) && !is_anew {
            return Order::Stale;
        }
        let is_next = self.last.is_some_and(|last| last.checked_add(1) == Some(info.version));
        self.last = Some(info.version);
        if info.is_full {
            (self.lacks, self.due, self.pause) = (false, None, Duration::ZERO);
            return Order::Next;
        }
        if is_next {
            return Order::Next;
        }
        if !self.lacks && !self.is_asking {
            self.ask_later(now);
        }
        self.lacks = true;
        Order::Gap
    }

    /// A SUBSCRIBE goes out.
    pub fn asks(&mut self) {
        (self.is_asking, self.due) = (true, None);
    }

    /// It was taken. Behind the first one nothing is lacking but what comes with its NOTIFY.
    pub fn answered(&mut self, now: Now) {
        self.is_asking = false;
        if self.lacks && self.due.is_none() {
            self.ask_later(now);
        }
    }

    /// When the subscription is to be refreshed, which would otherwise be at `renewal`.
    pub fn refresh_at(&self, renewal: Now) -> Now {
        self.due.map_or(renewal, |due| due.min(renewal))
    }

    /// When everything is to be asked for, if anything is lacking.
    pub fn due(&self) -> Option<Now> {
        self.due
    }

    fn ask_later(&mut self, now: Now) {
        let at = self.not_before.map_or(now, |at| at.max(now));
        self.pause = (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        self.not_before = Some(at + self.pause);
        self.due = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now::from_millis(seconds * 1_000)
    }

    fn document(version: u32, is_full: bool) -> RegInfo {
        RegInfo { version, is_full, registrations: Vec::new() }
    }

    /// RFC 3680 §5.2: one by one; a whole document may leave versions out, and is never taken twice.
    #[test]
    fn documents_in_order() {
        let mut versions = Versions::default();
        for (version, is_full, order) in [
            (0, true, Order::Next),
            (1, false, Order::Next),
            (1, false, Order::Stale),
            (0, true, Order::Stale),
            (1, true, Order::Stale),
            (2, false, Order::Next),
            (9, true, Order::Next),
            (10, false, Order::Next),
            (12, false, Order::Gap),
            (11, false, Order::Stale),
            (13, false, Order::Next),
            (u32::MAX, true, Order::Next),
            (0, false, Order::Stale),
        ] {
            let taken = versions.take(at(0), &document(version, is_full), false);
            assert_eq!(taken, order, "{version} {is_full}");
        }
        // RFC 3680 §4.7: nothing is known that a change would be one of.
        assert_eq!(Versions::default().take(at(0), &document(0, false), false), Order::Gap);
    }

    /// TS 29.229 §6.3.49: another registrar may count from 0; only with everything.
    #[test]
    fn another_registrar() {
        let mut versions = Versions::default();
        assert_eq!(versions.take(at(0), &document(7, true), false), Order::Next);
        assert_eq!(versions.take(at(0), &document(0, false), true), Order::Stale);
        assert_eq!(versions.take(at(0), &document(0, true), true), Order::Next);
        assert_eq!(versions.take(at(0), &document(1, false), false), Order::Next);
    }

    /// RFC 3680 §5.2: everything is asked for once; again after growing pauses, as long as it does not come.
    #[test]
    fn asks_with_pauses() {
        let mut versions = Versions::default();
        versions.asks();
        versions.answered(at(0));
        assert_eq!(versions.due(), None);
        versions.take(at(0), &document(0, true), false);
        versions.take(at(1), &document(2, false), false);
        assert_eq!(versions.due(), Some(at(1)));
        assert_eq!((versions.refresh_at(at(9)), versions.refresh_at(at(0))), (at(1), at(0)));
        versions.take(at(1), &document(4, false), false);
        versions.asks();
        versions.take(at(2), &document(6, false), false);
        assert_eq!(versions.due(), None, "one is under way");
        for (now, due) in [(2, 31), (31, 91), (91, 211)] {
            versions.answered(at(now));
            assert_eq!(versions.due(), Some(at(due)));
            versions.asks();
        }
        versions.answered(at(211));
        versions.take(at(212), &document(7, true), false);
        assert_eq!(versions.due(), None);
        // One that brings everything, and leaves something out the next time.
        versions.take(at(213), &document(9, false), false);
        let due = versions.due().expect("asked for");
        assert!(due > at(213));
        versions.asks();
        versions.take(due, &document(10, true), false);
        versions.answered(due);
        assert_eq!(versions.due(), None);
    }

    /// A SUBSCRIBE that is under way anyway brings everything; when it does not, another one follows.
    #[test]
    fn a_refresh_is_under_way() {
        let mut versions = Versions::default();
        versions.take(at(0), &document(0, true), false);
        versions.asks();
        versions.take(at(1), &document(2, false), false);
        assert_eq!(versions.due(), None);
        versions.answered(at(2));
        assert_eq!(versions.due(), Some(at(2)));
    }
}
