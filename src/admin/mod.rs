//! The operator's window: what is counted and how this process is doing, read-only, over HTTP.
//!
//! Not here: anything that changes state. The leaves [`health`], [`jwks`] and [`metrics`] import nothing of this crate.

pub mod health;
pub mod jwks;
pub mod metrics;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};

use crate::clock::Clock;
use health::Health;
use jwks::Jwks;
use metrics::Metrics;

/// Scrapers and probes at a time, and those of one address. The oldest makes room for a new one: a probe is over in
/// milliseconds, and what lingers is none.
const CONNECTIONS: usize = 32;
const CONNECTIONS_OF_SOURCE: usize = 16;

/// A connection carries one request and ends then, whatever it does.
const CONNECTION: Duration = Duration::from_secs(5);

/// The pause after the system refused a connection.
const BREATH: Duration = Duration::from_millis(200);

/// The most octets and header fields of a request's head.
const HEAD_OCTETS: usize = 8 * 1024;
const HEAD_FIELDS: usize = 32;

/// A serving window: `/startupz`, `/livez`, `/readyz[?verbose]`, `/metrics`, `/.well-known/jwks.json`. Dropped, it closes.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

/// What it shows.
#[derive(Clone, Debug)]
pub struct Window {
    /// The conditions behind `/readyz` and `/startupz`.
    pub health: Arc<Health>,
    /// The counts behind `/metrics`.
    pub metrics: Arc<Metrics>,
    /// The time, for conditions that expire.
    pub clock: Clock,
    /// The public keys of tokens.
    pub keys: Arc<Jwks>,
}

impl Admin {
    /// Listens at `address`; port 0 lets the system choose.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn start(address: SocketAddr, window: Window) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, serving: tokio::spawn(serve(listener, Arc::new(window))) })
    }

    /// Where it really listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, window: Arc<Window>) {
    let (mut open, mut failing) = (Open::default(), false);
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "admin connections are not accepted");
                }
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        failing = false;
        let window = Arc::clone(&window);
        open.make_room(from.ip());
        let conversing = tokio::spawn(async move {
            let _ = tokio::time::timeout(CONNECTION, converse(stream, window)).await;
        });
        open.0.push_back((from.ip(), conversing.abort_handle()));
    }
}

/// The connections, the oldest first.
#[derive(Default)]
struct Open(VecDeque<(IpAddr, AbortHandle)>);

impl Open {
    fn make_room(&mut self, source: IpAddr) {
        self.0.retain(|(_, conversing)| !conversing.is_finished());
        let of_source = self.0.iter().filter(|(known, _)| *known == source).count();
        let oldest =
            if of_source >= CONNECTIONS_OF_SOURCE { self.0.iter().position(|(known, _)| *known == source) } else { (self.0.len() >= CONNECTIONS).then_some(0) };
        if let Some((_, conversing)) = oldest.and_then(|oldest| self.0.remove(oldest)) {
            conversing.abort();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.iter().for_each(|(_, conversing)| conversing.abort());
    }
}

async fn converse(stream: TcpStream, window: Arc<Window>) {
    let service = hyper::service::service_fn(move |request| {
        let answer = answer(&window, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(CONNECTION).keep_alive(false).max_buf_size(HEAD_OCTETS).max_headers(HEAD_FIELDS);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "admin connection ended");
    }
}

fn answer(window: &Window, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "read-only\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "alive\n".to_owned()),
        "/metrics" => {
            let mut metrics = text(StatusCode::OK, window.metrics.text());
            metrics.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"));
            metrics
        }
        "/.well-known/jwks.json" => {
            let mut keys = text(StatusCode::OK, window.keys.document());
            keys.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
            // Shorter than a key is published before it signs.
            keys.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
            keys
        }
        "/readyz" | "/startupz" => readiness(window, request.uri().query()),
        _ => text(StatusCode::NOT_FOUND, "there are /startupz /livez /readyz[?verbose] /metrics /.well-known/jwks.json\n".to_owned()),
    }
}

fn readiness(window: &Window, query: Option<&str>) -> Response<Full<Bytes>> {
    let report = window.health.report(window.clock.now().ok().map(|now| now.0));
    let status = if report.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = query.is_some_and(|query| query.split('&').any(|word| matches!(word, "verbose" | "verbose=1" | "verbose=true")));
    let short = if report.ready() { "ready\n" } else { "not ready\n" };
    text(status, if verbose { report.to_string() } else { short.to_owned() })
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::clock::EARLIEST;
    use health::Condition;

    async fn get(address: SocketAddr, line: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Whoever holds connections, even from the prober's own address, keeps no probe from its answer.
    #[tokio::test]
    async fn a_probe_is_answered_whoever_else_lingers() -> io::Result<()> {
        let window =
            Window { health: Arc::new(Health::new()), metrics: Arc::new(Metrics::new()), clock: Clock::standing_at(EARLIEST), keys: Arc::new(Jwks::new()) };
        let admin = Admin::start(SocketAddr::from(([127, 0, 0, 1], 0)), window).await?;
        let mut lingering = Vec::new();
        for _ in 0..CONNECTIONS * 2 {
            let mut stream = TcpStream::connect(admin.address()).await?;
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n").await?;
            lingering.push(stream);
        }
        for _ in 0..3 {
            assert!(get(admin.address(), "GET /livez").await?.starts_with("HTTP/1.1 200"));
        }
        let mut asking = TcpStream::connect(admin.address()).await?;
        asking.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await?;
        let mut answer = String::new();
        let ended = tokio::time::timeout(CONNECTION / 2, asking.read_to_string(&mut answer)).await;
        assert!(ended.is_ok_and(|read| read.is_ok()) && answer.contains("connection: close"), "one request a connection: {answer}");
        Ok(())
    }

    #[tokio::test]
    async fn the_window_shows_and_changes_nothing() -> io::Result<()> {
        let health = Arc::new(Health::new());
        let metrics = Arc::new(Metrics::new());
        let window = Window { health: Arc::clone(&health), metrics, clock: Clock::standing_at(EARLIEST), keys: Arc::new(Jwks::new()) };
        let admin = Admin::start(SocketAddr::from(([127, 0, 0, 1], 0)), window).await?;
        let at = admin.address();
        assert!(get(at, "GET /readyz").await?.starts_with("HTTP/1.1 503"));
        health.set("identity", Condition::Until(EARLIEST.0 + 5));
        assert!(get(at, "GET /readyz").await?.starts_with("HTTP/1.1 200"));
        assert!(get(at, "GET /readyz?verbose").await?.ends_with("[+]identity: for another 5 s\nready\n"));
        assert!(get(at, "GET /livez").await?.starts_with("HTTP/1.1 200"));
        assert!(get(at, "GET /metrics").await?.contains("portcullis_build_info"));
        assert!(get(at, "GET /.well-known/jwks.json").await?.ends_with("{\"keys\":[]}"));
        assert!(get(at, "POST /metrics").await?.starts_with("HTTP/1.1 405"));
        assert!(get(at, "GET /else").await?.starts_with("HTTP/1.1 404"));
        let long = format!("GET /{}", "x".repeat(20_000));
        assert!(get(at, &long).await.map_or(true, |answer| answer.starts_with("HTTP/1.1 4")));
        Ok(())
    }
}
