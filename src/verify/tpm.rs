//! TPM quotes, for the platforms whose evidence has one: does a key vouch for these registers and this challenge?
//!
//! The steps of [`prove`], in their order; each one refuses:
//!
//! 1. the bank is SHA-256 or SHA-384, and the quote selects exactly the registers that came along ([`selected`])
//! 2. the quote's digest is that of their values, in ascending order ([`digested`])
//! 3. the signature over the received octets is the attestation key's ([`signed`])
//! 4. the event log, where there is one, replays to the registers that firmware alone extends ([`replayed`])
//!
//! Magic and type were checked when the quote was read. Whose the key is, is for the platform to say: [`certified`] follows
//! a chain of certificates where there is one.

use super::chain::{self, SigningKey, untrusted};
use super::{Anchor, Grounds, Origin};
use crate::crypto::{self, Scheme};
use crate::evidence::eventlog::Log;
use crate::evidence::tpm::{Hash, Member, Signature};
use crate::evidence::{Bound, ClaimValue, Claims, Timestamp};
use crate::refusal::{Denied, Finding, Reason};

/// The label of the member that carries a quote.
pub(super) const LABEL: &str = "vtpm";

/// Registers 0 to 7 are the firmware's alone; from 8 on boot loaders and systems extend what no log here tells.
const FIRMWARE_REGISTERS: u8 = 8;

/// What the member's quote carries for its asker.
pub(super) fn bound(member: &[u8]) -> Result<Bound, Denied> {
    let quote = Member::parse(member)?.quote;
    Ok(extra_data(&quote.extra_data))
}

/// The asker's octets as what binds: a challenge has 48 for such a field.
pub(super) fn extra_data(octets: &[u8]) -> Bound {
    <[u8; 48]>::try_from(octets).map_or_else(|_| Bound::Other(octets.to_vec()), Bound::Short)
}

/// A key that signs quotes. Whose it is, is for others to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttestationKey {
    /// An uncompressed point, or a PKCS#1 `RSAPublicKey`.
    raw: Vec<u8>,
    /// The scheme of an elliptic key; `None` for RSA.
    ecdsa: Option<Scheme>,
}

impl AttestationKey {
    /// An RSA key, as a DER RSAPublicKey (PKCS#1).
    #[must_use]
    pub const fn rsa(pkcs1: Vec<u8>) -> Self {
        Self { raw: pkcs1, ecdsa: None }
    }

    /// The key of a DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// `chain_untrusted` when it cannot be read.
    pub fn of_spki(spki: &[u8]) -> Result<Self, Denied> {
        Ok(Self::of(&SigningKey::of_spki("vtpm.ak", spki)?))
    }

    /// The key of a certificate, DER.
    ///
    /// # Errors
    /// `chain_untrusted` when it cannot be read.
    pub fn of_certificate(der: &[u8]) -> Result<Self, Denied> {
        Ok(Self::of(&SigningKey::of_certificate(&chain::certificate(CHAIN, der)?)))
    }

    fn of(key: &SigningKey<'_>) -> Self {
        Self { raw: key.raw().to_vec(), ecdsa: key.ecdsa() }
    }

    fn is(&self, key: &SigningKey<'_>) -> bool {
        self.raw == key.raw() && self.ecdsa == key.ecdsa()
    }
}

/// Proves that `key` vouches for the member's registers.
///
/// Establishes neither whose the key is nor whether the quote answers anybody's challenge.
///
/// # Errors
/// `tpm_quote_invalid`, `event_log_mismatch`, and for a log that cannot be read `evidence_malformed` or `evidence_size`.
pub fn prove(member: &Member, key: &AttestationKey) -> Result<(), Denied> {
    selected(member)?;
    digested(member)?;
    signed(member, key)?;
    replayed(member)
}

fn selected(member: &Member) -> Result<(), Denied> {
    let bank = member.quote.selection.bank;
    if !matches!(bank, Hash::Sha256 | Hash::Sha384) {
        return invalid("vtpm.quote.pcrSelect", "the bank sha256 or sha384", bank.name());
    }
    let supplied = member.pcrs.selection();
    if supplied != member.quote.selection || member.pcrs.values.is_empty() {
        let shown = |selection: crate::evidence::tpm::Selection| {
            let indices: Vec<_> = selection.indices().map(|index| index.to_string()).collect();
            format!("{} {}", selection.bank.name(), indices.join(","))
        };
        return invalid("vtpm.pcrs", format!("exactly the registers of the quote: {}", shown(member.quote.selection)), shown(supplied));
    }
    Ok(())
}

fn digested(member: &Member) -> Result<(), Denied> {
    let values: Vec<&[u8]> = member.pcrs.values.values().map(Vec::as_slice).collect();
    let digest = scheme_hash(&member.signature).digest(&values).unwrap_or_default();
    if crypto::same(&digest, &member.quote.pcr_digest) {
        return Ok(());
    }
    let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
    invalid("vtpm.quote.pcrDigest", format!("{}, of the registers' values", hex(&digest)), hex(&member.quote.pcr_digest))
}

const fn scheme_hash(signature: &Signature) -> Hash {
    match signature {
        Signature::Ecdsa { hash, .. } | Signature::Rsassa { hash, .. } => *hash,
    }
}

