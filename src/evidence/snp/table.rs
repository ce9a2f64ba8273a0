//! The certificate table that a host hands to its guest with an extended report.
//!
//! Source: "SEV-ES Guest-Hypervisor Communication Block Standardization" (GHCB), table "Certificate Table": entries of
//! a GUID, an offset and a length, ended by zeros, then the certificates. The host wrote every octet: what is read here
//! stays inside the blob, and is a hint, never an authority.

use std::borrow::Cow;

use crate::refusal::{Denied, Finding, Reason};

/// A table with its certificates is not read beyond this many octets; a host's is 16 KiB at most (SEV_FW_BLOB_MAX_SIZE).
pub const MAX_TABLE: usize = 64 * 1024;

/// More entries than this are not read; the GHCB document names five kinds.
pub const MAX_ENTRIES: usize = 32;

const ENTRY_SIZE: usize = 24;

/// What an entry holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The root's certificate.
    Ark,
    /// The certificate of the intermediate: ASK, or ASVK beside a VLEK.
    Ask,
    /// The revocation list.
    Crl,
    /// Google's launch endorsement: not a certificate.
    Launch,
    /// Something else.
    Other,
    /// The VCEK's certificate.
    Vcek,
    /// The VLEK's certificate.
    Vlek,
}

/// One entry: its kind and the octets it points at, DER or PEM as the host has them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry<'a> {
    /// What it holds.
    pub kind: Kind,
    /// The octets.
    pub bytes: &'a [u8],
}

/// Reads a table. No octets, and nothing but zeros, are a table without entries: the host has no certificates.
///
/// # Errors
/// `evidence_size` for a longer one than [`MAX_TABLE`], `evidence_malformed` for more than [`MAX_ENTRIES`], no end, or
/// an entry that points into the table or outside the blob.
pub fn parse(blob: &[u8]) -> Result<Vec<Entry<'_>>, Denied> {
    if blob.len() > MAX_TABLE {
        return Finding::new(Reason::EvidenceSize, "auxblob", format!("at most {MAX_TABLE} octets"), blob.len().to_string()).refuse();
    }
    if blob.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for raw in blob.chunks_exact(ENTRY_SIZE).take(MAX_ENTRIES.saturating_add(1)) {
        let Some((guid, offset, length)) = split(raw) else { break };
        if guid == [0; 16] {
            // The table, its end included, must lie before everything that it points at.
            let table_end = found.len().saturating_add(1).saturating_mul(ENTRY_SIZE);
            return found.into_iter().map(|(guid, offset, length)| entry(blob, table_end, guid, offset, length)).collect();
        }
        if found.len() >= MAX_ENTRIES {
            return malformed(format!("at most {MAX_ENTRIES} entries"), "more");
        }
        found.push((guid, offset, length));
    }
    malformed("an entry of zeros at the table's end", "none")
}

fn split(raw: &[u8]) -> Option<([u8; 16], u32, u32)> {
    let (guid, rest) = raw.split_first_chunk()?;
    let (offset, rest) = rest.split_first_chunk()?;
    Some((*guid, u32::from_le_bytes(*offset), u32::from_le_bytes(*rest.first_chunk()?)))
}

fn entry(blob: &[u8], table_end: usize, guid: [u8; 16], offset: u32, length: u32) -> Result<Entry<'_>, Denied> {
    let begin = usize::try_from(offset).ok().filter(|begin| *begin >= table_end);
    let range = begin.and_then(|begin| Some(begin..begin.checked_add(usize::try_from(length).ok()?)?));
    match range.and_then(|range| blob.get(range)) {
        Some(bytes) => Ok(Entry { kind: kind(guid), bytes }),
        None => malformed(format!("octets between {table_end} and {}", blob.len()), format!("offset {offset}, length {length}")),
    }
}

