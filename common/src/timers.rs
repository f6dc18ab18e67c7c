//! Times at which something happens, ordered by time and indexed by key.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use crate::node::Now;

/// Timers of one owner. `K` is an enum whose variants say what happens then.
///
/// At most one timer per key; setting it again moves it.
#[derive(Debug)]
pub struct Timers<K> {
    order: BTreeSet<(Now, u64)>,
    by_key: HashMap<K, (Now, u64)>,
    by_number: HashMap<u64, K>,
    next_number: u64,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Timers {
            order: BTreeSet::new(),
            by_key: HashMap::new(),
            by_number: HashMap::new(),
            next_number: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Timers<K> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets or moves the timer of `key`. Timers of the same time fire in the order of setting.
    pub fn set(&mut self, key: K, at: Now) {
        self.stop(&key);
        let number = self.next_number;
        self.next_number += 1;
        self.order.insert((at, number));
        self.by_number.insert(number, key.clone());
        self.by_key.insert(key, (at, number));
    }

    /// True when a timer was running.
    pub fn stop(&mut self, key: &K) -> bool {
        let Some(place) = self.by_key.remove(key) else { return false };
        self.order.remove(&place);
        self.by_number.remove(&place.1);
        true
    }

    pub fn at(&self, key: &K) -> Option<Now> {
        self.by_key.get(key).map(|place| place.0)
    }

    pub fn next(&self) -> Option<Now> {
        self.order.first().map(|place| place.0)
    }

    /// Takes one timer whose time has come.
    pub fn expired(&mut self, now: Now) -> Option<K> {
        let place = *self.order.first()?;
        if place.0 > now {
            return None;
        }
        self.order.remove(&place);
        let key = self.by_number.remove(&place.1)?;
        self.by_key.remove(&key);
        Some(key)
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_in_order_once_and_moves() {
        let mut timers = Timers::new();
        timers.set("b", Now::from_millis(20));
        timers.set("a", Now::from_millis(10));
        timers.set("c", Now::from_millis(20));
        timers.set("a", Now::from_millis(30));
        assert!(timers.stop(&"c"));
        assert_eq!(timers.next(), Some(Now::from_millis(20)));
        assert_eq!(timers.expired(Now::from_millis(15)), None);
        assert_eq!(timers.expired(Now::from_millis(40)), Some("b"));
        assert_eq!(timers.expired(Now::from_millis(40)), Some("a"));
        assert_eq!(timers.expired(Now::from_millis(40)), None);
        assert!(timers.is_empty());
    }
}
