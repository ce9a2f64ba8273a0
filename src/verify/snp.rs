//! AMD SEV-SNP, stage 1.

use super::{AuthenticClaims, Grounds, Verifier};
use crate::evidence::{Claims, EndorsementId, Endorsements, Evidence, ReportData, snp::Report};
use crate::policy::Vocabulary;
use crate::refusal::Denied;

/// The platform's verifier.
pub struct Snp;

impl Verifier for Snp {
    fn vocabulary(&self) -> &'static Vocabulary {
        const V: Vocabulary = Vocabulary { tee: "sev-snp", fields: &[], loosening: &[] };
        &V
    }
    fn read(&self, evidence: &Evidence) -> Result<Claims, Denied> {
        Report::parse(&evidence.bytes).map(|_| Claims::default())
    }
    fn report_data(&self, evidence: &Evidence) -> Result<ReportData, Denied> {
        Report::parse(&evidence.bytes).map(|report| report.bound_data())
    }
    fn needs(&self, _: &Evidence) -> Result<Vec<EndorsementId>, Denied> {
        Ok(vec![])
    }
    fn authenticate(&self, _: &Evidence, _: &Endorsements, _: &Grounds<'_>) -> Result<AuthenticClaims, Denied> {
        Err(crate::refusal::Finding::new(crate::refusal::Reason::EvidenceUnsupported, "report", "a verifier", "not built yet").into())
    }
}
