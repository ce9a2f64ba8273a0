//! The attestation of an NVIDIA GPU or switch: an SPDM measurement request with its answer, and the device's certificates.
//!
//! ```text
//! request   11 e0 01 ff, nonce (32), slot (1)
//! response  11 60 .. .., blocks (1), length of the record (3), record, nonce (32), length of opaque data (2), opaque data
//! signature 96 octets, r and s, over request and response before it
//! ```
//!
//! A block is its index, the DMTF specification 1, its length, and a measurement of 48 octets. Opaque data are fields of type
//! and length. Numbers are little-endian. Source: DMTF DSP0274, NVIDIA's `attestation-sdk`.

mod document;
pub mod saved;

pub use document::{MAX_DOCUMENT, of_document};

use super::cbor::{NotCanonical, Reader, Writer};
use super::cursor::Cursor;
use super::{ClaimValue, Claims};
use crate::refusal::{Denied, Finding, Reason};

/// The media type of the member's value.
pub const MEDIA_TYPE: &str = "application/vnd.portcullis.nvidia-gpu+cbor";

/// The prefix of the short names of reference measurements among the endorsements, and their media type.
pub const RIM: &str = "gpu-rim";
/// See [`RIM`].
pub const RIM_TYPE: &str = "application/xml";

/// The prefix of the short names of OCSP responses, and their media type.
pub const OCSP: &str = "gpu-ocsp";
/// See [`OCSP`].
pub const OCSP_TYPE: &str = "application/ocsp-response";

/// A member longer than this is not read: reports have about 4 KiB, chains 5 certificates of less than 1 KiB.
pub const MAX_MEMBER: usize = 32 * 1024;

/// More certificates than this no device has.
pub const MAX_CHAIN: usize = 8;

/// The labels that such members may have.
pub const LABELS: [&str; 16] =
    ["gpu/0", "gpu/1", "gpu/2", "gpu/3", "gpu/4", "gpu/5", "gpu/6", "gpu/7", "gpu/8", "gpu/9", "gpu/10", "gpu/11", "gpu/12", "gpu/13", "gpu/14", "gpu/15"];

/// A device's evidence: what the member holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gpu {
    /// Request, response and signature as the driver gives them.
    pub report: Vec<u8>,
    /// The device's certificates in DER, its own first.
    pub chain: Vec<Vec<u8>>,
}

impl Gpu {
    /// The one encoding: a CBOR map of the report (1) and the list of certificates (2).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.map(2).uint(1).bytes(&self.report).uint(2).array(self.chain.len());
        for certificate in &self.chain {
            w.bytes(certificate);
        }
        w.finish()
    }

    /// Reads a member.
    ///
    /// # Errors
    /// `evidence_size` beyond [`MAX_MEMBER`] or [`MAX_CHAIN`], else `evidence_malformed`.
    pub fn decode(bytes: &[u8]) -> Result<Self, Denied> {
        if bytes.len() > MAX_MEMBER {
            return Finding::new(Reason::EvidenceSize, "gpu", format!("at most {MAX_MEMBER} octets"), bytes.len().to_string()).refuse();
        }
        read(bytes).map_err(|error| malformed("gpu", "deterministic CBOR of a report and at most 8 certificates", error.to_string()))
    }
}

fn read(bytes: &[u8]) -> Result<Gpu, NotCanonical> {
    let mut reader = Reader::new(bytes);
    let mut gpu = Gpu { report: Vec::new(), chain: Vec::new() };
    let mut seen = 0_u64;
    reader.each_pair(Reader::uint, |key, offset, r| {
        seen = seen.saturating_add(1);
        match key {
            1 => gpu.report = r.bytes()?.to_vec(),
            2 => {
                let count = r.array()?;
                if count > MAX_CHAIN {
                    return Err(NotCanonical { offset, expected: "at most 8 certificates" });
                }
                for _ in 0..count {
                    gpu.chain.push(r.bytes()?.to_vec());
                }
            }
            _ => return Err(NotCanonical { offset, expected: "key 1 or 2" }),
        }
        Ok(())
    })?;
    let offset = reader.offset();
    reader.end()?;
    if seen == 2 { Ok(gpu) } else { Err(NotCanonical { offset, expected: "keys 1 and 2" }) }
}

