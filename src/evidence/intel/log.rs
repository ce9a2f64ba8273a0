//! The event log beside a trust domain's quote: the firmware's log from the CCEL area, as deterministic CBOR
//! `{1: log bstr}`. It is never compressed: its length is what is read.

use crate::evidence::cbor::{NotCanonical, Reader, Writer};
use crate::evidence::eventlog::{Log, MAX_LOG};
use crate::evidence::{ClaimValue, Claims};
use crate::refusal::{Denied, Finding, Reason};

/// The label of the member.
pub const LABEL: &str = "log";

/// Its media type.
pub const MEDIA_TYPE: &str = "application/vnd.portcullis.eventlog+cbor";

const TCG: u64 = 1;

/// The room that the CBOR around a log may take.
const ENVELOPE: usize = 16;

/// The member for a log in the TCG's form. The fill of its area is left out where it can be told.
#[must_use]
pub fn encode(log: &[u8]) -> Vec<u8> {
    let told = Log::parse(log).map(|log| log.encode());
    let mut writer = Writer::new();
    writer.map(1).uint(TCG).bytes(told.as_deref().unwrap_or(log));
    writer.finish()
}

/// Reads the member.
///
/// # Errors
/// `evidence_size` for one that is too long, else `evidence_malformed`.
pub fn read(member: &[u8]) -> Result<Log, Denied> {
    let most = MAX_LOG.saturating_add(ENVELOPE);
    if member.len() > most {
        return Finding::new(Reason::EvidenceSize, "log", format!("at most {most} octets"), member.len().to_string()).refuse();
    }
    // Whoever compressed it would have it inflated here: there is no such form.
    if member.starts_with(&[0x1f, 0x8b]) {
        return Finding::new(Reason::EvidenceSize, "log", "an event log as it is", "a compressed one, of a length that nobody knows").refuse();
    }
    let inner = || -> Result<&[u8], NotCanonical> {
        let mut reader = Reader::new(member);
        let offset = reader.offset();
        if reader.map()? != 1 || reader.uint()? != TCG {
            return Err(NotCanonical { offset, expected: "map of 1 and the log" });
        }
        let log = reader.bytes()?;
        reader.end()?;
        Ok(log)
    };
    match inner() {
        Ok(log) => Log::parse(log),
        Err(error) => Finding::new(Reason::EvidenceMalformed, "log", "deterministic CBOR of a log", error.to_string()).refuse(),
    }
}

/// What is said of a log: how many events it has. What they mean is their readers'.
pub fn claims(log: &Log, claims: &mut Claims) {
    claims.push("log_events", ClaimValue::Integer(u64::try_from(log.events.len()).unwrap_or(u64::MAX)));
}
