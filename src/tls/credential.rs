//! One key of ours with its certificate: what a handshake presents.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use crate::evidence::{KeyDigest, Timestamp};

/// A key and its certificate. Never changes; rotation makes another.
pub struct Credential {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) key: KeyDigest,
    pub(super) not_after: Timestamp,
    pub(super) made: Timestamp,
}

impl Credential {
    /// The key's digest.
    #[must_use]
    pub const fn key(&self) -> &KeyDigest {
        &self.key
    }

    /// The leaf certificate, DER.
    #[must_use]
    pub fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.certified.cert.first()
    }

    /// The last moment at which it is presented.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// When it was made or read.
    #[must_use]
    pub const fn made(&self) -> Timestamp {
        self.made
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("key", &self.key).field("not_after", &self.not_after).finish_non_exhaustive()
    }
}
