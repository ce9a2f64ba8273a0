//! AMD SEV-SNP, stage 1: is this report a genuine guest's?
//!
//! The steps, in their order; each one refuses:
//!
//! 1. form: length, version, reserved octets, signature algorithm and padding ([`Report::parse`], [`signature`])
//! 2. the certificate: of the kind that SIGNING_KEY names, for the same product as the report ([`endorsed`])
//! 3. chain: VEK, ASK or ASVK, pinned ARK; dates ([`authorities`])
//! 4. revocation: a current list of the ARK ([`revocation`])
//! 5. the certificate is for this chip and this TCB ([`same_platform`])
//! 6. the report's signature over the received octets
//! 7. what no genuine guest has: undefined bits, an impossible VMPL, TCB versions out of order ([`plausible`])
//! 8. what the cloud adds, where it came along: the quote of its vTPM, its endorsement of the firmware ([`google::join`])
//!
//! Whether the guest is wanted is stage 2's: see [`vocabulary`].

mod claims;
mod collateral;
mod floors;
mod vocabulary;

pub(super) use vocabulary::{FIELDS, LOOSENING};

use x509_parser::prelude::X509Certificate;

use super::chain::{self, Revocations, SigningKey, distrusted};
use super::roots::{Anchor, Origin};
use super::{AuthenticClaims, Grounds, Member, Standing, Verifier, google, vtpm};
use crate::crypto::{Scheme, verifies};
use crate::evidence::snp::{Product, Report, SIGNED_SIZE, SigningKey as ReportSigner, Tcb, Vek, VekKind};
use crate::evidence::{Bound, Claims, Endorsement, EndorsementId, Endorsements, Evidence, Timestamp, launch};
use crate::policy::{Entry, Revocation, Vocabulary};
use crate::refusal::{Denied, Finding, Reason};

/// The platform's verifier.
#[derive(Debug)]
pub struct Snp;

/// AMD's roots: the ARK of each product, by its name; and the root of the vTPMs that may speak beside.
#[must_use]
pub fn anchors() -> Vec<Anchor> {
    let ark = |product: Product, spki: &[u8]| Anchor {
        platform: vocabulary::VOCABULARY.tee,
        name: product.name().to_owned(),
        spki: spki.to_vec(),
        origin: Origin::Vendor,
    };
    vec![
        ark(Product::Genoa, include_bytes!("roots/ark-genoa.spki.der")),
        ark(Product::Milan, include_bytes!("roots/ark-milan.spki.der")),
        ark(Product::Turin, include_bytes!("roots/ark-turin.spki.der")),
        vtpm::anchor(),
    ]
}

