//! One quote for many sessions: collects leaves while the hardware is busy, asks it once, hands each its proof.
//!
//! Exactly one quote is in flight, whoever asks: sessions through [`Batcher::quote`], certificate evidence through
//! [`Batcher::single`]. Nobody waits for room: a full queue answers busy at once. Not for: what a leaf means, and not
//! for offering signatures over report data of a peer's choice (the callers are `tls` and `session` alone).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use super::devices::Devices;
use super::queue::Queue;
use super::{Attester, Quote, Unavailable};
use crate::admin::metrics::QuoteMetrics;
use crate::evidence::batch::{self, MAX_SIZE, Node, Proof};
use crate::evidence::{Auxiliary, Challenge};

/// How leaves are collected.
#[derive(Clone, Copy, Debug)]
pub struct BatchSettings {
    /// How long a leaf that found the hardware busy waits for company, counted from when it came. A leaf that finds it
    /// idle does not wait.
    pub window: Duration,
    /// How many leaves may wait, at least 1; one more is answered busy.
    pub queue: usize,
}

impl Default for BatchSettings {
    /// 20 ms and 1024 leaves.
    fn default() -> Self {
        Self { window: Duration::from_millis(20), queue: 1024 }
    }
}

/// A quote that speaks for a batch, with one leaf's place in it.
#[derive(Clone, Debug)]
pub struct BatchedQuote {
    /// Evidence over the batch's root, shared by all its leaves.
    pub quote: Arc<Quote>,
    /// The leaf's proof.
    pub proof: Proof,
    /// How many leaves the quote speaks for.
    pub size: u64,
}

/// Why there is no quote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum QuoteError {
    /// Too many are waiting: try again later.
    Busy,
    /// The attester failed.
    Unavailable(Unavailable),
}

impl std::fmt::Display for QuoteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Busy => f.write_str("too many quotes are waiting"),
            Self::Unavailable(unavailable) => unavailable.fmt(f),
        }
    }
}

impl std::error::Error for QuoteError {}

/// Access to the one attester of this process. Cheap to clone; the work ends when the last clone is gone.
#[derive(Clone)]
pub struct Batcher {
    attester: Arc<dyn Attester>,
    listed: Listed,
    leaves: Arc<Queue<Option<IpAddr>, Leaf>>,
    singles: mpsc::Sender<Single>,
    listings: mpsc::Sender<Listing>,
    counters: QuoteMetrics,
    devices: Option<Devices>,
}

