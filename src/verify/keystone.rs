//! RISC-V Keystone, stage 1: is this report a genuine enclave's?
//!
//! **Experimental.** There is no vendor, no revocation and no version of the platform's firmware: what stands between a
//! report and belief is the list of devices that the operator keeps.
//!
//! The steps, in their order; each one refuses:
//!
//! 1. form: length, bounds of the data, zeros behind it ([`Report::parse`])
//! 2. the device: one of the operator's, and never the one whose key Keystone publishes for tests ([`device`])
//! 3. the device's signature over the security monitor's hash and key, the monitor's over the enclave's hash and data,
//!    both over the received octets ([`signed`])
//!
//! Whether the monitor and the enclave are wanted is stage 2's: see [`vocabulary`].

mod vocabulary;

use super::roots::{Anchor, Origin};
use super::{AuthenticClaims, Grounds, Verifier};
use crate::crypto::{Scheme, same, verifies};
use crate::evidence::keystone::{Report, signed_by_device, signed_by_monitor, spki};
use crate::evidence::{Bound, Claims, EndorsementId, Endorsements, Evidence, Timestamp};
use crate::policy::Vocabulary;
use crate::refusal::{Denied, Finding, Reason};

/// The platform's verifier.
#[derive(Debug)]
pub struct Keystone;

/// Keystone has no vendor: its roots are the operator's (`keys` of the policy).
#[must_use]
pub const fn anchors() -> Vec<Anchor> {
    Vec::new()
}

impl Verifier for Keystone {
    fn vocabulary(&self) -> &'static Vocabulary {
        &vocabulary::VOCABULARY
    }

    fn read(&self, evidence: &Evidence, _: &Endorsements) -> Result<Claims, Denied> {
        Report::parse(&evidence.bytes).map(|report| report.claims())
    }

    fn bound(&self, evidence: &Evidence) -> Result<Bound, Denied> {
        Report::parse(&evidence.bytes).map(|report| report.bound())
    }

    fn needs(&self, evidence: &Evidence) -> Result<Vec<EndorsementId>, Denied> {
        Report::parse(&evidence.bytes).map(|_| Vec::new())
    }

    fn authenticate(&self, evidence: &Evidence, _: &Endorsements, grounds: &Grounds<'_>) -> Result<AuthenticClaims, Denied> {
        let report = Report::parse(&evidence.bytes)?;
        let origin = device(&report, grounds)?;
        signed(&evidence.bytes)?;
        Ok(AuthenticClaims {
            platform: vocabulary::VOCABULARY.tee,
            claims: report.claims(),
            bound: report.bound(),
            until: FOR_EVER,
            origin,
            revocation_checked: false,
        })
    }
}

/// Proves both signatures of a report over its received octets.
///
/// Establishes nothing about the device's key: anybody can make one.
///
/// # Errors
/// `signature_invalid`; what [`Report::parse`] refuses.
pub fn signed(received: &[u8]) -> Result<(), Denied> {
    let report = Report::parse(received)?;
    for (field, key, message, signature) in [
        ("report.sm_signature", report.device_public_key, signed_by_device(received), report.sm_signature),
        ("report.enclave_signature", report.sm_public_key, signed_by_monitor(received, &report), report.enclave_signature),
    ] {
        if !verifies(Scheme::Ed25519Sha3, &key, message, &signature) {
            let by = if field == "report.sm_signature" { "the device's key" } else { "the security monitor's key" };
            return Finding::new(Reason::SignatureInvalid, field, format!("an Ed25519 signature over SHA3-512 by {by}"), "none that verifies").refuse();
        }
    }
    Ok(())
}

/// Whose device it is.
fn device(report: &Report, grounds: &Grounds<'_>) -> Result<Origin, Denied> {
    let untrusted = |expected: &str, found: String| Finding::new(Reason::ChainUntrusted, "report.device_public_key", expected, found);
    let found = data_encoding::HEXLOWER.encode(&report.device_public_key);
    if report.device_public_key == TEST_DEVICE {
        return untrusted("a device's own key", format!("{found}, Keystone's test key: its private half is published"))
            .fix("build the boot ROM with keys of your own; this one is refused whatever a policy says")
            .refuse();
    }
    let key = spki(&report.device_public_key);
    match grounds.anchors.of_platform(vocabulary::VOCABULARY.tee).find(|anchor| same(&anchor.spki, &key)) {
        Some(anchor) => Ok(anchor.origin),
        None => untrusted("a device of the operator's", found)
            .fix("Keystone has no vendor root: list the device's key under \"keys\" of the policy, if it is yours")
            .refuse(),
    }
}

/// The device key of Keystone's test boot ROM (`test_dev_key.h`).
const TEST_DEVICE: [u8; 32] = [
    0x0f, 0xaa, 0xd4, 0xff, 0x01, 0x17, 0x85, 0x83, 0xba, 0xa5, 0x88, 0x96, 0x6f, 0x7c, 0x1f, 0xf3, 0x25, 0x64, 0xdd, 0x17, 0xd7, 0xdc, 0x2b, 0x46, 0xcb, 0x50,
    0xa8, 0x4a, 0x69, 0x27, 0x0b, 0x4c,
];

/// No date stands in a report; other bounds end the verdict. The last moment that dates can be written for.
const FOR_EVER: Timestamp = Timestamp(253_402_300_799);
