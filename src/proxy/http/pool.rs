//! Connections to one upstream: attested once, used for many requests; targets chosen, left out and tried again.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::body::Body;
use super::message::Message;
use super::plan::{Backend, Balance, Speaks};
use super::target::{Exclusive, Shared, Spot, Spots};
use super::wire::{Gauge, STREAM_WINDOW, Wire, connection_window};
use crate::clock::Clock;
use crate::proxy::Phase;
use crate::proxy::admit::{Admitted, Ground};
use crate::proxy::around::Around;
use crate::proxy::names::Following;
use crate::proxy::now;
use crate::proxy::plan::{Originate, Upstream};
use crate::proxy::record::{self, About};
use crate::proxy::standing::Ended;
use crate::proxy::stream::{Socket, Stream};
use crate::proxy::tcp::End;
use crate::proxy::upstream;
use crate::refusal::{Denied, Finding, Reason};
use crate::tls::ALPN_H2;

/// The connections of one upstream.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) backend: Arc<Backend>,
    pub(super) spots: Arc<Spots>,
    around: Arc<Around>,
    following: Vec<Following>,
    turn: AtomicUsize,
    /// Asks its targets whether they are well; ends with it.
    checking: OnceLock<JoinHandle<()>>,
    pub(super) ending: Ending,
    /// Followed by its connections, which outlive it.
    ends: watch::Receiver<Option<tokio::time::Instant>>,
}

/// When the connections of a pool end that are still used, once they have to. Outlives the pool, as they do.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    /// What their far ends have proven.
    pub(super) upstream: Arc<Upstream>,
    tell: Arc<watch::Sender<Option<tokio::time::Instant>>>,
}

impl Ending {
    /// Ends them then, with what is in flight on them: their far ends would have to prove something else by now. What was
    /// told first stands.
    pub(super) fn at(&self, until: tokio::time::Instant) {
        self.tell.send_if_modified(|end| end.is_none() && end.replace(until).is_none());
    }

    /// Whether there is a connection, or a pool that may make one.
    pub(super) fn is_awaited(&self) -> bool {
        self.tell.receiver_count() > 0
    }
}

/// Why a request has no answer from an upstream.
#[derive(Debug)]
pub(super) enum Failure {
    /// All listeners together have as many connections to upstreams as they may.
    Full,
    /// It did not answer in time.
    Late,
    /// The connection was lost after the request, or a part of it, was sent.
    Lost(hyper::Error),
    /// The target does not do what the request needs.
    NoUpgrade,
    /// The far end was refused.
    Refused(Denied),
    /// No target could be reached.
    Unreachable(Vec<(String, io::Error)>),
}

/// What a request occupies until it is over.
#[derive(Debug)]
pub(super) struct Lease {
    spot: Arc<Spot>,
    on: On,
}

/// The connection that it is on.
#[derive(Debug)]
enum On {
    /// One of its own, which is kept for others afterwards if there are not so many already.
    Exclusive(Option<Exclusive>, usize),
    Shared(Arc<Shared>),
}

impl Lease {
    fn of(spot: &Arc<Spot>, on: On) -> Self {
        spot.in_flight.fetch_add(1, Ordering::SeqCst);
        Self { spot: Arc::clone(spot), on }
    }

    pub(super) const fn spot(&self) -> &Arc<Spot> {
        &self.spot
    }

    const fn own(&self) -> Option<&Exclusive> {
        match &self.on {
            On::Exclusive(free, _) => free.as_ref(),
            On::Shared(_) => None,
        }
    }

    /// When what the connection became ends at the latest, where it is no stream of a connection, which ends it.
    pub(super) fn end(&self) -> Option<Instant> {
        self.own().map(|free| free.end)
    }

    /// What the far end of such a connection was admitted for.
    pub(super) fn ground(&self) -> Option<&Ground> {
        self.own().and_then(|free| free.there.as_deref()).map(|there| &there.ground)
    }