impl Verifier for Snp {
    fn vocabulary(&self) -> &'static Vocabulary {
        &vocabulary::VOCABULARY
    }

    fn read(&self, evidence: &Evidence, endorsements: &Endorsements) -> Result<Claims, Denied> {
        let report = Report::parse(&evidence.bytes)?;
        let vek = [VekKind::Vcek, VekKind::Vlek].into_iter().find_map(|kind| Vek::parse(endorsements.find(kind.name())?).ok());
        let mut claims = claims::claims(&report, vek.as_ref());
        google::claims(evidence, endorsed_by_google(&report), endorsements, &mut claims)?;
        Ok(claims)
    }

    fn bound(&self, evidence: &Evidence) -> Result<Bound, Denied> {
        Report::parse(&evidence.bytes).map(|report| Bound::Long(report.bound_data()))
    }

    fn members(&self) -> &'static [Member] {
        &[vtpm::MEMBER]
    }

    fn needs(&self, evidence: &Evidence) -> Result<Vec<EndorsementId>, Denied> {
        let report = Report::parse(&evidence.bytes)?;
        let kind = vek_kind(&report)?;
        let Some(product) = claims::product(&report) else {
            return Ok(Vec::new());
        };
        let mut needs = vec![collateral::chain_id(kind, product), collateral::list_id(kind, product)];
        if let (VekKind::Vcek, Some(tcb)) = (kind, Tcb::parse(report.reported_tcb, product)) {
            needs.push(EndorsementId { name: kind.name(), path: vcek_path(&report, product, tcb) });
        }
        needs.extend(google::needs(evidence, endorsed_by_google(&report)));
        Ok(needs)
    }

    fn standing(&self, evidence: &Evidence, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<Standing, Denied> {
        let authentic = self.authenticate(evidence, endorsements, grounds)?;
        let product = authentic.claims.text("product").and_then(|name| Product::ALL.into_iter().find(|product| product.name() == name));
        let Some(product) = product else {
            return Finding::new(Reason::PlatformNotAllowed, "report.product", "a known product", "another").refuse();
        };
        let standing = floors::standing(&Report::parse(&evidence.bytes)?, product)?;
        Ok(Standing { until: Some(authentic.until), ..standing })
    }

    fn foreseen(&self, entry: &Entry) -> Vec<EndorsementId> {
        [collateral::foreseen(entry), google::SEV_SNP.foreseen(entry)].concat()
    }

    fn vouch(
        &self,
        id: &EndorsementId,
        endorsement: &Endorsement,
        others: &dyn Fn(&EndorsementId) -> Option<Endorsement>,
        grounds: &Grounds<'_>,
    ) -> Result<(), Denied> {
        if id.name == launch::NAME {
            return google::SEV_SNP.vouch(id, endorsement, grounds);
        }
        collateral::vouch(id, &endorsement.bytes, others, grounds)
    }

    fn authenticate(&self, evidence: &Evidence, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<AuthenticClaims, Denied> {
        let report = Report::parse(&evidence.bytes)?;
        let signature = signature(&report)?;
        let (certificate, vek) = endorsed(&report, endorsements)?;
        let link = authorities(&vek, &certificate, endorsements, grounds)?;
        let revocation = revocation(&link, endorsements, grounds)?;
        let tcb = same_platform(&report, &vek)?;
        let signed = evidence.bytes.get(..SIGNED_SIZE).unwrap_or_default();
        if !verifies(Scheme::EcdsaP384Sha384, &vek.key, signed, &signature) {
            return Finding::new(Reason::SignatureInvalid, "report.signature", "a signature of the first 0x2a0 octets by the VEK", "none that verifies")
                .refuse();
        }
        plausible(&report, &vek, tcb)?;
        let mut authentic = AuthenticClaims {
            platform: vocabulary::VOCABULARY.tee,
            claims: claims::claims(&report, Some(&vek)),
            bound: Bound::Long(report.bound_data()),
            until: [Some(vek.not_after), Some(link.until), revocation].into_iter().flatten().min().unwrap_or(grounds.now),
            origin: link.origin,
            revocation_checked: revocation.is_some(),
        };
        google::join(&mut authentic, evidence, endorsed_by_google(&report), endorsements, grounds)?;
        Ok(authentic)
    }
}

/// What Google's endorsement must name, and where.
fn endorsed_by_google(report: &Report) -> (&[u8; 48], &'static google::Hardware) {
    (&report.measurement, &google::SEV_SNP)
}

fn signature(report: &Report) -> Result<[u8; 96], Denied> {
    if report.sig_algo != 1 {
        return Finding::new(Reason::EvidenceUnsupported, "report.signature_algo", "1 (ECDSA P-384, SHA-384)", report.sig_algo.to_string()).refuse();
    }
    report.signature_be()
}

fn vek_kind(report: &Report) -> Result<VekKind, Denied> {
    match report.signing_key() {
        Some(ReportSigner::Vcek) => Ok(VekKind::Vcek),
        Some(ReportSigner::Vlek) => Ok(VekKind::Vlek),
        Some(ReportSigner::None) => distrusted("report.signing_key", "VCEK or VLEK", "none: the report is not signed", UNSIGNED),
        None => distrusted("report.signing_key", "VCEK (0) or VLEK (1)", format!("a value without a meaning in {:#x}", report.key_info), UNSIGNED),
    }
}

/// The certificate of the report's signing key: of its kind, for its product.
fn endorsed<'a>(report: &Report, endorsements: &'a Endorsements) -> Result<(X509Certificate<'a>, Vek), Denied> {
    let kind = vek_kind(report)?;
    let other = if kind == VekKind::Vcek { VekKind::Vlek } else { VekKind::Vcek };
    let Some(der) = endorsements.find(kind.name()) else {
        return match endorsements.find(other.name()) {
            Some(_) => {
                let fix = format!("the host signs with its {}: staple {0}.der in place of {}.der", kind.name(), other.name());
                distrusted("report.signing_key", format!("a certificate of the {}", kind.name()), format!("one of the {}", other.name()), fix)
            }
            None => chain::unavailable(kind.name(), format!("the {} certificate", kind.name()), "none stapled or configured"),
        };
    };
    let certificate = chain::certificate(kind.name(), der)?;
    let vek = Vek::of(&certificate)?;
    if vek.kind != kind {
        let fix = format!("the file is another certificate than its name says: staple the {} of this chip or cloud", kind.name());
        return distrusted("vek.subject", format!("the {} that the report names", kind.name()), vek.kind.name(), fix);
    }
    if let Some([family, model, _]) = report.cpuid {
        match Product::of_cpuid(family, model) {
            Some(product) if product == vek.product => {}
            Some(product) => {
                let fix = format!("the certificate is of another processor line: staple the {} that the vendor issued for this chip", kind.name());
                return distrusted("vek.productName", format!("{}, the report's product", product.vendor_name()), vek.product_name, fix);
            }
            None => {
                let found = format!("family {family:#x} model {model:#x}");
                return Finding::new(Reason::PlatformNotAllowed, "report.cpuid", "a processor of a known product", found).refuse();
            }
        }
    }
    Ok((certificate, vek))
}

