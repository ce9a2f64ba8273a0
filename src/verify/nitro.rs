//! AWS Nitro, stage 1: is this document a genuine enclave's, or a genuine instance's with a NitroTPM?
//!
//! The steps, in their order; each one refuses:
//!
//! 1. form: COSE_Sign1, ES384, the document's keys and bounds (`document`)
//! 2. chain: the pinned root in front of `cabundle`, each certificate by the one before it, path lengths, dates (`chain_of`)
//! 3. revocation: a current list for each certificate that says where its list is ([`revocation`])
//! 4. the document's signature by the last certificate's key, over the received octets
//!
//! Whether the enclave is wanted, and not in debug mode, and the document young enough, is stage 2's: see [`vocabulary`].

mod vocabulary;

use x509_parser::prelude::X509Certificate;

use super::chain::{self, Revocations, SigningKey, untrusted};
use super::roots::{Anchor, Origin};
use super::{AuthenticClaims, Grounds, Verifier};
use crate::crypto::Scheme;
use crate::evidence::cose::Sign1;
use crate::evidence::nitro::{ALGORITHM, Document, Kind};
use crate::evidence::spki::EllipticKey;
use crate::evidence::{Bound, ClaimValue, Claims, EndorsementId, Endorsements, Evidence, ReportData, Timestamp};
use crate::policy::{Revocation, Vocabulary};
use crate::refusal::{Denied, Finding, Reason};

/// The verifier of one kind of document.
#[derive(Debug)]
pub struct Nitro(Kind);

/// Of enclaves.
pub const ENCLAVE: Nitro = Nitro(Kind::Enclave);

/// Of instances with a NitroTPM.
pub const TPM: Nitro = Nitro(Kind::Tpm);

/// AWS's root for enclaves: "AWS Nitro Enclaves Root-G1".
#[must_use]
pub fn enclave_anchors() -> Vec<Anchor> {
    vec![root(ENCLAVE.vocabulary().tee)]
}

/// AWS's root for instances: the same.
#[must_use]
pub fn tpm_anchors() -> Vec<Anchor> {
    vec![root(TPM.vocabulary().tee)]
}

fn root(platform: &'static str) -> Anchor {
    Anchor { platform, name: "G1".to_owned(), spki: include_bytes!("roots/nitro-g1.spki.der").to_vec(), origin: Origin::Vendor }
}

impl Verifier for Nitro {
    fn vocabulary(&self) -> &'static Vocabulary {
        match self.0 {
            Kind::Enclave => &vocabulary::ENCLAVE,
            Kind::Tpm => &vocabulary::TPM,
        }
    }

    fn read(&self, evidence: &Evidence, _: &Endorsements) -> Result<Claims, Denied> {
        self.document(evidence).map(|(_, document)| claims(&document))
    }

    fn bound(&self, evidence: &Evidence) -> Result<Bound, Denied> {
        let (_, document) = self.document(evidence)?;
        // Whoever asks for a document chooses all three: only the one that we ask with may say anything.
        for (name, value) in [("nonce", &document.nonce), ("public_key", &document.public_key)] {
            if value.is_some() {
                return Finding::new(Reason::BindingMismatch, format!("report.{name}"), "none: user_data alone binds", "some").refuse();
            }
        }
        Ok(bound(&document))
    }

    fn needs(&self, evidence: &Evidence) -> Result<Vec<EndorsementId>, Denied> {
        // The lists' addresses stand in the peer's own certificates, and nothing is fetched for a peer's word: the lists are
        // stapled, or lie beside the evidence.
        self.document(evidence).map(|_| Vec::new())
    }

    fn authenticate(&self, evidence: &Evidence, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<AuthenticClaims, Denied> {
        let (sign1, document) = self.document(evidence)?;
        let chain = self.chain_of(&document, grounds)?;
        let lists = revocation(&chain, endorsements, grounds)?;
        sign1.verifies("document.signature", &chain.key)?;
        Ok(AuthenticClaims {
            platform: self.vocabulary().tee,
            claims: claims(&document),
            bound: bound(&document),
            until: lists.until.map_or(chain.until, |until| until.min(chain.until)),
            origin: chain.origin,
            revocation_checked: lists.complete,
        })
    }
}

/// Where the certificates with lists of their own stand in `cabundle`, and what their lists are called: the root's list
/// names the region's certificate, the region's list the zone's.
const LISTS: [(usize, &str); 2] = [(1, "nitro-crl"), (2, "nitro-region-crl")];

const CABUNDLE: &str = "document.cabundle";
const CERTIFICATE: &str = "document.certificate";

/// Nothing of a document's chain can be stapled: the document carries all of it, and its leaf lives for hours.
fn outlived(denied: Denied) -> Denied {
    let fix = "a document carries its own chain, which ends within hours: have a new one made; one of an earlier day is judged with --at";
    Denied::from_findings(denied.findings().cloned().map(|finding| finding.fix(fix)).collect()).unwrap_or(denied)
}

/// A certificate chain that holds.
struct Chain<'a> {
    authorities: Vec<X509Certificate<'a>>,
    key: EllipticKey,
    origin: Origin,
    until: Timestamp,
}

