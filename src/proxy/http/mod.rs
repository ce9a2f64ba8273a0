//! HTTP/1.1 and HTTP/2: requests of one admitted client, each routed to an upstream by itself.
//!
//! Parsing is hyper's. Here is what passes from one side to the other: which fields, to whom, under which bounds, and who
//! the application is told its client is. Admission is not here: a connection comes admitted, and an upstream's
//! connection is admitted before a request goes over it.

mod abuse;
mod answer;
mod body;
mod connect;
mod evidence;
mod fields;
mod framing;
mod identity;
mod message;
pub mod plan;
mod pool;
mod request;
mod resets;
mod target;
pub mod token;
mod upgrade;
mod view;
pub(super) mod wire;

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use hyper::header::HeaderName;
use hyper::http::uri::PathAndQuery;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Phase;
use super::accept::Accepting;
use super::admit::{self, Admitted, Ground};
use super::around::Around;
use super::listen::Caller;
use super::now::{Follows, Now, still_trusted};
use super::plan::Target;
use super::reach::Shared;
use super::record::Pace;
use super::stream::Stream;
use super::tcp::{End, Ended, Forwarded};
use crate::admin::metrics::{HttpMetrics, ListenerMetrics};
use crate::tls::ALPN_H2;
use answer::{Audience, Problem};
use body::Fate;
use fields::{Client, Ids, Pseudonym};
use message::Message;
use plan::{Backend, HttpLimits, Site, To};
use pool::{Ending, Pool};
use view::Following;
use wire::{Gauge, STRANGERS_WINDOW, STREAM_WINDOW, Version, Wire, connection_window};

/// An HTTP listener at work, as it is configured.
#[derive(Debug)]
pub(super) struct Running {
    plan: Arc<Site>,
    around: Arc<Around>,
    ways: Vec<Way>,
    /// Pools from before that may have something in flight: what they were trusted for is asked again with every change.
    earlier: Vec<Ending>,
    /// The sessions of upstreams that tunnels lead to.
    pub(super) shared: Shared,
    lasting: Arc<Lasting>,
}

/// What an HTTP listener keeps when it is configured anew.
#[derive(Debug)]
struct Lasting {
    /// Our name in `Via`, different for every listener and start.
    pseudonym: Pseudonym,
    ids: Ids,
    requests: AtomicUsize,
    metrics: HttpMetrics,
    tokens: Mutex<(Instant, f64)>,
    /// Of the evidence endpoint.
    pace: evidence::Pace,
}

/// Where a route leads; as many as there are routes.
#[derive(Debug)]
enum Way {
    Pool(Arc<Pool>),
    RedirectToHttps,
}

/// Where and under which bounds a connection is served.
pub(super) struct Place<'a> {
    pub(super) from: &'a Caller,
    pub(super) counters: &'a ListenerMetrics,
}

/// One client's connection.
struct Connection {
    /// What let it in.
    let_in_by: Arc<Accepting>,
    now: watch::Receiver<Now>,
    following: Mutex<Following>,
    /// Its bounds: those of when it began.
    around: Arc<Around>,
    limits: HttpLimits,
    lasting: Arc<Lasting>,
    admitted: Arc<Admitted>,
    from: String,
    address: Option<IpAddr>,
    client: Client,
    server_name: Option<String>,
    end: tokio::time::Instant,
    gauge: Arc<Gauge>,
    begun: AtomicUsize,
    ended: AtomicUsize,
    abandoned: AtomicUsize,
    /// Of what is written of requests that are refused.
    pace: Pace,
    /// Streams of HTTP/2 and tunnels; they end with the connection.
    tasks: Mutex<JoinSet<()>>,
}

