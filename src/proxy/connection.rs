//! The life of one connection, top to bottom: gather, everything that can refuse, forward; one record at the end.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use h2::RecvStream;
use h2::server::SendResponse;
use hyper::body::Bytes;
use tokio::sync::watch;

use super::accept::{Accepting, Carries};
use super::admit::{self, Admitted, Ground};
use super::announce;
use super::choice::{Choice, Unasked, Why, looped};
use super::handshake::Handshakes;
use super::http;
use super::limits::HandshakePlace;
use super::listen::Caller;
use super::now::{Follows, Going, Now};
use super::plan::{Listener, Originate, Terminate, Upstream};
use super::reach::{Reached, Shared, There, Unreached, reach};
use super::record::{self, About, Pace};
use super::standing;
use super::stream::{Socket, Stream};
use super::tcp::{End, Ended, Forwarded, Life, forward, lead};
use super::tunnel;
use super::tunnel::far::{self, Admission};
use super::{Parts, Phase};
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
    upstream_name: String,
    /// Where the client wanted to go, if it said so.
    wanted: Option<String>,
    target: Option<String>,
    forwarded: Forwarded,
}

/// Where bytes go, and the sessions that lead there.
#[derive(Clone, Copy)]
enum To<'a> {
    /// Where the client wants to, as far as it may.
    Chosen(&'a Choice, &'a Shared),
    One(&'a Arc<Upstream>, &'a Shared),
}

impl Known {
    /// Notes what became of reaching the upstream.
    fn reached(&mut self, reached: Result<Reached, Unreached>) -> Result<(There, Stream), Outcome> {
        match reached {
            Ok(Reached { target, there, stream }) => {
                self.target = Some(target);
                self.upstream = there.ground().cloned();
                Ok((there, stream))
            }
            Err(Unreached::Refused(target, denied)) => {
                self.target = target;
                Err(Outcome::Refused(End::Upstream, denied))
            }
            Err(Unreached::Unreachable(tried)) => Err(Outcome::Unreachable(tried)),
        }
    }
}

/// Serves one connection to its end, which comes when its listener lets nobody in on its ground any more. Dropping the
/// future resets both sides.
pub(super) async fn serve(accepting: &Arc<Accepting>, now: watch::Receiver<Now>, (mut socket, mut from): (Socket, Caller), mut place: HandshakePlace) {
    let Accepting { listener, parts, carries, places, .. } = &**accepting;
    let (started, mut known, mut phase, going) = (Instant::now(), Known::default(), accepting.phase.clone(), OnceLock::new());
    let announced = tokio::select! {
        biased;
        announced = announced(listener, &mut socket, &mut from) => announced,
        () = cut(&mut phase) => return,
    };
    let real = match announced {
        Ok(real) => real.filter(|real| accepting.outside(*real)),
        Err(why) => {
            parts.metrics.limit_rejected(&listener.name, "proxy_protocol");
            tracing::warn!(target: "connection", event = "unannounced", listener = listener.name, peer = from.name, %why);
            return;
        }
    };
    // The proxy is the source of none: whom it tells of is capped as if he had come himself.
    let _of_source = match real.map(|real| places.of_source(&listener.limits, &mut place, real)).transpose() {
        Ok(place) => place,
        Err(full) => {
            parts.metrics.limit_rejected(&listener.name, full.name());
            tracing::warn!(target: "connection", event = "turned_away", listener = listener.name, peer = from.name, limit = full.name());
            return;
        }
    };
    let follows = Follows { accepting, now: &now, going: &going };
    let live = async {
        match carries {
            Carries::Chosen(choice, shared) => tcp(follows, To::Chosen(choice, shared), (socket, &from), place, &mut known).await,
            Carries::Tcp(upstream, shared) => tcp(follows, To::One(upstream, shared), (socket, &from), place, &mut known).await,
            // Boxed: its state is the larger one, and every raw connection would have room for it.
            Carries::Http => Box::pin(http(follows, (socket, &from), place, &mut known)).await,
        }
    };
    let outcome = tokio::select! {
        biased;
        outcome = follows.overtaken() => outcome,
        outcome = live => outcome,
        () = cut(&mut phase) => Outcome::Cut,
    };
    record(accepting, &from, &known, &outcome, started, None);
}

