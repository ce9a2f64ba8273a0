//! Stage 2, all platforms.
use super::{Appraisal, AuthenticClaims, Verifier};
use crate::evidence::binding::Binding;
use crate::evidence::cmw::Collection;
use crate::evidence::{ReportData, Timestamp};
use crate::policy::AppraisalPolicy;
use crate::refusal::{Denied, Finding, Reason};

pub(super) fn bound(verifier: &dyn Verifier, presented: &Collection, binding: &Binding) -> Result<(), Denied> {
    same_report_data(&verifier.report_data(&presented.tee)?, binding)
}

pub(super) fn same_report_data(found: &ReportData, binding: &Binding) -> Result<(), Denied> {
    if crate::crypto::same(&found.0, &binding.expected().0) {
        return Ok(());
    }
    let hex = |data: &ReportData| data_encoding::HEXLOWER.encode(&data.0);
    Finding::new(Reason::BindingMismatch, "report.report_data", hex(binding.expected()), hex(found)).refuse()
}

pub(super) fn appraise(_: AuthenticClaims, _: &AppraisalPolicy, _: Timestamp) -> Result<Appraisal, Denied> {
    Finding::new(Reason::PolicyInvalid, "policy", "an appraisal", "not built yet").refuse()
}
