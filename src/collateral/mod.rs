//! Gets and keeps endorsements: chains, revocation lists, TCB data. Nothing on a connection's path waits for a network
//! when an item was ever seen; what was never seen is waited for once, briefly, by all who want it together.
//!
//! Not here: what an item is worth (a [`Vet`] and the verdict decide), and what a peer needs (the platform says).

mod bundle;
mod cache;
mod disk;
mod http;
mod item;
mod pace;
mod search;
mod source;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::admin::metrics::Metrics;
use crate::clock::Clock;
use crate::evidence::{Endorsement, EndorsementId, Timestamp};
use cache::{Entry, Memory};
use disk::{Disk, Kept};
use http::Client;
use search::Shared;

pub use bundle::{MAX_BUNDLE, Packed, load as load_bundle, read as read_bundle, write as write_bundle};
pub use disk::{Looked, look};
pub use http::{Address, Reach};
pub use item::{Item, Kind, MAX_ITEM, Read, Window, endorsed, read};
pub use pace::Pace;
pub use source::{Failure, Place, Source};

/// Questions that one source is asked at a time.
const AT_ONCE: usize = 4;

/// Items that are looked for at a time; more are answered like those that nobody has.
const MAX_FLIGHTS: usize = 256;

/// Items that are wanted for good: those of a few policies.
const MAX_WANTED: usize = 256;

/// An item that no peer needed for this long is no longer renewed.
const FORGOTTEN: u64 = 7 * 86_400;

/// Says whether an item is the vendor's, as far as can be said of it alone: before it is kept.
pub trait Vet: Send + Sync {
    /// Refuses an item that is not what its name says. `others` finds what is at hand beside it.
    ///
    /// # Errors
    /// [`NotVouched`].
    fn vet(&self, item: &Item, endorsement: &Endorsement, others: &dyn Fn(&EndorsementId) -> Option<Endorsement>, now: Timestamp) -> Result<(), NotVouched>;
}

/// Why an item is not kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NotVouched {
    /// It cannot be said without this one, of the same service.
    Needs(EndorsementId),
    /// It is not the vendor's, or not this item; why, for people.
    Refused(String),
}

/// How collateral is got and kept.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// In the order in which they are asked. The first that has an item that holds is believed.
    pub sources: Vec<Source>,
    /// The cache's folder; without one, what was got is gone at the end.
    pub cache: Option<PathBuf>,
    /// How servers are reached.
    pub reach: Reach,
    /// How often.
    pub pace: Pace,
}

/// The collateral of this process. Clones share it; background work ends with the last.
#[derive(Clone)]
pub struct Collateral(Arc<Shared>);

/// What is known about an item, for people.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The vendor's service and the path there.
    pub key: String,
    /// What is at hand.
    pub held: Option<(Read, Timestamp)>,
    /// Why the last try failed, by source.
    pub failed: Vec<(String, Failure)>,
}

