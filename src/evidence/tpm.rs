//! TPM 2.0 quotes (TCG "TPM 2.0 Library", part 2: TPMS_ATTEST, TPMT_SIGNATURE) and the `vtpm` member that carries one.
//!
//! A quote says what stood in platform configuration registers (PCRs) when somebody asked, and repeats what the asker
//! said. It is not TEE evidence: who holds the signing key has to be known from elsewhere.

mod instance;
mod member;

use super::cursor::Cursor;
use crate::refusal::{Denied, Finding, Reason};

pub use instance::Instance;
pub use member::{Extras, MEDIA_TYPE, Member, Pcrs};

/// A hash algorithm by its TPM_ALG_ID.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Hash {
    /// TPM_ALG_SHA1: read so that it can be refused or skipped.
    Sha1,
    /// TPM_ALG_SHA256.
    Sha256,
    /// TPM_ALG_SHA384.
    Sha384,
    /// TPM_ALG_SHA512.
    Sha512,
}

impl Hash {
    /// All of them, in the order of their identifiers.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its TPM_ALG_ID.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// The algorithm with this TPM_ALG_ID.
    #[must_use]
    pub fn of_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.id() == id)
    }

    /// The length of its digests in octets.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Its name in claims and policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The digest of the concatenated parts; `None` for SHA-1, which nothing here may rest on.
    #[must_use]
    pub fn digest(self, parts: &[&[u8]]) -> Option<Vec<u8>> {
        match self {
            Self::Sha1 => None,
            Self::Sha256 => Some(crate::crypto::sha256(parts).to_vec()),
            Self::Sha384 => Some(crate::crypto::sha384(parts).to_vec()),
            Self::Sha512 => Some(crate::crypto::sha512(parts).to_vec()),
        }
    }
}

/// How many PCRs a bank of a PC's TPM has.
pub const PCR_COUNT: u8 = 24;

/// A set of PCRs of one bank: TPMS_PCR_SELECTION with a bitmap of three octets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Selection {
    /// The bank.
    pub bank: Hash,
    /// The bitmap: bit 0 of the first octet is PCR 0.
    pub bitmap: [u8; 3],
}

impl Selection {
    /// The selection of these registers; those above 23 do not exist.
    #[must_use]
    pub fn of(bank: Hash, indices: impl IntoIterator<Item = u8>) -> Self {
        let mut bitmap = [0_u8; 3];
        for index in indices {
            if let Some(octet) = bitmap.get_mut(usize::from(index >> 3)) {
                *octet |= 1 << (index & 7);
            }
        }
        Self { bank, bitmap }
    }

    /// The selected registers, ascending.
    pub fn indices(&self) -> impl Iterator<Item = u8> {
        (0..PCR_COUNT).filter(|index| self.bitmap.get(usize::from(index >> 3)).is_some_and(|octet| octet >> (index & 7) & 1 == 1))
    }
}

/// A TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE over one PCR bank.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attest {
    /// qualifiedSigner: the name of the signing key in its hierarchy.
    pub qualified_signer: Vec<u8>,
    /// extraData: what the asker said.
    pub extra_data: Vec<u8>,
    /// clockInfo.clock: milliseconds that the TPM has been powered.
    pub clock: u64,
    /// clockInfo.resetCount.
    pub reset_count: u32,
    /// clockInfo.restartCount.
    pub restart_count: u32,
    /// clockInfo.safe: whether no greater clock value was ever reported.
    pub clock_safe: bool,
    /// firmwareVersion.
    pub firmware_version: u64,
    /// pcrSelect.
    pub selection: Selection,
    /// pcrDigest.
    pub pcr_digest: Vec<u8>,
}

/// TPM_GENERATED_VALUE: in front of everything that a TPM made itself and signs.
pub const MAGIC: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_QUOTE.
pub const QUOTE: u16 = 0x8018;

/// The longest TPM2B_NAME and TPM2B_DATA: a hash identifier and the longest digest.
const MAX_NAMED: usize = 66;
/// The longest TPMS_ATTEST of a quote over one bank.
const MAX_ATTEST: usize = 512;
/// The longest TPMT_SIGNATURE: RSA with 4096 bits.
const MAX_SIGNATURE: usize = 600;