    /// Returns when the verdict about it holds no longer.
    pub(super) async fn ended(&self, clock: &Clock) -> Ended {
        match self.own().and_then(|free| free.there.as_ref()) {
            Some(there) => there.ended(clock).await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.spot.in_flight.fetch_sub(1, Ordering::SeqCst);
        match &mut self.on {
            On::Exclusive(free, most) => {
                if let Some(free) = free.take() {
                    give_back(free, &self.spot, *most);
                }
            }
            On::Shared(shared) => drop(shared.streams.fetch_sub(1, Ordering::SeqCst)),
        }
    }
}

/// Keeps a connection for other requests once it is through with its last: mostly it is already.
fn give_back(mut free: Exclusive, spot: &Arc<Spot>, most: usize) {
    if free.sender.is_ready() {
        return spot.keep(free, most);
    }
    // Outside a runtime the program is ending.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if !free.sender.is_closed() {
        let spot = Arc::clone(spot);
        runtime.spawn(async move {
            if free.sender.ready().await.is_ok() {
                spot.keep(free, most);
            }
        });
    }
}

/// A connection that was just made.
enum Made {
    Exclusive(Exclusive),
    Shared(Arc<Shared>),
}

/// A connection chosen for one request.
enum Chosen {
    Exclusive(Exclusive),
    Shared(Arc<Shared>),
}

impl Made {
    fn chosen(self) -> Chosen {
        match self {
            Self::Exclusive(free) => Chosen::Exclusive(free),
            Self::Shared(shared) => Chosen::Shared(shared),
        }
    }
}

/// A connection is not used for new requests in its last while, so that those can end.
const LAST: Duration = Duration::from_secs(30);

/// How often a request that was not sent is tried on another connection to one target, and in all.
const TRIES: usize = 3;
const BUDGET: usize = 8;

/// The tries of one request.
#[derive(Default)]
struct Tries {
    made: usize,
    /// Why there is to be another.
    again: Option<&'static str>,
    failed: Vec<(String, io::Error)>,
}

/// Why a request has no answer yet.
enum Unanswered {
    /// It is over.
    Failed(Failure),
    /// Nothing of it was sent.
    Unsent(Box<Message>),
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.retire();
    }
}

impl Pool {
    pub(super) fn new(backend: Arc<Backend>, around: Arc<Around>) -> Arc<Self> {
        let upstream = &backend.upstream;
        let spots = Spots::new(&upstream.targets);
        let follow = |(place, target)| {
            let (spots, name) = (Arc::clone(&spots), upstream.name.clone());
            Following::start(upstream, target, move |found| spots.moved(&name, place, found))
        };
        let following = upstream.targets.iter().enumerate().filter_map(follow).collect();
        let (tell, ends) = watch::channel(None);
        let ending = Ending { upstream: Arc::clone(upstream), tell: Arc::new(tell) };
        Arc::new(Self { backend, spots, around, following, turn: AtomicUsize::new(0), checking: OnceLock::new(), ending, ends })
    }

    /// Has a task that ends with the pool.
    pub(super) fn runs(&self, checking: JoinHandle<()>) {
        if let Err(another) = self.checking.set(checking) {
            another.abort();
        }
    }

    /// Ends what goes on without requests: checks, and connections that wait for another one.
    pub(super) fn retire(&self) {
        if let Some(checking) = self.checking.get() {
            checking.abort();
        }
        self.following.iter().for_each(Following::end);
        self.spots.now().iter().for_each(|spot| spot.retire());
    }

    pub(super) fn name(&self) -> &str {
        &self.backend.upstream.name
    }

    /// Notes how many targets are well.
    pub(super) fn healthy(&self, targets: i64) {
        self.around.parts.metrics.healthy_targets(self.name(), targets);
    }

    /// Sends a request for the client that was admitted. It is tried again only while nothing of it was sent, and as often
    /// as [`BUDGET`] allows.
    pub(super) async fn send(self: &Arc<Self>, admitted: &Admitted, message: Box<Message>, key: u64) -> Result<(Response<Incoming>, Lease), Failure> {
        let mut tries = Tries::default();
        let spots = self.spots.now();
        let message = match self.send_to(admitted, message, (&spots, key), &mut tries).await {
            Ok(answer) => return Ok(answer),
            Err(Unanswered::Failed(failure)) => return Err(failure),
            Err(Unanswered::Unsent(message)) => message,
        };
        // Where names led nobody is there: perhaps they lead elsewhere by now.
        let limit = self.backend.upstream.connect_timeout;
        for following in &self.following {
            following.again(limit).await;
        }
        let new: Vec<_> = self.spots.now().iter().filter(|spot| !spots.iter().any(|known| Arc::ptr_eq(known, spot))).cloned().collect();
        self.send_to(admitted, message, (&new, key), &mut tries).await.map_err(|unanswered| match unanswered {
            Unanswered::Failed(failure) => failure,
            Unanswered::Unsent(_) => Failure::Unreachable(tries.failed),
        })
    }

