//! The platforms: one row each. A new platform is one file in `evidence`, `verify` and `attester`, and a row here.

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
    /// How this machine produces its evidence.
    #[cfg(feature = "proxy")]
    pub provider: &'static dyn crate::attester::Provider,
}

/// Every platform of this build.
pub const PLATFORMS: &[Platform] = &[Platform {
    name: "sev-snp",
    media_type: crate::evidence::snp::MEDIA_TYPE,
    verifier: &verify::snp::Snp,
    vendor_service: "https://kdsintf.amd.com",
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