impl Running {
    /// Pools and sessions of `before` that did not change are kept.
    pub(super) fn start(plan: Arc<Site>, around: Around, before: Option<&Arc<Self>>) -> Arc<Self> {
        let shared = Shared::of(plan.destinations.upstreams(), &around, before.map(|before| &before.shared));
        let lasting = before
            .filter(|before| before.around.listener == around.listener)
            .map_or_else(|| Lasting::begin(&around, &plan.limits), |before| Arc::clone(&before.lasting));
        let kept: Vec<_> = before.filter(|before| before.around.same(&around)).into_iter().flat_map(|before| before.pools()).collect();
        let around = Arc::new(around);
        let mut pools: Vec<Arc<Pool>> = Vec::new();
        let mut pool = |backend: &Arc<Backend>| {
            let of_backend = |pool: &&Arc<Pool>| Arc::ptr_eq(&pool.backend, backend);
            if let Some(known) = pools.iter().find(of_backend) {
                return Arc::clone(known);
            }
            let pool = kept.iter().copied().find(of_backend).cloned().unwrap_or_else(|| {
                let pool = Pool::new(Arc::clone(backend), Arc::clone(&around));
                if backend.health.is_some() {
                    pool.runs(tokio::spawn(check(Arc::downgrade(&pool))));
                }
                pool
            });
            pools.push(Arc::clone(&pool));
            pool
        };
        let way = |to: &To| match to {
            To::Backend(backend) => Way::Pool(pool(backend)),
            To::RedirectToHttps => Way::RedirectToHttps,
        };
        let ways = plan.routes.iter().map(|route| &route.to).map(way).collect();
        let gone = |pool: &&Arc<Pool>| !pools.iter().any(|known| Arc::ptr_eq(known, pool));
        let earlier = before.into_iter().flat_map(|before| before.endings(gone)).collect();
        Arc::new(Self { plan, around, ways, earlier, shared, lasting })
    }

    /// Ends the pools and sessions that `next` has not: their idle connections and checks at once, others with what is on
    /// them.
    ///
    /// Those whose far ends have to prove something else in `next` end at `until` at the latest.
    pub(super) fn retire(&self, next: Option<&Self>, until: tokio::time::Instant) {
        self.shared.retire(next.map(|next| &next.shared));
        let kept = |pool: &Arc<Pool>| next.is_some_and(|next| next.pools().any(|known| Arc::ptr_eq(known, pool)));
        self.pools().filter(|pool| !kept(pool)).for_each(|pool| pool.retire());
        let Some(next) = next else { return };
        for ending in self.endings(|pool| !kept(pool)) {
            if next.pools().any(|pool| still_trusted(&ending.upstream, &pool.backend.upstream).is_err()) {
                ending.at(until);
            }
        }
    }

    /// The ends of the pools that are `gone`, and of those before them on whose connections something may be in flight.
    fn endings(&self, gone: impl Fn(&&Arc<Pool>) -> bool) -> impl Iterator<Item = Ending> {
        let earlier = self.earlier.iter().filter(|ending| ending.is_awaited()).cloned();
        earlier.chain(self.pools().filter(gone).map(|pool| pool.ending.clone()))
    }

    fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.ways.iter().filter_map(|way| match way {
            Way::Pool(pool) => Some(pool),
            Way::RedirectToHttps => None,
        })
    }

    /// The first route that fits.
    fn route(&self, authority: &str, path: &str, method: &Method) -> Option<&Way> {
        let host = host_of(authority);
        let fits = |route: &&plan::Route| {
            (route.hosts.is_empty() || route.hosts.iter().any(|pattern| host_fits(pattern, host)))
                && (route.paths.is_empty() || route.paths.iter().any(|pattern| pattern.fits(path)))
                && (route.methods.is_empty() || route.methods.contains(method))
        };
        self.plan.routes.iter().zip(&self.ways).find(|(route, _)| fits(route)).map(|(_, way)| way)
    }

    /// Whether one more request may be served.
    fn room(&self) -> Result<(), Problem> {
        let limits = &self.plan.limits;
        if self.lasting.requests.load(Ordering::SeqCst) > limits.requests {
            self.around.parts.metrics.limit_rejected(&self.around.listener, "requests");
            return Err(Problem::full(StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way (limits.requests)"));
        }
        let Some(rate) = limits.rate.map(f64::from) else { return Ok(()) };
        let mut tokens = self.lasting.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let left = (tokens.1 + now.saturating_duration_since(tokens.0).as_secs_f64() * rate).min(rate);
        *tokens = (now, (left - 1.0).max(0.0));
        drop(tokens);
        if left >= 1.0 {
            return Ok(());
        }
        self.around.parts.metrics.limit_rejected(&self.around.listener, "rate");
        Err(Problem::full(StatusCode::TOO_MANY_REQUESTS, "too many requests in this second (limits.rate)"))
    }
}

impl Lasting {
    fn begin(around: &Around, limits: &HttpLimits) -> Arc<Self> {
        let random = crate::tls::nonce().unwrap_or_default();
        Arc::new(Self {
            pseudonym: Pseudonym::of(random.get(..4).unwrap_or_default()),
            ids: Ids::default(),
            requests: AtomicUsize::new(0),
            metrics: around.parts.metrics.http(&around.listener),
            tokens: Mutex::new((Instant::now(), f64::from(limits.rate.unwrap_or(0)))),
            pace: evidence::Pace::default(),
        })
    }
}

impl Around {
    /// Counts what pretended to be an identity.
    fn stripped(&self, names: &[HeaderName]) {
        for name in names {
            self.parts.metrics.spoofed(&self.listener, identity::label(name));
        }
    }
}

fn host_of(authority: &str) -> &str {
    let port = |(_, port): &(&str, &str)| port.bytes().all(|octet| octet.is_ascii_digit());
    let host = authority.rsplit_once(':').filter(port).map_or(authority, |(host, _)| host);
    host.strip_suffix('.').unwrap_or(host)
}

fn host_fits(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(end) => host.len() > end.len() && host.ends_with(end),
        None => pattern == host,
    }
}

