//! Elliptic keys that follow from an origin, the same for the same origin, and what they sign.

use aws_lc_rs::agreement::{Algorithm, ECDH_P256, ECDH_P384, PrivateKey};
use aws_lc_rs::encoding::{AsBigEndian as _, EcPublicKeyUncompressedBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _};
use yasna::construct_der;

use super::der;
use crate::crypto::{Scheme, sha384};
use crate::evidence::spki::EllipticKey;

/// A curve with the scheme that goes with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Curve {
    /// P-256 and SHA-256.
    P256,
    /// P-384 and SHA-384.
    P384,
}

/// A key pair.
#[derive(Debug)]
pub struct EcKey {
    curve: Curve,
    pair: EcdsaKeyPair,
}

impl Curve {
    /// Its signature scheme.
    #[must_use]
    pub const fn scheme(self) -> Scheme {
        match self {
            Self::P256 => Scheme::EcdsaP256Sha256,
            Self::P384 => Scheme::EcdsaP384Sha384,
        }
    }

    const fn algorithms(self) -> (&'static Algorithm, &'static EcdsaSigningAlgorithm, usize) {
        match self {
            Self::P256 => (&ECDH_P256, &ECDSA_P256_SHA256_FIXED_SIGNING, 32),
            Self::P384 => (&ECDH_P384, &ECDSA_P384_SHA384_FIXED_SIGNING, 48),
        }
    }
}

impl EcKey {
    /// The key that belongs to `origin`: a name, and everything that tells it from others of the name.
    #[must_use]
    pub fn derive(curve: Curve, origin: &[&[u8]]) -> Self {
        let (.., octets) = curve.algorithms();
        let mut parts = vec![b"portcullis simulator: elliptic key".as_slice()];
        parts.extend(origin);
        let mut seed = sha384(&parts);
        loop {
            // Zero and numbers from the group's order upwards are not keys; take the next.
            if let Some(pair) = pair_of(curve, &seed[..octets]) {
                return Self { curve, pair };
            }
            seed = sha384(&[&seed]);
        }
    }

    /// The public key as an uncompressed point.
    #[must_use]
    pub fn point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> EllipticKey {
        EllipticKey { scheme: self.curve.scheme(), point: self.point().to_vec() }
    }

    /// The public key as a DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        const EC_PUBLIC_KEY: &[u64] = &[1, 2, 840, 10_045, 2, 1];
        let curve: &[u64] = match self.curve {
            Curve::P256 => &[1, 2, 840, 10_045, 3, 1, 7],
            Curve::P384 => &[1, 3, 132, 0, 34],
        };
        construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_sequence(|writer| {
                    der::oid(writer.next(), EC_PUBLIC_KEY);
                    der::oid(writer.next(), curve);
                });
                der::bits(writer.next(), self.point());
            });
        })
    }

    /// `r ‖ s`, big-endian; randomised.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), message).expect("a derived key can sign").as_ref().to_vec()
    }

    /// A DER `Ecdsa-Sig-Value`; randomised.
    #[must_use]
    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        let fixed = self.sign(message);
        let (r, s) = fixed.split_at(fixed.len() / 2);
        construct_der(|writer| {
            writer.write_sequence(|writer| {
                der::integer(writer.next(), r);
                der::integer(writer.next(), s);
            });
        })
    }

    /// The arcs of the algorithm of its signatures in certificates.
    #[must_use]
    pub const fn algorithm(&self) -> &'static [u64] {
        match self.curve {
            Curve::P256 => &[1, 2, 840, 10_045, 4, 3, 2],
            Curve::P384 => &[1, 2, 840, 10_045, 4, 3, 3],
        }
    }
}

fn pair_of(curve: Curve, scalar: &[u8]) -> Option<EcdsaKeyPair> {
    let (agreement, signing, _) = curve.algorithms();
    let private = PrivateKey::from_private_key(agreement, scalar).ok()?;
    let public: EcPublicKeyUncompressedBin<'_> = private.compute_public_key().ok()?.as_be_bytes().ok()?;
    EcdsaKeyPair::from_private_key_and_public_key(signing, scalar, public.as_ref()).ok()
}
