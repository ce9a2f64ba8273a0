//! PSA tokens, stage 1: is this token a genuine device's, whose key the operator lists?
//!
//! The steps, in their order; each one refuses:
//!
//! 1. form: COSE_Sign1 and no MAC, a listed profile, claims each once and no others ([`Token::parse`])
//! 2. the signature by the key that the policy lists for this implementation and instance
//!
//! Whether the device, its firmware, its lifecycle and the side of TrustZone that asked are wanted is stage 2's: see
//! [`vocabulary`].

mod vocabulary;

use super::{AuthenticClaims, Grounds, Verifier, device};
use crate::evidence::arm::key_names;
use crate::evidence::psa::Token;
use crate::evidence::{Bound, Claims, EndorsementId, Endorsements, Evidence, ReportData};
use crate::policy::Vocabulary;
use crate::refusal::Denied;

/// The platform's verifier.
#[derive(Debug)]
pub struct Psa;

impl Verifier for Psa {
    fn vocabulary(&self) -> &'static Vocabulary {
        &vocabulary::VOCABULARY
    }

    fn read(&self, evidence: &Evidence, _: &Endorsements) -> Result<Claims, Denied> {
        Token::parse(&evidence.bytes).map(|(sign1, token)| token.claims(&sign1))
    }

    fn bound(&self, evidence: &Evidence) -> Result<Bound, Denied> {
        Token::parse(&evidence.bytes).map(|(_, token)| bound(&token))
    }

    fn needs(&self, evidence: &Evidence) -> Result<Vec<EndorsementId>, Denied> {
        Token::parse(&evidence.bytes).map(|_| Vec::new())
    }

    fn authenticate(&self, evidence: &Evidence, _: &Endorsements, grounds: &Grounds<'_>) -> Result<AuthenticClaims, Denied> {
        let (sign1, token) = Token::parse(&evidence.bytes)?;
        let tee = vocabulary::VOCABULARY.tee;
        let origin = device::signed("token.signature", tee, &key_names(&token.implementation, &token.instance), &sign1, grounds)?;
        Ok(AuthenticClaims {
            platform: tee,
            claims: token.claims(&sign1),
            bound: bound(&token),
            until: device::UNBOUNDED,
            origin,
            // What is revoked is taken off the operator's own list: there is no other.
            revocation_checked: true,
        })
    }
}

/// The nonce: all of a challenge, or of devices that take no more its short form.
fn bound(token: &Token) -> Bound {
    let nonce = token.nonce.as_slice();
    match (nonce.try_into(), nonce.try_into()) {
        (Ok(long), _) => Bound::Long(ReportData(long)),
        (_, Ok(short)) => Bound::Short(short),
        _ => Bound::Other(nonce.to_vec()),
    }
}