impl Connection {
    fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.lasting.requests.fetch_add(1, Ordering::SeqCst);
        self.lasting.metrics.begun();
    }

    fn over(&self, finished: bool) {
        self.ended.fetch_add(1, Ordering::SeqCst);
        if !finished {
            self.abandoned.fetch_add(1, Ordering::SeqCst);
        }
        self.lasting.requests.fetch_sub(1, Ordering::SeqCst);
        self.lasting.metrics.over();
    }

    /// Refuses a client of HTTP/1.1 that has not waited for its connection to become something else: what follows was read as
    /// HTTP already, and may be anything.
    fn patient(&self) -> Result<(), Problem> {
        let early = self.gauge.vetoed().is_some() || self.gauge.heads() > self.begun.load(Ordering::SeqCst);
        if early { Err(Problem::request(StatusCode::BAD_REQUEST, "bytes for the tunnel came before the answer")) } else { Ok(()) }
    }

    fn audience(&self) -> Audience {
        if self.around.strangers { Audience::Peer } else { Audience::Application }
    }

    /// Whether what it says of the way before is believed.
    fn trusted(&self, site: &Site) -> bool {
        self.address.is_some_and(|address| site.trusted_proxies.iter().any(|network| network.holds(address)))
    }

    /// Whether an `allow` rule lets this client call this. Without rules everything is allowed.
    fn may(&self, site: &Site, method: &Method, path: &str) -> bool {
        let rules = &site.allow;
        if rules.is_empty() {
            return true;
        }
        let Ground::Attested(_, result) = &self.admitted.ground else { return false };
        let entry = result.appraisal().entry();
        let of_entry = |pattern: &str| pattern.strip_suffix('*').map_or(pattern == entry, |begin| entry.starts_with(begin));
        rules.iter().any(|rule| {
            of_entry(&rule.entry)
                && (rule.methods.is_empty() || rule.methods.contains(method))
                && (rule.paths.is_empty() || rule.paths.iter().any(|pattern| pattern.fits(path)))
        })
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    /// Whether it begins requests to abandon them, as in CVE-2023-44487.
    fn abuses(&self) -> bool {
        let (begun, abandoned) = (self.begun.load(Ordering::SeqCst), self.abandoned.load(Ordering::SeqCst));
        abandoned > ABANDONED && abandoned.saturating_mul(2) > begun
    }

    /// Waits for tunnels and streams.
    async fn finish(&self) {
        poll_fn(|cx| {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            while ready!(tasks.poll_join_next(cx)).is_some() {}
            Poll::Ready(())
        })
        .await;
    }
}

/// Ends what a connection began when it is over, however that came.
struct Ends(Arc<Connection>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// Runs the streams of an HTTP/2 connection where they end with it.
#[derive(Clone)]
struct Streams(std::sync::Weak<Connection>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        if let Some(connection) = self.0.upgrade() {
            connection.spawn(stream);
        }
    }
}

