//! The search for one item: the disk, then each source in the operator's order; and what is made of an answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::cache::{Entry, Memory};
use super::disk::{Disk, Kept};
use super::http::Client;
use super::item::{Item, Kind, Read, Window};
use super::pace::Pace;
use super::source::{Failure, Source};
use super::{Collateral, FORGOTTEN, NotVouched, Vet, lock};
use crate::admin::metrics::Metrics;
use crate::clock::Clock;
use crate::evidence::{Endorsement, EndorsementId, Timestamp};

/// What the clones of a [`super::Collateral`] share.
pub(super) struct Shared {
    pub(super) sources: Vec<(Source, Semaphore)>,
    pub(super) client: Client,
    pub(super) disk: Option<Disk>,
    pub(super) pace: Pace,
    pub(super) vet: Option<Arc<dyn Vet>>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) memory: Mutex<Memory>,
    pub(super) wanted: Mutex<Vec<Item>>,
    pub(super) flights: Mutex<HashMap<String, watch::Receiver<bool>>>,
    /// Until when a source is left alone, and after how many failures in a row.
    pub(super) rests: Mutex<HashMap<usize, (Instant, u32, Failure)>>,
    /// How often somebody asked for everything anew.
    pub(super) hurried: AtomicU64,
    pub(super) generation: watch::Sender<u64>,
}

impl Shared {
    /// Looks for an item: on disk, where another process may have put it, then at each source in the operator's order.
    pub(super) async fn search(self: &Arc<Self>, item: &Item) {
        let hurried = self.hurried.load(Ordering::Relaxed);
        let Ok(now) = self.clock.now() else {
            lock(&self.memory).missed(item.key(), Vec::new(), &self.pace, Duration::ZERO);
            return;
        };
        // When the clock was ahead, what was got then is not the latest.
        let have = lock(&self.memory).find(&item.key()).map(|entry| entry.got).filter(|got| *got <= now);
        let later = |kept: &Kept| have.is_none_or(|have| kept.got > have) && kept.got <= now;
        if let Some(kept) = self.on_disk(item).await.filter(later)
            && self.usable(item, &kept.read, now).await.is_ok()
        {
            self.take(item, kept.read, kept.got, Fresh::FromDisk, hurried).await;
            return;
        }
        let mut why = Vec::new();
        for (index, (source, room)) in self.sources.iter().enumerate().filter(|(_, (source, _))| source.serves(item)) {
            match self.ask(index, (source, room), item, now).await {
                Ok(read) => {
                    self.take(item, read, now, Fresh::FromSource, hurried).await;
                    return;
                }
                Err(failure) => why.push((source.to_string(), failure)),
            }
        }
        let told: Vec<_> = why.iter().map(|(source, failure)| format!("{source}: {failure}")).collect();
        tracing::warn!(target: "collateral", item = item.id.name, path = item.id.path, tried = told.join("; "), "no source has it");
        // Not before a source that matters may be asked again.
        let rest = why.iter().filter_map(|(_, failure)| failure.of_source()).map(Option::unwrap_or_default).min().unwrap_or_default();
        lock(&self.memory).missed(item.key(), why, &self.pace, rest);
    }

    async fn ask(self: &Arc<Self>, index: usize, (source, room): (&Source, &Semaphore), item: &Item, now: Timestamp) -> Result<Read, Failure> {
        let begun = Instant::now();
        let answer = match self.answer(index, (source, room), item, now).await {
            Ok(read) => self.usable(item, &read, now).await.map(|()| read),
            Err(failure) => Err(failure),
        };
        if !matches!(answer, Err(Failure::Resting(_))) {
            let result = answer.as_ref().map_or_else(Failure::kind, |_| "ok");
            self.metrics.collateral_fetched(source.kind(), item.id.name, result, begun.elapsed());
        }
        answer
    }

    /// A source's answer, unless it is to be left alone; notes for how long it is, after this.
    async fn answer(&self, index: usize, (source, room): (&Source, &Semaphore), item: &Item, now: Timestamp) -> Result<Read, Failure> {
        let Ok(_place) = room.acquire().await else { return Err(Failure::Connection("this process ends".to_owned())) };
        if let Some((_, _, why)) = lock(&self.rests).get(&index).filter(|(until, ..)| *until > Instant::now()) {
            return Err(Failure::Resting(Box::new(why.clone())));
        }
        let answer = source.ask(&self.client, item, now).await;
        let mut rests = lock(&self.rests);
        match answer.as_ref().err().and_then(|failure| Some((failure, failure.of_source()?))) {
            Some((failure, wait)) if source.is_remote() => {
                let failures = rests.get(&index).map_or(0, |(_, failures, _)| *failures).saturating_add(1);
                let rest = match (failure, wait) {
                    (_, Some(wait)) => wait,
                    (Failure::Throttled(_), None) => self.pace.rest,
                    _ => self.pace.retry(failures),
                };
                rests.insert(index, (Instant::now() + rest, failures, failure.clone()));
            }
            _ => drop(rests.remove(&index)),
        }
        answer
    }

