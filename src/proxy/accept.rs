//! Accepting connections: what a listener lets in, under its caps, and what each connection has from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::choice::{By, Choice};
use super::connection;
use super::limits::{Places, Upstreams};
use super::listen::Listening;
use super::now::Now;
use super::plan::{Limits, Listener, Upstream};
use super::reach::Shared;
use super::{Parts, Phase};
use crate::admin::metrics::ListenerMetrics;

/// The pause after the system refused a connection for want of descriptors or memory; while it does, the pause doubles up
/// to the longer one.
const BREATH: Duration = Duration::from_millis(50);
const LONG_BREATH: Duration = Duration::from_secs(1);

/// How often it is told.
const TOLD: Duration = Duration::from_secs(10);

/// What a listener's accept loop and its connections share.
pub(super) struct Accepting {
    pub(super) listener: Listener,
    pub(super) parts: Parts,
    pub(super) counters: ListenerMetrics,
    pub(super) carries: Carries,
    pub(super) places: Arc<Places>,
    pub(super) active: Arc<AtomicUsize>,
    pub(super) phase: watch::Receiver<Phase>,
    /// Held, never used: the end of all is that of the proxy.
    pub(super) _alive: mpsc::Sender<()>,
}

/// What runs behind a listener.
pub(super) enum Carries {
    /// To where each client wants, each by itself or in sessions.
    Chosen(Arc<Choice>, Shared),
    /// Requests, each by what [`Now`] has for them.
    Http,
    /// To an upstream, each by itself or in sessions.
    Tcp(Arc<Upstream>, Shared),
}

impl Accepting {
    /// The caps on new connections.
    pub(super) fn caps(&self) -> (&Limits, Upstreams) {
        let upstreams = match &self.carries {
            Carries::Http => Upstreams::Pooled,
            Carries::Tcp(upstream, shared) if shared.find(upstream).is_some() => Upstreams::Pooled,
            Carries::Chosen(..) | Carries::Tcp(..) => Upstreams::OneEach,
        };
        (&self.listener.limits, upstreams)
    }

    /// The sessions with upstreams that it shares among its connections.
    pub(super) const fn shared(&self) -> Option<&Shared> {
        match &self.carries {
            Carries::Chosen(_, shared) | Carries::Tcp(_, shared) => Some(shared),
            Carries::Http => None,
        }
    }

    /// Whether a source is somebody else than the applications of this machine.
    pub(super) fn outside(&self, source: std::net::IpAddr) -> bool {
        let beyond = match &self.carries {
            // Of a redirected connection both ends may have any address of this machine.
            Carries::Chosen(choice, _) if matches!(choice.by, By::Captured(_)) => false,
            Carries::Chosen(..) | Carries::Http | Carries::Tcp(..) => !source.to_canonical().is_loopback(),
        };
        beyond || self.listener.faces_strangers()
    }
}

/// Counts a connection from accept to end, whatever ends it.
pub(super) struct Counted(pub(super) Arc<Accepting>);

impl Counted {
    pub(super) fn new(accepting: &Arc<Accepting>) -> Self {
        accepting.active.fetch_add(1, Ordering::SeqCst);
        accepting.counters.opened.inc();
        accepting.counters.active.inc();
        Self(Arc::clone(accepting))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
        self.0.counters.closed.inc();
        self.0.counters.active.dec();
    }
}

/// What the system refused since it was last told.
struct Trouble {
    told: Option<Instant>,
    times: u64,
    breath: Duration,
}

impl Default for Trouble {
    fn default() -> Self {
        Self { told: None, times: 0, breath: BREATH / 2 }
    }
}

impl Trouble {
    /// Notes one more: how many it is time to tell of, and how long to wait.
    fn again(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        self.breath = (self.breath * 2).min(LONG_BREATH);
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TOLD) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.times))
    }
}

/// Accepts connections, each for what the listener is at that moment, until the proxy drains or the caller ends it.
pub(super) async fn accept(now: watch::Receiver<Now>, listening: Listening, mut phase: watch::Receiver<Phase>) {
    let mut trouble = Trouble::default();
    loop {
        let accepted = tokio::select! {
            biased;
            // Also when the proxy itself is gone.
            _ = phase.wait_for(|phase| *phase != Phase::Running) => return,
            accepted = listening.accept() => accepted,
        };
        let Some(accepting) = now.borrow().accepting.clone() else { return };
        let (socket, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(times) = trouble.again(Instant::now()) {
                    tracing::warn!(target: "connection", event = "accept_failed", listener = accepting.listener.name, times, %error);
                }
                tokio::time::sleep(trouble.breath).await;
                continue;
            }
        };
        trouble.breath = BREATH / 2;
        // A local application is one source; only what comes from outside is capped by source.
        let announces = accepting.listener.proxy_protocol.announces(from.source);
        let source = from.source.filter(|source| !announces && accepting.outside(*source));
        match accepting.places.take(accepting.caps(), source) {
            Ok((place, handshake)) => {
                let counted = Counted::new(&accepting);
                let now = now.clone();
                tokio::spawn(async move {
                    connection::serve(&counted.0, now, (socket, from), handshake).await;
                    drop((place, counted));
                });
            }
            Err(full) => {
                accepting.parts.metrics.limit_rejected(&accepting.listener.name, full.name());
                tracing::warn!(target: "connection", event = "turned_away", listener = accepting.listener.name, peer = from.name, limit = full.name());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_that_refuses_connections_is_told_of_now_and_then() {
        let (mut trouble, start) = (Trouble::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!((trouble.again(at(0)), trouble.breath), (Some(1), BREATH));
        assert_eq!(((1..200).filter_map(|times| trouble.again(at(times * 50))).collect::<Vec<_>>(), trouble.breath), (Vec::new(), LONG_BREATH));
        assert_eq!(trouble.again(at(10_000)), Some(200));
    }
}
