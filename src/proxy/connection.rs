//! The life of one connection, top to bottom: gather, everything that can refuse, forward; one record at the end.

use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use h2::RecvStream;
use h2::server::SendResponse;
use hyper::body::Bytes;
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
use super::tunnel;
use super::tunnel::far::{self, Admission};
use super::tunnel::near;
use super::upstream::{Dialled, Unreachable, dial};
use super::{Accepting, Carries, Parts, Phase};
use crate::admin::metrics::ListenerMetrics;
use crate::refusal::{Denied, Finding, Reason};

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A CA looked for the answer to a challenge, got it, and nothing was forwarded.
    Answered,
    /// The proxy stopped before it did.
    Cut,
    /// It was forwarded.
    Forwarded(Ended),
    /// An end was refused: nothing was forwarded.
    Refused(End, Denied),
    /// It was a session of so many connections.
    Session(Ended, usize),
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
pub(super) async fn serve(accepting: &Arc<Accepting>, (mut socket, mut from): (Socket, From), place: HandshakePlace) {
    let Accepting { listener, parts, counters, carries, .. } = &**accepting;
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
            Carries::Tcp(upstream, sessions) => tcp(accepting, (upstream, sessions.as_deref()), (socket, &from), place, &mut known).await,
            Carries::Http(site) => http(listener, site, parts, counters, (socket, &from), place, &mut known).await,
        }
    };
    let outcome = tokio::select! {
        biased;
        outcome = live => outcome,
        () = cut(&mut phase) => Outcome::Cut,
    };
    conclude(accepting, &from, &known, &outcome, started);
}

/// Serves one connection of an admitted session to its end. Dropping the future resets both sides.
pub(super) async fn within(accepting: &Arc<Accepting>, upstream: &Upstream, session: &Admission, stream: (RecvStream, SendResponse<Bytes>)) {
    let (started, mut phase) = (Instant::now(), accepting.phase.clone());
    let mut known = Known { downstream: Some(session.here.ground.clone()), ..Known::default() };
    let live = async {
        let connected = session.connect(upstream, stream).await;
        let result = if matches!(connected, Err(Outcome::Unreachable(_))) { "unreachable" } else { "ok" };
        accepting.parts.metrics.upstream_connect(&upstream.name, result);
        let (downstream, upstream, target) = match connected {
            Ok(connected) => connected,
            Err(outcome) => return outcome,
        };
        known.target = Some(target);
        let (source, target) = session.from.addresses.unzip();
        let (alpn, server_name) = (session.alpn.as_deref(), session.server_name.as_deref());
        let told = announce::Told { source, target, alpn, server_name, admitted: &session.here };
        let over = async { (End::Downstream, session.ended().await) };
        carry(accepting, (downstream, upstream), Some(told), (session.end, over), &mut known.forwarded).await
    };
    let outcome = tokio::select! {
        biased;
        outcome = live => outcome,
        () = cut(&mut phase) => Outcome::Cut,
    };
    conclude(accepting, &session.from, &known, &outcome, started);
}