/// Serves one connection of an admitted session to its end. Dropping the future resets both sides.
pub(super) async fn within(
    (accepting, now): (&Arc<Accepting>, watch::Receiver<Now>),
    upstream: &Arc<Upstream>,
    session: &Admission,
    stream: (RecvStream, SendResponse<Bytes>),
) {
    let (started, mut phase) = (Instant::now(), accepting.phase.clone());
    let mut known = Known { downstream: Some(session.here.ground.clone()), ..Known::default() };
    let going = OnceLock::from(Going { upstream: Arc::clone(upstream), wanted: None });
    let follows = Follows { accepting, now: &now, going: &going };
    let live = async {
        let Accepting { listener, parts, .. } = &**accepting;
        let sessions = accepting.shared().and_then(|shared| shared.find(upstream));
        // Boxed: the handshake's state is large and the connection outlives it.
        let reaching = Box::pin(async { known.reached(reach(handshakes(listener, parts), (upstream, sessions), &session.here, None).await) });
        let (mut downstream, (there, mut far_end)) = match session.connect(unpanicked(reaching, End::Upstream), stream).await {
            Ok(connected) => connected,
            Err(outcome) => return outcome,
        };
        let told = listener.proxy_protocol.onward.filter(|_| matches!(upstream.originate, Originate::Plain)).map(|form| {
            let (source, target) = session.from.addresses.unzip();
            let (alpn, server_name) = (session.alpn.as_deref(), session.server_name.as_deref());
            announce::write(&announce::Told { form, source, target, alpn, server_name, admitted: &session.here })
        });
        let end = there.end().map_or(session.end, |end| session.end.min(end.into()));
        let over = pin!(async {
            tokio::select! {
                ended = session.ended() => (End::Downstream, ended),
                ended = there.ended(&parts.clock) => (End::Upstream, ended),
            }
        });
        carry(accepting, (&mut downstream, &mut far_end), (told, Vec::new()), (end, over), &mut known.forwarded).await
    };
    let outcome = tokio::select! {
        biased;
        outcome = follows.overtaken() => outcome,
        outcome = live => follows.in_session(outcome),
        () = cut(&mut phase) => Outcome::Cut,
    };
    record(accepting, &session.from, &known, &outcome, started, Some(&session.pace));
}

/// Learns who really connected, where a proxy has to say so, and says so.
async fn announced(listener: &Listener, socket: &mut Socket, from: &mut Caller) -> Result<Option<IpAddr>, announce::Unannounced> {
    if listener.proxy_protocol.announces(from.source)
        && let Some((real, target)) = announce::read(socket, listener.limits.handshake).await?
    {
        from.name = format!("{real} by {}", from.name);
        from.source = Some(real.ip());
        // A Unix socket has no address of ours: the one that the client came to is what there is.
        from.addresses = Some((real, from.addresses.map_or(target, |(_, ours)| ours)));
        return Ok(from.source);
    }
    Ok(None)
}

async fn cut(phase: &mut watch::Receiver<Phase>) {
    // An error means that the proxy itself is gone.
    let _ = phase.wait_for(|phase| *phase == Phase::Cut).await;
}

async fn tcp(follows: Follows<'_>, to: To<'_>, (socket, from): (Socket, &Caller), place: HandshakePlace, known: &mut Known) -> Outcome {
    let accepting = follows.accepting;
    let Accepting { listener, parts, .. } = &**accepting;
    // Boxed: the handshakes' state is large and the connection outlives it.
    let blamed = if matches!(listener.terminate, Terminate::Plain) { End::Upstream } else { End::Downstream };
    let ready = unpanicked(Box::pin(admit_both(follows, to, (socket, from), known)), blamed).await;
    drop(place);
    let (here, there, mut downstream, mut far_end, ahead, plain) = match (ready, to) {
        (Ok(Ready::Ends { here, there, downstream, upstream, ahead, plain }), _) => (here, there, downstream, upstream, ahead, plain),
        // Every connection of a session goes to one upstream: a listener whose clients choose takes none.
        (Ok(Ready::Session(..)), To::Chosen(..)) => return Outcome::Refused(End::Downstream, no_session()),
        (Ok(Ready::Session(here, stream)), To::One(..)) => {
            // Boxed: hardly any connection is one.
            let far::Session { ended, connections } = Box::pin(far::serve(follows, (here, stream), from, &mut known.forwarded)).await;
            return ended.map_or_else(|denied| Outcome::Withdrawn(End::Downstream, denied), |ended| Outcome::Session(ended, connections));
        }
        (Err(outcome), _) => return outcome,
    };
    let told = listener.proxy_protocol.onward.filter(|_| plain).map(|form| {
        let (source, target) = from.addresses.unzip();
        announce::write(&announce::Told { form, source, target, alpn: downstream.alpn(), server_name: downstream.server_name(), admitted: &here })
    });
    let most = tokio::time::Instant::now() + listener.limits.max_connection;
    let end = there.end().map_or(most, |end| most.min(end.into()));
    let over = pin!(either(&here, &there, parts));
    carry(accepting, (&mut downstream, &mut far_end), (told, ahead), (end, over), &mut known.forwarded).await
}

