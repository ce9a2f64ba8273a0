//! DER of certificates and revocation lists, in the vendor's manner.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use time::OffsetDateTime;
use yasna::models::ObjectIdentifier;
use yasna::tags::{TAG_GENERALIZEDTIME, TAG_UTCTIME};
use yasna::{DERWriter, DERWriterSeq, Tag, construct_der};

use super::certificate::Trailer;
use super::keys::RsaKey;
use crate::evidence::Timestamp;

/// Signs what `body` writes: the SEQUENCE of it, the algorithm and the signature.
pub(super) fn signed(key: RsaKey, trailer: Trailer, body: &[u8]) -> Vec<u8> {
    let signature = key.sign(body);
    construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(body);
            pss_sha384(writer.next(), trailer);
            bits(writer.next(), &signature);
        });
    })
}

/// RSASSA-PSS with SHA-384, MGF1-SHA-384 and a salt of 48 octets.
pub(super) fn pss_sha384(writer: DERWriter<'_>, trailer: Trailer) {
    const SHA384: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 2, 2];
    const MGF1: &[u64] = &[1, 2, 840, 113_549, 1, 1, 8];
    const RSASSA_PSS: &[u64] = &[1, 2, 840, 113_549, 1, 1, 10];
    writer.write_sequence(|writer| {
        oid(writer.next(), RSASSA_PSS);
        writer.next().write_sequence(|writer| {
            writer.next().write_tagged(Tag::context(0), |writer| algorithm(writer, SHA384));
            writer.next().write_tagged(Tag::context(1), |writer| {
                writer.write_sequence(|writer| {
                    oid(writer.next(), MGF1);
                    algorithm(writer.next(), SHA384);
                });
            });
            writer.next().write_tagged(Tag::context(2), |writer| writer.write_u8(48));
            if trailer == Trailer::Explicit {
                writer.next().write_tagged(Tag::context(3), |writer| writer.write_u8(1));
            }
        });
    });
}

/// An algorithm with NULL parameters.
fn algorithm(writer: DERWriter<'_>, arcs: &[u64]) {
    writer.write_sequence(|writer| {
        oid(writer.next(), arcs);
        writer.next().write_null();
    });
}

/// The vendor's name with this common name, its parts in the vendor's order.
pub(super) fn name(writer: DERWriter<'_>, common_name: &str) {
    const PARTS: [(u64, &str); 5] = [(11, "Engineering"), (6, "US"), (7, "Santa Clara"), (8, "CA"), (10, "Advanced Micro Devices")];
    writer.write_sequence(|writer| {
        for (arc, value) in PARTS.into_iter().chain([(3, common_name)]) {
            writer.next().write_set(|writer| {
                writer.next().write_sequence(|writer| {
                    oid(writer.next(), &[2, 5, 4, arc]);
                    // countryName is a PrintableString by its definition; the vendor writes all else as UTF8String.
                    if arc == 6 { writer.next().write_printable_string(value) } else { writer.next().write_utf8_string(value) }
                });
            });
        }
    });
}

/// A SubjectPublicKeyInfo for a PKCS#1 `RSAPublicKey`.
pub(super) fn rsa_spki(public: &[u8]) -> Vec<u8> {
    const RSA_ENCRYPTION: &[u64] = &[1, 2, 840, 113_549, 1, 1, 1];
    construct_der(|writer| {
        writer.write_sequence(|writer| {
            algorithm(writer.next(), RSA_ENCRYPTION);
            bits(writer.next(), public);
        });
    })
}

/// A SubjectPublicKeyInfo for an uncompressed point of P-384.
pub(super) fn p384_spki(point: &[u8]) -> Vec<u8> {
    const EC_PUBLIC_KEY: &[u64] = &[1, 2, 840, 10_045, 2, 1];
    const SECP384R1: &[u64] = &[1, 3, 132, 0, 34];
    construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_sequence(|writer| {
                oid(writer.next(), EC_PUBLIC_KEY);
                oid(writer.next(), SECP384R1);
            });
            bits(writer.next(), point);
        });
    })
}

/// UTCTime up to 2049, GeneralizedTime after (RFC 5280, 4.1.2.5).
pub(super) fn moment(writer: DERWriter<'_>, moment: Timestamp) {
    const LAST: i64 = 253_402_300_799; // 9999-12-31T23:59:59Z
    let seconds = i64::try_from(moment.0).map_or(LAST, |seconds| seconds.min(LAST));
    let at = OffsetDateTime::from_unix_timestamp(seconds).expect("years 1970 to 9999 can be told");
    let rest = format!("{:02}{:02}{:02}{:02}{:02}Z", u8::from(at.month()), at.day(), at.hour(), at.minute(), at.second());
    let (tag, text) =
        if at.year() < 2050 { (TAG_UTCTIME, format!("{:02}{rest}", at.year() % 100)) } else { (TAG_GENERALIZEDTIME, format!("{:04}{rest}", at.year())) };
    writer.write_tagged_implicit(tag, |writer| writer.write_bytes(text.as_bytes()));
}

/// A non-negative INTEGER of these octets, big-endian.
pub(super) fn integer(writer: DERWriter<'_>, octets: &[u8]) {
    writer.write_bigint_bytes(octets, true);
}

/// A BIT STRING of whole octets.
pub(super) fn bits(writer: DERWriter<'_>, octets: &[u8]) {
    writer.write_bitvec_bytes(octets, octets.len() * 8);
}

/// An OBJECT IDENTIFIER.
pub(super) fn oid(writer: DERWriter<'_>, arcs: &[u64]) {
    writer.write_oid(&ObjectIdentifier::from_slice(arcs));
}

/// Whether a verifier that does not know an extension must refuse.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Criticality {
    Critical,
    Ordinary,
}

/// One extension around `value`, as it stands inside the OCTET STRING.
pub(super) fn extension(writer: &mut DERWriterSeq<'_>, arcs: &[u64], criticality: Criticality, value: &[u8]) {
    writer.next().write_sequence(|writer| {
        oid(writer.next(), arcs);
        if criticality == Criticality::Critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(value);
    });
}

/// subjectKeyIdentifier of a key, method 1 of RFC 5280, 4.2.1.2.
pub(super) fn key_identifier(public: &[u8]) -> Vec<u8> {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, public).as_ref().to_vec()
}

/// authorityKeyIdentifier naming the key of this identifier.
pub(super) fn authority_key_identifier(identifier: &[u8]) -> Vec<u8> {
    construct_der(|writer| {
        writer.write_sequence(|writer| writer.next().write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(identifier)));
    })
}
