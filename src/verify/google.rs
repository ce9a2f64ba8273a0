//! What Google's cloud adds to the evidence of the hardware's own makers: the quote of its vTPM and its endorsement of the
//! firmware. Both are optional, each is judged whenever it is there, and neither stands in for the hardware's evidence.

use super::launch;
pub(super) use super::launch::{Hardware, SEV_SNP, TDX};
use super::tpm::LABEL;
use super::{AuthenticClaims, Grounds, vtpm};
use crate::evidence::{Claims, EndorsementId, Endorsements, Evidence};
use crate::policy::{Field, both};
use crate::refusal::Denied;

/// The policy keys of both.
pub(super) const FIELDS: &[Field] = &ALL;

const ALL: [Field; vtpm::FIELDS.len() + launch::FIELDS.len()] = both(vtpm::FIELDS, launch::FIELDS);

/// Proves what lies beside authentic evidence and adds what it says: evidence is no more genuine than its least genuine
/// part, and holds no longer than any.
///
/// # Errors
/// Those of [`vtpm::beside`] and `launch::beside`.
pub(super) fn join(
    authentic: &mut AuthenticClaims,
    evidence: &Evidence,
    (measurement, hardware): (&[u8; 48], &Hardware),
    endorsements: &Endorsements,
    grounds: &Grounds<'_>,
) -> Result<(), Denied> {
    let proven = [vtpm::beside(evidence, endorsements, grounds)?, launch::beside(measurement, hardware, endorsements, grounds)?];
    for certified in proven.into_iter().flatten() {
        authentic.until = authentic.until.min(certified.until);
        authentic.origin = authentic.origin.with(certified.origin);
    }
    claims(evidence, (measurement, hardware), endorsements, &mut authentic.claims)
}

/// What lies beside evidence, read and not believed.
pub(super) fn claims(
    evidence: &Evidence,
    (measurement, hardware): (&[u8; 48], &Hardware),
    endorsements: &Endorsements,
    claims: &mut Claims,
) -> Result<(), Denied> {
    vtpm::claims(evidence, claims)?;
    launch::claims(measurement, hardware, endorsements, claims);
    Ok(())
}

/// What a verdict may need of Google: evidence is of its cloud where the quote of its vTPM lies beside.
pub(super) fn needs(evidence: &Evidence, (measurement, hardware): (&[u8; 48], &Hardware)) -> Option<EndorsementId> {
    evidence.member(LABEL).map(|_| hardware.published(measurement))
}
