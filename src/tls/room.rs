//! Room for the evidence of clients that is received and judged: what each may send is bounded, and so is what all of them
//! hold at a time. Nothing is known about any of them yet.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Evidence up to this long needs no room: places for handshakes bound it. Most platforms' is shorter.
const FREE: usize = 32 * 1024;

/// What all clients of a side hold at a time, in octets.
const OF_ALL: usize = 64 * 1024 * 1024;

/// What those of one source hold: a quarter.
const OF_SOURCE: usize = OF_ALL / 4;

/// The room of one serving end.
#[derive(Debug, Default)]
pub struct Room {
    taken: Mutex<Taken>,
    given_back: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_source: HashMap<Option<IpAddr>, usize>,
}

/// Room that is taken until this is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    room: &'a Room,
    octets: usize,
    source: Option<IpAddr>,
}

impl Room {
    /// Waits until there is room for so many octets from a source.
    pub async fn take(&self, octets: usize, source: Option<IpAddr>) -> Held<'_> {
        loop {
            let mut given_back = std::pin::pin!(self.given_back.notified());
            // What is given back from here on is noticed.
            given_back.as_mut().enable();
            if let Some(held) = self.try_take(octets, source) {
                return held;
            }
            given_back.await;
        }
    }

    fn try_take(&self, octets: usize, source: Option<IpAddr>) -> Option<Held<'_>> {
        let octets = if octets <= FREE { 0 } else { octets.min(OF_SOURCE) };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = taken.by_source.get(&source).copied().unwrap_or_default();
        if octets > 0 {
            if taken.all + octets > OF_ALL || of_source + octets > OF_SOURCE {
                return None;
            }
            taken.all += octets;
            taken.by_source.insert(source, of_source + octets);
        }
        Some(Held { room: self, octets, source })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.octets == 0 {
            return;
        }
        let mut taken = self.room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= self.octets;
        let left = taken.by_source.get(&self.source).copied().unwrap_or_default().saturating_sub(self.octets);
        match left {
            0 => drop(taken.by_source.remove(&self.source)),
            left => drop(taken.by_source.insert(self.source, left)),
        }
        drop(taken);
        self.room.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = 256 * 1024;

    fn source(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn a_source_has_its_part_and_all_have_theirs() {
        let room = Room::default();
        let mut held = Vec::new();
        for last in 0..10 {
            let before = held.len();
            held.extend(std::iter::from_fn(|| room.try_take(LONG, source(last))));
            assert_eq!(held.len() - before, if last < 4 { OF_SOURCE / LONG } else { 0 }, "source {last}");
        }
        assert!(room.try_take(FREE, source(0)).is_some(), "short evidence needs no room");
        drop(held);
        assert!(room.taken.lock().is_ok_and(|taken| taken.all == 0 && taken.by_source.is_empty()));
        assert!(room.try_take(usize::MAX, None).is_some(), "no length waits for ever");
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_room_is_given_back() {
        let room = Room::default();
        let mut held: Vec<_> = std::iter::from_fn(|| room.try_take(LONG, None)).collect();
        let mut waiting = std::pin::pin!(room.take(LONG, None));
        assert!(futures_now(waiting.as_mut()).await.is_none());
        held.pop();
        drop(waiting.await);
    }

    /// What a future has at once.
    async fn futures_now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }
}
