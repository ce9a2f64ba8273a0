//! The life of one connection, top to bottom: gather, everything that can refuse, forward; one record at the end.

use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::watch;

use super::admit::{self, Admitted, Ground, Refused, Surroundings};
use super::limits::HandshakePlace;
use super::listen::From;
use super::plan::{Listener, Originate, Terminate};
use super::standing;
use super::stream::{Socket, Stream};
use super::tcp::{End, Ended, Forwarded, Life, forward};
use super::upstream::{Dialled, Unreachable, dial};
use super::{Parts, Phase};
use crate::admin::metrics::{Direction, ListenerMetrics};
use crate::refusal::{Denied, Finding, Reason};
use crate::tls::{self, ClientSide, ServerSide};

/// How a connection ended.
#[derive(Debug)]
enum Outcome {
    /// The proxy stopped before it did.
    Cut,
    /// It was forwarded.
    Forwarded(Ended),
    /// An end was refused: nothing was forwarded.
    Refused(End, Denied),
    /// No target could be reached: nothing was forwarded.
    Unreachable(Vec<(String, io::Error)>),
    /// It was forwarded until this end would have been refused.
    Withdrawn(End, Denied),
}

/// What is known of a connection as it goes, for its record.
#[derive(Debug, Default)]
struct Known {
    downstream: Option<Ground>,
    upstream: Option<Ground>,
    target: Option<String>,
    forwarded: Forwarded,
}

/// Serves one connection to its end. Dropping the future resets both sides.
pub(super) async fn serve(
    listener: &Listener,
    parts: &Parts,
    counters: &ListenerMetrics,
    (socket, from): (Socket, From),
    place: HandshakePlace,
    mut phase: watch::Receiver<Phase>,
) {
    let started = Instant::now();
    let mut known = Known::default();
    let outcome = tokio::select! {
        biased;
        outcome = live(listener, parts, counters, socket, place, &mut known) => outcome,
        () = cut(&mut phase) => Outcome::Cut,
    };
    match &outcome {
        Outcome::Refused(end, denied) => parts.metrics.refused(&listener.name, end.name(), denied.reason().code()),
        Outcome::Withdrawn(end, denied) => parts.metrics.withdrawn(&listener.name, end.name(), denied.reason().code()),
        _ => {}
    }
    record(listener, &from, &known, &outcome, started);
}

async fn cut(phase: &mut watch::Receiver<Phase>) {
    // An error means that the proxy itself is gone.
    let _ = phase.wait_for(|phase| *phase == Phase::Cut).await;
}

async fn live(listener: &Listener, parts: &Parts, counters: &ListenerMetrics, socket: Socket, place: HandshakePlace, known: &mut Known) -> Outcome {
    // Boxed: the handshakes' state is large and the connection outlives it.
    let blamed = if matches!(listener.terminate, Terminate::Plain) { End::Upstream } else { End::Downstream };
    let ready = unpanicked(Box::pin(admit_both(listener, parts, socket, known)), blamed).await;
    drop(place);
    let Ready { here, there, mut downstream, mut upstream } = match ready {
        Ok(ready) => ready,
        Err(outcome) => return outcome,
    };
    let life = Life { idle: listener.limits.idle, end: tokio::time::Instant::now() + listener.limits.max_connection };
    let ended = tokio::select! {
        biased;
        // Boxed: hardly ever polled, and the streams are what the connection's memory is for.
        (end, ended) = Box::pin(either(&here, there.as_ref(), parts)) => match ended {
            standing::Ended::Expired => return Outcome::Forwarded(Ended::Expired),
            standing::Ended::Withdrawn(denied) => return Outcome::Withdrawn(end, denied),
        },
        ended = forward((&mut downstream, &mut upstream), life, (&counters.received, &counters.sent), &mut known.forwarded) => ended,
    };
    if matches!(ended, Ended::Finished) {
        downstream.finish();
        upstream.finish();
    }
    Outcome::Forwarded(ended)
}