/// Counts and records how a connection ended.
fn conclude(accepting: &Accepting, from: &From, known: &Known, outcome: &Outcome, started: Instant) {
    let (listener, metrics) = (&accepting.listener.name, &accepting.parts.metrics);
    match outcome {
        Outcome::Refused(end, denied) => metrics.refused(listener, end.name(), denied.reason().code()),
        Outcome::Withdrawn(end, denied) => metrics.withdrawn(listener, end.name(), denied.reason().code()),
        _ => {}
    }
    record(accepting, from, known, outcome, started);
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
    accepting: &Arc<Accepting>,
    (upstream, sessions): (&Arc<Upstream>, Option<&near::Sessions>),
    (socket, from): (Socket, &From),
    place: HandshakePlace,
    known: &mut Known,
) -> Outcome {
    let Accepting { listener, parts, .. } = &**accepting;
    // Boxed: the handshakes' state is large and the connection outlives it.
    let blamed = if matches!(listener.terminate, Terminate::Plain) { End::Upstream } else { End::Downstream };
    let ready = unpanicked(Box::pin(admit_both(listener, (upstream, sessions), parts, socket, known)), blamed).await;
    drop(place);
    let (here, there, downstream, far_end) = match ready {
        Ok(Ready::Ends { here, there, downstream, upstream }) => (here, there, downstream, upstream),
        Ok(Ready::Session(here, stream)) => {
            // Boxed: hardly any connection is one.
            let far::Session { ended, connections } = Box::pin(far::serve(accepting, upstream, (here, stream), from, &mut known.forwarded)).await;
            return ended.map_or_else(|denied| Outcome::Withdrawn(End::Downstream, denied), |ended| Outcome::Session(ended, connections));
        }
        Err(outcome) => return outcome,
    };
    let told = matches!(upstream.originate, Originate::Plain).then(|| {
        let (source, target) = from.addresses.unzip();
        (source, target, downstream.alpn().map(<[u8]>::to_vec), downstream.server_name().map(str::to_owned))
    });
    let told = told.as_ref().map(|(source, target, alpn, server_name)| announce::Told {
        source: *source,
        target: *target,
        alpn: alpn.as_deref(),
        server_name: server_name.as_deref(),
        admitted: &here,
    });
    let most = tokio::time::Instant::now() + listener.limits.max_connection;
    let end = there.end().map_or(most, |end| most.min(end.into()));
    carry(accepting, (downstream, far_end), told, (end, either(&here, &there, parts)), &mut known.forwarded).await
}

