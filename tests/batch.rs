//! Batching: one quote in flight, everybody served or told so, nobody harmed by another.
#![cfg(feature = "simulator")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use portcullis::admin::metrics::Metrics;
use portcullis::attester::batch::{BatchSettings, BatchedQuote, Batcher, QuoteError};
use portcullis::attester::simulator::{Fault, Forge, SimulatedAttester};
use portcullis::attester::{Attester, Quote, Unavailable};
use portcullis::crypto::sha384;
use portcullis::evidence::batch::{Node, challenge, fold};
use portcullis::evidence::snp::{Product, Report};
use portcullis::evidence::{Auxiliary, Challenge, Endorsements, Evidence, ReportData, Timestamp};

const NOW: Timestamp = Timestamp(1_790_812_800);

fn leaf(number: usize) -> Node {
    sha384(&[&number.to_be_bytes()])
}

fn simulated(quote_delay: Duration) -> Arc<SimulatedAttester> {
    Arc::new(Forge::new(Product::Genoa, 1, NOW).attester().slowed(quote_delay))
}

fn assert_speaks_for(batched: &BatchedQuote, leaf: &Node) {
    let report = Report::parse(&batched.quote.evidence.bytes).expect("a report");
    let root = fold(leaf, &batched.proof).expect("a proof of the right shape");
    assert_eq!(report.bound_data(), challenge(batched.proof.size, &root).long);
}

/// An attester that answers when it is let, and notes how many asked at once.
#[derive(Default)]
struct Gate {
    passes: Mutex<usize>,
    changed: Condvar,
    inside: AtomicUsize,
    most_inside: AtomicUsize,
    began: AtomicUsize,
}

impl Gate {
    fn let_pass(&self, more: usize) {
        *self.passes.lock().unwrap() += more;
        self.changed.notify_all();
    }

    async fn until_begun(&self, quotes: usize) {
        while self.began.load(Ordering::SeqCst) < quotes {
            tokio::task::yield_now().await;
        }
    }
}