    /// Tries one target after the other.
    async fn send_to(
        self: &Arc<Self>,
        admitted: &Admitted,
        mut message: Box<Message>,
        (spots, key): (&[Arc<Spot>], u64),
        tries: &mut Tries,
    ) -> Result<(Response<Incoming>, Lease), Unanswered> {
        let (order, refused) = self.order(spots, key);
        if order.is_empty()
            && let Some(denied) = refused
        {
            return Err(Unanswered::Failed(Failure::Refused(denied)));
        }
        for spot in order {
            for _ in 0..TRIES {
                if tries.made == BUDGET {
                    return Err(Unanswered::Unsent(message));
                }
                tries.made += 1;
                if let Some(why) = tries.again.take() {
                    self.around.parts.metrics.upstream_retry(self.name(), why);
                }
                let chosen = match self.choose(admitted, spot).await {
                    Ok(chosen) => chosen,
                    Err(Failure::Unreachable(tried)) => {
                        tries.again = Some("unreachable");
                        tries.failed.extend(tried);
                        break;
                    }
                    Err(failure) => return Err(Unanswered::Failed(failure)),
                };
                match self.send_on(chosen, spot, message).await {
                    Ok(answer) => return Ok(answer),
                    // The connection had ended before a byte of it was sent.
                    Err((Some(unsent), _)) => {
                        tries.again = Some("unsent");
                        tries.failed.push((spot.to_string(), io::Error::new(io::ErrorKind::ConnectionAborted, "it ended before a request was sent")));
                        message = unsent;
                    }
                    Err((None, failure)) => return Err(Unanswered::Failed(failure)),
                }
            }
        }
        Err(Unanswered::Unsent(message))
    }

    /// Asks one target, whatever is thought of it.
    pub(super) async fn ask(self: &Arc<Self>, admitted: &Admitted, spot: &Arc<Spot>, message: Box<Message>) -> Result<(Response<Incoming>, Lease), Failure> {
        let chosen = self.choose(admitted, spot).await?;
        self.send_on(chosen, spot, message).await.map_err(|(_, failure)| failure)
    }

