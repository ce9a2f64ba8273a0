//! What Arm's attestation tokens (CCA, PSA) share: claims under integer keys, parts of the firmware, lifecycles.

use super::cbor::foreign::{Item, Map};
use super::{ClaimValue, Claims};
use crate::refusal::{Denied, Finding, Reason};

/// Firmware lists longer than this are not read; those seen have up to twenty parts.
const MAX_PARTS: usize = 32;

/// Texts longer than this are not read.
const MAX_TEXT: usize = 256;

/// The lengths of digests.
pub const DIGESTS: &[usize] = &[32, 48, 64];

/// One part of the firmware (`sw-component`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    /// measurement-type: what it is; some tokens leave it out.
    pub kind: Option<String>,
    /// measurement-value: its digest.
    pub measurement: Vec<u8>,
    /// version.
    pub version: Option<String>,
    /// signer-id: the digest of the key that signed it.
    pub signer: Vec<u8>,
    /// measurement-desc, or hash-algo-id: the algorithm of the digest.
    pub algorithm: Option<String>,
}

impl Part {
    const KIND: i64 = 1;
    const MEASUREMENT: i64 = 2;
    const VERSION: i64 = 4;
    const SIGNER: i64 = 5;
    const ALGORITHM: i64 = 6;

    fn read(what: &'static str, item: &Item<'_>) -> Result<Self, Denied> {
        let Item::Map(map) = item else { return malformed(what, "a map for each part of the firmware", "another item") };
        let mut fields = Fields::new(what, map);
        let part = Self {
            kind: fields.optional_text(Self::KIND)?,
            measurement: fields.bytes(Self::MEASUREMENT, DIGESTS)?,
            version: fields.optional_text(Self::VERSION)?,
            signer: fields.bytes(Self::SIGNER, DIGESTS)?,
            algorithm: fields.optional_text(Self::ALGORITHM)?,
        };
        fields.finish()?;
        Ok(part)
    }

    fn item(&self) -> Item<'_> {
        let mut all = Vec::new();
        all.extend(text(Self::KIND, self.kind.as_ref()));
        all.push((Item::of_int(Self::MEASUREMENT), Item::Bytes(&self.measurement)));
        all.extend(text(Self::VERSION, self.version.as_ref()));
        all.push((Item::of_int(Self::SIGNER), Item::Bytes(&self.signer)));
        all.extend(text(Self::ALGORITHM, self.algorithm.as_ref()));
        Item::Map(Map::new(all))
    }

    fn claims(&self) -> Claims {
        let mut claims = Claims::default();
        let text = |name, value: &Option<String>, claims: &mut Claims| {
            if let Some(value) = value {
                claims.push(name, ClaimValue::Text(value.clone()));
            }
        };
        text("type", &self.kind, &mut claims);
        claims.push("measurement", ClaimValue::Bytes(self.measurement.clone()));
        claims.push("signer", ClaimValue::Bytes(self.signer.clone()));
        text("version", &self.version, &mut claims);
        text("algorithm", &self.algorithm, &mut claims);
        claims
    }
}

fn text(key: i64, value: Option<&String>) -> Option<(Item<'static>, Item<'_>)> {
    value.map(|value| (Item::of_int(key), Item::Text(value)))
}

/// The parts of the firmware.
///
/// # Errors
/// `evidence_malformed`.
pub fn parts(what: &'static str, item: &Item<'_>) -> Result<Vec<Part>, Denied> {
    match item {
        Item::Array(items) if (1..=MAX_PARTS).contains(&items.len()) => items.iter().map(|item| Part::read(what, item)).collect(),
        _ => malformed(what, &format!("a list of 1 to {MAX_PARTS} parts of the firmware"), "another value"),
    }
}

/// The list that [`parts`] reads.
#[must_use]
pub fn parts_item(parts: &[Part]) -> Item<'_> {
    Item::Array(parts.iter().map(Part::item).collect())
}

/// The parts as claims.
#[must_use]
pub fn parts_claims(parts: &[Part]) -> ClaimValue {
    ClaimValue::List(parts.iter().map(Part::claims).collect())
}

/// The lifecycle states by name.
pub const LIFECYCLES: &[&str] =
    &["assembly-and-test", "decommissioned", "non-rot-debug", "recoverable-rot-debug", "rot-provisioning", "secured", "undefined", "unknown"];