/// A report, read and not believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The nonce that was asked with: what binds the report.
    pub nonce: [u8; 32],
    /// The request's first four octets.
    pub request: [u8; 4],
    /// The measurements; the first is of block 1.
    pub measurements: Vec<[u8; 48]>,
    /// The fields of the opaque data, by type.
    pub opaque: Vec<(u16, Vec<u8>)>,
    /// `r ‖ s`, big-endian.
    pub signature: [u8; 96],
    /// How many octets are signed.
    pub signed: usize,
}

impl Report {
    /// Reads a report from the front of `bytes` and returns what is behind it.
    ///
    /// # Errors
    /// `evidence_malformed` for another shape, `evidence_unsupported` for a request or measurement of another kind.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), Denied> {
        let mut cursor = Cursor::new(bytes);
        let short = || malformed("gpu.report", "an SPDM measurement report", "fewer octets than it says");
        let request: [u8; 4] = cursor.take().ok_or_else(short)?;
        // GET_MEASUREMENTS of SPDM 1.1 with signature, all blocks.
        if request != [0x11, 0xe0, 0x01, 0xff] {
            let found = data_encoding::HEXLOWER.encode(&request);
            return Finding::new(Reason::EvidenceUnsupported, "gpu.request", "11e001ff, all measurements with a signature", found).refuse();
        }
        let nonce = cursor.take().ok_or_else(short)?;
        cursor.take::<1>().ok_or_else(short)?;
        let [version, code, ..]: [u8; 4] = cursor.take().ok_or_else(short)?;
        if (version, code) != (0x11, 0x60) {
            return Finding::new(Reason::EvidenceUnsupported, "gpu.response", "1160, MEASUREMENTS", format!("{version:02x}{code:02x}")).refuse();
        }
        let blocks = cursor.u8().ok_or_else(short)?;
        let [a, b, c] = cursor.take().ok_or_else(short)?;
        let record = usize::try_from(u32::from_le_bytes([a, b, c, 0])).unwrap_or(usize::MAX);
        let measurements = measurements(cursor.bytes(record).ok_or_else(short)?, blocks)?;
        cursor.take::<32>().ok_or_else(short)?;
        let length = usize::from(cursor.u16_le().ok_or_else(short)?);
        let opaque = opaque(cursor.bytes(length).ok_or_else(short)?)?;
        let signed = bytes.len().saturating_sub(cursor.rest().len());
        let signature = cursor.take().ok_or_else(short)?;
        Ok((Self { nonce, request, measurements, opaque, signature, signed }, cursor.rest()))
    }

    /// The field of the opaque data of this type.
    #[must_use]
    pub fn field(&self, kind: u16) -> Option<&[u8]> {
        self.opaque.iter().find(|(known, _)| *known == kind).map(|(_, value)| value.as_slice())
    }

    /// The version of the driver; switches have none.
    #[must_use]
    pub fn driver_version(&self) -> Option<String> {
        self.field(DRIVER_VERSION).map(text)
    }

    /// The version of the firmware (VBIOS) as NVIDIA writes it.
    #[must_use]
    pub fn vbios_version(&self) -> Option<String> {
        let raw = self.field(VBIOS_VERSION)?;
        let Some((front, _)) = raw.split_first_chunk::<5>().filter(|_| raw.len() == 8) else { return Some(text(raw)) };
        let [a, b, c, d, e] = *front;
        Some(format!("{d:02X}.{c:02X}.{b:02X}.{a:02X}.{e:02X}"))
    }

    /// Whether the video decoder is off: then block 36 is not one to be compared.
    #[must_use]
    pub fn decoder_off(&self) -> bool {
        self.field(NVDEC0_STATUS) == Some(&[0xaa])
    }

    /// The digest of the firmware that the device's certificate was issued for.
    #[must_use]
    pub fn fwid(&self) -> Option<&[u8]> {
        self.field(FWID)
    }

    /// What it says.
    #[must_use]
    pub fn claims(&self) -> Claims {
        let mut claims = Claims::default();
        claims.push("nonce", ClaimValue::Bytes(self.nonce.to_vec()));
        claims.push("measurement_blocks", ClaimValue::Integer(u64::try_from(self.measurements.len()).unwrap_or(u64::MAX)));
        for (name, value) in [("driver_version", self.driver_version()), ("vbios_version", self.vbios_version())] {
            if let Some(value) = value {
                claims.push(name, ClaimValue::Text(value));
            }
        }
        for (kind, name, shape) in FIELDS {
            match (self.field(*kind), shape) {
                (Some(value), Shape::Octets) => claims.push(name, ClaimValue::Bytes(value.to_vec())),
                (Some(value), Shape::Text) => claims.push(name, ClaimValue::Text(text(value))),
                (None, _) => {}
            }
        }
        let measurements: Vec<String> =
            self.measurements.iter().enumerate().map(|(at, value)| format!("{}:{}", at.saturating_add(1), data_encoding::HEXLOWER.encode(value))).collect();
        claims.push("measurements", ClaimValue::Texts(measurements));
        claims
    }
}