impl Batcher {
    /// Begins to work for `attester`, counting for itself.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(attester: Arc<dyn Attester>, settings: BatchSettings) -> Self {
        Self::start_counted(attester, settings, QuoteMetrics::default())
    }

    /// Begins to work for `attester`, counting in `counters`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start_counted(attester: Arc<dyn Attester>, settings: BatchSettings, counters: QuoteMetrics) -> Self {
        let leaves = Arc::new(Queue::new(settings.queue.clamp(1, usize::try_from(MAX_SIZE).unwrap_or(usize::MAX))));
        let (singles, waiting_singles) = mpsc::channel(MAX_SINGLES);
        let (listings, waiting_listings) = mpsc::channel(MAX_LISTINGS);
        let listed = Listed::default();
        let hardware = Hardware { attester: Arc::clone(&attester), listed: Arc::clone(&listed), counters: counters.clone(), idle_since: Instant::now() };
        tokio::spawn(hardware.work(Arc::clone(&leaves), waiting_singles, waiting_listings, settings.window));
        Self { attester, listed, leaves, singles, listings, counters, devices: None }
    }

    /// A quote that speaks for `leaf`, with the proof. Dropping the future withdraws the leaf and harms no other. `source`
    /// is where the peer comes from: when there is no room, the source with the most waiting gives way.
    ///
    /// # Errors
    /// [`QuoteError`]; [`QuoteError::Busy`] for a leaf that has to give way.
    pub async fn quote(&self, leaf: Node, source: Option<IpAddr>) -> Result<BatchedQuote, QuoteError> {
        let (reply, answer) = oneshot::channel();
        if self.singles.is_closed() {
            return Err(stopped());
        }
        if let Some(turned_away) = self.leaves.push(source, Leaf { leaf, came: Instant::now(), reply }, |leaf| leaf.reply.is_closed()) {
            self.counters.busy.inc();
            // Whoever waited may be gone by now.
            let _ = turned_away.reply.send(Err(QuoteError::Busy));
        }
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The members that the binding claims list, as they were when the last quote was made; read in their turn where that
    /// could not be done then, once for all that wait.
    ///
    /// # Errors
    /// As [`Batcher::quote`], when the attester cannot read them.
    pub async fn listed(&self) -> Result<Arc<[Auxiliary]>, QuoteError> {
        if let Some(listed) = self.listed.load_full() {
            return Ok(Arc::clone(&listed));
        }
        let (reply, answer) = oneshot::channel();
        self.ask(&self.listings, reply)?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// A quote that carries `challenge` alone, in its turn: for certificate evidence.
    ///
    /// # Errors
    /// As [`Batcher::quote`].
    pub async fn single(&self, challenge: Challenge) -> Result<Quote, QuoteError> {
        let (reply, answer) = oneshot::channel();
        self.ask(&self.singles, Single { challenge, reply })?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The same with devices whose evidence goes beside the attester's, in sessions whose peers ask for it.
    #[must_use]
    pub fn beside(self, devices: Option<Devices>) -> Self {
        Self { devices, ..self }
    }

    /// The devices beside the attester.
    #[must_use]
    pub const fn devices(&self) -> Option<&Devices> {
        self.devices.as_ref()
    }

    /// What has been quoted.
    #[must_use]
    pub const fn counters(&self) -> &QuoteMetrics {
        &self.counters
    }

    fn ask<T>(&self, queue: &mpsc::Sender<T>, request: T) -> Result<(), QuoteError> {
        queue.try_send(request).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => {
                self.counters.busy.inc();
                QuoteError::Busy
            }
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })
    }
}

type Listed = Arc<ArcSwapOption<Arc<[Auxiliary]>>>;

impl std::fmt::Debug for Batcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher").field("provider", &self.attester.provider()).field("counters", &self.counters).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Leaf {
    leaf: Node,
    came: Instant,
    reply: oneshot::Sender<Result<BatchedQuote, QuoteError>>,
}

/// Who waits for the members that the binding claims list.
type Listing = oneshot::Sender<Result<Arc<[Auxiliary]>, QuoteError>>;

#[derive(Debug)]
struct Single {
    challenge: Challenge,
    reply: oneshot::Sender<Result<Quote, QuoteError>>,
}

/// The attester, owned by the one task that may ask it.
struct Hardware {
    attester: Arc<dyn Attester>,
    listed: Listed,
    counters: QuoteMetrics,
    idle_since: Instant,
}

impl Hardware {
    async fn work(
        mut self,
        leaves: Arc<Queue<Option<IpAddr>, Leaf>>,
        mut singles: mpsc::Receiver<Single>,
        mut listings: mpsc::Receiver<Listing>,
        window: Duration,
    ) {
        loop {
            // Unbiased, so that no kind starves another.
            tokio::select! {
                listing = listings.recv() => match listing {
                    Some(listing) => self.answer_listings(listing, &mut listings).await,
                    None => return,
                },
                single = singles.recv() => match single {
                    Some(single) => self.answer_single(single).await,
                    // The last handle is gone.
                    None => return,
                },
                () = leaves.came() => {
                    match leaves.first(|leaf| leaf.came) {
                        Some(came) if came < self.idle_since => tokio::time::sleep_until(came + window).await,
                        // Lets what is ready to ask ask.
                        _ => tokio::task::yield_now().await,
                    }
                    let batch = leaves.take().into_iter().filter(|leaf| !leaf.reply.is_closed());
                    self.answer_batch(batch.collect()).await;
                }
            }
        }
    }

    async fn answer_single(&mut self, Single { challenge, reply }: Single) {
        if !reply.is_closed() {
            // A caller that is gone by now is no error.
            let _ = reply.send(self.quote(challenge, 0).await);
        }
    }

