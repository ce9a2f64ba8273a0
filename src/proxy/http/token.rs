//! The verified identity of a client as a signed token, for applications that believe a signature and no hop: an EAT
//! attestation result (draft-ietf-rats-ear-04) as a JWT (RFC 7519), signed with ES256 by a key of this process.
//!
//! Who serves the public keys is `admin`; here they are published to it, each long before and long after it signs.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hyper::header::HeaderValue;
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::admin::jwks::Jwks;
use crate::crypto::{Scheme, sha256};
use crate::evidence::Timestamp;
use crate::evidence::spki::EllipticKey;
use crate::proxy::admit::{Admitted, Ground};
use crate::refusal::{Denied, Finding, Reason};
use crate::verify::{AttestationResult, Origin};

/// How long a token is good, in seconds; never longer than the verdict that it tells.
const LIFE: u64 = 300;

/// How long a key signs. All that time the next one is published already.
const KEY_LIFE: u64 = 86_400;

/// How long a key that signs no more is published: longer than any token and any difference of clocks.
const KEY_AFTER: u64 = 3600;

/// Signs tokens, with keys that are made in this process and never leave it.
#[derive(Debug)]
pub struct Signer {
    keys: Mutex<Keys>,
    published: Arc<Jwks>,
}

#[derive(Debug)]
struct Keys {
    signing: Key,
    next: Key,
    /// With the end of their publication.
    old: Vec<(Value, Timestamp)>,
    since: Timestamp,
}

struct Key {
    pair: EcdsaKeyPair,
    id: String,
    public: Value,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Key").field(&self.id).finish()
    }
}

impl Key {
    fn make() -> Result<Self, Denied> {
        let failed = |_| unsigned("a P-256 key", "none: the cryptography of this process failed");
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
        let members = elliptic("P-256", pair.public_key().as_ref(), 32).ok_or_else(|| unsigned("a P-256 key", "another"))?;
        let id = thumbprint(&members);
        let mut public = members;
        if let Some(object) = public.as_object_mut() {
            for (name, value) in [("use", "sig"), ("alg", "ES256"), ("kid", id.as_str())] {
                object.insert(name.to_owned(), value.into());
            }
        }
        Ok(Self { pair, id, public })
    }
}

impl Signer {
    /// Makes the first keys and publishes them.
    ///
    /// # Errors
    /// `tls_unacceptable` when this process can make no keys.
    pub fn start(published: Arc<Jwks>, now: Timestamp) -> Result<Arc<Self>, Denied> {
        let keys = Keys { signing: Key::make()?, next: Key::make()?, old: Vec::new(), since: now };
        published.publish(keys.document());
        Ok(Arc::new(Self { keys: Mutex::new(keys), published }))
    }

    /// The claims as a compact JWS.
    fn sign(&self, claims: &Value, now: Timestamp) -> Result<String, Denied> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.rotate(now)? {
            self.published.publish(keys.document());
        }
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": keys.signing.id });
        let signed = format!("{}.{}", BASE64URL_NOPAD.encode(header.to_string().as_bytes()), BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
        let signature = keys.signing.pair.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| unsigned("a signature", "none: the cryptography of this process failed"))?;
        Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref())))
    }
}

impl Keys {
    /// Lets the next key sign when it is time; whether it was.
    fn rotate(&mut self, now: Timestamp) -> Result<bool, Denied> {
        if now < self.since.plus(KEY_LIFE) {
            return Ok(false);
        }
        let next = std::mem::replace(&mut self.next, Key::make()?);
        let before = std::mem::replace(&mut self.signing, next);
        self.old.retain(|(_, until)| now < *until);
        self.old.push((before.public, now.plus(KEY_AFTER)));
        self.since = now;
        Ok(true)
    }

    fn document(&self) -> String {
        let keys: Vec<&Value> = [&self.signing.public, &self.next.public].into_iter().chain(self.old.iter().map(|(public, _)| public)).collect();
        json!({ "keys": keys }).to_string()
    }
}

/// How tokens of a listener are made out.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// What signs them.
    pub signer: Arc<Signer>,
    /// `aud`.
    pub audience: String,
    /// `iss`, where there is one.
    pub issuer: Option<String>,
}

