//! Remembering that a signature verified.
//!
//! "This signature over these bytes verifies under this key" is a mathematical fact: it does not depend on the time, the
//! policy or the connection, so remembering it is sound. Dates, revocation and policy are judged anew every time.

use crate::crypto::{Scheme, sha256, verifies};

/// A bounded memory of signatures that verified, by the SHA-256 of everything that went into the check.
pub trait SignatureMemo: Sync {
    /// Whether this check is known to have succeeded.
    fn knows(&self, check: &[u8; 32]) -> bool;

    /// Notes that this check succeeded.
    fn learn(&self, check: [u8; 32]);
}

/// Remembers nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoMemo;

impl SignatureMemo for NoMemo {
    fn knows(&self, _: &[u8; 32]) -> bool {
        false
    }

    fn learn(&self, _: [u8; 32]) {}
}

/// Whether the signature verifies, by memory or by computation. For signatures that come again: certificates and
/// revocation lists, not reports.
pub(super) fn verifies_once(memo: &dyn SignatureMemo, scheme: Scheme, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let check = check(scheme, key, message, signature);
    if memo.knows(&check) {
        return true;
    }
    let good = verifies(scheme, key, message, signature);
    if good {
        memo.learn(check);
    }
    good
}

/// Whether the signature is known to verify. What is unknown may verify or not.
pub(super) fn verified_before(memo: &dyn SignatureMemo, scheme: Scheme, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    memo.knows(&check(scheme, key, message, signature))
}

fn check(scheme: Scheme, key: &[u8], message: &[u8], signature: &[u8]) -> [u8; 32] {
    let lengths = [key.len(), message.len()].map(|length| u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
    let name: &[u8] = match scheme {
        Scheme::EcdsaP256Sha256 => b"ecdsa-p256-sha256",
        Scheme::EcdsaP384Sha384 => b"ecdsa-p384-sha384",
        Scheme::EcdsaP521Sha512 => b"ecdsa-p521-sha512",
        Scheme::Ed25519Sha3 => b"ed25519-sha3",
        Scheme::RsaPkcs1Sha256 => b"rsa-pkcs1-sha256",
        Scheme::RsaPkcs1Sha384 => b"rsa-pkcs1-sha384",
        Scheme::RsaPssSha256 => b"rsa-pss-sha256",
        Scheme::RsaPssSha384 => b"rsa-pss-sha384",
    };
    sha256(&[name, &[0], lengths.as_flattened(), key, message, signature])
}
