//! The `vtpm` member: a quote with the registers it is about, as deterministic CBOR:
//!
//! ```text
//! { 1: TPMS_ATTEST bstr, 2: TPMT_SIGNATURE bstr, 3: [bank uint, { PCR uint: value bstr }],
//!   ? 4: [+ certificate bstr], ? 5: event log bstr }
//! ```
//!
//! Key 4 is the certificate of the attestation key and its issuers (DER, the key's own first), key 5 the firmware's event
//! log as the TCG defines it. Unknown keys are refused.

use std::collections::BTreeMap;

use super::{Attest, Hash, PCR_COUNT, Selection, Signature, bounded};
use crate::evidence::cbor::{NotCanonical, Reader, Writer};
use crate::evidence::eventlog;
use crate::refusal::{Denied, Finding, Reason};

/// The media type of the member.
pub const MEDIA_TYPE: &str = "application/vnd.portcullis.vtpm+cbor";

/// The most certificates: the key's, two intermediates, a root that may come along.
const MAX_CERTIFICATES: usize = 4;
/// A certificate longer than this is not read.
const MAX_CERTIFICATE: usize = 8 * 1024;
/// The longest member: a log, certificates and a quote.
const MAX_MEMBER: usize = eventlog::MAX_LOG + MAX_CERTIFICATES * MAX_CERTIFICATE + 8 * 1024;

/// The values of some PCRs of one bank.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pcrs {
    /// The bank.
    pub bank: Hash,
    /// Register number to value.
    pub values: BTreeMap<u8, Vec<u8>>,
}

impl Pcrs {
    /// The selection of exactly these registers.
    #[must_use]
    pub fn selection(&self) -> Selection {
        Selection::of(self.bank, self.values.keys().copied())
    }
}

/// What may come with a quote.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Extras {
    /// The certificate of the attestation key and its issuers, DER; empty for none.
    pub certificates: Vec<Vec<u8>>,
    /// The firmware's event log.
    pub log: Option<Vec<u8>>,
}

/// A `vtpm` member.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// The TPMS_ATTEST as received: what the signature is over.
    pub signed: Vec<u8>,
    /// The TPMS_ATTEST as read.
    pub quote: Attest,
    /// The signature.
    pub signature: Signature,
    /// The registers that the sender says the quote is about.
    pub pcrs: Pcrs,
    /// What came with it.
    pub extras: Extras,
}

impl Member {
    /// Reads a member. Nothing is compared: that the quote is about these registers is to be proved.
    ///
    /// # Errors
    /// `evidence_size`, `evidence_malformed`, and those of [`Attest::parse`] and [`Signature::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Denied> {
        bounded("vtpm", bytes, MAX_MEMBER)?;
        let parts = Parts::read(bytes).map_err(|error| Finding::new(Reason::EvidenceMalformed, "vtpm", "deterministic CBOR of its kind", error.to_string()))?;
        let Parts { quote: Some(signed), signature: Some(signature), pcrs: Some(pcrs), certificates, log } = parts else {
            return Finding::new(Reason::EvidenceMalformed, "vtpm", "a quote, its signature and its registers", "fewer").refuse();
        };
        Ok(Self {
            signed: signed.to_vec(),
            quote: Attest::parse(signed)?,
            signature: Signature::parse(signature)?,
            pcrs,
            extras: Extras { certificates, log: log.map(<[u8]>::to_vec) },
        })
    }

    /// The member of these parts: the inverse of [`Member::parse`].
    #[must_use]
    pub fn encode(signed: &[u8], signature: &[u8], pcrs: &Pcrs, extras: &Extras) -> Vec<u8> {
        let mut out = Writer::new();
        out.map(3_usize.saturating_add(usize::from(!extras.certificates.is_empty())).saturating_add(usize::from(extras.log.is_some())));
        out.uint(1).bytes(signed).uint(2).bytes(signature);
        out.uint(3).array(2).uint(pcrs.bank.id().into()).map(pcrs.values.len());
        for (index, value) in &pcrs.values {
            out.uint((*index).into()).bytes(value);
        }
        if !extras.certificates.is_empty() {
            out.uint(4).array(extras.certificates.len());
            for certificate in &extras.certificates {
                out.bytes(certificate);
            }
        }
        if let Some(log) = &extras.log {
            out.uint(5).bytes(log);
        }
        out.finish()
    }
}

#[derive(Default)]
struct Parts<'a> {
    quote: Option<&'a [u8]>,
    signature: Option<&'a [u8]>,
    pcrs: Option<Pcrs>,
    certificates: Vec<Vec<u8>>,
    log: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, NotCanonical> {
        let mut parts = Self::default();
        let mut reader = Reader::new(bytes);
        reader.each_pair(Reader::uint, |key, offset, reader| {
            match key {
                1 => parts.quote = Some(reader.bytes()?),
                2 => parts.signature = Some(reader.bytes()?),
                3 => parts.pcrs = Some(pcrs(reader)?),
                4 => parts.certificates = certificates(reader)?,
                5 => parts.log = Some(reader.bytes()?),
                _ => return Err(NotCanonical { offset, expected: "key 1 to 5" }),
            }
            Ok(())
        })?;
        reader.end()?;
        Ok(parts)
    }
}

fn pcrs(reader: &mut Reader<'_>) -> Result<Pcrs, NotCanonical> {
    let offset = reader.offset();
    if reader.array()? != 2 {
        return Err(NotCanonical { offset, expected: "array of bank and registers" });
    }
    let offset = reader.offset();
    let bank = u16::try_from(reader.uint()?).ok().and_then(Hash::of_id).ok_or(NotCanonical { offset, expected: "known hash algorithm" })?;
    let mut values = BTreeMap::new();
    reader.each_pair(Reader::uint, |index, offset, reader| {
        let index = u8::try_from(index).ok().filter(|index| *index < PCR_COUNT).ok_or(NotCanonical { offset, expected: "register from 0 to 23" })?;
        let value = reader.bytes()?;
        if value.len() != bank.size() {
            return Err(NotCanonical { offset, expected: "value as long as the bank's digests" });
        }
        values.insert(index, value.to_vec());
        Ok(())
    })?;
    Ok(Pcrs { bank, values })
}

fn certificates(reader: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, NotCanonical> {
    let offset = reader.offset();
    let count = reader.array()?;
    if !(1..=MAX_CERTIFICATES).contains(&count) {
        return Err(NotCanonical { offset, expected: "array of 1 to 4 certificates" });
    }
    let mut certificates = Vec::new();
    for _ in 0..count {
        let offset = reader.offset();
        let certificate = reader.bytes()?;
        if certificate.len() > MAX_CERTIFICATE {
            return Err(NotCanonical { offset, expected: "certificate of at most 8 KiB" });
        }
        certificates.push(certificate.to_vec());
    }
    Ok(certificates)
}
