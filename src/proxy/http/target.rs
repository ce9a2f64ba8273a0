//! One target of an upstream: its connections, its health, what it was refused for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};

use super::body::Body;
use crate::proxy::admit::Admitted;
use crate::proxy::plan::Target;
use crate::refusal::Denied;

/// A target and what is known of it.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) target: Target,
    /// Requests that are under way to it.
    pub(super) in_flight: AtomicUsize,
    /// What active checks found.
    pub(super) well: AtomicBool,
    /// Whether it could not be reached when last tried.
    lost: AtomicBool,
    links: Mutex<Links>,
    /// Held while a shared connection is being made, so that one handshake serves all who wait.
    pub(super) connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Links {
    shared: Vec<Arc<Shared>>,
    free: Vec<Exclusive>,
    swept: Option<Instant>,
    out: Option<Out>,
}

/// A target is left out until then.
#[derive(Clone, Debug)]
struct Out {
    since: Instant,
    until: Instant,
    refused: Option<Denied>,
}

/// An HTTP/2 connection, for many requests.
pub(super) struct Shared {
    pub(super) sender: http2::SendRequest<Body>,
    /// Whether the far end takes extended CONNECT, once its settings are there.
    pub(super) extends: Arc<AtomicBool>,
    pub(super) streams: AtomicUsize,
    /// No new request after that.
    pub(super) fresh_until: Instant,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("streams", &self.streams).finish_non_exhaustive()
    }
}

/// An HTTP/1.1 connection, for one request at a time.
#[derive(Debug)]
pub(super) struct Exclusive {
    pub(super) sender: http1::SendRequest<Body>,
    pub(super) fresh_until: Instant,
    /// What it becomes ends with its verdict and at its end, as it does itself.
    pub(super) there: Option<Arc<Admitted>>,
    pub(super) end: Instant,
    since: Instant,
}

impl Exclusive {
    pub(super) fn new(sender: http1::SendRequest<Body>, there: Option<Arc<Admitted>>, (fresh_until, end): (Instant, Instant)) -> Self {
        Self { sender, fresh_until, there, end, since: Instant::now() }
    }
}

impl Spot {
    pub(super) fn new(target: Target) -> Arc<Self> {
        let (in_flight, well, lost) = (AtomicUsize::new(0), AtomicBool::new(true), AtomicBool::new(false));
        Arc::new(Self { target, in_flight, well, lost, links: Mutex::default(), connecting: tokio::sync::Mutex::default() })
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reached(&self) {
        self.lost.store(false, Ordering::SeqCst);
    }

    /// Notes that it cannot be reached; whether that is news.
    pub(super) fn unreached(&self) -> bool {
        !self.lost.swap(true, Ordering::SeqCst)
    }

    /// A shared connection with room for one more, counted on it.
    pub(super) fn shared(&self, most: usize) -> Option<Arc<Shared>> {
        let (mut links, now) = (self.links(), Instant::now());
        links.shared.retain(|link| !link.sender.is_closed() && now < link.fresh_until);
        let link = links.shared.iter().find(|link| link.streams.load(Ordering::SeqCst) < most)?;
        link.streams.fetch_add(1, Ordering::SeqCst);
        Some(Arc::clone(link))
    }

    pub(super) fn share(&self, link: Arc<Shared>) {
        self.links().shared.push(link);
    }

    /// An unused connection that is still good.
    pub(super) fn exclusive(&self, idle: Duration) -> Option<Exclusive> {
        let (mut links, now) = (self.links(), Instant::now());
        let good = |link: &Exclusive| !link.sender.is_closed() && now < link.fresh_until && now.saturating_duration_since(link.since) < idle;
        // Those that are used again and again hide the others.
        if links.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP) {
            links.swept = Some(now);
            links.free.retain(good);
        }
        std::iter::from_fn(|| links.free.pop()).find(good)
    }

    /// Keeps a connection for another request.
    pub(super) fn keep(&self, mut link: Exclusive, most: usize) {
        let mut links = self.links();
        if links.free.len() < most {
            link.since = Instant::now();
            links.free.push(link);
        }
    }

    /// Leaves the target out for a while.
    pub(super) fn eject(&self, pause: Duration, refused: Option<Denied>) {
        let since = Instant::now();
        self.links().out = Some(Out { since, until: since + pause, refused });
    }

    /// What became of the last try to connect, if it failed after `since`: refused, or not reached.
    pub(super) fn failed_after(&self, since: Instant) -> Option<Option<Denied>> {
        self.links().out.as_ref().filter(|out| out.since >= since).map(|out| out.refused.clone())
    }

    /// Whether it may be tried; if not for a refusal, which.
    pub(super) fn available(&self) -> Result<(), Option<Denied>> {
        let mut links = self.links();
        match &links.out {
            Some(out) if Instant::now() < out.until => return Err(out.refused.clone()),
            Some(_) => links.out = None,
            None => {}
        }
        if self.well.load(Ordering::SeqCst) { Ok(()) } else { Err(None) }
    }
}

/// How often unused connections are looked through for those that are no longer good.
const SWEEP: Duration = Duration::from_secs(1);