/// What the chain above a VEK certificate came to.
struct Link<'a> {
    intermediate: X509Certificate<'a>,
    intermediate_name: &'static str,
    product: Product,
    root: SigningKey<'a>,
    origin: Origin,
    until: Timestamp,
}

/// Proves VEK, intermediate and pinned root to be one chain.
fn authorities<'a>(vek: &Vek, certificate: &X509Certificate<'_>, endorsements: &'a Endorsements, grounds: &Grounds<'a>) -> Result<Link<'a>, Denied> {
    let name = vek.kind.issuer();
    let Some(der) = endorsements.find(name) else {
        return chain::unavailable(name, format!("the {name} certificate of {}", vek.product.vendor_name()), "none stapled or configured");
    };
    no_foreign_root(endorsements, vek.product, grounds)?;
    let intermediate = chain::certificate(name, der)?;
    authority_names(name, &intermediate, vek.kind, vek.product)?;
    if certificate.issuer().as_raw() != intermediate.subject().as_raw() {
        let fix = format!("the two are not of one chain: staple {name} as the vendor serves it for {}", vek.product.vendor_name());
        return distrusted("vek.issuer", intermediate.subject(), certificate.issuer(), fix);
    }
    chain::issued_by(vek.kind.name(), certificate, &SigningKey::of_certificate(&intermediate), grounds.memo, grounds.now)?;
    let anchors: Vec<_> = grounds.anchors.of("sev-snp", vek.product.name()).collect();
    let roots = anchors.iter().map(|anchor| SigningKey::of_spki("ark", &anchor.spki)).collect::<Result<Vec<_>, _>>()?;
    let signer = chain::signer(&intermediate, &roots, grounds.memo);
    if let Some((anchor, root)) = signer.and_then(|at| anchors.into_iter().zip(roots).nth(at)) {
        chain::valid(name, intermediate.validity(), grounds.now)?;
        let until = chain::moment(intermediate.validity().not_after.timestamp());
        return Ok(Link { intermediate, intermediate_name: name, product: vek.product, root, origin: anchor.origin, until });
    }
    let fix = "whoever made this has AMD's names and not AMD's key. The simulator's evidence, in a laboratory: write \"insecure_roots\": [\"simulator\"] into \
               the policy. Anything else: this is no genuine machine";
    distrusted(name, "a signature by a root that the policy trusts", chain::UNVERIFIED, fix)
}

