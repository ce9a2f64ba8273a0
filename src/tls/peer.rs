//! Who a peer must be, beside what it runs: PKI, key pins, SPIFFE ids. Checked before a quote is spent.

use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::certificate::Leaf;
use crate::evidence::Timestamp;
use crate::refusal::{Denied, Finding, Reason};

/// Who a peer must be. Every item that is set must hold; [`PeerIdentity::default`] asks for nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PeerIdentity {
    /// A PKI chain and name.
    pub pki: Option<Pki>,
    /// SHA-256 of SubjectPublicKeyInfos; the leaf's is one of them. Empty for no pin.
    pub spki_pins: Vec<[u8; 32]>,
    /// SPIFFE ids; the leaf's only `spiffe://` URI SAN is one of them. Empty for none. Needs
    /// [`PeerIdentity::pki`], which vouches for them.
    pub spiffe_ids: Vec<String>,
}

/// A private or public PKI.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pki {
    /// Its roots.
    pub roots: Vec<TrustAnchor<'static>>,
    /// Names, one of which the leaf must be valid for. Empty accepts any name under these roots.
    pub names: Vec<ServerName<'static>>,
}

/// Which end the peer is at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerRole {
    /// It connected to us.
    Client,
    /// We connected to it.
    Server,
}

impl PeerIdentity {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pki.is_none() && self.spki_pins.is_empty() && self.spiffe_ids.is_empty()
    }

    /// Checks every item that is set against the peer's certificates.
    ///
    /// Establishes nothing about evidence. Possession of the key was proved by the handshake.
    ///
    /// # Errors
    /// `identity_mismatch`.
    pub fn check(&self, leaf: &Leaf, chain: &[CertificateDer<'_>], role: PeerRole, now: Timestamp) -> Result<(), Denied> {
        if let Some(pki) = &self.pki {
            pki.check(chain, role, now)?;
        }
        if !self.spki_pins.is_empty() && !self.spki_pins.iter().any(|pin| crate::crypto::same(pin, leaf.spki_sha256())) {
            let hex = |digest: &[u8; 32]| data_encoding::HEXLOWER.encode(digest);
            let pins: Vec<_> = self.spki_pins.iter().map(hex).collect();
            return mismatch("peer.spki_sha256", pins.join(" or "), hex(leaf.spki_sha256()));
        }
        let mut ids = leaf.facts().names.iter().filter(|name| name.starts_with("spiffe://"));
        let (id, more) = (ids.next(), ids.next());
        if !self.spiffe_ids.is_empty() && (more.is_some() || !id.is_some_and(|id| self.spiffe_ids.contains(id))) {
            let found = if more.is_some() { "several SPIFFE ids" } else { id.map_or("none", String::as_str) };
            return mismatch("peer.spiffe_id", self.spiffe_ids.join(" or "), found.to_owned());
        }
        Ok(())
    }
}

impl Pki {
    fn check(&self, chain: &[CertificateDer<'_>], role: PeerRole, now: Timestamp) -> Result<(), Denied> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return mismatch("peer.pki", "a certificate".to_owned(), "none".to_owned());
        };
        let leaf =
            EndEntityCert::try_from(leaf).or_else(|error| mismatch("peer.pki", "a certificate under a configured root".to_owned(), error.to_string()))?;
        let usage = match role {
            PeerRole::Client => KeyUsage::client_auth(),
            PeerRole::Server => KeyUsage::server_auth(),
        };
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.0));
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(algorithms, &self.roots, intermediates, time, usage, None, None)
            .or_else(|error| mismatch("peer.pki", "a chain to a configured root".to_owned(), error.to_string()))?;
        if self.names.is_empty() || self.names.iter().any(|name| leaf.verify_is_valid_for_subject_name(name).is_ok()) {
            return Ok(());
        }
        let names: Vec<_> = self.names.iter().map(|name| name.to_str().into_owned()).collect();
        mismatch("peer.name", names.join(" or "), leaf.valid_dns_names().collect::<Vec<_>>().join(", "))
    }
}

fn mismatch<T>(field: &'static str, expected: String, found: String) -> Result<T, Denied> {
    Finding::new(Reason::IdentityMismatch, field, expected, found).fix("compare the certificate of the other side with this side's identity settings").refuse()
}
