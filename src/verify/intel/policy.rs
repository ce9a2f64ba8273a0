//! The policy keys that enclaves and trust domains have in common.

use crate::policy::{Always, Field, Loosening, RisingFloor, Rule, Unset, Written, Zero};
use crate::refusal::Reason;

/// What Intel says of the machine's firmware.
pub(in crate::verify) const TCB_STATUS: Field = Field {
    key: "insecure_tcb_status",
    doc: "Statuses other than `UpToDate` that are tolerated, each with the advisories that it may be open to and the day on which the tolerance ends. `Revoked` never is.",
    rule: Rule::TcbStatus { claim: "tcb_status", advisories: "tcb_advisories", short: "tcb_short_of_newest", good: "UpToDate", tolerable: TOLERABLE },
    unset: Unset::Default,
    reason: Reason::TcbTooLow,
    always: Always::Genuine,
};

const TOLERABLE: &[&str] = &[
    "ConfigurationAndSWHardeningNeeded",
    "ConfigurationNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "SWHardeningNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
];

/// Which of Intel's evaluations the status is by.
pub(in crate::verify) const EVALUATION: Field = Field {
    key: "min_tcb_evaluation_data_number",
    doc: "The least `tcbEvaluationDataNumber` of TCB info and QE identity, the lower of the two: an older evaluation, still signed and in its dates, calls a machine up to date that a later one does not.",
    rule: Rule::Rising { claim: "tcb_evaluation_data_number", floors: EVALUATIONS, lowered_by: "insecure_lower_min_tcb_evaluation_data_number" },
    unset: Unset::Default,
    reason: Reason::TcbTooLow,
    always: Always::Genuine,
};

/// The shipped floors, as of 2026-11. An evaluation is named by the day that its newest level is up to (`tcbDate`: 15 is
/// 2023-02-15, 17 is 2024-03-13, 18 is 2024-11-13, 19 is 2025-05-14, 20 is 2025-08-13). Intel's service gives it by
/// default twelve months later, and what it gave before is in its dates for thirty days more; then it is the least.
const EVALUATIONS: &[RisingFloor] = &[
    from(0, 15),             // the first with TDX
    from(1_744_675_200, 17), // 2025-04-15
    from(1_765_756_800, 18), // 2025-12-15
    from(1_781_481_600, 19), // 2026-06-15
    from(1_789_430_400, 20), // 2026-09-15
];

const fn from(from: u64, number: u64) -> RisingFloor {
    RisingFloor { from, number }
}

/// Which kind of machine it is.
pub(in crate::verify) const FMSPC: Field = Field {
    key: "fmspc",
    doc: "The kinds of machines, by FMSPC: hex of 6 octets.",
    rule: Rule::bytes("fmspc", 6, Zero::Refused),
    unset: Unset::Unjudged,
    reason: Reason::PlatformNotAllowed,
    always: Always::Policy,
};

/// Which machine it is.
pub(in crate::verify) const PPID: Field = Field {
    key: "ppid",
    doc: "The machines, by the PPID of their PCK certificates: hex of 16 octets. An allowlist of machines; with `session-mutual` it is one way to say who the peer is.",
    rule: Rule::bytes("ppid", 16, Zero::Refused),
    unset: Unset::Unjudged,
    reason: Reason::PlatformNotAllowed,
    always: Always::Policy,
};

/// The loosening of [`EVALUATION`].
pub(in crate::verify) const LOWER_EVALUATION: Loosening = Loosening {
    key: "insecure_lower_min_tcb_evaluation_data_number",
    doc: "lets min_tcb_evaluation_data_number stand for the shipped floor, even below it",
    written: Written::Why,
};
