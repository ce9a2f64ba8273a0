//! The floors of AMD's TCB as shipped: one number a row, each with the bulletin it comes from. As of [`EDITION`].
//!
//! Microcode has no floor here: AMD-SB-3019 (EntrySign) gives numbers that differ by stepping within a product line and
//! cannot be compared across them, so they are the operator's to set (`min_tcb`). Turin's firmware had none at that date.

use super::{shown, tcb};
use crate::evidence::snp::{Product, Report};
use crate::refusal::Denied;
use crate::verify::standing::{Short, Standing};

/// When the table was last compared with the vendor's bulletins.
pub(super) const EDITION: &str = "2026-11-24";

/// The least security version of a component of a product.
pub(super) struct Floor {
    pub(super) product: Product,
    pub(super) component: &'static str,
    pub(super) least: u8,
    pub(super) bulletin: &'static str,
    pub(super) about: &'static str,
}

/// EPYC 9004: SNP firmware.
pub(super) const GENOA_SNP: Floor =
    Floor { product: Product::Genoa, component: "snp", least: 0x16, bulletin: "AMD-SB-3015", about: "CVE-2024-21944, BadRAM: memory aliases are looked for" };

/// EPYC 7003: SNP firmware.
pub(super) const MILAN_SNP: Floor =
    Floor { product: Product::Milan, component: "snp", least: 0x17, bulletin: "AMD-SB-3015", about: "CVE-2024-21944, BadRAM: memory aliases are looked for" };

const ALL: [Floor; 2] = [GENOA_SNP, MILAN_SNP];

/// How a report's four TCB versions stand against the floors.
pub(super) fn standing(report: &Report, product: Product) -> Result<Standing, Denied> {
    let versions = [
        ("reported_tcb", report.reported_tcb),
        ("committed_tcb", report.committed_tcb),
        ("current_tcb", report.current_tcb),
        ("launch_tcb", report.launch_tcb),
    ];
    let mut short = Vec::new();
    for (name, raw) in versions {
        let version = tcb("report.tcb", raw, product)?;
        for floor in ALL.iter().filter(|floor| floor.product == product && version.snp < floor.least) {
            short.push(Short {
                component: format!("{name}.{} ({})", floor.component, shown(version)),
                found: u64::from(version.snp),
                needed: u64::from(floor.least),
                source: format!("{}: {}", floor.bulletin, floor.about),
                raised_by: if name == "launch_tcb" {
                    "newer firmware on the host, then launching the guest again"
                } else {
                    "newer SEV firmware on the host, committed (SNP_COMMIT)"
                },
            });
        }
    }
    let status = if short.is_empty() { "not below the floor" } else { "below the floor" };
    Ok(Standing { status: status.to_owned(), edition: format!("floors of {EDITION}"), until: None, advisories: Vec::new(), short })
}
