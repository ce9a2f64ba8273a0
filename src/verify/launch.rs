//! Google's endorsement of the firmware that a machine of its cloud started with: its word that a launch measurement is that
//! of firmware it built. What booted after the firmware it does not say.
//!
//! The steps, in their order; each one refuses:
//!
//! 1. form ([`LaunchEndorsement::parse`])
//! 2. the signer's certificate leads to Google's root (`certified`), pinned by the digest of its certificate
//! 3. the signature over the received octets
//! 4. the measurement of the hardware's own report is among those endorsed
//!
//! Google publishes no revocation lists for these certificates.

use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use super::chain::{self, SigningKey, untrusted};
use super::memo::verifies_once;
use super::tpm::Certified;
use super::{Grounds, Origin};
use crate::crypto::{Scheme, sha256};
use crate::evidence::launch::{Golden, LaunchEndorsement, Launches, NAME};
use crate::evidence::{ClaimValue, Claims, Endorsement, EndorsementId, Endorsements};
use crate::policy::{Accept, Always, Entry, Field, Rule, Unset};
use crate::refusal::{Denied, Finding, Reason};

/// The policy keys of the endorsement.
pub(super) const FIELDS: &[Field] = &[
    Field {
        key: "endorsement_required",
        doc: "Whether Google's launch endorsement must name the measurement: its signed word that the firmware is one it built. An endorsement that comes along is judged in any case.",
        rule: Rule::Required { claim: "launch_endorsement" },
        unset: Unset::Unjudged,
        reason: Reason::CollateralUnavailable,
        always: Always::Policy,
    },
    Field {
        key: "min_firmware_svn",
        doc: "The least security version of Google's firmware, as its launch endorsement says. Needs an endorsement.",
        rule: Rule::Minimum { claim: "firmware_svn", beside: None },
        unset: Unset::Unjudged,
        reason: Reason::TcbTooLow,
        always: Always::Policy,
    },
];

/// The name of Google's root, and the platform under which others of that name are kept.
pub(super) const ROOT: (&str, &str) = ("sev-snp", "gce-cc-tcb-root");

/// SHA-256 of the certificate of GCE-cc-tcb-root, version 1, as its owner publishes it. The certificate itself comes with
/// each endorsement.
const ROOT_DIGEST: [u8; 32] = [
    0xe8, 0x76, 0xbc, 0x69, 0x78, 0xbf, 0x4f, 0x3d, 0xa4, 0x45, 0xf9, 0x8a, 0x0a, 0x82, 0x36, 0x3c, 0x8c, 0x0b, 0xae, 0x5a, 0x1f, 0xc0, 0x33, 0xc6, 0xdf, 0x65,
    0x84, 0x6a, 0x6c, 0xb0, 0xf1, 0x8c,
];

/// The short name of the root's certificate, where an endorsement comes without.
const ROOT_NAME: &str = "gce_root";

/// The most certificates above the signer's.
const MAX_AUTHORITIES: usize = 3;

/// A kind of hardware that firmware is endorsed for.
#[derive(Debug)]
pub(super) struct Hardware {
    /// The part of an endorsement that is about it.
    part: fn(&Golden) -> Option<&Launches>,
    /// The folder of its endorsements where Google publishes them, each by its measurement.
    folder: &'static str,
    /// The key of policies that pins its measurement.
    pinned: &'static str,
}

/// SEV-SNP.
pub(super) static SEV_SNP: Hardware = Hardware { part: |golden| golden.sev_snp.as_ref(), folder: "sevsnp", pinned: "measurement" };

/// TDX.
pub(super) static TDX: Hardware = Hardware { part: |golden| golden.tdx.as_ref(), folder: "tdx", pinned: "mrtd" };

impl Hardware {
    /// Where Google publishes the endorsement of a measurement.
    pub(super) fn published(&self, measurement: &[u8]) -> EndorsementId {
        EndorsementId { name: NAME, path: format!("{PUBLISHED}{}", self.place(measurement)) }
    }

    fn place(&self, measurement: &[u8]) -> String {
        format!("/gce_tcb_integrity/ovmf_x64_csm/{}/{}.binarypb", self.folder, data_encoding::HEXLOWER.encode(measurement))
    }

