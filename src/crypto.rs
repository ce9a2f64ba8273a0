//! The one seam to cryptography: digests, constant-time comparison and signature verification.
//!
//! A leaf of the core. Native builds use aws-lc-rs; with the feature `pure-crypto` the same functions are RustCrypto,
//! for targets on which aws-lc-rs does not build. Nothing here knows a key, a clock or a platform.

#![forbid(unsafe_code)]

mod ed25519;

/// The signature schemes that evidence uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// ECDSA on P-256 over SHA-256. Key: uncompressed point (65 bytes). Signature: `r ‖ s`, 32 bytes each, big-endian.
    EcdsaP256Sha256,
    /// ECDSA on P-384 over SHA-384. Key: uncompressed point (97 bytes). Signature: `r ‖ s`, 48 bytes each, big-endian.
    EcdsaP384Sha384,
    /// ECDSA on P-521 over SHA-512. Key: uncompressed point (133 bytes). Signature: `r ‖ s`, 66 bytes each, big-endian.
    EcdsaP521Sha512,
    /// Ed25519 with SHA3-512 in place of SHA-512: Keystone's. Key: 32 bytes. Signature: `R ‖ S`, 32 bytes each. Only
    /// canonical encodings, no points of small order, no cofactor.
    Ed25519Sha3,
    /// RSASSA-PKCS1-v1_5, SHA-256, modulus 2048 to 8192 bits. Key: PKCS#1 `RSAPublicKey` DER.
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5, SHA-384, modulus 2048 to 8192 bits. Key: PKCS#1 `RSAPublicKey` DER.
    RsaPkcs1Sha384,
    /// RSASSA-PSS, SHA-256, MGF1-SHA-256, salt 32, modulus 2048 to 8192 bits. Key: PKCS#1 `RSAPublicKey` DER.
    RsaPssSha256,
    /// RSASSA-PSS, SHA-384, MGF1-SHA-384, salt 48, modulus 2048 to 8192 bits. Key: PKCS#1 `RSAPublicKey` DER.
    RsaPssSha384,
}

impl Scheme {
    /// The length of each half of an ECDSA signature, in octets; `None` for the others.
    #[must_use]
    pub const fn half(self) -> Option<usize> {
        match self {
            Self::EcdsaP256Sha256 => Some(32),
            Self::EcdsaP384Sha384 => Some(48),
            Self::EcdsaP521Sha512 => Some(66),
            Self::Ed25519Sha3 | Self::RsaPkcs1Sha256 | Self::RsaPkcs1Sha384 | Self::RsaPssSha256 | Self::RsaPssSha384 => None,
        }
    }
}

/// SHA-256 of the concatenated parts.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    backend::sha256(parts)
}

/// What is kept of a user with a password: the SHA-256 of the user's length, the user and the password.
#[must_use]
pub fn account(user: &[u8], password: &[u8]) -> [u8; 32] {
    let length = u64::try_from(user.len()).unwrap_or(u64::MAX).to_be_bytes();
    sha256(&[&length, user, password])
}

/// SHA-384 of the concatenated parts.
#[must_use]
pub fn sha384(parts: &[&[u8]]) -> [u8; 48] {
    backend::sha384(parts)
}

/// SHA-512 of the concatenated parts.
#[must_use]
pub fn sha512(parts: &[&[u8]]) -> [u8; 64] {
    backend::sha512(parts)
}

/// SHA3-512 of the concatenated parts.
#[must_use]
pub fn sha3_512(parts: &[&[u8]]) -> [u8; 64] {
    backend::sha3_512(parts)
}

/// Whether two byte strings are equal, in time that depends on their lengths alone.
#[must_use]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    backend::same(a, b)
}

/// Whether `signature` over `message` verifies under `key`. A key that cannot be read verifies nothing.
#[must_use]
pub fn verifies(scheme: Scheme, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    if scheme == Scheme::Ed25519Sha3 {
        return ed25519::verifies(key, message, signature, sha3_512);
    }
    backend::verifies(scheme, key, message, signature)
}

/// Whether `key` is a public key of this elliptic scheme: an uncompressed point on its curve. Never for RSA.
#[must_use]
pub fn is_key(scheme: Scheme, key: &[u8]) -> bool {
    let uncompressed = scheme.half().is_some_and(|half| key.len() == half.saturating_mul(2).saturating_add(1)) && key.first() == Some(&4);
    uncompressed && backend::is_point(scheme, key)
}

