//! rustls on one side, evidence on the other: handshakes whose stream stays locked until a verdict opens it.
//!
//! Here is proof of possession, form and identity. Whether evidence is believed is for a [`Judge`], which the relying
//! party supplies; nothing in this room appraises.

pub(crate) mod buffer;
pub mod certificate;
pub mod challenge;
mod config;
pub mod credential;
mod failure;
pub mod identity;
pub mod peer;
mod pending;
mod room;
mod side;
mod verifier;

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::evidence::Timestamp;
use crate::evidence::binding::{AgeRule, Binding};
use crate::evidence::cmw::Collection;
use crate::refusal::Denied;
use crate::verify::AttestationResult;

pub use buffer::ReadAhead;
pub use challenge::Challenges;
pub use credential::Credential;
pub use identity::{Identity, IdentityError, IdentitySettings, IdentityState};
pub use peer::{PeerIdentity, Pki};
pub use pending::{Pending, Unattested, accept, connect, greet};
pub use room::Room;
pub use side::{ClientSettings, ClientSide, Clients, DEFAULT_EVIDENCE, MAX_EVIDENCE, Peer, ServerSettings, ServerSide, SideError, Tier};

/// What every protocol id with an exchange begins with.
pub const ALPN_PREFIX: &[u8] = b"portcullis1/";

/// The protocol id for opaque bytes behind the exchange.
pub const ALPN_RAW: &[u8] = b"portcullis1/raw";

/// The protocol id for HTTP/1.1 behind the exchange.
pub const ALPN_HTTP1: &[u8] = b"portcullis1/http/1.1";

/// The protocol id for HTTP/2 behind the exchange.
pub const ALPN_H2: &[u8] = b"portcullis1/h2";

/// The protocol id for many connections behind the exchange, as streams of HTTP/2. Where one side asks for it and the other
/// does not know it, there is no connection.
pub const ALPN_TUNNEL: &[u8] = b"portcullis1/tunnel";

/// 32 fresh random octets for a HELLO.
///
/// # Errors
/// `tls_unacceptable` when the system gives no randomness.
pub fn nonce() -> Result<[u8; 32], Denied> {
    let mut nonce = [0; 32];
    let filled = config::provider().secure_random.fill(&mut nonce);
    filled.map_err(|_| failure::of_tls(&rustls::Error::FailedToGetRandomBytes))?;
    Ok(nonce)
}

/// What is to be judged.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A leaf certificate with evidence, DER.
    Certificate(&'a [u8]),
    /// Evidence for a session.
    Session(&'a Collection),
}

/// A wait for endorsements.
pub type Gathering<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What decides about a peer's evidence: the relying party's appraisal, seen from here.
///
/// Implementations fail closed: a panic, a missing endorsement or an unknown platform is a [`Denied`].
pub trait Judge: Send + Sync {
    /// The media types of the evidence it can judge, best first: what a HELLO lists. Never empty.
    fn accepts(&self) -> Vec<String>;

    /// How old certificate evidence may be, and how far two clocks may differ.
    fn age_rule(&self) -> AgeRule;

    /// The policy's name, for logs and metrics.
    fn policy(&self) -> String;

    /// SHA-256 of the policy, for the log.
    fn policy_digest(&self) -> [u8; 32];

    /// Judges the evidence in this leaf certificate (DER). May remember verdicts within their validity.
    ///
    /// # Errors
    /// [`Denied`] with every finding of the first stage that has any.
    fn certificate(&self, leaf: &[u8], now: Timestamp) -> Result<Arc<AttestationResult>, Denied>;

    /// Judges evidence made for one session. Never remembers a verdict.
    ///
    /// # Errors
    /// As [`Judge::certificate`].
    fn session(&self, presented: &Collection, binding: &Binding, now: Timestamp) -> Result<AttestationResult, Denied>;

    /// Judges session evidence again that was presented at `since`: would its connection be let through now?
    ///
    /// # Errors
    /// As [`Judge::certificate`].
    fn session_again(&self, presented: &Collection, binding: &Binding, _since: Timestamp, now: Timestamp) -> Result<AttestationResult, Denied> {
        self.session(presented, binding, now)
    }

    /// What must be waited for before `subject` can be judged: endorsements that were never seen. `None`, and nothing is
    /// waited for, when there are none; that a wait ended does not mean that it got them.
    fn gather<'a>(&'a self, _subject: Subject<'a>, _now: Timestamp) -> Option<Gathering<'a>> {
        None
    }

    /// Changes whenever verdicts that were given may no longer hold, or new ones may differ. The end of the channel means
    /// that nothing ever changes.
    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}
