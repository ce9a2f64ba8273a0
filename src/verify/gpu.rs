//! NVIDIA GPUs and switches, beside a TEE's evidence: is this a genuine device in the state that NVIDIA describes?
//!
//! The steps, in their order; each one refuses:
//!
//! 1. form ([`Gpu::decode`], [`Report::parse`]); nothing behind the report
//! 2. the nonce is the one that the binding claims imply
//! 3. chain: the device's certificate up to the pinned root of NVIDIA's device identities ([`device`])
//! 4. the report's signature over the received octets
//! 5. the firmware that the certificate was issued for is the one that the report names ([`firmware`])
//! 6. reference measurements for exactly this driver and firmware, signed under NVIDIA's root, and each measurement is one of
//!    them ([`golden`]); only a file that is asked whether it is genuine, with no policy, may have none at all
//! 7. revocation: a current OCSP response for each certificate below a root ([`unrevoked`])
//!
//! Debug mode and a device out of its confidential mode show in the measurements: NVIDIA gives reference values for the
//! production state alone. A device's evidence never stands in for a TEE's.

use x509_parser::prelude::X509Certificate;

use super::Grounds;
use super::auxiliary::{Device, State};
use super::chain::{self, SigningKey, untrusted};
use super::memo::verifies_once;
use super::roots::{Anchor, Origin};
use crate::crypto::{Scheme, same, sha256, sha384};
use crate::evidence::gpu::{Gpu, Report};
pub use crate::evidence::gpu::{OCSP, RIM};
use crate::evidence::ocsp::{Der, Response, Single, Status};
use crate::evidence::rim::Rim;
use crate::evidence::{ClaimValue, Endorsements, Timestamp};
use crate::policy::{References, Revocation};
use crate::refusal::{Denied, Finding, Reason};

/// The name under which anchors are NVIDIA's.
pub const NAME: &str = "nvidia-gpu";

/// For how long an OCSP response is taken beyond its own end: NVIDIA's last a day, and its service may be away for one.
pub const GRACE: u64 = 86_400;

/// NVIDIA's roots: of device identities, and of reference measurements.
#[must_use]
pub fn anchors() -> Vec<Anchor> {
    let anchor = |name: &str, spki: &[u8]| Anchor { platform: NAME, name: name.to_owned(), spki: spki.to_vec(), origin: Origin::Vendor };
    vec![anchor("device", include_bytes!("roots/nvidia-device-identity.spki.der")), anchor("rim", include_bytes!("roots/nvidia-rim.spki.der"))]
}

/// Judges a member's value. `nonce` is what it must answer; `None` for evidence that is not of a connection.
///
/// # Errors
/// Every code about form, chain, signature, revocation and collateral; `binding_mismatch`, `measurement_unknown`.
pub fn authenticate(member: &[u8], endorsements: &Endorsements, nonce: Option<&[u8; 32]>, grounds: &Grounds<'_>) -> Result<Device, Denied> {
    let gpu = Gpu::decode(member)?;
    let (report, behind) = Report::parse(&gpu.report)?;
    if !behind.is_empty() {
        return Finding::new(Reason::EvidenceMalformed, "gpu.report", "nothing behind the signature", format!("{} octets", behind.len())).refuse();
    }
    if let Some(nonce) = nonce.filter(|nonce| !same(*nonce, &report.nonce)) {
        let hex = data_encoding::HEXLOWER;
        return Finding::new(Reason::BindingMismatch, "gpu.nonce", hex.encode(nonce), hex.encode(&report.nonce)).refuse();
    }
    let chain = certificates("gpu.certificate", &gpu.chain)?;
    let device = device(&gpu.report, &report, &chain, grounds)?;
    let (tags, missing) = tags(&report, endorsements)?;
    let mut until = device.until;
    let mut revoked = unrevoked(&chain, endorsements, grounds)?;
    for tag in &tags {
        let chain = certificates("gpu.rim.certificate", &tag.chain)?;
        until = until.min(reference(tag, &chain, grounds)?);
        revoked = revoked.zip(unrevoked(&chain, endorsements, grounds)?).map(|(a, b)| a.min(b));
    }
    golden(&report, &tags)?;
    // What is at hand may already say that the state is another: that comes before what is not at hand.
    let none_at_hand = !endorsements.iter().any(|endorsement| endorsement.name.starts_with(RIM));
    let state = match missing {
        None => State::Compared,
        Some(_) if grounds.references == References::WhenPresent && none_at_hand => State::Uncompared,
        Some(denied) => return Err(denied),
    };
    let mut claims = device.claims;
    if state == State::Compared {
        claims.push("reference_measurements", ClaimValue::Texts(tags.iter().map(|tag| format!("{} {}", tag.product, tag.version)).collect()));
    }
    claims.push("state_compared", ClaimValue::Truth(state == State::Compared));
    let until = revoked.map_or(until, |end| end.min(until));
    Ok(Device { claims, until, revocation_checked: revoked.is_some(), state, ..device })
}

