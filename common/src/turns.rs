//! One procedure at a time per key; the rest wait in a short line.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// What became of a job offered to [`Turns::take`].
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<T> {
    /// Nobody else is at it: do the job now, and call [`Turns::done`] when it has ended.
    Now(T),
    /// It waits; [`Turns::done`] of an earlier job will hand it out.
    Later,
    /// The line is full.
    Refused(T),
}

/// Serialises jobs per key, for instance REGISTERs per private identity.
#[derive(Debug)]
pub struct Turns<K, T> {
    lines: HashMap<K, VecDeque<T>>,
    line_limit: usize,
}

impl<K: Eq + Hash + Clone, T> Turns<K, T> {
    /// `line_limit`: how many may wait behind the one that runs.
    pub fn new(line_limit: usize) -> Self {
        Turns { lines: HashMap::new(), line_limit }
    }

    pub fn take(&mut self, key: &K, job: T) -> Turn<T> {
        match self.lines.get_mut(key) {
            None => {
                self.lines.insert(key.clone(), VecDeque::new());
                Turn::Now(job)
            }
            Some(line) if line.len() < self.line_limit => {
                line.push_back(job);
                Turn::Later
            }
            Some(_) => Turn::Refused(job),
        }
    }

    /// Ends the running job; the next in line, if any, is running from now on.
    pub fn done(&mut self, key: &K) -> Option<T> {
        let line = self.lines.get_mut(key)?;
        let next = line.pop_front();
        if next.is_none() {
            self.lines.remove(key);
        }
        next
    }

    pub fn is_taken(&self, key: &K) -> bool {
        self.lines.contains_key(key)
    }

    /// How many keys have a job running.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_a_short_line() {
        let mut turns = Turns::new(1);
        assert_eq!(turns.take(&"a", 1), Turn::Now(1));
        assert_eq!(turns.take(&"a", 2), Turn::Later);
        assert_eq!(turns.take(&"a", 3), Turn::Refused(3));
        assert_eq!(turns.take(&"b", 4), Turn::Now(4));
        assert_eq!(turns.done(&"a"), Some(2));
        assert_eq!(turns.done(&"a"), None);
        assert!(!turns.is_taken(&"a"));
        assert_eq!(turns.done(&"b"), None);
        assert!(turns.is_empty());
    }
}
