//! The floors of AMD's TCB as shipped: one number a row, each with the bulletin it comes from. As of [`EDITION`].
//!
//! Microcode's numbers differ by stepping within a product line and cannot be compared across them: [`MICROCODE`] has one for
//! each, and says how a machine stands whose report tells its stepping (version 3 and later). Policies have no such floor:
//! there it is the operator's to set (`min_tcb`), for the machines that they are about. Turin's firmware had none at that date.

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

/// The first microcode of a stepping that does not take what a forged signature vouches for (EntrySign): by family, model and
/// stepping as the report has them, the last octet of the patch level.
const MICROCODE: [Microcode; 5] = [
    Microcode { cpuid: [0x19, 0x01, 1], line: "Milan B1", least: 0xdb },
    Microcode { cpuid: [0x19, 0x01, 2], line: "Milan-X B2", least: 0x44 },
    Microcode { cpuid: [0x19, 0x11, 1], line: "Genoa B1", least: 0x54 },
    Microcode { cpuid: [0x19, 0x11, 2], line: "Genoa-X B2", least: 0x4f },
    Microcode { cpuid: [0x19, 0xa0, 2], line: "Bergamo and Siena A2", least: 0x19 },
];

/// The least microcode of one stepping.
struct Microcode {
    cpuid: [u8; 3],
    line: &'static str,
    least: u8,
}

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
        let stepping = MICROCODE.iter().find(|row| report.cpuid == Some(row.cpuid) && version.microcode < row.least);
        short.extend(stepping.map(|row| Short {
            component: format!("{name}.microcode ({})", row.line),
            found: u64::from(version.microcode),
            needed: u64::from(row.least),
            source: "AMD-SB-3019: CVE-2024-56161, EntrySign: microcode of a forged signature is not taken".to_owned(),
            raised_by: if name == "launch_tcb" {
                "newer microcode (the host's BIOS), then launching the guest again"
            } else {
                "newer microcode (the host's BIOS), then a new VCEK"
            },
        }));
    }
    let status = if short.is_empty() { "not below the floor" } else { "below the floor" };
    Ok(Standing { status: status.to_owned(), edition: format!("floors of {EDITION}"), until: None, advisories: Vec::new(), short })
}
