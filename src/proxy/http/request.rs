//! The life of one request: everything that can refuse it, then the upstream, then the answer.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;
use std::time::Instant;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::watch;

use super::answer::{self, Problem};
use super::body::{self, Body, Clean, Downward, Gate, Held, Unread, Upward};
use super::evidence::{self, Asked};
use super::fields::{self, Came};
use super::message::Message;
use super::plan::is_settled;
use super::pool::Lease;
use super::target::Spot;
use super::view::{Left, View};
use super::{Connection, Running, connect, identity, upgrade};
use crate::proxy::admit::Ground;
use crate::refusal::{Denied, Finding, Reason};

/// What is known of a request, for its record; made when it comes, written when it is over.
pub(super) struct Record {
    connection: Arc<Connection>,
    method: Method,
    host: String,
    path: String,
    upstream: String,
    /// The target it was sent to.
    address: Option<At>,
    request_id: Option<HeaderValue>,
    status: u16,
    problem: Option<String>,
    finished: bool,
    started: Instant,
    /// Held to the end of the response.
    lease: Option<Lease>,
}

/// Where a request went; written out only for a log that is kept.
enum At {
    Named(String),
    Spot(Arc<Spot>),
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(target) => f.write_str(target),
            Self::Spot(spot) => spot.fmt(f),
        }
    }
}

impl Record {
    fn new(connection: &Arc<Connection>, parts: &Parts) -> Self {
        connection.begin();
        Self {
            connection: Arc::clone(connection),
            method: parts.method.clone(),
            host: String::new(),
            path: parts.uri.path().to_owned(),
            upstream: String::new(),
            address: None,
            request_id: None,
            status: 0,
            problem: None,
            finished: false,
            started: Instant::now(),
            lease: None,
        }
    }
}

impl Record {
    pub(super) fn sent_to(&mut self, lease: &Lease) {
        self.address = Some(At::Spot(Arc::clone(lease.spot())));
    }

    pub(super) fn to(&mut self, upstream: &str) {
        upstream.clone_into(&mut self.upstream);
    }

    pub(super) fn at(&mut self, target: String) {
        self.address = Some(At::Named(target));
    }

    pub(super) fn holds(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }
}

impl Held for Record {
    fn finished(&mut self) {
        self.finished = true;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.connection.over(self.finished);
        let elapsed = self.started.elapsed();
        if !tracing::enabled!(target: "access", tracing::Level::INFO) {
            return;
        }
        // Who asks for what is refused is not to fill the log with it.
        let Some(left_out) = self.problem.as_ref().map_or(Some(None), |_| self.connection.pace.more()) else { return };
        let address = self.address.as_ref().map(ToString::to_string).unwrap_or_default();
        let request_id = self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
        let (tier, entry) = self.connection.admitted.ground.told();
        tracing::info!(
            target: "access", event = "request", listener = self.connection.around.listener, peer = self.connection.from, tier, entry, method = self.method.as_str(),
            host = self.host, path = self.path, status = self.status, upstream = self.upstream, address, request_id,
            finished = self.finished, duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX), problem = self.problem.as_deref().unwrap_or_default(),
            left_out,
        );
    }
}

