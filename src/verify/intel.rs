//! Intel's quotes, stage 1, what enclaves and trust domains have in common: the chain from the quote to Intel's root, the
//! collateral, and what Intel says of the machine's TCB.
//!
//! The steps, in their order; each one refuses:
//!
//! 1. form ([`Quote::parse`]), of the platform that is asked for
//! 2. chain: PCK, PCK CA, pinned root; dates (`endorsed`)
//! 3. the quoting enclave's report: signed by the PCK, binding the attestation key ([`quoting_enclave`])
//! 4. the quote's signature over the received octets
//! 5. revocation: current lists of the root and of the PCK CA ([`revocation`])
//! 6. collateral: signed by Intel over the received octets, current, for this machine (`collateral`)
//! 7. the quoting enclave is the one of Intel's identity ([`identified`])
//! 8. the TCB: a level fits, none is revoked ([`tcb::evaluate`])
//!
//! Signatures that need no collateral come before the collateral: what is forged is told as forged, whatever is at hand.
//! Which status is accepted is stage 2's.

pub(super) mod claims;
pub(super) mod policy;
pub mod tcb;

use x509_parser::prelude::X509Certificate;

use super::chain::{self, Revocations, SigningKey, unavailable, untrusted};
use super::memo::verifies_once;
use super::roots::{Anchor, Origin};
use super::{AuthenticClaims, Grounds, Short, Standing, Verifier};
use crate::crypto::{Scheme, sha256, verifies};
use crate::evidence::intel::collateral::{QeIdentity, Sealed, Signed, TcbInfo};
use crate::evidence::intel::{self, Body, Pck, Quote, certification};
use crate::evidence::{Bound, Claims, Endorsement, EndorsementId, Endorsements, Evidence, Timestamp};
use crate::policy::{Accept, Entry, Revocation, Vocabulary};
use crate::refusal::{Denied, Finding, Reason};

/// The verifier of one of the two platforms, as Intel's services and collateral name it.
#[derive(Debug)]
pub struct Line {
    /// Its words in policies.
    pub(super) vocabulary: &'static Vocabulary,
    /// `id` of its TCB info.
    pub(super) tcb_info: &'static str,
    /// `id` of its quoting enclave's identity.
    pub(super) qe_identity: &'static str,
    /// Its part of the PCS.
    pub(super) service: &'static str,
    /// Whether a body is its.
    pub(super) is_body: fn(&Body) -> bool,
    /// What no genuine body of it says.
    pub(super) plausible: fn(&Quote, &TcbInfo) -> Result<(), Denied>,
}

/// Intel's root, for one platform.
pub(super) fn anchors(platform: &'static str) -> Vec<Anchor> {
    let spki = include_bytes!("roots/intel-sgx-root-ca.spki.der").to_vec();
    vec![Anchor { platform, name: ROOT.to_owned(), spki, origin: Origin::Vendor }]
}

/// The common name of the root.
const ROOT: &str = "Intel SGX Root CA";