fn measurements(record: &[u8], blocks: u8) -> Result<Vec<[u8; 48]>, Denied> {
    let mut cursor = Cursor::new(record);
    let mut measurements = Vec::new();
    for wanted in 1..=blocks {
        let block = (|| Some((cursor.u8()?, cursor.u8()?, cursor.u16_le()?, cursor.u8()?, cursor.u16_le()?, cursor.take::<48>()?)))();
        match block {
            Some((index, 1, 51, _, 48, value)) if index == wanted => measurements.push(value),
            _ => return Err(malformed("gpu.measurements", format!("block {wanted} with a measurement of 48 octets"), "another, or none")),
        }
    }
    cursor.end().ok_or_else(|| malformed("gpu.measurements", format!("{blocks} blocks"), "octets behind them"))?;
    Ok(measurements)
}

fn opaque(octets: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, Denied> {
    let mut cursor = Cursor::new(octets);
    let mut fields: Vec<(u16, Vec<u8>)> = Vec::new();
    while !cursor.rest().is_empty() {
        let field = (|| Some((cursor.u16_le()?, cursor.u16_le()?)))().and_then(|(kind, length)| Some((kind, cursor.bytes(usize::from(length))?.to_vec())));
        let (kind, value) = field.ok_or_else(|| malformed("gpu.opaque", "fields of type, length and value", "one that is cut off"))?;
        if fields.iter().any(|(known, _)| *known == kind) {
            return Err(malformed("gpu.opaque", "each field once", format!("field {kind} twice")));
        }
        fields.push((kind, value));
    }
    Ok(fields)
}

/// Printable text up to the first zero.
fn text(octets: &[u8]) -> String {
    octets.iter().take_while(|octet| **octet != 0).map(|octet| if octet.is_ascii_graphic() { char::from(*octet) } else { '?' }).collect()
}

fn malformed(field: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Denied {
    Finding::new(Reason::EvidenceMalformed, field, expected, found).into()
}

const DRIVER_VERSION: u16 = 3;
const VBIOS_VERSION: u16 = 6;
const NVDEC0_STATUS: u16 = 11;
const FWID: u16 = 20;

enum Shape {
    Octets,
    Text,
}

/// Further fields of the opaque data that are shown, by NVIDIA's names.
const FIELDS: &[(u16, &str, Shape)] = &[
    (15, "chip_sku", Shape::Text),
    (17, "project", Shape::Text),
    (18, "project_sku", Shape::Text),
    (14, "board_id", Shape::Octets),
    (4, "gpu_info", Shape::Octets),
    (NVDEC0_STATUS, "nvdec0_status", Shape::Octets),
    (FWID, "fwid", Shape::Octets),
    (21, "protected_pcie_status", Shape::Octets),
    (33, "sys_enable_status", Shape::Octets),
    (36, "feature_flag", Shape::Octets),
];
