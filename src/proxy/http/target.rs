//! The targets of an upstream and the addresses of their names: each one's connections, its health, what it was refused for.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};

use super::body::Body;
use crate::proxy::admit::Admitted;
use crate::proxy::plan::Target;
use crate::refusal::Denied;

/// The places where requests of an upstream may go, in the order of its targets. Those of a name follow where it leads.
#[derive(Debug)]
pub(super) struct Spots(RwLock<Arc<[Arc<Spot>]>>);

/// A target, or one address of its name, and what is known of it.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) target: Target,
    /// Which of the upstream's targets it is.
    place: usize,
    /// Where its name leads, once that is known.
    pub(super) address: Option<SocketAddr>,
    /// Whether it is of the family that the system prefers; the others are for when none of those is left.
    preferred: AtomicBool,
    /// Requests that are under way to it.
    pub(super) in_flight: AtomicUsize,
    /// What active checks found.
    pub(super) well: AtomicBool,
    /// Whether it could not be reached when last tried.
    lost: AtomicBool,
    links: Mutex<Links>,
    /// Held while a shared connection is being made, so that one handshake serves all who wait.
    pub(super) connecting: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Links {
    shared: Vec<Arc<Shared>>,
    free: Vec<Exclusive>,
    swept: Option<Instant>,
    out: Option<Out>,
    /// Nothing is kept any more.
    retired: bool,
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
    /// How many streams the far end takes, as far as its settings have come.
    pub(super) takes: Arc<AtomicUsize>,
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

impl Spots {
    pub(super) fn new(targets: &[Target]) -> Arc<Self> {
        let spots = targets.iter().enumerate().map(|(place, target)| Spot::new(target.clone(), place, None));
        Arc::new(Self(RwLock::new(spots.collect())))
    }

    pub(super) fn now(&self) -> Arc<[Arc<Spot>]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has a target's name lead to the addresses that were `found`, those of the preferred family first.
    pub(super) fn moved(&self, upstream: &str, place: usize, found: &[SocketAddr]) {
        let preferred = found.first().is_some_and(SocketAddr::is_ipv6);
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let (mine, others): (Vec<_>, Vec<_>) = kept.iter().cloned().partition(|spot| spot.place == place);
        let Some(target) = mine.first().map(|spot| spot.target.clone()) else { return };
        let known = |address: &SocketAddr| mine.iter().find(|spot| spot.address == Some(*address)).cloned();
        let new: Vec<_> = found.iter().map(|address| known(address).unwrap_or_else(|| Spot::new(target.clone(), place, Some(*address)))).collect();
        for spot in &new {
            spot.preferred.store(spot.address.is_some_and(|address| address.is_ipv6() == preferred), Ordering::Relaxed);
        }
        let gone: Vec<_> = mine.iter().filter(|spot| !new.iter().any(|new| Arc::ptr_eq(new, spot))).collect();
        if new.is_empty() || (gone.is_empty() && new.len() == mine.len()) {
            return;
        }
        let (from, to) = (gone.iter().filter_map(|spot| spot.address).collect::<Vec<_>>(), found);
        tracing::info!(target: "upstream", event = "moved", upstream, address = %target, ?from, ?to);
        for spot in gone {
            spot.retire();
        }
        let mut spots: Vec<_> = others.into_iter().chain(new).collect();
        spots.sort_by_key(|spot| spot.place);
        *kept = spots.into();
    }
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(address) => write!(f, "{} ({})", self.target, address.ip()),
            None => self.target.fmt(f),
        }
    }
}

impl Spot {
    fn new(target: Target, place: usize, address: Option<SocketAddr>) -> Arc<Self> {
        let (in_flight, well, lost, preferred) = (AtomicUsize::new(0), AtomicBool::new(true), AtomicBool::new(false), AtomicBool::new(true));
        Arc::new(Self { target, place, address, preferred, in_flight, well, lost, links: Mutex::default(), connecting: Arc::default() })
    }

    pub(super) fn is_preferred(&self) -> bool {
        self.preferred.load(Ordering::Relaxed)
    }

    /// Lets go of connections: unused ones end, those in use with what is on them.
    pub(super) fn retire(&self) {
        let mut links = self.links();
        links.retired = true;
        links.free.clear();
        links.shared.clear();
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
        // More than the far end takes would wait for those before them, however long these stay.
        let room = |link: &&Arc<Shared>| link.streams.load(Ordering::SeqCst) < most.min(link.takes.load(Ordering::SeqCst));
        let link = links.shared.iter().find(room)?;
        link.streams.fetch_add(1, Ordering::SeqCst);
        Some(Arc::clone(link))
    }

    pub(super) fn share(&self, link: Arc<Shared>) {
        let mut links = self.links();
        if !links.retired {
            links.shared.push(link);
        }
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
        if !links.retired && links.free.len() < most {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn targets_follow_their_names_and_what_stays_is_kept() {
        let name = |host: &str| Target::Tcp { host: host.to_owned(), port: 1 };
        let spots = Spots::new(&[name("a.test"), name("192.0.2.9"), name("b.test")]);
        let shown = || spots.now().iter().map(|spot| format!("{spot}{}", if spot.is_preferred() { "" } else { " later" })).collect::<Vec<_>>();
        assert_eq!(shown(), ["a.test:1", "192.0.2.9:1", "b.test:1"]);
        spots.moved("app", 0, &addresses(&["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"]));
        assert_eq!(shown(), ["a.test:1 (192.0.2.1)", "a.test:1 (192.0.2.2)", "a.test:1 (2001:db8::1) later", "192.0.2.9:1", "b.test:1"]);
        let before = spots.now();
        spots.moved("app", 0, &addresses(&["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"]));
        assert!(Arc::ptr_eq(&before, &spots.now()), "nothing moved");
        spots.moved("app", 0, &addresses(&["[2001:db8::1]:1", "192.0.2.2:1"]));
        assert_eq!(shown(), ["a.test:1 (2001:db8::1)", "a.test:1 (192.0.2.2) later", "192.0.2.9:1", "b.test:1"]);
        let (gone, stays) = (&before[0], &before[1]);
        assert!(gone.links().retired && !stays.links().retired);
        assert!(spots.now().iter().any(|spot| Arc::ptr_eq(spot, stays)), "what is known of it is lost");
        // No look finds nothing; if one did, what is known would stay.
        spots.moved("app", 0, &[]);
        spots.moved("app", 7, &addresses(&["192.0.2.1:1"]));
        assert_eq!(spots.now().len(), 4);
    }
}