fn signed(member: &Member, key: &AttestationKey) -> Result<(), Denied> {
    let (scheme, signature) = match (&member.signature, key.ecdsa) {
        (Signature::Rsassa { hash: Hash::Sha256, octets }, None) => (Scheme::RsaPkcs1Sha256, Some(octets.clone())),
        (Signature::Rsassa { hash: Hash::Sha384, octets }, None) => (Scheme::RsaPkcs1Sha384, Some(octets.clone())),
        (Signature::Ecdsa { hash: Hash::Sha256, r, s }, Some(scheme @ Scheme::EcdsaP256Sha256))
        | (Signature::Ecdsa { hash: Hash::Sha384, r, s }, Some(scheme @ Scheme::EcdsaP384Sha384)) => (scheme, fixed(scheme, r, s)),
        _ => return invalid("vtpm.signature", "the scheme of the attestation key, with SHA-256 or SHA-384", "another"),
    };
    if signature.is_some_and(|signature| crypto::verifies(scheme, &key.raw, &member.signed, &signature)) {
        return Ok(());
    }
    invalid("vtpm.signature", "a signature of the quote by the attestation key", "none that verifies")
}

/// `r ‖ s`, each as long as the curve's numbers: a TPM may write them shorter.
fn fixed(scheme: Scheme, r: &[u8], s: &[u8]) -> Option<Vec<u8>> {
    let half = scheme.half()?;
    let mut out = Vec::new();
    for number in [r, s] {
        out.extend(std::iter::repeat_n(0, half.checked_sub(number.len())?));
        out.extend(number);
    }
    Some(out)
}

fn replayed(member: &Member) -> Result<(), Denied> {
    let Some(log) = &member.extras.log else { return Ok(()) };
    let replayed = Log::parse(log)?.replay(member.pcrs.bank)?;
    for (index, value) in member.pcrs.values.iter().filter(|(index, _)| **index < FIRMWARE_REGISTERS) {
        let zeros = vec![0; value.len()];
        let came_to = replayed.get(&u32::from(*index)).unwrap_or(&zeros);
        if came_to != value {
            let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
            return Finding::new(Reason::EventLogMismatch, format!("vtpm.log, register {index}"), hex(value), hex(came_to)).refuse();
        }
    }
    Ok(())
}

/// What a chain of certificates above an attestation key came to.
#[derive(Clone, Copy, Debug)]
pub struct Certified {
    /// The first end of a certificate.
    pub until: Timestamp,
    /// Whose root it ends at.
    pub origin: Origin,
}

/// Proves that the member's certificates lead from `key` to one of `anchors`. The root may come along or not.
pub(super) fn certified<'a>(
    certificates: &[Vec<u8>],
    key: &AttestationKey,
    anchors: impl Iterator<Item = &'a Anchor>,
    grounds: &Grounds<'_>,
) -> Result<Certified, Denied> {
    let chain: Vec<_> = certificates.iter().map(|der| chain::certificate(CHAIN, der)).collect::<Result<_, _>>()?;
    let Some((leaf, authorities)) = chain.split_first() else {
        return untrusted(CHAIN, "the certificate of the attestation key", "none");
    };
    if !key.is(&SigningKey::of_certificate(leaf)) {
        return untrusted(CHAIN, "a certificate of the key that signs the quotes", "one of another key");
    }
    for (between, pair) in chain.windows(2).enumerate() {
        let [below, above] = pair else { continue };
        chain::may_issue(CHAIN, above, between)?;
        if below.issuer().as_raw() != above.subject().as_raw() {
            return untrusted(CHAIN, above.subject(), below.issuer());
        }
        chain::issued_by(CHAIN, below, &SigningKey::of_certificate(above), grounds.memo, grounds.now)?;
    }
    let last = authorities.last().unwrap_or(leaf);
    let mut refused = None;
    for anchor in anchors {
        let root = SigningKey::of_spki(CHAIN, &anchor.spki)?;
        match chain::issued_by(CHAIN, last, &root, grounds.memo, grounds.now) {
            Ok(()) => {
                let ends = chain.iter().map(|certificate| chain::moment(certificate.validity().not_after.timestamp()));
                return Ok(Certified { until: ends.min().unwrap_or(grounds.now), origin: anchor.origin });
            }
            Err(denied) => refused = Some(denied),
        }
    }
    Err(refused.unwrap_or_else(|| Finding::new(Reason::ChainUntrusted, CHAIN, "a pinned root of the cloud's vTPMs", "none").into()))
}

const CHAIN: &str = "vtpm.ak_certificate";

/// What a member says: `tpm_quote` and `pcrs`.
pub(super) fn claims(member: &Member, claims: &mut Claims) {
    let quote = &member.quote;
    let mut said = Claims::default();
    said.push("extra_data", ClaimValue::Bytes(quote.extra_data.clone()));
    said.push("bank", ClaimValue::Text(quote.selection.bank.name().to_owned()));
    said.push("pcr_select", ClaimValue::Texts(quote.selection.indices().map(|index| index.to_string()).collect()));
    said.push("pcr_digest", ClaimValue::Bytes(quote.pcr_digest.clone()));
    said.push("firmware", ClaimValue::Bytes(quote.firmware_version.to_be_bytes().to_vec()));
    said.push("clock_ms", ClaimValue::Integer(quote.clock));
    said.push("reset_count", ClaimValue::Integer(quote.reset_count.into()));
    said.push("restart_count", ClaimValue::Integer(quote.restart_count.into()));
    claims.push("tpm_quote", ClaimValue::Map(said));
    let mut registers = Claims::default();
    for (index, value) in &member.pcrs.values {
        if let Some(name) = PCR_NAMES.get(usize::from(*index)) {
            registers.push(name, ClaimValue::Bytes(value.clone()));
        }
    }
    claims.push("pcrs", ClaimValue::Map(registers));
}

/// The registers by the names that policies and claims use.
#[rustfmt::skip]
pub(super) const PCR_NAMES: &[&str] = &[
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20", "21", "22", "23",
];

fn invalid<T>(field: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Result<T, Denied> {
    Finding::new(Reason::TpmQuoteInvalid, field, expected, found).refuse()
}