impl Nitro {
    fn document<'a>(&self, evidence: &'a Evidence) -> Result<(Sign1<'a>, Document), Denied> {
        let (sign1, document) = Document::parse(&evidence.bytes)?;
        if document.kind != self.0 {
            return Finding::new(Reason::EvidenceUnsupported, "document", self.0.registers(), document.kind.registers()).refuse();
        }
        if sign1.alg != ALGORITHM {
            return Finding::new(Reason::SignatureInvalid, "document.alg", "ES384", sign1.algorithm_name()).refuse();
        }
        Ok((sign1, document))
    }

    /// Proves the chain from the pinned root to the certificate of the signing key.
    fn chain_of<'a>(&self, document: &'a Document, grounds: &Grounds<'_>) -> Result<Chain<'a>, Denied> {
        let authorities = document.cabundle.iter().map(|der| chain::certificate(CABUNDLE, der)).collect::<Result<Vec<_>, _>>()?;
        let leaf = chain::certificate(CERTIFICATE, &document.certificate)?;
        let Some(root) = authorities.first() else { return untrusted(CABUNDLE, "the root in front", "nothing") };
        let pinned = grounds.anchors.of_platform(self.vocabulary().tee).find(|anchor| anchor.spki == root.public_key().raw);
        let Some(anchor) = pinned else { return untrusted(CABUNDLE, "the pinned root in front", root.subject()) };
        let mut issuer = root;
        let mut until = Timestamp(u64::MAX);
        let depth = authorities.len();
        // The root proves itself first: its signature is its own.
        for (at, certificate) in authorities.iter().chain([&leaf]).enumerate() {
            let what = if at == depth { CERTIFICATE } else { CABUNDLE };
            if certificate.issuer().as_raw() != issuer.subject().as_raw() {
                return untrusted(what, format!("issued by {}", issuer.subject()), certificate.issuer());
            }
            let end = chain::moment(certificate.validity().not_after.timestamp());
            chain::issued_by(what, certificate, &SigningKey::of_certificate(issuer), grounds.memo, grounds.now)
                .map_err(|denied| if grounds.now > end { outlived(denied) } else { denied })?;
            until = until.min(end);
            // The root stands once: below it every place has its own list.
            if at > 0 && certificate.issuer().as_raw() == certificate.subject().as_raw() {
                return untrusted(what, "certificates of different authorities", "one issued by itself below the root");
            }
            if at < depth {
                chain::may_issue(what, certificate, depth.saturating_sub(at).saturating_sub(1))?;
                issuer = certificate;
            }
        }
        let key = signing_key(&leaf)?;
        Ok(Chain { key, origin: anchor.origin, until, authorities })
    }
}

/// The key of the last certificate, which signs documents and nothing else.
fn signing_key(leaf: &X509Certificate<'_>) -> Result<EllipticKey, Denied> {
    if leaf.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca) {
        return untrusted(CERTIFICATE, "no certificate authority", "one");
    }
    if !leaf.key_usage().ok().flatten().is_none_or(|usage| usage.value.digital_signature()) {
        return untrusted(CERTIFICATE, "a key that signs", "keyUsage that says otherwise");
    }
    match EllipticKey::of_spki(leaf.public_key().raw).filter(|key| key.scheme == Scheme::EcdsaP384Sha384) {
        Some(key) => Ok(key),
        None => untrusted(CERTIFICATE, "a P-384 key", "another"),
    }
}

/// What the revocation lists at hand vouch for.
struct Lists {
    until: Option<Timestamp>,
    complete: bool,
}

/// Refuses revoked certificates, and missing lists where the policy wants them.
fn revocation(chain: &Chain<'_>, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<Lists, Denied> {
    let mut lists = Lists { until: None, complete: true };
    for (at, name) in LISTS {
        let (Some(certificate), Some(issuer)) = (chain.authorities.get(at), at.checked_sub(1).and_then(|at| chain.authorities.get(at))) else { continue };
        // For people: a peer's word is no reason to fetch anything.
        let Some(address) = chain::list_addresses(certificate).next() else { continue };
        let list = match endorsements.find(name) {
            Some(der) => {
                let key = SigningKey::of_certificate(issuer);
                Revocations::current(name, der, |name| name.as_raw() == issuer.subject().as_raw(), &key, grounds.memo, grounds.now)
            }
            None => chain::unavailable(name, format!("the revocation list at {address}"), "none stapled or configured"),
        };
        match (list, grounds.revocation) {
            (Ok(list), _) => {
                list.permit(CABUNDLE, certificate)?;
                lists.until = Some(lists.until.map_or(list.until, |until| until.min(list.until)));
            }
            (Err(_), Revocation::WhenPresent) => lists.complete = false,
            (Err(denied), Revocation::Required) => return Err(denied),
        }
    }
    Ok(lists)
}

fn bound(document: &Document) -> Bound {
    let data = document.user_data.as_deref().unwrap_or_default();
    data.try_into().map_or_else(|_| Bound::Other(data.to_vec()), |data| Bound::Long(ReportData(data)))
}

/// What the document says, and when its certificates hold together.
fn claims(document: &Document) -> Claims {
    let mut claims = document.claims();
    let all: Result<Vec<_>, _> = document.cabundle.iter().chain([&document.certificate]).map(|der| chain::certificate(CABUNDLE, der)).collect();
    let validity = all.iter().flatten().map(|certificate| certificate.validity());
    let (from, until) = (validity.clone().map(|validity| validity.not_before.timestamp()).max(), validity.map(|validity| validity.not_after.timestamp()).min());
    if let (Some(from), Some(until)) = (from, until) {
        claims.push("chain_validity", ClaimValue::Texts([from, until].map(|moment| chain::moment(moment).to_string()).to_vec()));
    }
    claims
}