/// The token of one connection: signed anew when half of its life is over, and not for each request.
#[derive(Debug)]
pub(super) struct Token {
    plan: Tokens,
    confirmation: Value,
    submodule: Value,
    made: Mutex<Option<Made>>,
}

#[derive(Debug)]
struct Made {
    issued: Timestamp,
    expires: Timestamp,
    value: HeaderValue,
}

impl Token {
    /// For a client that proved itself; `None` for any other.
    pub(super) fn of(admitted: &Admitted, plan: &Tokens) -> Option<Self> {
        let Ground::Attested(tier, result) = &admitted.ground else { return None };
        let leaf = admitted.certificate.as_ref()?;
        Some(Self { plan: plan.clone(), confirmation: confirmation(leaf)?, submodule: submodule(result, tier.name()), made: Mutex::default() })
    }

    /// The token at `now`, for a verdict that holds to `until`.
    ///
    /// # Errors
    /// When the verdict holds no longer, or nothing can be signed: then nothing is told, and nothing forwarded.
    pub(super) fn value(&self, now: Timestamp, until: Timestamp) -> Result<HeaderValue, Denied> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |made: &&Made| made.issued <= now && now.0 < made.issued.0.midpoint(made.expires.0);
        if let Some(made) = made.as_ref().filter(fresh) {
            return Ok(made.value.clone());
        }
        let expires = now.plus(LIFE).min(until);
        if expires <= now {
            return Finding::new(Reason::EvidenceStale, "verdict.until", format!("after {now}"), until.to_string()).refuse();
        }
        let id = crate::tls::nonce()?;
        let mut claims = json!({
            "eat_profile": "tag:ietf.org,2026:rats/ear#04",
            "aud": self.plan.audience,
            "iat": now.0,
            "exp": expires.0,
            "jti": BASE64URL_NOPAD.encode(id.get(..16).unwrap_or_default()),
            "cnf": self.confirmation,
            "ear_verifier_id": { "developer": "Portcullis", "build": concat!("portcullis ", env!("CARGO_PKG_VERSION")) },
            "submods": { "cpu0": self.submodule },
        });
        if let (Some(issuer), Some(object)) = (&self.plan.issuer, claims.as_object_mut()) {
            object.insert("iss".to_owned(), issuer.as_str().into());
        }
        let token = self.plan.signer.sign(&claims, now)?;
        let value = HeaderValue::try_from(token).map_err(|_| unsigned("a field's value", "another"))?;
        *made = Some(Made { issued: now, expires, value: value.clone() });
        Ok(value)
    }
}

/// What is confirmed to be the client's: its key, by its thumbprint (RFC 9449 6.1), and the certificate that the
/// connection was made with (RFC 8705 3.1).
fn confirmation(leaf: &[u8]) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let spki = certificate.public_key();
    let key = match EllipticKey::of_spki(spki.raw) {
        Some(EllipticKey { scheme: Scheme::EcdsaP256Sha256, point }) => elliptic("P-256", &point, 32)?,
        Some(EllipticKey { scheme: Scheme::EcdsaP384Sha384, point }) => elliptic("P-384", &point, 48)?,
        Some(_) => return None,
        None => json!({ "crv": "Ed25519", "kty": "OKP", "x": BASE64URL_NOPAD.encode(&spki.subject_public_key.data) }),
    };
    Some(json!({ "jkt": thumbprint(&key), "x5t#S256": BASE64URL_NOPAD.encode(&sha256(&[leaf])) }))
}