    /// The targets to try, the best first; and a refusal for which one is left out.
    fn order<'a>(&self, spots: &'a [Arc<Spot>], key: u64) -> (Vec<&'a Arc<Spot>>, Option<Denied>) {
        let mut refused = None;
        let mut good: Vec<&Arc<Spot>> = Vec::with_capacity(spots.len());
        for spot in spots {
            match spot.available() {
                Ok(()) => good.push(spot),
                Err(Some(denied)) => refused = Some(denied),
                Err(None) => {}
            }
        }
        if good.is_empty() && refused.is_none() {
            // All are out for being unreachable or unwell: to try is better than to be sure of failing.
            good = spots.iter().collect();
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match self.backend.balance {
            Balance::RoundRobin => {
                let start = turn.checked_rem(good.len()).unwrap_or(0);
                good.rotate_left(start);
            }
            Balance::LeastRequest => {
                let start = turn.checked_rem(good.len()).unwrap_or(0);
                good.rotate_left(start);
                good.sort_by_key(|spot| spot.in_flight.load(Ordering::SeqCst));
            }
            Balance::Hash => good.sort_by_key(|spot| std::cmp::Reverse(weight(key, &spot.to_string()))),
        }
        good.sort_by_key(|spot| !spot.is_preferred());
        (good, refused)
    }

    async fn choose(self: &Arc<Self>, admitted: &Admitted, spot: &Arc<Spot>) -> Result<Chosen, Failure> {
        if let Some(shared) = spot.shared(self.backend.streams) {
            return Ok(Chosen::Shared(shared));
        }
        if let Some(free) = spot.exclusive(self.backend.idle) {
            return Ok(Chosen::Exclusive(free));
        }
        let shares = matches!(self.backend.upstream.originate, Originate::Attested(_)) || self.backend.speaks == Speaks::Http2;
        if !shares {
            let socket = self.connect(admitted, spot).await?;
            return Box::pin(self.set_up(spot, socket)).await.map(Made::chosen);
        }
        let since = Instant::now();
        let one = Arc::clone(&spot.connecting).lock_owned().await;
        // While we waited another may have made one, or failed: those who waited for it share that, or each would wait for
        // all before it.
        if let Some(shared) = spot.shared(self.backend.streams) {
            return Ok(Chosen::Shared(shared));
        }
        if let Some(failed) = spot.failed_after(since) {
            let unreached = || vec![(spot.to_string(), io::Error::other("not reached a moment ago"))];
            return Err(failed.map_or_else(|| Failure::Unreachable(unreached()), Failure::Refused));
        }
        if let Err(Some(denied)) = spot.available() {
            return Err(Failure::Refused(denied));
        }
        let socket = self.connect(admitted, spot).await?;
        // Whoever goes away meanwhile leaves the connection to the others: a handshake may cost the far end a quote, and is
        // not begun again and again for clients that do not wait.
        let (pool, kept, mut phase) = (Arc::clone(self), Arc::clone(spot), self.around.phase.clone());
        let making = tokio::spawn(async move {
            let made = tokio::select! {
                biased;
                made = pool.set_up(&kept, socket) => made,
                _ = phase.wait_for(|phase| *phase == Phase::Cut) => Err(Failure::Unreachable(Vec::new())),
            };
            if let Ok(Made::Shared(shared)) = &made {
                kept.share(Arc::clone(shared));
            }
            drop(one);
            made
        });
        let made = making.await.map_err(|_| Failure::Refused(fault()))??;
        if let Made::Shared(shared) = &made {
            shared.streams.fetch_add(1, Ordering::SeqCst);
        }
        Ok(made.chosen())
    }

    /// A socket to a target.
    async fn connect(&self, admitted: &Admitted, spot: &Arc<Spot>) -> Result<Socket, Failure> {
        let (around, metrics) = (&*self.around, &self.around.parts.metrics);
        let Some(held) = around.sockets.upstream() else {
            metrics.limit_rejected(&around.listener, "descriptors");
            return Err(Failure::Full);
        };
        match upstream::connect(admitted, &spot.target, spot.address, self.backend.upstream.connect_timeout).await {
            Ok(socket) => {
                metrics.upstream_connect(self.name(), "ok");
                Ok(socket.holding(held))
            }
            Err(error) => {
                metrics.upstream_connect(self.name(), "unreachable");
                Err(self.unreached(spot, error))
            }
        }
    }

    /// A connection on a socket, its far end admitted where it has to be.
    async fn set_up(&self, spot: &Arc<Spot>, socket: Socket) -> Result<Made, Failure> {
        let (around, metrics) = (&*self.around, &self.around.parts.metrics);
        let (stream, there, two) = match &self.backend.upstream.originate {
            Originate::Plain => (Stream::Plain(socket), None, self.backend.speaks == Speaks::Http2),
            Originate::Attested(side) => {
                let refused = |denied: Denied| {
                    let address = spot.to_string();
                    let about = About { listener: &around.listener, upstream: self.name(), address: &address, ..About::default() };
                    record::refused(metrics, &about, None, End::Upstream, &denied);
                    // A verdict is remembered for 5 s at most (PROTOCOL 3.6); only this target is left out.
                    spot.eject(self.backend.ejection.min(Duration::from_secs(5)), Some(denied.clone()));
                    Failure::Refused(denied)
                };
                let (there, stream) = Box::pin(around.handshakes().outbound(side, socket)).await.map_err(refused)?;
                let two = stream.alpn().is_some_and(|alpn| alpn == ALPN_H2 || alpn == b"h2");
                (stream, Some(there), two)
            }
        };
        // Nothing of a request was sent yet.
        let made = self.drive(stream, there, two).await.map_err(|error| self.unreached(spot, io::Error::new(io::ErrorKind::ConnectionReset, error)))?;
        spot.reached();
        Ok(made)
    }

    /// Notes a target that cannot be reached; it is told once, until it can be again.
    fn unreached(&self, spot: &Spot, error: io::Error) -> Failure {
        let tried = vec![(spot.to_string(), error)];
        spot.eject(self.backend.ejection, None);
        if spot.unreached() {
            let about = About { listener: &self.around.listener, upstream: self.name(), ..About::default() };
            record::unreachable(&about, None, &tried);
        }
        Failure::Unreachable(tried)
    }

    /// Sets HTTP up on a stream and lets it run, until its life ends or the proxy is cut.
    async fn drive(&self, stream: Stream, there: Option<Admitted>, two: bool) -> Result<Made, hyper::Error> {
        let (now, most) = (Instant::now(), self.around.limits.max_connection);
        let life = there.as_ref().and_then(|there| self.around.remaining(there)).map_or(most, |left| left.min(most));
        let (end, fresh_until) = (now + most, now + life.saturating_sub(LAST.min(life / 2)));
        let there = there.map(Arc::new);
        let wire = if two { Wire::upstream_of_frames } else { Wire::upstream };
        let io = TokioIo::new(wire(stream, Gauge::new()));
        if two {
            let tasks = Tasks::default();
            let mut builder = http2::Builder::new(tasks.clone());
            builder.timer(TokioTimer::new()).keep_alive_interval(ALIVE).keep_alive_timeout(ALIVE).max_header_list_size(MAX_HEAD);
            builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(connection_window(STREAM_WINDOW, self.backend.streams));
            builder.max_send_buf_size(SEND_BUFFER);
            let (sender, mut connection) = builder.handshake(io).await?;
            let extends = Arc::new(AtomicBool::new(false));
            let noted = Arc::clone(&extends);
            let takes = Arc::new(AtomicUsize::new(usize::MAX));
            let most = Arc::clone(&takes);
            // hyper does not wake the connection when settings come: it is asked until they have.
            let mut asking = Box::pin(tokio::time::sleep(SETTINGS));
            let running = poll_fn(move |cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                most.store(connection.current_max_send_streams(), Ordering::SeqCst);
                if !noted.load(Ordering::SeqCst) {
                    noted.store(connection.is_extended_connect_protocol_enabled(), Ordering::SeqCst);
                    while !noted.load(Ordering::SeqCst) && now.elapsed() < SETTINGS * 100 && asking.as_mut().poll(cx).is_ready() {
                        asking.as_mut().reset(tokio::time::Instant::now() + SETTINGS);
                    }
                }
                polled
            });
            self.run((running, tasks), there, end);
            return Ok(Made::Shared(Arc::new(Shared { sender, extends, takes, streams: AtomicUsize::new(0), fresh_until })));
        }
        let mut builder = http1::Builder::new();
        builder.max_headers(MAX_FIELDS).max_header_size(MAX_HEAD_OCTETS);
        let (sender, connection) = builder.handshake(io).await?;
        self.run((connection.with_upgrades(), Tasks::default()), there.clone(), end);
        Ok(Made::Exclusive(Exclusive::new(sender, there, (fresh_until, end))))
    }

    /// Lets a connection run as long as its far end may be spoken to.
    fn run<C>(&self, (connection, tasks): (C, Tasks), there: Option<Arc<Admitted>>, end: Instant)
    where
        C: Future<Output = Result<(), hyper::Error>> + Send + 'static,
    {
        let (mut phase, alive, name) = (self.around.phase.clone(), self.around.alive.clone(), self.name().to_owned());
        let (clock, metrics, listener) = (self.around.parts.clock.clone(), Arc::clone(&self.around.parts.metrics), self.around.listener.clone());
        let over = async move {
            match there {
                Some(there) => (there.ended(&clock).await, there.ground.clone()),
                None => std::future::pending().await,
            }
        };
        let mut ends = self.ends.clone();
        let withdrawn = async move {
            let until = ends.wait_for(Option::is_some).await.ok().and_then(|until| *until);
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                // The listener is no more, or nothing of it is told from here on: what is in flight goes on.
                None => std::future::pending().await,
            }
        };
        let running = tasks.clone();
        let connection = async move {
            let mut connection = Box::pin(connection);
            let ended = connection.as_mut().await;
            // It says goodbye once this is gone.
            drop(connection);
            running.finish().await;
            ended
        };
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(target: "upstream", event = "lost", upstream = name, %error);
                },
                (ended, ground) = over => if let Ended::Withdrawn(denied) = ended {
                    let about = About { listener: &listener, upstream: &name, ground: Some(&ground), ..About::default() };
                    record::withdrawn(&metrics, &about, End::Upstream, &denied);
                },
                () = withdrawn => {
                    let about = About { listener: &listener, upstream: &name, ..About::default() };
                    record::withdrawn(&metrics, &about, End::Upstream, &now::proven_otherwise());
                }
                () = tokio::time::sleep_until(end.into()) => {}
                _ = phase.wait_for(|phase| *phase == Phase::Cut) => {}
            }
            // Without its owner, hyper would let a connection of HTTP/2 go on as long as anything is in flight on it.
            tasks.abort();
            drop(alive);
        });
    }

    async fn send_on(&self, chosen: Chosen, spot: &Arc<Spot>, message: Box<Message>) -> Result<(Response<Incoming>, Lease), (Option<Box<Message>>, Failure)> {
        match chosen {
            Chosen::Shared(shared) => {
                let lease = Lease::of(spot, On::Shared(Arc::clone(&shared)));
                if message.is_upgrade() && !Box::pin(extends(&shared.extends)).await {
                    return Err((None, Failure::NoUpgrade));
                }
                let mut sender = shared.sender.clone();
                let (request, rest) = message.for_http2(matches!(self.backend.upstream.originate, Originate::Attested(_)));
                let answer = self.in_time(pin!(sender.try_send_request(request))).await.map_err(|failure| (None, failure))?;
                answer.map(|response| (response, lease)).map_err(|mut error| unsent(error.take_message(), rest, error.into_error()))
            }
            Chosen::Exclusive(mut free) => {
                let most = if self.around.sockets.scarce() { 0 } else { self.backend.idle_connections };
                let mut lease = Lease::of(spot, On::Exclusive(None, most));
                let (request, rest) = message.for_http1();
                let answer = self.in_time(pin!(free.sender.try_send_request(request))).await.map_err(|failure| (None, failure))?;
                let response = answer.map_err(|mut error| unsent(error.take_message(), rest, error.into_error()))?;
                if let On::Exclusive(link, _) = &mut lease.on {
                    *link = Some(free);
                }
                Ok((response, lease))
            }
        }
    }

    async fn in_time<T>(&self, answer: Pin<&mut impl Future<Output = T>>) -> Result<T, Failure> {
        match self.backend.first_byte {
            Some(limit) => Box::pin(tokio::time::timeout(limit, answer)).await.map_err(|_| Failure::Late),
            None => Ok(answer.await),
        }
    }
}

