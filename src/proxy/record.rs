//! What the log and the metrics are told of refusals: one form, wherever it is refused, and not without bound.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::admit::Ground;
use super::tcp::{End, Forwarded};
use crate::admin::metrics::Metrics;
use crate::refusal::Denied;

/// What a record is about; empty where it is not known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct About<'a> {
    pub(super) listener: &'a str,
    pub(super) peer: &'a str,
    /// Where the client wanted to go.
    pub(super) wanted: &'a str,
    pub(super) upstream: &'a str,
    pub(super) address: &'a str,
    /// What its end was admitted for.
    pub(super) ground: Option<&'a Ground>,
    pub(super) forwarded: Option<Forwarded>,
    pub(super) started: Option<Instant>,
}

impl About<'_> {
    /// The tier, the policy's entry and the policy's digest.
    pub(super) fn verdict(&self) -> (&'static str, &str, String) {
        let (tier, entry) = self.ground.map(Ground::told).unwrap_or_default();
        let digest = match self.ground {
            Some(Ground::Attested(_, result)) => data_encoding::HEXLOWER.encode(result.appraisal().policy_digest()),
            _ => String::new(),
        };
        (tier, entry, digest)
    }

    pub(super) fn duration_ms(&self) -> Option<u64> {
        self.started.map(|started| u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// Counts a refusal, and writes each of its findings, the most telling first, where `pace` allows one more.
pub(super) fn refused(metrics: &Metrics, about: &About<'_>, pace: Option<&Pace>, side: End, denied: &Denied) {
    metrics.refused(about.listener, side.name(), denied.reason().code());
    let Some(left_out) = may(pace) else { return };
    let (About { listener, peer, wanted, upstream, address, .. }, duration_ms) = (*about, about.duration_ms());
    let mut findings = denied.findings();
    if let Some(first) = findings.next() {
        tracing::warn!(
            target: "connection", event = "refused", listener, peer, wanted, upstream, address, refused = %side, reason = first.reason.code(),
            field = &*first.field, expected = first.expected, found = first.found, fix = first.advice(), duration_ms, left_out,
        );
    }
    for more in findings {
        tracing::warn!(
            target: "connection", event = "finding", listener, peer, upstream, address, refused = %side, reason = more.reason.code(),
            field = &*more.field, expected = more.expected, found = more.found, fix = more.advice(),
        );
    }
}

/// Counts a verdict that was withdrawn from what was live, and writes each finding.
pub(super) fn withdrawn(metrics: &Metrics, about: &About<'_>, side: End, denied: &Denied) {
    metrics.withdrawn(about.listener, side.name(), denied.reason().code());
    let About { listener, peer, wanted, upstream, address, forwarded, .. } = *about;
    let ((tier, entry, policy_digest), duration_ms) = (about.verdict(), about.duration_ms());
    let (bytes_received, bytes_sent) = forwarded.map(|Forwarded { up, down }| (up, down)).unzip();
    for finding in denied.findings() {
        tracing::warn!(
            target: "connection", event = "withdrawn", listener, peer, wanted, upstream, address, tier, entry, policy_digest, bytes_received, bytes_sent,
            duration_ms, refused = %side, reason = finding.reason.code(), field = &*finding.field, expected = finding.expected, found = finding.found,
            fix = finding.advice(),
        );
    }
}

/// Writes that an upstream was not reached where `pace` allows one more: the targets that were tried, each with what happened.
pub(super) fn unreachable(about: &About<'_>, pace: Option<&Pace>, tried: &[(String, io::Error)]) {
    let Some(left_out) = may(pace) else { return };
    let (About { listener, peer, wanted, upstream, .. }, duration_ms) = (*about, about.duration_ms());
    let fix = tried.last().map_or("give the upstream a target", |(_, error)| advice(error));
    let tried = tried.iter().map(|(target, error)| format!("{target}: {error}")).collect::<Vec<_>>().join("; ");
    tracing::error!(target: "connection", event = "unreachable", listener, peer, wanted, upstream, tried, fix, duration_ms, left_out);
}

fn may(pace: Option<&Pace>) -> Option<Option<u64>> {
    pace.map_or(Some(None), Pace::more)
}

/// What to do where a target was not reached.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nobody listens at the target: start what belongs there, or correct the upstream's targets",
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::UnexpectedEof => {
            "the target takes connections and drops them: its own log says why; see that it speaks what the upstream's targets say"
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "no route leads to the target: look at this machine's network, or correct the upstream's targets"
        }
        io::ErrorKind::NotFound => "the target's socket is not there: start what makes it, or correct the upstream's targets",
        io::ErrorKind::PermissionDenied => {
            "this process may not connect there: look at the mode of a Unix socket; a name of a plain target has to lead to this machine"
        }
        io::ErrorKind::QuotaExceeded => "raise the limit of open files (LimitNOFILE=), or lower limits.connections",
        io::ErrorKind::TimedOut => {
            "the target does not answer within the upstream's connect_timeout: look for a firewall that drops, or a machine that is down"
        }
        _ => "see that the name of the target can be resolved on this machine and leads to what belongs there",
    }
}

/// How many refusals one connection may have written: some at once, then one now and then. The rest is counted.
#[derive(Debug)]
pub(super) struct Pace {
    room: Mutex<(f64, Instant)>,
    left_out: AtomicU64,
}

/// So many at once.
const AT_ONCE: f64 = 16.0;

/// And then one in this time.
const EACH: Duration = Duration::from_secs(2);

impl Default for Pace {
    fn default() -> Self {
        Self { room: Mutex::new((AT_ONCE, Instant::now())), left_out: AtomicU64::new(0) }
    }
}

impl Pace {
    /// Whether one more is written; if so, how many were left out since the last, where some were.
    pub(super) fn more(&self) -> Option<Option<u64>> {
        self.more_at(Instant::now())
    }

    fn more_at(&self, now: Instant) -> Option<Option<u64>> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_duration_since(room.1).as_secs_f64() / EACH.as_secs_f64();
        *room = ((room.0 + gained).min(AT_ONCE), now.max(room.1));
        if room.0 < 1.0 {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        room.0 -= 1.0;
        drop(room);
        Some(self.left_out())
    }

    fn left_out(&self) -> Option<u64> {
        Some(self.left_out.swap(0, Ordering::Relaxed)).filter(|count| *count > 0)
    }

    /// Tells what was left out of a connection that is over.
    pub(super) fn end(&self, listener: &str, peer: &str) {
        if let Some(left_out) = self.left_out() {
            tracing::warn!(target: "connection", event = "left_out", listener, peer, left_out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_a_few_are_written() {
        let pace = Pace::default();
        let start = Instant::now();
        let written = (0..10_000).filter(|n| pace.more_at(start + Duration::from_millis(*n) / 10).is_some()).count();
        assert_eq!(written, 16);
        assert_eq!(pace.more_at(start + Duration::from_secs(3)), Some(Some(10_000 - 16)), "the next tells of those");
        assert_eq!(pace.more_at(start + Duration::from_secs(6)), Some(None));
        // A clock that stands or goes back gives nothing away.
        let written = (0..100).filter(|_| pace.more_at(start).is_some()).count();
        assert!(written <= 1, "{written}");
        assert_eq!(pace.left_out(), Some(100 - written as u64));
        assert_eq!(pace.left_out(), None);
    }
}