/// Refuses an intermediate that is not of this product's for this kind of key, or may not issue.
fn authority_names(name: &'static str, intermediate: &X509Certificate<'_>, kind: VekKind, product: Product) -> Result<(), Denied> {
    let prefix = if kind == VekKind::Vcek { "SEV-" } else { "SEV-VLEK-" };
    let subject = format!("{prefix}{}", product.vendor_name());
    if chain::common_name(intermediate.subject()) != Some(&subject) {
        return distrusted(name, format!("CN={subject}"), intermediate.subject(), other_line(name, product));
    }
    if !of_root(intermediate.issuer(), product) {
        return distrusted(name, format!("issued by CN=ARK-{}", product.vendor_name()), intermediate.issuer(), other_line(name, product));
    }
    chain::is_authority(name, intermediate)
}

fn other_line(name: &str, product: Product) -> String {
    format!("it is of another processor line or another kind of key: staple the {name} that the vendor serves for {}", product.vendor_name())
}

/// A root may come along; it must be one of ours, and is never believed for coming along.
fn no_foreign_root(endorsements: &Endorsements, product: Product, grounds: &Grounds<'_>) -> Result<(), Denied> {
    let Some(der) = endorsements.find("ark") else { return Ok(()) };
    let ark = chain::certificate("ark", der)?;
    let pinned = grounds.anchors.of("sev-snp", product.name()).any(|anchor| anchor.spki == ark.public_key().raw);
    if pinned {
        return Ok(());
    }
    let fix = "a root is never believed for coming along: leave ark out. The simulator's is trusted by a policy with \"insecure_roots\": [\"simulator\"] alone";
    distrusted("ark", format!("the pinned key of ARK-{}", product.vendor_name()), "another root key", fix)
}

fn of_root(name: &x509_parser::x509::X509Name<'_>, product: Product) -> bool {
    chain::common_name(name).and_then(|name| name.strip_prefix("ARK-")) == Some(product.vendor_name())
}

/// Until when a revocation list vouches for the chain; `None` where the policy does without one.
fn revocation(link: &Link<'_>, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<Option<Timestamp>, Denied> {
    let list = match endorsements.find("crl") {
        Some(der) => Revocations::current("crl", der, |issuer| of_root(issuer, link.product), &link.root, grounds.memo, grounds.now),
        None => chain::unavailable("crl", format!("a revocation list of ARK-{}", link.product.vendor_name()), "none stapled or configured"),
    };
    match (list, grounds.revocation) {
        (Ok(list), _) => {
            list.permit(link.intermediate_name, &link.intermediate)?;
            Ok(Some(list.until))
        }
        (Err(_), Revocation::WhenPresent) => Ok(None),
        (Err(denied), Revocation::Required) => Err(denied),
    }
}

/// Proves that the certificate was issued for the chip and the TCB of the report.
fn same_platform(report: &Report, vek: &Vek) -> Result<Tcb, Denied> {
    let reported = tcb("report.reported_tcb", report.reported_tcb, vek.product)?;
    if reported != vek.tcb {
        return Finding::new(Reason::TcbTooLow, "report.reported_tcb", format!("the certificate's {}", shown(vek.tcb)), shown(reported)).refuse();
    }
    if report.chip_key_masked() {
        let fix = "the host's firmware masks the key (MaskChipKey): its operator has to clear it, or to load a VLEK";
        return distrusted("report.mask_chip_key", "0", "1: the host masks the chip's key", fix);
    }
    let Some(hwid) = &vek.hwid else { return Ok(reported) };
    if report.chip_id == [0; 64] {
        let fix = "the host's firmware masks the chip (MaskChipId): its operator has to clear it, or to load a VLEK";
        return distrusted("report.chip_id", "the chip of the VCEK", "zero: masked by the host", fix);
    }
    let (chip, rest) = report.chip_id.split_at_checked(hwid.len()).unwrap_or_default();
    if chip != hwid.as_slice() || rest.iter().any(|octet| *octet != 0) {
        let hex = data_encoding::HEXLOWER;
        let fix = "the certificate is of another chip: the guest has moved, or the file is of another machine; staple the VCEK of this chip and TCB";
        return distrusted("report.chip_id", format!("the certificate's hwID {}", hex.encode(hwid)), hex.encode(&report.chip_id), fix);
    }
    Ok(reported)
}

