//! The report body of a TDX trust domain: TD 1.0, and TD 1.5 with the two fields that it adds.

use super::Cursor;
use crate::refusal::{Denied, Finding, Reason};

/// A trust domain's report body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TdReport {
    /// TEE_TCB_SVN, at launch: 0 the module's security version, 1 its major version, 2 late microcode.
    pub tee_tcb_svn: [u8; 16],
    /// MRSEAM.
    pub mr_seam: [u8; 48],
    /// MRSIGNERSEAM; zero for Intel's module.
    pub mr_signer_seam: [u8; 48],
    /// SEAMATTRIBUTES.
    pub seam_attributes: [u8; 8],
    /// TDATTRIBUTES.
    pub td_attributes: u64,
    /// XFAM.
    pub xfam: u64,
    /// MRTD: what was loaded at build, the firmware.
    pub mr_td: [u8; 48],
    /// MRCONFIGID.
    pub mr_config_id: [u8; 48],
    /// MROWNER.
    pub mr_owner: [u8; 48],
    /// MROWNERCONFIG.
    pub mr_owner_config: [u8; 48],
    /// RTMR0 to RTMR3: what was measured while running.
    pub rtmr: [[u8; 48]; 4],
    /// REPORTDATA.
    pub report_data: [u8; 64],
    /// What TD 1.5 adds.
    pub newer: Option<Newer>,
}

/// What the body of TD 1.5 has beyond that of TD 1.0.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Newer {
    /// TEE_TCB_SVN_2: of the module that runs now, which may have been updated under the trust domain.
    pub tee_tcb_svn: [u8; 16],
    /// MRSERVICETD: the service trust domains that are bound to this one; zero for none.
    pub mr_service_td: [u8; 48],
}

impl TdReport {
    /// The length of the body of TD 1.5 in octets.
    pub const NEWER_SIZE: usize = 648;
    /// The length of the body of TD 1.0 in octets.
    pub const SIZE: usize = 584;

    /// Reads a body of exactly [`TdReport::SIZE`] or [`TdReport::NEWER_SIZE`] octets.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Denied> {
        let mut cursor = Cursor::new(bytes);
        match Self::fields(&mut cursor, bytes.len() == Self::NEWER_SIZE).zip(cursor.end()) {
            Some((report, ())) => Ok(report),
            None => Finding::new(Reason::EvidenceSize, "report", format!("{} or {} octets", Self::SIZE, Self::NEWER_SIZE), bytes.len().to_string()).refuse(),
        }
    }

    fn fields(cursor: &mut Cursor<'_>, newer: bool) -> Option<Self> {
        Some(Self {
            tee_tcb_svn: cursor.take()?,
            mr_seam: cursor.take()?,
            mr_signer_seam: cursor.take()?,
            seam_attributes: cursor.take()?,
            td_attributes: u64::from_le_bytes(cursor.take()?),
            xfam: u64::from_le_bytes(cursor.take()?),
            mr_td: cursor.take()?,
            mr_config_id: cursor.take()?,
            mr_owner: cursor.take()?,
            mr_owner_config: cursor.take()?,
            rtmr: [cursor.take()?, cursor.take()?, cursor.take()?, cursor.take()?],
            report_data: cursor.take()?,
            newer: if newer { Some(Newer { tee_tcb_svn: cursor.take()?, mr_service_td: cursor.take()? }) } else { None },
        })
    }

    /// Its octets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        out.extend(self.tee_tcb_svn);
        out.extend(self.mr_seam);
        out.extend(self.mr_signer_seam);
        out.extend(self.seam_attributes);
        out.extend(self.td_attributes.to_le_bytes());
        out.extend(self.xfam.to_le_bytes());
        [self.mr_td, self.mr_config_id, self.mr_owner, self.mr_owner_config].iter().chain(&self.rtmr).for_each(|digest| out.extend(digest));
        out.extend(self.report_data);
        if let Some(newer) = &self.newer {
            out.extend(newer.tee_tcb_svn);
            out.extend(newer.mr_service_td);
        }
        out
    }

    /// How many octets it takes.
    #[must_use]
    pub const fn size(&self) -> usize {
        if self.newer.is_some() { Self::NEWER_SIZE } else { Self::SIZE }
    }
}
