//! Certificates and revocation lists as hosts and operators have them: DER or PEM.

use data_encoding::BASE64;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::evidence::Endorsement;

/// One that was read far enough to know what it is and where it ends. Not judged.
pub(super) struct Document {
    media_type: &'static str,
    /// The whole of it.
    pub(super) der: Vec<u8>,
}

impl Document {
    /// Reads DER, or the first block of PEM. `None` for anything else, and for octets before or behind it.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let der = if bytes.trim_ascii_start().starts_with(b"-----BEGIN ") { first_block(bytes)? } else { bytes.to_vec() };
        let media_type = match (X509Certificate::from_der(&der), CertificateRevocationList::from_der(&der)) {
            (Ok((&[], _)), _) => Endorsement::CERTIFICATE,
            (_, Ok((&[], _))) => Endorsement::REVOCATION_LIST,
            _ => return None,
        };
        Some(Self { media_type, der })
    }

    /// As an endorsement of this short name.
    pub(super) fn named(self, name: &str) -> Endorsement {
        Endorsement { name: name.to_owned(), media_type: self.media_type.to_owned(), bytes: self.der }
    }
}

fn first_block(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?.trim_start();
    let (label, rest) = text.strip_prefix("-----BEGIN ")?.split_once("-----")?;
    if !matches!(label, "CERTIFICATE" | "X509 CRL") {
        return None;
    }
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let digits: String = body.split_ascii_whitespace().collect();
    BASE64.decode(digits.as_bytes()).ok()
}
