//! The HCL report of an Azure confidential VM: what the paravisor (OpenHCL) keeps in the vTPM's NV index 0x01400001.
//!
//! It holds a hardware report and the runtime claims that the hardware report's data is the SHA-256 of: a JSON text with
//! the keys of the vTPM and the VM's configuration.
//!
//! ```text
//!    0  "HCLA", version u32, report size u32, request type u32, status u32, 12 reserved
//!   32  hardware report: 1184 octets; an SNP report, or a TDREPORT of 1024 octets and zeros
//! 1216  runtime data size u32, version u32, report type u32, hash type u32, claims size u32
//! 1236  claims
//! ```
//!
//! Numbers are little-endian. Behind the claims there may be zeros up to the size of the NV index.

use super::cursor::Cursor;
use super::snp::REPORT_SIZE;
use crate::refusal::{Denied, Finding, Reason};

pub mod claims;
pub mod saved;

pub use claims::RuntimeClaims;

/// The media type of a raw report.
pub const MEDIA_TYPE: &str = "application/vnd.portcullis.azure-hcl";

/// The label of the member with the TD quote of a VM on TDX, of Intel's media type: nobody else can check a TDREPORT.
pub const TD_QUOTE: &str = "td-quote";

/// The longest report that is read: the NV index has 2600 octets.
pub const MAX_REPORT: usize = 4096;
/// The length of a TDREPORT.
pub const TDREPORT_SIZE: usize = 1024;

const SIGNATURE: [u8; 4] = *b"HCLA";
const HEADER_SIZE: usize = 32;
const RUNTIME_HEADER_SIZE: usize = 20;
const CLAIMS_AT: usize = HEADER_SIZE + REPORT_SIZE + RUNTIME_HEADER_SIZE;
/// Where REPORTDATA stands in a TDREPORT.
const TDREPORT_DATA: usize = 128;

/// The kind of hardware report inside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An SNP report: 2.
    Snp,
    /// A TDREPORT: 4. Only the machine itself can check its MAC; a TD quote has to come beside.
    Tdx,
}

impl Kind {
    /// Its number in the report.
    #[must_use]
    pub const fn id(self) -> u32 {
        match self {
            Self::Snp => 2,
            Self::Tdx => 4,
        }
    }

    /// Its name in claims.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
        }
    }
}

/// An HCL report.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HclReport {
    /// The header's version: 1 or 2.
    pub version: u32,
    /// The hardware report's area.
    pub hardware: [u8; REPORT_SIZE],
    /// What the hardware report is.
    pub kind: Kind,
    /// The runtime claims as they stand: what the hardware report's data is the digest of.
    pub claims: Vec<u8>,
    /// How many zeros stand behind.
    pub padding: usize,
}

