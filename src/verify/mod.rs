//! Judgement. Time, endorsements and trust anchors are arguments: no I/O, no clock, no knowledge of sockets.
//!
//! Stage 1 ([`Verifier::authenticate`], one per platform): is this evidence genuine? Stage 2 (`appraise`, one for
//! all): is it about this key, and what the policy wants? Only here can [`AuthenticClaims`] and [`AttestationResult`]
//! be made.

#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod appraise;
mod arm;
pub mod auxiliary;
pub mod azure;
pub mod cca;
mod chain;
mod device;
mod google;
pub mod gpu;
pub mod intel;
pub mod keystone;
mod launch;
pub mod memo;
pub mod nitro;
pub mod psa;
pub mod roots;
pub mod sgx;
pub mod snp;
pub mod standing;
pub mod tdx;
pub mod tpm;
pub mod vtpm;

use std::fmt::Debug;

use crate::evidence::binding::Binding;
use crate::evidence::cmw::Collection;
use crate::evidence::{Auxiliary, Bound, Claims, Endorsement, EndorsementId, Endorsements, Evidence, KeyDigest, Timestamp};
use crate::policy::{AppraisalPolicy, Entry, References, Revocation, Vocabulary};
use crate::refusal::{Denied, Finding, Reason};

pub use memo::SignatureMemo;
pub use roots::{Anchor, Origin, TrustAnchors};
pub use standing::{Short, Standing};

/// One platform's stage 1.
pub trait Verifier: Debug + Sync {
    /// The words it adds to policy files.
    fn vocabulary(&self) -> &'static Vocabulary;

    /// What the evidence says, read and not believed; with what its endorsements add.
    ///
    /// # Errors
    /// `evidence_malformed`, `evidence_size`, `evidence_unsupported`, `reserved_bits_set`.
    fn read(&self, evidence: &Evidence, endorsements: &Endorsements) -> Result<Claims, Denied>;

    /// What the evidence carries to bind it, read and not believed: compared before anything dear is computed.
    ///
    /// # Errors
    /// As [`Verifier::read`].
    fn bound(&self, evidence: &Evidence) -> Result<Bound, Denied>;

    /// The auxiliary members that this platform's evidence may have. Others are refused.
    fn members(&self) -> &'static [Member] {
        &[]
    }

    /// The endorsements a verdict needs.
    ///
    /// # Errors
    /// As [`Verifier::read`].
    fn needs(&self, evidence: &Evidence) -> Result<Vec<EndorsementId>, Denied>;

    /// Refuses evidence that is plainly forged, by the certificates and signatures that it brings itself: before anybody is
    /// asked about the machine that it says it is of. Establishes nothing for a verdict.
    ///
    /// # Errors
    /// As [`Verifier::authenticate`].
    fn unforged(&self, _: &Evidence, _: &Grounds<'_>) -> Result<(), Denied> {
        Ok(())
    }

    /// The endorsements that every peer of an entry of a policy will need, as far as the entry tells: got before the first
    /// one comes.
    fn foreseen(&self, _: &Entry) -> Vec<EndorsementId> {
        Vec::new()
    }

    /// How the machine's TCB stands, also where no policy would accept it. Proves the evidence genuine first.
    ///
    /// # Errors
    /// As [`Verifier::authenticate`], but for what it says of the TCB; `evidence_unsupported` where nothing is said of it.
    fn standing(&self, _: &Evidence, _: &Endorsements, _: &Grounds<'_>) -> Result<Standing, Denied> {
        Finding::new(Reason::EvidenceUnsupported, "tcb", "a platform whose vendor says what is up to date", "another").refuse()
    }

    /// Refuses what is not the vendor's or not what `id` names, as far as can be told without evidence: before it is kept.
    /// `others` finds what is at hand. Establishes nothing for a verdict, which judges everything anew. A platform that
    /// says nothing here vouches for nothing, and what it needs is not kept.
    ///
    /// # Errors
    /// Every code about chains and collateral.
    fn vouch(&self, _: &EndorsementId, _: &Endorsement, _: &dyn Fn(&EndorsementId) -> Option<Endorsement>, _: &Grounds<'_>) -> Result<(), Denied> {
        chain::unavailable("item", "one that this platform can vouch for", "any")
    }

    /// Proves the evidence genuine: signature over the received bytes, chain to an anchor, revocation, dates.
    ///
    /// Establishes nothing about whether the guest is wanted: that is stage 2's.
    ///
    /// # Errors
    /// Every code about form, chain, signature, revocation and collateral.
    fn authenticate(&self, evidence: &Evidence, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<AuthenticClaims, Denied>;
}

