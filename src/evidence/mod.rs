//! Bytes and types: what was received, read under strict bounds. A value here has been read, not believed.
//!
//! Pure: no I/O, no clock, no judgement. Judgement is `verify`'s.

#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

pub mod arm;
pub mod batch;
pub mod binding;
pub mod cbor;
pub mod cca;
pub mod cmw;
pub mod cose;
mod cursor;
pub mod endorsement;
pub mod eventlog;
pub mod gpu;
pub mod hcl;
pub mod intel;
pub mod keystone;
pub mod launch;
pub mod leaf;
pub mod nitro;
pub mod ocsp;
pub mod psa;
pub mod rim;
pub mod saved;
pub mod snp;
pub mod spki;
pub mod tpm;

use std::fmt;

pub use endorsement::{Endorsement, EndorsementId, Endorsements};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// The 64 bytes that a TEE signs for its guest and that tie evidence to a TLS key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReportData(pub [u8; 64]);

/// What evidence is asked to carry: two digests of one input, for fields of 64 bytes and for shorter ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Challenge {
    /// SHA-512, for report data.
    pub long: ReportData,
    /// SHA-384, for fields that do not take 64 bytes (a TPM's `extraData`).
    pub short: [u8; 48],
}

impl Challenge {
    /// The challenge whose digests are over `input`.
    #[must_use]
    pub fn of(input: &[u8]) -> Self {
        Self { long: ReportData(crate::crypto::sha512(&[input])), short: crate::crypto::sha384(&[input]) }
    }
}

/// What a piece of evidence carries, in the form its field has room for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Bound {
    /// All 64 bytes.
    Long(ReportData),
    /// As many bytes as no challenge has: a quote for another protocol. It answers nothing.
    Other(Vec<u8>),
    /// 48 bytes.
    Short([u8; 48]),
}

impl Bound {
    /// Whether it is what `challenge` asks for, over its full length, in constant time.
    #[must_use]
    pub fn answers(&self, challenge: &Challenge) -> bool {
        !matches!(self, Self::Other(_)) && crate::crypto::same(self.octets(), self.asked(challenge))
    }

    /// Its octets.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        match self {
            Self::Long(data) => &data.0,
            Self::Other(data) => data,
            Self::Short(data) => data,
        }
    }

    /// The octets that `challenge` has for a field of this length.
    #[must_use]
    pub const fn asked<'a>(&self, challenge: &'a Challenge) -> &'a [u8] {
        match self {
            Self::Long(_) => &challenge.long.0,
            Self::Other(_) | Self::Short(_) => &challenge.short,
        }
    }
}

/// SHA-384 of a DER SubjectPublicKeyInfo, the whole of it with its algorithm: the name of a TLS key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct KeyDigest(pub [u8; 48]);

impl KeyDigest {
    /// The digest of `spki`, a DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn of_spki(spki: &[u8]) -> Self {
        Self(crate::crypto::sha384(&[spki]))
    }
}

/// A moment in whole seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment `seconds` later, at most the last one that can be told.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// The moment `seconds` earlier, at least the first.
    #[must_use]
    pub const fn minus(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }

    /// Reads an RFC 3339 date and time. `None` for any other text or a moment before 1970.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let moment = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
        u64::try_from(moment.unix_timestamp()).ok().map(Self)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, to the second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = i64::try_from(self.0).ok().and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
        match moment.and_then(|moment| moment.format(&time::format_description::well_known::Rfc3339).ok()) {
            Some(text) => f.write_str(&text),
            None => f.write_str("after the year 9999"),
        }
    }
}

/// Raw evidence of one TEE, as received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// The media type that names its format.
    pub media_type: String,
    /// The bytes, not yet read.
    pub bytes: Vec<u8>,
    /// Further evidence of the same machine: event log, vTPM quote, GPU report.
    pub auxiliary: Vec<Auxiliary>,
}

impl Evidence {
    /// Evidence that stands alone.
    #[must_use]
    pub fn new(media_type: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { media_type: media_type.into(), bytes: bytes.into(), auxiliary: Vec::new() }
    }

