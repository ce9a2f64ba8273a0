//! The relying party: accepts, admits, forwards. Nothing is dialled or forwarded before the verdict.
//!
//! Not here: what is configured (the caller gives typed values), how evidence is judged (`verify`), and when to stop
//! (the caller owns the signal and calls [`Proxy::drain`]).

mod accept;
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
mod now;
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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin::health::{Condition, Health};
use crate::admin::metrics::{Direction, Metrics};
use crate::clock::Clock;
use accept::{Accepting, Carries};
use around::Around;
use choice::{By, Capture};
use limits::{Places, Sockets};
use listen::Listening;
use now::Now;
use passed::Passed;
use plan::{Forward, Listener, Upstream};
use reach::Shared;

pub use listen::Address;
pub use probe::{Answer, ask};

/// How long the connections have to notice that they were cut.
const CUT: Duration = Duration::from_secs(5);

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
pub struct Proxy {
    open: Mutex<Vec<Open>>,
    /// One replacement at a time.
    replacing: tokio::sync::Mutex<()>,
    common: Common,
    phase: watch::Sender<Phase>,
    /// Every task holds a sender; the end of them all is the end of the channel.
    ended: mpsc::Receiver<()>,
}

/// What all listeners share.
struct Common {
    parts: Parts,
    phase: watch::Receiver<Phase>,
    alive: mpsc::Sender<()>,
    active: Arc<AtomicUsize>,
    sockets: Sockets,
}

/// A listener that listens.
struct Open {
    listener: Arc<Accepting>,
    address: Address,
    now: watch::Sender<Now>,
    /// Holds the socket.
    accepting: JoinHandle<()>,
}

