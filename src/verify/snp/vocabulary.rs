//! The policy keys of SEV-SNP, with the defaults of the appraisal rules.

use super::floors;
use crate::policy::{Always, Component, Field, Flag, Loosening, Meaning, Product, Rule, TcbClaims, Unset, Vocabulary, Written, Zero, both};
use crate::refusal::Reason;
use crate::verify::google;

/// The platform's words. The order is that of findings: the most telling first.
pub(super) static VOCABULARY: Vocabulary = Vocabulary { tee: "sev-snp", fields: &ALL, machine: &["chip_id"], operator_key: None, loosening: LOOSENING };

static ALL: [Field; FIELDS.len() + google::FIELDS.len()] = both(FIELDS, google::FIELDS);

pub(in crate::verify) const LOOSENING: &[Loosening] = &[
    loosens("insecure_allow_debug", "accepts guests that the host can debug: for laboratories", Written::True),
    loosens("insecure_allow_migrate_ma", "accepts guests that a migration agent may move", Written::True),
    loosens("insecure_allow_milan", "accepts EPYC 7003, on which software on the host can forge reports of any TCB (MilanLaunchy, BadFuse)", Written::Why),
    loosens("insecure_allow_provisional_firmware", "accepts firmware that runs and is not committed: the host can still roll it back", Written::True),
    loosens("insecure_any_measurement", "accepts any code: the measurement is reported and not judged", Written::True),
    loosens("insecure_lower_min_firmware", "lets min_firmware be below the shipped one", Written::Why),
    loosens("insecure_lower_min_tcb", "lets min_tcb be below the shipped floors", Written::Why),
    loosens("insecure_skip_alias_check", "accepts hosts that do not report the memory alias check (BadRAM)", Written::Why),
];

const fn loosens(key: &'static str, doc: &'static str, written: Written) -> Loosening {
    Loosening { key, doc, written }
}

