//! A request between two connections: bound to neither version of HTTP.

use std::sync::Arc;

use hyper::body::Body as _;
use hyper::ext::Protocol;
use hyper::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE};
use hyper::http::uri::{Parts, PathAndQuery, Scheme};
use hyper::{Method, Request, Uri, Version};
use tokio::sync::watch;

use super::body::{self, Body};

/// A request to be sent to an upstream, its fields already those that go there. Boxed: it goes through many hands.
pub(super) struct Message {
    request: Request<Body>,
    rest: Rest,
}

/// What a request is beside what is in its fields.
#[derive(Clone)]
pub(super) struct Rest {
    /// The method as the client meant it; of an upgrade always GET.
    method: Method,
    authority: String,
    path: PathAndQuery,
    upgrade: Option<Arc<str>>,
    agreed: Option<watch::Sender<bool>>,
}

impl Rest {
    pub(super) fn with(self, request: Request<Body>) -> Box<Message> {
        Box::new(Message { request, rest: self })
    }
}

impl Message {
    /// A request to `authority`. `request` has its method, fields and body.
    pub(super) fn new(request: Request<Body>, authority: &str, path: PathAndQuery) -> Box<Self> {
        let method = request.method().clone();
        Box::new(Self { request, rest: Rest { method, authority: authority.to_owned(), path, upgrade: None, agreed: None } })
    }

    /// The same, asking to switch to another protocol.
    pub(super) fn upgrading(mut self: Box<Self>, protocol: &str) -> Box<Self> {
        self.rest.method = Method::GET;
        self.rest.upgrade = Some(protocol.into());
        self
    }

    /// The same, telling when the upstream agrees to its body.
    pub(super) fn telling(mut self: Box<Self>, agreed: watch::Sender<bool>) -> Box<Self> {
        self.rest.agreed = Some(agreed);
        self
    }

    /// A request of our own.
    pub(super) fn get(authority: &str, path: PathAndQuery) -> Box<Self> {
        Self::new(Request::new(body::empty()), authority, path)
    }

    pub(super) const fn is_upgrade(&self) -> bool {
        self.rest.upgrade.is_some()
    }

    pub(super) fn for_http1(self: Box<Self>) -> (Request<Body>, Rest) {
        let Self { mut request, rest } = *self;
        *request.version_mut() = Version::HTTP_11;
        *request.method_mut() = rest.method.clone();
        *request.uri_mut() = Uri::from(rest.path.clone());
        if rest.method == Method::OPTIONS && rest.path.as_str() == "*" {
            *request.uri_mut() = Uri::from_static("*");
        }
        if let Ok(host) = HeaderValue::from_str(&rest.authority) {
            request.headers_mut().insert(HOST, host);
        }
        if let Some(agreed) = rest.agreed.clone() {
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == hyper::StatusCode::CONTINUE {
                    agreed.send_replace(true);
                }
            });
        }
        // hyper takes a GET or HEAD that says no length for one without a body, and throws the body away.
        let chunked = !request.body().is_end_stream() && !request.headers().contains_key(CONTENT_LENGTH);
        let fields = request.headers_mut();
        if chunked {
            fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        join_cookies(fields);
        if let Some(protocol) = &rest.upgrade {
            fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            if let Ok(protocol) = HeaderValue::from_str(protocol) {
                fields.insert(UPGRADE, protocol);
            }
            if **protocol == *"websocket" {
                complete_websocket(fields);
            }
        }
        (request, rest)
    }

    pub(super) fn for_http2(self: Box<Self>, secure: bool) -> (Request<Body>, Rest) {
        let Self { mut request, rest } = *self;
        *request.version_mut() = Version::HTTP_2;
        *request.method_mut() = rest.method.clone();
        let mut parts = Parts::default();
        parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = rest.authority.parse().ok();
        parts.path_and_query = Some(rest.path.clone());
        // Without an authority the request fails where it is sent.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        let fields = request.headers_mut();
        // The last may be from a try over HTTP/1.1.
        for name in [HOST, CONNECTION, UPGRADE, HeaderName::from_static("keep-alive"), TRANSFER_ENCODING] {
            fields.remove(name);
        }
        if let Some(protocol) = &rest.upgrade {
            // Not used with HTTP/2 (RFC 8441 5).
            fields.remove(SEC_WEBSOCKET_KEY);
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(Protocol::from(&**protocol));
        }
        (request, rest)
    }
}

/// HTTP/2 may have a line for each cookie; HTTP/1.1 has one for all (RFC 9113 8.2.3), and applications read the first or the last.
fn join_cookies(fields: &mut hyper::HeaderMap) {
    let lines: Vec<&[u8]> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        fields.insert(COOKIE, whole);
    }
}

/// What a WebSocket client of HTTP/2 does not send and one of HTTP/1.1 must.
fn complete_websocket(fields: &mut hyper::HeaderMap) {
    if !fields.contains_key(SEC_WEBSOCKET_KEY) {
        let random = crate::tls::nonce().unwrap_or_default();
        let key = data_encoding::BASE64.encode(random.get(..16).unwrap_or_default());
        fields.extend(HeaderValue::try_from(key).ok().map(|key| (SEC_WEBSOCKET_KEY, key)));
    }
    fields.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
}
