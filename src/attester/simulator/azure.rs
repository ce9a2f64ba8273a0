//! Simulated Azure VMs: an HCL report over simulated hardware, and a simulated vTPM whose key it vouches for.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE, HEXUPPER};
use serde_json::{Value, json};

use super::intel_forge::IntelForge;
use super::steady::steady;
use super::vtpm::{VtpmAuthority, VtpmForge};
use super::{Forge, Simulated, Simulation, impossible};
use crate::attester::{Attester, Quote, Unavailable};
use crate::crypto::sha256;
use crate::evidence::hcl::{HclReport, Kind, MEDIA_TYPE, TD_QUOTE, TDREPORT_SIZE};
use crate::evidence::snp::{Product, REPORT_SIZE};
use crate::evidence::{Auxiliary, Challenge, Endorsements, Evidence, ReportData, Timestamp, intel, tpm};

/// Hardware that a paravisor can be on.
pub trait AzureHardware {
    /// What its report is called.
    const KIND: Kind;

    /// The hardware report's area, over this report data.
    fn area(&self, report_data: &ReportData) -> [u8; REPORT_SIZE];

    /// What lies beside the HCL report.
    fn beside(&self, report_data: &ReportData) -> Option<Auxiliary>;

    /// What is stapled.
    fn endorsed(&self) -> Endorsements;
}

impl AzureHardware for Forge {
    const KIND: Kind = Kind::Snp;

    fn area(&self, report_data: &ReportData) -> [u8; REPORT_SIZE] {
        let mut area = [0; REPORT_SIZE];
        area.copy_from_slice(&self.report_over(report_data));
        area
    }

    fn beside(&self, _: &ReportData) -> Option<Auxiliary> {
        None
    }

    fn endorsed(&self) -> Endorsements {
        self.endorsements()
    }
}

impl AzureHardware for IntelForge {
    const KIND: Kind = Kind::Tdx;

    /// A TDREPORT with a MAC of zeros, which only the machine itself could check.
    fn area(&self, report_data: &ReportData) -> [u8; REPORT_SIZE] {
        let mut area = [0; REPORT_SIZE];
        area[0] = 0x81;
        area[128..192].copy_from_slice(&report_data.0);
        debug_assert!(area[TDREPORT_SIZE..].iter().all(|octet| *octet == 0));
        area
    }

    fn beside(&self, report_data: &ReportData) -> Option<Auxiliary> {
        Some(Auxiliary { label: TD_QUOTE.to_owned(), media_type: intel::MEDIA_TYPE.to_owned(), bytes: self.sign(report_data) })
    }

    fn endorsed(&self) -> Endorsements {
        self.endorsements()
    }
}

/// Everything that goes into the evidence of an Azure VM. [`AzureForge::new`] and [`AzureForge::tdx`] give one that the
/// default rules accept.
#[derive(Clone, Debug)]
pub struct AzureForge<H = Forge> {
    /// The hardware. Its report data is that of the claims.
    pub hardware: H,
    /// The runtime claims; `HCLAkPub` is put into them.
    pub claims: Value,
    /// The modulus of the key that the claims name, where it is not the vTPM's.
    pub claimed_key: Option<Vec<u8>>,
    /// What the hardware's report data is the digest of, where it is not the claims.
    pub vouched: Option<Vec<u8>>,
    /// The vTPM.
    pub vtpm: VtpmForge,
}

impl AzureForge {
    /// The VM of this seed on SEV-SNP hardware of `product`, at `now`.
    #[must_use]
    pub fn new(product: Product, seed: u64, now: Timestamp) -> Self {
        Self::on(Forge::new(product, seed, now), seed, now)
    }
}

impl AzureForge<IntelForge> {
    /// The VM of this seed on TDX 1.0 hardware, which is what Azure's quotes are of, at `now`.
    #[must_use]
    pub fn tdx(seed: u64, now: Timestamp) -> Self {
        let mut hardware = IntelForge::tdx10(seed, now);
        // The firmware's log is the vTPM's.
        hardware.log = None;
        Self::on(hardware, seed, now)
    }
}

impl<H: AzureHardware> AzureForge<H> {
    fn on(hardware: H, seed: u64, now: Timestamp) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = sha256(&[b"portcullis simulator: VM", &seed.to_be_bytes()]);
        let id = [&[a, b, c, d][..], &[e, f], &[g, h], &rest[..2], &rest[2..8]].map(|part| HEXUPPER.encode(part)).join("-");
        let claims = json!({
            "keys": [],
            "vm-configuration": { "console-enabled": true, "secure-boot": true, "tpm-enabled": true, "tpm-persisted": true, "vmUniqueId": id },
            "user-data": "00".repeat(64),
        });
        let mut vtpm = VtpmForge::new(seed);
        vtpm.extras.certificates = VtpmAuthority::Azure.certify(vtpm.key, "simulator.ConfidentialVM.Azure.invalid", now);
        Self { hardware, claims, claimed_key: None, vouched: None, vtpm }
    }

    fn runtime_claims(&self) -> Vec<u8> {
        let mut claims = self.claims.clone();
        let modulus = self.claimed_key.clone().unwrap_or_else(|| self.vtpm.key.modulus());
        claims["keys"] = json!([{ "kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": BASE64URL_NOPAD.encode(&modulus) }]);
        claims.to_string().into_bytes()
    }

    fn report_data(&self) -> ReportData {
        let vouched = self.vouched.clone().unwrap_or_else(|| self.runtime_claims());
        let mut report_data = [0; 64];
        report_data[..32].copy_from_slice(&sha256(&[&vouched]));
        ReportData(report_data)
    }

    /// The HCL report.
    #[must_use]
    pub fn report(&self) -> HclReport {
        HclReport { version: 2, hardware: self.hardware.area(&self.report_data()), kind: H::KIND, claims: self.runtime_claims(), padding: 0 }
    }

    /// What lies beside the HCL report and is listed in binding claims.
    #[must_use]
    pub fn listed(&self) -> Vec<Auxiliary> {
        self.hardware.beside(&self.report_data()).into_iter().collect()
    }

    /// Evidence whose quote carries `extra_data`, without what is listed.
    #[must_use]
    pub fn quote(&self, extra_data: &[u8]) -> Quote {
        let bytes = self.report().encode();
        Quote { evidence: self.evidence(bytes, extra_data), endorsements: self.hardware.endorsed() }
    }

    fn evidence(&self, report: Vec<u8>, extra_data: &[u8]) -> Evidence {
        let mut evidence = Evidence::new(MEDIA_TYPE, report);
        evidence.auxiliary.push(Auxiliary { label: "vtpm".to_owned(), media_type: tpm::MEDIA_TYPE.to_owned(), bytes: self.vtpm.quote(extra_data) });
        evidence
    }
}

