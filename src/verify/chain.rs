//! Certificate chains and revocation lists at a given time, for hardware roots: few links, each with a fixed place.
//!
//! Establishes that a signature chain holds from a pinned key down to a certificate. What a leaf says is its
//! platform's business.

use std::borrow::Cow;

use x509_parser::certificate::Validity;
use x509_parser::der_parser::{Oid, oid};
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_NIST_HASH_SHA256, OID_NIST_HASH_SHA384, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo, X509Name};

use super::memo::{SignatureMemo, verified_before, verifies_once};
use crate::crypto::Scheme;
pub(super) use crate::crypto::ecdsa_fixed;
use crate::evidence::Timestamp;
use crate::refusal::{Denied, Finding, Reason};

/// A certificate longer than this is not read.
const MAX_CERTIFICATE: usize = 8 * 1024;

/// A revocation list longer than this is not read: vendors list some dozens of intermediates.
const MAX_CRL: usize = 64 * 1024;

/// One certificate, with the name that findings use for it.
pub(super) fn certificate<'a>(what: &'static str, der: &'a [u8]) -> Result<X509Certificate<'a>, Denied> {
    const WHOLE: &str = "staple or give the certificate as its vendor serves it: this one is cut short, has something behind it, or is no certificate";
    if der.len() > MAX_CERTIFICATE {
        return distrusted(what, format!("at most {MAX_CERTIFICATE} octets"), der.len(), WHOLE);
    }
    match X509Certificate::from_der(der) {
        Ok((&[], certificate)) => Ok(certificate),
        Ok((rest, _)) => distrusted(what, "one DER certificate", format!("{} octets behind it", rest.len()), WHOLE),
        Err(error) => distrusted(what, "one DER certificate", error, WHOLE),
    }
}

/// A revocation list, with the name that findings use for it. One that cannot be read is as good as none.
pub(super) fn revocation_list<'a>(what: &'static str, der: &'a [u8]) -> Result<CertificateRevocationList<'a>, Denied> {
    if der.len() > MAX_CRL {
        return unavailable(what, format!("at most {MAX_CRL} octets"), der.len());
    }
    match CertificateRevocationList::from_der(der) {
        Ok((&[], list)) => Ok(list),
        Ok((rest, _)) => unavailable(what, "one DER certificate list", format!("{} octets behind it", rest.len())),
        Err(error) => unavailable(what, "one DER certificate list", error),
    }
}

/// A key that signs certificates, lists or statements: RSA, P-256, P-384 or P-521, as a DER SubjectPublicKeyInfo.
pub(super) struct SigningKey<'a>(SubjectPublicKeyInfo<'a>);

impl<'a> SigningKey<'a> {
    pub(super) fn of_spki(what: &'static str, spki: &'a [u8]) -> Result<Self, Denied> {
        match SubjectPublicKeyInfo::from_der(spki) {
            Ok((&[], key)) => Ok(Self(key)),
            _ => untrusted(what, "a DER public key", "other octets"),
        }
    }

    pub(super) fn of_certificate(certificate: &X509Certificate<'a>) -> Self {
        Self(certificate.tbs_certificate.subject_pki.clone())
    }

    /// The key as the schemes take it: an uncompressed point, or a PKCS#1 `RSAPublicKey`.
    pub(super) fn raw(&self) -> &[u8] {
        &self.0.subject_public_key.data
    }

    /// The scheme that an elliptic key alone implies; `None` for RSA and unknown curves.
    pub(super) fn ecdsa(&self) -> Option<Scheme> {
        crate::evidence::spki::scheme(&self.0)
    }

    /// The scheme that this key and a certificate's algorithm come to; `None` when they do not fit one another.
    fn scheme(&self, algorithm: &AlgorithmIdentifier<'_>) -> Option<Scheme> {
        if let Some(scheme) = self.ecdsa() {
            let named = match scheme {
                Scheme::EcdsaP256Sha256 => OID_SIG_ECDSA_WITH_SHA256,
                Scheme::EcdsaP384Sha384 => OID_SIG_ECDSA_WITH_SHA384,
                _ => OID_SIG_ECDSA_WITH_SHA512,
            };
            return (algorithm.algorithm == named).then_some(scheme);
        }
        if !rsa(&self.0) {
            return None;
        }
        if algorithm.algorithm == OID_PKCS1_SHA256WITHRSA {
            return Some(Scheme::RsaPkcs1Sha256);
        }
        if algorithm.algorithm == OID_PKCS1_SHA384WITHRSA {
            return Some(Scheme::RsaPkcs1Sha384);
        }
        pss(algorithm)
    }

