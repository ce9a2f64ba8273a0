//! The policy keys of Intel TDX, with the defaults of the appraisal rules.

use crate::policy::{Always, Component, Field, Flag, Loosening, Meaning, Product, Rule, TcbClaims, Unset, Vocabulary, Written, Zero, both};
use crate::refusal::Reason;
use crate::verify::google;
use crate::verify::intel::policy::{EVALUATION, FMSPC, LOWER_EVALUATION, PPID, TCB_STATUS};

/// The platform's words. The order is that of findings: the most telling first.
pub(in crate::verify) static VOCABULARY: Vocabulary =
    Vocabulary { tee: "intel-tdx", fields: &ALL, machine: &["ppid"], operator_key: None, loosening: LOOSENING };

static ALL: [Field; FIELDS.len() + google::FIELDS.len()] = both(FIELDS, google::FIELDS);

pub(in crate::verify) const LOOSENING: &[Loosening] = &[
    loosens("insecure_allow_debug", "accepts trust domains that the host can debug: for laboratories"),
    loosens(
        "insecure_allow_migratable",
        "accepts trust domains that a service trust domain may move, and that its host may turn into debuggable ones on the way (CVE-2025-30513)",
    ),
    loosens("insecure_allow_profiling", "accepts trust domains whose performance counters the host can read"),
    loosens("insecure_allow_sept_ve", "accepts trust domains in which the host can raise exceptions by taking pages away"),
    loosens("insecure_allow_service_td", "accepts trust domains that others are bound to as service trust domains"),
    loosens("insecure_any_measurement", "accepts any code: what is not pinned of MRTD and RTMR0 to RTMR2 is reported and not judged"),
    LOWER_EVALUATION,
];

const fn loosens(key: &'static str, doc: &'static str) -> Loosening {
    Loosening { key, doc, written: Written::True }
}