/// Serves one request. There is always an answer. What few requests need is boxed within: this is made for each.
pub(super) async fn serve(connection: Arc<Connection>, parts: Box<Parts>, incoming: Incoming) -> Result<Response<Body>, Infallible> {
    let (incoming, over) = Unread::new(incoming, parts.version);
    let mut record = Record::new(&connection, &parts);
    let form = answer::Form::of(&parts.method, &parts.headers);
    let view = connection.view();
    let becomes = becomes(view.as_deref().ok(), &parts);
    let mut response = match answered((&connection, view), parts, incoming, &mut record).await {
        Ok(response) => response.map(|body| match body {
            Answer::Upstream(incoming, clean) => Ok((incoming, clean)),
            Answer::Own(body) => Err(body),
        }),
        Err(problem) => {
            record.problem = Some(problem.detail.clone());
            Box::pin(over.briefly()).await;
            problem.answer(connection.audience(), form).map(Err)
        }
    };
    if becomes.is_some_and(|status| status != response.status()) {
        // What may follow was meant for what it should have become, perhaps by somebody else than who asked: no request of theirs.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    record.status = response.status().as_u16();
    if let Some(id) = &record.request_id {
        response.headers_mut().insert(fields::REQUEST_ID, id.clone());
    }
    Ok(response.map(|body| match body {
        Ok((incoming, clean)) => Downward::new(incoming, clean, record).boxed_unsync(),
        Err(body) => {
            record.finished();
            body
        }
    }))
}

/// Whether a request of HTTP/1.1 is to make something else of its connection, and the status that says so.
fn becomes(view: Option<&View>, parts: &Parts) -> Option<StatusCode> {
    if parts.version == Version::HTTP_2 {
        return None;
    }
    if parts.method == Method::CONNECT {
        return Some(StatusCode::OK);
    }
    let allowed = fields::wanted_upgrade(&parts.headers).is_some_and(|protocol| view.is_none_or(|view| view.site.plan.upgrades.contains(&protocol)));
    allowed.then_some(StatusCode::SWITCHING_PROTOCOLS)
}

/// Whose body an answer has.
pub(super) enum Answer {
    Own(Body),
    /// With what is removed from its trailers.
    Upstream(Incoming, Clean),
}

async fn answered(
    (connection, view): (&Arc<Connection>, Result<Arc<View>, Left>),
    mut parts: Box<Parts>,
    incoming: Unread,
    record: &mut Record,
) -> Result<Response<Answer>, Problem> {
    let view = view.map_err(Left::problem)?;
    let site = &view.site;
    // Before anything can refuse: who asks what became of a request has its id, whoever answered.
    let keep = connection.trusted(&site.plan) || !matches!(connection.admitted.ground, Ground::AnyClient(_));
    record.request_id = Some(fields::request_id(&mut parts.headers, keep, &site.lasting.ids));
    site.room()?;
    let authority = fields::authority(&parts).map_err(|why| Problem::request(StatusCode::BAD_REQUEST, why))?;
    record.host.clone_from(&authority);
    if fields::repeats_length(&parts.headers) {
        return Err(Problem::request(StatusCode::BAD_REQUEST, "more than one Content-Length"));
    }
    if matches!(parts.method, Method::TRACE) {
        return Err(Problem::denied(StatusCode::METHOD_NOT_ALLOWED, "TRACE would show the application's fields to whoever asks"));
    }
    if let Some(plan) = site.plan.evidence.as_ref().filter(|plan| plan.path == parts.uri.path()) {
        let asked =
            Asked { method: &parts.method, query: parts.uri.query(), source: connection.address, authority: &authority, key: connection.admitted.own.as_ref() };
        return Ok(Box::pin(evidence::answer(plan, &site.lasting.pace, asked)).await?.map(Answer::Own));
    }
    if let Some(answer) = challenge(site, &parts) {
        return Ok(answer.map(Answer::Own));
    }
    let wanted = upgrade::wanted(&mut parts, &site.plan.upgrades)?;
    if wanted.is_none() && parts.method == Method::CONNECT {
        if site.plan.destinations.is_empty() {
            return Err(Problem::denied(StatusCode::METHOD_NOT_ALLOWED, "this listener is no forward proxy"));
        }
        return Box::pin(connect::serve((connection, &view), *parts, &authority, record)).await;
    }
    if fields::looped(&parts.headers, &site.lasting.pseudonym) {
        return Err(Problem::new(StatusCode::LOOP_DETECTED, "proxy_loop_detected", "the request has been here before"));
    }
    let path = path_of(&parts)?;
    if site.plan.reads_paths() && !is_settled(path.path()) {
        return Err(Problem::request(StatusCode::BAD_REQUEST, "a path that an application may read as another"));
    }
    if site.plan.reads_methods() && fields::overrides_method(&parts.headers) {
        return Err(Problem::request(StatusCode::BAD_REQUEST, "a field that an application may read as another method"));
    }
    // A WebSocket of HTTP/2 is what a GET is in HTTP/1.1, and becomes one on the way.
    let method = if wanted.is_some() { &Method::GET } else { &parts.method };
    let proxied = parts.version != Version::HTTP_2 && parts.uri.scheme().is_some();
    let pool = match site.route(&authority, path.path(), method) {
        None => return Err(lost(connection, &authority, proxied)),
        Some(super::Way::RedirectToHttps) => {
            return Ok(answer::redirect(&format!("https://{}{path}", super::host_of(&authority))).map(Answer::Own));
        }
        Some(super::Way::Pool(pool)) => pool,
    };
    pool.name().clone_into(&mut record.upstream);
    if !connection.may(&site.plan, method, path.path()) {
        return Err(Problem::denied(StatusCode::FORBIDDEN, "no `allow` rule of this listener lets this client's entry make this call"));
    }
    let most = site.plan.limits.body;
    if let (Some(most), Some(length)) = (most, incoming.size_hint().exact())
        && length > most
    {
        return Err(Problem::request(StatusCode::PAYLOAD_TOO_LARGE, format!("a body of {length} octets; this listener takes {most} (limits.body)")));
    }
    prepare((connection, &view), &mut parts, &authority, record)?;
    let key = hash(&(connection.address, &authority));
    if let Some(wanted) = wanted {
        return Box::pin(upgrade::serve((connection, &view), pool, parts, wanted, (authority, path), (record, key))).await;
    }
    let expects = parts.headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let (agree, gate) = expects.then(|| watch::channel(false)).map(|(agree, agreed)| (agree, Gate::until(agreed))).unzip();
    let (upward, fate) = if incoming.is_end_stream() {
        (body::empty(), Arc::default())
    } else {
        let (upward, fate) = Upward::new(incoming, most, site.plan.limits.request_body, gate, Arc::clone(&view.clean));
        (upward.boxed_unsync(), fate)
    };
    parts.uri = hyper::Uri::default();
    parts.extensions.clear();
    let mut message = Message::new(Request::from_parts(*parts, upward), &authority, path);
    if let Some(agree) = agree {
        message = message.telling(agree);
    }
    let sending = Box::pin(pool.send(&connection.admitted, message, key));
    let (response, lease) = sending.await.map_err(|failure| Problem::of(&failure, &fate))?;
    record.sent_to(&lease);
    record.holds(lease);
    let response = returned(site, response)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Problem::new(StatusCode::BAD_GATEWAY, "http_protocol_error", "the upstream switched protocols unasked"));
    }
    Ok(response.map(|incoming| Answer::Upstream(incoming, Arc::clone(&view.clean))))
}