    /// Whether a signature with these parameters over `message` is this key's.
    fn signed(&self, memo: &dyn SignatureMemo, algorithm: &AlgorithmIdentifier<'_>, message: &[u8], signature: &[u8]) -> bool {
        self.signed_as(verifies_once, memo, algorithm, message, signature)
    }

    fn signed_as(&self, verified: Verified, memo: &dyn SignatureMemo, algorithm: &AlgorithmIdentifier<'_>, message: &[u8], signature: &[u8]) -> bool {
        let Some(scheme) = self.scheme(algorithm) else { return false };
        let fixed = match scheme.half() {
            Some(half) => ecdsa_fixed(signature, half),
            None => Some(signature.to_vec()),
        };
        fixed.is_some_and(|fixed| verified(memo, scheme, self.raw(), message, &fixed))
    }
}

/// Proves that `certificate` is signed by `key` and is inside its validity.
pub(super) fn issued_by(
    what: &'static str,
    certificate: &X509Certificate<'_>,
    key: &SigningKey<'_>,
    memo: &dyn SignatureMemo,
    now: Timestamp,
) -> Result<(), Denied> {
    if !signed_by(certificate, key, memo) {
        let fix = "its issuer is another than the certificate beside it says: staple both as the vendor serves them together";
        return distrusted(what, "a signature by its issuer", UNVERIFIED, fix);
    }
    valid(what, certificate.validity(), now)
}

/// Whether `certificate` is signed by `key`, with one algorithm inside and out.
pub(super) fn signed_by(certificate: &X509Certificate<'_>, key: &SigningKey<'_>, memo: &dyn SignatureMemo) -> bool {
    signed_by_as(verifies_once, certificate, key, memo)
}

/// Which of several keys signed `certificate`. What is known goes before what is tried: a failure is not remembered, and
/// keys that are tried in vain would be every time.
pub(super) fn signer(certificate: &X509Certificate<'_>, keys: &[SigningKey<'_>], memo: &dyn SignatureMemo) -> Option<usize> {
    let by = |verified: Verified| keys.iter().position(|key| signed_by_as(verified, certificate, key, memo));
    by(verified_before).or_else(|| by(verifies_once))
}

/// One of the two ways to a signature that verifies.
type Verified = fn(&dyn SignatureMemo, Scheme, &[u8], &[u8], &[u8]) -> bool;

fn signed_by_as(verified: Verified, certificate: &X509Certificate<'_>, key: &SigningKey<'_>, memo: &dyn SignatureMemo) -> bool {
    let algorithm = &certificate.signature_algorithm;
    *algorithm == certificate.tbs_certificate.signature
        && key.signed_as(verified, memo, algorithm, certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
}

/// Proves that a certificate may issue others.
pub(super) fn is_authority(what: &'static str, certificate: &X509Certificate<'_>) -> Result<(), Denied> {
    let authority = certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca);
    let signs = certificate.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    if authority && signs {
        return Ok(());
    }
    distrusted(what, "a certificate authority", "basicConstraints or keyUsage that say otherwise", FORGED)
}

/// Proves that a certificate may issue others with `below` authorities between them and the last certificate.
pub(super) fn may_issue(what: &'static str, certificate: &X509Certificate<'_>, below: usize) -> Result<(), Denied> {
    is_authority(what, certificate)?;
    let most = certificate.basic_constraints().ok().flatten().and_then(|constraints| constraints.value.path_len_constraint);
    match most.map(usize::try_from) {
        Some(Ok(most)) if most < below => untrusted(what, format!("a path length of at least {below}"), most),
        _ => Ok(()),
    }
}

/// What a revocation list at hand says about certificates.
pub(super) struct Revocations<'a> {
    list: CertificateRevocationList<'a>,
    what: &'static str,
    /// Where it says that it is published, when it does: an issuer may spread what it revoked over several lists.
    addresses: Option<Vec<String>>,
    /// Until when it speaks.
    pub(super) until: Timestamp,
}