pub(in crate::verify) const FIELDS: &[Field] = &[
    Field {
        key: "td_attributes",
        doc: "TDATTRIBUTES, bit by bit. A weakening bit is refused unless `true` lets it be set; a strengthening bit is required when `true`.",
        rule: Rule::Flags { claim: "td_attributes", flags: ATTRIBUTES },
        unset: Unset::Default,
        reason: Reason::GuestPolicyViolation,
        always: Always::Genuine,
    },
    Field {
        key: "service_td",
        doc: "Whether other trust domains are bound to this one (MRSERVICETD of TD 1.5).",
        rule: Rule::Flags { claim: "service_td", flags: SERVICE_TD },
        unset: Unset::Default,
        reason: Reason::GuestPolicyViolation,
        always: Always::Genuine,
    },
    Field {
        key: "mrtd",
        doc: "MRTD: what the trust domain was built with, the firmware. Hex of 48 octets. It says nothing of kernel and disk: those are in the registers.",
        rule: Rule::bytes("mrtd", 48, Zero::Refused),
        unset: Unset::Refused { unless: "insecure_any_measurement" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    register("rtmr0", "RTMR0: the virtual machine's configuration and the firmware's. Hex of 48 octets."),
    register("rtmr1", "RTMR1: the boot loader or kernel. Hex of 48 octets."),
    register("rtmr2", "RTMR2: what the boot loader or kernel loads: command line, initrd. Hex of 48 octets."),
    Field {
        key: "rtmr3",
        doc: "RTMR3: what the guest measures while it runs. Hex of 48 octets.",
        rule: Rule::bytes("rtmr3", 48, Zero::Allowed),
        unset: Unset::Unjudged,
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    Field {
        key: "rtmr3_events",
        doc: "Events that the guest must have measured into RTMR3, each as `name=payload` with the payload in hex, and nothing else under the same name. They are told by the event log (member `log`), which must replay to the registers.",
        rule: Rule::Includes { claim: "rtmr3_events" },
        unset: Unset::Unjudged,
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    },
    pin("mrconfigid", "mr_config_id", "MRCONFIGID: what the host bound at build, for configuration that is not code. Hex of 48 octets."),
    pin("mrowner", "mr_owner", "MROWNER: who owns the trust domain, as the host said at build. Hex of 48 octets."),
    pin("mrownerconfig", "mr_owner_config", "MROWNERCONFIG: what the owner bound at build. Hex of 48 octets."),
    TCB_STATUS,
    EVALUATION,
    Field {
        key: "min_tee_tcb_svn",
        doc: "The least security versions of the TDX module and of the late microcode, per major version of the module, at launch.",
        rule: Rule::Tcb { claims: TEE_TCB, product: "tdx_module", products: MODULES, lowered_by: "insecure_any_measurement" },
        unset: Unset::Default,
        reason: Reason::TcbTooLow,
        always: Always::Policy,
    },
    Field {
        key: "mrseam",
        doc: "MRSEAM: the TDX modules by their digests. Hex of 48 octets. That it is Intel's is judged in any case.",
        rule: Rule::bytes("mrseam", 48, Zero::Refused),
        unset: Unset::Unjudged,
        reason: Reason::PlatformNotAllowed,
        always: Always::Policy,
    },
    FMSPC,
    PPID,
];

/// A register that belongs to the measurement: pinned with MRTD, or not at all.
const fn register(key: &'static str, doc: &'static str) -> Field {
    Field {
        key,
        doc,
        rule: Rule::bytes(key, 48, Zero::Allowed),
        unset: Unset::Refused { unless: "insecure_any_measurement" },
        reason: Reason::MeasurementUnknown,
        always: Always::Reference,
    }
}

const fn pin(key: &'static str, claim: &'static str, doc: &'static str) -> Field {
    Field { key, doc, rule: Rule::bytes(claim, 48, Zero::Refused), unset: Unset::Unjudged, reason: Reason::MeasurementUnknown, always: Always::Reference }
}

const ATTRIBUTES: &[Flag] = &[
    Flag {
        key: "debug",
        bit: 0,
        doc: "the host may debug the trust domain",
        meaning: Meaning::Weakens { default: false, unless: Some("insecure_allow_debug") },
        reason: Reason::DebugEnabled,
        always: Always::Genuine,
    },
    weakens("hgs_plus_prof", 4, "HGS+ profiling", "insecure_allow_profiling"),
    weakens("perf_prof", 5, "profiling by performance counters", "insecure_allow_profiling"),
    weakens("pmt_prof", 6, "profiling by platform monitoring", "insecure_allow_profiling"),
    weakens("migratable", 29, "a service trust domain may move it to another machine", "insecure_allow_migratable"),
    Flag {
        key: "sept_ve_disable",
        bit: 28,
        doc: "no exceptions by the host taking pages away",
        meaning: Meaning::Strengthens { default: true, unless: Some("insecure_allow_sept_ve") },
        reason: Reason::GuestPolicyViolation,
        always: Always::Genuine,
    },
    free("perfmon", 63, "the guest may use performance counters"),
    free("lass", 27, "the guest may use linear address space separation"),
    free("pks", 30, "the guest may use supervisor protection keys"),
    free("kl", 31, "the guest may use key locker"),
    free("tpa", 62, "the trust domain may be a provisioning agent"),
];

const SERVICE_TD: &[Flag] = &[weakens("bound", 0, "a service trust domain is bound", "insecure_allow_service_td")];

/// A bit that is part of being genuine: no policy lets it be set without its key.
const fn weakens(key: &'static str, bit: u32, doc: &'static str, unless: &'static str) -> Flag {
    let meaning = Meaning::Weakens { default: false, unless: Some(unless) };
    Flag { key, bit, doc, meaning, reason: Reason::GuestPolicyViolation, always: Always::Genuine }
}

const fn free(key: &'static str, bit: u32, doc: &'static str) -> Flag {
    Flag { key, bit, doc, meaning: Meaning::Weakens { default: true, unless: None }, reason: Reason::GuestPolicyViolation, always: Always::Policy }
}

const TEE_TCB: &[TcbClaims] = &[TcbClaims { claim: "tee_tcb_svn_parts", field: "report.tee_tcb_svn" }];

/// No floors beyond Intel's own levels are shipped: `UpToDate` under a current evaluation is stricter than any of them.
const MODULES: &[Product] = &[
    Product { name: "TDX_00", components: VERSIONS },
    Product { name: "TDX_01", components: VERSIONS },
    Product { name: "TDX_02", components: VERSIONS },
    Product { name: "TDX_03", components: VERSIONS },
];

const VERSIONS: &[Component] = &[Component { key: "module", claim: "module", floor: 0 }, Component { key: "microcode", claim: "microcode", floor: 0 }];
