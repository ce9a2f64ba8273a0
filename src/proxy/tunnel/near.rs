//! The end that opens sessions and puts connections into them.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use h2::client::{self, SendRequest};
use h2::{Ping, PingPong};
use hyper::body::Bytes;
use hyper::{Method, Request};
use tokio::sync::watch;

use super::window::Window;
use super::{ALIVE, AUTHORITY, FRAME, Fate, HEAD, SEND_BUFFER, STREAM_WINDOW, Tunnel, io_error};
use crate::admin::metrics::Direction;
use crate::proxy::Phase;
use crate::proxy::admit::Admitted;
use crate::proxy::around::Around;
use crate::proxy::http::wire::{Gauge, Wire};
use crate::proxy::names::Following;
use crate::proxy::plan::{Multiplex, Target, Upstream};
use crate::proxy::record::{self, About};
use crate::proxy::standing;
use crate::proxy::tcp::End;
use crate::proxy::upstream::{Dialled, Unreachable, dial};
use crate::refusal::{Denied, Finding, Reason};
use crate::tls::ClientSide;

/// The sessions with one upstream.
#[derive(Debug)]
pub(in crate::proxy) struct Sessions {
    upstream: Arc<Upstream>,
    side: Arc<ClientSide>,
    plan: Multiplex,
    pub(in crate::proxy) around: Around,
    open: Mutex<Vec<Arc<Session>>>,
    /// Others took their place: what is begun all the same is the last of its session.
    retired: AtomicBool,
    /// Held while a session is being made, so that one handshake serves all who wait.
    connecting: tokio::sync::Mutex<()>,
    /// How many tries to make one have failed, and how the last did: those who waited for it share that.
    failed: Mutex<(u64, Option<Failure>)>,
    following: Vec<Following>,
}

/// A session and the connections in it.
pub(in crate::proxy) struct Session {
    /// What the far end was admitted for.
    pub(in crate::proxy) admitted: Arc<Admitted>,
    /// The address it is at.
    pub(in crate::proxy) target: String,
    /// Which of the upstream's targets that is, and where its name led.
    place: (usize, Option<SocketAddr>),
    /// When it ends at the latest.
    pub(in crate::proxy) end: Instant,
    fate: Fate,
    /// No new connection after that: those it has get the rest of its life.
    fresh_until: Instant,
    state: Mutex<State>,
}

struct State {
    /// Gone once nothing new may begin.
    sender: Option<SendRequest<Bytes>>,
    streams: usize,
    quiet_since: Instant,
}

/// A place in a session, given back when it is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Lease(Arc<Session>);

/// Why there is no session for a connection.
#[derive(Clone, Debug)]
pub(in crate::proxy) enum Failure {
    /// The far end was refused.
    Refused(Denied),
    /// No target can be reached, each with what happened.
    Unreachable(Vec<(String, io::ErrorKind, String)>),
}

/// How often a connection is begun in another session when one has ended just then.
const TRIES: usize = 3;

/// How often it is looked whether a session is used.
const LOOK: Duration = Duration::from_millis(500);

impl Sessions {
    pub(in crate::proxy) fn new(upstream: Arc<Upstream>, side: Arc<ClientSide>, plan: Multiplex, around: Around) -> Arc<Self> {
        let (open, connecting, failed) = (Mutex::default(), tokio::sync::Mutex::default(), Mutex::default());
        Arc::new_cyclic(|sessions: &Weak<Self>| {
            let follow = |(place, target): (usize, &Target)| {
                let sessions = Weak::clone(sessions);
                let found = move |found: &[SocketAddr]| {
                    if let Some(sessions) = sessions.upgrade() {
                        sessions.moved(place, found);
                    }
                };
                Following::start(&upstream, target, found)
            };
            let following = upstream.targets.iter().enumerate().filter_map(follow).collect();
            Self { upstream, side, plan, around, open, retired: AtomicBool::new(false), connecting, failed, following }
        })
    }