/// Serves the requests of an admitted client until it, its permitted life or the proxy ends; `None` where the listener lets
/// nobody in on its ground by now.
pub(super) async fn serve(follows: Follows<'_>, admitted: Arc<Admitted>, mut stream: Stream, place: Place<'_>, forwarded: &mut Forwarded) -> Option<Ended> {
    let now = follows.now.clone();
    let site = now.borrow().site.clone()?;
    let (limits, around, lasting) = (site.plan.limits, Arc::clone(&site.around), Arc::clone(&site.lasting));
    drop(site);
    let (version, ahead) = match stream.alpn() {
        Some(alpn) if alpn == ALPN_H2 || alpn == b"h2" => (Version::Http2, Vec::new()),
        Some(_) => (Version::Http1, Vec::new()),
        None => match tokio::time::timeout(limits.request_header, wire::version(&mut stream)).await {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => return Some(Ended::Lost(End::Downstream, error)),
            Err(_) => return Some(Ended::Idle),
        },
    };
    let gauge = Gauge::new();
    let connection = Arc::new(Connection {
        following: Mutex::new(Following::begin(now.clone(), follows.accepting, &admitted)),
        now,
        let_in_by: Arc::clone(follows.accepting),
        from: place.from.name.clone(),
        address: place.from.source,
        client: Client::new(place.from.source, around.secure),
        server_name: stream.server_name().map(str::to_owned),
        end: tokio::time::Instant::now() + around.limits.max_connection,
        gauge: Arc::clone(&gauge),
        begun: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
        abandoned: AtomicUsize::new(0),
        pace: Pace::default(),
        tasks: Mutex::default(),
        around: Arc::clone(&around),
        limits,
        lasting,
        admitted,
    });
    let wire = Wire::downstream(stream, version, ahead, Arc::clone(&gauge), (place.counters.received.clone(), place.counters.sent.clone()));
    let _all = Ends(Arc::clone(&connection));
    let ended = http(&connection, wire, version).await;
    (forwarded.up, forwarded.down) = (gauge.received(), gauge.sent());
    connection.pace.end(&around.listener, &connection.from);
    if let Some(veto) = gauge.vetoed() {
        around.parts.metrics.limit_rejected(&around.listener, veto.name());
        tracing::warn!(target: "connection", event = "vetoed", listener = around.listener, peer = connection.from, why = veto.name());
    }
    Some(ended)
}

async fn http(connection: &Arc<Connection>, wire: Wire, version: Version) -> Ended {
    let limits = &connection.limits;
    let shared = Arc::clone(connection);
    // Boxed: hyper keeps room for it in every connection, and moves it for every request.
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (parts, incoming) = request.into_parts();
        Box::pin(request::serve(Arc::clone(&shared), Box::new(parts), incoming))
    });
    let io = TokioIo::new(wire);
    let ended = match version {
        Version::Http1 => {
            let mut builder = http1::Builder::new();
            // The head's time is watched with the rest: hyper's own would close connections that idle between requests.
            builder.timer(TokioTimer::new()).header_read_timeout(None).max_header_size(limits.header).max_headers(FIELDS).half_close(false);
            drive(connection, Box::pin(builder.serve_connection(io, service).with_upgrades()), http1::UpgradeableConnection::graceful_shutdown).await
        }
        Version::Http2 => {
            let mut builder = http2::Builder::new(Streams(Arc::downgrade(connection)));
            builder.timer(TokioTimer::new()).max_concurrent_streams(limits.streams).enable_connect_protocol();
            builder.max_header_list_size(u32::try_from(limits.header).unwrap_or(u32::MAX)).max_send_buf_size(SEND_BUFFER);
            let each = window(&connection.admitted.ground);
            builder.initial_stream_window_size(each).initial_connection_window_size(connection_window(each, limits.streams.try_into().unwrap_or(usize::MAX)));
            builder.max_pending_accept_reset_streams(RESETS).max_local_error_reset_streams(LOCAL_RESETS);
            drive(connection, Box::pin(builder.serve_connection(io, service)), http2::Connection::graceful_shutdown).await
        }
    };
    if matches!(ended, Ended::Finished) {
        connection.finish().await;
    }
    ended
}

/// How much of one body of a client waits in memory while no upstream takes it.
const fn window(ground: &Ground) -> u32 {
    match ground {
        Ground::AnyClient(_) => STRANGERS_WINDOW,
        Ground::Attested(..) | Ground::Local => STREAM_WINDOW,
    }
}