impl<'a> Revocations<'a> {
    /// A list signed by `key` and current at `now`; anything else is as good as none.
    pub(super) fn current(
        what: &'static str,
        der: &'a [u8],
        issuer: impl Fn(&X509Name<'_>) -> bool,
        key: &SigningKey<'_>,
        memo: &dyn SignatureMemo,
        now: Timestamp,
    ) -> Result<Self, Denied> {
        let list = revocation_list(what, der)?;
        if !issuer(list.issuer()) {
            return unavailable(what, "a list issued by the root", list.issuer());
        }
        if list.signature_algorithm != list.tbs_cert_list.signature {
            return unavailable(what, "one signature algorithm inside and out", "two");
        }
        if !key.signed(memo, &list.signature_algorithm, list.tbs_cert_list.as_ref(), &list.signature_value.data) {
            return unavailable(what, "a signature by its issuer", "none that verifies");
        }
        let begins = moment(list.last_update().timestamp());
        let Some(until) = list.next_update().map(|until| moment(until.timestamp())) else {
            return unavailable(what, "a nextUpdate", "none");
        };
        if now < begins || now > until {
            return unavailable(what, format!("a list current at {now}"), format!("one for {begins} to {until}"));
        }
        let addresses = addresses(what, &list)?;
        Ok(Self { list, what, addresses, until })
    }

    /// Refuses a certificate that the list names, or that it does not speak of.
    pub(super) fn permit(&self, what: &'static str, certificate: &X509Certificate<'_>) -> Result<(), Denied> {
        if let Some(published) = &self.addresses
            && !list_addresses(certificate).any(|address| published.iter().any(|published| published == address))
        {
            let wanted: Vec<_> = list_addresses(certificate).collect();
            return unavailable(self.what, format!("the list at {}", wanted.join(" or ")), format!("one for {}", published.join(", ")));
        }
        match self.list.iter_revoked_certificates().find(|revoked| revoked.serial() == &certificate.tbs_certificate.serial) {
            None => Ok(()),
            Some(revoked) => {
                let when = moment(revoked.revocation_date.timestamp());
                Finding::new(
                    Reason::ChainRevoked,
                    what,
                    "a certificate that is not revoked",
                    format!("serial {} revoked at {when}", certificate.raw_serial_as_string()),
                )
                .refuse()
            }
        }
    }
}

/// The addresses that a list says it is for; `None` for a list of all that its issuer revoked. One of changes alone, or of
/// some kinds of certificates, is as good as none.
fn addresses(what: &'static str, list: &CertificateRevocationList<'_>) -> Result<Option<Vec<String>>, Denied> {
    let mut addresses = None;
    for extension in list.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::IssuingDistributionPoint(point) => {
                let kinds = point.only_contains_user_certs || point.only_contains_ca_certs || point.only_contains_attribute_certs;
                let Some(DistributionPointName::FullName(names)) = point.distribution_point.as_ref().filter(|_| !kinds) else {
                    return unavailable(what, PLAIN, "one of some kinds of certificates");
                };
                if point.indirect_crl || point.only_some_reasons.is_some() {
                    return unavailable(what, PLAIN, "one for other issuers or some reasons");
                }
                addresses = Some(uris(names).map(str::to_owned).collect());
            }
            _ if extension.critical => return unavailable(what, PLAIN, format!("one with the critical extension {}", extension.oid)),
            _ => {}
        }
    }
    Ok(addresses)
}

const PLAIN: &str = "a list of all that its issuer revoked";

/// Where a certificate says that the list is which would name it.
pub(super) fn list_addresses<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    let points = certificate.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::CRLDistributionPoints(points) => Some(&points.points),
        _ => None,
    });
    let names = points.flatten().filter_map(|point| match &point.distribution_point {
        Some(DistributionPointName::FullName(names)) => Some(names),
        _ => None,
    });
    names.flat_map(|names| uris(names))
}

