//! What Google's cloud adds to a simulated machine's evidence: the quote of its vTPM, and the endorsement of its firmware.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PSS_SHA256, RsaKeyPair};
use rcgen::{Issuer, PublicKeyData as _};

use super::vtpm::{VtpmAuthority, VtpmForge, pair, params};
use crate::attester::{Attester, Quote, Unavailable};
use crate::evidence::launch::{self, Golden, LaunchEndorsement, Launches};
use crate::evidence::{Auxiliary, Challenge, Endorsement, Timestamp, tpm};

/// An endorsement of firmware. [`LaunchForge::new`] gives one that the default rules accept.
#[derive(Clone, Debug)]
pub struct LaunchForge {
    /// What is endorsed. Certificates that are empty are filled in when it is signed.
    pub golden: Golden,
    /// Whether the signer's key signs, or the root's, which the certificate is not of.
    pub signer: LaunchSigner,
    /// When its certificates are made.
    pub now: Timestamp,
}

/// Which key signs an endorsement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LaunchSigner {
    /// The one that the certificate is of.
    Certified,
    /// Another one of the same vendor's.
    Other,
}

/// The hardware that firmware is endorsed for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LaunchHardware {
    /// SEV-SNP.
    SevSnp,
    /// TDX.
    Tdx,
}

const ROOT: &[u8] = include_bytes!("keys/gce-cc-tcb-root.pkcs8.der");
const SIGNER: &[u8] = include_bytes!("keys/gce-uefi-signing.pkcs8.der");

impl LaunchForge {
    /// An endorsement of this measurement on this hardware, among others.
    #[must_use]
    pub fn new(hardware: LaunchHardware, measurement: [u8; 48], now: Timestamp) -> Self {
        let launches = |value| Some(Launches { svn: 2, measurements: vec![(1, [1; 48]), (2, value)] });
        let mut golden = Golden { signed_at: now.minus(86_400), cl_spec: 7, digest: vec![9; 48], ..Golden::default() };
        match hardware {
            LaunchHardware::SevSnp => golden.sev_snp = launches(measurement),
            LaunchHardware::Tdx => golden.tdx = launches(measurement),
        }
        Self { golden, signer: LaunchSigner::Certified, now }
    }

    /// The root's DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn root_spki() -> Vec<u8> {
        pair(ROOT).subject_public_key_info()
    }

    /// The root's certificate and the signer's, DER.
    #[must_use]
    pub fn certificates(&self) -> [Vec<u8>; 2] {
        const YEAR: u64 = 365 * 86_400;
        let (root_key, signer_key) = (pair(ROOT), pair(SIGNER));
        let root = params("GCE-cc-tcb-root", self.now.minus(YEAR), self.now.plus(24 * YEAR), true);
        let signer = params("GCE-uefi-signer", self.now.minus(86_400), self.now.plus(5 * YEAR), false);
        let signer = signer.signed_by(&signer_key, &Issuer::from_params(&root, &root_key));
        [root.self_signed(&root_key), signer].map(|certificate| certificate.expect("the parameters are sound").der().to_vec())
    }

    /// The endorsement, signed and encoded.
    #[must_use]
    pub fn sign(&self) -> Vec<u8> {
        let [root, signer] = self.certificates();
        let mut golden = self.golden.clone();
        if golden.certificate.is_empty() {
            golden.certificate = signer;
        }
        if golden.ca_bundle.is_empty() {
            golden.ca_bundle = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", data_encoding::BASE64.encode(&root)).into_bytes();
        }
        let key = match self.signer {
            LaunchSigner::Certified => SIGNER,
            LaunchSigner::Other => ROOT,
        };
        let key = RsaKeyPair::from_pkcs8(key).expect("the compiled-in keys can be read");
        let signed = golden.encode();
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PSS_SHA256, &SystemRandom::new(), &signed, &mut signature).expect("the compiled-in keys can sign");
        LaunchEndorsement::encode(&signed, &signature)
    }

    /// The same as it is stapled.
    #[must_use]
    pub fn endorsement(&self) -> Endorsement {
        Endorsement { name: launch::NAME.to_owned(), media_type: launch::MEDIA_TYPE.to_owned(), bytes: self.sign() }
    }
}

/// A simulated machine in Google's cloud: another machine's evidence with what the cloud adds.
pub(super) struct GoogleMachine {
    inner: Box<dyn Attester>,
    vtpm: VtpmForge,
    endorsement: Endorsement,
}

impl GoogleMachine {
    /// The machine of this seed around `inner`, whose firmware has this measurement.
    pub(super) fn new(inner: Box<dyn Attester>, seed: u64, launch: &LaunchForge) -> Self {
        let mut vtpm = VtpmForge::new(seed);
        vtpm.extras.certificates = VtpmAuthority::Google.certify(vtpm.key, &format!("simulated-{seed}"), launch.now);
        Self { inner, vtpm, endorsement: launch.endorsement() }
    }
}

impl Attester for GoogleMachine {
    fn platform(&self) -> &'static str {
        self.inner.platform()
    }

    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        let mut quote = self.inner.attest(challenge)?;
        let bytes = self.vtpm.quote(&challenge.short);
        quote.evidence.auxiliary.push(Auxiliary { label: "vtpm".to_owned(), media_type: tpm::MEDIA_TYPE.to_owned(), bytes });
        quote.endorsements.push(self.endorsement.clone());
        Ok(quote)
    }

    fn listed(&self) -> Result<Vec<Auxiliary>, Unavailable> {
        self.inner.listed()
    }
}

/// The part of a product's name that says that the machine is in Google's cloud.
pub(super) const SUFFIX: &str = "-google";