/// Lets hyper run; says goodbye in time, and ends what does not end by itself.
async fn drive<C: Future<Output = Result<(), hyper::Error>>>(connection: &Arc<Connection>, mut running: Pin<Box<C>>, goodbye: impl Fn(Pin<&mut C>)) -> Ended {
    let around = &connection.around;
    let (mut phase, mut now, mut leaving) = (around.phase.clone(), connection.now.clone(), false);
    let most = around.limits.max_connection;
    let left = around.remaining(&connection.admitted).map_or(most, |left| left.min(most));
    let farewell = tokio::time::Instant::now() + (left - FAREWELL.min(left / 2));
    let head = connection.limits.request_header;
    let tick = (around.limits.idle.min(head) / 4).clamp(Duration::from_millis(20), Duration::from_secs(5));
    loop {
        tokio::select! {
            biased;
            ended = running.as_mut() => return match ended {
                Ok(()) => Ended::Finished,
                Err(error) if error.is_parse_too_large() => {
                    around.parts.metrics.limit_rejected(&around.listener, "header");
                    let why = format!("a request's head is longer than limits.header ({} octets), or has more than {FIELDS} fields", connection.limits.header);
                    Ended::Lost(End::Downstream, std::io::Error::other(why))
                }
                Err(error) => Ended::Lost(End::Downstream, std::io::Error::other(caused(&error))),
            },
            () = tokio::time::sleep_until(connection.end) => return Ended::Expired,
            _ = phase.wait_for(|phase| *phase != Phase::Running), if !leaving => {
                leaving = true;
                goodbye(running.as_mut());
            }
            changed = now.changed(), if !leaving => {
                // Without an error: a connection between two requests holds nothing of what was.
                if connection.view().is_err() || changed.is_err() {
                    leaving = true;
                    goodbye(running.as_mut());
                }
            }
            () = tokio::time::sleep_until(farewell), if !leaving => {
                leaving = true;
                goodbye(running.as_mut());
            }
            () = tokio::time::sleep(tick) => {
                let quiet = connection.begun.load(Ordering::SeqCst) == connection.ended.load(Ordering::SeqCst);
                let late = connection.gauge.head_since().is_some_and(|since| since > head);
                let still = connection.gauge.still_for();
                if late || still > around.limits.idle || (connection.begun.load(Ordering::SeqCst) == 0 && quiet && still > head) {
                    return Ended::Idle;
                }
                if connection.abuses() {
                    around.parts.metrics.limit_rejected(&around.listener, "rapid_reset");
                    return Ended::Lost(End::Downstream, std::io::Error::other("requests are begun to be abandoned"));
                }
            }
        }
    }
}

/// An error of hyper's with what is behind it, which it does not say by itself.
fn caused(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Asks the targets of a pool whether they are well, as long as there is a pool.
async fn check(pool: std::sync::Weak<Pool>) {
    // Nobody's request: the operator wants to know.
    let operator = admit::local();
    loop {
        let Some(pause) = pool.upgrade().and_then(|pool| pool.backend.health.as_ref().map(|health| health.every)) else { return };
        tokio::time::sleep(pause).await;
        let Some(pool) = pool.upgrade() else { return };
        let Some(health) = &pool.backend.health else { return };
        let Ok(path) = health.path.parse::<PathAndQuery>() else { return };
        let mut well = 0;
        for spot in pool.spots.now().iter() {
            let asking = pool.ask(&operator, spot, Message::get(&host_of_target(&spot.target), path.clone()));
            let most = pause.max(Duration::from_secs(1));
            let found = match tokio::time::timeout(most, asking).await {
                // Says nothing of the target.
                Ok(Err(pool::Failure::Full)) => {
                    well += i64::from(spot.well.load(Ordering::SeqCst));
                    continue;
                }
                Ok(Ok((response, _))) if response.status().is_success() || response.status().is_redirection() => None,
                Ok(Ok((response, _))) => Some(format!("{path} was answered with {}", response.status().as_u16())),
                Ok(Err(failure)) => Some(Problem::of(&failure, &Fate::default()).detail),
                Err(_) => Some(format!("{path} was not answered within {} ms", most.as_millis())),
            };
            let good = found.is_none();
            if spot.well.swap(good, Ordering::SeqCst) != good {
                match found {
                    None => tracing::info!(target: "upstream", event = "well", upstream = pool.name(), address = %spot),
                    Some(found) => tracing::warn!(
                        target: "upstream", event = "unwell", upstream = pool.name(), address = %spot, expected = "a 2xx or 3xx to health.path", found,
                    ),
                }
            }
            well += i64::from(good);
        }
        pool.healthy(well);
    }
}

/// The host that a target is asked for. A path or a context id is none, and makes no request of HTTP/2.
fn host_of_target(target: &Target) -> String {
    match target {
        Target::Unix(_) | Target::Vsock { .. } => "localhost".to_owned(),
        Target::Loopback { .. } | Target::Tcp { .. } => target.to_string(),
    }
}

/// How long before its end a connection takes no new requests.
const FAREWELL: Duration = Duration::from_secs(30);

/// So many requests may be abandoned before it is looked at how many were not.
const ABANDONED: usize = 200;

const FIELDS: usize = 128;
/// Of each request, and a client that reads none of its answers has as many as [`plan::HttpLimits::streams`].
const SEND_BUFFER: usize = 64 * 1024;
const RESETS: usize = 50;
const LOCAL_RESETS: usize = 100;
