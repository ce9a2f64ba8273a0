//! When to ask, and when to ask again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::item::{Kind, Window};
use crate::evidence::Timestamp;

/// How often sources are asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// How long somebody waits for an item that was never seen.
    pub wait: Duration,
    /// How often revocation lists and signed statements are asked for again, long before they end.
    pub refresh: Duration,
    /// The pause after the first failure; it doubles with each further one.
    pub first_retry: Duration,
    /// The longest pause, unless a source asks for more.
    pub slowest_retry: Duration,
    /// The pause of a source that asks for patience and does not say how long.
    pub rest: Duration,
    /// How often it is looked for what is due.
    pub look: Duration,
}

impl Default for Pace {
    /// 5 s of waiting, a refresh a day, 1 s to 5 min between tries, 10 s of rest (about what AMD's service asks for).
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(5),
            refresh: Duration::from_secs(24 * 3600),
            first_retry: Duration::from_secs(1),
            slowest_retry: Duration::from_secs(300),
            rest: Duration::from_secs(10),
            look: Duration::from_secs(15),
        }
    }
}

/// A certificate is asked for again in the last quarter of its life, but no earlier than this before its end.
const CERTIFICATE_MARGIN: u64 = 30 * 86_400;

impl Pace {
    /// The pause after so many failures in a row.
    pub(super) fn retry(&self, failures: u32) -> Duration {
        let doubled = self.first_retry.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        jittered(doubled.min(self.slowest_retry))
    }

    /// When an item that was got at `got` is to be asked for again: not all processes of a fleet at once.
    pub(super) fn due(&self, kind: Kind, window: Window, got: Timestamp) -> Timestamp {
        let left = window.until.0.saturating_sub(got.0);
        let wait = match kind {
            Kind::Certificate => left.saturating_sub(CERTIFICATE_MARGIN.min(left / 4)),
            Kind::Statement => self.refresh.as_secs().min(left.saturating_sub(left / 4)),
        };
        got.plus(jittered(Duration::from_secs(wait)).as_secs())
    }
}

/// Between 90 and 100 hundredths of a duration. Spreads load; nothing depends on its being unguessable.
fn jittered(duration: Duration) -> Duration {
    static STATE: AtomicU64 = AtomicU64::new(0);
    let seed = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) ^ u64::from(std::process::id()).rotate_left(32);
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let thousandths = u32::try_from((mixed >> 33) % 100).unwrap_or(0);
    duration.saturating_sub(duration / 1000 * thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_slowest() {
        let pace = Pace::default();
        for (failures, most) in [(1, 1000), (2, 2000), (5, 16_000), (40, 300_000), (u32::MAX, 300_000)] {
            let pause = pace.retry(failures).as_millis();
            assert!(pause <= most && pause >= most * 9 / 10, "{failures}: {pause}");
        }
    }

    #[test]
    fn an_item_is_renewed_before_it_ends() {
        let day = 86_400;
        let window = |days: u64| Window { from: Timestamp(0), until: Timestamp(days * day) };
        let due = |kind, days| Pace::default().due(kind, window(days), Timestamp(0)).0;
        assert!((day * 9 / 10..=day).contains(&due(Kind::Statement, 30)));
        assert!(due(Kind::Statement, 1) <= day * 3 / 4);
        assert!(due(Kind::Certificate, 2500) <= 2470 * day && due(Kind::Certificate, 2500) > 2000 * day);
        assert_eq!(Pace::default().due(Kind::Statement, window(0), Timestamp(day)), Timestamp(day));
    }
}
