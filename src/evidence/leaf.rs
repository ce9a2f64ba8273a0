//! Evidence out of X.509: the facts of a leaf certificate and the extension `id-pe-cmw` (RFC 9999) in it.
//!
//! Reading is strict and judges nothing. Whether the key is held is proved by the handshake, whether the evidence is
//! believed by the relying party.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::binding::LeafFacts;
use super::cmw::Collection;
use super::{KeyDigest, Timestamp};
use crate::refusal::{Denied, Finding, Reason};

/// A leaf longer than this is not read: the evidence, and as much again for names and a CA's extensions.
pub const MAX_LEAF: usize = 32 * 1024;

/// The evidence extension's value is not longer than this (docs/protocol.md, "Evidence in a certificate").
pub const MAX_EVIDENCE: usize = 16 * 1024;

const MAX_EXTENSIONS: usize = 32;
const MAX_NAMES: usize = 64;

/// A leaf certificate, read under bounds. Its self-made claims are believed by nobody yet.
#[derive(Clone, Debug)]
pub struct Leaf {
    facts: LeafFacts,
    spki_sha256: [u8; 32],
    evidence: Extension,
}

#[derive(Clone, Debug)]
enum Extension {
    /// Evidence of another format, by its OID.
    Foreign(String),
    /// The value of the one `id-pe-cmw`.
    Native(Vec<u8>),
    None,
    Several(String),
}

impl Leaf {
    /// Reads a DER certificate.
    ///
    /// # Errors
    /// `certificate_invalid` when it is too long, not X.509 version 3, of a key kind other than P-256, P-384 and
    /// Ed25519, or repeats an extension.
    pub fn read(der: &[u8]) -> Result<Self, Denied> {
        Self::read_with(der, acceptable_key)
    }

    /// As [`Leaf::read`], for a certificate of a public CA: its key may also be RSA.
    ///
    /// # Errors
    /// As [`Leaf::read`].
    pub fn read_public(der: &[u8]) -> Result<Self, Denied> {
        Self::read_with(der, |certificate| match certificate.public_key().algorithm.algorithm.to_id_string().as_str() {
            RSA_ENCRYPTION => Ok(()),
            _ => acceptable_key(certificate),
        })
    }

    fn read_with(der: &[u8], acceptable: impl FnOnce(&X509Certificate<'_>) -> Result<(), Denied>) -> Result<Self, Denied> {
        if der.len() > MAX_LEAF {
            return invalid("leaf", format!("at most {MAX_LEAF} octets"), der.len().to_string());
        }
        let Ok((rest, certificate)) = X509Certificate::from_der(der) else {
            return invalid("leaf", "a DER certificate", "other bytes");
        };
        if !rest.is_empty() {
            return invalid("leaf", "nothing behind the certificate", format!("{} octets", rest.len()));
        }
        if certificate.version() != X509Version::V3 {
            return invalid("leaf.version", "3", certificate.version().to_string());
        }
        acceptable(&certificate)?;
        unique_extensions(certificate.extensions())?;
        let spki = certificate.public_key().raw;
        let moment = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).map_or(Timestamp(0), Timestamp);
        let facts = LeafFacts {
            key: KeyDigest::of_spki(spki),
            not_before: moment(certificate.validity().not_before),
            not_after: moment(certificate.validity().not_after),
            names: names(certificate.extensions())?,
        };
        let evidence = Extension::find(certificate.extensions());
        Ok(Self { facts, spki_sha256: crate::crypto::sha256(&[spki]), evidence })
    }