impl HclReport {
    /// Reads a report of at most [`MAX_REPORT`] octets.
    ///
    /// # Errors
    /// `evidence_size`, `evidence_malformed`, `evidence_unsupported` for another signature, version, report or hash type,
    /// `reserved_bits_set`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Denied> {
        if !(CLAIMS_AT..=MAX_REPORT).contains(&bytes.len()) {
            let expected = format!("{CLAIMS_AT} to {MAX_REPORT} octets");
            return Finding::new(Reason::EvidenceSize, "hcl", expected, bytes.len().to_string()).refuse();
        }
        let mut cursor = Cursor::new(bytes);
        let signature: [u8; 4] = cursor.take().ok_or_else(cut)?;
        if signature != SIGNATURE {
            return unsupported("hcl.signature", "HCLA", data_encoding::HEXLOWER.encode(&signature));
        }
        let [version, size, request_type, status] = numbers(&mut cursor).ok_or_else(cut)?;
        if !(1..=2).contains(&version) {
            return unsupported("hcl.version", "1 or 2", version.to_string());
        }
        fixed("hcl.request_type", REQUEST_TYPE, request_type)?;
        fixed("hcl.status", 0, status)?;
        zeros("hcl, offset 0x14", &cursor.take::<12>().ok_or_else(cut)?)?;
        let hardware: [u8; REPORT_SIZE] = cursor.take().ok_or_else(cut)?;
        let [data_size, runtime_version, kind, hash, length] = numbers(&mut cursor).ok_or_else(cut)?;
        fixed("hcl.runtime_version", RUNTIME_VERSION, runtime_version)?;
        let kind = match kind {
            2 => Kind::Snp,
            4 => Kind::Tdx,
            other => return unsupported("hcl.report_type", "2 (SNP) or 4 (TDX)", other.to_string()),
        };
        if hash != SHA256 {
            return unsupported("hcl.report_data_hash_type", "1 (SHA-256)", hash.to_string());
        }
        let claims = usize::try_from(length).ok().and_then(|length| cursor.bytes(length)).ok_or_else(cut)?.to_vec();
        sizes_agree(size, data_size, length)?;
        zeros("hcl, behind the claims", cursor.rest())?;
        if kind == Kind::Tdx {
            zeros("hcl, behind the TDREPORT", hardware.get(TDREPORT_SIZE..).unwrap_or_default())?;
        }
        Ok(Self { version, hardware, kind, claims, padding: cursor.rest().len() })
    }

    /// Its octets: the inverse of [`HclReport::parse`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.claims.len()).unwrap_or(u32::MAX);
        let mut out = SIGNATURE.to_vec();
        let size = BEFORE_CLAIMS.saturating_add(length);
        [self.version, size, REQUEST_TYPE, 0].iter().for_each(|number| out.extend(number.to_le_bytes()));
        out.extend([0; 12]);
        out.extend(self.hardware);
        let data_size = RUNTIME_HEADER.saturating_add(length);
        [data_size, RUNTIME_VERSION, self.kind.id(), SHA256, length].iter().for_each(|number| out.extend(number.to_le_bytes()));
        out.extend(&self.claims);
        out.resize(out.len().saturating_add(self.padding), 0);
        out
    }

    /// What the hardware report's data has to be: the SHA-256 of the claims, then zeros.
    #[must_use]
    pub fn expected_data(&self) -> [u8; 64] {
        let mut data = [0; 64];
        let digest = crate::crypto::sha256(&[&self.claims]);
        data.iter_mut().zip(digest).for_each(|(out, octet)| *out = octet);
        data
    }

    /// REPORTDATA of the TDREPORT inside. Nothing vouches for it.
    #[must_use]
    pub fn tdreport_data(&self) -> [u8; 64] {
        let data = self.hardware.get(TDREPORT_DATA..).and_then(<[u8]>::first_chunk);
        data.copied().unwrap_or([0; 64])
    }

    /// Whether these octets may be such a report with hardware of this kind inside.
    #[must_use]
    pub fn is_of(bytes: &[u8], kind: Kind) -> bool {
        bytes.starts_with(&SIGNATURE) && Self::parse(bytes).is_ok_and(|report| report.kind == kind)
    }
}

/// Of every report seen; nothing covers the header, so other values mean nothing to us.
pub const REQUEST_TYPE: u32 = 2;
const RUNTIME_VERSION: u32 = 1;
const SHA256: u32 = 1;
const BEFORE_CLAIMS: u32 = 1236;
const RUNTIME_HEADER: u32 = 20;

/// The sizes in the two headers are those of what they head.
fn sizes_agree(size: u32, data_size: u32, length: u32) -> Result<(), Denied> {
    let wanted = (BEFORE_CLAIMS.saturating_add(length), RUNTIME_HEADER.saturating_add(length));
    if (size, data_size) == wanted {
        return Ok(());
    }
    let (expected, found) = (format!("{} and {}", wanted.0, wanted.1), format!("{size} and {data_size}"));
    Finding::new(Reason::EvidenceMalformed, "hcl.report_size, hcl.data_size", expected, found).refuse()
}

fn numbers<const N: usize>(cursor: &mut Cursor<'_>) -> Option<[u32; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = cursor.u32_le()?;
    }
    Some(numbers)
}

fn fixed(field: &'static str, expected: u32, found: u32) -> Result<(), Denied> {
    if found == expected {
        return Ok(());
    }
    Finding::new(Reason::EvidenceUnsupported, field, expected.to_string(), found.to_string()).refuse()
}

fn zeros(field: &'static str, octets: &[u8]) -> Result<(), Denied> {
    match octets.iter().position(|octet| *octet != 0) {
        None => Ok(()),
        Some(at) => Finding::new(Reason::ReservedBitsSet, field, "zeros", format!("something else {at} octets in")).refuse(),
    }
}

fn unsupported<T>(field: &'static str, expected: &'static str, found: String) -> Result<T, Denied> {
    Finding::new(Reason::EvidenceUnsupported, field, expected, found).refuse()
}

fn cut() -> Denied {
    Finding::new(Reason::EvidenceMalformed, "hcl", "as many octets as its sizes say", "fewer").into()
}
