//! From an admitted client to the upstream that serves it: a connection of its own, or one in a session that is shared.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::admit::{Admitted, Ground};
use super::around::Around;
use super::handshake::Handshakes;
use super::limits::Held;
use super::plan::{Originate, Upstream};
use super::standing;
use super::stream::Stream;
use super::tunnel::near::{self, Sessions};
use super::upstream::{Dialled, Unreachable, dial};
use crate::clock::Clock;
use crate::refusal::Denied;

/// An upstream that was reached and, where it has to, has proven itself.
pub(super) struct Reached {
    pub(super) target: String,
    pub(super) there: There,
    pub(super) stream: Stream,
}

/// Why an upstream was not reached.
#[derive(Debug)]
pub(super) enum Unreached {
    /// The far end was refused, at this target where one was dialled for this connection.
    Refused(Option<String>, Denied),
    /// The targets that were tried, each with what happened.
    Unreachable(Vec<(String, io::Error)>),
}

/// What is known of the far end.
pub(super) enum There {
    /// Nothing: it is a plain upstream.
    Nothing,
    /// It was admitted for this connection.
    Own(Admitted),
    /// It was admitted for the session that the connection is in.
    Session(Arc<near::Session>),
}

impl There {
    pub(super) fn ground(&self) -> Option<&Ground> {
        match self {
            Self::Nothing => None,
            Self::Own(admitted) => Some(&admitted.ground),
            Self::Session(session) => Some(&session.admitted.ground),
        }
    }

    /// When it ends at the latest, where that is settled.
    pub(super) fn end(&self) -> Option<Instant> {
        match self {
            Self::Session(session) => Some(session.end),
            Self::Nothing | Self::Own(_) => None,
        }
    }

    /// Returns when its verdict holds no longer: never, where there is none.
    pub(super) async fn ended(&self, clock: &Clock) -> standing::Ended {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Own(admitted) => admitted.ended(clock).await,
            Self::Session(session) => session.ended().await,
        }
    }
}

/// The sessions of those among several upstreams that share them.
#[derive(Debug, Default)]
pub(super) struct Shared(Vec<(Arc<Upstream>, Arc<Sessions>)>);

impl Shared {
    /// Those of `before` that did not change are kept.
    pub(super) fn of<'a>(upstreams: impl Iterator<Item = &'a Arc<Upstream>>, around: &Around, before: Option<&Self>) -> Self {
        let mut made: Vec<(Arc<Upstream>, Arc<Sessions>)> = Vec::new();
        for upstream in upstreams {
            let known = made.iter().any(|(known, _)| Arc::ptr_eq(known, upstream));
            if let (Some(plan), Originate::Attested(side), false) = (upstream.multiplex, &upstream.originate, known) {
                let kept = before.and_then(|before| before.of_upstream(upstream)).filter(|sessions| sessions.around.same(around));
                let sessions = kept.cloned().unwrap_or_else(|| Sessions::new(Arc::clone(upstream), Arc::clone(side), plan, around.clone()));
                made.push((Arc::clone(upstream), sessions));
            }
        }
        Self(made)
    }

    /// Begins nothing more in sessions that `next` has not: each ends with its last connection.
    pub(super) fn retire(&self, next: Option<&Self>) {
        let kept = |sessions: &Arc<Sessions>| next.is_some_and(|next| next.0.iter().any(|(_, known)| Arc::ptr_eq(known, sessions)));
        self.0.iter().filter(|(_, sessions)| !kept(sessions)).for_each(|(_, sessions)| sessions.retire());
    }

    fn of_upstream(&self, upstream: &Arc<Upstream>) -> Option<&Arc<Sessions>> {
        self.0.iter().find(|(known, _)| Arc::ptr_eq(known, upstream)).map(|(_, sessions)| sessions)
    }

    pub(super) fn find(&self, upstream: &Arc<Upstream>) -> Option<&Sessions> {
        self.of_upstream(upstream).map(|sessions| &**sessions)
    }
}

/// Reaches an upstream on behalf of what was admitted: in one of `sessions` where it shares them, or by a connection to the
/// first target that can be reached, for which `held` counts to its end.
pub(super) async fn reach(
    handshakes: Handshakes<'_>,
    (upstream, sessions): (&Upstream, Option<&Sessions>),
    here: &Admitted,
    held: Option<Held>,
) -> Result<Reached, Unreached> {
    if let Some(sessions) = sessions {
        // A session counts for itself.
        drop(held);
        let (session, tunnel) = sessions.begin(here).await.map_err(unbegun)?;
        return Ok(Reached { target: session.target.clone(), there: There::Session(session), stream: Stream::Tunnel(Box::new(tunnel)) });
    }
    let metrics = &handshakes.parts.metrics;
    let Dialled { socket, target, .. } = dial(upstream, here).await.map_err(|Unreachable(tried)| {
        metrics.upstream_connect(&upstream.name, "unreachable");
        Unreached::Unreachable(tried)
    })?;
    metrics.upstream_connect(&upstream.name, "ok");
    let socket = match held {
        Some(held) => socket.holding(held),
        None => socket,
    };
    match &upstream.originate {
        Originate::Plain => Ok(Reached { target, there: There::Nothing, stream: Stream::Plain(socket) }),
        Originate::Attested(side) => match handshakes.outbound(side, socket).await {
            Ok((there, stream)) => Ok(Reached { target, there: There::Own(there), stream }),
            Err(denied) => Err(Unreached::Refused(Some(target), denied)),
        },
    }
}

fn unbegun(failure: near::Failure) -> Unreached {
    match failure {
        near::Failure::Refused(denied) => Unreached::Refused(None, denied),
        near::Failure::Unreachable(tried) => Unreached::Unreachable(tried.into_iter().map(|(target, kind, why)| (target, io::Error::new(kind, why))).collect()),
    }
}
