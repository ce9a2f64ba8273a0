//! Arm CCA, stage 1: is this token a genuine realm's, on a platform whose key the operator lists?
//!
//! The steps, in their order; each one refuses:
//!
//! 1. form: tag 399 or 907, two COSE_Sign1, listed profiles, claims each once and no others ([`Token::parse`])
//! 2. the platform token's signature by the key that the policy lists for this implementation and instance
//! 3. the realm's key is the one whose digest the platform token carries ([`same_realm`])
//! 4. the realm token's signature by that key, ES384
//!
//! Whether the realm, its platform's firmware and lifecycle are wanted is stage 2's: see [`vocabulary`].

mod vocabulary;

use super::{AuthenticClaims, Grounds, Verifier, device};
use crate::evidence::arm::key_names;
use crate::evidence::cca::Token;
use crate::evidence::{Bound, Claims, EndorsementId, Endorsements, Evidence, ReportData};
use crate::policy::Vocabulary;
use crate::refusal::{Denied, Finding, Reason};

/// The platform's verifier.
#[derive(Debug)]
pub struct Cca;

impl Verifier for Cca {
    fn vocabulary(&self) -> &'static Vocabulary {
        &vocabulary::VOCABULARY
    }

    fn read(&self, evidence: &Evidence, _: &Endorsements) -> Result<Claims, Denied> {
        Token::parse(&evidence.bytes).map(|token| token.claims())
    }

    fn bound(&self, evidence: &Evidence) -> Result<Bound, Denied> {
        Token::parse(&evidence.bytes).map(|token| Bound::Long(ReportData(token.realm.challenge)))
    }

    fn needs(&self, evidence: &Evidence) -> Result<Vec<EndorsementId>, Denied> {
        Token::parse(&evidence.bytes).map(|_| Vec::new())
    }

    fn authenticate(&self, evidence: &Evidence, _: &Endorsements, grounds: &Grounds<'_>) -> Result<AuthenticClaims, Denied> {
        let token = Token::parse(&evidence.bytes)?;
        let names = key_names(&token.platform.implementation, &token.platform.instance);
        let tee = vocabulary::VOCABULARY.tee;
        let origin = device::signed("token.platform.signature", tee, &names, &token.platform_signed, grounds)?;
        same_realm(&token)?;
        token.realm_signed.verifies("token.realm.signature", &token.realm.public_key()?)?;
        Ok(AuthenticClaims {
            platform: tee,
            claims: token.claims(),
            bound: Bound::Long(ReportData(token.realm.challenge)),
            until: device::UNBOUNDED,
            origin,
            // What is revoked is taken off the operator's own list: there is no other.
            revocation_checked: true,
        })
    }
}

/// Proves that the platform speaks for this realm's key, over its octets as they stand in the token.
fn same_realm(token: &Token<'_>) -> Result<(), Denied> {
    let digest = token.realm.key_hash.digest(&token.realm.key);
    if crate::crypto::same(&digest, &token.platform.challenge) {
        return Ok(());
    }
    let hex = data_encoding::HEXLOWER;
    let expected = format!("{} of the realm's key, {}", token.realm.key_hash.name(), hex.encode(&digest));
    Finding::new(Reason::ChainUntrusted, "token.platform.challenge", expected, hex.encode(&token.platform.challenge)).refuse()
}