    /// Lets sessions with what a target's name no longer leads to take nothing new.
    fn moved(&self, place: usize, found: &[SocketAddr]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|session| {
            let (of, address) = session.place;
            let stays = of != place || address.is_none_or(|address| found.contains(&address));
            if !stays {
                session.retire();
                tracing::info!(target: "upstream", event = "moved", upstream = self.upstream.name, address = session.target, from = ?address, to = ?found);
            }
            stays
        });
    }

    /// Begins a connection to the upstream of the far end, for what was admitted here.
    pub(in crate::proxy) async fn begin(&self, here: &Admitted) -> Result<(Arc<Session>, Tunnel), Failure> {
        let mut last = None;
        for _ in 0..TRIES {
            let lease = match self.free() {
                Some(lease) => lease,
                None => self.another(here).await?,
            };
            let session = Arc::clone(&lease.0);
            match lease.begin().await {
                Ok(tunnel) => {
                    if self.retired.load(Ordering::SeqCst) {
                        session.retire();
                    }
                    return Ok((session, tunnel));
                }
                Err(error) => {
                    session.retire();
                    last = Some((session.target.clone(), io::ErrorKind::ConnectionReset, error.to_string()));
                }
            }
        }
        Err(Failure::Unreachable(last.into_iter().collect()))
    }

    /// Begins nothing more in the sessions that there are: each ends with its last connection.
    pub(in crate::proxy) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.following.iter().for_each(Following::end);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|session| session.retire());
    }

    /// A place in a session that has one: the oldest, so that the others come to be unused.
    fn free(&self) -> Option<Lease> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|session| session.usable());
        open.iter().find_map(|session| session.lease(self.plan.streams))
    }

    async fn another(&self, here: &Admitted) -> Result<Lease, Failure> {
        let failed = || self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let before = failed().0;
        let _one = self.connecting.lock().await;
        if let Some(lease) = self.free() {
            return Ok(lease);
        }
        if let (count, Some(failure)) = failed()
            && count != before
        {
            return Err(failure);
        }
        // Boxed: the handshake's state is large, and most connections never come here.
        match Box::pin(self.connect(here)).await {
            Ok(session) => {
                let lease = session.lease(self.plan.streams);
                self.open.lock().unwrap_or_else(PoisonError::into_inner).push(session);
                lease.ok_or_else(|| Failure::Refused(no_room()))
            }
            Err(failure) => {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                *failed = (failed.0.wrapping_add(1), Some(failure.clone()));
                Err(failure)
            }
        }
    }

    async fn connect(&self, here: &Admitted) -> Result<Arc<Session>, Failure> {
        let (around, metrics, name) = (&self.around, &self.around.parts.metrics, &self.upstream.name);
        let Some(held) = around.sockets.upstream() else {
            metrics.limit_rejected(&around.listener, "descriptors");
            let full = "all listeners together have as many connections to upstreams as they may".to_owned();
            return Err(Failure::Unreachable(vec![(name.clone(), io::ErrorKind::QuotaExceeded, full)]));
        };
        let dialled = dial(&self.upstream, here).await.map_err(|Unreachable(tried)| {
            metrics.upstream_connect(name, "unreachable");
            Failure::Unreachable(tried.into_iter().map(|(target, error)| (target, error.kind(), error.to_string())).collect())
        })?;
        metrics.upstream_connect(name, "ok");
        let Dialled { socket, target, place } = dialled;
        let place = (place, socket.peer());
        let (there, stream) = around.handshakes().outbound(&self.side, socket.holding(held)).await.map_err(Failure::Refused)?;
        let lost = |error: h2::Error| Failure::Unreachable(vec![(target.clone(), io::ErrorKind::ConnectionReset, error.to_string())]);
        let window = Window::first(None);
        let setting_up = async {
            let (sender, mut connection) = settings(&window).handshake(Wire::upstream(stream, Gauge::new())).await?;
            let mut pings = connection.ping_pong();
            // Its answer comes behind the far end's settings: how many connections it takes.
            tokio::select! {
                ended = &mut connection => ended?,
                asked = ask(&mut pings) => asked?,
            }
            Ok((sender, connection, pings))
        };
        let set_up = tokio::time::timeout(around.limits.handshake, setting_up).await;
        let Ok(set_up) = set_up else {
            return Err(Failure::Unreachable(vec![(target, io::ErrorKind::TimedOut, "the session was not set up in time".to_owned())]));
        };
        let (sender, connection, pings) = set_up.map_err(lost)?;
        let (now, most) = (Instant::now(), around.limits.max_connection);
        let life = around.remaining(&there).map_or(most, |left| left.min(most));
        let (tell, fate) = watch::channel(None);
        let session = Arc::new(Session {
            admitted: Arc::new(there),
            target,
            place,
            end: now + most,
            fate,
            fresh_until: now + life / 2,
            state: Mutex::new(State { sender: Some(sender), streams: 0, quiet_since: now }),
        });
        self.run(Arc::clone(&session), (connection, window), pings, tell);
        Ok(session)
    }

    /// Lets a session run as long as its far end may be spoken to and it is used.
    fn run(
        &self,
        session: Arc<Session>,
        (mut connection, mut window): (client::Connection<Wire, Bytes>, Window),
        mut pings: Option<PingPong>,
        tell: watch::Sender<Option<standing::Ended>>,
    ) {
        let (around, name, idle) = (self.around.clone(), self.upstream.name.clone(), self.plan.idle);
        let (clock, mut phase, alive) = (around.parts.clock.clone(), around.phase.clone(), around.alive.clone());
        let counted = around.parts.metrics.tunnel_session(&around.listener, Direction::Outbound);
        tokio::spawn(async move {
            // A connection that begins in it wakes it.
            let mut connection = pin!(poll_fn(|cx| {
                let streams = session.state().streams;
                if let Some(size) = window.fit(streams) {
                    connection.set_target_window_size(size);
                }
                Pin::new(&mut connection).poll(cx)
            }));
            let unused = async {
                loop {
                    let leaving = tokio::select! {
                        left = phase.wait_for(|phase| *phase != Phase::Running) => left.map_or(Phase::Cut, |phase| *phase),
                        () = tokio::time::sleep(LOOK.min(idle / 2)) => Phase::Running,
                    };
                    match leaving {
                        Phase::Running => session.retire_unused(idle),
                        // The connection ends with its last stream.
                        Phase::Draining => {
                            session.retire();
                            let _ = phase.wait_for(|phase| *phase == Phase::Cut).await;
                            return;
                        }
                        Phase::Cut => return,
                    }
                }
            };
            let silent = async {
                loop {
                    tokio::time::sleep(ALIVE).await;
                    if !matches!(tokio::time::timeout(ALIVE, ask(&mut pings)).await, Ok(Ok(()))) {
                        return;
                    }
                }
            };
            let ended = tokio::select! {
                biased;
                ended = session.admitted.ended(&clock) => Some(ended),
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(target: "upstream", event = "lost", upstream = name, %error);
                    }
                    None
                }
                () = tokio::time::sleep_until(session.end.into()) => Some(standing::Ended::Expired),
                () = silent => {
                    tracing::warn!(target: "upstream", event = "silent", upstream = name, address = session.target);
                    None
                }
                () = unused => None,
            };
            session.retire();
            if let Some(standing::Ended::Withdrawn(denied)) = &ended {
                let about =
                    About { listener: &around.listener, upstream: &name, address: &session.target, ground: Some(&session.admitted.ground), ..About::default() };
                record::withdrawn(&around.parts.metrics, &about, End::Upstream, denied);
            }
            // Before its streams are lost with it.
            tell.send_replace(ended);
            drop((alive, counted));
        });
    }
}

