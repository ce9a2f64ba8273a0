//! TLS-ALPN-01 (RFC 8737): proves to a CA that a name leads to this process. The certificates of challenges are shown for
//! the protocol `acme-tls/1` and for nothing else, and such a connection carries no byte of an application.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;

use super::certificate::NotIssued;
use super::config;
use crate::clock::Clock;

/// The one protocol of a challenge.
pub const ALPN_ACME: &[u8] = b"acme-tls/1";

/// More names at a time are no certificate's.
const MOST: usize = 256;

/// The challenges that a CA may look for now. Clones share them.
#[derive(Clone, Default)]
pub struct Challenges(Arc<Mutex<BTreeMap<String, Arc<ServerConfig>>>>);

/// Shows the answer to one challenge until it is dropped.
#[derive(Debug)]
pub struct Shown {
    challenges: Challenges,
    name: String,
    config: Arc<ServerConfig>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut shown = self.challenges.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Another order for the name may have put its own in this one's place.
        if shown.get(&self.name).is_some_and(|config| Arc::ptr_eq(config, &self.config)) {
            shown.remove(&self.name);
        }
    }
}

/// What a client that has said hello asks for.
pub(super) enum Asked {
    /// The answer to a challenge that is shown.
    Challenge(Arc<ServerConfig>),
    /// The answer to a challenge that nobody set.
    NoChallenge,
    /// Anything else.
    Ordinary,
}

impl Challenges {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows, to whoever asks by `acme-tls/1`, that `name` leads here: `digest` is the SHA-256 of the key authorization.
    ///
    /// # Errors
    /// When the certificate cannot be made, or too many are shown.
    pub fn show(&self, name: &str, digest: &[u8; 32], clock: &Clock) -> Result<Shown, NotIssued> {
        let config = Arc::new(presenting(name, digest, clock)?);
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.len() >= MOST {
            return Err(NotIssued::Signing("too many challenges at a time".to_owned()));
        }
        shown.insert(name.to_owned(), Arc::clone(&config));
        Ok(Shown { challenges: self.clone(), name: name.to_owned(), config })
    }

    /// What `hello` asks for. A CA offers `acme-tls/1` and nothing beside it (RFC 8737, section 3).
    pub(super) fn asked(&self, hello: &ClientHello<'_>) -> Asked {
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.next() != Some(ALPN_ACME) || offered.next().is_some() {
            return Asked::Ordinary;
        }
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hello.server_name().and_then(|name| shown.get(name)).map_or(Asked::NoChallenge, |config| Asked::Challenge(Arc::clone(config)))
    }
}

impl std::fmt::Debug for Challenges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        f.debug_tuple("Challenges").field(&names).finish()
    }
}

fn presenting(name: &str, digest: &[u8; 32], clock: &Clock) -> Result<ServerConfig, NotIssued> {
    let failed = |why: &dyn std::fmt::Display| NotIssued::Signing(why.to_string());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| failed(&error))?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(|_| NotIssued::Name(name.to_owned()))?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signing = any_supported_type(&der).map_err(|error| failed(&error))?;
    let certified = CertifiedKey::new(vec![certificate.der().clone()], signing);
    config::challenge(Arc::new(certified), clock).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::EARLIEST;

    /// Two listeners may have one name, and a reload ends an order while another has begun.
    #[test]
    fn an_order_that_ends_leaves_what_another_shows_for_the_name() {
        let (challenges, clock) = (Challenges::new(), Clock::standing_at(EARLIEST));
        let show = |digest: u8| challenges.show("a.example", &[digest; 32], &clock).expect("a challenge");
        let there = || challenges.0.lock().expect("no panic").len();
        let first = show(1);
        let second = show(2);
        drop(first);
        assert_eq!(there(), 1, "the CA looks for it");
        drop(second);
        assert_eq!(there(), 0);
    }
}