/// Hosts write GUIDs in the order in which their text is read; the other order that GUIDs are written in is taken too.
fn kind(guid: [u8; 16]) -> Kind {
    let [a, b, c, d, e, f, g, h, rest @ ..] = guid;
    let [i, j, k, l, m, n, o, p] = rest;
    let turned = [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p];
    let named = |number: u128| guid == number.to_be_bytes() || turned == number.to_be_bytes();
    let kinds = [
        (0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae, Kind::Ark),
        (0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782, Kind::Ask),
        (0x92f8_1bc3_5811_4d3d_97ff_d19f_88dc_67ea, Kind::Crl),
        (0x63da_758d_e664_4564_adc5_f4b9_3be8_accd, Kind::Vcek),
        (0x9f41_16cd_c503_4f5a_8f6f_fb68_882f_4ce2, Kind::Launch),
        (0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1, Kind::Vlek),
    ];
    kinds.into_iter().find(|(number, _)| named(*number)).map_or(Kind::Other, |(_, kind)| kind)
}

fn malformed<T>(expected: impl Into<Cow<'static, str>>, found: impl Into<Cow<'static, str>>) -> Result<T, Denied> {
    Finding::new(Reason::EvidenceMalformed, "auxblob", expected.into(), found.into()).refuse()
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VCEK: [u8; 16] = [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];

    fn raw(guid: [u8; 16], offset: u32, length: u32) -> Vec<u8> {
        [guid.as_slice(), &offset.to_le_bytes(), &length.to_le_bytes()].concat()
    }

    fn refused(blob: &[u8]) -> Option<Reason> {
        parse(blob).err().map(|denied| denied.reason())
    }

    #[test]
    fn entries_are_what_they_point_at() {
        let turned = [0x79, 0xb3, 0xb7, 0x4a, 0xac, 0xbb, 0xe4, 0x4f, 0xa0, 0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7, 0x82];
        let blob = [raw(VCEK, 96, 2), raw(turned, 98, 1), raw([1; 16], 96, 0), raw([0; 16], 0, 0), b"abc".to_vec()].concat();
        let expected = [(Kind::Vcek, b"ab".as_slice()), (Kind::Ask, b"c"), (Kind::Other, b"")];
        assert_eq!(parse(&blob).unwrap(), expected.map(|(kind, bytes)| Entry { kind, bytes }));
    }

    #[test]
    fn no_certificates_are_no_entries() {
        assert!(parse(&[]).unwrap().is_empty());
        assert!(parse(&[0; 4096]).unwrap().is_empty());
    }

    #[test]
    fn hostile_tables_are_refused() {
        let end = raw([0; 16], 0, 0);
        let table = |entry: Vec<u8>| [entry, end.clone(), vec![7; 8]].concat();
        for (name, blob) in [
            ("into the table", table(raw(VCEK, 0, 8))),
            ("into the end of the table", table(raw(VCEK, 47, 1))),
            ("beyond the blob", table(raw(VCEK, 48, 9))),
            ("far beyond the blob", table(raw(VCEK, u32::MAX, u32::MAX))),
            ("length that wraps", table(raw(VCEK, 48, u32::MAX))),
            ("no end", raw(VCEK, 24, 0)),
            ("half an entry", vec![1; 23]),
            ("too many entries", [raw(VCEK, 2000, 0).repeat(33), end.clone(), vec![0; 2000]].concat()),
        ] {
            assert_eq!(refused(&blob), Some(Reason::EvidenceMalformed), "{name}");
        }
        assert_eq!(refused(&vec![0; MAX_TABLE + 1]), Some(Reason::EvidenceSize));
        assert!(parse(&[raw(VCEK, 800, 0).repeat(32), end, vec![0; 800]].concat()).is_ok());
    }

    proptest! {
        #[test]
        fn no_blob_panics_or_gives_octets_outside(blob in proptest::collection::vec(any::<u8>(), 0..300), offset in any::<u32>(), length in 0_u32..64) {
            let _ = parse(&blob);
            let blob = [raw(VCEK, offset, length), raw([0; 16], 0, 0), blob].concat();
            for entry in parse(&blob).unwrap_or_default() {
                prop_assert!(entry.bytes.len() <= blob.len() - 48);
            }
        }
    }
}