pub(in crate::verify) const FIELDS: &[Field] = &[
    Field {
        key: "guest_policy",
        doc: "The launch policy of the guest, bit by bit. A weakening bit is refused unless `true` lets it be set; a strengthening bit is required when `true`.",
        rule: Rule::Flags { claim: "policy", flags: GUEST_POLICY },
        unset: Unset::Default,
        reason: Reason::GuestPolicyViolation,
        always: Always::Genuine,
    },
    Field {
        key: "measurement",
        doc: "The launch digest: what code the guest started with. Hex of 48 octets.",
        rule: Rule::bytes("measurement", 48, Zero::Refused),
        unset: Unset::Refused { unless: "insecure_any_measurement" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "products",
        doc: "The processor lines. `milan` needs `insecure_allow_milan` with a reason.",
        rule: Rule::Words {
            claim: "product",
            known: &["genoa", "milan", "turin"],
            default: &["genoa", "turin"],
            guarded: &[("milan", "insecure_allow_milan")],
            needs: &[],
            optional: false,
        },
        unset: Unset::Default,
        reason: Reason::PlatformNotAllowed,
        always: Always::Policy,
    },
    Field {
        key: "chip_id",
        doc: "The chips, by CHIP_ID: hex of 64 octets (Turin: 8 octets and zeros). An allowlist of machines; with `session-mutual` it is one way to say who the peer is.",
        rule: Rule::bytes("chip_id", 64, Zero::Refused),
        unset: Unset::Unjudged,
        reason: Reason::PlatformNotAllowed,
        always: Always::Policy,
    },
    Field {
        key: "signing_key",
        doc: "Which key signs: `VCEK` (the chip's) or `VLEK` (a cloud's, which needs `csp_id`).",
        rule: Rule::Words { claim: "signing_key", known: &["VCEK", "VLEK"], default: &["VCEK"], guarded: &[], needs: &[("VLEK", "csp_id")], optional: false },
        unset: Unset::Default,
        reason: Reason::PlatformNotAllowed,
        always: Always::Policy,
    },
    Field {
        key: "csp_id",
        doc: "The clouds whose VLEK is accepted, as the certificate's cspID names them.",
        rule: Rule::Words { claim: "csp_id", known: &[], default: &[], guarded: &[], needs: &[], optional: true },
        unset: Unset::Unjudged,
        reason: Reason::PlatformNotAllowed,
        always: Always::Policy,
    },
    Field {
        key: "vmpl",
        doc: "The privilege levels a report may be requested from; 0 is the most privileged.",
        rule: Rule::Numbers { claim: "vmpl", default: &[0] },
        unset: Unset::Default,
        reason: Reason::VmplNotAllowed,
        always: Always::Policy,
    },
    Field {
        key: "min_tcb",
        doc: "The least security versions per product, held by the reported, committed, current and launch TCB. Raising the shipped floors is free; lowering needs `insecure_lower_min_tcb`.",
        rule: Rule::Tcb { claims: TCB_CLAIMS, product: "product", products: FLOORS, lowered_by: "insecure_lower_min_tcb" },
        unset: Unset::Default,
        reason: Reason::TcbTooLow,
        always: Always::Policy,
    },
    Field {
        key: "min_firmware",
        doc: "The least SNP firmware version (major.minor or major.minor.build), held by the current and the committed one.",
        rule: Rule::Version { claims: &["current_build_ver", "committed_build_ver"], default: &[1, 55], lowered_by: "insecure_lower_min_firmware" },
        unset: Unset::Default,
        reason: Reason::TcbTooLow,
        always: Always::Policy,
    },
    Field {
        key: "committed_firmware",
        doc: "Whether the running TCB must be the committed one. Only `true` may be written; see `insecure_allow_provisional_firmware`.",
        rule: Rule::Same { claim: "current_tcb", other: "committed_tcb", loosened_by: "insecure_allow_provisional_firmware" },
        unset: Unset::Default,
        reason: Reason::GuestPolicyViolation,
        always: Always::Policy,
    },
    Field {
        key: "platform_info",
        doc: "What the platform says of itself, bit by bit, in the manner of `guest_policy`.",
        rule: Rule::Flags { claim: "platform_info", flags: PLATFORM_INFO },
        unset: Unset::Default,
        reason: Reason::GuestPolicyViolation,
        always: Always::Policy,
    },
    Field {
        key: "host_data",
        doc: "What the host bound at launch: hex of 32 octets.",
        rule: Rule::bytes("host_data", 32, Zero::Refused),
        unset: Unset::Unjudged,
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "guest_svn",
        doc: "The least security version of the guest image, from the signed id block. Means something only beside `id_key_digest`, which must be pinned too.",
        rule: Rule::Minimum { claim: "guest_svn", beside: Some("id_key_digest") },
        unset: Unset::Unjudged,
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "id_key_digest",
        doc: "SHA-384 of the key that signed the id block: hex of 48 octets.",
        rule: Rule::bytes("id_key_digest", 48, Zero::Refused),
        unset: Unset::Unjudged,
        reason: Reason::GuestPolicyViolation,
        always: Always::Policy,
    },
    Field {
        key: "author_key_digest",
        doc: "SHA-384 of the key that signed the id key; the report must say that there is one (AUTHOR_KEY_EN).",
        rule: Rule::Bytes { claim: "author_key_digest", length: 48, zero: Zero::Refused, guarded_by: Some("author_key_en"), beside: None },
        unset: Unset::Unjudged,
        reason: Reason::GuestPolicyViolation,
        always: Always::Policy,
    },
    Field {
        key: "family_id",
        doc: "The id block's family: hex of 16 octets. Means something only beside `id_key_digest`, which must be pinned too.",
        rule: Rule::Bytes { claim: "family_id", length: 16, zero: Zero::Allowed, guarded_by: None, beside: Some("id_key_digest") },
        unset: Unset::Unjudged,
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "image_id",
        doc: "The id block's image: hex of 16 octets. Means something only beside `id_key_digest`, which must be pinned too.",
        rule: Rule::Bytes { claim: "image_id", length: 16, zero: Zero::Allowed, guarded_by: None, beside: Some("id_key_digest") },
        unset: Unset::Unjudged,
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "launch_mit_vector",
        doc: "Mitigations that must have been in force at launch: a mask, `\"0x…\"`. Reports before version 5 have none.",
        rule: Rule::Mask { claim: "launch_mit_vector" },
        unset: Unset::Unjudged,
        reason: Reason::TcbTooLow,
        always: Always::Policy,
    },
    Field {
        key: "current_mit_vector",
        doc: "Mitigations that must be in force: a mask, `\"0x…\"`. Reports before version 5 have none.",
        rule: Rule::Mask { claim: "current_mit_vector" },
        unset: Unset::Unjudged,
        reason: Reason::TcbTooLow,
        always: Always::Policy,
    },
];

const GUEST_POLICY: &[Flag] = &[
    Flag {
        key: "debug",
        bit: 19,
        doc: "the host may debug the guest",
        meaning: Meaning::Weakens { default: false, unless: Some("insecure_allow_debug") },
        reason: Reason::DebugEnabled,
        always: Always::Genuine,
    },
    Flag {
        key: "migrate_ma",
        bit: 18,
        doc: "a migration agent may move the guest",
        meaning: Meaning::Weakens { default: false, unless: Some("insecure_allow_migrate_ma") },
        reason: Reason::GuestPolicyViolation,
        always: Always::Genuine,
    },
    weakens("cxl_allow", 21, "CXL may be populated with devices or memory", false),
    weakens("smt", 16, "the guest may run with simultaneous multithreading", true),
    strengthens("single_socket", 20, "the guest runs on one socket only", false),
    strengthens("mem_aes_256_xts", 22, "memory is encrypted with AES-256-XTS", false),
    strengthens("rapl_dis", 23, "power measurement is disabled", false),
    strengthens("ciphertext_hiding", 24, "ciphertext hiding is enabled", false),
    strengthens("page_swap_disable", 25, "the host may not move or swap pages", false),
];

const PLATFORM_INFO: &[Flag] = &[
    Flag {
        key: "alias_check_complete",
        bit: 5,
        doc: "no aliasing memory address was found since reset (BadRAM)",
        meaning: Meaning::Strengthens { default: true, unless: Some("insecure_skip_alias_check") },
        reason: Reason::GuestPolicyViolation,
        always: Always::Policy,
    },
    weakens("smt_en", 0, "simultaneous multithreading is enabled", true),
    strengthens("tsme_en", 1, "transparent memory encryption is enabled", false),
    strengthens("ecc_en", 2, "memory has error correction", false),
    strengthens("rapl_dis", 3, "power measurement is disabled", false),
    strengthens("ciphertext_hiding_en", 4, "ciphertext hiding is enabled", false),
    strengthens("iommu_write_safe", 6, "the IOMMU cannot write guest memory", false),
    weakens("tio_en", 7, "trusted I/O is enabled", true),
];

const fn weakens(key: &'static str, bit: u32, doc: &'static str, default: bool) -> Flag {
    Flag { key, bit, doc, meaning: Meaning::Weakens { default, unless: None }, reason: Reason::GuestPolicyViolation, always: Always::Policy }
}

const fn strengthens(key: &'static str, bit: u32, doc: &'static str, default: bool) -> Flag {
    Flag { key, bit, doc, meaning: Meaning::Strengthens { default, unless: None }, reason: Reason::GuestPolicyViolation, always: Always::Policy }
}

const TCB_CLAIMS: &[TcbClaims] = &[
    TcbClaims { claim: "reported_tcb_parts", field: "report.reported_tcb" },
    TcbClaims { claim: "committed_tcb_parts", field: "report.committed_tcb" },
    TcbClaims { claim: "current_tcb_parts", field: "report.current_tcb" },
    TcbClaims { claim: "launch_tcb_parts", field: "report.launch_tcb" },
];

/// The shipped floors: see [`floors`].
const FLOORS: &[Product] = &[
    Product {
        name: "genoa",
        components: &[floor("bootloader", "bl", 0), floor("tee", "tee", 0), floor("snp", "snp", floors::GENOA_SNP.least), floor("microcode", "ucode", 0)],
    },
    Product {
        name: "milan",
        components: &[floor("bootloader", "bl", 0), floor("tee", "tee", 0), floor("snp", "snp", floors::MILAN_SNP.least), floor("microcode", "ucode", 0)],
    },
    Product {
        name: "turin",
        components: &[floor("fmc", "fmc", 0), floor("bootloader", "bl", 0), floor("tee", "tee", 0), floor("snp", "snp", 0), floor("microcode", "ucode", 0)],
    },
];

const fn floor(key: &'static str, claim: &'static str, floor: u8) -> Component {
    Component { key, claim, floor }
}