    /// The auxiliary member called `label`.
    #[must_use]
    pub fn member(&self, label: &str) -> Option<&Auxiliary> {
        self.auxiliary.iter().find(|member| member.label == label)
    }
}

/// Evidence that belongs to a TEE's and never stands in for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Auxiliary {
    /// `log`, `vtpm`, `gpu/0`, …
    pub label: String,
    /// The media type of its value.
    pub media_type: String,
    /// Its value, not yet read. The binding claims list its SHA-384, unless its own signature covers them.
    pub bytes: Vec<u8>,
}

/// One claim's value, in the shape it is shown and compared in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClaimValue {
    /// A bit field; shown as `0x…`.
    Bits(u64),
    /// Octets; shown as lower-case hex.
    Bytes(Vec<u8>),
    /// A number.
    Integer(u64),
    /// Several claims of one shape (the parts of the firmware).
    List(Vec<Claims>),
    /// Claims that belong together (the components of a TCB version).
    Map(Claims),
    /// A word.
    Text(String),
    /// Several words, in order.
    Texts(Vec<String>),
    /// Whether something is so.
    Truth(bool),
}

impl fmt::Display for ClaimValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bits(bits) => write!(f, "{bits:#x}"),
            Self::Bytes(bytes) => f.write_str(&data_encoding::HEXLOWER.encode(bytes)),
            Self::Integer(number) => write!(f, "{number}"),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(|item| Self::Map(item.clone()).to_string()).collect();
                f.write_str(&items.join("; "))
            }
            Self::Map(claims) => {
                let parts: Vec<_> = claims.iter().map(|(name, value)| format!("{name}={value}")).collect();
                f.write_str(&parts.join(" "))
            }
            Self::Text(text) => f.write_str(text),
            Self::Texts(texts) => f.write_str(&texts.join(", ")),
            Self::Truth(so) => write!(f, "{so}"),
        }
    }
}

/// What evidence says, by the vendor's names, in the order of the vendor's table.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Claims(Vec<(&'static str, ClaimValue)>);

impl Claims {
    /// Adds a claim behind the others.
    pub fn push(&mut self, name: &'static str, value: ClaimValue) {
        self.0.push((name, value));
    }

    /// The claim called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&ClaimValue> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The octets called `name`; `None` when there is no such claim or it is of another shape.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        match self.find(name)? {
            ClaimValue::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The number or bit field called `name`.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.find(name)? {
            ClaimValue::Bits(number) | ClaimValue::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The word called `name`.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.find(name)? {
            ClaimValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The words called `name`.
    #[must_use]
    pub fn texts(&self, name: &str) -> Option<&[String]> {
        match self.find(name)? {
            ClaimValue::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// The claims under `name`.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<&Self> {
        match self.find(name)? {
            ClaimValue::Map(claims) => Some(claims),
            _ => None,
        }
    }

    /// The items under `name`.
    #[must_use]
    pub fn list(&self, name: &str) -> Option<&[Self]> {
        match self.find(name)? {
            ClaimValue::List(items) => Some(items),
            _ => None,
        }
    }

    /// All claims in order.
    pub fn iter(&self) -> impl Iterator<Item = &(&'static str, ClaimValue)> {
        self.0.iter()
    }
}

impl Serialize for ClaimValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Integer(number) => serializer.serialize_u64(*number),
            Self::List(items) => items.serialize(serializer),
            Self::Map(claims) => claims.serialize(serializer),
            Self::Texts(texts) => texts.serialize(serializer),
            Self::Truth(so) => serializer.serialize_bool(*so),
            Self::Bits(_) | Self::Bytes(_) | Self::Text(_) => serializer.collect_str(self),
        }
    }
}

impl Serialize for Claims {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339() {
        let moment = Timestamp::parse("2026-10-01T00:00:00Z");
        assert_eq!(moment, Some(Timestamp(1_790_812_800)));
        assert_eq!(moment.map(|moment| moment.to_string()).as_deref(), Some("2026-10-01T00:00:00Z"));
        assert_eq!(Timestamp::parse("1969-12-31T23:59:59Z"), None);
        assert_eq!(Timestamp::parse("yesterday"), None);
        assert_eq!(Timestamp(u64::MAX).to_string(), "after the year 9999");
    }
}