impl Attest {
    /// Reads a TPMS_ATTEST of at most 512 octets.
    ///
    /// # Errors
    /// `tpm_quote_invalid` for other magic, another type, more than one bank or another bitmap than of three octets;
    /// `evidence_size`, `evidence_malformed`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Denied> {
        bounded("vtpm.quote", bytes, MAX_ATTEST)?;
        let mut cursor = Cursor::new(bytes);
        let magic = cursor.u32_be().ok_or_else(truncated)?;
        if magic != MAGIC {
            return invalid("vtpm.quote.magic", format!("{MAGIC:#x}"), format!("{magic:#x}"));
        }
        let kind = cursor.u16_be().ok_or_else(truncated)?;
        if kind != QUOTE {
            return invalid("vtpm.quote.type", format!("{QUOTE:#x} (quote)"), format!("{kind:#x}"));
        }
        let head = Self::head(&mut cursor).ok_or_else(truncated)?;
        let banks = cursor.u32_be().ok_or_else(truncated)?;
        if banks != 1 {
            return invalid("vtpm.quote.pcrSelect", "one bank", format!("{banks} banks"));
        }
        let (bank, size) = (cursor.u16_be().ok_or_else(truncated)?, cursor.u8().ok_or_else(truncated)?);
        let Some(bank) = Hash::of_id(bank) else {
            return invalid("vtpm.quote.pcrSelect", "a known bank", format!("algorithm {bank:#x}"));
        };
        if size != 3 {
            return invalid("vtpm.quote.pcrSelect", "a bitmap of 3 octets", size.to_string());
        }
        let bitmap = cursor.take().ok_or_else(truncated)?;
        let pcr_digest = named(&mut cursor).ok_or_else(truncated)?;
        cursor.end().ok_or_else(truncated)?;
        Ok(Self { selection: Selection { bank, bitmap }, pcr_digest, ..head })
    }

    fn head(cursor: &mut Cursor<'_>) -> Option<Self> {
        let (qualified_signer, extra_data) = (named(cursor)?, named(cursor)?);
        let (clock, reset_count, restart_count) = (cursor.u64_be()?, cursor.u32_be()?, cursor.u32_be()?);
        let clock_safe = match cursor.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let firmware_version = cursor.u64_be()?;
        let selection = Selection { bank: Hash::Sha256, bitmap: [0; 3] };
        Some(Self { qualified_signer, extra_data, clock, reset_count, restart_count, clock_safe, firmware_version, selection, pcr_digest: Vec::new() })
    }

    /// Its octets: the inverse of [`Attest::parse`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(MAGIC.to_be_bytes());
        out.extend(QUOTE.to_be_bytes());
        sized(&mut out, &self.qualified_signer);
        sized(&mut out, &self.extra_data);
        out.extend(self.clock.to_be_bytes());
        out.extend(self.reset_count.to_be_bytes());
        out.extend(self.restart_count.to_be_bytes());
        out.push(self.clock_safe.into());
        out.extend(self.firmware_version.to_be_bytes());
        out.extend(1_u32.to_be_bytes());
        out.extend(self.selection.bank.id().to_be_bytes());
        out.push(3);
        out.extend(self.selection.bitmap);
        sized(&mut out, &self.pcr_digest);
        out
    }
}

/// A TPMT_SIGNATURE of the kinds that attestation keys have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Signature {
    /// TPM_ALG_ECDSA.
    Ecdsa {
        /// What was hashed with.
        hash: Hash,
        /// signatureR, big-endian, as long as the TPM wrote it.
        r: Vec<u8>,
        /// signatureS.
        s: Vec<u8>,
    },
    /// TPM_ALG_RSASSA: PKCS#1 v1.5.
    Rsassa {
        /// What was hashed with.
        hash: Hash,
        /// The signature, big-endian.
        octets: Vec<u8>,
    },
}

const RSASSA: u16 = 0x0014;
const ECDSA: u16 = 0x0018;