/// Forwards between two ends that were let through, what is `told` and what was read `ahead` first, until an end or until `over` says that a verdict
/// holds no longer. What is handed in is borrowed: a connection would have room for it twice.
async fn carry(
    accepting: &Accepting,
    (downstream, upstream): (&mut Stream, &mut Stream),
    (told, ahead): (Option<Vec<u8>>, Vec<u8>),
    (end, over): (tokio::time::Instant, Pin<&mut impl Future<Output = (End, standing::Ended)>>),
    forwarded: &mut Forwarded,
) -> Outcome {
    let Accepting { listener, counters, .. } = accepting;
    let life = Life { idle: listener.limits.idle, end };
    let moving = async {
        if let Some(told) = told {
            lead(upstream, &told, life).await?;
        }
        if !ahead.is_empty() {
            lead(upstream, &ahead, life).await?;
            forwarded.up = u64::try_from(ahead.len()).unwrap_or(u64::MAX);
            counters.received.inc_by(forwarded.up);
        }
        drop(ahead);
        Ok(forward((&mut *downstream, &mut *upstream), life, (&counters.received, &counters.sent), forwarded).await)
    };
    let ended = tokio::select! {
        biased;
        (end, ended) = over => match ended {
            standing::Ended::Expired => return Outcome::Forwarded(Ended::Expired),
            standing::Ended::Withdrawn(denied) => return Outcome::Withdrawn(end, denied),
        },
        ended = moving => ended.unwrap_or_else(|ended| ended),
    };
    if matches!(ended, Ended::Finished) {
        downstream.finish();
        upstream.finish();
    }
    Outcome::Forwarded(ended)
}

/// The client is admitted once; its requests find their upstreams each by itself.
async fn http(follows: Follows<'_>, (socket, from): (Socket, &Caller), place: HandshakePlace, known: &mut Known) -> Outcome {
    let Accepting { listener, parts, counters, .. } = &**follows.accepting;
    let ready = unpanicked(Box::pin(admit_downstream(listener, parts, (socket, from), known)), End::Downstream).await;
    drop(place);
    let (admitted, stream) = match ready {
        Ok((admitted, stream)) => (Arc::new(admitted), stream),
        Err(outcome) => return outcome,
    };
    let serving = http::serve(follows, Arc::clone(&admitted), stream, http::Place { from, counters }, &mut known.forwarded);
    tokio::select! {
        biased;
        ended = admitted.ended(&parts.clock) => match ended {
            standing::Ended::Expired => Outcome::Forwarded(Ended::Expired),
            standing::Ended::Withdrawn(denied) => Outcome::Withdrawn(End::Downstream, denied),
        },
        ended = serving => ended.map_or(Outcome::Cut, Outcome::Forwarded),
    }
}

fn no_session() -> Denied {
    let expected = "a protocol for one connection: each client says where it wants to go";
    Finding::new(Reason::AlpnMismatch, "alpn", expected, "portcullis1/tunnel").fix("take multiplex out of the other side's upstream").into()
}

/// What was admitted.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
enum Ready {
    /// Both ends of a connection.
    Ends {
        here: Admitted,
        there: There,
        downstream: Stream,
        upstream: Stream,
        /// What was read of the client's bytes to know where it wants to go.
        ahead: Vec<u8>,
        /// Whether the upstream is spoken to without TLS.
        plain: bool,
    },
    /// A session: its connections find the upstream each by itself.
    Session(Admitted, Stream),
}