/// Proves that a device under a root for device identities signed the report. Establishes nothing about its state.
///
/// # Errors
/// `chain_untrusted`, `signature_invalid`.
pub fn device(received: &[u8], report: &Report, chain: &[X509Certificate<'_>], grounds: &Grounds<'_>) -> Result<Device, Denied> {
    let (leaf, origin, until) = rooted("gpu.certificate", "device", chain, grounds)?;
    let signed = received.get(..report.signed).unwrap_or_default();
    let key = SigningKey::of_certificate(leaf);
    if key.ecdsa() != Some(Scheme::EcdsaP384Sha384) || !crate::crypto::verifies(Scheme::EcdsaP384Sha384, key.raw(), signed, &report.signature) {
        return Finding::new(Reason::SignatureInvalid, "gpu.signature", "an ECDSA P-384 signature of request and response by the device", chain::UNVERIFIED)
            .refuse();
    }
    firmware(report, leaf)?;
    let mut claims = report.claims();
    claims.push("device", ClaimValue::Text(leaf.subject().to_string()));
    claims.push("device_serial", ClaimValue::Bytes(leaf.raw_serial().to_vec()));
    // The report's own key is of the firmware too; that of its issuer is the device's.
    let identity = chain.get(1).unwrap_or(leaf).public_key().raw;
    Ok(Device { claims, identity: sha384(&[identity]), until, origin, revocation_checked: false, state: State::Uncompared })
}

/// The certificates of a chain, read.
///
/// # Errors
/// `chain_untrusted` for one that cannot be read.
pub fn certificates<'a>(what: &'static str, chain: &'a [Vec<u8>]) -> Result<Vec<X509Certificate<'a>>, Denied> {
    chain.iter().map(|der| chain::certificate(what, der)).collect()
}

/// The first certificate of a chain that ends in an anchor of this name, with its origin and the chain's end.
fn rooted<'c, 'a>(
    what: &'static str,
    name: &str,
    chain: &'c [X509Certificate<'a>],
    grounds: &Grounds<'_>,
) -> Result<(&'c X509Certificate<'a>, Origin, Timestamp), Denied> {
    let ([leaf, ..], [.., root]) = (chain, chain) else { return untrusted(what, "certificates up to a root", "none") };
    for (between, (certificate, issuer)) in chain.iter().zip(chain.iter().skip(1)).enumerate() {
        if certificate.issuer().as_raw() != issuer.subject().as_raw() {
            return untrusted(what, issuer.subject(), certificate.issuer());
        }
        chain::may_issue(what, issuer, between)?;
        chain::issued_by(what, certificate, &SigningKey::of_certificate(issuer), grounds.memo, grounds.now)?;
    }
    let anchor = grounds.anchors.of(NAME, name).find(|anchor| anchor.spki == root.public_key().raw);
    let Some(anchor) = anchor else { return untrusted(what, format!("a chain up to NVIDIA's root ({name})"), root.subject()) };
    chain::valid(what, root.validity(), grounds.now)?;
    let until = chain.iter().map(|certificate| chain::moment(certificate.validity().not_after.timestamp())).min().unwrap_or(grounds.now);
    Ok((leaf, anchor.origin, until))
}

/// TCG DICE: the digest of the firmware that a key was made for, with the device's key (`CompositeDeviceID`) or among what is
/// known of it (`DiceTcbInfo`).
const DICE_DEVICE: &str = "2.23.133.5.4.1";
const DICE_TCB: &str = "2.23.133.5.4.1.1";

