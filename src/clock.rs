//! The only reader of wall time. Everything else is given a [`Clock`] or a [`Timestamp`].

#![allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::evidence::Timestamp;
use crate::refusal::{Denied, Finding, Reason};

/// No clock that is right shows an earlier moment: 2026-11-24, when this version was written.
pub const EARLIEST: Timestamp = Timestamp(1_795_478_400);

/// Where the time comes from. Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Set(Arc<AtomicU64>),
    System,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `moment` until [`Clock::set`]: for tests and for judging as of another time.
    #[must_use]
    pub fn standing_at(moment: Timestamp) -> Self {
        Self(Source::Set(Arc::new(AtomicU64::new(moment.0))))
    }

    /// Moves a standing clock, with all its clones. The machine's clock is not moved.
    pub fn set(&self, moment: Timestamp) {
        if let Source::Set(seconds) = &self.0 {
            seconds.store(moment.0, Ordering::SeqCst);
        }
    }

    /// The present.
    ///
    /// # Errors
    /// `clock_invalid` before [`EARLIEST`].
    pub fn now(&self) -> Result<Timestamp, Denied> {
        let now = match &self.0 {
            Source::Set(seconds) => Timestamp(seconds.load(Ordering::SeqCst)),
            Source::System => Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())),
        };
        if now >= EARLIEST {
            return Ok(now);
        }
        Finding::new(Reason::ClockInvalid, "clock", format!("{EARLIEST}, when this program was written, or later"), now.to_string())
            .fix("set this machine's clock or repair its time synchronisation")
            .refuse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_before_the_program_was_written_is_no_time() {
        let clock = Clock::standing_at(EARLIEST.minus(1));
        assert_eq!(clock.now().map_err(|denied| denied.reason()), Err(Reason::ClockInvalid));
        let twin = clock.clone();
        twin.set(EARLIEST);
        assert_eq!(clock.now(), Ok(EARLIEST));
        assert_eq!(EARLIEST.to_string(), "2026-11-24T00:00:00Z");
    }
}