impl Signature {
    /// Reads a TPMT_SIGNATURE of at most 600 octets.
    ///
    /// # Errors
    /// `evidence_unsupported` for another scheme or hash, `evidence_size`, `evidence_malformed`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Denied> {
        bounded("vtpm.signature", bytes, MAX_SIGNATURE)?;
        let mut cursor = Cursor::new(bytes);
        let (scheme, hash) = (cursor.u16_be().ok_or_else(truncated)?, cursor.u16_be().ok_or_else(truncated)?);
        let unsupported = |expected: &str, found: u16| Finding::new(Reason::EvidenceUnsupported, "vtpm.signature", expected, format!("algorithm {found:#x}"));
        let hash = Hash::of_id(hash).ok_or_else(|| unsupported("SHA-256 or SHA-384", hash))?;
        let signature = match scheme {
            RSASSA => two_sized(&mut cursor).map(|octets| Self::Rsassa { hash, octets }),
            ECDSA => two_sized(&mut cursor).zip(two_sized(&mut cursor)).map(|(r, s)| Self::Ecdsa { hash, r, s }),
            _ => return unsupported("RSASSA or ECDSA", scheme).refuse(),
        };
        signature.filter(|_| cursor.end().is_some()).ok_or_else(truncated)
    }

    /// Its octets: the inverse of [`Signature::parse`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Ecdsa { hash, r, s } => {
                out.extend(ECDSA.to_be_bytes());
                out.extend(hash.id().to_be_bytes());
                sized(&mut out, r);
                sized(&mut out, s);
            }
            Self::Rsassa { hash, octets } => {
                out.extend(RSASSA.to_be_bytes());
                out.extend(hash.id().to_be_bytes());
                sized(&mut out, octets);
            }
        }
        out
    }
}

/// A TPM2B of at most [`MAX_NAMED`] octets.
fn named(cursor: &mut Cursor<'_>) -> Option<Vec<u8>> {
    two_sized(cursor).filter(|octets| octets.len() <= MAX_NAMED)
}

/// A TPM2B: a length of two octets and that many octets.
fn two_sized(cursor: &mut Cursor<'_>) -> Option<Vec<u8>> {
    let length = cursor.u16_be()?;
    cursor.bytes(length.into()).map(<[u8]>::to_vec)
}

fn sized(out: &mut Vec<u8>, octets: &[u8]) {
    out.extend(u16::try_from(octets.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(octets);
}

fn bounded(field: &'static str, bytes: &[u8], most: usize) -> Result<(), Denied> {
    if bytes.len() <= most {
        return Ok(());
    }
    Finding::new(Reason::EvidenceSize, field, format!("at most {most} octets"), bytes.len().to_string()).refuse()
}

fn truncated() -> Denied {
    Finding::new(Reason::EvidenceMalformed, "vtpm", "a TPM structure that fills its octets", "one that is cut off, too long or has wrong lengths").into()
}

fn invalid<T>(field: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Result<T, Denied> {
    Finding::new(Reason::TpmQuoteInvalid, field, expected, found).refuse()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Attest {
        Attest {
            qualified_signer: vec![7; 34],
            extra_data: vec![9; 48],
            clock: 1,
            reset_count: 2,
            restart_count: 3,
            clock_safe: true,
            firmware_version: 4,
            selection: Selection::of(Hash::Sha256, [0, 7, 8, 23]),
            pcr_digest: vec![5; 32],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Attest::parse(&sample().encode()), Ok(sample()));
        for signature in
            [Signature::Rsassa { hash: Hash::Sha256, octets: vec![1; 256] }, Signature::Ecdsa { hash: Hash::Sha384, r: vec![1; 48], s: vec![2; 47] }]
        {
            assert_eq!(Signature::parse(&signature.encode()), Ok(signature));
        }
    }

    #[test]
    fn a_selection_lists_its_registers_in_order() {
        let selection = sample().selection;
        assert_eq!(selection.bitmap, [0x81, 0x01, 0x80]);
        assert_eq!(selection.indices().collect::<Vec<_>>(), [0, 7, 8, 23]);
    }

    #[test]
    fn every_cut_and_every_tail_is_refused() {
        let whole = sample().encode();
        assert!((0..whole.len()).all(|end| Attest::parse(whole.get(..end).unwrap_or_default()).is_err()));
        assert!(Attest::parse(&[whole.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn other_structures_that_a_key_signs_are_no_quotes() {
        let altered = |at: usize, with: u8| {
            let mut bytes = sample().encode();
            if let Some(octet) = bytes.get_mut(at) {
                *octet = with;
            }
            Attest::parse(&bytes).map_err(|denied| denied.reason())
        };
        assert_eq!(altered(0, 0), Err(Reason::TpmQuoteInvalid), "magic");
        assert_eq!(altered(5, 0x17), Err(Reason::TpmQuoteInvalid), "TPM_ST_ATTEST_CERTIFY");
        let selection = sample().encode().len() - 34 - 10;
        assert_eq!(altered(selection + 3, 2), Err(Reason::TpmQuoteInvalid), "two banks");
        assert_eq!(altered(selection + 6, 4), Err(Reason::TpmQuoteInvalid), "a bitmap of four octets");
    }
}