impl Verifier for Line {
    fn vocabulary(&self) -> &'static Vocabulary {
        self.vocabulary
    }

    fn read(&self, evidence: &Evidence, endorsements: &Endorsements) -> Result<Claims, Denied> {
        let quote = self.quote(evidence)?;
        let pck = pck_of(&quote).ok();
        let signed = |name| endorsements.find(name).and_then(|bytes| Signed::decode(name, bytes).ok());
        let info = signed("tcb_info").and_then(|signed| TcbInfo::read(signed.body).ok()).map(|(info, _)| info);
        let identity = signed("qe_identity").and_then(|signed| QeIdentity::read(signed.body).ok()).map(|(identity, _)| identity);
        let judged = pck.as_ref().zip(info.as_ref().zip(identity.as_ref())).filter(|(pck, (info, _))| pck.fmspc == info.fmspc.0);
        let evaluation = judged.map(|(pck, (info, identity))| (tcb::evaluate(&quote, pck, info, identity), number(info, identity)));
        Ok(claims::claims(&quote, pck.as_ref(), evaluation.as_ref().map(|(evaluation, number)| (evaluation, *number))))
    }

    fn bound(&self, evidence: &Evidence) -> Result<Bound, Denied> {
        self.quote(evidence).map(|quote| Bound::Long(quote.bound_data()))
    }

    fn needs(&self, evidence: &Evidence) -> Result<Vec<EndorsementId>, Denied> {
        let quote = self.quote(evidence)?;
        let mut needs = self.needs_of_every_machine();
        let Ok(pck) = pck_of(&quote) else { return Ok(needs) };
        let ca = if pck.issuer.contains("Processor") { "processor" } else { "platform" };
        needs.push(EndorsementId { name: "tcb_info", path: self.tcb_info_path(&pck.fmspc) });
        needs.push(EndorsementId { name: "pck_crl", path: pck_list_path(ca) });
        Ok(needs)
    }

    fn unforged(&self, evidence: &Evidence, grounds: &Grounds<'_>) -> Result<(), Denied> {
        // The steps that need no collateral, 1 to 4.
        let quote = self.quote(evidence)?;
        self.signed(&quote, &pck_chain(&quote)?, evidence, grounds).map(drop)
    }

    fn foreseen(&self, entry: &Entry) -> Vec<EndorsementId> {
        let mut needs = self.needs_of_every_machine();
        for constraint in entry.constraints.iter().filter(|constraint| constraint.field.key == "fmspc") {
            if let Accept::Bytes(kinds) = &constraint.accept {
                needs.extend(kinds.iter().map(|fmspc| EndorsementId { name: "tcb_info", path: self.tcb_info_path(fmspc) }));
            }
        }
        needs
    }

    fn standing(&self, evidence: &Evidence, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<Standing, Denied> {
        let quote = self.quote(evidence)?;
        let pems = pck_chain(&quote)?;
        let link = self.signed(&quote, &pems, evidence, grounds)?;
        let revoked = revocation(&link, endorsements, grounds)?;
        let collateral = self.collateral(&link, &revoked, endorsements, grounds)?;
        identified(&quote, &collateral.identity)?;
        let evaluation = tcb::evaluate(&quote, &link.pck, &collateral.info, &collateral.identity);
        let raised_by = |component: &str| match component {
            "tdx_module" => "a newer TDX module on the host, then launching the guest again",
            "qe" => "a newer quoting enclave on the host",
            "pcesvn" => "a newer provisioning certification enclave, then registering the platform again",
            _ => "newer firmware or microcode on the host, then a new PCK certificate",
        };
        let edition = number(&collateral.info, &collateral.identity);
        let short = |short: tcb::Shortfall| Short {
            raised_by: raised_by(&short.component),
            component: short.component,
            found: u64::from(short.found),
            needed: u64::from(short.needed),
            source: format!("Intel's newest level, evaluation {edition}"),
        };
        Ok(Standing {
            status: evaluation.status.map_or_else(|| "below every level".to_owned(), |status| status.name().to_owned()),
            edition: format!("evaluation {edition}"),
            until: Some(collateral.until),
            advisories: evaluation.advisories,
            short: evaluation.short.into_iter().map(short).collect(),
        })
    }

    fn vouch(
        &self,
        id: &EndorsementId,
        item: &Endorsement,
        others: &dyn Fn(&EndorsementId) -> Option<Endorsement>,
        grounds: &Grounds<'_>,
    ) -> Result<(), Denied> {
        // One of an older evaluation is not kept in place of one of a newer, whatever their dates: Intel signs several anew
        // every day.
        let at_hand: Endorsements = [item.clone()].into_iter().collect();
        let mut refused = None;
        for anchor in grounds.anchors.of(self.vocabulary.tee, ROOT) {
            let root = SigningKey::of_spki("root", &anchor.spki)?;
            let vouched = match id.name {
                "root_crl" => {
                    Revocations::current("root_crl", &item.bytes, |issuer| chain::common_name(issuer) == Some(ROOT), &root, grounds.memo, grounds.now).map(drop)
                }
                "tcb_info" => self.tcb_info(&root, None, &at_hand, grounds).and_then(|(info, _)| {
                    let path = self.tcb_info_path(&info.fmspc.0);
                    if id.path == path { Ok(()) } else { unavailable("tcb_info", id.path.clone(), path) }
                }),
                "qe_identity" => self.identity(&root, None, &at_hand, grounds).and_then(|_| {
                    let path = self.qe_identity_path();
                    if id.path == path { Ok(()) } else { unavailable("qe_identity", id.path.clone(), path) }
                }),
                "pck_crl" => pck_list(id, &item.bytes, grounds).and_then(|()| {
                    let beside = EndorsementId { name: EndorsementId::ISSUER_CHAIN, path: id.path.clone() };
                    // An operator's file comes without one: whose signature it has is told when a quote brings the certificate.
                    others(&beside).map_or(Ok(()), |beside| pck_list_by(&item.bytes, &beside.bytes, &root, grounds))
                }),
                other => unavailable("item", "one that this platform needs", other),
            };
            match vouched {
                Ok(()) => return no_older(item, others(id).as_ref()),
                Err(denied) => refused = Some(denied),
            }
        }
        Err(refused.unwrap_or_else(no_root))
    }

    fn authenticate(&self, evidence: &Evidence, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<AuthenticClaims, Denied> {
        let quote = self.quote(evidence)?;
        let pems = pck_chain(&quote)?;
        let link = self.signed(&quote, &pems, evidence, grounds)?;
        let revoked = revocation(&link, endorsements, grounds)?;
        let collateral = self.collateral(&link, &revoked, endorsements, grounds)?;
        identified(&quote, &collateral.identity)?;
        (self.plausible)(&quote, &collateral.info)?;
        let evaluation = tcb::evaluate(&quote, &link.pck, &collateral.info, &collateral.identity);
        evaluation.genuine()?;
        let number = number(&collateral.info, &collateral.identity);
        Ok(AuthenticClaims {
            platform: self.vocabulary.tee,
            claims: claims::claims(&quote, Some(&link.pck), Some((&evaluation, number))),
            bound: Bound::Long(quote.bound_data()),
            until: [Some(link.until), revoked.until, Some(collateral.until)].into_iter().flatten().min().unwrap_or(grounds.now),
            origin: link.origin,
            revocation_checked: revoked.until.is_some(),
        })
    }
}

impl Line {
    /// A quote of this platform.
    pub(super) fn quote(&self, evidence: &Evidence) -> Result<Quote, Denied> {
        let quote = Quote::parse(&evidence.bytes)?;
        if (self.is_body)(&quote.body) {
            return Ok(quote);
        }
        Finding::new(Reason::EvidenceUnsupported, "quote.tee_type", format!("a quote of {}", self.vocabulary.tee), quote.body.kind()).refuse()
    }

    /// The part of what a verdict needs that does not depend on the machine.
    fn needs_of_every_machine(&self) -> Vec<EndorsementId> {
        vec![EndorsementId { name: "qe_identity", path: self.qe_identity_path() }, EndorsementId { name: "root_crl", path: ROOT_CRL.to_owned() }]
    }

    /// Where the quoting enclave's identity is.
    fn qe_identity_path(&self) -> String {
        format!("/{}/certification/v4/qe/identity", self.service)
    }

    /// Where the TCB info of machines of an FMSPC is.
    fn tcb_info_path(&self, fmspc: &[u8]) -> String {
        format!("/{}/certification/v4/tcb?fmspc={}", self.service, data_encoding::HEXUPPER.encode(fmspc))
    }

    fn signed<'a>(&self, quote: &Quote, pems: &'a [Vec<u8>], evidence: &Evidence, grounds: &Grounds<'a>) -> Result<Link<'a>, Denied> {
        let link = self.endorsed(pems, grounds)?;
        quoting_enclave(quote, &link, grounds)?;
        let signed = evidence.bytes.get(..quote.signed_size()).unwrap_or_default();
        if verifies(Scheme::EcdsaP256Sha256, &point(&quote.attestation_key), signed, &quote.signature) {
            return Ok(link);
        }
        Finding::new(Reason::SignatureInvalid, "quote.signature", "a signature of header and body by the attestation key", "none that verifies").refuse()
    }

    fn endorsed<'a>(&self, pems: &'a [Vec<u8>], grounds: &Grounds<'a>) -> Result<Link<'a>, Denied> {
        let [leaf, middle, top] = pems else {
            return untrusted("pck_chain", "PCK certificate, PCK CA and root", format!("{} certificates", pems.len()));
        };
        let leaf = chain::certificate("pck", leaf)?;
        let middle = chain::certificate("pck_ca", middle)?;
        let top = chain::certificate("root", top)?;
        if !matches!(chain::common_name(middle.subject()), Some("Intel SGX PCK Platform CA" | "Intel SGX PCK Processor CA")) {
            return untrusted("pck_ca", "CN=Intel SGX PCK Platform CA or Processor CA", middle.subject());
        }
        if chain::common_name(leaf.subject()) != Some("Intel SGX PCK Certificate") {
            return untrusted("pck", "CN=Intel SGX PCK Certificate", leaf.subject());
        }
        if leaf.issuer().as_raw() != middle.subject().as_raw() || middle.issuer().as_raw() != top.subject().as_raw() {
            return untrusted("pck_chain", "each certificate issued by the next", "other names");
        }
        chain::is_authority("pck_ca", &middle)?;
        let Some(anchor) = grounds.anchors.of(self.vocabulary.tee, ROOT).find(|anchor| anchor.spki == top.public_key().raw) else {
            return untrusted("root", format!("the pinned key of {ROOT}"), "another root key");
        };
        let root = SigningKey::of_spki("root", &anchor.spki)?;
        chain::issued_by("pck_ca", &middle, &root, grounds.memo, grounds.now)?;
        chain::issued_by("pck", &leaf, &SigningKey::of_certificate(&middle), grounds.memo, grounds.now)?;
        let pck = Pck::of(&leaf)?;
        let until = pck.not_after.min(chain::moment(middle.validity().not_after.timestamp()));
        Ok(Link { leaf, middle, pck, root, origin: anchor.origin, until })
    }

    fn collateral(&self, link: &Link<'_>, revoked: &Revoked<'_>, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<Collateral, Denied> {
        let (info, info_until) = self.tcb_info(&link.root, revoked.root.as_ref(), endorsements, grounds)?;
        let shown = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
        if info.fmspc.0 != link.pck.fmspc {
            return unavailable("tcb_info", format!("one for FMSPC {}", shown(&link.pck.fmspc)), shown(&info.fmspc.0));
        }
        if info.pce_id.0 != link.pck.pce_id {
            return unavailable("tcb_info", format!("one for PCE-ID {}", shown(&link.pck.pce_id)), shown(&info.pce_id.0));
        }
        let (identity, identity_until) = self.identity(&link.root, revoked.root.as_ref(), endorsements, grounds)?;
        Ok(Collateral { info, identity, until: info_until.min(identity_until) })
    }

    fn tcb_info(
        &self,
        root: &SigningKey<'_>,
        revoked: Option<&Revocations<'_>>,
        endorsements: &Endorsements,
        grounds: &Grounds<'_>,
    ) -> Result<(TcbInfo, Timestamp), Denied> {
        let signed = signed("tcb_info", endorsements)?;
        let (info, sealed) = TcbInfo::read(signed.body)?;
        if info.id != self.tcb_info {
            return unavailable("tcb_info", format!("one of {}", self.tcb_info), info.id);
        }
        let until = sealed_by("tcb_info", &signed, &sealed, root, revoked, grounds)?;
        current("tcb_info", info.issue_date.0, info.next_update.0, grounds)?;
        let until = until.min(info.next_update.0);
        Ok((info, until))
    }

    fn identity(
        &self,
        root: &SigningKey<'_>,
        revoked: Option<&Revocations<'_>>,
        endorsements: &Endorsements,
        grounds: &Grounds<'_>,
    ) -> Result<(QeIdentity, Timestamp), Denied> {
        let signed = signed("qe_identity", endorsements)?;
        let (identity, sealed) = QeIdentity::read(signed.body)?;
        if identity.id != self.qe_identity {
            return Finding::new(Reason::QuotingEnclaveInvalid, "qe_identity.id", self.qe_identity, identity.id).refuse();
        }
        let until = sealed_by("qe_identity", &signed, &sealed, root, revoked, grounds)?;
        current("qe_identity", identity.issue_date.0, identity.next_update.0, grounds)?;
        let until = until.min(identity.next_update.0);
        Ok((identity, until))
    }
}

/// The vendor's own address of the root's revocation list: not below its PCS.
const ROOT_CRL: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";

/// What the chain below the root came to.
struct Link<'a> {
    leaf: X509Certificate<'a>,
    middle: X509Certificate<'a>,
    pck: Pck,
    root: SigningKey<'a>,
    origin: Origin,
    until: Timestamp,
}

/// Revocation lists that were judged; `until` is set when both were at hand.
struct Revoked<'a> {
    root: Option<Revocations<'a>>,
    until: Option<Timestamp>,
}

