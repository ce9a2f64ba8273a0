//! The life of one connection, top to bottom: gather, everything that can refuse, forward; one record at the end.

use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;

use super::admit::{self, Admitted, Ground};
use super::announce;
use super::handshake::Handshakes;
use super::http;
use super::limits::HandshakePlace;
use super::listen::From;
use super::plan::{Listener, Originate, Terminate, Upstream};
use super::standing;
use super::stream::{Socket, Stream};
use super::tcp::{End, Ended, Forwarded, Life, forward};
use super::upstream::{Dialled, Unreachable, dial};
use super::{Accepting, Carries, Parts, Phase};
use crate::admin::metrics::ListenerMetrics;
use crate::refusal::{Denied, Finding, Reason};

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
pub(super) async fn serve(accepting: &Accepting, (mut socket, mut from): (Socket, From), place: HandshakePlace) {
    let Accepting { listener, parts, counters, carries, .. } = accepting;
    let (started, mut known, mut phase) = (Instant::now(), Known::default(), accepting.phase.clone());
    let announced = tokio::select! {
        biased;
        announced = announced(listener, &mut socket, &mut from) => announced,
        () = cut(&mut phase) => return,
    };
    if let Err(why) = announced {
        parts.metrics.limit_rejected(&listener.name, "proxy_protocol");
        tracing::warn!(target: "connection", event = "unannounced", listener = listener.name, peer = from.name, %why);
        return;
    }
    let live = async {
        match carries {
            Carries::Tcp(upstream) => tcp(listener, upstream, parts, counters, (socket, &from), place, &mut known).await,
            Carries::Http(site) => http(listener, site, parts, counters, (socket, &from), place, &mut known).await,
        }
    };
    let outcome = tokio::select! {
        biased;
        outcome = live => outcome,
        () = cut(&mut phase) => Outcome::Cut,
    };
    match &outcome {
        Outcome::Refused(end, denied) => parts.metrics.refused(&listener.name, end.name(), denied.reason().code()),
        Outcome::Withdrawn(end, denied) => parts.metrics.withdrawn(&listener.name, end.name(), denied.reason().code()),
        _ => {}
    }
    record(accepting, &from, &known, &outcome, started);
}

/// Learns who really connected, where a proxy has to say so.
async fn announced(listener: &Listener, socket: &mut Socket, from: &mut From) -> Result<(), announce::Unannounced> {
    let listed = from.source.is_some_and(|source| listener.proxy_protocol.from.iter().any(|network| network.holds(source)));
    if listed && let Some(real) = announce::read(socket, listener.limits.handshake).await? {
        from.name = format!("{real} by {}", from.name);
        from.source = Some(real.ip());
        from.addresses = from.addresses.map(|(_, ours)| (real, ours));
    }
    Ok(())
}

async fn cut(phase: &mut watch::Receiver<Phase>) {
    // An error means that the proxy itself is gone.
    let _ = phase.wait_for(|phase| *phase == Phase::Cut).await;
}

