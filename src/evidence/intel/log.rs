//! The event log beside a trust domain's quote, as deterministic CBOR `{1: log bstr, ? 2: [[kind uint, name tstr, payload
//! bstr], …]}`: the firmware's log from the CCEL area, and what the guest itself measured into RTMR3 afterwards. It is
//! never compressed: its length is what is read.
//!
//! The digest of an event of the firmware does not cover its type, and its data only by convention: those events are
//! counted and not told. The digest of an event of the guest is SHA-384 of kind (little-endian), name and payload with
//! colons between them, so that it tells all three, as long as no name has a colon.

use crate::crypto::sha384;
use crate::evidence::cbor::{NotCanonical, Reader, Writer};
use crate::evidence::eventlog::{Log, MAX_LOG};
use crate::evidence::{ClaimValue, Claims};
use crate::refusal::{Denied, Finding, Reason};

/// The label of the member.
pub const LABEL: &str = "log";

/// Its media type.
pub const MEDIA_TYPE: &str = "application/vnd.portcullis.eventlog+cbor";

const FIRMWARE: u64 = 1;
const GUEST: u64 = 2;

/// The room that the CBOR around the firmware's log, and the guest's events, may take.
const ROOM: usize = 64 * 1024;

/// The most events of a guest.
const MAX_EVENTS: usize = 1024;

/// The longest name of an event.
const MAX_NAME: usize = 128;

/// What a log tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Events {
    /// The firmware's log.
    pub firmware: Log,
    /// The guest's events, in their order.
    pub guest: Vec<GuestEvent>,
}

/// An event that the guest measured into RTMR3.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuestEvent {
    /// Its type.
    pub kind: u32,
    /// Its name.
    pub name: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl GuestEvent {
    /// What RTMR3 was extended with.
    #[must_use]
    pub fn digest(&self) -> [u8; 48] {
        sha384(&[&self.kind.to_le_bytes(), b":", self.name.as_bytes(), b":", &self.payload])
    }
}

impl Events {
    /// The events of firmware's log alone, whose fill is left out.
    ///
    /// # Errors
    /// As [`Log::parse`].
    pub fn of_firmware(log: &[u8]) -> Result<Self, Denied> {
        Log::parse(log).map(|firmware| Self { firmware, guest: Vec::new() })
    }

    /// The one encoding of the member.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.map(if self.guest.is_empty() { 1 } else { 2 }).uint(FIRMWARE).bytes(&self.firmware.encode());
        if !self.guest.is_empty() {
            writer.uint(GUEST).array(self.guest.len());
            for event in &self.guest {
                writer.array(3).uint(event.kind.into()).text(&event.name).bytes(&event.payload);
            }
        }
        writer.finish()
    }

    /// Reads the member.
    ///
    /// # Errors
    /// `evidence_size` for one that is too long or compressed, `event_log_mismatch` for a name that could be told in two
    /// ways, else `evidence_malformed`.
    pub fn parse(member: &[u8]) -> Result<Self, Denied> {
        let most = MAX_LOG.saturating_add(ROOM);
        if member.len() > most {
            return Finding::new(Reason::EvidenceSize, "log", format!("at most {most} octets"), member.len().to_string()).refuse();
        }
        // Whoever compressed it would have it inflated here: there is no such form.
        if member.starts_with(&[0x1f, 0x8b]) {
            return Finding::new(Reason::EvidenceSize, "log", "an event log as it is", "a compressed one, of a length that nobody knows").refuse();
        }
        let (firmware, guest) =
            parts(member).map_err(|error| Finding::new(Reason::EvidenceMalformed, "log", "deterministic CBOR of a log", error.to_string()))?;
        if let Some(event) = guest.iter().find(|event| event.name.is_empty() || event.name.contains(':')) {
            return Finding::new(Reason::EventLogMismatch, "log", "names of events without a colon", event.name.clone()).refuse();
        }
        Ok(Self { firmware: Log::parse(firmware)?, guest })
    }

    /// What is told of a log that was replayed.
    pub fn claims(&self, claims: &mut Claims) {
        claims.push("log_events", ClaimValue::Integer(u64::try_from(self.firmware.events.len()).unwrap_or(u64::MAX)));
        if !self.guest.is_empty() {
            let told = |event: &GuestEvent| format!("{}={}", event.name, data_encoding::HEXLOWER.encode(&event.payload));
            claims.push("rtmr3_events", ClaimValue::Texts(self.guest.iter().map(told).collect()));
        }
    }
}

fn parts(member: &[u8]) -> Result<(&[u8], Vec<GuestEvent>), NotCanonical> {
    let mut reader = Reader::new(member);
    let (mut firmware, mut guest) = (None, Vec::new());
    reader.each_pair(Reader::uint, |key, offset, reader| match key {
        FIRMWARE => {
            firmware = Some(reader.bytes()?);
            Ok(())
        }
        GUEST => {
            let count = reader.array()?;
            if count == 0 || count > MAX_EVENTS {
                return Err(NotCanonical { offset, expected: "array of 1 to 1024 events" });
            }
            for _ in 0..count {
                guest.push(event(reader)?);
            }
            Ok(())
        }
        _ => Err(NotCanonical { offset, expected: "key 1 or 2" }),
    })?;
    reader.end()?;
    firmware.map(|firmware| (firmware, guest)).ok_or(NotCanonical { offset: 0, expected: "log under key 1" })
}

fn event(reader: &mut Reader<'_>) -> Result<GuestEvent, NotCanonical> {
    let offset = reader.offset();
    if reader.array()? != 3 {
        return Err(NotCanonical { offset, expected: "array of kind, name and payload" });
    }
    let kind = u32::try_from(reader.uint()?).map_err(|_| NotCanonical { offset, expected: "kind of four octets" })?;
    let name = reader.text()?;
    if name.len() > MAX_NAME {
        return Err(NotCanonical { offset, expected: "name of at most 128 octets" });
    }
    Ok(GuestEvent { kind, name: name.to_owned(), payload: reader.bytes()?.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::tpm::Hash;

    fn sample() -> Events {
        let guest = ["app-id", "system-ready"].map(|name| GuestEvent { kind: 0x0800_0001, name: name.to_owned(), payload: name.as_bytes().to_vec() });
        Events { firmware: Log::empty(&[Hash::Sha384]), guest: guest.into() }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Events::parse(&sample().encode()), Ok(sample()));
        let alone = Events { guest: Vec::new(), ..sample() };
        assert_eq!(Events::parse(&alone.encode()), Ok(alone));
    }

    #[test]
    fn compressed_long_and_ambiguous_logs_are_refused() {
        let reason = |member: &[u8]| Events::parse(member).map_err(|denied| denied.reason());
        assert_eq!(reason(&[0x1f, 0x8b, 8, 0]), Err(Reason::EvidenceSize));
        assert_eq!(reason(&vec![0; MAX_LOG + ROOM + 1]), Err(Reason::EvidenceSize));
        let mut ambiguous = sample();
        ambiguous.guest.push(GuestEvent { kind: 1, name: "a:b".to_owned(), payload: b"c".to_vec() });
        assert_eq!(reason(&ambiguous.encode()), Err(Reason::EventLogMismatch));
        assert_eq!(reason(&[0xa0]), Err(Reason::EvidenceMalformed));
        assert_eq!(reason(&[0xa1, 3, 0x40]), Err(Reason::EvidenceMalformed));
    }
}