struct Collateral {
    info: TcbInfo,
    identity: QeIdentity,
    until: Timestamp,
}

/// TCB info and identity are of one evaluation, or of two that overlap while Intel releases a new one: the lower counts.
fn number(info: &TcbInfo, identity: &QeIdentity) -> u64 {
    info.tcb_evaluation_data_number.min(identity.tcb_evaluation_data_number)
}

fn pck_list_path(ca: &str) -> String {
    format!("/sgx/certification/v4/pckcrl?ca={ca}&encoding=der")
}

/// Proves that a list is signed by the PCK CA whose certificate, issued by the root, came beside it.
fn pck_list_by(der: &[u8], beside: &[u8], root: &SigningKey<'_>, grounds: &Grounds<'_>) -> Result<(), Denied> {
    let pems = intel::chain("pck_crl.issuer_chain", beside)?;
    let Some(issuer) = pems.first() else { return untrusted("pck_crl.issuer_chain", "the certificate of the list's issuer", "none") };
    let issuer = chain::certificate("pck_crl.issuer", issuer)?;
    if chain::common_name(issuer.issuer()) != Some(ROOT) {
        return untrusted("pck_crl.issuer", format!("a certificate issued by CN={ROOT}"), issuer.issuer());
    }
    chain::is_authority("pck_crl.issuer", &issuer)?;
    chain::issued_by("pck_crl.issuer", &issuer, root, grounds.memo, grounds.now)?;
    let (subject, key) = (issuer.subject().as_raw().to_vec(), SigningKey::of_certificate(&issuer));
    Revocations::current("pck_crl", der, |name| name.as_raw() == subject, &key, grounds.memo, grounds.now).map(drop)
}