    /// Reads the members once for everybody who waits by the end of it.
    async fn answer_listings(&self, first: Listing, others: &mut mpsc::Receiver<Listing>) {
        let mut waiting = vec![first];
        waiting.extend(std::iter::from_fn(|| others.try_recv().ok()));
        if waiting.iter().all(Listing::is_closed) {
            return;
        }
        let read = match self.listed.load_full() {
            Some(listed) => Ok((*listed).clone()),
            None => self.read_listed().await,
        };
        waiting.extend(std::iter::from_fn(|| others.try_recv().ok()));
        for reply in waiting {
            let _ = reply.send(read.clone());
        }
    }

    async fn read_listed(&self) -> Result<Arc<[Auxiliary]>, QuoteError> {
        let attester = Arc::clone(&self.attester);
        let read = tokio::task::spawn_blocking(move || attester.listed()).await;
        let read = read.unwrap_or_else(|_| Err(panicked(self.attester.provider()))).map_err(QuoteError::Unavailable)?;
        let read: Arc<[Auxiliary]> = read.into();
        self.listed.store(Some(Arc::new(Arc::clone(&read))));
        Ok(read)
    }

    async fn answer_batch(&mut self, batch: Vec<Leaf>) {
        let nodes: Vec<_> = batch.iter().map(|leaf| leaf.leaf).collect();
        let Some((root, proofs)) = batch::build(&nodes) else { return };
        let size = u64::try_from(nodes.len()).unwrap_or(u64::MAX);
        let quote = self.quote(batch::challenge(size, &root), size).await.map(Arc::new);
        for (leaf, proof) in batch.into_iter().zip(proofs) {
            let _ = leaf.reply.send(quote.clone().map(|quote| BatchedQuote { quote, proof, size }));
        }
    }

    /// Asks the attester once; returns when it is done, however long that takes: asking again would not be faster.
    async fn quote(&mut self, challenge: Challenge, leaves: u64) -> Result<Quote, QuoteError> {
        let (attester, begin) = (Arc::clone(&self.attester), Instant::now());
        let outcome = tokio::task::spawn_blocking(move || {
            let quote = attester.attest(&challenge);
            // An event log may have grown: the next claims list it as it is now.
            (quote, attester.listed().ok())
        })
        .await;
        self.idle_since = Instant::now();
        let quote_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (outcome, listed) = outcome.unwrap_or_else(|_| (Err(panicked(self.attester.provider())), None));
        self.listed.store(listed.map(|listed| Arc::new(listed.into())));
        match outcome {
            Ok(quote) => {
                self.counters.quotes.inc();
                self.counters.leaves.inc_by(leaves);
                self.counters.largest.inner().fetch_max(i64::try_from(leaves).unwrap_or(i64::MAX), Ordering::Relaxed);
                match leaves {
                    0 => info!(quote_ms, "quote for a certificate"),
                    batch_size => info!(batch_size, quote_ms, "quote for a batch of sessions"),
                }
                Ok(quote)
            }
            Err(unavailable) => {
                self.counters.failures.inc();
                warn!(quote_ms, what = %unavailable.what, why = %unavailable.why, fix = %unavailable.fix, transient = unavailable.transient, "no quote");
                Err(QuoteError::Unavailable(unavailable))
            }
        }
    }
}

fn panicked(provider: &str) -> Unavailable {
    Unavailable {
        what: provider.to_owned(),
        why: "the attester panicked".to_owned(),
        fix: "this is a defect of this program: report it with the log".to_owned(),
        transient: false,
    }
}

fn stopped() -> QuoteError {
    QuoteError::Unavailable(Unavailable {
        what: "attester".to_owned(),
        why: "this process is shutting down".to_owned(),
        fix: "none needed".to_owned(),
        transient: true,
    })
}

/// How many certificates may wait for evidence: identities in one process are few.
const MAX_SINGLES: usize = 64;

/// How many sessions may wait for the members that claims list: as many as usually wait for quotes.
const MAX_LISTINGS: usize = 1024;