/// An auxiliary member that a platform's evidence may have.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its label.
    pub label: &'static str,
    /// The media type of its value.
    pub media_type: &'static str,
    /// What ties it to the key.
    pub tie: Tie,
}

/// What ties an auxiliary member to the key that the evidence is about.
#[derive(Clone, Copy, Debug)]
pub enum Tie {
    /// The binding claims list its digest.
    Claims,
    /// Its own signature covers the challenge: a vTPM quote. The claims cannot list the digest of what signs the claims.
    /// Reads what it carries.
    Signature(fn(&[u8]) -> Result<Bound, Denied>),
}

/// What stage 1 judges by.
#[derive(Clone, Copy)]
pub struct Grounds<'a> {
    /// The roots that are trusted.
    pub anchors: &'a TrustAnchors,
    /// Whether a revocation list is needed.
    pub revocation: Revocation,
    /// Whether the references of a device's state are needed.
    pub references: References,
    /// Signatures known to verify.
    pub memo: &'a dyn SignatureMemo,
    /// The present.
    pub now: Timestamp,
}

/// Claims that a genuine TEE made.
#[derive(Clone, Debug)]
pub struct AuthenticClaims {
    pub(in crate::verify) platform: &'static str,
    pub(in crate::verify) claims: Claims,
    pub(in crate::verify) bound: Bound,
    pub(in crate::verify) until: Timestamp,
    pub(in crate::verify) origin: Origin,
    pub(in crate::verify) revocation_checked: bool,
}

/// An appraised piece of evidence that is not about any key of a connection: what `verify` on a file gives.
#[derive(Clone, Debug)]
pub struct Appraisal {
    pub(in crate::verify) platform: &'static str,
    pub(in crate::verify) policy: String,
    pub(in crate::verify) policy_digest: [u8; 32],
    pub(in crate::verify) entry: String,
    pub(in crate::verify) claims: Claims,
    pub(in crate::verify) until: Timestamp,
    pub(in crate::verify) fresh_until: Timestamp,
    pub(in crate::verify) origin: Origin,
    pub(in crate::verify) revocation_checked: bool,
    pub(in crate::verify) uncompared: Vec<&'static str>,
    pub(in crate::verify) observed: Vec<Finding>,
}

impl Appraisal {
    /// The platform's name.
    #[must_use]
    pub const fn platform(&self) -> &'static str {
        self.platform
    }

    /// The policy's name.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// SHA-256 of the policy file.
    #[must_use]
    pub const fn policy_digest(&self) -> &[u8; 32] {
        &self.policy_digest
    }

    /// The policy entry that fits.
    #[must_use]
    pub fn entry(&self) -> &str {
        &self.entry
    }

    /// What the TEE said.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Until when this holds: the earliest end of a certificate, revocation list, policy or binding.
    #[must_use]
    pub const fn until(&self) -> Timestamp {
        self.until
    }

    /// Until when the same evidence would be accepted if it were presented then, as far as rules about its age say.
    #[must_use]
    pub const fn fresh_until(&self) -> Timestamp {
        self.fresh_until
    }

    /// Whether the evidence is a vendor's or the simulator's.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether a current revocation list was at hand.
    #[must_use]
    pub const fn revocation_checked(&self) -> bool {
        self.revocation_checked
    }

    /// The devices whose state was compared with nothing, by their labels. None where a policy file judged, or a connection.
    #[must_use]
    pub fn uncompared(&self) -> &[&'static str] {
        &self.uncompared
    }

    /// Mismatches that `observe` mode let pass.
    #[must_use]
    pub fn observed(&self) -> &[Finding] {
        &self.observed
    }
}

/// The verdict that opens a stream: genuine evidence, wanted by the policy, about this very key.
///
/// There is no way to make one but [`Appraiser::judge`]:
///
/// ```compile_fail
/// let forged = portcullis::verify::AttestationResult { key: todo!(), appraisal: todo!() };
/// ```
#[derive(Clone, Debug)]
pub struct AttestationResult {
    key: KeyDigest,
    appraisal: Appraisal,
}

impl AttestationResult {
    /// The key it is about.
    #[must_use]
    pub const fn key(&self) -> &KeyDigest {
        &self.key
    }

    /// The appraisal.
    #[must_use]
    pub const fn appraisal(&self) -> &Appraisal {
        &self.appraisal
    }
}

/// When evidence was presented, and when it is judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct When {
    /// When the peer gave it.
    pub since: Timestamp,
    /// The present.
    pub now: Timestamp,
}

/// A policy with the anchors it names: what judges peers.
#[derive(Debug)]
pub struct Appraiser {
    /// The policy.
    pub policy: AppraisalPolicy,
    /// The roots it trusts.
    pub anchors: TrustAnchors,
}

