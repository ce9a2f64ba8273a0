//! What an HTTP listener is told to do, as typed values. The caller has checked them.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;

use crate::acme::Tokens;
use crate::proxy::plan::{Network, Upstream};
use crate::tls::Identity;

/// What is done with the requests of one listener.
#[derive(Clone, Debug)]
pub struct Site {
    /// The first that fits decides; a request that none fits is refused.
    pub routes: Vec<Route>,
    /// What an attested client may call. Empty: everything; otherwise only what one of them allows.
    pub allow: Vec<Allow>,
    /// How the application is told who the client is.
    pub identity: Vec<IdentityHeader>,
    /// How tokens are made out, with [`IdentityHeader::Token`].
    pub tokens: Option<super::token::Tokens>,
    /// Further header fields that are stripped from requests and responses, in lower case.
    pub strip: Vec<String>,
    /// Peers whose forwarding fields are kept.
    pub trusted_proxies: Vec<Network>,
    /// The protocols that a connection may be upgraded to, in lower case.
    pub upgrades: Vec<String>,
    /// What a CA may ask for by HTTP-01, before anything else is done with a request.
    pub challenges: Option<Tokens>,
    /// Where applications may CONNECT to; empty: nowhere.
    pub destinations: crate::proxy::choice::Destinations,
    /// Evidence for browsers, where it is served.
    pub evidence: Option<WebEvidence>,
    /// What one request, and all together, may take.
    pub limits: HttpLimits,
}

/// The evidence endpoint (PROTOCOL 3.9).
#[derive(Clone, Debug)]
pub struct WebEvidence {
    /// Where it is served.
    pub path: String,
    /// Whose evidence: what the listener presents.
    pub identity: Identity,
    /// Answers to one address in a second.
    pub per_source: u32,
    /// Answers in a second.
    pub total: u32,
}

/// Requests of a kind, and where they go.
#[derive(Clone, Debug)]
pub struct Route {
    /// Hosts, in lower case; `*.example.org` stands for one label and more. Empty: any.
    pub hosts: Vec<String>,
    /// Paths; see [`Pattern`]. Empty: any.
    pub paths: Vec<Pattern>,
    /// Methods. Empty: any.
    pub methods: Vec<Method>,
    /// Where they go.
    pub to: To,
}

/// Where a route leads.
#[derive(Clone, Debug)]
pub enum To {
    /// To an upstream.
    Backend(Arc<Backend>),
    /// To the same address by `https`, with 308.
    RedirectToHttps,
}

/// A path, or with an asterisk at its end everything that begins so.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern(String);

impl Pattern {
    /// Reads a pattern: it begins with `/` or is `*`; an asterisk may stand only at the end.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let body = text.strip_suffix('*').unwrap_or(text);
        let good = (text == "*" || text.starts_with('/')) && !body.contains('*') && body.bytes().all(|octet| octet.is_ascii_graphic());
        good.then(|| Self(text.to_owned()))
    }

    /// Whether it fits `path`.
    #[must_use]
    pub fn fits(&self, path: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(begin) => path.starts_with(begin),
            None => path == self.0,
        }
    }
}

/// Whether everybody reads `path` as the same: an application that resolves `..` as servers do, in any of its spellings
/// (`%2e`, behind `%2f` or a backslash, before a `;`), would serve another path than the one that was judged.
#[must_use]
pub fn is_settled(path: &str) -> bool {
    let octets = decoded(path.as_bytes());
    let name = |segment: &[u8]| segment.iter().position(|octet| *octet == b';').unwrap_or(segment.len());
    let dots = |segment: &[u8]| matches!(segment.get(..name(segment)), Some(b"." | b".."));
    !octets.contains(&0) && !octets.split(|octet| matches!(octet, b'/' | b'\\')).any(dots)
}

/// Percent-encoding undone once; what is none stays.
fn decoded(path: &[u8]) -> Vec<u8> {
    let digit = |octet: Option<&u8>| octet.and_then(|octet| char::from(*octet).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
    let (mut octets, mut rest) = (Vec::with_capacity(path.len()), path);
    while let Some((octet, behind)) = rest.split_first() {
        let pair = (*octet == b'%').then(|| digit(behind.first()).zip(digit(behind.get(1)))).flatten();
        octets.push(pair.map_or(*octet, |(high, low)| (high << 4) | low));
        rest = behind.get(if pair.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    octets
}

/// What clients of some policy entries may call.
#[derive(Clone, Debug)]
pub struct Allow {
    /// The policy entry's id; an asterisk at the end stands for anything.
    pub entry: String,
    /// Methods. Empty: any.
    pub methods: Vec<Method>,
    /// Paths. Empty: any.
    pub paths: Vec<Pattern>,
}

/// A form in which a verified identity is handed over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IdentityHeader {
    /// `Client-Cert` (RFC 9440).
    ClientCert,
    /// `X-Flashbots-Measurement` and `X-Flashbots-Attestation-Type`.
    Flashbots,
    /// `Attested-Peer`, a structured field.
    Structured,
    /// `Attested-Token`, a signed EAR.
    Token,
    /// `X-Forwarded-Client-Cert`, as Envoy writes it.
    Xfcc,
}

/// An upstream that speaks HTTP.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its targets, all speaking the same.
    pub upstream: Arc<Upstream>,
    /// Which HTTP plain targets speak. Attested ones agree on it in the handshake.
    pub speaks: Speaks,
    /// How a request finds its target.
    pub balance: Balance,
    /// Active health checks.
    pub health: Option<HealthCheck>,
    /// How long a target is left out after it could not be reached or was refused. Never longer than 5 s for a refusal.
    pub ejection: Duration,
    /// How many h2 streams a connection carries before another is opened.
    pub streams: usize,
    /// How many unused HTTP/1.1 connections to a target are kept, and for how long. None while sockets run short.
    pub idle_connections: usize,
    /// See [`Backend::idle_connections`].
    pub idle: Duration,
    /// Until the head of a response has to be there; `None` for no limit (streams of language models begin late).
    pub first_byte: Option<Duration>,
}

/// Which HTTP a plain target speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// How a request finds its target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Balance {
    /// By the client's address and the request's host, always the same while it is healthy.
    Hash,
    /// The better of two random ones.
    LeastRequest,
    /// One after the other.
    RoundRobin,
}

