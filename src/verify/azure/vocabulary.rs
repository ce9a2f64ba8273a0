//! The policy keys of Azure VMs: the hardware's own, then those of the paravisor and its vTPM.

use crate::policy::{Always, Field, Loosening, Rule, Unset, Vocabulary, Written, both};
use crate::refusal::Reason;
use crate::verify::{snp, tdx, tpm};

/// SEV-SNP behind the paravisor.
pub(super) static SNP: Vocabulary =
    Vocabulary { tee: "azure-snp", fields: &SNP_FIELDS, machine: &["chip_id", "vm_unique_id"], operator_key: None, loosening: &SNP_LOOSENING };

/// TDX behind the paravisor.
pub(super) static TDX: Vocabulary =
    Vocabulary { tee: "azure-tdx", fields: &TDX_FIELDS, machine: &["ppid", "vm_unique_id"], operator_key: None, loosening: &TDX_LOOSENING };

static TDX_FIELDS: [Field; FIELDS.len() + tdx::vocabulary::FIELDS.len()] = both(FIELDS, tdx::vocabulary::FIELDS);
static TDX_LOOSENING: [Loosening; LOOSENING.len() + tdx::vocabulary::LOOSENING.len()] = both(LOOSENING, tdx::vocabulary::LOOSENING);

static SNP_FIELDS: [Field; FIELDS.len() + snp::FIELDS.len()] = both(FIELDS, snp::FIELDS);
static SNP_LOOSENING: [Loosening; LOOSENING.len() + snp::LOOSENING.len()] = both(LOOSENING, snp::LOOSENING);

const LOOSENING: &[Loosening] = &[
    Loosening { key: "insecure_allow_no_secure_boot", doc: "accepts VMs whose firmware boots what nobody signed", written: Written::True },
    Loosening { key: "insecure_any_pcrs", doc: "accepts any boot: the vTPM's registers are reported and not judged", written: Written::True },
];

const FIELDS: &[Field] = &[
    Field {
        key: "pcrs",
        doc: "What booted: the vTPM's registers of the bank that was quoted, SHA-256, by number. The measurement covers the paravisor alone. Azure's system images differ in 0, 2, 3, 4, 7, 9 and 11 by what they measure there.",
        rule: Rule::Registers { claim: "pcrs", length: 32, names: tpm::PCR_NAMES },
        unset: Unset::Refused { unless: "insecure_any_pcrs" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "secure_boot",
        doc: "Whether the firmware checks what it boots, as the paravisor says: `\"true\"`; `\"false\"` needs `insecure_allow_no_secure_boot`.",
        rule: Rule::Words {
            claim: "secure_boot",
            known: &["false", "true"],
            default: &["true"],
            guarded: &[("false", "insecure_allow_no_secure_boot")],
            needs: &[],
            optional: false,
        },
        unset: Unset::Default,
        reason: Reason::GuestPolicyViolation,
        always: Always::Policy,
    },
    Field {
        key: "tpm_enabled",
        doc: "Whether the VM has its vTPM, as the paravisor says.",
        rule: Rule::Words { claim: "tpm_enabled", known: &["false", "true"], default: &["true"], guarded: &[], needs: &[], optional: false },
        unset: Unset::Default,
        reason: Reason::GuestPolicyViolation,
        always: Always::Policy,
    },
    Field {
        key: "ak_certificate",
        doc: "What the certificate of the vTPM's attestation key must come to: `verified` (it leads to Microsoft's root) or `none` (there is none; the hardware vouches for the key). A certificate that leads elsewhere is always refused.",
        rule: Rule::Words { claim: "ak_certificate", known: &["none", "verified"], default: &["none", "verified"], guarded: &[], needs: &[], optional: false },
        unset: Unset::Default,
        reason: Reason::ChainUntrusted,
        always: Always::Policy,
    },
    Field {
        key: "vm_unique_id",
        doc: "The VMs, by the vmUniqueId that the paravisor tells. An allowlist of machines; with `session-mutual` it is one way to say who the peer is.",
        rule: Rule::Words { claim: "vm_unique_id", known: &[], default: &[], guarded: &[], needs: &[], optional: false },
        unset: Unset::Unjudged,
        reason: Reason::PlatformNotAllowed,
        always: Always::Policy,
    },
];