    /// What binding claims are compared with.
    #[must_use]
    pub const fn facts(&self) -> &LeafFacts {
        &self.facts
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &KeyDigest {
        &self.facts.key
    }

    /// SHA-256 of the SubjectPublicKeyInfo: what pins and logs name a key by.
    #[must_use]
    pub const fn spki_sha256(&self) -> &[u8; 32] {
        &self.spki_sha256
    }

    /// The evidence in the certificate.
    ///
    /// # Errors
    /// `evidence_unsupported` for none or another format, `evidence_ambiguous` for several, `evidence_size`,
    /// `evidence_malformed`.
    pub fn evidence(&self) -> Result<Collection, Denied> {
        let expected = "one id-pe-cmw extension with a CBOR collection";
        let refuse = |reason, found: String| Finding::new(reason, "leaf.evidence", expected, found).refuse();
        match &self.evidence {
            Extension::Foreign(oid) => refuse(Reason::EvidenceUnsupported, format!("the evidence extension {oid}")),
            Extension::None => refuse(Reason::EvidenceUnsupported, "no evidence extension".to_owned()),
            Extension::Several(oids) => refuse(Reason::EvidenceAmbiguous, oids.clone()),
            Extension::Native(value) => Collection::decode(octet_string(value)?),
        }
    }

    /// Whether `now` is within the certificate's validity, give or take `skew` seconds.
    ///
    /// # Errors
    /// `certificate_invalid`.
    pub fn current(&self, now: Timestamp, skew: u64) -> Result<(), Denied> {
        let LeafFacts { not_before, not_after, .. } = self.facts;
        if not_before <= now.plus(skew) && now <= not_after.plus(skew) {
            return Ok(());
        }
        let fix = "compare the clocks of both sides, then look at certificate rotation on the other";
        Finding::new(Reason::CertificateInvalid, "leaf.validity", format!("a period that holds {now}"), format!("{not_before} to {not_after}"))
            .fix(fix)
            .refuse()
    }
}

/// Reads a leaf with the evidence in it.
///
/// # Errors
/// As [`Leaf::read`] and [`Leaf::evidence`].
pub fn read(der: &[u8]) -> Result<(Leaf, Collection), Denied> {
    let leaf = Leaf::read(der)?;
    let evidence = leaf.evidence()?;
    Ok((leaf, evidence))
}

impl Extension {
    fn find(extensions: &[X509Extension<'_>]) -> Self {
        let mut known: Vec<(String, &[u8])> = Vec::new();
        for extension in extensions {
            let oid = extension.oid.to_id_string();
            if oid == ID_PE_CMW || is_foreign(&oid, extension.value) {
                known.push((oid, extension.value));
            }
        }
        match known.as_slice() {
            [] => Self::None,
            [(oid, value)] if oid == ID_PE_CMW => Self::Native(value.to_vec()),
            [(oid, _)] => Self::Foreign(oid.clone()),
            several => Self::Several(several.iter().map(|(oid, _)| oid.as_str()).collect::<Vec<_>>().join(" and ")),
        }
    }
}

fn is_foreign(oid: &str, value: &[u8]) -> bool {
    match oid {
        // Also the OID of a PCK certificate's SGX extensions, a SEQUENCE, which is no evidence.
        "1.2.840.113741.1.13.1" => value.first() != Some(&0x30),
        _ => FOREIGN_EVIDENCE.contains(&oid) || oid.starts_with("1.3.9900."),
    }
}

fn acceptable_key(certificate: &X509Certificate<'_>) -> Result<(), Denied> {
    let algorithm = &certificate.public_key().algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok()).map(|oid| oid.to_id_string());
    match (algorithm.algorithm.to_id_string().as_str(), curve.as_deref()) {
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7" | "1.3.132.0.34")) | ("1.3.101.112", _) => Ok(()),
        (kind, curve) => invalid("leaf.key", "P-256, P-384 or Ed25519", [Some(kind), curve].into_iter().flatten().collect::<Vec<_>>().join(" ")),
    }
}

fn unique_extensions(extensions: &[X509Extension<'_>]) -> Result<(), Denied> {
    if extensions.len() > MAX_EXTENSIONS {
        return invalid("leaf.extensions", format!("at most {MAX_EXTENSIONS}"), extensions.len().to_string());
    }
    for (place, extension) in extensions.iter().enumerate() {
        if extensions.iter().take(place).any(|earlier| earlier.oid == extension.oid) {
            return invalid("leaf.extensions", "each extension once", format!("{} twice", extension.oid));
        }
    }
    Ok(())
}

/// The subject alternative names, sorted and unique. A kind of name that binding claims cannot carry is kept under a
/// spelling that no claim has, so that it is never overlooked.
fn names(extensions: &[X509Extension<'_>]) -> Result<Vec<String>, Denied> {
    let mut names = Vec::new();
    for extension in extensions {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => {
                if san.general_names.len() > MAX_NAMES {
                    return invalid("leaf.names", format!("at most {MAX_NAMES}"), san.general_names.len().to_string());
                }
                for name in &san.general_names {
                    names.push(match name {
                        // A name of one kind must not pass for one of another: `spiffe://…` is an identity in a URI alone.
                        GeneralName::DNSName(name) if name.contains([':', '/']) => {
                            return invalid("leaf.names", "DNS names without `:` and `/`", (*name).to_owned());
                        }
                        GeneralName::URI(name) if !name.contains(':') => return invalid("leaf.names", "URIs with a scheme", (*name).to_owned()),
                        GeneralName::DNSName(name) | GeneralName::URI(name) => (*name).to_owned(),
                        other => format!("({other})"),
                    });
                }
            }
            ParsedExtension::ParseError { .. } if extension.oid.to_id_string() == SUBJECT_ALT_NAME => {
                return invalid("leaf.names", "a list of names", "other bytes");
            }
            _ => {}
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The content of a DER OCTET STRING that fills `value`.
fn octet_string(value: &[u8]) -> Result<&[u8], Denied> {
    let (tag, rest) = value.split_first().map_or((None, value), |(tag, rest)| (Some(*tag), rest));
    match tag {
        Some(0x04) => {}
        Some(0x0c) => {
            let expected = "the CBOR form, an OCTET STRING";
            return Finding::new(Reason::EvidenceUnsupported, "leaf.evidence", expected, "the JSON form, a UTF8String").refuse();
        }
        other => return malformed("an OCTET STRING", other.map_or_else(|| "nothing".to_owned(), |tag| format!("tag {tag:#04x}"))),
    }
    let (length, content) = match rest {
        [short @ 0..=0x7f, content @ ..] => (usize::from(*short), content),
        [0x81, length @ 0x80..=0xff, content @ ..] => (usize::from(*length), content),
        [0x82, high @ 1..=0xff, low, content @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), content),
        _ => return malformed("a definite, shortest length below 65,536", "another"),
    };
    if length != content.len() {
        return malformed(format!("{length} octets"), content.len().to_string());
    }
    if length > MAX_EVIDENCE {
        return Finding::new(Reason::EvidenceSize, "leaf.evidence", format!("at most {MAX_EVIDENCE} octets"), length.to_string()).refuse();
    }
    Ok(content)
}

fn invalid<T>(field: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Result<T, Denied> {
    Finding::new(Reason::CertificateInvalid, field, expected, found).refuse()
}

fn malformed<T>(expected: impl Into<String>, found: impl Into<String>) -> Result<T, Denied> {
    Finding::new(Reason::EvidenceMalformed, "leaf.evidence", expected, found).refuse()
}

const RSA_ENCRYPTION: &str = "1.2.840.113549.1.1.1";
const ID_PE_CMW: &str = "1.3.6.1.5.5.7.1.35";
const SUBJECT_ALT_NAME: &str = "2.5.29.17";

/// Extensions in which other programs put evidence (docs/protocol.md, "Other formats"). Beside ours they make it unclear what is meant.
const FOREIGN_EVIDENCE: &[&str] = &[
    "0.6.9.42.840.113741.1337.6", // Gramine's wire form, kept by it on purpose
    "1.2.840.113741.1.13.1.0",
    "1.2.840.113741.1.5.5.1.6",
    "1.2.840.113741.1337.1.1",
    "1.2.840.113741.1337.1.2",
    "1.2.840.113741.1337.1.3",
    "1.2.840.113741.1337.1.4",
    "1.2.840.113741.1337.1.5",
    "1.2.840.113741.1337.2.2",
    "1.2.840.113741.1337.2.4",
    "1.2.840.113741.1337.6",
    "1.3.6.1.4.1.62397.1.1",
    "1.3.6.1.4.1.62397.1.8",
    "1.3.6.1.4.1.65230.4.1",
    "2.23.133.5.4.9",
];
