//! The end that takes sessions: each stream becomes a connection to the listener's own upstream.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::watch;

use super::window::Window;
use super::{AUTHORITY, FRAME, Fate, HEAD, MOST_STREAMS, SEND_BUFFER, STREAM_WINDOW, Tunnel};
use crate::admin::metrics::Direction;
use crate::proxy::Phase;
use crate::proxy::accept::{Accepting, Carries, Counted};
use crate::proxy::admit::Admitted;
use crate::proxy::connection::{self, Outcome};
use crate::proxy::http::wire::{Gauge, Wire};
use crate::proxy::limits::network;
use crate::proxy::listen::Caller;
use crate::proxy::now::{Follows, Now, same_ground};
use crate::proxy::record::Pace;
use crate::proxy::standing;
use crate::proxy::stream::Stream;
use crate::proxy::tcp::{End, Ended, Forwarded};

/// A session that was admitted: what each connection in it has of it.
pub(in crate::proxy) struct Admission {
    pub(in crate::proxy) here: Admitted,
    pub(in crate::proxy) from: Caller,
    pub(in crate::proxy) alpn: Option<Vec<u8>>,
    pub(in crate::proxy) server_name: Option<String>,
    /// When it ends at the latest.
    pub(in crate::proxy) end: tokio::time::Instant,
    fate: Fate,
    taken: AtomicUsize,
    live: AtomicUsize,
    abandoned: AtomicUsize,
    /// Of what is written of connections in it that come to nothing.
    pub(in crate::proxy) pace: Pace,
}

/// How a session went.
#[derive(Debug)]
pub(in crate::proxy) struct Session {
    /// How it ended.
    pub(in crate::proxy) ended: Result<Ended, crate::refusal::Denied>,
    /// Connections that were in it.
    pub(in crate::proxy) connections: usize,
}

/// So many connections may be abandoned before they are answered, before it is looked at how many were not.
const ABANDONED: usize = 200;

/// Streams that were reset before we looked at them (CVE-2023-44487), and errors that we answer with a reset.
const RESETS: usize = 50;
const LOCAL_RESETS: usize = 100;

/// Takes the connections of an admitted session until it ends, its verdict holds no longer or the proxy ends.
pub(in crate::proxy) async fn serve(follows: Follows<'_>, (here, stream): (Admitted, Stream), from: &Caller, forwarded: &mut Forwarded) -> Session {
    let accepting = follows.accepting;
    let (limits, parts) = (&accepting.listener.limits, &accepting.parts);
    let _counted = parts.metrics.tunnel_session(&accepting.listener.name, Direction::Inbound);
    let (tell, fate) = watch::channel(None);
    let session = Arc::new(Admission {
        from: from.clone(),
        alpn: stream.alpn().map(<[u8]>::to_vec),
        server_name: stream.server_name().map(str::to_owned),
        end: tokio::time::Instant::now() + limits.max_connection,
        fate,
        taken: AtomicUsize::new(0),
        live: AtomicUsize::new(0),
        abandoned: AtomicUsize::new(0),
        pace: Pace::default(),
        here,
    });
    let gauge = Gauge::new();
    let wire = Wire::tunnels(stream, Arc::clone(&gauge));
    let ended = {
        let mut taking = Box::pin(take(accepting, follows.now.clone(), &session, wire));
        let ended = tokio::select! {
            biased;
            ended = Box::pin(session.here.ended(&parts.clock)) => Err(ended),
            ended = taking.as_mut() => Ok(ended),
        };
        if let Err(ended) = &ended {
            // Before its streams are lost with it.
            tell.send_replace(Some(ended.clone()));
        }
        ended
    };
    (forwarded.up, forwarded.down) = (gauge.received(), gauge.sent());
    session.pace.end(&accepting.listener.name, &from.name);
    if let Some(veto) = gauge.vetoed() {
        parts.metrics.limit_rejected(&accepting.listener.name, veto.name());
        tracing::warn!(target: "connection", event = "vetoed", listener = accepting.listener.name, peer = from.name, why = veto.name());
    }
    let ended = match ended {
        Ok(ended) => Ok(ended),
        Err(standing::Ended::Expired) => Ok(Ended::Expired),
        Err(standing::Ended::Withdrawn(denied)) => Err(denied),
    };
    Session { ended, connections: session.taken.load(Ordering::SeqCst) }
}

async fn take(accepting: &Arc<Accepting>, now: watch::Receiver<Now>, session: &Arc<Admission>, wire: Wire) -> Ended {
    let limits = &accepting.listener.limits;
    let lost = |error: h2::Error| Ended::Lost(End::Downstream, io::Error::other(error));
    let mut window = Window::first(session.from.source.map(network));
    let mut connection = match tokio::time::timeout(limits.handshake, settings(limits.streams, &window).handshake::<_, Bytes>(wire)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return lost(error),
        Err(_) => return Ended::Idle,
    };
    let (mut phase, mut latest, mut leaving, mut quiet_since) = (accepting.phase.clone(), now.clone(), false, Instant::now());
    // The other half is for the connections that are in it then.
    let farewell = tokio::time::Instant::now() + limits.max_connection / 2;
    let tick = (limits.idle / 4).clamp(Duration::from_millis(20), Duration::from_secs(5));
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                None => return Ended::Finished,
                Some(Err(error)) => return lost(error),
                Some(Ok((request, respond))) => {
                    begin(accepting, &now, session, request, respond);
                    if let Some(size) = window.fit(session.live.load(Ordering::SeqCst)) {
                        connection.set_target_window_size(size);
                    }
                }
            },
            () = tokio::time::sleep_until(session.end) => return Ended::Expired,
            _ = phase.wait_for(|phase| *phase != Phase::Running), if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
            }
            _ = latest.wait_for(|now| now.accepting.is_none()), if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
            }
            () = tokio::time::sleep_until(farewell), if !leaving => {
                leaving = true;
                connection.graceful_shutdown();
            }
            () = tokio::time::sleep(tick) => {
                if session.live.load(Ordering::SeqCst) > 0 {
                    quiet_since = Instant::now();
                }
                if quiet_since.elapsed() > limits.idle {
                    return Ended::Idle;
                }
            }
        }
        let (taken, abandoned) = (session.taken.load(Ordering::SeqCst), session.abandoned.load(Ordering::SeqCst));
        if abandoned > ABANDONED && abandoned.saturating_mul(2) > taken {
            accepting.parts.metrics.limit_rejected(&accepting.listener.name, "rapid_reset");
            return Ended::Lost(End::Downstream, io::Error::other("connections are begun to be abandoned"));
        }
    }
}

