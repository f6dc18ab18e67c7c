//! Ids for effects that can fail, each with what waits for the answer.

use std::collections::HashMap;

/// Names one open question; never reused within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QuestionId(pub u64);

#[derive(Debug)]
pub struct Questions<W> {
    open: HashMap<QuestionId, W>,
    next: u64,
}

impl<W> Default for Questions<W> {
    fn default() -> Self {
        Questions { open: HashMap::new(), next: 1 }
    }
}

impl<W> Questions<W> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn ask(&mut self, wait: W) -> QuestionId {
        let id = QuestionId(self.next);
        self.next += 1;
        self.open.insert(id, wait);
        id
    }

    /// `None` when nobody waits for it (any more).
    pub fn answer(&mut self, id: QuestionId) -> Option<W> {
        self.open.remove(&id)
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}
