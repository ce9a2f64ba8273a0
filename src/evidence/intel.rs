//! Intel's DCAP quotes, of SGX enclaves (version 3, 4 and 5) and of TDX trust domains (version 4 and 5), and what Intel
//! signs about the machines that make them. Sources: "Intel TDX DCAP: Quote Generation Library and Quote Verification
//! Library", appendix A; "Intel SGX PCK Certificate and Certificate Revocation List Profile Specification"; the PCS v4
//! interface.
//!
//! A parsed quote has been read, not believed. Integers are little-endian unless said.

pub mod collateral;
mod enclave;
pub mod log;
mod pck;
pub mod saved;
mod trust_domain;

use super::ReportData;
use super::cursor::Cursor;
use crate::refusal::{Denied, Finding, Reason};

pub use enclave::{ENCLAVE_REPORT_SIZE, EnclaveReport};
pub use pck::{Pck, chain};
pub use trust_domain::{Newer, TdReport};

/// The media type of a raw quote, of either TEE: the quote's header says which.
pub const MEDIA_TYPE: &str = "application/vnd.portcullis.intel-quote";

/// A quote longer than this is not read: what configfs-tsm gives at most (TSM_REPORT_OUTBLOB_MAX of Linux 6.7).
pub const MAX_QUOTE: usize = 32 * 1024;

/// QE_VENDOR_ID of Intel's quoting enclaves.
pub const VENDOR: [u8; 16] = [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];

/// The kinds of certification data that have a meaning here.
pub mod certification {
    /// The PCK certificate chain in PEM: leaf, intermediate, root.
    pub const PCK_CHAIN: u16 = 5;
    /// The quoting enclave's report with further certification data inside; versions 4 and 5.
    pub const QE_REPORT: u16 = 6;
}

const HEADER_SIZE: usize = 48;
const ECDSA_P256: u16 = 2;
const TEE_SGX: u32 = 0;
const TEE_TDX: u32 = 0x81;

/// What a quote is about.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, inside a quote")]
pub enum Body {
    /// An SGX enclave.
    Enclave(EnclaveReport),
    /// A TDX trust domain.
    TrustDomain(TdReport),
}

impl Body {
    /// Its name: `sgx`, `tdx1.0`, `tdx1.5`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Enclave(_) => "sgx",
            Self::TrustDomain(TdReport { newer: None, .. }) => "tdx1.0",
            Self::TrustDomain(TdReport { newer: Some(_), .. }) => "tdx1.5",
        }
    }

    /// TEE_TYPE.
    #[must_use]
    pub const fn tee_type(&self) -> u32 {
        match self {
            Self::Enclave(_) => TEE_SGX,
            Self::TrustDomain(_) => TEE_TDX,
        }
    }

    /// The type of a version 5 body.
    const fn body_type(&self) -> u16 {
        match self {
            Self::Enclave(_) => 1,
            Self::TrustDomain(TdReport { newer: None, .. }) => 2,
            Self::TrustDomain(TdReport { newer: Some(_), .. }) => 3,
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Enclave(report) => report.encode(),
            Self::TrustDomain(report) => report.encode(),
        }
    }
}

/// A quote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quote {
    /// VERSION: 3, 4 or 5.
    pub version: u16,
    /// The four octets behind TEE_TYPE: QE_SVN and PCE_SVN in version 3, reserved later. Signed, and mean nothing here.
    pub svns: [u8; 4],
    /// QE_VENDOR_ID.
    pub vendor: [u8; 16],
    /// USER_DATA: the first 16 octets name the platform to the quoting enclave.
    pub user_data: [u8; 20],
    /// What it is about.
    pub body: Body,
    /// The signature over header and body by the attestation key: `r ‖ s`, big-endian.
    pub signature: [u8; 64],
    /// The attestation key: `x ‖ y` of P-256, big-endian.
    pub attestation_key: [u8; 64],
    /// The quoting enclave's report, whose report data binds the attestation key.
    pub qe_report: EnclaveReport,
    /// The signature over the quoting enclave's report by the PCK: `r ‖ s`, big-endian.
    pub qe_signature: [u8; 64],
    /// What the quoting enclave bound beside the key.
    pub qe_auth: Vec<u8>,
    /// The kind of the certification data.
    pub certification_type: u16,
    /// The certification data.
    pub certification: Vec<u8>,
    /// The zeros behind the quote: buffers are often longer.
    pub padding: usize,
}

