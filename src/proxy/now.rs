//! What a listener is now, for the connections that came when it was something else: rights do not outlive the
//! configuration that gave them.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tokio::time::Instant;

use super::accept::Accepting;
use super::choice::Wanted;
use super::connection::Outcome;
use super::http;
use super::plan::{Forward, Listener, ProxyProtocol, Upstream};
use super::tcp::{End, Ended};
use crate::refusal::{Denied, Finding, Reason};

/// A listener as it is configured now.
#[derive(Clone)]
pub(super) struct Now {
    /// What lets connections in; `None` once there is no such listener.
    pub(super) accepting: Option<Arc<Accepting>>,
    /// What serves its requests, where it serves any. Not in [`Accepting`], which connections hold to their end.
    pub(super) site: Option<Arc<http::Running>>,
    /// When connections that have to go are cut.
    pub(super) until: Instant,
}

/// Where a connection that passes bytes goes.
pub(super) struct Going {
    pub(super) upstream: Arc<Upstream>,
    /// Where its client wanted to, where it said so.
    pub(super) wanted: Option<Wanted>,
}

/// A connection's view of its listener.
#[derive(Clone, Copy)]
pub(super) struct Follows<'a> {
    /// What let it in.
    pub(super) accepting: &'a Arc<Accepting>,
    pub(super) now: &'a watch::Receiver<Now>,
    /// Where it goes, once that is known. Requests each go somewhere else.
    pub(super) going: &'a OnceLock<Going>,
}

impl Follows<'_> {
    /// Notes where the connection goes, unless it may not do so any more. For a listener that is gone nothing is begun.
    pub(super) fn goes(&self, going: Going) -> Result<(), Outcome> {
        let refused = match &self.now.borrow().accepting {
            Some(now) => stays(&self.accepting.listener, &now.listener, Some(&going)).err().map(|(end, denied)| Outcome::Withdrawn(end, denied)),
            None => Some(Outcome::Cut),
        };
        // Set once: a connection goes to one place.
        let _ = self.going.set(going);
        refused.map_or(Ok(()), Err)
    }

    /// Returns when the connection may not go on. Requests in flight, and what was let in by a listener that is gone, have
    /// until [`Now::until`].
    pub(super) async fn overtaken(&self) -> Outcome {
        let mut now = self.now.clone();
        loop {
            let ends = self.ends(&now.borrow_and_update());
            if let Some((until, outcome)) = ends {
                if let Some(until) = until {
                    // Boxed: hardly any connection comes here, and every one would have room for it.
                    Box::pin(tokio::time::sleep_until(until)).await;
                }
                return outcome;
            }
            if now.changed().await.is_err() {
                // Nothing changes any more: the proxy ends.
                std::future::pending::<()>().await;
            }
        }
    }

    /// How a connection in a session ended: with the session it may be lost before it has noticed why.
    pub(super) fn in_session(&self, outcome: Outcome) -> Outcome {
        match self.ends(&self.now.borrow()) {
            Some((None, overtaken)) if matches!(outcome, Outcome::Forwarded(Ended::Lost(End::Downstream, _))) => overtaken,
            _ => outcome,
        }
    }

    fn ends(&self, now: &Now) -> Option<(Option<Instant>, Outcome)> {
        let was = &self.accepting.listener;
        let Some(newest) = &now.accepting else { return Some((Some(now.until), Outcome::Cut)) };
        let (end, denied) = stays(was, &newest.listener, self.going.get()).err()?;
        let in_flight = matches!(was.forward, Forward::Http(_));
        Some((in_flight.then_some(now.until), Outcome::Withdrawn(end, denied)))
    }
}

/// Whether `now` lets in, on the same ground, all whom `was` let in: in the same handshake, under the same policy, with the
/// same accounts or more, told of by the same proxies or more.
pub(super) fn same_ground(was: &Listener, now: &Listener) -> bool {
    // Taken apart, so that of a new field it is decided whether rights hang on it.
    let Listener { name: _, bind: _, terminate, forward, proxy_protocol: ProxyProtocol { from, onward: _ }, limits: _ } = was;
    let accounts = match (forward, &now.forward) {
        (Forward::Chosen(was), Forward::Chosen(now)) => now.by.lets_in_as(&was.by),
        (Forward::Http(_), Forward::Http(_)) | (Forward::Tcp(_), Forward::Tcp(_)) => true,
        _ => false,
    };
    let told = from.iter().all(|announcer| now.proxy_protocol.from.contains(announcer));
    terminate.prove_alike(&now.terminate) && accounts && told
}

/// Whether a connection that was let in by `was`, and goes there, may go on under `now`.
fn stays(was: &Listener, now: &Listener, going: Option<&Going>) -> Result<(), (End, Denied)> {
    if !same_ground(was, now) {
        return Err((End::Downstream, let_in_otherwise()));
    }
    let Some(Going { upstream, wanted }) = going else { return Ok(()) };
    let leads = match (&now.forward, wanted) {
        (Forward::Chosen(choice), Some(wanted)) => choice.among.lead(wanted).map_err(|denied| (End::Downstream, denied))?,
        (Forward::Tcp(upstream), _) => upstream,
        _ => return Ok(()),
    };
    still_trusted(upstream, leads).map_err(|denied| (End::Upstream, denied))
}

/// Whether what goes to `was` may go on where the upstream of that name is `now`: the far end has proven to be what another
/// configuration wanted. One of another name is another way, and those that took the first one keep it.
pub(super) fn still_trusted(was: &Upstream, now: &Upstream) -> Result<(), Denied> {
    if was.name != now.name || was.originate.prove_alike(&now.originate) {
        return Ok(());
    }
    Err(proven_otherwise())
}

/// A far end that was reached on another ground than its upstream's.
pub(super) fn proven_otherwise() -> Denied {
    changed("upstream.attested", "a far end that has proven to be what is configured now")
}

/// A client that was let in on another ground than the listener's.
pub(super) fn let_in_otherwise() -> Denied {
    changed("listener.clients", "a client that the listener lets in as it is configured now")
}

/// What was begun would not be begun as it is configured now.
pub(super) fn changed(field: &'static str, expected: &'static str) -> Denied {
    Finding::new(Reason::ConfigurationChanged, field, expected, "one from before the last reload")
        .fix("nothing, if this was to change: the next connection is let in by what is in force")
        .into()
}
