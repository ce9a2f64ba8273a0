//! Devices beside the TEE (GPUs): evidence for one session each, for the peers that ask for it.
//!
//! A device answers one nonce at a time and slowly, and no answer serves two sessions. So they have bounds of their own: a
//! device that is slow or besieged holds up nobody but the sessions that need it. Nothing here judges evidence.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::Unavailable;
use super::batch::QuoteError;
use crate::admin::metrics::DeviceMetrics;
use crate::evidence::{Auxiliary, Endorsements};

/// Something that has the devices of this machine answer a nonce.
pub trait DeviceAttester: Debug + Send + Sync {
    /// Where the evidence comes from, for people.
    fn provider(&self) -> &'static str;

    /// The media type of each member: what a peer's HELLO asks for.
    fn media_type(&self) -> &'static str;

    /// Every device's answer. Dropping the future ends the work.
    fn attest(&self, nonce: [u8; 32]) -> Attesting<'_>;
}

/// An answer under way.
pub type Attesting<'a> = Pin<Box<dyn Future<Output = Result<Attested, Unavailable>> + Send + 'a>>;

/// What the devices answered.
#[derive(Clone, Debug, Default)]
pub struct Attested {
    /// A member for each device: the binding claims have to list them.
    pub members: Vec<Auxiliary>,
    /// What a verifier needs to judge them.
    pub endorsements: Endorsements,
}

/// How much is asked of devices.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSettings {
    /// How many nonces are answered at a time, at least 1.
    pub at_once: usize,
    /// How long one answer may take.
    pub limit: Duration,
}

impl Default for DeviceSettings {
    /// One at a time, 5 s.
    fn default() -> Self {
        Self { at_once: 1, limit: Duration::from_secs(5) }
    }
}

/// How many sessions may wait for each one that is answered: what can be served while their peers have patience.
const WAITING: usize = 16;

/// Access to the devices of this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Devices(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    attester: Box<dyn DeviceAttester>,
    settings: DeviceSettings,
    working: Semaphore,
    places: Places,
    counters: DeviceMetrics,
}

impl Devices {
    /// Asks the devices once, so that what cannot work is known before anybody relies on it.
    ///
    /// # Errors
    /// [`Unavailable`] when they do not answer as they should.
    pub async fn start(attester: Box<dyn DeviceAttester>, settings: DeviceSettings, counters: DeviceMetrics) -> Result<Self, Unavailable> {
        let settings = DeviceSettings { at_once: settings.at_once.max(1), ..settings };
        let (working, places) = (Semaphore::new(settings.at_once), Places::new(settings.at_once.saturating_mul(WAITING)));
        let devices = Self(Arc::new(Shared { attester, settings, working, places, counters }));
        let trial = devices.0.within_limit(crate::crypto::sha256(&[b"PORTCULLIS/1 gpu trial"])).await?;
        info!(target: "devices", provider = devices.0.attester.provider(), devices = trial.members.len(), "evidence of devices is made here");
        Ok(devices)
    }

    /// The media type that a peer asks for to get their evidence.
    #[must_use]
    pub fn media_type(&self) -> &'static str {
        self.0.attester.media_type()
    }

    /// Evidence for one session. `source` is where the peer comes from: no source takes more than half of the room.
    /// Dropping the future gives the room back.
    ///
    /// # Errors
    /// [`QuoteError`]; [`QuoteError::Busy`] without waiting where there is no room.
    pub async fn attest(&self, nonce: [u8; 32], source: Option<IpAddr>) -> Result<Attested, QuoteError> {
        let Some(_place) = self.0.places.take(source) else {
            self.0.counters.busy.inc();
            return Err(QuoteError::Busy);
        };
        // The semaphore is never closed.
        let Ok(_turn) = self.0.working.acquire().await else { return Err(QuoteError::Busy) };
        match self.0.within_limit(nonce).await {
            Ok(attested) => {
                self.0.counters.attested.inc();
                Ok(attested)
            }
            Err(unavailable) => {
                self.0.counters.failures.inc();
                warn!(target: "devices", what = %unavailable.what, why = %unavailable.why, fix = %unavailable.fix, transient = unavailable.transient, "no evidence");
                Err(QuoteError::Unavailable(unavailable))
            }
        }
    }
}

impl Shared {
    async fn within_limit(&self, nonce: [u8; 32]) -> Result<Attested, Unavailable> {
        let limit = self.settings.limit;
        tokio::time::timeout(limit, self.attester.attest(nonce)).await.unwrap_or_else(|_| {
            Err(Unavailable {
                what: self.attester.provider().to_owned(),
                why: format!("no answer within {} ms", limit.as_millis()),
                fix: "see why the devices are slow; or give them more time: identity.gpus.timeout".to_owned(),
                transient: true,
            })
        })
    }
}

/// The room for sessions that wait or are served.
#[derive(Debug)]
struct Places {
    most: usize,
    taken: Mutex<HashMap<Option<IpAddr>, usize>>,
}

/// One session's place, given back when dropped.
struct Place<'a> {
    places: &'a Places,
    source: Option<IpAddr>,
}

impl Places {
    fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default() }
    }

    fn take(&self, source: Option<IpAddr>) -> Option<Place<'_>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&source).copied().unwrap_or_default();
        if taken.values().sum::<usize>() >= self.most || own >= self.most.div_ceil(2) {
            return None;
        }
        taken.insert(source, own.saturating_add(1));
        Some(Place { places: self, source })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_source_takes_all_the_room_and_room_is_given_back() {
        let places = Places::new(4);
        let source = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
        let heavy = [places.take(source(1)), places.take(source(1))];
        assert!(heavy.iter().all(Option::is_some) && places.take(source(1)).is_none(), "half");
        let others = [places.take(source(2)), places.take(None)];
        assert!(others.iter().all(Option::is_some) && places.take(source(3)).is_none(), "full");
        drop(heavy);
        assert!(places.take(source(3)).is_some());
        drop(others);
        assert!(places.taken.lock().expect("whole").is_empty(), "nothing is kept of sources that are gone");
    }
}