/// Compares the firmware of the device's certificate with the report's, where they say it.
fn firmware(report: &Report, leaf: &X509Certificate<'_>) -> Result<(), Denied> {
    let Some(found) = report.fwid() else { return Ok(()) };
    let certified = leaf.extensions().iter().find_map(|extension| match extension.oid.to_id_string().as_str() {
        DICE_DEVICE => certified_of_device(extension.value),
        DICE_TCB => certified_of_tcb(extension.value),
        _ => None,
    });
    if certified == Some(found) {
        return Ok(());
    }
    let hex = |octets: Option<&[u8]>| octets.map_or_else(|| "none".to_owned(), |octets| data_encoding::HEXLOWER.encode(octets));
    untrusted("gpu.fwid", format!("the certificate's {}", hex(certified)), hex(Some(found)))
}

fn certified_of_device(extension: &[u8]) -> Option<&[u8]> {
    let mut fields = Der(Der(extension).take(0x30)?);
    fields.take(0x02)?;
    fields.take(0x30)?;
    identifier(fields.take(0x30)?)
}

fn certified_of_tcb(extension: &[u8]) -> Option<&[u8]> {
    let mut fields = Der(Der(extension).take(0x30)?);
    // vendor, model, version, svn, layer and index may stand before the list of digests.
    while let Some(tag) = fields.peek() {
        let content = fields.take(tag)?;
        if tag == 0xa6 {
            return identifier(Der(content).take(0x30)?);
        }
    }
    None
}

fn identifier(content: &[u8]) -> Option<&[u8]> {
    let mut identifier = Der(content);
    identifier.take(0x06)?;
    identifier.take(0x04)
}

/// Whether a certificate was made by the device itself, for the firmware it runs.
fn of_device(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().any(|extension| [DICE_DEVICE, DICE_TCB].contains(&extension.oid.to_id_string().as_str()))
}

/// The reference measurements for this driver and this firmware, out of those at hand, and what of them is not.
fn tags(report: &Report, endorsements: &Endorsements) -> Result<(Vec<Rim>, Option<Denied>), Denied> {
    let mut tags = Vec::new();
    let mut broken = None;
    for endorsement in endorsements.iter().filter(|endorsement| endorsement.name.starts_with(RIM)) {
        match Rim::parse(&endorsement.bytes) {
            Ok(tag) => tags.push(tag),
            Err(denied) => broken = Some(denied),
        }
    }
    let (mut chosen, mut lacking, mut versions) = (Vec::new(), None, 0_usize);
    for (what, version) in [("driver", report.driver_version()), ("VBIOS", report.vbios_version())] {
        let Some(version) = version else { continue };
        versions = versions.saturating_add(1);
        match tags.iter().position(|tag| tag.version.eq_ignore_ascii_case(&version)) {
            Some(at) => chosen.push(tags.swap_remove(at)),
            None => {
                let missing = || {
                    Finding::new(Reason::CollateralUnavailable, "gpu.rim", format!("NVIDIA's reference measurements of {what} {version}"), "none at hand")
                        .into()
                };
                lacking = lacking.or_else(|| Some(broken.take().unwrap_or_else(missing)));
            }
        }
    }
    if versions == 0 {
        return Finding::new(Reason::EvidenceUnsupported, "gpu.report", "a driver or firmware with a version", "none").refuse();
    }
    Ok((chosen, lacking))
}

