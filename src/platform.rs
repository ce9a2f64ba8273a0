//! The platforms: one row each. A new platform is one file in `evidence`, `verify` and `attester`, and a row here.

use crate::evidence::snp;
use crate::verify::{self, Verifier};

/// One TEE platform.
pub struct Platform {
    /// Its name in configuration, policies and logs.
    pub name: &'static str,
    /// The media type of its raw evidence.
    pub media_type: &'static str,
    /// Its stage 1.
    pub verifier: &'static dyn Verifier,
    /// The address of the vendor's endorsement service, without a trailing slash.
    pub vendor_service: &'static str,
    /// How its pieces are recognised in files.
    pub saved: Saved,
    /// How this machine produces its evidence.
    #[cfg(feature = "proxy")]
    pub provider: &'static dyn crate::attester::Provider,
}

/// How a platform's pieces are recognised in files.
pub struct Saved {
    /// The name of the file with its raw evidence in a folder of pieces.
    pub evidence: &'static str,
    /// The short names of its endorsements, which are also their files' without the ending.
    pub endorsements: &'static [&'static str],
    /// Whether these octets may be its raw evidence.
    pub is_evidence: fn(&[u8]) -> bool,
    /// The short name of the endorsement that this DER may be.
    pub endorsement: fn(&[u8]) -> Option<&'static str>,
}

/// Every platform of this build.
pub const PLATFORMS: &[Platform] = &[Platform {
    name: "sev-snp",
    media_type: snp::MEDIA_TYPE,
    verifier: &verify::snp::Snp,
    vendor_service: "https://kdsintf.amd.com",
    saved: Saved {
        evidence: snp::saved::REPORT_FILE,
        endorsements: snp::saved::ENDORSEMENTS,
        is_evidence: snp::saved::is_report,
        endorsement: snp::saved::endorsement_name,
    },
    #[cfg(feature = "proxy")]
    provider: &crate::attester::snp::Snp,
}];

/// The platform whose evidence has this media type.
#[must_use]
pub fn by_media_type(media_type: &str) -> Option<&'static Platform> {
    PLATFORMS.iter().find(|platform| platform.media_type == media_type)
}

/// The platform of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Platform> {
    PLATFORMS.iter().find(|platform| platform.name == name)
}

/// The policy words of every platform.
#[must_use]
pub fn vocabularies() -> Vec<&'static crate::policy::Vocabulary> {
    PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect()
}

/// The simulator's published roots, for a policy that names them (`insecure_roots`); empty in a build without it.
#[must_use]
pub fn simulated_anchors() -> Vec<verify::roots::Anchor> {
    #[cfg(feature = "simulator")]
    let anchors = crate::attester::simulator::roots().map(|(product, spki)| verify::roots::Anchor {
        platform: "sev-snp",
        product: product.name(),
        spki,
        origin: verify::roots::Origin::Simulator,
    });
    #[cfg(not(feature = "simulator"))]
    let anchors = [];
    anchors.into()
}