async fn tcp(
    listener: &Listener,
    upstream_plan: &Upstream,
    parts: &Parts,
    counters: &ListenerMetrics,
    (socket, from): (Socket, &From),
    place: HandshakePlace,
    known: &mut Known,
) -> Outcome {
    // Boxed: the handshakes' state is large and the connection outlives it.
    let blamed = if matches!(listener.terminate, Terminate::Plain) { End::Upstream } else { End::Downstream };
    let ready = unpanicked(Box::pin(admit_both(listener, upstream_plan, parts, socket, known)), blamed).await;
    drop(place);
    let Ready { here, there, mut downstream, mut upstream } = match ready {
        Ok(ready) => ready,
        Err(outcome) => return outcome,
    };
    if listener.proxy_protocol.onward && matches!(upstream_plan.originate, Originate::Plain) {
        let (source, target) = from.addresses.unzip();
        let told = announce::Told { source, target, alpn: downstream.alpn(), server_name: downstream.server_name(), admitted: &here };
        if let Err(error) = upstream.write_all(&announce::write(&told)).await {
            return Outcome::Forwarded(Ended::Lost(End::Upstream, error));
        }
    }
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

/// The client is admitted once; its requests find their upstreams each by itself.
async fn http(
    listener: &Listener,
    site: &Arc<http::Running>,
    parts: &Parts,
    counters: &ListenerMetrics,
    (socket, from): (Socket, &From),
    place: HandshakePlace,
    known: &mut Known,
) -> Outcome {
    let ready = unpanicked(Box::pin(admit_downstream(listener, parts, socket, known)), End::Downstream).await;
    drop(place);
    let (admitted, stream) = match ready {
        Ok((admitted, stream)) => (Arc::new(admitted), stream),
        Err(outcome) => return outcome,
    };
    let serving = http::serve(site, Arc::clone(&admitted), stream, http::Place { from, counters }, &mut known.forwarded);
    tokio::select! {
        biased;
        ended = Box::pin(admitted.ended(&parts.clock)) => match ended {
            standing::Ended::Expired => Outcome::Forwarded(Ended::Expired),
            standing::Ended::Withdrawn(denied) => Outcome::Withdrawn(End::Downstream, denied),
        },
        ended = serving => Outcome::Forwarded(ended),
    }
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
async fn admit_both(listener: &Listener, upstream: &Upstream, parts: &Parts, socket: Socket, known: &mut Known) -> Result<Ready, Outcome> {
    let (here, downstream) = admit_downstream(listener, parts, socket, known).await?;
    let Dialled { socket, target, admitted: here } = dial(upstream, here).await.map_err(|Unreachable(tried)| {
        parts.metrics.upstream_connect(&upstream.name, "unreachable");
        Outcome::Unreachable(tried)
    })?;
    parts.metrics.upstream_connect(&upstream.name, "ok");
    known.target = Some(target);
    let (there, upstream) = match &upstream.originate {
        Originate::Plain => (None, Stream::Plain(socket)),
        Originate::Attested(side) => {
            let (there, stream) = handshakes(listener, parts).outbound(side, socket).await.map_err(|denied| Outcome::Refused(End::Upstream, denied))?;
            (Some(there), stream)
        }
    };
    known.upstream = there.as_ref().map(|there| there.ground.clone());
    Ok(Ready { here, there, downstream, upstream })
}

async fn admit_downstream(listener: &Listener, parts: &Parts, socket: Socket, known: &mut Known) -> Result<(Admitted, Stream), Outcome> {
    let (here, downstream) = match &listener.terminate {
        Terminate::Plain => (admit::local(), Stream::Plain(socket)),
        Terminate::Attested(side) => handshakes(listener, parts).inbound(side, socket).await.map_err(|denied| Outcome::Refused(End::Downstream, denied))?,
    };
    known.downstream = Some(here.ground.clone());
    Ok((here, downstream))
}

const fn handshakes<'a>(listener: &'a Listener, parts: &'a Parts) -> Handshakes<'a> {
    Handshakes { listener: listener.name.as_str(), limits: &listener.limits, parts }
}

/// The one record of a connection.
fn record(accepting: &Accepting, from: &From, known: &Known, outcome: &Outcome, started: Instant) {
    let about = known.upstream.as_ref().filter(|ground| !matches!(ground, Ground::Local)).or(known.downstream.as_ref());
    let (tier, entry, digest) = match about {
        Some(Ground::Attested(tier, result)) => {
            let appraisal = result.appraisal();
            (tier.name(), appraisal.entry().to_owned(), data_encoding::HEXLOWER.encode(appraisal.policy_digest()))
        }
        Some(Ground::AnyClient(tier)) => (tier.name(), String::new(), String::new()),
        Some(Ground::Local) | None => ("", String::new(), String::new()),
    };
    let upstream = match &accepting.carries {
        Carries::Tcp(upstream) => upstream.name.as_str(),
        Carries::Http(_) => "",
    };
    let (listener, peer) = (accepting.listener.name.as_str(), from.name.as_str());
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