/// What became of the listeners when others took their place.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Replaced {
    /// Names of those that are new.
    pub added: Vec<String>,
    /// Names of those that are others than they were, at the same place.
    pub changed: Vec<String>,
    /// Names of those that are gone.
    pub removed: Vec<String>,
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
        let mut bound = Vec::with_capacity(listeners.len());
        for listener in listeners {
            possible(&listener)?;
            bound.push((bind(&listener, &mut passed)?, listener));
        }
        if let Some(left) = passed.left() {
            return Err(StartError::Unused { left });
        }
        let (phase, watched) = watch::channel(Phase::Running);
        let (alive, ended) = mpsc::channel(1);
        let common = Common { parts, phase: watched, alive, active: Arc::default(), sockets: Sockets::new(connections) };
        let open = bound.into_iter().map(|(place, listener)| common.open(place, listener)).collect();
        common.parts.health.set("listeners", Condition::Met);
        Ok(Self { open: Mutex::new(open), replacing: tokio::sync::Mutex::default(), common, phase, ended })
    }

    /// Puts other listeners in the place of those that are served, all of them or none. A place that both have is never
    /// closed. What did not change goes on as it was; where something did:
    ///
    /// - Connections that were let in on another ground (what [`plan::Terminate`] has them prove, accounts), or whose upstream
    ///   of the same name has to prove something else, end with `configuration_changed`.
    /// - Other connections go on. Their requests, and new connections in their sessions, are served as the listener is now.
    /// - Of requests, those in flight have `grace`, on whatever ground; connections of listeners that are gone have it too.
    ///
    /// # Errors
    /// [`StartError`]. Everything is as it was then.
    pub async fn replace(&self, listeners: Vec<Listener>, grace: Duration) -> Result<Replaced, StartError> {
        let _one = self.replacing.lock().await;
        let mut passed = Passed::default();
        let mut taken = vec![false; self.open().len()];
        let mut next = Vec::with_capacity(listeners.len());
        for listener in &listeners {
            possible(listener)?;
            next.push(self.at(listener, &mut taken)?);
        }
        let mut bound = Vec::new();
        for (listener, _) in listeners.iter().zip(&next).filter(|(_, at)| at.is_none()) {
            bound.push(bind(listener, &mut passed)?);
        }
        // From here on nothing fails.
        let (until, mut bound, mut replaced) = (Instant::now() + grace, bound.into_iter(), Replaced::default());
        let gone = {
            let mut open = self.open();
            let mut old: Vec<_> = open.drain(..).map(Some).collect();
            for (listener, at) in listeners.into_iter().zip(next) {
                let Some(mut kept) = at.and_then(|at| old.get_mut(at)?.take()) else {
                    let Some(place) = bound.next() else { continue };
                    replaced.added.push(listener.name.clone());
                    open.push(self.common.open(place, listener));
                    continue;
                };
                if !kept.listener.listener.same(&listener) {
                    replaced.changed.push(listener.name.clone());
                    self.common.renew(&mut kept, listener, until);
                }
                open.push(kept);
            }
            old.into_iter().flatten().collect::<Vec<_>>()
        };
        for Open { listener, now, accepting, .. } in gone {
            accepting.abort();
            // Its socket is closed when it has ended.
            let _ = accepting.await;
            replaced.removed.push(listener.listener.name.clone());
            let site = now.borrow().site.clone();
            now.send_replace(Now { accepting: None, site: None, until });
            retire(&listener, site.as_deref(), None, until);
        }
        Ok(replaced)
    }

    /// Which of those that are open is at the place of this listener: that of its name before any other.
    fn at(&self, listener: &Listener, taken: &mut [bool]) -> Result<Option<usize>, StartError> {
        let open = self.open();
        let any = matches!(listener.bind, plan::Bind::Tcp(address) | plan::Bind::TcpShared(address) if address.port() == 0);
        let here = |of: &Listener| of.bind == listener.bind && foreign(of) == foreign(listener);
        let free = || open.iter().enumerate().filter(|(at, open)| taken.get(*at) == Some(&false) && here(&open.listener.listener));
        let Some((at, kept)) = free().find(|(_, open)| open.listener.listener.name == listener.name).or_else(|| free().next().filter(|_| !any)) else {
            return Ok(None);
        };
        kept.address.announced_by(&listener.proxy_protocol.from).map_err(|error| unbound(listener, error))?;
        drop(open);
        if let Some(taken) = taken.get_mut(at) {
            *taken = true;
        }
        Ok(Some(at))
    }

    fn open(&self) -> MutexGuard<'_, Vec<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The listeners' names and where they really listen, in the order given.
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, Address)> {
        self.open().iter().map(|open| (open.listener.listener.name.clone(), open.address.clone())).collect()
    }

    /// Where the listener of this name listens.
    #[must_use]
    pub fn address(&self, listener: &str) -> Option<Address> {
        self.open().iter().find(|open| open.listener.listener.name == listener).map(|open| open.address.clone())
    }

    /// How many connections are open, admitted or not.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.common.active.load(Ordering::SeqCst)
    }

    /// Stops accepting, lets open connections end by themselves for `grace`, then resets the rest. Returns when
    /// nothing of the proxy is left.
    pub async fn drain(self, grace: Duration) -> Drained {
        let Self { open, common: Common { parts, active, alive, .. }, phase, mut ended, .. } = self;
        let connections = || active.load(Ordering::SeqCst);
        parts.health.set("listeners", Condition::Unmet("draining".to_owned()));
        parts.metrics.draining();
        let at_first = connections();
        phase.send_replace(Phase::Draining);
        // What the tasks hold is theirs to let go.
        drop((open, alive));
        if tokio::time::timeout(grace, ended.recv()).await.is_ok() {
            return Drained { open: at_first, cut: 0 };
        }
        let cut = connections();
        phase.send_replace(Phase::Cut);
        if tokio::time::timeout(CUT, ended.recv()).await.is_err() {
            tracing::error!(left = connections(), "connections are left after they were cut");
        }
        Drained { open: at_first, cut }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

impl Common {
    /// Serves a listener at its place.
    fn open(&self, (address, listening): (Address, Listening), listener: Listener) -> Open {
        let first = self.now(listener, Places::new(self.sockets.clone()), None, Instant::now());
        let (listener, (now, followed)) = (Arc::clone(&first.0), watch::channel(first.1));
        let accepting = tokio::spawn(accept::accept(followed, listening, self.phase.clone()));
        Open { listener, address, now, accepting }
    }

    /// Makes an open listener another.
    fn renew(&self, open: &mut Open, listener: Listener, until: Instant) {
        let (places, site) = (Arc::clone(&open.listener.places), open.now.borrow().site.clone());
        let (accepting, next) = self.now(listener, places, Some((&open.listener, site.as_ref())), until);
        let kept = next.clone();
        open.now.send_replace(next);
        let was = std::mem::replace(&mut open.listener, accepting);
        retire(&was, site.as_deref(), Some(&kept), until);
    }

    /// What a listener is; of what it was `before`, sessions and pools are kept that did not change.
    fn now(
        &self,
        listener: Listener,
        places: Arc<Places>,
        before: Option<(&Arc<Accepting>, Option<&Arc<http::Running>>)>,
        until: Instant,
    ) -> (Arc<Accepting>, Now) {
        if matches!(&listener.forward, Forward::Chosen(choice) if matches!(choice.by, By::ServerNamePassing)) {
            tracing::info!(target: "passthrough", listener = listener.name, "TLS passes this listener untouched: nothing is attested by it");
        }
        let Self { parts, phase, alive, active, sockets } = self;
        let around = Around {
            listener: listener.name.clone(),
            limits: listener.limits,
            parts: parts.clone(),
            phase: phase.clone(),
            alive: alive.clone(),
            secure: listener.terminate.is_tls(),
            strangers: listener.faces_strangers(),
            sockets: sockets.clone(),
        };
        let sessions = before.and_then(|(accepting, _)| accepting.shared());
        let (carries, site) = match &listener.forward {
            Forward::Chosen(choice) => (Carries::Chosen(Arc::clone(choice), Shared::of(choice.among.upstreams(), &around, sessions)), None),
            Forward::Tcp(upstream) => (Carries::Tcp(Arc::clone(upstream), Shared::of(std::iter::once(upstream), &around, sessions)), None),
            Forward::Http(site) => (Carries::Http, Some(http::Running::start(Arc::clone(site), around, before.and_then(|(_, site)| site)))),
        };
        let direction = if listener.terminate.is_tls() { Direction::Inbound } else { Direction::Outbound };
        let counters = parts.metrics.listener(&listener.name, direction);
        let (active, phase, alive) = (Arc::clone(active), phase.clone(), alive.clone());
        let accepting = Arc::new(Accepting { listener, parts: parts.clone(), counters, carries, places, active, phase, _alive: alive });
        (Arc::clone(&accepting), Now { accepting: Some(accepting), site, until })
    }
}

/// Ends what ran for a listener as it was, and does not as it is now: what is in flight has its own end.
fn retire(was: &Accepting, site: Option<&http::Running>, now: Option<&Now>, until: Instant) {
    let accepting = now.and_then(|now| now.accepting.as_deref());
    if let Some(sessions) = was.shared() {
        sessions.retire(accepting.and_then(Accepting::shared));
    }
    if let Some(site) = site {
        site.retire(now.and_then(|now| now.site.as_deref()), until);
    }
}

/// Whether what a listener leads to can be reached at all.
fn possible(listener: &Listener) -> Result<(), StartError> {
    if let Some(empty) = listener.upstreams().find(|upstream| upstream.targets.is_empty()) {
        return Err(StartError::NoTarget { upstream: empty.name.clone() });
    }
    let across = |upstream: &&Upstream| upstream.targets.iter().any(|target| matches!(target, plan::Target::Vsock { .. }));
    match listener.upstreams().find(across) {
        Some(upstream) => vsock::available().map_err(|error| StartError::NoVsock { upstream: upstream.name.clone(), error }),
        None => Ok(()),
    }
}

fn bind(listener: &Listener, passed: &mut Passed) -> Result<(Address, Listening), StartError> {
    let bound = Listening::bind(&listener.bind, foreign(listener), passed).and_then(|listening| Ok((listening.address()?, listening)));
    let (address, listening) = bound.map_err(|error| unbound(listener, error))?;
    address.announced_by(&listener.proxy_protocol.from).map_err(|error| unbound(listener, error))?;
    Ok((address, listening))
}

fn unbound(listener: &Listener, error: io::Error) -> StartError {
    StartError::Bind { listener: listener.name.clone(), place: listener.bind.clone(), error }
}

/// Whether connections to foreign addresses come to it.
fn foreign(listener: &Listener) -> bool {
    matches!(&listener.forward, Forward::Chosen(choice) if matches!(choice.by, By::Captured(Capture::Tproxy)))
}
