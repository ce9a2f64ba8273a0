//! What a listener that keeps connections to its upstreams has from the proxy: HTTP's pools and tunnels' sessions.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::admit::Admitted;
use super::handshake::Handshakes;
use super::limits::Sockets;
use super::plan::Limits;
use super::{Parts, Phase};

/// What a listener has from the proxy that keeps connections to its upstreams.
#[derive(Clone, Debug)]
pub(super) struct Around {
    pub(super) listener: String,
    pub(super) limits: Limits,
    pub(super) parts: Parts,
    pub(super) phase: watch::Receiver<Phase>,
    /// Held by what runs, never used.
    pub(super) alive: mpsc::Sender<()>,
    /// Whether clients come over TLS.
    pub(super) secure: bool,
    /// Whether clients may be anybody, and are told nothing of our reasons.
    pub(super) strangers: bool,
    /// What pools open counts here.
    pub(super) sockets: Sockets,
}

impl Around {
    /// Whether what was made for one serves the other.
    pub(super) fn same(&self, other: &Self) -> bool {
        // Taken apart, so that of a new field it is decided whether it is served alike.
        let Self { listener, limits, parts: _, phase: _, alive: _, secure, strangers, sockets: _ } = self;
        (listener, limits, secure, strangers) == (&other.listener, &other.limits, &other.secure, &other.strangers)
    }

    /// The handshakes made for the listener.
    pub(super) fn handshakes(&self) -> Handshakes<'_> {
        Handshakes { listener: &self.listener, limits: &self.limits, parts: &self.parts }
    }

    /// For how long a verdict holds; later judgements may give it more. `None` where there is none.
    pub(super) fn remaining(&self, admitted: &Admitted) -> Option<Duration> {
        let now = self.parts.clock.now().ok()?;
        admitted.ends(now).map(|end| Duration::from_secs(end.0.saturating_sub(now.0)))
    }
}