/// `r ‖ s` of a DER `Ecdsa-Sig-Value`, each `half` octets; `None` for another shape.
#[must_use]
pub fn ecdsa_fixed(der: &[u8], half: usize) -> Option<Vec<u8>> {
    let (rest, sequence) = x509_parser::der_parser::der::parse_der_sequence(der).ok()?;
    let [r, s] = sequence.as_sequence().ok()?.as_slice() else { return None };
    if !rest.is_empty() {
        return None;
    }
    let (mut fixed, mut content) = (Vec::new(), Vec::new());
    for number in [r, s] {
        let x509_parser::der_parser::ber::BerObjectContent::Integer(octets) = &number.content else { return None };
        // One form for each number (X.690, 8.3.2).
        if matches!(octets, [0, second, ..] if second & 0x80 == 0) {
            return None;
        }
        let significant: Vec<u8> = octets.iter().copied().skip_while(|octet| *octet == 0).collect();
        // A negative number is no half of a signature.
        if octets.first().is_none_or(|octet| octet & 0x80 != 0) {
            return None;
        }
        let padding = half.checked_sub(significant.len())?;
        fixed.extend(std::iter::repeat_n(0, padding));
        fixed.extend(significant);
        content.extend([0x02, u8::try_from(octets.len()).ok()?]);
        content.extend(*octets);
    }
    // And one form of the whole: the parser takes tags of other classes, and lengths longer than they need be.
    let length = u8::try_from(content.len()).ok()?;
    let head: &[u8] = if length < 0x80 { &[0x30, length] } else { &[0x30, 0x81, length] };
    (der.strip_prefix(head) == Some(&content)).then_some(fixed)
}

#[cfg(not(feature = "pure-crypto"))]
mod backend {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
        RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, UnparsedPublicKey,
    };
    use aws_lc_rs::{constant_time, digest};

    use super::Scheme;

    fn hash<const N: usize>(algorithm: &'static digest::Algorithm, parts: &[&[u8]]) -> [u8; N] {
        let mut context = digest::Context::new(algorithm);
        parts.iter().for_each(|part| context.update(part));
        let mut out = [0; N];
        let digest = context.finish();
        out.iter_mut().zip(digest.as_ref()).for_each(|(out, byte)| *out = *byte);
        out
    }

    pub(super) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
        hash(&digest::SHA256, parts)
    }

    pub(super) fn sha384(parts: &[&[u8]]) -> [u8; 48] {
        hash(&digest::SHA384, parts)
    }

    pub(super) fn sha512(parts: &[&[u8]]) -> [u8; 64] {
        hash(&digest::SHA512, parts)
    }

    pub(super) fn sha3_512(parts: &[&[u8]]) -> [u8; 64] {
        hash(&digest::SHA3_512, parts)
    }

    pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(a, b).is_ok()
    }

    pub(super) fn is_point(scheme: Scheme, key: &[u8]) -> bool {
        match scheme {
            Scheme::EcdsaP256Sha256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).is_ok(),
            Scheme::EcdsaP384Sha384 => ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key).is_ok(),
            Scheme::EcdsaP521Sha512 => ParsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, key).is_ok(),
            _ => false,
        }
    }

    pub(super) fn verifies(scheme: Scheme, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        match scheme {
            Scheme::Ed25519Sha3 => return false,
            Scheme::EcdsaP256Sha256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature),
            Scheme::EcdsaP384Sha384 => UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key).verify(message, signature),
            Scheme::EcdsaP521Sha512 => UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, key).verify(message, signature),
            Scheme::RsaPkcs1Sha256 => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(message, signature),
            Scheme::RsaPkcs1Sha384 => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA384, key).verify(message, signature),
            Scheme::RsaPssSha256 => UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key).verify(message, signature),
            Scheme::RsaPssSha384 => UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, key).verify(message, signature),
        }
        .is_ok()
    }
}

#[cfg(feature = "pure-crypto")]
mod backend {
    use p384::ecdsa::signature::Verifier as _;
    use rsa::pkcs1::DecodeRsaPublicKey as _;
    use rsa::traits::PublicKeyParts as _;
    use sha2::{Digest, Sha256, Sha384, Sha512};
    use subtle::ConstantTimeEq as _;

    use super::Scheme;

    macro_rules! ecdsa {
        ($curve:ident, $key:expr, $message:expr, $signature:expr) => {
            match ($curve::ecdsa::VerifyingKey::from_sec1_bytes($key), $curve::ecdsa::Signature::from_slice($signature)) {
                (Ok(key), Ok(signature)) => key.verify($message, &signature).is_ok(),
                _ => false,
            }
        };
    }

