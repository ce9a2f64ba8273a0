//! The platforms: one row each. A new platform is one file in `evidence`, `verify` and `attester`, and a row here.

use crate::evidence::{EndorsementId, Evidence, cca, hcl, intel, keystone, nitro, psa, saved::Saved, snp};
use crate::policy::{AppraisalPolicy, Roots, Vocabulary};
use crate::refusal::{Denied, Finding, Reason};
pub use crate::verify::auxiliary::AUXILIARY;
use crate::verify::{self, Anchor, Origin, TrustAnchors, Verifier};

/// One TEE platform.
pub struct Platform {
    /// Its name in configuration, policies and logs.
    pub name: &'static str,
    /// The media type of its raw evidence. Platforms may share one: see [`of_evidence`].
    pub media_type: &'static str,
    /// Its stage 1.
    pub verifier: &'static dyn Verifier,
    /// The vendor's roots.
    pub anchors: fn() -> Vec<Anchor>,
    /// The address of the vendor's endorsement service, without a trailing slash; empty where the vendor has none.
    pub vendor_service: &'static str,
    /// How its pieces are recognised in files.
    pub saved: Saved,
    /// How this machine produces its evidence.
    #[cfg(feature = "proxy")]
    pub provider: &'static dyn crate::attester::Provider,
    /// Its simulator.
    #[cfg(feature = "simulator")]
    pub simulated: &'static dyn crate::attester::simulator::Simulated,
}

impl Platform {
    /// What a verdict about this evidence needs, each by its short name with the address at which the vendor serves it.
    #[must_use]
    pub fn served(&self, evidence: &Evidence) -> Vec<(&'static str, String)> {
        let needs = if self.vendor_service.is_empty() { Vec::new() } else { self.verifier.needs(evidence).unwrap_or_default() };
        let served = |id: EndorsementId| {
            let (service, path) = id.place(self.vendor_service);
            (id.name, format!("{service}{path}"))
        };
        needs.into_iter().map(served).collect()
    }

    /// The refusal; where an endorsement is missing or out of date, with the vendor's address of it.
    #[must_use]
    pub fn advised(&self, evidence: &Evidence, denied: Denied) -> Denied {
        let missing = |finding: &Finding| finding.reason == Reason::CollateralUnavailable && finding.fix.is_empty();
        if !denied.findings().any(missing) {
            return denied;
        }
        let served = self.served(evidence);
        let advised = denied.findings().cloned().map(|finding| {
            let these: Vec<&str> = served.iter().filter(|(name, _)| *name == finding.field).map(|(_, address)| address.as_str()).collect();
            if !missing(&finding) || these.is_empty() {
                return finding;
            }
            finding.fix(format!(
                "staple it on the attesting side (in the folder of identity.endorsements), or give it beside the evidence; the vendor serves it at {}",
                these.join(", ")
            ))
        });
        Denied::from_findings(advised.collect()).unwrap_or(denied)
    }
}

/// Every platform of this build.
pub const PLATFORMS: &[Platform] = &[SEV_SNP, AZURE_SNP, AZURE_TDX, INTEL_SGX, INTEL_TDX, KEYSTONE, NITRO, NITROTPM, CCA, PSA];

const SEV_SNP: Platform = Platform {
    name: "sev-snp",
    media_type: snp::MEDIA_TYPE,
    verifier: &verify::snp::Snp,
    anchors: verify::snp::anchors,
    vendor_service: "https://kdsintf.amd.com",
    saved: snp::saved::SAVED,
    #[cfg(feature = "proxy")]
    provider: &crate::attester::snp::Snp { privlevel: None },
    #[cfg(feature = "simulator")]
    simulated: &crate::attester::simulator::SimulatedSnp,
};

const AZURE_SNP: Platform = Platform {
    name: "azure-snp",
    media_type: hcl::MEDIA_TYPE,
    verifier: &verify::azure::SNP,
    anchors: verify::azure::anchors,
    vendor_service: "https://kdsintf.amd.com",
    saved: hcl::saved::SNP,
    #[cfg(feature = "proxy")]
    provider: &crate::attester::azure::SNP,
    #[cfg(feature = "simulator")]
    simulated: &crate::attester::simulator::SimulatedAzureSnp,
};

const INTEL_SGX: Platform = Platform {
    name: "intel-sgx",
    media_type: intel::MEDIA_TYPE,
    verifier: &verify::sgx::SGX,
    anchors: verify::sgx::anchors,
    vendor_service: "https://api.trustedservices.intel.com",
    saved: intel::saved::SGX,
    #[cfg(feature = "proxy")]
    provider: &crate::attester::sgx::Sgx,
    #[cfg(feature = "simulator")]
    simulated: &crate::attester::simulator::intel::SimulatedSgx,
};

const AZURE_TDX: Platform = Platform {
    name: "azure-tdx",
    media_type: hcl::MEDIA_TYPE,
    verifier: &verify::azure::TDX,
    anchors: Vec::new,
    vendor_service: "https://api.trustedservices.intel.com",
    saved: hcl::saved::TDX,
    #[cfg(feature = "proxy")]
    provider: &crate::attester::azure::TDX,
    #[cfg(feature = "simulator")]
    simulated: &crate::attester::simulator::SimulatedAzureTdx,
};

const INTEL_TDX: Platform = Platform {
    name: "intel-tdx",
    media_type: intel::MEDIA_TYPE,
    verifier: &verify::tdx::Tdx,
    anchors: verify::tdx::anchors,
    vendor_service: "https://api.trustedservices.intel.com",
    saved: intel::saved::TDX,
    #[cfg(feature = "proxy")]
    provider: &crate::attester::tdx::Tdx,
    #[cfg(feature = "simulator")]
    simulated: &crate::attester::simulator::intel::SimulatedTdx,
};

