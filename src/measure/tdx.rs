//! The registers of a TDX guest: MRTD from the firmware, RTMR1 and RTMR2 of a kernel that the firmware boots directly.
//!
//! MRTD is a SHA-384 over what the host tells the TDX module while it builds the guest: for each page `MEM.PAGE.ADD` with
//! its address, for each 256 octets of a measured page `MR.EXTEND` with their address and content (TDX module ABI,
//! `TDH.MEM.PAGE.ADD`, `TDH.MR.EXTEND`). The firmware's own metadata says what these pages are.
//!
//! RTMR0 is not computed: it covers the machine that the host describes (memory map, ACPI tables), which no artefact holds.

use super::ovmf::{Ovmf, u32_le, u64_le};
use super::snp::Direct;
use super::{Input, Measured, Unfit, Value};
use crate::crypto::sha384;

/// The order in which a host adds and measures pages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Each page is measured when it is added: Linux 6.16 and later.
    PageByPage,
    /// All pages of a section are added, then measured: hosts with the patches from before.
    SectionBySection,
}

impl Order {
    /// All of them, by their names.
    pub const ALL: [(&'static str, Self); 2] = [("page", Self::PageByPage), ("section", Self::SectionBySection)];
}

/// The registers.
///
/// # Errors
/// [`Unfit`] for firmware without TDX metadata, or a kernel that is no EFI program.
pub fn measure(firmware: &[u8], order: Order, direct: Option<&Direct<'_>>) -> Result<Measured, Unfit> {
    let name = Order::ALL.iter().find(|(_, known)| *known == order).map_or("", |(name, _)| name);
    let mut inputs = vec![Input::file("firmware", firmware), Input::setting("order", name)];
    let mut values = vec![Value::new("mr_td", &mr_td(firmware, order)?, &["firmware", "order"])];
    if let Some(direct) = direct {
        inputs.push(Input::file("kernel", direct.kernel));
        inputs.push(Input::file("initrd", direct.initrd));
        inputs.push(Input::setting("cmdline", direct.cmdline));
        values.push(Value::new("rtmr_1", &replayed(&booted(direct.kernel)?), &["kernel"]));
        values.push(Value::new("rtmr_2", &replayed(&started(direct)), &["initrd", "cmdline"]));
    }
    Ok(Measured { tee: "intel-tdx".to_owned(), inputs, values })
}

const METADATA: &str = "e47a6535-984a-4798-865e-4685a7bf8ec2";
const PAGE: usize = 4096;
const CHUNK: usize = 256;
/// No section of a genuine image, which has some MiB, is larger.
const MAX_SECTION: u64 = 64 << 20;

fn mr_td(firmware: &[u8], order: Order) -> Result<[u8; 48], Unfit> {
    let unfit = |why: &str| Unfit::new("firmware", why);
    let ovmf = Ovmf::read(firmware)?;
    let mut told = Vec::new();
    for section in ovmf.sections(METADATA, b"TDVF", 32)? {
        let (offset, raw) = (u32_le(section, 0).unwrap_or_default() as usize, u32_le(section, 4).unwrap_or_default() as usize);
        let (address, size) = (u64_le(section, 8).unwrap_or_default(), u64_le(section, 16).unwrap_or_default());
        let attributes = u32_le(section, 28).unwrap_or_default();
        if attributes & AUGMENTED != 0 {
            continue;
        }
        if size > MAX_SECTION || !size.is_multiple_of(PAGE as u64) || !address.is_multiple_of(PAGE as u64) || address.checked_add(size).is_none() {
            return Err(unfit("a TDX section that is not whole pages of at most 64 MiB"));
        }
        let data = offset.checked_add(raw).and_then(|end| firmware.get(offset..end)).filter(|data| data.len() as u64 <= size);
        let data = data.ok_or_else(|| unfit("a TDX section that reaches beyond the image"))?;
        let measured = attributes & EXTENDED != 0;
        match order {
            Order::PageByPage => (0..size / PAGE as u64).for_each(|page| {
                add(&mut told, address, page);
                if measured {
                    extend(&mut told, address, page, data);
                }
            }),
            Order::SectionBySection => {
                (0..size / PAGE as u64).for_each(|page| add(&mut told, address, page));
                if measured {
                    (0..size / PAGE as u64).for_each(|page| extend(&mut told, address, page, data));
                }
            }
        }
    }
    Ok(sha384(&[&told]))
}

const EXTENDED: u32 = 1;
const AUGMENTED: u32 = 2;

fn add(told: &mut Vec<u8>, address: u64, page: u64) {
    let mut block = [0; 128];
    block[..12].copy_from_slice(b"MEM.PAGE.ADD");
    block[16..24].copy_from_slice(&(address + page * PAGE as u64).to_le_bytes());
    told.extend(block);
}

fn extend(told: &mut Vec<u8>, address: u64, page: u64, data: &[u8]) {
    for chunk in 0..PAGE / CHUNK {
        let at = page as usize * PAGE + chunk * CHUNK;
        let mut block = [0; 128];
        block[..9].copy_from_slice(b"MR.EXTEND");
        block[16..24].copy_from_slice(&(address + at as u64).to_le_bytes());
        told.extend(block);
        let mut content = [0; CHUNK];
        for (place, octet) in content.iter_mut().zip(data.get(at..).unwrap_or_default()) {
            *place = *octet;
        }
        told.extend(content);
    }
}

/// What OVMF extends RTMR1 with when it starts a kernel: the program, that it is started, a separator, and the end of the
/// boot services.
fn booted(kernel: &[u8]) -> Result<Vec<[u8; 48]>, Unfit> {
    Ok(vec![
        authenticode(kernel)?,
        sha384(&[b"Calling EFI Application from Boot Option"]),
        sha384(&[&[0; 4]]),
        sha384(&[b"Exit Boot Services Invocation"]),
        sha384(&[b"Exit Boot Services Returned with Success"]),
    ])
}

/// What Linux's EFI stub extends RTMR2 with: the command line as it was handed over (OVMF names the RAM disk behind it),
/// in UTF-16 with its end, and the RAM disk.
fn started(direct: &Direct<'_>) -> Vec<[u8; 48]> {
    let disk = if direct.initrd.is_empty() { "" } else { " initrd=initrd" };
    let cmdline: Vec<u8> = format!("{}{disk}\0", direct.cmdline).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut events = vec![sha384(&[&cmdline])];
    if !direct.initrd.is_empty() {
        events.push(sha384(&[direct.initrd]));
    }
    events
}

fn replayed(events: &[[u8; 48]]) -> [u8; 48] {
    events.iter().fold([0; 48], |register, event| sha384(&[&register, event]))
}

/// The Authenticode digest of an EFI program: all of it but its checksum, the place of its signatures and these.
fn authenticode(program: &[u8]) -> Result<[u8; 48], Unfit> {
    let parts = || -> Option<[&[u8]; 3]> {
        if !program.starts_with(b"MZ") {
            return None;
        }
        let header = u32_le(program, 0x3c)? as usize;
        if program.get(header..header.checked_add(4)?)? != b"PE\0\0" {
            return None;
        }
        let optional = header.checked_add(24)?;
        let magic = u16::from_le_bytes(*program.get(optional..)?.first_chunk()?);
        // The directory of signatures is the fifth; the directories begin behind fields of 32 or of 64 bits.
        let directory = optional.checked_add(match magic {
            0x10b => 96 + 4 * 8,
            0x20b => 112 + 4 * 8,
            _ => return None,
        })?;
        let checksum = optional.checked_add(64)?;
        let (signatures, length) = (u32_le(program, directory)? as usize, u32_le(program, directory.checked_add(4)?)? as usize);
        let end = if length == 0 { program.len() } else { signatures };
        if length != 0 && signatures.checked_add(length)? != program.len() {
            return None;
        }
        Some([program.get(..checksum)?, program.get(checksum.checked_add(4)?..directory)?, program.get(directory.checked_add(8)?..end)?])
    };
    parts().map(|parts| sha384(&parts)).ok_or_else(|| Unfit::new("kernel", "not an EFI program (PE): a kernel with CONFIG_EFI_STUB is wanted"))
}