impl Quote {
    /// Reads a quote. Behind it there may be zeros.
    ///
    /// # Errors
    /// `evidence_size` for a quote that ends early or is longer than [`MAX_QUOTE`], `evidence_unsupported` for versions,
    /// key types, vendors and TEEs that are not known, `reserved_bits_set`, else `evidence_malformed`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Denied> {
        if bytes.len() > MAX_QUOTE {
            return Finding::new(Reason::EvidenceSize, "quote", format!("at most {MAX_QUOTE} octets"), bytes.len().to_string()).refuse();
        }
        let mut cursor = Cursor::new(bytes);
        let version = need(cursor.u16_le(), bytes)?;
        if !(3..=5).contains(&version) {
            return unsupported("quote.version", "3, 4 or 5", version.to_string());
        }
        let key_type = need(cursor.u16_le(), bytes)?;
        if key_type != ECDSA_P256 {
            return unsupported("quote.att_key_type", "2 (ECDSA P-256)", key_type.to_string());
        }
        let tee_type = need(cursor.u32_le(), bytes)?;
        let svns = need(cursor.take(), bytes)?;
        let vendor = need(cursor.take(), bytes)?;
        if vendor != VENDOR {
            return unsupported("quote.qe_vendor_id", data_encoding::HEXLOWER.encode(&VENDOR), data_encoding::HEXLOWER.encode(&vendor));
        }
        let user_data = need(cursor.take(), bytes)?;
        let body = body(&mut cursor, version, tee_type, bytes)?;
        let length = need(cursor.u32_le(), bytes)?;
        let auth = need(usize::try_from(length).ok().and_then(|length| cursor.bytes(length)), bytes)?;
        if cursor.rest().iter().any(|octet| *octet != 0) {
            return malformed("quote", "nothing but zeros behind the signature data", format!("{} octets that are not zero", cursor.rest().len()));
        }
        let signed = SignatureData::parse(auth, version)?;
        Ok(Self {
            version,
            svns,
            vendor,
            user_data,
            body,
            signature: signed.signature,
            attestation_key: signed.attestation_key,
            qe_report: EnclaveReport::parse("qe_report", &signed.qe_report)?,
            qe_signature: signed.qe_signature,
            qe_auth: signed.qe_auth.to_vec(),
            certification_type: signed.certification_type,
            certification: signed.certification.to_vec(),
            padding: cursor.rest().len(),
        })
    }

    /// The octets of this quote: the inverse of [`Quote::parse`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.signed_part();
        let auth = self.signature_data();
        out.extend(length_u32(auth.len()));
        out.extend(auth);
        out.extend(std::iter::repeat_n(0, self.padding));
        out
    }

    /// The part that the attestation key signs, as it is encoded: the received octets are [`Quote::signed_size`] long.
    #[must_use]
    pub fn signed_part(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.signed_size());
        out.extend(self.version.to_le_bytes());
        out.extend(ECDSA_P256.to_le_bytes());
        out.extend(self.body.tee_type().to_le_bytes());
        out.extend(self.svns);
        out.extend(self.vendor);
        out.extend(self.user_data);
        let body = self.body.encode();
        if self.version >= 5 {
            out.extend(self.body.body_type().to_le_bytes());
            out.extend(length_u32(body.len()));
        }
        out.extend(body);
        out
    }

    /// How many octets from the front are signed.
    #[must_use]
    pub const fn signed_size(&self) -> usize {
        let body = match &self.body {
            Body::Enclave(_) => ENCLAVE_REPORT_SIZE,
            Body::TrustDomain(report) => report.size(),
        };
        let envelope = if self.version >= 5 { 6 } else { 0 };
        HEADER_SIZE.saturating_add(envelope).saturating_add(body)
    }

    /// The report data.
    #[must_use]
    pub const fn bound_data(&self) -> ReportData {
        match &self.body {
            Body::Enclave(report) => ReportData(report.report_data),
            Body::TrustDomain(report) => ReportData(report.report_data),
        }
    }

    fn signature_data(&self) -> Vec<u8> {
        let mut certified = self.qe_report.encode();
        certified.extend(self.qe_signature);
        certified.extend(u16::try_from(self.qe_auth.len()).unwrap_or(u16::MAX).to_le_bytes());
        certified.extend(&self.qe_auth);
        certified.extend(self.certification_type.to_le_bytes());
        certified.extend(length_u32(self.certification.len()));
        certified.extend(&self.certification);
        let mut out = [self.signature, self.attestation_key].concat();
        if self.version >= 4 {
            out.extend(certification::QE_REPORT.to_le_bytes());
            out.extend(length_u32(certified.len()));
        }
        out.extend(certified);
        out
    }
}

