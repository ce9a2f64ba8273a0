//! The launch digest of an SEV-SNP guest: firmware, what the hypervisor puts beside it, and each processor's start.
//!
//! The digest is a chain over pages: SHA-384 of the digest so far, the digest of the page's content, and what the page is
//! and where (`PAGE_INFO`, SEV-SNP firmware ABI section 8.17). The layout of a processor's start is Table B-4 of AMD's
//! Programmer's Manual, volume 2; its values are those of the hypervisors.

use super::ovmf::{Ovmf, guid, u32_le};
use super::{Input, Measured, Unfit, Value};
use crate::crypto::{sha256, sha384};

/// Everything that the launch digest depends on.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The OVMF image.
    pub firmware: &'a [u8],
    /// What is booted directly; `None` when the firmware boots from a disk, which the digest then does not cover.
    pub direct: Option<Direct<'a>>,
    /// How many processors.
    pub vcpus: u32,
    /// Their CPUID signature; see [`signature`].
    pub vcpu_signature: u32,
    /// Who starts the guest.
    pub hypervisor: Hypervisor,
    /// `SEV_FEATURES` of the processors: 1 (SNP) with Linux before 6.6 and all but debug swap, else often 0x21.
    pub features: u64,
}

/// A kernel that the firmware starts by itself.
#[derive(Clone, Debug)]
pub struct Direct<'a> {
    /// The kernel.
    pub kernel: &'a [u8],
    /// The initial RAM disk; empty when there is none.
    pub initrd: &'a [u8],
    /// The kernel's command line.
    pub cmdline: &'a str,
}

/// Whose values the processors start with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hypervisor {
    /// Amazon EC2.
    Ec2,
    /// Google Compute Engine.
    Gce,
    /// QEMU with KVM.
    Qemu,
}