/// Forwards between two ends that were let through, until an end or until `over` says that a verdict holds no longer.
async fn carry(
    accepting: &Accepting,
    (mut downstream, mut upstream): (Stream, Stream),
    told: Option<announce::Told<'_>>,
    (end, over): (tokio::time::Instant, impl Future<Output = (End, standing::Ended)>),
    forwarded: &mut Forwarded,
) -> Outcome {
    let Accepting { listener, counters, .. } = accepting;
    if let Some(told) = told.filter(|_| listener.proxy_protocol.onward)
        && let Err(error) = upstream.write_all(&announce::write(&told)).await
    {
        return Outcome::Forwarded(Ended::Lost(End::Upstream, error));
    }
    let life = Life { idle: listener.limits.idle, end };
    let ended = tokio::select! {
        biased;
        // Boxed: hardly ever polled, and the streams are what the connection's memory is for.
        (end, ended) = Box::pin(over) => match ended {
            standing::Ended::Expired => return Outcome::Forwarded(Ended::Expired),
            standing::Ended::Withdrawn(denied) => return Outcome::Withdrawn(end, denied),
        },
        ended = forward((&mut downstream, &mut upstream), life, (&counters.received, &counters.sent), forwarded) => ended,
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

/// What was admitted.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
enum Ready {
    /// Both ends of a connection.
    Ends { here: Admitted, there: There, downstream: Stream, upstream: Stream },
    /// A session: its connections find the upstream each by itself.
    Session(Admitted, Stream),
}

/// What is known of the far end.
enum There {
    /// Nothing: it is a plain upstream.
    Nothing,
    /// It was admitted for this connection.
    Own(Admitted),
    /// It was admitted for the session that the connection is in.
    Session(Arc<near::Session>),
}

impl There {
    fn ground(&self) -> Option<&Ground> {
        match self {
            Self::Nothing => None,
            Self::Own(admitted) => Some(&admitted.ground),
            Self::Session(session) => Some(&session.admitted.ground),
        }
    }

    /// When it ends at the latest, where that is settled.
    fn end(&self) -> Option<Instant> {
        match self {
            Self::Session(session) => Some(session.end),
            Self::Nothing | Self::Own(_) => None,
        }
    }
}

/// Returns when the verdict about an end holds no longer.
async fn either(here: &Admitted, there: &There, parts: &Parts) -> (End, standing::Ended) {
    let far = async {
        match there {
            There::Nothing => std::future::pending().await,
            There::Own(admitted) => admitted.ended(&parts.clock).await,
            There::Session(session) => session.ended().await,
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
async fn admit_both(
    listener: &Listener,
    (upstream, sessions): (&Upstream, Option<&near::Sessions>),
    parts: &Parts,
    socket: Socket,
    known: &mut Known,
) -> Result<Ready, Outcome> {
    let (here, downstream) = admit_downstream(listener, parts, socket, known).await?;
    if tunnel::agreed(&downstream) {
        return Ok(Ready::Session(here, downstream));
    }
    let (there, upstream) = match sessions {
        Some(sessions) => {
            let (session, tunnel) = sessions.begin(&here).await.map_err(unbegun)?;
            known.target = Some(session.target.clone());
            (There::Session(session), Stream::Tunnel(Box::new(tunnel)))
        }
        None => own(listener, upstream, parts, &here, known).await?,
    };
    known.upstream = there.ground().cloned();
    Ok(Ready::Ends { here, there, downstream, upstream })
}

fn unbegun(failure: near::Failure) -> Outcome {
    match failure {
        near::Failure::Refused(denied) => Outcome::Refused(End::Upstream, denied),
        near::Failure::Unreachable(tried) => Outcome::Unreachable(tried.into_iter().map(|(target, kind, why)| (target, io::Error::new(kind, why))).collect()),
    }
}

/// A connection of its own to the upstream.
async fn own(listener: &Listener, upstream: &Upstream, parts: &Parts, here: &Admitted, known: &mut Known) -> Result<(There, Stream), Outcome> {
    let Dialled { socket, target } = dial(upstream, here).await.map_err(|Unreachable(tried)| {
        parts.metrics.upstream_connect(&upstream.name, "unreachable");
        Outcome::Unreachable(tried)
    })?;
    parts.metrics.upstream_connect(&upstream.name, "ok");
    known.target = Some(target);
    match &upstream.originate {
        Originate::Plain => Ok((There::Nothing, Stream::Plain(socket))),
        Originate::Attested(side) => {
            let (there, stream) = handshakes(listener, parts).outbound(side, socket).await.map_err(|denied| Outcome::Refused(End::Upstream, denied))?;
            Ok((There::Own(there), stream))
        }
    }
}

async fn admit_downstream(listener: &Listener, parts: &Parts, socket: Socket, known: &mut Known) -> Result<(Admitted, Stream), Outcome> {
    let (here, downstream) = match &listener.terminate {
        Terminate::Plain => (admit::local(), Stream::Plain(socket)),
        Terminate::Attested(side) | Terminate::Public(side) => {
            let inbound = handshakes(listener, parts).inbound(side, socket).await;
            inbound.map_err(|denied| Outcome::Refused(End::Downstream, denied))?.ok_or(Outcome::Answered)?
        }
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
        Carries::Tcp(upstream, _) => upstream.name.as_str(),
        Carries::Http(_) => "",
    };
    let (listener, peer) = (accepting.listener.name.as_str(), from.name.as_str());
    let target = known.target.as_deref().unwrap_or_default();
    let Forwarded { up, down } = known.forwarded;
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Outcome::Answered => tracing::info!(target: "connection", event = "challenge_answered", listener, peer, duration_ms),
        Outcome::Forwarded(ended) => {
            let ended = ended.to_string();
            tracing::info!(
                target: "connection", event = "forwarded", listener, peer, upstream, address = target, tier, entry, policy_digest = digest,
                bytes_received = up, bytes_sent = down, duration_ms, ended,
            );
        }
        Outcome::Session(ended, connections) => {
            let ended = ended.to_string();
            tracing::info!(
                target: "connection", event = "session", listener, peer, upstream, tier, entry, policy_digest = digest, connections,
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