/// The state that a security lifecycle is in: its upper octet says so, the lower one is the implementation's.
#[must_use]
pub const fn lifecycle(value: u16) -> &'static str {
    match value >> 8 {
        0x00 => "unknown",
        0x10 => "assembly-and-test",
        0x20 => "rot-provisioning",
        0x30 => "secured",
        0x40 => "non-rot-debug",
        0x50 => "recoverable-rot-debug",
        0x60 => "decommissioned",
        _ => "undefined",
    }
}

/// A map's values under integer keys, each taken once.
pub(super) struct Fields<'m, 'a> {
    what: &'static str,
    map: &'m Map<'a>,
    taken: Vec<i64>,
}

impl<'m, 'a> Fields<'m, 'a> {
    pub(super) const fn new(what: &'static str, map: &'m Map<'a>) -> Self {
        Self { what, map, taken: Vec::new() }
    }

    pub(super) fn optional(&mut self, key: i64) -> Option<&'m Item<'a>> {
        self.taken.push(key);
        self.map.of(key)
    }

    pub(super) fn required(&mut self, key: i64) -> Result<&'m Item<'a>, Denied> {
        match self.optional(key) {
            Some(value) => Ok(value),
            None => malformed(self.what, &format!("claim {key}"), "none"),
        }
    }

    pub(super) fn bytes(&mut self, key: i64, lengths: &[usize]) -> Result<Vec<u8>, Denied> {
        match self.required(key)?.bytes().filter(|bytes| lengths.contains(&bytes.len())) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => malformed(self.what, &format!("claim {key} of {lengths:?} octets"), "another value"),
        }
    }

    pub(super) fn array_of<const N: usize>(&mut self, key: i64) -> Result<[u8; N], Denied> {
        match self.required(key)?.bytes().and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => Ok(bytes),
            None => malformed(self.what, &format!("claim {key} of {N} octets"), "another value"),
        }
    }

    pub(super) fn bytes_up_to(&mut self, key: i64, most: usize) -> Result<Vec<u8>, Denied> {
        match self.required(key)?.bytes().filter(|bytes| bytes.len() <= most) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => malformed(self.what, &format!("claim {key} of at most {most} octets"), "another value"),
        }
    }

    pub(super) fn int(&mut self, key: i64) -> Result<i64, Denied> {
        match self.required(key)?.int() {
            Some(number) => Ok(number),
            None => malformed(self.what, &format!("claim {key}, a number"), "another value"),
        }
    }

    pub(super) fn lifecycle(&mut self, key: i64) -> Result<u16, Denied> {
        match u16::try_from(self.int(key)?) {
            Ok(value) => Ok(value),
            Err(_) => malformed(self.what, &format!("claim {key}, a lifecycle of 16 bits"), "another number"),
        }
    }

    pub(super) fn text(&mut self, key: i64) -> Result<String, Denied> {
        match self.optional_text(key)? {
            Some(text) => Ok(text),
            None => malformed(self.what, &format!("claim {key}, a text"), "none"),
        }
    }

    pub(super) fn optional_text(&mut self, key: i64) -> Result<Option<String>, Denied> {
        match self.optional(key) {
            None => Ok(None),
            Some(Item::Text(text)) if text.len() <= MAX_TEXT => Ok(Some((*text).to_owned())),
            Some(_) => malformed(self.what, &format!("claim {key}, a text of at most {MAX_TEXT} octets"), "another value"),
        }
    }

    pub(super) fn finish(self) -> Result<(), Denied> {
        let known = |key: &Item<'_>| key.int().is_some_and(|key| self.taken.contains(&key));
        match self.map.pairs.iter().find(|(key, _)| !known(key)) {
            None => Ok(()),
            Some((key, _)) => {
                malformed(self.what, "no claim that is not known", key.int().map_or_else(|| "a key that is no integer".to_owned(), |key| key.to_string()))
            }
        }
    }
}

pub(super) fn malformed<T>(what: &'static str, expected: &str, found: impl ToString) -> Result<T, Denied> {
    Finding::new(Reason::EvidenceMalformed, what, expected, found.to_string()).refuse()
}

/// The name under which an operator's key for a device is listed: the implementation's id alone, or with the instance's.
#[must_use]
pub fn key_names(implementation: &[u8], instance: &[u8]) -> [String; 2] {
    let hex = data_encoding::HEXLOWER;
    let implementation = hex.encode(implementation);
    [format!("{implementation}/{}", hex.encode(instance)), implementation]
}
