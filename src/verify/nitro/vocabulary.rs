//! The policy keys of AWS Nitro, with the defaults of the appraisal rules.

use crate::evidence::nitro::NAMES;
use crate::policy::{Always, Field, Flag, Loosening, Meaning, Rule, Unset, Vocabulary, Written, Zero};
use crate::refusal::Reason;

/// The words for enclaves. The order is that of findings: the most telling first.
pub(super) static ENCLAVE: Vocabulary = Vocabulary {
    tee: "nitro",
    fields: &[
        Field {
            key: "mode",
            doc: "How the enclave runs.",
            rule: Rule::Flags { claim: "mode", flags: MODE },
            unset: Unset::Default,
            reason: Reason::DebugEnabled,
            always: Always::Genuine,
        },
        measured("pcr0", "PCR0: the whole enclave image (EIF). Hex of 48 octets."),
        measured("pcr1", "PCR1: kernel and boot ramdisk of the image."),
        measured("pcr2", "PCR2: the application in the image, without its boot ramdisk."),
        machine("pcr3", "PCR3: SHA-384 over 48 zero octets and the ARN of the parent instance's IAM role. Says whose it is."),
        machine("pcr4", "PCR4: SHA-384 over 48 zero octets and the id of the parent instance. Says which machine it is."),
        signer("pcr8", "PCR8: SHA-384 over 48 zero octets and the certificate that signed the image; zero in unsigned ones, which cannot be pinned."),
        MAX_AGE,
        registers(48),
    ],
    machine: &["pcr3", "pcr4"],
    operator_key: None,
    loosening: &[
        Loosening {
            key: "insecure_allow_debug",
            doc: "accepts enclaves whose console is open and whose measurements are zero: for laboratories",
            written: Written::True,
        },
        Loosening { key: "insecure_any_measurement", doc: "accepts any code: the registers are reported and not judged", written: Written::True },
    ],
};

/// The words for instances.
pub(super) static TPM: Vocabulary = Vocabulary {
    tee: "nitrotpm",
    fields: &[
        measured("pcr4", "PCR4: the boot loader or unified kernel image. Hex of 48 octets."),
        measured("pcr7", "PCR7: the Secure Boot policy: its state and the certificates that it goes by."),
        Field { unset: Unset::Unjudged, ..measured("pcr12", "PCR12: the kernel's command line, where a unified kernel image does not hold it.") },
        MAX_AGE,
        registers(48),
    ],
    machine: &[],
    operator_key: None,
    loosening: &[Loosening { key: "insecure_any_measurement", doc: "accepts any code: the registers are reported and not judged", written: Written::True }],
};

const MODE: &[Flag] = &[Flag {
    key: "debug",
    bit: 0,
    doc: "the enclave runs in debug mode: PCR0 is zero",
    meaning: Meaning::Weakens { default: false, unless: Some("insecure_allow_debug") },
    reason: Reason::DebugEnabled,
    always: Always::Genuine,
}];

/// AWS's own advice is to take documents of a few minutes; a certificate's evidence lives longer and says so here.
const MAX_AGE: Field = Field {
    key: "max_age",
    doc: "How old a document may be. Sessions ask for a fresh one; evidence in a certificate needs as long as the certificate lives, at most the three hours of AWS's own.",
    rule: Rule::MaxAge { claim: "timestamp_s", default: 300, most: 10_800 },
    unset: Unset::Default,
    reason: Reason::EvidenceStale,
    always: Always::Policy,
};

const fn measured(key: &'static str, doc: &'static str) -> Field {
    Field {
        key,
        doc,
        rule: Rule::bytes(key, 48, Zero::Refused),
        unset: Unset::Refused { unless: "insecure_any_measurement" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    }
}

const fn machine(key: &'static str, doc: &'static str) -> Field {
    Field { unset: Unset::Unjudged, reason: Reason::PlatformNotAllowed, always: Always::Policy, ..measured(key, doc) }
}

const fn signer(key: &'static str, doc: &'static str) -> Field {
    Field { unset: Unset::Unjudged, ..measured(key, doc) }
}

const fn registers(length: usize) -> Field {
    Field {
        key: "pcrs",
        doc: "Further registers by number.",
        rule: Rule::Registers { claim: "pcrs", length, names: &NAMES },
        unset: Unset::Unjudged,
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    }
}
