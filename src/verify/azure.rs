//! Azure confidential VMs, stage 1: SEV-SNP and TDX behind a paravisor that keeps a vTPM.
//!
//! The hardware vouches for the paravisor and, through its report data, for the vTPM's attestation key; the vTPM vouches
//! for what booted and for the challenge. The steps, in their order; each one refuses:
//!
//! 1. form: the HCL report, its claims and the vTPM's quote ([`Parts::read`])
//! 2. the hardware report, or the TD quote beside it, as on its own platform
//! 3. the hardware's report data is the digest of the claims ([`tied`])
//! 4. the attestation key: the claims', and its certificate's where one came along ([`attestation_key`])
//! 5. the quote, its registers and the event log ([`tpm::prove`])
//!
//! The vTPM is a service of the paravisor, which the cloud operator builds: the measurement says which paravisor that is.

mod claims;
mod vocabulary;

use super::roots::Origin;
use super::tpm::{self, AttestationKey, Certified};
use super::{Anchor, AuthenticClaims, Grounds, Member, Standing, Tie, Verifier, snp, tdx};
use crate::evidence::hcl::{self, HclReport, Kind, RuntimeClaims};
use crate::evidence::{Bound, Claims, Endorsement, EndorsementId, Endorsements, Evidence, intel, snp as snp_evidence, tpm as tpm_evidence};
use crate::policy::{Entry, Vocabulary};
use crate::refusal::{Denied, Finding, Reason};

/// The roots of the vTPMs' attestation key certificates, and none of the hardware's: those are their own platforms'.
#[must_use]
pub fn anchors() -> Vec<Anchor> {
    let root = |name: &str, spki: &[u8]| Anchor { platform: ROOTS, name: name.to_owned(), spki: spki.to_vec(), origin: Origin::Vendor };
    vec![
        root("azure-virtual-tpm-2023", include_bytes!("roots/azure-virtual-tpm-2023.spki.der")),
        root("microsoft-rsa-devices-2021", include_bytes!("roots/microsoft-rsa-devices-2021.spki.der")),
    ]
}

/// The platform under which those roots are kept, for both kinds of hardware.
const ROOTS: &str = "azure-snp";

/// The verifier of one kind of hardware behind the paravisor.
#[derive(Debug)]
pub struct Azure {
    kind: Kind,
    vocabulary: &'static Vocabulary,
    hardware: &'static dyn Verifier,
    members: &'static [Member],
}

/// SEV-SNP behind the paravisor.
pub static SNP: Azure = Azure { kind: Kind::Snp, vocabulary: &vocabulary::SNP, hardware: &snp::Snp, members: &[QUOTE] };

/// TDX behind the paravisor.
pub static TDX: Azure = Azure { kind: Kind::Tdx, vocabulary: &vocabulary::TDX, hardware: &tdx::Tdx, members: &[QUOTE, HARDWARE_QUOTE] };

/// The TD quote: it is made once for the claims, so that binding claims can list it.
const HARDWARE_QUOTE: Member = Member { label: hcl::TD_QUOTE, media_type: intel::MEDIA_TYPE, tie: Tie::Claims };

const QUOTE: Member = Member { label: tpm::LABEL, media_type: tpm_evidence::MEDIA_TYPE, tie: Tie::Signature(tpm::bound) };

/// Everything that the evidence consists of, read.
struct Parts {
    report: HclReport,
    runtime: RuntimeClaims,
    vtpm: tpm_evidence::Member,
    /// The hardware's own evidence.
    hardware: Evidence,
}

impl Parts {
    fn read(evidence: &Evidence, kind: Kind) -> Result<Self, Denied> {
        let report = HclReport::parse(&evidence.bytes)?;
        if report.kind != kind {
            return Finding::new(Reason::EvidenceUnsupported, "hcl.report_type", kind.name(), report.kind.name()).refuse();
        }
        let runtime = RuntimeClaims::parse(&report.claims)?;
        let hardware = match kind {
            Kind::Snp => Evidence::new(snp_evidence::MEDIA_TYPE, report.hardware),
            Kind::Tdx => Evidence::new(intel::MEDIA_TYPE, member(evidence, hcl::TD_QUOTE)?),
        };
        let vtpm = tpm_evidence::Member::parse(member(evidence, tpm::LABEL)?)?;
        Ok(Self { report, runtime, vtpm, hardware })
    }
}