/// Whether these octets begin like a quote of a TDX trust domain.
#[must_use]
pub fn is_tdx_quote(bytes: &[u8]) -> bool {
    matches!(bytes, [4 | 5, 0, 2, 0, 0x81, 0, 0, 0, _, _, _, _, vendor @ ..] if vendor.starts_with(&VENDOR))
}

/// Whether these octets begin like a quote of an SGX enclave.
#[must_use]
pub fn is_sgx_quote(bytes: &[u8]) -> bool {
    matches!(bytes, [3..=5, 0, 2, 0, 0, 0, 0, 0, _, _, _, _, vendor @ ..] if vendor.starts_with(&VENDOR))
}

fn body(cursor: &mut Cursor<'_>, version: u16, tee_type: u32, whole: &[u8]) -> Result<Body, Denied> {
    let kind = if version == 5 { Some((need(cursor.u16_le(), whole)?, need(cursor.u32_le(), whole)?)) } else { None };
    let size = match (version, tee_type, kind) {
        (3 | 4, TEE_SGX, _) => ENCLAVE_REPORT_SIZE,
        (4, TEE_TDX, _) => TdReport::SIZE,
        (5, TEE_SGX, Some((1, size))) => sized(size, ENCLAVE_REPORT_SIZE)?,
        (5, TEE_TDX, Some((2, size))) => sized(size, TdReport::SIZE)?,
        (5, TEE_TDX, Some((3, size))) => sized(size, TdReport::NEWER_SIZE)?,
        (5, TEE_SGX | TEE_TDX, Some((kind @ 1..=3, _))) => {
            return malformed("quote.body_type", format!("one of TEE type {tee_type:#x}"), kind.to_string());
        }
        (5, _, Some((kind, _))) => return unsupported("quote.body_type", "1, 2 or 3", kind.to_string()),
        _ => return unsupported("quote.tee_type", "0 (SGX), or 0x81 (TDX) in versions 4 and 5", format!("{tee_type:#x} in version {version}")),
    };
    let octets = need(cursor.bytes(size), whole)?;
    match tee_type {
        TEE_SGX => EnclaveReport::parse("report", octets).map(Body::Enclave),
        _ => TdReport::parse(octets).map(Body::TrustDomain),
    }
}

fn sized(said: u32, size: usize) -> Result<usize, Denied> {
    if usize::try_from(said) == Ok(size) { Ok(size) } else { malformed("quote.body_size", size.to_string(), said.to_string()) }
}

struct SignatureData<'a> {
    signature: [u8; 64],
    attestation_key: [u8; 64],
    qe_report: [u8; ENCLAVE_REPORT_SIZE],
    qe_signature: [u8; 64],
    qe_auth: &'a [u8],
    certification_type: u16,
    certification: &'a [u8],
}

impl<'a> SignatureData<'a> {
    fn parse(auth: &'a [u8], version: u16) -> Result<Self, Denied> {
        let mut cursor = Cursor::new(auth);
        let (signature, attestation_key) = (inside(cursor.take())?, inside(cursor.take())?);
        if version >= 4 {
            let kind = inside(cursor.u16_le())?;
            if kind != certification::QE_REPORT {
                return unsupported("quote.certification_data", "type 6 (QE report)", format!("type {kind}"));
            }
            let certified = inside(counted(&mut cursor))?;
            inside(cursor.end())?;
            cursor = Cursor::new(certified);
        }
        let (qe_report, qe_signature) = (inside(cursor.take())?, inside(cursor.take())?);
        let length = inside(cursor.u16_le())?;
        let qe_auth = inside(cursor.bytes(usize::from(length)))?;
        let certification_type = inside(cursor.u16_le())?;
        let certification = inside(counted(&mut cursor))?;
        inside(cursor.end())?;
        Ok(Self { signature, attestation_key, qe_report, qe_signature, qe_auth, certification_type, certification })
    }
}

/// Octets behind their count.
fn counted<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let length = cursor.u32_le()?;
    cursor.bytes(usize::try_from(length).ok()?)
}

fn length_u32(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

fn need<T>(field: Option<T>, whole: &[u8]) -> Result<T, Denied> {
    field.ok_or_else(|| Finding::new(Reason::EvidenceSize, "quote", "as many octets as its fields take", whole.len().to_string()).into())
}

fn inside<T>(field: Option<T>) -> Result<T, Denied> {
    field.map_or_else(|| malformed("quote.signature_data", "the lengths of its parts to add up", "others"), Ok)
}

fn malformed<T>(field: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Result<T, Denied> {
    Finding::new(Reason::EvidenceMalformed, field, expected, found).refuse()
}

fn unsupported<T>(field: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Result<T, Denied> {
    Finding::new(Reason::EvidenceUnsupported, field, expected, found).refuse()
}