/// Refuses what is no current list of this PCK CA by its form.
fn pck_list(id: &EndorsementId, der: &[u8], grounds: &Grounds<'_>) -> Result<(), Denied> {
    let list = chain::revocation_list("pck_crl", der)?;
    let issuers = [("Intel SGX PCK Processor CA", "processor"), ("Intel SGX PCK Platform CA", "platform")];
    let named = issuers.into_iter().find(|(name, _)| chain::common_name(list.issuer()) == Some(name)).map(|(_, ca)| pck_list_path(ca));
    if named.as_ref() != Some(&id.path) {
        return unavailable("pck_crl", id.path.clone(), list.issuer());
    }
    let until = list.next_update().map_or(Timestamp(0), |until| chain::moment(until.timestamp()));
    current("pck_crl", chain::moment(list.last_update().timestamp()), until, grounds)
}

/// Refuses a document of an older evaluation than the one that is at hand.
fn no_older(item: &Endorsement, at_hand: Option<&Endorsement>) -> Result<(), Denied> {
    let number = |endorsement: &Endorsement| {
        let body = Signed::decode("collateral", &endorsement.bytes).ok()?.body;
        let info = TcbInfo::read(body).map(|(info, _)| info.tcb_evaluation_data_number);
        info.or_else(|_| QeIdentity::read(body).map(|(identity, _)| identity.tcb_evaluation_data_number)).ok()
    };
    match (number(item), at_hand.and_then(number)) {
        (Some(found), Some(least)) if found < least => unavailable("tcbEvaluationDataNumber", format!("{least}, as the one at hand, or more"), found),
        _ => Ok(()),
    }
}

