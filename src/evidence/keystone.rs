//! The report of a RISC-V Keystone enclave, as its security monitor writes it.
//!
//! | offset | length | field |
//! |---|---|---|
//! | 0 | 64 | `enclave.hash` |
//! | 64 | 8 | `enclave.data_len`, little-endian |
//! | 72 | 1024 | `enclave.data`, zero behind `data_len` |
//! | 1096 | 64 | `enclave.signature` |
//! | 1160 | 64 | `sm.hash` |
//! | 1224 | 32 | `sm.public_key` |
//! | 1256 | 64 | `sm.signature` |
//! | 1320 | 32 | `dev_public_key` |
//!
//! Source: `struct report` of Keystone's SDK. The enclave's signature covers its hash, the length and that much data; the
//! monitor's covers its hash and key.

use super::cursor::Cursor;
use super::saved::Saved;
use super::{Bound, ClaimValue, Claims, ReportData};
use crate::refusal::{Denied, Finding, Reason};

/// The media type of the raw report.
pub const MEDIA_TYPE: &str = "application/vnd.portcullis.keystone-report";

/// The length of a report.
pub const REPORT_SIZE: usize = 1352;

/// The most data that a report has room for.
pub const MAX_DATA: usize = 1024;

/// How the platform's pieces look in files. A report has no mark but its length.
pub const SAVED: Saved =
    Saved { evidence: "keystone-report.bin", endorsements: &[], is_evidence: |bytes| bytes.len() == REPORT_SIZE, endorsement: |_| None, assemble: |_| None };

/// A report, read and not believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// SHA3-512 of the enclave at its start.
    pub enclave_hash: [u8; 64],
    /// What the enclave asked to have signed, at most [`MAX_DATA`] octets.
    pub data: Vec<u8>,
    /// The monitor's signature over hash, length and data.
    pub enclave_signature: [u8; 64],
    /// SHA3-512 of the security monitor.
    pub sm_hash: [u8; 64],
    /// The monitor's key.
    pub sm_public_key: [u8; 32],
    /// The device's signature over the monitor's hash and key.
    pub sm_signature: [u8; 64],
    /// The device's key.
    pub device_public_key: [u8; 32],
}

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// `evidence_size` for another length or a `data_len` beyond [`MAX_DATA`], `evidence_malformed` for octets behind
    /// the data.
    pub fn parse(bytes: &[u8]) -> Result<Self, Denied> {
        if bytes.len() != REPORT_SIZE {
            return Finding::new(Reason::EvidenceSize, "report", format!("{REPORT_SIZE} octets"), bytes.len().to_string()).refuse();
        }
        Self::fields(bytes)?.ok_or_else(|| Finding::new(Reason::EvidenceSize, "report", format!("{REPORT_SIZE} octets"), "fewer").into())
    }

    fn fields(bytes: &[u8]) -> Result<Option<Self>, Denied> {
        let mut cursor = Cursor::new(bytes);
        let (Some(enclave_hash), Some(length), Some(area)) = (cursor.take(), cursor.take().map(u64::from_le_bytes), cursor.bytes(MAX_DATA)) else {
            return Ok(None);
        };
        let split = usize::try_from(length).ok().and_then(|length| area.split_at_checked(length));
        let Some((data, padding)) = split else {
            return Finding::new(Reason::EvidenceSize, "report.data_len", format!("at most {MAX_DATA}"), length.to_string()).refuse();
        };
        if padding.iter().any(|octet| *octet != 0) {
            return Finding::new(Reason::EvidenceMalformed, "report.data", format!("zeros behind its {length} octets"), "others").refuse();
        }
        let rest = (|| {
            Some(Self {
                enclave_hash,
                data: data.to_vec(),
                enclave_signature: cursor.take()?,
                sm_hash: cursor.take()?,
                sm_public_key: cursor.take()?,
                sm_signature: cursor.take()?,
                device_public_key: cursor.take()?,
            })
        })();
        Ok(rest)
    }

    /// The one encoding of this report. Data beyond [`MAX_DATA`] is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REPORT_SIZE);
        let data = self.data.get(..MAX_DATA).unwrap_or(&self.data);
        bytes.extend(self.enclave_hash);
        bytes.extend(u64::try_from(data.len()).unwrap_or_default().to_le_bytes());
        bytes.extend(data);
        bytes.extend(std::iter::repeat_n(0, MAX_DATA.saturating_sub(data.len())));
        bytes.extend(self.enclave_signature);
        bytes.extend(self.sm_hash);
        bytes.extend(self.sm_public_key);
        bytes.extend(self.sm_signature);
        bytes.extend(self.device_public_key);
        bytes
    }

    /// What the report carries to bind it.
    #[must_use]
    pub fn bound(&self) -> Bound {
        <[u8; 64]>::try_from(self.data.as_slice()).map_or_else(|_| Bound::Other(self.data.clone()), |data| Bound::Long(ReportData(data)))
    }

    /// What it says.
    #[must_use]
    pub fn claims(&self) -> Claims {
        let mut claims = Claims::default();
        claims.push("enclave_hash", ClaimValue::Bytes(self.enclave_hash.to_vec()));
        claims.push("data_len", ClaimValue::Integer(u64::try_from(self.data.len()).unwrap_or(u64::MAX)));
        for (name, octets) in [
            ("data", self.data.as_slice()),
            ("enclave_signature", &self.enclave_signature),
            ("sm_hash", &self.sm_hash),
            ("sm_public_key", &self.sm_public_key),
            ("sm_signature", &self.sm_signature),
            ("device_public_key", &self.device_public_key),
        ] {
            claims.push(name, ClaimValue::Bytes(octets.to_vec()));
        }
        claims.push("size", ClaimValue::Integer(u64::try_from(REPORT_SIZE).unwrap_or(u64::MAX)));
        claims
    }
}

