//! The relying party: accepts, admits, forwards. Nothing is dialled or forwarded before the verdict.
//!
//! Not here: what is configured (the caller gives typed values), how evidence is judged (`verify`), and when to stop
//! (the caller owns the signal and calls [`Proxy::drain`]).

mod admit;
mod announce;
pub mod appraisal;
mod around;
pub mod choice;
mod connection;
mod deadline;
mod handshake;
pub mod http;
mod limits;
mod listen;
mod names;
pub mod passed;
pub mod plan;
mod probe;
mod reach;
mod record;
mod standing;
mod stream;
mod tcp;
mod tunnel;
mod upstream;
mod vsock;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::admin::health::{Condition, Health};
use crate::admin::metrics::{Direction, ListenerMetrics, Metrics};
use crate::clock::Clock;
use around::Around;
use choice::{By, Capture, Choice};
use limits::{Places, Sockets, Upstreams};
use listen::Listening;
use passed::Passed;
use plan::{Forward, Listener, Upstream};
use reach::Shared;

pub use listen::Address;
pub use probe::{Answer, ask};

/// How long the connections have to notice that they were cut.
const CUT: Duration = Duration::from_secs(5);

/// The pause after the system refused a connection for want of descriptors or memory; while it does, the pause doubles up
/// to the longer one.
const BREATH: Duration = Duration::from_millis(50);
const LONG_BREATH: Duration = Duration::from_secs(1);

/// How often it is told.
const TOLD: Duration = Duration::from_secs(10);

/// What the proxy shares with the rest of the program.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where it says how it is doing, as the condition `listeners`.
    pub health: Arc<Health>,
}

/// A running proxy. Dropped without [`Proxy::drain`], it cuts every connection.
#[derive(Debug)]
pub struct Proxy {
    addresses: Vec<(String, Address)>,
    phase: watch::Sender<Phase>,
    active: Arc<AtomicUsize>,
    /// Every task holds a sender; the end of them all is the end of the channel.
    ended: mpsc::Receiver<()>,
    parts: Parts,
}

/// What the proxy as a whole is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Running,
    Draining,
    Cut,
}

/// Why the proxy did not start. Nothing listens then.
#[derive(Debug)]
pub enum StartError {
    /// A listener's place could not be bound.
    Bind {
        /// The listener.
        listener: String,
        /// Its place.
        place: plan::Bind,
        /// Why.
        error: io::Error,
    },
    /// A socket was passed to the process, and no listener takes it: whoever connects would wait for ever.
    Unused {
        /// The names of all such.
        left: String,
    },
    /// An upstream is to be reached over vsock, and this system has none.
    NoVsock {
        /// The upstream.
        upstream: String,
        /// Why.
        error: io::Error,
    },
    /// An upstream has no target.
    NoTarget {
        /// The upstream.
        upstream: String,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { listener, place: plan::Bind::Tcp(address), error } if error.kind() == io::ErrorKind::AddrInUse => {
                let fix = "`ss -ltnp` tells who does; bind elsewhere, or write reuse_port = true in every process that is to share it";
                write!(f, "listener {listener:?} cannot listen at {address}: {error} ({fix})")
            }
            Self::Bind { listener, place: plan::Bind::TcpShared(address), error } if error.kind() == io::ErrorKind::AddrInUse => {
                let fix = "a process without reuse_port has it, or one of another user: `ss -ltnpe` tells; or bind elsewhere";
                write!(f, "listener {listener:?} cannot listen at {address}: {error} ({fix})")
            }
            Self::Bind { listener, place: plan::Bind::Tcp(address) | plan::Bind::TcpShared(address), error } => {
                write!(f, "listener {listener:?} cannot listen at {address}: {error} (`ip address` tells the addresses of this machine)")
            }
            Self::Bind { listener, place: plan::Bind::Unix { path, .. }, error } => {
                write!(f, "listener {listener:?} cannot listen at unix:{}: {error}", path.display())
            }
            Self::Bind { listener, place: plan::Bind::Passed { name, .. }, error } => {
                write!(f, "listener {listener:?} cannot listen at systemd:{name}: {error}")
            }
            Self::Bind { listener, place: plan::Bind::Vsock { cid, port }, error } => {
                write!(f, "listener {listener:?} cannot listen at {}: {error}", Address::Vsock { cid: *cid, port: *port })
            }
            Self::Unused { left } => {
                write!(f, "no listener takes what systemd passes as {left}: write bind = \"systemd:NAME\" in a listener, or take it out of the .socket units")
            }
            Self::NoVsock { upstream, error } => write!(f, "upstream {upstream:?} cannot be reached: {error}"),
            Self::NoTarget { upstream } => write!(f, "upstream {upstream:?} has no target"),
        }
    }
}