/// The verdict. About what code runs nothing is claimed beyond the entry of the policy that it was accepted for: that is
/// where it says what was pinned.
fn submodule(result: &AttestationResult, tier: &str) -> Value {
    let appraisal = result.appraisal();
    let hardware = match appraisal.origin() {
        Origin::Operator | Origin::Vendor => GENUINE,
        Origin::Simulator => UNRECOGNIZED_HARDWARE,
    };
    let observed = !appraisal.observed().is_empty();
    let mut vector = json!({ "hardware": hardware });
    if let (true, Some(object)) = (observed, vector.as_object_mut()) {
        object.insert("executables".to_owned(), UNRECOGNIZED_RUNTIME.into());
    }
    let status = match (appraisal.origin(), observed) {
        (Origin::Simulator, _) => "contraindicated",
        (Origin::Operator | Origin::Vendor, true) => "warning",
        (Origin::Operator | Origin::Vendor, false) => "affirming",
    };
    let mut attester = json!({ "tee": appraisal.platform() });
    if let (Some(measurement), Some(object)) = (appraisal.claims().find("measurement"), attester.as_object_mut()) {
        object.insert("measurement".to_owned(), measurement.to_string().into());
    }
    json!({
        "ear_status": status,
        "ear_trustworthiness_vector": vector,
        "ear_appraisal_policy_ids": [appraisal.policy(), format!("sha256:{}", HEXLOWER.encode(appraisal.policy_digest()))],
        "ear_attester_claims": { "portcullis": attester },
        "ear_verifier_claims": { "portcullis": { "entry": appraisal.entry(), "freshness": tier, "revocation_checked": appraisal.revocation_checked() } },
    })
}

/// The members of an elliptic JWK that its thumbprint is of.
fn elliptic(curve: &str, point: &[u8], half: usize) -> Option<Value> {
    let (x, y) = point.strip_prefix(&[4]).filter(|rest| rest.len() == half * 2)?.split_at_checked(half)?;
    Some(json!({ "crv": curve, "kty": "EC", "x": BASE64URL_NOPAD.encode(x), "y": BASE64URL_NOPAD.encode(y) }))
}

/// RFC 7638: of the required members alone, in the order of the alphabet, which is theirs in this file.
fn thumbprint(members: &Value) -> String {
    BASE64URL_NOPAD.encode(&sha256(&[members.to_string().as_bytes()]))
}

fn unsigned(expected: &'static str, found: &'static str) -> Denied {
    Finding::new(Reason::TlsUnacceptable, "identity.token", expected, found).into()
}

/// Values of draft-ietf-rats-ar4si, section 2.3.
const GENUINE: i8 = 2;
const UNRECOGNIZED_RUNTIME: i8 = 33;
const UNRECOGNIZED_HARDWARE: i8 = 97;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::EARLIEST;

    fn kids(published: &Jwks) -> Vec<String> {
        let document: Value = serde_json::from_str(&published.document()).expect("JSON");
        document["keys"].as_array().expect("keys").iter().map(|key| key["kid"].as_str().expect("an id").to_owned()).collect()
    }

    fn kid(token: &str) -> String {
        let header = BASE64URL_NOPAD.decode(token.split('.').next().expect("a header").as_bytes()).expect("base64url");
        serde_json::from_slice::<Value>(&header).expect("JSON")["kid"].as_str().expect("an id").to_owned()
    }

    #[test]
    fn a_thumbprint_is_that_of_the_standard() {
        // RFC 7638 3.1 has an RSA key; the order of the members is what can be wrong.
        let key = json!({ "e": "AQAB", "kty": "RSA", "n": "x" });
        assert_eq!(key.to_string(), r#"{"e":"AQAB","kty":"RSA","n":"x"}"#);
        assert_eq!(elliptic("P-256", &[4; 65], 32).expect("a point").to_string().find("crv"), Some(2));
        assert!(elliptic("P-256", &[4; 64], 32).is_none() && elliptic("P-256", &[3; 65], 32).is_none());
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_after() {
        let published = Arc::new(Jwks::new());
        let signer = Signer::start(Arc::clone(&published), EARLIEST).expect("keys");
        let sign = |now| kid(&signer.sign(&json!({}), now).expect("a token"));
        let first = sign(EARLIEST);
        let next = kids(&published)[1].clone();
        assert_eq!(kids(&published)[0], first);
        assert_eq!(sign(EARLIEST.plus(KEY_LIFE - 1)), first);
        let second = sign(EARLIEST.plus(KEY_LIFE));
        assert_eq!(second, next, "a key signed that nobody had seen");
        assert!(kids(&published).contains(&first) && kids(&published).len() == 3);
        let third = sign(EARLIEST.plus(KEY_LIFE * 2));
        assert!(third != second && kids(&published).contains(&second) && !kids(&published).contains(&first));
        // A clock that is set back rotates nothing.
        assert_eq!(sign(EARLIEST), third);
    }
}