const UNSIGNED: &str = "the host has no key of the vendor's for its guests (SNP_CONFIG): its operator has to provision the VCEK or load a VLEK";
const POLICY_DEFINED: u64 = (1 << 26) - 1;
const POLICY_ALWAYS_ONE: u64 = 1 << 17;
const POLICY_MIGRATE_MA: u64 = 1 << 18;
const PLATFORM_INFO_DEFINED: u64 = 0xff;
const LOWEST_VMPL: u32 = 3;

/// Refuses what firmware that keeps to the specification never signs.
fn plausible(report: &Report, vek: &Vek, reported: Tcb) -> Result<(), Denied> {
    let undefined = report.policy & !POLICY_DEFINED;
    if undefined != 0 || report.policy & POLICY_ALWAYS_ONE == 0 {
        let found = format!("{:#x}", report.policy);
        return Finding::new(Reason::ReservedBitsSet, "report.policy", "bit 17 set, bits 26 to 63 clear", found).refuse();
    }
    if report.platform_info & !PLATFORM_INFO_DEFINED != 0 {
        return Finding::new(Reason::ReservedBitsSet, "report.platform_info", "bits 8 to 63 clear", format!("{:#x}", report.platform_info)).refuse();
    }
    if report.vmpl > LOWEST_VMPL {
        return Finding::new(Reason::VmplNotAllowed, "report.vmpl", "0 to 3, a level of the guest", format!("{:#x}", report.vmpl)).refuse();
    }
    if report.policy & POLICY_MIGRATE_MA == 0 && report.report_id_ma != [0xff; 32] {
        let found = data_encoding::HEXLOWER.encode(&report.report_id_ma);
        return Finding::new(Reason::GuestPolicyViolation, "report.report_id_ma", "all ones, for no migration agent", found).refuse();
    }
    let committed = tcb("report.committed_tcb", report.committed_tcb, vek.product)?;
    let current = tcb("report.current_tcb", report.current_tcb, vek.product)?;
    tcb("report.launch_tcb", report.launch_tcb, vek.product)?;
    for (low_name, low, high_name, high) in [("reported", reported, "committed", committed), ("committed", committed, "current", current)] {
        if !high.covers(&low) {
            let expected = format!("at least the {low_name} TCB {}", shown(low));
            return Finding::new(Reason::TcbTooLow, format!("report.{high_name}_tcb"), expected, shown(high)).refuse();
        }
    }
    Ok(())
}

fn tcb(field: &'static str, raw: [u8; 8], product: Product) -> Result<Tcb, Denied> {
    Tcb::parse(raw, product).ok_or_else(|| {
        let expected = format!("zero in the octets that {}'s TCB layout reserves", product.vendor_name());
        Finding::new(Reason::ReservedBitsSet, field, expected, data_encoding::HEXLOWER.encode(&raw)).into()
    })
}

fn shown(tcb: Tcb) -> String {
    crate::evidence::ClaimValue::Map(tcb.claims()).to_string()
}

/// The vendor's path of a VCEK: by chip and TCB.
fn vcek_path(report: &Report, product: Product, tcb: Tcb) -> String {
    let length = if product == Product::Turin { 8 } else { 64 };
    path_of(report.chip_id.get(..length).unwrap_or_default(), product, tcb)
}

fn path_of(chip: &[u8], product: Product, tcb: Tcb) -> String {
    let chip = data_encoding::HEXLOWER.encode(chip);
    let Tcb { fmc, bootloader, tee, snp, microcode } = tcb;
    let fmc = fmc.map(|fmc| format!("fmcSPL={fmc:02}&")).unwrap_or_default();
    let line = product.vendor_name();
    format!("/vcek/v1/{line}/{chip}?{fmc}blSPL={bootloader:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={microcode:02}")
}