/// A connection with both ends admitted.
struct Ready {
    here: Admitted,
    there: Option<Admitted>,
    downstream: Stream,
    upstream: Stream,
}

/// Returns when the verdict about an end holds no longer.
async fn either(here: &Admitted, there: Option<&Admitted>, parts: &Parts) -> (End, standing::Ended) {
    let far = async {
        match there {
            Some(there) => there.ended(&parts.clock).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = here.ended(&parts.clock) => (End::Downstream, ended),
        ended = far => (End::Upstream, ended),
    }
}

/// A panic on what a peer sent is a fault of ours, and refuses that peer as any other finding does: with a record.
async fn unpanicked<T>(mut work: Pin<Box<impl Future<Output = Result<T, Outcome>>>>, blamed: End) -> Result<T, Outcome> {
    let fault = || {
        let found = "a panic, which is a fault of this program: please report it";
        Finding::new(Reason::EvidenceMalformed, "connection", "a verdict", found)
    };
    let mut poll = |cx: &mut Context<'_>| catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
    poll_fn(|cx| poll(cx).unwrap_or_else(|_| Poll::Ready(Err(Outcome::Refused(blamed, fault().into()))))).await
}

/// Everything that can refuse, in the one order: the peer that came, the upstream's socket, the peer behind it.
async fn admit_both(listener: &Listener, parts: &Parts, socket: Socket, known: &mut Known) -> Result<Ready, Outcome> {
    let (here, downstream) = match &listener.terminate {
        Terminate::Plain => (admit::local(), Stream::Plain(socket)),
        Terminate::Attested(side) => inbound(listener, side, parts, socket).await.map_err(|denied| Outcome::Refused(End::Downstream, denied))?,
    };
    known.downstream = Some(here.ground.clone());
    let Dialled { socket, target, admitted: here } = dial(&listener.upstream, here).await.map_err(|Unreachable(tried)| {
        parts.metrics.upstream_connect(&listener.upstream.name, "unreachable");
        Outcome::Unreachable(tried)
    })?;
    parts.metrics.upstream_connect(&listener.upstream.name, "ok");
    known.target = Some(target);
    let (there, upstream) = match &listener.upstream.originate {
        Originate::Plain => (None, Stream::Plain(socket)),
        Originate::Attested(side) => {
            let (there, stream) = outbound(listener, side, parts, socket).await.map_err(|denied| Outcome::Refused(End::Upstream, denied))?;
            (Some(there), stream)
        }
    };
    known.upstream = there.as_ref().map(|there| there.ground.clone());
    Ok(Ready { here, there, downstream, upstream })
}

async fn inbound(listener: &Listener, side: &ServerSide, parts: &Parts, socket: Socket) -> Result<(Admitted, Stream), Denied> {
    let handshake = in_time(listener, tls::accept(side, socket)).await;
    counted(listener, parts, Direction::Inbound, &handshake);
    opened(admit::client(side, handshake?, surroundings(listener, parts)).await)
}

async fn outbound(listener: &Listener, side: &ClientSide, parts: &Parts, socket: Socket) -> Result<(Admitted, Stream), Denied> {
    let handshake = in_time(listener, tls::connect(side, socket)).await;
    counted(listener, parts, Direction::Outbound, &handshake);
    opened(admit::server(side, handshake?, surroundings(listener, parts)).await)
}

fn opened(decided: Result<admit::Opened<Socket>, Refused<Socket>>) -> Result<(Admitted, Stream), Denied> {
    match decided {
        Ok((admitted, stream)) => Ok((admitted, Stream::Tls(stream))),
        Err(Refused { denied, mut socket }) => {
            // It was told and had its time to read it.
            socket.finish();
            Err(denied)
        }
    }
}

fn surroundings<'a>(listener: &Listener, parts: &'a Parts) -> Surroundings<'a> {
    Surroundings { clock: &parts.clock, metrics: &parts.metrics, limit: listener.limits.exchange }
}