fn settings(streams: u32, window: &Window) -> server::Builder {
    let streams = streams.min(MOST_STREAMS);
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(streams).initial_window_size(STREAM_WINDOW).initial_connection_window_size(window.size());
    builder.max_frame_size(FRAME).max_header_list_size(HEAD).max_send_buffer_size(SEND_BUFFER);
    builder.max_pending_accept_reset_streams(RESETS).max_local_error_reset_streams(Some(LOCAL_RESETS));
    builder
}

/// A stream that asks for what there is gets a place and a task of its own, and goes where the listener leads now; others
/// are refused.
fn begin(was: &Arc<Accepting>, now: &watch::Receiver<Now>, session: &Arc<Admission>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    session.taken.fetch_add(1, Ordering::SeqCst);
    let Some(accepting) = now.borrow().accepting.clone().filter(|accepting| same_ground(&was.listener, &accepting.listener)) else {
        return respond.send_reset(Reason::REFUSED_STREAM);
    };
    let Carries::Tcp(upstream, _) = &accepting.carries else { return respond.send_reset(Reason::REFUSED_STREAM) };
    let (listener, metrics) = (accepting.listener.name.as_str(), &accepting.parts.metrics);
    if let Err((status, why)) = asks(&request) {
        metrics.limit_rejected(listener, "tunnel_request");
        if let Some(left_out) = session.pace.more() {
            tracing::warn!(target: "connection", event = "refused_stream", listener, peer = session.from.name, why, left_out);
        }
        answer(&mut respond, status);
        return;
    }
    let place = match accepting.places.take_within(&accepting.listener.limits, session.from.source) {
        Ok(place) => place,
        Err(full) => {
            metrics.limit_rejected(listener, full.name());
            if let Some(left_out) = session.pace.more() {
                tracing::warn!(target: "connection", event = "turned_away", listener, peer = session.from.name, limit = full.name(), left_out);
            }
            respond.send_reset(Reason::REFUSED_STREAM);
            return;
        }
    };
    let (counted, live) = (Counted::new(&accepting), Live::new(session));
    let (upstream, now) = (Arc::clone(upstream), now.clone());
    tokio::spawn(async move {
        let body = request.into_body();
        connection::within((&counted.0, now), &upstream, &live.0, (body, respond)).await;
        drop((live, place, counted));
    });
}

/// Counts the connections of a session that are open.
struct Live(Arc<Admission>);

impl Live {
    fn new(session: &Arc<Admission>) -> Self {
        session.live.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(session))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether a stream asks for the one thing there is. The peer's text goes nowhere.
fn asks(request: &Request<RecvStream>) -> Result<(), (StatusCode, &'static str)> {
    if request.method() != Method::CONNECT || request.extensions().get::<h2::ext::Protocol>().is_some() {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "it is no CONNECT"));
    }
    if request.uri().authority().is_none_or(|authority| authority.as_str() != AUTHORITY) {
        return Err((StatusCode::FORBIDDEN, "it names where to connect to, and that is not for the peer to say"));
    }
    Ok(())
}

fn answer(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // A peer that is gone needs none.
    let _ = respond.send_response(response, true);
}

impl Admission {
    /// Returns when the session's verdict holds no longer.
    pub(in crate::proxy) async fn ended(&self) -> standing::Ended {
        super::ended(self.fate.clone()).await
    }

    /// Answers a stream once `reaching` has its upstream, which may have to prove itself first; gives both ends.
    pub(in crate::proxy) async fn connect<T>(
        &self,
        reaching: impl Future<Output = Result<T, Outcome>>,
        (receive, mut respond): (RecvStream, SendResponse<Bytes>),
    ) -> Result<(Stream, T), Outcome> {
        let reached = tokio::select! {
            biased;
            reached = reaching => reached,
            reset = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {
                self.abandoned.fetch_add(1, Ordering::SeqCst);
                let error = reset.map_or_else(io::Error::other, |reason| io::Error::new(io::ErrorKind::ConnectionReset, reason.description()));
                return Err(Outcome::Forwarded(Ended::Lost(End::Downstream, error)));
            }
        };
        let reached = reached.inspect_err(|_| answer(&mut respond, StatusCode::BAD_GATEWAY))?;
        let send = respond.send_response(Response::new(()), false).map_err(|error| {
            self.abandoned.fetch_add(1, Ordering::SeqCst);
            Outcome::Forwarded(Ended::Lost(End::Downstream, super::io_error(error)))
        })?;
        Ok((Stream::Tunnel(Box::new(Tunnel::answered(send, receive))), reached))
    }
}
