//! The firmware's event log in the TCG's crypto-agile form ("PC Client Platform Firmware Profile", TCG_PCR_EVENT2), for
//! the registers of a TPM and for the runtime registers of a TD (CCEL).
//!
//! A log proves nothing by itself. Replayed, it must come to values that something signed; see [`Log::replay`].

use std::collections::BTreeMap;

use super::cursor::Cursor;
use super::tpm::Hash;
use crate::refusal::{Denied, Finding, Reason};

/// The longest log that is read: ACPI areas for it are 64 to 256 KiB.
pub const MAX_LOG: usize = 256 * 1024;

/// The most events: ordinary boots log some hundreds.
const MAX_EVENTS: usize = 4096;
/// The most algorithms that a log may carry digests of.
const MAX_ALGORITHMS: u32 = 8;

/// EV_NO_ACTION: about the log itself, extends nothing.
pub const NO_ACTION: u32 = 3;

/// One event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// pcrIndex: the register it extends. In a TD's log 1 to 4 are RTMR0 to RTMR3.
    pub register: u32,
    /// eventType. The digest does not cover it.
    pub kind: u32,
    /// The digests by algorithm, as logged.
    pub digests: Vec<(u16, Vec<u8>)>,
    /// The event's data. Whether the digest covers it depends on the type.
    pub data: Vec<u8>,
}

impl Event {
    /// Its digest by `hash`.
    #[must_use]
    pub fn digest(&self, hash: Hash) -> Option<&[u8]> {
        self.digests.iter().find(|(id, _)| *id == hash.id()).map(|(_, digest)| digest.as_slice())
    }
}

/// An event log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Log {
    /// The algorithms that every event has a digest of: identifier and length.
    pub algorithms: Vec<(u16, u16)>,
    /// The first event's data: TCG_EfiSpecIDEvent.
    pub header: Vec<u8>,
    /// The events behind it.
    pub events: Vec<Event>,
}

const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

impl Log {
    /// Reads a log of at most [`MAX_LOG`] octets. What follows the last event may only be fill: zeros or ones.
    ///
    /// # Errors
    /// `evidence_size` for a longer log or one of too many events, `evidence_malformed`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Denied> {
        if bytes.len() > MAX_LOG {
            return Finding::new(Reason::EvidenceSize, "log", format!("at most {MAX_LOG} octets"), bytes.len().to_string()).refuse();
        }
        let mut cursor = Cursor::new(bytes);
        let (algorithms, header) = head(&mut cursor).ok_or_else(|| malformed("no TCG_EfiSpecIDEvent in front".to_owned()))?;
        let mut events = Vec::new();
        while !fill(cursor.rest()) {
            if events.len() >= MAX_EVENTS {
                return Finding::new(Reason::EvidenceSize, "log", format!("at most {MAX_EVENTS} events"), "more").refuse();
            }
            let event = event(&mut cursor, &algorithms).ok_or_else(|| malformed(format!("event {} is cut off or of another form", events.len())))?;
            events.push(event);
        }
        Ok(Self { algorithms, header, events })
    }

    /// Its octets without fill: the inverse of [`Log::parse`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = |octets: &[u8]| u32::try_from(octets.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut out = Vec::new();
        out.extend(0_u32.to_le_bytes());
        out.extend(NO_ACTION.to_le_bytes());
        out.extend([0; 20]);
        out.extend(length(&self.header));
        out.extend(&self.header);
        for event in &self.events {
            out.extend(event.register.to_le_bytes());
            out.extend(event.kind.to_le_bytes());
            out.extend(u32::try_from(event.digests.len()).unwrap_or(u32::MAX).to_le_bytes());
            for (id, digest) in &event.digests {
                out.extend(id.to_le_bytes());
                out.extend(digest);
            }
            out.extend(length(&event.data));
            out.extend(&event.data);
        }
        out
    }

    /// The values that the registers of a bank have after these events, for every register that one of them extends.
    /// Registers begin as zeros; PCR 0 of a TPM ends in the locality that started it, where the log says so.
    ///
    /// # Errors
    /// `event_log_mismatch` when an event has no digest of the bank, or the bank's algorithm may not be relied on.
    pub fn replay(&self, bank: Hash) -> Result<BTreeMap<u32, Vec<u8>>, Denied> {
        let mut registers: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let locality = self.startup_locality();
        for event in self.events.iter().filter(|event| event.kind != NO_ACTION) {
            let Some(digest) = event.digest(bank) else {
                return Finding::new(Reason::EventLogMismatch, "log", format!("a {} digest in every event", bank.name()), "none in one").refuse();
            };
            let value = registers.entry(event.register).or_insert_with(|| begin(bank, event.register, locality));
            let Some(next) = bank.digest(&[value, digest]) else {
                return Finding::new(Reason::EventLogMismatch, "log", "a bank of SHA-256 or longer", bank.name()).refuse();
            };
            *value = next;
        }
        Ok(registers)
    }

    fn startup_locality(&self) -> u8 {
        let said = self.events.iter().filter(|event| event.kind == NO_ACTION && event.register == 0);
        said.filter_map(|event| event.data.strip_prefix(STARTUP_LOCALITY))
            .find_map(|rest| match rest {
                [locality] => Some(*locality),
                _ => None,
            })
            .unwrap_or(0)
    }

    /// A log of no events with digests of these algorithms.
    #[must_use]
    pub fn empty(algorithms: &[Hash]) -> Self {
        let sizes = |hash: &Hash| (hash.id(), u16::try_from(hash.size()).unwrap_or(u16::MAX));
        let algorithms: Vec<_> = algorithms.iter().map(sizes).collect();
        let mut header = SIGNATURE.to_vec();
        header.extend([0, 0, 0, 0, 0, 2, 0, 2]); // platform class, version 2.0, errata, width of UINTN
        header.extend(u32::try_from(algorithms.len()).unwrap_or(u32::MAX).to_le_bytes());
        for (id, size) in &algorithms {
            header.extend(id.to_le_bytes());
            header.extend(size.to_le_bytes());
        }
        header.push(0);
        Self { algorithms, header, events: Vec::new() }
    }
}