    /// The endorsements that an entry of a policy will need: those of the measurements that it pins.
    pub(super) fn foreseen(&self, entry: &Entry) -> Vec<EndorsementId> {
        let of = |key: &str| entry.constraints.iter().find(|constraint| constraint.field.key == key).map(|constraint| &constraint.accept);
        match of(self.pinned).filter(|_| FIELDS.iter().any(|field| of(field.key).is_some())) {
            Some(Accept::Bytes(measurements)) => measurements.iter().map(|measurement| self.published(measurement)).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether an item is Google's endorsement of the measurement that its place names: before it is kept.
    pub(super) fn vouch(&self, id: &EndorsementId, item: &Endorsement, grounds: &Grounds<'_>) -> Result<(), Denied> {
        let endorsement = LaunchEndorsement::parse(&item.bytes)?;
        certified(&endorsement, &Endorsements::default(), grounds)?;
        let mut named = (self.part)(&endorsement.golden).into_iter().flat_map(|launches| &launches.measurements);
        if named.any(|(_, measurement)| self.place(measurement) == id.path) {
            return Ok(());
        }
        Finding::new(Reason::MeasurementUnknown, NAME, id.path.clone(), "an endorsement of other measurements").refuse()
    }
}

/// The service that publishes them.
const PUBLISHED: &str = "https://storage.googleapis.com";

/// Proves the endorsement at hand, if there is one, to be Google's and about `measurement`.
///
/// # Errors
/// `chain_untrusted`, `signature_invalid`, `measurement_unknown`, and those of form.
pub(super) fn beside(measurement: &[u8; 48], hardware: &Hardware, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<Option<Certified>, Denied> {
    let Some(bytes) = endorsements.find(NAME) else { return Ok(None) };
    let endorsement = LaunchEndorsement::parse(bytes)?;
    let certified = certified(&endorsement, endorsements, grounds)?;
    names(&endorsement.golden, measurement, hardware)?;
    Ok(Some(certified))
}

/// What the endorsement says about the measurement, where it names it.
pub(super) fn claims(measurement: &[u8; 48], hardware: &Hardware, endorsements: &Endorsements, claims: &mut Claims) {
    let Some(Ok(endorsement)) = endorsements.find(NAME).map(LaunchEndorsement::parse) else { return };
    let Ok(launches) = names(&endorsement.golden, measurement, hardware) else { return };
    claims.push("launch_endorsement", ClaimValue::Text("google".to_owned()));
    claims.push("firmware_svn", ClaimValue::Integer(launches.svn));
    claims.push("firmware_digest", ClaimValue::Bytes(endorsement.golden.digest.clone()));
    claims.push("firmware_signed_at", ClaimValue::Text(endorsement.golden.signed_at.to_string()));
}

fn names<'a>(golden: &'a Golden, measurement: &[u8; 48], hardware: &Hardware) -> Result<&'a Launches, Denied> {
    let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
    let endorsed = (hardware.part)(golden).filter(|launches| launches.measurements.iter().any(|(_, value)| value == measurement));
    endorsed.ok_or_else(|| {
        let known = (hardware.part)(golden).map_or(0, |launches| launches.measurements.len());
        let found = format!("{} is none of its {known} measurements for this hardware", hex(measurement));
        Finding::new(Reason::MeasurementUnknown, NAME, "an endorsement of the measurement in the report", found)
            .fix("it is of another build of the firmware: staple the one that Google publishes for this measurement, or none")
            .into()
    })
}

/// Proves the chain from the root to the signer, and the signature.
fn certified(endorsement: &LaunchEndorsement, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<Certified, Denied> {
    let mut ders = bundle(&endorsement.golden.ca_bundle)?;
    if ders.is_empty() {
        ders.extend(endorsements.find(ROOT_NAME).map(<[u8]>::to_vec));
    }
    let authorities: Vec<X509Certificate<'_>> = ders.iter().map(|der| chain::certificate(NAME, der)).collect::<Result<_, _>>()?;
    let (Some(root), Some(root_der), Some(issuer)) = (authorities.first(), ders.first(), authorities.last()) else {
        return untrusted(NAME, "the certificate of Google's root, in it or beside it", "none");
    };
    let origin = rooted(root, root_der, grounds)?;
    for pair in authorities.windows(2) {
        let [above, below] = pair else { continue };
        issued(below, above, grounds)?;
        chain::is_authority(NAME, below)?;
    }
    chain::is_authority(NAME, root)?;
    chain::valid(NAME, root.validity(), grounds.now)?;
    let signer = chain::certificate(NAME, &endorsement.golden.certificate)?;
    issued(&signer, issuer, grounds)?;
    if signer.key_usage().ok().flatten().is_some_and(|usage| !usage.value.digital_signature()) {
        return untrusted(NAME, "a certificate that may sign", "a keyUsage that says otherwise");
    }
    let key = SigningKey::of_certificate(&signer);
    if key.ecdsa().is_some() || !verifies_once(grounds.memo, Scheme::RsaPssSha256, key.raw(), &endorsement.signed, &endorsement.signature) {
        return Finding::new(Reason::SignatureInvalid, NAME, "Google's signature over its octets as they were received (RSA-PSS, SHA-256)", chain::UNVERIFIED)
            .refuse();
    }
    let ends = authorities.iter().chain(std::iter::once(&signer)).map(|certificate| chain::moment(certificate.validity().not_after.timestamp()));
    Ok(Certified { until: ends.min().unwrap_or(grounds.now), origin })
}

fn issued(below: &X509Certificate<'_>, above: &X509Certificate<'_>, grounds: &Grounds<'_>) -> Result<(), Denied> {
    if below.issuer().as_raw() != above.subject().as_raw() {
        return untrusted(NAME, above.subject(), below.issuer());
    }
    chain::issued_by(NAME, below, &SigningKey::of_certificate(above), grounds.memo, grounds.now)
}

/// Whose root it is: Google's by the digest of its certificate, another's that is trusted by its key.
fn rooted(root: &X509Certificate<'_>, der: &[u8], grounds: &Grounds<'_>) -> Result<Origin, Denied> {
    if sha256(&[der]) == ROOT_DIGEST {
        return Ok(Origin::Vendor);
    }
    let trusted = grounds.anchors.of(ROOT.0, ROOT.1).find(|anchor| anchor.spki == root.public_key().raw);
    trusted.map(|anchor| anchor.origin).ok_or_else(|| {
        let expected = format!("the certificate with the SHA-256 {}", data_encoding::HEXLOWER.encode(&ROOT_DIGEST));
        Finding::new(Reason::ChainUntrusted, NAME, expected, format!("one of {}", root.subject())).into()
    })
}

/// The certificates of a PEM bundle, as many as a chain has.
fn bundle(pem: &[u8]) -> Result<Vec<Vec<u8>>, Denied> {
    let mut ders = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        match block {
            Ok(block) if block.label == "CERTIFICATE" && ders.len() < MAX_AUTHORITIES => ders.push(block.contents),
            Ok(_) => return untrusted(NAME, format!("at most {MAX_AUTHORITIES} certificates above the signer's"), "more, or something else"),
            Err(error) => return untrusted(NAME, "certificates in PEM", error),
        }
    }
    Ok(ders)
}
