//! Portcullis: an attested TLS proxy. See `docs/architecture.md` for the map.
//!
//! The core (`evidence`, `policy`, `verify`, `session`, with the leaves `crypto`, `diagnostic`, `refusal`) does no I/O
//! and reads no clock; it builds alone with `--no-default-features`.

pub mod crypto;
pub mod diagnostic;
pub mod evidence;
pub mod platform;
pub mod policy;
pub mod refusal;
pub mod session;
pub mod verify;

#[cfg(feature = "proxy")]
pub mod acme;
#[cfg(feature = "proxy")]
pub mod admin;
#[cfg(feature = "cli")]
pub mod app;
#[cfg(feature = "proxy")]
pub mod attester;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "proxy")]
pub mod clock;
#[cfg(feature = "proxy")]
pub mod collateral;
#[cfg(feature = "cli")]
pub mod config;
#[cfg(feature = "proxy")]
mod file;
#[cfg(feature = "cli")]
pub mod measure;
#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "proxy")]
pub mod tls;