fn begin(bank: Hash, register: u32, locality: u8) -> Vec<u8> {
    let mut value = vec![0; bank.size()];
    if let (0, Some(last)) = (register, value.last_mut()) {
        *last = locality;
    }
    value
}

type Head = (Vec<(u16, u16)>, Vec<u8>);

/// The first event: TCG_PCR_EVENT of the old form, with the list of algorithms.
fn head(cursor: &mut Cursor<'_>) -> Option<Head> {
    let (_register, kind) = (cursor.u32_le()?, cursor.u32_le()?);
    let _digest: [u8; 20] = cursor.take()?;
    let length = usize::try_from(cursor.u32_le()?).ok()?;
    let header = cursor.bytes(length)?;
    let mut inner = Cursor::new(header);
    if kind != NO_ACTION || inner.take::<16>()? != *SIGNATURE {
        return None;
    }
    let _class_and_version: [u8; 8] = inner.take()?;
    let count = inner.u32_le().filter(|count| (1..=MAX_ALGORITHMS).contains(count))?;
    let algorithms: Vec<_> = (0..count).map(|_| inner.u16_le().zip(inner.u16_le())).collect::<Option<_>>()?;
    let lengths_agree = |(id, size): &(u16, u16)| Hash::of_id(*id).is_none_or(|hash| hash.size() == usize::from(*size)) && *size <= 64;
    let vendor = usize::from(inner.u8()?);
    inner.bytes(vendor)?;
    inner.end()?;
    algorithms.iter().all(lengths_agree).then(|| (algorithms, header.to_vec()))
}

fn event(cursor: &mut Cursor<'_>, algorithms: &[(u16, u16)]) -> Option<Event> {
    let (register, kind, count) = (cursor.u32_le()?, cursor.u32_le()?, cursor.u32_le()?);
    if usize::try_from(count).ok()? != algorithms.len() {
        return None;
    }
    let mut digests: Vec<(u16, Vec<u8>)> = Vec::new();
    for _ in algorithms {
        let id = cursor.u16_le()?;
        let (_, size) = algorithms.iter().find(|(known, _)| *known == id)?;
        if digests.iter().any(|(known, _)| *known == id) {
            return None;
        }
        digests.push((id, cursor.bytes(usize::from(*size))?.to_vec()));
    }
    let length = usize::try_from(cursor.u32_le()?).ok()?;
    let data = cursor.bytes(length)?.to_vec();
    Some(Event { register, kind, digests, data })
}

/// Whether nothing but the fill of the area is left.
fn fill(rest: &[u8]) -> bool {
    rest.iter().all(|octet| *octet == 0) || rest.iter().all(|octet| *octet == 0xff)
}

fn malformed(found: String) -> Denied {
    Finding::new(Reason::EvidenceMalformed, "log", "a crypto-agile event log", found).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Log {
        let mut log = Log::empty(&[Hash::Sha1, Hash::Sha256]);
        for (register, kind, data) in [(0, NO_ACTION, &b"StartupLocality\0\x03"[..]), (0, 8, b"version"), (7, 4, b"\0\0\0\0"), (0, 4, b"\0\0\0\0")] {
            let digests = vec![(Hash::Sha1.id(), vec![0; 20]), (Hash::Sha256.id(), crate::crypto::sha256(&[data]).to_vec())];
            log.events.push(Event { register, kind, digests, data: data.to_vec() });
        }
        log
    }

    #[test]
    fn what_is_written_is_read_and_fill_behind_it_is_not() {
        let bytes = sample().encode();
        assert_eq!(Log::parse(&bytes), Ok(sample()));
        for fill in [0, 0xff] {
            assert_eq!(Log::parse(&[bytes.as_slice(), &[fill; 99]].concat()), Ok(sample()));
        }
        assert!(Log::parse(&[bytes.as_slice(), &[0, 0xff]].concat()).is_err());
    }

    #[test]
    fn a_cut_log_is_refused_or_lacks_whole_events() {
        let (bytes, whole) = (sample().encode(), sample());
        for cut in (0..bytes.len()).filter_map(|end| Log::parse(bytes.get(..end)?).ok()) {
            assert!(cut.events.len() < whole.events.len() && whole.events.starts_with(&cut.events));
        }
    }

    #[test]
    fn a_replay_extends_in_order_from_the_startup_locality() {
        let extend = |value: &[u8], data: &[u8]| crate::crypto::sha256(&[value, &crate::crypto::sha256(&[data])]);
        let mut first = [0; 32];
        first[31] = 3;
        let replayed = sample().replay(Hash::Sha256);
        let expected = [(0, extend(&extend(&first, b"version"), b"\0\0\0\0").to_vec()), (7, extend(&[0; 32], b"\0\0\0\0").to_vec())];
        assert_eq!(replayed, Ok(BTreeMap::from(expected)));
        assert_eq!(sample().replay(Hash::Sha384).map_err(|denied| denied.reason()), Err(Reason::EventLogMismatch));
        assert_eq!(sample().replay(Hash::Sha1).map_err(|denied| denied.reason()), Err(Reason::EventLogMismatch));
    }
}