async fn in_time<T>(listener: &Listener, handshake: impl Future<Output = Result<T, Denied>>) -> Result<T, Denied> {
    let limit = listener.limits.handshake;
    let late = || Finding::new(Reason::Timeout, "handshake", format!("an end within {} s", limit.as_secs()), "none").refuse();
    tokio::time::timeout(limit, handshake).await.unwrap_or_else(|_| late())
}

fn counted<T>(listener: &Listener, parts: &Parts, direction: Direction, handshake: &Result<T, Denied>) {
    let result = handshake.as_ref().map_or_else(|denied| denied.reason().code(), |_| "ok");
    parts.metrics.handshake(&listener.name, direction, result);
}

/// The one record of a connection.
fn record(listener: &Listener, from: &From, known: &Known, outcome: &Outcome, started: Instant) {
    let about = known.upstream.as_ref().filter(|ground| !matches!(ground, Ground::Local)).or(known.downstream.as_ref());
    let (tier, entry, digest) = match about {
        Some(Ground::Attested(tier, result)) => {
            let appraisal = result.appraisal();
            (tier.name(), appraisal.entry().to_owned(), data_encoding::HEXLOWER.encode(appraisal.policy_digest()))
        }
        Some(Ground::AnyClient(tier)) => (tier.name(), String::new(), String::new()),
        Some(Ground::Local) | None => ("", String::new(), String::new()),
    };
    let (listener, peer, upstream) = (listener.name.as_str(), from.name.as_str(), listener.upstream.name.as_str());
    let target = known.target.as_deref().unwrap_or_default();
    let Forwarded { up, down } = known.forwarded;
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Outcome::Forwarded(ended) => {
            let ended = ended.to_string();
            tracing::info!(
                target: "connection", event = "forwarded", listener, peer, upstream, address = target, tier, entry, policy_digest = digest,
                bytes_received = up, bytes_sent = down, duration_ms, ended,
            );
        }
        Outcome::Cut => {
            tracing::warn!(
                target: "connection", event = "cut", listener, peer, upstream, address = target, tier, entry, policy_digest = digest,
                bytes_received = up, bytes_sent = down, duration_ms,
            );
        }
        Outcome::Refused(end, denied) => {
            let mut findings = denied.findings();
            if let Some(first) = findings.next() {
                tracing::warn!(
                    target: "connection", event = "refused", listener, peer, upstream, address = target, refused = %end, reason = first.reason.code(),
                    field = &*first.field, expected = first.expected, found = first.found, fix = first.advice(), duration_ms,
                );
            }
            for more in findings {
                tracing::warn!(
                    target: "connection", event = "finding", listener, peer, reason = more.reason.code(), field = &*more.field,
                    expected = more.expected, found = more.found, fix = more.advice(),
                );
            }
        }
        Outcome::Withdrawn(end, denied) => {
            for finding in denied.findings() {
                tracing::warn!(
                    target: "connection", event = "withdrawn", listener, peer, upstream, address = target, tier, entry, policy_digest = digest,
                    bytes_received = up, bytes_sent = down, duration_ms, refused = %end, reason = finding.reason.code(), field = &*finding.field,
                    expected = finding.expected, found = finding.found, fix = finding.advice(),
                );
            }
        }
        Outcome::Unreachable(tried) => {
            let tried = tried.iter().map(|(target, error)| format!("{target}: {error}")).collect::<Vec<_>>().join("; ");
            tracing::error!(target: "connection", event = "unreachable", listener, peer, upstream, tried, duration_ms);
        }
    }
}

impl End {
    /// Its spelling in logs and metrics.
    const fn name(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expired => f.write_str("at the end of its permitted life"),
            Self::Finished => f.write_str("finished"),
            Self::Idle => f.write_str("idle for too long"),
            Self::Lost(end, error) => write!(f, "{end} lost: {error}"),
        }
    }
}