fn pck_chain(quote: &Quote) -> Result<Vec<Vec<u8>>, Denied> {
    if quote.certification_type != certification::PCK_CHAIN {
        let found = format!("type {}", quote.certification_type);
        return Finding::new(Reason::EvidenceUnsupported, "quote.certification_data", "type 5 (PCK certificate chain)", found)
            .fix("the attesting host's quote provider has no PCK certificate: register the platform, or point its PCCS at one that has it")
            .refuse();
    }
    intel::chain("pck_chain", &quote.certification)
}

/// What the quote's own certificate says; read and not believed.
fn pck_of(quote: &Quote) -> Result<Pck, Denied> {
    let pems = pck_chain(quote)?;
    let leaf = chain::certificate("pck", pems.first().map(Vec::as_slice).unwrap_or_default())?;
    Pck::of(&leaf)
}

/// Proves that the PCK signed the quoting enclave's report, and that the report binds the attestation key.
fn quoting_enclave(quote: &Quote, link: &Link<'_>, grounds: &Grounds<'_>) -> Result<(), Denied> {
    let key = SigningKey::of_certificate(&link.leaf);
    if key.ecdsa() != Some(Scheme::EcdsaP256Sha256) {
        return untrusted("pck", "a P-256 key", "another");
    }
    if !verifies_once(grounds.memo, Scheme::EcdsaP256Sha256, key.raw(), &quote.qe_report.encode(), &quote.qe_signature) {
        return Finding::new(Reason::SignatureInvalid, "qe_report.signature", "a signature by the PCK", "none that verifies").refuse();
    }
    let bound = sha256(&[&quote.attestation_key, &quote.qe_auth]);
    let (digest, rest) = quote.qe_report.report_data.split_at_checked(bound.len()).unwrap_or_default();
    if digest != bound || rest.iter().any(|octet| *octet != 0) {
        let expected = format!("{} and zeros: SHA-256 of the attestation key and the authentication data", data_encoding::HEXLOWER.encode(&bound));
        let found = data_encoding::HEXLOWER.encode(&quote.qe_report.report_data);
        return Finding::new(Reason::QuotingEnclaveInvalid, "qe_report.report_data", expected, found).refuse();
    }
    Ok(())
}

