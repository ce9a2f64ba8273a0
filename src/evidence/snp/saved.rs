//! How the platform's pieces look in files: by name, or by content when the name says nothing. Read, not believed.

use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Name;

use super::{MAX_CERTIFICATE, REPORT_SIZE};
use crate::evidence::launch;
use crate::evidence::saved::Saved;

/// The name of a saved report.
pub const REPORT_FILE: &str = "report.bin";

/// The short names of the endorsements, which are also their files' (`vcek.der`).
pub const ENDORSEMENTS: &[&str] = &["ark", "ask", "asvk", "crl", "vcek", "vlek"];

/// The same with what Google's cloud adds.
const WITH_CLOUD: &[&str] = &["ark", "ask", "asvk", "crl", "vcek", "vlek", launch::NAME, "gce_root", "vtpm_ca"];

/// The platform's pieces.
pub const SAVED: Saved = Saved { evidence: REPORT_FILE, endorsements: WITH_CLOUD, is_evidence: is_report, endorsement: endorsement_name, assemble: |_| None };

/// A revocation list longer than this is not recognised.
const MAX_CRL: usize = 64 * 1024;

/// Whether these octets have a report's length, its only mark.
#[must_use]
pub const fn is_report(bytes: &[u8]) -> bool {
    bytes.len() == REPORT_SIZE
}

/// The short name of the endorsement that this DER certificate or revocation list would be, by its subject or issuer.
///
/// Establishes nothing: anybody can write these names.
#[must_use]
pub fn endorsement_name(der: &[u8]) -> Option<&'static str> {
    if der.len() <= MAX_CERTIFICATE
        && let Ok((&[], certificate)) = X509Certificate::from_der(der)
    {
        return match common_name(certificate.subject())? {
            "SEV-VCEK" => Some("vcek"),
            "SEV-VLEK" => Some("vlek"),
            name if name.starts_with("ARK-") => Some("ark"),
            name if name.starts_with("SEV-VLEK-") => Some("asvk"),
            name if name.starts_with("SEV-") => Some("ask"),
            _ => None,
        };
    }
    if der.len() > MAX_CRL {
        return None;
    }
    match CertificateRevocationList::from_der(der) {
        Ok((&[], list)) => common_name(list.issuer())?.starts_with("ARK-").then_some("crl"),
        _ => None,
    }
}

fn common_name<'a>(name: &'a X509Name<'_>) -> Option<&'a str> {
    name.iter_common_name().next()?.as_str().ok()
}
