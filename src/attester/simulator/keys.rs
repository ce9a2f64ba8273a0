//! The simulator's keys: RSA keys that are compiled in, and P-384 keys derived from a machine's identity.

use std::sync::OnceLock;

use aws_lc_rs::agreement::{ECDH_P384, PrivateKey};
use aws_lc_rs::encoding::{AsBigEndian as _, EcPublicKeyUncompressedBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PSS_SHA384, RsaKeyPair};

use super::authority::Role;
use crate::crypto::sha384;
use crate::evidence::snp::Product;

/// One of the vendor's RSA keys. Reading it is put off until something is signed with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RsaKey {
    product: Product,
    role: Role,
}

impl RsaKey {
    pub(super) const fn new(product: Product, role: Role) -> Self {
        Self { product, role }
    }

    /// The PKCS#1 `RSAPublicKey` in DER.
    pub(super) fn public(self) -> Vec<u8> {
        self.pair().public_key().as_ref().to_vec()
    }

    /// RSASSA-PSS with SHA-384, MGF1-SHA-384 and a salt of 48 octets; randomised.
    pub(super) fn sign(self, message: &[u8]) -> Vec<u8> {
        let pair = self.pair();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PSS_SHA384, &SystemRandom::new(), message, &mut signature).expect("the compiled-in keys can sign");
        signature
    }

    fn pair(self) -> &'static RsaKeyPair {
        static PAIRS: [OnceLock<RsaKeyPair>; 9] = [const { OnceLock::new() }; 9];
        let (place, pkcs8): (usize, &[u8]) = match (self.product, self.role) {
            (Product::Genoa, Role::Ark) => (0, include_bytes!("keys/ark-genoa.pkcs8.der")),
            (Product::Genoa, Role::Ask) => (1, include_bytes!("keys/ask-genoa.pkcs8.der")),
            (Product::Genoa, Role::Asvk) => (2, include_bytes!("keys/asvk-genoa.pkcs8.der")),
            (Product::Milan, Role::Ark) => (3, include_bytes!("keys/ark-milan.pkcs8.der")),
            (Product::Milan, Role::Ask) => (4, include_bytes!("keys/ask-milan.pkcs8.der")),
            (Product::Milan, Role::Asvk) => (5, include_bytes!("keys/asvk-milan.pkcs8.der")),
            (Product::Turin, Role::Ark) => (6, include_bytes!("keys/ark-turin.pkcs8.der")),
            (Product::Turin, Role::Ask) => (7, include_bytes!("keys/ask-turin.pkcs8.der")),
            (Product::Turin, Role::Asvk) => (8, include_bytes!("keys/asvk-turin.pkcs8.der")),
        };
        PAIRS[place].get_or_init(|| RsaKeyPair::from_pkcs8(pkcs8).expect("the compiled-in keys can be read"))
    }
}

/// A VCEK or VLEK: P-384, the same for the same origin.
#[derive(Debug)]
pub(super) struct VekKey {
    pair: EcdsaKeyPair,
}

impl VekKey {
    /// The key that belongs to `origin` (everything a machine's firmware would derive its key from).
    pub(super) fn derive(origin: &[&[u8]]) -> Self {
        let mut parts = vec![b"portcullis simulator: VEK".as_slice()];
        parts.extend(origin);
        let mut scalar = sha384(&parts);
        loop {
            // Zero and numbers from the group's order upwards are not keys. They do not happen; if one does, take the next.
            if let Some(pair) = pair_of(&scalar) {
                return Self { pair };
            }
            scalar = sha384(&[&scalar]);
        }
    }

    /// The public key as an uncompressed point, 97 octets.
    pub(super) fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// ECDSA with SHA-384: `r ‖ s`, 48 octets each, big-endian; randomised.
    pub(super) fn sign(&self, message: &[u8]) -> [u8; 96] {
        let signature = self.pair.sign(&SystemRandom::new(), message).expect("a derived key can sign");
        signature.as_ref().try_into().expect("r and s of P-384 have 48 octets each")
    }
}

fn pair_of(scalar: &[u8; 48]) -> Option<EcdsaKeyPair> {
    let private = PrivateKey::from_private_key(&ECDH_P384, scalar).ok()?;
    let public: EcPublicKeyUncompressedBin<'_> = private.compute_public_key().ok()?.as_be_bytes().ok()?;
    EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P384_SHA384_FIXED_SIGNING, scalar, public.as_ref()).ok()
}
