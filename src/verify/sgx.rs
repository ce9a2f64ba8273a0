//! Intel SGX, stage 1: is this quote a genuine enclave's?
//!
//! The steps are those of [`super::intel`]; of its own it has what no genuine enclave has: reserved attributes
//! ([`plausible`]). Whether the enclave is wanted is stage 2's: see [`vocabulary`].

mod vocabulary;

use super::intel::{self, Line};
use super::roots::Anchor;
use crate::evidence::intel::collateral::TcbInfo;
use crate::evidence::intel::{Body, Quote};
use crate::refusal::{Denied, Finding, Reason};

/// The platform's verifier.
pub static SGX: Line = Line {
    vocabulary: &vocabulary::VOCABULARY,
    tcb_info: "SGX",
    qe_identity: "QE",
    service: "sgx",
    is_body: |body| matches!(body, Body::Enclave(_)),
    plausible,
};

/// Intel's root.
#[must_use]
pub fn anchors() -> Vec<Anchor> {
    intel::anchors(SGX.vocabulary.tee)
}

/// The bits of ATTRIBUTES that have a meaning (Intel SDM volume 3D, "ATTRIBUTES Structure"): INIT, DEBUG, MODE64BIT,
/// PROVISIONKEY, EINITTOKEN_KEY, CET, KSS, AEXNOTIFY.
const ATTRIBUTES_DEFINED: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10;

/// The bits of MISCSELECT that have a meaning (the same, "MISCSELECT Field"): EXINFO, CPINFO.
const MISC_DEFINED: u32 = 1 | 1 << 1;

/// Refuses what no processor reports.
fn plausible(quote: &Quote, _: &TcbInfo) -> Result<(), Denied> {
    let Body::Enclave(report) = &quote.body else { return Ok(()) };
    if report.misc_select & !MISC_DEFINED != 0 {
        let found = format!("{:#x}", report.misc_select);
        return Finding::new(Reason::ReservedBitsSet, "report.misc_select", format!("no bits beyond {MISC_DEFINED:#x}"), found).refuse();
    }
    if report.flags() & !ATTRIBUTES_DEFINED != 0 {
        let found = format!("{:#x}", report.flags());
        return Finding::new(Reason::ReservedBitsSet, "report.attributes", format!("no bits beyond {ATTRIBUTES_DEFINED:#x}"), found).refuse();
    }
    Ok(())
}
