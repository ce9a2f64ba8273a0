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
mod source;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
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

pub use bundle::{MAX_BUNDLE, Packed, load as load_bundle, read as read_bundle, write as write_bundle};
pub use http::{Address, Reach};
pub use item::{Item, Kind, MAX_ITEM, Read, SIGNED_JSON, Window, endorsed, read};
pub use pace::Pace;
pub use source::{Failure, Place, Source};

/// Questions that one source is asked at a time.
const AT_ONCE: usize = 4;

/// Items that are looked for at a time; more are answered like those that nobody has.
const MAX_FLIGHTS: usize = 256;

/// An item that no peer needed for this long is no longer renewed.
const FORGOTTEN: u64 = 7 * 86_400;

/// Says whether an item is the vendor's, as far as can be said of it alone: before it is kept.
pub trait Vet: Send + Sync {
    /// Refuses an item that is not what its name says. `others` finds what is at hand beside it.
    ///
    /// # Errors
    /// Why, for people.
    fn vet(&self, item: &Item, endorsement: &Endorsement, others: &dyn Fn(&EndorsementId) -> Option<Endorsement>, now: Timestamp) -> Result<(), String>;
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

struct Shared {
    sources: Vec<(Source, Semaphore)>,
    client: Client,
    disk: Option<Disk>,
    pace: Pace,
    vet: Option<Arc<dyn Vet>>,
    clock: Clock,
    metrics: Arc<Metrics>,
    memory: Mutex<Memory>,
    wanted: Mutex<Vec<Item>>,
    flights: Mutex<HashMap<String, watch::Receiver<bool>>>,
    /// Until when a source is left alone, and after how many failures in a row.
    rests: Mutex<HashMap<usize, (Instant, u32)>>,
    generation: watch::Sender<u64>,
}

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

    /// Names what is wanted whether or not a peer needs it: it is got now and renewed for good.
    pub fn want(&self, items: Vec<Item>) {
        for item in &items {
            lock(&self.0.memory).keep(item);
            if lock(&self.0.memory).find(&item.key()).is_none() {
                drop(self.begin(item));
            }
        }
        *lock(&self.0.wanted) = items;
    }

    /// Asks for everything again, soon and without regard to earlier failures: the operator changed something.
    pub fn hurry(&self) {
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
        self.0.usable(item, &read, now)?;
        Ok(read)
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
            let landing = Landing { shared: Arc::clone(&shared), key, landed };
            shared.search(&item).await;
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
}

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.shared.flights).remove(&self.key);
        self.landed.send_replace(true);
    }
}

impl Shared {
    /// Looks for an item: on disk, where another process may have put it, then at each source in the operator's order.
    async fn search(self: &Arc<Self>, item: &Item) {
        let Ok(now) = self.clock.now() else { return };
        let have = lock(&self.memory).find(&item.key()).map(|entry| entry.got);
        if let Some(kept) = self.on_disk(item).await.filter(|kept| have.is_none_or(|have| kept.got > have) && kept.read.window.holds(now)) {
            self.take(item, kept.read, kept.got, Fresh::FromDisk).await;
            return;
        }
        let mut why = Vec::new();
        for (index, (source, room)) in self.sources.iter().enumerate().filter(|(_, (source, _))| source.serves(item)) {
            match self.ask(index, (source, room), item, now).await {
                Ok(read) => {
                    self.take(item, read, now, Fresh::FromSource).await;
                    return;
                }
                Err(failure) => why.push((source.to_string(), failure)),
            }
        }
        let told: Vec<_> = why.iter().map(|(source, failure)| format!("{source}: {failure}")).collect();
        tracing::warn!(target: "collateral", item = item.id.name, path = item.id.path, tried = told.join("; "), "no source has it");
        // Not before a source that matters may be asked again.
        let rest = why.iter().filter_map(|(_, failure)| failure.of_source()).map(|wait| wait.unwrap_or_default()).min().unwrap_or_default();
        lock(&self.memory).missed(item.key(), why, &self.pace, rest);
    }