/// How targets are asked whether they are well.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    /// The path that is got; any 2xx or 3xx is well.
    pub path: String,
    /// How often.
    pub every: Duration,
}

/// What one request, and all of a listener together, may take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HttpLimits {
    /// Octets of a request's head. Default 32 KiB.
    pub header: usize,
    /// Octets of a request's body. Default: any number.
    pub body: Option<u64>,
    /// From the first octet of an HTTP/1.1 head to its last, and from connecting to the first. Default 10 s.
    pub request_header: Duration,
    /// How long a request's body may stand still. Default 60 s.
    pub request_body: Duration,
    /// Requests at a time on one HTTP/2 connection. Default 128.
    pub streams: u32,
    /// Requests of the listener at a time. Default 16,384.
    pub requests: usize,
    /// Requests of the listener in a second, on average. Default: any number.
    pub rate: Option<u32>,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            header: 32 * 1024,
            body: None,
            request_header: Duration::from_secs(10),
            request_body: Duration::from_secs(60),
            streams: 128,
            requests: 16_384,
            rate: None,
        }
    }
}

impl Site {
    /// Whether a request's path decides where it goes, or whether it may.
    #[must_use]
    pub fn reads_paths(&self) -> bool {
        self.routes.iter().any(|route| !route.paths.is_empty()) || self.allow.iter().any(|rule| !rule.paths.is_empty())
    }

    /// As [`Site::reads_paths`], of the method.
    #[must_use]
    pub fn reads_methods(&self) -> bool {
        self.routes.iter().any(|route| !route.methods.is_empty()) || self.allow.iter().any(|rule| !rule.methods.is_empty())
    }

    /// The upstreams it leads to.
    pub fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        let routed = self.routes.iter().filter_map(|route| match &route.to {
            To::Backend(backend) => Some(&*backend.upstream),
            To::RedirectToHttps => None,
        });
        routed.chain(self.destinations.upstreams().map(|upstream| &**upstream))
    }

    /// Everything goes to one backend, nothing else is set.
    #[must_use]
    pub fn to(backend: Backend) -> Self {
        let route = Route { hosts: Vec::new(), paths: Vec::new(), methods: Vec::new(), to: To::Backend(Arc::new(backend)) };
        Self {
            routes: vec![route],
            allow: Vec::new(),
            identity: Vec::new(),
            tokens: None,
            strip: Vec::new(),
            trusted_proxies: Vec::new(),
            upgrades: vec!["websocket".to_owned()],
            challenges: None,
            destinations: crate::proxy::choice::Destinations::default(),
            evidence: None,
            limits: HttpLimits::default(),
        }
    }
}

impl Backend {
    /// The defaults for an upstream.
    #[must_use]
    pub const fn of(upstream: Arc<Upstream>, speaks: Speaks) -> Self {
        Self {
            upstream,
            speaks,
            balance: Balance::RoundRobin,
            health: None,
            ejection: Duration::from_secs(5),
            streams: 100,
            idle_connections: 128,
            idle: Duration::from_secs(60),
            first_byte: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leads_elsewhere_in_any_spelling_is_not_settled() {
        for path in [
            "/api/../metrics",
            "/api/..",
            "/api/./x",
            "/api/%2e%2E/metrics",
            "/api/.%2e/metrics",
            "/api/..%2fmetrics",
            "/api%2f..%2fmetrics",
            "/api/..\\metrics",
            "/api%5C..%5Cmetrics",
            "/api/..;/metrics",
            "/api/..;x=1/metrics",
            "/api/..%3b/metrics",
            "/api//../metrics",
            "/api/x%00",
        ] {
            assert!(!is_settled(path), "{path}");
        }
        for path in ["/", "/api/x", "/api//x", "/a..b/..c/d../...", "/@scope%2fname", "/100%", "/%zz%2", "/a;b=../c", "/%252e%252e/", "*"] {
            assert!(is_settled(path), "{path}");
        }
    }
}
