//! Asks an HTTP server for one item: bounded in octets and time, without redirects, over TLS 1.3.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{ServerName, TrustAnchor};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::item::MAX_ITEM;
use super::source::Failure;
use crate::evidence::Timestamp;

/// How the headers' names end in which services give the signer's chain: URL-encoded PEM.
const ISSUER_CHAIN: &str = "-issuer-chain";

/// A longer wait than this is not believed: the source is asked again then.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The address of a server, with the path that comes before an item's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    tls: bool,
    host: String,
    port: u16,
    prefix: String,
}

impl Address {
    /// Reads `https://HOST[:PORT][/PREFIX]`; `http://` too, which the caller must permit: see [`Address::is_private`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: hyper::Uri = text.parse().map_err(|error| format!("{text} is no address: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{text} does not begin with https://")),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| format!("{text} names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(format!("{text} has more than a host, a port and a path"));
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port, prefix: uri.path().trim_end_matches('/').to_owned() })
    }

    /// Whether nobody on the way can change what is served: TLS, or a server on this machine.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.tls || self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.prefix)
    }
}

/// How servers are reached.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Roots of the servers' certificates beside the public ones.
    pub roots: Vec<TrustAnchor<'static>>,
    /// A proxy that is asked to CONNECT to what is not on this machine.
    pub proxy: Option<Address>,
    /// One request takes no longer.
    pub timeout: Duration,
}

impl Default for Reach {
    /// The public roots, no proxy, 10 s.
    fn default() -> Self {
        Self { roots: Vec::new(), proxy: None, timeout: Duration::from_secs(10) }
    }
}

/// What a server gave.
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    /// The PEM chain of who signed the body, where the server gives one.
    pub(super) chain: Option<String>,
}

/// Asks servers.
#[derive(Clone)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
    proxy: Option<Address>,
    timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("proxy", &self.proxy).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(reach: Reach) -> Result<Self, rustls::Error> {
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.iter().cloned().chain(reach.roots).collect() };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls), proxy: reach.proxy, timeout: reach.timeout })
    }

    /// The longest that one question takes.
    pub(super) const fn patience(&self) -> Duration {
        self.timeout
    }

    /// Asks for `path` at `server`. `now` is for dates in `Retry-After`.
    pub(super) async fn ask(&self, server: &Address, path: &str, now: Timestamp) -> Result<Answer, Failure> {
        match tokio::time::timeout(self.timeout, self.asked(server, path, now)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Timeout(self.timeout)),
        }
    }

    async fn asked(&self, server: &Address, path: &str, now: Timestamp) -> Result<Answer, Failure> {
        match &self.proxy {
            Some(proxy) if server.tls && !loopback(server) => {
                let tunnel = connect(proxy).await?;
                let tunnel = tunnelled(tunnel, server).await?;
                self.over_tls(tunnel, server, path, now).await
            }
            _ if server.tls => self.over_tls(connect(server).await?, server, path, now).await,
            _ => fetch(connect(server).await?, server, path, now).await,
        }
    }

    async fn over_tls<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        server: &Address,
        path: &str,
        now: Timestamp,
    ) -> Result<Answer, Failure> {
        let name = ServerName::try_from(server.host.clone()).map_err(|error| Failure::Connection(error.to_string()))?;
        let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.map_err(|error| Failure::Connection(error.to_string()))?;
        fetch(tls, server, path, now).await
    }
}

fn loopback(server: &Address) -> bool {
    Address { tls: false, ..server.clone() }.is_private()
}

async fn connect(server: &Address) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await;
    stream.map_err(|error| Failure::Connection(format!("{}: {error}", server.authority())))
}

/// Asks a proxy for a way to `server`.
async fn tunnelled(stream: TcpStream, server: &Address) -> Result<TokioIo<hyper::upgrade::Upgraded>, Failure> {
    let broken = |error: hyper::Error| Failure::Connection(format!("proxy: {error}"));
    let (mut sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection.with_upgrades());
    let authority = server.authority();
    let request = Request::builder().method(Method::CONNECT).uri(&authority).header(header::HOST, &authority).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| Failure::Connection(format!("proxy: {error}")))?;
    let answer = sender.send_request(request).await.map_err(broken)?;
    if answer.status() != StatusCode::OK {
        return Err(Failure::Connection(format!("the proxy answered {}", answer.status())));
    }
    hyper::upgrade::on(answer).await.map(TokioIo::new).map_err(broken)
}