/// Proves reference measurements NVIDIA's; returns until when.
///
/// # Errors
/// `chain_untrusted`, `signature_invalid`.
pub fn reference(tag: &Rim, chain: &[X509Certificate<'_>], grounds: &Grounds<'_>) -> Result<Timestamp, Denied> {
    let (leaf, _, until) = rooted("gpu.rim.certificate", "rim", chain, grounds)?;
    let key = SigningKey::of_certificate(leaf);
    if key.ecdsa() != Some(Scheme::EcdsaP384Sha384) || !verifies_once(grounds.memo, Scheme::EcdsaP384Sha384, key.raw(), &tag.signed, &tag.signature) {
        return Finding::new(Reason::SignatureInvalid, "gpu.rim.signature", "an XML signature by NVIDIA's signer", chain::UNVERIFIED).refuse();
    }
    Ok(until)
}

/// The video decoder's measurement, which says nothing while it is off.
const DECODER: usize = 35;

/// Compares every reference measurement with the report. Index 0 is block 1.
///
/// # Errors
/// `measurement_unknown`.
pub fn golden(report: &Report, tags: &[Rim]) -> Result<(), Denied> {
    let hex = |value: Option<&[u8; 48]>| value.map_or_else(|| "none".to_owned(), |value| data_encoding::HEXLOWER.encode(value));
    let mut findings = Vec::new();
    if tags.iter().any(|tag| tag.golden.is_empty()) {
        findings.push(Finding::new(Reason::MeasurementUnknown, "gpu.rim", "reference measurements to compare with", "a file without any"));
    }
    let mut seen: Vec<usize> = Vec::new();
    for (index, good) in tags.iter().flat_map(|tag| &tag.golden) {
        let field = || format!("gpu.measurements.{}", index.saturating_add(1));
        if seen.contains(index) {
            findings.push(Finding::new(Reason::MeasurementUnknown, field(), "one reference for it", "driver and firmware each have one"));
        }
        seen.push(*index);
        let found = report.measurements.get(*index);
        if (*index != DECODER || !report.decoder_off()) && !found.is_some_and(|found| good.contains(found)) {
            let expected: Vec<_> = good.iter().map(|value| hex(Some(value))).collect();
            findings.push(Finding::new(Reason::MeasurementUnknown, field(), expected.join(" or "), hex(found)));
        }
    }
    Denied::from_findings(findings).map_or(Ok(()), Err)
}

/// Until when OCSP responses vouch for every certificate below the root; `None` where the policy does without.
fn unrevoked(chain: &[X509Certificate<'_>], endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<Option<Timestamp>, Denied> {
    let mut until = None;
    for (at, (certificate, issuer)) in chain.iter().zip(chain.iter().skip(1)).enumerate() {
        // The device's own certificate is made by the device: nobody can list it.
        if at == 0 && of_device(certificate) {
            continue;
        }
        match vouched(certificate, issuer, endorsements, grounds) {
            Ok(end) => until = Some(until.map_or(end, |until: Timestamp| until.min(end))),
            Err(denied) if denied.reason() == Reason::CollateralUnavailable && grounds.revocation == Revocation::WhenPresent => return Ok(None),
            Err(denied) => return Err(denied),
        }
    }
    Ok(until)
}

/// Until when an OCSP response at hand vouches for one certificate.
fn vouched(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<Timestamp, Denied> {
    for endorsement in endorsements.iter().filter(|endorsement| endorsement.name.starts_with(OCSP)) {
        let Ok(response) = Response::parse(&endorsement.bytes) else { continue };
        let Some(single) = response.singles.iter().find(|single| about(single, certificate, issuer)) else { continue };
        if !answered(&response, issuer, grounds) {
            continue;
        }
        if single.status == Status::Revoked {
            return Finding::new(Reason::ChainRevoked, "gpu.ocsp", format!("{} not revoked", certificate.subject()), "revoked or on hold").refuse();
        }
        let end = single.next_update.unwrap_or(single.this_update).plus(GRACE);
        if single.status == Status::Good && single.this_update <= grounds.now.plus(CLOCK_SKEW) && grounds.now <= end {
            return Ok(end);
        }
    }
    chain::unavailable("gpu.ocsp", format!("a current OCSP response for {}", certificate.subject()), "none at hand")
}

const CLOCK_SKEW: u64 = 120;
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];

fn about(single: &Single<'_>, certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    let (name, key) = (issuer.subject().as_raw(), issuer.public_key().subject_public_key.data.as_ref());
    let same_issuer = match single.hash {
        SHA256 => single.issuer_name == sha256(&[name]) && single.issuer_key == sha256(&[key]),
        SHA384 => single.issuer_name == sha384(&[name]) && single.issuer_key == sha384(&[key]),
        _ => false,
    };
    same_issuer && single.serial == certificate.raw_serial()
}

/// Whether a responder whom the issuer authorised signed.
fn answered(response: &Response<'_>, issuer: &X509Certificate<'_>, grounds: &Grounds<'_>) -> bool {
    let Ok(responder) = chain::certificate("gpu.ocsp.responder", response.responder) else { return false };
    let authorised = responder.extended_key_usage().ok().flatten().is_some_and(|usage| usage.value.ocsp_signing);
    let issued = chain::issued_by("gpu.ocsp.responder", &responder, &SigningKey::of_certificate(issuer), grounds.memo, grounds.now).is_ok();
    let key = SigningKey::of_certificate(&responder);
    let Some(scheme) = key.ecdsa() else { return false };
    let signature = scheme.half().and_then(|half| chain::ecdsa_fixed(response.signature, half));
    // ecdsa-with-SHA384 for P-384, ecdsa-with-SHA256 for P-256: what the key implies.
    authorised && issued && signature.is_some_and(|signature| verifies_once(grounds.memo, scheme, key.raw(), response.signed, &signature))
}