impl Attester for Gate {
    fn platform(&self) -> &'static str {
        "test"
    }

    fn provider(&self) -> &'static str {
        "gate"
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        self.most_inside.fetch_max(self.inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.began.fetch_add(1, Ordering::SeqCst);
        let mut passes = self.changed.wait_while(self.passes.lock().unwrap(), |passes| *passes == 0).unwrap();
        *passes -= 1;
        self.inside.fetch_sub(1, Ordering::SeqCst);
        Ok(Quote { evidence: Evidence::new("test/test", challenge.long.0.to_vec()), endorsements: Endorsements::default() })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_at_once_are_served_by_few_quotes() {
    let attester = simulated(Duration::from_millis(40));
    let metrics = Metrics::new();
    let batcher = Batcher::start_counted(Arc::clone(&attester) as Arc<dyn Attester>, BatchSettings::default(), metrics.quotes().clone());
    let asked: Vec<_> = (0..64)
        .map(|number| {
            let batcher = batcher.clone();
            tokio::spawn(async move { (leaf(number), batcher.quote(leaf(number), None).await.expect("a quote")) })
        })
        .collect();
    let mut served = Vec::new();
    for task in asked {
        served.push(task.await.expect("no panic"));
    }
    served.iter().for_each(|(leaf, batched)| assert_speaks_for(batched, leaf));
    let counters = batcher.counters();
    assert_eq!(counters.leaves.get(), 64);
    assert_eq!(counters.quotes.get(), attester.quotes());
    assert!(counters.quotes.get() <= 4, "{} quotes for 64 sessions", counters.quotes.get());
    // Every batch's size is counted once per member: the sum of 1/size over the members is the number of batches.
    let mut sizes: Vec<_> = served.iter().filter(|(_, batched)| batched.proof.index == 0).map(|(_, batched)| batched.proof.size).collect();
    sizes.sort_unstable();
    assert_eq!(sizes.iter().sum::<u64>(), 64);
    assert_eq!(sizes.last().copied(), u64::try_from(counters.largest.get()).ok());
    assert_eq!(u64::try_from(sizes.len()), Ok(counters.quotes.get()));
    let shown = metrics.text();
    for line in
        [format!("portcullis_quotes_total {}", attester.quotes()), "portcullis_quote_sessions_total 64".to_owned(), "portcullis_quotes_busy_total 0".to_owned()]
    {
        assert!(shown.contains(&line), "{line} not in\n{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_answers_busy_at_once() {
    let gate = Arc::new(Gate::default());
    let batcher = Batcher::start(Arc::clone(&gate) as Arc<dyn Attester>, BatchSettings { queue: 3, ..BatchSettings::default() });
    let ask = |number| {
        tokio::spawn({
            let batcher = batcher.clone();
            async move { batcher.quote(leaf(number), None).await }
        })
    };
    let first = ask(0);
    gate.until_begun(1).await;
    // The first is in flight; three wait; nobody answers, so every further one must be refused without waiting.
    let mut waiting = Vec::new();
    for number in 1..=3 {
        let mut asked = Box::pin({
            let batcher = batcher.clone();
            async move { batcher.quote(leaf(number), None).await }
        });
        assert!(poll_once(&mut asked).is_none());
        waiting.push(asked);
    }
    for number in 4..20 {
        assert!(matches!(batcher.quote(leaf(number), None).await, Err(QuoteError::Busy)));
    }
    assert_eq!(batcher.counters().busy.get(), 16);
    gate.let_pass(2);
    assert!(first.await.expect("no panic").is_ok());
    for asked in waiting {
        assert_eq!(asked.await.expect("a quote").proof.size, 3);
    }
    assert_eq!(gate.most_inside.load(Ordering::SeqCst), 1);
}

/// Polls once.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_harms_nobody() {
    let gate = Arc::new(Gate::default());
    let batcher = Batcher::start(Arc::clone(&gate) as Arc<dyn Attester>, BatchSettings::default());
    let first = tokio::spawn({
        let batcher = batcher.clone();
        async move { batcher.quote(leaf(0), None).await }
    });
    gate.until_begun(1).await;
    let mut stays = Box::pin(batcher.quote(leaf(1), None));
    assert!(poll_once(&mut stays).is_none());
    let mut leaves = Box::pin(batcher.quote(leaf(2), None));
    assert!(poll_once(&mut leaves).is_none());
    drop(leaves);
    first.abort();
    gate.let_pass(2);
    let batched = stays.await.expect("a quote");
    assert_eq!(batched.proof.size, 1, "the leaf that was withdrawn is not in the batch");
    let root = fold(&leaf(1), &batched.proof).expect("a proof");
    assert_eq!(batched.quote.evidence.bytes, challenge(1, &root).long.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_sessions_share_the_one_quote_in_flight() {
    let gate = Arc::new(Gate::default());
    gate.let_pass(1000);
    let batcher = Batcher::start(Arc::clone(&gate) as Arc<dyn Attester>, BatchSettings { window: Duration::ZERO, queue: 1024 });
    let tasks: Vec<_> = (0..50_u8)
        .map(|number| {
            let batcher = batcher.clone();
            tokio::spawn(async move {
                if number % 5 == 0 {
                    let quote = batcher.single(Challenge { long: ReportData([number; 64]), short: [number; 48] }).await.expect("a quote");
                    assert_eq!(quote.evidence.bytes, [number; 64]);
                } else {
                    let batched = batcher.quote(leaf(number.into()), None).await.expect("a quote");
                    let root = fold(&leaf(number.into()), &batched.proof).expect("a proof");
                    assert_eq!(batched.quote.evidence.bytes, challenge(batched.proof.size, &root).long.0);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(gate.most_inside.load(Ordering::SeqCst), 1);
    assert_eq!(batcher.counters().leaves.get(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_or_panic_ends_one_batch_only() {
    let attester = simulated(Duration::ZERO);
    let batcher = Batcher::start(Arc::clone(&attester) as Arc<dyn Attester>, BatchSettings::default());
    for fault in [Fault::Panic, Fault::Broken, Fault::Busy] {
        attester.misbehave(fault);
        let Err(QuoteError::Unavailable(unavailable)) = batcher.quote(leaf(1), None).await else { panic!("{fault:?} gave a quote") };
        assert_eq!(unavailable.transient, matches!(fault, Fault::Busy));
        attester.misbehave(Fault::None);
        let batched = batcher.quote(leaf(2), None).await.expect("a quote");
        assert_speaks_for(&batched, &leaf(2));
    }
    assert_eq!((batcher.counters().failures.get(), batcher.counters().quotes.get()), (3, 3));
}

/// An attester whose members cannot be read for now, and that notes how many tried at once.
#[derive(Default)]
struct Unread {
    inside: AtomicUsize,
    most_inside: AtomicUsize,
    tries: AtomicUsize,
}

impl Attester for Unread {
    fn platform(&self) -> &'static str {
        "test"
    }

    fn provider(&self) -> &'static str {
        "unread"
    }

    fn attest(&self, _: &Challenge) -> Result<Quote, Unavailable> {
        Err(Unavailable { what: "test".to_owned(), why: "not now".to_owned(), fix: "wait".to_owned(), transient: true })
    }

    fn listed(&self) -> Result<Vec<Auxiliary>, Unavailable> {
        self.most_inside.fetch_max(self.inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.tries.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        self.inside.fetch_sub(1, Ordering::SeqCst);
        Err(Unavailable { what: "metadata".to_owned(), why: "no answer".to_owned(), fix: "wait".to_owned(), transient: true })
    }
}

/// Every session wants the members: while a host does not give them, sessions do not each hold a thread that asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_cannot_be_read_are_asked_for_once_for_all_that_wait() {
    let attester = Arc::new(Unread::default());
    let batcher = Batcher::start(Arc::clone(&attester) as Arc<dyn Attester>, BatchSettings::default());
    let asked: Vec<_> = (0..200)
        .map(|_| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.listed().await.map(drop) })
        })
        .collect();
    for task in asked {
        assert!(matches!(task.await.expect("no panic"), Err(QuoteError::Unavailable(why)) if why.what == "metadata"));
    }
    assert_eq!(attester.most_inside.load(Ordering::SeqCst), 1, "at once");
    assert!(attester.tries.load(Ordering::SeqCst) < 20, "{} tries for 200 sessions", attester.tries.load(Ordering::SeqCst));
}