async fn fetch<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, server: &Address, path: &str, now: Timestamp) -> Result<Answer, Failure> {
    let broken = |error: hyper::Error| Failure::Connection(error.to_string());
    let (mut sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let connection = tokio::spawn(connection);
    let answer = exchange(&mut sender, server, path, now).await;
    // One request a connection: items are asked for rarely.
    connection.abort();
    answer
}

async fn exchange(sender: &mut http1::SendRequest<Empty<Bytes>>, server: &Address, path: &str, now: Timestamp) -> Result<Answer, Failure> {
    let broken = |error: hyper::Error| Failure::Connection(error.to_string());
    let request = Request::builder()
        .uri(format!("{}{path}", server.prefix))
        .header(header::HOST, server.authority())
        .header(header::USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|error| Failure::Unusable(format!("{path} is no path: {error}")))?;
    let answer = sender.send_request(request).await.map_err(broken)?;
    let (status, headers) = (answer.status(), answer.headers());
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND | StatusCode::GONE => return Err(Failure::Absent),
        StatusCode::TOO_MANY_REQUESTS => return Err(Failure::Throttled(retry_after(headers, now))),
        _ if status.is_server_error() => return Err(Failure::Server(status.as_u16(), retry_after(headers, now))),
        _ => return Err(Failure::Refused(status.as_u16())),
    }
    let chains = headers.iter().filter(|(name, _)| name.as_str().ends_with(ISSUER_CHAIN));
    let chain = chains.map(|(_, value)| chain(value)).next().transpose()?;
    let body = Limited::new(answer.into_body(), MAX_ITEM).collect().await.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(error) => Failure::Connection(format!("the answer ended early: {error}")),
        Err(_) => Failure::Unusable(format!("more than {MAX_ITEM} octets")),
    })?;
    Ok(Answer { body: body.to_bytes().to_vec(), chain })
}

/// The URL-encoded PEM of a chain header.
fn chain(value: &header::HeaderValue) -> Result<String, Failure> {
    let unusable = || Failure::Unusable("an issuer chain header that is not URL-encoded PEM".to_owned());
    let mut decoded = Vec::with_capacity(value.len());
    let mut octets = value.as_bytes().iter();
    while let Some(octet) = octets.next() {
        decoded.push(match octet {
            b'%' => {
                let digits = [*octets.next().ok_or_else(unusable)?, *octets.next().ok_or_else(unusable)?];
                let octet = data_encoding::HEXLOWER_PERMISSIVE.decode(&digits).map_err(|_| unusable())?;
                *octet.first().ok_or_else(unusable)?
            }
            other => *other,
        });
    }
    String::from_utf8(decoded).ok().filter(|text| text.contains("-----BEGIN CERTIFICATE-----")).ok_or_else(unusable)
}

/// Seconds, or a date as HTTP writes them.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc2822).ok()?;
            Duration::from_secs(u64::try_from(date.unix_timestamp()).ok()?.saturating_sub(now.0))
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_and_this_machine_are_private() {
        for (text, private) in [
            ("https://pccs.example:8081/x/", true),
            ("http://127.0.0.1:80", true),
            ("http://[::1]:8080", true),
            ("http://localhost", true),
            ("http://pccs.example", false),
            ("http://127.0.0.1.example", false),
        ] {
            assert_eq!(Address::parse(text).unwrap().is_private(), private, "{text}");
        }
        assert_eq!(Address::parse("https://a.example/b/").unwrap().to_string(), "https://a.example:443/b");
        for text in ["ftp://a", "a.example", "https://", "https://user@a", "https://a/?b=c"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_wait_is_read_in_both_forms_and_bounded() {
        let now = Timestamp::parse("2026-11-24T08:00:00Z").unwrap();
        let of = |text: &str| retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]), now);
        assert_eq!(of("10"), Some(Duration::from_secs(10)));
        assert_eq!(of("Tue, 24 Nov 2026 08:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(of("Tue, 24 Nov 2020 08:00:30 GMT"), Some(Duration::ZERO));
        assert_eq!(of("99999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(of("soon"), None);
    }

    #[test]
    fn a_chain_header_is_decoded() {
        let of = |text: &str| chain(&text.parse().unwrap());
        assert_eq!(of("-----BEGIN%20CERTIFICATE-----%0AAA%2B").unwrap(), "-----BEGIN CERTIFICATE-----\nAA+");
        assert!(of("-----BEGIN%2").is_err() && of("nothing").is_err());
    }
}