    async fn ask(&self, index: usize, (source, room): (&Source, &Semaphore), item: &Item, now: Timestamp) -> Result<Read, Failure> {
        let Ok(_place) = room.acquire().await else { return Err(Failure::Resting) };
        let resting = |rests: &HashMap<usize, (Instant, u32)>| rests.get(&index).map(|(until, _)| *until).filter(|until| *until > Instant::now());
        let until = resting(&lock(&self.rests));
        if until.is_some() {
            return Err(Failure::Resting);
        }
        let begun = Instant::now();
        let answer = match source.ask(&self.client, item, now).await {
            Ok(read) => self.usable(item, &read, now).map(|()| read),
            Err(failure) => Err(failure),
        };
        let result = answer.as_ref().map_or_else(Failure::kind, |_| "ok");
        self.metrics.collateral_fetched(source.kind(), item.id.name, result, begun.elapsed());
        let mut rests = lock(&self.rests);
        match answer.as_ref().err().and_then(Failure::of_source) {
            Some(wait) if source.is_remote() => {
                let failures = rests.get(&index).map_or(0, |(_, failures)| *failures).saturating_add(1);
                let rest = match (&answer, wait) {
                    (_, Some(wait)) => wait,
                    (Err(Failure::Throttled(_)), None) => self.pace.rest,
                    _ => self.pace.retry(failures),
                };
                rests.insert(index, (Instant::now() + rest, failures));
            }
            _ => drop(rests.remove(&index)),
        }
        answer
    }

    /// Refuses what does not hold now, is older than what is at hand, or is not the vendor's.
    fn usable(&self, item: &Item, read: &Read, now: Timestamp) -> Result<(), Failure> {
        let Window { from, until } = read.window;
        if !read.window.holds(now) {
            return Err(Failure::Unusable(format!("it holds from {from} to {until}")));
        }
        let at_hand = lock(&self.memory).find(&item.key()).map(|entry| entry.read.window);
        if let Some(newer) = at_hand.filter(|at_hand| at_hand.holds(now) && at_hand.from > from) {
            return Err(Failure::Unusable(format!("it is of {from}, the one at hand of {}", newer.from)));
        }
        let Some(vet) = &self.vet else { return Ok(()) };
        let others = |id: &EndorsementId| {
            let other = Item { service: item.service.clone(), id: id.clone() };
            let memory = lock(&self.memory);
            let entry = memory.find(&other.key()).filter(|entry| entry.read.window.holds(now))?;
            Some(Endorsement { name: id.name.to_owned(), ..entry.read.endorsement.clone() })
        };
        vet.vet(item, &read.endorsement, &others, now).map_err(Failure::Unusable)
    }

    async fn take(self: &Arc<Self>, item: &Item, read: Read, got: Timestamp, fresh: Fresh) {
        let key = item.key();
        let due = self.pace.due(read.kind, read.window, got);
        let kept = lock(&self.wanted).contains(item);
        let on_disk = Kept { service: item.service.clone(), path: item.id.path.clone(), read: read.clone(), got };
        let (changed, given_up) = {
            let mut memory = lock(&self.memory);
            let before = memory.find(&key).map(|entry| (entry.read.endorsement.bytes.clone(), entry.used));
            let changed = before.as_ref().is_none_or(|(bytes, _)| *bytes != read.endorsement.bytes);
            let used = before.map_or(got, |(_, used)| used);
            let given_up = memory.insert(key, Entry { item: Some(item.clone()), read, got, due, used, kept });
            (changed, given_up)
        };
        if changed {
            self.generation.send_modify(|generation| *generation = generation.wrapping_add(1));
        }
        self.count_ends();
        let Some(disk) = self.disk.clone() else { return };
        let stored = tokio::task::spawn_blocking(move || {
            given_up.into_iter().for_each(|key| disk.remove(&key));
            if fresh == Fresh::FromSource { disk.store(&on_disk) } else { Ok(()) }
        });
        if let Ok(Err(error)) = stored.await {
            tracing::warn!(target: "collateral", item = item.id.name, %error, "not written to the cache; it is in memory alone");
        }
    }

    async fn on_disk(&self, item: &Item) -> Option<Kept> {
        let (disk, item) = (self.disk.clone()?, item.clone());
        tokio::task::spawn_blocking(move || disk.find(&item)).await.ok().flatten()
    }

    /// Shows the earliest end of each kind of item.
    fn count_ends(&self) {
        let mut ends: HashMap<String, u64> = HashMap::new();
        for (_, entry) in lock(&self.memory).iter() {
            let end = ends.entry(entry.read.endorsement.name.clone()).or_insert(u64::MAX);
            *end = entry.read.window.until.0.min(*end);
        }
        ends.iter().for_each(|(name, end)| self.metrics.collateral_ends(name, *end));
    }

    /// What is to be asked for again.
    fn due(&self, now: Timestamp) -> Vec<Item> {
        let memory = lock(&self.memory);
        let renewed = |entry: &&Entry| entry.kept || entry.used.plus(FORGOTTEN) > now;
        let mut due: Vec<_> =
            memory.iter().map(|(_, entry)| entry).filter(|entry| entry.due <= now).filter(renewed).filter_map(|entry| entry.item.clone()).collect();
        due.extend(lock(&self.wanted).iter().filter(|item| memory.find(&item.key()).is_none()).cloned());
        due
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Fresh {
    FromDisk,
    FromSource,
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