/// A P-256 key as an uncompressed point.
fn point(key: &[u8; 64]) -> Vec<u8> {
    [&[4], key.as_slice()].concat()
}

fn revocation<'a>(link: &Link<'_>, endorsements: &'a Endorsements, grounds: &Grounds<'_>) -> Result<Revoked<'a>, Denied> {
    let list = |what: &'static str, issuer: &X509Certificate<'_>, key: &SigningKey<'_>, root: bool| match endorsements.find(what) {
        Some(der) => {
            let wanted = if root { issuer.issuer() } else { issuer.subject() };
            Revocations::current(what, der, |name| name.as_raw() == wanted.as_raw(), key, grounds.memo, grounds.now)
        }
        None => unavailable(what, "a revocation list", "none stapled or configured"),
    };
    let middle = SigningKey::of_certificate(&link.middle);
    let root = list("root_crl", &link.middle, &link.root, true);
    let pck = list("pck_crl", &link.middle, &middle, false);
    if let Ok(list) = &root {
        list.permit("pck_ca", &link.middle)?;
    }
    if let Ok(list) = &pck {
        list.permit("pck", &link.leaf)?;
    }
    match (root, pck, grounds.revocation) {
        (Ok(root), Ok(pck), _) => {
            let until = root.until.min(pck.until);
            Ok(Revoked { root: Some(root), until: Some(until) })
        }
        (root, _, Revocation::WhenPresent) => Ok(Revoked { root: root.ok(), until: None }),
        (Err(denied), ..) | (_, Err(denied), _) => Err(denied),
    }
}

