//! Where a URI leads, for a core: [`locate`](crate::sip::locate) walks with what waits for them.
//!
//! Answers are cached with their TTL. All who ask for the same URI while a walk is under way share
//! it, so a storm of requests makes one look-up.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::dns::{Answer, Question};
use crate::node::{Now, Output};
use crate::questions::{QuestionId, Questions};
use crate::random::Random;
use crate::sip::locate::{Hop, HopCache, Preference, Step, Walk};
use crate::sip::uri::Uri;

/// How a look-up ended: hops in the order to try them, or the reason for the log.
pub type Located = Result<VecDeque<Hop>, String>;

/// How long a hop that failed goes behind the others (RFC 3263 §4.3 leaves it open).
pub const FAILED_HOP_REST: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Walking<W> {
    walk: Walk,
    waits: Vec<W>,
}

/// Looks up URIs for a core. `W` is what waits for the place.
#[derive(Debug)]
pub struct Locator<W> {
    preference: Preference,
    cache: HopCache,
    walks: BTreeMap<String, Walking<W>>,
    questions: Questions<(String, Question)>,
    random: Random,
    waiting_limit: usize,
}

impl<W> Locator<W> {
    /// `waiting_limit`: how many may wait for one URI.
    pub fn new(preference: Preference, random: Random, waiting_limit: usize) -> Self {
        Locator {
            preference,
            cache: HopCache::new(1_024),
            walks: BTreeMap::new(),
            questions: Questions::new(),
            random,
            waiting_limit,
        }
    }

    /// RFC 3263 §4: gives the place at once where the cache or the URI itself knows it, else keeps
    /// the wait until [`Locator::resolved`] hands it out.
    pub fn locate(
        &mut self,
        now: Now,
        uri: &str,
        wait: W,
        out: &mut Vec<Output>,
    ) -> Option<(W, Located)> {
        if let Some(hops) = self.cache.get(now, uri) {
            return Some((wait, Ok(hops)));
        }
        if let Some(walking) = self.walks.get_mut(uri) {
            if walking.waits.len() >= self.waiting_limit {
                return Some((wait, Err("too many wait for this look-up".into())));
            }
            walking.waits.push(wait);
            return None;
        }
        let parsed = match Uri::parse(uri) {
            Ok(parsed) => parsed,
            Err(error) => return Some((wait, Err(format!("not a URI: {}", error.expected)))),
        };
        let walk = Walk::begin(&parsed, &self.preference);
        self.walks.insert(uri.to_owned(), Walking { walk, waits: vec![wait] });
        self.step(now, uri, out).pop()
    }

    /// An answer to one of our questions: all whose walk it ends.
    pub fn resolved(
        &mut self,
        now: Now,
        id: QuestionId,
        answer: Answer,
        out: &mut Vec<Output>,
    ) -> Vec<(W, Located)> {
        let Some((uri, question)) = self.questions.answer(id) else { return Vec::new() };
        let Some(walking) = self.walks.get_mut(&uri) else { return Vec::new() };
        walking.walk.answer(&question, answer);
        self.step(now, &uri, out)
    }

    /// This hop did not answer: others come first for a while.
    pub fn failed(&mut self, now: Now, hop: Hop) {
        self.cache.failed(now, hop, FAILED_HOP_REST);
    }

    /// Those who wait for a place.
    pub fn owed(&self) -> usize {
        self.walks.values().map(|walking| walking.waits.len()).sum()
    }

    fn step(&mut self, now: Now, uri: &str, out: &mut Vec<Output>) -> Vec<(W, Located)> {
        let Some(walking) = self.walks.get_mut(uri) else { return Vec::new() };
        let located = match walking.walk.step(&mut self.random) {
            Step::Ask(questions) => {
                for question in questions {
                    let id = self.questions.ask((uri.to_owned(), question.clone()));
                    out.push(Output::Resolve { id, question });
                }
                return Vec::new();
            }
            Step::Found(hops) => {
                self.cache.put(now, uri, &hops, walking.walk.ttl());
                Ok(hops)
            }
            Step::NotFound(reason) => Err(reason),
        };
        let waits = self.walks.remove(uri).map(|walking| walking.waits).unwrap_or_default();
        waits.into_iter().map(|wait| (wait, located.clone())).collect()
    }
}