fn uris<'a>(names: &'a [GeneralName<'_>]) -> impl Iterator<Item = &'a str> {
    names.iter().filter_map(|name| match name {
        GeneralName::URI(address) => Some(*address),
        _ => None,
    })
}

/// The only common name of a subject or issuer.
pub(super) fn common_name<'a>(name: &'a X509Name<'_>) -> Option<&'a str> {
    let mut names = name.iter_common_name().map(|name| name.as_str().ok());
    match (names.next(), names.next()) {
        (Some(name), None) => name,
        _ => None,
    }
}

/// Seconds of a certificate's date; dates before 1970 become 1970.
pub(super) fn moment(seconds: i64) -> Timestamp {
    Timestamp(u64::try_from(seconds).unwrap_or(0))
}

/// A refusal because the chain does not hold.
pub(super) fn untrusted<T>(what: &'static str, expected: impl ToString, found: impl ToString) -> Result<T, Denied> {
    Finding::new(Reason::ChainUntrusted, what, expected.to_string(), found.to_string()).refuse()
}

/// The same with what to do about it here.
pub(super) fn distrusted<T>(what: &'static str, expected: impl ToString, found: impl ToString, fix: impl Into<Cow<'static, str>>) -> Result<T, Denied> {
    Finding::new(Reason::ChainUntrusted, what, expected.to_string(), found.to_string()).fix(fix).refuse()
}

/// What is found in place of a signature that verifies.
pub(super) const UNVERIFIED: &str = "none that verifies";

/// What no vendor ever issued.
const FORGED: &str = "no vendor issues such a certificate: it was tampered with or made by somebody else; find out where it came from";

/// A refusal because something the verdict needs is not at hand.
pub(super) fn unavailable<T>(what: &'static str, expected: impl ToString, found: impl ToString) -> Result<T, Denied> {
    Finding::new(Reason::CollateralUnavailable, what, expected.to_string(), found.to_string()).refuse()
}

/// Proves that `now` is inside a certificate's validity.
pub(super) fn valid(what: &'static str, validity: &Validity, now: Timestamp) -> Result<(), Denied> {
    let (from, until) = (moment(validity.not_before.timestamp()), moment(validity.not_after.timestamp()));
    let fix = match now {
        _ if now < from => "it is not valid yet: look at this machine's clock first, or at --at",
        _ if now > until => "it has expired: staple the one that the vendor serves now; evidence of an earlier day is judged with --at",
        _ => return Ok(()),
    };
    distrusted(what, format!("validity at {now}"), format!("{from} to {until}"), fix)
}

fn rsa(key: &SubjectPublicKeyInfo<'_>) -> bool {
    key.algorithm.algorithm == OID_PKCS1_RSAENCRYPTION
}

/// RSASSA-PSS with one digest for message and MGF1, a salt of its length and trailer field 1, written out or by default.
fn pss(algorithm: &AlgorithmIdentifier<'_>) -> Option<Scheme> {
    const MGF1: Oid<'_> = oid!(1.2.840.113549.1.1.8);
    let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) = SignatureAlgorithm::try_from(algorithm) else { return None };
    let mask = parameters.mask_gen_algorithm().ok()?;
    let digest = parameters.hash_algorithm_oid();
    if mask.mgf != MGF1 || mask.hash != *digest || parameters.trailer_field() != 1 {
        return None;
    }
    match parameters.salt_length() {
        32 if *digest == OID_NIST_HASH_SHA256 => Some(Scheme::RsaPssSha256),
        48 if *digest == OID_NIST_HASH_SHA384 => Some(Scheme::RsaPssSha384),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn an_ecdsa_signature_has_one_fixed_form() {
        assert_eq!(ecdsa_fixed(&[0x30, 6, 2, 1, 5, 2, 1, 7], 2), Some(vec![0, 5, 0, 7]));
        assert_eq!(ecdsa_fixed(&[0x30, 7, 2, 2, 0, 0x80, 2, 1, 7], 1), Some(vec![0x80, 7]), "a leading zero keeps it positive");
        assert_eq!(ecdsa_fixed(&[0x30, 6, 2, 1, 0x85, 2, 1, 7], 2), None, "negative");
        assert_eq!(ecdsa_fixed(&[0x30, 8, 2, 3, 1, 0, 0, 2, 1, 7], 2), None, "longer than the curve");
        assert_eq!(ecdsa_fixed(&[0x30, 3, 2, 1, 5], 2), None, "one number");
        // Every other first octet of each of the three, and each length in its long form.
        for at in [0, 2, 5] {
            for tag in 0..=u8::MAX {
                let mut der = [0x30, 6, 2, 1, 5, 2, 1, 7];
                let good = std::mem::replace(&mut der[at], tag) == tag;
                assert_eq!(ecdsa_fixed(&der, 2).is_some(), good, "tag {tag:#x} at {at}");
            }
        }
        for der in [&[0x30, 0x81, 6, 2, 1, 5, 2, 1, 7], &[0x30, 7, 2, 0x81, 1, 5, 2, 1, 7], &[0x30, 7, 2, 1, 5, 2, 0x81, 1, 7]] {
            assert_eq!(ecdsa_fixed(der, 2), None, "{der:02x?}");
        }
        assert_eq!(ecdsa_fixed(&[0x30, 6, 2, 1, 5, 2, 1, 7, 0], 2), None, "octets behind it");
        assert_eq!(ecdsa_fixed(b"", 2), None);
    }
}
