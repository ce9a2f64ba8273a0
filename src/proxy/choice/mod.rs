//! Clients that say where they want to go: how they say it, and whether a listener's table leads there.
//!
//! What a client says chooses among the upstreams that the operator wrote, and nothing else: no name of a client's is
//! resolved, no address of a client's is dialled, and what the table does not have is refused.

mod ask;
mod destination;
pub mod hello;
pub mod socks;

pub(super) use ask::{Unasked, Why, looped};
pub use destination::{Destination, Destinations, Host, Place, Wanted};

use std::sync::Arc;

/// Where the clients of a listener may go, and how they say where they want to.
#[derive(Clone, Debug)]
pub struct Choice {
    /// How they say it.
    pub by: By,
    /// Where they may go.
    pub among: Destinations,
}

/// How clients say where they want to go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum By {
    /// Their connections were captured on the way there.
    Captured(Capture),
    /// The name in the handshake with us.
    ServerName,
    /// The name in a handshake that is not for us, and passes untouched. Nothing is attested here.
    ServerNamePassing,
    /// SOCKS5 (RFC 1928), with a user and password where there are accounts (RFC 1929).
    Socks5(Option<Arc<Accounts>>),
}

/// How connections are captured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Capture {
    /// Their destination was rewritten to the listener's place; the system remembers what it was.
    Redirect,
    /// They come with their destination, which is no address of this machine.
    Tproxy,
}

/// Who may use a listener; of each what [`crate::crypto::account`] keeps.
#[derive(Clone, Eq, PartialEq)]
pub struct Accounts(Vec<[u8; 32]>);

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} accounts", self.0.len())
    }
}

impl Accounts {
    /// These.
    #[must_use]
    pub const fn new(digests: Vec<[u8; 32]>) -> Self {
        Self(digests)
    }

    /// Whether one of them is this user with this password. Digests are compared, whose agreement tells nothing of how much
    /// of a password was right.
    #[must_use]
    pub fn know(&self, user: &[u8], password: &[u8]) -> bool {
        self.0.contains(&crate::crypto::account(user, password))
    }
}
