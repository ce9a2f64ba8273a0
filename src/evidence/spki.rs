//! Public keys as DER SubjectPublicKeyInfo: the elliptic ones, whose curve implies the scheme of their signatures.

use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::crypto::{Scheme, is_key};

/// An elliptic public key with the scheme of its curve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EllipticKey {
    /// The scheme that its curve implies.
    pub scheme: Scheme,
    /// The uncompressed point; it is on the curve.
    pub point: Vec<u8>,
}

impl EllipticKey {
    /// The key of this scheme with this uncompressed point; `None` for a point that is not on the curve.
    #[must_use]
    pub fn of_point(scheme: Scheme, point: Vec<u8>) -> Option<Self> {
        is_key(scheme, &point).then_some(Self { scheme, point })
    }

    /// Reads a DER SubjectPublicKeyInfo; `None` for other octets, other keys, other curves, and points that are not on
    /// their curve.
    #[must_use]
    pub fn of_spki(der: &[u8]) -> Option<Self> {
        match SubjectPublicKeyInfo::from_der(der) {
            Ok((&[], key)) => Self::of_point(scheme(&key)?, key.subject_public_key.data.to_vec()),
            _ => None,
        }
    }
}

/// Whether the octets are one DER SubjectPublicKeyInfo of a key that can verify something: an elliptic one must have its
/// point on a curve that is known here.
#[must_use]
pub fn is_usable(der: &[u8]) -> bool {
    match SubjectPublicKeyInfo::from_der(der) {
        Ok((&[], key)) if key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY => EllipticKey::of_spki(der).is_some(),
        Ok((&[], _)) => true,
        _ => false,
    }
}

/// The scheme that an elliptic key implies; `None` for other keys and unknown curves.
pub(crate) fn scheme(key: &SubjectPublicKeyInfo<'_>) -> Option<Scheme> {
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return None;
    }
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    [(OID_EC_P256, Scheme::EcdsaP256Sha256), (OID_NIST_EC_P384, Scheme::EcdsaP384Sha384), (OID_NIST_EC_P521, Scheme::EcdsaP521Sha512)]
        .into_iter()
        .find_map(|(known, scheme)| (curve == known).then_some(scheme))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// The P-256 key of the secret number 1.
    const KEY: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                       4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

    fn key() -> Vec<u8> {
        data_encoding::HEXLOWER.decode(KEY.as_bytes()).unwrap()
    }

    #[test]
    fn a_point_must_be_on_its_curve() {
        let good = key();
        assert_eq!(EllipticKey::of_spki(&good).map(|key| (key.scheme, key.point.len())), Some((Scheme::EcdsaP256Sha256, 65)));
        assert!(is_usable(&good));
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        assert_eq!(EllipticKey::of_spki(&bad), None);
        assert!(!is_usable(&bad) && !is_usable(&good[1..]) && !is_usable(b""));
        assert!(!is_usable(&[good.as_slice(), &[0]].concat()));
    }
}
