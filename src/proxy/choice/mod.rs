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

impl By {
    /// Whether everybody whom `other` lets in is let in by this, in the same way.
    #[must_use]
    pub fn lets_in_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Socks5(accounts), Self::Socks5(others)) => match (accounts, others) {
                (None, _) => true,
                (Some(accounts), Some(others)) => others.0.iter().all(|account| accounts.0.contains(account)),
                (Some(_), None) => false,
            },
            _ => self == other,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_accounts_let_in_whom_fewer_did_and_no_account_lets_in_everybody() {
        let of = |accounts: &[u8]| By::Socks5(Some(Arc::new(Accounts::new(accounts.iter().map(|account| [*account; 32]).collect()))));
        let anybody = By::Socks5(None);
        for (now, was, goes_on) in [
            (of(&[2, 1, 3]), of(&[1, 2]), true),
            (of(&[1]), of(&[1, 2]), false),
            (of(&[]), of(&[]), true),
            (anybody.clone(), of(&[1]), true),
            (of(&[1]), anybody.clone(), false),
            (anybody.clone(), By::ServerName, false),
            (By::ServerName, By::ServerName, true),
            (By::Captured(Capture::Redirect), By::Captured(Capture::Tproxy), false),
        ] {
            assert_eq!(now.lets_in_as(&was), goes_on, "{was:?} then {now:?}");
        }
    }
}
