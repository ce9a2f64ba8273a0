//! Simulated Azure VMs: an HCL report over simulated hardware, and a simulated vTPM whose key it vouches for.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE, HEXUPPER};
use serde_json::{Value, json};

use super::vtpm::{VtpmAuthority, VtpmForge};
use super::{Forge, Simulated, Simulation, impossible};
use crate::attester::{Attester, Quote, Unavailable};
use crate::crypto::sha256;
use crate::evidence::hcl::{HclReport, Kind, MEDIA_TYPE};
use crate::evidence::snp::{Product, REPORT_SIZE};
use crate::evidence::{Auxiliary, Challenge, Endorsements, Evidence, ReportData, Timestamp, tpm};

/// Everything that goes into the evidence of an Azure VM on SEV-SNP. [`AzureForge::new`] gives one that the default rules
/// accept.
#[derive(Clone, Debug)]
pub struct AzureForge {
    /// The hardware. Its report data is that of the claims.
    pub hardware: Forge,
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
    /// The VM of this seed on hardware of `product`, at `now`.
    #[must_use]
    pub fn new(product: Product, seed: u64, now: Timestamp) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = sha256(&[b"portcullis simulator: VM", &seed.to_be_bytes()]);
        let id = [&[a, b, c, d][..], &[e, f], &[g, h], &rest[..2], &rest[2..8]].map(|part| HEXUPPER.encode(part)).join("-");
        let claims = json!({
            "keys": [],
            "vm-configuration": { "console-enabled": true, "secure-boot": true, "tpm-enabled": true, "tpm-persisted": true, "vmUniqueId": id },
            "user-data": "00".repeat(64),
        });
        let mut vtpm = VtpmForge::new(seed);
        vtpm.extras.certificates = VtpmAuthority::Azure.certify(vtpm.key, "simulator.ConfidentialVM.Azure.invalid", now);
        Self { hardware: Forge::new(product, seed, now), claims, claimed_key: None, vouched: None, vtpm }
    }

    /// The HCL report.
    #[must_use]
    pub fn report(&self) -> HclReport {
        let mut claims = self.claims.clone();
        let modulus = self.claimed_key.clone().unwrap_or_else(|| self.vtpm.key.modulus());
        claims["keys"] = json!([{ "kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": BASE64URL_NOPAD.encode(&modulus) }]);
        let claims = claims.to_string().into_bytes();
        let vouched = self.vouched.as_deref().unwrap_or(&claims);
        let mut report_data = [0; 64];
        report_data[..32].copy_from_slice(&sha256(&[vouched]));
        let mut hardware = [0; REPORT_SIZE];
        hardware.copy_from_slice(&self.hardware.report_over(&ReportData(report_data)));
        HclReport { version: 2, hardware, kind: Kind::Snp, claims, padding: 0 }
    }

    /// Evidence whose quote carries `extra_data`.
    #[must_use]
    pub fn quote(&self, extra_data: &[u8]) -> Quote {
        let bytes = self.report().encode();
        Quote { evidence: self.evidence(bytes, extra_data), endorsements: self.hardware.endorsements() }
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

impl Simulated for SimulatedAzureSnp {
    fn products(&self) -> &'static [&'static str] {
        &["genoa", "milan", "turin"]
    }

    fn settable(&self) -> &'static [&'static str] {
        &["measurement", "pcr0 to pcr23", "secure_boot", "tpm_enabled", "vm_unique_id"]
    }

    fn roots(&self) -> Vec<(String, Vec<u8>)> {
        vec![("azure-virtual-tpm-2023".to_owned(), VtpmAuthority::Azure.root_spki())]
    }

    fn attester(&self, simulation: &Simulation) -> Result<Box<dyn Attester>, Unavailable> {
        let name = simulation.product.as_deref().unwrap_or("genoa");
        let product = Product::ALL.into_iter().find(|product| product.name() == name).ok_or_else(|| impossible(format!("unknown product {name}")))?;
        let mut forge = AzureForge::new(product, simulation.seed, simulation.now);
        for (claim, value) in &simulation.set {
            forge = set(forge, claim, value)?;
        }
        Ok(Box::new(SimulatedAzure::new(forge, simulation.quote_delay)))
    }
}

fn set(mut forge: AzureForge, claim: &str, value: &str) -> Result<AzureForge, Unavailable> {
    let octets = || HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok();
    let pcr = claim.strip_prefix("pcr").and_then(|index| index.parse::<u8>().ok()).filter(|index| *index < tpm::PCR_COUNT);
    let wrong = || impossible(format!("{claim}: no value of its kind: \"{value}\""));
    match (claim, pcr) {
        ("measurement", _) => {
            let measurement = octets().and_then(|octets| octets.try_into().ok()).ok_or_else(wrong)?;
            forge.hardware = forge.hardware.measurement(measurement);
        }
        ("secure_boot", _) => forge.claims["vm-configuration"]["secure-boot"] = value.parse::<bool>().map_err(|_| wrong())?.into(),
        ("tpm_enabled", _) => forge.claims["vm-configuration"]["tpm-enabled"] = value.parse::<bool>().map_err(|_| wrong())?.into(),
        ("vm_unique_id", _) => forge.claims["vm-configuration"]["vmUniqueId"] = value.into(),
        (_, Some(index)) => {
            let value = octets().filter(|octets| octets.len() == 32).ok_or_else(wrong)?;
            forge.vtpm.pcrs.values.insert(index, value);
        }
        _ => return Err(impossible(format!("unknown claim {claim}"))),
    }
    Ok(forge)
}

/// Makes evidence of one [`AzureForge`]: the report once, as a paravisor does, and a quote each time.
#[derive(Debug)]
struct SimulatedAzure {
    forge: AzureForge,
    report: Vec<u8>,
    endorsements: Endorsements,
    quote_delay: Duration,
    hardware: Mutex<()>,
}

impl SimulatedAzure {
    fn new(forge: AzureForge, quote_delay: Duration) -> Self {
        Self { report: forge.report().encode(), endorsements: forge.hardware.endorsements(), forge, quote_delay, hardware: Mutex::default() }
    }
}

impl Attester for SimulatedAzure {
    fn platform(&self) -> &'static str {
        "azure-snp"
    }

    fn provider(&self) -> &'static str {
        "simulator"
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let _one_at_a_time = self.hardware.lock().unwrap_or_else(PoisonError::into_inner);
        std::thread::sleep(self.quote_delay);
        Ok(Quote { evidence: self.forge.evidence(self.report.clone(), &challenge.short), endorsements: self.endorsements.clone() })
    }
}
