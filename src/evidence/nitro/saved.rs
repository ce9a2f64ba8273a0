//! How documents look in files. Read, not believed.

use super::{Document, Kind};
use crate::evidence::saved::Saved;

/// The short names of the revocation lists: of the root's, and of the region's.
pub const ENDORSEMENTS: &[&str] = &["nitro-crl", "nitro-region-crl"];

/// An enclave's document in a file.
pub const ENCLAVE: Saved =
    Saved { evidence: "nitro.cose", endorsements: ENDORSEMENTS, is_evidence: |bytes| is(bytes, Kind::Enclave), endorsement: |_| None, assemble: |_| None };

/// An instance's document in a file.
pub const TPM: Saved =
    Saved { evidence: "nitrotpm.cose", endorsements: ENDORSEMENTS, is_evidence: |bytes| is(bytes, Kind::Tpm), endorsement: |_| None, assemble: |_| None };

fn is(bytes: &[u8], kind: Kind) -> bool {
    Document::parse(bytes).is_ok_and(|(_, document)| document.kind == kind)
}
