//! The appraisal policy: what an operator accepts, as data. Loading checks everything at once; judging is `verify`'s.
//!
//! A platform describes its policy keys in a [`Vocabulary`]; the reader, the documentation and the appraisal all walk
//! that one table.

#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod deny;
mod entry;
mod json;
mod read;
mod vocabulary;

use std::sync::Arc;

use crate::evidence::binding::{AgeRule, MAX_LIFETIME};
use crate::evidence::{Claims, Timestamp};
use crate::refusal::Reason;

pub use deny::DenyList;
pub use vocabulary::{Always, Component, Field, Flag, Loosening, Meaning, Product, RisingFloor, Rule, TcbClaims, Unset, Vocabulary, Written, Zero, both};

/// A policy file is not read beyond this many octets.
pub const MAX_POLICY: usize = 1 << 20;

/// What is accepted, and under which name it is known.
#[derive(Clone, Debug)]
pub struct AppraisalPolicy {
    /// The operator's name for it.
    pub name: String,
    /// SHA-256 of the file's bytes: its identity in every log line.
    pub digest: [u8; 32],
    /// After this moment it accepts nobody.
    pub expires: Option<Timestamp>,
    /// Whether reference values are enforced or only observed.
    pub mode: Mode,
    /// The entries; a peer must fit one of them wholly.
    pub accept: Vec<Entry>,
    /// What is refused whatever the entries say.
    pub deny: Vec<Denial>,
    /// How old certificate evidence may be, in seconds.
    pub max_evidence_age: u64,
    /// How far two clocks may differ, in seconds.
    pub clock_skew: u64,
    /// Whether a current revocation list is needed for a verdict.
    pub revocation: Revocation,
    /// Whether a device's state must be compared with its vendor's references.
    pub references: References,
    /// The weakening keys that were written, with their place (`accept[0].insecure_allow_debug`).
    pub insecure: Vec<String>,
    /// Whether the simulator's published roots are trusted.
    pub roots: Roots,
    /// Trust anchors of the operator's own.
    pub keys: Vec<OperatorKey>,
    /// The operator's deny list, which is not part of the file.
    pub deny_list: Option<Arc<DenyList>>,
}

/// A trust anchor that the operator names: for platforms whose vendors have no public root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OperatorKey {
    /// The platform it is for.
    pub tee: &'static str,
    /// Which key it is, in the platform's own terms.
    pub name: String,
    /// Its DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
}

/// Whether reference values are enforced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Everything refuses.
    Enforce,
    /// Mismatches of reference values (measurement and the like) are recorded and let pass; everything else refuses.
    Observe,
}

impl Mode {
    /// Its spelling in the configuration file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// Whether a revocation list is needed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Revocation {
    /// Absent or out of date refuses.
    Required,
    /// Used when present and current; its absence is let pass (`insecure_allow_missing_crl`).
    WhenPresent,
}

/// Whether the vendor's reference measurements of a device beside a TEE are needed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum References {
    /// Absent ones refuse: every policy that an operator writes, and every connection.
    Required,
    /// Where none at all are at hand, a device is judged without its state, and the verdict says so. For files alone.
    WhenPresent,
}

/// Which trust anchors a policy names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Roots {
    /// The vendors'.
    Vendor,
    /// The vendors' and the simulator's (`insecure_roots`).
    VendorAndSimulator,
}

/// One thing that is accepted.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name in logs, metrics and rules.
    pub id: String,
    /// The platform's name.
    pub tee: &'static str,
    /// After this moment it accepts nobody.
    pub not_after: Option<Timestamp>,
    /// The labels of the members that must be there beside the TEE's evidence (`log`, `vtpm`, `gpu/0`).
    pub require: Vec<String>,
    /// What must hold, in the vocabulary's order.
    pub constraints: Vec<Constraint>,
    /// The loosening keys of this entry.
    pub insecure: Vec<&'static str>,
}

/// One field of the vocabulary with the operator's or the default value.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// The vocabulary's row.
    pub field: &'static Field,
    /// What is accepted.
    pub accept: Accept,
}

/// What a constraint accepts, by the shape of its rule.
#[derive(Clone, Debug)]
pub enum Accept {
    /// One of these octet strings.
    Bytes(Vec<Vec<u8>>),
    /// Bits that must be set, bits that must be clear.
    Bits {
        /// Must be 1.
        set: u64,
        /// Must be 0.
        clear: u64,
    },
    /// These parts of the firmware.
    Components(Vec<FirmwarePart>),
    /// All of these words are there.
    Includes(Vec<String>),
    /// At most this many seconds old.
    MaxAge(u64),
    /// At least this number.
    Minimum(u64),
    /// One of these numbers.
    Numbers(Vec<u64>),
    /// The rule's claim is there.
    Present,
    /// Per product: at least these component values, in the order of the product's components.
    Tcb(Vec<(&'static Product, Vec<u8>)>),
    /// Each of these registers holds one of its values.
    Registers(Vec<(&'static str, Vec<Vec<u8>>)>),
    /// At least the shipped number of the moment and this one; or at least this one alone.
    Rising {
        /// The written number.
        least: u64,
        /// Whether the shipped numbers hold too.
        shipped: bool,
    },
    /// The rule's two claims are equal.
    Same,
    /// The rule's good word, or one of these.
    TcbStatus(Vec<Tolerated>),
    /// At least this version, component by component from the left.
    Version(Vec<u64>),
    /// One of these words.
    Words(Vec<String>),
}

/// One part of the firmware that is accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FirmwarePart {
    /// What it is; `None` for one without a type.
    pub kind: Option<String>,
    /// Its digest.
    pub measurement: Vec<u8>,
    /// The digest of the key that signed it.
    pub signer: Vec<u8>,
}

/// A status that is not good and is tolerated for a while.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tolerated {
    /// The vendor's word.
    pub status: String,
    /// The advisories that are tolerated with it. Any other refuses.
    pub advisories: Vec<String>,
    /// Until when.
    pub until: Timestamp,
}

/// Something that is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    /// The claim it looks at.
    pub claim: &'static str,
    /// The value that is refused.
    pub value: Vec<u8>,
    /// The operator's words.
    pub why: String,
    /// The code of the refusal.
    pub reason: Reason,
}

impl AppraisalPolicy {
    /// How old certificate evidence may be under this policy.
    #[must_use]
    pub const fn age_rule(&self) -> AgeRule {
        AgeRule { max_age: self.max_evidence_age, max_lifetime: MAX_LIFETIME, skew: self.clock_skew }
    }
}

impl Denial {
    /// Whether these claims are denied.
    #[must_use]
    pub fn hits(&self, claims: &Claims) -> bool {
        claims.bytes(self.claim).is_some_and(|value| value == self.value)
    }
}
