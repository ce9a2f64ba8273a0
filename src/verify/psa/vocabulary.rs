//! The policy keys of PSA tokens, with the defaults of the appraisal rules.

use crate::policy::{Always, Field, Loosening, Rule, Unset, Vocabulary, Written, Zero};
use crate::refusal::Reason;
use crate::verify::arm::{LIFECYCLE, UNSECURED};

/// The platform's words. The order is that of findings: the most telling first.
pub(super) static VOCABULARY: Vocabulary = Vocabulary {
    tee: "psa",
    fields: FIELDS,
    machine: &["instance_id"],
    operator_key: Some(
        "the device's implementation id in hex, a slash and its instance id in hex; or the implementation id alone, for a key that all its instances share",
    ),
    loosening: &[
        Loosening {
            key: "insecure_allow_non_secure",
            doc: "accepts tokens that the non-secure side asked for, where whoever owns the device's main system holds the TLS key",
            written: Written::Why,
        },
        Loosening { key: UNSECURED, doc: "accepts devices in the lifecycle states that `lifecycle` lists: for laboratories", written: Written::Why },
        Loosening { key: "insecure_any_measurement", doc: "accepts any firmware: it is reported and not judged", written: Written::True },
    ],
};

const FIELDS: &[Field] = &[
    Field {
        key: "lifecycle",
        doc: "The device's lifecycle states. All but `secured` need `insecure_allow_unsecured` with a reason.",
        rule: LIFECYCLE,
        unset: Unset::Default,
        reason: Reason::GuestPolicyViolation,
        always: Always::Genuine,
    },
    Field {
        key: "sw_components",
        doc: "The device's firmware, part by part, by the measurement and the signer of each.",
        rule: Rule::Components { claim: "sw_components" },
        unset: Unset::Refused { unless: "insecure_any_measurement" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "caller",
        doc: "On which side of TrustZone the token was asked for, by the sign of the client id. The TLS key is only as safe as the side it lives on; `non-secure` needs `insecure_allow_non_secure` with a reason.",
        rule: Rule::Words {
            claim: "caller",
            known: &["non-secure", "secure"],
            default: &["secure"],
            guarded: &[("non-secure", "insecure_allow_non_secure")],
            needs: &[],
            optional: false,
        },
        unset: Unset::Default,
        reason: Reason::GuestPolicyViolation,
        always: Always::Policy,
    },
    Field {
        key: "client_id",
        doc: "The client ids that may ask, as decimal texts: which secure partition the sidecar is.",
        rule: Rule::Words { claim: "client_id", known: &[], default: &[], guarded: &[], needs: &[], optional: false },
        unset: Unset::Unjudged,
        reason: Reason::GuestPolicyViolation,
        always: Always::Policy,
    },
    Field {
        key: "impl_id",
        doc: "The device's implementation: hex of 32 octets. The policy's `keys` name it in any case.",
        rule: Rule::bytes("impl_id", 32, Zero::Allowed),
        unset: Unset::Unjudged,
        reason: Reason::PlatformNotAllowed,
        always: Always::Policy,
    },
    Field {
        key: "instance_id",
        doc: "The devices, by instance: hex of 33 octets. An allowlist of machines; with `session-mutual` it is one way to say who the peer is.",
        rule: Rule::bytes("instance_id", 33, Zero::Refused),
        unset: Unset::Unjudged,
        reason: Reason::PlatformNotAllowed,
        always: Always::Policy,
    },
];
