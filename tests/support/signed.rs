//! Where what is signed stands in a certificate.

use std::ops::Range;

/// What an issuer signed of a certificate, and its signature. The algorithm named between the two is neither's.
pub(crate) fn certified(der: &[u8]) -> [Range<usize>; 2] {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).expect("a certificate");
    let signature = certificate.signature_value.as_ref().len();
    [place(der, certificate.tbs_certificate.as_ref()), der.len() - signature..der.len()]
}

/// Where a part of these octets stands in them.
pub(crate) fn place(all: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - all.as_ptr() as usize;
    start..start + part.len()
}
