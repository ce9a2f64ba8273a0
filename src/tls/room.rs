//! Room for the evidence of clients that is received and judged: what each may send is bounded, and so is what all of them
//! hold at a time. Nothing is known about any of them yet.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Evidence up to this long needs no room: places for handshakes bound it. Most platforms' is shorter.
const FREE: usize = 32 * 1024;

/// What all clients of a side hold at a time, in octets.
const OF_ALL: usize = 64 * 1024 * 1024;

/// What those of one source hold: a quarter.
const OF_SOURCE: usize = OF_ALL / 4;

/// The room of one serving end. Who waits for it is served in turn, within its source and then among all.
#[derive(Debug)]
pub struct Room {
    all: Arc<Semaphore>,
    by_source: Mutex<HashMap<Option<IpAddr>, Arc<Semaphore>>>,
}

/// Room that is taken until this is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    _permits: [Option<OwnedSemaphorePermit>; 2],
    // Behind the permits, so that it goes after them.
    _part: Option<Part<'a>>,
}

/// A source's part of the room; forgotten with the last who uses it.
#[derive(Debug)]
struct Part<'a> {
    room: &'a Room,
    source: Option<IpAddr>,
    of_source: Option<Arc<Semaphore>>,
}

impl Default for Room {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(OF_ALL)), by_source: Mutex::default() }
    }
}

impl Room {
    /// Waits until there is room for so many octets from a source.
    pub async fn take(&self, octets: usize, source: Option<IpAddr>) -> Held<'_> {
        if octets <= FREE {
            return Held { _permits: [None, None], _part: None };
        }
        let octets = u32::try_from(octets.min(OF_SOURCE)).unwrap_or(u32::MAX);
        let part = self.part(source);
        let of_source = match &part.of_source {
            Some(of_source) => Arc::clone(of_source).acquire_many_owned(octets).await.ok(),
            None => None,
        };
        let of_all = Arc::clone(&self.all).acquire_many_owned(octets).await.ok();
        Held { _permits: [of_source, of_all], _part: Some(part) }
    }

    fn part(&self, source: Option<IpAddr>) -> Part<'_> {
        let mut by_source = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = by_source.entry(source).or_insert_with(|| Arc::new(Semaphore::new(OF_SOURCE)));
        Part { room: self, source, of_source: Some(Arc::clone(of_source)) }
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let mut by_source = self.room.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        self.of_source = None;
        if by_source.get(&self.source).is_some_and(|of_source| Arc::strong_count(of_source) == 1) {
            by_source.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = 256 * 1024;

    fn source(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    /// Room that is there at once.
    async fn at_once(room: &Room, octets: usize, source: Option<IpAddr>) -> Option<Held<'_>> {
        tokio::select! {
            biased;
            held = room.take(octets, source) => Some(held),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn a_source_has_its_part_and_all_have_theirs() {
        let room = Room::default();
        let mut held = Vec::new();
        for last in 0..10 {
            let before = held.len();
            while let Some(more) = at_once(&room, LONG, source(last)).await {
                held.push(more);
            }
            assert_eq!(held.len() - before, if last < 4 { OF_SOURCE / LONG } else { 0 }, "source {last}");
        }
        assert!(at_once(&room, FREE, source(0)).await.is_some(), "short evidence needs no room");
        drop(held);
        assert_eq!((room.all.available_permits(), room.by_source.lock().map(|sources| sources.len()).ok()), (OF_ALL, Some(0)));
        assert!(at_once(&room, usize::MAX, None).await.is_some(), "no length waits for ever");
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_room_is_given_back() {
        let room = Room::default();
        let mut held = Vec::new();
        while let Some(more) = at_once(&room, LONG, None).await {
            held.push(more);
        }
        let waiting = room.take(LONG, None);
        held.pop();
        drop(waiting.await);
        assert!(at_once(&room, LONG, None).await.is_some(), "who gave up keeps nobody out");
    }
}
