//! How much a session may have on its way that no reader has taken: little at first, more with its connections, and of one
//! room for all sessions of the process.
//!
//! A far end that was let in fills each window that it is given, if it wants to. What was given cannot be taken back, so a
//! session keeps what it has to its end. Where the room is short, connections whose readers stand still hold up others of
//! their own session, and of no other.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{MOST_STREAMS, STREAM_WINDOW};

/// What all sessions have together.
const ROOM: u32 = 256 << 20;

/// What one begins with: two connections at full speed.
const FIRST: u32 = 2 * STREAM_WINDOW;

/// What HTTP/2 gives each of them unasked (RFC 9113 6.9.2).
const OWN: u32 = 65_535;

/// One for the process, as its memory is.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// The part of one session, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Window {
    taken: u32,
    of: &'static AtomicU32,
}

impl Window {
    pub(super) fn first() -> Self {
        Self::first_of(&TAKEN)
    }

    fn first_of(of: &'static AtomicU32) -> Self {
        let mut window = Self { taken: 0, of };
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
        let take = |taken: u32| (more <= ROOM.saturating_sub(taken) / 4).then(|| taken + more);
        let grown = self.of.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
        self.taken += if grown { more } else { 0 };
        grown
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.of.fetch_sub(self.taken, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standing_readers_of_all_streams_but_one_leave_that_one_its_window() {
        static TAKEN: AtomicU32 = AtomicU32::new(0);
        for streams in [1, 7, 100, 126] {
            let mut window = Window::first_of(&TAKEN);
            window.fit(streams);
            assert!(window.size() >= STREAM_WINDOW * (u32::try_from(streams).expect("few") + 1), "{streams}: {}", window.size());
            assert_eq!(window.fit(streams), None, "it has room already");
        }
        assert_eq!(TAKEN.load(Ordering::SeqCst), 0, "what is over is given back");
    }

    #[test]
    fn however_many_sessions_there_are_they_share_one_room() {
        static TAKEN: AtomicU32 = AtomicU32::new(0);
        let mut sessions: Vec<_> = (0..1000).map(|_| Window::first_of(&TAKEN)).collect();
        for window in &mut sessions {
            window.fit(usize::MAX);
        }
        let granted: u32 = sessions.iter().map(|window| window.taken).sum();
        assert!(granted == TAKEN.load(Ordering::SeqCst) && granted <= ROOM, "{granted}");
        assert!(sessions.iter().all(|window| window.size() >= OWN), "each has what HTTP/2 gives it");
        drop(sessions);
        assert_eq!(TAKEN.load(Ordering::SeqCst), 0);
        // One alone leaves most to others.
        let mut greedy = Window::first_of(&TAKEN);
        greedy.fit(usize::MAX);
        assert_eq!(greedy.size(), ROOM / 4);
        let mut other = Window::first_of(&TAKEN);
        assert_eq!(other.fit(40), Some(32 << 20));
    }
}
