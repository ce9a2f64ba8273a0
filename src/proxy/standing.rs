//! What a live connection's verdict stands on: judged again when collateral, policy or time may have changed it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::evidence::Timestamp;
use crate::evidence::binding::Binding;
use crate::evidence::cmw::Collection;
use crate::refusal::{Denied, Finding, Reason};
use crate::tls::{Judge, Subject};
use crate::verify::AttestationResult;

/// The evidence a peer was admitted for, as long as its connection lives.
#[derive(Clone)]
pub(super) struct Standing {
    judge: Arc<dyn Judge>,
    evidence: Arc<Kept>,
    since: Timestamp,
    /// The end of the peer's certificate.
    not_after: Timestamp,
    /// How far two clocks may differ.
    skew: u64,
    /// Until when the latest verdict holds, in seconds since 1970; 0 before it is followed.
    until: Arc<AtomicU64>,
    /// Stands where it stood before the verdict.
    changes: watch::Receiver<u64>,
}

/// Evidence of a connection: some kilobytes.
pub(super) enum Kept {
    /// A leaf certificate with evidence, DER.
    Certificate(Arc<[u8]>),
    /// Evidence for the session, with what it must be bound to.
    Session(Box<(Collection, Binding)>),
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standing").field("policy", &self.judge.policy()).field("since", &self.since).finish_non_exhaustive()
    }
}

/// Why a verdict holds no longer.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// Its time is over, and judging again gives it no more.
    Expired,
    /// The peer would be refused now.
    Withdrawn(Denied),
}

impl Standing {
    /// Of evidence that is about to be judged for the first time, at `since`.
    pub(super) fn new(judge: &Arc<dyn Judge>, evidence: Kept, not_after: Timestamp, since: Timestamp) -> Self {
        let (judge, skew, changes) = (Arc::clone(judge), judge.age_rule().skew, judge.changes());
        Self { judge, evidence: Arc::new(evidence), since, not_after, skew, until: Arc::default(), changes }
    }

    /// Until when the latest verdict holds, once [`Standing::ended`] follows it.
    pub(super) fn until(&self) -> Option<Timestamp> {
        Some(Timestamp(self.until.load(Ordering::SeqCst))).filter(|until| until.0 != 0)
    }

    /// The certificate that carries the evidence, where one does.
    pub(super) fn certificate(&self) -> Option<Arc<[u8]>> {
        match &*self.evidence {
            Kept::Certificate(leaf) => Some(Arc::clone(leaf)),
            Kept::Session(_) => None,
        }
    }

    /// The verdict when it was presented.
    pub(super) fn first(&self) -> Result<Arc<AttestationResult>, Denied> {
        match &*self.evidence {
            Kept::Certificate(leaf) => self.judge.certificate(leaf, self.since),
            Kept::Session(session) => self.judge.session(&session.0, &session.1, self.since).map(Arc::new),
        }
    }

    /// The verdict as of now.
    fn again(&self, now: Timestamp) -> Result<Arc<AttestationResult>, Denied> {
        match &*self.evidence {
            Kept::Certificate(leaf) => self.judge.certificate(leaf, now),
            Kept::Session(session) => self.judge.session_again(&session.0, &session.1, self.since, now).map(Arc::new),
        }
    }

    /// Waits for endorsements that were never seen, no longer than `limit`. The verdict tells whether they came.
    pub(super) async fn gather(&self, limit: Duration) {
        let subject = match &*self.evidence {
            Kept::Certificate(leaf) => Subject::Certificate(leaf),
            Kept::Session(session) => Subject::Session(&session.0),
        };
        if let Some(gathering) = self.judge.gather(subject, self.since) {
            drop(tokio::time::timeout(limit, gathering).await);
        }
    }

    /// When a verdict that ends then is looked at again, and holds no longer unless there is more of it: with less than the
    /// skew left, our own clock alone counts.
    pub(super) fn alarm(&self, end: Timestamp, now: Timestamp) -> Timestamp {
        if end.minus(self.skew) > now { end.minus(self.skew) } else { end }
    }

    /// The end of a verdict: its own, or that of the certificate.
    pub(super) fn end(&self, result: &AttestationResult) -> Timestamp {
        result.appraisal().until().min(self.not_after)
    }

    /// Returns when `result`, the first verdict, holds no longer.
    pub(super) async fn ended(&self, result: &AttestationResult, clock: &Clock) -> Ended {
        let mut changes = self.changes.clone();
        let mut end = self.end(result);
        loop {
            self.until.store(end.0, Ordering::SeqCst);
            let now = match clock.now() {
                Ok(now) => now,
                Err(denied) => return Ended::Withdrawn(denied),
            };
            let alarm = self.alarm(end, now);
            let left = Duration::from_secs(alarm.0.saturating_sub(now.0));
            let changed = tokio::select! {
                biased;
                () = changed(&mut changes) => true,
                () = reached(alarm, left, clock) => false,
            };
            // Every live connection is judged again at once: none for longer than its turn.
            tokio::task::yield_now().await;
            let verdict = clock.now().and_then(|now| self.again(now));
            match verdict.and_then(|later| same(result, &later).map(|()| self.end(&later))) {
                Err(denied) => return Ended::Withdrawn(denied),
                // Its time came, and there is no more of it.
                Ok(later) if !changed && later <= end => return Ended::Expired,
                Ok(later) => end = later,
            }
        }
    }
}

/// Refuses a verdict that is another than the first: what the peer may call, and what the application is told of it, stands
/// on the entry that it was admitted for.
fn same(first: &AttestationResult, later: &AttestationResult) -> Result<(), Denied> {
    let told = |result: &AttestationResult| {
        let appraisal = result.appraisal();
        let observed = if appraisal.observed().is_empty() { "" } else { ", with findings that are only observed" };
        format!("entry {}{observed}", appraisal.entry())
    };
    let (expected, found) = (told(first), told(later));
    if expected == found {
        return Ok(());
    }
    Finding::new(Reason::IdentityMismatch, "verdict.entry", format!("{expected}, as when it was admitted"), found)
        .fix("nothing, if the policy was to change: the peer's next connection is admitted for what it is now")
        .refuse()
}

/// Waits until `left` has passed or the wall clock says `alarm`: a timer alone does not see when the clock is set or the
/// machine slept.
async fn reached(alarm: Timestamp, left: Duration, clock: &Clock) {
    let end = Instant::now() + left;
    loop {
        tokio::time::sleep_until(end.min(Instant::now() + LOOK)).await;
        if Instant::now() >= end || !clock.now().is_ok_and(|now| now < alarm) {
            return;
        }
    }
}

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(30);

async fn changed(changes: &mut watch::Receiver<u64>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