fn signed<'a>(what: &'static str, endorsements: &'a Endorsements) -> Result<Signed<'a>, Denied> {
    match endorsements.find(what) {
        Some(bytes) => Signed::decode(what, bytes),
        None => unavailable(what, "the vendor's signed collateral", "none stapled or configured"),
    }
}

/// Proves that a document is signed by a certificate that the root issued for it. Until when that certificate holds.
fn sealed_by(
    what: &'static str,
    signed: &Signed<'_>,
    sealed: &Sealed<'_>,
    root: &SigningKey<'_>,
    revoked: Option<&Revocations<'_>>,
    grounds: &Grounds<'_>,
) -> Result<Timestamp, Denied> {
    let pems = intel::chain(what, signed.chain)?;
    let Some(signer) = pems.first() else { return untrusted(what, "the certificate of its signer", "none") };
    let signer = chain::certificate(what, signer)?;
    if chain::common_name(signer.subject()) != Some("Intel SGX TCB Signing") {
        return untrusted(what, "a signer CN=Intel SGX TCB Signing", signer.subject());
    }
    if chain::common_name(signer.issuer()) != Some(ROOT) {
        return untrusted(what, format!("a signer issued by CN={ROOT}"), signer.issuer());
    }
    chain::issued_by(what, &signer, root, grounds.memo, grounds.now)?;
    if let Some(revoked) = revoked {
        revoked.permit(what, &signer)?;
    }
    let key = SigningKey::of_certificate(&signer);
    let good =
        key.ecdsa() == Some(Scheme::EcdsaP256Sha256) && verifies_once(grounds.memo, Scheme::EcdsaP256Sha256, key.raw(), sealed.message, &sealed.signature);
    if !good {
        return unavailable(what, "Intel's signature over the JSON as it was received", "none that verifies");
    }
    Ok(chain::moment(signer.validity().not_after.timestamp()))
}

fn current(what: &'static str, from: Timestamp, until: Timestamp, grounds: &Grounds<'_>) -> Result<(), Denied> {
    if (from..=until).contains(&grounds.now) { Ok(()) } else { unavailable(what, format!("current at {}", grounds.now), format!("for {from} to {until}")) }
}

/// Proves that the quoting enclave is the one that Intel describes: signer, product, and attributes under their masks.
fn identified(quote: &Quote, identity: &QeIdentity) -> Result<(), Denied> {
    let qe = &quote.qe_report;
    let wrong = |field: &'static str, expected: String, found: String| Finding::new(Reason::QuotingEnclaveInvalid, field, expected, found).refuse();
    let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
    if qe.mr_signer != identity.mrsigner.0 {
        return wrong("qe_report.mrsigner", hex(&identity.mrsigner.0), hex(&qe.mr_signer));
    }
    if qe.isv_prod_id != identity.isvprodid {
        return wrong("qe_report.isvprodid", identity.isvprodid.to_string(), qe.isv_prod_id.to_string());
    }
    // The identity writes MISCSELECT as the number, most significant digit first.
    let [mask, wanted] = [identity.miscselect_mask.0, identity.miscselect.0].map(u32::from_be_bytes);
    if qe.misc_select & mask != wanted & mask {
        return wrong("qe_report.miscselect", format!("{wanted:#x} under the mask {mask:#x}"), format!("{:#x}", qe.misc_select));
    }
    let masked = |octets: &[u8; 16]| -> Vec<u8> { octets.iter().zip(identity.attributes_mask.0).map(|(octet, mask)| octet & mask).collect() };
    if masked(&qe.attributes) != masked(&identity.attributes.0) {
        return wrong(
            "qe_report.attributes",
            format!("{} under the mask {}", hex(&identity.attributes.0), hex(&identity.attributes_mask.0)),
            hex(&qe.attributes),
        );
    }
    if qe.flags() & DEBUG != 0 {
        return wrong("qe_report.attributes.debug", "0".to_owned(), "1".to_owned());
    }
    Ok(())
}

/// ATTRIBUTES.DEBUG of an enclave.
pub(super) const DEBUG: u64 = 1 << 1;

fn no_root() -> Denied {
    Finding::new(Reason::ChainUntrusted, "root", "a pinned root of this platform", "none").into()
}
