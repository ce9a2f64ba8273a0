//! The negative catalogue of the protocol: hostile peers against real sidecars in this process.
//!
//! Every case changes one thing of a connection that is otherwise accepted, and asserts the stable code of the refusal,
//! that the service saw no connection, and that the application's bytes went nowhere. The hostile ends share no code
//! with the rooms they attack: they speak the wire protocol by hand over their own TLS.

#![cfg(all(feature = "simulator", feature = "cli"))]
#![allow(clippy::type_complexity, unreachable_pub, reason = "modules of one test program")]

#[path = "adversary/attack.rs"]
mod attack;
#[path = "adversary/binding.rs"]
mod binding;
#[path = "adversary/certificates.rs"]
mod certificates;
#[path = "adversary/exchange.rs"]
mod exchange;
#[path = "adversary/handshake.rs"]
mod handshake;
#[path = "adversary/operations.rs"]
mod operations;
#[path = "adversary/peer.rs"]
mod peer;
#[path = "adversary/records.rs"]
mod records;
#[path = "adversary/relay.rs"]
mod relay;
#[path = "adversary/script.rs"]
mod script;
#[path = "adversary/wire.rs"]
mod wire;
#[path = "adversary/world.rs"]
mod world;
