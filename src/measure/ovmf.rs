//! The tables at the end of an OVMF image, by which it says where it wants to be loaded and what is to be measured.
//!
//! A table of entries is read backwards from 32 octets before the end; each entry is data, its length with the header
//! (two octets) and a GUID. Source: `OvmfPkg/ResetVector` of EDK II.

use super::Unfit;

/// No image is larger than what is below 4 GiB and above the memory of the smallest guest.
const MAX_IMAGE: usize = 64 << 20;

/// Sections beyond this many are not read; images have about a dozen.
const MAX_SECTIONS: usize = 64;

const FOOTER: &str = "96b582de-1fb2-45f7-baea-a366c55a082d";
const HEADER: usize = 18;
const BEHIND_FOOTER: usize = 32;

/// An image with its table.
#[derive(Debug)]
pub struct Ovmf<'a> {
    /// The image.
    pub bytes: &'a [u8],
    entries: Vec<([u8; 16], &'a [u8])>,
}

impl<'a> Ovmf<'a> {
    /// Reads the table.
    ///
    /// # Errors
    /// [`Unfit`] for an image without one, or one whose lengths do not hold together.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Unfit> {
        let unfit = |why: &str| Unfit::new("firmware", why);
        if bytes.is_empty() || bytes.len() > MAX_IMAGE || !bytes.len().is_multiple_of(4096) {
            return Err(unfit("not whole pages of at most 64 MiB: an OVMF image for a confidential guest is wanted (one file with code and variables)"));
        }
        let footer = bytes.len().checked_sub(BEHIND_FOOTER + HEADER).ok_or_else(|| unfit("too short"))?;
        let (length, name) = header(bytes, footer).ok_or_else(|| unfit("too short"))?;
        if name != guid(FOOTER) {
            return Err(unfit("no table of GUIDs at its end: not an OVMF image for a confidential guest"));
        }
        let table = length.checked_sub(HEADER).and_then(|length| footer.checked_sub(length)).and_then(|start| bytes.get(start..footer));
        let mut table = table.ok_or_else(|| unfit("its table reaches beyond its start"))?;
        let mut entries = Vec::new();
        while table.len() >= HEADER {
            let (length, name) = header(table, table.len() - HEADER).ok_or_else(|| unfit("an entry of its table is cut off"))?;
            let start = table.len().checked_sub(length).filter(|_| length >= HEADER).ok_or_else(|| unfit("an entry of its table has an impossible length"))?;
            let (rest, entry) = table.split_at(start);
            entries.push((name, entry.get(..length - HEADER).unwrap_or_default()));
            table = rest;
        }
        Ok(Self { bytes, entries })
    }

    /// The data of the entry with this GUID.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&'a [u8]> {
        let name = guid(name);
        self.entries.iter().find(|(known, _)| *known == name).map(|(_, data)| *data)
    }

    /// The first number of that entry.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u32> {
        u32_le(self.entry(name)?, 0)
    }

    /// The sections of the metadata that an entry points to by its distance from the end: `count` is where their number
    /// is, `first` where they begin, each of `size` octets.
    ///
    /// # Errors
    /// [`Unfit`] for metadata that is not there.
    pub fn sections(&self, entry: &str, magic: &[u8; 4], size: usize) -> Result<Vec<&'a [u8]>, Unfit> {
        let unfit = |why: String| Unfit::new("firmware", why);
        let shown = String::from_utf8_lossy(magic).into_owned();
        let distance = self.number(entry).ok_or_else(|| unfit(format!("no {shown} metadata: it was not built for this kind of guest")))?;
        let metadata = usize::try_from(distance).ok().and_then(|distance| self.bytes.get(self.bytes.len().checked_sub(distance)?..));
        let metadata = metadata.filter(|metadata| metadata.starts_with(magic)).ok_or_else(|| unfit(format!("its {shown} metadata is not where it says")))?;
        let (version, count) = (u32_le(metadata, 8), u32_le(metadata, 12).and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX));
        if version != Some(1) || count > MAX_SECTIONS {
            return Err(unfit(format!("its {shown} metadata has version {version:?} and {count} sections; version 1 with at most {MAX_SECTIONS} is read")));
        }
        let sections = metadata.get(16..16 + count * size).ok_or_else(|| unfit(format!("its {shown} metadata is cut off")))?;
        Ok(sections.chunks_exact(size).collect())
    }
}

fn header(bytes: &[u8], at: usize) -> Option<(usize, [u8; 16])> {
    let header = bytes.get(at..at.checked_add(HEADER)?)?;
    let (length, name) = header.split_first_chunk::<2>()?;
    Some((usize::from(u16::from_le_bytes(*length)), name.try_into().ok()?))
}

/// The little-endian number of four octets at `at`.
pub(super) fn u32_le(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

/// The little-endian number of eight octets at `at`.
pub(super) fn u64_le(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

/// A GUID as firmware writes it: the first three groups little-endian.
pub(super) fn guid(text: &str) -> [u8; 16] {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let octets = data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap_or_default();
    let mut guid = [0; 16];
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    for (place, from) in guid.iter_mut().zip(order) {
        *place = octets.get(from).copied().unwrap_or_default();
    }
    guid
}
