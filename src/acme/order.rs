//! One order from its beginning to a published certificate.

use std::time::Duration;

use instant_acme::{AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus, RetryPolicy};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use webpki::EndEntityCert;

use super::account::{self, failed};
use super::pace::Validity;
use super::{Answers, Authority, Failure, Given, Wanted};
use crate::clock::Clock;
use crate::tls::certificate::Leaf;
use crate::tls::challenge::Shown;

/// How long the CA may take to look for answers, and then to issue.
const POLLING: RetryPolicy = RetryPolicy::new().initial_delay(Duration::from_millis(200)).backoff(1.5).timeout(Duration::from_secs(60));

/// A chain has the leaf and what stands between it and a root.
const MAX_CHAIN: usize = 8;

/// What is shown to the CA while an order is open.
#[expect(dead_code, reason = "held, never read: what is shown ends with it")]
enum Held {
    Http(Given),
    Tls(Shown),
}

/// Gets a certificate and publishes it.
pub(super) async fn obtain(authority: &Authority, wanted: &Wanted, clock: &Clock) -> Result<Validity, Failure> {
    let account = account::open(authority).await?;
    let identifiers: Vec<Identifier> = wanted.names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = match account.0.new_order(&NewOrder::new(&identifiers)).await {
        Ok(order) => order,
        Err(error) => {
            if is_unknown_account(&error) {
                account::forget(authority).await?;
            }
            return Err(failed(error));
        }
    };
    let shown = prove(&mut order, wanted, clock).await?;
    match order.poll_ready(&POLLING).await {
        Ok(OrderStatus::Ready | OrderStatus::Valid) => {}
        Ok(_) => return Err(Failure::Refused(complaints(&mut order).await.unwrap_or_else(|| "the order is invalid, and it does not say why".to_owned()))),
        // Some CAs look again and again, and say what they saw.
        Err(error) => return Err(complaints(&mut order).await.map_or_else(|| failed(error), Failure::Refused)),
    }
    drop(shown);
    // A key for each certificate; it leaves this process nowhere.
    let made = |error: rcgen::Error| Failure::State(error.to_string());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(made)?;
    let mut params = CertificateParams::new(wanted.names.clone()).map_err(made)?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(made)?;
    order.finalize_csr(request.der()).await.map_err(failed)?;
    let pem = order.poll_certificate(&POLLING).await.map_err(failed)?;
    let chain = chain(&pem, &wanted.names)?;
    let leaf = chain.first().map(|leaf| Leaf::read_public(leaf)).transpose().map_err(|denied| Failure::Unusable(denied.to_string()))?;
    let facts = leaf.as_ref().map(Leaf::facts).ok_or_else(|| Failure::Unusable("no certificate".to_owned()))?;
    let validity = Validity { not_before: facts.not_before, not_after: facts.not_after };
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    wanted.identity.publish(chain, der).map_err(|error| Failure::Unusable(error.to_string()))?;
    Ok(validity)
}

/// Shows the answers that the CA wants, then tells it to look.
async fn prove(order: &mut Order, wanted: &Wanted, clock: &Clock) -> Result<Vec<Held>, Failure> {
    let mut held = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(failed)?;
        let name = match authorization.identifier().identifier {
            Identifier::Dns(name) if wanted.names.contains(name) => name.clone(),
            other => return Err(Failure::Unusable(format!("a question about {other:?}, which nobody asked for"))),
        };
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            other => return Err(Failure::Refused(format!("the authorization for {name} is {other:?}"))),
        }
        let (kind, called) = match wanted.answers {
            Answers::Http01(_) => (ChallengeType::Http01, "http-01"),
            Answers::TlsAlpn01(_) => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
        };
        let offered = authorization.challenge(kind);
        let mut challenge = offered.ok_or_else(|| Failure::Refused(format!("it offers no {called} for {name}: choose another acme.challenge")))?;
        let authorized = challenge.key_authorization();
        held.push(match &wanted.answers {
            Answers::Http01(tokens) => {
                Held::Http(tokens.give(&challenge.token, authorized.as_str()).ok_or_else(|| Failure::State("too many challenges at a time".to_owned()))?)
            }
            Answers::TlsAlpn01(challenges) => {
                let digest = crate::crypto::sha256(&[authorized.as_str().as_bytes()]);
                Held::Tls(challenges.show(&name, &digest, clock).map_err(|error| Failure::State(error.to_string()))?)
            }
        });
        challenge.set_ready().await.map_err(failed)?;
    }
    Ok(held)
}

/// What the CA says about the challenges that failed.
async fn complaints(order: &mut Order) -> Option<String> {
    let mut said = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        said.extend(authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref()).map(ToString::to_string));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

/// The certificates in what the CA gave; the first is valid for every name.
fn chain(pem: &str, names: &[String]) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let unusable = |why: String| Failure::Unusable(why);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CHAIN + 1).collect();
    let chain = chain.map_err(|error| unusable(error.to_string()))?;
    let leaf = chain.first().filter(|_| chain.len() <= MAX_CHAIN).ok_or_else(|| unusable(format!("a chain of {} certificates", chain.len())))?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| unusable(error.to_string()))?;
    for name in names {
        let valid = ServerName::try_from(name.as_str()).is_ok_and(|name| leaf.verify_is_valid_for_subject_name(&name).is_ok());
        if !valid {
            return Err(unusable(format!("a certificate that is not for {name}")));
        }
    }
    Ok(chain)
}

fn is_unknown_account(error: &instant_acme::Error) -> bool {
    let unknown = "urn:ietf:params:acme:error:accountDoesNotExist";
    matches!(error, instant_acme::Error::Api(problem) if problem.r#type.as_deref() == Some(unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> String {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).expect("names");
        params.self_signed(&key).expect("a certificate").pem()
    }

    #[test]
    fn a_chain_is_for_every_name_and_no_longer_than_chains_are() {
        let (both, one) = (certificate(&["a.example", "b.example"]), certificate(&["a.example"]));
        let names = ["a.example".to_owned(), "b.example".to_owned()];
        assert_eq!(chain(&format!("{both}{one}"), &names).map(|chain| chain.len()), Ok(2));
        for bad in
            [one.clone(), format!("{one}{both}"), String::new(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), both.repeat(9)]
        {
            assert!(matches!(chain(&bad, &names), Err(Failure::Unusable(_))), "{bad}");
        }
    }
}
