//! The policy keys of Keystone, with the defaults of the appraisal rules.

use crate::policy::{Always, Field, Loosening, Rule, Unset, Vocabulary, Written, Zero};
use crate::refusal::Reason;

/// The platform's words. The order is that of findings: the most telling first.
pub(super) static VOCABULARY: Vocabulary =
    Vocabulary { tee: "keystone", fields: FIELDS, machine: &["device_public_key"], operator_key: Some("the device, as you call it"), loosening: LOOSENING };

const LOOSENING: &[Loosening] = &[
    Loosening {
        key: "insecure_accept_experimental",
        doc: "accepts a platform that nobody vouches for: no vendor, no revocation, no firmware versions, hardware that may keep keys badly",
        written: Written::Needed,
    },
    Loosening { key: "insecure_any_enclave", doc: "accepts any code in the enclave: the hash is reported and not judged", written: Written::True },
    Loosening {
        key: "insecure_any_security_monitor",
        doc: "accepts any security monitor: the most privileged software of the machine, which signs for the enclaves",
        written: Written::Why,
    },
];

const FIELDS: &[Field] = &[
    Field {
        key: "enclave_hash",
        doc: "What code the enclave started with, SHA3-512. Hex of 64 octets.",
        rule: Rule::bytes("enclave_hash", 64, Zero::Refused),
        unset: Unset::Refused { unless: "insecure_any_enclave" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "sm_hash",
        doc: "The security monitor, SHA3-512. Hex of 64 octets.",
        rule: Rule::bytes("sm_hash", 64, Zero::Refused),
        unset: Unset::Refused { unless: "insecure_any_security_monitor" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "device_public_key",
        doc: "The devices, out of those under `keys`: hex of 32 octets. An allowlist of machines; with `session-mutual` it is one way to say who the peer is.",
        rule: Rule::bytes("device_public_key", 32, Zero::Refused),
        unset: Unset::Unjudged,
        reason: Reason::PlatformNotAllowed,
        always: Always::Policy,
    },
];
