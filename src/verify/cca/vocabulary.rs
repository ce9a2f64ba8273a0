//! The policy keys of Arm CCA, with the defaults of the appraisal rules.

use crate::policy::{Always, Field, Loosening, Rule, Unset, Vocabulary, Written, Zero};
use crate::refusal::Reason;
use crate::verify::arm::{LIFECYCLE, UNSECURED};

/// The platform's words. The order is that of findings: the most telling first.
pub(super) static VOCABULARY: Vocabulary = Vocabulary {
    tee: "cca",
    fields: FIELDS,
    machine: &["instance_id"],
    operator_key: Some(
        "the platform's implementation id in hex, a slash and its instance id in hex; or the implementation id alone, for a key that all its instances share",
    ),
    loosening: &[
        Loosening { key: UNSECURED, doc: "accepts platforms in the lifecycle states that `lifecycle` lists: for laboratories", written: Written::Why },
        Loosening { key: "insecure_any_firmware", doc: "accepts any firmware below the realm: it is reported and not judged", written: Written::Why },
        Loosening { key: "insecure_any_measurement", doc: "accepts any realm: its measurement is reported and not judged", written: Written::True },
    ],
};

const FIELDS: &[Field] = &[
    Field {
        key: "lifecycle",
        doc: "The platform's lifecycle states. All but `secured` need `insecure_allow_unsecured` with a reason.",
        rule: LIFECYCLE,
        unset: Unset::Default,
        reason: Reason::GuestPolicyViolation,
        always: Always::Genuine,
    },
    Field {
        key: "rim",
        doc: "The realm's initial measurement: what it started with.",
        rule: Rule::Digest { claim: "rim", zero: Zero::Refused },
        unset: Unset::Refused { unless: "insecure_any_measurement" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "sw_components",
        doc: "The firmware below the realm, part by part, by the measurement and the signer of each.",
        rule: Rule::Components { claim: "sw_components" },
        unset: Unset::Refused { unless: "insecure_any_firmware" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    extensible("rem0", "The realm's extensible measurement 0: what it extended after it started."),
    extensible("rem1", "The realm's extensible measurement 1."),
    extensible("rem2", "The realm's extensible measurement 2."),
    extensible("rem3", "The realm's extensible measurement 3."),
    Field {
        key: "rpv",
        doc: "The realm's personalization value, which its host chose: hex of 64 octets.",
        rule: Rule::bytes("rpv", 64, Zero::Refused),
        unset: Unset::Unjudged,
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "impl_id",
        doc: "The platform's implementation: hex of 32 octets. The policy's `keys` name it in any case.",
        rule: Rule::bytes("impl_id", 32, Zero::Allowed),
        unset: Unset::Unjudged,
        reason: Reason::PlatformNotAllowed,
        always: Always::Policy,
    },
    Field {
        key: "instance_id",
        doc: "The platforms, by instance: hex of 33 octets. An allowlist of machines; with `session-mutual` it is one way to say who the peer is.",
        rule: Rule::bytes("instance_id", 33, Zero::Refused),
        unset: Unset::Unjudged,
        reason: Reason::PlatformNotAllowed,
        always: Always::Policy,
    },
];

const fn extensible(key: &'static str, doc: &'static str) -> Field {
    Field {
        key,
        doc,
        rule: Rule::Digest { claim: key, zero: Zero::Allowed },
        unset: Unset::Unjudged,
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    }
}