/// The simulator of Azure VMs on SEV-SNP.
#[derive(Debug)]
pub struct SimulatedAzureSnp;

/// The simulator of Azure VMs on TDX.
#[derive(Debug)]
pub struct SimulatedAzureTdx;

/// The claims of the paravisor and its vTPM that can be set, beside the hardware's.
macro_rules! settable {
    ($($hardware:literal),*) => { &[$($hardware,)* "pcr0 to pcr23", "secure_boot", "tpm_enabled", "vm_unique_id"] };
}

impl Simulated for SimulatedAzureSnp {
    fn products(&self) -> &'static [&'static str] {
        &["genoa", "milan", "turin"]
    }

    fn settable(&self) -> &'static [&'static str] {
        settable!("measurement")
    }

    fn roots(&self) -> Vec<(String, Vec<u8>)> {
        vec![("azure-virtual-tpm-2023".to_owned(), VtpmAuthority::Azure.root_spki())]
    }

    fn attester(&self, simulation: &Simulation) -> Result<Box<dyn Attester>, Unavailable> {
        let name = simulation.product.as_deref().unwrap_or("genoa");
        let product = Product::ALL.into_iter().find(|product| product.name() == name).ok_or_else(|| impossible(format!("unknown product {name}")))?;
        let forge = AzureForge::new(product, simulation.seed, simulation.now);
        machine("azure-snp", forge, simulation, |hardware, claim, value| {
            let octets = HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok().and_then(|octets| octets.try_into().ok());
            match (claim, octets) {
                ("measurement", Some(measurement)) => hardware.report.measurement = measurement,
                ("measurement", None) => return Err(format!("measurement: expected 96 hex digits, found \"{value}\"")),
                _ => return Err(format!("unknown claim {claim}")),
            }
            Ok(())
        })
    }
}

impl Simulated for SimulatedAzureTdx {
    fn products(&self) -> &'static [&'static str] {
        &["tdx1.0"]
    }

    fn settable(&self) -> &'static [&'static str] {
        settable!("mrtd")
    }

    /// None of its own: the hardware's and the other kind's are enough.
    fn roots(&self) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }

    fn attester(&self, simulation: &Simulation) -> Result<Box<dyn Attester>, Unavailable> {
        match simulation.product.as_deref() {
            None | Some("tdx1.0") => machine("azure-tdx", AzureForge::tdx(simulation.seed, simulation.now), simulation, IntelForge::set),
            Some(other) => Err(impossible(format!("unknown product {other}"))),
        }
    }
}

fn machine<H: AzureHardware + Send + Sync + 'static>(
    platform: &'static str,
    mut forge: AzureForge<H>,
    simulation: &Simulation,
    of_hardware: impl Fn(&mut H, &str, &str) -> Result<(), String>,
) -> Result<Box<dyn Attester>, Unavailable> {
    for (claim, value) in &simulation.set {
        if !set(&mut forge, claim, value)? {
            of_hardware(&mut forge.hardware, claim, value).map_err(impossible)?;
        }
    }
    // The report is made once, as a paravisor does, and a quote each time.
    let (report, listed, endorsements) = (forge.report().encode(), forge.listed(), forge.hardware.endorsed());
    let quote = move |challenge: &Challenge| Quote { evidence: forge.evidence(report.clone(), &challenge.short), endorsements: endorsements.clone() };
    Ok(steady(platform, simulation.quote_delay, listed, quote))
}

/// Sets a claim of the paravisor or its vTPM; `false` where it is none.
fn set<H>(forge: &mut AzureForge<H>, claim: &str, value: &str) -> Result<bool, Unavailable> {
    let pcr = claim.strip_prefix("pcr").and_then(|index| index.parse::<u8>().ok()).filter(|index| *index < tpm::PCR_COUNT);
    let wrong = || impossible(format!("{claim}: no value of its kind: \"{value}\""));
    let vm = &mut forge.claims["vm-configuration"];
    match (claim, pcr) {
        ("secure_boot", _) => vm["secure-boot"] = value.parse::<bool>().map_err(|_| wrong())?.into(),
        ("tpm_enabled", _) => vm["tpm-enabled"] = value.parse::<bool>().map_err(|_| wrong())?.into(),
        ("vm_unique_id", _) => vm["vmUniqueId"] = value.into(),
        (_, Some(index)) => {
            let octets = HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok();
            forge.vtpm.pcrs.values.insert(index, octets.filter(|octets| octets.len() == 32).ok_or_else(wrong)?);
        }
        _ => return Ok(false),
    }
    Ok(true)
}
