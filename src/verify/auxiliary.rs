//! Evidence that belongs beside any platform's: one row each. It is judged wholly whenever it is there, its claims stand under
//! its own label, and it never stands in for a TEE's.

use super::gpu;
use super::roots::{Anchor, Origin};
use super::{AuthenticClaims, Grounds};
use crate::evidence::gpu::{Gpu, Report};
use crate::evidence::saved::{Beside, SavedFile};
use crate::evidence::{Auxiliary, ClaimValue, Claims, Endorsements, Evidence, Timestamp};
use crate::refusal::{Denied, Finding, Reason};

/// One kind of auxiliary evidence.
#[derive(Debug)]
pub struct Kind {
    /// What it is of.
    pub name: &'static str,
    /// The labels that members of it may have.
    pub labels: &'static [&'static str],
    /// The media type of its value.
    pub media_type: &'static str,
    /// The vendor's roots.
    pub anchors: fn() -> Vec<Anchor>,
    /// What files have of it.
    pub assemble: fn(&[SavedFile]) -> Beside,
    /// How its endorsements are called, with the ending of their files.
    pub endorsements: &'static [(&'static str, &'static str)],
    /// What a value says, read and not believed.
    pub read: fn(&[u8]) -> Result<Claims, Denied>,
    /// Judges a value. The nonce is what it must answer; `None` where the evidence is not of a connection.
    #[allow(clippy::type_complexity, reason = "a row holds its function as it is; a name would say no more")]
    pub authenticate: fn(&[u8], &Endorsements, Option<&[u8; 32]>, &Grounds<'_>) -> Result<Device, Denied>,
}

/// What a member's evidence comes to.
#[derive(Clone, Debug)]
pub struct Device {
    /// What it says.
    pub claims: Claims,
    /// SHA-384 of the key that its vendor certified for it: no two devices have one.
    pub identity: [u8; 48],
    /// Until when this holds.
    pub until: Timestamp,
    /// Whose root it is under.
    pub origin: Origin,
    /// Whether the vendor's current word on revocation was at hand.
    pub revocation_checked: bool,
    /// What its state was compared with.
    pub state: State,
}

/// What a device's state was compared with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// With its vendor's references, and it is one of them.
    Compared,
    /// With nothing: any state would pass.
    Uncompared,
}

/// Every kind of this build.
pub const AUXILIARY: &[Kind] = &[Kind {
    name: gpu::NAME,
    labels: &crate::evidence::gpu::LABELS,
    media_type: crate::evidence::gpu::MEDIA_TYPE,
    anchors: gpu::anchors,
    assemble: crate::evidence::gpu::saved::assemble,
    endorsements: &[(gpu::RIM, "xml"), (gpu::OCSP, "der")],
    read: |member| Gpu::decode(member).and_then(|gpu| Ok(Report::parse(&gpu.report)?.0.claims())),
    authenticate: gpu::authenticate,
}];

/// The kind that a member's label says, with the label as the table has it.
#[must_use]
pub fn of(member: &Auxiliary) -> Option<(&'static Kind, &'static str)> {
    AUXILIARY.iter().find_map(|kind| kind.labels.iter().find(|label| **label == member.label).map(|label| (kind, *label)))
}

/// What members of these kinds say, under their labels.
#[must_use]
pub fn read(members: &[Auxiliary]) -> Claims {
    let mut claims = Claims::default();
    for member in members {
        let Some((kind, label)) = of(member) else { continue };
        if let Ok(said) = (kind.read)(&member.bytes) {
            claims.push(label, ClaimValue::Map(said));
        }
    }
    claims
}

/// Judges every member of these kinds and puts its claims under its label; returns the labels of those whose state was compared
/// with nothing. A device has one label: under two it would pass for two.
pub(super) fn join(
    authentic: &mut AuthenticClaims,
    evidence: &Evidence,
    endorsements: &Endorsements,
    nonce: Option<&[u8; 32]>,
    grounds: &Grounds<'_>,
) -> Result<Vec<&'static str>, Denied> {
    let mut uncompared = Vec::new();
    let mut seen: Vec<([u8; 48], &str)> = Vec::new();
    for member in &evidence.auxiliary {
        let Some((kind, label)) = of(member) else { continue };
        let device = (kind.authenticate)(&member.bytes, endorsements, nonce, grounds)?;
        if let Some((_, other)) = seen.iter().find(|(identity, _)| *identity == device.identity) {
            return Finding::new(Reason::EvidenceAmbiguous, format!("cmw.{label}"), "another device for each label", format!("the device of {other}")).refuse();
        }
        seen.push((device.identity, label));
        authentic.until = authentic.until.min(device.until);
        authentic.origin = authentic.origin.with(device.origin);
        authentic.revocation_checked = authentic.revocation_checked && device.revocation_checked;
        uncompared.extend(Some(label).filter(|_| device.state == State::Uncompared));
        authentic.claims.push(label, ClaimValue::Map(device.claims));
    }
    Ok(uncompared)
}
