//! The policy keys of Intel SGX, with the defaults of the appraisal rules.

use crate::policy::{Always, Field, Flag, Loosening, Meaning, Rule, Unset, Vocabulary, Written, Zero};
use crate::refusal::Reason;
use crate::verify::intel::policy::{EVALUATION, FMSPC, LOWER_EVALUATION, PPID, TCB_STATUS};

/// The platform's words. The order is that of findings: the most telling first.
pub(super) static VOCABULARY: Vocabulary = Vocabulary { tee: "intel-sgx", fields: FIELDS, machine: &["ppid"], operator_key: None, loosening: LOOSENING };

const LOOSENING: &[Loosening] = &[
    Loosening { key: "insecure_allow_debug", doc: "accepts enclaves that the host can debug: for laboratories", written: Written::True },
    Loosening {
        key: "insecure_any_measurement",
        doc: "accepts any code: what is not pinned of MRENCLAVE and MRSIGNER is reported and not judged",
        written: Written::True,
    },
    LOWER_EVALUATION,
];

const FIELDS: &[Field] = &[
    Field {
        key: "attributes",
        doc: "ATTRIBUTES, bit by bit. A weakening bit is refused unless `true` lets it be set; a strengthening bit is required when `true`.",
        rule: Rule::Flags { claim: "attribute_flags", flags: ATTRIBUTES },
        unset: Unset::Default,
        reason: Reason::GuestPolicyViolation,
        always: Always::Genuine,
    },
    Field {
        key: "mrenclave",
        doc: "MRENCLAVE: what the enclave was built with. Hex of 32 octets.",
        rule: Rule::bytes("mrenclave", 32, Zero::Refused),
        unset: Unset::Instead { of: "mrsigner", unless: "insecure_any_measurement" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "mrsigner",
        doc: "MRSIGNER: who signed the enclave. Hex of 32 octets. A signer signs many enclaves and old versions of each: `isvprodid` and `isvsvn` must be there too.",
        rule: Rule::bytes("mrsigner", 32, Zero::Refused),
        unset: Unset::Unjudged,
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "isvprodid",
        doc: "ISVPRODID: which of the signer's enclaves it is.",
        rule: Rule::Numbers { claim: "isv_prod_id", default: &[] },
        unset: Unset::Beside { key: "mrsigner" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "isvsvn",
        doc: "ISVSVN: the least security version of the enclave.",
        rule: Rule::Minimum { claim: "isv_svn", beside: None },
        unset: Unset::Beside { key: "mrsigner" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    sharing("config_id", 64, "CONFIGID: what the host bound at start. Hex of 64 octets; zero in enclaves without key separation and sharing (KSS)."),
    sharing("isv_family_id", 16, "ISVFAMILYID: hex of 16 octets; zero in enclaves without KSS."),
    sharing("isv_ext_prod_id", 16, "ISVEXTPRODID: hex of 16 octets; zero in enclaves without KSS."),
    Field {
        key: "config_svn",
        doc: "CONFIGSVN: the least security version of the configuration.",
        rule: Rule::Minimum { claim: "config_svn", beside: None },
        unset: Unset::Unjudged,
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "misc_select",
        doc: "MISCSELECT: what of an exception the enclave writes into its own frame.",
        rule: Rule::Flags { claim: "misc_select", flags: MISC },
        unset: Unset::Default,
        reason: Reason::GuestPolicyViolation,
        always: Always::Policy,
    },
    TCB_STATUS,
    EVALUATION,
    FMSPC,
    PPID,
];

const fn sharing(key: &'static str, length: usize, doc: &'static str) -> Field {
    Field { key, doc, rule: Rule::bytes(key, length, Zero::Refused), unset: Unset::Unjudged, reason: Reason::MeasurementUnknown, always: Always::Reference }
}

const ATTRIBUTES: &[Flag] = &[
    Flag {
        key: "debug",
        bit: 1,
        doc: "the host may debug the enclave",
        meaning: Meaning::Weakens { default: false, unless: Some("insecure_allow_debug") },
        reason: Reason::DebugEnabled,
        always: Always::Genuine,
    },
    strengthens("init", 0, "the enclave is initialised", true),
    strengthens("mode64bit", 2, "the enclave runs in 64-bit mode", true),
    weakens("provision_key", 4, "the enclave may have the provisioning key", false),
    weakens("einittoken_key", 5, "the enclave may have the launch key", false),
    weakens("cet", 6, "the enclave uses control-flow enforcement", true),
    weakens("kss", 7, "the enclave uses key separation and sharing", true),
    weakens("aexnotify", 10, "the enclave is told of exits", true),
];

const MISC: &[Flag] = &[weakens("exinfo", 0, "page faults and general protection faults", true), weakens("cpinfo", 1, "control protection faults", true)];

const fn weakens(key: &'static str, bit: u32, doc: &'static str, default: bool) -> Flag {
    let always = if default { Always::Policy } else { Always::Genuine };
    Flag { key, bit, doc, meaning: Meaning::Weakens { default, unless: None }, reason: Reason::GuestPolicyViolation, always }
}

const fn strengthens(key: &'static str, bit: u32, doc: &'static str, default: bool) -> Flag {
    Flag { key, bit, doc, meaning: Meaning::Strengthens { default, unless: None }, reason: Reason::GuestPolicyViolation, always: Always::Genuine }
}
