//! The document that NVIDIA's own tools write of a machine's devices (`nvattest collect-evidence`): JSON with each device's
//! report and certificates in Base64.

use data_encoding::BASE64;
use serde::Deserialize;
use x509_parser::pem::Pem;

use super::{Gpu, LABELS, MAX_CHAIN, MAX_MEMBER, Report, malformed};
use crate::refusal::Denied;

/// A document longer than this is not read: a device has about 12 KiB of it, and there are at most 16.
pub const MAX_DOCUMENT: usize = 512 * 1024;

/// The list by itself, or the object that the command line prints. What else they say is not read: it is not signed.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    List(Vec<Device>),
    Printed { evidences: Vec<Device> },
}

#[derive(Deserialize)]
struct Device {
    evidence: String,
    certificate: String,
}

/// The devices of a document, in its order; what lies behind a report is cut off.
///
/// Establishes nothing about any of them.
///
/// # Errors
/// `evidence_malformed` for another document, or one of no device or more than there are labels; and as [`Report::parse`].
pub fn of_document(bytes: &[u8]) -> Result<Vec<Gpu>, Denied> {
    let broken = |found: String| malformed("gpu.document", "JSON with `evidence` and `certificate` of 1 to 16 devices", found);
    if bytes.len() > MAX_DOCUMENT {
        return Err(broken(format!("{} octets", bytes.len())));
    }
    let devices = match serde_json::from_slice(bytes) {
        Ok(Document::List(devices) | Document::Printed { evidences: devices }) => devices,
        Err(error) => return Err(broken(error.to_string())),
    };
    if devices.is_empty() || devices.len() > LABELS.len() {
        return Err(broken(format!("{} devices", devices.len())));
    }
    devices.iter().map(device).collect()
}

fn device(device: &Device) -> Result<Gpu, Denied> {
    let decoded = |name: &'static str, text: &str| {
        let octets = BASE64.decode(text.as_bytes()).ok().filter(|octets| octets.len() <= MAX_MEMBER);
        octets.ok_or_else(|| malformed(name, format!("Base64 of at most {MAX_MEMBER} octets"), "another text"))
    };
    let report = decoded("gpu.document.evidence", &device.evidence)?;
    Gpu::of_files(report, &decoded("gpu.document.certificate", &device.certificate)?)
}

impl Gpu {
    /// A device of its report, which is cut where it says that it ends, and of its certificates in PEM.
    ///
    /// # Errors
    /// `evidence_malformed` for PEM that is none, or more certificates than a device has; and as [`Report::parse`].
    pub fn of_files(mut report: Vec<u8>, pem: &[u8]) -> Result<Self, Denied> {
        let (_, behind) = Report::parse(&report)?;
        report.truncate(report.len().saturating_sub(behind.len()));
        let chain: Result<Vec<_>, _> = Pem::iter_from_buffer(pem).take(MAX_CHAIN.saturating_add(1)).map(|block| block.map(|block| block.contents)).collect();
        let chain = chain.ok().filter(|chain| (1..=MAX_CHAIN).contains(&chain.len()));
        let chain = chain.ok_or_else(|| malformed("gpu.certificate", format!("PEM of 1 to {MAX_CHAIN} certificates"), "another text"))?;
        Ok(Self { report, chain })
    }
}