/// The answer to a CA that looks for one by HTTP-01 (RFC 8555 8.3).
fn challenge(site: &Running, parts: &Parts) -> Option<Response<Body>> {
    let token = parts.uri.path().strip_prefix("/.well-known/acme-challenge/").filter(|_| parts.method == Method::GET)?;
    let text = site.plan.challenges.as_ref()?.answer(token)?;
    let mut response = Response::new(body::full(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Some(response)
}

/// The fields that go to the upstream: what others say of themselves removed, what we know said.
fn prepare((connection, view): (&Connection, &View), parts: &mut Parts, authority: &str, record: &mut Record) -> Result<(), Problem> {
    let site = &view.site;
    let trusted = connection.trusted(&site.plan);
    let version = parts.version;
    let fields = &mut parts.headers;
    site.around.stripped(&identity::strip(fields, &site.plan.strip));
    fields::strip_hop(fields);
    fields::set_forwarding(fields, &Came { client: &connection.client, host: authority, trusted });
    fields::add_via(fields, version, &site.lasting.pseudonym);
    // What the operator strips is made anew.
    if !fields.contains_key(&fields::REQUEST_ID) {
        record.request_id = Some(fields::request_id(fields, false, &site.lasting.ids));
    }
    let now = site.around.parts.clock.now().map_err(|denied| internal(&denied))?;
    view.introduction.tell(fields, &connection.admitted, now).map_err(|denied| internal(&denied))
}

/// What comes back from an upstream, made fit for the client.
pub(super) fn returned(site: &Running, mut response: Response<Incoming>) -> Result<Response<Incoming>, Problem> {
    let version = response.version();
    let fields = response.headers_mut();
    if version != Version::HTTP_2 && fields.contains_key(TRANSFER_ENCODING) && fields.contains_key(CONTENT_LENGTH) {
        return Err(Problem::new(StatusCode::BAD_GATEWAY, "http_protocol_error", "the upstream gave both Content-Length and Transfer-Encoding"));
    }
    if fields::repeats_length(fields) {
        return Err(Problem::new(StatusCode::BAD_GATEWAY, "http_protocol_error", "the upstream gave more than one Content-Length"));
    }
    site.around.stripped(&identity::strip(fields, &site.plan.strip));
    fields::strip_hop(fields);
    fields::add_via(fields, version, &site.lasting.pseudonym);
    response.extensions_mut().remove::<hyper::ext::ReasonPhrase>();
    Ok(response)
}

/// The target's path and query; an asterisk of `OPTIONS *` stays one.
fn path_of(parts: &Parts) -> Result<PathAndQuery, Problem> {
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let plain = path.as_str() == "*" && parts.method == Method::OPTIONS;
    if plain || path.as_str().starts_with('/') { Ok(path) } else { Err(Problem::request(StatusCode::BAD_REQUEST, "a target without a path")) }
}

/// No route fits. A client that reuses a connection for another host is told to make a new one (RFC 9110 15.5.20), and one
/// that takes us for a forward proxy that it may not go there.
fn lost(connection: &Connection, authority: &str, proxied: bool) -> Problem {
    if proxied {
        let found = authority.to_owned();
        let denied: Denied = Finding::new(Reason::DestinationUnknown, "destination", "a host that a route of the listener fits", found).into();
        connection.around.parts.metrics.refused(&connection.around.listener, "downstream", denied.reason().code());
        return Problem::forbidden(&denied);
    }
    let host = super::host_of(authority);
    let other = connection.server_name.as_deref().is_some_and(|name| !name.eq_ignore_ascii_case(host));
    let status = if other { StatusCode::MISDIRECTED_REQUEST } else { StatusCode::NOT_FOUND };
    Problem::new(status, "destination_not_found", format!("no route of this listener fits a request to {authority:?}"))
}

pub(super) fn internal(denied: &Denied) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "proxy_internal_error", denied.to_string())
}

fn hash(key: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