impl Collateral {
    /// Reads the cache and begins to renew what is in it.
    ///
    /// # Errors
    /// The cache's folder cannot be used.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(settings: Settings, vet: Option<Arc<dyn Vet>>, clock: Clock, metrics: Arc<Metrics>) -> io::Result<Self> {
        let disk = settings.cache.as_deref().map(Disk::open).transpose()?;
        let client = Client::new(settings.reach).map_err(io::Error::other)?;
        let mut memory = Memory::default();
        for kept in disk.as_ref().map_or_else(|| Ok(Vec::new()), Disk::load)? {
            let Kept { service, path, read, got } = kept;
            let due = settings.pace.due(read.kind, read.window, got);
            memory.insert(format!("{service}{path}"), Entry { item: None, read, got, due, used: got, kept: false });
        }
        let shared = Shared {
            sources: settings.sources.into_iter().map(|source| (source, Semaphore::new(AT_ONCE))).collect(),
            client,
            disk,
            pace: settings.pace,
            vet,
            clock,
            metrics,
            memory: Mutex::new(memory),
            wanted: Mutex::default(),
            flights: Mutex::default(),
            rests: Mutex::default(),
            hurried: AtomicU64::new(0),
            generation: watch::Sender::new(0),
        };
        let collateral = Self(Arc::new(shared));
        tokio::spawn(keep_renewing(Arc::downgrade(&collateral.0)));
        Ok(collateral)
    }

    /// The item, if it is at hand and holds at `now`. Waits for nothing.
    #[must_use]
    pub fn find(&self, item: &Item, now: Timestamp) -> Option<Endorsement> {
        let mut memory = lock(&self.0.memory);
        let entry = memory.used(item, now).filter(|entry| entry.read.window.holds(now))?;
        Some(Endorsement { name: item.id.name.to_owned(), ..entry.read.endorsement.clone() })
    }

    /// Of `items`, those that were never seen and that some source may have: what waiting could help.
    #[must_use]
    pub fn unseen(&self, items: Vec<Item>) -> Vec<Item> {
        let memory = lock(&self.0.memory);
        let asked = |item: &Item| self.0.sources.iter().any(|(source, _)| source.serves(item));
        items.into_iter().filter(|item| memory.find(&item.key()).is_none() && asked(item)).collect()
    }

    /// Asks for what was never seen, and waits for nothing: for whom something else will do until it comes.
    pub fn seek(&self, items: Vec<Item>) {
        for item in self.unseen(items) {
            drop(self.begin(&item));
        }
    }

    /// Waits until each item is at hand, or until it is plain that it will not be within `limit`. Whoever wants the same
    /// item waits for the same question; it goes on when nobody waits any more.
    pub async fn get(&self, items: &[Item], limit: Duration) {
        let deadline = Instant::now() + limit.min(self.0.pace.wait);
        // One after the other costs no time: all questions are asked before the first answer is waited for.
        for item in items {
            drop(self.begin(item));
        }
        for item in items {
            drop(tokio::time::timeout_at(deadline, self.settled(item, deadline)).await);
        }
    }

    /// As [`Collateral::get`], for somebody who looks on: it is waited only where a source is there and asks for time, and
    /// `waits` is told for how long. Items are named as wanted.
    pub async fn fetch(&self, items: &[Item], limit: Duration, waits: &impl Fn(&Item, Duration)) {
        let deadline = Instant::now() + limit;
        self.want(items);
        for item in items {
            drop(tokio::time::timeout_at(deadline, self.followed(item, deadline, waits)).await);
        }
    }

    async fn followed(&self, item: &Item, deadline: Instant, waits: &impl Fn(&Item, Duration)) {
        while lock(&self.0.memory).find(&item.key()).is_none() {
            match self.begin(item) {
                Begun::Asking(mut flight) => drop(flight.wait_for(|landed| *landed).await),
                Begun::Later(again) => {
                    if again >= deadline || !self.why(item).iter().any(|(_, failure)| failure.is_passing()) {
                        return;
                    }
                    waits(item, again.saturating_duration_since(Instant::now()));
                    tokio::time::sleep_until(again).await;
                }
                Begun::Never => return,
            }
        }
    }

    /// Names what is wanted whether or not a peer needs it: it is got now and renewed for good.
    pub fn want(&self, items: &[Item]) {
        for item in items {
            let mut wanted = lock(&self.0.wanted);
            if wanted.len() < MAX_WANTED && !wanted.contains(item) {
                wanted.push(item.clone());
            }
            drop(wanted);
            lock(&self.0.memory).keep(item);
            if lock(&self.0.memory).find(&item.key()).is_none() {
                drop(self.begin(item));
            }
        }
    }

    /// What is wanted and not at hand at `now`, with why, by source.
    #[must_use]
    pub fn lacking(&self, now: Timestamp) -> Vec<(Item, Vec<(String, Failure)>)> {
        let wanted = lock(&self.0.wanted).clone();
        wanted.into_iter().filter(|item| self.find(item, now).is_none()).map(|item| (item.clone(), self.why(&item))).collect()
    }

    /// Asks for everything again, soon and without regard to earlier failures: the operator changed something.
    pub fn hurry(&self) {
        self.0.hurried.fetch_add(1, Ordering::Relaxed);
        lock(&self.0.rests).clear();
        let mut memory = lock(&self.0.memory);
        memory.forgive();
        memory.hurry();
    }

    /// Changes whenever an item's contents do.
    #[must_use]
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// The sources, in their order.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.0.sources.iter().map(|(source, _)| source)
    }

    /// Asks one source for one item, past the cache: for commands that look into sources.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn ask(&self, source: &Source, item: &Item) -> Result<Read, Failure> {
        let now = self.0.clock.now().map_err(|denied| Failure::Unusable(denied.to_string()))?;
        let read = source.ask(&self.0.client, item, now).await?;
        self.0.usable(item, &read, now).await?;
        Ok(read)
    }

    /// Asks one source for one item, and believes nothing of it: for what is only looked at.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn unvetted(&self, source: &Source, item: &Item) -> Result<Read, Failure> {
        let now = self.0.clock.now().map_err(|denied| Failure::Unusable(denied.to_string()))?;
        source.ask(&self.0.client, item, now).await
    }

    /// Everything that is known, by key.
    #[must_use]
    pub fn show(&self) -> Vec<Shown> {
        let memory = lock(&self.0.memory);
        let held = |(key, entry): (&String, &Entry)| {
            let failed = memory.miss(key).map(|miss| miss.why.clone()).unwrap_or_default();
            Shown { key: key.clone(), held: Some((entry.read.clone(), entry.got)), failed }
        };
        let mut shown: Vec<_> = memory.iter().map(held).collect();
        let missing = lock(&self.0.wanted).iter().map(Item::key).filter(|key| memory.find(key).is_none()).collect::<Vec<_>>();
        shown.extend(missing.into_iter().map(|key| {
            let failed = memory.miss(&key).map(|miss| miss.why.clone()).unwrap_or_default();
            Shown { key, held: None, failed }
        }));
        shown.sort_by(|a, b| a.key.cmp(&b.key));
        shown
    }

    /// Why an item is not at hand, by source; empty when nobody was asked.
    #[must_use]
    pub fn why(&self, item: &Item) -> Vec<(String, Failure)> {
        lock(&self.0.memory).miss(&item.key()).map(|miss| miss.why.clone()).unwrap_or_default()
    }

    /// Returns when the item is at hand or cannot be by `deadline`.
    async fn settled(&self, item: &Item, deadline: Instant) {
        loop {
            if lock(&self.0.memory).find(&item.key()).is_some() {
                return;
            }
            match self.begin(item) {
                Begun::Asking(mut flight) => drop(flight.wait_for(|landed| *landed).await),
                Begun::Later(again) if again < deadline => tokio::time::sleep_until(again).await,
                Begun::Later(_) | Begun::Never => return,
            }
        }
    }

    /// Joins the question for this item, or asks it, unless it failed lately.
    fn begin(&self, item: &Item) -> Begun {
        let key = item.key();
        let mut flights = lock(&self.0.flights);
        if let Some(flight) = flights.get(&key) {
            return Begun::Asking(flight.clone());
        }
        if let Some(miss) = lock(&self.0.memory).miss(&key).filter(|miss| miss.again > Instant::now()) {
            return Begun::Later(miss.again);
        }
        if flights.len() >= MAX_FLIGHTS || !self.0.sources.iter().any(|(source, _)| source.serves(item)) && self.0.disk.is_none() {
            return Begun::Never;
        }
        let (landed, flight) = watch::channel(false);
        flights.insert(key.clone(), flight.clone());
        let (shared, item) = (Arc::clone(&self.0), item.clone());
        tokio::spawn(async move {
            // Also when the search panics: nobody waits for a question that is not asked.
            let mut landing = Landing { shared: Arc::clone(&shared), key, landed, searched: false };
            shared.search(&item).await;
            landing.searched = true;
            drop(landing);
        });
        Begun::Asking(flight)
    }
}

