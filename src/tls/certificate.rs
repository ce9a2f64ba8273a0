//! Evidence into X.509: our own leaf with the extension `id-pe-cmw` (RFC 9999). Reading is `evidence::leaf`'s.

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;

use crate::evidence::Timestamp;
use crate::evidence::cmw::Collection;

pub use crate::evidence::leaf::{Leaf, MAX_EVIDENCE, read};

/// What a certificate of our own says.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    /// Its subject alternative names: DNS names in lower case, or URIs.
    pub names: &'a [String],
    /// The beginning of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// The evidence it carries.
    pub evidence: &'a Collection,
}

/// Why a certificate could not be made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NotIssued {
    /// A date beyond what X.509 can say.
    Date(Timestamp),
    /// The evidence is longer than [`MAX_EVIDENCE`].
    EvidenceSize(usize),
    /// This is no DNS name or URI.
    Name(String),
    /// The signing failed.
    Signing(String),
}

impl std::fmt::Display for NotIssued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Date(moment) => write!(f, "{moment} cannot be written in a certificate"),
            Self::EvidenceSize(size) => write!(f, "evidence of {size} octets does not fit into a certificate ({MAX_EVIDENCE})"),
            Self::Name(name) => write!(f, "{name:?} is neither a DNS name in lower case nor a URI"),
            Self::Signing(why) => write!(f, "signing the certificate failed: {why}"),
        }
    }
}

impl std::error::Error for NotIssued {}

/// Makes a self-signed leaf for `key`.
///
/// # Errors
/// [`NotIssued`].
pub fn issue(key: &KeyPair, statement: &Statement<'_>) -> Result<CertificateDer<'static>, NotIssued> {
    let evidence = statement.evidence.encode();
    if evidence.len() > MAX_EVIDENCE {
        return Err(NotIssued::EvidenceSize(evidence.len()));
    }
    let date = |moment: Timestamp| {
        let seconds = i64::try_from(moment.0).ok();
        seconds.and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok()).ok_or(NotIssued::Date(moment))
    };
    let mut params = CertificateParams::default();
    params.not_before = date(statement.not_before)?;
    params.not_after = date(statement.not_after)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "portcullis");
    params.subject_alt_names = statement.names.iter().map(|name| alternative_name(name)).collect::<Result<_, _>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.custom_extensions = vec![CustomExtension::from_oid_content(ID_PE_CMW_ARCS, der_octet_string(&evidence))];
    let certificate = params.self_signed(key).map_err(|error| NotIssued::Signing(error.to_string()))?;
    Ok(certificate.der().clone())
}

fn alternative_name(name: &str) -> Result<SanType, NotIssued> {
    let bad = || NotIssued::Name(name.to_owned());
    if name.starts_with("spiffe://") || name.starts_with("https://") {
        return name.try_into().map(SanType::URI).map_err(|_| bad());
    }
    let valid = rustls::pki_types::DnsName::try_from(name).is_ok() && !name.bytes().any(|octet| octet.is_ascii_uppercase());
    if !valid {
        return Err(bad());
    }
    name.try_into().map(SanType::DnsName).map_err(|_| bad())
}

fn der_octet_string(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head: &[u8] = match length {
        [0, low @ 0..=0x7f] => &[0x04, low],
        [0, low] => &[0x04, 0x81, low],
        [high, low] => &[0x04, 0x82, high, low],
    };
    [head, content].concat()
}

const ID_PE_CMW_ARCS: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 1, 35];
