//! Connections that become something else: WebSocket and what else is allowed, over HTTP/1.1 and as extended CONNECT
//! (RFC 8441), in any combination of both sides.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::counter::Counter;

use super::answer::Problem;
use super::body::{self, Fate};
use super::fields;
use super::message::Message;
use super::plan::is_settled;
use super::pool::{Lease, Pool};
use super::request::{Answer, Record, returned};
use super::view::View;
use super::{Connection, Way};
use crate::proxy::now::{changed, still_trusted};
use crate::proxy::plan::Upstream;
use crate::proxy::record::{self, About};
use crate::proxy::standing;
use crate::proxy::tcp::{End, Forwarded, Life, forward};
use crate::refusal::Denied;

/// What a client wants its connection to become.
pub(super) struct Wanted {
    protocol: String,
    on: OnUpgrade,
    /// The key that a client of WebSocket gave: every one of HTTP/1.1.
    key: Option<HeaderValue>,
}

/// Reads the wish. What is not allowed over HTTP/1.1 is an ordinary request (RFC 9110 7.8), over HTTP/2 there is none.
pub(super) fn wanted(parts: &mut Parts, allowed: &[String]) -> Result<Option<Wanted>, Problem> {
    let known = |protocol: &str| allowed.iter().any(|allowed| allowed == protocol);
    if let Some(protocol) = parts.extensions.get::<Protocol>().map(|protocol| protocol.as_str().to_ascii_lowercase()) {
        if parts.method != Method::CONNECT || !known(&protocol) {
            return Err(Problem::denied(StatusCode::NOT_IMPLEMENTED, format!("no connection here becomes {protocol:?}")));
        }
        // RFC 8441 has no use for a key; Envoy passes on that of its own client, and waits for the answer to it.
        let key = parts.headers.get(SEC_WEBSOCKET_KEY).filter(|key| is_key(key)).cloned();
        return Ok(taken(parts, protocol, key));
    }
    let Some(protocol) = fields::wanted_upgrade(&parts.headers).filter(|protocol| parts.method == Method::GET && known(protocol)) else { return Ok(None) };
    if fields::announce_body(&parts.headers) {
        return Err(Problem::request(StatusCode::BAD_REQUEST, "an upgrade with a body"));
    }
    let key = parts.headers.get(SEC_WEBSOCKET_KEY).cloned();
    if protocol == "websocket" && !key.as_ref().is_some_and(is_key) {
        return Err(Problem::request(StatusCode::BAD_REQUEST, "a WebSocket request without a key"));
    }
    Ok(taken(parts, protocol, key))
}

fn taken(parts: &mut Parts, protocol: String, key: Option<HeaderValue>) -> Option<Wanted> {
    let on = parts.extensions.remove::<OnUpgrade>()?;
    Some(Wanted { protocol, on, key })
}

fn is_key(key: &HeaderValue) -> bool {
    data_encoding::BASE64.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16)
}

/// Asks the upstream, and if it agrees, forwards bytes until both sides are done.
pub(super) async fn serve(
    (connection, view): (&Arc<Connection>, &View),
    pool: &Arc<Pool>,
    mut parts: Box<Parts>,
    wanted: Wanted,
    (authority, path): (String, PathAndQuery),
    (record, key): (&mut Record, u64),
) -> Result<Response<Answer>, Problem> {
    let version = parts.version;
    connection.patient()?;
    let begun =
        Begun { authority: authority.clone(), path: path.path().to_owned(), protocol: wanted.protocol.clone(), upstream: Arc::clone(&pool.backend.upstream) };
    parts.uri = hyper::Uri::default();
    parts.extensions.clear();
    parts.headers.remove(CONTENT_LENGTH);
    let message = Message::new(Request::from_parts(*parts, body::empty()), &authority, path).upgrading(&wanted.protocol);
    let (response, lease) = pool.send(&connection.admitted, message, key).await.map_err(|failure| Problem::of(&failure, &Fate::default()))?;
    record.sent_to(&lease);
    let agreed = match response.version() {
        Version::HTTP_2 => response.status().is_success(),
        _ => response.status() == StatusCode::SWITCHING_PROTOCOLS && same_protocol(response.headers(), &wanted.protocol),
    };
    if !agreed {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Problem::new(StatusCode::BAD_GATEWAY, "http_upgrade_failed", "the upstream switched to another protocol than asked for"));
        }
        if version == Version::HTTP_2 && response.status().is_success() {
            // To a client of HTTP/2 that would say that the upstream agreed (RFC 8441 5).
            return Err(Problem::new(StatusCode::BAD_GATEWAY, "http_upgrade_failed", "the upstream answered and did not switch protocols"));
        }
        record.holds(lease);
        return Ok(returned(&view.site, response)?.map(|incoming| Answer::Upstream(incoming, Arc::clone(&view.clean))));
    }
    let mut response = returned(&view.site, response)?;
    let upstream = hyper::upgrade::on(&mut response);
    let answer = agreement(response, version, &wanted)?;
    connection.patient()?;
    if version != Version::HTTP_2 {
        connection.gauge.release();
    }
    tunnel(connection, (wanted.on, upstream), lease, begun);
    Ok(answer)
}

