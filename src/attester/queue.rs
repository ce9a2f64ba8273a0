//! The leaves that wait for a quote, shared fairly: when there is no room, the source with the most waiting gives way.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Requests in order of arrival, each from a source, no more than there is room for.
#[derive(Debug)]
pub(super) struct Queue<S, T> {
    room: usize,
    waiting: Mutex<Vec<(S, T)>>,
    came: Notify,
}

impl<S: Copy + Eq + Hash, T> Queue<S, T> {
    pub(super) fn new(room: usize) -> Self {
        Self { room, waiting: Mutex::default(), came: Notify::new() }
    }

    /// Adds a request. When there is no room, a request that nobody waits for gives way, then the latest of the source
    /// that has the most, which may be this one: returns whose place was not kept.
    pub(super) fn push(&self, source: S, request: T, gone: impl Fn(&T) -> bool) -> Option<T> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= self.room {
            waiting.retain(|(_, request)| !gone(request));
        }
        waiting.push((source, request));
        let overflow = if waiting.len() > self.room { heaviest(&waiting) } else { None };
        let turned_away = overflow.and_then(|heaviest| {
            let latest = waiting.iter().rposition(|(source, _)| *source == heaviest)?;
            Some(waiting.remove(latest).1)
        });
        drop(waiting);
        self.came.notify_one();
        turned_away
    }

    /// Waits until there is a request.
    pub(super) async fn came(&self) {
        loop {
            if !self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                return;
            }
            self.came.notified().await;
        }
    }

    /// What `look` sees in the request that came first.
    pub(super) fn first<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).first().map(|(_, request)| look(request))
    }

    /// Takes all that wait, in their order.
    pub(super) fn take(&self) -> Vec<T> {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().map(|(_, request)| request).collect()
    }
}

/// The source with the most requests.
fn heaviest<S: Copy + Eq + Hash, T>(waiting: &[(S, T)]) -> Option<S> {
    let mut counts: HashMap<S, usize> = HashMap::new();
    for (source, _) in waiting {
        *counts.entry(*source).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(source, _)| source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_keep_the_others_out() {
        let queue = Queue::new(4);
        for number in 0..4 {
            assert_eq!(queue.push("heavy", number, |_| false), None);
        }
        assert_eq!(queue.push("heavy", 4, |_| false), Some(4), "its own latest gives way");
        assert_eq!(queue.push("other", 10, |_| false), Some(3));
        assert_eq!(queue.push("third", 20, |_| false), Some(2));
        assert_eq!(queue.take(), [0, 1, 10, 20]);
    }

    #[test]
    fn whom_nobody_waits_for_gives_way_first() {
        let queue = Queue::new(2);
        queue.push(1, "gone", |_| false);
        queue.push(1, "stays", |_| false);
        assert_eq!(queue.push(2, "new", |request| *request == "gone"), None);
        assert_eq!(queue.take(), ["stays", "new"]);
    }
}