const KEYSTONE: Platform = Platform {
    name: "keystone",
    media_type: keystone::MEDIA_TYPE,
    verifier: &verify::keystone::Keystone,
    anchors: verify::keystone::anchors,
    vendor_service: "",
    saved: keystone::SAVED,
    #[cfg(feature = "proxy")]
    provider: &crate::attester::keystone::Keystone,
    #[cfg(feature = "simulator")]
    simulated: &crate::attester::simulator::SimulatedKeystone,
};

const NITRO: Platform = Platform {
    name: "nitro",
    media_type: nitro::MEDIA_TYPE,
    verifier: &verify::nitro::ENCLAVE,
    anchors: verify::nitro::enclave_anchors,
    vendor_service: "",
    saved: nitro::saved::ENCLAVE,
    #[cfg(feature = "proxy")]
    provider: &crate::attester::nitro::Enclave,
    #[cfg(feature = "simulator")]
    simulated: &crate::attester::simulator::nitro::SimulatedNitro(nitro::Kind::Enclave),
};

const NITROTPM: Platform = Platform {
    name: "nitrotpm",
    media_type: nitro::TPM_MEDIA_TYPE,
    verifier: &verify::nitro::TPM,
    anchors: verify::nitro::tpm_anchors,
    vendor_service: "",
    saved: nitro::saved::TPM,
    #[cfg(feature = "proxy")]
    provider: &crate::attester::nitro::Tpm,
    #[cfg(feature = "simulator")]
    simulated: &crate::attester::simulator::nitro::SimulatedNitro(nitro::Kind::Tpm),
};

const CCA: Platform = Platform {
    name: "cca",
    media_type: cca::MEDIA_TYPE,
    verifier: &verify::cca::Cca,
    anchors: Vec::new,
    vendor_service: "",
    saved: cca::SAVED,
    #[cfg(feature = "proxy")]
    provider: &crate::attester::cca::Cca,
    #[cfg(feature = "simulator")]
    simulated: &crate::attester::simulator::cca::SimulatedCca,
};

const PSA: Platform = Platform {
    name: "psa",
    media_type: psa::MEDIA_TYPE,
    verifier: &verify::psa::Psa,
    anchors: Vec::new,
    vendor_service: "",
    saved: psa::SAVED,
    #[cfg(feature = "proxy")]
    provider: &crate::attester::psa::Psa,
    #[cfg(feature = "simulator")]
    simulated: &crate::attester::simulator::psa::SimulatedPsa,
};

/// The platform that this evidence is of: by its media type, and by its content where platforms share one.
#[must_use]
pub fn of_evidence(evidence: &Evidence) -> Option<&'static Platform> {
    let mut rows = PLATFORMS.iter().filter(|platform| platform.media_type == evidence.media_type);
    match (rows.clone().count(), rows.next()) {
        (2.., _) => PLATFORMS.iter().find(|platform| platform.media_type == evidence.media_type && (platform.saved.is_evidence)(&evidence.bytes)),
        (_, only) => only,
    }
}

/// The platform of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Platform> {
    PLATFORMS.iter().find(|platform| platform.name == name)
}

/// The policy words of every platform.
#[must_use]
pub fn vocabularies() -> Vec<&'static Vocabulary> {
    PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect()
}

/// The names of the ways to evidence, as configuration writes them (`identity.provider`).
#[cfg(feature = "proxy")]
#[must_use]
pub fn providers() -> Vec<&'static str> {
    let mut names: Vec<_> = PLATFORMS.iter().flat_map(|platform| platform.provider.names()).copied().collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The roots that a policy trusts: the vendors', the operator's, and the simulator's where it names them.
#[must_use]
pub fn anchors(policy: &AppraisalPolicy) -> TrustAnchors {
    let vendors = PLATFORMS.iter().flat_map(|platform| (platform.anchors)()).chain(AUXILIARY.iter().flat_map(|kind| (kind.anchors)()));
    let simulated = match policy.roots {
        Roots::Vendor => Vec::new(),
        Roots::VendorAndSimulator => simulated_anchors(),
    };
    let operators = policy.keys.iter().map(|key| Anchor { platform: key.tee, name: key.name.clone(), spki: key.spki.clone(), origin: Origin::Operator });
    vendors.chain(simulated).chain(operators).collect()
}

/// The simulators of devices beside a TEE, by the name of their row in [`AUXILIARY`], each with its published roots.
#[cfg(feature = "simulator")]
type SimulatedDevices = (&'static str, fn() -> Vec<(String, Vec<u8>)>);
#[cfg(feature = "simulator")]
const SIMULATED_DEVICES: &[SimulatedDevices] = &[(verify::gpu::NAME, crate::attester::simulator::gpu::roots)];

/// The simulators' published roots; none in a build without them.
fn simulated_anchors() -> Vec<Anchor> {
    #[cfg(feature = "simulator")]
    let anchors = PLATFORMS.iter().flat_map(|platform| {
        let anchor = |(name, spki)| Anchor { platform: platform.name, name, spki, origin: Origin::Simulator };
        platform.simulated.roots().into_iter().map(anchor)
    });
    #[cfg(feature = "simulator")]
    let anchors = anchors.chain(SIMULATED_DEVICES.iter().flat_map(|(platform, roots)| {
        let anchor = |(name, spki)| Anchor { platform, name, spki, origin: Origin::Simulator };
        roots().into_iter().map(anchor)
    }));
    #[cfg(not(feature = "simulator"))]
    let anchors = [].into_iter();
    anchors.collect()
}
