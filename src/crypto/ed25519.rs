//! Ed25519 over a hash that the caller chooses: curve arithmetic alone, the same for both backends.
//!
//! RFC 8032 with the strictest reading of every choice that it leaves: canonical encodings only, no point of small order,
//! and the equation without the cofactor.

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;

/// Whether `signature` over `message` verifies under `key`.
pub(super) fn verifies(key: &[u8], message: &[u8], signature: &[u8], hash: fn(&[&[u8]]) -> [u8; 64]) -> bool {
    let Some((r, s)) = signature.split_first_chunk::<32>() else { return false };
    let (Some(point), Some(s)) = (point(key), scalar(s)) else { return false };
    if self::point(r).is_none() {
        return false;
    }
    let k = Scalar::from_bytes_mod_order_wide(&hash(&[r, key, message]));
    EdwardsPoint::vartime_double_scalar_mul_basepoint(&k, &-point, &s).compress().as_bytes() == r
}

/// A point in its one encoding that generates more than a handful of others.
fn point(encoded: &[u8]) -> Option<EdwardsPoint> {
    let encoded = CompressedEdwardsY(encoded.try_into().ok()?);
    encoded.decompress().filter(|point| point.compress() == encoded && !point.is_small_order())
}

/// A number below the group's order.
fn scalar(encoded: &[u8]) -> Option<Scalar> {
    Scalar::from_canonical_bytes(encoded.try_into().ok()?).into_option()
}