    macro_rules! rsa {
        ($padding:ident, $digest:ty, $key:expr, $message:expr, $signature:expr) => {
            match (rsa_key($key), rsa::$padding::Signature::try_from($signature)) {
                (Some(key), Ok(signature)) => rsa::$padding::VerifyingKey::<$digest>::new(key).verify($message, &signature).is_ok(),
                _ => false,
            }
        };
    }

    fn hash<D: Digest, const N: usize>(parts: &[&[u8]]) -> [u8; N] {
        let mut context = D::new();
        parts.iter().for_each(|part| context.update(part));
        let mut out = [0; N];
        out.iter_mut().zip(context.finalize().iter()).for_each(|(out, byte)| *out = *byte);
        out
    }

    pub(super) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
        hash::<Sha256, 32>(parts)
    }

    pub(super) fn sha384(parts: &[&[u8]]) -> [u8; 48] {
        hash::<Sha384, 48>(parts)
    }

    pub(super) fn sha512(parts: &[&[u8]]) -> [u8; 64] {
        hash::<Sha512, 64>(parts)
    }

    pub(super) fn sha3_512(parts: &[&[u8]]) -> [u8; 64] {
        hash::<sha3::Sha3_512, 64>(parts)
    }

    pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
        a.ct_eq(b).into()
    }

    pub(super) fn is_point(scheme: Scheme, key: &[u8]) -> bool {
        match scheme {
            Scheme::EcdsaP256Sha256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(key).is_ok(),
            Scheme::EcdsaP384Sha384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(key).is_ok(),
            Scheme::EcdsaP521Sha512 => p521::ecdsa::VerifyingKey::from_sec1_bytes(key).is_ok(),
            _ => false,
        }
    }

    pub(super) fn verifies(scheme: Scheme, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        match scheme {
            Scheme::Ed25519Sha3 => false,
            Scheme::EcdsaP256Sha256 => ecdsa!(p256, key, message, signature),
            Scheme::EcdsaP384Sha384 => ecdsa!(p384, key, message, signature),
            Scheme::EcdsaP521Sha512 => ecdsa!(p521, key, message, signature),
            Scheme::RsaPkcs1Sha256 => rsa!(pkcs1v15, Sha256, key, message, signature),
            Scheme::RsaPkcs1Sha384 => rsa!(pkcs1v15, Sha384, key, message, signature),
            Scheme::RsaPssSha256 => rsa!(pss, Sha256, key, message, signature),
            Scheme::RsaPssSha384 => rsa!(pss, Sha384, key, message, signature),
        }
    }

    fn rsa_key(key: &[u8]) -> Option<rsa::PublicKey> {
        rsa::PublicKey::from_pkcs1_der(key).ok().filter(|key| (2048..=8192).contains(&key.n().bit_width()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standard() {
        use data_encoding::HEXLOWER;
        assert_eq!(HEXLOWER.encode(&sha256(&[b"a", b"bc"])), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(HEXLOWER.encode(&sha384(&[b"abc"])).starts_with("cb00753f45a35e8bb5a03d699ac65007272c32ab0eded163"));
        assert!(HEXLOWER.encode(&sha512(&[b"abc"])).starts_with("ddaf35a193617abacc417349ae20413112e6fa4e89a97ea2"));
        assert!(HEXLOWER.encode(&sha3_512(&[b"a", b"bc"])).starts_with("b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e"));
    }

    #[test]
    fn unequal_lengths_are_never_the_same() {
        assert!(same(b"ab", b"ab") && !same(b"ab", b"abc") && !same(b"", b"a") && same(b"", b""));
    }

    #[test]
    fn an_unreadable_key_verifies_nothing() {
        for (scheme, half) in [(Scheme::EcdsaP256Sha256, 32), (Scheme::EcdsaP384Sha384, 48), (Scheme::EcdsaP521Sha512, 66)] {
            assert!(!verifies(scheme, &vec![4; 2 * half + 1], b"m", &vec![1; 2 * half]));
        }
        for scheme in [Scheme::RsaPkcs1Sha256, Scheme::RsaPkcs1Sha384, Scheme::RsaPssSha256, Scheme::RsaPssSha384] {
            assert!(!verifies(scheme, b"", b"m", b""));
        }
        assert!(!verifies(Scheme::Ed25519Sha3, b"", b"m", b"") && !verifies(Scheme::Ed25519Sha3, &[0; 32], b"m", &[0; 64]));
    }
}
