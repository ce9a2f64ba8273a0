//! The exchange after the handshake: frames, messages and the order they come in. No sockets, no clock, no judgement.
//!
//! Each step takes itself by value and gives the next, so that a frame out of order, a second one of a kind, or a
//! stream opened in between does not compile; what the peer sends is held against the one kind that may come.

#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

pub mod exchange;
pub mod frame;
pub mod message;

pub use exchange::{Agreed, AwaitEvidence, AwaitHelloClient, AwaitHelloServer, AwaitResult, Offer, Presented};
pub use frame::{Frame, Kind};
pub use message::{Attest, Code, EvidenceMessage, Hello};