impl fmt::Debug for Collateral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collateral").field("sources", &self.0.sources).finish_non_exhaustive()
    }
}

enum Begun {
    /// Somebody asks; the receiver turns true when there is an outcome.
    Asking(watch::Receiver<bool>),
    /// It failed, and is not asked for before this.
    Later(Instant),
    /// Nobody can be asked.
    Never,
}

/// The end of a question, however it ends.
struct Landing {
    shared: Arc<Shared>,
    key: String,
    landed: watch::Sender<bool>,
    /// Whether the search came to its end, and noted how it ended.
    searched: bool,
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.searched {
            lock(&self.shared.memory).missed(self.key.clone(), Vec::new(), &self.shared.pace, Duration::ZERO);
        }
        lock(&self.shared.flights).remove(&self.key);
        self.landed.send_replace(true);
    }
}

/// Asks again for what is due while anybody holds the collateral. What failed lately waits for its pause.
async fn keep_renewing(shared: Weak<Shared>) {
    loop {
        let Some(look) = shared.upgrade().map(|shared| shared.pace.look) else { return };
        tokio::time::sleep(look).await;
        let Some(shared) = shared.upgrade() else { return };
        let Ok(now) = shared.clock.now() else { continue };
        let collateral = Collateral(shared);
        for item in collateral.0.due(now) {
            drop(collateral.begin(&item));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
