//! A simulated vendor and its machines: genuine SEV-SNP formats under published roots.
//!
//! For tests, the demo and trying things out. Everything that AMD signs is signed here too, with the names, extensions,
//! algorithms and encodings of the real certificates, but with keys that anybody has (see `keys/README.md`). Evidence
//! made here proves nothing; it is accepted only where a policy names the simulator in an `insecure_` key.
//!
//! Not for: judging anything. No clock is read: the present is an argument.

mod authority;
mod certificate;
mod der;
mod forge;
mod keys;
mod machine;
mod revocation;

use crate::evidence::snp::Product;

pub use authority::{Role, SimulatedVendor};
pub use certificate::{Trailer, VekCertificate, VekExtension};
pub use forge::{Forge, Patch};
pub use machine::{Fault, SimulatedAttester};
pub use revocation::RevocationList;

/// The launch measurement of a simulated guest when none is set: ASCII text, so that it is known when it is seen.
pub const MEASUREMENT: [u8; 48] = *b"portcullis simulator: this measures nothing real";

/// The published root keys: DER SubjectPublicKeyInfo, by product.
#[must_use]
pub fn roots() -> [(Product, Vec<u8>); 3] {
    Product::ALL.map(|product| (product, SimulatedVendor::new(product).root_spki()))
}
