//! What is at hand, in memory: bounded, by key. Knows no source and waits for nothing.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::item::{Item, Read};
use super::pace::Pace;
use super::source::Failure;
use crate::evidence::Timestamp;

/// Items that are kept in memory; the longest unused go first.
const MAX_ITEMS: usize = 4096;

/// Failures that are remembered.
const MAX_MISSES: usize = 4096;

/// An item that was got once.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its name, once somebody asked for it in this process.
    pub(super) item: Option<Item>,
    pub(super) read: Read,
    pub(super) got: Timestamp,
    pub(super) due: Timestamp,
    pub(super) used: Timestamp,
    /// Wanted by the configuration, not by a peer: never given up.
    pub(super) kept: bool,
}

/// An item that could not be got.
#[derive(Clone, Debug)]
pub(super) struct Miss {
    pub(super) failures: u32,
    pub(super) again: Instant,
    pub(super) why: Vec<(String, Failure)>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Memory {
    entries: HashMap<String, Entry>,
    misses: HashMap<String, Miss>,
}

impl Memory {
    /// The entry, noted as used.
    pub(super) fn used(&mut self, item: &Item, now: Timestamp) -> Option<&Entry> {
        let entry = self.entries.get_mut(&item.key())?;
        entry.used = entry.used.max(now);
        entry.item.get_or_insert_with(|| item.clone());
        Some(entry)
    }

    pub(super) fn find(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.entries.iter()
    }

    /// Takes an item in; gives the key of the one that had to go for it.
    pub(super) fn insert(&mut self, key: String, entry: Entry) -> Option<String> {
        self.misses.remove(&key);
        self.entries.insert(key, entry);
        if self.entries.len() <= MAX_ITEMS {
            return None;
        }
        let given_up = self.entries.iter().filter(|(_, entry)| !entry.kept).min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone())?;
        self.entries.remove(&given_up);
        Some(given_up)
    }

    pub(super) fn miss(&self, key: &str) -> Option<&Miss> {
        self.misses.get(key)
    }

    /// Notes that an item could not be got; not before `rest` from now is it asked for again.
    pub(super) fn missed(&mut self, key: String, why: Vec<(String, Failure)>, pace: &Pace, rest: Duration) {
        if self.misses.len() >= MAX_MISSES
            && let Some(first) = self.misses.iter().min_by_key(|(_, miss)| miss.again).map(|(key, _)| key.clone())
        {
            self.misses.remove(&first);
        }
        let failures = self.misses.get(&key).map_or(0, |miss| miss.failures).saturating_add(1);
        let again = Instant::now() + pace.retry(failures).max(rest);
        self.misses.insert(key, Miss { failures, again, why });
    }

    /// Forgets failures, so that everything is asked for anew.
    pub(super) fn forgive(&mut self) {
        self.misses.clear();
    }

    /// Whether the item is wanted by the configuration.
    pub(super) fn keep(&mut self, item: &Item) {
        if let Some(entry) = self.entries.get_mut(&item.key()) {
            entry.kept = true;
            entry.item.get_or_insert_with(|| item.clone());
        }
    }

    /// Makes everything due at once.
    pub(super) fn hurry(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.due = Timestamp(0));
    }
}