fn unsent(request: Option<Request<Body>>, rest: super::message::Rest, error: hyper::Error) -> (Option<Box<Message>>, Failure) {
    (request.map(|request| rest.with(request)), Failure::Lost(error))
}

/// A panic on what a far end sent refuses it, as any finding does.
fn fault() -> Denied {
    let found = "a panic, which is a fault of this program: please report it";
    Finding::new(Reason::EvidenceMalformed, "connection", "a verdict", found).into()
}

/// What hyper has running for a connection of HTTP/2: the connection itself, and bodies on their way up.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all of them.
    async fn finish(&self) {
        poll_fn(|cx| {
            let mut tasks = self.tasks();
            while ready!(tasks.poll_join_next(cx)).is_some() {}
            Poll::Ready(())
        })
        .await;
    }

    fn abort(&self) {
        self.tasks().abort_all();
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// Whether the far end takes extended CONNECT; its settings may be on their way.
async fn extends(far_end: &AtomicBool) -> bool {
    for _ in 0..100 {
        if far_end.load(Ordering::SeqCst) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

/// Rendezvous hashing: a target that goes away moves only its own keys.
fn weight(key: u64, target: &str) -> u64 {
    let digest = crate::crypto::sha256(&[&key.to_be_bytes(), target.as_bytes()]);
    digest.iter().take(8).fold(0, |sum, octet| (sum << 8) | u64::from(*octet))
}

/// How often a connection with requests on it is asked whether it is alive, and how long it may take to say so.
const ALIVE: Duration = Duration::from_secs(20);

/// How often it is looked whether the settings of a new connection have come.
const SETTINGS: Duration = Duration::from_millis(10);

const MAX_HEAD: u32 = 64 * 1024;
const MAX_HEAD_OCTETS: usize = 64 * 1024;
const MAX_FIELDS: usize = 128;
const SEND_BUFFER: usize = 256 * 1024;
