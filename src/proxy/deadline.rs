//! The time that a stage of admission may take.

use std::time::Duration;

use crate::refusal::{Denied, Finding, Reason};

/// What `work` gives, or a refusal when it is not done within `limit`. `stage` is what findings call it.
///
/// # Errors
/// As `work`, and `timeout`.
pub(super) async fn in_time<T>(stage: &'static str, limit: Duration, work: impl Future<Output = Result<T, Denied>>) -> Result<T, Denied> {
    // Boxed: the state of handshakes and exchanges is large, and the connection outlives them.
    match tokio::time::timeout(limit, Box::pin(work)).await {
        Ok(done) => done,
        Err(_) => Finding::new(Reason::Timeout, stage, format!("an end within {} s", limit.as_secs()), "none").refuse(),
    }
}