fn same_protocol(fields: &HeaderMap, protocol: &str) -> bool {
    fields::words(fields, &UPGRADE).any(|word| word.eq_ignore_ascii_case(protocol))
}

/// What the client is told, in its own version's way.
fn agreement(response: Response<Incoming>, version: Version, wanted: &Wanted) -> Result<Response<Answer>, Problem> {
    let (mut parts, _) = response.into_parts();
    parts.extensions.clear();
    let fields = &mut parts.headers;
    for name in [CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, HeaderName::from_static("keep-alive")] {
        fields.remove(name);
    }
    fields.extend(wanted.key.as_ref().and_then(accept).map(|accept| (SEC_WEBSOCKET_ACCEPT, accept)));
    if version == Version::HTTP_2 {
        parts.status = StatusCode::OK;
        return Ok(Response::from_parts(parts, Answer::Own(body::empty())));
    }
    parts.status = StatusCode::SWITCHING_PROTOCOLS;
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.extend(HeaderValue::from_str(&wanted.protocol).ok().map(|protocol| (UPGRADE, protocol)));
    Ok(Response::from_parts(parts, Answer::Own(body::empty())))
}

/// The answer to a WebSocket client's key (RFC 6455 4.2.2). SHA-1 proves here that the server read the request, no more.
fn accept(key: &HeaderValue) -> Option<HeaderValue> {
    const SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(SUFFIX);
    HeaderValue::try_from(data_encoding::BASE64.encode(context.finish().as_ref())).ok()
}

/// What a tunnel was begun for: it lives as long as that would be allowed anew.
struct Begun {
    authority: String,
    path: String,
    protocol: String,
    upstream: Arc<Upstream>,
}

impl Begun {
    fn may_go_on(&self, connection: &Connection, view: &View) -> Result<(), Denied> {
        let site = &view.site;
        if site.plan.reads_paths() && !is_settled(&self.path) {
            return Err(changed("listener.route", "a path that everybody reads as the same"));
        }
        let Some(Way::Pool(pool)) = site.route(&self.authority, &self.path, &Method::GET) else {
            return Err(changed("listener.route", "a route for this request"));
        };
        if !site.plan.upgrades.contains(&self.protocol) {
            return Err(changed("listener.upgrades", "the protocol of this connection"));
        }
        if !connection.may(&site.plan, &Method::GET, &self.path) {
            return Err(changed("listener.allow", "a rule that lets this client make this call"));
        }
        still_trusted(&self.upstream, &pool.backend.upstream)
    }
}

/// Forwards in the background, as long as the far end's verdict holds; the connection waits for it.
fn tunnel(connection: &Arc<Connection>, (downstream, upstream): (OnUpgrade, OnUpgrade), lease: Lease, begun: Begun) {
    let end = lease.end().map_or(connection.end, |end| connection.end.min(end.into()));
    let life = Life { idle: connection.around.limits.idle, end };
    let shared = Arc::clone(connection);
    connection.spawn(async move {
        let (Ok(downstream), Ok(upstream)) = tokio::join!(downstream, upstream) else { return };
        let (mut downstream, mut upstream) = (TokioIo::new(downstream), TokioIo::new(upstream));
        let (mut forwarded, uncounted) = (Forwarded::default(), Counter::default());
        let around = &shared.around;
        let address = lease.spot().to_string();
        let about = About { listener: &around.listener, peer: &shared.from, address: &address, ground: lease.ground(), ..About::default() };
        let ended = tokio::select! {
            biased;
            denied = shared.overruled(|view| begun.may_go_on(&shared, view)) => {
                record::withdrawn(&around.parts.metrics, &about, End::Downstream, &denied);
                "withdrawn".to_owned()
            }
            ended = lease.ended(&around.parts.clock) => match ended {
                standing::Ended::Expired => "at the end of its permitted life".to_owned(),
                standing::Ended::Withdrawn(denied) => {
                    record::withdrawn(&around.parts.metrics, &about, End::Upstream, &denied);
                    "withdrawn".to_owned()
                }
            },
            // The bytes are counted on the wire.
            ended = forward((&mut downstream, &mut upstream), life, (&uncounted, &uncounted), &mut forwarded) => ended.to_string(),
        };
        tracing::debug!(target: "connection", event = "tunnel_ended", listener = around.listener, up = forwarded.up, down = forwarded.down, ended);
        drop(lease);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accepting_word_is_that_of_rfc_6455() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert!(is_key(&key) && !is_key(&HeaderValue::from_static("c2hvcnQ=")));
        assert_eq!(accept(&key), Some(HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
    }
}