impl std::error::Error for StartError {}

/// How draining went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drained {
    /// Connections that were open when it began.
    pub open: usize,
    /// Those of them that had to be cut at the deadline.
    pub cut: usize,
}

impl Proxy {
    /// Binds every listener, then serves them. Nothing is accepted before all are bound.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(listeners: Vec<Listener>, parts: Parts) -> Result<Self, StartError> {
        Self::start_within(listeners, usize::MAX, Passed::default(), parts)
    }

    /// As [`Proxy::start`], with at most `connections` over all listeners, and as many to upstreams, and with the sockets
    /// that were passed to the process, each of which has to be some listener's.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_within(listeners: Vec<Listener>, connections: usize, mut passed: Passed, parts: Parts) -> Result<Self, StartError> {
        let sockets = Sockets::new(connections);
        let mut bound = Vec::with_capacity(listeners.len());
        let mut addresses = Vec::with_capacity(listeners.len());
        for listener in listeners {
            if let Some(empty) = listener.upstreams().find(|upstream| upstream.targets.is_empty()) {
                return Err(StartError::NoTarget { upstream: empty.name.clone() });
            }
            let across = |upstream: &&Upstream| upstream.targets.iter().any(|target| matches!(target, plan::Target::Vsock { .. }));
            if let Some(upstream) = listener.upstreams().find(across) {
                vsock::available().map_err(|error| StartError::NoVsock { upstream: upstream.name.clone(), error })?;
            }
            let bind = Listening::bind(&listener.bind, foreign(&listener), &mut passed).and_then(|listening| {
                listening.announced_by(&listener.proxy_protocol.from)?;
                Ok((listening.address()?, listening))
            });
            let (address, listening) = bind.map_err(|error| StartError::Bind { listener: listener.name.clone(), place: listener.bind.clone(), error })?;
            addresses.push((listener.name.clone(), address));
            bound.push((listener, listening));
        }
        if let Some(left) = passed.left() {
            return Err(StartError::Unused { left });
        }
        let (phase, watched) = watch::channel(Phase::Running);
        let (alive, ended) = mpsc::channel(1);
        let active = Arc::new(AtomicUsize::new(0));
        for (listener, listening) in bound {
            if matches!(&listener.forward, Forward::Chosen(choice) if matches!(choice.by, By::ServerNamePassing)) {
                tracing::info!(target: "passthrough", listener = listener.name, "TLS passes this listener untouched: nothing is attested by it");
            }
            let direction = if listener.terminate.is_tls() { Direction::Inbound } else { Direction::Outbound };
            let counters = parts.metrics.listener(&listener.name, direction);
            let around = Around {
                listener: listener.name.clone(),
                limits: listener.limits,
                parts: parts.clone(),
                phase: watched.clone(),
                alive: alive.clone(),
                secure: listener.terminate.is_tls(),
                strangers: listener.faces_strangers(),
                sockets: sockets.clone(),
            };
            let carries = match &listener.forward {
                Forward::Chosen(choice) => Carries::Chosen(Arc::clone(choice), Shared::of(choice.among.upstreams(), &around)),
                Forward::Tcp(upstream) => Carries::Tcp(Arc::clone(upstream), Shared::of(std::iter::once(upstream), &around)),
                Forward::Http(site) => Carries::Http(http::Running::start(Arc::clone(site), around)),
            };
            let upstreams = match &carries {
                Carries::Http(_) => Upstreams::Pooled,
                Carries::Tcp(upstream, shared) if shared.find(upstream).is_some() => Upstreams::Pooled,
                Carries::Chosen(..) | Carries::Tcp(..) => Upstreams::OneEach,
            };
            let places = Places::new(listener.limits, sockets.clone(), upstreams);
            let (active, phase, alive) = (Arc::clone(&active), watched.clone(), alive.clone());
            let accepting = Accepting { listener, parts: parts.clone(), counters, carries, places, active, phase, _alive: alive };
            tokio::spawn(accept(Arc::new(accepting), listening));
        }
        parts.health.set("listeners", Condition::Met);
        Ok(Self { addresses, phase, active, ended, parts })
    }

    /// The listeners' names and where they really listen, in the order given.
    #[must_use]
    pub fn addresses(&self) -> &[(String, Address)] {
        &self.addresses
    }

    /// Where the listener of this name listens.
    #[must_use]
    pub fn address(&self, listener: &str) -> Option<&Address> {
        self.addresses.iter().find(|(name, _)| name == listener).map(|(_, address)| address)
    }

    /// How many connections are open, admitted or not.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.active.load(Ordering::SeqCst)
    }

    /// Stops accepting, lets open connections end by themselves for `grace`, then resets the rest. Returns when
    /// nothing of the proxy is left.
    pub async fn drain(mut self, grace: Duration) -> Drained {
        self.parts.health.set("listeners", Condition::Unmet("draining".to_owned()));
        self.parts.metrics.draining();
        let open = self.connections();
        self.phase.send_replace(Phase::Draining);
        if tokio::time::timeout(grace, self.ended.recv()).await.is_ok() {
            return Drained { open, cut: 0 };
        }
        let cut = self.connections();
        self.phase.send_replace(Phase::Cut);
        if tokio::time::timeout(CUT, self.ended.recv()).await.is_err() {
            tracing::error!(left = self.connections(), "connections are left after they were cut");
        }
        Drained { open, cut }
    }
}

