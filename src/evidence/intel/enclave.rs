//! The report body of an SGX enclave (sgx_report_body_t): what an SGX quote is about, and what a quoting enclave is.

use super::Cursor;
use crate::refusal::{Denied, Finding, Reason};

/// Its length in octets.
pub const ENCLAVE_REPORT_SIZE: usize = 384;

/// An enclave's report body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EnclaveReport {
    /// CPUSVN.
    pub cpu_svn: [u8; 16],
    /// MISCSELECT.
    pub misc_select: u32,
    /// CET_ATTRIBUTES.
    pub cet_attributes: u8,
    /// ISVEXTPRODID; with key separation and sharing only.
    pub isv_ext_prod_id: [u8; 16],
    /// ATTRIBUTES: flags, then XFRM.
    pub attributes: [u8; 16],
    /// MRENCLAVE.
    pub mr_enclave: [u8; 32],
    /// MRSIGNER.
    pub mr_signer: [u8; 32],
    /// CONFIGID; with key separation and sharing only.
    pub config_id: [u8; 64],
    /// ISVPRODID.
    pub isv_prod_id: u16,
    /// ISVSVN.
    pub isv_svn: u16,
    /// CONFIGSVN; with key separation and sharing only.
    pub config_svn: u16,
    /// ISVFAMILYID; with key separation and sharing only.
    pub isv_family_id: [u8; 16],
    /// REPORTDATA.
    pub report_data: [u8; 64],
}

impl EnclaveReport {
    /// Reads a report body of exactly [`ENCLAVE_REPORT_SIZE`] octets; `what` is its name in findings.
    pub(super) fn parse(what: &'static str, bytes: &[u8]) -> Result<Self, Denied> {
        let mut cursor = Cursor::new(bytes);
        let report = Self::fields(&mut cursor).zip(cursor.end());
        let Some(((report, reserved), ())) = report else {
            return Finding::new(Reason::EvidenceSize, what, format!("{ENCLAVE_REPORT_SIZE} octets"), bytes.len().to_string()).refuse();
        };
        if reserved {
            return Finding::new(Reason::ReservedBitsSet, what, "zero in what the layout reserves", "other octets").refuse();
        }
        Ok(report)
    }

    /// The fields, and whether a reserved octet is set.
    fn fields(cursor: &mut Cursor<'_>) -> Option<(Self, bool)> {
        let cpu_svn = cursor.take()?;
        let misc_select = cursor.u32_le()?;
        let cet_attributes = cursor.u8()?;
        let first = cursor.bytes(11)?;
        let isv_ext_prod_id = cursor.take()?;
        let attributes = cursor.take()?;
        let mr_enclave = cursor.take()?;
        let second = cursor.bytes(32)?;
        let mr_signer = cursor.take()?;
        let third = cursor.bytes(32)?;
        let config_id = cursor.take()?;
        let (isv_prod_id, isv_svn, config_svn) = (cursor.u16_le()?, cursor.u16_le()?, cursor.u16_le()?);
        let fourth = cursor.bytes(42)?;
        let (isv_family_id, report_data) = (cursor.take()?, cursor.take()?);
        let reserved = [first, second, third, fourth].into_iter().flatten().any(|octet| *octet != 0);
        let report = Self {
            cpu_svn,
            misc_select,
            cet_attributes,
            isv_ext_prod_id,
            attributes,
            mr_enclave,
            mr_signer,
            config_id,
            isv_prod_id,
            isv_svn,
            config_svn,
            isv_family_id,
            report_data,
        };
        Some((report, reserved))
    }

    /// Its octets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ENCLAVE_REPORT_SIZE);
        out.extend(self.cpu_svn);
        out.extend(self.misc_select.to_le_bytes());
        out.push(self.cet_attributes);
        out.extend([0; 11]);
        out.extend(self.isv_ext_prod_id);
        out.extend(self.attributes);
        out.extend(self.mr_enclave);
        out.extend([0; 32]);
        out.extend(self.mr_signer);
        out.extend([0; 32]);
        out.extend(self.config_id);
        [self.isv_prod_id, self.isv_svn, self.config_svn].iter().for_each(|number| out.extend(number.to_le_bytes()));
        out.extend([0; 42]);
        out.extend(self.isv_family_id);
        out.extend(self.report_data);
        out
    }

    /// The first half of ATTRIBUTES: bit 0 INIT, 1 DEBUG, 2 MODE64BIT, 4 PROVISIONKEY, 5 EINITTOKEN_KEY, …
    #[must_use]
    pub fn flags(&self) -> u64 {
        Cursor::new(&self.attributes).take().map(u64::from_le_bytes).unwrap_or_default()
    }
}