/// Returns when the verdict about an end holds no longer.
async fn either(here: &Admitted, there: &There, parts: &Parts) -> (End, standing::Ended) {
    tokio::select! {
        ended = here.ended(&parts.clock) => (End::Downstream, ended),
        ended = there.ended(&parts.clock) => (End::Upstream, ended),
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

/// Everything that can refuse, in the one order: the peer that came, where it wants to go, the upstream's socket, the peer
/// behind it.
async fn admit_both(follows: Follows<'_>, to: To<'_>, (socket, from): (Socket, &Caller), known: &mut Known) -> Result<Ready, Outcome> {
    let Accepting { listener, parts, .. } = &**follows.accepting;
    let (here, mut downstream) = admit_downstream(listener, parts, (socket, from), known).await?;
    if tunnel::agreed(&downstream) {
        return Ok(Ready::Session(here, downstream));
    }
    let (choice, shared) = match to {
        To::Chosen(choice, shared) => (choice, shared),
        To::One(upstream, shared) => {
            follows.goes(Going { upstream: Arc::clone(upstream), wanted: None })?;
            let reached = reach(handshakes(listener, parts), (upstream, shared.find(upstream)), &here, None).await;
            let (there, far_end) = known.reached(reached)?;
            return Ok(Ready::Ends { here, there, downstream, upstream: far_end, ahead: Vec::new(), plain: matches!(upstream.originate, Originate::Plain) });
        }
    };
    let asked = choice.ask(&mut downstream, from, listener.limits.handshake).await.map_err(|Unasked { wanted, denied }| {
        known.wanted = wanted.map(|wanted| wanted.to_string());
        Outcome::Refused(End::Downstream, denied)
    })?;
    known.wanted = Some(asked.wanted.to_string());
    known.upstream_name.clone_from(&asked.upstream.name);
    follows.goes(Going { upstream: Arc::clone(asked.upstream), wanted: Some(asked.wanted.clone()) })?;
    let plain = matches!(asked.upstream.originate, Originate::Plain);
    let reached = reach(handshakes(listener, parts), (asked.upstream, shared.find(asked.upstream)), &here, None).await;
    match known.reached(reached) {
        // By now a connection of our own is known, should this have been one that was captured.
        Ok(_) if choice.loops(&downstream, from) => Err(Outcome::Refused(End::Downstream, looped())),
        Ok((there, far_end)) => match asked.granted(&mut downstream).await {
            Ok(ahead) => Ok(Ready::Ends { here, there, downstream, upstream: far_end, ahead, plain }),
            Err(error) => Err(Outcome::Forwarded(Ended::Lost(End::Downstream, error))),
        },
        Err(outcome) => {
            match &outcome {
                Outcome::Refused(_, denied) => asked.refused(&mut downstream, Why::Refused(denied)).await,
                Outcome::Unreachable(tried) => asked.refused(&mut downstream, Why::Unreachable(tried)).await,
                _ => {}
            }
            Err(outcome)
        }
    }
}

async fn admit_downstream(listener: &Listener, parts: &Parts, (socket, from): (Socket, &Caller), known: &mut Known) -> Result<(Admitted, Stream), Outcome> {
    let (here, downstream) = match &listener.terminate {
        Terminate::Plain => (admit::local(), Stream::Plain(socket)),
        Terminate::Attested(side) | Terminate::Public(side) => {
            let inbound = handshakes(listener, parts).inbound(side, socket, from.source).await;
            inbound.map_err(|denied| Outcome::Refused(End::Downstream, denied))?.ok_or(Outcome::Answered)?
        }
    };
    known.downstream = Some(here.ground.clone());
    Ok((here, downstream))
}

const fn handshakes<'a>(listener: &'a Listener, parts: &'a Parts) -> Handshakes<'a> {
    Handshakes { listener: listener.name.as_str(), limits: &listener.limits, parts }
}

/// Counts and records how a connection ended: one record of each, as far as `pace` allows of those that were refused.
fn record(accepting: &Accepting, from: &Caller, known: &Known, outcome: &Outcome, started: Instant, pace: Option<&Pace>) {
    let upstream = match &accepting.carries {
        Carries::Tcp(upstream, _) => upstream.name.as_str(),
        Carries::Chosen(..) | Carries::Http => known.upstream_name.as_str(),
    };
    let about = About {
        listener: &accepting.listener.name,
        peer: &from.name,
        wanted: known.wanted.as_deref().unwrap_or_default(),
        upstream,
        address: known.target.as_deref().unwrap_or_default(),
        ground: known.upstream.as_ref().filter(|ground| !matches!(ground, Ground::Local)).or(known.downstream.as_ref()),
        forwarded: Some(known.forwarded),
        started: Some(started),
    };
    let ((tier, entry, policy_digest), duration_ms) = (about.verdict(), about.duration_ms());
    let (About { listener, peer, wanted, address, .. }, Forwarded { up, down }) = (about, known.forwarded);
    match outcome {
        Outcome::Answered => tracing::info!(target: "connection", event = "challenge_answered", listener, peer, duration_ms),
        Outcome::Forwarded(ended) => {
            let ended = ended.to_string();
            tracing::info!(
                target: "connection", event = "forwarded", listener, peer, wanted, upstream, address, tier, entry, policy_digest,
                bytes_received = up, bytes_sent = down, duration_ms, ended,
            );
        }
        Outcome::Session(ended, connections) => {
            let ended = ended.to_string();
            tracing::info!(
                target: "connection", event = "session", listener, peer, upstream, tier, entry, policy_digest, connections,
                bytes_received = up, bytes_sent = down, duration_ms, ended,
            );
        }
        Outcome::Cut => {
            tracing::warn!(
                target: "connection", event = "cut", listener, peer, wanted, upstream, address, tier, entry, policy_digest,
                bytes_received = up, bytes_sent = down, duration_ms,
            );
        }
        Outcome::Refused(end, denied) => record::refused(&accepting.parts.metrics, &about, pace, *end, denied),
        Outcome::Unreachable(tried) => record::unreachable(&about, pace, tried),
        Outcome::Withdrawn(end, denied) => record::withdrawn(&accepting.parts.metrics, &about, *end, denied),
    }
}
