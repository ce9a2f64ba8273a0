//! Metrics are written when a record ends, which may be after the peer has seen the end.
#![allow(dead_code, reason = "shared by several tests, each of which uses its part")]

use std::time::Duration;

use portcullis::admin::metrics::Metrics;

/// Waits until the metrics say this; fails with all they say when they do not.
pub(crate) async fn told(metrics: &Metrics, wanted: &str) {
    for _ in 0..1000 {
        if metrics.text().contains(wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{wanted} not in\n{}", metrics.text());
}
