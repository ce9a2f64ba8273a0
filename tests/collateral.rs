//! Trust that stays fresh: every source with every fault, cold and warm; one question for a thousand; a cache that no
//! kill spoils; and live connections that end when what they stand on is withdrawn.
#![cfg(feature = "simulator")]
#![allow(clippy::disallowed_methods, clippy::type_complexity, unreachable_pub, reason = "modules of one test program, which reads and writes its own files")]

#[path = "collateral/cache.rs"]
mod cache;
#[path = "collateral/intel.rs"]
mod intel;
#[path = "collateral/internet.rs"]
mod internet;
#[path = "collateral/live.rs"]
mod live;
#[path = "collateral/matrix.rs"]
mod matrix;
#[allow(unreachable_pub, dead_code, reason = "shared with another test program")]
#[path = "adversary/records.rs"]
mod records;
#[path = "collateral/scene.rs"]
mod scene;
#[path = "support/sidecar.rs"]
mod sidecar;
