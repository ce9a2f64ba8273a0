//! A simulated machine that never fails: one quote at a time, each as slow as it was told to be.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::attester::{Attester, Quote, Unavailable};
use crate::evidence::{Auxiliary, Challenge};

/// The machine of this platform that answers a challenge with what `quote` makes. `listed` is what its claims list.
pub(super) fn steady(
    platform: &'static str,
    quote_delay: Duration,
    listed: Vec<Auxiliary>,
    quote: impl Fn(&Challenge) -> Quote + Send + Sync + 'static,
) -> Box<dyn Attester> {
    Box::new(Steady { platform, quote_delay, listed, hardware: Mutex::default(), quote })
}

struct Steady<Q> {
    platform: &'static str,
    quote_delay: Duration,
    listed: Vec<Auxiliary>,
    hardware: Mutex<()>,
    quote: Q,
}

impl<Q: Fn(&Challenge) -> Quote + Send + Sync> Attester for Steady<Q> {
    fn platform(&self) -> &'static str {
        self.platform
    }

    fn provider(&self) -> &'static str {
        "simulator"
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let _one_at_a_time = self.hardware.lock().unwrap_or_else(PoisonError::into_inner);
        std::thread::sleep(self.quote_delay);
        Ok((self.quote)(challenge))
    }

    fn listed(&self) -> Result<Vec<Auxiliary>, Unavailable> {
        Ok(self.listed.clone())
    }
}