impl Appraiser {
    /// Judges what a peer presented for the key that `binding` is about, in the order of the protocol: binding first,
    /// then form, signature, chain and revocation, then the policy.
    ///
    /// # Errors
    /// [`Denied`] with every finding of the first stage that has any.
    pub fn judge(
        &self,
        verifier: &dyn Verifier,
        presented: &Collection,
        binding: &Binding,
        memo: &dyn SignatureMemo,
        now: Timestamp,
    ) -> Result<AttestationResult, Denied> {
        self.reconsider(verifier, presented, binding, memo, When { since: now, now })
    }

    /// Judges again what was presented at an earlier moment, by today's policy and endorsements: whether a connection
    /// that was let through would be let through now. How old the evidence may be is judged as of when it was presented.
    ///
    /// # Errors
    /// As [`Appraiser::judge`].
    pub fn reconsider(
        &self,
        verifier: &dyn Verifier,
        presented: &Collection,
        binding: &Binding,
        memo: &dyn SignatureMemo,
        When { since, now }: When,
    ) -> Result<AttestationResult, Denied> {
        appraise::permitted(&self.policy, binding.key())?;
        appraise::bound(verifier, presented, binding)?;
        // Whatever the policy says: only files are judged without the references of a device's state.
        let grounds = Grounds { references: References::Required, ..self.grounds(memo, now) };
        let mut authentic = verifier.authenticate(&presented.tee, &presented.endorsements, &grounds)?;
        appraise::answers(&authentic.bound, binding)?;
        auxiliary::join(&mut authentic, &presented.tee, &presented.endorsements, Some(binding.device_nonce()), &grounds)?;
        let mut appraisal = appraise::appraise(authentic, &presented.tee, &self.policy, since, now)?;
        appraisal.until = binding.until().map_or(appraisal.until, |until| until.min(appraisal.until));
        Ok(AttestationResult { key: *binding.key(), appraisal })
    }

    /// Judges evidence that is not tied to a connection: a file. Opens nothing.
    ///
    /// # Errors
    /// As [`Appraiser::judge`].
    pub fn examine(
        &self,
        verifier: &dyn Verifier,
        evidence: &Evidence,
        endorsements: &Endorsements,
        memo: &dyn SignatureMemo,
        now: Timestamp,
    ) -> Result<Appraisal, Denied> {
        let mut authentic = verifier.authenticate(evidence, endorsements, &self.grounds(memo, now))?;
        let uncompared = auxiliary::join(&mut authentic, evidence, endorsements, None, &self.grounds(memo, now))?;
        Ok(Appraisal { uncompared, ..appraise::appraise(authentic, evidence, &self.policy, now, now)? })
    }

    /// Judges devices beside which there is no TEE: files. Says whether each is genuine and, but for [`Appraisal::uncompared`],
    /// as its vendor describes it; no entry of a policy is met by that. Opens nothing.
    ///
    /// # Errors
    /// `evidence_unsupported` without any device, else every code about them.
    pub fn examine_devices(&self, members: &[Auxiliary], endorsements: &Endorsements, memo: &dyn SignatureMemo, now: Timestamp) -> Result<Appraisal, Denied> {
        let Some((kind, _)) = members.first().and_then(auxiliary::of) else {
            return Finding::new(Reason::EvidenceUnsupported, "cmw", "a device", "none").refuse();
        };
        let mut authentic = AuthenticClaims {
            platform: kind.name,
            claims: Claims::default(),
            bound: Bound::Other(Vec::new()),
            until: Timestamp(u64::MAX),
            origin: Origin::Vendor,
            revocation_checked: true,
        };
        let evidence = Evidence { auxiliary: members.to_vec(), ..Evidence::new(kind.media_type, Vec::new()) };
        let uncompared = auxiliary::join(&mut authentic, &evidence, endorsements, None, &self.grounds(memo, now))?;
        Ok(Appraisal {
            platform: authentic.platform,
            policy: self.policy.name.clone(),
            policy_digest: self.policy.digest,
            entry: String::new(),
            until: authentic.until,
            fresh_until: authentic.until,
            origin: authentic.origin,
            revocation_checked: authentic.revocation_checked,
            uncompared,
            observed: Vec::new(),
            claims: authentic.claims,
        })
    }

    /// What stage 1 judges by.
    #[must_use]
    pub fn grounds<'a>(&'a self, memo: &'a dyn SignatureMemo, now: Timestamp) -> Grounds<'a> {
        Grounds { anchors: &self.anchors, revocation: self.policy.revocation, references: self.policy.references, memo, now }
    }
}
