//! How much a session may have on its way that no reader has taken: little at first, more with its connections, and of one
//! room for all sessions of the process.
//!
//! A far end that was let in fills each window that it is given, if it wants to. What was given cannot be taken back, so a
//! session keeps what it has to its end. Where the room is short, connections whose readers stand still hold up others of
//! their own session, and of no other. No source has so much that it is short for the others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use super::{MOST_STREAMS, STREAM_WINDOW};

/// What all sessions have together.
const ROOM: u32 = 256 << 20;

/// What those that came from one source have.
const OF_SOURCE: u32 = ROOM / 2;

/// What one begins with: two connections at full speed.
const FIRST: u32 = 2 * STREAM_WINDOW;

/// What HTTP/2 gives each of them unasked (RFC 9113 6.9.2).
const OWN: u32 = 65_535;

/// One for the process, as its memory is.
static TAKEN: Mutex<Taken> = Mutex::new(Taken::nothing());

/// What sessions have of the room.
#[derive(Debug)]
struct Taken {
    all: u32,
    by_source: BTreeMap<IpAddr, u32>,
}

/// The part of one session, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Window {
    taken: u32,
    source: Option<IpAddr>,
    of: &'static Mutex<Taken>,
}

impl Taken {
    const fn nothing() -> Self {
        Self { all: 0, by_source: BTreeMap::new() }
    }

    /// Takes that much more, where a quarter of what is left is not less, and the source has room for it.
    fn take(&mut self, more: u32, source: Option<IpAddr>) -> bool {
        let of_source = source.and_then(|source| self.by_source.get(&source)).copied().unwrap_or_default();
        if more > ROOM.saturating_sub(self.all) / 4 || (source.is_some() && more > OF_SOURCE.saturating_sub(of_source)) {
            return false;
        }
        self.all += more;
        if let Some(source) = source {
            self.by_source.insert(source, of_source + more);
        }
        true
    }

    fn give_back(&mut self, taken: u32, source: Option<IpAddr>) {
        self.all = self.all.saturating_sub(taken);
        let Some(source) = source else { return };
        let left = self.by_source.get(&source).copied().unwrap_or_default().saturating_sub(taken);
        if left == 0 {
            self.by_source.remove(&source);
        } else {
            self.by_source.insert(source, left);
        }
    }
}

impl Window {
    /// That of a session that came from there; without a source it is one that was opened here, or comes from this machine.
    pub(super) fn first(source: Option<IpAddr>) -> Self {
        Self::first_of(&TAKEN, source)
    }

    fn first_of(of: &'static Mutex<Taken>, source: Option<IpAddr>) -> Self {
        let mut window = Self { taken: 0, source, of };
        window.grow();
        window
    }

    /// Octets.
    pub(super) fn size(&self) -> u32 {
        self.taken.max(OWN)
    }

    /// Grows until so many connections have room whose readers stand still, and one more; `Some` when it has grown, though
    /// it may not be enough.
    pub(super) fn fit(&mut self, streams: usize) -> Option<u32> {
        let streams = u32::try_from(streams).unwrap_or(MOST_STREAMS).min(MOST_STREAMS);
        let before = self.taken;
        while self.taken < STREAM_WINDOW * (streams + 1) && self.grow() {}
        (self.taken != before).then(|| self.size())
    }

    /// Doubles, since less would not be told at once (h2 tells of half a window and more). A quarter of what is left is
    /// the most that it takes at a time: others come after it.
    fn grow(&mut self) -> bool {
        let more = if self.taken == 0 { FIRST } else { self.taken };
        let grown = self.of.lock().unwrap_or_else(PoisonError::into_inner).take(more, self.source);
        self.taken += if grown { more } else { 0 };
        grown
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.taken, self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(of: &Mutex<Taken>) -> u32 {
        of.lock().expect("whole").all
    }

    #[test]
    fn standing_readers_of_all_streams_but_one_leave_that_one_its_window() {
        static TAKEN: Mutex<Taken> = Mutex::new(Taken::nothing());
        for streams in [1, 7, 100, 126] {
            let mut window = Window::first_of(&TAKEN, None);
            window.fit(streams);
            assert!(window.size() >= STREAM_WINDOW * (u32::try_from(streams).expect("few") + 1), "{streams}: {}", window.size());
            assert_eq!(window.fit(streams), None, "it has room already");
        }
        assert_eq!(all(&TAKEN), 0, "what is over is given back");
    }

    #[test]
    fn however_many_sessions_there_are_they_share_one_room() {
        static TAKEN: Mutex<Taken> = Mutex::new(Taken::nothing());
        let mut sessions: Vec<_> = (0..1000).map(|_| Window::first_of(&TAKEN, None)).collect();
        for window in &mut sessions {
            window.fit(usize::MAX);
        }
        let granted: u32 = sessions.iter().map(|window| window.taken).sum();
        assert!(granted == all(&TAKEN) && granted <= ROOM, "{granted}");
        assert!(sessions.iter().all(|window| window.size() >= OWN), "each has what HTTP/2 gives it");
        drop(sessions);
        assert_eq!(all(&TAKEN), 0);
        // One alone leaves most to others.
        let mut greedy = Window::first_of(&TAKEN, None);
        greedy.fit(usize::MAX);
        assert_eq!(greedy.size(), ROOM / 4);
        let mut other = Window::first_of(&TAKEN, None);
        assert_eq!(other.fit(40), Some(32 << 20));
    }

    /// Whoever may open sessions may open many, use all their streams once, and let them idle.
    #[test]
    fn one_source_leaves_others_enough_however_many_sessions_it_opens() {
        static TAKEN: Mutex<Taken> = Mutex::new(Taken::nothing());
        let of = |last: u8| Window::first_of(&TAKEN, Some(IpAddr::from([192, 0, 2, last])));
        let mut greedy: Vec<_> = (0..1000).map(|_| of(1)).collect();
        for window in &mut greedy {
            window.fit(usize::MAX);
        }
        assert!(all(&TAKEN) <= OF_SOURCE, "{}", all(&TAKEN));
        let mut other = of(2);
        assert_eq!(other.fit(40), Some(32 << 20));
        drop((greedy, other));
        assert!(all(&TAKEN) == 0 && TAKEN.lock().expect("whole").by_source.is_empty());
    }
}