impl Session {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when its verdict holds no longer.
    pub(in crate::proxy) async fn ended(&self) -> standing::Ended {
        super::ended(self.fate.clone()).await
    }

    /// Whether new connections may begin in it; without them it ends with those it has.
    fn usable(&self) -> bool {
        if Instant::now() >= self.fresh_until {
            self.retire();
        }
        self.state().sender.is_some()
    }

    fn retire(&self) {
        self.state().sender = None;
    }

    fn retire_unused(&self, idle: Duration) {
        let mut state = self.state();
        let old = Instant::now() >= self.fresh_until;
        if state.streams == 0 && (old || state.quiet_since.elapsed() >= idle) {
            state.sender = None;
        }
    }

    /// A place in it, of as many as both ends allow.
    fn lease(self: &Arc<Self>, most: u32) -> Option<Lease> {
        let mut state = self.state();
        let most = state.sender.as_ref()?.current_max_send_streams().min(usize::try_from(most).unwrap_or(usize::MAX));
        if state.streams >= most {
            return None;
        }
        state.streams += 1;
        Some(Lease(Arc::clone(self)))
    }
}

impl Lease {
    async fn begin(self) -> io::Result<Tunnel> {
        let sender = self.0.state().sender.clone().ok_or(io::ErrorKind::ConnectionAborted)?;
        let mut sender = sender.ready().await.map_err(io_error)?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = hyper::Uri::from_static(AUTHORITY);
        let (answer, send) = sender.send_request(request, false).map_err(io_error)?;
        Ok(Tunnel::asked(send, answer, self))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.streams = state.streams.saturating_sub(1);
        state.quiet_since = Instant::now();
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("target", &self.target).field("streams", &self.state().streams).finish_non_exhaustive()
    }
}

fn settings(window: &Window) -> client::Builder {
    let mut builder = client::Builder::new();
    builder.enable_push(false).initial_max_send_streams(0).max_frame_size(FRAME).max_header_list_size(HEAD).max_send_buffer_size(SEND_BUFFER);
    builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(window.size());
    builder
}

async fn ask(pings: &mut Option<PingPong>) -> Result<(), h2::Error> {
    match pings {
        Some(pings) => pings.ping(Ping::opaque()).await.map(drop),
        None => std::future::pending().await,
    }
}

fn no_room() -> Denied {
    let expected = "a session that takes at least one connection";
    Finding::new(Reason::PeerRefused, "tunnel.streams", expected, "none").fix("see limits.streams of the far listener").into()
}