    /// Refuses what does not hold now, is older than what is at hand, or is not the vendor's.
    pub(super) async fn usable(self: &Arc<Self>, item: &Item, read: &Read, now: Timestamp) -> Result<(), Failure> {
        let Window { from, until } = read.window;
        if !read.window.holds(now) {
            return Err(Failure::Unusable(format!("it holds from {from} to {until}")));
        }
        let at_hand = lock(&self.memory).find(&item.key()).map(|entry| entry.read.window);
        if let Some(newer) = at_hand.filter(|at_hand| at_hand.holds(now) && at_hand.from > from) {
            return Err(Failure::Unusable(format!("it is of {from}, the one at hand of {}", newer.from)));
        }
        match self.vouched(item, read, now) {
            // Gone before it is asked again: what an item needs, needs nothing itself.
            Err(NotVouched::Needs(id)) => {
                let other = Item { service: item.service.clone(), id };
                Collateral(Arc::clone(self)).get(std::slice::from_ref(&other), self.client.patience()).await;
                self.vouched(item, read, now)
            }
            vouched => vouched,
        }
        .map_err(|refused| match refused {
            NotVouched::Needs(id) => Failure::Unusable(format!("it cannot be told whose it is without {}", id.path)),
            NotVouched::Refused(why) => Failure::Unusable(why),
        })
    }

    fn vouched(&self, item: &Item, read: &Read, now: Timestamp) -> Result<(), NotVouched> {
        let Some(vet) = &self.vet else { return Ok(()) };
        let others = |id: &EndorsementId| {
            if id.name == EndorsementId::ISSUER_CHAIN && id.path == item.id.path {
                let bytes = read.beside.clone()?;
                return Some(Endorsement { name: id.name.to_owned(), media_type: String::new(), bytes });
            }
            let other = Item { service: item.service.clone(), id: id.clone() };
            let memory = lock(&self.memory);
            let entry = memory.find(&other.key()).filter(|entry| entry.read.window.holds(now))?;
            Some(Endorsement { name: id.name.to_owned(), ..entry.read.endorsement.clone() })
        };
        vet.vet(item, &read.endorsement, &others, now)
    }

    /// Keeps an item. `hurried` is as it was when the search began.
    async fn take(self: &Arc<Self>, item: &Item, read: Read, got: Timestamp, fresh: Fresh, hurried: u64) {
        let key = item.key();
        // Somebody wants it anew since: this may be what was there before.
        let anew = self.hurried.load(Ordering::Relaxed) != hurried;
        let due = if anew { Timestamp(0) } else { self.pace.due(read.kind, read.window, got) };
        let kept = lock(&self.wanted).contains(item);
        let on_disk = Kept { service: item.service.clone(), path: item.id.path.clone(), read: read.clone(), got };
        let (changed, given_up) = {
            let mut memory = lock(&self.memory);
            let before = memory.find(&key).map(|entry| (entry.read.endorsement.bytes.clone(), entry.used));
            // No verdict stands on a certificate that was never seen; a list may contradict one that a peer stapled.
            let changed = before.as_ref().map_or(read.kind == Kind::Statement, |(bytes, _)| *bytes != read.endorsement.bytes);
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
    pub(super) fn due(&self, now: Timestamp) -> Vec<Item> {
        let memory = lock(&self.memory);
        let renewed = |entry: &&Entry| entry.kept || entry.used.plus(FORGOTTEN) > now;
        // What was got in the future was got while the clock was ahead: how long ago that is, nobody knows.
        let is_due = |entry: &&Entry| entry.due <= now || entry.got > now;
        let mut due: Vec<_> = memory.iter().map(|(_, entry)| entry).filter(is_due).filter(renewed).filter_map(|entry| entry.item.clone()).collect();
        due.extend(lock(&self.wanted).iter().filter(|item| memory.find(&item.key()).is_none()).cloned());
        due
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Fresh {
    FromDisk,
    FromSource,
}