/// The value of a member without which the evidence says nothing.
fn member<'a>(evidence: &'a Evidence, label: &'static str) -> Result<&'a [u8], Denied> {
    let missing = || Finding::new(Reason::EvidenceUnsupported, "cmw", format!("{label} beside the HCL report"), "none").into();
    evidence.member(label).map(|member| member.bytes.as_slice()).ok_or_else(missing)
}

impl Verifier for Azure {
    fn vocabulary(&self) -> &'static Vocabulary {
        self.vocabulary
    }

    fn read(&self, evidence: &Evidence, endorsements: &Endorsements) -> Result<Claims, Denied> {
        let parts = Parts::read(evidence, self.kind)?;
        let hardware = self.hardware.read(&parts.hardware, endorsements)?;
        Ok(claims::claims(hardware, &parts.report, &parts.runtime, &parts.vtpm, None))
    }

    fn bound(&self, evidence: &Evidence) -> Result<Bound, Denied> {
        tpm::bound(member(evidence, tpm::LABEL)?)
    }

    fn members(&self) -> &'static [Member] {
        self.members
    }

    fn needs(&self, evidence: &Evidence) -> Result<Vec<EndorsementId>, Denied> {
        self.hardware.needs(&Parts::read(evidence, self.kind)?.hardware)
    }

    fn unforged(&self, evidence: &Evidence, grounds: &Grounds<'_>) -> Result<(), Denied> {
        self.hardware.unforged(&Parts::read(evidence, self.kind)?.hardware, grounds)
    }

    fn standing(&self, evidence: &Evidence, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<Standing, Denied> {
        self.hardware.standing(&Parts::read(evidence, self.kind)?.hardware, endorsements, grounds)
    }

    fn foreseen(&self, entry: &Entry) -> Vec<EndorsementId> {
        self.hardware.foreseen(entry)
    }

    fn vouch(
        &self,
        id: &EndorsementId,
        endorsement: &Endorsement,
        others: &dyn Fn(&EndorsementId) -> Option<Endorsement>,
        grounds: &Grounds<'_>,
    ) -> Result<(), Denied> {
        self.hardware.vouch(id, endorsement, others, grounds)
    }

    fn authenticate(&self, evidence: &Evidence, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<AuthenticClaims, Denied> {
        let parts = Parts::read(evidence, self.kind)?;
        let hardware = self.hardware.authenticate(&parts.hardware, endorsements, grounds)?;
        tied(&parts.report, &hardware.bound)?;
        let (key, certified) = attestation_key(&parts, grounds)?;
        tpm::prove(&parts.vtpm, &key)?;
        Ok(AuthenticClaims {
            platform: self.vocabulary.tee,
            claims: claims::claims(hardware.claims, &parts.report, &parts.runtime, &parts.vtpm, certified.is_some().then_some(claims::CERTIFIED)),
            bound: tpm::extra_data(&parts.vtpm.quote.extra_data),
            until: certified.as_ref().map_or(hardware.until, |certified| certified.until.min(hardware.until)),
            origin: certified.map_or(hardware.origin, |certified| hardware.origin.with(certified.origin)),
            revocation_checked: hardware.revocation_checked,
        })
    }
}

/// Proves that the hardware vouches for the claims.
fn tied(report: &HclReport, bound: &Bound) -> Result<(), Denied> {
    let expected = report.expected_data();
    // The TDREPORT inside vouches for nothing; one that says otherwise than the quote belongs to something else.
    let inside = report.kind == Kind::Snp || report.tdreport_data() == expected;
    if crate::crypto::same(bound.octets(), &expected) && inside {
        return Ok(());
    }
    let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
    let expected = format!("{}, the SHA-256 of the runtime claims", hex(&expected));
    Finding::new(Reason::TpmQuoteInvalid, "report.report_data", expected, hex(bound.octets())).refuse()
}

/// The key that must have signed the quote, and what its certificate came to where one came along.
fn attestation_key(parts: &Parts, grounds: &Grounds<'_>) -> Result<(AttestationKey, Option<Certified>), Denied> {
    let key = AttestationKey::rsa(parts.runtime.attestation_key.to_pkcs1());
    if parts.vtpm.extras.certificates.is_empty() {
        return Ok((key, None));
    }
    let certified = tpm::certified(&parts.vtpm.extras.certificates, &key, grounds.anchors.of_platform(ROOTS), grounds)?;
    Ok((key, Some(certified)))
}
