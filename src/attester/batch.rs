//! A quote for each leaf, one at a time. Stands in for the batching of many leaves under one quote.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::{Attester, Quote, Unavailable};
use crate::evidence::ReportData;
use crate::evidence::batch::{self, Node, Proof};

/// How leaves are gathered.
#[derive(Clone, Copy, Debug)]
pub struct BatchSettings {
    /// How long leaves are gathered while a quote is in flight.
    pub window: Duration,
    /// How many leaves may wait.
    pub queue: usize,
}

/// Makes quotes over session leaves. Clones share one queue.
#[derive(Clone)]
pub struct Batcher {
    attester: Arc<dyn Attester>,
    queue: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

/// A quote that speaks for a leaf.
#[derive(Clone, Debug)]
pub struct BatchedQuote {
    /// The quote of the whole batch.
    pub quote: Arc<Quote>,
    /// That the leaf is in the batch.
    pub proof: Proof,
    /// How many leaves it speaks for.
    pub size: u64,
}

/// Why there is no quote.
#[derive(Clone, Debug)]
pub enum QuoteError {
    /// Too many leaves wait.
    Busy,
    /// The hardware did not answer as it should.
    Unavailable(Unavailable),
}

impl Batcher {
    /// Starts over `attester`.
    #[must_use]
    pub fn start(attester: Arc<dyn Attester>, settings: BatchSettings) -> Self {
        Self { attester, queue: Arc::new(Semaphore::new(settings.queue)), turn: Arc::new(Semaphore::new(1)) }
    }

    /// A quote over a batch with `leaf` in it.
    ///
    /// # Errors
    /// [`QuoteError`].
    pub async fn quote(&self, leaf: Node) -> Result<BatchedQuote, QuoteError> {
        let (root, proofs) = batch::build(&[leaf]).ok_or(QuoteError::Busy)?;
        let quote = self.single(batch::report_data(1, &root)).await?;
        let proof = proofs.into_iter().next().ok_or(QuoteError::Busy)?;
        Ok(BatchedQuote { quote: Arc::new(quote), proof, size: 1 })
    }

    /// A quote over exactly this report data.
    ///
    /// # Errors
    /// [`QuoteError`].
    pub async fn single(&self, report_data: ReportData) -> Result<Quote, QuoteError> {
        let _place = self.queue.try_acquire().map_err(|_| QuoteError::Busy)?;
        let _turn = self.turn.acquire().await.map_err(|_| QuoteError::Busy)?;
        let attester = Arc::clone(&self.attester);
        let made = tokio::task::spawn_blocking(move || attester.attest(&report_data)).await;
        made.map_err(|_| QuoteError::Busy)?.map_err(QuoteError::Unavailable)
    }
}
