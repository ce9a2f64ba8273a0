//! The public keys of tokens, as their verifiers fetch them (RFC 7517). A leaf: whoever signs publishes here.

use std::sync::{Mutex, PoisonError};

/// The document that is served.
#[derive(Debug, Default)]
pub struct Jwks(Mutex<String>);

impl Jwks {
    /// No key.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new("{\"keys\":[]}".to_owned()))
    }

    /// Replaces the document.
    pub fn publish(&self, document: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = document;
    }

    /// The document, JSON.
    #[must_use]
    pub fn document(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
