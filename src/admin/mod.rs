//! The operator's window: what is counted and how this process is doing, read-only, over HTTP.
//!
//! Not here: anything that changes state. The leaves [`health`] and [`metrics`] import nothing of this crate.

pub mod health;
pub mod metrics;
