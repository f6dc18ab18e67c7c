//! Requests that came in lately, with the answers given, so that a request which is sent again with
//! the T flag gets the same answer and is not carried out twice (RFC 6733 §3, §5.5.4).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::diameter::base::Echoed;
use crate::diameter::message::Header;
use crate::node::{ConnectionId, Now};

/// RFC 6733 §3: an End-to-End Identifier is unique for at least four minutes.
const KEPT: Duration = Duration::from_secs(240);

/// Octets of answers kept.
const KEPT_BYTES: usize = 64 << 20;

/// What makes two requests the same: Origin-Host, End-to-End Identifier, command.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    pub origin_host: Box<str>,
    pub end_to_end: u32,
    pub command: u32,
}

/// Where a request came from: connection and Hop-by-Hop Identifier.
pub(super) type Place = (ConnectionId, u32);

/// A request that is owed an answer.
#[derive(Debug)]
pub(super) struct Working {
    pub header: Header,
    pub echoed: Echoed,
    key: Key,
    /// Where the answer goes: where the request was seen last.
    pub deliver_to: Place,
}

#[derive(Debug)]
enum Entry {
    Working(Place),
    Answered(Bytes),
}

/// What is known of a request that carries the T flag.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Never,
    /// Its answer is still to come and will go to the new place.
    Working,
    Answered(Bytes),
}

#[derive(Debug)]
pub(super) struct Duplicates {
    working: HashMap<Place, Working>,
    entries: HashMap<Key, Entry>,
    order: VecDeque<(Now, Key)>,
    bytes: usize,
    limit: usize,
}

impl Duplicates {
    pub fn new(limit: usize) -> Duplicates {
        Duplicates {
            working: HashMap::new(),
            entries: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            limit,
        }
    }

    /// Requests that are owed an answer.
    pub fn working(&self) -> usize {
        self.working.len()
    }

    pub fn is_full(&self) -> bool {
        self.working.len() >= self.limit
    }

    /// RFC 6733 §3: looks a request with the T flag up.
    pub fn look_up(&mut self, key: &Key, place: Place) -> Seen {
        match self.entries.get(key) {
            None => Seen::Never,
            Some(Entry::Answered(bytes)) => Seen::Answered(bytes.clone()),
            Some(Entry::Working(first)) => match self.working.get_mut(first) {
                None => Seen::Never,
                Some(working) => {
                    working.deliver_to = place;
                    Seen::Working
                }
            },
        }
    }

    pub fn begin(&mut self, now: Now, key: Key, place: Place, header: Header, echoed: Echoed) {
        self.forget(now);
        self.put(key.clone(), Entry::Working(place));
        self.order.push_back((now, key.clone()));
        self.working.insert(place, Working { header, echoed, key, deliver_to: place });
    }

    /// Takes the request of that place; `None` when it was answered already.
    pub fn finish(&mut self, place: Place) -> Option<Working> {
        self.working.remove(&place)
    }

    pub fn answered(&mut self, working: Working, bytes: &Bytes) {
        // Only what is still remembered: else the order would not know of it.
        if self.entries.contains_key(&working.key) {
            self.put(working.key, Entry::Answered(bytes.clone()));
        }
    }

    fn put(&mut self, key: Key, entry: Entry) {
        self.bytes += size(&entry);
        if let Some(old) = self.entries.insert(key, entry) {
            self.bytes -= size(&old);
        }
    }

    /// Drops what is too old or too much, oldest first.
    fn forget(&mut self, now: Now) {
        while let Some((since, _)) = self.order.front() {
            let is_old = now.since(*since) > KEPT;
            if !is_old && self.order.len() <= self.limit && self.bytes <= KEPT_BYTES {
                break;
            }
            if let Some((_, key)) = self.order.pop_front()
                && let Some(entry) = self.entries.remove(&key)
            {
                self.bytes -= size(&entry);
                // Nobody waits four minutes for an answer.
                if let Entry::Working(place) = entry
                    && is_old
                {
                    self.working.remove(&place);
                }
            }
        }
    }
}

fn size(entry: &Entry) -> usize {
    match entry {
        Entry::Working(_) => 0,
        Entry::Answered(bytes) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(end_to_end: u32) -> Key {
        Key { origin_host: "scscf1.hims.net".into(), end_to_end, command: 301 }
    }

    fn header(end_to_end: u32) -> Header {
        Header { flags: 0xc0, command: 301, application: 0, hop_by_hop: end_to_end, end_to_end }
    }

    fn begin(duplicates: &mut Duplicates, now: u64, end_to_end: u32) -> Place {
        let place = (ConnectionId(1), end_to_end);
        let now = Now::from_millis(now);
        duplicates.begin(now, key(end_to_end), place, header(end_to_end), Echoed::default());
        place
    }

    /// RFC 6733 §3: the stored answer is found for four minutes.
    #[test]
    fn remembers_answers_for_four_minutes() {
        let mut duplicates = Duplicates::new(10);
        let place = begin(&mut duplicates, 0, 1);
        let working = duplicates.finish(place).unwrap();
        duplicates.answered(working, &Bytes::from_static(b"answer"));
        let again = (ConnectionId(2), 9);
        let answer = Bytes::from_static(b"answer");
        assert_eq!(duplicates.look_up(&key(1), again), Seen::Answered(answer));
        assert_eq!(duplicates.look_up(&key(2), again), Seen::Never);
        begin(&mut duplicates, 240_001, 2);
        assert_eq!(duplicates.look_up(&key(1), again), Seen::Never);
        assert_eq!(duplicates.bytes, 0);
    }

    /// A request that comes again while it is being worked on is answered once, at the new place.
    #[test]
    fn moves_what_is_in_work() {
        let mut duplicates = Duplicates::new(10);
        let place = begin(&mut duplicates, 0, 1);
        assert_eq!(duplicates.look_up(&key(1), (ConnectionId(2), 9)), Seen::Working);
        assert_eq!(duplicates.finish(place).unwrap().deliver_to, (ConnectionId(2), 9));
        assert!(duplicates.finish(place).is_none());
    }

    /// Never more entries than the limit, oldest out first.
    #[test]
    fn has_a_limit() {
        let mut duplicates = Duplicates::new(4);
        for end_to_end in 0..100 {
            let place = begin(&mut duplicates, 0, end_to_end);
            let working = duplicates.finish(place).unwrap();
            duplicates.answered(working, &Bytes::from_static(b"x"));
        }
        assert!(duplicates.entries.len() <= 5);
        assert_eq!(duplicates.look_up(&key(0), (ConnectionId(2), 9)), Seen::Never);
    }
}
