//! When a certificate is asked for: in good time, not all at once, and ever more rarely of a CA that does not give it.

use std::time::Duration;

use super::Failure;
use crate::evidence::Timestamp;

/// The first pause when the CA cannot be reached, and the longest.
const UNREACHABLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The first pause when the CA says no, and the longest. Public CAs allow five failed validations of a name in an hour:
/// pauses that quadruple from 30 s stay within.
const REFUSED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    /// Its beginning.
    pub not_before: Timestamp,
    /// Its end.
    pub not_after: Timestamp,
}

impl Validity {
    /// When it is to be renewed: at two thirds of its life, up to a twentieth of it earlier. `fraction`, from 0 to 255, says
    /// how much.
    #[must_use]
    pub fn due(&self, fraction: u8) -> Timestamp {
        let life = self.not_after.0.saturating_sub(self.not_before.0);
        let earlier = life.saturating_mul(fraction.into()) / 255 / 20;
        self.not_before.plus((life.saturating_mul(2) / 3).saturating_sub(earlier))
    }
}

/// Something random, for what must not happen everywhere at once.
#[must_use]
pub fn fraction() -> u8 {
    crate::tls::nonce().map_or(128, |[first, ..]| first)
}

/// How often failed.
#[derive(Debug, Default)]
pub struct Pace {
    unreachable: u32,
    refused: u32,
}

impl Pace {
    /// Never yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// There is a certificate: the next failure is the first.
    pub const fn well(&mut self) {
        *self = Self { unreachable: 0, refused: 0 };
    }

    /// How long to wait after `failure`.
    #[must_use]
    pub fn again(&mut self, failure: &Failure) -> Duration {
        let (count, (first, most), factor) = match failure {
            Failure::State(_) | Failure::Unreachable(_) => (&mut self.unreachable, UNREACHABLE, 2_u32),
            Failure::Refused(_) | Failure::Unusable(_) => (&mut self.refused, REFUSED, 4),
        };
        let pause = factor.checked_pow(*count).and_then(|times| first.checked_mul(times)).map_or(most, |pause| pause.min(most));
        *count = count.saturating_add(1);
        // Up to a fifth less.
        pause.saturating_sub(pause / 5 * u32::from(fraction()) / 255)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_due_at_two_thirds_of_its_life_or_somewhat_earlier() {
        let validity = Validity { not_before: Timestamp(1000), not_after: Timestamp(7000) };
        assert_eq!((validity.due(0), validity.due(255)), (Timestamp(5000), Timestamp(4700)));
        let wrong = Validity { not_before: Timestamp(7000), not_after: Timestamp(1000) };
        assert_eq!(wrong.due(255), Timestamp(7000));
        let endless = Validity { not_before: Timestamp(0), not_after: Timestamp(u64::MAX) };
        assert!(endless.due(9) > Timestamp(0));
    }

    #[test]
    fn pauses_grow_to_their_most_and_begin_anew_after_success() {
        let within = |pause: Duration, whole: u64| pause <= Duration::from_secs(whole) && pause >= Duration::from_secs(whole) * 4 / 5;
        let mut pace = Pace::new();
        for whole in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            assert!(within(pace.again(&Failure::Unreachable(String::new())), whole), "{whole}");
        }
        // Five within the first hour.
        for whole in [30, 120, 480, 1920, 3600, 3600] {
            assert!(within(pace.again(&Failure::Refused(String::new())), whole), "{whole}");
        }
        for _ in 0..100 {
            assert!(within(pace.again(&Failure::Unusable(String::new())), 3600));
        }
        pace.well();
        assert!(within(pace.again(&Failure::Refused(String::new())), 30));
    }
}