impl Hypervisor {
    /// All of them, by their names.
    pub const ALL: [(&'static str, Self); 3] = [("ec2", Self::Ec2), ("gce", Self::Gce), ("qemu", Self::Qemu)];
}

/// More processors than this no guest has.
const MAX_VCPUS: u32 = 4096;

/// The processor models of QEMU with their family, model and stepping.
pub const VCPU_TYPES: &[(&str, [u32; 3])] = &[
    ("EPYC", [23, 1, 2]),
    ("EPYC-v1", [23, 1, 2]),
    ("EPYC-v2", [23, 1, 2]),
    ("EPYC-v3", [23, 1, 2]),
    ("EPYC-v4", [23, 1, 2]),
    ("EPYC-IBPB", [23, 1, 2]),
    ("EPYC-Rome", [23, 49, 0]),
    ("EPYC-Rome-v1", [23, 49, 0]),
    ("EPYC-Rome-v2", [23, 49, 0]),
    ("EPYC-Rome-v3", [23, 49, 0]),
    ("EPYC-Milan", [25, 1, 1]),
    ("EPYC-Milan-v1", [25, 1, 1]),
    ("EPYC-Milan-v2", [25, 1, 1]),
    ("EPYC-Genoa", [25, 17, 0]),
    ("EPYC-Genoa-v1", [25, 17, 0]),
    ("EPYC-Turin", [26, 0, 0]),
];

/// The CPUID signature (`Fn0000_0001_EAX`) of a family, model and stepping.
#[must_use]
pub fn signature([family, model, stepping]: [u32; 3]) -> u32 {
    let (low, high) = if family > 0xf { (0xf, (family - 0xf) & 0xff) } else { (family, 0) };
    (high << 20) | (((model >> 4) & 0xf) << 16) | (low << 8) | ((model & 0xf) << 4) | (stepping & 0xf)
}

/// The launch digest.
///
/// # Errors
/// [`Unfit`] for firmware that is not for such guests, or that has no place for a directly booted kernel.
pub fn measure(launch: &Launch<'_>) -> Result<Measured, Unfit> {
    let digest = digest(launch)?;
    let mut inputs = vec![Input::file("firmware", launch.firmware)];
    if let Some(direct) = &launch.direct {
        inputs.push(Input::file("kernel", direct.kernel));
        inputs.push(Input::file("initrd", direct.initrd));
        inputs.push(Input::setting("cmdline", direct.cmdline));
    }
    inputs.push(Input::setting("vcpus", launch.vcpus));
    inputs.push(Input::setting("vcpu_signature", format!("{:#x}", launch.vcpu_signature)));
    inputs.push(Input::setting("features", format!("{:#x}", launch.features)));
    let hypervisor = Hypervisor::ALL.iter().find(|(_, hypervisor)| *hypervisor == launch.hypervisor).map_or("", |(name, _)| name);
    inputs.push(Input::setting("hypervisor", hypervisor));
    let names: Vec<_> = inputs.iter().map(|input| input.name.clone()).collect();
    let from: Vec<&str> = names.iter().map(String::as_str).collect();
    Ok(Measured { tee: "sev-snp".to_owned(), values: vec![Value::new("measurement", &digest, &from)], inputs })
}

const PAGE: usize = 4096;
const FOUR_GIB: u64 = 1 << 32;
const RESET_BLOCK: &str = "00f771de-1a7e-4fcb-890e-68c77e2fb44e";
const HASHES_TABLE: &str = "7255371f-3a3b-4b04-927b-1da6efa8d454";
const METADATA: &str = "dc886566-984a-4798-a75e-5585a7bf67cc";
const VMSA_ADDRESS: u64 = 0xffff_ffff_f000;
const RESET_VECTOR: u32 = 0xffff_fff0;

fn digest(launch: &Launch<'_>) -> Result<[u8; 48], Unfit> {
    let ovmf = Ovmf::read(launch.firmware)?;
    if !(1..=MAX_VCPUS).contains(&launch.vcpus) {
        return Err(Unfit::new("vcpus", format!("{}: from 1 to {MAX_VCPUS}", launch.vcpus)));
    }
    let mut chain = Chain { digest: [0; 48] };
    let base = FOUR_GIB.saturating_sub(ovmf.bytes.len() as u64);
    for (at, page) in ovmf.bytes.chunks_exact(PAGE).enumerate() {
        chain.content(PageKind::Normal, base + (at * PAGE) as u64, page);
    }
    sections(&ovmf, launch, &mut chain)?;
    let others = match launch.vcpus {
        1 => RESET_VECTOR,
        _ => ovmf.number(RESET_BLOCK).ok_or_else(|| Unfit::new("firmware", "does not say where processors beyond the first start (no SEV-ES reset block)"))?,
    };
    for vcpu in 0..launch.vcpus {
        chain.content(PageKind::Vmsa, VMSA_ADDRESS, &processor(if vcpu == 0 { RESET_VECTOR } else { others }, launch));
    }
    Ok(chain.digest)
}

/// What the firmware's metadata asks for beside it, in its order.
fn sections(ovmf: &Ovmf<'_>, launch: &Launch<'_>, chain: &mut Chain) -> Result<(), Unfit> {
    let mut hashed = false;
    let mut last = Vec::new();
    for section in ovmf.sections(METADATA, b"ASEV", 12)? {
        let field = |at| u32_le(section, at).unwrap_or_default();
        let (address, size) = (u64::from(field(0)), field(4) as usize);
        if size > ovmf.bytes.len().max(16 << 20) || !size.is_multiple_of(PAGE) {
            return Err(Unfit::new("firmware", format!("a section of {size} octets")));
        }
        match (field(8), &launch.direct) {
            (1, _) if launch.hypervisor == Hypervisor::Gce => chain.pages(PageKind::Unmeasured, address, size),
            (1 | 4, _) | (0x10, None) => chain.pages(PageKind::Zero, address, size),
            (2, _) => chain.empty(PageKind::Secrets, address),
            // Amazon's hypervisor measures it behind all others.
            (3, _) if launch.hypervisor == Hypervisor::Ec2 => last.push(address),
            (3, _) => chain.empty(PageKind::Cpuid, address),
            (0x10, Some(direct)) => {
                let table = ovmf.number(HASHES_TABLE).filter(|table| *table != 0);
                let table = table.ok_or_else(|| Unfit::new("firmware", "does not say where it looks for the kernel's hash"))?;
                chain.content(PageKind::Normal, address, &hashes_page(direct, table as usize % PAGE)?);
                hashed = true;
            }
            (kind, _) => return Err(Unfit::new("firmware", format!("a section of unknown kind {kind:#x}"))),
        }
    }
    last.into_iter().for_each(|address| chain.empty(PageKind::Cpuid, address));
    if launch.direct.is_some() && !hashed {
        return Err(Unfit::new("firmware", "has no place for the kernel's hash: it would boot any kernel; use the image of the package AmdSev"));
    }
    Ok(())
}

/// The page with the digests of what is booted directly, at this offset.
fn hashes_page(direct: &Direct<'_>, offset: usize) -> Result<Vec<u8>, Unfit> {
    let entry = |name: &str, digest: [u8; 32]| [guid(name).as_slice(), &50_u16.to_le_bytes(), &digest].concat();
    let mut table = [guid("9438d606-4f22-4cc9-b479-a793d411fd21").as_slice(), &168_u16.to_le_bytes()].concat();
    table.extend(entry("97d02dd8-bd20-4c94-aa78-e7714d36ab2a", sha256(&[direct.cmdline.as_bytes(), &[0]])));
    table.extend(entry("44baf731-3a2f-4bd7-9af1-41e29169781d", sha256(&[direct.initrd])));
    table.extend(entry("4de79437-abd2-427f-b835-d5b172d2045b", sha256(&[direct.kernel])));
    let mut page = vec![0; PAGE];
    let place = page.get_mut(offset..offset + table.len()).ok_or_else(|| Unfit::new("firmware", "looks for the kernel's hash across two pages"))?;
    place.copy_from_slice(&table);
    Ok(page)
}

#[derive(Clone, Copy)]
enum PageKind {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Unmeasured = 4,
    Secrets = 5,
    Cpuid = 6,
}

struct Chain {
    digest: [u8; 48],
}

impl Chain {
    fn add(&mut self, kind: PageKind, address: u64, contents: &[u8; 48]) {
        let kind = kind as u8;
        let what = [&0x70_u16.to_le_bytes()[..], &[kind, 0, 0, 0, 0, 0], &address.to_le_bytes()].concat();
        self.digest = sha384(&[&self.digest, contents, &what]);
    }

    fn content(&mut self, kind: PageKind, address: u64, page: &[u8]) {
        self.add(kind, address, &sha384(&[page]));
    }

    fn empty(&mut self, kind: PageKind, address: u64) {
        self.add(kind, address, &[0; 48]);
    }

    fn pages(&mut self, kind: PageKind, address: u64, size: usize) {
        (0..size / PAGE).for_each(|at| self.empty(kind, address + (at * PAGE) as u64));
    }
}

/// The save area with which a processor starts at `address`.
fn processor(address: u32, launch: &Launch<'_>) -> Vec<u8> {
    let (cs, ss, tr, rdx, mxcsr, fcw) = match launch.hypervisor {
        Hypervisor::Ec2 => (if address == RESET_VECTOR { 0x9a } else { 0x9b }, 0x92, 0x83, 0x600, 0, 0),
        Hypervisor::Gce => (0x9b, 0x93, 0x8b, 0x600, 0, 0),
        Hypervisor::Qemu => (0x9b, 0x93, 0x8b, u64::from(launch.vcpu_signature), 0x1f80, 0x37f),
    };
    let pat = if launch.hypervisor == Hypervisor::Gce { 0x0007_0106 } else { 0x0007_0406_0007_0406 };
    let mut page = vec![0; PAGE];
    let mut put = |at: usize, octets: &[u8]| {
        if let Some(place) = page.get_mut(at..at + octets.len()) {
            place.copy_from_slice(octets);
        }
    };
    let segment = |selector: u16, attributes: u16, base: u32| {
        [&selector.to_le_bytes()[..], &attributes.to_le_bytes(), &0xffff_u32.to_le_bytes(), &u64::from(base).to_le_bytes()].concat()
    };
    // es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr
    let segments = [
        (0, 0x93, 0),
        (0xf000, cs, address & 0xffff_0000),
        (0, ss, 0),
        (0, 0x93, 0),
        (0, 0x93, 0),
        (0, 0x93, 0),
        (0, 0, 0),
        (0, 0x82, 0),
        (0, 0, 0),
        (0, tr, 0),
    ];
    for (at, (selector, attributes, base)) in segments.into_iter().enumerate() {
        put(at * 16, &segment(selector, attributes, base));
    }
    for (at, value) in [
        (0x0d0, 0x1000),                      // efer: SVME
        (0x148, 0x40),                        // cr4: MCE
        (0x158, 0x10),                        // cr0: ET
        (0x160, 0x400),                       // dr7
        (0x168, 0xffff_0ff0),                 // dr6
        (0x170, 2),                           // rflags
        (0x178, u64::from(address & 0xffff)), // rip
        (0x268, pat),                         // g_pat
        (0x310, rdx),                         // rdx
        (0x3b0, launch.features),             // sev_features
        (0x3e8, 1),                           // xcr0
    ] {
        put(at, &value.to_le_bytes());
    }
    put(0x408, &u32::to_le_bytes(mxcsr));
    put(0x410, &u16::to_le_bytes(fcw));
    page
}
