//! What a connection's requests are served by: the site of its listener as it is configured now, as long as the listener
//! lets clients in on the ground that this one was let in on.

use std::sync::{Arc, PoisonError};

use hyper::{HeaderMap, StatusCode};
use tokio::sync::watch;

use super::answer::Problem;
use super::body::Clean;
use super::identity::{self, Introduction};
use super::{Connection, Running, fields};
use crate::proxy::accept::Accepting;
use crate::proxy::admit::Admitted;
use crate::proxy::now::{self, Now};
use crate::refusal::Denied;

/// A site as one connection's requests are served by it. Held by a request until its answer begins.
pub(super) struct View {
    pub(super) site: Arc<Running>,
    pub(super) introduction: Arc<Introduction>,
    /// What is removed from trailers, either way.
    pub(super) clean: Clean,
}

/// Why a connection's requests are served no more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Left {
    /// The listener lets clients in on another ground.
    Ground,
    /// There is no such listener.
    Listener,
}

/// A connection's latest view.
pub(super) struct Following {
    now: watch::Receiver<Now>,
    /// It has an error once, and then for good.
    view: Result<Arc<View>, Left>,
}

impl Following {
    pub(super) fn begin(mut now: watch::Receiver<Now>, let_in_by: &Accepting, admitted: &Admitted) -> Self {
        let view = view(&now.borrow_and_update(), let_in_by, admitted);
        Self { now, view }
    }
}

impl Connection {
    /// What the next request is served by.
    pub(super) fn view(&self) -> Result<Arc<View>, Left> {
        let mut following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        // An error: the proxy ends, and nobody can say whether something changed before.
        if following.view.is_ok() && following.now.has_changed().unwrap_or(true) {
            let now = following.now.borrow_and_update().clone();
            let same = |view: &Arc<View>| now.site.as_ref().is_some_and(|site| Arc::ptr_eq(site, &view.site));
            if !following.view.as_ref().is_ok_and(same) || !grounded(&now, &self.let_in_by) {
                following.view = view(&now, &self.let_in_by, &self.admitted);
            }
        }
        following.view.clone()
    }

    /// Returns when what was begun for a request may not go on: when `may` says so of the latest view, or when the client
    /// would not be let in any more. What a listener that is gone has begun is cut by its connection, in its time.
    pub(super) async fn overruled(&self, may: impl Fn(&View) -> Result<(), Denied>) -> Denied {
        let mut now = self.now.clone();
        loop {
            now.borrow_and_update();
            match self.view() {
                Ok(view) => {
                    if let Err(denied) = may(&view) {
                        return denied;
                    }
                }
                Err(Left::Ground) => return now::let_in_otherwise(),
                Err(Left::Listener) => {}
            }
            if now.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Left {
    /// What a request is answered that comes all the same: it may be sent over another connection.
    pub(super) fn problem(self) -> Problem {
        let why = match self {
            Self::Ground => "the listener lets clients in otherwise since this connection was made: make another",
            Self::Listener => "the listener of this connection is no more",
        };
        Problem::denied(StatusCode::MISDIRECTED_REQUEST, why)
    }
}

fn grounded(now: &Now, let_in_by: &Accepting) -> bool {
    now.accepting.as_ref().is_some_and(|accepting| now::same_ground(&let_in_by.listener, &accepting.listener))
}

fn view(now: &Now, let_in_by: &Accepting, admitted: &Admitted) -> Result<Arc<View>, Left> {
    if now.accepting.is_none() {
        return Err(Left::Listener);
    }
    let Some(site) = now.site.clone().filter(|_| grounded(now, let_in_by)) else { return Err(Left::Ground) };
    let introduction = Introduction::of(admitted, &site.plan.identity, site.plan.tokens.as_ref());
    let (plan, around) = (Arc::clone(&site.plan), Arc::clone(&site.around));
    let clean: Clean = Arc::new(move |trailers: &mut HeaderMap| {
        around.stripped(&identity::strip(trailers, &plan.strip));
        fields::strip_trailers(trailers);
    });
    Ok(Arc::new(View { site, introduction, clean }))
}
