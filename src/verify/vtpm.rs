//! The quote of a cloud's vTPM beside a TEE's own evidence (Google Cloud): what booted, from somebody other than the TEE.
//!
//! The vTPM belongs to the cloud operator, and nothing in the TEE's evidence names its key. Both carry the same challenge,
//! so both answered for this connection; whether they are of the same machine rests on the operator's word. The vTPM alone
//! is no evidence here. The steps, in their order; each one refuses:
//!
//! 1. the attestation key's certificate leads to Google's root ([`tpm::certified`]) and names an instance
//! 2. the quote, its registers and the event log ([`tpm::prove`])
//!
//! Google's certificates have revocation lists that are not asked for.

use super::tpm::{self, AttestationKey, Certified};
use super::{Anchor, Grounds, Member, Origin, Tie, chain};
use crate::evidence::tpm::{Instance, MEDIA_TYPE, Member as Quote};
use crate::evidence::{ClaimValue, Claims, Endorsements, Evidence};
use crate::policy::{Always, Field, Rule, Unset};
use crate::refusal::{Denied, Finding, Reason};

/// The member that evidence may have.
pub(super) const MEMBER: Member = Member { label: tpm::LABEL, media_type: MEDIA_TYPE, tie: Tie::Signature(tpm::bound) };

/// The policy keys of the member.
pub(super) const FIELDS: &[Field] = &[
    Field {
        key: "vtpm",
        doc: "Whose vTPM must speak beside the TEE: `google`, with a certificate that leads to Google's root. A quote that comes along is judged in any case.",
        rule: Rule::Words { claim: "vtpm", known: &["google"], default: &[], guarded: &[], needs: &[("google", "pcrs")], optional: false },
        unset: Unset::Unjudged,
        reason: Reason::AuxiliaryUnbound,
        always: Always::Policy,
    },
    Field {
        key: "pcrs",
        doc: "What booted, as the vTPM says: its registers of the SHA-256 bank, by number. Says nothing without the TEE's own measurement.",
        rule: Rule::Registers { claim: "pcrs", length: 32, names: tpm::PCR_NAMES },
        unset: Unset::Unjudged,
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "gce_instance_id",
        doc: "The instances, by the number in the certificate of the vTPM's key. An allowlist of machines, on the cloud operator's word.",
        rule: Rule::Words { claim: "gce_instance_id", known: &[], default: &[], guarded: &[], needs: &[], optional: false },
        unset: Unset::Unjudged,
        reason: Reason::PlatformNotAllowed,
        always: Always::Policy,
    },
];

/// The name of Google's root, and the platform under which it is kept.
const ROOT: (&str, &str) = ("sev-snp", "google-ekak");

/// Google's root of the vTPMs' keys.
pub(super) fn anchor() -> Anchor {
    Anchor { platform: ROOT.0, name: ROOT.1.to_owned(), spki: include_bytes!("roots/google-ekak.spki.der").to_vec(), origin: Origin::Vendor }
}

/// Proves the quote beside the evidence, if there is one: until when its certificates hold, and whose root they lead to.
///
/// # Errors
/// `chain_untrusted`, and those of [`tpm::prove`].
pub fn beside(evidence: &Evidence, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<Option<Certified>, Denied> {
    let Some(member) = evidence.member(tpm::LABEL) else { return Ok(None) };
    let quote = Quote::parse(&member.bytes)?;
    let Some(certificate) = quote.extras.certificates.first() else {
        return Finding::new(Reason::ChainUntrusted, "vtpm.ak_certificate", "a certificate of the attestation key", "none").refuse();
    };
    let key = AttestationKey::of_certificate(certificate)?;
    let mut certificates = quote.extras.certificates.clone();
    certificates.extend(issuer(certificates.last(), endorsements).map(<[u8]>::to_vec));
    let certified = tpm::certified(&certificates, &key, grounds.anchors.of(ROOT.0, ROOT.1), grounds)?;
    Instance::of_certificate(certificate)?;
    tpm::prove(&quote, &key)?;
    Ok(Some(certified))
}

/// The short name of the certificate that issued the attestation key's: a vTPM's memory has the latter alone.
pub(super) const ISSUER: &str = "vtpm_ca";

/// The issuer's certificate at hand, where it is the one that the last certificate names.
fn issuer<'a>(last: Option<&Vec<u8>>, endorsements: &'a Endorsements) -> Option<&'a [u8]> {
    let (der, last) = (endorsements.find(ISSUER)?, chain::certificate("vtpm.ak_certificate", last?).ok()?);
    let named = chain::certificate(ISSUER, der).is_ok_and(|issuer| issuer.subject().as_raw() == last.issuer().as_raw());
    (named && last.issuer().as_raw() != last.subject().as_raw()).then_some(der)
}

/// What the quote beside the evidence says, if there is one.
pub(super) fn claims(evidence: &Evidence, claims: &mut Claims) -> Result<(), Denied> {
    let Some(member) = evidence.member(tpm::LABEL) else { return Ok(()) };
    let quote = Quote::parse(&member.bytes)?;
    claims.push("vtpm", ClaimValue::Text("google".to_owned()));
    if let Some(certificate) = quote.extras.certificates.first() {
        let instance = Instance::of_certificate(certificate)?;
        for (name, text) in [
            ("gce_zone", instance.zone),
            ("gce_project_id", instance.project_id),
            ("gce_project_number", instance.project_number.to_string()),
            ("gce_instance_name", instance.name),
            ("gce_instance_id", instance.id.to_string()),
        ] {
            claims.push(name, ClaimValue::Text(text));
        }
    }
    tpm::claims(&quote, claims);
    Ok(())
}