/// The octets of a received report that the monitor signed: hash, length and data.
#[must_use]
pub fn signed_by_monitor<'a>(received: &'a [u8], report: &Report) -> &'a [u8] {
    const DATA: usize = 72;
    received.get(..DATA.saturating_add(report.data.len())).unwrap_or_default()
}

/// The octets of a received report that the device signed: the monitor's hash and key.
#[must_use]
pub fn signed_by_device(received: &[u8]) -> &[u8] {
    received.get(1160..1256).unwrap_or_default()
}

/// The DER SubjectPublicKeyInfo of an Ed25519 key (RFC 8410).
#[must_use]
pub fn spki(key: &[u8; 32]) -> Vec<u8> {
    const HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    [HEAD.as_slice(), key].concat()
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(data: Vec<u8>) -> Report {
        Report {
            enclave_hash: [1; 64],
            data,
            enclave_signature: [2; 64],
            sm_hash: [3; 64],
            sm_public_key: [4; 32],
            sm_signature: [5; 64],
            device_public_key: [6; 32],
        }
    }

    fn reason(bytes: &[u8]) -> Reason {
        Report::parse(bytes).unwrap_err().reason()
    }

    #[test]
    fn lengths_are_judged_before_they_are_used() {
        let good = report(vec![7; 64]).encode();
        for cut in [0, 1, 72, REPORT_SIZE - 1] {
            assert_eq!(reason(&good[..cut]), Reason::EvidenceSize);
        }
        assert_eq!(reason(&[good.as_slice(), &[0]].concat()), Reason::EvidenceSize);
        for length in [1025, 4096, 1 << 40, u64::MAX] {
            let mut long = good.clone();
            long[64..72].copy_from_slice(&length.to_le_bytes());
            assert_eq!(reason(&long), Reason::EvidenceSize, "{length}");
        }
        let mut short = good;
        short[64..72].copy_from_slice(&63_u64.to_le_bytes());
        assert_eq!(reason(&short), Reason::EvidenceMalformed);
    }

    #[test]
    fn only_data_of_64_octets_binds() {
        assert_eq!(report(vec![7; 64]).bound(), Bound::Long(ReportData([7; 64])));
        for length in [0, 11, 63, 65, 1024] {
            assert!(matches!(report(vec![7; length]).bound(), Bound::Other(_)), "{length}");
        }
    }

    #[test]
    fn the_signed_parts_are_those_of_the_layout() {
        let bytes = report(vec![7; 10]).encode();
        let report = Report::parse(&bytes).unwrap();
        assert_eq!(signed_by_monitor(&bytes, &report).len(), 82);
        assert_eq!(signed_by_device(&bytes), [[3; 64].as_slice(), &[4; 32]].concat());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(data in proptest::collection::vec(any::<u8>(), 0..=MAX_DATA)) {
            let report = report(data);
            prop_assert_eq!(Report::parse(&report.encode()).unwrap(), report);
        }

        #[test]
        fn what_is_read_has_one_encoding(mut bytes in Just(report(vec![7; 64]).encode()), at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Ok(read) = Report::parse(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }
}