/// Whether connections to foreign addresses come to it.
fn foreign(listener: &Listener) -> bool {
    matches!(&listener.forward, Forward::Chosen(choice) if matches!(choice.by, By::Captured(Capture::Tproxy)))
}

/// What a listener's accept loop and its connections share.
struct Accepting {
    listener: Listener,
    parts: Parts,
    counters: ListenerMetrics,
    carries: Carries,
    places: Arc<Places>,
    active: Arc<AtomicUsize>,
    phase: watch::Receiver<Phase>,
    /// Held, never used: see [`Proxy::ended`].
    _alive: mpsc::Sender<()>,
}

/// What runs behind a listener.
enum Carries {
    /// To where each client wants, each by itself or in sessions.
    Chosen(Arc<Choice>, Shared),
    Http(Arc<http::Running>),
    /// To an upstream, each by itself or in sessions.
    Tcp(Arc<Upstream>, Shared),
}

impl Accepting {
    /// Whether a source is somebody else than the applications of this machine.
    fn outside(&self, source: std::net::IpAddr) -> bool {
        match &self.carries {
            // Of a redirected connection both ends may have any address of this machine.
            Carries::Chosen(choice, _) if !matches!(choice.by, By::Captured(_)) => self.listener.faces_strangers() || !source.to_canonical().is_loopback(),
            _ => self.listener.faces_strangers(),
        }
    }
}

/// Counts a connection from accept to end, whatever ends it.
struct Counted(Arc<Accepting>);

impl Counted {
    fn new(accepting: &Arc<Accepting>) -> Self {
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

async fn accept(accepting: Arc<Accepting>, listening: Listening) {
    let mut phase = accepting.phase.clone();
    let mut trouble = Trouble::default();
    loop {
        let accepted = tokio::select! {
            biased;
            // Also when the proxy itself is gone.
            _ = phase.wait_for(|phase| *phase != Phase::Running) => return,
            accepted = listening.accept() => accepted,
        };
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
        match accepting.places.take(source) {
            Ok((place, handshake)) => {
                let counted = Counted::new(&accepting);
                let accepting = Arc::clone(&accepting);
                tokio::spawn(async move {
                    connection::serve(&counted.0, (socket, from), handshake).await;
                    drop((place, accepting));
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
